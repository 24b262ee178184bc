//! Addresses of networks, machines and wallets, credentials in URLs, and electronic mail.

use super::checksum::{base58check, bech32, eip55, ripple, zcash};
use std::net::Ipv6Addr;
use std::ops::Range;

/// RFC 5321 section 4.5.3.1.1.
const MAX_LOCAL: usize = 64;
/// RFC 5321 section 4.5.3.1.2.
const MAX_DOMAIN: usize = 255;
/// Longest authority of a URL that is read.
const MAX_AUTHORITY: usize = 512;
/// Longest URL with credentials that is replaced whole.
const MAX_URL: usize = 2_048;

/// `atext` of RFC 5322 section 3.2.3 and the dot, less what in running text is punctuation.
fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-' | b'\'')
}

/// What follows an at sign in names of files and packages, and is no top-level domain.
const NOT_DOMAINS: [&str; 16] =
    ["png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "css", "js", "mjs", "ts", "tsx", "json", "html", "mp4", "pdf"];

/// Top-level domains in Han characters.
const HAN_DOMAINS: [&str; 12] =
    ["中国", "中國", "公司", "网络", "網絡", "香港", "台湾", "台灣", "网址", "商城", "我爱你", "在线"];

/// The address around the at sign at `at`, not reaching before `floor`.
pub fn email(text: &str, floor: usize, at: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let mut start = local(bytes, floor, at)?;
    let end = domain(text, at + 1)?;
    // The user of a URL has no mailbox.
    if bytes[..start].ends_with(b"://") {
        return None;
    }
    // Markdown's emphasis.
    if bytes[start] == b'_' && bytes.get(end) == Some(&b'_') && start + 1 < at {
        start += 1;
    }
    // `git@host:path` is a place, not a person.
    let is_remote = bytes.get(end) == Some(&b':') && bytes.get(end + 1).is_some_and(u8::is_ascii_alphabetic);
    (!(is_remote && matches!(&bytes[start..at], b"git" | b"hg" | b"svn"))).then_some(start..end)
}

fn local(bytes: &[u8], floor: usize, at: usize) -> Option<usize> {
    if at > floor && bytes[at - 1] == b'"' {
        // A quoted local part, on one line.
        let from = floor.max(at.saturating_sub(MAX_LOCAL + 2));
        let open = from + memchr::memrchr(b'"', &bytes[from..at - 1])?;
        let inner = &bytes[open + 1..at - 1];
        let free = open == 0 || !bytes[open - 1].is_ascii_alphanumeric();
        return (free && !inner.is_empty() && inner.iter().all(|byte| (0x20..0x7f).contains(byte))).then_some(open);
    }
    let length = bytes[floor..at].iter().rev().take(MAX_LOCAL + 1).take_while(|&&byte| is_local(byte)).count();
    let mut start = at - length.min(MAX_LOCAL);
    if length > MAX_LOCAL {
        return None;
    }
    // An escaped line break before the address is not its first letter.
    if start > floor && bytes[start - 1] == b'\\' && matches!(bytes[start], b'n' | b't' | b'r') && start + 1 < at {
        start += 1;
    }
    while start < at && matches!(bytes[start], b'.' | b'\'' | b'-' | b'+' | b'%') {
        start += 1;
    }
    (start < at && bytes[at - 1] != b'.').then_some(start)
}

/// Where the domain that begins at `start` ends.
fn domain(text: &str, start: usize) -> Option<usize> {
    let rest = &text[start..];
    if let Some(inner) = rest.strip_prefix('[') {
        // An address literal, RFC 5321 section 4.1.3.
        let close = inner.bytes().take(48).position(|byte| byte == b']')?;
        let literal = inner[..close].strip_prefix("IPv6:").unwrap_or(&inner[..close]);
        return literal.parse::<std::net::IpAddr>().is_ok().then_some(start + close + 2);
    }
    // Letters of other scripts belong to it, Han only in front of a top-level domain in Han.
    let mut end = 0;
    for (at, character) in rest.char_indices().take(MAX_DOMAIN) {
        let belongs = character.is_ascii_alphanumeric()
            || matches!(character, '-' | '.')
            || (character.is_alphabetic() && !is_wide(character));
        if !belongs {
            break;
        }
        end = at + character.len_utf8();
    }
    if let Some(han) = han_domain(rest) {
        return Some(start + han);
    }
    let mut host = rest[..end].trim_end_matches(['.', '-']);
    // A sentence may go on behind the address without a space; the labels end at the first that is empty.
    if let Some(empty) = host.find("..") {
        host = &host[..empty];
    }
    while let Some((labels, last)) = host.rsplit_once('.') {
        let letters = last.chars().all(char::is_alphabetic) && last.chars().count() >= 2;
        if (letters && last.len() <= 24 && !is_prose(last, labels)) || last.starts_with("xn--") {
            let well_formed = labels.split('.').all(|label| {
                !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
            });
            let lower = last.to_ascii_lowercase();
            return (well_formed && !NOT_DOMAINS.contains(&lower.as_str())).then_some(start + host.len());
        }
        host = labels;
    }
    None
}

/// Whether a last label is the first word of the next sentence: `write to a@b.com.Thanks`.
fn is_prose(last: &str, labels: &str) -> bool {
    labels.contains('.')
        && last.starts_with(|first: char| first.is_ascii_uppercase())
        && last.chars().skip(1).all(|letter| letter.is_ascii_lowercase())
        && labels.chars().all(|letter| !letter.is_ascii_uppercase())
}

/// Scripts that are written without spaces.
pub fn is_wide(character: char) -> bool {
    matches!(u32::from(character), 0x0E00..=0x0EFF | 0x1100..=0x11FF | 0x2E80..=0x9FFF | 0xAC00..=0xD7FF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF)
}

/// The length of a domain that ends in Han, such as `例子.中国`.
fn han_domain(rest: &str) -> Option<usize> {
    // Most text behind an address is ASCII.
    if rest.as_bytes()[..rest.len().min(64)].is_ascii() {
        return None;
    }
    let belongs = |(_, character): &(usize, char)| character.is_alphanumeric() || matches!(character, '-' | '.');
    let mut dots = rest.char_indices().take(64).take_while(belongs).filter(|(_, character)| *character == '.');
    dots.find_map(|(at, _)| {
        let top = HAN_DOMAINS.iter().find(|top| rest[at + 1..].starts_with(**top))?;
        (at > 0).then_some(at + 1 + top.len())
    })
}

/// The URL with credentials around the `://` at `at`, its password not a mere placeholder.
pub fn url_credentials(text: &str, floor: usize, at: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let length = bytes[floor..at].iter().rev().take(32).take_while(|byte| is_scheme(byte)).count();
    let mut start = at - length;
    while start < at && !bytes[start].is_ascii_alphabetic() {
        start += 1;
    }
    if start > floor && bytes[start - 1] == b'\\' && matches!(bytes[start], b'n' | b't' | b'r') {
        start += 1;
    }
    if start >= at {
        return None;
    }
    let rest = &text[at + 3..];
    let simple = rest
        .char_indices()
        .take(MAX_AUTHORITY)
        .find(|(_, character)| ends_url(*character) || *character == '/' || *character == '?')
        .map_or(rest.len().min(MAX_AUTHORITY), |(end, _)| end);
    let hosts = more_hosts(rest, simple);
    let authority = rest.get(..hosts)?;
    let (user_info, host) = authority.rsplit_once('@')?;
    let (_, password) = user_info.split_once(':')?;
    if password.is_empty() || host.is_empty() || super::secret::is_placeholder(password) {
        return None;
    }
    let length = rest
        .char_indices()
        .take(MAX_URL)
        .find(|(at, character)| *at >= hosts && ends_url(*character))
        .map_or(rest.len().min(MAX_URL), |(end, _)| end);
    let mut end = length;
    while !rest.is_char_boundary(end) {
        end -= 1;
    }
    let url = rest[..end].trim_end_matches(['.', ',', ';', ':', '!', '?', ')', '*', '_']);
    Some(start..at + 3 + url.len())
}

/// Where the authority of a URL ends that seemed to end at `end`: an address of IPv6 may stand in brackets, and some
/// databases take several hosts with their ports, which commas part.
fn more_hosts(rest: &str, end: usize) -> usize {
    let bytes = rest.as_bytes();
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let port = |at: usize| match bytes.get(at) {
        Some(b':') => at + 1 + bytes[at + 1..].iter().take(5).take_while(|byte| is_digit(byte)).count(),
        _ => at,
    };
    let in_brackets = bytes.get(end) == Some(&b']')
        && rest[..end].rsplit_once("@[").is_some_and(|(_, address)| address.parse::<Ipv6Addr>().is_ok());
    let mut end = if in_brackets { port(end + 1) } else { end };
    while bytes.get(end) == Some(&b',') && end < MAX_AUTHORITY {
        let name = bytes[end + 1..].iter().take(64);
        let host = name.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-')).count();
        let close = port(end + 1 + host);
        if host == 0 || close <= end + 2 + host {
            break;
        }
        end = close;
    }
    end
}

fn ends_url(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(character, '"' | '\'' | '`' | '<' | '>' | '|' | '\\' | '^' | ')' | ']' | '}' | ',' | ';')
        || is_wide(character)
        || matches!(u32::from(character), 0x3000..=0x303F | 0xFF00..=0xFF65)
}

/// Four runs of digits as an address of a machine that may be a person's.
pub fn is_ipv4(runs: [&[u8]; 4]) -> bool {
    let mut octets = [0; 4];
    for (octet, run) in octets.iter_mut().zip(runs) {
        if run.len() > 3 || (run.len() > 1 && run[0] == b'0') {
            return false;
        }
        *octet = run.iter().fold(0, |sum: u32, digit| sum * 10 + u32::from(digit - b'0'));
        if *octet > 255 {
            return false;
        }
    }
    // "This network", loopback and netmasks are nobody's.
    !matches!(octets[0], 0 | 127 | 255)
}

/// The IPv6 address around `at`, zone and prefix length left out.
pub fn ipv6(text: &str, floor: usize, at: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let belongs = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b':';
    let start = at - bytes[floor..at].iter().rev().take(45).take_while(|byte| belongs(byte)).count();
    let mut end = at + bytes[at..].iter().take(46).take_while(|byte| belongs(byte)).count();
    // An IPv4 address may stand at the end.
    if bytes.get(end) == Some(&b'.') {
        let tail = bytes[end..].iter().take(16).take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
        let whole = text[start..end + tail].trim_end_matches('.');
        if whole.parse::<Ipv6Addr>().is_ok() {
            end = start + whole.len();
        }
    }
    let mut address = &text[start..end];
    if address.ends_with(':') && !address.ends_with("::") {
        address = &address[..address.len() - 1];
    }
    let mut start = start;
    if address.starts_with(':') && !address.starts_with("::") {
        address = &address[1..];
        start += 1;
    }
    let end = start + address.len();
    let free = |byte: Option<&u8>| !byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    if !free(bytes.get(end)) || !free(start.checked_sub(1).map(|before| &bytes[before])) {
        return None;
    }
    let colons = address.bytes().filter(|byte| *byte == b':').count();
    let is_short_form = address.as_bytes().windows(2).any(|pair| pair == b"::");
    // Times of day, which are most of what has colons, have too few for the full form.
    if colons < if is_short_form { 2 } else { 6 } {
        return None;
    }
    let groups = address.split(':').filter(|group| !group.is_empty()).count();
    if groups < 3 && !is_short_form || groups < 2 {
        return None;
    }
    let parsed: Ipv6Addr = address.parse().ok()?;
    // `12::34` is as likely a slice or a path in a program.
    let mapped = parsed.to_ipv4_mapped();
    if mapped.is_some_and(|inner| inner.is_loopback() || inner.is_unspecified()) {
        return None;
    }
    let is_short = groups < 3
        && mapped.is_none()
        && !matches!(parsed.segments()[0], 0x2000..=0x3fff | 0xfc00..=0xfdff | 0xfe80..=0xfebf);
    (!parsed.is_loopback() && !parsed.is_unspecified() && !is_short).then_some(start..end)
}

/// The EUI-48 address that begins at `start`: six pairs with one separator, or three groups of four with dots.
pub fn mac(bytes: &[u8], start: usize) -> Option<Range<usize>> {
    let hex = |range: Range<usize>| bytes.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_hexdigit));
    let separator = *bytes.get(start + 2)?;
    let end = match separator {
        b':' | b'-' => {
            let pair = |place: usize| {
                let at = start + place * 3;
                hex(at..at + 2) && (place == 5 || bytes.get(at + 2) == Some(&separator))
            };
            (0..6).all(pair).then_some(start + 17)?
        }
        _ if bytes.get(start + 4) == Some(&b'.') && bytes.get(start + 9) == Some(&b'.') => {
            let groups = hex(start..start + 4) && hex(start + 5..start + 9) && hex(start + 10..start + 14);
            groups.then_some(start + 14)?
        }
        _ => return None,
    };
    let next = bytes.get(end);
    // Digits alone with dots are a card's or a telephone's.
    let dotted = separator != b':' && separator != b'-';
    if dotted && bytes[start..end].iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') {
        return None;
    }
    let bounded = !next.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == separator);
    let address = &bytes[start..end];
    let digits = |wanted: u8| {
        address.iter().filter(|byte| byte.is_ascii_hexdigit()).all(|byte| byte.eq_ignore_ascii_case(&wanted))
    };
    (bounded && !digits(b'f') && !digits(b'0')).then_some(start..end)
}

/// Whether `word` is the address of a wallet, and how sure.
pub fn wallet(word: &[u8]) -> Option<f32> {
    const CHECKED: f32 = 0.97;
    if let Some(digits) = word.strip_prefix(b"0x") {
        let hex = digits.len() == 40 && digits.iter().all(u8::is_ascii_hexdigit);
        let varied = digits.iter().filter(|digit| **digit != b'0').count() > 4;
        let mixed = digits.iter().any(u8::is_ascii_lowercase) && digits.iter().any(u8::is_ascii_uppercase);
        return (hex && varied && eip55(digits)).then_some(if mixed { CHECKED } else { 0.75 });
    }
    const HUMAN: [&[u8]; 22] = [
        b"bc1",
        b"tb1",
        b"bcrt1",
        b"ltc1",
        b"BC1",
        b"addr1",
        b"stake1",
        b"cosmos1",
        b"osmo1",
        b"terra1",
        b"bnb1",
        b"inj1",
        b"celestia1",
        b"juno1",
        b"kava1",
        b"secret1",
        b"sei1",
        b"thor1",
        b"akash1",
        b"erd1",
        b"zil1",
        b"zs1",
    ];
    for prefix in HUMAN {
        if let Some(data) = word.strip_prefix(prefix) {
            let one_case = !(data.iter().any(u8::is_ascii_lowercase) && data.iter().any(u8::is_ascii_uppercase));
            let human = &prefix[..prefix.len() - 1];
            return (one_case && (11..=110).contains(&data.len()) && bech32(human, data)).then_some(CHECKED);
        }
    }
    if word.len() == 95 && matches!(word[0], b'4' | b'8') && is_base58(word) {
        return Some(0.9);
    }
    if (25..=36).contains(&word.len()) && is_base58(word) {
        // Versions of Bitcoin and its test net, Litecoin, Dogecoin, Dash, Tron; Zcash has two bytes of version.
        let known = |version: u8| {
            matches!(version, 0 | 5 | 0x6f | 0xc4 | 0x41 | 0x30 | 0x32 | 0x1e | 0x16 | 0x4c | 0x10 | 0x3c | 0x17)
        };
        let checked = match word {
            [b't', b'1' | b'3' | b'2' | b'm', ..] => zcash(word),
            [b'r', ..] => ripple(word),
            _ => base58check(word).is_some_and(known),
        };
        return checked.then_some(CHECKED);
    }
    None
}

/// Whether `word` may be a wallet's address whose chain has no check, which a word beside it says: base58 or base64url
/// of 32 bytes or some more.
pub fn is_unchecked_wallet(word: &[u8]) -> bool {
    let has = |test: fn(&u8) -> bool| word.iter().any(test);
    (32..=66).contains(&word.len())
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && word.iter().all(u8::is_ascii_alphanumeric)
}

fn is_base58(word: &[u8]) -> bool {
    word.iter().all(|byte| byte.is_ascii_alphanumeric() && !matches!(byte, b'0' | b'O' | b'I' | b'l'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<&str> {
        let at = text.find('@').unwrap();
        email(text, 0, at).map(|range| &text[range])
    }

    #[test]
    fn mail_is_found_where_people_write_it() {
        for (text, expected) in [
            ("Write to alice.o'hara+x@mail.example.co.uk.", "alice.o'hara+x@mail.example.co.uk"),
            ("邮箱bob@example.com在用", "bob@example.com"),
            ("\"john doe\"@example.org ok", "\"john doe\"@example.org"),
            ("a@bücher.example", "a@bücher.example"),
            ("发到info@例子.中国吧", "info@例子.中国"),
            ("line\\nbob@x.org", "bob@x.org"),
            ("a@b.com.Thanks", "a@b.com"),
            ("x@[192.168.1.9]", "x@[192.168.1.9]"),
        ] {
            assert_eq!(address(text), Some(expected), "{text}");
        }
        for text in ["a@b", "@x.com", "foo@.com", "a@1.2", "x.@y.com", "logo@2x.png", "git@github.com:org/repo.git"] {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[test]
    fn urls_are_taken_whole_when_they_hold_a_password() {
        let found = |text: &'static str| url_credentials(text, 0, text.find("://").unwrap()).map(|range| &text[range]);
        assert_eq!(found("DATABASE_URL=redis://:Hj7P@localhost:6379/0\n"), Some("redis://:Hj7P@localhost:6379/0"));
        assert_eq!(found("(https://u:p%40ss@h.example/x?y=1), then"), Some("https://u:p%40ss@h.example/x?y=1"));
        assert_eq!(found("连接串：mysql://root:aB3@h:1/db。好"), Some("mysql://root:aB3@h:1/db"));
        assert_eq!(found("https://u:${PASSWORD}@h.example"), None);
        assert_eq!(found("https://user@h.example and https://h.example:80/@x"), None);
    }

    #[test]
    fn machines_have_addresses() {
        let v6 = |text: &'static str, mark: &str| ipv6(text, 0, text.find(mark).unwrap()).map(|range| &text[range]);
        assert_eq!(v6("ip=2001:db8:a247::1f1f。", "2001"), Some("2001:db8:a247::1f1f"));
        assert_eq!(v6("[fe80::1%eth0]", "fe80"), Some("fe80::1"));
        assert_eq!(v6("::ffff:10.1.2.3 x", "10"), Some("::ffff:10.1.2.3"));
        assert_eq!(v6("::ffff:127.0.0.1 x", "127"), None);
        assert_eq!(v6("at 10:20:30", "10"), None);
        assert_eq!(v6("::1 ", "1"), None);
        assert_eq!(mac(b"94-fd-de-74-c8-df ", 0), Some(0..17));
        assert_eq!(mac(b"ff:ff:ff:ff:ff:ff", 0), None);
        assert_eq!(mac(b"94fd.de74.c8df", 0), Some(0..14));
        assert!(
            is_ipv4([b"10", b"4", b"3", b"1"])
                && !is_ipv4([b"127", b"0", b"0", b"1"])
                && !is_ipv4([b"1", b"256", b"0", b"1"])
        );
    }

    #[test]
    fn wallets_have_checksums() {
        for good in [
            "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
            "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        ] {
            assert!(wallet(good.as_bytes()).is_some(), "{good}");
        }
        for bad in [
            "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
            "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5",
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD",
        ] {
            assert!(wallet(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
