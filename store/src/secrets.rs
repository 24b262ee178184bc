//! Providers' credentials: sealed in the database, sealed again for the edges, never given back.
//!
//! A row is sealed with AES-256-GCM under the store's key; tenant, name and row id are authenticated with it, so that
//! a ciphertext cannot be moved to another row. The id of the sealing key stands in a column of its own and is not
//! authenticated, or the first change of keys would make everything unreadable. A secret is bound to the origin that
//! it is for: an edge sends it nowhere else.

use crate::database::{Whose, Work};
use crate::identity::StoreKeys;
use crate::{Store, StoreError, Tenancy, check_name, new_id, now, transcripts};
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// Longest credential, in bytes.
const MAX_SECRET: usize = 16 << 10;

/// A secret as it is listed.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SecretRecord {
    pub name: String,
    /// The only place that it is sent to, as `https://api.openai.com`.
    pub origin: String,
    /// Its last four characters, to tell secrets apart.
    pub last_four: String,
    /// Of the store's key that it is sealed with.
    pub key_id: String,
    /// Microseconds since the Unix epoch.
    pub updated_at: i64,
}

/// A secret that was opened for publication.
pub(crate) struct OpenSecret {
    pub name: String,
    pub origin: String,
    pub value: Zeroizing<Vec<u8>>,
}

/// The store's keys of one undertaking: asked for once, where the first secret needs them. A command that hangs is not
/// waited for by every tenant.
pub(crate) enum Keyring {
    Unopened,
    Open(StoreKeys),
    Unavailable,
}

fn cipher(key: &[u8; 32]) -> Aes256Gcm {
    Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key))
}

fn bound_to(tenant: &[u8], id: &[u8], name: &str, origin: &str) -> Vec<u8> {
    [b"secret\0", tenant, id, name.as_bytes(), b"\0", origin.as_bytes()].concat()
}

fn seal(keys: &StoreKeys, bound: &[u8], value: &[u8]) -> Result<(String, Vec<u8>, Vec<u8>), StoreError> {
    let (id, key) = keys.current();
    let mut nonce = [0; 12];
    getrandom::fill(&mut nonce).map_err(StoreError::Random)?;
    let sealed = cipher(key).encrypt(&Nonce::from(nonce), Payload { msg: value, aad: bound });
    let sealed = sealed.map_err(|_| StoreError::Invalid("the secret cannot be sealed".to_owned()))?;
    Ok((id.to_owned(), nonce.to_vec(), sealed))
}

fn open(
    keys: &StoreKeys,
    key_id: &str,
    bound: &[u8],
    nonce: Vec<u8>,
    sealed: &[u8],
    name: &str,
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let key = keys.of_id(key_id).ok_or_else(|| {
        StoreError::Invalid(format!(
            "the secret `{name}` is sealed with the store key {key_id}, which is not among this process's keys"
        ))
    })?;
    let nonce: [u8; 12] =
        nonce.try_into().map_err(|_| StoreError::Invalid(format!("the stored secret `{name}` is damaged")))?;
    let opened = cipher(key).decrypt(&Nonce::from(nonce), Payload { msg: sealed, aad: bound });
    opened.map(Zeroizing::new).map_err(|_| StoreError::Invalid(format!("the stored secret `{name}` is damaged")))
}

/// An origin as RFC 6454 writes it, from a URL that may have a path.
fn origin_of(url: &str) -> Result<String, StoreError> {
    let invalid = || {
        StoreError::Invalid("`origin` must be the provider's scheme and host, as `https://api.openai.com`".to_owned())
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(invalid)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    let known = matches!(scheme, "http" | "https");
    if !known || authority.is_empty() || authority.contains('@') || authority.contains(char::is_whitespace) {
        return Err(invalid());
    }
    let default = if scheme == "https" { ":443" } else { ":80" };
    Ok(format!("{scheme}://{}", authority.strip_suffix(default).unwrap_or(&authority)))
}

impl Tenancy {
    /// Seals a credential for the provider at `origin`. Another value or another origin replaces what was there.
    pub async fn put_secret(&self, name: &str, origin: &str, value: &str) -> Result<SecretRecord, StoreError> {
        check_name("secret", name)?;
        let origin = origin_of(origin)?;
        let value = value.trim();
        if value.is_empty() || value.len() > MAX_SECRET || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(StoreError::Invalid("the secret must be one word of visible ASCII characters".to_owned()));
        }
        let mut write = self.write().await?;
        // Of a short secret the last characters would be much of it.
        let last_four = if value.len() >= 16 { &value[value.len() - 4..] } else { "" };
        self.insert_secret(&mut write, name, &origin, value, last_four).await?;
        self.record(&mut write, "secret.changed", name, json!({ "origin": origin })).await?;
        write.commit().await?;
        let found = self.secrets().await?.into_iter().find(|secret| secret.name == name);
        found.ok_or_else(|| StoreError::NotFound { kind: "secret", name: name.to_owned() })
    }

    /// Seals a secret in the place of what had its name. Under the write lock: a change of keys meanwhile would leave a
    /// row that nothing opens.
    pub(crate) async fn insert_secret(
        &self,
        write: &mut Work,
        name: &str,
        origin: &str,
        value: &str,
        last_four: &str,
    ) -> Result<(), StoreError> {
        let id = new_id();
        let keys = tokio::task::block_in_place(|| StoreKeys::open(self.store.folder()))?;
        let (key_id, nonce, sealed) = seal(&keys, &bound_to(&self.id, &id, name, origin), value.as_bytes())?;
        sqlx::query("DELETE FROM secret WHERE tenant_id = $1 AND name = $2")
            .bind(&self.id)
            .bind(name)
            .execute(&mut **write)
            .await?;
        sqlx::query("INSERT INTO secret (id, tenant_id, name, origin, key_id, nonce, ciphertext, last_four, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
            .bind(&id)
            .bind(&self.id)
            .bind(name)
            .bind(origin)
            .bind(key_id)
            .bind(nonce)
            .bind(sealed)
            .bind(last_four)
            .bind(now())
            .execute(&mut **write)
            .await?;
        Ok(())
    }

    /// What there is, without the secrets themselves.
    pub async fn secrets(&self) -> Result<Vec<SecretRecord>, StoreError> {
        let rows: Vec<(String, String, String, String, i64)> = sqlx::query_as(
            "SELECT name, origin, last_four, key_id, updated_at FROM secret WHERE tenant_id = $1 ORDER BY name",
        )
        .bind(&self.id)
        .fetch_all(&mut *self.read().await?)
        .await?;
        let record = |(name, origin, last_four, key_id, updated_at)| SecretRecord {
            name,
            origin,
            last_four,
            key_id,
            updated_at,
        };
        Ok(rows.into_iter().map(record).collect())
    }

    pub async fn delete_secret(&self, name: &str) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let gone = sqlx::query("DELETE FROM secret WHERE tenant_id = $1 AND name = $2")
            .bind(&self.id)
            .bind(name)
            .execute(&mut *write)
            .await?;
        if gone.rows_affected() == 0 {
            return Err(StoreError::NotFound { kind: "secret", name: name.to_owned() });
        }
        if transcripts::is_key(name) && self.keeping(&mut write).await?.is_some() {
            // What was kept is unreadable now; what is said from here on is sealed to another key.
            self.prepare_contents(&mut write).await?;
        }
        self.record(&mut write, "secret.deleted", name, json!(null)).await?;
        Ok(write.commit().await?)
    }

    /// Name and origin of everything that is sealed.
    pub(crate) async fn secret_names(&self, work: &mut Work) -> Result<Vec<(String, String)>, StoreError> {
        let rows = sealed_rows(work, &self.id).await?;
        Ok(rows.into_iter().map(|(_, name, origin, ..)| (name, origin)).collect())
    }

    /// Everything opened, for sealing it to the fleet; nothing where the store's keys are known not to be had.
    pub(crate) async fn open_secrets(
        &self,
        work: &mut Work,
        keyring: &mut Keyring,
    ) -> Result<Vec<OpenSecret>, StoreError> {
        let rows = sealed_rows(work, &self.id).await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        if matches!(keyring, Keyring::Unopened) {
            let keys = tokio::task::block_in_place(|| StoreKeys::open(self.store.folder()));
            *keyring = Keyring::Unavailable;
            *keyring = Keyring::Open(keys?);
        }
        let Keyring::Open(keys) = keyring else { return Ok(Vec::new()) };
        let opened = rows.into_iter().filter_map(|(id, name, origin, key_id, nonce, sealed)| {
            let bound = bound_to(&self.id, &id, &name, &origin);
            let value = open(keys, &key_id, &bound, nonce, &sealed, &name);
            // One that cannot be opened is missing at the edges, and takes nothing else with it.
            let value = value.inspect_err(|error| tracing::error!(%error, "a secret is not published")).ok()?;
            Some(OpenSecret { name, origin, value })
        });
        Ok(opened.collect())
    }

    async fn seal_again(&self, keys: &StoreKeys) -> Result<u64, StoreError> {
        let mut write = self.write().await?;
        let mut sealed_again = 0;
        for (id, name, origin, key_id, nonce, sealed) in sealed_rows(&mut write, &self.id).await? {
            if key_id == keys.current().0 {
                continue;
            }
            let bound = bound_to(&self.id, &id, &name, &origin);
            let value = open(keys, &key_id, &bound, nonce, &sealed, &name)?;
            let (key_id, nonce, sealed) = seal(keys, &bound, &value)?;
            sqlx::query("UPDATE secret SET key_id = $2, nonce = $3, ciphertext = $4 WHERE id = $1")
                .bind(id)
                .bind(key_id)
                .bind(nonce)
                .bind(sealed)
                .execute(&mut *write)
                .await?;
            sealed_again += 1;
        }
        self.note(&mut write, "secret.rotated", "", json!({ "secrets": sealed_again }), false).await?;
        write.commit().await?;
        Ok(sealed_again)
    }
}

type SealedRow = (Vec<u8>, String, String, String, Vec<u8>, Vec<u8>);

async fn sealed_rows(work: &mut Work, tenant: &[u8]) -> Result<Vec<SealedRow>, StoreError> {
    let find = "SELECT id, name, origin, key_id, nonce, ciphertext FROM secret WHERE tenant_id = $1 ORDER BY name";
    Ok(sqlx::query_as(find).bind(tenant).fetch_all(&mut **work).await?)
}

impl Store {
    /// Makes a new store key and seals every secret with it; says how many. The old key stays in the file until
    /// nothing is sealed with it, which is when this has ended well.
    pub async fn rotate_store_key(&self, actor: &str) -> Result<u64, StoreError> {
        // One change of keys at a time.
        let lock = std::fs::File::options().create(true).append(true).open(self.folder().join("store.key.lock"));
        let failed = |source| StoreError::Open { folder: self.folder().to_owned(), source };
        let lock = lock.and_then(|file| tokio::task::block_in_place(|| file.lock().map(|()| file))).map_err(failed)?;
        let keys = StoreKeys::add(self.folder())?;
        let mut sealed_again = 0;
        for name in self.tenants().await? {
            sealed_again += self.tenancy(&name, actor).await?.seal_again(&keys).await?;
        }
        // Under the write lock, so that nothing is being sealed with an old key while it goes.
        let mut write = self.database.write(Whose::All).await?;
        let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM secret WHERE key_id <> $1")
            .bind(keys.current().0)
            .fetch_one(&mut *write)
            .await?;
        if left == 0 {
            StoreKeys::keep_current(self.folder())?;
        }
        drop(lock);
        Ok(sealed_again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_as_they_are_written_once() {
        for (url, origin) in [
            ("https://api.openai.com/v1", "https://api.openai.com"),
            ("HTTPS://x", ""),
            ("https://API.OpenAI.com:443", "https://api.openai.com"),
            ("http://127.0.0.1:8000/x?y", "http://127.0.0.1:8000"),
            ("https://user@host", ""),
            ("api.openai.com", ""),
            ("https://", ""),
        ] {
            assert_eq!(origin_of(url).unwrap_or_default(), origin, "{url}");
        }
    }
}
