//! Who waits for whom. The races of the contract suite find a missing lock by luck; here it is found every time, because
//! somebody else holds the row until the adapter is seen to wait for it.

use std::time::Duration;

use leadr_auth_domain::{AccountStatus, ApiKeyStatus};
use leadr_auth_ports::{
    KeyFilter, KeyUse,
    contract::fixtures::{account, at, key},
};
use leadr_auth_postgres::testing::TestDatabase;
use tokio_postgres::Client;

/// A database with one account.
async fn with_owner() -> TestDatabase {
    let database = TestDatabase::create().await;
    database
        .stores()
        .accounts
        .create(&account(1))
        .await
        .unwrap();
    database
}

/// Until somebody waits for a lock, or it is clear that nobody will.
pub(crate) async fn somebody_waits(client: &Client) {
    for _ in 0..200 {
        let waiting: i64 = client
            .query_one(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        if waiting > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody waits for the lock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_an_account_sees_the_one_before_it() {
    let database = with_owner().await;
    let (holder, watcher) = (database.client().await, database.client().await);
    holder
        .batch_execute("BEGIN; UPDATE accounts SET status = 'suspended'")
        .await
        .unwrap();
    let accounts = database.stores().accounts;
    let change = tokio::spawn(async move {
        let mut seen = None;
        accounts
            .update(account(1).id, &mut |account| {
                seen = Some(account.status);
                Ok(account)
            })
            .await
            .unwrap();
        seen
    });
    somebody_waits(&watcher).await;
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(change.await.unwrap(), Some(AccountStatus::Suspended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_key_sees_the_one_before_it() {
    let database = with_owner().await;
    let stored = key(1, &account(1));
    let keys = database.stores().keys;
    keys.create(&stored).await.unwrap();
    let (holder, watcher) = (database.client().await, database.client().await);
    holder
        .batch_execute("BEGIN; UPDATE api_keys SET status = 'revoked'")
        .await
        .unwrap();
    let change = tokio::spawn(async move {
        let mut seen = None;
        keys.update(stored.id, &mut |key| {
            seen = Some(key.status);
            Ok(key)
        })
        .await
        .unwrap();
        seen
    });
    somebody_waits(&watcher).await;
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(change.await.unwrap(), Some(ApiKeyStatus::Revoked));
}

/// Keys can be issued while their account is being changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuing_a_key_does_not_wait_for_a_change_of_its_account() {
    let database = with_owner().await;
    let holder = database.client().await;
    holder
        .batch_execute("BEGIN; SELECT FROM accounts FOR NO KEY UPDATE")
        .await
        .unwrap();
    let create = database.stores().keys;
    let created = tokio::time::timeout(Duration::from_secs(5), async move {
        create.create(&key(1, &account(1))).await
    });
    created.await.unwrap().unwrap();
}

/// Rows are locked from the lowest id upwards, whatever order they are named or stored in: while the lowest is held by
/// somebody else, none of the others is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uses_are_recorded_from_the_lowest_id_upwards() {
    let database = with_owner().await;
    let owner = account(1);
    let stores = database.stores();
    let keys: Vec<_> = (1..=20).rev().map(|n| key(n, &owner)).collect();
    for key in &keys {
        stores.keys.create(key).await.unwrap();
    }
    let lowest = keys.iter().map(|key| key.id).min().unwrap();
    let (holder, watcher) = (database.client().await, database.client().await);
    holder
        .batch_execute(&format!(
            "BEGIN; SELECT FROM api_keys WHERE id = '{lowest}' FOR UPDATE"
        ))
        .await
        .unwrap();
    let uses: Vec<_> = keys
        .iter()
        .map(|key| KeyUse {
            key_id: key.id,
            used_at: at(100),
        })
        .collect();
    let usage = stores.usage.clone();
    let recording = tokio::spawn(async move { usage.record(&uses).await });
    somebody_waits(&watcher).await;
    let free = watcher
        .query("SELECT FROM api_keys FOR UPDATE SKIP LOCKED", &[])
        .await
        .unwrap();
    assert_eq!(free.len(), keys.len() - 1);
    holder.batch_execute("COMMIT").await.unwrap();
    recording.await.unwrap().unwrap();
    for key in stores.keys.list(KeyFilter::of(owner.id)).await.unwrap() {
        assert_eq!(key.last_used_at, Some(at(100)));
    }
}

/// A use that was recorded by somebody else meanwhile is not undone by an older one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_use_that_had_to_wait_does_not_go_back_in_time() {
    let database = with_owner().await;
    let stores = database.stores();
    let first = key(1, &account(1));
    stores.keys.create(&first).await.unwrap();
    let (holder, watcher) = (database.client().await, database.client().await);
    holder
        .batch_execute(&format!(
            "BEGIN; UPDATE api_keys SET last_used_at = '{}'",
            at(200)
        ))
        .await
        .unwrap();
    let usage = stores.usage.clone();
    let recording = tokio::spawn(async move {
        usage
            .record(&[KeyUse {
                key_id: first.id,
                used_at: at(100),
            }])
            .await
    });
    somebody_waits(&watcher).await;
    holder.batch_execute("COMMIT").await.unwrap();
    recording.await.unwrap().unwrap();
    let listed = stores
        .keys
        .list(KeyFilter::of(account(1).id))
        .await
        .unwrap();
    assert_eq!(listed.first().unwrap().last_used_at, Some(at(200)));
}
