//! Accounts: their management.

use async_trait::async_trait;
use diesel::{IntoSql as _, dsl::exists, prelude::*};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl};
use leadr_auth_domain::{Account, AccountId, AccountRefusal, ApiKey, Slug};
use leadr_auth_ports::{
    AccountChangeFn, AccountRepository, CreateAccountError, CreateOperatorError, Rows, StoreError,
    UpdateAccountError,
};

use crate::{
    error::{self, PepperDropped, Stop},
    keys::{self, Inserted},
    pool::Pool,
    rows::{self, AccountRow},
    schema::accounts,
};

#[derive(Clone)]
pub(crate) struct Accounts(pub(crate) Pool);

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
) -> Result<(), Stop<PepperDropped>> {
    insert(connection, account).await?;
    match keys::insert(connection, key).await? {
        Inserted::Stored => Ok(()),
        Inserted::AccountNotFound => Err(Stop::NotFound),
        Inserted::PepperDropped => Err(Stop::Refused(PepperDropped)),
    }
}

/// Locks the account, changes it, writes it.
async fn change_locked(
    connection: &mut AsyncPgConnection,
    id: AccountId,
    change: &mut AccountChangeFn<'_>,
) -> Result<Account, Stop<AccountRefusal>> {
    // `NO KEY`, because nobody changes an id: changes wait for one another, and keys can be issued meanwhile.
    let locked = accounts::table
        .find(id.as_uuid())
        .select(AccountRow::as_select())
        .for_no_key_update()
        .get_result(connection)
        .await
        .optional()?
        .ok_or(Stop::NotFound)?;
    let changed = change(rows::account(locked)?).map_err(Stop::Refused)?;
    let stored = diesel::update(accounts::table.find(id.as_uuid()))
        .set(rows::account_changes(&changed))
        .returning(AccountRow::as_returning())
        .get_result(connection)
        .await?;
    Ok(rows::account(stored)?)
}

#[async_trait]
impl AccountRepository for Accounts {
    async fn create(&self, account: &Account) -> Result<(), CreateAccountError> {
        self.0
            .statement(async |connection| insert(connection, account).await)
            .await?
            .map(drop)
            .map_err(error::of_create_account)
    }

    async fn create_with_key(
        &self,
        account: &Account,
        key: &ApiKey,
    ) -> Result<(), CreateOperatorError> {
        let created = self
            .0
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| insert_with_key(connection, account, key).await)
                    .await
            })
            .await?;
        Ok(created?)
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
        let changed = self
            .0
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| change_locked(connection, id, change).await)
                    .await
            })
            .await?;
        Ok(changed?)
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
