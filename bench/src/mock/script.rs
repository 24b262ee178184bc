//! What the mock is told to do.
//!
//! The same [`Script`] is read from the command line, from `POST /mock/script` and from the request header `x-mock`;
//! every field is optional, so that a more specific script overrides single fields of a more general one.
//! It is deserialised field by field instead of derived, because serde's own type errors do not name the field.

use super::wait::Wait;
use clap::Args;
use hyper::StatusCode;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::num::NonZeroUsize;
use std::str::FromStr;

/// How the mock answers; what is absent is left to the next more general script, and in the end to plain behaviour.
#[derive(Debug, Clone, Default, Args)]
pub struct Script {
    /// Milliseconds to wait before the response header: 20, 10..50 (equally often), exponential:MEAN, or
    /// lognormal:MEDIAN,P99.
    #[arg(long, value_name = "WAIT")]
    pub latency_milliseconds: Option<Wait>,
    /// Milliseconds between the header of a stream and its first event, as above.
    #[arg(long, value_name = "WAIT")]
    pub first_token_milliseconds: Option<Wait>,
    /// Milliseconds between the deltas of a stream, as above, each drawn anew.
    #[arg(long, value_name = "WAIT")]
    pub token_milliseconds: Option<Wait>,
    /// How many tokens (deltas) of the reply are emitted; the whole reply when absent.
    #[arg(long)]
    pub tokens: Option<usize>,
    /// What is answered: echo, last (default), json, or {"text": "…"}.
    #[arg(long)]
    pub reply: Option<Reply>,
    /// Bytes of text in a delta, rounded up to whole characters; words when absent.
    #[arg(long)]
    pub split: Option<NonZeroUsize>,
    /// Answers with a tool call instead of text: {"name": "…", "arguments": "…"}.
    #[arg(long)]
    pub tool_call: Option<ToolCall>,
    /// Answers with these tool calls in parallel; may be given several times.
    #[arg(long)]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// What is thought before the reply.
    #[arg(long)]
    pub reasoning: Option<String>,
    /// What goes wrong: status:503, context_length, html_error, wrong_content_type, {close,reset,stall}_before_header,
    /// {close,reset,stall}_after_header, {close,reset,stall,error}_mid_stream, stall_first_token, metadata_forever,
    /// trickle, malformed_json, invalid_utf8, split_utf8, error_first, no_done, garbage_after_done, empty_stream,
    /// gzip, or none.
    #[arg(long)]
    pub fault: Option<Fault>,
    /// How many requests the fault hits before the answers are good again; all when absent.
    #[arg(long)]
    pub fault_times: Option<u64>,
    /// The header `retry-after` of a status fault, as it stands; an empty one leaves the header out.
    #[arg(long)]
    pub retry_after: Option<String>,
    /// The header `retry-after-ms` of a status fault, as it stands.
    #[arg(long)]
    pub retry_after_ms: Option<String>,
    /// Milliseconds after which an idle connection is closed without being announced.
    #[arg(long)]
    pub idle_close_milliseconds: Option<u64>,
    /// The credential without which a request is answered 401.
    #[arg(long)]
    pub expected_authorization: Option<String>,
    /// Whether the last requests are kept for `GET /mock/requests` (default true); a benchmark turns it off.
    #[arg(id = "no_record", long = "no-record", action = clap::ArgAction::SetFalse)]
    pub record: Option<bool>,
}

/// Where the text of an answer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The text of all messages, joined by newlines.
    Echo,
    /// The text of the last user message.
    Last,
    /// The request body as it arrived.
    Json,
    /// This text.
    Text(String),
}

/// A tool call to answer with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// The function's name.
    pub name: String,
    /// Its arguments, sent as they are; the word `echo` stands for `{"text": <last user text>}`.
    pub arguments: String,
}

/// What goes wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing, which lets a header switch off a fault of the default script.
    None,
    /// An error status in the dialect's form.
    Status(StatusCode),
    /// The connection closes without an answer.
    CloseBeforeHeader,
    /// The connection closes when the header has been sent.
    CloseAfterHeader,
    /// The connection closes after half of the deltas (half of the bytes of a plain answer).
    CloseMidStream,
    /// RST without an answer.
    ResetBeforeHeader,
    /// RST when the header has been sent.
    ResetAfterHeader,
    /// RST after half of the deltas.
    ResetMidStream,
    /// No answer comes.
    StallBeforeHeader,
    /// Nothing comes after the header.
    StallAfterHeader,
    /// Nothing comes after the events that open a stream.
    StallFirstToken,
    /// Nothing more comes after half of the deltas.
    StallMidStream,
    /// The provider shows that it is alive and never says anything.
    MetadataForever,
    /// Each byte is a write of its own, at the pace of the deltas.
    Trickle,
    /// A gateway's error page with status 502.
    HtmlError,
    /// A page with status 200.
    WrongContentType,
    /// The prompt is longer than the model allows.
    ContextLength,
    /// One delta in the middle, or the plain answer, is cut JSON.
    MalformedJson,
    /// A string in the middle holds the byte 0xFF.
    InvalidUtf8,
    /// Characters of several bytes are split over two writes.
    SplitUtf8,
    /// A stream has an error as its first event; a plain answer is an error with status 200.
    ErrorFirst,
    /// An error follows half of the deltas and ends the stream.
    ErrorMidStream,
    /// The stream ends cleanly without its terminator.
    NoDone,
    /// Bytes without meaning follow the end of the answer.
    GarbageAfterDone,
    /// The answer has an empty body.
    EmptyStream,
    /// The answer is compressed, whatever the client accepts.
    Gzip,
}

/// The faults without a parameter, by their names.
const FAULTS: &[(&str, Fault)] = &[
    ("none", Fault::None),
    ("close_before_header", Fault::CloseBeforeHeader),
    ("close_after_header", Fault::CloseAfterHeader),
    ("close_mid_stream", Fault::CloseMidStream),
    ("reset_before_header", Fault::ResetBeforeHeader),
    ("reset_after_header", Fault::ResetAfterHeader),
    ("reset_mid_stream", Fault::ResetMidStream),
    ("stall_before_header", Fault::StallBeforeHeader),
    ("stall_after_header", Fault::StallAfterHeader),
    ("stall_first_token", Fault::StallFirstToken),
    ("stall_mid_stream", Fault::StallMidStream),
    ("metadata_forever", Fault::MetadataForever),
    ("trickle", Fault::Trickle),
    ("html_error", Fault::HtmlError),
    ("wrong_content_type", Fault::WrongContentType),
    ("context_length", Fault::ContextLength),
    ("malformed_json", Fault::MalformedJson),
    ("invalid_utf8", Fault::InvalidUtf8),
    ("split_utf8", Fault::SplitUtf8),
    ("error_first", Fault::ErrorFirst),
    ("error_mid_stream", Fault::ErrorMidStream),
    ("no_done", Fault::NoDone),
    ("garbage_after_done", Fault::GarbageAfterDone),
    ("empty_stream", Fault::EmptyStream),
    ("gzip", Fault::Gzip),
];

impl Script {
    /// Reads a script from JSON; the message names the field at fault.
    pub fn parse(json: &[u8]) -> Result<Script, String> {
        serde_json::from_slice(json).map_err(|error| error.to_string())
    }

    /// This script, with what it leaves open taken from `general`.
    pub fn over(self, general: &Script) -> Script {
        let calls = self.tool_call.is_some() || self.tool_calls.is_some();
        let (tool_call, tool_calls) = match calls {
            true => (self.tool_call, self.tool_calls),
            false => (general.tool_call.clone(), general.tool_calls.clone()),
        };
        Script {
            latency_milliseconds: self.latency_milliseconds.or(general.latency_milliseconds),
            first_token_milliseconds: self.first_token_milliseconds.or(general.first_token_milliseconds),
            token_milliseconds: self.token_milliseconds.or(general.token_milliseconds),
            tokens: self.tokens.or(general.tokens),
            reply: self.reply.or_else(|| general.reply.clone()),
            split: self.split.or(general.split),
            tool_call,
            tool_calls,
            reasoning: self.reasoning.or_else(|| general.reasoning.clone()),
            fault: self.fault.or(general.fault),
            fault_times: self.fault_times.or(general.fault_times),
            retry_after: self.retry_after.or_else(|| general.retry_after.clone()),
            retry_after_ms: self.retry_after_ms.or_else(|| general.retry_after_ms.clone()),
            idle_close_milliseconds: self.idle_close_milliseconds.or(general.idle_close_milliseconds),
            expected_authorization: self.expected_authorization.or_else(|| general.expected_authorization.clone()),
            record: self.record.or(general.record),
        }
    }

    /// The tool calls to answer with, in their order.
    pub fn calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.tool_call.iter().chain(self.tool_calls.iter().flatten())
    }
}

const FIELDS: &[&str] = &[
    "latency_milliseconds",
    "first_token_milliseconds",
    "token_milliseconds",
    "tokens",
    "reply",
    "split",
    "tool_call",
    "tool_calls",
    "reasoning",
    "fault",
    "fault_times",
    "retry_after",
    "retry_after_ms",
    "idle_close_milliseconds",
    "expected_authorization",
    "record",
];

impl<'de> Deserialize<'de> for Script {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Script, D::Error> {
        let mut script = Script::default();
        for (name, value) in Map::<String, Value>::deserialize(deserializer)? {
            match name.as_str() {
                "latency_milliseconds" => script.latency_milliseconds = field(&name, value)?,
                "first_token_milliseconds" => script.first_token_milliseconds = field(&name, value)?,
                "token_milliseconds" => script.token_milliseconds = field(&name, value)?,
                "tokens" => script.tokens = field(&name, value)?,
                "reply" => script.reply = field(&name, value)?,
                "split" => script.split = field(&name, value)?,
                "tool_call" => script.tool_call = field(&name, value)?,
                "tool_calls" => script.tool_calls = field(&name, value)?,
                "reasoning" => script.reasoning = field(&name, value)?,
                "fault" => script.fault = field(&name, value)?,
                "fault_times" => script.fault_times = field(&name, value)?,
                "retry_after" => script.retry_after = field(&name, value)?,
                "retry_after_ms" => script.retry_after_ms = field(&name, value)?,
                "idle_close_milliseconds" => script.idle_close_milliseconds = field(&name, value)?,
                "expected_authorization" => script.expected_authorization = field(&name, value)?,
                "record" => script.record = field(&name, value)?,
                _ => return Err(D::Error::unknown_field(&name, FIELDS)),
            }
        }
        Ok(script)
    }
}

fn field<T: DeserializeOwned, E: serde::de::Error>(name: &str, value: Value) -> Result<Option<T>, E> {
    serde_json::from_value(value).map_err(|error| E::custom(format_args!("`{name}`: {error}")))
}

impl FromStr for Reply {
    type Err = String;

    fn from_str(text: &str) -> Result<Reply, String> {
        match text {
            "echo" => Ok(Reply::Echo),
            "last" => Ok(Reply::Last),
            "json" => Ok(Reply::Json),
            object if object.starts_with('{') => from_json(object),
            _ => Err(format!(r#"unknown reply "{text}", expected "echo", "last", "json" or {{"text": "…"}}"#)),
        }
    }
}

impl<'de> Deserialize<'de> for Reply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Reply, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Literal {
            text: String,
        }
        match Value::deserialize(deserializer)? {
            Value::String(word) => word.parse().map_err(D::Error::custom),
            object => {
                serde_json::from_value(object).map(|Literal { text }| Reply::Text(text)).map_err(D::Error::custom)
            }
        }
    }
}

impl FromStr for ToolCall {
    type Err = String;

    fn from_str(text: &str) -> Result<ToolCall, String> {
        from_json(text)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let status = |digits: &str| {
            let status = digits.parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
            status.filter(|status| status.is_client_error() || status.is_server_error())
        };
        if let Some((_, fault)) = FAULTS.iter().find(|(name, _)| *name == text) {
            return Ok(*fault);
        }
        text.strip_prefix("status:")
            .and_then(status)
            .map(Fault::Status)
            .ok_or_else(|| format!(r#"unknown fault "{text}""#))
    }
}

impl<'de> Deserialize<'de> for Fault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fault, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error: serde_json::Error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, message: &str) {
        let error = Script::parse(json.as_bytes()).expect_err("the script is bad");
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn a_bad_script_is_refused_by_the_name_of_its_field() {
        check(r#"{"latency": 5}"#, "unknown field `latency`");
        check(r#"{"latency_milliseconds": "soon"}"#, r#"`latency_milliseconds`: "soon" is no wait"#);
        check(r#"{"token_milliseconds": true}"#, r#"`token_milliseconds`: "true" is no wait"#);
        check(r#"{"split": 0}"#, "`split`: ");
        check(r#"{"reply": "lats"}"#, r#"`reply`: unknown reply "lats""#);
        check(r#"{"reply": {"txt": "x"}}"#, "`reply`: unknown field `txt`");
        check(r#"{"fault": "status:200"}"#, "`fault`: unknown fault");
        check(r#"{"tool_call": {"name": "f"}}"#, "`tool_call`: missing field `arguments`");
        check("[]", "invalid type");
    }

    #[test]
    fn a_script_overrides_only_what_it_names() {
        let general = Script::parse(br#"{"tokens": 3, "fault": "status:503", "reply": "echo"}"#).expect("good");
        let script = Script::parse(br#"{"fault": "none", "reply": {"text": "hi"}}"#).expect("good").over(&general);
        assert_eq!(script.tokens, Some(3));
        assert_eq!(script.fault, Some(Fault::None));
        assert_eq!(script.reply, Some(Reply::Text("hi".to_owned())));
    }

    #[test]
    fn the_command_line_reads_the_same_script() {
        #[derive(clap::Parser)]
        struct Flags {
            #[command(flatten)]
            script: Script,
        }
        let parse = |arguments: &[&str]| {
            let all = ["mock"].iter().chain(arguments);
            <Flags as clap::Parser>::try_parse_from(all).map(|flags| flags.script)
        };
        let script = parse(&["--reply", r#"{"text":"hi"}"#, "--fault", "status:429", "--no-record"]).expect("good");
        assert_eq!(script.reply, Some(Reply::Text("hi".to_owned())));
        assert_eq!(script.fault, Some(Fault::Status(StatusCode::TOO_MANY_REQUESTS)));
        assert_eq!(script.record, Some(false));
        assert_ne!(parse(&[]).expect("good").record, Some(false));
    }
}
