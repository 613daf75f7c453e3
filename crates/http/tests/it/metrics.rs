//! What monitoring reads: that it is right, that it is documented, and that no client writes into it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use leadr_auth_domain::{Keyring, PepperId};
use leadr_auth_http::State;
use leadr_auth_http::routes::METRICS_ROUTES;
use leadr_auth_service::Phase;

use crate::support::{Api, NOBODY, SECRET};

const DOCS: &str = include_str!("../../../../docs/metrics.md");

async fn scrape(state: &State) -> String {
    let request = Api::request("GET", "/metrics", None).insert_header((
        "accept",
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
    ));
    let answer = Api::send_inside(state, request).await.expect(200);
    assert_eq!(
        answer.header("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    answer.text
}

/// The value of a series, written as it is shown.
#[track_caller]
fn value(text: &str, series: &str) -> u64 {
    written(text, series).parse().unwrap()
}

#[track_caller]
fn written<'a>(text: &'a str, series: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .unwrap_or_else(|| panic!("no {series} in\n{text}"))
}

/// Every series, without its value.
fn series(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect()
}

/// Name, type and labels of every metric that is shown.
fn shown(text: &str) -> BTreeSet<(String, String, BTreeSet<String>)> {
    let mut types = BTreeMap::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').unwrap();
            assert_eq!(types.insert(name, kind), None, "{name} is declared twice");
        }
    }
    let mut shown: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for series in series(text) {
        let (sample, labels) = series.split_once('{').unwrap_or((series, ""));
        let (&name, &kind) = ["", "_total", "_info", "_bucket", "_sum", "_count"]
            .into_iter()
            .find_map(|suffix| types.get_key_value(sample.strip_suffix(suffix)?))
            .unwrap_or_else(|| panic!("{sample} has no type"));
        let name = if kind == "histogram" { name } else { sample };
        let labels = labels
            .trim_end_matches('}')
            .split(',')
            .filter_map(|label| Some(label.split_once('=')?.0.to_owned()))
            .filter(|label| label != "le");
        shown
            .entry((name.to_owned(), kind.to_owned()))
            .or_default()
            .extend(labels);
    }
    let flat = |((name, kind), labels)| (name, kind, labels);
    shown.into_iter().map(flat).collect()
}

/// Name, type and labels of every row of the table in the docs.
fn documented() -> BTreeSet<(String, String, BTreeSet<String>)> {
    DOCS.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 4, "{line}");
            let words = |cell: &str| -> BTreeSet<String> {
                cell.split('`')
                    .skip(1)
                    .step_by(2)
                    .map(str::to_owned)
                    .collect()
            };
            let name = words(cells[0]).pop_first().unwrap();
            (name, cells[1].to_owned(), words(cells[2]))
        })
        .collect()
}

/// Gives the service another secret, and waits until it knows how many keys remain under the one so far.
async fn rotate(api: &Api) {
    let id = |text| PepperId::parse(text).unwrap();
    let secrets = [
        (PepperId::default(), SECRET),
        (id("new"), "a new secret for tests, of 32 bytes and more"),
    ];
    let ring = Keyring::new(&id("new"), secrets).unwrap();
    api.service.replace_keyring(ring).await.unwrap();
    actix_web::rt::spawn(api.service.clone().run(std::future::pending()));
    while api.service.statistics().remaining.is_empty() {
        actix_web::rt::time::sleep(Duration::from_millis(5)).await;
    }
}

#[actix_web::test]
async fn keys_that_remain_under_a_retired_secret_are_counted() {
    let api = Api::new().await;
    rotate(&api).await;
    let text = scrape(&api.state()).await;
    let remaining = r#"leadr_auth_keys_under_retired_secret{secret_id="default"}"#;
    // One of each tenant, and the operator's.
    assert_eq!(value(&text, remaining), 3);
    assert_eq!(value(&text, "leadr_auth_keys_rehashed_total"), 0);
}

#[actix_web::test]
async fn the_docs_list_what_is_shown_and_nothing_else() {
    let api = Api::new().await;
    rotate(&api).await;
    let state = api.state();
    Api::send_to(&state, Api::request("GET", "/livez", None)).await;
    let text = scrape(&state).await;
    assert_eq!(documented(), shown(&text));
    assert!(text.ends_with("# EOF\n"));
    assert!(
        text.lines()
            .all(|line| !line.starts_with("# HELP") || line.ends_with('.'))
    );
    // An alert on a metric that does not exist never fires.
    let names: BTreeSet<_> = documented().into_iter().map(|(name, ..)| name).collect();
    for word in DOCS.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| word.strip_suffix(suffix))
            .unwrap_or(word);
        assert!(
            !name.starts_with("leadr_auth_") || names.contains(name),
            "{word}"
        );
    }
}

/// Who does not ask for the newer format gets the one that everything understands.
#[actix_web::test]
async fn both_formats_say_the_same() {
    let api = Api::new().await;
    let state = api.state();
    Api::send_to(&state, Api::request("GET", "/livez", None)).await;
    // A scrape is itself counted when it is over.
    scrape(&state).await;
    for accept in [None, Some("*/*"), Some("text/plain")] {
        let mut request = Api::request("GET", "/metrics", None);
        if let Some(accept) = accept {
            request = request.insert_header(("accept", accept));
        }
        let older = Api::send_inside(&state, request).await.expect(200);
        assert_eq!(
            older.header("content-type"),
            "text/plain; version=0.0.4; charset=utf-8"
        );
        let newer = scrape(&state).await;
        assert_eq!(series(&older.text), series(&newer));
        assert!(!older.text.contains("EOF") && !older.text.contains("UNIT"));
        // Whatever has a type there has its name.
        for line in older.text.lines() {
            let Some(declared) = line.strip_prefix("# TYPE ") else {
                continue;
            };
            let (name, kind) = declared.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            let sample = if kind == "histogram" {
                format!("{name}_count")
            } else {
                name.to_owned()
            };
            assert!(
                series(&older.text)
                    .iter()
                    .any(|series| series.split('{').next() == Some(&sample)),
                "{line}"
            );
        }
    }
}

#[actix_web::test]
async fn requests_and_verdicts_are_counted() {
    let api = Api::new().await;
    let state = api.state();
    let before = scrape(&state).await;
    let path = api.key_of_one();
    let stranger = leadr_auth_domain::generate_api_key([99; 32]);
    for key in [&api.one.key, &api.one.key, stranger.expose()] {
        Api::send_to(&state, Api::request("GET", &path, Some(key))).await;
    }
    Api::send_to(&state, Api::request("PUT", &path, None)).await;
    Api::send_to(&state, Api::request("HEAD", "/nowhere", None)).await;
    let text = scrape(&state).await;
    let route = r#"route="/v1/api-keys/{key_id}""#;
    for (method, route, status, count) in [
        ("GET", route, 200, 2),
        ("GET", route, 401, 1),
        ("PUT", route, 405, 1),
        ("HEAD", r#"route="unknown""#, 404, 1),
        ("GET", r#"route="/metrics""#, 200, 1),
    ] {
        let labels = format!(r#"{{method="{method}",{route},status="{status}"}}"#);
        let series = format!("leadr_auth_http_requests_total{labels}");
        assert_eq!(value(&text, &series), count, "{series}");
    }
    let duration = "leadr_auth_http_request_duration_seconds";
    assert_eq!(value(&text, &format!("{duration}_count{{{route}}}")), 4);
    let bucket = format!(r#"{duration}_bucket{{le="10.0",{route}}}"#);
    assert_eq!(value(&text, &bucket), 4);
    let gained = |verdict: &str| {
        let series = format!(r#"leadr_auth_verifications_total{{verdict="{verdict}"}}"#);
        value(&text, &series) - value(&before, &series)
    };
    assert_eq!((gained("valid"), gained("unknown")), (2, 1));
    assert_eq!(value(&text, "leadr_auth_usage_notes_waiting"), 2);
    let lag = written(&text, "leadr_auth_usage_flush_lag_seconds");
    assert!(lag.parse::<f64>().unwrap() > 0.0, "{lag}");
}

/// A client that is set up wrongly, or a scan, would be invisible otherwise. Who presents nothing is counted nowhere.
#[actix_web::test]
async fn what_is_no_key_by_its_looks_is_counted_apart() {
    let api = Api::new().await;
    let state = api.state();
    let path = api.key_of_one();
    let before = scrape(&state).await;
    for key in [Some("abc"), Some("ldr_short"), None] {
        Api::send_to(&state, Api::request("GET", &path, key)).await;
    }
    let twice =
        Api::request("GET", &path, Some(&api.one.key)).append_header(("x-api-key", "ldr_short"));
    Api::send_to(&state, twice).await;
    let text = scrape(&state).await;
    let counted: Vec<u64> = ["malformed", "unknown", "valid"]
        .iter()
        .map(|verdict| {
            let series = format!(r#"leadr_auth_verifications_total{{verdict="{verdict}"}}"#);
            value(&text, &series) - value(&before, &series)
        })
        .collect();
    assert_eq!(counted, [3, 0, 0]);
}

#[actix_web::test]
async fn what_the_cache_does_is_counted() {
    let api = Api::new().await;
    let state = api.state();
    let forward = || Api::request("GET", "/v1/forward-auth", Some(&api.one.key));
    Api::send_to(&state, forward()).await.expect(200);
    let counted = |text: &str| -> Vec<u64> {
        let outcomes = ["hit", "miss", "bypass", "stale"].iter();
        let series = |outcome| {
            format!(r#"leadr_auth_verification_cache_lookups_total{{outcome="{outcome}"}}"#)
        };
        outcomes
            .map(|outcome| value(text, &series(outcome)))
            .collect()
    };
    let lease = "leadr_auth_verification_cache_lease_seconds";
    let text = scrape(&state).await;
    assert_eq!(counted(&text), [0, 0, 1, 0], "nobody listens");
    assert_eq!(written(&text, lease), "0.0");
    actix_web::rt::spawn(api.service.clone().run(std::future::pending()));
    while api.service.statistics().cache.lease.is_zero() {
        actix_web::rt::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..3 {
        Api::send_to(&state, forward()).await.expect(200);
    }
    let text = scrape(&state).await;
    assert_eq!(counted(&text), [2, 1, 1, 0]);
    assert_eq!(value(&text, "leadr_auth_verification_cache_keys"), 1);
    assert!(value(&text, "leadr_auth_verification_cache_bytes") > 0);
    assert!(written(&text, lease).parse::<f64>().unwrap() > 0.0);
}

#[actix_web::test]
async fn ready_is_told_as_it_is() {
    let api = Api::new().await;
    let state = api.state();
    assert_eq!(value(&scrape(&state).await, "leadr_auth_ready"), 1);
    api.service.readiness().set(Phase::Stopping);
    assert_eq!(value(&scrape(&state).await, "leadr_auth_ready"), 0);
    let ready = Api::request("GET", "/readyz", None);
    Api::send_inside(&state, ready)
        .await
        .expect_error(503, "not_ready", "Not ready");
}

#[actix_web::test]
async fn no_client_writes_a_label() {
    let api = Api::new().await;
    let state = api.state();
    let round = async |n: u8| {
        let key = leadr_auth_domain::generate_api_key([n; 32]);
        let key = key.expose();
        for path in [
            format!("/{key}"),
            format!("/v1/api-keys/{key}"),
            format!("/v1/accounts/{key}?key={key}"),
            format!("/docs/{key}"),
            format!("/v1/api-keys/{NOBODY}/{n}"),
        ] {
            for method in ["GET", "HEAD", "OPTIONS", key, &format!("BREW{n}")] {
                let request = Api::request(method, &path, Some(key))
                    .insert_header(("x-request-id", key))
                    .insert_header(("user-agent", key));
                Api::send_to(&state, request).await;
            }
        }
        let text = scrape(&state).await;
        assert!(!text.contains("ldr_"), "{text}");
        assert!(!text.contains("BREW"), "{text}");
        series(&text).len()
    };
    // A scrape is itself counted when it is over.
    scrape(&state).await;
    let first = round(1).await;
    for n in 2..10 {
        assert_eq!(round(n).await, first, "the client made a series");
    }
}

#[actix_web::test]
async fn each_listener_has_its_own_routes() {
    let api = Api::new().await;
    let state = api.state();
    let metrics = || Api::request("GET", "/metrics", Some(&api.operator));
    Api::send_to(&state, metrics())
        .await
        .expect_error(404, "not_found", "Not Found");
    for path in ["/", "/v1/api-keys", "/docs", "/openapi.json", "/metrics/"] {
        let request = Api::request("GET", path, Some(&api.operator));
        Api::send_inside(&state, request)
            .await
            .expect_error(404, "not_found", "Not Found");
    }
    for route in METRICS_ROUTES {
        for method in ["GET", "HEAD"] {
            let request = Api::request(method, route.path, None);
            Api::send_inside(&state, request).await.expect(200);
        }
        let request = Api::request("POST", route.path, None);
        let answer = Api::send_inside(&state, request).await;
        let answer = answer.expect_error(405, "method_not_allowed", "Method Not Allowed");
        assert_eq!(answer.header("allow"), "GET, HEAD");
    }
}
