//! `[snapshot]`.

use super::DAY_SECONDS;
use super::table::{Table, Text};
use crate::Snapshot;

/// An edge may run for years without a publisher, if its operator accepts that revocations do not arrive.
const TEN_YEARS_SECONDS: u64 = 10 * 366 * DAY_SECONDS;

pub(super) fn read(mut table: Table<'_, '_, '_>) -> Snapshot {
    let location = table.text("location");
    let keys = table.texts("trusted_keys");
    let notify = table.text("notify");
    Snapshot {
        location: location.and_then(|text| checked_location(&mut table, text)),
        notify: notify.and_then(|text| checked_notify(&mut table, text)),
        poll_interval: table.milliseconds("poll_interval_milliseconds", 250, DAY_SECONDS * 1_000),
        max_snapshot_age: table.seconds("max_snapshot_age_seconds", 7 * DAY_SECONDS, TEN_YEARS_SECONDS),
        journal_max_bytes: room(&mut table, "journal_max_bytes"),
        contents_max_bytes: room(&mut table, "contents_max_bytes"),
        trusted_keys: keys.into_iter().filter_map(|text| public_key(&mut table, text)).collect(),
    }
}

/// Bytes that may wait to be shipped; 0 is none at all.
fn room(table: &mut Table<'_, '_, '_>, name: &'static str) -> Option<u64> {
    Some(table.integer(name, 0..=1 << 40).unwrap_or(256 << 20)).filter(|bytes| *bytes > 0)
}

fn checked_location(table: &mut Table<'_, '_, '_>, text: Text<'_>) -> Option<String> {
    let bucket = text.value.strip_prefix("s3://").and_then(|rest| rest.split('/').next());
    if bucket.is_some_and(|bucket| !bucket.is_empty()) {
        return Some(text.value.to_owned());
    }
    let path = text.value.strip_prefix("file://");
    if path.is_some_and(|path| path.starts_with('/')) {
        return Some(text.value.to_owned());
    }
    let message = format!("{} is not a `file:///absolute/path` or `s3://bucket/prefix` URL", table.label("location"));
    let hint = match path {
        Some(_) => "the path must be absolute, which makes three slashes: `file:///srv/sluice/objects`".to_owned(),
        None if text.value.starts_with('/') => format!("write `file://{}`", text.value),
        None => "examples are `file:///srv/sluice/objects` and `s3://sluice/objects`".to_owned(),
    };
    table.fault(text.span, message, hint);
    None
}

fn checked_notify(table: &mut Table<'_, '_, '_>, text: Text<'_>) -> Option<String> {
    let server =
        ["nats://", "tls://", "postgres://", "postgresql://"].iter().find_map(|scheme| text.value.strip_prefix(scheme));
    if server.is_some_and(|server| !server.is_empty()) {
        return Some(text.value.to_owned());
    }
    let message = format!("{} is not the URL of a NATS server or of a PostgreSQL database", table.label("notify"));
    let hint = "examples are `nats://127.0.0.1:4222` and `postgres://sluice@127.0.0.1/sluice`";
    table.fault(text.span, message, hint.to_owned());
    None
}

fn public_key(table: &mut Table<'_, '_, '_>, text: Text<'_>) -> Option<[u8; 32]> {
    let key = from_hex(text.value);
    if key.is_none() {
        let message = format!("an element of {} is not a public key", table.label("trusted_keys"));
        let wrong_digit = text.value.chars().any(|c| !c.is_ascii_hexdigit());
        let hint = match (wrong_digit, text.value.len()) {
            (true, _) => "a key is 64 hexadecimal digits, as in the file `publisher.pub`".to_owned(),
            (false, length) => format!("a key is 64 hexadecimal digits, here are {length}"),
        };
        table.fault(text.span, message, hint);
    }
    key
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c.to_digit(16)?).ok()).collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    if rest.is_empty() { bytes.try_into().ok() } else { None }
}
