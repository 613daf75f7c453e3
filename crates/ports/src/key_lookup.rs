//! The hot path.

use async_trait::async_trait;
use leadr_auth_domain::{KeyPrefix, KeyRecord};

use crate::StoreError;

/// Finds what verification needs to know, for every request that presents a key.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait KeyLookup: Send + Sync {
    /// The key with this prefix and its account, whatever their state: deleted, revoked and suspended ones too, for
    /// the policy to decide about. `None` where no key has the prefix.
    ///
    /// Whether there is such a key or not, it takes the same: a stranger who measures is not to learn which prefixes there are. So
    /// stores look for the first key that has this prefix or a greater one, read it, and then see whether it is the one.
    ///
    /// One round trip, and one consistent view of both. It answers or fails within the adapter's lookup timeout (a
    /// quarter of a second unless configured), because the caller's own client is waiting.
    async fn find(&self, prefix: &KeyPrefix) -> Result<Option<KeyRecord>, StoreError>;
}
