//! The audit trail: how an entry gets its place in its chain, and how the trail is read and pruned.
//!
//! # Who waits for whom
//!
//! Changes of one chain wait for one another at the row of its head; those of different chains do not. So that nobody ever
//! waits in a circle, all take their locks in this order: the records that they change first, then heads, and of several
//! heads those of lower UUIDs first. Keys that are issued are the exception (see `creation`): one statement moves the heads
//! of several chains, in any order, and then inserts the keys. It passes over a head or an account that is locked instead of
//! waiting for it, and a key that it inserts waits for nobody but another key of the same id or prefix, which are random. So
//! nobody waits for it who has something that it waits for.
//!
//! # Quick and slow
//!
//! What an entry says of its place (its number, the hash before it) is computed here and not by the server, since the
//! server does not have the key. So the head has to be known before the entry can be sent. It is, as a rule: each process
//! keeps the heads that it last saw ([`Heads`]), and sends an entry on the condition that the head is still that one,
//! which is one statement. Keys that are issued at once share one (see `creation`). Where the head is another (a node has
//! written meanwhile, or somebody tampered with it), it is locked and read.
//!
//! Of two of one process that wrote to a chain at once, one would always find the head to be another one. So they take turns,
//! each until its head is kept for the next. Nothing relies on it, and nobody waits for long: who has a turn may be waiting for
//! a lock of somebody who waits for the turn, which the server cannot know. Keys that are issued need no turns, since one
//! batch of them is written at a time.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use diesel::{
    dsl::{AsSelect, SqlTypeOf, sql},
    pg::{Pg, data_types::PgTimestamp},
    prelude::*,
    query_builder::{AstPass, QueryFragment, QueryId},
    sql_types::{
        Array, BigInt, Bool, Bytea, Nullable, Text, Timestamptz, Uuid as SqlUuid, Varchar,
    },
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl};
use leadr_auth_domain::{
    AuditDraft, AuditEntry, AuditHash, ChainHead, ChainId, Checkpoint, LastPlace, Timestamp,
};
use leadr_auth_ports::{
    ActorFilter, AuditPlace, AuditQuery, AuditStore, Pruned, StoreError,
    listing::{Direction, Page},
};
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use crate::{
    error::Stop,
    listing::{self, Among, Paged},
    pool::{self, Pool},
    rows::{self, EntryRow, HeadRow},
    schema::{audit_entries, audit_heads},
};

#[derive(Clone)]
pub(crate) struct Audit(pub(crate) Pool, pub(crate) Heads);

/// The heads that this process saw last: where most chains still end. Clones share them.
///
/// None is kept before its commit is known. One that is not true any more costs a statement that does nothing.
#[derive(Clone, Default)]
pub(crate) struct Heads(Arc<Mutex<HashMap<ChainId, Known>>>);

impl fmt::Debug for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heads").finish_non_exhaustive()
    }
}

/// What is known of a chain.
#[derive(Default)]
struct Known {
    head: Option<ChainHead>,
    /// Whoever writes to the chain has it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A chain's new head, to be kept when its commit is known. Until then nobody else of this process has a turn.
pub(crate) struct NewHead {
    head: ChainHead,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl From<ChainHead> for NewHead {
    fn from(head: ChainHead) -> Self {
        Self { head, _turn: None }
    }
}

impl Heads {
    /// How many are kept: some three megabytes of them.
    const MOST: usize = 10_000;

    /// How long to wait for a turn, for the writes of some hundred others.
    const PATIENCE: Duration = Duration::from_millis(100);

    fn with<R>(&self, work: impl FnOnce(&mut HashMap<ChainId, Known>) -> R) -> R {
        // What the lock guards is whole at any time, so a thread that panicked with it does no harm.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_known<R>(&self, chain: ChainId, work: impl FnOnce(&mut Known) -> R) -> R {
        self.with(|heads| {
            if heads.len() >= Self::MOST && !heads.contains_key(&chain) {
                heads.clear();
            }
            work(heads.entry(chain).or_default())
        })
    }

    /// Waits until nobody else of this process writes to a chain; or not, where that takes long.
    async fn turn(&self, chain: ChainId) -> Option<OwnedMutexGuard<()>> {
        let turn = self.with_known(chain, |known| Arc::clone(&known.turn));
        let turn = tokio::time::timeout(Self::PATIENCE, turn.lock_owned());
        turn.await.ok()
    }

    /// Where a chain ended, as far as is known.
    pub(crate) fn get(&self, chain: ChainId) -> Option<ChainHead> {
        self.with(|heads| heads.get(&chain)?.head)
    }

    /// Keeps heads that were committed, and ends the turns. Of two commits of this process the later may be told first.
    pub(crate) fn keep(&self, committed: impl IntoIterator<Item = impl Into<NewHead>>) {
        for new in committed {
            let NewHead { head, _turn } = new.into();
            self.with_known(head.chain, |known| {
                if known.head.is_none_or(|kept| kept.seq < head.seq) {
                    known.head = Some(head);
                }
            });
        }
    }

    /// Forgets a head that is not the chain's any more, so that one with a lower number can take its place: the database
    /// may be one that was restored from a backup.
    pub(crate) fn forget(&self, stale: &ChainHead) {
        self.with_known(stale.chain, |known| {
            known.head = known.head.filter(|kept| kept != stale);
        });
    }
}

/// One statement that writes an entry where the chain's head is still as it is known, and does nothing elsewhere.
///
/// That no entry is there already with the number, or beyond, sees to it that a head which somebody put back to an earlier
/// one is noticed, instead of making the entry collide with the one that was written then.
///
/// It is not a text for `sql_query`, which Diesel never prepares once for all: that costs a round trip with each use.
struct Quick {
    known: HeadRow,
    entry: EntryRow,
    head: HeadRow,
}

impl QueryId for Quick {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl diesel::RunQueryDsl<AsyncPgConnection> for Quick {}

/// Writes values into a statement, with commas before all but the first.
macro_rules! values {
    ($out:ident, $first_type:ty: $first:expr $(, $type:ty: $value:expr)* $(,)?) => {
        $out.push_bind_param::<$first_type, _>($first)?;
        $(
            $out.push_sql(", ");
            $out.push_bind_param::<$type, _>($value)?;
        )*
    };
}

impl QueryFragment<Pg> for Quick {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let Self { known, entry, head } = self;
        out.push_sql("WITH moved AS (UPDATE audit_heads SET (seq, hash, code) = (");
        values!(out, BigInt: &head.seq, Bytea: &head.hash, Bytea: &head.code);
        out.push_sql(") WHERE (chain, seq, hash, code) = (");
        values!(out, SqlUuid: &known.chain, BigInt: &known.seq, Bytea: &known.hash, Bytea: &known.code);
        out.push_sql(") AND NOT EXISTS (SELECT FROM audit_entries WHERE chain = ");
        out.push_bind_param::<SqlUuid, _>(&known.chain)?;
        out.push_sql(" AND seq > ");
        out.push_bind_param::<BigInt, _>(&known.seq)?;
        out.push_sql(")");
        out.push_sql(" RETURNING chain) ");
        out.push_sql(
            "INSERT INTO audit_entries (chain, seq, at, action, actor, actor_key_id, actor_account_id, request_id, client, \
             key_id, before, after, previous, hash) SELECT chain, ",
        );
        values!(
            out,
            BigInt: &entry.seq,
            Timestamptz: &entry.at,
            Varchar: &entry.action,
            Varchar: &entry.actor,
            Nullable<SqlUuid>: &entry.actor_key_id,
            Nullable<SqlUuid>: &entry.actor_account_id,
            Nullable<Varchar>: &entry.request_id,
            Nullable<Varchar>: &entry.client,
            Nullable<SqlUuid>: &entry.key_id,
            Nullable<Text>: &entry.before,
            Nullable<Text>: &entry.after,
            Bytea: &entry.previous,
            Bytea: &entry.hash,
        );
        out.push_sql(" FROM moved");
        Ok(())
    }
}

/// The heads of chains as they are now, where none is known. A chain that has none is left out.
pub(crate) async fn peek(
    connection: &mut AsyncPgConnection,
    chains: &[Uuid],
) -> QueryResult<Vec<ChainHead>> {
    let heads: Vec<HeadRow> = audit_heads::table
        .filter(audit_heads::chain.eq_any(chains))
        .select(HeadRow::as_select())
        .load(connection)
        .await?;
    Ok(heads.iter().map(rows::head).collect())
}

/// Tries to write an entry by one statement. Answers the chain's new head; or `None` where that cannot be done, and nothing was.
async fn quickly(
    connection: &mut AsyncPgConnection,
    heads: &Heads,
    draft: &AuditDraft,
) -> Result<Option<NewHead>, Stop<std::convert::Infallible>> {
    let turn = heads.turn(draft.chain).await;
    let known = match heads.get(draft.chain) {
        Some(known) => known,
        None => match peek(connection, &[draft.chain.as_uuid()]).await?.pop() {
            Some(there) => there,
            None => return Ok(None),
        },
    };
    if !draft.can_follow(&known) {
        return Ok(None);
    }
    let (entry, head) = draft.clone().seal(&known);
    let quick = Quick {
        known: rows::head_row(&known)?,
        entry: rows::entry_row(entry)?,
        head: rows::head_row(&head)?,
    };
    if quick.execute(connection).await? == 0 {
        heads.forget(&known);
        return Ok(None);
    }
    Ok(Some(NewHead { head, _turn: turn }))
}

/// Writes an entry, in the transaction of the change that it is of, after the change; the only one of its chain there.
/// Answers the chain's new head, to be kept when the transaction is committed.
pub(crate) async fn append<R>(
    connection: &mut AsyncPgConnection,
    heads: &Heads,
    draft: &AuditDraft,
) -> Result<NewHead, Stop<R>> {
    match quickly(connection, heads, draft).await {
        Ok(Some(head)) => return Ok(head),
        Ok(None) => {}
        Err(stop) => return Err(stop.of_no_refusal()),
    }
    let mut ends = append_all(connection, &[draft]).await?;
    let end = ends.pop().map(NewHead::from);
    end.ok_or_else(|| StoreError::internal("an entry has no chain").into())
}

/// Makes heads for chains that have none, each of which nobody takes for one: with no number and no code. Who makes the same
/// at the same time is waited for. In the transaction that made them they are written over.
const MAKE_HEADS: &str = "\
INSERT INTO audit_heads (chain, seq, hash, code)
SELECT chain, 0, '', ''
FROM unnest($1) AS named (chain)
WHERE NOT EXISTS (SELECT FROM audit_heads WHERE audit_heads.chain = named.chain)
ORDER BY chain
ON CONFLICT DO NOTHING";

async fn make_heads(connection: &mut AsyncPgConnection, chains: &[Uuid]) -> QueryResult<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "Diesel has no words for unnest, and none for a condition on rows of values"
    )]
    let query = diesel::sql_query(MAKE_HEADS);
    query
        .bind::<Array<SqlUuid>, _>(chains)
        .execute(connection)
        .await
        .map(drop)
}

async fn lock_heads(
    connection: &mut AsyncPgConnection,
    chains: &[Uuid],
) -> QueryResult<Vec<HeadRow>> {
    audit_heads::table
        .filter(audit_heads::chain.eq_any(chains))
        .order(audit_heads::chain)
        .select(HeadRow::as_select())
        .for_update()
        .load(connection)
        .await
}

/// What else there is a trace of in chains: of each the newest entry, and the checkpoint.
///
/// Numbers beyond [`LastPlace::MAX_SEQ`] are left out.
const TRACES: &str = "\
SELECT newest.chain, newest.seq, newest.hash
FROM unnest($1) AS named (chain) CROSS JOIN LATERAL (
    SELECT chain, seq, hash FROM audit_entries
    WHERE audit_entries.chain = named.chain AND seq BETWEEN 1 AND $2
    ORDER BY seq DESC LIMIT 1
) AS newest
UNION ALL
SELECT chain, seq, hash FROM audit_checkpoints
WHERE chain = ANY ($1) AND seq BETWEEN 1 AND $2";

#[derive(QueryableByName)]
struct Trace {
    #[diesel(sql_type = SqlUuid)]
    chain: Uuid,
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = Bytea)]
    hash: Vec<u8>,
}

impl Trace {
    fn place(&self) -> LastPlace {
        LastPlace {
            seq: self.seq.cast_unsigned(),
            hash: AuditHash::from_store(&self.hash),
        }
    }
}

async fn traces(connection: &mut AsyncPgConnection, chains: &[Uuid]) -> QueryResult<Vec<Trace>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "Diesel has no words for unnest or for a lateral join"
    )]
    let query = diesel::sql_query(TRACES);
    query
        .bind::<Array<SqlUuid>, _>(chains)
        .bind::<BigInt, _>(LastPlace::MAX_SEQ.cast_signed())
        .load(connection)
        .await
}

/// How a chain ends, as far as can be seen.
#[derive(Default)]
struct End {
    head: Option<ChainHead>,
    last: Option<LastPlace>,
}

impl End {
    fn trace(&mut self, place: LastPlace) {
        if self.last.is_none_or(|last| last.seq < place.seq) {
            self.last = Some(place);
        }
    }

    /// Gives an entry its place. A genuine head behind which there is more was put back by somebody to what it was earlier.
    fn seal(&mut self, draft: AuditDraft) -> AuditEntry {
        let last = self.last;
        let goes_on = |head: &ChainHead| {
            draft.can_follow(head) && last.is_none_or(|last| last.seq <= head.seq)
        };
        let (entry, head) = match self.head.filter(goes_on) {
            Some(head) => draft.seal(&head),
            None => draft.seal_after(last),
        };
        self.head = Some(head);
        self.trace(LastPlace {
            seq: head.seq,
            hash: head.hash,
        });
        entry
    }
}

/// Entries, and the heads of their chains. All heads are there and locked.
const WRITE: &str = "\
WITH entry AS (
    INSERT INTO audit_entries (
        chain, seq, at, action, actor, actor_key_id, actor_account_id, request_id, client, key_id, before, after, previous,
        hash
    )
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
)
UPDATE audit_heads SET seq = named.seq, hash = named.hash, code = named.code
FROM unnest($15, $16, $17, $18) AS named (chain, seq, hash, code)
WHERE audit_heads.chain = named.chain";

async fn write(
    connection: &mut AsyncPgConnection,
    entries: &[EntryRow],
    heads: &[HeadRow],
) -> QueryResult<usize> {
    fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
        rows.iter().map(value).collect()
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "Diesel has no words for unnest, or for an insert beside an update"
    )]
    let query = diesel::sql_query(WRITE);
    query
        .bind::<Array<SqlUuid>, _>(column(entries, |entry| entry.chain))
        .bind::<Array<BigInt>, _>(column(entries, |entry| entry.seq))
        .bind::<Array<Timestamptz>, _>(column(entries, |entry| entry.at))
        .bind::<Array<Varchar>, _>(column(entries, |entry| entry.action.as_str()))
        .bind::<Array<Varchar>, _>(column(entries, |entry| entry.actor.as_str()))
        .bind::<Array<Nullable<SqlUuid>>, _>(column(entries, |entry| entry.actor_key_id))
        .bind::<Array<Nullable<SqlUuid>>, _>(column(entries, |entry| entry.actor_account_id))
        .bind::<Array<Nullable<Varchar>>, _>(column(entries, |entry| entry.request_id.as_deref()))
        .bind::<Array<Nullable<Varchar>>, _>(column(entries, |entry| entry.client.as_deref()))
        .bind::<Array<Nullable<SqlUuid>>, _>(column(entries, |entry| entry.key_id))
        .bind::<Array<Nullable<Text>>, _>(column(entries, |entry| entry.before.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(column(entries, |entry| entry.after.as_deref()))
        .bind::<Array<Bytea>, _>(column(entries, |entry| entry.previous.as_slice()))
        .bind::<Array<Bytea>, _>(column(entries, |entry| entry.hash.as_slice()))
        .bind::<Array<SqlUuid>, _>(column(heads, |head| head.chain))
        .bind::<Array<BigInt>, _>(column(heads, |head| head.seq))
        .bind::<Array<Bytea>, _>(column(heads, |head| head.hash.as_slice()))
        .bind::<Array<Bytea>, _>(column(heads, |head| head.code.as_slice()))
        .execute(connection)
        .await
}

/// Writes entries, in their order, in the transaction of the changes that they are of, after the changes. Answers their
/// chains' new heads, to be kept when the transaction is committed.
pub(crate) async fn append_all<R>(
    connection: &mut AsyncPgConnection,
    drafts: &[&AuditDraft],
) -> Result<Vec<ChainHead>, Stop<R>> {
    let mut chains: Vec<_> = drafts.iter().map(|draft| draft.chain.as_uuid()).collect();
    chains.sort_unstable();
    chains.dedup();
    if chains.is_empty() {
        return Ok(Vec::new());
    }
    // Of one chain the head is there, as a rule. Of several, those that are not are made before any is locked: that too is
    // a wait for others, and the lower UUIDs come first in it.
    let mut locked = Vec::new();
    if chains.len() == 1 {
        locked = lock_heads(connection, &chains).await?;
    }
    if locked.is_empty() {
        make_heads(connection, &chains).await?;
        locked = lock_heads(connection, &chains).await?;
    }
    if locked.len() != chains.len() {
        let gone = "somebody takes away the ends of chains of the audit trail meanwhile";
        return Err(StoreError::unavailable(gone).into());
    }
    let mut ends: HashMap<Uuid, End> = HashMap::new();
    for trace in traces(connection, &chains).await? {
        ends.entry(trace.chain).or_default().trace(trace.place());
    }
    for row in &locked {
        let head = rows::head(row);
        let end = ends.entry(row.chain).or_default();
        end.head = Some(head);
        if (1..=LastPlace::MAX_SEQ).contains(&head.seq) {
            end.trace(LastPlace {
                seq: head.seq,
                hash: head.hash,
            });
        }
    }
    let mut entries = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let end = ends.entry(draft.chain.as_uuid()).or_default();
        entries.push(rows::entry_row(end.seal((*draft).clone()))?);
    }
    let heads: Vec<_> = ends.into_values().filter_map(|end| end.head).collect();
    let head_rows = heads.iter().map(rows::head_row);
    let head_rows = head_rows.collect::<Result<Vec<_>, _>>()?;
    write(connection, &entries, &head_rows).await?;
    Ok(heads)
}

type Listed<'a, Columns> = audit_entries::BoxedQuery<'a, Pg, Columns>;

/// Where an entry stands in every list.
type Standing = (audit_entries::at, audit_entries::chain, audit_entries::seq);

/// The values of a [`Standing`].
type StandingRow = (PgTimestamp, Uuid, i64);

/// Whether an entry stands to a place in the list of all chains as `relation` says: a range of the index.
fn standing<'a>(relation: &str, place: &AuditPlace) -> Among<'a, audit_entries::table> {
    let row = "(audit_entries.at, audit_entries.chain, audit_entries.seq)";
    Box::new(
        sql::<Bool>(&format!("{row} {relation} ("))
            .bind::<Timestamptz, _>(rows::edge(place.at, Direction::Descending))
            .sql(", ")
            .bind::<SqlUuid, _>(place.chain.as_uuid())
            .sql(", ")
            .bind::<BigInt, _>(place.seq.cast_signed())
            .sql(")"),
    )
}

/// The entries that the page may look at, in the list's order. In the list of all chains a span of time is where it begins and
/// ends, but where it goes on after a place, and ends at the horizon: of two ranges of the index only one is where it is entered.
fn candidates<'a, Columns>(
    mut list: Listed<'a, Columns>,
    query: &AuditQuery,
    horizon: Option<&AuditPlace>,
) -> Listed<'a, Columns> {
    use audit_entries::{at, chain, seq};
    if let Some(of) = query.chain {
        list = list.filter(chain.eq(of.as_uuid())).order(seq.desc());
        if let Some(after) = query.after {
            list = list.filter(seq.lt(after.seq.cast_signed()));
        }
        if let Some(horizon) = horizon {
            list = list.filter(seq.ge(horizon.seq.cast_signed()));
        }
        return list;
    }
    list = list.order((at.desc(), chain.desc(), seq.desc()));
    let is_passed = |until: &Timestamp| query.after.is_some_and(|after| after.at < *until);
    if let Some(until) = query.until.filter(|until| !is_passed(until)) {
        list = list.filter(at.lt(rows::instant(until)));
    } else if let Some(after) = query.after {
        list = list.filter(standing("<", &after));
    }
    if let Some(horizon) = horizon {
        list = list.filter(standing(">=", horizon));
    } else if let Some(since) = query.since {
        list = list.filter(at.ge(rows::instant(since)));
    }
    list
}

/// The `nth` of them, if there are so many.
pub(crate) fn horizon_query<'a>(query: &AuditQuery, nth: u32) -> Listed<'a, SqlTypeOf<Standing>> {
    let all = audit_entries::table
        .select(Standing::default())
        .offset(i64::from(nth) - 1)
        .limit(1)
        .into_boxed();
    candidates(all, query, None)
}

/// The entries of a page and one more, up to the last one that is looked at.
pub(crate) fn page_query<'a>(
    query: &AuditQuery,
    horizon: Option<&AuditPlace>,
) -> Listed<'a, SqlTypeOf<AsSelect<EntryRow, Pg>>> {
    use audit_entries::{action, actor, actor_key_id, at, key_id};
    let all = audit_entries::table
        .select(EntryRow::as_select())
        .limit(i64::from(query.limit) + 1)
        .into_boxed();
    let mut page = candidates(all, query, horizon);
    if let Some(id) = query.key_id {
        page = page.filter(key_id.eq(id.as_uuid()));
    }
    page = match query.actor {
        None => page,
        Some(ActorFilter::Key(id)) => page
            .filter(actor.eq("key"))
            .filter(actor_key_id.eq(id.as_uuid())),
        Some(ActorFilter::Tool) => page.filter(actor.eq("tool")),
        Some(ActorFilter::Server) => page.filter(actor.eq("server")),
    };
    if let Some(wanted) = query.action {
        page = page.filter(action.eq(wanted.as_str()));
    }
    if query.chain.is_some() {
        if let Some(since) = query.since {
            page = page.filter(at.ge(rows::instant(since)));
        }
        if let Some(until) = query.until {
            page = page.filter(at.lt(rows::instant(until)));
        }
    }
    page
}

impl Paged for AuditQuery {
    type Row = AuditEntry;
    type Place = AuditPlace;

    async fn horizon(
        &self,
        connection: &mut AsyncPgConnection,
        nth: u32,
    ) -> QueryResult<Option<Self::Place>> {
        let last = horizon_query(self, nth).get_result::<StandingRow>(connection);
        let place = |(at, chain, seq): StandingRow| AuditPlace {
            at: rows::nearest(at),
            chain: ChainId::from_uuid(chain),
            seq: seq.cast_unsigned(),
        };
        Ok(last.await.optional()?.map(place))
    }

    async fn rows(
        &self,
        connection: &mut AsyncPgConnection,
        horizon: Option<&Self::Place>,
    ) -> QueryResult<Vec<Self::Row>> {
        let page: Vec<EntryRow> = page_query(self, horizon).load(connection).await?;
        Ok(page.into_iter().map(rows::entry).collect())
    }

    fn place(&self, row: &Self::Row) -> Self::Place {
        AuditPlace::of(row)
    }
}

/// One prunes at a time, so that no checkpoint goes back. Nobody else writes checkpoints.
const HOLD_OFF_PRUNERS: &str = "LOCK TABLE audit_checkpoints IN SHARE ROW EXCLUSIVE MODE";

const TAKE_AWAY: &str = "\
WITH gone AS (
    DELETE FROM audit_entries USING unnest($1, $2) AS upto (chain, seq)
    WHERE audit_entries.chain = upto.chain AND audit_entries.seq <= upto.seq
        AND NOT EXISTS (
            SELECT FROM audit_checkpoints AS present
            WHERE present.chain = upto.chain AND present.seq >= upto.seq
        )
    RETURNING audit_entries.chain
)
SELECT chain, count(*) AS entries FROM gone GROUP BY chain";

const LEAVE_CHECKPOINTS: &str = "\
INSERT INTO audit_checkpoints (chain, seq, hash, pruned_at, code)
SELECT chain, seq, hash, pruned_at, code
FROM unnest($1, $2, $3, $4, $5) AS gone (chain, seq, hash, pruned_at, code)
ON CONFLICT (chain) DO UPDATE SET
    seq = excluded.seq, hash = excluded.hash, pruned_at = excluded.pruned_at, code = excluded.code";

/// How many entries were taken away of a chain.
#[derive(QueryableByName)]
struct Gone {
    #[diesel(sql_type = SqlUuid)]
    chain: Uuid,
    #[diesel(sql_type = BigInt)]
    entries: i64,
}

/// Who adds entries meanwhile adds them behind what goes, and need not wait.
async fn prune(
    connection: &mut AsyncPgConnection,
    upto: &[Checkpoint],
    entry: &AuditDraft,
) -> Result<Pruned, Stop<std::convert::Infallible>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "Diesel has no words for locking a table or for unnest"
    )]
    let (lock, take_away, leave_checkpoints) = (
        diesel::sql_query(HOLD_OFF_PRUNERS),
        diesel::sql_query(TAKE_AWAY),
        diesel::sql_query(LEAVE_CHECKPOINTS),
    );
    let chains: Vec<_> = upto.iter().map(|upto| upto.chain.as_uuid()).collect();
    let numbers: Vec<_> = upto.iter().map(|upto| upto.seq.cast_signed()).collect();
    lock.execute(connection).await?;
    let gone: Vec<Gone> = take_away
        .bind::<Array<SqlUuid>, _>(chains)
        .bind::<Array<BigInt>, _>(numbers)
        .load(connection)
        .await?;
    if gone.is_empty() {
        return Ok(Pruned::default());
    }
    let of: HashSet<_> = gone.iter().map(|gone| gone.chain).collect();
    let left = upto
        .iter()
        .filter(|left| of.contains(&left.chain.as_uuid()));
    let left: Vec<_> = left.collect();
    let chains: Vec<_> = left.iter().map(|left| left.chain.as_uuid()).collect();
    let numbers: Vec<_> = left.iter().map(|left| left.seq.cast_signed()).collect();
    let hashes = left.iter().map(|left| left.hash.as_bytes().as_slice());
    let hashes: Vec<_> = hashes.collect();
    let times = left.iter().map(|left| rows::instant(left.pruned_at));
    let times: Vec<_> = times.collect();
    let codes = left.iter().map(|left| left.code.as_bytes().as_slice());
    let codes: Vec<_> = codes.collect();
    leave_checkpoints
        .bind::<Array<SqlUuid>, _>(chains)
        .bind::<Array<BigInt>, _>(numbers)
        .bind::<Array<Bytea>, _>(hashes)
        .bind::<Array<Timestamptz>, _>(times)
        .bind::<Array<Bytea>, _>(codes)
        .execute(connection)
        .await?;
    append_all(connection, &[entry]).await?;
    let entries: i64 = gone.iter().map(|gone| gone.entries).sum();
    Ok(Pruned {
        chains: u64::try_from(gone.len()).map_err(StoreError::internal)?,
        entries: u64::try_from(entries).map_err(StoreError::internal)?,
    })
}

#[async_trait]
impl AuditStore for Audit {
    async fn append(&self, entry: &AuditDraft) -> Result<(), StoreError> {
        let Self(pool, heads) = self;
        let quick = pool
            .statement(async |connection| quickly(connection, heads, entry).await)
            .await?;
        if let Some(head) = quick.map_err(StoreError::from)? {
            heads.keep([head]);
            return Ok(());
        }
        let ends = pool
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| append_all(connection, &[entry]).await)
                    .await
            })
            .await?;
        heads.keep(ends.map_err(|stop: Stop<std::convert::Infallible>| StoreError::from(stop))?);
        Ok(())
    }

    async fn page(&self, query: &AuditQuery) -> Result<Page<AuditEntry, AuditPlace>, StoreError> {
        listing::page(&self.0, query, query.limit, query.looks_at()).await
    }

    async fn prune(&self, upto: &[Checkpoint], entry: &AuditDraft) -> Result<Pruned, StoreError> {
        // It may take away millions, for which the pool's connections have no patience.
        let mut connection = self.0.dedicated().await?;
        let pruning =
            connection.transaction(async |connection| prune(connection, upto, entry).await);
        let pruned = tokio::time::timeout(8 * self.0.reading_patience(), pruning)
            .await
            .map_err(|_| StoreError::unavailable(pool::TOO_SLOW))?;
        Ok(pruned?)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use leadr_auth_ports::contract::fixtures::{account, audit_key, entry_in};

    use super::*;

    fn chain(n: u8) -> ChainId {
        ChainId::Account(account(n).id)
    }

    /// An entry of the chain that follows nothing makes a head.
    fn new_head(n: u8, turn: Option<OwnedMutexGuard<()>>) -> NewHead {
        let (_, head) = entry_in(chain(n)).seal_after(None);
        NewHead { head, _turn: turn }
    }

    #[tokio::test]
    async fn a_turn_ends_when_its_head_is_kept_for_the_next() {
        let heads = Heads::default();
        let first = heads.turn(chain(1)).await;
        assert!(first.is_some());
        {
            let mut second = pin!(heads.turn(chain(1)));
            tokio::select! {
                biased;
                _ = &mut second => panic!("two have a turn at once"),
                other = heads.turn(chain(2)) => assert!(other.is_some(), "chains do not wait for one another"),
            }
            heads.keep([new_head(1, first)]);
            assert!(second.await.is_some());
        }
        let head = heads.get(chain(1)).unwrap();
        assert!(head.is_genuine(&audit_key()));
    }

    /// As where who has the turn waits for a lock that this one holds.
    #[tokio::test]
    async fn nobody_waits_for_a_turn_for_long() {
        let heads = Heads::default();
        let held = heads.turn(chain(1)).await;
        assert!(held.is_some());
        assert!(heads.turn(chain(1)).await.is_none());
    }
}
