//! `cargo xtask fuzz-api`: requests that are made up from the OpenAPI document, and what is wrong with the answers.
//!
//! schemathesis reads the document that the server serves, and sends what fits it and what does not, one request at a time and in
//! sequences in which one answer gives the next request its ids. Each answer has to be one that the document knows: its status,
//! its headers, its fields. What fits is to be accepted, what does not is to be refused, and nothing may be a failure of the
//! server. This is done on each store as nobody, as a tenant and as an operator, against a server of its own each time, since one
//! on which thousands of changes were made says 409 to most others.
//!
//! What schemathesis does not see is counted too: a 5xx in the server's metrics, a panic in its log, and a key that stopped
//! working, after which all requests are refused and nothing is tested any more.
//!
//! How it is run stands in `fuzz_api/schemathesis.toml`, what it has to know of the service beyond the document in
//! `fuzz_api/hooks.py`. It is installed into the target folder, in versions that `fuzz_api/requirements.txt` pins.

mod environment;
mod report;
mod target;

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::chance::{self, Chance};
use crate::node::{self, Profile, Scratch};
use crate::postgres;
use crate::process::{self, Background};
use crate::sh::{self, Failure, Outcome};
use crate::{env, number};

use environment::Environment;
use report::{Report, Tally};
use target::Target;

/// Where the files are that schemathesis reads, in the workspace.
const FOLDER: &str = "xtask/src/fuzz_api";

/// How many cases there are as a rule, whatever is asked for: the coverage phase tries each rule of each schema.
const FIXED_CASES: u64 = 1200;

/// And how many more for each example that is asked for: one for each operation that has anything to make up, and sequences.
const CASES_AN_EXAMPLE: u64 = 17;

/// The most examples of one run: it keeps what it has seen, and the server keeps what it was told.
const MOST_EXAMPLES: u64 = 300;

/// The fewest.
const FEWEST_EXAMPLES: u64 = 10;

/// `fuzz-api [--cases <n>] [--store memory|sqlite|postgres]… [--role nobody|tenant|operator]… [--seed <n>] [--dev]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    run(&Options::parse(arguments)?)
}

/// The short form, for `ci`: one store, and as few examples as there can be.
pub(crate) fn short() -> Outcome {
    let mut options = Options::parse(&[])?;
    options.cases = 1;
    options.stores = vec![Store::Memory];
    options.profile = Profile::Dev;
    run(&options)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Memory,
    Sqlite,
    Postgres,
}

impl Store {
    const ALL: [Self; 3] = [Self::Memory, Self::Sqlite, Self::Postgres];

    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// Whose key requests are sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// None, but for made-up ones.
    Nobody,
    Tenant,
    Operator,
}

impl Role {
    const ALL: [Self; 3] = [Self::Nobody, Self::Tenant, Self::Operator];

    const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Tenant => "tenant",
            Self::Operator => "operator",
        }
    }
}

/// The ways to present a key, by the document's names for them, and how schemathesis is told.
const SCHEMES: [(&str, &str); 3] = [
    ("leadr-api-key", "api_key"),
    ("bearer", "bearer"),
    ("x-api-key", "api_key"),
];

#[derive(Debug, PartialEq, Eq)]
struct Options {
    /// How many cases there are to be, at least, on all stores and as all roles together.
    cases: u64,
    stores: Vec<Store>,
    roles: Vec<Role>,
    seed: Option<u64>,
    profile: Profile,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            cases: 20_000,
            stores: Vec::new(),
            roles: Vec::new(),
            seed: None,
            profile: Profile::Release,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--cases" => options.cases = number(word, words.next())?,
                "--store" => {
                    options
                        .stores
                        .push(one_of(word, words.next(), &Store::ALL, Store::name)?);
                }
                "--role" => options
                    .roles
                    .push(one_of(word, words.next(), &Role::ALL, Role::name)?),
                "--seed" => options.seed = Some(number(word, words.next())?),
                "--dev" => options.profile = Profile::Dev,
                _ => return Err(Failure::usage(format!("fuzz-api does not know `{word}`"))),
            }
        }
        if options.stores.is_empty() {
            options.stores = Store::ALL.to_vec();
        }
        if options.roles.is_empty() {
            options.roles = Role::ALL.to_vec();
        }
        Ok(options)
    }

    /// What is to be done, one after the other or side by side.
    fn parts(&self) -> Vec<Part> {
        let pairs = self.stores.iter().flat_map(|store| {
            let roles = self.roles.iter();
            roles.map(move |role| (*store, *role))
        });
        let count = self.stores.len().saturating_mul(self.roles.len());
        let cases = self
            .cases
            .div_ceil(u64::try_from(count).unwrap_or(1).max(1));
        pairs
            .enumerate()
            .map(|(number, (store, role))| Part {
                number,
                store,
                role,
                cases,
            })
            .collect()
    }
}

/// The one of several that an option names.
fn one_of<T: Copy>(
    option: &str,
    value: Option<&str>,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Outcome<T> {
    let found = all.iter().find(|one| Some(name(**one)) == value);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|one| name(*one)).collect();
        Failure::usage(format!("{option} takes one of {}", names.join(", ")))
    })
}

/// One store and one role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    number: usize,
    store: Store,
    role: Role,
    /// How many cases it has to have, at least.
    cases: u64,
}

impl Part {
    fn name(&self) -> String {
        format!("{} as {}", self.store.name(), self.role.name())
    }

    /// How strangers who present wrong keys are treated. For an owner they are not held up, since some checks send a wrong key to
    /// see it refused with 401. As nobody it is one store that answers 429 to most, and the others 401 to all.
    const fn invalid_keys_per_minute(&self) -> &'static str {
        match (self.role, self.store) {
            (Role::Nobody, Store::Memory) => "120",
            _ => "0",
        }
    }

    /// Which of the ways to present a key is taken: over the parts, all of them.
    fn scheme(&self) -> Option<(&'static str, &'static str)> {
        match self.role {
            Role::Nobody => None,
            Role::Tenant | Role::Operator => {
                // Another one for the same role on the next store.
                let number = self.number + self.number / Role::ALL.len();
                SCHEMES.get(number % SCHEMES.len()).copied()
            }
        }
    }
}

fn run(options: &Options) -> Outcome {
    let environment = Environment::make()?;
    let program = node::build(options.profile)?;
    let binaries = options.stores.contains(&Store::Postgres);
    let binaries = binaries
        .then(postgres::find_or_install_binaries)
        .transpose()?;
    let seed = options.seed.map_or_else(chance::seed, Ok)?;
    println!("seed {seed}");
    let mut scratch = Scratch::new("fuzz-api")?;
    let tools = Tools {
        environment,
        program,
        binaries,
        folder: scratch.path().to_owned(),
    };
    let begun = Instant::now();
    let parts = options.parts();
    let outcomes = side_by_side(&parts, |part| {
        // Each part has numbers of its own, whichever others there are.
        let mut chance = Chance::new(seed);
        for _ in 0..=part.number {
            chance = Chance::new(chance.next());
        }
        tools.play(part, &mut chance)
    });
    let outcome = report::told(&parts, outcomes, begun.elapsed());
    if outcome.is_err() {
        scratch.keep();
        eprintln!("what is left is in {}", scratch.path().display());
    }
    outcome
}

/// Plays the parts, as many at a time as there are cores, and gives what came of each, in their order.
fn side_by_side<T: Send>(parts: &[Part], play: impl Fn(&Part) -> T + Sync) -> Vec<Option<T>> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<T>>> = parts.iter().map(|_| Mutex::new(None)).collect();
    thread::scope(|scope| {
        for _ in 0..cores.min(parts.len()) {
            scope.spawn(|| {
                while let Some((part, done)) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    parts.get(number).zip(done.get(number))
                } {
                    let came = play(part);
                    if let Ok(mut done) = done.lock() {
                        *done = Some(came);
                    }
                }
            });
        }
    });
    let done = done.into_iter();
    done.map(|done| done.into_inner().ok().flatten()).collect()
}

/// What all parts are played with.
struct Tools {
    environment: Environment,
    program: PathBuf,
    binaries: Option<PathBuf>,
    folder: PathBuf,
}

impl Tools {
    /// Runs of schemathesis, each with a server of its own, until there were cases enough.
    fn play(&self, part: &Part, chance: &mut Chance) -> Outcome<Tally> {
        let mut tally = Tally::default();
        for run in 1.. {
            let missing = part.cases.saturating_sub(tally.cases);
            let examples = missing.saturating_sub(FIXED_CASES) / CASES_AN_EXAMPLE;
            let examples = examples.clamp(FEWEST_EXAMPLES, MOST_EXAMPLES);
            // Not longer than schemathesis reads it.
            let seed = chance.next() >> 33;
            let folder = self.folder.join(format!("{}-{run}", part.number));
            fs::create_dir(&folder).map_err(Failure::when(folder.display()))?;
            let target = Target::start(part, self, &folder)?;
            let report = self.attack(part, &target, examples, seed)?;
            let outside = target.end()?;
            if report.generated == 0 {
                return Err(Failure::new(format!("{}: no case at all", part.name())));
            }
            tally.add(&report, &outside);
            println!(
                "{}: {} cases with seed {seed}, {} failures, {} answers of 5xx",
                part.name(),
                report.generated,
                report.failures,
                outside.server_errors
            );
            if !report.text.is_empty() {
                println!("{}", report.text);
            }
            for fault in &outside.faults {
                println!("{}: {fault}", part.name());
            }
            if tally.is_bad() || tally.cases >= part.cases {
                break;
            }
            // Thousands of them would fill the disk.
            fs::remove_dir_all(&folder).map_err(Failure::when(folder.display()))?;
        }
        Ok(tally)
    }

    fn attack(&self, part: &Part, target: &Target, examples: u64, seed: u64) -> Outcome<Report> {
        let files = sh::root().join(FOLDER);
        let base = files.join("schemathesis.toml");
        let mut settings = fs::read_to_string(&base).map_err(Failure::when(base.display()))?;
        if let Some((scheme, field)) = part.scheme() {
            // The key itself comes from the environment.
            let key = "${LEADR_FUZZ_KEY}";
            settings.extend([
                "\n[auth.openapi.",
                scheme,
                "]\n",
                field,
                " = \"",
                key,
                "\"\n",
            ]);
        }
        let folder = &target.plan.folder;
        let configuration = folder.join("schemathesis.toml");
        fs::write(&configuration, settings).map_err(Failure::when(configuration.display()))?;
        let json = folder.join("report.json");
        let log = folder.join("schemathesis.log");
        let mut command = process::tethered("KILL", &[], self.environment.program("st"));
        command.arg("--config-file").arg(&configuration);
        command.arg("run").arg(target.address("/openapi.json"));
        command.args(["--no-color", "--report", "json", "--report-json-path"]);
        command.arg(&json);
        command.args(["--max-examples", &examples.to_string()]);
        command.args(["--seed", &seed.to_string()]);
        // With nothing of the caller's environment: a proxy that it names is not to come in between.
        command
            .env_clear()
            .env("PATH", env::path())
            .env("HOME", folder)
            .env("LC_ALL", "C.UTF-8")
            .env("PYTHONPATH", &files)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SCHEMATHESIS_HOOKS", "hooks")
            .env("LEADR_FUZZ_ROLE", part.role.name())
            .current_dir(folder);
        target.name_key(&mut command);
        Background::start("schemathesis", &mut command, &log)?
            .wait()
            .map_err(Failure::when("schemathesis"))?;
        Report::read(&json, &log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words;

    #[test]
    fn options_are_understood() {
        let all = Options::parse(&[]).unwrap();
        assert_eq!(all.parts().len(), 9);
        assert!(all.parts().iter().all(|part| part.cases == 2223));
        let line = "--cases 7 --store sqlite --role tenant --role nobody --seed 9 --dev";
        let some = Options::parse(&words(line)).unwrap();
        let expected = Options {
            cases: 7,
            stores: vec![Store::Sqlite],
            roles: vec![Role::Tenant, Role::Nobody],
            seed: Some(9),
            profile: Profile::Dev,
        };
        assert_eq!(some, expected);
        assert!(some.parts().iter().all(|part| part.cases == 4));
        for line in ["--cases", "--store mysql", "--role", "--seed x", "now"] {
            let failure = Options::parse(&words(line)).unwrap_err();
            assert!(failure.is_usage(), "{line}");
        }
    }

    #[test]
    fn every_way_to_present_a_key_is_taken_and_429_is_answered_somewhere() {
        let parts = Options::parse(&[]).unwrap().parts();
        for scheme in SCHEMES {
            assert!(parts.iter().any(|part| part.scheme() == Some(scheme)));
        }
        let throttled = |part: &&Part| part.invalid_keys_per_minute() != "0";
        let throttled: Vec<_> = parts.iter().filter(throttled).map(Part::name).collect();
        assert_eq!(throttled, ["memory as nobody"]);
    }

    #[test]
    fn every_part_is_played_once() {
        let parts = Options::parse(&[]).unwrap().parts();
        let played = side_by_side(&parts, |part| part.number);
        let expected: Vec<_> = (0..9).map(Some).collect();
        assert_eq!(played, expected);
    }
}
