//! `cargo xtask crash`: what is acknowledged survives `kill -9`.
//!
//! Writers change accounts and keys over HTTP, each with keys of its own, and note what was answered. At a random moment
//! the server is killed. When it is back, each writer looks for what it noted: what was acknowledged has to be there, and
//! what was never answered may be there or not, but never by half. Then they go on. In the end the audit trail has to be
//! whole, with one entry for each change. PostgreSQL goes down with the server
//! every other time.
//!
//! What this cannot show is a power cut: the operating system goes on, and keeps what it was given and had not written yet.

mod writer;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::chance::{self, Chance};
use crate::http::{Connection, Said};
use crate::load;
use crate::node::{self, Node, Plan, Profile, Scratch, Store};
use crate::number;
use crate::postgres::{self, Server};
use crate::sh::{self, Failure, Outcome};

use writer::{Found, Writer};

const WRITERS: u64 = 16;

/// The server is killed this long after the writers began, in milliseconds.
const KILL_AFTER: (u64, u64) = (50, 500);

/// PostgreSQL may still be doing what it was sent before the kill; what it does later than this would look like a loss.
const SETTLE: Duration = Duration::from_millis(300);

/// How many cycles `ci` runs.
const SHORT: u64 = 3;

/// `crash [--cycles <n>] [--store sqlite|postgres] [--seed <n>] [--dev] [--sabotage]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    run(&Options::parse(arguments)?)
}

/// The short form, for `ci`.
pub(crate) fn short() -> Outcome {
    let mut options = Options::parse(&[])?;
    options.cycles = SHORT;
    options.profile = Profile::Dev;
    run(&options)
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    cycles: u64,
    store: Store,
    seed: Option<u64>,
    profile: Profile,
    sabotage: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            cycles: 200,
            store: Store::Sqlite,
            seed: None,
            profile: Profile::Release,
            sabotage: false,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--cycles" => {
                    options.cycles = number::<u64>(word, words.next())?.max(1);
                }
                "--seed" => options.seed = Some(number(word, words.next())?),
                "--store" => {
                    options.store = Store::named(words.next())?;
                }
                "--dev" => options.profile = Profile::Dev,
                "--sabotage" => options.sabotage = true,
                _ => return Err(Failure::usage(format!("crash does not know `{word}`"))),
            }
        }
        Ok(options)
    }
}

fn run(options: &Options) -> Outcome {
    let program = node::build(options.profile)?;
    let seed = options.seed.map_or_else(chance::seed, Ok)?;
    let mut scratch = Scratch::new("crash")?;
    let outcome = Run::new(options, seed, &program, scratch.path())?.all(options);
    if outcome.is_err() {
        scratch.keep();
        eprintln!("what is left is in {}", scratch.path().display());
    }
    outcome
}

/// A run under way.
struct Run {
    plan: Plan,
    /// Present where the store is PostgreSQL; dropping it stops it.
    server: Option<Server>,
    data: std::path::PathBuf,
    operator: String,
    seed: u64,
    chance: Chance,
    writers: Vec<Writer>,
    found: Found,
    slowest_start: Duration,
}

impl Run {
    fn new(options: &Options, seed: u64, program: &Path, folder: &Path) -> Outcome<Self> {
        let data = folder.join("data");
        let operator = load::key_of(&load::random()?);
        let mut settings = vec![
            ("DATA_DIR", data.display().to_string()),
            ("SUPERADMIN_API_KEY", operator.clone()),
            ("RUST_LOG", "warn".to_owned()),
            // A busy machine is slow, and that is not what is looked for here.
            ("DATABASE_TIMEOUT_MS", "5000".to_owned()),
        ];
        let durable = if options.sabotage {
            postgres::HASTY
        } else {
            postgres::DURABLE
        };
        let server = match options.store {
            Store::Sqlite => None,
            Store::Postgres => {
                let binaries = postgres::find_or_install_binaries()?;
                let server = Server::start(&binaries, durable, &[])?;
                settings.push(("DATABASE_URL", server.url()));
                settings.push(("API_KEY_SECRET", load::hex(&load::random()?)));
                Some(server)
            }
        };
        let mut chance = Chance::new(seed);
        let writers = (0..WRITERS).map(|number| Writer::new(number, chance.next()));
        Ok(Self {
            plan: Plan::new("leadr-auth", program, folder, settings)?,
            server,
            data,
            operator,
            seed,
            writers: writers.collect(),
            chance,
            found: Found::default(),
            slowest_start: Duration::ZERO,
        })
    }

    fn all(mut self, options: &Options) -> Outcome {
        println!(
            "seed {}: {} cycles, {WRITERS} writers",
            self.seed, options.cycles
        );
        let begun = Instant::now();
        let mut node = self.plan.start()?;
        let before = self.audit()?;
        for cycle in 1..=options.cycles {
            let (from, to) = KILL_AFTER;
            let after = Duration::from_millis(from + self.chance.below(to - from));
            node = self.cycle(node, cycle, after, options.sabotage)?;
            self.slowest_start = self.slowest_start.max(node.ready_after);
            let last = cycle == options.cycles;
            self.verify(cycle, last)?;
            if cycle % 20 == 0 {
                eprintln!(
                    "cycle {cycle}, {:.0} s: {}",
                    begun.elapsed().as_secs_f64(),
                    self.found.summary()
                );
            }
            if self.found.is_bad() {
                break;
            }
        }
        node.terminate(Duration::from_mins(1))?;
        let doctor = self.doctor();
        let written = self.audit()? - before;
        let keys: usize = self.writers.iter().map(Writer::keys).sum();
        println!(
            "{}\n{keys} keys in the end; slowest start {} ms; {:.0} s",
            self.found.summary(),
            self.slowest_start.as_millis(),
            begun.elapsed().as_secs_f64()
        );
        doctor?;
        drop(self.server);
        if self.found.is_bad() {
            return Err(Failure::new(self.found.faults()));
        }
        let changes = self.found.changes();
        println!("{written} audit entries for {changes} changes");
        if written != changes {
            return Err(Failure::new(
                "the audit trail has not one entry for each change",
            ));
        }
        Ok(())
    }

    /// Has the program itself check the audit trail. Answers how many entries that has.
    fn audit(&self) -> Outcome<u64> {
        let said = sh::output(self.plan.command("audit").args(["verify", "--json"]));
        let said = said.map_err(|failure| {
            Failure::new(format!("the audit trail is not whole: {}", failure.message))
        })?;
        let report: Value = serde_json::from_str(&said).map_err(Failure::when("audit verify"))?;
        report
            .get("entries")
            .and_then(Value::as_u64)
            .ok_or_else(|| Failure::new(format!("audit verify: {said}")))
    }

    /// Lets the writers write, kills the server under them, and starts it again.
    fn cycle(&mut self, node: Node, cycle: u64, after: Duration, sabotage: bool) -> Outcome<Node> {
        let (port, operator) = (self.plan.port, self.operator.as_str());
        let with_database = cycle.is_multiple_of(2);
        let database = self.server.as_mut().filter(|_| with_database);
        thread::scope(|scope| {
            for writer in &mut self.writers {
                scope.spawn(move || writer.write(port, operator, cycle));
            }
            thread::sleep(after);
            let crashed = database.map_or(Ok(()), Server::crash);
            // The writers end by themselves when nobody answers any more.
            node.kill();
            crashed
        })?;
        match &mut self.server {
            Some(database) if with_database => database.recover()?,
            Some(_) => thread::sleep(SETTLE),
            None => {}
        }
        if sabotage && self.server.is_none() {
            for ending in ["-wal", "-shm"] {
                let file = self.data.join(format!("leadr-auth.db{ending}"));
                fs::remove_file(&file).map_err(Failure::when(file.display()))?;
            }
        }
        self.plan.start()
    }

    /// Lets the writers look for what they noted: all of it, or what is new and a sample of the rest.
    fn verify(&mut self, cycle: u64, all: bool) -> Outcome {
        let (port, operator) = (self.plan.port, self.operator.as_str());
        let accounts = slugs(port, operator)?;
        let accounts = &accounts;
        let found = thread::scope(|scope| {
            let threads: Vec<_> = self
                .writers
                .iter_mut()
                .map(|writer| {
                    scope.spawn(move || writer.verify(port, operator, accounts, cycle, all))
                })
                .collect();
            let ended = threads.into_iter().map(|thread| {
                thread
                    .join()
                    .map_err(|_| Failure::new("a writer panicked"))?
            });
            ended.collect::<Outcome<Vec<Found>>>()
        })?;
        for found in found {
            self.found.add(found);
        }
        Ok(())
    }

    /// Has the program itself look at its database.
    fn doctor(&self) -> Outcome {
        let said = sh::output(self.plan.command("doctor").arg("--json"));
        said.map(|_| ()).map_err(|failure| {
            Failure::new(format!("the database is not sound: {}", failure.message))
        })
    }
}

/// All accounts, by slug and name.
fn slugs(port: u16, operator: &str) -> Outcome<Vec<(String, String)>> {
    let said = Said {
        key: Some(operator),
        body: None,
    };
    let mut server = Connection::to(port);
    let mut page = Some("/v1/accounts".to_owned());
    let mut slugs = Vec::new();
    while let Some(path) = page {
        let answer = server
            .send("GET", &path, said)
            .map_err(Failure::when("listing accounts"))?;
        let Value::Array(accounts) = answer.json() else {
            return Err(Failure::new(format!(
                "listing accounts: {} {}",
                answer.status, answer.body
            )));
        };
        for account in &accounts {
            slugs.push((
                load::field(account, "slug")?.to_owned(),
                load::field(account, "name")?.to_owned(),
            ));
        }
        page = answer.next;
    }
    Ok(slugs)
}

/// What is sent to change a key.
fn change(name: Option<&str>, revoked: Option<bool>, deleted: Option<bool>) -> Value {
    let mut body = json!({});
    if let Value::Object(fields) = &mut body {
        fields.extend(name.map(|name| ("name".to_owned(), json!(name))));
        let status = revoked.map(|revoked| if revoked { "revoked" } else { "active" });
        fields.extend(status.map(|status| ("status".to_owned(), json!(status))));
        fields.extend(deleted.map(|deleted| ("deleted".to_owned(), json!(deleted))));
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&words("--cycles 7 --store postgres --seed 9 --dev")).unwrap();
        assert_eq!(
            options,
            Options {
                cycles: 7,
                store: Store::Postgres,
                seed: Some(9),
                profile: Profile::Dev,
                sabotage: false
            }
        );
        for line in ["--cycles", "--cycles x", "--store memory", "now"] {
            assert!(
                Options::parse(&words(line)).unwrap_err().is_usage(),
                "{line}"
            );
        }
    }

    #[test]
    fn a_change_says_what_it_changes_only() {
        assert_eq!(
            change(Some("n"), Some(true), None),
            json!({"name": "n", "status": "revoked"})
        );
        assert_eq!(change(None, None, Some(false)), json!({"deleted": false}));
    }
}
