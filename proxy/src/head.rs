//! Header rules that requests and responses share.

use http::HeaderMap;

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

/// Fields that carry a caller's credentials.
pub const CREDENTIALS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// Whether the field belongs to one connection, by name or because `connection` lists it.
pub fn is_hop_by_hop(name: &str, headers: &HeaderMap) -> bool {
    HOP_BY_HOP.contains(&name) || (headers.contains_key("connection") && listed_by_connection(name, headers))
}

fn listed_by_connection(name: &str, headers: &HeaderMap) -> bool {
    let values = headers.get_all("connection").iter().filter_map(|value| value.to_str().ok());
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
        assert!(
            is_hop_by_hop("x-private", &headers) && is_hop_by_hop("te", &headers) && !is_hop_by_hop("accept", &headers)
        );
    }
}
