//! A print of a text: similar texts have prints that differ in few bits.

/// SimHash (Charikar, STOC 2002) over pairs of neighbouring words, 64 bits; a character of a script without spaces is
/// a word. Texts of the same words in the same order have the same print, whatever stands between the words; a text
/// without words has 0.
pub fn print(text: &str) -> u64 {
    let mut votes = [0i32; 64];
    let mut before = 0u64;
    let mut hash = 0u64;
    let mut vote = |hash: &mut u64| {
        if *hash != 0 {
            let pair = mix(before.rotate_left(17) ^ *hash);
            votes.iter_mut().enumerate().for_each(|(bit, vote)| *vote += 2 * (pair >> bit & 1) as i32 - 1);
            before = std::mem::take(hash);
        }
    };
    for character in text.chars() {
        let alone = u32::from(character) >= 0x2e80;
        if alone || !character.is_alphanumeric() {
            vote(&mut hash);
        }
        if character.is_alphanumeric() {
            for folded in character.to_lowercase() {
                hash = mix(hash.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ u64::from(folded));
            }
        }
        if alone {
            vote(&mut hash);
        }
    }
    vote(&mut hash);
    votes.iter().enumerate().fold(0, |print, (bit, vote)| print | u64::from(*vote > 0) << bit)
}

/// Spreads a hash over all its bits (the finalizer of MurmurHash3).
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_copies_have_near_prints() {
        let words: Vec<String> = (0..120).map(|number| format!("word{}", number * 7 % 113)).collect();
        let text = words.join(" ");
        let mut edited = words.clone();
        edited[60] = "another".into();
        let apart = |other: &str| (print(&text) ^ print(other)).count_ones();
        assert_eq!(apart(&words.join(", ")), 0);
        assert!(apart(&edited.join(" ")) <= 6, "{}", apart(&edited.join(" ")));
        let other: Vec<String> = (0..120).map(|number| format!("term{}", number * 5 % 101)).collect();
        assert!(apart(&other.join(" ")) >= 16);
    }
}
