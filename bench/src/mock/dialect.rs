//! What sets the dialects apart where nothing is said: how they word a failure, in a body and in a stream.

use super::gemini;
use super::reply::quoted;
use hyper::StatusCode;
use hyper::body::Bytes;

/// A provider's dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    /// OpenAI's newer endpoint, whose bodies fail as the others do and whose streams fail in another way.
    Responses,
    Anthropic,
    Gemini,
}

impl Dialect {
    /// The dialect of a path; what is in nobody's is answered in OpenAI's.
    pub(super) fn of(path: &str) -> Dialect {
        match path {
            "/v1/responses" => Dialect::Responses,
            _ if path.starts_with("/v1/messages") => Dialect::Anthropic,
            _ if path.starts_with("/v1beta/") || gemini::method(path, None).is_some() => Dialect::Gemini,
            _ => Dialect::OpenAi,
        }
    }

    /// The header that numbers the answers.
    pub(super) fn id_header(self) -> &'static str {
        match self {
            Dialect::Anthropic => "request-id",
            _ => "x-request-id",
        }
    }

    /// The body of an error; `code` and `param` are OpenAI's alone.
    pub(super) fn error(self, status: StatusCode, message: &str, code: Option<&str>, param: Option<&str>) -> String {
        let message = quoted(message);
        match self {
            Dialect::OpenAi | Dialect::Responses => {
                let nullable = |text: Option<&str>| text.map_or_else(|| "null".to_owned(), quoted);
                let (kind, param, code) = (openai_kind(status), nullable(param), nullable(code));
                format!(r#"{{"error":{{"message":{message},"type":"{kind}","param":{param},"code":{code}}}}}"#)
            }
            Dialect::Anthropic => {
                let kind = anthropic_kind(status);
                format!(r#"{{"type":"error","error":{{"type":"{kind}","message":{message}}}}}"#)
            }
            Dialect::Gemini => {
                let (code, name) = (status.as_u16(), google_status(status));
                format!(r#"{{"error":{{"code":{code},"message":{message},"status":"{name}"}}}}"#)
            }
        }
    }

    /// The body that refuses a prompt which is too long, in the provider's own words.
    pub(super) fn context_length(self) -> String {
        let (message, param) = match self {
            Dialect::OpenAi => (
                "This model's maximum context length is 128000 tokens. However, your messages resulted in 250000 \
                 tokens. Please reduce the length of the messages.",
                "messages",
            ),
            Dialect::Responses => (
                "Your input exceeds the context window of this model. Please adjust your input and try again.",
                "input",
            ),
            Dialect::Anthropic => ("prompt is too long: 250000 tokens > 200000 maximum", ""),
            Dialect::Gemini => {
                ("The input token count (250000) exceeds the maximum number of tokens allowed (200000).", "")
            }
        };
        self.error(StatusCode::BAD_REQUEST, message, Some("context_length_exceeded"), Some(param))
    }

    /// The error that a provider states when it fails after status 200.
    pub(super) fn late_error(self) -> String {
        let overloaded = StatusCode::from_u16(529).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        match self {
            Dialect::OpenAi | Dialect::Responses => self.error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The server had an error while processing your request. Sorry about that!",
                None,
                None,
            ),
            Dialect::Anthropic => self.error(overloaded, "Overloaded", None, None),
            Dialect::Gemini => self.error(
                StatusCode::SERVICE_UNAVAILABLE,
                "The model is overloaded. Please try again later.",
                None,
                None,
            ),
        }
    }

    /// The same as an event, which is the `number`th of its stream from 0.
    pub(super) fn late_error_event(self, number: usize) -> Bytes {
        let event = match self {
            Dialect::OpenAi | Dialect::Gemini => format!("data: {}\n\n", self.late_error()),
            Dialect::Anthropic => format!("event: error\ndata: {}\n\n", self.late_error()),
            Dialect::Responses => format!(
                concat!(
                    "event: error\ndata: {{\"type\":\"error\",\"code\":\"server_error\",\"message\":\"The server had an ",
                    "error while processing your request. Sorry about that!\",\"param\":null,\"sequence_number\":{}}}\n\n"
                ),
                number
            ),
        };
        Bytes::from(event)
    }
}

fn openai_kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        _ if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    }
}

/// Anthropic's documentation of errors; 503 is a gateway's word for what it calls 529.
fn anthropic_kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        503 | 529 => "overloaded_error",
        _ if status.is_client_error() => "invalid_request_error",
        _ => "api_error",
    }
}

/// The name of the `google.rpc.Code` that goes with a status.
fn google_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        502 | 503 | 529 => "UNAVAILABLE",
        408 | 504 => "DEADLINE_EXCEEDED",
        _ if status.is_client_error() => "INVALID_ARGUMENT",
        _ => "INTERNAL",
    }
}
