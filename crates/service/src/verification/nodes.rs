//! The other nodes, as far as they can be heard, and the question whether they have heard of a change.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leadr_auth_domain::NodeId;
use tokio::sync::watch;

/// What is known of the nodes. Times are of the machine's uptime.
#[derive(Default)]
pub(crate) struct Nodes(Mutex<State>);

#[derive(Default)]
struct State {
    /// Since when every tick of every node is heard; `None` while it is not.
    listening_since: Option<Duration>,
    alive: HashMap<NodeId, Alive>,
    questions: HashMap<u64, Question>,
    next: u64,
}

/// A node that was heard.
#[derive(Clone, Copy)]
struct Alive {
    heard_at: Duration,
    patience: Duration,
}

impl Alive {
    /// Until when it may go on with what it kept when it was heard. Its tick was sent before it was heard.
    fn until(self) -> Duration {
        self.heard_at.saturating_add(self.patience)
    }
}

struct Question {
    missing: HashSet<NodeId>,
    answered: watch::Sender<bool>,
}

/// A question that has been noted and is to be sent.
pub(crate) struct Asked {
    /// Its number.
    pub(crate) number: u64,
    /// How many nodes have to answer.
    pub(crate) nodes: usize,
    /// The longest patience among them.
    pub(crate) patience: Duration,
    /// Since when this node has been hearing all the others; `None` while it does not.
    pub(crate) listening_since: Option<Duration>,
    /// Becomes true when all have answered.
    pub(crate) answered: watch::Receiver<bool>,
}

impl Nodes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listening(&self, now: Duration) {
        self.state().listening_since = Some(now);
    }

    pub(crate) fn lost(&self) {
        self.state().listening_since = None;
    }

    pub(crate) fn ticked(&self, node: NodeId, patience: Duration, now: Duration) {
        let mut state = self.state();
        // Before a shorter patience counts, what was kept under the longer one has to be over.
        let known = state.alive.get(&node);
        let left = known.map(|alive| alive.until().saturating_sub(now));
        let alive = Alive {
            heard_at: now,
            patience: patience.max(left.unwrap_or_default()),
        };
        state.alive.insert(node, alive);
        if state.alive.len() > 1_000 {
            state.alive.retain(|_, alive| alive.until() > now);
        }
    }

    pub(crate) fn ended(&self, node: NodeId) {
        let mut state = self.state();
        state.alive.remove(&node);
        for question in state.questions.values_mut() {
            question.answer(node);
        }
    }

    /// Notes a question to all nodes but `me` that may still go by what they knew before `now`.
    pub(crate) fn ask(&self, me: NodeId, now: Duration) -> Asked {
        let mut state = self.state();
        let alive = state.alive.iter();
        let asked: Vec<_> = alive
            .filter(|(node, alive)| **node != me && alive.until() > now)
            .map(|(node, alive)| (*node, alive.patience))
            .collect();
        let number = state.next;
        state.next += 1;
        let (sender, answered) = watch::channel(asked.is_empty());
        let question = Question {
            missing: asked.iter().map(|(node, _)| *node).collect(),
            answered: sender,
        };
        state.questions.insert(number, question);
        Asked {
            number,
            nodes: asked.len(),
            patience: asked.iter().map(|(_, p)| *p).max().unwrap_or_default(),
            listening_since: state.listening_since,
            answered,
        }
    }

    /// A node has answered.
    pub(crate) fn seen(&self, number: u64, by: NodeId) {
        if let Some(question) = self.state().questions.get_mut(&number) {
            question.answer(by);
        }
    }

    /// Nobody waits for the answers any more.
    pub(crate) fn withdraw(&self, number: u64) {
        self.state().questions.remove(&number);
    }
}

impl Question {
    fn answer(&mut self, by: NodeId) {
        if self.missing.remove(&by) && self.missing.is_empty() {
            self.answered.send_replace(true);
        }
    }
}
