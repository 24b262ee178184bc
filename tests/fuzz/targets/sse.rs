//! Frames keep every byte and do not depend on chunks. The input's first byte is the chunk size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_wire::Dialect;
use sluice_wire::event::Chunk;
use sluice_wire::sse::Frames;
use sluice_wire::translate::Stream;

fn cut(bytes: &[u8], size: usize) -> (Vec<u8>, Vec<String>) {
    let mut frames = Frames::new(1 << 20);
    let (mut out, mut data) = (Vec::new(), Vec::new());
    for chunk in bytes.chunks(size) {
        frames.push(chunk);
        while let Ok(Some(frame)) = frames.next_frame() {
            out.extend_from_slice(frame.raw());
            if let Some(text) = frame.data() {
                for dialect in [Dialect::Chat, Dialect::Responses, Dialect::Messages, Dialect::Gemini] {
                    let Some(chunk) = Chunk::read(dialect, &text) else { continue };
                    for delta in &chunk.deltas {
                        assert!(text.get(delta.range.clone()).is_some());
                        let _ = chunk.synthesise(dialect, &delta.channel, "x\n\"");
                    }
                    assert!(chunk.wholes.iter().all(|whole| text.get(whole.range.clone()).is_some()));
                    let _ = frame.with_data(&text);
                }
                data.push(text.into_owned());
            }
        }
    }
    out.extend_from_slice(&frames.remainder());
    (out, data)
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, bytes)) = input.split_first() else { return };
    let (out, data) = cut(bytes, usize::from(size).max(1));
    assert_eq!(out, bytes);
    assert_eq!(data, cut(bytes, usize::MAX).1);
    const CLIENTS: [Dialect; 4] = [Dialect::Chat, Dialect::Responses, Dialect::Messages, Dialect::Gemini];
    for from in [Dialect::Chat, Dialect::Messages, Dialect::Gemini] {
        for to in CLIENTS.into_iter().filter(|to| *to != from) {
            let (mut frames, mut stream, mut said) = (Frames::new(1 << 20), Stream::new(from, to, "{}"), Vec::new());
            frames.push(bytes);
            while let Ok(Some(frame)) = frames.next_frame() {
                if stream.frame(&frame, &mut said).is_err() {
                    break;
                }
            }
            stream.end(&mut said);
            assert!(std::str::from_utf8(&said).is_ok());
        }
    }
});
