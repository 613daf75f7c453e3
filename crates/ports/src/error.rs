//! What can go wrong with a store that no caller can decide about.

use std::{error::Error, fmt};

/// Any error, for the log.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The store did not do what was asked. The sources are for the log; no client reads them.
#[derive(Debug)]
pub enum StoreError {
    /// It cannot be asked now: unreachable, overloaded, restarting, or the connection broke. Asking again later may
    /// help. A write that ends so may or may not have been done.
    Unavailable(BoxError),
    /// It holds something that should not be there, or refused what it should do. Asking again will not help.
    Internal(BoxError),
}

impl StoreError {
    /// Wraps a reason why the store cannot be asked now.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::Unavailable(source.into())
    }

    /// Wraps a reason that no repetition mends.
    pub fn internal(source: impl Into<BoxError>) -> Self {
        Self::Internal(source.into())
    }

    /// May the same request succeed later?
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Internal(_) => false,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable(_) => "the store is not available",
            Self::Internal(_) => "the store failed",
        })
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unavailable(source) | Self::Internal(source) => Some(source.as_ref()),
        }
    }
}
