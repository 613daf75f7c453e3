//! `cargo xtask deploy`: what can be found wrong in `deploy/` with neither a container engine nor a running systemd.
//! Every finding is reported, each as `path: what is wrong`.
//!
//! The settings that the files name are compared with `docs/configuration.md`, which a test of the product compares with
//! the product. To add a rule, see [`mod@unit`], [`dockerfile`] or [`compose`].

mod compose;
mod dockerfile;
mod unit;

use std::collections::BTreeMap;
use std::fs;

use crate::no_arguments;
use crate::sh::{self, Failure, Outcome};

const UNIT: &str = "deploy/systemd/leadr-auth.service";
const ENVIRONMENT: &str = "deploy/systemd/leadr-auth.env";
const SYSUSERS: &str = "deploy/systemd/leadr-auth.sysusers";
const DOCKER: &str = "deploy/docker";

/// `deploy`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    no_arguments("deploy", arguments)?;
    run()
}

/// All rules, on the tree.
pub(crate) fn run() -> Outcome {
    let settings = Settings::read(&read("docs/configuration.md")?);
    let unit = read(UNIT)?;
    let mut faults = named(UNIT, unit::faults(&unit, &read(SYSUSERS)?, &settings));
    faults.extend(named(
        ENVIRONMENT,
        unit::environment_faults(&read(ENVIRONMENT)?, &settings),
    ));
    let path = format!("{DOCKER}/Dockerfile");
    let tree = dockerfile::Tree {
        toolchain: &read("rust-toolchain.toml")?,
        ignored: &read(".dockerignore")?,
        exists: &|source| sh::root().join(source).exists(),
    };
    faults.extend(named(
        &path,
        dockerfile::faults(&read(&path)?, &tree, &settings),
    ));
    for path in compose_files()? {
        faults.extend(named(&path, compose::faults(&read(&path)?, &settings)));
    }
    if cfg!(target_os = "linux") {
        faults.extend(named(UNIT, unit::analyze(&unit)?));
    } else {
        eprintln!("{UNIT}: systemd-analyze is Linux's, so this is without what it says");
    }
    report(&faults)
}

fn report(faults: &[String]) -> Outcome {
    match faults.len() {
        0 => Ok(()),
        count => Err(Failure::new(format!(
            "{count} faults:\n{}",
            faults.join("\n")
        ))),
    }
}

fn named(path: &str, faults: Vec<String>) -> Vec<String> {
    faults
        .into_iter()
        .map(|fault| format!("{path}: {fault}"))
        .collect()
}

fn read(path: &str) -> Outcome<String> {
    fs::read_to_string(sh::root().join(path)).map_err(Failure::when(path))
}

fn compose_files() -> Outcome<Vec<String>> {
    let entries = fs::read_dir(sh::root().join(DOCKER)).map_err(Failure::when(DOCKER))?;
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut paths: Vec<String> = names
        .filter(|name| {
            matches!(
                name.split('.').collect::<Vec<_>>()[..],
                ["compose", .., "yaml"]
            )
        })
        .map(|name| format!("{DOCKER}/{name}"))
        .collect();
    paths.sort();
    if paths.is_empty() {
        return Err(Failure::new(format!("{DOCKER}: has no compose file")));
    }
    Ok(paths)
}

/// What can be set, as `docs/configuration.md` says.
struct Settings {
    /// The default of each variable.
    defaults: BTreeMap<String, String>,
    /// `--listen` and so on.
    flags: Vec<String>,
}

impl Settings {
    /// Rows of its table: `| variable | flag | default | meaning |`, the first two in backticks.
    fn read(page: &str) -> Self {
        let mut settings = Self {
            defaults: BTreeMap::new(),
            flags: Vec::new(),
        };
        for line in page.lines().filter(|line| line.starts_with("| `")) {
            let mut cells = line.split('|').skip(1).map(str::trim);
            let (name, flag, default) = (cells.next(), cells.next(), cells.next());
            if let (Some(name), Some(flag), Some(default)) = (name, flag, default) {
                let name = name.trim_matches('`').to_owned();
                settings.defaults.insert(name, default.to_owned());
                settings.flags.push(flag.trim_matches('`').to_owned());
            }
        }
        settings
    }

    fn unknown(&self, name: &str) -> Option<String> {
        let known = self.defaults.contains_key(name);
        (!known).then(|| format!("{name} is no setting of docs/configuration.md"))
    }

    /// How long the process may take to end, in seconds, with nothing set.
    fn longest_stop(&self) -> Option<u64> {
        let seconds = |name| self.defaults.get(name)?.parse::<u64>().ok();
        seconds("SHUTDOWN_GRACE_SECONDS")?.checked_add(seconds("SHUTDOWN_TIMEOUT_SECONDS")?)
    }

    /// What is killed before it had its time loses requests, or the last uses of keys.
    fn stop_fault(&self, what: &str, value: Option<&str>) -> Option<String> {
        let Some(needed) = self.longest_stop() else {
            return Some(format!(
                "{what}: docs/configuration.md does not say how many seconds the process may take"
            ));
        };
        match value.and_then(seconds) {
            Some(seconds) if seconds >= needed.saturating_add(LAST_WRITES) => None,
            Some(seconds) => Some(format!(
                "{what} is {seconds} seconds, and the process may take {needed} and {LAST_WRITES} more"
            )),
            None => Some(format!("{what} is not said in whole seconds or minutes")),
        }
    }
}

/// How long the process may take, once requests have ended, to write down what it has noted, in seconds.
const LAST_WRITES: u64 = 20;

/// `90`, `90s`, `2m`, `2min`.
fn seconds(text: &str) -> Option<u64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    match unit {
        "" | "s" => Some(number),
        "m" | "min" => number.checked_mul(60),
        _ => None,
    }
}

/// Whether a variable of this name holds what nobody else may read; the name of a file may be read.
fn is_secret(name: &str) -> bool {
    let words = ["SECRET", "PASSWORD", "TOKEN", "API_KEY"];
    words.iter().any(|word| name.contains(word)) && !name.ends_with("_FILE")
}

/// Whether the image is named by a version, so that it does not become another one by itself.
fn is_pinned(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    let tag = name.split_once(':').map(|(_, tag)| tag);
    image.contains("@sha256:")
        || tag.is_some_and(|tag| !tag.is_empty() && !tag.starts_with("latest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tests of all rules take for docs/configuration.md.
    pub(super) fn settings() -> Settings {
        Settings::read(
            "# Configuration\n\n\
             | variable | flag | default | meaning |\n\
             |---|---|---|---|\n\
             | `DATABASE_URL` | `--database-url` | sqlite | Where. |\n\
             | `DATA_DIR` | `--data-dir` | ./data | Where files are. |\n\
             | `API_KEY_SECRET` | | a file | The secret. |\n\
             | `LISTEN` | `--listen` | 127.0.0.1:8000 | Where to listen. |\n\
             | `SHUTDOWN_GRACE_SECONDS` | `--shutdown-grace-seconds` | 5 | How long. |\n\
             | `SHUTDOWN_TIMEOUT_SECONDS` | `--shutdown-timeout-seconds` | 30 | How long. |\n",
        )
    }

    #[test]
    fn settings_are_read_from_the_table() {
        let settings = settings();
        assert_eq!(settings.defaults.len(), 6);
        assert!(settings.flags.contains(&"--data-dir".to_owned()));
        assert_eq!(settings.unknown("LISTEN"), None);
        assert!(settings.unknown("LISTEN_ON").is_some());
        assert!(settings.unknown("variable").is_some());
        assert_eq!(settings.longest_stop(), Some(35));
        assert_eq!(Settings::read("").longest_stop(), None);
    }

    #[test]
    fn the_page_is_written_so_that_it_can_be_read() {
        let settings = Settings::read(&read("docs/configuration.md").unwrap());
        assert_eq!(settings.unknown("DATABASE_URL"), None);
        assert!(settings.flags.contains(&"--listen".to_owned()));
    }

    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("90", Some(90)),
            ("90s", Some(90)),
            ("2m", Some(120)),
            ("2min", Some(120)),
            ("1m30s", None),
            ("infinity", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        let settings = settings();
        assert_eq!(settings.stop_fault("x", Some("55s")), None);
        for value in [Some("54s"), Some("soon"), None] {
            assert!(settings.stop_fault("x", value).is_some(), "{value:?}");
        }
    }

    #[test]
    fn images_need_a_tag_that_stays() {
        for image in [
            "postgres:17-bookworm",
            "gcr.io/distroless/cc-debian12:nonroot",
            "localhost:5000/x@sha256:00",
        ] {
            assert!(is_pinned(image), "{image}");
        }
        for image in [
            "postgres",
            "postgres:latest",
            "postgres:",
            "localhost:5000/x",
            "",
        ] {
            assert!(!is_pinned(image), "{image}");
        }
    }

    #[test]
    fn all_findings_are_reported_with_their_file() {
        let faults = named("a", vec!["x".to_owned(), "y".to_owned()]);
        let message = report(&faults).unwrap_err().message;
        assert!(message.contains("2 faults:\na: x\na: y"), "{message}");
        report(&[]).unwrap();
    }

    #[test]
    fn there_are_files_to_check() {
        assert!(
            compose_files()
                .unwrap()
                .contains(&"deploy/docker/compose.yaml".to_owned())
        );
    }
}
