//! The end-to-end tests: one binary, the real server, real clients. Which module a test belongs to:
//!
//! | module | what it shows |
//! |---|---|
//! | `openssh` | the stock `sftp` and `scp`: transfers, resume, times and modes, directories, names |
//! | `other_clients` | rclone, lftp, psftp, curl, sshfs, paramiko, asyncssh |
//! | `protocol` | requests and extensions of the protocol, seen through the raw client |
//! | `commands` | SSH commands: digests, `cd`, `pwd`; what is refused |
//! | `git` | git over SSH: clone, push, quota; repositories and lines that try to run something |
//! | `sandbox` | what confines git and rsync, alone: a program that tries to get out |
//! | `programs` | git and rsync while they run: quota, clients that do not read, hooks |
//! | `scp` | the old protocol of `scp`: OpenSSH, pscp, conversations byte for byte |
//! | `rsync` | the stock rsync against the confined program, and lines that no client sends |
//! | `permissions` | each verb allowed and denied, and the disk after each |
//! | `confinement` | nothing outside the home is read or changed |
//! | `limits` | a crowd against `max_sessions` and quota; thousands of hooks for a slow receiver |
//! | `live` | what changes of an account in the database do to its open sessions |
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
//! | `api_table` | each endpoint with each status; a converted dump |
//! | `openapi` | schemathesis against the REST API |
//! | `hostile_names` | names, paths, comments and versions that are meant to do harm where they are shown |
//! | `web` | the pages of the users in Chromium: everything somebody does there, with scripts and without |
//! | `web_live` | the dashboard, the connections and backup in Chromium, and streams of events |
//! | `ctl` | the command-line client: the transcripts of its document, exit codes, credentials |
//! | `providers` | users on database servers that go away, in files of the reference, from a dump |
//! | `portable` | sharing one folder |

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin_auth;
mod api;
mod api_table;
mod bandwidth;
mod commands;
mod config;
mod confinement;
mod ctl;
mod flow;
mod git;
mod hooks;
mod hostile;
mod hostile_names;
mod limits;
mod live;
mod login;
mod logs;
mod metrics;
mod openapi;
mod openssh;
mod other_clients;
mod permissions;
mod portable;
mod programs;
mod protocol;
mod providers;
mod rsync;
mod sandbox;
mod scp;
mod upload_habits;
mod upload_modes;
mod web;
mod web_live;
mod wire;
