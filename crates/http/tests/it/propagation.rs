//! `?wait=propagated`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::rt::time::{sleep, timeout};
use async_trait::async_trait;
use leadr_auth_domain::{
    AccountId, ApiKey, AuditDraft, IdempotentRequest, KeyId, NodeId, Timestamp,
};
use leadr_auth_ports::{
    CreateKeyError, KeyChangeFn, KeyQuery, KeyRepository, NodeReport, Once, Rows, StoreError,
    UpdateKeyError,
    listing::{Page, Sort},
};
use serde_json::json;
use tokio::sync::Notify;

use crate::support::{Answer, Api, NOBODY, stores};

/// What is told of how far a change has got.
fn told(answer: &Answer) -> [&str; 3] {
    ["propagated", "nodes", "propagation-ms"].map(|name| answer.header(&format!("x-leadr-{name}")))
}

fn account_of_one(api: &Api) -> String {
    format!("/v1/accounts/{}", api.one.account)
}

/// Lets the service run, and waits until it hears.
async fn listen(api: &Api) {
    actix_web::rt::spawn(api.service.clone().run(std::future::pending()));
    while api.service.statistics().cache.lease.is_zero() {
        sleep(Duration::from_millis(5)).await;
    }
}

#[actix_web::test]
async fn a_change_is_answered_when_every_node_has_heard_of_it() {
    let api = Api::new().await;
    listen(&api).await;
    for path in [api.key_of_one(), account_of_one(&api)] {
        let body = json!({"name": "Changed"});
        let asked = Instant::now();
        let answer = api
            .patch(&format!("{path}?wait=propagated"), &api.operator, body)
            .await
            .expect(200);
        assert_eq!(answer.json()["name"], "Changed");
        let [propagated, nodes, took] = told(&answer);
        assert_eq!((propagated, nodes), ("true", "1"));
        let _: u64 = took.parse().unwrap();
        // Though it has listened for a moment only: nobody else has ever said that they are there.
        assert!(asked.elapsed() < Duration::from_secs(1), "it waited");
        let plain = api.get(&path, &api.operator).await.expect(200);
        assert_eq!(plain.text, answer.text, "the usual body");
    }
}

#[actix_web::test]
async fn who_does_not_listen_cannot_tell() {
    let api = Api::new().await;
    let path = format!("{}?wait=propagated", api.key_of_one());
    let body = json!({"status": "revoked"});
    let answer = api.patch(&path, &api.operator, body).await.expect(200);
    assert_eq!(told(&answer), ["false", "0", "0"]);
    assert_eq!(
        answer.json()["status"],
        "revoked",
        "the change is made all the same"
    );
}

#[actix_web::test]
async fn who_does_not_ask_is_told_nothing() {
    let api = Api::new().await;
    for path in [api.key_of_one(), account_of_one(&api)] {
        let answer = api.patch(&path, &api.operator, json!({})).await.expect(200);
        assert_eq!(told(&answer), ["", "", ""]);
    }
    // Nor who asked for what could not be done.
    let path = format!("/v1/api-keys/{NOBODY}?wait=propagated");
    let answer = api.patch(&path, &api.operator, json!({})).await.expect(404);
    assert_eq!(told(&answer), ["", "", ""]);
}

#[actix_web::test]
async fn a_wish_that_is_none_changes_nothing() {
    let api = Api::new().await;
    for path in [api.key_of_one(), account_of_one(&api)] {
        let before = api.get(&path, &api.operator).await.expect(200).text;
        for (query, faults) in [
            ("wait=", &["enum query.wait"][..]),
            ("wait", &["enum query.wait"]),
            ("wait=true", &["enum query.wait"]),
            ("wait=Propagated", &["enum query.wait"]),
            ("wait=propagated&wait=propagated", &["duplicate query.wait"]),
            ("wiat=propagated", &["extra_forbidden query.wiat"]),
            ("wait=propagated&x=1", &["extra_forbidden query.x"]),
        ] {
            let path = format!("{path}?{query}");
            let body = json!({"name": "Changed"});
            let answer = api.patch(&path, &api.operator, body).await;
            assert_eq!(answer.faults(), faults, "{query}");
        }
        let after = api.get(&path, &api.operator).await.expect(200).text;
        assert_eq!(before, after);
    }
    let path = format!("{}?wait=no", api.key_of_one());
    let both = api.patch(&path, &api.operator, json!({"x": 1})).await;
    assert_eq!(both.faults(), ["enum query.wait", "extra_forbidden body.x"]);
}

/// Takes its time to change a key, and says when it begins.
struct Slow(Arc<dyn KeyRepository>, Arc<Notify>);

#[async_trait]
impl KeyRepository for Slow {
    async fn create(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        self.0.create(key, entry).await
    }

    async fn adopt(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        self.0.adopt(key, entry).await
    }

    async fn create_once(
        &self,
        key: &ApiKey,
        entry: &AuditDraft,
        request: &IdempotentRequest,
    ) -> Result<Once<KeyId>, CreateKeyError> {
        self.0.create_once(key, entry, request).await
    }

    async fn get(&self, id: KeyId, rows: Rows) -> Result<Option<ApiKey>, StoreError> {
        self.0.get(id, rows).await
    }

    async fn update<'a>(
        &self,
        id: KeyId,
        change: &'a mut KeyChangeFn<'a>,
    ) -> Result<ApiKey, UpdateKeyError> {
        self.1.notify_one();
        sleep(Duration::from_millis(50)).await;
        self.0.update(id, change).await
    }

    async fn page(&self, query: &KeyQuery) -> Result<Page<ApiKey, Sort<KeyId>>, StoreError> {
        self.0.page(query).await
    }

    async fn count_active(&self, account_id: AccountId) -> Result<u64, StoreError> {
        self.0.count_active(account_id).await
    }
}

/// Whoever waits may lose patience; what they wanted is done.
#[actix_web::test]
async fn a_change_is_made_whoever_goes_away_meanwhile() {
    let mut stores = stores();
    let begun = Arc::new(Notify::new());
    stores.keys = Arc::new(Slow(stores.keys, Arc::clone(&begun)));
    let api = Api::on(stores).await;
    listen(&api).await;
    for (query, status) in [("", "revoked"), ("?wait=propagated", "active")] {
        let path = format!("{}{query}", api.key_of_one());
        let change = api.patch(&path, &api.operator, json!({"status": status}));
        tokio::select! {
            _ = change => panic!("it did not take its time"),
            () = begun.notified() => {}
        }
        let is_done = async {
            while api.get(&api.key_of_one(), &api.operator).await.json()["status"] != status {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let done = timeout(Duration::from_secs(10), is_done).await;
        assert!(done.is_ok(), "{query}: the change was given up");
    }
}

/// What another node has said of itself, that hears nothing.
fn report() -> NodeReport {
    let at = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
    NodeReport {
        id: NodeId::from_random_bytes([9; 16]),
        name: "other".to_owned(),
        version: "1.0.0".to_owned(),
        tick: 1,
        started_at: at,
        seen_at: at,
        patience: Duration::from_secs(2),
        lease_age: None,
        lag: None,
    }
}

#[actix_web::test]
async fn it_does_wait() {
    let stores = stores();
    stores.feed.tick(&report()).await.unwrap();
    let api = Api::on(stores).await;
    listen(&api).await;
    let path = format!("{}?wait=propagated", api.key_of_one());
    let change = api.patch(&path, &api.operator, json!({"status": "revoked"}));
    let impatient = timeout(Duration::from_millis(100), change);
    assert!(impatient.await.is_err(), "it did not wait");
    // And not longer than the other one may go on by what it knew.
    let (body, asked) = (json!({"status": "active"}), Instant::now());
    let answer = api.patch(&path, &api.operator, body).await.expect(200);
    let [propagated, nodes, _] = told(&answer);
    assert_eq!((propagated, nodes), ("true", "2"));
    assert!(asked.elapsed() < Duration::from_secs(4), "it waited on");
}
