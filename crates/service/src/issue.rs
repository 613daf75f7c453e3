//! Make a key.

use std::fmt;

use leadr_auth_domain::{
    API_KEY_BYTES, Access, AccountId, ApiKey, KeyId, KeyName, PlainKey, Timestamp, generate_api_key,
};
use leadr_auth_ports::{CreateKeyError, EntropyError};

use crate::{Service, StoreError};

/// How often another key is made where the prefix of one is taken. Prefixes have 60 random bits, so a second clash in a
/// row means that the randomness is broken, not that luck was bad.
const ATTEMPTS: usize = 5;

/// A key that has just been made: the only time that it and its record are together.
#[derive(Clone, Debug)]
pub struct IssuedKey {
    /// The record.
    pub key: ApiKey,
    /// The key itself, to be shown once.
    pub plain_key: PlainKey,
}

/// Why no key was made.
#[derive(Debug)]
pub enum IssueKeyError {
    /// The caller does not reach the account; whether it exists is not said.
    ForeignAccount,
    /// There is no live account with this id.
    AccountNotFound,
    /// There were no random bytes.
    Entropy(EntropyError),
    /// The store did not do it.
    Store(StoreError),
}

impl fmt::Display for IssueKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForeignAccount => "the account is not the caller's",
            Self::AccountNotFound => "there is no such account",
            Self::Entropy(_) | Self::Store(_) => "the key could not be made",
        })
    }
}

impl std::error::Error for IssueKeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::ForeignAccount | Self::AccountNotFound => None,
            Self::Entropy(source) => Some(source),
            Self::Store(source) => Some(source),
        }
    }
}

impl Service {
    /// Makes a key for a live account. The reference calls it `create_api_key`.
    ///
    /// `expires_at` may lie in the past, as in the reference: such a key is refused from the start.
    pub async fn issue_key(
        &self,
        access: Access,
        account_id: AccountId,
        name: KeyName,
        expires_at: Option<Timestamp>,
    ) -> Result<IssuedKey, IssueKeyError> {
        if !access.reaches(account_id) {
            return Err(IssueKeyError::ForeignAccount);
        }
        for _ in 0..ATTEMPTS {
            let secret = self
                .random::<API_KEY_BYTES>()
                .map_err(IssueKeyError::Entropy)?;
            let plain_key = generate_api_key(secret);
            let key = self
                .new_key(account_id, name.clone(), &plain_key, expires_at)
                .map_err(IssueKeyError::Entropy)?;
            match self.stores.keys.create(&key).await {
                Ok(()) => return Ok(IssuedKey { key, plain_key }),
                Err(CreateKeyError::PrefixTaken) => {}
                Err(CreateKeyError::AccountNotFound) => return Err(IssueKeyError::AccountNotFound),
                Err(CreateKeyError::Store(error)) => return Err(IssueKeyError::Store(error)),
            }
        }
        let error = format!("{ATTEMPTS} random prefixes in a row were taken");
        Err(IssueKeyError::Store(StoreError::internal(error)))
    }

    /// The record of a key that is about to be stored.
    pub(crate) fn new_key(
        &self,
        account_id: AccountId,
        name: KeyName,
        plain_key: &PlainKey,
        expires_at: Option<Timestamp>,
    ) -> Result<ApiKey, EntropyError> {
        Ok(ApiKey::new(
            KeyId::from_random_bytes(self.random()?),
            account_id,
            name,
            self.pepper.hash(plain_key),
            plain_key.prefix(),
            expires_at,
            self.clock.now(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use leadr_auth_domain::ApiKeyStatus;
    use leadr_auth_ports::{MockEntropy, MockKeyRepository};

    use super::*;
    use crate::testing::Bench;

    fn name(text: &str) -> KeyName {
        KeyName::parse(text).unwrap()
    }

    #[tokio::test]
    async fn an_issued_key_is_as_the_reference_documents() {
        let bench = Bench::new().await;
        let issued = bench.issue("Production Key").await;
        assert_eq!(issued.key.account_id, bench.tenant.id);
        assert_eq!(issued.key.name.as_str(), "Production Key");
        assert_eq!(issued.key.status, ApiKeyStatus::Active);
        assert_eq!(issued.key.key_prefix.as_str().len(), 14);
        assert!(
            issued
                .plain_key
                .expose()
                .starts_with(issued.key.key_prefix.as_str())
        );
        assert_ne!(issued.plain_key.expose(), issued.key.key_hash.expose_hex());
        assert!(
            bench
                .service
                .pepper
                .verify(&issued.plain_key, &issued.key.key_hash)
        );
    }

    #[tokio::test]
    async fn the_account_must_be_within_reach_and_live() {
        let bench = Bench::new().await;
        let foreign = AccountId::from_random_bytes([99; 16]);
        let own = Access::Account(bench.tenant.id);
        let refused = bench.service.issue_key(own, foreign, name("K"), None).await;
        assert!(matches!(refused, Err(IssueKeyError::ForeignAccount)));
        let missing = bench
            .service
            .issue_key(Access::All, foreign, name("K"), None)
            .await;
        assert!(matches!(missing, Err(IssueKeyError::AccountNotFound)));
        bench
            .service
            .delete_account(Bench::operator(), bench.tenant.id)
            .await
            .unwrap();
        let deleted = bench
            .service
            .issue_key(Access::All, bench.tenant.id, name("K"), None)
            .await;
        assert!(matches!(deleted, Err(IssueKeyError::AccountNotFound)));
    }

    #[tokio::test]
    async fn a_taken_prefix_is_never_seen_by_the_caller() {
        let mut bench = Bench::new().await;
        let asked = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&asked);
        let mut keys = MockKeyRepository::new();
        keys.expect_create()
            .returning(move |_| match seen.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Err(CreateKeyError::PrefixTaken),
                _ => Ok(()),
            });
        bench.service.stores.keys = Arc::new(keys);
        bench.issue("Third time lucky").await;
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn clashes_without_end_are_an_error_not_a_loop() {
        let mut bench = Bench::new().await;
        let mut keys = MockKeyRepository::new();
        keys.expect_create()
            .times(ATTEMPTS)
            .returning(|_| Err(CreateKeyError::PrefixTaken));
        bench.service.stores.keys = Arc::new(keys);
        let result = bench
            .service
            .issue_key(Access::All, bench.tenant.id, name("K"), None)
            .await;
        assert!(matches!(
            result,
            Err(IssueKeyError::Store(StoreError::Internal(_)))
        ));
    }

    #[tokio::test]
    async fn without_randomness_there_is_no_key() {
        let mut bench = Bench::new().await;
        let mut dry = MockEntropy::new();
        dry.expect_fill()
            .returning(|_| Err(EntropyError("dry".into())));
        bench.service.entropy = Arc::new(dry);
        let result = bench
            .service
            .issue_key(Access::All, bench.tenant.id, name("K"), None)
            .await;
        assert!(matches!(result, Err(IssueKeyError::Entropy(_))));
    }
}
