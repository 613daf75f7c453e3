//! The reference implementation's own test cases, over HTTP.
//!
//! Each is what the reference asserts of its service or its routes, in the words of its documents; where ours departs, the
//! departure stands in `docs/differences.md` and is what is asserted.

use leadr_auth_postgres::testing::TestDatabase;
use serde_json::{Value, json};

use crate::support::{System, on_every_store, text};

const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

fn names(list: &Value) -> Vec<&str> {
    let mut names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    names
}

on_every_store! {
    async fn create_api_key(system) {
        let account = system.account("Test Account", "test-account").await;
        let body = json!({"account_id": account, "name": "Test API Key"});
        let issued = system.post("/v1/api-keys", &system.operator, body).await.expect(201);
        assert_eq!(issued["name"], "Test API Key");
        assert!(text(&issued, "key").starts_with("ldr_"));
        assert!(text(&issued, "prefix").starts_with("ldr_"));
        assert_eq!(issued["status"], "active");
        assert!(issued["id"].is_string() && issued["created_at"].is_string());
        assert!(text(&issued, "key").len() > 36);
        assert!(text(&issued, "key").starts_with(&text(&issued, "prefix")));
    }

    async fn create_api_key_with_expiration(system) {
        let account = system.account("Test Account", "test-account").await;
        let body = json!({"account_id": account, "name": "Temporary Key",
            "expires_at": "2099-01-01T00:00:00+00:00"});
        let issued = system.post("/v1/api-keys", &system.operator, body).await.expect(201);
        assert_eq!(issued["expires_at"], "2099-01-01T00:00:00Z");
        let key = text(&issued, "key");
        system.get("/v1/api-keys", Some(&key)).await.expect(200);
    }

    async fn create_api_key_without_what_it_needs(system) {
        let account = system.account("Test Account", "test-account").await;
        for body in [
            json!({"name": "Test API Key"}),
            json!({"account_id": account}),
            json!({"account_id": "not-a-uuid", "name": "Test API Key"}),
        ] {
            system.post("/v1/api-keys", &system.operator, body).await.expect(422);
        }
        let body = json!({"account_id": NOBODY, "name": "Test API Key"});
        let missing = system.post("/v1/api-keys", &system.operator, body).await.expect(404);
        assert_eq!(missing["detail"], "Account not found");
    }

    async fn the_plain_key_is_returned_once(system) {
        let account = system.account("Test Account", "test-account").await;
        let (path, key) = system.key(&account, "Test API Key").await;
        let read = system.get(&path, Some(&system.operator)).await.expect(200);
        assert!(read.get("key").is_none() && read.get("key_hash").is_none());
        assert!(read.get("prefix").is_some());
        assert!(!read.to_string().contains(&key));
    }

    async fn list_api_keys_by_account_and_status(system) {
        let one = system.account("Account 1", "account-1").await;
        let two = system.account("Account 2", "account-2").await;
        let (revoked, _) = system.key(&one, "Revoked Key").await;
        system.key(&one, "Production Key").await;
        system.key(&two, "Other Key").await;
        system.patch(&revoked, &system.operator, json!({"status": "revoked"})).await.expect(200);
        let list = async |query: &str| {
            system.get(&format!("/v1/api-keys?{query}"), Some(&system.operator)).await
        };
        let all = list(&format!("account_id={one}")).await.expect(200);
        assert_eq!(names(&all), ["Production Key", "Revoked Key"]);
        assert!(all.as_array().unwrap().iter().all(|key| key["account_id"] == one.as_str()));
        assert!(all.as_array().unwrap().iter().all(|key| key.get("key").is_none()));
        let active = list(&format!("account_id={one}&status=active")).await.expect(200);
        assert_eq!(names(&active), ["Production Key"]);
        let revoked = list(&format!("account_id={one}&status=revoked")).await.expect(200);
        assert_eq!(names(&revoked), ["Revoked Key"]);
        let others = list(&format!("account_id={two}")).await.expect(200);
        assert_eq!(names(&others), ["Other Key"]);
        assert_eq!(list(&format!("account_id={NOBODY}")).await.expect(200), json!([]));
        list("status=active").await.expect(422);
        list(&format!("account_id={one}&status=expired")).await.expect(422);
    }

    async fn get_api_key(system) {
        let account = system.account("Test Account", "test-account").await;
        let (path, _) = system.key(&account, "Test API Key").await;
        let read = system.get(&path, Some(&system.operator)).await.expect(200);
        assert_eq!((&read["name"], &read["status"]), (&json!("Test API Key"), &json!("active")));
        let missing = format!("/v1/api-keys/{NOBODY}");
        let missing = system.get(&missing, Some(&system.operator)).await.expect(404);
        assert_eq!(missing["detail"], "APIKey not found");
        system.get("/v1/api-keys/not-a-uuid", Some(&system.operator)).await.expect(422);
    }

    async fn revoke_and_soft_delete_through_update(system) {
        let account = system.account("Test Account", "test-account").await;
        let (path, key) = system.key(&account, "Test API Key").await;
        let operator = system.operator.as_str();
        let revoked = system.patch(&path, operator, json!({"status": "revoked"})).await.expect(200);
        assert_eq!(revoked["status"], "revoked");
        let read = system.get(&path, Some(operator)).await.expect(200);
        assert_eq!(read["status"], "revoked");
        system.get(&path, Some(&key)).await.expect(401);
        system.patch(&path, operator, json!({"status": "invalid"})).await.expect(422);
        system.patch(&path, operator, json!({"deleted": true})).await.expect(200);
        system.get(&path, Some(operator)).await.expect(404);
        let listed = system.get(&format!("/v1/api-keys?account_id={account}"), Some(operator)).await;
        assert_eq!(listed.expect(200), json!([]));
        let missing = format!("/v1/api-keys/{NOBODY}");
        system.patch(&missing, operator, json!({"status": "revoked"})).await.expect(404);
    }

    async fn require_api_key(system) {
        let account = system.account("Test Account", "test-account").await;
        let (path, key) = system.key(&account, "Test API Key").await;
        let none = system.get(&path, None).await.expect(401);
        assert_eq!(none["detail"], "API key required");
        for wrong in ["ldr_invalid_key_12345678901234567890", "invalid", "ldr_"] {
            let refused = system.get(&path, Some(wrong)).await.expect(401);
            assert_eq!(refused["detail"], "Invalid or expired API key");
        }
        let wrong_suffix = format!("{}{}", key.split_at(14).0, "A".repeat(33));
        system.get(&path, Some(&wrong_suffix)).await.expect(401);
        let before = system.get(&path, Some(&system.operator)).await.expect(200);
        assert!(before["last_used_at"].is_null());
        system.get(&path, Some(&key)).await.expect(200);
        let after = system.get(&path, Some(&system.operator)).await.expect(200);
        assert!(after["last_used_at"].is_string());
        assert_eq!(before["updated_at"], after["updated_at"]);
    }

    async fn an_expired_key_is_refused(system) {
        let account = system.account("Test Account", "test-account").await;
        let body = json!({"account_id": account, "name": "Expired Key",
            "expires_at": "2020-01-01T00:00:00Z"});
        let issued = system.post("/v1/api-keys", &system.operator, body).await.expect(201);
        let refused = system.get("/v1/api-keys", Some(&text(&issued, "key"))).await.expect(401);
        assert_eq!(refused["detail"], "Invalid or expired API key");
    }
}
