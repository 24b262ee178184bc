//! Frames keep every byte and do not depend on chunks. The input's first byte is the chunk size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_wire::event::Chunk;
use sluice_wire::sse::Frames;

fn cut(bytes: &[u8], size: usize) -> (Vec<u8>, Vec<String>) {
    let mut frames = Frames::new(1 << 20);
    let (mut out, mut data) = (Vec::new(), Vec::new());
    for chunk in bytes.chunks(size) {
        frames.push(chunk);
        while let Ok(Some(frame)) = frames.next_frame() {
            out.extend_from_slice(frame.raw());
            if let Some(text) = frame.data() {
                if let Some(chunk) = Chunk::read(&text) {
                    for delta in &chunk.deltas {
                        assert!(text.get(delta.range.clone()).is_some());
                        let _ = chunk.synthesise(&delta.channel, "x\n\"");
                    }
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
});
