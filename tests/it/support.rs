//! A running application, and a client to talk to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use leadr_auth_app::config::Sources;
use leadr_auth_app::system::OsEntropy;
use leadr_auth_app::{Application, Config};
use leadr_auth_domain::{PlainKey, generate_api_key};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Runs a test on every store: a module of its name with a test for each.
macro_rules! on_every_store {
    ($($(#[$doc:meta])* async fn $name:ident($system:ident) $body:block)*) => {
        $(
            $(#[$doc])*
            mod $name {
                use super::*;

                async fn case($system: &System) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn memory() {
                    let system = System::on_memory().await;
                    case(&system).await;
                    system.stop().await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sqlite() {
                    let folder = crate::support::Folder::new();
                    let system = System::on(&folder.url()).await;
                    case(&system).await;
                    system.stop().await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn postgres() {
                    let database = TestDatabase::create_empty().await;
                    let system = System::on(database.url()).await;
                    case(&system).await;
                    system.stop().await;
                }
            }
        )*
    };
}

pub(crate) use on_every_store;

/// The secret of every system here, so that several can share a database.
pub(crate) const SECRET: &str = "a secret for tests, of 32 bytes and more";

/// A folder of a test's own with a database file in it, gone with this value.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Where the database is.
    pub(crate) fn database(&self) -> PathBuf {
        self.path("leadr-auth.db")
    }

    /// The same, as a setting.
    pub(crate) fn url(&self) -> String {
        sqlite_url(&self.database())
    }
}

pub(crate) fn sqlite_url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

pub(crate) struct System {
    pub(crate) address: SocketAddr,
    pub(crate) operator: String,
    client: reqwest::Client,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
    pub(crate) took: Duration,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self.json()
    }
}

/// A text field of a response.
pub(crate) fn text(value: &Value, field: &str) -> String {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {value}"))
        .to_owned()
}

impl System {
    pub(crate) async fn on_memory() -> Self {
        Self::on("memory:").await
    }

    /// Starts on a store that is there, and waits until it is ready.
    pub(crate) async fn on(database_url: &str) -> Self {
        let system = Self::start(database_url, &[]).await;
        system.ready_within(Duration::from_secs(30)).await;
        system
    }

    /// Starts, whether or not the store is there.
    pub(crate) async fn start(database_url: &str, settings: &[(&'static str, &str)]) -> Self {
        let operator: PlainKey = generate_api_key([250; 32]);
        let mut environment = vec![
            ("DATABASE_URL", database_url),
            ("API_KEY_SECRET", SECRET),
            ("SUPERADMIN_API_KEY", operator.expose()),
            ("LISTEN", "127.0.0.1:0"),
            ("WORKERS", "2"),
            ("POOL_SIZE", "8"),
            // The default is for machines that do nothing else; tests share theirs.
            ("DATABASE_TIMEOUT_MS", "2000"),
        ];
        environment.extend_from_slice(settings);
        let environment = environment
            .iter()
            .map(|&(name, value)| (name, value.to_owned()));
        let sources = Sources {
            environment: environment.collect(),
            ..Sources::default()
        };
        let config = Config::read(&sources, &OsEntropy::new()).unwrap();
        let application = Application::build(config).await.unwrap();
        let address = application.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            application.run(stopped, |_| {}).await.unwrap();
        });
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        Self {
            address,
            operator: operator.expose().to_owned(),
            client,
            stop,
            running,
        }
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        self.running.await.unwrap();
    }

    pub(crate) async fn ready_within(&self, limit: Duration) -> Duration {
        let started = Instant::now();
        while self.get("/readyz", None).await.status != StatusCode::OK {
            assert!(started.elapsed() < limit, "not ready within {limit:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        started.elapsed()
    }

    pub(crate) fn request(&self, method: Method, path: &str, key: Option<&str>) -> RequestBuilder {
        let request = self
            .client
            .request(method, format!("http://{}{path}", self.address));
        match key {
            Some(key) => request.header("leadr-api-key", key),
            None => request,
        }
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let started = Instant::now();
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let took = started.elapsed();
        assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{text}");
        Answer {
            status,
            headers,
            text,
            took,
        }
    }

    pub(crate) async fn get(&self, path: &str, key: Option<&str>) -> Answer {
        self.send(self.request(Method::GET, path, key)).await
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path, Some(key)).json(&body))
            .await
    }

    pub(crate) async fn patch(&self, path: &str, key: &str, body: Value) -> Answer {
        self.send(self.request(Method::PATCH, path, Some(key)).json(&body))
            .await
    }

    /// Makes an account as the operator; its id.
    pub(crate) async fn account(&self, name: &str, slug: &str) -> String {
        let body = json!({"name": name, "slug": slug});
        text(
            &self
                .post("/v1/accounts", &self.operator, body)
                .await
                .expect(201),
            "id",
        )
    }

    /// Issues a key as the operator; its path and the key.
    pub(crate) async fn key(&self, account: &str, name: &str) -> (String, String) {
        let body = json!({"account_id": account, "name": name});
        let issued = self
            .post("/v1/api-keys", &self.operator, body)
            .await
            .expect(201);
        (
            format!("/v1/api-keys/{}", text(&issued, "id")),
            text(&issued, "key"),
        )
    }
}
