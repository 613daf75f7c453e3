//! Whether the store answers.

use async_trait::async_trait;

use crate::StoreError;

/// Asks the store for a sign of life.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait StoreHealth: Send + Sync {
    /// Succeeds where the store answers within the time that a lookup may take, and has its schema.
    async fn ping(&self) -> Result<(), StoreError>;
}
