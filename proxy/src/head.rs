//! Header rules that requests and responses share.

use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue};

/// What every response says about itself.
pub type Notes = Vec<(HeaderName, HeaderValue)>;

/// A note's text, which is ASCII. What is not could not be sent, and is not worth a request.
pub fn said(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

/// The names of notes, parsed when this is compiled.
pub mod note {
    use http::HeaderName;

    pub const ALLOW_ORIGIN: HeaderName = HeaderName::from_static("access-control-allow-origin");
    pub const ALLOW_METHODS: HeaderName = HeaderName::from_static("access-control-allow-methods");
    pub const ALLOW_HEADERS: HeaderName = HeaderName::from_static("access-control-allow-headers");
    pub const EXPOSE_HEADERS: HeaderName = HeaderName::from_static("access-control-expose-headers");
    pub const MAX_AGE: HeaderName = HeaderName::from_static("access-control-max-age");
    pub const VARY: HeaderName = HeaderName::from_static("vary");
    pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-sluice-request-id");
    pub const EPOCH: HeaderName = HeaderName::from_static("x-sluice-epoch");
    pub const ROUTE: HeaderName = HeaderName::from_static("x-sluice-route");
    pub const PROMPT: HeaderName = HeaderName::from_static("x-sluice-prompt");
    pub const EXPERIMENT: HeaderName = HeaderName::from_static("x-sluice-experiment");
    pub const ADAPTED: HeaderName = HeaderName::from_static("x-sluice-adapted");
    pub const HISTORY: HeaderName = HeaderName::from_static("x-sluice-history");
    pub const SOURCES: HeaderName = HeaderName::from_static("x-sluice-sources");
    pub const CONTEXT: HeaderName = HeaderName::from_static("x-sluice-context");
    pub const TARGET: HeaderName = HeaderName::from_static("x-sluice-target");
    pub const ATTEMPTS: HeaderName = HeaderName::from_static("x-sluice-attempts");
    pub const DROPPED: HeaderName = HeaderName::from_static("x-sluice-dropped");
    pub const SCRUBBED: HeaderName = HeaderName::from_static("x-sluice-scrubbed");
    pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
    pub const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
    pub const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
    pub const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");
}

/// Fields that belong to one connection (RFC 9110 section 7.6.1) and never travel on.
pub const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields that carry a caller's credentials. The first is Sluice's own and wins, so that the others can carry a
/// provider's where a route passes that on.
pub const CREDENTIALS: [&str; 5] = ["x-sluice-key", "authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// The fields of `headers` that belong to one connection, by name or because `connection` lists them.
pub fn hop_by_hop(headers: &HeaderMap) -> impl Fn(&str) -> bool {
    let lists = headers.contains_key(CONNECTION);
    move |name| HOP_BY_HOP.contains(&name) || (lists && listed_by_connection(name, headers))
}

fn listed_by_connection(name: &str, headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(name))
}

/// A query string without its parameter `key`, which is a credential; and that credential.
pub fn split_key(query: &str) -> (Option<&str>, String) {
    let mut key = None;
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| match pair.strip_prefix("key=") {
            Some(value) => {
                key.get_or_insert(value);
                false
            }
            None => !pair.is_empty(),
        })
        .collect();
    (key, rest.join("&"))
}

/// Writes every byte that `stays` does not allow as a percent sign with two hexadecimal digits.
pub fn percent_encode(text: &str, stays: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match stays(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The text of a path or query; what is not UTF-8 becomes U+FFFD.
pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| u8::from_str_radix(text.get(at + 1..at + 3)?, 16).ok()).flatten();
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_out_of_a_query() {
        assert_eq!(split_key("a=1&key=sk-x&b=2"), (Some("sk-x"), "a=1&b=2".to_owned()));
        assert_eq!(split_key("monkey=1"), (None, "monkey=1".to_owned()));
    }

    #[test]
    fn what_connection_lists_is_hop_by_hop() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", "close, X-Private".parse().unwrap());
        let hops = hop_by_hop(&headers);
        assert!(hops("x-private") && hops("te") && !hops("accept"));
    }
}
