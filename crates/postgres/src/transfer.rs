//! Everything out, and everything in.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    time::Duration,
};

use async_trait::async_trait;
use diesel::{
    dsl::sql,
    pg::{Pg, data_types::PgTimestamp},
    prelude::*,
    sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid, Varchar},
};
use diesel_async::{
    AsyncConnection as _, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _,
};
use leadr_auth_domain::{
    Account, AccountId, ApiKey, AuditEntry, ChainHead, ChainId, Checkpoint, KeyId, Timestamp,
};
use leadr_auth_ports::{
    Audited, ImportConflict, ImportMode, ImportOutcome, Snapshot, StoreError, StoredPepper, Totals,
    TransferStore,
};
use uuid::Uuid;

use crate::{
    audit::{self, Heads},
    error,
    pool::{self, Pool},
    rows::{self, AccountRow, CheckpointRow, EntryRow, HeadRow, KeyRow, PepperRow},
    schema::{
        accounts, api_keys, audit_checkpoints, audit_entries, audit_heads, peppers, sql_types,
    },
    secrets,
};

/// How many records go into one statement: it may have 65535 parameters, and an account has eight.
const BATCH: usize = 1000;

#[derive(Clone)]
pub(crate) struct Transfer(pub(crate) Pool, pub(crate) Heads);

/// Why an import's transaction is rolled back.
enum Undone {
    /// It was only to be tried, with these results.
    Tried(Vec<ImportOutcome>),
    /// It did not work.
    Failed(StoreError),
}

impl From<diesel::result::Error> for Undone {
    fn from(error: diesel::result::Error) -> Self {
        Self::Failed(error::of_query(error))
    }
}

impl From<StoreError> for Undone {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// What an import did, and how the chains end in which that was written down.
type Done = (Vec<ImportOutcome>, Vec<ChainHead>);

/// Keeps what an import did, and writes it down, or says what it would have done.
async fn keep<T>(
    connection: &mut AsyncPgConnection,
    records: &[Audited<T>],
    outcomes: Vec<ImportOutcome>,
    mode: ImportMode,
) -> Result<Done, Undone> {
    if mode == ImportMode::DryRun {
        return Err(Undone::Tried(outcomes));
    }
    let stored = records.iter().zip(&outcomes);
    let stored = stored.filter(|(_, outcome)| **outcome == ImportOutcome::Stored);
    let entries: Vec<_> = stored
        .filter_map(|(record, _)| record.entry.as_ref())
        .collect();
    let heads = audit::append_all::<Infallible>(connection, &entries).await;
    Ok((outcomes, heads.map_err(StoreError::from)?))
}

fn answer(imported: Result<Done, Undone>, heads: &Heads) -> Result<Vec<ImportOutcome>, StoreError> {
    match imported {
        Ok((outcomes, ends)) => {
            heads.keep(ends);
            Ok(outcomes)
        }
        Err(Undone::Tried(outcomes)) => Ok(outcomes),
        Err(Undone::Failed(error)) => Err(error),
    }
}

/// What kept a record out was there when it was to be stored, and is there no more.
fn moved_away() -> StoreError {
    StoreError::unavailable("what an import had to give way to was changed meanwhile")
}

/// Rows are inserted in their order, so of two that exclude each other the first is stored. `DO NOTHING` waits for others
/// who are about to store the same, so what it gives way to is committed and the next statement sees it, just as it sees
/// what this transaction has stored itself.
async fn import_accounts(
    connection: &mut AsyncPgConnection,
    batch: &[Audited<Account>],
) -> Result<Vec<ImportOutcome>, Undone> {
    let batch: Vec<_> = batch.iter().map(|audited| &audited.record).collect();
    let rows: Vec<_> = batch.iter().copied().map(rows::account_row).collect();
    let stored: HashSet<Uuid> = diesel::insert_into(accounts::table)
        .values(rows)
        .on_conflict_do_nothing()
        .returning(accounts::id)
        .load(connection)
        .await?
        .into_iter()
        .collect();
    let left_out = || {
        batch
            .iter()
            .copied()
            .filter(|account| !stored.contains(&account.id.as_uuid()))
    };
    let there = if left_out().next().is_none() {
        Vec::new()
    } else {
        accounts_in_the_way(connection, left_out()).await?
    };
    let by_id: HashMap<_, _> = there.iter().map(|there| (there.id, there)).collect();
    let live = || there.iter().filter(|there| !there.is_deleted());
    let names: HashSet<_> = live().map(|there| there.name.as_str()).collect();
    let slugs: HashSet<_> = live().map(|there| there.slug.as_str()).collect();
    let mut outcomes = Vec::with_capacity(batch.len());
    for account in batch.iter().copied() {
        outcomes.push(if stored.contains(&account.id.as_uuid()) {
            ImportOutcome::Stored
        } else if let Some(&there) = by_id.get(&account.id) {
            if there == account {
                ImportOutcome::Present
            } else {
                ImportOutcome::Conflict(ImportConflict::IdTaken)
            }
        } else if names.contains(account.name.as_str()) {
            ImportOutcome::Conflict(ImportConflict::NameTaken)
        } else if slugs.contains(account.slug.as_str()) {
            ImportOutcome::Conflict(ImportConflict::SlugTaken)
        } else {
            return Err(moved_away().into());
        });
    }
    Ok(outcomes)
}

/// The accounts with an id of these, and the live ones with a name or a slug of these.
async fn accounts_in_the_way(
    connection: &mut AsyncPgConnection,
    left_out: impl Iterator<Item = &Account> + Clone,
) -> Result<Vec<Account>, Undone> {
    let ids: Vec<_> = left_out
        .clone()
        .map(|account| account.id.as_uuid())
        .collect();
    let names: Vec<_> = left_out
        .clone()
        .map(|account| account.name.as_str())
        .collect();
    let slugs: Vec<_> = left_out.map(|account| account.slug.as_str()).collect();
    // Each branch has an index of its own.
    let live = accounts::deleted_at.is_null();
    let there: Vec<AccountRow> = accounts::table
        .filter(
            accounts::id
                .eq_any(ids)
                .or(live.and(accounts::name.eq_any(names)))
                .or(live.and(accounts::slug.eq_any(slugs))),
        )
        .select(AccountRow::as_select())
        .load(connection)
        .await?;
    Ok(there
        .into_iter()
        .map(rows::account)
        .collect::<Result<_, _>>()?)
}

/// Keys in the order in which they are named, without those whose secret was given up: looked for by the statement
/// itself, for the reason that `keys::insert` has.
const INSERT_KEYS: &str = "\
INSERT INTO api_keys (
    id, account_id, name, key_hash, key_prefix, status, last_used_at, expires_at, created_at, updated_at, deleted_at,
    scopes, pepper_id
)
SELECT
    id, account_id, name, key_hash, key_prefix, status, last_used_at, expires_at, created_at, updated_at, deleted_at,
    scopes, pepper_id
FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) WITH ORDINALITY AS named (
    id, account_id, name, key_hash, key_prefix, status, last_used_at, expires_at, created_at, updated_at, deleted_at,
    scopes, pepper_id, place
)
WHERE NOT EXISTS (
    SELECT 1 FROM peppers WHERE peppers.id = named.pepper_id AND peppers.dropped_at IS NOT NULL
)
ORDER BY place
ON CONFLICT DO NOTHING
RETURNING id";

/// The id of a row.
#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// Inserts what can be inserted of these, and answers which those were.
async fn insert_keys(
    connection: &mut AsyncPgConnection,
    keys: &[&ApiKey],
) -> diesel::QueryResult<HashSet<Uuid>> {
    fn column<'a, T>(keys: &[&'a ApiKey], value: impl Fn(&'a ApiKey) -> T) -> Vec<T> {
        keys.iter().map(|key| value(key)).collect()
    }
    let instants = |value: fn(&ApiKey) -> Timestamp| -> Vec<PgTimestamp> {
        column(keys, |key| rows::instant(value(key)))
    };
    let optional = |value: fn(&ApiKey) -> Option<Timestamp>| -> Vec<Option<PgTimestamp>> {
        column(keys, |key| value(key).map(rows::instant))
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "Diesel has no words for unnest, and none for a condition on rows of values"
    )]
    let query = diesel::sql_query(INSERT_KEYS);
    let stored: Vec<Id> = query
        .bind::<Array<SqlUuid>, _>(column(keys, |key| key.id.as_uuid()))
        .bind::<Array<SqlUuid>, _>(column(keys, |key| key.account_id.as_uuid()))
        .bind::<Array<Varchar>, _>(column(keys, |key| key.name.as_str()))
        .bind::<Array<Varchar>, _>(column(keys, |key| key.key_hash.expose_hex()))
        .bind::<Array<Varchar>, _>(column(keys, |key| key.key_prefix.as_str()))
        .bind::<Array<sql_types::ApiKeyStatus>, _>(column(keys, |key| rows::key_label(key.status)))
        .bind::<Array<Nullable<Timestamptz>>, _>(optional(|key| key.last_used_at))
        .bind::<Array<Nullable<Timestamptz>>, _>(optional(|key| key.expires_at))
        .bind::<Array<Timestamptz>, _>(instants(|key| key.created_at))
        .bind::<Array<Timestamptz>, _>(instants(|key| key.updated_at))
        .bind::<Array<Nullable<Timestamptz>>, _>(optional(|key| key.deleted_at))
        .bind::<Array<Nullable<Varchar>>, _>(column(keys, |key| key.scopes.to_store()))
        .bind::<Array<Varchar>, _>(column(keys, |key| key.pepper_id.as_str()))
        .load(connection)
        .await?;
    Ok(stored.into_iter().map(|Id { id }| id).collect())
}

/// As [`import_accounts`], but keys of accounts that are not there are left out before: a foreign key gives no way.
async fn import_keys(
    connection: &mut AsyncPgConnection,
    batch: &[Audited<ApiKey>],
) -> Result<Vec<ImportOutcome>, Undone> {
    let batch: Vec<_> = batch.iter().map(|audited| &audited.record).collect();
    let mut owners: Vec<_> = batch.iter().map(|key| key.account_id.as_uuid()).collect();
    owners.sort_unstable();
    owners.dedup();
    // Locked, so that they are there until this is committed.
    let owners: HashSet<Uuid> = accounts::table
        .filter(accounts::id.eq_any(owners))
        .select(accounts::id)
        .order(accounts::id)
        .for_key_share()
        .load(connection)
        .await?
        .into_iter()
        .collect();
    let owned: Vec<_> = batch
        .iter()
        .copied()
        .filter(|key| owners.contains(&key.account_id.as_uuid()))
        .collect();
    let stored = insert_keys(connection, &owned).await?;
    let left_out = || {
        batch
            .iter()
            .copied()
            .filter(|key| !stored.contains(&key.id.as_uuid()))
    };
    let (there, dropped) = if left_out().next().is_none() {
        (Vec::new(), HashSet::new())
    } else {
        (
            keys_in_the_way(connection, left_out()).await?,
            dropped_peppers(connection, left_out()).await?,
        )
    };
    let by_id: HashMap<_, _> = there.iter().map(|there| (there.id, there)).collect();
    let prefixes: HashSet<_> = there.iter().map(|there| &there.key_prefix).collect();
    let mut outcomes = Vec::with_capacity(batch.len());
    for key in batch.iter().copied() {
        outcomes.push(if stored.contains(&key.id.as_uuid()) {
            ImportOutcome::Stored
        } else if let Some(there) = by_id.get(&key.id) {
            if there.is_same_record(key) {
                ImportOutcome::Present
            } else {
                ImportOutcome::Conflict(ImportConflict::IdTaken)
            }
        } else if !owners.contains(&key.account_id.as_uuid()) {
            ImportOutcome::Conflict(ImportConflict::AccountMissing)
        } else if prefixes.contains(&key.key_prefix) {
            ImportOutcome::Conflict(ImportConflict::PrefixTaken)
        } else if dropped.contains(key.pepper_id.as_str()) {
            ImportOutcome::Conflict(ImportConflict::PepperDropped)
        } else {
            return Err(moved_away().into());
        });
    }
    Ok(outcomes)
}

/// The keys with an id or a prefix of these.
async fn keys_in_the_way(
    connection: &mut AsyncPgConnection,
    left_out: impl Iterator<Item = &ApiKey> + Clone,
) -> Result<Vec<ApiKey>, Undone> {
    let ids: Vec<_> = left_out.clone().map(|key| key.id.as_uuid()).collect();
    let prefixes: Vec<_> = left_out.map(|key| key.key_prefix.as_str()).collect();
    let there: Vec<KeyRow> = api_keys::table
        .filter(
            api_keys::id
                .eq_any(ids)
                .or(api_keys::key_prefix.eq_any(prefixes)),
        )
        .select(KeyRow::as_select())
        .load(connection)
        .await?;
    Ok(there.into_iter().map(rows::key).collect::<Result<_, _>>()?)
}

/// The ids of the secrets of these that were given up.
async fn dropped_peppers(
    connection: &mut AsyncPgConnection,
    left_out: impl Iterator<Item = &ApiKey>,
) -> diesel::QueryResult<HashSet<String>> {
    let ids: HashSet<_> = left_out.map(|key| key.pepper_id.as_str()).collect();
    let dropped: Vec<String> = peppers::table
        .filter(peppers::id.eq_any(Vec::from_iter(ids)))
        .filter(peppers::dropped_at.is_not_null())
        .select(peppers::id)
        .load(connection)
        .await?;
    Ok(dropped.into_iter().collect())
}

#[async_trait]
impl TransferStore for Transfer {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(View::open(&self.0).await?))
    }

    async fn import_secrets(
        &self,
        secrets: &[Audited<StoredPepper>],
    ) -> Result<Vec<StoredPepper>, StoreError> {
        let Self(pool, heads) = self;
        let imported = pool
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| secrets::import(connection, secrets).await)
                    .await
            })
            .await?;
        let (all, ends) = imported?;
        heads.keep(ends);
        Ok(all)
    }

    async fn import_accounts(
        &self,
        accounts: &[Audited<Account>],
        mode: ImportMode,
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        let Self(pool, heads) = self;
        let imported = pool
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| {
                        let mut outcomes = Vec::with_capacity(accounts.len());
                        for batch in accounts.chunks(BATCH) {
                            outcomes.extend(import_accounts(connection, batch).await?);
                        }
                        keep(connection, accounts, outcomes, mode).await
                    })
                    .await
            })
            .await?;
        answer(imported, heads)
    }

    async fn import_keys(
        &self,
        keys: &[Audited<ApiKey>],
        mode: ImportMode,
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        let Self(pool, heads) = self;
        let imported = pool
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| {
                        let mut outcomes = Vec::with_capacity(keys.len());
                        for batch in keys.chunks(BATCH) {
                            outcomes.extend(import_keys(connection, batch).await?);
                        }
                        keep(connection, keys, outcomes, mode).await
                    })
                    .await
            })
            .await?;
        answer(imported, heads)
    }
}

/// The transaction whose view of the database does not change. Nothing can be written in it, whatever is asked.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// One transaction on a connection of its own, which ends with it.
///
/// It may be one on a database that the reference implementation wrote and that was never migrated, and must not be
/// changed. So it asks the catalogue first what is there, and selects accordingly.
///
/// Reads and writes of others go on meanwhile. A migration that alters a table which has been read waits until it ends.
struct View {
    connection: AsyncPgConnection,
    patience: Duration,
    accounts: Reading,
    keys: Reading,
    /// A database of the reference has no such table.
    peppers: Option<Reading>,
    /// Nor has it one of these, and neither has one of a version before there was an audit trail.
    has_trail: bool,
}

/// A column of a table that is there.
#[derive(QueryableByName)]
struct Column {
    #[diesel(sql_type = Text)]
    table_name: String,
    #[diesel(sql_type = Text)]
    column_name: String,
}

/// The columns of the tables that an unqualified name means here.
const COLUMNS: &str = "\
SELECT relname::text AS table_name, attname::text AS column_name
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE attrelid IN (
        to_regclass('accounts'), to_regclass('api_keys'), to_regclass('peppers'), to_regclass('audit_entries')
    )
    AND attnum > 0 AND NOT attisdropped";

/// What is read of a table: each column, its type, and what stands for it where a database does not have it yet.
type Wanted = [(&'static str, &'static str, Option<&'static str>)];

const ACCOUNT: &Wanted = &[
    ("id", "uuid", None),
    ("name", "varchar", None),
    ("slug", "varchar", None),
    ("status", "text", None),
    ("is_operator", "boolean", Some("false")),
    ("created_at", "timestamptz", None),
    ("updated_at", "timestamptz", None),
    ("deleted_at", "timestamptz", Some("NULL")),
    ("key_limit", "bigint", Some("1000")),
];

const KEY: &Wanted = &[
    ("id", "uuid", None),
    ("account_id", "uuid", None),
    ("name", "varchar", None),
    ("key_hash", "varchar", None),
    ("key_prefix", "varchar", None),
    ("status", "text", None),
    ("last_used_at", "timestamptz", None),
    ("expires_at", "timestamptz", None),
    ("created_at", "timestamptz", None),
    ("updated_at", "timestamptz", None),
    ("deleted_at", "timestamptz", Some("NULL")),
    ("scopes", "varchar", Some("NULL")),
    ("pepper_id", "varchar", Some("'default'")),
];

const PEPPER: &Wanted = &[
    ("id", "varchar", None),
    ("check_value", "varchar", None),
    ("dropped_at", "timestamptz", Some("NULL")),
    ("audit_key", "varchar", Some("NULL")),
];

/// How a table is read, with the columns that it has.
struct Reading {
    table: &'static str,
    columns: String,
}

impl Reading {
    /// Each column is cast to what the adapter reads: a status may be an enum or a text, and an instant without a time zone
    /// is one of UTC, which Diesel makes every session's.
    fn of(table: &'static str, wanted: &Wanted, there: &[Column]) -> Result<Self, StoreError> {
        let mut columns = Vec::with_capacity(wanted.len());
        for (name, sql_type, instead) in wanted {
            let known = there
                .iter()
                .any(|column| column.table_name == table && column.column_name == *name);
            let value = match instead {
                _ if known => format!("{table}.{name}"),
                Some(instead) => (*instead).to_owned(),
                None => {
                    return Err(StoreError::internal(format!(
                        "the database has no table {table} with a column {name}"
                    )));
                }
            };
            columns.push(format!("{value}::{sql_type} AS {name}"));
        }
        let columns = columns.join(", ");
        Ok(Self { table, columns })
    }

    /// All rows, in no order.
    async fn all<R>(&self, connection: &mut AsyncPgConnection) -> diesel::QueryResult<Vec<R>>
    where
        R: QueryableByName<Pg> + Send + 'static,
    {
        let Self { table, columns } = self;
        #[expect(
            clippy::disallowed_methods,
            reason = "which columns there are is known at run time only"
        )]
        let query = diesel::sql_query(format!("SELECT {columns} FROM {table}"));
        query.load(connection).await
    }

    /// The next rows in the order of their ids.
    async fn page<R>(
        &self,
        connection: &mut AsyncPgConnection,
        after: Option<Uuid>,
        limit: u32,
    ) -> diesel::QueryResult<Vec<R>>
    where
        R: QueryableByName<Pg> + Send + 'static,
    {
        let Self { table, columns } = self;
        // No id is less than the first of all, so every page is a range of the index.
        let (operator, after) = match after {
            Some(after) => (">", after),
            None => (">=", Uuid::nil()),
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "which columns there are is known at run time only"
        )]
        let query = diesel::sql_query(format!(
            "SELECT {columns} FROM {table} WHERE {table}.id {operator} $1 ORDER BY {table}.id LIMIT $2"
        ));
        query
            .bind::<SqlUuid, _>(after)
            .bind::<BigInt, _>(i64::from(limit))
            .load(connection)
            .await
    }
}

impl View {
    async fn open(pool: &Pool) -> Result<Self, StoreError> {
        let patience = pool.reading_patience();
        let mut connection = pool.dedicated().await?;
        in_time(patience, connection.batch_execute(BEGIN)).await?;
        // The first question, which is when the server takes the view.
        #[expect(
            clippy::disallowed_methods,
            reason = "Diesel has no words for the catalogue"
        )]
        let columns = diesel::sql_query(COLUMNS);
        let there: Vec<Column> = in_time(patience, columns.load(&mut connection)).await?;
        let has_peppers = there.iter().any(|column| column.table_name == "peppers");
        let peppers = has_peppers.then(|| Reading::of("peppers", PEPPER, &there));
        Ok(Self {
            accounts: Reading::of("accounts", ACCOUNT, &there)?,
            keys: Reading::of("api_keys", KEY, &there)?,
            peppers: peppers.transpose()?,
            has_trail: there
                .iter()
                .any(|column| column.table_name == "audit_entries"),
            connection,
            patience,
        })
    }
}

/// The server cuts a statement short; this is for one that does not answer at all.
async fn in_time<T>(
    patience: Duration,
    work: impl Future<Output = diesel::QueryResult<T>> + Send,
) -> Result<T, StoreError> {
    tokio::time::timeout(patience, work)
        .await
        .map_err(|_| StoreError::unavailable(pool::TOO_SLOW))?
        .map_err(error::of_query)
}

#[async_trait]
impl Snapshot for View {
    async fn secrets(&mut self) -> Result<Vec<StoredPepper>, StoreError> {
        let Some(peppers) = &self.peppers else {
            return Ok(Vec::new());
        };
        let all = peppers.all::<PepperRow>(&mut self.connection);
        Ok(rows::peppers(in_time(self.patience, all).await?))
    }

    async fn totals(&mut self) -> Result<Totals, StoreError> {
        let connection = &mut self.connection;
        let counts = async {
            let accounts: i64 = accounts::table.count().get_result(connection).await?;
            let keys: i64 = api_keys::table.count().get_result(connection).await?;
            Ok((accounts, keys))
        };
        let (accounts, keys) = in_time(2 * self.patience, counts).await?;
        Ok(Totals {
            accounts: u64::try_from(accounts).map_err(StoreError::internal)?,
            keys: u64::try_from(keys).map_err(StoreError::internal)?,
        })
    }

    async fn accounts(
        &mut self,
        after: Option<AccountId>,
        limit: u32,
    ) -> Result<Vec<Account>, StoreError> {
        let after = after.map(AccountId::as_uuid);
        let page = self
            .accounts
            .page::<AccountRow>(&mut self.connection, after, limit);
        let page = in_time(self.patience, page).await?;
        page.into_iter().map(rows::account).collect()
    }

    async fn keys(&mut self, after: Option<KeyId>, limit: u32) -> Result<Vec<ApiKey>, StoreError> {
        let after = after.map(KeyId::as_uuid);
        let page = self.keys.page::<KeyRow>(&mut self.connection, after, limit);
        let page = in_time(self.patience, page).await?;
        page.into_iter().map(rows::key).collect()
    }

    async fn audit_entries(
        &mut self,
        after: Option<(ChainId, u64)>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        if !self.has_trail {
            return Ok(Vec::new());
        }
        let mut query = audit_entries::table
            .order((audit_entries::chain, audit_entries::seq))
            .limit(i64::from(limit))
            .select(EntryRow::as_select())
            .into_boxed();
        if let Some((chain, seq)) = after {
            // Whole rows are compared, so that a page is a range of the index.
            query = query.filter(
                sql::<Bool>("(audit_entries.chain, audit_entries.seq) > (")
                    .bind::<SqlUuid, _>(chain.as_uuid())
                    .sql(", ")
                    .bind::<BigInt, _>(seq.cast_signed())
                    .sql(")"),
            );
        }
        let page = query.load::<EntryRow>(&mut self.connection);
        let page = in_time(self.patience, page).await?;
        Ok(page.into_iter().map(rows::entry).collect())
    }

    async fn audit_heads(
        &mut self,
        after: Option<ChainId>,
        limit: u32,
    ) -> Result<Vec<ChainHead>, StoreError> {
        if !self.has_trail {
            return Ok(Vec::new());
        }
        let mut query = audit_heads::table
            .order(audit_heads::chain)
            .limit(i64::from(limit))
            .select(HeadRow::as_select())
            .into_boxed();
        if let Some(after) = after {
            query = query.filter(audit_heads::chain.gt(after.as_uuid()));
        }
        let page = query.load::<HeadRow>(&mut self.connection);
        let page = in_time(self.patience, page).await?;
        Ok(page.iter().map(rows::head).collect())
    }

    async fn audit_checkpoints(
        &mut self,
        after: Option<ChainId>,
        limit: u32,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        if !self.has_trail {
            return Ok(Vec::new());
        }
        let mut query = audit_checkpoints::table
            .order(audit_checkpoints::chain)
            .limit(i64::from(limit))
            .select(CheckpointRow::as_select())
            .into_boxed();
        if let Some(after) = after {
            query = query.filter(audit_checkpoints::chain.gt(after.as_uuid()));
        }
        let page = query.load::<CheckpointRow>(&mut self.connection);
        let page = in_time(self.patience, page).await?;
        Ok(page.iter().map(rows::checkpoint).collect())
    }
}
