//! The door through its public face: sessions, quota, upload modes and permissions over files in memory.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tidegate_core::{
    Attempt, AuthError, Authenticator, Events, FsPolicy, Metrics, OpenStorage, Page, Passwords, Peer, Perms,
    Protocol, QuotaPolicy, Session, Sessions, StoreError, TrackQuota, Transfer, UploadMode, UploadOptions,
    UsageDelta, UsedQuota, User, UserDraft, UserFs, UserStore,
};
use tidegate_vfs::{FsError, Links, MemoryStorage, SetAttrs, Storage, Target, VPath};

/// One user, with the usage that was written.
struct OneUser {
    user: Mutex<User>,
}

#[async_trait]
impl UserStore for OneUser {
    async fn user(&self, name: &str) -> Result<User, StoreError> {
        let user = self.user.lock().unwrap().clone();
        if user.username == name { Ok(user) } else { Err(StoreError::NotFound) }
    }
    async fn user_by_id(&self, _: i64) -> Result<User, StoreError> {
        Ok(self.user.lock().unwrap().clone())
    }
    async fn users(&self, _: &Page) -> Result<Vec<User>, StoreError> {
        self.all_users().await
    }
    async fn all_users(&self) -> Result<Vec<User>, StoreError> {
        Ok(vec![self.user.lock().unwrap().clone()])
    }
    async fn insert(&self, _: &User) -> Result<i64, StoreError> {
        Err(StoreError::Conflict)
    }
    async fn update(&self, user: &User) -> Result<(), StoreError> {
        *self.user.lock().unwrap() = user.clone();
        Ok(())
    }
    async fn delete(&self, _: i64) -> Result<(), StoreError> {
        Err(StoreError::NotFound)
    }
    async fn usage(&self, _: &str) -> Result<UsedQuota, StoreError> {
        Ok(self.user.lock().unwrap().used)
    }
    async fn add_usage(&self, _: &str, delta: UsageDelta, _: i64) -> Result<(), StoreError> {
        let used = &mut self.user.lock().unwrap().used;
        used.size_bytes = (used.size_bytes + delta.size_bytes).max(0);
        used.files = (used.files + delta.files).max(0);
        Ok(())
    }
    async fn set_usage(&self, _: &str, used: UsedQuota, _: i64) -> Result<(), StoreError> {
        self.user.lock().unwrap().used = used;
        Ok(())
    }
    async fn record_login(&self, _: &str, _: i64) -> Result<(), StoreError> {
        Ok(())
    }
    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

struct InMemory(Arc<MemoryStorage>);

#[async_trait]
impl OpenStorage for InMemory {
    async fn open(&self, _: &User) -> Result<Arc<dyn Storage>, FsError> {
        Ok(self.0.clone())
    }
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgzuvqgDEEIKURFp/mZUDstA6g+UdrHZAonNIRdYnS+ anna";

struct House {
    store: Arc<OneUser>,
    storage: Arc<MemoryStorage>,
    authenticator: Authenticator,
    sessions: Sessions,
}

impl House {
    fn new(mode: UploadMode, change: impl FnOnce(&mut UserDraft)) -> Self {
        let mut draft = UserDraft {
            status: 1,
            username: "anna".into(),
            public_keys: vec![KEY.into()],
            home_dir: "/home/anna".into(),
            permissions: BTreeMap::from([("/".into(), vec!["*".into()])]),
            ..UserDraft::default()
        };
        change(&mut draft);
        let store = Arc::new(OneUser { user: Mutex::new(draft.validate(None).unwrap()) });
        let storage = Arc::new(MemoryStorage::new());
        let events = Events::new(Metrics::new(), None);
        let clock: tidegate_core::Clock = Arc::new(|| 1_000_000);
        let sessions = Sessions::new(
            store.clone(),
            Arc::new(InMemory(storage.clone())),
            events.clone(),
            clock.clone(),
            FsPolicy { upload_mode: mode, ..FsPolicy::default() },
            QuotaPolicy { track: TrackQuota::Always, write: true },
        );
        let passwords = Passwords::new(1);
        let authenticator =
            Authenticator::new(store.clone(), passwords, sessions.clone(), events, clock, true);
        Self { store, storage, authenticator, sessions }
    }

    async fn log_in(&self, connection: usize) -> Result<Session, AuthError> {
        let blob = tidegate_core::PublicKeyLine::parse(KEY).unwrap().blob;
        let addr: SocketAddr = "192.0.2.7:4711".parse().unwrap();
        let peer = Peer { addr, connection_id: format!("{connection:064x}").into() };
        let key = tidegate_core::SignedKey { blob: &blob, touched: false };
        self.authenticator.public_key(&Attempt { username: "anna".into(), peer }, key).await
    }

    async fn files(&self) -> UserFs {
        self.log_in(1).await.unwrap().files(Protocol::Sftp)
    }

    fn used(&self) -> (i64, i64) {
        let used = self.store.user.lock().unwrap().used;
        (used.size_bytes, used.files)
    }

    /// What a scan would find.
    async fn scan(&self) -> (i64, i64) {
        let (mut size, mut files, mut dirs) = (0, 0, vec![VPath::root()]);
        while let Some(dir) = dirs.pop() {
            let mut listing = self.storage.read_dir(&dir).await.unwrap();
            loop {
                let entries = listing.next(100).await.unwrap();
                if entries.is_empty() {
                    break;
                }
                for entry in entries {
                    if entry.metadata.is_dir() {
                        dirs.push(dir.join(&entry.name).unwrap());
                    } else if entry.metadata.is_file() {
                        size += entry.metadata.size as i64;
                        files += 1;
                    }
                }
            }
        }
        (size, files)
    }
}

fn path(raw: &str) -> VPath {
    VPath::parse(raw.as_bytes()).unwrap()
}

const NEW: UploadOptions = UploadOptions {
    read: false,
    create: true,
    exclusive: false,
    truncate: true,
    resume: false,
    expected_size: 0,
};

async fn write(transfer: &Transfer, offset: u64, size: usize) -> Result<(), FsError> {
    transfer.write_at(offset, vec![Bytes::from(vec![b'x'; size])]).await
}

async fn put(files: &UserFs, name: &str, size: usize) -> Result<(), FsError> {
    let transfer = files.upload(&path(name), NEW).await?;
    match write(&transfer, 0, size).await {
        Ok(()) => transfer.finish().await,
        Err(error) => {
            transfer.abort("test").await;
            Err(error)
        }
    }
}

async fn size(house: &House, name: &str) -> Option<u64> {
    house.storage.metadata(&path(name), Links::Keep).await.ok().map(|m| m.size)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_logins_at_once_one_fits_a_limit_of_one() {
    let house = Arc::new(House::new(UploadMode::Standard, |draft| draft.max_sessions = 1));
    let logins: Vec<_> = (0..64)
        .map(|i| {
            let house = house.clone();
            tokio::spawn(async move { house.log_in(i).await })
        })
        .collect();
    let mut open = Vec::new();
    for login in logins {
        open.extend(login.await.unwrap());
    }
    assert_eq!(open.len(), 1);
    drop(open);
    assert!(house.log_in(99).await.is_ok(), "the place is given back");
}

#[tokio::test]
async fn a_connection_is_listed_while_a_channel_runs_and_ends_when_it_is_closed() {
    let house = House::new(UploadMode::Standard, |_| {});
    let session = house.log_in(7).await.unwrap();
    let id = session.peer().connection_id.to_string();
    assert!(house.sessions.list().is_empty());
    assert!(!house.sessions.close(&id), "a connection without a channel is not listed");
    let running = session.begin(Protocol::Sftp, String::new());
    let download = session.files(Protocol::Sftp).upload(&path("/a"), NEW).await.unwrap();
    write(&download, 0, 10).await.unwrap();
    let listed = house.sessions.list();
    assert_eq!((listed.len(), listed[0].active_transfers[0].size), (1, 10));
    assert!(house.sessions.close(&id));
    assert!(session.cancelled().is_cancelled());
    download.abort("closed").await;
    drop((running, session, download));
    assert_eq!((house.sessions.list().len(), house.sessions.count()), (0, 0));
}

#[tokio::test]
async fn the_quota_ends_at_the_byte_and_usage_follows_real_sizes() {
    let house = House::new(UploadMode::Standard, |draft| (draft.quota_size, draft.quota_files) = (1000, 3));
    let files = house.files().await;
    put(&files, "/a", 400).await.unwrap();
    put(&files, "/b", 600).await.unwrap();
    assert!(matches!(put(&files, "/c", 1).await, Err(FsError::QuotaExceeded)), "full");
    assert!(matches!(put(&files, "/a", 1).await, Err(FsError::QuotaExceeded)), "full for overwrites too");
    let cut = SetAttrs { size: Some(300), ..SetAttrs::default() };
    files.set_attrs(&path("/a"), &cut, Links::Follow).await.unwrap();
    assert_eq!(house.used(), (900, 2));
    let transfer = files.upload(&path("/c"), NEW).await.unwrap();
    write(&transfer, 0, 100).await.unwrap();
    assert!(matches!(write(&transfer, 100, 1).await, Err(FsError::QuotaExceeded)), "one byte too many");
    assert!(matches!(transfer.finish().await, Err(FsError::QuotaExceeded)), "the upload failed");
    assert_eq!(house.used(), house.scan().await);
    files.rename(&path("/c"), &path("/b")).await.unwrap();
    assert_eq!(house.used(), (400, 2));
    files.hard_link(&path("/a"), &path("/a2")).await.unwrap();
    assert!(matches!(put(&files, "/d", 1).await, Err(FsError::QuotaExceeded)), "too many files");
    files.copy_file(&path("/a"), &path("/b"), true).await.unwrap();
    files
        .set_attrs(&path("/b"), &SetAttrs { size: Some(5), ..SetAttrs::default() }, Links::Follow)
        .await
        .unwrap();
    assert_eq!(house.used(), house.scan().await);
    for name in ["/a", "/a2", "/b"] {
        files.remove_file(&path(name)).await.unwrap();
    }
    assert_eq!((house.used(), house.scan().await), ((0, 0), (0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_uploads_at_once_those_that_fit_succeed() {
    let house = House::new(UploadMode::Atomic, |draft| draft.quota_size = 32 * 100);
    let files = house.files().await;
    let uploads: Vec<_> = (0..64)
        .map(|i| {
            let files = files.clone();
            tokio::spawn(async move { put(&files, &format!("/{i}"), 100).await })
        })
        .collect();
    let mut stored = 0;
    for upload in uploads {
        stored += usize::from(upload.await.unwrap().is_ok());
    }
    assert_eq!(stored, 32);
    assert_eq!((house.used(), house.scan().await), ((3200, 32), (3200, 32)));
}

#[tokio::test]
async fn what_is_left_after_a_failed_upload_depends_on_the_mode() {
    // mode, old file, what is at the path while it is written, and after it failed half-way
    let cases = [
        (UploadMode::Standard, false, Some(10), Some(10)),
        (UploadMode::Standard, true, Some(10), Some(10)),
        (UploadMode::Atomic, false, None, None),
        (UploadMode::Atomic, true, Some(500), Some(500)),
        (UploadMode::AtomicWithResume, false, None, Some(10)),
        (UploadMode::AtomicWithResume, true, Some(500), Some(10)),
    ];
    for (mode, old, during, after) in cases {
        let house = House::new(mode, |_| {});
        let files = house.files().await;
        if old {
            put(&files, "/f", 500).await.unwrap();
        }
        let transfer = files.upload(&path("/f"), NEW).await.unwrap();
        write(&transfer, 0, 10).await.unwrap();
        assert_eq!(size(&house, "/f").await, during, "{mode:?}, old file: {old}");
        let mut listing = files.list(&VPath::root()).await.unwrap();
        let shown = listing.next(10).await.unwrap();
        assert!(shown.iter().all(|entry| entry.name == b"f"), "{mode:?}: temporary files are hidden");
        transfer.abort("the client is gone").await;
        assert_eq!(size(&house, "/f").await, after, "{mode:?}, old file: {old}");
        assert_eq!(house.used(), house.scan().await, "{mode:?}, old file: {old}");
    }
}

#[tokio::test]
async fn resuming_continues_behind_what_is_there_in_every_mode() {
    for mode in [UploadMode::Standard, UploadMode::Atomic, UploadMode::AtomicWithResume] {
        let house = House::new(mode, |_| {});
        let files = house.files().await;
        put(&files, "/f", 500).await.unwrap();
        let how = UploadOptions { create: true, resume: true, ..UploadOptions::default() };
        let transfer = files.upload(&path("/f"), how).await.unwrap();
        assert!(matches!(write(&transfer, 499, 1).await, Err(FsError::InvalidInput(_))), "{mode:?}");
        transfer.abort("wrong offset").await;
        assert_eq!(size(&house, "/f").await, Some(500), "{mode:?}");
        let transfer = files.upload(&path("/f"), how).await.unwrap();
        write(&transfer, 500, 100).await.unwrap();
        transfer.finish().await.unwrap();
        assert_eq!(size(&house, "/f").await, Some(600), "{mode:?}");
        assert_eq!(house.used(), (600, 1), "{mode:?}");
    }
}

#[tokio::test]
async fn no_link_carries_anyone_across_a_permission_boundary() {
    let house = House::new(UploadMode::Standard, |draft| {
        draft.permissions.insert("/secret".into(), vec!["list".into()]);
    });
    let files = house.files().await;
    for dir in ["/open", "/secret"] {
        house.storage.create_dir(&path(dir), 0o755).await.unwrap();
    }
    house.storage.symlink(&path("/secret"), &path("/open/dir")).await.unwrap();
    house.storage.symlink(&path("/secret/file"), &path("/open/file")).await.unwrap();
    assert!(matches!(put(&files, "/secret/file", 1).await, Err(FsError::Denied)));
    assert!(matches!(put(&files, "/open/dir/file", 1).await, Err(FsError::Denied)));
    assert!(matches!(put(&files, "/open/file", 1).await, Err(FsError::Denied)));
    assert!(matches!(files.create_dir(&path("/open/dir/x")).await, Err(FsError::Denied)));
    assert_eq!(size(&house, "/secret/file").await, None);
    put(&files, "/open/own", 1).await.unwrap();
    let hidden = files.rename(&path("/open/own"), &path("/open/dir/own")).await;
    assert!(matches!(hidden, Err(FsError::Denied)));
    assert!(matches!(files.rename(&path("/secret"), &path("/open/moved")).await, Err(FsError::Denied)));
    assert!(matches!(files.rename(&path("/open"), &path("/secret/open")).await, Err(FsError::Denied)));
    assert!(files.list(&path("/open/dir")).await.is_ok(), "list is allowed at both ends");
}

#[tokio::test]
async fn a_handle_reached_through_a_link_gives_no_more_than_its_target() {
    let house = House::new(UploadMode::Standard, |draft| {
        draft.permissions.insert("/drop".into(), vec!["upload".into(), "overwrite".into()]);
    });
    let files = house.files().await;
    house.storage.create_dir(&path("/drop"), 0o755).await.unwrap();
    put(&files, "/drop/f", 9).await.unwrap();
    house.storage.symlink(&path("/drop/f"), &path("/l")).await.unwrap();
    let how = UploadOptions { read: true, ..UploadOptions::default() };
    let open = files.upload(&path("/l"), how).await.unwrap();
    let buffer = files.session().buffers().take(9);
    assert!(matches!(open.read_at(0, buffer).await, Err(FsError::Denied)));
    assert!(matches!(open.inspect(), Err(FsError::Denied)));
    assert!(matches!(files.open_metadata(&open).await, Err(FsError::Denied)));
    let mode = SetAttrs { mode: Some(0o777), ..SetAttrs::default() };
    assert!(matches!(files.set_open_attrs(&open, &mode).await, Err(FsError::Denied)));
    open.finish().await.unwrap();
}

#[tokio::test]
async fn a_hard_link_gives_no_right_that_is_missing_at_the_source() {
    let house = House::new(UploadMode::Standard, |draft| {
        draft.permissions.insert("/drop".into(), vec!["upload".into(), "list".into(), "download".into()]);
    });
    let files = house.files().await;
    house.storage.create_dir(&path("/drop"), 0o755).await.unwrap();
    put(&files, "/drop/f", 1).await.unwrap();
    assert!(matches!(files.hard_link(&path("/drop/f"), &path("/mine")).await, Err(FsError::Denied)));
    put(&files, "/free", 1).await.unwrap();
    files.hard_link(&path("/free"), &path("/drop/free")).await.unwrap();
}

#[tokio::test]
async fn an_announced_size_that_does_not_fit_is_refused_before_anything_is_touched() {
    for mode in [UploadMode::Standard, UploadMode::Atomic] {
        let house = House::new(mode, |draft| draft.quota_size = 1000);
        let files = house.files().await;
        put(&files, "/f", 600).await.unwrap();
        let announced = |expected_size| UploadOptions { expected_size, ..NEW };
        assert!(matches!(files.upload(&path("/f"), announced(1001)).await, Err(FsError::QuotaExceeded)));
        assert!(matches!(files.upload(&path("/new"), announced(401)).await, Err(FsError::QuotaExceeded)));
        assert_eq!((size(&house, "/f").await, size(&house, "/new").await), (Some(600), None), "{mode:?}");
        // What was announced is held, so that nobody else takes it meanwhile; what came is what counts.
        let transfer = files.upload(&path("/new"), announced(400)).await.unwrap();
        assert!(matches!(put(&files, "/other", 1).await, Err(FsError::QuotaExceeded)), "{mode:?}");
        write(&transfer, 0, 100).await.unwrap();
        transfer.finish().await.unwrap();
        files.upload(&path("/f"), announced(900)).await.unwrap().finish().await.unwrap();
        assert_eq!((house.used(), house.scan().await), (house.scan().await, (100, 2)), "{mode:?}");
    }
}

#[tokio::test]
async fn a_look_needs_the_permission_it_is_asked_under_at_both_ends_of_a_link() {
    let house = House::new(UploadMode::Standard, |draft| {
        draft.permissions.insert("/in".into(), vec!["upload".into()]);
        draft.permissions.insert("/shown".into(), vec!["list".into()]);
        draft.permissions.insert("/closed".into(), vec!["delete".into()]);
    });
    let files = house.files().await;
    for dir in ["/in", "/shown", "/closed", "/in/sub", "/shown/sub", "/closed/sub"] {
        house.storage.create_dir(&path(dir), 0o755).await.unwrap();
    }
    put(&files, "/in/f", 1).await.unwrap();
    house.storage.rename(&path("/in/f"), &path("/shown/f"), Target::Absent).await.unwrap();
    house.storage.symlink(&path("/shown/f"), &path("/to-shown")).await.unwrap();
    house.storage.symlink(&path("/in/f"), &path("/shown/to-in")).await.unwrap();
    put(&files, "/in/f", 1).await.unwrap();
    for (name, allowed) in
        [("/shown/f", true), ("/to-shown", true), ("/in/f", false), ("/shown/to-in", false)]
    {
        let look = files.inspect_with(&path(name), Perms::LIST).await;
        assert_eq!(look.is_ok(), allowed, "{name}");
        assert!(allowed || matches!(look, Err(FsError::Denied)), "{name}");
    }
    for (name, want) in [
        ("/", Some(true)),
        ("/in", Some(true)),
        ("/in/sub", Some(true)),
        ("/in/f", Some(false)),
        ("/shown/sub", Some(true)),
        ("/to-shown", Some(false)),
        ("/closed", Some(true)),
        ("/closed/sub", None),
        ("/closed/nothing", None),
    ] {
        assert_eq!(files.is_dir(&path(name)).await.ok(), want, "{name}");
    }
    assert!(matches!(files.is_dir(&path("/nothing")).await, Err(FsError::NotFound)));
}
