//! One user with any number of sessions over a storage that tests may slow down and break.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidegate_core::{
    Accounts, AccountsConfig, Attempt, AuthError, Authenticator, Clock, Events, FsPolicy, Metrics,
    OpenStorage, Page, Passwords, Peer, Protocol, QuotaPolicy, Session, Sessions, StoreError, TrackQuota,
    UploadMode, UsageDelta, UsedQuota, User, UserDraft, UserFs, UserStore,
};
use tidegate_vfs::{
    Buffer, DirEntry, DirStream, Features, File, FsError, Links, MemoryStorage, Metadata, OpenOptions,
    SetAttrs, Space, Storage, Target, VPath,
};

pub(crate) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgzuvqgDEEIKURFp/mZUDstA6g+UdrHZAonNIRdYnS+ anna";
pub(crate) const OTHER_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKKOOPZfQFC6Ot4kdCsrQ4xbUV3ezkhsyhAfaBgQVIm2 anna@home";

/// One user, with the usage that was written, and switches that take the provider away and damage the record.
pub(crate) struct OneUser {
    pub(crate) user: Mutex<Option<User>>,
    pub(crate) away: AtomicBool,
    pub(crate) damaged: AtomicBool,
    pub(crate) reads: AtomicUsize,
    /// How many writes of usage are not answered, and whether they are done.
    pub(crate) unanswered: Mutex<(usize, bool)>,
}

impl OneUser {
    pub(crate) fn change(&self, change: impl FnOnce(&mut User)) {
        change(self.user.lock().unwrap().as_mut().unwrap());
    }

    pub(crate) fn used(&self) -> (i64, i64) {
        let used = self.user.lock().unwrap().as_ref().unwrap().used;
        (used.size_bytes, used.files)
    }

    fn read(&self) -> Result<User, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("gone".into()));
        }
        if self.damaged.load(Ordering::Relaxed) {
            return Err(StoreError::Corrupt("rubbish".into()));
        }
        self.user.lock().unwrap().clone().ok_or(StoreError::NotFound)
    }

    /// A write of usage, of which the answer may be lost.
    fn write_usage(&self, change: impl FnOnce(&mut User)) -> Result<(), StoreError> {
        let done = {
            let mut unanswered = self.unanswered.lock().unwrap();
            match unanswered.0.checked_sub(1) {
                Some(left) => {
                    unanswered.0 = left;
                    Some(unanswered.1)
                }
                None => None,
            }
        };
        if done != Some(false) {
            self.write(change)?;
        }
        done.map_or(Ok(()), |_| Err(StoreError::Uncertain("the answer is lost".into())))
    }

    fn write(&self, change: impl FnOnce(&mut User)) -> Result<(), StoreError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("gone".into()));
        }
        change(self.user.lock().unwrap().as_mut().ok_or(StoreError::NotFound)?);
        Ok(())
    }
}

#[async_trait]
impl UserStore for OneUser {
    async fn user(&self, name: &str) -> Result<User, StoreError> {
        self.read().and_then(|user| if user.username == name { Ok(user) } else { Err(StoreError::NotFound) })
    }
    async fn user_by_id(&self, _: i64) -> Result<User, StoreError> {
        self.read()
    }
    async fn users(&self, _: &Page) -> Result<Vec<User>, StoreError> {
        self.all_users().await
    }
    async fn all_users(&self) -> Result<Vec<User>, StoreError> {
        Ok(vec![self.read()?])
    }
    async fn insert(&self, _: &User) -> Result<i64, StoreError> {
        Err(StoreError::Conflict)
    }
    async fn update(&self, user: &User) -> Result<(), StoreError> {
        // A provider takes its time: somebody else may go on meanwhile.
        tokio::task::yield_now().await;
        self.write(|stored| *stored = User { used: stored.used, ..user.clone() })
    }
    async fn delete(&self, _: i64) -> Result<(), StoreError> {
        self.user.lock().unwrap().take().map(drop).ok_or(StoreError::NotFound)
    }
    async fn usage(&self, _: &str) -> Result<UsedQuota, StoreError> {
        Ok(self.read()?.used)
    }
    async fn add_usage(&self, _: &str, delta: UsageDelta, _: i64) -> Result<(), StoreError> {
        // A provider takes its time: somebody else may go on meanwhile.
        tokio::task::yield_now().await;
        self.write_usage(|user| {
            assert!(user.used.size_bytes + delta.size_bytes >= 0, "usage would be negative: {delta:?}");
            assert!(user.used.files + delta.files >= 0, "usage would be negative: {delta:?}");
            user.used.size_bytes += delta.size_bytes;
            user.used.files += delta.files;
        })?;
        tokio::task::yield_now().await;
        Ok(())
    }
    async fn set_usage(&self, _: &str, used: UsedQuota, _: i64) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        self.write_usage(|user| user.used = used)?;
        tokio::task::yield_now().await;
        Ok(())
    }
    async fn record_login(&self, _: &str, _: i64) -> Result<(), StoreError> {
        Ok(())
    }
    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

struct Home(Arc<dyn Storage>, Mutex<Result<(), FsError>>);

#[async_trait]
impl OpenStorage for Home {
    async fn open(&self, _: &User) -> Result<Arc<dyn Storage>, FsError> {
        Ok(self.0.clone())
    }
    async fn open_existing(&self, _: &User) -> Result<Arc<dyn Storage>, FsError> {
        self.1.lock().unwrap().clone()?;
        Ok(self.0.clone())
    }
}

pub(crate) struct House {
    pub(crate) store: Arc<OneUser>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) faults: Faults,
    pub(crate) authenticator: Authenticator,
    pub(crate) sessions: Sessions,
    pub(crate) accounts: Accounts,
    /// What the clock says, in milliseconds.
    pub(crate) now: Arc<AtomicI64>,
    home: Arc<Home>,
    logins: AtomicUsize,
}

impl House {
    pub(crate) fn new(mode: UploadMode, change: impl FnOnce(&mut UserDraft)) -> Self {
        let policy = FsPolicy { upload_mode: mode, ..FsPolicy::default() };
        Self::over(Arc::new(MemoryStorage::new()), policy, TrackQuota::Always, change)
    }

    pub(crate) fn over(
        storage: Arc<dyn Storage>,
        policy: FsPolicy,
        track: TrackQuota,
        change: impl FnOnce(&mut UserDraft),
    ) -> Self {
        let mut draft = UserDraft {
            id: 7,
            status: 1,
            username: "anna".into(),
            public_keys: vec![KEY.into()],
            home_dir: "/srv/anna".into(),
            permissions: BTreeMap::from([("/".into(), vec!["*".into()])]),
            ..UserDraft::default()
        };
        change(&mut draft);
        let user = Mutex::new(Some(draft.validate(None).unwrap()));
        let store = Arc::new(OneUser {
            user,
            away: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            unanswered: Mutex::default(),
        });
        let faults = Faults::default();
        let broken: Arc<dyn Storage> = Arc::new(Slow { inner: storage.clone(), faults: faults.clone() });
        let home = Arc::new(Home(broken, Mutex::new(Ok(()))));
        let events = Events::new(Metrics::new(), None);
        let now = Arc::new(AtomicI64::new(1_000_000));
        let clock: Clock = {
            let now = now.clone();
            Arc::new(move || now.load(Ordering::Relaxed))
        };
        let sessions = Sessions::new(
            store.clone(),
            home.clone(),
            events.clone(),
            clock.clone(),
            policy,
            QuotaPolicy { track, write: true },
        );
        let passwords = Passwords::new(1);
        let config = AccountsConfig { manage_users: true, users_base_dir: None };
        let accounts =
            Accounts::new(store.clone(), passwords.clone(), sessions.clone(), events.clone(), config);
        let authenticator =
            Authenticator::new(store.clone(), passwords, sessions.clone(), events, clock, true);
        let logins = AtomicUsize::new(0);
        Self { store, storage, faults, authenticator, sessions, accounts, now, home, logins }
    }

    /// The registry of a process that is started later, over the same provider and the same files.
    pub(crate) fn next(&self) -> Sessions {
        let policy = FsPolicy { upload_mode: UploadMode::Atomic, ..FsPolicy::default() };
        let quota = QuotaPolicy { track: TrackQuota::Always, write: true };
        // Later than whatever the storage has noted as a time.
        let clock: Clock = Arc::new(|| tidegate_core::system_clock()() + 60_000);
        let events = Events::new(Metrics::new(), None);
        Sessions::new(self.store.clone(), self.home.clone(), events, clock, policy, quota)
    }

    /// What the home answers to a scan that wants to open it.
    pub(crate) fn set_home(&self, answer: Result<(), FsError>) {
        *self.home.1.lock().unwrap() = answer;
    }

    pub(crate) async fn log_in(&self) -> Result<Session, AuthError> {
        let number = self.logins.fetch_add(1, Ordering::Relaxed);
        let blob = tidegate_core::PublicKeyLine::parse(KEY).unwrap().blob;
        let addr: SocketAddr = "192.0.2.7:4711".parse().unwrap();
        let peer = Peer { addr, connection_id: format!("{number:064x}").into() };
        let key = tidegate_core::SignedKey { blob: &blob, touched: false };
        self.authenticator.public_key(&Attempt { username: "anna".into(), peer }, key).await
    }

    pub(crate) async fn files(&self) -> UserFs {
        self.log_in().await.unwrap().files(Protocol::Sftp)
    }

    /// Waits until no scan runs.
    pub(crate) async fn scans_done(&self) {
        while !self.sessions.scans().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What a scan must find: bytes and names of regular files; temporary ones of uploads only if asked for.
pub(crate) async fn walk(storage: &Arc<dyn Storage>, temporary: bool) -> (i64, i64) {
    let (mut size, mut files, mut dirs) = (0, 0, vec![VPath::root()]);
    while let Some(dir) = dirs.pop() {
        let mut listing = storage.read_dir(&dir).await.unwrap();
        loop {
            let entries = listing.next(100).await.unwrap();
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                if entry.metadata.is_dir() {
                    dirs.push(dir.join(&entry.name).unwrap());
                } else if entry.metadata.is_file()
                    && (temporary || !entry.name.starts_with(b".sftpgo-upload."))
                {
                    size += entry.metadata.size as i64;
                    files += 1;
                }
            }
        }
    }
    (size, files)
}

pub(crate) fn path(raw: &str) -> VPath {
    VPath::parse(raw.as_bytes()).unwrap()
}

pub(crate) fn data(length: usize) -> Vec<Bytes> {
    vec![Bytes::from(vec![b'x'; length])]
}

/// What goes wrong, from now on. Everything gives way to other tasks before and after it is done, so that
/// they run between any two steps.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<FaultFlags>);

#[derive(Default)]
struct FaultFlags {
    /// Bytes that still fit on the disk, plus one; 0 for any number.
    disk: AtomicUsize,
    rename: AtomicBool,
    rename_pauses: AtomicUsize,
    resolve_pauses: AtomicUsize,
    remove: AtomicBool,
    sync: AtomicBool,
    synced_files: AtomicUsize,
    synced_dirs: AtomicUsize,
    steps: Mutex<Vec<String>>,
}

impl Faults {
    pub(crate) fn disk_takes(&self, bytes: usize) {
        self.0.disk.store(bytes + 1, Ordering::Relaxed);
    }
    pub(crate) fn rename_fails(&self, fails: bool) {
        self.0.rename.store(fails, Ordering::Relaxed);
    }
    /// A look at where a path leads, and a rename, give way so many times more before they are done.
    pub(crate) fn slower(&self, resolve: usize, rename: usize) {
        self.0.resolve_pauses.store(resolve, Ordering::Relaxed);
        self.0.rename_pauses.store(rename, Ordering::Relaxed);
    }
    pub(crate) fn remove_fails(&self, fails: bool) {
        self.0.remove.store(fails, Ordering::Relaxed);
    }
    pub(crate) fn sync_fails(&self, fails: bool) {
        self.0.sync.store(fails, Ordering::Relaxed);
    }
    pub(crate) fn synced(&self) -> (usize, usize) {
        (self.0.synced_files.load(Ordering::Relaxed), self.0.synced_dirs.load(Ordering::Relaxed))
    }
    /// What was done to contents and names, in its order, since the last call.
    pub(crate) fn steps(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.steps.lock().unwrap())
    }
    fn step(&self, what: &str) {
        self.0.steps.lock().unwrap().push(what.to_owned());
    }
    fn broken() -> FsError {
        std::io::Error::other("the disk is broken").into()
    }
}

struct Slow {
    inner: Arc<dyn Storage>,
    faults: Faults,
}

thread_local! {
    static LENGTHS: Cell<u64> = const { Cell::new(0) };
}

/// From now on everything of this thread gives way as often as a series says that follows from `seed`; once for 0.
pub(crate) fn vary_pauses(seed: u64) {
    LENGTHS.set(seed);
}

async fn pause() {
    // George Marsaglia's xorshift64, which stays at 0.
    let mut next = LENGTHS.get();
    next ^= next << 13;
    next ^= next >> 7;
    next ^= next << 17;
    LENGTHS.set(next);
    for _ in 0..=next % 5 {
        tokio::task::yield_now().await;
    }
}

async fn pauses(times: &AtomicUsize) {
    for _ in 0..times.load(Ordering::Relaxed) {
        pause().await;
    }
}

async fn slowly<T>(what: impl Future<Output = T>) -> T {
    pause().await;
    let done = what.await;
    pause().await;
    done
}

#[async_trait]
impl Storage for Slow {
    async fn open(&self, path: &VPath, how: &OpenOptions) -> Result<Arc<dyn File>, FsError> {
        let inner = slowly(self.inner.open(path, how)).await?;
        Ok(Arc::new(SlowFile { inner, faults: self.faults.clone() }))
    }
    async fn metadata(&self, path: &VPath, links: Links) -> Result<Metadata, FsError> {
        slowly(self.inner.metadata(path, links)).await
    }
    async fn set_attrs(&self, path: &VPath, attrs: &SetAttrs, links: Links) -> Result<(), FsError> {
        slowly(self.inner.set_attrs(path, attrs, links)).await
    }
    async fn read_dir(&self, path: &VPath) -> Result<Box<dyn DirStream>, FsError> {
        Ok(Box::new(SlowDir(slowly(self.inner.read_dir(path)).await?)))
    }
    async fn create_dir(&self, path: &VPath, mode: u32) -> Result<(), FsError> {
        slowly(self.inner.create_dir(path, mode)).await
    }
    async fn remove_file(&self, path: &VPath) -> Result<(), FsError> {
        if self.faults.0.remove.load(Ordering::Relaxed) {
            return Err(Faults::broken());
        }
        slowly(self.inner.remove_file(path)).await
    }
    async fn remove_dir(&self, path: &VPath) -> Result<(), FsError> {
        slowly(self.inner.remove_dir(path)).await
    }
    async fn symlink(&self, target: &VPath, link: &VPath) -> Result<(), FsError> {
        slowly(self.inner.symlink(target, link)).await
    }
    async fn read_link(&self, path: &VPath) -> Result<Vec<u8>, FsError> {
        slowly(self.inner.read_link(path)).await
    }
    async fn hard_link(&self, from: &VPath, to: &VPath) -> Result<(), FsError> {
        slowly(self.inner.hard_link(from, to)).await
    }
    async fn rename(&self, from: &VPath, to: &VPath, target: Target) -> Result<(), FsError> {
        if self.faults.0.rename.load(Ordering::Relaxed) {
            return Err(Faults::broken());
        }
        pauses(&self.faults.0.rename_pauses).await;
        let done = slowly(self.inner.rename(from, to, target)).await;
        self.faults.step("rename");
        done
    }
    async fn resolve(&self, path: &VPath, links: Links) -> Result<VPath, FsError> {
        pauses(&self.faults.0.resolve_pauses).await;
        slowly(self.inner.resolve(path, links)).await
    }
    fn without_links(&self) -> Arc<dyn Storage> {
        Arc::new(Slow { inner: self.inner.without_links(), faults: self.faults.clone() })
    }
    async fn sync_dir(&self, path: &VPath) -> Result<(), FsError> {
        self.faults.0.synced_dirs.fetch_add(1, Ordering::Relaxed);
        let done = self.inner.sync_dir(path).await;
        self.faults.step("sync directory");
        done
    }
    async fn space(&self, path: &VPath) -> Result<Space, FsError> {
        self.inner.space(path).await
    }
    fn features(&self) -> Features {
        self.inner.features()
    }
    fn local_path(&self, path: &VPath) -> Option<PathBuf> {
        self.inner.local_path(path)
    }
}

/// One entry at a time, so that a scan is as slow as can be.
struct SlowDir(Box<dyn DirStream>);

#[async_trait]
impl DirStream for SlowDir {
    async fn next(&mut self, _: usize) -> Result<Vec<DirEntry>, FsError> {
        slowly(self.0.next(1)).await
    }
}

struct SlowFile {
    inner: Arc<dyn File>,
    faults: Faults,
}

#[async_trait]
impl File for SlowFile {
    async fn read_at(&self, offset: u64, buf: Buffer) -> Result<Buffer, FsError> {
        slowly(self.inner.read_at(offset, buf)).await
    }
    async fn write_at(&self, offset: u64, mut data: Vec<Bytes>) -> Result<(), FsError> {
        let left = self.faults.0.disk.load(Ordering::Relaxed);
        if left > 0 {
            let mut fits = left - 1;
            let wanted: usize = data.iter().map(Bytes::len).sum();
            if wanted > fits {
                for piece in &mut data {
                    piece.truncate(piece.len().min(fits));
                    fits -= piece.len();
                }
                self.inner.write_at(offset, data).await?;
                self.faults.disk_takes(0);
                return Err(FsError::NoSpace);
            }
            self.faults.disk_takes(fits - wanted);
        }
        let done = slowly(self.inner.write_at(offset, data)).await;
        self.faults.step("write");
        done
    }
    async fn metadata(&self) -> Result<Metadata, FsError> {
        slowly(self.inner.metadata()).await
    }
    async fn set_attrs(&self, attrs: &SetAttrs) -> Result<(), FsError> {
        slowly(self.inner.set_attrs(attrs)).await
    }
    async fn sync(&self) -> Result<(), FsError> {
        if self.faults.0.sync.load(Ordering::Relaxed) {
            return Err(Faults::broken());
        }
        self.faults.0.synced_files.fetch_add(1, Ordering::Relaxed);
        let done = self.inner.sync().await;
        self.faults.step("sync file");
        done
    }
    async fn close(&self) -> Result<(), FsError> {
        let done = slowly(self.inner.close()).await;
        self.faults.step("close");
        done
    }
}
