//! Systems on which programs cannot be confined: git and rsync are not offered there.

use std::ffi::OsString;
use std::process::ExitCode;

use tidegate_core::ConfigError;
use tidegate_ssh::Programs;

/// The word on the command line.
pub(crate) const COMMAND: &str = "confine";

/// There are none.
///
/// # Errors
///
/// Commands are enabled that would need some.
pub(crate) fn programs(sftpd: &tidegate_ssh::config::Settings) -> Result<Programs, ConfigError> {
    if !Programs::are_needed(&sftpd.ssh_commands) {
        return Ok(Programs::default());
    }
    let expected = "no git and rsync commands: programs can be confined on Linux only";
    Err(ConfigError::new("sftpd.enabled_ssh_commands", sftpd.ssh_commands.join(", "), expected))
}

/// Nothing to confine.
pub(crate) fn main(_: impl Iterator<Item = OsString>) -> ExitCode {
    ExitCode::FAILURE
}
