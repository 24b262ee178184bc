//! The edge's own copies of published objects.
//!
//! An object is written to a temporary file, synced, made read-only and renamed to its hash, so that a file with a
//! hash for a name is complete. It is hashed when it is downloaded; at start its size is checked, and `sluice verify`
//! hashes again.

use sluice_segment::{ObjectRef, SegmentEntry};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub fn open(folder: &Path) -> io::Result<Cache> {
        std::fs::create_dir_all(folder.join("objects"))?;
        std::fs::create_dir_all(folder.join("segments"))?;
        Ok(Cache { folder: folder.to_owned() })
    }

    pub fn object(&self, object: &ObjectRef) -> PathBuf {
        self.folder.join("objects").join(object.hash.to_hex())
    }

    /// Whether the object is here in its full size.
    pub fn has(&self, object: &ObjectRef) -> bool {
        std::fs::metadata(self.object(object)).is_ok_and(|found| found.is_file() && found.len() == object.bytes)
    }

    /// Keeps verified bytes.
    pub fn keep(&self, object: &ObjectRef, bytes: &[u8]) -> io::Result<()> {
        let path = self.object(object);
        write_whole(&path, bytes)?;
        let mut permissions = std::fs::metadata(&path)?.permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&path, permissions)
    }

    /// The segment's folder: hard links of its objects under the names that its libraries look for.
    pub fn segment(&self, segment: &SegmentEntry) -> io::Result<PathBuf> {
        let mut identity = String::new();
        for file in &segment.files {
            identity.push_str(&file.name);
            identity.push_str(&file.object.hash.to_hex());
        }
        let name = sluice_segment::ObjectHash::of(identity.as_bytes()).to_hex();
        let folder = self.folder.join("segments").join(name);
        std::fs::create_dir_all(&folder)?;
        for file in &segment.files {
            match std::fs::hard_link(self.object(&file.object), folder.join(&file.name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(folder)
    }

    pub fn manifest(&self) -> Option<Vec<u8>> {
        std::fs::read(self.folder.join("manifest")).ok()
    }

    pub fn keep_manifest(&self, bytes: &[u8]) -> io::Result<()> {
        write_whole(&self.folder.join("manifest"), bytes)
    }

    /// Removes objects and segment folders that `needed` and `folders` do not list. What is mapped stays readable
    /// until it is unmapped.
    pub fn sweep(&self, needed: impl Fn(&str) -> bool, folders: &[PathBuf]) {
        let entries = |name: &str| std::fs::read_dir(self.folder.join(name)).into_iter().flatten().flatten();
        for entry in entries("objects").filter(|entry| !needed(&entry.file_name().to_string_lossy())) {
            let _ = std::fs::remove_file(entry.path());
        }
        for entry in entries("segments").filter(|entry| !folders.contains(&entry.path())) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Writes a file that has its name only once all its bytes are on disk.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.part", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::File::create_new(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
