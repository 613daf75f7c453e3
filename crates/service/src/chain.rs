//! An error and all its causes, for the log.

use std::error::Error;
use std::fmt;

/// Shows an error, then what caused it, and so on to the last, each after a colon. No error of ours repeats its cause, so
/// nothing is said twice.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyError, StoreError};

    #[test]
    fn it_goes_down_to_the_last_cause() {
        let error = KeyError::Store(StoreError::unavailable("connection refused"));
        assert_eq!(
            Chain(&error).to_string(),
            "the key could not be read or changed: the store is not available: connection refused"
        );
    }
}
