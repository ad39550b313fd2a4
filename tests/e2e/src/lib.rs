//! The harness of the end-to-end tests: the real server, real clients, a temporary home, free ports.
//!
//! The tests themselves are in `tests/e2e/`. Nothing here uses Tidegate's own crates: the tests speak to the
//! server only through doors that a user has, so that a mistake in a shared codec cannot cancel itself out.

#![allow(clippy::unwrap_used, reason = "a harness fails its test by panicking")]

pub mod browser;
pub mod clients;
pub mod disk;
pub mod http;
pub mod keys;
pub mod packet;
pub mod process;
pub mod raw;
pub mod server;
pub mod users;

pub use packet::{Attrs, Packet, flags, kind, status};
pub use process::{Finished, Tool};
pub use raw::RawSftp;
pub use server::{ServerBuilder, TestServer};
pub use users::User;

use std::time::{Duration, Instant};

/// Calls `check` every 20 ms until it returns something, and fails the test with `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Shorthand for a duration in seconds.
#[must_use]
pub const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}
