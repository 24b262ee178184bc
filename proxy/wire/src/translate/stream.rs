//! A provider's streamed answer in its client's dialect, frame by frame.

use super::Malformed;
use super::answer::{from_chat, from_gemini, from_messages, name_of, to_chat, to_gemini, to_messages, to_responses};
use super::said::{Answer, Event};
use crate::json::{Document, Kind};
use crate::{Dialect, sse::Frame};

/// A streamed answer on its way from one dialect to another.
#[derive(Debug)]
pub struct Stream {
    to: Dialect,
    decoder: Decoder,
    encoder: Encoder,
    answer: Answer,
    /// Whether the client's stream has ended: nothing is written after.
    over: bool,
}

#[derive(Debug)]
enum Decoder {
    Chat(from_chat::Decoder),
    Messages(from_messages::Decoder),
    Gemini(from_gemini::Decoder),
}

#[derive(Debug)]
enum Encoder {
    Chat(to_chat::Encoder),
    Responses(to_responses::Encoder),
    Messages(to_messages::Encoder),
    Gemini(to_gemini::Encoder),
}

impl Stream {
    /// A stream of a provider that speaks `from` (chat, messages or Gemini) for a client that speaks `to`; `asked` is
    /// the client's own request body.
    pub fn new(from: Dialect, to: Dialect, asked: &str) -> Stream {
        let decoder = match from {
            Dialect::Messages => Decoder::Messages(from_messages::Decoder::default()),
            Dialect::Gemini => Decoder::Gemini(from_gemini::Decoder::new(&name_of(asked))),
            _ => Decoder::Chat(from_chat::Decoder::new(&name_of(asked))),
        };
        let encoder = match to {
            Dialect::Responses => Encoder::Responses(to_responses::Encoder::new(asked)),
            Dialect::Messages => Encoder::Messages(to_messages::Encoder::default()),
            Dialect::Gemini => Encoder::Gemini(to_gemini::Encoder),
            _ => Encoder::Chat(to_chat::Encoder::new(asked)),
        };
        Stream { to, decoder, encoder, answer: Answer::default(), over: false }
    }

    /// Takes one frame of the provider and appends what the client gets: whole frames, or nothing.
    ///
    /// Comments are dropped. An error of the provider's becomes one of the client's and ends the stream.
    pub fn frame(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<(), Malformed> {
        if self.over || !frame.has_data() {
            return Ok(());
        }
        let data = frame.data().ok_or(Malformed)?;
        match (&mut self.decoder, data.trim()) {
            (Decoder::Chat(decoder), "[DONE]") => decoder.done(),
            (decoder, data) => {
                let document = Document::parse(data).map_err(|_| Malformed)?;
                let root = Some(document.root(data)).filter(|root| root.kind() == Kind::Object).ok_or(Malformed)?;
                match decoder {
                    Decoder::Chat(decoder) => decoder.frame(root),
                    Decoder::Messages(decoder) => decoder.frame(root),
                    Decoder::Gemini(decoder) => decoder.frame(root),
                }
            }
        }
        self.tell(out);
        Ok(())
    }

    /// The provider's stream has ended. Whether it had said everything: then the client's terminator is written, now
    /// or before. Otherwise it was cut, and the caller writes an error.
    pub fn end(&mut self, out: &mut Vec<u8>) -> bool {
        if let (Decoder::Gemini(decoder), false) = (&mut self.decoder, self.over) {
            decoder.end();
            self.tell(out);
        }
        self.over
    }

    fn tell(&mut self, out: &mut Vec<u8>) {
        let blocks = match &mut self.decoder {
            Decoder::Chat(decoder) => &mut decoder.blocks,
            Decoder::Messages(decoder) => &mut decoder.blocks,
            Decoder::Gemini(decoder) => &mut decoder.blocks,
        };
        for event in std::mem::take(&mut blocks.events) {
            if self.over {
                return;
            }
            self.answer.take(&event);
            self.over = matches!(event, Event::Over | Event::Error(_));
            self.write(&event, out);
        }
    }

    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        if let Event::Error(failure) = event {
            let sequence = if let Encoder::Responses(encoder) = &self.encoder { encoder.sequence() } else { 0 };
            out.extend_from_slice(failure.event(self.to, sequence).as_bytes());
            return;
        }
        match &mut self.encoder {
            Encoder::Chat(encoder) => encoder.event(&self.answer, event, out),
            Encoder::Responses(encoder) => encoder.event(&self.answer, event, out),
            Encoder::Messages(encoder) => encoder.event(&self.answer, event, out),
            Encoder::Gemini(encoder) => encoder.event(&self.answer, event, out),
        }
    }
}
