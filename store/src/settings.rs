//! System settings: JSON values by name.

use crate::database::Work;
use crate::{StoreError, Tenancy, check_name, now, transcripts};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Largest value, in bytes of JSON.
const MAX_VALUE: usize = 64 << 10;

/// How many days runs and feedback are kept, and audit events.
pub(crate) const RUN_RETENTION: &str = "run_retention_days";
pub(crate) const EVENT_RETENTION: &str = "event_retention_days";

/// The longest that something can be kept for.
const MOST_DAYS: i64 = 36_500;

/// A number of days that something can be kept.
fn days(value: &Value) -> Option<i64> {
    value.as_i64().filter(|days| (1..=MOST_DAYS).contains(days))
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Setting {
    pub name: String,
    pub value: Value,
    pub category: String,
    /// Whether it may be shown to who is no operator: prompts' variables may name it.
    pub public: bool,
    pub revision: i64,
    /// Microseconds since the Unix epoch.
    pub updated_at: i64,
}

impl Tenancy {
    pub async fn settings(&self) -> Result<Vec<Setting>, StoreError> {
        self.select_settings("").await
    }

    pub async fn setting(&self, name: &str) -> Result<Setting, StoreError> {
        let found = self.select_settings(name).await?.into_iter().next().filter(|_| !name.is_empty());
        found.ok_or_else(|| StoreError::NotFound { kind: "setting", name: name.to_owned() })
    }

    /// What a setting of days says, if there is one.
    pub(crate) async fn days(&self, name: &str) -> Result<Option<i64>, StoreError> {
        match self.setting(name).await {
            // What was written before such settings were checked stays within bounds.
            Ok(setting) => Ok(setting.value.as_i64().map(|days| days.clamp(1, MOST_DAYS))),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn select_settings(&self, name: &str) -> Result<Vec<Setting>, StoreError> {
        let rows: Vec<(String, String, String, i64, i64, i64)> = sqlx::query_as("SELECT name, value, category, public, revision, updated_at FROM setting WHERE tenant_id = $1 AND ($2 = '' OR name = $2) ORDER BY name")
            .bind(&self.id)
            .bind(name)
            .fetch_all(&mut *self.read().await?)
            .await?;
        let setting = |(name, value, category, public, revision, updated_at): (String, String, _, i64, _, _)| Setting {
            name,
            value: serde_json::from_str(&value).unwrap_or_default(),
            category,
            public: public == 1,
            revision,
            updated_at,
        };
        Ok(rows.into_iter().map(setting).collect())
    }

    /// The revision of a setting, and whether it is public.
    async fn setting_state(&self, work: &mut Work, name: &str) -> Result<Option<(i64, bool)>, StoreError> {
        let find = "SELECT revision, public FROM setting WHERE tenant_id = $1 AND name = $2";
        let found: Option<(i64, i64)> =
            sqlx::query_as(find).bind(&self.id).bind(name).fetch_optional(&mut **work).await?;
        Ok(found.map(|(revision, public)| (revision, public == 1)))
    }

    /// Writes a setting. `expected` is the revision that the operator saw; 0 for none.
    pub async fn put_setting(
        &self,
        name: &str,
        value: &Value,
        category: &str,
        public: bool,
        expected: Option<i64>,
    ) -> Result<i64, StoreError> {
        check_name("setting", name)?;
        let text = value.to_string();
        if text.len() > MAX_VALUE || category.len() > 128 {
            return Err(StoreError::Invalid(format!(
                "the setting `{name}` is larger than {} KiB, or its category than 128 bytes",
                MAX_VALUE >> 10
            )));
        }
        let keeps_contents = name == transcripts::SETTING;
        let keeps_days = matches!(name, RUN_RETENTION | EVENT_RETENTION);
        if keeps_contents {
            transcripts::Keeping::read(value)?;
        }
        if keeps_days && days(value).is_none() {
            return Err(StoreError::Invalid(format!(
                "the setting `{name}` must be a whole number of days, 1 to 36500"
            )));
        }
        let mut write = self.write().await?;
        let (found, was_public) = self.setting_state(&mut write, name).await?.unwrap_or_default();
        if expected.is_some_and(|expected| expected != found) {
            return Err(StoreError::Conflict { name: name.to_owned(), found });
        }
        sqlx::query("INSERT INTO setting (tenant_id, name, value, category, public, revision, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant_id, name) DO UPDATE SET value = $3, category = $4, public = $5, revision = $6, updated_at = $7")
            .bind(&self.id)
            .bind(name)
            .bind(text)
            .bind(category)
            .bind(i64::from(public))
            .bind(found + 1)
            .bind(now())
            .execute(&mut *write)
            .await?;
        if keeps_contents {
            self.prepare_contents(&mut write).await?;
        }
        let is_followed = public || was_public;
        if is_followed {
            self.check_followers(&mut write, name).await?;
        }
        // What a setting says may be anybody's business, but what is kept and how long is an auditor's.
        let told = if keeps_contents || keeps_days { value.clone() } else { json!(null) };
        self.note(&mut write, "setting.changed", name, told, keeps_contents || is_followed).await?;
        write.commit().await?;
        Ok(found + 1)
    }

    pub async fn delete_setting(&self, name: &str, expected: Option<i64>) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let (found, was_public) = self.setting_state(&mut write, name).await?.unzip();
        if let (Some(expected), Some(found)) = (expected, found)
            && expected != found
        {
            return Err(StoreError::Conflict { name: name.to_owned(), found });
        }
        let gone = sqlx::query("DELETE FROM setting WHERE tenant_id = $1 AND name = $2")
            .bind(&self.id)
            .bind(name)
            .execute(&mut *write)
            .await?;
        if gone.rows_affected() == 0 {
            return Err(StoreError::NotFound { kind: "setting", name: name.to_owned() });
        }
        let kept_contents = name == transcripts::SETTING;
        if kept_contents {
            self.drop_contents(&mut write).await?;
        }
        if was_public == Some(true) {
            self.check_followers(&mut write, name).await?;
        }
        self.note(&mut write, "setting.deleted", name, json!(null), kept_contents).await?;
        Ok(write.commit().await?)
    }
}
