//! Keys: the lookup of the hot path, and their management.

use async_trait::async_trait;
use diesel::{
    IntoSql as _,
    dsl::{AsSelect, SqlTypeOf, exists, not, sql},
    pg::{Pg, data_types::PgTimestamp},
    prelude::*,
    sql_types::{Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid, Varchar},
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl};
use leadr_auth_domain::{
    AccountId, ApiKey, ApiKeyStatus, AuditDraft, ChainHead, IdempotentRequest, KeyId, KeyPrefix,
    KeyRecord,
};
use leadr_auth_ports::{
    Audited, CreateKeyError, KeyChangeFn, KeyLookup, KeyQuery, KeyRepository, Once, Rows,
    StoreError, UpdateKeyError,
    listing::{Page, Sort},
};
use uuid::Uuid;

use crate::{
    audit::{self, Heads, NewHead},
    creation::Creations,
    error::{self, KeyStays, NotIssued, Stop},
    listing::{self, Paged, coalesce},
    pool::Pool,
    requests,
    rows::{self, AccountRow, KeyRow},
    schema::{accounts, api_keys, key_counts, peppers, sql_types},
};

#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) pool: Pool,
    pub(crate) heads: Heads,
    pub(crate) creations: Creations,
}

/// The first key with this prefix or a greater one, and its account.
#[diesel::dsl::auto_type(no_type_alias)]
pub(crate) fn find_from_query<'a>(prefix: &'a str) -> _ {
    let columns: diesel::dsl::AsSelect<(KeyRow, AccountRow), diesel::pg::Pg> =
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
pub(crate) fn get_from_query(id: Uuid) -> _ {
    let columns: diesel::dsl::AsSelect<KeyRow, diesel::pg::Pg> = KeyRow::as_select();
    api_keys::table
        .filter(api_keys::id.ge(id))
        .order(api_keys::id)
        .select(columns)
        .limit(1_i64)
}

type Listed<'a, Columns> = api_keys::BoxedQuery<'a, Pg, Columns>;

/// Where a key stands in every order.
type Place = (api_keys::created_at, api_keys::name, api_keys::id);

const TABLE: &str = "api_keys";

/// The values of a [`Place`].
type PlaceRow = (PgTimestamp, String, Uuid);

/// The live keys of the account that the page may look at, in the list's order.
fn candidates<'a, Columns>(
    mut query: Listed<'a, Columns>,
    KeyQuery { filter, sort, .. }: &'a KeyQuery,
    horizon: Option<&'a Sort<KeyId>>,
) -> Listed<'a, Columns> {
    query = query
        .filter(api_keys::account_id.eq(filter.account_id.as_uuid()))
        .filter(api_keys::deleted_at.is_null());
    for among in listing::range(TABLE, sort, filter.created, horizon) {
        query = query.filter(among);
    }
    query.order(listing::order(TABLE, sort))
}

/// The `nth` of them, if there are so many.
pub(crate) fn horizon_query(query: &KeyQuery, nth: u32) -> Listed<'_, SqlTypeOf<Place>> {
    let all = api_keys::table
        .select(Place::default())
        .offset(i64::from(nth) - 1)
        .limit(1)
        .into_boxed();
    candidates(all, query, None)
}

/// The keys of a page and one more, up to the last one that is looked at.
pub(crate) fn page_query<'a>(
    query: &'a KeyQuery,
    horizon: Option<&'a Sort<KeyId>>,
) -> Listed<'a, SqlTypeOf<AsSelect<KeyRow, Pg>>> {
    let KeyQuery { filter, limit, .. } = query;
    let all = api_keys::table
        .select(KeyRow::as_select())
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
            api_keys::status.eq(rows::key_label(status)).nullable(),
            false,
        ));
    }
    if filter.active_only {
        let is_active = api_keys::status.ne(rows::key_label(ApiKeyStatus::Revoked));
        page = page.filter(coalesce(is_active.nullable(), false));
    }
    if let Some(part) = &filter.name_contains {
        page = page.filter(coalesce(
            listing::name_contains(TABLE, part).nullable(),
            false,
        ));
    }
    if let Some(prefix) = filter.whole_prefix() {
        page = page.filter(api_keys::key_prefix.eq(prefix));
    } else if let Some(prefix) = &filter.prefix {
        let begins = sql::<Bool>("starts_with(api_keys.key_prefix, ")
            .bind::<Text, _>(prefix.as_str())
            .sql(")");
        page = page.filter(coalesce(begins.nullable(), false));
    }
    if let Some(since) = filter.last_used.since {
        page = page.filter(coalesce(
            api_keys::last_used_at.ge(rows::instant(since)),
            false,
        ));
    }
    if let Some(until) = filter.last_used.until {
        page = page.filter(coalesce(
            api_keys::last_used_at.lt(rows::instant(until)),
            false,
        ));
    }
    if let Some(since) = filter.expires.since {
        page = page.filter(coalesce(
            api_keys::expires_at.ge(rows::instant(since)),
            false,
        ));
    }
    if let Some(until) = filter.expires.until {
        page = page.filter(coalesce(
            api_keys::expires_at.lt(rows::instant(until)),
            false,
        ));
    }
    if filter.never_used {
        page = page.filter(coalesce(api_keys::last_used_at.is_null().nullable(), false));
    }
    page
}

impl Paged for KeyQuery {
    type Row = KeyRow;
    type Place = Sort<KeyId>;

    async fn horizon(
        &self,
        connection: &mut AsyncPgConnection,
        nth: u32,
    ) -> QueryResult<Option<Self::Place>> {
        let last = horizon_query(self, nth).get_result::<PlaceRow>(connection);
        let place = |(made, name, id): PlaceRow| {
            let made = rows::nearest(made);
            self.sort.after(made, &name, KeyId::new(id))
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
        self.sort.after(made, &row.name, KeyId::new(row.id))
    }
}

/// What came of inserting a key.
pub(crate) enum Inserted {
    /// It is there.
    Stored,
    /// Its account is not there, or not live.
    AccountNotFound,
    /// The secret that it is hashed under was given up.
    PepperDropped,
}

/// The account with this id, if it is live.
#[diesel::dsl::auto_type(no_type_alias)]
fn live_account(id: uuid::Uuid) -> _ {
    accounts::table
        .filter(accounts::id.eq(id))
        .filter(accounts::deleted_at.is_null())
}

/// The secret with this id, if it was given up.
#[diesel::dsl::auto_type(no_type_alias)]
fn dropped_pepper<'a>(id: &'a str) -> _ {
    peppers::table
        .filter(peppers::id.eq(id))
        .filter(peppers::dropped_at.is_not_null())
}

/// Inserts a key where its account is live and its secret was not given up.
///
/// The account and the secret are looked for by the insert itself. Only where it found one of them missing is it asked which. Who gives a secret up holds inserts off meanwhile (see
/// `secrets`), and what an insert looks at is how things are when it may go on.
pub(crate) async fn insert(
    connection: &mut AsyncPgConnection,
    key: &ApiKey,
) -> diesel::QueryResult<Inserted> {
    let (owner, pepper) = (key.account_id.as_uuid(), key.pepper_id.as_str());
    let row = live_account(owner)
        .filter(not(exists(dropped_pepper(pepper))))
        .select((
            key.id.as_uuid().into_sql::<SqlUuid>(),
            accounts::id,
            key.name.as_str().into_sql::<Varchar>(),
            key.key_hash.expose_hex().into_sql::<Varchar>(),
            key.key_prefix.as_str().into_sql::<Varchar>(),
            rows::key_label(key.status).into_sql::<sql_types::ApiKeyStatus>(),
            key.last_used_at
                .map(rows::instant)
                .into_sql::<Nullable<Timestamptz>>(),
            key.expires_at
                .map(rows::instant)
                .into_sql::<Nullable<Timestamptz>>(),
            rows::instant(key.created_at).into_sql::<Timestamptz>(),
            rows::instant(key.updated_at).into_sql::<Timestamptz>(),
            key.deleted_at
                .map(rows::instant)
                .into_sql::<Nullable<Timestamptz>>(),
            key.scopes.to_store().into_sql::<Nullable<Varchar>>(),
            pepper.into_sql::<Varchar>(),
        ));
    let inserted = diesel::insert_into(api_keys::table)
        .values(row)
        .into_columns((
            api_keys::id,
            api_keys::account_id,
            api_keys::name,
            api_keys::key_hash,
            api_keys::key_prefix,
            api_keys::status,
            api_keys::last_used_at,
            api_keys::expires_at,
            api_keys::created_at,
            api_keys::updated_at,
            api_keys::deleted_at,
            api_keys::scopes,
            api_keys::pepper_id,
        ))
        .execute(connection)
        .await?;
    if inserted > 0 {
        return Ok(Inserted::Stored);
    }
    let why = diesel::select((exists(live_account(owner)), exists(dropped_pepper(pepper))));
    // A secret that was given up stays so. An account that is live may have come back meanwhile.
    Ok(match why.get_result::<(bool, bool)>(connection).await? {
        (true, true) => Inserted::PepperDropped,
        (false, _) | (true, false) => Inserted::AccountNotFound,
    })
}

/// Whether an account's limit counts for a key that comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Counts,
    CountsNot,
}

/// Has an account more live keys than it may have? To be asked when one has come, whose coming has locked the count: so whoever
/// else writes one for this account has either been counted, or waits.
async fn has_too_many(
    connection: &mut AsyncPgConnection,
    owner: Uuid,
) -> diesel::QueryResult<bool> {
    let counted = accounts::table
        .inner_join(key_counts::table.on(key_counts::account_id.eq(accounts::id)))
        .filter(accounts::id.eq(owner))
        .filter(key_counts::live.gt(accounts::key_limit));
    diesel::select(exists(counted)).get_result(connection).await
}

/// Inserts keys of one account and their entries, in a transaction, where it could not be done by one statement.
pub(crate) async fn create(
    connection: &mut AsyncPgConnection,
    all: &[(&ApiKey, &AuditDraft)],
    limit: Limit,
) -> Result<Vec<ChainHead>, Stop<NotIssued>> {
    for (key, _) in all {
        match insert(connection, key).await? {
            Inserted::Stored => {}
            Inserted::AccountNotFound => return Err(Stop::NotFound),
            Inserted::PepperDropped => return Err(Stop::Refused(NotIssued::PepperDropped)),
        }
    }
    if let [(key, _), ..] = all
        && limit == Limit::Counts
        && has_too_many(connection, key.account_id.as_uuid()).await?
    {
        return Err(Stop::Refused(NotIssued::LimitReached));
    }
    let entries: Vec<_> = all.iter().map(|(_, entry)| *entry).collect();
    audit::append_all(connection, &entries).await
}

/// Locks the key, changes it, writes it, and its entry.
///
/// Whether a key that comes back does so under a secret that was given up is looked at by the update itself, for the reason
/// that [`insert`] has: to lock a row does not wait for who gives a secret up, and to write one does.
async fn change_locked(
    connection: &mut AsyncPgConnection,
    heads: &Heads,
    id: KeyId,
    change: &mut KeyChangeFn<'_>,
) -> Result<(ApiKey, Option<NewHead>), Stop<KeyStays>> {
    // `NO KEY`, because nobody changes an id: that is all the lock that keeps changes and uses apart, and foreign keys
    // need not wait for it.
    let locked = api_keys::table
        .find(id.as_uuid())
        .select(KeyRow::as_select())
        .for_no_key_update()
        .get_result(connection)
        .await
        .optional()?
        .ok_or(Stop::NotFound)?;
    let current = rows::key(locked)?;
    let (was_deleted, pepper) = (current.is_deleted(), current.pepper_id.clone());
    let refused = |refusal| Stop::Refused(KeyStays::Refused(refusal));
    let Audited { record, entry } = change(current).map_err(refused)?;
    let is_no_restoration = !was_deleted || record.is_deleted();
    let allowed = api_keys::table.find(id.as_uuid()).filter(
        is_no_restoration
            .into_sql::<Bool>()
            .or(not(exists(dropped_pepper(pepper.as_str())))),
    );
    let stored = diesel::update(allowed)
        .set(rows::key_changes(&record))
        .returning(KeyRow::as_returning())
        .get_result(connection)
        .await
        .optional()?
        .ok_or(Stop::Refused(KeyStays::PepperDropped))?;
    if !is_no_restoration && has_too_many(connection, stored.account_id).await? {
        return Err(Stop::Refused(KeyStays::LimitReached));
    }
    let head = match &entry {
        Some(entry) => Some(audit::append(connection, heads, entry).await?),
        None => None,
    };
    Ok((rows::key(stored)?, head))
}

impl Keys {
    async fn create_alone(
        &self,
        key: &ApiKey,
        entry: &AuditDraft,
        limit: Limit,
    ) -> Result<(), CreateKeyError> {
        let Self { pool, heads, .. } = self;
        let ends = pool
            .transaction(async |connection| {
                let work = async |connection: &mut AsyncPgConnection| {
                    create(connection, &[(key, entry)], limit).await
                };
                connection.transaction(work).await
            })
            .await?;
        heads.keep(ends?);
        Ok(())
    }
}

#[async_trait]
impl KeyLookup for Keys {
    async fn find(&self, prefix: &KeyPrefix) -> Result<Option<KeyRecord>, StoreError> {
        let query = find_from_query(prefix.as_str());
        let found = self
            .pool
            .lookup(async |connection| {
                query
                    .get_result::<(KeyRow, AccountRow)>(connection)
                    .await
                    .optional()
            })
            .await?
            .map_err(error::of_query)?;
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
    /// With others that are issued at the same time, by one statement for all. See [`Creations`].
    async fn create(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        if self.creations.create(key, entry).await? {
            return Ok(());
        }
        self.create_alone(key, entry, Limit::Counts).await
    }

    async fn adopt(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        self.create_alone(key, entry, Limit::CountsNot).await
    }

    async fn create_once(
        &self,
        key: &ApiKey,
        entry: &AuditDraft,
        request: &IdempotentRequest,
    ) -> Result<Once<KeyId>, CreateKeyError> {
        let Self { pool, heads, .. } = self;
        let done = pool
            .transaction(async |connection| {
                let work = async |connection: &mut AsyncPgConnection| {
                    let claimed = requests::claim(connection, request, key.id.as_uuid()).await;
                    let once = claimed.map_err(Stop::of_key)?;
                    let ends = match once {
                        Once::Now(_) => create(connection, &[(key, entry)], Limit::Counts).await?,
                        Once::Before(_) => Vec::new(),
                    };
                    Ok::<_, Stop<NotIssued>>((once, ends))
                };
                connection.transaction(work).await
            })
            .await?;
        let (once, ends) = done?;
        heads.keep(ends);
        Ok(once.map(KeyId::new))
    }

    async fn get(&self, id: KeyId, rows: Rows) -> Result<Option<ApiKey>, StoreError> {
        let query = get_from_query(id.as_uuid());
        let found = self
            .pool
            .statement(async |connection| query.get_result::<KeyRow>(connection).await.optional())
            .await?
            .map_err(error::of_query)?;
        let Some(row) = found else {
            return Ok(None);
        };
        let is_wanted =
            row.id == id.as_uuid() && (rows == Rows::WithDeleted || row.deleted_at.is_none());
        let key = rows::key(row);
        if is_wanted { key.map(Some) } else { Ok(None) }
    }

    async fn update<'a>(
        &self,
        id: KeyId,
        change: &'a mut KeyChangeFn<'a>,
    ) -> Result<ApiKey, UpdateKeyError> {
        let Self { pool, heads, .. } = self;
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

    async fn page(&self, query: &KeyQuery) -> Result<Page<ApiKey, Sort<KeyId>>, StoreError> {
        let page = listing::page(&self.pool, query, query.limit, query.looks_at()).await?;
        page.try_map(rows::key)
    }

    async fn count_active(&self, account_id: AccountId) -> Result<u64, StoreError> {
        let query = api_keys::table
            .filter(api_keys::account_id.eq(account_id.as_uuid()))
            .filter(api_keys::deleted_at.is_null())
            .filter(api_keys::status.ne(rows::key_label(ApiKeyStatus::Revoked)))
            .count();
        let count = self
            .pool
            .statement(async |connection| query.get_result::<i64>(connection).await)
            .await?
            .map_err(error::of_query)?;
        u64::try_from(count).map_err(StoreError::internal)
    }
}
