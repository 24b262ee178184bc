//! Errors in each family's shape: read from a provider, written for a client, whole or in band.
//!
//! Sources: OpenAI's `Error` schema, Anthropic's errors page, Google's `google.rpc.Status`.

use crate::dialect::{Dialect, Family};
use crate::json::{Document, escape_into};
use std::borrow::Cow;

/// An error, free of any dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure<'f> {
    /// HTTP status, also where the error stands inside a stream.
    pub status: u16,
    /// OpenAI's `type`.
    pub kind: Cow<'f, str>,
    pub code: Option<Cow<'f, str>>,
    pub param: Option<Cow<'f, str>>,
    pub message: Cow<'f, str>,
}

/// OpenAI's error type for a status, where nobody states one.
pub fn kind_of_status(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

/// Anthropic's error type for a status.
fn anthropic_kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 | 503 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// The name of the `google.rpc.Code` that goes with a status.
fn google_status(status: u16) -> &'static str {
    match status {
        400 | 413 | 422 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        408 | 504 => "DEADLINE_EXCEEDED",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        502 | 503 | 529 => "UNAVAILABLE",
        400..=499 => "FAILED_PRECONDITION",
        _ => "INTERNAL",
    }
}

/// The HTTP status of an error that a stream states by type alone.
fn status_of_kind(kind: &str) -> u16 {
    match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "overloaded_error" => 529,
        "timeout_error" => 504,
        _ => 500,
    }
}

impl<'f> Failure<'f> {
    /// Reads a provider's error, a body or a stream's data. What is not in the family's shape gives `None`.
    pub fn read(status: u16, body: &str) -> Option<Failure<'static>> {
        let document = Document::parse(body.trim()).ok()?;
        let root = document.root(body.trim());
        // Gemini answers a failed stream without `alt=sse` with an array of one error.
        let root = root.children().next().filter(|_| body.trim_start().starts_with('[')).unwrap_or(root);
        let error = root.get("error").filter(|error| !error.is_null()).unwrap_or(root);
        let text =
            |name: &str| error.get(name).and_then(|value| value.string()).map(|text| Cow::Owned(text.into_owned()));
        // Some servers that speak OpenAI's dialect state an error as a bare string.
        let message = text("message").or_else(|| error.string().map(|text| Cow::Owned(text.into_owned())))?;
        let stated =
            error.get("code").and_then(|code| code.raw().parse::<u16>().ok()).filter(|code| (400..600).contains(code));
        let kind = text("type").filter(|kind| *kind != "error").or_else(|| text("status"));
        let status = match (status, stated, &kind) {
            (400.., ..) => status,
            (_, Some(stated), _) => stated,
            (_, None, Some(kind)) => status_of_kind(kind),
            (_, None, None) => 500,
        };
        Some(Failure {
            status,
            kind: kind.unwrap_or(Cow::Borrowed(kind_of_status(status))),
            code: text("code"),
            param: text("param"),
            message,
        })
    }

    /// The JSON body of an error response.
    pub fn body(&self, family: Family) -> String {
        let mut out = String::with_capacity(self.message.len() + 128);
        match family {
            Family::OpenAi => {
                out.push_str("{\"error\":{\"message\":");
                quoted(&self.message, &mut out);
                out.push_str(",\"type\":");
                quoted(&self.kind, &mut out);
                out.push_str(",\"param\":");
                nullable(self.param.as_deref(), &mut out);
                out.push_str(",\"code\":");
                nullable(self.code.as_deref(), &mut out);
                out.push_str("}}");
            }
            Family::Anthropic => {
                out.push_str("{\"type\":\"error\",\"error\":{\"type\":");
                quoted(anthropic_kind(self.status), &mut out);
                out.push_str(",\"message\":");
                quoted(&self.message, &mut out);
                // Not Anthropic's, and harmless to its SDKs: what the closed list of codes calls this.
                if let Some(code) = &self.code {
                    out.push_str(",\"code\":");
                    quoted(code, &mut out);
                }
                out.push_str("}}");
            }
            Family::Gemini => {
                out.push_str(&format!("{{\"error\":{{\"code\":{},\"message\":", self.status));
                quoted(&self.message, &mut out);
                out.push_str(&format!(",\"status\":\"{}\"", google_status(self.status)));
                if let Some(code) = &self.code {
                    out.push_str(",\"details\":[{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\"reason\":");
                    quoted(code, &mut out);
                    out.push_str(",\"domain\":\"sluice\"}]");
                }
                out.push_str("}}");
            }
        }
        out
    }

    /// The frame that states the error inside a stream of that dialect; `sequence` is the number of its event, which
    /// only Responses has.
    pub fn event(&self, dialect: Dialect, sequence: u64) -> String {
        match dialect {
            Dialect::Responses => {
                let mut out = String::from("event: error\ndata: {\"type\":\"error\",\"code\":");
                nullable(self.code.as_deref().or(Some(&self.kind)), &mut out);
                out.push_str(",\"message\":");
                quoted(&self.message, &mut out);
                out.push_str(",\"param\":");
                nullable(self.param.as_deref(), &mut out);
                out.push_str(&format!(",\"sequence_number\":{sequence}}}\n\n"));
                out
            }
            Dialect::Messages => format!("event: error\ndata: {}\n\n", self.body(Family::Anthropic)),
            other => format!("data: {}\n\n", self.body(other.family())),
        }
    }
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    escape_into(text, out);
    out.push('"');
}

fn nullable(text: Option<&str>, out: &mut String) {
    match text {
        Some(text) => quoted(text, out),
        None => out.push_str("null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure<'static> {
        Failure {
            status: 429,
            kind: "rate_limit_error".into(),
            code: Some("slow_down".into()),
            param: None,
            message: "say \"please\"".into(),
        }
    }

    #[test]
    fn an_error_is_written_in_each_shape() {
        assert_eq!(
            failure().body(Family::OpenAi),
            r#"{"error":{"message":"say \"please\"","type":"rate_limit_error","param":null,"code":"slow_down"}}"#
        );
        assert_eq!(
            failure().body(Family::Anthropic),
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"say \"please\"","code":"slow_down"}}"#
        );
        assert_eq!(
            failure().body(Family::Gemini),
            r#"{"error":{"code":429,"message":"say \"please\"","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"slow_down","domain":"sluice"}]}}"#
        );
    }

    #[test]
    fn an_error_is_read_in_each_shape() {
        let read = |status, body| {
            let failure = Failure::read(status, body).unwrap();
            (failure.status, failure.kind.into_owned(), failure.message.into_owned())
        };
        assert_eq!(
            read(200, r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#),
            (529, "overloaded_error".into(), "Overloaded".into())
        );
        assert_eq!(
            read(400, r#"{"error":{"code":400,"message":"bad","status":"INVALID_ARGUMENT"}}"#),
            (400, "INVALID_ARGUMENT".into(), "bad".into())
        );
        assert_eq!(
            read(500, r#"{"error":"model not loaded"}"#),
            (500, "server_error".into(), "model not loaded".into())
        );
        assert_eq!(
            read(200, r#"{"type":"error","code":"server_error","message":"x","param":null,"sequence_number":3}"#),
            (500, "server_error".into(), "x".into())
        );
        assert!(Failure::read(502, "<html>").is_none());
    }

    #[test]
    fn an_error_in_a_stream_is_one_frame() {
        for dialect in [Dialect::Chat, Dialect::Responses, Dialect::Messages, Dialect::Gemini] {
            let frame = failure().event(dialect, 7);
            let data = frame.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
            assert!(frame.ends_with("\n\n") && serde_json::from_str::<serde_json::Value>(data).is_ok(), "{frame}");
        }
    }
}
