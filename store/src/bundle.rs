//! Artifacts out of one store and into another: byte for byte, in one transaction, as often as one likes.

use crate::artifacts::{Wrote, touch};
use crate::content::{Content, Kind, content_hash};
use crate::convert::{Converted, Format, needed};
use crate::database::{Whose, Work};
use crate::experiments::{Arm, NewExperiment};
use crate::{Change, StoreError, Tenancy, new_id, now};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use std::collections::HashMap;
use utoipa::ToSchema;

const FORMAT: &str = "sluice-bundle/2";
/// What is read: the first had neither archived artifacts nor drafts nor experiments.
const READ: [&str; 2] = ["sluice-bundle/1", FORMAT];

/// Everything of some artifacts, as a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// `sluice-bundle/2`; `sluice-bundle/1` is read too.
    pub format: String,
    pub artifacts: Vec<BundledArtifact>,
    #[serde(default)]
    pub experiments: Vec<BundledExperiment>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BundledArtifact {
    pub kind: Kind,
    pub alias: String,
    pub title: String,
    pub tags: Vec<String>,
    pub visibility: String,
    pub enabled: bool,
    pub context_engineering_enabled: bool,
    #[serde(default)]
    pub archived: bool,
    /// Oldest first.
    pub versions: Vec<BundledVersion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<BundledDraft>,
    /// What is in force: environment and the version's hash.
    pub deployments: Vec<BundledDeployment>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BundledVersion {
    /// The canonical body, as text: its bytes are what the hash is of.
    pub body: String,
    /// BLAKE3 of the body, hexadecimal.
    pub hash: String,
    pub note: String,
    pub author: String,
    pub created_at: i64,
    pub deprecated: bool,
}

/// What is being written and is not a version yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BundledDraft {
    pub body: String,
    pub author: String,
    pub updated_at: i64,
}

/// An experiment, without what it brought. It comes in as a draft, with its seed and ranges, so that units are where they
/// were once it is started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BundledExperiment {
    pub name: String,
    pub prompt: String,
    pub environment: String,
    pub seed: String,
    pub unit: String,
    pub coverage: f64,
    pub metric: String,
    pub state: String,
    pub arms: Vec<BundledArm>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BundledArm {
    pub name: String,
    /// Of the version.
    pub hash: String,
    pub weight: f64,
    pub start: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BundledDeployment {
    pub environment: String,
    pub hash: String,
}

/// What happens where an alias exists with other contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    /// Nothing is imported at all.
    #[default]
    Fail,
    /// The one that exists stays as it is.
    Skip,
    /// What comes gets the first free alias `ALIAS-2`, `ALIAS-3`, …
    Rename,
    /// Versions that are not there yet become its newest.
    NewVersion,
}

/// How something is imported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Import<'a> {
    pub on_conflict: OnConflict,
    /// What cannot be imported is left out, instead of everything.
    pub keep_going: bool,
    /// Puts the newest version of each template in force there.
    pub deploy_to: Option<&'a str>,
}

/// What an import did, by artifact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ImportReport {
    pub created: Vec<String>,
    pub updated: Vec<String>,
    /// They held the same already.
    pub unchanged: Vec<String>,
    pub skipped: Vec<String>,
    /// With their new aliases.
    pub renamed: Vec<Renamed>,
    /// Experiments that came in; none of them runs yet.
    pub experiments: Vec<String>,
    pub failed: Vec<FailedImport>,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Renamed {
    pub from: String,
    pub to: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct FailedImport {
    pub name: String,
    pub reason: String,
}

/// What is known of an import.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct MigrationStatus {
    pub id: String,
    pub migration_type: String,
    /// `running`, `completed` or `failed`.
    pub status: String,
    /// Microseconds since the Unix epoch.
    pub started_at: i64,
    pub completed_at: Option<i64>,
    pub error_message: String,
    pub templates_migrated: i64,
    pub templates_failed: i64,
}

/// An artifact of an import that is here now.
struct Came<'b> {
    artifact: &'b BundledArtifact,
    /// Its name here.
    alias: String,
    is_new: bool,
}

impl From<Converted> for BundledArtifact {
    fn from(found: Converted) -> BundledArtifact {
        let body = found.content.body().unwrap_or_default();
        let version = BundledVersion {
            hash: hex::encode(content_hash(&body)),
            body,
            note: "imported".to_owned(),
            author: String::new(),
            created_at: 0,
            deprecated: false,
        };
        BundledArtifact {
            kind: found.kind,
            alias: found.alias,
            title: found.title,
            tags: found.tags,
            visibility: "private".to_owned(),
            enabled: true,
            context_engineering_enabled: found.context,
            archived: false,
            versions: vec![version],
            draft: None,
            deployments: Vec::new(),
        }
    }
}

impl Tenancy {
    /// Everything, or the artifacts of one kind.
    pub async fn export(&self, kind: Option<Kind>) -> Result<Bundle, StoreError> {
        let mut read = self.read().await?;
        let artifacts = self.select_artifacts(&mut read, kind, true, "", i64::MAX).await?;
        let mut bundled = Vec::new();
        for artifact in artifacts {
            let rows = sqlx::query("SELECT v.number AS number, v.body AS body, v.content_hash AS hash, v.note AS note, v.author AS author, v.created_at AS created_at, v.deprecated_at AS deprecated_at FROM artifact_version v JOIN artifact a ON a.id = v.artifact_id WHERE a.tenant_id = $1 AND a.kind = $2 AND a.alias = $3 ORDER BY v.number")
                .bind(&self.id)
                .bind(artifact.kind.name())
                .bind(&artifact.alias)
                .fetch_all(&mut *read)
                .await?;
            let mut versions = Vec::new();
            let mut deployments = Vec::new();
            for row in rows {
                let hash = hex::encode(row.try_get::<Vec<u8>, _>("hash")?);
                let number: i64 = row.try_get("number")?;
                for deployed in artifact.deployments.iter().filter(|deployed| deployed.version == number) {
                    let environment = deployed.environment.clone();
                    deployments.push(BundledDeployment { environment, hash: hash.clone() });
                }
                versions.push(BundledVersion {
                    body: row.try_get("body")?,
                    hash,
                    note: row.try_get("note")?,
                    author: row.try_get("author")?,
                    created_at: row.try_get("created_at")?,
                    deprecated: row.try_get::<Option<i64>, _>("deprecated_at")?.is_some(),
                });
            }
            let draft: Option<(String, String, i64)> = sqlx::query_as("SELECT f.body, f.author, f.updated_at FROM draft f JOIN artifact a ON a.id = f.artifact_id WHERE a.tenant_id = $1 AND a.kind = $2 AND a.alias = $3")
                .bind(&self.id)
                .bind(artifact.kind.name())
                .bind(&artifact.alias)
                .fetch_optional(&mut *read)
                .await?;
            bundled.push(BundledArtifact {
                kind: artifact.kind,
                alias: artifact.alias,
                title: artifact.title,
                tags: artifact.tags,
                visibility: artifact.visibility,
                enabled: artifact.enabled,
                context_engineering_enabled: artifact.context_engineering_enabled,
                archived: artifact.archived_at.is_some(),
                versions,
                draft: draft.map(|(body, author, updated_at)| BundledDraft { body, author, updated_at }),
                deployments,
            });
        }
        let mut experiments = Vec::new();
        if kind.is_none_or(|kind| kind == Kind::Prompt) {
            for experiment in self.select_experiments(&mut read, "").await? {
                let of_it = |artifact: &&BundledArtifact| {
                    (artifact.kind, &artifact.alias) == (Kind::Prompt, &experiment.prompt)
                };
                // Versions are numbered from 1 on without a gap.
                let versions = bundled.iter().find(of_it).map_or(&[][..], |artifact| &artifact.versions);
                let arm = |arm: Arm| {
                    let place = usize::try_from(arm.version - 1).unwrap_or(usize::MAX);
                    let version = versions.get(place).ok_or_else(|| StoreError::NotFound {
                        kind: "version",
                        name: format!("{}@{}", experiment.prompt, arm.version),
                    })?;
                    Ok(BundledArm { name: arm.name, hash: version.hash.clone(), weight: arm.weight, start: arm.start })
                };
                experiments.push(BundledExperiment {
                    arms: experiment.arms.into_iter().map(arm).collect::<Result<_, StoreError>>()?,
                    name: experiment.name,
                    prompt: experiment.prompt,
                    environment: experiment.environment,
                    seed: experiment.seed,
                    unit: experiment.unit,
                    coverage: experiment.coverage,
                    metric: experiment.metric,
                    state: experiment.state,
                });
            }
        }
        Ok(Bundle { format: FORMAT.to_owned(), artifacts: bundled, experiments })
    }

    /// Imports files of other systems. `format`: by each file's ending if left out.
    pub async fn migrate(
        &self,
        files: &[(String, String)],
        format: Option<Format>,
        import: &Import<'_>,
    ) -> Result<ImportReport, StoreError> {
        let mut found = Vec::new();
        let mut report = ImportReport::default();
        for (name, text) in files {
            let read = match format.or_else(|| Format::of(name, text)) {
                Some(format) => format.read(name, text),
                None => Err(StoreError::Invalid(
                    "no known kind of prompt file: .jinja, .j2, .txt, .md, .prompt, .prompty, .mustache, .hbs or .json"
                        .to_owned(),
                )),
            };
            match read {
                Ok(converted) => found.extend(converted),
                Err(error) => report.failed.push(FailedImport { name: name.clone(), reason: error.to_string() }),
            }
        }
        for one in &found {
            report.warnings.extend(one.warnings.iter().map(|warning| format!("`{}`: {warning}", one.alias)));
            if one.public {
                report.warnings.push(format!(
                    "`{0}` was public; here operators of other tenants may read it after `sluice prompt change {0} --visibility public`",
                    one.alias
                ));
            }
        }
        // What is included by another and is one text becomes a partial.
        let partials = needed(&found)?;
        for one in &mut found {
            let texts = one.content.template().map_or(0, |content| content.messages.len());
            if texts == 1 && partials.iter().any(|link| link.alias == one.alias) {
                one.kind = Kind::Partial;
            }
        }
        found.sort_by_key(|one| one.kind != Kind::Partial);
        let artifacts = found.into_iter().map(BundledArtifact::from).collect();
        self.bring_in("files", (artifacts, Vec::new()), import, report).await
    }

    /// Imports a bundle.
    pub async fn import(&self, bundle: Bundle, import: &Import<'_>) -> Result<ImportReport, StoreError> {
        if !READ.contains(&bundle.format.as_str()) {
            return Err(StoreError::Invalid(format!(
                "the bundle's format is `{}`; this program reads `{}`",
                bundle.format,
                READ.join("` and `")
            )));
        }
        let mut artifacts = bundle.artifacts;
        // What is named comes before what names it.
        artifacts.sort_by_key(|artifact| match artifact.kind {
            Kind::Partial => 0,
            Kind::Prompt | Kind::Persona => 1,
            Kind::Tool | Kind::Policy => 2,
            Kind::Agent => 3,
            Kind::Flow => 4,
        });
        self.bring_in("bundle", (artifacts, bundle.experiments), import, ImportReport::default()).await
    }

    /// One transaction for all of it; what is known of it is written apart, so that it survives a failure.
    async fn bring_in(
        &self,
        migration_type: &str,
        (artifacts, experiments): (Vec<BundledArtifact>, Vec<BundledExperiment>),
        import: &Import<'_>,
        mut report: ImportReport,
    ) -> Result<ImportReport, StoreError> {
        let status = self.begin_migration(migration_type).await?;
        let outcome = match report.failed.first() {
            Some(first) if !import.keep_going => {
                Err(StoreError::Invalid(format!("`{}`: {}", first.name, first.reason)))
            }
            _ => self.bring_in_all(&artifacts, &experiments, import, &mut report).await,
        };
        let done = report.created.len() + report.updated.len() + report.renamed.len();
        let (error, done) = match &outcome {
            Ok(()) => (String::new(), done),
            Err(error) => (error.to_string(), 0),
        };
        self.end_migration(&status, &error, done as i64, report.failed.len() as i64 + i64::from(outcome.is_err()))
            .await?;
        outcome.map(|()| report)
    }

    async fn bring_in_all(
        &self,
        artifacts: &[BundledArtifact],
        experiments: &[BundledExperiment],
        import: &Import<'_>,
        report: &mut ImportReport,
    ) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let (mut came, mut deploy) = (Vec::new(), Vec::new());
        for artifact in in_order(artifacts) {
            // A failure must not leave half an artifact: what was written for it is taken back.
            sqlx::query("SAVEPOINT artifact").execute(&mut *write).await?;
            let so_far = report.clone();
            let outcome = match sound(artifact) {
                Ok(contents) => self.bring_in_one(&mut write, artifact, &contents, import.on_conflict, report).await,
                Err(error) => Err(error),
            };
            let is_new = report.created.len() + report.renamed.len() > so_far.created.len() + so_far.renamed.len();
            if outcome.is_err() {
                *report = so_far;
            }
            end_savepoint(&mut write, "artifact", outcome.is_ok()).await?;
            match outcome {
                Ok(alias) => {
                    let Some(alias) = alias else { continue };
                    let is_usable = artifact.enabled && !artifact.archived;
                    if is_usable && (artifact.kind.is_template() || artifact.kind == Kind::Tool) {
                        deploy.push((artifact, alias.clone()));
                    }
                    came.push(Came { artifact, alias, is_new });
                }
                Err(error @ (StoreError::Database(_) | StoreError::Made)) => return Err(error),
                // They name what they are about.
                Err(error @ (StoreError::Exists { .. } | StoreError::Limit(_))) if !import.keep_going => {
                    return Err(error);
                }
                Err(error) if import.keep_going => {
                    report.failed.push(FailedImport { name: artifact.alias.clone(), reason: error.to_string() });
                }
                Err(error) => {
                    return Err(StoreError::Invalid(format!("{} `{}`: {error}", artifact.kind, artifact.alias)));
                }
            }
        }
        self.put_away(&mut write, &came, report).await?;
        self.choose_default(&mut write).await?;
        for experiment in experiments {
            sqlx::query("SAVEPOINT experiment").execute(&mut *write).await?;
            let outcome = self.bring_in_experiment(&mut write, experiment, &came, import.on_conflict, report).await;
            end_savepoint(&mut write, "experiment", outcome.is_ok()).await?;
            match outcome {
                Ok(()) => {}
                Err(error @ (StoreError::Database(_) | StoreError::Made)) => return Err(error),
                Err(error) if import.keep_going => {
                    report.failed.push(FailedImport { name: experiment.name.clone(), reason: error.to_string() });
                }
                Err(error @ StoreError::Exists { .. }) => return Err(error),
                Err(error) => return Err(StoreError::Invalid(format!("experiment `{}`: {error}", experiment.name))),
            }
        }
        for artifact in artifacts {
            // What names it by its old alias means what had that alias here before.
            let Some(renamed) = report.renamed.iter().find(|renamed| renamed.from == artifact.alias) else { continue };
            let names = |other: &&BundledArtifact| {
                let contents = sound(other).unwrap_or_default();
                let links = contents.iter().filter_map(|content| content.links().ok()).flatten();
                links.into_iter().any(|link| (link.kind, &link.alias) == (artifact.kind, &artifact.alias))
            };
            for other in artifacts.iter().filter(names) {
                report.warnings.push(format!(
                    "{} `{}` names the {} `{}`: here that is another one, what came with it is `{}`",
                    other.kind, other.alias, artifact.kind, renamed.from, renamed.to
                ));
            }
        }
        // What others name goes first.
        deploy.sort_by_key(|(artifact, _)| matches!(artifact.kind, Kind::Prompt | Kind::Persona));
        for (place, (artifact, alias)) in deploy.iter().enumerate() {
            // Of several files for one alias the last counts.
            let again = deploy[place + 1..].iter().any(|(other, name)| other.kind == artifact.kind && name == alias);
            if let Some(environment) = import.deploy_to.filter(|_| !again) {
                let newest = artifact.versions.last().map(|version| version.hash.as_str()).unwrap_or_default();
                sqlx::query("SAVEPOINT deployment").execute(&mut *write).await?;
                let outcome = self.deploy_hash(&mut write, artifact.kind, alias, environment, newest).await;
                end_savepoint(&mut write, "deployment", outcome.is_ok()).await?;
                match outcome {
                    Ok(()) => {}
                    Err(error @ (StoreError::Database(_) | StoreError::Made)) => return Err(error),
                    Err(error) if import.keep_going => {
                        let reason = format!("it is not deployed: {error}");
                        report.failed.push(FailedImport { name: alias.clone(), reason });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(write.commit().await?)
    }

    /// The alias under which it is now; `None` where it was skipped.
    async fn bring_in_one(
        &self,
        write: &mut Work,
        artifact: &BundledArtifact,
        contents: &[Content],
        on_conflict: OnConflict,
        report: &mut ImportReport,
    ) -> Result<Option<String>, StoreError> {
        let (kind, name) = (artifact.kind, artifact.alias.clone());
        let mut alias = name.clone();
        if self.find(write, kind, &alias).await?.is_some() {
            if self.holds_all(write, kind, &alias, artifact).await? {
                match self.bring_in_draft(write, artifact, &alias, false, report).await? {
                    true => report.updated.push(name),
                    false => report.unchanged.push(name),
                }
                return Ok(Some(alias));
            }
            match on_conflict {
                OnConflict::Fail => return Err(StoreError::Exists { kind: kind.name(), name }),
                OnConflict::Skip => {
                    report.skipped.push(name);
                    return Ok(None);
                }
                OnConflict::NewVersion => {}
                OnConflict::Rename => {
                    for number in 2.. {
                        alias = format!("{name}-{number}");
                        match self.find(write, kind, &alias).await? {
                            None => break,
                            Some(_) if self.holds_all(write, kind, &alias, artifact).await? => {
                                report.unchanged.push(alias.clone());
                                return Ok(Some(alias));
                            }
                            Some(_) => {}
                        }
                    }
                }
            }
        }
        let here = self.find(write, kind, &alias).await?;
        let is_new = here.is_none();
        let is_usable = here.map_or(artifact.enabled && !artifact.archived, |here| here.usable);
        for (place, (version, content)) in artifact.versions.iter().zip(contents).enumerate() {
            // The newest is to be the newest here, too, though it is a return to an earlier one.
            let is_newest = place + 1 == artifact.versions.len();
            if !is_new && !is_newest && self.number_of(write, kind, &alias, &version.hash).await?.is_some() {
                continue;
            }
            // Who wrote it, as far as that is known. What is not used any more may name what is gone.
            let names_what_is = is_newest && is_usable;
            let known = Wrote { names_what_is, ..self.wrote(&version.note) };
            let wrote = match version.author.as_str() {
                "" => known,
                author => Wrote { author, at: version.created_at.min(now()), ..known },
            };
            let number = self.add_version(write, kind, &alias, content, wrote, None).await?;
            if version.deprecated {
                let artifact = self.existing(write, kind, &alias).await?;
                sqlx::query("UPDATE artifact_version SET deprecated_at = $3 WHERE artifact_id = $1 AND number = $2")
                    .bind(&artifact.id)
                    .bind(number)
                    .bind(now())
                    .execute(&mut **write)
                    .await?;
            }
        }
        if is_new {
            let change = Change {
                title: Some(artifact.title.clone()),
                tags: Some(artifact.tags.clone()),
                visibility: Some(artifact.visibility.clone()),
                context_engineering_enabled: Some(artifact.context_engineering_enabled),
                ..Change::default()
            };
            if self.find(write, kind, &alias).await?.is_none() {
                self.insert(write, kind, &alias).await?;
            }
            self.apply(write, kind, &alias, &change).await?;
        }
        self.bring_in_draft(write, artifact, &alias, is_new, report).await?;
        match (is_new, alias == name) {
            (true, true) => report.created.push(name),
            (true, false) => report.renamed.push(Renamed { from: name, to: alias.clone() }),
            (false, _) => report.updated.push(name),
        }
        Ok(Some(alias))
    }

    /// Brings a draft in where there is none; says whether it did.
    async fn bring_in_draft(
        &self,
        write: &mut Work,
        artifact: &BundledArtifact,
        alias: &str,
        is_new: bool,
        report: &mut ImportReport,
    ) -> Result<bool, StoreError> {
        let Some(draft) = &artifact.draft else { return Ok(false) };
        let kind = artifact.kind;
        let body = Content::read(kind, &draft.body)?.body()?;
        // It was published here meanwhile. A draft may also equal a version that came with it.
        if !is_new && self.number_of(write, kind, alias, &hex::encode(content_hash(&body))).await?.is_some() {
            return Ok(false);
        }
        let id = self.existing(write, kind, alias).await?.id;
        let here: Option<String> = sqlx::query_scalar("SELECT body FROM draft WHERE artifact_id = $1")
            .bind(&id)
            .fetch_optional(&mut **write)
            .await?;
        if let Some(here) = here {
            if here != body {
                report.warnings.push(format!("{kind} `{alias}` has another draft here, which stays"));
            }
            return Ok(false);
        }
        sqlx::query("INSERT INTO draft (artifact_id, tenant_id, body, author, updated_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(&id)
            .bind(&self.id)
            .bind(body)
            .bind(&draft.author)
            .bind(draft.updated_at)
            .execute(&mut **write)
            .await?;
        touch(write, &id).await?;
        self.note(write, &format!("{kind}.draft"), alias, serde_json::Value::Null, false).await?;
        Ok(true)
    }

    /// What came disabled or archived becomes so, after everything that names it came; but for what is used here.
    async fn put_away(&self, write: &mut Work, came: &[Came<'_>], report: &mut ImportReport) -> Result<(), StoreError> {
        const PUT: &str = "UPDATE artifact SET enabled = $2, archived_at = $3 WHERE id = $1";
        let mut put_away = Vec::new();
        for Came { artifact, alias, .. } in
            came.iter().filter(|came| came.is_new && (!came.artifact.enabled || came.artifact.archived))
        {
            let id = self.existing(write, artifact.kind, alias).await?.id;
            // If it was the first prompt, another is to be the default.
            let no_default = "UPDATE tenant SET default_artifact_id = NULL WHERE default_artifact_id = $1";
            sqlx::query(no_default).bind(&id).execute(&mut **write).await?;
            let archived = artifact.archived.then(now);
            sqlx::query(PUT).bind(&id).bind(i64::from(artifact.enabled)).bind(archived).execute(&mut **write).await?;
            put_away.push((artifact.kind, alias, id));
        }
        for (kind, alias, id) in put_away {
            if let Some(by) = self.used_by(write, kind, alias, &id).await?.into_iter().next() {
                sqlx::query(PUT).bind(&id).bind(1_i64).bind(None::<i64>).execute(&mut **write).await?;
                report.warnings.push(format!("{kind} `{alias}` is put away where it comes from, but used here: {by}"));
            }
        }
        Ok(())
    }

    /// As a draft: whether it runs here is decided here.
    async fn bring_in_experiment(
        &self,
        write: &mut Work,
        experiment: &BundledExperiment,
        came: &[Came<'_>],
        on_conflict: OnConflict,
        report: &mut ImportReport,
    ) -> Result<(), StoreError> {
        let name = &experiment.name;
        let of_it = |artifact: &BundledArtifact| (artifact.kind, &artifact.alias) == (Kind::Prompt, &experiment.prompt);
        let Some(Came { alias: prompt, .. }) = came.iter().find(|came| of_it(came.artifact)) else {
            report.warnings.push(format!(
                "the experiment `{name}` is left out, as its prompt `{}` did not come in",
                experiment.prompt
            ));
            return Ok(());
        };
        let mut arms = Vec::new();
        for arm in &experiment.arms {
            let version = self.number_of(write, Kind::Prompt, prompt, &arm.hash).await?;
            let version = version.ok_or_else(|| {
                StoreError::Invalid(format!("`{prompt}` has no version like that of its arm `{}` here", arm.name))
            })?;
            arms.push(Arm { name: arm.name.clone(), version, weight: arm.weight, start: arm.start });
        }
        if let Some(found) = self.select_experiments(write, name).await?.into_iter().next() {
            let mut is_same = (&found.prompt, &found.seed, &found.unit) == (prompt, &experiment.seed, &experiment.unit);
            for arm in &experiment.arms {
                // It may have got more arms here, and other weights.
                let here = found.arms.iter().find(|here| here.name == arm.name && here.start == arm.start);
                let hash = match here {
                    Some(here) => self.hash_of(write, &found.prompt, here.version).await?,
                    None => String::new(),
                };
                is_same &= hash == arm.hash;
            }
            if is_same {
                return Ok(());
            }
            return match on_conflict {
                OnConflict::Fail => Err(StoreError::Exists { kind: "experiment", name: name.clone() }),
                _ => {
                    report.warnings.push(format!("the experiment `{name}` exists with other arms and stays as it is"));
                    Ok(())
                }
            };
        }
        let new = NewExperiment {
            name: name.clone(),
            prompt: prompt.clone(),
            environment: experiment.environment.clone(),
            unit: experiment.unit.clone(),
            coverage: experiment.coverage,
            arms: Vec::new(),
            metric: experiment.metric.clone(),
            seed: Some(experiment.seed.clone()),
        };
        self.insert_experiment(write, &new, arms).await?;
        report.experiments.push(name.clone());
        Ok(())
    }

    async fn holds_all(
        &self,
        write: &mut Work,
        kind: Kind,
        alias: &str,
        artifact: &BundledArtifact,
    ) -> Result<bool, StoreError> {
        for version in &artifact.versions {
            if self.number_of(write, kind, alias, &version.hash).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn number_of(
        &self,
        write: &mut Work,
        kind: Kind,
        alias: &str,
        hash: &str,
    ) -> Result<Option<i64>, StoreError> {
        Ok(sqlx::query_scalar("SELECT v.number FROM artifact_version v JOIN artifact a ON a.id = v.artifact_id WHERE a.tenant_id = $1 AND a.kind = $2 AND a.alias = $3 AND v.content_hash = $4 ORDER BY v.number DESC LIMIT 1")
            .bind(&self.id)
            .bind(kind.name())
            .bind(alias)
            .bind(hex::decode(hash).unwrap_or_default())
            .fetch_optional(&mut **write)
            .await?)
    }

    /// The hash of a prompt's version.
    async fn hash_of(&self, write: &mut Work, prompt: &str, number: i64) -> Result<String, StoreError> {
        let hash: Vec<u8> = sqlx::query_scalar("SELECT v.content_hash FROM artifact_version v JOIN artifact a ON a.id = v.artifact_id WHERE a.tenant_id = $1 AND a.kind = 'prompt' AND a.alias = $2 AND v.number = $3")
            .bind(&self.id)
            .bind(prompt)
            .bind(number)
            .fetch_one(&mut **write)
            .await?;
        Ok(hex::encode(hash))
    }

    async fn begin_migration(&self, migration_type: &str) -> Result<Vec<u8>, StoreError> {
        let id = new_id();
        let mut write = self.write().await?;
        // One whose process was ended cannot say so itself.
        sqlx::query("UPDATE migration_status SET status = 'failed', completed_at = $2, error_message = 'it was cut short' WHERE tenant_id = $1 AND status = 'running' AND started_at < $2 - 86400000000")
            .bind(&self.id)
            .bind(now())
            .execute(&mut *write)
            .await?;
        sqlx::query("INSERT INTO migration_status (id, tenant_id, migration_type, status, started_at, error_message, templates_migrated, templates_failed) VALUES ($1, $2, $3, 'running', $4, '', 0, 0)")
            .bind(&id)
            .bind(&self.id)
            .bind(migration_type)
            .bind(now())
            .execute(&mut *write)
            .await?;
        write.commit().await?;
        Ok(id)
    }

    async fn end_migration(&self, id: &[u8], error: &str, migrated: i64, failed: i64) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        sqlx::query("UPDATE migration_status SET status = $2, completed_at = $3, error_message = $4, templates_migrated = $5, templates_failed = $6 WHERE id = $1")
            .bind(id)
            .bind(if error.is_empty() { "completed" } else { "failed" })
            .bind(now())
            .bind(error)
            .bind(migrated)
            .bind(failed)
            .execute(&mut *write)
            .await?;
        Ok(write.commit().await?)
    }

    /// Imports, newest first.
    pub async fn migrations(&self) -> Result<Vec<MigrationStatus>, StoreError> {
        type Found = (Vec<u8>, String, String, i64, Option<i64>, String, i64, i64);
        let rows: Vec<Found> = sqlx::query_as("SELECT id, migration_type, status, started_at, completed_at, error_message, templates_migrated, templates_failed FROM migration_status WHERE tenant_id = $1 ORDER BY started_at DESC LIMIT 100")
            .bind(&self.id)
            .fetch_all(&mut *self.store.database.read(Whose::Tenant(&self.id)).await?)
            .await?;
        let status =
            |(id, migration_type, status, started_at, completed_at, error_message, migrated, failed): Found| {
                MigrationStatus {
                    id: hex::encode(id),
                    migration_type,
                    status,
                    started_at,
                    completed_at,
                    error_message,
                    templates_migrated: migrated,
                    templates_failed: failed,
                }
            };
        Ok(rows.into_iter().map(status).collect())
    }
}

/// Ends a savepoint: what was written since then stays, or is taken back.
async fn end_savepoint(write: &mut Work, name: &str, keep: bool) -> Result<(), StoreError> {
    let statements = ["ROLLBACK TO SAVEPOINT", "RELEASE SAVEPOINT"];
    for statement in &statements[usize::from(keep)..] {
        // The name is one of this file's.
        sqlx::query(sqlx::AssertSqlSafe(format!("{statement} {name}"))).execute(&mut **write).await?;
    }
    Ok(())
}

/// What is named before what names it, as far as they name each other in no circle.
fn in_order(artifacts: &[BundledArtifact]) -> Vec<&BundledArtifact> {
    let place = |(at, artifact): (usize, &BundledArtifact)| ((artifact.kind, artifact.alias.clone()), at);
    let places: HashMap<(Kind, String), usize> = artifacts.iter().enumerate().map(place).collect();
    let named = |at: usize| -> Vec<usize> {
        // Of the newest version alone it is asked that what it names is there.
        let newest = artifacts[at].versions.last();
        let content = newest.and_then(|version| Content::read(artifacts[at].kind, &version.body).ok());
        let links = content.and_then(|content| content.links().ok()).unwrap_or_default();
        links.into_iter().filter_map(|link| places.get(&(link.kind, link.alias)).copied()).collect()
    };
    let mut ordered = Vec::with_capacity(artifacts.len());
    let mut seen = vec![false; artifacts.len()];
    for first in 0..artifacts.len() {
        // With what each still waits for: a chain may be longer than a stack is deep.
        let mut open: Vec<(usize, Vec<usize>)> = Vec::new();
        if !std::mem::replace(&mut seen[first], true) {
            open.push((first, named(first)));
        }
        while let Some((at, waits_for)) = open.last_mut() {
            match waits_for.pop() {
                Some(next) => {
                    if !std::mem::replace(&mut seen[next], true) {
                        open.push((next, named(next)));
                    }
                }
                None => {
                    ordered.push(&artifacts[*at]);
                    open.pop();
                }
            }
        }
    }
    ordered
}

/// The contents of a bundled artifact, if every body is what its hash says and of its kind.
fn sound(artifact: &BundledArtifact) -> Result<Vec<Content>, StoreError> {
    let read = |(at, version): (usize, &BundledVersion)| {
        let number = at + 1;
        if hex::encode(content_hash(&version.body)) != version.hash {
            return Err(StoreError::Invalid(format!("version {number} is damaged: its body does not have its hash")));
        }
        let content = Content::read(artifact.kind, &version.body)?;
        match content.body()? == version.body {
            true => Ok(content),
            false => Err(StoreError::Invalid(format!("the body of version {number} is not in canonical form"))),
        }
    };
    artifact.versions.iter().enumerate().map(read).collect()
}
