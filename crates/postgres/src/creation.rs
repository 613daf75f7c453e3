//! Keys that are issued at once are written together.
//!
//! A commit costs the server more than the rows in it, and each statement costs a round trip. So what is to be created while
//! batches are being written waits, and is then written together: by one statement, in one commit. Whoever comes when there is
//! none goes at once.
//!
//! # When a batch begins
//!
//! Up to [`AT_ONCE`] batches are underway: while one is being committed, the next is being gathered. Where several were
//! written together, those who asked for them are likely to ask again, each a moment after the other. The first of them would
//! go alone, and the others would wait for it. So a batch is begun when it has its share: of those who wait, those who are
//! being written, and those who were written just now and may come again. These are waited for no longer than their own batch
//! took, and not beyond [`LONGEST_PAUSE`]. Who comes alone, one key after the other, never waits.
//!
//! # What a batch is
//!
//! Of each chain a batch has a [`Group`]: keys of one account under one secret, with their entries, each sealed on the one
//! before it. A group is written whole or not at all, by conditions of its own: the chain's head is the one that is known, no
//! entry is beyond it, the account is live and has room for so many, and the secret was not given up. So what is wrong with one group does no harm to
//! the others of its batch.
//!
//! A batch waits for nobody else's head. It passes over one that somebody has locked, and so over an account's row that
//! somebody is about to take away, or the count of its keys: otherwise all accounts would wait for one. For the same reason two that write batches
//! cannot wait for each other, on one node or on several.
//!
//! A group that was passed over, or that found things otherwise than it expected them, goes the slow way in a transaction of
//! its own, which waits, and reads how its chain ends. Meanwhile its chain is left out of batches, and what comes for it
//! waits: for the locks of its own chain only, and then in company again. A group that cannot be written even so is taken apart,
//! and each is told what is wrong with its own key.
//!
//! # Whose time it takes
//!
//! Batches are written by tasks of their own, so that a caller who goes away takes nothing of the others with it. A task
//! belongs to the runtime of whoever came first, because connections do (see [`Pool`]). Where that ends, those in the batch
//! are told that the store is not available, since nobody knows what became of it; and those who wait see to themselves.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use diesel::{
    IntoSql as _,
    pg::Pg,
    prelude::*,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::{Array, BigInt, Bytea, Nullable, Text, Timestamptz, Uuid as SqlUuid, Varchar},
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl};
use leadr_auth_domain::{ApiKey, AuditDraft, ChainHead, ChainId};
use leadr_auth_ports::{CreateKeyError, StoreError};
use tokio::{
    runtime,
    sync::{Notify, oneshot},
};
use uuid::Uuid;

use crate::{
    audit::{self, Heads},
    error::Stop,
    keys,
    pool::{self, Pool},
    rows::{self, EntryRow, HeadRow, KeyRow},
    schema::sql_types,
};

/// The most that are written by one statement.
const MOST: usize = 64;
/// How many batches are underway at most.
const AT_ONCE: usize = 2;
/// The longest that a batch waits for company.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// What is to be created, and who writes it. Clones share it.
#[derive(Clone)]
pub(crate) struct Creations(Arc<Shared>);

impl fmt::Debug for Creations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Creations").finish_non_exhaustive()
    }
}

struct Shared {
    pool: Pool,
    heads: Heads,
    queue: Mutex<Queue>,
    /// Whoever pauses is to look again.
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Member>,
    /// How many there are who write batches, and look here again after each.
    leaders: usize,
    /// One of them waits for company. There is never more than one.
    pauses: bool,
    /// How many are in batches that are being written.
    underway: usize,
    /// How many were written just now, and may come again.
    expected: usize,
    /// Until when they are expected.
    until: Option<Instant>,
    /// Chains of which a group is being written with others.
    quick: HashSet<ChainId>,
    /// Chains of which a group goes the slow way.
    slow: HashSet<ChainId>,
}

impl Queue {
    /// How many a batch has that begins now; or until when it is to wait.
    fn share(&mut self, now: Instant) -> Result<usize, Instant> {
        let expected_until = self.until.filter(|until| self.expected > 0 && now < *until);
        if expected_until.is_none() {
            self.expected = 0;
        }
        let all = self.waiting.len() + self.expected + self.underway;
        let share = all.div_ceil(AT_ONCE).min(MOST);
        match expected_until {
            Some(until) if self.waiting.len() < share => Err(until),
            _ => Ok(share),
        }
    }

    /// A batch is not being written any more.
    fn finish(&mut self, count: usize, chains: &[ChainId]) {
        self.underway -= count;
        for chain in chains {
            self.quick.remove(chain);
        }
    }

    /// Is nobody writing to this chain?
    fn is_free(&self, chain: ChainId) -> bool {
        !self.quick.contains(&chain) && !self.slow.contains(&chain)
    }

    /// Takes so many that can be written now, or more where others are of the same chains: they cannot be written before.
    fn take(&mut self, share: usize) -> BTreeMap<ChainId, Group> {
        let mut batch: BTreeMap<ChainId, Group> = BTreeMap::new();
        let mut taken = 0;
        for member in std::mem::take(&mut self.waiting) {
            // Nobody waits for it any more, and it was not begun.
            if member.answer.is_closed() {
                continue;
            }
            let chain = member.entry.chain;
            let group = batch.get(&chain).and_then(|group| group.as_slice().first());
            let fits = group.is_none_or(|first| member.goes_with(first));
            let has_place = taken < share || group.is_some() && taken < MOST;
            if has_place && fits && self.is_free(chain) {
                taken += 1;
                batch.entry(chain).or_default().push(member);
            } else {
                self.waiting.push_back(member);
            }
        }
        batch
    }
}

/// A key that is to be created.
struct Member {
    key: ApiKey,
    entry: AuditDraft,
    /// Closed where its caller went away.
    answer: oneshot::Sender<Answer>,
}

/// What becomes of a member.
enum Answer {
    Done(Result<(), CreateKeyError>),
    /// It was not written, and its caller is to try on its own.
    Alone,
}

impl Member {
    /// May it be in a group with this one, which is of the same chain?
    fn goes_with(&self, other: &Self) -> bool {
        self.key.account_id == other.key.account_id && self.key.pepper_id == other.key.pepper_id
    }

    fn tell(self, answer: Answer) {
        // Where the caller went away, nobody wants to know.
        drop(self.answer.send(answer));
    }
}

/// Members of one chain, at least one, which are written together or not at all.
type Group = Vec<Member>;

/// Why several were not written.
#[derive(Clone, Debug)]
struct OfSeveral(Arc<StoreError>);

impl fmt::Display for OfSeveral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what writes several keys together did not succeed")
    }
}

impl StdError for OfSeveral {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// Tells all that nobody knows what became of their keys.
fn tell_unavailable(members: impl IntoIterator<Item = Member>, error: StoreError) {
    let error = OfSeveral(Arc::new(error));
    for member in members {
        let unavailable = StoreError::unavailable(error.clone());
        member.tell(Answer::Done(Err(unavailable.into())));
    }
}

fn tell_alone(members: impl IntoIterator<Item = Member>) {
    for member in members {
        member.tell(Answer::Alone);
    }
}

impl Creations {
    pub(crate) fn new(pool: Pool, heads: Heads) -> Self {
        Self(Arc::new(Shared {
            pool,
            heads,
            queue: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// Stores a key that was made just now, and its entry. Answers whether it was done; where it was not, it can be done by
    /// the caller alone, which also tells what is wrong.
    pub(crate) async fn create(
        &self,
        key: &ApiKey,
        entry: &AuditDraft,
    ) -> Result<bool, CreateKeyError> {
        let Self(shared) = self;
        let (answer, told) = oneshot::channel();
        let chain = entry.chain;
        let member = Member {
            key: key.clone(),
            entry: entry.clone(),
            answer,
        };
        shared.with_queue(|queue| {
            queue.waiting.push_back(member);
            queue.expected = queue.expected.saturating_sub(1);
        });
        shared.lead(|queue| queue.is_free(chain));
        let told = tokio::time::timeout(shared.pool.creation_patience(), told);
        match told.await {
            Ok(Ok(Answer::Done(done))) => done.map(|()| true),
            Ok(Ok(Answer::Alone)) => Ok(false),
            Ok(Err(_)) => {
                let gone = "who wrote the key with others ended meanwhile";
                Err(StoreError::unavailable(gone).into())
            }
            Err(_) => Err(StoreError::unavailable(pool::TOO_SLOW).into()),
        }
    }
}

impl Shared {
    fn with_queue<R>(&self, work: impl FnOnce(&mut Queue) -> R) -> R {
        // What the lock guards is whole at any time, so a thread that panicked with it does no harm.
        work(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sees to it that somebody writes what waits, if something that waits can be written.
    fn lead(self: &Arc<Self>, can_be_written: impl FnOnce(&Queue) -> bool) {
        let begins = self.with_queue(|queue| {
            if queue.pauses {
                if queue.share(Instant::now()).is_ok() {
                    self.changed.notify_one();
                }
                return false;
            }
            let begins = queue.leaders < AT_ONCE && can_be_written(queue);
            if begins {
                queue.leaders += 1;
                queue.pauses = true;
            }
            begins
        });
        if begins {
            let leader = Leader {
                shared: Arc::clone(self),
                does: Does::Pauses,
            };
            // A runtime that is about to end drops the task, and the leader with it. Nor is there always one where a task is
            // dropped that a runtime left behind.
            if let Ok(runtime) = runtime::Handle::try_current() {
                runtime.spawn(leader.run());
            }
        }
    }

    /// Writes a group by a transaction of its own, while others go on. Its chain is kept out of batches already.
    fn write_slowly(self: &Arc<Self>, chain: ChainId, group: Group) {
        let held = Held {
            shared: Arc::clone(self),
            chain,
        };
        tokio::spawn(async move {
            held.shared.write_group(group).await;
            drop(held);
        });
    }

    async fn write_group(&self, mut group: Group) {
        let Self { pool, heads, .. } = self;
        let all: Vec<_> = group
            .iter()
            .map(|member| (&member.key, &member.entry))
            .collect();
        let written = pool
            .transaction(async |connection| {
                connection
                    .transaction(async |connection| {
                        keys::create(connection, &all, keys::Limit::Counts).await
                    })
                    .await
            })
            .await;
        let stop = match written {
            Ok(Ok(ends)) => {
                heads.keep(ends);
                for member in group {
                    member.tell(Answer::Done(Ok(())));
                }
                return;
            }
            Ok(Err(stop)) => CreateKeyError::from(stop),
            Err(error) => error.into(),
        };
        match (stop, group.pop()) {
            (CreateKeyError::Store(error @ StoreError::Unavailable(_)), last) => {
                tell_unavailable(group.into_iter().chain(last), error);
            }
            (stop, Some(only)) if group.is_empty() => only.tell(Answer::Done(Err(stop))),
            // Nobody knows with whom of them something is wrong.
            (_, last) => tell_alone(group.into_iter().chain(last)),
        }
    }
}

/// Whoever writes batches, one after the other, until nobody waits.
struct Leader {
    shared: Arc<Shared>,
    does: Does,
}

/// What a leader does, and gives back where it is dropped meanwhile.
enum Does {
    /// It waits for company.
    Pauses,
    /// It writes a batch of so many, in these chains.
    Writes { count: usize, chains: Vec<ChainId> },
    /// A batch was written, or not, and the next is to be looked for.
    Looks,
    /// It is none any more.
    Rests,
}

impl Does {
    /// Says that there is a leader less.
    fn rest(&mut self, queue: &mut Queue) -> Next {
        queue.leaders -= 1;
        *self = Self::Rests;
        Next::Rest
    }
}

/// What a leader is to do next.
enum Next {
    Write(BTreeMap<ChainId, Group>),
    Pause(Instant),
    Rest,
}

impl Leader {
    async fn run(mut self) {
        while let Some(batch) = self.gather().await {
            // Of whatever was left somebody else makes a batch.
            self.shared.lead(|queue| {
                let mut waiting = queue.waiting.iter();
                waiting.any(|member| queue.is_free(member.entry.chain))
            });
            self.write(batch).await;
        }
    }

    /// Whatever is to be written now; or the end of it.
    async fn gather(&mut self) -> Option<BTreeMap<ChainId, Group>> {
        loop {
            match self.next() {
                Next::Write(batch) => return Some(batch),
                Next::Rest => return None,
                Next::Pause(until) => {
                    let changed = self.shared.changed.notified();
                    // Whichever it was, the next look tells.
                    drop(tokio::time::timeout_at(until.into(), changed).await);
                }
            }
        }
    }

    fn next(&mut self) -> Next {
        let Self { shared, does } = self;
        shared.with_queue(|queue| {
            if matches!(does, Does::Looks) {
                if queue.pauses {
                    // Who does so writes what waits.
                    return does.rest(queue);
                }
                queue.pauses = true;
                *does = Does::Pauses;
            }
            let share = match queue.share(Instant::now()) {
                Ok(share) => share,
                Err(until) => return Next::Pause(until),
            };
            queue.pauses = false;
            let batch = queue.take(share);
            if batch.is_empty() {
                return does.rest(queue);
            }
            let count = batch.values().map(Vec::len).sum();
            let chains: Vec<_> = batch.keys().copied().collect();
            queue.underway += count;
            queue.quick.extend(&chains);
            *does = Does::Writes { count, chains };
            Next::Write(batch)
        })
    }

    /// Writes a batch, and tells its members, or sends them the slow way.
    async fn write(&mut self, batch: BTreeMap<ChainId, Group>) {
        let begun = Instant::now();
        let Shared { pool, heads, .. } = &*self.shared;
        let written = pool
            .statement(async |connection| write_quickly(connection, heads, &batch).await)
            .await;
        let written = match written {
            Ok(Ok(written)) => Ok(written),
            Ok(Err(stop)) => match StoreError::from(stop) {
                error @ StoreError::Unavailable(_) => Err(error),
                // Something is wrong with one of them. Nothing was written.
                StoreError::Internal(_) => Ok(HashMap::new()),
            },
            Err(error) => Err(error),
        };
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                self.finish(&[], begun);
                return tell_unavailable(batch.into_values().flatten(), error);
            }
        };
        heads.keep(written.values().copied());
        let left = batch.keys().filter(|chain| !written.contains_key(chain));
        let left: Vec<_> = left.copied().collect();
        self.finish(&left, begun);
        let shared = &self.shared;
        for (chain, group) in batch {
            if written.contains_key(&chain) {
                for member in group {
                    member.tell(Answer::Done(Ok(())));
                }
            } else {
                shared.write_slowly(chain, group);
            }
        }
    }

    /// A batch is over, before anybody is told: whoever hears of it may come again at once.
    fn finish(&mut self, left: &[ChainId], begun: Instant) {
        let Self { shared, does } = self;
        if let Does::Writes { count, chains } = std::mem::replace(does, Does::Looks) {
            let now = Instant::now();
            let pause = now.duration_since(begun).min(LONGEST_PAUSE);
            shared.with_queue(|queue| {
                queue.finish(count, &chains);
                queue.slow.extend(left);
                queue.expected += count;
                queue.until = now.checked_add(pause);
            });
        }
    }
}

impl Drop for Leader {
    /// The runtime ended, unless the leader is none any more. If there is no other, those who wait are told to do it themselves.
    fn drop(&mut self) {
        let Self { shared, does } = self;
        let waiting = shared.with_queue(|queue| {
            match does {
                Does::Rests => return VecDeque::new(),
                Does::Pauses => queue.pauses = false,
                Does::Writes { count, chains } => queue.finish(*count, chains),
                Does::Looks => {}
            }
            queue.leaders -= 1;
            if queue.leaders == 0 {
                std::mem::take(&mut queue.waiting)
            } else {
                VecDeque::new()
            }
        });
        tell_alone(waiting);
    }
}

/// Keeps a chain out of batches.
struct Held {
    shared: Arc<Shared>,
    chain: ChainId,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared
            .with_queue(|queue| queue.slow.remove(&self.chain));
        self.shared.lead(|queue| {
            let mut waiting = queue.waiting.iter();
            waiting.any(|member| member.entry.chain == self.chain)
        });
    }
}

/// What of a batch can be written, as far as is known.
#[derive(Default)]
struct Sealed {
    /// As they are known, of each chain, and what its keys have in common.
    known: Vec<(HeadRow, Uuid, String)>,
    becomes: Vec<HeadRow>,
    entries: Vec<EntryRow>,
    keys: Vec<KeyRow>,
}

/// Seals the entries of a group, each on the one before it. Answers its chain's new head; or `None` where that which is known
/// is none that an entry can follow.
fn seal(
    group: &Group,
    known: ChainHead,
    sealed: &mut Sealed,
) -> Result<Option<ChainHead>, StoreError> {
    let [first, ..] = group.as_slice() else {
        return Ok(None);
    };
    let mut head = known;
    let mut entries = Vec::with_capacity(group.len());
    for member in group {
        if !member.entry.can_follow(&head) {
            return Ok(None);
        }
        let (entry, next) = member.entry.clone().seal(&head);
        entries.push(rows::entry_row(entry)?);
        head = next;
    }
    let key = rows::key_row(&first.key);
    sealed
        .known
        .push((rows::head_row(&known)?, key.account_id, key.pepper_id));
    sealed.becomes.push(rows::head_row(&head)?);
    sealed.entries.extend(entries);
    sealed
        .keys
        .extend(group.iter().map(|member| rows::key_row(&member.key)));
    Ok(Some(head))
}

/// Writes what can be written of a batch, by one statement. Answers the new heads of the chains whose groups were.
async fn write_quickly(
    connection: &mut AsyncPgConnection,
    heads: &Heads,
    batch: &BTreeMap<ChainId, Group>,
) -> Result<HashMap<ChainId, ChainHead>, Stop<std::convert::Infallible>> {
    let mut known: HashMap<_, _> = batch
        .keys()
        .filter_map(|chain| Some((*chain, heads.get(*chain)?)))
        .collect();
    let unknown = batch.keys().filter(|chain| !known.contains_key(chain));
    let unknown: Vec<_> = unknown.map(|chain| chain.as_uuid()).collect();
    if !unknown.is_empty() {
        let there = audit::peek(connection, &unknown).await?;
        known.extend(there.into_iter().map(|head| (head.chain, head)));
    }
    let mut sealed = Sealed::default();
    let mut becomes = HashMap::new();
    for (chain, group) in batch {
        if let Some(known) = known.get(chain)
            && let Some(head) = seal(group, *known, &mut sealed)?
        {
            becomes.insert(*chain, head);
        }
    }
    if becomes.is_empty() {
        return Ok(becomes);
    }
    let moved: Vec<Uuid> = Batch::new(&sealed).load(connection).await?;
    let moved: HashSet<_> = moved.into_iter().map(ChainId::from_uuid).collect();
    becomes.retain(|chain, _| {
        let was_moved = moved.contains(chain);
        if !was_moved && let Some(known) = known.get(chain) {
            heads.forget(known);
        }
        was_moved
    });
    Ok(becomes)
}

/// The statement, with a `$` where a value belongs.
///
/// That no entry is there already with the number, or beyond, is looked at for the reason that `audit::Quick` has.
///
/// One of the arrays of each `unnest` is had by a `SELECT` of its own, so that the server does not know how long it is when it
/// makes a plan. Otherwise it would make one anew with each use, because one for the few that are there looks cheaper than
/// one for any number.
///
/// What is looked at for each group is looked up for each, by subqueries that the server leaves as they are. Of what it takes for
/// small tables it would rather read all, and do so until it hears that they have grown.
///
/// A key that was made of random bytes just now nobody can have asked for, so there is no need to tell of it; and who tells has
/// the commits of all others wait for its own. The trigger looks at the setting.
const BATCH: &str = "\
WITH held AS (
    SELECT known.*
    FROM unnest((SELECT $), $, $, $, $, $, $, $, $) AS known (
        chain, seq, hash, code, account_id, pepper_id, to_seq, to_hash, to_code
    )
    CROSS JOIN LATERAL (
        SELECT FROM audit_heads
        WHERE (chain, seq, hash, code) = (known.chain, known.seq, known.hash, known.code)
        FOR UPDATE SKIP LOCKED
    ) AS head
    CROSS JOIN LATERAL (
        SELECT key_limit FROM accounts WHERE id = known.account_id AND deleted_at IS NULL
        FOR KEY SHARE SKIP LOCKED
    ) AS owner
    CROSS JOIN LATERAL (
        SELECT live FROM key_counts WHERE account_id = known.account_id
        FOR UPDATE SKIP LOCKED
    ) AS counted
    WHERE (SELECT true FROM audit_entries WHERE chain = known.chain AND seq > known.seq LIMIT 1) IS NULL
        AND NOT EXISTS (SELECT FROM peppers WHERE peppers.id = known.pepper_id AND peppers.dropped_at IS NOT NULL)
        AND counted.live + known.to_seq - known.seq <= owner.key_limit
), moved AS (
    UPDATE audit_heads AS head SET seq = held.to_seq, hash = held.to_hash, code = held.to_code
    FROM held WHERE head.chain = held.chain
    RETURNING held.chain, held.account_id, held.pepper_id
), member AS (
    SELECT moved.account_id, moved.pepper_id, named.*
    FROM unnest(
        (SELECT $), $, $, $, $, $, $, $, $, $, $, $, $, $, $, $, $, $, $, $, $, $, $, $, $
    ) AS named (
        chain, seq, at, action, actor, actor_key_id, actor_account_id, request_id, client, about, before, after, previous, hash,
        id, name, key_hash, key_prefix, status, last_used_at, expires_at, created_at, updated_at, deleted_at, scopes
    )
    JOIN moved USING (chain)
), entry AS (
    INSERT INTO audit_entries (
        chain, seq, at, action, actor, actor_key_id, actor_account_id, request_id, client, key_id, before, after, previous,
        hash
    )
    SELECT
        chain, seq, at, action, actor, actor_key_id, actor_account_id, request_id, client, about, before, after, previous,
        hash
    FROM member
), key AS (
    INSERT INTO api_keys (
        id, account_id, name, key_hash, key_prefix, status, last_used_at, expires_at, created_at, updated_at, deleted_at,
        scopes, pepper_id
    )
    SELECT
        id, account_id, name, key_hash, key_prefix, status, last_used_at, expires_at, created_at, updated_at, deleted_at,
        scopes, pepper_id
    FROM member
    WHERE (SELECT pg_catalog.set_config('leadr_auth.fresh_key', 'on', true)) = 'on'
)
SELECT chain FROM moved";

/// [`BATCH`] and its values. It is not a text for `sql_query`, for the reason that `audit::Quick` has.
pub(crate) struct Batch<'a>(Vec<Box<dyn QueryFragment<Pg> + Send + 'a>>);

impl<'a> Batch<'a> {
    fn new(sealed: &'a Sealed) -> Self {
        fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
            rows.iter().map(value).collect()
        }
        let Sealed {
            known,
            becomes,
            entries,
            keys,
        } = sealed;
        macro_rules! columns {
            ($($rows:ident: $type:ty, $value:expr;)*) => {
                vec![$(Box::new(column($rows, $value).into_sql::<Array<$type>>())),*]
            };
        }
        Self(columns! {
            known: SqlUuid, |(head, ..)| head.chain;
            known: BigInt, |(head, ..)| head.seq;
            known: Bytea, |(head, ..)| head.hash.as_slice();
            known: Bytea, |(head, ..)| head.code.as_slice();
            known: SqlUuid, |(_, account, _)| *account;
            known: Varchar, |(.., pepper)| pepper.as_str();
            becomes: BigInt, |head| head.seq;
            becomes: Bytea, |head| head.hash.as_slice();
            becomes: Bytea, |head| head.code.as_slice();
            entries: SqlUuid, |entry| entry.chain;
            entries: BigInt, |entry| entry.seq;
            entries: Timestamptz, |entry| entry.at;
            entries: Varchar, |entry| entry.action.as_str();
            entries: Varchar, |entry| entry.actor.as_str();
            entries: Nullable<SqlUuid>, |entry| entry.actor_key_id;
            entries: Nullable<SqlUuid>, |entry| entry.actor_account_id;
            entries: Nullable<Varchar>, |entry| entry.request_id.as_deref();
            entries: Nullable<Varchar>, |entry| entry.client.as_deref();
            entries: Nullable<SqlUuid>, |entry| entry.key_id;
            entries: Nullable<Text>, |entry| entry.before.as_deref();
            entries: Nullable<Text>, |entry| entry.after.as_deref();
            entries: Bytea, |entry| entry.previous.as_slice();
            entries: Bytea, |entry| entry.hash.as_slice();
            keys: SqlUuid, |key| key.id;
            keys: Varchar, |key| key.name.as_str();
            keys: Varchar, |key| key.key_hash.as_str();
            keys: Varchar, |key| key.key_prefix.as_str();
            keys: sql_types::ApiKeyStatus, |key| &key.status;
            keys: Nullable<Timestamptz>, |key| key.last_used_at;
            keys: Nullable<Timestamptz>, |key| key.expires_at;
            keys: Timestamptz, |key| key.created_at;
            keys: Timestamptz, |key| key.updated_at;
            keys: Nullable<Timestamptz>, |key| key.deleted_at;
            keys: Nullable<Varchar>, |key| key.scopes.as_deref();
        })
    }
}

impl QueryId for Batch<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Batch<'_> {
    type SqlType = SqlUuid;
}

impl diesel::RunQueryDsl<AsyncPgConnection> for Batch<'_> {}

impl QueryFragment<Pg> for Batch<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let mut values = self.0.iter();
        let mut texts = BATCH.split('$');
        out.push_sql(texts.next().unwrap_or_default());
        for text in texts {
            if let Some(value) = values.next() {
                value.walk_ast(out.reborrow())?;
            }
            out.push_sql(text);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leadr_auth_ports::contract::fixtures::{account, entry_in, key};

    /// So many who wait, each for a key of this account.
    fn waiting(
        owners: impl IntoIterator<Item = u8>,
    ) -> (VecDeque<Member>, Vec<oneshot::Receiver<Answer>>) {
        let members = owners.into_iter().enumerate().map(|(n, owner)| {
            let owner = account(owner);
            let (answer, told) = oneshot::channel();
            let member = Member {
                key: key(n.try_into().unwrap(), &owner),
                entry: entry_in(ChainId::Account(owner.id)),
                answer,
            };
            (member, told)
        });
        members.unzip()
    }

    fn queue(owners: impl IntoIterator<Item = u8>) -> Queue {
        Queue {
            waiting: waiting(owners).0,
            ..Queue::default()
        }
    }

    /// Whoever comes after a batch of so many, which were written until now.
    fn after(expected: usize, owners: impl IntoIterator<Item = u8>) -> (Queue, Instant) {
        let now = Instant::now();
        let queue = Queue {
            expected,
            until: now.checked_add(LONGEST_PAUSE),
            ..queue(owners)
        };
        (queue, now)
    }

    #[test]
    fn whoever_comes_alone_goes_at_once() {
        assert_eq!(queue([1]).share(Instant::now()), Ok(1));
        // The one who was written before came again.
        let (mut again, now) = after(0, [1]);
        assert_eq!(again.share(now), Ok(1));
    }

    #[test]
    fn those_who_were_written_are_waited_for() {
        let (mut queue, now) = after(8, []);
        let until = now + LONGEST_PAUSE;
        assert_eq!(queue.share(now), Err(until));
        assert_eq!(queue.share(until), Ok(0), "but not for ever");
        let (mut queue, now) = after(5, [1, 2, 3]);
        assert_eq!(queue.share(now), Err(now + LONGEST_PAUSE));
        let (mut queue, now) = after(4, [1, 2, 3, 4]);
        assert_eq!(queue.share(now), Ok(4), "the others make the next batch");
    }

    #[test]
    fn those_who_are_being_written_make_the_next_batch() {
        let (mut queue, now) = after(2, [1, 2]);
        queue.underway = 4;
        assert_eq!(queue.share(now), Err(now + LONGEST_PAUSE));
        queue.underway = 0;
        assert_eq!(queue.share(now), Ok(2));
    }

    #[test]
    fn a_batch_has_a_limit() {
        let (mut queue, now) = after(1, vec![1; 200]);
        assert_eq!(queue.share(now), Ok(MOST));
    }

    #[test]
    fn a_chain_is_in_one_batch() {
        let count = |batch: &BTreeMap<_, Group>| batch.values().map(Vec::len).sum::<usize>();
        let (members, _told) = waiting([1, 1, 2, 1, 1]);
        let mut queue = Queue {
            waiting: members,
            ..Queue::default()
        };
        queue.slow.insert(ChainId::Account(account(2).id));
        let batch = queue.take(1);
        assert_eq!((count(&batch), queue.waiting.len()), (4, 1));
        assert_eq!(count(&queue.take(5)), 0, "somebody writes to it");
        queue.slow.clear();
        assert_eq!(count(&queue.take(5)), 1);
    }
}
