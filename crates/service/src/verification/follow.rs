//! Listens to the store for as long as the process runs.

use std::sync::Arc;
use std::time::Duration;

use leadr_auth_domain::{NodeId, OperatorAccess, Timestamp};
use leadr_auth_ports::{NodeReport, Probe, Signal, StoreError, Subscription};
use tokio::time::{Interval, MissedTickBehavior};

use super::follower::Follower;
use super::nodes::Nodes;
use crate::{Chain, Service};

/// How long it waits before it asks a store again that does not let it listen.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How many ticks may wait for the store at the same time.
pub(super) const TICKS_AT_ONCE: u32 = 4;

/// For how long a node is remembered that says nothing any more.
const REMEMBERED: time::Duration = time::Duration::days(1);

/// The most that somebody waits for proof that a change has reached every node.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How far a change has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Propagation {
    /// Whether every node that runs has heard of it, or cannot go by what it knew before any more.
    pub propagated: bool,
    /// How many nodes run, as far as this one hears; itself included.
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
        let started_at = self.clock.now();
        self.clear_away(id, started_at).await;
        let mut follower = Follower::new(
            Arc::clone(&self.verifier.cache),
            Arc::clone(&self.verifier.nodes),
            self.config.verification.clone(),
            id,
        );
        let mut failing = false;
        loop {
            follower.before_listening();
            match self.stores.feed.subscribe().await {
                Ok(mut subscription) => {
                    follower.listens(self.lease_time());
                    if failing {
                        tracing::info!("changes are heard again");
                    }
                    let error = self.listen(&mut follower, &mut subscription, started_at);
                    let error = error.await;
                    follower.lost();
                    failing = true;
                    tracing::warn!(error = %Chain(&error), "changes are not heard; what is kept is dropped when they are again");
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(error = %Chain(&error), "changes are not heard; the store is asked for every key");
                    }
                    failing = true;
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Listens until that is over, and says why it is.
    async fn listen(
        &self,
        follower: &mut Follower,
        subscription: &mut Box<dyn Subscription>,
        started_at: Timestamp,
    ) -> StoreError {
        let mut ticks = every(self.config.verification.tick);
        loop {
            tokio::select! {
                biased;
                heard = subscription.next() => match heard {
                    Ok(heard) => {
                        let reply = follower.hear(heard, self.lease_time());
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
        if let Err(error) = self.stores.feed.send(&Signal::Farewell(id)).await {
            tracing::debug!(error = %Chain(&error), "the end was not announced");
        }
        self.clear_away(id, self.clock.now()).await;
        drop(none_underway);
    }

    async fn clear_away(&self, id: NodeId, now: Timestamp) {
        let silent_since = now.as_offset_date_time().checked_sub(REMEMBERED);
        let silent_since = silent_since.and_then(|since| Timestamp::new(since).ok());
        let forgotten = self
            .stores
            .feed
            .forget(id, silent_since.unwrap_or(Timestamp::MIN));
        if let Err(error) = forgotten.await {
            tracing::debug!(error = %Chain(&error), "what nodes said was not cleared away");
        }
    }

    /// The nodes that serve from this store, and those that did within a day and did not say that they end; the last to be heard
    /// first.
    pub async fn nodes(&self, _: &OperatorAccess) -> Result<Vec<NodeReport>, StoreError> {
        self.stores.feed.nodes().await
    }

    /// Waits until every node has heard of what was changed before this was called, or cannot go by anything older any
    /// more: that is so when its patience is over.
    pub async fn await_propagation(&self) -> Propagation {
        let began = self.lease_time();
        let Some(&me) = self.verifier.node_id.get() else {
            return Propagation {
                propagated: false,
                nodes: 0,
                took: Duration::ZERO,
            };
        };
        let mut asked = self.verifier.nodes.ask(me, began);
        // Also where nobody waits any more.
        let _withdrawn = Withdrawn(&self.verifier.nodes, asked.number);
        self.say(Signal::Probe(Probe {
            node: me,
            number: asked.number,
        }));
        let own = self.config.verification.patience();
        let reports = self.stores.feed.nodes().await.ok();
        let told = reports.map(|reports| {
            let told = reports.iter().map(|report| report.patience);
            told.max().unwrap_or_default()
        });
        let wait = asked.wait(own, told);
        let left = wait.until.saturating_sub(self.lease_time());
        let answered = async {
            if !wait.answers_are_proof || asked.answered.wait_for(|all| *all).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let in_time = tokio::time::timeout(left.min(LONGEST_WAIT), answered).await;
        let took = self.lease_time().saturating_sub(began);
        Propagation {
            propagated: in_time.is_ok() || (wait.until_is_proof && left <= LONGEST_WAIT),
            nodes: asked.nodes + 1,
            took,
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
