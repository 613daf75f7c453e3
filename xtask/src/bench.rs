//! `cargo xtask bench`: how many requests the release build answers, on a store that keeps what it acknowledges.
//!
//! Absolute figures are the machine's. So each round also measures the *floor*, a bare actix-web server that answers a
//! constant body of the same size, and the result is the ratio to the floor of the same round.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::{self, Client, Measured, Script, Spread};
use crate::node::{self, Scratch, Store};
use crate::postgres::{self, Server};
use crate::process::{self, Background};
use crate::sh::{self, Failure, Outcome};
use crate::{apt, env};

const ROUNDS: usize = 3;
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// A floor to which results of different machines are scaled.
const COMMON_FLOOR: f64 = 100_000.0;

/// `bench [--store postgres|sqlite] [--seconds <n>] [--connections <n>] [--json]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    ensure_wrk()?;
    let programs = Programs::build()?;
    let pinning = Pinning::of_this_machine();
    eprintln!("{}", pinning.description());
    let scratch = Scratch::new("bench")?;
    if is_in_memory(scratch.path()) {
        eprintln!("writes cost too little on a tmpfs: set TMPDIR to a folder on a disk");
    }
    let database = match options.store {
        Store::Sqlite => None,
        Store::Postgres => {
            let binaries = postgres::find_or_install_binaries()?;
            let settings = postgres::DURABLE;
            Some(Server::start(&binaries, settings, &pinning.others())?)
        }
    };
    let url = database.as_ref().map(Server::url);
    let system = System::start(&programs, url, scratch.path(), &pinning)?;
    let rounds = system.measure(&options, &pinning)?;
    let report = Report { rounds };
    if options.json {
        eprint!("{}", report.text());
        println!("{}", report.json(&options, &pinning));
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

/// Where the temporary folder is kept in memory, as it is on many systems, a durable write costs nothing.
fn is_in_memory(folder: &Path) -> bool {
    let kind = sh::output(sh::command("stat").args(["-f", "-c", "%T"]).arg(folder));
    kind.is_ok_and(|kind| kind.trim() == "tmpfs")
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    store: Store,
    seconds: u32,
    connections: u32,
    json: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            store: Store::Postgres,
            seconds: 8,
            connections: 64,
            json: false,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--store" => options.store = Store::named(words.next())?,
                "--seconds" => options.seconds = positive(word, words.next())?,
                "--connections" => options.connections = positive(word, words.next())?,
                "--json" => options.json = true,
                _ => return Err(Failure::usage(format!("bench does not know `{word}`"))),
            }
        }
        Ok(options)
    }
}

fn positive(option: &str, value: Option<&str>) -> Outcome<u32> {
    let number = value
        .and_then(|value| value.parse().ok())
        .filter(|number| *number > 0);
    number.ok_or_else(|| Failure::usage(format!("{option} takes a whole number above 0")))
}

fn ensure_wrk() -> Outcome {
    if sh::find("wrk").is_some() {
        return Ok(());
    }
    apt::install(
        "wrk",
        "the load generator wrk is not there",
        "run `sudo apt-get install wrk`",
    )
}

/// Which core the measured server has to itself.
#[derive(Debug, PartialEq, Eq)]
enum Pinning {
    /// The server's core; load and database share the others.
    Apart { server: String, others: String },
    /// All share all, for the reason given.
    Together { reason: &'static str },
}

impl Pinning {
    fn of_this_machine() -> Self {
        if sh::find("taskset").is_none() {
            return Self::Together {
                reason: "taskset is not there",
            };
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Self::of(&cores(list.unwrap_or_default()))
    }

    fn of(cores: &[u32]) -> Self {
        match cores.split_first() {
            Some((server, others)) if !others.is_empty() => {
                let others: Vec<String> = others.iter().map(u32::to_string).collect();
                Self::Apart {
                    server: server.to_string(),
                    others: others.join(","),
                }
            }
            _ => Self::Together {
                reason: "only one core is available",
            },
        }
    }

    /// What to run the measured servers under.
    fn server(&self) -> Vec<String> {
        match self {
            Self::Apart { server, .. } => taskset(server),
            Self::Together { .. } => Vec::new(),
        }
    }

    /// What to run everything else under.
    fn others(&self) -> Vec<String> {
        match self {
            Self::Apart { others, .. } => taskset(others),
            Self::Together { .. } => Vec::new(),
        }
    }

    fn description(&self) -> String {
        match self {
            Self::Apart { server, others } => {
                format!(
                    "pinned: servers to core {server}, one worker each; load and database to {others}"
                )
            }
            Self::Together { reason } => format!("not pinned: {reason}"),
        }
    }
}

fn taskset(cores: &str) -> Vec<String> {
    ["taskset", "-c", cores].map(str::to_owned).to_vec()
}

/// The numbers in a list such as `0-2,5`.
fn cores(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.trim().parse::<u32>().ok()?..=to.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// The release builds to measure.
struct Programs {
    server: PathBuf,
    floor: PathBuf,
}

impl Programs {
    fn build() -> Outcome<Self> {
        let release = ["build", "--release", "--locked", "-p"];
        sh::run(sh::cargo(release).arg("leadr-auth-app"))?;
        sh::run(sh::cargo(release).args(["leadr-auth-http", "--example", "floor"]))?;
        let folder = node::target_folder()?.join("release");
        Ok(Self {
            server: folder.join("leadr-auth"),
            floor: folder.join("examples/floor"),
        })
    }
}

/// The running servers, and what is needed to load them.
struct System {
    _server: Background,
    _floor: Background,
    targets: Vec<Target>,
}

/// One kind of request to measure.
struct Target {
    name: &'static str,
    url: String,
    script: PathBuf,
}

impl System {
    /// Without a URL the store is a file.
    fn start(
        programs: &Programs,
        url: Option<String>,
        folder: &Path,
        pinning: &Pinning,
    ) -> Outcome<Self> {
        let operator = load::key_of(&load::random()?);
        let port = postgres::free_port()?;
        let mut command = measured(&programs.server, pinning);
        command
            .arg("serve")
            .envs(url.map(|url| ("DATABASE_URL", url)))
            .env("API_KEY_SECRET", load::hex(&load::random()?))
            .env("SUPERADMIN_API_KEY", &operator)
            .env("RUST_LOG", "warn");
        let server = start("leadr-auth", command, port, "/readyz", folder)?;

        let floor_port = postgres::free_port()?;
        let command = measured(&programs.floor, pinning);
        let floor = start("floor", command, floor_port, "/", folder)?;

        let mut targets = vec![Target {
            name: "floor",
            url: format!("http://127.0.0.1:{floor_port}/"),
            script: Script {
                method: "GET",
                key: None,
                body: None,
            }
            .write(folder, "floor.lua")?,
        }];
        targets.extend(requests(port, &operator, folder)?);
        Ok(Self {
            _server: server,
            _floor: floor,
            targets,
        })
    }

    /// Rounds of all kinds in turn, so that what slows the machine for a while slows them alike.
    fn measure(&self, options: &Options, pinning: &Pinning) -> Outcome<Vec<Round>> {
        let mut rounds = Vec::new();
        for round in 1..=ROUNDS {
            eprintln!("round {round} of {ROUNDS}");
            let results = self.targets.iter().map(|target| {
                let measured = wrk(target, options, pinning)?;
                Ok((target.name, measured))
            });
            rounds.push(results.collect::<Outcome<Round>>()?);
        }
        Ok(rounds)
    }
}

/// What one round measured, by name; the floor comes first.
type Round = Vec<(&'static str, Measured)>;

/// A server to measure. It hears nothing of the caller's environment, which may hold settings of its own.
fn measured(program: &Path, pinning: &Pinning) -> Command {
    let mut command = process::tethered("KILL", &pinning.server(), program);
    command.env_clear().env("PATH", env::path());
    if matches!(pinning, Pinning::Apart { .. }) {
        command.env("WORKERS", "1");
    }
    command
}

/// Starts a server on the port and waits until it answers the path with 200.
fn start(
    name: &str,
    mut command: Command,
    port: u16,
    path: &str,
    folder: &Path,
) -> Outcome<Background> {
    command
        .env("LISTEN", format!("127.0.0.1:{port}"))
        .current_dir(folder);
    let log = folder.join(format!("{name}.log"));
    let mut process = Background::start(name, &mut command, &log)?;
    wait_for(&mut process, port, path).map_err(|failure| {
        Failure::new(format!(
            "{}; its log ends with{}",
            failure.message,
            process::tail(&log)
        ))
    })?;
    Ok(process)
}

fn wait_for(process: &mut Background, port: u16, path: &str) -> Outcome {
    let start = Instant::now();
    while start.elapsed() < READY_TIMEOUT {
        process.still_runs()?;
        if (Client { port, key: None }).status(path) == Some(200) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    let seconds = READY_TIMEOUT.as_secs();
    Err(Failure::new(format!(
        "GET {path} did not answer 200 within {seconds} s"
    )))
}

/// A tenant with two keys: one to call with, one to ask about.
fn requests(port: u16, operator: &str, folder: &Path) -> Outcome<[Target; 2]> {
    let client = Client {
        port,
        key: Some(operator),
    };
    let account = client.post("/v1/accounts", &json!({"name": "Bench", "slug": "bench"}))?;
    let account = load::field(&account, "id")?;
    let key = |name| {
        client.post(
            "/v1/api-keys",
            &json!({"account_id": account, "name": name}),
        )
    };
    let (caller, other) = (key("caller")?, key("other")?);
    let caller = Some(load::field(&caller, "key")?);
    let id = load::field(&other, "id")?;
    let body = json!({"account_id": account, "name": "made by the benchmark"}).to_string();
    let get = Script {
        method: "GET",
        key: caller,
        body: None,
    };
    let create = Script {
        method: "POST",
        key: caller,
        body: Some(body),
    };
    Ok([
        Target {
            name: "get",
            url: format!("http://127.0.0.1:{port}/v1/api-keys/{id}"),
            script: get.write(folder, "get.lua")?,
        },
        Target {
            name: "create",
            url: format!("http://127.0.0.1:{port}/v1/api-keys"),
            script: create.write(folder, "create.lua")?,
        },
    ])
}

fn wrk(target: &Target, options: &Options, pinning: &Pinning) -> Outcome<Measured> {
    let mut command = process::tethered("KILL", &pinning.others(), "wrk");
    command.arg("-t1").arg(format!("-c{}", options.connections));
    command
        .arg(format!("-d{}s", options.seconds))
        .arg("--latency");
    command.arg("-s").arg(&target.script).arg(&target.url);
    let output = sh::output(&mut command)?;
    let measured = Measured::parse(&output)
        .ok_or_else(|| Failure::new(format!("{}: wrk measured nothing:\n{output}", target.name)))?;
    if measured.refused > 0.0 || measured.socket_errors > 0.0 {
        return Err(Failure::new(format!(
            "{}: {} error answers and {} socket errors; a server that fails is not measured",
            target.name, measured.refused, measured.socket_errors
        )));
    }
    Ok(measured)
}

/// All rounds, for people and for programs.
struct Report {
    rounds: Vec<Round>,
}

/// One kind of request over all rounds.
struct Summary {
    name: &'static str,
    per_second: Spread,
    /// To the floor of the same round.
    ratio: Spread,
}

impl Report {
    fn summaries(&self) -> Vec<Summary> {
        let names = self
            .rounds
            .first()
            .into_iter()
            .flatten()
            .map(|(name, _)| *name);
        let summary = |name| {
            let figures = |of: fn(f64, f64) -> f64| {
                let pairs = self.rounds.iter().filter_map(move |round| {
                    let (_, floor) = round.first()?;
                    let (_, measured) = round.iter().find(|(other, _)| *other == name)?;
                    Some(of(measured.per_second, floor.per_second))
                });
                Spread::of(pairs)
            };
            Some(Summary {
                name,
                per_second: figures(|own, _| own)?,
                ratio: figures(|own, floor| own / floor)?,
            })
        };
        names.filter_map(summary).collect()
    }

    fn text(&self) -> String {
        let mut text = format!(
            "\n{:<7}{:<8}{:>12}{:>10}{:>10}\n",
            "round", "request", "req/s", "p50 ms", "p99 ms"
        );
        for (number, round) in (1..).zip(&self.rounds) {
            for (name, measured) in round {
                let (p50, p99) = (measured.p50_us / 1000.0, measured.p99_us / 1000.0);
                let rate = measured.per_second;
                let _ = writeln!(
                    text,
                    "{number:<7}{name:<8}{rate:>12.0}{p50:>10.2}{p99:>10.2}"
                );
            }
        }
        for Summary {
            name,
            per_second,
            ratio,
        } in self.summaries()
        {
            let _ = write!(
                text,
                "\n{name}: {:.0} req/s ({:.0} to {:.0}); {:.3} of the floor ({:.3} to {:.3}); \
                 {:.0} req/s at a floor of {COMMON_FLOOR:.0}",
                per_second.median,
                per_second.min,
                per_second.max,
                ratio.median,
                ratio.min,
                ratio.max,
                ratio.median * COMMON_FLOOR,
            );
        }
        text + "\n"
    }

    fn json(&self, options: &Options, pinning: &Pinning) -> Value {
        let spread = |s: Spread| json!({"min": s.min, "median": s.median, "max": s.max});
        let round = |round: &Round| -> Value {
            let row = |(name, m): &(&'static str, Measured)| {
                let figures =
                    json!({"per_second": m.per_second, "p50_us": m.p50_us, "p99_us": m.p99_us});
                ((*name).to_owned(), figures)
            };
            Value::Object(round.iter().map(row).collect())
        };
        let summary = |summary: Summary| {
            let figures = json!({
                "per_second": spread(summary.per_second),
                "ratio_to_floor": spread(summary.ratio),
                "at_common_floor": summary.ratio.median * COMMON_FLOOR,
            });
            (summary.name.to_owned(), figures)
        };
        json!({
            "store": match options.store {
                Store::Sqlite => "sqlite",
                Store::Postgres => "postgres",
            },
            "seconds": options.seconds,
            "connections": options.connections,
            "pinning": pinning.description(),
            "common_floor": COMMON_FLOOR,
            "rounds": self.rounds.iter().map(round).collect::<Vec<_>>(),
            "summary": Value::Object(self.summaries().into_iter().map(summary).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_are_read() {
        let line = "--seconds 2 --json --connections 8 --store sqlite";
        let options = Options::parse(&words(line)).unwrap();
        assert_eq!(
            options,
            Options {
                store: Store::Sqlite,
                seconds: 2,
                connections: 8,
                json: true
            }
        );
        for line in [
            "--seconds",
            "--seconds 0",
            "--seconds x",
            "--connections -1",
            "fast",
            "--store",
        ] {
            assert!(
                Options::parse(&words(line)).unwrap_err().is_usage(),
                "{line}"
            );
        }
    }

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(cores("\t0-2,5"), [0, 1, 2, 5]);
        assert_eq!(cores("3"), [3]);
        assert!(cores("").is_empty());
    }

    #[test]
    fn the_first_core_is_the_servers() {
        let apart = Pinning::of(&[2, 3, 5]);
        assert_eq!(apart.server(), ["taskset", "-c", "2"]);
        assert_eq!(apart.others(), ["taskset", "-c", "3,5"]);
        for few in [&[0][..], &[]] {
            let together = Pinning::of(few);
            assert!(together.server().is_empty() && together.others().is_empty());
            assert!(together.description().contains("only one core"));
        }
    }

    fn report() -> Report {
        let measured = |per_second| Measured {
            per_second,
            p50_us: 500.0,
            p99_us: 1500.0,
            refused: 0.0,
            socket_errors: 0.0,
        };
        let round = |floor, get| vec![("floor", measured(floor)), ("get", measured(get))];
        Report {
            rounds: vec![
                round(1000.0, 500.0),
                round(2000.0, 800.0),
                round(4000.0, 1000.0),
            ],
        }
    }

    #[test]
    fn ratios_are_to_the_floor_of_the_same_round() {
        let summaries = report().summaries();
        assert_eq!(summaries[1].name, "get");
        assert_eq!(
            summaries[1].ratio,
            Spread {
                min: 0.25,
                median: 0.4,
                max: 0.5
            }
        );
        assert_eq!(
            summaries[0].ratio,
            Spread {
                min: 1.0,
                median: 1.0,
                max: 1.0
            }
        );
    }

    #[test]
    fn reports_say_the_same_to_people_and_programs() {
        let text = report().text();
        assert!(
            text.contains("get: 800 req/s (500 to 1000); 0.400 of the floor"),
            "{text}"
        );
        assert!(text.contains("40000 req/s at a floor of 100000"), "{text}");
        let options = Options {
            store: Store::Postgres,
            seconds: 1,
            connections: 1,
            json: true,
        };
        let json = report().json(&options, &Pinning::of(&[0]));
        assert_eq!(json["summary"]["get"]["at_common_floor"], 40_000.0);
        assert_eq!(json["rounds"][2]["floor"]["per_second"], 4000.0);
    }
}
