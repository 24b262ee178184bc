//! Placeholders given out in one request, and what they stand for.

use crate::detect::find;
use crate::kind::Kind;
use crate::rules::{Action, Rules};
use crate::url::open_url;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// Where a text comes from; each source has its own numbers, so that those of the conversation do not depend on what
/// was recalled this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// What the client sent: `<EMAIL_1>`.
    Conversation,
    /// Rendered prompts and recalled passages: `<EMAIL_K1>`.
    Managed,
}

/// Longer than any placeholder: a name of at most 32 characters and a number.
pub(crate) const MAX_PLACEHOLDER: usize = 64;

/// A finding that the rules do not let leave. It names the kind and never the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text holds a value of kind {0}")]
pub struct Refused(pub String);

/// The originals of one request. Dropping it wipes them.
#[derive(Default)]
pub struct Vault {
    /// Of what keyed hashes are made.
    hash_key: Option<[u8; 32]>,
    /// Whether what would be numbered is hashed, because the provider keeps what it is sent.
    hashes_all: bool,
    issued: Vec<Issued>,
    /// Keyed hash of kind and original to indexes in `issued`, so that originals are kept once. Equality is by exact
    /// bytes.
    by_original: HashMap<u64, Vec<usize>>,
    hasher: RandomState,
    /// Indexes of `issued`, by placeholder.
    sorted: Vec<usize>,
    /// Placeholders that the incoming text spells by itself; they are not issued.
    reserved: HashSet<String>,
    /// Tools whose arguments leave again, for somebody else: nothing is restored in them.
    outbound: Vec<String>,
    /// Whether placeholders are restored that the model spelt otherwise.
    forgiving: bool,
    /// What the incoming text spells like a placeholder without its brackets, in capitals; only the exact form of these
    /// is restored.
    spelt: HashSet<String>,
    /// Next number of a kind in a series.
    next: HashMap<(Kind, bool), u32>,
    /// URLs that left in the request, each up to a placeholder in it.
    urls: HashSet<String>,
    counts: BTreeMap<String, u32>,
    /// What is looked for in what the provider says, if anything.
    answers: Option<Answers>,
}

/// What the provider said that it should not have.
struct Answers {
    rules: Arc<Rules>,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    counts: BTreeMap<String, u32>,
    refused: Option<Refused>,
}

pub(crate) struct Issued {
    kind: Kind,
    pub placeholder: String,
    pub original: Zeroizing<String>,
}

impl Issued {
    /// The placeholder without its brackets.
    pub fn core(&self) -> &str {
        self.placeholder.trim_matches(['<', '>'])
    }
}

impl Vault {
    /// A vault whose hashes are made with `key`, which is secret and belongs to one tenant; `all` when every
    /// placeholder must mean the same in later requests too.
    pub fn hashing(key: [u8; 32], all: bool) -> Vault {
        Vault { hash_key: Some(key), hashes_all: all, ..Vault::default() }
    }

    /// Names the tools in whose arguments nothing is restored.
    pub fn keep_in(&mut self, tools: &[String]) {
        self.outbound = tools.to_vec();
    }

    /// Whether nothing is restored in the arguments of this tool.
    pub fn is_outbound(&self, tool: &str) -> bool {
        self.outbound.iter().any(|outbound| outbound == tool)
    }

    /// Restores placeholders in spellings that models are known to give them, such as `email_1` and `[EMAIL_1]`. To be
    /// said before [`Vault::reserve`].
    pub fn forgive(&mut self) {
        self.forgiving = true;
    }

    /// Whether other spellings than the exact one count, so that any text may hold a placeholder.
    pub fn is_forgiving(&self) -> bool {
        self.forgiving
    }

    /// Those whose spelling may be forgiven.
    pub(crate) fn forgivable(&self) -> impl Iterator<Item = &Issued> {
        self.issued.iter().filter(|issued| !self.spelt.contains(issued.core()))
    }

    /// Looks for placeholders in incoming text, which the vault then never issues: who types `<EMAIL_1>` gets it
    /// back. All text of a request must be seen before the first of it is scrubbed.
    pub fn reserve(&mut self, text: &str) {
        if self.forgiving {
            self.spelt.extend(words_like_placeholders(text));
        }
        for start in memchr::memchr_iter(b'<', text.as_bytes()) {
            if let Some(length) = placeholder_length(&text[start..]) {
                self.reserved.insert(text[start..start + length].to_owned());
            }
        }
    }

    /// Finds personal data in `text` and does with it what the rules say: the ranges and what to put there.
    pub fn scrub(&mut self, text: &str, rules: &Rules, series: Series) -> Result<Vec<(Range<usize>, String)>, Refused> {
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        for finding in find(text, rules) {
            let name = rules.name(finding.kind);
            *self.counts.entry(name.to_owned()).or_insert(0) += 1;
            let original = &text[finding.range.clone()];
            let placeholder = match rules.action(finding.kind) {
                Action::Report => continue,
                Action::Refuse => return Err(Refused(name.to_owned())),
                Action::Mask => {
                    edits.push((finding.range, format!("[{name}]")));
                    continue;
                }
                Action::Replace if !self.hashes_all => self.placeholder(finding.kind, name, original, Some(series)),
                Action::Replace | Action::Hash => self.placeholder(finding.kind, name, original, None),
            };
            if let Some(start) = open_url(&text[..finding.range.start]) {
                let mut url = String::new();
                let mut at = start;
                for (range, replacement) in edits.iter().filter(|(range, _)| range.start >= start) {
                    url.push_str(&text[at..range.start]);
                    url.push_str(replacement);
                    at = range.end;
                }
                url.push_str(&text[at..finding.range.start]);
                url.push_str(&placeholder);
                self.urls.insert(url);
            }
            edits.push((finding.range, placeholder));
        }
        Ok(edits)
    }

    fn placeholder(&mut self, kind: Kind, name: &str, original: &str, series: Option<Series>) -> String {
        let hash = self.hasher.hash_one((kind, original));
        let known = self.by_original.get(&hash).map_or(&[][..], Vec::as_slice);
        let same = |index: &&usize| self.issued[**index].kind == kind && *self.issued[**index].original == original;
        if let Some(&index) = known.iter().find(same) {
            return self.issued[index].placeholder.clone();
        }
        let placeholder = match (series, self.hash_key) {
            (None, Some(key)) => self.hashed(&key, name, original),
            (series, _) => self.numbered(kind, name, series == Some(Series::Managed)),
        };
        self.by_original.entry(hash).or_default().push(self.issued.len());
        self.issue(kind, placeholder.clone(), original);
        placeholder
    }

    fn issue(&mut self, kind: Kind, placeholder: String, original: &str) {
        let place = self.sorted.partition_point(|&index| self.issued[index].placeholder < placeholder);
        self.sorted.insert(place, self.issued.len());
        self.issued.push(Issued { kind, placeholder, original: Zeroizing::new(original.to_owned()) });
    }

    fn numbered(&mut self, kind: Kind, name: &str, managed: bool) -> String {
        let mut number = self.next.get(&(kind, managed)).copied().unwrap_or(1);
        let placeholder = loop {
            let candidate = format!("<{name}_{}{number}>", if managed { "K" } else { "" });
            number += 1;
            if !self.reserved.contains(&candidate) && self.issued_as(&candidate).is_none() {
                break candidate;
            }
        };
        self.next.insert((kind, managed), number);
        placeholder
    }

    /// A placeholder that says the same in every request of whoever has the key. Two originals whose first 32 bits
    /// agree get longer ones.
    fn hashed(&self, key: &[u8; 32], name: &str, original: &str) -> String {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(name.as_bytes()).update(&[0]).update(original.as_bytes());
        let hash = hasher.finalize().to_hex();
        let candidates = (8..=24).step_by(8).map(|length| format!("<{name}_h{}>", &hash[..length]));
        let is_free = |candidate: &String| !self.reserved.contains(candidate) && self.issued_as(candidate).is_none();
        candidates.clone().find(is_free).or(candidates.last()).unwrap_or_default()
    }

    fn issued_as(&self, placeholder: &str) -> Option<&Issued> {
        self.at_or_after(placeholder.as_bytes()).filter(|issued| issued.placeholder == placeholder)
    }

    /// Gives the vault what an earlier one of the same session issued ([`Vault::saved`]), so that equal originals keep
    /// their placeholders and those of earlier answers come back. To be said after [`Vault::reserve`]: what this request
    /// spells by itself is not taken over. `false` for bytes that are none of a vault's.
    pub fn remember(&mut self, saved: &[u8], rules: &Rules) -> bool {
        let Some((&SAVED_VERSION, mut rest)) = saved.split_first() else { return false };
        while !rest.is_empty() {
            let Some((name, placeholder, original)) = take_saved(&mut rest) else { return false };
            let kind = rules.kind_of_name(name);
            let number = number_of(placeholder);
            // A number that was given once means the same for as long as anything of the session is known.
            if let Some((managed, number)) = number {
                let next = self.next.entry((kind, managed)).or_insert(1);
                *next = (*next).max(number.saturating_add(1));
            }
            if self.reserved.contains(placeholder) || self.issued_as(placeholder).is_some() {
                continue;
            }
            // What a provider keeps is sent hashed, whatever it was called before.
            let wants_hash = self.hashes_all || rules.action(kind) == Action::Hash;
            if number.is_none() || !wants_hash {
                let hash = self.hasher.hash_one((kind, original));
                self.by_original.entry(hash).or_default().push(self.issued.len());
            }
            self.issue(kind, placeholder.to_owned(), original);
        }
        true
    }

    /// What [`Vault::remember`] takes: the newest originals that fit into `most` bytes, with their placeholders. `None`
    /// where there are none. The bytes are as secret as the originals.
    pub fn saved(&self, rules: &Rules, most: usize) -> Option<Zeroizing<Vec<u8>>> {
        let length =
            |issued: &Issued| 6 + rules.name(issued.kind).len() + issued.placeholder.len() + issued.original.len();
        let mut room = most.saturating_sub(1);
        let fits = |issued: &&Issued| {
            let left = room.checked_sub(length(issued));
            room = left.unwrap_or(0);
            left.is_some()
        };
        let kept = self.issued.iter().rev().take_while(fits).count();
        let newest = &self.issued[self.issued.len() - kept..];
        if newest.is_empty() {
            return None;
        }
        let mut saved = Zeroizing::new(Vec::with_capacity(1 + newest.iter().map(length).sum::<usize>()));
        saved.push(SAVED_VERSION);
        for issued in newest {
            for text in [rules.name(issued.kind), &issued.placeholder] {
                saved.push(text.len() as u8);
                saved.extend_from_slice(text.as_bytes());
            }
            saved.extend_from_slice(&(issued.original.len() as u32).to_le_bytes());
            saved.extend_from_slice(issued.original.as_bytes());
        }
        Some(saved)
    }

    /// Looks for personal data in what the provider says, too, and masks it.
    pub fn guard_answers(&mut self, rules: Arc<Rules>) {
        self.answers = Some(Answers { rules, heard: Mutex::default() });
    }

    /// Whether answers pass as they are: nothing was replaced that needs to be restored, and nothing is looked for.
    pub fn leaves_answers(&self) -> bool {
        self.issued.is_empty() && self.answers.is_none()
    }

    /// Whether anything is looked for in what the provider says.
    pub fn guards_answers(&self) -> bool {
        self.answers.is_some()
    }

    pub(crate) fn answer_rules(&self) -> Option<&Rules> {
        self.answers.as_ref().map(|answers| &*answers.rules)
    }

    /// Notes that the provider said a value of this kind, and says what to put there.
    pub(crate) fn heard(&self, kind: Kind) -> Option<String> {
        let answers = self.answers.as_ref()?;
        let name = answers.rules.name(kind);
        let action = answers.rules.action(kind);
        let mut heard = answers.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard.counts.entry(name.to_owned()).or_insert(0) += 1;
        if action == Action::Refuse && heard.refused.is_none() {
            heard.refused = Some(Refused(name.to_owned()));
        }
        (action != Action::Report).then(|| format!("[{name}]"))
    }

    /// What the provider said since this was asked last that the rules refuse: the answer must not go on. Who puts
    /// originals into an answer asks at once, so that one attempt's words are not another's.
    pub fn take_refused(&self) -> Option<Refused> {
        let answers = self.answers.as_ref()?;
        answers.heard.lock().unwrap_or_else(PoisonError::into_inner).refused.take()
    }

    /// How many values of each kind the provider said, by name.
    pub fn answer_counts(&self) -> Vec<(String, u32)> {
        let Some(answers) = &self.answers else { return Vec::new() };
        let heard = answers.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.counts.iter().map(|(name, count)| (name.clone(), *count)).collect()
    }

    /// How many findings there were of each kind, by name.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u32)> {
        self.counts.iter().map(|(name, count)| (name.as_str(), *count))
    }

    /// The first placeholder, in byte order, that is not before `text`: the one that it spells or begins, if any.
    pub(crate) fn at_or_after(&self, text: &[u8]) -> Option<&Issued> {
        let place = self.sorted.partition_point(|&index| self.issued[index].placeholder.as_bytes() < text);
        self.sorted.get(place).map(|&index| &self.issued[index])
    }

    pub(crate) fn sent_url(&self, url: &str) -> bool {
        self.urls.contains(url)
    }
}

/// Form of what [`Vault::saved`] gives: for each original the lengths of kind and placeholder as a byte before them, and
/// its own as four bytes, little endian.
const SAVED_VERSION: u8 = 1;

/// The next kind, placeholder and original of saved bytes.
fn take_saved<'s>(rest: &mut &'s [u8]) -> Option<(&'s str, &'s str, &'s str)> {
    let text = |rest: &mut &'s [u8], length: usize| {
        let (text, behind) = rest.split_at_checked(length)?;
        *rest = behind;
        std::str::from_utf8(text).ok()
    };
    let short = |rest: &mut &'s [u8]| {
        let (&length, behind) = rest.split_first()?;
        *rest = behind;
        text(rest, usize::from(length))
    };
    let (name, placeholder) = (short(rest)?, short(rest)?);
    let (length, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some((name, placeholder, text(rest, u32::from_le_bytes(*length) as usize)?))
}

/// The series and the number of a numbered placeholder.
fn number_of(placeholder: &str) -> Option<(bool, u32)> {
    let (_, number) = placeholder.strip_suffix('>')?.rsplit_once('_')?;
    let managed = number.strip_prefix('K');
    Some((managed.is_some(), managed.unwrap_or(number).parse().ok()?))
}

/// Words such as `email_1` and `Phone-2`, as a placeholder would spell them.
fn words_like_placeholders(text: &str) -> impl Iterator<Item = String> + '_ {
    let is_word = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
    let words = text.split(move |character: char| !is_word(character));
    words
        .filter(|word| word.len() <= MAX_PLACEHOLDER && word.ends_with(|last: char| last.is_ascii_alphanumeric()))
        .filter(|word| word.contains(['_', '-']) && word.bytes().any(|byte| byte.is_ascii_digit()))
        .map(|word| word.to_ascii_uppercase().replace('-', "_"))
}

/// The length of the placeholder that `text` begins with: `<NAME_1>`, `<NAME_K1>`, `<NAME_h3f9a01c2>`.
pub(crate) fn placeholder_length(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('<')?;
    let close = inner.bytes().take(MAX_PLACEHOLDER).position(|byte| byte == b'>')?;
    let (name, number) = inner[..close].rsplit_once('_')?;
    let number = number.strip_prefix('K').unwrap_or(number);
    let is_name = name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let is_hash = number
        .strip_prefix('h')
        .is_some_and(|hash| hash.len() >= 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    (is_name && (is_number || is_hash)).then_some(close + 2)
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vault({} originals)", self.issued.len())
    }
}

/// `text` with `edits` made, which are in order and apart.
#[cfg(test)]
pub(crate) fn apply(text: &str, edits: &[(Range<usize>, String)]) -> String {
    let mut out = String::new();
    let mut at = 0;
    for (range, replacement) in edits {
        out.push_str(&text[at..range.start]);
        out.push_str(replacement);
        at = range.end;
    }
    out.push_str(&text[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrub(vault: &mut Vault, text: &str, series: Series) -> String {
        let edits = vault.scrub(text, &Rules::default(), series).unwrap();
        apply(text, &edits)
    }

    #[test]
    fn a_session_goes_on_where_it_was() {
        let rules = Rules::default();
        let mut first = Vault::default();
        assert_eq!(scrub(&mut first, "a@x.com and b@x.com", Series::Conversation), "<EMAIL_1> and <EMAIL_2>");
        let saved = first.saved(&rules, 1_000).unwrap();
        let mut next = Vault::default();
        next.reserve("I typed <EMAIL_1>");
        assert!(next.remember(&saved, &rules));
        assert_eq!(
            scrub(&mut next, "c@x.com, b@x.com, a@x.com", Series::Conversation),
            "<EMAIL_3>, <EMAIL_2>, <EMAIL_4>"
        );
        assert_eq!(next.issued_as("<EMAIL_2>").map(|issued| issued.original.as_str()), Some("b@x.com"));
        let mut stateful = Vault::hashing([1; 32], true);
        assert!(stateful.remember(&saved, &rules));
        assert!(scrub(&mut stateful, "a@x.com", Series::Conversation).starts_with("<EMAIL_h"));
        assert!(stateful.issued_as("<EMAIL_1>").is_some(), "and the number is still understood");
        // What does not fit goes, the oldest first.
        let newest = first.saved(&rules, 40).unwrap();
        let mut last = Vault::default();
        assert!(last.remember(&newest, &rules) && last.issued.len() == 1);
        assert_eq!(last.issued[0].placeholder, "<EMAIL_2>");
        assert_eq!(scrub(&mut last, "z@x.com", Series::Conversation), "<EMAIL_3>");
        assert!(first.saved(&rules, 10).is_none() && Vault::default().saved(&rules, 1_000).is_none());
        for cut in 0..saved.len() {
            let mut broken = Vault::default();
            let whole = broken.remember(&saved[..cut], &rules);
            assert!(!whole || broken.issued.len() < 2);
        }
    }

    #[test]
    fn equal_values_share_a_number_and_series_are_apart() {
        let mut vault = Vault::default();
        assert_eq!(scrub(&mut vault, "a@x.com b@x.com a@x.com", Series::Conversation), "<EMAIL_1> <EMAIL_2> <EMAIL_1>");
        assert_eq!(
            scrub(&mut vault, "c@x.com a@x.com 4111111111111111", Series::Managed),
            "<EMAIL_K1> <EMAIL_1> <CREDIT_CARD_K1>"
        );
        assert_eq!(vault.counts().collect::<Vec<_>>(), [("CREDIT_CARD", 1), ("EMAIL", 5)]);
    }

    #[test]
    fn what_the_user_typed_is_never_issued() {
        let mut vault = Vault::default();
        let text = "<EMAIL_1> <EMAIL_K1> <EMAIL_> <PHONE_2 a@x.com";
        vault.reserve(text);
        assert_eq!(scrub(&mut vault, text, Series::Conversation), "<EMAIL_1> <EMAIL_K1> <EMAIL_> <PHONE_2 <EMAIL_2>");
        assert_eq!(scrub(&mut vault, "b@x.com", Series::Managed), "<EMAIL_K2>");
    }

    #[test]
    fn each_kind_is_dealt_with_as_its_rule_says() {
        let mut rules = Rules::default();
        rules.want(Kind::Email, 0.5, Action::Hash);
        rules.want(Kind::Phone, 0.5, Action::Mask);
        rules.want(Kind::IpAddress, 0.5, Action::Report);
        rules.want(Kind::UsSsn, 0.5, Action::Refuse);
        let text = "a@x.com +1 415-555-0132 10.2.3.4 4111111111111111";
        let scrub =
            |vault: &mut Vault, text: &str| apply(text, &vault.scrub(text, &rules, Series::Conversation).unwrap());
        let (mut one, mut other) = (Vault::hashing([7; 32], false), Vault::hashing([7; 32], false));
        let first = scrub(&mut one, text);
        assert!(first.starts_with("<EMAIL_h") && first.ends_with("> [PHONE] 10.2.3.4 <CREDIT_CARD_1>"), "{first}");
        assert!(
            scrub(&mut other, "x a@x.com").ends_with(first.split(' ').next().unwrap()),
            "the same in another request"
        );
        assert_ne!(scrub(&mut Vault::hashing([8; 32], false), text), first, "another tenant's is another");
        assert!(scrub(&mut Vault::hashing([7; 32], true), "4111111111111111").starts_with("<CREDIT_CARD_h"));
        assert_eq!(one.scrub("my SSN is 605-10-4040", &rules, Series::Conversation), Err(Refused("US_SSN".to_owned())));
        assert_eq!(
            one.counts().collect::<Vec<_>>(),
            [("CREDIT_CARD", 1), ("EMAIL", 1), ("IP_ADDRESS", 1), ("PHONE", 1), ("US_SSN", 1)]
        );
    }

    #[test]
    fn originals_do_not_print() {
        let mut vault = Vault::default();
        scrub(&mut vault, "a@x.com", Series::Conversation);
        assert_eq!(format!("{vault:?}"), "Vault(1 originals)");
    }
}
