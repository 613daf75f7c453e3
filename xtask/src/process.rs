//! Processes that must not outlive this one.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::sh::{self, Failure, Outcome};

/// A command that the kernel stops with `signal` when this process ends, however it ends; `prefix` is a program to run
/// it under, such as `taskset`.
///
/// Where `setpriv` is missing (it is Linux's), the command runs without that, and is stopped on an orderly end only.
pub(crate) fn tethered(signal: &str, prefix: &[String], program: impl AsRef<OsStr>) -> Command {
    let death = format!("--pdeathsig={signal}");
    let mut words: Vec<&OsStr> = Vec::new();
    if sh::succeeds(sh::command("setpriv").args([&death, "--", "true"])) {
        words.extend(["setpriv", &death, "--"].map(OsStr::new));
    }
    words.extend(prefix.iter().map(OsStr::new));
    words.push(program.as_ref());
    let mut words = words.into_iter();
    let mut command = sh::command(words.next().unwrap_or_default());
    command.args(words);
    // A group of its own: Ctrl-C at the terminal reaches this process, and through its end the child, in one way only.
    command.process_group(0);
    command
}

/// A child in the background, killed when this value is dropped.
pub(crate) struct Background {
    child: Child,
    name: String,
}

impl Background {
    /// Starts it, with what it prints going to the file `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Outcome<Self> {
        let file = File::create(log).map_err(Failure::when(log.display()))?;
        let errors = file.try_clone().map_err(Failure::when(log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .map_err(Failure::when(format!("starting {name}")))?;
        Ok(Self {
            child,
            name: name.to_owned(),
        })
    }

    /// Its number, by which others can watch it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended by itself.
    pub(crate) fn still_runs(&mut self) -> Outcome {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Failure::new(format!("{} ended: {status}", self.name))),
            Err(error) => Err(Failure::new(format!("{}: {error}", self.name))),
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        self.child
            .try_wait()
            .map_err(Failure::when(self.name.as_str()))
    }

    /// Waits for its end, which somebody else must bring about.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to one process.
pub(crate) fn signal(signal: &str, process: u32) -> Outcome {
    // The shell's own `kill`: a bare Debian has no program of that name.
    let kill = format!("kill -{signal} {process}");
    sh::run(sh::command("sh").args(["-c", &kill]))
}

/// The last lines of a log, for a message.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(20));
    last.fold(String::new(), |text, line| text + "\n  " + line)
}
