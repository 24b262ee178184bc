//! Bytes of a text at memory speed: where its digits are, and how far runs of one class reach.

use wide::u8x16;

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// The ASCII digits of a text, a block of bytes at a time.
pub struct Digits<'t> {
    bytes: &'t [u8],
    /// Where the block begins that `mask` tells of.
    base: usize,
    /// A bit for each byte of the block, the first the lowest.
    mask: u64,
}

impl<'t> Digits<'t> {
    pub fn of(bytes: &'t [u8]) -> Digits<'t> {
        Digits { bytes, base: 0, mask: mask(bytes) }
    }

    /// The first digit at or behind `from`, which never lies before an earlier one.
    pub fn next(&mut self, from: usize) -> Option<usize> {
        if from >= self.base + BLOCK {
            self.base = from;
            self.mask = mask(self.bytes.get(from..).unwrap_or_default());
        } else {
            self.mask &= u64::MAX << from.saturating_sub(self.base);
        }
        while self.mask == 0 {
            self.base += BLOCK;
            self.mask = mask(self.bytes.get(self.base..)?);
        }
        Some(self.base + self.mask.trailing_zeros() as usize)
    }
}

/// Which of the first 64 of `bytes` are digits.
fn mask(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<BLOCK>() {
        Some(block) => full_mask(block),
        None => {
            let mut block = [0; BLOCK];
            block[..bytes.len()].copy_from_slice(bytes);
            full_mask(&block)
        }
    }
}

fn full_mask(block: &[u8; BLOCK]) -> u64 {
    let (zero, nine) = (u8x16::splat(b'0'), u8x16::splat(9));
    let (quarters, _) = block.as_chunks::<16>();
    quarters.iter().enumerate().fold(0, |mask, (place, quarter)| {
        let value = u8x16::new(*quarter) - zero;
        let digits = value.min(nine).simd_eq(value).to_bitmask();
        mask | u64::from(digits as u16) << (place * 16)
    })
}

/// A class of bytes, in one look instead of several comparisons.
pub struct Class([bool; 256]);

impl Class {
    const fn of(extra: &[u8]) -> Class {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            table[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let mut place = 0;
        while place < extra.len() {
            table[extra[place] as usize] = true;
            place += 1;
        }
        Class(table)
    }

    pub fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte)]
    }

    /// Where the bytes of this class end that begin at `from`, at most `most` of them.
    pub fn end(&self, bytes: &[u8], from: usize, most: usize) -> usize {
        let limit = bytes.len().min(from + most);
        let mut at = from;
        while at < limit && self.has(bytes[at]) {
            at += 1;
        }
        at
    }

    /// Where the bytes of this class begin that end before `at`, not before `floor`, at most `most` of them.
    pub fn start(&self, bytes: &[u8], floor: usize, at: usize, most: usize) -> usize {
        let limit = floor.max(at.saturating_sub(most));
        let mut at = at;
        while at > limit && self.has(bytes[at - 1]) {
            at -= 1;
        }
        at
    }
}

/// Hexadecimal digits.
pub static HEX: Class = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_hexdigit();
        byte += 1;
    }
    Class(table)
};
/// Letters and digits.
pub static WORD: Class = Class::of(b"");
/// Base64url, of which most tokens are made.
pub static TOKEN: Class = Class::of(b"_-");
/// Identifiers of programs, their members included.
pub static NAME: Class = Class::of(b"_-.");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_digit_is_found_from_everywhere(text in "([a-z:/é]{0,90}[0-9]{0,3}){0,4}", steps in prop::collection::vec(0usize..70, 1..9)) {
            let bytes = text.as_bytes();
            let mut digits = Digits::of(bytes);
            let mut from = 0;
            for step in steps {
                let expected = (from..bytes.len()).find(|place| bytes[*place].is_ascii_digit());
                prop_assert_eq!(digits.next(from), expected);
                from = expected.unwrap_or(from) + step;
            }
        }
    }
}
