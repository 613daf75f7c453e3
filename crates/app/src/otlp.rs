//! Sends the span of every request to an OpenTelemetry collector, by OTLP over HTTP.
//!
//! The request has its ids already, in the log and in `traceresponse`; so a layer of our own makes the exported span of the
//! fields of [`REQUEST_SPAN`], and nothing here draws an id. A request never waits for the export: its span goes into a
//! queue with an end, and what does not fit is counted and thrown away. A thread of its own sends what is in the queue.
//!
//! What the exporter itself reads of the environment is the headers: [`Config`](crate::Config) has checked them and keeps none.

use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, anyhow};
use leadr_auth_domain::redact_keys;
use leadr_auth_http::REQUEST_SPAN;
use leadr_auth_ports::Clock as _;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingDecision, ShouldSample as _, SpanData,
    SpanEvents, SpanExporter, SpanLinks, SpanProcessor as _,
};
use reqwest::blocking::Client;
use reqwest::redirect;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::config::OtlpConfig;
use crate::system::SystemClock;
use crate::telemetry::SpanLayer;

/// How many spans may wait for the collector: some megabytes.
const QUEUE: usize = 8192;

/// How many spans are sent at once, at most.
const BATCH: usize = 512;

/// How long a span waits for others to be sent with.
const DELAY: Duration = Duration::from_secs(2);

/// How long the collector may take to answer, with all that is tried again.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the process's end waits for the last spans to be sent.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// How often it is said that spans were lost, at most.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// The export, from its start to its end.
#[derive(Debug)]
pub struct Export {
    shared: Arc<Shared>,
    ratio: f64,
}

/// What the layer and the end of the process both use.
#[derive(Debug)]
struct Shared {
    processor: BatchSpanProcessor,
    queue: Arc<Queue>,
}

/// How many spans are on their way, and how many were lost. The processor's own count of these is for its own log.
#[derive(Debug, Default)]
struct Queue {
    waiting: AtomicUsize,
    lost: AtomicUsize,
}

impl Export {
    /// Starts the thread that sends. The collector need not be there.
    pub fn start(config: &OtlpConfig) -> anyhow::Result<Self> {
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client()?)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(config.endpoint.as_str())
            .with_timeout(SEND_TIMEOUT)
            .build()
            .context("cannot export spans")?;
        let resource = Resource::builder_empty()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        exporter.set_resource(&resource);
        Ok(Self::through(exporter, config.ratio))
    }

    fn through(exporter: impl SpanExporter + 'static, ratio: f64) -> Self {
        let queue = Arc::new(Queue::default());
        let exporter = Counted {
            exporter,
            queue: queue.clone(),
            told: Mutex::new(None),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        Self {
            shared: Arc::new(Shared {
                processor: BatchSpanProcessor::new(exporter, batches),
                queue,
            }),
            ratio,
        }
    }

    /// What listens to requests.
    pub fn layer(&self) -> SpanLayer {
        let is_request = |metadata: &Metadata<'_>| metadata.target() == REQUEST_SPAN;
        let spans = Spans {
            shared: self.shared.clone(),
            sampler: Sampler::TraceIdRatioBased(self.ratio),
            scope: InstrumentationScope::builder("leadr-auth")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        };
        // The hint is for everything else: without it, each line that nobody wants would be asked about.
        let filter = FilterFn::new(is_request).with_max_level_hint(LevelFilter::INFO);
        Box::new(spans.with_filter(filter))
    }

    /// Sends what is still there, in bounded time; blocks as long. To be called when no request is underway.
    pub fn end(self) {
        let Shared { processor, queue } = &*self.shared;
        // What came of it is told by the numbers.
        let _ = processor.shutdown_with_timeout(END_TIMEOUT);
        let lost = queue.lost.swap(0, Ordering::Relaxed) + queue.waiting.load(Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "spans were not exported");
        }
    }
}

/// It sends to the collector that is configured and to nobody else: neither through a proxy that is in the environment for
/// other reasons, nor where an answer points to, since the headers may be secrets.
fn client() -> anyhow::Result<Client> {
    let build = || {
        Client::builder()
            .timeout(SEND_TIMEOUT)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .build()
    };
    // A blocking client must not be made by a thread that drives futures.
    let client = thread::spawn(build).join();
    client
        .map_err(|_| anyhow!("making the client panicked"))?
        .context("cannot make the client that exports spans")
}

impl Shared {
    /// Never waits.
    fn give(&self, span: SpanData) {
        let Queue { waiting, lost } = &*self.queue;
        if waiting.fetch_add(1, Ordering::Relaxed) < QUEUE {
            self.processor.on_end(span);
        } else {
            waiting.fetch_sub(1, Ordering::Relaxed);
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An exporter that counts, and says now and then what was lost. Only the thread that sends comes here, so no request
/// waits for the log either.
struct Counted<E> {
    exporter: E,
    queue: Arc<Queue>,
    told: Mutex<Option<Instant>>,
}

impl<E: Debug> Debug for Counted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The exporter inside has the headers.
        f.debug_struct("Counted").finish_non_exhaustive()
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let n = batch.len();
        let result = self.exporter.export(batch).await;
        self.queue.waiting.fetch_sub(n, Ordering::Relaxed);
        if result.is_err() {
            self.queue.lost.fetch_add(n, Ordering::Relaxed);
        }
        self.tell(result.as_ref().err());
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }
}

impl<E> Counted<E> {
    fn tell(&self, error: Option<&OTelSdkError>) {
        let Ok(mut told) = self.told.lock() else {
            return;
        };
        if told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        let lost = self.queue.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            *told = Some(Instant::now());
            let error = error.map(tracing::field::display);
            tracing::warn!(lost, error, "spans were not exported");
        }
    }
}

/// Makes exported spans of requests.
struct Spans {
    shared: Arc<Shared>,
    sampler: Sampler,
    scope: InstrumentationScope,
}

/// A request that is underway and whose span is wanted.
struct Begun {
    /// By the clock.
    at: SystemTime,
    /// For the duration, which no setting of the clock changes.
    since: Instant,
    fields: Fields,
}

/// What is known of a request: the fields that are named here, and no others.
struct Fields {
    trace_id: TraceId,
    span_id: SpanId,
    parent: Option<SpanId>,
    parent_sampled: Option<bool>,
    state: TraceState,
    name: Option<String>,
    failed: bool,
    attributes: Vec<KeyValue>,
}

impl Spans {
    /// Does anyone want this span? The caller has decided where there is one; else a number does that the trace's id is
    /// compared with, so that the answer is the same wherever the trace goes on.
    fn wants(&self, fields: &Fields) -> bool {
        fields.parent_sampled.unwrap_or_else(|| {
            let (name, kind) = ("", &SpanKind::Server);
            let decided = self
                .sampler
                .should_sample(None, fields.trace_id, name, kind, &[], &[]);
            decided.decision == SamplingDecision::RecordAndSample
        })
    }

    fn exported(&self, begun: Begun) -> SpanData {
        let Begun { at, since, fields } = begun;
        let (sampled, remote) = (TraceFlags::SAMPLED, false);
        SpanData {
            span_context: SpanContext::new(
                fields.trace_id,
                fields.span_id,
                sampled,
                remote,
                fields.state,
            ),
            parent_span_id: fields.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: fields.parent.is_some(),
            span_kind: SpanKind::Server,
            // It is there when the request was answered; not where its client went away before.
            name: fields.name.map_or("unanswered".into(), Into::into),
            start_time: at,
            end_time: at + since.elapsed(),
            attributes: fields.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if fields.failed {
                Status::error("")
            } else {
                Status::Unset
            },
            instrumentation_scope: self.scope.clone(),
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if !self.wants(&fields) {
            return;
        }
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Begun {
                at: SystemClock.now().as_offset_date_time().into(),
                since: Instant::now(),
                fields,
            });
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(begun) = span.extensions_mut().get_mut::<Begun>()
        {
            values.record(&mut begun.fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let begun = context
            .span(&id)
            .and_then(|span| span.extensions_mut().remove::<Begun>());
        if let Some(begun) = begun {
            self.shared.give(self.exported(begun));
        }
    }
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            trace_id: TraceId::INVALID,
            span_id: SpanId::INVALID,
            parent: None,
            parent_sampled: None,
            state: TraceState::NONE,
            name: None,
            failed: false,
            // As many as there are names below.
            attributes: Vec::with_capacity(4),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "trace_id" => self.trace_id = TraceId::from_hex(value).unwrap_or(TraceId::INVALID),
            "span_id" => self.span_id = SpanId::from_hex(value).unwrap_or(SpanId::INVALID),
            "parent_span_id" => self.parent = SpanId::from_hex(value).ok(),
            "tracestate" => self.state = value.parse().unwrap_or_default(),
            "otel.name" => self.name = Some(redact_keys(value).into_owned()),
            "otel.status_code" => self.failed = value == "ERROR",
            // What the conventions call a method that is none of the usual.
            name @ "http.request.method" if value == "other" => {
                self.attributes.push(KeyValue::new(name, "_OTHER"));
            }
            name @ ("http.request.method" | "http.route" | "request_id") => {
                let value = redact_keys(value).into_owned();
                self.attributes.push(KeyValue::new(name, value));
            }
            _ => {}
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "parent_sampled" {
            self.parent_sampled = Some(value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if let (name @ "http.response.status_code", Ok(value)) =
            (field.name(), i64::try_from(value))
        {
            self.attributes.push(KeyValue::new(name, value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Takes a batch when it is told to.
    struct Gate(Mutex<Receiver<()>>);

    impl Debug for Gate {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Gate")
        }
    }

    impl SpanExporter for Gate {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            let gate = self.0.lock().unwrap();
            gate.recv()
                .map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
        }
    }

    fn span() -> SpanData {
        SpanData {
            span_context: SpanContext::NONE,
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Server,
            name: "GET".into(),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_nobody_waits() {
        let (open, gate) = channel();
        let export = Export::through(Gate(Mutex::new(gate)), 1.0);
        let shared = export.shared.clone();
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        for _ in 0..QUEUE + 7 {
            shared.give(span());
        }
        // Those that are being sent count as well, until the collector has them.
        assert_eq!(count(&shared.queue.waiting), QUEUE);
        assert_eq!(count(&shared.queue.lost), 7);
        for _ in 0..QUEUE {
            open.send(()).unwrap();
        }
        export.end();
        assert_eq!(count(&shared.queue.waiting), 0, "all of them were sent");
        assert_eq!(count(&shared.queue.lost), 0, "and the others told");
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let (open, gate) = channel();
        let export = Export::through(Gate(Mutex::new(gate)), 1.0);
        let shared = export.shared.clone();
        shared.give(span());
        let asked = Instant::now();
        export.end();
        assert!(asked.elapsed() < END_TIMEOUT * 2);
        assert_eq!(shared.queue.waiting.load(Ordering::Relaxed), 1);
        drop(open);
    }
}
