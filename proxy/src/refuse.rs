//! The one table from cause to response.
//!
//! Every way in which a request can end without its answer is a [`Refusal`]; [`Refusal::row`] says how each looks to
//! the caller, whose fault it was, and whether trying again makes sense.

use pingora_http::ResponseHeader;
use sluice_policies::grant::Assert;
use sluice_policies::limits::TooMany;
use sluice_scrub::Refused;
use sluice_wire::{EnvelopeError, Failure, Family};
use std::borrow::Cow;
use std::time::Duration;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    Caller,
    Policy,
    Provider,
    Sluice,
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Fault::Caller => "caller",
            Fault::Policy => "policy",
            Fault::Provider => "provider",
            Fault::Sluice => "sluice",
        }
    }
}

/// The closed list of codes that callers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    InvalidApiKey,
    NotPermitted,
    ModelNotFound,
    UnknownUrl,
    MethodNotAllowed,
    RateLimitExceeded,
    BodyTooLarge,
    BodyTimeout,
    InvalidJson,
    InvalidRequest,
    DuplicateField,
    MissingVariable,
    InvalidVariable,
    PromptRenderFailed,
    PromptNotFound,
    UnscrubbableContent,
    PersonalDataRefused,
    AnswerWithheld,
    UnsupportedField,
    UnsupportedEndpoint,
    CredentialMissing,
    UpstreamUnavailable,
    UpstreamConnectFailed,
    UpstreamTimeout,
    UpstreamProtocolError,
    UpstreamStreamInterrupted,
    SnapshotUnavailable,
    ClientDeparted,
    Internal,
}

impl ErrorCode {
    pub const ALL: [ErrorCode; 29] = [
        ErrorCode::InvalidApiKey,
        ErrorCode::NotPermitted,
        ErrorCode::ModelNotFound,
        ErrorCode::UnknownUrl,
        ErrorCode::MethodNotAllowed,
        ErrorCode::RateLimitExceeded,
        ErrorCode::BodyTooLarge,
        ErrorCode::BodyTimeout,
        ErrorCode::InvalidJson,
        ErrorCode::InvalidRequest,
        ErrorCode::DuplicateField,
        ErrorCode::MissingVariable,
        ErrorCode::InvalidVariable,
        ErrorCode::PromptRenderFailed,
        ErrorCode::PromptNotFound,
        ErrorCode::UnscrubbableContent,
        ErrorCode::PersonalDataRefused,
        ErrorCode::AnswerWithheld,
        ErrorCode::UnsupportedField,
        ErrorCode::UnsupportedEndpoint,
        ErrorCode::CredentialMissing,
        ErrorCode::UpstreamUnavailable,
        ErrorCode::UpstreamConnectFailed,
        ErrorCode::UpstreamTimeout,
        ErrorCode::UpstreamProtocolError,
        ErrorCode::UpstreamStreamInterrupted,
        ErrorCode::SnapshotUnavailable,
        ErrorCode::ClientDeparted,
        ErrorCode::Internal,
    ];

    /// How the code looks: name, status, OpenAI's error type, fault, whether to try again.
    pub fn row(self) -> Row {
        use ErrorCode::*;
        use Fault::*;
        let (name, status, kind, fault, retry) = match self {
            InvalidApiKey => ("invalid_api_key", 401, "invalid_request_error", Caller, false),
            NotPermitted => ("not_permitted", 403, "invalid_request_error", Policy, false),
            ModelNotFound => ("model_not_found", 404, "invalid_request_error", Caller, false),
            UnknownUrl => ("unknown_url", 404, "invalid_request_error", Caller, false),
            MethodNotAllowed => ("method_not_allowed", 405, "invalid_request_error", Caller, false),
            RateLimitExceeded => ("rate_limit_exceeded", 429, "requests", Policy, true),
            BodyTooLarge => ("body_too_large", 413, "invalid_request_error", Caller, false),
            BodyTimeout => ("body_timeout", 408, "invalid_request_error", Caller, true),
            InvalidJson => ("invalid_json", 400, "invalid_request_error", Caller, false),
            InvalidRequest => ("invalid_request", 400, "invalid_request_error", Caller, false),
            DuplicateField => ("duplicate_field", 400, "invalid_request_error", Caller, false),
            MissingVariable => ("missing_variable", 400, "invalid_request_error", Caller, false),
            InvalidVariable => ("invalid_variable", 400, "invalid_request_error", Caller, false),
            PromptRenderFailed => ("prompt_render_failed", 400, "invalid_request_error", Caller, false),
            PromptNotFound => ("prompt_not_found", 404, "invalid_request_error", Caller, false),
            UnscrubbableContent => ("unscrubbable_content", 400, "invalid_request_error", Policy, false),
            PersonalDataRefused => ("personal_data_refused", 400, "invalid_request_error", Policy, false),
            AnswerWithheld => ("answer_withheld", 403, "invalid_request_error", Policy, false),
            UnsupportedField => ("unsupported_field", 400, "invalid_request_error", Caller, false),
            UnsupportedEndpoint => ("unsupported_endpoint", 404, "invalid_request_error", Caller, false),
            CredentialMissing => ("credential_missing", 503, "server_error", Policy, false),
            UpstreamUnavailable => ("upstream_unavailable", 503, "upstream_error", Provider, true),
            UpstreamConnectFailed => ("upstream_connect_failed", 502, "upstream_error", Provider, true),
            UpstreamTimeout => ("upstream_timeout", 504, "upstream_error", Provider, true),
            UpstreamProtocolError => ("upstream_protocol_error", 502, "upstream_error", Provider, true),
            UpstreamStreamInterrupted => ("upstream_stream_interrupted", 502, "upstream_error", Provider, true),
            SnapshotUnavailable => ("snapshot_unavailable", 503, "server_error", Sluice, true),
            // Nobody is there to read it; the row exists for metrics.
            ClientDeparted => ("client_departed", 499, "invalid_request_error", Caller, false),
            Internal => ("internal_error", 500, "server_error", Sluice, true),
        };
        Row { name, status, kind, fault, retry }
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub status: u16,
    /// OpenAI's `error.type`.
    pub kind: &'static str,
    pub fault: Fault,
    /// `x-should-retry`, which OpenAI's SDKs obey.
    pub retry: bool,
}

/// Why a request ends here.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: ErrorCode,
    message: String,
    param: Option<Cow<'static, str>>,
    /// How long the caller should wait.
    wait: Option<Duration>,
    pub too_many: Option<TooMany>,
    /// Whether the request's body was not read to its end, so that the connection cannot be used again.
    pub unread: bool,
    /// Whether the head of an event stream has been sent already, so that this must be said in band.
    pub begun: bool,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), param: None, wait: None, too_many: None, unread: false, begun: false }
    }

    /// The same, with bytes of the request's body still on the connection.
    pub fn with_unread_body(self) -> Refusal {
        Refusal { unread: true, ..self }
    }

    /// The same, after the head of an event stream has been sent if `begun`.
    pub fn in_band(self, begun: bool) -> Refusal {
        Refusal { begun, ..self }
    }

    pub fn invalid_key() -> Refusal {
        // One message for missing, wrong, revoked and expired keys: it must not help to tell them apart.
        Refusal::new(
            ErrorCode::InvalidApiKey,
            "Incorrect API key provided. Send a Sluice key as `Authorization: Bearer …`.",
        )
    }

    pub fn no_such_model(model: &str) -> Refusal {
        let message = format!(
            "The model `{model}` does not exist or this key may not use it. `GET /v1/models` lists what it may."
        );
        Refusal { param: Some("model".into()), ..Refusal::new(ErrorCode::ModelNotFound, message) }
    }

    pub fn too_many(too_many: TooMany) -> Refusal {
        let message = format!(
            "Rate limit reached: {} requests per minute. Try again in {}.",
            too_many.standing.limit,
            go_duration(too_many.retry_after)
        );
        Refusal {
            wait: Some(too_many.retry_after),
            too_many: Some(too_many),
            ..Refusal::new(ErrorCode::RateLimitExceeded, message)
        }
    }

    pub fn may_not(assert: Assert) -> Refusal {
        Refusal::new(
            ErrorCode::NotPermitted,
            format!("This key may not assert `{assert}`. Create one with `--asserts {assert}`."),
        )
    }

    pub fn body_too_large(limit: usize) -> Refusal {
        let message = format!("The request body is larger than {limit} bytes (`server.max_body_bytes`).");
        Refusal { unread: true, ..Refusal::new(ErrorCode::BodyTooLarge, message) }
    }

    pub fn envelope(error: EnvelopeError) -> Refusal {
        let code = match &error {
            EnvelopeError::NotUtf8(_) | EnvelopeError::NotJson(_) => ErrorCode::InvalidJson,
            EnvelopeError::Duplicate(_) => ErrorCode::DuplicateField,
            EnvelopeError::NotAnObject | EnvelopeError::Missing(_) | EnvelopeError::WrongType { .. } => {
                ErrorCode::InvalidRequest
            }
        };
        Refusal::new(code, error.to_string())
    }

    pub fn unscrubbable(what: &str, remedy: &str) -> Refusal {
        Refusal::new(
            ErrorCode::UnscrubbableContent,
            format!("Personal data is removed on this route, and {what} cannot be read for it. {remedy}"),
        )
    }

    /// A value that the route does not let leave, not even as a placeholder.
    pub fn personal_data(refused: &Refused) -> Refusal {
        let kind = &refused.0;
        Refusal::new(
            ErrorCode::PersonalDataRefused,
            format!(
                "The request holds a value of kind {kind}, which this route refuses. Take it out and send it again."
            ),
        )
    }

    /// The provider said what the route refuses.
    pub fn answer_withheld(refused: &Refused) -> Refusal {
        let kind = &refused.0;
        let message = format!("The provider's answer holds a value of kind {kind}, which this route refuses.");
        Refusal::new(ErrorCode::AnswerWithheld, message)
    }

    /// What the target's dialect has no words for.
    pub fn unsupported_fields(lost: &[String], target: &str) -> Refusal {
        let names: Vec<String> = lost.iter().map(|field| format!("`{field}`")).collect();
        let message = format!(
            "{} cannot be expressed for `{target}`, which speaks another dialect. Leave it out, or set `drop_unsupported` in the route.",
            names.join(", ")
        );
        let param = lost.first().cloned().map(Cow::Owned);
        Refusal { param, ..Refusal::new(ErrorCode::UnsupportedField, message) }
    }

    pub fn untranslatable(field: &str, reason: &str) -> Refusal {
        let param = Some(Cow::Owned(field.to_owned()));
        Refusal { param, ..Refusal::new(ErrorCode::InvalidRequest, format!("`{field}` {reason}")) }
    }

    pub fn unsupported_endpoint(path: &str, provider: &str) -> Refusal {
        Refusal::new(
            ErrorCode::UnsupportedEndpoint,
            format!("The provider `{provider}` has no `{path}`, and its dialect no equivalent of it."),
        )
    }

    /// No target can be tried now.
    pub fn unavailable(message: impl Into<String>, wait: Duration) -> Refusal {
        Refusal { wait: Some(wait), ..Refusal::new(ErrorCode::UpstreamUnavailable, message) }
    }

    /// The error, free of any dialect.
    pub fn failure(&self) -> Failure<'_> {
        let row = self.code.row();
        Failure {
            status: row.status,
            kind: row.kind.into(),
            code: Some(row.name.into()),
            param: self.param.as_deref().map(Cow::Borrowed),
            message: Cow::Borrowed(&self.message),
        }
    }

    /// The body of the response, in the family's shape.
    pub fn body(&self, family: Family) -> String {
        self.failure().body(family)
    }

    /// The response's own headers; the exchange adds those that every response has.
    pub fn header(&self, body_length: usize) -> pingora_core::Result<ResponseHeader> {
        let row = self.code.row();
        let mut header = ResponseHeader::build_no_case(row.status, Some(12))?;
        header.insert_header("content-type", "application/json")?;
        header.insert_header("content-length", body_length)?;
        header.insert_header("x-should-retry", if row.retry { "true" } else { "false" })?;
        if let Some(wait) = self.wait {
            // Rounded up: a client that waits exactly this long is admitted.
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            header.insert_header("retry-after", seconds.to_string())?;
            header.insert_header("retry-after-ms", wait.as_millis().max(1).to_string())?;
        }
        Ok(header)
    }
}

/// A duration as OpenAI's rate-limit headers write it: `120ms`, `8.64s`, `6m0s`.
pub fn go_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0..1_000 => format!("{milliseconds}ms"),
        1_000..60_000 => {
            let text = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
            format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => format!("{}m{}s", milliseconds / 60_000, milliseconds % 60_000 / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_of_its_own() {
        let mut names: Vec<_> = ErrorCode::ALL.iter().map(|code| code.row().name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn the_documented_table_is_the_table() {
        let documented = include_str!("../../docs/errors.md");
        let rows: Vec<&str> = documented.lines().filter(|line| line.starts_with("| `")).collect();
        let shown = ErrorCode::ALL.iter().filter(|code| **code != ErrorCode::ClientDeparted);
        for row in shown.clone().map(|code| code.row()) {
            let retry = if row.retry { "yes" } else { "no" };
            let start = format!("| `{}` | {} | {} | {} | {retry} |", row.name, row.status, row.kind, row.fault.name());
            assert!(rows.iter().any(|line| line.starts_with(&start)), "docs/errors.md lacks: {start}");
        }
        assert_eq!(rows.len(), shown.count(), "docs/errors.md names a code that does not exist");
    }

    #[test]
    fn durations_read_as_openai_writes_them() {
        let written = [120, 8640, 1000, 59_999, 360_000, 61_500]
            .map(|milliseconds| go_duration(Duration::from_millis(milliseconds)));
        assert_eq!(written, ["120ms", "8.64s", "1s", "59.999s", "6m0s", "1m1s"]);
    }
}
