//! An edge's journal: records in a mapped file, appended without a system call.
//!
//! Bytes in a shared map belong to the kernel once they are written: they outlive the process, however it ends. The
//! file's blocks are written when it is made, so that a full disk is an error then and not a signal later.

use crate::archive::{HEADER, header};
use memmap2::MmapMut;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const KIND: [u8; 4] = *b"JRNL";
const VERSION: u32 = 2;
/// Length and check of a frame, four bytes each.
const FRAME: usize = 8;

/// What happened, as an edge reports it. Members that are empty are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record<'r> {
    #[serde(borrow)]
    Run(Run<'r>),
    #[serde(borrow)]
    Feedback(Feedback<'r>),
    #[serde(borrow)]
    Content(Content<'r>),
}

/// One exchange. Ids are hexadecimal, times microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run<'r> {
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub id: Cow<'r, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub tenant: Cow<'r, str>,
    pub at: i64,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub key: Cow<'r, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub route: Cow<'r, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub provider: Cow<'r, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub model: Cow<'r, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub prompt: Cow<'r, str>,
    pub version: i64,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub environment: Cow<'r, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub experiment: Cow<'r, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub arm: Cow<'r, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub session: Cow<'r, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub subject: Cow<'r, str>,
    pub status: i64,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub error: Cow<'r, str>,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub own_microseconds: i64,
    pub total_microseconds: i64,
}

impl Run<'_> {
    /// Appends the JSON of [`Record::Run`]: every exchange is written so, and this takes a third of what serde does. What
    /// is empty or nothing is left out.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"kind":"run""#);
        let texts = [
            (r#","id":"#, &self.id),
            (r#","tenant":"#, &self.tenant),
            (r#","key":"#, &self.key),
            (r#","route":"#, &self.route),
            (r#","provider":"#, &self.provider),
            (r#","model":"#, &self.model),
            (r#","prompt":"#, &self.prompt),
            (r#","environment":"#, &self.environment),
            (r#","experiment":"#, &self.experiment),
            (r#","arm":"#, &self.arm),
            (r#","session":"#, &self.session),
            (r#","subject":"#, &self.subject),
            (r#","error":"#, &self.error),
        ];
        for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            out.extend_from_slice(name.as_bytes());
            match text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
                true => {
                    out.push(b'"');
                    out.extend_from_slice(text.as_bytes());
                    out.push(b'"');
                }
                false => out.extend_from_slice(serde_json::Value::from(&**text).to_string().as_bytes()),
            }
        }
        let numbers = [
            (r#","at":"#, self.at),
            (r#","version":"#, self.version),
            (r#","status":"#, self.status),
            (r#","input_tokens":"#, self.input_tokens),
            (r#","output_tokens":"#, self.output_tokens),
            (r#","own_microseconds":"#, self.own_microseconds),
            (r#","total_microseconds":"#, self.total_microseconds),
        ];
        let mut digits = itoa::Buffer::new();
        for (name, number) in numbers.into_iter().filter(|(_, number)| *number != 0) {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(digits.format(number).as_bytes());
        }
        out.push(b'}');
    }
}

/// What was said in an exchange, sealed to its tenant's key at the store; see [`crate::Contents`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Content<'r> {
    #[serde(borrow)]
    pub run: Cow<'r, str>,
    #[serde(borrow)]
    pub tenant: Cow<'r, str>,
    pub at: i64,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    pub subject: Cow<'r, str>,
    /// In base64: the JSON of a [`Said`].
    #[serde(borrow)]
    pub sealed: Cow<'r, str>,
}

/// An exchange as the provider knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// The body that it was sent.
    pub request: String,
    /// The body that it answered with; of a stream a JSON object of its texts, by their channels.
    pub answer: String,
    /// Whether either was too long, and ends where there was no more room.
    pub is_cut: bool,
}

/// What somebody says of a run, a session or a subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Feedback<'r> {
    #[serde(borrow)]
    pub tenant: Cow<'r, str>,
    pub at: i64,
    /// `run`, `session` or `subject`.
    #[serde(borrow)]
    pub unit_kind: Cow<'r, str>,
    #[serde(borrow)]
    pub unit: Cow<'r, str>,
    #[serde(borrow)]
    pub metric: Cow<'r, str>,
    #[serde(borrow)]
    pub source: Cow<'r, str>,
    /// A boolean is 0 or 1.
    pub value: Option<f64>,
    #[serde(borrow)]
    pub comment: Cow<'r, str>,
}

/// A file that records are appended to.
pub struct JournalFile {
    map: MmapMut,
    path: PathBuf,
    end: usize,
}

impl JournalFile {
    /// Makes a file of `capacity` bytes, all of them on disk.
    #[allow(unsafe_code)]
    pub fn create(path: &Path, capacity: usize) -> io::Result<JournalFile> {
        let mut file = File::options().read(true).write(true).create_new(true).open(path)?;
        let made = file.write_all(&header(KIND, VERSION)).and_then(|()| {
            // In pieces: fresh memory of a file's size would be zeroed twice and given back, file by file.
            const ZEROES: [u8; 16 << 10] = [0; 16 << 10];
            let pieces = std::iter::repeat_n(ZEROES.len(), capacity / ZEROES.len());
            pieces.chain([capacity % ZEROES.len()]).try_for_each(|length| file.write_all(&ZEROES[..length]))
        });
        if let Err(error) = made {
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        // SAFETY: the file was made here a moment ago, in a folder of this program's own; nothing cuts it, and all its
        // blocks exist, so no access can fail.
        let map = unsafe { MmapMut::map_mut(&file) }?;
        Ok(JournalFile { map, path: path.to_owned(), end: HEADER })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_empty(&self) -> bool {
        self.end == HEADER
    }

    /// Appends a record; `false` when it has no room.
    pub fn append(&mut self, record: &[u8]) -> bool {
        let (start, end) = (self.end + FRAME, self.end + FRAME + record.len());
        // Four zeroes behind the last frame say that it is the last.
        if record.is_empty() || end + 4 > self.map.len() {
            return false;
        }
        self.map[start..end].copy_from_slice(record);
        self.map[self.end + 4..start].copy_from_slice(&check(record));
        // Last: a reader that sees a length sees what it is the length of, or a check that does not fit.
        self.map[self.end..self.end + 4].copy_from_slice(&(record.len() as u32).to_le_bytes());
        self.end = end;
        true
    }
}

/// What tells a record that is whole from one that a killed process left half written: its CRC-32 (IEEE).
fn check(record: &[u8]) -> [u8; 4] {
    crc32fast::hash(record).to_le_bytes()
}

/// The same in files of version 1.
fn first_check(record: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = *blake3::hash(record).as_bytes();
    [a, b, c, d]
}

/// Whether it is a journal's file, of whatever version.
pub fn is_journal(bytes: &[u8]) -> bool {
    bytes.get(..HEADER - 4) == Some(&header(KIND, VERSION)[..HEADER - 4])
}

/// The records of a journal's bytes, up to the first that is not whole, and how many bytes hold them.
pub fn journal_records(bytes: &[u8]) -> (Vec<&[u8]>, usize) {
    let mut records = Vec::new();
    let check = match bytes.get(..HEADER) {
        Some(head) if head == header(KIND, VERSION) => check,
        Some(head) if head == header(KIND, 1) => first_check,
        _ => return (records, 0),
    };
    let mut at = HEADER;
    while let Some([a, b, c, d]) = bytes.get(at..at + 4) {
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let Some(record) = bytes.get(at + FRAME..(at + FRAME).saturating_add(length)).filter(|_| length > 0) else {
            break;
        };
        if bytes[at + 4..at + FRAME] != check(record) {
            break;
        }
        records.push(record);
        at += FRAME + length;
    }
    (records, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_read_and_a_torn_end_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        let mut file = JournalFile::create(&path, 200).unwrap();
        assert!(file.is_empty());
        assert!(file.append(b"one") && file.append(&[7; 100]) && !file.append(&[7; 100]) && file.append(b"x"));
        // Not dropped: as after a kill, nothing was flushed by us.
        let mut bytes = std::fs::read(&path).unwrap();
        let (records, end) = journal_records(&bytes);
        assert_eq!(records, [&b"one"[..], &[7; 100], b"x"]);
        assert_eq!(end, HEADER + 3 * FRAME + 104);
        assert_eq!(journal_records(&bytes[..end]).0.len(), 3);
        bytes[end - 1] = 0;
        assert_eq!(journal_records(&bytes).0.len(), 2);
        assert_eq!(journal_records(&bytes[..end - 1]).0.len(), 2);
        assert_eq!(journal_records(b"else").0.len(), 0);
        assert!(JournalFile::create(&path, 200).is_err());
    }

    #[test]
    fn files_of_the_first_version_are_read() {
        let mut bytes = header(KIND, 1).to_vec();
        for record in [&b"one"[..], b"another"] {
            bytes.extend_from_slice(&(record.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&first_check(record));
            bytes.extend_from_slice(record);
        }
        assert_eq!(journal_records(&bytes), (vec![&b"one"[..], b"another"], bytes.len()));
        bytes[..HEADER].copy_from_slice(&header(KIND, VERSION));
        assert_eq!(journal_records(&bytes).0.len(), 0);
    }

    #[test]
    fn a_run_is_written_as_it_is_read() {
        let odd = "a \"quoted\" \\ \u{1} 中 🦦";
        let run = |text: &'static str, number: i64| Run {
            id: text.into(),
            tenant: text.into(),
            at: number,
            key: text.into(),
            route: text.into(),
            provider: text.into(),
            model: text.into(),
            prompt: text.into(),
            version: number,
            environment: text.into(),
            experiment: text.into(),
            arm: text.into(),
            session: text.into(),
            subject: text.into(),
            status: number,
            error: text.into(),
            input_tokens: number,
            output_tokens: number,
            own_microseconds: number,
            total_microseconds: number,
        };
        for run in [run("plain", 1_764_000_000_000_000), run(odd, -7), run("", 0), run("x", i64::MIN)] {
            let mut written = Vec::new();
            run.write(&mut written);
            assert_eq!(serde_json::from_slice::<Record<'_>>(&written).unwrap(), Record::Run(run));
        }
    }

    #[test]
    fn records_of_later_versions_may_have_more_members() {
        let record: Record = serde_json::from_str(r#"{"kind":"run","id":"a","new":1}"#).unwrap();
        assert_eq!(record, Record::Run(Run { id: "a".into(), ..Run::default() }));
    }
}
