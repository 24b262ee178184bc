//! Anthropic's messages, read.
//!
//! Source: `MessageCreateParams` of Anthropic's SDK; sampling is described on the API's own page.

use super::neutral::{
    Call, Choice, Conversation, Effort, Format, Media, Medium, Mode, Outcome, Part, Role, Source, Text, Thinking,
    Thought, Tool, Turn,
};
use super::read::{
    Lost, Read, Written, boolean, elements, fault, holds_only, members, number, object, required, required_string,
    string,
};
use crate::json::{Kind, Value};
use std::borrow::Cow;

/// Members that have no bearing on the answer where Anthropic does not give it:
///
/// - `model`: the route's model takes its place; `stream`: the target says it;
/// - `cache_control`: advice to Anthropic's cache;
/// - `service_tier`: both of its values choose between what the account has bought from Anthropic.
const HARMLESS: [&str; 4] = ["model", "stream", "cache_control", "service_tier"];

pub fn decode<'d>(root: Value<'d>, lost: &mut Lost) -> Read<'d, Conversation<'d>> {
    let mut conversation = Conversation::default();
    if let Some(system) = root.get("system").filter(|system| !system.is_null()) {
        let parts = content(system, Role::System, lost)?;
        conversation.turns.push(Turn { role: Role::System, parts });
    }
    for (key, value) in members(root)? {
        let sampling = &mut conversation.sampling;
        match &*key {
            "messages" | "system" => {}
            "max_tokens" => sampling.max_tokens = Some(number(value)?),
            "temperature" => sampling.temperature = Some(number(value)?),
            "top_p" => sampling.top_p = Some(number(value)?),
            "top_k" => sampling.top_k = Some(number(value)?),
            "stop_sequences" => {
                sampling.stop = elements(value)?.map(|stop| string(stop).map(|_| stop)).collect::<Read<'d, _>>()?;
            }
            "thinking" => thinking(&mut conversation, value, lost)?,
            "output_config" => output_config(&mut conversation, value, lost)?,
            // The beta's name of what `output_config.format` is today.
            "output_format" => conversation.format = format(value, lost)?,
            "tools" => tools(&mut conversation, value, lost)?,
            "tool_choice" => choice(&mut conversation, value, lost)?,
            "metadata" => {
                for (key, member) in members(value)? {
                    match &*key {
                        "user_id" => conversation.user = string(member).map(|_| Some(member))?,
                        _ => lost.push(member),
                    }
                }
            }
            "speed" if value.raw() == "\"standard\"" => {}
            key if HARMLESS.contains(&key) => {}
            _ => lost.push(value),
        }
    }
    for message in elements(required(root, "messages")?)? {
        turn(&mut conversation, message, lost)?;
    }
    Ok(conversation)
}

fn thinking<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    let mut budget = None;
    let mut visible = true;
    for (key, member) in members(value)? {
        match &*key {
            "type" => {}
            "budget_tokens" => budget = Some(member),
            "display" => visible = string(member)? != "omitted",
            _ => lost.push(member),
        }
    }
    let kind = required(value, "type")?;
    let thinking = match &*string(kind)? {
        "disabled" => Thinking::Off,
        "adaptive" => Thinking::Adaptive,
        "enabled" => match budget.map(|budget| (budget, budget.raw().parse())) {
            Some((_, Ok(tokens))) => Thinking::Budget(tokens),
            Some((budget, Err(_))) => return fault(budget, "is not a number of tokens"),
            None => return required(value, "budget_tokens").map(|_| ()),
        },
        _ => {
            lost.push(value);
            return Ok(());
        }
    };
    conversation.reasoning.thinking = Some((thinking, value));
    conversation.reasoning.visible = Some(visible && thinking != Thinking::Off);
    Ok(())
}

fn output_config<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    for (key, member) in members(value)? {
        match &*key {
            "effort" => match Effort::of_name(&string(member)?) {
                Some(effort) => conversation.reasoning.effort = Some((effort, member)),
                None => lost.push(member),
            },
            "format" => conversation.format = format(member, lost)?,
            _ => lost.push(member),
        }
    }
    Ok(())
}

fn format<'d>(value: Value<'d>, lost: &mut Lost) -> Read<'d, Option<Format<'d>>> {
    if required_string(value, "type")? != "json_schema" {
        lost.push(value);
        return Ok(None);
    }
    for (key, member) in members(value)? {
        if !matches!(&*key, "type" | "schema") {
            lost.push(member);
        }
    }
    let schema = Cow::Borrowed(object(required(value, "schema")?)?.raw());
    Ok(Some(Format::Schema { name: None, description: None, schema, strict: None }))
}

fn tools<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    conversation.tools.clear();
    for entry in elements(value)? {
        let kind = entry.get("type").filter(|kind| !kind.is_null());
        if kind.is_some_and(|kind| kind.raw() != "\"custom\"") {
            lost.push(entry);
            continue;
        }
        let name = required(entry, "name")?;
        string(name)?;
        let parameters = Some(Cow::Borrowed(object(required(entry, "input_schema")?)?.raw()));
        let mut tool = Tool { name, description: None, parameters, strict: None, cache: None };
        for (key, member) in members(entry)? {
            match &*key {
                "type" | "name" | "input_schema" | "cache_control" => {}
                "description" => tool.description = string(member).map(|_| Some(member))?,
                "strict" => tool.strict = boolean(member)?.then_some(member),
                // How fast the input is streamed.
                "eager_input_streaming" => {}
                "defer_loading" if member.raw() == "false" => {}
                // The model itself is the only one that may call, as everywhere else.
                "allowed_callers" if holds_only(member, "direct") => {}
                _ => lost.push(member),
            }
        }
        conversation.tools.push(tool);
    }
    Ok(())
}

fn choice<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    for (key, member) in members(value)? {
        match &*key {
            "type" | "name" => {}
            "disable_parallel_tool_use" => conversation.parallel = Some((!boolean(member)?, member)),
            _ => lost.push(member),
        }
    }
    let kind = required(value, "type")?;
    let mode = match &*string(kind)? {
        "auto" => Mode::Auto,
        "any" => Mode::Any,
        "none" => Mode::Never,
        "tool" => Mode::Named(Written::of(required(value, "name")?)?),
        _ => return fault(kind, "is none of auto, any, none and tool"),
    };
    conversation.choice = Some(Choice { mode, at: value });
    Ok(())
}

fn turn<'d>(conversation: &mut Conversation<'d>, message: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    let role = required(message, "role")?;
    let role = match &*string(role)? {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => Role::System,
        _ => return fault(role, "is no role of a message"),
    };
    for (key, member) in members(message)? {
        if !matches!(&*key, "role" | "content") {
            lost.push(member);
        }
    }
    let parts = content(required(message, "content")?, role, lost)?;
    conversation.turns.push(Turn { role, parts });
    Ok(())
}

fn content<'d>(value: Value<'d>, role: Role, lost: &mut Lost) -> Read<'d, Vec<Part<'d>>> {
    if value.kind() == Kind::String {
        return Ok(vec![Part::Text(Text { text: Written::of(value)?, cache: None })]);
    }
    let mut parts = Vec::new();
    for block in elements(value)? {
        match (&*required_string(block, "type")?, role) {
            ("text", _) => parts.push(Part::Text(text(block, lost)?)),
            ("image", Role::User) => parts.extend(image(block, lost)?),
            ("document", Role::User) => document(block, &mut parts, lost)?,
            ("tool_result", Role::User) => parts.push(Part::Outcome(outcome(block, lost)?)),
            ("tool_use", Role::Assistant) => parts.push(Part::Call(call(block, lost)?)),
            ("thinking", Role::Assistant) => parts.push(thought(block, lost)?),
            ("redacted_thinking", Role::Assistant) => {
                let data = Written::of(required(block, "data")?)?;
                unknown(block, &["data"], lost)?;
                parts.push(Part::Sealed(data));
            }
            _ => lost.push(block),
        }
    }
    Ok(parts)
}

/// Reports the members of a block that are neither `known` nor common to all blocks. Caching is advice to Anthropic.
fn unknown<'d>(block: Value<'d>, known: &[&str], lost: &mut Lost) -> Read<'d, ()> {
    for (key, member) in members(block)? {
        if !matches!(&*key, "type" | "cache_control") && !known.contains(&&*key) {
            lost.push(member);
        }
    }
    Ok(())
}

fn text<'d>(block: Value<'d>, lost: &mut Lost) -> Read<'d, Text<'d>> {
    // Citations are notes on an earlier answer.
    unknown(block, &["text", "citations"], lost)?;
    Ok(Text { text: Written::of(required(block, "text")?)?, cache: None })
}

fn image<'d>(block: Value<'d>, lost: &mut Lost) -> Read<'d, Option<Part<'d>>> {
    unknown(block, &["source"], lost)?;
    let Some(source) = source(required(block, "source")?, lost)? else { return Ok(None) };
    Ok(Some(Part::Media(Media { medium: Medium::Image, source, name: None, detail: None, cache: None, at: block })))
}

/// What an image or a document is read from. `None`: from where only Anthropic can read it, which is reported.
fn source<'d>(source: Value<'d>, lost: &mut Lost) -> Read<'d, Option<Source<'d>>> {
    let (read, known): (_, &[&str]) = match &*required_string(source, "type")? {
        "base64" => {
            let mime = Written::of(required(source, "media_type")?)?;
            (Source::Data { mime, data: Written::of(required(source, "data")?)? }, &["type", "media_type", "data"])
        }
        "url" => (Source::Url { url: Written::of(required(source, "url")?)?, mime: None }, &["type", "url"]),
        _ => {
            lost.push(source);
            return Ok(None);
        }
    };
    for (key, member) in members(source)? {
        if !known.contains(&&*key) {
            lost.push(member);
        }
    }
    Ok(Some(read))
}

/// A document: a file, or texts that stand where it stood.
fn document<'d>(block: Value<'d>, parts: &mut Vec<Part<'d>>, lost: &mut Lost) -> Read<'d, ()> {
    let mut title = None;
    for (key, member) in members(block)? {
        match &*key {
            "type" | "source" | "cache_control" => {}
            "title" => title = string(member).map(|_| Some(member))?,
            "citations" if member.get("enabled").is_none_or(|enabled| enabled.raw() == "false") => {}
            _ => lost.push(member),
        }
    }
    let at = required(block, "source")?;
    let (member, known) = match &*required_string(at, "type")? {
        "text" => ("data", ["type", "data", "media_type"]),
        "content" => ("content", ["type", "content", ""]),
        _ => {
            if let Some(mut source) = source(at, lost)? {
                if let Source::Url { mime, .. } = &mut source {
                    *mime = Some(Written::decoded(Cow::Borrowed("application/pdf")));
                }
                let medium = Medium::Document;
                parts.push(Part::Media(Media { medium, source, name: title, detail: None, cache: None, at: block }));
            }
            return Ok(());
        }
    };
    for (key, member) in members(at)? {
        if !known.contains(&&*key) {
            lost.push(member);
        }
    }
    lost.given(title);
    let inner = required(at, member)?;
    match inner.kind() {
        Kind::String => parts.push(Part::Text(Text { text: Written::of(inner)?, cache: None })),
        _ => parts.extend(plain(inner, lost)?),
    }
    Ok(())
}

/// Content that holds texts, images and documents alone.
fn plain<'d>(value: Value<'d>, lost: &mut Lost) -> Read<'d, Vec<Part<'d>>> {
    if value.kind() == Kind::String {
        return Ok(vec![Part::Text(Text { text: Written::of(value)?, cache: None })]);
    }
    let mut parts = Vec::new();
    for block in elements(value)? {
        match &*required_string(block, "type")? {
            "text" => parts.push(Part::Text(text(block, lost)?)),
            "image" => parts.extend(image(block, lost)?),
            "document" => document(block, &mut parts, lost)?,
            _ => lost.push(block),
        }
    }
    Ok(parts)
}

fn outcome<'d>(block: Value<'d>, lost: &mut Lost) -> Read<'d, Outcome<'d>> {
    unknown(block, &["tool_use_id", "content", "is_error"], lost)?;
    let parts = match block.get("content").filter(|content| !content.is_null()) {
        Some(content) => plain(content, lost)?,
        None => Vec::new(),
    };
    let error = block.get("is_error").filter(|error| !error.is_null());
    let failed = error.map(boolean).transpose()?.unwrap_or(false);
    let id = required_string(block, "tool_use_id")?;
    Ok(Outcome { id, parts, failed, error: error.filter(|_| failed), cache: None, at: block })
}

fn call<'d>(block: Value<'d>, lost: &mut Lost) -> Read<'d, Call<'d>> {
    for (key, member) in members(block)? {
        match &*key {
            "type" | "id" | "name" | "input" | "cache_control" => {}
            "caller" if member.get("type").is_some_and(|kind| kind.raw() == "\"direct\"") => {}
            _ => lost.push(member),
        }
    }
    Ok(Call {
        id: required_string(block, "id")?,
        name: Written::of(required(block, "name")?)?,
        arguments: Cow::Borrowed(object(required(block, "input")?)?.raw()),
        cache: None,
        at: block,
    })
}

fn thought<'d>(block: Value<'d>, lost: &mut Lost) -> Read<'d, Part<'d>> {
    unknown(block, &["thinking", "signature"], lost)?;
    let text = Written::of(required(block, "thinking")?)?;
    let signature = block.get("signature").filter(|signature| !signature.is_null()).map(Written::of).transpose()?;
    let signature = signature.filter(|signature| !signature.is_empty());
    Ok(Part::Thought(Thought { text, signature, google: false }))
}
