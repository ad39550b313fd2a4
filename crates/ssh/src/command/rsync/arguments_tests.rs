//! What is accepted, what is refused and what comes out: real clients, hostile lines, any words.

use proptest::prelude::*;

use super::arguments::{Arguments, MAX_PATHS, May, Refusal};
use super::options::{Effect, LONG, Rule, SHORT, Value};

/// What clients send; see its first lines.
const CLIENTS: &str = include_str!("../../../testdata/rsync-clients.tsv");

/// Where the options are listed for people.
const DOCUMENT: &str = include_str!("../../../../../docs/ssh-commands.md");

/// Words that our own line has before those of the client.
const OURS: [&[u8]; 4] = [b"--safe-links", b"--munge-links", b"--no-super", b"--chmod=ug-s,o-t"];

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn parse(line: &str) -> Result<Arguments, Refusal> {
    Arguments::parse(&words(line))
}

fn text(line: &[Vec<u8>]) -> String {
    String::from_utf8_lossy(&line.join(&b' ')).into_owned()
}

/// The line that is run, read as if a client had sent it.
fn again(line: &[Vec<u8>]) -> Arguments {
    let ours = |word: &&Vec<u8>| !OURS.contains(&word.as_slice());
    let client: Vec<_> = line.iter().filter(ours).cloned().chain([b"x".to_vec()]).collect();
    Arguments::parse(&client).unwrap()
}

const ALL: May = May { link: true, set_modes: true, set_times: true };
const NO_LINKS: May = May { link: false, ..ALL };

#[test]
fn clients_are_served_and_what_they_should_not_ask_for_is_refused() {
    let (mut accepted, mut refused) = (0, 0);
    for row in CLIENTS.lines().filter(|row| !row.starts_with('#')) {
        let [verdict, direction, options, line] = *row.split('\t').collect::<Vec<_>>() else {
            panic!("{row:?} has not four columns");
        };
        let read = parse(line);
        match verdict {
            "yes" => {
                let read = read.unwrap_or_else(|error| panic!("{options}: {line}: {error}"));
                assert_eq!((read.sender, &*read.paths), (direction == "down", &[b"x".to_vec()][..]), "{row}");
                accepted += 1;
            }
            _ => {
                assert!(read.is_err(), "{options}: {line} is accepted");
                refused += 1;
            }
        }
    }
    assert!(accepted > 200 && refused > 20, "{accepted} accepted, {refused} refused");
}

#[test]
fn the_line_that_is_run_is_written_anew() {
    for (client, may, want) in [
        (
            "--server -logDtpre.iLsfxCIvu . x",
            ALL,
            "--safe-links --no-super --server --chmod=ug-s,o-t -logDtpre.iLsfxCIvu .",
        ),
        (
            "--server -logDtpre.iLsfxCIvu . x",
            NO_LINKS,
            "--munge-links --no-super --server --chmod=ug-s,o-t -logDtpre.iLsfxCIvu .",
        ),
        (
            "--server --sender -re.LsfxCIvu --safe-links --timeout 9 . x",
            ALL,
            "--safe-links --no-super --server --sender -re.LsfxCIvu --timeout=9 .",
        ),
        (
            "--server -re. --safe-links --partial-dir .p/q . x",
            NO_LINKS,
            "--safe-links --munge-links --no-super --server --chmod=ug-s,o-t -re. --partial-dir=.p/q .",
        ),
        (
            "--server -r --munge-links -B700 -@-1 . x",
            ALL,
            "--safe-links --munge-links --no-super --server --chmod=ug-s,o-t -r -B700 -@-1 .",
        ),
        ("--server --sender . x", NO_LINKS, "--munge-links --no-super --server --sender ."),
    ] {
        assert_eq!(text(&parse(client).unwrap().line(may)), want, "{client}");
    }
}

#[test]
fn modes_and_times_are_left_out_for_who_may_not_set_them() {
    let line = |client: &str, may| text(&parse(client).unwrap().line(may));
    let ours = "--safe-links --no-super --server";
    let no_modes = May { set_modes: false, ..ALL };
    let no_times = May { set_times: false, ..ALL };
    let neither = May { set_modes: false, ..no_times };
    for (letters, may, left) in [
        ("-logDtprEe.iLspt", no_modes, " -logDtre.iLspt"),
        ("-logDtpre.iLspt", no_times, " -logDpre.iLspt"),
        ("-logDtpre.iLspt", neither, " -logDre.iLspt"),
        ("-p", neither, ""),
        ("-B700", neither, " -B700"),
        ("--partial", neither, " --partial"),
    ] {
        let want = format!("{ours} --chmod=ug-s,o-t{left} .");
        assert_eq!(line(&format!("--server {letters} . x"), may), want, "{letters}");
    }
    // What is read stays as it is.
    assert_eq!(line("--server --sender -tpre. . x", neither), format!("{ours} --sender -tpre. ."));
}

#[test]
fn a_command_says_what_it_asks_for() {
    let asks = |line: &str| parse(line).unwrap().asks;
    let of = |name: &str| Some(name.to_owned());
    let plain = asks("--server -logDtpre.iLsfxCIvu . x");
    assert!(!plain.acls && !plain.access_times && !plain.removes_sources && !plain.relative);
    assert!(asks("--server -rAe. . x").acls);
    assert!(asks("--server -rUte. . x").access_times);
    assert_eq!(asks("--server --sender -Lre. --copy-unsafe-links . x").follows_links, of("-L"));
    let long = asks("--server --sender -re. --copy-unsafe-links . x");
    assert_eq!(long.follows_links, of("--copy-unsafe-links"));
    assert!(asks("--server --sender --remove-source-files . x").removes_sources);
    assert!(asks("--server --sender -Re. . x").relative);
    assert!(asks("--server --sender -Re. --files-from=- --from0 . x").names_follow);
    assert!(asks("--server --mkpath . x").makes_path);
    assert!(asks("--server --sender --ignore-missing-args . x").allows_missing);
}

#[test]
fn a_refusal_names_the_word_and_the_reason() {
    let long = format!("--server -{} . x", "v".repeat(65));
    for (line, want) in [
        ("", "--server comes first"),
        ("--sender --server . x", "--server comes first"),
        ("-a --server . x", "--server comes first"),
        ("--daemon", "--server comes first"),
        ("--server --daemon . x", "--daemon is refused: there is no rsync daemon"),
        ("--server -a . x", "-a is refused: it is not known"),
        ("--server -re.L --sender . x", "--sender is refused: it is not known"),
        ("--server --server . x", "--server is refused: it is not known"),
        ("--server -- . x", "-- is refused: it is not known"),
        ("--server - . x", "- is refused: it is not known"),
        ("--server x . y", "option x is refused"),
        ("--server -esh . x", "-e is refused: the client's capabilities is expected, not \"sh\""),
        ("--server -e sh . x", "-e is refused: the client's capabilities is expected, not \"\""),
        ("--server -e./bin/sh . x", "not \"./bin/sh\""),
        ("--server -re.1234L . x", "not \".1234L\""),
        ("--server -rB700 . x", "-B is refused: a whole number is expected"),
        ("--server -B . x", "-B is refused"),
        ("--server -B7x . x", "not \"7x\""),
        ("--server --rsh=sh . x", "--rsh is refused: it names a program"),
        ("--server --files-from=- . x", "--files-from is refused: it belongs to downloads"),
        ("--server --sender --files-from=-/x . x", "not \"-/x\""),
        ("--server --sender --files-from . x", "not \".\""),
        ("--server --stats=1 . x", "--stats is refused: no value is expected"),
        ("--server --timeout", "--timeout is refused"),
        ("--server --partial-dir=/x . x", "not \"/x\""),
        ("--server --partial-dir ../x . x", "not \"../x\""),
        ("--server --partial-dir=a/../../x . x", "not \"a/../../x\""),
        ("--server --partial-dir=a//b . x", "not \"a//b\""),
        ("--server --partial-dir= . x", "not \"\""),
        ("--server --suffix=/../x . x", "not \"/../x\""),
        ("--server --log-format=%%f/ . x", "--log-format is refused"),
        ("--server --iconv=../../x . x", "utf-8 is expected"),
        ("--server --max-alloc=0 . x", "a number of bytes up to 1G is expected"),
        ("--server --max-alloc=2g . x", "a number of bytes up to 1G is expected"),
        ("--server --info=a . x", "--info is refused"),
        ("--server --stat . x", "--stat is refused: it is not known"),
        ("--server --server=x . x", "--server is refused"),
        ("--server --no-super . x", "--no-super is refused: it is not known"),
        ("--server -r", "a path is missing"),
        ("--server -r .", "a path is missing"),
        ("--server . a b", "one destination only"),
        (&long, "is refused: it is not known"),
    ] {
        match parse(line) {
            Ok(read) => panic!("{line:?} is accepted: {read:?}"),
            Err(error) => assert!(error.to_string().contains(want), "{line:?}: {error}"),
        }
    }
}

#[test]
fn a_refusal_shows_no_control_characters_and_no_end_of_text() {
    let mut line = words("--server");
    line.push(b"--\x1b]0;x\x07".to_vec());
    assert_eq!(
        Arguments::parse(&line).unwrap_err().to_string(),
        "the option --?]0;x? is refused: it is not known here"
    );
    let long = format!("--server --{} . x", "a".repeat(10_000));
    assert!(parse(&long).unwrap_err().to_string().len() < 200);
}

#[test]
fn the_bounds_hold_exactly() {
    let options = |count: usize| format!("--server{} . x", " --stats".repeat(count));
    assert!(parse(&options(128)).is_ok());
    assert_eq!(parse(&options(129)), Err(Refusal::TooManyOptions));
    let paths = |count: usize| format!("--server --sender .{}", " x".repeat(count));
    assert!(parse(&paths(MAX_PATHS)).is_ok());
    assert_eq!(parse(&paths(MAX_PATHS + 1)), Err(Refusal::TooManyPaths));
    assert!(parse(&format!("--server -{} . x", "v".repeat(64))).is_ok());
}

#[test]
fn values_are_read_strictly() {
    for (value, yes, no) in [
        (Value::Number, &["0", "-1", "9999999999"][..], &["", "-", "+1", "1.5", "0x1", "12345678901"][..]),
        (
            Value::Size,
            &["0", "1536", "1.5m", "10MiB-1", "3kb+1", "7P"],
            &["", ".5", "m", "1x", "1mb2", "-1", "1..5", "1/2", "1.5555555"],
        ),
        (Value::Allocation, &["1", "1g", "1024m", "1073741824"], &["0", "2g", "1t", "1.5g", "1073741825"]),
        (Value::Algorithms, &["md5", "xxh128,md5", "none"], &["", "-x", "a,", "MD5", "/x", "a b"]),
        (Value::Messages, &["ALL4", "DEL,NAME2"], &["", "all", "A,,B", "A/B"]),
        (Value::Suffixes, &["gz/zip", "mp[34]/7z"], &["", "/", "gz//zip", "../x", "*"]),
        (Value::Suffix, &[".bak", "~", "..."], &["", "/", "a/b", "..", ".", "a\nb"]),
        (Value::PathBelow, &[".p", "a/b", "-x", "a b"], &["", "/a", "a/", "..", "./a", "a/../b", "a\0b"]),
        (Value::OneOf(&["-"]), &["-"], &["", "/", "--", "-x"]),
        (Value::OneOf(&["utf-8"]), &["utf-8", "UTF-8"], &["", "utf-16", ".", "utf-8,utf-8"]),
        (Value::None, &[], &["", "1"]),
    ] {
        for text in yes {
            assert!(value.accepts(text.as_bytes()), "{value:?} takes {text:?}");
        }
        for text in no {
            assert!(!value.accepts(text.as_bytes()), "{value:?} does not take {text:?}");
        }
        assert!(!value.accepts(&[b'1'; 1025]), "{value:?} is bounded");
    }
}

#[test]
fn each_option_has_one_row_and_no_value_hides_in_a_cluster() {
    for (at, row) in LONG.iter().enumerate() {
        assert!(LONG[..at].iter().all(|other| other.name != row.name), "{} twice", row.name);
    }
    for (at, row) in SHORT.iter().enumerate() {
        assert!(row.letter != b'e' && SHORT[..at].iter().all(|other| other.letter != row.letter));
        if let Rule::Allowed(value, effect) = row.rule {
            assert!(matches!((value, effect), (Value::None, _) | (Value::Number, Effect::None)));
        }
    }
}

#[test]
fn the_document_lists_what_is_accepted() {
    let section = DOCUMENT.split("### Which options are accepted").nth(1).unwrap();
    // What clients do by themselves may have the name of an option that is refused.
    let (accepted, _) = section.split_once("* What a client does by itself").unwrap();
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '@');
    let named: Vec<&str> = accepted.split(|c| !part(c)).filter(|word| word.starts_with('-')).collect();
    let long = LONG.iter().map(|row| (format!("--{}", row.name), row.rule));
    let short = SHORT.iter().map(|row| (format!("-{}", char::from(row.letter)), row.rule));
    for (option, rule) in long.chain(short) {
        let allowed = matches!(rule, Rule::Allowed(..));
        assert_eq!(named.contains(&option.as_str()), allowed, "{option} in docs/ssh-commands.md");
    }
}

/// Words of every kind: the table's own with good and bad values, letters, paths, noise.
fn any_word() -> impl Strategy<Value = Vec<u8>> {
    let value = prop::sample::select(vec![
        "",
        "-",
        "1",
        "1g",
        "md5",
        "ALL",
        "../x",
        "/etc/passwd",
        "a/../../b",
        ".p",
        "X",
        "utf-8",
        "gz/zip",
        "-x",
        "\n",
    ]);
    let names: Vec<&'static str> = LONG.iter().map(|row| row.name).collect();
    prop_oneof![
        4 => (prop::sample::select(names), any::<bool>(), value.clone()).prop_map(|(name, joined, value)| {
            if joined { format!("--{name}={value}").into_bytes() } else { format!("--{name}").into_bytes() }
        }),
        4 => "-[ACDEHIJKLNORSUWXbcdgklmnopqrstuvxyz@Be.]{1,12}".prop_map(String::into_bytes),
        2 => value.prop_map(|value| value.as_bytes().to_vec()),
        2 => Just(b".".to_vec()),
        1 => prop::collection::vec(1u8.., 0..12),
    ]
}

proptest! {
    #[test]
    fn any_words_are_refused_or_become_a_line_of_the_table(
        words in prop::collection::vec(any_word(), 0..8),
        sender in any::<bool>(),
        link in any::<bool>(),
    ) {
        let mut line = vec![b"--server".to_vec()];
        line.extend(sender.then(|| b"--sender".to_vec()));
        line.extend(words);
        if let Ok(read) = Arguments::parse(&line) {
            let run = read.line(May { link, ..ALL });
            let (dot, options) = run.split_last().unwrap();
            prop_assert_eq!(&**dot, b".");
            for word in options {
                prop_assert!(word.starts_with(b"-") && !word.contains(&0));
                let (name, value) = word.split_at(word.iter().position(|&b| b == b'=').unwrap_or(word.len()));
                prop_assert!(!name.contains(&b'/'));
                match name {
                    b"--partial-dir" => prop_assert!(Value::PathBelow.accepts(&value[1..])),
                    b"--skip-compress" => {}
                    _ => prop_assert!(!value.contains(&b'/')),
                }
            }
            // Nothing is left that would be read otherwise the second time.
            let mut twice = again(&run);
            prop_assert_eq!((twice.sender, &twice.options), (read.sender, &read.options));
            twice.asks.safe_links = read.asks.safe_links;
            twice.asks.munges_links = read.asks.munges_links;
            prop_assert_eq!(twice.asks, read.asks);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6)) {
        let _ = Arguments::parse(&words);
    }
}
