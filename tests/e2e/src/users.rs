//! Creates users through the REST API, as an administrator would.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::keys::keys;
use crate::server::TestServer;

/// A user to create. Unless told otherwise: the shared client key, no password, every permission.
#[derive(Debug)]
pub struct UserBuilder<'a> {
    server: &'a TestServer,
    name: String,
    body: Value,
}

/// A user that exists on a server.
#[derive(Debug, Clone)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The number that the data provider gave.
    pub id: i64,
    /// The home directory on disk. It exists.
    pub home: PathBuf,
}

impl<'a> UserBuilder<'a> {
    pub(crate) fn new(server: &'a TestServer, name: &str) -> Self {
        let home = server.path("homes").join(name);
        let body = json!({
            "username": name,
            "status": 1,
            "home_dir": home.to_str().expect("temporary paths are UTF-8"),
            "public_keys": [keys().client_public()],
            "permissions": {"/": ["*"]},
        });
        Self { server, name: name.to_owned(), body }
    }

    /// Sets any field of the user object.
    #[must_use]
    pub fn field(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.body[key] = value.into();
        self
    }

    /// Gives a password.
    #[must_use]
    pub fn password(self, password: &str) -> Self {
        self.field("password", password)
    }

    /// Replaces the permissions of one directory (`/` has `*` at first).
    #[must_use]
    pub fn perms(mut self, dir: &str, verbs: &[&str]) -> Self {
        self.body["permissions"][dir] = json!(verbs);
        self
    }

    /// Sends the request, makes the home directory and returns the user.
    pub fn create(self) -> User {
        let home = PathBuf::from(self.body["home_dir"].as_str().expect("set above"));
        std::fs::create_dir_all(&home).unwrap();
        let created = self.server.rest("POST", "/api/v1/user", Some(&self.body)).expect(200).json();
        let id = created["id"].as_i64().unwrap_or_else(|| panic!("no id: {created}"));
        User { name: self.name, id, home }
    }
}

impl User {
    /// A path below the home directory.
    #[must_use]
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.home.join(relative)
    }
}
