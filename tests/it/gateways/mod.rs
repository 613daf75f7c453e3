//! Real reverse proxies, with the configurations of `deploy/gateways` that `docs/gateways.md` shows: whom they let in, what
//! the application is sent, and what becomes of a client that says who it is by itself.
//!
//! nginx, Caddy and `HAProxy` are Debian's. Envoy is in no distribution, so what it sends is a recorded request here, and the
//! same cases through Envoy itself are for those who have it: `cargo test -p leadr-auth-tests envoy -- --ignored`.

mod proxies;
mod wire;

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;

use crate::support::{Folder, System, text};
use proxies::{FOLDER, Gateway, Proxy};
use wire::{Answer, Listener, ask};

const IDENTITY: [&str; 4] = [
    "x-leadr-account-id",
    "x-leadr-key-id",
    "x-leadr-key-name",
    "x-leadr-scopes",
];

/// A service with a tenant, an application, and a proxy between them.
struct Site {
    system: System,
    application: Listener,
    gateway: Gateway,
    account: String,
    // Gone after the service.
    _folder: Folder,
}

/// A key of the tenant's.
struct Key {
    path: String,
    id: String,
    plain: String,
}

impl Site {
    async fn open(proxy: Proxy) -> Self {
        let folder = Folder::new();
        let system = System::on(&folder.url()).await;
        let account = system.account("Acme", "acme").await;
        let application = Listener::application().await;
        let gateway = Gateway::start(proxy, system.address, application.address).await;
        Self {
            system,
            application,
            gateway,
            account,
            _folder: folder,
        }
    }

    async fn key(&self, name: &str, scopes: Option<&[&str]>) -> Key {
        let body = json!({"account_id": self.account, "name": name, "scopes": scopes});
        let issued = self
            .system
            .post("/v1/api-keys", &self.system.operator, body);
        let issued = issued.await.expect(201);
        let id = text(&issued, "id");
        Key {
            path: format!("/v1/api-keys/{id}"),
            id,
            plain: text(&issued, "key"),
        }
    }

    /// Sends a request without a body; `headers` are whole lines.
    async fn send(&self, method: &str, target: &str, headers: &[&str]) -> Answer {
        self.gateway.send(&head(method, target, headers)).await
    }

    async fn get(&self, target: &str, headers: &[&str]) -> Answer {
        self.send("GET", target, headers).await
    }

    #[track_caller]
    fn expect_refused(&self, answer: &Answer, status: u16, code: &str) {
        let proxy = self.gateway.proxy;
        assert_eq!(answer.status, status, "{proxy:?}: {answer:?}");
        assert!(answer.body.contains(code), "{proxy:?}: {answer:?}");
        assert_eq!(answer.header("content-type"), ["application/json"]);
        let seen = self.application.take();
        assert!(seen.is_empty(), "{proxy:?} let it through: {seen:?}");
    }

    /// The application was sent one request, which says whose key it is, and once each.
    #[track_caller]
    fn expect_identity(&self, key: &Key, name: &str, scopes: &str) -> wire::Request {
        let seen = self.application.take_one();
        let expected = [&*self.account, &*key.id, name, scopes];
        for (header, expected) in IDENTITY.into_iter().zip(expected) {
            let values = seen.header(header);
            // nginx sends no header that would be empty.
            let absent = expected.is_empty() && values.is_empty();
            assert!(absent || values == [expected], "{header}: {seen:?}");
        }
        for (header, _) in &seen.headers {
            let spelled = header.to_ascii_lowercase().replace('_', "-");
            assert!(
                !spelled.starts_with("x-leadr")
                    || IDENTITY.contains(&&*header.to_ascii_lowercase()),
                "{header}: {seen:?}"
            );
        }
        let everything = format!("{:?}", seen.headers);
        assert!(!everything.contains(&key.plain), "the key: {seen:?}");
        seen
    }

    async fn close(self) {
        drop(self.gateway);
        self.system.stop().await;
    }
}

fn head(method: &str, target: &str, headers: &[&str]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: api.example\r\n");
    for line in headers {
        text.push_str(line);
        text.push_str("\r\n");
    }
    (text + "Connection: close\r\n\r\n").into_bytes()
}

/// Runs each case through each proxy.
macro_rules! through_every_proxy {
    ($($(#[$doc:meta])* async fn $name:ident($proxy:ident: Proxy) $body:block)*) => {
        $(
            $(#[$doc])*
            mod $name {
                use super::*;

                async fn case($proxy: Proxy) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn nginx() {
                    case(Proxy::Nginx).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn caddy() {
                    case(Proxy::Caddy).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn haproxy() {
                    case(Proxy::Haproxy).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = "Envoy is not in Debian; this is for who has it on the path"]
                async fn envoy() {
                    case(Proxy::Envoy).await;
                }
            }
        )*
    };
}

through_every_proxy! {
    async fn a_good_key_gets_through_and_no_other(proxy: Proxy) {
        let site = Site::open(proxy).await;
        let key = site.key("Build", None).await;

        let none = site.get("/things/1?a=b", &[]).await;
        site.expect_refused(&none, 401, "api_key_required");
        assert_eq!(none.header("www-authenticate"), ["Bearer realm=\"leadr-auth\""]);
        let wrong = site.get("/things/1", &["leadr-api-key: ldr_wrong"]).await;
        site.expect_refused(&wrong, 401, "invalid_api_key");
        let challenge = ["Bearer realm=\"leadr-auth\", error=\"invalid_token\""];
        assert_eq!(wrong.header("www-authenticate"), challenge);

        for line in [
            format!("leadr-api-key: {}", key.plain),
            format!("LEADR-API-KEY: {}", key.plain),
            format!("X-API-Key: {}", key.plain),
            format!("Authorization: Bearer {}", key.plain),
            format!("authorization: bEARER  {}", key.plain),
        ] {
            let answer = site.get("/things/1?a=b%20c", &[&line, "Cookie: a=b"]).await;
            assert_eq!((answer.status, &*answer.body), (200, "the application"), "{line}");
            let seen = site.expect_identity(&key, "Build", "*");
            assert_eq!(seen.target, "/things/1?a=b%20c");
            assert_eq!(seen.header("cookie"), ["a=b"]);
            for header in ["leadr-api-key", "x-api-key", "authorization"] {
                assert!(seen.header(header).is_empty(), "{seen:?}");
            }
        }
        // Two keys are none. nginx 1.22 sees the first of two headers of one name only.
        let twice = format!("leadr-api-key: {}", key.plain);
        let other = site.get("/", &[&twice, "X-API-Key: ldr_other"]).await;
        site.expect_refused(&other, 401, "invalid_api_key");
        let same = site.get("/", &[&twice, &twice]).await;
        if proxy == Proxy::Nginx {
            assert_eq!(same.status, 200);
            site.expect_identity(&key, "Build", "*");
        } else {
            site.expect_refused(&same, 401, "invalid_api_key");
        }
        // An application with passwords of its own, which Envoy's configuration keeps from it.
        let good = format!("leadr-api-key: {}", key.plain);
        let answer = site.get("/", &[&good, "Authorization: Basic YTpi"]).await;
        assert_eq!(answer.status, 200);
        let seen = site.expect_identity(&key, "Build", "*");
        let kept: &[&str] = if proxy == Proxy::Envoy { &[] } else { &["Basic YTpi"] };
        assert_eq!(seen.header("authorization"), kept);

        let revoked = json!({"status": "revoked"});
        site.system.patch(&key.path, &site.system.operator, revoked).await.expect(200);
        let answer = site.get("/things/1", &[&good]).await;
        site.expect_refused(&answer, 401, "invalid_api_key");
        site.close().await;
    }

    async fn a_client_does_not_get_to_say_who_it_is(proxy: Proxy) {
        let site = Site::open(proxy).await;
        let key = site.key("Build", Some(&["docs:read"])).await;
        let bare = site.key("Bare", Some(&[])).await;
        let forged = [
            "X-Leadr-Account-Id: forged",
            "x-leadr-key-id: forged",
            "X-LEADR-KEY-NAME: forged",
            "x-LeAdR-sCoPeS: forged",
            "X-Leadr-Scopes: forged twice",
            "X_Leadr_Account_Id: forged",
            "x_leadr_key_id: forged",
            "X-Leadr_Scopes: forged",
            "X_LEADR-SCOPES: forged",
        ];
        let with = |key: &Key| {
            let good = format!("leadr-api-key: {}", key.plain);
            let mut lines = forged.map(str::to_owned).to_vec();
            lines.insert(4, good);
            lines
        };
        for (target, key, name, scopes) in [
            ("/", &key, "Build", "docs:read"),
            ("/docs/1", &key, "Build", "docs:read"),
            ("/", &bare, "Bare", ""),
        ] {
            let lines = with(key);
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let answer = site.get(target, &lines).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let seen = site.expect_identity(key, name, scopes);
            assert!(!format!("{:?}", seen.headers).contains("forged"), "{seen:?}");
        }
        // Where no key is asked for, nobody is anybody.
        let mut public = forged.to_vec();
        let good = format!("leadr-api-key: {}", key.plain);
        public.push(&good);
        assert_eq!(site.get("/public/1", &public).await.status, 200);
        let seen = format!("{:?}", site.application.take_one().headers);
        assert!(!seen.contains("forged") && !seen.contains(&key.plain), "{seen}");

        let none = site.get("/", &forged).await;
        site.expect_refused(&none, 401, "api_key_required");
        site.close().await;
    }

    async fn a_location_may_ask_for_scopes(proxy: Proxy) {
        let site = Site::open(proxy).await;
        let reader = site.key("Übung 🔑", Some(&["docs:*", "x"])).await;
        let other = site.key("Other", Some(&["x"])).await;

        let good = format!("leadr-api-key: {}", reader.plain);
        assert_eq!(site.get("/docs/1", &[&good]).await.status, 200);
        site.expect_identity(&reader, "%C3%9Cbung%20%F0%9F%94%91", "docs:* x");

        let lacks = format!("leadr-api-key: {}", other.plain);
        assert_eq!(site.get("/things", &[&lacks]).await.status, 200);
        site.expect_identity(&other, "Other", "x");
        let refused = site.get("/docs/1", &[&lacks]).await;
        site.expect_refused(&refused, 403, "insufficient_scope");
        let challenge = refused.header("www-authenticate");
        assert_eq!(challenge.len(), 1, "{challenge:?}");
        assert!(challenge[0].contains("scope=\"docs:read\""), "{challenge:?}");
        let none = site.get("/docs/1", &[]).await;
        site.expect_refused(&none, 401, "api_key_required");

        for target in [
            "/docs/1", "//docs/1", "/./docs/1", "/x/../docs/1", "/x/%2e%2e/docs/1", "/%64ocs/1",
            "/docs%2f1", "/docs%2F1", "/x/..%2fdocs/1", "/x/..;/docs/1", "/x/..;a=b/docs/1",
            "/docs/../things", "/docs;x/1", "/docs%3Bx/1", "/docs;/../things", "/docs/%2e%2e/things", "/x/..\\docs/1", "/x/..%5cdocs/1", "/docs//1", "/docs/./1", "/docs/x/../1",
            "http://api.example/docs/1", "http://api.example//docs/1",
        ] {
            let answer = site.get(target, &[&lacks]).await;
            for seen in site.application.take() {
                let path = as_read_loosely(&seen.target);
                assert!(!path.starts_with("/docs/"), "{target}: {answer:?}: {seen:?}");
                // And as one might take it that resolves nothing.
                assert!(!seen.target.starts_with("/docs/"), "{target}: {answer:?}: {seen:?}");
            }
        }
        site.close().await;
    }

    /// What is open and what is not is told from the path, and applications read paths in ways of their own.
    async fn no_path_leads_round_the_key(proxy: Proxy) {
        let site = Site::open(proxy).await;
        assert_eq!(site.get("/public/1", &[]).await.status, 200);
        assert_eq!(site.application.take_one().target, "/public/1");
        for target in [
            "/", "/1", "//", "//1", "/public", "/publicity", "/public%2f..%2f1", "/public/../1", "/public/..",
            "/public/.//../1", "/public//../1", "/public//../../1", "/public/%2e%2e/1", "/public/%2E%2e/1",
            "/public/.%2e/1", "/public/%2e%2e%2f1", "/public/..%2f1", "/public/..%2F1", "/public/a/../../1",
            "/public/..;/1", "/public;x/../1", "/public;/1", "/x;/../public/..%3b/1", "/public/..;a=b/1", "/public/..\\1", "/public/..%5c1", "/public/%5c..%5c1",
            "/public/..%00/1", "/public/%00/../1", "/%70ublic/../1", "/%2fpublic/../1", "/public/1/..%2f..%2f1",
            "//public/../1", "/1/..//public/../1", "/PUBLIC/../1", "http://api.example/public/../1",
            "http://api.example/public/..%2f1", "/public/?/../../1", "/1?/public/", "/1;/public/", "/1#/public/",
            "*",
        ] {
            for method in ["GET", "OPTIONS", "POST"] {
                let answer = site.send(method, target, &["Content-Length: 0"]).await;
                let all = site.application.take();
                assert!(all.is_empty() || answer.status == 200, "{method} {target}: {answer:?}");
                for seen in all {
                    let path = as_read_loosely(&seen.target);
                    assert!(
                        path.to_ascii_lowercase().starts_with("/public/"),
                        "{method} {target} came as {}: {answer:?}",
                        seen.target
                    );
                }
            }
        }
        site.close().await;
    }

    async fn every_method_and_a_body_pass_whole(proxy: Proxy) {
        let site = Site::open(proxy).await;
        let key = site.key("Build", None).await;
        let good = format!("leadr-api-key: {}", key.plain);
        for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
            let answer = site.send(method, "/things", &[&good]).await;
            assert_eq!(answer.status, 200, "{method}: {answer:?}");
            let seen = site.expect_identity(&key, "Build", "*");
            assert_eq!(seen.method, method);
            let none = site.send(method, "/things", &[]).await;
            assert_eq!(none.status, 401, "{method}");
            assert!(site.application.take().is_empty(), "{method}");
        }
        let body: Vec<u8> = (0..100 * 1024_u32).map(|n| (n % 251) as u8).collect();
        let length = format!("Content-Length: {}", body.len());
        let whole = |lines: &[&str]| [head("POST", "/docs/1", lines), body.clone()].concat();
        let mut chunked = head("PUT", "/docs/1", &[&good, "Transfer-Encoding: chunked"]);
        for part in body.chunks(7000) {
            chunked.extend(format!("{:x}\r\n", part.len()).into_bytes());
            chunked.extend(part);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\n\r\n");
        for request in [whole(&[&good, &length]), chunked] {
            let answer = site.gateway.send(&request).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let seen = site.expect_identity(&key, "Build", "*");
            assert!(seen.body == body, "{} bytes came", seen.body.len());
        }
        let refused = site.gateway.send(&whole(&[&length])).await;
        site.expect_refused(&refused, 401, "api_key_required");
        site.close().await;
    }

    /// A service that is not there, is silent, or cannot tell: nobody gets in, and the client is told to come again.
    async fn while_nobody_can_be_asked_nobody_gets_in(proxy: Proxy) {
        let site = Site::open(proxy).await;
        let key = site.key("Build", None).await;
        let good = format!("leadr-api-key: {}", key.plain);
        assert_eq!(site.get("/things", &[&good]).await.status, 200);
        site.expect_identity(&key, "Build", "*");
        let Site { system, application, gateway, .. } = site;
        system.stop().await;
        expect_unavailable(&gateway, &application, &good).await;
        drop(gateway);

        let silent = Listener::answering(None).await;
        let cannot_tell = Listener::answering(Some(
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: application/json\r\n\
             Content-Length: 30\r\n\r\n{\"code\":\"service_unavailable\"}".to_owned(),
        )).await;
        for service in [&silent, &cannot_tell] {
            let gateway = Gateway::start(proxy, service.address, application.address).await;
            expect_unavailable(&gateway, &application, &good).await;
        }
    }

    /// Whatever answers there: only what this service says lets anybody in, and as whom.
    async fn other_answers_let_nobody_in(proxy: Proxy) {
        let application = Listener::application().await;
        for status in ["302 Found", "404 Not Found", "422 Unprocessable Entity", "500 Internal Server Error"] {
            let service = Listener::answering(Some(format!(
                "HTTP/1.1 {status}\r\nLocation: /\r\nX-Leadr-Key-Id: no\r\nContent-Length: 0\r\n\r\n"
            ))).await;
            let gateway = Gateway::start(proxy, service.address, application.address).await;
            for target in ["/", "/docs/1"] {
                let answer = gateway.send(&head("GET", target, &["leadr-api-key: ldr_x"])).await;
                let passed_on = matches!(proxy, Proxy::Caddy | Proxy::Envoy) && !status.starts_with('5');
                let own = status.split(' ').next().unwrap();
                let expected = if passed_on { own } else { "503" };
                assert_eq!(answer.status.to_string(), expected, "{status}");
                assert!(application.take().is_empty(), "{status} lets in");
            }
        }
        let stranger = Listener::answering(Some("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned())).await;
        let gateway = Gateway::start(proxy, stranger.address, application.address).await;
        let forged = ["X-Leadr-Key-Id: forged", "x_leadr_scopes: forged", "x-leadr-scopes: forged"];
        gateway.send(&head("GET", "/", &forged)).await;
        for seen in application.take() {
            let said = format!("{:?}", seen.headers);
            assert!(!said.contains("forged"), "{said}");
        }
    }

    /// Everything that is told of a key may be long.
    async fn a_key_with_all_the_scopes_that_one_may_have_is_let_in(proxy: Proxy) {
        let site = Site::open(proxy).await;
        let scopes: Vec<String> = (0..64).map(|n| format!("{n:02}:{}", "s".repeat(125))).collect();
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let key = site.key(&"\u{1f511}".repeat(255), Some(&scopes)).await;
        let answer = site.get("/things", &[&format!("leadr-api-key: {}", key.plain)]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = site.application.take_one();
        assert_eq!(seen.header("x-leadr-scopes"), [scopes.join(" ")]);
    }

    /// The service is asked with the key alone, on connections that stay open.
    async fn the_service_is_asked_for_the_key_and_no_more(proxy: Proxy) {
        let application = Listener::application().await;
        let service = Listener::answering(Some(
            "HTTP/1.1 200 OK\r\nX-Leadr-Key-Id: k\r\nContent-Length: 0\r\n\r\n".to_owned(),
        )).await;
        let gateway = Gateway::start(proxy, service.address, application.address).await;
        let lines = [
            "leadr-api-key: a", "X-API-Key: b", "Authorization: Basic Yg==", "Cookie: secret=1", "Content-Length: 4",
        ];
        let path = if proxy == Proxy::Envoy { "/v1/ext-authz" } else { "/v1/forward-auth" };
        for (target, asked) in [
            ("/things?a=b", path.to_owned()),
            ("/docs/1?scope=x", format!("{path}?scope=docs:read")),
        ] {
            let request = [head("POST", target, &lines), b"body".to_vec()].concat();
            for _ in 0..3 {
                assert_eq!(gateway.send(&request).await.status, 200);
                let seen = service.take_one();
                assert_eq!(seen.target, asked);
                assert_eq!(seen.header("leadr-api-key"), ["a"]);
                assert_eq!(seen.header("x-api-key"), ["b"]);
                assert_eq!(seen.header("authorization"), ["Basic Yg=="]);
                assert!(seen.header("cookie").is_empty(), "{seen:?}");
                assert!(seen.body.is_empty(), "{seen:?}");
                assert_eq!(application.take_one().body, b"body");
            }
        }
        // One after the other; Caddy has a pool for each place that asks.
        assert!(service.connections() <= 2, "{}", service.connections());
    }
}

async fn expect_unavailable(gateway: &Gateway, application: &Listener, good: &str) {
    for target in ["/things", "/docs/1"] {
        let asked = Instant::now();
        let answer = gateway.send(&head("GET", target, &[good])).await;
        let proxy = gateway.proxy;
        assert_eq!(
            answer.status,
            503,
            "{proxy:?}: {answer:?} {}",
            gateway.log()
        );
        assert_eq!(answer.header("retry-after"), ["1"], "{proxy:?}: {answer:?}");
        assert!(answer.body.contains("service_unavailable"), "{answer:?}");
        assert_eq!(answer.header("content-type"), ["application/json"]);
        // Configured are two seconds at most, after one to connect.
        assert!(
            asked.elapsed() < Duration::from_secs(8),
            "{:?}",
            asked.elapsed()
        );
        let seen = application.take();
        assert!(seen.is_empty(), "{proxy:?} let it through: {seen:?}");
    }
    // What needs no key needs no service.
    let open = gateway.send(&head("GET", "/public/1", &[])).await;
    assert_eq!(open.status, 200);
    application.take_one();
}

/// The path as the least careful application might take it.
fn as_read_loosely(target: &str) -> String {
    let target = target.split(['?', '#']).next().unwrap();
    let path = match target.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => target,
    };
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, others @ ..] = rest {
        let encoded = std::str::from_utf8(others.get(..2).unwrap_or_default()).unwrap_or_default();
        match u8::from_str_radix(encoded, 16) {
            Ok(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &others[2..];
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    let path = String::from_utf8_lossy(&bytes).replace('\\', "/");
    let mut segments = Vec::new();
    for segment in path.split('/') {
        let segment = segment.split([';', '\0']).next().unwrap();
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    format!("/{}/", segments.join("/"))
}

#[test]
fn paths_are_read_loosely() {
    for (target, path) in [
        ("/", "//"),
        ("/public/1?a", "/public/1/"),
        ("/public/..;x/1", "/1/"),
        ("http://x/public/%2e%2E%5c1", "/1/"),
        ("/%64ocs//.//1", "/docs/1/"),
    ] {
        assert_eq!(as_read_loosely(target), path, "{target}");
    }
}

/// After an error in Lua `HAProxy` goes on with the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_in_the_script_lets_nobody_in() {
    let site = Site::open(Proxy::Haproxy).await;
    let key = site.key("Build", None).await;
    let (service, application) = (site.system.address, &site.application);
    let gateway = Gateway::start_altered(Proxy::Haproxy, service, application.address, |text| {
        text.replace(
            "    local asked =",
            "    error('broken')\n    local asked =",
        )
    })
    .await;
    let good = format!("leadr-api-key: {}", key.plain);
    expect_unavailable(&gateway, application, &good).await;
    let log = gateway.log();
    assert!(log.contains("broken"), "{log}");
    site.close().await;
}

/// What Envoy's filter sends, byte by byte, and what it needs of the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_request_that_envoy_was_recorded_with() {
    let recorded = include_str!("../../fixtures/envoy-ext-authz.http");
    let recorded: Vec<&str> = recorded
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let recorded = recorded.join("\r\n") + "\r\n";
    let folder = Folder::new();
    let system = System::on(&folder.url()).await;
    let account = system.account("Acme", "acme").await;
    let issue = async |scopes: &[&str]| {
        let body = json!({"account_id": account, "name": "Envoy 1", "scopes": scopes});
        system
            .post("/v1/api-keys", &system.operator, body)
            .await
            .expect(201)
    };
    let replay = async |key: &str| {
        let request = recorded.replace("{key}", key);
        ask(system.address, request.as_bytes()).await
    };

    let good = issue(&["docs:read"]).await;
    let answer = replay(&text(&good, "key")).await;
    // Its filter lets in on this status and no other.
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body, "");
    let told = IDENTITY.map(|name| answer.header(name).join("|"));
    assert_eq!(
        told,
        [&*account, &*text(&good, "id"), "Envoy%201", "docs:read"]
    );

    let lacking = replay(&text(&issue(&[]).await, "key")).await;
    assert_eq!(lacking.status, 403);
    assert_eq!(lacking.header("www-authenticate").len(), 1);
    assert_eq!(lacking.header("content-type"), ["application/json"]);
    let wrong = replay("ldr_wrong").await;
    assert_eq!(wrong.status, 401);
    assert_eq!(wrong.header("www-authenticate").len(), 1);
    for refused in [lacking, wrong] {
        assert!(IDENTITY.iter().all(|name| refused.header(name).is_empty()));
    }
    system.stop().await;
}

/// The page shows what is run here, to the letter.
#[test]
fn the_page_shows_these_configurations() {
    let page = include_str!("../../../docs/gateways.md");
    let mut files: Vec<_> = std::fs::read_dir(FOLDER)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert_eq!(files.len(), 5, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let shown = page.split("\n```").any(|block| {
            block
                .split_once('\n')
                .is_some_and(|(_, block)| format!("{block}\n") == text)
        });
        assert!(shown, "docs/gateways.md does not show {}", file.display());
    }
}
