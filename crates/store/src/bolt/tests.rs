//! The reader of the reference's files: a genuine one, ones made here with every feature of the format, damaged
//! ones, and ones that mean harm.

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tidegate_core::{Perms, User};
use tidegate_vfs::VPath;

use super::file::{self, Entry};
use super::import;

const PAGE: usize = 4096;

fn reference() -> Vec<u8> {
    std::fs::read("tests/fixtures/reference.bolt").unwrap()
}

/// A file of bbolt under construction. Pages 0 and 1 are metas, 2 the freelist.
struct Maker {
    data: Vec<u8>,
}

const KIND_LEAF: u16 = 2;
const KIND_BRANCH: u16 = 1;

impl Maker {
    fn new() -> Self {
        let mut maker = Self { data: vec![0; 2 * PAGE] };
        maker.page(0x10, 0, &[]);
        maker
    }

    /// Appends a page with as many overflow pages as it needs.
    fn page(&mut self, flags: u16, count: usize, body: &[u8]) -> u64 {
        let number = self.data.len() / PAGE;
        let pages = (16 + body.len()).div_ceil(PAGE);
        let mut page = u64::try_from(number).unwrap().to_le_bytes().to_vec();
        page.extend(flags.to_le_bytes());
        page.extend(u16::try_from(count).unwrap().to_le_bytes());
        page.extend(u32::try_from(pages - 1).unwrap().to_le_bytes());
        page.extend(body);
        page.resize(pages * PAGE, 0);
        self.data.extend(page);
        u64::try_from(number).unwrap()
    }

    fn leaf(&mut self, elements: &[(u32, &[u8], &[u8])]) -> u64 {
        self.page(KIND_LEAF, elements.len(), &leaf_body(elements))
    }

    fn branch(&mut self, children: &[(&[u8], u64)]) -> u64 {
        let mut table = Vec::new();
        let mut keys: Vec<u8> = Vec::new();
        for (index, (key, child)) in children.iter().enumerate() {
            let pos = (children.len() - index) * 16 + keys.len();
            table.extend(u32::try_from(pos).unwrap().to_le_bytes());
            table.extend(u32::try_from(key.len()).unwrap().to_le_bytes());
            table.extend(child.to_le_bytes());
            keys.extend(*key);
        }
        table.extend(keys);
        self.page(KIND_BRANCH, children.len(), &table)
    }

    /// Writes both metas; the newer one names `root`.
    fn finish(mut self, root: u64) -> Vec<u8> {
        for (page, txid) in [(0, 9_u64), (1, 8)] {
            let mut meta = Vec::new();
            for number in [0xED0C_DAED_u32, 2, 4096, 0] {
                meta.extend(number.to_le_bytes());
            }
            let root = if page == 0 { root } else { 2 };
            for number in [root, 0, 2, u64::try_from(self.data.len() / PAGE).unwrap(), txid] {
                meta.extend(number.to_le_bytes());
            }
            let hash = meta.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
            meta.extend(hash.to_le_bytes());
            let at = page * PAGE + 16;
            self.data[at..at + meta.len()].copy_from_slice(&meta);
        }
        self.data
    }
}

fn leaf_body(elements: &[(u32, &[u8], &[u8])]) -> Vec<u8> {
    let mut table = Vec::new();
    let mut bytes: Vec<u8> = Vec::new();
    for (index, (flags, key, value)) in elements.iter().enumerate() {
        let pos = (elements.len() - index) * 16 + bytes.len();
        for number in [*flags, u32::try_from(pos).unwrap(), len(key), len(value)] {
            table.extend(number.to_le_bytes());
        }
        bytes.extend(*key);
        bytes.extend(*value);
    }
    table.extend(bytes);
    table
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
}

/// The value of a bucket with pages of its own.
fn bucket(root: u64, sequence: u64) -> Vec<u8> {
    [root.to_le_bytes(), sequence.to_le_bytes()].concat()
}

/// The value of a bucket that lies within its value.
fn inline(sequence: u64, elements: &[(u32, &[u8], &[u8])]) -> Vec<u8> {
    let mut value = bucket(0, sequence);
    value.extend([0; 8]);
    value.extend(KIND_LEAF.to_le_bytes());
    value.extend(u16::try_from(elements.len()).unwrap().to_le_bytes());
    value.extend([0; 4]);
    value.extend(leaf_body(elements));
    value
}

fn record(id: usize, name: &str, rest: &str) -> String {
    format!(r#"{{"id":{id},"username":"{name}","home_dir":"/srv/{name}","uid":0{rest}}}"#)
}

const V3: &str = r#","status":1,"permissions":{"/":["*"]}"#;

/// A file with these records, of the given version or of none.
fn file_of(records: &[(&str, String)], version: Option<&str>) -> Vec<u8> {
    let mut maker = Maker::new();
    let elements: Vec<_> =
        records.iter().map(|(name, record)| (0, name.as_bytes(), record.as_bytes())).collect();
    let users = maker.leaf(&elements);
    let users = bucket(users, 50);
    let version = version.map(|version| inline(0, &[(0, b"version", version.as_bytes())]));
    let mut roots: Vec<(u32, &[u8], &[u8])> = Vec::new();
    if let Some(version) = &version {
        roots.push((1, b"db_version", version));
    }
    roots.push((1, b"users", &users));
    let root = maker.leaf(&roots);
    maker.finish(root)
}

fn import_error(data: &[u8]) -> String {
    import::users(data).unwrap_err()
}

#[test]
fn a_genuine_file_is_read() {
    let data = reference();
    let root = file::read(&data).unwrap();
    let names: Vec<_> = root.entries.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
    assert_eq!(names, ["db_version", "users", "users_id_idx"]);
    let Some(Entry::Bucket(index)) = root.get(b"users_id_idx") else { panic!("it is missing") };
    assert_eq!(index.get(&4_u64.to_be_bytes()), Some(&Entry::Value(b"unix")));

    let contents = import::users(&data).unwrap();
    assert_eq!(contents.last_id, 4);
    let by_name = |name: &str| contents.users.iter().find(|user| user.username == name).unwrap();
    assert_eq!(contents.users.len(), 4);
    let anna = by_name("anna");
    assert_eq!((anna.id, anna.quota_size, anna.quota_files, anna.max_sessions), (1, 1 << 30, 1000, 2));
    assert!(anna.password.starts_with("$argon2id$"));
    let bjorn = by_name("björn");
    assert_eq!((bjorn.upload_bandwidth, bjorn.download_bandwidth), (128, 256));
    assert_eq!(bjorn.filters.denied(), ["10.0.0.0/8"]);
    let at = |user: &User, path: &str| user.permissions.at(&VPath::parse(path.as_bytes()).unwrap());
    assert_eq!(at(bjorn, "/in/x"), Perms::LIST | Perms::UPLOAD | Perms::OVERWRITE);
    let key_only = by_name("key only");
    assert!(!key_only.active && key_only.password.is_empty() && key_only.public_keys.len() == 1);
    assert_eq!(at(key_only, "/a <b> & c"), Perms::ALL);
    assert_eq!(by_name("unix").home_dir, Path::new("/srv/data/unix"));
}

#[test]
fn the_older_state_counts_when_the_newer_one_is_damaged() {
    let mut damaged = reference();
    let newer = file::meta(&damaged).unwrap();
    damaged[0x40] ^= 1;
    let older = file::meta(&damaged).unwrap();
    assert_eq!((newer.txid, older.txid), (10, 9));
    assert!(import::users(&damaged).is_ok_and(|contents| contents.users.len() <= 4));
    damaged[PAGE + 0x40] ^= 1;
    assert_eq!(import_error(&damaged), "is damaged: neither of its meta pages is valid");
}

#[test]
fn branch_pages_overflow_pages_and_nested_buckets() {
    let long = "x".repeat(3 * PAGE);
    let records: Vec<(String, String)> = (1..=600)
        .map(|id| {
            let name = format!("user{id:04}");
            let keys = if id == 300 { &*long } else { "short" };
            let record = record(id, &name, &format!("{V3},\"public_keys\":[\"{keys}\"]"));
            (name, record)
        })
        .collect();
    let mut maker = Maker::new();
    // Three levels: a root over branches over leaves of ten.
    let mut leaves: Vec<(&[u8], u64)> = Vec::new();
    for part in records.chunks(10) {
        let elements: Vec<_> =
            part.iter().map(|(name, record)| (0, name.as_bytes(), record.as_bytes())).collect();
        leaves.push((part[0].0.as_bytes(), maker.leaf(&elements)));
    }
    let branches: Vec<_> = leaves.chunks(7).map(|part| (part[0].0, maker.branch(part))).collect();
    let users = bucket(maker.branch(&branches), 1000);
    let inner = inline(3, &[(0, b"deep", b"value")]);
    let outer = inline(2, &[(0, b"a", b"b"), (1, b"inner", &inner)]);
    let version = inline(0, &[(0, b"version", br#"{"version":3}"#)]);
    let root = maker.leaf(&[(1, b"db_version", &version), (1, b"others", &outer), (1, b"users", &users)]);
    let data = maker.finish(root);

    let contents = import::users(&data).unwrap();
    assert_eq!((contents.users.len(), contents.last_id), (600, 1000));
    assert!(contents.users.iter().zip(&records).all(|(user, (name, _))| user.username == *name));
    assert_eq!(contents.users[299].public_keys, [long.as_str()]);
    let root = file::read(&data).unwrap();
    let Some(Entry::Bucket(others)) = root.get(b"others") else { panic!("it is missing") };
    let Some(Entry::Bucket(inner)) = others.get(b"inner") else { panic!("it is missing") };
    assert_eq!((inner.sequence, inner.get(b"deep")), (3, Some(&Entry::Value(b"value"))));
}

#[test]
fn records_of_every_version() {
    let list = r#","permissions":["list","download"]"#;
    let anna = |rest: &str| vec![("anna", record(7, "anna", rest))];
    let list_download = Perms::LIST | Perms::DOWNLOAD;
    for (version, rest, perms) in [
        (None, list.to_owned(), list_download),
        (None, format!(r#"{list},"status":0"#), list_download),
        (Some(r#"{"Version":1}"#), r#","permissions":{"/":["*"]}"#.to_owned(), Perms::ALL),
        (Some(r#"{"Version":2}"#), format!(r#"{list},"status":1"#), list_download),
        (Some(r#"{"version":3}"#), V3.to_owned(), Perms::ALL),
    ] {
        let contents = import::users(&file_of(&anna(&rest), version)).unwrap();
        let [user] = contents.users.as_slice() else { panic!("{version:?}") };
        assert!(user.active, "{version:?} {rest}");
        assert_eq!((user.id, contents.last_id), (7, 50));
        assert_eq!(user.permissions.at(&VPath::parse(b"/x").unwrap()), perms, "{version:?}");
    }
    let used = r#","used_quota_size":5,"used_quota_files":6,"last_quota_update":7,"last_login":8"#;
    let contents = import::users(&file_of(&anna(&format!("{V3}{used}")), Some(r#"{"Version":3}"#))).unwrap();
    let user = &contents.users[0];
    assert_eq!(
        (user.used.size_bytes, user.used.files, user.last_quota_update, user.last_login),
        (5, 6, 7, 8)
    );
    let inactive = anna(r#","permissions":["*"],"status":0"#);
    assert!(!import::users(&file_of(&inactive, Some(r#"{"Version":2}"#))).unwrap().users[0].active);
}

#[test]
fn what_cannot_be_imported_is_named() {
    let v3 = Some(r#"{"Version":3}"#);
    let one = |record: String| file_of(&[("anna", record)], v3);
    for (data, named) in [
        (file_of(&[], Some(r#"{"Version":4}"#)), "has records of version 4"),
        (file_of(&[], Some("{}")), "no readable version"),
        (one("{".into()), "unreadable record for user \"anna\""),
        (one(record(1, "berta", V3)), "it is about \"berta\""),
        (one(record(0, "anna", V3)), "its id 0"),
        (one(record(1, "anna", &format!(r#"{V3},"filesystem":{{}}"#))), "unknown field \"filesystem\""),
        (one(record(1, "anna", r#","permissions":{"/":["fly"]}"#)), "fly"),
        (
            file_of(&[("anna", record(1, "anna", V3)), ("berta", record(1, "berta", V3))], v3),
            "user \"berta\": its id 1",
        ),
        (reference()[..5 * PAGE].to_vec(), "it is cut short: 5 pages"),
        (reference()[..100].to_vec(), "cut short"),
        (vec![0; 3 * PAGE], "neither of its meta pages"),
    ] {
        let problem = import_error(&data);
        assert!(problem.contains(named), "{problem}");
    }
}

#[test]
fn files_that_mean_harm_end_soon() {
    let v: &[u8] = b"v";
    let attempt = |make: &dyn Fn(&mut Maker) -> u64| {
        let mut maker = Maker::new();
        let root = make(&mut maker);
        let data = maker.finish(root);
        let started = Instant::now();
        let problem = file::read(&data).unwrap_err().to_string();
        assert!(started.elapsed() < Duration::from_secs(2), "{problem}");
        problem
    };
    for (make, named) in [
        ((&|m: &mut Maker| m.branch(&[(b"a", 3)])) as &dyn Fn(&mut Maker) -> u64, "page 3 is used twice"),
        (&|m| m.branch(&[(b"a", 0)]), "page 0 is used twice"),
        (&|m| m.branch(&[(b"a", u64::MAX)]), "is referred to"),
        (&|m| m.branch(&[]), "without children"),
        (&|m| m.page(KIND_LEAF, 300, &[]), "less room than elements"),
        (&|m| m.page(7, 0, &[]), "neither branch nor leaf"),
        (&|m| m.leaf(&[(0, b"b", v), (0, b"a", v)]), "out of order"),
        (&|m| m.leaf(&[(0, b"a", v), (0, b"a", v)]), "out of order"),
        (&|m| m.leaf(&[(1, b"a", v)]), "shorter than its header"),
        (&|m| m.leaf(&[(1, b"a", &bucket(3, 0))]), "page 3 is used twice"),
        (&|m| m.leaf(&[(1, b"a", &bucket(0, 0))]), "is no leaf"),
        (
            &|m| {
                // Hundreds of elements, each of which is most of the page.
                let mut body = Vec::new();
                for index in 0..200_u32 {
                    let at = 16 * (200 - index);
                    for number in [0, at + index, 1, 3800 - 16 * 200] {
                        body.extend(number.to_le_bytes());
                    }
                }
                body.extend(0..=250);
                m.page(KIND_LEAF, 200, &body)
            },
            "lies outside",
        ),
        (
            &|m| {
                let mut value = inline(0, &[(0, b"k", v)]);
                for _ in 0..20 {
                    value = inline(0, &[(1, b"k", &value)]);
                }
                m.leaf(&[(1, b"k", &value)])
            },
            "within each other",
        ),
        (
            &|m| {
                let mut page = m.leaf(&[(0, b"k", v)]);
                for _ in 0..100 {
                    page = m.branch(&[(b"k", page)]);
                }
                page
            },
            "levels deep",
        ),
    ] {
        let problem = attempt(make);
        assert!(problem.contains(named), "{problem} is not {named}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever happens to a genuine file, it is read or refused; what is read is not more than was there.
    #[test]
    fn mutated_files_are_read_or_refused(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        headers in proptest::collection::vec((0_usize..16, 0_usize..48, any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut data = reference();
        for (index, byte) in changes {
            let at = index.index(data.len());
            data[at] = byte;
        }
        for (page, offset, byte) in headers {
            // Where the numbers are that lead the reader.
            data[page * PAGE + offset] = byte;
        }
        if let Some(cut) = cut {
            let at = cut.index(data.len());
            data.truncate(at);
        }
        if let Ok(contents) = import::users(&data) {
            prop_assert!(contents.users.len() <= data.len() / 64);
        }
    }

    #[test]
    fn noise_is_refused(data in proptest::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(file::read(&data).is_err());
    }
}
