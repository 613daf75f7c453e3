//! The load: requests with places for keys in them, and what the generator says of the answers.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::pinning::Pinning;
use crate::http::KEY_HEADER;
use crate::process;
use crate::sh::{self, Failure, Outcome};

/// A kind of request: `{key}`, `{id}`, `{fresh}` and `{word}` in it stand for another each time.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) weight: u32,
    pub(crate) template: String,
    /// The file with the keys.
    pub(crate) keys: Option<PathBuf>,
    /// How many of them, if not all.
    pub(crate) take: Option<u32>,
    /// The status that every answer has to have.
    pub(crate) expect: u16,
}

/// How much is sent, and how.
#[derive(Clone, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) port: u16,
    pub(crate) connections: u32,
    pub(crate) kinds: &'a [Kind],
    pub(crate) amount: Amount<'a>,
    /// Requests per second, whatever is answered; otherwise each connection sends when it was answered.
    pub(crate) rate: Option<f64>,
    /// Each connection sends one kind.
    pub(crate) by_connection: bool,
    /// The generator never sleeps, where it has cores that the server has not.
    pub(crate) awake: bool,
    pub(crate) seed: u64,
}

/// When to stop.
#[derive(Clone, Debug)]
pub(crate) enum Amount<'a> {
    Seconds(f64),
    /// So many, the keys one after the other, with what was issued going to a file.
    Each(u32, Option<&'a Path>),
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// For how much of the time the generator was busy.
    pub(crate) busy: f64,
    /// How many requests of each kind there were.
    pub(crate) kinds: BTreeMap<String, f64>,
}

/// A request as it goes over the wire, with its length as it will be when its places are filled.
pub(crate) fn request(method: &str, path: &str, key: &str, body: Option<&str>) -> String {
    let body = body.map_or_else(
        || "\r\n".to_owned(),
        |body| {
            let length = [("{key}", 47), ("{fresh}", 47), ("{id}", 36), ("{word}", 8)]
                .iter()
                .fold(body.to_owned(), |text, (place, length)| {
                    text.replace(place, &"x".repeat(*length))
                })
                .len();
            format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        },
    );
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{KEY_HEADER}: {key}\r\n{body}")
}

/// Writes a file that only this user can read: what is in it must not stand on a command line.
pub(crate) fn write_secret(path: &Path, text: &str) -> Outcome {
    let _ = std::fs::remove_file(path);
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(Failure::when(path.display()))
}

/// The generator, and the folder for its plans.
pub(crate) struct Loader {
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) prefix: Vec<String>,
}

impl Loader {
    pub(crate) fn new(program: &Path, folder: &Path, pinning: &Pinning) -> Self {
        Self {
            program: program.to_owned(),
            folder: folder.to_owned(),
            prefix: pinning.others(),
        }
    }

    /// Makes records to import, and the plain keys.
    pub(crate) fn records(&self, plan: &Value) -> Outcome {
        self.call("records", plan).map(drop)
    }

    fn call(&self, command: &str, plan: &Value) -> Outcome<Value> {
        let path = self.folder.join("plan.json");
        write_secret(&path, &plan.to_string())?;
        let mut process = process::tethered("KILL", &self.prefix, &self.program);
        let text = sh::output(process.arg(command).arg(&path))?;
        serde_json::from_str(&text).map_err(Failure::when("the load generator"))
    }

    pub(crate) fn run(&self, load: &Load<'_>) -> Outcome<Measured> {
        let kinds: Vec<_> = load.kinds.iter().map(kind_of_plan).collect();
        let mut plan = json!({
            "port": load.port, "connections": load.connections, "kinds": kinds, "rate": load.rate,
            "by_connection": load.by_connection, "seed": load.seed, "awake": load.awake && !self.prefix.is_empty(),
        });
        let (name, value) = match load.amount {
            Amount::Seconds(seconds) => ("seconds", json!(seconds)),
            Amount::Each(count, collect) => {
                set(&mut plan, "collect", json!(collect));
                for kind in plan
                    .get_mut("kinds")
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    set(kind, "sequential", json!(true));
                }
                ("count", json!(count))
            }
        };
        set(&mut plan, name, value);
        let told = self.call("run", &plan)?;
        for kind in load.kinds {
            expect(kind, &told)?;
        }
        Measured::read(&told).ok_or_else(|| Failure::new(format!("the load generator said {told}")))
    }
}

fn set(plan: &mut Value, name: &str, value: Value) {
    if let Some(plan) = plan.as_object_mut() {
        plan.insert(name.to_owned(), value);
    }
}

fn kind_of_plan(kind: &Kind) -> Value {
    json!({
        "name": kind.name, "weight": kind.weight, "template": kind.template, "keys": kind.keys, "take": kind.take,
    })
}

/// A server that fails is not measured.
fn expect(kind: &Kind, told: &Value) -> Outcome {
    let statuses = told.pointer(&format!("/kinds/{}/statuses", kind.name));
    let statuses = statuses.and_then(Value::as_object).into_iter().flatten();
    let expected = kind.expect.to_string();
    match statuses
        .map(|(status, _)| status)
        .find(|status| **status != expected)
    {
        None => Ok(()),
        Some(status) => Err(Failure::new(format!(
            "{}: answers had the status {status}, not {expected}",
            kind.name
        ))),
    }
}

impl Measured {
    fn read(told: &Value) -> Option<Self> {
        let figure = |path: &str| told.pointer(path).and_then(Value::as_f64);
        let mut kinds = BTreeMap::new();
        for (name, kind) in told.get("kinds")?.as_object()? {
            let counts = kind.get("statuses")?.as_object()?.values();
            kinds.insert(name.clone(), counts.filter_map(Value::as_f64).sum());
        }
        Some(Self {
            requests: figure("/requests")?,
            per_second: figure("/per_second")?,
            p50_us: figure("/times/p50_us")?,
            p99_us: figure("/times/p99_us")?,
            p999_us: figure("/times/p999_us")?,
            max_us: figure("/times/max_us")?,
            busy: figure("/busy")?,
            kinds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_say_how_long_they_will_be() {
        let text = request("POST", "/x", "k", Some(r#"{"key":"{key}"}"#));
        assert!(text.contains("content-length: 57\r\n"), "{text}");
        let text = request("GET", "/x", "{key}", None);
        assert!(text.ends_with("leadr-api-key: {key}\r\n\r\n"), "{text}");
    }

    #[test]
    fn what_the_generator_says_is_read() {
        let told = json!({
            "requests": 10, "per_second": 5.0, "busy": 0.5,
            "times": {"p50_us": 1.0, "p99_us": 2.0, "p999_us": 3.0, "max_us": 4.0},
            "kinds": {"hot": {"statuses": {"204": 9, "503": 1}}},
        });
        let measured = Measured::read(&told).unwrap();
        assert_eq!(measured.kinds.get("hot"), Some(&10.0));
        let kind = Kind {
            name: "hot",
            weight: 1,
            template: String::new(),
            keys: None,
            take: None,
            expect: 204,
        };
        assert!(expect(&kind, &told).unwrap_err().message.contains("503"));
    }
}
