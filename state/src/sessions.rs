//! What sessions keep at this edge between their requests: bytes that only this fleet can open, for a while.
//!
//! Writing puts a sealed row into memory, from where a thread takes all that wait into a database file in one
//! transaction; reading looks into both. So no request waits for a disk, and a restart loses at most what had not been
//! written. Rows go when their time is over, and the first of them to end go earlier when there are too many bytes.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use parking_lot::{Condvar, Mutex};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// Owner and session to when it ends (seconds since 1970, little endian), nonce and sealed bytes.
const ROWS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("session 1");
const NONCE: usize = 12;
const HEAD: usize = 8 + NONCE;
/// Owners that were erased, and when, in microseconds since 1970.
const ERASED: TableDefinition<'_, &[u8; 16], i64> = TableDefinition::new("erased 1");
/// How often what is over is looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// Whose session: keyed hashes of a subject and of the name that its program gave the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId {
    pub owner: [u8; 16],
    pub session: [u8; 16],
}

impl SessionId {
    fn row(&self) -> [u8; 32] {
        let mut row = [0; 32];
        row[..16].copy_from_slice(&self.owner);
        row[16..].copy_from_slice(&self.session);
        row
    }
}

/// Why sessions cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep sessions in {file}")]
pub struct SessionsError {
    file: String,
    source: redb::Error,
}

/// The sessions of one edge.
pub struct Sessions {
    database: Database,
    master: Zeroizing<[u8; 32]>,
    max_bytes: u64,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// How many times owners were erased, and for each erased one the count then (the highest number while it goes on).
    generation: AtomicU64,
    erased: Mutex<HashMap<[u8; 16], u64>>,
    dropped: AtomicU64,
    /// Bytes in the file's rows, at most; what replaced a row is counted twice until the next sweep.
    bytes: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    rows: HashMap<[u8; 32], Arc<[u8]>>,
    bytes: usize,
    /// Whether the writer is to end.
    over: bool,
}

/// Ends the writer when the last user is gone.
pub struct SessionsHandle(Arc<Sessions>, Option<std::thread::JoinHandle<()>>);

impl std::ops::Deref for SessionsHandle {
    type Target = Sessions;

    fn deref(&self) -> &Sessions {
        &self.0
    }
}

impl Drop for SessionsHandle {
    fn drop(&mut self) {
        self.0.waiting.lock().over = true;
        self.0.wake.notify_all();
        if let Some(writer) = self.1.take() {
            let _ = writer.join();
        }
    }
}

impl Sessions {
    /// Opens the file, which one process at a time may have. Rows are sealed with keys that follow from `secret`, which
    /// the edges of a fleet share, and from their owner; `max_bytes` bounds the sealed bytes.
    pub fn open(file: &Path, secret: &[u8; 32], max_bytes: u64) -> Result<SessionsHandle, SessionsError> {
        let open = || -> Result<Database, redb::Error> {
            let database = Database::create(file)?;
            let transaction = database.begin_write()?;
            transaction.open_table(ROWS)?;
            transaction.open_table(ERASED)?;
            transaction.commit()?;
            Ok(database)
        };
        let database = open().map_err(|source| SessionsError { file: file.display().to_string(), source })?;
        let sessions = Arc::new(Sessions {
            database,
            master: Zeroizing::new(blake3::derive_key("sluice 2026-11 sessions of an edge", secret)),
            max_bytes,
            waiting: Mutex::default(),
            wake: Condvar::new(),
            generation: AtomicU64::new(0),
            erased: Mutex::default(),
            dropped: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        if let Err(error) = sessions.sweep(now()) {
            tracing::error!(%error, "sessions that are over cannot be removed");
        }
        let writing = Arc::clone(&sessions);
        let writer = std::thread::Builder::new().name("sessions".to_owned()).spawn(move || writing.write()).ok();
        Ok(SessionsHandle(sessions, writer))
    }

    /// For [`put`](Sessions::put): what is read from now on was not erased before.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What was put for this session last, unless its time is over.
    pub fn get(&self, id: &SessionId) -> Option<Zeroizing<Vec<u8>>> {
        let row = id.row();
        let waiting = self.waiting.lock().rows.get(&row).cloned();
        match waiting {
            Some(sealed) => self.unseal(&row, &sealed),
            None => {
                let table = self.database.begin_read().ok()?.open_table(ROWS).ok()?;
                let sealed = table.get(&row).ok()??;
                self.unseal(&row, sealed.value())
            }
        }
    }

    /// Keeps `bytes` for this session until `lifetime` after now, unless its owner was erased since `generation`: an
    /// exchange that was under way then does not put back what it had read.
    pub fn put(&self, id: &SessionId, lifetime: Duration, bytes: &[u8], generation: u64) {
        let row = id.row();
        let Some(sealed) = self.seal(&row, now() + lifetime.as_secs(), bytes) else { return };
        let mut waiting = self.waiting.lock();
        if self.erased.lock().get(&id.owner).is_some_and(|erased| *erased > generation) {
            return;
        }
        // A disk that does not take anything must not fill the memory.
        if (waiting.bytes + sealed.len()) as u64 > self.max_bytes {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes += sealed.len();
        if let Some(old) = waiting.rows.insert(row, sealed) {
            waiting.bytes -= old.len();
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Forgets all sessions of each owner, once for an erasure: what it keeps later is its own affair. Says whether it
    /// could.
    pub fn erase(&self, owners: &[([u8; 16], i64)]) -> bool {
        let done = self.try_erase(owners);
        if let Err(error) = &done {
            tracing::error!(%error, "the sessions of erased subjects cannot be removed; it is tried again");
        }
        done.is_ok()
    }

    fn try_erase(&self, owners: &[([u8; 16], i64)]) -> Result<(), redb::Error> {
        let known = self.database.begin_read()?.open_table(ERASED)?;
        let mut new = Vec::new();
        for (owner, at) in owners {
            if known.get(owner)?.is_none_or(|known| known.value() < *at) {
                new.push((owner, at));
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(ROWS)?;
            let mut erased = transaction.open_table(ERASED)?;
            for (owner, at) in &new {
                // What waits is looked at again before it is written, so that nothing older comes behind this. Nothing
                // is put for this owner until the rows are gone: it may have been read before they were.
                let mut waiting = self.waiting.lock();
                self.erased.lock().insert(**owner, u64::MAX);
                let gone: Vec<[u8; 32]> = waiting.rows.keys().filter(|row| row[..16] == owner[..]).copied().collect();
                for row in gone {
                    if let Some(sealed) = waiting.rows.remove(&row) {
                        waiting.bytes -= sealed.len();
                    }
                }
                drop(waiting);
                let (mut first, mut last) = ([0; 32], [0xFF; 32]);
                first[..16].copy_from_slice(*owner);
                last[..16].copy_from_slice(*owner);
                table.retain_in::<&[u8; 32], _>(&first..=&last, |_, _| false)?;
                erased.insert(*owner, **at)?;
            }
        }
        transaction.commit()?;
        // Who read before this may have read what is gone now.
        for (owner, _) in new {
            let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
            self.erased.lock().insert(*owner, generation);
        }
        Ok(())
    }

    /// Sessions that were lost because there was no room, or no disk.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn cipher(&self, row: &[u8; 32]) -> Aes256Gcm {
        let key = Zeroizing::new(*blake3::keyed_hash(&self.master, &row[..16]).as_bytes());
        Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key))
    }

    fn seal(&self, row: &[u8; 32], end: u64, bytes: &[u8]) -> Option<Arc<[u8]>> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).ok()?;
        let mut sealed = end.to_le_bytes().to_vec();
        let context = [row.as_slice(), &sealed].concat();
        let payload = Payload { msg: bytes, aad: &context };
        let text = self.cipher(row).encrypt(&Nonce::from(nonce), payload).ok()?;
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&text);
        Some(sealed.into())
    }

    fn unseal(&self, row: &[u8; 32], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (head, text) = sealed.split_at_checked(HEAD)?;
        let (end, nonce) = head.split_at(8);
        if end_of(end) <= now() {
            return None;
        }
        let nonce: [u8; NONCE] = nonce.try_into().ok()?;
        let context = [row.as_slice(), end].concat();
        let payload = Payload { msg: text, aad: &context };
        self.cipher(row).decrypt(&Nonce::from(nonce), payload).ok().map(Zeroizing::new)
    }

    /// The writer: takes what waits into the file, and now and then looks for what is over.
    fn write(&self) {
        let mut swept = Instant::now();
        let mut failing = false;
        loop {
            let rows: Vec<([u8; 32], Arc<[u8]>)> = {
                let mut waiting = self.waiting.lock();
                if waiting.rows.is_empty() {
                    if waiting.over {
                        return;
                    }
                    self.wake.wait_for(&mut waiting, SWEEP);
                }
                waiting.rows.iter().map(|(row, sealed)| (*row, Arc::clone(sealed))).collect()
            };
            if let Err(error) = self.store(&rows) {
                self.dropped.fetch_add(rows.len() as u64, Ordering::Relaxed);
                // Said once for as long as it lasts.
                if !failing {
                    tracing::error!(%error, "sessions cannot be written; they are kept in memory no longer");
                }
                failing = true;
            } else {
                failing = false;
            }
            let mut waiting = self.waiting.lock();
            for (row, sealed) in rows {
                // What came meanwhile waits for the next round.
                if waiting.rows.get(&row).is_some_and(|known| Arc::ptr_eq(known, &sealed)) {
                    waiting.rows.remove(&row);
                    waiting.bytes -= sealed.len();
                }
            }
            drop(waiting);
            if swept.elapsed() >= SWEEP || self.bytes.load(Ordering::Relaxed) > self.max_bytes {
                swept = Instant::now();
                if let Err(error) = self.sweep(now()) {
                    tracing::error!(%error, "sessions that are over cannot be removed");
                }
            }
        }
    }

    fn store(&self, rows: &[([u8; 32], Arc<[u8]>)]) -> Result<(), redb::Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(ROWS)?;
            for (row, sealed) in rows {
                // What was erased while this waited for its turn stays erased.
                let waits = self.waiting.lock().rows.get(row).is_some_and(|known| Arc::ptr_eq(known, sealed));
                if waits {
                    table.insert(row, &**sealed)?;
                }
            }
        }
        transaction.commit()?;
        let bytes: u64 = rows.iter().map(|(_, sealed)| row_bytes(sealed)).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until what waits is written, or `most` is over: before the process ends without dropping anything.
    pub fn flush(&self, most: Duration) {
        let begun = Instant::now();
        self.wake.notify_all();
        while !self.waiting.lock().rows.is_empty() && begun.elapsed() < most {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes what is over at `moment`, and what ends first while there are too many bytes.
    fn sweep(&self, moment: u64) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(ROWS)?;
            let mut rows: Vec<(u64, [u8; 32], u64)> = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                let sealed = value.value();
                rows.push((end_of(sealed), *key.value(), row_bytes(sealed)));
            }
            rows.sort_unstable();
            let mut bytes: u64 = rows.iter().map(|(.., bytes)| bytes).sum();
            for (end, row, size) in rows {
                // Somewhat more than has to go, or every write would look through all rows again.
                if end > moment && bytes <= self.max_bytes / 10 * 9 {
                    break;
                }
                self.dropped.fetch_add(u64::from(end > moment), Ordering::Relaxed);
                table.remove(&row)?;
                bytes -= size;
            }
            self.bytes.store(bytes, Ordering::Relaxed);
        }
        transaction.commit()?;
        Ok(())
    }
}

/// What a row takes: its key and its value.
fn row_bytes(sealed: &[u8]) -> u64 {
    (sealed.len() + 32) as u64
}

fn end_of(sealed: &[u8]) -> u64 {
    sealed.first_chunk().map_or(0, |end| u64::from_le_bytes(*end))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn an_erased_owner_is_forgotten_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions.redb");
        let id = |owner: u8, session: u8| SessionId { owner: [owner; 16], session: [session; 16] };
        let kept = |sessions: &Sessions| [id(1, 1), id(1, 2), id(2, 1)].map(|id| sessions.get(&id).is_some());
        {
            let sessions = Sessions::open(&file, &[7; 32], 1 << 20).unwrap();
            sessions.put(&id(1, 1), HOUR, b"a", sessions.generation());
            sessions.put(&id(2, 1), HOUR, b"b", sessions.generation());
            sessions.flush(Duration::from_secs(5));
            // One of the two still waits, perhaps.
            sessions.put(&id(1, 2), HOUR, b"c", sessions.generation());
            assert_eq!(kept(&sessions), [true, true, true]);
            assert!(sessions.erase(&[([1; 16], 10)]));
            assert_eq!(kept(&sessions), [false, false, true]);
        }
        let sessions = Sessions::open(&file, &[7; 32], 1 << 20).unwrap();
        assert_eq!(kept(&sessions), [false, false, true]);
        // An exchange that was under way puts nothing back, and a later one may.
        let before = sessions.generation();
        assert!(sessions.erase(&[([3; 16], 1)]));
        sessions.put(&id(3, 1), HOUR, b"old", before);
        assert!(sessions.get(&id(3, 1)).is_none());
        sessions.put(&id(3, 1), HOUR, b"new", sessions.generation());
        assert!(sessions.get(&id(3, 1)).is_some());
        // What it keeps later is not the old erasure's affair, but a new one's.
        sessions.put(&id(1, 1), HOUR, b"d", sessions.generation());
        assert!(sessions.erase(&[([1; 16], 10)]));
        assert_eq!(kept(&sessions), [true, false, true]);
        assert!(sessions.erase(&[([1; 16], 11), ([9; 16], 1)]));
        assert_eq!(kept(&sessions), [false, false, true]);
    }

    fn id(owner: u8, session: u8) -> SessionId {
        SessionId { owner: [owner; 16], session: [session; 16] }
    }

    #[test]
    fn exchanges_that_go_on_meanwhile_put_nothing_erased_back() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Sessions::open(&folder.path().join("sessions"), &[7; 32], 1 << 20).unwrap();
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        let generation = sessions.generation();
                        if let Some(bytes) = sessions.get(&id(1, 1)) {
                            sessions.put(&id(1, 1), HOUR, &bytes, generation);
                        }
                    }
                });
            }
            let found = (1..100).find(|at| {
                sessions.put(&id(1, 1), HOUR, b"said", sessions.generation());
                assert!(sessions.get(&id(1, 1)).is_some());
                assert!(sessions.erase(&[([1; 16], *at)]));
                // An exchange that had read it before would put it back within this time.
                (0..3).any(|_| {
                    std::thread::sleep(Duration::from_millis(1));
                    sessions.get(&id(1, 1)).is_some()
                })
            });
            ended.store(true, Ordering::Relaxed);
            assert_eq!(found, None, "it is back after this erasure");
        });
    }

    #[test]
    fn a_session_is_found_by_its_owner_until_its_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sessions");
        let sessions = Sessions::open(&file, &[7; 32], 1 << 20).unwrap();
        assert!(sessions.get(&id(1, 1)).is_none());
        sessions.put(&id(1, 1), HOUR, b"originals", sessions.generation());
        sessions.put(&id(1, 2), Duration::ZERO, b"over at once", sessions.generation());
        assert_eq!(sessions.get(&id(1, 1)).unwrap().as_slice(), b"originals");
        assert!(sessions.get(&id(2, 1)).is_none() && sessions.get(&id(1, 2)).is_none());
        drop(sessions);
        // Closing wrote what waited, and nothing in the file can be read.
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(9).any(|window| window == b"originals"));
        let sessions = Sessions::open(&file, &[7; 32], 1 << 20).unwrap();
        assert_eq!(sessions.get(&id(1, 1)).unwrap().as_slice(), b"originals");
        drop(sessions);
        let other = Sessions::open(&file, &[8; 32], 1 << 20).unwrap();
        assert!(other.get(&id(1, 1)).is_none(), "another fleet's secret opens nothing");
    }

    #[test]
    fn rows_that_change_places_do_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Sessions::open(&folder.path().join("sessions"), &[7; 32], 1 << 20).unwrap();
        let sealed = sessions.seal(&id(1, 1).row(), now() + 60, b"x").unwrap();
        assert!(sessions.unseal(&id(1, 1).row(), &sealed).is_some());
        assert!(sessions.unseal(&id(1, 2).row(), &sealed).is_none());
        let mut later = sealed.to_vec();
        later[0] ^= 1;
        assert!(sessions.unseal(&id(1, 1).row(), &later).is_none(), "nor does one whose end was moved");
    }

    #[test]
    fn what_is_over_goes_and_then_what_ends_first() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Sessions::open(&folder.path().join("sessions"), &[7; 32], 4 << 10).unwrap();
        for session in 1..=20 {
            let lifetime = if session <= 5 { Duration::ZERO } else { HOUR * u32::from(session) };
            sessions.put(&id(1, session), lifetime, &[session; 300], sessions.generation());
            sessions.flush(Duration::from_secs(10));
        }
        sessions.sweep(now()).unwrap();
        let left: Vec<u8> = (1..=20).filter(|session| sessions.get(&id(1, *session)).is_some()).collect();
        assert!(
            left.len() >= 8 && left.ends_with(&[19, 20]) && left == (left[0]..=20).collect::<Vec<u8>>(),
            "{left:?}"
        );
        // What had to go before its end is counted, and more than may wait is not taken at all.
        assert_eq!(sessions.dropped(), 15 - left.len() as u64);
        sessions.put(&id(9, 9), HOUR, &[0; 5 << 10], sessions.generation());
        assert_eq!((sessions.dropped(), sessions.get(&id(9, 9)).is_none()), (16 - left.len() as u64, true));
    }
}
