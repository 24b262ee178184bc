//! The source of truth: keys, prompts and their versions, experiments, knowledge, records; and the publisher of
//! snapshots.
//!
//! It knows neither the request path nor any dialect. The database is one file in the data folder or a PostgreSQL
//! server; the publisher's signing key and the pepper of key hashes are in the data folder. Writes are transactions; a
//! command that was killed is finished by running it again.

mod api;
mod artifacts;
mod blobs;
mod bundle;
mod content;
mod convert;
mod database;
mod deployments;
mod diff;
mod embedding;
mod epochs;
mod experiments;
mod identity;
mod keys;
mod knowledge;
mod operators;
mod preview;
mod publish;
mod records;
mod registry;
mod resolve;
mod secrets;
mod settings;
mod statistics;
mod transcripts;

pub use api::router;
pub use artifacts::{Artifact, Change, InForceAt, SectionHash, Version};
pub use blobs::{Attachment, AttachmentRow, Blob, MAX_BLOB};
pub use bundle::{
    Bundle, BundledArm, BundledArtifact, BundledDeployment, BundledDraft, BundledExperiment, BundledVersion,
    FailedImport, Import, ImportReport, MigrationStatus, OnConflict, Renamed,
};
pub use content::{Content, Example, Examples, Kind, Link, PromptContent, PromptMessage, Rule, Tools};
pub use convert::Format;
pub use database::restore;
pub use deployments::{Deploy, Deployment, revision_of};
pub use embedding::{Made, NotMade};
pub use epochs::Epoch;
pub use experiments::{Arm, Experiment, ExperimentChange, NewExperiment};
pub use identity::{
    Identity, IdentityError, StoreKeys, forget_publisher, prepare_publisher, read_fleet_key, read_pepper,
    read_publisher_keys, rotate_publisher,
};
pub use keys::{CreatedKey, KeyRecord, NewKey, hash_key};
pub use knowledge::{
    CollectionModel, CollectionSize, Document, DocumentRow, IngestError, IngestSummary, ReadError, Source,
};
pub use operators::{Event, NewOperator, Operator, OperatorRecord, Scope};
pub use preview::{Preview, Previewed, RenderedMessage, VariableUse};
pub use publish::{Publication, PublishError, verify_published};
pub use records::{ArmResult, Collected, EdgeState, ExperimentResult, RunRecord};
pub use secrets::SecretRecord;
pub use settings::Setting;
pub use statistics::{FeedbackRecord, MetricMean, VersionStatistics};
pub use transcripts::RunContent;

use database::{Database, Whose, Work};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// An opened store.
#[derive(Clone)]
pub struct Store {
    database: Database,
    folder: PathBuf,
}

/// One tenant's part of the store, used by somebody: the only way to what belongs to a tenant.
#[derive(Clone)]
pub struct Tenancy {
    store: Store,
    id: Vec<u8>,
    name: String,
    /// Who does it, for history.
    actor: String,
    /// Whether that one may change protected environments.
    protected_too: bool,
    /// The call with an idempotency key that this is, if it is one.
    call: Option<Arc<Call>>,
}

/// A call of the API that is to be made once: whose, and the name that it was given.
pub(crate) struct Call {
    pub operator: String,
    pub name: String,
    /// Of this attempt alone.
    pub attempt: String,
}

/// Something that the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the store in {folder}")]
    Open { folder: PathBuf, source: std::io::Error },
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("the store has schema {found}, this program knows {known}; use a program of at least that version")]
    NewerSchema { found: i64, known: i64 },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{0}")]
    Invalid(String),
    #[error("there is no {kind} `{name}`")]
    NotFound { kind: &'static str, name: String },
    #[error("{kind} `{name}` exists already")]
    Exists { kind: &'static str, name: String },
    #[error("{kind} `{name}` is in use: {by}")]
    InUse { kind: &'static str, name: String, by: String },
    #[error("somebody else changed `{name}`: it is at revision {found}; look at it and try again")]
    Conflict { name: String, found: i64 },
    #[error("the call was made, and its answer is not kept; look at what it made, or take a new idempotency key")]
    Made,
    #[error("{0}")]
    Limit(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("no randomness from the operating system: {0}")]
    Random(getrandom::Error),
}

impl Store {
    /// Opens the store: the PostgreSQL database at `url`, or the one in `folder`. Makes what is missing: the folder,
    /// the database's file, the tables.
    pub async fn open(folder: &Path, url: Option<&str>) -> Result<Store, StoreError> {
        std::fs::create_dir_all(folder).map_err(|source| StoreError::Open { folder: folder.to_owned(), source })?;
        Ok(Store { database: Database::open(folder, url).await?, folder: folder.to_owned() })
    }

    /// Writes the SQLite database to `file`, as it is at one moment.
    pub async fn backup(&self, file: &Path) -> Result<(), StoreError> {
        self.database.backup(file).await
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The tenant named `name`, for `actor`.
    pub async fn tenancy(&self, name: &str, actor: &str) -> Result<Tenancy, StoreError> {
        let mut read = self.database.read(Whose::All).await?;
        let id =
            sqlx::query_scalar("SELECT id FROM tenant WHERE slug = $1").bind(name).fetch_optional(&mut *read).await?;
        let id = id.ok_or_else(|| StoreError::NotFound { kind: "tenant", name: name.to_owned() })?;
        Ok(Tenancy {
            store: self.clone(),
            id,
            name: name.to_owned(),
            actor: actor.to_owned(),
            protected_too: false,
            call: None,
        })
    }

    /// The same, and the tenant is made if it is new.
    pub async fn make_tenancy(&self, name: &str, actor: &str) -> Result<Tenancy, StoreError> {
        check_name("tenant", name)?;
        match self.tenancy(name, actor).await {
            Err(StoreError::NotFound { .. }) => {}
            found => return found,
        }
        let mut write = self.database.write(Whose::All).await?;
        let made =
            sqlx::query("INSERT INTO tenant (id, slug, created_at) VALUES ($1, $2, $3) ON CONFLICT (slug) DO NOTHING")
                .bind(new_id())
                .bind(name)
                .bind(now())
                .execute(&mut *write)
                .await?;
        let is_new = made.rows_affected() == 1;
        let id = sqlx::query_scalar("SELECT id FROM tenant WHERE slug = $1").bind(name).fetch_one(&mut *write).await?;
        let (name, actor) = (name.to_owned(), actor.to_owned());
        let tenancy = Tenancy { store: self.clone(), id, name, actor, protected_too: false, call: None };
        if is_new {
            tenancy.record(&mut write, "tenant.created", &tenancy.name, Value::Null).await?;
        }
        write.commit().await?;
        Ok(tenancy)
    }

    /// The names of all tenants.
    pub async fn tenants(&self) -> Result<Vec<String>, StoreError> {
        let mut read = self.database.read(Whose::All).await?;
        Ok(sqlx::query_scalar("SELECT slug FROM tenant ORDER BY slug").fetch_all(&mut *read).await?)
    }

    /// Whether nothing was ever written.
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.tenants().await?.is_empty())
    }

    /// The number of the newest change that has to be published.
    pub async fn latest_change(&self) -> Result<i64, StoreError> {
        let mut read = self.database.read(Whose::All).await?;
        let find = "SELECT COALESCE(MAX(seq), 0) FROM event WHERE publishes = 1";
        Ok(sqlx::query_scalar(find).fetch_one(&mut *read).await?)
    }
}

impl Tenancy {
    /// The tenant's id, 16 bytes.
    pub fn id(&self) -> &[u8] {
        &self.id
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same for somebody who may change protected environments.
    pub fn with_protected(self, protected_too: bool) -> Tenancy {
        Tenancy { protected_too, ..self }
    }

    /// The same for a call that is to be made once: the change that it makes notes it as made.
    pub(crate) fn for_call(self, call: Option<Arc<Call>>) -> Tenancy {
        Tenancy { call, ..self }
    }

    async fn read(&self) -> Result<Work, StoreError> {
        self.store.database.read(Whose::Tenant(&self.id)).await
    }

    async fn write(&self) -> Result<Work, StoreError> {
        self.store.database.write(Whose::Tenant(&self.id)).await
    }

    /// Notes a change that edges must see, in the transaction that makes it.
    async fn record(&self, write: &mut Work, kind: &str, entity: &str, detail: Value) -> Result<(), StoreError> {
        self.note(write, kind, entity, detail, true).await
    }

    async fn note(
        &self,
        write: &mut Work,
        kind: &str,
        entity: &str,
        detail: Value,
        publishes: bool,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO event (tenant_id, kind, entity, at, actor, detail, publishes) VALUES ($1, $2, $3, $4, $5, $6, $7)")
            .bind(&self.id)
            .bind(kind)
            .bind(entity)
            .bind(now())
            .bind(&self.actor)
            .bind(if detail.is_null() { String::new() } else { detail.to_string() })
            .bind(i64::from(publishes))
            .execute(&mut **write)
            .await?;
        match &self.call {
            Some(call) => call.is_made(write).await,
            None => Ok(()),
        }
    }
}

/// Microseconds since the Unix epoch.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// Who did it, where it is a command's user: the operating system's.
pub fn local_actor() -> String {
    std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".to_owned())
}

fn new_id() -> Vec<u8> {
    uuid::Uuid::now_v7().as_bytes().to_vec()
}

/// Names appear in URLs, headers and files.
fn check_name(kind: &str, name: &str) -> Result<(), StoreError> {
    let fits = !name.is_empty()
        && name.len() <= 128
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    match fits {
        true => Ok(()),
        false => Err(StoreError::Invalid(format!(
            "`{name}` cannot name a {kind}: use letters, digits, `-`, `_` and `.`, at most 128"
        ))),
    }
}
