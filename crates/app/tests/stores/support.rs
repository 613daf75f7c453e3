//! The binary, run to its end or as a server.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// The secret of every store here.
pub(crate) const SECRET: &str = "a secret for tests, of 32 bytes and more";

/// The binary on this database, with nothing else of this process's environment.
pub(crate) fn binary(program: &str, database_url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("DATABASE_URL", database_url)
        .env("API_KEY_SECRET", SECRET)
        .env("LISTEN", "127.0.0.1:0")
        .env("WORKERS", "2")
        // The default is for machines that do nothing else; tests share theirs.
        .env("DATABASE_TIMEOUT_MS", "5000")
        .stdin(Stdio::null());
    command
}

/// Runs a tool, which has to succeed; what it printed.
pub(crate) fn tool(database_url: &str, arguments: &[&str]) -> String {
    let output = binary(env!("CARGO_BIN_EXE_leadr-auth"), database_url, arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A running server. It ends with this value, whatever becomes of the test.
pub(crate) struct Serving {
    child: Child,
    base: String,
    client: reqwest::Client,
}

impl Serving {
    /// Starts a command that becomes the server, and waits until it is ready.
    pub(crate) async fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let base = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, base)) = line.split_once("listens on ") {
                break base.to_owned();
            }
        };
        std::thread::spawn(move || lines.count());
        let serving = Self {
            child,
            base,
            client: reqwest::Client::new(),
        };
        while serving.get("/readyz", "").await.0 != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        serving
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) async fn get(&self, path: &str, key: &str) -> (u16, Value) {
        let request = self.client.get(format!("{}{path}", self.base));
        answer(request.header("leadr-api-key", key)).await
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: &Value) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.base));
        answer(request.header("leadr-api-key", key).json(body)).await
    }

    /// Asks it to end, and sees that it ends well.
    pub(crate) fn stop(mut self) {
        // The shell's own `kill`: a bare Debian has no program of that name.
        let kill = format!("kill -TERM {}", self.child.id());
        let asked = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(asked.success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_default())
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
