//! The texts of a context segment.

use crate::archive::Archived;
use rkyv::{Archive, Serialize};

/// The document table of one segment. A passage's place in it is its number in the segment's other files.
#[derive(Archive, Serialize, Debug, PartialEq)]
pub struct Passages {
    /// How the terms of the lexical index were made.
    pub analyser: String,
    /// Which model the vectors come from.
    pub embedder: String,
    /// Length of the vectors.
    pub dimensions: u32,
    pub passages: Vec<Passage>,
}

/// A chunk of a document, ready to be put into a prompt.
#[derive(Archive, Serialize, Debug, PartialEq, Clone)]
pub struct Passage {
    /// The document's id, as its owner gave it.
    pub document: String,
    /// Which chunk of the document, from 0.
    pub ordinal: u32,
    pub title: String,
    /// Headings above the chunk, joined by ` › `.
    pub heading: String,
    pub text: String,
    /// Tokens of the passage as it stands in a prompt, its delimiters included.
    pub tokens: u32,
}

impl Archived for Passages {
    const KIND: [u8; 4] = *b"PASS";
    const VERSION: u32 = 1;
}
