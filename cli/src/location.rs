//! Snapshot locations: a folder by default, a URL otherwise.

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A location that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    #[error("the snapshot location `{0}` is not a `file:///absolute/folder` or `s3://bucket/prefix` URL")]
    Unknown(String),
    #[error("cannot use the folder {0} as a snapshot location")]
    Folder(PathBuf, #[source] std::io::Error),
    #[error(transparent)]
    Store(#[from] object_store::Error),
}

/// Opens `url`, or `objects` in the data folder. S3 is configured as all its clients are: `AWS_ENDPOINT`, `AWS_REGION`,
/// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, or the machine's role; `AWS_ALLOW_HTTP=true` for a server without TLS.
pub fn open(url: Option<&str>, data: &Path) -> Result<Arc<dyn ObjectStore>, LocationError> {
    if let Some(rest) = url.and_then(|url| url.strip_prefix("s3://")) {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(LocationError::Unknown(format!("s3://{rest}")));
        }
        let store = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            // An object's name is the hash of its bytes: writing it twice writes the same.
            .with_conditional_put(S3ConditionalPut::Disabled)
            .with_retry(object_store::RetryConfig {
                max_retries: 2,
                retry_timeout: Duration::from_secs(10),
                ..object_store::RetryConfig::default()
            })
            .build()?;
        return Ok(match prefix.trim_matches('/') {
            "" => Arc::new(store),
            prefix => Arc::new(PrefixStore::new(store, prefix)),
        });
    }
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
