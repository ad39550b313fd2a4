//! What holds for every path: routes, headers, limits, metrics, start and stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_http::{BindError, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Mood, Options, Store, TestServer, parts, settings, user_body};

#[tokio::test]
async fn version_and_provider_status() {
    let server = TestServer::start().await;
    let expected =
        json!({"version": "1.2.3", "build_date": "2026-01-31T12:00:00Z", "commit_hash": "08a6b00"});
    assert_eq!(server.get("/api/v1/version").await.expect(200).json(), expected);
    let alive = server.get("/api/v1/providerstatus").await.expect(200).json();
    assert_eq!(alive, json!({"error": "", "message": "Alive", "status": 200}));
}

#[tokio::test]
async fn unknown_paths_are_404_with_the_envelope() {
    let server = TestServer::start().await;
    for path in [
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v1/user/",
        "/api/v1/user/1/",
        "/api/v1/user/1/2",
        "/api/v1/connection/",
        "/API/v1/user",
        "/api/v1/User",
        "/api//v1/user",
        "/web/",
        "/index.html",
        "/metrics/",
        "/api/v1/version/",
        "/api/v1/%75ser",
    ] {
        for method in ["GET", "POST", "DELETE", "OPTIONS", "BREW"] {
            let answer = server.rest(method, path, None).await.expect(404).json();
            assert_eq!(
                answer,
                json!({"error": "", "message": "Not Found", "status": 404}),
                "{method} {path}"
            );
        }
        assert_eq!(server.rest("HEAD", path, None).await.status, 404, "{path}");
    }
    for path in ["/web/nothing", "/web/users/", "/web/user/1/x"] {
        let browser = [("Accept", "text/html,*/*;q=0.8")];
        let page = server.request("GET", path, &browser, None).await.expect(404);
        assert!(page.text().contains("<title>Tidegate - Not found</title>"), "{path}: {}", page.text());
    }
}

#[tokio::test]
async fn other_methods_are_405_with_the_envelope() {
    let server = TestServer::start().await;
    for (path, allowed) in [
        ("/", "GET"),
        ("/web", "GET"),
        ("/api/v1/version", "GET"),
        ("/api/v1/providerstatus", "GET"),
        ("/api/v1/connection", "GET"),
        ("/api/v1/connection/00ff", "DELETE"),
        ("/api/v1/quota_scan", "GET, POST"),
        ("/api/v1/user", "GET, POST"),
        ("/api/v1/user/1", "GET, PUT, DELETE"),
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            if allowed.split(", ").any(|allowed| allowed == method) {
                continue;
            }
            let answer = server.rest(method, path, None).await.expect(405);
            let expected = json!({"error": "", "message": "Method not allowed", "status": 405});
            assert_eq!(answer.json(), expected, "{method} {path}");
            assert_eq!(answer.header("allow").as_deref(), Some(allowed), "{method} {path}");
        }
        let head = server.rest("HEAD", path, None).await.expect(405);
        assert!(head.body.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn the_root_leads_to_the_web_pages() {
    let server = TestServer::start().await;
    for path in ["/", "/web", "/?x=1"] {
        let answer = server.get(path).await.expect(301);
        assert_eq!(answer.header("location").as_deref(), Some("/web/users"), "{path}");
    }
}

#[tokio::test]
async fn every_answer_has_the_headers_for_browsers() {
    let server = TestServer::start().await;
    for path in ["/", "/metrics", "/api/v1/user", "/api/v1/nothing", "/api/v1/user/x"] {
        let answer = server.get(path).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
            ("x-frame-options", "DENY"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name).as_deref(), Some(value), "{path}: {}", answer.head);
        }
    }
}

#[tokio::test]
async fn metrics_answer_any_method() {
    let server = TestServer::start().await;
    for method in ["GET", "POST", "PUT", "OPTIONS", "BREW"] {
        let answer = server.rest(method, "/metrics", None).await.expect(200);
        let expected = "text/plain; version=0.0.4; charset=utf-8";
        assert_eq!(answer.header("content-type").as_deref(), Some(expected), "{method}");
        let text = answer.text();
        assert!(text.contains("# TYPE sftpgo_http_req_total counter\n"), "{text}");
        if cfg!(target_os = "linux") {
            assert!(text.contains("# TYPE process_resident_memory_bytes gauge\n"), "{text}");
        }
        let mut seen = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.split_once(' ').expect("a sample is a name and a value");
            assert!(value.parse::<f64>().is_ok() && seen.insert(name.to_owned(), ()).is_none(), "{line}");
        }
    }
    server.rest("HEAD", "/metrics", None).await.expect(200);
    let packed = server.request("GET", "/metrics", &[("Accept-Encoding", "gzip")], None).await.expect(200);
    assert_eq!(packed.header("content-encoding").as_deref(), Some("gzip"));
    assert_eq!(packed.body[..2], [0x1f, 0x8b]);
}

#[tokio::test]
async fn requests_are_counted_by_status() {
    let server = TestServer::start().await;
    for path in
        ["/api/v1/version", "/api/v1/user", "/", "/api/v1/nothing", "/api/v1/user/x", "/api/v1/user/7"]
    {
        server.get(path).await;
    }
    server.store.set(Mood::Fails);
    server.get("/api/v1/user").await.expect(500);
    let text = server.metrics.encode().unwrap();
    for line in [
        "sftpgo_http_req_total 7",
        "sftpgo_http_req_ok_total 2",
        "sftpgo_http_client_errors_total 3",
        "sftpgo_http_server_errors_total 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_413() {
    let server = TestServer::start().await;
    let body = |length: usize| {
        let mut body = user_body("anna");
        body["ignored"] = json!("x".repeat(length));
        body.to_string()
    };
    let overhead = body(0).len();
    let refused = server.request("POST", "/api/v1/user", &[], Some(&body((1 << 20) - overhead + 1))).await;
    assert_eq!(refused.status, 413, "{}", refused.text());
    assert!(refused.error().contains("1048576"), "{}", refused.text());
    // A client that writes first and reads afterwards still sees the answer.
    server.request("POST", "/api/v1/user", &[], Some(&body(8 << 20))).await.expect(413);
    let chunked = format!(
        "POST /api/v1/user HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\n\
         200000\r\n{}\r\n0\r\n\r\n",
        "x".repeat(0x20_0000)
    );
    server.send(chunked.as_bytes()).await.expect(413);
    assert_eq!(server.get("/api/v1/user").await.json(), json!([]));
    server.request("POST", "/api/v1/user", &[], Some(&body((1 << 20) - overhead))).await.expect(200);
}

#[tokio::test]
async fn headers_end_at_64_kib() {
    let server = TestServer::start().await;
    let get = |length: usize| {
        format!(
            "GET /api/v1/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {}\r\n\r\n",
            "x".repeat(length)
        )
    };
    server.send(get(60 << 10).as_bytes()).await.expect(200);
    server.send(get(70 << 10).as_bytes()).await.expect(431);
}

#[tokio::test]
async fn garbage_is_400_and_harms_nobody() {
    let server = TestServer::start().await;
    for bytes in [
        &b"\0\x01\x02\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nA B: c\r\n\r\n",
    ] {
        assert_eq!(server.send(bytes).await.status, 400, "{bytes:?}");
    }
    for target in ["*", "//", "/../../etc/passwd", "/%00", "http://[/", "/?%zz"] {
        let answer = server.request("GET", target, &[], None).await;
        assert!(matches!(answer.status, 301 | 400 | 404), "{target}: {}", answer.status);
    }
    server.get("/api/v1/version").await.expect(200);
}

#[tokio::test]
async fn a_body_that_ends_early_changes_nothing() {
    let server = TestServer::start().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let body = user_body("anna").to_string();
    let head = format!(
        "POST /api/v1/user HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len() + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let _answer_or_reset = stream.read_to_end(&mut Vec::new()).await;
    assert_eq!(server.get("/api/v1/user").await.json(), json!([]));
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let server = TestServer::start().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /web HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 301 "), "{}", String::from_utf8_lossy(&answer));
    }
}

/// Linux has the whole of 127.0.0.0/8 as addresses.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn connections_that_say_nothing_kept_everybody_else_out() {
    let server = TestServer::start().await;
    let connect = async |last: u8| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        socket.connect(server.addr).await.unwrap()
    };
    let mut browser = connect(2).await;
    let mut ask = async || {
        browser.write_all(b"GET /web HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(browser.read_u8().await?);
        }
        std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 301 "))
    };
    assert!(ask().await.unwrap());
    // A few words are no request, and a body that does not come is none either.
    let words: [&[u8]; 3] = [
        b"",
        b"GET /web HTTP/1.1\r\nX",
        b"POST /api/v1/user HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{",
    ];
    let mut silent = Vec::new();
    for number in 0..400_usize {
        let mut stream = connect(3 + u8::try_from(number / 50).unwrap()).await;
        stream.write_all(words[number % 3]).await.unwrap();
        silent.push(stream);
    }
    let started = Instant::now();
    server.get("/api/v1/version").await.expect(200);
    assert!(ask().await.unwrap(), "a connection that was used before goes on");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let mut first = silent.swap_remove(0);
    let closed = tokio::time::timeout(Duration::from_secs(5), first.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "who has been silent for longest leaves");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_address_has_a_part_of_the_connections() {
    let server = TestServer::start().await;
    let mut own = Vec::new();
    for _ in 0..70 {
        own.push(TcpStream::connect(server.addr).await.unwrap());
    }
    server.get("/api/v1/version").await.expect(200);
    let mut left = 0;
    for stream in &mut own {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_millis(20), stream.read_to_end(&mut rest));
        left += usize::from(read.await.is_ok());
    }
    assert_eq!(left, 7, "64 stay, the request's own among them");
    let text = server.get("/metrics").await.expect(200).text();
    let value = |series: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} in\n{text}")).parse().unwrap()
    };
    assert!((2..=64).contains(&value("tidegate_http_connections")), "{text}");
    // One more if the request before has not left its place yet.
    assert!((7..=8).contains(&value("tidegate_http_connections_limited_total{result=\"closed\"}")), "{text}");
    assert_eq!(value("tidegate_http_connections_limited_total{result=\"refused\"}"), 0);
}

#[tokio::test]
async fn an_open_address_needs_a_decision() {
    let bind = async |bind_address, allow_unauthenticated| {
        let options = Options { bind_address, allow_unauthenticated, ..Options::default() };
        Server::bind(&settings(&options), parts(&options, &Arc::new(Store::default())).0).await
    };
    for address in ["", "0.0.0.0", "::", "192.0.2.1"] {
        let error = bind(address, false).await.unwrap_err();
        assert!(matches!(error, BindError::Unauthenticated { .. }), "{address}: {error}");
        assert!(error.to_string().contains("httpd.allow_unauthenticated"), "{error}");
    }
    for address in ["127.0.0.1", "localhost"] {
        assert!(bind(address, false).await.unwrap().addr().ip().is_loopback(), "{address}");
    }
    let open = bind("", true).await.unwrap().addr();
    assert!(open.ip().is_unspecified() && open.port() != 0);
    let error = bind("no.such.host.invalid", true).await.unwrap_err();
    assert!(error.to_string().contains("no.such.host.invalid"), "{error}");
    let error = bind("192.0.2.1", true).await.unwrap_err();
    assert!(matches!(&error, BindError::Listen { address, .. } if address == "192.0.2.1"), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_an_error() {
    let server = TestServer::start().await;
    let options = Options::default();
    let mut settings = settings(&options);
    settings.bind_port = server.addr.port();
    let error = Server::bind(&settings, parts(&options, &Arc::new(Store::default())).0).await.unwrap_err();
    assert!(error.to_string().contains(&server.addr.port().to_string()), "{error}");
}

#[tokio::test]
async fn stopping_closes_idle_connections_and_answers_what_is_under_way() {
    let mut server = TestServer::start().await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    idle.write_all(b"GET /web HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut some = [0; 16];
    idle.read_exact(&mut some).await.unwrap();
    let mut busy = TcpStream::connect(server.addr).await.unwrap();
    let body = user_body("anna").to_string();
    let head =
        format!("POST /api/v1/user HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    busy.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;

    server.shutdown.cancel();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), idle.read_to_end(&mut rest));
    closed.await.expect("an idle connection is closed").unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err(), "no new connections");
    busy.write_all(body.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    busy.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    tokio::time::timeout(Duration::from_secs(5), server.running.take().unwrap()).await.unwrap().unwrap();
    assert_eq!(server.store.stored("anna").username, "anna");
}

#[tokio::test]
async fn stopping_waits_ten_seconds_at_most() {
    let mut server = TestServer::start().await;
    let mut stuck = TcpStream::connect(server.addr).await.unwrap();
    stuck
        .write_all(b"POST /api/v1/user HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.shutdown.cancel();
    let started = Instant::now();
    tokio::time::timeout(Duration::from_secs(15), server.running.take().unwrap()).await.unwrap().unwrap();
    assert!(started.elapsed() >= Duration::from_secs(9), "{:?}", started.elapsed());
}
