//! How keys are presented and refused.

use actix_web::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde_json::json;

use crate::support::Api;

#[actix_web::test]
async fn a_key_is_taken_from_any_of_three_headers() {
    let api = Api::new().await;
    let path = api.key_of_one();
    for (name, value) in [
        ("leadr-api-key", api.one.key.clone()),
        ("LEADR-API-Key", api.one.key.clone()),
        ("X-API-Key", api.one.key.clone()),
        ("Authorization", format!("Bearer {}", api.one.key)),
    ] {
        let request = Api::request("GET", &path, None).insert_header((name, value));
        api.send(request).await.expect(200);
    }
}

#[actix_web::test]
async fn two_keys_are_none_even_if_both_are_valid() {
    let api = Api::new().await;
    let path = api.key_of_one();
    let key = &api.one.key;
    for (name, value) in [
        ("leadr-api-key", key.clone()),
        ("x-api-key", key.clone()),
        ("authorization", format!("Bearer {key}")),
    ] {
        let request = Api::request("GET", &path, Some(key)).append_header((name, value));
        let answer = api.send(request).await;
        answer.expect_error(401, "invalid_api_key", "Invalid or expired API key");
    }
}

/// Whatever it is, somebody else may take it for a key.
#[actix_web::test]
async fn what_follows_bearer_is_a_key_however_it_is_written() {
    let api = Api::new().await;
    let key = &api.one.key;
    for path in [&api.key_of_one(), "/v1/forward-auth"] {
        for beginning in ["Bearer\t", "Bearer,", "bearer  ", "Bearer\u{e9}"] {
            for end in ["", "\u{ff}"] {
                let value = format!("{beginning}{}{end}", api.two.key);
                let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
                let beside = Api::request("GET", path, Some(key));
                let answer = api.send(beside.append_header((AUTHORIZATION, value))).await;
                answer.expect_error(401, "invalid_api_key", "Invalid or expired API key");
            }
        }
        let alone = HeaderValue::from_bytes(format!("Bearer {key}\u{ff}").as_bytes()).unwrap();
        let alone = Api::request("GET", path, None).insert_header((AUTHORIZATION, alone));
        let answer = api.send(alone).await;
        answer.expect_error(401, "invalid_api_key", "Invalid or expired API key");
        for other in ["Basic eDp5", "Bearer", "Bearer ", "Bearers x", ""] {
            let request = Api::request("GET", path, Some(key));
            let answer = api
                .send(request.append_header((AUTHORIZATION, other)))
                .await;
            assert!(answer.status < 300, "{other:?}: {}", answer.status);
        }
    }
}

#[actix_web::test]
async fn a_key_in_the_url_is_ignored() {
    let api = Api::new().await;
    let path = format!("{}?api_key={}", api.key_of_one(), api.one.key);
    let answer = api.send(Api::request("GET", &path, None)).await;
    answer.expect_error(401, "api_key_required", "API key required");
    api.get(&path, &api.one.key).await.expect(200);
}

/// Unknown, wrong, revoked, expired, deleted, account suspended, account deleted: one answer, byte for byte.
#[actix_web::test]
async fn every_refusal_looks_the_same() {
    let api = Api::new().await;
    let account = &api.one.account;
    let own = |id: &str| format!("/v1/api-keys/{id}");
    let mut refused = vec![
        (
            "unknown",
            leadr_auth_domain::generate_api_key([99; 32])
                .expose()
                .to_owned(),
        ),
        (
            "wrong",
            format!("{}{}", api.one.key.split_at(20).0, "A".repeat(27)),
        ),
        ("malformed", "ldr_".to_owned()),
    ];
    let (id, key) = api.issue(account, "Revoked").await;
    api.patch(&own(&id), &api.operator, json!({"status": "revoked"}))
        .await
        .expect(200);
    refused.push(("revoked", key));
    let (id, key) = api.issue(account, "Deleted").await;
    api.patch(&own(&id), &api.operator, json!({"deleted": true}))
        .await
        .expect(200);
    refused.push(("deleted", key));
    let expired = json!({"account_id": account, "name": "E", "expires_at": "2025-12-31T23:59:59Z"});
    let expired = api
        .post("/v1/api-keys", &api.operator, expired)
        .await
        .expect(201)
        .json();
    refused.push(("expired", expired["key"].as_str().unwrap().to_owned()));
    let suspended = api.tenant("Suspended", "suspended").await;
    let path = format!("/v1/accounts/{}", suspended.account);
    api.patch(&path, &api.operator, json!({"status": "suspended"}))
        .await
        .expect(200);
    refused.push(("suspended", suspended.key));
    let deleted = api.tenant("Deleted", "deleted").await;
    let path = format!("/v1/accounts/{}", deleted.account);
    api.patch(&path, &api.operator, json!({"deleted": true}))
        .await
        .expect(200);
    refused.push(("account deleted", deleted.key));

    for (why, key) in refused {
        let answer = api.get("/v1/accounts", &key).await;
        assert_eq!(answer.status, 401, "{why}");
        assert_eq!(
            answer.text, r#"{"detail":"Invalid or expired API key","code":"invalid_api_key"}"#,
            "{why}"
        );
        let challenge = r#"Bearer realm="leadr-auth", error="invalid_token""#;
        assert_eq!(answer.header("www-authenticate"), challenge, "{why}");
        let mut headers: Vec<_> = answer.headers.keys().map(HeaderName::as_str).collect();
        headers.sort_unstable();
        assert_eq!(
            headers,
            [
                "cache-control",
                "content-type",
                "traceresponse",
                "www-authenticate",
                "x-content-type-options",
                "x-request-id"
            ],
            "{why}"
        );
    }
}

#[actix_web::test]
async fn a_use_shows_in_the_next_read_and_is_no_change() {
    let api = Api::new().await;
    let path = api.key_of_one();
    let before = api.get(&path, &api.operator).await.expect(200).json();
    assert_eq!(before["last_used_at"], json!(null));
    let used = leadr_auth_domain::Timestamp::parse("2026-02-03T04:05:06.789012Z").unwrap();
    api.clock.set(used);
    let own = api.get(&path, &api.one.key).await.expect(200).json();
    assert_eq!(
        own["last_used_at"], "2026-02-03T04:05:06.789012Z",
        "its own use included"
    );
    let after = api.get(&path, &api.operator).await.expect(200).json();
    assert_eq!(after["last_used_at"], "2026-02-03T04:05:06.789012Z");
    assert_eq!(after["updated_at"], before["updated_at"]);
    // A clock that steps back does not take the use back.
    api.clock.set(crate::support::start());
    api.get(&path, &api.one.key).await.expect(200);
    let later = api.get(&path, &api.operator).await.expect(200).json();
    assert_eq!(later["last_used_at"], "2026-02-03T04:05:06.789012Z");
}
