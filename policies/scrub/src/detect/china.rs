//! Numbers of the People's Republic of China that carry a check.

use super::checksum::mod_11_2;
use super::date::is_date;

/// The first two digits of GB/T 2260: provinces, autonomous regions, municipalities, Hong Kong, Macao, Taiwan.
fn is_region(code: u32) -> bool {
    matches!(code, 11..=15 | 21..=23 | 31..=37 | 41..=46 | 50..=54 | 61..=65 | 71 | 81..=83 | 91)
}

fn number(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit.wrapping_sub(b'0')))
}

/// Whether 18 digits are laid out as a resident's number, whatever their check says.
pub fn is_resident_shape(digits: &[u8]) -> bool {
    is_region(number(&digits[..2])) && is_date(number(&digits[6..10]), number(&digits[10..12]), number(&digits[12..14]))
}

/// GB 11643-1999: region, date of birth, order, and an ISO 7064 mod 11-2 check character.
pub fn is_resident_id(characters: &[u8]) -> bool {
    characters.len() == 18
        && characters[..17].iter().all(u8::is_ascii_digit)
        && is_region(number(&characters[..2]))
        && is_date(number(&characters[6..10]), number(&characters[10..12]), number(&characters[12..14]))
        && mod_11_2(characters)
}

/// The number of 1984: two-digit year and no check, so it needs a word beside it.
pub fn is_old_resident_id(digits: &[u8]) -> bool {
    digits.len() == 15
        && is_region(number(&digits[..2]))
        && is_date(1900 + number(&digits[6..8]), number(&digits[8..10]), number(&digits[10..12]))
}

/// GB 32100-2015: department and kind, region, the organisation's code of GB 11714 with its own check, and a check of
/// mod 31.
pub fn is_credit_code(characters: &[u8]) -> bool {
    const ALPHABET: &[u8; 31] = b"0123456789ABCDEFGHJKLMNPQRTUWXY";
    let value = |byte: &u8| ALPHABET.iter().position(|other| other == byte);
    if characters.len() != 18 || !characters[2..8].iter().all(u8::is_ascii_digit) {
        return false;
    }
    // Registries other than those of institutions, civil affairs and commerce give out few; digits alone are then more
    // likely another number.
    let usual = matches!(
        (characters[0], characters[1]),
        (b'1', b'1' | b'2' | b'3' | b'9') | (b'5', b'1' | b'2' | b'3' | b'9') | (b'9', b'1' | b'2' | b'3')
    );
    let rare = matches!(characters[0], b'2'..=b'4' | b'6'..=b'8' | b'A' | b'N' | b'Y')
        && matches!(characters[1], b'1'..=b'5' | b'9')
        && characters[8..17].iter().any(u8::is_ascii_alphabetic);
    let kinds = usual || rare;
    if !kinds {
        return false;
    }
    let mut weight = 1;
    let mut sum = 0;
    for character in &characters[..17] {
        let Some(value) = value(character) else { return false };
        sum += value * weight;
        weight = weight * 3 % 31;
    }
    ALPHABET[(31 - sum % 31) % 31] == characters[17]
}

/// The one-character names of provinces that begin number plates.
pub const PROVINCES: &str = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼";

/// What may follow the five or six characters of a plate.
pub const PLATE_ENDS: [&str; 7] = ["学", "警", "港", "澳", "挂", "使", "领"];

/// GA 36-2018: letters and digits behind the issuing office's letter, without I and O; new-energy vehicles have six.
pub fn is_plate(tail: &[u8]) -> bool {
    let usual = |byte: &u8| byte.is_ascii_digit() || (byte.is_ascii_uppercase() && !matches!(byte, b'I' | b'O'));
    let digits = tail.iter().filter(|byte| byte.is_ascii_digit()).count();
    matches!(tail.len(), 5 | 6) && tail.iter().all(usual) && digits >= 2
}

/// The same with a sign behind it, which is one of its characters.
pub fn is_signed_plate(tail: &[u8]) -> bool {
    let usual = |byte: &u8| byte.is_ascii_digit() || (byte.is_ascii_uppercase() && !matches!(byte, b'I' | b'O'));
    tail.len() == 4 && tail.iter().all(usual) && tail.iter().filter(|byte| byte.is_ascii_digit()).count() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checks_hold() {
        assert!(is_resident_id(b"11010519491231002X"));
        assert!(!is_resident_id(b"110105194912310021"));
        assert!(!is_resident_id(b"99010519491231002X"));
        assert!(is_credit_code(b"91350100M000100Y43"));
        assert!(!is_credit_code(b"91350100M000100Y44"));
        assert!(is_plate(b"D179BX") && is_plate(b"21119") && !is_plate(b"ABCDE"));
    }
}
