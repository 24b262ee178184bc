//! Records of what happened, on their way from an edge to the store.
//!
//! Appending is a copy into mapped memory. Full files, and those that are a second old while no others wait, are sealed
//! and shipped as objects to the snapshot location, oldest first; a file goes when its object is there. The store takes
//! an object's records once, known by the edge's name and the file's number, so shipping a file twice does no harm. A
//! slow or dead location fills the folder up to its limit; then the oldest file goes, and is counted.

use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parking_lot::Mutex;
use sluice_segment::{JournalFile, is_journal, journal_records};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Bytes of one file; some two thousand records.
const FILE_BYTES: usize = 1 << 20;
/// Longest record, in bytes.
const MAX_RECORD: usize = 512 << 10;
/// A file with records is sealed when it is so old.
const SEAL_AFTER: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(250);
/// Files that are made ahead: what comes before the next one is ready goes into them.
const SPARES: usize = 2;
/// Longest wait after a location that failed.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The journal of one edge.
pub struct Journal {
    folder: PathBuf,
    edge: String,
    max_bytes: u64,
    files: Mutex<Files>,
    /// A file is full.
    wake: Notify,
    /// There is something to ship.
    ready: Notify,
    dropped: AtomicU64,
    _lock: std::fs::File,
}

struct Files {
    active: Option<JournalFile>,
    since: Instant,
    /// Made ahead, so that no request waits for a disk.
    spare: VecDeque<JournalFile>,
    /// Full or old enough, oldest first.
    sealed: VecDeque<PathBuf>,
    /// The one of them that is on its way.
    sending: Option<PathBuf>,
}

impl Journal {
    /// Opens the journal in `folder`; what an earlier process left there is shipped too. `max_bytes` bounds it.
    pub fn open(folder: &Path, max_bytes: u64) -> io::Result<Journal> {
        std::fs::create_dir_all(folder)?;
        // Two processes would ship and remove each other's files. The lock goes with the process.
        let lock = std::fs::File::options().create(true).append(true).open(folder.join("lock"))?;
        lock.try_lock().map_err(|_| io::Error::other("another process keeps its records there"))?;
        let mut sealed: Vec<PathBuf> = std::fs::read_dir(folder)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "journal"))
            .collect();
        sealed.sort();
        let files =
            Files { active: None, since: Instant::now(), spare: VecDeque::new(), sealed: sealed.into(), sending: None };
        let journal = Journal {
            folder: folder.to_owned(),
            edge: edge_name(folder)?,
            max_bytes: max_bytes.max(2 * FILE_BYTES as u64),
            files: Mutex::new(files),
            wake: Notify::new(),
            ready: Notify::new(),
            dropped: AtomicU64::new(0),
            _lock: lock,
        };
        journal.prepare_spares();
        Ok(journal)
    }

    /// The edge's name: random, and kept with its files.
    pub fn edge(&self) -> &str {
        &self.edge
    }

    /// Records that were lost because there was no room for them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Appends a record. It never waits for a disk or a network; without room the record is dropped and counted.
    pub fn append(&self, record: &[u8]) {
        if record.len() > MAX_RECORD {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut files = self.files.lock();
        if files.active.as_mut().is_some_and(|active| active.append(record)) {
            return;
        }
        self.turn(&mut files);
        if !files.active.as_mut().is_some_and(|active| active.append(record)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        drop(files);
        self.wake.notify_one();
    }

    /// Seals the active file and goes on with the spare one.
    fn turn(&self, files: &mut Files) {
        if files.active.as_ref().is_some_and(JournalFile::is_empty) {
            return;
        }
        if let Some(full) = files.active.take() {
            files.sealed.push_back(full.path().to_owned());
        }
        files.active = files.spare.pop_front();
        files.since = Instant::now();
    }

    fn prepare_spares(&self) {
        while self.files.lock().spare.len() < SPARES && self.prepare_spare() {}
    }

    /// Makes one more file; says whether it could.
    fn prepare_spare(&self) -> bool {
        let made = self.create().or_else(|error| {
            // A full disk: the oldest records make room for the newest, once there is no other.
            let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            if is_full && self.files.lock().spare.is_empty() && self.drop_oldest() { self.create() } else { Err(error) }
        });
        let Ok(made) = made else { return false };
        let mut files = self.files.lock();
        files.spare.push_back(made);
        if files.active.is_none() {
            self.turn(&mut files);
        }
        true
    }

    fn create(&self) -> io::Result<JournalFile> {
        // A number is never given twice: it is the time in microseconds.
        let number = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        JournalFile::create(&self.folder.join(format!("{number:020}.journal")), FILE_BYTES)
    }

    fn drop_oldest(&self) -> bool {
        let mut files = self.files.lock();
        // One that is on its way may arrive, and would be counted as lost all the same.
        let place = files.sealed.iter().position(|path| files.sending.as_ref() != Some(path));
        let Some(oldest) = place.and_then(|place| files.sealed.remove(place)) else { return false };
        drop(files);
        let lost = std::fs::read(&oldest).map_or(0, |bytes| journal_records(&bytes).0.len());
        self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
        std::fs::remove_file(&oldest).is_ok()
    }

    /// Ships what is sealed, for as long as it is polled.
    pub async fn ship(&self, location: Arc<dyn ObjectStore>) {
        // Apart from each other: a location that hangs is no reason to run out of files.
        tokio::join!(self.tend(), self.send(&location));
    }

    /// Has files ready, seals what is old enough, and keeps to the limit.
    async fn tend(&self) {
        loop {
            let _ = tokio::time::timeout(POLL, self.wake.notified()).await;
            tokio::task::block_in_place(|| {
                self.prepare_spares();
                {
                    let mut files = self.files.lock();
                    // While others wait, one that is not full only would take their room.
                    let is_due = files.since.elapsed() > SEAL_AFTER && files.sealed.is_empty();
                    if is_due && !files.spare.is_empty() {
                        self.turn(&mut files);
                    }
                }
                self.prepare_spares();
                while self.files.lock().sealed.len() as u64 * FILE_BYTES as u64 > self.max_bytes && self.drop_oldest() {
                }
            });
            if !self.files.lock().sealed.is_empty() {
                self.ready.notify_one();
            }
        }
    }

    async fn send(&self, location: &Arc<dyn ObjectStore>) {
        let mut backoff = POLL;
        loop {
            self.ready.notified().await;
            let shipped = self.ship_sealed(location).await;
            self.files.lock().sending = None;
            match shipped {
                Ok(()) => backoff = POLL,
                Err(error) => {
                    if backoff == POLL {
                        tracing::warn!(%error, "run records cannot be shipped; they are kept and tried again");
                    }
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                    tokio::time::sleep(backoff).await;
                }
            }
        }
    }

    async fn ship_sealed(&self, location: &Arc<dyn ObjectStore>) -> Result<(), object_store::Error> {
        loop {
            let path = {
                let mut files = self.files.lock();
                files.sending = files.sealed.front().cloned();
                let Some(path) = files.sending.clone() else { return Ok(()) };
                path
            };
            let number = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut bytes = match tokio::task::block_in_place(|| std::fs::read(&path)) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                // The records are there; the next look may find them readable.
                Err(source) => return Err(object_store::Error::Generic { store: "journal", source: source.into() }),
            };
            let (records, end) = journal_records(&bytes);
            // What a newer program wrote before this one took its place goes as it is.
            let is_unknown = end == 0 && is_journal(&bytes);
            if !records.is_empty() || is_unknown {
                let object = ObjectPath::from(format!("journal/{}/{number}", self.edge));
                if !is_unknown {
                    bytes.truncate(end);
                }
                location.put(&object, bytes.into()).await?;
            }
            self.files.lock().sealed.retain(|sealed| *sealed != path);
            let _ = std::fs::remove_file(&path);
        }
    }

    /// Says at the location which epoch this edge serves.
    pub async fn report(&self, location: &Arc<dyn ObjectStore>, epoch: u64) -> Result<(), object_store::Error> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        let program = env!("CARGO_PKG_VERSION");
        let text =
            format!("{{\"epoch\":{epoch},\"at\":{at},\"program\":\"{program}\",\"dropped\":{}}}", self.dropped());
        let object = ObjectPath::from(format!("edges/{}", self.edge));
        location.put(&object, text.into_bytes().into()).await.map(|_| ())
    }
}

/// Sixteen random hexadecimal digits, made once for each folder.
fn edge_name(folder: &Path) -> io::Result<String> {
    let path = folder.join("edge");
    if let Ok(name) = std::fs::read_to_string(&path)
        && name.len() == 16
    {
        return Ok(name);
    }
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&path, &name)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    async fn shipped(location: &Arc<dyn ObjectStore>) -> usize {
        use futures::TryStreamExt;
        let objects: Vec<_> = location.list(Some(&ObjectPath::from("journal"))).try_collect().await.unwrap();
        let mut records = 0;
        for object in objects {
            let bytes = location.get(&object.location).await.unwrap().bytes().await.unwrap();
            records += journal_records(&bytes).0.len();
        }
        records
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_record_arrives_once_also_after_an_end_without_notice() {
        let folder = tempfile::tempdir().unwrap();
        let location: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let journal = Journal::open(folder.path(), 64 << 20).unwrap();
        for number in 0..5_000 {
            journal.append(format!("{{\"number\":{number},\"text\":\"{}\"}}", "x".repeat(150)).as_bytes());
        }
        // Dropped without shipping: what a process leaves.
        drop(journal);
        let journal = Arc::new(Journal::open(folder.path(), 64 << 20).unwrap());
        journal.append(b"one more");
        let shipping = tokio::spawn({
            let (journal, location) = (Arc::clone(&journal), Arc::clone(&location));
            async move { journal.ship(location).await }
        });
        let begun = Instant::now();
        while shipped(&location).await + (journal.dropped() as usize) < 5_001 && begun.elapsed().as_secs() < 20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        shipping.abort();
        // One file was made ahead; what came faster than the next one could be made is counted, not lost in silence.
        assert_eq!(shipped(&location).await, 5_001);
        assert_eq!(journal.dropped(), 0);
    }

    #[test]
    fn a_full_journal_drops_the_oldest_and_counts() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), 0).unwrap();
        for _ in 0..4 {
            for _ in 0..2_000 {
                journal.append(&[b'x'; 1_000]);
            }
            journal.prepare_spares();
        }
        let before = journal.dropped();
        assert!(journal.drop_oldest());
        assert!(journal.dropped() > before);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_location_that_hangs_costs_no_record_while_there_is_room() {
        use object_store::throttle::{ThrottleConfig, ThrottledStore};
        let folder = tempfile::tempdir().unwrap();
        let hanging = ThrottleConfig { wait_put_per_call: Duration::from_secs(3_600), ..ThrottleConfig::default() };
        let location: Arc<dyn ObjectStore> = Arc::new(ThrottledStore::new(InMemory::new(), hanging));
        let journal = Arc::new(Journal::open(folder.path(), 64 << 20).unwrap());
        let shipping = tokio::spawn({
            let journal = Arc::clone(&journal);
            async move { journal.ship(location).await }
        });
        for _ in 0..8_000 {
            journal.append(&[b'x'; 1_000]);
            if journal.files.lock().spare.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert_eq!(journal.dropped(), 0);
        assert!(journal.files.lock().sealed.len() >= 7);
        shipping.abort();
    }
}
