//! Which server secrets the stored keys are hashed under.

use std::fmt;

use async_trait::async_trait;
use leadr_auth_domain::{
    ApiKey, AuditDraft, HashedKey, KeyHash, KeyId, PepperCheck, PepperId, SealedAuditKey, Timestamp,
};

use crate::StoreError;

/// A server secret, as the store knows it: never the secret itself.
#[derive(Clone, Debug)]
pub struct StoredPepper {
    /// Its id, which the keys that are hashed under it have.
    pub id: PepperId,
    /// By what it is recognised.
    pub check: PepperCheck,
    /// The key of the audit trail, encrypted under it. One that was dropped does not have it: whoever knows a secret that
    /// was given up is not to read it.
    pub audit_key: Option<SealedAuditKey>,
    /// When it was given up; `None` while keys may be hashed under it.
    pub dropped_at: Option<Timestamp>,
}

impl StoredPepper {
    /// One under which keys may be hashed.
    pub const fn new(id: PepperId, check: PepperCheck, audit_key: SealedAuditKey) -> Self {
        Self {
            id,
            check,
            audit_key: Some(audit_key),
            dropped_at: None,
        }
    }
}

/// A key's new hash.
#[derive(Clone, Debug)]
pub struct Rehash {
    /// Which key.
    pub key_id: KeyId,
    /// The hash that it is known to have.
    pub was: KeyHash,
    /// The hash of the same key under another secret.
    pub becomes: HashedKey,
}

/// How many keys depend on a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PepperUse {
    /// The secret's id.
    pub id: PepperId,
    /// How many keys are hashed under it that work or could work again: neither deleted nor expired. Revoked ones count.
    pub keys: u64,
}

/// Remembers the check values of the server's secrets, so that a process with another secret notices before it refuses
/// everybody's keys; and knows which keys depend on which secret.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait SecretRegistry: Send + Sync {
    /// The secrets that are registered, dropped ones too, in the order of their ids.
    async fn registered(&self) -> Result<Vec<StoredPepper>, StoreError>;

    /// Registers a secret where none has its id, or gives the one that has it, where it has the same check value and was
    /// not dropped, the audit trail's key where it lacks that; writes the audit entry where either was done; and answers all secrets, as
    /// [`registered`](SecretRegistry::registered) does. Atomic: of several callers at once one is first, and all are answered
    /// what that one brought.
    ///
    /// With `founding` the audit trail's key is a new one: then nothing is done where any secret has one already, so that a
    /// store never has two. Without, it has to be the store's.
    async fn register(
        &self,
        pepper: &StoredPepper,
        founding: bool,
        entry: &AuditDraft,
    ) -> Result<Vec<StoredPepper>, StoreError>;

    /// How many keys depend on each secret at the time `now`, in the order of the ids; a secret on which none does is left
    /// out. One consistent view.
    async fn count_keys(&self, now: Timestamp) -> Result<Vec<PepperUse>, StoreError>;

    /// Gives up a secret. Atomic: no key depends on it at the time `now`, and from then on none is stored that is hashed
    /// under it, and it does not have the audit trail's key, with the audit entry; or nothing. One that was dropped before stays as it was, and there is no entry.
    ///
    /// The only secret that has the audit trail's key, of those that were not dropped, is not given up: nobody could read
    /// the key any more. Of several callers at once, one at least is refused.
    async fn drop_pepper(
        &self,
        id: &PepperId,
        now: Timestamp,
        entry: &AuditDraft,
    ) -> Result<(), DropPepperError>;

    /// Gives each key its new hash, where it still has the one that it is known to have. `updated_at` stays. Atomic. Answers
    /// how many keys that were. Keys that do not exist are passed over; a key is named once. A new hash under a secret
    /// that was dropped is not taken. The audit trail names the keys that were given one, and no others: what is written are
    /// the entries that [`AuditDraft::rehashed`] makes of them.
    async fn rehash(&self, keys: &[Rehash], entry: &AuditDraft) -> Result<u64, StoreError>;
}

/// Why a secret was not given up.
#[derive(Debug)]
pub enum DropPepperError {
    /// No secret with the id is registered.
    NotRegistered,
    /// Keys depend on it.
    InUse {
        /// How many.
        count: u64,
        /// The first of them, in the order of their ids: at most [`DropPepperError::LISTED`].
        first: Vec<ApiKey>,
    },
    /// It has the audit trail's key, and no other that was not dropped has it.
    LastWithAuditKey,
    /// The store did not do it.
    Store(StoreError),
}

impl DropPepperError {
    /// How many keys are listed at most.
    pub const LISTED: u32 = 1000;
}

impl fmt::Display for DropPepperError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegistered => f.write_str("no secret with this id is known to the store"),
            Self::InUse { count, .. } => write!(f, "{count} keys depend on the secret"),
            Self::LastWithAuditKey => f.write_str(
                "the key of the audit trail is kept under no other secret, and could not be read any more",
            ),
            Self::Store(_) => f.write_str("the secret could not be dropped"),
        }
    }
}

impl std::error::Error for DropPepperError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotRegistered | Self::InUse { .. } | Self::LastWithAuditKey => None,
            Self::Store(source) => Some(source),
        }
    }
}

impl From<StoreError> for DropPepperError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
