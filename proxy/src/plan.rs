//! What is to be done for this request: route, prompt, what to recall, how much.

use crate::adapt::Adapted;
use crate::admit::Admitted;
use crate::head::percent_decode;
use crate::intake::{Body, EXPLAIN, Intake};
use crate::live::RouteEntry;
use crate::prompt::{Chosen, Units};
use crate::refuse::{ErrorCode, Refusal};
use crate::window::Window;
use http::HeaderMap;
use sluice_index::{Filter, Scope};
use sluice_policies::grant::Assert;
use sluice_segment::unit_hash;
use sluice_state::SessionId;
use sluice_text::Variables;
use sluice_wire::{Dialect, gemini_model};
use std::sync::Arc;

/// A decided request.
pub struct Plan {
    pub admitted: Admitted,
    pub path: String,
    pub query: String,
    pub body: Body,
    pub route: Arc<RouteEntry>,
    /// What the client named; a target's own model replaces it.
    pub model: Option<String>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Hash of what the request belongs to, so that it stays with a provider whose prompt cache is warm.
    pub session: Option<u64>,
    /// The managed prompt.
    pub prompt: Option<Chosen>,
    /// What the caller said of itself, hashed for records.
    pub units: UnitHashes,
    /// Where what the session keeps is found; it belongs to the subject, or to the key where none is named.
    pub kept: Option<SessionId>,
    pub variables: Variables,
    pub collections: Vec<String>,
    /// Whose texts may be recalled: the key's tenant's, and the named subject's own.
    pub scope: Scope,
    pub context_tokens: usize,
    /// Which documents may be found, by their payload.
    pub filter: Filter,
    /// What the prompt adds for this conversation.
    pub adapted: Adapted,
    /// What of the conversation leaves, where it did not fit the route's window.
    pub window: Option<Window>,
    /// Whether the caller only wants to see what would be sent.
    pub explain: bool,
}

/// What a caller asks for beside its request.
#[derive(Default)]
struct Steering {
    prompt: Option<String>,
    environment: Option<String>,
    variables: Option<Variables>,
    collections: Option<Vec<String>>,
    context_tokens: Option<usize>,
    filter: Filter,
    session: Option<String>,
    subject: Option<String>,
}

/// Sessions and subjects as records know them: keyed hashes, so that a record tells nothing to who has no key.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnitHashes {
    pub session: Option<[u8; 16]>,
    pub subject: Option<[u8; 16]>,
}

impl Plan {
    /// The client's own body.
    pub fn asked(&self) -> &str {
        match &self.body {
            Body::Json(envelope) => envelope.text(),
            Body::Empty | Body::Unread => "{}",
        }
    }

    /// The caller's own `instructions`, as written.
    pub fn instructions(&self) -> Option<&str> {
        match &self.body {
            Body::Json(envelope) => envelope.instructions(),
            Body::Empty | Body::Unread => None,
        }
    }

    /// The client's dialect.
    pub fn dialect(&self) -> Dialect {
        match &self.body {
            Body::Json(envelope) => envelope.dialect(),
            Body::Empty | Body::Unread => Dialect::Other,
        }
    }
}

pub fn plan(intake: Intake, headers: &HeaderMap, request_id: &str, hash_key: &[u8; 32]) -> Result<Box<Plan>, Refusal> {
    let Intake { admitted, path, query, body } = intake;
    let grant = &admitted.principal.key.grant;
    let explain = path == EXPLAIN;
    if explain && !grant.may(Assert::Explain) {
        return Err(Refusal::may_not(Assert::Explain));
    }
    let envelope = match &body {
        Body::Json(envelope) => Some(envelope),
        Body::Empty | Body::Unread => None,
    };
    let mut steering = Steering::default();
    if let Some(written) = envelope.and_then(|envelope| envelope.steering()) {
        steering.read_body(written, grant)?;
    }
    steering.read_headers(headers, grant)?;
    let in_path = gemini_model(&path);
    let named = match in_path {
        Some((model, _)) => Some(percent_decode(model)),
        None => envelope
            .and_then(|envelope| envelope.model())
            .map(|model| model.into_owned())
            .or_else(|| realtime_model(&path, &query)),
    };
    let stream = match in_path {
        Some((_, verb)) => verb == "streamGenerateContent",
        None => envelope.is_some_and(|envelope| envelope.stream()),
    };
    let is_chat = envelope.is_some_and(|envelope| envelope.dialect().is_conversation());
    // A stored prompt of Responses may name the model.
    let needs_model = envelope.is_some_and(|envelope| matches!(envelope.dialect(), Dialect::Chat | Dialect::Messages));
    if needs_model && named.is_none() {
        return Err(Refusal::new(ErrorCode::InvalidRequest, "`model` is missing; name a route or a model"));
    }
    let route = choose(&admitted, named.as_deref())?;
    let mut prompt = None;
    let mut collections = Vec::new();
    if is_chat {
        let environment = steering.environment.unwrap_or_else(|| route.route.environment.clone());
        if let Some(alias) = steering.prompt.or_else(|| route.route.prompt.clone()) {
            let key = &admitted.principal.key;
            let found = admitted.principal.prepared.prompt(key.tenant, &alias, &environment).ok_or_else(|| {
                Refusal::new(
                    ErrorCode::PromptNotFound,
                    format!(
                        "No prompt `{alias}` is deployed to `{environment}`. Run `sluice prompt deploy {alias} --environment {environment}`."
                    ),
                )
            })?;
            prompt = Some(found.choose(&Units {
                session: steering.session.as_deref(),
                subject: steering.subject.as_deref(),
                key: key.id,
                request: request_id.as_bytes(),
            }));
        }
        if prompt.as_ref().is_none_or(|prompt| prompt.context) {
            collections = route.route.collections.clone();
        }
        if let Some(wanted) = &steering.collections {
            collections.retain(|name| wanted.contains(name));
        }
    }
    let context_tokens = steering.context_tokens.unwrap_or(usize::MAX).min(route.route.context_tokens);
    let session = steering.session.as_deref().map(|session| {
        let hash = blake3::Hasher::new().update(&admitted.principal.key.tenant).update(session.as_bytes()).finalize();
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default())
    });
    let unit = |kind: &str, unit: &Option<String>| {
        unit.as_ref().map(|unit| unit_hash(hash_key, &admitted.principal.key.tenant, kind, unit))
    };
    let units = UnitHashes { session: unit("session", &steering.session), subject: unit("subject", &steering.subject) };
    let kept = units.session.map(|session| SessionId { owner: owner(&units, &admitted, hash_key), session });
    let of_key = admitted.principal.key.scope;
    let scope = steering.subject.as_deref().map_or(of_key, |subject| of_key.with_subject(subject));
    // In a box: it goes on from step to step, and is large.
    Ok(Box::new(Plan {
        units,
        scope,
        kept,
        admitted,
        path,
        query,
        body,
        route,
        model: named,
        stream,
        session,
        prompt,
        variables: steering.variables.unwrap_or_default(),
        collections,
        context_tokens,
        filter: steering.filter,
        adapted: Adapted::default(),
        window: None,
        explain,
    }))
}

/// Whose is what is kept of a request: the subject's, or the key's where none is named.
pub fn owner(units: &UnitHashes, admitted: &Admitted, hash_key: &[u8; 32]) -> [u8; 16] {
    let key = &admitted.principal.key;
    units.subject.unwrap_or_else(|| unit_hash(hash_key, &key.tenant, "key", &key.id_name))
}

/// The model of a realtime session, which stands in the query.
fn realtime_model(path: &str, query: &str) -> Option<String> {
    let mut pairs = query.split('&').filter(|_| path == "/v1/realtime");
    pairs.find_map(|pair| pair.strip_prefix("model=")).map(percent_decode)
}

/// The route that serves `named`: its own, or the wildcard. What a key may not use looks like what is not there.
fn choose(admitted: &Admitted, named: Option<&str>) -> Result<Arc<RouteEntry>, Refusal> {
    let prepared = &admitted.principal.prepared;
    let grant = &admitted.principal.key.grant;
    if let Some(route) = named.and_then(|name| prepared.route(name)) {
        return match grant.routes.allows(&route.name) {
            true => Ok(Arc::clone(route)),
            false => Err(Refusal::no_such_model(named.unwrap_or_default())),
        };
    }
    let name = named.unwrap_or("*");
    match prepared.wildcard() {
        Some(route) if grant.models.allows(name) => Ok(Arc::clone(route)),
        _ => Err(match named {
            Some(named) => Refusal::no_such_model(named),
            None => Refusal::new(
                ErrorCode::NotPermitted,
                "This path names no model, and this key is bound to some. Use a key whose `--models` is `*`.",
            ),
        }),
    }
}

type Grant = sluice_policies::grant::Grant;

fn permitted(grant: &Grant, assert: Assert) -> Result<(), Refusal> {
    if grant.may(assert) { Ok(()) } else { Err(Refusal::may_not(assert)) }
}

impl Steering {
    fn read_body(&mut self, written: &str, grant: &Grant) -> Result<(), Refusal> {
        let invalid = |message: String| Refusal::new(ErrorCode::InvalidRequest, message);
        let members: Variables =
            serde_json::from_str(written).map_err(|_| invalid("`sluice` must be an object".to_owned()))?;
        for (name, value) in members {
            let assert = Assert::of_name(&name).ok_or_else(|| {
                let known = Assert::ALL.map(Assert::name).join("`, `");
                invalid(format!("`sluice` has no member `{name}`; it may have `{known}`"))
            })?;
            permitted(grant, assert)?;
            let wrong = |expected: &str| invalid(format!("`sluice.{name}` must be {expected}"));
            let text = || value.as_str().map(str::to_owned).ok_or_else(|| wrong("a string"));
            match assert {
                Assert::Prompt => self.prompt = Some(text()?),
                Assert::Environment => self.environment = Some(text()?),
                Assert::Variables => {
                    self.variables = Some(value.as_object().cloned().ok_or_else(|| wrong("an object"))?)
                }
                Assert::Collections => {
                    let names = value
                        .as_array()
                        .and_then(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
                    self.collections = Some(names.ok_or_else(|| wrong("an array of strings"))?);
                }
                Assert::ContextTokens => {
                    self.context_tokens = Some(value.as_u64().ok_or_else(|| wrong("a number of tokens"))? as usize)
                }
                Assert::Filter => {
                    self.filter =
                        Filter::parse(&value).map_err(|fault| invalid(format!("`sluice.filter`: {fault}")))?;
                }
                Assert::Session => self.session = Some(text()?),
                Assert::Subject => self.subject = Some(text()?),
                // Accepted so that programs can send it already; agents have no state yet.
                Assert::Agent => drop(text()?),
                Assert::Explain => {
                    return Err(invalid(format!("to see what would be sent, send this body to `{EXPLAIN}`")));
                }
            }
        }
        Ok(())
    }

    /// Headers win over the body: a gateway in front can set them.
    fn read_headers(&mut self, headers: &HeaderMap, grant: &Grant) -> Result<(), Refusal> {
        // Most requests steer nothing; one look at the names is cheaper than six searches.
        if !headers.keys().any(|name| name.as_str().starts_with("x-sluice-")) {
            return Ok(());
        }
        let header = |name: &'static str, assert: Assert| -> Result<Option<String>, Refusal> {
            let Some(value) = headers.get(name) else { return Ok(None) };
            permitted(grant, assert)?;
            let text = value
                .to_str()
                .map_err(|_| Refusal::new(ErrorCode::InvalidRequest, format!("`{name}` is not readable text")))?;
            Ok(Some(text.to_owned()))
        };
        if let Some(session) = header("x-sluice-session", Assert::Session)? {
            self.session = Some(session);
        }
        if let Some(subject) = header("x-sluice-subject", Assert::Subject)? {
            self.subject = Some(subject);
        }
        if let Some(prompt) = header("x-sluice-prompt", Assert::Prompt)? {
            self.prompt = Some(prompt);
        }
        if let Some(environment) = header("x-sluice-environment", Assert::Environment)? {
            self.environment = Some(environment);
        }
        if let Some(variables) = header("x-sluice-variables", Assert::Variables)? {
            let parsed = serde_json::from_str(&variables)
                .map_err(|_| Refusal::new(ErrorCode::InvalidRequest, "`x-sluice-variables` must be a JSON object"))?;
            self.variables = Some(parsed);
        }
        if let Some(collections) = header("x-sluice-collections", Assert::Collections)? {
            self.collections = Some(collections.split(',').map(|name| name.trim().to_owned()).collect());
        }
        if let Some(filter) = header("x-sluice-filter", Assert::Filter)? {
            let invalid =
                |fault: String| Refusal::new(ErrorCode::InvalidRequest, format!("`x-sluice-filter`: {fault}"));
            let value = serde_json::from_str(&filter).map_err(|_| invalid("it must be a JSON object".to_owned()))?;
            self.filter = Filter::parse(&value).map_err(invalid)?;
        }
        if let Some(tokens) = header("x-sluice-context-tokens", Assert::ContextTokens)? {
            self.context_tokens =
                Some(tokens.parse().map_err(|_| {
                    Refusal::new(ErrorCode::InvalidRequest, "`x-sluice-context-tokens` must be a number")
                })?);
        }
        Ok(())
    }
}
