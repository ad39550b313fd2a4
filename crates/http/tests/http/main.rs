//! The HTTP server through its real listener, over a data provider in memory.
//!
//! `backup` has dumps and restores, `users` has the accounts and the rules of merging, `connections` who is connected, `quota` scans, `server` everything
//! that holds for every path: routes, limits, metrics, start and stop; `log` the lines about requests and
//! defects, `browser` what a web page may not send.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod backup;
mod browser;
mod connections;
mod log;
mod quota;
mod server;
mod support;
mod users;
