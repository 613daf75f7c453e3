//! Brings a database up to date, and back.
//!
//! The migrations of `migrations/sqlite` are part of the program. All that are pending run in one transaction that holds the
//! write lock: of processes that start together one migrates, and the others wait and then find nothing to do. Foreign keys
//! are not enforced meanwhile, because SQLite changes a table by making another one in its place; they are checked before
//! the transaction is committed.

use std::{collections::BTreeSet, fmt, time::Duration};

use diesel::{
    QueryResult,
    connection::SimpleConnection as _,
    migration::{Migration, MigrationSource as _},
    prelude::*,
    result::Error,
    sqlite::{Sqlite as Backend, SqliteConnection},
};
use diesel_migrations::{
    EmbeddedMigrations, MigrationError, MigrationHarness as _, embed_migrations,
};
use leadr_auth_ports::{BoxError, StoreError};

use crate::{Sqlite, error, file};

pub(crate) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");

/// How long a process waits for another one that is migrating.
const PATIENCE: Duration = Duration::from_mins(1);

diesel::table! {
    /// Which migrations have run. Diesel makes it.
    __diesel_schema_migrations (version) {
        /// By which they are ordered.
        version -> Text,
    }
}

/// Why a database was not migrated. It is as it was.
#[derive(Debug)]
pub enum MigrateError {
    /// The database cannot be asked now, or another process has been migrating for long. Trying again later may help.
    Unavailable(BoxError),
    /// A migration does not fit what is there, or could not be completed. A person has to look.
    Failed(BoxError),
    /// A newer program has brought it to this version, which the program at hand does not know.
    Newer(String),
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(_) => f.write_str("the database is not available for migration"),
            Self::Failed(_) => f.write_str("the database could not be migrated"),
            Self::Newer(version) => write!(
                f,
                "the schema is newer than this program knows ({version}): run the program that made it"
            ),
        }
    }
}

impl std::error::Error for MigrateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unavailable(source) | Self::Failed(source) => Some(source.as_ref()),
            Self::Newer(_) => None,
        }
    }
}

impl From<StoreError> for MigrateError {
    fn from(error: StoreError) -> Self {
        if error.is_retryable() {
            Self::Unavailable(error.into())
        } else {
            Self::Failed(error.into())
        }
    }
}

impl From<Error> for MigrateError {
    fn from(error: Error) -> Self {
        error::of_query(error).into()
    }
}

/// Runs every migration that has not run yet, in order. Answers the versions of those that ran now.
pub async fn run(sqlite: &Sqlite) -> Result<Vec<String>, MigrateError> {
    alone(sqlite, |connection| {
        let versions = connection
            .run_pending_migrations(MIGRATIONS)
            .map_err(MigrateError::Failed)?;
        Ok(versions.iter().map(ToString::to_string).collect())
    })
    .await
}

/// Reverts the migration that ran last. Answers its version; `None` where none has run.
pub async fn revert_last(sqlite: &Sqlite) -> Result<Option<String>, MigrateError> {
    alone(sqlite, |connection| {
        match connection.revert_last_migration(MIGRATIONS) {
            Ok(version) => Ok(Some(version.to_string())),
            Err(error)
                if matches!(
                    error.downcast_ref::<MigrationError>(),
                    Some(MigrationError::NoMigrationRun)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(MigrateError::Failed(error)),
        }
    })
    .await
}

/// The versions of the migrations that have not run yet, in order.
pub async fn pending(sqlite: &Sqlite) -> Result<Vec<String>, MigrateError> {
    let applied = sqlite.pool.read(applied).await?;
    Ok(known()
        .map_err(MigrateError::Failed)?
        .difference(&applied)
        .cloned()
        .collect())
}

/// Has every migration run?
pub async fn at_head(sqlite: &Sqlite) -> Result<bool, MigrateError> {
    pending(sqlite).await.map(|versions| versions.is_empty())
}

/// A migration that has run and that this program does not know.
pub(crate) fn unknown(connection: &mut SqliteConnection) -> QueryResult<Option<String>> {
    let known = known().map_err(Error::QueryBuilderError)?;
    let applied = applied(connection)?;
    Ok(applied.difference(&known).last().cloned())
}

/// The versions that this program knows.
fn known() -> Result<BTreeSet<String>, BoxError> {
    let migrations: Vec<Box<dyn Migration<Backend>>> = MIGRATIONS.migrations()?;
    Ok(migrations
        .iter()
        .map(|migration| migration.name().version().to_string())
        .collect())
}

/// The versions that have run.
fn applied(connection: &mut SqliteConnection) -> QueryResult<BTreeSet<String>> {
    if !file::has_table(connection, "__diesel_schema_migrations")? {
        return Ok(BTreeSet::new());
    }
    let versions: Vec<String> = __diesel_schema_migrations::table
        .select(__diesel_schema_migrations::version)
        .load(connection)?;
    Ok(versions.into_iter().collect())
}

/// Does `work` as one unit, with nobody else writing.
async fn alone<T: Send + 'static>(
    sqlite: &Sqlite,
    work: fn(&mut SqliteConnection) -> Result<T, MigrateError>,
) -> Result<T, MigrateError> {
    sqlite
        .pool
        .apart("migrate", move |connection| {
            connection.batch_execute(&format!(
                "PRAGMA busy_timeout = {}; PRAGMA foreign_keys = OFF",
                PATIENCE.as_millis()
            ))?;
            connection.immediate_transaction(|connection| {
                if let Some(version) = unknown(connection)? {
                    return Err(MigrateError::Newer(version));
                }
                let before = applied(connection)?;
                let done = work(connection)?;
                // Looks at every row, so not without a reason.
                let orphans = if applied(connection)? == before {
                    Vec::new()
                } else {
                    file::orphans(connection)?
                };
                match orphans.first() {
                    None => Ok(done),
                    Some(first) => Err(MigrateError::Failed(
                        format!("{} references to nothing: {first}", orphans.len()).into(),
                    )),
                }
            })
        })
        .await?
}
