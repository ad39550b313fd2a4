//! The records that an `scp` client sends, one for each line: reading, then the round trip.

#![no_main]

use libfuzzer_sys::fuzz_target;

// The module stands alone, so the SSH library and its cryptography need not be built here.
#[path = "../../crates/ssh/src/scp/control.rs"]
mod control;

use control::Record;

fuzz_target!(|stream: &[u8]| {
    for line in stream.split(|&byte| byte == b'\n').filter(|line| line.len() <= control::MAX_LINE_BYTES) {
        let Ok(record) = Record::parse(line) else { continue };
        if let Record::File { name, .. } | Record::Dir { name, .. } = &record {
            // Nothing that is accepted leads out of its directory.
            assert!(!name.is_empty() && name != b"." && name != b"..");
            assert!(!name.contains(&b'/') && !name.contains(&0) && !name.contains(&b'\n'));
            assert!(name.len() <= line.len());
            assert!(!control::is_plain(name) || !name.contains(&0x1b));
        }
        if let Record::File { mode, size, .. } = &record {
            assert!(*mode <= 0o7777 && *size < 1 << 63);
        }
        let again = record.line();
        assert_eq!(again.last(), Some(&b'\n'));
        assert_eq!(Record::parse(&again[..again.len() - 1]), Ok(record));
    }
});
