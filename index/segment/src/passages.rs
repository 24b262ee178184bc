//! The texts of a context segment, in one file that is read in place.
//!
//! The file has tens of bytes of tables a passage and is looked at only where a passage is asked for: opening it costs
//! the same whatever it holds. Every place in it is checked when it is read, so a damaged file gives no passage instead
//! of a wrong one. `docs/formats.md` draws it.

use crate::archive::{self, FormatError};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

const KIND: [u8; 4] = *b"PASS";
const VERSION: u32 = 2;
/// Ends a file that was written whole.
const END: [u8; 8] = *b"PASS\nEND";
/// Places of the tables and of the description, then [`END`].
const TRAILER: usize = 24;
/// Numbers before the texts of a passage: tokens, ordinal, and the lengths of five texts.
const RECORD: usize = 7 * 4;

/// What a segment was built with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// How the terms of the lexical index were made.
    pub analyser: String,
    /// Which model the vectors come from.
    pub embedder: String,
    /// Length of the vectors.
    pub dimensions: u32,
    /// How many passages there are.
    pub passages: u32,
}

/// A chunk of a document, ready to be put into a prompt. Its place in the file is its number in the segment's other
/// files.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Passage<'t> {
    /// Its number in the store, which no other passage ever has; rises within a segment.
    pub sequence: u64,
    /// Similar texts have prints that differ in few bits (SimHash; Charikar, STOC 2002).
    pub print: u64,
    /// The document's id, as its owner gave it.
    pub document: &'t str,
    /// Which chunk of the document, from 0.
    pub ordinal: u32,
    pub title: &'t str,
    /// Headings above the chunk, joined by ` › `.
    pub heading: &'t str,
    pub text: &'t str,
    /// The document's payload, a JSON object as text; empty without one.
    pub payload: &'t str,
    /// Tokens of the passage as it stands in a prompt, its delimiters included.
    pub tokens: u32,
}

/// Writes passages one by one.
pub struct PassageWriter {
    file: BufWriter<File>,
    at: u64,
    sequences: Vec<u64>,
    prints: Vec<u64>,
    offsets: Vec<u64>,
}

impl PassageWriter {
    pub fn create(path: &Path) -> io::Result<PassageWriter> {
        let mut file = BufWriter::new(File::create_new(path)?);
        file.write_all(&archive::header(KIND, VERSION))?;
        let at = archive::HEADER as u64;
        Ok(PassageWriter { file, at, sequences: Vec::new(), prints: Vec::new(), offsets: Vec::new() })
    }

    /// Appends a passage; its sequence number must be above the last one's.
    pub fn push(&mut self, passage: &Passage<'_>) -> io::Result<()> {
        let texts = [passage.document, passage.title, passage.heading, passage.text, passage.payload];
        self.sequences.push(passage.sequence);
        self.prints.push(passage.print);
        self.offsets.push(self.at);
        let mut numbers = [passage.tokens, passage.ordinal, 0, 0, 0, 0, 0];
        for (number, text) in numbers[2..].iter_mut().zip(texts) {
            *number = u32::try_from(text.len()).map_err(io::Error::other)?;
        }
        for number in numbers {
            self.file.write_all(&number.to_le_bytes())?;
        }
        for text in texts {
            self.file.write_all(text.as_bytes())?;
        }
        self.at += (RECORD + texts.iter().map(|text| text.len()).sum::<usize>()) as u64;
        Ok(())
    }

    /// Writes the tables and the end.
    pub fn finish(mut self, analyser: &str, embedder: &str, dimensions: usize) -> io::Result<()> {
        let tables = self.at;
        self.offsets.push(tables);
        for number in self.offsets.iter().chain(&self.sequences).chain(&self.prints) {
            self.file.write_all(&number.to_le_bytes())?;
        }
        let description = tables + 8 * (self.offsets.len() + 2 * self.sequences.len()) as u64;
        let about = About {
            analyser: analyser.to_owned(),
            embedder: embedder.to_owned(),
            dimensions: dimensions as u32,
            passages: u32::try_from(self.sequences.len()).map_err(io::Error::other)?,
        };
        self.file.write_all(&serde_json::to_vec(&about)?)?;
        self.file.write_all(&tables.to_le_bytes())?;
        self.file.write_all(&description.to_le_bytes())?;
        self.file.write_all(&END)?;
        self.file.into_inner().map_err(|error| error.into_error())?.sync_all()
    }
}

/// The mapped file.
#[derive(Debug)]
pub struct PassageTable {
    map: Mmap,
    about: About,
    count: usize,
    tables: usize,
}

impl PassageTable {
    pub fn open(path: &Path) -> Result<PassageTable, FormatError> {
        let map = archive::map(path, KIND, VERSION)?;
        let damaged = |reason: &str| FormatError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
        let trailer =
            map.len().checked_sub(TRAILER).filter(|at| *at >= archive::HEADER).ok_or_else(|| damaged("cut"))?;
        if map[trailer + 16..] != END {
            return Err(damaged("its end is missing"));
        }
        let number = |at: usize| u64_at(&map, at).and_then(|number| usize::try_from(number).ok());
        let places = number(trailer).zip(number(trailer + 8));
        let (tables, description) = places.ok_or_else(|| damaged("its trailer is no trailer"))?;
        let about = map.get(description..trailer).ok_or_else(|| damaged("its description lies outside"))?;
        let about: About = serde_json::from_slice(about).map_err(|error| damaged(&error.to_string()))?;
        let count = about.passages as usize;
        if tables < archive::HEADER || tables.checked_add(8 * (3 * count + 1)) != Some(description) {
            return Err(damaged("its tables have another length than its passages"));
        }
        Ok(PassageTable { map, about, count, tables })
    }

    pub fn about(&self) -> &About {
        &self.about
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn table(&self, which: usize, number: usize) -> Option<u64> {
        // Offsets, one more than passages; sequence numbers; prints.
        let before = [0, self.count + 1, 2 * self.count + 1][which];
        u64_at(&self.map, self.tables + 8 * (before + number))
    }

    pub fn get(&self, number: u32) -> Option<Passage<'_>> {
        let number = number as usize;
        if number >= self.count {
            return None;
        }
        let end = usize::try_from(self.table(0, number + 1)?).ok()?.min(self.tables);
        let mut record = self.map.get(usize::try_from(self.table(0, number)?).ok()?..end)?;
        let mut take = |length: usize| {
            let (taken, rest) = record.split_at_checked(length)?;
            record = rest;
            Some(taken)
        };
        let numbers = take(RECORD)?;
        let of = |place: usize| u32::from_le_bytes(numbers[4 * place..4 * place + 4].try_into().unwrap_or_default());
        let mut text = |place: usize| std::str::from_utf8(take(of(place) as usize)?).ok();
        Some(Passage {
            document: text(2)?,
            title: text(3)?,
            heading: text(4)?,
            text: text(5)?,
            payload: text(6)?,
            tokens: of(0),
            ordinal: of(1),
            sequence: self.table(1, number)?,
            print: self.table(2, number)?,
        })
    }

    /// Tokens and print of a passage, without a look at its texts.
    pub fn measures(&self, number: u32) -> Option<(u32, u64)> {
        let number = number as usize;
        if number >= self.count {
            return None;
        }
        let at = usize::try_from(self.table(0, number)?).ok()?;
        let tokens = self.map.get(at..at.checked_add(4)?)?;
        Some((u32::from_le_bytes(tokens.try_into().ok()?), self.table(2, number)?))
    }

    /// The number of the passage with that sequence number.
    pub fn number_of(&self, sequence: u64) -> Option<u32> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = (low + high) / 2;
            match self.table(1, middle)?.cmp(&sequence) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle as u32),
            }
        }
        None
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("passages");
        let mut writer = PassageWriter::create(&path).unwrap();
        for number in 0..5u64 {
            let text = "é".repeat(number as usize);
            writer.push(&sample(number, &text)).unwrap();
        }
        writer.finish("a", "e", 2).unwrap();
        path
    }

    fn sample(number: u64, text: &str) -> Passage<'_> {
        Passage {
            sequence: 10 + 3 * number,
            print: number,
            document: "d",
            ordinal: number as u32,
            title: "T",
            heading: "",
            text,
            payload: "{}",
            tokens: 7,
        }
    }

    #[test]
    fn passages_are_read_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let table = PassageTable::open(&write(folder.path())).unwrap();
        assert_eq!(table.len(), 5);
        for number in 0..5u64 {
            let text = "é".repeat(number as usize);
            assert_eq!(table.get(number as u32), Some(sample(number, &text)));
            assert_eq!(table.measures(number as u32), Some((7, number)));
            assert_eq!(table.number_of(10 + 3 * number), Some(number as u32));
            assert_eq!(table.number_of(11 + 3 * number), None);
        }
        assert_eq!(table.get(5), None);
    }

    #[test]
    fn what_is_cut_is_refused_and_what_is_changed_is_never_read_out_of_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path());
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(PassageTable::open(&path).is_err(), "{at}");
            let mut changed = good.clone();
            changed[at] ^= 0xff;
            std::fs::write(&path, &changed).unwrap();
            if let Ok(table) = PassageTable::open(&path) {
                for number in 0..6 {
                    let _ = (table.get(number), table.measures(number));
                    let _ = table.number_of(u64::from(number) + 10);
                }
            }
        }
    }
}
