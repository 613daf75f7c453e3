//! What the server says of itself, for a person who looks whether all is well.

use diesel::{
    QueryableByName,
    pg::data_types::PgTimestamp,
    sql_types::{BigInt, Nullable, Text},
};
use diesel_async::RunQueryDsl;
use leadr_auth_domain::Timestamp;
use leadr_auth_ports::StoreError;

use crate::{Postgres, change_feed, error, rows};

diesel::define_sql_function! {
    /// The time at this moment, not that of the transaction's start.
    fn clock_timestamp() -> Timestamptz;
}

diesel::define_sql_function! {
    /// A setting as it is in this session.
    fn current_setting(name: Text) -> Text;
}

/// How the server is set, as far as it decides whether what was acknowledged survives a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Its version, as it calls it: `15.13 (Debian 15.13-0+deb12u1)`.
    pub server_version: String,
    /// Does it wait until what it writes is on the disk? Without, a crash of the machine may ruin the database.
    pub fsync: bool,
    /// Does it protect itself from pages that were half written? Without, as above.
    pub full_page_writes: bool,
    /// What an acknowledged commit has reached: `off`, `local`, `on`, `remote_write` or `remote_apply`. With `off`, a crash
    /// may take back what was acknowledged within the last moments; `local` and the rest differ in what standbys have.
    pub synchronous_commit: String,
    /// For which standbys a commit waits; empty where it waits for none.
    pub synchronous_standby_names: String,
    /// How many standbys receive what is written.
    pub standbys: u64,
}

/// How many standbys there are, as far as any role may know.
const STANDBYS: &str = "SELECT count(*) AS count FROM pg_catalog.pg_stat_replication";

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// What a server may not do with the table in which it says how it is.
const NODE_RIGHTS: &str = "\
SELECT string_agg(needed, ', ') AS missing
FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed
WHERE NOT pg_catalog.has_table_privilege('server_nodes', needed)";

/// What it may not do with the other tables of all that `docs/configuration.md` says it needs.
const RIGHTS: &str = "\
SELECT string_agg(needed || ' on ' || named, ', ') AS missing
FROM (
    SELECT named, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS needed
    FROM unnest(ARRAY['accounts', 'api_keys', 'peppers', 'audit_heads']) AS named
    UNION ALL VALUES ('audit_entries', 'SELECT'), ('audit_entries', 'INSERT'), ('audit_checkpoints', 'SELECT')
) AS rights
WHERE NOT pg_catalog.has_table_privilege(named, needed)";

#[derive(QueryableByName)]
struct Missing {
    #[diesel(sql_type = Nullable<Text>)]
    missing: Option<String>,
}

#[derive(QueryableByName)]
struct Triggers {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

impl Postgres {
    /// Why a server would not rely on hearing of changes, as far as that can be seen without being one; for a person.
    pub async fn feed_faults(&self) -> Result<Vec<String>, StoreError> {
        let mut faults = Vec::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "tables of PostgreSQL's own, and no table of ours"
        )]
        let (triggers, rights) = (
            diesel::sql_query(change_feed::TRIGGERS),
            diesel::sql_query(NODE_RIGHTS),
        );
        let (triggers, rights): (Triggers, Missing) = self
            .pool
            .statement(async |connection| {
                diesel::QueryResult::Ok((
                    triggers.get_result(connection).await?,
                    rights.get_result(connection).await?,
                ))
            })
            .await?
            .map_err(error::of_query)?;
        if triggers.number != change_feed::TRIGGER_COUNT {
            faults.push(format!(
                "{} of {} triggers on api_keys and accounts are on for everybody; \"Triggers\" in docs/operations.md has what \
                 switches them on",
                triggers.number,
                change_feed::TRIGGER_COUNT
            ));
        }
        if let Some(missing) = rights.missing {
            faults.push(format!("the role lacks {missing} on server_nodes"));
        }
        Ok(faults)
    }

    /// Why a server could not issue or revoke anything; for a person.
    pub async fn write_faults(&self) -> Result<Vec<String>, StoreError> {
        let mut faults = Vec::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "functions of PostgreSQL's own, over no table of ours"
        )]
        let rights = diesel::sql_query(RIGHTS);
        let (read_only, rights): (String, Missing) = self
            .pool
            .statement(async |connection| {
                let read_only = diesel::select(current_setting("transaction_read_only"));
                diesel::QueryResult::Ok((
                    read_only.get_result(connection).await?,
                    rights.get_result(connection).await?,
                ))
            })
            .await?
            .map_err(error::of_query)?;
        if read_only == "on" {
            faults.push(
                "transactions are read-only: it is a standby, or default_transaction_read_only is on"
                    .to_owned(),
            );
        }
        if let Some(missing) = rights.missing {
            faults.push(format!("the role lacks {missing}"));
        }
        Ok(faults)
    }

    /// The time by the server's clock. It decides nothing here; but one that is far from this machine's says that one of the
    /// two is wrong.
    pub async fn clock(&self) -> Result<Timestamp, StoreError> {
        let now: PgTimestamp = self
            .pool
            .statement(async |connection| {
                diesel::select(clock_timestamp())
                    .get_result(connection)
                    .await
            })
            .await?
            .map_err(error::of_query)?;
        rows::timestamp(now)
            .ok_or_else(|| StoreError::internal("the server's clock shows no year that there is"))
    }

    /// How the server is set for this program's sessions.
    pub async fn settings(&self) -> Result<ServerSettings, StoreError> {
        let query = diesel::select((
            current_setting("server_version"),
            current_setting("fsync"),
            current_setting("full_page_writes"),
            current_setting("synchronous_commit"),
            current_setting("synchronous_standby_names"),
        ));
        let (
            server_version,
            fsync,
            full_page_writes,
            synchronous_commit,
            synchronous_standby_names,
        ): (String, String, String, String, String) = self
            .pool
            .statement(async |connection| query.get_result(connection).await)
            .await?
            .map_err(error::of_query)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "a view of PostgreSQL's own, and no table of ours"
        )]
        let query = diesel::sql_query(STANDBYS);
        let standbys: Count = self
            .pool
            .statement(async |connection| query.get_result(connection).await)
            .await?
            .map_err(error::of_query)?;
        Ok(ServerSettings {
            server_version,
            fsync: fsync == "on",
            full_page_writes: full_page_writes == "on",
            synchronous_commit,
            synchronous_standby_names,
            standbys: u64::try_from(standbys.count).unwrap_or_default(),
        })
    }
}
