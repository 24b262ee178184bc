//! Snapshot locations: a folder by default, a URL otherwise.

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A location that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    #[error("the snapshot location `{0}` is not a `file:///absolute/folder` URL")]
    Unknown(String),
    #[error("cannot use the folder {0} as a snapshot location")]
    Folder(PathBuf, #[source] std::io::Error),
    #[error(transparent)]
    Store(#[from] object_store::Error),
}

/// Opens `url`, or `objects` in the data folder.
pub fn open(url: Option<&str>, data: &Path) -> Result<Arc<dyn ObjectStore>, LocationError> {
    let folder = match url {
        None => data.join("objects"),
        Some(url) => match url.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => PathBuf::from(path),
            _ => return Err(LocationError::Unknown(url.to_owned())),
        },
    };
    std::fs::create_dir_all(&folder).map_err(|error| LocationError::Folder(folder.clone(), error))?;
    // Synced: a manifest must never be on disk before what it names.
    Ok(Arc::new(LocalFileSystem::new_with_prefix(&folder)?.with_fsync(true)))
}
