//! The audit trail: writing, reading, pruning.
//!
//! A place in a chain is found inside the transaction of the change, where nobody else writes: the head is read, and the
//! entry that follows it is written, with the new head. Three statements, each by a primary key.

mod rows;

use async_trait::async_trait;
use diesel::{
    prelude::*,
    result::{DatabaseErrorKind, Error},
    sql_types::Binary,
    sqlite::{Sqlite, SqliteConnection},
};
use leadr_auth_domain::{
    AuditDraft, AuditEntry, AuditHash, ChainHead, ChainId, Checkpoint, LastPlace, Timestamp,
};
use leadr_auth_ports::{ActorFilter, AuditQuery, AuditStore, Pruned, StoreError};
use uuid::Uuid;

use self::rows::{CheckpointRow, EntryRow, HeadRow, Place};
use crate::{
    error,
    pool::{Done, Pool},
    rows::Id,
    schema::{audit_checkpoints, audit_entries, audit_heads},
};

#[derive(Clone)]
pub(crate) struct Audit(pub(crate) Pool);

diesel::define_sql_function! {
    /// How many bytes there are.
    fn length(bytes: Binary) -> BigInt;
}

/// As many bytes as a chain's id has. A row with more or fewer belongs to no chain: it is passed over, and missing where it
/// was. Otherwise a list could not go on from it.
const ID_BYTES: i64 = 16;

/// As a column has it.
const LAST_SEQ: i64 = LastPlace::MAX_SEQ.cast_signed();

impl From<ChainId> for Id {
    fn from(chain: ChainId) -> Self {
        Self(chain.as_uuid())
    }
}

/// Gives an entry its place, and writes it, in the transaction that is open: that of the change which it tells of.
///
/// What somebody has made of the rows of a chain does not keep an entry from being written; it shows.
pub(crate) fn append(connection: &mut SqliteConnection, draft: &AuditDraft) -> QueryResult<()> {
    let chain = Id::from(draft.chain);
    let head = audit_heads::table
        .find(chain)
        .select(HeadRow::as_select())
        .get_result(connection)
        .optional()?
        .map(HeadRow::into_head);
    if let Some(head) = head.filter(|head| draft.can_follow(head)) {
        let (entry, head) = draft.clone().seal(&head);
        if insert(connection, &entry, &head)? {
            return Ok(());
        }
        // Somebody has put an entry there.
    }
    let (entry, head) = draft
        .clone()
        .seal_after(last_place(connection, chain, head.as_ref())?);
    if insert(connection, &entry, &head)? {
        return Ok(());
    }
    Err(Error::QueryBuilderError(
        "the audit trail takes no entry".into(),
    ))
}

/// Writes an entry and the chain's new end, if the entry's place is free.
fn insert(
    connection: &mut SqliteConnection,
    entry: &AuditEntry,
    head: &ChainHead,
) -> QueryResult<bool> {
    let seq = to_store(entry.seq)?;
    let client = entry.origin.client.map(|client| client.to_string());
    let written = diesel::insert_into(audit_entries::table)
        .values(rows::entry_row(entry, seq, client.as_deref()))
        .execute(connection);
    match written {
        Ok(_) => {}
        // It has undone itself, and nothing else of the transaction.
        Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => return Ok(false),
        Err(error) => return Err(error),
    }
    // Diesel prepares an upsert anew each time, and this one once. It replaces all there is of the row.
    diesel::replace_into(audit_heads::table)
        .values(rows::head_row(head, seq))
        .execute(connection)?;
    Ok(true)
}

fn to_store(seq: u64) -> QueryResult<i64> {
    i64::try_from(seq).map_err(|error| Error::SerializationError(error.into()))
}

/// The entry of the greatest number up to `most`.
fn newest(
    connection: &mut SqliteConnection,
    chain: Id,
    most: i64,
) -> QueryResult<Option<LastPlace>> {
    let newest: Option<Place> = audit_entries::table
        .filter(audit_entries::chain.eq(chain))
        .filter(audit_entries::seq.le(most))
        .order(audit_entries::seq.desc())
        .select(Place::as_select())
        .first(connection)
        .optional()?;
    Ok(newest.map(Place::into_last))
}

/// The last place of which there is a trace, and which another can follow.
fn last_place(
    connection: &mut SqliteConnection,
    chain: Id,
    head: Option<&ChainHead>,
) -> QueryResult<Option<LastPlace>> {
    let checkpoint = audit_checkpoints::table
        .find(chain)
        .select(CheckpointRow::as_select())
        .get_result(connection)
        .optional()?
        .map(CheckpointRow::into_checkpoint);
    let traces = [
        head.map(|head| LastPlace {
            seq: head.seq,
            hash: head.hash,
        }),
        checkpoint.map(|checkpoint| LastPlace {
            seq: checkpoint.seq,
            hash: checkpoint.hash,
        }),
        newest(connection, chain, i64::MAX)?,
        // Where somebody has put the last of all numbers, which none can follow.
        newest(connection, chain, LAST_SEQ)?,
    ];
    let beginning = LastPlace {
        seq: 0,
        hash: AuditHash::NONE,
    };
    // There is a trace, though none that could be followed: it is not a chain of which there is nothing.
    let beginning = traces.iter().flatten().next().map(|_| beginning);
    let places = beginning.into_iter().chain(traces.into_iter().flatten());
    let followed = places.filter(|place| place.seq <= LastPlace::MAX_SEQ);
    Ok(followed.max_by_key(|place| place.seq))
}

type ListQuery = audit_entries::BoxedQuery<
    'static,
    Sqlite,
    diesel::dsl::SqlTypeOf<diesel::dsl::AsSelect<EntryRow, Sqlite>>,
>;

/// A number as a row may have it; one that none has is more than all.
fn bound(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// The entries that pass the query, in their order.
fn list_query(query: &AuditQuery) -> ListQuery {
    use audit_entries::{action, actor, actor_key_id, at, chain, key_id, seq};
    let mut list = audit_entries::table
        .select(EntryRow::as_select())
        .limit(query.limit.into())
        .into_boxed();
    list = match query.chain {
        Some(of) => list.filter(chain.eq(Id::from(of))).order(seq.desc()),
        None => {
            list.filter(length(chain).eq(ID_BYTES))
                .order((at.desc(), chain.desc(), seq.desc()))
        }
    };
    if let Some(after) = query.after {
        let (of, number) = (Id::from(after.chain), bound(after.seq));
        // As the first of all times is read whatever is before it; after any of that comes only what is before all of it.
        let time = if after.at == Timestamp::MIN {
            i64::MIN
        } else {
            after.at.unix_micros()
        };
        list = if query.chain.is_some() {
            list.filter(seq.lt(number))
        } else {
            let in_chain = chain.eq(of).and(seq.lt(number));
            let then = at.eq(time).and(chain.lt(of).or(in_chain));
            // The first says no more than the second, and is what the index begins by.
            list.filter(at.le(time)).filter(at.lt(time).or(then))
        };
    }
    if let Some(id) = query.key_id {
        list = list.filter(key_id.eq(Id::from(id)));
    }
    list = match query.actor {
        None => list,
        Some(ActorFilter::Key(id)) => list
            .filter(actor.eq(rows::KEY))
            .filter(actor_key_id.eq(Id::from(id))),
        Some(ActorFilter::Tool) => list.filter(actor.eq(rows::TOOL)),
        Some(ActorFilter::Server) => list.filter(actor.eq(rows::SERVER)),
    };
    if let Some(wanted) = query.action {
        list = list.filter(action.eq(wanted.as_str()));
    }
    if let Some(since) = query.since {
        list = list.filter(at.ge(since.unix_micros()));
    }
    if let Some(until) = query.until {
        list = list.filter(at.lt(until.unix_micros()));
    }
    list
}

/// Answers how many entries were taken away.
fn prune_chain(connection: &mut SqliteConnection, upto: &Checkpoint) -> QueryResult<u64> {
    let (chain, seq) = (Id::from(upto.chain), to_store(upto.seq)?);
    let present: Option<i64> = audit_checkpoints::table
        .find(chain)
        .select(audit_checkpoints::seq)
        .first(connection)
        .optional()?;
    if present.is_some_and(|present| present >= seq) {
        return Ok(0);
    }
    let going = audit_entries::table
        .filter(audit_entries::chain.eq(chain))
        .filter(audit_entries::seq.le(seq));
    let gone = diesel::delete(going).execute(connection)?;
    if gone > 0 {
        diesel::replace_into(audit_checkpoints::table)
            .values(rows::checkpoint_row(upto, seq))
            .execute(connection)?;
    }
    u64::try_from(gone).map_err(|error| Error::DeserializationError(error.into()))
}

#[async_trait]
impl AuditStore for Audit {
    async fn append(&self, entry: &AuditDraft) -> Result<(), StoreError> {
        let entry = entry.clone();
        let written = self
            .0
            .write(move |connection| append(connection, &entry).map(Done::unheard));
        written.await?.map_err(error::of_query)
    }

    async fn list(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let query = *query;
        let listed = self
            .0
            .trail(move |connection| list_query(&query).load::<EntryRow>(connection))
            .await?;
        Ok(listed.into_iter().map(EntryRow::into_entry).collect())
    }

    async fn prune(&self, upto: &[Checkpoint], entry: &AuditDraft) -> Result<Pruned, StoreError> {
        let (upto, entry) = (upto.to_vec(), entry.clone());
        let pruned = self.0.write_much(move |connection| {
            let mut pruned = Pruned::default();
            for checkpoint in &upto {
                let gone = prune_chain(connection, checkpoint)?;
                pruned.chains += u64::from(gone > 0);
                pruned.entries += gone;
            }
            if pruned.entries > 0 {
                append(connection, &entry)?;
            }
            Ok(Done::unheard(pruned))
        });
        pruned.await?.map_err(error::of_query)
    }
}

/// The next entries in the order of the chains, then of the numbers. What is left of a chain is asked for by itself, so that
/// a long one is not gone along from its beginning for every page of it.
pub(crate) fn entries_after(
    connection: &mut SqliteConnection,
    after: Option<(ChainId, u64)>,
    limit: u32,
) -> QueryResult<Vec<AuditEntry>> {
    use audit_entries::{chain, seq, table};
    let mut limit = i64::from(limit);
    let mut page: Vec<EntryRow> = Vec::new();
    if let Some((of, number)) = after {
        page = table
            .filter(chain.eq(Id::from(of)))
            .filter(seq.gt(bound(number)))
            .order(seq)
            .limit(limit)
            .select(EntryRow::as_select())
            .load(connection)?;
        let got = i64::try_from(page.len()).unwrap_or(i64::MAX);
        limit = limit.saturating_sub(got);
    }
    if limit > 0 {
        let rest = table
            .filter(chain.gt(bytes_of(after.map(|(of, _)| of))))
            .filter(length(chain).eq(ID_BYTES))
            .order((chain, seq))
            .limit(limit)
            .select(EntryRow::as_select())
            .load(connection)?;
        page.extend(rest);
    }
    Ok(page.into_iter().map(EntryRow::into_entry).collect())
}

/// The next chains' ends, in the order of the chains.
pub(crate) fn heads_after(
    connection: &mut SqliteConnection,
    after: Option<ChainId>,
    limit: u32,
) -> QueryResult<Vec<ChainHead>> {
    let page: Vec<HeadRow> = audit_heads::table
        .filter(audit_heads::chain.gt(bytes_of(after)))
        .filter(length(audit_heads::chain).eq(ID_BYTES))
        .order(audit_heads::chain)
        .limit(limit.into())
        .select(HeadRow::as_select())
        .load(connection)?;
    Ok(page.into_iter().map(HeadRow::into_head).collect())
}

/// The next records of what was pruned, in the order of the chains.
pub(crate) fn checkpoints_after(
    connection: &mut SqliteConnection,
    after: Option<ChainId>,
    limit: u32,
) -> QueryResult<Vec<Checkpoint>> {
    let page: Vec<CheckpointRow> = audit_checkpoints::table
        .filter(audit_checkpoints::chain.gt(bytes_of(after)))
        .filter(length(audit_checkpoints::chain).eq(ID_BYTES))
        .order(audit_checkpoints::chain)
        .limit(limit.into())
        .select(CheckpointRow::as_select())
        .load(connection)?;
    Ok(page
        .into_iter()
        .map(CheckpointRow::into_checkpoint)
        .collect())
}

/// The id's bytes; or none, which come before all ids.
fn bytes_of(chain: Option<ChainId>) -> Vec<u8> {
    let uuid: Option<Uuid> = chain.map(ChainId::as_uuid);
    uuid.map_or(Vec::new(), |uuid| uuid.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use leadr_auth_ports::contract::fixtures::{account, audit_lists};

    use super::*;
    use crate::plans::plan;

    #[test]
    fn the_list_of_a_chain_goes_by_the_primary_key() {
        for chain in [ChainId::System, ChainId::Account(account(1).id)] {
            for list in audit_lists(Some(chain)) {
                let range = match list.after {
                    None => "chain=?",
                    Some(_) => "chain=? AND seq<?",
                };
                assert_eq!(
                    plan(&list_query(&list)),
                    format!(
                        "SEARCH audit_entries USING INDEX sqlite_autoindex_audit_entries_1 ({range})"
                    ),
                    "{list:?}"
                );
            }
        }
    }

    /// A page is read from the index in the index's order, so that reading ends with the page. From where to where, is
    /// taken from the times.
    #[test]
    fn the_list_of_all_chains_comes_sorted_from_the_index_of_times() {
        for list in audit_lists(None) {
            let is_before = list.until.is_some() || list.after.is_some();
            let (how, range) = match (list.since.is_some(), is_before) {
                (false, false) => ("SCAN", ""),
                (false, true) => ("SEARCH", " (at<?)"),
                (true, false) => ("SEARCH", " (at>?)"),
                (true, true) => ("SEARCH", " (at>? AND at<?)"),
            };
            assert_eq!(
                plan(&list_query(&list)),
                format!("{how} audit_entries USING INDEX audit_entries_by_time{range}"),
                "{list:?}"
            );
        }
    }
}
