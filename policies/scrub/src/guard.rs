//! Personal data that the provider itself says, taken out of text that arrives in pieces.
//!
//! What may still become a finding is held back: the last word, and the words before it that look like parts of one (a
//! number in groups, a date in words). Nothing is put back for what is masked here: nobody sent it.

use crate::detect::{find, is_wide};
use crate::kind::Kind;
use crate::rules::{Action, Rules};
use crate::vault::{MAX_PLACEHOLDER, placeholder_length};

/// Most bytes that are held back; a private key is the longest that is looked for.
const MAX_HELD: usize = 20 << 10;
/// Bytes before what is held that are kept, as words beside a value say what it is.
const CONTEXT: usize = 256;
/// The same where the last lines look like a table's, whose head says what its columns hold.
const TABLE_CONTEXT: usize = 4 << 10;
/// Most words before the last that are held with it, and how far back they may begin.
const WORDS: usize = 8;
const REACH: usize = 96;
/// How much of a line must follow a number before it is shown: a word behind it may say what it is.
const BEHIND: usize = 48;

/// A piece of what may be shown.
pub enum Piece<'t> {
    Text(&'t str),
    /// A value of this kind stood here; what is done about it is the caller's concern.
    Found(Kind),
}

/// One channel of an answer.
#[derive(Debug, Default)]
pub struct Guard {
    /// The last that was shown, and all that was not.
    heard: String,
    /// How much of it was shown, in bytes.
    shown: usize,
    /// What was last found, while nothing was shown behind it: the rest of the same value may follow.
    last: Option<Kind>,
}

impl Guard {
    /// Takes the next text and passes on what can no longer become part of a finding; everything when the text has
    /// `ended`.
    pub fn push(&mut self, text: &str, ended: bool, rules: &Rules, mut each: impl FnMut(Piece<'_>)) {
        self.heard.push_str(text);
        if self.shown == self.heard.len() {
            return;
        }
        let mut found = find(&self.heard, rules);
        found.retain(|finding| !is_in_placeholder(&self.heard, finding.range.start));
        let is_full = self.heard.len() - self.shown > MAX_HELD;
        let mut cut = match ended || is_full {
            true => self.heard.len(),
            false => settled(&self.heard, self.shown).min(self.shown + open_key(&self.heard[self.shown..])),
        };
        if let Some(open) = found.iter().find(|finding| finding.range.start < cut && finding.range.end > cut) {
            cut = open.range.start.max(self.shown);
        }
        let mut at = self.shown;
        let fresh = self.shown..=cut;
        for finding in
            found.iter().filter(|finding| finding.range.end > *fresh.start() && fresh.contains(&finding.range.end))
        {
            if rules.action(finding.kind) == Action::Report {
                each(Piece::Found(finding.kind));
                continue;
            }
            // Its beginning may have been shown already, as a value or as none.
            let goes_on = finding.range.start < self.shown && self.last == Some(finding.kind);
            let start = finding.range.start.max(at);
            if start > at {
                each(Piece::Text(&self.heard[at..start]));
            }
            if !goes_on {
                each(Piece::Found(finding.kind));
            }
            self.last = Some(finding.kind);
            at = finding.range.end;
        }
        if cut > at {
            each(Piece::Text(&self.heard[at..cut]));
            self.last = None;
        }
        self.shown = cut;
        let line = self.heard[..self.shown].trim_end().rsplit('\n').next().unwrap_or_default();
        let is_table = line.contains(['|', '\t', ',', ';', '(']);
        let context = if is_table { TABLE_CONTEXT } else { CONTEXT };
        if self.shown > context + 3 * CONTEXT {
            let from = self.heard.ceil_char_boundary(self.shown - context);
            self.heard.drain(..from);
            self.shown -= from;
        }
    }

    /// Whether something is held back.
    pub fn holds(&self) -> bool {
        self.heard.len() > self.shown
    }
}

/// Where the part of `text` ends, not before `from`, that no later text can make a part of a value.
fn settled(text: &str, from: usize) -> usize {
    let before_word = |text: &str| {
        let ends = |character: char| character.is_whitespace() || is_wide(character);
        text.char_indices().rev().find(|(_, character)| ends(*character)).map_or(0, |(at, last)| at + last.len_utf8())
    };
    // The last word goes on, and what a number is may be said behind it.
    let mut cut = before_word(text);
    let line = text.rfind('\n').map_or(0, |at| at + 1).max(text.len().saturating_sub(BEHIND));
    // What was shown or masked already is decided.
    let line = text.ceil_char_boundary(line.max(from));
    if let Some(number) = text[line..].find(|character: char| character.is_ascii_digit()) {
        cut = cut.min(before_word(&text[..line + number]));
    }
    for _ in 0..WORDS {
        let head = text[..cut].trim_end_matches([' ', '\u{a0}']);
        // Signs of Chinese dates stand between their numbers.
        let head = head.strip_suffix(['年', '月', '日', '号', '號']).unwrap_or(head);
        let start = before_word(head);
        let word = &head[start..];
        let may_belong = word.bytes().any(|byte| byte.is_ascii_digit() || matches!(byte, b'@' | b'+' | b'('))
            || word.len() <= 12 && word.starts_with(|first: char| first.is_uppercase())
            || !word.is_ascii();
        if word.is_empty() || !may_belong || text.len() - start > REACH + BEHIND {
            break;
        }
        cut = start;
    }
    cut.max(from)
}

/// Whether `at` is inside what is written like a placeholder: the digits of its hash are nobody's number.
fn is_in_placeholder(text: &str, at: usize) -> bool {
    let open = text[..at].rfind('<').filter(|open| at - open <= MAX_PLACEHOLDER);
    open.is_some_and(|open| placeholder_length(&text[open..]).is_some_and(|length| open + length > at))
}

/// Where a private key begins in `text` that has not ended; its length without one.
fn open_key(text: &str) -> usize {
    let Some(at) = memchr::memmem::rfind(text.as_bytes(), b"-----BEGIN ") else { return text.len() };
    let head = text[at..].lines().next().unwrap_or_default();
    let is_other = text.len() > at + head.len() && !head.contains("PRIVATE KEY");
    let has_ended = text[at..].split_once("-----END ").is_some_and(|(_, end)| end.contains("-----"));
    if is_other || has_ended { text.len() } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guarded(pieces: &[&str]) -> String {
        let rules = Rules::default();
        let mut guard = Guard::default();
        let mut out = String::new();
        for (place, piece) in pieces.iter().enumerate() {
            guard.push(piece, place + 1 == pieces.len(), &rules, |piece| match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Found(kind) => out.push_str(&format!("[{}]", rules.name(kind))),
            });
        }
        assert!(!guard.holds());
        out
    }

    #[test]
    fn values_are_masked_wherever_the_text_is_cut() {
        for (text, expected) in [
            ("Write to ann@example.com, please.", "Write to [EMAIL], please."),
            ("call +1 (415) 555-0132 or not", "call [PHONE] or not"),
            ("Card 4111 1111 1111 1111 is fine", "Card [CREDIT_CARD] is fine"),
            ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN [IBAN]."),
            ("She was born on 3 March 1980, I think", "She was born on [DATE_OF_BIRTH], I think"),
            ("我的电话是13812345678，邮箱ann@example.com。", "我的电话是[PHONE]，邮箱[EMAIL]。"),
            ("password: Tr0ub4dor&3x and more", "password: [SECRET] and more"),
            ("595603590 is my SSN.", "[US_SSN] is my SSN."),
            ("X1234567 is the passport number", "[PASSPORT] is the passport number"),
            ("né le 8 septembre 1985, à Lyon", "né le [DATE_OF_BIRTH], à Lyon"),
            ("她1990年1月1日出生", "她[DATE_OF_BIRTH]出生"),
            ("Your account is <EMAIL_h39012744>.", "Your account is <EMAIL_h39012744>."),
            ("In 2024 we had 12 of 30, 5 days <EMAIL_1>.", "In 2024 we had 12 of 30, 5 days <EMAIL_1>."),
        ] {
            assert_eq!(guarded(&[text]), expected);
            for cut in (0..=text.len()).filter(|cut| text.is_char_boundary(*cut)) {
                assert_eq!(guarded(&[&text[..cut], &text[cut..]]), expected, "cut at {cut}");
            }
            let characters: Vec<String> = text.chars().map(String::from).collect();
            assert_eq!(guarded(&characters.iter().map(String::as_str).collect::<Vec<_>>()), expected);
        }
    }

    #[test]
    fn a_column_is_known_by_its_head_far_above() {
        let head = "| name | passport |\n|---|---|\n";
        let row = |value: &str| format!("| somebody of a long name | {value} |\n");
        let text = head.to_owned() + &(0..60).map(|n| row(&format!("X12345{n:02}"))).collect::<String>();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        assert_eq!(guarded(&lines), head.to_owned() + &row("[PASSPORT]").repeat(60));
    }

    #[test]
    fn a_private_key_is_held_until_it_ends() {
        let key = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----", "MIIEow0a\n".repeat(90));
        let text = format!("Here:\n{key}\nDone.");
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        assert_eq!(guarded(&lines), "Here:\n[SECRET]\nDone.");
    }

    #[test]
    fn prose_is_held_back_by_a_word() {
        let mut guard = Guard::default();
        let mut shown = String::new();
        for piece in ["The answ", "er is plain and", " simple"] {
            guard.push(piece, false, &Rules::default(), |piece| match piece {
                Piece::Text(text) => shown.push_str(text),
                Piece::Found(_) => {}
            });
        }
        assert_eq!(shown, "The answer is plain and ");
    }

    proptest! {
        #[test]
        fn text_without_findings_passes_unchanged(words in prop::collection::vec("[a-zA-Z]{1,9}|[0-9]{1,3}|[漢字的]{1,3}|<EMAIL_[0-9]>|\n", 0..24), size in 1usize..9) {
            let text = words.join(" ");
            prop_assume!(find(&text, &Rules::default()).is_empty());
            let characters: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = characters.chunks(size).map(|chunk| chunk.iter().collect()).collect();
            prop_assert_eq!(guarded(&pieces.iter().map(String::as_str).collect::<Vec<_>>()), text);
        }
    }
}
