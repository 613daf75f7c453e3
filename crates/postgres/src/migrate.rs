//! Brings a database up to date, and back.
//!
//! The migrations of `migrations/postgres` are part of the program. Each runs in a transaction of its own, and all of them
//! under an advisory lock of the database: of nodes that start together one migrates, and the others wait and then find
//! nothing to do. A database that a newer program has migrated is left alone.
//!
//! Asking what has run changes nothing and takes no lock, so that who may not change a schema can ask. Diesel's own answer
//! does change something: it makes the table first in which it looks.
//!
//! Diesel's migrations are synchronous, and their bridge to async blocks the thread. So they run on a thread of their own
//! with a runtime of their own, and the functions here can be awaited on any runtime.

use std::{
    collections::BTreeSet,
    fmt, thread,
    time::{Duration, Instant},
};

use diesel::{
    migration::{Migration, MigrationSource as _},
    pg::Pg,
    prelude::*,
    sql_types::{Nullable, Oid, Text},
};
use diesel_async::{AsyncPgConnection, async_connection_wrapper::AsyncConnectionWrapper};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use leadr_auth_ports::BoxError;
use tokio::sync::oneshot;

use crate::{
    PostgresConfig, UrlFault,
    connect::{self, ConnectFault, Target},
    pool::CONNECT_TIMEOUT,
};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");

/// The advisory lock: `leadrath` in ASCII. A number among those of everybody else who uses the database.
const LOCK: i64 = i64::from_be_bytes(*b"leadrath");

/// How long a node waits for another one that is migrating.
const LOCK_PATIENCE: Duration = Duration::from_mins(1);

/// How long it waits before it tries again.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

diesel::define_sql_function! {
    /// Takes the lock until the session ends, if nobody else has it.
    fn pg_try_advisory_lock(key: diesel::sql_types::BigInt) -> diesel::sql_types::Bool;
}

diesel::define_sql_function! {
    /// The relation that an unqualified name means here, if there is one.
    fn to_regclass(name: Text) -> Nullable<Oid>;
}

diesel::define_sql_function! {
    /// May this role do that with a table? Nothing is known of no table.
    fn has_table_privilege(table: Nullable<Oid>, privilege: Text) -> Nullable<Bool>;
}

diesel::define_sql_function! {
    /// The first schema of the search path that is there and that this role may use.
    fn current_schema() -> Nullable<Text>;
}

diesel::table! {
    /// Which migrations have run. Diesel makes it.
    __diesel_schema_migrations (version) {
        /// By which they are ordered.
        version -> Text,
    }
}

type Connection = AsyncConnectionWrapper<AsyncPgConnection>;

/// Why a database was not migrated.
#[derive(Debug)]
pub enum MigrateError {
    /// The database cannot be asked now, or another node has been migrating for long. Trying again later may help.
    Unavailable(BoxError),
    /// The database does not let us in, or a migration does not fit what is there. A person has to look.
    Failed(BoxError),
    /// A migration has run that this program does not know, of this version: a newer program was here. What it changed, and
    /// whether this one can live with it, is not known, so nothing is done.
    Newer(String),
    /// What has run cannot be told, because the role lacks this right. Somebody has to grant it.
    NoRight(&'static str),
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(_) => f.write_str("the database is not available for migration"),
            Self::Failed(_) => f.write_str("the database could not be migrated"),
            Self::Newer(version) => write!(
                f,
                "the schema is newer than this program knows (version {version})"
            ),
            Self::NoRight(right) => write!(
                f,
                "the role may not see which migrations have run: it lacks {right}"
            ),
        }
    }
}

impl std::error::Error for MigrateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unavailable(source) | Self::Failed(source) => Some(source.as_ref()),
            Self::Newer(_) | Self::NoRight(_) => None,
        }
    }
}

/// Runs every migration that has not run yet, in order. Answers the versions of those that ran now.
pub async fn run(config: &PostgresConfig) -> Result<Vec<String>, MigrateError> {
    alone(config, |connection| {
        // Where there is nothing to do, no right to do it is needed either.
        if missing(connection)?.is_empty() {
            return Ok(Vec::new());
        }
        run_missing(connection).map_err(|error| of_work(connection, error))
    })
    .await
}

/// Reverts the migration that ran last. Answers its version; `None` where none has run.
pub async fn revert_last(config: &PostgresConfig) -> Result<Option<String>, MigrateError> {
    alone(config, |connection| {
        if applied(connection, &known()?)?.is_empty() {
            return Ok(None);
        }
        match connection.revert_last_migration(MIGRATIONS) {
            Ok(version) => Ok(Some(version.to_string())),
            Err(error) => Err(of_work(connection, error)),
        }
    })
    .await
}

/// The versions of the migrations that have not run yet, in order. It only reads, and waits for nobody who is migrating.
pub async fn pending(config: &PostgresConfig) -> Result<Vec<String>, MigrateError> {
    on_own_thread(config, missing).await
}

/// Has every migration run? As [`pending`].
pub async fn at_head(config: &PostgresConfig) -> Result<bool, MigrateError> {
    pending(config).await.map(|versions| versions.is_empty())
}

/// Does `work` under the lock.
async fn alone<T: Send + 'static>(
    config: &PostgresConfig,
    work: fn(&mut Connection) -> Result<T, MigrateError>,
) -> Result<T, MigrateError> {
    on_own_thread(config, move |connection| {
        // The lock is the session's, so it ends with the connection, whatever happens.
        lock(connection)?;
        work(connection)
    })
    .await
}

async fn on_own_thread<T: Send + 'static>(
    config: &PostgresConfig,
    work: impl FnOnce(&mut Connection) -> Result<T, MigrateError> + Send + 'static,
) -> Result<T, MigrateError> {
    let target = target(config).map_err(|fault| MigrateError::Failed(fault.into()))?;
    let (answer, answered) = oneshot::channel();
    thread::Builder::new()
        .name("migrate".to_owned())
        .spawn(move || {
            // Nobody listens any more where the caller gave up; the migration is completed all the same.
            let _ = answer.send(connected(&target, work));
        })
        .map_err(|error| MigrateError::Unavailable(error.into()))?;
    answered
        .await
        .unwrap_or_else(|_| Err(MigrateError::Failed("the migration panicked".into())))
}

fn target(config: &PostgresConfig) -> Result<Target, UrlFault> {
    let mut target = connect::target(&config.url)?;
    target
        .config
        .application_name("leadr-auth migrate")
        .connect_timeout(CONNECT_TIMEOUT);
    Ok(target)
}

fn connected<T>(
    target: &Target,
    work: impl FnOnce(&mut Connection) -> Result<T, MigrateError>,
) -> Result<T, MigrateError> {
    // The wrapper blocks this thread on the runtime's handle, so somebody else has to drive the connection: the worker.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| MigrateError::Unavailable(error.into()))?;
    let connection = runtime
        .block_on(async { tokio::time::timeout(2 * CONNECT_TIMEOUT, target.connect()).await })
        .map_err(|_| MigrateError::Unavailable("connecting took too long".into()))?
        .map_err(of_connect)?;
    // The wrapper uses the runtime that it is made in.
    let _inside = runtime.enter();
    work(&mut Connection::from(connection))
}

/// Takes the advisory lock. By trying rather than by waiting: a session that waits for a lock inside the server may keep
/// the one that has it from building an index.
fn lock(connection: &mut Connection) -> Result<(), MigrateError> {
    let start = Instant::now();
    loop {
        let taken = diesel::select(pg_try_advisory_lock(LOCK))
            .get_result::<bool>(connection)
            .map_err(|error| of_work(connection, error.into()))?;
        if taken {
            return Ok(());
        }
        if start.elapsed() > LOCK_PATIENCE {
            return Err(MigrateError::Unavailable(
                "another node has been migrating for too long".into(),
            ));
        }
        thread::sleep(LOCK_INTERVAL);
    }
}

fn run_missing(connection: &mut Connection) -> Result<Vec<String>, BoxError> {
    let versions = connection.run_pending_migrations(MIGRATIONS)?;
    Ok(versions.iter().map(ToString::to_string).collect())
}

/// The versions that this program knows.
fn known() -> Result<BTreeSet<String>, MigrateError> {
    let migrations: Vec<Box<dyn Migration<Pg>>> =
        MIGRATIONS.migrations().map_err(MigrateError::Failed)?;
    Ok(migrations
        .iter()
        .map(|migration| migration.name().version().to_string())
        .collect())
}

/// The versions that this program knows and that have not run.
fn missing(connection: &mut Connection) -> Result<Vec<String>, MigrateError> {
    let known = known()?;
    let applied = applied(connection, &known)?;
    Ok(known.difference(&applied).cloned().collect())
}

/// The versions that have run, if all of them are `known`.
fn applied(
    connection: &mut Connection,
    known: &BTreeSet<String>,
) -> Result<BTreeSet<String>, MigrateError> {
    let applied: BTreeSet<String> =
        match may_read(connection).map_err(|error| of_work(connection, error.into()))? {
            (Some(true), _) => __diesel_schema_migrations::table
                .select(__diesel_schema_migrations::version)
                .load(connection)
                .map_err(|error| of_work(connection, error.into()))?
                .into_iter()
                .collect(),
            (Some(false), _) => {
                return Err(MigrateError::NoRight(
                    "SELECT on __diesel_schema_migrations",
                ));
            }
            (None, true) => BTreeSet::new(),
            // No table can be seen here, whether there are any or not.
            (None, false) => {
                return Err(MigrateError::NoRight(
                    "USAGE on any schema of its search_path",
                ));
            }
        };
    match applied.difference(known).last() {
        None => Ok(applied),
        Some(version) => Err(MigrateError::Newer(version.clone())),
    }
}

/// May this role read which migrations have run, if there is a table of them; and is there a schema that it may use?
fn may_read(connection: &mut Connection) -> QueryResult<(Option<bool>, bool)> {
    let table = to_regclass("__diesel_schema_migrations");
    diesel::select((
        has_table_privilege(table, "SELECT"),
        current_schema().is_not_null(),
    ))
    .get_result(connection)
}

fn of_connect(fault: ConnectFault) -> MigrateError {
    if fault.may_pass() {
        MigrateError::Unavailable(fault.into())
    } else {
        MigrateError::Failed(fault.into())
    }
}

/// The error itself does not tell a broken connection from a broken migration in every case; the connection does.
fn of_work(connection: &mut Connection, error: BoxError) -> MigrateError {
    let alive = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("1"))
        .get_result::<i32>(connection);
    if alive.is_ok() {
        MigrateError::Failed(error)
    } else {
        MigrateError::Unavailable(error)
    }
}
