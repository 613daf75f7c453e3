//! Which server secrets the stored keys are hashed under.

use std::convert::Infallible;

use async_trait::async_trait;
use diesel::{
    dsl::count_star,
    pg::{Pg, data_types::PgTimestamp},
    prelude::*,
    query_builder::{Query, QueryFragment, QueryId},
    sql_types::{Array, Untyped, Uuid as SqlUuid, Varchar},
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl};
use leadr_auth_domain::{ApiKey, AuditDraft, ChainHead, KeyId, PepperId, Timestamp};
use leadr_auth_ports::{
    Audited, DropPepperError, PepperUse, Rehash, SecretRegistry, StoreError, StoredPepper,
};
use uuid::Uuid;

use crate::{
    audit::{self, Heads},
    error::{self, Stop},
    pool::Pool,
    rows::{self, KeyRow, PepperRow},
    schema::{api_keys, peppers},
};

#[derive(Clone)]
pub(crate) struct Secrets(pub(crate) Pool, pub(crate) Heads);

/// Is a key neither deleted nor expired? Then its secret is needed, or could be again.
#[diesel::dsl::auto_type(no_type_alias)]
fn usable(now: PgTimestamp) -> _ {
    api_keys::deleted_at.is_null().and(
        api_keys::expires_at
            .is_null()
            .or(api_keys::expires_at.gt(now)),
    )
}

/// What keeps a secret from being given up.
enum Kept {
    /// Keys depend on it: so many, of which these are the first.
    InUse { count: i64, first: Vec<ApiKey> },
    /// No other has the key of the audit trail.
    LastWithAuditKey,
}

/// Holds off whoever writes keys, until the transaction ends; who reads them is not held up.
///
/// An insert or a new hash takes a weaker lock on the table for as long as its transaction lasts. So those who came before
/// are waited for, and what they stored is seen by the next statement; and those who come after wait, and look at the
/// secrets only when they may go on, since a statement's view is taken when it has its locks.
const HOLD_OFF_WRITERS: &str = "LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE";

/// The ids of those that have the key of the audit trail and were not dropped. Only a drop takes one away, and those wait
/// for each other.
async fn holders_of_audit_key(connection: &mut AsyncPgConnection) -> QueryResult<Vec<String>> {
    peppers::table
        .filter(peppers::dropped_at.is_null())
        .filter(peppers::audit_key.is_not_null())
        .select(peppers::id)
        .load(connection)
        .await
}

/// Gives a secret up, where no key depends on it, and it is not the only one that the trail's key can be read with.
async fn drop_unused(
    connection: &mut AsyncPgConnection,
    id: &PepperId,
    now: PgTimestamp,
    entry: &AuditDraft,
) -> Result<Vec<ChainHead>, Stop<Kept>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "Diesel has no words for locking a table"
    )]
    let lock = diesel::sql_query(HOLD_OFF_WRITERS);
    lock.execute(connection).await?;
    peppers::table
        .find(id.as_str())
        .select(peppers::id)
        .get_result::<String>(connection)
        .await
        .optional()?
        .ok_or(Stop::NotFound)?;
    let dependent = api_keys::table
        .filter(api_keys::pepper_id.eq(id.as_str()))
        .filter(usable(now));
    let count: i64 = dependent.count().get_result(connection).await?;
    if count > 0 {
        let first: Vec<KeyRow> = dependent
            .order(api_keys::id)
            .limit(i64::from(DropPepperError::LISTED))
            .select(KeyRow::as_select())
            .load(connection)
            .await?;
        let first = first.into_iter().map(rows::key);
        return Err(Stop::Refused(Kept::InUse {
            count,
            first: first.collect::<Result<_, _>>()?,
        }));
    }
    if holders_of_audit_key(connection).await? == [id.as_str()] {
        return Err(Stop::Refused(Kept::LastWithAuditKey));
    }
    let kept = peppers::table
        .find(id.as_str())
        .filter(peppers::dropped_at.is_null());
    let dropped = diesel::update(kept)
        .set((
            peppers::dropped_at.eq(now),
            peppers::audit_key.eq(None::<String>),
        ))
        .execute(connection)
        .await?;
    if dropped == 0 {
        return Ok(Vec::new());
    }
    audit::append_all(connection, &[entry]).await
}

/// Holds off whoever registers or drops a secret, until the transaction ends; who reads them is not held up.
const HOLD_OFF_REGISTRARS: &str = "LOCK TABLE peppers IN SHARE ROW EXCLUSIVE MODE";

async fn registered(connection: &mut AsyncPgConnection) -> QueryResult<Vec<PepperRow>> {
    peppers::table
        .select(PepperRow::as_select())
        .load(connection)
        .await
}

/// Registers a secret, or gives it the trail's key, where either is to be done.
async fn register(
    connection: &mut AsyncPgConnection,
    pepper: &StoredPepper,
    founding: bool,
    entry: &AuditDraft,
) -> Result<(Vec<StoredPepper>, Vec<ChainHead>), Stop<Infallible>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "Diesel has no words for locking a table"
    )]
    let lock = diesel::sql_query(HOLD_OFF_REGISTRARS);
    lock.execute(connection).await?;
    let there = rows::peppers(registered(connection).await?);
    if founding && there.iter().any(|stored| stored.audit_key.is_some()) {
        return Ok((there, Vec::new()));
    }
    let row = rows::pepper_row(pepper);
    match there.iter().find(|stored| stored.id == pepper.id) {
        None => {
            diesel::insert_into(peppers::table)
                .values(row)
                .execute(connection)
                .await?;
        }
        Some(stored)
            if stored.check.expose_hex() == pepper.check.expose_hex()
                && stored.dropped_at.is_none()
                && stored.audit_key.is_none()
                && pepper.audit_key.is_some() =>
        {
            diesel::update(peppers::table.find(pepper.id.as_str()))
                .set(peppers::audit_key.eq(row.audit_key))
                .execute(connection)
                .await?;
        }
        Some(_) => return Ok((there, Vec::new())),
    }
    let heads = audit::append_all(connection, &[entry]).await?;
    let there = rows::peppers(registered(connection).await?);
    Ok((there, heads))
}

/// Takes secrets as they are, each where none has its id. Answers all secrets.
pub(crate) async fn import(
    connection: &mut AsyncPgConnection,
    secrets: &[Audited<StoredPepper>],
) -> Result<(Vec<StoredPepper>, Vec<ChainHead>), Stop<Infallible>> {
    let mut entries = Vec::new();
    for Audited { record, entry } in secrets {
        let taken = diesel::insert_into(peppers::table)
            .values(rows::pepper_row(record))
            .on_conflict_do_nothing()
            .execute(connection)
            .await?;
        if taken > 0 {
            entries.extend(entry);
        }
    }
    let heads = audit::append_all(connection, &entries).await?;
    let all = rows::peppers(registered(connection).await?);
    Ok((all, heads))
}

fn of_drop(stop: Stop<Kept>) -> DropPepperError {
    match stop {
        Stop::Query(error) => error::of_query(error).into(),
        Stop::Store(error) => error.into(),
        Stop::NotFound => DropPepperError::NotRegistered,
        Stop::Refused(Kept::InUse { count, first }) => match u64::try_from(count) {
            Ok(count) => DropPepperError::InUse { count, first },
            Err(error) => StoreError::internal(error).into(),
        },
        Stop::Refused(Kept::LastWithAuditKey) => DropPepperError::LastWithAuditKey,
    }
}

/// Rows are locked in the order of their ids before any is written, as where uses are recorded: the two never wait each for
/// the other. A row that somebody gave another hash while this one waited is judged again as it is then, and left alone.
const REHASH: &str = "\
WITH locked AS (
    SELECT api_keys.id, named.becomes, named.pepper_id
    FROM unnest($1, $2, $3, $4) AS named (key_id, was, becomes, pepper_id)
        JOIN api_keys ON api_keys.id = named.key_id
    WHERE api_keys.key_hash = named.was
        AND NOT EXISTS (
            SELECT 1 FROM peppers WHERE peppers.id = named.pepper_id AND peppers.dropped_at IS NOT NULL
        )
    ORDER BY api_keys.id
    FOR NO KEY UPDATE OF api_keys
)
UPDATE api_keys SET key_hash = locked.becomes, pepper_id = locked.pepper_id
FROM locked
WHERE api_keys.id = locked.id
RETURNING api_keys.id, api_keys.pepper_id";

/// A key that was hashed anew, and the secret that it is under now.
#[derive(QueryableByName)]
struct Moved {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Varchar)]
    pepper_id: String,
}

pub(crate) fn rehash_query(
    keys: &[Rehash],
) -> impl Query<SqlType = Untyped> + QueryFragment<Pg> + QueryId + Send + use<> {
    let ids: Vec<_> = keys.iter().map(|key| key.key_id.as_uuid()).collect();
    let texts = |text: fn(&Rehash) -> &str| -> Vec<String> {
        keys.iter().map(|key| text(key).to_owned()).collect()
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "Diesel has no words for unnest, for an update from a subquery, or for locking in order"
    )]
    let query = diesel::sql_query(REHASH);
    query
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Varchar>, _>(texts(|key| key.was.expose_hex()))
        .bind::<Array<Varchar>, _>(texts(|key| key.becomes.hash.expose_hex()))
        .bind::<Array<Varchar>, _>(texts(|key| key.becomes.pepper_id.as_str()))
}

/// Hashes keys anew, and writes down which were.
async fn rehash(
    connection: &mut AsyncPgConnection,
    keys: &[Rehash],
    entry: &AuditDraft,
) -> Result<(usize, Vec<ChainHead>), Stop<Infallible>> {
    let moved: Vec<Moved> = rehash_query(keys).load(connection).await?;
    let moved = moved.into_iter().map(|Moved { id, pepper_id }| {
        let pepper_id = PepperId::from_store(pepper_id);
        (KeyId::new(id), pepper_id)
    });
    let moved: Vec<_> = moved.collect();
    let entries = entry.rehashed(moved.iter().map(|(id, pepper_id)| (*id, pepper_id)));
    let entries: Vec<_> = entries.iter().collect();
    let ends = audit::append_all(connection, &entries).await?;
    Ok((moved.len(), ends))
}

#[async_trait]
impl SecretRegistry for Secrets {
    async fn registered(&self) -> Result<Vec<StoredPepper>, StoreError> {
        let registered = self
            .0
            .statement(async |connection| registered(connection).await)
            .await?
            .map_err(error::of_query)?;
        Ok(rows::peppers(registered))
    }

    async fn register(
        &self,
        pepper: &StoredPepper,
        founding: bool,
        entry: &AuditDraft,
    ) -> Result<Vec<StoredPepper>, StoreError> {
        let Self(pool, heads) = self;
        let registered = pool
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| {
                        register(connection, pepper, founding, entry).await
                    })
                    .await
            })
            .await?;
        let (registered, ends) = registered?;
        heads.keep(ends);
        Ok(registered)
    }

    async fn count_keys(&self, now: Timestamp) -> Result<Vec<PepperUse>, StoreError> {
        let query = api_keys::table
            .filter(usable(rows::instant(now)))
            .group_by(api_keys::pepper_id)
            .select((api_keys::pepper_id, count_star()));
        let counted = self
            .0
            .statement(async |connection| query.load::<(String, i64)>(connection).await)
            .await?
            .map_err(error::of_query)?;
        let uses = counted.into_iter().map(|(id, keys)| {
            Ok(PepperUse {
                id: PepperId::from_store(id),
                keys: u64::try_from(keys).map_err(StoreError::internal)?,
            })
        });
        let mut uses = uses.collect::<Result<Vec<_>, StoreError>>()?;
        // The server's order is that of its locale.
        uses.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(uses)
    }

    async fn drop_pepper(
        &self,
        id: &PepperId,
        now: Timestamp,
        entry: &AuditDraft,
    ) -> Result<(), DropPepperError> {
        let Self(pool, heads) = self;
        let now = rows::instant(now);
        let dropped = pool
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| drop_unused(connection, id, now, entry).await)
                    .await
            })
            .await?;
        heads.keep(dropped.map_err(of_drop)?);
        Ok(())
    }

    async fn rehash(&self, keys: &[Rehash], entry: &AuditDraft) -> Result<u64, StoreError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let Self(pool, heads) = self;
        let rehashed = pool
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| rehash(connection, keys, entry).await)
                    .await
            })
            .await?;
        let (done, ends) = rehashed?;
        heads.keep(ends);
        u64::try_from(done).map_err(StoreError::internal)
    }
}
