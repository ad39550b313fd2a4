//! Hooks as a whole: real scripts that write down what they are given, and a receiver on a real port.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_core::config_error::{Actions, ActionsSection};
use tidegate_core::{
    Command, CommandKind, Direction, Event, Events, Metrics, Protocol, TransferReport, User, UserDraft,
};
use tidegate_vfs::VPath;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::{Hooks, Queue, Queues, Runner, queue};

const FILE_CONDITIONS: &[&str] = &["download", "upload", "delete", "rename", "ssh_cmd"];
const ACCOUNT_CONDITIONS: &[&str] = &["add", "update", "delete"];

/// A directory that disappears with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-hooks-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, format!("#!/bin/sh\ncd {:?} || exit 9\n{body}\n", self.0)).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
        path
    }

    /// A script that writes each run's arguments, each followed by a NUL, into a file of its own.
    fn recorder(&self) -> PathBuf {
        self.script("record", "printf '%s\\0' \"$@\" > \"new.$$\" && mv \"new.$$\" \"run.$$\"")
    }

    /// The arguments of every run of the recorder, sorted.
    fn runs(&self) -> Vec<Vec<OsString>> {
        let is_run = |path: &PathBuf| path.file_name().unwrap().as_bytes().starts_with(b"run.");
        let paths = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).filter(is_run);
        let arguments = |path: PathBuf| {
            let bytes = std::fs::read(path).unwrap();
            let whole = bytes.strip_suffix(b"\0").unwrap();
            whole.split(|byte| *byte == 0).map(|part| OsStr::from_bytes(part).to_owned()).collect()
        };
        let mut runs: Vec<Vec<OsString>> = paths.map(arguments).collect();
        runs.sort();
        runs
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Answers each request with the next of its statuses, the last one for ever, and keeps what it was sent.
#[derive(Clone)]
struct Site {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Site {
    async fn start(answers: &[&'static str], delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://bob:pw@{}/hook?token=t", listener.local_addr().unwrap());
        let site = Self { url, requests: Arc::default() };
        let (requests, answers) = (site.requests.clone(), answers.to_vec());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (requests, answers) = (requests.clone(), answers.clone());
                tokio::spawn(async move {
                    let request = read_request(&mut stream).await;
                    let index = {
                        let mut all = requests.lock().unwrap();
                        all.push(request);
                        all.len() - 1
                    };
                    sleep(delay).await;
                    let answer = answers[index.min(answers.len() - 1)];
                    let text =
                        format!("HTTP/1.1 {answer}\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
                    let _ = stream.write_all(text.as_bytes()).await;
                });
            }
        });
        site
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// The request lines, without method and version.
    fn targets(&self) -> Vec<String> {
        let target = |request: &String| request.split(' ').nth(1).unwrap().to_owned();
        self.requests().iter().map(target).collect()
    }
}

async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head
                .split("content-length: ")
                .nth(1)
                .map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
            if body.len() >= length {
                return text;
            }
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "the request ends in {text:?}");
    }
}

fn section(on: &[&str], command: Option<&Path>, url: &str) -> ActionsSection {
    ActionsSection {
        execute_on: on.iter().map(|&word| word.to_owned()).collect(),
        command: command.map_or("", |path| path.to_str().unwrap()).to_owned(),
        http_notification_url: url.to_owned(),
        ..ActionsSection::default()
    }
}

fn checked(section: ActionsSection) -> Actions {
    let known = [FILE_CONDITIONS, ACCOUNT_CONDITIONS].concat();
    section.validate("sftpd", &known).unwrap()
}

fn nothing() -> Actions {
    checked(ActionsSection::default())
}

/// Hooks for file events only, whose notifications are tried again at once.
fn file_hooks(actions: &Actions, metrics: &Metrics) -> Hooks {
    let mut hooks = Hooks::start(&nothing(), &nothing(), metrics);
    let mut runner = Runner::new("sftpd", actions, &mut |text| panic!("{text}")).unwrap();
    if let Some(receiver) = &mut runner.receiver {
        receiver.first_pause = Duration::from_millis(5);
    }
    let (queue, work) = queue::open("sftpd", actions, runner, metrics.clone(), hooks.stop.clone());
    hooks.workers.spawn(work);
    hooks.queues = Arc::new(Queues { files: Some(queue), accounts: None });
    hooks
}

fn emit(hooks: &Hooks, metrics: &Metrics, events: impl IntoIterator<Item = Event>) {
    let door = Events::new(metrics.clone(), hooks.queue());
    events.into_iter().for_each(|event| door.emit(event));
}

fn transfer(direction: Direction, name: &[u8], error: Option<&str>) -> Event {
    Event::Transferred(TransferReport {
        direction,
        username: "anna".into(),
        connection_id: "SFTP_1".into(),
        protocol: Protocol::Sftp,
        path: VPath::root().join(name).unwrap(),
        real_path: Some(Path::new("/srv/anna").join(OsStr::from_bytes(name))),
        bytes: 7,
        elapsed_ms: 1,
        error: error.map(str::to_owned),
    })
}

fn upload(name: &str) -> Event {
    transfer(Direction::Upload, name.as_bytes(), None)
}

fn command(kind: CommandKind, path: &str, real_path: Option<&str>) -> Event {
    Event::Commanded(Command {
        kind,
        username: "anna".into(),
        connection_id: "SFTP_1".into(),
        protocol: Protocol::Sftp,
        path: VPath::parse(path.as_bytes()).unwrap(),
        real_path: real_path.map(PathBuf::from),
    })
}

fn ssh_command(line: &str, path: &str) -> Event {
    command(CommandKind::SshCommand { line: line.to_owned() }, path, Some("/srv/anna/x"))
}

fn user(public_keys: &[&str]) -> Arc<User> {
    let draft = UserDraft {
        id: 7,
        status: 1,
        username: "anna \"b\"".into(),
        password: "$6$hunter2".into(),
        public_keys: public_keys.iter().map(|&line| line.to_owned()).collect(),
        home_dir: "/srv/anna b".into(),
        expiration_date: 1_600_000_000_000,
        uid: 1001,
        permissions: [("/".to_owned(), vec!["*".to_owned()])].into(),
        ..UserDraft::default()
    };
    Arc::new(draft.validate(None).unwrap())
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxGZ0i8a1uCk0Yp1zQ4Wm6b0gq6mX0o5Wl2rFq1sQ9A me";

/// The value of a metric, by the beginning of its line.
fn metric(metrics: &Metrics, name: &str) -> i64 {
    let text = metrics.encode().unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Done, failed, timed out, dropped.
fn results(metrics: &Metrics) -> [i64; 4] {
    ["done", "failed", "timeout", "dropped"]
        .map(|result| metric(metrics, &format!("tidegate_hooks_total{{result=\"{result}\"}}")))
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not happen in time");
        sleep(Duration::from_millis(10)).await;
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[tokio::test]
async fn a_command_gets_five_arguments_whatever_the_names_are() {
    let (dir, metrics) = (Dir::new("files"), Metrics::new());
    let hooks =
        Hooks::start(&checked(section(FILE_CONDITIONS, Some(&dir.recorder()), "")), &nothing(), &metrics);
    let real_target = Some(PathBuf::from("/srv/anna/new \"name\""));
    let rename = CommandKind::Rename { target: VPath::parse(b"/new \"name\"").unwrap(), real_target };
    emit(
        &hooks,
        &metrics,
        [
            transfer(Direction::Download, b"a b'c\"d\n$(e)", None),
            transfer(Direction::Upload, b"-rf \xff\xfe", None),
            command(rename, "/old", Some("/srv/anna/old")),
            command(CommandKind::Remove { was_symlink: true }, "/link", Some("/srv/anna/link")),
            command(CommandKind::Remove { was_symlink: false }, "/no real path", None),
            ssh_command("md5sum 'a file'", "/a file"),
            ssh_command("pwd", "/"),
        ],
    );
    hooks.finish().await;
    let mut expected = vec![
        words(&["download", "anna", "/srv/anna/a b'c\"d\n$(e)", "", ""]),
        words(&["delete", "anna", "/srv/anna/link", "", ""]),
        words(&["delete", "anna", "/no real path", "", ""]),
        words(&["rename", "anna", "/srv/anna/old", "/srv/anna/new \"name\"", ""]),
        words(&["ssh_cmd", "anna", "/a file", "", "md5sum"]),
        words(&["ssh_cmd", "anna", "", "", "pwd"]),
    ];
    let mut bytes = words(&["upload", "anna", "", "", ""]);
    bytes[2] = OsStr::from_bytes(b"/srv/anna/-rf \xff\xfe").to_owned();
    expected.push(bytes);
    expected.sort();
    assert_eq!(dir.runs(), expected);
    assert_eq!(results(&metrics), [7, 0, 0, 0]);
    assert_eq!(metric(&metrics, "tidegate_hooks_queued"), 0);
}

#[tokio::test]
async fn a_command_gets_eight_arguments_about_an_account() {
    let (dir, metrics) = (Dir::new("accounts"), Metrics::new());
    let accounts = checked(section(ACCOUNT_CONDITIONS, Some(&dir.recorder()), ""));
    let hooks = Hooks::start(&nothing(), &accounts, &metrics);
    let events = [Event::UserAdded(user(&[])), Event::UserUpdated(user(&[])), Event::UserDeleted(user(&[]))];
    emit(&hooks, &metrics, events);
    // A file that is deleted is no account that is deleted.
    emit(&hooks, &metrics, [command(CommandKind::Remove { was_symlink: false }, "/x", None)]);
    hooks.finish().await;
    let rest = ["anna \"b\"", "7", "1", "1600000000000", "/srv/anna b", "1001", "0"];
    let expected = ["add", "delete", "update"].map(|action| words(&[&[action][..], &rest].concat()));
    assert_eq!(dir.runs(), expected);
}

#[tokio::test]
async fn what_failed_and_what_was_not_asked_for_runs_nothing() {
    let (dir, metrics) = (Dir::new("failures"), Metrics::new());
    let hooks =
        Hooks::start(&checked(section(FILE_CONDITIONS, Some(&dir.recorder()), "")), &nothing(), &metrics);
    let target = VPath::root();
    emit(
        &hooks,
        &metrics,
        [
            transfer(Direction::Upload, b"a", Some("no space left")),
            transfer(Direction::Download, b"a", Some("the connection ended")),
            ssh_command("scp -t /a", "/a"),
            command(CommandKind::Mkdir, "/d", None),
            command(CommandKind::Rmdir, "/d", None),
            command(CommandKind::Chmod { mode: 0o600 }, "/d", None),
            command(CommandKind::Symlink { target, real_target: None }, "/d", None),
            Event::UserAdded(user(&[])),
        ],
    );
    hooks.finish().await;
    assert_eq!((dir.runs().len(), results(&metrics)), (0, [0, 0, 0, 0]));

    let only_uploads = checked(section(&["upload"], Some(&dir.recorder()), ""));
    let hooks = Hooks::start(&only_uploads, &nothing(), &metrics);
    emit(&hooks, &metrics, [upload("a"), transfer(Direction::Download, b"b", None)]);
    hooks.finish().await;
    assert_eq!(dir.runs(), [words(&["upload", "anna", "/srv/anna/a", "", ""])]);
}

#[tokio::test]
async fn a_command_sees_little_of_the_server() {
    let (dir, metrics) = (Dir::new("environment"), Metrics::new());
    let script = dir.script(
        "look",
        "env -0 > env; cat > stdin; streams=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2)\n\
         echo \"$streams\" > streams; ps -o pgid= -p $$ > group; echo $$ > pid",
    );
    let hooks = Hooks::start(&checked(section(&["upload"], Some(&script), "")), &nothing(), &metrics);
    emit(&hooks, &metrics, [upload("a")]);
    hooks.finish().await;
    assert_eq!(results(&metrics), [1, 0, 0, 0]);
    let read = |name: &str| std::fs::read_to_string(dir.0.join(name)).unwrap();
    let names: Vec<String> =
        read("env").split_terminator('\0').map(|line| line.split('=').next().unwrap().to_owned()).collect();
    // The last four are the shell's own.
    let allowed = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TEMP"];
    let of_shell = ["PWD", "OLDPWD", "SHLVL", "_"];
    for name in &names {
        assert!(allowed.contains(&&**name) || of_shell.contains(&&**name), "{name} in {names:?}");
    }
    assert!(names.contains(&"PATH".to_owned()), "{names:?}");
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "there was something to hide");
    assert_eq!((read("stdin").as_str(), read("streams").as_str()), ("", "/dev/null\n/dev/null\n/dev/null\n"));
    assert_eq!(read("group").trim(), read("pid").trim(), "the command leads a group of its own");
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // A process that nobody has waited for yet is dead all the same.
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn a_command_that_takes_too_long_ends_with_its_children() {
    let (dir, metrics) = (Dir::new("timeout"), Metrics::new());
    let script = dir.script("hang", "sleep 600 & echo $! > child; sleep 600");
    let actions = ActionsSection { command_timeout: 1, ..section(&["upload"], Some(&script), "") };
    let hooks = Hooks::start(&checked(actions), &nothing(), &metrics);
    emit(&hooks, &metrics, [upload("a")]);
    let child = dir.0.join("child");
    eventually("the child", || std::fs::read_to_string(&child).is_ok_and(|pid| pid.ends_with('\n'))).await;
    let pid = std::fs::read_to_string(&child).unwrap();
    assert!(is_alive(&pid));
    eventually("the time-out", || results(&metrics) == [0, 0, 1, 0]).await;
    eventually("the end of the child", || !is_alive(&pid)).await;
    hooks.finish().await;
}

#[tokio::test]
async fn commands_that_fail_are_counted() {
    let (dir, metrics) = (Dir::new("status"), Metrics::new());
    let script = dir.script("fail", "exit 3");
    let hooks = Hooks::start(&checked(section(&["upload"], Some(&script), "")), &nothing(), &metrics);
    emit(&hooks, &metrics, [upload("a")]);
    eventually("the failure", || results(&metrics) == [0, 1, 0, 0]).await;
    std::fs::remove_file(script).unwrap();
    emit(&hooks, &metrics, [upload("b")]);
    hooks.finish().await;
    assert_eq!(results(&metrics), [0, 2, 0, 0]);
}

#[tokio::test]
async fn a_notification_adds_to_the_query() {
    let (site, metrics) = (Site::start(&["200 OK"], Duration::ZERO).await, Metrics::new());
    let actions = ActionsSection { max_concurrent: 1, ..section(FILE_CONDITIONS, None, &site.url) };
    let hooks = Hooks::start(&checked(actions), &nothing(), &metrics);
    let real_target = Some(PathBuf::from("/srv/anna/b"));
    let rename = CommandKind::Rename { target: VPath::parse(b"/b").unwrap(), real_target };
    emit(
        &hooks,
        &metrics,
        [
            transfer(Direction::Upload, b"a &=\n\"\xff", None),
            command(rename, "/a", Some("/srv/anna/a")),
            ssh_command("sha1sum x", "/x"),
            ssh_command("cd", "/"),
        ],
    );
    hooks.finish().await;
    let expected = [
        "/hook?token=t&action=upload&username=anna&path=%2Fsrv%2Fanna%2Fa+%26%3D%0A%22%FF",
        "/hook?token=t&action=rename&username=anna&path=%2Fsrv%2Fanna%2Fa&target_path=%2Fsrv%2Fanna%2Fb",
        "/hook?token=t&action=ssh_cmd&username=anna&path=%2Fx&ssh_cmd=sha1sum",
        "/hook?token=t&action=ssh_cmd&username=anna&path=&ssh_cmd=cd",
    ];
    assert_eq!(site.targets(), expected);
    for request in site.requests() {
        assert!(request.starts_with("GET ") && request.ends_with("\r\n\r\n"), "{request}");
        assert!(request.contains("authorization: Basic Ym9iOnB3\r\n"), "{request}");
    }
    assert_eq!(results(&metrics), [4, 0, 0, 0]);
}

#[tokio::test]
async fn a_notification_carries_the_account_without_its_password() {
    let (site, metrics) = (Site::start(&["204 No Content"], Duration::ZERO).await, Metrics::new());
    let actions = ActionsSection { max_concurrent: 1, ..section(ACCOUNT_CONDITIONS, None, &site.url) };
    let hooks = Hooks::start(&nothing(), &checked(actions), &metrics);
    emit(&hooks, &metrics, [Event::UserUpdated(user(&[KEY])), Event::UserDeleted(user(&[]))]);
    hooks.finish().await;
    assert_eq!(site.targets(), ["/hook?token=t&action=update", "/hook?token=t&action=delete"]);
    let request = &site.requests()[0];
    assert!(request.starts_with("POST ") && !request.contains("hunter2") && !request.contains("password"));
    assert!(request.contains("content-type: application/json\r\n"), "{request}");
    let expected = format!(
        "{{\"id\":7,\"status\":1,\"username\":\"anna \\\"b\\\"\",\"expiration_date\":1600000000000,\
         \"public_keys\":[\"{KEY}\"],\"home_dir\":\"/srv/anna b\",\"uid\":1001,\"gid\":0,\"max_sessions\":0,\
         \"quota_size\":0,\"quota_files\":0,\"permissions\":{{\"/\":[\"*\"]}},\"used_quota_size\":0,\
         \"used_quota_files\":0,\"last_quota_update\":0,\"upload_bandwidth\":0,\"download_bandwidth\":0,\
         \"last_login\":0,\"filters\":{{\"allowed_ip\":[],\"denied_ip\":[]}}}}"
    );
    assert_eq!(request.split_once("\r\n\r\n").unwrap().1, expected);
    assert!(!site.requests()[1].contains("public_keys"));
}

#[tokio::test]
async fn a_notification_is_repeated_until_it_is_delivered() {
    let rows: [(&[&str], i64, [i64; 4], usize); 4] = [
        (&["500 No", "503 No", "200 OK"], 2, [1, 0, 0, 0], 3),
        (&["500 No"], 2, [0, 1, 0, 0], 3),
        (&["500 No", "200 OK"], 0, [0, 1, 0, 0], 1),
        (&["404 No", "200 OK"], 2, [0, 1, 0, 0], 1),
    ];
    for (answers, http_retries, expected, requests) in rows {
        let (site, metrics) = (Site::start(answers, Duration::ZERO).await, Metrics::new());
        let actions = ActionsSection { http_retries, ..section(&["upload"], None, &site.url) };
        let hooks = file_hooks(&checked(actions), &metrics);
        emit(&hooks, &metrics, [upload("a")]);
        hooks.finish().await;
        assert_eq!((results(&metrics), site.requests().len()), (expected, requests), "{answers:?}");
    }
}

#[tokio::test]
async fn nobody_at_home_is_a_failure_and_silence_a_time_out() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let metrics = Metrics::new();
    let actions = ActionsSection { http_timeout: 1, ..section(&["upload"], None, &url) };
    let hooks = file_hooks(&checked(actions.clone()), &metrics);
    emit(&hooks, &metrics, [upload("a")]);
    hooks.finish().await;
    assert_eq!(results(&metrics), [0, 0, 1, 0]);
    drop(listener);
    let hooks = file_hooks(&checked(actions), &metrics);
    emit(&hooks, &metrics, [upload("a")]);
    hooks.finish().await;
    assert_eq!(results(&metrics), [0, 1, 1, 0]);
}

#[tokio::test]
async fn a_slow_command_does_not_hold_up_the_notification_and_the_worse_result_counts() {
    let (dir, metrics) = (Dir::new("both"), Metrics::new());
    let script = dir.script("wait", "while [ ! -e go ]; do sleep 0.05; done; exit 1");
    let site = Site::start(&["200 OK"], Duration::ZERO).await;
    let hooks = file_hooks(&checked(section(&["upload"], Some(&script), &site.url)), &metrics);
    emit(&hooks, &metrics, [upload("a")]);
    eventually("the notification", || site.requests().len() == 1).await;
    assert_eq!(results(&metrics), [0, 0, 0, 0]);
    std::fs::write(dir.0.join("go"), "").unwrap();
    hooks.finish().await;
    assert_eq!(results(&metrics), [0, 1, 0, 0]);
}

#[tokio::test]
async fn ten_thousand_events_and_a_slow_receiver() {
    let (site, metrics) = (Site::start(&["200 OK"], Duration::from_millis(2)).await, Metrics::new());
    let actions = ActionsSection { queue_size: 500, ..section(&["upload"], None, &site.url) };
    let hooks = file_hooks(&checked(actions), &metrics);
    let begun = Instant::now();
    emit(&hooks, &metrics, (0..10_000).map(|number| upload(&format!("file {number}"))));
    assert!(begun.elapsed() < Duration::from_secs(5), "whoever emits does not wait");
    assert!(metric(&metrics, "tidegate_hooks_queued") <= 500);
    eventually("the end of the queue", || results(&metrics).iter().sum::<i64>() == 10_000).await;
    let [done, failed, timeout, dropped] = results(&metrics);
    assert!(done >= 500 && dropped > 0 && failed == 0 && timeout == 0, "{:?}", results(&metrics));
    assert_eq!(i64::try_from(site.requests().len()).unwrap(), done);
    assert_eq!(metric(&metrics, "tidegate_hooks_queued"), 0);
    hooks.finish().await;
}

#[tokio::test]
async fn the_queue_is_bounded_by_bytes_too() {
    let metrics = Metrics::new();
    let actions =
        ActionsSection { queue_size: 1_000_000, ..section(&["delete"], Some(Path::new("/bin/true")), "") };
    let actions = checked(actions);
    let runner = Runner::new("sftpd", &actions, &mut |text| panic!("{text}")).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    // Nobody works on this queue: the future is never polled.
    let (queue, _work): (Queue, _) = queue::open("sftpd", &actions, runner, metrics.clone(), stop);
    let queues = Arc::new(Queues { files: Some(queue), accounts: None });
    let door = Events::new(metrics.clone(), Some(queues));
    let long = "x".repeat(4000);
    let count = (64 << 20) / 4000 + 100;
    (0..count)
        .for_each(|_| door.emit(command(CommandKind::Remove { was_symlink: false }, "/x", Some(&long))));
    let queued = metric(&metrics, "tidegate_hooks_queued");
    assert_eq!(queued + results(&metrics)[3], count);
    assert!((10_000..count - 100).contains(&queued), "{queued} of {count}");
}

#[tokio::test]
async fn the_end_waits_for_the_queue_but_not_for_ever() {
    let (dir, metrics) = (Dir::new("drain"), Metrics::new());
    let actions = ActionsSection {
        max_concurrent: 2,
        ..section(&["upload"], Some(&dir.script("nap", "sleep 0.1")), "")
    };
    let hooks = Hooks::start(&checked(actions), &nothing(), &metrics);
    emit(&hooks, &metrics, (0..8).map(|number| upload(&number.to_string())));
    hooks.finish().await;
    assert_eq!(results(&metrics), [8, 0, 0, 0], "everything that waited was done");

    let metrics = Metrics::new();
    let script = dir.script("hang", "echo $$ > pid; sleep 600");
    let actions = ActionsSection {
        max_concurrent: 1,
        shutdown_grace_time: 1,
        ..section(&["upload"], Some(&script), "")
    };
    let hooks = Hooks::start(&checked(actions), &nothing(), &metrics);
    emit(&hooks, &metrics, (0..4).map(|number| upload(&number.to_string())));
    let pid = dir.0.join("pid");
    eventually("the start", || std::fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n'))).await;
    let begun = Instant::now();
    hooks.finish().await;
    assert!((Duration::from_millis(900)..Duration::from_secs(10)).contains(&begun.elapsed()));
    assert_eq!(results(&metrics), [0, 1, 0, 3], "one was cut short, three were never begun");
    assert_eq!(metric(&metrics, "tidegate_hooks_queued"), 0);
    let pid = std::fs::read_to_string(pid).unwrap();
    eventually("the end of the command", || !is_alive(&pid)).await;
}

#[tokio::test]
async fn what_cannot_work_is_said_at_the_start() {
    let dir = Dir::new("warnings");
    let plain = dir.0.join("plain");
    std::fs::write(&plain, "").unwrap();
    let said = |section: ActionsSection| {
        let mut warnings = Vec::new();
        let runs = Runner::new("sftpd", &checked(section), &mut |text| warnings.push(text)).is_some();
        (runs, warnings.join("; "))
    };
    let upload = ["upload"];
    let rows = [
        (section(&upload, Some(&dir.0.join("missing")), ""), true, "sftpd.actions.command \""),
        (section(&upload, Some(&plain), ""), true, "is not executable"),
        (section(&upload, Some(&dir.0), ""), true, "is not a file"),
        (
            section(&upload, None, "http://[bad"),
            false,
            "sftpd.actions.http_notification_url is not a valid URL",
        ),
        (section(&[], Some(&plain), ""), false, "sftpd.actions.command has no effect"),
        (section(&upload, None, ""), false, "sftpd.actions.execute_on has no effect"),
    ];
    for (section, runs, text) in rows {
        let (does_run, warnings) = said(section);
        assert_eq!(does_run, runs, "{warnings}");
        assert!(warnings.contains(text), "{text} in {warnings:?}");
    }
    assert_eq!(said(ActionsSection::default()), (false, String::new()));
    assert!(Hooks::start(&nothing(), &nothing(), &Metrics::new()).queue().is_none());
    let secure = section(&upload, None, "https://hooks.example/?token=hunter2");
    assert_eq!(said(secure), (true, String::new()));
}
