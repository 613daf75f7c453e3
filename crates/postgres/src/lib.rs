//! Keeps accounts and keys in PostgreSQL.
//!
//! This crate holds one implementation of each port of `leadr-auth-ports`, the pool that they share, and the migrations
//! that make the tables. It must never know of HTTP, of a use case, of a clock or of a plain key: time comes in as
//! values, and what is stored of a key is its hash.
//!
//! - `connect`: what a URL says, TLS included, and how a connection is made of it
//! - `pool`: the configuration, what all connections have in common, and how one is lent out
//! - `schema`: the tables, generated from `migrations/postgres`
//! - `rows`: what a row looks like, and the plain functions between rows and domain types
//! - `keys`, `accounts`, `usage`, `secrets`, `audit`, `transfer`, `health`: the ports, a file each; `audit` also has how an
//!   entry gets its place, and in which order locks are taken
//! - `creation`: keys that are issued at once are written together
//! - `change_feed`: a port too; also how what is told is written, and by whom
//! - `diagnosis`: what the server says of itself, for a person
//! - `error`: what each failure of the database means to a caller
//! - [`migrate`]: brings a database up to date
//! - `testing` (feature `testing`): a database of a test's own, a proxy that fails on command, and one that speaks TLS
//!
//! # How to add a method
//!
//! 1. State its promise in the port, and write its cases into the contract suite; see them fail.
//! 2. If it needs a column, add a migration (`migrations/postgres/README.md` says what one may do) and run
//!    `cargo xtask codegen`. A column that is ours alone has a default or is nullable.
//! 3. Write the query in Diesel's language, in the file of its port: one statement where one can do it. Run it by
//!    `Pool::statement`, a transaction by `Pool::transaction`: they lend a connection, and a deadline comes with it.
//! 4. Turn errors into what the caller decides about by `error::violation`; the rest is `error::of_query`.
//!
//! # Decisions, and their price
//!
//! - Connections are not tested before use (`RecyclingMethod::Fast`): one round trip less per lookup, and after a restart
//!   of the database the first request per connection may fail.
//! - A connection whose work was cut short is closed, never reused: a reconnect for each cancelled request, and nobody
//!   ever waits for somebody else's answer, or holds somebody else's locks.
//! - Each process keeps the ends of the audit trail's chains that it last saw, so that a key and its audit entry are one
//!   statement. The price: where several nodes change one account in turns, every change of a node after another's needs a
//!   transaction of some round trips.
//! - Keys that are issued while others are being written wait for those, and then share a statement and a commit. The price: a
//!   commit that fails, or that nobody hears of, is that of all of them.
//! - What changes is told by triggers, so that it is heard whoever changes it. The price: the server lets those that tell
//!   something commit one after the other, over all its databases, each until its commit is on the disk and at the standby that
//!   is waited for. Uses of keys tell nothing, so it is changes by people that wait, and ticks.
//! - TLS is verified or not spoken: where `sslmode` demands it, the chain and the host name are checked, also where libpq would
//!   look at neither, and where it does not, none is tried. Encryption towards nobody in particular protects from nobody in
//!   particular. The price: a server with a certificate of its own making needs `sslrootcert`, and one that it signed itself
//!   must not be that of an authority, as openssl makes them by default.

mod accounts;
mod audit;
mod change_feed;
mod connect;
mod creation;
mod diagnosis;
mod error;
mod health;
mod keys;
mod listing;
pub mod migrate;
mod pool;
mod requests;
mod rows;
#[expect(
    unreachable_pub,
    reason = "generated, and Diesel's macros make everything public"
)]
mod schema;
mod secrets;
#[cfg(feature = "testing")]
pub mod testing;
mod transfer;
mod usage;

use std::sync::Arc;

use leadr_auth_ports::Stores;

pub use connect::UrlFault;
pub use diagnosis::ServerSettings;
pub use pool::PostgresConfig;

/// A PostgreSQL database and the pool of connections to it. Clones share the pool.
#[derive(Clone, Debug)]
pub struct Postgres {
    pool: pool::Pool,
    heads: audit::Heads,
    creations: creation::Creations,
}

impl Postgres {
    /// Checks the configuration. Nothing is connected yet: the database may be away, and comes back without a new
    /// `Postgres`.
    pub fn new(config: PostgresConfig) -> Result<Self, UrlFault> {
        let pool = pool::Pool::new(config)?;
        let heads = audit::Heads::default();
        Ok(Self {
            creations: creation::Creations::new(pool.clone(), heads.clone()),
            pool,
            heads,
        })
    }

    /// All the ports, on this pool.
    pub fn stores(&self) -> Stores {
        let Self {
            pool,
            heads,
            creations,
        } = self;
        let keys = Arc::new(keys::Keys {
            pool: pool.clone(),
            heads: heads.clone(),
            creations: creations.clone(),
        });
        Stores {
            lookup: keys.clone(),
            keys,
            accounts: Arc::new(accounts::Accounts(pool.clone(), heads.clone())),
            usage: Arc::new(usage::Usage(pool.clone())),
            secrets: Arc::new(secrets::Secrets(pool.clone(), heads.clone())),
            audit: Arc::new(audit::Audit(pool.clone(), heads.clone())),
            transfer: Arc::new(transfer::Transfer(pool.clone(), heads.clone())),
            feed: Arc::new(change_feed::Feed(pool.clone())),
            health: Arc::new(health::Health(pool.clone())),
        }
    }
}
