//! Verification from memory, on the memory store.
//!
//! Where a mechanism guards something, the same scenario is run with the mechanism switched off, and has to go wrong then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use leadr_auth_domain::{
    Access, AccountId, ApiKey, AuditAction, AuditDraft, IdempotentRequest, KeyChange, KeyId,
    KeyName, KeyPrefix, KeyRecord, NodeId, PlainKey, Scope, ScopeSet, Scopes, Timestamp, Verdict,
    generate_api_key,
};
use leadr_auth_ports::{
    ChangeFeed, Clock as _, CreateKeyError, Heard, KeyChangeFn, KeyLookup, KeyQuery, KeyRepository,
    NodeReport, NodeReports, Once, Rows, Signal, StoreError, Stores, Subscription, UpdateKeyError,
    listing::{Page, Sort},
};
use tokio::sync::Notify;

use super::*;
use crate::testing::{Bench, only_new, rotated, service_on};
use crate::{IssuedKey, Service, ServiceConfig};

/// A store that can be watched, held and pulled away.
struct Watched {
    lookup: Arc<dyn KeyLookup>,
    keys: Arc<dyn KeyRepository>,
    feed: Arc<dyn ChangeFeed>,
    lookups: AtomicUsize,
    /// Lookups read, and then wait before they answer.
    held: AtomicBool,
    release: Notify,
    is_away: AtomicBool,
    /// What the feed says does not arrive.
    is_deaf: AtomicBool,
    /// Reports are read with these of nodes that nobody hears, or not at all.
    reported: std::sync::Mutex<Result<NodeReports, ()>>,
    /// A verification that happens between a change's decision and its commit.
    meanwhile: tokio::sync::Mutex<Option<(Service, PlainKey)>>,
}

impl Watched {
    fn over(stores: Stores) -> (Arc<Self>, Stores) {
        let watched = Arc::new(Self {
            lookup: stores.lookup,
            keys: stores.keys,
            feed: stores.feed,
            lookups: AtomicUsize::new(0),
            held: AtomicBool::new(false),
            release: Notify::new(),
            is_away: AtomicBool::new(false),
            is_deaf: AtomicBool::new(false),
            reported: std::sync::Mutex::new(Ok(NodeReports::default())),
            meanwhile: tokio::sync::Mutex::default(),
        });
        let stores = Stores {
            lookup: watched.clone(),
            keys: watched.clone(),
            feed: watched.clone(),
            ..stores
        };
        (watched, stores)
    }

    fn lookups(&self) -> usize {
        self.lookups.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl KeyLookup for Watched {
    async fn find(&self, prefix: &KeyPrefix) -> Result<Option<KeyRecord>, StoreError> {
        let found = self.lookup.find(prefix).await;
        self.lookups.fetch_add(1, Ordering::SeqCst);
        if self.held.load(Ordering::SeqCst) {
            self.release.notified().await;
        }
        if self.is_away.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("pulled the plug"));
        }
        found
    }
}

#[async_trait]
impl KeyRepository for Watched {
    async fn create(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        self.keys.create(key, entry).await
    }

    async fn adopt(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        self.keys.adopt(key, entry).await
    }

    async fn create_once(
        &self,
        key: &ApiKey,
        entry: &AuditDraft,
        request: &IdempotentRequest,
    ) -> Result<Once<KeyId>, CreateKeyError> {
        self.keys.create_once(key, entry, request).await
    }

    async fn get(&self, id: KeyId, rows: Rows) -> Result<Option<ApiKey>, StoreError> {
        self.keys.get(id, rows).await
    }

    async fn update<'a>(
        &self,
        id: KeyId,
        change: &'a mut KeyChangeFn<'a>,
    ) -> Result<ApiKey, UpdateKeyError> {
        if let Some((service, key)) = self.meanwhile.lock().await.take() {
            let stored = self.keys.get(id, Rows::WithDeleted).await?.unwrap();
            // It may be called again.
            let _ = change(stored).map_err(UpdateKeyError::Refused)?;
            service.verify(Access::All, &key).await.unwrap();
        }
        self.keys.update(id, change).await
    }

    async fn page(&self, query: &KeyQuery) -> Result<Page<ApiKey, Sort<KeyId>>, StoreError> {
        self.keys.page(query).await
    }

    async fn count_active(&self, account_id: AccountId) -> Result<u64, StoreError> {
        self.keys.count_active(account_id).await
    }
}

#[async_trait]
impl ChangeFeed for Watched {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, StoreError> {
        let subscription = self.feed.subscribe().await?;
        if self.is_deaf.load(Ordering::SeqCst) {
            return Ok(Box::new(Deaf));
        }
        Ok(subscription)
    }

    async fn tick(&self, report: &NodeReport) -> Result<(), StoreError> {
        self.feed.tick(report).await
    }

    async fn send(&self, signal: &Signal) -> Result<(), StoreError> {
        self.feed.send(signal).await
    }

    async fn nodes(&self) -> Result<NodeReports, StoreError> {
        let mut all = self.feed.nodes().await?;
        let reported = self.reported.lock().unwrap().clone();
        let reported = reported.map_err(|()| StoreError::unavailable("pulled the plug"))?;
        all.readable.extend(reported.readable);
        all.unreadable.extend(reported.unreadable);
        Ok(all)
    }

    async fn forget(&self, id: NodeId, last: Option<u64>) -> Result<(), StoreError> {
        self.feed.forget(id, last).await
    }
}

/// Looks alive, and hears nothing.
struct Deaf;

#[async_trait]
impl Subscription for Deaf {
    async fn next(&mut self) -> Result<Heard, StoreError> {
        std::future::pending().await
    }
}

struct Setting {
    bench: Bench,
    store: Arc<Watched>,
}

impl Setting {
    /// A service whose lease holds until somebody lets the machine run for an hour.
    async fn new() -> Self {
        Self::without(Sabotage::Nothing).await
    }

    async fn without(sabotage: Sabotage) -> Self {
        let setting = Self::unproven(VerificationConfig {
            sabotage,
            ..VerificationConfig::default()
        })
        .await;
        let hour = Duration::from_hours(1);
        let service = &setting.bench.service;
        service
            .verifier
            .cache
            .lease
            .extend(service.lease_time() + hour);
        setting
    }

    /// A service whose lease holds for a second, and that may go on for so much longer while the store is away.
    async fn allowing(stale_if_error: Duration) -> Self {
        let setting = Self::unproven(VerificationConfig {
            stale_if_error,
            ..VerificationConfig::default()
        })
        .await;
        let service = &setting.bench.service;
        let second = Duration::from_secs(1);
        service
            .verifier
            .cache
            .lease
            .extend(service.lease_time() + second);
        setting
    }

    /// A service that has heard nothing yet.
    async fn unproven(verification: VerificationConfig) -> Self {
        let mut bench = Bench::new().await;
        let (store, stores) = Watched::over(bench.service.stores.clone());
        let config = ServiceConfig {
            verification,
            ..ServiceConfig::default()
        };
        bench.service = Service::with_config(
            stores,
            bench.clock.clone(),
            bench.service.entropy.clone(),
            Bench::keyring(),
            config,
        );
        bench.service.prepare(None).await.unwrap();
        Self { bench, store }
    }

    async fn verdict(&self, key: &PlainKey) -> Verdict {
        let verified = self.bench.service.verify(Access::All, key).await;
        verified.unwrap().verdict()
    }

    /// Issues a key and has it verified, so that it is known.
    async fn known(&self) -> IssuedKey {
        let issued = self.bench.issue("Known").await;
        assert_eq!(self.verdict(&issued.plain_key).await, Verdict::Valid);
        issued
    }

    /// Begins a verification that has read from the store, and does not go on before it is let.
    async fn begin(&self, key: &PlainKey) -> tokio::task::JoinHandle<Verdict> {
        let before = self.store.lookups();
        self.store.held.store(true, Ordering::SeqCst);
        let (service, key) = (self.bench.service.clone(), key.clone());
        let begun = tokio::spawn(async move {
            let verified = service.verify(Access::All, &key).await;
            verified.unwrap().verdict()
        });
        while self.store.lookups() == before {
            tokio::task::yield_now().await;
        }
        self.store.held.store(false, Ordering::SeqCst);
        begun
    }
}

#[tokio::test]
async fn the_store_is_asked_once_while_the_lease_holds_and_each_time_when_it_does_not() {
    let setting = Setting::new().await;
    let issued = setting.known().await;
    let asked = setting.store.lookups();
    for _ in 0..10 {
        assert_eq!(setting.verdict(&issued.plain_key).await, Verdict::Valid);
    }
    assert_eq!(setting.store.lookups(), asked);
    setting.bench.clock.run_on(Duration::from_hours(1));
    for n in 1..=10 {
        assert_eq!(setting.verdict(&issued.plain_key).await, Verdict::Valid);
        assert_eq!(setting.store.lookups(), asked + n);
    }
    let CacheStatistics {
        hits,
        misses,
        bypasses,
        stale,
        keys,
        lease,
        ..
    } = setting.bench.service.statistics().cache;
    assert_eq!((hits, misses, bypasses, stale, keys), (10, 1, 10, 0, 1));
    assert_eq!(lease, Duration::ZERO);
}

#[tokio::test]
async fn the_secret_is_compared_each_time_and_the_use_of_a_good_key_noted() {
    let setting = Setting::new().await;
    let issued = setting.known().await;
    let (head, _) = issued.plain_key.expose().split_at(20);
    let forged = PlainKey::parse(&format!("{head}{}", "A".repeat(27))).unwrap();
    assert_eq!(setting.verdict(&forged).await, Verdict::Unknown);
    let (bench, service) = (&setting.bench, &setting.bench.service);
    bench.clock.set(Bench::later(60));
    assert_eq!(setting.verdict(&forged).await, Verdict::Unknown);
    let read = service.key(Access::All, issued.key.id).await.unwrap();
    assert_eq!(read.last_used_at, Some(Bench::later(0)));
    assert_eq!(setting.verdict(&issued.plain_key).await, Verdict::Valid);
    let read = service.key(Access::All, issued.key.id).await.unwrap();
    assert_eq!(read.last_used_at, Some(Bench::later(60)));
}

#[tokio::test]
async fn what_is_told_of_a_key_is_what_the_store_has() {
    let setting = Setting::new().await;
    let issued = setting.known().await;
    let bench = &setting.bench;
    for _ in 0..2 {
        let verified = bench.service.verify(Access::All, &issued.plain_key).await;
        let Verification::Accepted(key) = verified.unwrap() else {
            panic!("refused")
        };
        assert_eq!(
            (key.id(), key.account_id()),
            (issued.key.id, bench.tenant.id)
        );
        assert_eq!((key.name(), key.scopes()), ("Known", &Scopes::All));
        assert_eq!(key.expires_at(), None);
        assert_eq!(key.access(), Access::Account(bench.tenant.id));
        let authenticated = bench.service.authenticate(&issued.plain_key).await.unwrap();
        let crate::Authentication::Accepted(caller) = authenticated else {
            panic!("refused")
        };
        assert_eq!(key.principal(), caller.principal());
    }
}

#[tokio::test]
async fn a_tenant_learns_of_its_own_keys_only_and_uses_no_other() {
    let setting = Setting::new().await;
    let issued = setting.known().await;
    let bench = &setting.bench;
    bench.clock.set(Bench::later(60));
    let stranger = Access::Account(AccountId::from_random_bytes([9; 16]));
    let told = bench.service.verify(stranger, &issued.plain_key).await;
    let told = told.unwrap();
    assert!(matches!(
        told,
        Verification::Refused(Verdict::Unknown, None)
    ));
    let read = bench.service.key(Access::All, issued.key.id).await.unwrap();
    assert_eq!(read.last_used_at, Some(Bench::later(0)));
    let own = Access::Account(bench.tenant.id);
    let told = bench.service.verify(own, &issued.plain_key).await.unwrap();
    assert_eq!(told.verdict(), Verdict::Valid);
}

/// Every way to change something that verification looks at or tells.
#[tokio::test]
async fn what_was_changed_here_is_so_from_the_answer_on() {
    let setting = Setting::new().await;
    let issued = setting.known().await;
    let (service, id) = (&setting.bench.service, issued.key.id);
    let (all, operator) = (Bench::all(), Bench::operator());
    let own = setting.bench.tenant.id;
    let ask = async || setting.verdict(&issued.plain_key).await;

    service.revoke_key(&all, id).await.unwrap();
    assert_eq!(ask().await, Verdict::Revoked);
    service.reactivate_key(&all, id).await.unwrap();
    assert_eq!(ask().await, Verdict::Valid);
    service.delete_key(&all, id).await.unwrap();
    assert_eq!(ask().await, Verdict::Deleted);
    service.restore_key(&all, id).await.unwrap();
    assert_eq!(ask().await, Verdict::Valid);
    service.suspend_account(&operator, own).await.unwrap();
    assert_eq!(ask().await, Verdict::AccountSuspended);
    service.activate_account(&operator, own).await.unwrap();
    assert_eq!(ask().await, Verdict::Valid);

    let docs = ScopeSet::new([Scope::parse("docs:read").unwrap()]).unwrap();
    let change = KeyChange {
        name: Some(KeyName::parse("Renamed").unwrap()),
        scopes: Some(Scopes::Only(docs.clone())),
        ..KeyChange::default()
    };
    service.update_key(&all, id, &change).await.unwrap();
    let verified = service
        .verify(Access::All, &issued.plain_key)
        .await
        .unwrap();
    let Verification::Accepted(key) = verified else {
        panic!("refused")
    };
    assert_eq!((key.name(), key.scopes()), ("Renamed", &Scopes::Only(docs)));

    service.delete_account(&operator, own).await.unwrap();
    assert_eq!(ask().await, Verdict::AccountDeleted);
}

#[tokio::test]
async fn a_key_ends_at_its_expiry_also_where_it_is_known() {
    let setting = Setting::new().await;
    let expiry = Some(Bench::later(10));
    let issued = setting.bench.issue_expiring("Trial", expiry).await;
    for (second, expected) in [
        (0, Verdict::Valid),
        (9, Verdict::Valid),
        (10, Verdict::Expired),
    ] {
        setting.bench.clock.set(Bench::later(second));
        assert_eq!(setting.verdict(&issued.plain_key).await, expected);
    }
}

#[tokio::test]
async fn a_prefix_that_nobody_has_is_looked_up_once_and_a_new_key_is_not_hidden() {
    let setting = Setting::new().await;
    let stranger = generate_api_key([77; 32]);
    let asked = setting.store.lookups();
    for _ in 0..10 {
        assert_eq!(setting.verdict(&stranger).await, Verdict::Unknown);
    }
    assert_eq!(setting.store.lookups(), asked + 1);
    // Now somebody gets this very key.
    let bench = &setting.bench;
    let mut key = bench.issue("Model").await.key;
    key.id = KeyId::from_random_bytes([7; 16]);
    key.key_prefix = stranger.prefix();
    key.key_hash = Bench::keyring().hash(&stranger).hash;
    let origin = Bench::all().origin;
    let auditor = bench.service.auditor(&origin, bench.clock.now()).await;
    let entry = auditor.unwrap().key_made(AuditAction::KeyCreated, &key);
    bench
        .service
        .stores
        .keys
        .create(&key, &entry)
        .await
        .unwrap();
    assert_eq!(setting.verdict(&stranger).await, Verdict::Valid);
}

#[tokio::test]
async fn many_who_ask_at_once_are_one_question_and_share_what_comes_of_it() {
    let setting = Setting::new().await;
    let issued = setting.bench.issue("Popular").await;
    for away in [true, false] {
        setting.store.is_away.store(away, Ordering::SeqCst);
        setting.store.held.store(true, Ordering::SeqCst);
        let before = setting.store.lookups();
        let mut asking = Vec::new();
        for _ in 0..50 {
            let (service, key) = (setting.bench.service.clone(), issued.plain_key.clone());
            asking.push(tokio::spawn(async move {
                service.verify(Access::All, &key).await
            }));
        }
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        assert_eq!(setting.store.lookups(), before + 1);
        setting.store.held.store(false, Ordering::SeqCst);
        setting.store.release.notify_one();
        for asked in asking {
            match asked.await.unwrap() {
                Ok(verified) => assert!(!away && verified.verdict() == Verdict::Valid),
                Err(error) => {
                    assert!(away && error.is_retryable());
                    assert_eq!(
                        crate::Chain(&error).to_string(),
                        "the store is not available: pulled the plug"
                    );
                }
            }
        }
    }
    // The error was not kept: the second round asked again.
    assert_eq!(setting.verdict(&issued.plain_key).await, Verdict::Valid);
}

#[tokio::test]
async fn whoever_asks_may_go_away_and_those_who_wait_ask_themselves() {
    let setting = Setting::new().await;
    let issued = setting.bench.issue("Popular").await;
    let first = setting.begin(&issued.plain_key).await;
    let (service, key) = (setting.bench.service.clone(), issued.plain_key.clone());
    let second = tokio::spawn(async move { service.verify(Access::All, &key).await });
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert_eq!(second.await.unwrap().unwrap().verdict(), Verdict::Valid);
}

/// A fill that read before a change, and would publish after it.
async fn verdict_after_a_late_fill(sabotage: Sabotage, stop_account: bool) -> Verdict {
    let setting = Setting::without(sabotage).await;
    let issued = setting.bench.issue("Late").await;
    let begun = setting.begin(&issued.plain_key).await;
    let service = &setting.bench.service;
    if stop_account {
        let own = setting.bench.tenant.id;
        service
            .suspend_account(&Bench::operator(), own)
            .await
            .unwrap();
    } else {
        service
            .revoke_key(&Bench::all(), issued.key.id)
            .await
            .unwrap();
    }
    setting.store.release.notify_one();
    assert_eq!(
        begun.await.unwrap(),
        Verdict::Valid,
        "it began before the change"
    );
    setting.verdict(&issued.plain_key).await
}

#[tokio::test]
async fn a_fill_does_not_bring_back_what_was_changed_while_it_was_underway() {
    assert_eq!(
        verdict_after_a_late_fill(Sabotage::Nothing, false).await,
        Verdict::Revoked
    );
    assert_eq!(
        verdict_after_a_late_fill(Sabotage::Nothing, true).await,
        Verdict::AccountSuspended
    );
    if cfg!(feature = "sabotage") {
        assert_eq!(
            verdict_after_a_late_fill(Sabotage::NoFence, false).await,
            Verdict::Valid
        );
        assert_eq!(
            verdict_after_a_late_fill(Sabotage::NoFence, true).await,
            Verdict::Valid
        );
    }
}

/// Whoever asks after a change does not get the answer of somebody who asked before it.
#[tokio::test]
async fn a_fill_of_before_a_change_cannot_be_joined_after_it() {
    let setting = Setting::new().await;
    let issued = setting.bench.issue("Late").await;
    let begun = setting.begin(&issued.plain_key).await;
    let by = Bench::all();
    let revoked = setting.bench.service.revoke_key(&by, issued.key.id);
    revoked.await.unwrap();
    assert_eq!(setting.verdict(&issued.plain_key).await, Verdict::Revoked);
    setting.store.release.notify_one();
    assert_eq!(begun.await.unwrap(), Verdict::Valid);
    assert_eq!(setting.verdict(&issued.plain_key).await, Verdict::Revoked);
}

/// Somebody verifies between a change's decision and its commit.
async fn verdict_after_a_fill_before_the_commit(sabotage: Sabotage) -> Verdict {
    let setting = Setting::without(sabotage).await;
    let issued = setting.known().await;
    let meanwhile = (setting.bench.service.clone(), issued.plain_key.clone());
    *setting.store.meanwhile.lock().await = Some(meanwhile);
    let by = Bench::all();
    let revoked = setting.bench.service.revoke_key(&by, issued.key.id);
    revoked.await.unwrap();
    setting.verdict(&issued.plain_key).await
}

#[tokio::test]
async fn what_was_known_goes_after_the_commit() {
    let sound = verdict_after_a_fill_before_the_commit(Sabotage::Nothing).await;
    assert_eq!(sound, Verdict::Revoked);
    if cfg!(feature = "sabotage") {
        let unsound = verdict_after_a_fill_before_the_commit(Sabotage::ForgetEarly).await;
        assert_eq!(unsound, Verdict::Valid);
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_no_refusal_and_old_knowledge_is_used_only_where_that_is_allowed() {
    let second = Duration::from_secs(1);
    for (allowed, expected) in [(Duration::ZERO, None), (5 * second, Some(Verdict::Valid))] {
        let setting = Setting::allowing(allowed).await;
        let (clock, service) = (&setting.bench.clock, &setting.bench.service);
        let issued = setting.known().await;
        let unknown = setting.bench.issue("Not known").await;
        setting.store.is_away.store(true, Ordering::SeqCst);
        assert_eq!(setting.verdict(&issued.plain_key).await, Verdict::Valid);
        clock.run_on(second);
        let told = service.verify(Access::All, &issued.plain_key).await;
        assert_eq!(told.ok().map(|told| told.verdict()), expected);
        let told = service.verify(Access::All, &unknown.plain_key).await;
        assert!(told.unwrap_err().is_retryable());
        clock.run_on(5 * second);
        let told = service.verify(Access::All, &issued.plain_key).await;
        assert!(told.unwrap_err().is_retryable());
        // When everything has been dropped, nothing is known, however long it may be used.
        service.verifier.cache.forget_everything();
        service.verifier.cache.lease.extend(service.lease_time());
        let told = service.verify(Access::All, &issued.plain_key).await;
        assert!(told.unwrap_err().is_retryable());
    }
}

/// What was refused may have been brought back, and what nobody had may have been made.
#[tokio::test]
async fn old_knowledge_lets_in_and_never_refuses() {
    let setting = Setting::allowing(Duration::from_secs(30)).await;
    let (clock, service) = (&setting.bench.clock, &setting.bench.service);
    let second = Duration::from_secs(1);
    let good = setting.known().await.plain_key;
    let revoked = setting.bench.issue("Revoked").await;
    service
        .revoke_key(&Bench::all(), revoked.key.id)
        .await
        .unwrap();
    let expiry = Some(Bench::later(10));
    let expired = setting
        .bench
        .issue_expiring("Trial", expiry)
        .await
        .plain_key;
    let stranger = generate_api_key([77; 32]);
    let (head, _) = good.expose().split_at(20);
    let forged = PlainKey::parse(&format!("{head}{}", "A".repeat(27))).unwrap();
    for key in [&revoked.plain_key, &expired, &stranger, &forged] {
        setting.verdict(key).await;
    }
    clock.run_on(2 * second);
    clock.set(Bench::later(10));
    setting.store.is_away.store(true, Ordering::SeqCst);
    assert_eq!(setting.verdict(&good).await, Verdict::Valid);
    for key in [&revoked.plain_key, &expired, &stranger, &forged] {
        let told = service.verify(Access::All, key).await;
        assert!(told.unwrap_err().is_retryable());
    }
}

/// What the store said last counts, also where it was asked because the lease was over.
#[tokio::test]
async fn what_was_read_without_a_lease_replaces_what_was_known() {
    let setting = Setting::allowing(Duration::from_secs(30)).await;
    let (clock, service) = (&setting.bench.clock, &setting.bench.service);
    let second = Duration::from_secs(1);
    let issued = setting.known().await;
    // Nobody is told of it here.
    let other = service_on(service, Bench::keyring());
    let mut elsewhere = other.clone();
    elsewhere.stores.keys = setting.store.keys.clone();
    elsewhere.prepare(None).await.unwrap();
    elsewhere
        .revoke_key(&Bench::all(), issued.key.id)
        .await
        .unwrap();
    clock.run_on(2 * second);
    assert_eq!(setting.verdict(&issued.plain_key).await, Verdict::Revoked);
    setting.store.is_away.store(true, Ordering::SeqCst);
    let told = service.verify(Access::All, &issued.plain_key).await;
    assert!(told.unwrap_err().is_retryable());
}

/// Whoever may speak in the database may say anything of nodes.
#[test]
fn nodes_that_are_none_take_no_room_and_no_time_without_end() {
    let nodes = nodes::Nodes::default();
    let at = Duration::from_secs;
    nodes.listening(at(0));
    for n in 0..5_000_u16 {
        let mut bytes = [9; 16];
        bytes[..2].copy_from_slice(&n.to_le_bytes());
        nodes.ticked(NodeId::from_random_bytes(bytes), Duration::MAX, at(1));
    }
    let me = NodeId::from_random_bytes([1; 16]);
    let reckoned = |now| {
        let asked = nodes.ask(1, me, at(2), told([]), now);
        nodes.returned(1, me, now);
        asked.nodes()
    };
    assert_eq!(reckoned(at(2)), 1_001);
    // A day and an hour later, all of them are silent.
    assert_eq!(reckoned(at(1 + 25 * 3600)), 1);
}

fn told<const N: usize>(nodes: [(NodeId, Option<Duration>); N]) -> nodes::Told {
    nodes::Told::new(nodes.into_iter())
}

/// As above, but some are.
#[test]
fn a_node_for_which_there_was_no_room_is_reckoned_with_by_what_it_has_said() {
    let nodes = nodes::Nodes::default();
    let at = Duration::from_secs;
    let [me, other] = [1, 2].map(|byte| NodeId::from_random_bytes([byte; 16]));
    nodes.listening(at(0));
    for n in 0..1_000_u16 {
        let mut bytes = [9; 16];
        bytes[..2].copy_from_slice(&n.to_le_bytes());
        nodes.ticked(NodeId::from_random_bytes(bytes), at(60), at(1));
    }
    nodes.ticked(other, at(30), at(50));
    for (now, expected) in [(at(60), 1_002), (at(79), 2), (at(80), 1)] {
        let asked = nodes.ask(1, me, at(2), told([(other, Some(at(30)))]), now);
        nodes.returned(1, me, now);
        assert_eq!(asked.nodes(), expected, "{now:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_hashed_anew_elsewhere_is_looked_up_again_when_its_secret_is_gone() {
    let setting = Setting::new().await;
    let issued = setting.known().await;
    let service = &setting.bench.service;
    service.replace_keyring(rotated()).await.unwrap();
    assert_eq!(setting.verdict(&issued.plain_key).await, Verdict::Valid);
    service.flush_rehashes().await.unwrap();
    assert_eq!(setting.verdict(&issued.plain_key).await, Verdict::Valid);
    service.flush_rehashes().await.unwrap();
    assert_eq!(
        service.statistics().rehashed,
        1,
        "what was moved is known to be"
    );
    // Another node moved it, and this one has not heard of it.
    let elsewhere = Setting::new().await;
    let issued = elsewhere.known().await;
    let service = &elsewhere.bench.service;
    let other = service_on(service, rotated());
    other.prepare(None).await.unwrap();
    other.authenticate(&issued.plain_key).await.unwrap();
    other.flush_rehashes().await.unwrap();
    let mut with_new = elsewhere.bench.service.clone();
    with_new.keyring = Arc::new(std::sync::RwLock::new(Arc::new(only_new())));
    let verified = with_new.verify(Access::All, &issued.plain_key).await;
    assert_eq!(verified.unwrap().verdict(), Verdict::Valid);
}

/// What stands in for a record is under a secret, too, and it need not be one that the process has.
#[tokio::test]
async fn a_key_that_nobody_has_is_refused_under_any_secrets() {
    for secrets in [Bench::keyring(), rotated(), only_new()] {
        let mut setting = Setting::new().await;
        setting.bench.service.keyring = Arc::new(std::sync::RwLock::new(Arc::new(secrets)));
        let stranger = leadr_auth_domain::generate_api_key([77; 32]);
        for _ in 0..3 {
            assert_eq!(setting.verdict(&stranger).await, Verdict::Unknown);
        }
        let told = setting.bench.service.statistics().cache;
        assert_eq!((told.hits, told.misses), (2, 1));
    }
}

/// Two processes on one store, each with its own cache, which run.
struct Two {
    one: Setting,
    other: Service,
    running: Vec<tokio::task::JoinHandle<()>>,
}

impl Two {
    async fn start(config: VerificationConfig) -> Self {
        let one = Setting::unproven(config).await;
        let mut other = service_on(&one.bench.service, Bench::keyring());
        // As another process has it: it is heard, and not told.
        other.stores.keys = one.store.keys.clone();
        other.prepare(None).await.unwrap();
        let running = [&one.bench.service, &other]
            .map(|service| {
                let service = service.clone();
                tokio::spawn(service.run(std::future::pending()))
            })
            .into();
        Self {
            one,
            other,
            running,
        }
    }

    /// Waits until the first is told by a tick that it hears.
    async fn proven(&self) {
        while !self
            .one
            .bench
            .service
            .verifier
            .cache
            .may_answer(self.one.bench.service.lease_time())
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        for running in &self.running {
            running.abort();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_process_changes_is_heard() {
    let two = Two::start(VerificationConfig::default()).await;
    two.proven().await;
    let issued = two.one.known().await;
    let asked = two.one.store.lookups();
    assert_eq!(two.one.verdict(&issued.plain_key).await, Verdict::Valid);
    assert_eq!(two.one.store.lookups(), asked, "it is known");
    two.other
        .revoke_key(&Bench::all(), issued.key.id)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(two.one.verdict(&issued.plain_key).await, Verdict::Revoked);
}

/// A subscription that looks alive and delivers nothing: for how long is a revoked key let in?
async fn accepts_after_a_deaf_while(sabotage: Sabotage, while_it_lasts: Duration) -> bool {
    let config = VerificationConfig {
        sabotage,
        ..VerificationConfig::default()
    };
    let two = Two::start(config).await;
    two.proven().await;
    let issued = two.one.known().await;
    // Time stands still in these tests unless it is moved, so the lease does, too.
    for running in &two.running {
        running.abort();
    }
    tokio::task::yield_now().await;
    two.other
        .revoke_key(&Bench::all(), issued.key.id)
        .await
        .unwrap();
    two.one.bench.clock.run_on(while_it_lasts);
    if sabotage == Sabotage::WallClock {
        // Somebody corrects the time of day meanwhile.
        two.one.bench.clock.set(Bench::later(0));
    }
    two.one.verdict(&issued.plain_key).await == Verdict::Valid
}

#[tokio::test(start_paused = true)]
async fn without_ticks_that_come_back_nothing_is_relied_on_beyond_the_bound() {
    let bound = VerificationConfig::default().bound;
    let short = Duration::from_millis(1);
    assert!(accepts_after_a_deaf_while(Sabotage::Nothing, bound.saturating_sub(short)).await);
    assert!(!accepts_after_a_deaf_while(Sabotage::Nothing, bound).await);
    if cfg!(feature = "sabotage") {
        let hour = Duration::from_hours(1);
        assert!(accepts_after_a_deaf_while(Sabotage::NoTicks, hour).await);
        assert!(accepts_after_a_deaf_while(Sabotage::WallClock, hour).await);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_deaf_listens_anew_and_drops_what_it_knew() {
    let two = Two::start(VerificationConfig::default()).await;
    two.proven().await;
    let issued = two.one.known().await;
    let follower = || {
        let service = &two.one.bench.service;
        let config = service.config.verification.clone();
        let (cache, nodes) = (
            service.verifier.cache.clone(),
            service.verifier.nodes.clone(),
        );
        follower::Follower::new(cache, nodes, config, NodeId::from_random_bytes([1; 16]))
    };
    let mut follower = follower();
    let at = Duration::from_secs;
    follower.listens(at(100));
    assert!(!follower.is_deaf(at(102)));
    assert!(follower.is_deaf(at(103)), "no tick came back");
    let number = follower.tick(at(103));
    let tick = |number| {
        Heard::Signal(Signal::Tick {
            node: NodeId::from_random_bytes([1; 16]),
            number,
            patience: at(2),
        })
    };
    follower.hear(tick(number + 1), at(104));
    assert!(
        follower.is_deaf(at(104)),
        "another one's, or none of this subscription's"
    );
    let number = follower.tick(at(104));
    follower.hear(tick(number), at(105));
    assert!(!follower.is_deaf(at(105)));
    let asked = two.one.store.lookups();
    two.one.verdict(&issued.plain_key).await;
    assert_eq!(
        two.one.store.lookups(),
        asked + 1,
        "it dropped what it knew"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_propagation_is_answered_by_every_node() {
    let two = Two::start(VerificationConfig::default()).await;
    two.proven().await;
    let service = &two.one.bench.service;
    // The first time they have just begun to listen. The tests' clock does not go by itself.
    for steps in [0, 10] {
        for _ in 0..steps {
            two.one.bench.clock.run_on(Duration::from_millis(500));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let before = tokio::time::Instant::now();
        let told = service.await_propagation().await;
        assert_eq!((told.propagated, told.nodes), (true, 2));
        assert!(
            before.elapsed() < Duration::from_millis(100),
            "both answered"
        );
    }

    // The other one stops to listen, and its lease has to run out.
    two.running[1].abort();
    tokio::task::yield_now().await;
    let before = tokio::time::Instant::now();
    let told = service.await_propagation().await;
    assert_eq!((told.propagated, told.nodes), (true, 2));
    let bound = VerificationConfig::default().bound;
    assert!(before.elapsed() >= bound, "{:?}", before.elapsed());
}

/// One that is deaf, and has not found out yet, hears of no other node: that does not mean that there is none.
#[tokio::test(start_paused = true)]
async fn whoever_hears_nothing_waits_until_nobody_can_go_by_anything_older() {
    let two = Two::start(VerificationConfig::default()).await;
    two.proven().await;
    for _ in 0..10 {
        two.one.bench.clock.run_on(Duration::from_millis(500));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let bound = VerificationConfig::default().bound;
    two.running[0].abort();
    tokio::task::yield_now().await;
    two.one.bench.clock.run_on(bound);
    let before = tokio::time::Instant::now();
    let told = two.one.bench.service.await_propagation().await;
    assert_eq!(
        (told.propagated, told.nodes),
        (true, 0),
        "who knows how many there are"
    );
    assert!(before.elapsed() >= bound, "{:?}", before.elapsed());
}

/// Who is to answer is known when the question has come back, since the others' ticks come in the same order.
#[test]
fn whoever_asks_waits_for_those_of_whom_it_hears_before_its_question_comes_back() {
    let nodes = nodes::Nodes::default();
    let [me, other] = [1, 2].map(|byte| NodeId::from_random_bytes([byte; 16]));
    let at = Duration::from_secs;
    nodes.listening(at(0));
    let mut asked = nodes.ask(7, me, at(2), told([]), at(10));
    assert_eq!((asked.until(), asked.nodes()), (at(12), 0), "not back");
    nodes.ticked(other, at(2), at(11));
    nodes.returned(7, me, at(11));
    assert_eq!((asked.until(), asked.nodes()), (at(12), 2));
    nodes.seen(8, other);
    nodes.seen(7, me);
    assert_eq!(
        asked.until(),
        at(12),
        "nobody else can answer, nor another question"
    );
    nodes.seen(7, other);
    assert_eq!((asked.until(), asked.nodes()), (Duration::ZERO, 2));

    // While it did not listen it may have missed a tick.
    nodes.ticked(other, at(60), at(12));
    let there = told([(other, Some(at(60)))]);
    let mut asked = nodes.ask(7, me, at(2), there, at(20));
    nodes.lost();
    nodes.listening(at(21));
    nodes.returned(7, me, at(75));
    assert_eq!((asked.until(), asked.nodes()), (at(80), 2));
    let asked = nodes.ask(8, me, at(2), told([]), at(81));
    nodes.lost();
    nodes.returned(8, me, at(81));
    assert_eq!(asked.nodes(), 0, "it does not listen");
}

/// What nodes have said of themselves names all that were there before anybody listened.
#[test]
fn whoever_has_just_begun_to_listen_waits_for_all_that_have_said_that_they_are_there() {
    let nodes = nodes::Nodes::default();
    let [me, other, third] = [1, 2, 3].map(|byte| NodeId::from_random_bytes([byte; 16]));
    let at = Duration::from_secs;
    nodes.listening(at(100));
    let all = || {
        told([
            (me, Some(at(2))),
            (other, Some(at(2))),
            (third, Some(at(60))),
        ])
    };
    let mut asked = nodes.ask(7, me, at(2), all(), at(101));
    assert_eq!(asked.until(), at(161));
    nodes.returned(7, me, at(101));
    assert_eq!((asked.until(), asked.nodes()), (at(160), 3));
    nodes.seen(7, third);
    assert_eq!(asked.until(), at(102));
    nodes.seen(7, other);
    assert_eq!(asked.until(), Duration::ZERO);

    // One that is not heard for longer than its patience is not there any more.
    for (now, expected) in [(at(159), 2), (at(160), 1)] {
        let asked = nodes.ask(7, me, at(2), all(), now);
        nodes.returned(7, me, now);
        assert_eq!(asked.nodes(), expected);
    }
    // It may have been, while nobody listened.
    nodes.ticked(third, at(60), at(170));
    nodes.lost();
    nodes.listening(at(200));
    let mut asked = nodes.ask(7, me, at(2), all(), at(240));
    nodes.returned(7, me, at(240));
    assert_eq!((asked.until(), asked.nodes()), (at(260), 2));
    nodes.seen(7, third);
    assert_eq!(asked.until(), Duration::ZERO);
}

/// Who ends has its report forgotten before it says so. Whoever may speak in the database can say so of somebody else.
#[test]
fn that_a_node_has_ended_counts_where_its_report_is_gone() {
    let nodes = nodes::Nodes::default();
    let [me, other] = [1, 2].map(|byte| NodeId::from_random_bytes([byte; 16]));
    let at = Duration::from_secs;
    nodes.listening(at(0));
    nodes.ticked(other, at(60), at(99));
    let there = || told([(other, Some(at(60)))]);

    // It is said while somebody waits; or before.
    let mut asked = nodes.ask(7, me, at(2), there(), at(100));
    nodes.returned(7, me, at(100));
    nodes.ended(other);
    assert_eq!((asked.until(), asked.nodes()), (at(159), 2));
    let mut asked = nodes.ask(8, me, at(2), there(), at(101));
    assert_eq!(asked.until(), at(161));
    nodes.returned(8, me, at(101));
    assert_eq!((asked.until(), asked.nodes()), (at(159), 2));
    let mut asked = nodes.ask(9, me, at(2), told([]), at(102));
    nodes.returned(9, me, at(102));
    assert_eq!((asked.until(), asked.nodes()), (Duration::ZERO, 1));

    // Its report goes, and it is said after somebody has begun to wait.
    nodes.ticked(other, at(60), at(103));
    let mut asked = nodes.ask(10, me, at(2), told([]), at(104));
    nodes.returned(10, me, at(104));
    assert_eq!(asked.until(), at(163));
    nodes.ended(other);
    assert_eq!(asked.until(), Duration::ZERO);
}

/// Whoever may have the longest patience of all is waited for as if it had.
#[test]
fn a_node_whose_report_cannot_be_read_is_reckoned_with() {
    let nodes = nodes::Nodes::default();
    let [me, other] = [1, 2].map(|byte| NodeId::from_random_bytes([byte; 16]));
    let at = Duration::from_secs;
    let hours = |hours| Duration::from_hours(hours);
    nodes.listening(at(0));
    let mut asked = nodes.ask(7, me, at(2), told([(other, None)]), at(10));
    nodes.returned(7, me, at(10));
    assert_eq!((asked.until(), asked.nodes()), (hours(25), 2));
    nodes.seen(7, other);
    assert_eq!(asked.until(), Duration::ZERO);
    nodes.ticked(other, at(2), at(11));
    let mut asked = nodes.ask(7, me, at(2), told([(other, None)]), at(12));
    nodes.returned(7, me, at(12));
    assert_eq!(asked.until(), at(13), "it is known by what it told");
}

/// What is told of a node that was killed stays for a day; whoever has listened for longer than it may be silent knows better.
#[tokio::test(start_paused = true)]
async fn a_node_that_was_killed_is_not_waited_for_without_end() {
    let two = Two::start(VerificationConfig::default()).await;
    two.proven().await;
    let (service, clock) = (&two.one.bench.service, &two.one.bench.clock);
    let report = NodeReport {
        id: NodeId::from_random_bytes([9; 16]),
        patience: Duration::from_mins(1),
        ..service.stores.feed.nodes().await.unwrap().readable[0].clone()
    };
    two.one
        .store
        .reported
        .lock()
        .unwrap()
        .as_mut()
        .unwrap()
        .readable = vec![report];
    let run_on = async |seconds| {
        for _ in 0..seconds {
            clock.run_on(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    for (seconds, expected, at_most) in [
        (5, (false, 3), 10_100),
        (50, (true, 3), 6_000),
        (10, (true, 2), 100),
    ] {
        run_on(seconds).await;
        let before = tokio::time::Instant::now();
        let told = service.await_propagation().await;
        assert_eq!((told.propagated, told.nodes), expected);
        assert!(
            before.elapsed() < Duration::from_millis(at_most),
            "{:?}",
            before.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_read_what_nodes_say_of_themselves_cannot_tell() {
    let two = Two::start(VerificationConfig::default()).await;
    two.proven().await;
    *two.one.store.reported.lock().unwrap() = Err(());
    let told = two.one.bench.service.await_propagation().await;
    assert_eq!((told.propagated, told.nodes), (false, 0));
}

/// Whoever cannot hear a question cannot answer it in the name of somebody else.
#[tokio::test(start_paused = true)]
async fn the_number_of_a_question_cannot_be_guessed() {
    let two = Two::start(VerificationConfig::default()).await;
    two.proven().await;
    let service = &two.one.bench.service;
    let mut ear = service.stores.feed.subscribe().await.unwrap();
    let mut numbers = Vec::new();
    for _ in 0..3 {
        assert!(service.await_propagation().await.propagated);
        while let Ok(Ok(heard)) = tokio::time::timeout(Duration::from_millis(1), ear.next()).await {
            if let Heard::Signal(Signal::Probe(probe)) = heard {
                numbers.push(probe.number);
            }
        }
    }
    assert_eq!(numbers.len(), 3);
    for pair in numbers.windows(2) {
        assert!(pair[0].abs_diff(pair[1]) > 1 << 32, "{numbers:?}");
    }
}

#[test]
fn only_what_stays_the_same_for_longer_than_a_node_may_be_silent_is_silent() {
    let mut silent = nodes::Silent::default();
    let node = NodeId::from_random_bytes([1; 16]);
    let at = Duration::from_secs;
    for (asked, number, expected) in [
        (10, 1, vec![]),
        // It was seen a second after it was asked for.
        (13, 1, vec![]),
        (14, 1, vec![(node, 1)]),
        (20, 2, vec![]),
        (23, 2, vec![]),
        (30, 1, vec![]),
        (34, 1, vec![(node, 1)]),
    ] {
        let reports = [(node, number, at(2))].into_iter();
        assert_eq!(
            silent.find(reports, at(asked), at(asked + 1)),
            expected,
            "{asked}"
        );
    }
    assert_eq!(silent.find([].into_iter(), at(40), at(41)), []);
    let reports = [(node, 1, at(2))].into_iter();
    assert_eq!(silent.find(reports, at(50), at(51)), [], "it was not there");
}

/// A clock that is wrong by days is no reason to forget a node that runs.
#[tokio::test(start_paused = true)]
async fn what_a_node_said_is_forgotten_when_it_is_old_and_the_node_silent() {
    let two = Two::start(VerificationConfig::default()).await;
    two.proven().await;
    let (service, clock) = (&two.one.bench.service, &two.one.bench.clock);
    let feed = &service.stores.feed;
    let running = feed.nodes().await.unwrap().readable;
    let days = |days| {
        let at = Bench::later(0).as_offset_date_time() + time::Duration::days(days);
        Timestamp::new(at).unwrap()
    };
    let dead = |byte, seen_at| NodeReport {
        id: NodeId::from_random_bytes([byte; 16]),
        seen_at,
        ..running[0].clone()
    };
    let [old, young] = [dead(8, days(-2)), dead(9, days(0))];
    for report in [&old, &young] {
        feed.tick(report).await.unwrap();
    }
    // One that runs, by whose clock it is last week.
    let mut wrong = dead(10, days(-7));
    for _ in 0..200 {
        clock.run_on(Duration::from_secs(1));
        wrong.tick += 1;
        feed.tick(&wrong).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let left = feed.nodes().await.unwrap().readable;
    let is_left = |report: &NodeReport| left.iter().any(|it| it.id == report.id);
    assert!(is_left(&wrong) && is_left(&young) && running.iter().all(is_left));
    assert!(!is_left(&old));
}

/// A tool is no node, and hears the nodes all the same.
#[tokio::test(start_paused = true)]
async fn a_tool_waits_for_every_node() {
    let two = Two::start(VerificationConfig::default()).await;
    two.proven().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tool = service_on(&two.one.bench.service, Bench::keyring());
    let running = tool.stores.feed.nodes().await.unwrap().readable[0].clone();
    let usual = VerificationConfig::default().patience();
    let before = tokio::time::Instant::now();
    let onlooker = tool.look_on().await.unwrap();
    let told = tool.await_hearing(onlooker, usual).await;
    assert_eq!((told.propagated, told.nodes), (true, 2));
    assert!(
        before.elapsed() < Duration::from_millis(100),
        "both answered"
    );

    // One of them is gone without a word, and its lease has to run out.
    two.running[1].abort();
    tokio::task::yield_now().await;
    let before = tokio::time::Instant::now();
    let onlooker = tool.look_on().await.unwrap();
    let told = tool.await_hearing(onlooker, usual).await;
    assert_eq!((told.propagated, told.nodes), (true, 2));
    assert!(before.elapsed() >= usual, "{:?}", before.elapsed());

    // Another one, however patient, is waited for no more when it has answered.
    let report = |byte, patience| NodeReport {
        id: NodeId::from_random_bytes([byte; 16]),
        patience,
        ..running.clone()
    };
    let patient = report(9, Duration::from_mins(1));
    tool.stores.feed.tick(&patient).await.unwrap();
    for (answers, expected) in [(true, true), (false, false)] {
        let onlooker = tool.look_on().await.unwrap();
        let mut ear = tool.stores.feed.subscribe().await.unwrap();
        let (feed, by) = (tool.stores.feed.clone(), patient.id);
        let answering = tokio::spawn(async move {
            while let Ok(heard) = ear.next().await {
                if let Heard::Signal(Signal::Probe(probe)) = heard
                    && answers
                {
                    feed.send(&Signal::Seen { by, probe }).await.unwrap();
                }
            }
        });
        let before = tokio::time::Instant::now();
        let told = tool.await_hearing(onlooker, usual).await;
        assert_eq!((told.propagated, told.nodes), (expected, 3));
        assert_eq!(
            before.elapsed() < 2 * usual,
            expected,
            "{:?}",
            before.elapsed()
        );
        answering.abort();
    }

    // Where nobody says how they are, somebody may serve all the same.
    let alone = Bench::new().await.service;
    let before = tokio::time::Instant::now();
    let onlooker = alone.look_on().await.unwrap();
    let told = alone.await_hearing(onlooker, usual).await;
    assert_eq!((told.propagated, told.nodes), (true, 0));
    assert!(before.elapsed() >= usual);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ends_is_not_waited_for_and_not_listed() {
    let setting = Setting::unproven(VerificationConfig::default()).await;
    let service = setting.bench.service.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(service.clone().run(async {
        let _ = stopped.await;
    }));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let listed = service.stores.feed.nodes().await.unwrap().readable;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].patience, Duration::from_secs(2));
    assert!(listed[0].lease_age.is_some() && listed[0].lag.is_some());
    stop.send(()).unwrap();
    running.await.unwrap();
    let left = service.stores.feed.nodes().await.unwrap();
    assert_eq!(left, NodeReports::default());
}

#[tokio::test]
async fn a_full_cache_throws_out_and_stays_within_its_bytes() {
    let setting = Setting::unproven(VerificationConfig {
        cache_bytes: 64 << 10,
        ..VerificationConfig::default()
    })
    .await;
    let service = &setting.bench.service;
    service.verifier.cache.lease.extend(Duration::from_hours(1));
    let mut keys = Vec::new();
    for _ in 0..500 {
        keys.push(setting.known().await.plain_key);
    }
    let CacheStatistics {
        keys: kept, bytes, ..
    } = service.statistics().cache;
    assert!(bytes <= 64 << 10, "{bytes}");
    assert!((100..500).contains(&kept), "{kept}");
    for key in &keys {
        assert_eq!(setting.verdict(key).await, Verdict::Valid);
    }
}

#[tokio::test]
async fn the_bound_of_zero_turns_the_cache_off() {
    let two = Two::start(VerificationConfig {
        bound: Duration::ZERO,
        ..VerificationConfig::default()
    })
    .await;
    let issued = two.one.bench.issue("Uncached").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let asked = two.one.store.lookups();
    for n in 1..5 {
        assert_eq!(two.one.verdict(&issued.plain_key).await, Verdict::Valid);
        assert_eq!(two.one.store.lookups(), asked + n);
    }
}

/// When was a key last used, as the store has it, after a process that saw a use has ended in order?
async fn stored_use_after_the_end(sabotage: Sabotage) -> Option<Timestamp> {
    let setting = Setting::unproven(VerificationConfig {
        sabotage,
        ..VerificationConfig::default()
    })
    .await;
    let service = setting.bench.service.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(service.clone().run(async {
        let _ = stopped.await;
    }));
    tokio::time::sleep(Duration::from_millis(700)).await;
    let issued = setting.known().await;
    stop.send(()).unwrap();
    running.await.unwrap();
    let stored = service.stores.keys.get(issued.key.id, Rows::Live).await;
    stored.unwrap().unwrap().last_used_at
}

#[tokio::test(start_paused = true)]
async fn the_last_uses_are_written_at_the_end() {
    let sound = stored_use_after_the_end(Sabotage::Nothing).await;
    assert_eq!(sound, Some(Bench::later(0)));
    if cfg!(feature = "sabotage") {
        assert_eq!(stored_use_after_the_end(Sabotage::NoLastFlush).await, None);
    }
}

/// Whoever else has keys of the same account meanwhile, the cache takes off what it has added up.
#[tokio::test]
async fn what_a_key_weighs_stays_what_it_was_when_the_cache_took_it() {
    let bench = Bench::new().await;
    let cache = VerificationCache::new(1 << 20, Sabotage::Nothing);
    let fill = async |key: &PlainKey, forgotten: bool| {
        let Fill::Own(fill) = cache.begin(key.prefix_code()) else {
            panic!("there is no other")
        };
        if forgotten {
            cache.forget_key(&key.prefix());
        }
        fill.end(bench.service.stores.lookup.find(&key.prefix()).await)
    };
    let first = bench.issue("First").await.plain_key;
    let second = bench.issue("Second").await.plain_key;
    // The first one is in use, and not kept.
    let in_use = fill(&first, true).await;
    assert_eq!(cache.size(), (0, 0));
    fill(&second, false).await.unwrap();
    drop(in_use);
    cache.forget_key(&second.prefix());
    assert_eq!(cache.size(), (0, 0));
    // Several that share an account, and go in the order in which they came.
    for key in [&first, &second] {
        fill(key, false).await.unwrap();
    }
    for key in [&first, &second] {
        cache.forget_key(&key.prefix());
    }
    assert_eq!(cache.size(), (0, 0));
}

/// Gives no random bytes.
struct Dry;

impl leadr_auth_ports::Entropy for Dry {
    fn fill(&self, _: &mut [u8]) -> Result<(), leadr_auth_ports::EntropyError> {
        Err(leadr_auth_ports::EntropyError("none left".into()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_an_id_goes_on_with_all_else_that_it_does() {
    let mut service = Bench::new().await.service;
    service.entropy = Arc::new(Dry);
    let running = tokio::spawn(service.run(std::future::pending()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!running.is_finished());
    running.abort();
}
