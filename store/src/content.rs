//! What a version holds: a prompt's messages, variables and parameters, or the data of another kind of artifact.
//!
//! Bodies are stored as canonical JSON (members in a fixed order), so that equal contents have equal hashes.

use crate::database::Work;
use crate::resolve::Parts;
use crate::{StoreError, check_name};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sluice_index::When;
use sluice_text::{HISTORY, PLACEHOLDER, Partials, Template, Variable, includes};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// Largest body of a version, in bytes.
const MAX_BODY: usize = 1 << 20;
/// Most rules, examples and tools of a prompt.
const MAX_RULES: usize = 64;
pub(crate) const MAX_EXAMPLES: usize = 256;
const MAX_TOOLS: usize = 128;

/// Members of requests that are no parameters: what is asked, and how the answer travels.
pub(crate) const OWNED: [&str; 10] = [
    "messages",
    "input",
    "prompt",
    "contents",
    "system",
    "instructions",
    "systemInstruction",
    "stream",
    "stream_options",
    "sluice",
];

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Messages that are rendered and sent.
    Prompt,
    /// A template that others include.
    Partial,
    /// A prompt with a character; its metadata is opaque.
    Persona,
    Agent,
    /// How context is put together.
    Policy,
    /// A descriptor of a tool, with a JSON Schema of its parameters.
    Tool,
    /// Steps over prompts, as data.
    Flow,
}

impl Kind {
    pub const ALL: [Kind; 7] =
        [Kind::Prompt, Kind::Partial, Kind::Persona, Kind::Agent, Kind::Policy, Kind::Tool, Kind::Flow];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Prompt => "prompt",
            Kind::Partial => "partial",
            Kind::Persona => "persona",
            Kind::Agent => "agent",
            Kind::Policy => "policy",
            Kind::Tool => "tool",
            Kind::Flow => "flow",
        }
    }

    /// Whether its versions are templates.
    pub const fn is_template(self) -> bool {
        matches!(self, Kind::Prompt | Kind::Partial | Kind::Persona)
    }
}

impl FromStr for Kind {
    type Err = StoreError;

    fn from_str(name: &str) -> Result<Kind, StoreError> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let known = Kind::ALL.map(Kind::name).join(", ");
            StoreError::Invalid(format!("there is no kind `{name}`; it may be one of {known}"))
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// One message of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptMessage {
    /// `system`, `developer`, `user` or `assistant`; `placeholder` where other messages are to stand.
    pub role: String,
    /// A Jinja template; of a placeholder the name of the variable that holds the messages (an array of `role`, user or
    /// assistant, and `content`), or `history` for the caller's own conversation, behind which the rest is sent.
    pub content: String,
}

impl PromptMessage {
    /// Whether it stands for the caller's own conversation.
    pub(crate) fn is_history(&self) -> bool {
        self.role == PLACEHOLDER && self.content.trim() == HISTORY
    }
}

/// Text that a prompt gets for some users.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// An expression over the variables and `profile`, as templates write it, or a filter on the profile's members.
    #[schema(value_type = Object)]
    pub when: Value,
    /// A Jinja template: one more message behind the prompt's own.
    pub content: String,
    #[serde(default = "system", skip_serializing_if = "is_system")]
    pub role: String,
}

fn system() -> String {
    "system".to_owned()
}

fn is_system(role: &str) -> bool {
    role == "system"
}

/// A question and how it was answered well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Example {
    pub input: String,
    pub output: String,
}

/// Examples of which a conversation gets those that are most like its first question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Examples {
    pub pool: Vec<Example>,
    /// Most examples of one request.
    #[serde(default = "three")]
    pub max: u32,
}

fn three() -> u32 {
    3
}

/// Tools of which a conversation gets those that fit its first question best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// Aliases of artifacts of kind `tool`, with a selector where it is not the deployed version: `search@>=2`.
    pub available: Vec<String>,
    /// Most tools of one request; all that are available if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// A prompt's content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptContent {
    pub messages: Vec<PromptMessage>,
    /// Plain texts that are sent instead where the prompt cannot be rendered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<PromptMessage>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<Examples>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Tools>,
    /// Declared variables. Left out, those that the templates use, all of them required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Object>>)]
    pub variables: Option<BTreeMap<String, Variable>>,
    /// Members of the request that are used where the caller gives none: `temperature`, `max_tokens`, …
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    /// What other systems stored beside it; kept, and not used.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// What a version holds.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    Template(PromptContent),
    Data(Map<String, Value>),
}

/// Another artifact that a version names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub kind: Kind,
    pub alias: String,
    /// Which version: empty for what is deployed in the same environment, `3`, `>=2`, `2-4`, or `latest`.
    #[serde(default)]
    pub selector: String,
}

/// Which version of an artifact a link means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Selector {
    /// What is deployed in the environment that is published.
    Deployed,
    /// The newest within these, both included, that is not deprecated.
    Range(i64, i64),
}

impl FromStr for Selector {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Selector, StoreError> {
        let number = |digits: &str| {
            digits.trim().parse::<i64>().ok().filter(|number| *number > 0).ok_or_else(|| {
                StoreError::Invalid(format!(
                    "`@{text}` selects no version; write `@3`, `@>=2`, `@2-4`, `@latest`, or nothing for the deployed one"
                ))
            })
        };
        if text.is_empty() {
            return Ok(Selector::Deployed);
        }
        if text == "latest" {
            return Ok(Selector::Range(1, i64::MAX));
        }
        if let Some(from) = text.strip_prefix(">=") {
            return Ok(Selector::Range(number(from)?, i64::MAX));
        }
        match text.split_once('-') {
            Some((from, to)) => Ok(Selector::Range(number(from)?, number(to)?)),
            None => number(text).map(|exact| Selector::Range(exact, exact)),
        }
    }
}

/// What a prompt names: alias and selector, joined by `@`.
pub(crate) fn link(kind: Kind, name: &str) -> Result<Link, StoreError> {
    let (alias, selector) = name.split_once('@').unwrap_or((name, ""));
    check_name(kind.name(), alias)?;
    Selector::from_str(selector)?;
    Ok(Link { kind, alias: alias.to_owned(), selector: selector.to_owned() })
}

impl PromptContent {
    /// A prompt of one system message.
    pub fn of_text(text: &str) -> PromptContent {
        let message = PromptMessage { role: "system".to_owned(), content: text.to_owned() };
        PromptContent { messages: vec![message], ..PromptContent::default() }
    }

    /// Reads a Jinja template with optional TOML front matter between `+++` lines (`variables`, `parameters`,
    /// `role`), or the JSON form of a prompt.
    pub fn parse(text: &str) -> Result<PromptContent, StoreError> {
        let invalid = |reason: String| StoreError::Invalid(reason);
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let is_json = || serde_json::from_str::<Map<String, Value>>(text).is_ok_and(|map| map.contains_key("messages"));
        let begins = |text: &str| text.trim_start_matches('{').trim_start().starts_with("\"messages\"");
        if text.starts_with('{') && (begins(text) || is_json()) {
            return serde_json::from_str(text).map_err(|error| invalid(format!("the prompt is not valid: {error}")));
        }
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct FrontMatter {
            variables: Option<BTreeMap<String, Variable>>,
            #[serde(default)]
            parameters: Map<String, Value>,
            role: Option<String>,
            fallback: Option<String>,
            #[serde(default)]
            rules: Vec<Rule>,
            examples: Option<Examples>,
            tools: Option<Tools>,
        }
        let (front, template) = match text.strip_prefix("+++\n") {
            None => (FrontMatter::default(), text),
            Some(rest) => {
                let (front, template) = rest
                    .split_once("\n+++\n")
                    .ok_or_else(|| invalid("the front matter has no closing `+++` line".to_owned()))?;
                let mut front: FrontMatter =
                    toml::from_str(front).map_err(|error| invalid(format!("the front matter: {error}")))?;
                // With front matter the variables are those that it declares, be it none.
                front.variables.get_or_insert_default();
                (front, template)
            }
        };
        let role = front.role.unwrap_or_else(system);
        let message = |content: &str| PromptMessage { role: role.clone(), content: content.trim_end().to_owned() };
        Ok(PromptContent {
            messages: vec![message(template)],
            fallback: front.fallback.iter().map(|text| message(text)).collect(),
            rules: front.rules,
            examples: front.examples,
            tools: front.tools,
            variables: front.variables,
            parameters: front.parameters,
            metadata: Map::new(),
        })
    }

    /// What decides beside its messages what is sent, as one JSON object: the parts that it has.
    pub fn behavior(&self) -> Value {
        let mut parts = Map::new();
        let mut add = |name: &str, part: Value| parts.insert(name.to_owned(), part);
        if !self.fallback.is_empty() {
            add("fallback", json!(self.fallback));
        }
        if !self.rules.is_empty() {
            add("rules", json!(self.rules));
        }
        if let Some(examples) = &self.examples {
            add("examples", json!(examples));
        }
        if let Some(tools) = &self.tools {
            add("tools", json!(tools));
        }
        Value::Object(parts)
    }

    /// Role and template of its messages, then of its rules.
    fn pairs(&self) -> Vec<(String, String)> {
        let messages = self.messages.iter().map(|message| (message.role.clone(), message.content.clone()));
        messages.chain(self.rules.iter().map(|rule| (rule.role.clone(), rule.content.clone()))).collect()
    }

    /// Compiles it with what it includes; the template renders its messages, then the texts of its rules.
    pub(crate) fn compile(&self, parts: &Parts) -> Result<(Template, Vec<When>), StoreError> {
        let template = Template::compile(&self.pairs(), &parts.partials, self.declared(parts))
            .map_err(|error| StoreError::Invalid(error.to_string()))?;
        let rules = self.rules.iter().enumerate().map(|(number, rule)| {
            When::parse(&rule.when, template.variables())
                .map_err(|reason| StoreError::Invalid(format!("`rules[{number}].when`: {reason}")))
        });
        let rules = rules.collect::<Result<_, _>>()?;
        Ok((template, rules))
    }

    /// Whether a variable has that setting as its default.
    pub(crate) fn follows(&self, setting: &str) -> bool {
        self.variables.iter().flatten().any(|(_, variable)| variable.setting.as_deref() == Some(setting))
    }

    /// The declared variables; what settings say stands in them as defaults.
    pub(crate) fn declared(&self, parts: &Parts) -> Option<BTreeMap<String, Variable>> {
        let mut declared = self.variables.clone()?;
        for variable in declared.values_mut() {
            if let Some(value) = variable.setting.as_ref().and_then(|name| parts.settings.get(name)) {
                *variable = Variable { default: Some(value.clone()), setting: None, ..std::mem::take(variable) };
            }
        }
        Some(declared)
    }

    /// The names of the templates that it includes, as written.
    pub(crate) fn includes(&self) -> Result<Vec<String>, StoreError> {
        let mut names = BTreeSet::new();
        for (_, template) in self.pairs() {
            names.extend(includes(&template).map_err(|error| StoreError::Invalid(error.to_string()))?);
        }
        Ok(names.into_iter().collect())
    }

    /// Bounds of what stands beside the messages.
    fn check_parts(&self) -> Result<(), String> {
        const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", PLACEHOLDER];
        let check = |what: &str, role: &str, roles: &[&str]| match roles.contains(&role) {
            true => Ok(()),
            false => Err(format!("{what}'s role is `{role}`; it may be {}", roles.join(", "))),
        };
        let plain = &ROLES[..4];
        self.messages.iter().try_for_each(|message| check("a message", &message.role, &ROLES))?;
        self.fallback.iter().try_for_each(|message| check("a message of `fallback`", &message.role, plain))?;
        self.rules.iter().try_for_each(|rule| check("a rule", &rule.role, plain))?;
        let bounded = |name: &str, found: usize, most: usize| match found <= most {
            true => Ok(()),
            false => Err(format!("`{name}` has {found} entries; it may have {most}")),
        };
        bounded("rules", self.rules.len(), MAX_RULES)?;
        bounded("fallback", self.fallback.len(), MAX_RULES)?;
        if let Some(examples) = &self.examples {
            bounded("examples.pool", examples.pool.len(), MAX_EXAMPLES)?;
        }
        if let Some(tools) = &self.tools {
            bounded("tools.available", tools.available.len(), MAX_TOOLS)?;
        }
        Ok(())
    }
}

impl Content {
    /// Reads and checks a body of that kind. What it includes is not known here, so that undeclared variables show
    /// when it is deployed at the latest.
    pub fn read(kind: Kind, body: &str) -> Result<Content, StoreError> {
        let invalid = |reason: String| StoreError::Invalid(format!("the {kind} is not valid: {reason}"));
        if body.len() > MAX_BODY {
            return Err(invalid(format!("it is larger than {} KiB", MAX_BODY >> 10)));
        }
        if !kind.is_template() {
            let data: Map<String, Value> = serde_json::from_str(body).map_err(|error| invalid(error.to_string()))?;
            return Content::Data(data).checked(kind);
        }
        let content: PromptContent = serde_json::from_str(body).map_err(|error| invalid(error.to_string()))?;
        Content::Template(content).checked(kind)
    }

    /// Itself, if it is a sound content of that kind.
    pub fn checked(self, kind: Kind) -> Result<Content, StoreError> {
        let invalid = |reason: String| StoreError::Invalid(format!("the {kind} is not valid: {reason}"));
        match &self {
            Content::Template(content) => {
                if content.messages.is_empty() {
                    return Err(invalid("it has no messages".to_owned()));
                }
                if kind == Kind::Partial && content.messages.len() > 1 {
                    return Err(invalid("a partial is one text, not several messages".to_owned()));
                }
                let is_placeholder = |message: &PromptMessage| message.role == PLACEHOLDER;
                if kind == Kind::Partial && content.messages.iter().any(is_placeholder) {
                    return Err(invalid("a partial is a text, not a placeholder".to_owned()));
                }
                content.check_parts().map_err(invalid)?;
                if content.tools.is_some() && content.parameters.contains_key("tools") {
                    return Err(invalid(
                        "`parameters` cannot hold `tools` beside the `tools` of the prompt".to_owned(),
                    ));
                }
                let has_parts = !content.fallback.is_empty()
                    || !content.rules.is_empty()
                    || content.examples.is_some()
                    || content.tools.is_some();
                if kind == Kind::Partial && has_parts {
                    return Err(invalid(
                        "a partial is one text, without `fallback`, `rules`, `examples` or `tools`".to_owned(),
                    ));
                }
                if let Some(name) = content.parameters.keys().find(|name| OWNED.contains(&name.as_str())) {
                    return Err(invalid(format!("`parameters` cannot hold `{name}`, which the request itself says")));
                }
                // Names that are reached through includes alone are checked where includes are known.
                if content.includes()?.is_empty() {
                    content.compile(&Parts::default())?;
                }
            }
            Content::Data(data) => {
                if kind == Kind::Tool
                    && let Some(schema) = data.get("parameters")
                {
                    let declared = Variable { schema: Some(schema.clone()), ..Variable::default() };
                    let variables = Some(BTreeMap::from([("parameters".to_owned(), declared)]));
                    Template::compile(&[], &Partials::new(), variables).map_err(|error| invalid(error.to_string()))?;
                }
                if kind == Kind::Flow && !data.get("steps").is_some_and(Value::is_array) {
                    return Err(invalid("a flow needs an array `steps`".to_owned()));
                }
            }
        }
        self.links()?;
        Ok(self)
    }

    /// The canonical JSON that is stored and hashed.
    pub fn body(&self) -> Result<String, StoreError> {
        serde_json::to_string(self).map_err(|error| StoreError::Invalid(error.to_string()))
    }

    /// Which artifacts it names: what templates include, and what data lists in `links` and as `prompt` of its steps.
    pub(crate) fn links(&self) -> Result<Vec<Link>, StoreError> {
        let mut links = Vec::new();
        match self {
            Content::Template(content) => {
                for name in content.includes()? {
                    links.push(link(Kind::Partial, &name)?);
                }
                for name in content.tools.iter().flat_map(|tools| &tools.available) {
                    links.push(link(Kind::Tool, name)?);
                }
            }
            Content::Data(data) => {
                if let Some(written) = data.get("links") {
                    let written: Vec<Link> = serde_json::from_value(written.clone()).map_err(|error| {
                        StoreError::Invalid(format!("`links` must be an array of kind, alias and selector: {error}"))
                    })?;
                    links.extend(written);
                }
                let steps = data.get("steps").and_then(Value::as_array);
                let named = steps.into_iter().flatten().filter_map(|step| step.get("prompt"));
                for prompt in named.chain(data.get("prompt")).filter_map(Value::as_str) {
                    let (alias, selector) = prompt.split_once('@').unwrap_or((prompt, ""));
                    links.push(Link { kind: Kind::Prompt, alias: alias.to_owned(), selector: selector.to_owned() });
                }
                for link in &links {
                    check_name(link.kind.name(), &link.alias)?;
                    Selector::from_str(&link.selector)?;
                }
            }
        }
        links.sort();
        links.dedup();
        Ok(links)
    }

    pub(crate) fn template(&self) -> Option<&PromptContent> {
        match self {
            Content::Template(content) => Some(content),
            Content::Data(_) => None,
        }
    }
}

pub(crate) fn content_hash(body: &str) -> Vec<u8> {
    blake3::hash(body.as_bytes()).as_bytes().to_vec()
}

/// The third migration's part that SQL cannot do: bodies were pairs of role and template, and variables had defaults
/// alone. The SQL has put both into one array.
pub(crate) async fn rewrite_versions(write: &mut Work) -> Result<(), StoreError> {
    type Old = (Vec<(String, String)>, BTreeMap<String, Option<Value>>);
    let rows: Vec<(Vec<u8>, String)> =
        sqlx::query_as("SELECT id, body FROM artifact_version ORDER BY id").fetch_all(&mut **write).await?;
    for (id, body) in rows {
        let (messages, variables): Old = serde_json::from_str(&body)
            .map_err(|error| StoreError::Invalid(format!("a stored prompt cannot be read: {error}")))?;
        let messages = messages.into_iter().map(|(role, content)| PromptMessage { role, content }).collect();
        let declare = |(name, default)| (name, Variable { default, ..Variable::default() });
        let content = PromptContent {
            messages,
            variables: Some(variables.into_iter().map(declare).collect()),
            ..PromptContent::default()
        };
        let body = Content::Template(content).body()?;
        sqlx::query("UPDATE artifact_version SET body = $2, content_hash = $3 WHERE id = $1")
            .bind(id)
            .bind(&body)
            .bind(content_hash(&body))
            .execute(&mut **write)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_template_with_optional_front_matter_or_json() {
        let plain = PromptContent::parse("Hi {{ name }}\n").unwrap();
        assert_eq!(plain, PromptContent::of_text("Hi {{ name }}"));
        let full = "+++\nrole = \"developer\"\n[variables.name]\ntype = \"string\"\ndefault = \"Ann\"\n[parameters]\ntemperature = 0.2\n+++\nHi {{ name }}";
        let full = PromptContent::parse(full).unwrap();
        assert_eq!(full.messages[0].role, "developer");
        assert_eq!(full.variables.as_ref().unwrap()["name"].kind.as_deref(), Some("string"));
        assert_eq!(full.parameters["temperature"], 0.2);
        let json = serde_json::to_string(&full).unwrap();
        assert_eq!(PromptContent::parse(&json).unwrap(), full);
        assert!(PromptContent::parse("+++\nno end").is_err());
    }

    #[test]
    fn contents_are_checked_by_kind() {
        let read = |kind, body: &str| Content::read(kind, body).map_err(|error| error.to_string());
        let broken = read(Kind::Prompt, r#"{"messages":[{"role":"system","content":"{% if %}"}]}"#);
        assert!(broken.unwrap_err().contains("syntax"));
        assert!(read(Kind::Prompt, r#"{"messages":[]}"#).unwrap_err().contains("no messages"));
        assert!(read(Kind::Prompt, r#"{"messages":[{"role":"root","content":""}]}"#).unwrap_err().contains("root"));
        assert!(read(Kind::Tool, r#"{"parameters":{"type":3}}"#).is_err());
        assert!(read(Kind::Flow, r#"{"steps":[{"prompt":"a@2"}],"links":[{"kind":"tool","alias":"t"}]}"#).is_ok());
        assert!(read(Kind::Flow, "{}").is_err());
        let included = r#"{"messages":[{"role":"user","content":"{% include 'tone@>=2' %}"}]}"#;
        let links = read(Kind::Prompt, included).unwrap().links().unwrap();
        assert_eq!(links, [Link { kind: Kind::Partial, alias: "tone".into(), selector: ">=2".into() }]);
        for wrong in ["tone@x", "tone@0", "to ne", "../tone"] {
            let body = included.replace("tone@>=2", wrong);
            assert!(read(Kind::Prompt, &body).is_err(), "{wrong}");
        }
    }
}
