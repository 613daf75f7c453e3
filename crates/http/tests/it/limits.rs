//! How many keys an account may have.

use serde_json::json;

use crate::support::Api;

const FULL: &str = "This account has as many keys as it may have: delete some, or have the operator raise its limit";

#[actix_web::test]
async fn an_account_has_a_limit_that_the_operator_sets() {
    let api = Api::new().await;
    let path = format!("/v1/accounts/{}", api.one.account);
    let account = api.get(&path, &api.one.key).await.expect(200).json();
    assert_eq!(account["key_limit"], 1000);
    api.patch(&path, &api.one.key, json!({"key_limit": 5}))
        .await
        .expect(403);
    let changed = api
        .patch(&path, &api.operator, json!({"key_limit": 2}))
        .await
        .expect(200);
    assert_eq!(changed.json()["key_limit"], 2);
    let issue = async || {
        api.post("/v1/api-keys", &api.one.key, json!({"name": "K"}))
            .await
    };
    let second = issue().await.expect(201).json();
    issue().await.expect_error(409, "key_limit_reached", FULL);
    // The operator's word counts for the operator too.
    let body = json!({"name": "K", "account_id": api.one.account});
    api.post("/v1/api-keys", &api.operator, body)
        .await
        .expect(409);
    let second = format!("/v1/api-keys/{}", second["id"].as_str().unwrap());
    api.patch(&second, &api.one.key, json!({"status": "revoked"}))
        .await
        .expect(200);
    issue().await.expect(409);
    api.patch(&second, &api.one.key, json!({"deleted": true}))
        .await
        .expect(200);
    issue().await.expect(201);
    let restored = api
        .patch(&second, &api.one.key, json!({"deleted": false}))
        .await;
    restored.expect_error(409, "key_limit_reached", FULL);
    let trail = api
        .get("/v1/audit?action=account.limited", &api.one.key)
        .await;
    let trail = trail.expect(200).json();
    assert_eq!(trail["entries"][0]["after"]["key_limit"], 2);
}

#[actix_web::test]
async fn a_limit_is_a_whole_number() {
    let api = Api::new().await;
    let path = format!("/v1/accounts/{}", api.one.account);
    for bad in [
        json!(-1),
        json!(1.5),
        json!("7"),
        json!(1_000_000_001),
        json!(1e300),
        json!([]),
    ] {
        let answer = api
            .patch(&path, &api.operator, json!({"key_limit": bad}))
            .await;
        assert_eq!(
            answer.faults(),
            ["int_out_of_range body.key_limit"],
            "{bad}"
        );
        let body = json!({"name": "New", "slug": "new", "key_limit": bad});
        let answer = api.post("/v1/accounts", &api.operator, body).await;
        assert_eq!(
            answer.faults(),
            ["int_out_of_range body.key_limit"],
            "{bad}"
        );
    }
    // However it is written.
    for (written, limit) in [("7.0", 7), ("1e3", 1000), ("-0", 0), ("-0.0", 0)] {
        let request = Api::request("PATCH", &path, Some(&api.operator))
            .insert_header(("content-type", "application/json"))
            .set_payload(format!(r#"{{"key_limit":{written}}}"#));
        let changed = api.send(request).await.expect(200).json();
        assert_eq!(changed["key_limit"], limit, "{written}");
    }
    let body = json!({"name": "New", "slug": "new", "key_limit": 0});
    let made = api
        .post("/v1/accounts", &api.operator, body)
        .await
        .expect(201)
        .json();
    let body = json!({"name": "K", "account_id": made["id"]});
    api.post("/v1/api-keys", &api.operator, body)
        .await
        .expect(409);
}
