//! rkyv archives in files: a 16-byte header, then the archive.

use memmap2::Mmap;
use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Serialize};
use std::fs::File;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// `SLUICE`, then two bytes that transfer in text mode would change.
const MAGIC: [u8; 8] = *b"SLUICE\r\n";
/// Magic, kind, version; also the alignment that rkyv needs behind it.
pub(crate) const HEADER: usize = 16;

/// A type that is written as a file.
pub trait Archived: Archive {
    /// Four letters that name the type.
    const KIND: [u8; 4];
    /// Rises with every change of its layout.
    const VERSION: u32;
}

/// A file that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error("cannot open {path}")]
    Open { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a Sluice file of kind {kind}")]
    NotOurs { path: PathBuf, kind: String },
    #[error("{path} has format version {found}, this program reads {known}; use a program of the publisher's version")]
    Version { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
}

/// The bytes of `value`'s file.
pub fn encode<T>(value: &T) -> Result<Vec<u8>, rancor::Error>
where
    T: Archived + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let body = rkyv::to_bytes::<rancor::Error>(value)?;
    Ok([&header(T::KIND, T::VERSION)[..], &body].concat())
}

/// The first bytes of a file of ours.
pub(crate) fn header(kind: [u8; 4], version: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&kind);
    header[12..].copy_from_slice(&version.to_le_bytes());
    header
}

/// Maps a file and checks its header.
#[allow(unsafe_code)]
pub(crate) fn map(path: &Path, kind: [u8; 4], version: u32) -> Result<Mmap, FormatError> {
    let cannot = |source| FormatError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(cannot)?;
    // SAFETY: the file is private to this program and never written after it got its name; see `Mapped`'s note.
    let map = unsafe { Mmap::map(&file) }.map_err(cannot)?;
    let not_ours = || FormatError::NotOurs { path: path.to_owned(), kind: String::from_utf8_lossy(&kind).into_owned() };
    let head = map.get(..HEADER).ok_or_else(not_ours)?;
    if head[..8] != MAGIC || head[8..12] != kind {
        return Err(not_ours());
    }
    let found = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
    if found != version {
        return Err(FormatError::Version { path: path.to_owned(), found, known: version });
    }
    Ok(map)
}

/// A mapped and checked archive. To have one is the proof that its bytes were validated.
///
/// What can go wrong: a map shows the file as it is now, so a file that another process changes or cuts afterwards
/// breaks the proof, or ends the process with SIGBUS. Edges therefore map only read-only files in a folder of their
/// own, which they wrote themselves, and never a publisher's file.
#[derive(Debug)]
pub struct Mapped<T> {
    map: Mmap,
    _type: PhantomData<fn() -> T>,
}

impl<T> Mapped<T>
where
    T: Archived,
    T::Archived: rkyv::Portable + for<'a> CheckBytes<HighValidator<'a, rancor::Error>>,
{
    /// Maps the file and validates its header and every offset and string in it, once.
    pub fn open(path: &Path) -> Result<Mapped<T>, FormatError> {
        let map = map(path, T::KIND, T::VERSION)?;
        rkyv::access::<T::Archived, rancor::Error>(&map[HEADER..])
            .map_err(|error| FormatError::Damaged { path: path.to_owned(), reason: error.to_string() })?;
        Ok(Mapped { map, _type: PhantomData })
    }

    /// The value, in place.
    #[allow(unsafe_code)]
    pub fn get(&self) -> &T::Archived {
        // SAFETY: `open` validated exactly these bytes as this type, and the map is neither written nor moved.
        unsafe { rkyv::access_unchecked::<T::Archived>(&self.map[HEADER..]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Column, Columns};

    fn write(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn sample() -> Vec<u8> {
        let path = "a path that is long enough not to be inline".to_owned();
        encode(&Columns { columns: vec![Column { path, ..Column::default() }] }).unwrap()
    }

    #[test]
    fn an_archive_is_read_in_place() {
        let file = write(&sample());
        let mapped = Mapped::<Columns>::open(file.path()).unwrap();
        assert_eq!(mapped.get().columns[0].path.as_str(), "a path that is long enough not to be inline");
    }

    #[test]
    fn what_is_cut_changed_or_of_another_version_is_refused() {
        let good = sample();
        let mut version = good.clone();
        version[12] = 99;
        assert!(matches!(Mapped::<Columns>::open(write(&version).path()), Err(FormatError::Version { found: 99, .. })));
        assert!(matches!(Mapped::<crate::Registry>::open(write(&good).path()), Err(FormatError::NotOurs { .. })));
        // A cut archive may end in what looks like an empty one; it is never read beyond its end.
        for length in 0..good.len() {
            if let Ok(mapped) = Mapped::<Columns>::open(write(&good[..length]).path()) {
                assert!(mapped.get().columns.is_empty(), "{length}");
            }
        }
    }
}
