//! `cargo xtask fuzz`: inputs that a fuzzer makes up, for every parser that strangers reach.
//!
//! What is tested, and what has to hold, stands in `tests/hostile`; `fuzz/` has libFuzzer call it. It takes the nightly compiler,
//! for the instrumentation. `ci` has the short form of it among its tests: every target over the inputs that are kept.
//!
//! New inputs go to a folder beside the build. With `--keep`, those of them that reach something which no kept one does are put
//! into `fuzz/corpus`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::node;
use crate::number;
use crate::process::{self, Background};
use crate::sh::{self, Failure, Outcome};

/// What drives the fuzzer.
const CARGO_FUZZ: &str = "0.13.2";

/// The targets, and how many of a hundred executions each gets: those that go through the whole application are slow.
const TARGETS: [(&str, u64); 6] = [
    ("key", 24),
    ("header", 8),
    ("timestamp", 26),
    ("scope", 26),
    ("cursor", 8),
    ("body", 8),
];

/// The longest that one input may take, in seconds. None should take a tenth of one.
const TIMEOUT: u32 = 20;

/// `fuzz [--target <name>] [--executions <n>] [--keep]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    let fuzzer = Fuzzer::find()?;
    fuzzer.build()?;
    let mut done = Vec::new();
    for (target, executions) in options.plan() {
        println!("{target}: {executions} executions");
        done.push(fuzzer.run(target, executions)?);
        if options.keep {
            fuzzer.keep(target)?;
        }
    }
    print!("{}", summary(&done));
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    target: Option<&'static str>,
    executions: u64,
    keep: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            target: None,
            executions: 10_000_000,
            keep: false,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--target" => options.target = Some(target(words.next())?),
                "--executions" => {
                    options.executions = number::<u64>(word, words.next())?.max(100);
                }
                "--keep" => options.keep = true,
                _ => return Err(Failure::usage(format!("fuzz does not know `{word}`"))),
            }
        }
        Ok(options)
    }

    /// Each target that is to be run, with its executions.
    fn plan(&self) -> Vec<(&'static str, u64)> {
        match self.target {
            Some(target) => vec![(target, self.executions)],
            None => TARGETS
                .iter()
                .map(|(target, share)| (*target, self.executions * share / 100))
                .collect(),
        }
    }
}

fn target(name: Option<&str>) -> Outcome<&'static str> {
    let names = TARGETS.map(|(known, _)| known);
    let known = names.into_iter().find(|known| Some(*known) == name);
    known.ok_or_else(|| Failure::usage(format!("--target takes one of {}", names.join(", "))))
}

/// What came of one target.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    target: &'static str,
    executions: u64,
    seconds: u64,
    /// Inputs that reached something new.
    new: u64,
}

/// cargo-fuzz, and where it puts what it builds and finds.
struct Fuzzer {
    program: PathBuf,
    folder: PathBuf,
}

impl Fuzzer {
    /// Finds it, or installs it.
    fn find() -> Outcome<Self> {
        let nightly = ["run", "nightly", "rustc", "--version"];
        if !sh::succeeds(sh::command("rustup").args(nightly)) {
            return Err(Failure::new(
                "fuzzing takes the nightly compiler, for its instrumentation: \
                 install it with `rustup toolchain install nightly --profile minimal`",
            ));
        }
        let target = node::target_folder()?;
        let tools = target.join(format!("tools/cargo-fuzz-{CARGO_FUZZ}"));
        let program = tools.join("bin/cargo-fuzz");
        if !program.is_file() {
            let mut cargo = sh::cargo(["install", "--locked", "--version", CARGO_FUZZ]);
            sh::run(cargo.arg("cargo-fuzz").arg("--root").arg(&tools))?;
        }
        Ok(Self {
            program,
            folder: target.join("fuzz"),
        })
    }

    /// A subcommand of it, under the nightly compiler.
    fn command(&self, subcommand: &str) -> Command {
        let mut command = process::tethered("KILL", &[], "rustup");
        command.args(["run", "nightly"]).arg(&self.program);
        // Nothing here or below it is unsafe, so no sanitizer has anything to find that is ours.
        command.args([subcommand, "--sanitizer", "none"]);
        command.arg("--fuzz-dir").arg(sh::root().join("fuzz"));
        command.arg("--target-dir").arg(&self.folder);
        // Those of the cargo that runs this program.
        command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
        command.current_dir(sh::root().join("fuzz"));
        command
    }

    fn build(&self) -> Outcome {
        sh::run(&mut self.command("build"))
    }

    /// The inputs that were found on this machine.
    fn found(&self, target: &str) -> PathBuf {
        self.folder.join("corpus").join(target)
    }

    /// Runs a target; what it finds wrong is a failure that says where the input is.
    fn run(&self, target: &'static str, executions: u64) -> Outcome<Done> {
        let found = self.found(target);
        fs::create_dir_all(&found).map_err(Failure::when(found.display()))?;
        let log = self.folder.join(format!("{target}.log"));
        let mut command = self.command("run");
        command.arg(target).arg(&found).arg(kept(target));
        command.args(["--", &format!("-runs={executions}"), "-print_final_stats=1"]);
        command.arg(format!("-timeout={TIMEOUT}"));
        let mut process = Background::start(target, &mut command, &log)?;
        let status = process.wait().map_err(Failure::when(target))?;
        let said = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        if !status.success() {
            let input = written_to(&said).unwrap_or("nowhere");
            let why = panic_of(&said).map_or_else(|| process::tail(&log), str::to_owned);
            return Err(Failure::new(format!(
                "{target}: {status}; the input is in {input}, and the whole log in {}\n{why}",
                log.display(),
            )));
        }
        Done::read(target, &said)
            .ok_or_else(|| Failure::new(format!("{target}: no figures in {}", log.display())))
    }

    /// Puts what reaches something new beside the kept inputs.
    fn keep(&self, target: &'static str) -> Outcome {
        let mut command = self.command("run");
        command
            .arg(target)
            .arg(kept(target))
            .arg(self.found(target));
        // By what code is reached, and not by how often: the corpus is to stay small.
        sh::run(command.args(["--", "-merge=1", "-use_counters=0"]))
    }
}

/// The folder of the inputs that are kept.
fn kept(target: &str) -> PathBuf {
    Path::new("corpus").join(target)
}

/// Where libFuzzer says that it wrote the input that failed.
fn written_to(said: &str) -> Option<&str> {
    let (_, path) = said.rsplit_once("Test unit written to ")?;
    path.lines().next()
}

/// What a failed assertion says of itself.
fn panic_of(said: &str) -> Option<&str> {
    let (_, said) = said.split_once("panicked at ")?;
    ["\nstack backtrace:", "\nnote: "]
        .iter()
        .find_map(|end| Some(said.split_once(end)?.0))
}

impl Done {
    /// From the figures that libFuzzer prints at its end.
    fn read(target: &'static str, said: &str) -> Option<Self> {
        let stat = |name: &str| {
            let (_, rest) = said.rsplit_once(&format!("stat::{name}:"))?;
            rest.lines().next()?.trim().parse().ok()
        };
        let (_, rest) = said.rsplit_once(" runs in ")?;
        Some(Self {
            target,
            executions: stat("number_of_executed_units")?,
            seconds: rest.split(' ').next()?.parse().ok()?,
            new: stat("new_units_added")?,
        })
    }
}

fn summary(done: &[Done]) -> String {
    let line = |target: &str, executions: u64, seconds: u64, new: u64| {
        let rate = executions / seconds.max(1);
        format!("{target:<10} {executions:>11} {seconds:>8} {rate:>9} {new:>8}\n")
    };
    let mut text = format!(
        "\n{:<10} {:>11} {:>8} {:>9} {:>8}\n",
        "target", "executions", "seconds", "per s", "new"
    );
    for one in done {
        text += &line(one.target, one.executions, one.seconds, one.new);
    }
    let sum = |of: fn(&Done) -> u64| done.iter().map(of).sum();
    text + &line(
        "all",
        sum(|done| done.executions),
        sum(|done| done.seconds),
        sum(|done| done.new),
    ) + "no input failed\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&words("--target body --executions 700 --keep")).unwrap();
        assert_eq!(options.plan(), [("body", 700)]);
        assert!(options.keep);
        for line in ["--target", "--target bodies", "--executions x", "now"] {
            assert!(
                Options::parse(&words(line)).unwrap_err().is_usage(),
                "{line}"
            );
        }
    }

    #[test]
    fn the_shares_are_all_of_it() {
        let options = Options::parse(&[]).unwrap();
        let sum: u64 = options
            .plan()
            .iter()
            .map(|(_, executions)| executions)
            .sum();
        assert_eq!(sum, 10_000_000);
    }

    #[test]
    fn what_libfuzzer_says_is_read() {
        let said = "#2\tINITED cov: 1\nDone 1000 runs in 7 second(s)\n\
                    stat::number_of_executed_units: 1001\nstat::average_exec_per_sec:     143\n\
                    stat::new_units_added:          12\nstat::slowest_unit_time_sec:    0\n";
        let done = Done {
            target: "key",
            executions: 1001,
            seconds: 7,
            new: 12,
        };
        assert_eq!(Done::read("key", said), Some(done));
        assert_eq!(Done::read("key", "killed"), None);
        let failed = "thread panicked at a.rs:1:2:\nodd\nnote: run with `RUST_BACKTRACE=1`\n==1==\n\
                      Test unit written to artifacts/key/crash-1\nBase64: AA==\n";
        assert_eq!(written_to(failed), Some("artifacts/key/crash-1"));
        assert_eq!(panic_of(failed), Some("a.rs:1:2:\nodd"));
        assert_eq!((written_to(said), panic_of(said)), (None, None));
    }
}
