//! The source of truth: keys, prompts and their versions, knowledge; and the publisher of snapshots.
//!
//! It knows neither the request path nor any dialect. Everything lives in one data folder: the database, the
//! publisher's signing key, the pepper of key hashes. Writes are transactions; a command that was killed is finished
//! by running it again.

mod api;
mod identity;
mod keys;
mod knowledge;
mod prompts;
mod publish;
mod schema;

pub use api::router;
pub use identity::{Identity, IdentityError, read_pepper, read_publisher_key};
pub use keys::{CreatedKey, KeyRecord, NewKey, hash_key};
pub use knowledge::{Document, IngestError, IngestSummary, ReadError, Source};
pub use prompts::{PromptFile, PromptRecord, PromptVersion};
pub use publish::{Publication, PublishError, verify_published};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, Transaction};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An opened store.
#[derive(Clone)]
pub struct Store {
    pool: SqlitePool,
    folder: PathBuf,
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
    #[error("somebody else changed `{0}` at the same time; look at it and try again")]
    Conflict(String),
    #[error("no randomness from the operating system: {0}")]
    Random(getrandom::Error),
}

impl Store {
    /// Opens the store in `folder`, making what is missing: the folder, the database, its tables.
    pub async fn open(folder: &Path) -> Result<Store, StoreError> {
        std::fs::create_dir_all(folder).map_err(|source| StoreError::Open { folder: folder.to_owned(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(folder.join("store.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With FULL an acknowledged write survives power loss, not only the process's death.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(20));
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        schema::migrate(&pool).await?;
        Ok(Store { pool, folder: folder.to_owned() })
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The id of the tenant named `slug`, made if it is new.
    pub async fn tenant(&self, slug: &str) -> Result<Vec<u8>, StoreError> {
        check_name("tenant", slug)?;
        let find = "SELECT id FROM tenant WHERE slug = $1";
        if let Some(id) = sqlx::query_scalar(find).bind(slug).fetch_optional(&self.pool).await? {
            return Ok(id);
        }
        let mut write = self.write().await?;
        if let Some(id) = sqlx::query_scalar(find).bind(slug).fetch_optional(&mut *write).await? {
            return Ok(id);
        }
        let id = new_id();
        sqlx::query("INSERT INTO tenant (id, slug, created_at) VALUES ($1, $2, $3)")
            .bind(&id)
            .bind(slug)
            .bind(now())
            .execute(&mut *write)
            .await?;
        write.commit().await?;
        Ok(id)
    }

    /// Whether nothing was ever written.
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM tenant").fetch_one(&self.pool).await?;
        Ok(rows == 0)
    }

    /// The number of the newest change.
    pub async fn latest_change(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM event").fetch_one(&self.pool).await?)
    }

    /// A transaction that holds the write lock from its beginning: one that took it later could fail half-way.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }
}

async fn record_event(
    write: &mut Transaction<'static, Sqlite>,
    tenant: &[u8],
    kind: &str,
    entity: &str,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO event (tenant_id, kind, entity, at) VALUES ($1, $2, $3, $4)")
        .bind(tenant)
        .bind(kind)
        .bind(entity)
        .bind(now())
        .execute(&mut **write)
        .await?;
    Ok(())
}

/// Microseconds since the Unix epoch.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
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

/// Who did it, for history: the operating system's user.
fn actor() -> String {
    std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".to_owned())
}
