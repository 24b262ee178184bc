//! The data folder's secrets: the publisher's signing key and the pepper of key hashes.

use sluice_segment::{SigningKey, VerifyingKey};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A secret file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read or make {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} does not hold 64 hexadecimal digits")]
    Malformed(PathBuf),
    #[error("{0} can be read by others; run `chmod 600` on it")]
    Exposed(PathBuf),
    #[error("{0} is missing; copy it from the store's data folder, as it keys the hashes of API keys")]
    NoPepper(PathBuf),
    #[error("no randomness from the operating system: {0}")]
    Random(getrandom::Error),
}

/// The secrets of a publisher's data folder.
pub struct Identity {
    pub signing_key: SigningKey,
    /// Keys the BLAKE3 of API keys, so that a stolen snapshot does not let anyone test guesses.
    pub pepper: [u8; 32],
    /// What the store's HTTP API asks for, as 64 hexadecimal digits.
    pub operator_token: [u8; 32],
}

impl Identity {
    /// Reads the folder's secrets; the first run makes them.
    pub fn open(folder: &Path) -> Result<Identity, IdentityError> {
        let signing_key = SigningKey::from_bytes(&secret(&folder.join("publisher.key"))?);
        let public = folder.join("publisher.pub");
        if !public.exists() {
            let text = hex::encode(signing_key.verifying_key().as_bytes());
            std::fs::write(&public, text).map_err(|source| IdentityError::Io { path: public, source })?;
        }
        Ok(Identity {
            signing_key,
            pepper: secret(&folder.join("pepper"))?,
            operator_token: secret(&folder.join("operator.token"))?,
        })
    }
}

/// The pepper of `folder`. It is not made here: an edge with a pepper of its own would know no key.
pub fn read_pepper(folder: &Path) -> Result<[u8; 32], IdentityError> {
    let path = folder.join("pepper");
    if path.exists() { secret(&path) } else { Err(IdentityError::NoPepper(path)) }
}

/// The public key that `folder`'s publisher signs with.
pub fn read_publisher_key(folder: &Path) -> Result<VerifyingKey, IdentityError> {
    let path = folder.join("publisher.pub");
    let bytes = read_hex(&path)?;
    VerifyingKey::from_bytes(&bytes).map_err(|_| IdentityError::Malformed(path))
}

fn secret(path: &Path) -> Result<[u8; 32], IdentityError> {
    let failed = |source| IdentityError::Io { path: path.to_owned(), source };
    if !path.exists() {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(IdentityError::Random)?;
        // Written aside and linked into place: of two first runs one wins, and no reader sees half a secret.
        let temporary = path.with_extension(format!("{}.part", std::process::id()));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(failed)?;
        file.write_all(hex::encode(bytes).as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        let linked = std::fs::hard_link(&temporary, path);
        let _ = std::fs::remove_file(&temporary);
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
    }
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed(path.to_owned()));
    }
    read_hex(path)
}

fn read_hex(path: &Path) -> Result<[u8; 32], IdentityError> {
    let text = std::fs::read_to_string(path).map_err(|source| IdentityError::Io { path: path.to_owned(), source })?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim(), &mut bytes).map_err(|_| IdentityError::Malformed(path.to_owned()))?;
    Ok(bytes)
}
