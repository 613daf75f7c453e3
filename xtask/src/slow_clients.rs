//! `cargo xtask slow-clients`: clients that take their time, or guess keys, while others are served.
//!
//! Windows without them and windows with them take turns, so that what the machine does meanwhile is in both. In each of them
//! four clients ask with a valid key. All have to be answered well, and what one in a hundred of them waits for may be at most
//! twice what it is without disturbance, in the middle of all rounds. Whoever is too slow has to be let go in the time that is
//! promised.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::load::{self, Spread};
use crate::node::{self, Node, Plan, Profile, Scratch};
use crate::number;
use crate::sh::{Failure, Outcome};

/// Who ask with a valid key; every other one from the address that wrong keys come from.
const CLIENTS: usize = 4;
/// What such a client waits between two requests.
const PAUSE: Duration = Duration::from_millis(3);
/// Long enough for somebody who came at its beginning to be let go in it.
const DISTURBED: Duration = Duration::from_secs(9);
const UNDISTURBED: Duration = Duration::from_secs(4);
/// How long a client may take to read here. It is 30 s unless it is set.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for a head, and the time for a body.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// What somebody may have been let go later than promised, on a machine that has much else to do.
const LENIENCE: Duration = Duration::from_millis(2500);
/// So many wrong keys a second.
const GUESSES: u32 = 1000;
const GUESSED_AT: &str = "/v1/me";
const TIMEOUT: Duration = Duration::from_secs(10);

/// `slow-clients [--rounds <n>] [--dev]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    let (mut rounds, mut profile) = (5, Profile::Release);
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--rounds" => rounds = number(word, words.next())?,
            "--dev" => profile = Profile::Dev,
            _ => {
                return Err(Failure::usage(format!(
                    "slow-clients does not know `{word}`"
                )));
            }
        }
    }
    let service = Service::start(profile)?;
    println!(
        "what one in a hundred calls waits for, in ms (median, least and most of {rounds} rounds)"
    );
    let mut faults = String::new();
    for kind in KINDS {
        let ratio = service.compare(*kind, rounds)?;
        if ratio >= 2.0 {
            let _ = write!(faults, "\n  {}: {ratio:.2} times its usual", kind.name);
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(format!("others waited too long:{faults}")))
    }
}

/// The short form, for `ci`: all at once, in smaller numbers, and nothing is compared.
pub(crate) fn short() -> Outcome {
    let service = Service::start(Profile::Dev)?;
    let fewer = |kind: &Kind| Kind {
        connections: kind.connections.div_ceil(10),
        ..*kind
    };
    let kinds: Vec<Kind> = KINDS.iter().map(fewer).collect();
    let window = service.disturbed(&kinds)?;
    println!(
        "{} calls were answered well while {} clients took their time; {} of those were let go",
        window.calls.len(),
        kinds.iter().map(|kind| kind.connections).sum::<usize>(),
        window.let_go
    );
    Ok(())
}

/// One way to be a nuisance.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    connections: usize,
    does: Does,
    /// After how long it has to be let go; `None` where it may stay for the whole window.
    promised: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Asks once and then nothing.
    Nothing,
    /// Sends a byte of its first head a second.
    FirstHead,
    /// The same with the second head on a connection.
    LaterHead,
    /// The same with a body.
    Body,
    /// Asks for much and reads nothing.
    Reading,
    /// Presents wrong keys, as fast as is said.
    Guessing,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "5,000 idle connections",
        connections: 5000,
        does: Does::Nothing,
        promised: None,
    },
    Kind {
        name: "500 slow first heads",
        connections: 500,
        does: Does::FirstHead,
        promised: Some(SEND_TIMEOUT),
    },
    Kind {
        name: "500 slow later heads",
        connections: 500,
        does: Does::LaterHead,
        promised: Some(SEND_TIMEOUT),
    },
    Kind {
        name: "500 slow bodies",
        connections: 500,
        does: Does::Body,
        promised: Some(SEND_TIMEOUT),
    },
    Kind {
        name: "50 slow readers",
        connections: 50,
        does: Does::Reading,
        promised: Some(WRITE_TIMEOUT),
    },
    Kind {
        name: "1,000 wrong keys a second",
        connections: 1,
        does: Does::Guessing,
        promised: None,
    },
];

/// What happened in a window.
struct Window {
    calls: Vec<Duration>,
    let_go: usize,
    /// The server's memory at its end, in MiB.
    memory: f64,
}

impl Window {
    /// What one in a hundred calls waits for, in milliseconds.
    fn p99(&self) -> Option<f64> {
        let mut calls = self.calls.clone();
        calls.sort_unstable();
        let place = calls.len().saturating_sub(1) * 99 / 100;
        calls.get(place).map(|call| call.as_secs_f64() * 1000.0)
    }
}

struct Service {
    plan: Plan,
    node: Node,
    key: String,
    _scratch: Scratch,
}

impl Service {
    fn start(profile: Profile) -> Outcome<Self> {
        let program = node::build(profile)?;
        let scratch = Scratch::new("slow-clients")?;
        let key = load::key_of(&load::random()?);
        let settings = vec![
            ("DATABASE_URL", "memory:".to_owned()),
            ("SUPERADMIN_API_KEY", key.clone()),
            ("RUST_LOG", "warn".to_owned()),
            // Whose request it is, is said by a header here, so that they come from two addresses.
            ("TRUSTED_PROXIES", "127.0.0.1".to_owned()),
            ("WRITE_TIMEOUT_MS", WRITE_TIMEOUT.as_millis().to_string()),
        ];
        let plan = Plan::new("service", &program, scratch.path(), settings)?;
        let node = plan.start()?;
        Ok(Self {
            plan,
            node,
            key,
            _scratch: scratch,
        })
    }

    /// Lets windows with and without take turns, and answers how much longer others waited.
    fn compare(&self, kind: Kind, rounds: usize) -> Outcome<f64> {
        let (mut usual, mut disturbed, mut let_go, mut memory) = (Vec::new(), Vec::new(), 0, 0.0);
        let mut calls = 0;
        for _ in 0..rounds {
            let window = self.window(UNDISTURBED, &[])?;
            usual.extend(window.p99());
            let window = self.disturbed(&[kind])?;
            disturbed.extend(window.p99());
            let_go += window.let_go;
            calls += window.calls.len();
            memory = window.memory;
        }
        let (Some(usual), Some(disturbed)) = (Spread::of(usual), Spread::of(disturbed)) else {
            return Err(Failure::new("there was no round"));
        };
        let ratio = disturbed.median / usual.median;
        println!(
            "{:<26} {:.2} ({:.2}-{:.2}) without, {:.2} ({:.2}-{:.2}) with: {ratio:.2} times; {calls} calls, all answered well; \
             {let_go} let go; {memory:.0} MiB",
            kind.name,
            usual.median,
            usual.min,
            usual.max,
            disturbed.median,
            disturbed.min,
            disturbed.max,
        );
        Ok(ratio)
    }

    fn disturbed(&self, kinds: &[Kind]) -> Outcome<Window> {
        self.window(DISTURBED, kinds)
    }

    /// Asks with a valid key for so long, while others are a nuisance.
    fn window(&self, length: Duration, kinds: &[Kind]) -> Outcome<Window> {
        let stop = AtomicBool::new(false);
        let (stop, port, key) = (&stop, self.plan.port, self.key.as_str());
        thread::scope(|scope| {
            let nuisances: Vec<_> = kinds
                .iter()
                .map(|kind| Nuisance::begin(*kind, port, key))
                .collect::<Outcome<_>>()?;
            let nuisances: Vec<_> = nuisances
                .into_iter()
                .map(|nuisance| scope.spawn(move || nuisance.go_on(stop)))
                .collect();
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| scope.spawn(move || ask(port, key, number % 2 == 0, stop)))
                .collect();
            thread::sleep(length);
            let memory = memory(self.node.id());
            stop.store(true, Ordering::Relaxed);
            let mut window = Window {
                calls: Vec::new(),
                let_go: 0,
                memory: memory?,
            };
            let panicked = |_| Failure::new("a client panicked");
            for client in clients {
                window.calls.extend(client.join().map_err(panicked)??);
            }
            for nuisance in nuisances {
                window.let_go += nuisance.join().map_err(panicked)??;
            }
            Ok(window)
        })
    }
}

/// The memory that a process has in use, in MiB.
fn memory(process: u32) -> Outcome<f64> {
    let file = format!("/proc/{process}/status");
    let status = fs::read_to_string(&file).map_err(Failure::when(&file))?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    resident
        .map(|kib| kib / 1024.0)
        .ok_or_else(|| Failure::new(format!("{file} says nothing of memory")))
}

/// The address that wrong keys come from, and another one.
const fn address(is_guesser: bool) -> &'static str {
    if is_guesser { "192.0.2.1" } else { "192.0.2.2" }
}

/// Asks with a valid key until told to stop: how long each call took. Every answer has to be a good one.
fn ask(port: u16, key: &str, beside_guesser: bool, stop: &AtomicBool) -> Outcome<Vec<Duration>> {
    let from = address(beside_guesser);
    // Where wrong keys are counted, and where they are not.
    let path = if beside_guesser {
        GUESSED_AT
    } else {
        "/v1/forward-auth"
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nX-Forwarded-For: {from}\r\n\r\n"
    );
    let mut stream = connect(port)?;
    let mut calls = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = call(&mut stream, &request).map_err(Failure::when("a call"))?;
        calls.push(begun.elapsed());
        if !answer.starts_with("HTTP/1.1 20") {
            return Err(Failure::new(format!("a call was answered {answer}")));
        }
        thread::sleep(PAUSE);
    }
    Ok(calls)
}

fn connect(port: u16) -> Outcome<TcpStream> {
    let connect = || {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        io::Result::Ok(stream)
    };
    connect().map_err(Failure::when("connecting"))
}

/// Sends a request and reads an answer, which is so small that it comes in one piece.
fn call(stream: &mut TcpStream, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer)?;
    let text = String::from_utf8_lossy(buffer.get(..read).unwrap_or_default());
    Ok(text.into_owned())
}

/// Clients of one kind.
struct Nuisance {
    kind: Kind,
    port: u16,
    key: String,
    open: Vec<Slow>,
    let_go: usize,
}

/// One of them.
struct Slow {
    stream: TcpStream,
    since: Instant,
    /// How much of its next request it has sent.
    sent: usize,
}

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

impl Nuisance {
    fn begin(kind: Kind, port: u16, key: &str) -> Outcome<Self> {
        let mut nuisance = Self {
            kind,
            port,
            key: key.to_owned(),
            open: Vec::new(),
            let_go: 0,
        };
        for _ in 0..kind.connections {
            let slow = nuisance.open()?;
            nuisance.open.push(slow);
        }
        Ok(nuisance)
    }

    fn open(&self) -> Outcome<Slow> {
        let mut stream = connect(self.port)?;
        let begin = || {
            if matches!(self.kind.does, Does::Nothing | Does::LaterHead) {
                call(&mut stream, LIVEZ)?;
            }
            let beginning = match self.kind.does {
                Does::FirstHead | Does::LaterHead => "GET /livez HTTP/1.1\r\nX: ".to_owned(),
                Does::Body => format!(
                    "POST /v1/verify HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Type: application/json\r\n\
                     Content-Length: 1000\r\n\r\n",
                    self.key
                ),
                Does::Nothing | Does::Reading | Does::Guessing => String::new(),
            };
            stream.write_all(beginning.as_bytes())?;
            stream.set_nonblocking(self.kind.does != Does::Guessing)?;
            io::Result::Ok(())
        };
        let mut begin = begin;
        begin().map_err(Failure::when(self.kind.name))?;
        Ok(Slow {
            stream,
            since: Instant::now(),
            sent: 0,
        })
    }

    /// Goes on until told to stop: how many were let go. Those that were are followed by others.
    fn go_on(mut self, stop: &AtomicBool) -> Outcome<usize> {
        if self.kind.does == Does::Guessing {
            return self.guess(stop);
        }
        let mut ticks = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
            ticks += 1;
            for place in 0..self.open.len() {
                let Some(slow) = self.open.get_mut(place) else {
                    break;
                };
                let gone = match self.kind.does {
                    Does::Reading => fill(slow),
                    _ => {
                        is_closed(&mut slow.stream)
                            || {
                                let sends =
                                    self.kind.does != Does::Nothing && ticks.is_multiple_of(10);
                                sends
                                    && matches!(slow.stream.write(b"x"), Err(error) if error.kind() != ErrorKind::WouldBlock)
                            }
                    }
                };
                let age = slow.since.elapsed();
                if self.kind.promised.is_some_and(|time| age > time + LENIENCE) {
                    let name = self.kind.name;
                    return Err(Failure::new(format!("{name}: one is there after {age:?}")));
                }
                if gone {
                    if self.kind.promised.is_none() {
                        let name = self.kind.name;
                        return Err(Failure::new(format!(
                            "{name}: one was let go after {age:?}"
                        )));
                    }
                    self.let_go += 1;
                    let next = self.open()?;
                    if let Some(slow) = self.open.get_mut(place) {
                        *slow = next;
                    }
                }
            }
        }
        if self.kind.promised.is_some() && self.let_go == 0 {
            return Err(Failure::new(format!("{}: none was let go", self.kind.name)));
        }
        Ok(self.let_go)
    }

    fn guess(mut self, stop: &AtomicBool) -> Outcome<usize> {
        let from = address(true);
        let wrong = load::key_of(&[7; 32]);
        let request = format!(
            "GET {GUESSED_AT} HTTP/1.1\r\nHost: x\r\nX-API-Key: {wrong}\r\nX-Forwarded-For: {from}\r\n\r\n"
        );
        let (begun, mut guesses) = (Instant::now(), 0_u32);
        let Some(slow) = self.open.first_mut() else {
            return Ok(0);
        };
        let mut told_to_wait = false;
        while !stop.load(Ordering::Relaxed) {
            let answer = call(&mut slow.stream, &request).map_err(Failure::when("a guess"))?;
            told_to_wait |= answer.starts_with("HTTP/1.1 429");
            if !(answer.starts_with("HTTP/1.1 401") || answer.starts_with("HTTP/1.1 429")) {
                return Err(Failure::new(format!("a guess was answered {answer}")));
            }
            guesses += 1;
            let due = Duration::from_secs(1) * guesses / GUESSES;
            thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        if told_to_wait {
            Ok(0)
        } else {
            Err(Failure::new("whoever guesses is not told to wait"))
        }
    }
}

/// Asks for as much as can be asked for. Answers whether it was let go.
fn fill(slow: &mut Slow) -> bool {
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400);
    let requests = requests.as_bytes();
    loop {
        match slow
            .stream
            .write(requests.get(slow.sent..).unwrap_or(requests))
        {
            Ok(written) => slow.sent = (slow.sent + written) % requests.len(),
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Has the other side closed it? What it said before is read and dropped.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_hundred_waits_longer() {
        let window = Window {
            calls: (1..=200).rev().map(Duration::from_millis).collect(),
            let_go: 0,
            memory: 0.0,
        };
        assert_eq!(window.p99(), Some(198.0));
    }

    #[test]
    fn memory_is_that_of_a_process() {
        assert!(memory(std::process::id()).unwrap() > 1.0);
        assert!(memory(u32::MAX).is_err());
    }
}
