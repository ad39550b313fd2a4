//! Every scheme against vectors of other implementations, damaged and excessive hashes, arbitrary text, and
//! what a check costs.

use std::sync::mpsc;

use proptest::prelude::*;

use super::*;

/// Hash and password. The origin is named where it is not crypt(3) of libxcrypt, which made the others.
const VECTORS: [(&str, &str); 44] = [
    // The reference.
    (
        "$argon2id$v=19$m=65536,t=3,p=2$2CifGy54DRQNFpUx8+XkLA$T1d0XuW1jLOG/tfxJRUIT0PouhLgg9TEzVzzmrlsxlM",
        "anna-secret",
    ),
    // The seed.
    ("$pbkdf2-sha256$150000$E86a9YMX3zC7$R5J62hsSq+pYw00hLLPKBbcGXmq7fj5+/M0IFoYtZbo=", "password"),
    ("$2a$14$ajq8Q7fbtFRQvXpdCq7Jcuy.Rx1h/L4J60Otx.gyNLbAYctGMJ9tK", "secret"),
    // The data model, §5.
    ("$pbkdf2-sha1$150000$DveVjgYUD05R$X6ydQZdyMeOvpgND2nqGR/0GGic=", "password"),
    ("$1$b5caebda$VODr/nyhGWgZaY8sJ4x05.", "password"),
    (
        "$6$459ead56b72e44bc$uog86fUxscjt28BZxqFBE2pp2QD8P/1e98MNF75Z9xJfQvOckZnQ/1YJqiq1XeytPuDieHZvDAMoP7352ELkO1",
        "secret",
    ),
    // Python's hashlib.
    ("$pbkdf2-sha1$1000$NaCl.text+/$hcZWGs8hqGUts5YGBzVfFhFpg4w=", "secret"),
    ("$pbkdf2-sha1$1$$/2iX1nCT5q1zjUA6gtxx4XTkXVo=", "pässwörd ☃"),
    ("$pbkdf2-sha256$1000$NaCl.text+/$r1gtlls+2U9WhkwtdxxpBL37R1TLsEmF6IwVZRMtwDE=", "secret"),
    ("$pbkdf2-sha256$1$$RjsLLdwWEpAQUFJsEF5JmmIuosaBlKAU85UkKdmLRq4=", "pässwörd ☃"),
    (
        "$pbkdf2-sha512$1000$NaCl.text+/$TSDz1E+Skz+EJINWrKVPic9JaBsKc2Pbn+iZCzZQkuAEjVbzYQtgSfgabaXdVxlBKeRCMcg3l/dPF+tpHzVplQ==",
        "secret",
    ),
    (
        "$pbkdf2-sha512$1$$k0IxV/d5DPXMFrgnXxnsewnH7g9cOiYtAMR29xIlpKdjfc67Xa7DJwhquBPehH29VQVAY3HtobB4r1kpFiDHfA==",
        "pässwörd ☃",
    ),
    // passlib.
    (
        "$6$rounds=1000$mysalt$avC1xB1zSfkpN8UaL8BssoezXYv/kpkJDL8sQiRCnn0mE5qi3/V44jLRZY6H1ZrIvVpOfDrwtC9Ofv6a0mcOl1",
        "password",
    ),
    ("$5$rounds=1000$mysalt$VMmt3ylGWUOctj33pKkig9KAwkq.tSmLL1Yx1/UK4eC", "password"),
    ("$1$mysalt$4Lz7hS.y2V54mV2gJXEKR/", "password"),
    // yescrypt's reference implementation: read-write, write-once, several lanes.
    ("$y$j91.5$LdJMENpBABJJ3hIH$ebKnn23URD5vyLgF9cP2EvVosrUXf7UErGRV0KmC6e6", "pleaseletmein"),
    ("$y$/7/.4$LdJMENpBABJJ3/$lXHleh7bIZMGNtJVxGVrsIWkEIXfBedlfPui/PITflC", "pleaseletmein"),
    ("$y$j5..3$LdJMENpBAB3$xi27PTUNd8NsChHeLOz85JFnUOyibRHkWzprowRlR5/", "pleaseletmein"),
    // libxcrypt from here on. md5crypt.
    ("$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/", "password"),
    ("$1$s$86LMLBF75kT8k49Mbjn6l0", "password"),
    ("$1$saltsalt$gr./yJS1GlbQSXLbU.PYb.", "pässwörd ☃"),
    ("$1$saltsalt$funrtjFZA/IJWplxmfgvl.", "xxxxxxxxxxxxxxxxxxxx"),
    ("$1$s$bS4ixKe7QMZlThg.5Hjy/0", "xxxxxxxxxxxxxxxxxxxx"),
    // sha256crypt.
    ("$5$0123456789abcdef$oQKUolm6Bx7mcEe7JRN5jviqVC8X/HsN4dy/U23FdB0", "password"),
    ("$5$rounds=1400$short$QvShbOqgNlwSie3rvYSOTC81hwfe2/jbHwORTCGrS12", "password"),
    ("$5$rounds=1400$short$/FjrzHRwrgAZQs8.nRQwB9Xmm.N89feHx9/zGCmN99D", "pässwörd ☃"),
    ("$5$0123456789abcdef$NAjT0l1Zu2UeIr8qBEa.OhaDkNxFXXlHJzJbbQKpIf9", "xxxxxxxxxxxxxxxxxxxx"),
    // sha512crypt; a salt longer than 16 bytes is cut.
    (
        "$6$0123456789abcdef$xDR267KnEdmU47Tv58n3gNdiOagKeAfIkcMyR6onqwUh3VWY6KqolWZcf8h/S6vI3O1EuVVODhFyX8F.iTNDA0",
        "password",
    ),
    (
        "$6$0123456789abcdefTOOLONG$xDR267KnEdmU47Tv58n3gNdiOagKeAfIkcMyR6onqwUh3VWY6KqolWZcf8h/S6vI3O1EuVVODhFyX8F.iTNDA0",
        "password",
    ),
    (
        "$6$rounds=1234$ab$SR/zyVX.2PwqF502rmnEGLxBkvaeX1GWLSn00kfFaSwd7MYHVifH/lOOGFcBQ8kfrf4Bb0dH0exx9Rooq9Qmi.",
        "password",
    ),
    (
        "$6$rounds=1000$0123456789abcdef$NrcnzC1Cw31yiSjRZbYLUDHpNvPA2ZSdS38GKwAQzTm125mJjPzlJsqf1cksiGQ5TF/ub5.IhMMBB8LyJ1ip60",
        "password",
    ),
    // Fewer rounds than the format allows count as its minimum.
    (
        "$6$rounds=10$0123456789abcdef$NrcnzC1Cw31yiSjRZbYLUDHpNvPA2ZSdS38GKwAQzTm125mJjPzlJsqf1cksiGQ5TF/ub5.IhMMBB8LyJ1ip60",
        "password",
    ),
    (
        "$6$$bLTg4cpho8PIUrjfsE7qlU08Qx2UEfw..xOc6I1wpGVtyVYToGrr7BzRdAAnEr5lYFr1Z9WcCf1xNZ1HG9qFW1",
        "password",
    ),
    (
        "$6$rounds=1234$ab$Ncw.PItodqC9v4xOp3v31qkfT9RFwsMJoB/bVEI2dDr2zh3kvIX8Man9/FFYbBMlew1aH5dJvNzW757dJuRTq1",
        "pässwörd ☃",
    ),
    // bcrypt in its three spellings; the salt of the first two has bits beyond its last byte.
    ("$2b$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu", "password"),
    ("$2a$06$abcdefghijklmnopqrstuuF/59OtUIQZKclcGFWL/itLBP37bgyqC", "pässwörd ☃"),
    ("$2y$05$......................4kZsVIu25gd2IicO3oMXwuxg.rWdRZG", "password"),
    (
        "$2b$05$abcdefghijklmnopqrstuuldF68XqW1jV1pTkp5QRjAP2izYsMp1u",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
    (
        "$2b$05$abcdefghijklmnopqrstuuGUnCqbfgs3htOkLrFduUjAyLBw1Rq/u",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
    (
        "$2b$05$abcdefghijklmnopqrstuuGUnCqbfgs3htOkLrFduUjAyLBw1Rq/u",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa and more",
    ),
    // yescrypt; the last has the parameters that distributions use.
    ("$y$j75$abcdefghij1$kJ9t.YBeUjs6KxTOheWWIowIRQ3oS20yTWNr4Ve4jQC", "password"),
    ("$y$j75$abcdefghij1$paZMR7Rc/Zco12PQv4I1oKy2xKaOpJqHcBYj2XXMVGD", "pässwörd ☃"),
    ("$y$/A2$LdJMENpBABJJ3hIHj/$t7O4a2/j1x7PXJvNz5CdgOFEpZBSrHfDBGYgjkOFf65", "password"),
    ("$y$j9T$F5Jx5fExrKuPp53xLKQ..1$tnSYvahCwPBHKZUspmcxMfb0.WiB9W.zEaKlOBL35rC", "password"),
];

fn matches(stored: &str, password: &str) -> Result<bool, PasswordError> {
    scheme::parse(stored)?.matches(password.as_bytes())
}

#[test]
fn the_right_password_matches_and_the_hash_itself_does_not() {
    for (stored, password) in VECTORS {
        assert_eq!(matches(stored, password), Ok(true), "{stored} {password}");
        assert_eq!(matches(stored, stored), Ok(false), "{stored}");
        assert!(is_hashed(stored), "{stored}");
    }
}

#[test]
fn another_password_does_not_match() {
    for (stored, password) in VECTORS {
        if stored.starts_with("$2a$14$") {
            continue;
        }
        let other = format!("x{password}");
        assert_eq!(matches(stored, &other), Ok(false), "{stored} {other}");
        // PBKDF2 is built on HMAC, which fills a short key up with NULs: there it makes no difference.
        if !stored.starts_with("$pbkdf2-") {
            assert_eq!(matches(stored, &format!("{password}\0")), Ok(false), "{stored} with a NUL");
        }
    }
}

#[test]
fn a_changed_hash_does_not_match() {
    for (stored, password) in VECTORS.iter().filter(|(stored, _)| !stored.starts_with("$2a$14$")) {
        // A character that belongs wholly to the digest in every scheme.
        let at = stored.len() - 6;
        let other = if stored.as_bytes()[at] == b'a' { 'b' } else { 'a' };
        let changed = format!("{}{other}{}", &stored[..at], &stored[at + 1..]);
        assert_eq!(matches(&changed, password), Ok(false), "{changed}");
    }
}

#[test]
fn damaged_hashes_are_unknown() {
    let longer = format!("$6$salt${}", "a".repeat(2000));
    for stored in [
        "",
        "password",
        "$",
        "$9$x$y",
        "!$6$salt$hash",
        "$2x$05$......................4kZsVIu25gd2IicO3oMXwuxg.rWdRZG",
        "$argon2id$",
        "$argon2id$v=18$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAA",
        "$argon2id$v=19$t=1,m=8,p=1$c2FsdHNhbHQ$AAAAAAAA",
        "$argon2id$v=19$m=8,t=1,p=1,x=1$c2FsdHNhbHQ$AAAAAAAA",
        "$argon2id$v=19$m=8,t=1$c2FsdHNhbHQ$AAAAAAAA",
        "$argon2id$v=19$m=+8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAA",
        "$argon2id$v=19$m=8,t=0,p=1$c2FsdHNhbHQ$AAAAAAAA",
        "$argon2id$v=19$m=8,t=1,p=4$c2FsdHNhbHQ$AAAAAAAA",
        "$argon2id$v=19$m=8,t=1,p=1$c2Fs$AAAAAAAA",
        "$argon2id$v=19$m=8,t=1,p=1$!$AAAAAAAA",
        "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$",
        "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAA$",
        "$2a$",
        "$2a$05$",
        "$2a$5$......................4kZsVIu25gd2IicO3oMXwuxg.rWdRZG.",
        "$2a$03$......................4kZsVIu25gd2IicO3oMXwuxg.rWdRZG",
        "$2a$+5$......................4kZsVIu25gd2IicO3oMXwuxg.rWdRZG",
        "$2a$05$......................4kZsVIu25gd2IicO3oMXwuxg.rWdRZ",
        "$2a$05$......................4kZsVIu25gd2IicO3oMXwuxg.rWdRZG.",
        "$2a$05$.....................é4kZsVIu25gd2IicO3oMXwuxg.rWdRZ",
        "$2a$05$!.....................4kZsVIu25gd2IicO3oMXwuxg.rWdRZG",
        "$pbkdf2-sha256$",
        "$pbkdf2-sha256$1000$salt",
        "$pbkdf2-sha256$1000$salt$",
        "$pbkdf2-sha256$1000$salt$AAAA",
        "$pbkdf2-sha256$1000$salt$hcZWGs8hqGUts5YGBzVfFhFpg4w=",
        "$pbkdf2-sha256$0$NaCl.text+/$r1gtlls+2U9WhkwtdxxpBL37R1TLsEmF6IwVZRMtwDE=",
        "$pbkdf2-sha256$-1$NaCl.text+/$r1gtlls+2U9WhkwtdxxpBL37R1TLsEmF6IwVZRMtwDE=",
        "$pbkdf2-sha256$1$NaCl.text+/$r1gtlls+2U9WhkwtdxxpBL37R1TLsEmF6IwVZRMtwDE",
        "$pbkdf2-sha224$1$salt$r1gtlls+2U9WhkwtdxxpBL37R1TLsEmF6IwVZRMtwDE=",
        "$1$",
        "$1$saltsalt",
        "$1$saltsalt$",
        "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK",
        "$1$saltsalt$qjXMvbEw8oaL.CzflDtaKz",
        "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/$",
        "$5$",
        "$6$salt",
        "$6$salt$",
        "$6$rounds=1000$salt",
        "$6$rounds=$salt$hash",
        "$6$rounds=1e3$salt$hash",
        "$6$rounds=-1$salt$hash",
        "$6$1000$salt$hash",
        // The digest of the other one.
        "$6$0123456789abcdef$oQKUolm6Bx7mcEe7JRN5jviqVC8X/HsN4dy/U23FdB0",
        &longer,
        "$y$",
        "$y$j9T$",
        "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$",
        // A short digest would match far too much.
        "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$tn",
        "$y$!!$F5Jx5fExrKuPp53xLKQ..1$tnSYvahCwPBHKZUspmcxMfb0.WiB9W.zEaKlOBL35rC",
        "$y$$F5Jx5fExrKuPp53xLKQ..1$tnSYvahCwPBHKZUspmcxMfb0.WiB9W.zEaKlOBL35rC",
    ] {
        assert_eq!(check_form(stored), Err(PasswordError::Unknown), "{stored:?}");
    }
}

#[test]
fn parameters_are_bounded() {
    let r6 = "0123456789abcdef$NrcnzC1Cw31yiSjRZbYLUDHpNvPA2ZSdS38GKwAQzTm125mJjPzlJsqf1cksiGQ5TF/ub5.IhMMBB8LyJ1ip60";
    let y = "F5Jx5fExrKuPp53xLKQ..1$tnSYvahCwPBHKZUspmcxMfb0.WiB9W.zEaKlOBL35rC";
    let yescrypt = |n: u64, r, p, t| {
        let params = ::yescrypt::Params::new_with_all_params(::yescrypt::Mode::Rw, n, r, p, t, 0).unwrap();
        format!("$y${params}${y}")
    };
    let excessive = [
        "$argon2id$v=19$m=4294967295,t=1,p=1$c2FsdHNhbHQ$AAAAAAAA".to_owned(),
        "$argon2id$v=19$m=8,t=4294967295,p=1$c2FsdHNhbHQ$AAAAAAAA".to_owned(),
        "$argon2id$v=19$m=99999999999999999999,t=1,p=1$c2FsdHNhbHQ$AAAAAAAA".to_owned(),
        "$argon2id$v=19$m=65536,t=1,p=65$c2FsdHNhbHQ$AAAAAAAA".to_owned(),
        format!("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ${}", "A".repeat(400)),
        "$2a$17$......................4kZsVIu25gd2IicO3oMXwuxg.rWdRZG".to_owned(),
        "$2a$31$......................4kZsVIu25gd2IicO3oMXwuxg.rWdRZG".to_owned(),
        "$2a$99$......................4kZsVIu25gd2IicO3oMXwuxg.rWdRZG".to_owned(),
        "$pbkdf2-sha256$10000001$x$r1gtlls+2U9WhkwtdxxpBL37R1TLsEmF6IwVZRMtwDE=".to_owned(),
        "$pbkdf2-sha256$4294967296$x$r1gtlls+2U9WhkwtdxxpBL37R1TLsEmF6IwVZRMtwDE=".to_owned(),
        format!("$6$rounds=5000001${r6}"),
        format!("$6$rounds=999999999${r6}"),
        format!("$6$rounds=99999999999${r6}"),
        yescrypt(1 << 24, 1, 1, 0),
        yescrypt(1 << 18, 64, 1, 0),
        yescrypt(1 << 62, 32, 1, 0),
        yescrypt(1 << 22, 32, 1024, 0),
        yescrypt(4096, 32, 1, 9),
        yescrypt(4096, 1, 128, 0),
    ];
    for stored in excessive {
        assert_eq!(check_form(&stored), Err(PasswordError::Excessive), "{stored}");
    }
    for allowed in [
        "$2a$16$......................4kZsVIu25gd2IicO3oMXwuxg.rWdRZG".to_owned(),
        format!("$6$rounds=5000000${r6}"),
        "$pbkdf2-sha256$10000000$x$r1gtlls+2U9WhkwtdxxpBL37R1TLsEmF6IwVZRMtwDE=".to_owned(),
        "$argon2id$v=19$m=1048576,t=12,p=1$c2FsdHNhbHQ$AAAAAAAA".to_owned(),
        yescrypt(1 << 18, 32, 1, 0),
    ] {
        assert_eq!(check_form(&allowed), Ok(()), "{allowed}");
    }
    assert_eq!(scheme::parse(&yescrypt(1 << 18, 32, 1, 0)).unwrap().memory_bytes(), 1 << 30);
}

#[tokio::test]
async fn empty_and_endless_passwords_match_nothing() {
    let passwords = Passwords::new(1);
    let stored = "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/";
    assert_eq!(passwords.verify("password", stored).await, Ok(()));
    assert_eq!(passwords.verify("", stored).await, Err(PasswordError::Mismatch));
    // This is md5crypt of the empty password.
    assert_eq!(
        passwords.verify("", "$1$saltsalt$5Jhcit4zN9UlGiA0txPkO0").await,
        Err(PasswordError::Mismatch)
    );
    let endless = "x".repeat(MAX_PASSWORD_BYTES + 1);
    assert_eq!(passwords.verify(&endless, stored).await, Err(PasswordError::Mismatch));
    assert_eq!(passwords.verify("password", "password").await, Err(PasswordError::Unknown));
    assert_eq!(matches(stored, &"x".repeat(512)), Ok(false));
}

#[tokio::test]
async fn new_hashes_have_the_reference_form_and_hashes_are_kept() {
    let passwords = Passwords::new(1);
    let stored = passwords.hash("secret".to_owned()).await.unwrap();
    assert!(stored.starts_with("$argon2id$v=19$m=65536,t=3,p=2$"), "{stored}");
    assert_eq!(passwords.verify("secret", &stored).await, Ok(()));
    assert_eq!(passwords.verify("Secret", &stored).await, Err(PasswordError::Mismatch));
    assert_ne!(passwords.hash("secret".to_owned()).await.unwrap(), stored, "the salt is new each time");
    for (hashed, _) in VECTORS {
        assert_eq!(passwords.hash(hashed.to_owned()).await.unwrap(), hashed);
    }
}

#[test]
fn unusable_hashes_are_whole_and_differ() {
    let stored = unusable().unwrap();
    assert_eq!(check_form(&stored), Ok(()));
    assert!(scheme::parse(&stored).unwrap().is_usual());
    assert_ne!(unusable().unwrap(), stored);
}

#[tokio::test]
async fn a_cheap_hash_is_refused_at_the_usual_price() {
    let passwords = Passwords::new(1);
    for _ in 0..2 {
        passwords.waste("x").await;
    }
    let usual = passwords.usual.0.load(Ordering::Relaxed);
    for stored in
        ["$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/", "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAA", "x"]
    {
        let began = Instant::now();
        assert!(passwords.verify("wrong", stored).await.is_err());
        let spent = u64::try_from(began.elapsed().as_micros()).unwrap();
        // A busy machine only makes it longer; without filling up it would be a hundredth.
        assert!(spent > usual / 4, "{stored}: {spent} of {usual} µs");
    }
}

#[test]
fn a_check_is_filled_up_to_the_usual_time_and_no_further() {
    let usual = UsualTime::default();
    let ms = Duration::from_millis;
    assert_eq!(usual.part_left(ms(5)), 1000, "before the first measurement");
    usual.observe(ms(100));
    for (spent, left) in [(0, 1000), (25, 750), (100, 0), (700, 0)] {
        assert_eq!(usual.part_left(ms(spent)), left, "{spent} ms");
    }
    for _ in 0..100 {
        usual.observe(ms(200));
    }
    assert!((490..=510).contains(&usual.part_left(ms(100))), "{}", usual.part_left(ms(100)));
}

#[tokio::test]
async fn a_hash_that_wants_much_memory_runs_alone() {
    let passwords = Passwords::new(2);
    let (release, wait) = mpsc::channel::<()>();
    let big = passwords.clone();
    let big = tokio::spawn(async move {
        big.run(1 << 30, move || {
            wait.recv().unwrap();
            Ok(())
        })
        .await
    });
    while passwords.permits.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let small = passwords.run(0, || Ok(()));
    tokio::pin!(small);
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut small).await.is_err(), "there is no room");
    release.send(()).unwrap();
    assert_eq!(small.await, Ok(()));
    assert_eq!(big.await.unwrap(), Ok(()));
    assert_eq!(passwords.permits.available_permits(), 2);
}

/// Hashes of every kind whose parts are arbitrary but whose numbers keep a check short.
fn nearly_a_hash() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        "[./0-9A-Za-z]{0,24}",
        "[./0-9A-Za-z+=$,]{0,100}",
        ".{0,12}",
        Just("oQKUolm6Bx7mcEe7JRN5jviqVC8X/HsN4dy/U23FdB0".to_owned()),
        Just("r1gtlls+2U9WhkwtdxxpBL37R1TLsEmF6IwVZRMtwDE=".to_owned()),
        Just("c2FsdHNhbHQ".to_owned()),
    ];
    let parts = (text.clone(), text, 0_u32..64, 0_u32..3, 0_u32..9);
    (0_usize..9, parts).prop_map(|(kind, (salt, hash, a, b, c))| match kind {
        0 => format!("$argon2id$v=19$m={a},t={b},p={c}${salt}${hash}"),
        1 => format!("$2b$0{}${:.<22.22}{:.<31.31}", c.min(5), salt, hash),
        2 => format!("$pbkdf2-sha1${a}${salt}${hash}"),
        3 => format!("$pbkdf2-sha256${a}${salt}${hash}"),
        4 => format!("$pbkdf2-sha512${a}${salt}${hash}"),
        5 => format!("$1${salt}${hash}"),
        6 => format!("$5$rounds={a}${salt}${hash}"),
        7 => format!("$6$rounds={a}${salt}${hash}"),
        _ => format!("$y${}{}{}${salt}${hash}", ["j", "/", "."][b as usize], ["/", "0", "1"][b as usize], c),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_as_hash_and_any_password_are_answered(stored in "\\PC*", password in "\\PC*") {
        let _ = matches(&stored, &password);
    }

    #[test]
    fn any_tail_of_a_known_prefix_is_answered(
        prefix in prop::sample::select(vec![
            "$argon2id$", "$2a$", "$2b$", "$2y$", "$pbkdf2-sha1$", "$pbkdf2-sha256$", "$pbkdf2-sha512$", "$1$",
            "$5$", "$6$", "$y$",
        ]),
        tail in prop_oneof!["[./0-9A-Za-z$=,]{0,80}", "\\PC*"],
    ) {
        // Only the form: what parses may be as dear as the bounds allow.
        let _ = check_form(&format!("{prefix}{tail}"));
    }

    #[test]
    fn nearly_whole_hashes_are_answered(stored in nearly_a_hash(), password in "\\PC{1,80}") {
        let _ = matches(&stored, &password);
    }
}
