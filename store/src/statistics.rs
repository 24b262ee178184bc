//! What was said of requests, and what a prompt's versions have brought: read from records, never authored.

use crate::content::Kind;
use crate::{StoreError, Tenancy};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One piece of feedback.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct FeedbackRecord {
    /// What it is of: `run`, `session` or `subject`.
    pub unit_kind: String,
    /// The run's id; of a session or subject its keyed hash, as in runs.
    pub unit: String,
    pub metric: String,
    pub source: String,
    /// A boolean is 0 or 1; nothing where there is a comment alone.
    pub value: Option<f64>,
    /// Without the personal data that was found in it.
    pub comment: String,
    /// Microseconds since the Unix epoch.
    pub at: i64,
}

/// What a version of a prompt has brought so far, as far as its runs are still kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct VersionStatistics {
    pub version: i64,
    pub runs: i64,
    pub errors: i64,
    /// The share of runs without an error.
    pub success_rate: f64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    /// Of the runs that have one.
    pub cost: f64,
    pub mean_milliseconds: f64,
    /// By metric, of its runs.
    pub feedback: Vec<MetricMean>,
}

/// The values of one metric.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct MetricMean {
    pub metric: String,
    pub count: i64,
    pub mean: f64,
}

impl Tenancy {
    /// The newest feedback, newest first; of one metric or one run where they are named.
    pub async fn feedback(
        &self,
        metric: &str,
        run: Option<&str>,
        limit: i64,
    ) -> Result<Vec<FeedbackRecord>, StoreError> {
        let unit = run.map(|run| hex::decode(run).map_err(|_| no_run(run))).transpose()?;
        type Row = (String, Vec<u8>, String, String, Option<f64>, String, i64);
        let rows: Vec<Row> = sqlx::query_as("SELECT unit_kind, unit, metric, source, value, comment, at FROM feedback WHERE tenant_id = $1 AND ($2 = '' OR metric = $2) AND ($3 = 0 OR (unit_kind = 'run' AND unit = $4)) ORDER BY at DESC, metric LIMIT $5")
            .bind(&self.id)
            .bind(metric)
            .bind(i64::from(unit.is_some()))
            .bind(unit.unwrap_or_default())
            .bind(limit)
            .fetch_all(&mut *self.read().await?)
            .await?;
        let record = |(unit_kind, unit, metric, source, value, comment, at): Row| FeedbackRecord {
            unit_kind,
            unit: hex::encode(unit),
            metric,
            source,
            value,
            comment,
            at,
        };
        Ok(rows.into_iter().map(record).collect())
    }

    /// What the versions of a prompt have brought, newest first.
    pub async fn statistics(&self, kind: Kind, alias: &str) -> Result<Vec<VersionStatistics>, StoreError> {
        if !matches!(kind, Kind::Prompt | Kind::Persona) {
            return Err(StoreError::Invalid(format!("of a {kind} nothing is counted; of prompts and personas it is")));
        }
        // It may have been used and be gone; that it never was is an error.
        self.artifact(kind, alias).await?;
        type Row = (i64, i64, i64, i64, i64, f64, i64);
        let mut read = self.read().await?;
        let rows: Vec<Row> = sqlx::query_as("SELECT version, COUNT(*), CAST(SUM(CASE WHEN status >= 400 OR error <> '' THEN 1 ELSE 0 END) AS BIGINT), CAST(SUM(input_tokens) AS BIGINT), CAST(SUM(output_tokens) AS BIGINT), CAST(COALESCE(SUM(cost), 0.0) AS DOUBLE PRECISION), CAST(SUM(total_microseconds) AS BIGINT) FROM run WHERE tenant_id = $1 AND prompt = $2 GROUP BY version ORDER BY version DESC")
            .bind(&self.id)
            .bind(alias)
            .fetch_all(&mut *read)
            .await?;
        let said: Vec<(i64, String, i64, f64)> = sqlx::query_as("SELECT r.version, f.metric, COUNT(*), AVG(f.value) FROM run r JOIN feedback f ON f.tenant_id = r.tenant_id AND f.unit_kind = 'run' AND f.unit = r.id WHERE r.tenant_id = $1 AND r.prompt = $2 AND f.value IS NOT NULL GROUP BY r.version, f.metric ORDER BY f.metric")
            .bind(&self.id)
            .bind(alias)
            .fetch_all(&mut *read)
            .await?;
        let mut means: BTreeMap<i64, Vec<MetricMean>> = BTreeMap::new();
        for (version, metric, count, mean) in said {
            means.entry(version).or_default().push(MetricMean { metric, count, mean });
        }
        let of_version = |(version, runs, errors, input_tokens, output_tokens, cost, took): Row| VersionStatistics {
            version,
            runs,
            errors,
            success_rate: (runs - errors) as f64 / runs.max(1) as f64,
            input_tokens,
            output_tokens,
            cost,
            mean_milliseconds: took as f64 / runs.max(1) as f64 / 1_000.0,
            feedback: means.remove(&version).unwrap_or_default(),
        };
        Ok(rows.into_iter().map(of_version).collect())
    }
}

pub(crate) fn no_run(run: &str) -> StoreError {
    StoreError::NotFound { kind: "run", name: run.to_owned() }
}
