//! The rules of the server: users, permissions, sessions, transfers, quota and events.
//!
//! The centre knows no SSH, SQL or HTTP. Protocols come in through [`Session::files`] and touch files
//! only through [`UserFs`] and [`Transfer`]; data providers implement [`UserStore`]; where a user's files
//! live is decided by the [`OpenStorage`] that the program hands to [`Sessions`].

mod account;
mod accounts;
mod auth;
mod backup;
mod child;
pub mod config_error;
mod doubt;
mod events;
mod history;
mod ip_filter;
mod live;
mod marks;
mod measured_store;
mod metrics;
mod open_files;
mod orphans;
pub mod password;
mod permissions;
mod public_key;
mod quota;
mod quota_scan;
mod readable;
mod session;
mod tally;
#[cfg(feature = "testing")]
pub mod testing;
mod throttle;
mod transfer;
mod upload;
mod user;
mod user_fs;
mod user_query;
mod user_store;
mod watch;

pub use accounts::{AccountError, Accounts, AccountsConfig, BulkOutcome};
pub use auth::{Attempt, AuthError, Authenticator, LoginMethod, SignedKey};
pub use backup::{
    ChangedUser, Previewing, RestoreFailure, RestoreMode, RestoreOutcome, RestorePreview, RestoreReport,
    RestoredUser, Restoring, UnusableUser,
};
pub use child::{SystemPlace, SystemRun, SystemStream};
pub use config_error::ConfigError;
pub use events::{Command, CommandKind, Event, Events, HookQueue, LoginType, TransferReport};
pub use history::{Activity, Counts, Recent, SLOT, SLOTS};
pub use ip_filter::IpFilters;
pub use measured_store::MeasuredStore;
pub use metrics::{HandshakeFailure, HookResult, Metrics, StoreCall, StorePool};
pub use password::Passwords;
pub use permissions::{Permissions, Perms};
pub use public_key::{PublicKeyLine, fingerprint};
pub use quota::{Ledger, QuotaPolicy, TrackQuota};
pub use quota_scan::{ScanError, ScanInfo};
pub use session::{
    ConnectionInfo, OpenError, OpenStorage, Peer, Protocol, Running, Session, Sessions, TransferInfo,
};
pub use throttle::Throttle;
pub use transfer::{Direction, Inspection, Transfer};
pub use upload::UploadMode;
pub use user::{Filters, InvalidUser, User, UserDraft, UserPatch};
pub use user_fs::{FsPolicy, Listing, UploadOptions, UserFs};
pub use user_query::{UserPage, UserQuery, UserSort, UserStatus, UserTraits};
pub use user_store::{Order, Page, StoreError, UsageDelta, UsedQuota, UserStore};

/// Milliseconds since 1970-01-01 UTC, as the database and the API carry time.
pub type UnixMillis = i64;

/// Tells the time; tests hand in a clock that stands still.
pub type Clock = std::sync::Arc<dyn Fn() -> UnixMillis + Send + Sync>;

/// The system's clock.
pub fn system_clock() -> Clock {
    std::sync::Arc::new(|| jiff::Timestamp::now().as_millisecond())
}
