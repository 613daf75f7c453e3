//! Make a key.

use std::fmt;

use leadr_auth_domain::{
    API_KEY_BYTES, AccountId, Actor, ApiKey, AuditAction, Fingerprint, ForeignAccount,
    IdempotencyKey, IdempotentRequest, KeyId, KeyName, PlainKey, Principal, ScopeNotHeld, ScopeSet,
    Timestamp, generate_api_key,
};
use leadr_auth_ports::{CreateKeyError, EntropyError, Once, Rows};

use crate::{Service, StoreError};

/// How often another key is made where the prefix of one is taken. Prefixes have 60 random bits, so a second clash in a
/// row means that the randomness is broken, not that luck was bad.
const ATTEMPTS: usize = 5;

/// What a new key is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// What people call it.
    pub name: KeyName,
    /// From when on it no longer works; `None` if it never expires. It may lie in the past, as in the reference: such a key
    /// is refused from the start.
    pub expires_at: Option<Timestamp>,
    /// What it may be used for; `None` for all that its maker may.
    pub scopes: Option<ScopeSet>,
}

impl NewKey {
    /// One that never expires and may do all that its maker may.
    pub const fn named(name: KeyName) -> Self {
        Self {
            name,
            expires_at: None,
            scopes: None,
        }
    }
}

/// A key that has just been made: the only time that it and its record are together.
#[derive(Clone, Debug)]
pub struct IssuedKey {
    /// The record.
    pub key: ApiKey,
    /// The key itself, to be shown once.
    pub plain_key: PlainKey,
}

/// What came of a request for a key that is to be made once.
#[derive(Clone, Debug)]
pub enum Issued {
    /// It was made now.
    Now(Box<IssuedKey>),
    /// It was made when the request was sent before. The key itself is not to be had again.
    Before(Box<ApiKey>),
}

/// Why no key was made.
#[derive(Debug)]
pub enum IssueKeyError {
    /// The caller does not reach the account; whether it exists is not said.
    ForeignAccount(ForeignAccount),
    /// The key was to have a scope that its maker does not hold.
    ScopeNotHeld(ScopeNotHeld),
    /// There is no live account with this id.
    AccountNotFound,
    /// The account has as many live keys as it may have.
    LimitReached,
    /// The caller has given the request's name to another request.
    OtherRequest,
    /// There were no random bytes.
    Entropy(EntropyError),
    /// The store did not do it.
    Store(StoreError),
}

impl fmt::Display for IssueKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForeignAccount(_) => "the account is not the caller's",
            Self::ScopeNotHeld(_) => "a scope is not the caller's to give",
            Self::AccountNotFound => "there is no such account",
            Self::LimitReached => "the account has as many keys as it may have",
            Self::OtherRequest => "another request has the same name",
            Self::Entropy(_) | Self::Store(_) => "the key could not be made",
        })
    }
}

impl std::error::Error for IssueKeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::ForeignAccount(_)
            | Self::ScopeNotHeld(_)
            | Self::AccountNotFound
            | Self::LimitReached
            | Self::OtherRequest => None,
            Self::Entropy(source) => Some(source),
            Self::Store(source) => Some(source),
        }
    }
}

impl From<StoreError> for IssueKeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Service {
    /// Makes a key for a live account. The reference calls it `create_api_key`.
    pub async fn issue_key(
        &self,
        by: &Principal,
        account_id: AccountId,
        new: NewKey,
    ) -> Result<IssuedKey, IssueKeyError> {
        match self.issue(by, account_id, new, None).await? {
            Issued::Now(issued) => Ok(*issued),
            Issued::Before(_) => Err(StoreError::internal("a key was made before it was").into()),
        }
    }

    /// The same once, however often it is asked for by this name.
    pub async fn issue_key_once(
        &self,
        by: &Principal,
        account_id: AccountId,
        new: NewKey,
        key: IdempotencyKey,
        fingerprint: Fingerprint,
    ) -> Result<Issued, IssueKeyError> {
        let Actor::Key { key_id, .. } = by.origin.actor else {
            return Err(StoreError::internal("a request to be done once is of nobody").into());
        };
        let request = IdempotentRequest {
            caller: key_id,
            key,
            fingerprint,
            at: self.clock.now(),
        };
        self.issue(by, account_id, new, Some(&request)).await
    }

    async fn issue(
        &self,
        by: &Principal,
        account_id: AccountId,
        new: NewKey,
        request: Option<&IdempotentRequest>,
    ) -> Result<Issued, IssueKeyError> {
        by.access
            .resolve(Some(account_id))
            .map_err(IssueKeyError::ForeignAccount)?;
        let scopes = by.grant(new.scopes).map_err(IssueKeyError::ScopeNotHeld)?;
        let now = self.clock.now();
        let auditor = self.auditor(&by.origin, now).await?;
        for _ in 0..ATTEMPTS {
            let secret = self
                .random::<API_KEY_BYTES>()
                .map_err(IssueKeyError::Entropy)?;
            let plain_key = generate_api_key(secret);
            let mut key = self
                .new_key(account_id, new.name.clone(), &plain_key, now)
                .map_err(IssueKeyError::Entropy)?;
            key.expires_at = new.expires_at;
            key.scopes = scopes.clone();
            let entry = auditor.key_made(AuditAction::KeyCreated, &key);
            let keys = &self.stores.keys;
            let created = match request {
                Some(request) => keys.create_once(&key, &entry, request).await,
                None => keys.create(&key, &entry).await.map(|()| Once::Now(key.id)),
            };
            match created {
                Ok(Once::Now(_)) => {
                    return Ok(Issued::Now(Box::new(IssuedKey { key, plain_key })));
                }
                Ok(Once::Before(id)) => {
                    let made = keys.get(id, Rows::WithDeleted).await?;
                    let made = made.filter(|made| by.access.reaches_key(made));
                    // Somebody has taken the row away, and nobody can say any more what came of the request.
                    let made = made.ok_or(IssueKeyError::OtherRequest)?;
                    return Ok(Issued::Before(Box::new(self.usage.overlay(made))));
                }
                Err(CreateKeyError::OtherRequest) => return Err(IssueKeyError::OtherRequest),
                Err(CreateKeyError::PrefixTaken) => {}
                Err(CreateKeyError::AccountNotFound) => return Err(IssueKeyError::AccountNotFound),
                Err(CreateKeyError::LimitReached) => return Err(IssueKeyError::LimitReached),
                Err(CreateKeyError::PepperDropped) => {
                    return Err(IssueKeyError::Store(self.current_was_dropped()));
                }
                Err(CreateKeyError::Store(error)) => return Err(IssueKeyError::Store(error)),
            }
        }
        let error = format!("{ATTEMPTS} random prefixes in a row were taken");
        Err(IssueKeyError::Store(StoreError::internal(error)))
    }

    /// The record of a key that is about to be stored: it never expires, and has all rights of its account.
    pub(crate) fn new_key(
        &self,
        account_id: AccountId,
        name: KeyName,
        plain_key: &PlainKey,
        now: Timestamp,
    ) -> Result<ApiKey, EntropyError> {
        Ok(ApiKey::new(
            KeyId::from_random_bytes(self.random()?),
            account_id,
            name,
            self.keyring().hash(plain_key),
            plain_key.prefix(),
            None,
            now,
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use leadr_auth_domain::{ApiKeyStatus, Scope, Scopes};
    use leadr_auth_ports::{MockEntropy, MockKeyRepository};

    use super::*;
    use crate::testing::Bench;

    fn named(text: &str) -> NewKey {
        NewKey::named(KeyName::parse(text).unwrap())
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
                .keyring()
                .verify(&issued.plain_key, &issued.key)
                .unwrap()
        );
    }

    #[tokio::test]
    async fn the_account_must_be_within_reach_and_live() {
        let bench = Bench::new().await;
        let foreign = AccountId::from_random_bytes([99; 16]);
        let own = bench.tenant(Scopes::All);
        let refused = bench.service.issue_key(&own, foreign, named("K")).await;
        assert!(matches!(refused, Err(IssueKeyError::ForeignAccount(_))));
        let missing = bench
            .service
            .issue_key(&Bench::all(), foreign, named("K"))
            .await;
        assert!(matches!(missing, Err(IssueKeyError::AccountNotFound)));
        bench
            .service
            .delete_account(&Bench::operator(), bench.tenant.id)
            .await
            .unwrap();
        let deleted = bench
            .service
            .issue_key(&Bench::all(), bench.tenant.id, named("K"))
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
            .returning(move |_, _| match seen.fetch_add(1, Ordering::Relaxed) {
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
            .returning(|_, _| Err(CreateKeyError::PrefixTaken));
        bench.service.stores.keys = Arc::new(keys);
        let result = bench
            .service
            .issue_key(&Bench::all(), bench.tenant.id, named("K"))
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
            .issue_key(&Bench::all(), bench.tenant.id, named("K"))
            .await;
        assert!(matches!(result, Err(IssueKeyError::Entropy(_))));
    }

    #[tokio::test]
    async fn a_key_is_never_wider_than_its_maker() {
        let bench = Bench::new().await;
        let set = |scopes: &[&str]| {
            ScopeSet::new(scopes.iter().map(|text| Scope::parse(text).unwrap())).unwrap()
        };
        let held = set(&["keys:write", "docs:*"]);
        let maker = bench.tenant(Scopes::Only(held.clone()));
        let issue = async |scopes: Option<ScopeSet>| {
            let mut new = named("K");
            new.scopes = scopes;
            bench.service.issue_key(&maker, bench.tenant.id, new).await
        };
        assert_eq!(issue(None).await.unwrap().key.scopes, Scopes::Only(held));
        let narrow = Some(set(&["docs:read"]));
        let stored = issue(narrow.clone()).await.unwrap().key.id;
        let stored = bench
            .service
            .key(leadr_auth_domain::Access::All, stored)
            .await
            .unwrap();
        assert_eq!(stored.scopes.only(), narrow.as_ref());
        let before = bench.count_keys().await;
        let wide = issue(Some(set(&["docs:read", "keys:read"]))).await;
        assert!(
            matches!(&wide, Err(IssueKeyError::ScopeNotHeld(missing)) if missing.0 == "keys:read"),
            "{wide:?}"
        );
        assert_eq!(bench.count_keys().await, before);
    }
}
