//! `/v1/accounts`.

use leadr_auth_domain::Timestamp;
use serde_json::json;

use crate::support::{Api, NOBODY};

#[actix_web::test]
async fn an_account_has_the_fields_of_the_contract() {
    let api = Api::new().await;
    let body = json!({"name": " Acme Corp ", "slug": "acme-corp"});
    let made = api
        .post("/v1/accounts", &api.operator, body)
        .await
        .expect(201)
        .json();
    let mut fields: Vec<_> = made
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "created_at",
            "id",
            "key_limit",
            "name",
            "slug",
            "status",
            "updated_at"
        ]
    );
    assert_eq!(made["name"], "Acme Corp");
    assert_eq!(made["status"], "active");
    let path = format!("/v1/accounts/{}", made["id"].as_str().unwrap());
    assert_eq!(api.get(&path, &api.operator).await.expect(200).json(), made);
}

#[actix_web::test]
async fn names_and_slugs_clash_with_409() {
    let api = Api::new().await;
    let taken = "Another account has this name";
    for body in [
        json!({"name": "Tenant One", "slug": "free"}),
        json!({"name": " Tenant One ", "slug": "one"}),
    ] {
        let answer = api.post("/v1/accounts", &api.operator, body).await;
        answer.expect_error(409, "account_name_taken", taken);
    }
    let answer = api.post(
        "/v1/accounts",
        &api.operator,
        json!({"name": "Free", "slug": "one"}),
    );
    answer
        .await
        .expect_error(409, "account_slug_taken", "Another account has this slug");
    let path = format!("/v1/accounts/{}", api.two.account);
    let answer = api
        .patch(&path, &api.operator, json!({"name": "Tenant One"}))
        .await;
    answer.expect_error(409, "account_name_taken", taken);
    let answer = api.patch(
        &path,
        &api.operator,
        json!({"slug": "one", "status": "suspended"}),
    );
    answer
        .await
        .expect_error(409, "account_slug_taken", "Another account has this slug");
    let two = api.get(&path, &api.operator).await.json();
    assert_eq!(
        (&two["name"], &two["status"]),
        (&json!("Tenant Two"), &json!("active"))
    );
}

#[actix_web::test]
async fn every_faulty_field_is_listed() {
    let api = Api::new().await;
    let answer = api
        .post(
            "/v1/accounts",
            &api.operator,
            json!({"name": "a", "sluq": "x"}),
        )
        .await;
    assert_eq!(
        answer.faults(),
        [
            "string_too_short body.name",
            "missing body.slug",
            "extra_forbidden body.sluq"
        ]
    );
    for (slug, fault) in [
        ("a", "string_too_short body.slug"),
        ("Acme", "string_pattern_mismatch body.slug"),
        ("a--b", "string_pattern_mismatch body.slug"),
        (" ab", "string_pattern_mismatch body.slug"),
        ("a\u{0}b", "control_character body.slug"),
    ] {
        let answer = api.post(
            "/v1/accounts",
            &api.operator,
            json!({"name": "Ok", "slug": slug}),
        );
        assert_eq!(answer.await.faults(), [fault], "{slug:?}");
    }
    let long = json!({"name": "n".repeat(101), "slug": "s".repeat(51)});
    assert_eq!(
        api.post("/v1/accounts", &api.operator, long).await.faults(),
        ["string_too_long body.name", "string_too_long body.slug"]
    );
    let path = format!("/v1/accounts/{}", api.one.account);
    let answer = api.patch(
        &path,
        &api.operator,
        json!({"status": "revoked", "deleted": 0, "role": "operator"}),
    );
    assert_eq!(
        answer.await.faults(),
        [
            "enum body.status",
            "bool_type body.deleted",
            "extra_forbidden body.role"
        ]
    );
    let answer = api.patch("/v1/accounts/x", &api.operator, json!({})).await;
    assert_eq!(answer.faults(), ["uuid_parsing path.account_id"]);
    let answer = api.get("/v1/accounts/x", &api.operator).await;
    assert_eq!(answer.faults(), ["uuid_parsing path.account_id"]);
}

#[actix_web::test]
async fn suspending_stops_the_keys_and_activating_brings_back_the_valid_ones() {
    let api = Api::new().await;
    let path = format!("/v1/accounts/{}", api.one.account);
    let (revoked_id, revoked) = api.issue(&api.one.account, "Revoked before").await;
    let revoked_path = format!("/v1/api-keys/{revoked_id}");
    api.patch(&revoked_path, &api.operator, json!({"status": "revoked"}))
        .await
        .expect(200);
    let suspended = api
        .patch(&path, &api.operator, json!({"status": "suspended"}))
        .await
        .expect(200)
        .json();
    assert_eq!(suspended["status"], "suspended");
    api.get(&path, &api.one.key).await.expect(401);
    api.get(&path, &api.two.key).await.expect(404);
    api.patch(&path, &api.operator, json!({"status": "active"}))
        .await
        .expect(200);
    api.get(&path, &api.one.key).await.expect(200);
    api.get(&path, &revoked).await.expect(401);
}

#[actix_web::test]
async fn deleting_hides_the_account_and_restoring_brings_it_back() {
    let api = Api::new().await;
    let path = format!("/v1/accounts/{}", api.one.account);
    api.clock
        .set(Timestamp::parse("2026-01-02T00:00:00Z").unwrap());
    let deleted = api
        .patch(&path, &api.operator, json!({"deleted": true}))
        .await
        .expect(200)
        .json();
    assert_eq!(deleted["updated_at"], "2026-01-02T00:00:00Z");
    for gone in [
        api.get(&path, &api.operator).await,
        api.patch(&path, &api.operator, json!({"status": "active"}))
            .await,
    ] {
        gone.expect_error(404, "not_found", "Account not found");
    }
    api.get("/v1/accounts", &api.one.key).await.expect(401);
    let listed = api
        .get("/v1/accounts", &api.operator)
        .await
        .expect(200)
        .json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    api.patch(&path, &api.operator, json!({"deleted": false}))
        .await
        .expect(200);
    api.get(&path, &api.one.key).await.expect(200);
    let missing = format!("/v1/accounts/{NOBODY}");
    let answer = api
        .patch(&missing, &api.operator, json!({"deleted": false}))
        .await;
    answer.expect_error(404, "not_found", "Account not found");
}

#[actix_web::test]
async fn the_operator_cannot_lock_itself_out() {
    let api = Api::new().await;
    let accounts = api.get("/v1/accounts", &api.operator).await.json();
    let operator = accounts
        .as_array()
        .unwrap()
        .iter()
        .find(|a| a["slug"] == "operator")
        .unwrap();
    let path = format!("/v1/accounts/{}", operator["id"].as_str().unwrap());
    for body in [json!({"status": "suspended"}), json!({"deleted": true})] {
        let answer = api.patch(&path, &api.operator, body).await;
        answer.expect_error(
            409,
            "operator_protected",
            "The operator's account can be neither suspended nor deleted",
        );
    }
    api.patch(&path, &api.operator, json!({"name": "Us"}))
        .await
        .expect(200);
}

#[actix_web::test]
async fn an_empty_change_answers_the_account() {
    let api = Api::new().await;
    let path = format!("/v1/accounts/{}", api.one.account);
    let before = api.get(&path, &api.operator).await.json();
    api.clock
        .set(Timestamp::parse("2026-01-02T00:00:00Z").unwrap());
    assert_eq!(
        api.patch(&path, &api.operator, json!({}))
            .await
            .expect(200)
            .json(),
        before
    );
}
