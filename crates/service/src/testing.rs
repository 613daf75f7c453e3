//! A service on the memory store, with a clock that stands still.

use std::sync::Arc;

use leadr_auth_domain::{
    Access, Account, AccountName, ApiKey, AuditKey, KeyName, Keyring, OperatorAccess, Origin,
    Pepper, PepperId, Principal, Scopes, Slug, Timestamp,
};
use leadr_auth_memory::Memory;
use leadr_auth_memory::system::{ManualClock, SeededEntropy};

use crate::{IssuedKey, KeyFilter, NewAccount, NewKey, Service};

pub(crate) struct Bench {
    pub(crate) service: Service,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) tenant: Account,
}

fn start() -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap()
}

const SECRET: &str = "a secret for tests, of 32 bytes and more";
const NEW_SECRET: &str = "a new secret for tests, of 32 bytes and more";

fn service(clock: Arc<ManualClock>) -> Service {
    Service::new(
        Memory::new().stores(),
        clock,
        Arc::new(SeededEntropy::new(1)),
        Bench::keyring(),
    )
}

/// Another process on the same store.
pub(crate) fn service_on(service: &Service, keyring: impl Into<Keyring>) -> Service {
    Service::with_config(
        service.stores.clone(),
        service.clock.clone(),
        service.entropy.clone(),
        keyring,
        service.config.clone(),
    )
}

fn new_id() -> PepperId {
    PepperId::parse("new").unwrap()
}

/// A secret `new` is the current one, and the one so far is retired.
pub(crate) fn rotated() -> Keyring {
    let secrets = [(PepperId::default(), SECRET), (new_id(), NEW_SECRET)];
    Keyring::new(&new_id(), secrets).unwrap()
}

/// The same two, of a server that goes by what was before.
pub(crate) fn opposed() -> Keyring {
    let secrets = [(PepperId::default(), SECRET), (new_id(), NEW_SECRET)];
    Keyring::new(&PepperId::default(), secrets).unwrap()
}

/// The secret `new` and no other.
pub(crate) fn only_new() -> Keyring {
    Keyring::new(&new_id(), [(new_id(), NEW_SECRET)]).unwrap()
}

impl Bench {
    /// An operator and one tenant.
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(ManualClock::new(start()));
        let service = service(Arc::clone(&clock));
        service.prepare(None).await.unwrap();
        let tenant = NewAccount {
            name: AccountName::parse("Tenant").unwrap(),
            slug: Slug::parse("tenant").unwrap(),
            key_limit: None,
        };
        let tenant = service
            .create_account(&Self::operator(), tenant)
            .await
            .unwrap();
        Self {
            service,
            clock,
            tenant,
        }
    }

    /// A service on an empty store.
    pub(crate) fn empty() -> Service {
        let service = Self::unprepared();
        service.set_audit_key(AuditKey::new([1; AuditKey::BYTES]));
        service
    }

    /// As [`Bench::empty`], of which not even the key of the trail is known.
    pub(crate) fn unprepared() -> Service {
        service(Arc::new(ManualClock::new(start())))
    }

    pub(crate) fn keyring() -> Keyring {
        Pepper::new(SECRET).unwrap().into()
    }

    /// Somebody who may do everything.
    pub(crate) fn all() -> Principal {
        Principal::deployment(Origin::TOOL)
    }

    pub(crate) fn operator() -> OperatorAccess {
        Self::all().operator().unwrap()
    }

    /// Somebody of the tenant.
    pub(crate) fn tenant(&self, scopes: Scopes) -> Principal {
        Principal {
            access: Access::Account(self.tenant.id),
            scopes,
            origin: Origin::SERVER,
        }
    }

    /// Every live key.
    pub(crate) async fn all_keys(&self) -> Vec<ApiKey> {
        let mut keys = Vec::new();
        for account in self.service.list_accounts(Access::All).await.unwrap() {
            let filter = KeyFilter::of(account.id);
            keys.extend(self.service.list_keys(Access::All, filter).await.unwrap());
        }
        keys
    }

    pub(crate) async fn count_keys(&self) -> usize {
        self.all_keys().await.len()
    }

    /// The time `seconds` after the start.
    pub(crate) fn later(seconds: u32) -> Timestamp {
        let after = start().as_offset_date_time() + time::Duration::seconds(seconds.into());
        Timestamp::new(after).unwrap()
    }

    /// Issues a key to the tenant.
    pub(crate) async fn issue(&self, name: &str) -> IssuedKey {
        self.issue_expiring(name, None).await
    }

    pub(crate) async fn issue_expiring(
        &self,
        name: &str,
        expires_at: Option<Timestamp>,
    ) -> IssuedKey {
        let new = NewKey {
            expires_at,
            ..NewKey::named(KeyName::parse(name).unwrap())
        };
        self.service
            .issue_key(&Self::all(), self.tenant.id, new)
            .await
            .unwrap()
    }
}
