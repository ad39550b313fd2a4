//! schemathesis against the real server: requests made from the description of the REST API, well formed and not,
//! and every answer held to it. All of its checks are on.
//!
//! A longer run by hand: `TIDEGATE_OPENAPI_SECONDS=600 cargo test -p tidegate-e2e --test e2e openapi::`.

use std::path::Path;

use serde_json::json;
use tidegate_e2e::clients::python_path;
use tidegate_e2e::{TestServer, Tool, disk};

const HASHED: &str = "$6$459ead56b72e44bc$uog86fUxscjt28BZxqFBE2pp2QD8P/\
    1e98MNF75Z9xJfQvOckZnQ/1YJqiq1XeytPuDieHZvDAMoP7352ELkO1";

#[test]
fn schemathesis_finds_nothing() {
    let seconds = std::env::var("TIDEGATE_OPENAPI_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds: u64 = seconds.unwrap_or(30);
    let builder = TestServer::builder().sqlite(None).set("data_provider", "users_base_dir", "/srv/base").set(
        "httpd",
        "auth_user_file",
        "admins",
    );
    disk::write(&builder.config_dir().join("admins"), format!("admin:{HASHED}\n").as_bytes());
    let server = builder.start();
    let dump = server.work().join("dump.json");
    let user = json!({"username": "dumped", "password": HASHED, "home_dir": "/srv/dumped",
        "permissions": {"/": ["*"]}});
    disk::write(&dump, json!({"users": [user]}).to_string().as_bytes());

    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("py");
    let run = Tool::new(python_path(), "python3")
        .args(["-c", "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"])
        .arg("--config-file")
        .arg(scripts.join("schemathesis.toml"))
        .arg("run")
        .arg(format!("http://127.0.0.1:{}/api/v1/openapi.json", server.http_port))
        .args(["--checks", "all", "--auth", "admin:secret", "--workers", "2", "--no-color"])
        .args(["--warnings", "off", "--max-time", &seconds.to_string()])
        .env("PYTHONPATH", &scripts)
        .env("TIDEGATE_DUMP", &dump)
        .dir(&server.work())
        .within(seconds + 120)
        .run();
    let said = run.out();
    assert!(
        run.code == Some(0),
        "schemathesis (pip package, scripts/test installs it) says:\n{}",
        run.report()
    );
    // A run that tested nothing would find nothing either.
    assert!(said.contains("No issues found"), "{said}");
    let tested = cases(&said).unwrap_or_default();
    assert!(tested > 40, "{tested} requests:\n{said}");
    println!("{tested} requests in {seconds} s");
    let panics = server.log().into_iter().filter(|line| line.get("panic").is_some());
    assert_eq!(panics.count(), 0);
}

/// The number in `819 generated, 819 passed`.
fn cases(said: &str) -> Option<u32> {
    let line = said.lines().find(|line| line.contains(" generated"))?;
    line.split_whitespace().next()?.replace(',', "").parse().ok()
}
