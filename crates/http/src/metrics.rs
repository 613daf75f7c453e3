//! What a monitoring system reads: counted requests, and the numbers of the [`Service`], as the text that Prometheus takes.
//!
//! Labels are made of words that stand in this program or its configuration and of status codes, never of what a client sent. So no key can get
//! into them, and no client can make a new time series. `docs/metrics.md` lists every metric, and a test compares it with
//! what is shown.
//!
//! To add a metric about requests: a field of [`RequestMetrics`]. About anything else: a number in the service's
//! `Statistics`, and its line in [`Scrape`].

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::ACCEPT;
use actix_web::{HttpRequest, HttpResponse, web};
use leadr_auth_domain::Verdict;
use leadr_auth_service::{CacheStatistics, Service, StoreLoad};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, EncodeMetric as _, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::State;
use crate::error::ApiError;

/// The newer text format. Prometheus asks for it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The older one, which everything else understands that reads metrics.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// From a health check's time to that of a client that has long gone, in seconds.
const BUCKETS: [f64; 16] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Everything that is shown.
pub(crate) struct Metrics {
    registry: Registry,
    requests: RequestMetrics,
}

impl Metrics {
    pub(crate) fn new(service: Service) -> Self {
        let mut registry = Registry::with_prefix("leadr_auth");
        let requests = RequestMetrics::register(&mut registry);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of leadr-auth that is running", build);
        let malformed = requests.malformed.clone();
        registry.register_collector(Box::new(Scrape { service, malformed }));
        Self { registry, requests }
    }

    pub(crate) fn requests(&self) -> &RequestMetrics {
        &self.requests
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: &'static str,
    status: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: &'static str,
}

/// Requests that were answered.
pub(crate) struct RequestMetrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabel, Histogram>,
    /// Shown among the verifications, since that is what was wanted.
    malformed: Counter,
}

impl RequestMetrics {
    fn register(registry: &mut Registry) -> Self {
        let requests = Family::default();
        registry.register(
            "http_requests",
            "Requests that were answered",
            requests.clone(),
        );
        let durations = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> _);
        registry.register_with_unit(
            "http_request_duration",
            "From the request's head to the answer's",
            Unit::Seconds,
            durations.clone(),
        );
        Self {
            requests,
            durations,
            malformed: Counter::default(),
        }
    }

    /// Counts a presented key that is none by its looks, or several of them, about which nobody was asked.
    pub(crate) fn count_malformed_key(&self) {
        self.malformed.inc();
    }

    /// Counts an answer. `method` and `route` are words of this program's; a client's own do not live as long.
    pub(crate) fn count(
        &self,
        counted: Option<&Counted>,
        method: &'static str,
        route: &'static str,
        status: StatusCode,
        duration: Duration,
    ) {
        let labels = RequestLabels {
            method,
            route,
            status: status.as_u16(),
        };
        let request = || self.requests.get_or_create(&labels).clone();
        let durations = || self.durations.get_or_create(&RouteLabel { route }).clone();
        let seconds = duration.as_secs_f64();
        match counted {
            None => {
                request().inc();
                durations().observe(seconds);
            }
            Some(Counted {
                requests,
                durations: known,
            }) => {
                known.get_or_init(durations).observe(seconds);
                let mut requests = requests.borrow_mut();
                let known = requests.iter().find(|(of, _)| *of == labels);
                if let Some((_, counter)) = known {
                    counter.inc();
                } else {
                    let fresh = request();
                    fresh.inc();
                    requests.push((labels, fresh));
                }
            }
        }
    }
}

/// The metrics of one route, as far as a worker has needed them. To find one among all takes longer than to count, and a route has
/// a few.
#[derive(Default)]
pub(crate) struct Counted {
    requests: RefCell<Vec<(RequestLabels, Counter)>>,
    durations: OnceCell<Histogram>,
}

/// Asks the service for its numbers whenever they are to be shown.
struct Scrape {
    service: Service,
    malformed: Counter,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let statistics = self.service.statistics();
        let encoder = &mut encoder;
        let verdicts = statistics.verifications.iter();
        counters(
            encoder,
            "verifications",
            "Presented keys, by what came of them.",
            "verdict",
            verdicts
                .map(|&(verdict, count)| (word(verdict), count))
                .chain([
                    ("malformed", self.malformed.get()),
                    ("unavailable", statistics.undecided),
                ]),
        )?;

        cache(encoder, &statistics.cache)?;
        connections(encoder, &statistics.store)?;

        let usage = statistics.usage;
        let name = "usage_notes_waiting";
        gauge(
            encoder,
            name,
            "Keys whose last use is not yet written down.",
            usage.waiting,
        )?;
        let help = "How long the oldest use of a key has been waiting to be written down.";
        let lag = ConstGauge::new(usage.lag.as_secs_f64());
        let name = "usage_flush_lag";
        lag.encode(encoder.encode_descriptor(
            name,
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?)?;
        counters(
            encoder,
            "usage_flushes",
            "How often uses were to be written down, by what came of it.",
            "result",
            [("written", usage.flushes), ("failed", usage.failures)],
        )?;
        let lost = encoder.encode_descriptor(
            "usage_lost",
            "Keys whose last use could not be written down when the process ended.",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(usage.lost).encode(lost)?;

        // Without retired secrets there is nothing to say, and a name without a value is none.
        if !statistics.remaining.is_empty() {
            let mut remaining = encoder.encode_descriptor(
                "keys_under_retired_secret",
                "Keys that are still hashed under a retired secret, as of the last minute.",
                None,
                MetricType::Gauge,
            )?;
            for left in &statistics.remaining {
                let labels = [("secret_id", left.id.as_str())];
                ConstGauge::new(left.keys).encode(remaining.encode_family(&labels)?)?;
            }
        }
        let rehashed = encoder.encode_descriptor(
            "keys_rehashed",
            "Keys that were hashed anew, under the current secret.",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(statistics.rehashed).encode(rehashed)?;

        let ready = u32::from(self.service.readiness().is_ready());
        gauge(
            encoder,
            "ready",
            "1 between the end of start-up and the beginning of shutdown, else 0.",
            ready,
        )
    }
}

/// What the cache of verification does.
fn cache(encoder: &mut DescriptorEncoder<'_>, cache: &CacheStatistics) -> fmt::Result {
    counters(
        encoder,
        "verification_cache_lookups",
        "Keys that were looked up to be verified, by what the cache did for them.",
        "outcome",
        [
            ("hit", cache.hits),
            ("miss", cache.misses),
            ("bypass", cache.bypasses),
            ("stale", cache.stale),
        ],
    )?;
    let name = "verification_cache_keys";
    gauge(encoder, name, "Keys that the cache holds.", cache.keys)?;
    let help = "Memory that the cache takes, as it counts it.";
    let bytes = ConstGauge::new(cache.bytes);
    let name = "verification_cache";
    bytes.encode(encoder.encode_descriptor(
        name,
        help,
        Some(&Unit::Bytes),
        MetricType::Gauge,
    )?)?;
    let help = "For how long the cache may still answer if nothing more is heard from the store.";
    let lease = ConstGauge::new(cache.lease.as_secs_f64());
    let name = "verification_cache_lease";
    lease.encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?)
}

/// How busy the connections to the store are.
fn connections(encoder: &mut DescriptorEncoder<'_>, store: &StoreLoad) -> fmt::Result {
    let name = "store_connections_max";
    gauge(
        encoder,
        name,
        "The most connections to the store.",
        store.max,
    )?;
    let name = "store_connections_open";
    gauge(encoder, name, "Open connections to the store.", store.open)?;
    let name = "store_connections_in_use";
    gauge(
        encoder,
        name,
        "Open connections that are in use.",
        store.in_use,
    )?;
    let name = "store_connections_awaited";
    gauge(
        encoder,
        name,
        "Callers that wait for a connection.",
        store.waiting,
    )
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    counts: impl IntoIterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in counts {
        let labels = [(label, value)];
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// The word for a verdict.
fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Unknown => "unknown",
        Verdict::Deleted => "deleted",
        Verdict::Revoked => "revoked",
        Verdict::Expired => "expired",
        Verdict::AccountDeleted => "account_deleted",
        Verdict::AccountSuspended => "account_suspended",
    }
}

/// All metrics, as text of the format that was asked for.
pub(crate) async fn scrape(
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let mut text = String::new();
    text::encode(&mut text, &state.metrics.registry).map_err(ApiError::internal)?;
    let wants_open_metrics = request
        .headers()
        .get_all(ACCEPT)
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("application/openmetrics-text"));
    let mut answer = HttpResponse::Ok();
    Ok(if wants_open_metrics {
        answer.content_type(OPEN_METRICS).body(text)
    } else {
        answer
            .content_type(PROMETHEUS_TEXT)
            .body(prometheus_text(&text))
    })
}

/// The same in the older format. It names a counter with its `_total`, knows neither units nor metrics that are pieces of
/// information, which are gauges there, and has no end.
fn prometheus_text(open_metrics: &str) -> String {
    let declared = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((name.to_owned(), kind.to_owned()))
    };
    let kinds: HashMap<_, _> = open_metrics.lines().filter_map(declared).collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        let (Some(what), Some(name), Some(rest)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (ending, kind) = match kinds.get(name).map(String::as_str) {
            Some("counter") => ("_total", "counter"),
            Some("info") => ("_info", "gauge"),
            Some(kind) => ("", kind),
            None => ("", "untyped"),
        };
        let rest = match what {
            "TYPE" => kind,
            "HELP" => rest,
            _ => continue,
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# {what} {name}{ending} {rest}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_has_its_own_names() {
        let open_metrics = "# HELP a_requests Requests, of all kinds.\n# TYPE a_requests counter\n\
            a_requests_total{route=\"/ b\"} 2\n\
            # HELP a_seconds Time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
            a_seconds_bucket{le=\"+Inf\"} 2\na_seconds_sum 0.5\na_seconds_count 2\n\
            # HELP a_build The build.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n# EOF\n";
        let expected = "# HELP a_requests_total Requests, of all kinds.\n# TYPE a_requests_total counter\n\
            a_requests_total{route=\"/ b\"} 2\n\
            # HELP a_seconds Time.\n# TYPE a_seconds histogram\n\
            a_seconds_bucket{le=\"+Inf\"} 2\na_seconds_sum 0.5\na_seconds_count 2\n\
            # HELP a_build_info The build.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n";
        assert_eq!(prometheus_text(open_metrics), expected);
    }
}
