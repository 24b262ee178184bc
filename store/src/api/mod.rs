//! The HTTP API of the store, on the admin listener: everything that the commands can do.
//!
//! Its OpenAPI document is made from this code and served at `/api/v1/openapi.json`. Errors are `{error, message,
//! code}`: a name, a sentence with the remedy, and the thing with a status, as `PROMPT_409`.

mod artifacts;
mod control;
mod knowledge;

use crate::knowledge::holds_nul;
use crate::operators::{KeptAnswer, Operator, Scope};
use crate::{Call, IdentityError, Kind, Store, StoreError, Tenancy};
use axum::body::{Body as AxumBody, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use object_store::ObjectStore;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, Content as MediaContent, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, ResponseBuilder,
};
use utoipa::{IntoParams, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

/// Largest body of a call.
const MAX_BODY: usize = 32 << 20;
/// Most entries of one list.
const MAX_PAGE: i64 = 1_000;

#[derive(Clone)]
struct Api {
    store: Store,
    tenant: Arc<str>,
    location: Arc<dyn ObjectStore>,
    asserts: &'static [&'static str],
}

/// The API over `store`; `tenant` is who is meant where a call names none, `location` where snapshots are published,
/// `asserts` what keys may be allowed to steer.
pub fn router(
    store: Store,
    tenant: String,
    location: Arc<dyn ObjectStore>,
    asserts: &'static [&'static str],
) -> Router {
    control::forget_backups(store.folder());
    let api = Api { store, tenant: tenant.into(), location, asserts };
    let (router, mut document) = OpenApiRouter::<Api>::new()
        .merge(artifacts::routes())
        .merge(control::routes())
        .merge(knowledge::routes())
        .split_for_parts();
    describe(&mut document);
    let document = Bytes::from(document.to_json().unwrap_or_default());
    let as_json = || ([(header::CONTENT_TYPE, "application/json")], document);
    router
        .route_layer(middleware::from_fn_with_state(api.clone(), once))
        .route_layer(middleware::from_fn_with_state(api.clone(), authorize))
        .route("/api/v1/openapi.json", get(|| async move { as_json() }))
        .fallback(|| async { Fault::not_found("path", "There is no such path; `/api/v1/openapi.json` lists them.") })
        .method_not_allowed_fallback(|| async {
            let message = "The path has no such method; `/api/v1/openapi.json` lists them.";
            Fault::of(StatusCode::METHOD_NOT_ALLOWED, "method", "not_allowed", message)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

/// What the code does not say of itself: title, credentials, and the errors that every call may answer.
fn describe(document: &mut OpenApi) {
    let info = InfoBuilder::new()
        .title("Sluice store")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Prompts, experiments, knowledge, keys and settings of a Sluice store."))
        .build();
    let whole = OpenApiBuilder::from(std::mem::take(document)).info(info);
    *document = whole.security(Some([SecurityRequirement::new("token", Vec::<String>::new())])).build();
    let components = document.components.get_or_insert_with(Components::new);
    components.schemas.insert("Problem".to_owned(), Problem::schema());
    let token = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    components.security_schemes.insert("token".to_owned(), token.into());
    let problem = |text: &str| {
        let content = MediaContent::new(Some(Ref::from_schema_name("Problem")));
        ResponseBuilder::new().description(text).content("application/json", content).build()
    };
    const ERRORS: [(&str, &str); 8] = [
        ("400", "The request is not valid"),
        ("401", "The operator's token is missing or not good"),
        ("403", "The operator's scopes do not allow it"),
        ("404", "There is no such thing"),
        ("409", "It exists already, is in use, or somebody else changed it"),
        ("413", "The body is too large"),
        ("422", "A limit is reached"),
        ("500", "The store failed"),
    ];
    let header = |name: &str, text: &str| {
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header).description(Some(text));
        parameter.schema(Some(String::schema())).build()
    };
    let revision = header("if-match", "The `etag` that was seen; the call is refused if somebody made another change.");
    let key = header("idempotency-key", "The same call with the same key is made once; answers are kept for a day.");
    for (path, item) in &mut document.paths.paths {
        // What has a revision says it: artifacts, experiments, settings.
        if REVISED.contains(&path.as_str()) {
            for operation in [&mut item.put, &mut item.patch, &mut item.delete].into_iter().flatten() {
                operation.parameters.get_or_insert_default().push(revision.clone().into());
            }
            let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch];
            for operation in operations.into_iter().flatten() {
                for status in ["200", "201"] {
                    if let Some(RefOr::T(response)) = operation.responses.responses.get_mut(status) {
                        response.headers.insert("etag".to_owned(), Header::new(String::schema()).into());
                    }
                }
            }
        }
        if let Some(operation) = item.post.as_mut().filter(|_| path.ends_with("/draft/publish")) {
            operation.parameters.get_or_insert_default().push(revision.clone().into());
        }
        if let Some(operation) = &mut item.post {
            operation.parameters.get_or_insert_default().push(key.clone().into());
        }
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            for (status, text) in ERRORS {
                let responses = &mut operation.responses.responses;
                responses.entry(status.to_owned()).or_insert_with(|| problem(text).into());
            }
        }
    }
}

/// Paths whose answers have an `etag`, and whose changes heed `if-match`.
const REVISED: [&str; 5] = [
    "/api/v1/artifacts/{kind}/{alias}",
    "/api/v1/artifacts/{kind}/{alias}/draft",
    "/api/v1/experiments/{name}",
    "/api/v1/protected-environments",
    "/api/v1/settings/{name}",
];

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
struct Problem {
    /// Its name, as `prompt_in_use`.
    error: String,
    /// What is wrong, and the remedy.
    message: String,
    /// The thing and the status, as `PROMPT_409`.
    code: String,
}

/// A call that cannot be answered.
#[derive(Debug)]
struct Fault {
    status: StatusCode,
    problem: Problem,
}

type Answer<T> = Result<T, Fault>;

impl Fault {
    fn of(status: StatusCode, thing: &str, what: &str, message: impl Into<String>) -> Fault {
        let code = format!("{}_{}", thing.to_ascii_uppercase().replace(' ', "_"), status.as_u16());
        let error = format!("{}_{what}", thing.to_ascii_lowercase().replace(' ', "_"));
        Fault { status, problem: Problem { error, message: message.into(), code } }
    }

    fn invalid(message: impl Into<String>) -> Fault {
        Fault::of(StatusCode::BAD_REQUEST, "request", "invalid", message)
    }

    fn not_found(thing: &str, message: impl Into<String>) -> Fault {
        Fault::of(StatusCode::NOT_FOUND, thing, "not_found", message)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.status, Json(self.problem)).into_response()
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        let message = error.to_string();
        match error {
            StoreError::Invalid(_) => Fault::invalid(message),
            StoreError::NotFound { kind, .. } => Fault::not_found(kind, message),
            StoreError::Exists { kind, .. } => Fault::of(StatusCode::CONFLICT, kind, "exists", message),
            StoreError::InUse { kind, .. } => Fault::of(StatusCode::CONFLICT, kind, "in_use", message),
            StoreError::Conflict { .. } => Fault::of(StatusCode::CONFLICT, "revision", "conflict", message),
            StoreError::Identity(IdentityError::NoNewKey(_)) => Fault::invalid(message),
            StoreError::Made => Fault::of(StatusCode::CONFLICT, "call", "made", message),
            StoreError::Limit(_) => Fault::of(StatusCode::UNPROCESSABLE_ENTITY, "limit", "exceeded", message),
            StoreError::Forbidden(_) => Fault::of(StatusCode::FORBIDDEN, "scope", "missing", message),
            _ => {
                tracing::error!(error = ?error, "a call of the API failed");
                Fault::of(StatusCode::INTERNAL_SERVER_ERROR, "store", "failed", "The store failed; its log says why.")
            }
        }
    }
}

impl From<crate::PublishError> for Fault {
    fn from(error: crate::PublishError) -> Fault {
        match error {
            crate::PublishError::Store(error) => error.into(),
            error => {
                tracing::error!(error = ?error, "a call of the API failed");
                Fault::of(StatusCode::INTERNAL_SERVER_ERROR, "store", "failed", "The snapshot location failed.")
            }
        }
    }
}

/// Knows the operator by the token.
async fn authorize(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' '));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map_or("", |(_, token)| token.trim());
    match api.store.operator(given).await {
        Ok(Some(operator)) => {
            request.extensions_mut().insert(Arc::new(operator));
            next.run(request).await
        }
        Ok(None) => {
            let message = "Send `Authorization: Bearer` with an operator's token, or the one in `operator.token` of the store's data folder.";
            Fault::of(StatusCode::UNAUTHORIZED, "token", "invalid", message).into_response()
        }
        Err(error) => Fault::from(error).into_response(),
    }
}

/// A call with an `idempotency-key` is made once: the same call again gets the same answer.
async fn once(
    State(api): State<Api>,
    Extension(operator): Extension<Arc<Operator>>,
    request: Request,
    next: Next,
) -> Response {
    let key = request.headers().get("idempotency-key").cloned();
    let Some(key) = key.filter(|_| *request.method() == Method::POST) else { return next.run(request).await };
    let Some(key) = key.to_str().ok().filter(|key| !key.is_empty() && key.len() <= 255).map(str::to_owned) else {
        return Fault::invalid("`idempotency-key` must have 1 to 255 ASCII characters").into_response();
    };
    let (mut parts, body) = request.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, MAX_BODY).await else { return too_large().into_response() };
    let mut hash = blake3::Hasher::new();
    let revision = parts.headers.get(header::IF_MATCH).map_or(&b""[..], HeaderValue::as_bytes);
    for part in [api.tenant.as_bytes(), parts.uri.to_string().as_bytes(), revision, &bytes] {
        hash.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let call = Arc::new(Call::new(&operator.name, key));
    match api.store.begin_call(&call, hash.finalize().as_bytes()).await {
        Ok(None) => {}
        Ok(Some(KeptAnswer { status, etag, body })) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            let mut answer = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
            if let Some(etag) = HeaderValue::from_str(&etag).ok().filter(|etag| !etag.is_empty()) {
                answer.headers_mut().insert(header::ETAG, etag);
            }
            return answer;
        }
        Err(error) => return Fault::from(error).into_response(),
    }
    parts.extensions.insert(Arc::clone(&call));
    // Apart from the connection: a caller that hangs up has made its call, and may ask again how it ended.
    let made = tokio::spawn(async move {
        let answer = next.run(Request::from_parts(parts, AxumBody::from(bytes))).await;
        let (parts, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, MAX_BODY).await.unwrap_or_default();
        // What failed may be tried again; secrets are not kept.
        let kept = parts.status.is_success() && !parts.headers.contains_key(header::CACHE_CONTROL);
        let noted = match std::str::from_utf8(&body).ok().filter(|_| kept) {
            None => api.store.forget_call(&call).await,
            Some(text) => {
                let etag = parts.headers.get(header::ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default();
                let (status, etag) = (parts.status.as_u16(), etag.to_owned());
                api.store.end_call(&call, KeptAnswer { status, etag, body: text.to_owned() }).await
            }
        };
        if let Err(error) = noted {
            tracing::warn!(%error, "the answer of a call with an idempotency key is not kept");
        }
        Response::from_parts(parts, AxumBody::from(body))
    });
    made.await.unwrap_or_else(|_| {
        Fault::of(StatusCode::INTERNAL_SERVER_ERROR, "store", "failed", "The call ended early.").into_response()
    })
}

fn too_large() -> Fault {
    let message = format!("The body is larger than {} MiB.", MAX_BODY >> 20);
    Fault::of(StatusCode::PAYLOAD_TOO_LARGE, "body", "too_large", message)
}

/// Who calls, and about which tenant: what every handler begins with.
struct Caller {
    api: Api,
    operator: Arc<Operator>,
    tenant: Option<String>,
    headers: HeaderMap,
    call: Option<Arc<Call>>,
}

impl Caller {
    /// The tenant, if the operator has the scope for it.
    async fn tenancy(&self, scope: Scope) -> Answer<Tenancy> {
        self.may(scope)?;
        let bound = self.operator.tenant.as_deref();
        let asked = self.tenant.as_deref();
        let name = match (bound, asked) {
            (Some(bound), Some(asked)) if bound != asked => {
                let message = format!("The operator `{}` belongs to another tenant.", self.operator.name);
                return Err(Fault::of(StatusCode::FORBIDDEN, "tenant", "forbidden", message));
            }
            (Some(bound), _) => bound,
            (None, asked) => asked.unwrap_or(&self.api.tenant),
        };
        let actor = &self.operator.name;
        let found = match self.api.store.tenancy(name, actor).await {
            // The tenant that the process was started for exists, be it empty.
            Err(StoreError::NotFound { .. }) if name == &*self.api.tenant => {
                self.api.store.make_tenancy(name, actor).await?
            }
            found => found?,
        };
        Ok(found.with_protected(self.has(Scope::Protected)).for_call(self.call.clone()))
    }

    /// The same for one artifact that is read: what is public may be read by operators of other tenants, and copied.
    async fn tenancy_of(&self, kind: Kind, alias: &str) -> Answer<Tenancy> {
        let asked = match (self.operator.tenant.as_deref(), self.tenant.as_deref()) {
            (Some(bound), Some(asked)) if bound != asked => asked,
            _ => return self.tenancy(Scope::Read).await,
        };
        self.may(Scope::Read)?;
        let public = match self.api.store.tenancy(asked, &self.operator.name).await {
            Ok(tenancy) => match tenancy.artifact(kind, alias).await {
                Ok(artifact) => (artifact.visibility == "public").then_some(tenancy),
                Err(StoreError::NotFound { .. }) => None,
                Err(error) => return Err(error.into()),
            },
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        match public {
            Some(tenancy) => Ok(tenancy),
            // Said in the same way whether there is such a thing or not.
            None => self.tenancy(Scope::Read).await,
        }
    }

    fn has(&self, scope: Scope) -> bool {
        self.operator.scopes.contains(&scope)
    }

    fn may(&self, scope: Scope) -> Answer<()> {
        match self.has(scope) {
            true => Ok(()),
            false => {
                let message =
                    format!("The operator `{}` does not have the scope `{}`.", self.operator.name, scope.name());
                Err(Fault::of(StatusCode::FORBIDDEN, "scope", "missing", message))
            }
        }
    }

    /// For what concerns all tenants.
    fn may_all(&self, scope: Scope) -> Answer<()> {
        self.may(scope)?;
        match self.operator.tenant {
            None => Ok(()),
            Some(_) => {
                let message = format!("The operator `{}` belongs to one tenant.", self.operator.name);
                Err(Fault::of(StatusCode::FORBIDDEN, "tenant", "forbidden", message))
            }
        }
    }

    /// The revision of `if-match`, which is what `etag` said.
    fn expected(&self) -> Answer<Option<i64>> {
        let Some(written) = self.headers.get(header::IF_MATCH) else { return Ok(None) };
        let text = written.to_str().unwrap_or_default();
        if text == "*" {
            return Ok(None);
        }
        let number = text.trim_matches('"').parse().ok();
        number.map(Some).ok_or_else(|| Fault::invalid("`if-match` must be an `etag` that this API gave, as `\"3\"`"))
    }
}

#[derive(Deserialize)]
struct Whose {
    tenant: Option<String>,
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Answer<Caller> {
        let operator = parts.extensions.get::<Arc<Operator>>().cloned();
        let operator =
            operator.ok_or_else(|| Fault::of(StatusCode::UNAUTHORIZED, "token", "invalid", "No operator."))?;
        let Asked(Whose { tenant }) = Asked::<Whose>::from_request_parts(parts, api).await?;
        let call = parts.extensions.get::<Arc<Call>>().cloned();
        Ok(Caller { api: api.clone(), operator, tenant, headers: parts.headers.clone(), call })
    }
}

/// A path's parameters.
struct At<T>(T);

impl<T: DeserializeOwned + Send> FromRequestParts<Api> for At<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Answer<At<T>> {
        refuse_nul(parts.uri.path())?;
        let found = Path::<T>::from_request_parts(parts, api).await;
        found.map(|Path(found)| At(found)).map_err(|error| Fault::invalid(format!("the path: {}", error.body_text())))
    }
}

/// A query's parameters.
struct Asked<T>(T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Asked<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Answer<Asked<T>> {
        refuse_nul(parts.uri.query().unwrap_or_default())?;
        let found = Query::<T>::from_request_parts(parts, api).await;
        found
            .map(|Query(found)| Asked(found))
            .map_err(|error| Fault::invalid(format!("the query: {}", error.body_text())))
    }
}

/// Databases keep no NUL characters.
fn refuse_nul(text: &str) -> Answer<()> {
    match text.contains("%00") {
        true => Err(Fault::invalid("the URL holds a NUL character")),
        false => Ok(()),
    }
}

/// A JSON body.
struct Sent<T>(T);

impl<T: DeserializeOwned> FromRequest<Api> for Sent<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, api: &Api) -> Answer<Sent<T>> {
        let bytes = Bytes::from_request(request, api).await.map_err(|_| too_large())?;
        let invalid = |error: serde_json::Error| Fault::invalid(format!("the body is not valid: {error}"));
        let value: Value = serde_json::from_slice(&bytes).map_err(invalid)?;
        if holds_nul(&value) {
            return Err(Fault::invalid("the body holds a NUL character, which databases do not keep"));
        }
        serde_json::from_value(value).map(Sent).map_err(invalid)
    }
}

/// The revision as an `etag`.
fn etag(revision: i64) -> [(header::HeaderName, HeaderValue); 1] {
    let text = format!("\"{revision}\"");
    [(header::ETAG, HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("\"0\"")))]
}

/// Part of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// Another tenant than the usual one.
    #[allow(dead_code)]
    tenant: Option<String>,
    /// How many at most; 100 if left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

fn page(limit: Option<i64>) -> Answer<i64> {
    match limit.unwrap_or(100) {
        limit @ 1..=MAX_PAGE => Ok(limit),
        _ => Err(Fault::invalid(format!("`limit` must be between 1 and {MAX_PAGE}"))),
    }
}

/// The tenant of a call that has no other parameters.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
struct ForTenant {
    /// Another tenant than the usual one.
    tenant: Option<String>,
}

fn done() -> Json<Value> {
    Json(json!({ "done": true }))
}
