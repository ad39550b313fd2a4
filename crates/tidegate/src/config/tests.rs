//! Tests of the configuration as a whole: search order, precedence, messages, documents and samples.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Config, Env, defaults, find, layers, read, search_dirs};

/// A directory that disappears with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-config-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn env(variables: &[(&str, &str)]) -> Env {
    variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect()
}

fn load_text(dir: &Dir, file: &str, text: &str, variables: &[(&str, &str)]) -> anyhow::Result<Config> {
    let path = dir.write(file, text);
    Config::from_layers(&dir.0, Some(path), &env(variables))
}

#[test]
fn without_a_file_the_defaults_and_the_environment_apply() {
    let dir = Dir::new("defaults");
    let config = Config::from_layers(&dir.0, None, &env(&[("SFTPGO_SFTPD__BIND_PORT", "2200")])).unwrap();
    assert_eq!((config.sftpd.bind_port, config.sftpd.umask), (2200, 0o022));
    assert_eq!(config.data_provider.path, dir.0.join("sftpgo.db"));
    assert_eq!(config.httpd.unwrap().bind_port, 8080);
    assert_eq!((config.file, config.warnings), (None, vec![]));
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let dir = Dir::new("precedence");
    let text = r#"{"sftpd": {"bind_port": 1, "umask": "027", "enabled_ssh_commands": ["scp"]}}"#;
    let config = load_text(&dir, "a.json", text, &[("SFTPGO_SFTPD__BIND_PORT", "2")]).unwrap();
    assert_eq!((config.sftpd.bind_port, config.sftpd.umask), (2, 0o027));
    assert_eq!(config.sftpd.ssh_commands, ["scp"], "a list replaces the default list");
    assert_eq!(config.sftpd.max_auth_tries, Some(6));
}

#[test]
fn the_first_directory_and_the_first_extension_win() {
    let dir = Dir::new("search");
    let (first, second) = (dir.0.join("one"), dir.0.join("two"));
    let dirs = [first.clone(), second.clone()];
    assert_eq!(find(&dirs, "sftpgo").unwrap(), None);
    let order = ["ini", "env", "dotenv", "hcl", "prop", "props", "properties", "yml", "yaml", "toml", "json"];
    for extension in order {
        let path = dir.write(&format!("two/sftpgo.{extension}"), "");
        assert_eq!(find(&dirs, "sftpgo").unwrap(), Some(path));
    }
    std::fs::create_dir_all(first.join("sftpgo.json")).unwrap();
    let path = dir.write("one/sftpgo.ini", "");
    assert_eq!(find(&dirs, "sftpgo").unwrap(), Some(path), "a directory is no configuration file");
    assert_eq!(find(&dirs, "sftpgo.toml").unwrap(), Some(second.join("sftpgo.toml")));
}

#[cfg(target_os = "linux")]
#[test]
fn the_search_order_is_the_documented_one() {
    let dirs = search_dirs(Path::new("/srv/conf"), &env(&[("HOME", "/home/bob")]));
    assert_eq!(dirs, ["/srv/conf", "/home/bob/.config/sftpgo", "/etc/sftpgo", "."].map(PathBuf::from));
}

#[test]
fn one_message_names_file_key_value_and_expectation() {
    let dir = Dir::new("messages");
    let path = dir.0.join("a.json");
    let message = |text: &str, variables: &[(&str, &str)]| {
        format!("{:#}", load_text(&dir, "a.json", text, variables).unwrap_err())
    };
    let file = path.display();
    assert_eq!(
        message(r#"{"sftpd": {"bind_port": 70000}}"#, &[]),
        format!(
            "cannot use configuration file {file}: sftpd.bind_port is \"70000\", expected a port number from 0 \
             to 65535"
        )
    );
    assert_eq!(
        message(r#"{"sftpd": {"upload_mode": "x"}}"#, &[]),
        format!("cannot use configuration file {file}: sftpd.upload_mode is \"x\", expected a whole number")
    );
    assert_eq!(
        message("{}", &[("SFTPGO_SFTPD__UPLOAD_MODE", "3")]),
        "cannot use environment variable SFTPGO_SFTPD__UPLOAD_MODE: sftpd.upload_mode is \"3\", expected a mode \
         from 0 to 2"
    );
    let malformed = message("{\"sftpd\": {", &[]);
    assert!(malformed.starts_with(&format!("configuration file {file} is malformed: EOF")), "{malformed}");
}

#[test]
fn the_shown_configuration_has_no_secrets() {
    let dir = Dir::new("redacted");
    let text = r#"{"data_provider": {"password": "hunter2", "connection_string": "u:hunter2@tcp(db)/x"}}"#;
    let config = load_text(&dir, "a.json", text, &[]).unwrap();
    assert!(!config.shown.to_string().contains("hunter2"), "{}", config.shown);
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(config.data_provider.password.expose(), "hunter2");
}

fn repository() -> PathBuf {
    let mut dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    while !dir.join("docs/config.md").exists() {
        assert!(dir.pop(), "docs/config.md lies in a directory above the crate");
    }
    dir
}

/// `### \`sftpd.bind_port\`` headings name the keys, and "Default: `…`" lines their defaults.
#[test]
fn the_document_describes_exactly_the_keys_that_exist() {
    let text = std::fs::read_to_string(repository().join("docs/config.md")).unwrap();
    let tree = defaults();
    let mut known: BTreeSet<String> = layers::leaves(&tree).into_iter().collect();
    known.insert("sftpd.keys.private_key".to_owned());
    let mut documented = BTreeSet::new();
    for part in text.split("\n### `").skip(1) {
        let (key, body) = part.split_once('`').unwrap();
        assert!(documented.insert(key.to_owned()), "{key} has two headings");
        if key == "sftpd.keys.private_key" {
            continue;
        }
        let default = tree.pointer(&format!("/{}", key.replace('.', "/"))).unwrap_or_else(|| panic!("{key}"));
        let default =
            if default.is_array() { default.to_string().replace(',', ", ") } else { default.to_string() };
        assert!(body.contains(&format!("Default: `{default}`.")), "{key}: expected Default: `{default}`.");
    }
    assert_eq!(documented, known);
}

/// The sample is the seed's full example: every key of the reference with its default.
#[test]
fn the_sample_configuration_holds_the_defaults() {
    let sample = read(&repository().join("packaging/sftpgo.json")).unwrap();
    let tree = defaults();
    for key in layers::leaves(&sample) {
        let pointer = format!("/{}", key.replace('.', "/"));
        assert_eq!(sample.pointer(&pointer), tree.pointer(&pointer), "{key}");
    }
    let dir = Dir::new("sample");
    let config = Config::from_layers(&dir.0, Some(repository().join("packaging/sftpgo.json")), &env(&[]));
    assert_eq!(config.unwrap().warnings, Vec::<String>::new());
}
