//! The audit trail: writing, reading, pruning.

use async_trait::async_trait;
use leadr_auth_domain::{
    AuditAction, AuditDraft, AuditEntry, ChainId, Checkpoint, KeyId, Timestamp,
};

use crate::{StoreError, listing::Page};

/// A record, and what the audit trail is to say of its being stored: nothing where nothing changed. The two are stored
/// together or not at all.
#[derive(Clone, Debug)]
pub struct Audited<T> {
    /// What is stored.
    pub record: T,
    /// What the trail says of it.
    pub entry: Option<AuditDraft>,
}

impl<T> Audited<T> {
    /// A record that changed, and what there is to say of it.
    pub const fn new(record: T, entry: AuditDraft) -> Self {
        Self {
            record,
            entry: Some(entry),
        }
    }

    /// A record of which there is nothing to say.
    pub const fn unchanged(record: T) -> Self {
        Self {
            record,
            entry: None,
        }
    }
}

/// Whose entries are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActorFilter {
    /// Those of the holder of this key.
    Key(KeyId),
    /// Those of the command line.
    Tool,
    /// Those of the server itself.
    Server,
}

/// A place in a list of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditPlace {
    /// The entry's time.
    pub at: Timestamp,
    /// Its chain.
    pub chain: ChainId,
    /// Its number.
    pub seq: u64,
}

impl AuditPlace {
    /// Where an entry stands.
    pub const fn of(entry: &AuditEntry) -> Self {
        Self {
            at: entry.at,
            chain: entry.chain,
            seq: entry.seq,
        }
    }
}

/// Which entries are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditQuery {
    /// Of this chain; of all where it is `None`.
    pub chain: Option<ChainId>,
    /// About this key.
    pub key_id: Option<KeyId>,
    /// By this actor.
    pub actor: Option<ActorFilter>,
    /// Of this action.
    pub action: Option<AuditAction>,
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// After this place, in the order of the list.
    pub after: Option<AuditPlace>,
    /// The most entries; at least 1.
    pub limit: u32,
}

impl AuditQuery {
    /// How many entries are looked at for a page of a narrowed list. More than of other lists: what is looked for in a trail is rare,
    /// and whoever looks for it should not have to go on all too often.
    pub const LOOKED_AT: u32 = 5_000;

    /// The newest `limit` entries of a chain, or of all.
    pub const fn of(chain: Option<ChainId>, limit: u32) -> Self {
        Self {
            chain,
            key_id: None,
            actor: None,
            action: None,
            since: None,
            until: None,
            after: None,
            limit,
        }
    }

    /// How many entries are looked at for the page, where there may be some between its first and its last that do not pass. In
    /// the list of all chains a span of time is a part of it; in one chain an entry may be of an earlier time than the one before.
    pub fn looks_at(&self) -> Option<u32> {
        let is_of_span = self.since.is_some() || self.until.is_some();
        let is_narrow = self.key_id.is_some()
            || self.actor.is_some()
            || self.action.is_some()
            || (self.chain.is_some() && is_of_span);
        is_narrow.then_some(Self::LOOKED_AT)
    }
}

/// What was pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Of how many chains the beginning was taken away.
    pub chains: u64,
    /// How many entries that were.
    pub entries: u64,
}

/// Keeps the audit trail. What is written of a change is written by the method that makes the change, in the same unit.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// Writes an entry of something that changed nothing. Atomic: the entry and its chain's end.
    async fn append(&self, entry: &AuditDraft) -> Result<(), StoreError>;

    /// A page of the entries that pass the query, newest first: of one chain in the order of their numbers, of all in that of
    /// their times, then of the chains, then of the numbers. Where it is narrowed, no more than [`AuditQuery::LOOKED_AT`] are looked at for it;
    /// see [`listing`](crate::listing). One consistent view.
    async fn page(&self, query: &AuditQuery) -> Result<Page<AuditEntry, AuditPlace>, StoreError>;

    /// For each checkpoint, of different chains: takes away the chain's entries up to and with its number, and leaves it in
    /// their place, instead of an earlier one. A chain that has nothing to take away, or whose checkpoint has that number or
    /// a higher one, stays as it is. Atomic, with `entry`, which is written where anything was taken away. A process needs
    /// more rights for this than to serve.
    ///
    /// A store believes the caller, who has read and verified what goes, and signed for it. It has no key, and does not ask
    /// its rows what is old: somebody may have written into them.
    async fn prune(&self, upto: &[Checkpoint], entry: &AuditDraft) -> Result<Pruned, StoreError>;
}
