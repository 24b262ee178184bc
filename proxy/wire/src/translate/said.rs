//! What a model says, free of any dialect: the middle between the three dialects that answers come in and the four
//! that they go out in.
//!
//! An answer is a sequence of blocks, one open at a time. A stream is told event by event; a whole answer is the same
//! events folded into an [`Answer`].

use crate::Failure;
use crate::json::{Document, Kind, Value};

/// One step of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Start(Head),
    Open(Block),
    Text(String),
    /// A piece of the JSON text of the open tool call's arguments.
    Arguments(String),
    Reasoning(String),
    /// What the provider signed the open reasoning with.
    Signature(String),
    Close,
    Stop(Reason),
    Usage(Usage),
    Error(Failure<'static>),
    /// The provider has said everything.
    Over,
}

/// Whose answer it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub id: String,
    pub model: String,
    /// Unix seconds; 0 when the provider does not say.
    pub created: u64,
}

/// What a block begins as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    Text,
    Reasoning,
    Tool(Call),
    /// Reasoning that only the provider can read.
    Redacted(String),
}

/// The head of a tool call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub id: String,
    pub name: String,
    /// Gemini signs calls instead of reasoning.
    pub signature: Option<String>,
}

/// Why the model stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    End,
    Length,
    Tools,
    Filtered,
    /// At one of the request's own words; which one, where the provider says.
    StopSequence(Option<String>),
}

/// Token counts; what the provider does not state is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Cached tokens included, read and created.
    pub input: Option<u64>,
    /// Reasoning included.
    pub output: Option<u64>,
    pub cached: Option<u64>,
    pub cache_created: Option<u64>,
    pub reasoning: Option<u64>,
}

impl Usage {
    /// The same, with what `later` states.
    pub fn and(self, later: Usage) -> Usage {
        Usage {
            input: later.input.or(self.input),
            output: later.output.or(self.output),
            cached: later.cached.or(self.cached),
            cache_created: later.cache_created.or(self.cache_created),
            reasoning: later.reasoning.or(self.reasoning),
        }
    }

    pub fn is_stated(&self) -> bool {
        *self != Usage::default()
    }
}

/// A block and all that was said in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Reasoning { text: String, signature: Option<String> },
    Tool { call: Call, arguments: String },
    Redacted(String),
}

/// An answer as far as it has been told.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub head: Head,
    pub parts: Vec<Part>,
    reason: Option<Reason>,
    pub usage: Usage,
}

impl Answer {
    pub fn of(events: &[Event]) -> Answer {
        let mut answer = Answer::default();
        for event in events {
            answer.take(event);
        }
        answer
    }

    pub fn take(&mut self, event: &Event) {
        match (event, self.parts.last_mut()) {
            // Gateways exist that splice a second answer into a stream; what has been told keeps its ids.
            (Event::Start(head), None) if self.head.id.is_empty() => self.head = head.clone(),
            (Event::Open(block), _) => self.parts.push(match block {
                Block::Text => Part::Text(String::new()),
                Block::Reasoning => Part::Reasoning { text: String::new(), signature: None },
                Block::Tool(call) => Part::Tool { call: call.clone(), arguments: String::new() },
                Block::Redacted(data) => Part::Redacted(data.clone()),
            }),
            (Event::Text(more), Some(Part::Text(text))) => text.push_str(more),
            (Event::Reasoning(more), Some(Part::Reasoning { text, .. })) => text.push_str(more),
            (Event::Signature(more), Some(Part::Reasoning { signature, .. })) => *signature = Some(more.clone()),
            (Event::Arguments(more), Some(Part::Tool { arguments, .. })) => arguments.push_str(more),
            (Event::Stop(reason), _) => self.reason = Some(reason.clone()),
            (Event::Usage(usage), _) => self.usage = self.usage.and(*usage),
            _ => {}
        }
    }

    /// Why it stopped. Servers exist that call the end of a turn with tool calls an ordinary one; clients would then
    /// not run the tools.
    pub fn reason(&self) -> Reason {
        match &self.reason {
            None | Some(Reason::End) if self.tools() > 0 => Reason::Tools,
            Some(reason) => reason.clone(),
            None => Reason::End,
        }
    }

    /// How many tool calls it has.
    pub fn tools(&self) -> usize {
        self.parts.iter().filter(|part| matches!(part, Part::Tool { .. })).count()
    }

    /// All its text.
    pub fn text(&self) -> String {
        self.parts
            .iter()
            .filter_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None })
            .collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Text,
    Reasoning,
    Tool { said: bool },
}

/// Opens and closes blocks where a dialect leaves it to the reader: every event comes inside a block of its kind.
#[derive(Debug, Default)]
pub struct Blocks {
    open: Option<Open>,
    pub events: Vec<Event>,
}

impl Blocks {
    pub fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.open != Some(Open::Text) {
            self.begin(Block::Text);
        }
        self.events.push(Event::Text(text.to_owned()));
    }

    pub fn reasoning(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.reason();
        self.events.push(Event::Reasoning(text.to_owned()));
    }

    /// Signs the open reasoning, which is over with it.
    pub fn signature(&mut self, signature: &str) {
        if signature.is_empty() {
            return;
        }
        self.reason();
        self.events.push(Event::Signature(signature.to_owned()));
        self.close();
    }

    fn reason(&mut self) {
        if self.open != Some(Open::Reasoning) {
            self.begin(Block::Reasoning);
        }
    }

    /// A piece of the open call's arguments.
    pub fn arguments(&mut self, json: &str) {
        if let (Some(Open::Tool { said }), false) = (&mut self.open, json.is_empty()) {
            *said = true;
            self.events.push(Event::Arguments(json.to_owned()));
        }
    }

    pub fn begin(&mut self, block: Block) {
        self.close();
        self.open = match block {
            Block::Text => Some(Open::Text),
            Block::Reasoning => Some(Open::Reasoning),
            Block::Tool(_) => Some(Open::Tool { said: false }),
            Block::Redacted(_) => None,
        };
        let closed = self.open.is_none();
        self.events.push(Event::Open(block));
        if closed {
            self.events.push(Event::Close);
        }
    }

    /// Ends the open block. A call without arguments has the empty object for them: no client parses an empty text.
    pub fn close(&mut self) {
        if self.open == Some(Open::Tool { said: false }) {
            self.arguments("{}");
        }
        if self.open.take().is_some() {
            self.events.push(Event::Close);
        }
    }

    pub fn push(&mut self, event: Event) {
        self.events.push(event);
    }
}

/// The string member of that name, or nothing.
pub fn string(value: Value<'_>, name: &str) -> String {
    value.get(name).and_then(|member| member.string()).unwrap_or_default().into_owned()
}

/// The non-negative whole number of that name.
pub fn number(value: Value<'_>, name: &str) -> Option<u64> {
    value.get(name).and_then(|member| member.raw().parse().ok())
}

/// An error inside a stream; one in no known shape ends the stream as well, and says what it says.
pub fn failure(data: &str) -> Event {
    Event::Error(Failure::read(200, data).unwrap_or_else(|| Failure {
        status: 502,
        kind: "server_error".into(),
        code: None,
        param: None,
        message: data.to_owned().into(),
    }))
}

/// A name for a call that the provider left nameless: unique in the answer, and as clients' checks want it.
pub fn call_id(answer: &str, number: usize) -> String {
    let number = number.to_string();
    let room = 64 - "call__".len() - number.len();
    let plain = |byte: char| if byte.is_ascii_alphanumeric() || byte == '-' { byte } else { '_' };
    let answer: String = answer.chars().map(plain).collect();
    format!("call_{}_{number}", &answer[answer.len().saturating_sub(room)..])
}

/// Arguments as the object that some dialects want; what a model wrote wrongly is kept as a text in one.
pub fn object(arguments: &str) -> String {
    match Document::parse(arguments) {
        Ok(document) if document.root(arguments).kind() == Kind::Object => arguments.trim().to_owned(),
        _ if arguments.trim().is_empty() => "{}".to_owned(),
        _ => {
            let mut out = String::from("{\"arguments\":\"");
            crate::json::escape_into(arguments, &mut out);
            out.push_str("\"}");
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_are_short_and_plain() {
        assert_eq!(call_id("Abc é/1", 2), "call_Abc___1_2");
        assert_eq!(call_id(&"x".repeat(100), 12).len(), 64);
    }

    #[test]
    fn arguments_are_an_object_whatever_the_model_wrote() {
        assert_eq!(object(""), "{}");
        assert_eq!(object(" {\"a\":1.0} "), "{\"a\":1.0}");
        assert_eq!(object("{\"a\":"), "{\"arguments\":\"{\\\"a\\\":\"}");
    }
}
