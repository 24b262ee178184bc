//! Prompts: immutable versions, and deployments that point at them.

use crate::{Store, StoreError, actor, check_name, new_id, now, record_event};
use serde::{Deserialize, Serialize};
use sluice_text::Template;
use sqlx::{Row, Sqlite, Transaction};
use std::collections::BTreeMap;

/// A prompt's content as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptFile {
    /// Role and template of each message.
    pub messages: Vec<(String, String)>,
    /// Declared variables with their defaults; those without are required.
    pub variables: BTreeMap<String, Option<serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FrontMatter {
    #[serde(default)]
    variables: BTreeMap<String, DeclaredVariable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredVariable {
    default: Option<serde_json::Value>,
    #[serde(rename = "description")]
    _description: Option<String>,
}

impl PromptFile {
    /// Reads a template with optional TOML front matter between `+++` lines, and compiles it, so that no version is
    /// ever stored that cannot be rendered.
    pub fn parse(text: &str) -> Result<PromptFile, StoreError> {
        let invalid = |reason: String| StoreError::Invalid(reason);
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (declared, template) = match text.strip_prefix("+++\n") {
            None => (None, text),
            Some(rest) => {
                let (front, template) = rest
                    .split_once("\n+++\n")
                    .ok_or_else(|| invalid("the front matter has no closing `+++` line".to_owned()))?;
                let front: FrontMatter =
                    toml::from_str(front).map_err(|error| invalid(format!("the front matter: {error}")))?;
                let declared = front.variables.into_iter().map(|(name, variable)| (name, variable.default)).collect();
                (Some(declared), template)
            }
        };
        let messages = vec![("system".to_owned(), template.trim_end().to_owned())];
        let template = Template::compile(&messages, declared).map_err(|error| invalid(error.to_string()))?;
        Ok(PromptFile { messages, variables: template.variables().clone() })
    }
}

/// A prompt and where its versions are in force.
#[derive(Clone, Debug, Serialize)]
pub struct PromptRecord {
    pub alias: String,
    pub versions: i64,
    /// Environment, version, revision.
    pub deployments: Vec<(String, i64, i64)>,
}

/// One version.
#[derive(Clone, Debug, Serialize)]
pub struct PromptVersion {
    pub alias: String,
    pub number: i64,
    pub note: String,
    pub author: String,
    pub created_at: i64,
    pub content: PromptFile,
}

impl Store {
    /// Stores `file` as the newest version of `alias`, unless it is what the newest version holds. Gives its number.
    pub async fn put_prompt(
        &self,
        tenant: &str,
        alias: &str,
        file: &PromptFile,
        note: &str,
    ) -> Result<i64, StoreError> {
        check_name("prompt", alias)?;
        let tenant = self.tenant(tenant).await?;
        let failed = |error: serde_json::Error| StoreError::Invalid(error.to_string());
        let body = serde_json::to_string(&file.messages).map_err(failed)?;
        let vars = serde_json::to_string(&file.variables).map_err(failed)?;
        let hash = blake3::hash(format!("{body}\n{vars}").as_bytes()).as_bytes().to_vec();
        let mut write = self.write().await?;
        let artifact = match find(&mut write, &tenant, alias).await? {
            Some(id) => id,
            None => {
                let id = new_id();
                sqlx::query(
                    "INSERT INTO artifact (id, tenant_id, kind, alias, created_at) VALUES ($1, $2, 'prompt', $3, $4)",
                )
                .bind(&id)
                .bind(&tenant)
                .bind(alias)
                .bind(now())
                .execute(&mut *write)
                .await?;
                id
            }
        };
        let newest = sqlx::query(
            "SELECT number, content_hash FROM artifact_version WHERE artifact_id = $1 ORDER BY number DESC LIMIT 1",
        )
        .bind(&artifact)
        .fetch_optional(&mut *write)
        .await?;
        let number = match newest {
            Some(row) if row.try_get::<Vec<u8>, _>("content_hash")? == hash => return Ok(row.try_get("number")?),
            Some(row) => row.try_get::<i64, _>("number")? + 1,
            None => 1,
        };
        sqlx::query("INSERT INTO artifact_version (id, artifact_id, number, content_hash, body, vars, note, author, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
            .bind(new_id())
            .bind(&artifact)
            .bind(number)
            .bind(hash)
            .bind(body)
            .bind(vars)
            .bind(note)
            .bind(actor())
            .bind(now())
            .execute(&mut *write)
            .await?;
        record_event(&mut write, &tenant, "prompt.version", alias).await?;
        write.commit().await?;
        Ok(number)
    }

    /// Puts a version (`None`: the newest) in force in `environment`. Gives the version's number.
    pub async fn deploy_prompt(
        &self,
        tenant: &str,
        alias: &str,
        version: Option<i64>,
        environment: &str,
        note: &str,
    ) -> Result<i64, StoreError> {
        check_name("environment", environment)?;
        let tenant = self.tenant(tenant).await?;
        let mut write = self.write().await?;
        let artifact = find(&mut write, &tenant, alias)
            .await?
            .ok_or_else(|| StoreError::NotFound { kind: "prompt", name: alias.to_owned() })?;
        let row = sqlx::query("SELECT id, number FROM artifact_version WHERE artifact_id = $1 AND ($2 IS NULL OR number = $2) ORDER BY number DESC LIMIT 1").bind(&artifact).bind(version).fetch_optional(&mut *write).await?;
        let row = row.ok_or_else(|| StoreError::NotFound {
            kind: "prompt version",
            name: format!("{alias}@{}", version.unwrap_or(0)),
        })?;
        let (id, number): (Vec<u8>, i64) = (row.try_get("id")?, row.try_get("number")?);
        self.point(write, &tenant, &artifact, alias, environment, &id, note).await?;
        Ok(number)
    }

    /// Goes back to version `to`, or to the version that was in force before. Gives the version's number.
    pub async fn rollback_prompt(
        &self,
        tenant: &str,
        alias: &str,
        to: Option<i64>,
        environment: &str,
    ) -> Result<i64, StoreError> {
        if let Some(version) = to {
            return self.deploy_prompt(tenant, alias, Some(version), environment, "roll-back").await;
        }
        let tenant = self.tenant(tenant).await?;
        let mut write = self.write().await?;
        let artifact = find(&mut write, &tenant, alias)
            .await?
            .ok_or_else(|| StoreError::NotFound { kind: "prompt", name: alias.to_owned() })?;
        let history = sqlx::query("SELECT v.id AS id, v.number AS number FROM deployment d JOIN artifact_version v ON v.id = d.version_id WHERE d.artifact_id = $1 AND d.environment = $2 ORDER BY d.revision DESC").bind(&artifact).bind(environment).fetch_all(&mut *write).await?;
        let now_in_force: Option<i64> = history.first().map(|row| row.try_get("number")).transpose()?;
        for row in &history {
            let number: i64 = row.try_get("number")?;
            if Some(number) != now_in_force {
                let id: Vec<u8> = row.try_get("id")?;
                self.point(write, &tenant, &artifact, alias, environment, &id, "roll-back").await?;
                return Ok(number);
            }
        }
        Err(StoreError::Invalid(format!("`{alias}` has no earlier version in `{environment}` to go back to")))
    }

    #[allow(clippy::too_many_arguments)]
    async fn point(
        &self,
        mut write: Transaction<'static, Sqlite>,
        tenant: &[u8],
        artifact: &[u8],
        alias: &str,
        environment: &str,
        version: &[u8],
        note: &str,
    ) -> Result<(), StoreError> {
        let revision: i64 = sqlx::query_scalar(
            "SELECT COALESCE(MAX(revision), 0) + 1 FROM deployment WHERE artifact_id = $1 AND environment = $2",
        )
        .bind(artifact)
        .bind(environment)
        .fetch_one(&mut *write)
        .await?;
        let inserted = sqlx::query("INSERT INTO deployment (artifact_id, environment, revision, version_id, actor, note, at) VALUES ($1, $2, $3, $4, $5, $6, $7)")
            .bind(artifact)
            .bind(environment)
            .bind(revision)
            .bind(version)
            .bind(actor())
            .bind(note)
            .bind(now())
            .execute(&mut *write)
            .await;
        match inserted {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                return Err(StoreError::Conflict(alias.to_owned()));
            }
            other => other?,
        };
        record_event(&mut write, tenant, "prompt.deployed", &format!("{alias}/{environment}")).await?;
        write.commit().await?;
        Ok(())
    }

    pub async fn prompts(&self, tenant: &str) -> Result<Vec<PromptRecord>, StoreError> {
        let tenant = self.tenant(tenant).await?;
        let rows = sqlx::query("SELECT a.id AS id, a.alias AS alias, COUNT(v.id) AS versions FROM artifact a LEFT JOIN artifact_version v ON v.artifact_id = a.id WHERE a.tenant_id = $1 AND a.kind = 'prompt' GROUP BY a.id, a.alias ORDER BY a.alias").bind(&tenant).fetch_all(&self.pool).await?;
        let mut records = Vec::new();
        for row in rows {
            let id: Vec<u8> = row.try_get("id")?;
            let deployed = sqlx::query("SELECT d.environment AS environment, v.number AS number, d.revision AS revision FROM deployment d JOIN artifact_version v ON v.id = d.version_id WHERE d.artifact_id = $1 AND d.revision = (SELECT MAX(revision) FROM deployment e WHERE e.artifact_id = d.artifact_id AND e.environment = d.environment) ORDER BY d.environment").bind(id).fetch_all(&self.pool).await?;
            let deployments = deployed
                .iter()
                .map(|row| Ok((row.try_get("environment")?, row.try_get("number")?, row.try_get("revision")?)))
                .collect::<Result<_, sqlx::Error>>()?;
            records.push(PromptRecord {
                alias: row.try_get("alias")?,
                versions: row.try_get("versions")?,
                deployments,
            });
        }
        Ok(records)
    }

    /// A version of a prompt; `None`: the newest.
    pub async fn prompt_version(
        &self,
        tenant: &str,
        alias: &str,
        version: Option<i64>,
    ) -> Result<PromptVersion, StoreError> {
        let tenant = self.tenant(tenant).await?;
        let row = sqlx::query("SELECT v.number AS number, v.body AS body, v.vars AS vars, v.note AS note, v.author AS author, v.created_at AS created_at FROM artifact_version v JOIN artifact a ON a.id = v.artifact_id WHERE a.tenant_id = $1 AND a.kind = 'prompt' AND a.alias = $2 AND ($3 IS NULL OR v.number = $3) ORDER BY v.number DESC LIMIT 1").bind(tenant).bind(alias).bind(version).fetch_optional(&self.pool).await?;
        let row = row.ok_or_else(|| StoreError::NotFound { kind: "prompt version", name: alias.to_owned() })?;
        Ok(PromptVersion {
            alias: alias.to_owned(),
            number: row.try_get("number")?,
            note: row.try_get("note")?,
            author: row.try_get("author")?,
            created_at: row.try_get("created_at")?,
            content: content(&row.try_get::<String, _>("body")?, &row.try_get::<String, _>("vars")?)?,
        })
    }
}

/// Reads what [`Store::put_prompt`] wrote.
pub(crate) fn content(body: &str, vars: &str) -> Result<PromptFile, StoreError> {
    let failed = |error: serde_json::Error| StoreError::Invalid(format!("a stored prompt cannot be read: {error}"));
    Ok(PromptFile {
        messages: serde_json::from_str(body).map_err(failed)?,
        variables: serde_json::from_str(vars).map_err(failed)?,
    })
}

async fn find(
    write: &mut Transaction<'static, Sqlite>,
    tenant: &[u8],
    alias: &str,
) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(sqlx::query_scalar("SELECT id FROM artifact WHERE tenant_id = $1 AND kind = 'prompt' AND alias = $2")
        .bind(tenant)
        .bind(alias)
        .fetch_optional(&mut **write)
        .await?)
}
