//! Where uses of keys are written down.

use async_trait::async_trait;
use leadr_auth_domain::{KeyId, Timestamp};

use crate::StoreError;

/// A key and when it was last used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// Which key.
    pub key_id: KeyId,
    /// When.
    pub used_at: Timestamp,
}

/// Writes down uses, many at a time.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait UsageStore: Send + Sync {
    /// Moves `last_used_at` of each key forward to its `used_at`, and never back; `updated_at` stays. Atomic. Keys
    /// that do not exist are passed over; a key may be named more than once, and in any order.
    ///
    /// Other writes may have to wait until all of it is written, so callers name ten thousand at most. It waits for nobody who
    /// holds one of the keys, and answers those that it passed over for that: their uses are not written, and are to be
    /// recorded again.
    async fn record(&self, uses: &[KeyUse]) -> Result<Vec<KeyId>, StoreError>;
}
