//! An API on the memory store, with an operator and two tenants.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Response, Service as _, ServiceFactory as _};
use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use actix_web::test::{TestRequest, call_service, init_service};
use leadr_auth_domain::{Pepper, Timestamp, generate_api_key};
use leadr_auth_http::routes::{self, ANY, Who};
use leadr_auth_http::{HttpConfig, State, TrustedProxies, app, metrics_app};
use leadr_auth_memory::Memory;
use leadr_auth_memory::system::{ManualClock, SeededEntropy};
use leadr_auth_ports::Stores;
use leadr_auth_service::{Phase, Service};
use serde_json::{Value, json};

/// An id that nobody has.
pub(crate) const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// The server's secret.
pub(crate) const SECRET: &str = "a secret for tests, of 32 bytes and more";

pub(crate) struct Api {
    pub(crate) service: Service,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) operator: String,
    pub(crate) one: Tenant,
    pub(crate) two: Tenant,
}

/// A tenant's account and its first key.
pub(crate) struct Tenant {
    pub(crate) account: String,
    pub(crate) key_id: String,
    pub(crate) key: String,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// `type` and `loc` of every fault of a 422.
    pub(crate) fn faults(&self) -> Vec<String> {
        assert_eq!(self.status, 422, "{}", self.text);
        let body = self.json();
        assert_eq!(body["code"], "validation_error");
        let faults = body["detail"].as_array().unwrap();
        assert!(faults.iter().all(|fault| fault["msg"].is_string()));
        let loc = |fault: &Value| {
            let loc = fault["loc"].as_array().unwrap().iter();
            loc.map(|part| part.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
                .join(".")
        };
        faults
            .iter()
            .map(|fault| format!("{} {}", fault["type"].as_str().unwrap(), loc(fault)))
            .collect()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    #[track_caller]
    pub(crate) fn expect_error(self, status: u16, code: &str, detail: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.json(), json!({"detail": detail, "code": code}));
        answer
    }
}

/// Promised of every answer of every test: the API's description knows its status.
fn assert_described(method: &Method, path: &str, status: u16) {
    static DOCUMENT: LazyLock<Value> =
        LazyLock::new(|| serde_json::from_str(&leadr_auth_http::openapi::json()).unwrap());
    let is_of = |pattern: &str| {
        let mut parts = pattern.split('/').zip(path.split('/'));
        pattern.split('/').count() == path.split('/').count()
            && parts.all(|(wanted, given)| wanted.starts_with('{') || wanted == given)
    };
    let route = routes::all().find(|route| {
        let method = if method == Method::HEAD {
            "GET"
        } else {
            method.as_str()
        };
        is_of(route.path) && (route.method == ANY || route.method == method)
    });
    // What is no route of its own is found where it is meant, if it is spelled in another way.
    let Some(route) = route.filter(|route| route.who != Who::Asset) else {
        return;
    };
    let described_as = if route.method == ANY {
        "GET"
    } else {
        route.method
    };
    let operation = &DOCUMENT["paths"][route.path][described_as.to_lowercase()];
    let described = &operation["responses"][status.to_string()];
    assert!(described.is_object(), "{method} {path}: {status}");
}

pub(crate) fn stores() -> Stores {
    Memory::new().stores()
}

pub(crate) fn start() -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap()
}

pub(crate) fn service(stores: Stores, clock: Arc<ManualClock>) -> Service {
    let pepper = Pepper::new(SECRET).unwrap();
    Service::new(stores, clock, Arc::new(SeededEntropy::new(1)), pepper)
}

impl Api {
    pub(crate) async fn new() -> Self {
        Self::on(stores()).await
    }

    pub(crate) async fn on(stores: Stores) -> Self {
        crate::traces::keep();
        let clock = Arc::new(ManualClock::new(start()));
        let service = service(stores, Arc::clone(&clock));
        let operator = generate_api_key([200; 32]);
        service.prepare(Some(&operator)).await.unwrap();
        service.readiness().set(Phase::Ready);
        let none = || Tenant {
            account: String::new(),
            key_id: String::new(),
            key: String::new(),
        };
        let operator = operator.expose().to_owned();
        let mut api = Self {
            service,
            clock,
            operator,
            one: none(),
            two: none(),
        };
        api.one = api.tenant("Tenant One", "one").await;
        api.two = api.tenant("Tenant Two", "two").await;
        api
    }

    pub(crate) async fn tenant(&self, name: &str, slug: &str) -> Tenant {
        let body = json!({"name": name, "slug": slug});
        let account = self
            .post("/v1/accounts", &self.operator, body)
            .await
            .expect(201)
            .json();
        let account = account["id"].as_str().unwrap().to_owned();
        let (key_id, key) = self.issue(&account, "First").await;
        Tenant {
            account,
            key_id,
            key,
        }
    }

    /// Issues a key as the operator: its id and the key.
    pub(crate) async fn issue(&self, account: &str, name: &str) -> (String, String) {
        self.issue_as(json!({"account_id": account, "name": name}))
            .await
    }

    /// Issues a key with scopes as the operator.
    pub(crate) async fn issue_with(&self, account: &str, scopes: &[&str]) -> String {
        let body = json!({"account_id": account, "name": "Narrow", "scopes": scopes});
        self.issue_as(body).await.1
    }

    async fn issue_as(&self, body: Value) -> (String, String) {
        let issued = self
            .post("/v1/api-keys", &self.operator, body)
            .await
            .expect(201)
            .json();
        let text = |field: &str| issued[field].as_str().unwrap().to_owned();
        (text("id"), text("key"))
    }

    /// A process's HTTP face. What it counts is its own.
    pub(crate) fn state(&self) -> State {
        let config = HttpConfig {
            body_timeout: Duration::from_millis(200),
            trusted_proxies: TrustedProxies::default(),
            invalid_keys: None,
            instance: 7,
        };
        State::new(self.service.clone(), config)
    }

    pub(crate) async fn send(&self, request: TestRequest) -> Answer {
        Self::send_to(&self.state(), request).await
    }

    pub(crate) async fn send_to(state: &State, request: TestRequest) -> Answer {
        let app = app(state.clone()).new_service(AppConfig::default());
        let app = app.await.unwrap();
        let request = request.to_request();
        let (method, path) = (request.method().clone(), request.path().to_owned());
        let answer = Self::read(app.call(request).await.unwrap()).await;
        assert_described(&method, &path, answer.status);
        answer
    }

    /// Asks what only those who run the service may.
    pub(crate) async fn send_inside(state: &State, request: TestRequest) -> Answer {
        let app = init_service(metrics_app(state.clone())).await;
        Self::read(call_service(&app, request.to_request()).await.into()).await
    }

    async fn read(response: Response<impl MessageBody + 'static>) -> Answer {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.into_body();
        let bytes = actix_web::body::to_bytes(body.boxed()).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        // Promised of every answer, whatever it is.
        assert_eq!(headers.get("cache-control").unwrap(), "no-store");
        assert_eq!(headers.get("x-content-type-options").unwrap(), "nosniff");
        assert!(headers.contains_key("x-request-id"));
        assert!(headers.contains_key("traceresponse"));
        let challenged = status == 401 || (status == 403 && text.contains("insufficient_scope"));
        assert_eq!(headers.contains_key("www-authenticate"), challenged);
        let to_wait = matches!(status, 429 | 503);
        assert_eq!(headers.contains_key("retry-after"), to_wait);
        assert_ne!(status, 500, "{text}");
        let shows_inside = text.contains("key_hash") || text.contains("deleted_at");
        assert!(status >= 400 || !shows_inside, "{text}");
        Answer {
            status,
            headers,
            text,
        }
    }

    pub(crate) fn request(method: &str, path: &str, key: Option<&str>) -> TestRequest {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = TestRequest::with_uri(path).method(method);
        match key {
            Some(key) => request.insert_header(("leadr-api-key", key)),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str, key: &str) -> Answer {
        self.send(Self::request("GET", path, Some(key))).await
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: Value) -> Answer {
        self.send(Self::request("POST", path, Some(key)).set_json(body))
            .await
    }

    pub(crate) async fn patch(&self, path: &str, key: &str, body: Value) -> Answer {
        self.send(Self::request("PATCH", path, Some(key)).set_json(body))
            .await
    }

    /// The path of the first tenant's first key.
    pub(crate) fn key_of_one(&self) -> String {
        format!("/v1/api-keys/{}", self.one.key_id)
    }
}
