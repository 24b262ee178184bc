//! Google's generateContent, read.
//!
//! Source: `GenerateContentRequest` of the Gemini API's reference and the types of Google's SDK. Like every API on
//! protocol buffers it takes members in camel case and in snake case.

use super::neutral::{
    Call, Choice, Conversation, Effort, Format, Media, Medium, Mode, Outcome, Part, Role, Source, Text, Thinking,
    Thought, Tool, Turn, medium_of_mime,
};
use super::read::{
    Lost, Read, Written, boolean, elements, fault, holds_only, members, missing, number, object, string,
};
use super::schema::json_schema;
use crate::json::{Kind, Value};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};

pub fn decode<'d>(root: Value<'d>, lost: &mut Lost) -> Read<'d, Conversation<'d>> {
    let mut conversation = Conversation::default();
    let (mut contents, mut system) = (None, None);
    for (key, value) in fields(root)? {
        match &*key {
            "contents" => contents = Some(value),
            "systemInstruction" => system = Some(value),
            "tools" => tools(&mut conversation, value, lost)?,
            "toolConfig" => tool_config(&mut conversation, value, lost)?,
            "generationConfig" => generation_config(&mut conversation, value, lost)?,
            "cachedContent" => return fault(value, "stands for content that Google keeps"),
            // Billing's labels, and the model that the path names.
            "labels" | "model" => {}
            "store" if value.raw() == "false" => {}
            "serviceTier" if matches!(&*string(value)?, "standard" | "unspecified") => {}
            _ => lost.push(value),
        }
    }
    if let Some(system) = system {
        let mut turns = Turns::default();
        let parts = turns.parts(system, Role::System, lost)?;
        conversation.turns.push(Turn { role: Role::System, parts });
    }
    let Some(contents) = contents else { return missing(root, "contents") };
    let mut turns = Turns { taken: stated_ids(contents), ..Turns::default() };
    for content in elements(contents)? {
        let role = match get(content, "role")? {
            None => Role::User,
            Some(role) => match &*string(role)? {
                "user" | "function" | "" => Role::User,
                "model" => Role::Assistant,
                _ => return fault(role, "is no role of a content"),
            },
        };
        let parts = turns.parts(content, role, lost)?;
        conversation.turns.push(Turn { role, parts });
    }
    Ok(conversation)
}

/// The members of an object, their names in camel case.
fn fields<'d>(value: Value<'d>) -> Read<'d, impl Iterator<Item = (Cow<'d, str>, Value<'d>)> + use<'d>> {
    Ok(members(value)?.map(|(key, member)| (camel(key), member)))
}

fn camel(key: Cow<'_, str>) -> Cow<'_, str> {
    if !key.contains('_') || key.starts_with('_') {
        return key;
    }
    let mut name = String::with_capacity(key.len());
    let mut upper = false;
    for character in key.chars() {
        match character {
            '_' => upper = true,
            _ if upper => {
                name.push(character.to_ascii_uppercase());
                upper = false;
            }
            _ => name.push(character),
        }
    }
    Cow::Owned(name)
}

fn get<'d>(object: Value<'d>, name: &str) -> Read<'d, Option<Value<'d>>> {
    Ok(fields(object)?.find(|(key, _)| key == name).map(|(_, member)| member))
}

fn required<'d>(object: Value<'d>, name: &'static str) -> Read<'d, Value<'d>> {
    match get(object, name)? {
        Some(member) => Ok(member),
        None => missing(object, name),
    }
}

/// The ids that calls state themselves.
fn stated_ids(contents: Value<'_>) -> HashSet<String> {
    let calls = contents.descendants().filter(|value| value.key_is("functionCall") || value.key_is("function_call"));
    calls.filter_map(|call| Some(call.get("id")?.string()?.into_owned())).collect()
}

/// Matches results to calls: by id, or, where Google left ids out, by name and order.
#[derive(Default)]
struct Turns {
    /// Ids of the calls that have no result yet.
    open: HashSet<String>,
    /// Ids of each function's calls in order; those that are no longer open are skipped.
    by_name: HashMap<String, VecDeque<String>>,
    taken: HashSet<String>,
    made: usize,
}

impl Turns {
    fn parts<'d>(&mut self, content: Value<'d>, role: Role, lost: &mut Lost) -> Read<'d, Vec<Part<'d>>> {
        let mut parts = Vec::new();
        for (key, member) in fields(content)? {
            match &*key {
                "role" => {}
                "parts" if member.kind() == Kind::Object => self.part(member, role, &mut parts, lost)?,
                "parts" => {
                    for part in elements(member)? {
                        self.part(part, role, &mut parts, lost)?;
                    }
                }
                _ => lost.push(member),
            }
        }
        Ok(parts)
    }

    fn part<'d>(&mut self, part: Value<'d>, role: Role, parts: &mut Vec<Part<'d>>, lost: &mut Lost) -> Read<'d, ()> {
        let (mut held, mut is_thought, mut signature) = (None, false, None);
        for (key, member) in fields(part)? {
            match &*key {
                "thought" => is_thought = boolean(member)?,
                "thoughtSignature" => signature = Some(Written::of(member)?).filter(|written| !written.is_empty()),
                "text" | "inlineData" | "fileData" | "functionCall" | "functionResponse" => {
                    if held.replace((key, member)).is_some() {
                        return fault(part, "holds more than one kind of data");
                    }
                }
                _ => lost.push(member),
            }
        }
        let Some((kind, member)) = held else {
            if signature.is_some() {
                sign(parts, signature);
            }
            return Ok(());
        };
        match (&*kind, role) {
            ("text", Role::Assistant) if is_thought => {
                parts.push(Part::Thought(Thought { text: Written::of(member)?, signature, google: false }));
                return Ok(());
            }
            ("text", _) => {
                sign(parts, signature);
                parts.push(Part::Text(Text { text: Written::of(member)?, cache: None }));
            }
            ("inlineData" | "fileData", Role::User | Role::Assistant) => parts.extend(media(member, lost)?),
            ("functionCall", Role::Assistant) => {
                sign(parts, signature);
                parts.push(Part::Call(self.call(member, lost)?));
            }
            ("functionResponse", Role::User) => parts.push(Part::Outcome(self.outcome(member, lost)?)),
            _ => lost.push(part),
        }
        Ok(())
    }

    fn call<'d>(&mut self, value: Value<'d>, lost: &mut Lost) -> Read<'d, Call<'d>> {
        let (mut id, mut arguments) = (None, Cow::Borrowed("{}"));
        for (key, member) in fields(value)? {
            match &*key {
                "name" => {}
                "id" => id = Some(string(member)?).filter(|id| !id.is_empty()),
                "args" => arguments = Cow::Borrowed(object(member)?.raw()),
                _ => lost.push(member),
            }
        }
        let name = required(value, "name")?;
        let id = id.unwrap_or_else(|| Cow::Owned(self.make_id()));
        self.open.insert(id.clone().into_owned());
        self.by_name.entry(string(name)?.into_owned()).or_default().push_back(id.clone().into_owned());
        Ok(Call { id, name: Written::of(name)?, arguments, cache: None, at: value })
    }

    /// Closes the first open call of a function.
    fn first_open(&mut self, name: &str) -> Option<String> {
        let calls = self.by_name.get_mut(name)?;
        std::iter::from_fn(|| calls.pop_front()).find(|id| self.open.remove(id))
    }

    fn make_id(&mut self) -> String {
        loop {
            self.made += 1;
            let id = format!("call_{}", self.made);
            if self.taken.insert(id.clone()) {
                return id;
            }
        }
    }

    fn outcome<'d>(&mut self, value: Value<'d>, lost: &mut Lost) -> Read<'d, Outcome<'d>> {
        let (mut id, mut response, mut media_parts) = (None, None, None);
        for (key, member) in fields(value)? {
            match &*key {
                "name" => {}
                "id" => id = Some(string(member)?).filter(|id| !id.is_empty()),
                "response" => response = Some(object(member)?),
                "parts" => media_parts = Some(member),
                _ => lost.push(member),
            }
        }
        let name = string(required(value, "name")?)?;
        let stated = id.map(Cow::into_owned).filter(|id| self.open.remove(id));
        let id = stated.or_else(|| self.first_open(&name));
        let Some(id) = id else { return fault(value, "answers no function call") };
        let (text, failed) = match response {
            Some(response) => said(response)?,
            None => (Written::default(), false),
        };
        let mut parts = vec![Part::Text(Text { text, cache: None })];
        if let Some(media_parts) = media_parts {
            for part in elements(media_parts)? {
                for (key, member) in fields(part)? {
                    match &*key {
                        "inlineData" | "fileData" => parts.extend(media(member, lost)?),
                        _ => lost.push(member),
                    }
                }
            }
        }
        Ok(Outcome { id: Cow::Owned(id), parts, failed, error: None, cache: None, at: value })
    }
}

/// What a function's response says: the text alone where it stands under `output` or `result`, else the object.
/// `true`: it states an error.
fn said<'d>(response: Value<'d>) -> Read<'d, (Written<'d>, bool)> {
    let mut all = response.children();
    let sole = all.next().filter(|_| all.next().is_none());
    let output = sole.filter(|member| member.key_is("output") || member.key_is("result"));
    let failed = sole.is_some_and(|member| member.key_is("error") && !member.is_null());
    let text = match output {
        Some(output) if output.kind() == Kind::String => Written::of(output)?,
        Some(output) => Written::escaped(output.raw()),
        None => Written::escaped(response.raw()),
    };
    Ok((text, failed))
}

/// A signature belongs to the thought before it, or stands for a thought that is not shown.
fn sign<'d>(parts: &mut Vec<Part<'d>>, signature: Option<Written<'d>>) {
    let Some(signature) = signature else { return };
    match parts.last_mut() {
        Some(Part::Thought(thought)) if thought.signature.is_none() => thought.signature = Some(signature),
        _ => parts.push(Part::Thought(Thought { text: Written::default(), signature: Some(signature), google: false })),
    }
}

/// Where files lie that only Google can read.
fn is_googles(uri: &str) -> bool {
    uri.starts_with("gs://")
        || uri.starts_with("files/")
        || uri.starts_with("https://generativelanguage.googleapis.com/")
}

fn media<'d>(value: Value<'d>, lost: &mut Lost) -> Read<'d, Option<Part<'d>>> {
    let (mut mime, mut data, mut url, mut name) = (None, None, None, None);
    for (key, member) in fields(value)? {
        match &*key {
            "mimeType" => mime = Some(Written::of(member)?),
            "data" => data = Some(standard_base64(Written::of(member)?)),
            "fileUri" => url = Some(Written::of(member)?),
            "displayName" => name = string(member).map(|_| Some(member))?,
            _ => lost.push(member),
        }
    }
    let source = match (data, url, mime) {
        (Some(data), None, Some(mime)) => Source::Data { mime, data },
        (None, Some(url), mime) => Source::Url { url, mime },
        _ => return fault(value, "needs `mimeType` and `data`, or `fileUri`"),
    };
    let is_foreign = match &source {
        Source::Url { url, .. } => !is_googles(&url.text()),
        Source::Data { .. } => true,
    };
    let medium = source.mime().and_then(|mime| medium_of_mime(&mime)).filter(|_| is_foreign);
    let Some(medium) = medium else {
        lost.push(value);
        return Ok(None);
    };
    // An image's name says nothing to the model; a document's is shown to it.
    let name = name.filter(|_| medium == Medium::Document);
    Ok(Some(Part::Media(Media { medium, source, name, detail: None, cache: None, at: value })))
}

/// Google takes both alphabets of base64 (RFC 4648 sections 4 and 5), its SDK sends the one for URLs, and the others
/// take the first alone.
fn standard_base64(data: Written<'_>) -> Written<'_> {
    match data.inside().contains(['-', '_']) {
        true => Written::decoded(Cow::Owned(data.inside().replace('-', "+").replace('_', "/"))),
        false => data,
    }
}

fn tools<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    conversation.tools.clear();
    for entry in elements(value)? {
        for (key, member) in fields(entry)? {
            match &*key {
                "functionDeclarations" => {
                    for declaration in elements(member)? {
                        conversation.tools.push(tool(declaration, lost)?);
                    }
                }
                _ => lost.push(member),
            }
        }
    }
    Ok(())
}

fn tool<'d>(declaration: Value<'d>, lost: &mut Lost) -> Read<'d, Tool<'d>> {
    let name = required(declaration, "name")?;
    string(name)?;
    let mut tool = Tool { name, description: None, parameters: None, strict: None, cache: None };
    for (key, member) in fields(declaration)? {
        match &*key {
            "name" => {}
            "description" => tool.description = string(member).map(|_| Some(member))?,
            "parameters" => tool.parameters = Some(Cow::Owned(json_schema(object(member)?))),
            "parametersJsonSchema" => tool.parameters = Some(Cow::Borrowed(object(member)?.raw())),
            "behavior" if member.raw() == "\"BLOCKING\"" => {}
            _ => lost.push(member),
        }
    }
    Ok(tool)
}

fn tool_config<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    for (key, member) in fields(value)? {
        match &*key {
            "functionCallingConfig" => calling(conversation, member, lost)?,
            _ => lost.push(member),
        }
    }
    Ok(())
}

fn calling<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    let (mut mode, mut allowed) = (None, None);
    for (key, member) in fields(value)? {
        match &*key {
            "mode" => mode = Some(member),
            "allowedFunctionNames" => allowed = Some(member),
            _ => lost.push(member),
        }
    }
    let names = allowed.map(|allowed| Ok(elements(allowed)?.collect::<Vec<_>>())).transpose()?.unwrap_or_default();
    let word = mode.map(string).transpose()?.unwrap_or(Cow::Borrowed("AUTO"));
    let choice = match (&*word.to_ascii_uppercase(), names.as_slice()) {
        ("ANY", [name]) => Mode::Named(Written::of(*name)?),
        ("ANY", _) => {
            lost.given(allowed.filter(|_| !names.is_empty()));
            Mode::Any
        }
        ("NONE", _) => Mode::Never,
        ("AUTO" | "MODE_UNSPECIFIED", _) => {
            lost.given(allowed.filter(|_| !names.is_empty()));
            Mode::Auto
        }
        _ => {
            lost.given(mode);
            lost.given(allowed);
            Mode::Auto
        }
    };
    conversation.choice = Some(Choice { mode: choice, at: value });
    Ok(())
}

fn generation_config<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    let (mut mime, mut schema) = (None, None);
    for (key, member) in fields(value)? {
        let sampling = &mut conversation.sampling;
        match &*key {
            "temperature" => sampling.temperature = Some(number(member)?),
            "topP" => sampling.top_p = Some(number(member)?),
            "topK" => sampling.top_k = Some(number(member)?),
            "seed" => sampling.seed = Some(number(member)?),
            "presencePenalty" => sampling.presence_penalty = Some(number(member)?),
            "frequencyPenalty" => sampling.frequency_penalty = Some(number(member)?),
            "maxOutputTokens" => sampling.max_tokens = Some(number(member)?),
            "stopSequences" => {
                sampling.stop = elements(member)?.map(|stop| string(stop).map(|_| stop)).collect::<Read<'d, _>>()?;
            }
            "responseMimeType" => mime = Some(member),
            "responseSchema" => schema = Some((member, Cow::Owned(json_schema(object(member)?)))),
            "responseJsonSchema" | "_responseJsonSchema" => {
                schema = Some((member, Cow::Borrowed(object(member)?.raw())));
            }
            "thinkingConfig" => thinking(conversation, member, lost)?,
            "candidateCount" if member.raw() == "1" => {}
            "responseLogprobs" if member.raw() == "false" => {}
            "responseModalities" if holds_only(member, "text") => {}
            _ => lost.push(member),
        }
    }
    let form = mime.map(string).transpose()?.unwrap_or_default();
    conversation.format = match (&*form, schema) {
        ("application/json" | "", Some((_, schema))) => {
            Some(Format::Schema { name: None, description: None, schema, strict: None })
        }
        ("application/json", None) => mime.map(Format::Json),
        ("text/plain" | "", None) => None,
        (_, schema) => {
            lost.given(mime);
            lost.given(schema.map(|(at, _)| at));
            None
        }
    };
    Ok(())
}

fn thinking<'d>(conversation: &mut Conversation<'d>, value: Value<'d>, lost: &mut Lost) -> Read<'d, ()> {
    for (key, member) in fields(value)? {
        match &*key {
            "includeThoughts" => conversation.reasoning.visible = Some(boolean(member)?),
            "thinkingBudget" => {
                let thinking = match (number(member)?.raw(), member.raw().parse()) {
                    ("-1", _) => Thinking::Adaptive,
                    (_, Ok(0)) => Thinking::Off,
                    (_, Ok(tokens)) => Thinking::Budget(tokens),
                    (_, Err(_)) => return fault(member, "is not a number of tokens"),
                };
                conversation.reasoning.thinking = Some((thinking, member));
            }
            "thinkingLevel" => match Effort::of_name(&string(member)?.to_ascii_lowercase()) {
                Some(effort) => conversation.reasoning.effort = Some((effort, member)),
                None => lost.push(member),
            },
            _ => lost.push(member),
        }
    }
    Ok(())
}
