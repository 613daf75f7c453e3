//! While the database is away, and after.

use std::time::{Duration, Instant};

use leadr_auth_postgres::testing::{ChaosProxy, TestDatabase};
use serde_json::json;

use crate::support::{Answer, System};

/// Promised is 300 ms with the default timeout; the room is for a machine that does other things too.
const SOON: Duration = Duration::from_millis(1500);

/// Promised is 5 s.
const BACK: Duration = Duration::from_secs(5);

/// The settings of a user who set none.
const DEFAULT_TIMEOUT: [(&str, &str); 1] = [("DATABASE_TIMEOUT_MS", "250")];

#[track_caller]
fn assert_unavailable(answer: &Answer) {
    assert_eq!(answer.status.as_u16(), 503, "{}", answer.text);
    assert_eq!(answer.json()["code"], "service_unavailable");
    assert!(answer.headers.contains_key("retry-after"));
    assert!(answer.took < SOON, "took {:?}", answer.took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_without_its_database_and_serves_when_that_arrives() {
    let database = TestDatabase::create_empty().await;
    let mut proxy = ChaosProxy::start(database.url()).await;
    proxy.cut().await;
    let system = System::start(&proxy.url(database.url()), &DEFAULT_TIMEOUT).await;
    system.get("/livez", None).await.expect(200);
    let unready = system.get("/readyz", None).await;
    assert!(unready.headers.contains_key("retry-after"));
    unready.expect(503);
    let health = system.get("/v1/health", None).await.expect(200);
    assert_eq!(
        health,
        json!({"status": "degraded", "database": "unhealthy"})
    );
    assert_unavailable(&system.get("/v1/accounts", Some(&system.operator)).await);
    system.get("/v1/accounts", None).await.expect(401);
    proxy.restore().await;
    system.ready_within(BACK).await;
    system
        .get("/v1/accounts", Some(&system.operator))
        .await
        .expect(200);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_and_comes_back() {
    let database = TestDatabase::create_empty().await;
    let mut proxy = ChaosProxy::start(database.url()).await;
    let system = System::start(&proxy.url(database.url()), &DEFAULT_TIMEOUT).await;
    system.ready_within(Duration::from_secs(30)).await;
    let account = system.account("Acme", "acme").await;
    let (path, key) = system.key(&account, "K").await;
    for fault in ["refuses", "is silent"] {
        if fault == "refuses" {
            proxy.cut().await;
        } else {
            proxy.black_hole();
        }
        for _ in 0..5 {
            assert_unavailable(&system.get(&path, Some(&key)).await);
            let change = json!({"status": "revoked"});
            assert_unavailable(&system.patch(&path, &system.operator, change).await);
        }
        system.get("/livez", None).await.expect(200);
        system.get("/readyz", None).await.expect(503);
        proxy.restore().await;
        let restored = Instant::now();
        while system.get(&path, Some(&key)).await.status.as_u16() != 200 {
            assert!(
                restored.elapsed() < BACK,
                "not back after the database {fault}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    system.stop().await;
}

/// Under load, through several interruptions: 200 or 503, never 401, and service after each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_valid_key_is_refused_while_the_database_comes_and_goes() {
    let database = TestDatabase::create_empty().await;
    let mut proxy = ChaosProxy::start(database.url()).await;
    let system =
        std::sync::Arc::new(System::start(&proxy.url(database.url()), &DEFAULT_TIMEOUT).await);
    system.ready_within(Duration::from_secs(30)).await;
    let account = system.account("Acme", "acme").await;
    let (path, key) = system.key(&account, "K").await;
    let (done, _) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (system, path, key, done) = (
                std::sync::Arc::clone(&system),
                path.clone(),
                key.clone(),
                done.subscribe(),
            );
            tokio::spawn(async move {
                let (mut served, mut unavailable) = (0, 0);
                while !*done.borrow() {
                    match system.get(&path, Some(&key)).await.status.as_u16() {
                        200 => served += 1,
                        503 => unavailable += 1,
                        other => panic!("{other}"),
                    }
                }
                (served, unavailable)
            })
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.cut().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.restore().await;
        let restored = Instant::now();
        while system.get(&path, Some(&key)).await.status.as_u16() != 200 {
            assert!(restored.elapsed() < BACK);
        }
    }
    done.send(true).unwrap();
    let (mut served, mut unavailable) = (0, 0);
    for client in clients {
        let counts = client.await.unwrap();
        served += counts.0;
        unavailable += counts.1;
    }
    assert!(
        served > 0 && unavailable > 0,
        "served {served}, unavailable {unavailable}"
    );
    std::sync::Arc::into_inner(system).unwrap().stop().await;
}
