//! An application that protects a route with `RequireApiKey`, for `cargo xtask bench`: what `protect_a_route` is, with as many
//! keys as asked for.
//!
//! `LISTEN` is the address, `WORKERS` the number of workers, `KEYS` how many keys are made, and `PLAIN` a file that is made
//! with them, a line each: the key and its id.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use actix_web::{App, HttpServer};
use leadr_auth_domain::KeyName;
use leadr_auth_service::{Authentication, NewKey, Service};
use tokio::sync::oneshot;

#[path = "protect_a_route.rs"]
mod protect_a_route;

#[actix_web::main]
#[expect(
    clippy::disallowed_methods,
    reason = "it has no configuration but these four"
)]
async fn main() -> Result<(), Box<dyn Error>> {
    let listen = std::env::var("LISTEN")?;
    let workers: usize = std::env::var("WORKERS").map_or(Ok(1), |n| n.parse())?;
    let keys: usize = std::env::var("KEYS")?.parse()?;
    let service = protect_a_route::service()?;
    make_keys(&service, keys, &std::env::var("PLAIN")?).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let background = actix_web::rt::spawn(service.clone().run(async {
        let _ = stopped.await;
    }));
    HttpServer::new(move || App::new().configure(protect_a_route::routes(service.clone())))
        .workers(workers)
        .bind(listen)?
        .run()
        .await?;
    drop(stop);
    background.await?;
    Ok(())
}

/// Makes the keys by the first one, with the scopes that it has.
async fn make_keys(service: &Service, keys: usize, path: &str) -> Result<(), Box<dyn Error>> {
    let first = protect_a_route::first_key(service, &["docs:read", "keys:write"]).await?;
    let Authentication::Accepted(caller) = service.authenticate(&first).await? else {
        return Err("the first key is not good".into());
    };
    let (caller, account) = (caller.principal(), caller.record.account.id);
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let mut file = BufWriter::new(file);
    for n in 0..keys {
        let key = NewKey {
            name: KeyName::parse(&format!("Key {n:07}"))?,
            expires_at: None,
            scopes: None,
        };
        let issued = service.issue_key(&caller, account, key).await?;
        let id = issued.key.id.as_uuid();
        writeln!(file, "{} {id}", issued.plain_key.expose())?;
    }
    file.flush()?;
    Ok(())
}
