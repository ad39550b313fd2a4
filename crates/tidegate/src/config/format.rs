//! The file formats: the bytes of a configuration file → one tree of values.
//!
//! Nothing here knows the keys. Error texts name a line but never quote it: the line may hold a password.

use serde_json::{Map, Value};

use super::properties;

/// The extensions in the order in which they are tried, each with its format.
pub(super) const EXTENSIONS: &[(&str, Format)] = &[
    ("json", Format::Json),
    ("toml", Format::Toml),
    ("yaml", Format::Yaml),
    ("yml", Format::Yaml),
    ("properties", Format::Properties),
    ("props", Format::Properties),
    ("prop", Format::Properties),
    ("hcl", Format::Hcl),
    ("dotenv", Format::Env),
    ("env", Format::Env),
    ("ini", Format::Ini),
];

/// A syntax of configuration files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Toml,
    Yaml,
    Hcl,
    Properties,
    Env,
    Ini,
}

/// Reads `bytes` as `format`. An empty file is an empty tree. The error completes "cannot be read: …".
pub(super) fn parse(format: Format, bytes: &[u8]) -> Result<Value, String> {
    let lenient = matches!(format, Format::Properties | Format::Ini);
    let text = properties::decode(bytes);
    if !lenient && std::str::from_utf8(bytes).is_err() {
        return Err("it is not UTF-8 text".to_owned());
    }
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    match format {
        Format::Json => serde_json::from_str(&text).map_err(|error| error.to_string()),
        Format::Toml => toml(&text),
        Format::Yaml => yaml(&text),
        Format::Hcl => hcl(&text),
        Format::Properties => flat(properties::properties(&text)),
        Format::Ini => flat(properties::ini(&text)),
        Format::Env => env(&text),
    }
}

fn toml(text: &str) -> Result<Value, String> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        format!("line {line}: {}", error.message())
    })
}

fn yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    let value: Value =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
    // A file of comments only is null.
    Ok(if value.is_null() { Value::Object(Map::new()) } else { value })
}

fn hcl(text: &str) -> Result<Value, String> {
    hcl::from_str(text).map_err(|error| match error {
        hcl::Error::Parse(error) => format!("line {}: {}", error.location().line(), error.message()),
        other => other.to_string(),
    })
}

/// An env file: keys are `sftpd.bind_port` or, as in the environment, `SFTPGO_SFTPD__BIND_PORT`, with or
/// without the prefix.
fn env(text: &str) -> Result<Value, String> {
    let mut pairs = Vec::new();
    for pair in dotenvy::from_read_iter(text.as_bytes()) {
        match pair {
            Ok((key, value)) => {
                let key = key.to_ascii_lowercase().replace("__", ".");
                pairs.push((key.strip_prefix("sftpgo_").unwrap_or(&key).to_owned(), value));
            }
            Err(dotenvy::Error::LineParse(line, _)) => {
                let number = text.lines().position(|other| other == line).map_or(1, |index| index + 1);
                return Err(format!("line {number}: expected KEY=value"));
            }
            Err(other) => return Err(other.to_string()),
        }
    }
    flat(Ok(pairs))
}

/// Dotted keys → nested objects.
fn flat(pairs: Result<Vec<(String, String)>, properties::LineError>) -> Result<Value, String> {
    let pairs = pairs.map_err(|(line, what)| format!("line {line}: {what}"))?;
    let mut root = Map::new();
    for (key, value) in pairs {
        insert(&mut root, &key, Value::String(value))
            .map_err(|()| format!("{key} is set as a value and as a section"))?;
    }
    Ok(Value::Object(root))
}

fn insert(object: &mut Map<String, Value>, path: &str, value: Value) -> Result<(), ()> {
    let Some((first, rest)) = path.split_once('.') else {
        return match object.insert(path.to_ascii_lowercase(), value) {
            Some(Value::Object(_)) => Err(()),
            _ => Ok(()),
        };
    };
    let inner = object.entry(first.to_ascii_lowercase()).or_insert_with(|| Value::Object(Map::new()));
    inner.as_object_mut().ok_or(()).and_then(|inner| insert(inner, rest, value))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The same settings in every format; flat formats carry text only.
    const FILES: &[(Format, &str)] = &[
        (Format::Json, r#"{"sftpd":{"bind_port":2222,"ciphers":["a","b"],"actions":{"command":"/bin/x"}}}"#),
        (
            Format::Toml,
            "[sftpd]\nbind_port = 2222\nciphers = [\"a\", \"b\"]\n[sftpd.actions]\ncommand = \"/bin/x\"\n",
        ),
        (
            Format::Yaml,
            "# note\nsftpd:\n  bind_port: 2222\n  ciphers: [a, b]\n  actions:\n    command: /bin/x\n",
        ),
        (
            Format::Hcl,
            "sftpd {\n  bind_port = 2222\n  ciphers = [\"a\", \"b\"]\n  actions {\n    command = \"/bin/x\"\n  }\n}\n",
        ),
    ];
    const FLAT: &[(Format, &str)] = &[
        (Format::Properties, "sftpd.bind_port = 2222\nsftpd.ciphers: a,b\nsftpd.actions.command /bin/x\n"),
        (
            Format::Env,
            "SFTPGO_SFTPD__BIND_PORT=2222\nexport sftpd.ciphers=\"a,b\" # note\nSFTPD__ACTIONS__COMMAND='/bin/x'\n",
        ),
        (Format::Ini, "[sftpd]\nbind_port=2222\nciphers=a,b\n[sftpd.actions]\ncommand=/bin/x\n"),
    ];

    #[test]
    fn every_format_says_the_same() {
        let tree =
            json!({"sftpd": {"bind_port": 2222, "ciphers": ["a", "b"], "actions": {"command": "/bin/x"}}});
        for (format, text) in FILES {
            assert_eq!(parse(*format, text.as_bytes()), Ok(tree.clone()), "{format:?}");
        }
        let tree =
            json!({"sftpd": {"bind_port": "2222", "ciphers": "a,b", "actions": {"command": "/bin/x"}}});
        for (format, text) in FLAT {
            assert_eq!(parse(*format, text.as_bytes()), Ok(tree.clone()), "{format:?}");
        }
    }

    #[test]
    fn an_empty_file_is_an_empty_tree() {
        for (_, format) in EXTENSIONS {
            assert_eq!(parse(*format, b"\xef\xbb\xbf \n"), Ok(json!({})), "{format:?}");
        }
        assert_eq!(parse(Format::Yaml, b"# nothing\n"), Ok(json!({})));
    }

    #[test]
    fn errors_name_the_line_but_do_not_show_it() {
        let broken = [
            (Format::Json, "{\n\"password\": hunter2\n}"),
            (Format::Toml, "a = 1\npassword = hunter2\n"),
            (Format::Yaml, "a: 1\npassword: \"hunter2\n"),
            (Format::Hcl, "a = 1\npassword = \"hunter2\n"),
            (Format::Properties, "a=1\npassword=hunter2\\u00"),
            (Format::Env, "a=1\npassword hunter2\n"),
            (Format::Ini, "a=1\nhunter2\n"),
        ];
        for (format, text) in broken {
            let error = parse(format, text.as_bytes()).unwrap_err();
            assert!(error.contains("line "), "{format:?}: {error}");
            assert!(!error.contains("hunter2"), "{format:?}: {error}");
        }
        assert!(parse(Format::Json, b"\xff").is_err());
        assert!(parse(Format::Properties, b"a=1\na.b=2").is_err());
    }
}
