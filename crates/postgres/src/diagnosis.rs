//! What the server says of itself, for a person who looks whether all is well.

use diesel::{
    QueryableByName,
    pg::data_types::PgTimestamp,
    sql_types::{Array, BigInt, Nullable, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
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

/// Tables, and what a role needs to be allowed to do with each: as `docs/configuration.md` has it.
type Needed = &'static [(&'static str, &'static [&'static str])];

/// For the table in which a server says how it is.
const TO_BE_HEARD: Needed = &[("server_nodes", &["SELECT", "INSERT", "UPDATE", "DELETE"])];

/// For the others.
const TO_WRITE: Needed = &[
    ("accounts", &["SELECT", "INSERT", "UPDATE"]),
    ("api_keys", &["SELECT", "INSERT", "UPDATE"]),
    ("peppers", &["SELECT", "INSERT", "UPDATE"]),
    ("audit_heads", &["SELECT", "INSERT", "UPDATE"]),
    ("audit_entries", &["SELECT", "INSERT"]),
    ("audit_checkpoints", &["SELECT"]),
    ("key_counts", &["SELECT", "UPDATE"]),
    ("idempotent_requests", &["SELECT", "INSERT", "DELETE"]),
];

/// What this session's role lacks of what is needed.
const MISSING: &str = "\
SELECT string_agg(lacking, '; ' ORDER BY first) AS missing
FROM (
    SELECT string_agg(needed, ', ' ORDER BY place) || ' on ' || named AS lacking, min(place) AS first
    FROM unnest($1, $2) WITH ORDINALITY AS rights (named, needed, place)
    WHERE NOT pg_catalog.has_table_privilege(named, needed)
    GROUP BY named
) AS tables";

#[derive(QueryableByName)]
struct Missing {
    #[diesel(sql_type = Nullable<Text>)]
    missing: Option<String>,
}

/// What the role lacks, as a sentence.
async fn lacking(
    connection: &mut AsyncPgConnection,
    needed: Needed,
) -> diesel::QueryResult<Option<String>> {
    let rights = needed.iter();
    let rights = rights.flat_map(|(table, rights)| rights.iter().map(move |right| (table, right)));
    let (tables, rights): (Vec<&str>, Vec<&str>) = rights.unzip();
    #[expect(
        clippy::disallowed_methods,
        reason = "a function of PostgreSQL's own, over no table of ours"
    )]
    let query = diesel::sql_query(MISSING)
        .bind::<Array<Text>, _>(tables)
        .bind::<Array<Text>, _>(rights);
    let Missing { missing } = query.get_result(connection).await?;
    Ok(missing.map(|missing| format!("the role lacks {missing}")))
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
        let triggers = diesel::sql_query(change_feed::TRIGGERS);
        let (triggers, lacking): (Triggers, _) = self
            .pool
            .statement(async |connection| {
                diesel::QueryResult::Ok((
                    triggers.get_result(connection).await?,
                    lacking(connection, TO_BE_HEARD).await?,
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
        faults.extend(lacking);
        Ok(faults)
    }

    /// Why a server could not issue or revoke anything; for a person.
    pub async fn write_faults(&self) -> Result<Vec<String>, StoreError> {
        let mut faults = Vec::new();
        let (read_only, lacking): (String, _) = self
            .pool
            .statement(async |connection| {
                let read_only = diesel::select(current_setting("transaction_read_only"));
                diesel::QueryResult::Ok((
                    read_only.get_result(connection).await?,
                    lacking(connection, TO_WRITE).await?,
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
        faults.extend(lacking);
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
