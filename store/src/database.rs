//! The database: SQLite in one file, or PostgreSQL by URL, on one code path.
//!
//! The statements are the part of SQL that both share. What differs is here: how a transaction begins, and the files
//! of migrations. Writers stand in one line on both (SQLite's write lock, an advisory lock on PostgreSQL), so the
//! numbers of changes rise in the order of their commits, which publishers rely on. On PostgreSQL every table of a
//! tenant has row-level security: a transaction sees the rows of the tenant that it was begun for, and nothing else.

use crate::{StoreError, content, now};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{Any, AnyPool, ConnectOptions, Transaction};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// A transaction of either database.
pub(crate) type Work = Transaction<'static, Any>;

#[derive(Clone)]
pub(crate) struct Database {
    pool: AnyPool,
    engine: Engine,
}

#[derive(Clone, Copy, PartialEq)]
enum Engine {
    Sqlite,
    Postgres,
}

/// Whose rows a transaction sees.
#[derive(Clone, Copy)]
pub(crate) enum Whose<'t> {
    /// One tenant's, by id.
    Tenant(&'t [u8]),
    /// Everybody's: publication, operators, journals.
    All,
}

/// In order; a released one never changes. PostgreSQL came with the third.
const SQLITE: [&str; 9] = [
    include_str!("../migrations/sqlite/0001_first.sql"),
    include_str!("../migrations/sqlite/0002_sequences.sql"),
    include_str!("../migrations/sqlite/0003_artifacts.sql"),
    include_str!("../migrations/sqlite/0004_cost.sql"),
    include_str!("../migrations/sqlite/0005_embedders.sql"),
    include_str!("../migrations/sqlite/0006_epochs.sql"),
    include_str!("../migrations/sqlite/0007_blobs.sql"),
    include_str!("../migrations/sqlite/0008_contents.sql"),
    include_str!("../migrations/sqlite/0009_forgotten.sql"),
];
const POSTGRES: [&str; 9] = [
    "",
    "",
    include_str!("../migrations/postgres/0003_first.sql"),
    include_str!("../migrations/postgres/0004_cost.sql"),
    include_str!("../migrations/postgres/0005_embedders.sql"),
    include_str!("../migrations/postgres/0006_epochs.sql"),
    include_str!("../migrations/postgres/0007_blobs.sql"),
    include_str!("../migrations/postgres/0008_contents.sql"),
    include_str!("../migrations/postgres/0009_forgotten.sql"),
];

/// Writers of PostgreSQL stand in line at this advisory lock; the number is arbitrary and ours.
const WRITERS: &str = "SELECT pg_advisory_xact_lock(7310582)";
/// The same for publishers, which may stand there for the time of a publication.
const PUBLISHERS: &str = "SELECT pg_advisory_xact_lock(7310583)";

impl Database {
    /// Connects to `url`, or opens the file `store.db` in `folder`; makes and migrates the tables.
    pub(crate) async fn open(folder: &Path, url: Option<&str>) -> Result<Database, StoreError> {
        sqlx::any::install_default_drivers();
        let (engine, url) = match url {
            None => (Engine::Sqlite, sqlite_url(&folder.join("store.db"))),
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                (Engine::Postgres, url.to_owned())
            }
            // The URL may hold a password; it is not repeated.
            Some(_) => {
                return Err(StoreError::Invalid(
                    "the store's URL must begin with `postgres://`; without one the store is SQLite in the data folder"
                        .to_owned(),
                ));
            }
        };
        let options = AnyConnectOptions::from_str(&url)?.disable_statement_logging();
        let pool = AnyPoolOptions::new()
            .max_connections(match engine {
                Engine::Sqlite => 4,
                Engine::Postgres => 16,
            })
            .acquire_timeout(Duration::from_secs(20))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if engine == Engine::Sqlite {
                        // With FULL an acknowledged write survives power loss, not only the process's death; what is
                        // deleted is overwritten.
                        let pragmas = "PRAGMA busy_timeout = 20000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;";
                        sqlx::raw_sql(pragmas).execute(connection).await?;
                    }
                    Ok(())
                })
            })
            .connect_with(options)
            .await?;
        let database = Database { pool, engine };
        database.migrate().await?;
        Ok(database)
    }

    /// A transaction that reads one state.
    pub(crate) async fn read(&self, whose: Whose<'_>) -> Result<Work, StoreError> {
        let mut work = match self.engine {
            Engine::Sqlite => self.pool.begin().await?,
            Engine::Postgres => self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?,
        };
        self.confine(&mut work, whose).await?;
        Ok(work)
    }

    /// A transaction that writes. It holds the write lock from its beginning: one that took it later could fail
    /// half-way.
    pub(crate) async fn write(&self, whose: Whose<'_>) -> Result<Work, StoreError> {
        let mut work = match self.engine {
            Engine::Sqlite => self.pool.begin_with("BEGIN IMMEDIATE").await?,
            Engine::Postgres => {
                let mut work = self.pool.begin().await?;
                sqlx::query(WRITERS).execute(&mut *work).await?;
                work
            }
        };
        self.confine(&mut work, whose).await?;
        Ok(work)
    }

    /// A transaction that only keeps other publishers of this database away until it ends.
    pub(crate) async fn publish_alone(&self) -> Result<Option<Work>, StoreError> {
        match self.engine {
            // One file is one machine's; a lock in its folder is enough.
            Engine::Sqlite => Ok(None),
            Engine::Postgres => {
                let mut work = self.pool.begin().await?;
                sqlx::query(PUBLISHERS).execute(&mut *work).await?;
                Ok(Some(work))
            }
        }
    }

    /// Writes SQLite's database to a new file.
    pub(crate) async fn backup(&self, file: &Path) -> Result<(), StoreError> {
        if self.engine == Engine::Postgres {
            return Err(StoreError::Invalid("a PostgreSQL store is backed up with `pg_dump`".to_owned()));
        }
        if file.exists() {
            return Err(StoreError::Invalid(format!("{} exists already", file.display())));
        }
        let target = file.to_string_lossy().into_owned();
        sqlx::query("VACUUM INTO $1").bind(target).execute(&self.pool).await?;
        Ok(())
    }

    async fn confine(&self, work: &mut Work, whose: Whose<'_>) -> Result<(), StoreError> {
        if self.engine == Engine::Postgres {
            let tenant = match whose {
                Whose::Tenant(id) => hex::encode(id),
                Whose::All => "*".to_owned(),
            };
            sqlx::query("SELECT set_config('sluice.tenant', $1, true)").bind(tenant).execute(&mut **work).await?;
        }
        Ok(())
    }

    /// Each migration in a transaction of its own, under the write lock.
    async fn migrate(&self) -> Result<(), StoreError> {
        let migrations = match self.engine {
            Engine::Sqlite => SQLITE,
            Engine::Postgres => POSTGRES,
        };
        let known = migrations.len() as i64;
        loop {
            let mut write = self.write(Whose::All).await?;
            sqlx::query("CREATE TABLE IF NOT EXISTS schema_migration (number BIGINT PRIMARY KEY, at BIGINT NOT NULL)")
                .execute(&mut *write)
                .await?;
            let done: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(number), 0) FROM schema_migration")
                .fetch_one(&mut *write)
                .await?;
            if done > known {
                return Err(StoreError::NewerSchema { found: done, known });
            }
            let Some(sql) = migrations.get(done as usize) else { return Ok(write.commit().await?) };
            sqlx::raw_sql(*sql).execute(&mut *write).await?;
            if done == 2 {
                content::rewrite_versions(&mut write).await?;
            }
            sqlx::query("INSERT INTO schema_migration (number, at) VALUES ($1, $2)")
                .bind(done + 1)
                .bind(now())
                .execute(&mut *write)
                .await?;
            write.commit().await?;
        }
    }
}

/// Makes a backup the SQLite database of `folder`. It is opened first, which brings it to this program's schema.
pub async fn restore(folder: &Path, file: &Path, replace: bool) -> Result<(), StoreError> {
    let failed = |source| StoreError::Open { folder: folder.to_owned(), source };
    let target = folder.join("store.db");
    if target.exists() && !replace {
        return Err(StoreError::Invalid(format!("{} exists already; `--replace` replaces it", target.display())));
    }
    std::fs::create_dir_all(folder).map_err(failed)?;
    let aside = folder.join("restore");
    let _ = std::fs::remove_dir_all(&aside);
    std::fs::create_dir(&aside).map_err(failed)?;
    std::fs::copy(file, aside.join("store.db")).map_err(failed)?;
    let database = Database::open(&aside, None).await?;
    // The write-ahead log belongs into the file before it moves.
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&database.pool).await?;
    database.pool.close().await;
    for rest in ["store.db-wal", "store.db-shm"] {
        let _ = std::fs::remove_file(folder.join(rest));
    }
    std::fs::rename(aside.join("store.db"), &target).map_err(failed)?;
    std::fs::remove_dir_all(&aside).map_err(failed)
}

/// A file's name as a URL that makes the file.
fn sqlite_url(file: &Path) -> String {
    let mut path = String::new();
    for character in file.to_string_lossy().chars() {
        match character {
            '%' => path.push_str("%25"),
            '?' => path.push_str("%3F"),
            '#' => path.push_str("%23"),
            other => path.push(other),
        }
    }
    format!("sqlite://{path}?mode=rwc")
}
