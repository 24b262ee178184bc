//! Migrations: forward only, each in a transaction of its own, under the database's write lock.

use crate::{StoreError, now};
use sqlx::sqlite::SqlitePool;

/// In order; a released one never changes.
const MIGRATIONS: [&str; 2] =
    [include_str!("../migrations/0001_first.sql"), include_str!("../migrations/0002_sequences.sql")];

pub(crate) async fn migrate(pool: &SqlitePool) -> Result<(), StoreError> {
    let mut write = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS schema_migration (number BIGINT PRIMARY KEY, at BIGINT NOT NULL)")
        .execute(&mut *write)
        .await?;
    let done: i64 =
        sqlx::query_scalar("SELECT COALESCE(MAX(number), 0) FROM schema_migration").fetch_one(&mut *write).await?;
    let known = MIGRATIONS.len() as i64;
    if done > known {
        return Err(StoreError::NewerSchema { found: done, known });
    }
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(done as usize) {
        sqlx::raw_sql(*sql).execute(&mut *write).await?;
        sqlx::query("INSERT INTO schema_migration (number, at) VALUES ($1, $2)")
            .bind(index as i64 + 1)
            .bind(now())
            .execute(&mut *write)
            .await?;
    }
    write.commit().await?;
    Ok(())
}
