//! The pages of the users in Chromium: `tests/e2e/web/users.mjs` and `form.mjs` do what somebody does there, and
//! `lib.mjs` sees to it that nothing leaves the server, violates the content security policy, fails or is
//! inaccessible on the way.

use serde_json::json;
use tidegate_e2e::browser::browse;
use tidegate_e2e::http::request;
use tidegate_e2e::server::binary;
use tidegate_e2e::{TestServer, Tool};

/// A name, and whatever else, that is meant to do harm where it is shown.
const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&\u{202e}\u{7}{{ 7*7 }}ü";

#[test]
fn a_list_of_users() {
    let server = TestServer::start();
    for number in 0..60 {
        server
            .user(&format!("user{number:02}"))
            .field("status", i64::from(number % 6 != 4))
            .field("quota_size", if number % 3 == 1 { 10_000_000_000_i64 } else { 0 })
            .field("quota_files", if number % 3 == 2 { 1000 } else { 0 })
            .field("upload_bandwidth", if number % 5 == 2 { 2048 } else { 0 })
            .field("expiration_date", if number % 7 == 3 { 1_893_456_000_000_i64 } else { 0 })
            .perms(if number % 4 == 0 { "/incoming" } else { "/" }, &["list", "upload"])
            .create();
    }
    browse(&server, "users.mjs").ok();
}

#[test]
fn the_form_of_a_user() {
    let server = TestServer::start();
    browse(&server, "form.mjs").ok();
}

#[test]
fn names_that_mean_harm() {
    let server = TestServer::start();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgzuvqgDEEIKURFp/mZUDstA6g+UdrHZAonNIRdYnS+";
    let body = json!({
        "username": HOSTILE, "status": 1, "home_dir": format!("/srv/{HOSTILE}\nx"), "password": "secret",
        "permissions": {"/": ["*"], format!("/{HOSTILE}\n"): ["list"]},
        "public_keys": [format!("{key} {HOSTILE}")],
    });
    let user = server.rest("POST", "/api/v1/user", Some(&body)).expect(200).json();
    browse(&server, "hostile.mjs").ok();
    // Opened and saved in the browser, it is what it was.
    let after = server.rest("GET", &format!("/api/v1/user/{}", user["id"]), None).expect(200).json();
    assert_eq!(after, user);
}

#[test]
fn signing_in() {
    let builder = TestServer::builder();
    let line = Tool::new(binary(), "tidegate").args(["htpasswd", "root"]).input("secret\n").ok();
    std::fs::write(builder.config_dir().join("admins"), line).unwrap();
    let server = builder.set("httpd", "auth_user_file", "admins").start();
    browse(&server, "sign-in.mjs").env("TIDEGATE_BASIC", "root:secret").ok();
}

/// The statuses and places of `spec/web-admin.md` §1, and the forms of scripts for the reference.
#[test]
fn statuses_without_a_browser() {
    let server = TestServer::start();
    let alice = server.user("alice").create();
    let get = |path: &str| request(server.http_port, "GET", path, &[], None);
    let post = |path: &str, form: &str| {
        let kind = ("Content-Type", "application/x-www-form-urlencoded");
        request(server.http_port, "POST", path, &[kind], Some(form))
    };
    for path in ["/", "/web"] {
        assert_eq!(get(path).expect(301).header("location").as_deref(), Some("/web/users"));
    }
    let edit = format!("/web/user/{}", alice.id);
    for (path, status, title) in [
        ("/web/users", 200, "Users"),
        ("/web/users?qlimit=x&page=99", 200, "Users"),
        ("/web/user", 200, "Add a new user"),
        (edit.as_str(), 200, "Update user"),
        ("/web/user/x", 400, "Bad request"),
        ("/web/user/999", 404, "Not found"),
    ] {
        let page = get(path).expect(status);
        assert!(page.body.contains(&format!("<title>Tidegate - {title}</title>")), "{path}: {}", page.body);
        assert_eq!(page.header("content-type").as_deref(), Some("text/html; charset=utf-8"));
        assert!(page.header("content-security-policy").unwrap().contains("script-src 'self'"));
        assert!(
            !page.body.contains("http://") || page.body.contains("www.w3.org"),
            "{path} names another place"
        );
    }
    assert_eq!(get("/web/nothing").expect(404).json()["message"], "Not Found");
    let page = request(server.http_port, "GET", "/web/nothing", &[("Accept", "text/html,*/*;q=0.8")], None);
    assert!(page.expect(404).body.contains("<title>Tidegate - Not found</title>"));
    get("/static/favicon.ico").expect(200);
    get("/static/nothing.css").expect(404);

    let home = server.path("homes/bob");
    let numbers = "status=1&quota_files=0&quota_size=1000&upload_bandwidth=0&download_bandwidth=0&max_sessions=0\
                   &uid=0&gid=0";
    let bob = format!(
        "username=bob&password=secret&permissions=list&permissions=download&sub_dirs_permissions=%2Fin%3Aupload\
         &expiration_date=2031-02-03+04%3A05%3A06&home_dir={}&{numbers}",
        home.display()
    );
    let added = post("/web/user", &bob).expect(303);
    assert_eq!(added.header("location").as_deref(), Some("/web/users"));
    let stored = server.rest("GET", "/api/v1/user?username=bob", None).expect(200).json()[0].clone();
    assert_eq!(stored["permissions"], json!({"/": ["list", "download"], "/in": ["upload"]}));
    assert_eq!(stored["expiration_date"], 1_927_857_906_000_i64);
    let id = stored["id"].as_i64().unwrap();
    let told = |form: &str, what: &str| {
        let page = post("/web/user", form).expect(200);
        assert!(page.body.contains(what), "{form}: {}", page.body);
    };
    told(&bob, "there is a user with this name already");
    told("a=%zz", "cannot be decoded");
    told("", "a number is missing here");
    let wrong = request(server.http_port, "POST", "/web/user", &[("Content-Type", "text/plain")], Some("a"));
    assert!(wrong.expect(200).body.contains("a number is missing here"));
    post("/web/user/x", "").expect(400);
    post("/web/user/999", "").expect(404);
    post("/web/users", "action=fly&id=1").expect(400);
    post("/web/users", "action=delete&id=x").expect(400);

    // Deleting asks first.
    let asked = post("/web/users", &format!("action=delete&id={id}")).expect(200);
    assert!(asked.body.contains("Delete this user?"));
    server.rest("GET", &format!("/api/v1/user/{id}"), None).expect(200);
    post("/web/users", &format!("action=delete&id={id}&confirm=yes")).expect(303);
    server.rest("GET", &format!("/api/v1/user/{id}"), None).expect(404);

    // A foreign page cannot send the form.
    let foreign = [("Content-Type", "application/x-www-form-urlencoded"), ("Origin", "http://evil.example")];
    request(server.http_port, "POST", "/web/user", &foreign, Some(&bob)).expect(403);
}

/// What spreadsheets would run or take apart is neither in the file of the pages nor in that of the command line.
#[test]
fn a_name_was_a_formula_in_a_spreadsheet() {
    let server = TestServer::start();
    for name in ["anna", "=cmd|'C calc'!A0", "-2+3", "@x", "+\"a\",b;c", HOSTILE, "\t=1\r\n=2"] {
        let body = json!({"username": name, "status": 1, "home_dir": "/srv/x", "password": "$6$a$b",
            "permissions": {"/": ["*"]}, "filters": {"allowed_ip": ["10.0.0.0/8"], "denied_ip": []}});
        server.rest("POST", "/api/v1/user", Some(&body)).expect(200);
    }
    let get = |query: &str| {
        request(server.http_port, "GET", &format!("/web/users/export.csv{query}"), &[], None).expect(200)
    };
    let file = get("");
    assert_eq!(file.header("content-type").as_deref(), Some("text/csv; charset=utf-8; header=present"));
    let disposition = file.header("content-disposition").unwrap();
    assert!(disposition.starts_with("attachment; filename=\"users-20"), "{disposition}");
    assert_eq!(file.header("cache-control").as_deref(), Some("no-store"));
    let read = "import csv,json,sys; print(json.dumps(list(csv.DictReader(sys.stdin))))";
    let rows = |text: &str| -> Vec<serde_json::Value> {
        let parsed = Tool::new("python3", "python3").args(["-c", read]).input(text).ok();
        serde_json::from_str(&parsed).unwrap()
    };
    let parsed = rows(&file.body);
    let mut names: Vec<_> = parsed.iter().map(|row| row["username"].as_str().unwrap()).collect();
    names.sort_unstable();
    let hostile = HOSTILE.replace('\u{202e}', "U+202E").replace('\u{7}', "U+0007");
    let mut want =
        ["'+\"a\",b;c", "'-2+3", "'=cmd|'C calc'!A0", "'@x", "'U+0009=1U+000DU+000A=2", &hostile, "anna"];
    want.sort_unstable();
    assert_eq!(names, want);
    assert_eq!(parsed[0]["allowed_ip"], "10.0.0.0/8");
    assert_eq!(file.body.matches("\r\n").count(), 8, "a line for each and the header: {}", file.body);
    assert!(!file.body.contains("$6$"), "no password leaves the server");
    let found = rows(&get("?q=ANN&status=active").body);
    assert_eq!((found.len(), &found[0]["username"]), (1, &json!("anna")));
    assert_eq!(rows(&get("?q=ann&status=inactive").body).len(), 0);

    let url = format!("http://127.0.0.1:{}", server.http_port);
    let ctl =
        |args: &[&str]| Tool::new(binary(), "tidegate").args(["ctl", "--url", &url]).args(args.to_vec());
    assert_eq!(ctl(&["users", "list", "--output", "csv"]).ok(), file.body);
    let refused = ctl(&["status", "--output", "csv"]).run();
    assert_eq!(refused.code, Some(1), "{}", refused.report());
}

/// Whoever saved last won, and the other one's change was gone without a word.
#[test]
fn the_second_of_two_forms_undid_the_first() {
    let server = TestServer::start();
    let user = server.user("anna").field("quota_files", 7).field("password", "secret").create();
    let path = format!("/web/user/{}", user.id);
    let open = || {
        let page = request(server.http_port, "GET", &path, &[], None).expect(200).body;
        let (_, rest) = page.split_once("name=\"_seen\" value=\"").expect("a digest of what is shown");
        rest.split_once('"').unwrap().0.to_owned()
    };
    let home = server.path("homes/anna").display().to_string();
    let send = |seen: &str, max_sessions: u32, quota_files: u32, action: &str| {
        let form = format!(
            "username=anna&permissions=*&status=1&quota_size=0&upload_bandwidth=0&download_bandwidth=0&uid=0&gid=0\
             &home_dir={home}&max_sessions={max_sessions}&quota_files={quota_files}&_action={action}{seen}"
        );
        let kind = ("Content-Type", "application/x-www-form-urlencoded");
        request(server.http_port, "POST", &path, &[kind], Some(&form))
    };
    let stored = || {
        let user = server.rest("GET", &format!("/api/v1/user/{}", user.id), None).expect(200).json();
        (user["max_sessions"].as_i64().unwrap(), user["quota_files"].as_i64().unwrap())
    };
    let seen = format!("&_seen={}", open());
    send(&seen, 3, 7, "").expect(303);
    let refused = send(&seen, 0, 9, "").expect(200);
    assert!(refused.body.contains("Somebody else has changed this user"), "{}", refused.body);
    assert!(refused.body.contains("name=\"quota_files\""), "what was typed is still there");
    assert_eq!(stored(), (3, 7));
    // A button that only adds a row does not make the form forget what it has seen.
    let row = send(&seen, 0, 9, "add_dir").expect(200);
    assert!(row.body.contains(&seen["&_seen=".len()..]), "{}", row.body);
    // Sent once more it is meant, and a script that does not tell what it saw always means it.
    send(&format!("&_seen={}", open()), 0, 9, "").expect(303);
    assert_eq!(stored(), (0, 9));
    send("", 1, 1, "").expect(303);
    assert_eq!(stored(), (1, 1));
}

/// A box that is sent twice is one user, not a failure.
#[test]
fn a_user_picked_twice_could_not_be_deleted_twice() {
    let server = TestServer::start();
    let user = server.user("anna").create();
    let kind = ("Content-Type", "application/x-www-form-urlencoded");
    let form = format!("action=delete&confirm=yes&id={0}&id={0}", user.id);
    request(server.http_port, "POST", "/web/users", &[kind], Some(&form)).expect(303);
    assert_eq!(server.rest("GET", "/api/v1/user", None).expect(200).json(), json!([]));
}
