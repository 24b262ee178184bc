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
const HEADER: usize = 16;

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
    let mut file = Vec::with_capacity(HEADER + body.len());
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&T::KIND);
    file.extend_from_slice(&T::VERSION.to_le_bytes());
    file.extend_from_slice(&body);
    Ok(file)
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
    #[allow(unsafe_code)]
    pub fn open(path: &Path) -> Result<Mapped<T>, FormatError> {
        let cannot = |source| FormatError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(cannot)?;
        // SAFETY: the file is private to this program and never written after it got its name; see the type's note.
        let map = unsafe { Mmap::map(&file) }.map_err(cannot)?;
        let not_ours =
            || FormatError::NotOurs { path: path.to_owned(), kind: String::from_utf8_lossy(&T::KIND).into_owned() };
        let header = map.get(..HEADER).ok_or_else(not_ours)?;
        if header[..8] != MAGIC || header[8..12] != T::KIND {
            return Err(not_ours());
        }
        let found = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
        if found != T::VERSION {
            return Err(FormatError::Version { path: path.to_owned(), found, known: T::VERSION });
        }
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
    use crate::{Passage, Passages};

    fn write(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn sample() -> Vec<u8> {
        let passage = Passage {
            document: "d".into(),
            ordinal: 0,
            title: "T".into(),
            heading: String::new(),
            text: "text that is long enough not to be inline".into(),
            tokens: 7,
        };
        encode(&Passages { analyser: "a".into(), embedder: "e".into(), dimensions: 2, passages: vec![passage] })
            .unwrap()
    }

    #[test]
    fn an_archive_is_read_in_place() {
        let file = write(&sample());
        let mapped = Mapped::<Passages>::open(file.path()).unwrap();
        assert_eq!(mapped.get().passages[0].text.as_str(), "text that is long enough not to be inline");
    }

    #[test]
    fn what_is_cut_changed_or_of_another_version_is_refused() {
        let good = sample();
        let mut version = good.clone();
        version[12] = 99;
        assert!(matches!(
            Mapped::<Passages>::open(write(&version).path()),
            Err(FormatError::Version { found: 99, .. })
        ));
        assert!(matches!(Mapped::<crate::Registry>::open(write(&good).path()), Err(FormatError::NotOurs { .. })));
        for length in 0..good.len() {
            assert!(Mapped::<Passages>::open(write(&good[..length]).path()).is_err(), "{length}");
        }
    }
}
