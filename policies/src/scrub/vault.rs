//! Placeholders given out in one request, and what they stand for.

use super::detect::{Kind, detect};
use super::url::open_url;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
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

/// The originals of one request. Dropping it wipes them.
#[derive(Default)]
pub struct Vault {
    issued: Vec<Issued>,
    /// Keyed hash of kind and original to indexes in `issued`, so that originals are kept once. Equality is by exact
    /// bytes.
    by_original: HashMap<u64, Vec<usize>>,
    hasher: RandomState,
    /// Indexes of `issued`, by placeholder.
    sorted: Vec<usize>,
    /// Placeholders that the incoming text spells by itself; they are not issued.
    reserved: HashSet<String>,
    /// Next number of a kind in a series.
    next: HashMap<(Kind, bool), u32>,
    /// URLs that left in the request, each up to a placeholder in it.
    urls: HashSet<String>,
    counts: [u32; Kind::ALL.len()],
}

pub(super) struct Issued {
    kind: Kind,
    pub placeholder: String,
    pub original: Zeroizing<String>,
}

impl Vault {
    /// Looks for placeholders in incoming text, which the vault then never issues: who types `<EMAIL_1>` gets it
    /// back. All text of a request must be seen before the first of it is scrubbed.
    pub fn reserve(&mut self, text: &str) {
        for (start, _) in text.match_indices('<') {
            let rest = &text[start + 1..];
            let Some(kind) = Kind::ALL.into_iter().find(|kind| rest.starts_with(kind.name())) else { continue };
            let Some(number) = rest[kind.name().len()..].strip_prefix('_') else { continue };
            let number = number.strip_prefix('K').unwrap_or(number);
            let digits = number.bytes().take_while(u8::is_ascii_digit).count();
            if digits > 0 && number[digits..].starts_with('>') {
                let end = text.len() - number.len() + digits + 1;
                self.reserved.insert(text[start..end].to_owned());
            }
        }
    }

    /// Finds personal data in `text` and issues a placeholder for each: the ranges and what to put there.
    pub fn scrub(&mut self, text: &str, kinds: &[Kind], series: Series) -> Vec<(Range<usize>, String)> {
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        for finding in detect(text, kinds) {
            let placeholder = self.placeholder(finding.kind, &text[finding.range.clone()], series);
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
            self.counts[finding.kind as usize] += 1;
            edits.push((finding.range, placeholder));
        }
        edits
    }

    fn placeholder(&mut self, kind: Kind, original: &str, series: Series) -> String {
        let hash = self.hasher.hash_one((kind, original));
        let known = self.by_original.entry(hash).or_default();
        let same = |index: &&usize| self.issued[**index].kind == kind && *self.issued[**index].original == original;
        if let Some(&index) = known.iter().find(same) {
            return self.issued[index].placeholder.clone();
        }
        let managed = series == Series::Managed;
        let next = self.next.entry((kind, managed)).or_insert(1);
        let placeholder = loop {
            let candidate = format!("<{}_{}{}>", kind.name(), if managed { "K" } else { "" }, next);
            *next += 1;
            if !self.reserved.contains(&candidate) {
                break candidate;
            }
        };
        known.push(self.issued.len());
        let place = self.sorted.partition_point(|&index| self.issued[index].placeholder < placeholder);
        self.sorted.insert(place, self.issued.len());
        self.issued.push(Issued {
            kind,
            placeholder: placeholder.clone(),
            original: Zeroizing::new(original.to_owned()),
        });
        placeholder
    }

    /// Whether nothing was replaced, so that nothing needs to be restored.
    pub fn is_empty(&self) -> bool {
        self.issued.is_empty()
    }

    /// How many findings of each kind were replaced, those with none left out.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, u32)> + '_ {
        Kind::ALL.into_iter().map(|kind| (kind, self.counts[kind as usize])).filter(|(_, count)| *count > 0)
    }

    /// The first placeholder, in byte order, that is not before `text`: the one that it spells or begins, if any.
    pub(super) fn at_or_after(&self, text: &[u8]) -> Option<&Issued> {
        let place = self.sorted.partition_point(|&index| self.issued[index].placeholder.as_bytes() < text);
        self.sorted.get(place).map(|&index| &self.issued[index])
    }

    pub(super) fn sent_url(&self, url: &str) -> bool {
        self.urls.contains(url)
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vault({} originals)", self.issued.len())
    }
}

/// `text` with `edits` made, which are in order and apart.
#[cfg(test)]
pub(super) fn apply(text: &str, edits: &[(Range<usize>, String)]) -> String {
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
        let edits = vault.scrub(text, &Kind::ALL, series);
        apply(text, &edits)
    }

    #[test]
    fn equal_values_share_a_number_and_series_are_apart() {
        let mut vault = Vault::default();
        assert_eq!(scrub(&mut vault, "a@x.com b@x.com a@x.com", Series::Conversation), "<EMAIL_1> <EMAIL_2> <EMAIL_1>");
        assert_eq!(
            scrub(&mut vault, "c@x.com a@x.com 4111111111111111", Series::Managed),
            "<EMAIL_K1> <EMAIL_1> <CREDIT_CARD_K1>"
        );
        assert_eq!(vault.counts().collect::<Vec<_>>(), [(Kind::Email, 5), (Kind::CreditCard, 1)]);
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
    fn originals_do_not_print() {
        let mut vault = Vault::default();
        scrub(&mut vault, "a@x.com", Series::Conversation);
        assert_eq!(format!("{vault:?}"), "Vault(1 originals)");
    }
}
