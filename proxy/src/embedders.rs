//! Embedding models behind a provider's `/embeddings`: vectors of questions at the edge, of documents in the store's
//! process. What is sent has been scrubbed.

use crate::call::{Call, CallError};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use sluice_config::{Config, Embedder as EmbedderConfig, Provider as ProviderConfig};
use sluice_scrub::{Rules, find};
use sluice_text::{Model, unit};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The models of a configuration.
#[derive(Default)]
pub struct Embedders {
    all: Vec<Arc<RemoteEmbedder>>,
    vectors: Option<moka::sync::Cache<[u8; 32], Arc<Vec<f32>>>>,
}

/// One model.
pub struct RemoteEmbedder {
    /// As the configuration calls it.
    name: String,
    config: EmbedderConfig,
    provider: ProviderConfig,
    model: Model,
    call: Call,
    rest: Mutex<Rest>,
}

/// How a model that fails is left alone.
#[derive(Default)]
struct Rest {
    failures: u32,
    until: Option<Instant>,
}

/// Failures in a row after which a model is left alone, and for how long.
const MAX_FAILURES: u32 = 3;
const REST: Duration = Duration::from_secs(5);
/// Vectors of questions that are kept, in bytes together.
const MAX_CACHE: u64 = 16 << 20;
/// Longest answer that is read, in bytes: 64 vectors of 8,192 numbers as JSON writes them.
const MAX_ANSWER: usize = 16 << 20;
/// How long a call for documents may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A model that cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("embedder `{name}`: {reason}")]
pub struct EmbedderError {
    name: String,
    reason: String,
}

impl Embedders {
    /// The models of `config`; those of `known` that did not change go on with their connections.
    pub fn of(config: &Config, known: &Embedders) -> Result<Embedders, EmbedderError> {
        let mut all = Vec::new();
        for (name, embedder) in &config.embedders {
            let Some(provider) = config.providers.get(&embedder.provider) else { continue };
            let same = known
                .all
                .iter()
                .find(|known| known.name == *name && known.config == *embedder && known.provider == *provider);
            all.push(match same {
                Some(same) => Arc::clone(same),
                None => Arc::new(RemoteEmbedder::new(name, embedder, provider)?),
            });
        }
        let vectors = || {
            moka::sync::Cache::builder()
                .weigher(|_, vector: &Arc<Vec<f32>>| u32::try_from(4 * vector.len() + 64).unwrap_or(u32::MAX))
                .max_capacity(MAX_CACHE)
                .build()
        };
        let vectors = known.vectors.clone().or_else(|| (!all.is_empty()).then(vectors));
        Ok(Embedders { all, vectors })
    }

    fn get(&self, id: &str) -> Option<&Arc<RemoteEmbedder>> {
        self.all.iter().find(|embedder| embedder.model.id == id)
    }

    /// The vectors of documents by the model with that name and length.
    pub async fn documents(
        &self,
        name: &str,
        dimensions: usize,
        texts: Vec<String>,
    ) -> Result<Vec<Vec<f32>>, CallError> {
        let id = Model::remote(name, dimensions).id;
        let embedder = self.get(&id).ok_or_else(|| {
            CallError::from(format!("no `[embedders.NAME]` has `model = \"{name}\"` and `dimensions = {dimensions}`"))
        })?;
        let rules = Rules::default();
        embedder.embed(texts.iter().map(|text| masked(text, &rules)).collect(), PATIENCE).await
    }

    /// The vectors of a question by `models`, and why some are missing. It is masked first and cut to `most` characters
    /// then, so that nothing is cut in two that would have been found whole.
    pub async fn question(
        &self,
        models: &[&Model],
        question: &str,
        most: usize,
        rules: &Rules,
        secret: &[u8; 32],
    ) -> (Vec<(String, Vec<f32>)>, Option<&'static str>) {
        let text: String = masked(question, rules).chars().take(most).collect();
        let asked = models.iter().map(|model| async {
            match self.get(&model.id) {
                Some(embedder) => self.one(embedder, &text, secret).await,
                None => Err("embedder_unknown"),
            }
        });
        let (mut vectors, mut missing) = (Vec::new(), None);
        for (model, found) in models.iter().zip(futures::future::join_all(asked).await) {
            match found {
                Ok(vector) => vectors.push((model.id.clone(), vector.to_vec())),
                Err(reason) => missing = Some(reason),
            }
        }
        (vectors, missing)
    }

    async fn one(
        &self,
        embedder: &Arc<RemoteEmbedder>,
        text: &str,
        secret: &[u8; 32],
    ) -> Result<Arc<Vec<f32>>, &'static str> {
        let mut hasher = blake3::Hasher::new_keyed(secret);
        hasher.update(embedder.model.id.as_bytes()).update(&[0]).update(text.as_bytes());
        let key = *hasher.finalize().as_bytes();
        if let Some(known) = self.vectors.as_ref().and_then(|vectors| vectors.get(&key)) {
            return Ok(known);
        }
        if embedder.rests() {
            return Err("embedder_rests");
        }
        // A call that is too late for this question goes on: its answer is kept for the next, and its connection too.
        let (asked, vectors, text) = (Arc::clone(embedder), self.vectors.clone(), text.to_owned());
        let call = tokio::spawn(async move {
            let vector = asked.embed(vec![text], PATIENCE).await?.into_iter().next().and_then(unit);
            let vector = Arc::new(vector.ok_or_else(|| CallError::from("the vector has no direction".to_owned()))?);
            if let Some(vectors) = vectors {
                vectors.insert(key, Arc::clone(&vector));
            }
            Ok::<_, CallError>(vector)
        });
        match tokio::time::timeout(embedder.config.timeout, call).await {
            Ok(Ok(Ok(vector))) => {
                embedder.note(None);
                Ok(vector)
            }
            Ok(Ok(Err(error))) => {
                embedder.note(Some(&error.reason));
                Err("embedder_failed")
            }
            Ok(Err(_)) => Err("embedder_failed"),
            Err(_) => {
                embedder.note(Some("it did not answer in time"));
                Err("embedder_timeout")
            }
        }
    }
}

impl RemoteEmbedder {
    fn new(name: &str, config: &EmbedderConfig, provider: &ProviderConfig) -> Result<RemoteEmbedder, EmbedderError> {
        let call =
            Call::new(provider, "/embeddings").map_err(|reason| EmbedderError { name: name.to_owned(), reason })?;
        Ok(RemoteEmbedder {
            name: name.to_owned(),
            config: config.clone(),
            provider: provider.clone(),
            model: Model::remote(&config.model, config.dimensions),
            call,
            rest: Mutex::default(),
        })
    }

    fn rests(&self) -> bool {
        self.rest.lock().until.is_some_and(|until| Instant::now() < until)
    }

    /// Counts what became of a call.
    fn note(&self, failure: Option<&str>) {
        let mut rest = self.rest.lock();
        let Some(reason) = failure else {
            *rest = Rest::default();
            return;
        };
        rest.failures += 1;
        if rest.failures >= MAX_FAILURES {
            rest.until = Some(Instant::now() + REST);
        }
        tracing::warn!(embedder = self.name, reason, "a question is asked without its vector");
    }

    /// One call. Vectors are cut to their first numbers, as models that may be shortened want it.
    async fn embed(&self, texts: Vec<String>, patience: Duration) -> Result<Vec<Vec<f32>>, CallError> {
        let count = texts.len();
        let body = json!({ "model": self.config.model, "input": texts, "encoding_format": "float" });
        let read = self.call.post(&body, patience, MAX_ANSWER).await?;
        let mut read: Answer = serde_json::from_slice(&read)
            .map_err(|error| format!("its answer is not what `/embeddings` gives: {error}"))?;
        read.data.sort_by_key(|one| one.index);
        if read.data.len() != count || read.data.iter().zip(0..).any(|(one, place)| one.index != place) {
            return Err(format!("{count} texts became {} vectors", read.data.len()).into());
        }
        let vectors = read.data.into_iter().map(|mut one| {
            let found = one.embedding.len();
            if found < self.model.dimensions {
                return Err(format!("its vectors have {found} numbers, not {}", self.model.dimensions).into());
            }
            one.embedding.truncate(self.model.dimensions);
            Ok(one.embedding)
        });
        vectors.collect()
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    index: usize,
    embedding: Vec<f32>,
}

/// `text` with the kind of each finding in its place.
pub fn masked(text: &str, rules: &Rules) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for finding in find(text, rules) {
        out.push_str(&text[from..finding.range.start]);
        out.push_str(&format!("<{}>", rules.name(finding.kind)));
        from = finding.range.end;
    }
    out + &text[from..]
}
