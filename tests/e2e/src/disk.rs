//! What the disk holds: test data, comparison, fingerprints of a tree.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that repeat nowhere soon and depend on `seed` (xorshift64*): a shifted or swapped block shows.
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Writes a file of noise and returns nothing but its bytes on disk; parents are created.
pub fn write_noise(path: &Path, seed: u64, length: usize) {
    write(path, &noise(seed, length));
}

/// Writes a file; parents are created.
pub fn write(path: &Path, bytes: &[u8]) {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).unwrap();
    }
    File::create(path)
        .and_then(|mut file| file.write_all(bytes))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Reads a file as text, or fails the test with its name.
#[must_use]
pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails the test unless both files have the same bytes; says where they differ first.
pub fn same(left: &Path, right: &Path) {
    let [mut a, mut b] =
        [left, right].map(|p| File::open(p).unwrap_or_else(|e| panic!("{}: {e}", p.display())));
    let (mut one, mut two) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0_u64;
    loop {
        let (n, m) = (fill(&mut a, &mut one), fill(&mut b, &mut two));
        if let Some(at) = one[..n.min(m)].iter().zip(&two[..n.min(m)]).position(|(x, y)| x != y) {
            panic!("{} and {} differ at byte {}", left.display(), right.display(), offset + at as u64);
        }
        assert_eq!(n, m, "{} and {} differ in length after byte {offset}", left.display(), right.display());
        if n == 0 {
            return;
        }
        offset += n as u64;
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).expect("local files can be read") {
            0 => break,
            count => filled += count,
        }
    }
    filled
}

/// The permission bits of a path, links not followed.
#[must_use]
pub fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).mode() & 0o7777
}

/// The modification time in whole seconds.
#[must_use]
pub fn mtime(path: &Path) -> i64 {
    std::fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).mtime()
}

/// Sets access and modification time in seconds since 1970.
pub fn set_times(path: &Path, seconds: u64) {
    let when = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let times = std::fs::FileTimes::new().set_accessed(when).set_modified(when);
    File::open(path).and_then(|file| file.set_times(times)).unwrap();
}

/// Sets the permission bits.
pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything a tree holds, links not followed: kind, mode, and content or target, by relative name.
///
/// Two equal snapshots mean: same names, same modes, same contents, same links.
#[must_use]
pub fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut entries = BTreeMap::new();
    walk(root, root, &mut entries);
    entries
}

fn walk(root: &Path, dir: &Path, entries: &mut BTreeMap<Vec<u8>, String>) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.unwrap().path();
        let info = std::fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let bits = info.mode() & 0o7777;
        let what = if info.is_dir() {
            walk(root, &path, entries);
            format!("dir {bits:o}")
        } else if info.is_symlink() {
            format!("link {}", std::fs::read_link(&path).unwrap().display())
        } else {
            let content = std::fs::read(&path).unwrap();
            let shown = String::from_utf8_lossy(&content[..content.len().min(40)]).into_owned();
            format!("file {bits:o} {} {:016x} {shown}", content.len(), checksum(&content))
        };
        entries.insert(name, what);
    }
}

/// FNV-1a, 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
