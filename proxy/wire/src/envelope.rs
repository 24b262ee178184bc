//! A client's body, kept as it came, with the places in it that Sluice owns.

use crate::dialect::Dialect;
use crate::json::{Document, JsonError, Kind, Value, escape_into, without_member};
use crate::splice::Splices;
use std::borrow::Cow;
use std::ops::Range;

/// Why a body cannot be an [`Envelope`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the body is not valid UTF-8 (byte {0})")]
    NotUtf8(usize),
    #[error("the body is not valid JSON: {0}")]
    NotJson(JsonError),
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// Parsers differ in which one wins, so what Sluice checked might not be what the provider obeys.
    #[error("`{0}` occurs more than once")]
    Duplicate(&'static str),
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{field}` must be {expected}")]
    WrongType { field: &'static str, expected: &'static str },
}

/// Members of the outermost object that Sluice reads or writes.
const OWNED: [&str; 12] = [
    "model",
    "messages",
    "contents",
    "stream",
    "stream_options",
    "sluice",
    "input",
    "prompt",
    "system",
    "instructions",
    "systemInstruction",
    "system_instruction",
];

/// What Sluice adds to a conversation.
#[derive(Clone, Debug, Default)]
pub struct Additions {
    /// The rendered prompt's messages, role and text, before everything of the client's.
    pub opening: Vec<(String, String)>,
    /// Those behind the client's last turn. Where a system's text has a member of its own, it stands there.
    pub closing: Vec<(String, String)>,
    /// Retrieved text, as a user turn directly before the last one, which stays its place through that turn's tool
    /// loop.
    pub context: Option<String>,
    /// What was said before, as a user turn before the one that begins at that byte.
    pub summary: Option<(usize, String)>,
    /// Tools, before the client's own; one whose name the client uses itself is left out.
    pub tools: Vec<Tool>,
}

/// A function that the model may call.
#[derive(Clone, Debug)]
pub struct Tool {
    pub name: String,
    pub description: String,
    /// A JSON Schema.
    pub parameters: String,
}

/// A checked request body. The text never changes; edits are collected in [`Splices`] and made once, at the end.
#[derive(Clone, Debug)]
pub struct Envelope {
    text: String,
    document: Document,
    dialect: Dialect,
}

/// A string that leaves to the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSpan {
    /// The bytes between its quotes.
    pub range: Range<usize>,
    /// Whether the string is itself JSON (tool-call arguments).
    pub nested: bool,
}

/// A turn of the user's with all that follows it up to the user's next one: calls of tools stand with their results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// To the beginning of the next exchange; the last one's to the end of its last turn.
    pub range: Range<usize>,
    /// The bytes between the quotes of each of its strings.
    pub strings: Vec<Range<usize>>,
}

/// Everything that leaves, as [`Envelope::texts`] found it.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// In document order.
    pub spans: Vec<TextSpan>,
    /// Content that holds no readable text (images, audio, files, token ids): the part's type.
    pub opaque: Vec<String>,
}

impl Envelope {
    /// Checks a body; `dialect` says which members it must have.
    pub fn parse(dialect: Dialect, body: Vec<u8>) -> Result<Envelope, EnvelopeError> {
        let text = String::from_utf8(body).map_err(|error| EnvelopeError::NotUtf8(error.utf8_error().valid_up_to()))?;
        let document = Document::parse(&text).map_err(EnvelopeError::NotJson)?;
        let root = document.root(&text);
        if root.kind() != Kind::Object {
            return Err(EnvelopeError::NotAnObject);
        }
        let mut seen = [false; OWNED.len()];
        for member in root.children() {
            if let Some(which) = OWNED.iter().position(|name| member.key_is(name))
                && std::mem::replace(&mut seen[which], true)
            {
                return Err(EnvelopeError::Duplicate(OWNED[which]));
            }
        }
        if root.get("model").is_some_and(|model| model.kind() != Kind::String) {
            return Err(EnvelopeError::WrongType { field: "model", expected: "a string" });
        }
        check_turns(dialect, root)?;
        Ok(Envelope { text, document, dialect })
    }

    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The body as it came.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn root(&self) -> Value<'_> {
        self.document.root(&self.text)
    }

    /// What the client named as `model`.
    pub fn model(&self) -> Option<Cow<'_, str>> {
        self.root().get("model").and_then(|model| model.string())
    }

    /// Whether the client asked for a stream.
    pub fn stream(&self) -> bool {
        self.root().get("stream").is_some_and(|stream| stream.raw() == "true")
    }

    /// The raw value of the member `sluice`.
    pub fn steering(&self) -> Option<&str> {
        self.root().get("sluice").map(|steering| steering.raw())
    }

    /// Whether the caller itself wants usage in its chat stream.
    pub fn wants_usage(&self) -> bool {
        let options = self.root().get("stream_options");
        options.and_then(|options| options.get("include_usage")).is_some_and(|include| include.raw() == "true")
    }

    /// Asks for usage in the stream, which accounting needs.
    pub fn ask_usage(&self, splices: &mut Splices) {
        const ASK: &str = "\"include_usage\":true";
        let Some(options) = self.root().get("stream_options") else {
            return self.insert_member(&format!("\"stream_options\":{{{ASK}}}"), splices);
        };
        match (options.get("include_usage"), options.kind()) {
            (Some(include), _) => splices.replace(include.span(), "true"),
            (None, Kind::Object) => {
                let comma = if options.children().next().is_some() { "," } else { "" };
                splices.insert(options.span().start + 1, format!("{ASK}{comma}"));
            }
            (None, _) => splices.replace(options.span(), format!("{{{ASK}}}")),
        }
    }

    /// Reduces the tokens that are asked for to `limit`.
    pub fn limit_output(&self, limit: u32, splices: &mut Splices) {
        let root = self.root();
        let config = root.get("generationConfig").or_else(|| root.get("generation_config"));
        let (object, names) = match self.dialect {
            Dialect::Gemini => (config, ["maxOutputTokens", "max_output_tokens"]),
            Dialect::Responses => (Some(root), ["max_output_tokens", "max_output_tokens"]),
            _ => (Some(root), ["max_tokens", "max_completion_tokens"]),
        };
        for member in object.iter().flat_map(|object| object.children()) {
            let is_more = member.raw().parse::<f64>().is_ok_and(|asked| asked > f64::from(limit));
            if is_more && names.iter().any(|name| member.key_is(name)) {
                splices.replace(member.span(), limit.to_string());
            }
        }
    }

    /// Gives the request those of `members` (names and JSON) that it does not have; Gemini's are in
    /// `generationConfig`.
    pub fn set_defaults(&self, members: &[(String, String)], splices: &mut Splices) {
        let written = |object: Option<Value<'_>>| -> Vec<String> {
            let missing = members.iter().filter(|(name, _)| {
                !object.iter().flat_map(|object| object.children()).any(|known| known.key_is(name))
            });
            let member = |(name, value): &(String, String)| {
                let mut member = String::from("\"");
                escape_into(name, &mut member);
                member + "\":" + value
            };
            missing.map(member).collect()
        };
        if self.dialect != Dialect::Gemini {
            for member in written(Some(self.root())) {
                self.insert_member(&member, splices);
            }
            return;
        }
        match self.root().get("generationConfig").or_else(|| self.root().get("generation_config")) {
            Some(config) if config.kind() == Kind::Object => {
                let missing = written(Some(config)).join(",");
                let comma = if config.children().next().is_some() { "," } else { "" };
                if !missing.is_empty() {
                    splices.insert(config.span().start + 1, missing + comma);
                }
            }
            Some(_) => {}
            None if members.is_empty() => {}
            None => self.insert_member(&format!("\"generationConfig\":{{{}}}", written(None).join(",")), splices),
        }
    }

    /// The raw value of Responses' own `instructions`, which answers echo.
    pub fn instructions(&self) -> Option<&str> {
        self.root().get("instructions").map(|instructions| instructions.raw())
    }

    /// The text of the user's last turn, parts joined by a line break.
    pub fn last_user_text(&self) -> Option<String> {
        if let Some(input) = self.input_string() {
            return input.string().map(Cow::into_owned);
        }
        self.text_of(self.last_user()?)
    }

    /// The text of the user's first turn, parts joined by a line break: what the conversation began with, the same in
    /// each of its requests.
    pub fn first_user_text(&self) -> Option<String> {
        if let Some(input) = self.input_string() {
            return input.string().map(Cow::into_owned);
        }
        self.text_of(self.turns()?.children().find(|turn| self.is_user(*turn))?)
    }

    /// The texts of the user's last `most` turns, in their order; what a tool answered is no turn of the user's.
    pub fn last_user_texts(&self, most: usize) -> Vec<String> {
        if most <= 1 || self.input_string().is_some() {
            return self.last_user_text().into_iter().collect();
        }
        let turns: Vec<Value<'_>> =
            self.turns().into_iter().flat_map(|turns| turns.children()).filter(|turn| self.is_user(*turn)).collect();
        turns[turns.len().saturating_sub(most)..].iter().filter_map(|turn| self.text_of(*turn)).collect()
    }

    fn text_of(&self, message: Value<'_>) -> Option<String> {
        let content = message.get(if self.dialect == Dialect::Gemini { "parts" } else { "content" })?;
        match content.kind() {
            Kind::String => content.string().map(Cow::into_owned),
            Kind::Array => {
                let parts = content.children().filter_map(|part| part.get("text")?.string());
                Some(parts.collect::<Vec<_>>().join("\n"))
            }
            _ => None,
        }
    }

    /// The array of the conversation's turns.
    fn turns(&self) -> Option<Value<'_>> {
        let name = match self.dialect {
            Dialect::Gemini => "contents",
            Dialect::Responses => "input",
            _ => "messages",
        };
        self.root().get(name).filter(|turns| turns.kind() == Kind::Array)
    }

    /// Responses' `input`, where it is a single string.
    fn input_string(&self) -> Option<Value<'_>> {
        let input = self.root().get("input").filter(|_| self.dialect == Dialect::Responses)?;
        (input.kind() == Kind::String).then_some(input)
    }

    /// The last turn that the user wrote. One that carries a tool's results belongs to the turn before it.
    fn last_user(&self) -> Option<Value<'_>> {
        self.turns()?.children().filter(|turn| self.is_user(*turn)).last()
    }

    /// The conversation from the user's first turn on. What stands before belongs to no exchange.
    pub fn exchanges(&self) -> Vec<Exchange> {
        let mut exchanges: Vec<Exchange> = Vec::new();
        for turn in self.turns().into_iter().flat_map(|turns| turns.children()) {
            let span = turn.span();
            if self.is_user(turn) {
                if let Some(last) = exchanges.last_mut() {
                    last.range.end = span.start;
                }
                exchanges.push(Exchange { range: span.clone(), strings: Vec::new() });
            }
            let Some(last) = exchanges.last_mut() else { continue };
            last.range.end = span.end;
            last.strings.extend(strings(turn));
        }
        exchanges
    }

    /// The turns in `range` to be read: for each its role and its texts. What is no text is left out.
    pub fn told(&self, range: &Range<usize>) -> Vec<(String, Vec<String>)> {
        let within = |span: &Range<usize>| range.start <= span.start && span.end <= range.end;
        let turns = self.turns().into_iter().flat_map(|turns| turns.children()).filter(|turn| within(&turn.span()));
        let told = turns.map(|turn| {
            let role = turn.get("role").or_else(|| turn.get("type")).and_then(|role| role.string()).unwrap_or_default();
            let mut texts = Vec::new();
            self.read(turn, &mut texts);
            (role.into_owned(), texts)
        });
        told.collect()
    }

    /// Collects what a reader of `value` would read: no parts that are no text, no names of kinds and things.
    fn read(&self, value: Value<'_>, texts: &mut Vec<String>) {
        const NAMES: [&str; 6] = ["role", "type", "id", "call_id", "tool_call_id", "tool_use_id"];
        if let Some(text) = value.string() {
            texts.push(text.into_owned());
            return;
        }
        let parts = holds_parts(value);
        for child in value.children() {
            let is_name = NAMES.iter().any(|name| child.key_is(name));
            if is_name || is_signed(child) || parts && self.opaque(child).is_some() {
                continue;
            }
            self.read(child, texts);
        }
    }

    /// The strings of all that belongs to no exchange: system text, tools, turns before the user's first.
    pub fn standing(&self) -> Vec<Range<usize>> {
        let turns = self.turns();
        let first = turns.and_then(|turns| turns.children().find(|turn| self.is_user(*turn)));
        let opening = turns.into_iter().flat_map(|turns| turns.children());
        let opening = opening.take_while(|turn| first.is_none_or(|first| turn.span().start < first.span().start));
        let is_standing = |member: &Value<'_>| {
            let is_turns = turns.is_some_and(|turns| turns.span() == member.span());
            !is_turns && !member.key_is("sluice") && !member.key_is("model")
        };
        self.root().children().filter(is_standing).chain(opening).flat_map(strings).collect()
    }

    fn is_user(&self, turn: Value<'_>) -> bool {
        let role = turn.get("role").and_then(|role| role.string());
        match self.dialect {
            Dialect::Messages => {
                let is_result = |part: Value<'_>| {
                    part.get("type").and_then(|kind| kind.string()).is_some_and(|kind| kind.ends_with("tool_result"))
                };
                role.as_deref() == Some("user")
                    && !turn.get("content").is_some_and(|content| content.children().any(is_result))
            }
            Dialect::Gemini => {
                let is_result =
                    |part: Value<'_>| part.get("functionResponse").or(part.get("function_response")).is_some();
                role.as_deref().is_none_or(|role| role == "user")
                    && !turn.get("parts").is_some_and(|parts| parts.children().any(is_result))
            }
            _ => role.as_deref() == Some("user"),
        }
    }

    /// Puts `additions` where the dialect wants them. `false` when the context has no place.
    pub fn add(&self, additions: &Additions, splices: &mut Splices) -> bool {
        self.add_tools(&additions.tools, splices);
        let is_system = |role: &str| matches!(role, "system" | "developer");
        // Chat has a role for them; the others a member of its own.
        let (system, opening): (Vec<_>, Vec<_>) =
            additions.opening.iter().partition(|(role, _)| self.dialect != Dialect::Chat && is_system(role));
        let (behind, closing): (Vec<_>, Vec<_>) =
            additions.closing.iter().partition(|(role, _)| self.dialect != Dialect::Chat && is_system(role));
        let system = [system, behind].concat();
        if !system.is_empty() {
            let texts: Vec<&str> = system.iter().map(|(_, text)| text.as_str()).collect();
            self.add_system(&texts.join("\n\n"), splices);
        }
        let opening: String = opening.iter().map(|(role, text)| self.turn(role, text) + ",").collect();
        let closing: String = closing.iter().map(|(role, text)| ",".to_owned() + &self.turn(role, text)).collect();
        let context = additions.context.as_deref().map(|text| self.turn("user", text) + ",");
        if let Some(input) = self.input_string() {
            let before = opening + context.as_deref().unwrap_or_default();
            if !before.is_empty() || !closing.is_empty() {
                splices.insert(input.span().start, format!("[{before}{{\"role\":\"user\",\"content\":"));
                splices.insert(input.span().end, format!("}}{closing}]"));
            }
            return true;
        }
        if let Some((at, text)) = &additions.summary {
            splices.insert(*at, self.turn("user", text) + ",");
        }
        let first = self.turns().and_then(|turns| turns.children().next());
        if let (false, Some(first)) = (opening.is_empty(), first) {
            splices.insert(first.span().start, opening);
        }
        let last = self.turns().and_then(|turns| turns.children().last());
        if let (false, Some(last)) = (closing.is_empty(), last) {
            splices.insert(last.span().end, closing);
        }
        match (context, self.last_user()) {
            (Some(context), Some(last)) => splices.insert(last.span().start, context),
            (Some(_), None) => return false,
            (None, _) => {}
        }
        true
    }

    /// A turn in the dialect's form.
    fn turn(&self, role: &str, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + text.len() / 8 + 48);
        let role = if self.dialect == Dialect::Gemini && role == "assistant" { "model" } else { role };
        out.push_str("{\"role\":\"");
        escape_into(role, &mut out);
        out.push_str(if self.dialect == Dialect::Gemini { "\",\"parts\":[{\"text\":\"" } else { "\",\"content\":\"" });
        escape_into(text, &mut out);
        out.push_str(if self.dialect == Dialect::Gemini { "\"}]}" } else { "\"}" });
        out
    }

    /// Puts tools before the client's own.
    fn add_tools(&self, tools: &[Tool], splices: &mut Splices) {
        let member = self.root().get("tools");
        let known: Vec<Cow<'_, str>> = member
            .into_iter()
            .flat_map(|tools| tools.children())
            .flat_map(|tool| -> Vec<Value<'_>> {
                match self.dialect {
                    Dialect::Chat => tool.get("function").into_iter().collect(),
                    Dialect::Gemini => {
                        let declared = tool.get("functionDeclarations").or_else(|| tool.get("function_declarations"));
                        declared.into_iter().flat_map(|declared| declared.children()).collect()
                    }
                    _ => vec![tool],
                }
            })
            .filter_map(|function| function.get("name")?.string())
            .collect();
        let new = tools.iter().filter(|tool| !known.iter().any(|known| *known == tool.name));
        let mut written: Vec<String> = new.map(|tool| self.tool(tool)).collect();
        if written.is_empty() {
            return;
        }
        if self.dialect == Dialect::Gemini {
            written = vec![format!("{{\"functionDeclarations\":[{}]}}", written.join(","))];
        }
        let written = written.join(",");
        match member.filter(|member| !member.is_null()) {
            Some(list) if list.kind() == Kind::Array => {
                let comma = if list.children().next().is_some() { "," } else { "" };
                splices.insert(list.span().start + 1, written + comma);
            }
            // The provider says what is wrong with it.
            Some(_) => {}
            None => match member {
                Some(null) => splices.replace(null.span(), format!("[{written}]")),
                None => self.insert_member(&format!("\"tools\":[{written}]"), splices),
            },
        }
    }

    /// A tool in the dialect's form.
    fn tool(&self, tool: &Tool) -> String {
        let schema = match self.dialect {
            Dialect::Messages => "input_schema",
            _ => "parameters",
        };
        let mut out = String::from("\"name\":\"");
        escape_into(&tool.name, &mut out);
        out.push_str("\",\"description\":\"");
        escape_into(&tool.description, &mut out);
        out.push_str(&format!("\",\"{schema}\":{}", tool.parameters));
        match self.dialect {
            Dialect::Chat => format!("{{\"type\":\"function\",\"function\":{{{out}}}}}"),
            // There a schema is strict unless it says otherwise.
            Dialect::Responses => format!("{{\"type\":\"function\",{out},\"strict\":false}}"),
            _ => format!("{{{out}}}"),
        }
    }

    /// Puts text before the client's own system text.
    fn add_system(&self, text: &str, splices: &mut Splices) {
        let mut written = String::with_capacity(text.len() + text.len() / 8);
        escape_into(text, &mut written);
        let part = match self.dialect {
            Dialect::Messages => format!("{{\"type\":\"text\",\"text\":\"{written}\"}}"),
            _ => format!("{{\"text\":\"{written}\"}}"),
        };
        let in_front = |array: Value<'_>, splices: &mut Splices| {
            let comma = if array.children().next().is_some() { "," } else { "" };
            splices.insert(array.span().start + 1, format!("{part}{comma}"));
        };
        let (name, member) = self.system();
        match member.filter(|member| !member.is_null()) {
            Some(member) if member.kind() == Kind::Array => in_front(member, splices),
            Some(member) if member.kind() == Kind::Object => match member.get("parts") {
                Some(parts) if parts.kind() == Kind::Array => in_front(parts, splices),
                _ => splices.insert(member.span().start + 1, format!("\"parts\":[{part}],")),
            },
            Some(member) => {
                if let Some(inner) = member.inner_span() {
                    splices.insert(inner.start, written + if inner.is_empty() { "" } else { "\\n\\n" });
                }
            }
            None => {
                let value = match self.dialect {
                    Dialect::Gemini => format!("{{\"parts\":[{part}]}}"),
                    _ => format!("\"{written}\""),
                };
                match member {
                    Some(null) => splices.replace(null.span(), value),
                    None => self.insert_member(&format!("\"{name}\":{value}"), splices),
                }
            }
        }
    }

    /// The member that holds the client's system text, and its name.
    fn system(&self) -> (&'static str, Option<Value<'_>>) {
        let root = self.root();
        match self.dialect {
            Dialect::Gemini => match root.get("system_instruction") {
                Some(member) => ("system_instruction", Some(member)),
                None => ("systemInstruction", root.get("systemInstruction")),
            },
            Dialect::Responses => ("instructions", root.get("instructions")),
            _ => ("system", root.get("system")),
        }
    }

    /// Writes a member before all others.
    fn insert_member(&self, written: &str, splices: &mut Splices) {
        let others = self.root().children().any(|member| !member.key_is("sluice"));
        let at = self.root().span().start + 1;
        let text = match others {
            true => format!("{written},"),
            // What was written into an empty object before stands in front.
            false if splices.inserts_at(at) => format!(",{written}"),
            false => written.to_owned(),
        };
        splices.insert(at, text);
    }

    /// Takes the member `sluice` out.
    pub fn remove_steering(&self, splices: &mut Splices) {
        let Some(member) = self.root().get("sluice") else { return };
        let Some(key) = member.key_span() else { return };
        let range = without_member(&self.text, key.start..member.span().end);
        splices.replace(range, "");
    }

    /// Gives the body another `model`; a body that named none gets one.
    pub fn set_model(&self, model: &str, splices: &mut Splices) {
        let mut written = String::with_capacity(model.len() + 2);
        escape_into(model, &mut written);
        match self.root().get("model") {
            Some(member) => splices.replace(member.span(), format!("\"{written}\"")),
            None => self.insert_member(&format!("\"model\":\"{written}\""), splices),
        }
    }

    /// Whether the provider brings in, or is told to keep, what other requests said: their placeholders and this one's
    /// must then mean the same.
    pub fn is_stateful(&self) -> bool {
        let named = |name: &str| self.root().get(name).is_some_and(|value| !value.is_null());
        let keeps = self.root().get("store").is_some_and(|value| value.raw() == "true");
        self.dialect == Dialect::Responses && (keeps || named("previous_response_id") || named("conversation"))
    }

    /// Every string that leaves, member names included, except what Sluice itself reads or removes. Parts whose
    /// type is in `unread` pass without being looked at.
    pub fn texts(&self, unread: &[String]) -> Texts {
        let mut texts = Texts::default();
        for member in self.root().children() {
            if member.key_is("model") || member.key_is("sluice") {
                continue;
            }
            let token_ids = (member.key_is("input") && self.dialect == Dialect::Embeddings)
                || (member.key_is("prompt") && self.dialect == Dialect::Completions);
            if token_ids && member.descendants().any(|value| value.holds_bare_values()) && !allows(unread, "tokens") {
                texts.opaque.push("tokens".to_owned());
            }
            push_key(member, &mut texts);
            self.visit(member, false, unread, &mut texts);
        }
        texts
    }

    fn visit(&self, value: Value<'_>, in_arguments: bool, unread: &[String], texts: &mut Texts) {
        if let Some(range) = value.inner_span() {
            let written = &self.text[range.clone()];
            if written.starts_with("data:") && written.contains(";base64,") && !allows(unread, "data_uri") {
                texts.opaque.push("data_uri".to_owned());
            }
            texts.spans.push(TextSpan { range, nested: in_arguments });
            return;
        }
        let parts = holds_parts(value);
        for child in value.children() {
            if let Some(part) = Some(child).filter(|_| parts).and_then(|part| self.opaque(part)) {
                if !allows(unread, &part) {
                    texts.opaque.push(part);
                }
                continue;
            }
            if is_signed(child) {
                continue;
            }
            push_key(child, texts);
            self.visit(child, child.key_is("arguments"), unread, texts);
        }
    }

    /// The type of a content part that holds something other than text. In a chat and in Anthropic's messages every
    /// type that is not known to be text counts, as a new kind of part may hold anything.
    fn opaque(&self, part: Value<'_>) -> Option<String> {
        if self.dialect == Dialect::Gemini {
            const DATA: [&str; 4] = ["inlineData", "inline_data", "fileData", "file_data"];
            return DATA.iter().find(|name| part.get(name).is_some()).map(|name| (*name).to_owned());
        }
        let kind = part.get("type")?.string()?;
        let readable = match self.dialect {
            Dialect::Chat => matches!(kind.as_ref(), "text" | "refusal" | "thinking" | "redacted_thinking"),
            Dialect::Messages | Dialect::CountTokens => match kind.as_ref() {
                "document" => {
                    let source = part.get("source").and_then(|source| source.get("type")?.string());
                    source.is_some_and(|source| matches!(source.as_ref(), "text" | "content"))
                }
                "text" | "thinking" | "redacted_thinking" | "search_result" => true,
                kind => kind.ends_with("tool_use") || kind.ends_with("tool_result"),
            },
            _ => {
                !["image", "audio", "file", "video", "computer", "item_reference"]
                    .iter()
                    .any(|kept| kind.contains(kept))
                    || kind.starts_with("file_search")
            }
        };
        (!readable).then(|| kind.into_owned())
    }
}

/// Whether a value is the list of a message's parts.
fn holds_parts(value: Value<'_>) -> bool {
    const PARTS: [&str; 5] = ["content", "input", "output", "parts", "system"];
    value.kind() == Kind::Array && PARTS.iter().any(|name| value.key_is(name))
}

/// Whether a value is what a provider signed or encrypted: it must pass as it is, and has no text in it.
fn is_signed(member: Value<'_>) -> bool {
    const NAMES: [&str; 5] = ["signature", "thoughtSignature", "thought_signature", "encrypted_content", "data"];
    let is_token = |text: &str| {
        text.len() >= 16
            && text.bytes().any(|byte| byte.is_ascii_alphabetic())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=_-:".contains(&byte))
    };
    NAMES.iter().any(|name| member.key_is(name))
        && member.inner_span().is_some()
        && member.string().is_some_and(|text| is_token(&text))
}

/// A conversation must have turns, each an object.
fn check_turns(dialect: Dialect, root: Value<'_>) -> Result<(), EnvelopeError> {
    let name = match dialect {
        Dialect::Chat | Dialect::Messages | Dialect::CountTokens => "messages",
        Dialect::Gemini => "contents",
        // A stored prompt or response may stand in its place.
        Dialect::Responses if root.get("input").is_none_or(|input| input.kind() == Kind::String) => return Ok(()),
        Dialect::Responses => "input",
        _ => return Ok(()),
    };
    if dialect == Dialect::Gemini && root.get("systemInstruction").is_some() && root.get("system_instruction").is_some()
    {
        return Err(EnvelopeError::Duplicate("systemInstruction"));
    }
    let turns = root.get(name).ok_or(EnvelopeError::Missing(name))?;
    let are_objects = turns.children().all(|turn| turn.kind() == Kind::Object);
    if turns.kind() != Kind::Array || !are_objects || turns.holds_bare_values() {
        return Err(EnvelopeError::WrongType { field: name, expected: "an array of objects" });
    }
    if turns.children().next().is_none() {
        return Err(EnvelopeError::WrongType { field: name, expected: "at least one message" });
    }
    Ok(())
}

/// The bytes between the quotes of every string in a value.
fn strings(value: Value<'_>) -> impl Iterator<Item = Range<usize>> {
    std::iter::once(value).chain(value.descendants()).filter_map(|value| value.inner_span())
}

fn allows(unread: &[String], part: &str) -> bool {
    unread.iter().any(|listed| listed == part)
}

fn push_key(member: Value<'_>, texts: &mut Texts) {
    if let Some(key) = member.key_span() {
        texts.spans.push(TextSpan { range: key.start + 1..key.end - 1, nested: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chat(body: &str) -> Envelope {
        Envelope::parse(Dialect::Chat, body.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn turns_are_read_without_what_is_no_text() {
        let envelope = chat(
            r#"{"model":"m","messages":[{"role":"system","content":"no"},
            {"role":"user","content":[{"type":"text","text":"Look \"here\""},{"type":"image_url","image_url":{"url":"data:x"}}]},
            {"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"look","arguments":"{\"a\":1}"}}]},
            {"role":"tool","tool_call_id":"c1","content":"seen"},{"role":"user","content":"And?"}]}"#,
        );
        let exchanges = envelope.exchanges();
        let told = |texts: &[(&str, &[&str])]| -> Vec<(String, Vec<String>)> {
            let turn = |(role, texts): &(&str, &[&str])| {
                ((*role).to_owned(), texts.iter().map(|text| (*text).to_owned()).collect())
            };
            texts.iter().map(turn).collect()
        };
        let first: &[(&str, &[&str])] =
            &[("user", &["Look \"here\""]), ("assistant", &["look", "{\"a\":1}"]), ("tool", &["seen"])];
        assert_eq!(envelope.told(&exchanges[0].range), told(first));
        assert_eq!(envelope.told(&exchanges[1].range), told(&[("user", &["And?"])]));
    }

    #[test]
    fn an_empty_body_takes_several_members() {
        let envelope = Envelope::parse(Dialect::Other, b"{}".to_vec()).unwrap();
        let mut splices = Splices::default();
        envelope.set_model("m", &mut splices);
        envelope.ask_usage(&mut splices);
        assert_eq!(splices.apply(envelope.text()), r#"{"model":"m","stream_options":{"include_usage":true}}"#);
    }

    #[test]
    fn owned_members_are_edited_and_the_rest_is_untouched() {
        let body = r#"{ "temperature": 1.0e0, "model":"bot", "sluice" : {"variables":{"a":1}} , "seed": 12345678901234567890, "messages":[{"role":"system","content":"s"},{"role":"user","content":"hi \u00e9"},{"role":"assistant","content":null}], "x": [1, 2] }"#;
        let envelope = chat(body);
        let mut splices = Splices::default();
        envelope.remove_steering(&mut splices);
        envelope.set_model("gpt", &mut splices);
        let additions = Additions {
            opening: vec![("system".into(), "P".into())],
            context: Some("C".to_owned()),
            ..Additions::default()
        };
        assert!(envelope.add(&additions, &mut splices));
        let sent = splices.apply(envelope.text());
        assert_eq!(
            sent,
            r#"{ "temperature": 1.0e0, "model":"gpt", "seed": 12345678901234567890, "messages":[{"role":"system","content":"P"},{"role":"system","content":"s"},{"role":"user","content":"C"},{"role":"user","content":"hi \u00e9"},{"role":"assistant","content":null}], "x": [1, 2] }"#
        );
        assert_eq!(envelope.last_user_text().unwrap(), "hi é");
        assert_eq!(envelope.last_user_texts(3).last().unwrap(), "hi é");
        assert_eq!(envelope.steering().unwrap(), r#"{"variables":{"a":1}}"#);
    }

    #[test]
    fn each_dialect_gets_additions_where_it_wants_them() {
        let additions = Additions {
            opening: vec![("system".into(), "P".into()), ("user".into(), "U".into()), ("assistant".into(), "A".into())],
            context: Some("C".to_owned()),
            ..Additions::default()
        };
        for (dialect, body, sent) in [
            (
                Dialect::Messages,
                r#"{"system":"s","messages":[{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"tool_use"}]},{"role":"user","content":[{"type":"tool_result"}]}]}"#,
                r#"{"system":"P\n\ns","messages":[{"role":"user","content":"U"},{"role":"assistant","content":"A"},{"role":"user","content":"C"},{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"tool_use"}]},{"role":"user","content":[{"type":"tool_result"}]}]}"#,
            ),
            (
                Dialect::Messages,
                r#"{"system":[{"type":"text","text":"s","cache_control":{}}],"messages":[{"role":"user","content":"a"}]}"#,
                r#"{"system":[{"type":"text","text":"P"},{"type":"text","text":"s","cache_control":{}}],"messages":[{"role":"user","content":"U"},{"role":"assistant","content":"A"},{"role":"user","content":"C"},{"role":"user","content":"a"}]}"#,
            ),
            (
                Dialect::Gemini,
                r#"{"contents":[{"parts":[{"text":"a"}]},{"role":"model","parts":[]},{"role":"user","parts":[{"functionResponse":{}}]}]}"#,
                r#"{"systemInstruction":{"parts":[{"text":"P"}]},"contents":[{"role":"user","parts":[{"text":"U"}]},{"role":"model","parts":[{"text":"A"}]},{"role":"user","parts":[{"text":"C"}]},{"parts":[{"text":"a"}]},{"role":"model","parts":[]},{"role":"user","parts":[{"functionResponse":{}}]}]}"#,
            ),
            (
                Dialect::Gemini,
                r#"{"system_instruction":{"parts":[{"text":"s"}]},"contents":[{"role":"user","parts":[{"text":"a"}]}]}"#,
                r#"{"system_instruction":{"parts":[{"text":"P"},{"text":"s"}]},"contents":[{"role":"user","parts":[{"text":"U"}]},{"role":"model","parts":[{"text":"A"}]},{"role":"user","parts":[{"text":"C"}]},{"role":"user","parts":[{"text":"a"}]}]}"#,
            ),
            (
                Dialect::Responses,
                r#"{"input":"a"}"#,
                r#"{"instructions":"P","input":[{"role":"user","content":"U"},{"role":"assistant","content":"A"},{"role":"user","content":"C"},{"role":"user","content":"a"}]}"#,
            ),
            (
                Dialect::Responses,
                r#"{"instructions":null,"input":[{"role":"user","content":"a"},{"type":"function_call"}]}"#,
                r#"{"instructions":"P","input":[{"role":"user","content":"U"},{"role":"assistant","content":"A"},{"role":"user","content":"C"},{"role":"user","content":"a"},{"type":"function_call"}]}"#,
            ),
        ] {
            let envelope = Envelope::parse(dialect, body.as_bytes().to_vec()).unwrap();
            let mut splices = Splices::default();
            assert!(envelope.add(&additions, &mut splices));
            assert_eq!(splices.apply(envelope.text()), sent);
            assert_eq!(envelope.last_user_text().unwrap(), "a");
        }
    }

    #[test]
    fn tools_stand_before_the_clients_own_in_each_dialect() {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            description: "say \"hi\"".to_owned(),
            parameters: r#"{"type":"object"}"#.to_owned(),
        };
        let additions = Additions { tools: vec![tool("a"), tool("b")], ..Additions::default() };
        let a = r#""name":"a","description":"say \"hi\"","parameters":{"type":"object"}"#;
        let messages = a.replace("parameters", "input_schema");
        for (dialect, body, sent) in [
            (
                Dialect::Chat,
                r#"{"tools":[{"type":"function","function":{"name":"b"}}],"messages":[{}]}"#,
                format!(
                    r#"{{"tools":[{{"type":"function","function":{{{a}}}}},{{"type":"function","function":{{"name":"b"}}}}],"messages":[{{}}]}}"#
                ),
            ),
            (
                Dialect::Responses,
                r#"{"input":"x","tools":[{"type":"web_search"},{"type":"function","name":"b"}]}"#,
                format!(
                    r#"{{"input":"x","tools":[{{"type":"function",{a},"strict":false}},{{"type":"web_search"}},{{"type":"function","name":"b"}}]}}"#
                ),
            ),
            (
                Dialect::Messages,
                r#"{"messages":[{}],"tools":[{"name":"b"}]}"#,
                format!(r#"{{"messages":[{{}}],"tools":[{{{messages}}},{{"name":"b"}}]}}"#),
            ),
            (
                Dialect::Gemini,
                r#"{"contents":[{}],"tools":[{"functionDeclarations":[{"name":"b"}]}]}"#,
                format!(
                    r#"{{"contents":[{{}}],"tools":[{{"functionDeclarations":[{{{a}}}]}},{{"functionDeclarations":[{{"name":"b"}}]}}]}}"#
                ),
            ),
        ] {
            let envelope = Envelope::parse(dialect, body.as_bytes().to_vec()).unwrap();
            let mut splices = Splices::default();
            envelope.add(&additions, &mut splices);
            assert_eq!(splices.apply(envelope.text()), sent);
            // Without tools of its own the request gets both.
            for without in [
                r#"{"contents":[{}],"messages":[{}],"input":[{}]}"#,
                r#"{"tools":null,"contents":[{}],"messages":[{}],"input":[{}]}"#,
            ] {
                let envelope = Envelope::parse(dialect, without.as_bytes().to_vec()).unwrap();
                let mut splices = Splices::default();
                envelope.add(&additions, &mut splices);
                let sent: serde_json::Value = serde_json::from_str(&splices.apply(envelope.text())).unwrap();
                let count = if dialect == Dialect::Gemini { 1 } else { 2 };
                assert_eq!(sent["tools"].as_array().unwrap().len(), count, "{dialect:?} {sent}");
            }
        }
    }

    #[test]
    fn a_conversation_begins_with_its_first_user_turn() {
        let first = |dialect, body: &str| Envelope::parse(dialect, body.as_bytes().to_vec()).unwrap().first_user_text();
        let chat = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"x"},{"role":"user","content":"b"}]}"#;
        assert_eq!(first(Dialect::Chat, chat).unwrap(), "a");
        assert_eq!(first(Dialect::Responses, r#"{"input":"a"}"#).unwrap(), "a");
        assert_eq!(
            first(Dialect::Gemini, r#"{"contents":[{"parts":[{"text":"a"}]},{"role":"model","parts":[]}]}"#).unwrap(),
            "a"
        );
        assert_eq!(first(Dialect::Chat, r#"{"messages":[{"role":"system","content":"s"}]}"#), None);
    }

    #[test]
    fn usage_is_asked_for_whatever_the_options_were() {
        for (body, sent) in [
            (r#"{"messages":[{}]}"#, r#"{"stream_options":{"include_usage":true},"messages":[{}]}"#),
            (
                r#"{"messages":[{}],"stream_options":{}}"#,
                r#"{"messages":[{}],"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"messages":[{}],"stream_options":null}"#,
                r#"{"messages":[{}],"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"messages":[{}],"stream_options":{"x":1,"include_usage":false}}"#,
                r#"{"messages":[{}],"stream_options":{"x":1,"include_usage":true}}"#,
            ),
        ] {
            let envelope = chat(body);
            let mut splices = Splices::default();
            assert!(!envelope.wants_usage());
            envelope.ask_usage(&mut splices);
            let asked = splices.apply(envelope.text());
            assert_eq!(asked, sent);
            assert!(chat(&asked).wants_usage());
        }
    }

    #[test]
    fn what_is_signed_passes_and_what_is_stored_elsewhere_is_named() {
        let body = r#"{"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":"EqQBCkgIARABGAIiQL=="},{"type":"image"}]}]}"#;
        let envelope = Envelope::parse(Dialect::Messages, body.as_bytes().to_vec()).unwrap();
        let texts = envelope.texts(&[]);
        assert_eq!(texts.opaque, ["image"]);
        assert!(!texts.spans.iter().any(|span| body[span.range.clone()].starts_with("EqQB")));
        let body = br#"{"input":"x","previous_response_id":"resp_1"}"#.to_vec();
        let stateful =
            |body: &str| Envelope::parse(Dialect::Responses, body.as_bytes().to_vec()).unwrap().is_stateful();
        assert!(Envelope::parse(Dialect::Responses, body).unwrap().is_stateful());
        assert!(stateful(r#"{"input":"x","store":true}"#) && !stateful(r#"{"input":"x","store":false}"#));
    }

    #[test]
    fn steering_is_removed_wherever_it_stands() {
        for (body, sent) in [
            (r#"{"messages":[{}],"sluice":1}"#, r#"{"messages":[{}]}"#),
            (r#"{"messages":[{}] , "sluice":1 }"#, r#"{"messages":[{}]  }"#),
            (r#"{"sluice":1,"messages":[{}]}"#, r#"{"messages":[{}]}"#),
            (r#"{"slu\u0069ce":{"a":[]}, "messages":[{}]}"#, r#"{"messages":[{}]}"#),
        ] {
            let envelope = chat(body);
            let mut splices = Splices::default();
            envelope.remove_steering(&mut splices);
            let result = splices.apply(envelope.text());
            assert_eq!(result.replace(' ', ""), sent.replace(' ', ""));
            assert!(serde_json::from_str::<serde_json::Value>(&result).is_ok(), "{result}");
        }
    }

    #[test]
    fn a_body_of_steering_alone_becomes_a_body_of_a_model_alone() {
        // Found by fuzzing: the model was to be inserted where the steering was to be removed.
        let envelope = Envelope::parse(Dialect::Other, b"{\"sluice\":\",\"\t}".to_vec()).unwrap();
        let mut splices = Splices::default();
        envelope.remove_steering(&mut splices);
        envelope.set_model("m", &mut splices);
        assert_eq!(splices.apply(envelope.text()), "{\"model\":\"m\"\t}");
    }

    #[test]
    fn an_owned_member_that_occurs_twice_is_refused() {
        let body = br#"{"model":"a","messages":[{}],"m\u006fdel":"b"}"#.to_vec();
        assert_eq!(Envelope::parse(Dialect::Chat, body).unwrap_err(), EnvelopeError::Duplicate("model"));
    }

    #[test]
    fn every_string_leaves_through_texts_and_unreadable_parts_are_named() {
        let body = r#"{"model":"m","user":"u","messages":[{"role":"user","content":[{"type":"text","text":"t"},{"type":"image_url","image_url":{"url":"data:x"}}]},{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]}"#;
        let envelope = chat(body);
        let texts = envelope.texts(&[]);
        let strings: Vec<_> = texts.spans.iter().map(|span| &body[span.range.clone()]).collect();
        assert_eq!(
            strings,
            [
                "user",
                "u",
                "messages",
                "role",
                "user",
                "content",
                "type",
                "text",
                "text",
                "t",
                "role",
                "assistant",
                "tool_calls",
                "function",
                "name",
                "f",
                "arguments",
                "{}"
            ]
        );
        assert_eq!(texts.spans.iter().filter(|span| span.nested).count(), 1);
        assert_eq!(texts.opaque, ["image_url"]);
        assert!(envelope.texts(&["image_url".to_owned()]).opaque.is_empty());
        let tokens = Envelope::parse(Dialect::Embeddings, br#"{"model":"m","input":[[1,2]]}"#.to_vec()).unwrap();
        assert_eq!(tokens.texts(&[]).opaque, ["tokens"]);
    }

    /// Any JSON value, written with the freedoms that JSON gives: white space, escapes, big numbers, repeated keys.
    fn any_json() -> impl Strategy<Value = String> {
        let space = "[ \n\t]{0,2}";
        let string = "\"([a-z<@. é漢🙂]|\\\\n|\\\\u00e9|\\\\\"|\\\\/|\\\\ud83d\\\\ude00){0,8}\"";
        let number = "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?";
        let leaf = prop_oneof![
            string.prop_map(|s| s),
            number.prop_map(|s| s),
            Just("true".to_owned()),
            Just("null".to_owned())
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            let spaced = (space, inner, space).prop_map(|(a, value, b)| format!("{a}{value}{b}"));
            prop_oneof![
                proptest::collection::vec(spaced.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
                proptest::collection::vec(("[a-c]{1,2}", spaced), 0..6).prop_map(|items| {
                    let members: Vec<_> = items.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn splicing_leaves_every_byte_that_sluice_does_not_own(before in any_json(), after in any_json(), element in any_json(), model in "\\PC{0,8}") {
            let mut written = String::new();
            crate::json::escape_into(&model, &mut written);
            let frame = |model: &str, steering: &str, inserted: &str| format!(
                "{{\"x\": {before},\"model\":{model}, {steering}\"messages\" :[ {{\"role\":\"assistant\",\"content\":\"\",\"e\":{element}}},{inserted}{{\"role\":\"user\",\"content\":\"q\"}} ],\"y\":{after}}}"
            );
            let envelope = chat(&frame("\"route\"", &format!("\"sluice\": {element} , "), ""));
            let mut splices = Splices::default();
            envelope.set_model(&model, &mut splices);
            envelope.remove_steering(&mut splices);
            envelope.add(&Additions { context: Some("c".to_owned()), ..Additions::default() }, &mut splices);
            let sent = splices.apply(envelope.text());
            prop_assert_eq!(&sent, &frame(&format!("\"{written}\""), "", "{\"role\":\"user\",\"content\":\"c\"},"));
            prop_assert_eq!(Splices::default().apply(envelope.text()), envelope.text());
        }

        #[test]
        fn no_input_makes_the_envelope_panic(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Envelope::parse(Dialect::Chat, body);
        }
    }
}
