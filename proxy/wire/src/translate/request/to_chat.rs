//! A conversation as OpenAI's chat completions.
//!
//! It is written for every server that speaks this dialect: `system` and not `developer`, plain strings where there
//! is one text, no members that OpenAI itself would refuse.

use super::super::Target;
use super::encode::{BETWEEN, Ids, Run, max_tokens, runs, said, texts};
use super::neutral::{
    Call, Conversation, Effort, Format, Media, Medium, Mode, Outcome, Part, Role, Source, Thinking, Tool,
};
use super::read::{Lost, Read, Written};
use super::schema;
use super::write::Writer;
use crate::json::Value;

/// The longest id of a call that OpenAI takes, in bytes.
const LONGEST_ID: usize = 40;
/// The longest `user` that OpenAI takes, in characters.
const LONGEST_USER: usize = 64;

pub fn encode<'d>(conversation: &Conversation<'d>, target: &Target<'_>, lost: &mut Lost) -> Read<'d, String> {
    let mut writer = Writer::with_capacity(1024);
    writer.open('{').key("model").text(target.model);
    let ids = Ids::new(conversation, |id| !id.is_empty() && id.len() <= LONGEST_ID);
    let sealed = Sealed::of_model(target.model);
    writer.key("messages").open('[');
    for run in runs(conversation, true) {
        match run.role {
            Role::System => system(&run, &mut writer),
            Role::User => user(&run, &ids, &mut writer, lost),
            Role::Assistant => assistant(&run, &ids, sealed, &mut writer, lost),
        }
    }
    writer.close(']');
    tools(conversation, &mut writer, lost);
    response_format(conversation, &mut writer);
    sampling(conversation, target, &mut writer, lost);
    effort(conversation, &mut writer);
    for (key, value) in [("verbosity", conversation.verbosity), ("service_tier", conversation.service_tier)] {
        copy(key, value, &mut writer);
    }
    // Whom the request is for matters to nobody but the provider's watch on abuse; a name too long is left out.
    copy("user", conversation.user.filter(|user| user.raw().chars().count() <= LONGEST_USER + 2), &mut writer);
    if target.stream {
        writer.key("stream").raw("true").key("stream_options").raw("{\"include_usage\":true}");
    }
    writer.close('}');
    Ok(writer.finish())
}

fn copy(key: &str, value: Option<Value<'_>>, writer: &mut Writer) {
    if let Some(value) = value {
        writer.key(key).raw(value.raw());
    }
}

/// How earlier reasoning goes back to the model that sealed it. OpenAI refuses members that it does not know, so they
/// are written only where the model's name says who is behind the server. Other providers ignore earlier reasoning.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sealed {
    /// Anthropic's blocks, as LiteLLM takes them: `thinking_blocks`.
    Blocks,
    /// Google's signatures: `extra_content.google.thought_signature` of a call.
    Signatures,
    Nowhere,
}

impl Sealed {
    fn of_model(model: &str) -> Sealed {
        let model = model.to_ascii_lowercase();
        match () {
            _ if model.contains("claude") => Sealed::Blocks,
            _ if model.contains("gemini") => Sealed::Signatures,
            _ => Sealed::Nowhere,
        }
    }
}

fn system(run: &Run<'_, '_>, writer: &mut Writer) {
    let text = Written::joined(texts(run.parts.iter().copied()).map(|text| &text.text), BETWEEN);
    writer.open('{').key("role").raw("\"system\"").key("content").written(&text).close('}');
}

/// Results first, each a message of its own; what they hold beside text follows in the user's message, because a
/// tool's message takes nothing but text.
fn user(run: &Run<'_, '_>, ids: &Ids<'_>, writer: &mut Writer, lost: &mut Lost) {
    for outcome in run.outcomes() {
        tool_message(outcome, ids, writer, lost);
    }
    let shown = run.outcomes().flat_map(|outcome| &outcome.parts).filter(|part| matches!(part, Part::Media(_)));
    let parts: Vec<_> =
        shown.chain(run.parts.iter().copied().filter(|part| !matches!(part, Part::Outcome(_)))).collect();
    if parts.is_empty() && !run.parts.is_empty() {
        return;
    }
    let before = writer.mark();
    writer.open('{').key("role").raw("\"user\"").key("content");
    match parts.as_slice() {
        [] => {
            writer.raw("\"\"");
        }
        [Part::Text(text)] => {
            writer.written(&text.text);
        }
        parts => {
            writer.open('[');
            let empty = writer.mark();
            for part in parts {
                content_part(part, writer, lost);
            }
            if writer.mark() == empty {
                writer.rewind(before);
                return;
            }
            writer.close(']');
        }
    }
    writer.close('}');
}

fn tool_message(outcome: &Outcome<'_>, ids: &Ids<'_>, writer: &mut Writer, lost: &mut Lost) {
    lost.given(outcome.error);
    writer.open('{').key("role").raw("\"tool\"").key("tool_call_id").text(ids.get(&outcome.id));
    writer.key("content").written(&said(outcome)).close('}');
}

fn content_part(part: &Part<'_>, writer: &mut Writer, lost: &mut Lost) {
    match part {
        Part::Text(text) => {
            writer.open('{').key("type").raw("\"text\"").key("text").written(&text.text).close('}');
        }
        Part::Media(media) => media_part(media, writer, lost),
        _ => {}
    }
}

fn media_part(media: &Media<'_>, writer: &mut Writer, lost: &mut Lost) {
    match (media.medium, &media.source) {
        (Medium::Image, source) => {
            writer.open('{').key("type").raw("\"image_url\"").key("image_url").open('{').key("url");
            match source {
                Source::Url { url, .. } => writer.written(url),
                Source::Data { mime, data } => writer.strings(&["data:", mime.inside(), ";base64,", data.inside()]),
            };
            copy("detail", media.detail, writer);
            writer.close('}').close('}');
        }
        (Medium::Document, Source::Data { mime, data }) => {
            lost.given(media.detail);
            writer.open('{').key("type").raw("\"file\"").key("file").open('{').key("filename");
            match media.name {
                Some(name) => writer.raw(name.raw()),
                // OpenAI demands a name.
                None if mime.text() == "application/pdf" => writer.raw("\"document.pdf\""),
                None => writer.raw("\"document\""),
            };
            writer.key("file_data").strings(&["data:", mime.inside(), ";base64,", data.inside()]);
            writer.close('}').close('}');
        }
        (Medium::Audio, Source::Data { mime, data }) => {
            let format = match &*mime.text() {
                "audio/wav" | "audio/x-wav" | "audio/wave" => "wav",
                "audio/mp3" | "audio/mpeg" => "mp3",
                _ => return lost.push(media.at),
            };
            writer.open('{').key("type").raw("\"input_audio\"").key("input_audio").open('{');
            writer.key("data").written(data).key("format").text(format).close('}').close('}');
        }
        (Medium::Document | Medium::Audio, Source::Url { .. }) | (Medium::Video, _) => lost.push(media.at),
    }
}

/// An assistant's message; texts are run together, as they were parts of one answer.
fn assistant(run: &Run<'_, '_>, ids: &Ids<'_>, sealed: Sealed, writer: &mut Writer, lost: &mut Lost) {
    let (mut calls, mut has_text) = (Vec::new(), false);
    let mut signature = None;
    for part in &run.parts {
        match part {
            Part::Call(call) => calls.push((call, signature.take())),
            Part::Thought(thought) => signature = thought.signature.as_ref(),
            Part::Media(media) => lost.push(media.at),
            Part::Text(_) => has_text = true,
            Part::Outcome(_) | Part::Sealed(_) => {}
        }
    }
    if calls.is_empty() && !has_text {
        return;
    }
    writer.open('{').key("role").raw("\"assistant\"").key("content");
    match has_text {
        true => writer.written(&Written::joined(texts(run.parts.iter().copied()).map(|text| &text.text), "")),
        false => writer.raw("null"),
    };
    if sealed == Sealed::Blocks {
        thinking_blocks(run, writer);
    }
    if !calls.is_empty() {
        writer.key("tool_calls").open('[');
        for (call, signature) in calls {
            tool_call(call, signature.filter(|_| sealed == Sealed::Signatures), ids, writer);
        }
        writer.close(']');
    }
    writer.close('}');
}

fn thinking_blocks(run: &Run<'_, '_>, writer: &mut Writer) {
    let before = writer.mark();
    writer.key("thinking_blocks").open('[');
    let empty = writer.mark();
    for part in &run.parts {
        match part {
            Part::Thought(thought) => {
                if let Some(signature) = &thought.signature {
                    writer.open('{').key("type").raw("\"thinking\"").key("thinking").written(&thought.text);
                    writer.key("signature").written(signature).close('}');
                }
            }
            Part::Sealed(data) => {
                writer.open('{').key("type").raw("\"redacted_thinking\"").key("data").written(data).close('}');
            }
            _ => {}
        }
    }
    match writer.mark() == empty {
        true => writer.rewind(before),
        false => {
            writer.close(']');
        }
    }
}

fn tool_call(call: &Call<'_>, signature: Option<&Written<'_>>, ids: &Ids<'_>, writer: &mut Writer) {
    writer.open('{').key("id").text(ids.get(&call.id)).key("type").raw("\"function\"");
    writer.key("function").open('{').key("name").written(&call.name).key("arguments").text(&call.arguments).close('}');
    if let Some(signature) = signature {
        writer.key("extra_content").open('{').key("google").open('{');
        writer.key("thought_signature").written(signature).close('}').close('}');
    }
    writer.close('}');
}

fn tools(conversation: &Conversation<'_>, writer: &mut Writer, lost: &mut Lost) {
    if conversation.tools.is_empty() {
        if let Some(choice) = &conversation.choice
            && matches!(choice.mode, Mode::Any | Mode::Named(_))
        {
            lost.push(choice.at);
        }
        return;
    }
    writer.key("tools").open('[');
    conversation.tools.iter().for_each(|tool| function(tool, writer));
    writer.close(']');
    match conversation.choice.as_ref().map(|choice| &choice.mode) {
        None => {}
        Some(Mode::Auto) => {
            writer.key("tool_choice").raw("\"auto\"");
        }
        Some(Mode::Never) => {
            writer.key("tool_choice").raw("\"none\"");
        }
        Some(Mode::Any) => {
            writer.key("tool_choice").raw("\"required\"");
        }
        Some(Mode::Named(name)) => {
            writer.key("tool_choice").open('{').key("type").raw("\"function\"");
            writer.key("function").open('{').key("name").written(name).close('}').close('}');
        }
    }
    if let Some((parallel, _)) = conversation.parallel {
        writer.key("parallel_tool_calls").raw(if parallel { "true" } else { "false" });
    }
}

fn function(tool: &Tool<'_>, writer: &mut Writer) {
    writer.open('{').key("type").raw("\"function\"").key("function").open('{').key("name").raw(tool.name.raw());
    copy("description", tool.description, writer);
    if let Some(parameters) = &tool.parameters {
        writer.key("parameters").raw(parameters);
    }
    if tool.strict.is_some() {
        writer.key("strict").raw("true");
    }
    writer.close('}').close('}');
}

fn response_format(conversation: &Conversation<'_>, writer: &mut Writer) {
    match &conversation.format {
        None => {}
        Some(Format::Json(_)) => {
            writer.key("response_format").raw("{\"type\":\"json_object\"}");
        }
        Some(Format::Schema { name, description, schema, strict, .. }) => {
            writer.key("response_format").open('{').key("type").raw("\"json_schema\"").key("json_schema").open('{');
            // OpenAI demands a name.
            writer.key("name").raw(name.map_or("\"response\"", |name| name.raw()));
            copy("description", *description, writer);
            writer.key("schema").raw(schema);
            // Without a name it comes from a dialect whose schemas bind: that is kept where OpenAI can keep it.
            if strict.is_some() || (name.is_none() && schema::is_strict(schema)) {
                writer.key("strict").raw("true");
            }
            writer.close('}').close('}');
        }
    }
}

fn sampling(conversation: &Conversation<'_>, target: &Target<'_>, writer: &mut Writer, lost: &mut Lost) {
    let sampling = &conversation.sampling;
    if let Some(limit) = max_tokens(sampling.max_tokens, target.max_output_tokens) {
        writer.key("max_completion_tokens").raw(&limit);
    }
    for (key, value) in [
        ("temperature", sampling.temperature),
        ("top_p", sampling.top_p),
        ("seed", sampling.seed),
        ("presence_penalty", sampling.presence_penalty),
        ("frequency_penalty", sampling.frequency_penalty),
    ] {
        copy(key, value, writer);
    }
    lost.given(sampling.top_k);
    if !sampling.stop.is_empty() {
        writer.key("stop").open('[');
        for stop in &sampling.stop {
            writer.raw(stop.raw());
        }
        writer.close(']');
    }
}

fn effort(conversation: &Conversation<'_>, writer: &mut Writer) {
    let stated = conversation.reasoning.effort.map(|(effort, _)| effort);
    let effort = match conversation.reasoning.thinking {
        Some((Thinking::Off, _)) => Some(Effort::None),
        Some((Thinking::Budget(tokens), _)) => stated.or(Some(Effort::of_budget(tokens))),
        Some((Thinking::Adaptive, _)) | None => stated,
    };
    if let Some(effort) = effort {
        writer.key("reasoning_effort").text(effort.name());
    }
}
