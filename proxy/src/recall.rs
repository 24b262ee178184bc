//! Context for the request, from the cache or from the indexes in this process.

use crate::intake::Body;
use crate::live::{Live, now_microseconds};
use crate::plan::Plan;
use sluice_index::{Assembled, Fusion, Query, Ranking, Scope, assemble};
use sluice_state::Snapshot;
use sluice_text::Embedder;
use std::sync::Arc;

/// A planned request with what was found for it.
pub struct Recalled {
    pub plan: Box<Plan>,
    pub context: Option<Context>,
}

/// What recall did.
pub struct Context {
    pub block: Arc<Assembled>,
    pub cache: &'static str,
    /// Why there is less than there could be.
    pub degraded: Option<&'static str>,
}

/// Most passages of one block.
const MAX_PASSAGES: usize = 12;
/// Within a bucket a cached result is good: ranking by age takes its beginning for now.
const BUCKET_MICROSECONDS: i64 = 300_000_000;

/// Searches the plan's collections with the last user turn. It never fails the request: what is missing is said.
pub async fn recall(plan: Box<Plan>, live: &Live) -> Recalled {
    if plan.collections.is_empty() {
        return Recalled { plan, context: None };
    }
    let query = match &plan.body {
        Body::Json(envelope) => {
            // The newest first: what is too long is cut at the other end.
            let mut texts = envelope.last_user_texts(plan.route.route.recall.query_turns);
            texts.reverse();
            Some(texts.join("\n"))
        }
        Body::Empty | Body::Unread => None,
    };
    let limit = plan.admitted.principal.prepared.config.recall.query_max_characters;
    let whole = query.unwrap_or_default();
    let end = whole.char_indices().nth(limit).map_or(whole.len(), |(end, _)| end);
    let query = &whole[..end];
    let snapshot = plan.admitted.principal.prepared.snapshot.as_ref();
    let (Some(query), Some(snapshot)) = (Some(query).filter(|query| !query.trim().is_empty()), snapshot) else {
        let context = Context { block: Arc::default(), cache: "none", degraded: Some("no_user_text") };
        return Recalled { plan, context: Some(context) };
    };
    let scope = plan.scope;
    // Without any collection published the model is not even loaded.
    let Some(embedder) = snapshot.embedder else {
        let context = Context { block: Arc::default(), cache: "none", degraded: Some("collection_missing") };
        return Recalled { plan, context: Some(context) };
    };
    let missing = plan.collections.iter().any(|name| snapshot.library.lacks(scope, name));
    let bucket = now_microseconds() / BUCKET_MICROSECONDS;
    let ranking = plan.route.ranking((bucket * BUCKET_MICROSECONDS) as f64 / 1e6);
    let key = cache_key(&plan, &ranking, bucket, scope, snapshot, query, &live.cache_key);
    let search = |vectors: &[(String, Vec<f32>)]| {
        let asked = Query::new(scope, &plan.collections, query)
            .with_ranking(ranking.clone())
            .with_filter(plan.filter.clone())
            .with_vectors(vectors);
        let hits = snapshot.library.search(&asked, embedder);
        Arc::new(assemble(&hits.hits, plan.context_tokens, MAX_PASSAGES))
    };
    let models = snapshot.library.models(scope, &plan.collections, embedder.id());
    let (block, hit, unembedded) = if models.is_empty() || ranking.vector_weight == 0.0 {
        let entry = live.recalled.entry(key).or_insert_with(|| search(&[]));
        let hit = !entry.is_fresh();
        (entry.into_value(), hit, None)
    } else if let Some(block) = live.recalled.get(&key) {
        (block, true, None)
    } else {
        let embedders = &plan.admitted.principal.prepared.embedders;
        let (vectors, missing) = embedders.question(&models, &whole, limit, &plan.route.scrub, &live.cache_key).await;
        let block = search(&vectors);
        // What was found without a vector is good for this request, and the next one tries again.
        if missing.is_none() {
            live.recalled.insert(key, Arc::clone(&block));
        }
        (block, false, missing)
    };
    live.metrics.recall(hit);
    let context = Context {
        block,
        cache: if hit { "hit" } else { "miss" },
        degraded: missing.then_some("collection_missing").or(unembedded),
    };
    Recalled { plan, context: Some(context) }
}

/// Everything that a result depends on: scope, the collections' segments, policy, embedder, time bucket, query.
fn cache_key(
    plan: &Plan,
    ranking: &Ranking,
    bucket: i64,
    scope: Scope,
    snapshot: &Snapshot,
    query: &str,
    secret: &[u8; 32],
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    // A subject of which nothing can be recalled shares what is cached with all others.
    let versions: Vec<_> = plan.collections.iter().map(|name| snapshot.library.versions(scope, name)).collect();
    let private = versions.iter().any(|[_, private]| private.is_some());
    part(&if private { scope } else { plan.admitted.principal.key.scope }.bytes());
    for (name, versions) in plan.collections.iter().zip(versions) {
        part(name.as_bytes());
        for version in versions {
            part(version.map_or(&[][..], <[u8; 32]>::as_slice));
        }
    }
    part(&[plan.context_tokens.to_le_bytes(), ranking.depth.to_le_bytes(), MAX_PASSAGES.to_le_bytes()].concat());
    part(&[ranking.vector_weight.to_le_bytes(), ranking.diversity.to_le_bytes()].concat());
    part(&[u8::from(ranking.fusion == Fusion::Rank)]);
    for boost in &ranking.boosts {
        part(boost.path.as_bytes());
        part(&boost.weight.to_le_bytes());
        part(&boost.decay.map_or(0.0, |decay| decay.half_life_seconds).to_le_bytes());
    }
    if !plan.filter.is_empty() {
        part(format!("{:?}", plan.filter).as_bytes());
    }
    part(snapshot.embedder.map_or("", Embedder::id).as_bytes());
    part(&bucket.to_le_bytes());
    part(query.as_bytes());
    *hasher.finalize().as_bytes()
}
