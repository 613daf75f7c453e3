//! Another application of Actix Web that protects its routes: the one in `examples/`, and some that are set up wrongly.

use std::sync::Arc;

use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::{App, web};
use leadr_auth_http::{Protect, Refused, RequireApiKey};
use leadr_auth_memory::system::ManualClock;
use leadr_auth_ports::{MockKeyLookup, StoreError};
use leadr_auth_service::Service;
use serde_json::{Value, json};

use crate::support::{Api, service, start, stores};

#[path = "../../examples/protect_a_route.rs"]
mod protect_a_route;

/// What a client reads.
struct Answer {
    status: u16,
    challenge: Option<String>,
    retry_after: Option<String>,
    text: String,
}

impl Answer {
    #[track_caller]
    fn expect_error(&self, status: u16, code: &str, detail: &str) {
        assert_eq!(self.status, status, "{}", self.text);
        let body: Value = serde_json::from_str(&self.text).unwrap();
        assert_eq!(body, json!({"detail": detail, "code": code}));
    }
}

async fn ask(routes: impl FnOnce(&mut web::ServiceConfig), request: TestRequest) -> Answer {
    let app = init_service(App::new().configure(routes)).await;
    let response = call_service(&app, request.to_request()).await;
    let status = response.status().as_u16();
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    if status >= 400 {
        // There is no middleware of ours that would see to it.
        assert_eq!(header("cache-control").unwrap(), "no-store");
        assert_eq!(header("x-content-type-options").unwrap(), "nosniff");
    }
    let (challenge, retry_after) = (header("www-authenticate"), header("retry-after"));
    let body = read_body(response).await;
    Answer {
        status,
        challenge,
        retry_after,
        text: String::from_utf8(body.to_vec()).unwrap(),
    }
}

fn docs(key: Option<&str>) -> TestRequest {
    let request = TestRequest::with_uri("/docs");
    match key {
        Some(key) => request.insert_header(("leadr-api-key", key)),
        None => request,
    }
}

#[actix_web::test]
async fn the_example_lets_in_who_has_a_key_with_the_scope() {
    let service = protect_a_route::service().unwrap();
    let key = protect_a_route::first_key(&service, &["docs:read"]).await;
    let key = key.unwrap();
    let ask = |request| ask(protect_a_route::routes(service.clone()), request);
    let answer = ask(docs(Some(key.expose()))).await;
    assert_eq!((answer.status, &*answer.text), (200, "Hello, First reader"));
    let bearer = format!("Bearer {}", key.expose());
    let answer = ask(docs(None).insert_header(("authorization", bearer))).await;
    assert_eq!(answer.status, 200);

    let none = ask(docs(None)).await;
    none.expect_error(401, "api_key_required", "API key required");
    assert_eq!(none.challenge.unwrap(), r#"Bearer realm="leadr-auth""#);
    let stranger = leadr_auth_domain::generate_api_key([1; 32]);
    let twice = docs(Some(key.expose())).insert_header(("x-api-key", key.expose()));
    for bad in [
        docs(Some("ldr_short")),
        docs(Some(stranger.expose())),
        twice,
    ] {
        let refused = ask(bad).await;
        refused.expect_error(401, "invalid_api_key", "Invalid or expired API key");
        let challenge = r#"Bearer realm="leadr-auth", error="invalid_token""#;
        assert_eq!(refused.challenge.unwrap(), challenge);
    }
}

#[actix_web::test]
async fn the_example_names_the_scope_that_is_missing() {
    let service = protect_a_route::service().unwrap();
    let key = protect_a_route::first_key(&service, &["docs:write"]).await;
    let key = key.unwrap();
    let routes = protect_a_route::routes(service);
    let answer = ask(routes, docs(Some(key.expose()))).await;
    answer.expect_error(
        403,
        "insufficient_scope",
        "This key lacks the scope docs:read",
    );
    let challenge = r#"Bearer realm="leadr-auth", error="insufficient_scope", scope="docs:read""#;
    assert_eq!(answer.challenge.unwrap(), challenge);
}

/// As `main` has it: what runs in the background is what makes the cache answer.
#[actix_web::test]
async fn the_examples_cache_works() {
    let service = protect_a_route::service().unwrap();
    let key = protect_a_route::first_key(&service, &["docs:read"]).await;
    let key = key.unwrap();
    let background = actix_web::rt::spawn(service.clone().run(std::future::pending()));
    while service.statistics().cache.lease.is_zero() {
        actix_web::rt::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for _ in 0..3 {
        let routes = protect_a_route::routes(service.clone());
        let answer = ask(routes, docs(Some(key.expose()))).await;
        assert_eq!(answer.status, 200);
    }
    let cache = service.statistics().cache;
    assert_eq!((cache.misses, cache.hits), (1, 2));
    background.abort();
}

async fn everything(key: RequireApiKey) -> String {
    let all = key.scopes().only().is_none();
    let expires = key.expires_at().is_some();
    format!(
        "{} {} {} {all} {expires}",
        key.id(),
        key.account_id(),
        key.name()
    )
}

async fn scope(key: RequireApiKey, scope: web::Path<String>) -> Result<&'static str, Refused> {
    key.require_scope(&scope)?;
    Ok("yes")
}

fn routes(service: Service) -> impl FnOnce(&mut web::ServiceConfig) {
    |config| {
        config
            .app_data(web::Data::new(Protect::new(service)))
            .route("/docs", web::get().to(everything))
            .route("/scope/{scope}", web::get().to(scope));
    }
}

#[actix_web::test]
async fn a_handler_gets_to_know_whose_key_it_is() {
    let api = Api::new().await;
    let answer = ask(routes(api.service.clone()), docs(Some(&api.one.key))).await;
    let Api { one, .. } = &api;
    let expected = format!("{} {} First true false", one.key_id, one.account);
    assert_eq!(answer.text, expected);
    let stopped = json!({"status": "suspended"});
    let account = format!("/v1/accounts/{}", one.account);
    api.patch(&account, &api.operator, stopped)
        .await
        .expect(200);
    let answer = ask(routes(api.service.clone()), docs(Some(&one.key))).await;
    answer.expect_error(401, "invalid_api_key", "Invalid or expired API key");
}

#[actix_web::test]
async fn scopes_are_asked_for_as_everywhere() {
    let api = Api::new().await;
    let narrow = api.issue_with(&api.one.account, &["docs:*"]).await;
    for (key, scope, status) in [
        (&api.one.key, "docs:read", 200),
        (&api.one.key, "accounts:write", 403),
        (&api.operator, "accounts:write", 200),
        (&narrow, "docs:eu:read", 200),
        (&narrow, "docs", 403),
        // A mistake of the application's opens nothing.
        (&api.one.key, "Docs", 500),
        (&api.operator, "keys:everything", 500),
        (&api.operator, "a%22b", 500),
    ] {
        let request = TestRequest::with_uri(&format!("/scope/{scope}"));
        let request = request.insert_header(("leadr-api-key", key.as_str()));
        let answer = ask(routes(api.service.clone()), request).await;
        assert_eq!(answer.status, status, "{scope}: {}", answer.text);
    }
}

#[actix_web::test]
async fn what_cannot_be_told_is_no_refusal() {
    let mut stores = stores();
    let mut lookup = MockKeyLookup::new();
    lookup
        .expect_find()
        .returning(|_| Err(StoreError::unavailable("connection refused")));
    stores.lookup = Arc::new(lookup);
    let service = service(stores, Arc::new(ManualClock::new(start())));
    let key = leadr_auth_domain::generate_api_key([1; 32]);
    let answer = ask(routes(service), docs(Some(key.expose()))).await;
    answer.expect_error(
        503,
        "service_unavailable",
        "Temporarily unavailable, try again shortly",
    );
    assert_eq!(answer.retry_after.unwrap(), "1");
    assert_eq!(answer.challenge, None);
}

#[actix_web::test]
async fn an_application_that_forgot_what_to_ask_lets_nobody_in() {
    let api = Api::new().await;
    let forgetful = |config: &mut web::ServiceConfig| {
        config.route("/docs", web::get().to(everything));
    };
    let answer = ask(forgetful, docs(Some(&api.operator))).await;
    answer.expect_error(500, "internal_error", "Internal Server Error");
}
