//! The application, from its configuration to its end.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpServer;
use actix_web::dev::Server;
use anyhow::Context as _;
use leadr_auth_http::{HttpConfig, State};
use leadr_auth_memory::Memory;
use leadr_auth_ports::{Entropy as _, Stores};
use leadr_auth_postgres::migrate::{self, MigrateError};
use leadr_auth_postgres::{Postgres, PostgresConfig};
use leadr_auth_service::{Chain, EnsureOperatorError, OperatorState, Service};
use tokio::sync::oneshot;

use crate::config::{Config, StoreConfig};
use crate::system::{OsEntropy, SystemClock};

/// How long start-up waits before it asks a store again that was away.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How long the head of a request may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Something that whoever started the application wants to tell its user.
#[derive(Clone, Debug)]
pub enum Event {
    /// Requests are accepted at this address.
    Listening(SocketAddr),
    /// The store is ready, and this is its operator.
    Ready(OperatorState),
}

/// A server that is bound to its address and not yet running.
pub struct Application {
    service: Service,
    server: Server,
    address: SocketAddr,
    /// What has to be migrated before anything else.
    migrate: Option<PostgresConfig>,
    config: Config,
}

impl Application {
    /// Puts everything together and binds the address. The database need not be there yet.
    pub fn build(config: Config) -> anyhow::Result<Self> {
        let (stores, migrate) = stores(&config)?;
        let entropy = Arc::new(OsEntropy::new());
        let mut instance = [0; 8];
        entropy
            .fill(&mut instance)
            .context("cannot start without random bytes")?;
        let http = HttpConfig {
            body_timeout: config.body_timeout,
            instance: u64::from_le_bytes(instance),
        };
        let service = Service::new(
            stores,
            Arc::new(SystemClock),
            entropy,
            config.pepper.clone(),
        );
        let state = State::new(service.clone(), http);
        let listener = TcpListener::bind(config.listen)
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        let server = HttpServer::new(move || leadr_auth_http::app(state.clone()))
            .workers(config.workers)
            .client_request_timeout(HEAD_TIMEOUT)
            .shutdown_timeout(config.shutdown_timeout.as_secs())
            .disable_signals()
            .listen(listener)?
            .run();
        Ok(Self {
            service,
            server,
            address,
            migrate,
            config,
        })
    }

    /// Where it listens: with port 0 configured, the port that it got.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is over or start-up fails for good; then stops accepting, lets requests end, writes down the
    /// last uses, and is over. Needs a multi-threaded runtime.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        tell: impl Fn(Event) + Send + 'static,
    ) -> anyhow::Result<()> {
        let handle = self.server.handle();
        let server = tokio::spawn(self.server);
        let (stop_usage, usage_stopped) = oneshot::channel::<()>();
        let usage = tokio::spawn(self.service.usage().clone().run(async {
            let _ = usage_stopped.await;
        }));
        tell(Event::Listening(self.address));
        let start = tokio::spawn(start(self.service.clone(), self.migrate, self.config, tell));
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
        self.service.readiness().set(false);
        handle.stop(true).await;
        server.await??;
        let _ = stop_usage.send(());
        usage.await?;
        outcome
    }
}

fn stores(config: &Config) -> anyhow::Result<(Stores, Option<PostgresConfig>)> {
    Ok(match &config.store {
        StoreConfig::Memory => (Memory::new().stores(), None),
        StoreConfig::Postgres(postgres) => {
            let migrate = config.migrate.then(|| postgres.clone());
            (Postgres::new(postgres.clone())?.stores(), migrate)
        }
    })
}

/// Brings the store into shape, however long it is away, and then says that the process is ready.
async fn start(
    service: Service,
    migrate: Option<PostgresConfig>,
    config: Config,
    tell: impl Fn(Event),
) -> anyhow::Result<()> {
    if let Some(postgres) = migrate {
        let mut wait = Waiting::default();
        loop {
            match migrate::run(&postgres).await {
                Ok(applied) if applied.is_empty() => break,
                Ok(applied) => {
                    tracing::info!(?applied, "brought the database's schema up to date");
                    break;
                }
                Err(MigrateError::Unavailable(error)) => wait.for_store(error.as_ref()).await,
                Err(error @ MigrateError::Failed(_)) => {
                    return Err(error).context("cannot bring the database's schema up to date");
                }
            }
        }
    }
    let mut wait = Waiting::default();
    let operator = loop {
        match service.prepare(config.superadmin_key.as_ref()).await {
            Ok(operator) => break operator,
            Err(EnsureOperatorError::Store(error)) if error.is_retryable() => {
                wait.for_store(&error).await;
            }
            Err(error) => return Err(error).context("cannot make sure of an operator"),
        }
    };
    service.readiness().set(true);
    tracing::info!("ready");
    tell(Event::Ready(operator));
    Ok(())
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

/// Is over when the process is asked to end: SIGTERM, or SIGINT from a terminal.
pub async fn asked_to_stop() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
