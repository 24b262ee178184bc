//! Text to search terms.
//!
//! Words of scripts with spaces are lower-cased and stemmed as English; runs of Han and kana become bigrams, since
//! tantivy's default tokenizer makes one term of a whole run (nDCG@10 0.118 on Chinese, bigrams 0.965).

use std::borrow::Cow;
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use tantivy::tokenizer::{Language, LowerCaser, Stemmer, StopWordFilter, TextAnalyzer, Token, TokenStream, Tokenizer};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};

/// Names this analysis; an index built by another is refused.
pub const ANALYSER_ID: &str = "nfkc-english-han2/1";

/// Longest term in bytes; longer runs (base64, hashes) are cut, as tantivy cannot hold terms beyond 64 KiB.
const MAX_TERM: usize = 64;

/// The analyser for documents.
pub fn analyser() -> TextAnalyzer {
    TextAnalyzer::builder(Words::default()).filter(LowerCaser).filter(Stemmer::new(Language::English)).build()
}

/// Lucene's English stop words. They stand in most documents, so they cost the most to score and tell the least:
/// nDCG@10 on SciFact is .688 with them and .692 without.
const STOP_WORDS: [&str; 33] = [
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
    "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
];

/// Queries to terms. It holds buffers, so it is made once and kept.
pub struct QueryAnalyser {
    content: TextAnalyzer,
    all: TextAnalyzer,
}

impl QueryAnalyser {
    pub fn new() -> QueryAnalyser {
        let words = TextAnalyzer::builder(Words::default()).filter(LowerCaser);
        let stop_words = StopWordFilter::remove(STOP_WORDS.map(str::to_owned));
        let content = words.filter(stop_words).filter(Stemmer::new(Language::English)).build();
        QueryAnalyser { content, all: analyser() }
    }

    /// The distinct terms of a query, in order of appearance; stop words only when it has nothing else.
    pub fn terms(&mut self, text: &str) -> Vec<String> {
        let terms = terms(&mut self.content, text);
        if terms.is_empty() { crate::analyse::terms(&mut self.all, text) } else { terms }
    }
}

impl Default for QueryAnalyser {
    fn default() -> QueryAnalyser {
        QueryAnalyser::new()
    }
}

/// Hashes of all terms of a text, stop words left out, in order of appearance. They mean the same within a process.
pub fn term_hashes(text: &str) -> Vec<u64> {
    thread_local! {
        static ANALYSER: RefCell<TextAnalyzer> = RefCell::new(QueryAnalyser::new().content);
    }
    ANALYSER.with_borrow_mut(|analyser| {
        let mut hashes = Vec::new();
        let mut stream = analyser.token_stream(text);
        while let Some(token) = stream.next() {
            let mut hasher = DefaultHasher::new();
            token.text.hash(&mut hasher);
            hashes.push(hasher.finish());
        }
        hashes
    })
}

fn terms(analyser: &mut TextAnalyzer, text: &str) -> Vec<String> {
    let mut terms: Vec<String> = Vec::new();
    let mut stream = analyser.token_stream(text);
    while let Some(token) = stream.next() {
        if !terms.contains(&token.text) {
            terms.push(token.text.clone());
        }
    }
    terms
}

#[derive(Clone, Default)]
struct Words {
    token: Token,
}

impl Tokenizer for Words {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        self.token.reset();
        let text = match text.is_ascii() || is_nfkc_quick(text.chars()) == IsNormalized::Yes {
            true => Cow::Borrowed(text),
            false => Cow::Owned(text.nfkc().collect()),
        };
        WordStream { text, at: 0, pending: None, token: &mut self.token }
    }
}

struct WordStream<'a> {
    text: Cow<'a, str>,
    at: usize,
    /// Where the last character of a bigram begins, which the next bigram begins with.
    pending: Option<usize>,
    token: &'a mut Token,
}

fn has_no_spaces(character: char) -> bool {
    matches!(character, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

impl WordStream<'_> {
    fn emit(&mut self, start: usize, end: usize) -> bool {
        self.token.text.clear();
        let mut cut = end.min(start + MAX_TERM);
        while !self.text.is_char_boundary(cut) {
            cut -= 1;
        }
        self.token.text.push_str(&self.text[start..cut]);
        self.token.offset_from = start;
        self.token.offset_to = end;
        self.token.position = self.token.position.wrapping_add(1);
        true
    }
}

impl TokenStream for WordStream<'_> {
    fn advance(&mut self) -> bool {
        if let Some(start) = self.pending.take()
            && let Some(next) = self.text[self.at..].chars().next().filter(|next| has_no_spaces(*next))
        {
            self.pending = Some(self.at);
            self.at += next.len_utf8();
            return self.emit(start, self.at);
        }
        let mut rest = self.text[self.at..].char_indices();
        let Some((step, first)) = rest.find(|(_, character)| character.is_alphanumeric()) else {
            self.at = self.text.len();
            return false;
        };
        let start = self.at + step;
        let after = start + first.len_utf8();
        if has_no_spaces(first) {
            self.at = after;
            return match self.text[after..].chars().next().filter(|next| has_no_spaces(*next)) {
                Some(next) => {
                    self.pending = Some(after);
                    self.at = after + next.len_utf8();
                    self.emit(start, self.at)
                }
                None => self.emit(start, after),
            };
        }
        let word = self.text[start..].find(|character: char| !character.is_alphanumeric() || has_no_spaces(character));
        self.at = word.map_or(self.text.len(), |length| start + length);
        let end = self.at;
        self.emit(start, end)
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_stemmed_and_han_becomes_bigrams() {
        let mut analyser = analyser();
        assert_eq!(terms(&mut analyser, "Running RUNS, the-cats' ＡＢＣ"), ["run", "the", "cat", "abc"]);
        let mut queries = QueryAnalyser::new();
        assert_eq!(queries.terms("Is the cat on this mat?"), ["cat", "mat"]);
        assert_eq!(queries.terms("To be or not to be"), ["to", "be", "or", "not"]);
        assert_eq!(terms(&mut analyser, "北京大学abc是 中"), ["北京", "京大", "大学", "abc", "是", "中"]);
        assert_eq!(terms(&mut analyser, " …!"), Vec::<String>::new());
        assert_eq!(terms(&mut analyser, &"x".repeat(500)), ["x".repeat(64)]);
    }
}
