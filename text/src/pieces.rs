//! Text into the pieces that the embedding model knows.
//!
//! A unigram language model (Kudo, "Subword Regularization", 2018): of all ways to cut a word into known pieces the most
//! likely, by Viterbi's algorithm. It reads Hugging Face's `tokenizer.json` in the form that the shipped model has (NFKC, lower
//! case; runs of Han, of other letters, and of digits are the words) and gives the ids that their library gives, which
//! spends several times as long on a query.

use regex_syntax::hir::{Class, HirKind};
use serde::Deserialize;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};
use yada::DoubleArray;
use yada::builder::DoubleArrayBuilder;

/// The pattern of the words, as the file must state it.
const WORDS: &str = r"\p{Han}+|[\p{L}\p{M}&&[^\p{Han}]]+|\p{N}+";
/// How much less likely than the rarest piece a character is that is in none, as SentencePiece has it.
const UNKNOWN_PENALTY: f64 = 10.0;

/// What a character can be part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Between,
    Han,
    Letter,
    Digit,
}

pub(crate) struct Pieces {
    /// Ids by the bytes of the pieces.
    trie: DoubleArray<Vec<u8>>,
    /// Log-likelihoods by id.
    scores: Vec<f64>,
    unknown: u32,
    unknown_score: f64,
    ascii: [Kind; 128],
    /// Ranges of characters with both ends, rising and disjoint.
    kinds: Vec<(char, char, Kind)>,
}

/// The best way from a word's beginning to one of its bytes.
#[derive(Clone, Copy)]
struct Step {
    score: f64,
    /// Where its last piece begins.
    from: usize,
    id: u32,
}

#[derive(Deserialize)]
struct File {
    normalizer: serde_json::Value,
    pre_tokenizer: serde_json::Value,
    post_processor: Option<serde_json::Value>,
    model: Unigram,
}

#[derive(Deserialize)]
struct Unigram {
    #[serde(rename = "type")]
    kind: String,
    unk_id: u32,
    vocab: Vec<(String, f64)>,
    #[serde(default)]
    byte_fallback: bool,
}

impl Pieces {
    /// Of the bytes of a `tokenizer.json`.
    pub(crate) fn load(json: &[u8]) -> Result<Pieces, String> {
        let file: File = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let normalizer =
            serde_json::json!({ "type": "Sequence", "normalizers": [{ "type": "NFKC" }, { "type": "Lowercase" }] });
        let words = serde_json::json!({ "type": "Split", "pattern": { "Regex": WORDS }, "behavior": "Removed", "invert": true });
        let is_known = file.normalizer == normalizer && file.pre_tokenizer == words && file.post_processor.is_none();
        if !is_known || file.model.kind != "Unigram" || file.model.byte_fallback {
            return Err("`tokenizer.json` states another way to cut text than this program knows".to_owned());
        }
        let vocab = file.model.vocab;
        let mut keys: Vec<(&[u8], u32)> = (0..).zip(&vocab).map(|(id, (piece, _))| (piece.as_bytes(), id)).collect();
        keys.sort_unstable();
        // Of a piece that stands twice the later id counts.
        keys.dedup_by(|later, kept| {
            later.0 == kept.0 && {
                kept.1 = later.1;
                true
            }
        });
        let trie = DoubleArrayBuilder::build(&keys).map_err(|error| error.to_string())?;
        let scores: Vec<f64> = vocab.iter().map(|(_, score)| *score).collect();
        let rarest = scores.iter().copied().fold(f64::INFINITY, f64::min);
        let mut kinds = Vec::new();
        for (pattern, kind) in [
            (r"\p{Han}", Kind::Han),
            (r"[\p{L}\p{M}&&[^\p{Han}]]", Kind::Letter),
            (r"[\p{N}&&[^\p{Han}]]", Kind::Digit),
        ] {
            let parsed = regex_syntax::parse(pattern).map_err(|error| error.to_string())?;
            let HirKind::Class(Class::Unicode(class)) = parsed.kind() else {
                return Err(format!("{pattern} is no class"));
            };
            kinds.extend(class.iter().map(|range| (range.start(), range.end(), kind)));
        }
        kinds.sort_unstable_by_key(|(start, ..)| *start);
        let mut pieces = Pieces {
            trie: DoubleArray::new(trie).map_err(|error| error.to_string())?,
            scores,
            unknown: file.model.unk_id,
            unknown_score: rarest - UNKNOWN_PENALTY,
            ascii: [Kind::Between; 128],
            kinds,
        };
        pieces.ascii = std::array::from_fn(|byte| pieces.looked_up(char::from(byte as u8)));
        Ok(pieces)
    }

    /// The ids of the pieces of `text`, in their order.
    pub(crate) fn ids(&self, text: &str) -> Vec<u32> {
        let normal: String = match text.is_ascii() {
            true => text.to_ascii_lowercase(),
            false if is_nfkc_quick(text.chars()) == IsNormalized::Yes => lower(text.chars()),
            false => lower(text.nfkc()),
        };
        let mut ids = Vec::with_capacity(normal.len() / 4);
        let mut steps = Vec::new();
        let mut word = (0, Kind::Between);
        for (at, character) in normal.char_indices() {
            let kind = self.kind(character);
            if kind != word.1 {
                if word.1 != Kind::Between {
                    self.cut(&normal[word.0..at], &mut steps, &mut ids);
                }
                word = (at, kind);
            }
        }
        if word.1 != Kind::Between {
            self.cut(&normal[word.0..], &mut steps, &mut ids);
        }
        ids
    }

    fn kind(&self, character: char) -> Kind {
        match self.ascii.get(character as usize) {
            Some(kind) => *kind,
            None => self.looked_up(character),
        }
    }

    fn looked_up(&self, character: char) -> Kind {
        let place = self.kinds.partition_point(|(_, end, _)| *end < character);
        self.kinds.get(place).filter(|(start, ..)| *start <= character).map_or(Kind::Between, |(.., kind)| *kind)
    }

    /// Adds the ids of the likeliest pieces of `word`.
    fn cut(&self, word: &str, steps: &mut Vec<Option<Step>>, ids: &mut Vec<u32>) {
        steps.clear();
        steps.resize(word.len() + 1, None);
        for (from, character) in word.char_indices() {
            let so_far = steps[from].map_or(0.0, |step| step.score);
            let mut is_known = false;
            let mut reach = |end: usize, id: u32, score: f64| {
                let score = score + so_far;
                if steps[end].is_none_or(|best| score > best.score) {
                    steps[end] = Some(Step { score, from, id });
                }
            };
            for (id, length) in self.trie.common_prefix_search(&word.as_bytes()[from..]) {
                reach(from + length, id, self.scores[id as usize]);
                is_known |= length == character.len_utf8();
            }
            // A character that is no piece by itself is unknown there; so every place can be reached.
            if !is_known {
                reach(from + character.len_utf8(), self.unknown, self.unknown_score);
            }
        }
        let begin = ids.len();
        let mut end = word.len();
        let mut after = None;
        while let Some(step) = steps[end] {
            // Unknown characters side by side are one unknown piece.
            if step.id != self.unknown || after != Some(self.unknown) {
                ids.push(step.id);
            }
            after = Some(step.id);
            end = step.from;
            if end == 0 {
                break;
            }
        }
        ids[begin..].reverse();
    }
}

fn lower(characters: impl Iterator<Item = char>) -> String {
    characters.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;
    use tokenizers::Tokenizer;

    static JSON: &[u8] = include_bytes!("../models/static-en-zh-256/tokenizer.json");
    static OURS: LazyLock<Pieces> = LazyLock::new(|| Pieces::load(JSON).unwrap());
    static THEIRS: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_bytes(JSON).unwrap());

    fn check(text: &str) {
        let theirs = THEIRS.encode_fast(text, false).unwrap();
        assert_eq!(OURS.ids(text), theirs.get_ids(), "{text:?}");
    }

    #[test]
    fn the_ids_are_those_of_the_library_on_real_texts() {
        for text in [
            "",
            "Where's my 2nd ORDER №5?",
            "北京2008年奥运会 — ﬁnal Ｆｕｌｌｗｉｄｔｈ ΣΊΣΥΦΟΣ İstanbul",
            "zzqxj qqqqq ẞtraße 々〇 ⺀ ㊥ ½ ⅷ",
            "ๆ ไม่ हिन्दी العربية e\u{301}",
        ] {
            check(text);
        }
        let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples");
        for file in [
            "knowledge/scifact/corpus.jsonl",
            "scifact/queries.jsonl",
            "xquad-zh/corpus.jsonl",
            "xquad-zh/queries.jsonl",
        ] {
            let lines = std::fs::read_to_string(format!("{samples}/{file}")).unwrap();
            lines.lines().step_by(7).for_each(check);
        }
    }

    #[test]
    fn every_character_is_of_the_kind_that_the_library_makes_it() {
        let mut differ = Vec::new();
        for character in ('\0'..=char::MAX).filter(|character| !('\u{f0000}'..).contains(character)) {
            let text = format!("a{character}1");
            if OURS.ids(&text) != THEIRS.encode_fast(text.as_str(), false).unwrap().get_ids() {
                differ.push(character);
            }
        }
        // The library's normalizer knows Unicode 12; ㋿, which is 令和, came with 12.1.
        assert!(differ.len() < 300, "{differ:?}");
        assert!(differ.iter().all(|character| *character > '\u{557}'));
    }

    #[test]
    fn a_file_that_says_something_else_is_refused() {
        let changed = String::from_utf8(JSON.to_vec()).unwrap().replacen("NFKC", "NFC", 1);
        assert!(Pieces::load(changed.as_bytes()).is_err());
        assert!(Pieces::load(b"{}").is_err());
    }

    proptest! {
        #[test]
        fn the_ids_are_those_of_the_library(text in "([\u{0}-\u{52f}]|[\u{5d0}-\u{1fff}]|[\u{3041}-\u{33ff}&&[^㋿]]|[\u{ff00}-\u{ffef}]|[a-zA-Z]{1,12}|[\u{4e00}-\u{4fff}]{1,6}| |[0-9]|\u{301}){0,40}") {
            check(&text);
        }
    }
}
