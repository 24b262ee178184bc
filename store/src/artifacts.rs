//! Everything with a name and versions: prompts, partials, personas, agents, policies, tools, flows.
//!
//! An update is a new version; a version never changes. What may change (title, tags, whether it is enabled) has a
//! revision that rises with each change, so that of two editors who saw the same one the second is told.

use crate::content::{Content, Kind, Selector, content_hash};
use crate::database::Work;
use crate::{StoreError, Tenancy, check_name, new_id, now};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::Row;
use sqlx::any::AnyRow;
use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use utoipa::ToSchema;

/// An artifact without its versions' contents.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Artifact {
    pub kind: Kind,
    pub alias: String,
    pub title: String,
    pub tags: Vec<String>,
    /// `private` or `public`: what is public may be read, and its statistics, by operators of other tenants too.
    pub visibility: String,
    pub enabled: bool,
    /// Whether requests with this prompt get retrieved context; off while it moves from another system.
    pub context_engineering_enabled: bool,
    pub is_default: bool,
    /// Rises with every change of the artifact itself.
    pub revision: i64,
    pub created_by: String,
    /// Microseconds since the Unix epoch.
    pub created_at: i64,
    pub updated_at: i64,
    pub archived_at: Option<i64>,
    pub has_draft: bool,
    /// How many versions there are.
    pub versions: i64,
    pub deployments: Vec<InForceAt>,
}

/// What is in force in an environment.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct InForceAt {
    pub environment: String,
    pub version: i64,
    /// Of the deployment.
    pub revision: i64,
}

/// A hash over one part of a version.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SectionHash {
    /// `template`, `variables`, `parameters`, or `data`.
    pub section: &'static str,
    pub hash: String,
}

/// One version. Its content never changes.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Version {
    pub kind: Kind,
    pub alias: String,
    pub number: i64,
    /// `published` or `deprecated`.
    pub status: &'static str,
    /// BLAKE3 of the canonical body, hexadecimal.
    pub content_hash: String,
    /// Of its parts, so that one sees which of them a version changed.
    pub section_hashes: Vec<SectionHash>,
    pub note: String,
    pub author: String,
    pub created_at: i64,
    #[schema(value_type = Object)]
    pub content: Content,
}

/// What shall be different; what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    pub title: Option<String>,
    pub tags: Option<Vec<String>>,
    pub visibility: Option<String>,
    pub enabled: Option<bool>,
    pub context_engineering_enabled: Option<bool>,
    pub archived: Option<bool>,
    pub is_default: Option<bool>,
}

/// Who wrote a version when, and why.
pub(crate) struct Wrote<'w> {
    pub note: &'w str,
    pub author: &'w str,
    /// Microseconds since the Unix epoch.
    pub at: i64,
    /// Whether what it names has to be there already.
    pub names_what_is: bool,
}

pub(crate) struct Found {
    pub id: Vec<u8>,
    pub revision: i64,
    pub usable: bool,
}

const ARTIFACT: &str = "SELECT a.id AS id, a.kind AS kind, a.alias AS alias, a.title AS title, a.tags AS tags, a.visibility AS visibility, a.enabled AS enabled, a.context AS context, a.revision AS revision, a.created_by AS created_by, a.created_at AS created_at, a.updated_at AS updated_at, a.archived_at AS archived_at, (SELECT COUNT(*) FROM artifact_version v WHERE v.artifact_id = a.id) AS versions, (SELECT COUNT(*) FROM draft f WHERE f.artifact_id = a.id) AS drafts, (SELECT COUNT(*) FROM tenant t WHERE t.default_artifact_id = a.id) AS is_default FROM artifact a WHERE a.tenant_id = $1 AND ($2 = '' OR a.kind = $2) AND ($3 = '' OR a.alias = $3) AND ($4 = 1 OR a.archived_at IS NULL) AND a.alias > $5 ORDER BY a.alias, a.kind LIMIT $6";
const VERSION: &str = "SELECT v.number AS number, v.body AS body, v.content_hash AS content_hash, v.note AS note, v.author AS author, v.created_at AS created_at, v.deprecated_at AS deprecated_at FROM artifact_version v JOIN artifact a ON a.id = v.artifact_id WHERE a.tenant_id = $1 AND a.kind = $2 AND a.alias = $3 AND ($4 = 0 OR v.number = $4) ORDER BY v.number DESC LIMIT $5";

impl Tenancy {
    /// Artifacts by alias, from behind `after`; `kind`: of one kind.
    pub async fn artifacts(
        &self,
        kind: Option<Kind>,
        archived_too: bool,
        after: &str,
        limit: i64,
    ) -> Result<Vec<Artifact>, StoreError> {
        let mut read = self.read().await?;
        self.select_artifacts(&mut read, kind, archived_too, after, limit).await
    }

    pub(crate) async fn select_artifacts(
        &self,
        read: &mut Work,
        kind: Option<Kind>,
        archived_too: bool,
        after: &str,
        limit: i64,
    ) -> Result<Vec<Artifact>, StoreError> {
        let rows = sqlx::query(ARTIFACT)
            .bind(&self.id)
            .bind(kind.map_or("", Kind::name))
            .bind("")
            .bind(i64::from(archived_too))
            .bind(after)
            .bind(limit)
            .fetch_all(&mut **read)
            .await?;
        let mut artifacts = Vec::new();
        for row in rows {
            artifacts.push(self.artifact_of(read, &row).await?);
        }
        Ok(artifacts)
    }

    pub async fn artifact(&self, kind: Kind, alias: &str) -> Result<Artifact, StoreError> {
        let mut read = self.read().await?;
        self.look_up(&mut read, kind, alias).await
    }

    async fn look_up(&self, work: &mut Work, kind: Kind, alias: &str) -> Result<Artifact, StoreError> {
        let row = sqlx::query(ARTIFACT)
            .bind(&self.id)
            .bind(kind.name())
            .bind(alias)
            .bind(1_i64)
            .bind("")
            .bind(1_i64)
            .fetch_optional(&mut **work)
            .await?;
        let row = row.filter(|_| !alias.is_empty()).ok_or_else(|| not_found(kind, alias))?;
        self.artifact_of(work, &row).await
    }

    async fn artifact_of(&self, work: &mut Work, row: &AnyRow) -> Result<Artifact, StoreError> {
        let id: Vec<u8> = row.try_get("id")?;
        let deployed: Vec<(String, i64, i64)> = sqlx::query_as("SELECT d.environment, v.number, d.revision FROM deployment d JOIN artifact_version v ON v.id = d.version_id WHERE d.artifact_id = $1 AND d.revision = (SELECT MAX(revision) FROM deployment e WHERE e.artifact_id = d.artifact_id AND e.environment = d.environment) ORDER BY d.environment").bind(id).fetch_all(&mut **work).await?;
        Ok(Artifact {
            kind: row.try_get::<String, _>("kind")?.parse()?,
            alias: row.try_get("alias")?,
            title: row.try_get("title")?,
            tags: crate::keys::list(row.try_get("tags")?),
            visibility: row.try_get("visibility")?,
            enabled: row.try_get::<i64, _>("enabled")? == 1,
            context_engineering_enabled: row.try_get::<i64, _>("context")? == 1,
            is_default: row.try_get::<i64, _>("is_default")? > 0,
            revision: row.try_get("revision")?,
            created_by: row.try_get("created_by")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            archived_at: row.try_get("archived_at")?,
            has_draft: row.try_get::<i64, _>("drafts")? > 0,
            versions: row.try_get("versions")?,
            deployments: deployed
                .into_iter()
                .map(|(environment, version, revision)| InForceAt { environment, version, revision })
                .collect(),
        })
    }

    /// Makes an artifact; `first` is its first version's content and note.
    pub async fn create_artifact(
        &self,
        kind: Kind,
        alias: &str,
        change: &Change,
        first: Option<(&Content, &str)>,
    ) -> Result<Artifact, StoreError> {
        let mut write = self.write().await?;
        if self.find(&mut write, kind, alias).await?.is_some() {
            return Err(StoreError::Exists { kind: kind.name(), name: alias.to_owned() });
        }
        self.insert(&mut write, kind, alias).await?;
        self.apply(&mut write, kind, alias, change).await?;
        if let Some((content, note)) = first {
            self.add_version(&mut write, kind, alias, content, self.wrote(note), None).await?;
        }
        let made = self.look_up(&mut write, kind, alias).await?;
        write.commit().await?;
        Ok(made)
    }

    pub(crate) async fn insert(&self, write: &mut Work, kind: Kind, alias: &str) -> Result<Vec<u8>, StoreError> {
        check_name(kind.name(), alias)?;
        if alias == DEFAULT {
            return Err(StoreError::Invalid(format!("`{DEFAULT}` stands for the tenant's default prompt")));
        }
        // Requests name prompts and personas alike.
        let twin = match kind {
            Kind::Prompt => Some(Kind::Persona),
            Kind::Persona => Some(Kind::Prompt),
            _ => None,
        };
        if let Some(twin) = twin
            && self.find(write, twin, alias).await?.is_some()
        {
            return Err(StoreError::Exists { kind: twin.name(), name: alias.to_owned() });
        }
        let id = new_id();
        sqlx::query("INSERT INTO artifact (id, tenant_id, kind, alias, title, tags, visibility, enabled, context, revision, created_by, created_at, updated_at) VALUES ($1, $2, $3, $4, '', '', 'private', 1, 1, 1, $5, $6, $6)")
            .bind(&id)
            .bind(&self.id)
            .bind(kind.name())
            .bind(alias)
            .bind(&self.actor)
            .bind(now())
            .execute(&mut **write)
            .await?;
        if kind == Kind::Prompt {
            self.choose_default(write).await?;
        }
        self.record(write, &format!("{kind}.created"), alias, json!(null)).await?;
        Ok(id)
    }

    /// From the first usable prompt on there is exactly one default, until another is chosen.
    pub(crate) async fn choose_default(&self, write: &mut Work) -> Result<(), StoreError> {
        sqlx::query("UPDATE tenant SET default_artifact_id = (SELECT a.id FROM artifact a WHERE a.tenant_id = $1 AND a.kind = 'prompt' AND a.enabled = 1 AND a.archived_at IS NULL ORDER BY a.created_at, a.alias LIMIT 1) WHERE id = $1 AND default_artifact_id IS NULL")
            .bind(&self.id)
            .execute(&mut **write)
            .await?;
        Ok(())
    }

    /// Stores `content` as the newest version, making the artifact if it is new, unless the newest version holds just
    /// that. `expected` is the number of the newest version that the author saw; 0 for none.
    pub async fn put_version(
        &self,
        kind: Kind,
        alias: &str,
        content: &Content,
        note: &str,
        expected: Option<i64>,
    ) -> Result<i64, StoreError> {
        let mut write = self.write().await?;
        let number = self.add_version(&mut write, kind, alias, content, self.wrote(note), expected).await?;
        write.commit().await?;
        Ok(number)
    }

    /// This operator's version, of now.
    pub(crate) fn wrote<'w>(&'w self, note: &'w str) -> Wrote<'w> {
        Wrote { note, author: &self.actor, at: now(), names_what_is: true }
    }

    pub(crate) async fn add_version(
        &self,
        write: &mut Work,
        kind: Kind,
        alias: &str,
        content: &Content,
        wrote: Wrote<'_>,
        expected: Option<i64>,
    ) -> Result<i64, StoreError> {
        let content = content.clone().checked(kind)?;
        let body = content.body()?;
        let hash = content_hash(&body);
        let artifact = match self.find(write, kind, alias).await? {
            Some(found) => found.id,
            None => self.insert(write, kind, alias).await?,
        };
        let newest: Option<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT number, content_hash FROM artifact_version WHERE artifact_id = $1 ORDER BY number DESC LIMIT 1",
        )
        .bind(&artifact)
        .fetch_optional(&mut **write)
        .await?;
        let found = newest.as_ref().map_or(0, |(number, _)| *number);
        if expected.is_some_and(|expected| expected != found) {
            return Err(StoreError::Conflict { name: alias.to_owned(), found });
        }
        if newest.is_some_and(|(_, newest)| newest == hash) {
            return Ok(found);
        }
        let limit: i64 = sqlx::query_scalar("SELECT version_limit FROM tenant WHERE id = $1")
            .bind(&self.id)
            .fetch_one(&mut **write)
            .await?;
        let number = found + 1;
        if limit > 0 && number > limit {
            return Err(StoreError::Limit(format!(
                "`{alias}` has {found} versions, and the tenant's limit is {limit}; raise `version_limit` or use another alias"
            )));
        }
        let id = new_id();
        sqlx::query("INSERT INTO artifact_version (id, tenant_id, artifact_id, number, content_hash, body, note, author, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
            .bind(&id)
            .bind(&self.id)
            .bind(&artifact)
            .bind(number)
            .bind(hash)
            .bind(body)
            .bind(wrote.note)
            .bind(wrote.author)
            .bind(wrote.at)
            .execute(&mut **write)
            .await?;
        for link in content.links()? {
            sqlx::query(
                "INSERT INTO artifact_link (version_id, tenant_id, kind, alias, selector) VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(&id)
            .bind(&self.id)
            .bind(link.kind.name())
            .bind(link.alias)
            .bind(link.selector)
            .execute(&mut **write)
            .await?;
        }
        // Whoever saw the artifact before has not seen this version.
        touch(write, &artifact).await?;
        self.record(write, &format!("{kind}.version"), alias, json!({ "version": number })).await?;
        if wrote.names_what_is {
            self.check_links(write, kind, alias, &content).await?;
        }
        // What follows the newest version follows this one.
        self.check_environments(write, kind).await?;
        Ok(number)
    }

    /// What data names has to be there and usable, in a version that fits, and must not name it in turn. (What templates
    /// include is checked where it is resolved.)
    async fn check_links(&self, work: &mut Work, kind: Kind, alias: &str, content: &Content) -> Result<(), StoreError> {
        if content.template().is_some() {
            return Ok(());
        }
        for link in content.links()? {
            let Some(found) = self.find(work, link.kind, &link.alias).await?.filter(|found| found.usable) else {
                return Err(StoreError::Invalid(format!(
                    "it names the {} `{}`, which does not exist, is disabled or archived",
                    link.kind, link.alias
                )));
            };
            if let Selector::Range(from, to) = Selector::from_str(&link.selector)? {
                let fitting: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM artifact_version WHERE artifact_id = $1 AND number >= $2 AND number <= $3 AND (deprecated_at IS NULL OR $2 = $3)")
                    .bind(&found.id)
                    .bind(from)
                    .bind(to)
                    .fetch_one(&mut **work)
                    .await?;
                if fitting == 0 {
                    return Err(StoreError::Invalid(format!(
                        "it names the {} `{}@{}`, of which there is no version that is not deprecated",
                        link.kind, link.alias, link.selector
                    )));
                }
            }
        }
        self.refuse_circle(work, (kind, alias), content).await
    }

    /// Refuses data that names itself by way of what it names, each in its newest version.
    async fn refuse_circle(&self, work: &mut Work, of: (Kind, &str), content: &Content) -> Result<(), StoreError> {
        let rows: Vec<(String, String, String, String)> = sqlx::query_as("SELECT a.kind, a.alias, l.kind, l.alias FROM artifact_link l JOIN artifact_version v ON v.id = l.version_id JOIN artifact a ON a.id = v.artifact_id WHERE l.tenant_id = $1 AND a.kind NOT IN ('prompt', 'partial', 'persona') AND v.number = (SELECT MAX(number) FROM artifact_version w WHERE w.artifact_id = a.id)")
            .bind(&self.id)
            .fetch_all(&mut **work)
            .await?;
        let mut named: HashMap<(String, String), Vec<(String, String)>> = HashMap::new();
        for (kind, alias, to_kind, to_alias) in rows {
            named.entry((kind, alias)).or_default().push((to_kind, to_alias));
        }
        let of = (of.0.name().to_owned(), of.1.to_owned());
        let mut seen = HashSet::new();
        // With the way that leads to each.
        let links = content.links()?.into_iter().map(|link| ((link.kind.name().to_owned(), link.alias), Vec::new()));
        let mut open: Vec<((String, String), Vec<String>)> = links.collect();
        while let Some((one, mut way)) = open.pop() {
            way.push(format!("{} `{}`", one.0, one.1));
            if one == of {
                return Err(StoreError::Invalid(format!("it names itself in a circle: {}", way.join(" › "))));
            }
            if seen.insert(one.clone()) {
                let next = named.get(&one).into_iter().flatten();
                open.extend(next.map(|next| (next.clone(), way.clone())));
            }
        }
        Ok(())
    }

    /// A version; `None`: the newest.
    pub async fn version(&self, kind: Kind, alias: &str, number: Option<i64>) -> Result<Version, StoreError> {
        check_number(alias, number)?;
        let found = self.select_versions(kind, alias, number.unwrap_or(0), 1).await?;
        found.into_iter().next().ok_or_else(|| StoreError::NotFound {
            kind: "version",
            name: number.map_or_else(|| alias.to_owned(), |number| format!("{alias}@{number}")),
        })
    }

    /// The newest `limit` versions, newest first.
    pub async fn versions(&self, kind: Kind, alias: &str, limit: i64) -> Result<Vec<Version>, StoreError> {
        let found = self.select_versions(kind, alias, 0, limit).await?;
        if found.is_empty() {
            self.artifact(kind, alias).await?;
        }
        Ok(found)
    }

    async fn select_versions(
        &self,
        kind: Kind,
        alias: &str,
        number: i64,
        limit: i64,
    ) -> Result<Vec<Version>, StoreError> {
        let mut read = self.read().await?;
        let rows = sqlx::query(VERSION)
            .bind(&self.id)
            .bind(kind.name())
            .bind(alias)
            .bind(number)
            .bind(limit)
            .fetch_all(&mut *read)
            .await?;
        let version = |row: &AnyRow| {
            let content = Content::read(kind, &row.try_get::<String, _>("body")?)?;
            Ok(Version {
                kind,
                alias: alias.to_owned(),
                number: row.try_get("number")?,
                status: if row.try_get::<Option<i64>, _>("deprecated_at")?.is_some() {
                    "deprecated"
                } else {
                    "published"
                },
                content_hash: hex::encode(row.try_get::<Vec<u8>, _>("content_hash")?),
                section_hashes: sections(&content),
                note: row.try_get("note")?,
                author: row.try_get("author")?,
                created_at: row.try_get("created_at")?,
                content,
            })
        };
        rows.iter().map(version).collect()
    }

    /// Marks a version as not to be used for anything new, or takes that back.
    pub async fn deprecate(&self, kind: Kind, alias: &str, number: i64, deprecated: bool) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let artifact = self.existing(&mut write, kind, alias).await?;
        let changed =
            sqlx::query("UPDATE artifact_version SET deprecated_at = $3 WHERE artifact_id = $1 AND number = $2")
                .bind(&artifact.id)
                .bind(number)
                .bind(deprecated.then(now))
                .execute(&mut *write)
                .await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::NotFound { kind: "version", name: format!("{alias}@{number}") });
        }
        let detail = json!({ "version": number, "deprecated": deprecated });
        self.record(&mut write, &format!("{kind}.deprecated"), alias, detail).await?;
        self.check_environments(&mut write, kind).await?;
        Ok(write.commit().await?)
    }

    /// What is being written and is not a version yet.
    /// With the artifact's revision.
    pub async fn draft(&self, kind: Kind, alias: &str) -> Result<(Content, i64), StoreError> {
        let mut read = self.read().await?;
        let artifact = self.existing(&mut read, kind, alias).await?;
        let body = draft_body(&mut read, &artifact.id, alias).await?;
        Ok((Content::read(kind, &body)?, artifact.revision))
    }

    /// Keeps `content` as the draft. Gives the artifact's revision.
    pub async fn put_draft(
        &self,
        kind: Kind,
        alias: &str,
        content: &Content,
        expected: Option<i64>,
    ) -> Result<i64, StoreError> {
        let body = content.clone().checked(kind)?.body()?;
        let mut write = self.write().await?;
        if self.find(&mut write, kind, alias).await?.is_none() {
            self.insert(&mut write, kind, alias).await?;
        }
        let artifact = self.expect(&mut write, kind, alias, expected).await?;
        sqlx::query("INSERT INTO draft (artifact_id, tenant_id, body, author, updated_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (artifact_id) DO UPDATE SET body = $3, author = $4, updated_at = $5")
            .bind(&artifact.id)
            .bind(&self.id)
            .bind(body)
            .bind(&self.actor)
            .bind(now())
            .execute(&mut *write)
            .await?;
        touch(&mut write, &artifact.id).await?;
        self.note(&mut write, &format!("{kind}.draft"), alias, json!(null), false).await?;
        write.commit().await?;
        Ok(artifact.revision + 1)
    }

    /// Makes the draft the newest version. Gives its number.
    pub async fn publish_draft(
        &self,
        kind: Kind,
        alias: &str,
        note: &str,
        expected: Option<i64>,
    ) -> Result<i64, StoreError> {
        let mut write = self.write().await?;
        let artifact = self.expect(&mut write, kind, alias, expected).await?;
        let body = draft_body(&mut write, &artifact.id, alias).await?;
        let content = Content::read(kind, &body)?;
        let number = self.add_version(&mut write, kind, alias, &content, self.wrote(note), None).await?;
        sqlx::query("DELETE FROM draft WHERE artifact_id = $1").bind(&artifact.id).execute(&mut *write).await?;
        touch(&mut write, &artifact.id).await?;
        write.commit().await?;
        Ok(number)
    }

    /// Changes the artifact itself. `expected` is the revision that the editor saw.
    pub async fn change(
        &self,
        kind: Kind,
        alias: &str,
        change: &Change,
        expected: Option<i64>,
    ) -> Result<Artifact, StoreError> {
        let mut write = self.write().await?;
        let artifact = self.expect(&mut write, kind, alias, expected).await?;
        self.apply(&mut write, kind, alias, change).await?;
        touch(&mut write, &artifact.id).await?;
        self.check_environments(&mut write, kind).await?;
        let changed = self.look_up(&mut write, kind, alias).await?;
        write.commit().await?;
        Ok(changed)
    }

    pub(crate) async fn apply(
        &self,
        write: &mut Work,
        kind: Kind,
        alias: &str,
        change: &Change,
    ) -> Result<(), StoreError> {
        let artifact = self.existing(write, kind, alias).await?;
        if change.context_engineering_enabled.is_some() || change.is_default.is_some() {
            self.must_be_allowed_everywhere(write, &artifact.id).await?;
            let present: Option<Option<Vec<u8>>> =
                sqlx::query_scalar("SELECT default_artifact_id FROM tenant WHERE id = $1")
                    .bind(&self.id)
                    .fetch_optional(&mut **write)
                    .await?;
            if let (true, Some(Some(present))) = (change.is_default.is_some(), present) {
                self.must_be_allowed_everywhere(write, &present).await?;
            }
        }
        if change.enabled == Some(false) || change.archived == Some(true) {
            self.refuse_if_used(write, kind, alias, &artifact.id).await?;
            if self.is_default(write, &artifact.id).await? {
                let by = "it is the tenant's default prompt; make another the default first".to_owned();
                return Err(StoreError::InUse { kind: kind.name(), name: alias.to_owned(), by });
            }
        }
        if change.enabled == Some(true) || change.archived == Some(false) {
            let body: Option<String> = sqlx::query_scalar(
                "SELECT body FROM artifact_version WHERE artifact_id = $1 ORDER BY number DESC LIMIT 1",
            )
            .bind(&artifact.id)
            .fetch_optional(&mut **write)
            .await?;
            if let Some(body) = body {
                self.check_links(write, kind, alias, &Content::read(kind, &body)?).await?;
            }
        }
        let tags = match &change.tags {
            Some(tags) => {
                tags.iter().try_for_each(|tag| check_name("tag", tag))?;
                Some(tags.join(","))
            }
            None => None,
        };
        if let Some(visibility) = &change.visibility
            && !matches!(visibility.as_str(), "private" | "public")
        {
            return Err(StoreError::Invalid("`visibility` must be `private` or `public`".to_owned()));
        }
        if change.title.as_ref().is_some_and(|title| title.len() > 1_024) {
            return Err(StoreError::Invalid("`title` is longer than 1,024 bytes".to_owned()));
        }
        sqlx::query("UPDATE artifact SET title = COALESCE($2, title), tags = COALESCE($3, tags), visibility = COALESCE($4, visibility), enabled = COALESCE($5, enabled), context = COALESCE($6, context) WHERE id = $1")
            .bind(&artifact.id)
            .bind(change.title.clone())
            .bind(tags)
            .bind(change.visibility.clone())
            .bind(change.enabled.map(i64::from))
            .bind(change.context_engineering_enabled.map(i64::from))
            .execute(&mut **write)
            .await?;
        if let Some(archived) = change.archived {
            sqlx::query("UPDATE artifact SET archived_at = $2 WHERE id = $1")
                .bind(&artifact.id)
                .bind(archived.then(now))
                .execute(&mut **write)
                .await?;
        }
        let usable = self.existing(write, kind, alias).await?.usable;
        if usable && kind == Kind::Prompt {
            self.choose_default(write).await?;
        }
        match change.is_default {
            None => {}
            Some(true) if kind == Kind::Prompt && usable => {
                sqlx::query("UPDATE tenant SET default_artifact_id = $2 WHERE id = $1")
                    .bind(&self.id)
                    .bind(&artifact.id)
                    .execute(&mut **write)
                    .await?;
            }
            Some(true) => {
                return Err(StoreError::Invalid(
                    "only a prompt that is enabled and not archived can be the default".to_owned(),
                ));
            }
            Some(false) => {
                return Err(StoreError::Invalid(
                    "there is always one default; make another prompt the default instead".to_owned(),
                ));
            }
        }
        self.record(write, &format!("{kind}.changed"), alias, json!(null)).await
    }

    /// Removes an artifact with its history, if nothing uses it.
    pub async fn delete_artifact(&self, kind: Kind, alias: &str, expected: Option<i64>) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let artifact = self.expect(&mut write, kind, alias, expected).await?;
        self.refuse_if_used(&mut write, kind, alias, &artifact.id).await?;
        for sql in [
            "DELETE FROM experiment WHERE artifact_id = $1",
            "DELETE FROM draft WHERE artifact_id = $1",
            "DELETE FROM deployment WHERE artifact_id = $1",
            "DELETE FROM artifact_link WHERE version_id IN (SELECT id FROM artifact_version WHERE artifact_id = $1)",
            "DELETE FROM artifact_version WHERE artifact_id = $1",
            "UPDATE tenant SET default_artifact_id = NULL WHERE default_artifact_id = $1",
            "DELETE FROM artifact WHERE id = $1",
        ] {
            sqlx::query(sql).bind(&artifact.id).execute(&mut *write).await?;
        }
        self.record(&mut write, &format!("{kind}.deleted"), alias, json!(null)).await?;
        self.check_environments(&mut write, kind).await?;
        Ok(write.commit().await?)
    }

    /// Where an artifact is used: what is deployed, what deployed versions of others name, what runs, the default.
    pub async fn usage(&self, kind: Kind, alias: &str) -> Result<Vec<String>, StoreError> {
        let mut read = self.read().await?;
        let artifact = self.existing(&mut read, kind, alias).await?;
        self.used_by(&mut read, kind, alias, &artifact.id).await
    }

    pub(crate) async fn used_by(
        &self,
        work: &mut Work,
        kind: Kind,
        alias: &str,
        id: &[u8],
    ) -> Result<Vec<String>, StoreError> {
        let mut uses = Vec::new();
        let deployed: Vec<String> = sqlx::query_scalar("SELECT d.environment FROM deployment d WHERE d.artifact_id = $1 AND d.version_id IS NOT NULL AND d.revision = (SELECT MAX(revision) FROM deployment e WHERE e.artifact_id = d.artifact_id AND e.environment = d.environment) ORDER BY d.environment").bind(id).fetch_all(&mut **work).await?;
        uses.extend(deployed.into_iter().map(|environment| format!("it is deployed to `{environment}`")));
        let running: Vec<String> =
            sqlx::query_scalar("SELECT name FROM experiment WHERE artifact_id = $1 AND state = 'running'")
                .bind(id)
                .fetch_all(&mut **work)
                .await?;
        uses.extend(running.into_iter().map(|name| format!("the experiment `{name}` runs with it")));
        let naming: Vec<(String, String, i64)> = sqlx::query_as("SELECT a.kind, a.alias, v.number FROM artifact_link l JOIN artifact_version v ON v.id = l.version_id JOIN artifact a ON a.id = v.artifact_id WHERE l.tenant_id = $1 AND l.kind = $2 AND l.alias = $3 AND a.id <> $4 AND a.archived_at IS NULL AND (v.id IN (SELECT d.version_id FROM deployment d WHERE d.artifact_id = a.id AND d.revision = (SELECT MAX(revision) FROM deployment e WHERE e.artifact_id = d.artifact_id AND e.environment = d.environment)) OR (a.kind NOT IN ('prompt', 'partial', 'persona') AND v.number = (SELECT MAX(number) FROM artifact_version w WHERE w.artifact_id = a.id))) ORDER BY a.alias LIMIT 5")
            .bind(&self.id)
            .bind(kind.name())
            .bind(alias)
            .bind(id)
            .fetch_all(&mut **work)
            .await?;
        uses.extend(naming.into_iter().map(|(kind, alias, number)| format!("{kind} `{alias}@{number}` names it")));
        // While there are other prompts, one of them has to become the default first.
        let others: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM tenant t WHERE t.default_artifact_id = $1 AND EXISTS (SELECT 1 FROM artifact a WHERE a.tenant_id = t.id AND a.kind = 'prompt' AND a.id <> $1)").bind(id).fetch_one(&mut **work).await?;
        if others > 0 {
            uses.push("it is the tenant's default prompt".to_owned());
        }
        Ok(uses)
    }

    async fn is_default(&self, work: &mut Work, id: &[u8]) -> Result<bool, StoreError> {
        let count = "SELECT COUNT(*) FROM tenant WHERE default_artifact_id = $1";
        let found: i64 = sqlx::query_scalar(count).bind(id).fetch_one(&mut **work).await?;
        Ok(found > 0)
    }

    async fn refuse_if_used(&self, work: &mut Work, kind: Kind, alias: &str, id: &[u8]) -> Result<(), StoreError> {
        let uses = self.used_by(work, kind, alias, id).await?;
        match uses.is_empty() {
            true => Ok(()),
            false => Err(StoreError::InUse { kind: kind.name(), name: alias.to_owned(), by: uses.join(", ") }),
        }
    }

    /// Sets how many versions an artifact of this tenant may have; 0 for no limit.
    pub async fn limit_versions(&self, limit: i64) -> Result<(), StoreError> {
        if limit < 0 {
            return Err(StoreError::Invalid("`version_limit` must be 0 or more".to_owned()));
        }
        let mut write = self.write().await?;
        sqlx::query("UPDATE tenant SET version_limit = $2 WHERE id = $1")
            .bind(&self.id)
            .bind(limit)
            .execute(&mut *write)
            .await?;
        self.note(&mut write, "tenant.version_limit", &self.name, json!({ "limit": limit }), false).await?;
        Ok(write.commit().await?)
    }

    pub(crate) async fn find(&self, work: &mut Work, kind: Kind, alias: &str) -> Result<Option<Found>, StoreError> {
        let row: Option<(Vec<u8>, i64, i64, Option<i64>)> = sqlx::query_as(
            "SELECT id, revision, enabled, archived_at FROM artifact WHERE tenant_id = $1 AND kind = $2 AND alias = $3",
        )
        .bind(&self.id)
        .bind(kind.name())
        .bind(alias)
        .fetch_optional(&mut **work)
        .await?;
        Ok(row.map(|(id, revision, enabled, archived)| Found {
            id,
            revision,
            usable: enabled == 1 && archived.is_none(),
        }))
    }

    pub(crate) async fn existing(&self, work: &mut Work, kind: Kind, alias: &str) -> Result<Found, StoreError> {
        self.find(work, kind, alias).await?.ok_or_else(|| not_found(kind, alias))
    }

    async fn expect(
        &self,
        work: &mut Work,
        kind: Kind,
        alias: &str,
        expected: Option<i64>,
    ) -> Result<Found, StoreError> {
        let found = self.existing(work, kind, alias).await?;
        match expected {
            Some(expected) if expected != found.revision => {
                Err(StoreError::Conflict { name: alias.to_owned(), found: found.revision })
            }
            _ => Ok(found),
        }
    }
}

/// Whoever saw the artifact before has not seen what is made of it now.
pub(crate) async fn touch(write: &mut Work, artifact: &[u8]) -> Result<(), StoreError> {
    sqlx::query("UPDATE artifact SET revision = revision + 1, updated_at = $2 WHERE id = $1")
        .bind(artifact)
        .bind(now())
        .execute(&mut **write)
        .await?;
    Ok(())
}

async fn draft_body(work: &mut Work, artifact: &[u8], alias: &str) -> Result<String, StoreError> {
    let find = "SELECT body FROM draft WHERE artifact_id = $1";
    let body: Option<String> = sqlx::query_scalar(find).bind(artifact).fetch_optional(&mut **work).await?;
    body.ok_or_else(|| StoreError::NotFound { kind: "draft", name: alias.to_owned() })
}

/// Versions begin at 1; 0 would mean the newest in the statements here.
pub(crate) fn check_number(alias: &str, number: Option<i64>) -> Result<(), StoreError> {
    match number {
        Some(number) if number < 1 => Err(StoreError::NotFound { kind: "version", name: format!("{alias}@{number}") }),
        _ => Ok(()),
    }
}

/// The alias that stands for the tenant's default prompt.
pub(crate) const DEFAULT: &str = "default";

fn not_found(kind: Kind, alias: &str) -> StoreError {
    StoreError::NotFound { kind: kind.name(), name: alias.to_owned() }
}

fn sections(content: &Content) -> Vec<SectionHash> {
    let hash = |value: serde_json::Result<String>| {
        value.map(|text| blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()).unwrap_or_default()
    };
    let section = |section, hash| SectionHash { section, hash };
    match content {
        Content::Template(content) => vec![
            section("template", hash(serde_json::to_string(&content.messages))),
            section("variables", hash(serde_json::to_string(&content.variables))),
            section("parameters", hash(serde_json::to_string(&content.parameters))),
            section("behavior", hash(serde_json::to_string(&content.behavior()))),
        ],
        Content::Data(data) => vec![section("data", hash(serde_json::to_string(data)))],
    }
}
