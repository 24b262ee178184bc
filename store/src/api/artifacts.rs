//! Prompts and everything else with versions; what is in force; experiments.

use super::{Answer, Api, Asked, At, Caller, Fault, ForTenant, Sent, done, etag, page};
use crate::deployments::revision_of;
use crate::operators::Scope;
use crate::preview::{Preview, Previewed};
use crate::{
    Artifact, Change, Content, Deploy, Deployment, Experiment, ExperimentChange, ExperimentResult, Kind, NewExperiment,
    Version, VersionStatistics,
};
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, change, remove))
        .routes(routes!(usage))
        .routes(routes!(statistics))
        .routes(routes!(versions, put_version))
        .routes(routes!(version, change_version))
        .routes(routes!(draft, put_draft))
        .routes(routes!(publish_draft))
        .routes(routes!(diff))
        .routes(routes!(history, deploy))
        .routes(routes!(roll_back))
        .routes(routes!(withdraw))
        .routes(routes!(render))
        .routes(routes!(protected, protect))
        .routes(routes!(experiments, create_experiment))
        .routes(routes!(experiment, change_experiment, remove_experiment))
        .routes(routes!(results))
}

fn kind(name: &str) -> Answer<Kind> {
    name.parse().map_err(|error: crate::StoreError| Fault::not_found("kind", error.to_string()))
}

fn content(kind: Kind, written: &Value) -> Answer<Content> {
    Ok(Content::read(kind, &written.to_string())?)
}

/// A body or one of the artifacts of a page.
#[derive(Serialize, ToSchema)]
struct Artifacts {
    artifacts: Vec<Artifact>,
    /// Give it as `after` for the next page; not there at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Listing {
    #[allow(dead_code)]
    tenant: Option<String>,
    /// Archived ones too.
    archived: Option<bool>,
    /// Only those that are enabled.
    enabled: Option<bool>,
    /// From behind this alias.
    after: Option<String>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

#[utoipa::path(get, path = "/api/v1/artifacts/{kind}", params(("kind" = String, Path, description = "prompt, partial, persona, agent, policy, tool or flow"), Listing), responses((status = 200, body = Artifacts)))]
async fn list(caller: Caller, At(named): At<String>, Asked(asked): Asked<Listing>) -> Answer<Json<Artifacts>> {
    let limit = page(asked.limit)?;
    let after = asked.after.unwrap_or_default();
    let tenancy = caller.tenancy(Scope::Read).await?;
    let mut artifacts = tenancy.artifacts(Some(kind(&named)?), asked.archived == Some(true), &after, limit).await?;
    let full = artifacts.len() as i64 == limit;
    let next = artifacts.last().filter(|_| full).map(|artifact| artifact.alias.clone());
    artifacts.retain(|artifact| asked.enabled.is_none_or(|enabled| artifact.enabled == enabled));
    Ok(Json(Artifacts { artifacts, next }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewArtifact {
    alias: String,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    visibility: Option<String>,
    /// The first version.
    #[schema(value_type = Option<Object>)]
    content: Option<Value>,
    #[serde(default)]
    note: String,
}

#[utoipa::path(post, path = "/api/v1/artifacts/{kind}", params(("kind" = String, Path), ForTenant), request_body = NewArtifact, responses((status = 201, body = Artifact)))]
async fn create(caller: Caller, At(named): At<String>, Sent(new): Sent<NewArtifact>) -> Answer<impl IntoResponse> {
    let kind = kind(&named)?;
    let first = new.content.as_ref().map(|written| content(kind, written)).transpose()?;
    let tenancy = caller.tenancy(Scope::Write).await?;
    let change = Change { title: new.title, tags: new.tags, visibility: new.visibility, ..Change::default() };
    let first = first.as_ref().map(|content| (content, new.note.as_str()));
    let made = tenancy.create_artifact(kind, &new.alias, &change, first).await?;
    Ok((StatusCode::CREATED, etag(made.revision), Json(made)))
}

#[utoipa::path(get, path = "/api/v1/artifacts/{kind}/{alias}", params(("kind" = String, Path), ("alias" = String, Path), ForTenant), responses((status = 200, body = Artifact)))]
async fn show(caller: Caller, At((named, alias)): At<(String, String)>) -> Answer<impl IntoResponse> {
    let kind = kind(&named)?;
    let found = caller.tenancy_of(kind, &alias).await?.artifact(kind, &alias).await?;
    Ok((etag(found.revision), Json(found)))
}

/// Changes what may change; `if-match` with the `etag` that was seen refuses to overwrite somebody else's change.
#[utoipa::path(patch, path = "/api/v1/artifacts/{kind}/{alias}", params(("kind" = String, Path), ("alias" = String, Path), ForTenant), request_body = Change, responses((status = 200, body = Artifact)))]
async fn change(
    caller: Caller,
    At((named, alias)): At<(String, String)>,
    Sent(change): Sent<Change>,
) -> Answer<impl IntoResponse> {
    let tenancy = caller.tenancy(Scope::Write).await?;
    let changed = tenancy.change(kind(&named)?, &alias, &change, caller.expected()?).await?;
    Ok((etag(changed.revision), Json(changed)))
}

/// Removes it with its history, if nothing uses it.
#[utoipa::path(delete, path = "/api/v1/artifacts/{kind}/{alias}", params(("kind" = String, Path), ("alias" = String, Path), ForTenant), responses((status = 200, body = Object)))]
async fn remove(caller: Caller, At((named, alias)): At<(String, String)>) -> Answer<Json<Value>> {
    let tenancy = caller.tenancy(Scope::Write).await?;
    tenancy.delete_artifact(kind(&named)?, &alias, caller.expected()?).await?;
    Ok(done())
}

#[derive(Serialize, ToSchema)]
struct Usage {
    used_by: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct Statistics {
    versions: Vec<VersionStatistics>,
}

/// What the versions of a prompt or persona have brought, newest first, as far as their runs are still kept.
#[utoipa::path(get, path = "/api/v1/artifacts/{kind}/{alias}/statistics", params(("kind" = String, Path), ("alias" = String, Path), ForTenant), responses((status = 200, body = Statistics)))]
async fn statistics(caller: Caller, At((named, alias)): At<(String, String)>) -> Answer<Json<Statistics>> {
    let kind = kind(&named)?;
    let versions = caller.tenancy_of(kind, &alias).await?.statistics(kind, &alias).await?;
    Ok(Json(Statistics { versions }))
}

#[utoipa::path(get, path = "/api/v1/artifacts/{kind}/{alias}/usage", params(("kind" = String, Path), ("alias" = String, Path), ForTenant), responses((status = 200, body = Usage)))]
async fn usage(caller: Caller, At((named, alias)): At<(String, String)>) -> Answer<Json<Usage>> {
    let used_by = caller.tenancy(Scope::Read).await?.usage(kind(&named)?, &alias).await?;
    Ok(Json(Usage { used_by }))
}

#[derive(Serialize, ToSchema)]
struct Versions {
    versions: Vec<Version>,
}

#[utoipa::path(get, path = "/api/v1/artifacts/{kind}/{alias}/versions", params(("kind" = String, Path), ("alias" = String, Path), super::Page), responses((status = 200, body = Versions)))]
async fn versions(
    caller: Caller,
    At((named, alias)): At<(String, String)>,
    Asked(asked): Asked<super::Page>,
) -> Answer<Json<Versions>> {
    let kind = kind(&named)?;
    let versions = caller.tenancy_of(kind, &alias).await?.versions(kind, &alias, page(asked.limit)?).await?;
    Ok(Json(Versions { versions }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewVersion {
    /// For templates `messages`, `variables` and `parameters`; an object of any members otherwise.
    #[schema(value_type = Object)]
    content: Value,
    #[serde(default)]
    note: String,
    /// The newest version that the author saw; 0 for none.
    expected_version: Option<i64>,
}

/// Stores a version, unless the newest one holds just that; makes the artifact if it is new.
#[utoipa::path(post, path = "/api/v1/artifacts/{kind}/{alias}/versions", params(("kind" = String, Path), ("alias" = String, Path), ForTenant), request_body = NewVersion, responses((status = 201, body = Version)))]
async fn put_version(
    caller: Caller,
    At((named, alias)): At<(String, String)>,
    Sent(new): Sent<NewVersion>,
) -> Answer<impl IntoResponse> {
    let kind = kind(&named)?;
    let content = content(kind, &new.content)?;
    let tenancy = caller.tenancy(Scope::Write).await?;
    let number = tenancy.put_version(kind, &alias, &content, &new.note, new.expected_version).await?;
    Ok((StatusCode::CREATED, Json(tenancy.version(kind, &alias, Some(number)).await?)))
}

#[utoipa::path(get, path = "/api/v1/artifacts/{kind}/{alias}/versions/{number}", params(("kind" = String, Path), ("alias" = String, Path), ("number" = i64, Path), ForTenant), responses((status = 200, body = Version)))]
async fn version(caller: Caller, At((named, alias, number)): At<(String, String, i64)>) -> Answer<Json<Version>> {
    // 0 would mean the newest.
    let number =
        Some(number).filter(|number| *number > 0).ok_or_else(|| Fault::not_found("version", "versions begin at 1"))?;
    let kind = kind(&named)?;
    Ok(Json(caller.tenancy_of(kind, &alias).await?.version(kind, &alias, Some(number)).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct VersionChange {
    deprecated: bool,
}

#[utoipa::path(patch, path = "/api/v1/artifacts/{kind}/{alias}/versions/{number}", params(("kind" = String, Path), ("alias" = String, Path), ("number" = i64, Path), ForTenant), request_body = VersionChange, responses((status = 200, body = Version)))]
async fn change_version(
    caller: Caller,
    At((named, alias, number)): At<(String, String, i64)>,
    Sent(change): Sent<VersionChange>,
) -> Answer<Json<Version>> {
    let kind = kind(&named)?;
    let tenancy = caller.tenancy(Scope::Write).await?;
    tenancy.deprecate(kind, &alias, number, change.deprecated).await?;
    Ok(Json(tenancy.version(kind, &alias, Some(number)).await?))
}

#[derive(Serialize, ToSchema)]
struct Draft {
    #[schema(value_type = Object)]
    content: Content,
}

#[utoipa::path(get, path = "/api/v1/artifacts/{kind}/{alias}/draft", params(("kind" = String, Path), ("alias" = String, Path), ForTenant), responses((status = 200, body = Draft)))]
async fn draft(caller: Caller, At((named, alias)): At<(String, String)>) -> Answer<impl IntoResponse> {
    let (content, revision) = caller.tenancy(Scope::Read).await?.draft(kind(&named)?, &alias).await?;
    Ok((etag(revision), Json(Draft { content })))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewDraft {
    #[schema(value_type = Object)]
    content: Value,
}

#[utoipa::path(put, path = "/api/v1/artifacts/{kind}/{alias}/draft", params(("kind" = String, Path), ("alias" = String, Path), ForTenant), request_body = NewDraft, responses((status = 200, body = Artifact)))]
async fn put_draft(
    caller: Caller,
    At((named, alias)): At<(String, String)>,
    Sent(new): Sent<NewDraft>,
) -> Answer<impl IntoResponse> {
    let kind = kind(&named)?;
    let content = content(kind, &new.content)?;
    let tenancy = caller.tenancy(Scope::Write).await?;
    let revision = tenancy.put_draft(kind, &alias, &content, caller.expected()?).await?;
    Ok((etag(revision), Json(tenancy.artifact(kind, &alias).await?)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Note {
    #[serde(default)]
    note: String,
}

/// Makes the draft the newest version.
#[utoipa::path(post, path = "/api/v1/artifacts/{kind}/{alias}/draft/publish", params(("kind" = String, Path), ("alias" = String, Path), ForTenant), request_body = Note, responses((status = 201, body = Version)))]
async fn publish_draft(
    caller: Caller,
    At((named, alias)): At<(String, String)>,
    Sent(Note { note }): Sent<Note>,
) -> Answer<impl IntoResponse> {
    let kind = kind(&named)?;
    let tenancy = caller.tenancy(Scope::Write).await?;
    let number = tenancy.publish_draft(kind, &alias, &note, caller.expected()?).await?;
    Ok((StatusCode::CREATED, Json(tenancy.version(kind, &alias, Some(number)).await?)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Between {
    #[allow(dead_code)]
    tenant: Option<String>,
    from: i64,
    to: i64,
}

#[derive(Serialize, ToSchema)]
struct Diff {
    /// Unified; empty where both are equal.
    diff: String,
}

#[utoipa::path(get, path = "/api/v1/artifacts/{kind}/{alias}/diff", params(("kind" = String, Path), ("alias" = String, Path), Between), responses((status = 200, body = Diff)))]
async fn diff(
    caller: Caller,
    At((named, alias)): At<(String, String)>,
    Asked(between): Asked<Between>,
) -> Answer<Json<Diff>> {
    let tenancy = caller.tenancy(Scope::Read).await?;
    Ok(Json(Diff { diff: tenancy.diff(kind(&named)?, &alias, between.from, between.to).await? }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OfEnvironment {
    #[allow(dead_code)]
    tenant: Option<String>,
    environment: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct History {
    deployments: Vec<Deployment>,
}

/// What was in force when, newest first.
#[utoipa::path(get, path = "/api/v1/artifacts/{kind}/{alias}/deployments", params(("kind" = String, Path), ("alias" = String, Path), OfEnvironment), responses((status = 200, body = History)))]
async fn history(
    caller: Caller,
    At((named, alias)): At<(String, String)>,
    Asked(asked): Asked<OfEnvironment>,
) -> Answer<Json<History>> {
    let tenancy = caller.tenancy(Scope::Read).await?;
    Ok(Json(History { deployments: tenancy.history(kind(&named)?, &alias, asked.environment.as_deref()).await? }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewDeployment {
    environment: String,
    /// The newest that is not deprecated if left out; for a roll-back, the one that was in force before.
    version: Option<i64>,
    #[serde(default)]
    note: String,
    /// The newest revision that the operator saw; 0 for none.
    expected_revision: Option<i64>,
}

impl NewDeployment {
    fn deploy(&self) -> Deploy<'_> {
        Deploy { environment: &self.environment, note: &self.note, expected_revision: self.expected_revision }
    }

    fn answer(&self, version: Option<i64>, revision: i64) -> Json<Deployed> {
        Json(Deployed { environment: self.environment.clone(), version, revision })
    }
}

#[derive(Serialize, ToSchema)]
struct Deployed {
    environment: String,
    version: Option<i64>,
    revision: i64,
}

#[utoipa::path(post, path = "/api/v1/artifacts/{kind}/{alias}/deployments", params(("kind" = String, Path), ("alias" = String, Path), ForTenant), request_body = NewDeployment, responses((status = 201, body = Deployed)))]
async fn deploy(
    caller: Caller,
    At((named, alias)): At<(String, String)>,
    Sent(new): Sent<NewDeployment>,
) -> Answer<impl IntoResponse> {
    let tenancy = caller.tenancy(Scope::Deploy).await?;
    let (number, revision) = tenancy.deploy(kind(&named)?, &alias, new.version, new.deploy()).await?;
    Ok((StatusCode::CREATED, new.answer(Some(number), revision)))
}

#[utoipa::path(post, path = "/api/v1/artifacts/{kind}/{alias}/rollback", params(("kind" = String, Path), ("alias" = String, Path), ForTenant), request_body = NewDeployment, responses((status = 201, body = Deployed)))]
async fn roll_back(
    caller: Caller,
    At((named, alias)): At<(String, String)>,
    Sent(new): Sent<NewDeployment>,
) -> Answer<impl IntoResponse> {
    let tenancy = caller.tenancy(Scope::Deploy).await?;
    let (number, revision) = tenancy.roll_back(kind(&named)?, &alias, new.version, new.deploy()).await?;
    Ok((StatusCode::CREATED, new.answer(Some(number), revision)))
}

/// Takes it out of force.
#[utoipa::path(post, path = "/api/v1/artifacts/{kind}/{alias}/withdraw", params(("kind" = String, Path), ("alias" = String, Path), ForTenant), request_body = NewDeployment, responses((status = 201, body = Deployed)))]
async fn withdraw(
    caller: Caller,
    At((named, alias)): At<(String, String)>,
    Sent(new): Sent<NewDeployment>,
) -> Answer<impl IntoResponse> {
    let tenancy = caller.tenancy(Scope::Deploy).await?;
    let revision = tenancy.withdraw(kind(&named)?, &alias, new.deploy()).await?;
    Ok((StatusCode::CREATED, new.answer(None, revision)))
}

/// Renders without deploying or sending: messages, variables, tokens, cost.
#[utoipa::path(post, path = "/api/v1/render", params(ForTenant), request_body = Preview, responses((status = 200, body = Previewed)))]
async fn render(caller: Caller, Sent(asked): Sent<Preview>) -> Answer<impl IntoResponse> {
    // Values of variables stand in it: nothing keeps it.
    let previewed = caller.tenancy(Scope::Read).await?.preview(&asked).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(previewed)))
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Protected {
    environments: BTreeSet<String>,
}

#[utoipa::path(get, path = "/api/v1/protected-environments", params(ForTenant), responses((status = 200, body = Protected)))]
async fn protected(caller: Caller) -> Answer<impl IntoResponse> {
    let environments = caller.tenancy(Scope::Read).await?.protected_environments().await?;
    Ok((etag(revision_of(&environments)), Json(Protected { environments })))
}

/// Protects exactly these environments.
#[utoipa::path(put, path = "/api/v1/protected-environments", params(ForTenant), request_body = Protected, responses((status = 200, body = Protected)))]
async fn protect(caller: Caller, Sent(new): Sent<Protected>) -> Answer<impl IntoResponse> {
    caller.tenancy(Scope::Protected).await?.protect(&new.environments, caller.expected()?).await?;
    Ok((etag(revision_of(&new.environments)), Json(new)))
}

#[derive(Serialize, ToSchema)]
struct Experiments {
    experiments: Vec<Experiment>,
}

#[utoipa::path(get, path = "/api/v1/experiments", params(ForTenant), responses((status = 200, body = Experiments)))]
async fn experiments(caller: Caller) -> Answer<Json<Experiments>> {
    Ok(Json(Experiments { experiments: caller.tenancy(Scope::Read).await?.experiments().await? }))
}

#[utoipa::path(post, path = "/api/v1/experiments", params(ForTenant), request_body = NewExperiment, responses((status = 201, body = Experiment)))]
async fn create_experiment(caller: Caller, Sent(new): Sent<NewExperiment>) -> Answer<impl IntoResponse> {
    let made = caller.tenancy(Scope::Write).await?.create_experiment(&new).await?;
    Ok((StatusCode::CREATED, etag(made.revision), Json(made)))
}

#[utoipa::path(get, path = "/api/v1/experiments/{name}", params(("name" = String, Path), ForTenant), responses((status = 200, body = Experiment)))]
async fn experiment(caller: Caller, At(name): At<String>) -> Answer<impl IntoResponse> {
    let found = caller.tenancy(Scope::Read).await?.experiment(&name).await?;
    Ok((etag(found.revision), Json(found)))
}

/// Starts, stops, changes coverage or adds arms.
#[utoipa::path(patch, path = "/api/v1/experiments/{name}", params(("name" = String, Path), ForTenant), request_body = ExperimentChange, responses((status = 200, body = Experiment)))]
async fn change_experiment(
    caller: Caller,
    At(name): At<String>,
    Sent(change): Sent<ExperimentChange>,
) -> Answer<impl IntoResponse> {
    let tenancy = caller.tenancy(Scope::Deploy).await?;
    let changed = tenancy.change_experiment(&name, &change, caller.expected()?).await?;
    Ok((etag(changed.revision), Json(changed)))
}

#[utoipa::path(delete, path = "/api/v1/experiments/{name}", params(("name" = String, Path), ForTenant), responses((status = 200, body = Object)))]
async fn remove_experiment(caller: Caller, At(name): At<String>) -> Answer<Json<Value>> {
    caller.tenancy(Scope::Write).await?.delete_experiment(&name, caller.expected()?).await?;
    Ok(Json(json!({ "done": true })))
}

#[utoipa::path(get, path = "/api/v1/experiments/{name}/results", params(("name" = String, Path), ForTenant), responses((status = 200, body = ExperimentResult)))]
async fn results(caller: Caller, At(name): At<String>) -> Answer<Json<ExperimentResult>> {
    Ok(Json(caller.tenancy(Scope::Read).await?.results(&name).await?))
}
