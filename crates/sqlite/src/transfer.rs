//! Everything in and out.

use async_trait::async_trait;
use diesel::{
    connection::SimpleConnection as _, dsl::exists, prelude::*, sqlite::SqliteConnection,
};
use leadr_auth_domain::{
    Account, AccountId, ApiKey, AuditEntry, ChainHead, ChainId, Checkpoint, KeyId,
};
use leadr_auth_ports::{
    Audited, Change, ImportConflict, ImportMode, ImportOutcome, Snapshot, StoreError, StoredPepper,
    Totals, TransferStore,
};
use uuid::Uuid;

use crate::{
    accounts, audit,
    error::{self, Failure, Stop, Violation},
    keys,
    pool::{Crew, Done, Pool, Read},
    rows::{self, AccountRow, Id, KeyRow},
    schema, secrets,
};

#[derive(Clone)]
pub(crate) struct Transfer(pub(crate) Pool);

/// Begins a transaction that reads, and reads: only then does SQLite decide what it shows.
fn hold(connection: &mut SqliteConnection) -> QueryResult<()> {
    connection.batch_execute("BEGIN")?;
    secrets::registered(connection).map(drop)
}

fn import_account(
    connection: &mut SqliteConnection,
    account: &Account,
) -> Result<ImportOutcome, Stop> {
    let stored = diesel::insert_into(schema::accounts::table)
        .values(rows::account_row(account))
        .on_conflict_do_nothing()
        .execute(connection)?;
    if stored > 0 {
        return Ok(ImportOutcome::Stored);
    }
    if let Some(row) = accounts::find(connection, account.id)? {
        return Ok(present_if(rows::account(row)? == *account));
    }
    let (name, slug) = (account.name.as_str(), account.slug.as_str());
    match accounts::taken(connection, account.id, name, slug)? {
        Some(Violation::Name) => Ok(ImportOutcome::Conflict(ImportConflict::NameTaken)),
        Some(Violation::Slug) => Ok(ImportOutcome::Conflict(ImportConflict::SlugTaken)),
        _ => Err(not_stored("account", account.id.as_uuid())),
    }
}

fn import_key(connection: &mut SqliteConnection, key: &ApiKey) -> Result<ImportOutcome, Stop> {
    let dropped = secrets::is_dropped(connection, key.pepper_id.as_str())?;
    let stored = if dropped {
        // It may be there all the same, from before.
        Ok(0)
    } else {
        diesel::insert_into(schema::api_keys::table)
            .values(rows::key_row(key))
            .on_conflict_do_nothing()
            .execute(connection)
            .map_err(Stop::from)
    };
    match stored {
        Ok(0) | Err(Stop::Rule(Violation::Account)) => {}
        Ok(_) => return Ok(ImportOutcome::Stored),
        Err(stop) => return Err(stop),
    }
    if let Some(row) = keys::find(connection, key.id)? {
        return Ok(present_if(rows::key(row)?.is_same_record(key)));
    }
    if accounts::find(connection, key.account_id)?.is_none() {
        return Ok(ImportOutcome::Conflict(ImportConflict::AccountMissing));
    }
    let prefix = schema::api_keys::key_prefix.eq(key.key_prefix.as_str());
    let same_prefix = schema::api_keys::table.filter(prefix);
    if diesel::select(exists(same_prefix)).get_result(connection)? {
        return Ok(ImportOutcome::Conflict(ImportConflict::PrefixTaken));
    }
    if dropped {
        return Ok(ImportOutcome::Conflict(ImportConflict::PepperDropped));
    }
    Err(not_stored("key", key.id.as_uuid()))
}

fn present_if(same: bool) -> ImportOutcome {
    if same {
        ImportOutcome::Present
    } else {
        ImportOutcome::Conflict(ImportConflict::IdTaken)
    }
}

fn not_stored(what: &str, id: Uuid) -> Stop {
    Stop::Store(StoreError::internal(format!(
        "the {what} {id} was not stored, and there is no reason"
    )))
}

/// Why an import is rolled back.
enum Undo {
    /// It was not meant.
    Dry(Vec<ImportOutcome>),
    /// It failed.
    Failed(Stop),
}

impl Failure for Undo {
    fn of_database(&self) -> Option<&diesel::result::Error> {
        match self {
            Self::Dry(_) => None,
            Self::Failed(stop) => stop.of_database(),
        }
    }
}

impl Transfer {
    /// Imports as one unit. A dry run does the same and is rolled back.
    async fn import<T: Clone + Send + 'static>(
        &self,
        records: &[Audited<T>],
        mode: ImportMode,
        one: fn(&mut SqliteConnection, &T) -> Result<ImportOutcome, Stop>,
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        let records = records.to_vec();
        let imported = self.0.write_much(move |connection| {
            let outcomes: Result<Vec<_>, _> = records
                .iter()
                .map(|Audited { record, entry }| {
                    let outcome = one(connection, record)?;
                    if let (ImportOutcome::Stored, Some(entry)) = (outcome, entry) {
                        audit::append(connection, entry)?;
                    }
                    Ok(outcome)
                })
                .collect();
            let outcomes = outcomes.map_err(Undo::Failed)?;
            match mode {
                ImportMode::Commit if outcomes.contains(&ImportOutcome::Stored) => {
                    Ok(Done::changing([Change::Everything], outcomes))
                }
                ImportMode::Commit => Ok(Done::unheard(outcomes)),
                ImportMode::DryRun => Err(Undo::Dry(outcomes)),
            }
        });
        match imported.await? {
            Ok(outcomes) | Err(Undo::Dry(outcomes)) => Ok(outcomes),
            Err(Undo::Failed(stop)) => Err(stop.into_store()),
        }
    }
}

#[async_trait]
impl TransferStore for Transfer {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        let reader = self.0.reader(hold).await?;
        Ok(Box::new(Held {
            reader,
            pool: self.0.clone(),
        }))
    }

    async fn import_secrets(
        &self,
        secrets: &[Audited<StoredPepper>],
    ) -> Result<Vec<StoredPepper>, StoreError> {
        let taken = secrets.to_vec();
        let taken = self
            .0
            .write(move |connection| secrets::import(connection, &taken).map(Done::unheard));
        let all = taken.await?.map_err(error::of_query)?;
        Ok(all.into_iter().map(rows::pepper).collect())
    }

    async fn import_accounts(
        &self,
        accounts: &[Audited<Account>],
        mode: ImportMode,
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        self.import(accounts, mode, import_account).await
    }

    async fn import_keys(
        &self,
        keys: &[Audited<ApiKey>],
        mode: ImportMode,
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        self.import(keys, mode, import_key).await
    }
}

/// A read transaction on a thread of its own, which ends when this is dropped. Until then the log ahead of the file cannot
/// be begun anew, so it grows with what is written meanwhile.
struct Held {
    reader: Crew<Read>,
    /// Kept, so that the file stays open as long as somebody reads it.
    pool: Pool,
}

impl Held {
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.pool
            .read_by(&self.reader, self.pool.long(), work)
            .await
    }
}

/// Ids of all zeros are an id, so "after nothing" is a blob of no bytes, which comes before all of them.
fn after(id: Option<Id>) -> Vec<u8> {
    id.map_or(Vec::new(), |Id(uuid)| uuid.as_bytes().to_vec())
}

#[async_trait]
impl Snapshot for Held {
    async fn secrets(&mut self) -> Result<Vec<StoredPepper>, StoreError> {
        let registered = self.read(secrets::registered).await?;
        Ok(registered.into_iter().map(rows::pepper).collect())
    }

    async fn totals(&mut self) -> Result<Totals, StoreError> {
        let (accounts, keys) = self.read(count).await?;
        Ok(Totals { accounts, keys })
    }

    async fn accounts(
        &mut self,
        after_id: Option<AccountId>,
        limit: u32,
    ) -> Result<Vec<Account>, StoreError> {
        let query = schema::accounts::table
            .filter(schema::accounts::id.gt(after(after_id.map(Id::from))))
            .order(schema::accounts::id)
            .limit(limit.into())
            .select(AccountRow::as_select());
        let page = self.read(move |connection| query.load(connection)).await?;
        page.into_iter().map(rows::account).collect()
    }

    async fn keys(
        &mut self,
        after_id: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, StoreError> {
        let query = schema::api_keys::table
            .filter(schema::api_keys::id.gt(after(after_id.map(Id::from))))
            .order(schema::api_keys::id)
            .limit(limit.into())
            .select(KeyRow::as_select());
        let page = self.read(move |connection| query.load(connection)).await?;
        page.into_iter().map(rows::key).collect()
    }

    async fn audit_entries(
        &mut self,
        after: Option<(ChainId, u64)>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        self.read(move |connection| audit::entries_after(connection, after, limit))
            .await
    }

    async fn audit_heads(
        &mut self,
        after: Option<ChainId>,
        limit: u32,
    ) -> Result<Vec<ChainHead>, StoreError> {
        self.read(move |connection| audit::heads_after(connection, after, limit))
            .await
    }

    async fn audit_checkpoints(
        &mut self,
        after: Option<ChainId>,
        limit: u32,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        self.read(move |connection| audit::checkpoints_after(connection, after, limit))
            .await
    }
}

/// How many accounts and keys there are.
pub(crate) fn count(connection: &mut SqliteConnection) -> QueryResult<(u64, u64)> {
    let accounts: i64 = schema::accounts::table.count().get_result(connection)?;
    let keys: i64 = schema::api_keys::table.count().get_result(connection)?;
    // A count is never negative.
    Ok((accounts.unsigned_abs(), keys.unsigned_abs()))
}
