//! The audit trail: writing, reading, pruning.
//!
//! A place in a chain is found inside the transaction of the change, where nobody else writes: the head is read, and the
//! entry that follows it is written, with the new head. Three statements, each by a primary key.

mod rows;

use async_trait::async_trait;
use diesel::{
    dsl::{AsSelect, SqlTypeOf, sql},
    prelude::*,
    result::{DatabaseErrorKind, Error},
    sql_types::{BigInt, Binary, Bool},
    sqlite::{Sqlite, SqliteConnection},
};
use leadr_auth_domain::{
    AuditDraft, AuditEntry, AuditHash, ChainHead, ChainId, Checkpoint, LastPlace, Timestamp,
};
use leadr_auth_ports::{
    ActorFilter, AuditPlace, AuditQuery, AuditStore, Pruned, StoreError,
    listing::{Direction, Page, Period},
};
use uuid::Uuid;

use self::rows::{CheckpointRow, EntryRow, HeadRow, Place};
use crate::{
    error,
    listing::{self, Among, Paged},
    pool::{Done, Pool},
    rows::{Id, edge, nearest},
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

type Listed<Columns> = audit_entries::BoxedQuery<'static, Sqlite, Columns>;

/// Where an entry stands in every list.
type Standing = (audit_entries::at, audit_entries::chain, audit_entries::seq);

/// A number as a row may have it; one that none has is more than all.
fn bound(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// Whether an entry stands to a place in the list of all chains as `relation` says.
fn standing(relation: &str, place: &AuditPlace) -> Among<audit_entries::table> {
    let row = "(audit_entries.at, audit_entries.chain, audit_entries.seq)";
    Box::new(
        sql::<Bool>(&format!("{row} {relation} ("))
            .bind::<BigInt, _>(edge(place.at, Direction::Descending))
            .sql(", ")
            .bind::<Binary, _>(Id::from(place.chain))
            .sql(", ")
            .bind::<BigInt, _>(bound(place.seq))
            .sql(")"),
    )
}

/// The entries that the page may look at, in the list's order. In the list of all chains a span of time is where it begins and
/// ends, but where it goes on after a place, and ends at the horizon: SQLite would take the span for what it enters its index by.
fn candidates<Columns>(
    mut list: Listed<Columns>,
    query: &AuditQuery,
    horizon: Option<&AuditPlace>,
) -> Listed<Columns> {
    use audit_entries::{at, chain, seq};
    if let Some(of) = query.chain {
        list = list.filter(chain.eq(Id::from(of))).order(seq.desc());
        if let Some(after) = query.after {
            list = list.filter(seq.lt(bound(after.seq)));
        }
        if let Some(horizon) = horizon {
            list = list.filter(seq.ge(bound(horizon.seq)));
        }
        return list;
    }
    list = list
        .filter(length(chain).eq(ID_BYTES))
        .order((at.desc(), chain.desc(), seq.desc()));
    let is_passed = |until: &Timestamp| query.after.is_some_and(|after| after.at < *until);
    if let Some(until) = query.until.filter(|until| !is_passed(until)) {
        list = list.filter(at.lt(until.unix_micros()));
    } else if let Some(after) = query.after {
        list = list.filter(standing("<", &after));
    }
    if let Some(horizon) = horizon {
        list = list.filter(standing(">=", horizon));
    } else if let Some(since) = query.since {
        list = list.filter(at.ge(since.unix_micros()));
    }
    list
}

/// The `nth` of them, if there are so many.
fn horizon_query(query: &AuditQuery, nth: u32) -> Listed<SqlTypeOf<Standing>> {
    let all = audit_entries::table
        .select(Standing::default())
        .offset(i64::from(nth) - 1)
        .limit(1)
        .into_boxed();
    candidates(all, query, None)
}

/// The entries of a page and one more, up to the last one that is looked at.
fn page_query(
    query: &AuditQuery,
    horizon: Option<&AuditPlace>,
) -> Listed<SqlTypeOf<AsSelect<EntryRow, Sqlite>>> {
    use audit_entries::{action, actor, actor_key_id, key_id};
    let all = audit_entries::table
        .select(EntryRow::as_select())
        .limit(i64::from(query.limit) + 1)
        .into_boxed();
    let mut page = candidates(all, query, horizon);
    if let Some(id) = query.key_id {
        page = page.filter(key_id.eq(Id::from(id)));
    }
    page = match query.actor {
        None => page,
        Some(ActorFilter::Key(id)) => page
            .filter(actor.eq(rows::KEY))
            .filter(actor_key_id.eq(Id::from(id))),
        Some(ActorFilter::Tool) => page.filter(actor.eq(rows::TOOL)),
        Some(ActorFilter::Server) => page.filter(actor.eq(rows::SERVER)),
    };
    if let Some(wanted) = query.action {
        page = page.filter(action.eq(wanted.as_str()));
    }
    if query.chain.is_some() {
        // SQLite would look for a span of time in all chains.
        let (since, until) = (query.since, query.until);
        let at = listing::unsearched("audit_entries.at");
        for within in listing::lying_in(&at, Period { since, until }) {
            page = page.filter(within);
        }
    }
    page
}

impl Paged for AuditQuery {
    type Row = AuditEntry;
    type Place = AuditPlace;

    fn horizon(
        &self,
        connection: &mut SqliteConnection,
        nth: u32,
    ) -> QueryResult<Option<Self::Place>> {
        let last = horizon_query(self, nth).get_result::<(i64, Id, i64)>(connection);
        let place = |(at, Id(chain), seq)| AuditPlace {
            at: nearest(at),
            chain: ChainId::from_uuid(chain),
            seq: u64::try_from(seq).unwrap_or(0),
        };
        Ok(last.optional()?.map(place))
    }

    fn rows(
        &self,
        connection: &mut SqliteConnection,
        horizon: Option<&Self::Place>,
    ) -> QueryResult<Vec<Self::Row>> {
        let page: Vec<EntryRow> = page_query(self, horizon).load(connection)?;
        Ok(page.into_iter().map(EntryRow::into_entry).collect())
    }

    fn place(&self, row: &Self::Row) -> Self::Place {
        AuditPlace::of(row)
    }
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

    async fn page(&self, query: &AuditQuery) -> Result<Page<AuditEntry, AuditPlace>, StoreError> {
        let query = *query;
        let page = self.0.trail(move |connection| {
            listing::page(connection, &query, query.limit, query.looks_at())
        });
        page.await
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

    /// The plans of looking for how far a page looks, of a page to the end, and of one up to this place.
    fn plans(query: &AuditQuery, horizon: AuditPlace) -> [String; 3] {
        [
            plan(&horizon_query(query, 10)),
            plan(&page_query(query, None)),
            plan(&page_query(query, Some(&horizon))),
        ]
    }

    const FAR: AuditPlace = AuditPlace {
        at: Timestamp::MIN,
        chain: ChainId::System,
        seq: 1,
    };

    #[test]
    fn the_list_of_a_chain_goes_by_the_primary_key() {
        for chain in [ChainId::System, ChainId::Account(account(1).id)] {
            for list in audit_lists(Some(chain)) {
                let (to_the_end, to_there) = match list.after {
                    None => ("chain=?", "chain=? AND seq>?"),
                    Some(_) => ("chain=? AND seq<?", "chain=? AND seq>? AND seq<?"),
                };
                let expected = [to_the_end, to_the_end, to_there].map(|range| {
                    format!(
                        "SEARCH audit_entries USING INDEX sqlite_autoindex_audit_entries_1 ({range})"
                    )
                });
                assert_eq!(plans(&list, FAR), expected, "{list:?}");
            }
        }
    }

    /// A page is read from the index in the index's order, so that reading ends with the page. From where to where, is
    /// taken from the times; but where it goes on, and where it ends, from the places themselves.
    #[test]
    fn the_list_of_all_chains_comes_sorted_from_the_index_of_times() {
        const AFTER: &str = "(at,chain,seq)<(?,?,?)";
        const UP_TO: &str = "(at,chain,seq)>(?,?,?)";
        for list in audit_lists(None) {
            let begins = match (list.after, list.until) {
                (Some(_), _) => Some(AFTER),
                (None, Some(_)) => Some("at<?"),
                (None, None) => None,
            };
            let ends = list.since.map(|_| "at>?");
            let searched = |index: &str, ends: Option<&str>| {
                let range: Vec<_> = ends.into_iter().chain(begins).collect();
                if range.is_empty() {
                    format!("SCAN audit_entries USING {index}")
                } else {
                    let range = range.join(" AND ");
                    format!("SEARCH audit_entries USING {index} ({range})")
                }
            };
            let expected = [
                searched("COVERING INDEX audit_entries_by_time", ends),
                searched("INDEX audit_entries_by_time", ends),
                searched("INDEX audit_entries_by_time", Some(UP_TO)),
            ];
            assert_eq!(plans(&list, FAR), expected, "{list:?}");
        }
    }
}
