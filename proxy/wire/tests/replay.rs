//! Answers as providers gave them (`recorded/README.md` says where they come from), translated for every client.
//!
//! Snapshots show the very bytes a client gets. Beside them two readers of the tests' own judge the translation: one
//! reads what was said on either side, the other what an SDK demands of the stream's build.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "replay/clients.rs"]
mod clients;
#[path = "replay/told.rs"]
mod told;

use clients::Ending;
use proptest::prelude::*;
use serde_json::Value;
use sluice_wire::Dialect;
use sluice_wire::event::Chunk;
use sluice_wire::sse::{Frame, Frames};
use sluice_wire::translate::{Stream, answer};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;
use told::{Told, events};

const CLIENTS: [Dialect; 4] = [Dialect::Chat, Dialect::Responses, Dialect::Messages, Dialect::Gemini];
const PROVIDERS: [Dialect; 3] = [Dialect::Chat, Dialect::Messages, Dialect::Gemini];

/// A client's request, as far as answers depend on it.
const ASKED: &str = r#"{"stream_options":{"include_usage":true},"instructions":"Be brief.","tools":[]}"#;

struct Recording {
    dialect: Dialect,
    name: String,
    bytes: Vec<u8>,
}

impl Recording {
    fn frames(&self) -> Vec<Frame> {
        cut(&self.bytes, usize::MAX).0
    }

    /// How many frames, the first that says that all has been said included.
    fn length(&self) -> usize {
        let is_end = |frame: &Frame| {
            let data = frame.data().unwrap_or_default().into_owned();
            let json = serde_json::from_str::<Value>(&data).unwrap_or_default();
            let ends = match self.dialect {
                Dialect::Chat => data == "[DONE]",
                Dialect::Messages => json["type"] == "message_stop",
                _ => json["candidates"][0]["finishReason"].is_string(),
            };
            ends || !json["error"].is_null()
        };
        self.frames().iter().position(is_end).unwrap() + 1
    }
}

/// The recordings of a dialect, with names that end so, in the order of their names.
fn recordings(dialect: Dialect, extension: &str) -> Vec<Recording> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(dialect.name());
    let mut paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    let read = |path: &Path| Recording {
        dialect,
        name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
        bytes: std::fs::read(path).unwrap(),
    };
    paths.iter().map(|path| read(path)).collect()
}

/// Every recorded stream with every dialect that it is translated to.
static PAIRS: LazyLock<Vec<(Recording, Dialect)>> = LazyLock::new(|| {
    let directions = PROVIDERS.into_iter().flat_map(|from| CLIENTS.map(|to| (from, to)));
    let directions = directions.filter(|(from, to)| from != to);
    directions
        .flat_map(|(from, to)| recordings(from, "sse").into_iter().map(move |recording| (recording, to)))
        .collect()
});

/// The frames of a stream that comes in chunks of that many bytes, and what is left.
fn cut(stream: &[u8], chunk: usize) -> (Vec<Frame>, Vec<u8>) {
    let mut frames = Frames::new(1 << 20);
    let mut found = Vec::new();
    for chunk in stream.chunks(chunk.min(stream.len().max(1))) {
        frames.push(chunk);
        while let Some(frame) = frames.next_frame().unwrap() {
            found.push(frame);
        }
    }
    (found, frames.remainder().to_vec())
}

/// What the client gets of these frames, and whether that was everything.
fn translate(from: Dialect, to: Dialect, frames: &[Frame]) -> (Vec<u8>, bool) {
    let mut stream = Stream::new(from, to, ASKED);
    let mut out = Vec::new();
    for frame in frames {
        stream.frame(frame, &mut out).unwrap();
    }
    let whole = stream.end(&mut out);
    (out, whole)
}

/// The output with the id that an answer without one is given made the same whatever it is hashed with.
fn shown(recorded: &Told, got: &Told, output: &str) -> String {
    match recorded.id.is_empty() {
        true => output.replace(&got.id, "[made]"),
        false => output.to_owned(),
    }
}

/// Holds what a client of dialect `to` was told against what the provider said.
fn compare(name: &str, to: Dialect, recorded: &Told, got: &Told) {
    let context = format!("{name} for {}", to.name());
    assert_eq!(recorded.text, got.text, "{context}");
    assert_eq!(recorded.reasoning, got.reasoning, "{context}");
    assert_eq!(recorded.signatures, got.signatures, "{context}");
    assert_eq!(recorded.error, got.error, "{context}");
    if to != Dialect::Gemini {
        assert_eq!(recorded.redacted, got.redacted, "{context}");
    }
    assert_eq!(recorded.calls.len(), got.calls.len(), "{context}");
    for (said, told) in recorded.calls.iter().zip(&got.calls) {
        assert_eq!(said.name, told.name, "{context}");
        assert!(said.id == told.id || said.id.is_empty(), "{context}");
        let said = if said.arguments.is_empty() { "{}" } else { &said.arguments };
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parse(said), parse(&told.arguments), "{context}");
    }
    let ids: BTreeSet<_> = got.calls.iter().map(|call| &call.id).collect();
    assert!(ids.len() == got.calls.len() && ids.iter().all(|id| !id.is_empty()), "{context}");
    if recorded.error.is_some() {
        return;
    }
    assert!(!got.id.is_empty() && (got.id == recorded.id || recorded.id.is_empty()), "{context}");
    assert_eq!(recorded.model, got.model, "{context}");
    assert_eq!(recorded.stop(), got.stop(), "{context}");
    assert_eq!(recorded.usage, got.usage, "{context}");
}

fn snapshot(name: &str, text: String) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn every_recorded_stream_reaches_every_client_whole_however_it_is_chunked() {
    for (recording, to) in PAIRS.iter() {
        let (from, to) = (recording.dialect, *to);
        let (out, whole) = translate(from, to, &recording.frames());
        for chunk in [1, 7, 61] {
            let (frames, rest) = cut(&recording.bytes, chunk);
            // Between CR and LF a blank line is complete already.
            assert!(rest.is_empty() || rest == b"\n", "{}", recording.name);
            assert_eq!(translate(from, to, &frames).0, out, "{} in chunks of {chunk}", recording.name);
        }
        let (recorded, got) = (Told::of_stream(from, &recording.bytes), Told::of_stream(to, &out));
        compare(&recording.name, to, &recorded, &got);
        let ending = if recorded.error.is_some() { Ending::Error } else { Ending::Whole };
        assert_eq!(clients::read(to, &out), ending, "{}", recording.name);
        assert!(whole);
        let text = shown(&recorded, &got, std::str::from_utf8(&out).unwrap());
        snapshot(&format!("{}_{}_for_{}", from.name(), recording.name, to.name()), text);
    }
}

#[test]
fn every_recorded_answer_reaches_every_client_whole() {
    for from in PROVIDERS {
        for recording in recordings(from, "json") {
            let body = std::str::from_utf8(&recording.bytes).unwrap();
            let recorded = Told::of_answer(from, &serde_json::from_str(body).unwrap());
            for to in CLIENTS.into_iter().filter(|&to| to != from) {
                let out = answer(from, to, body, ASKED).unwrap();
                let got = Told::of_answer(to, &serde_json::from_str(&out).unwrap());
                compare(&recording.name, to, &recorded, &got);
                let text = shown(&recorded, &got, &out);
                snapshot(&format!("{}_{}_for_{}", from.name(), recording.name, to.name()), text);
            }
        }
    }
}

#[test]
fn a_stream_for_its_own_dialect_keeps_its_bytes_however_it_is_chunked() {
    for dialect in CLIENTS {
        for recording in recordings(dialect, "sse") {
            for chunk in [1, 7, 61, usize::MAX] {
                let (frames, rest) = cut(&recording.bytes, chunk);
                let mut joined: Vec<u8> = frames.iter().flat_map(|frame| frame.raw().to_vec()).collect();
                joined.extend(rest);
                assert!(joined == recording.bytes, "{} in chunks of {chunk}", recording.name);
                let read = |frame: &Frame| frame.data().map(|data| Chunk::read(dialect, &data).is_some());
                assert!(frames.iter().filter_map(read).all(|read| read), "{}", recording.name);
            }
        }
    }
}

#[test]
fn a_stream_that_is_cut_between_frames_is_not_over_for_the_client() {
    for (recording, to) in PAIRS.iter() {
        let to = *to;
        let frames = recording.frames();
        let all = translate(recording.dialect, to, &frames).0;
        for place in 0..=frames.len() {
            let (out, whole) = translate(recording.dialect, to, &frames[..place]);
            let context = format!("{} for {} cut at {place}", recording.name, to.name());
            assert_eq!(whole, place >= recording.length(), "{context}");
            assert_eq!(whole, clients::read(to, &out) != Ending::Cut, "{context}");
            assert!(whole || all.starts_with(&out), "{context}");
        }
    }
}

/// Something that goes wrong on the way.
#[derive(Clone, Debug)]
enum Fault {
    Drop(prop::sample::Index),
    Repeat(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    /// Sets a byte of a frame.
    Byte(prop::sample::Index, prop::sample::Index, u8),
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let at = any::<prop::sample::Index>;
    let fault = prop_oneof![
        at().prop_map(Fault::Drop),
        at().prop_map(Fault::Repeat),
        (at(), at()).prop_map(|(one, other)| Fault::Swap(one, other)),
        // Bytes of JSON's own make documents that still parse.
        (at(), at(), prop_oneof![any::<u8>(), prop::sample::select(b"\"{}[],:01n\\ae \n".as_slice())])
            .prop_map(|(frame, byte, value)| Fault::Byte(frame, byte, value)),
    ];
    prop::collection::vec(fault, 1..8)
}

fn spoil(frames: &mut Vec<Vec<u8>>, fault: &Fault) {
    if frames.is_empty() {
        return;
    }
    let length = frames.len();
    match fault {
        Fault::Drop(at) => {
            frames.remove(at.index(length));
        }
        Fault::Repeat(at) => {
            let place = at.index(length);
            frames.insert(place, frames[place].clone());
        }
        Fault::Swap(one, other) => frames.swap(one.index(length), other.index(length)),
        Fault::Byte(frame, byte, value) => {
            let frame = &mut frames[frame.index(length)];
            let place = byte.index(frame.len());
            frame[place] = *value;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_becomes_of_a_stream_the_client_gets_one_that_it_can_read(
        at in any::<prop::sample::Index>(), faults in faults(), chunk in 1usize..200,
    ) {
        let (recording, to) = at.get(&PAIRS);
        let mut parts: Vec<_> = recording.frames().iter().map(|frame| frame.raw().to_vec()).collect();
        faults.iter().for_each(|fault| spoil(&mut parts, fault));
        let mut stream = Stream::new(recording.dialect, *to, ASKED);
        let mut out = Vec::new();
        for frame in cut(&parts.concat(), chunk).0 {
            frame.data().map(|data| Chunk::read(recording.dialect, &data).is_some());
            if stream.frame(&frame, &mut out).is_err() {
                break;
            }
        }
        let whole = stream.end(&mut out);
        prop_assert_eq!(whole, clients::read(*to, &out) != Ending::Cut);
    }

    #[test]
    fn whatever_becomes_of_an_answer_its_translation_is_json(at in any::<prop::sample::Index>(), faults in faults()) {
        let answers: Vec<_> = PROVIDERS.into_iter().flat_map(|from| recordings(from, "json")).collect();
        let recording = at.get(&answers);
        let mut bytes = vec![recording.bytes.clone()];
        faults.iter().filter(|fault| matches!(fault, Fault::Byte(..))).for_each(|fault| spoil(&mut bytes, fault));
        let Ok(body) = std::str::from_utf8(&bytes[0]) else { return Ok(()) };
        for to in CLIENTS.into_iter().filter(|&to| to != recording.dialect) {
            if let Some(out) = answer(recording.dialect, to, body, ASKED) {
                prop_assert!(serde_json::from_str::<Value>(&out).is_ok(), "{}", out);
            }
        }
    }
}

#[test]
fn recordings_cover_what_streams_differ_in() {
    let streams: Vec<_> = PROVIDERS.into_iter().flat_map(|from| recordings(from, "sse")).collect();
    let events: usize = streams.iter().map(|recording| events(&recording.bytes).len()).sum();
    println!("{} streams of {events} events, {} pairs", streams.len(), PAIRS.len());
    for from in PROVIDERS {
        let told = |recording: &Recording| Told::of_stream(from, &recording.bytes);
        let told: Vec<_> = recordings(from, "sse").iter().map(told).collect();
        assert!(told.iter().any(|told| !told.calls.is_empty()));
        assert!(told.iter().any(|told| !told.reasoning.is_empty()));
        assert!(told.len() >= 10);
    }
}
