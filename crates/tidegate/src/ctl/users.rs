//! `tidegate ctl users`: users, one by one. A change sends only what was given; everything else stays.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};
use tidegate_http::csv;

use super::client::{Client, first_line};
use super::table::{Table, clean, date, of_limit, size, time};
use super::{Failure, Output, say, say_answer, table, values};

/// The API gives at most so many at a time.
const PAGE: u64 = 500;

#[derive(Debug, Subcommand)]
pub(super) enum Users {
    /// List users by name
    ///
    /// With --output csv for spreadsheets: what a name could do there as a formula is prevented.
    #[command(visible_alias = "ls")]
    List {
        /// At most so many; all of them unless given
        #[arg(long, value_name = "COUNT")]
        limit: Option<u64>,
        /// Skip so many first
        #[arg(long, value_name = "COUNT", default_value_t = 0)]
        offset: u64,
        /// From Z to A
        #[arg(long)]
        descending: bool,
    },
    /// Show everything about a user
    Show(Which),
    /// Add a user
    ///
    /// The new user may log in with a password, a key, or both; at least one of them is needed.
    #[command(
        after_help = "Examples:\n  tidegate ctl users add ann --home-dir /srv/ann --public-key-file ann.pub\n  \
                            tidegate ctl users add drop --permissions list --dir /in:list,upload \
                            --new-password-file - --quota-size 10GB"
    )]
    Add {
        /// Name of the user
        name: String,
        #[command(flatten)]
        fields: Box<Fields>,
    },
    /// Change a user
    ///
    /// What is not given stays as it is. Sessions that are open follow at once.
    #[command(
        after_help = "Examples:\n  tidegate ctl users update ann --status inactive\n  tidegate ctl users update \
                            ann --quota-size 0 --expiration never"
    )]
    Update {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        fields: Box<Fields>,
    },
    /// Delete a user; the files stay
    ///
    /// Sessions of the user are closed.
    Delete {
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(short = 'y', long)]
        yes: bool,
    },
}

/// One user.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// Name of the user
    name: Option<String>,
    /// Id of the user
    #[arg(long)]
    id: Option<i64>,
}

/// What a user has. Each flag that is given is sent.
#[derive(Debug, Args)]
pub(super) struct Fields {
    /// File whose first line is the new password; "-" is standard input
    ///
    /// A hash that the server knows is stored as it is. An empty line removes the password.
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// A key that may log in, as a line of an authorized_keys file; may be repeated
    ///
    /// All keys of the user are replaced; "" removes them.
    #[arg(long = "public-key", value_name = "KEY")]
    public_keys: Vec<String>,
    /// File with such keys, one in a line; may be repeated
    #[arg(long = "public-key-file", value_name = "FILE")]
    public_key_files: Vec<PathBuf>,
    /// Home directory, an absolute path on the server
    #[arg(long, value_name = "DIR")]
    home_dir: Option<String>,
    /// Permissions in all directories that have none of their own, comma separated; "*" is all of them
    ///
    /// Any of list, download, upload, overwrite, delete, rename, create_dirs, create_symlinks, chmod, chown, chtimes.
    /// Together with --dir, replaces all permissions of the user.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    permissions: Vec<String>,
    /// Permissions in one directory and below it, as DIRECTORY:LIST; may be repeated
    #[arg(long = "dir", value_name = "DIR:LIST", value_parser = values::directory, requires = "permissions")]
    directories: Vec<(String, Vec<String>)>,
    /// Whether the user may log in
    #[arg(long, value_parser = ["active", "inactive"])]
    status: Option<String>,
    /// Last day (UTC) on which the user may log in, or a moment such as 2027-01-31T12:00:00Z, or never
    #[arg(long, value_name = "DATE", value_parser = values::expiration)]
    expiration: Option<i64>,
    /// Most bytes that may be stored, such as 10GB; 0 is no limit
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    quota_size: Option<i64>,
    /// Most files that may be stored; 0 is no limit
    #[arg(long, value_name = "COUNT")]
    quota_files: Option<u32>,
    /// Upload bandwidth in KB/s; 0 is no limit
    #[arg(long, value_name = "KB/S")]
    upload_bandwidth: Option<u32>,
    /// Download bandwidth in KB/s; 0 is no limit
    #[arg(long, value_name = "KB/S")]
    download_bandwidth: Option<u32>,
    /// Most sessions at a time; 0 is no limit
    #[arg(long, value_name = "COUNT")]
    max_sessions: Option<u32>,
    /// Owner of new files, a number; 0 leaves them to the server's user
    #[arg(long)]
    uid: Option<u32>,
    /// Group of new files, a number; 0 leaves them to the server's group
    #[arg(long)]
    gid: Option<u32>,
    /// Networks that may log in, comma separated, such as 192.0.2.0/24; "" is all of them
    #[arg(long, value_name = "LIST")]
    allowed_ip: Option<String>,
    /// Networks that may not log in; "" is none
    #[arg(long, value_name = "LIST")]
    denied_ip: Option<String>,
}

pub(super) async fn run(client: &Client, command: &Users, output: Output) -> Result<(), Failure> {
    match command {
        Users::List { limit, offset, descending } => list(client, *limit, *offset, *descending, output).await,
        Users::Show(which) => {
            let user = find(client, which).await?;
            say(&if output == Output::Json { table::json(&user) } else { described(&user) })
        }
        Users::Add { name, fields } => {
            let mut body = fields.body()?;
            body.insert("username".to_owned(), json!(name));
            body.entry("status").or_insert(json!(1));
            body.entry("permissions").or_insert(json!({"/": ["*"]}));
            let user = client.change(Method::POST, "user", &[], Some(&Value::Object(body))).await?;
            match output {
                Output::Json => say(&table::json(&user)),
                Output::Table | Output::Csv => {
                    say(&format!("user {} added, id {}\n", clean(name), user["id"]))
                }
            }
        }
        Users::Update { which, fields } => {
            let body = fields.body()?;
            if body.is_empty() {
                return Err(Failure::Usage(
                    "nothing to change was given; --help lists what can be".to_owned(),
                ));
            }
            let user = find(client, which).await?;
            let answer = client
                .change(Method::PUT, &format!("user/{}", user["id"]), &[], Some(&Value::Object(body)))
                .await?;
            say_answer(&answer, output)
        }
        Users::Delete { which, yes } => {
            let user = find(client, which).await?;
            let name = clean(user["username"].as_str().unwrap_or_default());
            if !*yes {
                confirm(&format!("Delete the user {name}? The files in the home directory stay. [y/N] "))?;
            }
            let answer = client.change(Method::DELETE, &format!("user/{}", user["id"]), &[], None).await?;
            say_answer(&answer, output)
        }
    }
}

/// Asks on a terminal; without one, nobody can answer.
fn confirm(question: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("nobody can be asked here: give --yes".to_owned()));
    }
    eprint!("{question}");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    if read.is_ok() && ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    Err(Failure::Usage("not deleted".to_owned()))
}

async fn find(client: &Client, which: &Which) -> Result<Value, Failure> {
    if let Some(id) = which.id {
        return client.get(&format!("user/{id}"), &[]).await;
    }
    let name = which.name.as_deref().unwrap_or_default();
    let found = client.get("user", &[("limit", "1"), ("username", name)]).await?;
    // The API takes an empty name for all of them.
    let user = found.get(0).filter(|user| user["username"] == name).cloned();
    user.ok_or_else(|| Failure::NotFound(format!("there is no user {:?}", clean(name))))
}

async fn list(
    client: &Client,
    limit: Option<u64>,
    offset: u64,
    descending: bool,
    output: Output,
) -> Result<(), Failure> {
    let mut users = Vec::new();
    let (mut have, wanted) = (0, limit.unwrap_or(u64::MAX));
    if output == Output::Csv {
        say(&csv::header())?;
    }
    loop {
        let (page, at) = (PAGE.min(wanted - have), (offset + have).to_string());
        if page == 0 {
            break;
        }
        let order = if descending { "DESC" } else { "ASC" };
        let query = [("limit", &*page.to_string()), ("offset", &at), ("order", order)];
        let Value::Array(more) = client.get("user", &query).await? else { break };
        let count = more.len() as u64;
        have += count;
        if output == Output::Csv {
            // Written at once, so that many users need no memory.
            say(&more.iter().map(csv::user).collect::<String>())?;
        } else {
            users.extend(more);
        }
        if count < page {
            break;
        }
    }
    if output == Output::Csv {
        return Ok(());
    }
    if output == Output::Json {
        return say(&table::json(&Value::Array(users)));
    }
    let mut table =
        Table::new(&["ID", "USERNAME", "STATUS", "EXPIRES", "FILES", "SIZE", "LAST LOGIN", "HOME"]);
    for user in &users {
        let number = |key: &str| user[key].as_i64().unwrap_or_default();
        table.row([
            number("id").to_string(),
            text(user, "username"),
            status(user).to_owned(),
            date(number("expiration_date")),
            files(user),
            of_limit(size(number("used_quota_size")), number("quota_size"), size),
            time(number("last_login")),
            text(user, "home_dir"),
        ]);
    }
    say(&table.text())
}

fn text(user: &Value, key: &str) -> String {
    user[key].as_str().unwrap_or_default().to_owned()
}

fn status(user: &Value) -> &'static str {
    if user["status"] == 1 { "active" } else { "inactive" }
}

fn files(user: &Value) -> String {
    let number = |key: &str| user[key].as_i64().unwrap_or_default();
    of_limit(number("used_quota_files").to_string(), number("quota_files"), |limit| limit.to_string())
}

fn described(user: &Value) -> String {
    let number = |key: &str| user[key].as_i64().unwrap_or_default();
    let no_limit = |key: &str, unit: &str| match number(key) {
        limit if limit > 0 => format!("{limit}{unit}"),
        _ => "no limit".to_owned(),
    };
    let networks = |key: &str| {
        let networks = user["filters"][key].as_array().into_iter().flatten().filter_map(Value::as_str);
        networks.collect::<Vec<_>>().join(", ")
    };
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("id", number("id").to_string());
    row("username", text(user, "username"));
    row("status", status(user).to_owned());
    row("expires", or(time(number("expiration_date")), "never"));
    row("home directory", text(user, "home_dir"));
    for (directory, list) in user["permissions"].as_object().into_iter().flatten() {
        let list: Vec<_> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        row("permissions", format!("{directory}: {}", list.join(", ")));
    }
    for key in user["public_keys"].as_array().into_iter().flatten() {
        row("public key", key.as_str().unwrap_or_default().to_owned());
    }
    row("files", files(user));
    row("size", of_limit(size(number("used_quota_size")), number("quota_size"), size));
    row("counted", or(time(number("last_quota_update")), "never"));
    row("upload", no_limit("upload_bandwidth", " KB/s"));
    row("download", no_limit("download_bandwidth", " KB/s"));
    row("sessions", no_limit("max_sessions", ""));
    row("uid, gid", format!("{}, {}", number("uid"), number("gid")));
    row("allowed networks", or(networks("allowed_ip"), "all"));
    row("denied networks", or(networks("denied_ip"), "none"));
    row("last login", or(time(number("last_login")), "never"));
    table.text()
}

impl Fields {
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        let mut body = Map::new();
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(key.to_owned(), value);
            }
        };
        set("password", self.new_password_file.as_deref().map(new_password).transpose()?.map(Value::from));
        set("public_keys", self.keys()?.map(Value::from));
        set("home_dir", self.home_dir.clone().map(Value::from));
        if !self.permissions.is_empty() {
            set("permissions", Some(values::permissions(&self.permissions, &self.directories)));
        }
        set("status", self.status.as_ref().map(|status| json!(i32::from(status == "active"))));
        set("expiration_date", self.expiration.map(Value::from));
        set("quota_size", self.quota_size.map(Value::from));
        set("quota_files", self.quota_files.map(Value::from));
        set("upload_bandwidth", self.upload_bandwidth.map(Value::from));
        set("download_bandwidth", self.download_bandwidth.map(Value::from));
        set("max_sessions", self.max_sessions.map(Value::from));
        set("uid", self.uid.map(Value::from));
        set("gid", self.gid.map(Value::from));
        let mut filters = Map::new();
        for (key, networks) in [("allowed_ip", &self.allowed_ip), ("denied_ip", &self.denied_ip)] {
            if let Some(networks) = networks {
                filters.insert(key.to_owned(), json!(values::list(networks)));
            }
        }
        set("filters", (!filters.is_empty()).then_some(Value::Object(filters)));
        Ok(body)
    }

    /// All keys that were given; `None` if there was no flag for them.
    fn keys(&self) -> Result<Option<Vec<String>>, Failure> {
        if self.public_keys.is_empty() && self.public_key_files.is_empty() {
            return Ok(None);
        }
        let mut keys = self.public_keys.clone();
        for file in &self.public_key_files {
            let text = fs::read_to_string(file).map_err(|error| {
                Failure::Usage(format!("cannot read keys from --public-key-file {}: {error}", file.display()))
            })?;
            keys.extend(text.lines().filter(|line| !line.trim_start().starts_with('#')).map(str::to_owned));
        }
        Ok(Some(keys.into_iter().filter(|key| !key.trim().is_empty()).collect()))
    }
}

fn new_password(file: &Path) -> Result<String, Failure> {
    if file != Path::new("-") {
        return first_line(file);
    }
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.map_err(|error| Failure::Usage(format!("cannot read the password from standard input: {error}")))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
