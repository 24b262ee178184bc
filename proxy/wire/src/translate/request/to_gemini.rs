//! A conversation as Google's generateContent.
//!
//! Sources: the Gemini API's reference; its pages on function calling, on thought signatures and on OpenAI
//! compatibility. The model stands in the path.

use super::super::Target;
use super::encode::{BETWEEN, Run, arguments, is_object, max_tokens, names, runs, said};
use super::neutral::{Call, Conversation, Format, Media, Mode, Outcome, Part, Role, Source, Thinking, Tool};
use super::read::{Lost, Read, Written, fault};
use super::write::Writer;
use crate::json::Value;
use std::collections::HashMap;

/// The most thinking that all of Google's thinking models can be asked for, in tokens.
const MOST_THINKING: u64 = 24576;

/// What Google documents as the signature of a call that another model made: Gemini 3 and later refuse a turn whose
/// first call has none.
const FOREIGN_CALL: &str = "\"skip_thought_signature_validator\"";

pub fn encode<'d>(conversation: &Conversation<'d>, target: &Target<'_>, lost: &mut Lost) -> Read<'d, String> {
    let mut writer = Writer::with_capacity(1024);
    writer.open('{');
    let system: Vec<_> = conversation.system().map(|text| &text.text).filter(|text| !text.is_empty()).collect();
    if !system.is_empty() {
        writer.key("systemInstruction").open('{').key("parts").open('[');
        writer.open('{').key("text").written(&Written::joined(system.into_iter(), BETWEEN)).close('}');
        writer.close(']').close('}');
    }
    let names = names(conversation);
    let signs_calls = demands_signatures(target.model);
    writer.key("contents").open('[');
    for run in runs(conversation, false) {
        match run.role {
            Role::Assistant => model(&run, signs_calls, &mut writer, lost)?,
            _ => user(&run, &names, &mut writer, lost)?,
        }
    }
    writer.close(']');
    tools(conversation, &mut writer, lost);
    generation_config(conversation, target, &mut writer);
    lost.given(conversation.verbosity);
    lost.given(conversation.service_tier);
    writer.close('}');
    Ok(writer.finish())
}

/// Whether it is a Gemini of the third generation or later.
fn demands_signatures(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let generation = name.strip_prefix("gemini-").and_then(|rest| rest.split(['.', '-']).next());
    generation.and_then(|generation| generation.parse::<u32>().ok()).is_some_and(|generation| generation >= 3)
}

/// Writes one content with the parts that `fill` writes; none when there are none.
fn content<'d>(role: &str, writer: &mut Writer, fill: impl FnOnce(&mut Writer) -> Read<'d, ()>) -> Read<'d, ()> {
    let before = writer.mark();
    writer.open('{').key("role").text(role).key("parts").open('[');
    let empty = writer.mark();
    fill(writer)?;
    match writer.mark() == empty {
        true => writer.rewind(before),
        false => {
            writer.close(']').close('}');
        }
    }
    Ok(())
}

/// Results make a content of their own, since Google counts them against the calls. What they hold beside text
/// follows in the user's content.
fn user<'d>(
    run: &Run<'_, 'd>,
    names: &HashMap<&str, &Written<'d>>,
    writer: &mut Writer,
    lost: &mut Lost,
) -> Read<'d, ()> {
    content("user", writer, |writer| {
        for outcome in run.outcomes() {
            let Some(name) = names.get(&*outcome.id) else {
                return fault(outcome.at, "answers no call, so that the function's name is not known");
            };
            function_response(outcome, name, writer);
        }
        Ok(())
    })?;
    content("user", writer, |writer| {
        let shown = run.outcomes().flat_map(|outcome| &outcome.parts).filter(|part| matches!(part, Part::Media(_)));
        for part in shown.chain(run.parts.iter().copied()) {
            match part {
                Part::Text(text) if !text.text.is_empty() => {
                    writer.open('{').key("text").written(&text.text).close('}');
                }
                Part::Media(media) => media_part(media, writer, lost),
                _ => {}
            }
        }
        Ok(())
    })
}

/// A result is an object: as it is, or under `result`, or under `error`, the word that Google documents.
fn function_response(outcome: &Outcome<'_>, name: &Written<'_>, writer: &mut Writer) {
    let said = said(outcome);
    let text = said.text();
    writer.open('{').key("functionResponse").open('{').key("id").text(&outcome.id).key("name").written(name);
    writer.key("response");
    match () {
        _ if outcome.failed => writer.open('{').key("error").written(&said).close('}'),
        _ if is_object(text.trim()) => writer.raw(text.trim()),
        _ => writer.open('{').key("result").written(&said).close('}'),
    };
    writer.close('}').close('}');
}

fn media_part(media: &Media<'_>, writer: &mut Writer, lost: &mut Lost) {
    lost.given(media.detail);
    writer.open('{');
    match &media.source {
        Source::Data { mime, data } => {
            writer.key("inlineData").open('{').key("mimeType").written(mime).key("data").written(data)
        }
        source @ Source::Url { url, .. } => {
            writer.key("fileData").open('{');
            if let Some(mime) = source.mime() {
                writer.key("mimeType").text(&mime);
            }
            writer.key("fileUri").written(url)
        }
    };
    writer.close('}').close('}');
}

/// A signature goes on the part that follows its thought.
fn model<'d>(run: &Run<'_, 'd>, signs_calls: bool, writer: &mut Writer, lost: &mut Lost) -> Read<'d, ()> {
    content("model", writer, |writer| {
        let (mut signature, mut calls) = (None, 0);
        for part in &run.parts {
            match part {
                Part::Thought(thought) => {
                    if !thought.text.is_empty() {
                        writer.open('{').key("text").written(&thought.text).key("thought").raw("true").close('}');
                    }
                    signature = thought.signature.as_ref().or(signature);
                }
                Part::Text(text) if !text.text.is_empty() => {
                    writer.open('{').key("text").written(&text.text);
                    sign(signature.take(), writer);
                    writer.close('}');
                }
                Part::Call(call) => {
                    let is_foreign = signs_calls && calls == 0 && signature.is_none();
                    function_call(call, writer)?;
                    sign(signature.take(), writer);
                    if is_foreign {
                        writer.key("thoughtSignature").raw(FOREIGN_CALL);
                    }
                    writer.close('}');
                    calls += 1;
                }
                Part::Media(media) => media_part(media, writer, lost),
                // Anthropic's redacted thinking says nothing to Google.
                Part::Text(_) | Part::Outcome(_) | Part::Sealed(_) => {}
            }
        }
        // Google itself puts a signature that belongs to no other part on an empty text.
        if signature.is_some() {
            writer.open('{').key("text").raw("\"\"");
            sign(signature, writer);
            writer.close('}');
        }
        Ok(())
    })
}

fn sign(signature: Option<&Written<'_>>, writer: &mut Writer) {
    if let Some(signature) = signature {
        writer.key("thoughtSignature").written(signature);
    }
}

/// Opens a part and leaves it open for its signature.
fn function_call<'d>(call: &Call<'d>, writer: &mut Writer) -> Read<'d, ()> {
    writer.open('{').key("functionCall").open('{').key("id").text(&call.id).key("name").written(&call.name);
    writer.key("args").raw(arguments(call)?).close('}');
    Ok(())
}

fn tools(conversation: &Conversation<'_>, writer: &mut Writer, lost: &mut Lost) {
    let choice = conversation.choice.as_ref();
    if conversation.tools.is_empty() {
        lost.given(choice.filter(|choice| matches!(choice.mode, Mode::Any | Mode::Named(_))).map(|choice| choice.at));
        return;
    }
    writer.key("tools").open('[').open('{').key("functionDeclarations").open('[');
    conversation.tools.iter().for_each(|tool| declaration(tool, writer, lost));
    writer.close(']').close('}').close(']');
    if let Some((false, at)) = conversation.parallel {
        lost.push(at);
    }
    let Some(choice) = choice else { return };
    writer.key("toolConfig").open('{').key("functionCallingConfig").open('{').key("mode");
    match &choice.mode {
        Mode::Auto => writer.raw("\"AUTO\""),
        Mode::Never => writer.raw("\"NONE\""),
        Mode::Any => writer.raw("\"ANY\""),
        Mode::Named(name) => writer.raw("\"ANY\"").key("allowedFunctionNames").open('[').written(name).close(']'),
    };
    writer.close('}').close('}');
}

fn declaration(tool: &Tool<'_>, writer: &mut Writer, lost: &mut Lost) {
    writer.open('{').key("name").raw(tool.name.raw());
    if let Some(description) = tool.description {
        writer.key("description").raw(description.raw());
    }
    if let Some(parameters) = &tool.parameters {
        writer.key("parametersJsonSchema").raw(parameters);
    }
    lost.given(tool.strict);
    writer.close('}');
}

fn generation_config(conversation: &Conversation<'_>, target: &Target<'_>, writer: &mut Writer) {
    let before = writer.mark();
    writer.key("generationConfig").open('{');
    let empty = writer.mark();
    let sampling = &conversation.sampling;
    if let Some(limit) = max_tokens(sampling.max_tokens, target.max_output_tokens) {
        writer.key("maxOutputTokens").raw(&limit);
    }
    let copied: [(&str, Option<Value<'_>>); 6] = [
        ("temperature", sampling.temperature),
        ("topP", sampling.top_p),
        ("topK", sampling.top_k),
        ("seed", sampling.seed),
        ("presencePenalty", sampling.presence_penalty),
        ("frequencyPenalty", sampling.frequency_penalty),
    ];
    for (key, value) in copied {
        if let Some(value) = value {
            writer.key(key).raw(value.raw());
        }
    }
    if !sampling.stop.is_empty() {
        writer.key("stopSequences").open('[');
        for stop in &sampling.stop {
            writer.raw(stop.raw());
        }
        writer.close(']');
    }
    response_form(conversation, writer);
    thinking_config(conversation, writer);
    match writer.mark() == empty {
        true => writer.rewind(before),
        false => {
            writer.close('}');
        }
    }
}

fn response_form(conversation: &Conversation<'_>, writer: &mut Writer) {
    match &conversation.format {
        None => {}
        Some(Format::Json(_)) => {
            writer.key("responseMimeType").raw("\"application/json\"");
        }
        // Its schemas have no names; what describes one beside itself is advice.
        Some(Format::Schema { schema, .. }) => {
            writer.key("responseMimeType").raw("\"application/json\"").key("responseJsonSchema").raw(schema);
        }
    }
}

/// A stated budget comes before an effort; without either the model decides.
fn thinking_config(conversation: &Conversation<'_>, writer: &mut Writer) {
    let reasoning = &conversation.reasoning;
    let effort = reasoning.effort.map(|(effort, _)| effort.budget());
    let budget = match reasoning.thinking {
        Some((Thinking::Off, _)) => Some(0),
        Some((Thinking::Budget(tokens), _)) => Some(tokens.min(MOST_THINKING)),
        Some((Thinking::Adaptive, _)) | None => effort,
    };
    let is_visible = reasoning.visible == Some(true);
    if budget.is_none() && !is_visible {
        return;
    }
    writer.key("thinkingConfig").open('{');
    if let Some(budget) = budget {
        writer.key("thinkingBudget").raw(&budget.to_string());
    }
    if is_visible {
        writer.key("includeThoughts").raw("true");
    }
    writer.close('}');
}
