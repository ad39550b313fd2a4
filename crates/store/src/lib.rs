//! The data providers: where users are kept. The only crate that knows SQL.
//!
//! Implements the data model, §1 to §3 and §8. What a user *is* lives in `tidegate-core`; a provider only moves
//! rows in and out, through [`UserStore`]. [`open`] chooses the provider that the configuration names.

use std::path::PathBuf;
use std::sync::Arc;

use tidegate_core::UserStore;

#[cfg(feature = "bolt")]
mod bolt;
pub mod config;
#[cfg(any(feature = "mysql", feature = "postgresql"))]
mod connection_string;
mod dump;
mod json_user;
mod memory;
mod private_file;
mod record;
mod sql;

pub use memory::MemoryStore;

use config::{Driver, Settings};

/// Why a data provider cannot be used. The program does not start with it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The driver is a valid name that this program was built without.
    #[error("data_provider.driver {0:?} is not built into this program")]
    NotBuiltIn(&'static str),
    /// There is no database, and none may be created.
    #[error("file {} {problem}", path.display())]
    File {
        /// The file that the configuration names.
        path: PathBuf,
        /// What is wrong with it, as the rest of the sentence.
        problem: String,
    },
    /// `data_provider.connection_string` has no form that the driver reads.
    #[error("data_provider.connection_string cannot be used: {0}")]
    ConnectionString(String),
    /// The database holds something else than users of a version that is known; it was not touched.
    #[error("table {table} of {database} {problem}")]
    Schema {
        /// The database, without secrets.
        database: String,
        /// `data_provider.users_table`.
        table: String,
        /// What was found there, as the rest of the sentence.
        problem: String,
    },
    /// The database engine refuses.
    #[error("cannot {attempt} database {database}")]
    Database {
        /// What was tried.
        attempt: &'static str,
        /// The database, without secrets.
        database: String,
        /// What the engine says.
        source: sqlx::Error,
    },
}

/// Opens the data provider of `settings`. A missing database is created, an old one brought up to date, if
/// `manage_users` allows it. A database server that cannot be reached is no error: calls fail until it can be.
///
/// # Errors
/// [`OpenError`] if the provider cannot be used; nothing was changed then.
pub async fn open(settings: &Settings) -> Result<Arc<dyn UserStore>, OpenError> {
    match settings.driver {
        // The default is the name of a database, and as good as none.
        Driver::Memory if matches!(settings.name.as_str(), "" | "sftpgo.db") => {
            Ok(Arc::new(MemoryStore::default()))
        }
        Driver::Memory => Ok(Arc::new(MemoryStore::with_users(&settings.path, dump::load(&settings.path)?)?)),
        Driver::Sqlite => Ok(Arc::new(sql::sqlite::open(settings).await?)),
        #[cfg(feature = "mysql")]
        Driver::MySql => Ok(Arc::new(sql::mysql::open(settings).await?)),
        #[cfg(feature = "postgresql")]
        Driver::PostgreSql => Ok(Arc::new(sql::postgresql::open(settings).await?)),
        #[cfg(feature = "bolt")]
        Driver::Bolt => Ok(Arc::new(bolt::open(settings).await?)),
        #[allow(unreachable_patterns, reason = "which ones are left depends on the features")]
        other => Err(OpenError::NotBuiltIn(other.name())),
    }
}
