//! Any body either is refused or can be edited into JSON again, with everything else untouched.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_wire::json::{decode, Document};
use sluice_wire::{Additions, Dialect, Envelope, NestedText, Splices};

fuzz_target!(|body: &[u8]| {
    for dialect in [Dialect::Chat, Dialect::Responses, Dialect::Messages, Dialect::Gemini, Dialect::Embeddings, Dialect::Other] {
        let Ok(envelope) = Envelope::parse(dialect, body.to_vec()) else { continue };
        assert_eq!(Splices::default().apply(envelope.text()).as_bytes(), body);
        let mut splices = Splices::default();
        envelope.remove_steering(&mut splices);
        envelope.set_model("m\"\\", &mut splices);
        if dialect.is_conversation() {
            let prompt = vec![("system".to_owned(), "p".to_owned()), ("user".to_owned(), "u".to_owned())];
            envelope.add(&Additions { prompt, context: Some("c\"".to_owned()) }, &mut splices);
            envelope.ask_usage(&mut splices);
            envelope.limit_output(7, &mut splices);
        }
        let edited = splices.apply(envelope.text());
        assert!(Document::parse(&edited).is_ok(), "edits keep JSON");
        let again = Envelope::parse(dialect, edited.into_bytes()).expect("an edited envelope is one");
        assert_eq!(again.model().as_deref(), Some("m\"\\"));
        assert!(again.steering().is_none());
        let _ = envelope.last_user_text();
        let mut end = 0;
        for span in envelope.texts(&[]).spans {
            assert!(span.range.start >= end, "spans are in order and apart");
            end = span.range.end;
            let decoded = decode(&envelope.text()[span.range]);
            for piece in NestedText::pieces(&decoded).into_iter().flatten() {
                let _ = decode(&decoded[piece.range]);
            }
        }
    }
});
