//! Whether the server's secret is the one that the stored keys are hashed under.
//!
//! A process with another secret would tell every owner of a good key that it is not valid. So the store remembers a value
//! by which the secret is recognised, and a process compares before it refuses anybody.

use std::fmt;
use std::sync::atomic::Ordering;

use leadr_auth_domain::PlainKey;

use crate::{EnsureOperatorError, OperatorState, Service, StoreError};

/// Why the secret is not known to be the right one.
#[derive(Debug)]
pub enum SecretError {
    /// The stored keys are hashed under another secret.
    Mismatch,
    /// The store did not say.
    Store(StoreError),
}

/// Why the store is not ready to be served from.
#[derive(Debug)]
pub enum PrepareError {
    /// The server's secret is wrong, or nobody knows.
    Secret(SecretError),
    /// There is no operator.
    Operator(EnsureOperatorError),
}

impl PrepareError {
    /// May the same call succeed later?
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Secret(SecretError::Store(error))
            | Self::Operator(EnsureOperatorError::Store(error)) => error.is_retryable(),
            Self::Secret(SecretError::Mismatch) | Self::Operator(_) => false,
        }
    }
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mismatch => {
                "the server secret is not the one that the stored keys are hashed under; with this one no stored key works"
            }
            Self::Store(_) => "the server secret could not be compared with the store's",
        })
    }
}

impl std::error::Error for SecretError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Mismatch => None,
            Self::Store(source) => Some(source),
        }
    }
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(SecretError::Mismatch) => "the server secret does not fit the store",
            Self::Secret(SecretError::Store(_)) => "the store did not answer",
            Self::Operator(_) => "there is no operator",
        })
    }
}

impl std::error::Error for PrepareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Secret(source) => Some(source),
            Self::Operator(source) => Some(source),
        }
    }
}

impl From<StoreError> for SecretError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SecretError> for PrepareError {
    fn from(error: SecretError) -> Self {
        Self::Secret(error)
    }
}

impl From<EnsureOperatorError> for PrepareError {
    fn from(error: EnsureOperatorError) -> Self {
        Self::Operator(error)
    }
}

impl Service {
    /// What a server needs before it is ready: the right secret and an operator, see [`Service::ensure_operator`]. May be
    /// called by several nodes at once, and again at every start.
    ///
    /// The secret is registered last, so that a configured key which was stored under another one is noticed first: that
    /// is all there is to go by in a database of the reference implementation.
    pub async fn prepare(
        &self,
        configured: Option<&PlainKey>,
    ) -> Result<OperatorState, PrepareError> {
        self.check_secret().await?;
        let operator = self.ensure_operator(configured).await?;
        self.ensure_secret().await?;
        Ok(operator)
    }

    /// Compares the secret with the one that is registered, if one is. Changes nothing.
    pub async fn check_secret(&self) -> Result<(), SecretError> {
        match self.stores.secrets.registered().await? {
            Some(check) if !self.pepper.matches(&check) => Err(SecretError::Mismatch),
            Some(_) | None => Ok(()),
        }
    }

    /// Registers the secret where none is, and compares it with the one that is. Whoever stores a key's hash without
    /// having called [`Service::prepare`] calls this first.
    pub async fn ensure_secret(&self) -> Result<(), SecretError> {
        let registered = self.stores.secrets.register(&self.pepper.check()).await?;
        if !self.pepper.matches(&registered) {
            return Err(SecretError::Mismatch);
        }
        self.pepper_is_proven.store(true, Ordering::Release);
        Ok(())
    }

    /// May a key be refused because its hash differs? Not before the secret is known to be right.
    pub(crate) fn may_refuse_hashes(&self) -> Result<(), StoreError> {
        if self.pepper_is_proven.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(StoreError::unavailable(
            "the server secret has not been compared with the store's yet",
        ))
    }
}

#[cfg(test)]
mod tests {
    use leadr_auth_domain::{Pepper, generate_api_key};

    use super::*;
    use crate::testing::Bench;
    use crate::{Authentication, Service};

    /// The same store, another secret, as after a restart with a wrong configuration.
    fn with_another_secret(service: &Service) -> Service {
        Service::new(
            service.stores.clone(),
            service.clock.clone(),
            service.entropy.clone(),
            Pepper::new("another secret, of 32 bytes or so").unwrap(),
        )
    }

    #[tokio::test]
    async fn the_first_secret_is_the_right_one() {
        let bench = Bench::new().await;
        let wrong = with_another_secret(&bench.service);
        for error in [
            wrong.prepare(None).await.map(drop).unwrap_err(),
            wrong.ensure_secret().await.unwrap_err().into(),
            wrong.check_secret().await.unwrap_err().into(),
        ] {
            assert!(matches!(error, PrepareError::Secret(SecretError::Mismatch)));
            assert!(!error.is_retryable());
        }
        bench.service.check_secret().await.unwrap();
        bench.service.prepare(None).await.unwrap();
    }

    #[tokio::test]
    async fn a_wrong_secret_refuses_no_key() {
        let bench = Bench::new().await;
        let issued = bench.issue("Good").await;
        let wrong = with_another_secret(&bench.service);
        let _ = wrong.prepare(None).await.unwrap_err();
        assert!(wrong.authenticate(&issued.plain_key).await.is_err());
        // A key that nobody has is refused under any secret.
        let stranger = generate_api_key([77; 32]);
        assert!(matches!(
            wrong.authenticate(&stranger).await.unwrap(),
            Authentication::Refused(_)
        ));
    }

    /// A database of the reference implementation has no registered secret; the configured key tells.
    #[tokio::test]
    async fn a_configured_key_under_another_secret_registers_nothing() {
        let service = Bench::empty();
        let key = generate_api_key([42; 32]);
        service.ensure_operator(Some(&key)).await.unwrap();
        let wrong = with_another_secret(&service);
        assert!(matches!(
            wrong.prepare(Some(&key)).await,
            Err(PrepareError::Operator(EnsureOperatorError::KeyMismatch))
        ));
        assert!(service.stores.secrets.registered().await.unwrap().is_none());
        service.prepare(Some(&key)).await.unwrap();
    }
}
