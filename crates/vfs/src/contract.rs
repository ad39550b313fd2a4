//! The suite that every [`Storage`] must pass: each promise of the three traits, and each error, as a
//! statement about what a caller sees. What only some backends have (links out of the tree, pipes, owners'
//! rights) is tested where they are.
//!
//! It panics at the first broken promise, as a test does.
#![expect(clippy::unwrap_used, reason = "this is a test suite")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::{
    BufferPool, DirEntry, File, FileType, FsError, Links, OpenOptions, SetAttrs, Storage, Target, Timestamp,
    VPath,
};

/// Expects an error of a certain kind.
macro_rules! fails {
    ($result:expr, $kind:pat) => {
        match $result {
            Err($kind) => {}
            Err(error) => panic!("{}: wrong error {error:?}", stringify!($result)),
            Ok(_) => panic!("{}: succeeded", stringify!($result)),
        }
    };
}

const READ: OpenOptions =
    OpenOptions { read: true, write: false, create: false, create_new: false, truncate: false, mode: None };
const WRITE: OpenOptions = OpenOptions { read: false, write: true, ..READ };
const CREATE: OpenOptions = OpenOptions { read: true, write: true, create: true, ..READ };
const CREATE_NEW: OpenOptions = OpenOptions { create: false, create_new: true, ..CREATE };

/// Runs everything, each part on a storage of its own: `make` gives an empty one.
///
/// # Panics
///
/// If the storage breaks a promise.
pub async fn suite(make: impl AsyncFn() -> Arc<dyn Storage>) {
    opening(&*make().await).await;
    reading_and_writing(&*make().await).await;
    open_files(&*make().await).await;
    attributes(&*make().await).await;
    directories(&*make().await).await;
    listing(&*make().await).await;
    removing(&*make().await).await;
    symbolic_links(&*make().await).await;
    hard_links(&*make().await).await;
    renaming(&*make().await).await;
    resolving(&*make().await).await;
    without_links(&*make().await).await;
    the_root(&*make().await).await;
    names_are_bytes(&*make().await).await;
    in_parallel(make().await).await;
}

fn path(text: &str) -> VPath {
    VPath::parse(text.as_bytes()).unwrap()
}

async fn put(storage: &dyn Storage, name: &str, data: &[u8]) {
    let file = storage.open(&path(name), &OpenOptions { truncate: true, ..CREATE }).await.unwrap();
    file.write_at(0, vec![Bytes::copy_from_slice(data)]).await.unwrap();
    file.close().await.unwrap();
}

async fn get(storage: &dyn Storage, name: &str) -> Vec<u8> {
    read(&*storage.open(&path(name), &READ).await.unwrap(), 0, 200_000).await
}

async fn read(file: &dyn File, offset: u64, room: usize) -> Vec<u8> {
    let pool = BufferPool::new();
    file.read_at(offset, pool.take(room)).await.unwrap().filled().to_vec()
}

async fn exists(storage: &dyn Storage, name: &str) -> bool {
    storage.metadata(&path(name), Links::Keep).await.is_ok()
}

async fn list(storage: &dyn Storage, dir: &str, at_most: usize) -> BTreeMap<Vec<u8>, DirEntry> {
    let mut stream = storage.read_dir(&path(dir)).await.unwrap();
    let mut entries = BTreeMap::new();
    loop {
        let batch = stream.next(at_most).await.unwrap();
        assert!(batch.len() <= at_most);
        if batch.is_empty() {
            break;
        }
        for entry in batch {
            let name = entry.name.clone();
            assert!(entries.insert(name, entry).is_none(), "an entry came twice");
        }
    }
    assert!(stream.next(at_most).await.unwrap().is_empty(), "the end stays the end");
    entries
}

async fn opening(storage: &dyn Storage) {
    fails!(storage.open(&path("/a"), &READ).await, FsError::NotFound);
    fails!(storage.open(&path("/a"), &WRITE).await, FsError::NotFound);
    fails!(storage.open(&path("/no/a"), &CREATE).await, FsError::NotFound);
    fails!(storage.open(&path("/a"), &OpenOptions::default()).await, FsError::InvalidInput(_));
    let cuts = OpenOptions { truncate: true, ..READ };
    fails!(storage.open(&path("/a"), &cuts).await, FsError::InvalidInput(_));
    let creates = OpenOptions { create: true, ..READ };
    fails!(storage.open(&path("/a"), &creates).await, FsError::InvalidInput(_));
    assert!(!exists(storage, "/a").await);

    put(storage, "/a", b"one").await;
    fails!(storage.open(&path("/a"), &CREATE_NEW).await, FsError::Exists);
    fails!(storage.open(&path("/a/b"), &READ).await, FsError::NotDir);
    fails!(storage.open(&path("/a/b"), &CREATE).await, FsError::NotDir);
    assert_eq!(get(storage, "/a").await, b"one");
    storage.open(&path("/a"), &CREATE).await.unwrap();
    assert_eq!(get(storage, "/a").await, b"one", "create keeps what is there");
    storage.open(&path("/a"), &OpenOptions { truncate: true, ..WRITE }).await.unwrap();
    assert_eq!(get(storage, "/a").await, b"", "truncate does not");

    storage.create_dir(&path("/d"), 0o777).await.unwrap();
    for how in [READ, WRITE, CREATE] {
        fails!(storage.open(&path("/d"), &how).await, FsError::IsDir);
        fails!(storage.open(&path("/"), &how).await, FsError::IsDir);
    }
    fails!(storage.open(&path("/d"), &CREATE_NEW).await, FsError::Exists);

    let file = storage.open(&path("/m"), &OpenOptions { mode: Some(0o600), ..CREATE_NEW }).await.unwrap();
    assert_eq!(file.metadata().await.unwrap().mode, 0o600);
}

async fn reading_and_writing(storage: &dyn Storage) {
    let file = storage.open(&path("/f"), &CREATE_NEW).await.unwrap();
    assert!(read(&*file, 0, 10).await.is_empty());
    file.write_at(0, vec![]).await.unwrap();
    file.write_at(0, vec![Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"cdef")])
        .await
        .unwrap();
    assert_eq!(read(&*file, 0, 10).await, b"abcdef");
    assert_eq!(read(&*file, 2, 3).await, b"cde");
    assert_eq!(read(&*file, 6, 10).await, b"");
    assert_eq!(read(&*file, 1 << 40, 10).await, b"");
    assert_eq!(read(&*file, u64::MAX, 10).await, b"");

    file.write_at(8, vec![Bytes::from_static(b"xy")]).await.unwrap();
    assert_eq!(read(&*file, 0, 100).await, b"abcdef\0\0xy", "what was never written is zero");
    fails!(file.write_at(u64::MAX, vec![Bytes::from_static(b"x")]).await, FsError::InvalidInput(_));

    let mut buf = BufferPool::new().take(4);
    buf.put_header(b"head");
    assert_eq!(file.read_at(0, buf).await.unwrap().filled(), b"headabcd");

    // More pieces than one system call takes, and a length that is no multiple of a page.
    let pieces: Vec<Bytes> = (0..3000u32).map(|i| Bytes::copy_from_slice(&[(i % 251) as u8; 37])).collect();
    let whole = pieces.concat();
    file.write_at(5, pieces).await.unwrap();
    assert_eq!(read(&*file, 5, 200_000).await, whole);
    assert_eq!(file.metadata().await.unwrap().size, 5 + whole.len() as u64);
    file.sync().await.unwrap();
    file.close().await.unwrap();
    assert_eq!(get(storage, "/f").await[5..], whole);

    let reader = storage.open(&path("/f"), &READ).await.unwrap();
    fails!(reader.write_at(0, vec![Bytes::from_static(b"no")]).await, FsError::Denied);
    fails!(reader.set_attrs(&SetAttrs { size: Some(0), ..SetAttrs::default() }).await, FsError::Denied);
    let writer = storage.open(&path("/f"), &WRITE).await.unwrap();
    fails!(writer.read_at(0, BufferPool::new().take(1)).await, FsError::Denied);
}

async fn open_files(storage: &dyn Storage) {
    put(storage, "/f", b"data").await;
    let file = storage.open(&path("/f"), &CREATE).await.unwrap();
    storage.rename(&path("/f"), &path("/g"), Target::Absent).await.unwrap();
    file.write_at(4, vec![Bytes::from_static(b"!")]).await.unwrap();
    assert_eq!(get(storage, "/g").await, b"data!", "an open file is the file, not its name");
    let metadata = storage.metadata(&path("/g"), Links::Follow).await.unwrap();
    assert_eq!(file.metadata().await.unwrap().identity, metadata.identity);

    let when = Timestamp { seconds: 1_000_000_000, nanos: 0 };
    let attrs = SetAttrs { size: Some(2), mode: Some(0o640), modified: Some(when), ..SetAttrs::default() };
    file.set_attrs(&attrs).await.unwrap();
    let metadata = file.metadata().await.unwrap();
    assert_eq!((metadata.size, metadata.mode, metadata.modified), (2, 0o640, when));

    storage.remove_file(&path("/g")).await.unwrap();
    assert_eq!(read(&*file, 0, 10).await, b"da", "and lives without a name");
    file.close().await.unwrap();
    file.close().await.unwrap();
}

async fn attributes(storage: &dyn Storage) {
    fails!(storage.metadata(&path("/f"), Links::Follow).await, FsError::NotFound);
    fails!(storage.set_attrs(&path("/f"), &SetAttrs::default(), Links::Follow).await, FsError::NotFound);
    put(storage, "/f", b"12345").await;
    let metadata = storage.metadata(&path("/f"), Links::Follow).await.unwrap();
    assert!(metadata.is_file());
    assert_eq!((metadata.size, metadata.links), (5, 1));
    assert!(metadata.modified.seconds > 1_700_000_000);
    fails!(storage.metadata(&path("/f/x"), Links::Follow).await, FsError::NotDir);
    let other = storage.metadata(&path("/"), Links::Follow).await.unwrap();
    assert!(other.is_dir());
    assert_ne!(other.identity, metadata.identity);

    let (a, m) =
        (Timestamp { seconds: 1_234_567_890, nanos: 500_000_000 }, Timestamp { seconds: -86_400, nanos: 0 });
    let attrs = SetAttrs {
        size: Some(9),
        mode: Some(0o4751),
        uid: Some(metadata.uid),
        gid: Some(metadata.gid),
        accessed: Some(a),
        modified: Some(m),
    };
    storage.set_attrs(&path("/f"), &attrs, Links::Follow).await.unwrap();
    let changed = storage.metadata(&path("/f"), Links::Follow).await.unwrap();
    assert_eq!((changed.size, changed.mode & 0o777, changed.accessed, changed.modified), (9, 0o751, a, m));
    assert_eq!((changed.uid, changed.gid), (metadata.uid, metadata.gid));
    assert_eq!(get(storage, "/f").await, b"12345\0\0\0\0");

    // One part leaves the others alone.
    let only = SetAttrs { mode: Some(0o600), ..SetAttrs::default() };
    storage.set_attrs(&path("/f"), &only, Links::Follow).await.unwrap();
    let only = SetAttrs { accessed: Some(m), ..SetAttrs::default() };
    storage.set_attrs(&path("/f"), &only, Links::Follow).await.unwrap();
    let changed = storage.metadata(&path("/f"), Links::Follow).await.unwrap();
    assert_eq!((changed.mode, changed.accessed, changed.modified), (0o600, m, m));

    storage.create_dir(&path("/d"), 0o777).await.unwrap();
    let attrs = SetAttrs { mode: Some(0o700), modified: Some(a), ..SetAttrs::default() };
    storage.set_attrs(&path("/d"), &attrs, Links::Keep).await.unwrap();
    let changed = storage.metadata(&path("/d"), Links::Keep).await.unwrap();
    assert_eq!((changed.mode, changed.modified), (0o700, a));
    let size = SetAttrs { size: Some(0), ..SetAttrs::default() };
    fails!(storage.set_attrs(&path("/d"), &size, Links::Follow).await, FsError::IsDir);

    // Numbers that mean something else to a kernel.
    for attrs in [
        SetAttrs { uid: Some(u32::MAX), ..SetAttrs::default() },
        SetAttrs { gid: Some(u32::MAX), ..SetAttrs::default() },
        SetAttrs { modified: Some(Timestamp { seconds: 0, nanos: 0x3fff_ffff }), ..SetAttrs::default() },
        SetAttrs { size: Some(u64::MAX), ..SetAttrs::default() },
    ] {
        fails!(storage.set_attrs(&path("/f"), &attrs, Links::Follow).await, FsError::InvalidInput(_));
        let file = storage.open(&path("/f"), &CREATE).await.unwrap();
        fails!(file.set_attrs(&attrs).await, FsError::InvalidInput(_));
    }

    let space = storage.space(&path("/f")).await.unwrap();
    assert!(space.fragment_size > 0 && space.blocks > 0 && space.blocks_free <= space.blocks);
    fails!(storage.space(&path("/none")).await, FsError::NotFound);
}

async fn directories(storage: &dyn Storage) {
    storage.create_dir(&path("/d"), 0o700).await.unwrap();
    let metadata = storage.metadata(&path("/d"), Links::Follow).await.unwrap();
    assert!(metadata.is_dir());
    assert_eq!(metadata.mode & 0o777, 0o700);
    fails!(storage.create_dir(&path("/d"), 0o777).await, FsError::Exists);
    fails!(storage.create_dir(&path("/no/d"), 0o777).await, FsError::NotFound);
    put(storage, "/f", b"").await;
    fails!(storage.create_dir(&path("/f"), 0o777).await, FsError::Exists);
    fails!(storage.create_dir(&path("/f/d"), 0o777).await, FsError::NotDir);
    storage.create_dir(&path("/d/e"), 0o777).await.unwrap();
    put(storage, "/d/e/f", b"deep").await;
    assert_eq!(get(storage, "/d/e/f").await, b"deep");
}

async fn listing(storage: &dyn Storage) {
    fails!(storage.read_dir(&path("/no")).await, FsError::NotFound);
    put(storage, "/f", b"123").await;
    fails!(storage.read_dir(&path("/f")).await, FsError::NotDir);
    storage.create_dir(&path("/d"), 0o777).await.unwrap();
    assert!(list(storage, "/d", 10).await.is_empty());
    for i in 0..300 {
        put(storage, &format!("/d/{i}"), b"x").await;
    }
    assert_eq!(list(storage, "/d", 7).await.len(), 300);
    assert_eq!(list(storage, "/d", 1).await.len(), 300);
    assert_eq!(list(storage, "/d", 100_000).await.len(), 300);
    storage.symlink(&path("/f"), &path("/l")).await.unwrap();
    let root = list(storage, "/", 10).await;
    assert_eq!(root.keys().map(Vec::as_slice).collect::<Vec<_>>(), [b"d", b"f", b"l"]);
    assert_eq!(root[&b"f"[..]].metadata.size, 3);
    assert_eq!(root[&b"l"[..]].metadata.file_type, FileType::Symlink);
    storage.symlink(&path("/d"), &path("/ld")).await.unwrap();
    assert_eq!(list(storage, "/ld", 100).await.len(), 300);
}

async fn removing(storage: &dyn Storage) {
    fails!(storage.remove_file(&path("/no")).await, FsError::NotFound);
    fails!(storage.remove_dir(&path("/no")).await, FsError::NotFound);
    put(storage, "/f", b"").await;
    storage.create_dir(&path("/d"), 0o777).await.unwrap();
    put(storage, "/d/f", b"").await;
    fails!(storage.remove_file(&path("/d")).await, FsError::IsDir);
    fails!(storage.remove_dir(&path("/f")).await, FsError::NotDir);
    fails!(storage.remove_dir(&path("/d")).await, FsError::NotEmpty);
    fails!(storage.remove_file(&path("/f/x")).await, FsError::NotDir);
    storage.symlink(&path("/d"), &path("/l")).await.unwrap();
    fails!(storage.remove_dir(&path("/l")).await, FsError::NotDir);
    storage.remove_file(&path("/l")).await.unwrap();
    assert!(exists(storage, "/d/f").await, "removing a link leaves its target");
    storage.remove_file(&path("/d/f")).await.unwrap();
    storage.remove_dir(&path("/d")).await.unwrap();
    storage.remove_file(&path("/f")).await.unwrap();
    assert!(list(storage, "/", 10).await.is_empty());
}

async fn symbolic_links(storage: &dyn Storage) {
    storage.create_dir(&path("/d"), 0o777).await.unwrap();
    put(storage, "/d/f", b"data").await;
    storage.symlink(&path("/d/f"), &path("/l")).await.unwrap();
    storage.symlink(&path("/l"), &path("/d/l2")).await.unwrap();
    fails!(storage.symlink(&path("/x"), &path("/l")).await, FsError::Exists);
    fails!(storage.symlink(&path("/x"), &path("/d")).await, FsError::Exists);
    fails!(storage.symlink(&path("/x"), &path("/no/l")).await, FsError::NotFound);
    assert_eq!(storage.read_link(&path("/l")).await.unwrap(), b"d/f");
    assert_eq!(storage.read_link(&path("/d/l2")).await.unwrap(), b"../l");
    fails!(storage.read_link(&path("/d/f")).await, FsError::InvalidInput(_));
    fails!(storage.read_link(&path("/d")).await, FsError::InvalidInput(_));
    fails!(storage.read_link(&path("/no")).await, FsError::NotFound);

    assert_eq!(get(storage, "/d/l2").await, b"data");
    assert!(storage.metadata(&path("/l"), Links::Keep).await.unwrap().is_symlink());
    assert!(storage.metadata(&path("/l"), Links::Follow).await.unwrap().is_file());

    // A link in a directory that was reached through a link leads to the same place.
    storage.create_dir(&path("/d/e"), 0o777).await.unwrap();
    storage.symlink(&path("/d/e"), &path("/short")).await.unwrap();
    storage.symlink(&path("/d/f"), &path("/short/l")).await.unwrap();
    assert_eq!(get(storage, "/d/e/l").await, b"data");
    assert_eq!(storage.read_link(&path("/short/l")).await.unwrap(), b"../f");

    // Dangling links, loops, the last component and what is before it.
    storage.symlink(&path("/d/new"), &path("/dangling")).await.unwrap();
    fails!(storage.open(&path("/dangling"), &READ).await, FsError::NotFound);
    fails!(storage.metadata(&path("/dangling"), Links::Follow).await, FsError::NotFound);
    fails!(storage.open(&path("/dangling"), &CREATE_NEW).await, FsError::Exists);
    fails!(storage.create_dir(&path("/dangling"), 0o777).await, FsError::Exists);
    put(storage, "/dangling", b"created").await;
    assert_eq!(get(storage, "/d/new").await, b"created");
    storage.symlink(&path("/loop2"), &path("/loop1")).await.unwrap();
    storage.symlink(&path("/loop1"), &path("/loop2")).await.unwrap();
    fails!(storage.open(&path("/loop1"), &READ).await, FsError::Io(_));
    fails!(storage.metadata(&path("/loop1/x"), Links::Keep).await, FsError::Io(_));
    fails!(storage.open(&path("/l/x"), &READ).await, FsError::NotDir);

    // Attributes of the link and of its target.
    let when = Timestamp { seconds: 1_111_111_111, nanos: 0 };
    let times = SetAttrs { modified: Some(when), ..SetAttrs::default() };
    storage.set_attrs(&path("/l"), &times, Links::Keep).await.unwrap();
    assert_eq!(storage.metadata(&path("/l"), Links::Keep).await.unwrap().modified, when);
    assert_ne!(storage.metadata(&path("/l"), Links::Follow).await.unwrap().modified, when);
    let mode = SetAttrs { mode: Some(0o604), ..SetAttrs::default() };
    fails!(storage.set_attrs(&path("/l"), &mode, Links::Keep).await, FsError::Unsupported);
    storage.set_attrs(&path("/l"), &mode, Links::Follow).await.unwrap();
    assert_eq!(storage.metadata(&path("/d/f"), Links::Keep).await.unwrap().mode, 0o604);
    let size = SetAttrs { size: Some(1), ..SetAttrs::default() };
    fails!(storage.set_attrs(&path("/l"), &size, Links::Keep).await, FsError::Unsupported);
    storage.set_attrs(&path("/l"), &size, Links::Follow).await.unwrap();
    assert_eq!(get(storage, "/d/f").await, b"d");
}

async fn hard_links(storage: &dyn Storage) {
    put(storage, "/f", b"data").await;
    storage.hard_link(&path("/f"), &path("/g")).await.unwrap();
    let (f, g) = (
        storage.metadata(&path("/f"), Links::Keep).await.unwrap(),
        storage.metadata(&path("/g"), Links::Keep).await.unwrap(),
    );
    assert_eq!((f.identity, f.links), (g.identity, 2));
    fails!(storage.hard_link(&path("/f"), &path("/g")).await, FsError::Exists);
    fails!(storage.hard_link(&path("/no"), &path("/h")).await, FsError::NotFound);
    fails!(storage.hard_link(&path("/f"), &path("/no/h")).await, FsError::NotFound);
    storage.create_dir(&path("/d"), 0o777).await.unwrap();
    fails!(storage.hard_link(&path("/d"), &path("/h")).await, FsError::Denied);
    storage.symlink(&path("/f"), &path("/l")).await.unwrap();
    storage.hard_link(&path("/l"), &path("/l2")).await.unwrap();
    assert!(storage.metadata(&path("/l2"), Links::Keep).await.unwrap().is_symlink());
    // A rename between two names of a file does nothing, as POSIX has it.
    storage.rename(&path("/f"), &path("/g"), Target::Replace).await.unwrap();
    assert!(exists(storage, "/f").await && exists(storage, "/g").await);
    storage.remove_file(&path("/f")).await.unwrap();
    assert_eq!(get(storage, "/g").await, b"data");
    assert_eq!(storage.metadata(&path("/g"), Links::Keep).await.unwrap().links, 1);
}

async fn renaming(storage: &dyn Storage) {
    for target in [Target::Absent, Target::Replace] {
        fails!(storage.rename(&path("/no"), &path("/x"), target).await, FsError::NotFound);
        put(storage, "/f", b"one").await;
        fails!(storage.rename(&path("/f"), &path("/no/x"), target).await, FsError::NotFound);
        fails!(storage.rename(&path("/f"), &path("/f/x"), target).await, FsError::NotDir);
        storage.rename(&path("/f"), &path("/g"), target).await.unwrap();
        assert!(!exists(storage, "/f").await);
        assert_eq!(get(storage, "/g").await, b"one");
        storage.remove_file(&path("/g")).await.unwrap();

        storage.create_dir(&path("/d"), 0o777).await.unwrap();
        storage.create_dir(&path("/d/e"), 0o777).await.unwrap();
        fails!(storage.rename(&path("/d"), &path("/d/e/d"), target).await, FsError::InvalidInput(_));
        fails!(storage.rename(&path("/d"), &path("/d/d"), target).await, FsError::InvalidInput(_));
        assert_eq!(list(storage, "/d", 10).await.len(), 1);
        storage.rename(&path("/d/e"), &path("/e"), target).await.unwrap();
        storage.remove_dir(&path("/e")).await.unwrap();
        storage.remove_dir(&path("/d")).await.unwrap();
    }

    put(storage, "/a", b"a").await;
    put(storage, "/b", b"b").await;
    storage.create_dir(&path("/d"), 0o777).await.unwrap();
    storage.create_dir(&path("/full"), 0o777).await.unwrap();
    put(storage, "/full/f", b"").await;
    fails!(storage.rename(&path("/a"), &path("/b"), Target::Absent).await, FsError::Exists);
    fails!(storage.rename(&path("/a"), &path("/a"), Target::Absent).await, FsError::Exists);
    fails!(storage.rename(&path("/d"), &path("/full"), Target::Absent).await, FsError::Exists);
    assert_eq!((get(storage, "/a").await, get(storage, "/b").await), (b"a".to_vec(), b"b".to_vec()));
    storage.rename(&path("/a"), &path("/a"), Target::Replace).await.unwrap();
    storage.rename(&path("/a"), &path("/b"), Target::Replace).await.unwrap();
    assert_eq!(get(storage, "/b").await, b"a");
    fails!(storage.rename(&path("/b"), &path("/d"), Target::Replace).await, FsError::IsDir);
    fails!(storage.rename(&path("/d"), &path("/b"), Target::Replace).await, FsError::NotDir);
    fails!(storage.rename(&path("/d"), &path("/full"), Target::Replace).await, FsError::NotEmpty);
    storage.rename(&path("/full"), &path("/d"), Target::Replace).await.unwrap();
    assert!(exists(storage, "/d/f").await && !exists(storage, "/full").await);

    storage.symlink(&path("/b"), &path("/l")).await.unwrap();
    storage.rename(&path("/l"), &path("/m"), Target::Absent).await.unwrap();
    assert!(storage.metadata(&path("/m"), Links::Keep).await.unwrap().is_symlink(), "a link itself moves");
    fails!(storage.rename(&path("/b"), &path("/m"), Target::Absent).await, FsError::Exists);
    storage.rename(&path("/b"), &path("/m"), Target::Replace).await.unwrap();
    assert!(storage.metadata(&path("/m"), Links::Keep).await.unwrap().is_file(), "and is itself replaced");
}

async fn resolving(storage: &dyn Storage) {
    storage.create_dir(&path("/d"), 0o777).await.unwrap();
    storage.create_dir(&path("/d/e"), 0o777).await.unwrap();
    put(storage, "/d/f", b"").await;
    for (target, link) in [
        ("/d", "/ld"),
        ("/d/f", "/lf"),
        ("/lf", "/d/e/llf"),
        ("/d/new", "/dangling"),
        ("/no/new", "/lost"),
        ("/", "/d/top"),
    ] {
        storage.symlink(&path(target), &path(link)).await.unwrap();
    }
    for (from, follow, keep) in [
        ("/", "/", "/"),
        ("/d/f", "/d/f", "/d/f"),
        ("/d/none", "/d/none", "/d/none"),
        ("/ld", "/d", "/ld"),
        ("/ld/f", "/d/f", "/d/f"),
        ("/ld/none", "/d/none", "/d/none"),
        ("/lf", "/d/f", "/lf"),
        ("/ld/e/llf", "/d/f", "/d/e/llf"),
        ("/dangling", "/d/new", "/dangling"),
        ("/d/top", "/", "/d/top"),
        ("/d/top/ld/top/d/e", "/d/e", "/d/e"),
    ] {
        assert_eq!(storage.resolve(&path(from), Links::Follow).await.unwrap(), path(follow), "{from}");
        assert_eq!(storage.resolve(&path(from), Links::Keep).await.unwrap(), path(keep), "{from} kept");
    }
    fails!(storage.resolve(&path("/no/x"), Links::Follow).await, FsError::NotFound);
    fails!(storage.resolve(&path("/no/x"), Links::Keep).await, FsError::NotFound);
    fails!(storage.resolve(&path("/d/f/x"), Links::Follow).await, FsError::NotDir);
    fails!(storage.resolve(&path("/lost"), Links::Follow).await, FsError::NotFound);
    assert_eq!(storage.resolve(&path("/lost"), Links::Keep).await.unwrap(), path("/lost"));
}

async fn without_links(storage: &dyn Storage) {
    storage.create_dir(&path("/d"), 0o777).await.unwrap();
    put(storage, "/d/f", b"data").await;
    storage.symlink(&path("/d"), &path("/ld")).await.unwrap();
    storage.symlink(&path("/d/f"), &path("/lf")).await.unwrap();
    storage.symlink(&path("/d/new"), &path("/dangling")).await.unwrap();
    let plain = storage.without_links();
    assert_eq!(get(&*plain, "/d/f").await, b"data");
    assert!(plain.metadata(&path("/lf"), Links::Keep).await.unwrap().is_symlink());
    assert_eq!(plain.read_link(&path("/lf")).await.unwrap(), b"d/f");
    assert_eq!(plain.resolve(&path("/lf"), Links::Keep).await.unwrap(), path("/lf"));
    assert_eq!(plain.resolve(&path("/d/new"), Links::Follow).await.unwrap(), path("/d/new"));

    let none = SetAttrs { mode: Some(0o600), ..SetAttrs::default() };
    let cut = SetAttrs { size: Some(0), ..SetAttrs::default() };
    for through in ["/ld/f", "/lf", "/dangling", "/ld/new"] {
        let through = path(through);
        fails!(plain.open(&through, &READ).await, FsError::Link);
        fails!(plain.open(&through, &CREATE).await, FsError::Link);
        fails!(plain.metadata(&through, Links::Follow).await, FsError::Link);
        fails!(plain.set_attrs(&through, &none, Links::Follow).await, FsError::Link);
        fails!(plain.set_attrs(&through, &cut, Links::Follow).await, FsError::Link);
        fails!(plain.resolve(&through, Links::Follow).await, FsError::Link);
        fails!(plain.space(&through).await, FsError::Link);
    }
    fails!(plain.read_dir(&path("/ld")).await, FsError::Link);
    fails!(plain.open(&path("/lf"), &CREATE_NEW).await, FsError::Exists);
    let (through, free) = (path("/ld/f"), path("/free"));
    fails!(plain.metadata(&through, Links::Keep).await, FsError::Link);
    fails!(plain.set_attrs(&through, &none, Links::Keep).await, FsError::Link);
    fails!(plain.set_attrs(&through, &cut, Links::Keep).await, FsError::Link);
    fails!(plain.resolve(&through, Links::Keep).await, FsError::Link);
    fails!(plain.read_link(&through).await, FsError::Link);
    fails!(plain.create_dir(&path("/ld/x"), 0o777).await, FsError::Link);
    fails!(plain.remove_file(&through).await, FsError::Link);
    fails!(plain.remove_dir(&through).await, FsError::Link);
    fails!(plain.symlink(&free, &path("/ld/x")).await, FsError::Link);
    fails!(plain.hard_link(&through, &free).await, FsError::Link);
    fails!(plain.hard_link(&path("/d/f"), &path("/ld/x")).await, FsError::Link);
    for target in [Target::Absent, Target::Replace] {
        fails!(plain.rename(&through, &free, target).await, FsError::Link);
        fails!(plain.rename(&path("/d/f"), &path("/ld/x"), target).await, FsError::Link);
    }
    assert_eq!(get(storage, "/d/f").await, b"data");
    assert_eq!(list(storage, "/d", 10).await.len(), 1, "nothing came, nothing went");
    plain.remove_file(&path("/ld")).await.unwrap();
    plain.without_links().remove_file(&path("/lf")).await.unwrap();
}

async fn the_root(storage: &dyn Storage) {
    let root = VPath::root();
    put(storage, "/f", b"").await;
    fails!(storage.remove_file(&root).await, FsError::Denied);
    fails!(storage.remove_dir(&root).await, FsError::Denied);
    fails!(storage.create_dir(&root, 0o777).await, FsError::Exists);
    fails!(storage.symlink(&path("/f"), &root).await, FsError::Denied);
    fails!(storage.hard_link(&path("/f"), &root).await, FsError::Denied);
    fails!(storage.hard_link(&root, &path("/x")).await, FsError::Denied);
    for target in [Target::Absent, Target::Replace] {
        fails!(storage.rename(&root, &path("/x"), target).await, FsError::Denied);
        fails!(storage.rename(&path("/f"), &root, target).await, FsError::Denied);
    }
    assert!(exists(storage, "/f").await);
    let when = SetAttrs { modified: Some(Timestamp { seconds: 1_000, nanos: 0 }), ..SetAttrs::default() };
    storage.set_attrs(&root, &when, Links::Follow).await.unwrap();
    assert_eq!(storage.metadata(&root, Links::Keep).await.unwrap().modified.seconds, 1_000);
}

async fn names_are_bytes(storage: &dyn Storage) {
    let longest = [b'n'; 255];
    for name in
        [b"caf\xe9".as_slice(), b"\xff\xfe", "caf\u{e9} \u{1f980}".as_bytes(), b" ", b"a\nb", &longest]
    {
        let path = VPath::root().join(name).unwrap();
        storage.open(&path, &CREATE_NEW).await.unwrap();
        assert!(list(storage, "/", 100).await.contains_key(name), "{path}");
        assert_eq!(storage.resolve(&path, Links::Follow).await.unwrap(), path);
        storage.remove_file(&path).await.unwrap();
    }
}

/// Many readers and writers of one file at once, each in its own range.
async fn in_parallel(storage: Arc<dyn Storage>) {
    let file = storage.open(&path("/f"), &CREATE).await.unwrap();
    let tasks: Vec<_> = (0..64u8)
        .map(|i| {
            let file = file.clone();
            tokio::spawn(async move {
                let data = Bytes::from(vec![i; 10_000]);
                file.write_at(u64::from(i) * 10_000, vec![data.clone()]).await.unwrap();
                assert_eq!(read(&*file, u64::from(i) * 10_000, 10_000).await, data);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(file.metadata().await.unwrap().size, 640_000);
}
