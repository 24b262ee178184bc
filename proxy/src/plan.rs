//! What is to be done for this request: route, prompt, what to recall, how much.

use crate::admit::Admitted;
use crate::intake::{Body, EXPLAIN, Intake};
use crate::live::RouteEntry;
use crate::refuse::{ErrorCode, Refusal};
use http::HeaderMap;
use sluice_policies::grant::Assert;
use sluice_text::Variables;
use sluice_wire::Dialect;
use std::sync::Arc;

/// A decided request.
pub struct Plan {
    pub admitted: Admitted,
    pub path: String,
    pub query: String,
    pub body: Body,
    pub route: Arc<RouteEntry>,
    /// What the provider is asked for; `None` when the request names no model.
    pub model: Option<String>,
    /// Alias and environment of the managed prompt, which exists.
    pub prompt: Option<(String, String)>,
    pub variables: Variables,
    pub collections: Vec<String>,
    pub context_tokens: usize,
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
}

pub fn plan(intake: Intake, headers: &HeaderMap) -> Result<Plan, Refusal> {
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
    let named = envelope.and_then(|envelope| envelope.model()).map(|model| model.into_owned());
    let is_chat = envelope.is_some_and(|envelope| envelope.dialect() == Dialect::Chat);
    if is_chat && named.is_none() {
        return Err(Refusal::new(ErrorCode::InvalidRequest, "`model` is missing; name a route or a model"));
    }
    let route = choose(&admitted, named.as_deref())?;
    let mut prompt = None;
    let mut collections = Vec::new();
    if is_chat {
        let environment = steering.environment.unwrap_or_else(|| route.route.environment.clone());
        if let Some(alias) = steering.prompt.or_else(|| route.route.prompt.clone()) {
            if admitted.principal.prepared.prompt(admitted.principal.key.tenant, &alias, &environment).is_none() {
                return Err(Refusal::new(
                    ErrorCode::PromptNotFound,
                    format!(
                        "No prompt `{alias}` is deployed to `{environment}`. Run `sluice prompt deploy {alias} --environment {environment}`."
                    ),
                ));
            }
            prompt = Some((alias, environment));
        }
        collections = route.route.collections.clone();
        if let Some(wanted) = &steering.collections {
            collections.retain(|name| wanted.contains(name));
        }
    }
    let context_tokens = steering.context_tokens.unwrap_or(usize::MAX).min(route.route.context_tokens);
    let model = named.map(|named| route.route.model.clone().unwrap_or(named));
    Ok(Plan {
        admitted,
        path,
        query,
        body,
        route,
        model,
        prompt,
        variables: steering.variables.unwrap_or_default(),
        collections,
        context_tokens,
        explain,
    })
}

/// The route that serves `named`: its own, or the wildcard. What a key may not use looks like what is not there.
fn choose(admitted: &Admitted, named: Option<&str>) -> Result<Arc<RouteEntry>, Refusal> {
    let prepared = &admitted.principal.prepared;
    let grant = &admitted.principal.key.grant;
    if let Some(route) = named.and_then(|name| prepared.route(name)) {
        return match grant.routes.allows(&route.name) && route.name != sluice_config::WILDCARD {
            true => Ok(Arc::clone(route)),
            false => Err(Refusal::no_such_model(&route.name)),
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
                // Accepted so that programs can send them already; sessions and subjects have no state yet.
                Assert::Session | Assert::Subject | Assert::Agent => drop(text()?),
                Assert::Explain => {
                    return Err(invalid(format!("to see what would be sent, send this body to `{EXPLAIN}`")));
                }
            }
        }
        Ok(())
    }

    /// Headers win over the body: a gateway in front can set them.
    fn read_headers(&mut self, headers: &HeaderMap, grant: &Grant) -> Result<(), Refusal> {
        let header = |name: &'static str, assert: Assert| -> Result<Option<String>, Refusal> {
            let Some(value) = headers.get(name) else { return Ok(None) };
            permitted(grant, assert)?;
            let text = value
                .to_str()
                .map_err(|_| Refusal::new(ErrorCode::InvalidRequest, format!("`{name}` is not readable text")))?;
            Ok(Some(text.to_owned()))
        };
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
        if let Some(tokens) = header("x-sluice-context-tokens", Assert::ContextTokens)? {
            self.context_tokens =
                Some(tokens.parse().map_err(|_| {
                    Refusal::new(ErrorCode::InvalidRequest, "`x-sluice-context-tokens` must be a number")
                })?);
        }
        Ok(())
    }
}
