//! Words of letters and digits: accounts of banks, identity numbers, plates, passports, wallets and addresses.

use super::context::{Near, Topic};
use super::national::{self, Scheme};
use super::number::beside;
use super::scan::{HEX, NAME, TOKEN, WORD};
use super::table::Tables;
use super::{Found, checksum, china, date, network, secret, speaks_of_plates};
use crate::kind::Kind;
use std::ops::Range;

/// Reads the word that holds the digit at `at` and is not digits alone. `None` when it is: then it is a number.
pub fn read(text: &str, floor: usize, at: usize, tables: &mut Tables, found: &mut Vec<Found>) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut start = TOKEN.start(bytes, floor, at, secret::MAX_TOKEN);
    // An escaped line break is no letter of the word behind it.
    let escaped =
        |start: usize| start > floor && bytes[start - 1] == b'\\' && matches!(bytes[start], b'n' | b't' | b'r');
    if start < at && escaped(start) {
        start += 1;
    }
    let end = TOKEN.end(bytes, at, secret::MAX_TOKEN);
    let letters = bytes[start..end].iter().any(u8::is_ascii_alphabetic);
    if is_uuid(&bytes[start..end]) {
        return Some(end);
    }
    if let Some(end) = address(text, floor, start, at, found) {
        return Some(end);
    }
    let may_be_plate = start == at && text[floor..at].ends_with(['·', '•', '・']);
    if !letters && !may_be_plate {
        // A bot's token begins with digits alone.
        if bytes.get(end) == Some(&b':')
            && let Some((range, score)) = secret::prefixed(text, start, end)
        {
            let end = range.end;
            found.push(Found { kind: Kind::Secret, range, score });
            return Some(end);
        }
        return None;
    }
    if let Some((range, score)) = token(text, start, end) {
        let end = range.end;
        found.push(Found { kind: Kind::Secret, range, score });
        return Some(end);
    }
    // Between the dashes of the token.
    let word_start = WORD.start(bytes, start, at, secret::MAX_TOKEN);
    let word_end = WORD.end(bytes, at, end - at);
    let word = &bytes[word_start..word_end];
    if word.iter().all(u8::is_ascii_digit) {
        if let Some(start) = plate(text, floor, &(word_start..word_end)) {
            let end = plate_end(text, word_end);
            found.push(Found { kind: Kind::LicensePlate, range: start..end, score: 0.9 });
            return Some(end);
        }
        // `2f4a-4111…` is one identifier; `Tel-138…` and `2024-03-11T06` begin with a number or a plain word.
        let dashed =
            bytes[start..word_start].iter().any(u8::is_ascii_digit) || bytes[start..word_start].contains(&b'_');
        return if dashed { Some(end) } else { None };
    }
    if let Some(reading) = classify(text, floor, word_start..word_end, end, tables) {
        let end = reading.range.end;
        found.push(reading);
        return Some(end);
    }
    // Lookalikes of account numbers are taken whole, so that their groups of digits are nothing else.
    if let Some(Iban { end, .. }) = iban(text, word_start) {
        return Some(end);
    }
    // Digits first, a letter at the end: a number with an extension, a date with a time.
    let digits = word.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if word_start + digits > at && word_start == start && is_number_with_tail(&bytes[word_start + digits..end]) {
        return None;
    }
    Some(if word_end == end { end } else { word_end })
}

/// What may follow a number without a blank: an extension, the `T` of a date and time.
fn is_number_with_tail(tail: &[u8]) -> bool {
    matches!(
        tail,
        [b'x' | b'X' | b'T', b'0'..=b'9', ..] | [b'e' | b'E', b'x' | b'X', b't', ..] | b"st" | b"nd" | b"rd" | b"th"
    )
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_uuid(token: &[u8]) -> bool {
    token.len() == 36
        && token.iter().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A machine's address around `at`: pairs of hexadecimal digits, or groups with colons.
fn address(text: &str, floor: usize, start: usize, at: usize, found: &mut Vec<Found>) -> Option<usize> {
    let bytes = text.as_bytes();
    // Nearly all numbers have other neighbours.
    let left = HEX.start(bytes, floor, at, 5);
    let right = HEX.end(bytes, at, 5);
    let joins = |byte: Option<&u8>| match byte {
        Some(b':') => true,
        Some(b'-') => right - left == 2,
        Some(b'.') => right - left == 4,
        _ => false,
    };
    if !joins(bytes.get(right)) && !joins(left.checked_sub(1).map(|place| &bytes[place])) {
        return None;
    }
    let word = at
        - bytes[start..at]
            .iter()
            .rev()
            .take(17)
            .take_while(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'-'))
            .count();
    // The pairs before the first digit have letters only, and stand behind dashes or colons.
    let mut first = word;
    while first > floor && (bytes[first - 1].is_ascii_hexdigit() || bytes[first - 1] == b':') && at - first < 45 {
        first -= 1;
    }
    // Three groups of four with dots between them.
    let dotted = at
        - bytes[floor..at].iter().rev().take(13).take_while(|byte| byte.is_ascii_hexdigit() || **byte == b'.').count();
    let near = [word, first, dotted];
    for begin in near {
        let free = begin == 0 || !bytes[begin - 1].is_ascii_alphanumeric();
        // A fingerprint has more pairs.
        let goes_back = begin >= 4
            && bytes.get(begin + 2) == Some(&bytes[begin - 1])
            && bytes[begin - 3..begin - 1].iter().all(u8::is_ascii_hexdigit)
            && !bytes[begin - 4].is_ascii_alphanumeric();
        if free
            && !goes_back
            && let Some(range) = network::mac(bytes, begin)
        {
            let end = range.end;
            if end > at {
                found.push(Found { kind: Kind::MacAddress, range, score: 0.9 });
                return Some(end);
            }
        }
    }
    let colon = bytes.get(right) == Some(&b':') || first < at && bytes[first..at].contains(&b':');
    if !colon {
        return None;
    }
    let range = network::ipv6(text, floor, at)?;
    let end = range.end;
    found.push(Found { kind: Kind::IpAddress, range, score: 0.9 });
    Some(end)
}

/// A token with its issuer's prefix, at its beginning or behind a dash or an underscore.
fn token(text: &str, start: usize, end: usize) -> Option<(Range<usize>, f32)> {
    if end - start < 8 {
        return None;
    }
    // The prefix may end in a dot: `hvs.`, `SG.`.
    let bytes = text.as_bytes();
    let dotted =
        bytes[..start].strip_suffix(b".").map_or(0, |before| before.len() - NAME.start(bytes, 0, before.len(), 12) + 1);
    (dotted > 1)
        .then(|| secret::prefixed(text, start - dotted, end))
        .flatten()
        .or_else(|| secret::prefixed(text, start, end))
}

fn classify(text: &str, floor: usize, word: Range<usize>, token_end: usize, tables: &mut Tables) -> Option<Found> {
    let bytes = text.as_bytes();
    let characters = &bytes[word.clone()];
    let count = characters.len();
    let whole = token_end == word.end;
    let is = |kind, range, score| Some(Found { kind, range, score });
    if whole
        && (count >= 25 || characters.starts_with(b"bc1") || characters.starts_with(b"tb1"))
        && let Some(score) = network::wallet(characters)
    {
        return is(Kind::CryptoAddress, word, score);
    }
    if let Some(Iban { end, valid }) = iban(text, word.start) {
        // A lookalike is nothing else either, but the start of a longer word may be.
        return if valid { is(Kind::Iban, word.start..end, 0.97) } else { None };
    }
    if count == 18 && china::is_resident_id(characters) {
        return is(Kind::CnId, word, 0.99);
    }
    if count == 18 && china::is_credit_code(&characters.to_ascii_uppercase()) {
        return is(Kind::CnUscc, word, 0.95);
    }
    if let Some(start) = plate(text, floor, &word) {
        return is(Kind::LicensePlate, start..plate_end(text, word.end), 0.9);
    }
    if (32..=66).contains(&count) && whole && network::is_unchecked_wallet(characters) {
        let named = beside(text, word.clone(), tables).is_some_and(|near| near.topic == Topic::Wallet);
        if named {
            return is(Kind::CryptoAddress, word, 0.7);
        }
    }
    if count > 24 {
        let secret = count <= 128 && tables.topic(text, word.start) == Some(Topic::Secret);
        return if secret { is(Kind::Secret, secret::in_column(text, floor, word.start)?, 0.8) } else { None };
    }
    // The fiscal codes of Italy and Mexico are shaped like nothing else.
    if count == 16 && national::check(Scheme::CodiceFiscale, characters) {
        return is(Kind::NationalId, word, 0.85);
    }
    // What no kind below looks like needs no word beside it.
    let digits = characters.iter().filter(|byte| byte.is_ascii_digit()).count();
    let is_capital = characters.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    // With one digit only a plate is, of those that a word beside them names.
    let is_named = digits > 1 || count == 9 || speaks_of_plates(text, &word);
    if !(count >= 4 && is_capital && is_named || count >= 8 && digits * 2 >= count) {
        let secret = is_cell(bytes, floor, word.start) && tables.topic(text, word.start) == Some(Topic::Secret);
        return if secret { is(Kind::Secret, secret::in_column(text, floor, word.start)?, 0.8) } else { None };
    }
    let Near { topic, .. } = beside(text, word.clone(), tables)?;
    match topic {
        Topic::Passport => {
            let shaped = (6..=12).contains(&count)
                && characters.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
            let digits = characters.iter().filter(|byte| byte.is_ascii_digit()).count();
            // The letter and the digits may stand apart: `A 1234567` is read from the digits.
            (shaped && (digits >= 2 || digits == 1 && count == 9)).then_some(Found {
                kind: Kind::Passport,
                range: word,
                score: 0.85,
            })
        }
        Topic::National(scheme) => {
            let start = with_letters_before(bytes, floor, word.start);
            let range = scheme_at(text, start, scheme).or_else(|| scheme_at(text, word.start, scheme))?;
            is(Kind::NationalId, range, 0.95)
        }
        Topic::CnId => {
            // Hong Kong's and Taiwan's are called identity cards too.
            let scheme =
                [Scheme::Hkid, Scheme::TaiwanId].into_iter().find_map(|scheme| scheme_at(text, word.start, scheme))?;
            is(Kind::NationalId, scheme, 0.9)
        }
        Topic::Secret => is(Kind::Secret, secret::in_column(text, floor, word.start)?, 0.8),
        Topic::Birth => {
            let date = characters.len() == 9 && date::is_compact(&text[word.clone()]);
            date.then_some(Found { kind: Kind::DateOfBirth, range: word, score: 0.9 })
        }
        Topic::Plate => {
            let shaped = (4..=8).contains(&count)
                && characters.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
            shaped.then_some(Found { kind: Kind::LicensePlate, range: word, score: 0.7 })
        }
        Topic::Account => {
            let shaped =
                (8..=24).contains(&count) && characters.iter().filter(|byte| byte.is_ascii_digit()).count() * 2 > count;
            shaped.then_some(Found { kind: Kind::BankAccount, range: word, score: 0.6 })
        }
        _ => None,
    }
}

/// Whether the word at `at` stands in a cell of a table, as far as the bytes before it tell.
fn is_cell(bytes: &[u8], floor: usize, at: usize) -> bool {
    let before = &bytes[floor..at];
    let ends = |byte: &u8| matches!(byte, b',' | b'\t' | b'|' | b'\n' | b' ' | b'(');
    let Some(back) = before.iter().rev().take(24).position(ends) else { return false };
    // The first value of a statement, and the first column of a line.
    matches!(
        &before[..before.len() - back],
        [.., b',' | b'\t' | b'|' | b'\n'] | [.., b'|' | b',', b' '] | [.., b' ' | b'S', b'(']
    )
}

/// One or two capitals and a blank before a number belong to it: `MS 39 07 44 A`.
fn with_letters_before(bytes: &[u8], floor: usize, start: usize) -> usize {
    if start < floor + 2 || !matches!(bytes[start - 1], b' ' | b'-') {
        return start;
    }
    let letters = bytes[floor..start - 1].iter().rev().take(3).take_while(|byte| byte.is_ascii_uppercase()).count();
    let from = start - 1 - letters;
    let free = from == floor || !bytes[from - 1].is_ascii_alphanumeric();
    if (1..=2).contains(&letters) && free { from } else { start }
}

/// The number of `scheme` that begins at `start`, with separators between its characters.
pub fn scheme_at(text: &str, start: usize, scheme: Scheme) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let start = with_letters_before(bytes, 0, start);
    let lengths = national::lengths(scheme);
    let most = *lengths.first()?;
    let mut number = [0u8; 20];
    let mut ends = [0usize; 20];
    let mut count = 0;
    let mut at = start;
    let mut blanks = 0;
    while count < most && at < bytes.len() && blanks <= 2 {
        let byte = bytes[at];
        if byte.is_ascii_alphanumeric() {
            number[count] = byte.to_ascii_uppercase();
            at += 1;
            count += 1;
            blanks = 0;
            // A check character in brackets brings its bracket along.
            let closes = bytes.get(at) == Some(&b')') && bytes[start..at].contains(&b'(');
            ends[count - 1] = if closes { at + 1 } else { at };
        } else if matches!(byte, b' ' | b'-' | b'.' | b'/' | b'(' | b')')
            || scheme == Scheme::Hetu && matches!(byte, b'+')
        {
            // Finland's century sign is the dash between date and order.
            at += 1;
            blanks += 1;
        } else {
            break;
        }
    }
    lengths.iter().filter(|length| **length <= count).find_map(|length| {
        let end = ends[length - 1];
        let bounded = !bytes.get(end).is_some_and(|byte| byte.is_ascii_alphanumeric());
        (bounded && national::check(scheme, &number[..*length])).then_some(start..end)
    })
}

/// What looks like an international account number.
struct Iban {
    end: usize,
    valid: bool,
}

/// Lengths of ISO 13616 by country (SWIFT's registry, release 97).
const IBAN_LENGTHS: &[(&[u8; 2], u8)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

/// The account number that begins at `start`: of its country's length, in one word or in groups.
fn iban(text: &str, start: usize) -> Option<Iban> {
    let bytes = text.as_bytes();
    let &[first, second, third, fourth] = bytes[start..].first_chunk()?;
    if !(third.is_ascii_digit() && fourth.is_ascii_digit() && first.is_ascii_alphabetic()) {
        return None;
    }
    let country = [first.to_ascii_uppercase(), second.to_ascii_uppercase()];
    let place = IBAN_LENGTHS.binary_search_by(|(known, _)| (**known).cmp(&country)).ok()?;
    let length = usize::from(IBAN_LENGTHS[place].1);
    let mut compact = [0u8; 34];
    let mut count = 0;
    let mut at = start;
    while count < length {
        match bytes.get(at)? {
            byte if byte.is_ascii_alphanumeric() => {
                compact[count] = byte.to_ascii_uppercase();
                count += 1;
            }
            b' ' | b'-' if bytes.get(at + 1).is_some_and(u8::is_ascii_alphanumeric) && count >= 4 => {}
            _ => return None,
        }
        at += 1;
    }
    let bounded = !bytes.get(at).is_some_and(u8::is_ascii_alphanumeric);
    bounded.then(|| Iban { end: at, valid: checksum::iban(&compact[..length]) })
}

/// Where a plate of the PRC begins whose tail is the word: `贵D179BX`, `冀H·DS9467`, `粤 B 12345`.
fn plate(text: &str, floor: usize, word: &Range<usize>) -> Option<usize> {
    let bytes = text.as_bytes();
    let characters = &bytes[word.clone()];
    // A province stands before the office, or before a sign and the office.
    if !bytes[floor.max(word.start.saturating_sub(8))..word.start].iter().any(|byte| *byte >= 0x80) {
        return None;
    }
    // Trailers, police, learners and cars of Hong Kong and Macao have a sign in the place of the last character.
    if !(4..=7).contains(&characters.len()) {
        return None;
    }
    let signed = usize::from(plate_end(text, word.end) > word.end);
    let is_tail = |tail: &[u8]| china::is_plate(tail) || signed == 1 && china::is_signed_plate(tail);
    let before = &text[floor..word.start];
    let province =
        |text: &str| text.chars().next_back().filter(|last| china::PROVINCES.contains(*last)).map(char::len_utf8);
    if let Some((office, tail)) = characters.split_first()
        && office.is_ascii_uppercase()
        && is_tail(tail)
        && let Some(length) = province(before.trim_end_matches(' '))
        && before.len() - before.trim_end_matches(' ').len() <= 1
    {
        return Some(floor + before.trim_end_matches(' ').len() - length);
    }
    if !is_tail(characters) {
        return None;
    }
    let head = before.trim_end_matches(['·', ' ', '-', '.', '•', '・']);
    let office = head.chars().next_back().filter(char::is_ascii_uppercase)?;
    let head = &head[..head.len() - office.len_utf8()];
    let length = province(head)?;
    Some(floor + head.len() - length)
}

fn plate_end(text: &str, end: usize) -> usize {
    let rest = &text[end..];
    end + china::PLATE_ENDS.iter().find(|sign| rest.starts_with(**sign)).map_or(0, |sign| sign.len())
}
