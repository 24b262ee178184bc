//! What OpenAI's two dialects, Chat and Responses, say in the same words.

use super::neutral::{Conversation, Effort, Format, Medium, Source, Tool};
use super::read::{Lost, Read, Written, boolean, elements, fault, members, number, required, string};
use crate::json::Value;
use std::borrow::Cow;

/// Members that have no bearing on the answer where OpenAI does not give it:
///
/// - `model`: the route's model takes its place;
/// - `stream`: the target says it;
/// - `metadata`: labels for OpenAI's dashboard;
/// - `prompt_cache_key`, `prompt_cache_retention`, `prompt_cache_options`: advice to OpenAI's cache.
const HARMLESS: [&str; 6] =
    ["model", "stream", "metadata", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"];

/// Reads a member of the body that both dialects have. `false`: it is not one of them.
pub fn member<'d>(conversation: &mut Conversation<'d>, key: &str, value: Value<'d>, lost: &mut Lost) -> Read<'d, bool> {
    let sampling = &mut conversation.sampling;
    match key {
        key if HARMLESS.contains(&key) => {}
        "temperature" => sampling.temperature = Some(number(value)?),
        "top_p" => sampling.top_p = Some(number(value)?),
        "parallel_tool_calls" => conversation.parallel = Some((boolean(value)?, value)),
        // `safety_identifier` is the younger name and wins.
        "safety_identifier" => conversation.user = string(value).map(|_| Some(value))?,
        "user" => conversation.user = string(value).map(|_| conversation.user.or(Some(value)))?,
        "service_tier" if !matches!(&*string(value)?, "auto" | "default") => conversation.service_tier = Some(value),
        "service_tier" => {}
        // What is not to be stored is not stored by others either.
        "store" if boolean(value)? => lost.push(value),
        "store" => {}
        // `include_usage` is read when the answer is translated; obfuscation pads OpenAI's own streams.
        "stream_options" => {
            for (key, option) in members(value)? {
                if !matches!(&*key, "include_usage" | "include_obfuscation") {
                    lost.push(option);
                }
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Reads `reasoning_effort` or `reasoning.effort`.
pub fn effort<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    match Effort::of_name(&string(value)?) {
        Some(effort) => conversation.reasoning.effort = Some((effort, value)),
        None => lost.push(value),
    }
    Ok(())
}

/// Reads the members of a function: Chat's `tools.0.function`, the whole tool in Responses. `known` are members that
/// the caller has read.
pub fn function<'d>(object: Value<'d>, known: &[&str], lost: &mut Lost) -> Read<'d, Tool<'d>> {
    let name = required(object, "name")?;
    string(name)?;
    let mut tool = Tool { name, description: None, parameters: None, strict: None, cache: None };
    for (key, member) in members(object)? {
        match &*key {
            "name" => {}
            "description" => {
                string(member)?;
                tool.description = Some(member);
            }
            "parameters" => tool.parameters = Some(Cow::Borrowed(super::read::object(member)?.raw())),
            "strict" => tool.strict = boolean(member)?.then_some(member),
            key if known.contains(&key) => {}
            _ => lost.push(member),
        }
    }
    Ok(tool)
}

/// Reads a format: `object` holds `type`, `json` the schema and its name, which Responses has in one object.
pub fn format<'d>(object: Value<'d>, lost: &mut Lost) -> Read<'d, Option<Format<'d>>> {
    let kind = required(object, "type")?;
    match &*string(kind)? {
        "text" => Ok(None),
        "json_object" => Ok(Some(Format::Json(object))),
        "json_schema" => {
            // Chat nests what Responses writes beside `type`.
            let nested = object.get("json_schema").filter(|nested| !nested.is_null());
            if nested.is_some() {
                for (key, member) in members(object)? {
                    if !matches!(&*key, "type" | "json_schema") {
                        lost.push(member);
                    }
                }
            }
            schema_format(nested.unwrap_or(object), lost).map(Some)
        }
        _ => {
            lost.push(object);
            Ok(None)
        }
    }
}

fn schema_format<'d>(object: Value<'d>, lost: &mut Lost) -> Read<'d, Format<'d>> {
    let schema = Cow::Borrowed(super::read::object(required(object, "schema")?)?.raw());
    let (mut name, mut description, mut strict) = (None, None, None);
    for (key, member) in members(object)? {
        match &*key {
            "schema" | "type" => {}
            "name" => name = Some(member),
            "description" => description = Some(member),
            "strict" => strict = boolean(member)?.then_some(member),
            _ => lost.push(member),
        }
    }
    for text in [name, description].into_iter().flatten() {
        string(text)?;
    }
    Ok(Format::Schema { name, description, schema, strict })
}

/// Reads `input_audio`: base64 and the format's short name.
pub fn audio<'d>(value: Value<'d>, lost: &mut Lost) -> Read<'d, Source<'d>> {
    let (mut data, mut mime) = (None, None);
    for (key, member) in members(value)? {
        match &*key {
            "data" => data = Some(Written::of(member)?),
            "format" => mime = Some(Written::escaped(&format!("audio/{}", string(member)?))),
            _ => lost.push(member),
        }
    }
    match (data, mime) {
        (Some(data), Some(mime)) => Ok(Source::Data { mime, data }),
        _ => fault(value, "has no `data` or no `format`"),
    }
}

/// `detail`, unless it is the usual one.
pub fn detail<'d>(value: Value<'d>) -> Read<'d, Option<Value<'d>>> {
    Ok((string(value)? != "auto").then_some(value))
}

/// What a file is, by its media type; PDF where that is not known.
pub fn medium(source: &Source<'_>) -> Medium {
    source.mime().and_then(|mime| super::neutral::medium_of_mime(&mime)).unwrap_or(Medium::Document)
}

/// The function that `tool_choice` names.
pub fn named<'d>(object: Value<'d>) -> Read<'d, super::neutral::Mode<'d>> {
    Ok(super::neutral::Mode::Named(Written::of(required(object, "name")?)?))
}

/// Checks `stop`: one string or several.
pub fn stop<'d>(value: Value<'d>) -> Read<'d, Vec<Value<'d>>> {
    match value.string() {
        Some(_) => Ok(vec![value]),
        None => elements(value)?.map(|element| string(element).map(|_| element)).collect(),
    }
}
