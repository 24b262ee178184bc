//! Writes snapshots: content-addressed objects, then one signed manifest.
//!
//! Objects are written first and never changed; the manifest is replaced last and at once. A publisher that dies in
//! between leaves the old manifest in force. A collection whose passages did not change keeps its segment, so nothing
//! of it travels again.

use crate::{Identity, Store, StoreError, now, prompts};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use sluice_index::{BuildError, build_segment};
use sluice_segment::{
    CollectionEntry, FileEntry, Key, Manifest, ManifestError, ObjectHash, ObjectRef, Passage, Prompt, PromptMessage,
    Registry, SegmentEntry, Tenant, Variable, VerifyingKey, encode,
};
use sluice_text::{ANALYSER_ID, EmbedError, Embedder, searchable};
use sqlx::Row;
use std::sync::Arc;

/// A manifest is signed anew when it is older than this, so that edges can tell a quiet publisher from a dead one.
const RENEWAL_MICROSECONDS: i64 = 3_600_000_000;

/// What a publication did.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    pub epoch: u64,
    /// Whether there was anything new.
    pub changed: bool,
    pub segments_built: usize,
    pub segments_kept: usize,
    /// Bytes of the objects that were written.
    pub bytes: u64,
}

/// A snapshot that was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the snapshot location cannot be used")]
    Location(#[from] object_store::Error),
    #[error("a segment of `{collection}` cannot be built")]
    Build { collection: String, source: BuildError },
    #[error("cannot write to a temporary folder")]
    Temporary(#[from] std::io::Error),
    #[error(transparent)]
    Embedder(#[from] EmbedError),
    #[error("the published manifest is refused: {0}")]
    Manifest(#[from] ManifestError),
    #[error("cannot encode the snapshot: {0}")]
    Encode(String),
    #[error("object {hash} is damaged at the snapshot location: it hashes to {found}")]
    Damaged { hash: ObjectHash, found: ObjectHash },
    #[error("nothing is published yet; run `sluice publish`")]
    Nothing,
}

impl From<sqlx::Error> for PublishError {
    fn from(error: sqlx::Error) -> PublishError {
        PublishError::Store(StoreError::Database(error))
    }
}

impl Store {
    /// Publishes the store's present state to `location`, if it differs from what is published there.
    pub async fn publish(&self, location: Arc<dyn ObjectStore>) -> Result<Publication, PublishError> {
        let identity = Identity::open(self.folder()).map_err(StoreError::from)?;
        let upto = self.latest_change().await?;
        let trusted = [identity.signing_key.verifying_key()];
        let before = match read_manifest(&location).await? {
            // A manifest that is not this publisher's is replaced, but its epoch is not known: the table's is used.
            Some(bytes) => Manifest::verify(&bytes, &trusted).ok(),
            None => None,
        };
        let mut written = 0;
        let registry = encode(&self.registry().await?).map_err(|error| PublishError::Encode(error.to_string()))?;
        let registry = put_object(&location, registry, &mut written).await?;
        let (mut built, mut kept) = (0, 0);
        let mut collections = Vec::new();
        let names: Vec<(Vec<u8>, String)> =
            sqlx::query_as("SELECT DISTINCT tenant_id, collection FROM snippet ORDER BY tenant_id, collection")
                .fetch_all(&self.pool)
                .await?;
        for (tenant, name) in names {
            let tenant_hex = hex::encode(&tenant);
            let id = self.collection_identity(&tenant, &name).await?;
            let old = before
                .iter()
                .flat_map(|manifest| &manifest.collections)
                .find(|entry| entry.tenant == tenant_hex && entry.name == name);
            let segment = match old.and_then(|entry| entry.segments.iter().find(|segment| segment.id == id)) {
                Some(segment) => {
                    kept += 1;
                    segment.clone()
                }
                None => {
                    built += 1;
                    self.build(&location, &tenant, &name, id, &mut written).await?
                }
            };
            collections.push(CollectionEntry { tenant: tenant_hex, name, segments: vec![segment] });
        }
        let same =
            before.as_ref().filter(|manifest| manifest.registry == registry && manifest.collections == collections);
        if let Some(manifest) = same {
            if now() - manifest.published_at > RENEWAL_MICROSECONDS {
                let renewed = Manifest { published_at: now(), ..manifest.clone() };
                self.put_manifest(&location, &renewed, &identity).await?;
            }
            return Ok(Publication {
                epoch: manifest.epoch,
                changed: false,
                segments_built: built,
                segments_kept: kept,
                bytes: written,
            });
        }
        let epoch = self.next_epoch(before.map_or(0, |manifest| manifest.epoch), upto).await?;
        let manifest = Manifest { epoch, published_at: now(), registry, collections };
        self.put_manifest(&location, &manifest, &identity).await?;
        Ok(Publication { epoch, changed: true, segments_built: built, segments_kept: kept, bytes: written })
    }

    async fn put_manifest(
        &self,
        location: &Arc<dyn ObjectStore>,
        manifest: &Manifest,
        identity: &Identity,
    ) -> Result<(), PublishError> {
        let bytes = manifest.sign(&identity.signing_key).map_err(|error| PublishError::Encode(error.to_string()))?;
        location.put(&ObjectPath::from("manifest"), bytes.into()).await?;
        Ok(())
    }

    /// Takes the next epoch for this publisher alone.
    async fn next_epoch(&self, published: u64, upto: i64) -> Result<u64, PublishError> {
        let mut write = self.write().await?;
        let last: i64 =
            sqlx::query_scalar("SELECT COALESCE(MAX(epoch), 0) FROM snapshot").fetch_one(&mut *write).await?;
        let epoch = last.max(published as i64) + 1;
        sqlx::query("INSERT INTO snapshot (epoch, upto_seq, at) VALUES ($1, $2, $3)")
            .bind(epoch)
            .bind(upto)
            .bind(now())
            .execute(&mut *write)
            .await?;
        write.commit().await?;
        Ok(epoch as u64)
    }

    async fn registry(&self) -> Result<Registry, PublishError> {
        let mut tenants = Vec::new();
        for (id, name) in sqlx::query_as::<_, (Vec<u8>, String)>("SELECT id, slug FROM tenant ORDER BY id")
            .fetch_all(&self.pool)
            .await?
        {
            let rows = sqlx::query("SELECT id, name, cred_hash, rpm, expires_at, routes, models, asserts FROM principal WHERE tenant_id = $1 AND revoked_at IS NULL ORDER BY id").bind(&id).fetch_all(&self.pool).await?;
            let mut keys = Vec::new();
            for row in rows {
                keys.push(Key {
                    id: fixed(row.try_get("id")?)?,
                    name: row.try_get("name")?,
                    hash: fixed(row.try_get("cred_hash")?)?,
                    requests_per_minute: row.try_get::<i64, _>("rpm")? as u32,
                    expires_at: row.try_get("expires_at")?,
                    routes: crate::keys::list(row.try_get("routes")?),
                    models: crate::keys::list(row.try_get("models")?),
                    asserts: crate::keys::list(row.try_get("asserts")?),
                });
            }
            let rows = sqlx::query("SELECT a.alias AS alias, d.environment AS environment, v.number AS number, v.body AS body, v.vars AS vars FROM deployment d JOIN artifact a ON a.id = d.artifact_id JOIN artifact_version v ON v.id = d.version_id WHERE a.tenant_id = $1 AND a.kind = 'prompt' AND d.revision = (SELECT MAX(revision) FROM deployment e WHERE e.artifact_id = d.artifact_id AND e.environment = d.environment) ORDER BY a.alias, d.environment").bind(&id).fetch_all(&self.pool).await?;
            let mut prompts = Vec::new();
            for row in rows {
                let file = prompts::content(&row.try_get::<String, _>("body")?, &row.try_get::<String, _>("vars")?)?;
                prompts.push(Prompt {
                    alias: row.try_get("alias")?,
                    environment: row.try_get("environment")?,
                    version: row.try_get::<i64, _>("number")? as u32,
                    messages: file
                        .messages
                        .into_iter()
                        .map(|(role, template)| PromptMessage { role, template })
                        .collect(),
                    variables: file
                        .variables
                        .into_iter()
                        .map(|(name, default)| Variable { name, default: default.map(|value| value.to_string()) })
                        .collect(),
                });
            }
            tenants.push(Tenant { id: fixed(id)?, name, keys, prompts });
        }
        Ok(Registry { tenants })
    }

    /// A hash of everything that a segment of this collection is built from.
    async fn collection_identity(&self, tenant: &[u8], collection: &str) -> Result<String, PublishError> {
        let rows: Vec<(String, i64, Vec<u8>)> = sqlx::query_as("SELECT d.external_id, s.ordinal, s.content_hash FROM snippet s JOIN document d ON d.id = s.document_id WHERE s.tenant_id = $1 AND s.collection = $2 ORDER BY d.external_id, s.ordinal").bind(tenant).bind(collection).fetch_all(&self.pool).await?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(ANALYSER_ID.as_bytes()).update(Embedder::shipped()?.id().as_bytes()).update(b"segment/1");
        for (document, ordinal, hash) in rows {
            hasher
                .update(&(document.len() as u64).to_le_bytes())
                .update(document.as_bytes())
                .update(&ordinal.to_le_bytes())
                .update(&hash);
        }
        Ok(hasher.finalize().to_hex()[..32].to_owned())
    }

    async fn build(
        &self,
        location: &Arc<dyn ObjectStore>,
        tenant: &[u8],
        collection: &str,
        id: String,
        written: &mut u64,
    ) -> Result<SegmentEntry, PublishError> {
        let embedder = Embedder::shipped()?;
        let rows = sqlx::query("SELECT d.external_id AS document, d.title AS title, s.ordinal AS ordinal, s.heading AS heading, s.text AS text, s.embed_model AS model, s.embedding AS embedding FROM snippet s JOIN document d ON d.id = s.document_id WHERE s.tenant_id = $1 AND s.collection = $2 ORDER BY d.external_id, s.ordinal").bind(tenant).bind(collection).fetch_all(&self.pool).await?;
        let mut passages = Vec::with_capacity(rows.len());
        let mut vectors = Vec::with_capacity(rows.len());
        for row in rows {
            let passage = Passage {
                document: row.try_get("document")?,
                ordinal: row.try_get::<i64, _>("ordinal")? as u32,
                title: row.try_get("title")?,
                heading: row.try_get("heading")?,
                text: row.try_get("text")?,
                tokens: 0,
            };
            // Vectors of another model are of no use beside this one's queries.
            let vector = match row.try_get::<String, _>("model")? == embedder.id() {
                true => row.try_get::<Option<Vec<u8>>, _>("embedding")?.map(|bytes| floats(&bytes)),
                false => embedder.embed(&searchable(&passage.title, &passage.heading, &passage.text)),
            };
            passages.push(passage);
            vectors.push(vector);
        }
        let count = passages.len() as u64;
        let folder = tempfile::tempdir()?;
        let names = tokio::task::block_in_place(|| build_segment(folder.path(), passages, &vectors, embedder))
            .map_err(|source| PublishError::Build { collection: collection.to_owned(), source })?;
        let mut files = Vec::new();
        for name in names {
            let bytes = std::fs::read(folder.path().join(&name))?;
            files.push(FileEntry { name, object: put_object(location, bytes, written).await? });
        }
        Ok(SegmentEntry { id, passages: count, files })
    }
}

/// Hashes every object of the snapshot that is published at `location`.
pub async fn verify_published(
    location: Arc<dyn ObjectStore>,
    trusted: &[VerifyingKey],
) -> Result<Manifest, PublishError> {
    let bytes = read_manifest(&location).await?.ok_or(PublishError::Nothing)?;
    let manifest = Manifest::verify(&bytes, trusted)?;
    for object in manifest.objects() {
        let bytes = location.get(&object_path(object.hash)).await?.bytes().await?;
        let found = ObjectHash::of(&bytes);
        if found != object.hash {
            return Err(PublishError::Damaged { hash: object.hash, found });
        }
    }
    Ok(manifest)
}

async fn read_manifest(location: &Arc<dyn ObjectStore>) -> Result<Option<Vec<u8>>, PublishError> {
    match location.get(&ObjectPath::from("manifest")).await {
        Ok(found) => Ok(Some(found.bytes().await?.to_vec())),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn put_object(
    location: &Arc<dyn ObjectStore>,
    bytes: Vec<u8>,
    written: &mut u64,
) -> Result<ObjectRef, PublishError> {
    let object = ObjectRef { hash: ObjectHash::of(&bytes), bytes: bytes.len() as u64 };
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match location.put_opts(&object_path(object.hash), bytes.into(), options).await {
        Ok(_) => *written += object.bytes,
        Err(object_store::Error::AlreadyExists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(object)
}

fn object_path(hash: ObjectHash) -> ObjectPath {
    ObjectPath::from(format!("objects/{}", hash.to_hex()))
}

fn fixed<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], PublishError> {
    bytes.try_into().map_err(|_| PublishError::Encode("an id of the store has another length".to_owned()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).collect()
}
