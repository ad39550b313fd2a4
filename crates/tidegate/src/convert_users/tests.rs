//! Sample files through the whole conversion, and hostile ones.

use clap::Parser as _;
use serde_json::Value;
use tidegate_core::Passwords;

use super::*;
use crate::cli::{Cli, Command};

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
# a comment

ada:x:1001:1001:Ada Lovelace,,,:/home/ada:/bin/bash
bob:x:1002:1002::/home/bob/../bob/:/bin/sh
carl:$5$rounds=1000$carl$LPmnOrctwuZxBYknYKWqz9XBQAYW2jn8bQjyaBZonW/:1003:1001::/home/carl:/bin/sh\r
dora:x:1004:1002::/home/dora:/bin/sh
emil:x:1005:1001::/home/emil:/bin/sh
fred:x:1006:1001::/home/fred:/bin/sh
gina:x:1007:1001::/:/bin/sh
hugo:x:70000:1001::/home/hugo:/bin/sh
iris:x:1009:1001::/home/iris:/bin/sh
jack:x:1010:1001::/home/jack:/bin/sh
";

const SHADOW: &str = "\
root:$6$rounds=1000$ada$G38EjZWrTodyQeudWq1vLgHMzRiYGrre3CqlvJr3NKa/izkOXR73jHPlML9u/T8qLvSQkPc7Oe4tGdok829Kd.:1::::::
daemon:*:19000:0:99999:7:::
ada:$6$rounds=1000$ada$G38EjZWrTodyQeudWq1vLgHMzRiYGrre3CqlvJr3NKa/izkOXR73jHPlML9u/T8qLvSQkPc7Oe4tGdok829Kd.:19000:0:99999:7:::
bob:$y$j75$abcdefghij1$oYoqkEvhye9UAeSgk3U3Wj8o1Z.fnJ4K5IiijfL9M44:19000:0:99999:7::20000:
dora:abqrV9YEF/W1c:19000:0:99999:7:::
emil:!$6$rounds=1000$ada$G38EjZWrTodyQeudWq1vLgHMzRiYGrre3CqlvJr3NKa/izkOXR73jHPlML9u/T8qLvSQkPc7Oe4tGdok829Kd.:19000::::::
fred:!:19000:0:99999:7:::
gina:$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/:19000:0:99999:7:::
hugo:$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/:19000:0:99999:7:::
iris::19000:0:99999:7:::
";

/// A directory of its own for one test, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-convert-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn args(flags: &[&str]) -> ConvertArgs {
    match Cli::try_parse_from(["tidegate", "convert-users"].iter().chain(flags)).unwrap().command {
        Some(Command::ConvertUsers(args)) => args,
        other => panic!("not convert-users: {other:?}"),
    }
}

/// Converts; the users by name and the warnings.
fn converted(flags: &[&str]) -> Result<(BTreeMap<String, UserDraft>, Vec<String>)> {
    let mut warnings = Vec::new();
    let flags = [flags, &["-o", "unused"]].concat();
    let conversion = convert(&args(&flags), &mut |warning| warnings.push(warning.to_owned()))?;
    let users = conversion.users.into_iter().map(|user| (user.username.clone(), user)).collect();
    Ok((users, warnings))
}

fn names(users: &BTreeMap<String, UserDraft>) -> Vec<&str> {
    users.keys().map(String::as_str).collect()
}

/// The one warning that has all of `words`.
fn warned<'a>(warnings: &'a [String], words: &[&str]) -> &'a str {
    let has = |warning: &&String| words.iter().all(|word| warning.contains(word));
    let found: Vec<_> = warnings.iter().filter(has).collect();
    assert_eq!(found.len(), 1, "{words:?} in {warnings:#?}");
    found[0]
}

#[tokio::test]
async fn unix_accounts_keep_their_passwords() {
    let dir = Dir::new("unix");
    let (passwd, shadow) = (dir.file("passwd", PASSWD), dir.file("shadow", SHADOW));
    let (users, warnings) = converted(&["-i", &passwd, "--shadow", &shadow]).unwrap();
    assert_eq!(names(&users), ["ada", "bob", "carl", "hugo"]);
    let passwords = Passwords::new(1);
    for (name, password) in [("ada", "ada-secret"), ("bob", "bob-secret"), ("carl", "carl-secret")] {
        assert_eq!(passwords.verify(password, &users[name].password).await, Ok(()), "{name}");
    }
    let ada = &users["ada"];
    assert_eq!((ada.uid, ada.gid, ada.status, ada.expiration_date), (1001, 1001, 1, 0));
    assert_eq!(ada.permissions, BTreeMap::from([("/".to_owned(), vec!["*".to_owned()])]));
    assert_eq!(
        (users["bob"].home_dir.as_str(), users["bob"].expiration_date),
        ("/home/bob", 20_000 * 86_400_000)
    );
    for words in [
        ["passwd:8", "\"dora\" skipped", "old DES hash"],
        ["passwd:9", "\"emil\" skipped", "locked"],
        ["passwd:10", "\"fred\" skipped", "cannot log in with a password"],
        ["passwd:11", "\"gina\" skipped", "home directory is /"],
        ["passwd:12", "\"hugo\": its uid is 70000", "above 65535"],
        ["passwd:13", "\"iris\" skipped", "empty"],
        ["passwd:14", "\"jack\" skipped", "--shadow"],
    ] {
        warned(&warnings, &words);
    }
    assert_eq!(warnings.len(), 7, "{warnings:#?}");
    assert!(!warnings.iter().any(|warning| warning.contains("abqr")), "no hash is told");
}

#[test]
fn filters_and_replacements() {
    let dir = Dir::new("filters");
    let (passwd, shadow) = (dir.file("passwd", PASSWD), dir.file("shadow", SHADOW));
    let group =
        dir.file("group", "root:x:0:\nstaff:x:1002:\nsftp:x:500:ada,hugo,nobody\nbroken\n1001:x:7:\n");
    let base = ["-i", &passwd, "--shadow", &shadow, "--group-file", &group];
    let names_of = |flags: &[&str]| {
        let (users, warnings) = converted(&[&base, flags].concat()).unwrap();
        (names(&users).join(" "), warnings)
    };
    assert_eq!(names_of(&["--max-uid", "1002"]).0, "ada bob");
    assert_eq!(names_of(&["--min-uid", "1003", "--max-uid", "1003"]).0, "carl");
    assert_eq!(names_of(&["-g", "sftp"]).0, "ada hugo");
    assert_eq!(names_of(&["-g", "500"]).0, "ada hugo");
    assert_eq!(names_of(&["-g", "1001"]).0, "ada carl hugo", "a number is never a name");
    assert_eq!(names_of(&["-g", "sftp,staff", "--max-uid", "2000"]).0, "ada bob");
    let (found, warnings) = names_of(&["-g", "staff"]);
    assert_eq!(found, "bob");
    warned(&warnings, &["group:4", "line skipped", "expected 4"]);
    let (found, warnings) = names_of(&["-u", "ada,nora", "--usernames", "root"]);
    assert_eq!(found, "ada");
    warned(&warnings, &["--usernames", "no account \"nora\""]);
    warned(&warnings, &["\"root\" skipped", "filtered out"]);
    let (found, warnings) = names_of(&["--min-uid", "0", "-u", "root"]);
    assert_eq!(found, "root");
    warned(&warnings, &["its uid is 0", "runs the server"]);

    let forced =
        [&base[..], &["--force-uid", "996", "--force-gid=0", "-p", "list,download", "-u", "ada"]].concat();
    let (users, warnings) = converted(&forced).unwrap();
    assert_eq!((users["ada"].uid, users["ada"].gid), (996, 0));
    assert_eq!(users["ada"].permissions["/"], ["list", "download"]);
    assert!(warnings.is_empty(), "{warnings:?}");

    for (flags, words) in [
        (&["-p", "list,lst"][..], "--permissions has \"lst\""),
        (&["-g", "nobodies"], "--group is \"nobodies\""),
        (&["--min-uid", "9", "--max-uid", "8"], "--max-uid is 8"),
        (&["-F", "proftpd"], "--shadow"),
    ] {
        let error = format!("{:#}", converted(&[&base, flags].concat()).unwrap_err());
        assert!(error.contains(words), "{error}");
    }
    let missing = dir.0.join("missing");
    let error = format!("{:#}", converted(&["-i", missing.to_str().unwrap()]).unwrap_err());
    assert!(error.contains("missing (--passwd)"), "{error}");
    assert!(converted(&["-F", "pure-ftpd"]).unwrap_err().to_string().contains("--passwd is missing"));
}

#[tokio::test]
async fn accounts_without_a_usable_password_can_be_kept() {
    let dir = Dir::new("keep");
    let (passwd, shadow) = (dir.file("passwd", PASSWD), dir.file("shadow", SHADOW));
    let flags = ["-i", &passwd, "--shadow", &shadow, "--keep-without-password"];
    let (users, warnings) = converted(&flags).unwrap();
    assert_eq!(names(&users), ["ada", "bob", "carl", "dora", "hugo", "iris", "jack"]);
    warned(&warnings, &["\"dora\": ", "random one"]);
    assert_ne!(users["dora"].password, users["iris"].password);
    let passwords = Passwords::new(1);
    for guess in ["dora-secret", "abqrV9YEF/W1c", users["dora"].password.as_str()] {
        assert!(passwords.verify(guess, &users["dora"].password).await.is_err());
    }
}

#[test]
fn authorized_keys_stand_for_a_password() {
    let dir = Dir::new("keys");
    let key = |last: &str| format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{}{last}", "A".repeat(42));
    let lines = [
        "# mine".to_owned(),
        key("A") + " ada@laptop",
        format!("command=\"/bin/date\" {}", key("B")),
        "ssh-ed25519 AAAA broken".to_owned(),
        format!("from=\"10.0.0.0/8\",restrict {}", key("C")),
        key("A") + " ada@laptop",
        key("D"),
    ];
    dir.file("ada/.ssh/authorized_keys", lines.join("\n"));
    dir.file("emil/.ssh/authorized_keys", key("A"));
    let home = dir.0.display();
    let account =
        |name: &str, password: &str| format!("{name}:{password}:1001:1001::{home}/{name}:/bin/sh\n");
    let hash = "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/";
    let locked = format!("!{hash}");
    let passwd = [account("ada", "*"), account("emil", &locked), account("fred", "!"), account("gina", hash)];
    let passwd = dir.file("passwd", passwd.concat());
    let (users, warnings) = converted(&["-i", &passwd, "--authorized-keys"]).unwrap();
    assert_eq!(names(&users), ["ada", "gina"]);
    assert_eq!(users["ada"].public_keys, [key("A") + " ada@laptop", key("D")]);
    assert_eq!(users["ada"].password, "");
    for words in
        [["\"ada\"", "line 3", "options"], ["\"ada\"", "line 4", "no key"], ["\"ada\"", "line 5", "options"]]
    {
        warned(&warnings, &words);
    }
    warned(&warnings, &["\"emil\" skipped", "locked"]);
    warned(&warnings, &["\"fred\" skipped"]);
    assert!(!warnings.iter().any(|warning| warning.contains("/bin/date") || warning.contains("broken")));
    let (users, _) = converted(&["-i", &passwd]).unwrap();
    assert_eq!(names(&users), ["gina"], "keys are taken only when asked for");
}

#[cfg(unix)]
#[test]
fn a_link_in_place_of_the_keys_is_not_followed() {
    let dir = Dir::new("link");
    let key = format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{}", "A".repeat(43));
    let secret = dir.file("secret", key);
    dir.file("ada/.ssh/other", "");
    std::os::unix::fs::symlink(secret, dir.0.join("ada/.ssh/authorized_keys")).unwrap();
    let (keys, remarks) = keys::of(&dir.0.join("ada"));
    assert!(keys.is_empty() && remarks.len() == 1, "{keys:?} {remarks:?}");
    std::fs::create_dir_all(dir.0.join("bob/.ssh/authorized_keys")).unwrap();
    let (keys, remarks) = keys::of(&dir.0.join("bob"));
    assert!(keys.is_empty() && remarks.len() == 1, "{keys:?} {remarks:?}");
}

#[test]
fn proftpd_accounts() {
    let dir = Dir::new("proftpd");
    let passwd = dir.file(
        "ftpd.passwd",
        "ada:$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/:33:33::/srv/ada:/bin/false\n\
         bob:!$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/:33:33::/srv/bob:/bin/false\n",
    );
    let group = dir.file("ftpd.group", "web:x:33:\nothers:x:34:ada\n");
    let flags = ["-F", "proftpd", "-i", &passwd, "--group-file", &group];
    let (users, warnings) = converted(&flags).unwrap();
    assert_eq!(names(&users), ["ada"], "ids below 1000 are usual here");
    assert_eq!((users["ada"].uid, users["ada"].home_dir.as_str()), (33, "/srv/ada"));
    warned(&warnings, &["ftpd.passwd:2", "locked"]);
    assert_eq!(names(&converted(&[&flags[..], &["-g", "others"]].concat()).unwrap().0), ["ada"]);
}

#[test]
fn pure_ftpd_accounts_keep_their_limits() {
    let dir = Dir::new("pureftpd");
    let hash = "$2a$06$abcdefghijklmnopqrstuuNBpXtlux7FnXJE0fnrtkSXNhdOGmWHu";
    let passwd = dir.file(
        "pureftpd.passwd",
        format!(
            "ada:{hash}:500:101:Ada:/home/ftp/ada/./:10240:1:::3:1000:10485760:::192.168.0.0/16,10.1.2.3:10.9.0.0/24:\n\
             bob:{hash}:500:101::/home/ftp/bob/./in/box:::1:5::::10.0.0.1::::0900-1800\n\
             carl:{hash}:500:101::/home/ftp/carl::::::::::::\n\
             dora:{hash}:500:101::/home/ftp/dora/./::::::::::bla.example.net::\n\
             emil:{hash}:500:101::/home/ftp/emil/./:fast:::::::::::\n\
             fred:$7$C6..../....x:500:101::/home/ftp/fred/./::::::::::::\n\
             gina:{hash}:500:101::/./\n",
        ),
    );
    let (users, warnings) = converted(&["-F", "pure-ftpd", "-i", &passwd]).unwrap();
    assert_eq!(names(&users), ["ada", "bob", "carl"]);
    let ada = &users["ada"];
    assert_eq!(ada.home_dir, "/home/ftp/ada");
    assert_eq!((ada.upload_bandwidth, ada.download_bandwidth), (10, 1), "less than 1 KB/s is not unlimited");
    assert_eq!((ada.max_sessions, ada.quota_files, ada.quota_size), (3, 1000, 10_485_760));
    assert_eq!(ada.filters.allowed_ip, ["192.168.0.0/16", "10.1.2.3/32"]);
    assert_eq!(ada.filters.denied_ip, ["10.9.0.0/24"]);
    assert_eq!(users["bob"].home_dir, "/home/ftp/bob");
    for words in [
        ["\"bob\": ", "no longer in", "in/box"],
        ["\"bob\": ", "ratio", "left out"],
        ["\"bob\": ", "local addresses", "left out"],
        ["\"bob\": ", "time restrictions", "left out"],
        ["\"carl\": ", "not confined", "now it is"],
        ["pureftpd.passwd:4", "line skipped", "bla.example.net"],
        ["pureftpd.passwd:5", "line skipped", "upload bandwidth is \"fast\""],
        ["pureftpd.passwd:6", "\"fred\" skipped", "a $7$ hash"],
        ["pureftpd.passwd:7", "\"gina\" skipped", "home directory is /"],
    ] {
        warned(&warnings, &words);
    }
    assert_eq!(warnings.len(), 9, "{warnings:#?}");
}

#[test]
fn hostile_lines_are_named_and_left_out() {
    let dir = Dir::new("hostile");
    let hash = "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/";
    let long = "x".repeat(300);
    let lines: Vec<Vec<u8>> = vec![
        format!("ada:{hash}:1001:1001::/home/ada:/bin/sh").into(),
        b"no colons".to_vec(),
        b":::::::::::::".to_vec(),
        [b':'; 100_000].to_vec(),
        format!("ada:{hash}:1002:1002::/home/other:/bin/sh").into(),
        format!("bad:{hash}:-1:1001::/home/bad:/bin/sh").into(),
        format!("bad2:{hash}:4294967296:1001::/home/bad:/bin/sh").into(),
        format!("bad3:{hash}:4294967295:1001::/home/bad:/bin/sh").into(),
        format!("../bad:{hash}:1001:1001::/home/bad:/bin/sh").into(),
        format!("bad4:{hash}:1001:1001::relative:/bin/sh").into(),
        format!("bad 5:{hash}:1001:1001::/home/bad:/bin/sh").into(),
        format!("{long}:{hash}:1001:1001::/home/bad:/bin/sh").into(),
        format!("bad6:{hash}:1001:1001::/{long}:/bin/sh").into(),
        format!("bad7:extra:{hash}:1001:1001:/home/bad:/bin/sh").into(),
        format!("bad\x1b[2J:{hash}:1001:1001::/home/bad:/bin/sh").into(),
        format!("bad8:{hash}:1001:1001::/home/\0bad:/bin/sh").into(),
        [b"bad\xff:".as_slice(), hash.as_bytes(), b":1001:1001::/home/bad:/bin/sh"].concat(),
        b"bad9:\xff\xfe:1001:1001::/home/bad:/bin/sh".to_vec(),
        b"+@netgroup::::::".to_vec(),
        [b"gecos:".as_slice(), hash.as_bytes(), b":1001:1001:Z\xfcrich:/home/gecos:/bin/sh"].concat(),
    ];
    let bad = lines.len() - 2;
    let passwd = dir.file("passwd", lines.join(&b'\n'));
    let (users, warnings) = converted(&["-i", &passwd]).unwrap();
    assert_eq!(names(&users), ["ada", "gecos"]);
    assert_eq!(users["ada"].home_dir, "/home/ada", "the first line of a name counts");
    assert_eq!(warnings.len(), bad, "{warnings:#?}");
    for (number, warning) in (2..=bad + 1).zip(&warnings) {
        assert!(warning.contains(&format!("passwd:{number}: line skipped: ")), "{warning}");
        assert!(!warning.contains("saltsalt") && !warning.contains('\x1b'), "{warning}");
    }
    let error = converted(&["-i", &passwd, "--strict"]).unwrap_err().to_string();
    assert!(error.contains("passwd:2: has 1 fields"), "{error}");
}

#[cfg(unix)]
#[test]
fn the_dump_is_whole_private_and_in_the_form_of_the_api() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = Dir::new("dump");
    let (passwd, shadow) = (dir.file("passwd", PASSWD), dir.file("shadow", SHADOW));
    let output = dir.file("users.json", "the old one");
    std::fs::set_permissions(&output, std::fs::Permissions::from_mode(0o644)).unwrap();
    run(&args(&["-i", &passwd, "--shadow", &shadow, "-o", &output])).unwrap();
    let mode = std::fs::metadata(&output).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds password hashes");
    let dump: Value = serde_json::from_slice(&std::fs::read(&output).unwrap()).unwrap();
    let users = dump["users"].as_array().unwrap();
    assert_eq!(users.len(), 4);
    let ada = users[0].as_object().unwrap();
    assert_eq!(ada["username"], "ada");
    assert!(ada["password"].as_str().unwrap().starts_with("$6$"));
    assert_eq!(ada["permissions"]["/"][0], "*");
    assert_eq!(ada["filters"], serde_json::json!({ "allowed_ip": [], "denied_ip": [] }));
    let numbers =
        ["id", "status", "expiration_date", "uid", "gid", "max_sessions", "quota_size", "quota_files"];
    assert!(numbers.iter().all(|field| ada[*field].is_i64()), "{ada:?}");

    // Nothing is left over, and what cannot be replaced stays.
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 3);
    let before = std::fs::read(&output).unwrap();
    let none = ["-i", &passwd, "--shadow", &shadow, "-o", &output, "-u", "nora"];
    assert!(run(&args(&none)).unwrap_err().to_string().contains("no account is left"));
    assert_eq!(std::fs::read(&output).unwrap(), before);
    for (place, words) in
        [("/dev/null", "not an ordinary file"), ("/no/such/dir/x", "cannot write /no/such/dir/x")]
    {
        let error = run(&args(&["-i", &passwd, "--shadow", &shadow, "-o", place])).unwrap_err();
        assert!(format!("{error:#}").contains(words), "{error:#}");
    }
}
