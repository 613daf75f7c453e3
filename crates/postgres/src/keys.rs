//! Keys: the lookup of the hot path, and their management.

use async_trait::async_trait;
use diesel::{
    IntoSql as _,
    dsl::{exists, not},
    prelude::*,
    sql_types::{Bool, Nullable, Timestamptz, Uuid as SqlUuid, Varchar},
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl};
use leadr_auth_domain::{
    AccountId, ApiKey, ApiKeyStatus, AuditDraft, ChainHead, KeyId, KeyPrefix, KeyRecord,
};
use leadr_auth_ports::{
    Audited, CreateKeyError, KeyChangeFn, KeyFilter, KeyLookup, KeyRepository, Rows, StoreError,
    UpdateKeyError,
};

use crate::{
    audit::{self, Heads, NewHead},
    creation::Creations,
    error::{self, KeyStays, PepperDropped, Stop},
    pool::Pool,
    rows::{self, AccountRow, KeyRow},
    schema::{accounts, api_keys, peppers, sql_types},
};

#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) pool: Pool,
    pub(crate) heads: Heads,
    pub(crate) creations: Creations,
}

/// The key with this prefix and its account.
#[diesel::dsl::auto_type(no_type_alias)]
pub(crate) fn find_query<'a>(prefix: &'a str) -> _ {
    let columns: diesel::dsl::AsSelect<(KeyRow, AccountRow), diesel::pg::Pg> =
        <(KeyRow, AccountRow)>::as_select();
    api_keys::table
        .inner_join(accounts::table)
        .filter(api_keys::key_prefix.eq(prefix))
        .select(columns)
}

type ListQuery = api_keys::BoxedQuery<
    'static,
    diesel::pg::Pg,
    diesel::dsl::SqlTypeOf<diesel::dsl::AsSelect<KeyRow, diesel::pg::Pg>>,
>;

/// The live keys that pass the filter, in their order.
pub(crate) fn list_query(filter: KeyFilter) -> ListQuery {
    let mut query = api_keys::table
        .select(KeyRow::as_select())
        .filter(api_keys::account_id.eq(filter.account_id.as_uuid()))
        .filter(api_keys::deleted_at.is_null())
        .order((api_keys::created_at.desc(), api_keys::id.desc()))
        .into_boxed();
    if let Some(status) = filter.status {
        query = query.filter(api_keys::status.eq(rows::key_label(status)));
    }
    if filter.active_only {
        query = query.filter(api_keys::status.ne(rows::key_label(ApiKeyStatus::Revoked)));
    }
    query
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

/// Inserts keys and their entries, in a transaction, where it could not be done by one statement.
pub(crate) async fn create(
    connection: &mut AsyncPgConnection,
    all: &[(&ApiKey, &AuditDraft)],
) -> Result<Vec<ChainHead>, Stop<PepperDropped>> {
    for (key, _) in all {
        match insert(connection, key).await? {
            Inserted::Stored => {}
            Inserted::AccountNotFound => return Err(Stop::NotFound),
            Inserted::PepperDropped => return Err(Stop::Refused(PepperDropped)),
        }
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
    let head = match &entry {
        Some(entry) => Some(audit::append(connection, heads, entry).await?),
        None => None,
    };
    Ok((rows::key(stored)?, head))
}

#[async_trait]
impl KeyLookup for Keys {
    async fn find(&self, prefix: &KeyPrefix) -> Result<Option<KeyRecord>, StoreError> {
        let query = find_query(prefix.as_str());
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
        found
            .map(|(key, account)| {
                Ok(KeyRecord {
                    key: rows::key(key)?,
                    account: rows::account(account)?,
                })
            })
            .transpose()
    }
}

#[async_trait]
impl KeyRepository for Keys {
    /// With others that are issued at the same time, by one statement for all. See [`Creations`].
    async fn create(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        if self.creations.create(key, entry).await? {
            return Ok(());
        }
        self.adopt(key, entry).await
    }

    async fn adopt(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        let Self { pool, heads, .. } = self;
        let ends = pool
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| create(connection, &[(key, entry)]).await)
                    .await
            })
            .await?;
        heads.keep(ends?);
        Ok(())
    }

    async fn get(&self, id: KeyId, rows: Rows) -> Result<Option<ApiKey>, StoreError> {
        let any = (rows == Rows::WithDeleted).into_sql::<Bool>();
        let query = api_keys::table
            .find(id.as_uuid())
            .filter(api_keys::deleted_at.is_null().or(any))
            .select(KeyRow::as_select());
        let found = self
            .pool
            .statement(async |connection| query.get_result(connection).await.optional())
            .await?
            .map_err(error::of_query)?;
        found.map(rows::key).transpose()
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

    async fn list(&self, filter: KeyFilter) -> Result<Vec<ApiKey>, StoreError> {
        let query = list_query(filter);
        let listed = self
            .pool
            .statement(async |connection| query.load::<KeyRow>(connection).await)
            .await?
            .map_err(error::of_query)?;
        listed.into_iter().map(rows::key).collect()
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
