//! `cargo xtask simulate`: nodes, feed and faults in a million orders.
//!
//! The simulation is a test, `crates/service/src/verification/simulation.rs`, which runs for seconds as such. Here it is built for
//! release and runs for as long as one likes. It says with which seed to see a failure again.

use crate::sh::{self, Failure, Outcome};
use crate::{chance, number};

const TEST: &str = "verification::simulation::nothing_is_relied_on_for_longer_than_is_promised";

/// `simulate [--schedules <n>] [--seed <n>]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    let seed = options.seed.map_or_else(chance::seed, Ok)?;
    println!("seed {seed}: {} schedules", options.schedules);
    let mut cargo = sh::cargo(["test", "-p", "leadr-auth-service", "--lib", "--locked"]);
    cargo.args(["--release", "--", "--exact", "--nocapture", TEST]);
    cargo.env("LEADR_AUTH_SIMULATE_SEED", seed.to_string());
    sh::run(cargo.env(
        "LEADR_AUTH_SIMULATE_SCHEDULES",
        options.schedules.to_string(),
    ))
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    schedules: u64,
    seed: Option<u64>,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            schedules: 1_000_000,
            seed: None,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--schedules" => options.schedules = number::<u64>(word, words.next())?.max(1),
                "--seed" => options.seed = Some(number(word, words.next())?),
                _ => return Err(Failure::usage(format!("simulate does not know `{word}`"))),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&words("--schedules 7 --seed 9")).unwrap();
        let expected = Options {
            schedules: 7,
            seed: Some(9),
        };
        assert_eq!(options, expected);
        for line in ["--schedules", "--seed x", "now"] {
            assert!(
                Options::parse(&words(line)).unwrap_err().is_usage(),
                "{line}"
            );
        }
    }
}
