//! Documents to chunks that fit a prompt, along the document's own structure.
//!
//! Headings begin a new chunk and travel with it as a path; paragraphs and code fences stay whole where they fit, and
//! what does not fit is cut at sentence ends.

use crate::count::count_tokens;

/// A piece of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Headings above it, outermost first, joined by ` › `.
    pub heading: String,
    pub text: String,
}

/// Cuts Markdown or plain text into chunks of at most about `max_tokens`.
pub fn chunk(text: &str, max_tokens: usize) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut open = Open { heading: String::new(), text: String::new(), tokens: 0, max_tokens };
    let mut path: Vec<(usize, String)> = Vec::new();
    for block in blocks(text) {
        if let Some((level, title)) = heading(block) {
            open.close(&mut chunks);
            path.retain(|(above, _)| *above < level);
            path.push((level, title.to_owned()));
            open.heading = path.iter().map(|(_, title)| title.as_str()).collect::<Vec<_>>().join(" › ");
            continue;
        }
        let tokens = count_tokens(block);
        if tokens <= max_tokens {
            open.push(block, "\n\n", tokens, &mut chunks);
            continue;
        }
        for sentence in sentences(block, max_tokens) {
            open.push(sentence, "", count_tokens(sentence), &mut chunks);
        }
    }
    open.close(&mut chunks);
    chunks
}

struct Open {
    heading: String,
    text: String,
    tokens: usize,
    max_tokens: usize,
}

impl Open {
    fn push(&mut self, piece: &str, separator: &str, tokens: usize, chunks: &mut Vec<Chunk>) {
        if self.tokens + tokens > self.max_tokens {
            self.close(chunks);
        }
        if !self.text.is_empty() {
            self.text.push_str(separator);
        }
        self.text.push_str(piece);
        self.tokens += tokens;
    }

    fn close(&mut self, chunks: &mut Vec<Chunk>) {
        self.tokens = 0;
        let text = std::mem::take(&mut self.text);
        let trimmed = text.trim();
        if !trimmed.is_empty() {
            chunks.push(Chunk { heading: self.heading.clone(), text: trimmed.to_owned() });
        }
    }
}

/// `# Title` of Markdown, with its level.
fn heading(block: &str) -> Option<(usize, &str)> {
    let level = block.bytes().take_while(|byte| *byte == b'#').count();
    let title = block[level..].strip_prefix(' ')?;
    ((1..=6).contains(&level) && !title.contains('\n')).then(|| (level, title.trim().trim_end_matches('#').trim_end()))
}

/// Paragraphs, headings and whole code fences, in order.
fn blocks(text: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    let mut start = 0;
    let mut fence: Option<&str> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        let trimmed = line.trim();
        let marks = ["```", "~~~"].into_iter().find(|marks| trimmed.starts_with(marks));
        let stands_alone = fence.is_none() && heading(trimmed).is_some();
        match (fence, marks) {
            (None, Some(marks)) => fence = Some(marks),
            (Some(open), Some(marks)) if open == marks => fence = None,
            _ => {}
        }
        if stands_alone || (fence.is_none() && trimmed.is_empty()) {
            blocks.push(&text[start..at]);
            if stands_alone {
                blocks.push(&text[at..end]);
            }
            start = end;
        }
        at = end;
    }
    blocks.push(&text[start..]);
    blocks.into_iter().map(str::trim_end).filter(|block| !block.trim().is_empty()).collect()
}

/// A block cut behind sentence ends; a sentence that is too long itself is cut at spaces, or anywhere.
fn sentences(block: &str, max_tokens: usize) -> Vec<&str> {
    // A token is at least one byte, so pieces of this many bytes always fit.
    let max_bytes = max_tokens.max(4);
    let mut sentences = Vec::new();
    let mut start = 0;
    let mut characters = block.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let end = at + character.len_utf8();
        let before_space = characters.peek().is_none_or(|(_, next)| next.is_whitespace());
        let ends = matches!(character, '。' | '！' | '？' | '；' | '\n')
            || (matches!(character, '.' | '!' | '?' | ';') && before_space);
        if ends && end - start >= 16 {
            sentences.push(&block[start..end]);
            start = end;
        }
    }
    sentences.push(&block[start..]);
    let mut fitting = Vec::new();
    for mut sentence in sentences {
        while sentence.len() > max_bytes && count_tokens(sentence) > max_tokens {
            let mut cut = max_bytes.min(sentence.len());
            while !sentence.is_char_boundary(cut) {
                cut -= 1;
            }
            let cut = sentence[..cut].rfind(char::is_whitespace).filter(|at| *at > 0).unwrap_or(cut);
            fitting.push(&sentence[..cut]);
            sentence = &sentence[cut..];
        }
        fitting.push(sentence);
    }
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structure_decides_where_a_document_is_cut() {
        let text = "intro\n\n# A\n\none\n\ntwo\n\n## B\n```\ncode\n\n# not a heading\n```\n\n# C\nthree";
        let chunks: Vec<_> = chunk(text, 200).into_iter().map(|chunk| (chunk.heading, chunk.text)).collect();
        let expected =
            [("", "intro"), ("A", "one\n\ntwo"), ("A › B", "```\ncode\n\n# not a heading\n```"), ("C", "three")];
        assert_eq!(chunks, expected.map(|(heading, text)| (heading.to_owned(), text.to_owned())));
    }

    #[test]
    fn chunks_fit_and_lose_nothing() {
        let english = "The quick brown fox jumps over the lazy dog. ".repeat(60);
        let chinese = "今天天气很好，我们去公园散步。".repeat(60);
        let solid = "x".repeat(3000);
        for text in [english, chinese, solid] {
            let chunks = chunk(&text, 50);
            assert!(chunks.len() > 1);
            assert!(chunks.iter().all(|chunk| count_tokens(&chunk.text) <= 60));
            let joined: String = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
            assert_eq!(joined.replace(' ', ""), text.replace(' ', ""));
        }
        assert!(chunk(" \n\n ", 50).is_empty());
    }
}
