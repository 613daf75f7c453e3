//! Accounts: their management.

use std::convert::Infallible;

use async_trait::async_trait;
use diesel::{IntoSql as _, dsl::exists, prelude::*};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl};
use leadr_auth_domain::{Account, AccountId, AccountRefusal, ApiKey, AuditDraft, ChainHead, Slug};
use leadr_auth_ports::{
    AccountChangeFn, AccountRepository, Audited, CreateAccountError, CreateOperatorError, Rows,
    StoreError, UpdateAccountError,
};

use crate::{
    audit::{self, Heads, NewHead},
    error::{self, PepperDropped, Stop},
    keys::{self, Inserted},
    pool::Pool,
    rows::{self, AccountRow},
    schema::accounts,
};

#[derive(Clone)]
pub(crate) struct Accounts(pub(crate) Pool, pub(crate) Heads);

async fn insert(
    connection: &mut AsyncPgConnection,
    account: &Account,
) -> diesel::QueryResult<usize> {
    diesel::insert_into(accounts::table)
        .values(rows::account_row(account))
        .execute(connection)
        .await
}

async fn insert_with_key(
    connection: &mut AsyncPgConnection,
    account: &Account,
    key: &ApiKey,
    entry: &AuditDraft,
) -> Result<Vec<ChainHead>, Stop<PepperDropped>> {
    insert(connection, account).await?;
    match keys::insert(connection, key).await? {
        Inserted::Stored => audit::append_all(connection, &[entry]).await,
        Inserted::AccountNotFound => Err(Stop::NotFound),
        Inserted::PepperDropped => Err(Stop::Refused(PepperDropped)),
    }
}

/// Locks the account, changes it, writes it, and its entry.
async fn change_locked(
    connection: &mut AsyncPgConnection,
    heads: &Heads,
    id: AccountId,
    change: &mut AccountChangeFn<'_>,
) -> Result<(Account, Option<NewHead>), Stop<AccountRefusal>> {
    // `NO KEY`, because nobody changes an id: changes wait for one another, and keys can be issued meanwhile.
    let locked = accounts::table
        .find(id.as_uuid())
        .select(AccountRow::as_select())
        .for_no_key_update()
        .get_result(connection)
        .await
        .optional()?
        .ok_or(Stop::NotFound)?;
    let Audited { record, entry } = change(rows::account(locked)?).map_err(Stop::Refused)?;
    let stored = diesel::update(accounts::table.find(id.as_uuid()))
        .set(rows::account_changes(&record))
        .returning(AccountRow::as_returning())
        .get_result(connection)
        .await?;
    let head = match &entry {
        Some(entry) => Some(audit::append(connection, heads, entry).await?),
        None => None,
    };
    Ok((rows::account(stored)?, head))
}

#[async_trait]
impl AccountRepository for Accounts {
    async fn create(
        &self,
        account: &Account,
        entry: &AuditDraft,
    ) -> Result<(), CreateAccountError> {
        let Self(pool, heads) = self;
        let created = pool
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| {
                        insert(connection, account).await?;
                        audit::append_all(connection, &[entry]).await
                    })
                    .await
            })
            .await?;
        heads.keep(created.map_err(|stop: Stop<Infallible>| CreateAccountError::from(stop))?);
        Ok(())
    }

    async fn create_with_key(
        &self,
        account: &Account,
        key: &ApiKey,
        entry: &AuditDraft,
    ) -> Result<(), CreateOperatorError> {
        let Self(pool, heads) = self;
        let created = pool
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| {
                        insert_with_key(connection, account, key, entry).await
                    })
                    .await
            })
            .await?;
        heads.keep(created?);
        Ok(())
    }

    async fn get(&self, id: AccountId, rows: Rows) -> Result<Option<Account>, StoreError> {
        let any = (rows == Rows::WithDeleted).into_sql::<diesel::sql_types::Bool>();
        let query = accounts::table
            .find(id.as_uuid())
            .filter(accounts::deleted_at.is_null().or(any))
            .select(AccountRow::as_select());
        let found = self
            .0
            .statement(async |connection| query.get_result(connection).await.optional())
            .await?
            .map_err(error::of_query)?;
        found.map(rows::account).transpose()
    }

    async fn find_by_slug(&self, slug: &Slug) -> Result<Option<Account>, StoreError> {
        let query = accounts::table
            .filter(accounts::slug.eq(slug.as_str()))
            .filter(accounts::deleted_at.is_null())
            .select(AccountRow::as_select());
        let found = self
            .0
            .statement(async |connection| query.get_result(connection).await.optional())
            .await?
            .map_err(error::of_query)?;
        found.map(rows::account).transpose()
    }

    async fn update<'a>(
        &self,
        id: AccountId,
        change: &'a mut AccountChangeFn<'a>,
    ) -> Result<Account, UpdateAccountError> {
        let Self(pool, heads) = self;
        let changed = pool
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| {
                        change_locked(connection, heads, id, change).await
                    })
                    .await
            })
            .await?;
        let (changed, head) = changed?;
        heads.keep(head);
        Ok(changed)
    }

    async fn list(&self) -> Result<Vec<Account>, StoreError> {
        let query = accounts::table
            .filter(accounts::deleted_at.is_null())
            .order((accounts::created_at.desc(), accounts::id.desc()))
            .select(AccountRow::as_select());
        let listed = self
            .0
            .statement(async |connection| query.load(connection).await)
            .await?
            .map_err(error::of_query)?;
        listed.into_iter().map(rows::account).collect()
    }

    async fn find_operator(&self) -> Result<Option<Account>, StoreError> {
        let query = accounts::table
            .filter(accounts::is_operator)
            .filter(accounts::deleted_at.is_null())
            .order((accounts::created_at, accounts::id))
            .select(AccountRow::as_select());
        let found = self
            .0
            .statement(async |connection| query.first(connection).await.optional())
            .await?
            .map_err(error::of_query)?;
        found.map(rows::account).transpose()
    }

    async fn is_empty(&self) -> Result<bool, StoreError> {
        let query = diesel::select(exists(accounts::table.select(accounts::id)));
        let any = self
            .0
            .statement(async |connection| query.get_result::<bool>(connection).await)
            .await?
            .map_err(error::of_query)?;
        Ok(!any)
    }
}
