//! Check digits. All take plain ASCII digits (or letters where a scheme has them), without separators.

use sha2::{Digest, Sha256};
use sha3::Keccak256;

/// The value of an ASCII digit.
fn value(digit: u8) -> u32 {
    u32::from(digit.wrapping_sub(b'0'))
}

/// Sum of each digit times its weight.
pub fn weighted(digits: &[u8], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(digit, weight)| value(*digit) * weight).sum()
}

/// ISO/IEC 7812-1 annex B.
pub fn luhn(digits: &[u8]) -> bool {
    let double = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| if place % 2 == 0 { value(*digit) } else { double(value(*digit)) })
        .sum();
    sum.is_multiple_of(10) && digits.iter().any(|digit| *digit != digits[0])
}

/// ISO 7064 mod 97-10 as ISO 13616 applies it: the first four characters go to the end, letters count from 10.
pub fn iban(compact: &[u8]) -> bool {
    let (Some(head), Some(tail)) = (compact.get(..4), compact.get(4..)) else { return false };
    let remainder = tail.iter().chain(head).try_fold(0u32, |remainder, byte| {
        let value = char::from(*byte).to_digit(36)?;
        Some((remainder * if value > 9 { 100 } else { 10 } + value) % 97)
    });
    remainder == Some(1)
}

/// ISO 7064 mod 11-2 over 17 digits and a check character, `X` for 10.
pub fn mod_11_2(characters: &[u8]) -> bool {
    let Some((check, digits)) = characters.split_last() else { return false };
    let sum = digits.iter().fold(0, |sum, digit| (sum + value(*digit)) * 2 % 11);
    let wanted = (12 - sum) % 11;
    match check {
        b'X' | b'x' => wanted == 10,
        digit => value(*digit) == wanted,
    }
}

/// ISO 7064 mod 11-10, with the check digit last.
pub fn mod_11_10(digits: &[u8]) -> bool {
    let Some((check, digits)) = digits.split_last() else { return false };
    let product = digits.iter().fold(10, |product, digit| {
        let sum = (value(*digit) + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    (11 - product) % 10 == value(*check)
}

/// Verhoeff 1969.
pub fn verhoeff(digits: &[u8]) -> bool {
    const PRODUCT: [[u8; 10]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
        [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
        [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
        [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
        [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
        [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
        [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
        [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
        [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ];
    const PERMUTATION: [[u8; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    let sum = digits.iter().rev().enumerate().fold(0, |sum: u8, (place, digit)| {
        PRODUCT[usize::from(sum)][usize::from(PERMUTATION[place % 8][value(*digit) as usize % 10])]
    });
    sum == 0
}

/// EAN-13 and its like: weights 1 and 3 from the left.
pub fn ean13(digits: &[u8]) -> bool {
    digits.len() == 13 && weighted(digits, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]).is_multiple_of(10)
}

/// ABA routing number: weights 3, 7, 1, and a first pair that the Federal Reserve gives out.
pub fn aba(digits: &[u8]) -> bool {
    let pair = digits.get(..2).map_or(99, |pair| value(pair[0]) * 10 + value(pair[1]));
    digits.len() == 9
        && matches!(pair, 0..=12 | 21..=32 | 61..=72 | 80)
        && weighted(digits, &[3, 7, 1, 3, 7, 1, 3, 7, 1]).is_multiple_of(10)
        && digits.iter().any(|digit| *digit != b'0')
}

const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// Base58check: 25 bytes, a version and 20 bytes of hash, of which four are the start of a double SHA-256. Its version.
pub fn base58check(text: &[u8]) -> Option<u8> {
    base58check_of::<25>(text, BASE58).map(|bytes| bytes[0])
}

/// An address of Zcash: two bytes of version, of the main net (0x1CB8, 0x1CBD) or the test net (0x1D25, 0x1CBA).
pub fn zcash(text: &[u8]) -> bool {
    base58check_of::<26>(text, BASE58)
        .is_some_and(|bytes| matches!(bytes[..2], [0x1c, 0xb8 | 0xbd | 0xba] | [0x1d, 0x25]))
}

/// An address of the XRP Ledger: the same with an alphabet of its own.
pub fn ripple(text: &[u8]) -> bool {
    const ALPHABET: &[u8; 58] = b"rpshnaf39wBUDNEGHJKLM4PQRST7VWXYZ2bcdeCg65jkm8oFqi1tuvAxyz";
    base58check_of::<25>(text, ALPHABET).is_some_and(|bytes| bytes[0] == 0)
}

/// The bytes of `text`, whose last four are the start of a double SHA-256 of the others.
fn base58check_of<const LENGTH: usize>(text: &[u8], alphabet: &[u8; 58]) -> Option<[u8; LENGTH]> {
    let mut bytes = [0u8; LENGTH];
    for character in text {
        let mut carry = alphabet.iter().position(|other| other == character)? as u32;
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            *byte = carry as u8;
            carry >>= 8;
        }
        if carry != 0 {
            return None;
        }
    }
    let (body, check) = bytes.split_at(LENGTH - 4);
    (Sha256::digest(Sha256::digest(body))[..4] == *check).then_some(bytes)
}

/// Bech32 (BIP 173) and bech32m (BIP 350): the polynomial over prefix and data, all in one case.
pub fn bech32(prefix: &[u8], data: &[u8]) -> bool {
    const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let step = |sum: u32, value: u32| {
        let top = sum >> 25;
        GENERATOR
            .iter()
            .enumerate()
            .filter(|(place, _)| top >> place & 1 == 1)
            .fold((sum & 0x1ff_ffff) << 5 ^ value, |sum, (_, factor)| sum ^ factor)
    };
    let lower = |byte: &u8| byte.to_ascii_lowercase();
    let mut sum = prefix.iter().map(lower).fold(1, |sum, byte| step(sum, u32::from(byte >> 5)));
    sum = step(sum, 0);
    sum = prefix.iter().map(lower).fold(sum, |sum, byte| step(sum, u32::from(byte & 31)));
    for byte in data.iter().map(lower) {
        let Some(value) = ALPHABET.iter().position(|other| *other == byte) else { return false };
        sum = step(sum, value as u32);
    }
    matches!(sum, 1 | 0x2bc8_30a3)
}

/// EIP-55 over the 40 hexadecimal digits of an Ethereum address. One in a single case carries no checksum.
pub fn eip55(digits: &[u8]) -> bool {
    let has = |test: fn(&u8) -> bool| digits.iter().any(test);
    if !(has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase)) {
        return true;
    }
    let hash = Keccak256::digest(digits.to_ascii_lowercase());
    digits.iter().enumerate().all(|(place, digit)| {
        let nibble = hash[place / 2] >> (if place % 2 == 0 { 4 } else { 0 }) & 15;
        !digit.is_ascii_alphabetic() || digit.is_ascii_uppercase() == (nibble >= 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `good` passes, and no other last digit does.
    fn only_digit(check: fn(&[u8]) -> bool, good: &str) {
        for last in b'0'..=b'9' {
            let mut digits = good.as_bytes().to_vec();
            let end = digits.len() - 1;
            let expected = digits[end] == last;
            digits[end] = last;
            assert_eq!(check(&digits), expected, "{}", String::from_utf8_lossy(&digits));
        }
    }

    #[test]
    fn published_examples_pass_and_no_other_check_digit_does() {
        only_digit(luhn, "4111111111111111");
        only_digit(iban, "GB82WEST12345698765432");
        only_digit(mod_11_10, "36574261809");
        only_digit(verhoeff, "2363");
        only_digit(ean13, "4006381333931");
        only_digit(aba, "021000021");
        assert!(mod_11_2(b"11010519491231002X") && !mod_11_2(b"110105194912310021"));
    }

    #[test]
    fn addresses_of_the_specifications_pass() {
        assert_eq!(base58check(b"1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"), Some(0));
        assert_eq!(base58check(b"1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb"), None);
        assert!(bech32(b"bc", b"qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"));
        assert!(!bech32(b"bc", b"qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5"));
        assert!(bech32(b"bc", b"p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0"));
        assert!(eip55(b"5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"));
        assert!(!eip55(b"5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD"));
        assert!(eip55(b"5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"));
    }
}
