//! `Idempotency-Key`: a request that is done once, however often it is sent.

use std::sync::Arc;

use actix_web::test::TestRequest;
use futures_util::future::join_all;
use leadr_auth_domain::generate_api_key;
use serde_json::{Value, json};

use crate::support::{Answer, Api};

async fn post(api: &Api, path: &str, key: &str, name: &str, body: Value) -> Answer {
    let request: TestRequest = Api::request("POST", path, Some(key));
    let request = request.insert_header(("idempotency-key", name));
    api.send(request.set_json(body)).await
}

async fn count_keys(api: &Api, key: &str) -> usize {
    let listed = api.get("/v1/api-keys", key).await.expect(200).json();
    listed.as_array().unwrap().len()
}

#[actix_web::test]
async fn a_key_is_issued_once_and_shown_once() {
    let api = Api::new().await;
    let body = json!({"name": "Deploy"});
    let (path, key) = ("/v1/api-keys", api.one.key.as_str());
    let first = post(&api, path, key, "order-7", body.clone())
        .await
        .expect(201);
    let issued = first.json();
    let plain = issued["key"].as_str().unwrap();
    let again = post(&api, path, key, "order-7", body.clone())
        .await
        .expect(200);
    assert!(!again.text.contains(plain), "{}", again.text);
    let replayed = again.json();
    assert_eq!(replayed["id"], issued["id"]);
    assert_eq!(
        (&replayed["key"], &replayed["replayed"]),
        (&Value::Null, &json!(true))
    );
    assert_eq!(again.header("etag"), first.header("etag"));
    assert_eq!(count_keys(&api, key).await, 2);
    // It shows the key as it is now.
    let one = format!("/v1/api-keys/{}", issued["id"].as_str().unwrap());
    api.patch(&one, key, json!({"status": "revoked"}))
        .await
        .expect(200);
    let later = post(&api, path, key, "order-7", body.clone())
        .await
        .expect(200)
        .json();
    assert_eq!(later["status"], "revoked");
    // Another body, also where only a blank is another.
    let detail = "Another request of this key's had the same Idempotency-Key";
    let other = post(&api, path, key, "order-7", json!({"name": "Deploy 2"})).await;
    other.expect_error(409, "idempotency_key_reused", detail);
    // The name is another caller's too, and nobody hears of what this one did.
    let theirs = post(&api, path, &api.two.key, "order-7", body)
        .await
        .expect(201);
    assert_ne!(theirs.json()["id"], issued["id"]);
}

#[actix_web::test]
async fn an_account_is_made_once() {
    let api = Api::new().await;
    let body = json!({"name": "Three", "slug": "three"});
    let (path, key) = ("/v1/accounts", api.operator.as_str());
    let first = post(&api, path, key, "n", body.clone())
        .await
        .expect(201)
        .json();
    let again = post(&api, path, key, "n", body.clone())
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&again["id"], &again["replayed"]),
        (&first["id"], &json!(true))
    );
    let without = api.post(path, key, body).await;
    without.expect_error(409, "account_name_taken", "Another account has this name");
    // The same name for something else.
    let key_body = json!({"name": "K", "account_id": first["id"]});
    post(&api, "/v1/api-keys", key, "n", key_body)
        .await
        .expect(409);
}

#[actix_web::test]
async fn what_was_refused_may_be_sent_again() {
    let api = Api::new().await;
    let path = format!("/v1/accounts/{}", api.one.account);
    api.patch(&path, &api.operator, json!({"key_limit": 1}))
        .await
        .expect(200);
    let send = async || {
        let body = json!({"name": "Second"});
        post(&api, "/v1/api-keys", &api.one.key, "n", body).await
    };
    send().await.expect(409);
    api.patch(&path, &api.operator, json!({"key_limit": 2}))
        .await
        .expect(200);
    send().await.expect(201);
    send().await.expect(200);
}

#[actix_web::test]
async fn of_many_at_once_one_is_done() {
    let api = Arc::new(Api::new().await);
    let sent = (0..64).map(|_| {
        let api = Arc::clone(&api);
        async move {
            let body = json!({"name": "Once"});
            post(&api, "/v1/api-keys", &api.one.key, "n", body)
                .await
                .status
        }
    });
    let statuses = join_all(sent).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1);
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 63);
    assert_eq!(count_keys(&api, &api.one.key).await, 2);
}

#[actix_web::test]
async fn a_name_has_its_form() {
    let api = Api::new().await;
    let key = generate_api_key([7; 32]);
    let long = "x".repeat(256);
    for name in ["", "a b", "\u{e9}", "\t", long.as_str(), key.expose()] {
        let request = Api::request("POST", "/v1/api-keys", Some(&api.one.key));
        let value = actix_web::http::header::HeaderValue::from_bytes(name.as_bytes()).unwrap();
        let request = request.insert_header(("idempotency-key", value));
        let answer = api.send(request.set_json(json!({"name": 7}))).await;
        let fault = "idempotency_key header.Idempotency-Key";
        assert_eq!(
            answer.faults(),
            [fault, "string_type body.name"],
            "{name:?}"
        );
        assert!(!answer.text.contains(key.expose()));
    }
    let request = Api::request("POST", "/v1/api-keys", Some(&api.one.key));
    let request = request
        .append_header(("idempotency-key", "a"))
        .append_header(("idempotency-key", "a"));
    let answer = api.send(request.set_json(json!({"name": "K"}))).await;
    assert_eq!(answer.faults(), ["duplicate header.Idempotency-Key"]);
    assert_eq!(count_keys(&api, &api.one.key).await, 1);
}
