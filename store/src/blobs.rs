//! Files that documents bring along, known by their content.

use crate::database::Work;
use crate::{StoreError, Tenancy, now};
use serde_json::json;

/// Largest file, in bytes.
pub const MAX_BLOB: usize = 16 << 20;
/// Most files of a document.
pub(crate) const MAX_ATTACHMENTS: usize = 32;
/// Longest name of a file, in bytes.
pub(crate) const MAX_ATTACHMENT_NAME: usize = 255;
/// How long a file is kept that no document has, in microseconds.
const LOOSE: i64 = 24 * 3_600 * 1_000_000;

/// A file of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub name: String,
    /// BLAKE3 of its content.
    pub hash: [u8; 32],
}

/// A file of a document, as it is told.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct AttachmentRow {
    pub name: String,
    /// BLAKE3 of its content, in hexadecimal: its name in `/api/v1/blobs`.
    pub hash: String,
    pub media_type: String,
    pub bytes: i64,
}

/// A stored file.
pub struct Blob {
    pub media_type: String,
    pub content: Vec<u8>,
}

/// The hash that `text` names in hexadecimal.
pub(crate) fn hash_of(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

impl Tenancy {
    /// Keeps a file and gives its hash. One that is known already stays as it is; one that no document has within a
    /// day goes.
    pub async fn put_blob(&self, media_type: &str, content: Vec<u8>) -> Result<[u8; 32], StoreError> {
        if content.is_empty() || content.len() > MAX_BLOB {
            let reason = format!("a file has {} bytes; 1 to {MAX_BLOB} are taken", content.len());
            return Err(StoreError::Invalid(reason));
        }
        let hash = *blake3::hash(&content).as_bytes();
        let mut write = self.write().await?;
        let insert = "INSERT INTO blob (tenant_id, hash, media_type, content, bytes, loose_since) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant_id, hash) DO UPDATE SET loose_since = $6";
        sqlx::query(insert)
            .bind(&self.id)
            .bind(hash.as_slice())
            .bind(media_type)
            .bind(&content)
            .bind(content.len() as i64)
            .bind(now())
            .execute(&mut *write)
            .await?;
        sweep(&mut write, &self.id).await?;
        self.record(&mut write, "blob.stored", &hex::encode(hash), json!({ "bytes": content.len() })).await?;
        write.commit().await?;
        Ok(hash)
    }

    pub async fn blob(&self, hash: &str) -> Result<Blob, StoreError> {
        let missing = || StoreError::NotFound { kind: "blob", name: hash.to_owned() };
        let find = "SELECT media_type, content FROM blob WHERE tenant_id = $1 AND hash = $2";
        let found: Option<(String, Vec<u8>)> = sqlx::query_as(find)
            .bind(&self.id)
            .bind(hash_of(hash).ok_or_else(missing)?.as_slice())
            .fetch_optional(&mut *self.read().await?)
            .await?;
        let (media_type, content) = found.ok_or_else(missing)?;
        Ok(Blob { media_type, content })
    }

    /// The files of a document by its id in the database.
    pub(crate) async fn attachments(&self, document: &[u8]) -> Result<Vec<AttachmentRow>, StoreError> {
        let find = "SELECT a.name, b.hash, b.media_type, b.bytes FROM attachment a JOIN blob b ON b.tenant_id = a.tenant_id AND b.hash = a.hash WHERE a.tenant_id = $1 AND a.document_id = $2 ORDER BY a.ordinal";
        let found: Vec<(String, Vec<u8>, String, i64)> =
            sqlx::query_as(find).bind(&self.id).bind(document).fetch_all(&mut *self.read().await?).await?;
        let row = |(name, hash, media_type, bytes)| AttachmentRow {
            name,
            hash: hex::encode::<Vec<u8>>(hash),
            media_type,
            bytes,
        };
        Ok(found.into_iter().map(row).collect())
    }
}

/// Gives a document its files, which must be there.
pub(crate) async fn attach(
    write: &mut Work,
    tenant: &[u8],
    document: &[u8],
    external: &str,
    attachments: &[Attachment],
) -> Result<(), StoreError> {
    for (attachment, ordinal) in attachments.iter().zip(0_i64..) {
        let taken = sqlx::query("UPDATE blob SET loose_since = $3 WHERE tenant_id = $1 AND hash = $2")
            .bind(tenant)
            .bind(attachment.hash.as_slice())
            .bind(i64::MAX)
            .execute(&mut **write)
            .await?;
        if taken.rows_affected() == 0 {
            return Err(StoreError::Invalid(format!(
                "the document `{external}` has an attachment `{}` with the hash {}, which is not stored; send it to `POST /api/v1/blobs` first",
                attachment.name,
                hex::encode(attachment.hash)
            )));
        }
        sqlx::query("INSERT INTO attachment (document_id, ordinal, tenant_id, name, hash) VALUES ($1, $2, $3, $4, $5)")
            .bind(document)
            .bind(ordinal)
            .bind(tenant)
            .bind(&attachment.name)
            .bind(attachment.hash.as_slice())
            .execute(&mut **write)
            .await?;
    }
    Ok(())
}

/// Takes a document's files from it. They go with the next [`sweep`] unless another document has them.
pub(crate) async fn detach(write: &mut Work, tenant: &[u8], document: &[u8]) -> Result<(), StoreError> {
    sqlx::query("UPDATE blob SET loose_since = 0 WHERE tenant_id = $1 AND hash IN (SELECT hash FROM attachment WHERE document_id = $2)")
        .bind(tenant)
        .bind(document)
        .execute(&mut **write)
        .await?;
    sqlx::query("DELETE FROM attachment WHERE document_id = $1").bind(document).execute(&mut **write).await?;
    Ok(())
}

/// Removes the files that no document has any more, or had within a day of their arrival. Only what is loose is looked
/// at, so it costs a write nothing where nothing is.
pub(crate) async fn sweep(write: &mut Work, tenant: &[u8]) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM blob WHERE tenant_id = $1 AND loose_since < $2 AND NOT EXISTS (SELECT 1 FROM attachment a WHERE a.tenant_id = blob.tenant_id AND a.hash = blob.hash)")
        .bind(tenant)
        .bind(now() - LOOSE)
        .execute(&mut **write)
        .await?;
    Ok(())
}
