//! The command line: commands, flags and what they mean, as clap definitions. Completions and the man page
//! are made from the same definitions.
//!
//! The environment variables of `serve` are read by [`ServeArgs::settle`], not by
//! clap, so that a wrong value is reported with the name of its variable.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

const ABOUT: &str = "Self-hosted SFTP server with virtual users";
const LONG_ABOUT: &str = "Tidegate is an SFTP server whose users live in its own database: each one has a home \
                          directory that it cannot leave, permissions for each directory, quotas and limits.\n\n\
                          `tidegate portable` shares one directory at once; `tidegate serve` runs the server \
                          that is described by a configuration file.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "tidegate", about = ABOUT, long_about = LONG_ABOUT, disable_version_flag = true)]
#[command(after_help = "Use \"tidegate help <command>\" for more information about a command.")]
pub(crate) struct Cli {
    /// Print the version with commit and build date
    #[arg(short = 'v', long)]
    pub(crate) version: bool,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the SFTP server
    ///
    /// The configuration is read from <config-dir>/<config-file> with the first of the extensions json, toml,
    /// yaml, yml, properties, props, prop, hcl, dotenv, env and ini that exists; without any file the defaults
    /// apply. Every key can also be set in the environment, for example SFTPGO_SFTPD__BIND_PORT=2222. A flag
    /// wins over its environment variable, and that wins over the default.
    Serve(ServeArgs),

    /// Serve a single directory, without configuration file and database
    ///
    /// User name, password and port are made up unless they are given; they are printed at start. The shared
    /// directory is read-only unless --permissions says otherwise. Nothing is written outside of it.
    #[command(
        after_help = "Examples:\n  tidegate portable\n  tidegate portable -d /srv/pub -s 2022 -u bob -p \
                            secret -g '*'\n  tidegate portable -k \"$(cat ~/.ssh/id_ed25519.pub)\""
    )]
    Portable(PortableArgs),

    /// Make users of system accounts, or of those of ProFTPD or Pure-FTPd
    ///
    /// Writes a dump with the accounts of the given files and their password hashes; nobody needs a new
    /// password. The REST API's loaddata takes it, and so does the page "Backup" of the web administration
    /// (docs/migration.md). What cannot be taken over is told on standard error, with file and line. The files
    /// are only read.
    #[command(
        after_help = "Examples:\n  sudo tidegate convert-users -o users.json\n  sudo tidegate convert-users \
                            -g sftpusers --force-uid 996 --force-gid 996 -o users.json\n  tidegate convert-users -F \
                            proftpd -i /etc/proftpd/ftpd.passwd -o users.json\n  tidegate convert-users -F pure-ftpd \
                            -i /etc/pureftpd.passwd -p list,download,upload -o users.json"
    )]
    ConvertUsers(crate::convert_users::ConvertArgs),

    /// Manage a running server over its REST API
    ///
    /// Users, connections, quota scans, backups: everything that the API can do, for people (tables) and for scripts
    /// (JSON and exit codes).
    Ctl(Box<crate::ctl::CtlArgs>),

    /// Print a line for httpd.auth_user_file, the file of the administrators
    ///
    /// The password is asked for on a terminal, or else read from the first line of standard input. The hash is
    /// argon2id.
    #[command(after_help = "Example:\n  tidegate htpasswd anna >> /etc/sftpgo/admins")]
    Htpasswd {
        /// Name of the administrator
        name: String,
    },

    /// Print a shell completion script
    ///
    /// For bash: tidegate completions bash > /etc/bash_completion.d/tidegate
    Completions {
        /// The shell to write for
        shell: clap_complete::Shell,
    },

    /// Print a manual page in roff format
    ///
    /// For example: tidegate man > /usr/local/share/man/man1/tidegate.1
    Man {
        /// The command to describe; without it the page of tidegate itself
        #[arg(value_enum)]
        page: Option<ManPage>,
    },
}

/// The commands that have a manual page of their own.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ManPage {
    /// tidegate-serve(1)
    Serve,
    /// tidegate-portable(1)
    Portable,
    /// tidegate-convert-users(1)
    ConvertUsers,
}

/// The flags of `serve` as given; what is not given is looked up by [`ServeArgs::settle`].
#[derive(Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Directory of the configuration file, and base of every relative path in it
    ///
    /// Host keys, login banner, SQLite file, templates and backups are looked for here unless their path is
    /// absolute. [env: SFTPGO_CONFIG_DIR] [default: .]
    #[arg(short = 'c', long, value_name = "DIR", value_parser = path_or_empty())]
    config_dir: Option<PathBuf>,

    /// Name of the configuration file without its extension
    ///
    /// A name, not a path: it is looked for in the config dir, then in ~/.config/sftpgo and /etc/sftpgo (on
    /// Linux), then in the current directory. [env: SFTPGO_CONFIG_FILE] [default: sftpgo]
    #[arg(short = 'f', long, value_name = "NAME")]
    config_file: Option<String>,

    /// Log file; empty means JSON lines on standard error
    ///
    /// A relative path starts at the working directory. [env: SFTPGO_LOG_FILE_PATH] [default: sftpgo.log]
    #[arg(short = 'l', long, value_name = "PATH", value_parser = path_or_empty())]
    log_file_path: Option<PathBuf>,

    /// Size in megabytes at which the log file is rotated
    ///
    /// One megabyte is 1048576 bytes; 0 means 100. Unused without a log file. [env: SFTPGO_LOG_MAX_SIZE]
    /// [default: 10]
    #[arg(short = 's', long, value_name = "MB")]
    log_max_size: Option<u64>,

    /// Number of rotated log files to keep; 0 keeps all
    ///
    /// Unused without a log file. [env: SFTPGO_LOG_MAX_BACKUPS] [default: 5]
    #[arg(short = 'b', long, value_name = "COUNT")]
    log_max_backups: Option<u64>,

    /// Days after which rotated log files are deleted; 0 means never
    ///
    /// Unused without a log file. [env: SFTPGO_LOG_MAX_AGE] [default: 28]
    #[arg(short = 'a', long, value_name = "DAYS")]
    log_max_age: Option<u64>,

    /// Compress rotated log files with gzip
    ///
    /// Unused without a log file. [env: SFTPGO_LOG_COMPRESS] [default: false]
    #[arg(short = 'z', long, value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    log_compress: Option<bool>,

    /// Log debug messages too
    ///
    /// --log-verbose=false leaves info, warnings and errors; failed logins are always logged.
    /// [env: SFTPGO_LOG_VERBOSE] [default: true]
    #[arg(short = 'v', long, value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    log_verbose: Option<bool>,
}

/// The options of `serve` after flags, environment and defaults have been laid over each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServeOptions {
    pub(crate) config_dir: PathBuf,
    pub(crate) config_file: String,
    /// Empty means standard error.
    pub(crate) log_file_path: PathBuf,
    pub(crate) log_max_size_mb: u64,
    pub(crate) log_max_backups: u64,
    pub(crate) log_max_age_days: u64,
    pub(crate) log_compress: bool,
    pub(crate) log_verbose: bool,
}

impl ServeArgs {
    /// Fills in what no flag gave: from the environment through `env`, else the default. A variable that is
    /// set but empty counts as set.
    pub(crate) fn settle(self, env: &dyn Fn(&str) -> Option<OsString>) -> Result<ServeOptions> {
        let path = |flag: Option<PathBuf>, name: &str, default: &str| {
            flag.or_else(|| env(name).map(PathBuf::from)).unwrap_or_else(|| PathBuf::from(default))
        };
        let text = |name: &str| match env(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(raw)) => Err(anyhow!("{name} is {raw:?}, expected UTF-8 text")),
        };
        let number = |flag: Option<u64>, name: &str, default: u64| -> Result<u64> {
            match (flag, text(name)?) {
                (Some(number), _) => Ok(number),
                (None, None) => Ok(default),
                (None, Some(value)) => {
                    value.parse().map_err(|_| anyhow!("{name} is {value:?}, expected a number, 0 or more"))
                }
            }
        };
        let switch = |flag: Option<bool>, name: &str, default: bool| -> Result<bool> {
            match (flag, text(name)?) {
                (Some(on), _) => Ok(on),
                (None, None) => Ok(default),
                (None, Some(value)) if value.is_empty() => Ok(false),
                (None, Some(value)) => {
                    parse_bool(&value).map_err(|expected| anyhow!("{name} is {value:?}, {expected}"))
                }
            }
        };
        let config_file = match self.config_file {
            Some(name) => name,
            None => text("SFTPGO_CONFIG_FILE")?.unwrap_or_else(|| "sftpgo".to_owned()),
        };
        if config_file.is_empty() || config_file.contains(['/', '\\']) || config_file == ".." {
            let hint = "expected the name of a file in the config dir, without directory and extension";
            bail!("--config-file (SFTPGO_CONFIG_FILE) is {config_file:?}, {hint}");
        }
        Ok(ServeOptions {
            config_dir: path(self.config_dir, "SFTPGO_CONFIG_DIR", "."),
            config_file,
            log_file_path: path(self.log_file_path, "SFTPGO_LOG_FILE_PATH", "sftpgo.log"),
            log_max_size_mb: number(self.log_max_size, "SFTPGO_LOG_MAX_SIZE", 10)?,
            log_max_backups: number(self.log_max_backups, "SFTPGO_LOG_MAX_BACKUPS", 5)?,
            log_max_age_days: number(self.log_max_age, "SFTPGO_LOG_MAX_AGE", 28)?,
            log_compress: switch(self.log_compress, "SFTPGO_LOG_COMPRESS", false)?,
            log_verbose: switch(self.log_verbose, "SFTPGO_LOG_VERBOSE", true)?,
        })
    }
}

/// The flags of `portable`. No environment variables.
#[derive(Debug, Clone, Args)]
pub(crate) struct PortableArgs {
    /// Directory to serve, absolute or relative to the current directory
    #[arg(short = 'd', long, value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,

    /// TCP port; 0 means a random one from 49152 to 64151
    #[arg(short = 's', long, value_name = "PORT", default_value_t = 0)]
    pub(crate) sftpd_port: u16,

    /// SSH commands to enable, comma separated or repeated; "*" means all of them including scp
    #[arg(
        short = 'c',
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "md5sum,sha1sum,cd,pwd"
    )]
    pub(crate) ssh_commands: Vec<String>,

    /// User name; empty means "user"
    #[arg(short = 'u', long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) username: String,

    /// Password; empty means a random one, or none if there is a public key
    ///
    /// Other users of this machine can see the arguments of a running program; the random password is not
    /// visible to them.
    #[arg(short = 'p', long, value_name = "PASSWORD", default_value = "", hide_default_value = true)]
    pub(crate) password: String,

    /// Public key that may log in, as a line of an authorized_keys file; may be repeated
    ///
    /// For example "ssh-ed25519 AAAAC3Nz... me@laptop".
    #[arg(short = 'k', long = "public-key", value_name = "KEY")]
    public_keys: Vec<String>,

    /// Permissions of the user, comma separated or repeated; "*" means all
    ///
    /// Any of list, download, upload, overwrite, delete, rename, create_dirs, create_symlinks, chmod, chown,
    /// chtimes.
    #[arg(short = 'g', long, value_name = "LIST", value_delimiter = ',', default_value = "list,download")]
    pub(crate) permissions: Vec<String>,

    /// Log file with JSON lines; empty means none
    #[arg(short = 'l', long, value_name = "PATH", default_value = "", hide_default_value = true)]
    #[arg(value_parser = path_or_empty())]
    pub(crate) log_file_path: PathBuf,

    /// Announce the service in the local network with multicast DNS
    #[arg(short = 'S', long, value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true")]
    pub(crate) advertise_service: bool,

    /// Put user name and password into the announcement
    ///
    /// Everybody in the local network can read them there.
    #[arg(short = 'C', long, value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub(crate) advertise_credentials: bool,
}

impl PortableArgs {
    /// The public keys, one per element. A comma separates keys only where a key type follows it, because
    /// options and comments may contain commas too.
    pub(crate) fn public_keys(&self) -> Vec<String> {
        let starts_key = |text: &str| ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| text.starts_with(kind));
        let mut keys: Vec<String> = Vec::new();
        for argument in &self.public_keys {
            let mut whole = String::new();
            for part in argument.split(',') {
                if starts_key(part.trim_start()) && !whole.is_empty() {
                    keys.push(std::mem::take(&mut whole));
                } else if !whole.is_empty() {
                    whole.push(',');
                }
                whole.push_str(part);
            }
            keys.push(whole);
        }
        keys.iter().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()).collect()
    }
}

/// The spellings of a boolean that flags, environment and configuration accept.
pub(crate) fn parse_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err("expected true or false (also 1, 0, t, f)"),
    }
}

/// Empty is a path with a meaning here; clap's own parser refuses it.
fn path_or_empty() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Writes the completion script for `shell`.
pub(crate) fn completions(shell: clap_complete::Shell, out: &mut dyn std::io::Write) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut script);
    // A reader that closes the pipe early is not our failure.
    let _ = out.write_all(&script);
}

/// Writes a manual page in roff format.
pub(crate) fn man(page: Option<ManPage>, out: &mut dyn std::io::Write) -> Result<()> {
    let mut root = Cli::command();
    root.build();
    let command = match page {
        None => root,
        Some(page) => {
            let name = match page {
                ManPage::Serve => "serve",
                ManPage::Portable => "portable",
                ManPage::ConvertUsers => "convert-users",
            };
            root.find_subcommand(name).context("the command of a manual page exists")?.clone()
        }
    };
    clap_mangen::Man::new(command).render(out).context("cannot write the manual page")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(arguments: &[&str], env: &[(&str, &str)]) -> Result<ServeOptions> {
        let all = ["tidegate", "serve"].iter().chain(arguments);
        match Cli::try_parse_from(all)?.command {
            Some(Command::Serve(args)) => args.settle(&|name| {
                env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            }),
            other => bail!("not serve: {other:?}"),
        }
    }

    fn portable(arguments: &[&str]) -> PortableArgs {
        match Cli::try_parse_from(["tidegate", "portable"].iter().chain(arguments)).unwrap().command {
            Some(Command::Portable(args)) => args,
            other => panic!("not portable: {other:?}"),
        }
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_of_serve() {
        let expected = ServeOptions {
            config_dir: ".".into(),
            config_file: "sftpgo".into(),
            log_file_path: "sftpgo.log".into(),
            log_max_size_mb: 10,
            log_max_backups: 5,
            log_max_age_days: 28,
            log_compress: false,
            log_verbose: true,
        };
        assert_eq!(serve(&[], &[]).unwrap(), expected);
    }

    #[test]
    fn every_way_to_write_a_flag() {
        let options =
            serve(&["-c", "/etc/x", "-fname", "--log-max-size=20", "-b", "3", "-z", "-v=false"], &[]);
        let options = options.unwrap();
        assert_eq!(options.config_dir, PathBuf::from("/etc/x"));
        assert_eq!((options.config_file.as_str(), options.log_max_size_mb), ("name", 20));
        assert_eq!((options.log_max_backups, options.log_compress, options.log_verbose), (3, true, false));
        let options = serve(&["--log-compress", "--log-verbose=f", "-l", "", "-a0"], &[]).unwrap();
        assert_eq!((options.log_compress, options.log_verbose, options.log_max_age_days), (true, false, 0));
        assert_eq!(options.log_file_path, PathBuf::new());
        assert!(serve(&["--log-compress=maybe"], &[]).is_err());
        assert!(serve(&["--log-compress", "false"], &[]).is_err(), "a bare boolean flag takes no next word");
        assert!(serve(&["--no-such-flag"], &[]).is_err());
        assert!(serve(&["-s", "-1"], &[]).is_err());
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_default() {
        let env = [("SFTPGO_LOG_MAX_SIZE", "7"), ("SFTPGO_CONFIG_DIR", "/env"), ("SFTPGO_LOG_VERBOSE", "0")];
        let options = serve(&["-s", "8"], &env).unwrap();
        assert_eq!((options.log_max_size_mb, options.log_verbose), (8, false));
        assert_eq!(options.config_dir, PathBuf::from("/env"));
    }

    #[test]
    fn a_variable_that_is_set_but_empty_counts_as_set() {
        let env = [("SFTPGO_LOG_FILE_PATH", ""), ("SFTPGO_LOG_VERBOSE", ""), ("SFTPGO_CONFIG_DIR", "")];
        let options = serve(&[], &env).unwrap();
        assert_eq!((options.log_file_path, options.config_dir), (PathBuf::new(), PathBuf::new()));
        assert!(!options.log_verbose);
    }

    #[test]
    fn a_wrong_variable_is_named_with_its_value() {
        for (name, value) in
            [("SFTPGO_LOG_MAX_AGE", "4w"), ("SFTPGO_LOG_COMPRESS", "yes"), ("SFTPGO_LOG_MAX_SIZE", "")]
        {
            let text = serve(&[], &[(name, value)]).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains(&format!("{value:?}")), "{text}");
        }
        assert!(serve(&[], &[("SFTPGO_CONFIG_FILE", "/etc/sftpgo")]).is_err());
    }

    #[test]
    fn defaults_of_portable() {
        let args = portable(&[]);
        assert_eq!((args.directory, args.sftpd_port), (PathBuf::from("."), 0));
        assert_eq!(args.ssh_commands, ["md5sum", "sha1sum", "cd", "pwd"]);
        assert_eq!(args.permissions, ["list", "download"]);
        assert_eq!((args.username.as_str(), args.password.as_str()), ("", ""));
        assert_eq!((args.advertise_service, args.advertise_credentials), (true, false));
    }

    #[test]
    fn lists_are_separated_by_commas_and_by_repetition() {
        let args = portable(&["-g", "list,upload", "--permissions=delete", "-c*", "-S=false", "-C"]);
        assert_eq!(args.permissions, ["list", "upload", "delete"]);
        assert_eq!(args.ssh_commands, ["*"]);
        assert_eq!((args.advertise_service, args.advertise_credentials), (false, true));
    }

    #[test]
    fn a_comma_separates_public_keys_only_before_a_key() {
        let args =
            portable(&["-k", "ssh-ed25519 A you, me,ecdsa-sha2-nistp256 B", "-k", "from=\"a,b\" ssh-rsa C"]);
        let expected = ["ssh-ed25519 A you, me", "ecdsa-sha2-nistp256 B", "from=\"a,b\" ssh-rsa C"];
        assert_eq!(args.public_keys(), expected);
    }

    #[test]
    fn completions_and_manual_pages_know_the_flags() {
        let mut script = Vec::new();
        completions(clap_complete::Shell::Bash, &mut script);
        assert!(String::from_utf8_lossy(&script).contains("--advertise-credentials"));
        for (page, word) in [
            (None, "portable"),
            (Some(ManPage::Serve), "log\\-max\\-age"),
            (Some(ManPage::ConvertUsers), "keep\\-without"),
        ] {
            let mut roff = Vec::new();
            man(page, &mut roff).unwrap();
            let roff = String::from_utf8_lossy(&roff);
            assert!(roff.contains(word) && roff.contains(".TH"), "{roff}");
        }
    }
}
