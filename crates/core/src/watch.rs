//! What programs do to a home while they run: it is counted again and again, and who has passed a limit is
//! told. Programs of the system do not ask before they write, so this is how quota reaches them.
//!
//! A count reads every directory of the home once, as a scan does, and takes no lock: other sessions do not
//! notice. The books say what should be there; what is there beyond that is the programs' doing and is
//! charged to them, so that everybody sees it. How long the next count may wait follows from what is left: no
//! program fills it faster than [`FASTEST_BYTES`] and [`FASTEST_FILES`] allow. A count that costs much is
//! made less often.
//!
//! A count is not one moment: a file that is renamed meanwhile may be met twice. So the program is held
//! still when a limit seems to be passed, and what is counted then decides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_vfs::{FsError, Links, Storage, VPath};
use tokio::time::sleep;
use tracing::warn;

use crate::account::Account;
use crate::child::{Charge, SystemRun};
use crate::open_files::signed;
use crate::readable::{self, BATCH, TOO_DEEP};
use crate::upload::is_temporary;
use crate::{Ledger, UsedQuota};

/// More than any program writes in a second.
const FASTEST_BYTES: f64 = 4e9;

/// More than any program creates in a second.
const FASTEST_FILES: f64 = 200_000.0;

/// Between two counts, however little is left.
const SHORTEST: Duration = Duration::from_millis(20);

/// Between two counts, however much is left: others may need it meanwhile.
const LONGEST: Duration = Duration::from_secs(2);

/// A count rests at least for this many times what it took, so that it costs a quarter of a processor.
const REST: u32 = 3;

impl SystemRun {
    /// Waits until the program has passed a limit of the user or the home cannot be counted, and says so. `hold`
    /// is called with `true` to hold the program still, and with `false` to let it go on; when this ends because
    /// of a limit, the program is held. Does not end for one that changes nothing.
    pub async fn watch(&self, hold: impl Fn(bool)) -> FsError {
        let (Some(charge), Ok(storage)) = (self.charge(), self.session().storage()) else {
            return std::future::pending().await;
        };
        let storage = storage.without_links();
        let account = self.session().account();
        let mut pause = SHORTEST;
        loop {
            sleep(pause).await;
            if account.ledger.limits().is_none() {
                // An administrator may set one.
                pause = LONGEST;
                continue;
            }
            let began = Instant::now();
            match check(charge, account, &storage, &hold).await {
                Ok(false) => {}
                Ok(true) => {
                    account.ledger.denied();
                    return FsError::QuotaExceeded;
                }
                Err(error) => return error,
            }
            pause = rest(&account.ledger, began.elapsed());
        }
    }
}

/// Whether a limit is passed; the program is held if so.
async fn check(
    charge: &Charge,
    account: &Account,
    storage: &Arc<dyn Storage>,
    hold: &impl Fn(bool),
) -> Result<bool, FsError> {
    if !measure(charge, account, storage, enough(&account.ledger)).await? {
        return Ok(false);
    }
    hold(true);
    let passed = measure(charge, account, storage, None).await?;
    if !passed {
        hold(false);
    }
    Ok(passed)
}

/// Counts once, charges what was found, and says whether a limit is passed. What is `enough` ends the count.
async fn measure(
    charge: &Charge,
    account: &Account,
    storage: &Arc<dyn Storage>,
    enough: Option<UsedQuota>,
) -> Result<bool, FsError> {
    let counting = charge.counting();
    let before = account.ledger.used();
    let found = count(account, storage, enough).await?;
    Ok(charge.found(&counting, found, before))
}

/// More than this passes a limit, whatever else is there. A count of a home to which a running program adds
/// faster than directories are read would not end otherwise.
fn enough(ledger: &Ledger) -> Option<UsedQuota> {
    let (taken, size, files) = ledger.limits()?;
    let most = |limit: i64, taken: i64| if limit > 0 { limit.max(taken) } else { i64::MAX };
    Some(UsedQuota { size_bytes: most(size, taken.size_bytes), files: most(files, taken.files) })
}

/// The regular files of a home with the sizes that are in the books, until there are more than `enough`. What
/// cannot be counted would be free, so it is an error.
async fn count(
    account: &Account,
    storage: &Arc<dyn Storage>,
    enough: Option<UsedQuota>,
) -> Result<UsedQuota, FsError> {
    let mut found = UsedQuota::default();
    let mut pending = vec![(VPath::root(), storage.metadata(&VPath::root(), Links::Keep).await?)];
    while let Some((dir, metadata)) = pending.pop() {
        let mut entries = match readable::open(&**storage, &dir, &metadata).await {
            Ok(Some(entries)) => entries,
            // It has gone, or something else is there.
            Ok(None) | Err(FsError::NotFound | FsError::NotDir | FsError::Link) => continue,
            Err(error) => return Err(uncounted(account, &dir, error)),
        };
        loop {
            let batch = match entries.next(BATCH).await {
                Ok(batch) if batch.is_empty() => break,
                Ok(batch) => batch,
                Err(error) => return Err(uncounted(account, &dir, error)),
            };
            for entry in batch {
                if entry.metadata.is_dir() {
                    let path = dir.join(&entry.name).map_err(|_| uncounted(account, &dir, TOO_DEEP))?;
                    pending.push((path, entry.metadata));
                } else if entry.metadata.is_file()
                    // Its upload holds the room for it.
                    && !(is_temporary(&entry.name)
                        && dir.join(&entry.name).is_ok_and(|path| account.is_upload(&path)))
                {
                    let size = account.known(&entry.metadata).size;
                    found.size_bytes = found.size_bytes.saturating_add(signed(size));
                    found.files += 1;
                }
            }
            if enough.is_some_and(|most| found.size_bytes > most.size_bytes || found.files > most.files) {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

fn uncounted(account: &Account, dir: &VPath, error: FsError) -> FsError {
    warn!("the home of user {:?} cannot be counted at {dir}: {}", account.username, error.detail());
    error
}

/// How long nobody need count, after a count that took `cost`.
fn rest(ledger: &Ledger, cost: Duration) -> Duration {
    let Some((taken, size, files)) = ledger.limits() else { return LONGEST };
    let until = |limit: i64, taken: i64, fastest: f64| {
        if limit <= 0 {
            return LONGEST;
        }
        let left = limit.saturating_sub(taken).max(0);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds = left as f64 / fastest;
        Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64()))
    };
    let full = until(size, taken.size_bytes, FASTEST_BYTES).min(until(files, taken.files, FASTEST_FILES));
    full.max(SHORTEST).max(cost.saturating_mul(REST))
}
