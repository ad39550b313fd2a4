//! `/metrics`: every name of `spec/metrics.md`, what moves each family, and Prometheus's own judgement of the
//! exposition, of the alert rules and of what the dashboard asks for.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tidegate_e2e::clients::{scp, sftp};
use tidegate_e2e::{TestServer, Tool, disk, http, secs, wait_for};

/// The application metrics of the system that Tidegate replaces, with their types.
const VERBATIM: &str = "
sftpgo_active_connections gauge
sftpgo_dataprovider_availability gauge
sftpgo_download_errors_total counter
sftpgo_download_size counter
sftpgo_downloads_total counter
sftpgo_http_client_errors_total counter
sftpgo_http_req_ok_total counter
sftpgo_http_req_total counter
sftpgo_http_server_errors_total counter
sftpgo_login_attempts_total counter
sftpgo_login_ko_total counter
sftpgo_login_ok_total counter
sftpgo_password_login_attempts_total counter
sftpgo_password_login_ko_total counter
sftpgo_password_login_ok_total counter
sftpgo_public_key_login_attempts_total counter
sftpgo_public_key_login_ko_total counter
sftpgo_public_key_login_ok_total counter
sftpgo_ssh_command_errors_total counter
sftpgo_ssh_commands_total counter
sftpgo_upload_errors_total counter
sftpgo_upload_size counter
sftpgo_uploads_total counter
";

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn promtool(args: &[&str]) -> Tool {
    Tool::new("promtool", "prometheus").args(args).dir(&repository())
}

fn exposition(server: &TestServer) -> String {
    http::request(server.http_port, "GET", "/metrics", &[], None).expect(200).body
}

/// The value of a series, as it is written.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} in\n{text}")).parse().unwrap()
}

fn families(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect()
}

#[test]
fn the_names_are_verbatim_and_prometheus_likes_the_rest() {
    let server = TestServer::start();
    let text = exposition(&server);
    let found: Vec<_> = families(&text).into_iter().filter(|line| line.starts_with("sftpgo_")).collect();
    assert_eq!(found, VERBATIM.trim().lines().collect::<Vec<_>>());
    for name in [
        "process_cpu_seconds_total counter",
        "process_open_fds gauge",
        "process_max_fds gauge",
        "process_virtual_memory_bytes gauge",
        "process_virtual_memory_max_bytes gauge",
        "process_resident_memory_bytes gauge",
        "process_start_time_seconds gauge",
        "process_threads gauge",
    ] {
        assert!(families(&text).contains(name), "{name} in\n{text}");
    }
    // promtool dislikes two names, which are the reference's and stay.
    let judged = promtool(&["check", "metrics"]).input(text.into_bytes()).run();
    let said = judged.out() + &judged.err();
    let complaints: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let expected = ["sftpgo_download_size", "sftpgo_upload_size"]
        .map(|name| format!("{name} counter metrics should have \"_total\" suffix"));
    assert_eq!(complaints, expected);
}

#[test]
fn each_family_counts_what_it_says() {
    let server =
        TestServer::builder().sftpd("enabled_ssh_commands", serde_json::json!(["scp", "md5sum"])).start();
    let ann = server.user("ann").field("quota_size", 300_000).field("upload_bandwidth", 200).create();
    let data = server.work().join("data");
    disk::write(&data, &disk::noise(1, 100_000));
    let put = format!("put {} one\nget one {}\n", data.display(), server.work().join("back").display());
    sftp(&server, "ann", &[], &put).ok();
    scp(&server, "ann", &["-O", &data.display().to_string(), "ann@127.0.0.1:two"]).ok();
    // The quota has room for 100,000 more, and only just not for this.
    let big = server.work().join("big");
    disk::write(&big, &disk::noise(2, 150_000));
    sftp(&server, "ann", &[], &format!("put {} three\n", big.display())).fails();
    // Something that is not SSH.
    drop(tidegate_e2e::server::greeting(server.port));
    let text = wait_for("the client that left is counted", secs(10), || {
        let text = exposition(&server);
        (value(&text, "tidegate_handshake_failures_total{reason=\"closed\"}") > 0.0).then_some(text)
    });
    let is = |series: &str, expected: f64| assert_eq!(value(&text, series), expected, "{series} in\n{text}");
    is("sftpgo_uploads_total", 2.0);
    is("sftpgo_upload_size", 200_000.0);
    is("sftpgo_upload_errors_total", 1.0);
    is("sftpgo_downloads_total", 1.0);
    is("sftpgo_ssh_commands_total", 1.0);
    is("sftpgo_public_key_login_ok_total", 3.0);
    is("tidegate_transfer_size_bytes_count{direction=\"upload\"}", 3.0);
    is("tidegate_transfer_size_bytes_sum{direction=\"download\"}", 100_000.0);
    is("tidegate_transfer_duration_seconds_count{direction=\"upload\"}", 3.0);
    is("tidegate_transferred_bytes_total{direction=\"download\"}", 100_000.0);
    is("tidegate_throttled_seconds_total{direction=\"download\"}", 0.0);
    is("tidegate_panics_total", 0.0);
    is("tidegate_store_errors_total{reason=\"unavailable\"}", 0.0);
    for series in [
        "tidegate_throttled_seconds_total{direction=\"upload\"}",
        "tidegate_quota_denials_total",
        "tidegate_store_seconds_count{operation=\"lookup\"}",
        "tidegate_store_seconds_count{operation=\"write\"}",
        "tidegate_store_seconds_count{operation=\"ping\"}",
        "tidegate_store_seconds_sum{operation=\"lookup\"}",
    ] {
        assert!(value(&text, series) > 0.0, "{series} in\n{text}");
    }
    drop(ann);
}

#[test]
fn the_alert_rules_are_sound() {
    promtool(&["check", "rules", "packaging/prometheus/tidegate.rules.yml"]).ok();
    promtool(&["test", "rules", "packaging/prometheus/tidegate.test.yml"]).ok();
}

#[test]
fn dashboard_and_alerts_ask_only_for_what_there_is() {
    let server = TestServer::start();
    let text = exposition(&server);
    let mut known: BTreeSet<String> = BTreeSet::new();
    for line in families(&text) {
        let (name, kind) = line.split_once(' ').unwrap();
        if kind == "histogram" {
            known.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")));
        }
        known.insert(name.to_owned());
    }
    let dashboard = fs::read_to_string(repository().join("packaging/grafana/tidegate.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut asked = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            asked.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    assert!(asked.len() > 20, "{asked:?}");
    asked.push(fs::read_to_string(repository().join("packaging/prometheus/tidegate.rules.yml")).unwrap());
    let documented = fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    for expression in &asked {
        for word in expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if ["sftpgo_", "tidegate_", "process_"].iter().any(|prefix| word.starts_with(prefix)) {
                assert!(known.contains(word), "{word} of {expression}");
            }
        }
    }
    for line in families(&text) {
        let name = line.split_once(' ').unwrap().0;
        assert!(documented.contains(&format!("`{name}")), "{name} in docs/metrics.md");
    }
}
