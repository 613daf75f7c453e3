//! Spans of requests, as a collector gets them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::Response;

use crate::support::Running;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// What came to the collector at once.
struct Delivery {
    /// The request's line and headers, as they came.
    head: String,
    request: ExportTraceServiceRequest,
}

impl Delivery {
    fn spans(self) -> impl Iterator<Item = Span> {
        let resources = self.request.resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans)
    }
}

/// A collector that takes everything, and its address.
fn collector() -> (String, Receiver<Delivery>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, deliveries) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            while let Some(delivery) = read(&mut stream) {
                let _ = sender.send(delivery);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                stream.get_mut().write_all(answer).unwrap();
            }
        }
    });
    (endpoint, deliveries)
}

/// The next request of a connection.
fn read(stream: &mut BufReader<std::net::TcpStream>) -> Option<Delivery> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let request = ExportTraceServiceRequest::decode(&*body).unwrap();
    Some(Delivery { head, request })
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    let mut found = attributes.iter().filter(|attribute| attribute.key == name);
    let value = found.next().and_then(|found| found.value.clone());
    assert!(found.next().is_none(), "{name} is there twice");
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(n)) => n.to_string(),
        other => panic!("{name}: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = |text: String, byte| text + &format!("{byte:02x}");
    bytes.iter().fold(String::new(), digits)
}

/// A process that exports to `endpoint`, its address and an operator's key.
fn start(endpoint: &str, more: &[(&str, &str)]) -> (Running, String, String) {
    let mut environment = vec![
        ("LISTEN", "127.0.0.1:0"),
        ("DATABASE_URL", "memory:"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
    ];
    environment.extend(more);
    let mut running = Running::start(&[], &environment);
    let base = running.base();
    let line = running.wait_for("curl ");
    let key = line.split_whitespace().last().unwrap();
    (running, base, key.trim_end_matches('\'').to_owned())
}

/// Asks for something that is not there, with a key in every place where one may be, and a parent with these flags.
async fn ask(base: &str, key: &str, parent: Option<&str>) -> Response {
    let url = format!("{base}/v1/api-keys/{key}?key={key}");
    let mut request = reqwest::Client::new()
        .get(url)
        .header("leadr-api-key", key)
        .header("x-request-id", key)
        .header("user-agent", key);
    if let Some(flags) = parent {
        request = request
            .header("traceparent", format!("00-{TRACE}-{PARENT}-{flags}"))
            .header("tracestate", "vendor=1, other=2");
    }
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_client_error());
    answer
}

fn header(answer: &Response, name: &str) -> String {
    answer.headers()[name].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_request_comes_to_the_collector_as_a_span_of_the_clients_trace() {
    let (endpoint, deliveries) = collector();
    let secret = "a-token-of-the-collector";
    let headers = format!("authorization=Bearer%20{secret}");
    let more = [
        ("OTEL_EXPORTER_OTLP_HEADERS", &*headers),
        ("OTEL_SERVICE_NAME", "keys"),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ("RUST_LOG", "trace"),
        // What is set for others is not for the collector.
        ("HTTP_PROXY", "http://127.0.0.1:1"),
    ];
    let (running, base, key) = start(&endpoint, &more);
    let answer = ask(&base, &key, Some("01")).await;
    // Without being ended: a span waits for others for a moment only.
    let delivery = deliveries.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(delivery.head.starts_with("POST /v1/traces HTTP/1.1\r\n"));
    assert!(
        delivery
            .head
            .contains(&format!("authorization: Bearer {secret}\r\n")),
        "{}",
        delivery.head
    );
    let shown = format!("{:?}", delivery.request);
    assert!(
        !shown.contains(key.split_at(14).1),
        "a key is in a span: {shown}"
    );
    let resource = delivery.request.resource_spans[0].resource.clone().unwrap();
    assert_eq!(text(&resource.attributes, "service.name"), "keys");
    let spans: Vec<_> = delivery.spans().collect();
    let [span] = &*spans else { panic!("{spans:?}") };
    assert_eq!(
        format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id)),
        header(&answer, "traceresponse")
    );
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.parent_span_id), PARENT);
    assert_eq!(span.trace_state, "vendor=1,other=2");
    assert_eq!(span.kind, 2, "a server's");
    assert_eq!(span.name, "GET /v1/api-keys/{key_id}");
    let status = answer.status().as_u16().to_string();
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/v1/api-keys/{key_id}"),
        ("http.response.status_code", &*status),
        ("request_id", &*header(&answer, "x-request-id")),
    ] {
        assert_eq!(text(&span.attributes, name), value);
    }
    assert_eq!(span.attributes.len(), 4);
    let code = span.status.as_ref().map_or(0, |status| status.code);
    assert_eq!(code, 0, "what a client did wrong is no failure of this one");
    let took = span.end_time_unix_nano - span.start_time_unix_nano;
    assert!((1..10_000_000_000).contains(&took), "{took} ns");
    // The year 2024: the times are those of the clock.
    assert!(span.start_time_unix_nano > 1_704_067_200_000_000_000);
    let (status, log) = running.end("-TERM");
    assert_eq!(status.code(), Some(0));
    assert!(log.contains(TRACE), "the log is what it is without: {log}");
    assert!(!log.contains(secret), "the token is in the log");
}

/// Whether a span is exported is up to the caller; where there is none, to the ratio.
#[tokio::test]
async fn only_what_is_sampled_is_exported() {
    for (ratio, wanted) in [("1.0", 2), ("0.0", 1)] {
        let (endpoint, deliveries) = collector();
        let (running, base, key) = start(&endpoint, &[("OTEL_TRACES_SAMPLER_ARG", ratio)]);
        ask(&base, &key, Some("00")).await;
        let began = header(&ask(&base, &key, None).await, "traceresponse");
        ask(&base, &key, Some("01")).await;
        // The end sends what is there.
        let (status, _) = running.end("-TERM");
        assert_eq!(status.code(), Some(0));
        let spans: Vec<_> = deliveries.try_iter().flat_map(Delivery::spans).collect();
        assert_eq!(spans.len(), wanted, "{ratio}: {spans:?}");
        for span in spans {
            let parent = hex(&span.parent_span_id);
            if hex(&span.trace_id) == TRACE {
                assert_eq!(parent, PARENT);
            } else {
                let ids = format!("00-{}-{}-00", hex(&span.trace_id), hex(&span.span_id));
                assert_eq!((ids, &*parent), (began.clone(), ""));
            }
        }
    }
}

/// Refuses, or takes the connection and never answers.
#[tokio::test]
async fn a_collector_that_is_away_harms_nothing() {
    let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = address(&TcpListener::bind("127.0.0.1:0").unwrap());
    for endpoint in [gone, address(&silent)] {
        let (running, base, key) = start(&endpoint, &[]);
        for _ in 0..20 {
            let asked = Instant::now();
            ask(&base, &key, Some("01")).await;
            assert!(asked.elapsed() < Duration::from_secs(2), "{endpoint}");
        }
        let asked = Instant::now();
        let (status, log) = running.end("-TERM");
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(asked.elapsed() < Duration::from_secs(10), "{endpoint}");
        let told = log.matches("spans were not exported").count();
        assert_eq!(told, 1, "{endpoint}: {log}");
    }
}
