//! Writes snapshots: content-addressed objects, then one signed manifest.
//!
//! Objects are written first and never changed; the manifest is replaced last and at once. A publisher that dies in
//! between leaves the old manifest in force.
//!
//! A collection is a row of segments, each a range of sequence numbers. What is new becomes one more segment, so a
//! write costs what was written and not what is there; what is gone is listed beside them. [`Store::compact`] joins
//! small segments to larger ones, beside publications, so that there are never many.

use crate::database::{Whose, Work};
use crate::records::ASIDE;
use crate::{Identity, Store, StoreError, now, registry};
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use sluice_index::{BuildError, PRIVATE, SegmentWriter};
use sluice_segment::{
    CollectionEntry, FileEntry, Manifest, ManifestError, ObjectHash, ObjectRef, Passage, Registry, SegmentEntry,
    VerifyingKey, encode,
};
use sluice_text::{ANALYSER_ID, EmbedError, Embedder, Model, searchable};
use sqlx::Row;
use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
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
    /// Credentials that are published as they were, since the store's key could not be had.
    pub sealed_kept: usize,
    /// Why the new documents of a collection are not in it, where they could not be built in.
    pub failed: Option<String>,
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
    #[error("the segments changed while they were joined; they are joined with the next publication")]
    Overtaken,
}

impl From<sqlx::Error> for PublishError {
    fn from(error: sqlx::Error) -> PublishError {
        PublishError::Store(StoreError::Database(error))
    }
}

impl Store {
    /// Publishes the store's present state to `location`, if it differs from what is published there.
    pub async fn publish(&self, location: Arc<dyn ObjectStore>) -> Result<Publication, PublishError> {
        let _alone = self.publish_alone().await?;
        let identity = Identity::open(self.folder()).map_err(StoreError::from)?;
        let upto = self.latest_change().await?;
        let trusted = &identity.trusted;
        let found = read_manifest(&location).await?;
        // A manifest that is not this publisher's is replaced, but its epoch is not known: the table's is used.
        let before = found.as_ref().and_then(|bytes| Manifest::verify(bytes, trusted).ok());
        let had_manifest = found.is_some();
        let own = [identity.signing_key.verifying_key()];
        let is_own = found.is_some_and(|bytes| Manifest::verify(&bytes, &own).is_ok());
        let mut written = 0;
        let (mut registry, sealed) = registry::assemble(self).await?;
        if !sealed.is_empty() && had_manifest {
            // Revocations must not wait for the store's key: credentials that cannot be opened now stay as they are. Where
            // it cannot be seen how they are, nothing is published, or everybody would lose them.
            let before = before.as_ref().ok_or_else(|| {
                StoreError::Invalid(
                    "the store's key cannot be had, and the manifest in force is not this publisher's: what is sealed is not known"
                        .to_owned(),
                )
            })?;
            let in_force = self.read_registry(&location, &before.registry).await?;
            registry::keep_credentials(&mut registry, &sealed, in_force);
        }
        if let Some(epoch) = self.rolled_back().await? {
            // Prompts as they were. Keys, credentials and documents stay as they are: what was revoked or removed since
            // does not come back.
            let mut old = self.registry_of(&location, epoch, trusted).await;
            if let (Err(error), Some(before)) = (&old, &before) {
                // Revocations must not wait for it: what is in force stays in force.
                tracing::error!(%error, epoch, "the epoch that was gone back to cannot be read; run `sluice epoch resume`");
                old = self.read_registry(&location, &before.registry).await;
            }
            // What was gone away from is never published for want of what was gone back to.
            let old = match before.is_some() {
                true => old?.tenants,
                false => old.map(|old| old.tenants).unwrap_or_default(),
            };
            for tenant in &mut registry.tenants {
                // One that came later has what it has.
                if let Some(known) = old.iter().find(|old| old.id == tenant.id) {
                    tenant.prompts = known.prompts.clone();
                    tenant.default_prompt = known.default_prompt.clone();
                }
            }
        }
        let encoded = encode(&registry).map_err(|error| PublishError::Encode(error.to_string()))?;
        let prompts = prompts_alone(registry)?;
        let registry = put_object(&location, encoded, &mut written).await?;
        let (mut built, mut kept) = (0, 0);
        let mut failed = None;
        let mut collections = Vec::new();
        let names: Vec<(Vec<u8>, String, i64)> =
            sqlx::query_as("SELECT tenant_id, name, next_sequence FROM collection ORDER BY tenant_id, name")
                .fetch_all(&mut *self.database.read(Whose::All).await?)
                .await?;
        for (tenant, name, next) in names {
            let tenant_hex = hex::encode(&tenant);
            let old = before
                .iter()
                .flat_map(|manifest| &manifest.collections)
                .find(|entry| entry.tenant == tenant_hex && entry.name == name);
            // What another version of this program built is built anew; vectors of another model go on to serve.
            let mut segments = old.map(|entry| entry.segments.clone()).unwrap_or_default();
            segments.retain(|segment| segment.maker.starts_with(&format()));
            if old.is_some_and(|entry| entry.segments.len() != segments.len()) {
                segments.clear();
            }
            // A database that was restored knows less than what is published: its numbers go on behind those that were
            // given, and all that it holds is published anew.
            let published = segments.last().map_or(0, |segment| segment.last);
            if u64::try_from(next).unwrap_or(0) <= published {
                segments.clear();
                self.skip_sequences(&tenant, &name, published + 1).await?;
            }
            kept += segments.len();
            let covered = segments.last().map_or(0, |segment| segment.last);
            // What was revoked, removed and deployed must not wait for a collection whose documents cannot be built in.
            let mut is_whole = true;
            match self.build(&location, &tenant, &name, covered + 1..u64::MAX, &mut written).await {
                Ok(Some(segment)) => {
                    built += 1;
                    segments.push(segment);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, collection = name, "a collection's new documents are not published");
                    failed.get_or_insert_with(|| error.to_string());
                    is_whole = false;
                }
            }
            if let (true, false, Some(old)) = (segments.is_empty(), is_whole, old) {
                // What was served goes on, without what was removed since.
                segments.clone_from(&old.segments);
            }
            if segments.is_empty() {
                continue;
            }
            let covered = segments.last().map_or(covered, |segment| covered.max(segment.last));
            let gone = self.forgotten(&tenant, &name, &(0..covered + 1)).await?;
            let dead = put_dead(&location, &gone, &mut written).await?;
            collections.push(CollectionEntry { tenant: tenant_hex, name, segments, dead });
        }
        let erased = self.erasures().await?;
        let same = before.as_ref().filter(|manifest| {
            manifest.registry == registry && manifest.collections == collections && manifest.erased == erased
        });
        if let Some(manifest) = same {
            // Signed anew from time to time, and when another key is to be signed with.
            if !is_own || now() - manifest.published_at > RENEWAL_MICROSECONDS {
                let renewed = Manifest { published_at: now(), ..manifest.clone() };
                self.put_manifest(&location, &renewed, &identity, false).await?;
            }
            return Ok(Publication {
                epoch: manifest.epoch,
                changed: false,
                segments_built: built,
                segments_kept: kept,
                bytes: written,
                sealed_kept: sealed.len(),
                failed,
            });
        }
        let is_other = before.as_ref().is_none_or(|before| before.prompts != prompts);
        let epoch = self.next_epoch(before.map_or(0, |manifest| manifest.epoch), upto).await?;
        let manifest = Manifest { epoch, published_at: now(), registry, prompts, collections, erased };
        self.put_manifest(&location, &manifest, &identity, is_other).await?;
        Ok(Publication {
            epoch,
            changed: true,
            segments_built: built,
            segments_kept: kept,
            bytes: written,
            sealed_kept: sealed.len(),
            failed,
        })
    }

    async fn put_manifest(
        &self,
        location: &Arc<dyn ObjectStore>,
        manifest: &Manifest,
        identity: &Identity,
        keep: bool,
    ) -> Result<(), PublishError> {
        let bytes = manifest.sign(&identity.signing_key).map_err(|error| PublishError::Encode(error.to_string()))?;
        // Kept by its epoch first, so that whatever was in force can be gone back to.
        if keep {
            location.put(&epoch_path(manifest.epoch), bytes.clone().into()).await?;
        }
        location.put(&ObjectPath::from("manifest"), bytes.into()).await?;
        Ok(())
    }

    /// Takes the next epoch for this publisher alone.
    async fn next_epoch(&self, published: u64, upto: i64) -> Result<u64, PublishError> {
        let mut write = self.database.write(Whose::All).await?;
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

    async fn skip_sequences(&self, tenant: &[u8], collection: &str, next: u64) -> Result<(), PublishError> {
        let mut write = self.database.write(Whose::All).await?;
        sqlx::query(
            "UPDATE collection SET next_sequence = $3 WHERE tenant_id = $1 AND name = $2 AND next_sequence < $3",
        )
        .bind(tenant)
        .bind(collection)
        .bind(i64::try_from(next).unwrap_or(i64::MAX))
        .execute(&mut *write)
        .await?;
        Ok(write.commit().await?)
    }

    /// Sequence numbers of `range` that are gone, rising.
    async fn forgotten(&self, tenant: &[u8], collection: &str, range: &Range<u64>) -> Result<Vec<u64>, PublishError> {
        let find = "SELECT sequence FROM forgotten WHERE tenant_id = $1 AND collection = $2 AND sequence >= $3 AND sequence < $4 ORDER BY sequence";
        let found: Vec<i64> = sqlx::query_scalar(find)
            .bind(tenant)
            .bind(collection)
            .bind(range.start as i64)
            .bind(range.end as i64)
            .fetch_all(&mut *self.database.read(Whose::All).await?)
            .await?;
        Ok(found.into_iter().map(|sequence| sequence as u64).collect())
    }

    /// Builds a segment of the snippets whose sequence numbers are in `range`; `None` when there are none.
    async fn build(
        &self,
        location: &Arc<dyn ObjectStore>,
        tenant: &[u8],
        collection: &str,
        range: Range<u64>,
        written: &mut u64,
    ) -> Result<Option<SegmentEntry>, PublishError> {
        let failed = |source| PublishError::Build { collection: collection.to_owned(), source };
        let embedder = Embedder::shipped()?;
        let model = self.model_of(tenant, collection).await?;
        let is_shipped = model.id == embedder.id();
        let mut is_whole = true;
        // A subject's own document is known by the subject's mark and its id; a reader of the text sees the id.
        let marked = if collection.ends_with(PRIVATE) { SUBJECT_PREFIX } else { 0 };
        let mut identity = blake3::Hasher::new();
        let mut making: Option<(tempfile::TempDir, SegmentWriter)> = None;
        let mut last = 0;
        let mut next = range.start as i64;
        loop {
            let rows = sqlx::query("SELECT s.sequence AS sequence, d.external_id AS document, d.title AS title, d.payload AS payload, s.ordinal AS ordinal, s.heading AS heading, s.text AS text, s.content_hash AS hash, s.embed_model AS model, s.embedding AS embedding FROM snippet s JOIN document d ON d.id = s.document_id WHERE s.tenant_id = $1 AND s.collection = $2 AND s.sequence >= $3 AND s.sequence < $4 ORDER BY s.sequence LIMIT $5")
                .bind(tenant)
                .bind(collection)
                .bind(next)
                .bind(i64::try_from(range.end).unwrap_or(i64::MAX))
                .bind(PAGE)
                .fetch_all(&mut *self.database.read(Whose::All).await?)
                .await?;
            let Some(newest) = rows.last() else { break };
            next = newest.try_get::<i64, _>("sequence")? + 1;
            if making.is_none() {
                let folder = tempfile::tempdir()?;
                let writer = SegmentWriter::create(folder.path(), model.clone()).map_err(failed)?;
                making = Some((folder, writer));
            }
            let Some((_, writer)) = &mut making else { break };
            tokio::task::block_in_place(|| -> Result<(), PublishError> {
                for row in &rows {
                    let passage = Passage {
                        sequence: row.try_get::<i64, _>("sequence")? as u64,
                        print: 0,
                        document: row.try_get::<&str, _>("document")?.get(marked..).unwrap_or_default(),
                        ordinal: row.try_get::<i64, _>("ordinal")? as u32,
                        title: row.try_get("title")?,
                        heading: row.try_get("heading")?,
                        text: row.try_get("text")?,
                        payload: row.try_get("payload")?,
                        tokens: 0,
                    };
                    // Vectors of another model are of no use beside this one's queries.
                    let vector = match row.try_get::<&str, _>("model")? == model.id {
                        true => row.try_get::<Option<&[u8]>, _>("embedding")?.map(floats),
                        false if is_shipped => {
                            embedder.embed(&searchable(passage.title, passage.heading, passage.text))
                        }
                        false => {
                            is_whole = false;
                            None
                        }
                    };
                    for part in [
                        row.try_get::<&str, _>("document")?.as_bytes(),
                        row.try_get("hash")?,
                        passage.payload.as_bytes(),
                    ] {
                        identity.update(&(part.len() as u64).to_le_bytes()).update(part);
                    }
                    identity.update(&passage.sequence.to_le_bytes());
                    last = passage.sequence;
                    writer.push(&passage, vector.as_deref()).map_err(failed)?;
                }
                Ok(())
            })?;
        }
        let Some((folder, writer)) = making else { return Ok(None) };
        let passages = writer.len() as u64;
        let names = tokio::task::block_in_place(|| writer.finish()).map_err(failed)?;
        let mut files = Vec::new();
        for name in names {
            let bytes = std::fs::read(folder.path().join(&name))?;
            files.push(FileEntry { name, object: put_object(location, bytes, written).await? });
        }
        let maker = maker(&model, is_whole);
        identity.update(maker.as_bytes());
        let id = identity.finalize().to_hex()[..32].to_owned();
        // A range that ends where its snippets end at present covers all numbers that were given out below it.
        let last = if range.end == u64::MAX { last } else { range.end - 1 };
        Ok(Some(SegmentEntry { id, maker, passages, first: range.start, last, files }))
    }

    /// Joins small segments, and writes segments without what is gone from them, one run of segments at a time; says
    /// whether there was anything to do. Publications go on meanwhile.
    pub async fn compact(&self, location: Arc<dyn ObjectStore>) -> Result<bool, PublishError> {
        let identity = Identity::open(self.folder()).map_err(StoreError::from)?;
        let trusted = &identity.trusted;
        let Some(bytes) = read_manifest(&location).await? else { return Ok(false) };
        let manifest = Manifest::verify(&bytes, trusted)?;
        // The most segments first: a collection that is always hollow must not keep the others from being joined.
        let mut entries: Vec<&CollectionEntry> = manifest.collections.iter().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.segments.len()));
        for entry in entries {
            let Ok(tenant) = hex::decode(&entry.tenant) else { continue };
            let covered = entry.segments.last().map_or(0, |segment| segment.last);
            let dead = self.forgotten(&tenant, &entry.name, &(0..covered + 1)).await?;
            let share = if entry.name.ends_with(PRIVATE) { Gone::Any } else { Gone::Third };
            let model = self.model_of(&tenant, &entry.name).await?;
            let mut run = None;
            for (place, segment) in entry.segments.iter().enumerate() {
                let is_stale = segment.maker != maker(&model, true);
                if is_stale && !self.is_pending(&tenant, &entry.name, &model, segment.first..segment.last + 1).await? {
                    run = Some(place..place + 1);
                    break;
                }
            }
            // What still has vectors of the model before keeps them until it has those of the new one.
            let makers = [maker(&model, true), maker(&model, false)];
            let of_model = entry.segments.iter().rev().take_while(|segment| makers.contains(&segment.maker)).count();
            let joined = || run_to_join(&entry.segments, of_model);
            let Some(run) = run.or_else(|| hollow(&entry.segments, &dead, share)).or_else(joined) else { continue };
            let run = &entry.segments[run];
            let range = run[0].first..run[run.len() - 1].last + 1;
            // Before the snippets are read: what goes later is still listed as gone.
            let gone: HashSet<u64> = self.forgotten(&tenant, &entry.name, &range).await?.into_iter().collect();
            let mut written = 0;
            let joined = self.build(&location, &tenant, &entry.name, range.clone(), &mut written).await?;
            self.replace(&location, &identity, entry, run, joined, &gone).await?;
            let drop = "DELETE FROM forgotten WHERE tenant_id = $1 AND collection = $2 AND sequence = $3";
            let mut write = self.database.write(Whose::All).await?;
            for sequence in gone {
                sqlx::query(drop).bind(&tenant).bind(&entry.name).bind(sequence as i64).execute(&mut *write).await?;
            }
            write.commit().await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Puts `joined` in the place of the segments `run` of the collection `entry`, in whatever is published now.
    async fn replace(
        &self,
        location: &Arc<dyn ObjectStore>,
        identity: &Identity,
        entry: &CollectionEntry,
        run: &[SegmentEntry],
        joined: Option<SegmentEntry>,
        gone: &HashSet<u64>,
    ) -> Result<(), PublishError> {
        let _alone = self.publish_alone().await?;
        let bytes = read_manifest(location).await?.ok_or(PublishError::Nothing)?;
        let mut manifest = Manifest::verify(&bytes, &identity.trusted)?;
        let ours = |other: &CollectionEntry| other.tenant == entry.tenant && other.name == entry.name;
        let Some(place) = manifest.collections.iter().position(ours) else { return Err(PublishError::Overtaken) };
        let now_there = &mut manifest.collections[place];
        let from = now_there.segments.iter().position(|segment| segment.id == run[0].id);
        let from = from.filter(|from| now_there.segments.get(*from..from + run.len()) == Some(run));
        let from = from.ok_or(PublishError::Overtaken)?;
        now_there.segments.splice(from..from + run.len(), joined);
        let mut written = 0;
        match now_there.segments.last().map(|segment| segment.last) {
            None => drop(manifest.collections.remove(place)),
            Some(covered) => {
                let tenant = hex::decode(&entry.tenant).map_err(|error| PublishError::Encode(error.to_string()))?;
                let mut dead = self.forgotten(&tenant, &entry.name, &(0..covered + 1)).await?;
                dead.retain(|sequence| !gone.contains(sequence));
                now_there.dead = put_dead(location, &dead, &mut written).await?;
            }
        }
        manifest.epoch = self.next_epoch(manifest.epoch, self.latest_change().await?).await?;
        manifest.published_at = now();
        self.put_manifest(location, &manifest, identity, false).await
    }

    /// Removes objects that the published manifest does not name and that are older than an edge could still ask for;
    /// says how many.
    pub async fn sweep(&self, location: Arc<dyn ObjectStore>) -> Result<usize, PublishError> {
        let _alone = self.publish_alone().await?;
        let Some(bytes) = read_manifest(&location).await? else { return Ok(0) };
        let trusted = Identity::open(self.folder()).map_err(StoreError::from)?.trusted;
        let manifest = Manifest::verify(&bytes, &trusted)?;
        let mut needed: HashSet<ObjectPath> = manifest.objects().map(|object| object_path(object.hash)).collect();
        needed.extend(self.keep_epochs(&location, &trusted).await?);
        let folder = ObjectPath::from("objects");
        let objects = location.list_with_delimiter(Some(&folder)).await?.objects;
        let old = |modified: i64| modified < now() - GRACE_MICROSECONDS;
        let mut removed = 0;
        for object in objects {
            if !needed.contains(&object.location) && old(object.last_modified.timestamp_micros()) {
                location.delete(&object.location).await?;
                removed += 1;
            }
        }
        // What could not be stored is nobody's any more after a while.
        let refused: Vec<_> = location.list(Some(&ObjectPath::from(ASIDE))).try_collect().await?;
        for batch in refused {
            if batch.last_modified.timestamp_micros() < now() - SILENCE_MICROSECONDS {
                location.delete(&batch.location).await?;
            }
        }
        // What an edge said of itself, and has not said again for long: it is gone.
        let edges = location.list_with_delimiter(Some(&ObjectPath::from("edges"))).await?.objects;
        for edge in edges {
            if edge.last_modified.timestamp_micros() < now() - SILENCE_MICROSECONDS {
                location.delete(&edge.location).await?;
            }
        }
        Ok(removed)
    }

    /// Waits until nobody else publishes from this data folder or database.
    pub(crate) async fn publish_alone(&self) -> Result<(File, Option<Work>), PublishError> {
        let file = File::options().create(true).append(true).open(self.folder().join("publish.lock"))?;
        let file = tokio::task::block_in_place(|| file.lock().map(|()| file))?;
        Ok((file, self.database.publish_alone().await?))
    }
}

/// A hash over what going back to an epoch brings back: prompts and experiments, without keys and credentials.
fn prompts_alone(mut registry: Registry) -> Result<String, PublishError> {
    registry.tenants.retain(|tenant| !tenant.prompts.is_empty());
    for tenant in &mut registry.tenants {
        (tenant.keys, tenant.secrets, tenant.contents) = Default::default();
    }
    let prompts = encode(&registry).map_err(|error| PublishError::Encode(error.to_string()))?;
    Ok(ObjectHash::of(&prompts).to_hex())
}

/// An edge that read a manifest has so long to fetch what it names, in microseconds.
const GRACE_MICROSECONDS: i64 = 900_000_000;
/// An edge that is silent for so long is listed no more, in microseconds: 30 days.
const SILENCE_MICROSECONDS: i64 = 30 * 86_400_000_000;
/// What the id of a subject's own document begins with: its mark in hexadecimal and a slash.
const SUBJECT_PREFIX: usize = 33;
/// Snippets that are read at once.
const PAGE: i64 = 1_000;
/// So many neighbouring segments of at most a tier's size become one.
const RUN: usize = 8;
/// Sizes in passages; a segment is joined once in each at most.
const TIERS: [u64; 5] = [256, 4_096, 32_768, 262_144, 2_097_152];

/// The formats that a segment depends on.
fn format() -> String {
    format!("segment/2 {ANALYSER_ID} ")
}

/// Who built a segment, with the model of its vectors; and whether all passages have theirs.
fn maker(model: &Model, is_whole: bool) -> String {
    format!("{}{}{}", format(), model.id, if is_whole { "" } else { " in part" })
}

/// How much of a segment has to be gone for it to be written anew.
#[derive(Clone, Copy, PartialEq)]
enum Gone {
    Third,
    /// What a person had removed leaves the files as well.
    Any,
}

/// Which of the last `most` segments should become one: many small ones.
fn run_to_join(segments: &[SegmentEntry], most: usize) -> Option<Range<usize>> {
    for tier in TIERS {
        let small = segments.iter().rev().take(most).take_while(|segment| segment.passages <= tier).count();
        if small >= RUN {
            return Some(segments.len() - small..segments.len());
        }
    }
    None
}

/// A segment of which too much is gone.
fn hollow(segments: &[SegmentEntry], dead: &[u64], share: Gone) -> Option<Range<usize>> {
    let is_hollow = |segment: &SegmentEntry| {
        let gone = dead.partition_point(|sequence| *sequence <= segment.last)
            - dead.partition_point(|sequence| *sequence < segment.first);
        gone as u64 * 3 >= segment.passages || share == Gone::Any && gone > 0
    };
    segments.iter().position(is_hollow).map(|place| place..place + 1)
}

/// The list of what is gone, as an object; none when nothing is.
async fn put_dead(
    location: &Arc<dyn ObjectStore>,
    dead: &[u64],
    written: &mut u64,
) -> Result<Option<ObjectRef>, PublishError> {
    if dead.is_empty() {
        return Ok(None);
    }
    let bytes = dead.iter().flat_map(|sequence| sequence.to_le_bytes()).collect();
    Ok(Some(put_object(location, bytes, written).await?))
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

pub(crate) async fn read_manifest(location: &Arc<dyn ObjectStore>) -> Result<Option<Vec<u8>>, PublishError> {
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
    let path = object_path(object.hash);
    // Its name is its content: one of that size is there whole, and not every location can refuse to overwrite.
    match location.head(&path).await {
        Ok(found) if found.size == object.bytes => return Ok(object),
        Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    location.put(&path, bytes.into()).await?;
    *written += object.bytes;
    Ok(object)
}

/// Where a manifest is kept that was in force; names sort as epochs do.
pub(crate) fn epoch_path(epoch: u64) -> ObjectPath {
    ObjectPath::from(format!("manifests/{epoch:020}"))
}

pub(crate) fn object_path(hash: ObjectHash) -> ObjectPath {
    ObjectPath::from(format!("objects/{}", hash.to_hex()))
}

pub(crate) fn fixed<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Invalid("an id of the store has another length".to_owned()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(sizes: &[u64]) -> Vec<SegmentEntry> {
        let mut first = 1;
        let entry = |size: &u64| {
            let last = first + size - 1;
            let entry = SegmentEntry {
                id: format!("s{first}"),
                maker: "m".into(),
                passages: *size,
                first,
                last,
                files: Vec::new(),
            };
            first = last + 1;
            entry
        };
        sizes.iter().map(entry).collect()
    }

    #[test]
    fn small_neighbours_are_joined_and_large_ones_stay() {
        let join = |sizes: &[u64], most| run_to_join(&segments(sizes), most);
        assert_eq!(join(&[1_000_000, 60, 60, 60], 4), None);
        let many = [&[1_000_000][..], &[60; 8]].concat();
        assert_eq!(join(&many, 9), Some(1..9));
        assert_eq!(join(&many, 7), None, "the others have vectors of another model");
        assert_eq!(join(&[&[1_000_000][..], &[500; 7], &[3]].concat(), 9), Some(1..9));
        assert_eq!(hollow(&segments(&[30, 30]), &(31..41).collect::<Vec<_>>(), Gone::Third), Some(1..2));
        assert_eq!(hollow(&segments(&[30, 30]), &[31], Gone::Third), None);
        assert_eq!(hollow(&segments(&[30, 30]), &[31], Gone::Any), Some(1..2));
    }
}
