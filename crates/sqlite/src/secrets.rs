//! Which server secrets the keys are hashed under.

use std::collections::BTreeSet;

use async_trait::async_trait;
use diesel::{
    dsl::{count_star, exists},
    prelude::*,
    sqlite::SqliteConnection,
};
use leadr_auth_domain::{AuditDraft, PepperId, SealedAuditKey, Timestamp};
use leadr_auth_ports::{
    Audited, DropPepperError, PepperUse, Rehash, SecretRegistry, StoreError, StoredPepper,
};

use crate::{
    audit, error,
    pool::{Done, Pool},
    rows::{self, Id, KeyRow, PepperRow},
    schema::{api_keys, peppers},
};

#[derive(Clone)]
pub(crate) struct Secrets(pub(crate) Pool);

/// All secrets, dropped ones too. Texts are compared byte by byte, so they have the order of the ids.
pub(crate) fn registered(connection: &mut SqliteConnection) -> QueryResult<Vec<PepperRow>> {
    peppers::table
        .order(peppers::id)
        .select(PepperRow::as_select())
        .load(connection)
}

/// Was this secret dropped? Of use in a write only, where nobody else can drop it before what follows is written.
pub(crate) fn is_dropped(connection: &mut SqliteConnection, id: &str) -> QueryResult<bool> {
    let dropped = peppers::table
        .find(id)
        .filter(peppers::dropped_at.is_not_null());
    diesel::select(exists(dropped)).get_result(connection)
}

/// The keys that work or could work again at the time `now`.
#[diesel::dsl::auto_type(no_type_alias)]
fn usable(now: i64) -> _ {
    let unexpired = api_keys::expires_at
        .is_null()
        .or(api_keys::expires_at.gt(now));
    api_keys::table
        .filter(api_keys::deleted_at.is_null())
        .filter(unexpired)
}

/// The ids of those that have the key of the audit trail and were not dropped. Of use in a write only, as above.
fn holders_of_audit_key(connection: &mut SqliteConnection) -> QueryResult<Vec<String>> {
    peppers::table
        .filter(peppers::dropped_at.is_null())
        .filter(peppers::audit_key.is_not_null())
        .select(peppers::id)
        .load(connection)
}

/// What came of an attempt to give up a secret.
enum Outcome {
    /// It is given up, or was before.
    Done,
    /// It is not registered.
    Unknown,
    /// So many keys depend on it, of which these are the first.
    InUse(i64, Vec<KeyRow>),
    /// No other has the key of the audit trail.
    LastWithAuditKey,
}

fn drop_where_unused(
    connection: &mut SqliteConnection,
    id: &PepperId,
    now: Timestamp,
    entry: &AuditDraft,
) -> QueryResult<Outcome> {
    let (id, now) = (id.as_str(), now.unix_micros());
    let pepper = peppers::table.find(id);
    if !diesel::select(exists(pepper)).get_result(connection)? {
        return Ok(Outcome::Unknown);
    }
    let dependent = usable(now).filter(api_keys::pepper_id.eq(id));
    let first: Vec<KeyRow> = dependent
        .order(api_keys::id)
        .limit(DropPepperError::LISTED.into())
        .select(KeyRow::as_select())
        .load(connection)?;
    if !first.is_empty() {
        let count = dependent.count().get_result(connection)?;
        return Ok(Outcome::InUse(count, first));
    }
    if holders_of_audit_key(connection)? == [id] {
        return Ok(Outcome::LastWithAuditKey);
    }
    let dropped = diesel::update(pepper.filter(peppers::dropped_at.is_null()))
        .set((
            peppers::dropped_at.eq(now),
            peppers::audit_key.eq(None::<String>),
        ))
        .execute(connection)?;
    if dropped > 0 {
        audit::append(connection, entry)?;
    }
    Ok(Outcome::Done)
}

/// Registers a secret, or gives the one that is there the trail's key. Answers whether either was done.
fn register(
    connection: &mut SqliteConnection,
    given: &StoredPepper,
    founding: bool,
) -> QueryResult<bool> {
    let with_key = peppers::table.filter(peppers::audit_key.is_not_null());
    if founding && diesel::select(exists(with_key)).get_result(connection)? {
        return Ok(false);
    }
    let inserted = diesel::insert_into(peppers::table)
        .values(rows::pepper_row(given))
        .on_conflict_do_nothing()
        .execute(connection)?;
    if inserted > 0 {
        return Ok(true);
    }
    let Some(key) = &given.audit_key else {
        return Ok(false);
    };
    let without_key = peppers::table
        .find(given.id.as_str())
        .filter(peppers::check_value.eq(given.check.expose_hex()))
        .filter(peppers::dropped_at.is_null())
        .filter(peppers::audit_key.is_null());
    let gained = diesel::update(without_key)
        .set(peppers::audit_key.eq(SealedAuditKey::as_str(key)))
        .execute(connection)?;
    Ok(gained > 0)
}

/// Takes secrets as they are, each where none has its id. Answers all secrets.
pub(crate) fn import(
    connection: &mut SqliteConnection,
    secrets: &[Audited<StoredPepper>],
) -> QueryResult<Vec<PepperRow>> {
    for Audited { record, entry } in secrets {
        let taken = diesel::insert_into(peppers::table)
            .values(rows::pepper_row(record))
            .on_conflict_do_nothing()
            .execute(connection)?;
        if let (1, Some(entry)) = (taken, entry) {
            audit::append(connection, entry)?;
        }
    }
    registered(connection)
}

#[async_trait]
impl SecretRegistry for Secrets {
    async fn registered(&self) -> Result<Vec<StoredPepper>, StoreError> {
        let registered = self.0.read(registered).await?;
        Ok(registered.into_iter().map(rows::pepper).collect())
    }

    async fn register(
        &self,
        pepper: &StoredPepper,
        founding: bool,
        entry: &AuditDraft,
    ) -> Result<Vec<StoredPepper>, StoreError> {
        let (pepper, entry) = (pepper.clone(), entry.clone());
        let answered = self.0.write(move |connection| {
            if register(connection, &pepper, founding)? {
                audit::append(connection, &entry)?;
            }
            // A secret by itself is of no key's.
            registered(connection).map(Done::unheard)
        });
        let answered = answered.await?.map_err(error::of_query)?;
        Ok(answered.into_iter().map(rows::pepper).collect())
    }

    async fn count_keys(&self, now: Timestamp) -> Result<Vec<PepperUse>, StoreError> {
        let query = usable(now.unix_micros())
            .group_by(api_keys::pepper_id)
            .order(api_keys::pepper_id)
            .select((api_keys::pepper_id, count_star()));
        let counted = self
            .0
            .read(move |connection| query.load::<(String, i64)>(connection))
            .await?;
        let of_one = |(id, keys): (String, i64)| PepperUse {
            id: PepperId::from_store(id),
            // A count is never negative.
            keys: keys.unsigned_abs(),
        };
        Ok(counted.into_iter().map(of_one).collect())
    }

    async fn drop_pepper(
        &self,
        id: &PepperId,
        now: Timestamp,
        entry: &AuditDraft,
    ) -> Result<(), DropPepperError> {
        let (id, entry) = (id.clone(), entry.clone());
        // It looks at every key.
        let dropped = self
            .0
            .write_much(move |connection| {
                // No key that could be good is under it.
                drop_where_unused(connection, &id, now, &entry).map(Done::unheard)
            })
            .await?
            .map_err(error::of_query)?;
        match dropped {
            Outcome::Done => Ok(()),
            Outcome::Unknown => Err(DropPepperError::NotRegistered),
            Outcome::LastWithAuditKey => Err(DropPepperError::LastWithAuditKey),
            Outcome::InUse(count, first) => {
                let first: Result<_, StoreError> = first.into_iter().map(rows::key).collect();
                Err(DropPepperError::InUse {
                    count: count.unsigned_abs(),
                    first: first?,
                })
            }
        }
    }

    /// Compares and swaps: a key that has got another hash since it was read keeps that.
    async fn rehash(&self, keys: &[Rehash], entry: &AuditDraft) -> Result<u64, StoreError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let (keys, entry) = (keys.to_vec(), entry.clone());
        let rehashed = self.0.write_much(move |connection| {
            let dropped: Vec<String> = peppers::table
                .filter(peppers::dropped_at.is_not_null())
                .select(peppers::id)
                .load(connection)?;
            let dropped: BTreeSet<_> = dropped.into_iter().map(PepperId::from_store).collect();
            let (mut moved, mut changes) = (Vec::new(), Vec::new());
            for Rehash {
                key_id,
                was,
                becomes,
            } in &keys
            {
                if dropped.contains(&becomes.pepper_id) {
                    continue;
                }
                let unchanged = api_keys::table
                    .find(Id::from(*key_id))
                    .filter(api_keys::key_hash.eq(was.expose_hex()));
                let updated = diesel::update(unchanged)
                    .set((
                        api_keys::key_hash.eq(becomes.hash.expose_hex()),
                        api_keys::pepper_id.eq(becomes.pepper_id.as_str()),
                    ))
                    .returning(api_keys::key_prefix)
                    .get_result::<String>(connection)
                    .optional()?;
                if let Some(prefix) = updated {
                    moved.push((*key_id, &becomes.pepper_id));
                    changes.push(rows::change_of_key(&prefix));
                }
            }
            let done = moved.len();
            for entry in entry.rehashed(moved) {
                audit::append(connection, &entry)?;
            }
            Ok(Done::changing(changes, done))
        });
        let done: usize = rehashed.await?.map_err(error::of_query)?;
        u64::try_from(done).map_err(StoreError::internal)
    }
}
