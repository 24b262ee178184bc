//! Finds e-mail addresses, phone numbers and payment cards.
//!
//! One pass over the bytes: an `@` grows into an address to both sides, a digit into the longest group of digits that
//! only separators join, and the group's shape decides. A neighbour that is not an ASCII letter or digit is a
//! boundary, so that text in scripts without spaces is read too.

use std::ops::Range;

/// What a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Email,
    Phone,
    CreditCard,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Email, Kind::Phone, Kind::CreditCard];

    /// As it stands in placeholders, configuration and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Email => "EMAIL",
            Kind::Phone => "PHONE",
            Kind::CreditCard => "CREDIT_CARD",
        }
    }
}

/// A piece of personal data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    /// Bytes of the searched text.
    pub range: Range<usize>,
}

/// Finds what is of one of `kinds` in `text`, in order, without overlaps.
pub fn detect(text: &str, kinds: &[Kind]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    // What stands before `floor` belongs to an earlier finding or group.
    let mut floor = 0;
    while let Some(step) = bytes[at..].iter().position(|&byte| byte == b'@' || byte.is_ascii_digit()) {
        at += step;
        if bytes[at] == b'@' {
            match email(text, floor, at) {
                Some(range) => {
                    floor = range.end;
                    at = range.end;
                    findings.push(Finding { kind: Kind::Email, range });
                }
                None => at += 1,
            }
            continue;
        }
        let group = Group::at(text, floor, at);
        at = group.range.end;
        // Digits of an address' local part are left to the `@` that follows them.
        let is_local_part = bytes[at..].iter().take(MAX_LOCAL).find(|&&byte| !is_local(byte)) == Some(&b'@');
        if let (Some((kind, range)), false) = (group.classify(text), is_local_part) {
            floor = range.end;
            findings.push(Finding { kind, range });
        }
    }
    findings.retain(|finding| kinds.contains(&finding.kind));
    findings
}

/// RFC 5321 section 4.5.3.1.1.
const MAX_LOCAL: usize = 64;
/// RFC 5321 section 4.5.3.1.2.
const MAX_DOMAIN: usize = 255;

/// `atext` of RFC 5322 section 3.2.3 and the dot, less the characters that in running text are punctuation.
fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-' | b'\'')
}

/// The address around the `@` at `at`, not reaching before `floor`.
fn email(text: &str, floor: usize, at: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let local = bytes[floor..at].iter().rev().take(MAX_LOCAL + 1).take_while(|&&byte| is_local(byte)).count();
    let mut start = at - local.min(MAX_LOCAL);
    while start < at && matches!(bytes[start], b'.' | b'\'' | b'-' | b'+' | b'%') {
        start += 1;
    }
    if start == at || bytes[at - 1] == b'.' || local > MAX_LOCAL {
        return None;
    }
    let is_domain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let mut end = at + 1 + bytes[at + 1..].iter().take(MAX_DOMAIN).take_while(|&&byte| is_domain(byte)).count();
    while end > at + 1 && matches!(bytes[end - 1], b'.' | b'-') {
        end -= 1;
    }
    // A sentence may go on behind the address without a space; the labels end at the first that is empty.
    if let Some(empty) = text[at + 1..end].find("..") {
        end = at + 1 + empty;
    }
    let domain = &text[at + 1..end];
    let (_, last) = domain.rsplit_once('.')?;
    let well_formed = domain
        .split('.')
        .all(|label| !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-'));
    let top_level = last.len() >= 2 && last.bytes().all(|byte| byte.is_ascii_alphabetic()) || last.starts_with("xn--");
    (well_formed && top_level).then_some(start..end)
}

/// Digits that only separators join.
struct Group {
    /// From its first sign (`+`, `(` or a digit) to behind its last digit.
    range: Range<usize>,
    /// Where the digits begin that come first in the range.
    digits: Vec<u8>,
    /// Lengths of its runs of digits.
    runs: Vec<usize>,
    /// The separators between the runs.
    separators: Vec<&'static str>,
    plus: bool,
    /// Whether ASCII letters or digits touch it.
    bounded: bool,
}

/// Longest group in digits that is kept; longer ones are no number of ours, and the rest is skipped with them.
const MAX_DIGITS: usize = 24;

const SEPARATORS: [&str; 12] = [") ", " (", "-(", ")-", " ", "-", ".", "\u{a0}", ")", "(", "\u{2011}", "\u{2013}"];

impl Group {
    /// The group whose first digit is at `at`.
    fn at(text: &str, floor: usize, at: usize) -> Group {
        let bytes = text.as_bytes();
        let mut start = at;
        if start > floor && bytes[start - 1] == b'(' {
            start -= 1;
        }
        let plus = start > floor && bytes[start - 1] == b'+';
        if plus {
            start -= 1;
        }
        let mut group = Group {
            range: start..at,
            digits: Vec::new(),
            runs: Vec::new(),
            separators: Vec::new(),
            plus,
            bounded: true,
        };
        let mut end = at;
        loop {
            let run = bytes[end..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if group.digits.len() <= MAX_DIGITS {
                group.digits.extend_from_slice(&bytes[end..end + run.min(MAX_DIGITS + 1)]);
            }
            group.runs.push(run);
            end += run;
            let rest = &text[end..];
            let next = SEPARATORS.iter().find(|separator| {
                rest.strip_prefix(**separator)
                    .is_some_and(|after| after.starts_with(|character: char| character.is_ascii_digit()))
            });
            match next {
                Some(separator) => {
                    group.separators.push(separator);
                    end += separator.len();
                }
                None => break,
            }
        }
        group.range.end = end;
        let touches = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let before = start.checked_sub(1).and_then(|index| bytes.get(index));
        group.bounded = !touches(before) && !touches(bytes.get(end));
        group
    }

    fn classify(&self, text: &str) -> Option<(Kind, Range<usize>)> {
        if !self.bounded || self.digits.len() > MAX_DIGITS {
            return None;
        }
        if self.is_card() {
            return Some((Kind::CreditCard, self.range.clone()));
        }
        // A group may be several numbers with a space between them; the longest tail that is one wins.
        self.is_phone(text).then(|| (Kind::Phone, self.range.clone()))
    }

    /// ISO/IEC 7812: 13 to 19 digits, an issuer's first digit, and the check digit of Luhn.
    fn is_card(&self) -> bool {
        let length = self.digits.len();
        let separators_agree = self.separators.windows(2).all(|pair| pair[0] == pair[1])
            && self.separators.iter().all(|separator| matches!(*separator, " " | "-" | "\u{a0}"));
        let runs_fit = self.separators.is_empty() || self.runs.iter().all(|run| (2..=7).contains(run));
        !self.plus
            && (13..=19).contains(&length)
            && separators_agree
            && runs_fit
            && matches!(self.digits[0], b'2' | b'3' | b'4' | b'5' | b'6')
            && luhn(&self.digits)
    }

    fn is_phone(&self, text: &str) -> bool {
        let digits = &self.digits;
        let dots = self.separators.iter().filter(|separator| **separator == ".").count();
        if dots == 3 && self.runs.len() == 4 && self.runs.iter().all(|run| *run <= 3) {
            return false;
        }
        // E.164: a plus sign, then at most 15 digits.
        if self.plus {
            return (7..=15).contains(&digits.len()) && digits[0] != b'0';
        }
        // North American Numbering Plan: area code and exchange begin with 2 to 9, and are written apart.
        let national = match (digits.len(), digits.first()) {
            (11, Some(b'1')) => &digits[1..],
            _ => digits.as_slice(),
        };
        let written_apart = matches!(self.runs.as_slice(), [3, 3, 4] | [1, 3, 3, 4])
            || (self.runs == [3, 7] && self.separators[0].contains(')'));
        if national.len() == 10 && written_apart && is_nanp(national) {
            return true;
        }
        // Mobile numbers of the PRC: 11 digits that begin with 13 to 19.
        let apart = self.runs == [11] || self.runs == [3, 4, 4];
        if digits.len() == 11 && apart && digits[0] == b'1' && (b'3'..=b'9').contains(&digits[1]) {
            return true;
        }
        // Any other national form needs a word that says so.
        (7..=12).contains(&digits.len()) && has_phone_word(&text[..self.range.start])
    }
}

fn is_nanp(digits: &[u8]) -> bool {
    digits[0] >= b'2' && digits[3] >= b'2' && !(digits[1] == b'1' && digits[2] == b'1')
}

/// ISO/IEC 7812-1 annex B.
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| {
            let value = u32::from(digit - b'0');
            if index % 2 == 0 {
                value
            } else if value > 4 {
                value * 2 - 9
            } else {
                value * 2
            }
        })
        .sum();
    sum.is_multiple_of(10) && digits.iter().any(|&digit| digit != digits[0])
}

/// Whether the last few characters before a number call it a phone number.
fn has_phone_word(before: &str) -> bool {
    const WORDS: [&str; 12] =
        ["phone", "tel", "mobile", "cell", "call", "whatsapp", "fax", "电话", "手机", "致电", "联系方式", "座机"];
    let start = before.char_indices().rev().nth(20).map_or(0, |(at, _)| at);
    let near = before[start..].to_lowercase();
    let near = near.rsplit(['\n', ';', '；', '。']).next().unwrap_or("");
    WORDS.iter().any(|word| {
        near.match_indices(word).any(|(at, _)| {
            let touches = |character: Option<char>| character.is_some_and(|character| character.is_ascii_alphabetic());
            !word.is_ascii()
                || (!touches(near[..at].chars().next_back()) && !touches(near[at + word.len()..].chars().next()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: &[(Kind, &str)]) {
        let found: Vec<_> =
            detect(text, &Kind::ALL).into_iter().map(|finding| (finding.kind, &text[finding.range])).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn addresses_are_found_where_people_write_them() {
        check("Write to alice.o'hara+x@mail.example.co.uk.", &[(Kind::Email, "alice.o'hara+x@mail.example.co.uk")]);
        check("邮箱bob@example.com在用", &[(Kind::Email, "bob@example.com")]);
        check(
            "<a@b.io>,\"c@d.org\"; 12@34.example",
            &[(Kind::Email, "a@b.io"), (Kind::Email, "c@d.org"), (Kind::Email, "12@34.example")],
        );
        check("a@b, @x.com, foo@.com, a@1.2, user@@x.com, x.@y.com", &[]);
    }

    #[test]
    fn cards_are_found_by_their_check_digit() {
        check(
            "card 4111 1111 1111 1111, 5500-0000-0000-0004 卡4111111111111111",
            &[
                (Kind::CreditCard, "4111 1111 1111 1111"),
                (Kind::CreditCard, "5500-0000-0000-0004"),
                (Kind::CreditCard, "4111111111111111"),
            ],
        );
        check("4111111111111112 and order 0000000000000000 x4111111111111111", &[]);
    }

    #[test]
    fn phones_are_found_by_plan_or_by_word() {
        check(
            "+1 415-555-0132, (415) 555-0132; 415.555.0132",
            &[(Kind::Phone, "+1 415-555-0132"), (Kind::Phone, "(415) 555-0132"), (Kind::Phone, "415.555.0132")],
        );
        check("我的电话13812345678，座机 010-12345678", &[(Kind::Phone, "13812345678"), (Kind::Phone, "010-12345678")]);
        check(
            "call 020 7946 0018 or +44 20 7946 0018",
            &[(Kind::Phone, "020 7946 0018"), (Kind::Phone, "+44 20 7946 0018")],
        );
    }

    #[test]
    fn other_numbers_are_left_alone() {
        check("2024-01-02 10:20, v1.2.3.4, 192.168.10.20, 3.14159265, order 1234567890, £1,234,567", &[]);
        check("550e8400-e29b-41d4-a716-446655440000 and 1700000000", &[]);
    }

    proptest! {
        #[test]
        fn findings_are_ordered_apart_and_on_character_borders(text in "([0-9@.+() -]|[a-c]|é|漢){0,60}") {
            let mut end = 0;
            for finding in detect(&text, &Kind::ALL) {
                prop_assert!(finding.range.start >= end);
                prop_assert!(!text[finding.range.clone()].is_empty());
                end = finding.range.end;
            }
        }
    }
}
