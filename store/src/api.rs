//! The store's HTTP API, version 1: documents of collections.
//!
//! Every call needs the operator token as `Authorization: Bearer`. An answer is given once the change is committed;
//! errors are `{"error", "message", "code"}`.

use crate::{Document, IngestError, Store, StoreError};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Most documents of one call, and most bytes of its body.
const MAX_DOCUMENTS: usize = 1_000;
const MAX_BODY: usize = 32 << 20;

#[derive(Clone)]
struct Api {
    store: Store,
    tenant: Arc<str>,
    token: [u8; 32],
}

/// The API over `store`; `tenant` is who is meant where a call names none, `token` the operator's.
pub fn router(store: Store, tenant: String, token: [u8; 32]) -> Router {
    let api = Api { store, tenant: tenant.into(), token };
    Router::new()
        .route("/api/v1/collections", get(collections))
        .route("/api/v1/collections/{collection}/documents", post(upsert))
        .route("/api/v1/collections/{collection}/documents/delete", post(remove_many))
        .route("/api/v1/collections/{collection}/documents/{*document}", delete(remove_one))
        .route_layer(middleware::from_fn_with_state(api.clone(), authorize))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

/// A call that cannot be answered.
struct Fault {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Fault {
    fn of(status: StatusCode, code: &'static str, message: impl Into<String>) -> Fault {
        Fault { status, code, message: message.into() }
    }

    fn invalid(message: impl Into<String>) -> Fault {
        Fault::of(StatusCode::BAD_REQUEST, "invalid_request", message)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let error = self.status.canonical_reason().unwrap_or("Error");
        (self.status, Json(json!({ "error": error, "message": self.message, "code": self.code }))).into_response()
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        match error {
            StoreError::Invalid(message) => Fault::invalid(message),
            StoreError::NotFound { .. } => Fault::of(StatusCode::NOT_FOUND, "not_found", error.to_string()),
            StoreError::Conflict { .. } | StoreError::Exists { .. } | StoreError::InUse { .. } => {
                Fault::of(StatusCode::CONFLICT, "conflict", error.to_string())
            }
            _ => Fault::of(StatusCode::INTERNAL_SERVER_ERROR, "store_failed", error.to_string()),
        }
    }
}

async fn authorize(State(api): State<Api>, headers: HeaderMap, request: Request, next: Next) -> Response {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    // Hashes are compared in constant time by BLAKE3's own equality.
    if blake3::hash(given.as_bytes()) != blake3::hash(hex::encode(api.token).as_bytes()) {
        let message = "Send `Authorization: Bearer` with the token in `operator.token` of the store's data folder.";
        return Fault::of(StatusCode::UNAUTHORIZED, "invalid_token", message).into_response();
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct Whose {
    tenant: Option<String>,
}

impl Whose {
    async fn tenancy(self, api: &Api) -> Result<crate::Tenancy, StoreError> {
        api.store.make_tenancy(self.tenant.as_deref().unwrap_or(&api.tenant), "operator").await
    }
}

async fn collections(State(api): State<Api>, Query(whose): Query<Whose>) -> Result<Json<Value>, Fault> {
    let found = whose.tenancy(&api).await?.collections().await?;
    let list = found
        .into_iter()
        .map(|(name, documents, chunks)| json!({ "name": name, "documents": documents, "chunks": chunks }));
    Ok(Json(json!({ "collections": list.collect::<Vec<_>>() })))
}

async fn upsert(
    State(api): State<Api>,
    Path(collection): Path<String>,
    Query(whose): Query<Whose>,
    body: Bytes,
) -> Result<Json<Value>, Fault> {
    let body: Value =
        serde_json::from_slice(&body).map_err(|error| Fault::invalid(format!("the body is not JSON: {error}")))?;
    let list = body.get("documents").and_then(Value::as_array);
    let list = list.ok_or_else(|| Fault::invalid("`documents` must be an array of documents"))?;
    if list.len() > MAX_DOCUMENTS {
        return Err(Fault::invalid(format!(
            "`documents` has {} members, at most {MAX_DOCUMENTS} are taken",
            list.len()
        )));
    }
    let read = |(place, value): (usize, &Value)| {
        Document::of_json(value).map_err(|reason| Fault::invalid(format!("`documents[{place}]`: {reason}")))
    };
    let documents = list.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let documents = documents.into_iter().map(|document| Ok((document, 0)));
    let done = whose.tenancy(&api).await?.ingest(&collection, documents, |_, _| {}).await;
    match done {
        Ok(summary) => Ok(Json(json!({ "collection": collection, "summary": summary }))),
        Err(IngestError::Store(error)) => Err(error.into()),
        Err(IngestError::Read(error)) => Err(Fault::invalid(error.to_string())),
    }
}

async fn remove_one(
    State(api): State<Api>,
    Path((collection, document)): Path<(String, String)>,
    Query(whose): Query<Whose>,
) -> Result<Json<Value>, Fault> {
    let removed = whose.tenancy(&api).await?.remove_documents(&collection, std::slice::from_ref(&document)).await?;
    match removed {
        0 => Err(Fault::of(StatusCode::NOT_FOUND, "not_found", format!("`{collection}` has no document `{document}`"))),
        removed => Ok(Json(json!({ "removed": removed }))),
    }
}

async fn remove_many(
    State(api): State<Api>,
    Path(collection): Path<String>,
    Query(whose): Query<Whose>,
    body: Bytes,
) -> Result<Json<Value>, Fault> {
    #[derive(Deserialize)]
    struct Ids {
        ids: Vec<String>,
    }
    let Ids { ids } = serde_json::from_slice(&body)
        .map_err(|error| Fault::invalid(format!("the body must be {{\"ids\": [\"…\"]}}: {error}")))?;
    if ids.len() > MAX_DOCUMENTS {
        return Err(Fault::invalid(format!("`ids` has {} members, at most {MAX_DOCUMENTS} are taken", ids.len())));
    }
    let removed = whose.tenancy(&api).await?.remove_documents(&collection, &ids).await?;
    Ok(Json(json!({ "removed": removed })))
}
