//! `/v1/forward-auth`: what a reverse proxy asks.

use std::sync::Arc;

use leadr_auth_domain::Access;
use leadr_auth_memory::system::ManualClock;
use leadr_auth_ports::{MockKeyLookup, StoreError};
use leadr_auth_service::AuditFilter;
use serde_json::json;

use crate::support::{Answer, Api, service, start, stores};
use crate::traces;

const PATH: &str = "/v1/forward-auth";

/// What is told of the key.
fn told(answer: &Answer) -> [&str; 4] {
    ["account-id", "key-id", "key-name", "scopes"]
        .map(|name| answer.header(&format!("x-leadr-{name}")))
}

async fn named(api: &Api, name: &str, scopes: Option<&[&str]>) -> (String, String) {
    let body = json!({"account_id": api.one.account, "name": name, "scopes": scopes});
    let issued = api.post("/v1/api-keys", &api.operator, body).await;
    let issued = issued.expect(201).json();
    let text = |field: &str| issued[field].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

async fn trail(api: &Api) -> usize {
    let filter = AuditFilter::default();
    let listed = api
        .service
        .list_audit(Access::All, None, filter, None, 1000);
    listed.await.unwrap().rows.len()
}

#[actix_web::test]
async fn any_method_is_answered_and_says_whose_key_it_is() {
    let api = Api::new().await;
    let expected = [&*api.one.account, &api.one.key_id, "First", "*"];
    for method in [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND",
        "BREW",
    ] {
        let ask = |key: Option<&str>| api.send(Api::request(method, PATH, key));
        let answer = ask(Some(&api.one.key)).await.expect(204);
        assert_eq!(told(&answer), expected, "{method}");
        assert_eq!(answer.text, "");
        let none = ask(None).await;
        none.expect_error(401, "api_key_required", "API key required");
        let bad = ask(Some("ldr_short")).await;
        bad.expect_error(401, "invalid_api_key", "Invalid or expired API key");
    }
    for headers in [
        ("x-api-key", api.one.key.clone()),
        ("authorization", format!("bearer {}", api.one.key)),
    ] {
        let request = Api::request("GET", PATH, None).insert_header(headers);
        assert_eq!(told(&api.send(request).await.expect(204)), expected);
    }
}

#[actix_web::test]
async fn every_live_account_is_let_in_and_nobody_else() {
    let api = Api::new().await;
    for key in [&api.one.key, &api.two.key, &api.operator] {
        api.get(PATH, key).await.expect(204);
    }
    let one = format!("/v1/accounts/{}", api.one.account);
    let suspended = json!({"status": "suspended"});
    api.patch(&one, &api.operator, suspended).await.expect(200);
    let two = format!("/v1/api-keys/{}", api.two.key_id);
    let revoked = json!({"status": "revoked"});
    api.patch(&two, &api.operator, revoked).await.expect(200);
    for key in [&api.one.key, &api.two.key] {
        let answer = api.get(PATH, key).await;
        let told = told(&answer).join("");
        assert_eq!(told, "", "of a key that is not good nothing is told");
        answer.expect_error(401, "invalid_api_key", "Invalid or expired API key");
    }
}

#[actix_web::test]
async fn two_keys_at_once_are_none() {
    let api = Api::new().await;
    for header in [
        ("leadr-api-key", api.one.key.clone()),
        ("x-api-key", api.two.key.clone()),
        ("authorization", format!("Bearer {}", api.one.key)),
    ] {
        let request = Api::request("GET", PATH, Some(&api.one.key)).append_header(header);
        let answer = api.send(request).await;
        answer.expect_error(401, "invalid_api_key", "Invalid or expired API key");
    }
}

/// A path that is written in another way is the same path, as it is for the application.
#[actix_web::test]
async fn a_path_may_be_percent_encoded() {
    let api = Api::new().await;
    let key = &api.one.key;
    for path in ["/v1/forward%2Dauth", "/v1/%66orward-auth?scope=a"] {
        api.get(path, key).await.expect(204);
    }
    api.get("/v1/m%65", key).await.expect(200);
    for (path, applications) in [
        ("/v1%2Fforward-auth", "/v1%2Fme"),
        ("/v1/forward-auth%00", "/v1/me%00"),
        ("/v1/forward%zzauth", "/v1/m%zz"),
        ("/v1/forward%252Dauth", "/v1/m%2565"),
    ] {
        let status = api.get(applications, key).await.status;
        assert_eq!(api.get(path, key).await.status, status, "{path}");
    }
}

#[actix_web::test]
async fn a_body_is_not_looked_at() {
    let api = Api::new().await;
    for method in ["GET", "POST"] {
        let request = Api::request(method, PATH, Some(&api.one.key))
            .insert_header(("content-type", "text/nonsense"))
            .insert_header(("content-length", "99999999999"))
            .set_payload("x".repeat(100_000));
        api.send(request).await.expect(204);
    }
}

/// What a client says of itself goes nowhere.
#[actix_web::test]
async fn a_client_does_not_say_who_it_is() {
    let api = Api::new().await;
    let narrow = api.issue_with(&api.one.account, &["docs:read"]).await;
    let plain = api.get(PATH, &narrow).await.expect(204);
    let forged = |key: Option<&str>| {
        Api::request("GET", PATH, key)
            .insert_header(("X-Leadr-Account-Id", api.two.account.as_str()))
            .insert_header(("X-Leadr-Key-Id", api.two.key_id.as_str()))
            .insert_header(("X-Leadr-Key-Name", "Forged"))
            .insert_header(("X-Leadr-Scopes", "*"))
            .insert_header(("X-Forwarded-Uri", "/?scope=docs:read"))
    };
    let answer = api.send(forged(Some(&narrow))).await.expect(204);
    assert_eq!(told(&answer), told(&plain));
    assert_eq!(answer.headers.get_all("x-leadr-scopes").count(), 1);
    assert_eq!(answer.headers.len(), plain.headers.len());
    let answer = api.send(forged(None)).await.expect(401);
    assert_eq!(told(&answer).join(""), "");
}

#[actix_web::test]
async fn names_are_told_as_the_value_of_a_header() {
    let api = Api::new().await;
    for (name, value) in [
        ("Build server", "Build%20server"),
        ("100%41", "100%2541"),
        ("\"a\"; b='c'", "\"a\";%20b='c'"),
        ("Schlüssel 🔑", "Schl%C3%BCssel%20%F0%9F%94%91"),
        ("a\u{200b}b", "a%E2%80%8Bb"),
    ] {
        let (id, key) = named(&api, name, Some(&[])).await;
        let answer = api.get(PATH, &key).await.expect(204);
        assert_eq!(told(&answer), [&*api.one.account, &*id, value, ""]);
    }
}

#[actix_web::test]
async fn all_scopes_in_the_query_are_needed() {
    let api = Api::new().await;
    let (_, narrow) = named(&api, "N", Some(&["docs:*", "keys:read"])).await;
    let ask = async |key: &str, query: &str| api.get(&format!("{PATH}?{query}"), key).await;
    for query in [
        "",
        "scope=docs:read",
        "scope=docs:read&scope=keys:read&scope=docs:eu:write",
        "scope=docs%3Aread",
        "scope=docs%3A%2A",
        "scope=docs:read&scope=docs:read",
    ] {
        let answer = ask(&narrow, query).await.expect(204);
        assert_eq!(answer.header("x-leadr-scopes"), "docs:* keys:read");
        ask(&api.one.key, query).await.expect(204);
    }
    for (key, query, missing) in [
        (&narrow, "scope=docs", "docs"),
        (&narrow, "scope=docs:read&scope=a%3Ab&scope=c", "a:b"),
        (&narrow, "scope=docs:read&scope=a:b&scope=c", "a:b"),
        (&narrow, "scope=other:*", "other:*"),
        (&api.one.key, "scope=accounts:write", "accounts:write"),
    ] {
        let answer = ask(key, query).await;
        assert_eq!(told(&answer).join(""), "");
        let detail = format!("This key lacks the scope {missing}");
        let answer = answer.expect_error(403, "insufficient_scope", &detail);
        let challenge =
            format!(r#"Bearer realm="leadr-auth", error="insufficient_scope", scope="{missing}""#);
        assert_eq!(answer.header("www-authenticate"), challenge);
    }
    ask(&api.operator, "scope=accounts:write").await.expect(204);
}

#[actix_web::test]
async fn a_query_that_is_wrong_is_refused_whoever_comes() {
    let api = Api::new().await;
    let many = |n: usize| vec!["scope=a"; n].join("&");
    for (query, faults) in [
        ("scope=", &["string_pattern_mismatch query.scope"][..]),
        ("scope", &["string_pattern_mismatch query.scope"]),
        ("scope=A", &["string_pattern_mismatch query.scope"]),
        ("scope=a%20b", &["string_pattern_mismatch query.scope"]),
        ("scope=a+b", &["string_pattern_mismatch query.scope"]),
        ("scope=a,b", &["string_pattern_mismatch query.scope"]),
        ("scope=keys:all", &["enum query.scope"]),
        ("scope=a&scopes=b", &["extra_forbidden query.scopes"]),
        ("Scope=a", &["extra_forbidden query.Scope"]),
        ("api_key=x", &["extra_forbidden query.api_key"]),
        (
            &format!("scope={}", "a".repeat(129)),
            &["string_too_long query.scope"],
        ),
        (
            "scope=A&x=1&scope=b&scope=B",
            &[
                "string_pattern_mismatch query.scope",
                "string_pattern_mismatch query.scope",
                "extra_forbidden query.x",
            ],
        ),
        (&many(65), &["too_long query.scope"]),
    ] {
        let path = format!("{PATH}?{query}");
        let narrow = api.issue_with(&api.one.account, &["a"]).await;
        for key in [&api.one.key, &narrow] {
            assert_eq!(api.get(&path, key).await.faults(), faults, "{query}");
        }
        // Who has no key hears of that first.
        api.send(Api::request("GET", &path, None)).await.expect(401);
    }
    api.get(&format!("{PATH}?{}", many(64)), &api.one.key)
        .await
        .expect(204);
    // An empty pair is no parameter.
    for query in ["scope=a&", "&scope=a", "&"] {
        api.get(&format!("{PATH}?{query}"), &api.one.key)
            .await
            .expect(204);
    }
}

/// A stranger's loop writes nothing: what an application asks for is not this service's to keep a record of.
#[actix_web::test]
async fn a_refusal_is_not_written_into_the_trail() {
    let api = Api::new().await;
    let narrow = api.issue_with(&api.one.account, &["a"]).await;
    let before = trail(&api).await;
    for _ in 0..3 {
        api.get(&format!("{PATH}?scope=b"), &narrow)
            .await
            .expect(403);
    }
    api.send(Api::request("GET", PATH, None)).await.expect(401);
    assert_eq!(trail(&api).await, before);
    // One of this service's own is.
    api.get("/v1/accounts", &narrow).await.expect(403);
    assert_eq!(trail(&api).await, before + 1);
}

#[actix_web::test]
async fn the_log_says_which_key_it_was() {
    let api = Api::new().await;
    let (id, narrow) = named(&api, "N", Some(&["a"])).await;
    for (query, status) in [("", 204), ("?scope=a", 204), ("?scope=b", 403), ("?x", 422)] {
        traces::forget();
        api.get(&format!("{PATH}{query}"), &narrow)
            .await
            .expect(status);
        let (_, events) = traces::take();
        let line = events.last().unwrap();
        assert_eq!(traces::text(line, "key_id"), id, "{query}");
        assert_eq!(traces::text(line, "account_id"), api.one.account);
        assert_eq!(traces::text(line, "route"), PATH);
        assert!(!format!("{events:?}").contains(&narrow));
    }
    traces::forget();
    api.get(PATH, "ldr_short").await.expect(401);
    let (_, events) = traces::take();
    assert_eq!(traces::text(events.last().unwrap(), "key_id"), "");
}

#[actix_web::test]
async fn the_log_has_the_beginning_of_what_a_client_calls_itself() {
    let api = Api::new().await;
    let encoded = api.one.key.replacen('_', "%5F", 1);
    let long = "a".repeat(100_000);
    for (agent, logged) in [
        ("curl/8", "curl/8"),
        (&*long, &"a".repeat(256)),
        (&*format!("x {encoded}"), "x "),
    ] {
        traces::forget();
        let request = Api::request("GET", PATH, None).insert_header(("user-agent", agent));
        api.send(request).await.expect(401);
        let (_, events) = traces::take();
        assert_eq!(traces::text(events.last().unwrap(), "user_agent"), logged);
    }
}

/// What a key does not hold, no upstream is to believe of it.
#[actix_web::test]
async fn a_tenants_key_does_not_say_that_it_holds_what_only_operators_do() {
    let api = Api::new().await;
    let scopes = json!(["a", "accounts:write"]);
    let body = json!({"account_id": api.one.account, "name": "Wide", "scopes": scopes});
    let issued = api.post("/v1/api-keys", &api.operator, body).await;
    let issued = issued.expect(201).json();
    assert_eq!(
        issued["scopes"], scopes,
        "the record has what was asked for"
    );
    let key = issued["key"].as_str().unwrap();
    let answer = api.get(PATH, key).await.expect(204);
    assert_eq!(answer.header("x-leadr-scopes"), "a");
    let answer = api
        .post("/v1/verify", &api.operator, json!({"key": key}))
        .await;
    assert_eq!(answer.expect(200).json()["scopes"], json!(["a"]));
}

#[actix_web::test]
async fn a_use_is_noted_where_the_key_is_good() {
    let api = Api::new().await;
    let used = || async {
        let key = api.get(&api.key_of_one(), &api.operator).await.expect(200);
        key.json()["last_used_at"].take()
    };
    assert_eq!(used().await, json!(null));
    api.get(PATH, &api.one.key).await.expect(204);
    assert_eq!(used().await, "2026-01-01T00:00:00Z");
}

#[actix_web::test]
async fn while_the_store_cannot_say_nobody_is_refused_or_let_in() {
    let mut api = Api::new().await;
    let mut stores = stores();
    let mut lookup = MockKeyLookup::new();
    lookup
        .expect_find()
        .returning(|_| Err(StoreError::unavailable("connection refused")));
    stores.lookup = Arc::new(lookup);
    api.service = service(stores, Arc::new(ManualClock::new(start())));
    for method in ["GET", "HEAD", "DELETE"] {
        let request = Api::request(method, &format!("{PATH}?scope=a"), Some(&api.one.key));
        let answer = api.send(request).await;
        assert_eq!(told(&answer).join(""), "");
        answer.expect_error(
            503,
            "service_unavailable",
            "Temporarily unavailable, try again shortly",
        );
    }
}

/// Envoy passes a request on for a 200 and for nothing else. All the rest is the same.
#[actix_web::test]
async fn envoy_is_answered_alike_but_for_the_status() {
    let api = Api::new().await;
    let (_, reader) = named(&api, "Reader", Some(&["docs:read"])).await;
    for query in [
        "",
        "?scope=docs:read",
        "?scope=docs:write",
        "?scope=",
        "?x=y",
    ] {
        for key in [Some(&*api.one.key), Some(&*reader), Some("ldr_short"), None] {
            let ask = async |path: &str| {
                let path = format!("{path}{query}");
                api.send(Api::request("POST", &path, key)).await
            };
            let [plain, envoys] = [ask(PATH).await, ask("/v1/ext-authz").await];
            let passes = plain.status == 204;
            assert_eq!(envoys.status, if passes { 200 } else { plain.status });
            assert_eq!(told(&plain), told(&envoys), "{query}");
            assert_eq!(plain.text, envoys.text, "{query}");
        }
    }
}
