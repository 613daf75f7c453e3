//! No route escapes: the table of routes is compared with the cases here and with the API's description, so that a route
//! without them fails a test.

use std::collections::BTreeSet;
use std::sync::Arc;

use leadr_auth_http::routes::{self, ANY, Route, Who};
use leadr_auth_memory::system::ManualClock;
use leadr_auth_ports::{MockKeyLookup, MockStoreHealth, StoreError};
use leadr_auth_service::Phase;
use serde_json::{Value, json};

use crate::support::{Answer, Api, NOBODY, service, start, stores};

/// How a route that needs a key is called for something of the first tenant's, and what another tenant hears.
struct Case {
    method: &'static str,
    path: &'static str,
    /// The path of the first tenant's thing; `{}` in it is the id.
    body: Option<fn(&Api) -> Value>,
    foreigner: Foreigner,
}

/// What a tenant hears of another's.
enum Foreigner {
    /// 403: it named the other account, or asked for what only operators may do.
    Forbidden,
    /// 404, byte for byte as for an id that nobody has.
    NotFound,
    /// 2xx, with its own things only.
    OwnOnly,
    /// 200, and that there is no such key.
    NotTold,
}

const CASES: &[Case] = &[
    Case {
        method: "GET",
        path: "/v1/me",
        body: None,
        foreigner: Foreigner::OwnOnly,
    },
    Case {
        method: "POST",
        path: "/v1/verify",
        body: Some(|api| json!({"key": api.one.key})),
        foreigner: Foreigner::NotTold,
    },
    Case {
        method: "POST",
        path: "/v1/verify/batch",
        body: Some(|api| json!({"keys": [{"key": api.one.key}]})),
        foreigner: Foreigner::NotTold,
    },
    Case {
        method: ANY,
        path: "/v1/forward-auth",
        body: None,
        foreigner: Foreigner::OwnOnly,
    },
    Case {
        method: ANY,
        path: "/v1/ext-authz",
        body: None,
        foreigner: Foreigner::OwnOnly,
    },
    Case {
        method: "POST",
        path: "/v1/api-keys",
        body: Some(|api| json!({"account_id": api.one.account, "name": "Stolen"})),
        foreigner: Foreigner::Forbidden,
    },
    Case {
        method: "GET",
        path: "/v1/api-keys",
        body: None,
        foreigner: Foreigner::Forbidden,
    },
    Case {
        method: "GET",
        path: "/v1/api-keys/{key_id}",
        body: None,
        foreigner: Foreigner::NotFound,
    },
    Case {
        method: "PATCH",
        path: "/v1/api-keys/{key_id}",
        body: Some(|_| json!({"status": "revoked"})),
        foreigner: Foreigner::NotFound,
    },
    Case {
        method: "GET",
        path: "/v1/audit",
        body: None,
        foreigner: Foreigner::Forbidden,
    },
    Case {
        method: "POST",
        path: "/v1/accounts",
        body: Some(|_| json!({"name": "Mine", "slug": "mine"})),
        foreigner: Foreigner::Forbidden,
    },
    Case {
        method: "GET",
        path: "/v1/accounts",
        body: None,
        foreigner: Foreigner::OwnOnly,
    },
    Case {
        method: "GET",
        path: "/v1/accounts/{account_id}",
        body: None,
        foreigner: Foreigner::NotFound,
    },
    Case {
        method: "PATCH",
        path: "/v1/accounts/{account_id}",
        body: Some(|_| json!({"status": "suspended"})),
        foreigner: Foreigner::Forbidden,
    },
];

impl Case {
    fn of(route: &Route) -> &'static Self {
        CASES
            .iter()
            .find(|case| case.method == route.method && case.path == route.path)
            .unwrap_or_else(|| panic!("no case for {} {}", route.method, route.path))
    }

    /// Calls the route for the first tenant's thing, or for one that does not exist.
    async fn call(&self, api: &Api, key: Option<&str>, existing: bool) -> Answer {
        let (key_id, account) = if existing {
            (api.one.key_id.as_str(), api.one.account.as_str())
        } else {
            (NOBODY, NOBODY)
        };
        let mut path = self
            .path
            .replace("{key_id}", key_id)
            .replace("{account_id}", account);
        if matches!(
            (self.method, self.path),
            ("GET", "/v1/api-keys" | "/v1/audit")
        ) {
            path = format!("{path}?account_id={account}");
        }
        // All of them are called in `forward_auth`.
        let method = if self.method == ANY {
            "GET"
        } else {
            self.method
        };
        let request = Api::request(method, &path, key);
        let request = match self.body {
            Some(body) => request.set_json(body(api)),
            None => request,
        };
        api.send(request).await
    }
}

fn with_key() -> impl Iterator<Item = &'static Route> {
    routes::all().filter(|route| matches!(route.who, Who::Key | Who::Operator))
}

/// The method by which a route is described: OpenAPI has no word for any.
fn described_as(route: &Route) -> &'static str {
    if route.method == ANY {
        "GET"
    } else {
        route.method
    }
}

#[test]
fn the_description_has_exactly_the_routes() {
    let document: Value = serde_json::from_str(&leadr_auth_http::openapi::json()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(|method| (path.clone(), method.to_uppercase()))
        })
        .collect();
    let routed: BTreeSet<_> = routes::all()
        .filter(|route| route.who != Who::Asset)
        .map(|route| (route.path.to_owned(), described_as(route).to_owned()))
        .collect();
    assert_eq!(described, routed);
    for route in routes::all().filter(|route| route.who != Who::Asset) {
        let operation = &document["paths"][route.path][described_as(route).to_lowercase()];
        let secured = operation.get("security").is_some();
        assert_eq!(
            secured,
            route.who != Who::Anyone,
            "{} {}",
            route.method,
            route.path
        );
    }
}

#[test]
fn whatever_the_description_refers_to_is_there() {
    let text = leadr_auth_http::openapi::json();
    let document: Value = serde_json::from_str(&text).unwrap();
    let references = text.split(r##""$ref": "#"##).skip(1);
    let mut references: Vec<_> = references
        .filter_map(|rest| rest.split('"').next())
        .collect();
    references.sort_unstable();
    references.dedup();
    assert!(references.len() > 10);
    for reference in references {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}

/// A body that is left out is no body, but where it says what is to change: then nothing is. And no list in one goes on for ever.
/// Whoever generates a client is to know.
#[test]
fn bodies_are_required_but_for_changes_and_their_lists_have_a_bound() {
    let document: Value = serde_json::from_str(&leadr_auth_http::openapi::json()).unwrap();
    let (mut bodies, mut lists) = (0, 0);
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(body) = operation.get("requestBody") else {
                assert_ne!(method, "patch", "{path}");
                continue;
            };
            bodies += 1;
            assert_eq!(body["required"], method != "patch", "{method} {path}");
            let reference = &body["content"]["application/json"]["schema"]["$ref"];
            let reference = reference.as_str().unwrap().trim_start_matches('#');
            let schema = document.pointer(reference).unwrap();
            for (name, property) in schema["properties"].as_object().unwrap() {
                if property.get("items").is_some() {
                    lists += 1;
                    assert!(property["maxItems"].is_u64(), "{method} {path}: {name}");
                }
            }
        }
    }
    assert_eq!((bodies, lists), (6, 4));
    let entries = &document["components"]["schemas"]["AuditResponse"]["properties"]["entries"];
    let limit = |parameter: &&Value| parameter["name"] == "limit";
    let parameters = document["paths"]["/v1/audit"]["get"]["parameters"].as_array();
    let limit = parameters.unwrap().iter().find(limit).unwrap();
    assert_eq!(entries["maxItems"], limit["schema"]["maximum"]);
}

/// What is null is in an answer all the same, and a program may rely on that.
#[test]
fn an_answer_has_every_field_that_is_described() {
    fn look_at(name: &str, schema: &Value, seen: &mut usize) {
        for part in schema["allOf"].as_array().into_iter().flatten() {
            look_at(name, part, seen);
        }
        let required = schema["required"].as_array();
        for (field, _) in schema["properties"].as_object().into_iter().flatten() {
            assert!(required.unwrap().contains(&json!(field)), "{name}: {field}");
            *seen += 1;
        }
    }
    let document: Value = serde_json::from_str(&leadr_auth_http::openapi::json()).unwrap();
    let mut seen = 0;
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        if !name.ends_with("Request") {
            look_at(name, schema, &mut seen);
        }
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn the_cases_are_exactly_the_routes_that_need_a_key() {
    let cases: BTreeSet<_> = CASES.iter().map(|case| (case.path, case.method)).collect();
    let routes: BTreeSet<_> = with_key().map(|route| (route.path, route.method)).collect();
    assert_eq!(cases, routes);
}

#[actix_web::test]
async fn without_a_key_nothing_is_said_but_that_one_is_needed() {
    let api = Api::new().await;
    for route in with_key() {
        let answer = Case::of(route).call(&api, None, true).await;
        let answer = answer.expect_error(401, "api_key_required", "API key required");
        assert_eq!(
            answer.header("www-authenticate"),
            r#"Bearer realm="leadr-auth""#
        );
    }
}

#[actix_web::test]
async fn with_a_wrong_key_there_is_one_answer_for_all() {
    let api = Api::new().await;
    let unknown = leadr_auth_domain::generate_api_key([123; 32]);
    for route in with_key() {
        for key in [unknown.expose(), "ldr_not-a-key"] {
            let answer = Case::of(route).call(&api, Some(key), true).await;
            let answer = answer.expect_error(401, "invalid_api_key", "Invalid or expired API key");
            assert_eq!(
                answer.header("www-authenticate"),
                r#"Bearer realm="leadr-auth", error="invalid_token""#
            );
        }
    }
}

#[actix_web::test]
async fn a_tenant_reaches_nothing_of_another() {
    let api = Api::new().await;
    let before = (
        api.get(&api.key_of_one(), &api.operator).await.json(),
        api.get("/v1/accounts", &api.operator).await.json(),
    );
    for route in with_key() {
        let case = Case::of(route);
        let name = format!("{} {}", route.method, route.path);
        let existing = case.call(&api, Some(&api.two.key), true).await;
        match case.foreigner {
            Foreigner::Forbidden => {
                assert_eq!(existing.status, 403, "{name}: {}", existing.text);
                assert_eq!(existing.json()["code"], "forbidden");
            }
            Foreigner::NotFound => assert_eq!(existing.status, 404, "{name}"),
            Foreigner::NotTold => {
                assert_eq!(existing.status, 200, "{name}");
                assert!(existing.text.contains("not_found"), "{name}");
                assert!(!existing.text.contains(&api.one.account), "{name}");
            }
            // It is about whoever calls.
            Foreigner::OwnOnly if existing.text.is_empty() => {
                assert_eq!(existing.header("x-leadr-account-id"), api.two.account);
            }
            Foreigner::OwnOnly => {
                let own = |item: &Value| item["id"] == api.two.account;
                let answered = existing.json();
                assert!(
                    match answered.as_array() {
                        Some(accounts) => accounts.iter().all(own),
                        None => own(&answered["account"]),
                    },
                    "{name}"
                );
            }
        }
        if matches!(case.foreigner, Foreigner::Forbidden | Foreigner::NotFound) {
            let missing = case.call(&api, Some(&api.two.key), false).await;
            assert_eq!(existing.status, missing.status, "{name}");
            assert_eq!(existing.text, missing.text, "{name}: existence shows");
        }
    }
    let after = (
        api.get(&api.key_of_one(), &api.operator).await.json(),
        api.get("/v1/accounts", &api.operator).await.json(),
    );
    assert_eq!(before, after, "nothing was changed");
}

#[actix_web::test]
async fn what_operators_may_do_tenants_may_not_and_operators_may() {
    let api = Api::new().await;
    for route in with_key().filter(|route| route.who == Who::Operator) {
        let case = Case::of(route);
        let refused = case.call(&api, Some(&api.one.key), true).await;
        refused.expect_error(403, "forbidden", "Only an operator's key may do this");
        let done = case.call(&api, Some(&api.operator), true).await;
        assert!((200..300).contains(&done.status), "{}", done.text);
    }
}

#[actix_web::test]
async fn while_the_store_is_away_no_key_is_called_invalid() {
    let mut api = Api::new().await;
    let mut stores = stores();
    let mut lookup = MockKeyLookup::new();
    lookup
        .expect_find()
        .returning(|_| Err(StoreError::unavailable("connection refused")));
    stores.lookup = Arc::new(lookup);
    let mut health = MockStoreHealth::new();
    health
        .expect_ping()
        .returning(|| Err(StoreError::unavailable("connection refused")));
    stores.health = Arc::new(health);
    api.service = service(stores, Arc::new(ManualClock::new(start())));
    for route in with_key() {
        let answer = Case::of(route).call(&api, Some(&api.one.key), true).await;
        let answer = answer.expect_error(
            503,
            "service_unavailable",
            "Temporarily unavailable, try again shortly",
        );
        assert_eq!(answer.header("retry-after"), "1");
        assert!(!answer.text.contains("refused"), "the inside shows");
    }
    api.service.readiness().set(Phase::Ready);
    let request = Api::request("GET", "/readyz", None);
    api.send(request)
        .await
        .expect_error(503, "not_ready", "Not ready");
    let health = api
        .send(Api::request("GET", "/v1/health", None))
        .await
        .expect(200)
        .json();
    assert_eq!(
        health,
        json!({"status": "degraded", "database": "unhealthy"})
    );
    api.send(Api::request("GET", "/livez", None))
        .await
        .expect(200);
}

#[actix_web::test]
async fn a_path_says_which_methods_it_has() {
    let api = Api::new().await;
    let named = routes::all().filter(|route| route.method != ANY);
    let paths: BTreeSet<_> = named.map(|route| route.path).collect();
    for path in paths {
        let mut allowed: Vec<_> = routes::all()
            .filter(|route| route.path == path)
            .map(|route| route.method)
            .collect();
        if allowed.contains(&"GET") {
            allowed.push("HEAD");
        }
        allowed.sort_unstable();
        for method in ["DELETE", "PUT", "OPTIONS", "TRACE", "BREW"] {
            let answer = api.send(Api::request(method, path, None)).await;
            let answer = answer.expect_error(405, "method_not_allowed", "Method Not Allowed");
            assert_eq!(answer.header("allow"), allowed.join(", "), "{path}");
        }
    }
}

#[actix_web::test]
async fn open_routes_need_no_key() {
    let api = Api::new().await;
    for route in routes::all().filter(|route| matches!(route.who, Who::Anyone | Who::Asset)) {
        let path = route.path.replace("{asset}", "docs.js");
        for method in ["GET", "HEAD"] {
            api.send(Api::request(method, &path, None))
                .await
                .expect(200);
        }
    }
}
