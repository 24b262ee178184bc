//! Which model a collection's vectors come from, and the vectors that are still to come.
//!
//! The program's own model embeds whatever it is given at once. A provider's is asked beside publications: what is new is
//! found by its words until it has a vector, and what has vectors of the model before keeps them until then.

use crate::database::Whose;
use crate::{PublishError, Store, StoreError, Tenancy, check_name};
use futures::future::BoxFuture;
use serde_json::json;
use sluice_index::PRIVATE;
use sluice_text::{Embedder, Model, searchable, unit};
use std::ops::Range;

/// Texts of one call to a provider.
const BATCH: i64 = 64;
/// Longest text that is sent, in bytes: about what models take.
const MAX_TEXT: usize = 24 << 10;
/// Longest name of a model, in bytes.
const MAX_NAME: usize = 128;

/// Snippets without a vector of the collection's model. Two ranges, so that the index is of use.
const PENDING: &str = "FROM snippet s JOIN document d ON d.id = s.document_id WHERE s.tenant_id = $1 AND s.collection = $2 AND (s.embed_model < $3 OR s.embed_model > $3)";

impl Tenancy {
    /// Gives a collection its model, with its name and the length of its vectors; `None` for the program's own.
    pub async fn set_model(&self, collection: &str, model: Option<(&str, usize)>) -> Result<(), StoreError> {
        check_name("collection", collection)?;
        let (name, dimensions) = model.unwrap_or(("", 0));
        if model.is_some() && (name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control)) {
            return Err(StoreError::Invalid(format!("a model's name has 1 to {MAX_NAME} bytes")));
        }
        if model.is_some() && !(2..=8_192).contains(&dimensions) {
            return Err(StoreError::Invalid(format!("vectors have 2 to 8192 dimensions, not {dimensions}")));
        }
        let mut write = self.write().await?;
        for name_of in [collection.to_owned(), format!("{collection}{PRIVATE}")] {
            sqlx::query("INSERT INTO collection (tenant_id, name, next_sequence, embed_model, embed_dimensions) VALUES ($1, $2, 1, $3, $4) ON CONFLICT (tenant_id, name) DO UPDATE SET embed_model = $3, embed_dimensions = $4")
                .bind(&self.id)
                .bind(name_of)
                .bind(name)
                .bind(i64::try_from(dimensions).unwrap_or(0))
                .execute(&mut *write)
                .await?;
        }
        self.record(&mut write, "knowledge.model", collection, json!({ "model": name, "dimensions": dimensions }))
            .await?;
        Ok(write.commit().await?)
    }

    /// How many chunks wait for a vector.
    pub(crate) async fn unembedded(&self, collection: &str, model: &str, dimensions: i64) -> Result<i64, StoreError> {
        let model = Model::remote(model, usize::try_from(dimensions).unwrap_or(0));
        let count = format!("SELECT COUNT(*) {PENDING}");
        let counted = sqlx::query_scalar(sqlx::AssertSqlSafe(count))
            .bind(&self.id)
            .bind(collection)
            .bind(&model.id)
            .fetch_one(&mut *self.read().await?)
            .await?;
        Ok(counted)
    }

    /// The model that new vectors of a collection are to be of.
    pub(crate) async fn model(&self, collection: &str) -> Result<Model, StoreError> {
        self.store.model_of(&self.id, collection).await
    }
}

impl Store {
    pub(crate) async fn model_of(&self, tenant: &[u8], collection: &str) -> Result<Model, StoreError> {
        let find = "SELECT embed_model, embed_dimensions FROM collection WHERE tenant_id = $1 AND name = $2";
        let found: Option<(String, i64)> = sqlx::query_as(find)
            .bind(tenant)
            .bind(collection)
            .fetch_optional(&mut *self.database.read(Whose::All).await?)
            .await?;
        match found {
            Some((name, dimensions)) if !name.is_empty() => {
                Ok(Model::remote(&name, usize::try_from(dimensions).unwrap_or(0)))
            }
            _ => Ok(Embedder::shipped().map_err(|error| StoreError::Invalid(error.to_string()))?.model()),
        }
    }

    /// Whether a snippet whose number is in `range` still has to be embedded by a provider.
    pub(crate) async fn is_pending(
        &self,
        tenant: &[u8],
        collection: &str,
        model: &Model,
        range: Range<u64>,
    ) -> Result<bool, PublishError> {
        // The program's own model is asked while a segment is built.
        if Embedder::shipped()?.id() == model.id {
            return Ok(false);
        }
        let find = format!("SELECT 1 {PENDING} AND s.sequence >= $4 AND s.sequence < $5 LIMIT 1");
        let found: Option<i32> = sqlx::query_scalar(sqlx::AssertSqlSafe(find))
            .bind(tenant)
            .bind(collection)
            .bind(&model.id)
            .bind(range.start as i64)
            .bind(range.end as i64)
            .fetch_optional(&mut *self.database.read(Whose::All).await?)
            .await?;
        Ok(found.is_some())
    }

    /// Has `embed` make vectors for some of what waits for them, of the model with that name and length; says how many
    /// texts that were. What fails for one collection keeps no other waiting. Taking personal data out is for `embed`.
    pub async fn embed_pending(&self, embed: impl Fn(String, usize, Vec<String>) -> Made) -> Result<usize, StoreError> {
        let find = "SELECT tenant_id, name, embed_model, embed_dimensions FROM collection WHERE embed_model <> '' ORDER BY tenant_id, name";
        let collections: Vec<(Vec<u8>, String, String, i64)> =
            sqlx::query_as(find).fetch_all(&mut *self.database.read(Whose::All).await?).await?;
        let (mut done, mut failed) = (0, None);
        for (tenant, collection, name, dimensions) in collections {
            let dimensions = usize::try_from(dimensions).unwrap_or(0);
            let find = format!("SELECT s.id, d.title, s.heading, s.text {PENDING} LIMIT $4");
            let rows: Vec<(Vec<u8>, String, String, String)> = sqlx::query_as(sqlx::AssertSqlSafe(find))
                .bind(&tenant)
                .bind(&collection)
                .bind(Model::remote(&name, dimensions).id)
                .bind(BATCH)
                .fetch_all(&mut *self.database.read(Whose::All).await?)
                .await?;
            let rows: Vec<(Vec<u8>, String)> = rows
                .into_iter()
                .map(|(id, title, heading, text)| {
                    let mut text = searchable(&title, &heading, &text);
                    text.truncate(text.floor_char_boundary(MAX_TEXT));
                    (id, text)
                })
                .collect();
            match self.embed_rows(&tenant, &name, dimensions, rows, &embed).await {
                Ok(count) => done += count,
                Err(reason) => {
                    let reason = format!("`{collection}` gets no vectors of `{name}`: {reason}");
                    failed.get_or_insert(StoreError::Invalid(reason));
                }
            }
        }
        match failed {
            Some(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }

    /// Texts that are refused together are tried in halves; one that is refused alone goes without a vector.
    async fn embed_rows(
        &self,
        tenant: &[u8],
        name: &str,
        dimensions: usize,
        rows: Vec<(Vec<u8>, String)>,
        embed: &impl Fn(String, usize, Vec<String>) -> Made,
    ) -> Result<usize, String> {
        let model = Model::remote(name, dimensions).id;
        let mut done = 0;
        let mut parts = vec![rows];
        while let Some(mut part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let texts = part.iter().map(|(_, text)| text.clone()).collect();
            let vectors: Vec<Option<Vec<f32>>> = match embed(name.to_owned(), dimensions, texts).await {
                Ok(vectors) if vectors.len() == part.len() && vectors.iter().all(|one| one.len() == dimensions) => {
                    vectors.into_iter().map(unit).collect()
                }
                Ok(vectors) => {
                    let (texts, count) = (part.len(), vectors.len());
                    return Err(format!("{texts} texts became {count} vectors, not all of {dimensions} numbers"));
                }
                Err(NotMade::Refused(_)) if part.len() > 1 => {
                    let half = part.split_off(part.len() / 2);
                    parts.extend([half, part]);
                    continue;
                }
                Err(NotMade::Refused(reason)) => {
                    tracing::warn!(model = name, reason, "a text is refused; it is found by its words alone");
                    vec![None]
                }
                Err(NotMade::Failed(reason)) => return Err(reason),
            };
            let stored = |error: StoreError| error.to_string();
            let mut write = self.database.write(Whose::Tenant(tenant)).await.map_err(stored)?;
            for ((id, _), vector) in part.into_iter().zip(vectors) {
                sqlx::query("UPDATE snippet SET embed_model = $2, embedding = $3 WHERE id = $1")
                    .bind(id)
                    .bind(&model)
                    .bind(vector.map(|vector| bytes_of(&vector)))
                    .execute(&mut *write)
                    .await
                    .map_err(|error| error.to_string())?;
                done += 1;
            }
            write.commit().await.map_err(|error| error.to_string())?;
        }
        Ok(done)
    }
}

/// Vectors to come.
pub type Made = BoxFuture<'static, Result<Vec<Vec<f32>>, NotMade>>;

/// Why there are no vectors; in words for an operator.
#[derive(Clone, Debug, PartialEq)]
pub enum NotMade {
    /// The texts are not to the provider's liking.
    Refused(String),
    Failed(String),
}

/// A vector as it is stored.
pub(crate) fn bytes_of(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|value| value.to_le_bytes()).collect()
}
