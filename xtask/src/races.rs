//! `cargo xtask races`: of requests that arrive at once, and of which one can be done, exactly one is done.
//!
//! The server is the product itself: on PostgreSQL two nodes, which take half of the requests each, and one on a store that one
//! process has for itself. A round is over in milliseconds, and there are thousands of each kind, since what goes wrong does so
//! seldom. Each says how often nothing had been answered when the last request was sent whole: only then it was a race.

mod rounds;
mod volley;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::bench::Kept;
use crate::chance::{self, Chance};
use crate::cluster::{Cluster, Parts};
use crate::node::{self, Profile};
use crate::number;
use crate::postgres;
use crate::sh::{self, Failure, Outcome};

use rounds::{Arena, Race, Round};

const ROUNDS: usize = 10_000;
/// How many rounds of each race `ci` holds.
const SHORT: usize = 30;
/// In so many of the rounds at least every request has to have been underway before the first was answered; with fewer little has
/// been shown. A store in memory answers some while the others are still being sent.
const AT_ONCE: f64 = 0.05;
/// How many violations are described; the rest is counted.
const DESCRIBED: usize = 5;

/// `races [--race <name>]… [--rounds <n>] [--store memory|sqlite|postgres] [--seed <n>] [--program <path>] [--dev]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    run(&Options::parse(arguments)?)
}

/// The short form, for `ci`.
pub(crate) fn short() -> Outcome {
    run(&Options {
        rounds: SHORT,
        stores: vec![Kept::Postgres],
        profile: Profile::Dev,
        ..Options::parse(&[])?
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    races: Vec<Race>,
    rounds: usize,
    stores: Vec<Kept>,
    seed: Option<u64>,
    /// A build that is there already.
    program: Option<PathBuf>,
    profile: Profile,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            races: Vec::new(),
            rounds: ROUNDS,
            stores: Vec::new(),
            seed: None,
            program: None,
            profile: Profile::Release,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--race" => options.races.push(Race::named(words.next())?),
                "--rounds" => options.rounds = number::<usize>(word, words.next())?.max(1),
                "--store" => options.stores.push(Kept::named(words.next())?),
                "--seed" => options.seed = Some(number(word, words.next())?),
                "--program" => options.program = Some(node::program(words.next())?),
                "--dev" => options.profile = Profile::Dev,
                _ => return Err(Failure::usage(format!("races does not know `{word}`"))),
            }
        }
        if options.races.is_empty() {
            options.races = Race::ALL.to_vec();
        }
        if options.stores.is_empty() {
            options.stores = Kept::ALL.to_vec();
        }
        Ok(options)
    }
}

/// What came of all rounds of one race.
#[derive(Default)]
struct Tally {
    rounds: usize,
    requests: usize,
    one_winner: usize,
    at_once: usize,
    broken: usize,
    violations: Vec<String>,
    took: Duration,
}

impl Tally {
    fn add(&mut self, round: &Round) {
        self.rounds += 1;
        self.requests += round.requests;
        self.one_winner += usize::from(round.winners == 1);
        self.at_once += usize::from(round.at_once);
        if !round.violations.is_empty() {
            self.broken += 1;
            if self.violations.len() < DESCRIBED {
                self.violations.push(round.violations.join("; "));
            }
        }
    }

    /// Whether enough of it was a race.
    fn is_race(&self) -> bool {
        share(self.at_once, self.rounds) >= AT_ONCE
    }

    fn told(&self, race: Race, kept: Kept, nodes: usize) -> String {
        let mut text = format!(
            "{}, {nodes} node{}, {}: {} rounds, {} requests; one winner in {}, broken in {}; all underway before the first answer \
             in {:.1} %; {:.0} s",
            kept.name(),
            if nodes == 1 { "" } else { "s" },
            race.name(),
            self.rounds,
            self.requests,
            self.one_winner,
            self.broken,
            100.0 * share(self.at_once, self.rounds),
            self.took.as_secs_f64(),
        );
        for violation in &self.violations {
            text += "\n  ";
            text += violation;
        }
        text
    }
}

fn share(some: usize, all: usize) -> f64 {
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    number(some) / number(all)
}

fn run(options: &Options) -> Outcome {
    let program = node::given_or_built(options.program.as_deref(), options.profile, None)?;
    let seed = options.seed.map_or_else(chance::seed, Ok)?;
    eprintln!("seed {seed}");
    let mut chance = Chance::new(seed);
    let mut faults = Vec::new();
    for kept in &options.stores {
        let nodes = if *kept == Kept::Postgres { 2 } else { 1 };
        let mut cluster = Cluster::start(Parts {
            name: "races",
            program: &program,
            kept: *kept,
            nodes,
            database: postgres::FAST,
            prefixes: Default::default(),
            // More than there are cores, so that a request is interrupted in the middle of what it does.
            settings: vec![("WORKERS", "4".to_owned())],
        })?;
        cluster.wait_for_leases()?;
        for race in &options.races {
            let tally = hold(*race, options.rounds, &mut cluster, &mut chance);
            let tally = tally.inspect_err(|_| cluster.keep())?;
            println!("{}", tally.told(*race, *kept, nodes));
            let name = format!("{} on {}", race.name(), kept.name());
            if tally.broken > 0 {
                faults.push(format!("{name}: broken in {} rounds", tally.broken));
            } else if !tally.is_race() {
                faults.push(format!("{name}: too few of the rounds were races"));
            }
        }
        let hits =
            cluster.metric("leadr_auth_verification_cache_lookups_total{outcome=\"hit\"} ")?;
        eprintln!(
            "{}: keys verified from memory, by node: {hits:?}",
            kept.name()
        );
        cluster.still_runs()?;
    }
    sh::unless_none(&faults)
}

fn hold(race: Race, rounds: usize, cluster: &mut Cluster, chance: &mut Chance) -> Outcome<Tally> {
    let begun = Instant::now();
    let mut arena = Arena::enter(race, cluster, chance)?;
    let mut tally = Tally::default();
    for _ in 0..rounds {
        tally.add(&arena.run(race)?);
    }
    tally.took = begun.elapsed();
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words;

    #[test]
    fn options_are_read() {
        let line = "--race quota --race if-match --rounds 7 --store sqlite --seed 9 --dev";
        let options = Options::parse(&words(line)).unwrap();
        assert_eq!(
            options,
            Options {
                races: vec![Race::Quota, Race::IfMatch],
                rounds: 7,
                stores: vec![Kept::Sqlite],
                seed: Some(9),
                program: None,
                profile: Profile::Dev,
            }
        );
        assert_eq!(Options::parse(&[]).unwrap().races, Race::ALL);
        for line in [
            "--race",
            "--race all",
            "--rounds many",
            "--store disk",
            "--program",
            "now",
        ] {
            let failure = Options::parse(&words(line)).unwrap_err();
            assert!(failure.is_usage(), "{line}");
        }
    }

    #[test]
    fn a_round_is_counted_for_what_it_was() {
        let round = |winners, at_once, violations: &[&str]| Round {
            requests: 8,
            winners,
            at_once,
            violations: violations.iter().map(|&it| it.to_owned()).collect(),
        };
        let mut tally = Tally::default();
        tally.add(&round(1, false, &[]));
        assert!(!tally.is_race());
        let mut tally = Tally::default();
        tally.add(&round(1, true, &[]));
        assert!(tally.is_race());
        tally.add(&round(2, false, &["2 winners"]));
        tally.add(&round(1, false, &[]));
        assert!(tally.is_race());
        assert_eq!((tally.rounds, tally.requests), (3, 24));
        assert_eq!((tally.one_winner, tally.broken), (2, 1));
        assert!(
            tally
                .told(Race::Quota, Kept::Postgres, 2)
                .contains("2 winners")
        );
    }
}
