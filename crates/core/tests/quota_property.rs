//! Any interleaving of operations from several sessions ends with usage equal to what a fresh scan finds,
//! whether scans run meanwhile or not, and nobody gets past the limit.
//!
//! `TIDEGATE_PROPTEST_SECONDS` sets how long each of the two tests goes on; without it they run a few hundred
//! cases. Slow storage (`support`) gives way between any two steps, so that tasks interleave within operations.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use support::{House, data, path, walk};
use tidegate_core::{FsPolicy, Protocol, ScanError, TrackQuota, Transfer, UploadMode, UploadOptions, UserFs};
use tidegate_vfs::{FsError, Links, LocalIo, LocalStorage, MemoryStorage, Owner, SetAttrs, Storage};

const LIMIT_BYTES: i64 = 1000;
const LIMIT_FILES: i64 = 6;
const SESSIONS: usize = 3;
const HANDLES: usize = 3;

const NAMES: [&str; 9] = ["/a", "/b", "/d/a", "/d/b", "/e/a", "/d/d/a", "/l", "/k/a", "/k/k"];
const DIRS: [&str; 5] = ["/d", "/e", "/d/d", "/e/d", "/k"];

type Name = usize;

#[derive(Debug, Clone)]
enum Step {
    Open { name: Name, how: UploadOptions, handle: usize },
    Write { handle: usize, offset: u64, length: usize },
    CutOpen { handle: usize, size: u64 },
    Cut { name: Name, size: u64 },
    Close { handle: usize },
    Abort { handle: usize },
    Remove { name: Name },
    Rename { from: Name, to: Name },
    Link { from: Name, to: Name },
    Symlink { target: Name, link: Name },
    Copy { from: Name, to: Name, overwrite: bool },
    MakeDir { dir: usize },
    RemoveDir { dir: usize },
    RenameDir { from: usize, to: usize },
    LinkDir { target: usize, link: usize },
    Scan,
    Rest { times: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    let dir = || 0..DIRS.len();
    let handle = || 0..HANDLES;
    let flags = any::<(bool, bool, bool, bool, bool)>();
    prop_oneof![
        8 => (name(), flags, handle()).prop_map(|(name, (read, create, exclusive, truncate, resume), handle)| {
            let (exclusive, resume) = (exclusive && create && truncate, resume && !truncate);
            let how =
                UploadOptions { read, create: create || !resume, exclusive, truncate, resume, ..Default::default() };
            Step::Open { name, how, handle }
        }),
        10 => (handle(), 0..400_u64, 0..300_usize)
            .prop_map(|(handle, offset, length)| Step::Write { handle, offset, length }),
        3 => (handle(), 0..500_u64).prop_map(|(handle, size)| Step::CutOpen { handle, size }),
        3 => (name(), 0..500_u64).prop_map(|(name, size)| Step::Cut { name, size }),
        5 => handle().prop_map(|handle| Step::Close { handle }),
        2 => handle().prop_map(|handle| Step::Abort { handle }),
        3 => name().prop_map(|name| Step::Remove { name }),
        4 => (name(), name()).prop_map(|(from, to)| Step::Rename { from, to }),
        3 => (name(), name()).prop_map(|(from, to)| Step::Link { from, to }),
        1 => (name(), name()).prop_map(|(target, link)| Step::Symlink { target, link }),
        2 => (name(), name(), any::<bool>())
            .prop_map(|(from, to, overwrite)| Step::Copy { from, to, overwrite }),
        2 => dir().prop_map(|dir| Step::MakeDir { dir }),
        1 => dir().prop_map(|dir| Step::RemoveDir { dir }),
        3 => (dir(), dir()).prop_map(|(from, to)| Step::RenameDir { from, to }),
        1 => (dir(), dir()).prop_map(|(target, link)| Step::LinkDir { target, link }),
        3 => Just(Step::Scan),
        3 => (1..30_usize).prop_map(|times| Step::Rest { times }),
    ]
}

#[derive(Debug, Clone)]
struct Case {
    mode: UploadMode,
    on_disk: bool,
    limited: bool,
    sessions: Vec<Vec<Step>>,
    /// How often everything gives way (`support::vary_pauses`); on one thread only.
    pauses: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let mode =
        prop_oneof![Just(UploadMode::Standard), Just(UploadMode::Atomic), Just(UploadMode::AtomicWithResume)];
    let steps = prop::collection::vec(step(), 1..25);
    let sessions = prop::collection::vec(steps, 1..=SESSIONS);
    (mode, prop::bool::weighted(0.3), any::<bool>(), sessions, any::<u64>()).prop_map(
        |(mode, on_disk, limited, sessions, pauses)| Case { mode, on_disk, limited, sessions, pauses },
    )
}

/// Makes one step; what the server refuses is refused.
async fn make(house: &House, files: &UserFs, open: &mut [Option<Transfer>], step: Step) {
    let name = |name: Name| path(NAMES[name]);
    let dir = |dir: usize| path(DIRS[dir]);
    match step {
        Step::Open { name: index, how, handle } => {
            if let Some(before) = open[handle].take() {
                let _ = before.finish().await;
            }
            open[handle] = files.upload(&name(index), how).await.ok();
        }
        Step::Write { handle, offset, length } => {
            if let Some(transfer) = &open[handle] {
                let _ = transfer.write_at(offset, data(length)).await;
            }
        }
        Step::CutOpen { handle, size } => {
            if let Some(transfer) = &open[handle] {
                let cut = SetAttrs { size: Some(size), ..SetAttrs::default() };
                let _ = files.set_open_attrs(transfer, &cut).await;
            }
        }
        Step::Cut { name: index, size } => {
            let cut = SetAttrs { size: Some(size), ..SetAttrs::default() };
            let _ = files.set_attrs(&name(index), &cut, Links::Follow).await;
        }
        Step::Close { handle } => {
            if let Some(transfer) = open[handle].take() {
                let _ = transfer.finish().await;
            }
        }
        Step::Abort { handle } => {
            if let Some(transfer) = open[handle].take() {
                transfer.abort("test").await;
            }
        }
        Step::Remove { name: index } => drop(files.remove_file(&name(index)).await),
        Step::Rename { from, to } => drop(files.rename(&name(from), &name(to)).await),
        Step::Link { from, to } => drop(files.hard_link(&name(from), &name(to)).await),
        Step::Symlink { target, link } => drop(files.symlink(&name(target), &name(link)).await),
        Step::Copy { from, to, overwrite } => {
            drop(files.copy_file(&name(from), &name(to), overwrite).await);
        }
        Step::MakeDir { dir: index } => drop(files.create_dir(&dir(index)).await),
        Step::RemoveDir { dir: index } => drop(files.remove_dir(&dir(index)).await),
        Step::RenameDir { from, to } => drop(files.rename(&dir(from), &dir(to)).await),
        Step::LinkDir { target, link } => drop(files.symlink(&dir(target), &dir(link)).await),
        Step::Scan => match house.sessions.scan("anna").await {
            Ok(()) | Err(ScanError::Running) => {}
            Err(error) => panic!("{error}"),
        },
        Step::Rest { times } => {
            for _ in 0..times {
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn session(house: Arc<House>, files: UserFs, steps: Vec<Step>) {
    let mut open: [Option<Transfer>; HANDLES] = Default::default();
    for step in steps {
        make(&house, &files, &mut open, step).await;
    }
    for transfer in open.into_iter().flatten() {
        let _ = transfer.finish().await;
    }
}

/// The most bytes and files that are there under their names at any time. Memory never gives way, so on one
/// thread each look is at one moment.
async fn watch(storage: Arc<dyn Storage>, most: Arc<Mutex<(i64, i64)>>) {
    loop {
        let now = walk(&storage, false).await;
        {
            let mut most = most.lock().unwrap();
            *most = (most.0.max(now.0), most.1.max(now.1));
        }
        tokio::task::yield_now().await;
    }
}

async fn run(case: Case, one_thread: bool) -> Result<(), TestCaseError> {
    support::vary_pauses(if one_thread { case.pauses } else { 0 });
    let scratch = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = if case.on_disk {
        Arc::new(LocalStorage::open(&LocalIo::default(), scratch.path(), Owner::default()).unwrap())
    } else {
        Arc::new(MemoryStorage::new())
    };
    let limit = |limit: i64| if case.limited { limit } else { 0 };
    let policy = FsPolicy { upload_mode: case.mode, ..FsPolicy::default() };
    let house = Arc::new(House::over(storage, policy, TrackQuota::Always, |draft| {
        (draft.quota_size, draft.quota_files) = (limit(LIMIT_BYTES), limit(LIMIT_FILES));
    }));
    let files = house.files().await;
    for dir in ["/d", "/e", "/d/d"] {
        files.create_dir(&path(dir)).await.unwrap();
    }
    let mut tasks = tokio::task::JoinSet::new();
    for steps in case.sessions {
        let files = house.log_in().await.unwrap().files(Protocol::Sftp);
        tasks.spawn(session(house.clone(), files, steps));
    }
    let most = Arc::new(Mutex::new((0, 0)));
    let watching =
        (one_thread && !case.on_disk).then(|| tokio::spawn(watch(house.storage.clone(), most.clone())));
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    if let Some(watching) = watching {
        watching.abort();
    }
    let most = *most.lock().unwrap();
    house.scans_done().await;
    // What an operation that was refused gave back.
    house.sessions.write_back_usage().await;
    let real = walk(&house.storage, true).await;
    prop_assert_eq!(house.store.used(), real, "usage, and what is there");
    if case.limited {
        prop_assert!(most.0 <= LIMIT_BYTES && most.1 <= LIMIT_FILES, "past the limit meanwhile: {:?}", most);
        prop_assert!(real.0 <= LIMIT_BYTES && real.1 <= LIMIT_FILES, "past the limit: {:?}", real);
    }
    house.sessions.scan("anna").await.unwrap();
    house.scans_done().await;
    prop_assert_eq!(house.store.used(), real, "a scan finds the same");
    if case.limited && real.0 < LIMIT_BYTES && real.1 < LIMIT_FILES {
        fits_exactly(&files, LIMIT_BYTES - real.0).await?;
        prop_assert_eq!(house.store.used(), walk(&house.storage, true).await);
    }
    Ok(())
}

/// No reservation is left over: exactly the rest fits.
async fn fits_exactly(files: &UserFs, room: i64) -> Result<(), TestCaseError> {
    let how = UploadOptions { create: true, truncate: true, ..Default::default() };
    let transfer = files.upload(&path("/rest"), how).await.unwrap();
    let room = usize::try_from(room).unwrap();
    let written = transfer.write_at(0, data(room)).await;
    prop_assert!(written.is_ok(), "{} bytes are left: {:?}", room, written);
    let more = transfer.write_at(room as u64, data(1)).await;
    prop_assert!(matches!(more, Err(FsError::QuotaExceeded)), "one byte too many: {:?}", more);
    transfer.abort("test").await;
    Ok(())
}

fn run_cases(one_thread: bool) {
    let seconds = std::env::var("TIDEGATE_PROPTEST_SECONDS").ok().map(|text| text.parse().unwrap());
    let start = Instant::now();
    let mut cases = 0;
    loop {
        let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new(config);
        let runtime = if one_thread {
            tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
        } else {
            tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap()
        };
        let result = runner.run(&case(), |case| runtime.block_on(run(case, one_thread)));
        if let Err(failure) = result {
            panic!("after {cases} cases: {failure}");
        }
        cases += 200;
        if seconds.is_none_or(|seconds| start.elapsed() >= Duration::from_secs(seconds)) {
            println!("{cases} cases in {:?}", start.elapsed());
            return;
        }
    }
}

/// The same case always takes the same course, so that a failure can be made smaller.
#[test]
fn usage_is_exact_on_one_thread() {
    run_cases(true);
}

/// Real threads.
#[test]
fn usage_is_exact_on_several_threads() {
    run_cases(false);
}

/// `/e` moves away and comes back as a link between the look at `/e/a`, which is not there, and the rename to it. Found
/// by the first of the tests above.
#[test]
fn a_file_behind_a_link_that_just_appeared_is_not_replaced_unseen() {
    let how = |create, truncate, resume| UploadOptions { create, truncate, resume, ..Default::default() };
    use Step::{Abort, Close, Copy, Cut, LinkDir, Open, Remove, Rename, RenameDir, Rest, Write};
    let case = Case {
        mode: UploadMode::AtomicWithResume,
        on_disk: false,
        limited: true,
        sessions: vec![
            vec![
                Cut { name: 0, size: 0 },
                RenameDir { from: 0, to: 0 },
                Open { name: 3, how: how(true, false, false), handle: 0 },
                Open { name: 5, how: how(true, false, false), handle: 0 },
                Open { name: 0, how: how(true, true, false), handle: 0 },
                Remove { name: 0 },
                Abort { handle: 0 },
                Remove { name: 1 },
                LinkDir { target: 2, link: 1 },
            ],
            vec![Write { handle: 0, offset: 0, length: 0 }],
            vec![
                Copy { from: 0, to: 0, overwrite: false },
                Remove { name: 0 },
                Open { name: 0, how: how(true, false, false), handle: 2 },
                Remove { name: 0 },
                Open { name: 4, how: how(false, false, true), handle: 0 },
                Open { name: 0, how: how(true, true, false), handle: 1 },
                Open { name: 0, how: how(true, false, false), handle: 0 },
                Remove { name: 0 },
                RenameDir { from: 1, to: 4 },
                Rest { times: 7 },
                Close { handle: 0 },
                Rename { from: 0, to: 4 },
            ],
        ],
        pauses: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let result = runtime.block_on(run(case, true));
    assert!(result.is_ok(), "{result:?}");
}

/// One session opens a file to overwrite it while another writes to it: the write came after the cut on disk, and ended
/// before the cut in the books. Found by the first of the tests above.
#[test]
fn a_write_that_ends_while_its_file_is_opened_anew_keeps_its_room() {
    let how = |truncate| UploadOptions { create: true, truncate, ..Default::default() };
    use Step::{Copy, Link, Open, Remove, Rest, Write};
    let sessions = vec![
        vec![
            Open { name: 2, how: how(true), handle: 2 },
            Open { name: 1, how: how(false), handle: 0 },
            Link { from: 1, to: 4 },
            Remove { name: 0 },
            Copy { from: 1, to: 2, overwrite: true },
            Write { handle: 2, offset: 299, length: 255 },
            Rest { times: 25 },
        ],
        vec![
            Open { name: 1, how: how(false), handle: 1 },
            Open { name: 0, how: how(false), handle: 1 },
            Open { name: 3, how: how(false), handle: 2 },
            Open { name: 2, how: how(true), handle: 1 },
            Write { handle: 2, offset: 296, length: 151 },
        ],
    ];
    let case = Case { mode: UploadMode::Standard, on_disk: false, limited: true, sessions, pauses: 0 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let result = runtime.block_on(run(case, true));
    assert!(result.is_ok(), "{result:?}");
}

/// A file with two names moves from a directory that the scan has not read yet into one that it has read, and is then
/// cut by its other name. Found by the first of the tests above.
#[test]
fn one_of_several_names_that_moves_into_the_count_is_counted_with_the_size_that_it_gets() {
    let how = UploadOptions { create: true, ..Default::default() };
    use Step::{Cut, CutOpen, Link, LinkDir, Open, Remove, Rename, Rest, Scan};
    let case = Case {
        mode: UploadMode::Atomic,
        on_disk: false,
        limited: false,
        sessions: vec![
            vec![
                Cut { name: 0, size: 0 },
                Remove { name: 0 },
                Rest { times: 26 },
                Open { name: 0, how, handle: 0 },
                Rest { times: 19 },
                Cut { name: 5, size: 1 },
            ],
            vec![Rest { times: 23 }, Link { from: 2, to: 5 }],
            vec![
                Open { name: 2, how, handle: 0 },
                CutOpen { handle: 0, size: 2 },
                Open { name: 2, how, handle: 0 },
                Scan,
                LinkDir { target: 0, link: 0 },
                Rename { from: 2, to: 0 },
            ],
        ],
        pauses: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let result = runtime.block_on(run(case, true));
    assert!(result.is_ok(), "{result:?}");
}

/// A directory moves while an upload into it begins, at any moment: its temporary file moves along, and is not left
/// behind. Found by the second of the tests above.
#[tokio::test]
async fn a_directory_that_moves_takes_the_beginning_of_an_upload_along() {
    let how = UploadOptions { create: true, truncate: true, ..Default::default() };
    use Step::{Close, Open, RenameDir, Rest, Write};
    let mut moved = 0;
    for times in 0..40 {
        let policy = FsPolicy { upload_mode: UploadMode::Atomic, ..FsPolicy::default() };
        let house = Arc::new(House::over(Arc::new(MemoryStorage::new()), policy, TrackQuota::Always, |_| {}));
        for dir in ["/d", "/e"] {
            house.files().await.create_dir(&path(dir)).await.unwrap();
        }
        house.faults.slower(5, 10);
        let upload = vec![
            Open { name: 2, how, handle: 0 },
            Write { handle: 0, offset: 0, length: 7 },
            Close { handle: 0 },
        ];
        let uploading = tokio::spawn(session(house.clone(), house.files().await, upload));
        let moving = vec![Rest { times }, RenameDir { from: 0, to: 3 }];
        let moving = tokio::spawn(session(house.clone(), house.files().await, moving));
        uploading.await.unwrap();
        moving.await.unwrap();
        let real = walk(&house.storage, true).await;
        assert_eq!(house.store.used(), real, "after {times} rests");
        moved += real.1;
    }
    assert!(moved > 20, "{moved} of 40 uploads found their directory");
}
