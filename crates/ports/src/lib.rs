//! What the inside asks of the outside: the traits, their promises, and the suite that judges every store.
//!
//! A *port* here is a driven one: something the use cases need done by the world. This crate must never know how it is
//! done; no pool, no transaction, no query and no HTTP appears in a signature.
//!
//! # The rules that every adapter obeys
//!
//! - **One method is one atomic unit.** Its doc line says what is atomic. There is no transaction to pass around.
//! - **Read, decide, write is one `update`**: the caller hands in a pure, synchronous change, which runs on the record as
//!   it is, and nothing is written if that has changed meanwhile. It may run more than once, so it must depend on its
//!   argument only.
//! - **A refusal leaves everything as it was**, and so does an error, save that a store which went away during the write
//!   may have done it ([`StoreError::Unavailable`] says "cannot tell").
//! - **A change and what the audit trail says of it are one unit**: an [`AuditDraft`](leadr_auth_domain::AuditDraft) comes
//!   with the change, and its adapter gives it its place in the chain inside the transaction. Where the entry cannot be
//!   written, the change is not made.
//! - **Time comes in as values.** No adapter reads a clock to fill in a field.
//! - **A future that is dropped halfway** leaves either all of the unit or nothing.
//!
//! # How to add one
//!
//! Write the trait with the promise of each method in its docs, cut by what one caller needs; add it to [`Stores`] if a
//! store provides it; write its cases into [`contract`] and see them fail; then implement it in every adapter.

mod account_repository;
mod audit_store;
mod change_feed;
mod error;
mod health;
mod key_lookup;
mod key_repository;
pub mod listing;
mod local_feed;
mod secret_registry;
mod system;
mod transfer_store;
mod usage_store;

#[cfg(feature = "contract")]
pub mod contract;

use std::sync::Arc;

pub use account_repository::{
    AccountChangeFn, AccountFilter, AccountQuery, AccountRepository, CreateAccountError,
    CreateOperatorError, UpdateAccountError,
};
pub use audit_store::{ActorFilter, AuditPlace, AuditQuery, AuditStore, Audited, Pruned};
pub use change_feed::{
    Change, ChangeFeed, Heard, NodeReport, NodeReports, Probe, Signal, Subscription,
    UnreadableReport,
};
pub use error::{BoxError, StoreError};
pub use health::{StoreHealth, StoreLoad};
pub use key_lookup::KeyLookup;
pub use key_repository::{
    CreateKeyError, KeyChangeFn, KeyFilter, KeyQuery, KeyRepository, Once, Rows, UpdateKeyError,
};
pub use local_feed::LocalFeed;
pub use secret_registry::{DropPepperError, PepperUse, Rehash, SecretRegistry, StoredPepper};
pub use system::{Clock, Entropy, EntropyError};
pub use transfer_store::{
    ImportConflict, ImportMode, ImportOutcome, Snapshot, Totals, TransferStore,
};
pub use usage_store::{KeyUse, UsageStore};

#[cfg(feature = "mock")]
pub use {
    account_repository::MockAccountRepository,
    audit_store::MockAuditStore,
    change_feed::MockChangeFeed,
    health::MockStoreHealth,
    key_lookup::MockKeyLookup,
    key_repository::MockKeyRepository,
    secret_registry::MockSecretRegistry,
    system::{MockClock, MockEntropy},
    transfer_store::MockTransferStore,
    usage_store::MockUsageStore,
};

/// All that one store provides.
#[derive(Clone)]
pub struct Stores {
    /// The hot path.
    pub lookup: Arc<dyn KeyLookup>,
    /// Management of keys.
    pub keys: Arc<dyn KeyRepository>,
    /// Management of accounts.
    pub accounts: Arc<dyn AccountRepository>,
    /// Where uses of keys are written down.
    pub usage: Arc<dyn UsageStore>,
    /// Which server secrets its keys are hashed under.
    pub secrets: Arc<dyn SecretRegistry>,
    /// What is written down of every change.
    pub audit: Arc<dyn AuditStore>,
    /// All of it, in and out.
    pub transfer: Arc<dyn TransferStore>,
    /// What tells of changes.
    pub feed: Arc<dyn ChangeFeed>,
    /// Whether it answers.
    pub health: Arc<dyn StoreHealth>,
}
