//! Accounts: their management.

use async_trait::async_trait;
use diesel::{
    IntoSql as _,
    dsl::{AsSelect, SqlTypeOf, exists},
    prelude::*,
    sql_types::Bool,
    sqlite::{Sqlite, SqliteConnection},
};
use leadr_auth_domain::{Account, AccountId, ApiKey, AuditDraft, IdempotentRequest, Slug};
use leadr_auth_ports::{
    AccountChangeFn, AccountQuery, AccountRepository, Audited, Change, CreateAccountError,
    CreateOperatorError, Once, Rows, StoreError, UpdateAccountError,
    listing::{Page, Sort},
};

use crate::{
    audit,
    error::{Stop, Violation},
    keys::{self, Swap},
    listing::{self, Paged},
    pool::{Done, Pool},
    requests,
    rows::{self, AccountChanges, AccountRow, Id},
    schema::accounts,
};

#[derive(Clone)]
pub(crate) struct Accounts(pub(crate) Pool);

/// The account with this id, deleted or not.
pub(crate) fn find(
    connection: &mut SqliteConnection,
    id: AccountId,
) -> QueryResult<Option<AccountRow>> {
    accounts::table
        .find(Id::from(id))
        .select(AccountRow::as_select())
        .get_result(connection)
        .optional()
}

type Listed<Columns> = accounts::BoxedQuery<'static, Sqlite, Columns>;

/// Where an account stands in every order.
type Place = (accounts::created_at, accounts::name, accounts::id);

const TABLE: &str = "accounts";

/// The values of a [`Place`].
type PlaceRow = (i64, String, Id);

/// The live accounts that the page may look at, in the list's order.
fn candidates<Columns>(
    mut query: Listed<Columns>,
    AccountQuery { filter, sort, .. }: &AccountQuery,
    horizon: Option<&Sort<AccountId>>,
) -> Listed<Columns> {
    query = query.filter(accounts::deleted_at.is_null());
    for among in listing::range(TABLE, sort, filter.created, horizon) {
        query = query.filter(among);
    }
    query.order(listing::order(TABLE, sort))
}

/// The `nth` of them, if there are so many.
fn horizon_query(query: &AccountQuery, nth: u32) -> Listed<SqlTypeOf<Place>> {
    let all = accounts::table
        .select(Place::default())
        .offset(i64::from(nth) - 1)
        .limit(1)
        .into_boxed();
    candidates(all, query, None)
}

/// The accounts of a page and one more, up to the last one that is looked at.
fn page_query(
    query: &AccountQuery,
    horizon: Option<&Sort<AccountId>>,
) -> Listed<SqlTypeOf<AsSelect<AccountRow, Sqlite>>> {
    let AccountQuery { filter, limit, .. } = query;
    let all = accounts::table
        .select(AccountRow::as_select())
        .limit(i64::from(*limit) + 1)
        .into_boxed();
    let mut page = candidates(all, query, horizon);
    for made in listing::narrowed_to(TABLE, &query.sort, filter.created) {
        page = page.filter(made);
    }
    if let Some(status) = filter.status {
        page = page.filter(accounts::status.eq(status.as_str()));
    }
    if let Some(part) = &filter.name_contains {
        page = page.filter(listing::name_contains(TABLE, part));
    }
    page
}

impl Paged for AccountQuery {
    type Row = AccountRow;
    type Place = Sort<AccountId>;

    fn horizon(
        &self,
        connection: &mut SqliteConnection,
        nth: u32,
    ) -> QueryResult<Option<Self::Place>> {
        let last = horizon_query(self, nth).get_result::<PlaceRow>(connection);
        let place = |(made, name, Id(id)): PlaceRow| {
            let made = rows::nearest(made);
            self.sort.after(made, &name, AccountId::new(id))
        };
        Ok(last.optional()?.map(place))
    }

    fn rows(
        &self,
        connection: &mut SqliteConnection,
        horizon: Option<&Self::Place>,
    ) -> QueryResult<Vec<Self::Row>> {
        page_query(self, horizon).load(connection)
    }

    fn place(&self, row: &Self::Row) -> Self::Place {
        row.place(&self.sort)
    }
}

/// What of this name and this slug a live account other than `id` has; the name where both are taken.
pub(crate) fn taken(
    connection: &mut SqliteConnection,
    id: AccountId,
    name: &str,
    slug: &str,
) -> QueryResult<Option<Violation>> {
    let others = accounts::table
        .filter(accounts::deleted_at.is_null())
        .filter(accounts::id.ne(Id::from(id)));
    if diesel::select(exists(others.filter(accounts::name.eq(name)))).get_result(connection)? {
        return Ok(Some(Violation::Name));
    }
    let slug = others.filter(accounts::slug.eq(slug));
    let has_slug: bool = diesel::select(exists(slug)).get_result(connection)?;
    Ok(has_slug.then_some(Violation::Slug))
}

fn insert(connection: &mut SqliteConnection, account: &Account) -> Result<(), Stop> {
    let done = diesel::insert_into(accounts::table)
        .values(rows::account_row(account))
        .execute(connection);
    let (name, slug) = (account.name.as_str(), account.slug.as_str());
    done.map(drop)
        .map_err(|error| name_first(error.into(), connection, account.id, name, slug))
}

/// Where both the name and the slug are taken, SQLite says whichever it happens to check first, and we promise to name the
/// name.
fn name_first(
    stop: Stop,
    connection: &mut SqliteConnection,
    id: AccountId,
    name: &str,
    slug: &str,
) -> Stop {
    if !matches!(stop, Stop::Rule(Violation::Slug)) {
        return stop;
    }
    match taken(connection, id, name, slug) {
        Ok(violation) => violation.map_or(stop, Stop::Rule),
        Err(error) => error.into(),
    }
}

/// Writes `now` where the account still is as it `was`, in all that is written; and then, what there is to say of it.
fn swap(
    connection: &mut SqliteConnection,
    id: AccountId,
    was: AccountChanges,
    now: &AccountChanges,
    entry: Option<&AuditDraft>,
) -> Result<Done<Swap<AccountRow>>, Stop> {
    let unchanged = accounts::table
        .find(Id::from(id))
        .filter(accounts::name.eq(was.name))
        .filter(accounts::slug.eq(was.slug))
        .filter(accounts::status.eq(was.status))
        .filter(accounts::key_limit.eq(was.key_limit))
        .filter(accounts::is_operator.eq(was.is_operator))
        .filter(accounts::updated_at.eq(was.updated_at))
        // Which also finds null equal to null.
        .filter(accounts::deleted_at.is(was.deleted_at));
    let stored = diesel::update(unchanged)
        .set(now)
        .returning(AccountRow::as_returning())
        .get_result(connection)
        .optional()
        .map_err(|error| name_first(error.into(), connection, id, &now.name, &now.slug))?;
    if let (Some(_), Some(entry)) = (&stored, entry) {
        audit::append(connection, entry)?;
    }
    Ok(match stored {
        Some(row) => Done::changing([Change::Account(id)], Swap::Done(row)),
        None => Done::unheard(find(connection, id)?.map_or(Swap::Gone, Swap::Moved)),
    })
}

#[async_trait]
impl AccountRepository for Accounts {
    async fn create(
        &self,
        account: &Account,
        entry: &AuditDraft,
    ) -> Result<(), CreateAccountError> {
        let (account, entry) = (account.clone(), entry.clone());
        let created = self.0.write(move |connection| {
            insert(connection, &account)?;
            audit::append(connection, &entry)?;
            // It has no key yet.
            Ok::<_, Stop>(Done::unheard(()))
        });
        Ok(created.await??)
    }

    async fn create_once(
        &self,
        account: &Account,
        entry: &AuditDraft,
        request: &IdempotentRequest,
    ) -> Result<Once<AccountId>, CreateAccountError> {
        let (account, entry, request) = (account.clone(), entry.clone(), request.clone());
        let done = self.0.write(move |connection| {
            let once = requests::claim(connection, &request, account.id.into())?;
            if let Once::Now(_) = once {
                insert(connection, &account)?;
                audit::append(connection, &entry)?;
            }
            // It has no key yet.
            Ok::<_, Stop>(Done::unheard(once.map(|Id(id)| AccountId::new(id))))
        });
        Ok(done.await??)
    }

    async fn create_with_key(
        &self,
        account: &Account,
        key: &ApiKey,
        entry: &AuditDraft,
    ) -> Result<(), CreateOperatorError> {
        let (account, key, entry) = (account.clone(), key.clone(), entry.clone());
        if key.account_id != account.id {
            return Err(Stop::Rule(Violation::Account).into());
        }
        let created = self.0.write(move |connection| {
            insert(connection, &account)?;
            keys::insert(connection, &key)?;
            audit::append(connection, &entry)?;
            Ok::<_, Stop>(Done::changing([Change::Key(key.key_prefix)], ()))
        });
        Ok(created.await??)
    }

    async fn get(&self, id: AccountId, rows: Rows) -> Result<Option<Account>, StoreError> {
        let any = (rows == Rows::WithDeleted).into_sql::<Bool>();
        let query = accounts::table
            .find(Id::from(id))
            .filter(accounts::deleted_at.is_null().or(any))
            .select(AccountRow::as_select());
        let found = self
            .0
            .row(move |connection| query.get_result(connection).optional())
            .await?;
        found.map(rows::account).transpose()
    }

    async fn find_by_slug(&self, slug: &Slug) -> Result<Option<Account>, StoreError> {
        let query = accounts::table
            .filter(accounts::slug.eq(slug.as_str().to_owned()))
            .filter(accounts::deleted_at.is_null())
            .select(AccountRow::as_select());
        let found = self
            .0
            .row(move |connection| query.get_result(connection).optional())
            .await?;
        found.map(rows::account).transpose()
    }

    /// Compares and swaps, as the update of a key does.
    async fn update<'a>(
        &self,
        id: AccountId,
        change: &'a mut AccountChangeFn<'a>,
    ) -> Result<Account, UpdateAccountError> {
        let steps = async {
            let mut found = self.0.row(move |connection| find(connection, id)).await?;
            while let Some(row) = found {
                let (current, was) = rows::account_to_change(row)?;
                let Audited { record, entry } =
                    change(current).map_err(UpdateAccountError::Refused)?;
                let now = rows::account_changes(&record);
                let swapped = self
                    .0
                    .write(move |connection| swap(connection, id, was, &now, entry.as_ref()))
                    .await??;
                found = match swapped {
                    Swap::Done(row) => return Ok(rows::account(row)?),
                    Swap::Moved(row) => Some(row),
                    Swap::Gone => None,
                };
            }
            Err(UpdateAccountError::NotFound)
        };
        self.0.in_steps(steps).await
    }

    async fn page(
        &self,
        query: &AccountQuery,
    ) -> Result<Page<Account, Sort<AccountId>>, StoreError> {
        let query = query.clone();
        let page = self.0.read(move |connection| {
            listing::page(connection, &query, query.limit, query.looks_at())
        });
        page.await?.try_map(rows::account)
    }

    async fn find_operator(&self) -> Result<Option<Account>, StoreError> {
        let query = accounts::table
            .filter(accounts::is_operator)
            .filter(accounts::deleted_at.is_null())
            .order((accounts::created_at, accounts::id))
            .select(AccountRow::as_select());
        let found = self
            .0
            .read(move |connection| query.first(connection).optional())
            .await?;
        found.map(rows::account).transpose()
    }

    async fn is_empty(&self) -> Result<bool, StoreError> {
        let query = diesel::select(exists(accounts::table.select(accounts::id)));
        let any = self
            .0
            .read(move |connection| query.get_result::<bool>(connection))
            .await?;
        Ok(!any)
    }
}
