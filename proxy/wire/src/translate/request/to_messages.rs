//! A conversation as Anthropic's messages.
//!
//! Sources: the API's reference; its pages on tool use (results come first, in the turn after the calls), on extended
//! thinking (what it cannot be combined with) and on structured outputs.

use super::super::Target;
use super::encode::{Ids, Run, amount, arguments, max_tokens, runs};
use super::neutral::{
    Conversation, Effort, Format, Media, Medium, Mode, Outcome, Part, Role, Sampling, Source, Text, Thinking, Tool,
};
use super::read::{Lost, Read, Written};
use super::write::Writer;
use crate::json::Value;
use std::borrow::Cow;

/// Anthropic demands a limit; this one is asked for where neither the client nor the route states one.
const DEFAULT_MAX_TOKENS: u64 = 4096;
/// The least that extended thinking may be given.
const LEAST_BUDGET: u64 = 1024;
/// The longest `metadata.user_id`, in characters.
const LONGEST_USER: usize = 256;
/// Images that Anthropic reads.
const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

pub fn encode<'d>(conversation: &Conversation<'d>, target: &Target<'_>, lost: &mut Lost) -> Read<'d, String> {
    let mut writer = Writer::with_capacity(1024);
    writer.open('{').key("model").text(target.model);
    let (limit, budget) = limits(conversation, target, lost);
    writer.key("max_tokens").raw(&limit);
    system(conversation, &mut writer);
    messages(conversation, &mut writer, lost)?;
    tools(&conversation.tools, &mut writer);
    tool_choice(conversation, &mut writer, lost);
    sampling(&conversation.sampling, budget.is_some(), &mut writer, lost);
    thinking(conversation, budget, &mut writer);
    output_config(conversation, &mut writer, lost);
    lost.given(conversation.verbosity);
    lost.given(conversation.service_tier);
    if let Some(user) = conversation.user.filter(|user| user.raw().chars().count() <= LONGEST_USER + 2) {
        writer.key("metadata").open('{').key("user_id").raw(user.raw()).close('}');
    }
    if target.stream {
        writer.key("stream").raw("true");
    }
    writer.close('}');
    Ok(writer.finish())
}

/// `max_tokens` and the thinking budget, which must be less. A budget that finds no room, or that stands beside a
/// forced tool, which Anthropic does not allow, is lost.
fn limits<'d>(conversation: &Conversation<'d>, target: &Target<'_>, lost: &mut Lost) -> (Cow<'d, str>, Option<u64>) {
    let asked = max_tokens(conversation.sampling.max_tokens, target.max_output_tokens);
    let wanted = match conversation.reasoning.thinking {
        Some((Thinking::Budget(tokens), at)) => Some((tokens.max(LEAST_BUDGET), at)),
        _ => None,
    };
    let limit = asked.unwrap_or_else(|| {
        let most = target.max_output_tokens.map(u64::from);
        let room = wanted.map_or(0, |(tokens, _)| tokens);
        Cow::Owned(most.unwrap_or(DEFAULT_MAX_TOKENS.saturating_add(room)).to_string())
    });
    let Some((tokens, at)) = wanted else { return (limit, None) };
    let most = limit.parse::<u64>().unwrap_or(u64::MAX);
    if most <= LEAST_BUDGET || is_forced(conversation) {
        lost.push(at);
        return (limit, None);
    }
    (limit, Some(tokens.min(most - 1)))
}

fn is_forced(conversation: &Conversation<'_>) -> bool {
    !conversation.tools.is_empty()
        && conversation.choice.as_ref().is_some_and(|choice| matches!(choice.mode, Mode::Any | Mode::Named(_)))
}

/// One text, or blocks where one of them is to be cached.
fn system(conversation: &Conversation<'_>, writer: &mut Writer) {
    let texts: Vec<_> = conversation.system().filter(|text| !text.text.is_blank()).collect();
    if texts.is_empty() {
        return;
    }
    writer.key("system");
    if texts.iter().all(|text| text.cache.is_none()) {
        writer.written(&Written::joined(texts.iter().map(|text| &text.text), super::encode::BETWEEN));
        return;
    }
    writer.open('[');
    texts.iter().for_each(|text| text_block(text, writer));
    writer.close(']');
}

fn messages<'d>(conversation: &Conversation<'d>, writer: &mut Writer, lost: &mut Lost) -> Read<'d, ()> {
    let ids = Ids::new(conversation, |id| {
        !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    });
    writer.key("messages").open('[');
    for run in runs(conversation, false) {
        message(&run, &ids, writer, lost)?;
    }
    writer.close(']');
    Ok(())
}

/// Writes a message, unless it says nothing: Anthropic refuses empty ones.
fn message<'d>(run: &Run<'_, 'd>, ids: &Ids<'_>, writer: &mut Writer, lost: &mut Lost) -> Read<'d, ()> {
    let role = if run.role == Role::Assistant { "assistant" } else { "user" };
    let before = writer.mark();
    writer.open('{').key("role").text(role).key("content");
    if let [Part::Text(Text { text, cache: None })] = run.parts.as_slice() {
        writer.written(text).close('}');
        if text.is_blank() {
            writer.rewind(before);
        }
        return Ok(());
    }
    writer.open('[');
    let empty = writer.mark();
    for part in &run.parts {
        block(part, run.role, ids, writer, lost)?;
    }
    match writer.mark() == empty {
        true => writer.rewind(before),
        false => {
            writer.close(']').close('}');
        }
    }
    Ok(())
}

fn block<'d>(part: &Part<'d>, role: Role, ids: &Ids<'_>, writer: &mut Writer, lost: &mut Lost) -> Read<'d, ()> {
    match part {
        Part::Text(text) => text_block(text, writer),
        Part::Media(media) if role == Role::Assistant => lost.push(media.at),
        Part::Media(media) => media_block(media, writer, lost),
        Part::Call(call) => {
            writer.open('{').key("type").raw("\"tool_use\"").key("id").text(ids.get(&call.id));
            writer.key("name").written(&call.name).key("input").raw(arguments(call)?);
            cache(call.cache, writer);
            writer.close('}');
        }
        Part::Outcome(outcome) => result_block(outcome, ids, writer, lost),
        // What nobody signed, or Google did, Anthropic does not take back; it does not need it either.
        Part::Thought(thought) => {
            if let Some(signature) = thought.signature.as_ref().filter(|_| !thought.google) {
                writer.open('{').key("type").raw("\"thinking\"").key("thinking").written(&thought.text);
                writer.key("signature").written(signature).close('}');
            }
        }
        Part::Sealed(data) => {
            writer.open('{').key("type").raw("\"redacted_thinking\"").key("data").written(data).close('}');
        }
    }
    Ok(())
}

/// Anthropic refuses texts of white space alone; they say nothing.
fn text_block(text: &Text<'_>, writer: &mut Writer) {
    if text.text.is_blank() {
        return;
    }
    writer.open('{').key("type").raw("\"text\"").key("text").written(&text.text);
    cache(text.cache, writer);
    writer.close('}');
}

fn cache(cache: Option<Value<'_>>, writer: &mut Writer) {
    if let Some(cache) = cache {
        writer.key("cache_control").raw(cache.raw());
    }
}

fn result_block(outcome: &Outcome<'_>, ids: &Ids<'_>, writer: &mut Writer, lost: &mut Lost) {
    writer.open('{').key("type").raw("\"tool_result\"").key("tool_use_id").text(ids.get(&outcome.id));
    if let [Part::Text(Text { text, cache: None })] = outcome.parts.as_slice() {
        writer.key("content").written(text);
    } else if !outcome.parts.is_empty() {
        writer.key("content").open('[');
        for part in &outcome.parts {
            match part {
                Part::Text(text) => text_block(text, writer),
                Part::Media(media) => media_block(media, writer, lost),
                _ => {}
            }
        }
        writer.close(']');
    }
    if outcome.failed {
        writer.key("is_error").raw("true");
    }
    cache(outcome.cache, writer);
    writer.close('}');
}

fn media_block(media: &Media<'_>, writer: &mut Writer, lost: &mut Lost) {
    let kind = match media.medium {
        Medium::Image => "\"image\"",
        Medium::Document => "\"document\"",
        Medium::Audio | Medium::Video => return lost.push(media.at),
    };
    let before = writer.mark();
    writer.open('{').key("type").raw(kind).key("source").open('{');
    match &media.source {
        Source::Url { url, .. } => {
            writer.key("type").raw("\"url\"").key("url").written(url);
        }
        Source::Data { mime, data } => {
            let mime = match &*mime.text() {
                "image/jpg" => Cow::Borrowed("image/jpeg"),
                other => Cow::Owned(other.to_ascii_lowercase()),
            };
            let is_read = match media.medium {
                Medium::Image => IMAGES.contains(&&*mime),
                _ => mime == "application/pdf",
            };
            if !is_read {
                writer.rewind(before);
                return lost.push(media.at);
            }
            writer.key("type").raw("\"base64\"").key("media_type").text(&mime).key("data").written(data);
        }
    }
    writer.close('}');
    if let Some(name) = media.name.filter(|_| media.medium == Medium::Document) {
        writer.key("title").raw(name.raw());
    }
    lost.given(media.detail);
    cache(media.cache, writer);
    writer.close('}');
}

fn tools(tools: &[Tool<'_>], writer: &mut Writer) {
    if tools.is_empty() {
        return;
    }
    writer.key("tools").open('[');
    for tool in tools {
        writer.open('{').key("name").raw(tool.name.raw());
        if let Some(description) = tool.description {
            writer.key("description").raw(description.raw());
        }
        // Anthropic demands a schema of an object, also where a function takes nothing.
        let nothing = "{\"type\":\"object\",\"properties\":{}}";
        let schema = tool.parameters.as_deref().filter(|schema| schema.contains(':')).unwrap_or(nothing);
        writer.key("input_schema").raw(schema);
        if tool.strict.is_some() {
            writer.key("strict").raw("true");
        }
        cache(tool.cache, writer);
        writer.close('}');
    }
    writer.close(']');
}

fn tool_choice(conversation: &Conversation<'_>, writer: &mut Writer, lost: &mut Lost) {
    if conversation.tools.is_empty() {
        if let Some(choice) = &conversation.choice
            && matches!(choice.mode, Mode::Any | Mode::Named(_))
        {
            lost.push(choice.at);
        }
        return;
    }
    let one_at_a_time = conversation.parallel.is_some_and(|(parallel, _)| !parallel);
    let mode = conversation.choice.as_ref().map(|choice| &choice.mode);
    if mode.is_none() && !one_at_a_time {
        return;
    }
    writer.key("tool_choice").open('{').key("type");
    match mode {
        None | Some(Mode::Auto) => writer.raw("\"auto\""),
        Some(Mode::Never) => writer.raw("\"none\""),
        Some(Mode::Any) => writer.raw("\"any\""),
        Some(Mode::Named(name)) => writer.raw("\"tool\"").key("name").written(name),
    };
    if one_at_a_time && !matches!(mode, Some(Mode::Never)) {
        writer.key("disable_parallel_tool_use").raw("true");
    }
    writer.close('}');
}

/// Anthropic's temperature ends at 1. While it thinks, it takes no other temperature, no `top_k`, and `top_p` from
/// 0.95 only.
fn sampling(sampling: &Sampling<'_>, thinks: bool, writer: &mut Writer, lost: &mut Lost) {
    let mut write = |key: &str, value: Option<Value<'_>>, is_taken: fn(f64, bool) -> bool| {
        let Some(value) = value else { return };
        match is_taken(amount(value), thinks) {
            true => {
                writer.key(key).raw(value.raw());
            }
            false => lost.push(value),
        }
    };
    write("temperature", sampling.temperature, |amount, thinks| amount <= 1.0 && (!thinks || amount == 1.0));
    // 1 takes nothing away, and some models refuse it beside a temperature.
    let top_p = sampling.top_p.filter(|top_p| amount(*top_p) != 1.0);
    write("top_p", top_p, |amount, thinks| !thinks || amount >= 0.95);
    write("top_k", sampling.top_k, |_, thinks| !thinks);
    lost.given(sampling.seed);
    // A penalty of nothing is none.
    lost.given(sampling.presence_penalty.filter(|penalty| amount(*penalty) != 0.0));
    lost.given(sampling.frequency_penalty.filter(|penalty| amount(*penalty) != 0.0));
    stop(&sampling.stop, writer, lost);
}

/// Anthropic refuses stop sequences of white space alone.
fn stop(stop: &[Value<'_>], writer: &mut Writer, lost: &mut Lost) {
    let is_blank = |value: &Value<'_>| value.string().is_none_or(|text| text.trim().is_empty());
    stop.iter().filter(|value| is_blank(value)).for_each(|value| lost.push(*value));
    if stop.iter().all(is_blank) {
        return;
    }
    writer.key("stop_sequences").open('[');
    stop.iter().filter(|value| !is_blank(value)).for_each(|value| {
        writer.raw(value.raw());
    });
    writer.close(']');
}

fn thinking(conversation: &Conversation<'_>, budget: Option<u64>, writer: &mut Writer) {
    let reasoning = &conversation.reasoning;
    let is_off = matches!(reasoning.thinking, Some((Thinking::Off, _)))
        || (reasoning.thinking.is_none() && matches!(reasoning.effort, Some((Effort::None, _))));
    if let Some(tokens) = budget {
        writer.key("thinking").open('{').key("type").raw("\"enabled\"");
        writer.key("budget_tokens").raw(&tokens.to_string()).close('}');
    } else if is_off {
        writer.key("thinking").open('{').key("type").raw("\"disabled\"").close('}');
    }
}

fn output_config(conversation: &Conversation<'_>, writer: &mut Writer, lost: &mut Lost) {
    let before = writer.mark();
    writer.key("output_config").open('{');
    let empty = writer.mark();
    match conversation.reasoning.effort {
        None | Some((Effort::None, _)) => {}
        Some((Effort::Minimal, _)) => {
            writer.key("effort").raw("\"low\"");
        }
        Some((effort, _)) => {
            writer.key("effort").text(effort.name());
        }
    }
    match &conversation.format {
        None => {}
        Some(Format::Json(at)) => lost.push(*at),
        // Its schemas are always strict and have no names; what describes one beside itself is advice.
        Some(Format::Schema { schema, .. }) => {
            writer.key("format").open('{').key("type").raw("\"json_schema\"").key("schema").raw(schema).close('}');
        }
    }
    match writer.mark() == empty {
        true => writer.rewind(before),
        false => {
            writer.close('}');
        }
    }
}
