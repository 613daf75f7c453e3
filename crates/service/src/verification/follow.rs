//! Listens to the store for as long as the process runs.

use std::sync::Arc;
use std::time::Duration;

use leadr_auth_domain::{NodeId, OperatorAccess, Timestamp};
use leadr_auth_ports::{NodeReport, NodeReports, Probe, Signal, StoreError, Subscription};
use tokio::time::{Interval, MissedTickBehavior};

use super::follower::Follower;
use super::nodes::{Asked, Nodes, Silent, Told};
use crate::{Chain, Service};

/// How long it waits before it asks a store again that does not let it listen.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How many ticks may wait for the store at the same time.
pub(super) const TICKS_AT_ONCE: u32 = 4;

/// For how long a node is remembered that says nothing any more.
const REMEMBERED: time::Duration = time::Duration::days(1);

/// How often it is looked whether there are such nodes.
const CLEAR_EVERY: Duration = Duration::from_mins(1);

/// The most that somebody waits for proof that a change has reached every node.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How far a change has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Propagation {
    /// Whether every node that runs has heard of it, or cannot go by what it knew before any more.
    pub propagated: bool,
    /// How many nodes run, as far as this one hears; itself included, and those that ended without a word and may still run. Zero
    /// where it does not hear, or what nodes say of themselves could not be read: then it does not know.
    pub nodes: usize,
    /// How long that took to find out.
    pub took: Duration,
}

impl Service {
    /// Follows the changes of the store, which is what makes the cache answer at all.
    pub(crate) async fn follow_changes(&self) {
        let id = match self.random() {
            Ok(bytes) => *self
                .verifier
                .node_id
                .get_or_init(|| NodeId::from_random_bytes(bytes)),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "this node has no id; nothing is answered from the cache");
                // What else runs beside this goes on.
                return std::future::pending().await;
            }
        };
        tokio::select! {
            () = self.follow(id) => {}
            () = self.clear_away(id) => {}
        }
    }

    async fn follow(&self, id: NodeId) {
        let started_at = self.clock.now();
        let mut follower = Follower::new(
            Arc::clone(&self.verifier.cache),
            Arc::clone(&self.verifier.nodes),
            self.config.verification.clone(),
            id,
        );
        let mut failing = false;
        loop {
            follower.before_listening();
            let error = match self.stores.feed.subscribe().await {
                Ok(mut subscription) => {
                    follower.listens(self.lease_time());
                    let error =
                        self.listen(&mut follower, &mut subscription, started_at, &mut failing);
                    let error = error.await;
                    follower.lost();
                    error
                }
                Err(error) => error,
            };
            if !failing {
                tracing::warn!(error = %Chain(&error), "changes are not heard; every key is looked up until they are, and what is kept is dropped");
            }
            failing = true;
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Listens until that is over, and says why it is. That changes are heard again it says when that is proven, and not before:
    /// somebody may listen, and hear nothing.
    async fn listen(
        &self,
        follower: &mut Follower,
        subscription: &mut Box<dyn Subscription>,
        started_at: Timestamp,
        failing: &mut bool,
    ) -> StoreError {
        let mut ticks = every(self.config.verification.tick);
        loop {
            tokio::select! {
                biased;
                heard = subscription.next() => match heard {
                    Ok(heard) => {
                        let reply = follower.hear(heard, self.lease_time());
                        if *failing && follower.is_proven() {
                            *failing = false;
                            tracing::info!("changes are heard again");
                        }
                        if let Some(signal) = reply {
                            self.say(signal);
                        }
                    }
                    Err(error) => return error,
                },
                _ = ticks.tick() => {
                    if follower.is_deaf(self.lease_time()) {
                        return StoreError::unavailable("nothing that is sent comes back");
                    }
                    self.tick(follower, started_at);
                }
            }
        }
    }

    /// Sends a tick, unless too many wait for the store already. Nobody waits for it here: while the store takes its time, what
    /// it says is to be heard.
    fn tick(&self, follower: &mut Follower, started_at: Timestamp) {
        let permit = Arc::clone(&self.verifier.ticks).try_acquire_owned();
        let (Some(&id), Ok(permit)) = (self.verifier.node_id.get(), permit) else {
            return;
        };
        let proof = follower.proof();
        let config = &self.config;
        let now = self.lease_time();
        let report = NodeReport {
            id,
            name: config.node_name.clone(),
            version: config.version.clone(),
            // Not earlier than this is the time of which it will be the proof.
            tick: follower.tick(now),
            started_at,
            seen_at: self.clock.now(),
            patience: config.verification.patience(),
            lease_age: proof.map(|proof| now.saturating_sub(proof.sent_at)),
            lag: proof.map(|proof| proof.lag),
        };
        let feed = Arc::clone(&self.stores.feed);
        let verifier = Arc::clone(&self.verifier);
        tokio::spawn(async move {
            let sent = feed.tick(&report).await;
            verifier.note_tick(sent.as_ref().err());
            drop(permit);
        });
    }

    fn say(&self, signal: Signal) {
        let feed = Arc::clone(&self.stores.feed);
        tokio::spawn(async move {
            if let Err(error) = feed.send(&signal).await {
                tracing::debug!(error = %Chain(&error), "a signal was not sent");
            }
        });
    }

    /// Says that this node keeps nothing any more, which it must not from here on.
    pub(crate) async fn say_farewell(&self) {
        let Some(&id) = self.verifier.node_id.get() else {
            return;
        };
        self.verifier.cache.forget_everything();
        // A tick that came after it would make the node known again.
        let none_underway = self.verifier.ticks.acquire_many(TICKS_AT_ONCE).await;
        // Whoever hears that it has ended goes by what it said being gone.
        self.forget_node(id, None).await;
        if let Err(error) = self.stores.feed.send(&Signal::Farewell(id)).await {
            tracing::debug!(error = %Chain(&error), "the end was not announced");
        }
        drop(none_underway);
    }

    /// Forgets the nodes that ended without a word, for as long as this runs: those that say nothing any more, and said something
    /// for the last time a day ago. Clocks may be wrong by more than that, so the second is never enough.
    async fn clear_away(&self, me: NodeId) {
        let mut silent = Silent::default();
        let mut rounds = every(CLEAR_EVERY);
        loop {
            rounds.tick().await;
            let asked = self.lease_time();
            let Ok(NodeReports { readable, .. }) = self.stores.feed.nodes().await else {
                continue;
            };
            let reports = readable.iter().filter(|report| report.id != me);
            let numbers = reports.map(|report| (report.id, report.tick, report.patience));
            let found = silent.find(numbers, asked, self.lease_time());
            let now = self.clock.now().as_offset_date_time();
            let is_old = |node| {
                let mut reports = readable.iter();
                reports
                    .any(|it| it.id == node && now - it.seen_at.as_offset_date_time() > REMEMBERED)
            };
            for (node, number) in found.into_iter().filter(|(node, _)| is_old(*node)) {
                self.forget_node(node, Some(number)).await;
            }
        }
    }

    async fn forget_node(&self, id: NodeId, last: Option<u64>) {
        if let Err(error) = self.stores.feed.forget(id, last).await {
            tracing::debug!(error = %Chain(&error), "what a node said was not cleared away");
        }
    }

    /// What the nodes say of themselves. Of what cannot be read there is a warning.
    pub(super) async fn reports(&self) -> Result<NodeReports, StoreError> {
        let reports = self.stores.feed.nodes().await?;
        for report in &reports.unreadable {
            tracing::warn!(
                node = %report.id,
                part = report.part,
                "what this node has said of itself was altered and cannot be read; to be deleted, if there is no such node"
            );
        }
        Ok(reports)
    }

    /// The nodes that serve from this store, and those that did within a day and did not say that they end; the last to be heard
    /// first.
    pub async fn nodes(&self, _: &OperatorAccess) -> Result<NodeReports, StoreError> {
        self.stores.feed.nodes().await
    }

    /// Waits until every node has heard of what was changed before this was called, or cannot go by anything older any
    /// more; for ten seconds at most. The module `nodes` says why that can be known.
    pub async fn await_propagation(&self) -> Propagation {
        let began = self.lease_time();
        let told = |propagated, nodes| Propagation {
            propagated,
            nodes,
            took: self.lease_time().saturating_sub(began),
        };
        // Whoever may speak in the database, and does not hear what is said, cannot answer in the name of others.
        let (Some(&me), Ok(number)) = (self.verifier.node_id.get(), self.random()) else {
            return told(false, 0);
        };
        let own = self.config.verification.patience();
        let Ok(reports) = self.reports().await else {
            // Who is there cannot be told. Those that are as patient as this one are over all the same, for what it is worth.
            let over_at = began.saturating_add(own);
            let left = over_at.saturating_sub(self.lease_time());
            tokio::time::sleep(left.min(LONGEST_WAIT)).await;
            return told(false, 0);
        };
        let number = u64::from_ne_bytes(number);
        let nodes = &self.verifier.nodes;
        let mut asked = nodes.ask(number, me, own, Told::from(&reports), began);
        // Also where nobody waits any more.
        let _withdrawn = Withdrawn(nodes, asked.number);
        self.say(Signal::Probe(Probe { node: me, number }));
        let known = tokio::time::timeout(LONGEST_WAIT, self.until_known(&mut asked)).await;
        told(known.is_ok(), asked.nodes())
    }

    async fn until_known(&self, asked: &mut Asked) {
        loop {
            let left = asked.until().saturating_sub(self.lease_time());
            tokio::select! {
                () = tokio::time::sleep(left) => return,
                // It is told as long as the question is not withdrawn.
                Ok(()) = asked.back.changed() => {}
            }
        }
    }
}

/// A question that is withdrawn when this is dropped.
struct Withdrawn<'a>(&'a Nodes, u64);

impl Drop for Withdrawn<'_> {
    fn drop(&mut self) {
        self.0.withdraw(self.1);
    }
}

fn every(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
