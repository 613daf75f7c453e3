//! Keys: the lookup of the hot path, and their management.

use async_trait::async_trait;
use diesel::{
    dsl::{AsSelect, SqlTypeOf, exists, sql},
    prelude::*,
    sql_types::{Bool, Text},
    sqlite::{Sqlite, SqliteConnection},
};
use leadr_auth_domain::{
    AccountId, ApiKey, ApiKeyStatus, AuditDraft, IdempotentRequest, KeyId, KeyPrefix, KeyRecord,
};
use leadr_auth_ports::{
    Audited, Change, CreateKeyError, KeyChangeFn, KeyLookup, KeyQuery, KeyRepository, Once, Rows,
    StoreError, UpdateKeyError,
    listing::{Page, Sort},
};

use crate::{
    audit,
    error::{Stop, Violation},
    listing::{self, Paged},
    pool::{Done, Pool},
    requests,
    rows::{self, AccountRow, Id, KeyChanges, KeyRow},
    schema::{accounts, api_keys, key_counts},
    secrets,
};

#[derive(Clone)]
pub(crate) struct Keys(pub(crate) Pool);

/// The first key with this prefix or a greater one, and its account.
#[diesel::dsl::auto_type(no_type_alias)]
pub(crate) fn find_from_query<'a>(prefix: &'a str) -> _ {
    let columns: diesel::dsl::AsSelect<(KeyRow, AccountRow), Sqlite> =
        <(KeyRow, AccountRow)>::as_select();
    api_keys::table
        .inner_join(accounts::table)
        .filter(api_keys::key_prefix.ge(prefix))
        .order(api_keys::key_prefix)
        .select(columns)
        .limit(1_i64)
}

/// The first key with this id or a greater one.
#[diesel::dsl::auto_type(no_type_alias)]
fn get_from_query(id: Id) -> _ {
    let columns: diesel::dsl::AsSelect<KeyRow, Sqlite> = KeyRow::as_select();
    api_keys::table
        .filter(api_keys::id.ge(id))
        .order(api_keys::id)
        .select(columns)
        .limit(1_i64)
}

type Listed<Columns> = api_keys::BoxedQuery<'static, Sqlite, Columns>;

/// Where a key stands in every order.
type Place = (api_keys::created_at, api_keys::name, api_keys::id);

const TABLE: &str = "api_keys";

/// The values of a [`Place`].
type PlaceRow = (i64, String, Id);

/// The live keys of the account that the page may look at, in the list's order.
fn candidates<Columns>(
    mut query: Listed<Columns>,
    KeyQuery { filter, sort, .. }: &KeyQuery,
    horizon: Option<&Sort<KeyId>>,
) -> Listed<Columns> {
    query = query
        .filter(api_keys::account_id.eq(Id::from(filter.account_id)))
        .filter(api_keys::deleted_at.is_null());
    for among in listing::range(TABLE, sort, filter.created, horizon) {
        query = query.filter(among);
    }
    query.order(listing::order(TABLE, sort))
}

/// The `nth` of them, if there are so many.
fn horizon_query(query: &KeyQuery, nth: u32) -> Listed<SqlTypeOf<Place>> {
    let all = api_keys::table
        .select(Place::default())
        .offset(i64::from(nth) - 1)
        .limit(1)
        .into_boxed();
    candidates(all, query, None)
}

/// The keys of a page and one more, up to the last one that is looked at.
fn page_query(
    query: &KeyQuery,
    horizon: Option<&Sort<KeyId>>,
) -> Listed<SqlTypeOf<AsSelect<KeyRow, Sqlite>>> {
    use api_keys::{expires_at, last_used_at, status};
    let KeyQuery { filter, limit, .. } = query;
    let all = api_keys::table
        .select(KeyRow::as_select())
        .limit(i64::from(*limit) + 1)
        .into_boxed();
    let mut page = candidates(all, query, horizon);
    for made in listing::narrowed_to(TABLE, &query.sort, filter.created) {
        page = page.filter(made);
    }
    if let Some(wanted) = filter.status {
        page = page.filter(status.eq(wanted.as_str()));
    }
    if filter.active_only {
        page = page.filter(status.ne(ApiKeyStatus::Revoked.as_str()));
    }
    if let Some(part) = &filter.name_contains {
        page = page.filter(listing::name_contains(TABLE, part));
    }
    if let Some(prefix) = filter.whole_prefix() {
        page = page.filter(api_keys::key_prefix.eq(prefix.to_owned()));
    } else if let Some(prefix) = &filter.prefix {
        page = page.filter(
            sql::<Bool>("instr(api_keys.key_prefix, ")
                .bind::<Text, _>(prefix.clone())
                .sql(") = 1"),
        );
    }
    if let Some(since) = filter.last_used.since {
        page = page.filter(last_used_at.ge(since.unix_micros()));
    }
    if let Some(until) = filter.last_used.until {
        page = page.filter(last_used_at.lt(until.unix_micros()));
    }
    if let Some(since) = filter.expires.since {
        page = page.filter(expires_at.ge(since.unix_micros()));
    }
    if let Some(until) = filter.expires.until {
        page = page.filter(expires_at.lt(until.unix_micros()));
    }
    if filter.never_used {
        page = page.filter(last_used_at.is_null());
    }
    page
}

impl Paged for KeyQuery {
    type Row = KeyRow;
    type Place = Sort<KeyId>;

    fn horizon(
        &self,
        connection: &mut SqliteConnection,
        nth: u32,
    ) -> QueryResult<Option<Self::Place>> {
        let last = horizon_query(self, nth).get_result::<PlaceRow>(connection);
        let place = |(made, name, Id(id)): PlaceRow| {
            let made = rows::nearest(made);
            self.sort.after(made, &name, KeyId::new(id))
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

/// The key with this id, deleted or not.
pub(crate) fn find(connection: &mut SqliteConnection, id: KeyId) -> QueryResult<Option<KeyRow>> {
    api_keys::table
        .find(Id::from(id))
        .select(KeyRow::as_select())
        .get_result(connection)
        .optional()
}

/// Inserts a key whose account is live, and whose secret was not dropped.
pub(crate) fn insert(connection: &mut SqliteConnection, key: &ApiKey) -> Result<(), Stop> {
    let owner = accounts::table
        .find(Id::from(key.account_id))
        .filter(accounts::deleted_at.is_null());
    if !diesel::select(exists(owner)).get_result(connection)? {
        return Err(Stop::Rule(Violation::Account));
    }
    if secrets::is_dropped(connection, key.pepper_id.as_str())? {
        return Err(Stop::Rule(Violation::Pepper));
    }
    diesel::insert_into(api_keys::table)
        .values(rows::key_row(key))
        .execute(connection)?;
    Ok(())
}

/// Has the account more live keys than it may have? To be asked in the transaction in which one has come.
fn check_limit(connection: &mut SqliteConnection, owner: Id) -> Result<(), Stop> {
    let counted = accounts::table
        .inner_join(key_counts::table.on(key_counts::account_id.eq(accounts::id)))
        .filter(accounts::id.eq(owner))
        .filter(key_counts::live.gt(accounts::key_limit));
    if diesel::select(exists(counted)).get_result(connection)? {
        return Err(Stop::Rule(Violation::Limit));
    }
    Ok(())
}

/// Whether an account's limit counts for a key that comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limit {
    Counts,
    CountsNot,
}

/// What came of an attempt to change a row.
pub(crate) enum Swap<R> {
    /// It is written, and this is the row now.
    Done(R),
    /// Somebody else has changed it since it was read, to this.
    Moved(R),
    /// It is not there any more.
    Gone,
}

/// Writes `now` where the key still is as it `was`, in all that is written; and then, what there is to say of it. A deleted
/// key is not made live again under a secret that was dropped.
fn swap(
    connection: &mut SqliteConnection,
    id: KeyId,
    was: KeyChanges,
    now: KeyChanges,
    entry: Option<&AuditDraft>,
) -> Result<Done<Swap<KeyRow>>, Stop> {
    let is_restored = was.deleted_at.is_some() && now.deleted_at.is_none();
    let unchanged = api_keys::table
        .find(Id::from(id))
        .filter(api_keys::name.eq(was.name))
        .filter(api_keys::status.eq(was.status))
        .filter(api_keys::updated_at.eq(was.updated_at))
        // Which also finds null equal to null.
        .filter(api_keys::scopes.is(was.scopes))
        .filter(api_keys::deleted_at.is(was.deleted_at));
    let stored = diesel::update(unchanged)
        .set(now)
        .returning(KeyRow::as_returning())
        .get_result(connection)
        .optional()?;
    // Under which secret it is hashed may have changed since it was read, so the row that was written is asked.
    if let (Some(row), true) = (&stored, is_restored)
        && secrets::is_dropped(connection, &row.pepper_id)?
    {
        return Err(Stop::Rule(Violation::Pepper));
    }
    if let (Some(row), true) = (&stored, is_restored) {
        check_limit(connection, row.account_id)?;
    }
    if let (Some(_), Some(entry)) = (&stored, entry) {
        audit::append(connection, entry)?;
    }
    Ok(match stored {
        Some(row) => Done::changing([rows::change_of_key(&row.key_prefix)], Swap::Done(row)),
        None => Done::unheard(find(connection, id)?.map_or(Swap::Gone, Swap::Moved)),
    })
}

/// Stores a key and its entry. Everything that is made is told of here.
fn create(
    connection: &mut SqliteConnection,
    key: &ApiKey,
    entry: &AuditDraft,
    limit: Limit,
) -> Result<Done<()>, Stop> {
    insert(connection, key)?;
    if limit == Limit::Counts {
        check_limit(connection, key.account_id.into())?;
    }
    audit::append(connection, entry)?;
    Ok(Done::changing([Change::Key(key.key_prefix.clone())], ()))
}

impl Keys {
    async fn store(
        &self,
        key: &ApiKey,
        entry: &AuditDraft,
        limit: Limit,
    ) -> Result<(), CreateKeyError> {
        let (key, entry) = (key.clone(), entry.clone());
        let created = self
            .0
            .write(move |connection| create(connection, &key, &entry, limit));
        Ok(created.await??)
    }
}

#[async_trait]
impl KeyLookup for Keys {
    async fn find(&self, prefix: &KeyPrefix) -> Result<Option<KeyRecord>, StoreError> {
        let wanted = prefix.clone();
        let found = self
            .0
            .lookup(move |connection| {
                find_from_query(wanted.as_str())
                    .get_result::<(KeyRow, AccountRow)>(connection)
                    .optional()
            })
            .await?;
        let Some((key, account)) = found else {
            return Ok(None);
        };
        let is_wanted = key.key_prefix == prefix.as_str();
        // Another one is read as a whole, too, and whatever is wrong with it is not the matter here.
        let record = rows::record(key, account);
        is_wanted.then_some(record).transpose()
    }
}

#[async_trait]
impl KeyRepository for Keys {
    async fn create(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        self.store(key, entry, Limit::Counts).await
    }

    async fn adopt(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        self.store(key, entry, Limit::CountsNot).await
    }

    async fn create_once(
        &self,
        key: &ApiKey,
        entry: &AuditDraft,
        request: &IdempotentRequest,
    ) -> Result<Once<KeyId>, CreateKeyError> {
        let (key, entry, request) = (key.clone(), entry.clone(), request.clone());
        let done = self.0.write(move |connection| {
            let once = requests::claim(connection, &request, key.id.into())?;
            let once = once.map(|Id(id)| KeyId::new(id));
            Ok::<_, Stop>(match once {
                Once::Now(_) => create(connection, &key, &entry, Limit::Counts)?.with(once),
                Once::Before(_) => Done::unheard(once),
            })
        });
        Ok(done.await??)
    }

    async fn get(&self, id: KeyId, rows: Rows) -> Result<Option<ApiKey>, StoreError> {
        let query = get_from_query(Id::from(id));
        let found = self
            .0
            .row(move |connection| query.get_result::<KeyRow>(connection).optional())
            .await?;
        let Some(row) = found else {
            return Ok(None);
        };
        let is_wanted =
            row.id == Id::from(id) && (rows == Rows::WithDeleted || row.deleted_at.is_none());
        let key = rows::key(row);
        if is_wanted { key.map(Some) } else { Ok(None) }
    }

    /// Compares and swaps: the change cannot be lent to the thread that writes, so it is made out here, of the key as it was
    /// read, and written where the key still is so. Otherwise it starts over, with the key as it is now.
    async fn update<'a>(
        &self,
        id: KeyId,
        change: &'a mut KeyChangeFn<'a>,
    ) -> Result<ApiKey, UpdateKeyError> {
        let steps = async {
            let mut found = self.0.row(move |connection| find(connection, id)).await?;
            while let Some(row) = found {
                let (current, was) = rows::key_to_change(row)?;
                let Audited { record, entry } = change(current).map_err(UpdateKeyError::Refused)?;
                let now = rows::key_changes(&record);
                let swapped = self
                    .0
                    .write(move |connection| swap(connection, id, was, now, entry.as_ref()))
                    .await??;
                found = match swapped {
                    Swap::Done(row) => return Ok(rows::key(row)?),
                    Swap::Moved(row) => Some(row),
                    Swap::Gone => None,
                };
            }
            Err(UpdateKeyError::NotFound)
        };
        self.0.in_steps(steps).await
    }

    async fn page(&self, query: &KeyQuery) -> Result<Page<ApiKey, Sort<KeyId>>, StoreError> {
        let query = query.clone();
        let page = self.0.read(move |connection| {
            listing::page(connection, &query, query.limit, query.looks_at())
        });
        page.await?.try_map(rows::key)
    }

    async fn count_active(&self, account_id: AccountId) -> Result<u64, StoreError> {
        let query = api_keys::table
            .filter(api_keys::account_id.eq(Id::from(account_id)))
            .filter(api_keys::deleted_at.is_null())
            .filter(api_keys::status.ne(ApiKeyStatus::Revoked.as_str()))
            .count();
        let count = self
            .0
            .read(move |connection| query.get_result::<i64>(connection))
            .await?;
        u64::try_from(count).map_err(StoreError::internal)
    }
}

#[cfg(test)]
mod tests {
    use leadr_auth_ports::contract::fixtures::{account, at, key_filters, key_sorts};
    use leadr_auth_ports::{
        KeyFilter,
        listing::{Direction, Period},
    };

    use super::*;
    use crate::plans::plan;

    #[test]
    fn a_lookup_goes_by_its_index() {
        for plan in [
            plan(&find_from_query("ldr_a")),
            plan(&get_from_query(Id::from(KeyId::from_random_bytes([1; 16])))),
        ] {
            assert!(
                plan.contains("SEARCH api_keys USING INDEX ix_api_keys_key_prefix")
                    || plan.contains("SEARCH api_keys USING INDEX sqlite_autoindex_api_keys_1"),
                "{plan}"
            );
            assert!(
                !plan.contains("SCAN") && !plan.contains("TEMP B-TREE"),
                "{plan}"
            );
        }
    }

    /// Where a page goes on is where the index is entered, and up to where it looks is where that is left; also where a span of time
    /// would do for either.
    #[test]
    fn a_page_in_a_span_of_time_is_a_range_of_its_own() {
        let mut filter = KeyFilter::of(account(1).id);
        filter.created = Period {
            since: Some(at(1)),
            until: Some(at(9)),
        };
        let id = KeyId::from_random_bytes([1; 16]);
        for first in key_sorts() {
            let Sort::CreatedAt { direction, .. } = first else {
                continue;
            };
            let sort = first.after(at(5), "Key", id);
            let query = KeyQuery {
                filter: filter.clone(),
                sort: sort.clone(),
                limit: 100,
            };
            let (enters, leaves, ends) = match direction {
                Direction::Ascending => (">(?,?)", "<(?,?)", "created_at<?"),
                Direction::Descending => ("<(?,?)", ">(?,?)", "created_at>?"),
            };
            let far = sort.after(at(6), "Key", id);
            let to_the_end = plan(&page_query(&query, None));
            assert!(
                to_the_end.contains(&format!("(created_at,id){enters}"))
                    && to_the_end.contains(ends),
                "{to_the_end}"
            );
            let to_the_horizon = plan(&page_query(&query, Some(&far)));
            assert!(
                to_the_horizon.contains(&format!("(created_at,id){enters}"))
                    && to_the_horizon.contains(&format!("(created_at,id){leaves}")),
                "{to_the_horizon}"
            );
        }
    }

    #[test]
    fn a_list_comes_sorted_from_its_index() {
        for filter in key_filters(account(1).id) {
            for first in key_sorts() {
                let later = first.after(at(1), "Key", KeyId::from_random_bytes([1; 16]));
                for sort in [first, later] {
                    let index = match sort {
                        Sort::CreatedAt { .. } => "api_keys_live_by_account",
                        Sort::Name { .. } => "api_keys_live_by_name",
                    };
                    let query = KeyQuery {
                        filter: filter.clone(),
                        sort: sort.clone(),
                        limit: 100,
                    };
                    let plans = [
                        plan(&page_query(&query, None)),
                        plan(&page_query(&query, Some(&sort))),
                        plan(&horizon_query(&query, 1_024)),
                    ];
                    for plan in plans {
                        // At most one key has a whole prefix.
                        if plan.contains("ix_api_keys_key_prefix (key_prefix=?)") {
                            continue;
                        }
                        let search = format!("SEARCH api_keys USING INDEX {index}");
                        let covered = format!("SEARCH api_keys USING COVERING INDEX {index}");
                        assert!(plan.contains(&search) || plan.contains(&covered), "{plan}");
                        assert!(
                            !plan.contains("SCAN") && !plan.contains("TEMP B-TREE"),
                            "{plan}"
                        );
                    }
                }
            }
        }
    }
}
