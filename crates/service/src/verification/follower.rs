//! Hears of changes and proves that it still hears: what to do with what is heard, without any waiting.
//!
//! It is apart from what waits ([`super::follow`]), so that a simulation can have it hear things in every order that there is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use leadr_auth_domain::NodeId;
use leadr_auth_ports::{Heard, Signal};

use super::cache::VerificationCache;
use super::nodes::Nodes;
use super::{Sabotage, VerificationConfig};

/// How many ticks may be underway: more are sent only where none comes back.
const UNDERWAY: usize = 64;

/// Keeps a cache true to what is heard. Times are of the machine's uptime.
pub(crate) struct Follower {
    cache: Arc<VerificationCache>,
    nodes: Arc<Nodes>,
    config: VerificationConfig,
    me: NodeId,
    /// The ticks that have not come back, and when each was sent.
    underway: VecDeque<(u64, Duration)>,
    ticks: u64,
    listens_since: Duration,
    /// It may be of the time before it listened.
    proof: Option<Proof>,
}

/// A tick that came back.
#[derive(Clone, Copy)]
pub(crate) struct Proof {
    pub(crate) sent_at: Duration,
    /// How long it took.
    pub(crate) lag: Duration,
}

impl Proof {
    fn heard_at(self) -> Duration {
        self.sent_at.saturating_add(self.lag)
    }
}

impl Follower {
    pub(crate) fn new(
        cache: Arc<VerificationCache>,
        nodes: Arc<Nodes>,
        config: VerificationConfig,
        me: NodeId,
    ) -> Self {
        Self {
            cache,
            nodes,
            config,
            me,
            underway: VecDeque::new(),
            ticks: 0,
            listens_since: Duration::ZERO,
            proof: None,
        }
    }

    /// A subscription is about to be made.
    pub(crate) fn before_listening(&self) {
        if self.config.sabotage.is(Sabotage::ListenLate) {
            self.cache.forget_everything();
        }
    }

    /// It listens now. What changed before that it has not heard, so all that it kept goes; not before it listens, or what
    /// is read in between would stay.
    pub(crate) fn listens(&mut self, now: Duration) {
        if !self.config.sabotage.is(Sabotage::ListenLate) {
            self.cache.forget_everything();
        }
        self.underway.clear();
        self.listens_since = now;
        self.nodes.listening(now);
    }

    /// It does not listen any more. What it keeps is good until the lease is over, as if nothing were to be heard.
    pub(crate) fn lost(&mut self) {
        self.underway.clear();
        self.nodes.lost();
    }

    /// Does with what it heard what is to be done, and answers what it has to say to it.
    pub(crate) fn hear(&mut self, heard: Heard, now: Duration) -> Option<Signal> {
        match heard {
            Heard::Change(change) => self.cache.forget(&change),
            Heard::Signal(Signal::Tick {
                node,
                number,
                patience,
            }) => {
                self.nodes.ticked(node, patience, now);
                if node == self.me {
                    self.own_tick(number, now);
                }
            }
            Heard::Signal(Signal::Probe(probe)) if probe.node != self.me => {
                return Some(Signal::Seen { by: self.me, probe });
            }
            Heard::Signal(Signal::Probe(probe)) => {
                self.nodes.returned(probe.number, self.me, now);
            }
            Heard::Signal(Signal::Seen { by, probe }) if probe.node == self.me => {
                self.nodes.seen(probe.number, by);
            }
            Heard::Signal(Signal::Farewell(node)) => self.nodes.ended(node),
            Heard::Signal(Signal::Seen { .. }) => {}
        }
        None
    }

    /// One of its own ticks has come back: it has heard of everything that was committed before that was sent.
    fn own_tick(&mut self, number: u64, now: Duration) {
        while let Some(&(oldest, sent_at)) = self.underway.front() {
            if oldest > number {
                break;
            }
            self.underway.pop_front();
            if oldest == number {
                let lag = now.saturating_sub(sent_at);
                self.proof = Some(Proof { sent_at, lag });
                self.cache
                    .lease
                    .extend(sent_at.saturating_add(self.config.bound));
            }
        }
    }

    /// Notes that a tick is sent now, and answers its number.
    pub(crate) fn tick(&mut self, now: Duration) -> u64 {
        self.ticks += 1;
        self.underway.push_back((self.ticks, now));
        if self.underway.len() > UNDERWAY {
            self.underway.pop_front();
        }
        self.ticks
    }

    /// Has it heard nothing of its own for so long that it had better listen anew?
    pub(crate) fn is_deaf(&self, now: Duration) -> bool {
        let patience = self.config.bound.max(4 * self.config.tick) + self.config.tick;
        let heard_at = self.proof.map_or(Duration::ZERO, Proof::heard_at);
        now.saturating_sub(heard_at.max(self.listens_since)) > patience
    }

    /// Has a tick come back since it listens? Those that were sent before are not waited for any more.
    pub(crate) fn is_proven(&self) -> bool {
        self.proof
            .is_some_and(|proof| proof.sent_at >= self.listens_since)
    }

    /// The last tick that came back.
    pub(crate) const fn proof(&self) -> Option<Proof> {
        self.proof
    }
}
