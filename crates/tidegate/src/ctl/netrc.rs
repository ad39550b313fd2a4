//! Names and passwords from a file in the format of `.netrc`, as ftp(1) and curl(1) read it: words in any layout,
//! `machine NAME login NAME password WORD`, `default` for every other machine, comments from `#` to the end of the
//! line, words in double quotes. Macros end at an empty line and are skipped.

/// One entry of the file; `machine` is `None` for `default`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    machine: Option<String>,
    login: String,
    password: String,
}

/// Reads what can be understood; an entry without a name or a password is of no use and left out.
pub(super) fn parse(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut lines = text.lines();
    let mut key: Option<String> = None;
    let mut open = false;
    while let Some(line) = lines.next() {
        for word in words(line) {
            match (key.take().as_deref(), word) {
                (Some("machine"), name) => {
                    entries.push(Entry { machine: Some(name), ..Entry::default() });
                    open = true;
                }
                (Some("login"), name) if open => set(&mut entries, |entry| entry.login = name),
                (Some("password"), secret) if open => set(&mut entries, |entry| entry.password = secret),
                (Some("macdef"), _) => {
                    lines.by_ref().take_while(|line| !line.trim().is_empty()).for_each(drop);
                    break;
                }
                (Some(_), _) => {}
                (None, word) if word == "default" => {
                    entries.push(Entry::default());
                    open = true;
                }
                (None, word) => {
                    key = ["machine", "login", "password", "account", "macdef"]
                        .contains(&&*word)
                        .then_some(word);
                }
            }
        }
    }
    entries.retain(|entry| !entry.login.is_empty() && !entry.password.is_empty());
    entries
}

fn set(entries: &mut [Entry], change: impl FnOnce(&mut Entry)) {
    if let Some(entry) = entries.last_mut() {
        change(entry);
    }
}

/// The first entry for `host`, else the default one; of this user, if one is named.
pub(super) fn find(entries: &[Entry], host: &str, user: Option<&str>) -> Option<(String, String)> {
    let fits = |entry: &&Entry| user.is_none_or(|user| entry.login == user);
    let named = entries.iter().filter(fits).find(|entry| entry.machine.as_deref() == Some(host));
    let found = named.or_else(|| entries.iter().filter(fits).find(|entry| entry.machine.is_none()));
    found.map(|entry| (entry.login.clone(), entry.password.clone()))
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut word = String::new();
            let mut letters = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, letter)) = letters.next() {
                match letter {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => word.extend(letters.next().map(|(_, escaped)| escaped)),
                    letter => word.push(letter),
                }
            }
            words.push(word);
            rest = quoted.get(end..).unwrap_or_default().trim_start();
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            words.push(rest[..end].to_owned());
            rest = rest[end..].trim_start();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_in_any_layout() {
        let text = "# mine\nmachine a.example login ann password one\nmachine b.example\n\tlogin \"b o b\"\n\tpassword \
                    \"t\\\"wo\"\nmacdef init\ncd /\nmachine x login y password z\n\nmachine incomplete login \
                    only\ndefault login any password three";
        let entries = parse(text);
        let found = |host, user| find(&entries, host, user);
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(found("a.example", None), pair("ann", "one"));
        assert_eq!(found("b.example", None), pair("b o b", "t\"wo"));
        assert_eq!(found("x", None), pair("any", "three"));
        assert_eq!(found("incomplete", None), pair("any", "three"));
        assert_eq!(found("a.example", Some("bob")), None);
    }

    proptest::proptest! {
        #[test]
        fn no_file_does_harm(text in "(machine|login|password|default|macdef|\\PC|[ \n\"\\\\#]){0,40}") {
            for entry in parse(&text) {
                assert!(!entry.login.is_empty() && !entry.password.is_empty());
            }
        }
    }
}
