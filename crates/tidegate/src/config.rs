//! The configuration of `serve`: defaults ← file ← environment, merged into one tree and turned into the
//! settings of each crate once.
//!
//! `config/format.rs` reads the file formats, `config/layers.rs` merges and converts, `config/redact.rs` makes
//! the tree fit for the log. What the keys mean is said where they are used and in `docs/config.md`. Flags are
//! the business of `cli.rs`: none of them is a key. See section 2 of that document for the search order.

mod format;
mod layers;
mod properties;
mod redact;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate_core::config_error::ConfigError;
use tidegate_http::config::Httpd;
use tidegate_ssh::config::Sftpd;
use tidegate_store::config::DataProvider;

pub(crate) use self::layers::Env;

/// No real configuration comes near this; a log file renamed to `sftpgo.json` does.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The checked configuration and where it came from.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) sftpd: tidegate_ssh::config::Settings,
    pub(crate) data_provider: tidegate_store::config::Settings,
    /// `None`: the HTTP server is disabled.
    pub(crate) httpd: Option<tidegate_http::config::Settings>,
    /// The file that was read, if there was one.
    pub(crate) file: Option<PathBuf>,
    /// What was ignored, one sentence each.
    pub(crate) warnings: Vec<String>,
    /// The effective configuration without secrets, for the log.
    pub(crate) shown: Value,
    origins: Origins,
}

/// Which layer set each key.
#[derive(Debug, Default)]
struct Origins {
    file: Option<PathBuf>,
    in_file: Vec<String>,
    in_env: BTreeMap<String, String>,
}

impl Config {
    /// Finds and reads the configuration. `env` holds the environment, of which `SFTPGO_…` and `HOME` matter.
    pub(crate) fn load(config_dir: &Path, name: &str, env: &Env) -> Result<Self> {
        let file = find(&search_dirs(config_dir, env), name)?;
        Self::from_layers(config_dir, file, env)
    }

    fn from_layers(config_dir: &Path, file: Option<PathBuf>, env: &Env) -> Result<Self> {
        let mut warnings = Vec::new();
        let mut tree = defaults();
        let mut origins = Origins { file: file.clone(), ..Origins::default() };
        if let Some(path) = &file {
            let content = read(path)?;
            layers::overlay_file(&mut tree, content, &mut origins.in_file, &mut warnings)
                .with_context(|| format!("cannot use configuration file {}", path.display()))?;
        }
        origins.in_env = layers::overlay_env(&mut tree, env, &mut warnings)
            .context("cannot use an environment variable")?;

        let shown = redact::redact(tree.clone());
        let sftpd: Sftpd = section(&mut tree, "sftpd")?;
        let data_provider: DataProvider = section(&mut tree, "data_provider")?;
        let httpd: Httpd = section(&mut tree, "httpd")?;
        let explain = |error: ConfigError| origins.explain(error);
        Ok(Self {
            sftpd: sftpd.validate(config_dir, &mut |text| warnings.push(text)).map_err(explain)?,
            data_provider: data_provider.validate(config_dir).map_err(explain)?,
            httpd: httpd.validate(config_dir).map_err(explain)?,
            file,
            warnings,
            shown,
            origins,
        })
    }

    /// Adds to the error of a section where its value was set: file, environment variable or default.
    ///
    /// For the checks that are made later than here, such as those of algorithm names.
    pub(crate) fn explain(&self, error: ConfigError) -> anyhow::Error {
        self.origins.explain(error)
    }
}

impl Origins {
    fn explain(&self, error: ConfigError) -> anyhow::Error {
        let matches = |key: &str| error.key == key || error.key.starts_with(&format!("{key}."));
        if let Some((_, variable)) = self.in_env.iter().find(|(key, _)| matches(key)) {
            return anyhow!(error).context(format!("cannot use environment variable {variable}"));
        }
        match &self.file {
            Some(file) if self.in_file.iter().any(|key| matches(key)) => {
                anyhow!(error).context(format!("cannot use configuration file {}", file.display()))
            }
            _ => anyhow!(error).context("cannot use the default configuration"),
        }
    }
}

/// The tree of all keys with their defaults.
pub(crate) fn defaults() -> Value {
    json!({
        "sftpd": Sftpd::default(),
        "data_provider": DataProvider::default(),
        "httpd": Httpd::default(),
    })
}

fn section<T: DeserializeOwned>(tree: &mut Value, name: &str) -> Result<T> {
    let value = tree.get_mut(name).map(Value::take).unwrap_or_default();
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        anyhow!("cannot use the configuration: {name}.{path}: {}", error.into_inner())
    })
}

/// Where configuration files are looked for, in order.
fn search_dirs(config_dir: &Path, env: &Env) -> Vec<PathBuf> {
    let mut dirs = vec![config_dir.to_owned()];
    if cfg!(target_os = "linux") {
        if let Some(home) = env.get("HOME").filter(|home| !home.is_empty()) {
            dirs.push(Path::new(home).join(".config/sftpgo"));
        }
        dirs.push(PathBuf::from("/etc/sftpgo"));
    }
    dirs.push(PathBuf::from("."));
    dirs
}

/// The first `<dir>/<name>.<extension>` that exists. A name that already has a known extension is taken as it is.
fn find(dirs: &[PathBuf], name: &str) -> Result<Option<PathBuf>> {
    let is_complete = format_of(Path::new(name)).is_some();
    for dir in dirs {
        let candidates: Vec<PathBuf> = match is_complete {
            true => vec![dir.join(name)],
            false => format::EXTENSIONS.iter().map(|(ext, _)| dir.join(format!("{name}.{ext}"))).collect(),
        };
        for path in candidates {
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Ok(Some(path)),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                // A directory of another user must not stop a server that was never configured there.
                Err(error) if error.kind() == ErrorKind::PermissionDenied && *dir != dirs[0] => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot open configuration file {}", path.display()));
                }
            }
        }
    }
    Ok(None)
}

fn format_of(path: &Path) -> Option<format::Format> {
    let extension = path.extension()?.to_str()?;
    format::EXTENSIONS.iter().find(|(known, _)| *known == extension).map(|(_, format)| *format)
}

fn read(path: &Path) -> Result<Value> {
    let shown = path.display();
    let size = std::fs::metadata(path).map(|metadata| metadata.len()).unwrap_or_default();
    if size > MAX_FILE_BYTES {
        return Err(anyhow!(
            "configuration file {shown} has {size} bytes, expected at most {MAX_FILE_BYTES}"
        ));
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read configuration file {shown}"))?;
    let format =
        format_of(path).with_context(|| format!("configuration file {shown} has no known extension"))?;
    format::parse(format, &bytes).map_err(|error| anyhow!("configuration file {shown} is malformed: {error}"))
}

#[cfg(test)]
mod tests;
