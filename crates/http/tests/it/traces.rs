//! The trace that a request is part of: in the answer, in the log and in its span.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Once};

use leadr_auth_http::REQUEST_SPAN;
use leadr_auth_memory::system::ManualClock;
use leadr_auth_ports::{MockKeyLookup, StoreError};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{Api, service, start, stores};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

pub(crate) type Fields = BTreeMap<String, String>;

/// Every span and event of this thread, with its fields.
#[derive(Default)]
struct Kept {
    spans: Vec<Fields>,
    events: Vec<Fields>,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// Keeps what each thread says to itself. It is there for the whole process, because where subscribers come and go while
/// others register what they say, some of it is not heard.
struct Keeper;

/// Has to be called before anything is said.
pub(crate) fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Keeper).unwrap());
}

struct Reader<'a>(&'a mut Fields);

impl Visit for Reader<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("leadr_auth")
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        assert_eq!(attributes.metadata().target(), REQUEST_SPAN);
        let mut fields = Fields::new();
        attributes.record(&mut Reader(&mut fields));
        KEPT.with_borrow_mut(|kept| {
            kept.spans.push(fields);
            Id::from_u64(kept.spans.len() as u64)
        })
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let index = usize::try_from(span.into_u64()).unwrap() - 1;
        KEPT.with_borrow_mut(|kept| values.record(&mut Reader(&mut kept.spans[index])));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::new();
        event.record(&mut Reader(&mut fields));
        KEPT.with_borrow_mut(|kept| kept.events.push(fields));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Forgets what was said so far.
pub(crate) fn forget() {
    KEPT.take();
}

/// The only span and all events since.
pub(crate) fn take() -> (Fields, Vec<Fields>) {
    let mut kept = KEPT.take();
    assert_eq!(kept.spans.len(), 1, "{:?}", kept.spans);
    (kept.spans.remove(0), kept.events)
}

pub(crate) fn text<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).map_or("", String::as_str)
}

#[actix_web::test]
async fn a_request_becomes_a_span_of_the_clients_trace() {
    let api = Api::new().await;
    forget();
    let request = Api::request("GET", &api.key_of_one(), Some(&api.one.key))
        .insert_header(("traceparent", format!("00-{TRACE}-{SPAN}-01")))
        .insert_header(("tracestate", "vendor=1"));
    let answer = api.send(request).await.expect(200);
    let (span, events) = take();
    let own = text(&span, "span_id");
    assert_eq!(
        answer.header("traceresponse"),
        format!("00-{TRACE}-{own}-01")
    );
    let expected = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "/v1/api-keys/{key_id}"),
        ("otel.kind", "server"),
        ("otel.name", "GET /v1/api-keys/{key_id}"),
        ("parent_sampled", "true"),
        ("parent_span_id", SPAN),
        ("request_id", answer.header("x-request-id")),
        ("span_id", own),
        ("trace_id", TRACE),
        ("tracestate", "vendor=1"),
    ];
    let shown: Vec<_> = span
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(shown, expected);
    let line = events.last().unwrap();
    assert_eq!(
        (text(line, "trace_id"), text(line, "span_id")),
        (TRACE, own)
    );
}

#[actix_web::test]
async fn a_request_without_a_trace_begins_one() {
    let api = Api::new().await;
    let state = api.state();
    forget();
    let mut traces = Vec::new();
    for bad in [
        None,
        Some("00-0-0-00"),
        Some("é"),
        Some(""),
        Some(&*api.one.key),
    ] {
        let mut request = Api::request("GET", "/livez", None);
        if let Some(bad) = bad {
            request = request
                .insert_header(("traceparent", bad))
                .insert_header(("tracestate", "vendor=1"));
        }
        let answer = Api::send_to(&state, request).await.expect(200);
        let (span, events) = take();
        let (trace, own) = (text(&span, "trace_id"), text(&span, "span_id"));
        assert_eq!(
            answer.header("traceresponse"),
            format!("00-{trace}-{own}-00")
        );
        for name in ["parent_span_id", "parent_sampled", "tracestate"] {
            assert!(!span.contains_key(name), "{name}: {span:?}");
        }
        assert_eq!(text(&events[0], "trace_id"), trace);
        traces.push(trace.to_owned());
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 5, "each has its own");
}

#[actix_web::test]
async fn a_failure_is_found_by_its_trace() {
    let mut api = Api::new().await;
    let mut stores = stores();
    let mut lookup = MockKeyLookup::new();
    lookup
        .expect_find()
        .returning(|_| Err(StoreError::unavailable("connection refused")));
    stores.lookup = Arc::new(lookup);
    api.service = service(stores, Arc::new(ManualClock::new(start())));
    forget();
    let request = Api::request("GET", "/v1/accounts", Some(&api.one.key))
        .insert_header(("traceparent", format!("00-{TRACE}-{SPAN}-00")));
    api.send(request).await.expect(503);
    let (span, events) = take();
    assert_eq!(text(&span, "otel.status_code"), "ERROR");
    assert_eq!(text(&span, "parent_sampled"), "false");
    assert_eq!(events.len(), 2, "the failure and the line: {events:?}");
    assert!(text(&events[0], "error").ends_with("connection refused"));
    for event in events {
        assert_eq!(text(&event, "trace_id"), TRACE);
        assert_eq!(text(&event, "span_id"), text(&span, "span_id"));
    }
}

#[actix_web::test]
async fn no_key_gets_into_a_span_or_a_line() {
    let api = Api::new().await;
    forget();
    let key = &*api.one.key;
    let path = format!("/v1/api-keys/{key}?key={key}");
    for method in ["GET", key] {
        let mut request = Api::request(method, &path, Some(key))
            .insert_header(("traceparent", format!("00-{TRACE}-{SPAN}-01")))
            .insert_header(("tracestate", format!("vendor={key}")));
        for name in ["x-request-id", "user-agent", "referer"] {
            request = request.insert_header((name, key));
        }
        api.send(request).await;
        let (span, events) = take();
        let all = format!("{span:?} {events:?}");
        assert!(all.contains(TRACE) && !all.contains(key), "{all}");
    }
}
