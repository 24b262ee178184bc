//! Experiments: which of several versions of a prompt a request gets.
//!
//! A unit (a session, a subject, a key) has a number in [0, 1) that follows from the experiment's seed and the unit
//! alone. An arm owns the range that begins at its fixed start and is `weight × coverage` long, so changing the
//! coverage moves nobody from one arm to another, and a new arm takes free space (the rule of GrowthBook's ranges).
//! Who falls into no range gets what is deployed.

use crate::content::{Kind, PromptContent};
use crate::database::Work;
use crate::deployments::stored_template;
use crate::{StoreError, Tenancy, check_name, new_id, now};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What a unit of an experiment is; requests that have none are not part of it.
pub const UNITS: [&str; 4] = ["session", "subject", "key", "request"];
/// Most arms of an experiment.
const MAX_ARMS: usize = 16;
/// Shares are kept in millionths.
const MILLION: f64 = 1_000_000.0;

/// One of the versions that are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    pub name: String,
    pub version: i64,
    /// Its share of all units at full coverage, in (0, 1].
    pub weight: f64,
    /// Where its range begins, in [0, 1); given out when the arm is added, and fixed from then on.
    #[serde(default)]
    pub start: Option<f64>,
}

/// An experiment over the versions of one prompt in one environment.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Experiment {
    pub name: String,
    pub prompt: String,
    pub environment: String,
    pub seed: String,
    pub unit: String,
    /// The share of every arm's units that takes part, in [0, 1].
    pub coverage: f64,
    pub arms: Vec<Arm>,
    /// The feedback metric that decides.
    pub metric: String,
    /// `draft`, `running` or `stopped`.
    pub state: String,
    pub revision: i64,
    pub created_at: i64,
}

/// A new experiment.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExperiment {
    pub name: String,
    pub prompt: String,
    #[serde(default = "production")]
    pub environment: String,
    #[serde(default = "session")]
    pub unit: String,
    #[serde(default = "whole")]
    pub coverage: f64,
    pub arms: Vec<Arm>,
    #[serde(default)]
    pub metric: String,
    /// Two experiments with one seed put a unit at the same place; left out, the name.
    pub seed: Option<String>,
}

fn production() -> String {
    "production".to_owned()
}

fn session() -> String {
    "session".to_owned()
}

fn whole() -> f64 {
    1.0
}

/// What shall be different; what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentChange {
    pub coverage: Option<f64>,
    /// Arms to add; an arm of a name that exists gets the new weight, if its range has room for it.
    pub arms: Option<Vec<Arm>>,
    /// `running` or `stopped`.
    pub state: Option<String>,
    pub metric: Option<String>,
}

const SELECT: &str = "SELECT x.name, a.alias, x.environment, x.seed, x.unit, x.coverage, x.arms, x.metric, x.state, x.revision, x.created_at FROM experiment x JOIN artifact a ON a.id = x.artifact_id WHERE x.tenant_id = $1 AND ($2 = '' OR x.name = $2) ORDER BY x.name";
type Row = (String, String, String, String, String, i64, String, String, String, i64, i64);

fn read(row: Row) -> Result<Experiment, StoreError> {
    let (name, prompt, environment, seed, unit, coverage, arms, metric, state, revision, created_at) = row;
    let arms = serde_json::from_str(&arms)
        .map_err(|error| StoreError::Invalid(format!("the stored experiment `{name}` cannot be read: {error}")))?;
    let coverage = coverage as f64 / MILLION;
    Ok(Experiment { name, prompt, environment, seed, unit, coverage, arms, metric, state, revision, created_at })
}

/// Where each arm's range begins, and whether all have room.
fn place(arms: &mut [Arm]) -> Result<(), StoreError> {
    let invalid = |reason: String| Err(StoreError::Invalid(reason));
    if arms.is_empty() || arms.len() > MAX_ARMS {
        return invalid(format!("an experiment has 1 to {MAX_ARMS} arms"));
    }
    for arm in arms.iter_mut() {
        check_name("arm", &arm.name)?;
        if !(arm.weight > 0.0 && arm.weight <= 1.0) {
            return invalid(format!("the weight of `{}` must be above 0 and at most 1", arm.name));
        }
        arm.weight = (arm.weight * MILLION).round() / MILLION;
    }
    for at in 0..arms.len() {
        if arms[at].start.is_none() {
            let taken = arms.iter().filter_map(|arm| Some(arm.start? + arm.weight)).fold(0.0, f64::max);
            arms[at].start = Some((taken * MILLION).round() / MILLION);
        }
    }
    arms.sort_by(|a, b| a.start.unwrap_or(0.0).total_cmp(&b.start.unwrap_or(0.0)));
    for (at, arm) in arms.iter().enumerate() {
        if arms[..at].iter().any(|other| other.name == arm.name) {
            return invalid(format!("two arms have the name `{}`", arm.name));
        }
        let end = arm.start.unwrap_or(0.0) + arm.weight;
        let limit = arms.get(at + 1).map_or(1.0, |next| next.start.unwrap_or(1.0));
        if end > limit + 1e-9 {
            return invalid(format!(
                "the weight of `{}` reaches beyond {limit}, where its room ends; weights add up to at most 1, and ranges never move",
                arm.name
            ));
        }
    }
    Ok(())
}

fn millionths(coverage: f64) -> Result<i64, StoreError> {
    match (0.0..=1.0).contains(&coverage) {
        true => Ok((coverage * MILLION).round() as i64),
        false => Err(StoreError::Invalid("`coverage` must be between 0 and 1".to_owned())),
    }
}

impl Tenancy {
    pub async fn experiments(&self) -> Result<Vec<Experiment>, StoreError> {
        let mut work = self.read().await?;
        self.select_experiments(&mut work, "").await
    }

    pub async fn experiment(&self, name: &str) -> Result<Experiment, StoreError> {
        let mut work = self.read().await?;
        self.one_experiment(&mut work, name).await
    }

    pub(crate) async fn select_experiments(&self, work: &mut Work, name: &str) -> Result<Vec<Experiment>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(SELECT).bind(&self.id).bind(name).fetch_all(&mut **work).await?;
        rows.into_iter().map(read).collect()
    }

    async fn one_experiment(&self, work: &mut Work, name: &str) -> Result<Experiment, StoreError> {
        let found = self.select_experiments(work, name).await?.into_iter().next().filter(|_| !name.is_empty());
        found.ok_or_else(|| StoreError::NotFound { kind: "experiment", name: name.to_owned() })
    }

    /// Makes an experiment; it does not run yet.
    pub async fn create_experiment(&self, new: &NewExperiment) -> Result<Experiment, StoreError> {
        let mut arms = new.arms.clone();
        arms.iter_mut().for_each(|arm| arm.start = None);
        let mut write = self.write().await?;
        self.insert_experiment(&mut write, new, arms).await?;
        let made = self.one_experiment(&mut write, &new.name).await?;
        write.commit().await?;
        Ok(made)
    }

    /// `arms` in the place of those of `new`: one that has a start keeps it.
    pub(crate) async fn insert_experiment(
        &self,
        write: &mut Work,
        new: &NewExperiment,
        mut arms: Vec<Arm>,
    ) -> Result<(), StoreError> {
        check_name("experiment", &new.name)?;
        check_name("environment", &new.environment)?;
        if !UNITS.contains(&new.unit.as_str()) {
            return Err(StoreError::Invalid(format!("`unit` must be one of {}", UNITS.join(", "))));
        }
        place(&mut arms)?;
        let coverage = millionths(new.coverage)?;
        let artifact = self.existing(write, Kind::Prompt, &new.prompt).await?;
        self.check_arms(write, &artifact.id, &new.prompt, &arms).await?;
        if !self.select_experiments(write, &new.name).await?.is_empty() {
            return Err(StoreError::Exists { kind: "experiment", name: new.name.clone() });
        }
        sqlx::query("INSERT INTO experiment (id, tenant_id, artifact_id, name, environment, seed, unit, coverage, arms, metric, state, revision, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'draft', 1, $11)")
            .bind(new_id())
            .bind(&self.id)
            .bind(&artifact.id)
            .bind(&new.name)
            .bind(&new.environment)
            .bind(new.seed.as_ref().unwrap_or(&new.name))
            .bind(&new.unit)
            .bind(coverage)
            .bind(json!(arms).to_string())
            .bind(&new.metric)
            .bind(now())
            .execute(&mut **write)
            .await?;
        self.note(write, "experiment.created", &new.name, json!(null), false).await
    }

    /// Changes, starts or stops an experiment. `expected` is the revision that the operator saw.
    pub async fn change_experiment(
        &self,
        name: &str,
        change: &ExperimentChange,
        expected: Option<i64>,
    ) -> Result<Experiment, StoreError> {
        let mut write = self.write().await?;
        let old = self.one_experiment(&mut write, name).await?;
        if expected.is_some_and(|expected| expected != old.revision) {
            return Err(StoreError::Conflict { name: name.to_owned(), found: old.revision });
        }
        if old.state == "running" || change.state.as_deref() == Some("running") {
            self.must_be_allowed(&mut write, &old.environment).await?;
        }
        let artifact = self.existing(&mut write, Kind::Prompt, &old.prompt).await?;
        let mut arms = old.arms.clone();
        for arm in change.arms.iter().flatten() {
            match arms.iter_mut().find(|known| known.name == arm.name) {
                Some(known) if known.version != arm.version && old.state != "draft" => {
                    return Err(StoreError::Invalid(format!(
                        "the arm `{name}` has begun with version {}; add an arm of another name",
                        known.version,
                        name = arm.name
                    )));
                }
                Some(known) => *known = Arm { start: known.start, ..arm.clone() },
                None => arms.push(Arm { start: None, ..arm.clone() }),
            }
        }
        place(&mut arms)?;
        self.check_arms(&mut write, &artifact.id, &old.prompt, &arms).await?;
        let state = change.state.as_deref().unwrap_or(&old.state);
        match (old.state.as_str(), state) {
            (old, new) if old == new => {}
            ("draft" | "stopped", "running") => self.may_start(&mut write, &artifact.id, &old).await?,
            ("running" | "draft", "stopped") => {}
            (_, other) => {
                return Err(StoreError::Invalid(format!("`state` can become `running` or `stopped`, not `{other}`")));
            }
        }
        sqlx::query("UPDATE experiment SET coverage = $3, arms = $4, state = $5, metric = $6, revision = revision + 1 WHERE tenant_id = $1 AND name = $2")
            .bind(&self.id)
            .bind(name)
            .bind(millionths(change.coverage.unwrap_or(old.coverage))?)
            .bind(json!(arms).to_string())
            .bind(state)
            .bind(change.metric.as_ref().unwrap_or(&old.metric))
            .execute(&mut *write)
            .await?;
        let publishes = old.state == "running" || state == "running";
        let detail = json!({ "state": state, "coverage": change.coverage });
        self.note(&mut write, "experiment.changed", name, detail, publishes).await?;
        let changed = self.one_experiment(&mut write, name).await?;
        if state == "running" {
            // As it will be published: every arm has to render.
            let shelf = crate::resolve::Shelf::of(&mut write, &self.id).await?;
            for arm in self
                .running(&mut write)
                .await?
                .remove(&(old.prompt, old.environment.clone()))
                .into_iter()
                .flat_map(|(_, arms)| arms)
            {
                let parts = shelf.resolve(&old.environment, &arm.1)?;
                arm.1.compile(&parts)?;
                self.must_not_float(&mut write, &changed.prompt, &old.environment, &parts).await?;
            }
        }
        write.commit().await?;
        Ok(changed)
    }

    async fn may_start(&self, write: &mut Work, artifact: &[u8], experiment: &Experiment) -> Result<(), StoreError> {
        let other: Option<String> = sqlx::query_scalar(
            "SELECT name FROM experiment WHERE artifact_id = $1 AND environment = $2 AND state = 'running'",
        )
        .bind(artifact)
        .bind(&experiment.environment)
        .fetch_optional(&mut **write)
        .await?;
        if let Some(other) = other {
            return Err(StoreError::InUse {
                kind: "prompt",
                name: experiment.prompt.clone(),
                by: format!("the experiment `{other}` runs with it in `{}`", experiment.environment),
            });
        }
        let deployed: Option<Vec<u8>> = sqlx::query_scalar("SELECT version_id FROM deployment WHERE artifact_id = $1 AND environment = $2 ORDER BY revision DESC LIMIT 1")
            .bind(artifact)
            .bind(&experiment.environment)
            .fetch_optional(&mut **write)
            .await?
            .flatten();
        match deployed {
            Some(_) => Ok(()),
            None => Err(StoreError::Invalid(format!(
                "`{}` is not deployed to `{}`, and who is in no arm gets what is deployed; deploy it first",
                experiment.prompt, experiment.environment
            ))),
        }
    }

    async fn check_arms(&self, work: &mut Work, artifact: &[u8], prompt: &str, arms: &[Arm]) -> Result<(), StoreError> {
        for arm in arms {
            let known: i64 =
                sqlx::query_scalar("SELECT COUNT(*) FROM artifact_version WHERE artifact_id = $1 AND number = $2")
                    .bind(artifact)
                    .bind(arm.version)
                    .fetch_one(&mut **work)
                    .await?;
            if known == 0 {
                return Err(StoreError::NotFound { kind: "version", name: format!("{prompt}@{}", arm.version) });
            }
        }
        Ok(())
    }

    /// Removes an experiment that does not run.
    pub async fn delete_experiment(&self, name: &str, expected: Option<i64>) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let found = self.one_experiment(&mut write, name).await?;
        if expected.is_some_and(|expected| expected != found.revision) {
            return Err(StoreError::Conflict { name: name.to_owned(), found: found.revision });
        }
        if found.state == "running" {
            return Err(StoreError::InUse {
                kind: "experiment",
                name: name.to_owned(),
                by: "it runs; stop it first".to_owned(),
            });
        }
        sqlx::query("DELETE FROM experiment WHERE tenant_id = $1 AND name = $2")
            .bind(&self.id)
            .bind(name)
            .execute(&mut *write)
            .await?;
        self.note(&mut write, "experiment.deleted", name, json!(null), false).await?;
        Ok(write.commit().await?)
    }

    /// What runs, by prompt and environment, with the contents of the arms' versions.
    pub(crate) async fn running(&self, work: &mut Work) -> Result<Running, StoreError> {
        let all = self.select_experiments(work, "").await?;
        let mut running = Running::new();
        for experiment in all.into_iter().filter(|experiment| experiment.state == "running") {
            let mut arms = Vec::new();
            for arm in &experiment.arms {
                let body: String = sqlx::query_scalar("SELECT v.body FROM artifact_version v JOIN artifact a ON a.id = v.artifact_id WHERE a.tenant_id = $1 AND a.kind = 'prompt' AND a.alias = $2 AND v.number = $3")
                    .bind(&self.id)
                    .bind(&experiment.prompt)
                    .bind(arm.version)
                    .fetch_one(&mut **work)
                    .await?;
                arms.push((arm.clone(), stored_template(&body)?));
            }
            running.insert((experiment.prompt.clone(), experiment.environment.clone()), (experiment, arms));
        }
        Ok(running)
    }
}

/// Running experiments by prompt and environment.
pub(crate) type Running = BTreeMap<(String, String), (Experiment, Vec<(Arm, PromptContent)>)>;

/// An arm's range in 2⁻³² of all units: its beginning, and its end, which is not in it.
pub(crate) fn range(arm: &Arm, coverage: f64) -> (u64, u64) {
    let whole = (1_u64 << 32) as f64;
    let start = arm.start.unwrap_or(0.0);
    ((start * whole).round() as u64, ((start + arm.weight * coverage) * whole).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(name: &str, weight: f64) -> Arm {
        Arm { name: name.to_owned(), version: 1, weight, start: None }
    }

    #[test]
    fn ranges_stay_where_they_are() {
        let mut arms = vec![arm("a", 0.3), arm("b", 0.2)];
        place(&mut arms).unwrap();
        assert_eq!([arms[0].start, arms[1].start], [Some(0.0), Some(0.3)]);
        arms.push(arm("c", 0.5));
        place(&mut arms).unwrap();
        assert_eq!(arms[2].start, Some(0.5));
        // More coverage makes ranges longer and begins none elsewhere.
        for arm in &arms {
            let (half, whole) = (range(arm, 0.5), range(arm, 1.0));
            assert_eq!(half.0, whole.0);
            assert!(half.1 < whole.1);
        }
        arms[0].weight = 0.4;
        assert!(place(&mut arms.clone()).is_err());
        arms[0].weight = 0.1;
        place(&mut arms).unwrap();
        assert_eq!(arms[1].start, Some(0.3));
        assert!(place(&mut [arm("a", 0.7), arm("b", 0.4)]).is_err());
        assert!(place(&mut [arm("a", 0.1), arm("a", 0.1)]).is_err());
    }
}
