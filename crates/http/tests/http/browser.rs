//! What a foreign web page could make a browser send is refused, through the real listener. The table of all
//! forms of `Host` and `Origin` is with the code, in `src/guard.rs`.

use serde_json::json;

use crate::support::{Options, TestServer, user_body};

#[tokio::test]
async fn state_changing_requests_must_name_this_server() {
    let server = TestServer::start().await;
    let body = user_body("anna").to_string();
    let own = format!("127.0.0.1:{}", server.addr.port());
    let own_origin = format!("http://{own}");
    for headers in [
        &[("Origin", "http://evil.example")][..],
        &[("Origin", "null")],
        &[("Origin", "http://localhost:1")],
        &[("Host", "evil.example")],
        &[("Host", "evil.example"), ("Origin", "http://evil.example")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Host", "localhost"), ("Host", "evil.example")],
    ] {
        for (method, path) in [
            ("POST", "/api/v1/user"),
            ("PUT", "/api/v1/user/1"),
            ("DELETE", "/api/v1/user/1"),
            ("DELETE", "/api/v1/connection/00ff"),
        ] {
            let answer = server.request(method, path, headers, Some(&body)).await;
            assert_eq!(answer.status, 403, "{method} {path} {headers:?}: {}", answer.text());
            assert!(!answer.error().is_empty());
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
        assert_eq!(server.get("/api/v1/user").await.json(), json!([]), "{headers:?}");
    }
    server
        .request("POST", "/api/v1/user", &[("Host", &own), ("Origin", &own_origin)], Some(&body))
        .await
        .expect(200);
    server.request("DELETE", "/api/v1/user/1", &[("Sec-Fetch-Site", "same-origin")], None).await.expect(200);
}

#[tokio::test]
async fn http_1_0_needs_no_host_and_http_1_1_does() {
    let server = TestServer::start().await;
    let body = user_body("anna").to_string();
    let post = |version: &str| {
        format!("POST /api/v1/user {version}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let refused =
        server.send(post("HTTP/1.1").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    server.send(post("HTTP/1.0").as_bytes()).await.expect(200);
}

#[tokio::test]
async fn an_open_listener_takes_any_host_but_no_foreign_origin() {
    let options = Options { bind_address: "", allow_unauthenticated: true, ..Options::default() };
    let server = TestServer::with(options).await;
    let mut local = server.addr;
    local.set_ip([127, 0, 0, 1].into());
    let server = {
        let mut server = server;
        server.addr = local;
        server
    };
    let delete = async |headers: &[(&str, &str)]| {
        server.request("DELETE", "/api/v1/user/1", headers, None).await.status
    };
    assert_eq!(delete(&[("Host", "files.example")]).await, 404);
    assert_eq!(delete(&[("Host", "files.example"), ("Origin", "https://files.example")]).await, 404);
    assert_eq!(delete(&[("Host", "files.example"), ("Origin", "https://evil.example")]).await, 403);
}
