//! Laying a configuration file and the environment over the defaults.
//!
//! The tree of defaults is the schema: its keys are the known ones and the type of each default is the type of
//! its key. Values are converted weakly, as in the reference: numbers may be written as text, booleans as 0 and
//! 1, lists as comma separated text. Keys are compared without regard to case.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde_json::{Value, json};
use tidegate_core::config_error::ConfigError;

use crate::cli::parse_bool;

/// The environment, or a test's idea of it.
pub(crate) type Env = BTreeMap<String, OsString>;

/// Prefix of every environment variable that sets a key.
const PREFIX: &str = "SFTPGO_";
/// The list of objects; everywhere else a list holds text.
const HOST_KEYS: &str = "sftpd.keys";
/// Spellings that lead to a key of another name.
const ALIASES: &[(&str, &str)] = &[("data_provider.connectionstring", "data_provider.connection_string")];

/// Lays the tree of a file over `tree`; `set` learns which keys it contained. Unknown keys become warnings.
pub(super) fn overlay_file(
    tree: &mut Value,
    file: Value,
    set: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let known = leaves(tree);
    overlay_object(tree, "", file, &known, set, warnings)
}

fn overlay_object(
    target: &mut Value,
    path: &str,
    file: Value,
    known: &[String],
    set: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let expected_section = |value: &Value| {
        let name = if path.is_empty() { "the whole file" } else { path };
        ConfigError::new(name, shown(value), "a section with keys and values")
    };
    let object = match file {
        Value::Object(object) => object,
        Value::Null => return Ok(()),
        // HCL and its relatives write a block that could be repeated as a list of one.
        Value::Array(mut list) if list.len() == 1 && list[0].is_object() => {
            return overlay_object(target, path, list.remove(0), known, set, warnings);
        }
        other => return Err(expected_section(&other)),
    };
    for (name, value) in object {
        let full = if path.is_empty() {
            name.to_ascii_lowercase()
        } else {
            format!("{path}.{}", name.to_ascii_lowercase())
        };
        let full =
            ALIASES.iter().find(|(alias, _)| *alias == full).map_or(full, |(_, key)| (*key).to_owned());
        let last = full.rsplit('.').next().unwrap_or(&full).to_owned();
        let Some(slot) = target.get_mut(&last) else {
            warnings.push(unknown_key(&full, known));
            continue;
        };
        if value.is_null() {
            continue;
        }
        if slot.is_object() {
            overlay_object(slot, &full, value, known, set, warnings)?;
        } else {
            *slot = convert(&full, slot, value, warnings)?;
            set.push(full);
        }
    }
    Ok(())
}

/// Lays the environment over `tree`. Returns the variable that set each key.
///
/// # Errors
/// The error's key is the name of the variable.
pub(super) fn overlay_env(
    tree: &mut Value,
    env: &Env,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let known = leaves(tree);
    let mut variables: BTreeMap<String, String> =
        known.iter().map(|key| (variable(key), key.clone())).collect();
    variables.extend(ALIASES.iter().map(|(alias, key)| (variable(alias), (*key).to_owned())));
    let mut origins = BTreeMap::new();
    for (name, raw) in env.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        let Some(key) = variables.get(name) else {
            if name.contains("__") {
                let meant = nearest(name, variables.keys());
                let hint = meant.map_or(String::new(), |meant| format!(", did you mean {meant}?"));
                warnings.push(format!("unknown environment variable {name} is ignored{hint}"));
            }
            continue;
        };
        let text = raw.to_str().ok_or_else(|| ConfigError::new(name, "[not UTF-8]", "UTF-8 text"))?;
        let Some(slot) = tree.pointer_mut(&format!("/{}", key.replace('.', "/"))) else { continue };
        if text.is_empty() && slot.is_number() {
            warnings.push(format!("environment variable {name} is empty, {key} keeps its value"));
            continue;
        }
        let value = if text.is_empty() && slot.is_boolean() { json!(false) } else { json!(text) };
        *slot = convert(key, slot, value, warnings)
            .map_err(|error| ConfigError { key: name.clone(), ..error })?;
        origins.insert(key.clone(), name.clone());
    }
    Ok(origins)
}

/// The environment variable of a key.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// The full names of all keys, in the order of the defaults.
pub(super) fn leaves(tree: &Value) -> Vec<String> {
    fn walk(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                for (name, inner) in object {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(inner, &path, found);
                }
            }
            _ => found.push(path.to_owned()),
        }
    }
    let mut found = Vec::new();
    walk(tree, "", &mut found);
    found
}

/// Converts `value` to the type of `default`.
fn convert(
    key: &str,
    default: &Value,
    value: Value,
    warnings: &mut Vec<String>,
) -> Result<Value, ConfigError> {
    let wrong = |value: &Value, expected: &str| {
        // Text of a secret key is never repeated.
        let secret = key.ends_with("password") || key.ends_with("connection_string") || key.ends_with("_url");
        let value = if secret { "[redacted]".to_owned() } else { shown(value) };
        Err(ConfigError::new(key, value, expected))
    };
    match default {
        Value::String(_) => match value {
            Value::String(_) => Ok(value),
            Value::Number(number) => Ok(Value::String(number.to_string())),
            other => wrong(&other, "text"),
        },
        Value::Number(_) => match integer(&value) {
            Some(number) => Ok(json!(number)),
            None => wrong(&value, "a whole number"),
        },
        Value::Bool(_) => match boolean(&value) {
            Some(on) => Ok(json!(on)),
            None => wrong(&value, "true or false (also 1, 0, t, f)"),
        },
        Value::Array(_) if key == HOST_KEYS => host_keys(value, warnings),
        _ => list(&value).map_or_else(|| wrong(&value, "a list of texts, or one text with commas"), Ok),
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => {
            let whole = |float: f64| (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64);
            number.as_i64().or_else(|| number.as_f64().and_then(whole))
        }
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(on) => Some(*on),
        Value::Number(number) => match number.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(text) => parse_bool(text.trim()).ok(),
        _ => None,
    }
}

fn list(value: &Value) -> Option<Value> {
    let texts: Option<Vec<Value>> = match value {
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::String(_) => Some(item.clone()),
                Value::Number(number) => Some(json!(number.to_string())),
                _ => None,
            })
            .collect(),
        Value::String(text) => Some(words(text).map(|word| json!(word)).collect()),
        _ => None,
    };
    texts.map(Value::Array)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// `sftpd.keys`: objects with `private_key`, or just the paths.
fn host_keys(value: Value, warnings: &mut Vec<String>) -> Result<Value, ConfigError> {
    let expected = "a list of objects with private_key, or of paths";
    let items = match value {
        Value::Array(items) => items,
        Value::String(text) => words(&text).map(|path| json!(path)).collect(),
        object @ Value::Object(_) => vec![object],
        other => return Err(ConfigError::new(HOST_KEYS, shown(&other), expected)),
    };
    let mut keys = Vec::with_capacity(items.len());
    for item in items {
        let path = match item {
            Value::String(path) => path,
            Value::Object(mut object) => {
                let name = object.keys().find(|name| name.eq_ignore_ascii_case("private_key")).cloned();
                let path = name.and_then(|name| object.remove(&name));
                for other in object.keys() {
                    warnings.push(format!("unknown key {HOST_KEYS}.{other} is ignored"));
                }
                match path {
                    Some(Value::String(path)) => path,
                    _ => {
                        return Err(ConfigError::new(
                            HOST_KEYS,
                            "{…}",
                            "an object with the text private_key",
                        ));
                    }
                }
            }
            other => return Err(ConfigError::new(HOST_KEYS, shown(&other), expected)),
        };
        keys.push(json!({ "private_key": path }));
    }
    Ok(Value::Array(keys))
}

/// A value in an error message: short, and without the contents of sections.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().take(200).collect(),
        Value::Object(_) => "a section".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        other => other.to_string(),
    }
}

fn unknown_key(key: &str, known: &[String]) -> String {
    let last = |full: &str| full.rsplit('.').next().map(str::to_owned);
    let elsewhere = || known.iter().find(|other| last(other) == last(key));
    let hint = match nearest(key, known.iter()).or_else(elsewhere) {
        Some(meant) => format!(", did you mean {meant}?"),
        None => String::new(),
    };
    format!("unknown key {key} is ignored{hint}")
}

/// The most similar name, if it is similar enough to be a slip of the keyboard.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let best = known.map(|other| (distance(name, other), other)).min_by_key(|(distance, _)| *distance)?;
    (best.0 <= 3).then_some(best.1)
}

/// Levenshtein distance by bytes, with one row of memory; names longer than 100 bytes are far from all.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() > 100 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        json!({
            "sftpd": {
                "bind_port": 2022, "umask": "0022", "enable_scp": false, "ciphers": ["x"],
                "keys": [], "actions": {"command": ""},
            },
            "data_provider": {"password": "", "connection_string": ""},
        })
    }

    fn file(value: Value) -> (Result<Value, ConfigError>, Vec<String>) {
        let (mut tree, mut warnings) = (schema(), Vec::new());
        let result = overlay_file(&mut tree, value, &mut Vec::new(), &mut warnings);
        (result.map(|()| tree), warnings)
    }

    fn env(variables: &[(&str, &str)]) -> (Result<Value, ConfigError>, Vec<String>) {
        let (mut tree, mut warnings) = (schema(), Vec::new());
        let env = variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        let result = overlay_env(&mut tree, &env, &mut warnings);
        (result.map(|_| tree), warnings)
    }

    #[test]
    fn values_are_typed_weakly() {
        let rows = [
            ("bind_port", json!("2222"), json!(2222)),
            ("bind_port", json!(2222.0), json!(2222)),
            ("umask", json!(22), json!("22")),
            ("enable_scp", json!(1), json!(true)),
            ("enable_scp", json!("f"), json!(false)),
            ("ciphers", json!("a, b"), json!(["a", "b"])),
            ("ciphers", json!(["a,b"]), json!(["a,b"])),
            ("ciphers", json!([]), json!([])),
            ("ciphers", json!(null), json!(["x"])),
            ("keys", json!("a,b"), json!([{"private_key": "a"}, {"private_key": "b"}])),
            ("keys", json!({"private_key": "a"}), json!([{"private_key": "a"}])),
            ("keys", json!(["a", {"Private_Key": "b"}]), json!([{"private_key": "a"}, {"private_key": "b"}])),
            ("BIND_Port", json!(1), json!(1)),
        ];
        for (key, value, expected) in rows {
            let (tree, warnings) = file(json!({ "SFTPD": { key: value } }));
            assert_eq!(tree.unwrap()["sftpd"][key.to_ascii_lowercase()], expected, "{key}");
            assert_eq!(warnings, Vec::<String>::new());
        }
    }

    #[test]
    fn a_wrong_type_is_named() {
        let rows = [
            (json!({"sftpd": {"bind_port": "a"}}), "sftpd.bind_port is \"a\", expected a whole number"),
            (json!({"sftpd": {"bind_port": 1.5}}), "sftpd.bind_port is \"1.5\", expected a whole number"),
            (
                json!({"sftpd": {"enable_scp": 2}}),
                "sftpd.enable_scp is \"2\", expected true or false (also 1, 0, t, f)",
            ),
            (json!({"sftpd": {"umask": []}}), "sftpd.umask is \"a list of 0\", expected text"),
            (json!({"sftpd": 7}), "sftpd is \"7\", expected a section with keys and values"),
            (json!([1]), "the whole file is \"a list of 1\", expected a section with keys and values"),
            (
                json!({"sftpd": {"keys": [{"path": "x"}]}}),
                "sftpd.keys is \"{…}\", expected an object with the text private_key",
            ),
            (
                json!({"data_provider": {"password": ["hunter2"]}}),
                "data_provider.password is \"[redacted]\", expected text",
            ),
        ];
        for (tree, message) in rows {
            assert_eq!(file(tree).0.unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn unknown_keys_are_warnings_with_a_suggestion() {
        let (_, warnings) = file(json!({"sftpd": {"bind_prot": 1}, "bind_port": 2, "webdavd": {"x": 1}}));
        let expected = [
            "unknown key sftpd.bind_prot is ignored, did you mean sftpd.bind_port?",
            "unknown key bind_port is ignored, did you mean sftpd.bind_port?",
            "unknown key webdavd is ignored",
        ];
        assert_eq!(warnings, expected);
        let (_, warnings) = env(&[("SFTPGO_SFTPD__UMSK", "0"), ("SFTPGO_LOG_MAX_AGE", "1"), ("HOME", "/")]);
        let expected = "unknown environment variable SFTPGO_SFTPD__UMSK is ignored, did you mean \
                        SFTPGO_SFTPD__UMASK?";
        assert_eq!(warnings, [expected]);
    }

    #[test]
    fn repeated_blocks_and_old_spellings() {
        let tree = file(json!({"sftpd": [{"actions": [{"command": "/x"}]}]})).0.unwrap();
        assert_eq!(tree["sftpd"]["actions"]["command"], "/x");
        let tree = file(json!({"data_provider": {"connectionString": "x"}})).0.unwrap();
        assert_eq!(tree["data_provider"]["connection_string"], "x");
        let tree = env(&[("SFTPGO_DATA_PROVIDER__CONNECTIONSTRING", "y")]).0.unwrap();
        assert_eq!(tree["data_provider"]["connection_string"], "y");
    }

    #[test]
    fn the_environment_sets_every_kind_of_key() {
        let (tree, warnings) = env(&[
            ("SFTPGO_SFTPD__BIND_PORT", "3"),
            ("SFTPGO_SFTPD__ENABLE_SCP", "1"),
            ("SFTPGO_SFTPD__CIPHERS", "a,b"),
            ("SFTPGO_SFTPD__KEYS", "k1,k2"),
            ("SFTPGO_SFTPD__ACTIONS__COMMAND", "/bin/x"),
        ]);
        let sftpd = &tree.unwrap()["sftpd"];
        assert_eq!((&sftpd["bind_port"], &sftpd["enable_scp"]), (&json!(3), &json!(true)));
        assert_eq!(sftpd["ciphers"], json!(["a", "b"]));
        assert_eq!(sftpd["keys"], json!([{"private_key": "k1"}, {"private_key": "k2"}]));
        assert_eq!(sftpd["actions"]["command"], "/bin/x");
        assert_eq!(warnings, Vec::<String>::new());
    }

    #[test]
    fn an_empty_variable_overrides_except_for_numbers() {
        let names = ["UMASK", "ENABLE_SCP", "CIPHERS", "BIND_PORT"].map(|key| format!("SFTPGO_SFTPD__{key}"));
        let (tree, warnings) = env(&names.each_ref().map(|name| (name.as_str(), "")));
        let sftpd = &tree.unwrap()["sftpd"];
        assert_eq!((&sftpd["umask"], &sftpd["enable_scp"]), (&json!(""), &json!(false)));
        assert_eq!((&sftpd["ciphers"], &sftpd["bind_port"]), (&json!([]), &json!(2022)));
        assert_eq!(
            warnings,
            ["environment variable SFTPGO_SFTPD__BIND_PORT is empty, sftpd.bind_port keeps its value"]
        );
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let error = env(&[("SFTPGO_SFTPD__BIND_PORT", "x")]).0.unwrap_err();
        assert_eq!(error.to_string(), "SFTPGO_SFTPD__BIND_PORT is \"x\", expected a whole number");
    }
}
