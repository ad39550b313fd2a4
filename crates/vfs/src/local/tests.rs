//! The contract, on both ways of resolving.

use std::sync::{Arc, Mutex};

use super::*;

fn ways() -> [LocalIo; 2] {
    [LocalIo::default(), LocalIo::default().without_openat2()]
}

#[tokio::test]
async fn keeps_the_contract() {
    for io in ways() {
        let homes = Mutex::new(Vec::new());
        crate::contract::suite(async || {
            let home = tempfile::tempdir().unwrap();
            let storage = LocalStorage::open(&io, home.path(), Owner::default()).unwrap();
            homes.lock().unwrap().push(home);
            Arc::new(storage) as Arc<dyn Storage>
        })
        .await;
    }
}
