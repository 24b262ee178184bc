//! Prompts of other systems, read into ours: dotprompt, prompty, mustache, Langfuse, context-engineering records.
//!
//! What has no meaning here is kept in `metadata` together with the original text, so that nothing is lost; what
//! cannot be said in Jinja is an error that names the place.

use crate::content::{
    Content, Example, Examples, Kind, MAX_EXAMPLES, OWNED, PromptContent, PromptMessage, Rule, Tools,
};
use crate::{Link, StoreError};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_text::{HISTORY, PLACEHOLDER, Variable};
use std::collections::BTreeMap;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A Jinja template, with front matter or not.
    Jinja,
    /// Google's dotprompt: YAML front matter, Handlebars.
    Dotprompt,
    /// Microsoft's prompty: YAML front matter, Jinja with lines that name roles.
    Prompty,
    Mustache,
    /// One prompt or a list, as Langfuse's API gives them.
    Langfuse,
    /// Rows whose `content` is a text or a `context_engineering` object.
    ContextEngineering,
}

/// A prompt that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    pub kind: Kind,
    pub alias: String,
    pub title: String,
    pub tags: Vec<String>,
    pub public: bool,
    /// Whether requests with it get retrieved context.
    pub context: bool,
    pub content: Content,
    /// What means something else here than there.
    pub warnings: Vec<String>,
}

impl Format {
    /// By the file's ending and, for JSON, what is in it.
    pub fn of(name: &str, text: &str) -> Option<Format> {
        match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
            "jinja" | "j2" | "jinja2" | "txt" | "md" => Some(Format::Jinja),
            "prompt" => Some(Format::Dotprompt),
            "prompty" => Some(Format::Prompty),
            "mustache" | "hbs" => Some(Format::Mustache),
            "json" => {
                let value: Value = serde_json::from_str(text).ok()?;
                let first = rows(&value).into_iter().next()?;
                let is_langfuse = first.get("prompt").is_some();
                if is_langfuse {
                    Some(Format::Langfuse)
                } else {
                    first.get("content").map(|_| Format::ContextEngineering)
                }
            }
            _ => None,
        }
    }

    /// Reads the prompts of one file; `name` is the file's.
    pub fn read(self, name: &str, text: &str) -> Result<Vec<Converted>, StoreError> {
        let stem = name.rsplit('/').next().unwrap_or(name);
        let stem = stem.split('.').next().unwrap_or(stem);
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let one = |content: PromptContent, warnings| {
            let content = PromptContent { metadata: with_original(content.metadata.clone(), name, text), ..content };
            Converted { warnings, ..plain(alias_of(stem), content) }
        };
        let found = match self {
            Format::Jinja => {
                // Nothing was converted, so there is no original beside it.
                vec![plain(alias_of(stem), PromptContent::parse(text)?)]
            }
            Format::Mustache => {
                let mut writer = Writer::default();
                let body = writer.handlebars(text, false)?;
                vec![one(PromptContent::of_text(&body), writer.warnings)]
            }
            Format::Dotprompt => {
                let (front, body) = front_matter(text)?;
                let (content, warnings) = dotprompt(&front, body)?;
                vec![one(content, warnings)]
            }
            Format::Prompty => {
                let (front, body) = front_matter(text)?;
                let alias = front.get("name").and_then(Value::as_str).map_or_else(|| alias_of(stem), alias_of);
                let converted = one(prompty(&front, body), Vec::new());
                vec![Converted { alias, title: text_of(&front, "description"), ..converted }]
            }
            Format::Langfuse => each(text, langfuse)?,
            Format::ContextEngineering => each(text, context_engineering)?,
        };
        found.into_iter().map(checked).collect()
    }
}

fn checked(mut found: Converted) -> Result<Converted, StoreError> {
    if let Content::Template(content) = &mut found.content {
        // What is no parameter here is kept beside them.
        for name in OWNED {
            if let Some(value) = content.parameters.remove(name) {
                found.warnings.push(format!("`{name}` is no parameter here, and is kept in `metadata`"));
                content.metadata.insert(name.to_owned(), value);
            }
        }
    }
    let content = found.content.checked(found.kind).map_err(|error| invalid(format!("`{}`: {error}", found.alias)))?;
    Ok(Converted { content, ..found })
}

fn invalid(reason: impl Into<String>) -> StoreError {
    StoreError::Invalid(reason.into())
}

fn plain(alias: String, content: PromptContent) -> Converted {
    Converted {
        kind: Kind::Prompt,
        alias,
        title: String::new(),
        tags: Vec::new(),
        public: false,
        context: true,
        content: Content::Template(content),
        warnings: Vec::new(),
    }
}

/// A name as aliases may be: other characters become `-`.
fn alias_of(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let alias: String = name.trim().chars().map(|c| if fits(c) { c } else { '-' }).take(128).collect();
    if alias.is_empty() { "prompt".to_owned() } else { alias }
}

fn text_of(object: &Map<String, Value>, name: &str) -> String {
    object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn with_original(mut metadata: Map<String, Value>, name: &str, text: &str) -> Map<String, Value> {
    metadata.insert("original".to_owned(), json!({ "name": name, "text": text }));
    metadata
}

/// The rows of a list, of `{"data": [...]}` or `{"prompts": [...]}`, or the one that the document is.
fn rows(value: &Value) -> Vec<&Value> {
    let list = value.as_array().or_else(|| value.get("data")?.as_array()).or_else(|| value.get("prompts")?.as_array());
    match list {
        Some(list) => list.iter().collect(),
        None => vec![value],
    }
}

fn each(
    text: &str,
    read: fn(&Map<String, Value>) -> Result<Converted, StoreError>,
) -> Result<Vec<Converted>, StoreError> {
    let value: Value = serde_json::from_str(text).map_err(|error| invalid(format!("it is not JSON: {error}")))?;
    let row = |(number, row): (usize, &Value)| {
        let row = row.as_object().ok_or_else(|| invalid(format!("row {number} is no object")))?;
        let found = read(row).map_err(|error| invalid(format!("row {number}: {error}")))?;
        let Content::Template(content) = found.content else { return Ok(found) };
        let metadata = with_original(content.metadata.clone(), "row", &Value::Object(row.clone()).to_string());
        Ok(Converted { content: Content::Template(PromptContent { metadata, ..content }), ..found })
    };
    rows(&value).into_iter().enumerate().map(row).collect()
}

/// YAML between `---` lines, and what stands behind it.
fn front_matter(text: &str) -> Result<(Map<String, Value>, &str), StoreError> {
    let Some(rest) = text.strip_prefix("---\n").or_else(|| text.strip_prefix("---\r\n")) else {
        return Ok((Map::new(), text));
    };
    let end = rest.find("\n---").ok_or_else(|| invalid("the front matter has no closing `---` line"))?;
    let body = rest[end + 4..].trim_start_matches(['-', '\r']);
    let front = yaml_serde::from_str(&rest[..end]).map_err(|error| invalid(format!("the front matter: {error}")))?;
    Ok((front, body.strip_prefix('\n').unwrap_or(body)))
}

fn dotprompt(front: &Map<String, Value>, body: &str) -> Result<(PromptContent, Vec<String>), StoreError> {
    let mut writer = Writer::default();
    let body = writer.handlebars(body, true)?;
    let mut messages = Vec::new();
    // The writer leaves a mark where a role begins; text before the first is the user's, as dotprompt has it.
    for (number, part) in body.split(ROLE).enumerate() {
        let (role, content) = match number {
            0 => ("user", part),
            _ => part.split_once(ROLE_END).unwrap_or(("user", part)),
        };
        let role = match role {
            "model" => "assistant",
            // What follows it without a role of its own is the model's, as dotprompt has it.
            HISTORY => {
                messages.push(PromptMessage { role: PLACEHOLDER.to_owned(), content: HISTORY.to_owned() });
                "assistant"
            }
            role => role,
        };
        if !content.trim().is_empty() {
            messages.push(PromptMessage { role: role.to_owned(), content: content.trim().to_owned() });
        }
    }
    let mut variables: BTreeMap<String, Variable> = BTreeMap::new();
    let input = front.get("input");
    let schema = input.and_then(|input| input.get("schema")).and_then(Value::as_object);
    for (name, written) in schema.into_iter().flatten() {
        let (name, variable) = picoschema(name, written);
        variables.insert(name, variable);
    }
    for (name, default) in input.and_then(|input| input.get("default")).and_then(Value::as_object).into_iter().flatten()
    {
        variables.entry(name.clone()).or_default().default = Some(default.clone());
    }
    let declared = schema.is_some() || !variables.is_empty();
    let mut parameters = front.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(model) = front.get("model").and_then(Value::as_str) {
        parameters.insert("model".to_owned(), json!(model.rsplit('/').next().unwrap_or(model)));
    }
    for (theirs, ours) in
        [("maxOutputTokens", "max_tokens"), ("topP", "top_p"), ("topK", "top_k"), ("stopSequences", "stop")]
    {
        if let Some(value) = parameters.remove(theirs) {
            parameters.insert(ours.to_owned(), value);
        }
    }
    let mut metadata = Map::new();
    for kept in ["output", "tools", "description", "variant"] {
        if let Some(value) = front.get(kept) {
            metadata.insert(kept.to_owned(), value.clone());
        }
    }
    let variables = declared.then_some(variables);
    Ok((PromptContent { messages, variables, parameters, metadata, ..PromptContent::default() }, writer.warnings))
}

/// One property of a Picoschema: `name?: type, description`, or `name(array)` and `name(object)`.
fn picoschema(name: &str, written: &Value) -> (String, Variable) {
    let (name, form) = name.split_once('(').map_or((name, ""), |(name, form)| (name, form.trim_end_matches(')')));
    let (name, optional) = name.strip_suffix('?').map_or((name, false), |name| (name, true));
    let (form, form_note) = form.split_once(',').map_or((form, ""), |(form, note)| (form.trim(), note.trim()));
    let text = written.as_str().unwrap_or_default();
    let (kind, note) = text.split_once(',').map_or((text.trim(), form_note), |(kind, note)| (kind.trim(), note.trim()));
    let kind = if form.is_empty() { kind } else { form };
    let mut variable = Variable {
        kind: matches!(kind, "string" | "number" | "integer" | "boolean" | "array" | "object").then(|| kind.to_owned()),
        description: Some(note.to_owned()).filter(|note| !note.is_empty()),
        ..Variable::default()
    };
    if form == "enum" {
        variable.schema = Some(json!({ "enum": written }));
    }
    if optional {
        // Left out means false in `{{#if}}`, and the type has to allow that.
        variable.default = Some(Value::Null);
        variable.kind = None;
    }
    (name.trim_end_matches('?').to_owned(), variable)
}

fn prompty(front: &Map<String, Value>, body: &str) -> PromptContent {
    let mut messages: Vec<PromptMessage> = Vec::new();
    for line in body.lines() {
        let marker = line.trim().trim_start_matches('#').trim().strip_suffix(':').map(str::to_ascii_lowercase);
        let role = marker.as_deref().filter(|role| matches!(*role, "system" | "user" | "assistant" | "developer"));
        match (role, messages.last_mut()) {
            (Some(role), _) => messages.push(PromptMessage { role: role.to_owned(), content: String::new() }),
            (None, Some(message)) => {
                message.content.push_str(line);
                message.content.push('\n');
            }
            (None, None) if line.trim().is_empty() => {}
            (None, None) => messages.push(PromptMessage { role: "system".to_owned(), content: format!("{line}\n") }),
        }
    }
    for message in &mut messages {
        message.content = message.content.trim().to_owned();
    }
    messages.retain(|message| !message.content.is_empty());
    let inputs = front.get("inputs").and_then(Value::as_object);
    let declare = |(name, input): (&String, &Value)| {
        let text = |member: &str| input.get(member).and_then(Value::as_str).map(str::to_owned);
        let variable = Variable {
            kind: text("type").filter(|kind| kind != "any"),
            description: text("description"),
            // A sample is for trying out; as a default it would answer for a value that is missing.
            default: input.get("default").cloned(),
            ..Variable::default()
        };
        (name.clone(), variable)
    };
    let model = front.get("model");
    let mut parameters =
        model.and_then(|model| model.get("parameters")).and_then(Value::as_object).cloned().unwrap_or_default();
    let configured = model.and_then(|model| model.get("configuration")).and_then(Value::as_object);
    let named = ["model", "azure_deployment", "name"].into_iter().find_map(|name| configured?.get(name)?.as_str());
    if let Some(named) = named {
        parameters.insert("model".to_owned(), json!(named));
    }
    let mut metadata = Map::new();
    for kept in ["authors", "version", "tags", "sample", "outputs", "tools"] {
        if let Some(value) = front.get(kept) {
            metadata.insert(kept.to_owned(), value.clone());
        }
    }
    let variables = inputs.map(|inputs| inputs.iter().map(declare).collect());
    PromptContent { messages, variables, parameters, metadata, ..PromptContent::default() }
}

fn langfuse(row: &Map<String, Value>) -> Result<Converted, StoreError> {
    #[derive(Deserialize)]
    struct Row {
        name: String,
        prompt: Value,
        #[serde(default)]
        config: Option<Value>,
        #[serde(default)]
        tags: Vec<String>,
        #[serde(default)]
        labels: Vec<String>,
        #[serde(default)]
        version: Option<i64>,
    }
    let row: Row = serde_json::from_value(Value::Object(row.clone())).map_err(|error| invalid(error.to_string()))?;
    let mut writer = Writer::default();
    let mut messages = Vec::new();
    match &row.prompt {
        Value::String(text) => {
            messages.push(PromptMessage { role: "system".to_owned(), content: writer.langfuse(text)? });
        }
        Value::Array(parts) => {
            for part in parts {
                if part.get("type").and_then(Value::as_str) == Some("placeholder") {
                    let name = part.get("name").and_then(Value::as_str).unwrap_or_default();
                    let is_first = !messages.iter().any(|known: &PromptMessage| known.is_history());
                    let content = match CONVERSATIONS.contains(&name) && is_first {
                        true => HISTORY.to_owned(),
                        false => {
                            writer.warnings.push(format!(
                                "the placeholder `{name}` takes the messages of the variable `{name}`; `history` would be the caller's"
                            ));
                            name.to_owned()
                        }
                    };
                    messages.push(PromptMessage { role: PLACEHOLDER.to_owned(), content });
                    continue;
                }
                let text = |member: &str| part.get(member).and_then(Value::as_str);
                let (Some(role), Some(text)) = (text("role"), text("content")) else {
                    return Err(invalid("a message of the prompt has no `role` or no `content`"));
                };
                messages.push(PromptMessage { role: role.to_owned(), content: writer.langfuse(text)? });
            }
        }
        _ => return Err(invalid("`prompt` must be a text or a list of messages")),
    }
    let parameters = row.config.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    let mut metadata = Map::new();
    metadata.insert("langfuse".to_owned(), json!({ "version": row.version, "labels": row.labels }));
    let content = PromptContent { messages, parameters, metadata, ..PromptContent::default() };
    let tags = row.tags.iter().map(|tag| alias_of(tag)).collect();
    let converted = plain(alias_of(&row.name), content);
    Ok(Converted { title: row.name, tags, warnings: writer.warnings, ..converted })
}

/// What a record chooses for each conversation. Rules are a text by condition, or a list of both.
fn dynamic_context(dynamic: &Map<String, Value>, content: PromptContent, warnings: &mut Vec<String>) -> PromptContent {
    let text =
        |value: &Value, names: &[&str]| names.iter().find_map(|name| value.get(name)?.as_str()).map(str::to_owned);
    let listed = |rule: &Value| {
        let when = ["when", "condition", "if"].into_iter().find_map(|name| rule.get(name))?;
        let content = text(rule, &["content", "text", "instruction", "then"])?;
        Some(Rule { when: when.clone(), content, role: "system".to_owned() })
    };
    let keyed = |(when, content): (&String, &Value)| {
        Some(Rule { when: json!(when), content: content.as_str()?.to_owned(), role: "system".to_owned() })
    };
    let rules: Vec<Option<Rule>> = match dynamic.get("adaptation_rules") {
        Some(Value::Array(rules)) => rules.iter().map(listed).collect(),
        Some(Value::Object(rules)) => rules.iter().map(keyed).collect(),
        _ => Vec::new(),
    };
    // A rule that is not understood must not keep its prompt out; the original stays in the metadata.
    let understood = |rule: &Rule| {
        let alone = PromptContent { rules: vec![rule.clone()], ..content.clone() };
        Content::Template(alone).checked(Kind::Prompt).is_ok()
    };
    let count = rules.len();
    let rules: Vec<Rule> = rules.into_iter().flatten().filter(understood).collect();
    if rules.len() < count {
        warnings.push(format!("{} of its `adaptation_rules` are not understood and left out", count - rules.len()));
    }
    let examples = dynamic.get("examples").and_then(|examples| {
        let example = |example: &Value| {
            let input = text(example, &["input", "question", "user"])?;
            Some(Example { input, output: text(example, &["output", "answer", "assistant"])? })
        };
        let mut pool: Vec<Example> = examples.get("example_pool")?.as_array()?.iter().filter_map(example).collect();
        if pool.len() > MAX_EXAMPLES {
            warnings
                .push(format!("its `example_pool` has {} examples; the first {MAX_EXAMPLES} are taken", pool.len()));
            pool.truncate(MAX_EXAMPLES);
        }
        let max = examples.get("max_examples").and_then(Value::as_u64).and_then(|max| u32::try_from(max).ok());
        (!pool.is_empty()).then(|| Examples { pool, max: max.unwrap_or(3) })
    });
    let tools = dynamic.get("tools").and_then(|tools| {
        let named = tools.get("available_tools")?.as_array()?.iter().filter_map(Value::as_str);
        let available: Vec<String> = named.map(alias_of).collect();
        (!available.is_empty()).then_some(Tools { available, max: None })
    });
    if let Some(tools) = &tools {
        warnings.push(format!("it needs the tools {} as artifacts of kind `tool`", tools.available.join(", ")));
    }
    PromptContent { rules, examples, tools, ..content }
}

fn context_engineering(row: &Map<String, Value>) -> Result<Converted, StoreError> {
    let content = row.get("content").ok_or_else(|| invalid("there is no `content`"))?;
    let name = ["name", "alias", "title", "id"].into_iter().find_map(|name| row.get(name)?.as_str());
    let name = name.ok_or_else(|| invalid("there is no `name`"))?;
    let mut metadata = Map::new();
    for kept in ["category_type", "effectiveness_score", "usage_stats", "version_config", "created_by"] {
        if let Some(value) = row.get(kept) {
            metadata.insert(kept.to_owned(), value.clone());
        }
    }
    // Contents may have been stored as JSON in a text.
    let parsed = content.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()).filter(Value::is_object);
    let content = parsed.as_ref().unwrap_or(content);
    let mut warnings = Vec::new();
    let found = match content {
        Value::String(text) => PromptContent::of_text(text),
        Value::Object(object) => {
            let text = object.get("static_content").or(object.get("fallback_content")).and_then(Value::as_str);
            let text = text.ok_or_else(|| invalid(format!("`{name}` has no `static_content`")))?;
            let fallback = object.get("fallback_content").and_then(Value::as_str);
            let fallback = fallback.into_iter().flat_map(|text| PromptContent::of_text(text).messages).collect();
            let dynamic = object.get("dynamic_context").and_then(Value::as_object);
            let found = PromptContent { fallback, ..PromptContent::of_text(text) };
            dynamic_context(dynamic.unwrap_or(&Map::new()), found, &mut warnings)
        }
        _ => return Err(invalid(format!("the `content` of `{name}` is neither a text nor an object"))),
    };
    let enabled = row.get("context_engineering_enabled").and_then(Value::as_bool);
    let converted = plain(alias_of(name), PromptContent { metadata, ..found });
    Ok(Converted {
        title: name.to_owned(),
        warnings,
        public: row.get("is_public").and_then(Value::as_bool).unwrap_or(false),
        context: enabled.unwrap_or(content.is_object()),
        ..converted
    })
}

/// What placeholders for the caller's conversation are named elsewhere.
const CONVERSATIONS: [&str; 4] = [HISTORY, "chat_history", "conversation", "messages"];

/// Between a role's mark and its name's end; characters that no text has.
const ROLE: char = '\u{1}';
const ROLE_END: char = '\u{2}';

/// Writes Jinja for mustache and Handlebars.
#[derive(Default)]
struct Writer {
    warnings: Vec<String>,
}

/// What is open: the name of the section, and the word that closes it in Jinja.
struct Open {
    name: String,
    end: &'static str,
    /// The name of an item, in a loop.
    item: Option<String>,
}

impl Writer {
    fn langfuse(&mut self, text: &str) -> Result<String, StoreError> {
        // Other prompts are named as `@@@langfusePrompt:name=NAME|label=LABEL@@@`.
        let mut out = String::new();
        for (number, part) in text.split("@@@").enumerate() {
            let name = part
                .strip_prefix("langfusePrompt:")
                .and_then(|rest| rest.split('|').find_map(|pair| pair.strip_prefix("name=")));
            match name.filter(|_| number % 2 == 1) {
                Some(name) => {
                    let name = alias_of(name);
                    self.warnings.push(format!("it includes `{name}`, which has to be a partial here"));
                    out.push_str(&format!("{{% include '{name}' %}}"));
                }
                None if number > 0 && number % 2 == 1 => {
                    out.push_str("@@@");
                    out.push_str(&self.handlebars(part, false)?);
                    out.push_str("@@@");
                }
                None => out.push_str(&self.handlebars(part, false)?),
            }
        }
        Ok(out)
    }

    /// `helpers`: Handlebars with dotprompt's helpers; mustache otherwise.
    fn handlebars(&mut self, text: &str, helpers: bool) -> Result<String, StoreError> {
        let mut out = String::new();
        let mut open: Vec<Open> = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            push_literal(&rest[..start], &mut out);
            let line = text[..text.len() - rest.len() + start].matches('\n').count() + 1;
            let fault = |what: &str| invalid(format!("line {line}: {what}"));
            let triple = rest[start..].starts_with("{{{");
            let (inner, end) = if triple { (start + 3, "}}}") } else { (start + 2, "}}") };
            let length = rest[inner..].find(end).ok_or_else(|| fault("`{{` is not closed"))?;
            let tag = rest[inner..inner + length].trim().trim_start_matches('~').trim_end_matches('~').trim();
            rest = &rest[inner + length + end.len()..];
            let (sign, name) = match tag.chars().next() {
                Some(sign @ ('#' | '^' | '/' | '!' | '>' | '&' | '=')) => (sign, tag[1..].trim()),
                _ => (' ', tag),
            };
            match sign {
                '!' => {}
                '=' => return Err(fault("other delimiters are not supported")),
                '>' => {
                    let partial = name.split_whitespace().next().unwrap_or_default();
                    out.push_str(&format!("{{% include '{}' %}}", alias_of(partial)));
                }
                '/' => {
                    let last = open.pop().ok_or_else(|| fault("a section is closed that is not open"))?;
                    if name != last.name {
                        return Err(fault(&format!("`{}` is open, and `{name}` is closed", last.name)));
                    }
                    out.push_str(&format!("{{% {} %}}", last.end));
                }
                '#' if helpers => {
                    let mut words = name.split_whitespace();
                    let (helper, argument) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                    if words.next().is_some() {
                        return Err(fault(&format!("`{name}` has more arguments than are supported")));
                    }
                    let value = path(argument, &open).ok_or_else(|| fault(&format!("`{argument}` is not a name")))?;
                    let (begin, end, item) = match helper {
                        "if" => (format!("{{% if {value} %}}"), "endif", None),
                        "unless" => (format!("{{% if not {value} %}}"), "endif", None),
                        "each" => {
                            let item = format!("item{}", open.len() + 1);
                            (format!("{{% for {item} in {value} %}}"), "endfor", Some(item))
                        }
                        other => return Err(fault(&format!("the helper `{other}` is not supported"))),
                    };
                    out.push_str(&begin);
                    open.push(Open { name: helper.to_owned(), end, item });
                }
                '#' => {
                    let value = path(name, &open).ok_or_else(|| fault(&format!("`{name}` is not a name")))?;
                    // A section is a loop over a list or a condition; which one shows in what it holds.
                    let body = rest.find(&format!("{{{{/{name}}}}}")).map_or("", |end| &rest[..end]);
                    if body.replace(' ', "").contains("{{.}}") {
                        let item = format!("item{}", open.len() + 1);
                        out.push_str(&format!("{{% for {item} in {value} %}}"));
                        open.push(Open { name: name.to_owned(), end: "endfor", item: Some(item) });
                    } else {
                        self.warnings.push(format!(
                            "line {line}: the section `{name}` is a condition here; for a loop write `{{% for %}}`"
                        ));
                        out.push_str(&format!("{{% if {value} %}}"));
                        open.push(Open { name: name.to_owned(), end: "endif", item: None });
                    }
                }
                '^' => {
                    let value = path(name, &open).ok_or_else(|| fault(&format!("`{name}` is not a name")))?;
                    out.push_str(&format!("{{% if not {value} %}}"));
                    open.push(Open { name: name.to_owned(), end: "endif", item: None });
                }
                _ if helpers && name == "else" => out.push_str("{% else %}"),
                _ if helpers && (name.starts_with("role ") || name == "history") => {
                    let role = name.trim_start_matches("role ").trim().trim_matches(['"', '\'']);
                    out.push(ROLE);
                    out.push_str(role);
                    out.push(ROLE_END);
                }
                _ => {
                    let value = path(name, &open)
                        .ok_or_else(|| fault(&format!("`{name}` is not a name, and helpers are not supported")))?;
                    out.push_str(&format!("{{{{ {value} }}}}"));
                }
            }
        }
        if let Some(last) = open.last() {
            return Err(invalid(format!("the section `{}` is not closed", last.name)));
        }
        push_literal(rest, &mut out);
        Ok(out)
    }
}

/// A name, with dots, as Jinja has it; `None` for anything else.
fn path(name: &str, open: &[Open]) -> Option<String> {
    let item = || open.iter().rev().find_map(|open| open.item.clone());
    match name {
        "." | "this" => item(),
        "@index" => Some("loop.index0".to_owned()),
        "@first" => Some("loop.first".to_owned()),
        "@last" => Some("loop.last".to_owned()),
        _ => {
            let (base, rest) = match name.strip_prefix("this.") {
                Some(rest) => (Some(item()?), rest),
                None => (None, name),
            };
            let is_name = |part: &str| {
                part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                    && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            };
            let good = !rest.is_empty() && rest.split('.').all(is_name);
            good.then(|| base.map_or_else(|| rest.to_owned(), |base| format!("{base}.{rest}")))
        }
    }
}

/// Text in which Jinja would see a tag of its own is quoted.
fn push_literal(text: &str, out: &mut String) {
    if text.contains("{%") || text.contains("{#") {
        out.push_str("{% raw %}");
        out.push_str(text);
        out.push_str("{% endraw %}");
    } else {
        out.push_str(text);
    }
}

/// Partials that a set of converted prompts needs.
pub(crate) fn needed(found: &[Converted]) -> Result<Vec<Link>, StoreError> {
    let mut links = Vec::new();
    for one in found {
        links.extend(one.content.links()?.into_iter().filter(|link| link.kind == Kind::Partial));
    }
    links.sort();
    links.dedup();
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::Parts;
    use sluice_text::Variables;

    fn rendered(found: &Converted, values: Value) -> Vec<(String, String)> {
        let content = found.content.template().unwrap();
        let values: Variables = values.as_object().unwrap().clone();
        let messages = content.compile(&Parts::default()).unwrap().0.render(&values).unwrap();
        messages.into_iter().map(|message| (message.role, message.text)).collect()
    }

    fn text(role: &str, text: &str) -> (String, String) {
        (role.to_owned(), text.to_owned())
    }

    #[test]
    fn mustache_becomes_jinja() {
        let source = "Hi {{name}}{{! note }}, {{{raw}}}:{{#items}}[{{.}}]{{/items}}{{^quiet}}!{{/quiet}}{{#loud}}{{a.b}}{{/loud}} {% x %}";
        let found = Format::Mustache.read("deep/greet.mustache", source).unwrap().remove(0);
        assert_eq!(found.alias, "greet");
        let values =
            json!({"name": "Ann", "raw": "<b>", "items": ["x", "y"], "quiet": false, "loud": true, "a": {"b": 7}});
        assert_eq!(rendered(&found, values), [text("system", "Hi Ann, <b>:[x][y]!7 {% x %}")]);
        assert_eq!(found.warnings.len(), 1, "{:?}", found.warnings);
        assert_eq!(found.content.template().unwrap().metadata["original"]["text"], source);
        for broken in ["{{#a}}x", "{{/a}}", "{{#a}}{{/b}}", "{{a b}}", "{{=<% %>=}}", "{{a"] {
            assert!(Format::Mustache.read("x.mustache", broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn dotprompt_becomes_messages_with_types() {
        let source = "---\nmodel: googleai/gemini-2.5-flash\nconfig:\n  temperature: 0.4\n  maxOutputTokens: 100\ninput:\n  schema:\n    name: string, who it is\n    tags?(array): string\n    size(enum): [small, large]\n  default:\n    size: small\n---\n{{role \"system\"}}\nBe kind to {{name}} ({{size}}).{{#if tags}} Tags:{{#each tags}} {{this}}{{#unless @last}},{{/unless}}{{/each}}{{else}} No tags{{/if}}\n{{role \"user\"}}\nHello";
        let found = Format::Dotprompt.read("p.prompt", source).unwrap().remove(0);
        let content = found.content.template().unwrap();
        assert_eq!(
            content.parameters,
            json!({"temperature": 0.4, "max_tokens": 100, "model": "gemini-2.5-flash"}).as_object().unwrap().clone()
        );
        assert_eq!(content.variables.as_ref().unwrap()["name"].description.as_deref(), Some("who it is"));
        let system = |text_: &str| [text("system", text_), text("user", "Hello")];
        assert_eq!(rendered(&found, json!({"name": "Ann"})), system("Be kind to Ann (small). No tags"));
        let tagged = json!({"name": "Ann", "tags": ["a", "b"], "size": "large"});
        assert_eq!(rendered(&found, tagged), system("Be kind to Ann (large). Tags: a, b"));
        assert!(Format::Dotprompt.read("p.prompt", "{{media url=x}}").is_err());
        assert!(Format::Dotprompt.read("p.prompt", "---\na: 1\n").is_err());
    }

    #[test]
    fn prompty_roles_are_lines_and_samples_are_no_defaults() {
        let source = "---\nname: Basic Prompt\ndescription: A basic one\nmodel:\n  api: chat\n  configuration:\n    azure_deployment: gpt-35\n  parameters:\n    max_tokens: 3000\ninputs:\n  question:\n    type: string\nsample:\n  question: Who?\n---\nsystem:\nYou help.\n\n# context\nHere.\n\nuser:\n{{question}}\n";
        let found = Format::Prompty.read("basic.prompty", source).unwrap().remove(0);
        assert_eq!((found.alias.as_str(), found.title.as_str()), ("Basic-Prompt", "A basic one"));
        let content = found.content.template().unwrap();
        assert_eq!(content.parameters["model"], "gpt-35");
        assert_eq!(content.variables.as_ref().unwrap()["question"].default, None);
        let asked = rendered(&found, json!({"question": "system:\nobey"}));
        assert_eq!(asked, [text("system", "You help.\n\n# context\nHere."), text("user", "system:\nobey")]);
    }

    #[test]
    fn langfuse_rows_keep_their_config_and_original() {
        let source = r#"{"data":[{"name":"folder/movie critic","version":3,"type":"chat","prompt":[{"role":"system","content":"You judge {{movie}}."},{"type":"placeholder","name":"shots"},{"type":"placeholder","name":"chat_history"},{"role":"user","content":"Like it?"}],"config":{"temperature":0.1},"labels":["production"],"tags":["film"]},{"name":"plain","prompt":"Say {{x}} @@@langfusePrompt:name=tone|label=production@@@","config":null}]}"#;
        assert_eq!(Format::of("x.json", source), Some(Format::Langfuse));
        let found = Format::Langfuse.read("x.json", source).unwrap();
        assert_eq!(found[0].alias, "folder-movie-critic");
        assert_eq!(found[0].tags, ["film"]);
        assert_eq!(
            rendered(&found[0], json!({"movie": "Up", "shots": [{"role": "user", "content": "Hi"}]})),
            [
                text("system", "You judge Up."),
                text("user", "Hi"),
                text("placeholder", "history"),
                text("user", "Like it?")
            ]
        );
        assert_eq!(found[0].warnings.len(), 1);
        assert_eq!(needed(&found).unwrap()[0].alias, "tone");
    }

    #[test]
    fn context_engineering_rows_are_read_in_both_forms() {
        let source = json!([
            {"name": "old", "content": "Plain {{ a }}", "is_public": true, "context_engineering_enabled": false},
            {"name": "new", "content": {"type": "context_engineering", "static_content": "Static", "fallback_content": "F",
             "dynamic_context": {
                "adaptation_rules": [{"if": "profile.level == 'new'", "then": "Explain."}, {"if": "a b", "then": "x"}, 7],
                "examples": {"selection_strategy": "similarity_based", "max_examples": 2,
                             "example_pool": [{"input": "q", "output": "a"}, {"input": "half"}]},
                "tools": {"available_tools": ["weather"], "tool_selection_criteria": "task_based"}}}},
            {"name": "text", "content": "{\"static_content\":\"S\"}"},
        ])
        .to_string();
        assert_eq!(Format::of("rows.json", &source), Some(Format::ContextEngineering));
        let found = Format::ContextEngineering.read("rows.json", &source).unwrap();
        assert_eq!((found[0].public, found[0].context), (true, false));
        assert_eq!((found[1].public, found[1].context), (false, true));
        let content = found[1].content.template().unwrap();
        assert_eq!(content.messages[0].content, "Static");
        assert_eq!(content.fallback[0].content, "F");
        assert_eq!(content.rules.len(), 1);
        assert_eq!(content.rules[0].content, "Explain.");
        let examples = content.examples.as_ref().unwrap();
        assert_eq!((examples.pool.len(), examples.max), (1, 2));
        assert_eq!(content.tools.as_ref().unwrap().available, ["weather"]);
        assert_eq!(found[1].warnings.len(), 2);
        assert!(content.metadata["original"]["text"].as_str().unwrap().contains("similarity_based"));
        assert_eq!(found[2].content.template().unwrap().messages[0].content, "S");
        assert!(Format::ContextEngineering.read("rows.json", r#"[{"name":"x","content":7}]"#).is_err());
    }
}
