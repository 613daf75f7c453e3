//! A real proxy between a client and an application, with the configuration that docs/gateways.md shows.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::wire::{Answer, ask};

/// The folder of the configurations, as an administrator finds it.
pub(crate) const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/gateways");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Nginx,
    Caddy,
    Haproxy,
    Envoy,
}

impl Proxy {
    pub(crate) fn configuration(self) -> &'static str {
        match self {
            Self::Nginx => "nginx.conf",
            Self::Caddy => "Caddyfile",
            Self::Haproxy => "haproxy.cfg",
            Self::Envoy => "envoy.yaml",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Caddy => "caddy",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
        }
    }

    fn arguments(self, folder: &Path) -> Vec<String> {
        let file = folder.join(self.configuration()).display().to_string();
        let words: &[&str] = match self {
            Self::Nginx => {
                let folder = folder.display().to_string();
                // One process, so that killing it leaves none behind.
                let main = format!("daemon off; master_process off; pid {folder}/pid;");
                return ["-p", &folder, "-c", &file, "-e", "stderr", "-g", &main]
                    .map(str::to_owned)
                    .to_vec();
            }
            Self::Caddy => &["run", "--adapter", "caddyfile", "--config"],
            Self::Haproxy => &["-db", "-f"],
            Self::Envoy => &["--disable-hot-restart", "--concurrency", "1", "-c"],
        };
        let words = words.iter().map(|&word| word.to_owned());
        words.chain([file]).collect()
    }
}

/// A running proxy, killed when this value is dropped.
pub(crate) struct Gateway {
    pub(crate) proxy: Proxy,
    address: SocketAddr,
    child: Child,
    // Gone after the proxy.
    folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts one that asks at `service`, and passes on to `application`.
    pub(crate) async fn start(proxy: Proxy, service: SocketAddr, application: SocketAddr) -> Self {
        Self::start_altered(proxy, service, application, str::to_owned).await
    }

    /// The same, with files that `alter` has changed.
    pub(crate) async fn start_altered(
        proxy: Proxy,
        service: SocketAddr,
        application: SocketAddr,
        alter: fn(&str) -> String,
    ) -> Self {
        let mut log = String::new();
        for _ in 0..3 {
            let mut gateway = Self::spawn(proxy, service, application, alter);
            if gateway.listens().await {
                return gateway;
            }
            // Somebody else got the port meanwhile, or the configuration is wrong.
            log = gateway.log();
        }
        panic!("{proxy:?} does not start: {log}");
    }

    fn spawn(
        proxy: Proxy,
        service: SocketAddr,
        application: SocketAddr,
        alter: fn(&str) -> String,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let own = [
            ("8080", address),
            ("8001", free_address()),
            ("8000", service),
            ("9000", application),
        ];
        for name in [proxy.configuration(), "forward-auth.lua"] {
            let text = std::fs::read_to_string(Path::new(FOLDER).join(name)).unwrap();
            let text = with_ports(&alter(&text), &own);
            std::fs::write(
                folder.path().join(name),
                within(proxy, &text, folder.path()),
            )
            .unwrap();
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        // The kernel ends it where this process is killed and drops nothing.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig=KILL", "--"])
            .arg(find(proxy.program()))
            .args(proxy.arguments(folder.path()))
            .current_dir(folder.path())
            .env("HOME", folder.path())
            .env("XDG_DATA_HOME", folder.path())
            .env("XDG_CONFIG_HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = command.spawn().unwrap();
        Self {
            proxy,
            address,
            child,
            folder,
        }
    }

    async fn listens(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(30) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(self.address).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Sends the text as it is, and reads the answer.
    pub(crate) async fn send(&self, request: &[u8]) -> Answer {
        ask(self.address, request).await
    }

    /// What the proxy said of itself.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The configuration with other ports than those which its first lines name. None of the others begins like one of these.
fn with_ports(text: &str, ports: &[(&str, SocketAddr)]) -> String {
    let mut text = text.to_owned();
    for (port, address) in ports {
        for before in ["127.0.0.1:", "http://:", "port_value: "] {
            text = text.replace(
                &format!("{before}{port}"),
                &format!("{before}{}", address.port()),
            );
        }
    }
    text
}

/// What has to be inside the test's folder and is not by an option of the program.
fn within(proxy: Proxy, text: &str, folder: &Path) -> String {
    if proxy != Proxy::Nginx {
        return text.to_owned();
    }
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = kinds.map(|kind| format!("{kind}_temp_path {}/{kind};", folder.display()));
    let own = format!(
        "http {{\n    access_log off;\n    {}\n",
        temporary.join("\n    ")
    );
    text.replacen("http {\n", &own, 1)
}

/// A port that is free and stays so: the system gives none of these to whoever asks for any, as all other tests do, and this
/// process gives none twice.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Other processes that run these tests begin elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = begin.wrapping_add(step.into()) % 10_000;
        let port = 20_000 + u16::try_from(offset).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Where the program is. `/usr/sbin`, where Debian has servers, is not on everybody's path.
fn find(program: &str) -> PathBuf {
    for path in [program.to_owned(), format!("/usr/sbin/{program}")] {
        let tried = Command::new(&path)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match tried {
            Ok(_) => return path.into(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{path}: {error}"),
        }
    }
    panic!("{program} is not there: `cargo xtask test` installs what these tests need");
}
