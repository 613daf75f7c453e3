//! What writing uses down costs the database.

use std::{ops::Range, time::Duration};

use leadr_auth_domain::KeyId;
use leadr_auth_ports::{
    KeyUse,
    contract::fixtures::{self, account, at, entry},
};
use leadr_auth_postgres::testing::TestDatabase;
use tokio_postgres::Client;

/// A database with so many keys, and their ids in order. They are as long as real ones, since it depends on that how many
/// fit on a page.
async fn with_keys(count: i32) -> (TestDatabase, Client, Vec<KeyId>) {
    let database = TestDatabase::create().await;
    let accounts = database.stores().accounts;
    accounts.create(&account(1), &entry()).await.unwrap();
    let client = database.client().await;
    client
        .execute(
            "INSERT INTO api_keys (account_id, name, key_hash, key_prefix)
             SELECT id, 'Key ' || n, repeat('a', 64), 'ldr_' || lpad(n::text, 10, '0')
             FROM accounts, generate_series(1, $1) AS n",
            &[&count],
        )
        .await
        .unwrap();
    let rows = client
        .query("SELECT id::text FROM api_keys ORDER BY id", &[])
        .await
        .unwrap();
    let ids = rows
        .iter()
        .map(|row| KeyId::new(row.get::<_, String>(0).parse().unwrap()))
        .collect();
    (database, client, ids)
}

async fn record(database: &TestDatabase, ids: &[KeyId], rounds: Range<u32>) {
    let usage = database.stores().usage;
    for round in rounds {
        let uses: Vec<_> = ids
            .iter()
            .map(|&key_id| KeyUse {
                key_id,
                used_at: at(round),
            })
            .collect();
        fixtures::record(usage.as_ref(), &uses).await;
    }
    // Its connections are closed with it, and that is when PostgreSQL counts what they did.
}

/// How many updates of keys were heap-only, once so many updates have been counted.
async fn heap_only_of(client: &Client, expected: i64) -> i64 {
    for _ in 0..600 {
        let row = client
            .query_one(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'api_keys'",
                &[],
            )
            .await
            .unwrap();
        let updated: i64 = row.get(0);
        assert!(updated <= expected, "each use is one update: {updated}");
        if updated == expected {
            return row.get(1);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the statistics do not show {expected} updates");
}

/// A use of a key touches no index, from the first one on, though a tenth of all keys is written by each statement. Old
/// versions are cleared away by hand: PostgreSQL does it in passing, but seldom while other tests hold transactions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uses_are_written_without_touching_an_index() {
    let (database, client, ids) = with_keys(2000).await;
    for round in 1..=2 {
        for tenth in ids.chunks(200) {
            record(&database, tenth, round..round + 1).await;
            client.batch_execute("VACUUM api_keys").await.unwrap();
        }
    }
    let heap_only = heap_only_of(&client, 4000).await;
    assert!(heap_only >= 3800, "{heap_only} of 4000");
}

/// An index on the column would end heap-only updates. That no trigger is for it is seen in `change_feed.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_index_is_on_the_last_use() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let row = client
        .query_one(
            "SELECT count(*) FROM pg_index
             WHERE indrelid = 'api_keys'::regclass AND pg_get_indexdef(indexrelid) LIKE '%last_used_at%'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
}

/// Nodes that write the same many keys down, each in an order of its own, never wait each for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_ten_thousand_in_opposite_orders_never_deadlock() {
    let (database, client, ids) = with_keys(10_000).await;
    let reversed: Vec<_> = ids.iter().rev().copied().collect();
    tokio::join!(
        record(&database, &ids, 1..6),
        record(&database, &reversed, 1..6),
    );
    // Who came second found nothing to do.
    heap_only_of(&client, 50_000).await;
    let deadlocks: i64 = client
        .query_one(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(deadlocks, 0);
}
