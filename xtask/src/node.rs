//! The product as a process: built, started, killed or asked to end.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{Connection, Said};
use crate::process::{self, Background};
use crate::sh::{self, Failure, Outcome};
use crate::{env, postgres};

const READY_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

const PRODUCT: &str = "leadr-auth";

/// Which build to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Built in seconds where tests have been built: for the short forms.
    Dev,
    /// What is shipped.
    Release,
}

/// What it keeps accounts and keys in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Sqlite,
    Postgres,
}

impl Store {
    /// The one that an option names.
    pub(crate) fn named(value: Option<&str>) -> Outcome<Self> {
        match value {
            Some("sqlite") => Ok(Self::Sqlite),
            Some("postgres") => Ok(Self::Postgres),
            _ => Err(Failure::usage("--store takes sqlite or postgres")),
        }
    }
}

/// Builds the product, and answers where it is.
pub(crate) fn build(profile: Profile) -> Outcome<PathBuf> {
    build_with(profile, None)
}

/// The same, with a feature that no release has.
pub(crate) fn build_with(profile: Profile, feature: Option<&str>) -> Outcome<PathBuf> {
    if profile == Profile::Dev {
        return Ok(build_as_tests()?.join(PRODUCT));
    }
    let mut cargo = sh::cargo(["build", "--locked", "--release", "-p", "leadr-auth-app"]);
    if let Some(feature) = feature {
        cargo.args(["--features", feature]);
    }
    sh::run(&mut cargo)?;
    Ok(target_folder()?.join("release").join(PRODUCT))
}

/// A build that is there already, as the option `--program` names it; or one that is made now.
pub(crate) fn given_or_built(
    given: Option<&Path>,
    profile: Profile,
    feature: Option<&str>,
) -> Outcome<PathBuf> {
    match given {
        Some(program) => Ok(program.to_owned()),
        None => build_with(profile, feature),
    }
}

/// What the option `--program` says.
pub(crate) fn program(value: Option<&str>) -> Outcome<PathBuf> {
    let path = value.map(PathBuf::from);
    path.ok_or_else(|| Failure::usage("--program takes a path"))
}

/// Builds the product and the examples as `cargo test` does, and answers which folder they are in. Built one by one they would
/// have other features of what they depend on, and each would take a build of its own of most of that.
pub(crate) fn build_as_tests() -> Outcome<PathBuf> {
    let mut cargo = sh::cargo(["build", "--quiet", "--locked", "--workspace"]);
    // This very program is running.
    cargo.args(["--exclude", "xtask"]);
    sh::run(cargo.args(["--all-features", "--bins", "--examples"]))?;
    Ok(target_folder()?.join("debug"))
}

/// Where cargo puts what it builds, whichever way that was chosen.
pub(crate) fn target_folder() -> Outcome<PathBuf> {
    let mut cargo = sh::cargo(["metadata", "--format-version", "1", "--no-deps", "--locked"]);
    let text = sh::output(&mut cargo)?;
    let metadata: Value = serde_json::from_str(&text).map_err(Failure::when("cargo metadata"))?;
    let folder = metadata.get("target_directory").and_then(Value::as_str);
    folder
        .map(PathBuf::from)
        .ok_or_else(|| Failure::new("cargo metadata: no target_directory"))
}

/// A folder of one run, open to its owner only. It goes with this value, unless it is kept.
pub(crate) struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    pub(crate) fn new(name: &str) -> Outcome<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("leadr-auth-{name}-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(Failure::when(path.display()))?;
        Ok(Self { path, keep: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it, for somebody to look at.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// How to start one node, again and again.
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    /// A program to run it under, such as `ip netns exec`.
    pub(crate) prefix: Vec<String>,
    /// Where it listens.
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) settings: Vec<(&'static str, String)>,
    /// Where it runs and where its log goes.
    pub(crate) folder: PathBuf,
}

impl Plan {
    /// On a port that is free now.
    pub(crate) fn new(
        name: &str,
        program: &Path,
        folder: &Path,
        settings: Vec<(&'static str, String)>,
    ) -> Outcome<Self> {
        Ok(Self {
            name: name.to_owned(),
            program: program.to_owned(),
            prefix: Vec::new(),
            address: Ipv4Addr::LOCALHOST,
            port: postgres::free_port()?,
            settings,
            folder: folder.to_owned(),
        })
    }

    /// The program with nothing of the caller's environment, which may hold settings of its own.
    pub(crate) fn command(&self, subcommand: &str) -> Command {
        let mut command = process::tethered("KILL", &self.prefix, &self.program);
        command
            .env_clear()
            .env("PATH", env::path())
            .env("LISTEN", self.listens_at().to_string())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .arg(subcommand);
        command
    }

    /// Where clients find it.
    pub(crate) fn listens_at(&self) -> SocketAddr {
        SocketAddr::from((self.address, self.port))
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self) -> Outcome<Node> {
        let log = self.folder.join(format!("{}.log", self.name));
        let mut command = self.command("serve");
        let begun = Instant::now();
        let process = Background::start(&self.name, &mut command, &log)?;
        let mut node = Node {
            process,
            ready_after: Duration::ZERO,
        };
        node.wait_until_ready(self.listens_at(), begun)
            .map_err(|failure| {
                Failure::new(format!(
                    "{}; its log ends with{}",
                    failure.message,
                    process::tail(&log)
                ))
            })?;
        Ok(node)
    }
}

/// A running node.
pub(crate) struct Node {
    process: Background,
    /// How long it took from its start until it was ready.
    pub(crate) ready_after: Duration,
}

impl Node {
    fn wait_until_ready(&mut self, address: SocketAddr, begun: Instant) -> Outcome {
        while begun.elapsed() < READY_TIMEOUT {
            self.process.still_runs()?;
            let answer =
                Connection::at(address, READY_TIMEOUT).send("GET", "/readyz", Said::default());
            if answer.is_ok_and(|answer| answer.status == 200) {
                self.ready_after = begun.elapsed();
                return Ok(());
            }
            thread::sleep(POLL);
        }
        Err(Failure::new(format!(
            "not ready after {} s",
            READY_TIMEOUT.as_secs()
        )))
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as a power switch would, as far as the process is concerned: nothing of it runs any more.
    pub(crate) fn kill(self) {
        drop(self.process);
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) -> Outcome {
        process::signal(signal, self.process.id())
    }

    /// Whether it runs still.
    pub(crate) fn still_runs(&mut self) -> Outcome {
        self.process.still_runs()
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(mut self, within: Duration) -> Outcome<ExitStatus> {
        self.signal("TERM")?;
        let asked = Instant::now();
        while asked.elapsed() < within {
            if let Some(status) = self.process.ended()? {
                return Ok(status);
            }
            thread::sleep(POLL);
        }
        Err(Failure::new(format!(
            "still running {} s after SIGTERM",
            within.as_secs()
        )))
    }
}
