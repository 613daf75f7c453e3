//! Keeps accounts and keys in a file, with SQLite, which is compiled in.
//!
//! This crate holds one implementation of each port of `leadr-auth-ports`, the threads that they share, the file, and the
//! migrations that make the tables. It must never know of HTTP, of a use case, of a clock or of a plain key: time comes in
//! as values, and what is stored of a key is its hash.
//!
//! - `file`: opening and making the file, the lock that keeps a second server away, backups and checks
//! - `pool`: the configuration, the threads and their connections, and how writes are committed together
//! - `schema`: the tables, generated from `migrations/sqlite`
//! - `rows`: what a row looks like, and the plain functions between rows and domain types
//! - `keys`, `accounts`, `usage`, `secrets`, `audit`, `transfer`, `change_feed`, `health`: the ports, a file each
//! - `error`: what each failure of the database means to a caller
//! - [`migrate`]: brings a database up to date
//!
//! # What lies beside the file
//!
//! While a database `keys.db` is open there are `keys.db-wal`, the log ahead, which holds what is not in the file yet, and
//! `keys.db-shm`, its index; after a kill they stay, and the next one to open the file goes on from them. Before a file has a
//! log ahead there may be a `keys.db-journal`, by which a write that was cut short is taken back. None of the three may be
//! taken away or apart from the file. `keys.db.lock` is empty, and what the server locks.
//!
//! A file is made, and a backup written, in a folder `<file>.leadr-auth-part<numbers>`, from which it gets its name when it is
//! whole. A process that is killed leaves the folder there: it can be deleted, as soon as no backup is being written into the
//! folder that it is in.
//!
//! # How to add a method
//!
//! 1. State its promise in the port, and write its cases into the contract suite; see them fail.
//! 2. If it needs a column, add a migration (`migrations/sqlite/README.md` says what one may do) and run
//!    `cargo xtask codegen`.
//! 3. Write the query in Diesel's language, in the file of its port. A read is one statement, run by `Pool::read`; a write is
//!    a function of a connection, run as a unit by `Pool::write`. Both go to another thread, so they own what they need.
//! 4. Where the caller decides in between, compare and swap, as `keys` does.
//! 5. What it changes it writes down with `audit::append`, in the same unit, and only where it is changed.
//! 6. A write answers a `pool::Done`, and so has to say whether it changes a key or an account that verification looks at:
//!    `Done::changing` names what, from the rows that were written, and `Done::unheard` says that it does not. Only the writer
//!    tells it, and nothing but a `Done` is told: whatever writes past `Pool::write` is to others' eyes another process. Add a
//!    line to the cases of the contract suite that go through every change.
//! 7. What the caller decides about is an `error::Violation`; the rest is `error::of_query`.
//!
//! # Decisions, and their price
//!
//! - One thread writes, and commits what is waiting together: a write alone waits for the disk once, and many at a time wait
//!   for it once together. A transaction that is lost is lost for all of them.
//! - Two threads look up and do nothing else: no list keeps them from it. They are idle while others read.
//! - An acknowledged write is on the disk (`synchronous = FULL`): each commit waits for it.
//! - What another process changes is asked for: a server beside which a key is revoked hears of it a tenth of a second later,
//!   and not of which key it was. Who listens has the thread that writes awake ten times a second.
//! - A signal waits its turn behind writes, and so for as long as another process keeps them waiting.
//! - A change compares and swaps, because it cannot be lent to the thread that writes: where many change one record, some run
//!   more than once.
//! - A statement that has begun is never cut short: a caller that gives up is answered in time, and the work is done all the
//!   same. Only a backup that nobody awaits is thrown away.
//! - The log ahead is written into the file when the last connection closes, so dropping the last handle waits for the disk.

mod accounts;
mod audit;
mod change_feed;
mod error;
mod file;
mod health;
mod keys;
mod listing;
pub mod migrate;
#[cfg(test)]
mod plans;
mod pool;
mod requests;
mod rows;
mod schema;
mod secrets;
mod transfer;
mod usage;

use std::{path::Path, sync::Arc};

use diesel::{dsl::max, prelude::*, sqlite::SqliteConnection};
use leadr_auth_domain::Timestamp;
use leadr_auth_ports::{StoreError, Stores};

pub use file::{BackupError, BackupReport, IfMissing, LockError, OpenError, OpenFault, ServerLock};
pub use pool::SqliteConfig;

/// A database in a file, and the threads that work on it. Clones share them; with the last one, and the last of its stores,
/// they end.
#[derive(Clone, Debug)]
pub struct Sqlite {
    pool: pool::Pool,
}

impl Sqlite {
    /// Opens the file, or makes it, and starts the threads. Blocks for as long as the disk takes, and where another process
    /// is writing for as long as `busy_timeout`.
    ///
    /// A file that is not ours is left as it is. Whether ours has its tables is not asked: [`migrate::at_head`] does.
    pub fn open(mut config: SqliteConfig, if_missing: IfMissing) -> Result<Self, OpenError> {
        let (path, writer) = file::open(&config, if_missing)?;
        config.path = path;
        Self::start(&config, &file::Access::Write, Some(writer))
    }

    /// Opens a file that is there for reading only, and leaves it, byte for byte, and its folder as they are: a backup, say, in
    /// a place where nothing may be written. Blocks as [`open`](Self::open) does.
    ///
    /// Where another process has the file open, or has left a log ahead beside it, the log is read as well; that takes the
    /// right to read it and to write its index (`-shm`). Otherwise nothing beside the file is looked for, and if a process
    /// begins to write to it meanwhile, what is read from then on fails. So does every write, and whatever else of this type
    /// needs the right to write: migrating, a backup, the check of integrity.
    pub fn open_to_read(mut config: SqliteConfig) -> Result<Self, OpenError> {
        let (path, access) = file::open_to_read(&config)?;
        config.path = path;
        Self::start(&config, &access, None)
    }

    fn start(
        config: &SqliteConfig,
        access: &file::Access,
        writer: Option<SqliteConnection>,
    ) -> Result<Self, OpenError> {
        let start = || -> Result<Self, OpenFault> {
            let reader = || file::connect_to_read(&config.path, config, access);
            let readers = |number: usize| (0..number).map(|_| reader()).collect::<Result<_, _>>();
            let connections = pool::Connections {
                lookups: readers(pool::LOOKUPS)?,
                readers: readers(config.readers.max(1))?,
                trail: reader()?,
                writer,
            };
            let pool = pool::Pool::start(config.clone(), access.clone(), connections)?;
            Ok(Self { pool })
        };
        start().map_err(|fault| file::explain(&config.path, fault).at(&config.path))
    }

    /// All the ports, on these threads.
    pub fn stores(&self) -> Stores {
        let keys = Arc::new(keys::Keys(self.pool.clone()));
        Stores {
            lookup: keys.clone(),
            keys,
            accounts: Arc::new(accounts::Accounts(self.pool.clone())),
            usage: Arc::new(usage::Usage(self.pool.clone())),
            secrets: Arc::new(secrets::Secrets(self.pool.clone())),
            audit: Arc::new(audit::Audit(self.pool.clone())),
            transfer: Arc::new(transfer::Transfer(self.pool.clone())),
            feed: Arc::new(change_feed::Feed(self.pool.clone())),
            health: Arc::new(health::Health(self.pool.clone())),
        }
    }

    /// Closes the database in order, whoever else holds a handle still: what waits is done, and then there is one file, with
    /// nothing beside it. What is asked from now on fails. Without it the next one to open the file finds all the same, in
    /// the log ahead.
    pub async fn close(&self) {
        let pool = self.pool.clone();
        // It cannot have panicked but in closing a connection, and then there is nothing more to do.
        let _ = tokio::task::spawn_blocking(move || pool.close()).await;
    }

    /// Copies the database, as it is when this begins, into a file that is not there yet, while everything goes on. The copy
    /// is whole or not there, checked, on the disk, and readable by its owner only. Where the future is dropped nothing is left
    /// of what was begun.
    pub async fn backup(&self, to: &Path) -> Result<BackupReport, BackupError> {
        let to = to.to_owned();
        let draft = file::Draft::default();
        let work = draft.work();
        self.pool
            .apart("backup", move |connection| {
                file::backup(connection, &to, &work)
            })
            .await?
    }

    /// Everything that is wrong with the file, in SQLite's words; nothing where it is sound. Reads all of it.
    pub async fn integrity(&self) -> Result<Vec<String>, StoreError> {
        self.pool.aside("integrity", file::integrity).await?
    }

    /// The latest instant at which a record was made or changed: a clock that is behind it is wrong. `None` where there is no
    /// record.
    pub async fn newest_write(&self) -> Result<Option<Timestamp>, StoreError> {
        use schema::{accounts, api_keys};
        let newest = self.pool.read(|connection| {
            let (made, changed): (Option<i64>, Option<i64>) = accounts::table
                .select((max(accounts::created_at), max(accounts::updated_at)))
                .get_result(connection)?;
            let (issued, moved): (Option<i64>, Option<i64>) = api_keys::table
                .select((max(api_keys::created_at), max(api_keys::updated_at)))
                .get_result(connection)?;
            Ok(made.max(changed).max(issued).max(moved))
        });
        newest
            .await?
            .map(|micros| {
                Timestamp::from_unix_micros(micros).ok_or_else(|| {
                    StoreError::internal("a record has an unusable value in updated_at")
                })
            })
            .transpose()
    }
}
