//! Lists in pages: `limit`, `cursor`, `sort`, the filters, and the header `Link`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Answer, Api, NOBODY};

/// The address of the next page.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.header("link");
    if link.is_empty() {
        return None;
    }
    let path = link.strip_prefix('<').unwrap();
    Some(path.strip_suffix(">; rel=\"next\"").unwrap().to_owned())
}

/// Every page of a list, from this address on.
async fn pages(api: &Api, path: &str, key: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut next_path = Some(path.to_owned());
    while let Some(path) = next_path {
        let answer = api.get(&path, key).await.expect(200);
        pages.push(answer.json().as_array().unwrap().clone());
        next_path = next(&answer);
    }
    pages
}

fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect()
}

/// The first tenant's keys: one called `First`, and these.
async fn named(api: &Api, names: &[&str]) {
    for name in names {
        api.issue(&api.one.account, name).await;
    }
}

#[actix_web::test]
async fn without_a_limit_a_list_is_an_array_of_up_to_a_thousand() {
    let api = Api::new().await;
    let path = format!("/v1/api-keys?account_id={}", api.one.account);
    let account = format!("/v1/accounts/{}", api.one.account);
    api.patch(&account, &api.operator, json!({"key_limit": 1001}))
        .await
        .expect(200);
    for n in 1..1000 {
        api.issue(&api.one.account, &format!("Key {n}")).await;
    }
    let answer = api.get(&path, &api.operator).await.expect(200);
    assert_eq!(answer.json().as_array().unwrap().len(), 1000);
    assert_eq!(next(&answer), None, "there are no more");
    api.issue(&api.one.account, "One more").await;
    let all = pages(&api, &path, &api.operator).await;
    let lengths: Vec<_> = all.iter().map(Vec::len).collect();
    assert_eq!(lengths, [1000, 1]);
    let ids: BTreeSet<_> = all
        .iter()
        .flatten()
        .map(|key| key["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 1001);
}

#[actix_web::test]
async fn pages_of_keys_by_every_order() {
    let api = Api::new().await;
    named(&api, &["b", "a", "B", "a", "ä"]).await;
    for limit in [1, 2, 3, 100] {
        for (sort, expected) in [
            ("name", ["B", "First", "a", "a", "b", "ä"]),
            ("-name", ["ä", "b", "a", "a", "First", "B"]),
        ] {
            let path = format!("/v1/api-keys?sort={sort}&limit={limit}");
            let all = pages(&api, &path, &api.one.key).await;
            assert!(all.iter().all(|page| page.len() <= limit));
            assert_eq!(names(&all.concat()), expected, "{path}");
            assert_eq!(all.len(), 6_usize.div_ceil(limit));
        }
        let up = format!("/v1/api-keys?sort=created_at&limit={limit}");
        let mut up = pages(&api, &up, &api.one.key).await.concat();
        up.reverse();
        let down = format!("/v1/api-keys?limit={limit}");
        assert_eq!(up, pages(&api, &down, &api.one.key).await.concat());
    }
}

#[actix_web::test]
async fn filters_of_keys() {
    let api = Api::new().await;
    named(&api, &["Build server", "Deploy"]).await;
    let body = json!({"name": "Expires", "expires_at": "2026-06-01T00:00:00Z"});
    let issued = api
        .post("/v1/api-keys", &api.one.key, body)
        .await
        .expect(201)
        .json();
    let prefix = issued["prefix"].as_str().unwrap();
    let path = format!("/v1/api-keys/{}", issued["id"].as_str().unwrap());
    api.patch(&path, &api.one.key, json!({"status": "revoked"}))
        .await
        .expect(200);
    api.service.usage().flush().await.unwrap();
    for (query, expected) in [
        ("name_contains=SERVER", &["Build server"][..]),
        (
            "name_contains=e&sort=name",
            &["Build server", "Deploy", "Expires"],
        ),
        ("status=revoked", &["Expires"]),
        (
            "status=active&never_used=true&sort=name",
            &["Build server", "Deploy"],
        ),
        ("never_used=false&status=revoked", &["Expires"]),
        ("last_used_after=2026-01-01T00:00:00Z", &["First"]),
        ("last_used_before=2026-01-01T00:00:00Z", &[]),
        ("expires_before=2026-06-01T00:00:00Z", &[]),
        ("expires_after=2026-06-01T02:00:00%2B02:00", &["Expires"]),
        ("created_after=2027-01-01T00:00:00Z", &[]),
        ("created_before=2026-01-01T00:00:00Z", &[]),
        (&format!("prefix={prefix}"), &["Expires"]),
        (&format!("prefix={}", prefix.split_at(13).0), &["Expires"]),
        ("prefix=ldr_&limit=1&name_contains=deploy", &["Deploy"]),
    ] {
        let path = format!("/v1/api-keys?{query}");
        let all = pages(&api, &path, &api.one.key).await.concat();
        assert_eq!(names(&all), expected, "{query}");
    }
}

#[actix_web::test]
async fn pages_and_filters_of_accounts() {
    let api = Api::new().await;
    let path = "/v1/accounts?sort=name&limit=2";
    let all = pages(&api, path, &api.operator).await;
    assert_eq!(all.len(), 2);
    assert_eq!(names(&all.concat())[1..], ["Tenant One", "Tenant Two"]);
    let suspended = format!("/v1/accounts/{}", api.two.account);
    api.patch(&suspended, &api.operator, json!({"status": "suspended"}))
        .await
        .expect(200);
    for (query, expected) in [
        ("status=suspended", &["Tenant Two"][..]),
        (
            "name_contains=tenant&sort=-name",
            &["Tenant Two", "Tenant One"],
        ),
        ("created_after=2027-01-01T00:00:00Z", &[]),
    ] {
        let path = format!("/v1/accounts?{query}");
        let listed = api.get(&path, &api.operator).await.expect(200).json();
        assert_eq!(names(listed.as_array().unwrap()), expected, "{query}");
    }
    // A tenant sees its own, and that only where it passes.
    for (query, expected) in [
        ("limit=1", 1),
        ("status=suspended", 0),
        ("name_contains=two", 0),
    ] {
        let path = format!("/v1/accounts?{query}");
        let listed = api.get(&path, &api.one.key).await.expect(200).json();
        assert_eq!(listed.as_array().unwrap().len(), expected, "{query}");
    }
}

#[actix_web::test]
async fn a_cursor_is_good_for_its_very_list_only() {
    let api = Api::new().await;
    named(&api, &["a", "b", "c"]).await;
    let first = api
        .get("/v1/api-keys?sort=name&limit=1", &api.one.key)
        .await
        .expect(200);
    let link = next(&first).unwrap();
    let (_, cursor) = link.split_once("cursor=").unwrap();
    // The same list, whoever asks for it, and however long the page is to be.
    let named_account = format!(
        "/v1/api-keys?sort=name&account_id={}&limit=3&cursor={cursor}",
        api.one.account
    );
    let rest = api
        .get(&named_account, &api.operator)
        .await
        .expect(200)
        .json();
    assert_eq!(names(rest.as_array().unwrap()), ["a", "b", "c"]);
    let other = format!("/v1/api-keys?cursor={cursor}");
    let refused = [
        (format!("{other}&sort=name"), &api.two.key),
        (other.clone(), &api.one.key),
        (format!("{other}&sort=-name"), &api.one.key),
        (format!("{other}&sort=created_at"), &api.one.key),
        (format!("{other}&sort=name&status=active"), &api.one.key),
        (format!("{other}x"), &api.one.key),
        ("/v1/api-keys?cursor=".to_owned(), &api.one.key),
        ("/v1/api-keys?cursor=%00".to_owned(), &api.one.key),
        (format!("/v1/accounts?cursor={cursor}"), &api.operator),
        (format!("/v1/accounts?cursor={cursor}"), &api.one.key),
        (format!("/v1/audit?cursor={cursor}"), &api.one.key),
        (
            format!(
                "/v1/api-keys?account_id={}&cursor={cursor}",
                api.two.account
            ),
            &api.operator,
        ),
    ];
    for (path, key) in refused {
        let answer = api.get(&path, key).await;
        assert_eq!(answer.faults(), ["cursor query.cursor"], "{path}");
    }
    // Of a foreign account there is no list, and so no cursor, whether or not there is such an account.
    for foreign in [api.one.account.as_str(), NOBODY] {
        let path = format!("/v1/api-keys?sort=name&account_id={foreign}&cursor={cursor}");
        let answer = api.get(&path, &api.two.key).await;
        assert_eq!(answer.faults(), ["cursor query.cursor"]);
    }
}

#[actix_web::test]
async fn a_key_that_goes_meanwhile_leaves_no_gap() {
    let api = Api::new().await;
    named(&api, &["a", "b", "c", "d"]).await;
    let first = api
        .get("/v1/api-keys?limit=2&sort=name", &api.one.key)
        .await
        .expect(200);
    let shown = first.json();
    for key in shown.as_array().unwrap() {
        if key["name"] != "First" {
            let path = format!("/v1/api-keys/{}", key["id"].as_str().unwrap());
            api.patch(&path, &api.one.key, json!({"deleted": true}))
                .await
                .expect(200);
        }
    }
    let rest = pages(&api, &next(&first).unwrap(), &api.one.key)
        .await
        .concat();
    assert_eq!(names(&rest), ["b", "c", "d"]);
}

#[actix_web::test]
async fn what_is_wrong_with_a_list_is_told_at_once() {
    let api = Api::new().await;
    let query = "account_id=x&status=eaten&name_contains=&prefix=ldr%00&created_after=today&created_before=1\
        &last_used_after=2026-01-01&last_used_before=&expires_after=-&expires_before=x&never_used=1&sort=size&limit=101&cursor=x";
    let answer = api
        .get(&format!("/v1/api-keys?{query}"), &api.one.key)
        .await;
    let faults = answer.faults();
    let places: BTreeSet<_> = faults
        .iter()
        .map(|fault| fault.split_once(' ').unwrap().1)
        .collect();
    assert_eq!(places.len(), 14, "{faults:?}");
    for (query, fault) in [
        ("limit=0", "int_out_of_range query.limit"),
        ("limit=-1", "int_out_of_range query.limit"),
        ("limit=1&limit=1", "duplicate query.limit"),
        ("sort=--name", "enum query.sort"),
        (
            "name_contains=a%E2%80%AEb",
            "control_character query.name_contains",
        ),
        ("name_contains=%00", "control_character query.name_contains"),
        (
            &format!("name_contains={}", "x".repeat(256)),
            "string_length query.name_contains",
        ),
        // A whole key is a secret, and belongs into no address.
        (
            &format!("prefix={}", api.one.key),
            "string_pattern_mismatch query.prefix",
        ),
    ] {
        let answer = api
            .get(&format!("/v1/api-keys?{query}"), &api.one.key)
            .await;
        assert!(!answer.text.contains(&api.one.key));
        assert_eq!(answer.faults(), [fault], "{query}");
    }
}
