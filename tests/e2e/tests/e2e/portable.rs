//! `tidegate portable`: one folder, one user, nothing left behind.

use rustix::process::Signal;
use tidegate_e2e::clients::{curl, sftp};
use tidegate_e2e::server::{command, free_port};
use tidegate_e2e::{RawSftp, TestServer, Tool, disk, keys, secs, status, wait_for};

/// Starts portable mode for `root/share` with these further arguments.
fn portable(args: &[&str]) -> TestServer {
    let root = tempfile::Builder::new().prefix("tidegate-e2e-portable-").tempdir().unwrap();
    for dir in ["share", "work", "elsewhere"] {
        std::fs::create_dir(root.path().join(dir)).unwrap();
    }
    disk::write(&root.path().join("share/file"), b"content");
    let port = free_port();
    let mut command = command(root.path());
    command.current_dir(root.path().join("elsewhere"));
    command.args(["portable", "-d"]).arg(root.path().join("share"));
    command.args(["-s", &port.to_string(), "--advertise-service=false"]).args(args);
    TestServer::launch(command, port, 0, root)
}

#[test]
fn a_folder_is_served_for_download_by_default() {
    let server = portable(&["-u", "guest", "-p", "secret"]);
    assert_eq!(curl(&server, "guest", "secret", &["URL/file"]).ok(), "content");
    curl(&server, "guest", "wrong", &["URL/file"]).fails();
    disk::write(&server.work().join("new"), b"new");
    curl(&server, "guest", "secret", &["-T", "new", "URL/new"]).fails();
    curl(&server, "guest", "secret", &["-T", "new", "URL/file"]).fails();
    let names: Vec<_> =
        std::fs::read_dir(server.path("share")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["file"], "the folder holds what it held: no host key, nothing uploaded");
    assert_eq!(disk::text(&server.path("share/file")), "content");
}

#[test]
fn every_permission_with_a_star() {
    let server = portable(&["-u", "guest", "-p", "secret", "-g", "*"]);
    disk::write(&server.work().join("new"), b"new");
    curl(&server, "guest", "secret", &["-T", "new", "URL/new"]).ok();
    assert_eq!(disk::text(&server.path("share/new")), "new");
}

#[test]
fn permissions_and_keys_can_be_listed() {
    let key = keys::keys().client_public();
    let server = portable(&["-k", &key, "-g", "list,download", "-g", "create_dirs"]);
    let mut sftp = RawSftp::connect(&server, "user");
    assert_eq!(sftp.mkdir("/dir"), Ok(()));
    assert_eq!(sftp.remove("/file"), Err(status::PERMISSION_DENIED));
}

#[test]
fn generated_credentials_are_printed_and_work() {
    let server = portable(&[]);
    let said = wait_for("the credentials on the console", secs(5), || {
        let said = server.console();
        said.contains(&server.port.to_string()).then_some(said)
    });
    // Every word of the console is tried as the password: its place in the line is for people, not programs.
    let words =
        said.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() >= 8 && word.len() < 40);
    let found = words
        .filter(|word| !word.starts_with("0000"))
        .any(|word| curl(&server, "user", word, &["URL/file"]).run().out() == "content");
    assert!(found, "no word of this is the password of `user`: {said}");
}

#[test]
fn two_runs_generate_different_passwords() {
    let [one, two] =
        [portable(&[]), portable(&[])].map(|server| server.console().replace(&server.port.to_string(), ""));
    let words = |said: &str| -> Vec<String> {
        said.split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| word.len() >= 8)
            .map(str::to_owned)
            .collect()
    };
    let (one, two) = (words(&one), words(&two));
    assert!(one.iter().any(|word| !two.contains(word)), "{one:?}");
}

#[test]
fn no_configuration_and_no_environment_is_read() {
    let root = tempfile::Builder::new().prefix("tidegate-e2e-portable-").tempdir().unwrap();
    std::fs::create_dir(root.path().join("work")).unwrap();
    disk::write(&root.path().join("share/file"), b"content");
    disk::write(&root.path().join("sftpgo.json"), b"{ malformed");
    let port = free_port();
    let mut command = command(root.path());
    command.env("SFTPGO_SFTPD__BIND_PORT", "1").env("SFTPGO_SFTPD__BANNER", "From_the_environment");
    command.args(["portable", "-d", "share", "-s", &port.to_string(), "-S=false", "-u", "u", "-p", "secret"]);
    let server = TestServer::launch(command, port, 0, root);
    assert_eq!(curl(&server, "u", "secret", &["URL/file"]).ok(), "content");
    assert!(!tidegate_e2e::server::greeting(port).unwrap().contains("environment"));
}

#[test]
fn mistakes_end_with_1() {
    let root = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let tool =
            Tool::new(tidegate_e2e::server::binary(), "tidegate").dir(root.path()).env("HOME", root.path());
        tool.args(["portable", "--advertise-service=false"]).args(args).within(20).run()
    };
    for (args, word) in [
        (&["-g", "fly"][..], "fly"),
        (&["-d", "no-such-folder"], "no-such-folder"),
        (&["-k", "ssh-rsa nonsense"], "key"),
        (&["-s", "70000"], "70000"),
    ] {
        let done = run(args);
        assert_eq!(done.code, Some(1), "{args:?}: {}", done.report());
        assert!((done.out() + &done.err()).contains(word), "{args:?}: {}", done.report());
    }
}

#[test]
fn a_signal_ends_it_with_0_and_leaves_nothing() {
    let mut server = portable(&["-u", "guest", "-p", "secret", "-g", "*"]);
    server.signal(Signal::INT);
    assert_eq!(server.wait_exit(secs(5)).code(), Some(0));
    let left: Vec<_> =
        std::fs::read_dir(server.path("elsewhere")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.is_empty(), "left in the current directory: {left:?}");
}

#[test]
fn the_stock_client_moves_a_file_both_ways() {
    let key = keys::keys().client_public();
    let server = portable(&["-k", &key, "-g", "*"]);
    disk::write_noise(&server.work().join("big"), 1, 8 << 20);
    sftp(&server, "user", &[], "put big\nget big back\n").ok();
    disk::same(&server.work().join("big"), &server.path("share/big"));
    disk::same(&server.work().join("big"), &server.work().join("back"));
}
