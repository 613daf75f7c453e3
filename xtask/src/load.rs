//! What the benchmark is made of: keys, a client, scripts for `wrk` and the reading of its results.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::http::{Connection, KEY_HEADER, Said};
use crate::sh::{Failure, Outcome};

/// Bytes from the operating system.
pub(crate) fn random() -> Outcome<[u8; 32]> {
    let source = "/dev/urandom";
    let mut bytes = [0; 32];
    let mut file = fs::File::open(source).map_err(Failure::when(source))?;
    file.read_exact(&mut bytes).map_err(Failure::when(source))?;
    Ok(bytes)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A well-formed key: `ldr_` and the bytes in URL-safe base64 without padding.
pub(crate) fn key_of(bytes: &[u8; 32]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut key = String::from("ldr_");
    for group in bytes.chunks(3) {
        let padded = group.iter().chain(&[0; 2]).take(3);
        let bits = padded.fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for place in 0..=group.len() {
            let letter = ALPHABET.get(bits >> (18 - 6 * place) & 63);
            key.extend(letter.map(|letter| char::from(*letter)));
        }
    }
    key
}

/// A server on 127.0.0.1, spoken to one request at a time, as one key or as nobody.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) port: u16,
    pub(crate) key: Option<&'a str>,
}

impl Client<'_> {
    /// The status of a GET, or `None` if nobody answers.
    pub(crate) fn status(&self, path: &str) -> Option<u16> {
        self.send("GET", path, None).ok().map(|(status, _)| status)
    }

    /// Posts JSON; the answer has to be 201, and is JSON too.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Outcome<Value> {
        let (status, answer) = self.send("POST", path, Some(body))?;
        if status != 201 {
            return Err(Failure::new(format!(
                "POST {path} answered {status}: {answer}"
            )));
        }
        serde_json::from_str(&answer).map_err(Failure::when(format!("the answer to POST {path}")))
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Outcome<(u16, String)> {
        let said = Said {
            key: self.key,
            body,
        };
        let answer = Connection::to(self.port)
            .send(method, path, said)
            .map_err(Failure::when(format!("{method} {path}")))?;
        Ok((answer.status, answer.body))
    }
}

/// A text field of an answer.
pub(crate) fn field<'a>(answer: &'a Value, name: &str) -> Outcome<&'a str> {
    let text = answer.get(name).and_then(Value::as_str);
    text.ok_or_else(|| Failure::new(format!("the answer has no text field `{name}`")))
}

/// The request that `wrk` repeats.
pub(crate) struct Script<'a> {
    pub(crate) method: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) body: Option<String>,
}

/// Prints exact figures in one line; `wrk`'s own report rounds them and changes their units.
const REPORT: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    "measured requests=%d duration_us=%d p50_us=%d p99_us=%d refused=%d socket_errors=%d\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"#;

impl Script<'_> {
    /// Writes it where only this user can read it: it holds the key, which must not stand on a command line.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> Outcome<PathBuf> {
        let path = folder.join(name);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(self.text().as_bytes()));
        written.map_err(Failure::when(path.display()))?;
        Ok(path)
    }

    fn text(&self) -> String {
        let mut text = format!("wrk.method = \"{}\"\n", self.method);
        if let Some(key) = self.key {
            let _ = writeln!(text, "wrk.headers[\"{KEY_HEADER}\"] = \"{key}\"");
        }
        if let Some(body) = &self.body {
            text.push_str("wrk.headers[\"content-type\"] = \"application/json\"\n");
            let _ = writeln!(text, "wrk.body = [[{body}]]");
        }
        text + REPORT
    }
}

/// What `wrk` measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measured {
    /// Answered requests per second.
    pub(crate) per_second: f64,
    /// The time within which half of the requests were answered, in microseconds.
    pub(crate) p50_us: f64,
    /// The same for 99 of 100.
    pub(crate) p99_us: f64,
    /// Answers that were an error.
    pub(crate) refused: f64,
    /// Connections refused, broken or timed out.
    pub(crate) socket_errors: f64,
}

impl Measured {
    /// Reads what [`REPORT`] prints.
    pub(crate) fn parse(output: &str) -> Option<Self> {
        let line = output
            .lines()
            .find_map(|line| line.strip_prefix("measured "))?;
        let value = |name: &str| -> Option<f64> {
            let pairs = line.split(' ').filter_map(|word| word.split_once('='));
            pairs
                .into_iter()
                .find(|(key, _)| *key == name)?
                .1
                .parse()
                .ok()
        };
        Some(Self {
            per_second: value("requests")? * 1e6 / value("duration_us")?,
            p50_us: value("p50_us")?,
            p99_us: value("p99_us")?,
            refused: value("refused")?,
            socket_errors: value("socket_errors")?,
        })
    }
}

/// The least, the middle and the greatest of some figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of none there is none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            median: *sorted.get(sorted.len() / 2)?,
            max: *sorted.last()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_well_formed() {
        assert_eq!(key_of(&[0; 32]), format!("ldr_{}", "A".repeat(43)));
        assert_eq!(key_of(&[255; 32]), format!("ldr_{}8", "_".repeat(42)));
        let counting = std::array::from_fn(|n| u8::try_from(n).unwrap());
        assert_eq!(
            key_of(&counting),
            "ldr_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
        );
        assert_eq!(hex(&[0, 15, 255]), "000fff");
        assert_ne!(random().unwrap(), random().unwrap());
    }

    #[test]
    fn results_are_read() {
        let output = "Running 2s test\nmeasured requests=5000 duration_us=2000000 p50_us=400 \
                      p99_us=1500 refused=1 socket_errors=2\n";
        let expected = Measured {
            per_second: 2500.0,
            p50_us: 400.0,
            p99_us: 1500.0,
            refused: 1.0,
            socket_errors: 2.0,
        };
        assert_eq!(Measured::parse(output), Some(expected));
        assert_eq!(Measured::parse("Requests/sec: 12"), None);
    }

    #[test]
    fn scripts_hold_what_the_request_needs() {
        let script = Script {
            method: "POST",
            key: Some("ldr_x"),
            body: Some("{}".to_owned()),
        };
        let text = script.text();
        for part in [
            "wrk.method = \"POST\"",
            "\"ldr_x\"",
            "wrk.body = [[{}]]",
            "done =",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let bare = Script {
            method: "GET",
            key: None,
            body: None,
        }
        .text();
        assert!(
            !bare.contains("headers") && !bare.contains("body"),
            "{bare}"
        );
    }

    #[test]
    fn the_spread_is_in_order() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(
            spread,
            Spread {
                min: 1.0,
                median: 2.0,
                max: 3.0
            }
        );
        assert_eq!(Spread::of([]), None);
    }
}
