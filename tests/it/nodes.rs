//! Several nodes on one database.

use std::time::{Duration, Instant};

use leadr_auth_postgres::testing::TestDatabase;
use serde_json::json;

use crate::support::System;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_together_on_an_empty_database_all_serve() {
    let database = TestDatabase::create_empty().await;
    let start = || System::start(database.url(), &[]);
    let (one, two, three) = tokio::join!(start(), start(), start());
    let nodes = [one, two, three];
    for node in &nodes {
        node.ready_within(Duration::from_secs(30)).await;
    }
    let accounts = nodes[0]
        .get("/v1/accounts", Some(&nodes[0].operator))
        .await
        .expect(200);
    assert_eq!(
        accounts.as_array().unwrap().len(),
        1,
        "one operator: {accounts}"
    );
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_revokes_another_refuses() {
    let database = TestDatabase::create_empty().await;
    let one = System::on(database.url()).await;
    let two = System::on(database.url()).await;
    let account = one.account("Acme", "acme").await;
    let (path, key) = one.key(&account, "K").await;
    for _ in 0..10 {
        two.get(&path, Some(&key)).await.expect(200);
        one.patch(&path, &one.operator, json!({"status": "revoked"}))
            .await
            .expect(200);
        two.get(&path, Some(&key)).await.expect(401);
        one.patch(&path, &one.operator, json!({"status": "active"}))
            .await
            .expect(200);
    }
    one.stop().await;
    two.stop().await;
}

/// A use is written down within a second, for the other nodes to see. The bound is promised; the room is for a busy machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_use_on_one_node_shows_on_another() {
    let database = TestDatabase::create_empty().await;
    let one = System::on(database.url()).await;
    let two = System::on(database.url()).await;
    let account = one.account("Acme", "acme").await;
    let (path, key) = one.key(&account, "K").await;
    one.get(&path, Some(&key)).await.expect(200);
    let used = Instant::now();
    while two.get(&path, Some(&two.operator)).await.expect(200)["last_used_at"].is_null() {
        assert!(
            used.elapsed() < Duration::from_secs(10),
            "never written down"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    one.stop().await;
    two.stop().await;
}

/// Of many that change one key at once, on two nodes, none is lost and none is half done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_from_two_nodes_do_not_undo_each_other() {
    let database = TestDatabase::create_empty().await;
    let nodes = [
        System::on(database.url()).await,
        System::on(database.url()).await,
    ];
    let account = nodes[0].account("Acme", "acme").await;
    let (path, _) = nodes[0].key(&account, "K").await;
    let rename = async |node: &System| {
        for n in 0..10 {
            node.patch(&path, &node.operator, json!({"name": format!("Name {n}")}))
                .await
                .expect(200);
        }
    };
    let revoke = async |node: &System| {
        node.patch(&path, &node.operator, json!({"status": "revoked"}))
            .await
            .expect(200);
    };
    tokio::join!(rename(&nodes[0]), revoke(&nodes[1]));
    let read = nodes[0]
        .get(&path, Some(&nodes[0].operator))
        .await
        .expect(200);
    assert_eq!(
        (&read["name"], &read["status"]),
        (&json!("Name 9"), &json!("revoked"))
    );
    for node in nodes {
        node.stop().await;
    }
}
