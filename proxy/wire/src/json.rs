//! A JSON scanner that remembers where everything stood.
//!
//! [`Document::parse`] checks the whole text against RFC 8259 in one pass and records strings, objects, arrays and
//! object members as spans. Numbers and literals inside arrays are checked but not recorded: an embeddings request
//! may hold millions of token ids and none of them is ever edited.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Range;

/// Deepest nesting that is read; deeper input is refused, so that recursion over a document is bounded.
pub const MAX_DEPTH: usize = 128;
/// Most recorded values of one document (24 bytes each), so that a hostile body cannot multiply its size in memory.
pub const MAX_NODES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Object,
    Array,
    String,
    Number,
    /// `true`, `false` or `null`.
    Literal,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    kind: Kind,
    start: u32,
    end: u32,
    /// Where the member's key begins (at its quote); `u32::MAX` for array elements and the root.
    key_start: u32,
    key_end: u32,
    /// Index of the first node after this one's subtree.
    next: u32,
}

const NO_KEY: u32 = u32::MAX;

/// Where and why a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {at}")]
pub struct JsonError {
    /// Offset in bytes.
    pub at: usize,
    pub reason: &'static str,
}

/// The recorded structure of one JSON text. It holds offsets only; the text is passed to each accessor's [`Value`].
#[derive(Clone, Debug)]
pub struct Document {
    nodes: Vec<Node>,
}

impl Document {
    /// Reads one JSON value and nothing after it but white space.
    pub fn parse(text: &str) -> Result<Document, JsonError> {
        if text.len() > u32::MAX as usize - 1 {
            return Err(JsonError { at: 0, reason: "text is longer than 4 GiB" });
        }
        let mut scanner = Scanner { bytes: text.as_bytes(), at: 0, nodes: Vec::with_capacity(32) };
        scanner.space();
        scanner.value(NO_KEY..NO_KEY, false, 0)?;
        scanner.space();
        match scanner.bytes.len() == scanner.at {
            true => Ok(Document { nodes: scanner.nodes }),
            false => Err(scanner.error("unexpected text after the value")),
        }
    }

    /// The outermost value.
    pub fn root<'d>(&'d self, text: &'d str) -> Value<'d> {
        Value { document: self, text, index: 0 }
    }
}

/// A value of a [`Document`] together with its text.
#[derive(Clone, Copy)]
pub struct Value<'d> {
    document: &'d Document,
    text: &'d str,
    index: usize,
}

impl<'d> Value<'d> {
    fn node(&self) -> Node {
        self.document.nodes[self.index]
    }

    pub fn kind(&self) -> Kind {
        self.node().kind
    }

    /// The bytes of the value, quotes and brackets included.
    pub fn span(&self) -> Range<usize> {
        self.node().start as usize..self.node().end as usize
    }

    /// The value as it was written.
    pub fn raw(&self) -> &'d str {
        &self.text[self.span()]
    }

    pub fn is_null(&self) -> bool {
        self.raw() == "null"
    }

    /// Bytes between the quotes of a string; `None` for other kinds.
    pub fn inner_span(&self) -> Option<Range<usize>> {
        (self.kind() == Kind::String).then(|| self.node().start as usize + 1..self.node().end as usize - 1)
    }

    /// The decoded string; `None` for other kinds.
    pub fn string(&self) -> Option<Cow<'d, str>> {
        self.inner_span().map(|span| decode(&self.text[span]))
    }

    /// The member's key with its quotes; `None` for array elements and the root.
    pub fn key_span(&self) -> Option<Range<usize>> {
        let node = self.node();
        (node.key_start != NO_KEY).then_some(node.key_start as usize..node.key_end as usize)
    }

    /// The member's key, decoded.
    pub fn key(&self) -> Option<Cow<'d, str>> {
        self.key_span().map(|span| decode(&self.text[span.start + 1..span.end - 1]))
    }

    /// The members of an object or the recorded elements of an array, in order. Numbers and literals of an array are
    /// not recorded, see the module's first paragraph.
    pub fn children(&self) -> impl Iterator<Item = Value<'d>> + use<'d> {
        let value = *self;
        let end = match value.kind() {
            Kind::Object | Kind::Array => value.node().next as usize,
            _ => 0,
        };
        let mut index = value.index + 1;
        std::iter::from_fn(move || {
            (index < end).then(|| {
                let child = Value { index, ..value };
                index = child.node().next as usize;
                child
            })
        })
    }

    /// The first member of that name; `None` for other kinds.
    pub fn get(&self, name: &str) -> Option<Value<'d>> {
        if self.kind() != Kind::Object {
            return None;
        }
        self.children().find(|child| child.key_is(name))
    }

    /// Whether the member's key reads `name` after decoding.
    pub fn key_is(&self, name: &str) -> bool {
        let Node { key_start, key_end, .. } = self.document.nodes[self.index];
        if key_start == NO_KEY {
            return false;
        }
        let span = key_start as usize + 1..key_end as usize - 1;
        // What is written with escapes is longer than it reads.
        match span.len().cmp(&name.len()) {
            Ordering::Less => false,
            Ordering::Equal => self.text.as_bytes()[span] == *name.as_bytes(),
            Ordering::Greater => {
                let written = &self.text[span];
                written.bytes().any(|byte| byte == b'\\') && decode(written) == name
            }
        }
    }

    /// This value and everything below it, in document order.
    pub fn descendants(&self) -> impl Iterator<Item = Value<'d>> + use<'d> {
        let value = *self;
        (value.index..value.node().next as usize).map(move |index| Value { index, ..value })
    }

    /// Whether an array holds a value that is not recorded, that is a number or a literal.
    pub fn holds_bare_values(&self) -> bool {
        if self.kind() != Kind::Array {
            return false;
        }
        let mut at = self.span().start + 1;
        for child in self.children() {
            if has_bare(&self.text[at..child.span().start]) {
                return true;
            }
            at = child.span().end;
        }
        has_bare(&self.text[at..self.span().end])
    }
}

fn has_bare(between: &str) -> bool {
    between.bytes().any(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Bytes of a string that are looked at in words of eight, before a search pays.
const SHORT: usize = 32;

/// How many of the first bytes of `bytes` are a string's plain ones: no quote, no backslash, no control character. At
/// most [`SHORT`].
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    // The lowest byte whose mark is set is one that is looked for; above it a borrow may have set others.
    let marks = |word: u64, byte: u8| {
        let other = word ^ (ONES * u64::from(byte));
        other.wrapping_sub(ONES) & !other
    };
    let (words, rest) = bytes[..bytes.len().min(SHORT)].as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (marks(word, b'"') | marks(word, b'\\') | control) & (ONES << 7);
        if found != 0 {
            return place * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let is_plain = |byte: &&u8| **byte >= 0x20 && **byte != b'"' && **byte != b'\\';
    words.len() * 8 + rest.iter().take_while(is_plain).count()
}

struct Scanner<'t> {
    bytes: &'t [u8],
    at: usize,
    nodes: Vec<Node>,
}

impl Scanner<'_> {
    fn error(&self, reason: &'static str) -> JsonError {
        JsonError { at: self.at, reason }
    }

    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    fn value(&mut self, key: Range<u32>, in_array: bool, depth: usize) -> Result<(), JsonError> {
        let start = self.at;
        let (kind, scalar) = match self.peek() {
            b'{' => (Kind::Object, false),
            b'[' => (Kind::Array, false),
            b'"' => (Kind::String, false),
            b'-' | b'0'..=b'9' => (Kind::Number, true),
            b't' | b'f' | b'n' => (Kind::Literal, true),
            _ if self.at >= self.bytes.len() => return Err(self.error("unexpected end")),
            _ => return Err(self.error("expected a value")),
        };
        let index = self.nodes.len();
        let recorded = !(scalar && in_array);
        if recorded {
            if index >= MAX_NODES {
                return Err(self.error("more than a million strings and containers"));
            }
            let node = Node { kind, start: start as u32, end: 0, key_start: key.start, key_end: key.end, next: 0 };
            self.nodes.push(node);
        }
        match kind {
            Kind::Object => self.object(depth + 1)?,
            Kind::Array => self.array(depth + 1)?,
            Kind::String => self.string()?,
            Kind::Number => self.number()?,
            Kind::Literal => self.literal()?,
        }
        if recorded {
            self.nodes[index].end = self.at as u32;
            self.nodes[index].next = self.nodes.len() as u32;
        }
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), JsonError> {
        self.open(depth)?;
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != b'"' {
                return Err(self.error("expected a key"));
            }
            let key_start = self.at as u32;
            self.string()?;
            let key = key_start..self.at as u32;
            self.space();
            if self.peek() != b':' {
                return Err(self.error("expected `:`"));
            }
            self.at += 1;
            self.space();
            self.value(key, false, depth)?;
            if self.close(b'}')? {
                return Ok(());
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        self.open(depth)?;
        if self.peek() == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(NO_KEY..NO_KEY, true, depth)?;
            if self.close(b']')? {
                return Ok(());
            }
        }
    }

    fn open(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested deeper than 128 levels"));
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// After an element: `true` at the closing bracket, `false` after a comma.
    fn close(&mut self, bracket: u8) -> Result<bool, JsonError> {
        self.space();
        match self.peek() {
            byte if byte == bracket => {
                self.at += 1;
                Ok(true)
            }
            b',' => {
                self.at += 1;
                self.space();
                Ok(false)
            }
            _ if self.at >= self.bytes.len() => Err(self.error("unexpected end")),
            _ => Err(self.error("expected `,` or a closing bracket")),
        }
    }

    fn string(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        loop {
            // Most strings are names of a few bytes, for which a search is dearer than looking.
            self.at += plain(&self.bytes[self.at..]);
            let rest = &self.bytes[self.at..];
            if rest.first() == Some(&b'"') {
                self.at += 1;
                return Ok(());
            }
            // memchr2 skips plain text at memory speed; control characters are looked for in what it skipped.
            let Some(step) = memchr::memchr2(b'"', b'\\', rest) else {
                self.at = self.bytes.len();
                return Err(self.error("unterminated string"));
            };
            // Without an early end the compiler looks at many bytes at once.
            if rest[..step].iter().fold(false, |bad, &byte| bad | (byte < 0x20)) {
                self.at += rest[..step].iter().position(|&byte| byte < 0x20).unwrap_or(0);
                return Err(self.error("control character in a string"));
            }
            self.at += step + 1;
            if rest[step] == b'"' {
                return Ok(());
            }
            match self.peek() {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
                b'u' => {
                    let digits = self.bytes.get(self.at + 1..self.at + 5);
                    if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                        return Err(self.error("bad \\u escape"));
                    }
                    self.at += 5;
                }
                _ => return Err(self.error("bad escape")),
            }
        }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !self.peek().is_ascii_digit() {
            return Err(self.error("expected a digit"));
        }
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        match self.peek() {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn literal(&mut self) -> Result<(), JsonError> {
        for word in [&b"true"[..], b"false", b"null"] {
            if self.bytes[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(());
            }
        }
        Err(self.error("expected a value"))
    }
}

/// The bytes to take out of an object so that `member` (from its key's quote to its value's end) is gone, and with it
/// the comma that parted it from its neighbour.
pub fn without_member(text: &str, member: Range<usize>) -> Range<usize> {
    let bytes = text.as_bytes();
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let skip = |from: usize| from + bytes[from..].iter().take_while(|byte| is_space(byte)).count();
    let after = skip(member.end);
    if bytes.get(after) == Some(&b',') {
        return member.start..skip(after + 1);
    }
    let before = member.start - bytes[..member.start].iter().rev().take_while(|byte| is_space(byte)).count();
    let comma = before > 0 && bytes[before - 1] == b',';
    (if comma { before - 1 } else { member.start })..member.end
}

/// Decodes the inside of a checked JSON string. A surrogate without its pair becomes U+FFFD.
pub fn decode(written: &str) -> Cow<'_, str> {
    match memchr::memchr(b'\\', written.as_bytes()) {
        None => Cow::Borrowed(written),
        Some(_) => {
            let mut decoded = String::with_capacity(written.len());
            decode_pieces(written, |piece, _| decoded.push_str(piece));
            Cow::Owned(decoded)
        }
    }
}

/// Walks the inside of a checked JSON string: `piece` receives runs of decoded text and the range that they were
/// written in. A run is either verbatim (as long as its range) or one escape.
pub fn decode_pieces(written: &str, mut piece: impl FnMut(&str, Range<usize>)) {
    let bytes = written.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let plain = memchr::memchr(b'\\', &bytes[at..]).map_or(bytes.len(), |step| at + step);
        if plain > at {
            piece(&written[at..plain], at..plain);
        }
        if plain >= bytes.len() {
            return;
        }
        let (character, length) = escape_at(bytes, plain);
        let mut buffer = [0; 4];
        piece(character.encode_utf8(&mut buffer), plain..plain + length);
        at = plain + length;
    }
}

/// The character of the escape that begins at `at`, and how many bytes it is written in.
fn escape_at(bytes: &[u8], at: usize) -> (char, usize) {
    let unit = |from: usize| {
        let digits = bytes.get(from + 2..from + 6)?;
        let is_escape = bytes.get(from) == Some(&b'\\') && bytes.get(from + 1) == Some(&b'u');
        let text = std::str::from_utf8(digits).ok()?;
        is_escape.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    match bytes.get(at + 1) {
        Some(b'n') => ('\n', 2),
        Some(b't') => ('\t', 2),
        Some(b'r') => ('\r', 2),
        Some(b'b') => ('\u{8}', 2),
        Some(b'f') => ('\u{c}', 2),
        Some(b'u') => match unit(at) {
            Some(high @ 0xD800..0xDC00) => match unit(at + 6) {
                Some(low @ 0xDC00..0xE000) => {
                    let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                    (char::from_u32(code).unwrap_or('\u{FFFD}'), 12)
                }
                _ => ('\u{FFFD}', 6),
            },
            Some(code) => (char::from_u32(code).unwrap_or('\u{FFFD}'), 6),
            None => ('\u{FFFD}', bytes.len() - at),
        },
        Some(&other) if other.is_ascii() => (char::from(other), 2),
        _ => ('\u{FFFD}', bytes.len() - at),
    }
}

/// Appends `text` as the inside of a JSON string (RFC 8259 section 7): only what must be escaped is.
pub fn escape_into(text: &str, out: &mut String) {
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.push_str("\\u00");
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    out.push_str(&text[plain..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_bytes_are_told_in_words_as_they_are_one_by_one() {
        let mut random = 7u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize
        };
        let special = [b'"', b'\\', 0x1F, 0x00, 0x20, 0x21, 0x23, 0x5B, 0x5D, 0x7F, 0x80, 0xA2, 0xDC, 0xFF, b'a'];
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..next() % 40)
                .map(|_| if next() % 8 == 0 { special[next() % special.len()] } else { b'a' + (next() % 26) as u8 })
                .collect();
            let is_plain = |byte: &&u8| **byte >= 0x20 && **byte != b'"' && **byte != b'\\';
            assert_eq!(plain(&bytes), bytes.iter().take(SHORT).take_while(is_plain).count(), "{bytes:?}");
        }
    }
    use proptest::prelude::*;

    #[test]
    fn a_document_keeps_the_spans_of_what_it_read() {
        let text = r#" {"a": [1, "x", {"b": 1e400}], "c\u0061": null, "a": "dup"} "#;
        let document = Document::parse(text).unwrap();
        let root = document.root(text);
        let keys: Vec<_> = root.children().map(|child| child.key().unwrap().into_owned()).collect();
        assert_eq!(keys, ["a", "ca", "a"]);
        assert_eq!(root.get("ca").unwrap().raw(), "null");
        let array = root.get("a").unwrap();
        assert_eq!(array.children().map(|child| child.raw()).collect::<Vec<_>>(), ["\"x\"", "{\"b\": 1e400}"]);
        assert!(array.holds_bare_values());
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        for (text, at) in [
            ("{", 1),
            ("[1,]", 3),
            ("{\"a\" 1}", 5),
            ("01", 1),
            ("\"\u{1}\"", 1),
            ("nul", 0),
            ("1 2", 2),
            ("\"\\x\"", 2),
            ("", 0),
            ("[1", 2),
            ("-", 1),
        ] {
            assert_eq!(Document::parse(text).unwrap_err().at, at, "{text}");
        }
        assert!(Document::parse(&"[".repeat(200)).is_err());
    }

    proptest! {
        #[test]
        fn the_scanner_and_serde_json_agree_on_what_is_json(text in "[\\[\\]{}\",:0-9eE+.\\\\a-fu tn\\-]{0,24}") {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            // serde_json refuses numbers beyond f64's range, which RFC 8259 does not, and lone surrogates.
            let lenient = matches!(&theirs, Err(error) if error.to_string().contains("out of range") || error.to_string().contains("surrogate") || error.to_string().contains("hex escape"));
            if !lenient {
                prop_assert_eq!(Document::parse(&text).is_ok(), theirs.is_ok(), "{}", text);
            }
        }

        #[test]
        fn escaping_and_decoding_are_inverse(text in "\\PC*|[\u{0}-\u{20}\"\\\\é漢]*") {
            let mut written = String::new();
            escape_into(&text, &mut written);
            let decoded = decode(&written).into_owned();
            prop_assert_eq!(&decoded, &text);
            let quoted = format!("\"{written}\"");
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }
    }
}
