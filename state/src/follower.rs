//! Polls a snapshot location and opens what it finds.

use crate::cache::Cache;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use sluice_index::{Collection, Library, OpenError, Segment};
use sluice_segment::{
    CollectionEntry, Erasure, FormatError, Manifest, ManifestError, Mapped, ObjectHash, ObjectRef, Registry,
    SegmentEntry, VerifyingKey,
};
use sluice_text::{EmbedError, Embedder};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

/// One published state, opened and warm.
pub struct Snapshot {
    pub epoch: u64,
    /// Microseconds since the Unix epoch.
    pub published_at: i64,
    pub registry: Mapped<Registry>,
    pub library: Library,
    /// The program's own model, loaded where something is to be searched or chosen with it.
    pub embedder: Option<&'static Embedder>,
}

/// Why a published state was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error("the snapshot location cannot be read")]
    Location(#[from] object_store::Error),
    #[error("the manifest is refused: {0}")]
    Manifest(#[from] ManifestError),
    #[error("the manifest has epoch {found}, after epoch {known} was seen; a roll-back is published as a new epoch")]
    Epoch { found: u64, known: u64 },
    #[error("object {hash} is refused: its content hashes to {found} ({bytes} bytes)")]
    Hash { hash: ObjectHash, found: ObjectHash, bytes: usize },
    #[error("the edge's cache cannot be written")]
    Cache(#[source] std::io::Error),
    #[error("the registry is refused")]
    Registry(#[from] FormatError),
    #[error("a segment of collection `{collection}` is refused")]
    Segment { collection: String, source: OpenError },
    #[error(transparent)]
    Embedder(#[from] EmbedError),
    #[error("the tenant id `{0}` of the manifest is not one")]
    Tenant(String),
}

/// Follows one location.
pub struct Follower {
    store: Arc<dyn ObjectStore>,
    cache: Cache,
    trusted: Vec<VerifyingKey>,
    /// The manifest that is in force, to see a change.
    seen: Vec<u8>,
    epoch: u64,
    /// Segments that are open already, by id and file hashes.
    open: HashMap<String, Arc<Segment>>,
    /// Erasures that were heeded, and those that still have to be.
    heeded: HashSet<Erasure>,
    waiting: Vec<Erasure>,
    forget: Option<Forget>,
}

/// What forgets subjects, each by its hash and when it was erased, in microseconds since 1970; says whether it has.
type Forget = Box<dyn Fn(&[([u8; 16], i64)]) -> bool + Send + Sync>;

impl Follower {
    /// `cache`: a folder that only this edge uses.
    pub fn new(store: Arc<dyn ObjectStore>, cache: PathBuf, trusted: Vec<VerifyingKey>) -> Result<Follower, SyncError> {
        let cache = Cache::open(&cache).map_err(SyncError::Cache)?;
        // What this edge served before it was started again is the least that it believes, as if it had run on.
        let served = cache.manifest().and_then(|bytes| Manifest::verify(&bytes, &trusted).ok());
        Ok(Follower {
            epoch: served.map_or(0, |manifest| manifest.epoch),
            store,
            cache,
            trusted,
            seen: Vec::new(),
            open: HashMap::new(),
            heeded: HashSet::new(),
            waiting: Vec::new(),
            forget: None,
        })
    }

    /// Believes what these keys signed, from now on.
    pub fn trust(&mut self, trusted: Vec<VerifyingKey>) {
        self.trusted = trusted;
    }

    /// Has `forget` told of every subject that was erased, from now on and of those before, until it has heeded them.
    pub fn on_erasure(&mut self, forget: impl Fn(&[([u8; 16], i64)]) -> bool + Send + Sync + 'static) {
        self.forget = Some(Box::new(forget));
        self.tell_erasures();
    }

    /// Takes over what a manifest says of erasures.
    fn note_erasures(&mut self, erased: &[Erasure]) {
        self.waiting = erased.iter().filter(|erasure| !self.heeded.contains(erasure)).cloned().collect();
        self.tell_erasures();
    }

    fn tell_erasures(&mut self) {
        let Some(forget) = self.forget.as_ref().filter(|_| !self.waiting.is_empty()) else { return };
        let units: Vec<([u8; 16], i64)> =
            self.waiting.iter().filter_map(|erasure| Some((id_of(&erasure.unit)?, erasure.at))).collect();
        if tokio::task::block_in_place(|| forget(&units)) {
            self.heeded.extend(self.waiting.drain(..));
        }
    }

    /// The last state that this edge served, without asking the location; `None` when there is none that holds.
    pub fn last_known(&mut self) -> Option<Snapshot> {
        let bytes = self.cache.manifest()?;
        let manifest = Manifest::verify(&bytes, &self.trusted).ok()?;
        if !manifest.objects().all(|object| self.cache.has(object)) {
            return None;
        }
        self.note_erasures(&manifest.erased);
        let snapshot = self.open_snapshot(&manifest).ok()?;
        self.epoch = manifest.epoch;
        self.seen = bytes;
        Some(snapshot)
    }

    /// The location's state, if it is another than the one in force.
    pub async fn poll(&mut self) -> Result<Option<Snapshot>, SyncError> {
        let bytes = match self.store.get(&ObjectPath::from("manifest")).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if bytes == self.seen {
            self.tell_erasures();
            return Ok(None);
        }
        let manifest = Manifest::verify(&bytes, &self.trusted)?;
        if manifest.epoch < self.epoch {
            return Err(SyncError::Epoch { found: manifest.epoch, known: self.epoch });
        }
        // Before anything is fetched, which may fail.
        self.note_erasures(&manifest.erased);
        for object in manifest.objects() {
            if !self.cache.has(object) {
                self.download(object).await?;
            }
        }
        let snapshot = tokio::task::block_in_place(|| self.open_snapshot(&manifest))?;
        self.cache.keep_manifest(&bytes).map_err(SyncError::Cache)?;
        self.epoch = manifest.epoch;
        self.seen = bytes.to_vec();
        self.sweep(&manifest);
        Ok(Some(snapshot))
    }

    async fn download(&self, object: &ObjectRef) -> Result<(), SyncError> {
        let path = ObjectPath::from(format!("objects/{}", object.hash.to_hex()));
        let bytes = self.store.get(&path).await?.bytes().await?;
        let found = ObjectHash::of(&bytes);
        if found != object.hash || bytes.len() as u64 != object.bytes {
            return Err(SyncError::Hash { hash: object.hash, found, bytes: bytes.len() });
        }
        self.cache.keep(object, &bytes).map_err(SyncError::Cache)
    }

    fn open_snapshot(&mut self, manifest: &Manifest) -> Result<Snapshot, SyncError> {
        let registry = Mapped::<Registry>::open(&self.cache.object(&manifest.registry))?;
        let embedder = match !manifest.collections.is_empty() || registry.get().chooses() {
            true => Some(Embedder::shipped()?),
            false => None,
        };
        let mut library = Library::default();
        let mut open = HashMap::new();
        for collection in &manifest.collections {
            let tenant = id_of(&collection.tenant).ok_or_else(|| SyncError::Tenant(collection.tenant.clone()))?;
            let mut segments = Vec::new();
            for entry in &collection.segments {
                let identity = identity(entry);
                let segment = match self.open.get(&identity) {
                    Some(segment) => Arc::clone(segment),
                    None => {
                        let folder = self.cache.segment(entry).map_err(SyncError::Cache)?;
                        let opened = Segment::open(&folder, &entry.id, Embedder::shipped()?);
                        Arc::new(
                            opened
                                .map_err(|source| SyncError::Segment { collection: collection.name.clone(), source })?,
                        )
                    }
                };
                open.insert(identity, Arc::clone(&segment));
                segments.push(segment);
            }
            let dead = match &collection.dead {
                Some(object) => std::fs::read(self.cache.object(object)).map_err(SyncError::Cache)?,
                None => Vec::new(),
            };
            let dead: Vec<u64> =
                dead.chunks_exact(8).map(|bytes| bytes.try_into().map_or(0, u64::from_le_bytes)).collect();
            library.add(tenant, collection.name.clone(), Collection::new(segments, &dead, version(collection)));
        }
        self.open = open;
        Ok(Snapshot { epoch: manifest.epoch, published_at: manifest.published_at, registry, library, embedder })
    }

    fn sweep(&self, manifest: &Manifest) {
        let needed: HashSet<String> = manifest.objects().map(|object| object.hash.to_hex()).collect();
        let segments = manifest.collections.iter().flat_map(|collection| &collection.segments);
        let folders: Vec<PathBuf> = segments.filter_map(|segment| self.cache.segment(segment).ok()).collect();
        self.cache.sweep(|name| needed.contains(name), &folders);
    }
}

/// A hash of everything that can be found in a collection.
fn version(collection: &CollectionEntry) -> [u8; 32] {
    let segments = collection.segments.iter().map(|segment| segment.id.as_bytes());
    let dead = collection.dead.iter().map(|object| &object.hash.0[..]);
    ObjectHash::of(&segments.chain(dead).collect::<Vec<_>>().join(&b'/')).0
}

fn identity(segment: &SegmentEntry) -> String {
    let files = segment.files.iter().map(|file| file.object.hash.to_hex());
    std::iter::once(segment.id.clone()).chain(files).collect::<Vec<_>>().join("/")
}

/// 16 bytes in hexadecimal.
fn id_of(text: &str) -> Option<[u8; 16]> {
    let bytes = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok());
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}
