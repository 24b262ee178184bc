//! `http(s)://host[:port][/prefix]`.
//!
//! A URL library would accept far more than the edge can use, such as other schemes or spaces, and repair it
//! silently; here each part is either as it will be sent, or a fault.

use crate::BaseUrl;
use std::net::Ipv6Addr;

/// What is wrong with a URL, and what to do about it.
pub(super) struct Misfit {
    pub(super) problem: &'static str,
    pub(super) hint: &'static str,
}

pub(super) fn parse(text: &str) -> Result<BaseUrl, Misfit> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return misfit("has no scheme", "begin with `https://`");
    };
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        _ => {
            return misfit("has a scheme that is neither `http` nor `https`", "begin with `https://`");
        }
    };
    if rest.contains(['?', '#']) {
        return misfit("has a query or a fragment", "end with the path");
    }
    let (authority, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len())).unwrap_or((rest, ""));
    if authority.contains('@') {
        return misfit("contains credentials", "give them with `api_key_env` or `api_key_file`");
    }
    let (host, port) = split_port(authority)?;
    let port = match port {
        Some(port) => number(port)?,
        None if tls => 443,
        None => 80,
    };
    Ok(BaseUrl { tls, host: checked_host(host)?, port, prefix: checked_prefix(path)? })
}

/// `http://host:port` of a proxy, which has no path, and which is spoken to without TLS.
pub(super) fn parse_proxy(text: &str) -> Result<BaseUrl, Misfit> {
    let hint = "write `http://HOST:PORT`";
    let url = parse(text).map_err(|misfit| Misfit { hint, ..misfit })?;
    if url.tls {
        return misfit("is not `http`", "Sluice speaks to a proxy without TLS: write `http://HOST:PORT`");
    }
    if !url.prefix.is_empty() {
        return misfit("has a path", hint);
    }
    // Services disagree on a proxy's usual port, so that none is assumed.
    let port = text.trim_end_matches('/').rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    match port == Some(url.port) {
        true => Ok(url),
        false => misfit("has no port", hint),
    }
}

fn misfit<T>(problem: &'static str, hint: &'static str) -> Result<T, Misfit> {
    Err(Misfit { problem, hint })
}

/// Host, still in brackets if it is an IPv6 address, and what follows its colon.
pub(super) fn split_port(authority: &str) -> Result<(&str, Option<&str>), Misfit> {
    let end = match authority.starts_with('[') {
        true => authority.find(']').map(|bracket| bracket + 1),
        false => Some(authority.find(':').unwrap_or(authority.len())),
    };
    match end.and_then(|end| authority.split_at_checked(end)) {
        Some((host, "")) => Ok((host, None)),
        Some((host, rest)) => match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None => misfit("has text between its host and its port", "write `https://[ADDRESS]:PORT`"),
        },
        None => misfit("has a bracket that is not closed", "write an IPv6 address as `[::1]`"),
    }
}

pub(super) fn number(port: &str) -> Result<u16, Misfit> {
    let number = port.parse().ok().filter(|number| *number != 0 && port.bytes().all(|byte| byte.is_ascii_digit()));
    match number {
        Some(number) => Ok(number),
        None => misfit("has a port that is not a number from 1 to 65535", "an example is `https://example.com:8443`"),
    }
}

/// The host as connections need it: in lower case, an IPv6 address without its brackets.
pub(super) fn checked_host(host: &str) -> Result<String, Misfit> {
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Some(address) = bracketed {
        return match address.parse::<Ipv6Addr>() {
            Ok(address) => Ok(address.to_string()),
            Err(_) => misfit("has no IPv6 address between its brackets", "an example is `http://[::1]:8000`"),
        };
    }
    if host.is_empty() {
        return misfit("has no host", "an example is `https://api.openai.com/v1`");
    }
    if !host.is_ascii() {
        return misfit("has a host that is not ASCII", "write it in its encoded form, which begins with `xn--`");
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    // One dot may end a name, to keep a resolver from appending its search domains.
    let name = host.strip_suffix('.').unwrap_or(host);
    match name.len() <= 253 && name.split('.').all(is_label) {
        true => Ok(host.to_ascii_lowercase()),
        false => misfit("has a host that cannot exist", "a host has letters, digits, dots and dashes"),
    }
}

/// The path without trailing slashes.
fn checked_prefix(path: &str) -> Result<String, Misfit> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:@".contains(c);
    match path.chars().all(allowed) {
        true => Ok(path.trim_end_matches('/').to_owned()),
        false => misfit("has a character in its path that a URL cannot have", "encode it as `%` and two digits"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(bool, &str, u16, &str), &str>) {
        let found = parse(text);
        let found = found.as_ref().map(|url| (url.tls, url.host.as_str(), url.port, url.prefix.as_str()));
        assert_eq!(found.map_err(|misfit| misfit.problem), expected, "{text}");
    }

    #[test]
    fn a_url_is_taken_apart() {
        check("https://api.openai.com/v1", Ok((true, "api.openai.com", 443, "/v1")));
        check("http://10.0.0.7:8000/", Ok((false, "10.0.0.7", 8000, "")));
        check("HTTPS://Example.COM", Ok((true, "example.com", 443, "")));
        check("http://[::1]:8000/a/b//", Ok((false, "::1", 8000, "/a/b")));
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        check("api.openai.com", Err("has no scheme"));
        check("ftp://example.com", Err("has a scheme that is neither `http` nor `https`"));
        check("https:///v1", Err("has no host"));
        check("https://user:pass@example.com", Err("contains credentials"));
        check("https://example.com/v1?key=1", Err("has a query or a fragment"));
        check("https://example.com:0", Err("has a port that is not a number from 1 to 65535"));
        check("https://example.com:+80", Err("has a port that is not a number from 1 to 65535"));
        check("https://exa mple.com", Err("has a host that cannot exist"));
        check("https://[::1", Err("has a bracket that is not closed"));
        check("https://[::1]x", Err("has text between its host and its port"));
        check("https://[example]", Err("has no IPv6 address between its brackets"));
        check("https://bücher.example", Err("has a host that is not ASCII"));
        check("https://example.com/a b", Err("has a character in its path that a URL cannot have"));
    }

    #[test]
    fn a_proxy_has_a_port_and_neither_tls_nor_a_path() {
        let check = |text: &str, expected: Result<(&str, u16), &str>| {
            let found = parse_proxy(text);
            let found = found.as_ref().map(|url| (url.host.as_str(), url.port));
            assert_eq!(found.map_err(|misfit| misfit.problem), expected, "{text}");
        };
        check("http://proxy.internal:3128", Ok(("proxy.internal", 3128)));
        check("http://[::1]:80/", Ok(("::1", 80)));
        check("http://proxy.internal", Err("has no port"));
        check("http://[::80]", Err("has no port"));
        check("https://proxy.internal:3128", Err("is not `http`"));
        check("http://proxy.internal:3128/v1", Err("has a path"));
        check("proxy.internal:3128", Err("has no scheme"));
    }
}
