//! `cargo xtask framing`: requests that one program reads in one way and the next in another, sent through reverse proxies.
//!
//! `tests/fixtures/framing.json` has them, written byte by byte; a test of the product sends the same to the service itself.
//! Here nginx and `HAProxy` stand before the service, configured by the files of `deploy/proxies`. Each gives every request
//! that it passes on an id, and writes it down together with what was answered. The service writes the id down too. So each
//! request that the one passed on is looked for at the other: where one was seen that nobody passed on, it was hidden in
//! another.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{Connection, Said};
use crate::load::{self, Client};
use crate::node::{self, Node, Plan, Profile, Scratch};
use crate::process::{self, Background};
use crate::sh::{self, Failure, Outcome};
use crate::{apt, postgres};

const CORPUS: &str = "tests/fixtures/framing.json";
const AT_ONCE: usize = 8;
/// How long nothing has to come before nothing more is expected.
const QUIET: Duration = Duration::from_millis(400);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the service may need to notice that the proxy is gone, and to write down what came of it.
const SETTLED: Duration = Duration::from_secs(1);
/// With these the service refuses what does not become a request.
const REFUSED_BEFORE: [u16; 3] = [400, 408, 431];
/// No status: the client was gone before there was one.
const NO_ANSWER: u16 = 0;

/// `framing [--dev]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    match arguments {
        [] => run(Profile::Release),
        [word] if word == "--dev" => run(Profile::Dev),
        _ => Err(Failure::usage("framing takes nothing but --dev")),
    }
}

/// The short form, for `ci`.
pub(crate) fn short() -> Outcome {
    run(Profile::Dev)
}

fn run(profile: Profile) -> Outcome {
    for program in ["nginx", "haproxy"] {
        if sh::find(program).is_none() {
            let instead = format!("run `sudo apt-get install {program}`");
            apt::install(program, "a reverse proxy is not there", &instead)?;
        }
    }
    let program = node::build(profile)?;
    let corpus = fs::read_to_string(sh::root().join(CORPUS)).map_err(Failure::when(CORPUS))?;
    let corpus: Vec<Value> = serde_json::from_str(&corpus).map_err(Failure::when(CORPUS))?;
    for proxy in [Proxy::Nginx, Proxy::Haproxy] {
        through(proxy, &program, &corpus)?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Proxy {
    Nginx,
    Haproxy,
}

/// What a proxy said of a request.
#[derive(Debug, PartialEq, Eq)]
struct Passed {
    id: String,
    /// What the client was answered.
    status: u16,
    /// What the service answered; `None` where it was not asked.
    upstream: Option<u16>,
    method: String,
}

/// What the service wrote down of a request.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    id: String,
    status: u16,
    /// `other` where it is an unusual one.
    method: String,
}

impl Proxy {
    const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Nginx => "deploy/proxies/nginx.conf",
            Self::Haproxy => "deploy/proxies/haproxy.cfg",
        }
    }

    /// The file as it is, but for addresses, and with a log.
    fn configuration(self, text: &str, folder: &Path, port: u16, service: u16) -> String {
        let folder = folder.display();
        let text = text
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"))
            .replace("127.0.0.1:8000", &format!("127.0.0.1:{service}"));
        match self {
            Self::Nginx => {
                let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
                let temporary = kinds
                    .map(|kind| format!("{kind}_temp_path {folder}/{kind};"))
                    .join(" ");
                let log = format!(
                    "http {{\n    log_format wire '$request_id $status $upstream_status $request_method';\n    \
                     access_log {folder}/nginx.wire wire;\n    {temporary}\n"
                );
                let main = "daemon off;\nmaster_process off;\n";
                format!(
                    "{main}pid {folder}/nginx.pid;\n{}",
                    text.replacen("http {\n", &log, 1)
                )
            }
            // It would wait for a client's last bytes as well, for which it does not look any more.
            Self::Haproxy => text
                .replacen(
                    "global\n",
                    "global\n    hard-stop-after 3s\n    log stdout format raw local0 info\n",
                    1,
                )
                .replacen(
                    "defaults\n",
                    "defaults\n    log global\n    option dontlognull\n    log-format \"wire %ID %ST %s %HM\"\n",
                    1,
                ),
        }
    }

    fn start(self, folder: &Path, port: u16, service: u16) -> Outcome<Background> {
        let text = fs::read_to_string(sh::root().join(self.file()));
        let text = text.map_err(Failure::when(self.file()))?;
        let file = folder.join("proxy.conf");
        fs::write(&file, self.configuration(&text, folder, port, service))
            .map_err(Failure::when(file.display()))?;
        let mut command = match self {
            Self::Nginx => {
                let mut command = process::tethered("KILL", &[], "nginx");
                let errors = folder.join("nginx.errors");
                command.arg("-e").arg(errors).arg("-c").arg(&file);
                command
            }
            Self::Haproxy => {
                let mut command = process::tethered("KILL", &[], "haproxy");
                command.arg("-db").arg("-f").arg(&file);
                command
            }
        };
        let mut started = Background::start(self.name(), &mut command, &folder.join("proxy.log"))?;
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            started.still_runs().map_err(|failure| {
                let said = process::tail(&folder.join("proxy.log"));
                Failure::new(format!("{}:{said}", failure.message))
            })?;
            if begun.elapsed() > PATIENCE {
                return Err(Failure::new(format!("{} does not listen", self.name())));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(started)
    }

    /// Has it end when all that is underway is done and written down. With a mere SIGTERM both leave that behind.
    fn end(self, mut process: Background) -> Outcome {
        let signal = match self {
            Self::Nginx => "QUIT",
            Self::Haproxy => "USR1",
        };
        process::signal(signal, process.id())?;
        process.wait().map_err(Failure::when("ending the proxy"))?;
        Ok(())
    }

    /// What it wrote down.
    fn log(self, folder: &Path) -> Outcome<Vec<Passed>> {
        let file = match self {
            Self::Nginx => folder.join("nginx.wire"),
            Self::Haproxy => folder.join("proxy.log"),
        };
        let text = fs::read(&file).map_err(Failure::when(file.display()))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines()
            .filter_map(|line| match self {
                Self::Nginx => Some(line),
                Self::Haproxy => line.split_once("wire ").map(|(_, line)| line),
            })
            .map(|line| {
                self.passed(line)
                    .ok_or_else(|| Failure::new(format!("{}: `{line}`", self.name())))
            })
            .collect()
    }

    fn passed(self, line: &str) -> Option<Passed> {
        let mut words = line.split_whitespace();
        let id = words.next()?;
        let status = match words.next()? {
            // The client broke off, and nobody was answered.
            "-1" => NO_ANSWER,
            status => status.parse().ok()?,
        };
        let upstream = words.next()?;
        let upstream = match self {
            Self::Nginx if upstream == "-" => None,
            Self::Nginx => Some(upstream.parse().ok()?),
            // It says which server was asked, and passes on what that one answered.
            Self::Haproxy => (!upstream.starts_with('<')).then_some(status),
        };
        Some(Passed {
            id: id.to_owned(),
            status,
            upstream,
            method: words.next().unwrap_or_default().to_owned(),
        })
    }
}

fn through(proxy: Proxy, program: &Path, corpus: &[Value]) -> Outcome {
    let scratch = Scratch::new(proxy.name())?;
    let folder = scratch.path();
    let operator = load::key_of(&load::random()?);
    let settings = vec![
        ("DATABASE_URL", "memory:".to_owned()),
        ("SUPERADMIN_API_KEY", operator.clone()),
        ("TRUSTED_PROXIES", "127.0.0.1".to_owned()),
        ("BODY_TIMEOUT_MS", "500".to_owned()),
        ("LOG_FORMAT", "json".to_owned()),
    ];
    let plan = Plan::new("service", program, folder, settings)?;
    let node = plan.start()?;
    let victim = Victim::make(plan.port, &operator)?;
    let log = folder.join("service.log");
    let seen = || {
        let log = fs::read_to_string(&log).map_err(Failure::when(log.display()))?;
        Outcome::Ok(seen(&log))
    };
    // From here on nobody but the proxy asks the service, until that has ended.
    let before = seen()?.len();
    let port = postgres::free_port()?;
    let front = proxy.start(folder, port, plan.port)?;

    let next = AtomicUsize::new(0);
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let senders: Vec<_> = (0..AT_ONCE)
            .map(|_| scope.spawn(|| send_all(corpus, &next, port, &victim)))
            .collect();
        let outcomes = senders.into_iter().map(|sender| {
            let panicked = |_| Err(Failure::new("a sender panicked"));
            sender.join().unwrap_or_else(panicked)
        });
        outcomes.collect()
    });
    outcomes.into_iter().collect::<Outcome>()?;
    let after = Connection::to(port).send("GET", "/livez", Said::default());
    let after = after.map_err(Failure::when("asking once more"))?.status;
    if after != 200 {
        return Err(Failure::new(format!("afterwards the answer is {after}")));
    }
    proxy.end(front)?;
    thread::sleep(SETTLED);
    let seen = seen()?.split_off(before);
    end_node(node)?;
    let passed = proxy.log(folder)?;
    let counted = judge(&passed, &seen).map_err(Failure::when(proxy.name()))?;
    println!(
        "{:<8} {} cases: {} requests were taken by the proxy, {} passed on, {} seen by the service, {} refused by it before they \
         were requests, {} broken off by the client; nothing hidden was executed, no 5xx",
        proxy.name(),
        corpus.len(),
        passed.len(),
        counted.passed_on,
        counted.seen,
        counted.refused,
        counted.broken_off
    );
    Ok(())
}

/// A key that hidden requests would revoke.
struct Victim {
    operator: String,
    account: String,
    key: String,
}

impl Victim {
    fn make(port: u16, operator: &str) -> Outcome<Self> {
        let client = Client {
            port,
            key: Some(operator),
        };
        let account = client.post(
            "/v1/accounts",
            &json!({"name": "Victims", "slug": "victims"}),
        )?;
        let account = load::field(&account, "id")?.to_owned();
        let body = json!({"name": "Victim", "account_id": account});
        let key = client.post("/v1/api-keys", &body)?;
        Ok(Self {
            operator: operator.to_owned(),
            account,
            key: load::field(&key, "id")?.to_owned(),
        })
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{key}", &self.operator)
            .replace("{victim}", &self.key)
            .replace("{account}", &self.account)
    }
}

/// Takes one case after the other, as others do at the same time.
fn send_all(corpus: &[Value], next: &AtomicUsize, port: u16, victim: &Victim) -> Outcome {
    while let Some(case) = corpus.get(next.fetch_add(1, Ordering::Relaxed)) {
        let bytes = bytes(case, victim)
            .ok_or_else(|| Failure::new(format!("{CORPUS} has a case that is none: {case}")))?;
        let half_close = case.get("half_close").is_some();
        // What comes of it is in the logs. A proxy may well break off.
        if let Err(error) = send(&bytes, half_close, port)
            && matches!(error.kind(), ErrorKind::ConnectionRefused)
        {
            return Err(Failure::new("the proxy is gone"));
        }
    }
    Ok(())
}

fn bytes(case: &Value, victim: &Victim) -> Option<Vec<u8>> {
    let mut text = String::new();
    for piece in case.get("send")?.as_array()? {
        if let Some(once) = piece.as_str() {
            text += &victim.fill(once);
        } else {
            let times = usize::try_from(piece.get("times")?.as_u64()?).ok()?;
            text += &victim.fill(piece.get("repeat")?.as_str()?).repeat(times);
        }
    }
    // Characters up to U+00FF are bytes.
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).ok())
        .collect()
}

fn send(bytes: &[u8], half_close: bool, port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(QUIET))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // It may be refused before all of it was sent, and then there is an answer to read.
    let _ = stream.write_all(bytes);
    if half_close {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let begun = Instant::now();
    let (mut buffer, mut answered) = ([0; 16 * 1024], false);
    while begun.elapsed() < PATIENCE {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => answered = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock && !answered => {}
            Err(_) => break,
        }
    }
    Ok(())
}

fn end_node(node: Node) -> Outcome {
    let status = node.terminate(PATIENCE)?;
    if status.code() != Some(0) {
        return Err(Failure::new(format!("the service ended with {status}")));
    }
    Ok(())
}

/// What the service wrote down.
fn seen(log: &str) -> Vec<Seen> {
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        if line.get("target")?.as_str()? != "leadr_auth::access" {
            return None;
        }
        Some(Seen {
            id: line.get("request_id")?.as_str()?.to_owned(),
            status: u16::try_from(line.get("status")?.as_u64()?).ok()?,
            method: line.get("method")?.as_str()?.to_owned(),
        })
    };
    log.lines().filter_map(line).collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Counted {
    passed_on: usize,
    seen: usize,
    refused: usize,
    broken_off: usize,
}

/// Compares what was passed on with what was seen.
fn judge(passed: &[Passed], seen: &[Seen]) -> Result<Counted, String> {
    let mut at_service: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
    for seen in seen {
        if seen.status >= 500 {
            return Err(format!("the service answered with a failure: {seen:?}"));
        }
        at_service.entry(&seen.id).or_default().push(seen);
    }
    let mut counted = Counted {
        passed_on: 0,
        seen: 0,
        refused: 0,
        broken_off: 0,
    };
    for passed in passed {
        if matches!(passed.status, 500 | 502..=504) {
            return Err(format!("the proxy answered with a failure: {passed:?}"));
        }
        let seen = at_service.remove(passed.id.as_str()).unwrap_or_default();
        match (passed.upstream, seen.as_slice()) {
            (None, []) => continue,
            (Some(status), [seen])
                if seen.status == status
                    && (seen.method == passed.method || seen.method == "other") =>
            {
                counted.seen += 1;
            }
            // What the client did not wait for may have been broken off on its way.
            (Some(NO_ANSWER), [] | [_]) => counted.broken_off += 1,
            (Some(status), []) if REFUSED_BEFORE.contains(&status) => counted.refused += 1,
            (_, seen) => {
                return Err(format!(
                    "the proxy passed on {passed:?}, and the service saw {seen:?}"
                ));
            }
        }
        counted.passed_on += 1;
    }
    match at_service.first_key_value() {
        Some((_, seen)) => Err(format!("the service saw what nobody passed on: {seen:?}")),
        None => Ok(counted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(id: &str, status: u16, upstream: Option<u16>) -> Passed {
        Passed {
            id: id.to_owned(),
            status,
            upstream,
            method: "GET".to_owned(),
        }
    }

    fn seen_as(requests: &[(&str, u16, &str)]) -> Vec<Seen> {
        let seen = |(id, status, method): &(&str, u16, &str)| Seen {
            id: (*id).to_owned(),
            status: *status,
            method: (*method).to_owned(),
        };
        requests.iter().map(seen).collect()
    }

    #[test]
    fn what_one_passed_on_the_other_has_to_have_seen() {
        let well = [
            passed("a", 200, Some(200)),
            passed("b", 400, None),
            passed("c", 400, Some(400)),
        ];
        let counted = judge(&well, &seen_as(&[("a", 200, "GET")]));
        let expected = Counted {
            passed_on: 2,
            seen: 1,
            refused: 1,
            broken_off: 0,
        };
        assert_eq!(counted, Ok(expected));
        let (a, hidden) = (("a", 200, "GET"), ("0123456789abcdef-7", 200, "PATCH"));
        let failed = [passed("d", 502, Some(502))];
        for (passed, seen, word) in [
            (&well[..1], seen_as(&[]), "\"a\""),
            (&well[..1], seen_as(&[a, a]), "\"a\""),
            (&well[..1], seen_as(&[a, hidden]), "PATCH"),
            (&well[..1], seen_as(&[("a", 200, "PATCH")]), "PATCH"),
            (&well[..1], seen_as(&[("a", 204, "GET")]), "204"),
            (&well[1..2], seen_as(&[("b", 200, "GET")]), "\"b\""),
            (&well[..1], seen_as(&[("a", 500, "GET")]), "500"),
            (&failed[..], seen_as(&[]), "502"),
        ] {
            let fault = judge(passed, &seen).unwrap_err();
            assert!(fault.contains(word), "{fault}");
        }
    }

    #[test]
    fn what_proxies_say_is_read() {
        let nginx = |line| Proxy::Nginx.passed(line);
        assert_eq!(nginx("a 200 200 GET"), Some(passed("a", 200, Some(200))));
        assert_eq!(nginx("a 400 - GET"), Some(passed("a", 400, None)));
        let haproxy = |line| Proxy::Haproxy.passed(line);
        assert_eq!(
            haproxy("a 200 leadr_auth GET"),
            Some(passed("a", 200, Some(200)))
        );
        assert_eq!(haproxy("a 400 <NOSRV> GET"), Some(passed("a", 400, None)));
    }

    #[test]
    fn the_configurations_are_those_that_are_shipped() {
        for proxy in [Proxy::Nginx, Proxy::Haproxy] {
            let text = fs::read_to_string(sh::root().join(proxy.file())).unwrap();
            let changed = proxy.configuration(&text, Path::new("/f"), 1, 2);
            assert!(changed.contains("127.0.0.1:1") && changed.contains("127.0.0.1:2"));
            assert!(changed.contains("wire"), "{changed}");
            assert!(!changed.contains(":8080;") && !changed.contains(":8000;"));
        }
    }
}
