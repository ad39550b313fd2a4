//! Who is connected, and ending a connection.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_core::Protocol;

use crate::support::{TestServer, user_body};

const CONNECTIONS: &str = "/api/v1/connection";

#[tokio::test]
async fn connections_are_listed_and_closed() {
    let server = TestServer::start().await;
    assert_eq!(server.get(CONNECTIONS).await.expect(200).json(), json!([]));
    let mut body = user_body("anna");
    body["password"] = json!("secret");
    server.rest("POST", "/api/v1/user", Some(&body)).await.expect(200);
    let session = server.login("anna", "secret", "00ff").await;
    assert_eq!(server.get(CONNECTIONS).await.json(), json!([]), "nothing runs on it yet");

    let running = session.begin(Protocol::Scp, "scp -t /x".to_owned());
    let list = server.get(CONNECTIONS).await.expect(200).json();
    let one = &list.as_array().unwrap()[0];
    let mut expected = json!({
        "username": "anna", "connection_id": "00ff", "client_version": "SSH-2.0-OpenSSH_9.2",
        "remote_address": "192.0.2.7:50000", "protocol": "SCP", "active_transfers": [],
        "ssh_command": "scp -t /x",
    });
    for key in ["connection_time", "last_activity"] {
        let time = one[key].as_i64().unwrap();
        assert!(time > 1_700_000_000_000, "{key} is in milliseconds: {one}");
        expected[key] = json!(time);
    }
    assert_eq!(*one, expected);

    let not_found = json!({"error": "", "message": "Not Found", "status": 404});
    for id in ["00fe", "00FF", "%ff", "00ff%2F"] {
        let path = format!("{CONNECTIONS}/{id}");
        assert_eq!(server.rest("DELETE", &path, None).await.expect(404).json(), not_found, "{id}");
    }
    assert!(!session.cancelled().is_cancelled());
    let closed: Value = server.rest("DELETE", "/api/v1/connection/00ff", None).await.expect(200).json();
    assert_eq!(closed, json!({"error": "", "message": "Connection closed", "status": 200}));
    tokio::time::timeout(Duration::from_secs(5), session.cancelled().cancelled()).await.unwrap();

    drop(running);
    assert_eq!(server.get(CONNECTIONS).await.json(), json!([]));
    server.rest("DELETE", "/api/v1/connection/00ff", None).await.expect(404);
}
