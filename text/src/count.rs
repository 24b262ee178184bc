//! Tokens of a text.

use std::sync::atomic::{AtomicBool, Ordering};

/// The vocabulary that is counted with: OpenAI's since GPT-4o. For other models the count is an estimate.
pub const ENCODING: &str = "o200k_base";

static READY: AtomicBool = AtomicBool::new(false);

/// How many tokens `text` is in [`ENCODING`]. Costs about 20 ns a byte; counts are stored, not taken per request.
pub fn count_tokens(text: &str) -> usize {
    tiktoken_rs::o200k_base_singleton().encode_ordinary(text).len()
}

/// Loads the vocabulary (hundreds of milliseconds, some 46 MB), so that the first count does not wait for it.
pub fn warm() {
    tiktoken_rs::o200k_base_singleton();
    READY.store(true, Ordering::Release);
}

/// Whether the vocabulary is loaded.
pub fn is_warm() -> bool {
    READY.load(Ordering::Acquire)
}

/// At least about so many tokens as `text` has, without the vocabulary: letters and blanks by threes, digits by twos, signs
/// and characters of other scripts one by one, and those beyond the basic plane for three.
fn estimate_tokens(text: &str) -> usize {
    let weight = |character: char| match character {
        'a'..='z' | 'A'..='Z' | ' ' => 2,
        '0'..='9' => 3,
        '\u{10000}'.. => 18,
        _ => 6,
    };
    text.chars().map(weight).sum::<usize>().div_ceil(6)
}

/// [`count_tokens`], or the estimate while the vocabulary is being loaded.
pub fn about_tokens(text: &str) -> usize {
    if is_warm() { count_tokens(text) } else { estimate_tokens(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_on_the_safe_side() {
        for text in [
            "How long do refunds take? Please answer in a few words, as a friend would.",
            "退款需要多长时间？请用几句话回答。",
            "fn main() { println!(\"{}\", 42 * 17); } // as it stands in main.rs",
            "Сколько времени занимает возврат денег?",
            r#"{"a":[1,2,3],"b":{"c":"d","e":null},"f":[{"g":-1.5e9}]}"#,
            "🙂👍🏽👨‍👩‍👧‍👦 🇫🇷",
            "",
        ] {
            assert!(estimate_tokens(text) >= count_tokens(text), "{text}");
        }
    }
}
