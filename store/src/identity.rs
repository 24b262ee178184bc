//! The data folder's secrets: the publisher's signing key and the pepper of key hashes.

use sluice_segment::{SigningKey, VerifyingKey};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    #[error("`{0}` holds one key: put the new key before the old one there, separated by a comma, then rotate")]
    NoNewKey(&'static str),
    #[error("no randomness from the operating system: {0}")]
    Random(getrandom::Error),
}

/// The secrets of a publisher's data folder.
pub struct Identity {
    pub signing_key: SigningKey,
    /// The public keys that `publisher.pub` lists: its own, one that is prepared, and those that it signed with before.
    pub trusted: Vec<VerifyingKey>,
    /// Keys the BLAKE3 of API keys, so that a stolen snapshot does not let anyone test guesses.
    pub pepper: [u8; 32],
    /// What the store's HTTP API asks for, as 64 hexadecimal digits.
    pub operator_token: [u8; 32],
    /// Opens the secrets of snapshots; every edge of the fleet has it.
    pub fleet_key: [u8; 32],
}

/// The keys that the store's secrets are sealed with: the current one first, then older ones.
pub struct StoreKeys {
    keys: Vec<(String, [u8; 32])>,
}

/// How long the command in `SLUICE_STORE_KEY_COMMAND` may take: `SLUICE_STORE_KEY_COMMAND_SECONDS`, or 30 seconds.
fn command_patience() -> Duration {
    let said = std::env::var("SLUICE_STORE_KEY_COMMAND_SECONDS").ok().and_then(|said| said.parse().ok());
    Duration::from_secs(said.filter(|seconds| *seconds > 0).unwrap_or(30))
}

/// What a shell's `command` prints.
fn run(command: &str, patience: Duration) -> io::Result<Vec<u8>> {
    const LOOK: Duration = Duration::from_millis(10);
    /// Far more than some keys.
    const MOST: u64 = 64 << 10;
    // A group of its own, so that what the shell has started can be ended with it.
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = shell.spawn()?;
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        output.map_or(Ok(0), |output| output.take(MOST).read_to_end(&mut said)).map(|_| said)
    });
    let until = Instant::now() + patience;
    while !reader.is_finished() || child.try_wait()?.is_none() {
        if Instant::now() >= until {
            let ended =
                Command::new("kill").args(["-9", "--", &format!("-{}", child.id())]).stderr(Stdio::null()).status();
            if !ended.is_ok_and(|status| status.success()) {
                child.kill()?;
            }
            child.wait()?;
            let seconds = patience.as_secs();
            return Err(io::Error::other(format!(
                "the command has not ended after {seconds} s; SLUICE_STORE_KEY_COMMAND_SECONDS says how long it may take"
            )));
        }
        std::thread::sleep(LOOK);
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!("the command ended with {status}")));
    }
    reader.join().unwrap_or_else(|_| Err(io::Error::other("what it printed could not be read")))
}

impl StoreKeys {
    /// From `SLUICE_STORE_KEY` (keys as 64 hexadecimal digits, comma-separated), from what the command in
    /// `SLUICE_STORE_KEY_COMMAND` prints within `SLUICE_STORE_KEY_COMMAND_SECONDS`, or from `store.key` in the data folder,
    /// which the first use makes.
    pub fn open(folder: &Path) -> Result<StoreKeys, IdentityError> {
        if let Ok(keys) = std::env::var("SLUICE_STORE_KEY") {
            return StoreKeys::read(&keys, Path::new("SLUICE_STORE_KEY"));
        }
        if let Ok(command) = std::env::var("SLUICE_STORE_KEY_COMMAND") {
            let place = Path::new("SLUICE_STORE_KEY_COMMAND");
            let failed = |source| IdentityError::Io { path: place.to_owned(), source };
            let said = run(&command, command_patience()).map_err(failed)?;
            return StoreKeys::read(&String::from_utf8_lossy(&said), place);
        }
        let path = folder.join("store.key");
        if !path.exists() {
            secret(&path)?;
        }
        must_be_private(&path)?;
        let text = std::fs::read_to_string(&path).map_err(|source| IdentityError::Io { path: path.clone(), source })?;
        StoreKeys::read(&text, &path)
    }

    fn read(text: &str, path: &Path) -> Result<StoreKeys, IdentityError> {
        let malformed = || IdentityError::Malformed(path.to_owned());
        let mut keys = Vec::new();
        for word in text.split([',', '\n', ' ']).map(str::trim).filter(|word| !word.is_empty()) {
            let mut key = [0; 32];
            hex::decode_to_slice(word, &mut key).map_err(|_| malformed())?;
            // A hash of a random key tells nothing of it.
            let id = blake3::derive_key("sluice 2026-11 id of a store key", &key);
            keys.push((hex::encode(&id[..4]), key));
        }
        if keys.is_empty() { Err(malformed()) } else { Ok(StoreKeys { keys }) }
    }

    /// A new key before those in the data folder's file.
    pub(crate) fn add(folder: &Path) -> Result<StoreKeys, IdentityError> {
        let mut keys = StoreKeys::open(folder)?;
        if let Some(name) = elsewhere() {
            // Whoever keeps keys elsewhere has put the new one first there.
            if keys.keys.len() > 1 {
                return Ok(keys);
            }
            return Err(IdentityError::NoNewKey(name));
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(IdentityError::Random)?;
        let mut text = hex::encode(key);
        for (_, old) in &keys.keys {
            text.push('\n');
            text.push_str(&hex::encode(old));
        }
        replace(&folder.join("store.key"), &text, PRIVATE)?;
        keys = StoreKeys::read(&text, &folder.join("store.key"))?;
        Ok(keys)
    }

    /// Forgets old keys of the data folder's file.
    pub(crate) fn keep_current(folder: &Path) -> Result<(), IdentityError> {
        let path = folder.join("store.key");
        if elsewhere().is_some() || !path.exists() {
            return Ok(());
        }
        let keys = StoreKeys::open(folder)?;
        replace(&path, &hex::encode(keys.current().1), PRIVATE)
    }

    /// The key that new secrets are sealed with, and its id.
    pub(crate) fn current(&self) -> (&str, &[u8; 32]) {
        (&self.keys[0].0, &self.keys[0].1)
    }

    pub(crate) fn of_id(&self, id: &str) -> Option<&[u8; 32]> {
        self.keys.iter().find(|(known, _)| known == id).map(|(_, key)| key)
    }
}

impl Identity {
    /// Reads the folder's secrets; the first run makes them.
    pub fn open(folder: &Path) -> Result<Identity, IdentityError> {
        let signing_key = SigningKey::from_bytes(&secret(&folder.join("publisher.key"))?);
        let mut trusted = match folder.join(PUBLIC).exists() {
            true => read_publisher_keys(folder)?,
            false => Vec::new(),
        };
        let own = signing_key.verifying_key();
        if !trusted.contains(&own) {
            trusted.insert(0, own);
            write_publisher_keys(folder, &trusted)?;
        }
        Ok(Identity {
            signing_key,
            trusted,
            pepper: secret(&folder.join("pepper"))?,
            operator_token: secret(&folder.join("operator.token"))?,
            fleet_key: secret(&folder.join("fleet.key"))?,
        })
    }
}

/// The pepper of `folder`. It is not made here: an edge with a pepper of its own would know no key.
pub fn read_pepper(folder: &Path) -> Result<[u8; 32], IdentityError> {
    let path = folder.join("pepper");
    if path.exists() { secret(&path) } else { Err(IdentityError::NoPepper(path)) }
}

/// What opens the secrets of snapshots, if `folder` has it. An edge without it serves what needs none.
pub fn read_fleet_key(folder: &Path) -> Result<Option<[u8; 32]>, IdentityError> {
    let path = folder.join("fleet.key");
    if path.exists() { secret(&path).map(Some) } else { Ok(None) }
}

/// Where the public keys of a folder's publisher are, one a line.
const PUBLIC: &str = "publisher.pub";
/// Where the key is that will be signed with after the next rotation.
const NEXT: &str = "publisher.next";

/// The public keys of `folder`'s publisher: the one that it signs with, one that is prepared, and earlier ones.
pub fn read_publisher_keys(folder: &Path) -> Result<Vec<VerifyingKey>, IdentityError> {
    let path = folder.join(PUBLIC);
    let text = std::fs::read_to_string(&path).map_err(|source| IdentityError::Io { path: path.clone(), source })?;
    let key = |line: &str| {
        let mut bytes = [0; 32];
        hex::decode_to_slice(line.trim(), &mut bytes).ok()?;
        VerifyingKey::from_bytes(&bytes).ok()
    };
    let keys: Option<Vec<VerifyingKey>> = text.lines().filter(|line| !line.trim().is_empty()).map(key).collect();
    keys.filter(|keys| !keys.is_empty()).ok_or(IdentityError::Malformed(path))
}

fn write_publisher_keys(folder: &Path, keys: &[VerifyingKey]) -> Result<(), IdentityError> {
    let lines: String = keys.iter().map(|key| hex::encode(key.as_bytes()) + "\n").collect();
    replace(&folder.join(PUBLIC), &lines, 0o644)
}

/// Makes the key that the publisher of `folder` will sign with after [`rotate_publisher`]; the one that is prepared
/// already, where there is one. Edges have to trust it before.
pub fn prepare_publisher(folder: &Path) -> Result<VerifyingKey, IdentityError> {
    let mut keys = Identity::open(folder)?.trusted;
    let next = SigningKey::from_bytes(&secret(&folder.join(NEXT))?).verifying_key();
    if !keys.contains(&next) {
        keys.push(next);
        write_publisher_keys(folder, &keys)?;
    }
    Ok(next)
}

/// Has the publisher of `folder` sign with the key that was prepared. What it signed before stays trusted until
/// [`forget_publisher`].
pub fn rotate_publisher(folder: &Path) -> Result<VerifyingKey, IdentityError> {
    let next = folder.join(NEXT);
    if !next.exists() {
        let source =
            io::Error::other("no key is prepared; run `sluice publisher prepare`, and have every edge trust it");
        return Err(IdentityError::Io { path: next, source });
    }
    // Listed before it is in use, should this be cut short.
    prepare_publisher(folder)?;
    let path = folder.join("publisher.key");
    std::fs::rename(&next, &path)
        .and_then(|()| sync_folder(&path))
        .map_err(|source| IdentityError::Io { path, source })?;
    Ok(Identity::open(folder)?.signing_key.verifying_key())
}

/// Trusts an earlier key no longer, given in hexadecimal.
pub fn forget_publisher(folder: &Path, key: &str) -> Result<(), IdentityError> {
    let identity = Identity::open(folder)?;
    let path = folder.join(PUBLIC);
    let refused = |reason: &str| IdentityError::Io { path: path.clone(), source: io::Error::other(reason.to_owned()) };
    let named = |known: &VerifyingKey| hex::encode(known.as_bytes()) == key.trim();
    if named(&identity.signing_key.verifying_key()) {
        return Err(refused("it is the key that is signed with"));
    }
    if !identity.trusted.iter().any(named) {
        return Err(refused("it lists no such key"));
    }
    let next = folder.join(NEXT);
    if next.exists() && named(&SigningKey::from_bytes(&secret(&next)?).verifying_key()) {
        std::fs::remove_file(&next).map_err(|source| IdentityError::Io { path: next, source })?;
    }
    let kept: Vec<VerifyingKey> = identity.trusted.iter().filter(|known| !named(known)).copied().collect();
    write_publisher_keys(folder, &kept)
}

fn secret(path: &Path) -> Result<[u8; 32], IdentityError> {
    let failed = |source| IdentityError::Io { path: path.to_owned(), source };
    if !path.exists() {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(IdentityError::Random)?;
        // Written aside and linked into place: of two first runs one wins, and no reader sees half a secret.
        let temporary = part(path);
        write(&temporary, &hex::encode(bytes), PRIVATE).map_err(failed)?;
        let linked = std::fs::hard_link(&temporary, path);
        let _ = std::fs::remove_file(&temporary);
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => sync_folder(path).map_err(failed)?,
        }
    }
    must_be_private(path)?;
    read_hex(path)
}

fn must_be_private(path: &Path) -> Result<(), IdentityError> {
    let metadata = std::fs::metadata(path).map_err(|source| IdentityError::Io { path: path.to_owned(), source })?;
    match metadata.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => Err(IdentityError::Exposed(path.to_owned())),
    }
}

fn part(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.part", std::process::id()))
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Replaces a file at once.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), IdentityError> {
    let temporary = part(path);
    let replaced = write(&temporary, text, mode).and_then(|()| std::fs::rename(&temporary, path));
    replaced.and_then(|()| sync_folder(path)).map_err(|source| IdentityError::Io { path: path.to_owned(), source })
}

/// What only the owner may read.
const PRIVATE: u32 = 0o600;

/// A name is on disk once its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// The variable that says where store keys are, if they are not in the data folder.
fn elsewhere() -> Option<&'static str> {
    ["SLUICE_STORE_KEY", "SLUICE_STORE_KEY_COMMAND"].into_iter().find(|name| std::env::var(name).is_ok())
}

fn read_hex(path: &Path) -> Result<[u8; 32], IdentityError> {
    let text = std::fs::read_to_string(path).map_err(|source| IdentityError::Io { path: path.to_owned(), source })?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim(), &mut bytes).map_err(|_| IdentityError::Malformed(path.to_owned()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_says_its_output_or_why_there_is_none() {
        let patience = Duration::from_secs(20);
        assert_eq!(run("echo one; echo two", patience).unwrap(), b"one\ntwo\n");
        assert!(run("echo key; exit 3", patience).unwrap_err().to_string().contains("exit status: 3"));
        let begun = Instant::now();
        let slow = run("sleep 30 & sleep 30", Duration::from_millis(100)).unwrap_err().to_string();
        assert!(slow.contains("SLUICE_STORE_KEY_COMMAND_SECONDS"), "{slow}");
        assert!(begun.elapsed() < patience);
    }
}
