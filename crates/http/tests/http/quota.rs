//! Quota scans: started, listed, one at a time for each user.

use std::time::Duration;

use serde_json::json;

use crate::support::{Mood, TestServer};

const SCANS: &str = "/api/v1/quota_scan";

#[tokio::test]
async fn a_scan_is_listed_until_it_ends_and_replaces_the_usage() {
    let server = TestServer::start().await;
    server.store.seed("anna");
    assert_eq!(server.get(SCANS).await.expect(200).json(), json!([]));
    let started = server.rest("POST", SCANS, Some(&json!({"username": "anna"}))).await.expect(201).json();
    assert_eq!(started, json!({"error": "", "message": "Scan started", "status": 201}));
    let again =
        server.rest("POST", SCANS, Some(&json!({"username": "anna", "id": 7}))).await.expect(409).json();
    assert_eq!(again, json!({"error": "", "message": "Another scan is already in progress", "status": 409}));
    let list = server.get(SCANS).await.expect(200).json();
    let time = list[0]["start_time"].as_i64().unwrap();
    assert!(time > 1_700_000_000_000, "in milliseconds: {list}");
    assert_eq!(
        list,
        json!([{"username": "anna", "start_time": time, "scanned_files": 0, "scanned_size": 0}])
    );

    server.store.let_a_scan_read();
    let ended = async {
        while server.get(SCANS).await.json() != json!([]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the scan ends");
    assert_eq!(server.store.stored("anna").used, tidegate_core::UsedQuota::default(), "the home is empty");
    server.rest("POST", SCANS, Some(&json!({"username": "anna"}))).await.expect(201);
}

#[tokio::test]
async fn who_cannot_be_looked_up_is_not_found() {
    let server = TestServer::start().await;
    server.store.seed("anna");
    for body in [json!({"username": "zoe"}), json!({"username": ""}), json!({})] {
        let refused = server.rest("POST", SCANS, Some(&body)).await.expect(404).json();
        assert_eq!(
            refused,
            json!({"error": "Not found: no such user", "message": "", "status": 404}),
            "{body}"
        );
    }
    for body in ["", "[]", "{", "{\"username\": 1}"] {
        let refused = server.request("POST", SCANS, &[], Some(body)).await.expect(400).json();
        assert_ne!(refused["error"], json!(""), "{body}");
    }
    server.store.set(Mood::Fails);
    let refused = server.rest("POST", SCANS, Some(&json!({"username": "anna"}))).await.expect(404).json();
    assert!(!refused.to_string().contains("secret"), "{refused}");
    assert_ne!(refused["error"], json!(""));
}
