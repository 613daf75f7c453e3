//! The log: where it goes, and what never gets into it.

use std::io::{self, Write};

use leadr_auth_domain::redact_keys;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{LogConfig, LogFormat};

/// Sends the log to standard error. The second call in a process changes nothing.
pub fn init(config: &LogConfig) {
    let filter = EnvFilter::new(&config.filter);
    let builder = fmt().with_env_filter(filter).with_writer(RedactedStderr);
    // An error says that there is a log already, as in tests that start several applications.
    let _ = match config.format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init(),
        LogFormat::Text => builder.try_init(),
    };
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
