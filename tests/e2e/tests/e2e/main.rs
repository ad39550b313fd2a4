//! The end-to-end tests: one binary, the real server, real clients. Which module a test belongs to:
//!
//! | module | what it shows |
//! |---|---|
//! | `openssh` | the stock `sftp` and `scp`: transfers, resume, times and modes, directories, names |
//! | `other_clients` | rclone, lftp, psftp, curl, sshfs, paramiko, asyncssh |
//! | `protocol` | requests and extensions of the protocol, seen through the raw client |
//! | `commands` | SSH commands: digests, `cd`, `pwd`; what is refused |
//! | `git` | git over SSH: clone, push, quota; repositories and lines that try to run something |
//! | `scp` | the old protocol of `scp`: OpenSSH, pscp, conversations byte for byte |
//! | `rsync` | the stock rsync against the confined program, and lines that no client sends |
//! | `permissions` | each verb allowed and denied, and the disk after each |
//! | `confinement` | nothing outside the home is read or changed |
//! | `limits` | a crowd against `max_sessions` and quota; thousands of hooks for a slow receiver |
//! | `login` | who gets in, who does not, and what the log says |
//! | `flow` | clients that stall, flood, crawl or renegotiate: regressions of the transport |
//! | `hostile` | malformed and excessive input |
//! | `bandwidth` | rates over real sockets: kept, shared, steady, cheap, and nobody else slowed |
//! | `upload_habits` | what clients do around an upload: `.filepart`, times before the close, temporary files hidden |
//! | `upload_modes` | what is left of an upload that fails: disk, usage, log and hooks, in every mode |
//! | `hooks` | commands and notifications after file operations and changes of accounts |
//! | `config` | files, environment, flags, exit codes |
//! | `logs` | the lines, byte for byte; reopening; the end of the process |
//! | `api` | the REST API and the database made by the reference |
//! | `metrics` | every name, what moves it, and promtool's judgement of it, the alerts and the dashboard |
//! | `admin_auth` | who may use the REST API and the web admin: passwords, sessions, foreign pages, HTTPS |
//! | `providers` | users on database servers that go away, in files of the reference, from a dump |
//! | `portable` | sharing one folder |

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin_auth;
mod api;
mod bandwidth;
mod commands;
mod config;
mod confinement;
mod flow;
mod git;
mod hooks;
mod hostile;
mod login;
mod limits;
mod logs;
mod metrics;
mod openssh;
mod other_clients;
mod permissions;
mod portable;
mod protocol;
mod providers;
mod rsync;
mod scp;
mod upload_habits;
mod upload_modes;
mod wire;
