//! Virtual paths from raw bytes: normal, bounded, and stable.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_vfs::VPath;

fuzz_target!(|raw: &[u8]| {
    let Ok(path) = VPath::parse(raw) else { return };
    assert!(VPath::parse(path.as_bytes()).is_ok_and(|again| again == path));
    assert!(path.as_bytes().len() <= 4096);
    assert!(path.components().all(|name| !matches!(name, b"" | b"." | b"..") && !name.contains(&0)));
    assert!(path.is_within(&VPath::root()));
    // Half of the input as a directory, the other half as a name or a path below it.
    let (dir, rest) = raw.split_at(raw.len() / 2);
    if let (Ok(dir), Ok(entry)) = (VPath::parse(dir), VPath::parse(dir).and_then(|dir| dir.join(rest))) {
        assert!(entry.is_within(&dir) && entry != dir);
        assert_eq!(entry.parent(), Some(dir));
        assert_eq!(entry.name(), rest);
    }
});
