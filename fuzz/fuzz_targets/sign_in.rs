//! What decides who may administer the server: the file of administrators, the header of HTTP Basic and the cookie
//! of a session.

#![no_main]

use libfuzzer_sys::fuzz_target;

// The modules stand alone, so the HTTP library and its cryptography need not be built here.
#[path = "../../crates/http/src/auth/basic.rs"]
mod basic;
#[path = "../../crates/http/src/auth/cookie.rs"]
mod cookie;
#[path = "../../crates/http/src/auth/htpasswd.rs"]
mod htpasswd;

fuzz_target!(|input: &[u8]| {
    if let Ok(users) = htpasswd::parse(input, |_| Ok(())) {
        assert!(!users.is_empty());
        assert!(users.keys().all(|name| htpasswd::check_name(name).is_ok()));
        let written: String = users.iter().map(|(name, hash)| format!("{name}:{hash}\n")).collect();
        assert_eq!(htpasswd::parse(written.as_bytes(), |_| Ok(())), Ok(users));
    }
    if let Some(credentials) = basic::parse(input) {
        assert!(!credentials.name.contains(':'));
        assert!(basic::parse(basic::format(&credentials).as_bytes()) == Some(credentials));
    }
    if let Some(value) = cookie::find(input, "s") {
        let set = cookie::set("s", value, true);
        let sent = set.split(';').next().unwrap_or_default();
        assert_eq!(cookie::find(sent.as_bytes(), "s"), Some(value));
        assert!(cookie::remove("s", true).starts_with("s=;"));
    }
});
