//! `/v1/api-keys`.

use leadr_auth_domain::{Access, Keyring, Origin, PepperId, Principal, Timestamp};
use leadr_auth_service::KeyFilter;
use serde_json::{Value, json};

use crate::support::{Api, NOBODY, SECRET};

fn fields(value: &Value) -> Vec<&str> {
    let mut fields: Vec<_> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    fields.sort_unstable();
    fields
}

#[actix_web::test]
async fn an_issued_key_has_the_fields_of_the_reference_and_works() {
    let api = Api::new().await;
    let body = json!({"account_id": api.one.account, "name": "  Test API Key ",
        "expires_at": "2026-04-01T02:00:00.5+02:00"});
    let issued = api
        .post("/v1/api-keys", &api.operator, body)
        .await
        .expect(201)
        .json();
    assert_eq!(
        fields(&issued),
        [
            "created_at",
            "expires_at",
            "id",
            "key",
            "name",
            "prefix",
            "scopes",
            "status"
        ]
    );
    assert_eq!(issued["name"], "Test API Key");
    assert_eq!(issued["status"], "active");
    assert_eq!(issued["expires_at"], "2026-04-01T00:00:00.500000Z");
    assert_eq!(issued["created_at"], "2026-01-01T00:00:00Z");
    let key = issued["key"].as_str().unwrap();
    assert!(key.starts_with("ldr_") && key.len() == 47);
    assert_eq!(issued["prefix"], key.split_at(14).0);

    let path = format!("/v1/api-keys/{}", issued["id"].as_str().unwrap());
    let read = api.get(&path, key).await.expect(200).json();
    assert_eq!(
        fields(&read),
        [
            "account_id",
            "created_at",
            "expires_at",
            "id",
            "last_used_at",
            "name",
            "prefix",
            "scopes",
            "status",
            "updated_at"
        ]
    );
    assert_eq!(read["account_id"], api.one.account);
    assert!(!read.to_string().contains(key), "the key is shown once");
}

#[actix_web::test]
async fn a_tenant_may_leave_its_account_out() {
    let api = Api::new().await;
    let issued = api
        .post("/v1/api-keys", &api.one.key, json!({"name": "Mine"}))
        .await
        .expect(201);
    let path = format!("/v1/api-keys/{}", issued.json()["id"].as_str().unwrap());
    let read = api.get(&path, &api.one.key).await.expect(200).json();
    assert_eq!(read["account_id"], api.one.account);
    let null = json!({"name": "Mine", "account_id": null, "expires_at": null});
    api.post("/v1/api-keys", &api.one.key, null)
        .await
        .expect(201);
    let named = json!({"name": "Mine", "account_id": api.one.account});
    api.post("/v1/api-keys", &api.one.key, named)
        .await
        .expect(201);
    let listed = api
        .get("/v1/api-keys", &api.one.key)
        .await
        .expect(200)
        .json();
    assert_eq!(listed.as_array().unwrap().len(), 4);
}

#[actix_web::test]
async fn an_operator_says_which_account() {
    let api = Api::new().await;
    let answer = api
        .post("/v1/api-keys", &api.operator, json!({"name": "Whose?"}))
        .await;
    assert_eq!(answer.faults(), ["missing body.account_id"]);
    let answer = api.get("/v1/api-keys", &api.operator).await;
    assert_eq!(answer.faults(), ["missing query.account_id"]);
}

#[actix_web::test]
async fn an_account_that_does_not_exist_gets_no_key_and_has_none() {
    let api = Api::new().await;
    let body = json!({"account_id": NOBODY, "name": "K"});
    let answer = api.post("/v1/api-keys", &api.operator, body).await;
    answer.expect_error(404, "not_found", "Account not found");
    let path = format!("/v1/api-keys?account_id={NOBODY}");
    assert_eq!(
        api.get(&path, &api.operator).await.expect(200).json(),
        json!([])
    );
    let path = format!("/v1/accounts/{}", api.one.account);
    api.patch(&path, &api.operator, json!({"deleted": true}))
        .await
        .expect(200);
    let body = json!({"account_id": api.one.account, "name": "K"});
    let answer = api.post("/v1/api-keys", &api.operator, body).await;
    answer.expect_error(404, "not_found", "Account not found");
}

#[actix_web::test]
async fn every_faulty_field_is_listed() {
    let api = Api::new().await;
    let body = json!({"account_id": 7, "name": "", "expires_at": "2026-01-01T00:00:00", "x": 1});
    let answer = api.post("/v1/api-keys", &api.operator, body).await;
    assert_eq!(
        answer.faults(),
        [
            "string_type body.account_id",
            "string_too_short body.name",
            "timezone_aware body.expires_at",
            "extra_forbidden body.x"
        ]
    );
    let cases = [
        (json!({}), "missing body.name"),
        (json!({"name": null}), "string_type body.name"),
        (json!({"name": 1}), "string_type body.name"),
        (json!({"name": ["a"]}), "string_type body.name"),
        (json!({"name": "   "}), "string_too_short body.name"),
        (
            json!({"name": "ü".repeat(256)}),
            "string_too_long body.name",
        ),
        (json!({"name": "a\u{0}b"}), "control_character body.name"),
        (json!({"name": "a\nb"}), "control_character body.name"),
        (
            json!({"name": "K", "account_id": "not-a-uuid"}),
            "uuid_parsing body.account_id",
        ),
        (
            json!({"name": "K", "account_id": ""}),
            "uuid_parsing body.account_id",
        ),
        (
            json!({"name": "K", "expires_at": "soon"}),
            "datetime_parsing body.expires_at",
        ),
        (
            json!({"name": "K", "expires_at": 1_784_764_800}),
            "datetime_type body.expires_at",
        ),
        (
            json!({"name": "K", "expires_at": "0000-01-01T00:00:00Z"}),
            "datetime_out_of_range body.expires_at",
        ),
        (
            json!({"name": "K", "expires_at": "+999999-01-01T00:00:00Z"}),
            "datetime_parsing body.expires_at",
        ),
        (
            json!({"name": "K", "expires": "2027-01-01T00:00:00Z"}),
            "extra_forbidden body.expires",
        ),
        (
            json!({"name": "K", "key_hash": "x"}),
            "extra_forbidden body.key_hash",
        ),
    ];
    let before = api
        .get("/v1/api-keys", &api.one.key)
        .await
        .json()
        .as_array()
        .unwrap()
        .len();
    for (body, fault) in cases {
        let answer = api.post("/v1/api-keys", &api.one.key, body.clone()).await;
        assert_eq!(answer.faults(), [fault], "{body}");
    }
    let after = api
        .get("/v1/api-keys", &api.one.key)
        .await
        .json()
        .as_array()
        .unwrap()
        .len();
    assert_eq!(before, after, "nothing was made");
}

#[actix_web::test]
async fn lists_are_newest_first_and_filtered_by_status() {
    let api = Api::new().await;
    for (second, name) in ["B", "C"].iter().enumerate() {
        let at = format!("2026-01-01T00:01:{second:02}Z");
        api.clock.set(Timestamp::parse(&at).unwrap());
        api.issue(&api.one.account, name).await;
    }
    let path = format!("/v1/api-keys?account_id={}", api.one.account);
    let names = |value: &Value| -> Vec<String> {
        let keys = value.as_array().unwrap().iter();
        keys.map(|key| key["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = api.get(&path, &api.operator).await.expect(200).json();
    assert_eq!(names(&all), ["C", "B", "First"]);
    let b = format!("/v1/api-keys/{}", all[1]["id"].as_str().unwrap());
    api.patch(&b, &api.operator, json!({"status": "revoked"}))
        .await
        .expect(200);
    for (status, expected) in [("active", vec!["C", "First"]), ("revoked", vec!["B"])] {
        let listed = api
            .get(&format!("{path}&status={status}"), &api.operator)
            .await;
        assert_eq!(names(&listed.expect(200).json()), expected);
    }
    let answer = api
        .get(&format!("{path}&status=expired"), &api.operator)
        .await;
    assert_eq!(answer.faults(), ["enum query.status"]);
    let answer = api
        .get("/v1/api-keys?account_id=x&status=", &api.operator)
        .await;
    assert_eq!(
        answer.faults(),
        ["uuid_parsing query.account_id", "enum query.status"]
    );
    let twice = format!("{path}&account_id={}", api.two.account);
    let answer = api.get(&twice, &api.operator).await;
    assert_eq!(answer.faults(), ["duplicate query.account_id"]);
    let answer = api.get(&format!("{path}&unknown=1"), &api.operator).await;
    answer.expect(200);
}

#[actix_web::test]
async fn a_key_is_got_by_any_uuid() {
    let api = Api::new().await;
    for id in [NOBODY, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"] {
        let answer = api.get(&format!("/v1/api-keys/{id}"), &api.operator).await;
        answer.expect_error(404, "not_found", "APIKey not found");
    }
    let upper = format!("/v1/api-keys/{}", api.one.key_id.to_uppercase());
    api.get(&upper, &api.one.key).await.expect(200);
    for id in ["x", "7", "%00", "..%2f", "%F0%9F%94%91"] {
        let answer = api.get(&format!("/v1/api-keys/{id}"), &api.operator).await;
        assert_eq!(answer.faults(), ["uuid_parsing path.key_id"], "{id}");
        let patch = api
            .patch(
                &format!("/v1/api-keys/{id}"),
                &api.operator,
                json!({"a": 1}),
            )
            .await;
        assert_eq!(
            patch.faults(),
            ["uuid_parsing path.key_id", "extra_forbidden body.a"]
        );
    }
}

#[actix_web::test]
async fn revoking_and_reactivating() {
    let api = Api::new().await;
    let path = api.key_of_one();
    api.clock
        .set(Timestamp::parse("2026-01-02T00:00:00Z").unwrap());
    let revoked = api
        .patch(&path, &api.operator, json!({"status": "revoked"}))
        .await
        .expect(200)
        .json();
    assert_eq!(revoked["status"], "revoked");
    assert_eq!(revoked["updated_at"], "2026-01-02T00:00:00Z");
    api.get(&path, &api.one.key).await.expect(401);
    let again = api
        .patch(&path, &api.operator, json!({"status": "revoked"}))
        .await
        .expect(200)
        .json();
    assert_eq!(again, revoked);
    let active = api
        .patch(&path, &api.operator, json!({"status": "active"}))
        .await
        .expect(200)
        .json();
    assert_eq!(active["status"], "active");
    api.get(&path, &api.one.key).await.expect(200);
}

#[actix_web::test]
async fn a_key_may_revoke_itself() {
    let api = Api::new().await;
    let path = api.key_of_one();
    api.patch(&path, &api.one.key, json!({"status": "revoked"}))
        .await
        .expect(200);
    api.patch(&path, &api.one.key, json!({"status": "active"}))
        .await
        .expect(401);
}

#[actix_web::test]
async fn deleting_and_restoring() {
    let api = Api::new().await;
    let path = api.key_of_one();
    let before = api.get(&path, &api.operator).await.expect(200).json();
    api.clock
        .set(Timestamp::parse("2026-01-02T00:00:00Z").unwrap());
    let was = api
        .patch(&path, &api.operator, json!({"deleted": true}))
        .await
        .expect(200)
        .json();
    assert_eq!(was, before, "the key as it was");
    for gone in [
        api.get(&path, &api.operator).await,
        api.patch(&path, &api.operator, json!({"status": "active"}))
            .await,
        api.patch(&path, &api.operator, json!({"deleted": true}))
            .await,
        api.patch(&path, &api.operator, json!({})).await,
    ] {
        gone.expect_error(404, "not_found", "APIKey not found");
    }
    api.get("/v1/api-keys", &api.one.key).await.expect(401);
    let list = format!("/v1/api-keys?account_id={}", api.one.account);
    assert_eq!(
        api.get(&list, &api.operator).await.expect(200).json(),
        json!([])
    );
    let back = api
        .patch(&path, &api.operator, json!({"deleted": false}))
        .await
        .expect(200)
        .json();
    assert_eq!(back["status"], "active");
    api.get(&path, &api.one.key).await.expect(200);
    // A live key is not restored, and that is no fault.
    let same = api
        .patch(&path, &api.operator, json!({"deleted": false}))
        .await
        .expect(200)
        .json();
    assert_eq!(same["updated_at"], back["updated_at"]);
}

/// A key whose secret was dropped could never be used, and is not brought back; nor does anybody hear of it who does not
/// reach the key.
#[actix_web::test]
async fn a_key_whose_secret_was_dropped_is_not_restored() {
    let api = Api::new().await;
    let path = api.key_of_one();
    let new = PepperId::parse("new").unwrap();
    let secrets = [
        (PepperId::default(), SECRET),
        (new.clone(), "another secret for tests, of 32 bytes"),
    ];
    let ring = Keyring::new(&new, secrets).unwrap();
    api.service.replace_keyring(ring).await.unwrap();
    let me = api.get("/v1/me", &api.operator).await.expect(200).json();
    let account = me["account"]["id"].as_str().unwrap();
    let (_, operator) = api.issue(account, "Later").await;
    let (_, of_two) = api.issue(&api.two.account, "Later").await;
    for account in api.service.list_accounts(Access::All).await.unwrap() {
        let filter = KeyFilter::of(account.id);
        let mut keys = api.service.list_keys(Access::All, filter).await.unwrap();
        keys.retain(|key| key.pepper_id != new);
        for key in keys {
            let path = format!("/v1/api-keys/{}", key.id);
            api.patch(&path, &operator, json!({"deleted": true}))
                .await
                .expect(200);
        }
    }
    let tool = Principal::deployment(Origin::TOOL).operator().unwrap();
    api.service
        .drop_pepper(&tool, &PepperId::default())
        .await
        .unwrap();
    let count = async || {
        let path = format!("/v1/audit?account_id={}", api.one.account);
        let trail = api.get(&path, &operator).await.expect(200).json();
        trail["entries"].as_array().unwrap().len()
    };
    let before = count().await;
    let detail =
        "This key cannot be restored: the server secret that it is hashed under was dropped";
    for body in [
        json!({"deleted": false}),
        json!({"deleted": false, "name": "Back", "status": "revoked"}),
    ] {
        let answer = api.patch(&path, &operator, body).await;
        answer.expect_error(409, "secret_dropped", detail);
    }
    let gone = api.get(&path, &operator).await;
    gone.expect_error(404, "not_found", "APIKey not found");
    assert_eq!(count().await, before, "nothing was done, and nothing said");
    let foreign = api.patch(&path, &of_two, json!({"deleted": false})).await;
    foreign.expect_error(404, "not_found", "APIKey not found");
}

#[actix_web::test]
async fn status_and_deletion_together_both_apply() {
    let api = Api::new().await;
    let path = api.key_of_one();
    let both = json!({"status": "revoked", "deleted": true});
    let shown = api
        .patch(&path, &api.operator, both)
        .await
        .expect(200)
        .json();
    assert_eq!(shown["status"], "revoked");
    api.get(&path, &api.operator).await.expect(404);
    let restored = api
        .patch(&path, &api.operator, json!({"deleted": false}))
        .await
        .expect(200)
        .json();
    assert_eq!(restored["status"], "revoked");
    api.patch(&path, &api.operator, json!({"deleted": true}))
        .await
        .expect(200);
    let both = json!({"status": "active", "deleted": false});
    assert_eq!(
        api.patch(&path, &api.operator, both)
            .await
            .expect(200)
            .json()["status"],
        "active"
    );
    api.get(&path, &api.one.key).await.expect(200);
}

#[actix_web::test]
async fn an_empty_change_answers_the_key() {
    let api = Api::new().await;
    let path = api.key_of_one();
    let before = api.get(&path, &api.operator).await.expect(200).json();
    api.clock
        .set(Timestamp::parse("2026-01-02T00:00:00Z").unwrap());
    for body in [
        json!({}),
        json!({"status": null, "deleted": null, "name": null}),
    ] {
        assert_eq!(
            api.patch(&path, &api.operator, body)
                .await
                .expect(200)
                .json(),
            before
        );
    }
    let nothing = Api::request("PATCH", &path, Some(&api.operator));
    assert_eq!(api.send(nothing).await.expect(200).json(), before);
}

#[actix_web::test]
async fn a_faulty_change_changes_nothing() {
    let api = Api::new().await;
    let path = api.key_of_one();
    let before = api.get(&path, &api.operator).await.json();
    for (body, faults) in [
        (
            json!({"status": "revoked", "deleted": "true"}),
            vec!["bool_type body.deleted"],
        ),
        (
            json!({"status": "revoked", "deleted": 1}),
            vec!["bool_type body.deleted"],
        ),
        (
            json!({"status": "REVOKED", "name": 1}),
            vec!["enum body.status", "string_type body.name"],
        ),
        (
            json!({"status": "revoked", "account_id": NOBODY}),
            vec!["extra_forbidden body.account_id"],
        ),
        (
            json!({"status": "revoked", "name": "\u{7}"}),
            vec!["control_character body.name"],
        ),
    ] {
        assert_eq!(api.patch(&path, &api.operator, body).await.faults(), faults);
    }
    assert_eq!(api.get(&path, &api.operator).await.json(), before);
}

#[actix_web::test]
async fn renaming() {
    let api = Api::new().await;
    let path = api.key_of_one();
    let renamed = api
        .patch(&path, &api.one.key, json!({"name": " New "}))
        .await
        .expect(200);
    assert_eq!(renamed.json()["name"], "New");
    api.get(&path, &api.one.key).await.expect(200);
}

/// It would be shown to whoever may list, and stay in the audit trail.
#[actix_web::test]
async fn no_name_holds_a_key() {
    let api = Api::new().await;
    let account = format!("/v1/accounts/{}", api.one.account);
    for name in [api.one.key.clone(), format!("use {}!", api.one.key)] {
        let named = json!({"name": name});
        let made = json!({"name": name, "slug": "three"});
        for refused in [
            api.patch(&api.key_of_one(), &api.one.key, named.clone())
                .await,
            api.post("/v1/api-keys", &api.one.key, named.clone()).await,
            api.patch(&account, &api.operator, named).await,
            api.post("/v1/accounts", &api.operator, made).await,
        ] {
            assert_eq!(refused.faults(), ["api_key body.name"]);
            assert!(!refused.text.contains(&api.one.key), "{}", refused.text);
        }
    }
    let trail = api.get("/v1/audit", &api.operator).await.expect(200);
    assert!(!trail.text.contains(&api.one.key), "{}", trail.text);
    // Its prefix is what people know it by.
    let path = api.key_of_one();
    let key = api.get(&path, &api.one.key).await.expect(200).json();
    let named = json!({"name": key["prefix"]});
    api.patch(&path, &api.one.key, named).await.expect(200);
}

#[actix_web::test]
async fn a_key_is_issued_with_scopes_and_shows_them() {
    let api = Api::new().await;
    let body = json!({"name": "Narrow", "scopes": ["keys:read", "docs:*", "keys:read"]});
    let issued = api
        .post("/v1/api-keys", &api.one.key, body)
        .await
        .expect(201)
        .json();
    assert_eq!(issued["scopes"], json!(["docs:*", "keys:read"]));
    let path = format!("/v1/api-keys/{}", issued["id"].as_str().unwrap());
    let read = api.get(&path, &api.one.key).await.expect(200).json();
    assert_eq!(read["scopes"], json!(["docs:*", "keys:read"]));
    let (_, wide) = api.issue(&api.one.account, "Wide").await;
    let me = api.get("/v1/me", &wide).await.expect(200).json();
    assert_eq!(
        me["key"]["scopes"],
        Value::Null,
        "all rights of its account"
    );
    // Left out, it is as wide as its maker.
    let narrow = api.issue_with(&api.one.account, &["keys:write"]).await;
    let body = json!({"name": "Like its maker"});
    let issued = api.post("/v1/api-keys", &narrow, body).await.expect(201);
    assert_eq!(issued.json()["scopes"], json!(["keys:write"]));
    let narrowed = json!({"scopes": []});
    let changed = api.patch(&path, &api.one.key, narrowed).await.expect(200);
    assert_eq!(changed.json()["scopes"], json!([]));
}

#[actix_web::test]
async fn nobody_gives_a_scope_that_they_do_not_hold() {
    let api = Api::new().await;
    let maker = api
        .issue_with(&api.one.account, &["keys:write", "docs:read"])
        .await;
    let detail = "This key does not hold the scope docs:write and cannot give it";
    let wide = json!({"scopes": ["docs:read", "docs:write"]});
    let mut new = wide.clone();
    new["name"] = "Wide".into();
    let path = "/v1/api-keys";
    let refused = api.post(path, &maker, new).await;
    refused.expect_error(403, "scope_not_held", detail);
    let refused = api.patch(&api.key_of_one(), &maker, wide).await;
    refused.expect_error(403, "scope_not_held", detail);
    // All that a tenant has does not include what is an operator's.
    let new = json!({"name": "Climber", "scopes": ["accounts:write"]});
    let refused = api.post(path, &api.one.key, new).await.expect(403);
    assert_eq!(refused.json()["code"], "scope_not_held");
    let listed = api.get(path, &api.one.key).await.expect(200).json();
    assert_eq!(listed.as_array().unwrap().len(), 2, "nothing was made");
}

#[actix_web::test]
async fn nobody_brings_back_a_key_that_is_wider_than_their_own() {
    let api = Api::new().await;
    let narrow = api.issue_with(&api.one.account, &["keys:write"]).await;
    let path = api.key_of_one();
    let detail = "This key does not hold the scope * and cannot give it";
    for (stop, back) in [
        (json!({"status": "revoked"}), json!({"status": "active"})),
        (json!({"deleted": true}), json!({"deleted": false})),
    ] {
        api.patch(&path, &narrow, stop).await.expect(200);
        let refused = api.patch(&path, &narrow, back.clone()).await;
        refused.expect_error(403, "scope_not_held", detail);
        api.get("/v1/me", &api.one.key).await.expect(401);
        api.patch(&path, &api.operator, back).await.expect(200);
    }
    let trail = "/v1/audit?action=authorization.refused";
    let trail = api.get(trail, &api.one.key).await.expect(200).json();
    let entries = trail["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(
        entries[0]["after"],
        json!({
            "request": "PATCH /v1/api-keys/{key_id}",
            "code": "scope_not_held",
            "scope": "*",
            "target": api.one.key_id,
        })
    );
}

#[actix_web::test]
async fn every_scope_that_is_none_is_named() {
    let api = Api::new().await;
    let long = "a".repeat(129);
    let scopes = json!(["docs:read", "Docs", "keys:*", 7, "", long, "docs:*:read"]);
    let faults = [
        "string_pattern_mismatch body.scopes.1",
        "enum body.scopes.2",
        "string_type body.scopes.3",
        "string_pattern_mismatch body.scopes.4",
        "string_too_long body.scopes.5",
        "string_pattern_mismatch body.scopes.6",
    ];
    let new = json!({"name": "K", "scopes": scopes});
    let refused = api.post("/v1/api-keys", &api.one.key, new).await;
    assert_eq!(refused.faults(), faults);
    let change = json!({"scopes": scopes});
    let refused = api.patch(&api.key_of_one(), &api.one.key, change).await;
    assert_eq!(refused.faults(), faults);
    let many: Vec<_> = (0..65).map(|n| format!("scope-{n}")).collect();
    let cases = [
        (json!(many), "too_long body.scopes"),
        (json!("keys:read"), "list_type body.scopes"),
        (json!({}), "list_type body.scopes"),
    ];
    for (scopes, fault) in cases {
        let new = json!({"name": "K", "scopes": scopes});
        let refused = api.post("/v1/api-keys", &api.one.key, new).await;
        assert_eq!(refused.faults(), [fault]);
    }
}
