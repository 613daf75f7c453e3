//! A key's life, from the first curl to the last.

use leadr_auth_postgres::testing::TestDatabase;
use serde_json::json;

use crate::support::{System, on_every_store, text};

on_every_store! {
    /// Issue, use, list, revoke, reactivate, delete, restore.
    async fn a_key_lives_and_dies_and_lives(system) {
        let account = system.account("Acme", "acme").await;
        let (path, key) = system.key(&account, "Production").await;
        let key = key.as_str();

        let own = system.get(&path, Some(key)).await.expect(200);
        assert_eq!(own["name"], "Production");
        assert!(own["last_used_at"].is_string(), "its own use shows");
        let listed = system.get("/v1/api-keys", Some(key)).await.expect(200);
        assert_eq!(listed.as_array().unwrap().len(), 1);
        assert_eq!(listed[0]["id"], own["id"]);

        let operator = system.operator.as_str();
        system.patch(&path, operator, json!({"status": "revoked"})).await.expect(200);
        system.get(&path, Some(key)).await.expect(401);
        system.patch(&path, operator, json!({"status": "active"})).await.expect(200);
        system.get(&path, Some(key)).await.expect(200);

        system.patch(&path, operator, json!({"deleted": true})).await.expect(200);
        system.get(&path, Some(key)).await.expect(401);
        system.get(&path, Some(operator)).await.expect(404);
        system.patch(&path, operator, json!({"deleted": false})).await.expect(200);
        let back = system.get(&path, Some(key)).await.expect(200);
        assert_eq!(back["created_at"], own["created_at"]);
    }

    /// Suspending an account stops every key of it at once; another account's go on.
    async fn an_account_is_suspended_and_activated(system) {
        let (one, two) =
            (system.account("One", "one").await, system.account("Two", "two").await);
        let (one_path, one_key) = system.key(&one, "K").await;
        let (two_path, two_key) = system.key(&two, "K").await;
        let account = format!("/v1/accounts/{one}");
        let operator = system.operator.as_str();
        system.patch(&account, operator, json!({"status": "suspended"})).await.expect(200);
        system.get(&one_path, Some(&one_key)).await.expect(401);
        system.get(&two_path, Some(&two_key)).await.expect(200);
        system.patch(&account, operator, json!({"status": "active"})).await.expect(200);
        system.get(&one_path, Some(&one_key)).await.expect(200);
        system.patch(&account, operator, json!({"deleted": true})).await.expect(200);
        system.get(&one_path, Some(&one_key)).await.expect(401);
        let again = json!({"name": "One", "slug": "one"});
        system.post("/v1/accounts", operator, again.clone()).await.expect(201);
        let clash = system.post("/v1/accounts", operator, again).await.expect(409);
        assert_eq!(clash["code"], "account_name_taken");
        let back = system.patch(&account, operator, json!({"deleted": false})).await.expect(409);
        assert_eq!(back["code"], "account_name_taken");
    }

    /// Another tenant's key looks like one that does not exist, and a foreign account cannot be named.
    async fn tenants_do_not_reach_each_other(system) {
        let (one, two) =
            (system.account("One", "one").await, system.account("Two", "two").await);
        let (path, key) = system.key(&one, "Secret plans").await;
        let (_, stranger) = system.key(&two, "K").await;
        let stranger = stranger.as_str();
        let missing = "/v1/api-keys/00000000-0000-4000-8000-000000000000";
        let foreign = system.get(&path, Some(stranger)).await;
        assert_eq!(foreign.text, system.get(missing, Some(stranger)).await.text);
        foreign.expect(404);
        system.patch(&path, stranger, json!({"status": "revoked"})).await.expect(404);
        system.get(&format!("/v1/api-keys?account_id={one}"), Some(stranger)).await.expect(403);
        let body = json!({"account_id": one, "name": "Intruder"});
        system.post("/v1/api-keys", stranger, body).await.expect(403);
        system.get(&path, Some(&key)).await.expect(200);
    }

    /// Every fault is listed, and nothing has changed.
    async fn bad_input_changes_nothing(system) {
        let account = system.account("Acme", "acme").await;
        let (path, key) = system.key(&account, "K").await;
        let before = system.get(&path, Some(&system.operator)).await.expect(200);
        for body in [
            json!({"status": "revoked", "deleted": "yes"}),
            json!({"status": "revoked", "name": "a\u{0}b"}),
            json!({"status": "revoked", "name": "\u{85}"}),
            json!({"status": "revoked", "expires_at": null}),
            json!([{"status": "revoked"}]),
        ] {
            let faults = system.patch(&path, &key, body).await.expect(422);
            assert_eq!(faults["code"], "validation_error");
        }
        let after = system.get(&path, Some(&system.operator)).await.expect(200);
        assert_eq!(before["status"], after["status"]);
        assert_eq!(before["updated_at"], after["updated_at"]);
    }

    /// Texts at the ends of what is allowed come back as they were sent.
    async fn odd_but_valid_texts_come_back(system) {
        let account = system.account("Ωmega & Söhne <script>", "omega").await;
        for name in ["🔑".repeat(255), "'; DROP TABLE api_keys; --".to_owned(), "%_\\".to_owned()] {
            let (path, key) = system.key(&account, &name).await;
            assert_eq!(text(&system.get(&path, Some(&key)).await.expect(200), "name"), name);
        }
    }
}

/// What was noted when the process was asked to stop is written down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uses_survive_the_end_of_the_process() {
    let database = TestDatabase::create_empty().await;
    let first = System::on(database.url()).await;
    let account = first.account("Acme", "acme").await;
    let (path, key) = first.key(&account, "K").await;
    let used = text(
        &first.get(&path, Some(&key)).await.expect(200),
        "last_used_at",
    );
    first.stop().await;
    let second = System::on(database.url()).await;
    let read = second.get(&path, Some(&second.operator)).await.expect(200);
    assert_eq!(read["last_used_at"], used.as_str());
    second.stop().await;
}
