//! Configuration: read once, from flags and the environment, with every fault reported together.

use std::collections::HashMap;
use std::env::VarError;
use std::fmt;
use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix_web::http::Uri;
use actix_web::http::header::{HeaderName, HeaderValue};
use ipnet::IpNet;
use leadr_auth_domain::text::is_control;
use leadr_auth_domain::{Keyring, KeyringFault, Pepper, PepperId, PlainKey};
use leadr_auth_http::InvalidKeyLimit;
use leadr_auth_ports::Entropy;
use leadr_auth_postgres::PostgresConfig;
use leadr_auth_service::{Sabotage, VerificationConfig};
use leadr_auth_sqlite::SqliteConfig;
use tracing_subscriber::EnvFilter;

use crate::keyring_file;
use crate::secret_file::{self, SecretFileFault, Strength};

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// The flag; `None` for secrets, since every user of a machine can read its command lines.
    pub flag: Option<&'static str>,
    /// What the value is, in help.
    pub value: &'static str,
    /// What holds where nothing is said.
    pub default: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "DATABASE_URL",
        flag: Some("database-url"),
        value: "URL",
        default: "leadr-auth.db in the data directory",
        help: "Where accounts and keys are kept: sqlite:PATH, postgres://USER:PASSWORD@HOST/NAME, or memory: (gone when the process ends)",
    },
    Setting {
        name: "DATABASE_LISTEN_URL",
        flag: Some("database-listen-url"),
        value: "URL",
        default: "DATABASE_URL",
        help: "Where changes are heard, if not by DATABASE_URL: PostgreSQL itself, where that goes through a pooler",
    },
    Setting {
        name: "DATA_DIR",
        flag: Some("data-dir"),
        value: "PATH",
        default: "./data",
        help: "The directory of the database and of the secret, where these are not said to be elsewhere; made with mode 0700",
    },
    Setting {
        name: "API_KEY_SECRET",
        flag: None,
        value: "TEXT",
        default: "none; see API_KEY_SECRET_FILE",
        help: "The secret under which keys are hashed, at least 32 bytes. Another secret makes every stored key invalid",
    },
    Setting {
        name: "API_KEY_SECRET_FILE",
        flag: Some("secret-file"),
        value: "PATH",
        default: "with sqlite: the file secret in the data directory, made at the first start; with memory: a random secret; with postgres: none",
        help: "A file that holds the secret, instead of API_KEY_SECRET",
    },
    Setting {
        name: "API_KEY_SECRET_ID",
        flag: Some("secret-id"),
        value: "ID",
        default: PepperId::DEFAULT,
        help: "The id of that secret, which is written beside what is hashed under it: 1 to 64 of A-Z, a-z, 0-9, '_', '.' and '-'",
    },
    Setting {
        name: "API_KEY_SECRETS_RETIRED",
        flag: None,
        value: "ID:SECRET,…",
        default: "none",
        help: "Earlier secrets, under which some stored keys are still hashed, with commas or blanks between them",
    },
    Setting {
        name: "API_KEY_KEYRING_FILE",
        flag: Some("keyring-file"),
        value: "PATH",
        default: "with sqlite: the file keyring in the data directory, where it is; otherwise none",
        help: "A JSON file that holds all secrets and says which is the current one, instead of API_KEY_SECRET and its kin. Read again on SIGHUP",
    },
    Setting {
        name: "SUPERADMIN_API_KEY",
        flag: None,
        value: "KEY",
        default: "none; in an empty store a key is made and printed once",
        help: "A key that is to be an operator's, ldr_ and 43 characters of URL-safe base64",
    },
    Setting {
        name: "LISTEN",
        flag: Some("listen"),
        value: "ADDRESS:PORT",
        default: "127.0.0.1:8000",
        help: "Where to listen; port 0 takes a free one",
    },
    Setting {
        name: "TLS_CERT",
        flag: Some("tls-cert"),
        value: "PATH",
        default: "none",
        help: "The certificate and its chain, PEM; with TLS_KEY, requests come over TLS. Read again on SIGHUP",
    },
    Setting {
        name: "TLS_KEY",
        flag: Some("tls-key"),
        value: "PATH",
        default: "none",
        help: "The certificate's private key, PEM. Read again on SIGHUP",
    },
    Setting {
        name: "METRICS_LISTEN",
        flag: Some("metrics-listen"),
        value: "ADDRESS:PORT",
        default: "off",
        help: "Where to serve /metrics for Prometheus",
    },
    Setting {
        name: "WORKERS",
        flag: Some("workers"),
        value: "N",
        default: "the number of cores",
        help: "How many threads serve requests, 1 to 512",
    },
    Setting {
        name: "POOL_SIZE",
        flag: Some("pool-size"),
        value: "N",
        default: "16",
        help: "How many connections to the database requests use at most, 1 to 1000; shared out among the workers, two at least for each",
    },
    Setting {
        name: "DATABASE_TIMEOUT_MS",
        flag: Some("database-timeout-ms"),
        value: "MS",
        default: "250",
        help: "How long verification waits for the database before it answers 503, in milliseconds, 10 to 60000",
    },
    Setting {
        name: "STATEMENT_TIMEOUT_MS",
        flag: Some("statement-timeout-ms"),
        value: "MS",
        default: "5000",
        help: "How long one statement of a management call may take, in milliseconds, 100 to 600000",
    },
    Setting {
        name: "BODY_TIMEOUT_MS",
        flag: Some("body-timeout-ms"),
        value: "MS",
        default: "5000",
        help: "How long a request's body may take to arrive, in milliseconds, 100 to 600000",
    },
    Setting {
        name: "WRITE_TIMEOUT_MS",
        flag: Some("write-timeout-ms"),
        value: "MS",
        default: "30000",
        help: "How long a client may take to read what it is sent, in milliseconds, 100 to 600000",
    },
    Setting {
        name: "KEEP_ALIVE_SECONDS",
        flag: Some("keep-alive-seconds"),
        value: "S",
        default: "75",
        help: "How long a connection stays open without a request, in seconds, 1 to 3600; longer than a proxy in front keeps it",
    },
    Setting {
        name: "MAX_CONNECTIONS",
        flag: Some("max-connections"),
        value: "N",
        default: "25000, or as many as the limit on open files leaves",
        help: "How many connections may be open at once, 1 to 1000000; more wait to be accepted",
    },
    Setting {
        name: "TRUSTED_PROXIES",
        flag: Some("trusted-proxies"),
        value: "NETWORK,…",
        default: "none",
        help: "The proxies in front, whose X-Forwarded-For is believed: addresses and networks such as 10.0.0.0/8, with commas between them",
    },
    Setting {
        name: "INVALID_KEYS_PER_MINUTE",
        flag: Some("invalid-keys-per-minute"),
        value: "N",
        default: "120",
        help: "How many invalid keys may be presented from one address in a minute before the answer is 429, 1 to 1000000, or 0 for any number; valid keys are never held up",
    },
    Setting {
        name: "SHUTDOWN_GRACE_SECONDS",
        flag: Some("shutdown-grace-seconds"),
        value: "S",
        default: "0",
        help: "How long requests are still accepted after SIGTERM, while /readyz says 503, in seconds, 0 to 3600",
    },
    Setting {
        name: "SHUTDOWN_TIMEOUT_SECONDS",
        flag: Some("shutdown-timeout-seconds"),
        value: "S",
        default: "30",
        help: "How long requests that are underway may take to end after SIGTERM, in seconds, 0 to 3600",
    },
    Setting {
        name: "CACHE_MB",
        flag: Some("cache-mb"),
        value: "MB",
        default: "256",
        help: "How much memory verified keys may take, in MiB, 1 to 1000000; a million keys take about 240",
    },
    Setting {
        name: "REVOCATION_BOUND_MS",
        flag: Some("revocation-bound-ms"),
        value: "MS",
        default: "2000",
        help: "How long after a key was stopped on another node it may be let in here at most, whatever one thing fails, in milliseconds, 100 to 60000, or 0, which asks the store for every key",
    },
    Setting {
        name: "REVOCATION_TICK_MS",
        flag: Some("revocation-tick-ms"),
        value: "MS",
        default: "500",
        help: "How often a node makes sure that it still hears of changes, in milliseconds, 50 to 30000; at most half of the bound",
    },
    Setting {
        name: "STALE_IF_ERROR_SECONDS",
        flag: Some("stale-if-error-seconds"),
        value: "S",
        default: "0",
        help: "How much longer than the bound keys are let in that were good before, while the store cannot be asked, in seconds, 0 to 86400; also those that were stopped meanwhile",
    },
    Setting {
        name: "USAGE_RESOLUTION_SECONDS",
        flag: Some("usage-resolution-seconds"),
        value: "S",
        default: "60",
        help: "How often the use of one key is written down at most, after its first use, in seconds, 1 to 3600",
    },
    Setting {
        name: "NODE_NAME",
        flag: Some("node-name"),
        value: "TEXT",
        default: "the host's name and the port",
        help: "What this process is called among others on the same database, 1 to 100 characters",
    },
    Setting {
        name: "MIGRATE",
        flag: Some("migrate"),
        value: "on|off",
        default: "on",
        help: "Whether serve brings the database's schema up to date at start",
    },
    Setting {
        name: "RUST_LOG",
        flag: Some("log"),
        value: "FILTER",
        default: "info",
        help: "What is logged, as in warn or info,leadr_auth::access=off",
    },
    Setting {
        name: "LOG_FORMAT",
        flag: Some("log-format"),
        value: "json|text|auto",
        default: "auto",
        help: "How it is logged; auto is text on a terminal and JSON elsewhere",
    },
    Setting {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT",
        flag: Some("otlp-endpoint"),
        value: "URL",
        default: "off",
        help: "The OpenTelemetry collector that the spans of requests are sent to, as in http://127.0.0.1:4318; needs a build with the feature otlp",
    },
    Setting {
        name: "OTEL_EXPORTER_OTLP_HEADERS",
        flag: None,
        value: "NAME=VALUE,…",
        default: "none",
        help: "Headers that go to the collector with the spans, as in authorization=Bearer%20TOKEN",
    },
    Setting {
        name: "OTEL_SERVICE_NAME",
        flag: Some("otlp-service-name"),
        value: "NAME",
        default: "leadr-auth",
        help: "The service's name in traces",
    },
    Setting {
        name: "OTEL_TRACES_SAMPLER_ARG",
        flag: Some("otlp-ratio"),
        value: "RATIO",
        default: "1.0",
        help: "The share of the traces that begin here whose spans are sent, 0.0 to 1.0; where a client sent a trace, its flag decides",
    },
];

/// Where accounts and keys are kept.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// In this process.
    Memory,
    /// In a file.
    Sqlite(SqliteConfig),
    /// In PostgreSQL.
    Postgres(PostgresConfig),
}

/// Where secrets are kept in the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSecrets {
    /// Several of them. Where this file is, it counts, and the other does not.
    pub keyring: PathBuf,
    /// A single one; it is made where neither file nor a registered secret exists.
    pub secret: PathBuf,
}

/// Under which secrets keys are hashed.
#[derive(Clone, Debug)]
pub enum SecretConfig {
    /// Under these, which were said, or the current one of which is in a file that was.
    Said(Keyring, Strength),
    /// Under those in this keyring file, which was said.
    File(PathBuf, Keyring, Strength),
    /// Under those in the data directory.
    Kept(KeptSecrets),
    /// Under this one, made up for this run.
    Random(Keyring),
}

/// Where everything is: what the command line's tools need to know.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// Where accounts and keys are kept.
    pub store: StoreConfig,
    /// The directory of what is nowhere else.
    pub data_dir: PathBuf,
    /// Under which secrets keys are hashed; `None` where none was said and none is kept.
    pub secret: Option<SecretConfig>,
}

/// How requests come over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The file with the certificate and its chain.
    pub certificate: PathBuf,
    /// The file with its private key.
    pub key: PathBuf,
}

/// Where the spans of requests go. The headers that go with them are not here: they may be secrets, and the exporter takes
/// them from the environment itself.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpConfig {
    /// The collector's address for traces.
    pub endpoint: String,
    /// The service's name in traces.
    pub service_name: String,
    /// The share of the traces that begin here which are sent, from 0 to 1.
    pub ratio: f64,
}

/// How it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// A filter that has been checked.
    pub filter: String,
    /// The format.
    pub format: LogFormat,
}

/// The database, in the data directory.
pub const DATABASE_FILE: &str = "leadr-auth.db";

/// The secret, in the data directory.
pub const SECRET_FILE: &str = "secret";

/// Several secrets, in the data directory.
pub const KEYRING_FILE: &str = "keyring";

/// The name of the setting for the current secret's id.
const SECRET_ID_SETTING: &str = "API_KEY_SECRET_ID";

/// The name of the setting for the other secrets.
const RETIRED_SETTING: &str = "API_KEY_SECRETS_RETIRED";

/// The name of the setting for a file with all secrets.
pub(crate) const KEYRING_FILE_SETTING: &str = "API_KEY_KEYRING_FILE";

/// The fewest connections of a worker: with a single one, a slow list would hold up every verification.
const MIN_POOL: usize = 2;

/// The whole configuration, valid. Its `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whether and how requests come over TLS.
    pub tls: Option<TlsConfig>,
    /// Where metrics are served.
    pub metrics_listen: Option<SocketAddr>,
    /// Where accounts and keys are kept.
    pub store: StoreConfig,
    /// The directory of what is nowhere else.
    pub data_dir: PathBuf,
    /// Under which secrets keys are hashed.
    pub secret: SecretConfig,
    /// A key that is to be an operator's.
    pub superadmin_key: Option<PlainKey>,
    /// How many threads serve requests.
    pub workers: usize,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// How long a client may take to read what it is sent.
    pub write_timeout: Duration,
    /// How long a connection stays open without a request.
    pub keep_alive: Duration,
    /// How many connections may be open at once; `None` where nobody said.
    pub max_connections: Option<usize>,
    /// The proxies whose word is taken for whose request it is.
    pub trusted_proxies: Vec<IpNet>,
    /// How many invalid keys an address may present; `None` for any number.
    pub invalid_keys: Option<InvalidKeyLimit>,
    /// How long requests are still accepted after the process was asked to end.
    pub shutdown_grace: Duration,
    /// How long requests that are underway may take to end.
    pub shutdown_timeout: Duration,
    /// How keys are verified.
    pub verification: VerificationConfig,
    /// How often the use of one key is written down at most.
    pub usage_resolution: Duration,
    /// What this process is called among others; `None` where nobody said.
    pub node_name: Option<String>,
    /// Whether the schema is brought up to date at start.
    pub migrate: bool,
    /// What is logged.
    pub log: LogConfig,
    /// Whether and where the spans of requests are sent. Never, in a build without the feature `otlp`.
    pub otlp: Option<OtlpConfig>,
}

/// Something wrong with a setting. It never holds the value, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// The environment variable.
    pub name: &'static str,
    /// What is wrong.
    pub what: String,
}

/// Everything that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFaults(pub Vec<ConfigFault>);

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration has faults:")?;
        for ConfigFault { name, what } in &self.0 {
            write!(f, "\n  {name}: {what}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}

/// Where values come from: flags first, then the environment.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Values of flags, by the setting's name.
    pub flags: HashMap<&'static str, String>,
    /// The environment, as far as it has settings.
    pub environment: HashMap<&'static str, String>,
    /// The settings of the environment that are not UTF-8.
    pub not_text: Vec<&'static str>,
    /// The variable `IMPORT_FROM`: a database to import from, which is no setting of this deployment.
    pub import_from: Option<String>,
    /// The variable `LEADR_AUTH_SABOTAGE`: which mechanism is switched off, for a test that has to notice.
    #[cfg(feature = "sabotage")]
    pub sabotage: Option<String>,
}

impl Sources {
    /// Takes the process's own environment. A variable that is not text is a fault: what is not UTF-8 in it could only be
    /// replaced, and then two different secrets would be one.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the environment is read"
    )]
    pub fn from_process(flags: HashMap<&'static str, String>) -> Self {
        let mut environment = HashMap::new();
        let mut not_text = Vec::new();
        for &Setting { name, .. } in SETTINGS {
            match std::env::var(name) {
                Ok(value) => {
                    environment.insert(name, value);
                }
                Err(VarError::NotPresent) => {}
                Err(VarError::NotUnicode(_)) => not_text.push(name),
            }
        }
        let import_from = std::env::var("IMPORT_FROM").ok();
        Self {
            flags,
            environment,
            not_text,
            import_from,
            #[cfg(feature = "sabotage")]
            sabotage: std::env::var("LEADR_AUTH_SABOTAGE").ok(),
        }
    }

    /// The value that is said; one that is blank is as good as none, since compose files and unit files say so.
    pub(crate) fn said(&self, name: &str) -> Option<&str> {
        [&self.flags, &self.environment]
            .into_iter()
            .filter_map(|values| values.get(name))
            .map(|value| value.trim())
            .find(|value| !value.is_empty())
    }
}

/// Reads settings and collects what is wrong with them.
struct Reader<'a> {
    sources: &'a Sources,
    faults: Vec<ConfigFault>,
}

impl<'a> Reader<'a> {
    fn new(sources: &'a Sources) -> Self {
        let fault = |&name| ConfigFault {
            name,
            what: "is not UTF-8 text".to_owned(),
        };
        Self {
            sources,
            faults: sources.not_text.iter().map(fault).collect(),
        }
    }

    fn fault(&mut self, name: &'static str, what: impl Into<String>) {
        self.faults.push(ConfigFault {
            name,
            what: what.into(),
        });
    }

    /// The value of a setting whose default is one, parsed. `None` where it is faulty.
    fn parsed<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Option<T>,
        expected: &str,
    ) -> Option<T> {
        let default = SETTINGS
            .iter()
            .find(|setting| setting.name == name)?
            .default;
        let parsed = parse(self.sources.said(name).unwrap_or(default));
        if parsed.is_none() {
            self.fault(name, format!("is not {expected}"));
        }
        parsed
    }

    fn number(&mut self, name: &'static str, min: u64, max: u64) -> Option<u64> {
        let parse = |text: &str| text.parse().ok().filter(|n| (min..=max).contains(n));
        self.parsed(name, parse, &format!("a whole number from {min} to {max}"))
    }

    fn size(&mut self, name: &'static str, min: u64, max: u64) -> Option<usize> {
        self.number(name, min, max)
            .and_then(|n| usize::try_from(n).ok())
    }

    fn millis(&mut self, name: &'static str, min: u64, max: u64) -> Option<Duration> {
        self.number(name, min, max).map(Duration::from_millis)
    }

    fn workers(&mut self) -> Option<usize> {
        if self.sources.said("WORKERS").is_none() {
            return Some(std::thread::available_parallelism().map_or(1, NonZeroUsize::get));
        }
        self.size("WORKERS", 1, 512)
    }

    /// `Some(None)` where nothing is said of it, and `None` where it is faulty.
    #[expect(
        clippy::option_option,
        reason = "as with every setting, `None` is a fault"
    )]
    fn max_connections(&mut self) -> Option<Option<usize>> {
        let name = "MAX_CONNECTIONS";
        if self.sources.said(name).is_none() {
            return Some(None);
        }
        self.size(name, 1, 1_000_000).map(Some)
    }

    fn store(&mut self, workers: Option<usize>) -> Option<StoreConfig> {
        let name = "DATABASE_URL";
        let pool_size = self.size("POOL_SIZE", 1, 1000);
        let lookup_timeout = self.millis("DATABASE_TIMEOUT_MS", 10, 60_000);
        let statement_timeout = self.millis("STATEMENT_TIMEOUT_MS", 100, 600_000);
        let listen_url = self.listen_url();
        if self.refuse_password_as_flag(name) {
            return None;
        }
        match self.sources.said(name) {
            None => Some(sqlite(
                self.data_dir().join(DATABASE_FILE),
                lookup_timeout?,
                statement_timeout?,
            )),
            Some("memory:") => Some(StoreConfig::Memory),
            Some(url) if url.starts_with("sqlite:") => {
                let path = url.strip_prefix("sqlite:").unwrap_or_default();
                if path.is_empty() || path.starts_with("//") {
                    self.fault(name, "names no file: sqlite:PATH, as in sqlite:/var/lib/leadr-auth/leadr-auth.db");
                    return None;
                }
                Some(sqlite(
                    PathBuf::from(path),
                    lookup_timeout?,
                    statement_timeout?,
                ))
            }
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                if let Err(fault) = PostgresConfig::check_url(url) {
                    self.fault(name, fault.to_string());
                    return None;
                }
                let mut config = PostgresConfig::new(url);
                config.listen_url = listen_url?;
                config.pool_size = pool_size?.div_ceil(workers?).max(MIN_POOL);
                config.lookup_timeout = lookup_timeout?;
                config.statement_timeout = statement_timeout?;
                Some(StoreConfig::Postgres(config))
            }
            Some(_) => {
                self.fault(name, "is none of sqlite:PATH, postgres://… and memory:");
                None
            }
        }
    }

    /// Where changes are heard; `Some(None)` where nothing is said of it, and `None` where that is faulty.
    #[expect(
        clippy::option_option,
        reason = "as with every setting, `None` is a fault"
    )]
    fn listen_url(&mut self) -> Option<Option<String>> {
        let name = "DATABASE_LISTEN_URL";
        if self.refuse_password_as_flag(name) {
            return None;
        }
        let Some(url) = self.sources.said(name) else {
            return Some(None);
        };
        let of_postgres = |url: &str| {
            ["postgres://", "postgresql://"]
                .iter()
                .any(|s| url.starts_with(s))
        };
        if !self.sources.said("DATABASE_URL").is_some_and(of_postgres) {
            self.fault(name, "is set, and DATABASE_URL is not one of PostgreSQL");
        } else if !of_postgres(url) {
            self.fault(name, "is not a postgres://… URL");
        } else if let Err(fault) = PostgresConfig::check_url(url) {
            self.fault(name, fault.to_string());
        } else {
            return Some(Some(url.to_owned()));
        }
        None
    }

    /// Answers whether the URL was given as a flag, with a password in it.
    fn refuse_password_as_flag(&mut self, name: &'static str) -> bool {
        let flag = self.sources.flags.get(name);
        let on_command_line = flag.is_some_and(|url| has_password(url));
        if on_command_line {
            self.fault(
                name,
                "has a password on the command line, where every user of the machine can read it; \
                 set the environment variable instead",
            );
        }
        on_command_line
    }

    fn verification(&mut self) -> Option<VerificationConfig> {
        let cache_mb = self.number("CACHE_MB", 1, 1_000_000);
        let bound = self.millis("REVOCATION_BOUND_MS", 0, 60_000);
        let tick = self.millis("REVOCATION_TICK_MS", 50, 30_000);
        let stale_if_error = self.number("STALE_IF_ERROR_SECONDS", 0, 86_400);
        let (bound, tick, stale_if_error) = (bound?, tick?, Duration::from_secs(stale_if_error?));
        if !bound.is_zero() && bound < 2 * tick {
            // Whoever has said one of them meant that one.
            let said = self.sources.said("REVOCATION_TICK_MS");
            let (name, what) = if said.is_some() {
                (
                    "REVOCATION_TICK_MS",
                    "is more than half of REVOCATION_BOUND_MS",
                )
            } else {
                (
                    "REVOCATION_BOUND_MS",
                    "is less than twice REVOCATION_TICK_MS, and not 0",
                )
            };
            self.fault(
                name,
                format!("{what}: one tick that is late would end what is known"),
            );
            return None;
        }
        if bound.is_zero() && !stale_if_error.is_zero() {
            self.fault(
                "STALE_IF_ERROR_SECONDS",
                "is set, and REVOCATION_BOUND_MS is 0, with which nothing is known",
            );
            return None;
        }
        Some(VerificationConfig {
            cache_bytes: cache_mb? << 20,
            bound,
            tick,
            stale_if_error,
            sabotage: self.sabotage()?,
        })
    }

    /// `None` where it is faulty.
    #[cfg(feature = "sabotage")]
    fn sabotage(&mut self) -> Option<Sabotage> {
        let known = match self.sources.sabotage.as_deref() {
            None => Some(Sabotage::Nothing),
            Some("no-fence") => Some(Sabotage::NoFence),
            Some("forget-early") => Some(Sabotage::ForgetEarly),
            Some("no-ticks") => Some(Sabotage::NoTicks),
            Some("listen-late") => Some(Sabotage::ListenLate),
            Some("wall-clock") => Some(Sabotage::WallClock),
            Some("no-last-flush") => Some(Sabotage::NoLastFlush),
            Some(_) => None,
        };
        if known.is_none() {
            self.fault(
                "LEADR_AUTH_SABOTAGE",
                "is no mechanism that can be switched off",
            );
        }
        known
    }

    #[cfg(not(feature = "sabotage"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "as with the feature"
    )]
    const fn sabotage(&self) -> Option<Sabotage> {
        Some(Sabotage::Nothing)
    }

    /// `Some(None)` where none is said, and `None` where it is faulty.
    #[expect(
        clippy::option_option,
        reason = "as with every setting, `None` is a fault"
    )]
    fn node_name(&mut self) -> Option<Option<String>> {
        let Some(said) = self.sources.said("NODE_NAME") else {
            return Some(None);
        };
        if said.chars().count() > 100 || said.chars().any(is_control) {
            self.fault(
                "NODE_NAME",
                "is not 1 to 100 characters without control characters, also those of the direction of text",
            );
            return None;
        }
        // It is stored and listed for all to read.
        if said
            .split_whitespace()
            .any(|word| PlainKey::parse(word).is_ok())
        {
            self.fault("NODE_NAME", "is an API key");
            return None;
        }
        Some(Some(said.to_owned()))
    }

    /// None where nothing is said. Each that is wrong is told by its place.
    fn trusted_proxies(&mut self) -> Option<Vec<IpNet>> {
        let name = "TRUSTED_PROXIES";
        let said = self.sources.said(name).unwrap_or_default();
        let mut networks = Vec::new();
        let mut is_good = true;
        for (place, text) in (1..).zip(said.split(',')) {
            let text = text.trim();
            let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
            match text.parse().ok().or_else(address) {
                Some(network) => networks.push(network),
                None if said.is_empty() => {}
                None => {
                    let what = "is no address and no network such as 10.0.0.0/8";
                    self.fault(name, format!("number {place} {what}"));
                    is_good = false;
                }
            }
        }
        is_good.then_some(networks)
    }

    fn data_dir(&self) -> PathBuf {
        PathBuf::from(self.sources.said("DATA_DIR").unwrap_or("./data"))
    }

    /// The secrets that are said, or where they are kept. `None` where there are none, or faulty ones.
    fn secret(
        &mut self,
        store: Option<&StoreConfig>,
        entropy: &dyn Entropy,
    ) -> Option<SecretConfig> {
        if let Some(path) = self.sources.said(KEYRING_FILE_SETTING) {
            return self.keyring_file(Path::new(path));
        }
        let (text, file) = ("API_KEY_SECRET", "API_KEY_SECRET_FILE");
        let (said, name) = match (self.sources.said(text), self.sources.said(file)) {
            (Some(_), Some(_)) => {
                self.fault(
                    file,
                    "is set, and so is API_KEY_SECRET: which one is meant?",
                );
                (None, file)
            }
            (Some(said), None) => (Some(said.to_owned()), text),
            (None, Some(path)) => match secret_file::read_text(Path::new(path)) {
                Ok(said) => (Some(said), file),
                Err(fault) => {
                    self.fault(file, fault.to_string());
                    (None, file)
                }
            },
            (None, None) if self.refuse_kin_of_no_secret() => (None, text),
            (None, None) => return self.secret_of(store?, entropy),
        };
        let (id, retired) = (self.secret_id(), self.retired());
        // The others are looked at in any case, so that all that is wrong is told at once.
        let current = said.as_deref().map(|said| (id.clone(), said));
        let mut is_weak = said
            .as_deref()
            .is_some_and(|said| Pepper::new(said).is_err());
        let secrets = current.into_iter().chain(retired.iter().cloned());
        let strength = Strength::of_all(secrets.clone().map(|(_, secret)| secret));
        match Keyring::new(&id, secrets) {
            Ok(keyring) => Some(SecretConfig::Said(keyring, strength)),
            Err(faults) => {
                for fault in faults {
                    match fault {
                        KeyringFault::MissingCurrent(_) => {}
                        // The current one is the first. A retired one with its id may follow.
                        KeyringFault::Weak(weak, fault) if is_weak && weak == id => {
                            is_weak = false;
                            let what = if name == file {
                                SecretFileFault::Weak(fault).to_string()
                            } else {
                                format!("is {fault}")
                            };
                            self.fault(name, what);
                        }
                        fault => self.fault(RETIRED_SETTING, fault.to_string()),
                    }
                }
                None
            }
        }
    }

    /// The secrets of the keyring file that is said, and nothing beside it.
    fn keyring_file(&mut self, path: &Path) -> Option<SecretConfig> {
        for name in [
            "API_KEY_SECRET",
            "API_KEY_SECRET_FILE",
            SECRET_ID_SETTING,
            RETIRED_SETTING,
        ] {
            if self.sources.said(name).is_some() {
                self.fault(
                    name,
                    "is set, and so is API_KEY_KEYRING_FILE, which holds all of that: which one is meant?",
                );
            }
        }
        match keyring_file::read(path) {
            Ok((keyring, strength)) => Some(SecretConfig::File(path.to_owned(), keyring, strength)),
            Err(faults) => {
                for fault in faults {
                    self.fault(KEYRING_FILE_SETTING, fault.to_string());
                }
                None
            }
        }
    }

    /// What holds where no secret is said.
    fn secret_of(&mut self, store: &StoreConfig, entropy: &dyn Entropy) -> Option<SecretConfig> {
        match store {
            StoreConfig::Sqlite(_) => Some(SecretConfig::Kept(KeptSecrets {
                keyring: self.data_dir().join(KEYRING_FILE),
                secret: self.data_dir().join(SECRET_FILE),
            })),
            StoreConfig::Memory => {
                let random = secret_file::random(entropy);
                let pepper = random.ok().and_then(|text| Pepper::new(&text).ok());
                if pepper.is_none() {
                    self.fault(
                        "API_KEY_SECRET",
                        "is not set, and there are no random bytes to make one of",
                    );
                }
                pepper.map(|pepper| SecretConfig::Random(pepper.into()))
            }
            StoreConfig::Postgres(_) => None,
        }
    }

    /// What is said of a secret means nothing without it, and whoever said it meant something. Answers whether there is such.
    fn refuse_kin_of_no_secret(&mut self) -> bool {
        let mut is_alone = false;
        for name in [SECRET_ID_SETTING, RETIRED_SETTING] {
            let said = self.sources.said(name);
            if said.is_some_and(|said| name != SECRET_ID_SETTING || said != PepperId::DEFAULT) {
                self.fault(
                    name,
                    "is set, and neither API_KEY_SECRET nor API_KEY_SECRET_FILE is; secrets that are kept in a file \
                     together with their ids belong into a keyring file",
                );
                is_alone = true;
            }
        }
        is_alone
    }

    /// The id of the secret that is said.
    fn secret_id(&mut self) -> PepperId {
        let Some(said) = self.sources.said(SECRET_ID_SETTING) else {
            return PepperId::default();
        };
        PepperId::parse(said).unwrap_or_else(|fault| {
            self.fault(SECRET_ID_SETTING, fault.to_string());
            // No other has this one, so that the secret can still be looked at.
            PepperId::from_store("(current)".to_owned())
        })
    }

    /// The retired secrets that are said. One that is malformed is told by its place, since it may be all secret.
    fn retired(&mut self) -> Vec<(PepperId, &'a str)> {
        let said = self.sources.said(RETIRED_SETTING).unwrap_or_default();
        let pairs = said
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|pair| !pair.is_empty());
        let mut retired = Vec::new();
        for (place, pair) in (1..).zip(pairs) {
            let Some((id, secret)) = pair.split_once(':') else {
                self.fault(
                    RETIRED_SETTING,
                    format!("pair number {place} is not ID:SECRET"),
                );
                continue;
            };
            let id = PepperId::parse(id).unwrap_or_else(|fault| {
                self.fault(RETIRED_SETTING, format!("pair number {place}: {fault}"));
                PepperId::from_store(format!("number {place}"))
            });
            retired.push((id, secret));
        }
        retired
    }

    /// Keys that outlive the process need a secret that does.
    fn require_secret(&mut self, store: Option<&StoreConfig>, secret: Option<&SecretConfig>) {
        let said = [
            "API_KEY_SECRET",
            "API_KEY_SECRET_FILE",
            KEYRING_FILE_SETTING,
        ]
        .iter()
        .any(|name| self.sources.said(name).is_some());
        // Also where the rest of the URL is at fault, so that everything is told at once.
        let outlives = matches!(store, Some(StoreConfig::Postgres(_)))
            || (store.is_none()
                && self
                    .sources
                    .said("DATABASE_URL")
                    .is_some_and(|url| url.starts_with("postgres")));
        if secret.is_none() && !said && outlives {
            self.fault(
                "API_KEY_SECRET",
                "is not set; keys that outlive the process need a secret that does \
                 (at least 32 bytes, as from `openssl rand -hex 32`)",
            );
        }
    }

    /// Both files or neither. That they can be read is seen at start, and at every SIGHUP. `None` also where one is missing,
    /// which is a fault.
    fn tls(&mut self) -> Option<TlsConfig> {
        let path = |said: Option<&str>| said.map(PathBuf::from);
        match (
            path(self.sources.said("TLS_CERT")),
            path(self.sources.said("TLS_KEY")),
        ) {
            (None, None) => {}
            (Some(certificate), Some(key)) => return Some(TlsConfig { certificate, key }),
            (Some(_), None) => self.fault("TLS_KEY", "is not set, and TLS_CERT is"),
            (None, Some(_)) => self.fault("TLS_CERT", "is not set, and TLS_KEY is"),
        }
        None
    }

    /// `None` where there are to be none, and where the address is faulty.
    fn metrics_listen(&mut self) -> Option<SocketAddr> {
        match self.sources.said("METRICS_LISTEN") {
            None | Some("off") => None,
            Some(_) => self.parsed(
                "METRICS_LISTEN",
                |text| text.parse().ok(),
                "off, or an address and port such as 127.0.0.1:9464",
            ),
        }
    }

    /// `None` where none is configured, or a faulty one.
    fn superadmin_key(&mut self) -> Option<PlainKey> {
        let name = "SUPERADMIN_API_KEY";
        let said = self.sources.said(name)?;
        PlainKey::parse(said)
            .map_err(|fault| self.fault(name, format!("is {fault}")))
            .ok()
    }

    fn log(&mut self) -> Option<LogConfig> {
        let filter = self.parsed(
            "RUST_LOG",
            |text| EnvFilter::try_new(text).is_ok().then(|| text.to_owned()),
            "a filter such as info or warn,leadr_auth::access=info",
        );
        let format = self.parsed(
            "LOG_FORMAT",
            |text| match text {
                "auto" if std::io::stderr().is_terminal() => Some(LogFormat::Text),
                "json" | "auto" => Some(LogFormat::Json),
                "text" => Some(LogFormat::Text),
                _ => None,
            },
            "json, text or auto",
        );
        Some(LogConfig {
            filter: filter?,
            format: format?,
        })
    }

    /// `None` where none is configured, or a faulty one.
    fn otlp(&mut self) -> Option<OtlpConfig> {
        let name = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let endpoint = self.parsed(
            name,
            |text| match text {
                "off" => Some(None),
                endpoint => traces_endpoint(endpoint).map(Some),
            },
            "off, or a collector's address such as http://127.0.0.1:4318, without a user; TLS is not spoken to it",
        );
        if !cfg!(feature = "otlp") && matches!(endpoint, Some(Some(_))) {
            self.fault(
                name,
                "is set, and this build has no OTLP export; build it with --features otlp",
            );
        }
        let headers = "OTEL_EXPORTER_OTLP_HEADERS";
        if self
            .sources
            .said(headers)
            .is_some_and(|text| !are_headers(text))
        {
            self.fault(headers, "is not a list such as name=value,other=value");
        }
        let service_name = self.parsed("OTEL_SERVICE_NAME", |text| Some(text.to_owned()), "a name");
        let ratio = self.parsed(
            "OTEL_TRACES_SAMPLER_ARG",
            |text| {
                text.parse()
                    .ok()
                    .filter(|ratio| (0.0..=1.0).contains(ratio))
            },
            "a number from 0.0 to 1.0",
        );
        Some(OtlpConfig {
            endpoint: endpoint??,
            service_name: service_name?,
            ratio: ratio?,
        })
    }
}

/// The collector's address for traces: by the specification, a path behind that of the endpoint. It is a place and nothing
/// else, so that it can be shown.
fn traces_endpoint(endpoint: &str) -> Option<String> {
    let uri: Uri = endpoint.parse().ok()?;
    let authority = uri.authority()?;
    let plain = uri.scheme_str() == Some("http")
        && !authority.host().is_empty()
        && !authority.as_str().contains('@')
        && uri.query().is_none();
    let path = uri.path().trim_end_matches('/');
    plain.then(|| format!("http://{authority}{path}/v1/traces"))
}

/// Are these `name=value` pairs of which headers can be made?
fn are_headers(text: &str) -> bool {
    text.split(',').all(|pair| {
        pair.split_once('=').is_some_and(|(name, value)| {
            HeaderName::from_bytes(name.trim().as_bytes()).is_ok()
                && HeaderValue::from_str(value.trim()).is_ok()
        })
    })
}

fn sqlite(path: PathBuf, lookup_timeout: Duration, statement_timeout: Duration) -> StoreConfig {
    StoreConfig::Sqlite(SqliteConfig {
        lookup_timeout,
        statement_timeout,
        ..SqliteConfig::new(path)
    })
}

/// Does the URL carry a password?
pub(crate) fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    // Up to the first `@`, whatever comes before: passwords that were not escaped have `/` and `?` in them, and the driver
    // takes them so.
    let before_host = rest
        .split_once('@')
        .is_some_and(|(user, _)| user.contains(':'));
    before_host || url.contains("password=")
}

impl Config {
    /// Reads all settings, or says everything that is wrong with them.
    pub fn read(sources: &Sources, entropy: &dyn Entropy) -> Result<Self, ConfigFaults> {
        let mut reader = Reader::new(sources);
        let workers = reader.workers();
        let store = reader.store(workers);
        let secret = reader.secret(store.as_ref(), entropy);
        reader.require_secret(store.as_ref(), secret.as_ref());
        let superadmin_key = reader.superadmin_key();
        let listen = reader.parsed(
            "LISTEN",
            |text| text.parse().ok(),
            "an address and port such as 127.0.0.1:8000 or [::]:8000",
        );
        let tls = reader.tls();
        let metrics_listen = reader.metrics_listen();
        // Port 0 is another one each time.
        if listen.is_some_and(|listen: SocketAddr| listen.port() != 0) && listen == metrics_listen {
            reader.fault("METRICS_LISTEN", "is the address of LISTEN");
        }
        let body_timeout = reader.millis("BODY_TIMEOUT_MS", 100, 600_000);
        let write_timeout = reader.millis("WRITE_TIMEOUT_MS", 100, 600_000);
        let keep_alive = reader.number("KEEP_ALIVE_SECONDS", 1, 3600);
        let max_connections = reader.max_connections();
        let trusted_proxies = reader.trusted_proxies();
        let invalid_keys = reader.parsed(
            "INVALID_KEYS_PER_MINUTE",
            |text| {
                let number = text.parse().ok().filter(|number| *number <= 1_000_000)?;
                Some(NonZeroU32::new(number).map(|per_minute| InvalidKeyLimit { per_minute }))
            },
            "a whole number from 0 to 1000000",
        );
        let shutdown_grace = reader.number("SHUTDOWN_GRACE_SECONDS", 0, 3600);
        let shutdown_timeout = reader.number("SHUTDOWN_TIMEOUT_SECONDS", 0, 3600);
        let migrate = reader.parsed(
            "MIGRATE",
            |text| match text {
                "on" => Some(true),
                "off" => Some(false),
                _ => None,
            },
            "on or off",
        );
        let verification = reader.verification();
        let usage_resolution = reader.number("USAGE_RESOLUTION_SECONDS", 1, 3600);
        let node_name = reader.node_name();
        let log = reader.log();
        let otlp = reader.otlp();
        let config = || {
            Some(Self {
                listen: listen?,
                tls,
                metrics_listen,
                store: store?,
                data_dir: reader.data_dir(),
                secret: secret?,
                superadmin_key,
                workers: workers?,
                body_timeout: body_timeout?,
                write_timeout: write_timeout?,
                keep_alive: Duration::from_secs(keep_alive?),
                max_connections: max_connections?,
                trusted_proxies: trusted_proxies?,
                invalid_keys: invalid_keys?,
                shutdown_grace: Duration::from_secs(shutdown_grace?),
                shutdown_timeout: Duration::from_secs(shutdown_timeout?),
                verification: verification?,
                usage_resolution: Duration::from_secs(usage_resolution?),
                node_name: node_name?,
                migrate: migrate?,
                log: log?,
                otlp,
            })
        };
        match config() {
            Some(config) if reader.faults.is_empty() => Ok(config),
            _ => Err(ConfigFaults(reader.faults)),
        }
    }

    /// Reads what the tools of the command line need: where everything is. With `need_secret` it is a fault that there is
    /// none.
    pub fn read_storage(
        sources: &Sources,
        entropy: &dyn Entropy,
        need_secret: bool,
    ) -> Result<StorageConfig, ConfigFaults> {
        let mut reader = Reader::new(sources);
        let workers = reader.workers();
        let store = reader.store(workers);
        let secret = reader.secret(store.as_ref(), entropy);
        if need_secret {
            reader.require_secret(store.as_ref(), secret.as_ref());
        }
        match store {
            Some(store) if reader.faults.is_empty() => Ok(StorageConfig {
                store,
                data_dir: reader.data_dir(),
                secret,
            }),
            _ => Err(ConfigFaults(reader.faults)),
        }
    }

    /// For how long after a change a server with these settings may go on as if there had been none.
    pub fn patience(sources: &Sources) -> Result<Duration, ConfigFaults> {
        let mut reader = Reader::new(sources);
        match reader.verification() {
            Some(verification) if reader.faults.is_empty() => Ok(verification.patience()),
            _ => Err(ConfigFaults(reader.faults)),
        }
    }

    /// Where everything is.
    pub fn storage(&self) -> StorageConfig {
        StorageConfig {
            store: self.store.clone(),
            data_dir: self.data_dir.clone(),
            secret: Some(self.secret.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use leadr_auth_memory::system::SeededEntropy;

    use super::*;

    const SECRET: &str = "correct horse battery staple, twice";

    fn read(environment: &[(&'static str, &str)]) -> Result<Config, ConfigFaults> {
        let environment = environment
            .iter()
            .map(|&(name, value)| (name, value.to_owned()))
            .collect();
        let sources = Sources {
            environment,
            ..Sources::default()
        };
        Config::read(&sources, &SeededEntropy::new(1))
    }

    fn faulty(environment: &[(&'static str, &str)]) -> Vec<&'static str> {
        read(environment)
            .unwrap_err()
            .0
            .iter()
            .map(|fault| fault.name)
            .collect()
    }

    #[test]
    fn the_bound_has_room_for_two_ticks_or_is_none_at_all() {
        let config = read(&[]).unwrap();
        assert_eq!(config.verification, VerificationConfig::default());
        assert_eq!(
            (config.usage_resolution, config.node_name),
            (Duration::from_mins(1), None)
        );
        let said = read(&[
            ("CACHE_MB", "3"),
            ("REVOCATION_BOUND_MS", "300"),
            ("REVOCATION_TICK_MS", "150"),
            ("STALE_IF_ERROR_SECONDS", "30"),
            ("USAGE_RESOLUTION_SECONDS", "1"),
            ("NODE_NAME", " eu-1 "),
        ]);
        let said = said.unwrap();
        let expected = VerificationConfig {
            cache_bytes: 3 << 20,
            bound: Duration::from_millis(300),
            tick: Duration::from_millis(150),
            stale_if_error: Duration::from_secs(30),
            ..VerificationConfig::default()
        };
        assert_eq!(said.verification, expected);
        assert_eq!(said.node_name.as_deref(), Some("eu-1"));
        assert_eq!(said.usage_resolution, Duration::from_secs(1));
        assert!(read(&[("REVOCATION_BOUND_MS", "0")]).is_ok());
        assert_eq!(
            faulty(&[("REVOCATION_BOUND_MS", "999")]),
            ["REVOCATION_BOUND_MS"]
        );
        let key = format!("node ldr_{}", "A".repeat(43));
        assert_eq!(faulty(&[("NODE_NAME", &key)]), ["NODE_NAME"]);
        assert!(read(&[("NODE_NAME", "sunucu-1 \u{5e9}\u{5e8}\u{5ea}")]).is_ok());
        let controls = "\u{1}\u{7}\u{1b}\u{7f}\u{85}\u{9b}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}";
        for control in controls.chars() {
            let name = format!("a{control}b");
            assert_eq!(faulty(&[("NODE_NAME", &name)]), ["NODE_NAME"], "{name:?}");
        }
    }

    #[test]
    fn changes_are_heard_at_a_postgresql_and_nowhere_else() {
        let (url, listen) = ("postgres://pooler/db", "postgres://server/db");
        let said = [
            ("API_KEY_SECRET", SECRET),
            ("DATABASE_URL", url),
            ("DATABASE_LISTEN_URL", listen),
        ];
        let StoreConfig::Postgres(config) = read(&said).unwrap().store else {
            panic!("not PostgreSQL")
        };
        assert_eq!(config.listen_url.as_deref(), Some(listen));
        assert_eq!(
            faulty(&[("DATABASE_LISTEN_URL", listen)]),
            ["DATABASE_LISTEN_URL"]
        );
        for wrong in ["sqlite:x", "postgres://", "postgres://u:p@h/db?sslmode=odd"] {
            let said = [
                ("API_KEY_SECRET", SECRET),
                ("DATABASE_URL", url),
                ("DATABASE_LISTEN_URL", wrong),
            ];
            assert_eq!(faulty(&said), ["DATABASE_LISTEN_URL"], "{wrong}");
        }
    }

    #[test]
    fn nothing_said_is_a_file_and_a_secret_in_the_data_directory() {
        let config = read(&[]).unwrap();
        let StoreConfig::Sqlite(sqlite) = &config.store else {
            panic!("{config:?}")
        };
        assert_eq!(sqlite.path, Path::new("./data/leadr-auth.db"));
        let SecretConfig::Kept(kept) = &config.secret else {
            panic!("{config:?}")
        };
        assert_eq!(kept.secret, Path::new("./data/secret"));
        assert_eq!(kept.keyring, Path::new("./data/keyring"));
        assert!(config.storage().uses_data_dir());
        assert_eq!(config.listen, "127.0.0.1:8000".parse().unwrap());
        assert_eq!((config.tls, config.metrics_listen), (None, None));
        assert!(config.migrate);
        assert!(config.workers >= 1);
    }

    #[test]
    fn a_file_may_be_elsewhere_and_its_secret_is_in_the_data_directory() {
        let url = ("DATABASE_URL", "sqlite:/srv/keys.db");
        let config = read(&[url, ("DATA_DIR", "/srv/private")]).unwrap();
        let StoreConfig::Sqlite(sqlite) = &config.store else {
            panic!("{config:?}")
        };
        assert_eq!(sqlite.path, Path::new("/srv/keys.db"));
        assert!(
            matches!(&config.secret, SecretConfig::Kept(kept) if kept.secret == Path::new("/srv/private/secret"))
        );
        let config = read(&[url, ("API_KEY_SECRET", SECRET)]).unwrap();
        assert!(!config.storage().uses_data_dir());
        for url in ["sqlite:", "sqlite://keys.db"] {
            assert_eq!(faulty(&[("DATABASE_URL", url)]), ["DATABASE_URL"], "{url}");
        }
    }

    #[test]
    fn memory_has_a_random_secret() {
        let config = read(&[("DATABASE_URL", "memory:")]).unwrap();
        assert!(matches!(config.store, StoreConfig::Memory));
        assert!(matches!(config.secret, SecretConfig::Random(_)));
    }

    #[test]
    fn a_secret_may_be_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, format!("{SECRET}\n")).unwrap();
        let file = ("API_KEY_SECRET_FILE", path.to_str().unwrap());
        let config = read(&[file]).unwrap();
        let SecretConfig::Said(keyring, _) = config.secret else {
            panic!("{config:?}")
        };
        assert_eq!(keyring.current_id(), &PepperId::default());
        assert!(
            keyring
                .current()
                .matches(&Pepper::new(SECRET).unwrap().check())
        );
        assert_eq!(
            faulty(&[file, ("API_KEY_SECRET", SECRET)]),
            ["API_KEY_SECRET_FILE"]
        );
        std::fs::remove_file(&path).unwrap();
        assert_eq!(faulty(&[file]), ["API_KEY_SECRET_FILE"]);
    }

    #[test]
    fn retired_secrets_stand_beside_the_current_one() {
        let old = "the old secret: of 32 bytes or so".replace(' ', "_");
        let older = "the older secret, of 32 bytes or so".replace([' ', ','], "_");
        let retired = format!(" default:{old} ,\n2025:{older}");
        let config = read(&[
            ("API_KEY_SECRET", SECRET),
            ("API_KEY_SECRET_ID", "2026-11"),
            ("API_KEY_SECRETS_RETIRED", &retired),
        ])
        .unwrap();
        let SecretConfig::Said(ring, Strength::Random) = &config.secret else {
            panic!("{config:?}")
        };
        let said = [("2026-11", SECRET), ("2025", &older), ("default", &old)];
        assert_eq!(ring.iter().count(), said.len());
        for ((id, pepper), (name, secret)) in ring.iter().zip(said) {
            assert_eq!(id.as_str(), name);
            assert!(pepper.matches(&Pepper::new(secret).unwrap().check()));
        }
        let shown = format!("{config:?}");
        assert!(!shown.contains(&old) && !shown.contains(SECRET), "{shown}");
        let typed = format!("default:{}", "abc".repeat(20));
        let config = read(&[
            ("API_KEY_SECRET", SECRET),
            ("API_KEY_SECRET_ID", "2026-11"),
            ("API_KEY_SECRETS_RETIRED", &typed),
        ]);
        assert!(matches!(
            config.unwrap().secret,
            SecretConfig::Said(_, Strength::Repetitive)
        ));
    }

    #[test]
    fn all_that_is_wrong_with_secrets_is_told_by_place_and_none_of_them() {
        let long = "hunter_of_more_than_32_bytes_or_so";
        let retired =
            format!("hunter1 a:{long} a:hunter2{long} b:{long} hunter/3:{long} c:hunter4");
        let faults = read(&[
            ("API_KEY_SECRET", "hunter5"),
            ("API_KEY_SECRET_ID", "hunter 6"),
            ("API_KEY_SECRETS_RETIRED", &retired),
        ])
        .unwrap_err();
        let told: Vec<_> = faults
            .0
            .iter()
            .map(|fault| (fault.name, &fault.what))
            .collect();
        let expected = [
            (SECRET_ID_SETTING, "the id of a secret"),
            (RETIRED_SETTING, "pair number 1 is not ID:SECRET"),
            (RETIRED_SETTING, "pair number 5: the id of a secret"),
            ("API_KEY_SECRET", "is shorter"),
            (RETIRED_SETTING, "two secrets have the id a"),
            (RETIRED_SETTING, "the secrets a and b are the same"),
            (RETIRED_SETTING, "the secrets a and number 5 are the same"),
            (RETIRED_SETTING, "the secret c is shorter"),
        ];
        assert_eq!(told.len(), expected.len(), "{faults}");
        for ((name, what), (expected, words)) in told.iter().zip(expected) {
            assert!(
                *name == expected && what.contains(words),
                "{words}: {faults}"
            );
        }
        assert!(!faults.to_string().contains("hunter"), "{faults}");
        // The current one is one of them.
        let same = format!("old:{SECRET}").replace([' ', ','], "_");
        let secret = SECRET.replace([' ', ','], "_");
        for retired in [same, format!("default:other{secret}")] {
            let both = [
                ("API_KEY_SECRET", secret.as_str()),
                ("API_KEY_SECRETS_RETIRED", &retired),
            ];
            assert_eq!(faulty(&both), [RETIRED_SETTING], "{retired}");
        }
        // Without a current one they mean nothing.
        for url in ["memory:", "sqlite:keys.db"] {
            let url = ("DATABASE_URL", url);
            let retired = format!("a:{long}");
            let retired = (RETIRED_SETTING, retired.as_str());
            assert_eq!(faulty(&[url, retired]), [RETIRED_SETTING]);
            assert_eq!(
                faulty(&[url, (SECRET_ID_SETTING, "a")]),
                [SECRET_ID_SETTING]
            );
            assert!(read(&[url, (SECRET_ID_SETTING, "default")]).is_ok());
            // And what else is wrong with them is told as well.
            let alone = [
                url,
                (SECRET_ID_SETTING, "hunter 6"),
                (RETIRED_SETTING, "hunter1 a:hunter2 a:hunter4"),
            ];
            let told = read(&alone).unwrap_err().to_string();
            for (words, times) in [
                ("neither API_KEY_SECRET nor", 2),
                ("API_KEY_SECRET_ID: the id of a secret", 1),
                ("pair number 1 is not", 1),
                ("the secret a is shorter", 2),
                ("two secrets have the id a", 1),
                ("API_KEY_SECRET: ", 0),
                ("hunter", 0),
            ] {
                assert_eq!(told.matches(words).count(), times, "{words}: {told}");
            }
        }
        // A retired one with the current one's id is not taken for that.
        for (secret, expected) in [
            (long, &[RETIRED_SETTING, RETIRED_SETTING][..]),
            (
                "hunter5",
                &["API_KEY_SECRET", RETIRED_SETTING, RETIRED_SETTING],
            ),
        ] {
            let both = [
                ("API_KEY_SECRET", secret),
                (RETIRED_SETTING, "default:hunter2"),
            ];
            assert_eq!(faulty(&both), expected);
        }
    }

    #[test]
    fn a_keyring_file_stands_for_all_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ring");
        let write = |current: &str, secret: &str| {
            let text = format!(
                r#"{{"current": "{current}", "secrets": [{{"id": "old", "secret": "{SECRET}"}}, {{"id": "new", "secret": "{secret}"}}]}}"#
            );
            std::fs::write(&path, text).unwrap();
        };
        write("new", "hunter, a secret of 32 bytes or more");
        let file = (KEYRING_FILE_SETTING, path.to_str().unwrap());
        let database = ("DATABASE_URL", "postgres://u:pw@localhost/leadr");
        let config = read(&[file, database]).unwrap();
        let SecretConfig::File(named, ring, Strength::Random) = &config.secret else {
            panic!("{config:?}")
        };
        assert_eq!((named, ring.current_id().as_str()), (&path, "new"));
        assert!(!config.storage().uses_data_dir());
        for (name, value) in [
            ("API_KEY_SECRET", SECRET),
            ("API_KEY_SECRET_FILE", "secret"),
            (SECRET_ID_SETTING, "default"),
            (RETIRED_SETTING, "a:b"),
        ] {
            assert_eq!(faulty(&[file, database, (name, value)]), [name]);
        }
        write("newer", "hunter");
        assert_eq!(faulty(&[file, database]), [KEYRING_FILE_SETTING; 2]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(faulty(&[file, database]), [KEYRING_FILE_SETTING]);
    }

    #[test]
    fn a_database_needs_a_secret() {
        let url = ("DATABASE_URL", "postgres://u:pw@localhost/leadr");
        assert_eq!(faulty(&[url]), ["API_KEY_SECRET"]);
        assert_eq!(faulty(&[url, ("API_KEY_SECRET", "  ")]), ["API_KEY_SECRET"]);
        assert_eq!(
            faulty(&[url, ("API_KEY_SECRET", "short")]),
            ["API_KEY_SECRET"]
        );
        let config = read(&[url, ("API_KEY_SECRET", SECRET)]).unwrap();
        let StoreConfig::Postgres(postgres) = &config.store else {
            panic!("{config:?}")
        };
        assert_eq!(postgres.lookup_timeout, Duration::from_millis(250));
    }

    #[test]
    fn metrics_need_an_address_of_their_own() {
        let both = |address| [("LISTEN", address), ("METRICS_LISTEN", address)];
        assert_eq!(faulty(&both("127.0.0.1:8000")), ["METRICS_LISTEN"]);
        assert!(read(&both("127.0.0.1:0")).is_ok());
    }

    #[test]
    fn what_is_not_text_is_a_fault_and_not_another_value() {
        let sources = Sources {
            not_text: vec!["API_KEY_SECRET"],
            ..Sources::default()
        };
        let entropy = SeededEntropy::new(1);
        for faults in [
            Config::read(&sources, &entropy).unwrap_err(),
            Config::read_storage(&sources, &entropy, true).unwrap_err(),
        ] {
            assert_eq!(faults.0.len(), 1, "{faults}");
            assert!(
                faults.to_string().contains("API_KEY_SECRET: is not UTF-8"),
                "{faults}"
            );
        }
    }

    #[test]
    fn a_certificate_needs_its_key() {
        assert_eq!(faulty(&[("TLS_CERT", "cert.pem")]), ["TLS_KEY"]);
        assert_eq!(faulty(&[("TLS_KEY", "key.pem")]), ["TLS_CERT"]);
        let config = read(&[("TLS_CERT", "cert.pem"), ("TLS_KEY", "key.pem")]).unwrap();
        assert_eq!(config.tls.unwrap().key, Path::new("key.pem"));
    }

    #[test]
    fn all_faults_are_reported_together_by_name_and_without_values() {
        let faults = read(&[
            ("DATABASE_URL", "mysql://user:hunter2@host/db"),
            ("DATABASE_LISTEN_URL", "postgres://user:hunter2@host/db"),
            ("API_KEY_SECRET", "hunter3"),
            ("API_KEY_SECRET_ID", "hunter 3"),
            ("API_KEY_SECRETS_RETIRED", "hunter3"),
            ("SUPERADMIN_API_KEY", "ldr_hunter4"),
            ("LISTEN", "hunter5"),
            ("TLS_CERT", "hunter6"),
            ("METRICS_LISTEN", "hunter7"),
            ("WORKERS", "0"),
            ("POOL_SIZE", "many"),
            ("DATABASE_TIMEOUT_MS", "-1"),
            ("STATEMENT_TIMEOUT_MS", "1"),
            ("BODY_TIMEOUT_MS", "1e9"),
            ("WRITE_TIMEOUT_MS", "99"),
            ("KEEP_ALIVE_SECONDS", "0"),
            ("MAX_CONNECTIONS", "all"),
            ("TRUSTED_PROXIES", "10.0.0.0/8, hunter11"),
            ("INVALID_KEYS_PER_MINUTE", "1000001"),
            ("SHUTDOWN_GRACE_SECONDS", "soon"),
            ("SHUTDOWN_TIMEOUT_SECONDS", "99999"),
            ("CACHE_MB", "0"),
            ("REVOCATION_BOUND_MS", "60001"),
            ("REVOCATION_TICK_MS", "49"),
            ("STALE_IF_ERROR_SECONDS", "for ever"),
            ("USAGE_RESOLUTION_SECONDS", "0"),
            ("NODE_NAME", "hunter10\u{7}"),
            ("MIGRATE", "maybe"),
            ("RUST_LOG", "info,[["),
            ("LOG_FORMAT", "xml"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://hunter8@host"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter9"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.1"),
        ])
        .unwrap_err();
        let mut names: Vec<_> = faults.0.iter().map(|fault| fault.name).collect();
        // TLS_CERT is fine by itself, and TLS_KEY missing; of the three for the secret only one may be set; and any path
        // may be a data directory, and any text a name.
        let fine = [
            "TLS_CERT",
            "API_KEY_SECRET_FILE",
            "API_KEY_KEYRING_FILE",
            "DATA_DIR",
            "OTEL_SERVICE_NAME",
        ];
        let settings = SETTINGS.iter().map(|setting| setting.name);
        let mut all: Vec<_> = settings.filter(|name| !fine.contains(name)).collect();
        names.sort_unstable();
        all.sort_unstable();
        assert_eq!(names, all, "{faults}");
        let shown = faults.to_string();
        assert!(!shown.contains("hunter"), "{shown}");
    }

    #[test]
    fn a_collector_is_a_place_that_is_spoken_to_without_tls() {
        for (endpoint, traces) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector", "http://collector/v1/traces"),
            ("http://[::1]:4318/", "http://[::1]:4318/v1/traces"),
            ("http://gateway/otlp/", "http://gateway/otlp/v1/traces"),
        ] {
            assert_eq!(traces_endpoint(endpoint).as_deref(), Some(traces));
        }
        for bad in [
            "https://collector:4318",
            "collector:4318",
            "/v1/traces",
            "http://",
            "http://user:pw@collector",
            "http://collector?token=t",
        ] {
            assert_eq!(traces_endpoint(bad), None, "{bad}");
        }
    }

    #[test]
    fn headers_are_pairs() {
        assert!(are_headers("authorization=Bearer%20t, x-scope = a=b"));
        for bad in ["token", "a=b,", "a b=c", "=b", "a=b\nc"] {
            assert!(!are_headers(bad), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_needs_a_build_with_the_export() {
        assert_eq!(read(&[]).unwrap().otlp, None);
        let name = "OTEL_EXPORTER_OTLP_ENDPOINT";
        assert_eq!(read(&[(name, "off")]).unwrap().otlp, None);
        let with = read(&[
            (name, "http://127.0.0.1:4318"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ]);
        if cfg!(feature = "otlp") {
            let expected = OtlpConfig {
                endpoint: "http://127.0.0.1:4318/v1/traces".to_owned(),
                service_name: "leadr-auth".to_owned(),
                ratio: 0.25,
            };
            assert_eq!(with.unwrap().otlp, Some(expected));
        } else {
            let faults = with.unwrap_err();
            assert_eq!(faults.0.len(), 1);
            let told = faults.to_string();
            assert!(told.contains("build it with --features otlp"), "{told}");
        }
    }

    #[test]
    fn flags_win_over_the_environment() {
        let sources = Sources {
            flags: [("LISTEN", "127.0.0.1:1".to_owned())].into(),
            environment: [("LISTEN", "127.0.0.1:2".to_owned())].into(),
            ..Sources::default()
        };
        let config = Config::read(&sources, &SeededEntropy::new(1)).unwrap();
        assert_eq!(config.listen.port(), 1);
    }

    #[test]
    fn a_password_on_the_command_line_is_refused() {
        for (url, refused) in [
            ("postgres://user:pw@host/db", true),
            ("postgres://host/db?user=u&password=pw", true),
            ("postgres://user:p/w@host/db", true),
            ("postgres://user:p?w@host/db", true),
            ("postgres://user@host:5432/db", false),
            ("postgres://host:5432/db?sslmode=verify-full", false),
        ] {
            let sources = Sources {
                flags: [("DATABASE_URL", url.to_owned())].into(),
                environment: [("API_KEY_SECRET", SECRET.to_owned())].into(),
                ..Sources::default()
            };
            let result = Config::read(&sources, &SeededEntropy::new(1));
            assert_eq!(result.is_err(), refused, "{url}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = leadr_auth_domain::generate_api_key([1; 32]);
        let config = read(&[
            ("DATABASE_URL", "postgres://user:hunter2@host/db"),
            ("API_KEY_SECRET", SECRET),
            ("SUPERADMIN_API_KEY", key.expose()),
        ])
        .unwrap();
        let shown = format!("{config:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains(SECRET),
            "{shown}"
        );
        assert!(!shown.contains(key.expose()), "{shown}");
    }

    #[test]
    fn every_setting_is_documented() {
        let page = include_str!("../../../docs/configuration.md");
        for Setting {
            name,
            flag,
            default,
            ..
        } in SETTINGS
        {
            let row = page
                .lines()
                .find(|line| line.starts_with(&format!("| `{name}`")));
            let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row for {name}"));
            assert!(row.contains(default), "the default of {name}: {row}");
            if let Some(flag) = flag {
                assert!(
                    row.contains(&format!("`--{flag}`")),
                    "the flag of {name}: {row}"
                );
            }
        }
    }
}
