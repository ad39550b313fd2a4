//! Files of the bolt provider: the reference's, ours, somebody else's.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![cfg(feature = "bolt")]

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_core::testing::user;
use tidegate_core::{StoreError, UsageDelta, UsedQuota, User, UserStore};
use tidegate_store::config::DataProvider;
use tidegate_store::{OpenError, open};

const REFERENCE: &str = "tests/fixtures/reference.bolt";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn reference() -> Self {
        let folder = Self::new();
        std::fs::copy(REFERENCE, folder.path("users.db")).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    async fn open_with(
        &self,
        change: impl FnOnce(&mut DataProvider),
    ) -> Result<Arc<dyn UserStore>, OpenError> {
        let mut section =
            DataProvider { driver: "bolt".into(), name: "users.db".into(), ..DataProvider::default() };
        change(&mut section);
        open(&section.validate(self.0.path()).unwrap()).await
    }

    async fn open(&self) -> Arc<dyn UserStore> {
        self.open_with(|_| {}).await.unwrap()
    }

    async fn refusal(&self) -> String {
        match self.open_with(|_| {}).await {
            Ok(_) => panic!("it was opened"),
            Err(error) => error.to_string(),
        }
    }
}

async fn names(store: &dyn UserStore) -> Vec<String> {
    store.all_users().await.unwrap().into_iter().map(|user| user.username).collect()
}

#[tokio::test]
async fn a_file_of_the_reference_is_imported_and_left_as_it_is() {
    let folder = Folder::reference();
    let original = std::fs::read(REFERENCE).unwrap();
    let changed = std::fs::metadata(folder.path("users.db")).unwrap().modified().unwrap();
    let store = folder.open().await;
    assert_eq!(names(&*store).await, ["anna", "björn", "key only", "unix"]);
    assert_eq!(folder.files(), ["users.db", "users.db.redb"]);
    // The sequence goes on where it was.
    let id = store.insert(&user("new")).await.unwrap();
    assert_eq!(id, 5);
    store.delete(id).await.unwrap();
    assert_eq!(store.insert(&user("newer")).await.unwrap(), 6);
    store.add_usage("anna", UsageDelta { size_bytes: 7, files: 1 }, 9).await.unwrap();
    store.close().await;
    drop(store);

    // The next start goes on with what is beside it, also when the original is gone.
    let store = folder.open().await;
    assert_eq!(store.usage("anna").await.unwrap(), UsedQuota { size_bytes: 7, files: 1 });
    assert!(names(&*store).await.contains(&"newer".to_owned()));
    drop(store);
    assert!(std::fs::read(folder.path("users.db")).unwrap() == original, "the original changed");
    assert_eq!(std::fs::metadata(folder.path("users.db")).unwrap().modified().unwrap(), changed);
    std::fs::remove_file(folder.path("users.db")).unwrap();
    assert!(names(&*folder.open().await).await.contains(&"newer".to_owned()));
    assert_eq!(folder.files(), ["users.db.redb"]);
}

/// Collects what is logged by this thread and those that it starts work in.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_was_changed_after_its_import_is_named_in_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // The only test of this program that looks at the log, which threads of the runtime write.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let said = |what: &str, about: &str| {
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        log.lines().any(|line| line.contains(what) && line.contains(about))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = Folder::reference();
        let about = folder.0.path().to_str().unwrap();
        drop(folder.open().await);
        assert!(said("4 users were imported", about));
        drop(folder.open().await);
        assert!(!said("was changed after", about));
        // As the reference would leave it after one more change: here, the state before the last one.
        let mut data = std::fs::read(REFERENCE).unwrap();
        data[0x40] ^= 1;
        std::fs::write(folder.path("users.db"), data).unwrap();
        assert_eq!(names(&*folder.open().await).await.len(), 4);
        assert!(said("was changed after", about));
    });
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_nothing_is_left() {
    let folder = Folder::reference();
    let data = std::fs::read(REFERENCE).unwrap();
    for (data, named) in [
        (&data[..20_000], "users.db is damaged: it is cut short"),
        (&data[..4096 + 10], "users.db is damaged: it is cut short"),
        (&[data[..5 * 4096].to_vec(), vec![0xff; 11 * 4096]].concat(), "users.db is damaged: page 5"),
        (&b"SQLite format 3\0 and so on".repeat(300)[..], "set data_provider.driver to \"sqlite\""),
        (&b"something else".repeat(300)[..], "is neither a file of bbolt nor one of redb"),
        (&b"redb\x1A\x0A\xA9\x0D\x0A and noise".repeat(300)[..], "users.db"),
    ] {
        std::fs::write(folder.path("users.db"), data).unwrap();
        let refusal = folder.refusal().await;
        assert!(refusal.contains(named), "{refusal}");
        assert_eq!(folder.files(), ["users.db"]);
        assert!(std::fs::read(folder.path("users.db")).unwrap() == data, "the file changed");
    }
}

#[tokio::test]
async fn an_import_that_was_cut_short_is_done_again() {
    let folder = Folder::reference();
    std::fs::write(folder.path("users.db.redb.new"), "half of a file").unwrap();
    assert_eq!(names(&*folder.open().await).await.len(), 4);
    assert_eq!(folder.files(), ["users.db", "users.db.redb"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_in_use_is_waited_for_and_then_refused() {
    for folder in [Folder::new(), Folder::reference()] {
        let store = folder.open().await;
        let started = Instant::now();
        let refusal = folder.refusal().await;
        assert!(refusal.contains("is used by another process"), "{refusal}");
        assert!(started.elapsed() >= Duration::from_secs(5), "it was not waited for");
        let (next, ()) = tokio::join!(folder.open_with(|_| {}), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            store.close().await;
        });
        next.unwrap().ping().await.unwrap();
        let error = store.ping().await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    // While the reference runs, its file is not read.
    let folder = Folder::reference();
    let lock = std::fs::File::open(folder.path("users.db")).unwrap();
    lock.lock().unwrap();
    let refusal = folder.refusal().await;
    assert!(refusal.contains("is used by another process"), "{refusal}");
    assert_eq!(folder.files(), ["users.db"]);
}

#[tokio::test]
async fn files_are_private_and_stay_after_a_crash() {
    let folder = Folder::new();
    let store = folder.open().await;
    store.insert(&user("anna")).await.unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(folder.path("users.db")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others can read the password hashes");
    }
    // What is on the disk now is what would be left of a server that is killed.
    let copy = Folder::new();
    std::fs::copy(folder.path("users.db"), copy.path("users.db")).unwrap();
    assert_eq!(names(&*copy.open().await).await, ["anna"]);
}

#[tokio::test]
async fn without_manage_users_nothing_is_written() {
    let folder = Folder::new();
    let read_only = |section: &mut DataProvider| section.manage_users = 0;
    assert!(folder.open_with(read_only).await.is_err());
    assert_eq!(folder.files(), [""; 0]);
    folder.open().await.insert(&user("anna")).await.unwrap();
    let store = folder.open_with(read_only).await.unwrap();
    let anna = store.user("anna").await.unwrap();
    for result in [
        store.insert(&user("new")).await.map(drop),
        store.update(&anna).await,
        store.delete(1).await,
        store.set_usage("anna", UsedQuota::default(), 1).await,
        store.record_login("anna", 1).await,
    ] {
        let Err(StoreError::Unavailable(text)) = result else { panic!("{result:?}") };
        assert!(text.contains("manage_users is 0"), "{text}");
    }
}

#[tokio::test]
async fn a_damaged_record_fails_lists_and_nobody_elses_login() {
    let folder = Folder::new();
    let store = folder.open().await;
    for name in ["anna", "berta"] {
        store.insert(&user(name)).await.unwrap();
    }
    store.close().await;
    {
        let users = redb::TableDefinition::<&str, &[u8]>::new("users");
        let database = redb::Database::open(folder.path("users.db")).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(users).unwrap().insert("berta", &b"{\"id\":2,"[..]).unwrap();
        transaction.commit().unwrap();
    }
    let store = folder.open().await;
    for error in [
        store.user("berta").await.unwrap_err(),
        store.user_by_id(2).await.unwrap_err(),
        store.all_users().await.unwrap_err(),
        store.usage("berta").await.unwrap_err(),
        store.record_login("berta", 1).await.unwrap_err(),
    ] {
        let StoreError::Corrupt(text) = error else { panic!("{error:?}") };
        assert!(text.contains("berta"), "{text}");
    }
    assert_eq!(store.user("anna").await.unwrap().username, "anna");
    // It can be mended.
    store.update(&User { id: 2, ..user("berta") }).await.unwrap();
    assert_eq!(names(&*store).await, ["anna", "berta"]);
}

#[tokio::test]
async fn a_file_of_another_program_is_left_alone() {
    let folder = Folder::new();
    {
        let table = redb::TableDefinition::<u64, u64>::new("sales");
        let database = redb::Database::create(folder.path("users.db")).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(table).unwrap().insert(1, 2).unwrap();
        transaction.commit().unwrap();
    }
    let refusal = folder.refusal().await;
    assert!(refusal.contains("holds tables of another program"), "{refusal}");
}
