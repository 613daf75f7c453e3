//! A whole application that protects a route of its own with keys, and keeps everything in memory.
//!
//! ```console
//! $ cargo run -p leadr-auth-http --example protect_a_route
//! ```
//!
//! prints a key and how to use it. A real application keeps its keys in a file or in PostgreSQL, as `leadr-auth` does.

use std::error::Error;
use std::fs::File;
use std::io::Read as _;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::web::{self, ServiceConfig};
use actix_web::{App, HttpServer, get};
use leadr_auth_domain::{
    AccountName, KeyName, Pepper, PlainKey, Scope, ScopeSet, Slug, Timestamp, generate_api_key,
};
use leadr_auth_http::{Protect, Refused, RequireApiKey};
use leadr_auth_memory::Memory;
use leadr_auth_ports::{Clock, Entropy, EntropyError};
use leadr_auth_service::{Authentication, NewAccount, NewKey, OperatorState, Service};
use tokio::sync::oneshot;

/// The route: for holders of a key with the scope `docs:read`.
#[get("/docs")]
async fn docs(key: RequireApiKey) -> Result<String, Refused> {
    key.require_scope("docs:read")?;
    Ok(format!("Hello, {}", key.name()))
}

/// The application: its routes, and what `RequireApiKey` asks.
pub(crate) fn routes(service: Service) -> impl FnOnce(&mut ServiceConfig) {
    move |config| {
        let protect = web::Data::new(Protect::new(service));
        config.app_data(protect).service(docs);
    }
}

#[actix_web::main]
#[expect(
    clippy::print_stdout,
    reason = "whoever starts an example reads what it says"
)]
async fn main() -> Result<(), Box<dyn Error>> {
    let service = service()?;
    let key = first_key(&service, &["docs:read"]).await?;
    // Without this every key is looked up in the store: the cache answers only while it hears what changes. It also writes down
    // when keys were last used.
    let (stop, stopped) = oneshot::channel::<()>();
    let background = actix_web::rt::spawn(service.clone().run(async {
        let _ = stopped.await;
    }));
    println!(
        "curl -H 'leadr-api-key: {}' http://localhost:8080/docs",
        key.expose()
    );
    HttpServer::new(move || App::new().configure(routes(service.clone())))
        .bind(("127.0.0.1", 8080))?
        .run()
        .await?;
    // What is noted and not yet written is written now.
    drop(stop);
    background.await?;
    Ok(())
}

/// The service, on a store in memory. The secret is for this process only, as its keys are.
pub(crate) fn service() -> Result<Service, Box<dyn Error>> {
    let mut secret = [0; 32];
    Random.fill(&mut secret)?;
    // A key is 256 random bits as text, which is what a secret is, too.
    let secret = generate_api_key(secret);
    let stores = Memory::new().stores();
    let pepper = Pepper::new(secret.expose())?;
    Ok(Service::new(
        stores,
        Arc::new(System),
        Arc::new(Random),
        pepper,
    ))
}

/// Makes an account and a key with these scopes, as whoever runs the service does over HTTP or at the command line.
pub(crate) async fn first_key(
    service: &Service,
    scopes: &[&str],
) -> Result<PlainKey, Box<dyn Error>> {
    let OperatorState::Created(operator) = service.prepare(None).await? else {
        return Err("the store is not empty".into());
    };
    let Authentication::Accepted(operator) = service.authenticate(&operator).await? else {
        return Err("the operator's key is not good".into());
    };
    let operator = operator.principal();
    let access = operator.operator().ok_or("an operator is none")?;
    let account = NewAccount {
        name: AccountName::parse("Readers")?,
        slug: Slug::parse("readers")?,
        key_limit: None,
    };
    let account = service.create_account(&access, account).await?;
    let scopes: Result<Vec<_>, _> = scopes.iter().map(|scope| Scope::parse(scope)).collect();
    let key = NewKey {
        name: KeyName::parse("First reader")?,
        expires_at: None,
        scopes: Some(ScopeSet::new(scopes?)?),
    };
    Ok(service
        .issue_key(&operator, account.id, key)
        .await?
        .plain_key)
}

/// The machine's clock.
struct System;

impl Clock for System {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that everybody else is given"
    )]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let micros = since.unwrap_or_default().as_micros();
        Timestamp::saturating_from_unix_micros(micros.try_into().unwrap_or(i64::MAX))
    }

    fn uptime(&self) -> Duration {
        // A store that others share needs a clock that goes on while the machine is suspended: see `leadr_auth_app::system`.
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

/// The operating system's source of randomness.
struct Random;

impl Entropy for Random {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(bytes))
            .map_err(|error| EntropyError(error.into()))
    }
}
