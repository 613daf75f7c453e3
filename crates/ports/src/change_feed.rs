//! What tells that something which was read from a store is no longer so.
//!
//! Whoever keeps what was read has to hear of every change, and has to know that it still hears. So a subscription is more
//! than news: a *tick* that a node sends comes back to it after every change that was committed before it was sent. A node
//! that hears its own tick has heard of all of those; one that does not cannot tell, and must not rely on what it keeps.

use std::time::Duration;

use async_trait::async_trait;
use leadr_auth_domain::{AccountId, KeyPrefix, NodeId, Timestamp};

use crate::StoreError;

/// Of which records something may have changed that verification looks at: what was read of them before is not to be relied
/// on any more. It may be said without need. That a key was used is no change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key that has this prefix, its being there included. Of a key that was made of random bytes just now it need not be
    /// said: nobody can have asked for it before ([`KeyRepository::create`](crate::KeyRepository::create)).
    Key(KeyPrefix),
    /// An account, and with it all its keys.
    Account(AccountId),
    /// Anything.
    Everything,
}

/// What a node tells all nodes, itself included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It lives, and hears what comes back to it.
    Tick {
        /// Which node.
        node: NodeId,
        /// Counts its ticks.
        number: u64,
        /// [`NodeReport::patience`].
        patience: Duration,
    },
    /// It wants to know who has heard of everything that was committed up to now.
    Probe(Probe),
    /// A node has heard a probe, and has heard of everything before it.
    Seen {
        /// Which node.
        by: NodeId,
        /// What it answers.
        probe: Probe,
    },
    /// A node has ended: it keeps nothing any more, and what it said of itself is forgotten already. Others go by that, and not by
    /// this alone.
    Farewell(NodeId),
}

/// A question for all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// Who asks.
    pub node: NodeId,
    /// Which of its questions. It is drawn at random, so that nobody can answer one that they have not heard.
    pub number: u64,
}

/// What a subscription hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Something was changed.
    Change(Change),
    /// A node said something.
    Signal(Signal),
}

/// How a node is doing, by its own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// Which node.
    pub id: NodeId,
    /// What people know it by: a host's name and an address, as a rule.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// How many ticks it has sent.
    pub tick: u64,
    /// When it started, by its clock.
    pub started_at: Timestamp,
    /// When it said this, by its clock.
    pub seen_at: Timestamp,
    /// For how long after a change it may at most go on as if there had been none.
    pub patience: Duration,
    /// How long ago the last tick that has come back was sent; `None` if none has.
    pub lease_age: Option<Duration>,
    /// How long that tick took to come back; `None` if none has.
    pub lag: Option<Duration>,
}

/// What all nodes have said of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReports {
    /// What can be read, the last to have been said first.
    pub readable: Vec<NodeReport>,
    /// What cannot: somebody else has written it, or written in it. There may be a node all the same.
    pub unreadable: Vec<UnreadableReport>,
}

/// A report of which too much is not as a node writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnreadableReport {
    /// Which node.
    pub id: NodeId,
    /// [`NodeReport::patience`], where that can be read.
    pub patience: Option<Duration>,
    /// What of it cannot be read, as the store calls it.
    pub part: &'static str,
}

/// Tells of changes to keys and accounts, whoever makes them and by whichever way.
///
/// All that is heard comes in one order, which is the same for all who listen: a change comes when it is committed, and a
/// signal after every change that was committed before it was sent.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait ChangeFeed: Send + Sync {
    /// Begins to listen: every change that is committed after this has returned is heard, and every signal that is sent.
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, StoreError>;

    /// Writes down how a node is doing, in place of what it said before, and sends its [`Signal::Tick`].
    ///
    /// A tick is as durable as a change. A store that answers a change only when it has reached another machine does so with a
    /// tick, too: otherwise half of a store that has been taken over by its replica would go on saying that nothing changes.
    async fn tick(&self, report: &NodeReport) -> Result<(), StoreError>;

    /// Sends a signal, and writes nothing down.
    ///
    /// A probe does not go where changes may have been made of which nobody was told, no more than a tick does: who answers it
    /// says that it has heard of all of them.
    async fn send(&self, signal: &Signal) -> Result<(), StoreError>;

    /// The nodes that have said how they are; those that ended in order are not among them.
    ///
    /// Whoever hears a node's tick finds its report, until it is forgotten. So a node that is not among them relies on nothing
    /// that was read before this was asked: by its own tick it will have heard of everything that was committed until now.
    async fn nodes(&self) -> Result<NodeReports, StoreError>;

    /// Forgets what a node has said; where `last` is given, only if that is still the number of its tick, as one step: what it
    /// says meanwhile stays.
    ///
    /// A node that is forgotten must not rely on anything any more: others go by its not being there.
    async fn forget(&self, id: NodeId, last: Option<u64>) -> Result<(), StoreError>;
}

/// One that listens. It is over when it is dropped.
#[async_trait]
pub trait Subscription: Send {
    /// Waits for what comes next. An error means that something may have been missed: listen anew, and rely on nothing that
    /// was read before. A call that is dropped loses nothing.
    async fn next(&mut self) -> Result<Heard, StoreError>;
}
