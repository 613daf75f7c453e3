//! Which server secret the stored keys are hashed under.

use async_trait::async_trait;
use leadr_auth_domain::PepperCheck;

use crate::StoreError;

/// Remembers the check value of the server's secret, so that a process with another secret notices before it refuses
/// everybody's keys.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait SecretRegistry: Send + Sync {
    /// The check value that is registered, if one is.
    async fn registered(&self) -> Result<Option<PepperCheck>, StoreError>;

    /// Registers `check` where none is registered, and answers the one that is. Atomic: of several callers at once one is
    /// first, and all are answered what that one brought.
    async fn register(&self, check: &PepperCheck) -> Result<PepperCheck, StoreError>;
}
