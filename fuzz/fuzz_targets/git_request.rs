//! The command line of a client of git: refused, or one service and one path that is no option.

#![no_main]

use libfuzzer_sys::fuzz_target;

// The modules stand alone, so the SSH library and its cryptography need not be built here.
#[path = "../../crates/ssh/src/command/git/request.rs"]
mod request;
#[path = "../../crates/ssh/src/shell_words.rs"]
mod shell_words;

fuzz_target!(|line: &[u8]| {
    let Ok(request) = request::GitRequest::parse_line(line) else { return };
    let words = shell_words::split(line).expect("it was split before");
    assert_eq!(words.len(), 2);
    assert_eq!(words[0], request.service.command().as_bytes());
    assert!(!words[1].is_empty() && !words[1].starts_with(b"-"));
    assert!(!words[1].iter().any(u8::is_ascii_control));
    assert!(request.service.arguments().len() <= 2);
    assert!(request.path.components().all(|name| name != b".." && !name.is_empty()));

    // The path means the same when it is asked for again.
    let again = shell_words::join(&[words[0].clone(), request.path.as_bytes().to_vec()]);
    assert_eq!(request::GitRequest::parse_line(&again), Ok(request));
});
