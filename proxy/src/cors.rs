//! Calls from browsers (WHATWG Fetch, section 3.2), where the configuration allows their origins.

use crate::head::{Notes, note};
use http::{HeaderMap, HeaderValue, Method};
use pingora_http::RequestHeader;

/// What every response to that request says of its origin; nothing for origins that are not allowed.
pub fn allow(headers: &HeaderMap, allowed: &[String], notes: &mut Notes) -> bool {
    let Some(value) = headers.get("origin") else { return false };
    let Ok(origin) = value.to_str() else { return false };
    if !allowed.iter().any(|listed| listed == "*" || listed == origin) {
        return false;
    }
    notes.push((note::ALLOW_ORIGIN, value.clone()));
    notes.push((note::EXPOSE_HEADERS, HeaderValue::from_static("*")));
    notes.push((note::VARY, HeaderValue::from_static("origin")));
    true
}

/// Answers a preflight: what the browser may send, and how long it may remember that.
pub fn preflight(head: &RequestHeader, notes: &mut Notes) -> bool {
    let asked = |name| head.headers.get(name).filter(|value| value.to_str().is_ok()).cloned();
    let Some(method) = asked("access-control-request-method").filter(|_| head.method == Method::OPTIONS) else {
        return false;
    };
    notes.push((note::ALLOW_METHODS, method));
    if let Some(headers) = asked("access-control-request-headers") {
        notes.push((note::ALLOW_HEADERS, headers));
    }
    notes.push((note::MAX_AGE, HeaderValue::from_static("7200")));
    true
}
