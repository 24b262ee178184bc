//! Groups of digits: payment cards, telephones, identity numbers, accounts, dates and addresses of machines.
//!
//! A group is digits that only separators join. It may be several numbers beside each other, so every part between
//! blanks is tried, and the surest reading wins.

use super::context::{self, Near, Topic};
use super::national::{self, Scheme};
use super::scan::TOKEN;
use super::{Found, checksum, china, date, network, phone, table::Tables};
use crate::kind::Kind;
use std::ops::Range;

/// Most digits of a group; what is longer is no number of ours.
const MAX_DIGITS: usize = 40;
/// Most runs of a group.
const MAX_RUNS: usize = 16;

/// How sure a reading is: check digits and a word beside them, check digits, a strict shape, a word.
const SURE: f32 = 0.99;
const CHECKED: f32 = 0.95;
const SHAPED: f32 = 0.85;
const NAMED: f32 = 0.8;

/// Digits that only separators join, in fixed room: it is made for every number, so it is small.
pub struct Group {
    digits: [u8; MAX_DIGITS],
    count: usize,
    runs: [Run; MAX_RUNS],
    run_count: usize,
    start: usize,
    /// Behind the last run.
    pub end: usize,
}

/// A run of a group.
#[derive(Clone, Copy, Default)]
struct Run {
    /// Bytes from the group's beginning; a group has at most 40 digits and two separators between runs.
    start: u8,
    length: u8,
    /// Where its digits begin among the group's.
    from: u8,
}

impl Group {
    /// The group whose first digit is at `at`. `Err` with its end when it is too long to be anything.
    pub fn at(bytes: &[u8], at: usize) -> Result<Group, usize> {
        let mut group = Group {
            digits: [0; MAX_DIGITS],
            count: 0,
            runs: [Run::default(); MAX_RUNS],
            run_count: 0,
            start: at,
            end: at,
        };
        let mut from = at;
        loop {
            let length = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let end = from + length;
            if group.count + length > MAX_DIGITS || group.run_count == MAX_RUNS {
                return match group.run_count {
                    // What came before stands for itself.
                    1.. if group.count > 0 && length <= MAX_DIGITS => Ok(group),
                    _ => Err(end),
                };
            }
            // A run that letters touch is a word's; the group ends before it.
            if group.run_count > 0
                && bytes.get(end).is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
                && !is_extension(&bytes[end..])
            {
                return Ok(group);
            }
            for (digit, byte) in group.digits[group.count..].iter_mut().zip(&bytes[from..end]) {
                *digit = *byte;
            }
            group.runs[group.run_count] =
                Run { start: (from - at) as u8, length: length as u8, from: group.count as u8 };
            group.run_count += 1;
            group.count += length;
            group.end = end;
            let Some(step) = separator(&bytes[end..]) else { return Ok(group) };
            from = end + step;
        }
    }

    /// Where a run stands.
    fn run(&self, place: usize) -> Range<usize> {
        let run = self.runs[place];
        let start = self.start + usize::from(run.start);
        start..start + usize::from(run.length)
    }
}

/// `x42` and `ext 42` touch the number that they extend.
fn is_extension(rest: &[u8]) -> bool {
    matches!(rest, [b'x' | b'X', b'0'..=b'9', ..] | [b'e' | b'E', b'x' | b'X', b't', ..])
}

/// The length of a separator that is followed by a digit.
fn separator(rest: &[u8]) -> Option<usize> {
    let is_digit = |place: usize| rest.get(place).is_some_and(u8::is_ascii_digit);
    match rest {
        [b' ' | b'-' | b'.' | b'/' | b'(' | b')', ..] if is_digit(1) => Some(1),
        [b')', b' ' | b'-', ..] | [b' ' | b'-', b'(', ..] | [b' ', b'/', ..] | [b'/', b' ', ..] if is_digit(2) => {
            Some(2)
        }
        [b'-', b' ', ..] if is_digit(2) => None,
        _ => None,
    }
}

/// A part of a group between blanks, as a number of its own.
struct Part<'t> {
    text: &'t str,
    range: Range<usize>,
    digits: &'t [u8],
    /// Of the group's runs.
    lengths: [u8; MAX_RUNS],
    runs: usize,
    /// The separator between all runs, if it is one byte and the same everywhere.
    separator: Option<u8>,
    plus: bool,
    bracketed: bool,
    /// Whether a group of four before or behind could belong to it as well, as to a card's number.
    is_cut: bool,
}

/// The words beside a part, looked for once and only when they are needed.
struct Words<'a, 't> {
    text: &'t str,
    range: Range<usize>,
    tables: &'a mut Tables,
    /// What stands in front, which all parts that begin alike share.
    front: &'a mut Option<Option<Near>>,
    near: Option<Option<Near>>,
}

impl Words<'_, '_> {
    fn topic(&mut self) -> Option<Topic> {
        self.near().map(|near| near.topic)
    }

    fn near(&mut self) -> Option<Near> {
        if let Some(near) = self.near {
            return near;
        }
        let (text, start) = (self.text, self.range.start);
        let front = *self.front.get_or_insert_with(|| ahead(text, start, self.tables));
        let near = front.or_else(|| context::behind(text, self.range.end));
        self.near = Some(near);
        near
    }
}

/// The word that speaks of `range`: before it, in the head of its column, or behind it.
pub fn beside(text: &str, range: Range<usize>, tables: &mut Tables) -> Option<Near> {
    ahead(text, range.start, tables).or_else(|| context::behind(text, range.end))
}

fn ahead(text: &str, start: usize, tables: &mut Tables) -> Option<Near> {
    let column = |topic| Near { topic, gap: 1 };
    context::before(text, start).or_else(|| tables.topic(text, start).map(column))
}

/// Reads the group at `at` and says where to go on.
pub fn read(text: &str, floor: usize, at: usize, tables: &mut Tables, found: &mut Vec<Found>) -> usize {
    let bytes = text.as_bytes();
    let group = match Group::at(bytes, at) {
        Ok(group) => group,
        Err(end) => return end,
    };
    // A single short number is at most the day of a date in words.
    if group.run_count == 1 && group.count <= 4 {
        return short(text, group.run(0), tables, found).unwrap_or(group.end);
    }
    if touches_word(bytes, floor, at) {
        return group.end;
    }
    let count = group.run_count;
    let known = found.len();
    let mut first = 0;
    while first < count {
        let mut front = None;
        let mut best: Option<(usize, Kind, Range<usize>, f32)> = None;
        for last in first..count {
            let end = group.run(last).end;
            let closes = last + 1 == count || bytes[end] == b' ' && group.run(last + 1).start == end + 1;
            // A network's prefix length stands behind its address.
            let is_network = last == first + 3
                && bytes.get(end) == Some(&b'/')
                && last + 1 < count
                && group.runs[last + 1].length <= 2
                && (first..last).all(|run| bytes[group.run(run).end] == b'.');
            if !closes && !is_network {
                continue;
            }
            if let Some((kind, range, score)) = Part::of(text, floor, &group, first, last).read(tables, &mut front)
                && best.as_ref().is_none_or(|(.., known)| score >= *known)
            {
                best = Some((last, kind, range, score));
            }
        }
        match best {
            Some((last, kind, range, score)) => {
                found.push(Found { kind, range, score });
                first = last + 1;
            }
            // The next part begins behind the next blank.
            None => {
                first += 1;
                while first < count && bytes[group.run(first).start - 1] != b' ' {
                    first += 1;
                }
            }
        }
    }
    // An extension may reach farther than the group.
    found.get(known..).and_then(<[Found]>::last).map_or(group.end, |last| last.range.end.max(group.end))
}

/// Whether the number at `at` is the end of a word or of a decimal.
fn touches_word(bytes: &[u8], floor: usize, at: usize) -> bool {
    let Some(before) = at.checked_sub(1).filter(|before| *before >= floor) else { return false };
    let escaped =
        |letter: usize| letter > 0 && bytes[letter - 1] == b'\\' && matches!(bytes[letter], b'n' | b't' | b'r');
    match bytes[before] {
        b'_' => true,
        letter if letter.is_ascii_alphabetic() => !escaped(before),
        b'.' | b',' => before > 0 && bytes[before - 1].is_ascii_digit() && bytes[before] == b'.',
        // A part of an identifier: `a1-2024`, but not `Tel-138…`.
        b'-' => {
            before > 1 && bytes[before - 1].is_ascii_alphanumeric() && {
                let word = bytes[..before].iter().rev().take(24).take_while(|byte| byte.is_ascii_alphanumeric());
                word.clone().any(u8::is_ascii_digit)
            }
        }
        _ => false,
    }
}

/// Whether the digits at `at` are no part of a word, an identifier or a machine's address, as far as their neighbours
/// tell.
pub fn is_plain(bytes: &[u8], at: usize) -> bool {
    let end = at + bytes[at..].iter().take(MAX_DIGITS).take_while(|byte| byte.is_ascii_digit()).count();
    let joins = |byte: u8| byte >= 0x80 || TOKEN.has(byte) || matches!(byte, b':' | b'.');
    let before = at.checked_sub(1).map_or(b' ', |place| bytes[place]);
    !joins(before) && !bytes.get(end).is_some_and(|byte| joins(*byte))
}

/// The end of a number of one to four digits that nothing joins to anything: no letter, no separator and digit. It may be
/// a decimal.
pub fn alone(bytes: &[u8], at: usize) -> Option<usize> {
    let digits = |from: usize| from + bytes[from..].iter().take(5).take_while(|byte| byte.is_ascii_digit()).count();
    let byte = |place: usize| bytes.get(place).copied().unwrap_or(b' ');
    let end = digits(at);
    let joins = |byte: u8| {
        byte >= 0x80
            || byte.is_ascii_alphanumeric()
            || matches!(byte, b'_' | b'-' | b'.' | b':' | b'+' | b'/' | b'\\' | b'@')
    };
    let before = at.checked_sub(1).map_or(b' ', |place| bytes[place]);
    let joined = |end: usize| {
        let (next, after) = (byte(end), byte(end + 1));
        next.is_ascii_alphanumeric()
            || matches!(next, b'_' | b'-' | b'@' | b':' | b'(')
            || matches!(next, b' ' | b'.' | b'/' | b')')
                && (after.is_ascii_digit()
                    || matches!(after, b'(' | b'-')
                    || before == b'(' && after == b' ' && byte(end + 2).is_ascii_digit())
    };
    if end - at > 4 || joins(before) {
        return None;
    }
    if !joined(end) {
        return Some(end);
    }
    // A decimal of at most four digits.
    let fraction = if byte(end) == b'.' { digits(end + 1) } else { end };
    (fraction > end + 1 && fraction - at <= 5 && !joined(fraction) && byte(fraction) != b'.').then_some(fraction)
}

/// A number of one to four digits: a date in words.
pub fn short(text: &str, number: Range<usize>, tables: &mut Tables, found: &mut Vec<Found>) -> Option<usize> {
    let bytes = text.as_bytes();
    // A look at the neighbours is enough for nearly all numbers of a text.
    let next = bytes.get(number.end).copied().unwrap_or(b'\n');
    let after = bytes.get(number.end + 1).copied().unwrap_or(b'\n');
    let before = number.start.checked_sub(1).map_or(b'\n', |place| bytes[place]);
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte >= 0x80;
    let worded = next >= 0x80
        || next == b'.' && after == b' ' && bytes.get(number.end + 2).is_some_and(|third| letter(*third))
        || letter(next)
        || matches!(next, b' ' | b'.' | b'-') && letter(after)
        || matches!(next, b',' | b' ') && before == b' ';
    if !worded {
        return None;
    }
    let range = date::in_words(text, number)?;
    let near = context::before(text, range.start)
        .filter(|near| near.topic == Topic::Birth)
        .or_else(|| tables.topic(text, range.start).map(|topic| Near { topic, gap: 1 }))
        .or_else(|| context::behind(text, range.end))?;
    let end = range.end;
    if near.topic == Topic::Birth {
        found.push(Found { kind: Kind::DateOfBirth, range, score: NAMED + 0.1 });
    }
    Some(end)
}

impl<'t> Part<'t> {
    fn of(text: &'t str, floor: usize, group: &'t Group, first: usize, last: usize) -> Part<'t> {
        let bytes = text.as_bytes();
        let runs = &group.runs[first..=last];
        let (from, to) = (usize::from(runs[0].from), usize::from(group.runs[last].from + group.runs[last].length));
        let (start, end) = (group.run(first).start, group.run(last).end);
        let mut lengths = [0; MAX_RUNS];
        runs.iter().zip(lengths.iter_mut()).for_each(|(run, length)| *length = run.length);
        let between = |pair: &[Run]| {
            let end = pair[0].start + pair[0].length;
            (pair[1].start == end + 1).then(|| bytes[group.start + usize::from(end)])
        };
        let mut separators = runs.windows(2).map(between);
        let head = separators.next().flatten();
        let separator = head.filter(|head| separators.all(|other| other == Some(*head)));
        let mut start = start;
        let before = |start: usize| start.checked_sub(1).filter(|before| *before >= floor).map(|before| bytes[before]);
        let bracketed = before(start) == Some(b'(') && text[start..end].contains(')');
        if bracketed {
            start -= 1;
        }
        let plus = before(start) == Some(b'+');
        if plus {
            start -= 1;
        }
        let known = &group.runs[..group.run_count];
        let length =
            |place: Option<usize>| place.and_then(|place| known.get(place)).map_or(0, |run| usize::from(run.length));
        let neighbours = [length(first.checked_sub(1)), length(Some(last + 1))];
        let is_cut = neighbours.iter().any(|neighbour| matches!(neighbour, 4 | 6) && to - from + neighbour <= 19)
            || neighbours.contains(&2) && lengths[..runs.len()].iter().all(|run| *run == 2)
            || neighbours[1] == 3 && to - from == 16 && group.digits[from..].starts_with(b"62");
        Part {
            text,
            range: start..end,
            digits: &group.digits[from..to],
            lengths,
            runs: runs.len(),
            separator,
            plus,
            bracketed,
            is_cut,
        }
    }

    fn lengths(&self) -> &[u8] {
        &self.lengths[..self.runs]
    }

    fn run(&self, place: usize) -> &[u8] {
        let from: usize = self.lengths[..place].iter().map(|length| usize::from(*length)).sum();
        &self.digits[from..from + usize::from(self.lengths[place])]
    }

    fn read(&self, tables: &mut Tables, front: &mut Option<Option<Near>>) -> Option<(Kind, Range<usize>, f32)> {
        let count = self.digits.len();
        if count < 5 {
            return None;
        }
        let own = || self.range.clone();
        let mut words = Words { text: self.text, range: own(), tables, front, near: None };
        if self.is_dotted_quad() && !self.plus {
            return self.address(&mut words);
        }
        if self.is_date() {
            let birth = words.topic() == Some(Topic::Birth) && !self.plus;
            return birth.then(|| (Kind::DateOfBirth, own(), NAMED + 0.1));
        }
        // A letter that touches the end belongs to an extension or makes this no number.
        let next = self.text.as_bytes().get(self.range.end).copied().unwrap_or(b' ');
        if next == b'%'
            || next == b'_'
            || next.is_ascii_alphabetic() && phone::extension(&self.text[self.range.end..]).is_none()
        {
            return None;
        }
        self.checked(&mut words).or_else(|| self.named(&mut words)).or_else(|| self.shaped(&mut words))
    }

    fn is_dotted_quad(&self) -> bool {
        self.runs == 4 && self.separator == Some(b'.') && self.lengths().iter().all(|length| *length <= 3)
    }

    fn address(&self, words: &mut Words<'_, '_>) -> Option<(Kind, Range<usize>, f32)> {
        let bytes = self.text.as_bytes();
        if !network::is_ipv4([0, 1, 2, 3].map(|place| self.run(place))) {
            return None;
        }
        let goes_on = bytes.get(self.range.end) == Some(&b'.')
            && bytes.get(self.range.end + 1).is_some_and(u8::is_ascii_alphanumeric);
        if goes_on {
            return None;
        }
        // `Chrome/120.0.0.0`, `package==1.2.3.4`.
        let before = &bytes[..self.range.start];
        if matches!(before, [.., b'a'..=b'z' | b'A'..=b'Z', b'/'] | [.., b'=', b'='] | [.., b'^' | b'~']) {
            return None;
        }
        let score = match context::before(self.text, self.range.start) {
            Some(Near { topic: Topic::Version, gap }) if gap <= 32 => return None,
            Some(Near { topic: Topic::Thing, gap }) if gap <= 2 => return None,
            Some(Near { topic: Topic::Ip, .. }) => CHECKED,
            _ if words.tables.topic(self.text, self.range.start) == Some(Topic::Version) => return None,
            _ => SHAPED,
        };
        Some((Kind::IpAddress, self.range.clone(), score))
    }

    fn is_date(&self) -> bool {
        let shaped = self.runs == 3 && matches!(self.separator, Some(b'-' | b'/' | b'.'));
        shaped && date::of_runs([self.run(0), self.run(1), self.run(2)])
    }

    /// Numbers whose check digits speak for themselves.
    fn checked(&self, words: &mut Words<'_, '_>) -> Option<(Kind, Range<usize>, f32)> {
        let count = self.digits.len();
        if count == 18 && !self.plus && china::is_resident_id(self.digits) {
            return Some((Kind::CnId, self.range.clone(), SURE));
        }
        if count == 18 && self.runs == 1 && china::is_credit_code(self.digits) {
            return Some((Kind::CnUscc, self.range.clone(), CHECKED));
        }
        if !(12..=19).contains(&count) || self.plus || !self.is_card_shape() || !checksum::luhn(self.digits) {
            return None;
        }
        // A resident's number whose check is wrong.
        if count == 18 && china::is_resident_shape(self.digits) || self.is_cut {
            return None;
        }
        let issued = is_issued(self.digits);
        if issued && self.runs > 1 && count != 13 {
            // Whatever stands beside it.
            return Some((Kind::CreditCard, self.range.clone(), CHECKED));
        }
        let score = match words.near() {
            Some(Near { topic: Topic::Card, .. }) => SURE,
            // Milliseconds since 1970 and article numbers have thirteen digits too.
            _ if count == 13 => return None,
            // An order's number of sixteen digits passes one time in ten; grouped in fours it is a card all the same.
            Some(Near { topic: Topic::Thing | Topic::Version, gap }) if self.runs == 1 && gap <= 12 => return None,
            _ if issued => 0.9,
            _ => return None,
        };
        Some((Kind::CreditCard, self.range.clone(), score))
    }

    /// Groups as cards print them, with one separator throughout.
    fn is_card_shape(&self) -> bool {
        let Some((last, fours)) = self.lengths().split_last() else { return false };
        self.runs == 1
            || matches!(self.separator, Some(b' ' | b'-' | b'.'))
                && !self.is_cut
                && ((3..=5).contains(&self.runs) && fours.iter().all(|run| *run == 4) && *last <= 7
                    || matches!(self.lengths(), [4, 6, 4 | 5] | [6, 13] | [8, 8] | [4, 12] | [6, 10] | [6, 6, 4 | 7]))
    }

    /// Numbers that a word beside them names.
    fn named(&self, words: &mut Words<'_, '_>) -> Option<(Kind, Range<usize>, f32)> {
        let count = self.digits.len();
        if count < 6 {
            return None;
        }
        let Near { topic, .. } = words.near()?;
        let own = || self.range.clone();
        match topic {
            Topic::Routing if count == 9 && checksum::aba(self.digits) => Some((Kind::BankAccount, own(), CHECKED)),
            Topic::Routing | Topic::Account => {
                ((6..=20).contains(&count) && !self.plus && !self.bracketed).then(|| (Kind::BankAccount, own(), NAMED))
            }
            Topic::Ssn => is_ssn(self.digits).then(|| (Kind::UsSsn, own(), CHECKED)),
            Topic::Passport => {
                // Russia's series stands apart.
                let shaped = (7..=10).contains(&count) && self.runs == 1
                    || matches!(self.lengths(), [2, 7] | [4, 6] | [2, 2, 6]);
                shaped.then(|| (Kind::Passport, self.with_letter(), NAMED))
            }
            Topic::CnId => (count == 15 && china::is_old_resident_id(self.digits)).then(|| (Kind::CnId, own(), NAMED)),
            Topic::Birth => {
                let compact = self.runs == 1
                    && count == 8
                    && date::of_runs([&self.digits[..4], &self.digits[4..6], &self.digits[6..]]);
                let brief =
                    self.runs == 3 && count == 6 && date::of_short_runs([self.run(0), self.run(1), self.run(2)]);
                (compact || brief).then(|| (Kind::DateOfBirth, own(), NAMED))
            }
            Topic::National(scheme) => self.national(scheme).map(|range| (Kind::NationalId, range, CHECKED)),
            Topic::Phone => self.phone(NAMED + 0.05),
            _ => None,
        }
    }

    /// A passport's letter may stand apart: `E 12345678`.
    fn with_letter(&self) -> Range<usize> {
        let bytes = self.text.as_bytes();
        let start = self.range.start;
        let apart = start >= 3
            && bytes[start - 1] == b' '
            && bytes[start - 2].is_ascii_uppercase()
            && !bytes[start - 3].is_ascii_alphanumeric();
        if apart { start - 2..self.range.end } else { self.range.clone() }
    }

    fn national(&self, scheme: Scheme) -> Option<Range<usize>> {
        super::word::scheme_at(self.text, self.range.start, scheme)
    }

    /// Numbers whose shape is strict enough without a word.
    fn shaped(&self, words: &mut Words<'_, '_>) -> Option<(Kind, Range<usize>, f32)> {
        let count = self.digits.len();
        if self.plus {
            return self.phone(0.9);
        }
        let dashed = self.separator == Some(b'-');
        let own = || self.range.clone();
        if count == 9 && dashed && self.lengths() == [3, 2, 4] {
            let negative = matches!(words.topic(), Some(Topic::Thing | Topic::Version));
            if is_ssn(self.digits) && !negative {
                return Some((Kind::UsSsn, own(), SHAPED));
            }
            if national::check(Scheme::Itin, self.digits) && !negative {
                return Some((Kind::NationalId, own(), 0.6));
            }
        }
        // Brazil's CPF and CNPJ are written like nothing else.
        if count == 11 && self.lengths() == [3, 3, 3, 2] && national::check(Scheme::Cpf, self.digits) {
            return Some((Kind::NationalId, own(), SHAPED));
        }
        if self.digits.starts_with(b"978") || self.digits.starts_with(b"979") {
            return None;
        }
        let bytes = self.text.as_bytes();
        let goes_on = matches!(bytes.get(self.range.end..self.range.end + 2), Some([b'-', b'A'..=b'Z' | b'a'..=b'z']));
        let mixed =
            self.separator.is_none() && self.runs > 2 && !self.bracketed && self.text[self.range.clone()].contains('.');
        if self.is_cut || goes_on || mixed {
            return None;
        }
        let score = phone::national(self.digits, self.lengths(), self.bracketed, self.separator)?;
        match words.near() {
            Some(Near { topic: Topic::Thing | Topic::Version, gap }) if gap <= 16 => None,
            Some(Near {
                topic: Topic::Account | Topic::Routing | Topic::Card | Topic::CnId | Topic::Uscc | Topic::Passport,
                ..
            }) => None,
            _ => self.phone(score),
        }
    }

    /// This as a telephone number, its extension included.
    fn phone(&self, score: f32) -> Option<(Kind, Range<usize>, f32)> {
        let count = self.digits.len();
        let usual = match self.separator {
            Some(b'/') => self.runs == 2 && self.digits[0] == b'0',
            // Two years.
            Some(b'-') => {
                self.lengths() != [4, 4] || !self.digits.starts_with(b"19") && !self.digits.starts_with(b"20")
            }
            // A decimal.
            Some(b'.') => self.runs > 2 || self.plus,
            _ => true,
        };
        let fits = if self.plus { phone::is_international(self.digits) } else { (7..=15).contains(&count) };
        let varied = self.digits.iter().filter(|digit| **digit != b'0').count() > 2;
        if !fits || !usual || !varied || self.is_dotted_quad() && !self.plus {
            return None;
        }
        // A year of many digits, as dates far away have.
        if self.plus
            && self
                .text
                .as_bytes()
                .get(self.range.end..)
                .is_some_and(|rest| matches!(rest, [b'-', b'0'..=b'9', b'0'..=b'9', b'T', ..]))
        {
            return None;
        }
        let extra = phone::extension(&self.text[self.range.end..]).unwrap_or(0);
        Some((Kind::Phone, self.range.start..self.range.end + extra, score))
    }
}

/// Area, group and serial of a social security number (SSA, since 2011).
fn is_ssn(digits: &[u8]) -> bool {
    digits.len() == 9
        && !matches!(&digits[..3], b"000" | b"666")
        && digits[0] != b'9'
        && &digits[3..5] != b"00"
        && &digits[5..] != b"0000"
        && digits.iter().any(|digit| *digit != digits[0])
        && digits != b"123456789"
}

/// Whether an issuer has the first digits and the length.
fn is_issued(digits: &[u8]) -> bool {
    let prefix = |length: usize| digits[..length].iter().fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let count = digits.len();
    match digits[0] {
        b'4' => matches!(count, 13 | 16 | 18 | 19),
        b'5' => match prefix(2) {
            51..=55 => count == 16,
            50 | 56..=59 => (13..=19).contains(&count),
            _ => false,
        },
        b'2' => count == 16 && (matches!(prefix(4), 2221..=2720) || matches!(prefix(4), 2200..=2205)),
        b'3' => match prefix(2) {
            34 | 37 => count == 15,
            36 | 38 | 39 => (14..=19).contains(&count),
            30 => matches!(prefix(3), 300..=305 | 309) && (14..=19).contains(&count),
            35 => (16..=19).contains(&count) && matches!(prefix(4), 3528..=3589),
            _ => false,
        },
        b'6' => match prefix(2) {
            60 | 64 | 65 => (16..=19).contains(&count),
            62 | 63 | 66..=69 => (16..=19).contains(&count) || (13..=19).contains(&count) && prefix(2) != 62,
            61 => (13..=19).contains(&count),
            _ => false,
        },
        b'8' => matches!(prefix(2), 81 | 82) && count == 16,
        b'9' => prefix(4) == 9792 && count == 16,
        _ => false,
    }
}
