//! Whether the store answers, and how busy it is.

use async_trait::async_trait;

use crate::StoreError;

/// Asks the store for a sign of life.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait StoreHealth: Send + Sync {
    /// Succeeds where the store answers within the time that a lookup may take, and has its schema.
    async fn ping(&self) -> Result<(), StoreError>;

    /// How busy this process's connections to it are, at this moment. Asks nobody, and never waits.
    fn load(&self) -> StoreLoad;
}

/// How busy a process's connections to its store are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreLoad {
    /// The most that there may be.
    pub max: usize,
    /// How many are open.
    pub open: usize,
    /// How many of these are in use.
    pub in_use: usize,
    /// How many callers wait for one.
    pub waiting: usize,
}
