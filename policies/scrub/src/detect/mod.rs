//! Finds personal data and secrets in a text, in one pass over what may be some.
//!
//! Most of a text can hold nothing: no digit, no at sign, none of a few words. Those are looked for at memory speed, and
//! only around them is anything examined. Every candidate is bounded in length and every byte belongs to at most a few,
//! so the time is linear in the text, whatever it holds.

mod checksum;
mod china;
mod context;
mod date;
mod national;
mod network;
mod number;
mod person;
mod phone;
mod scan;
mod secret;
mod table;
mod word;

pub(crate) use network::is_wide;

use crate::fold::Folded;
use crate::kind::Kind;
use crate::rules::Rules;
use aho_corasick::{AhoCorasick, AhoCorasickKind, Match, packed};
use std::ops::Range;
use std::sync::LazyLock;

/// A piece of personal data, or a secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub kind: Kind,
    /// Bytes of the searched text.
    pub range: Range<usize>,
    /// How sure it is, from 0 to 1.
    pub score: f32,
}

/// A finding in folded text, before the best are chosen.
struct Found {
    kind: Kind,
    range: Range<usize>,
    score: f32,
}

/// What a word that was found leads to.
#[derive(Clone, Copy)]
enum Lead {
    Pem,
    Url,
    Assigned,
    Prefix,
    Introduced(Kind),
}

struct Leads {
    /// Words of three bytes, and longer ones: vector instructions tell words apart by their first four bytes, or by as
    /// many as all of them have. Looked for together, thirty words took five times as long.
    parts: [Option<Part>; 2],
}

struct Part {
    /// Vector instructions look for all words at once, where the processor has them.
    packed: Option<packed::Searcher>,
    automaton: AhoCorasick,
    leads: Vec<Lead>,
}

/// What every search looks for.
static LEADS: LazyLock<Leads> = LazyLock::new(|| {
    let first = [("-----BEGIN ", Lead::Pem), ("://", Lead::Url), (secret::DIGITLESS, Lead::Prefix)];
    Leads::of(first.into_iter().chain(secret::STEMS.map(|stem| (stem, Lead::Assigned))).collect())
});

/// What a text that is not ASCII alone may hold beside that.
static WIDE_LEADS: LazyLock<Leads> =
    LazyLock::new(|| Leads::of(secret::WIDE_STEMS.map(|stem| (stem, Lead::Assigned)).to_vec()));

/// The words that introduce names and addresses, for those who ask for them.
static INTRODUCTIONS: LazyLock<Leads> = LazyLock::new(|| {
    Leads::of(person::INTRODUCTIONS.iter().map(|(word, kind)| (*word, Lead::Introduced(*kind))).collect())
});

/// Parts of the words that speak of plates.
static PLATES: LazyLock<Leads> = LazyLock::new(|| {
    const WORDS: [&str; 17] = [
        "plate",
        "Plate",
        "PLATE",
        "egistration",
        "EGISTRATION",
        "ennzeichen",
        "ENNZEICHEN",
        "mmatricul",
        "atrícula",
        "targa",
        "Targa",
        "enteken",
        "车牌",
        "号牌",
        "車牌",
        "車號",
        "ナンバー",
    ];
    Leads::of(WORDS.map(|word| (word, Lead::Prefix)).to_vec())
});

/// Whether a word near `word` may speak of plates.
fn speaks_of_plates(text: &str, word: &Range<usize>) -> bool {
    let from = text.ceil_char_boundary(word.start.saturating_sub(context::WINDOW));
    let text = &text[from..text.ceil_char_boundary(word.end + context::WINDOW)];
    PLATES.parts.iter().flatten().any(|part| part.is_in(text))
}

impl Leads {
    fn of(words: Vec<(&str, Lead)>) -> Leads {
        let (short, long) = words.into_iter().partition(|(word, _)| word.len() < 4);
        Leads { parts: [Part::of(short), Part::of(long)] }
    }

    /// Every word of `text` that begins before `end`, in order.
    fn all(&self, text: &str, end: usize) -> Vec<(Range<usize>, Lead)> {
        let mut all = Vec::new();
        for part in self.parts.iter().flatten() {
            part.each(text, |word| {
                if word.start() < end {
                    all.push((word.start()..word.end(), part.leads[word.pattern().as_usize()]));
                }
            });
        }
        all.sort_unstable_by_key(|(word, _)| word.start);
        all
    }
}

impl Part {
    fn of(words: Vec<(&str, Lead)>) -> Option<Part> {
        if words.is_empty() {
            return None;
        }
        let automaton =
            AhoCorasick::builder().kind(Some(AhoCorasickKind::DFA)).build(words.iter().map(|(word, _)| word)).ok()?;
        let packed = packed::Searcher::new(words.iter().map(|(word, _)| word));
        Some(Part { packed, automaton, leads: words.into_iter().map(|(_, lead)| lead).collect() })
    }

    fn each(&self, text: &str, mut each: impl FnMut(Match)) {
        match &self.packed {
            Some(packed) => packed.find_iter(text).for_each(&mut each),
            None => self.automaton.find_iter(text).for_each(&mut each),
        }
    }

    fn is_in(&self, text: &str) -> bool {
        match &self.packed {
            Some(packed) => packed.find(text).is_some(),
            None => self.automaton.is_match(text),
        }
    }
}

/// Builds the tables that all searches share, so that no request waits for them.
pub fn warm() {
    LazyLock::force(&LEADS);
    LazyLock::force(&WIDE_LEADS);
    LazyLock::force(&INTRODUCTIONS);
    LazyLock::force(&PLATES);
    secret::warm();
    context::warm();
}

/// Finds what `rules` ask for in `text`, in order, without overlaps.
pub fn find(text: &str, rules: &Rules) -> Vec<Finding> {
    // Not even the tables are loaded then.
    if rules.is_empty() {
        return Vec::new();
    }
    let folded = Folded::of(text);
    let mut found = Vec::new();
    by_words(&folded.text, rules, &mut found);
    by_at_signs(&folded.text, rules, &mut found);
    by_digits(&folded.text, &mut found);
    rules.by_patterns(&folded.text, |kind, range, score| found.push(Found { kind, range, score }));
    found.retain(|found| rules.wants(found.kind, found.score));
    choose(&mut found);
    let written =
        found.into_iter().map(|Found { kind, range, score }| Finding { kind, range: folded.written(range), score });
    written.filter(|finding| !rules.allows(&text[finding.range.clone()])).collect()
}

/// What certain words lead to.
fn by_words(text: &str, rules: &Rules, found: &mut Vec<Found>) {
    let introduces = rules.wants(Kind::Person, 1.0) || rules.wants(Kind::Address, 1.0);
    follow(&LEADS, text, rules, found);
    if !text.is_ascii() {
        follow(&WIDE_LEADS, text, rules, found);
    }
    if introduces {
        follow(&INTRODUCTIONS, text, rules, found);
    }
    found.sort_by_key(|found| found.range.start);
}

/// Bytes whose words are gathered at once, so that a text full of them does not fill the memory.
const STRETCH: usize = 1 << 20;
/// Longer than any word that leads somewhere.
const LEAD: usize = 64;

fn follow(leads: &Leads, text: &str, rules: &Rules, found: &mut Vec<Found>) {
    let mut floor = 0;
    let mut from = 0;
    while from < text.len() {
        let end = text.ceil_char_boundary(from + STRETCH);
        let stretch = &text[from..text.ceil_char_boundary(end + LEAD)];
        for (word, lead) in leads.all(stretch, end - from) {
            let word = from + word.start..from + word.end;
            if word.start < floor {
                continue;
            }
            if let Some((kind, range, score)) = reading(text, floor, &word, lead, rules) {
                if matches!(kind, Kind::Secret | Kind::UrlCredentials) {
                    floor = range.end;
                }
                found.push(Found { kind, range, score });
            }
        }
        from = end;
    }
}

/// What the word leads to.
fn reading(
    text: &str,
    floor: usize,
    word: &Range<usize>,
    lead: Lead,
    rules: &Rules,
) -> Option<(Kind, Range<usize>, f32)> {
    match lead {
        Lead::Pem => secret::pem(text, word.start).map(|end| (Kind::Secret, word.start..end, 1.0)),
        Lead::Url => network::url_credentials(text, floor, word.start).map(|range| (Kind::UrlCredentials, range, 0.98)),
        Lead::Assigned => {
            secret::assigned(text, word.start, word.end).map(|(range, score)| (Kind::Secret, range, score))
        }
        Lead::Prefix => secret::digitless(text, word.start).map(|(range, score)| (Kind::Secret, range, score)),
        Lead::Introduced(kind) if rules.wants(kind, 1.0) => {
            person::introduced(text, kind, word.end).map(|(range, score)| (kind, range, score))
        }
        Lead::Introduced(_) => None,
    }
}

/// Electronic mail.
fn by_at_signs(text: &str, rules: &Rules, found: &mut Vec<Found>) {
    if !rules.wants(Kind::Email, 1.0) {
        return;
    }
    let mut floor = 0;
    for at in memchr::memchr_iter(b'@', text.as_bytes()) {
        if at >= floor
            && let Some(range) = network::email(text, floor, at)
        {
            floor = range.end;
            found.push(Found { kind: Kind::Email, range, score: 0.95 });
        }
    }
    found.sort_by_key(|found| found.range.start);
}

/// Everything else: there is no number, address or token without a digit.
fn by_digits(text: &str, found: &mut Vec<Found>) {
    let bytes = text.as_bytes();
    let taken: Vec<Range<usize>> = found
        .iter()
        .filter(|found| !matches!(found.kind, Kind::Person | Kind::Address))
        .map(|found| found.range.clone())
        .collect();
    let mut taken = taken.into_iter().peekable();
    let mut tables = table::Tables::default();
    let mut fresh = Vec::new();
    let mut floor = 0;
    let mut at = 0;
    let mut digits = scan::Digits::of(bytes);
    while let Some(digit) = digits.next(at) {
        at = digit;
        while taken.peek().is_some_and(|range| range.end <= at) {
            taken.next();
        }
        if let Some(range) = taken.peek().filter(|range| range.start <= at) {
            floor = range.end;
            at = range.end;
            continue;
        }
        // Most numbers of a text are short and stand alone.
        if let Some(end) = number::alone(bytes, at) {
            at = number::short(text, at..end, &mut tables, &mut fresh).unwrap_or(end);
            continue;
        }
        let of_word = match number::is_plain(bytes, at) {
            true => None,
            false => word::read(text, floor, at, &mut tables, &mut fresh),
        };
        let next = match of_word {
            Some(next) => next,
            None => number::read(text, floor, at, &mut tables, &mut fresh),
        };
        at = next.max(at + 1);
        if let Some(last) = fresh.last() {
            floor = floor.max(last.range.end);
        }
    }
    found.append(&mut fresh);
}

/// Keeps of findings that overlap the surest, then the longest, then the first.
fn choose(found: &mut Vec<Found>) {
    found.sort_by(|left, right| left.range.start.cmp(&right.range.start).then(right.range.end.cmp(&left.range.end)));
    if found.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start) {
        return;
    }
    let mut kept: Vec<Found> = Vec::with_capacity(found.len());
    for next in found.drain(..) {
        let rank = |found: &Found| (found.score, found.range.len());
        match kept.last() {
            Some(last) if last.range.end > next.range.start => {
                if rank(&next) > rank(last) {
                    kept.pop();
                    // It may also overlap what was kept before, which then was surer than what is dropped now.
                    if kept.last().is_none_or(|last| last.range.end <= next.range.start) {
                        kept.push(next);
                    }
                }
            }
            _ => kept.push(next),
        }
    }
    *found = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(text: &str) -> Vec<(Kind, &str)> {
        find(text, &Rules::default()).into_iter().map(|found| (found.kind, &text[found.range])).collect()
    }

    #[test]
    fn a_field_belongs_to_its_own_name() {
        assert_eq!(said(r#"{"account_number":"04483582","id":"676827"}"#), [(Kind::BankAccount, "04483582")]);
        assert_eq!(
            said(r#"{"created_at":"2024-05-03T10:11:12Z","账号":"6222021234"}"#),
            [(Kind::BankAccount, "6222021234")]
        );
        assert_eq!(said("GET /u?password=yHaYF5Utyr&date_of_birth=12.08.1995&x=1").len(), 2);
        assert_eq!(said("social_security_number=595603590"), [(Kind::UsSsn, "595603590")]);
    }

    #[test]
    fn columns_of_statements_and_tables_name_their_values() {
        assert_eq!(
            said("INSERT INTO t (id, ssn, passport) VALUES (17, '616228143', 'X1234567')"),
            [(Kind::UsSsn, "616228143"), (Kind::Passport, "X1234567")]
        );
        assert_eq!(said("SSN,status\n561566979,ok\n"), [(Kind::UsSsn, "561566979")]);
        assert_eq!(
            said("id,apiKey\n1,2rGJjsKAtp1d30yKmFsX5KTxKit4aTQj\n"),
            [(Kind::Secret, "2rGJjsKAtp1d30yKmFsX5KTxKit4aTQj")]
        );
    }

    #[test]
    fn versions_and_parts_of_longer_things_are_nothing() {
        for text in [
            "Upgrade from 14.20.88.172 to 5.6.6.3",
            "Chrome/120.0.0.0 Safari/537.36",
            "https://user@host.example/path",
            "card 5018 8797 6885 5568 has a wrong check digit",
            "epoch 4207346598656 ms",
            "ZIP 08525-5643, 011 301 668 units",
            "SHA1 0F:DA:72:01:C9:03:C5:3A:6A:6A:E5:D0:41:43:63:EF:65:00:11:22",
            "<Buffer 08 07 06 05 04 03 02 01>",
            "password: typing.Optional[bytes2]",
        ] {
            assert_eq!(said(text), [], "{text}");
        }
    }

    #[test]
    fn shapes_of_many_countries_are_known() {
        for (text, kind, value) in [
            (
                "mongodb://u:p4ssw0rdX@h1:27017,h2:27018/db",
                Kind::UrlCredentials,
                "mongodb://u:p4ssw0rdX@h1:27017,h2:27018/db",
            ),
            (
                "redis://:a8B7c6D5@[2001:db8::5]:6379/0，x",
                Kind::UrlCredentials,
                "redis://:a8B7c6D5@[2001:db8::5]:6379/0",
            ),
            ("[::ffff:108.75.93.209]:443", Kind::IpAddress, "::ffff:108.75.93.209"),
            ("车牌：渝H9689挂", Kind::LicensePlate, "渝H9689挂"),
            ("粤ZA244澳入境", Kind::LicensePlate, "粤ZA244澳"),
            ("晋G·26476违停", Kind::LicensePlate, "晋G·26476"),
            ("паспорт 45 1234567", Kind::Passport, "45 1234567"),
            ("geboren am 13. September 1985", Kind::DateOfBirth, "13. September 1985"),
            ("born 17th of August 1987,", Kind::DateOfBirth, "17th of August 1987"),
            ("My birthday is 03OCT1976", Kind::DateOfBirth, "03OCT1976"),
            ("card 6521.2830.8843.3171", Kind::CreditCard, "6521.2830.8843.3171"),
            ("NIE: X-8361607-A", Kind::NationalId, "X-8361607-A"),
            ("ЕГН 8307147935", Kind::NationalId, "8307147935"),
            ("비밀번호: coffee5960", Kind::Secret, "coffee5960"),
            ("hasło: Harbor_A024J7", Kind::Secret, "Harbor_A024J7"),
        ] {
            let found = said(text);
            if kind == Kind::CreditCard {
                assert_eq!(found.len(), usize::from(checksum::luhn(b"6521283088433171")), "{text}");
                continue;
            }
            assert_eq!(found, [(kind, value)], "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn findings_are_in_order_apart_and_on_borders(parts in prop::collection::vec(prop_oneof![
            "[0-9]{1,20}", "[ .,:;/@#+()_\\\\\"'|=<>\\[\\]{}&?-]{1,3}", "[a-zA-Z]{1,8}", "[0-9A-Fa-f]{2,12}",
            "[中国京A粤B卡号手机，。：年月日警·１２３]{1,4}", "[\u{200b}\u{a0}\u{301}é🎉Жيक]{1,2}",
            prop::sample::select(vec![
                "password", "密码：", "token=", "://", "u:p@", "passport ", "born ", "SSN ", "IBAN DE", "-----BEGIN ",
                "PRIVATE KEY-----", "bc1q", "0x", "sk-", "eyJ", "Bearer ", "VALUES (", "::", "hvs.", "\n", "|", "\t", "ext. ",
                "NIE X-", "转", "паспорт ", "@[", "IRD ", "RFC ", "GSTIN ", "M", "wallet ", "10.1.2.3", "/24", "4111 1111 ", "+86 ", "12 34 ", "2a:3b:",
            ]).prop_map(str::to_owned),
        ], 0..24)) {
            let text = parts.concat();
            let mut end = 0;
            for found in find(&text, &Rules::of(&Kind::ALL)) {
                prop_assert!(found.range.start >= end && found.range.start < found.range.end);
                prop_assert!(text.get(found.range.clone()).is_some());
                end = found.range.end;
            }
        }
    }
}
