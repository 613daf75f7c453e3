//! `/v1/verify` and `/v1/verify/batch`.

use serde_json::{Value, json};

use crate::support::{Answer, Api, NOBODY};
use crate::traces;

const ONE: &str = "/v1/verify";
const MANY: &str = "/v1/verify/batch";

async fn verify(api: &Api, by: &str, body: Value) -> Value {
    api.post(ONE, by, body).await.expect(200).json()
}

/// Issues a key for the first tenant as `body` has it: its id and the key.
async fn issue(api: &Api, mut body: Value) -> (String, String) {
    body["account_id"] = json!(api.one.account);
    let issued = api.post("/v1/api-keys", &api.operator, body).await;
    let issued = issued.expect(201).json();
    let text = |field: &str| issued[field].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

async fn change(api: &Api, path: &str, body: Value) {
    api.patch(path, &api.operator, body).await.expect(200);
}

async fn last_use(api: &Api, path: &str) -> Value {
    let key = api.get(path, &api.operator).await.expect(200);
    key.json()["last_used_at"].take()
}

fn nothing(code: &str) -> Value {
    json!({
        "valid": false, "code": code, "key_id": null, "account_id": null, "name": null, "scopes": null, "expires_at": null,
    })
}

fn stranger() -> String {
    let key = leadr_auth_domain::generate_api_key([123; 32]);
    key.expose().to_owned()
}

#[actix_web::test]
async fn a_good_key_says_whose_it_is() {
    let api = Api::new().await;
    let verifier = api.issue_with(&api.one.account, &["keys:verify"]).await;
    let answer = api.post(ONE, &verifier, json!({"key": api.one.key})).await;
    let answer = answer.expect(200);
    let expected = json!({
        "valid": true, "code": "valid", "key_id": api.one.key_id, "account_id": api.one.account,
        "name": "First", "scopes": null, "expires_at": null,
    });
    assert_eq!(answer.json(), expected);
    let body =
        json!({"name": "N", "scopes": ["b:*", "a"], "expires_at": "2026-06-01T02:00:00+02:00"});
    let (id, key) = issue(&api, body).await;
    let answer = verify(&api, &verifier, json!({"key": key, "scopes": null})).await;
    let expected = json!({
        "valid": true, "code": "valid", "key_id": id, "account_id": api.one.account,
        "name": "N", "scopes": ["a", "b:*"], "expires_at": "2026-06-01T00:00:00Z",
    });
    assert_eq!(answer, expected);
    let (_, none) = issue(&api, json!({"name": "None", "scopes": []})).await;
    let answer = verify(&api, &verifier, json!({"key": none})).await;
    assert_eq!(
        (&answer["code"], &answer["scopes"]),
        (&json!("valid"), &json!([]))
    );
}

#[actix_web::test]
async fn every_refusal_has_its_code_and_says_which_key_it_is() {
    let api = Api::new().await;
    let mut refused = Vec::new();
    let (id, key) = issue(&api, json!({"name": "K"})).await;
    change(
        &api,
        &format!("/v1/api-keys/{id}"),
        json!({"status": "revoked"}),
    )
    .await;
    refused.push(("revoked", id, key));
    let (id, key) = issue(&api, json!({"name": "K"})).await;
    change(
        &api,
        &format!("/v1/api-keys/{id}"),
        json!({"deleted": true}),
    )
    .await;
    refused.push(("deleted", id, key));
    let past = json!({"name": "K", "expires_at": "2025-12-31T23:59:59Z"});
    let (id, key) = issue(&api, past).await;
    refused.push(("expired", id, key));
    for by in [&api.one.key, &api.operator] {
        for (code, id, key) in &refused {
            let answer = verify(&api, by, json!({"key": key})).await;
            let mut expected = nothing(code);
            expected["key_id"] = json!(id);
            expected["account_id"] = json!(api.one.account);
            expected["name"] = json!("K");
            if *code == "expired" {
                expected["expires_at"] = json!("2025-12-31T23:59:59Z");
            }
            assert_eq!(answer, expected);
        }
    }
    let path = format!("/v1/accounts/{}", api.two.account);
    for (status, code) in [
        (json!({"status": "suspended"}), "account_suspended"),
        (json!({"deleted": true}), "deleted"),
    ] {
        change(&api, &path, status).await;
        let answer = verify(&api, &api.operator, json!({"key": api.two.key})).await;
        assert_eq!(answer["code"], code);
        assert_eq!(answer["valid"], json!(false));
        assert_eq!(answer["key_id"], api.two.key_id);
    }
}

#[actix_web::test]
async fn of_what_is_no_key_there_is_nothing_to_tell() {
    let api = Api::new().await;
    let wrong_secret = format!("{}{}", api.one.key.split_at(20).0, "A".repeat(27));
    for key in [&stranger(), &wrong_secret] {
        let answer = verify(&api, &api.operator, json!({"key": key})).await;
        assert_eq!(answer, nothing("not_found"));
    }
    let padded = format!("{} ", api.one.key);
    for text in ["", "ldr_", "ldr_short", "🔑", &padded, &"x".repeat(10_000)] {
        let body = json!({"key": text, "scopes": ["docs:read"]});
        let answer = verify(&api, &api.operator, body).await;
        assert_eq!(answer, nothing("malformed"), "{text}");
    }
}

#[actix_web::test]
async fn all_scopes_that_are_asked_for_are_needed() {
    let api = Api::new().await;
    let (id, narrow) = issue(
        &api,
        json!({"name": "N", "scopes": ["docs:*", "keys:read"]}),
    )
    .await;
    for (key, scopes, code) in [
        (&narrow, &[][..], "valid"),
        (&narrow, &["docs:read"], "valid"),
        (&narrow, &["docs:read", "keys:read", "docs:read"], "valid"),
        (&narrow, &["docs:read", "other"], "insufficient_scope"),
        (&narrow, &["docs"], "insufficient_scope"),
        (&narrow, &["keys:write"], "insufficient_scope"),
        (&api.one.key, &["whatever", "keys:write"], "valid"),
        // All that a tenant has is not what only operators may do.
        (&api.one.key, &["accounts:write"], "insufficient_scope"),
        (&api.operator, &["accounts:write"], "valid"),
    ] {
        let body = json!({"key": key, "scopes": scopes});
        let answer = verify(&api, &api.operator, body).await;
        assert_eq!(answer["code"], code, "{scopes:?}");
        assert_eq!(answer["valid"], code == "valid");
        assert!(answer["key_id"].is_string());
        if key == &narrow {
            assert_eq!(answer["key_id"], id);
            assert_eq!(answer["scopes"], json!(["docs:*", "keys:read"]));
        }
    }
    // A refusal comes before what is missing.
    change(
        &api,
        &format!("/v1/api-keys/{id}"),
        json!({"status": "revoked"}),
    )
    .await;
    let answer = verify(
        &api,
        &api.operator,
        json!({"key": narrow, "scopes": ["other"]}),
    )
    .await;
    assert_eq!(answer["code"], "revoked");
}

/// Neither by what is said nor by what is noted.
#[actix_web::test]
async fn a_tenant_cannot_tell_anothers_key_from_one_that_nobody_has() {
    let api = Api::new().await;
    let (id, revoked) = issue(&api, json!({"name": "Revoked"})).await;
    change(
        &api,
        &format!("/v1/api-keys/{id}"),
        json!({"status": "revoked"}),
    )
    .await;
    let scopes = json!(["docs:read"]);
    let nobodys = api
        .post(ONE, &api.two.key, json!({"key": stranger()}))
        .await;
    let nobodys = nobodys.expect(200).text;
    for key in [&api.one.key, &api.operator, &revoked] {
        for body in [json!({"key": key}), json!({"key": key, "scopes": scopes})] {
            let answer = api.post(ONE, &api.two.key, body.clone()).await.expect(200);
            assert_eq!(answer.text, nobodys);
            let many = json!({"keys": [body, {"key": api.two.key}]});
            let many = api.post(MANY, &api.two.key, many).await.expect(200);
            assert!(
                many.text
                    .starts_with(&format!(r#"{{"results":[{nobodys},"#))
            );
            assert_eq!(many.json()["results"][1]["code"], "valid");
        }
    }
    let used = async |id: &str| last_use(&api, &format!("/v1/api-keys/{id}")).await;
    assert_eq!(used(&api.one.key_id).await, Value::Null);
    assert_eq!(used(&id).await, Value::Null);
    assert!(used(&api.two.key_id).await.is_string());
}

#[actix_web::test]
async fn only_a_good_key_counts_as_used() {
    let api = Api::new().await;
    let used = async |path: &str| last_use(&api, path).await;
    let (id, revoked) = issue(&api, json!({"name": "Revoked"})).await;
    let path = format!("/v1/api-keys/{id}");
    change(&api, &path, json!({"status": "revoked"})).await;
    assert_eq!(
        verify(&api, &api.operator, json!({"key": revoked})).await["code"],
        "revoked"
    );
    assert_eq!(used(&path).await, Value::Null);
    let wrong_secret = format!("{}{}", api.one.key.split_at(20).0, "A".repeat(27));
    verify(&api, &api.operator, json!({"key": wrong_secret})).await;
    assert_eq!(used(&api.key_of_one()).await, Value::Null);
    let at = leadr_auth_domain::Timestamp::parse("2026-02-03T04:05:06Z").unwrap();
    api.clock.set(at);
    verify(&api, &api.operator, json!({"key": api.one.key})).await;
    assert_eq!(used(&api.key_of_one()).await, "2026-02-03T04:05:06Z");
}

#[actix_web::test]
async fn what_is_wrong_with_a_question_is_said() {
    let api = Api::new().await;
    let many: Vec<_> = (0..65).map(|n| format!("s{n}")).collect();
    let key = &api.one.key;
    for (body, faults) in [
        (json!({}), &["missing body.key"][..]),
        (json!([]), &["object_type body"]),
        (json!({"key": null}), &["string_type body.key"]),
        (json!({"key": 7}), &["string_type body.key"]),
        (json!({"key": [key]}), &["string_type body.key"]),
        (
            json!({"key": key, "scope": "a"}),
            &["extra_forbidden body.scope"],
        ),
        (
            json!({"key": key, "scopes": "a"}),
            &["list_type body.scopes"],
        ),
        (
            json!({"key": key, "scopes": {}}),
            &["list_type body.scopes"],
        ),
        (
            json!({"key": key, "scopes": many}),
            &["too_long body.scopes"],
        ),
        (
            json!({"scopes": ["a", 1, "A", "keys:all", ["a"]], "keys": []}),
            &[
                "missing body.key",
                "string_type body.scopes.1",
                "string_pattern_mismatch body.scopes.2",
                "enum body.scopes.3",
                "string_type body.scopes.4",
                "extra_forbidden body.keys",
            ],
        ),
    ] {
        let answer = api.post(ONE, &api.one.key, body.clone()).await;
        assert_eq!(answer.faults(), faults, "{body}");
        let many = json!({"keys": [{"key": key}, body]});
        let answer = api.post(MANY, &api.one.key, many).await;
        let within = faults
            .iter()
            .map(|fault| fault.replace("body", "body.keys.1"));
        assert_eq!(answer.faults(), within.collect::<Vec<_>>(), "{body}");
    }
    let just: Vec<_> = (0..64).map(|n| format!("s{n}")).collect();
    verify(&api, key, json!({"key": key, "scopes": just})).await;
}

/// Which of two counts is a matter of opinion, also inside a list.
#[actix_web::test]
async fn a_field_given_twice_is_refused_wherever_it_is() {
    let api = Api::new().await;
    let twice = format!(r#"{{"key":"{}","key":"{}"}}"#, api.one.key, api.two.key);
    for (path, body, fault) in [
        (ONE, twice.clone(), "duplicate body.key"),
        (
            MANY,
            format!(r#"{{"keys":[{twice}]}}"#),
            "duplicate body.keys.0.key",
        ),
        (
            MANY,
            format!(r#"{{"keys":[{twice}],"keys":[]}}"#),
            "duplicate body.keys",
        ),
    ] {
        let request = Api::request("POST", path, Some(&api.operator))
            .insert_header(("content-type", "application/json"))
            .set_payload(body);
        let faults = api.send(request).await.faults();
        assert!(faults.contains(&fault.to_owned()), "{faults:?}");
    }
}

#[actix_web::test]
async fn a_batch_is_answered_in_order() {
    let api = Api::new().await;
    let narrow = api.issue_with(&api.one.account, &["docs:read"]).await;
    let body = json!({"keys": [
        {"key": api.two.key}, {"key": "x"}, {"key": narrow, "scopes": ["a"]}, {"key": api.one.key}, {"key": stranger()},
        {"key": narrow, "scopes": ["docs:read"]}, {"key": api.two.key},
    ]});
    let answer = api.post(MANY, &api.operator, body).await.expect(200).json();
    let results = answer["results"].as_array().unwrap();
    let codes: Vec<_> = results
        .iter()
        .map(|result| result["code"].as_str().unwrap())
        .collect();
    let expected = [
        "valid",
        "malformed",
        "insufficient_scope",
        "valid",
        "not_found",
        "valid",
        "valid",
    ];
    assert_eq!(codes, expected);
    assert_eq!(results[0]["key_id"], api.two.key_id);
    assert_eq!(results[3]["key_id"], api.one.key_id);
    assert_eq!(results[6], results[0]);
}

#[actix_web::test]
async fn a_batch_is_of_one_to_a_hundred() {
    let api = Api::new().await;
    let batch = async |n: u8| {
        let keys: Vec<_> = (0..n)
            .map(|n| json!({"key": leadr_auth_domain::generate_api_key([n; 32]).expose()}))
            .collect();
        api.post(MANY, &api.one.key, json!({"keys": keys})).await
    };
    assert_eq!(batch(0).await.faults(), ["too_short body.keys"]);
    assert_eq!(batch(101).await.faults(), ["too_long body.keys"]);
    for n in [1, 100] {
        let answer = batch(n).await.expect(200).json();
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), usize::from(n));
        assert!(results.iter().all(|result| *result == nothing("not_found")));
    }
    for (body, fault) in [
        (json!({}), "missing body.keys"),
        (json!({"keys": null}), "list_type body.keys"),
        (json!({"keys": {"key": "x"}}), "list_type body.keys"),
        (json!({"keys": ["x"]}), "object_type body.keys.0"),
        (
            json!({"keys": [{"key": "x"}], "key": "x"}),
            "extra_forbidden body.key",
        ),
    ] {
        let answer = api.post(MANY, &api.one.key, body.clone()).await;
        assert_eq!(answer.faults(), [fault], "{body}");
    }
}

#[actix_web::test]
async fn a_batch_may_be_larger_than_other_bodies() {
    let api = Api::new().await;
    let scopes = [
        "documents:europe:read",
        "documents:europe:write",
        "invoices:read",
    ];
    let keys = vec![json!({"key": api.one.key, "scopes": scopes}); 100];
    let full = api.post(MANY, &api.one.key, json!({"keys": keys})).await;
    let full = full.expect(200).json();
    assert!(
        full["results"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["code"] == "valid")
    );
    let padded = |path: &str, size: usize| {
        let body = match path {
            ONE => json!({"key": api.one.key}),
            _ => json!({"keys": [{"key": api.one.key}]}),
        };
        let body = body.to_string();
        Api::request("POST", path, Some(&api.one.key))
            .insert_header(("content-type", "application/json"))
            .set_payload(format!("{body}{}", " ".repeat(size - body.len())))
    };
    for (path, kib) in [(ONE, 16), (MANY, 64)] {
        api.send(padded(path, kib * 1024)).await.expect(200);
        let detail = format!("The body is larger than {kib} KiB");
        let too_large = api.send(padded(path, kib * 1024 + 1)).await;
        too_large.expect_error(413, "body_too_large", &detail);
        let declared = padded(path, 100).insert_header(("content-length", "99999999"));
        api.send(declared).await.expect(413);
    }
}

/// Nothing but the right to verify is needed, and nothing else will do.
#[actix_web::test]
async fn who_may_not_verify_hears_nothing_and_leaves_an_entry() {
    let api = Api::new().await;
    let reader = api
        .issue_with(&api.one.account, &["keys:read", "keys:write"])
        .await;
    let ask = async |path, body| {
        let answer: Answer = api.post(path, &reader, body).await;
        answer.expect_error(
            403,
            "insufficient_scope",
            "This key lacks the scope keys:verify",
        )
    };
    ask(ONE, json!({"key": api.one.key})).await;
    ask(MANY, json!({"keys": [{"key": api.one.key}]})).await;
    let path = format!(
        "/v1/audit?account_id={}&action=authorization.refused",
        api.one.account
    );
    let trail = api.get(&path, &api.operator).await.expect(200).json();
    let entries = trail["entries"].as_array().unwrap();
    let requests: Vec<_> = entries
        .iter()
        .map(|entry| &entry["after"]["request"])
        .collect();
    assert_eq!(
        requests,
        [&json!("POST /v1/verify/batch"), &json!("POST /v1/verify")]
    );
    assert!(!trail.to_string().contains(&api.one.key));
}

/// The caller of these routes, too, is known from memory; who manages is looked up each time.
#[actix_web::test]
async fn verifying_asks_the_cache_and_managing_does_not() {
    let api = Api::new().await;
    let background = actix_web::rt::spawn(api.service.clone().run(std::future::pending()));
    while api.service.statistics().cache.lease.is_zero() {
        actix_web::rt::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let asked = || {
        let cache = api.service.statistics().cache;
        (cache.hits, cache.misses, cache.bypasses)
    };
    let before = asked();
    api.get("/v1/me", &api.two.key).await.expect(200);
    assert_eq!(asked(), before);
    verify(&api, &api.two.key, json!({"key": api.one.key})).await;
    assert_eq!(asked(), (before.0, before.1 + 2, before.2));
    verify(&api, &api.two.key, json!({"key": api.one.key})).await;
    assert_eq!(asked(), (before.0 + 2, before.1 + 2, before.2));
    // What is revoked here is refused from then on, also by the cache.
    let revoke = json!({"status": "revoked"});
    api.patch(&api.key_of_one(), &api.one.key, revoke)
        .await
        .expect(200);
    let answer = verify(&api, &api.operator, json!({"key": api.one.key})).await;
    assert_eq!(answer["code"], "revoked");
    api.post(ONE, &api.one.key, json!({"key": api.two.key}))
        .await
        .expect(401);
    background.abort();
}

#[actix_web::test]
async fn no_key_gets_out() {
    let api = Api::new().await;
    let state = api.state();
    let key = stranger();
    for body in [
        json!({"key": key}),
        json!({"key": format!("{key}x")}),
        json!({"key": {key.as_str(): key}}),
        json!({"key": [key], "scopes": [key]}),
        json!({key.as_str(): key}),
        json!({"keys": [{"key": key}, {"key": 1, key.as_str(): key}]}),
    ] {
        for path in [ONE, MANY] {
            traces::forget();
            let request = Api::request("POST", path, Some(&api.one.key)).set_json(&body);
            let answer = Api::send_to(&state, request).await;
            let (span, events) = traces::take();
            let all = format!("{span:?} {events:?} {} {:?}", answer.text, answer.headers);
            assert!(!all.contains(&key), "{all}");
        }
    }
    let metrics = Api::request("GET", "/metrics", None);
    let metrics = Api::send_inside(&state, metrics).await.expect(200).text;
    assert!(!metrics.contains("ldr_"));
    let malformed = r#"leadr_auth_verifications_total{verdict="malformed"} 1"#;
    assert!(metrics.contains(malformed), "{metrics}");
    assert!(!metrics.contains(NOBODY));
}
