//! Sends requests and looks at the answers.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::{Map, Value, json};

use crate::Outcome;
use crate::chance::Chance;
use crate::histogram::{Histogram, float};
use crate::plan::Plan;
use crate::records::secret_file;
use crate::template::{Order, Pool, Template};

/// How long the last answers may take to come after the time is over.
const PATIENCE: Duration = Duration::from_secs(5);
/// Less than this is not slept: the kernel would wake this thread up too late.
const SPIN: Duration = Duration::from_millis(2);
/// How long it does not ask whether anything has come, where it is awake and nothing had.
const PAUSE: Duration = Duration::from_micros(5);
const BUFFER: usize = 64 * 1024;

/// One kind of request, and what came of those.
struct Kind {
    name: String,
    weight: usize,
    template: Template,
    times: Histogram,
    statuses: BTreeMap<u16, u64>,
}

impl Kind {
    fn read(plan: &Plan) -> Outcome<Self> {
        let take = plan.number("take").map(usize::try_from).transpose()?;
        let pool = plan
            .text("keys")
            .map(|path| Pool::read(path, take))
            .transpose()?;
        let order = if plan.flag("sequential") {
            Order::Sequential
        } else {
            Order::Random
        };
        Ok(Self {
            name: plan.needed_text("name")?.to_owned(),
            weight: usize::try_from(plan.number("weight").unwrap_or(1))?,
            template: Template::new(plan.needed_text("template")?, pool, order)?,
            times: Histogram::default(),
            statuses: BTreeMap::new(),
        })
    }
}

/// An open connection, with at most one request on its way.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
    filled: usize,
    /// Which kind is on its way, and from when on its time counts.
    underway: Option<(usize, Instant)>,
}

/// When requests are sent.
enum Pace {
    /// As soon as the one before is answered.
    Closed,
    /// At a constant rate, whatever is answered.
    Open {
        apart: Duration,
        next: Instant,
        /// Those that are due and found no connection free.
        late: VecDeque<Instant>,
    },
}

struct Load {
    kinds: Vec<Kind>,
    total_weight: usize,
    by_connection: bool,
    chance: Chance,
    connections: Vec<Connection>,
    idle: Vec<usize>,
    /// How many more may be sent.
    left: u64,
    until: Instant,
    answered: u64,
    times: Histogram,
    last_answer: Instant,
    /// Whether it never sleeps, and for how long it had nothing to do then.
    awake: bool,
    waited: Duration,
    collected: Option<BufWriter<File>>,
}

/// The plan has a `port`, `connections`, `kinds`, `seconds` or a `count`, and may have a `rate`, a `seed`, `by_connection` (each
/// connection sends one kind) and a file `collect` for the keys and ids in the answers. With `awake` it never sleeps while it waits:
/// to wake somebody up is work for the server that answers, which a client on another machine does not make.
pub(crate) fn run(path: &str) -> Outcome<Value> {
    let plan = Plan::read(path)?;
    let port = u16::try_from(plan.needed("port")?)?;
    let kinds: Vec<Kind> = plan
        .list("kinds")
        .iter()
        .map(Kind::read)
        .collect::<Outcome<_>>()?;
    if kinds.is_empty() {
        return Err("the plan has no kinds of requests".into());
    }
    let seconds = plan.float("seconds").unwrap_or(3600.0);
    let mut poll = Poll::new()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connections = (0..usize::try_from(plan.needed("connections")?)?)
        .map(|n| connect(address, &poll, Token(n)))
        .collect::<io::Result<Vec<_>>>()?;
    let collected = plan.text("collect").map(secret_file).transpose()?;
    let start = Instant::now();
    let mut load = Load {
        total_weight: kinds.iter().map(|kind| kind.weight).sum(),
        kinds,
        by_connection: plan.flag("by_connection"),
        chance: Chance::new(plan.number("seed").unwrap_or(1)),
        idle: (0..connections.len()).rev().collect(),
        connections,
        left: plan.number("count").unwrap_or(u64::MAX),
        until: start + Duration::from_secs_f64(seconds),
        answered: 0,
        times: Histogram::default(),
        last_answer: start,
        awake: plan.flag("awake"),
        waited: Duration::ZERO,
        collected,
    };
    let mut pace = plan.float("rate").map_or(Pace::Closed, |rate| Pace::Open {
        apart: Duration::from_secs_f64(1.0 / rate.max(0.001)),
        next: start,
        late: VecDeque::new(),
    });
    let own = own_cpu();
    load.go(&mut poll, &mut pace)?;
    if let Some(mut file) = load.collected.take() {
        file.flush()?;
    }
    let took = load.last_answer.duration_since(start);
    let busy = if load.awake {
        took.saturating_sub(load.waited)
    } else {
        own_cpu().saturating_sub(own)
    };
    Ok(load.report(took, busy, &pace))
}

fn connect(address: SocketAddr, poll: &Poll, token: Token) -> io::Result<Connection> {
    let stream = std::net::TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(stream);
    poll.registry()
        .register(&mut stream, token, Interest::READABLE)?;
    Ok(Connection {
        stream,
        request: Vec::new(),
        answer: vec![0; BUFFER],
        filled: 0,
        underway: None,
    })
}

impl Load {
    fn go(&mut self, poll: &mut Poll, pace: &mut Pace) -> Outcome<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            let now = Instant::now();
            let over = now >= self.until || self.left == 0;
            if !over {
                self.send_what_is_due(pace, now)?;
            } else if self.idle.len() == self.connections.len() {
                return Ok(());
            } else if now > self.until.max(self.last_answer) + PATIENCE {
                return Err("some requests were never answered".into());
            }
            let wait = match pace {
                _ if self.awake => Duration::ZERO,
                Pace::Open { next, .. } if !over => {
                    next.saturating_duration_since(now).saturating_sub(SPIN)
                }
                _ => Duration::from_millis(100),
            };
            match poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                polled => polled?,
            }
            if self.awake && events.is_empty() {
                // To ask again at once would have the server wait for the kernel's list of what has come.
                while now.elapsed() < PAUSE {
                    std::hint::spin_loop();
                }
                self.waited += now.elapsed();
            }
            for event in &events {
                let Token(at) = event.token();
                if self.receive(at)? {
                    if matches!(pace, Pace::Closed) && self.left > 0 {
                        // The clock is read once for both: the end of one request is the beginning of the next.
                        let now = self.last_answer;
                        if now < self.until {
                            self.send(at, now)?;
                            continue;
                        }
                    }
                    self.idle.push(at);
                }
            }
        }
    }

    fn send_what_is_due(&mut self, pace: &mut Pace, now: Instant) -> Outcome<()> {
        let Pace::Open { apart, next, late } = pace else {
            while self.left > 0
                && let Some(place) = self.idle.pop()
            {
                self.send(place, Instant::now())?;
            }
            return Ok(());
        };
        while *next <= now && *next < self.until {
            late.push_back(*next);
            *next += *apart;
        }
        while self.left > 0
            && !late.is_empty()
            && let Some(place) = self.idle.pop()
        {
            let due = late.pop_front().unwrap_or(now);
            self.send(place, due)?;
        }
        Ok(())
    }

    fn send(&mut self, place: usize, due: Instant) -> Outcome<()> {
        let mut kind = if self.by_connection {
            place % self.kinds.len()
        } else {
            0
        };
        if !self.by_connection && self.kinds.len() > 1 {
            let mut drawn = self.chance.index(self.total_weight);
            for (number, candidate) in self.kinds.iter().enumerate() {
                kind = number;
                if drawn < candidate.weight {
                    break;
                }
                drawn -= candidate.weight;
            }
        }
        let (Some(connection), Some(chosen)) =
            (self.connections.get_mut(place), self.kinds.get_mut(kind))
        else {
            return Err("no such connection".into());
        };
        connection.request.clear();
        chosen
            .template
            .render(&mut self.chance, &mut connection.request);
        connection.underway = Some((kind, due));
        connection.filled = 0;
        self.left -= 1;
        let mut rest = connection.request.as_slice();
        while !rest.is_empty() {
            match connection.stream.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                // A request is far smaller than what a socket holds, so this is as good as never.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what has come. Says whether the answer is whole.
    fn receive(&mut self, place: usize) -> Outcome<bool> {
        let Some(connection) = self.connections.get_mut(place) else {
            return Ok(false);
        };
        let Some((kind, due)) = connection.underway else {
            return Err("a connection was closed, or said what nobody asked for".into());
        };
        loop {
            let room = connection.answer.len() - connection.filled;
            if room == 0 {
                return Err("an answer is too long".into());
            }
            let free = connection.answer.get_mut(connection.filled..);
            let read = match connection.stream.read(free.unwrap_or_default()) {
                Ok(0) => return Err("a connection was closed in the middle of an answer".into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            connection.filled += read;
            let so_far = connection.answer.get(..connection.filled);
            if let Some((status, body)) = whole(so_far.unwrap_or_default())? {
                let now = Instant::now();
                let took = now.saturating_duration_since(due);
                self.last_answer = now;
                self.answered += 1;
                self.times.add(took);
                if let Some(file) = &mut self.collected
                    && status == 201
                {
                    let text = String::from_utf8_lossy(body);
                    let answer: Value = serde_json::from_str(&text)?;
                    let field = |name| answer.get(name).and_then(Value::as_str).unwrap_or_default();
                    writeln!(file, "{} {}", field("key"), field("id"))?;
                }
                connection.underway = None;
                if let Some(kind) = self.kinds.get_mut(kind) {
                    kind.times.add(took);
                    *kind.statuses.entry(status).or_default() += 1;
                }
                return Ok(true);
            }
            if read < room {
                return Ok(false);
            }
        }
    }

    fn report(&self, took: Duration, busy: Duration, pace: &Pace) -> Value {
        let seconds = took.as_secs_f64();
        let kinds = self.kinds.iter().map(|kind| {
            let statuses = kind.statuses.iter();
            let statuses: Map<_, _> = statuses
                .map(|(status, count)| (status.to_string(), (*count).into()))
                .collect();
            let mut told = times(&kind.times);
            if let Some(told) = told.as_object_mut() {
                told.insert("statuses".to_owned(), statuses.into());
            }
            (kind.name.clone(), told)
        });
        let unsent = match pace {
            Pace::Closed => 0,
            Pace::Open { late, .. } => late.len(),
        };
        json!({
            "requests": self.answered,
            "seconds": seconds,
            "per_second": float(self.answered) / seconds.max(1e-9),
            "times": times(&self.times),
            "kinds": kinds.collect::<Map<_, _>>(),
            // For how much of the time this was busy: near 1, it was the load that had no more to give.
            "busy": busy.as_secs_f64() / seconds.max(1e-9),
            "unsent": unsent,
        })
    }
}

fn times(histogram: &Histogram) -> Value {
    let micros = |nanos: u64| float(nanos) / 1e3;
    json!({
        "p50_us": micros(histogram.quantile(0.5)),
        "p99_us": micros(histogram.quantile(0.99)),
        "p999_us": micros(histogram.quantile(0.999)),
        "max_us": micros(histogram.max()),
    })
}

/// The status and the body of an answer, once it is there as a whole.
fn whole(bytes: &[u8]) -> Outcome<Option<(u16, &[u8])>> {
    let mut length = None;
    let mut status = None;
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = rest.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        at += end + 1;
        if status.is_none() {
            let digits = line
                .get(9..12)
                .and_then(|code| std::str::from_utf8(code).ok());
            status = Some(digits.unwrap_or_default().parse::<u16>()?);
        } else if line.is_empty() {
            break;
        } else if let Some((name, value)) = line.split_at_checked(15)
            && name.eq_ignore_ascii_case(b"content-length:")
        {
            length = Some(std::str::from_utf8(value)?.trim().parse::<usize>()?);
        }
    }
    let status = status.unwrap_or_default();
    let length = match length {
        Some(length) => length,
        None if status == 204 => 0,
        None => return Err("an answer does not say how long it is".into()),
    };
    let body = bytes.get(at..at + length);
    Ok(body.map(|body| (status, body)))
}

/// How long this process has had a core.
fn own_cpu() -> Duration {
    let text = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_when_all_of_them_is_there() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx: y\r\n\r\nabc";
        for end in 0..text.len() {
            assert!(whole(&text[..end]).unwrap().is_none(), "{end}");
        }
        assert_eq!(whole(text).unwrap(), Some((200, &b"abc"[..])));
        let empty = b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n";
        assert_eq!(whole(empty).unwrap(), Some((204, &b""[..])));
        for bad in [
            &b"HTTP/1.1 200 OK\r\n\r\n"[..],
            b"SSH-2.0\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        ] {
            assert!(whole(bad).is_err());
        }
    }
}
