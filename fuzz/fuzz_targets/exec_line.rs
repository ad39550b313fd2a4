//! The command line of an `exec` request: words, then their round trip through quoting.

#![no_main]

use libfuzzer_sys::fuzz_target;

// The module stands alone, so the SSH library and its cryptography need not be built here.
#[path = "../../crates/ssh/src/shell_words.rs"]
mod shell_words;

fuzz_target!(|line: &[u8]| {
    let Ok(words) = shell_words::split(line) else { return };
    assert!(words.len() <= shell_words::MAX_WORDS);
    assert!(words.iter().map(Vec::len).sum::<usize>() <= line.len());

    let again = shell_words::join(&words);
    if again.len() <= shell_words::MAX_LINE_BYTES {
        assert_eq!(shell_words::split(&again), Ok(words));
    }
});
