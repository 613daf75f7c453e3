//! The log: where it goes, and what never gets into it.

use std::io::{self, Write};

use leadr_auth_domain::redact_keys;
use leadr_auth_http::REQUEST_SPAN;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt as _, FilterFn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, registry};

use crate::config::{LogConfig, LogFormat};

/// What listens to the spans of requests, beside the log.
pub type SpanLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Sends the log to standard error, and lets `spans` listen. The second call in a process changes nothing.
pub fn init(config: &LogConfig, spans: Option<SpanLayer>) {
    // An error says that there is a log already, as in tests that start several applications.
    let _ = match spans {
        // Not a layer that is none: such a one wants every span that there is, and each request would pay for its own.
        None => registry().with(lines(config)).try_init(),
        Some(spans) => registry().with(spans).with(lines(config)).try_init(),
    };
}

/// The log.
fn lines<S>(config: &LogConfig) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = with_defaults(&config.filter);
    let logged = EnvFilter::new(filter).and(FilterFn::new(is_for_the_log));
    let lines = fmt::layer().with_writer(RedactedStderr);
    match config.format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_filter(logged)
            .boxed(),
        LogFormat::Text => lines.with_filter(logged).boxed(),
    }
}

/// What is filtered, unless `filter` names the HTTP library itself. It writes an error for every request that is none, such as
/// some bytes that a scanner of ports has sent. That is the client's fault; whoever watches the log for errors would be called
/// by anybody who can reach the port.
fn with_defaults(filter: &str) -> String {
    const READS_REQUESTS: [&str; 2] = ["actix_http::h1::dispatcher", "actix_http::h1::decoder"];
    // An empty one lets errors through; with what is added below it would be none.
    let said = if filter.trim().is_empty() {
        "error"
    } else {
        filter
    };
    let mut filter = said.to_owned();
    if !filter.contains("actix_http") {
        for target in READS_REQUESTS {
            filter.extend([",", target, "=off"]);
        }
    }
    filter
}

/// The span of a request is for tracing systems: its line has the same, once.
fn is_for_the_log(metadata: &Metadata<'_>) -> bool {
    metadata.target() != REQUEST_SPAN
}

/// Standard error behind a last net: whatever reached the log, by whatever way, a key in it is cut down to its prefix.
#[derive(Clone, Copy, Debug)]
struct RedactedStderr;

impl MakeWriter<'_> for RedactedStderr {
    type Writer = Redacted<io::Stderr>;

    fn make_writer(&self) -> Self::Writer {
        Redacted(io::stderr())
    }
}

/// Writes what it is given with keys cut down. It is given whole lines.
struct Redacted<W>(W);

impl<W: Write> Write for Redacted<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0
            .write_all(redact_keys(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use leadr_auth_domain::generate_api_key;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What of a target's errors and debugging is logged by this filter?
    fn logged(filter: &str) -> (bool, bool, bool) {
        let filter = EnvFilter::new(with_defaults(filter));
        let subscriber = registry().with(filter);
        tracing::subscriber::with_default(subscriber, || {
            (
                tracing::enabled!(target: "actix_http::h1::dispatcher", tracing::Level::ERROR),
                tracing::enabled!(target: "actix_http::h1::service", tracing::Level::ERROR),
                tracing::enabled!(target: "leadr_auth::access", tracing::Level::DEBUG),
            )
        })
    }

    #[test]
    fn the_library_s_word_of_broken_requests_is_logged_for_whoever_asks() {
        assert_eq!(logged("info"), (false, true, false));
        assert_eq!(logged("debug"), (false, true, true));
        assert_eq!(logged(""), (false, true, false));
        assert_eq!(logged("info,actix_http=error"), (true, true, false));
        assert_eq!(
            logged("info,actix_http::h1::dispatcher=debug"),
            (true, true, false)
        );
    }

    #[test]
    fn a_key_that_somebody_logs_is_cut_down() {
        let key = generate_api_key([8; 32]);
        for json in [true, false] {
            let kept = Kept::default();
            let writer = kept.clone();
            let builder = fmt().with_writer(move || Redacted(writer.clone()));
            let log = || tracing::info!(header = key.expose(), "careless: {}", key.expose());
            if json {
                tracing::subscriber::with_default(builder.json().finish(), log);
            } else {
                tracing::subscriber::with_default(builder.finish(), log);
            }
            let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            assert!(text.contains(key.prefix().as_str()), "{text}");
            assert!(!text.contains(key.expose()), "{text}");
        }
    }
}
