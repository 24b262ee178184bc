//! Writing JSON by hand: what was a number, a schema or a text in the client's body is copied as it was spelled.

use super::read::Written;
use crate::json::escape_into;

/// A JSON text in the making. Commas are put where the text so far needs one.
#[derive(Default)]
pub struct Writer {
    out: String,
}

impl Writer {
    pub fn with_capacity(bytes: usize) -> Writer {
        Writer { out: String::with_capacity(bytes) }
    }

    pub fn finish(self) -> String {
        self.out
    }

    /// Begins an object or an array: `{` or `[`.
    pub fn open(&mut self, bracket: char) -> &mut Writer {
        self.comma();
        self.out.push(bracket);
        self
    }

    pub fn close(&mut self, bracket: char) -> &mut Writer {
        self.out.push(bracket);
        self
    }

    /// A member's key, which needs no escaping.
    pub fn key(&mut self, key: &str) -> &mut Writer {
        self.comma();
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
        self
    }

    /// A value that is JSON already.
    pub fn raw(&mut self, json: &str) -> &mut Writer {
        self.comma();
        self.out.push_str(json);
        self
    }

    /// A string from its text.
    pub fn text(&mut self, text: &str) -> &mut Writer {
        self.comma();
        self.out.push('"');
        escape_into(text, &mut self.out);
        self.out.push('"');
        self
    }

    /// A string as it was written.
    pub fn written(&mut self, written: &Written<'_>) -> &mut Writer {
        self.strings(&[written.inside()])
    }

    /// One string of several pieces that are escaped already.
    pub fn strings(&mut self, pieces: &[&str]) -> &mut Writer {
        self.comma();
        self.out.push('"');
        for piece in pieces {
            self.out.push_str(piece);
        }
        self.out.push('"');
        self
    }

    /// A place to return to with [`Writer::rewind`].
    pub fn mark(&self) -> usize {
        self.out.len()
    }

    /// Takes back everything since the mark.
    pub fn rewind(&mut self, mark: usize) {
        self.out.truncate(mark);
    }

    fn comma(&mut self) {
        if !matches!(self.out.as_bytes().last(), None | Some(b'{' | b'[' | b':')) {
            self.out.push(',');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_stand_between_values_and_nowhere_else() {
        let mut writer = Writer::default();
        writer.open('{').key("a").open('[').raw("1.0e0").text("x\"{").open('{').close('}').close(']');
        writer.key("b").written(&Written::escaped("\n:")).key("c").open('[').close(']').close('}');
        assert_eq!(writer.finish(), r#"{"a":[1.0e0,"x\"{",{}],"b":"\n:","c":[]}"#);
    }
}
