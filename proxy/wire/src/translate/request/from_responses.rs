//! OpenAI's responses, read.
//!
//! Source: `ResponseCreateParams` of OpenAI's SDK.

use super::neutral::{
    Call, Choice, Conversation, Media, Medium, Mode, Outcome, Part, Role, Source, Text, Thought, Turn, source_of_uri,
};
use super::openai;
use super::read::{Lost, Read, Written, elements, fault, members, number, required, required_string, string};
use crate::json::{Kind, Value};
use std::borrow::Cow;

/// Members of the body that have no meaning elsewhere when they say this: the answer is the same.
const USUAL: [(&str, &str); 3] = [("background", "false"), ("truncation", "\"disabled\""), ("top_logprobs", "0")];

/// Members that stand for a part of the conversation which OpenAI keeps and nobody else can read.
const ELSEWHERE: [&str; 3] = ["previous_response_id", "conversation", "prompt"];

/// How the encrypted reasoning begins that OpenAI itself hands out (a Fernet token); nobody else can read it.
const OPENAI_SEAL: &str = "gAAAA";

/// What Sluice puts before Anthropic's redacted thinking when it makes it encrypted reasoning.
const REDACTED: &str = "redacted:";

pub fn decode<'d>(root: Value<'d>, lost: &mut Lost) -> Read<'d, Conversation<'d>> {
    let mut conversation = Conversation::default();
    if let Some(instructions) = root.get("instructions").filter(|instructions| !instructions.is_null()) {
        let text = Text { text: Written::of(instructions)?, cache: None };
        conversation.turns.push(Turn { role: Role::System, parts: vec![Part::Text(text)] });
    }
    for (key, value) in members(root)? {
        match &*key {
            "input" | "instructions" => {}
            "max_output_tokens" => conversation.sampling.max_tokens = Some(number(value)?),
            "reasoning" => reasoning(&mut conversation, value, lost)?,
            "text" => text_options(&mut conversation, value, lost)?,
            "tools" => tools(&mut conversation, value, lost)?,
            "tool_choice" => conversation.choice = choice(value, lost)?,
            "include" => include(value, lost)?,
            key if ELSEWHERE.contains(&key) => return fault(value, "stands for a conversation that OpenAI keeps"),
            key if USUAL.iter().any(|(name, usual)| *name == key && value.raw() == *usual) => {}
            key if openai::member(&mut conversation, key, value, lost)? => {}
            _ => lost.push(value),
        }
    }
    let input = required(root, "input")?;
    if input.kind() == Kind::String {
        conversation.extend(Role::User, [Part::Text(Text { text: Written::of(input)?, cache: None })]);
        return Ok(conversation);
    }
    for item in elements(input)? {
        read_item(&mut conversation, item, lost)?;
    }
    Ok(conversation)
}

fn reasoning<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    for (key, member) in members(value)? {
        match &*key {
            "effort" => openai::effort(conversation, member, lost)?,
            "summary" | "generate_summary" => conversation.reasoning.visible = Some(true),
            "mode" if member.raw() == "\"standard\"" => {}
            "context" if member.raw() == "\"auto\"" => {}
            _ => lost.push(member),
        }
    }
    Ok(())
}

fn text_options<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    for (key, member) in members(value)? {
        match &*key {
            "format" => conversation.format = openai::format(member, lost)?,
            "verbosity" if member.raw() != "\"medium\"" => conversation.verbosity = Some(member),
            "verbosity" => {}
            _ => lost.push(member),
        }
    }
    Ok(())
}

/// Encrypted reasoning comes with the answer where there is any; everything else is extra.
fn include<'d>(value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    for wish in elements(value)? {
        if string(wish)? != "reasoning.encrypted_content" {
            lost.push(wish);
        }
    }
    Ok(())
}

fn tools<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    conversation.tools.clear();
    for entry in elements(value)? {
        match required_string(entry, "type")? == "function" {
            true => conversation.tools.push(openai::function(entry, &["type"], lost)?),
            false => lost.push(entry),
        }
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
                if !matches!(&*key, "type" | "name") {
                    lost.push(member);
                }
            }
            openai::named(value)?
        }
        None => {
            lost.push(value);
            return Ok(None);
        }
    };
    Ok(Some(Choice { mode, at: value }))
}

/// Reads an item. What one side says in several items in a row (reasoning, a message, calls) is one turn.
fn read_item<'d>(conversation: &mut Conversation<'d>, item: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    let kind = match item.get("type").filter(|kind| !kind.is_null()) {
        Some(kind) => string(kind)?,
        None if item.get("role").is_some() => Cow::Borrowed("message"),
        None => Cow::Borrowed("item_reference"),
    };
    match &*kind {
        "message" => message(conversation, item, lost)?,
        "function_call" => {
            let call = call(item, lost)?;
            conversation.extend(Role::Assistant, [Part::Call(call)]);
        }
        "function_call_output" => {
            let outcome = outcome(item, lost)?;
            conversation.extend(Role::User, [Part::Outcome(outcome)]);
        }
        "reasoning" => {
            let thought = thought(item, lost)?;
            conversation.extend(Role::Assistant, thought);
        }
        "item_reference" => return fault(item, "stands for an item that OpenAI keeps"),
        _ => lost.push(item),
    }
    Ok(())
}

fn message<'d>(conversation: &mut Conversation<'d>, item: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    let role = required(item, "role")?;
    let role = match &*string(role)? {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => return fault(role, "is no role of a message"),
    };
    for (key, member) in members(item)? {
        // `phase` labels an earlier answer; `id` and `status` are OpenAI's bookkeeping.
        if !matches!(&*key, "type" | "role" | "content" | "id" | "status" | "phase") {
            lost.push(member);
        }
    }
    let parts = content(required(item, "content")?, role, lost)?;
    match role {
        Role::Assistant if !has_spoken(conversation) => conversation.extend(role, parts),
        _ => conversation.turns.push(Turn { role, parts }),
    }
    Ok(())
}

/// Whether the last turn is the model's and ends in a text: then another message is another turn. After a call it is
/// not, because results must follow the turn of their calls.
fn has_spoken(conversation: &Conversation<'_>) -> bool {
    let last = conversation.turns.last().filter(|turn| turn.role == Role::Assistant);
    last.is_some_and(|turn| matches!(turn.parts.last(), Some(Part::Text(_))))
}

fn content<'d>(value: Value<'d>, role: Role, lost: &mut Lost) -> Read<'d, Vec<Part<'d>>> {
    if value.kind() == Kind::String {
        return Ok(vec![Part::Text(Text { text: Written::of(value)?, cache: None })]);
    }
    let mut parts = Vec::new();
    for part in elements(value)? {
        let kind = required_string(part, "type")?;
        match (&*kind, role) {
            ("input_text" | "output_text" | "text", _) => parts.push(text(part, "text", lost)?),
            ("refusal", Role::Assistant) => parts.push(text(part, "refusal", lost)?),
            ("input_image" | "input_file", Role::User) => parts.extend(media(part, &kind, lost)?),
            ("input_audio", Role::User) => parts.push(sound(part, lost)?),
            _ => lost.push(part),
        }
    }
    Ok(parts)
}

fn text<'d>(part: Value<'d>, member: &'static str, lost: &mut Lost) -> Read<'d, Part<'d>> {
    let text = Written::of(required(part, member)?)?;
    for (key, value) in members(part)? {
        match &*key {
            // Notes on an earlier answer, and advice to OpenAI's cache.
            "type" | "annotations" | "logprobs" | "prompt_cache_breakpoint" => {}
            key if key == member => {}
            _ => lost.push(value),
        }
    }
    Ok(Part::Text(Text { text, cache: None }))
}

fn media<'d>(part: Value<'d>, kind: &str, lost: &mut Lost) -> Read<'d, Option<Part<'d>>> {
    let (mut source, mut name, mut detail, mut uploaded) = (None, None, None, false);
    for (key, member) in members(part)? {
        match (&*key, kind) {
            ("type" | "prompt_cache_breakpoint", _) => {}
            ("image_url", "input_image") | ("file_data" | "file_url", "input_file") => {
                source = Some(source_of_uri(member)?);
                if key == "file_data" && matches!(source, Some(Source::Url { .. })) {
                    return fault(member, "is not a base64 data URI");
                }
            }
            ("detail", _) => detail = openai::detail(member)?,
            ("filename", "input_file") => {
                string(member)?;
                name = Some(member);
            }
            (key, _) => {
                uploaded |= key == "file_id";
                lost.push(member);
            }
        }
    }
    let Some(source) = source else {
        return if uploaded { Ok(None) } else { fault(part, "names no content") };
    };
    let medium = if kind == "input_image" { Medium::Image } else { openai::medium(&source) };
    Ok(Some(Part::Media(Media { medium, source, name, detail, cache: None, at: part })))
}

fn sound<'d>(part: Value<'d>, lost: &mut Lost) -> Read<'d, Part<'d>> {
    let at = required(part, "input_audio")?;
    for (key, member) in members(part)? {
        if !matches!(&*key, "type" | "input_audio") {
            lost.push(member);
        }
    }
    let source = openai::audio(at, lost)?;
    Ok(Part::Media(Media { medium: Medium::Audio, source, name: None, detail: None, cache: None, at }))
}

/// Whether a call was made by the model itself, as all calls are that other providers know.
fn is_direct(caller: Value<'_>) -> bool {
    caller.get("type").is_some_and(|kind| kind.raw() == "\"direct\"")
}

fn call<'d>(item: Value<'d>, lost: &mut Lost) -> Read<'d, Call<'d>> {
    for (key, member) in members(item)? {
        match &*key {
            "type" | "id" | "call_id" | "name" | "arguments" | "status" => {}
            "caller" if is_direct(member) => {}
            _ => lost.push(member),
        }
    }
    Ok(Call {
        id: required_string(item, "call_id")?,
        name: Written::of(required(item, "name")?)?,
        arguments: required_string(item, "arguments")?,
        cache: None,
        at: item,
    })
}

fn outcome<'d>(item: Value<'d>, lost: &mut Lost) -> Read<'d, Outcome<'d>> {
    for (key, member) in members(item)? {
        match &*key {
            // The call's id says which function it was.
            "type" | "id" | "call_id" | "output" | "status" | "name" => {}
            "caller" if is_direct(member) => {}
            _ => lost.push(member),
        }
    }
    let id = required_string(item, "call_id")?;
    let parts = content(required(item, "output")?, Role::User, lost)?;
    Ok(Outcome { id, parts, failed: false, error: None, cache: None, at: item })
}

/// A reasoning item: its summary, or its text where the model shows that, and the seal of whoever can read the rest.
fn thought<'d>(item: Value<'d>, lost: &mut Lost) -> Read<'d, Option<Part<'d>>> {
    let (mut summary, mut texts, mut signature) = (Vec::new(), Vec::new(), None);
    for (key, member) in members(item)? {
        match &*key {
            "type" | "id" | "status" => {}
            "summary" => summary = pieces(member, lost)?,
            "content" => texts = pieces(member, lost)?,
            "encrypted_content" => {
                string(member)?;
                signature = Some(member);
            }
            _ => lost.push(member),
        }
    }
    let sealed = signature.and_then(|value| value.string()).unwrap_or_default();
    if let Some(data) = sealed.strip_prefix(REDACTED) {
        return Ok(Some(Part::Sealed(Written::escaped(data))));
    }
    let signature = match signature {
        Some(value) if !sealed.is_empty() && !sealed.starts_with(OPENAI_SEAL) => Some(Written::of(value)?),
        _ => None,
    };
    let pieces = if summary.is_empty() { texts } else { summary };
    let text = Written::joined(pieces.iter(), "\\n\\n");
    if text.is_empty() && signature.is_none() {
        return Ok(None);
    }
    Ok(Some(Part::Thought(Thought { text, signature, google: false })))
}

fn pieces<'d>(value: Value<'d>, lost: &mut Lost) -> Read<'d, Vec<Written<'d>>> {
    let mut pieces = Vec::new();
    for piece in elements(value)? {
        pieces.push(Written::of(required(piece, "text")?)?);
        for (key, member) in members(piece)? {
            if !matches!(&*key, "type" | "text") {
                lost.push(member);
            }
        }
    }
    Ok(pieces)
}
