//! `cargo xtask revocation`: a key that was stopped is not let in any more, whatever fails.
//!
//! Three nodes serve from one PostgreSQL and know all keys. Clients verify keys on all nodes; others revoke, delete, or
//! suspend the account of one key after the other, through any of the nodes, while something fails again and again. All
//! clients are threads of this process, so one clock tells what came before what. What must never be seen:
//!
//! - the node that answered that a key is stopped lets it in, asked after the answer;
//! - another node lets it in, asked later than the bound after the answer, or after it was said that every node has heard;
//! - a key is refused that nobody had asked to stop.
//!
//! With `--sabotage` a mechanism of the product is switched off, and something of this has to be seen.

mod faults;
mod judge;
mod keys;
mod load;
mod network;
mod proxy;
mod report;
mod system;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::chance::{self, Chance};
use crate::node::{self, Profile};
use crate::number;
use crate::postgres;
use crate::sh::{Failure, Outcome};

use faults::{Fault, Times};
use report::Report;
use system::{Parts, Shape, System};

/// What the nodes promise; their default.
const BOUND: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(500);
/// How many keys are stopped under each fault, and so many times as many where nothing fails.
const REVOCATIONS: usize = 2000;
const HEALTHY: usize = 5;
/// How many keys `ci` stops under each of these.
const SHORT: usize = 40;
const SHORT_FAULTS: [Fault; 4] = [
    Fault::None,
    Fault::ListenerKilled,
    Fault::ListenerBlackHoled,
    Fault::Stopped,
];
/// The feature that lets mechanisms be switched off.
const FEATURE: &str = "sabotage";
/// What can be switched off so that it is seen from outside, and which faults show it. There is more; to see that the lease goes
/// by no clock that somebody sets, one would have to set the machine's.
const SABOTAGES: &[(&str, &[Fault])] = &[
    ("no-ticks", &[Fault::ListenerBlackHoled, Fault::Stopped]),
    ("forget-early", &[Fault::None]),
    ("no-fence", &[Fault::ListenerKilled]),
    ("listen-late", &[Fault::ListenerBlackHoled]),
];

/// `revocation [--fault <name>|all] [--revocations <n>] [--sabotage <name>] [--dev] [--short] [--program <path>]
/// [--seed <n>] [--json]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    run(&Options::parse(arguments)?)
}

/// The short form, for `ci`.
pub(crate) fn short() -> Outcome {
    run(&Options {
        faults: Some(SHORT_FAULTS.to_vec()),
        revocations: Some(SHORT),
        profile: Profile::Dev,
        short: true,
        ..Options::parse(&[])?
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    faults: Option<Vec<Fault>>,
    revocations: Option<usize>,
    sabotage: Option<&'static str>,
    profile: Profile,
    /// A build that is there already.
    program: Option<PathBuf>,
    seed: Option<u64>,
    json: bool,
    /// Faults that are over sooner, on one system for all of them.
    short: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            faults: None,
            revocations: None,
            sabotage: None,
            profile: Profile::Release,
            program: None,
            seed: None,
            json: false,
            short: false,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--fault" => options
                    .faults
                    .get_or_insert_default()
                    .extend(Fault::named(words.next())?),
                "--revocations" => {
                    options.revocations = Some(number::<usize>(word, words.next())?.max(1));
                }
                "--sabotage" => options.sabotage = Some(sabotage(words.next())?),
                "--seed" => options.seed = Some(number(word, words.next())?),
                "--program" => options.program = Some(node::program(words.next())?),
                "--dev" => options.profile = Profile::Dev,
                "--json" => options.json = true,
                "--short" => options.short = true,
                _ => return Err(Failure::usage(format!("revocation does not know `{word}`"))),
            }
        }
        Ok(options)
    }

    fn faults(&self) -> &[Fault] {
        if let Some(faults) = &self.faults {
            return faults;
        }
        let shown_by = SABOTAGES
            .iter()
            .find(|(name, _)| Some(*name) == self.sabotage);
        shown_by.map_or(&Fault::ALL, |(_, faults)| *faults)
    }

    fn revocations(&self, fault: Fault) -> usize {
        self.revocations.unwrap_or(match fault {
            Fault::None => HEALTHY * REVOCATIONS,
            _ => REVOCATIONS,
        })
    }

    /// Verifications and stopped keys a second.
    const fn rates(&self) -> (u32, u32) {
        match (self.profile, self.short) {
            (Profile::Release, _) => (2000, 50),
            (Profile::Dev, false) => (1000, 25),
            (Profile::Dev, true) => (600, 12),
        }
    }
}

fn sabotage(value: Option<&str>) -> Outcome<&'static str> {
    let found = SABOTAGES.iter().find(|(name, _)| Some(*name) == value);
    found.map(|(name, _)| *name).ok_or_else(|| {
        let names: Vec<&str> = SABOTAGES.iter().map(|(name, _)| *name).collect();
        Failure::usage(format!("--sabotage takes one of {}", names.join(", ")))
    })
}

fn run(options: &Options) -> Outcome {
    let binaries = postgres::find_or_install_binaries()?;
    let feature = options.sabotage.map(|_| FEATURE);
    let program = node::given_or_built(options.program.as_deref(), options.profile, feature)?;
    let seed = options.seed.map_or_else(chance::seed, Ok)?;
    let parts = Parts {
        program: &program,
        binaries: &binaries,
        durable: !options.short,
        bound: BOUND,
        tick: TICK,
        sabotage: options.sabotage,
    };
    eprintln!("seed {seed}");
    let mut chance = Chance::new(seed);
    let mut reports = Vec::new();
    let mut shared = None;
    for fault in options.faults() {
        let report = if options.short && fault.is_possible_listening() {
            let system = match &mut shared {
                Some(system) => system,
                None => shared.insert(System::start("short", Shape::Listening, parts)?),
            };
            one(*fault, system, options, &mut chance)
        } else {
            let mut system = System::start(fault.name(), fault.shape(), parts)?;
            one(*fault, &mut system, options, &mut chance)
        }?;
        if options.json {
            eprintln!("{}", report.text());
        } else {
            println!("{}", report.text());
        }
        reports.push(report);
    }
    drop(shared);
    if options.json {
        println!("{}", told(options, seed, &program, &reports));
    }
    judged(options, &reports)
}

/// One fault, from the making of the keys to the verdict.
fn one(
    fault: Fault,
    system: &mut System,
    options: &Options,
    chance: &mut Chance,
) -> Outcome<Report> {
    let outcome = under(fault, system, options, chance);
    let is_bad = outcome
        .as_ref()
        .map_or(true, |report| !report.verdict.violations.is_empty());
    if is_bad && options.sabotage.is_none() {
        let kept = system.keep();
        eprintln!("the logs of the nodes are in {}", kept.display());
    }
    outcome
}

fn under(
    fault: Fault,
    system: &mut System,
    options: &Options,
    chance: &mut Chance,
) -> Outcome<Report> {
    let revocations = options.revocations(fault);
    let nodes = system.addresses();
    let operator = system.operator.clone();
    let keys = keys::make(&nodes, &operator, revocations, chance)?;
    load::warm(&nodes, &keys)?;
    let (rate, stops) = options.rates();
    let plan = load::Plan {
        nodes,
        operator: &operator,
        keys: &keys,
        bound: BOUND,
        rate,
        stops,
        seed: chance.next(),
    };
    let mut times = if options.short {
        Times::short(BOUND)
    } else {
        Times::long(BOUND)
    };
    if options.sabotage == Some("no-fence") {
        // It is about keys that are read while they are stopped, and nodes read keys when what they knew was dropped.
        times.between = Duration::from_millis(150);
    }
    let before = system.cached()?;
    let mut cycles = 0;
    let log = load::run(&plan, |is_over| {
        cycles = faults::go_on(fault, system, times, is_over)?;
        Ok(())
    })?;
    system.still_runs()?;
    let after = system.cached()?;
    Ok(Report {
        cached: (
            after.0.saturating_sub(before.0),
            after.1.saturating_sub(before.1),
        ),
        fault,
        how: system.how(),
        cycles,
        lasted: log.lasted,
        repeated: log.repeated,
        everywhere: log.everywhere,
        verdict: judge::judge(&log.lives, &log.seen, system::NODES, BOUND),
    })
}

fn told(options: &Options, seed: u64, program: &Path, reports: &[Report]) -> Value {
    json!({
        "program": program.display().to_string(),
        "sabotage": options.sabotage,
        "seed": seed,
        "bound_ms": BOUND.as_secs_f64() * 1e3,
        "tick_ms": TICK.as_secs_f64() * 1e3,
        "faults": reports.iter().map(Report::json).collect::<Vec<_>>(),
    })
}

/// Success where nothing was seen that must not be; the other way round where a mechanism was switched off.
fn judged(options: &Options, reports: &[Report]) -> Outcome {
    let broken: Vec<&str> = reports
        .iter()
        .filter(|report| !report.verdict.violations.is_empty())
        .map(|report| report.fault.name())
        .collect();
    if let Some(sabotage) = options.sabotage {
        if broken.is_empty() {
            return Err(Failure::new(format!(
                "nothing was seen of {sabotage}, which breaks what is promised"
            )));
        }
        return Ok(());
    }
    if !broken.is_empty() {
        return Err(Failure::new(format!(
            "what is promised was broken under: {}",
            broken.join(", ")
        )));
    }
    if !options.short && reports.iter().any(Report::is_late) {
        return Err(Failure::new(
            "with nothing failing, keys were let in for longer than 100 ms in 99 of 100 cases, or than 500 ms in one",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words;

    #[test]
    fn options_are_read() {
        let line = "--fault stopped --fault none --revocations 7 --seed 9 --dev --json";
        let options = Options::parse(&words(line)).unwrap();
        assert_eq!(
            options,
            Options {
                faults: Some(vec![Fault::Stopped, Fault::None]),
                revocations: Some(7),
                sabotage: None,
                profile: Profile::Dev,
                program: None,
                seed: Some(9),
                json: true,
                short: false,
            }
        );
        for line in [
            "--fault",
            "--fault power-cut",
            "--revocations many",
            "--sabotage",
            "--sabotage everything",
            "--program",
            "now",
        ] {
            let failure = Options::parse(&words(line)).unwrap_err();
            assert!(failure.is_usage(), "{line}");
        }
    }

    #[test]
    fn without_a_fault_all_are_meant_or_those_that_show_the_sabotage() {
        assert_eq!(Options::parse(&[]).unwrap().faults(), Fault::ALL);
        let options = Options::parse(&words("--sabotage no-ticks")).unwrap();
        assert_eq!(
            options.faults(),
            [Fault::ListenerBlackHoled, Fault::Stopped]
        );
    }
}
