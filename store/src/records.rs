//! What edges report: runs, feedback, and which epoch they serve.
//!
//! Edges put batches of their journals at the snapshot location. A batch and the note that it was taken are one
//! transaction, so its records are stored once, however often it arrives.

use crate::database::Whose;
use crate::epochs::TOLD;
use crate::preview::price_of;
use crate::publish::PublishError;
use crate::settings::{EVENT_RETENTION, RUN_RETENTION};
use crate::statistics::no_run;
use crate::{Store, StoreError, Tenancy, now, transcripts};
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::Serialize;
use serde_json::Value;
use sluice_segment::{Feedback, Record, Run, journal_records};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use utoipa::ToSchema;

/// How long records are kept where a tenant says nothing else.
const RETENTION_DAYS: i64 = 90;
const DAY: i64 = 86_400_000_000;

/// What was taken from edges' journals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Collected {
    pub batches: u64,
    pub records: u64,
    /// Records that this program cannot read, or of tenants that are gone.
    pub unknown: u64,
    /// Batches that could not be stored, or not all of them: they lie below `journal-refused` at the location.
    pub set_aside: u64,
}

/// Where batches are put that nothing else can be done with.
pub(crate) const ASIDE: &str = "journal-refused";

/// Whether the database refuses the values themselves, as it would for ever.
fn is_of_values(error: &StoreError) -> bool {
    use sqlx::error::ErrorKind;
    let StoreError::Database(sqlx::Error::Database(error)) = error else { return false };
    matches!(error.kind(), ErrorKind::CheckViolation | ErrorKind::NotNullViolation | ErrorKind::ForeignKeyViolation)
        // SQLSTATE class 22: data exceptions.
        || error.code().is_some_and(|code| code.len() == 5 && code.starts_with("22"))
}

/// What an edge said of itself last.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EdgeState {
    pub name: String,
    pub epoch: i64,
    pub program: String,
    /// Microseconds since the Unix epoch, by the edge's clock.
    pub at: i64,
    /// Records that it had to drop since its start, for want of room or of a location.
    pub dropped: i64,
}

/// One exchange.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RunRecord {
    pub id: String,
    pub at: i64,
    pub edge: String,
    pub route: String,
    pub provider: String,
    pub model: String,
    pub prompt: String,
    pub version: i64,
    pub environment: String,
    pub experiment: String,
    pub arm: String,
    pub status: i64,
    pub error: String,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub own_microseconds: i64,
    pub total_microseconds: i64,
    /// By the setting `prices` when it was recorded; nothing where that has no price of the model.
    pub cost: Option<f64>,
}

impl Store {
    /// Takes what edges have put at `location` into the store, and removes it there.
    pub async fn collect(&self, location: Arc<dyn ObjectStore>) -> Result<Collected, PublishError> {
        let mut done = Collected::default();
        let batches: Vec<_> = location.list(Some(&ObjectPath::from("journal"))).try_collect().await?;
        if batches.is_empty() {
            return Ok(done);
        }
        let tenants: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT id FROM tenant").fetch_all(&mut *self.database.read(Whose::All).await?).await?;
        let tenants: HashSet<Vec<u8>> = tenants.into_iter().collect();
        for batch in batches {
            let mut parts = batch.location.parts().skip(1).map(|part| part.as_ref().to_owned());
            let (edge, number) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let Ok(number) = number.parse::<i64>() else { continue };
            let bytes = match location.get(&batch.location).await {
                Ok(found) => found.bytes().await?,
                // Another collector was here.
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let unread = match self.take_batch(&edge, number, &bytes, &tenants, &mut done).await {
                Ok(unread) => unread > 0,
                Err(error) if is_of_values(&error) => {
                    tracing::error!(%error, batch = %batch.location, "a batch of records cannot be stored; it is set aside");
                    true
                }
                Err(error) => return Err(error.into()),
            };
            if unread {
                done.set_aside += 1;
                let aside = ObjectPath::from(format!("{ASIDE}/{edge}/{number}"));
                location.put(&aside, bytes.into()).await?;
            }
            match location.delete(&batch.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    /// Stores one batch, if it was not stored before. Gives how many of its records are not known here.
    async fn take_batch(
        &self,
        edge: &str,
        number: i64,
        bytes: &[u8],
        tenants: &HashSet<Vec<u8>>,
        done: &mut Collected,
    ) -> Result<u64, StoreError> {
        let (records, end) = journal_records(bytes);
        // A newer edge wrote it. It is not noted as stored: put back when this program is newer, it will be.
        if end == 0 && !bytes.is_empty() {
            return Ok(1);
        }
        let records: Vec<Option<Record<'_>>> =
            records.iter().map(|record| serde_json::from_slice(record).ok()).collect();
        let unread = records.iter().filter(|record| record.is_none()).count() as u64;
        let mut write = self.database.write(Whose::All).await?;
        let taken = sqlx::query("INSERT INTO journal (edge, number, records, at) VALUES ($1, $2, $3, $4) ON CONFLICT (edge, number) DO NOTHING")
            .bind(edge)
            .bind(number)
            .bind(records.len() as i64)
            .bind(now())
            .execute(&mut *write)
            .await?;
        let mut unknown = unread;
        if taken.rows_affected() == 1 {
            let runs: Vec<&Run<'_>> = records
                .iter()
                .filter_map(|record| match record {
                    Some(Record::Run(run)) => Some(run),
                    _ => None,
                })
                .collect();
            let prices = prices(&mut write).await?;
            let keepers = transcripts::keepers(&mut write).await?;
            let erased = Erased::read(&mut write).await?;
            unknown += insert_runs(&mut write, tenants, &prices, &erased, edge, &runs).await?;
            for record in &records {
                let known = match record {
                    Some(Record::Run(_)) | None => true,
                    Some(Record::Feedback(said)) => insert_feedback(&mut write, tenants, &erased, said).await?,
                    Some(Record::Content(content)) => {
                        transcripts::insert(&mut write, &keepers, &erased, content).await?
                    }
                };
                unknown += u64::from(!known);
            }
        }
        write.commit().await?;
        if taken.rows_affected() == 1 {
            done.unknown += unknown;
            done.records += records.len() as u64;
            done.batches += 1;
        }
        Ok(unread)
    }

    /// Removes records that are older than their tenant keeps them: the setting `run_retention_days`, 90 without it; and
    /// audit events and what imports did, only where the setting `event_retention_days` says so.
    pub async fn forget_old_records(&self) -> Result<u64, StoreError> {
        let mut gone = 0;
        for name in self.tenants().await? {
            let tenancy = self.tenancy(&name, "retention").await?;
            let days = tenancy.days(RUN_RETENTION).await?.unwrap_or(RETENTION_DAYS);
            let events = tenancy.days(EVENT_RETENTION).await?;
            let mut write = tenancy.write().await?;
            for sql in [
                "DELETE FROM run WHERE tenant_id = $1 AND at < $2",
                "DELETE FROM feedback WHERE tenant_id = $1 AND at < $2",
            ] {
                let removed = sqlx::query(sql).bind(&tenancy.id).bind(now() - days * DAY).execute(&mut *write).await?;
                gone += removed.rows_affected();
            }
            if let Some(days) = events {
                // What is published is told by the newest event that asks for it.
                for sql in [
                    "DELETE FROM event WHERE tenant_id = $1 AND at < $2 AND seq < (SELECT COALESCE(MAX(seq), 0) FROM event WHERE tenant_id = $1 AND publishes = 1)",
                    "DELETE FROM migration_status WHERE tenant_id = $1 AND started_at < $2",
                ] {
                    let gone_now =
                        sqlx::query(sql).bind(&tenancy.id).bind(now() - days * DAY).execute(&mut *write).await?;
                    gone += gone_now.rows_affected();
                }
            }
            // Where the setting is gone, so is all that was kept by it, but for what was on its way.
            let days = tenancy.keeping(&mut write).await?.map_or(0, |keeping| keeping.days);
            let removed = sqlx::query("DELETE FROM run_content WHERE tenant_id = $1 AND at < $2")
                .bind(&tenancy.id)
                .bind(now() - days * DAY)
                .execute(&mut *write)
                .await?;
            gone += removed.rows_affected();
            write.commit().await?;
        }
        // A batch that comes again does so within days, or never.
        let mut write = self.database.write(Whose::All).await?;
        sqlx::query("DELETE FROM journal WHERE at < $1")
            .bind(now() - RETENTION_DAYS * DAY)
            .execute(&mut *write)
            .await?;
        // Of epochs only the newest number is asked for.
        sqlx::query("DELETE FROM snapshot WHERE epoch < (SELECT MAX(epoch) - 1000 FROM snapshot)")
            .execute(&mut *write)
            .await?;
        sqlx::query("DELETE FROM erasure WHERE at < $1").bind(now() - TOLD).execute(&mut *write).await?;
        write.commit().await?;
        Ok(gone)
    }

    /// What edges said of themselves at `location`, by name.
    pub async fn edges(&self, location: Arc<dyn ObjectStore>) -> Result<Vec<EdgeState>, PublishError> {
        #[derive(serde::Deserialize)]
        struct Said {
            epoch: i64,
            at: i64,
            program: String,
            #[serde(default)]
            dropped: i64,
        }
        let mut states = Vec::new();
        let edges: Vec<_> = location.list(Some(&ObjectPath::from("edges"))).try_collect().await?;
        for edge in edges {
            let bytes = match location.get(&edge.location).await {
                Ok(found) => found.bytes().await?,
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            if let Ok(Said { epoch, at, program, dropped }) = serde_json::from_slice(&bytes) {
                let name = edge.location.filename().unwrap_or_default().to_owned();
                states.push(EdgeState { name, epoch, program, at, dropped });
            }
        }
        states.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(states)
    }
}

type Write = crate::database::Work;

/// A text as every database keeps it: without NUL, and not endless.
fn text(text: &str) -> String {
    text.chars().filter(|character| *character != '\0').take(MAX_TEXT).collect()
}

/// Longest text of a record, in characters.
const MAX_TEXT: usize = 4_096;

/// An id or a hash, from its hexadecimal digits.
pub(crate) fn bytes(text: &str) -> Option<Vec<u8>> {
    Some(hex::decode(text).unwrap_or_default()).filter(|bytes| !bytes.is_empty())
}

/// Rows of one statement: a statement for each run costs several times as much.
const ROWS: usize = 64;
const COLUMNS: usize = 23;

/// The setting `prices` of every tenant that has one.
async fn prices(write: &mut Write) -> Result<HashMap<Vec<u8>, Value>, StoreError> {
    let rows: Vec<(Vec<u8>, String)> =
        sqlx::query_as("SELECT tenant_id, value FROM setting WHERE name = 'prices'").fetch_all(&mut **write).await?;
    Ok(rows.into_iter().map(|(tenant, value)| (tenant, serde_json::from_str(&value).unwrap_or_default())).collect())
}

/// What a run cost by these prices, a million tokens each.
fn cost(prices: &Value, run: &Run<'_>) -> Option<f64> {
    let (input, output) = price_of(prices, &run.model)?;
    Some((run.input_tokens as f64 * input + run.output_tokens as f64 * output) / 1e6)
}

/// The subjects that were erased, and when. What was on its way then comes without them.
pub(crate) struct Erased {
    subjects: HashMap<(Vec<u8>, Vec<u8>), i64>,
    /// By tenant.
    newest: HashMap<Vec<u8>, i64>,
}

/// By how much an edge's clock may be ahead: what happened before an erasure must not outlive it, in microseconds.
const CLOCKS: i64 = 300_000_000;

impl Erased {
    async fn read(write: &mut Write) -> Result<Erased, StoreError> {
        let rows: Vec<(Vec<u8>, Vec<u8>, i64)> =
            sqlx::query_as("SELECT tenant_id, unit, at FROM erasure").fetch_all(&mut **write).await?;
        let mut newest: HashMap<Vec<u8>, i64> = HashMap::new();
        for (tenant, _, at) in &rows {
            let known = newest.entry(tenant.clone()).or_default();
            *known = at.max(known).to_owned();
        }
        let subjects = rows.into_iter().map(|(tenant, unit, at)| ((tenant, unit), at)).collect();
        Ok(Erased { subjects, newest })
    }

    /// Whether what is of that subject, and of that time, is to be forgotten.
    pub(crate) fn holds(&self, tenant: &[u8], subject: &[u8], at: i64) -> bool {
        let is_before = |erased: &i64| *erased >= at - CLOCKS;
        !self.subjects.is_empty() && self.subjects.get(&(tenant.to_vec(), subject.to_vec())).is_some_and(is_before)
    }

    /// Until when what was said may be of that subject, which was erased.
    fn until_of(&self, tenant: &[u8], subject: &[u8]) -> i64 {
        self.subjects.get(&(tenant.to_vec(), subject.to_vec())).map_or(0, |erased| erased + CLOCKS)
    }

    /// Until when what was said may be of somebody of the tenant who was erased.
    fn until(&self, tenant: &[u8]) -> i64 {
        self.newest.get(tenant).map_or(0, |erased| erased + CLOCKS)
    }
}

/// Stores runs; says how many of them are of tenants that are gone, or have no id.
async fn insert_runs(
    write: &mut Write,
    tenants: &HashSet<Vec<u8>>,
    prices: &HashMap<Vec<u8>, Value>,
    erased: &Erased,
    edge: &str,
    runs: &[&Run<'_>],
) -> Result<u64, StoreError> {
    let mut unknown = 0;
    let mut known = Vec::with_capacity(runs.len());
    for run in runs {
        match (bytes(&run.id), bytes(&run.tenant).filter(|tenant| tenants.contains(tenant))) {
            (Some(id), Some(tenant)) => known.push((id, tenant, run)),
            _ => unknown += 1,
        }
    }
    for rows in known.chunks(ROWS) {
        let mut sql = "INSERT INTO run (id, tenant_id, at, edge, key_id, route, provider, model, prompt, version, environment, experiment, arm, session, subject, status, error, input_tokens, output_tokens, own_microseconds, total_microseconds, cost, forgotten) VALUES ".to_owned();
        for row in 0..rows.len() {
            let places: Vec<String> = (1..=COLUMNS).map(|column| format!("${}", row * COLUMNS + column)).collect();
            sql.push_str(if row > 0 { ", (" } else { "(" });
            sql.push_str(&places.join(", "));
            sql.push(')');
        }
        sql.push_str(" ON CONFLICT (id) DO NOTHING");
        // Made of numbers and of what stands above.
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        let mut forgotten = Vec::new();
        for (id, tenant, run) in rows {
            let subject = bytes(&run.subject);
            let is_erased = subject.as_ref().is_some_and(|subject| erased.holds(tenant, subject, run.at));
            if is_erased {
                let until = subject.as_ref().map_or(0, |subject| erased.until_of(tenant, subject));
                forgotten.push((tenant, id, bytes(&run.session), until));
            }
            query = query
                .bind(id.clone())
                .bind(tenant.clone())
                .bind(run.at)
                .bind(edge.to_owned())
                .bind(bytes(&run.key))
                .bind(text(&run.route))
                .bind(text(&run.provider))
                .bind(text(&run.model))
                .bind(text(&run.prompt))
                .bind(run.version)
                .bind(text(&run.environment))
                .bind(text(&run.experiment))
                .bind(text(&run.arm))
                .bind(bytes(&run.session))
                .bind(subject.filter(|_| !is_erased))
                .bind(run.status)
                .bind(text(&run.error))
                .bind(run.input_tokens)
                .bind(run.output_tokens)
                .bind(run.own_microseconds)
                .bind(run.total_microseconds)
                .bind(prices.get(tenant).and_then(|prices| cost(prices, run)))
                .bind(i64::from(is_erased));
        }
        query.execute(&mut **write).await?;
        // What was said of them may have come by another edge, earlier.
        for (tenant, id, session, until) in forgotten {
            sqlx::query("DELETE FROM feedback WHERE tenant_id = $1 AND ((unit_kind = 'run' AND unit = $2) OR (unit_kind = 'session' AND unit = $3 AND at <= $4))")
                .bind(tenant.clone())
                .bind(id.clone())
                .bind(session.unwrap_or_default())
                .bind(until)
                .execute(&mut **write)
                .await?;
        }
    }
    Ok(unknown)
}

async fn insert_feedback(
    write: &mut Write,
    tenants: &HashSet<Vec<u8>>,
    erased: &Erased,
    said: &Feedback<'_>,
) -> Result<bool, StoreError> {
    let tenant = bytes(&said.tenant).filter(|tenant| tenants.contains(tenant));
    let (Some(tenant), Some(unit)) = (tenant, bytes(&said.unit)) else { return Ok(false) };
    let is_forgotten = match &*said.unit_kind {
        "subject" => erased.holds(&tenant, &unit, said.at),
        // A session may go on with somebody else. A forgotten run does not know any more whose it was, so what was said
        // of its session before the newest erasure is not kept.
        "session" if said.at > erased.until(&tenant) => false,
        kind @ ("run" | "session") => {
            let find = match kind {
                "run" => "SELECT 1 FROM run WHERE tenant_id = $1 AND id = $2 AND forgotten = 1 LIMIT 1",
                _ => "SELECT 1 FROM run WHERE tenant_id = $1 AND session = $2 AND forgotten = 1 LIMIT 1",
            };
            let found = sqlx::query(find).bind(&tenant).bind(&unit).fetch_optional(&mut **write).await?;
            found.is_some()
        }
        // Of a newer edge than this store.
        _ => return Ok(false),
    };
    if is_forgotten {
        return Ok(true);
    }
    // Batches of several edges may arrive in any order; what was said last counts.
    sqlx::query("INSERT INTO feedback (tenant_id, unit_kind, unit, metric, source, value, comment, at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant_id, unit_kind, unit, metric, source) DO UPDATE SET value = excluded.value, comment = excluded.comment, at = excluded.at WHERE excluded.at >= feedback.at")
        .bind(tenant)
        .bind(text(&said.unit_kind))
        .bind(unit)
        .bind(text(&said.metric))
        .bind(text(&said.source))
        .bind(said.value)
        .bind(text(&said.comment))
        .bind(said.at)
        .execute(&mut **write)
        .await?;
    Ok(true)
}

/// What an arm of an experiment, or what is outside of all, has brought.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ArmResult {
    pub arm: String,
    pub runs: i64,
    /// Distinct units, where the experiment counts sessions or subjects.
    pub units: i64,
    pub errors: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    /// Of the runs that have one.
    pub cost: f64,
    pub mean_milliseconds: f64,
    /// Of the experiment's metric: how many units have a value (the mean of all that was said of one), the mean of these,
    /// and the half-width of a confidence sequence around it that holds at every look (95 %).
    pub values: i64,
    pub mean: Option<f64>,
    pub margin: Option<f64>,
}

/// An experiment's figures.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ExperimentResult {
    pub experiment: crate::Experiment,
    pub arms: Vec<ArmResult>,
    /// Probability of shares at least so far from the weights (χ²); below 0.001 something mixes arms up.
    pub sample_ratio_p: Option<f64>,
}

impl Tenancy {
    /// The newest runs, newest first; those before the run `before`, where one is named.
    pub async fn runs(&self, before: Option<&str>, limit: i64) -> Result<Vec<RunRecord>, StoreError> {
        use sqlx::Row;
        let mut read = self.read().await?;
        let before = match before {
            None => (i64::MAX, Vec::new()),
            Some(run) => {
                let id = hex::decode(run).map_err(|_| no_run(run))?;
                let find = "SELECT at FROM run WHERE tenant_id = $1 AND id = $2";
                let at = sqlx::query_scalar(find).bind(&self.id).bind(&id).fetch_optional(&mut *read).await?;
                (at.ok_or_else(|| no_run(run))?, id)
            }
        };
        let rows = sqlx::query("SELECT id, at, edge, route, provider, model, prompt, version, environment, experiment, arm, status, error, input_tokens, output_tokens, own_microseconds, total_microseconds, cost FROM run WHERE tenant_id = $1 AND at <= $2 AND (at < $2 OR id < $3) ORDER BY at DESC, id DESC LIMIT $4").bind(&self.id).bind(before.0).bind(before.1).bind(limit).fetch_all(&mut *read).await?;
        let record = |row: &sqlx::any::AnyRow| {
            Ok(RunRecord {
                id: hex::encode(row.try_get::<Vec<u8>, _>("id")?),
                at: row.try_get("at")?,
                edge: row.try_get("edge")?,
                route: row.try_get("route")?,
                provider: row.try_get("provider")?,
                model: row.try_get("model")?,
                prompt: row.try_get("prompt")?,
                version: row.try_get("version")?,
                environment: row.try_get("environment")?,
                experiment: row.try_get("experiment")?,
                arm: row.try_get("arm")?,
                status: row.try_get("status")?,
                error: row.try_get("error")?,
                input_tokens: row.try_get("input_tokens")?,
                output_tokens: row.try_get("output_tokens")?,
                own_microseconds: row.try_get("own_microseconds")?,
                total_microseconds: row.try_get("total_microseconds")?,
                cost: row.try_get("cost")?,
            })
        };
        rows.iter().map(record).collect()
    }

    /// How many runs are stored.
    pub async fn count_runs(&self) -> Result<i64, StoreError> {
        let mut read = self.read().await?;
        let count = "SELECT COUNT(*) FROM run WHERE tenant_id = $1";
        Ok(sqlx::query_scalar(count).bind(&self.id).fetch_one(&mut *read).await?)
    }

    /// What an experiment's arms have brought so far.
    pub async fn results(&self, name: &str) -> Result<ExperimentResult, StoreError> {
        let experiment = self.experiment(name).await?;
        let mut read = self.read().await?;
        // Feedback is of a run, or of the session or subject that the run belongs to; whose it is, is the unit.
        let (whose, also) = match experiment.unit.as_str() {
            "session" => ("COALESCE(r.session, r.id)", " OR (f.unit_kind = 'session' AND f.unit = r.session)"),
            "subject" => ("COALESCE(r.subject, r.id)", " OR (f.unit_kind = 'subject' AND f.unit = r.subject)"),
            "key" => ("COALESCE(r.key_id, r.id)", ""),
            _ => ("r.id", ""),
        };
        let joined = format!(
            "SELECT DISTINCT r.arm, {whose}, f.unit, f.source, f.value FROM run r JOIN feedback f ON f.tenant_id = r.tenant_id AND ((f.unit_kind = 'run' AND f.unit = r.id){also}) WHERE r.tenant_id = $1 AND r.experiment = $2 AND f.metric = $3 AND r.at >= $4 AND f.value IS NOT NULL"
        );
        type Said = (String, Vec<u8>, Vec<u8>, String, f64);
        // Made of what stands above alone.
        let said: Vec<Said> = sqlx::query_as(sqlx::AssertSqlSafe(joined))
            .bind(&self.id)
            .bind(name)
            .bind(&experiment.metric)
            .bind(experiment.created_at)
            .fetch_all(&mut *read)
            .await?;
        // What was said several times of one unit is one value: repeated looks at one are no more evidence.
        let mut values: HashMap<(String, Vec<u8>), (f64, f64)> = HashMap::new();
        for (arm, unit, _, _, value) in said {
            let (sum, count) = values.entry((arm, unit)).or_default();
            *sum += value;
            *count += 1.0;
        }
        type Row = (String, i64, i64, i64, i64, i64, i64, i64, i64, f64);
        let rows: Vec<Row> = sqlx::query_as("SELECT arm, COUNT(*), COUNT(DISTINCT session), COUNT(DISTINCT subject), COUNT(DISTINCT key_id), CAST(SUM(CASE WHEN status >= 400 OR error <> '' THEN 1 ELSE 0 END) AS BIGINT), CAST(SUM(input_tokens) AS BIGINT), CAST(SUM(output_tokens) AS BIGINT), CAST(SUM(total_microseconds) AS BIGINT), CAST(COALESCE(SUM(cost), 0.0) AS DOUBLE PRECISION) FROM run WHERE tenant_id = $1 AND experiment = $2 AND at >= $3 GROUP BY arm ORDER BY arm")
            .bind(&self.id)
            .bind(name)
            .bind(experiment.created_at)
            .fetch_all(&mut *read)
            .await?;
        let mut arms = Vec::new();
        for arm in &experiment.arms {
            let of_arm = values.iter().filter(|((of, _), _)| *of == arm.name);
            let of_arm: Vec<f64> = of_arm.map(|(_, (sum, count))| sum / count).collect();
            let (mean, margin) = confidence(&of_arm);
            let mut result =
                ArmResult { arm: arm.name.clone(), values: of_arm.len() as i64, mean, margin, ..ArmResult::default() };
            if let Some((_, runs, sessions, subjects, keys, errors, input, output, micros, cost)) =
                rows.iter().find(|row| row.0 == arm.name)
            {
                result.runs = *runs;
                result.units = match experiment.unit.as_str() {
                    "session" => *sessions,
                    "subject" => *subjects,
                    "key" => *keys,
                    _ => *runs,
                };
                result.errors = *errors;
                result.input_tokens = *input;
                result.output_tokens = *output;
                result.cost = *cost;
                result.mean_milliseconds = *micros as f64 / *runs as f64 / 1_000.0;
            }
            arms.push(result);
        }
        let seen: Vec<(f64, f64)> =
            experiment.arms.iter().zip(&arms).map(|(arm, result)| (arm.weight, result.units as f64)).collect();
        Ok(ExperimentResult { sample_ratio_p: sample_ratio(&seen), experiment, arms })
    }
}

/// Mean and half-width of an asymptotic confidence sequence at level 0.95: Waudby-Smith, Arbour, Sinha, Kennedy and
/// Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences" (2021), equation 10, with ρ chosen
/// to be tightest at 500 values. Looking at it often does no harm.
fn confidence(values: &[f64]) -> (Option<f64>, Option<f64>) {
    const ALPHA: f64 = 0.05;
    const TIGHTEST: f64 = 500.0;
    let n = values.len() as f64;
    if values.is_empty() {
        return (None, None);
    }
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (Some(mean), None);
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let rho2 = (-2.0 * ALPHA.ln() + (-2.0 * ALPHA.ln() + 1.0).ln()) / TIGHTEST;
    let width = 2.0 * (n * rho2 + 1.0) / (n * n * rho2) * ((n * rho2 + 1.0).sqrt() / ALPHA).ln();
    (Some(mean), Some((variance * width).sqrt()))
}

/// The p-value of the χ² test of counts against weights.
fn sample_ratio(seen: &[(f64, f64)]) -> Option<f64> {
    let (weights, counts): (f64, f64) = seen.iter().fold((0.0, 0.0), |sum, arm| (sum.0 + arm.0, sum.1 + arm.1));
    if seen.len() < 2 || counts < 20.0 {
        return None;
    }
    let chi2: f64 = seen
        .iter()
        .map(|(weight, count)| {
            let expected = counts * weight / weights;
            (count - expected).powi(2) / expected
        })
        .sum();
    // Wilson and Hilferty's cube-root approximation of the distribution, then the normal tail.
    let freedom = (seen.len() - 1) as f64;
    let z = ((chi2 / freedom).cbrt() - (1.0 - 2.0 / (9.0 * freedom))) / (2.0 / (9.0 * freedom)).sqrt();
    Some(normal_tail(z))
}

/// The probability of a normal variable above `z` (Abramowitz and Stegun 26.2.17, error below 7.5e-8).
fn normal_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - normal_tail(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series =
        t * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_at_every_look() {
        // Fair coins, looked at after every throw from the fiftieth on: at most one in twenty may ever leave.
        let mut left = 0;
        for run in 0..200_u64 {
            let mut seed = blake3::hash(&run.to_le_bytes());
            let mut values = Vec::new();
            let mut outside = false;
            for throw in 0..1_000_usize {
                if throw % 32 == 0 {
                    seed = blake3::hash(seed.as_bytes());
                }
                values.push(f64::from(seed.as_bytes()[throw % 32] & 1));
                if throw >= 50 {
                    let (mean, margin) = confidence(&values);
                    outside |= (mean.unwrap() - 0.5).abs() > margin.unwrap();
                }
            }
            left += u32::from(outside);
        }
        assert!(left <= 14, "{left} of 200");
        assert_eq!(confidence(&[]), (None, None));
    }

    /// A batch as an edge ships it.
    fn batch(folder: &std::path::Path, records: &[&[u8]]) -> Vec<u8> {
        let path = folder.join("batch");
        let mut file = sluice_segment::JournalFile::create(&path, 4_096).unwrap();
        assert!(records.iter().all(|record| file.append(record)));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        bytes
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn batches_that_cannot_be_read_are_set_aside_and_the_next_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        let tenancy = store.make_tenancy("t", "test").await.unwrap();
        let location: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let tenant = hex::encode(&tenancy.id);
        let run = |id: &str| Run { id: id.to_owned().into(), tenant: tenant.clone().into(), ..Run::default() };
        let run = |id: &str| serde_json::to_vec(&Record::Run(run(id))).unwrap();
        let newer = br#"{"kind":"dream","tenant":"00"}"#;
        let odd = format!(
            r#"{{"kind":"feedback","tenant":"{tenant}","unit_kind":"dream","unit":"aa","metric":"m","source":"s","at":1}}"#
        );
        let batches = [
            ("journal/a/1", b"a file of another kind".to_vec()),
            ("journal/a/2", batch(folder.path(), &[&run("01"), newer, odd.as_bytes()])),
            ("journal/a/3", batch(folder.path(), &[&run("02")])),
        ];
        for (path, bytes) in &batches {
            location.put(&ObjectPath::from(*path), bytes.clone().into()).await.unwrap();
        }
        let done = store.collect(Arc::clone(&location)).await.unwrap();
        assert_eq!(done, Collected { batches: 2, records: 4, unknown: 2, set_aside: 2 });
        assert_eq!(tenancy.count_runs().await.unwrap(), 2);
        for (path, bytes) in &batches {
            let aside = location.get(&ObjectPath::from(path.replace("journal", ASIDE))).await;
            match path.ends_with('3') {
                true => assert!(aside.is_err()),
                false => assert_eq!(aside.unwrap().bytes().await.unwrap(), *bytes),
            }
            assert!(location.get(&ObjectPath::from(*path)).await.is_err());
        }
        // What a database refuses for its values, and what it refuses for now.
        let mut write = store.database.write(Whose::All).await.unwrap();
        let mut refused = async |sql: &'static str| {
            StoreError::from(sqlx::query(sql).bind(&tenancy.id).execute(&mut *write).await.unwrap_err())
        };
        let sql = "INSERT INTO feedback (tenant_id, unit_kind, unit, metric, source, comment, at) VALUES ($1, 'x', $1, '', '', '', 1)";
        assert!(is_of_values(&refused(sql).await));
        assert!(!is_of_values(&refused("INSERT INTO nowhere VALUES ($1)").await));
    }

    #[test]
    fn mixed_up_shares_are_noticed() {
        assert!(sample_ratio(&[(0.5, 500.0), (0.5, 510.0)]).unwrap() > 0.5);
        assert!(sample_ratio(&[(0.5, 500.0), (0.5, 700.0)]).unwrap() < 0.001);
        assert!(sample_ratio(&[(0.2, 400.0), (0.8, 1_600.0)]).unwrap() > 0.5);
        // χ² of 3.84 at one degree of freedom is the five per cent point.
        let five = sample_ratio(&[(0.5, 500.0 + 31.0), (0.5, 500.0 - 31.0)]).unwrap();
        assert!((five - 0.05).abs() < 0.01, "{five}");
        assert_eq!(sample_ratio(&[(1.0, 500.0)]), None);
    }
}
