//! Portable mode: one directory, one user, no configuration file and no database.
//!
//! What is not given is made up here: user name, password, port. The host key stays in memory, so that nothing
//! is written and nothing secret can end up in the shared directory.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tidegate_core::UserPatch;
use tidegate_ssh::config::{HostKeys, Sftpd};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::advertise::{Advertisement, Credentials};
use crate::cli::PortableArgs;
use crate::confine;
use crate::serve::{Centre, bind_ssh, load_host_keys};

const DEFAULT_USERNAME: &str = "user";
const PASSWORD_CHARS: usize = 16;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Ports that are handed out: the first 15,000 of the dynamic ones.
const FIRST_PORT: u16 = 49_152;
const PORTS: u16 = 15_000;
/// Random ports that are tried until one is free.
const PORT_ATTEMPTS: usize = 20;
const MAX_AUTH_TRIES: i64 = 12;

/// What is served to whom, after everything that was left open has been decided.
struct Plan {
    username: String,
    /// Empty if only public keys may log in.
    password: String,
    public_keys: Vec<String>,
    directory: PathBuf,
    permissions: Vec<String>,
    settings: tidegate_ssh::config::Settings,
    /// Whether another port may be tried if this one is taken.
    is_port_random: bool,
    advertise_service: bool,
    advertise_credentials: bool,
}

impl Plan {
    fn new(args: &PortableArgs, rng: &dyn SecureRandom) -> Result<Self> {
        let shown = args.directory.display();
        let directory =
            args.directory.canonicalize().with_context(|| format!("cannot serve the directory {shown}"))?;
        if !directory.is_dir() {
            bail!("cannot serve {shown}: it is not a directory");
        }
        let public_keys = args.public_keys();
        let password = match args.password.is_empty() && public_keys.is_empty() {
            true => random_password(rng)?,
            false => args.password.clone(),
        };
        let port = if args.sftpd_port == 0 { random_port(rng)? } else { args.sftpd_port };
        let section = Sftpd {
            bind_port: i64::from(port),
            max_auth_tries: MAX_AUTH_TRIES,
            enabled_ssh_commands: args.ssh_commands.clone(),
            ..Sftpd::default()
        };
        let mut settings = section
            .validate(&directory, &mut |text| warn!(console = true, "{text}"))
            .map_err(|e| anyhow!(e))?;
        settings.host_keys = HostKeys::InMemory;
        Ok(Self {
            username: if args.username.is_empty() {
                DEFAULT_USERNAME.to_owned()
            } else {
                args.username.clone()
            },
            password,
            public_keys,
            directory,
            permissions: args.permissions.clone(),
            settings,
            is_port_random: args.sftpd_port == 0,
            advertise_service: args.advertise_service,
            advertise_credentials: args.advertise_credentials,
        })
    }

    fn user(&self) -> Result<UserPatch> {
        let home = self.directory.to_str().with_context(|| {
            format!("cannot serve {}: its path is not UTF-8 text", self.directory.display())
        })?;
        Ok(UserPatch {
            status: Some(1),
            username: Some(self.username.clone()),
            password: Some(self.password.clone()),
            public_keys: Some(self.public_keys.clone()),
            home_dir: Some(home.to_owned()),
            permissions: Some([("/".to_owned(), self.permissions.clone())].into()),
            ..UserPatch::default()
        })
    }

    fn credentials(&self) -> Credentials<'_> {
        if !self.advertise_credentials {
            return Credentials::default();
        }
        let password = Some(self.password.as_str()).filter(|password| !password.is_empty());
        Credentials { username: Some(&self.username), password }
    }
}

/// Serves the directory until `shutdown` fires.
///
/// # Errors
/// The directory, the user's data or the port cannot be used.
pub(crate) async fn run(args: PortableArgs, shutdown: CancellationToken) -> Result<()> {
    let rng = SystemRandom::new();
    let mut plan = Plan::new(&args, &rng)?;
    let provider = tidegate_store::config::Settings::memory();
    let store = tidegate_store::open(&provider).await.context("cannot open the memory provider")?;
    let centre = Centre::new(store, &plan.settings, &provider);
    let created = centre.accounts.create(plan.user()?).await;
    created.map_err(|error| anyhow!(error)).context("cannot share the directory")?;

    let ssh = listen(&mut plan, &centre, &rng).await?;
    let port = plan.settings.bind_port;
    announce(&plan);
    let advertisement = if plan.advertise_service { advertise(&plan, port) } else { None };

    let tasks = TaskTracker::new();
    tasks.spawn(Centre::keep_house(centre.sessions.clone(), plan.settings.idle_timeout, shutdown.clone()));
    ssh.run(shutdown.clone()).await;
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    if let Some(advertisement) = advertisement {
        let _ = tokio::task::spawn_blocking(|| advertisement.stop()).await;
    }
    info!(console = true, "stopped");
    Ok(())
}

/// Binds the port; a random one that is taken is replaced by another.
async fn listen(plan: &mut Plan, centre: &Centre, rng: &dyn SecureRandom) -> Result<tidegate_ssh::Bound> {
    let mut attempts = if plan.is_port_random { PORT_ATTEMPTS } else { 1 };
    let programs = confine::programs(&plan.settings).unwrap_or_else(|error| {
        warn!(console = true, "git and rsync are not offered (--ssh-commands): {error}");
        tidegate_ssh::Programs::default()
    });
    loop {
        let host_keys = load_host_keys(HostKeys::InMemory).await?;
        attempts -= 1;
        match bind_ssh(plan.settings.clone(), centre, host_keys, programs.clone()) {
            Ok(bound) => return Ok(bound),
            Err(_) if attempts > 0 => plan.settings.bind_port = random_port(rng)?,
            Err(error) => {
                let port = plan.settings.bind_port;
                return Err(anyhow!(error).context(format!("cannot listen on port {port} (--sftpd-port)")));
            }
        }
    }
}

/// One line on the console with everything that a client needs; the password only there, never in the log.
fn announce(plan: &Plan) {
    let Plan { username, directory, permissions, settings, .. } = plan;
    let (permissions, commands) = (permissions.join(","), settings.ssh_commands.join(","));
    let keys = plan.public_keys.len();
    info!(
        "portable mode ready, user: {username:?}, public keys: {keys}, directory: {directory:?}, permissions: \
         {permissions}, SSH commands: {commands}, port: {}",
        settings.bind_port
    );
    let password = match plan.password.as_str() {
        "" => "none".to_owned(),
        password => format!("{password:?}"),
    };
    println!(
        "Serving {} on port {}\n  user:         {username}\n  password:     {password}\n  public keys:  {keys}\n  \
         permissions:  {permissions}\n  SSH commands: {commands}\n  try:          sftp -P {} {username}@localhost\n\
         Press Ctrl-C to stop.",
        directory.display(),
        settings.bind_port,
        settings.bind_port,
    );
}

fn advertise(plan: &Plan, port: u16) -> Option<Advertisement> {
    if plan.advertise_credentials && plan.password.is_empty() {
        info!(console = true, "no password is advertised, because there is none");
    }
    match Advertisement::start(port, plan.credentials()) {
        Ok(advertisement) => Some(advertisement),
        Err(error) => {
            warn!(console = true, "the service is not announced in the network: {error:#}");
            None
        }
    }
}

/// A number below `limit`, each with the same probability.
fn below(rng: &dyn SecureRandom, limit: u16) -> Result<u16> {
    // Values beyond the last whole multiple of the limit would favour small numbers.
    let usable = u16::MAX - u16::MAX % limit;
    loop {
        let mut bytes = [0; 2];
        rng.fill(&mut bytes).map_err(|_| anyhow!("the system gives no random numbers"))?;
        let value = u16::from_le_bytes(bytes);
        if value < usable {
            return Ok(value % limit);
        }
    }
}

fn random_port(rng: &dyn SecureRandom) -> Result<u16> {
    Ok(FIRST_PORT + below(rng, PORTS)?)
}

fn random_password(rng: &dyn SecureRandom) -> Result<String> {
    (0..PASSWORD_CHARS).map(|_| Ok(char::from(ALPHABET[usize::from(below(rng, 62)?)]))).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan(arguments: &[&str]) -> Result<Plan> {
        let cli = Cli::try_parse_from(["tidegate", "portable"].iter().chain(arguments))?;
        match cli.command {
            Some(Command::Portable(args)) => Plan::new(&args, &SystemRandom::new()),
            other => bail!("not portable: {other:?}"),
        }
    }

    #[test]
    fn what_is_not_given_is_made_up() {
        let plan = plan(&[]).unwrap();
        assert_eq!(plan.username, "user");
        assert_eq!(plan.password.len(), 16);
        assert!(plan.password.bytes().all(|byte| ALPHABET.contains(&byte)));
        assert!((49_152..=64_151).contains(&plan.settings.bind_port));
        assert_eq!(plan.settings.max_auth_tries, Some(12));
        assert_eq!(plan.settings.host_keys, HostKeys::InMemory);
        assert_eq!(plan.directory, std::env::current_dir().unwrap().canonicalize().unwrap());
        assert!(plan.credentials().username.is_none());
    }

    #[test]
    fn a_public_key_makes_a_password_unnecessary() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxGZ0i8a1uCk0Yp1zQ4Wm6b0gq6mX0o5Wl2rFq1sQ9A me";
        let plan = plan(&["-k", key, "-C", "-u", "bob", "-s", "2022"]).unwrap();
        assert_eq!((plan.password.as_str(), plan.settings.bind_port), ("", 2022));
        let credentials = plan.credentials();
        assert_eq!((credentials.username, credentials.password), (Some("bob"), None));
    }

    #[test]
    fn only_directories_can_be_served() {
        let file = std::env::current_exe().unwrap();
        assert!(plan(&["-d", file.to_str().unwrap()]).is_err());
        let error = format!("{:#}", plan(&["-d", "/no/such/dir"]).map(|_| ()).unwrap_err());
        assert!(error.starts_with("cannot serve the directory /no/such/dir: "), "{error}");
    }

    #[test]
    fn random_numbers_reach_both_ends() {
        let rng = SystemRandom::new();
        let drawn: std::collections::BTreeSet<u16> = (0..2000).map(|_| below(&rng, 62).unwrap()).collect();
        assert_eq!((drawn.first(), drawn.last(), drawn.len()), (Some(&0), Some(&61), 62));
        assert_ne!(random_password(&rng).unwrap(), random_password(&rng).unwrap());
    }
}
