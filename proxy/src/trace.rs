//! Names for a request: its id, and its place in a distributed trace (W3C Trace Context).

use std::cell::RefCell;

thread_local! {
    static GENERATOR: RefCell<Generator> = RefCell::new(Generator::new());
}

/// Random bytes of a thread: the output of BLAKE3 of a count, keyed with 256 bits from the operating system. A system
/// call for each id would cost more than everything else that an id needs, and so would a hash.
struct Generator {
    key: [u8; 32],
    count: u64,
    made: [u8; MADE],
    used: usize,
}

/// So many bytes are made at once.
const MADE: usize = 1_024;

impl Generator {
    fn new() -> Generator {
        let mut key = [0; 32];
        // Without randomness an id is only less unique; nothing is kept apart by it.
        let _ = getrandom::fill(&mut key);
        Generator { key, count: 0, made: [0; MADE], used: MADE }
    }

    fn take<const BYTES: usize>(&mut self) -> [u8; BYTES] {
        const { assert!(BYTES <= MADE) };
        if self.used + BYTES > MADE {
            self.count += 1;
            let mut hash = blake3::Hasher::new_keyed(&self.key);
            hash.update(&self.count.to_le_bytes()).finalize_xof().fill(&mut self.made);
            self.used = 0;
        }
        let from = self.used;
        self.used += BYTES;
        std::array::from_fn(|at| self.made[from + at])
    }
}

/// `BYTES` random bytes in hexadecimal.
pub fn random_hex<const BYTES: usize>() -> String {
    random_text::<BYTES>(b"0123456789abcdef")
}

/// `BYTES` random bytes in letters alone, which nothing takes for the number of an account or a card.
pub fn random_letters<const BYTES: usize>() -> String {
    random_text::<BYTES>(b"abcdefghijklmnop")
}

fn random_text<const BYTES: usize>(digits: &[u8; 16]) -> String {
    let bytes: [u8; BYTES] = GENERATOR.with_borrow_mut(Generator::take);
    let mut text = String::with_capacity(BYTES * 2);
    for byte in &bytes {
        text.push(char::from(digits[usize::from(byte >> 4)]));
        text.push(char::from(digits[usize::from(byte & 15)]));
    }
    text
}

/// The `traceparent` to send on: the caller's trace with a parent of our own, or a new trace.
pub fn traceparent(received: Option<&str>) -> String {
    let parent = random_hex::<8>();
    match received.and_then(parse) {
        Some((trace, flags)) => ["00-", trace, "-", &parent, "-", flags].concat(),
        None => ["00-", &random_hex::<16>(), "-", &parent, "-00"].concat(),
    }
}

/// Trace id and flags of a well-formed `traceparent` of any version.
fn parse(text: &str) -> Option<(&str, &str)> {
    let mut parts = text.trim().split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let fits = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && !zero(trace)
        && hex(parent, 16)
        && !zero(parent)
        && hex(flags, 2);
    (fits && (version != "00" || parts.next().is_none())).then_some((trace, flags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_scrub::{Kind, Rules, find};

    #[test]
    fn no_id_comes_twice() {
        let ids: std::collections::HashSet<String> = (0..1_000).map(|_| random_hex::<16>()).collect();
        assert_eq!(ids.len(), 1_000);
        assert!(ids.iter().all(|id| id.len() == 32));
    }

    #[test]
    fn letters_are_taken_for_nothing() {
        let rules = Rules::of(&Kind::ALL);
        let text: String = (0..100_000).map(|_| format!("<context-{}>\n", random_letters::<8>())).collect();
        assert_eq!(find(&text, &rules).len(), 0);
    }

    #[test]
    fn a_callers_trace_goes_on_with_a_new_parent() {
        let sent = traceparent(Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        assert!(sent.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && sent.ends_with("-01"));
        assert!(!sent.contains("b7ad6b7169203331"));
        for bad in [
            "",
            "00-0-0-0",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            assert!(traceparent(Some(bad)).ends_with("-00"), "{bad}");
        }
    }
}
