//! Any text is a configuration or a list of faults, each of which can be printed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_config::{Config, Environment};

fuzz_target!(|text: &str| {
    // A file that the text names as a secret would be read; inputs that name one are left out.
    if text.contains("file") {
        return;
    }
    let environment = Environment::from_pairs([("KEY".to_owned(), "value".to_owned())]);
    if let Err(faults) = Config::parse("fuzz.toml", text, &environment) {
        assert!(!faults.to_string().is_empty());
    }
});
