//! What is said in runs, of tenants that keep it.
//!
//! The setting `run_content` makes it so. Edges seal each content to a public key; its secret key lies among the
//! tenant's sealed secrets and leaves the store for nobody. Whoever removes that secret makes everything unreadable that
//! was sealed to it.

use crate::database::Work;
use crate::records::{Erased, bytes};
use crate::secrets::{Keyring, OpenSecret};
use crate::{StoreError, Tenancy};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_segment::{Content, Contents, Said, fleet_public, unseal};
use std::collections::HashSet;
use utoipa::ToSchema;

/// The setting by which a tenant keeps what is said.
pub(crate) const SETTING: &str = "run_content";
/// The secret that opens it. No operator can make a secret of such a name.
const SECRET: &str = "(contents)";
const ORIGIN: &str = "store:contents";

/// The value of the setting.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keeping {
    pub days: i64,
    #[serde(default = "default_bytes")]
    pub max_bytes: u32,
}

fn default_bytes() -> u32 {
    32 << 10
}

impl Keeping {
    pub fn read(value: &Value) -> Result<Keeping, StoreError> {
        let read: Option<Keeping> = serde_json::from_value(value.clone()).ok();
        let is_sound = |keeping: &Keeping| {
            (1..=36_500).contains(&keeping.days) && (1 << 10..=64 << 10).contains(&keeping.max_bytes)
        };
        read.filter(is_sound).ok_or_else(|| {
            StoreError::Invalid(format!(
                "the setting `{SETTING}` must be {{\"days\": 1 to 36500}}, with \"max_bytes\" from 1024 to 65536 where 32768 \
                 bytes of a request and of an answer are not what to keep"
            ))
        })
    }
}

/// What was said in a run, as the provider knows it: with placeholders where personal data stood.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RunContent {
    pub id: String,
    /// Microseconds since the Unix epoch.
    pub at: i64,
    /// The body that the provider was sent.
    pub request: String,
    /// The body that it answered with; of a stream a JSON object of its texts, by their channels.
    pub answer: String,
    /// Whether either was too long, and ends where there was no more room.
    pub is_cut: bool,
}

/// Whether the secret of that name is the one that opens contents.
pub(crate) fn is_key(name: &str) -> bool {
    name == SECRET
}

/// The key that opens contents, where it is among a tenant's secrets.
fn key_among(secrets: &[OpenSecret]) -> Option<[u8; 32]> {
    let secret = secrets.iter().find(|secret| is_key(&secret.name))?;
    let mut key = [0; 32];
    hex::decode_to_slice(&*secret.value, &mut key).ok().map(|()| key)
}

impl Tenancy {
    /// What edges must know to keep what is said; nothing where the tenant does not want it, or its key is gone.
    pub(crate) async fn contents(
        &self,
        work: &mut Work,
        secrets: &[OpenSecret],
    ) -> Result<Option<Contents>, StoreError> {
        let Some(keeping) = self.keeping(work).await? else { return Ok(None) };
        Ok(key_among(secrets).map(|key| Contents { key: fleet_public(&key), max_bytes: keeping.max_bytes }))
    }

    pub(crate) async fn keeping(&self, work: &mut Work) -> Result<Option<Keeping>, StoreError> {
        let find = "SELECT value FROM setting WHERE tenant_id = $1 AND name = $2";
        let value: Option<String> =
            sqlx::query_scalar(find).bind(&self.id).bind(SETTING).fetch_optional(&mut **work).await?;
        let value: Option<Value> = value.and_then(|value| serde_json::from_str(&value).ok());
        Ok(value.and_then(|value| Keeping::read(&value).ok()))
    }

    /// Makes the key where there is none yet.
    pub(crate) async fn prepare_contents(&self, write: &mut Work) -> Result<(), StoreError> {
        let find = "SELECT COUNT(*) FROM secret WHERE tenant_id = $1 AND name = $2";
        let known: i64 = sqlx::query_scalar(find).bind(&self.id).bind(SECRET).fetch_one(&mut **write).await?;
        if known == 0 {
            let mut key = zeroize::Zeroizing::new([0; 32]);
            getrandom::fill(&mut *key).map_err(StoreError::Random)?;
            let value = zeroize::Zeroizing::new(hex::encode(*key));
            self.insert_secret(write, SECRET, ORIGIN, &value, "").await?;
        }
        Ok(())
    }

    pub(crate) async fn drop_contents(&self, write: &mut Work) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM run_content WHERE tenant_id = $1").bind(&self.id).execute(&mut **write).await?;
        Ok(())
    }

    /// Opens what was said in a run, and notes who did.
    pub async fn run_content(&self, run: &str) -> Result<RunContent, StoreError> {
        let none = || StoreError::NotFound { kind: "content", name: run.to_owned() };
        let id = hex::decode(run).map_err(|_| none())?;
        let run = hex::encode(&id);
        let mut write = self.write().await?;
        let find = "SELECT at, sealed FROM run_content WHERE tenant_id = $1 AND run_id = $2";
        let found: Option<(i64, Vec<u8>)> =
            sqlx::query_as(find).bind(&self.id).bind(id).fetch_optional(&mut *write).await?;
        let (at, sealed) = found.ok_or_else(none)?;
        let secrets = self.open_secrets(&mut write, &mut Keyring::Unopened).await?;
        let context = Contents::context(&hex::encode(&self.id), &run);
        let opened = key_among(&secrets).and_then(|key| unseal(&key, &context, &sealed));
        let said: Option<Said> = opened.and_then(|text| serde_json::from_slice(&text).ok());
        let Said { request, answer, is_cut } = said.ok_or_else(|| {
            StoreError::Invalid(format!(
                "the content of the run `{run}` cannot be opened; was the secret `{SECRET}` removed?"
            ))
        })?;
        self.note(&mut write, "content.read", &run, json!(null), false).await?;
        write.commit().await?;
        Ok(RunContent { id: run, at, request, answer, is_cut })
    }
}

/// The tenants that keep what is said.
pub(crate) async fn keepers(work: &mut Work) -> Result<HashSet<Vec<u8>>, StoreError> {
    let find = "SELECT tenant_id FROM setting WHERE name = $1";
    let rows: Vec<Vec<u8>> = sqlx::query_scalar(find).bind(SETTING).fetch_all(&mut **work).await?;
    Ok(rows.into_iter().collect())
}

/// Stores a content that an edge sealed; says whether it could be read. What nobody wants any more is let go.
pub(crate) async fn insert(
    write: &mut Work,
    keepers: &HashSet<Vec<u8>>,
    erased: &Erased,
    content: &Content<'_>,
) -> Result<bool, StoreError> {
    let (Some(run), Some(tenant), Ok(sealed)) =
        (bytes(&content.run), bytes(&content.tenant), STANDARD.decode(&*content.sealed))
    else {
        return Ok(false);
    };
    let subject = bytes(&content.subject);
    let is_erased = subject.as_ref().is_some_and(|subject| erased.holds(&tenant, subject, content.at));
    if is_erased || !keepers.contains(&tenant) {
        return Ok(true);
    }
    sqlx::query("INSERT INTO run_content (run_id, tenant_id, at, subject, sealed) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (run_id) DO NOTHING")
        .bind(run)
        .bind(tenant)
        .bind(content.at)
        .bind(subject)
        .bind(sealed)
        .execute(&mut **write)
        .await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_read_and_bounded() {
        assert_eq!(Keeping::read(&json!({ "days": 7 })).unwrap(), Keeping { days: 7, max_bytes: 32_768 });
        assert_eq!(Keeping::read(&json!({ "days": 1, "max_bytes": 1024 })).unwrap().max_bytes, 1_024);
        for wrong in [
            json!(true),
            json!({}),
            json!({ "days": 0 }),
            json!({ "days": 1, "max_bytes": 1 << 20 }),
            json!({ "days": 1, "x": 1 }),
        ] {
            assert!(Keeping::read(&wrong).unwrap_err().to_string().contains("`run_content` must be"), "{wrong}");
        }
    }
}
