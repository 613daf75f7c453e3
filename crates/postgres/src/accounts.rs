//! Accounts: their management.

use async_trait::async_trait;
use diesel::{
    IntoSql as _,
    dsl::{AsSelect, SqlTypeOf, exists},
    pg::{Pg, data_types::PgTimestamp},
    prelude::*,
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl};
use leadr_auth_domain::{
    Account, AccountId, AccountRefusal, ApiKey, AuditDraft, ChainHead, IdempotentRequest, Slug,
};
use leadr_auth_ports::{
    AccountChangeFn, AccountQuery, AccountRepository, Audited, CreateAccountError,
    CreateOperatorError, Once, Rows, StoreError, UpdateAccountError,
    listing::{Page, Sort},
};
use uuid::Uuid;

use crate::{
    audit::{self, Heads, NewHead},
    error::{self, PepperDropped, Stop},
    keys::{self, Inserted},
    listing::{self, Paged, coalesce},
    pool::Pool,
    requests::{self, OtherRequest},
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

type Listed<'a, Columns> = accounts::BoxedQuery<'a, Pg, Columns>;

/// Where an account stands in every order.
type Place = (accounts::created_at, accounts::name, accounts::id);

const TABLE: &str = "accounts";

/// The values of a [`Place`].
type PlaceRow = (PgTimestamp, String, Uuid);

/// The live accounts that the page may look at, in the list's order.
fn candidates<'a, Columns>(
    mut query: Listed<'a, Columns>,
    AccountQuery { filter, sort, .. }: &'a AccountQuery,
    horizon: Option<&'a Sort<AccountId>>,
) -> Listed<'a, Columns> {
    query = query.filter(accounts::deleted_at.is_null());
    for among in listing::range(TABLE, sort, filter.created, horizon) {
        query = query.filter(among);
    }
    query.order(listing::order(TABLE, sort))
}

/// The `nth` of them, if there are so many.
fn horizon_query(query: &AccountQuery, nth: u32) -> Listed<'_, SqlTypeOf<Place>> {
    let all = accounts::table
        .select(Place::default())
        .offset(i64::from(nth) - 1)
        .limit(1)
        .into_boxed();
    candidates(all, query, None)
}

/// The accounts of a page and one more, up to the last one that is looked at.
pub(crate) fn page_query<'a>(
    query: &'a AccountQuery,
    horizon: Option<&'a Sort<AccountId>>,
) -> Listed<'a, SqlTypeOf<AsSelect<AccountRow, Pg>>> {
    let AccountQuery { filter, limit, .. } = query;
    let all = accounts::table
        .select(AccountRow::as_select())
        .limit(i64::from(*limit) + 1)
        .into_boxed();
    let mut page = candidates(all, query, horizon);
    if let Sort::Name { .. } = query.sort {
        for made in listing::made_in(TABLE, filter.created) {
            page = page.filter(coalesce(made.nullable(), false));
        }
    }
    if let Some(status) = filter.status {
        page = page.filter(coalesce(
            accounts::status.eq(rows::account_label(status)).nullable(),
            false,
        ));
    }
    if let Some(part) = &filter.name_contains {
        page = page.filter(coalesce(
            listing::name_contains(TABLE, part).nullable(),
            false,
        ));
    }
    page
}

impl Paged for AccountQuery {
    type Row = AccountRow;
    type Place = Sort<AccountId>;

    async fn horizon(
        &self,
        connection: &mut AsyncPgConnection,
        nth: u32,
    ) -> QueryResult<Option<Self::Place>> {
        let last = horizon_query(self, nth).get_result::<PlaceRow>(connection);
        let place = |(made, name, id): PlaceRow| {
            let made = rows::nearest(made);
            self.sort.after(made, &name, AccountId::new(id))
        };
        Ok(last.await.optional()?.map(place))
    }

    async fn rows(
        &self,
        connection: &mut AsyncPgConnection,
        horizon: Option<&Self::Place>,
    ) -> QueryResult<Vec<Self::Row>> {
        page_query(self, horizon).load(connection).await
    }

    fn place(&self, row: &Self::Row) -> Self::Place {
        let made = rows::nearest(row.created_at);
        self.sort.after(made, &row.name, AccountId::new(row.id))
    }
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
        heads.keep(created.map_err(|stop: Stop<OtherRequest>| CreateAccountError::from(stop))?);
        Ok(())
    }

    async fn create_once(
        &self,
        account: &Account,
        entry: &AuditDraft,
        request: &IdempotentRequest,
    ) -> Result<Once<AccountId>, CreateAccountError> {
        let Self(pool, heads) = self;
        let done = pool
            .transaction(async |connection| {
                let work = async |connection: &mut AsyncPgConnection| {
                    let once = requests::claim(connection, request, account.id.as_uuid()).await?;
                    let mut ends = Vec::new();
                    if let Once::Now(_) = once {
                        insert(connection, account).await?;
                        ends = audit::append_all(connection, &[entry]).await?;
                    }
                    Ok::<_, Stop<OtherRequest>>((once, ends))
                };
                connection.transaction(work).await
            })
            .await?;
        let (once, ends) = done?;
        heads.keep(ends);
        Ok(once.map(AccountId::new))
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

    async fn page(
        &self,
        query: &AccountQuery,
    ) -> Result<Page<Account, Sort<AccountId>>, StoreError> {
        let page = listing::page(&self.0, query, query.limit, query.looks_at()).await?;
        page.try_map(rows::account)
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
