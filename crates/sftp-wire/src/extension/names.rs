//! The names of extended requests, as they stand on the wire.
//!
//! In SSH_FXP_VERSION a server offers them under the same names with a version, except for [`CHECK_FILE`],
//! which offers both check-file requests.

/// `rename(2)`: replaces the target. OpenSSH `PROTOCOL`, offered as "1".
pub const POSIX_RENAME: &str = "posix-rename@openssh.com";
/// File system figures by path. OpenSSH `PROTOCOL`, offered as "2".
pub const STATVFS: &str = "statvfs@openssh.com";
/// File system figures by handle. OpenSSH `PROTOCOL`, offered as "2".
pub const FSTATVFS: &str = "fstatvfs@openssh.com";
/// `link(2)`. OpenSSH `PROTOCOL`, offered as "1".
pub const HARDLINK: &str = "hardlink@openssh.com";
/// `fsync(2)` of a handle. OpenSSH `PROTOCOL`, offered as "1".
pub const FSYNC: &str = "fsync@openssh.com";
/// SETSTAT that does not follow links. OpenSSH `PROTOCOL`, offered as "1".
pub const LSETSTAT: &str = "lsetstat@openssh.com";
/// The server's packet, read, write and handle limits. OpenSSH `PROTOCOL`, offered as "1".
pub const LIMITS: &str = "limits@openssh.com";
/// REALPATH that expands a tilde. OpenSSH `PROTOCOL`, offered as "1".
pub const EXPAND_PATH: &str = "expand-path@openssh.com";
/// Copies a range between two handles. extensions-00 §7, offered as "1".
pub const COPY_DATA: &str = "copy-data";
/// The home directory of a user. extensions-00 §5, offered as "1".
pub const HOME_DIRECTORY: &str = "home-directory";
/// Names of numeric users and groups. OpenSSH `PROTOCOL`, offered as "1".
pub const USERS_GROUPS_BY_ID: &str = "users-groups-by-id@openssh.com";
/// The name under which [`CHECK_FILE_NAME`] and [`CHECK_FILE_HANDLE`] are offered. extensions-00 §3.
pub const CHECK_FILE: &str = "check-file";
/// Hashes of a file by path. extensions-00 §3.
pub const CHECK_FILE_NAME: &str = "check-file-name";
/// Hashes of a file by handle. extensions-00 §3.
pub const CHECK_FILE_HANDLE: &str = "check-file-handle";
/// Copies a file on the server. extensions-00 §6, offered as "1".
pub const COPY_FILE: &str = "copy-file";
/// Free space by path. extensions-00 §4, offered as "1".
pub const SPACE_AVAILABLE: &str = "space-available";
/// Who made the peer. filexfer-13 §4.4: as a request from clients, as an extension pair from servers.
pub const VENDOR_ID: &str = "vendor-id";
