//! Collections and their documents.

use super::{Answer, Api, Asked, At, Caller, Fault, ForTenant, Sent};
use crate::operators::Scope;
use crate::{CollectionModel, CollectionSize, Document, DocumentRow, IngestError, IngestSummary};
use axum::Json;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Most documents of one call.
const MAX_DOCUMENTS: usize = 1_000;

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(collections))
        .routes(routes!(set_model))
        .routes(routes!(upsert))
        .routes(routes!(remove_many, remove_delete))
        .routes(routes!(document, remove_one))
        .routes(routes!(store_blob))
        .routes(routes!(blob))
        .routes(routes!(erase))
}

#[derive(Serialize, ToSchema)]
struct Collections {
    collections: Vec<CollectionSize>,
}

#[utoipa::path(get, path = "/api/v1/collections", params(ForTenant), responses((status = 200, body = Collections)))]
async fn collections(caller: Caller) -> Answer<Json<Collections>> {
    let collections = caller.tenancy(Scope::Read).await?.collections().await?;
    Ok(Json(Collections { collections }))
}

#[derive(Deserialize, ToSchema)]
struct NewModel {
    /// `null` for the model in the program.
    model: Option<CollectionModel>,
}

#[derive(Serialize, ToSchema)]
struct SetModel {
    collection: String,
    model: Option<CollectionModel>,
}

/// Says which model a collection's vectors come from; what is there is embedded anew, and serves meanwhile.
#[utoipa::path(put, path = "/api/v1/collections/{collection}/model", params(("collection" = String, Path), ForTenant), request_body = NewModel, responses((status = 200, body = SetModel)))]
async fn set_model(
    caller: Caller,
    At(collection): At<String>,
    Sent(NewModel { model }): Sent<NewModel>,
) -> Answer<Json<SetModel>> {
    let named = model.as_ref().map(|model| (model.model.as_str(), model.dimensions));
    caller.tenancy(Scope::Write).await?.set_model(&collection, named).await?;
    Ok(Json(SetModel { collection, model }))
}

#[derive(Deserialize, ToSchema)]
struct NewDocuments {
    /// Each with `id`, `text`, and perhaps `title`, `payload`, `subject`, whose alone it is then, `vector` by the
    /// collection's model, and `attachments` (`name`, and `hash` of a stored blob); at most 1,000.
    #[schema(value_type = Vec<Object>)]
    documents: Vec<Value>,
}

#[derive(Serialize, ToSchema)]
struct Ingested {
    collection: String,
    summary: IngestSummary,
}

/// Puts documents in, or in the place of those with the same ids.
#[utoipa::path(post, path = "/api/v1/collections/{collection}/documents", params(("collection" = String, Path), ForTenant), request_body = NewDocuments, responses((status = 200, body = Ingested)))]
async fn upsert(
    caller: Caller,
    At(collection): At<String>,
    Sent(NewDocuments { documents }): Sent<NewDocuments>,
) -> Answer<Json<Ingested>> {
    if documents.len() > MAX_DOCUMENTS {
        return Err(Fault::invalid(format!(
            "`documents` has {} members, at most {MAX_DOCUMENTS} are taken",
            documents.len()
        )));
    }
    let read = |(place, value): (usize, &Value)| {
        Document::of_json(value).map_err(|reason| Fault::invalid(format!("`documents[{place}]`: {reason}")))
    };
    let documents = documents.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let documents = documents.into_iter().map(|document| Ok((document, 0)));
    // In many transactions, and the same however often it is done: one that was cut short is to be done again.
    let tenancy = caller.tenancy(Scope::Write).await?.for_call(None);
    match tenancy.ingest(&collection, documents, |_, _| {}).await {
        Ok(summary) => Ok(Json(Ingested { collection, summary })),
        Err(IngestError::Store(error)) => Err(error.into()),
        Err(IngestError::Read(error)) => Err(Fault::invalid(error.to_string())),
    }
}

#[derive(Serialize, ToSchema)]
struct Removed {
    removed: u64,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OfSubject {
    #[allow(dead_code)]
    tenant: Option<String>,
    /// Whose alone the document is.
    subject: Option<String>,
}

/// A document without its text, with its attachments.
#[utoipa::path(get, path = "/api/v1/collections/{collection}/documents/{document}", params(("collection" = String, Path), ("document" = String, Path, description = "its id, percent-encoded"), OfSubject), responses((status = 200, body = DocumentRow)))]
async fn document(
    caller: Caller,
    At((collection, document)): At<(String, String)>,
    Asked(OfSubject { subject, .. }): Asked<OfSubject>,
) -> Answer<Json<DocumentRow>> {
    Ok(Json(caller.tenancy(Scope::Read).await?.document(&collection, subject.as_deref(), &document).await?))
}

#[derive(Serialize, ToSchema)]
struct StoredBlob {
    /// BLAKE3 of the content, in hexadecimal.
    hash: String,
    bytes: usize,
}

/// Keeps a file, so that documents may name it among their `attachments`; one that none names within a day goes. The
/// media type is that of the request.
#[utoipa::path(post, path = "/api/v1/blobs", params(ForTenant), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 201, body = StoredBlob)))]
async fn store_blob(caller: Caller, headers: HeaderMap, content: Bytes) -> Answer<(StatusCode, Json<StoredBlob>)> {
    let tenancy = caller.tenancy(Scope::Write).await?;
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.filter(|media_type| media_type.len() <= 255).unwrap_or("application/octet-stream");
    let bytes = content.len();
    let hash = tenancy.put_blob(media_type, content.to_vec()).await?;
    Ok((StatusCode::CREATED, Json(StoredBlob { hash: hex::encode(hash), bytes })))
}

/// A stored file, to be saved and not to be shown.
#[utoipa::path(get, path = "/api/v1/blobs/{hash}", params(("hash" = String, Path), ForTenant), responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>)))]
async fn blob(caller: Caller, At(hash): At<String>) -> Answer<([(HeaderName, HeaderValue); 3], Vec<u8>)> {
    let blob = caller.tenancy(Scope::Read).await?.blob(&hash).await?;
    let media_type = HeaderValue::from_str(&blob.media_type);
    let media_type = media_type.unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((headers, blob.content))
}

#[utoipa::path(delete, path = "/api/v1/collections/{collection}/documents/{document}", params(("collection" = String, Path), ("document" = String, Path, description = "its id, percent-encoded"), OfSubject), responses((status = 200, body = Removed)))]
async fn remove_one(
    caller: Caller,
    At((collection, document)): At<(String, String)>,
    Asked(OfSubject { subject, .. }): Asked<OfSubject>,
) -> Answer<Json<Removed>> {
    let tenancy = caller.tenancy(Scope::Write).await?;
    match tenancy.remove_documents(&collection, subject.as_deref(), std::slice::from_ref(&document)).await? {
        0 => Err(Fault::not_found("document", format!("`{collection}` has no document `{document}`"))),
        removed => Ok(Json(Removed { removed })),
    }
}

/// The document whose id is `delete`.
#[utoipa::path(delete, path = "/api/v1/collections/{collection}/documents/delete", params(("collection" = String, Path), OfSubject), responses((status = 200, body = Removed)))]
async fn remove_delete(caller: Caller, At(collection): At<String>, asked: Asked<OfSubject>) -> Answer<Json<Removed>> {
    remove_one(caller, At((collection, "delete".to_owned())), asked).await
}

/// Removes everything that belongs to a subject alone, from all collections.
#[utoipa::path(delete, path = "/api/v1/subjects/{subject}", params(("subject" = String, Path, description = "percent-encoded"), ForTenant), responses((status = 200, body = Removed)))]
async fn erase(caller: Caller, At(subject): At<String>) -> Answer<Json<Removed>> {
    let removed = caller.tenancy(Scope::Write).await?.erase_subject(&subject).await?;
    Ok(Json(Removed { removed }))
}

#[derive(Deserialize, ToSchema)]
struct Ids {
    ids: Vec<String>,
    /// Whose alone the documents are.
    subject: Option<String>,
}

#[utoipa::path(post, path = "/api/v1/collections/{collection}/documents/delete", params(("collection" = String, Path), ForTenant), request_body = Ids, responses((status = 200, body = Removed)))]
async fn remove_many(
    caller: Caller,
    At(collection): At<String>,
    Sent(Ids { ids, subject }): Sent<Ids>,
) -> Answer<Json<Removed>> {
    if ids.len() > MAX_DOCUMENTS {
        return Err(Fault::invalid(format!("`ids` has {} members, at most {MAX_DOCUMENTS} are taken", ids.len())));
    }
    let removed = caller.tenancy(Scope::Write).await?.remove_documents(&collection, subject.as_deref(), &ids).await?;
    Ok(Json(Removed { removed }))
}
