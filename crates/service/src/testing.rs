//! A service on the memory store, with a clock that stands still.

use std::sync::Arc;

use leadr_auth_domain::{
    Access, Account, AccountName, KeyName, OperatorAccess, Pepper, Slug, Timestamp,
};
use leadr_auth_memory::Memory;
use leadr_auth_memory::system::{ManualClock, SeededEntropy};

use crate::{IssuedKey, NewAccount, Service};

pub(crate) struct Bench {
    pub(crate) service: Service,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) tenant: Account,
}

fn start() -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap()
}

fn service(clock: Arc<ManualClock>) -> Service {
    let pepper = Pepper::new("a secret for tests, of 32 bytes and more").unwrap();
    Service::new(
        Memory::new().stores(),
        clock,
        Arc::new(SeededEntropy::new(1)),
        pepper,
    )
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
        };
        let operator = Access::All.operator().unwrap();
        let tenant = service.create_account(operator, tenant).await.unwrap();
        Self {
            service,
            clock,
            tenant,
        }
    }

    /// A service on an empty store.
    pub(crate) fn empty() -> Service {
        service(Arc::new(ManualClock::new(start())))
    }

    pub(crate) fn operator() -> OperatorAccess {
        Access::All.operator().unwrap()
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
        let name = KeyName::parse(name).unwrap();
        self.service
            .issue_key(Access::All, self.tenant.id, name, expires_at)
            .await
            .unwrap()
    }
}
