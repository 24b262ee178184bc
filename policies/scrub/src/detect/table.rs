//! Columns that are named once, in the head of their table: CSV and Markdown.

use super::context::{self, Topic};
use super::secret;
use memchr::memmem::Finder;
use std::ops::Range;
use std::sync::LazyLock;

/// Farthest that a head is looked for, in bytes.
const REACH: usize = 16 << 10;
/// Most columns that are told apart.
const MAX_COLUMNS: usize = 32;

/// The table that was looked at last, so that each table's head is read once.
#[derive(Default)]
pub struct Tables {
    /// The lines that share a head, and what its columns speak of.
    block: Range<usize>,
    separator: u8,
    topics: Vec<Option<Topic>>,
    /// Where statements that name their columns have their values: the last before what was asked for, and the next.
    values: Values,
    /// The last statement that was read: where its values begin, and what its columns speak of.
    statement: (usize, Vec<Option<Topic>>),
}

/// The word `VALUES` in a text, looked for once and forwards: questions come in the order of the text.
#[derive(Default)]
struct Values {
    last: Option<usize>,
    next: Option<usize>,
    begun: bool,
}

impl Values {
    /// The last one that ends before `at`.
    fn before(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let find = |from: usize| bytes.get(from..).and_then(|rest| STATEMENTS.find(rest)).map(|place| from + place);
        if !self.begun {
            (self.begun, self.next) = (true, find(0));
        }
        while let Some(next) = self.next.filter(|next| next + VALUES.len() <= at) {
            self.last = Some(next);
            self.next = find(next + VALUES.len());
        }
        // A question about what stands before the last one comes rarely, and has no statement near then.
        self.last.filter(|last| last + VALUES.len() <= at)
    }
}

/// Farthest that the columns of a statement are looked for, in bytes.
const STATEMENT: usize = 2_048;
/// What parts the columns of a statement from its values.
const VALUES: &[u8] = b"VALUES";
static STATEMENTS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(VALUES));

impl Tables {
    /// What the column of the value at `at` speaks of.
    pub fn topic(&mut self, text: &str, at: usize) -> Option<Topic> {
        if let Some(topic) = self.in_statement(text, at) {
            return Some(topic);
        }
        let bytes = text.as_bytes();
        let from = at.saturating_sub(2_048);
        // A first line has no head above it.
        let line = from + memchr::memrchr(b'\n', &bytes[from..at])? + 1;
        if !self.block.contains(&at) {
            self.read(text, line, at)?;
        }
        if self.topics.is_empty() {
            return None;
        }
        self.topics.get(count(&bytes[line..at], self.separator)).copied().flatten()
    }

    /// What the value at `at` speaks of in `INSERT INTO … (columns) VALUES (values), (values)`.
    fn in_statement(&mut self, text: &str, at: usize) -> Option<Topic> {
        let bytes = text.as_bytes();
        let start = self.values.before(bytes, at).filter(|start| start + STATEMENT >= at)?;
        if self.statement.0 != start {
            self.statement = (start, Vec::new());
            let near = start.saturating_sub(STATEMENT);
            let close = start - usize::from(start > 0 && bytes[start - 1].is_ascii_whitespace());
            let list = bytes[near..close].strip_suffix(b")")?;
            let open = near + memchr::memrchr(b'(', list)? + 1;
            let names = text.get(open..near + list.len())?.split(',').take(MAX_COLUMNS);
            self.statement.1 = names.map(topic_of).collect();
        }
        let tuple = start + memchr::memrchr(b'(', &bytes[start..at])?;
        let column = bytes[tuple..at].iter().filter(|byte| **byte == b',').count();
        self.statement.1.get(column).copied().flatten()
    }

    /// Looks for the head of the table whose line begins at `line`.
    fn read(&mut self, text: &str, line: usize, at: usize) -> Option<()> {
        let bytes = text.as_bytes();
        let end = memchr::memchr(b'\n', &bytes[at..(at + 2_048).min(bytes.len())])
            .map_or((at + 2_048).min(bytes.len()), |place| at + place);
        // Whatever comes of it, this line is not looked at again.
        self.topics.clear();
        self.block = line..end.max(at + 1);
        let (separator, columns) =
            [(b'|', 2), (b'\t', 1), (b';', 1), (b',', 1)].into_iter().find_map(|(separator, least)| {
                let columns = count(&bytes[line..end], separator);
                (columns >= least).then_some((separator, columns))
            })?;
        // Upwards, as long as lines have as many columns.
        let mut head = line;
        let floor = line.saturating_sub(REACH);
        while head > floor {
            let before = memchr::memrchr(b'\n', &bytes[floor..head - 1]).map_or(floor, |place| floor + place + 1);
            if count(&bytes[before..head - 1], separator) != columns {
                break;
            }
            head = before;
        }
        self.separator = separator;
        if head == line {
            return None;
        }
        self.block = head..end.max(at + 1);
        let head_end = memchr::memchr(b'\n', &bytes[head..]).map_or(bytes.len(), |place| head + place);
        let head_line = text.get(head..head_end)?;
        // A head names things; a line of values is none.
        if head_line.bytes().filter(u8::is_ascii_digit).count() > 4 {
            return None;
        }
        self.topics = head_line.split(char::from(separator)).take(MAX_COLUMNS).map(topic_of).collect();
        Some(())
    }
}

fn count(bytes: &[u8], separator: u8) -> usize {
    memchr::memchr_iter(separator, bytes).count()
}

/// What a column of this name speaks of.
fn topic_of(name: &str) -> Option<Topic> {
    context::label(name).or_else(|| secret::is_column(name).then_some(Topic::Secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_speaks_through_its_head() {
        let text = "id,passport,total\n1,X1,2\n3,X4,5";
        let mut tables = Tables::default();
        assert_eq!(tables.topic(text, text.find("X1").unwrap()), Some(Topic::Passport));
        assert_eq!(tables.topic(text, text.find("X4").unwrap()), Some(Topic::Passport));
        assert_eq!(tables.topic(text, text.find("5").unwrap()), Some(Topic::Thing));
        let text = "| 姓名 | 护照号 |\n|---|---|\n| 李 | E1 |";
        assert_eq!(Tables::default().topic(text, text.find("E1").unwrap()), Some(Topic::Passport));
        assert_eq!(Tables::default().topic("a, b, 7 c", 6), None);
    }
}
