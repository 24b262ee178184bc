//! Documents in, chunks with vectors kept.
//!
//! A document is one transaction: an ingestion that was killed leaves whole documents, and running it again does what
//! is missing. A document whose content did not change costs one look-up.

use crate::{Store, StoreError, check_name, new_id, now, record_event};
use sluice_segment::ObjectHash;
use sluice_text::{Embedder, chunk, searchable};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Chunks are cut to about this many tokens: large enough for a paragraph with its context, small enough that several
/// fit a budget.
const CHUNK_TOKENS: usize = 480;
/// Documents of one transaction; each commit costs a sync to disk.
const BATCH: usize = 64;
/// Largest file and largest line of a JSONL file, in bytes.
const MAX_DOCUMENT: u64 = 32 << 20;

/// A document to be ingested.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub id: String,
    pub title: String,
    pub text: String,
}

/// What an ingestion did.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct IngestSummary {
    pub documents: u64,
    pub chunks: u64,
    /// Documents that were new or changed.
    pub new: u64,
    pub unchanged: u64,
    /// Chunks left out because the collection holds the same text already.
    pub duplicate_chunks: u64,
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
#[derive(Clone, Debug)]
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
    Ok((Document { id: name.to_owned(), title, text }, bytes))
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
    let value: serde_json::Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let text = |name: &str| {
        value.get(name).and_then(|value| {
            value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|number| number.to_string()))
        })
    };
    Ok(Document {
        id: text("id").or_else(|| text("_id")).ok_or("the line has no `id` (or `_id`)")?,
        title: text("title").unwrap_or_default(),
        text: text("text").ok_or("the line has no `text`")?,
    })
}

struct Prepared {
    document: Document,
    hash: Vec<u8>,
    chunks: Vec<(sluice_text::Chunk, Vec<u8>, Option<Vec<u8>>)>,
}

impl Store {
    /// Ingests documents in batches; `progress` is told the documents and bytes of each batch that is committed.
    pub async fn ingest(
        &self,
        tenant: &str,
        collection: &str,
        documents: impl Iterator<Item = Result<(Document, u64), ReadError>>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<IngestSummary, IngestError> {
        check_name("collection", collection)?;
        let tenant = self.tenant(tenant).await?;
        let embedder = Embedder::shipped().map_err(|error| StoreError::Invalid(error.to_string()))?;
        let known = self.known_documents(&tenant, collection).await?;
        let mut summary = IngestSummary::default();
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        for document in documents {
            let (document, bytes) = document?;
            summary.documents += 1;
            batch_bytes += bytes;
            let hash = document_hash(&document);
            if known.contains(&(document.id.clone(), hash.clone())) {
                summary.unchanged += 1;
            } else {
                summary.new += 1;
                batch.push(tokio::task::block_in_place(|| prepare(document, hash, embedder)));
            }
            if batch.len() == BATCH {
                self.keep(&tenant, collection, std::mem::take(&mut batch), embedder, &mut summary).await?;
                progress(summary.documents, std::mem::take(&mut batch_bytes));
            }
        }
        self.keep(&tenant, collection, batch, embedder, &mut summary).await?;
        progress(summary.documents, batch_bytes);
        let chunks: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM snippet WHERE tenant_id = $1 AND collection = $2")
            .bind(&tenant)
            .bind(collection)
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::from)?;
        summary.chunks = chunks as u64;
        Ok(summary)
    }

    /// Documents that are stored whole with vectors of this program's model.
    async fn known_documents(&self, tenant: &[u8], collection: &str) -> Result<HashSet<(String, Vec<u8>)>, StoreError> {
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("SELECT external_id, content_hash FROM document WHERE tenant_id = $1 AND collection = $2")
                .bind(tenant)
                .bind(collection)
                .fetch_all(&self.pool)
                .await?;
        Ok(rows.into_iter().collect())
    }

    async fn keep(
        &self,
        tenant: &[u8],
        collection: &str,
        batch: Vec<Prepared>,
        embedder: &Embedder,
        summary: &mut IngestSummary,
    ) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut write = self.write().await?;
        for prepared in batch {
            let external = &prepared.document.id;
            let old: Option<Vec<u8>> = sqlx::query_scalar(
                "SELECT id FROM document WHERE tenant_id = $1 AND collection = $2 AND external_id = $3",
            )
            .bind(tenant)
            .bind(collection)
            .bind(external)
            .fetch_optional(&mut *write)
            .await?;
            if let Some(old) = old {
                sqlx::query("DELETE FROM snippet WHERE document_id = $1").bind(&old).execute(&mut *write).await?;
                sqlx::query("DELETE FROM document WHERE id = $1").bind(&old).execute(&mut *write).await?;
            }
            let id = new_id();
            sqlx::query("INSERT INTO document (id, tenant_id, collection, external_id, title, content_hash, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7)")
                .bind(&id)
                .bind(tenant)
                .bind(collection)
                .bind(external)
                .bind(&prepared.document.title)
                .bind(&prepared.hash)
                .bind(now())
                .execute(&mut *write)
                .await?;
            for (ordinal, (chunk, hash, vector)) in prepared.chunks.into_iter().enumerate() {
                let inserted = sqlx::query("INSERT INTO snippet (id, tenant_id, collection, document_id, ordinal, heading, text, content_hash, embed_model, embedding) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (tenant_id, collection, content_hash) DO NOTHING")
                    .bind(new_id())
                    .bind(tenant)
                    .bind(collection)
                    .bind(&id)
                    .bind(ordinal as i64)
                    .bind(&chunk.heading)
                    .bind(&chunk.text)
                    .bind(hash)
                    .bind(embedder.id())
                    .bind(vector)
                    .execute(&mut *write)
                    .await?;
                summary.duplicate_chunks += 1 - inserted.rows_affected().min(1);
            }
        }
        record_event(&mut write, tenant, "knowledge.ingested", collection).await?;
        write.commit().await?;
        Ok(())
    }
}

/// An ingestion that stopped; what it had committed stays.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn prepare(document: Document, hash: Vec<u8>, embedder: &Embedder) -> Prepared {
    let chunks = chunk(&document.text, CHUNK_TOKENS)
        .into_iter()
        .map(|chunk| {
            let searchable = searchable(&document.title, &chunk.heading, &chunk.text);
            let hash = ObjectHash::of(searchable.as_bytes()).0.to_vec();
            let vector =
                embedder.embed(&searchable).map(|vector| vector.iter().flat_map(|value| value.to_le_bytes()).collect());
            (chunk, hash, vector)
        })
        .collect();
    Prepared { document, hash, chunks }
}

fn document_hash(document: &Document) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    for part in [&document.title, &document.text] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
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
            Document { id: "7".into(), title: "T".into(), text: "x".into() }
        );
        assert_eq!(json_line(r#"{"id":"a"}"#).unwrap_err(), "the line has no `text`");
    }
}
