//! The application, from its configuration to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_server::Server;
use anyhow::{Context as _, bail};
use leadr_auth_domain::{PepperId, PlainKey};
use leadr_auth_http::{HttpConfig, State, TrustedProxies};
use leadr_auth_ports::Entropy as _;
use leadr_auth_service::readiness::Phase;
use leadr_auth_service::{Chain, OperatorState, Service, ServiceConfig};
use leadr_auth_sqlite::ServerLock;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::{Config, SecretConfig, StorageConfig};
use crate::descriptors;
use crate::server::{self, Limits};
use crate::storage::Database;
use crate::system::{OsEntropy, SystemClock, host_name};
use crate::tls::Certificate;

/// How long start-up waits before it asks a store again that was away.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How many connections may be open to the address of the metrics. They are read by a few programs.
const METRICS_CONNECTIONS: usize = 256;

/// Something that whoever started the application wants to tell its user.
#[derive(Clone, Debug)]
pub enum Event {
    /// Requests are accepted at this address.
    Listening(SocketAddr),
    /// Metrics are served at this address.
    MetricsListening(SocketAddr),
    /// The store is ready, and this is its operator.
    Ready(OperatorState),
    /// The process was asked to end, and does.
    Stopping,
}

/// A server that is bound to its address and not yet running.
pub struct Application {
    service: Service,
    server: Server,
    address: SocketAddr,
    metrics: Option<(Server, SocketAddr)>,
    certificate: Option<Certificate>,
    storage: StorageConfig,
    new_secret: Option<PathBuf>,
    database: Database,
    start: Start,
    shutdown_grace: Duration,
    /// Held for as long as the application runs.
    _lock: Option<ServerLock>,
}

/// What is left to do when the server listens already.
struct Start {
    database: Database,
    /// Whether the schema has to be brought up to date.
    migrate: bool,
    superadmin_key: Option<PlainKey>,
}

impl Application {
    /// Puts everything together and binds the addresses. A file is opened, with all that can be wrong with it; PostgreSQL
    /// need not be there yet.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let entropy = Arc::new(OsEntropy::new());
        let mut instance = [0; 8];
        entropy
            .fill(&mut instance)
            .context("cannot start without random bytes")?;
        // What can be wrong before anything is made comes first.
        let certificate = config.tls.clone().map(Certificate::read).transpose()?;
        let limits = Limits {
            workers: config.workers,
            connections: descriptors::connections(&config),
            keep_alive: config.keep_alive,
            write_timeout: config.write_timeout,
            shutdown_timeout: config.shutdown_timeout,
        };
        let bind = |address| server::bind(address, config.write_timeout);
        let (listener, address) = bind(config.listen)?;
        let metrics = config.metrics_listen.map(bind).transpose()?;

        let storage = config.storage();
        storage.check_kept_secret()?;
        let (database, lock) = storage.open_for_server()?;
        // A file is there at once, and without its schema nobody can tell which secret is the right one.
        let local = matches!(database, Database::Sqlite(..));
        if local {
            bring_file_up_to_date(&database, config.migrate).await?;
        }
        let stores = database.stores();
        let new_secret = match &config.secret {
            SecretConfig::Kept(kept) if !kept.are_there()? => Some(kept.secret.clone()),
            SecretConfig::Kept(_)
            | SecretConfig::Said(..)
            | SecretConfig::File(..)
            | SecretConfig::Random(_) => None,
        };
        let keyring = storage.keyring(&stores, Some(entropy.as_ref())).await?;

        let http = HttpConfig {
            body_timeout: config.body_timeout,
            trusted_proxies: TrustedProxies::new(config.trusted_proxies),
            invalid_keys: config.invalid_keys,
            instance: u64::from_le_bytes(instance),
        };
        let service_config = ServiceConfig {
            verification: config.verification,
            usage_resolution: config.usage_resolution,
            node_name: config
                .node_name
                .unwrap_or_else(|| format!("{}:{}", host_name(), address.port())),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let clock = Arc::new(SystemClock);
        let service = Service::with_config(stores, clock, entropy, keyring, service_config);
        if local {
            service.check_secret().await?;
        }
        let state = State::new(service.clone(), http);
        let metrics = metrics
            .map(|(listener, address)| {
                let state = state.clone();
                // Served apart from the requests, so that a proxy in front of those cannot let strangers in by mistake.
                let limits = Limits {
                    workers: 1,
                    connections: METRICS_CONNECTIONS,
                    shutdown_timeout: Duration::ZERO,
                    ..limits
                };
                let metrics = move || leadr_auth_http::metrics_app(state.clone());
                io::Result::Ok((server::serve(limits, listener, None, metrics)?, address))
            })
            .transpose()?;
        let tls = certificate.as_ref().map(Certificate::server_config);
        let server = server::serve(limits, listener, tls.transpose()?, move || {
            leadr_auth_http::app(state.clone())
        })?;
        Ok(Self {
            service,
            server,
            address,
            metrics,
            certificate,
            storage,
            new_secret,
            database: database.clone(),
            start: Start {
                migrate: config.migrate && !local,
                database,
                superadmin_key: config.superadmin_key,
            },
            shutdown_grace: config.shutdown_grace,
            _lock: lock,
        })
    }

    /// Where it listens: with port 0 configured, the port that it got.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether requests come over TLS.
    pub const fn is_tls(&self) -> bool {
        self.certificate.is_some()
    }

    /// Where a secret was made just now, if one was.
    pub const fn new_secret(&self) -> Option<&PathBuf> {
        self.new_secret.as_ref()
    }

    /// Serves until `stop` is over or start-up fails for good. Then says that it is not ready, goes on serving for the
    /// configured grace, stops accepting, lets requests end, writes down the last uses, and is over. Needs a
    /// multi-threaded runtime.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        tell: impl Fn(Event) + Clone + Send + 'static,
    ) -> anyhow::Result<()> {
        // Before anybody knows of this process: a signal that nobody waits for ends it.
        let reload = Reload {
            certificate: self.certificate,
            storage: self.storage,
            service: self.service.clone(),
        };
        let reloads = tokio::spawn(reload.at(signal(SignalKind::hangup())?));
        let handle = self.server.handle();
        let server = tokio::spawn(self.server);
        tell(Event::Listening(self.address));
        let metrics = self.metrics.map(|(server, address)| {
            tell(Event::MetricsListening(address));
            let handle = server.handle();
            (tokio::spawn(server), handle)
        });
        let (stop_background, background_stopped) = oneshot::channel::<()>();
        let (tell_of_schema, schema) = oneshot::channel::<()>();
        let service = self.service.clone();
        let background = tokio::spawn(async move {
            // What looks for tables that are not made yet would only complain. Where start-up is given up, nobody tells, and
            // what was noted is written down all the same.
            let _ = schema.await;
            let stop = async {
                let _ = background_stopped.await;
            };
            service.run(stop).await;
        });
        let start = self
            .start
            .run(self.service.clone(), tell_of_schema, tell.clone());
        let start = tokio::spawn(start);
        let give_up = start.abort_handle();
        let failed = async {
            match start.await {
                Ok(Ok(())) => std::future::pending().await,
                Ok(Err(error)) => error,
                Err(error) => error.into(),
            }
        };
        let outcome = tokio::select! {
            () = stop => Ok(()),
            error = failed => Err(error),
        };
        tracing::info!("stopping");
        // Start-up may still be waiting for a store that is away.
        give_up.abort();
        self.service.readiness().set(Phase::Stopping);
        tell(Event::Stopping);
        if outcome.is_ok() {
            tokio::time::sleep(self.shutdown_grace).await;
        }
        handle.stop(true).await;
        server.await??;
        let _ = stop_background.send(());
        background.await?;
        reloads.abort();
        if let Some((server, handle)) = metrics {
            handle.stop(false).await;
            server.await??;
        }
        // The workers' handles go when their threads end, which is after the server has.
        self.database.close().await;
        outcome?;
        match self.service.statistics().usage.lost {
            0 => Ok(()),
            lost => bail!("the last uses of {lost} keys could not be written down and are lost"),
        }
    }
}

async fn bring_file_up_to_date(database: &Database, migrate: bool) -> anyhow::Result<()> {
    if migrate {
        let applied = database.migrate().await?;
        if !applied.is_empty() {
            tracing::info!(?applied, "brought the database's schema up to date");
        }
        return Ok(());
    }
    if !database.pending_migrations().await?.is_empty() {
        bail!(
            "the database's schema is not up to date, and MIGRATE is off: run `leadr-auth migrate`"
        );
    }
    Ok(())
}

impl Start {
    async fn bring_up_to_date(&self) -> anyhow::Result<()> {
        let mut wait = Waiting::default();
        loop {
            match self.database.migrate().await {
                Ok(applied) if applied.is_empty() => return Ok(()),
                Ok(applied) => {
                    tracing::info!(?applied, "brought the database's schema up to date");
                    return Ok(());
                }
                Err(error) if error.is_retryable() => wait.for_store(&error).await,
                Err(error) => {
                    return Err(error).context("cannot bring the database's schema up to date");
                }
            }
        }
    }

    /// Brings the store into shape, however long it is away, and then says that the process is ready.
    async fn run(
        self,
        service: Service,
        tell_of_schema: oneshot::Sender<()>,
        tell: impl Fn(Event),
    ) -> anyhow::Result<()> {
        if self.migrate {
            self.bring_up_to_date().await?;
        }
        let _ = tell_of_schema.send(());
        let mut wait = Waiting::default();
        let operator = loop {
            match service.prepare(self.superadmin_key.as_ref()).await {
                Ok(operator) => break operator,
                Err(error) if error.is_retryable() => wait.for_store(&error).await,
                Err(error) => return Err(error).context("cannot serve from this store"),
            }
        };
        service.readiness().set(Phase::Ready);
        tracing::info!("ready");
        tell(Event::Ready(operator));
        Ok(())
    }
}

/// Waits for a store that is away, and says so once.
#[derive(Default)]
struct Waiting {
    said: bool,
}

impl Waiting {
    fn for_store(&mut self, error: &(dyn std::error::Error + 'static)) -> tokio::time::Sleep {
        if !self.said {
            self.said = true;
            tracing::warn!(error = %Chain(error), "the store is away; waiting for it");
        }
        tokio::time::sleep(RETRY_AFTER)
    }
}

/// What is read again at every SIGHUP: the certificate, and the secrets where they are in a file for several. Without
/// either there is nothing to read, and the signal must not end the process all the same.
struct Reload {
    certificate: Option<Certificate>,
    storage: StorageConfig,
    service: Service,
}

impl Reload {
    async fn at(self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            match self.certificate.as_ref().map(Certificate::reload) {
                Some(Ok(())) => tracing::info!("read the certificate again"),
                Some(Err(error)) => {
                    tracing::error!(error = %Chain(&error), "the certificate stays as it was");
                }
                None => tracing::info!("no certificate to read again"),
            }
            match self.secrets().await {
                Ok(Some(current)) => tracing::info!(%current, "read the secrets again"),
                Ok(None) => tracing::info!("no secrets to read again"),
                // Neither what reads them nor what compares them repeats any of their content.
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the secrets stay as they were"
                    );
                }
            }
        }
    }

    /// Answers the id of the current one.
    async fn secrets(&self) -> anyhow::Result<Option<PepperId>> {
        let Some(keyring) = self.storage.read_keyring_again()? else {
            return Ok(None);
        };
        let current = keyring.current_id().clone();
        self.service.replace_keyring(keyring).await?;
        Ok(Some(current))
    }
}

/// Is over when the process is asked to end: SIGTERM, or SIGINT from a terminal. From the call on these do nothing else, also
/// before anybody awaits it.
pub fn asked_to_stop() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
