//! Starts the binary, reads what it says, and ends it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A process of the binary. It ends with this value, whatever becomes of the test.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    log: Option<std::thread::JoinHandle<String>>,
    /// What it has said so far on standard output.
    pub(crate) said: Vec<String>,
}

/// The binary with nothing of this process's environment.
pub(crate) fn binary(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leadr-auth"));
    command
        .env_clear()
        .args(arguments)
        .envs(environment.iter().copied());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Running {
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = binary(arguments, environment).spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut log = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = log.read_to_string(&mut text);
            text
        });
        Self {
            child,
            lines,
            log: Some(log),
            said: Vec::new(),
        }
    }

    /// Waits for a line of standard output that contains `wanted`.
    pub(crate) fn wait_for(&mut self, wanted: &str) -> String {
        loop {
            let line = self
                .lines
                .recv_timeout(Duration::from_secs(30))
                .unwrap_or_else(|_| panic!("no line with {wanted:?} after {:?}", self.said));
            self.said.push(line.clone());
            if line.contains(wanted) {
                return line;
            }
        }
    }

    /// The address that it says it listens on.
    pub(crate) fn base(&mut self) -> String {
        let line = self.wait_for("listens on ");
        line.split_once("listens on ").unwrap().1.to_owned()
    }

    /// Sends a signal by name and waits for the end: how it ended, and its log.
    pub(crate) fn end(mut self, signal: &str) -> (ExitStatus, String) {
        // The shell's own `kill`: a bare Debian has no program of that name.
        let kill = format!("kill {signal} {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
        let status = self.child.wait().unwrap();
        self.said.extend(self.lines.iter());
        (status, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
