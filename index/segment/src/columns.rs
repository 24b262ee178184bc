//! What the payloads of a segment hold, by path and value, for filters.

use crate::archive::Archived;
use rkyv::{Archive, Serialize};

/// Every path of the payloads, in order of path.
#[derive(Archive, Serialize, Debug, Default, PartialEq)]
pub struct Columns {
    pub columns: Vec<Column>,
}

/// The values at one path. An element of an array stands at the array's own path.
#[derive(Archive, Serialize, Debug, Default, PartialEq)]
pub struct Column {
    /// Member names joined by `.`.
    pub path: String,
    /// Strings and booleans as JSON writes them (`"en"`, `true`), in order, with the numbers of their passages.
    pub words: Vec<Word>,
    /// Numbers, in order of value.
    pub numbers: Vec<NumberAt>,
    /// Strings that are RFC 3339 times or dates, as seconds since the Unix epoch, in order.
    pub times: Vec<NumberAt>,
}

#[derive(Archive, Serialize, Debug, PartialEq)]
pub struct Word {
    pub value: String,
    /// Rising.
    pub passages: Vec<u32>,
}

#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq)]
pub struct NumberAt {
    pub value: f64,
    pub passage: u32,
}

impl Archived for Columns {
    const KIND: [u8; 4] = *b"COLS";
    const VERSION: u32 = 1;
}
