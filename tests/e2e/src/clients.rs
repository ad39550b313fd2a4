//! The clients that people use, each as a ready command line against a test server.

use std::path::{Path, PathBuf};

use crate::keys::keys;
use crate::process::Tool;
use crate::server::TestServer;

/// Options of every OpenSSH client: the shared key, no configuration, no known hosts, no questions.
#[must_use]
pub fn ssh_options() -> Vec<String> {
    let key = keys().client();
    let mut options: Vec<String> = vec!["-F".into(), "none".into(), "-i".into(), key.display().to_string()];
    for option in [
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "BatchMode=yes",
        "LogLevel=ERROR",
        "ConnectTimeout=20",
    ] {
        options.extend(["-o".into(), option.into()]);
    }
    options
}

/// OpenSSH `sftp` in batch mode; the first failing command ends it with exit code 1.
#[must_use]
pub fn sftp(server: &TestServer, user: &str, options: &[&str], batch: &str) -> Tool {
    Tool::new("sftp", "openssh-client")
        .arg("-q")
        .args(ssh_options())
        .args(["-P", &server.port.to_string()])
        .args(options)
        .args(["-b", "-", &format!("{user}@127.0.0.1")])
        .dir(&server.work())
        .input(batch)
        .within(120)
}

/// OpenSSH `scp` over the SFTP protocol (`-s`). Write `HOST:` in front of a remote path.
#[must_use]
pub fn scp(server: &TestServer, user: &str, args: &[&str]) -> Tool {
    let remote = format!("{user}@127.0.0.1:");
    Tool::new("scp", "openssh-client")
        .args(["-q", "-s"])
        .args(ssh_options())
        .args(["-P", &server.port.to_string()])
        .args(args.iter().map(|arg| arg.replace("HOST:", &remote)))
        .dir(&server.work())
        .within(120)
}

/// rclone with a remote named `tide:` that logs in with the shared key.
#[must_use]
pub fn rclone(server: &TestServer, user: &str, args: &[&str]) -> Tool {
    let remote = [
        ("TYPE", "sftp".to_owned()),
        ("HOST", "127.0.0.1".to_owned()),
        ("PORT", server.port.to_string()),
        ("USER", user.to_owned()),
        ("KEY_FILE", keys().client().display().to_string()),
        ("SHELL_TYPE", "none".to_owned()),
    ];
    let mut tool = Tool::new("rclone", "rclone").args(["--config", "/dev/null", "--retries", "1"]);
    for (key, value) in remote {
        tool = tool.env(&format!("RCLONE_CONFIG_TIDE_{key}"), value);
    }
    tool.args(args).dir(&server.work()).within(120)
}

/// lftp, which runs these commands and ends at the first that fails. It carries its SFTP over OpenSSH's `ssh`.
#[must_use]
pub fn lftp(server: &TestServer, user: &str, ssh_extra: &str, commands: &str) -> Tool {
    let options = ssh_options().join(" ");
    let script = format!(
        "set cmd:fail-exit true; set net:max-retries 1; set net:timeout 30; set sftp:auto-confirm yes;\n\
         set sftp:connect-program \"ssh -a -x {options} {ssh_extra}\";\n\
         open -u {user}, -p {port} sftp://127.0.0.1\n{commands}\nbye\n",
        port = server.port,
    );
    Tool::new("lftp", "lftp")
        .args(["--norc", "-f", "/dev/stdin"])
        .env("HOME", server.work())
        .dir(&server.work())
        .input(script)
        .within(120)
}

/// PuTTY's `psftp` with a password.
#[must_use]
pub fn psftp(server: &TestServer, user: &str, password: &str, batch: &str) -> Tool {
    let host_key = Tool::new("ssh-keyscan", "openssh-client")
        .args(["-t", "ed25519", "-p", &server.port.to_string(), "127.0.0.1"])
        .ok();
    let host_key = host_key.split_whitespace().last().expect("the server has an Ed25519 key").to_owned();
    let script = server.work().join("psftp.batch");
    std::fs::write(&script, batch).unwrap();
    let fingerprint = fingerprint(server, &host_key);
    Tool::new("psftp", "putty-tools")
        .args(["-batch", "-P", &server.port.to_string(), "-pw", password, "-hostkey", &fingerprint, "-b"])
        .arg(script)
        .arg(format!("{user}@127.0.0.1"))
        .env("HOME", server.work())
        .dir(&server.work())
        .within(120)
}

fn fingerprint(server: &TestServer, host_key: &str) -> String {
    let file = server.work().join("psftp-host.pub");
    std::fs::write(&file, format!("ssh-ed25519 {host_key}\n")).unwrap();
    let line = Tool::new("ssh-keygen", "openssh-client").arg("-lf").arg(file).ok();
    line.split_whitespace().nth(1).expect("ssh-keygen prints the fingerprint second").to_owned()
}

/// curl; fails the test when this curl was built without SFTP, because a silent skip would prove nothing.
#[must_use]
pub fn curl(server: &TestServer, user: &str, password: &str, args: &[&str]) -> Tool {
    let version = Tool::new("curl", "curl").arg("-V").ok();
    let protocols = version.lines().find(|line| line.starts_with("Protocols:")).unwrap_or_default();
    assert!(
        protocols.split_whitespace().any(|name| name == "sftp"),
        "this curl knows no SFTP (Debian's package does): {version}"
    );
    let url = format!("sftp://127.0.0.1:{}", server.port);
    Tool::new("curl", "curl")
        .args(["-q", "-sS", "--insecure", "-u", &format!("{user}:{password}")])
        .args(args.iter().map(|arg| arg.replace("URL", &url)))
        .env("HOME", server.work())
        .dir(&server.work())
        .within(120)
}

/// A mounted home directory. Dropping it unmounts.
#[derive(Debug)]
pub struct Mount {
    /// Where it is mounted.
    pub dir: PathBuf,
}

/// Mounts a user's home with sshfs, or returns `None`, aloud, on a machine without `/dev/fuse`.
pub fn sshfs(server: &TestServer, user: &str) -> Option<Mount> {
    if !Path::new("/dev/fuse").exists() {
        eprintln!("SKIPPED: sshfs cannot be tested, this machine has no /dev/fuse");
        return None;
    }
    let dir = server.path("mnt");
    std::fs::create_dir_all(&dir).unwrap();
    let options =
        ["IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"];
    let mut tool = Tool::new("sshfs", "sshfs")
        .arg(format!("{user}@127.0.0.1:/"))
        .arg(&dir)
        .args(["-p", &server.port.to_string(), "-F", "/dev/null", "-o"])
        .arg(format!("IdentityFile={}", keys().client().display()));
    for option in options {
        tool = tool.args(["-o", option]);
    }
    tool.ok();
    Some(Mount { dir })
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("fusermount3").args(["-u", "-z"]).arg(&self.dir).output();
    }
}

/// The Python that has paramiko, asyncssh and ssh-audit: `TIDEGATE_E2E_PYTHON`, else the virtual environment
/// that `scripts/test` makes, else the one in the path.
#[must_use]
pub fn python_path() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEGATE_E2E_PYTHON") {
        return path.into();
    }
    let venv = std::env::current_exe()
        .ok()
        .and_then(|test| test.ancestors().nth(3).map(|target| target.join("e2e-venv/bin/python3")));
    venv.filter(|python| python.is_file()).unwrap_or_else(|| "python3".into())
}

/// A script of `tests/e2e/py` with its arguments. The scripts name a missing module and its package themselves.
#[must_use]
pub fn python(server: &TestServer, script: &str, args: &[&str]) -> Tool {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("py").join(script);
    Tool::new(python_path(), "python3").arg(file).args(args).dir(&server.work()).within(120)
}

/// The arguments that the Python clients begin with: port, user, private key.
#[must_use]
pub fn python_login(server: &TestServer, user: &str) -> [String; 3] {
    [server.port.to_string(), user.to_owned(), keys().client().display().to_string()]
}
