//! Documents in, chunks with vectors kept.
//!
//! A document is one transaction: an ingestion that was killed leaves whole documents, and running it again does what
//! is missing. A document whose content did not change costs one look-up.

use crate::blobs::{Attachment, AttachmentRow, MAX_ATTACHMENT_NAME, MAX_ATTACHMENTS, attach, detach, hash_of, sweep};
use crate::database::Work;
use crate::embedding::bytes_of;
use crate::publish::fixed;
use crate::{StoreError, Tenancy, check_name, new_id, now};
use serde_json::json;
use sluice_index::{PRIVATE, SubjectMark};
use sluice_segment::ObjectHash;
use sluice_text::{Chunk, Embedder, Model, chunk, searchable, unit};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Chunks are cut to about this many tokens: large enough for a paragraph with its context, small enough that several
/// fit a budget.
const CHUNK_TOKENS: usize = 480;
/// Documents of one transaction; each commit costs a sync to disk.
const BATCH: usize = 64;
/// Largest file and largest line of a JSONL file, in bytes.
const MAX_DOCUMENT: u64 = 32 << 20;
/// Largest payload of a document, in bytes.
const MAX_PAYLOAD: usize = 64 << 10;
/// Longest name of a subject, in bytes.
const MAX_SUBJECT: usize = 512;

/// A document to be ingested.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub id: String,
    pub title: String,
    pub text: String,
    /// A JSON object that filters can ask for, as text; empty without one.
    pub payload: String,
    /// Whose alone it is; `None` for what the whole tenant shares.
    pub subject: Option<String>,
    /// Its vector by the collection's model; the text is not cut then.
    pub vector: Option<Vec<f32>>,
    /// Files that it brings along, which are stored already.
    pub attachments: Vec<Attachment>,
}

/// A stored document, without its text.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct DocumentRow {
    pub id: String,
    pub title: String,
    /// As it was sent; without one an empty object.
    #[schema(value_type = Object)]
    pub payload: serde_json::Value,
    /// Microseconds since 1970.
    pub updated_at: i64,
    pub attachments: Vec<AttachmentRow>,
}

/// What an ingestion did.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct IngestSummary {
    pub documents: u64,
    /// Chunks of the documents that were new or changed.
    pub chunks: u64,
    /// Documents that were new or changed.
    pub new: u64,
    pub unchanged: u64,
    /// Chunks not stored again because another document of the collection holds the same text.
    pub duplicate_chunks: u64,
}

/// What a collection holds.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct CollectionSize {
    pub name: String,
    pub documents: i64,
    pub chunks: i64,
    /// Documents that belong to single subjects.
    pub private_documents: i64,
    /// What its vectors come from; left out for the model in the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<CollectionModel>,
    /// Chunks that wait for a vector of that model.
    pub unembedded_chunks: i64,
}

/// A provider's embedding model.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct CollectionModel {
    pub model: String,
    /// How many numbers a vector has.
    pub dimensions: usize,
}

/// A file that cannot be read as documents.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {path}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} is not UTF-8 text")]
    NotUtf8 { path: PathBuf },
    #[error("{path}:{line}: {reason}")]
    Line { path: PathBuf, line: usize, reason: String },
    #[error("{path} is larger than 32 MiB; split it")]
    TooLarge { path: PathBuf },
    #[error("{0} holds no .md, .txt or .jsonl file")]
    Nothing(PathBuf),
}

/// Files to be read, found ahead so that progress can be told.
#[derive(Clone, Debug, Default)]
pub struct Source {
    files: Vec<(PathBuf, String)>,
}

impl Source {
    /// Every `.md`, `.txt` and `.jsonl` file of `paths`, folders recursively, in order of name.
    pub fn find(paths: &[PathBuf]) -> Result<Source, ReadError> {
        let mut files = Vec::new();
        for path in paths {
            let before = files.len();
            for entry in walkdir::WalkDir::new(path).sort_by_file_name() {
                let entry = entry.map_err(|error| ReadError::Io { path: path.clone(), source: error.into() })?;
                let known = entry
                    .path()
                    .extension()
                    .and_then(|ending| ending.to_str())
                    .is_some_and(|ending| matches!(ending, "md" | "markdown" | "txt" | "jsonl"));
                if !entry.file_type().is_file() || (!known && entry.path() != path) {
                    continue;
                }
                // A document of a file is known by its path below the one that was named.
                let relative = entry.path().strip_prefix(path).unwrap_or(entry.path());
                let name = if relative.as_os_str().is_empty() {
                    entry.path().file_name().map(PathBuf::from).unwrap_or_default()
                } else {
                    relative.to_owned()
                };
                files.push((entry.path().to_owned(), name.to_string_lossy().into_owned()));
            }
            if files.len() == before {
                return Err(ReadError::Nothing(path.clone()));
            }
        }
        Ok(Source { files })
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// What changes when a file does: its path, size and time of change.
    pub fn state(&self) -> Vec<(PathBuf, u64, Option<SystemTime>)> {
        let state = |(path, _): &(PathBuf, String)| {
            let found = std::fs::metadata(path).ok();
            let changed = found.as_ref().and_then(|found| found.modified().ok());
            (path.clone(), found.map_or(0, |found| found.len()), changed)
        };
        self.files.iter().map(state).collect()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|(path, _)| std::fs::metadata(path).ok()).map(|found| found.len()).sum()
    }

    /// Each document with the bytes that it was read from.
    pub fn documents(&self) -> impl Iterator<Item = Result<(Document, u64), ReadError>> + '_ {
        self.files.iter().flat_map(|(path, name)| -> Box<dyn Iterator<Item = Result<(Document, u64), ReadError>>> {
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("jsonl") => match lines(path) {
                    Ok(lines) => Box::new(lines),
                    Err(error) => Box::new(std::iter::once(Err(error))),
                },
                _ => Box::new(std::iter::once(whole_file(path, name))),
            }
        })
    }
}

fn whole_file(path: &Path, name: &str) -> Result<(Document, u64), ReadError> {
    let failed = |source| ReadError::Io { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > MAX_DOCUMENT {
        return Err(ReadError::TooLarge { path: path.to_owned() });
    }
    let text = String::from_utf8(std::fs::read(path).map_err(failed)?)
        .map_err(|_| ReadError::NotUtf8 { path: path.to_owned() })?;
    let heading = text.lines().find_map(|line| line.strip_prefix("# ")).map(str::trim);
    let title = heading
        .map(str::to_owned)
        .unwrap_or_else(|| Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned());
    let id = name.to_owned();
    Ok((
        Document { id, title, text, payload: String::new(), subject: None, vector: None, attachments: Vec::new() },
        bytes,
    ))
}

fn lines(path: &Path) -> Result<impl Iterator<Item = Result<(Document, u64), ReadError>> + use<>, ReadError> {
    use std::io::BufRead;
    let file = std::fs::File::open(path).map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    let mut reader = std::io::BufReader::new(file);
    let path = path.to_owned();
    let mut number = 0;
    let mut failed = false;
    Ok(std::iter::from_fn(move || {
        loop {
            if failed {
                return None;
            }
            let mut line = String::new();
            number += 1;
            let read = std::io::Read::take(&mut reader, MAX_DOCUMENT).read_line(&mut line);
            let bytes = match read {
                Ok(0) => return None,
                Ok(bytes) => bytes as u64,
                Err(source) => {
                    failed = true;
                    return Some(Err(ReadError::Io { path: path.clone(), source }));
                }
            };
            if line.trim().is_empty() {
                continue;
            }
            let document =
                json_line(line.trim()).map_err(|reason| ReadError::Line { path: path.clone(), line: number, reason });
            failed = document.is_err();
            return Some(document.map(|document| (document, bytes)));
        }
    }))
}

fn json_line(line: &str) -> Result<Document, String> {
    Document::of_json(&serde_json::from_str(line).map_err(|error| error.to_string())?)
}

impl Document {
    /// Reads `{"id"|"_id", "title", "text", "payload"|"metadata", "subject", "vector", "attachments"}`; only id and text
    /// must be there.
    pub fn of_json(value: &serde_json::Value) -> Result<Document, String> {
        let text = |name: &str| {
            value.get(name).and_then(|value| {
                value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|number| number.to_string()))
            })
        };
        let payload = match value.get("payload").or(value.get("metadata")) {
            None | Some(serde_json::Value::Null) => String::new(),
            Some(payload @ serde_json::Value::Object(_)) => payload.to_string(),
            Some(_) => return Err("`payload` must be an object".to_owned()),
        };
        if value
            .get("payload")
            .or(value.get("metadata"))
            .is_some_and(|payload| payload.get(SubjectMark::MEMBER).is_some())
        {
            return Err(format!("`payload` must not have a member `{}`", SubjectMark::MEMBER));
        }
        let subject = match value.get("subject") {
            None | Some(serde_json::Value::Null) => None,
            Some(serde_json::Value::String(subject)) if !subject.is_empty() && subject.len() <= MAX_SUBJECT => {
                Some(subject.clone())
            }
            Some(_) => return Err(format!("`subject` must be a string of 1 to {MAX_SUBJECT} bytes")),
        };
        let vector = match value.get("vector") {
            None | Some(serde_json::Value::Null) => None,
            Some(serde_json::Value::Array(numbers)) => {
                let numbers: Option<Vec<f32>> =
                    numbers.iter().map(|number| number.as_f64().map(|number| number as f32)).collect();
                let vector = numbers.ok_or("`vector` must be an array of numbers")?;
                Some(unit(vector).ok_or("`vector` has no direction: its numbers are all 0, or too large")?)
            }
            Some(_) => return Err("`vector` must be an array of numbers".to_owned()),
        };
        if payload.len() > MAX_PAYLOAD {
            return Err(format!("`payload` is larger than {} KiB", MAX_PAYLOAD >> 10));
        }
        if holds_nul(value) {
            return Err("a text holds a NUL character, which databases do not keep".to_owned());
        }
        Ok(Document {
            id: text("id").or_else(|| text("_id")).ok_or("there is no `id` (or `_id`)")?,
            title: text("title").unwrap_or_default(),
            text: text("text").ok_or("there is no `text`")?,
            payload,
            subject,
            vector,
            attachments: attachments(value.get("attachments"))?,
        })
    }
}

/// Whether a text in `value` holds a character that databases do not keep.
pub(crate) fn holds_nul(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(values) => values.iter().any(holds_nul),
        serde_json::Value::Object(members) => {
            members.iter().any(|(name, value)| name.contains('\0') || holds_nul(value))
        }
        _ => false,
    }
}

fn attachments(value: Option<&serde_json::Value>) -> Result<Vec<Attachment>, String> {
    let list = match value {
        None | Some(serde_json::Value::Null) => return Ok(Vec::new()),
        Some(serde_json::Value::Array(list)) => list,
        Some(_) => return Err("`attachments` must be an array".to_owned()),
    };
    if list.len() > MAX_ATTACHMENTS {
        return Err(format!("`attachments` has {} members, at most {MAX_ATTACHMENTS} are taken", list.len()));
    }
    let read = |(place, one): (usize, &serde_json::Value)| {
        let text = |name: &str| one.get(name).and_then(|value| value.as_str());
        let name = text("name").filter(|name| !name.is_empty() && name.len() <= MAX_ATTACHMENT_NAME);
        let name =
            name.ok_or(format!("`attachments[{place}].name` must be a string of 1 to {MAX_ATTACHMENT_NAME} bytes"))?;
        let hash = text("hash").and_then(hash_of);
        let hash = hash.ok_or(format!(
            "`attachments[{place}].hash` must be 64 hexadecimal digits, as `POST /api/v1/blobs` gives them"
        ))?;
        Ok(Attachment { name: name.to_owned(), hash })
    };
    list.iter().enumerate().map(read).collect()
}

struct Prepared {
    document: Document,
    hash: Vec<u8>,
    /// Whether its chunks have the vectors that they can have.
    is_embedded: bool,
    chunks: Vec<(sluice_text::Chunk, Vec<u8>, Option<Vec<u8>>)>,
}

impl Tenancy {
    /// Ingests documents in batches; `progress` is told the documents and bytes of each batch that is committed.
    pub async fn ingest(
        &self,
        collection: &str,
        documents: impl Iterator<Item = Result<(Document, u64), ReadError>>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<IngestSummary, IngestError> {
        check_name("collection", collection)?;
        let model = self.model(collection).await?;
        let shipped = Embedder::shipped().map_err(|error| StoreError::Invalid(error.to_string()))?;
        let embedder = Some(shipped).filter(|shipped| shipped.id() == model.id);
        let mut summary = IngestSummary::default();
        let names = [collection.to_owned(), format!("{collection}{PRIVATE}")];
        let mut batches = [Vec::new(), Vec::new()];
        let mut batch_bytes = 0;
        for document in documents {
            let (document, bytes) = document?;
            summary.documents += 1;
            batch_bytes += bytes;
            if let Some(vector) = &document.vector {
                check_vector(&document.id, vector, &model, embedder.is_some())?;
            }
            let which = usize::from(document.subject.is_some());
            let (document, mark) = self.owned(document)?;
            let hash = document_hash(&document);
            if self.holds(&names[which], &document.id, &hash).await? {
                summary.unchanged += 1;
            } else {
                summary.new += 1;
                let prepared = tokio::task::block_in_place(|| prepare(document, hash, mark.as_deref(), embedder));
                summary.chunks += prepared.chunks.len() as u64;
                batches[which].push(prepared);
            }
            if batches[which].len() == BATCH {
                self.keep(&names[which], std::mem::take(&mut batches[which]), &model, &mut summary).await?;
                progress(summary.documents, std::mem::take(&mut batch_bytes));
            }
        }
        for (name, batch) in names.iter().zip(batches) {
            self.keep(name, batch, &model, &mut summary).await?;
        }
        progress(summary.documents, batch_bytes);
        Ok(summary)
    }

    /// A document as it is kept: a subject's own has its mark in its id and its payload, so that equal ids of two
    /// subjects are two documents, and searches can tell them apart.
    fn owned(&self, mut document: Document) -> Result<(Document, Option<String>), StoreError> {
        let Some(subject) = document.subject.take() else { return Ok((document, None)) };
        let mark = self.mark(&subject)?;
        let mut payload: serde_json::Map<String, serde_json::Value> = match document.payload.is_empty() {
            true => serde_json::Map::new(),
            false => serde_json::from_str(&document.payload).map_err(|error| StoreError::Invalid(error.to_string()))?,
        };
        payload.insert(SubjectMark::MEMBER.to_owned(), mark.clone().into());
        document.payload = serde_json::Value::Object(payload).to_string();
        document.id = format!("{mark}/{}", document.id);
        Ok((document, Some(mark)))
    }

    fn mark(&self, subject: &str) -> Result<String, StoreError> {
        Ok(SubjectMark::of(&fixed(self.id.clone())?, subject).to_string())
    }

    /// Whether a document is stored with that content.
    async fn holds(&self, collection: &str, id: &str, hash: &[u8]) -> Result<bool, StoreError> {
        let find = "SELECT content_hash FROM document WHERE tenant_id = $1 AND collection = $2 AND external_id = $3";
        let known: Option<Vec<u8>> = sqlx::query_scalar(find)
            .bind(&self.id)
            .bind(collection)
            .bind(id)
            .fetch_optional(&mut *self.read().await?)
            .await?;
        Ok(known.as_deref() == Some(hash))
    }

    async fn keep(
        &self,
        collection: &str,
        batch: Vec<Prepared>,
        model: &Model,
        summary: &mut IngestSummary,
    ) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let tenant = self.id.as_slice();
        let mut write = self.write().await?;
        let most: usize = batch.iter().map(|prepared| prepared.chunks.len()).sum();
        let mut sequence = take_sequences(&mut write, tenant, collection, most).await?;
        for prepared in batch {
            let external = &prepared.document.id;
            remove(&mut write, tenant, collection, external).await?;
            let id = new_id();
            sqlx::query("INSERT INTO document (id, tenant_id, collection, external_id, title, content_hash, payload, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
                .bind(&id)
                .bind(tenant)
                .bind(collection)
                .bind(external)
                .bind(&prepared.document.title)
                .bind(&prepared.hash)
                .bind(&prepared.document.payload)
                .bind(now())
                .execute(&mut *write)
                .await?;
            attach(&mut write, tenant, &id, external, &prepared.document.attachments).await?;
            for (ordinal, (chunk, hash, vector)) in prepared.chunks.into_iter().enumerate() {
                // Without a vector of its own it waits for one.
                let known_by = if prepared.is_embedded { model.id.as_str() } else { "" };
                let inserted = sqlx::query("INSERT INTO snippet (id, tenant_id, collection, document_id, ordinal, heading, text, content_hash, embed_model, embedding, sequence) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (tenant_id, collection, content_hash) DO NOTHING")
                    .bind(new_id())
                    .bind(tenant)
                    .bind(collection)
                    .bind(&id)
                    .bind(ordinal as i64)
                    .bind(&chunk.heading)
                    .bind(&chunk.text)
                    .bind(&hash)
                    .bind(known_by)
                    .bind(vector)
                    .bind(sequence)
                    .execute(&mut *write)
                    .await?;
                if inserted.rows_affected() == 1 {
                    sequence += 1;
                    continue;
                }
                summary.duplicate_chunks += 1;
                sqlx::query("INSERT INTO repetition (document_id, ordinal, tenant_id, collection, content_hash) VALUES ($1, $2, $3, $4, $5)")
                    .bind(&id)
                    .bind(ordinal as i64)
                    .bind(tenant)
                    .bind(collection)
                    .bind(&hash)
                    .execute(&mut *write)
                    .await?;
            }
        }
        sweep(&mut write, tenant).await?;
        self.record(&mut write, "knowledge.ingested", collection, json!(null)).await?;
        write.commit().await?;
        Ok(())
    }

    /// Removes documents from a collection, all at once; says how many there were. With a subject they are its own.
    pub async fn remove_documents(
        &self,
        collection: &str,
        subject: Option<&str>,
        documents: &[String],
    ) -> Result<u64, StoreError> {
        check_name("collection", collection)?;
        let mut write = self.write().await?;
        let mut removed = 0;
        for document in documents {
            let (name, id) = self.place(collection, subject, document)?;
            removed += u64::from(remove(&mut write, &self.id, &name, &id).await?);
        }
        if removed > 0 {
            sweep(&mut write, &self.id).await?;
            self.record(&mut write, "knowledge.removed", collection, json!({ "documents": removed })).await?;
        }
        write.commit().await?;
        Ok(removed)
    }

    /// Removes everything that belongs to a subject alone, in all collections; says how many documents there were.
    pub async fn erase_subject(&self, subject: &str) -> Result<u64, StoreError> {
        let mark = self.mark(subject)?;
        let unit = self.subject_hash(subject)?.to_vec();
        let mut write = self.write().await?;
        // A mark is hexadecimal, so nothing in it is a pattern.
        let find = "SELECT collection, external_id FROM document WHERE tenant_id = $1 AND external_id LIKE $2";
        let found: Vec<(String, String)> =
            sqlx::query_as(find).bind(&self.id).bind(format!("{mark}/%")).fetch_all(&mut *write).await?;
        let mut removed = 0;
        for (collection, document) in found.iter().filter(|(collection, _)| collection.ends_with(PRIVATE)) {
            removed += u64::from(remove(&mut write, &self.id, collection, document).await?);
        }
        sweep(&mut write, &self.id).await?;
        // Edges forget what sessions keep of it; records and what was said of it know it no longer.
        for statement in [
            "DELETE FROM erasure WHERE tenant_id = $1 AND unit = $2",
            "DELETE FROM feedback WHERE tenant_id = $1 AND unit_kind = 'subject' AND unit = $2",
            "DELETE FROM feedback WHERE tenant_id = $1 AND unit_kind = 'run' AND unit IN (SELECT id FROM run WHERE tenant_id = $1 AND subject = $2)",
            "DELETE FROM feedback WHERE tenant_id = $1 AND unit_kind = 'session' AND unit IN (SELECT session FROM run WHERE tenant_id = $1 AND subject = $2 AND session IS NOT NULL)",
            "DELETE FROM run_content WHERE tenant_id = $1 AND subject = $2",
            "UPDATE run SET subject = NULL, forgotten = 1 WHERE tenant_id = $1 AND subject = $2",
        ] {
            sqlx::query(statement).bind(&self.id).bind(&unit).execute(&mut *write).await?;
        }
        sqlx::query("INSERT INTO erasure (tenant_id, unit, at) VALUES ($1, $2, $3)")
            .bind(&self.id)
            .bind(&unit)
            .bind(now())
            .execute(&mut *write)
            .await?;
        self.record(&mut write, "subject.erased", &mark, json!({ "documents": removed })).await?;
        write.commit().await?;
        Ok(removed)
    }

    /// Every collection, in order of name.
    pub async fn collections(&self) -> Result<Vec<CollectionSize>, StoreError> {
        let find = "SELECT name, (SELECT COUNT(*) FROM document d WHERE d.tenant_id = c.tenant_id AND d.collection = c.name), (SELECT COUNT(*) FROM snippet s WHERE s.tenant_id = c.tenant_id AND s.collection = c.name), embed_model, embed_dimensions FROM collection c WHERE tenant_id = $1 ORDER BY name";
        let found: Vec<(String, i64, i64, String, i64)> =
            sqlx::query_as(find).bind(&self.id).fetch_all(&mut *self.read().await?).await?;
        let mut collections: Vec<CollectionSize> = Vec::new();
        for (name, documents, chunks, model, dimensions) in found {
            // What belongs to subjects is a row of its own behind the shared one, or without it.
            let (shared, is_private) = name.strip_suffix(PRIVATE).map_or((name.as_str(), false), |name| (name, true));
            let place = match collections.iter().position(|size| size.name == shared) {
                Some(known) => known,
                None => {
                    collections.push(CollectionSize { name: shared.to_owned(), ..CollectionSize::default() });
                    collections.len() - 1
                }
            };
            let size = &mut collections[place];
            match is_private {
                true => size.private_documents = documents,
                false => (size.documents, size.chunks) = (documents, chunks),
            }
            if !model.is_empty() {
                size.unembedded_chunks += self.unembedded(&name, &model, dimensions).await?;
                size.model = Some(CollectionModel { model, dimensions: usize::try_from(dimensions).unwrap_or(0) });
            }
        }
        Ok(collections)
    }

    /// A document of a collection; with a subject one of its own.
    pub async fn document(&self, collection: &str, subject: Option<&str>, id: &str) -> Result<DocumentRow, StoreError> {
        let (name, external) = self.place(collection, subject, id)?;
        let find = "SELECT id, title, payload, updated_at FROM document WHERE tenant_id = $1 AND collection = $2 AND external_id = $3";
        let found: Option<(Vec<u8>, String, String, i64)> = sqlx::query_as(find)
            .bind(&self.id)
            .bind(name)
            .bind(external)
            .fetch_optional(&mut *self.read().await?)
            .await?;
        let Some((row, title, payload, updated_at)) = found else {
            return Err(StoreError::NotFound { kind: "document", name: id.to_owned() });
        };
        let mut payload: serde_json::Value = serde_json::from_str(&payload).unwrap_or_else(|_| json!({}));
        if let Some(members) = payload.as_object_mut() {
            members.remove(SubjectMark::MEMBER);
        }
        let attachments = self.attachments(&row).await?;
        Ok(DocumentRow { id: id.to_owned(), title, payload, updated_at, attachments })
    }

    /// Where a document is kept, and as what.
    fn place(&self, collection: &str, subject: Option<&str>, id: &str) -> Result<(String, String), StoreError> {
        Ok(match subject {
            None => (collection.to_owned(), id.to_owned()),
            Some(subject) => (format!("{collection}{PRIVATE}"), format!("{}/{id}", self.mark(subject)?)),
        })
    }

    /// The ids of all documents of a collection, in order; with a subject those of its own.
    pub async fn documents(&self, collection: &str, subject: Option<&str>) -> Result<Vec<String>, StoreError> {
        let find = "SELECT external_id FROM document WHERE tenant_id = $1 AND collection = $2 AND external_id LIKE $3 ORDER BY external_id";
        let (name, prefix) = self.place(collection, subject, "")?;
        let found: Vec<String> = sqlx::query_scalar(find)
            .bind(&self.id)
            .bind(name)
            .bind(format!("{prefix}%"))
            .fetch_all(&mut *self.read().await?)
            .await?;
        Ok(found.into_iter().map(|id| id[prefix.len()..].to_owned()).collect())
    }
}

/// The first of `count` numbers that no snippet of the collection had before. The row stays locked until the
/// transaction ends, so numbers become visible in their order.
async fn take_sequences(write: &mut Work, tenant: &[u8], collection: &str, count: usize) -> Result<i64, StoreError> {
    sqlx::query("INSERT INTO collection (tenant_id, name, next_sequence) VALUES ($1, $2, 1) ON CONFLICT (tenant_id, name) DO NOTHING")
        .bind(tenant)
        .bind(collection)
        .execute(&mut **write)
        .await?;
    let next: i64 = sqlx::query_scalar("UPDATE collection SET next_sequence = next_sequence + $3 WHERE tenant_id = $1 AND name = $2 RETURNING next_sequence")
        .bind(tenant)
        .bind(collection)
        .bind(count as i64)
        .fetch_one(&mut **write)
        .await?;
    Ok(next - count as i64)
}

/// Removes a document with its chunks. A chunk that another document repeats becomes that document's.
async fn remove(write: &mut Work, tenant: &[u8], collection: &str, external: &str) -> Result<bool, StoreError> {
    let find = "SELECT id FROM document WHERE tenant_id = $1 AND collection = $2 AND external_id = $3";
    let id: Option<Vec<u8>> =
        sqlx::query_scalar(find).bind(tenant).bind(collection).bind(external).fetch_optional(&mut **write).await?;
    let Some(id) = id else { return Ok(false) };
    sqlx::query("DELETE FROM repetition WHERE document_id = $1").bind(&id).execute(&mut **write).await?;
    let chunks: Vec<(Vec<u8>, i64, Vec<u8>)> =
        sqlx::query_as("SELECT id, sequence, content_hash FROM snippet WHERE document_id = $1 ORDER BY ordinal")
            .bind(&id)
            .fetch_all(&mut **write)
            .await?;
    for (chunk, sequence, hash) in chunks {
        sqlx::query("INSERT INTO forgotten (tenant_id, collection, sequence) VALUES ($1, $2, $3)")
            .bind(tenant)
            .bind(collection)
            .bind(sequence)
            .execute(&mut **write)
            .await?;
        let heir: Option<(Vec<u8>, i64)> = sqlx::query_as("SELECT document_id, ordinal FROM repetition WHERE tenant_id = $1 AND collection = $2 AND content_hash = $3 ORDER BY document_id, ordinal LIMIT 1")
            .bind(tenant)
            .bind(collection)
            .bind(&hash)
            .fetch_optional(&mut **write)
            .await?;
        let Some((document, ordinal)) = heir else {
            sqlx::query("DELETE FROM snippet WHERE id = $1").bind(&chunk).execute(&mut **write).await?;
            continue;
        };
        let sequence = take_sequences(write, tenant, collection, 1).await?;
        sqlx::query("UPDATE snippet SET document_id = $2, ordinal = $3, sequence = $4 WHERE id = $1")
            .bind(&chunk)
            .bind(&document)
            .bind(ordinal)
            .bind(sequence)
            .execute(&mut **write)
            .await?;
        sqlx::query("DELETE FROM repetition WHERE document_id = $1 AND ordinal = $2")
            .bind(&document)
            .bind(ordinal)
            .execute(&mut **write)
            .await?;
    }
    detach(write, tenant, &id).await?;
    sqlx::query("DELETE FROM document WHERE id = $1").bind(&id).execute(&mut **write).await?;
    Ok(true)
}

/// An ingestion that stopped; what it had committed stays.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What `mark` names holds equal texts of different subjects apart.
fn prepare(mut document: Document, hash: Vec<u8>, mark: Option<&str>, embedder: Option<&Embedder>) -> Prepared {
    let given = document.vector.take();
    let is_embedded = embedder.is_some() || given.is_some();
    let chunks = match &given {
        Some(_) => vec![Chunk { heading: String::new(), text: document.text.clone() }],
        None => chunk(&document.text, CHUNK_TOKENS),
    };
    let chunks = chunks
        .into_iter()
        .map(|chunk| {
            let searchable = searchable(&document.title, &chunk.heading, &chunk.text);
            let mut known_by = match mark {
                None => searchable.clone().into_bytes(),
                Some(mark) => format!("{mark}\0{searchable}").into_bytes(),
            };
            // Equal texts with vectors of their own are two.
            known_by.extend(given.iter().flat_map(|vector| bytes_of(vector)));
            let hash = ObjectHash::of(&known_by).0.to_vec();
            let vector = given.clone().or_else(|| embedder?.embed(&searchable)).map(|vector| bytes_of(&vector));
            (chunk, hash, vector)
        })
        .collect();
    Prepared { document, hash, is_embedded, chunks }
}

/// Whether a client's vector can stand beside the collection's others.
fn check_vector(document: &str, vector: &[f32], model: &Model, is_shipped: bool) -> Result<(), StoreError> {
    if is_shipped {
        return Err(StoreError::Invalid(format!(
            "the document `{document}` has a `vector`, and its collection has the model in the program: name the vectors' model with `sluice collection` first"
        )));
    }
    if vector.len() != model.dimensions {
        return Err(StoreError::Invalid(format!(
            "the `vector` of the document `{document}` has {} numbers; `{}` has {}",
            vector.len(),
            model.id,
            model.dimensions
        )));
    }
    Ok(())
}

fn document_hash(document: &Document) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    // Documents of stores that knew no payloads keep their hash.
    let payload = Some(&document.payload).filter(|payload| !payload.is_empty());
    for part in [&document.title, &document.text].into_iter().chain(payload) {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    if let Some(vector) = &document.vector {
        hasher.update(&bytes_of(vector));
    }
    for attachment in &document.attachments {
        hasher.update(&attachment.hash).update(attachment.name.as_bytes());
    }
    hasher.finalize().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_either_name_for_their_id() {
        assert_eq!(
            json_line(r#"{"_id":7,"title":"T","text":"x"}"#).unwrap(),
            Document {
                id: "7".into(),
                title: "T".into(),
                text: "x".into(),
                payload: String::new(),
                subject: None,
                vector: None,
                attachments: Vec::new(),
            }
        );
        assert_eq!(json_line(r#"{"id":"a","text":"","metadata":{"n":1}}"#).unwrap().payload, r#"{"n":1}"#);
        assert_eq!(json_line(r#"{"id":"a","text":"","subject":"u1"}"#).unwrap().subject.as_deref(), Some("u1"));
        assert!(json_line(r#"{"id":"a","text":"","subject":1}"#).unwrap_err().starts_with("`subject` must be"));
        assert!(json_line(r#"{"id":"a","text":"","payload":{"$subject":"x"}}"#).unwrap_err().contains("`$subject`"));
        // A text may spell the escape of what it may not hold.
        assert_eq!(json_line(r#"{"id":"a","text":"\\u0000"}"#).unwrap().text, r"\u0000");
        assert!(json_line(r#"{"id":"a","text":"\u0000"}"#).unwrap_err().contains("NUL"));
        assert_eq!(json_line(r#"{"id":"a"}"#).unwrap_err(), "there is no `text`");
        assert_eq!(json_line(r#"{"id":"a","text":"","payload":[]}"#).unwrap_err(), "`payload` must be an object");
    }
}
