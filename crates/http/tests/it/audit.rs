//! `/v1/audit`.

use serde_json::{Value, json};

use crate::support::{Api, NOBODY};

fn list(answer: &Value) -> Vec<(&str, u64)> {
    let entries = answer["entries"].as_array().unwrap().iter();
    entries
        .map(|entry| {
            let action = entry["action"].as_str().unwrap();
            (action, entry["seq"].as_u64().unwrap())
        })
        .collect()
}

#[actix_web::test]
async fn a_change_says_who_what_and_how_it_was() {
    let api = Api::new().await;
    let request = Api::request("PATCH", &api.key_of_one(), Some(&api.operator))
        .insert_header(("x-request-id", "incident-7"))
        .peer_addr("192.0.2.9:4711".parse().unwrap())
        .set_json(json!({"status": "revoked", "name": "Leaked"}));
    api.send(request).await.expect(200);
    let path = format!("/v1/audit?account_id={}", api.one.account);
    let answer = api.get(&path, &api.operator).await.expect(200).json();
    assert_eq!(
        list(&answer),
        [
            ("key.revoked", 3),
            ("key.created", 2),
            ("account.created", 1)
        ]
    );
    assert_eq!(answer["next_cursor"], Value::Null);
    let me = api.get("/v1/me", &api.operator).await.expect(200).json();
    let mut entry = answer["entries"][0].clone();
    let hash = entry["hash"].take();
    assert_eq!(hash.as_str().unwrap().len(), 64);
    assert_eq!(
        entry,
        json!({
            "account_id": api.one.account,
            "seq": 3,
            "at": "2026-01-01T00:00:00Z",
            "action": "key.revoked",
            "actor": {"kind": "key", "key_id": me["key"]["id"], "account_id": me["account"]["id"]},
            "request_id": "incident-7",
            "client": "192.0.2.9",
            "key_id": api.one.key_id,
            "before": {"name": "First", "status": "active"},
            "after": {"name": "Leaked", "status": "revoked"},
            "hash": null,
        })
    );
}

#[actix_web::test]
async fn a_refusal_says_what_was_asked() {
    let api = Api::new().await;
    let verifier = api.issue_with(&api.one.account, &["keys:verify"]).await;
    api.get(&api.key_of_one(), &verifier).await.expect(403);
    let path = "/v1/audit?action=authorization.refused";
    let answer = api.get(path, &api.one.key).await.expect(200).json();
    let entry = &answer["entries"][0];
    assert_eq!(
        entry["after"],
        json!({
            "request": "GET /v1/api-keys/{key_id}",
            "code": "insufficient_scope",
            "scope": "keys:read",
            "target": api.one.key_id,
        })
    );
    assert_eq!(entry["actor"]["account_id"], api.one.account);
}

/// Wherever it was named; whether it exists is neither asked nor told.
#[actix_web::test]
async fn a_refusal_says_which_account_was_asked_for() {
    let api = Api::new().await;
    for foreign in [&*api.two.account, NOBODY] {
        let named = format!("account_id={foreign}");
        let new = json!({"account_id": foreign, "name": "K"});
        let key = &api.one.key;
        for answer in [
            api.get(&format!("/v1/api-keys?{named}"), key).await,
            api.get(&format!("/v1/audit?{named}"), key).await,
            api.post("/v1/api-keys", key, new).await,
        ] {
            answer.expect_error(403, "forbidden", "This key is not of that account");
        }
        let path = "/v1/audit?action=authorization.refused&limit=3";
        let answer = api.get(path, key).await.expect(200).json();
        let entries = answer["entries"].as_array().unwrap();
        for (entry, request) in
            entries
                .iter()
                .zip(["POST /v1/api-keys", "GET /v1/audit", "GET /v1/api-keys"])
        {
            assert_eq!(
                entry["after"],
                json!({"request": request, "code": "forbidden", "target": foreign})
            );
        }
        assert_eq!(entries.len(), 3);
    }
}

#[actix_web::test]
async fn lists_are_filtered_and_go_on_where_they_stopped() {
    let api = Api::new().await;
    for status in ["revoked", "active", "revoked"] {
        let change = json!({"status": status});
        let path = api.key_of_one();
        api.patch(&path, &api.operator, change).await.expect(200);
    }
    let me = api.get("/v1/me", &api.operator).await.expect(200).json();
    let asker = api.issue_with(&api.one.account, &["audit:read"]).await;
    let ask = async |query: &str| {
        let path = format!("/v1/audit?{query}");
        api.get(&path, &asker).await.expect(200).json()
    };
    assert_eq!(
        list(&ask("action=key.revoked").await),
        [("key.revoked", 5), ("key.revoked", 3)]
    );
    let by = format!("actor={}", me["key"]["id"].as_str().unwrap());
    assert_eq!(list(&ask(&by).await).len(), 6);
    assert!(list(&ask("actor=tool").await).is_empty());
    let about = format!("key_id={}", api.one.key_id);
    assert_eq!(list(&ask(&about).await).len(), 4);
    assert!(list(&ask("since=2027-01-01T00:00:00Z").await).is_empty());
    assert!(list(&ask("until=2026-01-01T00:00:00Z").await).is_empty());

    let whole = ask("").await;
    let (mut paged, mut query) = (Vec::new(), "limit=2".to_owned());
    let cursor = loop {
        let page = ask(&query).await;
        paged.extend(page["entries"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("limit=2&cursor={cursor}"),
            None => break query.split_off("limit=2&cursor=".len()),
        }
    };
    assert_eq!(&paged, whole["entries"].as_array().unwrap());

    // A cursor of another's list, or of none.
    for bad in [cursor.as_str(), "x", "1.2.3", ""] {
        let path = format!("/v1/audit?cursor={bad}");
        let answer = api.get(&path, &api.two.key).await;
        if bad.is_empty() {
            assert!(
                answer.status == 422 || answer.status == 200,
                "{}",
                answer.text
            );
        } else {
            assert_eq!(answer.faults(), ["cursor query.cursor"], "{bad}");
        }
    }
    let altered = format!("0{cursor}");
    let path = format!("/v1/audit?cursor={altered}");
    let answer = api.get(&path, &asker).await;
    assert_eq!(answer.faults(), ["cursor query.cursor"]);
}

/// The nil UUID is no account's: for an operator it stands for the deployment's own trail.
#[actix_web::test]
async fn an_operator_reads_the_deployments_own_trail() {
    let api = Api::new().await;
    let nil = "00000000-0000-0000-0000-000000000000";
    let rotated = leadr_auth_domain::PepperId::parse("new").unwrap();
    let secrets = [
        (
            leadr_auth_domain::PepperId::default(),
            crate::support::SECRET,
        ),
        (rotated.clone(), "another secret for tests, of 32 bytes"),
    ];
    let keyring = leadr_auth_domain::Keyring::new(&rotated, secrets).unwrap();
    api.service.replace_keyring(keyring).await.unwrap();
    let ask = async |query: &str| {
        let path = format!("/v1/audit?account_id={nil}{query}");
        api.get(&path, &api.operator).await.expect(200).json()
    };
    let whole = ask("").await;
    let entries = whole["entries"].as_array().unwrap();
    assert!(entries.len() > 1, "{whole}");
    assert!(entries.iter().all(|entry| entry["account_id"].is_null()));
    let first = ask("&limit=1").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = ask(&format!("&limit=1&cursor={cursor}")).await;
    assert_eq!(second["entries"][0], entries[1]);
    let path = format!("/v1/audit?account_id={nil}");
    api.get(&path, &api.one.key).await.expect(403);
}

#[actix_web::test]
async fn every_fault_of_a_query_is_named() {
    let api = Api::new().await;
    let query = "account_id=1&key_id=2&actor=me&action=key.eaten&since=today&until=2026-01-01&limit=0&cursor=x";
    let answer = api.get(&format!("/v1/audit?{query}"), &api.one.key).await;
    assert_eq!(
        answer.faults(),
        [
            "uuid_parsing query.account_id",
            "uuid_parsing query.key_id",
            "enum query.actor",
            "enum query.action",
            "datetime_parsing query.since",
            "datetime_parsing query.until",
            "int_out_of_range query.limit",
            "cursor query.cursor",
        ]
    );
    for limit in ["101", "-1", "x", "1.5"] {
        let path = format!("/v1/audit?limit={limit}");
        let answer = api.get(&path, &api.one.key).await;
        assert_eq!(answer.faults(), ["int_out_of_range query.limit"]);
    }
    let path = format!("/v1/audit?account_id={NOBODY}");
    api.get(&path, &api.one.key).await.expect(403);
}
