//! Keys: the lookup of the hot path, and their management.

use async_trait::async_trait;
use diesel::{
    IntoSql as _,
    dsl::exists,
    prelude::*,
    sql_types::Bool,
    sqlite::{Sqlite, SqliteConnection},
};
use leadr_auth_domain::{AccountId, ApiKey, ApiKeyStatus, AuditDraft, KeyId, KeyPrefix, KeyRecord};
use leadr_auth_ports::{
    Audited, Change, CreateKeyError, KeyChangeFn, KeyFilter, KeyLookup, KeyRepository, Rows,
    StoreError, UpdateKeyError,
};

use crate::{
    audit,
    error::{Stop, Violation},
    pool::{Done, Pool},
    rows::{self, AccountRow, Id, KeyChanges, KeyRow},
    schema::{accounts, api_keys},
    secrets,
};

#[derive(Clone)]
pub(crate) struct Keys(pub(crate) Pool);

/// The key with this prefix and its account.
#[diesel::dsl::auto_type(no_type_alias)]
pub(crate) fn find_query<'a>(prefix: &'a str) -> _ {
    let columns: diesel::dsl::AsSelect<(KeyRow, AccountRow), Sqlite> =
        <(KeyRow, AccountRow)>::as_select();
    api_keys::table
        .inner_join(accounts::table)
        .filter(api_keys::key_prefix.eq(prefix))
        .select(columns)
}

type ListQuery = api_keys::BoxedQuery<
    'static,
    Sqlite,
    diesel::dsl::SqlTypeOf<diesel::dsl::AsSelect<KeyRow, Sqlite>>,
>;

/// The live keys that pass the filter, in their order.
fn list_query(filter: KeyFilter) -> ListQuery {
    let mut query = api_keys::table
        .select(KeyRow::as_select())
        .filter(api_keys::account_id.eq(Id::from(filter.account_id)))
        .filter(api_keys::deleted_at.is_null())
        .order((api_keys::created_at.desc(), api_keys::id.desc()))
        .into_boxed();
    if let Some(status) = filter.status {
        query = query.filter(api_keys::status.eq(status.as_str()));
    }
    if filter.active_only {
        query = query.filter(api_keys::status.ne(ApiKeyStatus::Revoked.as_str()));
    }
    query
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
    if let (Some(_), Some(entry)) = (&stored, entry) {
        audit::append(connection, entry)?;
    }
    Ok(match stored {
        Some(row) => Done::changing([rows::change_of_key(&row.key_prefix)], Swap::Done(row)),
        None => Done::unheard(find(connection, id)?.map_or(Swap::Gone, Swap::Moved)),
    })
}

#[async_trait]
impl KeyLookup for Keys {
    async fn find(&self, prefix: &KeyPrefix) -> Result<Option<KeyRecord>, StoreError> {
        let prefix = prefix.clone();
        let found = self
            .0
            .lookup(move |connection| {
                find_query(prefix.as_str())
                    .get_result::<(KeyRow, AccountRow)>(connection)
                    .optional()
            })
            .await?;
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
    async fn create(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        let (key, entry) = (key.clone(), entry.clone());
        let created = self.0.write(move |connection| {
            insert(connection, &key)?;
            audit::append(connection, &entry)?;
            Ok::<_, Stop>(Done::changing([Change::Key(key.key_prefix)], ()))
        });
        Ok(created.await??)
    }

    /// Everything that is made is told of here.
    async fn adopt(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        self.create(key, entry).await
    }

    async fn get(&self, id: KeyId, rows: Rows) -> Result<Option<ApiKey>, StoreError> {
        let any = (rows == Rows::WithDeleted).into_sql::<Bool>();
        let query = api_keys::table
            .find(Id::from(id))
            .filter(api_keys::deleted_at.is_null().or(any))
            .select(KeyRow::as_select());
        let found = self
            .0
            .row(move |connection| query.get_result(connection).optional())
            .await?;
        found.map(rows::key).transpose()
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

    async fn list(&self, filter: KeyFilter) -> Result<Vec<ApiKey>, StoreError> {
        let listed = self
            .0
            .read(move |connection| list_query(filter).load::<KeyRow>(connection))
            .await?;
        listed.into_iter().map(rows::key).collect()
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
    use leadr_auth_ports::contract::fixtures::account;

    use super::*;
    use crate::plans::plan;

    #[test]
    fn a_lookup_goes_by_its_index() {
        let plan = plan(&find_query("ldr_a"));
        assert!(
            plan.contains("SEARCH api_keys USING INDEX ix_api_keys_key_prefix"),
            "{plan}"
        );
        assert!(!plan.contains("SCAN"), "{plan}");
    }

    #[test]
    fn a_list_comes_sorted_from_its_index() {
        let all = KeyFilter::of(account(1).id);
        let filters = [
            all,
            KeyFilter {
                status: Some(ApiKeyStatus::Active),
                ..all
            },
            KeyFilter {
                active_only: true,
                ..all
            },
        ];
        for filter in filters {
            let plan = plan(&list_query(filter));
            assert!(
                plan.contains("SEARCH api_keys USING INDEX api_keys_live_by_account"),
                "{plan}"
            );
            assert!(
                !plan.contains("SCAN") && !plan.contains("TEMP B-TREE"),
                "{plan}"
            );
        }
    }
}
