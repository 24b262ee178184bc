//! One way of writing for the many that people use: full-width forms, fancy blanks and dashes, digits of other
//! scripts, characters without width. Findings are carried back to the text as it was written.

use std::borrow::Cow;
use std::ops::Range;

/// A text in its plain way of writing.
#[derive(Debug)]
pub struct Folded<'t> {
    pub text: Cow<'t, str>,
    changes: Vec<Change>,
}

/// A character that is written otherwise than it is read.
#[derive(Debug, Clone, Copy)]
struct Change {
    read: usize,
    read_length: usize,
    written: usize,
    written_length: usize,
}

enum Fold {
    Keep,
    Drop,
    Into(u8),
}

impl<'t> Folded<'t> {
    pub fn of(written: &'t str) -> Folded<'t> {
        if written.is_ascii() {
            return Folded { text: Cow::Borrowed(written), changes: Vec::new() };
        }
        let mut changes: Vec<Change> = Vec::new();
        let mut text = String::new();
        let mut copied = 0;
        for (at, character) in foldable(written) {
            let fold = fold(character);
            if matches!(fold, Fold::Keep) {
                continue;
            }
            if changes.is_empty() {
                text.reserve(written.len());
            }
            text.push_str(&written[copied..at]);
            let written_length = character.len_utf8();
            let read = text.len();
            if let Fold::Into(byte) = fold {
                text.push(char::from(byte));
            }
            changes.push(Change { read, read_length: text.len() - read, written: at, written_length });
            copied = at + written_length;
        }
        if changes.is_empty() {
            return Folded { text: Cow::Borrowed(written), changes };
        }
        text.push_str(&written[copied..]);
        Folded { text: Cow::Owned(text), changes }
    }

    /// Where `read`, a range of the folded text on character borders, was written.
    pub fn written(&self, read: Range<usize>) -> Range<usize> {
        if self.changes.is_empty() {
            return read;
        }
        // What was dropped before the start stays outside, what was dropped behind the end too.
        let start = self.changes.partition_point(|change| change.read <= read.start);
        let end = self.changes.partition_point(|change| change.read < read.end);
        self.place(start, read.start)..self.place(end, read.end)
    }

    /// The written place of `read`, where `before` changes are not behind it.
    fn place(&self, before: usize, read: usize) -> usize {
        match before.checked_sub(1).and_then(|last| self.changes.get(last)) {
            None => read,
            Some(change) if read < change.read + change.read_length => change.written,
            Some(change) => change.written + change.written_length + (read - change.read - change.read_length),
        }
    }
}

/// The characters that may be read otherwise than they are written, with their places: those whose first byte tells so.
fn foldable(text: &str) -> impl Iterator<Item = (usize, char)> + '_ {
    const BLOCK: usize = 32;
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let block = bytes.get(at..bytes.len().min(at + BLOCK)).filter(|block| !block.is_empty())?;
            // Most blocks are ASCII, in most languages.
            let found = if block.is_ascii() { None } else { block.iter().position(|byte| FIRST[usize::from(*byte)]) };
            let Some(step) = found else {
                at += block.len();
                continue;
            };
            let place = at + step;
            let character = text.get(place..)?.chars().next()?;
            at = place + character.len_utf8();
            return Some((place, character));
        }
    })
}

/// First bytes of characters that [`fold`] does not keep. Han and Hangul have others, which is most of what is not ASCII.
const FIRST: [bool; 256] = {
    let mut table = [false; 256];
    let bytes = [0xC2, 0xD9, 0xDB, 0xE0, 0xE1, 0xE2, 0xE3, 0xEF, 0xF0];
    let mut place = 0;
    while place < bytes.len() {
        table[bytes[place]] = true;
        place += 1;
    }
    table
};

fn fold(character: char) -> Fold {
    let code = u32::from(character);
    let digit = |zero: u32| Fold::Into(b'0' + (code - zero) as u8);
    match code {
        // Han, kana and Hangul first: they are most of what is not ASCII.
        0x3001..=0xFDFF => Fold::Keep,
        0xFF01..=0xFF5E => Fold::Into((code - 0xFEE0) as u8),
        0xA0 | 0x1680 | 0x2000..=0x200A | 0x202F | 0x205F | 0x3000 => Fold::Into(b' '),
        0x2010..=0x2015 | 0x2212 | 0xFE58 | 0xFE63 => Fold::Into(b'-'),
        0x2018 | 0x2019 => Fold::Into(b'\''),
        0x201C | 0x201D => Fold::Into(b'"'),
        0xAD | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x2064 | 0x2066..=0x2069 | 0xFEFF => Fold::Drop,
        0x660..=0x669 => digit(0x660),
        0x6F0..=0x6F9 => digit(0x6F0),
        0x966..=0x96F => digit(0x966),
        0x1D7CE..=0x1D7FF => Fold::Into(b'0' + ((code - 0x1D7CE) % 10) as u8),
        _ => Fold::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_lead_back_to_what_was_written() {
        let written = "电话：１３８\u{200b}-1234\u{a0}x，𝟙";
        let folded = Folded::of(written);
        assert_eq!(folded.text, "电话:138-1234 x,1");
        let find = |part: &str| {
            let at = folded.text.find(part).unwrap();
            &written[folded.written(at..at + part.len())]
        };
        assert_eq!(find("138"), "１３８");
        assert_eq!(find("138-1234"), "１３８\u{200b}-1234");
        assert_eq!(find("-1234"), "-1234");
        assert_eq!(find("1234 x"), "1234\u{a0}x");
        assert_eq!(find(",1"), "，𝟙");
    }

    #[test]
    fn every_character_that_is_folded_is_looked_at() {
        for character in '\u{80}'..=char::MAX {
            let first = usize::from(character.encode_utf8(&mut [0; 4]).as_bytes()[0]);
            assert!(FIRST[first] || matches!(fold(character), Fold::Keep), "{character:?}");
        }
    }

    proptest! {
        #[test]
        fn every_character_leads_back_to_itself(written in "[a-c０-９é漢\u{200b}\u{a0}，]{0,20}") {
            let folded = Folded::of(&written);
            for (at, character) in folded.text.char_indices() {
                let place = folded.written(at..at + character.len_utf8());
                let mut origin = written[place].chars();
                let first = origin.next().unwrap();
                prop_assert!(first == character || matches!(fold(first), Fold::Into(byte) if char::from(byte) == character));
                prop_assert_eq!(origin.next(), None);
            }
        }
    }
}
