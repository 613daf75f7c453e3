//! Moving everything that a store holds into another one.

use std::fmt;

use async_trait::async_trait;
use leadr_auth_domain::{
    Account, AccountId, ApiKey, AuditEntry, ChainHead, ChainId, Checkpoint, KeyId,
};

use crate::{Audited, StoreError, StoredPepper};

/// Gives all that a store holds, and takes what another one held.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait TransferStore: Send + Sync {
    /// One consistent view of everything, for as long as it is held. Changes made meanwhile are not in it and are not held
    /// up by it.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;

    /// Takes server secrets as they are, dropped ones too: each where none has its id, with its audit entry. Atomic. Answers
    /// all secrets, as [`registered`](crate::SecretRegistry::registered) does, so that the caller sees which were known, and
    /// differ.
    async fn import_secrets(
        &self,
        secrets: &[Audited<StoredPepper>],
    ) -> Result<Vec<StoredPepper>, StoreError>;

    /// Takes accounts, deleted ones too, each as it is. Atomic: each is stored as `mode` says, with its audit entry, or, for the reason in its
    /// place of the answer, is not. The answer has as many places as `accounts`. Within one call ids are different.
    async fn import_accounts(
        &self,
        accounts: &[Audited<Account>],
        mode: ImportMode,
    ) -> Result<Vec<ImportOutcome>, StoreError>;

    /// Takes keys, deleted ones and those of deleted accounts too, each as it is; otherwise as
    /// [`import_accounts`](TransferStore::import_accounts).
    async fn import_keys(
        &self,
        keys: &[Audited<ApiKey>],
        mode: ImportMode,
    ) -> Result<Vec<ImportOutcome>, StoreError>;
}

/// A consistent view of a store, read page by page.
#[async_trait]
pub trait Snapshot: Send {
    /// The secrets that are registered, dropped ones too, in the order of their ids.
    async fn secrets(&mut self) -> Result<Vec<StoredPepper>, StoreError>;

    /// How much there is.
    async fn totals(&mut self) -> Result<Totals, StoreError>;

    /// The next accounts in the order of their ids, deleted ones too: at most `limit` (at least 1), after `after`. None
    /// are left where the answer is empty.
    async fn accounts(
        &mut self,
        after: Option<AccountId>,
        limit: u32,
    ) -> Result<Vec<Account>, StoreError>;

    /// As [`accounts`](Snapshot::accounts), of keys.
    async fn keys(&mut self, after: Option<KeyId>, limit: u32) -> Result<Vec<ApiKey>, StoreError>;

    /// The next entries of the audit trail in the order of their chains' UUIDs, then of their numbers: at most `limit` (at
    /// least 1), after `after`. None are left where the answer is empty.
    async fn audit_entries(
        &mut self,
        after: Option<(ChainId, u64)>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError>;

    /// The next records of chains' ends, in the order of the chains' UUIDs; otherwise as
    /// [`audit_entries`](Snapshot::audit_entries).
    async fn audit_heads(
        &mut self,
        after: Option<ChainId>,
        limit: u32,
    ) -> Result<Vec<ChainHead>, StoreError>;

    /// As [`audit_heads`](Snapshot::audit_heads), of what was pruned.
    async fn audit_checkpoints(
        &mut self,
        after: Option<ChainId>,
        limit: u32,
    ) -> Result<Vec<Checkpoint>, StoreError>;
}

/// How many records there are, deleted ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Accounts.
    pub accounts: u64,
    /// Keys.
    pub keys: u64,
}

/// Whether an import is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportMode {
    /// Say what would come of it, and store nothing.
    DryRun,
    /// Store what can be stored.
    Commit,
}

/// What came of a record, or would come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// It is stored.
    Stored,
    /// It was there already, the same in everything but its last use, which stays as the store has it.
    Present,
    /// It is not stored, because of what else there is.
    Conflict(ImportConflict),
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportConflict {
    /// A record with its id is there, and differs.
    IdTaken,
    /// Another key has its prefix.
    PrefixTaken,
    /// Another live account has its name.
    NameTaken,
    /// Another live account has its slug.
    SlugTaken,
    /// Its account is not there, not even a deleted one.
    AccountMissing,
    /// The secret that it is hashed under is known to the store, and was dropped.
    PepperDropped,
}

impl fmt::Display for ImportConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IdTaken => "a different record with this id is stored",
            Self::PrefixTaken => "another key has this prefix",
            Self::NameTaken => "another live account has this name",
            Self::SlugTaken => "another live account has this slug",
            Self::AccountMissing => "its account is not stored",
            Self::PepperDropped => "the secret that it is hashed under was dropped",
        })
    }
}
