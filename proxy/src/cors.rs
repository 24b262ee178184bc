//! Calls from browsers (WHATWG Fetch, section 3.2), where the configuration allows their origins.

use crate::head::{Notes, note};
use http::{HeaderMap, Method};
use pingora_http::RequestHeader;

/// What every response to that request says of its origin; nothing for origins that are not allowed.
pub fn allow(headers: &HeaderMap, allowed: &[String], notes: &mut Notes) -> bool {
    let Some(origin) = headers.get("origin").and_then(|origin| origin.to_str().ok()) else { return false };
    if !allowed.iter().any(|listed| listed == "*" || listed == origin) {
        return false;
    }
    notes.push((note::ALLOW_ORIGIN, origin.to_owned()));
    notes.push((note::EXPOSE_HEADERS, "*".to_owned()));
    notes.push((note::VARY, "origin".to_owned()));
    true
}

/// Answers a preflight: what the browser may send, and how long it may remember that.
pub fn preflight(head: &RequestHeader, notes: &mut Notes) -> bool {
    let asked = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let Some(method) = asked("access-control-request-method").filter(|_| head.method == Method::OPTIONS) else {
        return false;
    };
    notes.push((note::ALLOW_METHODS, method.to_owned()));
    if let Some(headers) = asked("access-control-request-headers") {
        notes.push((note::ALLOW_HEADERS, headers.to_owned()));
    }
    notes.push((note::MAX_AGE, "7200".to_owned()));
    true
}
