//! Command line and configuration: files of every format, environment, flags, and how mistakes are told.

use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate_e2e::clients::sftp;
use tidegate_e2e::process::{Finished, Tool};
use tidegate_e2e::server::{binary, command, free_port};
use tidegate_e2e::{TestServer, disk, keys, wait_for};

/// Runs the binary to its end in an empty directory that also is its home.
fn run(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Finished {
    let mut tool = Tool::new(binary(), "tidegate").dir(dir).env("HOME", dir).args(args).within(20);
    for (name, value) in env {
        tool = tool.env(name, value);
    }
    tool.run()
}

fn empty() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("tidegate-e2e-config-").tempdir().unwrap()
}

/// Starting with this `sftpgo.json` must fail with exit code 1 and a message that contains all of these.
fn refused(file: &str, content: &str, words: &[&str]) {
    let dir = empty();
    disk::write(&dir.path().join(file), content.as_bytes());
    let done = run(dir.path(), &["serve", "-c", ".", "-l", "log.json"], &[]);
    assert_eq!(done.code, Some(1), "{content}: {}", done.report());
    let said = done.out() + &done.err();
    for word in words {
        assert!(said.contains(word), "{content}: {word:?} is missing in: {}", done.report());
    }
    assert!(!said.contains("panicked"), "{}", done.report());
}

#[test]
fn version_and_help() {
    let dir = empty();
    for flag in ["--version", "-v"] {
        let done = run(dir.path(), &[flag], &[]);
        done.expect_success();
        assert!(done.out().contains(env!("CARGO_PKG_VERSION")), "{}", done.report());
    }
    for args in [&[][..], &["help"], &["--help"], &["-h"]] {
        let done = run(dir.path(), args, &[]);
        assert_eq!(done.code, Some(0), "{}", done.report());
        let said = done.out() + &done.err();
        for word in ["serve", "portable", "help"] {
            assert!(said.contains(word), "{args:?}: {}", done.report());
        }
    }
    let serve = run(dir.path(), &["serve", "--help"], &[]).out();
    for flag in [
        "--config-dir",
        "--config-file",
        "--log-file-path",
        "--log-max-size",
        "--log-max-backups",
        "--log-max-age",
        "--log-compress",
        "--log-verbose",
        "SFTPGO_CONFIG_DIR",
        "SFTPGO_LOG_MAX_AGE",
    ] {
        assert!(serve.contains(flag), "{flag} is missing in: {serve}");
    }
    let portable = run(dir.path(), &["portable", "--help"], &[]).out();
    for flag in [
        "--directory",
        "--sftpd-port",
        "--ssh-commands",
        "--username",
        "--password",
        "--public-key",
        "--permissions",
        "--log-file-path",
        "--advertise-service",
        "--advertise-credentials",
    ] {
        assert!(portable.contains(flag), "{flag} is missing in: {portable}");
    }
}

#[test]
fn mistakes_on_the_command_line_end_with_1() {
    let dir = empty();
    for args in [
        &["no-such-command"][..],
        &["--no-such-flag"],
        &["serve", "--no-such-flag"],
        &["serve", "-s", "many"],
    ] {
        let done = run(dir.path(), args, &[]);
        assert_eq!(done.code, Some(1), "{args:?}: {}", done.report());
        assert!(!done.err().is_empty(), "{args:?}: {}", done.report());
    }
    let done = run(dir.path(), &["serve"], &[("SFTPGO_LOG_MAX_AGE", "old")]);
    assert_eq!(done.code, Some(1), "{}", done.report());
    assert!(
        done.err().contains("SFTPGO_LOG_MAX_AGE") || done.err().contains("log-max-age"),
        "{}",
        done.report()
    );
}

#[test]
fn malformed_files_name_the_file() {
    refused("sftpgo.json", "{ \"sftpd\": ", &["sftpgo.json"]);
    refused("sftpgo.toml", "[sftpd\nbind_port = 1", &["sftpgo.toml"]);
    refused("sftpgo.yaml", "sftpd:\n  bind_port: [1\n", &["sftpgo.yaml"]);
    refused("sftpgo.hcl", "sftpd {{{", &["sftpgo.hcl"]);
}

#[test]
fn wrong_values_name_file_key_value_and_what_was_expected() {
    let sftpd = |body: &str| format!("{{\"sftpd\": {{{body}}}}}");
    refused("sftpgo.json", &sftpd(r#""bind_port": "a""#), &["sftpgo.json", "sftpd.bind_port", "a"]);
    refused("sftpgo.json", &sftpd(r#""bind_port": 70000"#), &["sftpd.bind_port", "70000"]);
    refused("sftpgo.json", &sftpd(r#""bind_port": {"x": 1}"#), &["sftpgo.json", "sftpd.bind_port"]);
    refused("sftpgo.json", &sftpd(r#""ciphers": ["rot13"]"#), &["sftpd.ciphers", "rot13"]);
    refused(
        "sftpgo.json",
        &sftpd(r#""kex_algorithms": ["no-such-kex"]"#),
        &["sftpd.kex_algorithms", "no-such-kex"],
    );
    refused("sftpgo.json", &sftpd(r#""macs": ["no-such-mac"]"#), &["sftpd.macs", "no-such-mac"]);
    refused("sftpgo.json", &sftpd(r#""keys": [{"private_key": "missing_key"}]"#), &["missing_key"]);
    refused("sftpgo.json", r#"{"data_provider": {"driver": "oracle"}}"#, &["data_provider.driver", "oracle"]);
    refused(
        "sftpgo.json",
        r#"{"httpd": {"bind_address": "0.0.0.0"}}"#,
        &["httpd.bind_address", "allow_unauthenticated"],
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = TestServer::start();
    let dir = empty();
    keys::keys().install_host_keys(dir.path());
    let taken = server.port.to_string();
    let config = format!(
        r#"{{"sftpd": {{"bind_port": {taken}, "bind_address": "127.0.0.1"}},
             "httpd": {{"bind_port": 0}}, "data_provider": {{"driver": "memory"}}}}"#
    );
    disk::write(&dir.path().join("sftpgo.json"), config.as_bytes());
    let done = run(dir.path(), &["serve", "-c", ".", "-l", ""], &[]);
    assert_eq!(done.code, Some(1), "{}", done.report());
    assert!((done.out() + &done.err()).contains(&taken), "{}", done.report());
}

/// Starts with a configuration of this format; the login needs what the file says.
fn format(name: &str, content: impl Fn(u16, u16) -> String) {
    let root = empty();
    let conf = root.path().join("conf");
    std::fs::create_dir_all(root.path().join("homes")).unwrap();
    std::fs::create_dir_all(root.path().join("work")).unwrap();
    let (port, http) = (free_port(), free_port());
    disk::write(&conf.join(name), content(port, http).as_bytes());
    keys::keys().install_host_keys(&conf);
    let server = TestServer::launch(serve(root.path()), port, http, root);
    server.user("alice").create();
    sftp(&server, "alice", &[], "pwd\n").ok();
    let greeting = tidegate_e2e::server::greeting(port).unwrap();
    assert_eq!(greeting.trim_end(), "SSH-2.0-From_the_file", "{name}");
}

fn serve(root: &Path) -> Command {
    let mut command = command(root);
    command.args(["serve", "-c"]).arg(root.join("conf")).arg("-l").arg(root.join("log.json"));
    command
}

#[test]
fn json_toml_and_yaml() {
    format("sftpgo.json", |port, http| {
        format!(
            r#"{{"sftpd": {{"bind_port": {port}, "bind_address": "127.0.0.1", "banner": "From_the_file"}},
                 "httpd": {{"bind_port": {http}}}, "data_provider": {{"driver": "memory"}}}}"#
        )
    });
    format("sftpgo.toml", |port, http| {
        format!(
            "[sftpd]\nbind_port = {port}\nbind_address = \"127.0.0.1\"\nbanner = \"From_the_file\"\n\
             [httpd]\nbind_port = {http}\n[data_provider]\ndriver = \"memory\"\n"
        )
    });
    format("sftpgo.yaml", |port, http| {
        format!(
            "sftpd:\n  bind_port: {port}\n  bind_address: 127.0.0.1\n  banner: From_the_file\n\
             httpd:\n  bind_port: {http}\ndata_provider:\n  driver: memory\n"
        )
    });
}

#[test]
fn hcl_properties_and_envfile() {
    format("sftpgo.hcl", |port, http| {
        format!(
            "sftpd {{\n  bind_port = {port}\n  bind_address = \"127.0.0.1\"\n  banner = \"From_the_file\"\n}}\n\
             httpd {{\n  bind_port = {http}\n}}\ndata_provider {{\n  driver = \"memory\"\n}}\n"
        )
    });
    let dotted = |port: u16, http: u16| {
        format!(
            "sftpd.bind_port={port}\nsftpd.bind_address=127.0.0.1\nsftpd.banner=From_the_file\n\
             httpd.bind_port={http}\ndata_provider.driver=memory\n"
        )
    };
    format("sftpgo.properties", dotted);
    format("sftpgo.env", dotted);
}

#[test]
fn no_file_means_defaults() {
    // The default ports may be taken on this machine: what counts is that their absence of a file is no error.
    let root = empty();
    for dir in ["conf", "homes", "work"] {
        std::fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    keys::keys().install_host_keys(&root.path().join("conf"));
    let (port, http) = (free_port(), free_port());
    let mut command = serve(root.path());
    command
        .env("SFTPGO_SFTPD__BIND_PORT", port.to_string())
        .env("SFTPGO_SFTPD__BIND_ADDRESS", "127.0.0.1")
        .env("SFTPGO_HTTPD__BIND_PORT", http.to_string());
    let server = TestServer::launch(command, port, http, root);
    server.user("alice").create();
    sftp(&server, "alice", &[], "pwd\n").ok();
    let database: PathBuf = server.path("conf/sftpgo.db");
    assert!(database.is_file(), "the default provider is SQLite in the configuration directory");
}

#[test]
fn the_environment_beats_the_file_and_flags_beat_the_environment() {
    let server = TestServer::builder()
        .sftpd("banner", "From_the_file")
        .env("SFTPGO_SFTPD__BANNER", "From_the_environment")
        .env("SFTPGO_SFTPD__DISABLED_SFTP_EXTENSIONS", "copy-data,hardlink@openssh.com")
        .env("SFTPGO_LOG_FILE_PATH", "/nonexistent/dir/that/the/flag/overrides")
        .start();
    let greeting = tidegate_e2e::server::greeting(server.port).unwrap();
    assert_eq!(greeting.trim_end(), "SSH-2.0-From_the_environment");
    server.user("alice").create();
    let sftp = tidegate_e2e::RawSftp::connect(&server, "alice");
    let names: Vec<_> = sftp.extensions.iter().map(|(name, _)| name.as_str()).collect();
    assert!(!names.contains(&"copy-data") && !names.contains(&"hardlink@openssh.com"), "{names:?}");
    assert!(names.contains(&"posix-rename@openssh.com"));
    assert!(!server.raw_log().is_empty(), "the flag's log file is used");
}

#[test]
fn an_unknown_key_is_a_warning_with_a_suggestion() {
    let server = TestServer::builder().sftpd("idle_timout", 3).start();
    wait_for("a warning that suggests idle_timeout", tidegate_e2e::secs(5), || {
        let log = server.raw_log().join("\n") + &server.console();
        (log.contains("idle_timout") && log.contains("idle_timeout")).then_some(())
    });
}

#[test]
fn host_keys_are_generated_once_and_kept() {
    let server = TestServer::builder().without_host_keys().start();
    let rsa = server.path("conf/id_rsa");
    let text = disk::text(&rsa);
    assert!(text.starts_with("-----BEGIN RSA PRIVATE KEY-----"), "{}", &text[..40]);
    assert_eq!(disk::mode(&rsa), 0o600);
    assert_eq!(disk::mode(&server.path("conf/id_ed25519")), 0o600);
    let bits = Tool::new("ssh-keygen", "openssh-client").arg("-lf").arg(&rsa).ok();
    assert!(bits.starts_with("4096 "), "{bits}");
    server.user("alice").create();
    for algorithm in ["HostKeyAlgorithms=rsa-sha2-512", "HostKeyAlgorithms=ssh-ed25519"] {
        sftp(&server, "alice", &["-o", algorithm], "pwd\n").ok();
    }
}

#[test]
fn host_keys_of_every_type_and_form_are_read() {
    let forms: [(&str, &[&str]); 5] = [
        ("ecdsa-openssh", &["-t", "ecdsa", "-b", "256"]),
        ("ecdsa-sec1", &["-t", "ecdsa", "-b", "384", "-m", "PEM"]),
        ("ecdsa-pkcs8", &["-t", "ecdsa", "-b", "521", "-m", "PKCS8"]),
        ("rsa-pkcs8", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"]),
        ("ed25519-openssh", &["-t", "ed25519"]),
    ];
    for (name, options) in forms {
        let builder = TestServer::builder().sftpd("keys", serde_json::json!([{"private_key": name}]));
        keys::generate(&builder.config_dir().join(name), options);
        let server = builder.start();
        server.user("alice").create();
        sftp(&server, "alice", &[], "pwd\n").ok();
    }
}
