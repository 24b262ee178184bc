//! Who may use the API, and what was changed by whom.
//!
//! A token is 256 random bits, shown once and kept as a hash. The data folder's `operator.token` is the first one: it
//! may do everything, so that there is always a way in for who has the machine.

use crate::database::{Whose, Work};
use crate::{Call, Identity, Store, StoreError, Tenancy, check_name, new_id, now};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// See everything but secrets.
    Read,
    /// Change artifacts, experiments, settings, knowledge.
    Write,
    /// Change what is in force.
    Deploy,
    /// The same in protected environments, and which those are.
    Protected,
    /// Make and revoke API keys.
    Keys,
    /// Change providers' credentials.
    Secrets,
    /// Read what was said in runs.
    Contents,
    /// Make tenants and operators.
    Admin,
}

impl Scope {
    pub const ALL: [Scope; 8] = [
        Scope::Read,
        Scope::Write,
        Scope::Deploy,
        Scope::Protected,
        Scope::Keys,
        Scope::Secrets,
        Scope::Contents,
        Scope::Admin,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Write => "write",
            Scope::Deploy => "deploy",
            Scope::Protected => "protected",
            Scope::Keys => "keys",
            Scope::Secrets => "secrets",
            Scope::Contents => "contents",
            Scope::Admin => "admin",
        }
    }
}

/// An operator who showed a good token.
#[derive(Clone, Debug)]
pub struct Operator {
    pub name: String,
    /// The only tenant that it may touch; `None`: all.
    pub tenant: Option<String>,
    pub scopes: Vec<Scope>,
}

/// An operator to be made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOperator {
    pub name: String,
    /// The only tenant that it may touch; left out: all.
    pub tenant: Option<String>,
    pub scopes: Vec<Scope>,
    /// Left out: never.
    pub expires_seconds: Option<u32>,
}

/// An operator as it is listed.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct OperatorRecord {
    pub name: String,
    pub tenant: Option<String>,
    pub scopes: Vec<String>,
    /// Microseconds since the Unix epoch; 0 = never.
    pub expires_at: i64,
    pub created_at: i64,
    pub revoked_at: Option<i64>,
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Event {
    pub sequence: i64,
    pub kind: String,
    pub entity: String,
    pub actor: String,
    /// JSON, or empty.
    pub detail: String,
    /// Microseconds since the Unix epoch.
    pub at: i64,
}

/// The answer of a call that named an idempotency key.
pub(crate) struct KeptAnswer {
    pub status: u16,
    /// Empty where it had none.
    pub etag: String,
    pub body: String,
}

/// What stands for the status of a call that has no answer yet: it runs; or it has made its change, in that change's own
/// transaction, so that it is never made twice, whenever the process ends. Till then the attempt stands in the place of its `etag`.
const RUNNING: i64 = 0;
const MADE: i64 = 1;
/// What stands there where the answer is not kept, as one that held a secret.
const NOT_KEPT: i64 = 2;
/// A call that was not made within so long may be begun again: its process may have died. If it lives after all, the
/// first of the two to make its change is the only one.
const CALL_MICROSECONDS: i64 = 20_000_000;

fn token_hash(token: &str) -> Vec<u8> {
    blake3::derive_key("sluice 2026-11 operator token", token.as_bytes()).to_vec()
}

impl Call {
    pub(crate) fn new(operator: &str, name: String) -> Call {
        Call { operator: operator.to_owned(), name, attempt: hex::encode(new_id()) }
    }

    /// Notes it as made, in the transaction of its change, which fails where another attempt took its place.
    pub(crate) async fn is_made(&self, write: &mut Work) -> Result<(), StoreError> {
        let noted =
            sqlx::query("UPDATE idempotency SET status = $4, at = $5 WHERE operator = $1 AND name = $2 AND etag = $3")
                .bind(&self.operator)
                .bind(&self.name)
                .bind(&self.attempt)
                .bind(MADE)
                .bind(now())
                .execute(&mut **write)
                .await?;
        match noted.rows_affected() {
            0 => Err(StoreError::Made),
            _ => Ok(()),
        }
    }
}

impl Store {
    /// The operator with that token, if it is good.
    pub async fn operator(&self, token: &str) -> Result<Option<Operator>, StoreError> {
        let root = hex::encode(Identity::open(self.folder())?.operator_token);
        // Hashes are compared in constant time by BLAKE3's own equality.
        if blake3::hash(token.as_bytes()) == blake3::hash(root.as_bytes()) {
            return Ok(Some(Operator { name: "operator".to_owned(), tenant: None, scopes: Scope::ALL.to_vec() }));
        }
        let mut read = self.database.read(Whose::All).await?;
        let row: Option<(String, String, Option<String>, i64)> = sqlx::query_as("SELECT o.name, o.scopes, t.slug, o.expires_at FROM operator o LEFT JOIN tenant t ON t.id = o.tenant_id WHERE o.token_hash = $1 AND o.revoked_at IS NULL")
            .bind(token_hash(token))
            .fetch_optional(&mut *read)
            .await?;
        let good = row.filter(|(_, _, _, expires_at)| *expires_at == 0 || *expires_at > now());
        Ok(good.map(|(name, scopes, tenant, _)| {
            let scopes = Scope::ALL.into_iter().filter(|scope| scopes.split(',').any(|name| name == scope.name()));
            Operator { name, tenant, scopes: scopes.collect() }
        }))
    }

    pub async fn operators(&self) -> Result<Vec<OperatorRecord>, StoreError> {
        let mut read = self.database.read(Whose::All).await?;
        type Row = (String, String, Option<String>, i64, i64, Option<i64>);
        let rows: Vec<Row> = sqlx::query_as("SELECT o.name, o.scopes, t.slug, o.expires_at, o.created_at, o.revoked_at FROM operator o LEFT JOIN tenant t ON t.id = o.tenant_id ORDER BY o.name").fetch_all(&mut *read).await?;
        let record = |(name, scopes, tenant, expires_at, created_at, revoked_at)| OperatorRecord {
            name,
            tenant,
            scopes: crate::keys::list(scopes),
            expires_at,
            created_at,
            revoked_at,
        };
        Ok(rows.into_iter().map(record).collect())
    }

    /// The answer that was given to a call before, if this is the same call again; otherwise the call is noted as
    /// running.
    pub(crate) async fn begin_call(&self, call: &Call, request: &[u8]) -> Result<Option<KeptAnswer>, StoreError> {
        let mut write = self.database.write(Whose::All).await?;
        // Answers are kept for a day.
        sqlx::query("DELETE FROM idempotency WHERE at < $1").bind(now() - 86_400_000_000).execute(&mut *write).await?;
        sqlx::query("DELETE FROM idempotency WHERE status = $2 AND at < $1 AND operator = $3 AND name = $4")
            .bind(now() - CALL_MICROSECONDS)
            .bind(RUNNING)
            .bind(&call.operator)
            .bind(&call.name)
            .execute(&mut *write)
            .await?;
        let known: Option<(Vec<u8>, i64, String, String, i64)> = sqlx::query_as(
            "SELECT request_hash, status, etag, body, at FROM idempotency WHERE operator = $1 AND name = $2",
        )
        .bind(&call.operator)
        .bind(&call.name)
        .fetch_optional(&mut *write)
        .await?;
        match known {
            Some((hash, ..)) if hash != request => Err(StoreError::Limit(
                "the idempotency key was used for another request; take a new one for each".to_owned(),
            )),
            Some((_, NOT_KEPT, ..)) => Err(StoreError::Made),
            // The process ended before it answered.
            Some((_, MADE, .., at)) if at < now() - CALL_MICROSECONDS => Err(StoreError::Made),
            Some((_, RUNNING | MADE, ..)) => {
                Err(StoreError::Conflict { name: "the same call, which still runs".to_owned(), found: 0 })
            }
            Some((_, status, etag, body, _)) => Ok(Some(KeptAnswer { status: status as u16, etag, body })),
            None => {
                sqlx::query("INSERT INTO idempotency (operator, name, request_hash, status, etag, body, at) VALUES ($1, $2, $3, $5, $6, '', $4)")
                    .bind(&call.operator)
                    .bind(&call.name)
                    .bind(request.to_vec())
                    .bind(now())
                    .bind(RUNNING)
                    .bind(&call.attempt)
                    .execute(&mut *write)
                    .await?;
                write.commit().await?;
                Ok(None)
            }
        }
    }

    /// Notes the answer of a call that was made.
    pub(crate) async fn end_call(&self, call: &Call, answer: KeptAnswer) -> Result<(), StoreError> {
        let mut write = self.database.write(Whose::All).await?;
        sqlx::query(
            "UPDATE idempotency SET status = $4, etag = $5, body = $6 WHERE operator = $1 AND name = $2 AND etag = $3",
        )
        .bind(&call.operator)
        .bind(&call.name)
        .bind(&call.attempt)
        .bind(i64::from(answer.status))
        .bind(answer.etag)
        .bind(answer.body)
        .execute(&mut *write)
        .await?;
        Ok(write.commit().await?)
    }

    /// Forgets a call that made no change, as one that failed: it may be made again. Of one that did nothing more is kept
    /// than that it was made.
    pub(crate) async fn forget_call(&self, call: &Call) -> Result<(), StoreError> {
        let mut write = self.database.write(Whose::All).await?;
        let not_kept =
            "UPDATE idempotency SET status = $5 WHERE operator = $1 AND name = $2 AND etag = $3 AND status = $4";
        sqlx::query(not_kept)
            .bind(&call.operator)
            .bind(&call.name)
            .bind(&call.attempt)
            .bind(MADE)
            .bind(NOT_KEPT)
            .execute(&mut *write)
            .await?;
        let gone = "DELETE FROM idempotency WHERE operator = $1 AND name = $2 AND etag = $3 AND status = $4";
        sqlx::query(gone)
            .bind(&call.operator)
            .bind(&call.name)
            .bind(&call.attempt)
            .bind(RUNNING)
            .execute(&mut *write)
            .await?;
        Ok(write.commit().await?)
    }
}

impl Tenancy {
    /// Makes an operator. Gives its token, which is not kept.
    pub async fn create_operator(&self, new: &NewOperator) -> Result<String, StoreError> {
        check_name("operator", &new.name)?;
        if new.name == "operator" || new.scopes.is_empty() {
            return Err(StoreError::Invalid(
                "an operator needs scopes, and the name `operator` belongs to the data folder's token".to_owned(),
            ));
        }
        let tenant = match &new.tenant {
            Some(tenant) => Some(self.store.tenancy(tenant, "").await?.id),
            None => None,
        };
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(StoreError::Random)?;
        let token = format!("op-sluice-{}", hex::encode(random));
        let scopes: Vec<&str> = new.scopes.iter().map(|scope| scope.name()).collect();
        let mut write = self.store.database.write(Whose::All).await?;
        let made = sqlx::query("INSERT INTO operator (id, name, token_hash, tenant_id, scopes, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING")
            .bind(new_id())
            .bind(&new.name)
            .bind(token_hash(&token))
            .bind(tenant)
            .bind(scopes.join(","))
            .bind(now())
            .bind(new.expires_seconds.map_or(0, |seconds| now() + i64::from(seconds) * 1_000_000))
            .execute(&mut *write)
            .await?;
        if made.rows_affected() == 0 {
            return Err(StoreError::Exists { kind: "operator", name: new.name.clone() });
        }
        let detail = json!({ "scopes": scopes, "tenant": new.tenant });
        self.note(&mut write, "operator.created", &new.name, detail, false).await?;
        write.commit().await?;
        Ok(token)
    }

    /// Revokes an operator's token, at once. Twice is no error.
    pub async fn revoke_operator(&self, name: &str) -> Result<(), StoreError> {
        let mut write = self.store.database.write(Whose::All).await?;
        let found = sqlx::query("UPDATE operator SET revoked_at = COALESCE(revoked_at, $2) WHERE name = $1")
            .bind(name)
            .bind(now())
            .execute(&mut *write)
            .await?;
        if found.rows_affected() == 0 {
            return Err(StoreError::NotFound { kind: "operator", name: name.to_owned() });
        }
        self.note(&mut write, "operator.revoked", name, json!(null), false).await?;
        Ok(write.commit().await?)
    }

    /// The newest changes, newest first; before `before`, where that is not 0.
    pub async fn events(&self, before: i64, limit: i64) -> Result<Vec<Event>, StoreError> {
        let rows: Vec<(i64, String, String, String, String, i64)> = sqlx::query_as("SELECT seq, kind, entity, actor, detail, at FROM event WHERE tenant_id = $1 AND ($2 = 0 OR seq < $2) ORDER BY seq DESC LIMIT $3")
            .bind(&self.id)
            .bind(before)
            .bind(limit)
            .fetch_all(&mut *self.read().await?)
            .await?;
        let event = |(sequence, kind, entity, actor, detail, at)| Event { sequence, kind, entity, actor, detail, at };
        Ok(rows.into_iter().map(event).collect())
    }
}
