use super::*;
use crate::algorithms;

/// Keys that were made for these tests by OpenSSL and ssh-keygen, in `testdata/host_keys`, and what
/// `ssh-keygen -l` says about them.
const READABLE: [(&str, &str); 13] = [
    ("rsa_pkcs1.pem", "ssh-rsa SHA256:tW5l2twe+n8/IkyRerh+Ms4ziWH7x04f0dTCesvQuIM"),
    ("rsa_pkcs8.pem", "ssh-rsa SHA256:tW5l2twe+n8/IkyRerh+Ms4ziWH7x04f0dTCesvQuIM"),
    ("rsa_openssh", "ssh-rsa SHA256:48PMcC8Y7cv7dzgnXgVpKToQZkscEQ+EeEDzd+cJtgw"),
    ("ecdsa_256_openssh", "ecdsa-sha2-nistp256 SHA256:XH5lnWhv16xiMiwGw6jGE+WhVJLkkrc5Oxs5njK3GrA"),
    ("ecdsa_256_pkcs8.pem", "ecdsa-sha2-nistp256 SHA256:dCUp5UxcvwMAq4ZmAgTnvfBMG/q5wPkMOqksKTZ9G6k"),
    ("ecdsa_256_sec1.pem", "ecdsa-sha2-nistp256 SHA256:dCUp5UxcvwMAq4ZmAgTnvfBMG/q5wPkMOqksKTZ9G6k"),
    ("ecdsa_384_openssh", "ecdsa-sha2-nistp384 SHA256:eUUDpaCKBSrl4y4R9dyIG+GfADTN9dBmY9O/2+gIXDo"),
    ("ecdsa_384_pkcs8.pem", "ecdsa-sha2-nistp384 SHA256:aEaqrQjCGuiLw2wYLmVibKQlmAVO1cEpzDerOHFa6es"),
    ("ecdsa_384_sec1.pem", "ecdsa-sha2-nistp384 SHA256:aEaqrQjCGuiLw2wYLmVibKQlmAVO1cEpzDerOHFa6es"),
    ("ecdsa_521_openssh", "ecdsa-sha2-nistp521 SHA256:fJpuoMDEusynm7iORzurUzY9nIjsbYUxEZz8h4gqwBQ"),
    ("ecdsa_521_pkcs8.pem", "ecdsa-sha2-nistp521 SHA256:ZILE3nKnuRHpuhl1FvHfNMckxN8x+YbOTVJi8RVivtw"),
    ("ecdsa_521_sec1.pem", "ecdsa-sha2-nistp521 SHA256:ZILE3nKnuRHpuhl1FvHfNMckxN8x+YbOTVJi8RVivtw"),
    ("ed25519_openssh", "ssh-ed25519 SHA256:GjFor2nnNdXAyCIeQiLVM+c8EctLKBKPPdocCb7TOUU"),
];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/host_keys").join(name)
}

fn load_one(name: &str) -> Result<String, HostKeyError> {
    load(&[file(name)], Path::new("/nonexistent")).map(|keys| keys.fingerprints().remove(0))
}

#[test]
fn every_form_of_private_key_is_read() {
    for (name, expected) in READABLE {
        assert_eq!(load_one(name).unwrap(), expected, "{name}");
    }
    assert!(load_one("ed25519_pkcs8.pem").unwrap().starts_with("ssh-ed25519 SHA256:"));
}

#[test]
fn line_ends_and_text_around_the_key_do_not_matter() {
    for name in ["rsa_pkcs1.pem", "ecdsa_384_sec1.pem", "ed25519_openssh"] {
        let text = std::fs::read_to_string(file(name)).unwrap();
        let plain = parse(&text).unwrap();
        let windows = format!("a comment\r\n\r\n{}\r\n", text.replace('\n', " \r\n"));
        assert_eq!(parse(&windows).unwrap().public_key(), plain.public_key(), "{name}");
    }
}

#[test]
fn unusable_files_are_refused_by_name_and_reason() {
    let rows = [
        ("encrypted_openssh", "protected by a passphrase"),
        ("encrypted_pkcs8.pem", "protected by a passphrase"),
        ("encrypted_rsa_pkcs1.pem", "protected by a passphrase"),
        ("encrypted_rsa_pkcs1_des3.pem", "protected by a passphrase"),
        ("dsa_traditional.pem", "DSA keys"),
        ("dsa_pkcs8.pem", "DSA keys"),
        ("dsa_openssh", "DSA keys"),
        ("rsa_1024.pem", "2048 bits or more, this one has 1024"),
        ("ed25519.pub", "not a private key"),
        ("missing", "No such file"),
    ];
    for (name, reason) in rows {
        let error = load_one(name).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(reason), "{name}: {error}");
    }
}

#[test]
fn broken_files_are_refused() {
    let text = std::fs::read_to_string(file("rsa_pkcs1.pem")).unwrap();
    let rows = [
        String::new(),
        "-----BEGIN OPENSSH PRIVATE KEY-----".to_owned(),
        text[..text.len() / 2].to_owned(),
        text.replace("MII", "MIJ"),
        text.replace("RSA PRIVATE", "OPENSSH PRIVATE"),
        text.replace("RSA PRIVATE", "PUBLIC"),
        text.replace("RSA PRIVATE", "CERTIFICATE"),
    ];
    for row in rows {
        parse(&row).unwrap_err();
    }
    let folder = tempfile::tempdir().unwrap();
    let big = folder.path().join("big");
    std::fs::write(&big, "x".repeat(100_000)).unwrap();
    assert!(load(&[big], folder.path()).unwrap_err().to_string().contains("at most 65536 bytes"));
    let binary = folder.path().join("binary");
    std::fs::write(&binary, b"\xff\xfe").unwrap();
    assert!(load(&[binary], folder.path()).unwrap_err().to_string().contains("not a text file"));
}

#[test]
fn the_last_key_of_an_algorithm_counts_in_the_place_of_the_first() {
    let names =
        ["rsa_openssh", "ed25519_openssh", "ecdsa_384_sec1.pem", "rsa_pkcs1.pem", "ecdsa_256_sec1.pem"];
    let keys = load(&names.map(file), Path::new("/nonexistent")).unwrap();
    let shown: Vec<String> = keys.algorithms().iter().map(ToString::to_string).collect();
    let expected =
        ["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp256"];
    assert_eq!(shown, expected);
    assert_eq!(keys.fingerprints()[0], READABLE[0].1, "rsa_pkcs1.pem replaced rsa_openssh");

    let mut preferred = algorithms::preferred(&[], &[], &[]).unwrap();
    algorithms::prefer_signatures(&mut preferred, &keys.algorithms());
    let offered: Vec<String> = preferred.key[..5].iter().map(ToString::to_string).collect();
    assert_eq!(offered, expected);
}

#[test]
fn one_bad_file_among_good_ones_is_an_error() {
    let paths = [file("ed25519_openssh"), file("dsa_pkcs8.pem")];
    assert!(load(&paths, Path::new("/nonexistent")).is_err());
}

#[test]
fn missing_default_keys_are_generated_once() {
    let folder = tempfile::tempdir().unwrap();
    let first = load(&[], folder.path()).unwrap();
    let shown: Vec<String> = first.algorithms().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256"]);
    let rsa = std::fs::read_to_string(folder.path().join("id_rsa")).unwrap();
    assert!(rsa.starts_with("-----BEGIN RSA PRIVATE KEY-----\n") && rsa.lines().all(|line| line.len() <= 64));
    assert_eq!(first.keys[1].public_key().key_data().rsa().unwrap().key_size(), 4096);
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["id_ed25519", "id_rsa"], "no temporary file is left");
    #[cfg(unix)]
    for name in names {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    let again = load(&[], folder.path()).unwrap();
    assert_eq!(again.fingerprints(), first.fingerprints());

    // A server that had only its RSA key keeps it and gains the other.
    std::fs::remove_file(folder.path().join("id_ed25519")).unwrap();
    let third = load(&[], folder.path()).unwrap();
    assert_eq!(third.fingerprints()[1], first.fingerprints()[1]);
    assert_ne!(third.fingerprints()[0], first.fingerprints()[0]);

    known_to_ssh_keygen(folder.path(), &third);
}

/// What we write must be readable by the tools of administrators.
fn known_to_ssh_keygen(folder: &Path, keys: &HostKeys) {
    for (name, expected) in ["id_ed25519", "id_rsa"].iter().zip(keys.fingerprints()) {
        let run = std::process::Command::new("ssh-keygen").arg("-lf").arg(folder.join(name)).output();
        let Ok(output) = run else {
            eprintln!("ssh-keygen is not available, its agreement is not tested");
            return;
        };
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let fingerprint = expected.split(' ').next_back().unwrap();
        assert!(shown.contains(fingerprint), "{shown} {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_broken_default_key_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("id_rsa");
    std::fs::write(&path, "half a key").unwrap();
    let error = load(&[], folder.path()).unwrap_err();
    assert!(error.to_string().contains("id_rsa"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "half a key");
}

#[test]
fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no-such-folder");
    let error = load(&[], &missing).unwrap_err();
    assert!(matches!(error, HostKeyError::Write { .. }), "{error}");
    assert!(error.to_string().contains("no-such-folder/id_rsa"), "{error}");
}

#[test]
fn creating_never_replaces_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    assert!(create(&path, b"first").unwrap());
    assert!(!create(&path, b"second").unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"first");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn ephemeral_keys_differ_every_time() {
    let (one, other) = (ephemeral().unwrap(), ephemeral().unwrap());
    let shown: Vec<String> = one.algorithms().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256"]);
    assert!(one.fingerprints().iter().zip(other.fingerprints()).all(|(a, b)| *a != b));
}

#[test]
fn der_lengths_beyond_the_input_are_refused() {
    for bytes in [&b""[..], b"\x30", b"\x30\x05\x02", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80", b"\x31\x00"] {
        assert_eq!(pkcs1_in(bytes), None);
    }
}
