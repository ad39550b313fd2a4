//! A file of the reference's bolt provider.

#![no_main]

use libfuzzer_sys::fuzz_target;

// The module stands alone, so the databases need not be built here.
#[allow(dead_code)]
#[path = "../../crates/store/src/bolt/file.rs"]
mod file;

/// Keys and values of a bucket and of those in it, and how many bytes they are.
fn weigh(bucket: &file::Bucket<'_>) -> (usize, usize) {
    let mut last = None;
    let mut total = (0, 0);
    for (key, entry) in &bucket.entries {
        assert!(last.is_none_or(|last| last < key), "keys are out of order");
        assert_eq!(bucket.get(key), Some(entry));
        last = Some(key);
        let (count, bytes) = match entry {
            file::Entry::Value(value) => (0, value.len()),
            file::Entry::Bucket(inner) => weigh(inner),
        };
        total = (total.0 + 1 + count, total.1 + key.len() + bytes);
    }
    total
}

fuzz_target!(|input: &[u8]| {
    // Chance does not find a checksum: the first byte says whether both metas get theirs.
    let Some((choice, data)) = input.split_first() else { return };
    let mut data = data.to_vec();
    if choice % 4 != 0 {
        for page in [0, 4096] {
            let Some(meta) = data.get_mut(page + 16..page + 80) else { continue };
            meta[..4].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
            meta[4..12].copy_from_slice(&[2, 0, 0, 0, 0, 16, 0, 0]);
            let hash = meta[..56].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
            meta[56..].copy_from_slice(&hash.to_le_bytes());
        }
    }
    if let Ok(root) = file::read(&data) {
        let (count, bytes) = weigh(&root);
        assert!(count * 16 + bytes <= data.len(), "more came out than is in the file");
    }
});
