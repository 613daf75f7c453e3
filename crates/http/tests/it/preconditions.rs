//! `ETag` and `If-Match`.

use serde_json::{Value, json};

use crate::support::{Answer, Api};

async fn change(api: &Api, path: &str, seen: &str, body: Value) -> Answer {
    let request = Api::request("PATCH", path, Some(&api.operator));
    let request = request.insert_header(("if-match", seen)).set_json(body);
    api.send(request).await
}

#[actix_web::test]
async fn a_change_is_made_to_what_was_seen_or_not_at_all() {
    let api = Api::new().await;
    let account = format!("/v1/accounts/{}", api.one.account);
    for path in [api.key_of_one(), account] {
        let read = api.get(&path, &api.operator).await.expect(200);
        let seen = read.header("etag").to_owned();
        assert!(seen.starts_with('"') && seen.ends_with('"'), "{seen}");
        let renamed = change(&api, &path, &seen, json!({"name": "Renamed"}))
            .await
            .expect(200);
        let now = renamed.header("etag").to_owned();
        assert_ne!(now, seen);
        assert_eq!(api.get(&path, &api.operator).await.header("etag"), now);
        // Who saw what was before is told, and nothing is changed.
        let late = change(&api, &path, &seen, json!({"name": "Late"})).await;
        late.expect_error(
            412,
            "precondition_failed",
            "It has changed since it was read",
        );
        assert_eq!(
            api.get(&path, &api.operator).await.json()["name"],
            "Renamed"
        );
        for seen in ["*", &now, &format!("\"other\", {now}")] {
            change(&api, &path, seen, json!({})).await.expect(200);
        }
        for never in [&format!("W/{now}"), "\"other\"", "\"\""] {
            change(&api, &path, never, json!({})).await.expect(412);
        }
        for wrong in ["", "x", now.split_at(1).1, "\"a\" \"b\""] {
            let answer = change(&api, &path, wrong, json!({"name": "Never"})).await;
            assert_eq!(answer.faults(), ["entity_tag header.If-Match"], "{wrong}");
        }
    }
}

#[actix_web::test]
async fn a_use_is_no_change() {
    let api = Api::new().await;
    let path = api.key_of_one();
    let before = api.get(&path, &api.operator).await.expect(200);
    api.get("/v1/me", &api.one.key).await.expect(200);
    let after = api.get(&path, &api.operator).await.expect(200);
    assert_ne!(before.json()["last_used_at"], after.json()["last_used_at"]);
    assert_eq!(before.header("etag"), after.header("etag"));
}

#[actix_web::test]
async fn what_is_not_there_is_not_there_whatever_was_seen() {
    let api = Api::new().await;
    let path = api.key_of_one();
    let seen = api
        .get(&path, &api.operator)
        .await
        .header("etag")
        .to_owned();
    let request = Api::request("PATCH", &path, Some(&api.two.key));
    let request = request
        .insert_header(("if-match", "\"x\""))
        .set_json(json!({}));
    api.send(request).await.expect(404);
    change(&api, &path, &seen, json!({"deleted": true}))
        .await
        .expect(200);
    change(&api, &path, &seen, json!({"name": "Gone"}))
        .await
        .expect(404);
    // A header twice is a matter of opinion.
    let request = Api::request("PATCH", &path, Some(&api.operator));
    let request = request
        .append_header(("if-match", "*"))
        .append_header(("if-match", "*"));
    let answer = api.send(request.set_json(json!({"deleted": false}))).await;
    assert_eq!(answer.faults(), ["duplicate header.If-Match"]);
}
