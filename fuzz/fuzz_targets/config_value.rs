//! A configuration file in every format: the first byte chooses which, the rest is the file.

#![no_main]

use libfuzzer_sys::fuzz_target;

/// The two modules stand alone, so the rest of the server need not be built here.
#[allow(dead_code)]
#[path = "."]
mod config {
    #[path = "../../crates/tidegate/src/config/format.rs"]
    mod format;
    #[path = "../../crates/tidegate/src/config/properties.rs"]
    mod properties;

    pub(super) fn read(choice: u8, bytes: &[u8]) {
        let (_, format) = format::EXTENSIONS[usize::from(choice) % format::EXTENSIONS.len()];
        match format::parse(format, bytes) {
            // A file is a tree of keys, and only text and numbers that JSON can carry come out.
            Ok(tree) => assert!(serde_json::to_string(&tree).is_ok()),
            Err(error) => assert!(!error.is_empty()),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    if let Some((choice, bytes)) = input.split_first() {
        config::read(*choice, bytes);
    }
});
