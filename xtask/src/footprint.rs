//! `cargo xtask footprint`: how soon a server on a file with many keys is ready, and how much memory it holds while nobody
//! asks it anything.
//!
//! The figures are told, not judged: a busy machine starts slowly. What is said of them in `docs/benchmarks.md` comes from
//! here.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::chance::Chance;
use crate::load::{self, Spread};
use crate::node::{self, Node, Plan, Profile, Scratch};
use crate::number;
use crate::sh::{self, Failure, Outcome};

const END_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a server is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(2);
const MOMENT: &str = "2026-01-01T00:00:00Z";

/// `footprint [--keys <n>] [--starts <n>] [--dev]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    let program = node::build(options.profile)?;
    let scratch = Scratch::new("footprint")?;
    let data = scratch.path().join("data").display().to_string();
    let plan = Plan::new(
        "leadr-auth",
        &program,
        scratch.path(),
        vec![("DATA_DIR", data)],
    )?;
    end(plan.start()?)?;
    let file = scratch.path().join("keys.jsonl");
    write_records(&file, options.keys).map_err(Failure::when(file.display()))?;
    let secret = scratch.path().join("data/secret");
    sh::run(
        plan.command("import")
            .arg("--secret-file")
            .arg(secret)
            .arg(&file),
    )?;

    let (mut ready, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..options.starts {
        let node = plan.start()?;
        ready.push(node.ready_after.as_secs_f64() * 1e3);
        thread::sleep(IDLE);
        memory.push(resident(node.id())?);
        end(node)?;
    }
    println!(
        "{} keys in the file, {} starts:\n{}{}",
        options.keys,
        options.starts,
        told("ready after, ms", ready)?,
        told("resident memory while idle, MB", memory)?
    );
    Ok(())
}

fn told(what: &str, figures: Vec<f64>) -> Outcome<String> {
    let Some(Spread { min, median, max }) = Spread::of(figures) else {
        return Err(Failure::usage("--starts has to be 1 at least"));
    };
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {what:<32} {median:>6.1}  ({min:.1} to {max:.1})");
    Ok(text)
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    keys: usize,
    starts: usize,
    profile: Profile,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            keys: 100_000,
            starts: 20,
            profile: Profile::Release,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--keys" => options.keys = number(word, words.next())?,
                "--starts" => options.starts = number(word, words.next())?,
                "--dev" => options.profile = Profile::Dev,
                _ => {
                    return Err(Failure::usage(format!("footprint does not know `{word}`")));
                }
            }
        }
        Ok(options)
    }
}

fn end(node: Node) -> Outcome {
    let status = node.terminate(END_TIMEOUT)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("the server ended with {status}")))
    }
}

/// An account and its keys, as `leadr-auth import` reads them. No key has these hashes: none is
/// presented.
fn write_records(path: &Path, keys: usize) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let header = json!({
        "format": "leadr-auth",
        "version": 1,
        "secret_check": null,
        "accounts": 1,
        "keys": keys,
    });
    writeln!(file, "{header}")?;
    let mut chance = Chance::new(3);
    let account = chance.uuid();
    let record = json!({ "account": {
        "id": account,
        "name": "Many Keys",
        "slug": "many-keys",
        "status": "active",
        "role": "tenant",
        "created_at": MOMENT,
        "updated_at": MOMENT,
        "deleted_at": null,
    }});
    writeln!(file, "{record}")?;
    for n in 0..keys {
        let secret = chance.bytes();
        let prefix: String = load::key_of(&secret).chars().take(14).collect();
        let record = json!({ "key": {
            "id": chance.uuid(),
            "account_id": account,
            "name": format!("Key {n}"),
            "key_hash": load::hex(&chance.bytes()),
            "key_prefix": prefix,
            "status": "active",
            "last_used_at": null,
            "expires_at": null,
            "created_at": MOMENT,
            "updated_at": MOMENT,
            "deleted_at": null,
        }});
        writeln!(file, "{record}")?;
    }
    file.flush()
}

/// How much of a process is in memory, in MB (of 1,000,000 bytes).
fn resident(process: u32) -> Outcome<f64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).map_err(Failure::when(&path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<f64>().ok())
        .map(|kibibytes| kibibytes * 1024.0 / 1e6)
        .ok_or_else(|| Failure::new(format!("{path} has no VmRSS")))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn options_are_understood() {
        let words =
            |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
        let parsed = Options::parse(&words("--keys 5 --starts 2 --dev")).unwrap();
        let expected = Options {
            keys: 5,
            starts: 2,
            profile: Profile::Dev,
        };
        assert_eq!(parsed, expected);
        for line in ["--keys", "--starts many", "--store postgres"] {
            assert!(
                Options::parse(&words(line)).unwrap_err().is_usage(),
                "{line}"
            );
        }
        assert!(told("nothing", Vec::new()).unwrap_err().is_usage());
    }

    #[test]
    fn records_are_lines_of_json_and_no_two_keys_are_one() {
        let path = std::env::temp_dir().join(format!("footprint-{}", std::process::id()));
        write_records(&path, 100).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 102);
        assert_eq!(lines[0]["keys"], 100);
        let mut prefixes: Vec<_> = lines[2..]
            .iter()
            .map(|line| line["key"]["key_prefix"].as_str().unwrap())
            .collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        assert_eq!(prefixes.len(), 100);
        assert!(prefixes.iter().all(|prefix| prefix.len() == 14));
    }

    #[test]
    fn memory_is_read() {
        assert!(resident(std::process::id()).unwrap() > 0.1);
    }
}
