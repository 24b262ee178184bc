//! Telephone numbers: by their country code, by the shape of a national plan, or by the word beside them.

/// National (significant) numbers of each country code, in digits: at least, at most. From the ITU's list of assigned
/// codes (E.164, 2016-11) and the plans that the countries publish; a code that is not here may have 5 to 12.
const PLANS: &[(u32, u8, u8)] = &[
    (1, 10, 10),
    (7, 10, 10),
    (20, 8, 10),
    (27, 9, 9),
    (30, 10, 10),
    (31, 9, 9),
    (32, 8, 9),
    (33, 9, 9),
    (34, 9, 9),
    (36, 8, 9),
    (39, 6, 11),
    (40, 9, 9),
    (41, 9, 9),
    (43, 7, 13),
    (44, 9, 10),
    (45, 8, 8),
    (46, 7, 10),
    (47, 8, 8),
    (48, 9, 9),
    (49, 6, 12),
    (51, 8, 9),
    (52, 10, 11),
    (53, 6, 8),
    (54, 10, 11),
    (55, 10, 11),
    (56, 9, 9),
    (57, 8, 10),
    (58, 10, 10),
    (60, 8, 10),
    (61, 9, 9),
    (62, 8, 12),
    (63, 8, 10),
    (64, 8, 10),
    (65, 8, 8),
    (66, 8, 9),
    (81, 9, 10),
    (82, 8, 10),
    (84, 9, 10),
    (86, 9, 12),
    (90, 10, 10),
    (91, 10, 10),
    (92, 9, 10),
    (93, 9, 9),
    (94, 9, 9),
    (95, 7, 10),
    (98, 10, 10),
    (212, 9, 9),
    (213, 8, 9),
    (216, 8, 8),
    (218, 8, 9),
    (220, 7, 7),
    (221, 9, 9),
    (225, 10, 10),
    (233, 9, 9),
    (234, 8, 10),
    (237, 9, 9),
    (243, 9, 9),
    (249, 9, 9),
    (251, 9, 9),
    (254, 9, 10),
    (255, 9, 9),
    (256, 9, 9),
    (260, 9, 9),
    (263, 9, 9),
    (351, 9, 9),
    (352, 6, 11),
    (353, 7, 9),
    (354, 7, 9),
    (355, 8, 9),
    (356, 8, 8),
    (357, 8, 8),
    (358, 6, 11),
    (359, 8, 9),
    (370, 8, 8),
    (371, 8, 8),
    (372, 7, 8),
    (373, 8, 8),
    (374, 8, 8),
    (375, 9, 9),
    (376, 6, 9),
    (377, 8, 9),
    (380, 9, 9),
    (381, 8, 9),
    (385, 8, 9),
    (386, 8, 8),
    (387, 8, 8),
    (389, 8, 8),
    (420, 9, 9),
    (421, 9, 9),
    (423, 7, 9),
    (502, 8, 8),
    (503, 8, 8),
    (504, 8, 8),
    (505, 8, 8),
    (506, 8, 8),
    (507, 7, 8),
    (591, 8, 8),
    (593, 8, 9),
    (595, 9, 9),
    (598, 8, 8),
    (852, 8, 8),
    (853, 8, 8),
    (855, 8, 9),
    (856, 8, 10),
    (880, 8, 10),
    (886, 8, 9),
    (960, 7, 7),
    (961, 7, 8),
    (962, 8, 9),
    (963, 8, 9),
    (964, 8, 10),
    (965, 8, 8),
    (966, 9, 9),
    (967, 7, 9),
    (968, 8, 8),
    (970, 8, 9),
    (971, 8, 9),
    (972, 8, 9),
    (973, 8, 8),
    (974, 8, 8),
    (975, 8, 8),
    (976, 8, 8),
    (977, 8, 10),
    (992, 9, 9),
    (993, 8, 8),
    (994, 9, 9),
    (995, 9, 9),
    (996, 9, 9),
    (998, 9, 9),
];

/// Whether the digits behind a plus sign are a country code and as many digits as its plan has. Some write the trunk's
/// zero too.
pub fn is_international(digits: &[u8]) -> bool {
    if !(7..=16).contains(&digits.len()) || digits[0] == b'0' {
        return false;
    }
    let plan = (1..=3).find_map(|length| {
        let code = digits.get(..length)?.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        PLANS.iter().find(|(known, ..)| *known == code).map(|plan| (length, plan))
    });
    match plan {
        Some((length, (_, least, most))) => {
            let national = &digits[length..];
            let trunk = usize::from(national.first() == Some(&b'0'));
            (usize::from(*least)..=usize::from(*most) + trunk).contains(&national.len())
        }
        None => (8..=15).contains(&digits.len()) && matches!(digits[0], b'2'..=b'9'),
    }
}

/// North American Numbering Plan: area code and exchange begin with 2 to 9, and neither ends in 11.
pub fn is_north_american(digits: &[u8]) -> bool {
    let service = |part: &[u8]| part[1] == b'1' && part[2] == b'1';
    digits.len() == 10 && digits[0] >= b'2' && digits[3] >= b'2' && !service(&digits[..3]) && !service(&digits[3..6])
}

/// A mobile number of the PRC: 13 to 19, and nine digits more.
pub fn is_chinese_mobile(digits: &[u8]) -> bool {
    digits.len() == 11 && digits[0] == b'1' && digits[1] >= b'3'
}

/// How sure a national number is without a word beside it, by its digits, the lengths of its runs and whether its first
/// run stands in brackets.
pub fn national(digits: &[u8], runs: &[u8], bracketed: bool, separator: Option<u8>) -> Option<f32> {
    let strict = |expected: &[u8]| runs == expected;
    if is_chinese_mobile(digits) && (strict(&[11]) || strict(&[3, 4, 4])) {
        return Some(0.75);
    }
    // The same behind its country code without a plus sign.
    if digits.len() == 13
        && digits.starts_with(b"86")
        && is_chinese_mobile(&digits[2..])
        && (strict(&[13]) || strict(&[2, 11]) || strict(&[2, 3, 4, 4]))
    {
        return Some(0.7);
    }
    if digits.len() == 15 && digits.starts_with(b"0086") && is_chinese_mobile(&digits[4..]) {
        return Some(0.75);
    }
    // The usual prefix of international calls, in groups.
    if digits.starts_with(b"00") && runs.len() > 1 && is_international(&digits[2..]) && digits.len() >= 11 {
        return Some(0.65);
    }
    if digits.len() == 11 && digits[0] == b'1' && is_north_american(&digits[1..]) && strict(&[1, 3, 3, 4]) {
        return Some(0.75);
    }
    if is_north_american(digits) && (strict(&[3, 3, 4]) || (bracketed && strict(&[3, 7]))) {
        return Some(if bracketed { 0.85 } else { 0.7 });
    }
    let [first, rest @ ..] = runs else { return None };
    if rest.is_empty() {
        return None;
    }
    // A trunk prefix or an area code in brackets, then the subscriber in groups.
    let groups = rest.iter().all(|run| (2..=8).contains(run));
    let total = digits.len();
    if bracketed && (2..=5).contains(first) && groups && (8..=12).contains(&total) {
        return Some(0.75);
    }
    let trunk = digits[0] == b'0' && digits.get(1).is_some_and(|digit| *digit != b'0');
    let tight = match separator {
        // A postal code of the USA, a number in groups of thousands.
        _ if matches!(runs, [5, 4] | [3, 3, 3]) => false,
        // Fixed lines of the PRC: three or four digits of area, seven or eight of subscriber.
        _ if matches!(runs, [3, 8] | [4, 7] | [4, 8] | [3, 7]) => true,
        Some(b'.') => matches!(runs, [2, 2, 2, 2, 2] | [3, 3, 4] | [4, 3, 3]),
        _ => {
            (2..=5).contains(first) && rest.iter().any(|run| *run >= 3)
                || matches!(runs, [2, 2, 2, 2, 2] | [3, 2, 2, 2] | [3, 2, 2, 3])
        }
    };
    (trunk && groups && tight && (9..=11).contains(&total)).then_some(0.65)
}

/// The length of an extension at the start of `rest`: `ext. 42`, `x42`, `转801`.
pub fn extension(rest: &str) -> Option<usize> {
    let trimmed = rest.trim_start_matches([' ', ',']);
    if rest.len() - trimmed.len() > 2 {
        return None;
    }
    const WORDS: [&str; 14] = [
        "extension",
        "ext.",
        "ext",
        "Extension",
        "Ext.",
        "Ext",
        "EXT.",
        "EXT",
        "x",
        "X",
        "转分机",
        "分机号",
        "分机",
        "转",
    ];
    let after = WORDS.iter().find_map(|word| trimmed.strip_prefix(word)).or_else(|| trimmed.strip_prefix('#'))?;
    let number = after.trim_start_matches([' ', ':', '.']);
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    let bounded = !number[digits..].starts_with(|next: char| next.is_ascii_alphanumeric());
    ((1..=6).contains(&digits) && bounded && after.len() - number.len() <= 2)
        .then(|| rest.len() - number.len() + digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn country_codes_decide_the_length() {
        for good in ["14155550132", "442079460018", "8613812345678", "4930422358", "5511912345678", "919876543210"] {
            assert!(is_international(good.as_bytes()), "{good}");
        }
        for bad in ["1415555013", "331234", "0123456789", "12345678901234567"] {
            assert!(!is_international(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn national_shapes_are_told_from_other_numbers() {
        assert!(national(b"4155550132", &[3, 3, 4], false, Some(b'-')).is_some());
        assert!(national(b"0206794601", &[10], false, None).is_none());
        assert!(national(b"02079460018", &[3, 4, 4], false, Some(b' ')).is_some());
        assert!(national(b"0612345678", &[2, 2, 2, 2, 2], false, Some(b' ')).is_some());
        assert!(national(b"1110123456", &[3, 3, 4], false, Some(b'-')).is_none());
    }

    #[test]
    fn extensions_belong_to_the_number() {
        assert_eq!(extension(" ext. 42."), Some(8));
        assert_eq!(extension("x42"), Some(3));
        assert_eq!(extension("转801，"), Some("转801".len()));
        assert_eq!(extension(" xylophone"), None);
    }
}
