//! Who may come in (data model §6): finds the user, checks status, expiry, credential, address and
//! number of sessions, in that order, and opens the session.
//!
//! Outside, every refusal looks the same and costs the same; the reason is in the log.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use crate::password::PasswordError;
use crate::public_key::{PublicKeyLine, fingerprint};
use crate::{
    Clock, Event, Events, LoginType, OpenError, Passwords, Peer, Session, Sessions, StoreError, User,
    UserStore,
};

/// How someone proves who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginMethod {
    /// With a password.
    Password,
    /// With a public key.
    PublicKey,
}

/// Who asks, and from where.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The name given.
    pub username: String,
    /// The other end of the connection.
    pub peer: Peer,
}

/// A key that the client has proved to hold: its signature was verified.
#[derive(Debug, Clone, Copy)]
pub struct SignedKey<'a> {
    /// The key in SSH wire format.
    pub blob: &'a [u8],
    /// Whether it is a security key that says it was touched for this signature.
    pub touched: bool,
}

/// Why a login was refused. For the log; the client learns nothing of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthError {
    /// No credential was given.
    #[error("empty credentials are not allowed")]
    Empty,
    /// The provider does not know the user, or cannot say.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The account is switched off.
    #[error("user {0:?} is disabled")]
    Disabled(String),
    /// The account has ended.
    #[error("user {0:?} is expired")]
    Expired(String),
    /// The password does not match.
    #[error("{0}")]
    Password(#[from] PasswordError),
    /// The account has no password, or none of its keys was offered.
    #[error("Invalid credentials")]
    Credentials,
    /// A security key signed without being touched, and its line does not waive that.
    #[error("the security key was not touched")]
    Touch,
    /// The home directory is not an absolute path.
    #[error("home directory of user {0:?} is not an absolute path")]
    Home(String),
    /// The address is filtered.
    #[error("login for user {0:?} is not allowed from this address: {1}")]
    Address(String, IpAddr),
    /// The protocol refused what was offered.
    #[error("{0}")]
    Refused(&'static str),
    /// No session could be opened.
    #[error("{0}")]
    Session(#[from] OpenError),
}

/// Whether a key must be touched to log in.
#[derive(Clone, Copy)]
enum Touch {
    Required,
    Waived,
}

/// Checks credentials and opens sessions.
#[derive(Clone)]
pub struct Authenticator {
    store: Arc<dyn UserStore>,
    passwords: Passwords,
    sessions: Sessions,
    events: Events,
    clock: Clock,
    record_logins: bool,
}

impl Authenticator {
    /// Builds the one place where logins are decided. Without `record_logins` (`manage_users` 0) the
    /// provider is never written to.
    pub fn new(
        store: Arc<dyn UserStore>,
        passwords: Passwords,
        sessions: Sessions,
        events: Events,
        clock: Clock,
        record_logins: bool,
    ) -> Self {
        Self { store, passwords, sessions, events, clock, record_logins }
    }

    /// Where refusals and logins are told.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Logs in with a password.
    ///
    /// # Errors
    ///
    /// The reason, which was logged and counted already.
    pub async fn password(&self, attempt: &Attempt, password: &str) -> Result<Session, AuthError> {
        let checked = self.check_password(attempt, password).await;
        self.conclude(attempt, LoginMethod::Password, checked).await
    }

    /// Whether this key would be accepted from there, for a client that asks before it signs. A key that would
    /// not is a failed attempt: logged and counted. One that would is counted when its signature is verified.
    pub async fn knows_key(&self, attempt: &Attempt, key: &[u8]) -> bool {
        let checked = self.check_key(attempt, key).await;
        // A filtered address learns nothing about keys.
        match checked.and_then(|(user, ..)| admitted(&user, attempt)) {
            Ok(()) => true,
            Err(error) => {
                self.refused(attempt, LoginMethod::PublicKey, &error);
                false
            }
        }
    }

    /// Logs in with a key whose signature was verified.
    ///
    /// # Errors
    ///
    /// The reason, which was logged and counted already.
    pub async fn public_key(&self, attempt: &Attempt, key: SignedKey<'_>) -> Result<Session, AuthError> {
        let checked = match self.check_key(attempt, key.blob).await {
            Ok((_, _, Touch::Required)) if !key.touched => Err(AuthError::Touch),
            Ok((user, label, _)) => Ok((user, label)),
            Err(error) => Err(error),
        };
        self.conclude(attempt, LoginMethod::PublicKey, checked).await
    }

    /// Notes a refusal that was decided before any credential could be checked.
    pub fn refuse(&self, attempt: &Attempt, method: LoginMethod, why: &'static str) {
        self.refused(attempt, method, &AuthError::Refused(why));
    }

    async fn conclude(
        &self,
        attempt: &Attempt,
        method: LoginMethod,
        checked: Result<(Arc<User>, String), AuthError>,
    ) -> Result<Session, AuthError> {
        let opened = match checked {
            Ok((user, label)) => self.open(attempt, user, label).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(session) => {
                self.events.metrics().login(method, true);
                self.events.emit(Event::LoggedIn {
                    user: Arc::clone(session.user()),
                    label: session.label().to_owned(),
                    connection_id: attempt.peer.connection_id.clone(),
                    remote_addr: attempt.peer.addr.to_string(),
                });
                self.record_login(session.user());
                Ok(session)
            }
            Err(error) => {
                self.refused(attempt, method, &error);
                Err(error)
            }
        }
    }

    async fn open(&self, attempt: &Attempt, user: Arc<User>, label: String) -> Result<Session, AuthError> {
        if !Path::new(&user.home_dir).is_absolute() {
            return Err(AuthError::Home(user.username.clone()));
        }
        admitted(&user, attempt)?;
        Ok(self.sessions.open(user, label, attempt.peer.clone()).await?)
    }

    async fn check_password(
        &self,
        attempt: &Attempt,
        password: &str,
    ) -> Result<(Arc<User>, String), AuthError> {
        if password.is_empty() {
            return Err(AuthError::Empty);
        }
        let user = match self.enabled_user(&attempt.username).await {
            Ok(user) if user.password.is_empty() => Err(AuthError::Credentials),
            other => other,
        };
        match user {
            Ok(user) => {
                self.passwords.verify(password, &user.password).await?;
                Ok((user, "password".to_owned()))
            }
            Err(error) => {
                // Known and unknown names cost the same time.
                self.passwords.waste(password).await;
                Err(error)
            }
        }
    }

    async fn check_key(
        &self,
        attempt: &Attempt,
        key: &[u8],
    ) -> Result<(Arc<User>, String, Touch), AuthError> {
        let user = self.enabled_user(&attempt.username).await?;
        let line = user
            .public_keys
            .iter()
            .filter_map(|line| PublicKeyLine::parse(line))
            .find(|line| line.blob == key)
            .ok_or(AuthError::Credentials)?;
        let waived = line.no_touch_required || !line.is_security_key();
        let touch = if waived { Touch::Waived } else { Touch::Required };
        Ok((user, format!("public_key:{}:{}", fingerprint(key), line.comment), touch))
    }

    async fn enabled_user(&self, name: &str) -> Result<Arc<User>, AuthError> {
        let user = self.store.user(name).await?;
        if !user.active {
            return Err(AuthError::Disabled(user.username));
        }
        if user.is_expired((self.clock)()) {
            return Err(AuthError::Expired(user.username));
        }
        Ok(Arc::new(user))
    }

    fn refused(&self, attempt: &Attempt, method: LoginMethod, error: &AuthError) {
        self.events.metrics().login(method, false);
        self.events.emit(Event::LoginFailed {
            client_ip: attempt.peer.addr.ip().to_canonical().to_string(),
            username: attempt.username.clone(),
            login_type: LoginType::from(method),
            error: error.to_string(),
        });
    }

    /// The client does not wait for the provider to remember the login.
    fn record_login(&self, user: &Arc<User>) {
        if !self.record_logins {
            return;
        }
        let (store, name, now) = (Arc::clone(&self.store), user.username.clone(), (self.clock)());
        tokio::spawn(async move {
            if let Err(error) = store.record_login(&name, now).await {
                tracing::warn!(sender = "dataProvider", "last login of user {name:?} not recorded: {error}");
            }
        });
    }
}

/// Whether the user may come from that address.
fn admitted(user: &User, attempt: &Attempt) -> Result<(), AuthError> {
    let ip = attempt.peer.addr.ip();
    if user.filters.admits(ip) { Ok(()) } else { Err(AuthError::Address(user.username.clone(), ip)) }
}
