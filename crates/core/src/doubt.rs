//! What is done about a write of usage that the provider did not answer: the home is counted.
//!
//! The connection may have broken before the provider had the increment, or after it had counted it; what is sent
//! again could be counted twice, what is not could be missing. The books here know better, and are what limits are
//! compared with meanwhile; a scan puts what is there in the provider's place (`quota_scan.rs`). Decided in
//! `docs/decisions/0006-quota.md`.

use std::time::Duration;

use tracing::debug;

use crate::{Sessions, StoreError};

/// How long a scan has until another is begun because it brought nothing.
const RETRY: Duration = Duration::from_secs(60);

impl Sessions {
    /// Begins to count the homes of users whose usage is in doubt, once the provider answers again. Call it every
    /// so often, but not at once: what was sent should have reached the provider before, or be lost.
    pub async fn resolve_doubts(&self) {
        for (name, account) in self.in_doubt() {
            if !account.ledger.doubt_is_due(RETRY) {
                continue;
            }
            match self.shared().store.user(&name).await {
                // One that runs already does as well: its result is written after the doubt arose.
                Ok(user) => drop(self.start_scan(user, false, None)),
                Err(StoreError::NotFound) => {
                    account.ledger.forget_doubt();
                    self.forget_unneeded(&name);
                }
                Err(StoreError::Corrupt(problem)) => {
                    debug!("usage of user {name:?} is in doubt, but the record cannot be read: {problem}");
                }
                Err(error) => {
                    debug!("usage of user {name:?} is in doubt, but cannot be read: {error}");
                    account.ledger.doubt_is_open();
                    // Nobody else's can be read either.
                    return;
                }
            }
        }
    }
}
