//! OpenAI's chat completions, read.
//!
//! Source: `CompletionCreateParams` of OpenAI's SDK, and the field's additions to it: `cache_control` (OpenRouter,
//! LiteLLM), `thinking_blocks` (LiteLLM), `extra_content.google.thought_signature` (Google).

use super::neutral::{
    Call, Choice, Conversation, Media, Medium, Mode, Outcome, Part, Role, Source, Text, Thought, Turn, source_of_uri,
};
use super::openai;
use super::read::{
    Lost, Read, Written, elements, fault, holds_only, members, number, required, required_string, string,
};
use crate::json::{Kind, Value};

/// Members of the body that have no meaning elsewhere when they say this: the answer is the same.
const USUAL: [(&str, &str); 5] =
    [("n", "1"), ("logprobs", "false"), ("verbosity", "\"medium\""), ("top_logprobs", "0"), ("logit_bias", "{}")];

pub fn decode<'d>(root: Value<'d>, lost: &mut Lost) -> Read<'d, Conversation<'d>> {
    let mut conversation = Conversation::default();
    let (mut max_tokens, mut max_completion_tokens) = (None, None);
    for (key, value) in members(root)? {
        match &*key {
            "messages" => {}
            "max_tokens" => max_tokens = Some(number(value)?),
            "max_completion_tokens" => max_completion_tokens = Some(number(value)?),
            "stop" => conversation.sampling.stop = openai::stop(value)?,
            "seed" => conversation.sampling.seed = Some(number(value)?),
            "presence_penalty" => conversation.sampling.presence_penalty = Some(number(value)?),
            "frequency_penalty" => conversation.sampling.frequency_penalty = Some(number(value)?),
            "reasoning_effort" => openai::effort(&mut conversation, value, lost)?,
            "response_format" => conversation.format = openai::format(value, lost)?,
            "tools" => tools(&mut conversation, value, lost)?,
            "tool_choice" => conversation.choice = choice(value, lost)?,
            "modalities" if holds_only(value, "text") => {}
            key if USUAL.iter().any(|(name, usual)| *name == key && value.raw() == *usual) => {}
            key if openai::member(&mut conversation, key, value, lost)? => {}
            _ => lost.push(value),
        }
    }
    // The older name gives way; that it said something else is told.
    conversation.sampling.max_tokens = max_completion_tokens.or(max_tokens);
    if let (Some(older), Some(newer)) = (max_tokens, max_completion_tokens)
        && older.raw() != newer.raw()
    {
        lost.push(older);
    }
    for message in elements(required(root, "messages")?)? {
        turn(&mut conversation, message, lost)?;
    }
    Ok(conversation)
}

fn tools<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    conversation.tools.clear();
    for entry in elements(value)? {
        if required_string(entry, "type")? != "function" {
            lost.push(entry);
            continue;
        }
        let mut tool = openai::function(required(entry, "function")?, &["cache_control"], lost)?;
        tool.cache = required(entry, "function")?.get("cache_control").filter(|cache| !cache.is_null());
        for (key, member) in members(entry)? {
            match &*key {
                "type" | "function" => {}
                "cache_control" => tool.cache = Some(member),
                _ => lost.push(member),
            }
        }
        conversation.tools.push(tool);
    }
    Ok(())
}

fn choice<'d>(value: Value<'d>, lost: &mut Lost) -> Read<'d, Option<Choice<'d>>> {
    let mode = match value.string().as_deref() {
        Some("auto") => Mode::Auto,
        Some("none") => Mode::Never,
        Some("required") => Mode::Any,
        Some(_) => return fault(value, "is none of auto, none and required"),
        None if required_string(value, "type")? == "function" => {
            for (key, member) in members(value)? {
                if !matches!(&*key, "type" | "function") {
                    lost.push(member);
                }
            }
            for (key, member) in members(required(value, "function")?)? {
                if key != "name" {
                    lost.push(member);
                }
            }
            openai::named(required(value, "function")?)?
        }
        None => {
            lost.push(value);
            return Ok(None);
        }
    };
    Ok(Some(Choice { mode, at: value }))
}

fn turn<'d>(conversation: &mut Conversation<'d>, message: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    let role = required(message, "role")?;
    match &*string(role)? {
        "system" | "developer" => {
            let parts = said(message, Role::System, lost)?;
            conversation.turns.push(Turn { role: Role::System, parts });
        }
        "user" => {
            let parts = said(message, Role::User, lost)?;
            conversation.turns.push(Turn { role: Role::User, parts });
        }
        "assistant" => {
            let parts = assistant(message, lost)?;
            conversation.turns.push(Turn { role: Role::Assistant, parts });
        }
        "tool" => {
            let outcome = outcome(message, lost)?;
            conversation.turns.push(Turn { role: Role::User, parts: vec![Part::Outcome(outcome)] });
        }
        // The forerunner of tools: its results have no ids.
        "function" => lost.push(message),
        _ => return fault(role, "is no role of a message"),
    }
    Ok(())
}

/// A message that is nothing but its content.
fn said<'d>(message: Value<'d>, role: Role, lost: &mut Lost) -> Read<'d, Vec<Part<'d>>> {
    let mut parts = content(required(message, "content")?, role, lost)?;
    for (key, member) in members(message)? {
        match &*key {
            "role" | "content" => {}
            "cache_control" => mark(&mut parts, member),
            _ => lost.push(member),
        }
    }
    Ok(parts)
}

/// `cache_control` beside the content stands for the content's end.
fn mark<'d>(parts: &mut [Part<'d>], cache: Value<'d>) {
    match parts.last_mut() {
        Some(Part::Text(text)) => text.cache = text.cache.or(Some(cache)),
        Some(Part::Media(media)) => media.cache = media.cache.or(Some(cache)),
        _ => {}
    }
}

/// An assistant's message: thoughts first, then text, then calls, which is the order that they were made in.
fn assistant<'d>(message: Value<'d>, lost: &mut Lost) -> Read<'d, Vec<Part<'d>>> {
    let (mut thoughts, mut texts, mut calls, mut cache) = (Vec::new(), Vec::new(), Vec::new(), None);
    for (key, member) in members(message)? {
        match &*key {
            "role" => {}
            "content" => texts.extend(content(member, Role::Assistant, lost)?),
            "refusal" => texts.push(Part::Text(Text { text: Written::of(member)?, cache: None })),
            "thinking_blocks" => {
                for block in elements(member)? {
                    thoughts.push(thought(block, lost)?);
                }
            }
            "tool_calls" => {
                for entry in elements(member)? {
                    call(entry, &mut calls, lost)?;
                }
            }
            "cache_control" => cache = Some(member),
            // Reasoning without a signature: no provider takes it back. Annotations are notes on an answer.
            "reasoning_content" | "annotations" => {}
            _ => lost.push(member),
        }
    }
    thoughts.append(&mut texts);
    if let Some(cache) = cache {
        mark(&mut thoughts, cache);
    }
    thoughts.append(&mut calls);
    Ok(thoughts)
}

fn thought<'d>(block: Value<'d>, lost: &mut Lost) -> Read<'d, Part<'d>> {
    let sealed = match &*required_string(block, "type")? {
        "thinking" => false,
        "redacted_thinking" => true,
        _ => return fault(block, "is neither thinking nor redacted thinking"),
    };
    let (mut text, mut signature) = (Written::default(), None);
    for (key, member) in members(block)? {
        match (&*key, sealed) {
            // `index` is left over from the stream that the block was gathered from.
            ("type" | "cache_control" | "index", _) => {}
            ("thinking", false) | ("data", true) => text = Written::of(member)?,
            ("signature", false) => signature = Some(Written::of(member)?).filter(|written| !written.is_empty()),
            _ => lost.push(member),
        }
    }
    Ok(match sealed {
        true => Part::Sealed(text),
        false => Part::Thought(Thought { text, signature, google: false }),
    })
}

fn call<'d>(entry: Value<'d>, calls: &mut Vec<Part<'d>>, lost: &mut Lost) -> Read<'d, ()> {
    if entry.get("type").filter(|kind| !kind.is_null()).is_some_and(|kind| kind.raw() != "\"function\"") {
        lost.push(entry);
        return Ok(());
    }
    let function = required(entry, "function")?;
    let name = Written::of(required(function, "name")?)?;
    let mut arguments = "{}".into();
    let mut cache = None;
    for (key, member) in members(function)? {
        match &*key {
            "name" => {}
            "arguments" => arguments = string(member)?,
            _ => lost.push(member),
        }
    }
    for (key, member) in members(entry)? {
        match &*key {
            // `index` is left over from the stream that the call was gathered from.
            "type" | "id" | "function" | "index" => {}
            "cache_control" => cache = Some(member),
            "extra_content" => signature(member, calls, lost)?,
            _ => lost.push(member),
        }
    }
    let id = required_string(entry, "id")?;
    calls.push(Part::Call(Call { id, name, arguments, cache, at: entry }));
    Ok(())
}

/// Google's signature of a call.
fn signature<'d>(extra: Value<'d>, calls: &mut Vec<Part<'d>>, lost: &mut Lost) -> Read<'d, ()> {
    for (key, vendor) in members(extra)? {
        if key != "google" {
            lost.push(vendor);
            continue;
        }
        for (key, member) in members(vendor)? {
            match &*key {
                "thought_signature" => {
                    let signature = Some(Written::of(member)?).filter(|written| !written.is_empty());
                    calls.push(Part::Thought(Thought { text: Written::default(), signature, google: true }));
                }
                _ => lost.push(member),
            }
        }
    }
    Ok(())
}

fn outcome<'d>(message: Value<'d>, lost: &mut Lost) -> Read<'d, Outcome<'d>> {
    let id = required_string(message, "tool_call_id")?;
    let parts = content(required(message, "content")?, Role::User, lost)?;
    let mut cache = None;
    for (key, member) in members(message)? {
        match &*key {
            // The id says which function it was.
            "role" | "content" | "tool_call_id" | "name" => {}
            "cache_control" => cache = Some(member),
            _ => lost.push(member),
        }
    }
    Ok(Outcome { id, parts, failed: false, error: None, cache, at: message })
}

fn content<'d>(value: Value<'d>, role: Role, lost: &mut Lost) -> Read<'d, Vec<Part<'d>>> {
    if value.kind() == Kind::String {
        return Ok(vec![Part::Text(Text { text: Written::of(value)?, cache: None })]);
    }
    let mut parts = Vec::new();
    for part in elements(value)? {
        let kind = required_string(part, "type")?;
        match (&*kind, role) {
            ("text", _) => parts.push(Part::Text(text(part, "text", lost)?)),
            ("refusal", Role::Assistant) => parts.push(Part::Text(text(part, "refusal", lost)?)),
            ("image_url" | "input_audio" | "file", Role::User) => parts.extend(media(part, &kind, lost)?),
            _ => lost.push(part),
        }
    }
    Ok(parts)
}

fn text<'d>(part: Value<'d>, member: &'static str, lost: &mut Lost) -> Read<'d, Text<'d>> {
    let text = Written::of(required(part, member)?)?;
    let mut cache = None;
    for (key, value) in members(part)? {
        match &*key {
            "type" | "prompt_cache_breakpoint" => {}
            "cache_control" => cache = Some(value),
            key if key == member => {}
            _ => lost.push(value),
        }
    }
    Ok(Text { text, cache })
}

/// A part that is an image, a sound or a file; `kind` is its type and the name of the member that holds it.
fn media<'d>(part: Value<'d>, kind: &str, lost: &mut Lost) -> Read<'d, Option<Part<'d>>> {
    let (mut cache, mut held) = (None, None);
    for (key, member) in members(part)? {
        match &*key {
            "type" | "prompt_cache_breakpoint" => {}
            "cache_control" => cache = Some(member),
            key if key == kind => held = Some(member),
            _ => lost.push(member),
        }
    }
    let Some(held) = held else { return fault(part, "lacks what its type says") };
    let (mut name, mut detail, mut source) = (None, None, None);
    if kind == "input_audio" {
        source = Some(openai::audio(held, lost)?);
    } else {
        for (key, member) in members(held)? {
            match (&*key, kind) {
                ("url", "image_url") | ("file_data", "file") => source = Some(source_of_uri(member)?),
                ("detail", "image_url") => detail = openai::detail(member)?,
                ("filename", "file") => {
                    string(member)?;
                    name = Some(member);
                }
                // A file that only OpenAI has.
                _ => lost.push(member),
            }
        }
    }
    let Some(source) = source else {
        return match held.get("file_id") {
            Some(_) => Ok(None),
            None => fault(held, "names no content"),
        };
    };
    let medium = match kind {
        "image_url" => Medium::Image,
        "input_audio" => Medium::Audio,
        _ => openai::medium(&source),
    };
    if kind == "file" && matches!(source, Source::Url { .. }) {
        return fault(held, "holds file data that is no base64 data URI");
    }
    Ok(Some(Part::Media(Media { medium, source, name, detail, cache, at: held })))
}
