//! Tenants, keys, operators, settings; what happened.

use super::{Answer, Api, Asked, At, Caller, Fault, ForTenant, Sent, done, etag, page};
use crate::operators::Scope;
use crate::settings::EVENT_RETENTION;
use crate::transcripts::SETTING as CONTENTS;
use crate::{
    Bundle, EdgeState, Epoch, Event, FeedbackRecord, Import, ImportReport, KeyRecord, MigrationStatus, NewKey,
    NewOperator, OnConflict, OperatorRecord, RunContent, RunRecord, SecretRecord, Setting, StoreError, Tenancy, now,
};
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(tenants, create_tenant))
        .routes(routes!(limit_versions))
        .routes(routes!(keys, create_key))
        .routes(routes!(revoke_key))
        .routes(routes!(operators, create_operator))
        .routes(routes!(revoke_operator))
        .routes(routes!(settings))
        .routes(routes!(setting, put_setting, remove_setting))
        .routes(routes!(secrets))
        .routes(routes!(put_secret, remove_secret))
        .routes(routes!(rotate_secrets))
        .routes(routes!(backup))
        .routes(routes!(export))
        .routes(routes!(import))
        .routes(routes!(migrations, migrate))
        .routes(routes!(events))
        .routes(routes!(runs))
        .routes(routes!(feedback))
        .routes(routes!(run_content))
        .routes(routes!(edges))
        .routes(routes!(epochs))
        .routes(routes!(roll_back))
        .routes(routes!(roll_forward))
}

#[derive(Serialize, ToSchema)]
struct Epochs {
    /// Newest first.
    epochs: Vec<Epoch>,
}

/// The publications that can be gone back to.
#[utoipa::path(get, path = "/api/v1/epochs", responses((status = 200, body = Epochs)))]
async fn epochs(caller: Caller) -> Answer<Json<Epochs>> {
    caller.may(Scope::Read)?;
    kept_epochs(&caller).await
}

async fn kept_epochs(caller: &Caller) -> Answer<Json<Epochs>> {
    Ok(Json(Epochs { epochs: caller.api.store.epochs(&caller.api.location).await? }))
}

/// Has the prompts of that epoch in force, for all tenants, until what is deployed is in force again. Keys, credentials and
/// documents stay as they are. Where any environment is protected it takes the scope `protected` too.
#[utoipa::path(post, path = "/api/v1/epochs/{epoch}/rollback", params(("epoch" = u64, Path)), responses((status = 200, body = Epochs)))]
async fn roll_back(caller: Caller, At(epoch): At<u64>) -> Answer<Json<Epochs>> {
    caller.may_all(Scope::Admin)?;
    let location = Arc::clone(&caller.api.location);
    caller.tenancy(Scope::Admin).await?.go_back(&location, Some(epoch)).await?;
    kept_epochs(&caller).await
}

/// Has what is deployed in force again.
#[utoipa::path(delete, path = "/api/v1/epochs/rollback", responses((status = 200, body = Epochs)))]
async fn roll_forward(caller: Caller) -> Answer<Json<Epochs>> {
    caller.may_all(Scope::Admin)?;
    let location = Arc::clone(&caller.api.location);
    caller.tenancy(Scope::Admin).await?.go_back(&location, None).await?;
    kept_epochs(&caller).await
}

#[derive(Serialize, ToSchema)]
struct Tenants {
    tenants: Vec<String>,
}

#[utoipa::path(get, path = "/api/v1/tenants", responses((status = 200, body = Tenants)))]
async fn tenants(caller: Caller) -> Answer<Json<Tenants>> {
    caller.may(Scope::Read)?;
    let mut tenants = caller.api.store.tenants().await?;
    tenants.retain(|name| caller.operator.tenant.as_ref().is_none_or(|own| own == name));
    Ok(Json(Tenants { tenants }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTenant {
    name: String,
}

/// Makes a tenant; one that exists is no error.
#[utoipa::path(post, path = "/api/v1/tenants", request_body = NewTenant, responses((status = 201, body = Tenants)))]
async fn create_tenant(caller: Caller, Sent(new): Sent<NewTenant>) -> Answer<impl IntoResponse> {
    caller.may_all(Scope::Admin)?;
    caller.api.store.make_tenancy(&new.name, &caller.operator.name).await?;
    Ok((StatusCode::CREATED, Json(Tenants { tenants: vec![new.name] })))
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct VersionLimit {
    /// Most versions of an artifact; 0 for no limit.
    #[schema(minimum = 0)]
    version_limit: i64,
}

#[utoipa::path(put, path = "/api/v1/version-limit", params(ForTenant), request_body = VersionLimit, responses((status = 200, body = VersionLimit)))]
async fn limit_versions(caller: Caller, Sent(limit): Sent<VersionLimit>) -> Answer<Json<VersionLimit>> {
    caller.tenancy(Scope::Admin).await?.limit_versions(limit.version_limit).await?;
    Ok(Json(limit))
}

#[derive(Serialize, ToSchema)]
struct Keys {
    keys: Vec<KeyRecord>,
}

#[utoipa::path(get, path = "/api/v1/keys", params(ForTenant), responses((status = 200, body = Keys)))]
async fn keys(caller: Caller) -> Answer<Json<Keys>> {
    Ok(Json(Keys { keys: caller.tenancy(Scope::Read).await?.keys().await? }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AskedKey {
    name: String,
    /// The configuration's default if left out.
    requests_per_minute: Option<u32>,
    /// Never if left out.
    expires_seconds: Option<u32>,
    /// Names, or `*`; all if left out.
    routes: Option<Vec<String>>,
    /// Provider models; all if left out, but none where `routes` is given.
    models: Option<Vec<String>>,
    /// What its requests may steer; `variables` if left out.
    asserts: Option<Vec<String>>,
}

#[derive(Serialize, ToSchema)]
struct MadeKey {
    id: String,
    /// The only time that it is shown.
    key: String,
}

#[utoipa::path(post, path = "/api/v1/keys", params(ForTenant), request_body = AskedKey, responses((status = 201, body = MadeKey)))]
async fn create_key(caller: Caller, Sent(new): Sent<AskedKey>) -> Answer<impl IntoResponse> {
    let all = || vec!["*".to_owned()];
    let new = NewKey {
        name: new.name,
        requests_per_minute: new.requests_per_minute.unwrap_or(0),
        expires_at: new.expires_seconds.map_or(0, |seconds| now() + i64::from(seconds) * 1_000_000),
        models: new.models.unwrap_or_else(|| if new.routes.is_some() { Vec::new() } else { all() }),
        routes: new.routes.unwrap_or_else(all),
        asserts: new.asserts.unwrap_or_else(|| vec!["variables".to_owned()]),
    };
    if let Some(unknown) = new.asserts.iter().find(|name| !caller.api.asserts.contains(&name.as_str())) {
        let known = caller.api.asserts.join(", ");
        return Err(Fault::invalid(format!("`asserts` knows no `{unknown}`; there are {known}")));
    }
    let made = caller.tenancy(Scope::Keys).await?.create_key(new).await?;
    let headers = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, headers, Json(MadeKey { id: made.id, key: made.key })))
}

/// Revokes by id or name; twice is no error.
#[utoipa::path(delete, path = "/api/v1/keys/{key}", params(("key" = String, Path), ForTenant), responses((status = 200, body = Object)))]
async fn revoke_key(caller: Caller, At(key): At<String>) -> Answer<Json<Value>> {
    caller.tenancy(Scope::Keys).await?.revoke_key(&key).await?;
    Ok(done())
}

#[derive(Serialize, ToSchema)]
struct Operators {
    operators: Vec<OperatorRecord>,
}

#[utoipa::path(get, path = "/api/v1/operators", responses((status = 200, body = Operators)))]
async fn operators(caller: Caller) -> Answer<Json<Operators>> {
    caller.may_all(Scope::Admin)?;
    Ok(Json(Operators { operators: caller.api.store.operators().await? }))
}

#[derive(Serialize, ToSchema)]
struct MadeOperator {
    /// The only time that it is shown.
    token: String,
}

#[utoipa::path(post, path = "/api/v1/operators", request_body = NewOperator, responses((status = 201, body = MadeOperator)))]
async fn create_operator(caller: Caller, Sent(new): Sent<NewOperator>) -> Answer<impl IntoResponse> {
    caller.may_all(Scope::Admin)?;
    let token = caller.tenancy(Scope::Admin).await?.create_operator(&new).await?;
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(MadeOperator { token })))
}

#[utoipa::path(delete, path = "/api/v1/operators/{name}", params(("name" = String, Path)), responses((status = 200, body = Object)))]
async fn revoke_operator(caller: Caller, At(name): At<String>) -> Answer<Json<Value>> {
    caller.may_all(Scope::Admin)?;
    caller.tenancy(Scope::Admin).await?.revoke_operator(&name).await?;
    Ok(done())
}

#[derive(Serialize, ToSchema)]
struct Settings {
    settings: Vec<Setting>,
}

#[utoipa::path(get, path = "/api/v1/settings", params(ForTenant), responses((status = 200, body = Settings)))]
async fn settings(caller: Caller) -> Answer<Json<Settings>> {
    Ok(Json(Settings { settings: caller.tenancy(Scope::Read).await?.settings().await? }))
}

#[utoipa::path(get, path = "/api/v1/settings/{name}", params(("name" = String, Path), ForTenant), responses((status = 200, body = Setting)))]
async fn setting(caller: Caller, At(name): At<String>) -> Answer<impl IntoResponse> {
    let found = caller.tenancy(Scope::Read).await?.setting(&name).await?;
    Ok((etag(found.revision), Json(found)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSetting {
    value: Value,
    #[serde(default)]
    category: String,
    #[serde(default)]
    public: bool,
}

/// The tenant of a setting that is to be changed. Whether contents are kept is for who may read them, and how long it is
/// known who changed what is not for who changes things. What is public may be in force, in prompts that follow it.
async fn changing(caller: &Caller, name: &str, public: bool) -> Answer<Tenancy> {
    if name == CONTENTS {
        caller.may(Scope::Contents)?;
    }
    if name == EVENT_RETENTION {
        caller.may(Scope::Admin)?;
    }
    let tenancy = caller.tenancy(Scope::Write).await?;
    let was_public = match tenancy.setting(name).await {
        Ok(setting) => setting.public,
        Err(StoreError::NotFound { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    if public || was_public {
        caller.may(Scope::Deploy)?;
    }
    Ok(tenancy)
}

/// A public setting, which prompts may follow, takes the scope `deploy` too.
#[utoipa::path(put, path = "/api/v1/settings/{name}", params(("name" = String, Path), ForTenant), request_body = NewSetting, responses((status = 200, body = Setting)))]
async fn put_setting(caller: Caller, At(name): At<String>, Sent(new): Sent<NewSetting>) -> Answer<impl IntoResponse> {
    let tenancy = changing(&caller, &name, new.public).await?;
    let revision = tenancy.put_setting(&name, &new.value, &new.category, new.public, caller.expected()?).await?;
    Ok((etag(revision), Json(tenancy.setting(&name).await?)))
}

#[utoipa::path(delete, path = "/api/v1/settings/{name}", params(("name" = String, Path), ForTenant), responses((status = 200, body = Object)))]
async fn remove_setting(caller: Caller, At(name): At<String>) -> Answer<Json<Value>> {
    changing(&caller, &name, false).await?.delete_setting(&name, caller.expected()?).await?;
    Ok(done())
}

#[derive(Serialize, ToSchema)]
struct Secrets {
    secrets: Vec<SecretRecord>,
}

/// Providers' credentials, without the credentials themselves.
#[utoipa::path(get, path = "/api/v1/secrets", params(ForTenant), responses((status = 200, body = Secrets)))]
async fn secrets(caller: Caller) -> Answer<Json<Secrets>> {
    Ok(Json(Secrets { secrets: caller.tenancy(Scope::Read).await?.secrets().await? }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSecret {
    /// The provider's scheme and host, as `https://api.openai.com`; it is sent nowhere else.
    origin: String,
    value: String,
}

#[utoipa::path(put, path = "/api/v1/secrets/{name}", params(("name" = String, Path), ForTenant), request_body = NewSecret, responses((status = 200, body = SecretRecord)))]
async fn put_secret(caller: Caller, At(name): At<String>, Sent(new): Sent<NewSecret>) -> Answer<Json<SecretRecord>> {
    Ok(Json(caller.tenancy(Scope::Secrets).await?.put_secret(&name, &new.origin, &new.value).await?))
}

#[utoipa::path(delete, path = "/api/v1/secrets/{name}", params(("name" = String, Path), ForTenant), responses((status = 200, body = Object)))]
async fn remove_secret(caller: Caller, At(name): At<String>) -> Answer<Json<Value>> {
    caller.tenancy(Scope::Secrets).await?.delete_secret(&name).await?;
    Ok(done())
}

#[derive(Serialize, ToSchema)]
struct SealedAgain {
    secrets: u64,
}

/// Seals the credentials of all tenants with a new key.
#[utoipa::path(post, path = "/api/v1/secret-key/rotate", responses((status = 200, body = SealedAgain)))]
async fn rotate_secrets(caller: Caller) -> Answer<Json<SealedAgain>> {
    caller.may_all(Scope::Secrets)?;
    let secrets = caller.api.store.rotate_store_key(&caller.operator.name).await?;
    Ok(Json(SealedAgain { secrets }))
}

/// The SQLite database of all tenants as it is now, credentials sealed. A PostgreSQL store is backed up with `pg_dump`.
#[utoipa::path(get, path = "/api/v1/backup", responses((status = 200, content_type = "application/vnd.sqlite3", body = Vec<u8>)))]
async fn backup(caller: Caller) -> Answer<impl IntoResponse> {
    caller.may_all(Scope::Admin)?;
    let store = &caller.api.store;
    let failed = |source| Fault::from(StoreError::Open { folder: store.folder().to_owned(), source });
    // Beside the database, where there is room for it.
    let folder = tempfile::Builder::new().prefix(BACKUP).tempdir_in(store.folder()).map_err(failed)?;
    let file = folder.path().join("backup.db");
    store.backup(&file).await?;
    let file = tokio::fs::File::open(&file).await.map_err(failed)?;
    // Its name goes before a byte is sent, and itself with the last, or with the process.
    folder.close().map_err(failed)?;
    let pieces = futures::stream::try_unfold(file, |mut file| async move {
        let mut piece = vec![0; BACKUP_PIECE];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        std::io::Result::Ok((read > 0).then_some((piece, file)))
    });
    let headers = [(header::CONTENT_TYPE, "application/vnd.sqlite3"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, axum::body::Body::from_stream(pieces)))
}

/// What folders are called in which a backup is made; nobody else calls one so.
const BACKUP: &str = ".unfinished-backup-";

/// Removes what a process left that was killed while it made a backup.
pub fn forget_backups(folder: &Path) {
    let left = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in left.filter(|entry| entry.file_name().to_string_lossy().starts_with(BACKUP)) {
        // A younger one may be another process's.
        let age = entry.metadata().and_then(|found| found.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > BACKUP_TAKES) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// No backup takes longer.
const BACKUP_TAKES: Duration = Duration::from_secs(3_600);

/// What is read of a backup at once.
const BACKUP_PIECE: usize = 256 << 10;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OfKind {
    #[allow(dead_code)]
    tenant: Option<String>,
    /// Artifacts of one kind alone.
    kind: Option<String>,
}

/// Artifacts with their history, archived ones and drafts too, and experiments.
#[utoipa::path(get, path = "/api/v1/export", params(OfKind), responses((status = 200, body = Bundle)))]
async fn export(caller: Caller, Asked(asked): Asked<OfKind>) -> Answer<Json<Bundle>> {
    let kind = asked.kind.map(|kind| kind.parse()).transpose()?;
    Ok(Json(caller.tenancy(Scope::Read).await?.export(kind).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BundleImport {
    bundle: Bundle,
    #[serde(default)]
    on_conflict: OnConflict,
    /// What cannot be imported is left out, instead of everything.
    #[serde(default)]
    keep_going: bool,
    /// Puts the newest version of each template in force there; takes the scope `deploy`.
    deploy_to: Option<String>,
}

#[utoipa::path(post, path = "/api/v1/import", params(ForTenant), request_body = BundleImport, responses((status = 200, body = ImportReport)))]
async fn import(caller: Caller, Sent(asked): Sent<BundleImport>) -> Answer<Json<ImportReport>> {
    let tenancy = caller.tenancy(Scope::Write).await?;
    if asked.deploy_to.is_some() {
        caller.may(Scope::Deploy)?;
    }
    let how =
        Import { on_conflict: asked.on_conflict, keep_going: asked.keep_going, deploy_to: asked.deploy_to.as_deref() };
    Ok(Json(tenancy.import(asked.bundle, &how).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PromptFile {
    /// With an ending that tells how it is written: .jinja, .prompt, .prompty, .mustache or .json.
    name: String,
    text: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FileImport {
    files: Vec<PromptFile>,
    #[serde(default)]
    on_conflict: OnConflict,
    #[serde(default)]
    keep_going: bool,
    deploy_to: Option<String>,
}

/// Imports prompts of other systems: dotprompt, prompty, mustache, Langfuse, context-engineering rows, Jinja.
#[utoipa::path(post, path = "/api/v1/migrations", params(ForTenant), request_body = FileImport, responses((status = 200, body = ImportReport)))]
async fn migrate(caller: Caller, Sent(asked): Sent<FileImport>) -> Answer<Json<ImportReport>> {
    let tenancy = caller.tenancy(Scope::Write).await?;
    if asked.deploy_to.is_some() {
        caller.may(Scope::Deploy)?;
    }
    let how =
        Import { on_conflict: asked.on_conflict, keep_going: asked.keep_going, deploy_to: asked.deploy_to.as_deref() };
    let files: Vec<_> = asked.files.into_iter().map(|file| (file.name, file.text)).collect();
    Ok(Json(tenancy.migrate(&files, None, &how).await?))
}

#[derive(Serialize, ToSchema)]
struct Migrations {
    migrations: Vec<MigrationStatus>,
}

/// Imports of bundles and files, newest first.
#[utoipa::path(get, path = "/api/v1/migrations", params(ForTenant), responses((status = 200, body = Migrations)))]
async fn migrations(caller: Caller) -> Answer<Json<Migrations>> {
    Ok(Json(Migrations { migrations: caller.tenancy(Scope::Read).await?.migrations().await? }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Before {
    #[allow(dead_code)]
    tenant: Option<String>,
    /// Only changes before this sequence number.
    #[param(minimum = 0)]
    before: Option<i64>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
struct Events {
    events: Vec<Event>,
}

/// Who changed what, newest first.
#[utoipa::path(get, path = "/api/v1/events", params(Before), responses((status = 200, body = Events)))]
async fn events(caller: Caller, Asked(asked): Asked<Before>) -> Answer<Json<Events>> {
    let tenancy = caller.tenancy(Scope::Read).await?;
    Ok(Json(Events { events: tenancy.events(asked.before.unwrap_or(0), page(asked.limit)?).await? }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Earlier {
    #[allow(dead_code)]
    tenant: Option<String>,
    /// Only runs before this one, by its id.
    before: Option<String>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
struct Runs {
    runs: Vec<RunRecord>,
    /// How many are stored.
    total: i64,
}

/// What requests did, newest first.
#[utoipa::path(get, path = "/api/v1/runs", params(Earlier), responses((status = 200, body = Runs)))]
async fn runs(caller: Caller, Asked(asked): Asked<Earlier>) -> Answer<Json<Runs>> {
    let tenancy = caller.tenancy(Scope::Read).await?;
    let runs = tenancy.runs(asked.before.as_deref(), page(asked.limit)?).await?;
    Ok(Json(Runs { runs, total: tenancy.count_runs().await? }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Said {
    #[allow(dead_code)]
    tenant: Option<String>,
    /// Of this metric alone.
    metric: Option<String>,
    /// Of this run alone.
    run: Option<String>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
struct FeedbackList {
    feedback: Vec<FeedbackRecord>,
}

/// What was said of requests, newest first.
#[utoipa::path(get, path = "/api/v1/feedback", params(Said), responses((status = 200, body = FeedbackList)))]
async fn feedback(caller: Caller, Asked(asked): Asked<Said>) -> Answer<Json<FeedbackList>> {
    let tenancy = caller.tenancy(Scope::Read).await?;
    let metric = asked.metric.as_deref().unwrap_or_default();
    Ok(Json(FeedbackList { feedback: tenancy.feedback(metric, asked.run.as_deref(), page(asked.limit)?).await? }))
}

/// What was said in a run, of a tenant that keeps it by the setting `run_content`. Who asks is noted.
#[utoipa::path(get, path = "/api/v1/runs/{run}/content", params(("run" = String, Path)), responses((status = 200, body = RunContent)))]
async fn run_content(caller: Caller, At(run): At<String>) -> Answer<Json<RunContent>> {
    Ok(Json(caller.tenancy(Scope::Contents).await?.run_content(&run).await?))
}

#[derive(Serialize, ToSchema)]
struct Edges {
    edges: Vec<EdgeState>,
}

/// Which epoch each edge serves, by what it said last.
#[utoipa::path(get, path = "/api/v1/edges", responses((status = 200, body = Edges)))]
async fn edges(caller: Caller) -> Answer<Json<Edges>> {
    caller.may(Scope::Read)?;
    Ok(Json(Edges { edges: caller.api.store.edges(Arc::clone(&caller.api.location)).await? }))
}
