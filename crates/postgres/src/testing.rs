//! A database of a test's own, and proxies before it: one that fails on command, and one that speaks TLS. For tests of this crate and of others.
//!
//! `TEST_DATABASE_URL` names a server, by a user who may create databases and roles there. Nothing is touched on it but
//! databases and roles that were made here.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "this module is test code, though other crates' tests call it: what does not work is a failed test"
)]

mod chaos;
mod plans;
mod reference;
mod tls;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use leadr_auth_domain::ApiKey;
use leadr_auth_ports::Stores;
use tokio_postgres::{Client, NoTls};

pub use self::{
    chaos::ChaosProxy,
    reference::{REFERENCE_KEY, REFERENCE_SECRET, reference},
    tls::TlsProxy,
};
use crate::{Postgres, PostgresConfig, connect, keys, migrate};

/// The variable that names the server.
const SERVER: &str = "TEST_DATABASE_URL";

/// A database of its own, dropped with this guard, also when the test fails.
pub struct TestDatabase {
    server: String,
    name: String,
    url: String,
    has_role: bool,
}

/// A role that may log in, and otherwise what everybody may. It has the name of its database, and goes with it.
pub struct TestRole {
    /// Its name, which needs no quotes.
    pub name: String,
    /// How to reach the database as this role.
    pub url: String,
}

impl TestDatabase {
    /// A new database with the schema in it.
    pub async fn create() -> Self {
        let database = Self::create_empty().await;
        migrate::run(&PostgresConfig::new(database.url()))
            .await
            .expect("an empty database can be migrated");
        database
    }

    /// A new database with nothing in it.
    pub async fn create_empty() -> Self {
        let server = server();
        let name = unique_name();
        let url = with_database(&server, &name);
        client(&server)
            .await
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .expect("the user of TEST_DATABASE_URL may create databases");
        Self {
            server,
            name,
            url,
            has_role: false,
        }
    }

    /// Makes the one role that a database can have, for somebody who is not to do everything.
    pub async fn create_role(&mut self) -> TestRole {
        let name = self.name.clone();
        // Before PostgreSQL 15 everybody may make tables.
        self.client()
            .await
            .batch_execute(&format!(
                "CREATE ROLE {name} LOGIN PASSWORD '{name}';
                 REVOKE CREATE ON SCHEMA public FROM PUBLIC"
            ))
            .await
            .expect("the user of TEST_DATABASE_URL may create roles");
        self.has_role = true;
        let url = with_user(&self.url, &name, &name);
        TestRole { name, url }
    }

    /// How to reach it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A configuration for it that is patient, since a machine that runs many tests at once is slow.
    pub fn config(&self) -> PostgresConfig {
        PostgresConfig {
            pool_size: 16,
            lookup_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(20),
            ..PostgresConfig::new(&self.url)
        }
    }

    /// A pool of its own for it.
    pub fn postgres(&self) -> Postgres {
        Postgres::new(self.config()).expect("the URL has been used already")
    }

    /// All the ports on it, with a pool of their own.
    pub fn stores(&self) -> Stores {
        self.postgres().stores()
    }

    /// A plain connection to it, to prepare or to look at what the adapter does not show.
    pub async fn client(&self) -> Client {
        client(&self.url).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let has_role = self.has_role;
        // On a thread and a runtime of its own: the test's runtime may be going down.
        let dropped = thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be made")
                .block_on(async {
                    let client = client(&server).await;
                    client
                        .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
                        .await?;
                    if has_role {
                        // Nothing depends on it any more.
                        client.batch_execute(&format!("DROP ROLE {name}")).await?;
                    }
                    Ok::<_, tokio_postgres::Error>(())
                })
        })
        .join();
        if !thread::panicking() {
            dropped
                .expect("dropping a database does not panic")
                .expect("a database of our own can be dropped");
        }
    }
}

/// Issues a key as it was done before there was an audit trail, to be measured against. Nothing else may: what it stores is
/// in no trail.
pub async fn create_unaudited(postgres: &Postgres, key: &ApiKey) {
    let inserted = postgres
        .pool
        .statement(async |connection| keys::insert(connection, key).await)
        .await
        .expect("a connection")
        .expect("a key that can be inserted");
    assert!(
        matches!(inserted, keys::Inserted::Stored),
        "its account is live and its secret was not given up"
    );
}

/// The server for tests, from the environment.
fn server() -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests have no configuration but the environment"
    )]
    let server = std::env::var(SERVER);
    server.unwrap_or_else(|_| {
        panic!(
            "no PostgreSQL server to test on: run `cargo xtask test`, or set {SERVER} to the URL of one whose user may \
             create databases"
        )
    })
}

fn unique_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    #[expect(
        clippy::disallowed_methods,
        reason = "a name that no earlier run has used, even one with the same process id"
    )]
    let now = std::time::SystemTime::now();
    let nanos = now
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("leadr_test_{}_{counter}_{nanos}", std::process::id())
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("the server of TEST_DATABASE_URL answers");
    // Ends when the client is dropped.
    tokio::spawn(connection);
    client
}

/// Host and port of a URL, for a proxy.
fn address(url: &str) -> String {
    let config = connect::target(url).expect("a valid URL").config;
    let Some(tokio_postgres::config::Host::Tcp(host)) = config.get_hosts().first() else {
        panic!("the proxies forward TCP only");
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    format!("{host}:{port}")
}

/// The same URL with another database.
fn with_database(url: &str, name: &str) -> String {
    let (scheme, rest) = url
        .split_once("://")
        .expect("TEST_DATABASE_URL is a URL as postgres://…");
    let (address, parameters) = match rest.split_once('?') {
        Some((address, parameters)) => (address, format!("?{parameters}")),
        None => (rest, String::new()),
    };
    let authority = address
        .split_once('/')
        .map_or(address, |(authority, _)| authority);
    format!("{scheme}://{authority}/{name}{parameters}")
}

/// The same URL with another user.
fn with_user(url: &str, user: &str, password: &str) -> String {
    let (scheme, rest) = url
        .split_once("://")
        .expect("TEST_DATABASE_URL is a URL as postgres://…");
    let address = rest.split_once('@').map_or(rest, |(_, address)| address);
    format!("{scheme}://{user}:{password}@{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_a_url_is_replaced() {
        for (url, expected) in [
            ("postgres://u:p@h:1/db?a=b", "postgres://x:y@h:1/db?a=b"),
            ("postgres://u@h/db", "postgres://x:y@h/db"),
            ("postgres://h/db", "postgres://x:y@h/db"),
        ] {
            assert_eq!(with_user(url, "x", "y"), expected);
        }
    }

    #[test]
    fn the_database_of_a_url_is_replaced() {
        for (url, expected) in [
            ("postgres://u:p@h:1/db", "postgres://u:p@h:1/x"),
            ("postgres://h", "postgres://h/x"),
            ("postgres://h/?a=b/c", "postgres://h/x?a=b/c"),
            ("postgres://h/db?a=b", "postgres://h/x?a=b"),
        ] {
            assert_eq!(with_database(url, "x"), expected);
        }
    }
}
