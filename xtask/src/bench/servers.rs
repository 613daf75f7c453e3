//! The processes that are measured, and what the kernel says of them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pinning::Pinning;
use crate::http::{Connection, Said};
use crate::load::Client;
use crate::node::{self, Profile};
use crate::process::{self, Background};
use crate::sh::{self, Failure, Outcome};
use crate::{env, postgres};

const READY_TIMEOUT: Duration = Duration::from_mins(1);

/// The builds to measure, and to measure with.
pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    pub(crate) floor: PathBuf,
    pub(crate) in_process: PathBuf,
    pub(crate) load: PathBuf,
    pub(crate) uncached: PathBuf,
}

impl Programs {
    /// The server is built by itself, so that it is what ships: together with others, crates would get their features too.
    pub(crate) fn build(profile: Profile) -> Outcome<Self> {
        let server = node::build(profile)?;
        let build = |words: &[&str]| {
            let mut cargo = sh::cargo(["build", "--locked"]);
            if profile == Profile::Release {
                cargo.arg("--release");
            }
            sh::run(cargo.args(words))
        };
        build(&["-p", "leadr-auth-load"])?;
        build(&[
            "-p",
            "leadr-auth-http",
            "--example",
            "floor",
            "--example",
            "in_process",
        ])?;
        build(&["-p", "leadr-auth-postgres", "--example", "uncached"])?;
        let folder = server.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Self {
            floor: folder.join("examples/floor"),
            in_process: folder.join("examples/in_process"),
            load: folder.join("leadr-auth-load"),
            uncached: folder.join("examples/uncached"),
            server,
        })
    }
}

/// A running server.
pub(crate) struct Server {
    process: Background,
    pub(crate) port: u16,
    metrics: u16,
}

/// A program with nothing of the caller's environment, which may hold settings of its own.
pub(crate) fn bare(program: &Path, prefix: &[String]) -> Command {
    let mut command = process::tethered("KILL", prefix, program);
    command.env_clear().env("PATH", env::path());
    command
}

impl Server {
    /// Starts a program on the core for servers, with one worker, and waits until it answers the path with anything.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        settings: &[(&str, String)],
        pinning: &Pinning,
        folder: &Path,
    ) -> Outcome<Self> {
        let (port, metrics) = (postgres::free_port()?, postgres::free_port()?);
        let mut command = bare(program, &pinning.server());
        command
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env("METRICS_LISTEN", format!("127.0.0.1:{metrics}"))
            .env("WORKERS", "1")
            .env("RUST_LOG", "warn")
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .current_dir(folder);
        if name == "leadr-auth" {
            command.arg("serve");
        }
        let log = folder.join(format!("{name}-{port}.log"));
        let process = Background::start(name, &mut command, &log)?;
        let mut server = Self {
            process,
            port,
            metrics,
        };
        server.wait_for("/readyz").map_err(|failure| {
            Failure::new(format!(
                "{}; its log ends with{}",
                failure.message,
                process::tail(&log)
            ))
        })?;
        Ok(server)
    }

    /// Ready is 200, or 404 of what knows of no readiness.
    fn wait_for(&mut self, path: &str) -> Outcome {
        let start = Instant::now();
        while start.elapsed() < READY_TIMEOUT {
            self.process.still_runs()?;
            let client = Client {
                port: self.port,
                key: None,
            };
            if matches!(client.status(path), Some(200 | 404)) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(Failure::new(format!(
            "GET {path} did not answer within {} s",
            READY_TIMEOUT.as_secs()
        )))
    }

    /// For how long all of its threads have had a core, in microseconds.
    pub(crate) fn cpu_us(&self) -> Outcome<f64> {
        let folder = format!("/proc/{}/task", self.process.id());
        let mut nanos = 0.0;
        for task in fs::read_dir(&folder)
            .map_err(Failure::when(&folder))?
            .flatten()
        {
            // A thread that has just ended is not there any more.
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let own = text
                .split(' ')
                .next()
                .and_then(|first| first.parse::<f64>().ok());
            nanos += own.unwrap_or_default();
        }
        Ok(nanos / 1e3)
    }

    /// How much of it is in memory, in bytes.
    pub(crate) fn resident(&self) -> Outcome<f64> {
        let path = format!("/proc/{}/status", self.process.id());
        let text = fs::read_to_string(&path).map_err(Failure::when(&path))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<f64>().ok())
            .map(|kibibytes| kibibytes * 1024.0)
            .ok_or_else(|| Failure::new(format!("{path} has no VmRSS")))
    }

    /// The value of a metric, by its name and labels as they are shown.
    pub(crate) fn metric(&self, name: &str) -> Outcome<f64> {
        let answer = Connection::to(self.metrics).send("GET", "/metrics", Said::default());
        let text = answer.map_err(Failure::when("GET /metrics"))?.body;
        value_of(&text, name).ok_or_else(|| Failure::new(format!("/metrics has no {name}")))
    }

    /// Waits until what is cached may be relied on.
    pub(crate) fn wait_for_lease(&self) -> Outcome {
        let start = Instant::now();
        while start.elapsed() < READY_TIMEOUT {
            if self.metric("leadr_auth_verification_cache_lease_seconds")? > 0.0 {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err(Failure::new("the cache never got a lease"))
    }

    /// What the server answers to a request, as the floor is told it.
    pub(crate) fn record(&self, path: &str, request: &str) -> Outcome<Value> {
        let told = || -> std::io::Result<Value> {
            let mut stream = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?);
            stream.get_mut().write_all(request.as_bytes())?;
            let (mut status, mut headers, mut length) = (0_u16, Vec::new(), 0_u64);
            loop {
                let mut line = String::new();
                stream.read_line(&mut line)?;
                let line = line.trim_end();
                if line.is_empty() {
                    break;
                }
                match line.split_once(": ") {
                    None => {
                        status = line
                            .get(9..12)
                            .and_then(|code| code.parse().ok())
                            .unwrap_or(0);
                    }
                    Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                        length = value.parse().unwrap_or(0);
                    }
                    // The floor says the time by itself.
                    Some((name, _)) if name.eq_ignore_ascii_case("date") => {}
                    Some(header) => headers.push(json!([header.0, header.1])),
                }
            }
            let mut body = String::new();
            stream.take(length).read_to_string(&mut body)?;
            Ok(json!({"path": path, "status": status, "headers": headers, "body": body}))
        };
        told().map_err(Failure::when(path))
    }
}

fn value_of(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read() {
        let text = "# TYPE a counter\na_total{outcome=\"hit\"} 12\na 3.5\n";
        assert_eq!(value_of(text, "a_total{outcome=\"hit\"}"), Some(12.0));
        assert_eq!(value_of(text, "a "), Some(3.5));
        assert_eq!(value_of(text, "b"), None);
    }
}
