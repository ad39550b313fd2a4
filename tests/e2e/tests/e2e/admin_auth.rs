//! Who may use the REST API, the metrics and the web admin: passwords, sessions, foreign pages, HTTPS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use serde_json::json;
use tidegate_e2e::http::{self, Response};
use tidegate_e2e::process::Tool;
use tidegate_e2e::server::{ServerBuilder, binary, free_port};
use tidegate_e2e::{TestServer, secs, wait_for};

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

/// Every path that answers, with a method that it answers, and `true` where no sign-in is needed.
const ROUTES: [(&str, &str, bool); 30] = [
    ("GET", "/web/login", true),
    ("POST", "/web/login", true),
    ("GET", "/static/app.css", true),
    ("GET", "/", false),
    ("GET", "/web", false),
    ("GET", "/web/dashboard", false),
    ("GET", "/web/users", false),
    ("GET", "/web/user", false),
    ("POST", "/web/user", false),
    ("GET", "/web/user/1", false),
    ("GET", "/web/connections", false),
    ("GET", "/web/backup", false),
    ("POST", "/web/backup/upload", false),
    ("GET", "/web/dashboard/live", false),
    ("POST", "/web/users", false),
    ("GET", "/web/nothing", false),
    ("POST", "/web/logout", false),
    ("GET", "/metrics", false),
    ("POST", "/metrics", false),
    ("GET", "/api/v1/version", false),
    ("GET", "/api/v1/providerstatus", false),
    ("GET", "/api/v1/openapi.json", false),
    ("GET", "/api/v1/connection", false),
    ("GET", "/api/v1/quota_scan", false),
    ("GET", "/api/v1/user", false),
    ("DELETE", "/api/v1/user/1", false),
    ("GET", "/api/v1/docs", false),
    ("GET", "/nothing", false),
    ("GET", "/api/v1/dumpdata?output_file=x.json", false),
    ("GET", "/api/v1/loaddata?input_file=x.json", false),
];

fn hash(kind: &str, password: &str) -> String {
    Tool::new("openssl", "openssl")
        .args(["passwd", kind, "-salt", "saltsalt", password])
        .ok()
        .trim()
        .to_owned()
}

/// A server with the administrators anna (`secret`, by `tidegate htpasswd`) and ci (`token`, SHA-crypt).
fn guarded() -> ServerBuilder {
    let builder = TestServer::builder().set("httpd", "auth_user_file", "admins");
    let anna = Tool::new(binary(), "tidegate").args(["htpasswd", "anna"]).input("secret\n").ok();
    assert!(anna.starts_with("anna:$argon2id$") && anna.ends_with('\n'), "{anna}");
    write(
        &builder.config_dir().join("admins"),
        &format!("# who may come in\n{anna}ci:{}\n", hash("-6", "token")),
    );
    builder
}

/// Replaces a file at once, as an editor does.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", Tool::new("openssl", "openssl").args(["base64", "-A"]).input(credentials).ok().trim())
}

fn get(server: &TestServer, path: &str, headers: &[(&str, &str)]) -> Response {
    http::request(server.http_port, "GET", path, headers, None)
}

fn post_form(server: &TestServer, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let headers = [headers, &[FORM]].concat();
    http::request(server.http_port, "POST", path, &headers, Some(body))
}

/// A session: the cookie as it is sent back, and its CSRF token.
struct Session {
    cookie: String,
    csrf: String,
}

fn sign_in(server: &TestServer, name: &str, password: &str) -> Session {
    let answer =
        post_form(server, "/web/login", &[], &format!("username={name}&password={password}")).expect(303);
    assert_eq!(answer.header("location").as_deref(), Some("/web/users"));
    let set = answer.header("set-cookie").expect("a cookie");
    let (cookie, attributes) = set.split_once(';').unwrap();
    assert_eq!(attributes, " Path=/; HttpOnly; SameSite=Strict", "{set}");
    let page = get(server, "/web/users", &[("Cookie", cookie)]).expect(200).body;
    let (_, rest) = page.split_once("<meta name=\"csrf-token\" content=\"").expect("a token");
    let csrf = rest.split('"').next().unwrap().to_owned();
    assert!(csrf.len() >= 32, "{csrf:?}");
    Session { cookie: cookie.to_owned(), csrf }
}

#[test]
fn nothing_but_the_open_list_without_a_sign_in() {
    let server = guarded().start();
    for (method, path, open) in ROUTES {
        let answer = http::request(server.http_port, method, path, &[], None);
        let is_page = path == "/" || path.starts_with("/web");
        match (open, is_page) {
            (true, _) => assert!(matches!(answer.status, 200 | 400), "{method} {path}: {answer:?}"),
            (false, true) => {
                assert_eq!(answer.status, 303, "{method} {path}: {answer:?}");
                assert!(answer.header("location").unwrap().starts_with("/web/login"), "{answer:?}");
            }
            (false, false) => {
                assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
                let challenge = answer.header("www-authenticate");
                assert_eq!(challenge.as_deref(), Some("Basic realm=\"Tidegate\", charset=\"UTF-8\""));
            }
        }
        assert_eq!(
            answer.header("cache-control").as_deref() == Some("no-store"),
            !path.starts_with("/static")
        );
    }
    let listed =
        get(&server, "/api/v1/openapi.json", &[("Authorization", &basic("ci:token"))]).expect(200).json();
    for (path, methods) in listed["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{id}", "1").replace("{connectionID}", "1");
            let path =
                if path.starts_with("/api/") || path == "/metrics" { path } else { format!("/api/v1{path}") };
            let answer = http::request(server.http_port, &method.to_uppercase(), &path, &[], None);
            assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
        }
    }
    assert_eq!(
        get(&server, "/web/users?q=a&page=2", &[]).header("location").as_deref(),
        Some("/web/login?next=%2Fweb%2Fusers%3Fq%3Da%26page%3D2")
    );
    let part =
        get(&server, "/web/users", &[("HX-Request", "true"), ("HX-Current-URL", "http://x/web/users?q=1")]);
    assert_eq!(
        part.expect(401).header("hx-redirect").as_deref(),
        Some("/web/login?next=%2Fweb%2Fusers%3Fq%3D1")
    );
}

#[test]
fn programs_send_name_and_password() {
    let server = guarded().start();
    let with = |authorization: &str| get(&server, "/api/v1/user", &[("Authorization", authorization)]).status;
    assert_eq!(with(&basic("anna:secret")), 200);
    assert_eq!(with(&basic("ci:token")), 200);
    assert_eq!(with(&basic("ci:wrong")), 401);
    assert_eq!(with(&basic("ci:")), 401);
    assert_eq!(with(&basic("nobody:token")), 401);
    assert_eq!(with("Bearer token"), 401);
    let ci = basic("ci:token");
    let body = json!({"username": "alice", "password": "secret", "home_dir": "/srv/alice", "permissions": {"/": ["*"]}, "status": 1});
    let post = |headers: &[(&str, &str)]| {
        http::request(server.http_port, "POST", "/api/v1/user", headers, Some(&body.to_string())).status
    };
    assert_eq!(post(&[("Authorization", &ci), ("Origin", "http://evil.example")]), 403);
    assert_eq!(post(&[("Authorization", &ci)]), 200);
    let metrics = get(&server, "/metrics", &[("Authorization", &ci)]).expect(200).body;
    for line in
        ["tidegate_admin_logins_total{result=\"ok\"} 2", "tidegate_admin_logins_total{result=\"failed\"} 3"]
    {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    get(&server, "/web/users", &[("Authorization", &ci)]).expect(303);
    let line = server.wait_log(&[("sender", json!("connection_failed")), ("username", json!("nobody"))]);
    assert_eq!((&line["client_ip"], &line["login_type"]), (&json!("127.0.0.1"), &json!("http_basic")));
    server.wait_log(&[("sender", json!("httpd")), ("user", json!("ci")), ("method", json!("POST"))]);
    assert!(!server.raw_log().concat().contains("token"), "a password in the log");
}

#[test]
fn a_session_from_sign_in_to_sign_out() {
    let server = guarded().start();
    let wrong = post_form(
        &server,
        "/web/login",
        &[],
        "username=anna%3Cb%3E&password=wrong&next=%2Fweb%2Fconnections",
    )
    .expect(401);
    assert!(wrong.body.contains("anna&lt;b&gt;") && !wrong.body.contains("anna<b>"), "{}", wrong.body);
    assert!(wrong.body.contains("Name or password are wrong."), "{}", wrong.body);
    assert!(wrong.header("set-cookie").is_none());
    post_form(&server, "/web/login", &[], "username=anna").expect(400);
    for (next, expected) in [
        ("%2Fweb%2Fconnections%3Fx%3D1", "/web/connections?x=1"),
        ("https%3A%2F%2Fevil.example", "/web/users"),
        ("%2F%2Fevil.example", "/web/users"),
        ("%2F%5Cevil.example", "/web/users"),
        ("%2Fweb%2Flogout", "/web/users"),
    ] {
        let answer =
            post_form(&server, "/web/login", &[], &format!("username=ci&password=token&next={next}"));
        assert_eq!(answer.expect(303).header("location").as_deref(), Some(expected), "{next}");
    }

    let session = sign_in(&server, "anna", "secret");
    let cookie = ("Cookie", session.cookie.as_str());
    let page = get(&server, "/web/users", &[cookie]).expect(200);
    assert!(page.body.contains("anna") && page.body.contains("Sign out"), "{}", page.body);
    get(&server, "/api/v1/user", &[cookie]).expect(200);
    assert_eq!(
        get(&server, "/web/login?next=%2Fweb%2Fconnections", &[cookie])
            .expect(303)
            .header("location")
            .as_deref(),
        Some("/web/connections")
    );

    // A second sign-in in the same browser has another id, and the first one is over.
    let again = post_form(&server, "/web/login", &[cookie], "username=anna&password=secret").expect(303);
    let second = again.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert_ne!(second, session.cookie);
    get(&server, "/web/users", &[cookie]).expect(303);
    get(&server, "/web/users", &[("Cookie", &second)]).expect(200);

    let session = sign_in(&server, "anna", "secret");
    let cookie = ("Cookie", session.cookie.as_str());
    post_form(&server, "/web/logout", &[cookie], "").expect(403);
    get(&server, "/web/users", &[cookie]).expect(200);
    let out = post_form(&server, "/web/logout", &[cookie], &format!("_csrf={}", session.csrf)).expect(303);
    assert_eq!(out.header("location").as_deref(), Some("/web/login"));
    assert!(out.header("set-cookie").unwrap().ends_with("; Max-Age=0"), "{out:?}");
    get(&server, "/web/users", &[cookie]).expect(303);
    get(&server, "/api/v1/user", &[cookie]).expect(401);
    let (name, value) = second.split_once('=').unwrap();
    // In the middle: the last character carries two bits only, and chance would write the right one.
    let other = if &value[40..41] == "A" { "B" } else { "A" };
    let changed = format!("{name}={}{other}{}", &value[..40], &value[41..]);
    for forged in [changed, format!("{name}="), format!("{second}; {second}")] {
        get(&server, "/web/users", &[("Cookie", &forged)]).expect(303);
    }
}

#[test]
fn what_a_page_still_receives_ends_with_the_session() {
    let server = guarded().start();
    let session = sign_in(&server, "anna", "secret");
    let mut live = TcpStream::connect(("127.0.0.1", server.http_port)).unwrap();
    live.set_read_timeout(Some(secs(20))).unwrap();
    let head = "GET /web/dashboard/live HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nConnection: close\r\n";
    live.write_all(format!("{head}Cookie: {}\r\n\r\n", session.cookie).as_bytes()).unwrap();
    let mut received = vec![0; 4096];
    let length = live.read(&mut received).unwrap();
    assert!(
        received[..length].starts_with(b"HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(&received[..length])
    );
    let cookie = ("Cookie", session.cookie.as_str());
    post_form(&server, "/web/logout", &[cookie], &format!("_csrf={}", session.csrf)).expect(303);
    live.read_to_end(&mut received).expect("the stream ends");
}

#[test]
fn a_request_with_a_cookie_needs_the_token() {
    let server = guarded().start();
    let session = sign_in(&server, "anna", "secret");
    let other = sign_in(&server, "ci", "token");
    let cookie = ("Cookie", session.cookie.as_str());
    let delete = |headers: &[(&str, &str)], body: Option<&str>| {
        http::request(server.http_port, "DELETE", "/api/v1/user/1", &[&[cookie], headers].concat(), body)
            .status
    };
    let right = session.csrf.as_str();
    let short = &right[1..];
    for (what, token) in [("none", ""), ("another session's", other.csrf.as_str()), ("cut", short)] {
        assert_eq!(delete(&[("X-CSRF-Token", token)], None), 403, "{what}");
        assert_eq!(delete(&[FORM], Some(&format!("_csrf={token}"))), 403, "{what}");
    }
    assert_eq!(delete(&[], None), 403);
    assert_eq!(delete(&[], Some(&json!({"_csrf": right}).to_string())), 403, "JSON is no form");
    let multipart =
        format!("--b\r\nContent-Disposition: form-data; name=\"_csrf\"\r\n\r\n{right}\r\n--b--\r\n");
    assert_eq!(delete(&[("Content-Type", "multipart/form-data; boundary=b")], Some(&multipart)), 403);
    assert_eq!(delete(&[("X-CSRF-Token", right)], None), 404);
    assert_eq!(delete(&[FORM], Some(&format!("_csrf={right}"))), 404);
    assert_eq!(delete(&[("X-CSRF-Token", right), ("Origin", "http://evil.example")], None), 403);
    assert_eq!(delete(&[("X-CSRF-Token", right), ("Sec-Fetch-Site", "cross-site")], None), 403);
    let foreign =
        post_form(&server, "/web/login", &[("Origin", "http://evil.example")], "username=ci&password=token");
    assert_eq!(foreign.status, 403, "nobody else may sign a browser in");
}

#[test]
fn whoever_guesses_has_to_wait() {
    let server = guarded().start();
    let session = sign_in(&server, "ci", "token");
    let guess = |n: usize| {
        let authorization = basic(&format!("ci:guess{n}"));
        get(
            &server,
            "/api/v1/user",
            &[("Authorization", &authorization), ("X-Forwarded-For", &format!("192.0.2.{n}"))],
        )
    };
    let status: Vec<_> = (0..10).map(|n| guess(n).status).collect();
    assert_eq!(status, [401; 10]);
    let limited = guess(10).expect(429);
    let wait: u64 = limited.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{limited:?}");
    let right = get(&server, "/api/v1/user", &[("Authorization", &basic("ci:token"))]);
    assert_eq!(right.status, 429, "an answer would tell a right guess from a wrong one");
    let form = post_form(&server, "/web/login", &[], "username=ci&password=token").expect(429);
    assert!(
        form.body.contains("Too many failed attempts") && form.header("retry-after").is_some(),
        "{}",
        form.body
    );
    get(&server, "/web/users", &[("Cookie", &session.cookie)]).expect(200);
    server.wait_log(&[("sender", json!("connection_failed")), ("error", json!("Too many attempts"))]);
}

#[test]
fn a_script_may_begin_with_many_requests_at_once() {
    let server = guarded().start();
    let anna = basic("anna:secret");
    std::thread::scope(|scope| {
        let one = || get(&server, "/api/v1/version", &[("Authorization", &anna)]).status;
        let all: Vec<_> = (0..30).map(|_| scope.spawn(one)).collect();
        assert_eq!(all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>(), [200; 30]);
    });
}

#[test]
fn a_trusted_proxy_names_the_client() {
    let server = guarded().set("httpd", "trusted_proxies", json!(["127.0.0.0/8"])).start();
    let try_from = |from: &str, credentials: &str| {
        let headers = [("Authorization", &*basic(credentials)), ("X-Forwarded-For", from)];
        get(&server, "/api/v1/user", &headers).status
    };
    for n in 0..10 {
        assert_eq!(try_from("198.51.100.1", &format!("ci:guess{n}")), 401);
    }
    assert_eq!(try_from("198.51.100.1", "ci:token"), 429);
    assert_eq!(try_from("203.0.113.7, 198.51.100.1", "ci:token"), 429, "the first element is anybody's word");
    assert_eq!(try_from("198.51.100.2", "ci:token"), 200);
    let headers = [("X-Forwarded-Proto", "https")];
    let answer = post_form(&server, "/web/login", &headers, "username=ci&password=token").expect(303);
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-tidegate_") && cookie.contains("; Secure"), "{cookie}");
    assert_eq!(answer.header("strict-transport-security").as_deref(), Some("max-age=31536000"));
    let line = server.wait_log(&[("sender", json!("httpd")), ("remote_addr", json!("198.51.100.2"))]);
    assert!(line["peer_addr"].as_str().unwrap().starts_with("127.0.0.1:"), "{line:?}");
}

#[test]
fn the_user_file_is_read_again() {
    let server = guarded().start();
    let file = server.path("conf/admins");
    let anna = sign_in(&server, "anna", "secret");
    let ci = sign_in(&server, "ci", "token");
    let page = |session: &Session| get(&server, "/web/users", &[("Cookie", &session.cookie)]).status;
    let can =
        |credentials: &str| get(&server, "/api/v1/user", &[("Authorization", &basic(credentials))]).status;
    assert_eq!(can("ci:token"), 200);

    write(&file, &format!("ci:{}\nanna:clear\n", hash("-6", "token")));
    server.wait_log(&[("sender", json!("httpd")), ("level", json!("error"))]);
    let error = server.log().into_iter().find(|line| line["level"] == "error").unwrap();
    let text = error["message"].as_str().unwrap();
    assert!(text.contains("line 2, user \\\"anna\\\"") || text.contains("line 2, user \"anna\""), "{text}");
    assert!(!text.contains("clear;") && !text.contains("clear\""), "{text}");
    assert_eq!((page(&anna), page(&ci), can("ci:token")), (200, 200, 200), "a broken file changes nothing");

    write(&file, &format!("ci:{}\nbob:{}\n", hash("-6", "token"), hash("-5", "builder")));
    // Not by trying bob's password: too many failures would shut this address out.
    wait_for("anna to be signed out", secs(10), || (page(&anna) == 303).then_some(()));
    assert_eq!((can("bob:builder"), page(&ci)), (200, 200));

    write(&file, &format!("ci:{}\n", hash("-6", "changed")));
    wait_for("ci to be signed out", secs(10), || (page(&ci) == 303).then_some(()));
    assert_eq!((can("ci:token"), can("ci:changed")), (401, 200), "a remembered password is forgotten");
}

#[test]
fn without_a_sign_in_every_request_must_name_this_server() {
    let server = TestServer::start();
    for path in ["/web/users", "/api/v1/user", "/metrics"] {
        get(&server, path, &[]).expect(200);
        get(&server, path, &[("Host", "localhost")]).expect(200);
        // DNS rebinding: the browser believes that evil.example is this machine.
        get(&server, path, &[("Host", "evil.example")]).expect(403);
        get(&server, path, &[("Origin", "http://evil.example")]).expect(403);
    }
    let login = get(&server, "/web/login", &[]).expect(303);
    assert_eq!(login.header("location").as_deref(), Some("/web/users"), "nobody needs to sign in");

    let origins = json!(["https://admin.example"]);
    let server = TestServer::builder().set("httpd", "trusted_origins", origins).start();
    get(&server, "/api/v1/user", &[("Host", "admin.example")]).expect(200);
    get(&server, "/api/v1/user", &[("Host", "evil.example")]).expect(403);
    let delete = |origin: &str| {
        http::request(server.http_port, "DELETE", "/api/v1/user/1", &[("Origin", origin)], None).status
    };
    assert_eq!((delete("https://admin.example"), delete("https://evil.example")), (404, 403));
}

#[test]
fn every_answer_tells_browsers_what_not_to_do() {
    let server = guarded().start();
    for path in ["/web/login", "/api/v1/user", "/nothing", "/static/app.css"] {
        let answer = get(&server, path, &[]);
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name).as_deref(), Some(value), "{path}: {name}");
        }
        // A browser that sends no referrer sends `Origin: null` with the forms of a page.
        let referrer = if path == "/web/login" { "same-origin" } else { "no-referrer" };
        assert_eq!(answer.header("referrer-policy").as_deref(), Some(referrer), "{path}");
        let csp = answer.header("content-security-policy").unwrap();
        assert!(csp.starts_with("default-src 'none'") && csp.contains("frame-ancestors 'none'"), "{csp}");
        assert!(!csp.contains("unsafe") && !csp.contains('*'), "{csp}");
        assert!(answer.header("permissions-policy").is_some());
        assert!(answer.header("strict-transport-security").is_none(), "plain HTTP");
    }
}

/// Makes a certificate for `localhost` with this serial number.
fn certificate(dir: &Path, serial: u32) -> (PathBuf, PathBuf) {
    let (cert, key) = (dir.join(format!("cert{serial}.pem")), dir.join(format!("key{serial}.pem")));
    Tool::new("openssl", "openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-set_serial", &serial.to_string(), "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .ok();
    (cert, key)
}

#[test]
fn https_with_a_certificate_that_changes() {
    let builder = guarded().set("httpd", "certificate_file", "cert.pem").set(
        "httpd",
        "certificate_key_file",
        "key.pem",
    );
    let conf = builder.config_dir();
    let take = |serial: u32| {
        let (cert, key) = certificate(&conf, serial);
        std::fs::rename(cert, conf.join("cert.pem")).unwrap();
        std::fs::rename(key, conf.join("key.pem")).unwrap();
    };
    take(1001);
    let server = builder.start();
    let url = |path: &str| format!("https://localhost:{}{path}", server.http_port);
    let curl = |args: &[&str]| {
        let tool = Tool::new("curl", "curl").args(["-sS", "--cacert"]).arg(conf.join("cert.pem"));
        tool.args(["--noproxy", "*"]).args(args).run()
    };
    let version = curl(&["-i", "-u", "ci:token", &url("/api/v1/version")]);
    version.expect_success();
    assert!(
        version.out().contains("HTTP/1.1 200 ")
            && version.out().contains("strict-transport-security: max-age=31536000"),
        "{}",
        version.report()
    );
    for tls in ["1.2", "1.3"] {
        let said = curl(&["--tls-max", tls, "-u", "ci:token", &url("/api/v1/version")]);
        assert!(said.out().contains("version"), "TLS {tls}: {}", said.report());
    }
    assert_ne!(curl(&["--tls-max", "1.1", "-u", "ci:token", &url("/api/v1/version")]).code, Some(0));

    // The cookie stays with this host and with HTTPS.
    let signed_in = curl(&["-i", "-d", "username=ci&password=token", &url("/web/login")]).out();
    let cookie = signed_in.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    assert!(cookie.starts_with("__Host-tidegate_") && cookie.contains("; Secure"), "{cookie}");
    let cookie = format!("Cookie: {}", cookie.split(';').next().unwrap());
    let page = curl(&["-H", &cookie, &url("/web/users")]);
    assert!(page.out().contains("Sign out"), "{}", page.report());

    // Plain HTTP is told where it is; a client that says nothing holds up nobody.
    let mut silent = TcpStream::connect(("127.0.0.1", server.http_port)).unwrap();
    let plain = get(&server, "/web/users", &[]).expect(400);
    assert!(plain.body.contains("https://"), "{plain:?}");
    assert_eq!(plain.header("content-length"), Some(plain.body.len().to_string()));
    let mut garbage = TcpStream::connect(("127.0.0.1", server.http_port)).unwrap();
    garbage.write_all(b"\x16\x03\x01\x00\x05hello").unwrap();
    let _alert_or_reset = garbage.read_to_end(&mut Vec::new());
    // Nor do many of them: the first ones give their places to who comes.
    let _silent: Vec<_> =
        (0..80).map(|_| TcpStream::connect(("127.0.0.1", server.http_port)).unwrap()).collect();
    curl(&["--max-time", "5", "-u", "ci:token", &url("/api/v1/version")]).expect_success();
    silent.set_read_timeout(Some(secs(5))).unwrap();
    assert_eq!(silent.read(&mut [0; 1]).unwrap_or(0), 0, "the first one was sent away");

    let serial = || {
        let tool = Tool::new("openssl", "openssl").args(["s_client", "-connect"]);
        let shown = tool.arg(format!("127.0.0.1:{}", server.http_port)).input("").run().out();
        Tool::new("openssl", "openssl").args(["x509", "-noout", "-serial"]).input(shown).ok()
    };
    let number = |serial: u32| format!("serial={serial:04X}\n");
    assert_eq!(serial(), number(1001));
    take(1002);
    wait_for("the new certificate", secs(10), || (serial() == number(1002)).then_some(()));
    write(&conf.join("cert.pem"), "no certificate\n");
    server.wait_log(&[("sender", json!("httpd")), ("level", json!("error"))]);
    assert_eq!(serial(), number(1002), "a broken file changes nothing");
    take(1003);
    wait_for("the third certificate", secs(10), || (serial() == number(1003)).then_some(()));
    silent.set_read_timeout(Some(secs(60))).unwrap();
    assert_eq!(silent.read_to_end(&mut Vec::new()).expect("a handshake that never begins is given up"), 0);
}

/// Starting with these options must fail and say these words.
fn refused(options: &serde_json::Value, files: &[(&str, &str)], words: &[&str]) {
    let dir = tempfile::Builder::new().prefix("tidegate-e2e-admin-").tempdir().unwrap();
    let mut httpd = json!({"bind_port": free_port(), "bind_address": "127.0.0.1"});
    httpd.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    let config = json!({
        "sftpd": {"bind_port": free_port(), "bind_address": "127.0.0.1"},
        "httpd": httpd,
        "data_provider": {"driver": "memory", "name": ""},
    });
    std::fs::write(dir.path().join("sftpgo.json"), config.to_string()).unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let done = Tool::new(binary(), "tidegate")
        .dir(dir.path())
        .env("HOME", dir.path())
        .args(["serve", "-c", ".", "-l", "log"])
        .within(30)
        .run();
    assert_eq!(done.code, Some(1), "{config}: {}", done.report());
    let said = done.out() + &done.err();
    for word in words {
        assert!(said.contains(word), "{config}: {word:?} is missing in: {}", done.report());
    }
}

#[test]
fn what_cannot_work_stops_the_start_and_is_named() {
    let users = json!({"auth_user_file": "admins"});
    refused(&users, &[], &["httpd.auth_user_file", "admins", "cannot be read"]);
    refused(&users, &[("admins", "")], &["httpd.auth_user_file", "names no user"]);
    let md5 = format!("a:{}\n", hash("-apr1", "secret"));
    refused(&users, &[("admins", &md5)], &["line 1", "user \"a\"", "MD5", "tidegate htpasswd"]);
    refused(&users, &[("admins", "# x\nbob:secret\n")], &["line 2", "user \"bob\"", "in clear"]);
    refused(&json!({"certificate_file": "cert.pem"}), &[], &["httpd.certificate_key_file"]);
    refused(&json!({"certificate_key_file": "key.pem"}), &[], &["httpd.certificate_file"]);
    let both = json!({"certificate_file": "cert.pem", "certificate_key_file": "key.pem"});
    refused(&both, &[], &["httpd.certificate_file", "cert.pem", "cannot be read"]);
    let dir = tempfile::Builder::new().prefix("tidegate-e2e-admin-").tempdir().unwrap();
    let (cert, _) = certificate(dir.path(), 1);
    let (_, key) = certificate(dir.path(), 2);
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    let files = [("cert.pem", &*text(&cert)), ("key.pem", &*text(&key))];
    refused(
        &both,
        &files,
        &["httpd.certificate_file", "httpd.certificate_key_file", "cannot be used together"],
    );
    refused(&json!({"trusted_origins": ["admin.example"]}), &[], &["httpd.trusted_origins", "admin.example"]);
    refused(&json!({"trusted_proxies": ["proxy.example"]}), &[], &["httpd.trusted_proxies", "proxy.example"]);
    refused(
        &json!({"bind_address": "0.0.0.0"}),
        &[],
        &["httpd.auth_user_file", "httpd.allow_unauthenticated"],
    );
}

#[test]
fn an_open_address_with_a_sign_in_but_without_https_is_warned_about() {
    let server = guarded().set("httpd", "bind_address", "0.0.0.0").start();
    get(&server, "/api/v1/user", &[("Authorization", &basic("ci:token"))]).expect(200);
    let warned = server.console();
    assert!(warned.contains("without HTTPS") && warned.contains("httpd.certificate_file"), "{warned}");
}

#[test]
fn htpasswd_refuses_what_no_login_takes() {
    for (name, password, word) in [
        ("anna", "\n", "empty"),
        ("an:na", "secret\n", "name"),
        ("", "secret\n", "name"),
        ("anna", "$6$salt$hash\n", "begins like a hash"),
        ("anna", "a\u{7}b\n", "control characters"),
    ] {
        let done = Tool::new(binary(), "tidegate").args(["htpasswd", name]).input(password).run();
        assert_eq!(done.code, Some(1), "{name:?} {password:?}: {}", done.report());
        assert!(done.out().is_empty() && done.err().contains(word), "{}", done.report());
    }
}
