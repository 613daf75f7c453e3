//! Starts the binary as a user does, reads what it says, and ends it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a test waits for what is sure to come, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_mins(2);

/// A free port of this machine's.
pub(crate) const ANYWHERE: (&str, &str) = ("LISTEN", "127.0.0.1:0");

/// Time for the database's answers on such a machine, where it is not time that is being tested.
pub(crate) const PATIENT: (&str, &str) = ("DATABASE_TIMEOUT_MS", "20000");

/// A directory to start processes in, so that what they make by default is nobody else's.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A process of the server. It ends with this value, whatever becomes of the test.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    log: Option<JoinHandle<String>>,
    /// What it has said so far on standard output.
    pub(crate) said: Vec<String>,
    /// Where it runs, if that is nobody else's.
    place: Option<Place>,
}

/// What a folder holds: of each file its mode and its content.
pub(crate) type Files = BTreeMap<PathBuf, (u32, Vec<u8>)>;

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
    }

    pub(crate) fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Everything that is here now.
    pub(crate) fn files(&self) -> Files {
        let mut files = Files::new();
        collect(self.folder.path(), &mut files);
        files
    }

    /// The binary with nothing of this process's environment, to be run here.
    pub(crate) fn command(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leadr-auth"));
        command
            .env_clear()
            .current_dir(self.folder.path())
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A line for the shell, run here; `$LEADR` is the binary.
    pub(crate) fn shell(&self, line: &str, environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new("sh");
        command
            .env_clear()
            .env("LEADR", env!("CARGO_BIN_EXE_leadr-auth"))
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir(self.folder.path())
            .args(["-c", line])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        Running::spawn(self.command(arguments, environment)).ended()
    }

    /// Runs the binary to its end and sees that it ended with this code.
    pub(crate) fn tool(&self, code: i32, arguments: &[&str]) -> Ended {
        self.run(arguments, &[]).with(code)
    }

    /// As [`Place::tool`], with something on standard input.
    pub(crate) fn tell(&self, code: i32, arguments: &[&str], input: impl AsRef<[u8]>) -> Ended {
        let mut command = self.command(arguments, &[]);
        command.stdin(Stdio::piped());
        let mut running = Running::spawn(command);
        // It may end without having read everything.
        let _ = running
            .child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_ref());
        running.ended().with(code)
    }

    /// Runs a line of the shell to its end.
    pub(crate) fn sh(&self, line: &str) -> Ended {
        Running::spawn(self.shell(line, &[])).ended()
    }

    /// Starts the server here.
    pub(crate) fn serve(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Running {
        Running::spawn(self.command(arguments, environment))
    }

    /// Starts a server here whose store is new, and answers it with its address and its first key.
    pub(crate) fn first_start(&self) -> (Running, String, String) {
        let mut running = self.serve(&["serve"], &[ANYWHERE]);
        let base = running.base();
        let key = running.first_key();
        (running, base, key)
    }

    /// Starts a server once and ends it, so that there is a store. Answers its first key.
    pub(crate) fn make_store(&self) -> String {
        let (running, _, key) = self.first_start();
        let (status, log) = running.end("-TERM");
        assert_eq!(status.code(), Some(0), "{log}");
        key
    }

    /// Starts a server here whose store is there, and answers it with its address when it is ready.
    pub(crate) fn start_again(&self) -> (Running, String) {
        let mut running = self.serve(&["serve"], &[ANYWHERE]);
        let base = running.base();
        running.wait_for("ready");
        (running, base)
    }
}

fn collect(folder: &Path, files: &mut Files) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            files.insert(path.clone(), (mode, Vec::new()));
            collect(&path, files);
        } else {
            let content = fs::read(&path).unwrap_or_default();
            files.insert(path, (mode, content));
        }
    }
}

impl Ended {
    /// Sees that it ended with this code.
    pub(crate) fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }

    /// Sees that it complained in these words.
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(
                self.err.contains(word),
                "{word:?} is not in: {}\n{}",
                self.err,
                self.out
            );
        }
        self
    }

    /// What a script reads.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out, self.err))
    }
}

impl Running {
    /// Starts the server in a directory of its own.
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let place = Place::new();
        let mut running = place.serve(arguments, environment);
        running.place = Some(place);
        running
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
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
            place: None,
        }
    }

    /// Waits for a line of standard output that contains `wanted`.
    pub(crate) fn wait_for(&mut self, wanted: &str) -> String {
        self.wait_for_any(&[wanted])
    }

    /// Waits for a line of standard output that contains one of `wanted`.
    pub(crate) fn wait_for_any(&mut self, wanted: &[&str]) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                let _ = self.child.kill();
                let log = self.log.take().map(|log| log.join().unwrap());
                panic!("no line with {wanted:?} after {:?}: {log:?}", self.said);
            };
            self.said.push(line.clone());
            if wanted.iter().any(|wanted| line.contains(wanted)) {
                return line;
            }
        }
    }

    /// The address that it says it listens on.
    pub(crate) fn base(&mut self) -> String {
        let line = self.wait_for("listens on ");
        line.split_once("listens on ").unwrap().1.to_owned()
    }

    /// The key of the first start, from where it stands alone on its line.
    pub(crate) fn first_key(&mut self) -> String {
        self.wait_for("    ldr_").trim().to_owned()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, signal: &str) {
        // The shell's own `kill`: a bare Debian has no program of that name.
        let kill = format!("kill {signal} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(status.success());
    }

    /// Has it ended?
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends a signal by name and waits for the end: how it ended, and its log.
    pub(crate) fn end(self, signal: &str) -> (ExitStatus, String) {
        self.signal(signal);
        self.wait()
    }

    /// Waits for the end: how it ended, and its log.
    pub(crate) fn wait(self) -> (ExitStatus, String) {
        let (status, _, log) = self.wait_and_hear();
        (status, log)
    }

    /// Waits for the end of something that ends by itself.
    pub(crate) fn ended(self) -> Ended {
        let (status, said, err) = self.wait_and_hear();
        let mut out = said.join("\n");
        if !out.is_empty() {
            out.push('\n');
        }
        Ended {
            code: status.code(),
            out,
            err,
        }
    }

    /// Waits for the end: how it ended, what it said, and its log.
    pub(crate) fn wait_and_hear(mut self) -> (ExitStatus, Vec<String>, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let log = self.log.take().unwrap().join().unwrap();
                self.said.extend(self.lines.iter());
                panic!("it does not end: {:?}: {log}", self.said);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.said.extend(self.lines.iter());
        let log = self.log.take().unwrap().join().unwrap();
        (status, std::mem::take(&mut self.said), log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server answers to a call with a key.
pub(crate) async fn call(method: &str, url: &str, key: &str, body: Option<Value>) -> (u16, Value) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = reqwest::Client::new()
        .request(method, url)
        .header("leadr-api-key", key);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

/// With which status a server answers a key.
pub(crate) async fn status(base: &str, key: &str) -> u16 {
    call("GET", &format!("{base}/v1/accounts"), key, None)
        .await
        .0
}

/// The entries of the audit trail that a query asks for, newest first, page by page.
pub(crate) async fn listed_audit(base: &str, key: &str, query: &str) -> Vec<Value> {
    let (mut entries, mut cursor) = (Vec::new(), String::new());
    loop {
        let url = format!("{base}/v1/audit?{query}{cursor}");
        let (status, mut page) = call("GET", &url, key, None).await;
        assert_eq!(status, 200, "{page}");
        entries.append(page["entries"].as_array_mut().unwrap());
        let Some(next) = page["next_cursor"].as_str() else {
            return entries;
        };
        cursor = format!("&cursor={next}");
    }
}

/// The lines of a log that warn of something, or say that something failed.
pub(crate) fn complaints(log: &str) -> Vec<serde_json::Value> {
    log.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| line["level"] == "ERROR" || line["level"] == "WARN")
        .collect()
}

/// The server for tests, if there is one. Where there is none this says so, and the test has nothing to do.
pub(crate) fn has_postgres(test: &str) -> bool {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests have no configuration but the environment"
    )]
    let is_set = std::env::var_os("TEST_DATABASE_URL").is_some();
    if !is_set {
        eprintln!("{test}: passed over, since TEST_DATABASE_URL is not set");
    }
    is_set
}
