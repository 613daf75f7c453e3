//! `cargo xtask timing`: what is answered alike takes as long.
//!
//! A key that nobody has, one with a known prefix and another end, one that was revoked, one that has expired and one of another
//! tenant's are answered by the same bytes, where the caller is not to know which it is. So they must not be told apart by time
//! either. Requests of all classes are sent in an order left to chance, over one connection, each with another value, and
//! the times until the first byte comes back are compared by Welch's t, two classes at a time. Two controls show that the
//! measurement is good for something: a class that is another one's twin is not told from it, and one that is refused without
//! being looked up is.

mod classes;
mod welch;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bench::Kept;
use crate::bench::pinning::Pinning;
use crate::chance::{self, Chance};
use crate::cluster::{Cluster, Parts};
use crate::http::{self, Answer, Connection};
use crate::node::{self, Profile};
use crate::number;
use crate::postgres;
use crate::sh::{self, Failure, Outcome};

use classes::{Class, Part, People, Question};
use welch::Moments;

const CALLS: usize = 100_000;
/// From this t on two classes are told apart.
const BOUND: f64 = 5.0;
/// So many calls of each class do not count: until plans are made and everything is in memory.
const WARM: usize = 500;
/// How many rounds of requests are written at once.
const AHEAD: usize = 250;
const TIMEOUT: Duration = Duration::from_secs(30);

/// `timing [--calls <n>] [--only <question>] [--store memory|sqlite|postgres] [--seed <n>] [--program <path>] [--dev]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    let program = node::given_or_built(options.program.as_deref(), options.profile, None)?;
    let mut faults = Vec::new();
    for kept in &options.stores {
        for remembered in [true, false] {
            faults.extend(measure(*kept, remembered, &program, &options)?);
        }
    }
    sh::unless_none(&faults)
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    calls: usize,
    only: Option<String>,
    stores: Vec<Kept>,
    seed: Option<u64>,
    /// A build that is there already.
    program: Option<PathBuf>,
    profile: Profile,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            calls: CALLS,
            only: None,
            stores: Vec::new(),
            seed: None,
            program: None,
            profile: Profile::Release,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--calls" => options.calls = number::<usize>(word, words.next())?.max(2),
                "--only" => options.only = Some(words.next().unwrap_or_default().to_owned()),
                "--store" => options.stores.push(Kept::named(words.next())?),
                "--seed" => options.seed = Some(number(word, words.next())?),
                "--program" => options.program = Some(node::program(words.next())?),
                "--dev" => options.profile = Profile::Dev,
                _ => return Err(Failure::usage(format!("timing does not know `{word}`"))),
            }
        }
        if options.stores.is_empty() {
            options.stores = Kept::ALL.to_vec();
        }
        Ok(options)
    }

    fn wants(&self, question: &Question, remembered: bool) -> bool {
        let only = self.only.as_ref();
        question.remembered == remembered
            && only.is_none_or(|only| question.name.contains(only.as_str()))
    }
}

/// The questions that are asked of nodes that remember, or of such as look up every key.
fn measure(
    kept: Kept,
    remembered: bool,
    program: &Path,
    options: &Options,
) -> Outcome<Vec<String>> {
    let pinning = Pinning::of_this_machine();
    let mut settings = vec![
        ("WORKERS", "1".to_owned()),
        // It is what is done with each that is measured, and not that there may be too many.
        ("INVALID_KEYS_PER_MINUTE", "0".to_owned()),
    ];
    if !remembered {
        settings.push(("REVOCATION_BOUND_MS", "0".to_owned()));
    }
    let mut cluster = Cluster::start(Parts {
        name: "timing",
        program,
        kept,
        nodes: 1,
        database: postgres::FAST,
        prefixes: [pinning.server(), pinning.others()],
        settings,
    })?;
    let seed = options.seed.map_or_else(chance::seed, Ok)?;
    let mut chance = Chance::new(seed);
    let people = People::make(&mut cluster, &mut chance)?;
    let questions = people.questions();
    let questions = questions
        .iter()
        .filter(|question| options.wants(question, remembered));
    let address = cluster.addresses().first().copied();
    let address = address.ok_or_else(|| Failure::new("there is no node"))?;
    if remembered {
        cluster.wait_for_leases()?;
        people.warm(&mut Connection::at(address, TIMEOUT))?;
    }
    let mut faults = Vec::new();
    for question in questions {
        let begun = Instant::now();
        let times = ask(question, &people, address, options.calls, &mut chance)?;
        println!(
            "{}, {}: {} calls of each, seed {seed}, {}, {:.0} s",
            kept.name(),
            question.name,
            options.calls,
            pinning.description(),
            begun.elapsed().as_secs_f64(),
        );
        let judged = judge(&question.classes, &times);
        let name = format!("{}, {}", kept.name(), question.name);
        faults.extend(judged.into_iter().map(|fault| format!("{name}: {fault}")));
    }
    cluster.still_runs()?;
    Ok(faults)
}

/// The requests of some rounds, each with the place of its class: as many of each class, in an order left to chance.
///
/// They are written before any of them is sent. Otherwise one that takes longer to write would find a server that has slept longer.
fn prepare(
    question: &Question,
    people: &People,
    rounds: usize,
    chance: &mut Chance,
) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    for _ in 0..rounds {
        let mut order: Vec<usize> = (0..question.classes.len()).collect();
        for place in (1..order.len()).rev() {
            order.swap(place, chance.index(place + 1));
        }
        for place in order {
            if let Some(class) = question.classes.get(place) {
                all.push((place, people.request(question.way, &class.values, chance)));
            }
        }
    }
    all
}

/// The times of each class, in nanoseconds.
fn ask(
    question: &Question,
    people: &People,
    address: SocketAddr,
    calls: usize,
    chance: &mut Chance,
) -> Outcome<Vec<Vec<f64>>> {
    let mut stream = open(address).map_err(Failure::when("connecting"))?;
    let mut times: Vec<Vec<f64>> = question.classes.iter().map(|_| Vec::new()).collect();
    let mut told: Option<Answer> = None;
    let mut left = WARM + calls;
    let mut warm = WARM * question.classes.len();
    while left > 0 {
        let rounds = left.min(AHEAD);
        left -= rounds;
        for (place, request) in prepare(question, people, rounds, chance) {
            let (Some(class), Some(times)) = (question.classes.get(place), times.get_mut(place))
            else {
                continue;
            };
            let (took, answer) =
                exchange(&mut stream, &request).map_err(Failure::when(question.name))?;
            let first = told.get_or_insert_with(|| answer.clone());
            if *first != answer {
                return Err(Failure::new(format!(
                    "{}, {}: it was answered {answer:?}, and not {first:?}",
                    question.name, class.name
                )));
            }
            if warm == 0 {
                times.push(took);
            } else {
                warm -= 1;
            }
        }
    }
    Ok(times)
}

fn open(address: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

fn exchange(stream: &mut BufReader<TcpStream>, request: &str) -> std::io::Result<(f64, Answer)> {
    let asked = Instant::now();
    stream.get_mut().write_all(request.as_bytes())?;
    stream.fill_buf()?;
    let took = asked.elapsed();
    let (answer, _) = http::read_answer(stream)?;
    Ok((took.as_secs_f64() * 1e9, answer))
}

/// Tells how the classes stand to each other, and answers what is wrong.
fn judge(classes: &[Class], times: &[Vec<f64>]) -> Vec<String> {
    // What hides nothing would push the others below the limit.
    let compared = classes.iter().zip(times);
    let alike: Vec<Vec<f64>> = compared
        .filter(|(class, _)| class.part != Part::Open)
        .map(|(_, times)| times.clone())
        .collect();
    let limit = welch::limit(&alike);
    let moments: Vec<Moments> = times
        .iter()
        .map(|times| Moments::of(times, limit))
        .collect();
    let all: Vec<(&Class, Moments)> = classes.iter().zip(moments).collect();
    for (class, moments) in &all {
        println!(
            "  {:<24} {:>9.0} ns, deviation {:>7.0}, of {:.0}",
            class.name,
            moments.mean,
            moments.deviation(),
            moments.count
        );
    }
    let mut faults = Vec::new();
    for (place, (one, its)) in all.iter().enumerate() {
        for (other, others) in all.iter().skip(place + 1) {
            let t = welch::t(*its, *others);
            let is_told = t.abs() >= BOUND;
            println!(
                "    {:<24} {:<24} t {t:>8.2}, {:>7.0} ns{}",
                one.name,
                other.name,
                its.mean - others.mean,
                if is_told { "  told apart" } else { "" }
            );
            let is_open = [one, other].iter().any(|class| class.part == Part::Open);
            let pair = format!("{} and {}", one.name, other.name);
            if is_told && !is_open {
                faults.push(format!("{pair} are told apart: t {t:.2}"));
            } else if is_open && !is_told {
                faults.push(format!("{pair} are not told apart: it is too blunt"));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words;
    use classes::Values;

    #[test]
    fn options_are_read() {
        let options =
            Options::parse(&words("--calls 7 --store sqlite --only verify --dev")).unwrap();
        assert_eq!((options.calls, options.profile), (7, Profile::Dev));
        assert_eq!(options.stores, [Kept::Sqlite]);
        assert_eq!(options.only.as_deref(), Some("verify"));
        for line in ["--calls", "--calls x", "--store disk", "now"] {
            assert!(
                Options::parse(&words(line)).unwrap_err().is_usage(),
                "{line}"
            );
        }
    }

    #[test]
    fn classes_are_judged_by_what_they_are_for() {
        let class = |name, part| Class {
            name,
            values: Values::FreshId,
            part,
        };
        let classes = [
            class("one", Part::Hidden),
            class("twin", Part::Twin),
            class("open", Part::Open),
        ];
        let around = |base: f64| {
            (0..1_000)
                .map(|n| base + f64::from(n % 10))
                .collect::<Vec<_>>()
        };
        let judged = |times: [f64; 3]| judge(&classes, &times.map(around));
        assert!(judged([100.0, 100.0, 90.0]).is_empty());
        assert!(judged([100.0, 104.0, 90.0])[0].contains("told apart"));
        assert!(judged([100.0, 100.0, 100.0])[0].contains("too blunt"));
    }
}
