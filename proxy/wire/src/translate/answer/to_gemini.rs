//! Answers for Gemini's clients. Redacted reasoning has no place there and is left out.

use super::super::request::write::Writer;
use super::super::said::{Answer, Call, Event, Part, Reason, object};

/// Whether Google's clients can read it: the field is bytes, in base64.
fn is_base64(text: &str) -> bool {
    let inside = text.trim_end_matches('=');
    !inside.is_empty()
        && text.len().is_multiple_of(4)
        && text.len() - inside.len() <= 2
        && inside.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_'))
}

fn write_signature(writer: &mut Writer, signature: Option<&str>) {
    if let Some(signature) = signature.filter(|text| is_base64(text)) {
        writer.key("thoughtSignature").text(signature);
    }
}

fn write_text(writer: &mut Writer, text: &str, thought: bool, signature: Option<&str>) {
    writer.open('{').key("text").text(text);
    if thought {
        writer.key("thought").raw("true");
    }
    write_signature(writer, signature);
    writer.close('}');
}

fn write_call(writer: &mut Writer, call: &Call, arguments: &str) {
    writer.open('{').key("functionCall").open('{');
    writer.key("id").text(&call.id).key("name").text(&call.name).key("args").raw(&object(arguments)).close('}');
    write_signature(writer, call.signature.as_deref());
    writer.close('}');
}

fn reason(answer: &Answer) -> &'static str {
    match answer.reason() {
        Reason::Length => "MAX_TOKENS",
        Reason::Filtered => "SAFETY",
        Reason::End | Reason::Tools | Reason::StopSequence(_) => "STOP",
    }
}

/// A response with the parts that `parts` writes; the last one also says why it stopped and what it took.
fn response(answer: &Answer, last: bool, parts: impl FnOnce(&mut Writer)) -> String {
    let mut writer = Writer::default();
    writer.open('{').key("candidates").open('[').open('{');
    writer.key("content").open('{').key("role").text("model").key("parts").open('[');
    parts(&mut writer);
    writer.close(']').close('}');
    if last {
        writer.key("finishReason").text(reason(answer));
    }
    writer.key("index").raw("0").close('}').close(']');
    if last && answer.usage.is_stated() {
        write_usage(&mut writer, answer);
    }
    writer.key("modelVersion").text(&answer.head.model).key("responseId").text(&answer.head.id).close('}');
    writer.finish()
}

fn write_usage(writer: &mut Writer, answer: &Answer) {
    let usage = &answer.usage;
    let (input, output) = (usage.input.unwrap_or(0), usage.output.unwrap_or(0));
    let reasoning = usage.reasoning.unwrap_or(0);
    writer.key("usageMetadata").open('{');
    writer.key("promptTokenCount").raw(&input.to_string());
    writer.key("candidatesTokenCount").raw(&output.saturating_sub(reasoning).to_string());
    writer.key("totalTokenCount").raw(&input.saturating_add(output).to_string());
    if let Some(cached) = usage.cached {
        writer.key("cachedContentTokenCount").raw(&cached.to_string());
    }
    if usage.reasoning.is_some() {
        writer.key("thoughtsTokenCount").raw(&reasoning.to_string());
    }
    writer.close('}');
}

/// A whole answer.
pub fn whole(answer: &Answer) -> String {
    response(answer, true, |writer| {
        for part in &answer.parts {
            match part {
                Part::Text(text) => write_text(writer, text, false, None),
                Part::Reasoning { text, signature } => write_text(writer, text, true, signature.as_deref()),
                Part::Tool { call, arguments } => write_call(writer, call, arguments),
                Part::Redacted(_) => {}
            }
        }
    })
}

/// Writes a stream's responses; a call comes when its arguments are whole.
#[derive(Debug, Default)]
pub struct Encoder;

impl Encoder {
    /// Writes what `event` adds to `answer`, which has it already.
    pub fn event(&mut self, answer: &Answer, event: &Event, out: &mut Vec<u8>) {
        let body = match (event, answer.parts.last()) {
            (Event::Text(text), _) => response(answer, false, |writer| write_text(writer, text, false, None)),
            (Event::Reasoning(text), _) => response(answer, false, |writer| write_text(writer, text, true, None)),
            (Event::Signature(signature), _) if is_base64(signature) => {
                response(answer, false, |writer| write_text(writer, "", true, Some(signature)))
            }
            (Event::Close, Some(Part::Tool { call, arguments })) => {
                response(answer, false, |writer| write_call(writer, call, arguments))
            }
            // Google ends its streams with an empty text, too; its clients take an answer without parts for none.
            (Event::Over, _) => response(answer, true, |writer| write_text(writer, "", false, None)),
            _ => return,
        };
        super::data(&body, out);
    }
}
