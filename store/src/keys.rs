//! API keys: 256 random bits, shown once, kept as a peppered hash.

use crate::{Identity, StoreError, Tenancy, check_name, new_id, now};
use serde_json::json;
use sqlx::Row;

/// What a new key is to be.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub name: String,
    /// 0 = the configuration's default.
    pub requests_per_minute: u32,
    /// Microseconds since the Unix epoch; 0 = never.
    pub expires_at: i64,
    /// Names, or `*`.
    pub routes: Vec<String>,
    pub models: Vec<String>,
    pub asserts: Vec<String>,
}

/// A key that was just made; the only time that its text exists outside its owner's hands.
pub struct CreatedKey {
    pub id: String,
    pub key: String,
}

/// A key as the store knows it.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct KeyRecord {
    pub id: String,
    pub name: String,
    /// The key's first characters, to tell keys apart.
    pub prefix: String,
    pub requests_per_minute: i64,
    pub created_at: i64,
    pub expires_at: i64,
    pub revoked_at: Option<i64>,
    pub routes: Vec<String>,
    pub models: Vec<String>,
    pub asserts: Vec<String>,
}

/// The hash under which a key is known: BLAKE3 keyed with the pepper. Keys are 256-bit random, so no slow hash is
/// needed, and the look-up is one step.
pub fn hash_key(pepper: &[u8; 32], key: &str) -> [u8; 32] {
    *blake3::keyed_hash(pepper, key.as_bytes()).as_bytes()
}

impl Tenancy {
    pub async fn create_key(&self, new: NewKey) -> Result<CreatedKey, StoreError> {
        check_name("key", &new.name)?;
        for (list, names) in [("routes", &new.routes), ("models", &new.models), ("asserts", &new.asserts)] {
            let fits = |name: &String| !name.is_empty() && name.len() <= 256 && !name.contains([',', '\0', '\n']);
            if let Some(name) = names.iter().find(|name| !fits(name)) {
                return Err(StoreError::Invalid(format!(
                    "`{list}` cannot hold `{name}`: a name has no comma and 1 to 256 bytes"
                )));
            }
        }
        let identity = Identity::open(self.store.folder())?;
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(StoreError::Random)?;
        let key = format!("sk-sluice-{}", hex::encode(random));
        let mut write = self.write().await?;
        let taken: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM principal WHERE tenant_id = $1 AND name = $2 AND revoked_at IS NULL",
        )
        .bind(&self.id)
        .bind(&new.name)
        .fetch_one(&mut *write)
        .await?;
        if taken > 0 {
            return Err(StoreError::Exists { kind: "key", name: new.name });
        }
        let id = new_id();
        sqlx::query("INSERT INTO principal (id, tenant_id, name, cred_hash, prefix, rpm, routes, models, asserts, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)")
            .bind(&id)
            .bind(&self.id)
            .bind(&new.name)
            .bind(hash_key(&identity.pepper, &key).to_vec())
            .bind(&key[..16])
            .bind(i64::from(new.requests_per_minute))
            .bind(new.routes.join(","))
            .bind(new.models.join(","))
            .bind(new.asserts.join(","))
            .bind(now())
            .bind(new.expires_at)
            .execute(&mut *write)
            .await?;
        self.record(&mut write, "key.created", &new.name, json!(null)).await?;
        write.commit().await?;
        Ok(CreatedKey { id: hex::encode(id), key })
    }

    pub async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        let rows = sqlx::query("SELECT id, name, prefix, rpm, routes, models, asserts, created_at, expires_at, revoked_at FROM principal WHERE tenant_id = $1 ORDER BY created_at").bind(&self.id).fetch_all(&mut *self.read().await?).await?;
        let records = rows.iter().map(|row| {
            Ok(KeyRecord {
                id: hex::encode(row.try_get::<Vec<u8>, _>("id")?),
                name: row.try_get("name")?,
                prefix: row.try_get("prefix")?,
                requests_per_minute: row.try_get("rpm")?,
                created_at: row.try_get("created_at")?,
                expires_at: row.try_get("expires_at")?,
                revoked_at: row.try_get("revoked_at")?,
                routes: list(row.try_get("routes")?),
                models: list(row.try_get("models")?),
                asserts: list(row.try_get("asserts")?),
            })
        });
        records.collect()
    }

    /// Revokes the key with that id or name. Revoking twice is no error.
    pub async fn revoke_key(&self, id_or_name: &str) -> Result<(), StoreError> {
        let id = hex::decode(id_or_name).unwrap_or_default();
        let mut write = self.write().await?;
        let found = sqlx::query("UPDATE principal SET revoked_at = COALESCE(revoked_at, $1) WHERE tenant_id = $2 AND (id = $3 OR name = $4)").bind(now()).bind(&self.id).bind(id).bind(id_or_name).execute(&mut *write).await?;
        if found.rows_affected() == 0 {
            return Err(StoreError::NotFound { kind: "key", name: id_or_name.to_owned() });
        }
        self.record(&mut write, "key.revoked", id_or_name, json!(null)).await?;
        write.commit().await?;
        Ok(())
    }
}

pub(crate) fn list(text: String) -> Vec<String> {
    text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
