//! `scheme://host[:port]` of a page that may call from a browser, or `*`.
//!
//! The proxy compares these with the `Origin` header byte for byte, so an origin that is spelled as no browser spells
//! it would never match and never say why. Here it is a fault, with the right spelling as its hint.

use super::base_url::{checked_host, number, split_port};
use super::table::{Table, Text};

/// Every origin there is.
const ANY: &str = "*";

pub(super) fn read(table: &mut Table<'_, '_, '_>, text: &Text<'_>) -> Option<String> {
    if text.value == ANY {
        return Some(ANY.to_owned());
    }
    let (problem, hint) = match as_sent(text.value) {
        Ok(sent) if sent == text.value => return Some(sent),
        Ok(sent) => ("is not spelled as browsers do", format!("write `{sent}`")),
        Err(problem) => (problem, "an origin is `https://example.com`, with a port if need be, or `*`".to_owned()),
    };
    let message = format!("an element of {} {problem}", table.label("cors_allowed_origins"));
    table.fault(text.span.clone(), message, hint);
    None
}

/// The origin of a URL as a browser sends it (RFC 6454, section 6.2): in lower case, without a path, without the port
/// that its scheme implies.
fn as_sent(text: &str) -> Result<String, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("has no scheme")?;
    if !is_scheme(scheme) {
        return Err("has a scheme that cannot exist");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("contains credentials");
    }
    let (host, port) = split_port(authority).map_err(|misfit| misfit.problem)?;
    let port = port.map(number).transpose().map_err(|misfit| misfit.problem)?;
    let host = checked_host(host).map_err(|misfit| misfit.problem)?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let scheme = scheme.to_ascii_lowercase();
    Ok(match (scheme.as_str(), port) {
        ("http", Some(80)) | ("https", Some(443)) | (_, None) => format!("{scheme}://{host}"),
        (_, Some(port)) => format!("{scheme}://{host}:{port}"),
    })
}

/// Not only `http` and `https`: desktop programs and browser extensions have schemes of their own.
fn is_scheme(text: &str) -> bool {
    let is_scheme_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_scheme_character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_spelled_as_browsers_do() {
        let check = |text: &str, sent: &str| assert_eq!(as_sent(text), Ok(sent.to_owned()), "{text}");
        check("https://example.com", "https://example.com");
        check("HTTPS://Example.COM:443/", "https://example.com");
        check("http://localhost:03000/app?a#b", "http://localhost:3000");
        check("http://example.com:443", "http://example.com:443");
        check("http://[0:0::1]:80", "http://[::1]");
        check("chrome-extension://abcdef", "chrome-extension://abcdef");
    }

    #[test]
    fn what_no_browser_sends_is_refused() {
        let check = |text: &str, problem: &str| assert_eq!(as_sent(text), Err(problem), "{text}");
        check("example.com", "has no scheme");
        check("null", "has no scheme");
        check("://example.com", "has a scheme that cannot exist");
        check("https://", "has no host");
        check("https://*.example.com", "has a host that cannot exist");
        check("https://user:pass@example.com", "contains credentials");
        check("https://example.com:http", "has a port that is not a number from 1 to 65535");
        check("https://[::1", "has a bracket that is not closed");
    }
}
