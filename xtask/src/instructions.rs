//! `cargo xtask instructions`: how many instructions one verification takes, so that a change which makes it dearer is seen
//! where time is too uneven to show it.
//!
//! A program verifies one key so many times under valgrind's callgrind, which counts; the difference of two runs, divided by
//! the difference of their verifications, is what one takes. `docs/instructions.json` has what it took when somebody last
//! looked; the count is of this code, this compiler and this processor's features, so a new toolchain needs new figures.
//!
//! Requests that are answered alike, whatever the reason for which their key is refused, have to take as many as each other: that
//! is compared within one run, and nothing of it is written down.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::Value;

use crate::sh::{self, Failure, Outcome};
use crate::{apt, node};

const FILE: &str = "docs/instructions.json";
const SHAPES: &[&str] = &["forward-auth", "verify", "in-process", "livez"];
/// How often each run verifies. In thousands the clock's ticks, and the task that writes uses down, come to nothing.
const RUNS: [u32; 2] = [500, 4_500];
/// What is answered alike: whatever is known of the key, and wherever that is looked up.
const ALIKE: &[&[&str]] = &[
    &[
        "refused-unknown",
        "refused-wrong-secret",
        "refused-revoked",
        "refused-expired",
    ],
    &[
        "managed-unknown",
        "managed-wrong-secret",
        "managed-revoked",
        "managed-expired",
    ],
    &["asked-unknown", "asked-wrong-secret", "asked-others"],
];
/// By how much the dearest of these may be dearer than the cheapest, in percent. How the memory that a request needs is found makes
/// up to two; without the hash that is computed where no key was found, a refusal is cheaper by a fifth.
const LIKENESS: f64 = 2.5;
/// How much dearer it may be, in percent. Runs of one binary differ by some hundredths of a percent, as the maps' random seeds
/// fall and what runs beside; the rest is for what a change elsewhere does to inlining.
const TOLERANCE: f64 = 3.0;

/// `instructions [--write]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    match arguments {
        [] => run(),
        [word] if word == "--write" => write(&count(&program()?, SHAPES)?),
        [word, ..] => Err(Failure::usage(format!(
            "instructions does not know `{word}`"
        ))),
    }
}

/// Counts, and compares with what is written down.
pub(crate) fn run() -> Outcome {
    let text = fs::read_to_string(sh::root().join(FILE)).map_err(Failure::when(FILE))?;
    let known: Value = serde_json::from_str(&text).map_err(Failure::when(FILE))?;
    let program = program()?;
    for group in ALIKE {
        let told = judge_alike(&count(&program, group)?).map_err(Failure::new)?;
        eprintln!("{told}");
    }
    let mut faults = Vec::new();
    for (shape, count) in count(&program, SHAPES)? {
        let before = known.get(shape).and_then(Value::as_f64);
        let judged = judge(shape, before, count);
        match &judged {
            Ok(told) | Err(told) => eprintln!("{told}"),
        }
        faults.extend(judged.err());
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{}\nif that is meant, `cargo xtask instructions --write` writes it down",
        faults.join("\n")
    )))
}

/// What there is to say of a count, and whether it is too high.
fn judge(shape: &str, before: Option<f64>, count: f64) -> Result<String, String> {
    let Some(before) = before else {
        return Err(format!(
            "{shape}: {count:.0} instructions, and none are written down"
        ));
    };
    let percent = (count / before - 1.0) * 100.0;
    let told = format!(
        "{shape}: {count:.0} instructions, {percent:+.2} % of the {before:.0} written down"
    );
    if percent > TOLERANCE {
        Err(told)
    } else if percent < -TOLERANCE {
        Ok(format!(
            "{told}: write it down, by `cargo xtask instructions --write`"
        ))
    } else {
        Ok(told)
    }
}

fn write(counts: &[(&'static str, f64)]) -> Outcome {
    // As whole numbers, which JSON of a float is not.
    let lines: Vec<String> = counts
        .iter()
        .map(|(shape, count)| format!("  \"{shape}\": {count:.0}"))
        .collect();
    let text = format!("{{\n{}\n}}", lines.join(",\n"));
    eprintln!("{text}");
    fs::write(sh::root().join(FILE), text + "\n").map_err(Failure::when(FILE))
}

/// What there is to say of counts that are to be the same, and whether they are not.
fn judge_alike(counts: &[(&str, f64)]) -> Result<String, String> {
    let least = counts
        .iter()
        .map(|(_, count)| *count)
        .fold(f64::INFINITY, f64::min);
    let most = counts.iter().map(|(_, count)| *count).fold(0.0, f64::max);
    let percent = (most / least - 1.0) * 100.0;
    let each = counts
        .iter()
        .map(|(shape, count)| format!("{shape}: {count:.0}"));
    let each = each.collect::<Vec<_>>().join(", ");
    if percent > LIKENESS {
        Err(format!(
            "{each}: what is answered alike differs by {percent:.2} %"
        ))
    } else {
        Ok(format!(
            "{each} instructions, which differ by {percent:.2} %"
        ))
    }
}

fn program() -> Outcome<PathBuf> {
    if sh::find("valgrind").is_none() {
        apt::install(
            "valgrind",
            "valgrind, which counts instructions, is not there",
            "run `sudo apt-get install valgrind`",
        )?;
    }
    build()
}

/// What each takes, with as many runs at once as there are cores: what else runs does not count.
fn count(program: &Path, shapes: &[&'static str]) -> Outcome<Vec<(&'static str, f64)>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut counts = Vec::new();
    for some in shapes.chunks(cores) {
        let together: Vec<Outcome<f64>> = thread::scope(|scope| {
            let start = |shape: &&'static str| {
                let shape = *shape;
                scope.spawn(move || of_one(program, shape))
            };
            let running: Vec<_> = some.iter().map(start).collect();
            let panicked = |_| Err(Failure::new("counting panicked"));
            let ended = running.into_iter();
            ended
                .map(|run| run.join().unwrap_or_else(panicked))
                .collect()
        });
        for (shape, count) in some.iter().zip(together) {
            counts.push((*shape, count?));
        }
    }
    Ok(counts)
}

fn of_one(program: &Path, shape: &str) -> Outcome<f64> {
    let [few, many] = RUNS;
    let difference = collected(program, shape, many)? - collected(program, shape, few)?;
    Ok(difference / f64::from(many - few))
}

/// In a profile of its own: optimised as what ships, but without the pass over the whole program, which takes minutes.
fn build() -> Outcome<PathBuf> {
    let mut cargo = sh::cargo(["build", "--locked", "--profile", "counted"]);
    sh::run(cargo.args(["-p", "leadr-auth-http", "--example", "instructions"]))?;
    Ok(node::target_folder()?.join("counted/examples/instructions"))
}

/// How many instructions the whole program took.
fn collected(program: &Path, shape: &str, times: u32) -> Outcome<f64> {
    let mut command = sh::command("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .arg(shape)
        .arg(times.to_string());
    let output = command.output().map_err(Failure::when("valgrind"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let count = output.status.success().then(|| read(&text)).flatten();
    count.ok_or_else(|| Failure::new(format!("valgrind counted nothing:\n{text}")))
}

fn read(text: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    line?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read() {
        assert_eq!(read("==1== \n==1== Collected : 12345\n"), Some(12_345.0));
        assert_eq!(read("==1== nothing"), None);
    }

    #[test]
    fn what_is_answered_alike_may_not_differ() {
        assert!(judge_alike(&[("a", 1000.0), ("b", 1024.0), ("c", 1001.0)]).is_ok());
        let told = judge_alike(&[("a", 1000.0), ("b", 1026.0)]).unwrap_err();
        assert!(told.contains("2.60 %"), "{told}");
    }

    #[test]
    fn only_what_is_dearer_fails() {
        assert!(judge("verify", Some(1000.0), 1031.0).is_err());
        assert!(judge("verify", Some(1000.0), 1029.0).is_ok());
        let cheaper = judge("verify", Some(1000.0), 900.0).unwrap();
        assert!(cheaper.contains("--write"), "{cheaper}");
        assert!(judge("verify", None, 1.0).is_err());
    }
}
