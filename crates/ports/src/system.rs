//! Time and randomness.

use std::fmt;
use std::time::Duration;

use leadr_auth_domain::Timestamp;

use crate::BoxError;

/// Tells the time. A use case asks once and passes the answer on.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait Clock: Send + Sync {
    /// The time now. It may have been set, forwards or back, since it was asked last.
    fn now(&self) -> Timestamp;

    /// How long the machine has been running: only a difference of two means something. Nobody sets this one, and it goes on
    /// while the process is stopped and while the machine is suspended.
    fn uptime(&self) -> Duration;
}

/// Gives random bytes that nobody can predict.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait Entropy: Send + Sync {
    /// Fills all of `bytes`, or fails; never gives less, or worse.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError>;
}

/// The operating system gave no random bytes.
#[derive(Debug)]
pub struct EntropyError(
    /// What it said.
    pub BoxError,
);

impl fmt::Display for EntropyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no random bytes to be had")
    }
}

impl std::error::Error for EntropyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.0.as_ref())
    }
}
