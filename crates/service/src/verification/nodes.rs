//! The other nodes, as far as they can be heard, and the question whether they have heard of a change.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leadr_auth_domain::NodeId;
use tokio::sync::watch;

/// More nodes than there are. Whoever may speak in the database can say that there are others.
const MOST_NODES: usize = 1_000;

/// A longer patience than can be configured is nobody's.
const LONGEST_PATIENCE: Duration = Duration::from_hours(25);

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
    /// Who is to answer. It is known when the question has come back to whoever asked: then every tick has been heard that was
    /// sent before it.
    missing: Option<HashSet<NodeId>>,
    listening_since: Option<Duration>,
    answered: watch::Sender<bool>,
}

/// A question that has been noted and is to be sent.
pub(crate) struct Asked {
    /// Its number.
    pub(crate) number: u64,
    /// How many nodes have been heard lately, and are expected to answer.
    pub(crate) nodes: usize,
    /// Becomes true when it has come back and all have answered.
    pub(crate) answered: watch::Receiver<bool>,
    began: Duration,
    /// The longest patience among those nodes.
    patience: Duration,
    /// Since when this node has been hearing all the others; `None` while it does not.
    listening_since: Option<Duration>,
}

/// What to wait for to know that every node has heard of a change, or cannot go by anything older any more.
pub(crate) struct Wait {
    /// When every node's patience is over; where that is not known, when there is no use in waiting any longer.
    pub(crate) until: Duration,
    /// Whether it is known.
    pub(crate) until_is_proof: bool,
    /// Whether it is enough that all have answered.
    pub(crate) answers_are_proof: bool,
}

impl Asked {
    /// With this node's own patience, and the longest of all that say in the store how they are, if that can be read. Those
    /// may be heard no more that have the longest patience.
    pub(crate) fn wait(&self, own: Duration, told: Option<Duration>) -> Wait {
        let longest = told.map(|told| told.max(self.patience).max(own));
        // Who has listened for less than a node may be silent does not know them all.
        let knows_all = longest
            .zip(self.listening_since)
            .is_some_and(|(longest, since)| since.saturating_add(longest) <= self.began);
        Wait {
            until: self.began.saturating_add(longest.unwrap_or(own)),
            until_is_proof: longest.is_some(),
            answers_are_proof: knows_all,
        }
    }
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
        let patience = patience.min(LONGEST_PATIENCE);
        let alive = Alive {
            heard_at: now,
            patience: patience.max(left.unwrap_or_default()),
        };
        if known.is_none() && state.alive.len() >= MOST_NODES {
            state.alive.retain(|_, alive| alive.until() > now);
            if state.alive.len() >= MOST_NODES {
                return;
            }
        }
        state.alive.insert(node, alive);
    }

    pub(crate) fn ended(&self, node: NodeId) {
        let mut state = self.state();
        state.alive.remove(&node);
        for question in state.questions.values_mut() {
            question.answer(node);
        }
    }

    /// Notes a question to all nodes that is to be sent now, by `me`.
    pub(crate) fn ask(&self, me: NodeId, now: Duration) -> Asked {
        let mut state = self.state();
        let asked = state.others(me, now);
        let number = state.next;
        state.next += 1;
        let (sender, answered) = watch::channel(false);
        let listening_since = state.listening_since;
        let question = Question {
            missing: None,
            listening_since,
            answered: sender,
        };
        state.questions.insert(number, question);
        Asked {
            number,
            nodes: asked.len(),
            answered,
            began: now,
            patience: asked.values().copied().max().unwrap_or_default(),
            listening_since,
        }
    }

    /// A question has come back to this node, which asked it. Without that it does not know how long ago the last tick was sent
    /// that it has heard, and so not who is there to answer, nor whether it has heard of the change itself.
    pub(crate) fn returned(&self, number: u64, me: NodeId, now: Duration) {
        let mut state = self.state();
        let missing: HashSet<_> = state.others(me, now).into_keys().collect();
        let listening_since = state.listening_since;
        let Some(question) = state.questions.get_mut(&number) else {
            return;
        };
        // What it has missed since it asked it does not know.
        if question.listening_since == listening_since {
            question.answered.send_replace(missing.is_empty());
            question.missing = Some(missing);
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

impl State {
    /// The nodes but `me` that may still go by what they knew before `now`, with their patience.
    fn others(&self, me: NodeId, now: Duration) -> HashMap<NodeId, Duration> {
        let alive = self.alive.iter();
        alive
            .filter(|(node, alive)| **node != me && alive.until() > now)
            .map(|(node, alive)| (*node, alive.patience))
            .collect()
    }
}

impl Question {
    fn answer(&mut self, by: NodeId) {
        if let Some(missing) = &mut self.missing
            && missing.remove(&by)
            && missing.is_empty()
        {
            self.answered.send_replace(true);
        }
    }
}
