//! The deployment's own account: makes sure that somebody can manage the others.

use std::fmt;

use leadr_auth_domain::{
    API_KEY_BYTES, Account, AccountId, AccountName, AccountRole, ApiKey, AuditAction, ChainId,
    Facts, KeyName, KeyRecord, Origin, PlainKey, Principal, Slug, TextFault, Verdict, decide,
    generate_api_key,
};
use leadr_auth_ports::{CreateKeyError, CreateOperatorError, EntropyError};

use crate::{IssuedKey, KeyError, KeyFilter, Service, StoreError};

/// How often it is tried again where another node was at it at the same time.
const ATTEMPTS: usize = 5;

/// What start-up found or made.
#[derive(Clone, Debug)]
pub enum OperatorState {
    /// An operator's account and key were made; the key is to be shown once.
    Created(PlainKey),
    /// The configured key is an operator's.
    Configured,
    /// The configured key is an operator's and does not work. It stays so: a revoked key must not come back because a
    /// process was restarted with an old configuration.
    ConfiguredButRefused(Verdict),
    /// No key was configured, and an operator's account exists.
    Existing,
    /// No key was configured, and the store has accounts but no operator's. Nobody can manage them until a key is
    /// configured.
    Missing,
}

/// A new key of the operator's account.
#[derive(Clone, Debug)]
pub struct NewOperatorKey {
    /// The key, to be shown once.
    pub issued: IssuedKey,
    /// The other keys of operators' accounts that were not revoked before.
    pub others: Vec<ApiKey>,
}

/// Why there is no operator.
#[derive(Debug)]
pub enum EnsureOperatorError {
    /// The configured key's prefix belongs to another key, or to the same key under another server secret.
    KeyMismatch,
    /// There were no random bytes.
    Entropy(EntropyError),
    /// The store did not do it.
    Store(StoreError),
}

impl fmt::Display for EnsureOperatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyMismatch => {
                "SUPERADMIN_API_KEY is stored with another hash: is API_KEY_SECRET the one it was stored under?"
            }
            Self::Entropy(_) | Self::Store(_) => "the operator's account could not be made",
        })
    }
}

impl std::error::Error for EnsureOperatorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::KeyMismatch => None,
            Self::Entropy(source) => Some(source),
            Self::Store(source) => Some(source),
        }
    }
}

impl From<StoreError> for EnsureOperatorError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<EntropyError> for EnsureOperatorError {
    fn from(error: EntropyError) -> Self {
        Self::Entropy(error)
    }
}

impl From<TextFault> for EnsureOperatorError {
    fn from(fault: TextFault) -> Self {
        Self::Store(StoreError::internal(fault))
    }
}

/// What one attempt came to.
enum Attempt {
    Done(OperatorState),
    /// Somebody else changed the store in between.
    Overtaken,
}

impl Service {
    /// Makes sure that there is an operator: the owner of `configured`, or else, in an empty store, a new one with a new
    /// key. May be called by several nodes at once, and again at every start.
    pub async fn ensure_operator(
        &self,
        configured: Option<&PlainKey>,
    ) -> Result<OperatorState, EnsureOperatorError> {
        self.ensure_operator_for(&Origin::SERVER, configured).await
    }

    /// Is the configured key stored with another hash? Then the secret is not the one that it was stored under.
    pub(crate) async fn check_configured(&self, key: &PlainKey) -> Result<(), EnsureOperatorError> {
        match self.stores.lookup.find(&key.prefix()).await? {
            Some(record) if self.keyring().verify(key, &record.key) != Some(true) => {
                Err(EnsureOperatorError::KeyMismatch)
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn ensure_operator_for(
        &self,
        origin: &Origin,
        configured: Option<&PlainKey>,
    ) -> Result<OperatorState, EnsureOperatorError> {
        for n in 0..ATTEMPTS {
            let attempt = match configured {
                Some(key) => self.try_ensure_owner_of(origin, key, n).await?,
                None => self.try_ensure_first(origin, n).await?,
            };
            if let Attempt::Done(state) = attempt {
                return Ok(state);
            }
        }
        let error = StoreError::unavailable("others kept changing the store at the same time");
        Err(EnsureOperatorError::Store(error))
    }

    /// Gives the operator's account a new key, for one that was lost; makes the account where there is none. With
    /// `revoke_others` all other keys of operators' accounts stop working.
    ///
    /// Whoever calls this has the store itself in hand, which is more than any key opens.
    pub async fn new_operator_key(
        &self,
        revoke_others: bool,
    ) -> Result<NewOperatorKey, EnsureOperatorError> {
        let plain_key = generate_api_key(self.random::<API_KEY_BYTES>()?);
        self.ensure_operator_for(&Origin::TOOL, Some(&plain_key))
            .await?;
        let Some(KeyRecord { key, .. }) = self.stores.lookup.find(&plain_key.prefix()).await?
        else {
            return Err(StoreError::internal("a key that was just stored is not there").into());
        };
        let mut others = Vec::new();
        // There may be several: one was made, and another owns what was configured later.
        for account in self.stores.accounts.list().await? {
            if account.role == AccountRole::Operator {
                let working = KeyFilter {
                    active_only: true,
                    ..KeyFilter::of(account.id)
                };
                others.extend(self.stores.keys.list(working).await?);
            }
        }
        others.retain(|other| other.id != key.id);
        if revoke_others {
            let by = Principal::deployment(Origin::TOOL);
            for other in &others {
                match self.revoke_key(&by, other.id).await {
                    // Somebody else deleted it meanwhile, or dropped its secret: either stops it as well.
                    Ok(_)
                    | Err(
                        KeyError::NotFound
                        | KeyError::ForeignAccount(_)
                        | KeyError::ScopeNotHeld(_)
                        | KeyError::Changed
                        | KeyError::LimitReached
                        | KeyError::PepperDropped,
                    ) => {}
                    Err(KeyError::Store(error)) => return Err(error.into()),
                }
            }
        }
        Ok(NewOperatorKey {
            issued: IssuedKey { key, plain_key },
            others,
        })
    }

    async fn try_ensure_first(
        &self,
        origin: &Origin,
        n: usize,
    ) -> Result<Attempt, EnsureOperatorError> {
        if !self.stores.accounts.is_empty().await? {
            return Ok(Attempt::Done(
                match self.stores.accounts.find_operator().await? {
                    Some(_) => OperatorState::Existing,
                    None => OperatorState::Missing,
                },
            ));
        }
        let key = generate_api_key(self.random::<API_KEY_BYTES>()?);
        Ok(match self.try_create_operator(origin, &key, n).await? {
            Attempt::Done(_) => Attempt::Done(OperatorState::Created(key)),
            Attempt::Overtaken => Attempt::Overtaken,
        })
    }

    async fn try_ensure_owner_of(
        &self,
        origin: &Origin,
        key: &PlainKey,
        n: usize,
    ) -> Result<Attempt, EnsureOperatorError> {
        if let Some(record) = self.stores.lookup.find(&key.prefix()).await? {
            return self.ensure_is_operator(origin, key, record).await;
        }
        let Some(operator) = self.stores.accounts.find_operator().await? else {
            return self.try_create_operator(origin, key, n).await;
        };
        let now = self.clock.now();
        let auditor = self.auditor(origin, now).await?;
        let record = self.new_key(operator.id, key_name()?, key, now)?;
        let entry = auditor.key_made(AuditAction::OperatorKeyCreated, &record);
        match self.stores.keys.adopt(&record, &entry).await {
            Ok(()) => Ok(Attempt::Done(OperatorState::Configured)),
            Err(CreateKeyError::PrefixTaken | CreateKeyError::AccountNotFound) => {
                Ok(Attempt::Overtaken)
            }
            Err(CreateKeyError::PepperDropped) => Err(self.current_was_dropped().into()),
            Err(CreateKeyError::Store(error)) => Err(error.into()),
            Err(error @ (CreateKeyError::LimitReached | CreateKeyError::OtherRequest)) => {
                Err(StoreError::internal(error).into())
            }
        }
    }

    /// The configured key is stored: its owner is the operator, also where the reference implementation made it and knows
    /// nothing of operators.
    async fn ensure_is_operator(
        &self,
        origin: &Origin,
        key: &PlainKey,
        mut record: KeyRecord,
    ) -> Result<Attempt, EnsureOperatorError> {
        if self.keyring().verify(key, &record.key) != Some(true) {
            return Err(EnsureOperatorError::KeyMismatch);
        }
        let now = self.clock.now();
        if record.account.role != AccountRole::Operator {
            let auditor = self.auditor(origin, now).await?;
            let promoted = self
                .stores
                .accounts
                .update(record.account.id, &mut |mut account| {
                    let before = account.clone();
                    account.make_operator(now);
                    Ok(auditor.account_changed(&before, account))
                })
                .await;
            match promoted {
                Ok(account) => record.account = account,
                Err(leadr_auth_ports::UpdateAccountError::Store(error)) => return Err(error.into()),
                Err(_) => return Ok(Attempt::Overtaken),
            }
        }
        Ok(Attempt::Done(match decide(&record, now) {
            Verdict::Valid => OperatorState::Configured,
            refusal => OperatorState::ConfiguredButRefused(refusal),
        }))
    }

    /// Stores a new operator's account with `key`. The `n`th attempt takes the `n`th name, in case a tenant is called
    /// Operator.
    async fn try_create_operator(
        &self,
        origin: &Origin,
        key: &PlainKey,
        n: usize,
    ) -> Result<Attempt, EnsureOperatorError> {
        let (name, slug) = match n {
            0 => ("Operator".to_owned(), "operator".to_owned()),
            _ => (format!("Operator {}", n + 1), format!("operator-{}", n + 1)),
        };
        let now = self.clock.now();
        let auditor = self.auditor(origin, now).await?;
        let account = Account::new(
            AccountId::from_random_bytes(self.random()?),
            AccountName::parse(&name)?,
            Slug::parse(&slug)?,
            AccountRole::Operator,
            now,
        );
        let record = self.new_key(account.id, key_name()?, key, now)?;
        let mut facts = Facts::of_account(&account);
        facts.insert("key".to_owned(), Facts::of_key(&record).into());
        let entry = auditor
            .draft(ChainId::Account(account.id), AuditAction::OperatorCreated)
            .about(record.id)
            .after(facts);
        match self
            .stores
            .accounts
            .create_with_key(&account, &record, &entry)
            .await
        {
            Ok(()) => Ok(Attempt::Done(OperatorState::Configured)),
            Err(CreateOperatorError::AccountTaken | CreateOperatorError::PrefixTaken) => {
                Ok(Attempt::Overtaken)
            }
            Err(CreateOperatorError::PepperDropped) => Err(self.current_was_dropped().into()),
            Err(CreateOperatorError::Store(error)) => Err(error.into()),
        }
    }
}

fn key_name() -> Result<KeyName, TextFault> {
    KeyName::parse("Operator key")
}

#[cfg(test)]
mod tests {
    use leadr_auth_domain::{Access, KeyChange};

    use super::*;
    use crate::testing::Bench;
    use crate::{Authentication, NewAccount};

    async fn is_operator(service: &Service, key: &PlainKey) -> bool {
        match service.authenticate(key).await.unwrap() {
            Authentication::Accepted(caller) => caller.access() == Access::All,
            Authentication::Refused(_) => false,
        }
    }

    #[tokio::test]
    async fn an_empty_store_gets_an_operator_once() {
        let service = Bench::empty();
        let OperatorState::Created(key) = service.ensure_operator(None).await.unwrap() else {
            panic!("nothing created");
        };
        assert!(is_operator(&service, &key).await);
        let again = service.ensure_operator(None).await.unwrap();
        assert!(matches!(again, OperatorState::Existing));
        assert_eq!(service.list_accounts(Access::All).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn nodes_that_start_together_make_one_operator() {
        let service = Bench::empty();
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let service = service.clone();
                tokio::spawn(async move { service.ensure_operator(None).await.unwrap() })
            })
            .collect();
        let mut created = 0;
        for start in starts {
            created += usize::from(matches!(start.await.unwrap(), OperatorState::Created(_)));
        }
        assert_eq!(created, 1);
    }

    #[tokio::test]
    async fn a_configured_key_is_ensured_at_every_start() {
        let service = Bench::empty();
        let key = generate_api_key([42; 32]);
        for _ in 0..2 {
            let state = service.ensure_operator(Some(&key)).await.unwrap();
            assert!(matches!(state, OperatorState::Configured));
        }
        assert!(is_operator(&service, &key).await);
        let accounts = service.list_accounts(Access::All).await.unwrap();
        assert_eq!(accounts.len(), 1);
        // Another configured key joins the same account.
        let other = generate_api_key([43; 32]);
        service.ensure_operator(Some(&other)).await.unwrap();
        assert!(is_operator(&service, &other).await);
        let keys = service
            .list_keys(Access::All, KeyFilter::of(accounts[0].id))
            .await
            .unwrap();
        assert_eq!(keys.len(), 2);
    }

    #[tokio::test]
    async fn a_revoked_configured_key_stays_revoked() {
        let service = Bench::empty();
        let key = generate_api_key([42; 32]);
        service.ensure_operator(Some(&key)).await.unwrap();
        let account = service.list_accounts(Access::All).await.unwrap().remove(0);
        let id = service
            .list_keys(Access::All, KeyFilter::of(account.id))
            .await
            .unwrap()[0]
            .id;
        service.revoke_key(&Bench::all(), id).await.unwrap();
        let state = service.ensure_operator(Some(&key)).await.unwrap();
        assert!(matches!(
            state,
            OperatorState::ConfiguredButRefused(Verdict::Revoked)
        ));
        let deleted = KeyChange {
            deleted: Some(true),
            ..KeyChange::default()
        };
        service
            .update_key(&Bench::all(), id, &deleted)
            .await
            .unwrap();
        let state = service.ensure_operator(Some(&key)).await.unwrap();
        assert!(matches!(
            state,
            OperatorState::ConfiguredButRefused(Verdict::Deleted)
        ));
        assert!(!is_operator(&service, &key).await);
    }

    #[tokio::test]
    async fn a_lost_key_is_replaced() {
        let service = Bench::empty();
        let first = service.new_operator_key(false).await.unwrap();
        assert!(first.others.is_empty(), "the account is new");
        let second = service.new_operator_key(false).await.unwrap();
        assert_eq!(second.others.len(), 1);
        assert_eq!(second.others[0].id, first.issued.key.id);
        for new in [&first, &second] {
            assert!(is_operator(&service, &new.issued.plain_key).await);
        }
        let third = service.new_operator_key(true).await.unwrap();
        assert_eq!(third.others.len(), 2);
        service.ensure_secret().await.unwrap();
        assert!(is_operator(&service, &third.issued.plain_key).await);
        for lost in [&first, &second] {
            assert!(!is_operator(&service, &lost.issued.plain_key).await);
        }
        assert_eq!(service.list_accounts(Access::All).await.unwrap().len(), 1);
    }

    /// Whoever revokes what is lost means all of it.
    #[tokio::test]
    async fn the_keys_of_every_operator_are_others() {
        let bench = Bench::new().await;
        let first = bench.service.new_operator_key(false).await.unwrap();
        let promoted = bench.issue("Made by the reference").await;
        bench
            .service
            .ensure_operator(Some(&promoted.plain_key))
            .await
            .unwrap();
        let new = bench.service.new_operator_key(true).await.unwrap();
        for other in [first.issued.key.id, promoted.key.id] {
            assert!(new.others.iter().any(|key| key.id == other));
        }
        for lost in [&first.issued.plain_key, &promoted.plain_key] {
            assert!(!is_operator(&bench.service, lost).await);
        }
        assert!(is_operator(&bench.service, &new.issued.plain_key).await);
    }

    #[tokio::test]
    async fn the_owner_of_a_key_that_others_stored_becomes_the_operator() {
        let bench = Bench::new().await;
        let issued = bench.issue("Made by the reference").await;
        let state = bench
            .service
            .ensure_operator(Some(&issued.plain_key))
            .await
            .unwrap();
        assert!(matches!(state, OperatorState::Configured));
        assert!(is_operator(&bench.service, &issued.plain_key).await);
    }

    #[tokio::test]
    async fn a_changed_secret_is_an_error_not_a_second_key() {
        let mut bench = Bench::new().await;
        let issued = bench.issue("Under the old secret").await;
        let another = leadr_auth_domain::Pepper::new("another secret, of 32 bytes or so").unwrap();
        bench.service = crate::testing::service_on(&bench.service, another);
        let result = bench.service.ensure_operator(Some(&issued.plain_key)).await;
        assert!(matches!(result, Err(EnsureOperatorError::KeyMismatch)));
    }

    #[tokio::test]
    async fn accounts_without_an_operator_are_reported() {
        let service = Bench::empty();
        let operator = Bench::operator();
        let tenant = NewAccount {
            name: AccountName::parse("Operator").unwrap(),
            slug: Slug::parse("operator").unwrap(),
            key_limit: None,
        };
        service.create_account(&operator, tenant).await.unwrap();
        let state = service.ensure_operator(None).await.unwrap();
        assert!(matches!(state, OperatorState::Missing));
        // And a tenant that happens to be called so does not keep a configured key from getting its account.
        let key = generate_api_key([42; 32]);
        service.ensure_operator(Some(&key)).await.unwrap();
        assert!(is_operator(&service, &key).await);
    }
}
