//! The command line of rsync: refused, or written anew so that it is read the same way again.

#![no_main]

use libfuzzer_sys::fuzz_target;

// The modules stand alone, so the SSH library and its cryptography need not be built here.
#[path = "../../crates/ssh/src/command/rsync/arguments.rs"]
mod arguments;
#[path = "../../crates/ssh/src/command/rsync/options.rs"]
mod options;

use arguments::{Arguments, May};
use options::Value;

fuzz_target!(|line: &[u8]| {
    let words: Vec<Vec<u8>> = line.split(|&byte| byte == b' ').map(<[u8]>::to_vec).collect();
    let Ok(read) = Arguments::parse(&words) else { return };
    assert!(read.paths.len() == 1 || read.sender && read.paths.len() <= arguments::MAX_PATHS);

    for link in [false, true] {
        let run = read.line(May { link, set_modes: true, set_times: true });
        let (dot, options) = run.split_last().expect("there is a dot");
        assert_eq!(&**dot, b".");
        for word in options {
            assert!(word.starts_with(b"-") && !word.contains(&0));
            let (name, value) = word.split_at(word.iter().position(|&b| b == b'=').unwrap_or(word.len()));
            assert!(!name.contains(&b'/'));
            match name {
                b"--partial-dir" => assert!(Value::PathBelow.accepts(&value[1..])),
                b"--skip-compress" => {}
                _ => assert!(!value.contains(&b'/')),
            }
        }
        let ours: [&[u8]; 4] = [b"--safe-links", b"--munge-links", b"--no-super", b"--chmod=ug-s,o-t"];
        let mut client: Vec<_> = run.into_iter().filter(|word| !ours.contains(&word.as_slice())).collect();
        client.push(b"x".to_vec());
        let again = Arguments::parse(&client).expect("what was accepted is accepted again");
        assert_eq!((again.sender, again.options), (read.sender, read.options.clone()));
    }
});
