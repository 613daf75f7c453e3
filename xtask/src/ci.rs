//! `cargo xtask ci`: everything that must pass before a change lands, cheapest first, up to the first failure.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::codegen::{self, Mode};
use crate::postgres::Database;
use crate::sh::{self, Outcome};
use crate::{
    crash, deploy, framing, fuzz_api, instructions, loom, migrate, no_arguments, races, revocation,
    rolling, slow_clients, test, tidy,
};

/// `ci`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    no_arguments("ci", arguments)?;
    let mut steps = Steps::default();
    let outcome = all(&mut steps);
    eprint!("{}", steps.summary());
    outcome
}

fn all(steps: &mut Steps) -> Outcome {
    steps.run("fmt", || {
        sh::run(&mut sh::cargo(["fmt", "--all", "--check"]))
    })?;
    steps.run("clippy", clippy)?;
    steps.run("doc", doc)?;
    steps.run("tidy", tidy::run)?;
    steps.run("deploy", deploy::run)?;
    // One database for all that need one: they keep apart by themselves, and each start takes seconds.
    let database = steps.run("database", Database::open)?;
    steps.run("codegen --check", || codegen::run(&database, Mode::Check))?;
    steps.run("migrate check", || migrate::check(&database))?;
    steps.run("test", || test::run(&database, &[]))?;
    steps.run("loom", loom::run)?;
    steps.run("instructions", instructions::run)?;
    steps.run("fuzz-api", fuzz_api::short)?;
    steps.run("crash", crash::short)?;
    steps.run("rolling", rolling::short)?;
    steps.run("framing", framing::short)?;
    steps.run("slow-clients", slow_clients::short)?;
    steps.run("revocation", revocation::short)?;
    steps.run("races", races::short)
}

fn clippy() -> Outcome {
    let mut cargo = sh::cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--locked",
    ]);
    sh::run(cargo.args(["--", "-D", "warnings"]))
}

fn doc() -> Outcome {
    let mut cargo = sh::cargo([
        "doc",
        "--workspace",
        "--no-deps",
        "--all-features",
        "--locked",
    ]);
    sh::run(
        cargo
            .arg("--document-private-items")
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// What was run, how long it took and how it ended.
#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration, bool)>,
}

impl Steps {
    fn run<T>(&mut self, name: &'static str, step: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let outcome = step();
        self.done.push((name, start.elapsed(), outcome.is_ok()));
        outcome
    }

    fn summary(&self) -> String {
        let mut text = String::from("\n");
        for (name, took, passed) in &self.done {
            let result = if *passed { "ok" } else { "FAILED" };
            let _ = writeln!(text, "{name:<16} {:>7.1} s  {result}", took.as_secs_f64());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sh::Failure;

    #[test]
    fn the_summary_lists_each_step_with_its_result() {
        let mut steps = Steps::default();
        steps.run("first", || Ok(())).unwrap();
        steps
            .run::<()>("second", || Err(Failure::new("no")))
            .unwrap_err();
        let summary = steps.summary();
        let lines: Vec<&str> = summary.trim().lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].starts_with("first") && lines[0].ends_with("ok"),
            "{summary}"
        );
        assert!(
            lines[1].starts_with("second") && lines[1].ends_with("FAILED"),
            "{summary}"
        );
    }
}
