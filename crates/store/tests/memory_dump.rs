//! The memory provider that begins with the users of a dump.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;

use tidegate_core::testing::user;
use tidegate_core::{UsedQuota, UserStore};
use tidegate_store::config::DataProvider;
use tidegate_store::{OpenError, open};

async fn load(dump: &str) -> Result<Arc<dyn UserStore>, OpenError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dump.json"), dump).unwrap();
    let section =
        DataProvider { driver: "memory".into(), name: "dump.json".into(), ..DataProvider::default() };
    open(&section.validate(dir.path()).unwrap()).await
}

#[tokio::test]
async fn users_of_a_dump_are_there() {
    let store = load(
        r#"{"users":[
            {"username":"later","home_dir":"/srv/later","status":1,"password":"$1$b5caebda$VODr/nyhGWgZaY8sJ4x05.",
             "permissions":{"/":["*"]}},
            {"id":7,"username":"anna","home_dir":"/srv/anna","status":1,"permissions":{"/":["list"]},
             "public_keys":["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgzuvqgDEEIKURFp/mZUDstA6g+UdrHZAonNIRdYnS+ a"],
             "used_quota_size":5,"used_quota_files":6,"last_quota_update":7,"last_login":8,
             "filters":{"allowed_ip":["10.0.0.0/8"],"denied_ip":[]}}]}"#,
    )
    .await
    .unwrap();
    let anna = store.user("anna").await.unwrap();
    assert_eq!((anna.id, anna.used, anna.last_login), (7, UsedQuota { size_bytes: 5, files: 6 }, 8));
    assert_eq!(anna.filters.allowed(), ["10.0.0.0/8"]);
    assert_eq!(store.user("later").await.unwrap().id, 8);
    assert_eq!(store.insert(&user("new")).await.unwrap(), 9);
    assert_eq!(load(r#"{"users":[]}"#).await.unwrap().all_users().await.unwrap(), []);
}

#[tokio::test]
async fn a_dump_that_cannot_be_used_is_named() {
    let good = r#""home_dir":"/srv/a","status":1,"permissions":{"/":["*"]},"password":"$1$b5caebda$VODr/nyhGWgZaY8sJ4x05.""#;
    for (dump, named) in [
        ("".to_owned(), "is not a JSON dump"),
        ("[]".to_owned(), "no list \"users\""),
        (r#"{"users":[{}]}"#.to_owned(), "unusable user 1"),
        (format!(r#"{{"users":[{{"username":"a",{good}}},{{"username":"a",{good}}}]}}"#), "two users \"a\""),
        (
            format!(r#"{{"users":[{{"id":1,"username":"a",{good}}},{{"id":1,"username":"b",{good}}}]}}"#),
            "two users with the id 1",
        ),
        (format!(r#"{{"users":[{{"username":"../a",{good}}}]}}"#), "username"),
        (format!(r#"{{"users":[{{"username":"a","what":1,{good}}}]}}"#), "unknown field \"what\""),
        (
            r#"{"users":[{"username":"a","home_dir":"/a","status":1,"permissions":{"/":["*"]},"password":"plain"}]}"#
                .to_owned(),
            "is not a hash",
        ),
    ] {
        match load(&dump).await {
            Ok(_) => panic!("{dump} was loaded"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(named) && text.contains("dump.json") && !text.contains("plain"), "{text}");
            }
        }
    }
    let section =
        DataProvider { driver: "memory".into(), name: "none.json".into(), ..DataProvider::default() };
    let error = open(&section.validate(std::path::Path::new("/nowhere")).unwrap()).await.err().unwrap();
    assert!(error.to_string().contains("/nowhere/none.json cannot be read"), "{error}");
}
