//! Which version is in force where: an append-only list of revisions for each artifact and environment.
//!
//! The newest revision counts, and inserting the next one is the compare-and-set. Rolling back is pointing at a
//! version again. What cannot be rendered with what it includes is refused here, before anybody is served with it.

use crate::artifacts::{Found, check_number};
use crate::content::{Content, Kind, PromptContent};
use crate::database::Work;
use crate::resolve::{Parts, Shelf};
use crate::{StoreError, Tenancy, check_name, now};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// One entry of the history.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Deployment {
    pub environment: String,
    pub revision: i64,
    /// `None`: it was taken out of force.
    pub version: Option<i64>,
    pub actor: String,
    pub note: String,
    /// Microseconds since the Unix epoch.
    pub at: i64,
}

/// How something is put in force.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deploy<'a> {
    pub environment: &'a str,
    pub note: &'a str,
    /// The newest revision that the operator saw; 0 for none. `None`: whatever it is.
    pub expected_revision: Option<i64>,
}

/// A prompt version with everything that it includes, as it is published.
pub(crate) struct InForce {
    pub alias: String,
    pub environment: String,
    pub version: i64,
    pub context: bool,
    pub content: PromptContent,
    pub parts: Parts,
}

const NEWEST: &str = "SELECT v.id, v.number, v.deprecated_at FROM artifact_version v WHERE v.artifact_id = $1 AND ($2 = 0 OR v.number = $2) ORDER BY (CASE WHEN v.deprecated_at IS NULL OR v.number = $2 THEN 0 ELSE 1 END), v.number DESC LIMIT 1";
const IN_FORCE: &str = "SELECT a.alias, d.environment, v.number, v.body, a.context FROM deployment d JOIN artifact a ON a.id = d.artifact_id JOIN artifact_version v ON v.id = d.version_id WHERE a.tenant_id = $1 AND ($2 = '' OR a.alias = $2) AND ($3 = '' OR d.environment = $3) AND a.kind IN ('prompt', 'persona') AND d.revision = (SELECT MAX(revision) FROM deployment e WHERE e.artifact_id = d.artifact_id AND e.environment = d.environment) ORDER BY a.alias, d.environment, a.kind";

impl Tenancy {
    /// Puts a version (`None`: the newest that is not deprecated) in force. Gives the version's number and the
    /// revision.
    pub async fn deploy(
        &self,
        kind: Kind,
        alias: &str,
        version: Option<i64>,
        deploy: Deploy<'_>,
    ) -> Result<(i64, i64), StoreError> {
        check_name("environment", deploy.environment)?;
        check_number(alias, version)?;
        let mut write = self.write().await?;
        let artifact = self.existing(&mut write, kind, alias).await?;
        must_be_usable(kind, alias, &artifact)?;
        let row: Option<(Vec<u8>, i64, Option<i64>)> =
            sqlx::query_as(NEWEST).bind(&artifact.id).bind(version.unwrap_or(0)).fetch_optional(&mut *write).await?;
        let (id, number, deprecated) = row.ok_or_else(|| StoreError::NotFound {
            kind: "version",
            name: version.map_or_else(|| alias.to_owned(), |version| format!("{alias}@{version}")),
        })?;
        if version.is_none() && deprecated.is_some() {
            return Err(StoreError::Invalid(format!(
                "every version of `{alias}` is deprecated; name one to deploy it anyway"
            )));
        }
        let revision = self.point(&mut write, kind, alias, &artifact.id, Some((&id, number)), deploy).await?;
        write.commit().await?;
        Ok((number, revision))
    }

    /// Puts the version with that content hash in force, unless it is.
    pub(crate) async fn deploy_hash(
        &self,
        write: &mut Work,
        kind: Kind,
        alias: &str,
        environment: &str,
        hash: &str,
    ) -> Result<(), StoreError> {
        check_name("environment", environment)?;
        let artifact = self.existing(write, kind, alias).await?;
        must_be_usable(kind, alias, &artifact)?;
        let row: Option<(Vec<u8>, i64)> = sqlx::query_as("SELECT id, number FROM artifact_version WHERE artifact_id = $1 AND content_hash = $2 ORDER BY number DESC LIMIT 1")
            .bind(&artifact.id)
            .bind(hex::decode(hash).unwrap_or_default())
            .fetch_optional(&mut **write)
            .await?;
        let Some((id, number)) = row else { return Ok(()) };
        let newest = self.revisions(write, &artifact.id, environment).await?.first().and_then(|newest| newest.version);
        if newest != Some(number) {
            let deploy = Deploy { environment, note: "imported", expected_revision: None };
            self.point(write, kind, alias, &artifact.id, Some((&id, number)), deploy).await?;
        }
        Ok(())
    }

    /// Takes an artifact out of force in an environment. Gives the revision.
    pub async fn withdraw(&self, kind: Kind, alias: &str, deploy: Deploy<'_>) -> Result<i64, StoreError> {
        check_name("environment", deploy.environment)?;
        let mut write = self.write().await?;
        let artifact = self.existing(&mut write, kind, alias).await?;
        let history = self.revisions(&mut write, &artifact.id, deploy.environment).await?;
        if history.first().is_none_or(|newest| newest.version.is_none()) {
            let name = format!("{alias} in {}", deploy.environment);
            return Err(StoreError::NotFound { kind: "deployment", name });
        }
        let running: Option<String> = sqlx::query_scalar(
            "SELECT name FROM experiment WHERE artifact_id = $1 AND environment = $2 AND state = 'running'",
        )
        .bind(&artifact.id)
        .bind(deploy.environment)
        .fetch_optional(&mut *write)
        .await?;
        if let Some(name) = running {
            let by = format!("the experiment `{name}` runs with it");
            return Err(StoreError::InUse { kind: kind.name(), name: alias.to_owned(), by });
        }
        let revision = self.point(&mut write, kind, alias, &artifact.id, None, deploy).await?;
        write.commit().await?;
        Ok(revision)
    }

    /// Goes back to version `to`, or to the version that was in force before. Gives the version's number and the
    /// revision.
    pub async fn roll_back(
        &self,
        kind: Kind,
        alias: &str,
        to: Option<i64>,
        deploy: Deploy<'_>,
    ) -> Result<(i64, i64), StoreError> {
        let deploy = Deploy { note: if deploy.note.is_empty() { "roll-back" } else { deploy.note }, ..deploy };
        if to.is_some() {
            return self.deploy(kind, alias, to, deploy).await;
        }
        check_name("environment", deploy.environment)?;
        let mut write = self.write().await?;
        let artifact = self.existing(&mut write, kind, alias).await?;
        must_be_usable(kind, alias, &artifact)?;
        let history = self.revisions(&mut write, &artifact.id, deploy.environment).await?;
        let in_force = history.first().and_then(|newest| newest.version);
        let earlier = history.iter().filter_map(|entry| entry.version).find(|version| Some(*version) != in_force);
        let number = earlier.ok_or_else(|| {
            StoreError::Invalid(format!("`{alias}` has no earlier version in `{}` to go back to", deploy.environment))
        })?;
        let (id, number, _): (Vec<u8>, i64, Option<i64>) =
            sqlx::query_as(NEWEST).bind(&artifact.id).bind(number).fetch_one(&mut *write).await?;
        let revision = self.point(&mut write, kind, alias, &artifact.id, Some((&id, number)), deploy).await?;
        write.commit().await?;
        Ok((number, revision))
    }

    /// The history of an artifact, newest first; of one environment, or all.
    pub async fn history(
        &self,
        kind: Kind,
        alias: &str,
        environment: Option<&str>,
    ) -> Result<Vec<Deployment>, StoreError> {
        let mut read = self.read().await?;
        let artifact = self.existing(&mut read, kind, alias).await?;
        self.revisions(&mut read, &artifact.id, environment.unwrap_or("")).await
    }

    async fn revisions(
        &self,
        work: &mut Work,
        artifact: &[u8],
        environment: &str,
    ) -> Result<Vec<Deployment>, StoreError> {
        // Of one environment by revision, whatever the clock said when they were made.
        let rows: Vec<(String, i64, Option<i64>, String, String, i64)> = sqlx::query_as("SELECT d.environment, d.revision, v.number, d.actor, d.note, d.at FROM deployment d LEFT JOIN artifact_version v ON v.id = d.version_id WHERE d.artifact_id = $1 AND ($2 = '' OR d.environment = $2) ORDER BY MAX(d.at) OVER (PARTITION BY d.environment ORDER BY d.revision) DESC, d.revision DESC")
            .bind(artifact)
            .bind(environment)
            .fetch_all(&mut **work)
            .await?;
        let entry = |(environment, revision, version, actor, note, at)| Deployment {
            environment,
            revision,
            version,
            actor,
            note,
            at,
        };
        Ok(rows.into_iter().map(entry).collect())
    }

    async fn point(
        &self,
        write: &mut Work,
        kind: Kind,
        alias: &str,
        artifact: &[u8],
        version: Option<(&[u8], i64)>,
        deploy: Deploy<'_>,
    ) -> Result<i64, StoreError> {
        let Deploy { environment, note, expected_revision } = deploy;
        self.must_be_allowed(write, environment).await?;
        let newest: i64 = sqlx::query_scalar(
            "SELECT COALESCE(MAX(revision), 0) FROM deployment WHERE artifact_id = $1 AND environment = $2",
        )
        .bind(artifact)
        .bind(environment)
        .fetch_one(&mut **write)
        .await?;
        if expected_revision.is_some_and(|expected| expected != newest) {
            return Err(StoreError::Conflict { name: format!("{alias} in {environment}"), found: newest });
        }
        sqlx::query("INSERT INTO deployment (artifact_id, tenant_id, environment, revision, version_id, actor, note, at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
            .bind(artifact)
            .bind(&self.id)
            .bind(environment)
            .bind(newest + 1)
            .bind(version.map(|(id, _)| id.to_vec()))
            .bind(&self.actor)
            .bind(note)
            .bind(now())
            .execute(&mut **write)
            .await?;
        let detail = json!({ "version": version.map(|(_, number)| number), "revision": newest + 1 });
        self.record(write, &format!("{kind}.deployed"), &format!("{alias}/{environment}"), detail).await?;
        match (kind, version) {
            (Kind::Prompt | Kind::Persona, Some(_)) => {
                let shelf = Shelf::of(write, &self.id).await?;
                for found in self.in_force(write, &shelf, Some((alias, environment))).await? {
                    found.content.compile(&found.parts)?;
                    self.must_not_float(write, &found.alias, &found.environment, &found.parts).await?;
                }
            }
            _ => self.check_environments(write, kind).await?,
        }
        Ok(newest + 1)
    }

    /// Makes sure that everything in force can still be rendered after a change of an artifact of that kind.
    pub(crate) async fn check_environments(&self, write: &mut Work, kind: Kind) -> Result<(), StoreError> {
        match kind {
            Kind::Partial | Kind::Tool => self.check_what_is_served(write, None).await,
            _ => Ok(()),
        }
    }

    /// The same after a change of a public setting, for what follows that. Who changes it changes what is served.
    pub(crate) async fn check_followers(&self, write: &mut Work, setting: &str) -> Result<(), StoreError> {
        self.check_what_is_served(write, Some(setting)).await
    }

    async fn check_what_is_served(&self, write: &mut Work, setting: Option<&str>) -> Result<(), StoreError> {
        let shelf = Shelf::of(write, &self.id).await?;
        let names_it = |content: &PromptContent| setting.is_none_or(|name| content.follows(name));
        for found in self.select_in_force(write, &shelf, None, names_it).await? {
            let found = found?;
            found.content.compile(&found.parts).map_err(|error| {
                StoreError::Invalid(format!("`{}` in `{}` would break: {error}", found.alias, found.environment))
            })?;
            self.must_not_float(write, &found.alias, &found.environment, &found.parts).await?;
            if setting.is_some() {
                self.must_be_allowed(write, &found.environment).await?;
            }
        }
        for ((prompt, environment), (experiment, arms)) in self.running(write).await? {
            for (arm, content) in arms.into_iter().filter(|(_, content)| names_it(content)) {
                let parts = shelf.resolve(&environment, &content);
                let works = parts.and_then(|parts| content.compile(&parts).map(|_| parts));
                let parts = works.map_err(|error| {
                    let place = format!("the arm `{}` of the experiment `{}`", arm.name, experiment.name);
                    StoreError::Invalid(format!("`{prompt}` in `{environment}` would break in {place}: {error}"))
                })?;
                self.must_not_float(write, &prompt, &environment, &parts).await?;
                if setting.is_some() {
                    self.must_be_allowed(write, &environment).await?;
                }
            }
        }
        Ok(())
    }

    /// Everything in force, with what it includes; or one prompt of one environment.
    pub(crate) async fn in_force(
        &self,
        work: &mut Work,
        shelf: &Shelf,
        only: Option<(&str, &str)>,
    ) -> Result<Vec<InForce>, StoreError> {
        self.select_in_force(work, shelf, only, |_| true).await?.into_iter().collect()
    }

    /// Everything in force that can be rendered. Changes that would break something are refused, so nothing should be
    /// left out; if it is, it takes nothing else with it.
    pub(crate) async fn in_force_as_far_as_sound(
        &self,
        work: &mut Work,
        shelf: &Shelf,
    ) -> Result<Vec<InForce>, StoreError> {
        let found = self.select_in_force(work, shelf, None, |_| true).await?;
        let sound = found
            .into_iter()
            .filter_map(|found| found.inspect_err(|error| tracing::error!(%error, "a prompt is not published")).ok());
        Ok(sound.collect())
    }

    async fn select_in_force(
        &self,
        work: &mut Work,
        shelf: &Shelf,
        only: Option<(&str, &str)>,
        wanted: impl Fn(&PromptContent) -> bool,
    ) -> Result<Vec<Result<InForce, StoreError>>, StoreError> {
        let (alias, environment) = only.unwrap_or_default();
        let rows: Vec<(String, String, i64, String, i64)> =
            sqlx::query_as(IN_FORCE).bind(&self.id).bind(alias).bind(environment).fetch_all(&mut **work).await?;
        let found = |(alias, environment, version, body, context): (String, String, i64, String, i64)| {
            let content = stored_template(&body)?;
            if !wanted(&content) {
                return Ok(None);
            }
            let parts = shelf.resolve(&environment, &content).map_err(|error| {
                StoreError::Invalid(format!("`{alias}` cannot be in force in `{environment}`: {error}"))
            })?;
            Ok(Some(InForce { alias, environment, version, context: context == 1, content, parts }))
        };
        Ok(rows.into_iter().filter_map(|row| found(row).transpose()).collect())
    }

    /// Whether what is served in `environment` may be changed by who does this.
    pub(crate) async fn must_be_allowed(&self, work: &mut Work, environment: &str) -> Result<(), StoreError> {
        if self.protected_too || !self.is_protected(work, environment).await? {
            return Ok(());
        }
        Err(StoreError::Forbidden(format!(
            "the environment `{environment}` is protected; it takes an operator with the scope `protected`"
        )))
    }

    async fn is_protected(&self, work: &mut Work, environment: &str) -> Result<bool, StoreError> {
        let count = "SELECT COUNT(*) FROM protected_environment WHERE tenant_id = $1 AND name = $2";
        let found: i64 = sqlx::query_scalar(count).bind(&self.id).bind(environment).fetch_one(&mut **work).await?;
        Ok(found > 0)
    }

    /// The same for a change that shows wherever the artifact is in force.
    pub(crate) async fn must_be_allowed_everywhere(&self, work: &mut Work, artifact: &[u8]) -> Result<(), StoreError> {
        let environments: Vec<String> = sqlx::query_scalar("SELECT DISTINCT environment FROM deployment WHERE artifact_id = $1 AND version_id IS NOT NULL ORDER BY environment").bind(artifact).fetch_all(&mut **work).await?;
        for environment in environments {
            self.must_be_allowed(work, &environment).await?;
        }
        Ok(())
    }

    /// In a protected environment nothing may follow versions that anybody can add.
    pub(crate) async fn must_not_float(
        &self,
        work: &mut Work,
        alias: &str,
        environment: &str,
        parts: &Parts,
    ) -> Result<(), StoreError> {
        match parts.floating.first() {
            Some(name) if self.is_protected(work, environment).await? => Err(StoreError::Invalid(format!(
                "`{alias}` follows `{name}`, and `{environment}` is protected: name an exact version there, or the deployed one"
            ))),
            _ => Ok(()),
        }
    }

    /// Environments in which only operators with the scope `protected` change what is in force.
    pub async fn protected_environments(&self) -> Result<BTreeSet<String>, StoreError> {
        self.select_protected(&mut self.read().await?).await
    }

    async fn select_protected(&self, work: &mut Work) -> Result<BTreeSet<String>, StoreError> {
        let find = "SELECT name FROM protected_environment WHERE tenant_id = $1";
        let names: Vec<String> = sqlx::query_scalar(find).bind(&self.id).fetch_all(&mut **work).await?;
        Ok(names.into_iter().collect())
    }

    /// Protects exactly these environments. `expected` is the [`revision_of`] those that the operator saw.
    pub async fn protect(&self, environments: &BTreeSet<String>, expected: Option<i64>) -> Result<(), StoreError> {
        environments.iter().try_for_each(|name| check_name("environment", name))?;
        let mut write = self.write().await?;
        let found = revision_of(&self.select_protected(&mut write).await?);
        if expected.is_some_and(|expected| expected != found) {
            return Err(StoreError::Conflict { name: "protected-environments".to_owned(), found });
        }
        sqlx::query("DELETE FROM protected_environment WHERE tenant_id = $1")
            .bind(&self.id)
            .execute(&mut *write)
            .await?;
        for name in environments {
            sqlx::query("INSERT INTO protected_environment (tenant_id, name) VALUES ($1, $2)")
                .bind(&self.id)
                .bind(name)
                .execute(&mut *write)
                .await?;
        }
        self.check_environments(&mut write, Kind::Partial).await?;
        self.note(&mut write, "environment.protected", "", json!(environments), false).await?;
        Ok(write.commit().await?)
    }
}

/// What tells one set of protected environments from another; there is no count of its changes.
pub fn revision_of(environments: &BTreeSet<String>) -> i64 {
    let mut hash = blake3::Hasher::new();
    for name in environments {
        hash.update(name.as_bytes()).update(b"/");
    }
    let bytes = hash.finalize();
    i64::from_be_bytes(std::array::from_fn(|at| if at < 2 { 0 } else { bytes.as_bytes()[at] }))
}

fn must_be_usable(kind: Kind, alias: &str, artifact: &Found) -> Result<(), StoreError> {
    match artifact.usable {
        true => Ok(()),
        false => Err(StoreError::Invalid(format!("{kind} `{alias}` is disabled or archived; enable it first"))),
    }
}

/// Reads a template's body that was checked when it was stored.
pub(crate) fn stored_template(body: &str) -> Result<PromptContent, StoreError> {
    serde_json::from_str(body)
        .map_err(|error| StoreError::Invalid(format!("a stored template cannot be read: {error}")))
}

impl From<PromptContent> for Content {
    fn from(content: PromptContent) -> Content {
        Content::Template(content)
    }
}
