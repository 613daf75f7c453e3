//! The other nodes, as far as they can be heard, and the question whether they have heard of a change.
//!
//! # Who is to be asked, and why that is all of them
//!
//! Whoever wants to know whether a change is known everywhere reads what the nodes have said of themselves ([`NodeReports`]), then
//! sends a question, and waits for it to come back and for the nodes to answer. The change was committed before all of that.
//!
//! - A node relies on what it keeps once a tick of its own has come back to it, and its report is written with the tick. So one
//!   whose report was not there when the reports were read sent its first tick later, hears of the change before that, and needs
//!   no question. It does not matter for how long whoever asks has listened.
//! - A report goes when its node ends, which keeps nothing by then, and says afterwards that it has ended; or when it has been
//!   the same for longer than the node's patience ([`Silent`]), so that the node's lease is over. Then the next tick writes it
//!   anew, and the first point is true of it again.
//! - A node that answers has heard the question, and everything before it.
//! - One that does not answer may go on for its patience, counted from the sending of its last tick. When the question has come back,
//!   every tick has been heard that was committed before it, and since this node listens. So the last tick that was sent before
//!   the question is the last that was heard; or, where none was, one of before this node listened. One that was sent after the
//!   question comes back to its node after the question, and with it all that was changed before. So who was killed is waited for
//!   until its patience is over, counted from there, and no longer than that.
//! - Where the question does not come back, because this node is deaf, nothing is known of who lives; but nobody goes by
//!   anything of before the question when the longest patience of all is over after it.
//!
//! All times are of this machine's uptime. What other machines say about the time is never asked.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leadr_auth_domain::NodeId;
use leadr_auth_ports::NodeReports;
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
    heard: HashMap<NodeId, Heard>,
    /// When a tick was heard last for which there was no room.
    passed_over_at: Option<Duration>,
    questions: HashMap<u64, Question>,
}

/// What was heard of a node.
#[derive(Clone, Copy)]
struct Heard {
    /// When its last tick was heard.
    at: Duration,
    patience: Duration,
    /// Since then it was said that it has ended. Whoever may speak in the database can say so: it is true of those only whose
    /// report is gone.
    ended: bool,
}

impl Heard {
    /// Until when it may go on with what it kept when it was heard. Its tick was sent before it was heard.
    fn until(self) -> Duration {
        self.at.saturating_add(self.patience)
    }
}

/// The nodes that say in the store how they are, with their patience; `None` where that cannot be read.
pub(crate) struct Told(HashMap<NodeId, Option<Duration>>);

impl From<&NodeReports> for Told {
    fn from(reports: &NodeReports) -> Self {
        let readable = reports.readable.iter();
        let readable = readable.map(|report| (report.id, Some(report.patience)));
        let unreadable = reports.unreadable.iter();
        Self::new(readable.chain(unreadable.map(|report| (report.id, report.patience))))
    }
}

impl Told {
    pub(crate) fn new(nodes: impl Iterator<Item = (NodeId, Option<Duration>)>) -> Self {
        Self(
            nodes
                .map(|(id, patience)| (id, patience.map(|it| it.min(LONGEST_PATIENCE))))
                .collect(),
        )
    }

    /// Had this node a report?
    fn knows(&self, node: NodeId) -> bool {
        self.0.contains_key(&node)
    }

    /// The nodes, with how long each may at most go on by what it knew.
    pub(crate) fn patience(&self) -> impl Iterator<Item = (NodeId, Duration)> {
        let nodes = self.0.iter();
        nodes.map(|(id, patience)| (*id, patience.unwrap_or(LONGEST_PATIENCE)))
    }
}

struct Question {
    told: Told,
    /// Who is to answer, and until when each of them may go on without. It is known when the question has come back to whoever
    /// asked: then every tick has been heard that was sent before it.
    missing: Option<HashMap<NodeId, Duration>>,
    back: watch::Sender<Option<Back>>,
}

/// What is known when a question has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Back {
    /// How many nodes, but for the one that asked, are there to be reckoned with.
    pub(crate) nodes: usize,
    /// Until when those of them may go on by what they knew that have not answered; zero if all have.
    until: Duration,
}

/// A question that has been noted and is to be sent.
pub(crate) struct Asked {
    /// Its number.
    pub(crate) number: u64,
    /// What is known of the others once it has come back.
    pub(crate) back: watch::Receiver<Option<Back>>,
    /// When every node's patience is over, whether it comes back or not.
    over_at: Duration,
}

impl Asked {
    /// From when on every node has heard of what was changed before the question, or cannot go by anything older any more, as far
    /// as is known now. It becomes earlier with answers.
    pub(crate) fn until(&mut self) -> Duration {
        let back = *self.back.borrow_and_update();
        back.map_or(self.over_at, |back| back.until.min(self.over_at))
    }

    /// How many nodes there are to be reckoned with, including the one that asks; zero where it cannot hear of the others.
    pub(crate) fn nodes(&self) -> usize {
        self.back.borrow().map_or(0, |back| back.nodes + 1)
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
        let left = state.heard.get(&node);
        let left = left.map_or(Duration::ZERO, |heard| heard.until().saturating_sub(now));
        let heard = Heard {
            at: now,
            patience: patience.min(LONGEST_PATIENCE).max(left),
            ended: false,
        };
        state.note(node, heard, now);
    }

    /// It was said that a node has ended. Where its report was there when somebody began to ask, it may not be so.
    pub(crate) fn ended(&self, node: NodeId) {
        let mut state = self.state();
        if let Some(heard) = state.heard.get_mut(&node) {
            heard.ended = true;
        }
        let questions = state.questions.values_mut();
        for question in questions.filter(|question| !question.told.knows(node)) {
            question.answer(node);
        }
    }

    /// Notes a question to all nodes that is to be sent now, by `me`, whose patience is `own`. By `told` the nodes are known that
    /// were there at `began` or later, and the change was committed before that. The number is to be one that nobody can guess.
    pub(crate) fn ask(
        &self,
        number: u64,
        me: NodeId,
        own: Duration,
        told: Told,
        began: Duration,
    ) -> Asked {
        let mut state = self.state();
        // Those may be heard no more that have the longest patience.
        let heard = state.others(me, &told, began).into_values();
        let told_patience = told.patience().map(|(_, patience)| patience);
        let over_at = told_patience
            .map(|patience| began.saturating_add(patience))
            .chain(heard)
            .fold(began.saturating_add(own), Duration::max);
        let (sender, back) = watch::channel(None);
        let question = Question {
            told,
            missing: None,
            back: sender,
        };
        state.questions.insert(number, question);
        Asked {
            number,
            back,
            over_at,
        }
    }

    /// A question has come back to this node, which asked it. Without that it does not know how long ago the last tick was sent
    /// that it has heard, and so not who is there to answer, nor whether it has heard of the change itself.
    pub(crate) fn returned(&self, number: u64, me: NodeId, now: Duration) {
        let mut state = self.state();
        let (Some(since), Some(mut question)) =
            (state.listening_since, state.questions.remove(&number))
        else {
            return;
        };
        let missing = state.expected(me, &question.told, since, now);
        question.back.send_replace(Some(Back {
            nodes: missing.len(),
            until: latest(&missing),
        }));
        question.missing = Some(missing);
        state.questions.insert(number, question);
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
    fn note(&mut self, node: NodeId, heard: Heard, now: Duration) {
        if !self.heard.contains_key(&node) && self.heard.len() >= MOST_NODES {
            self.heard.retain(|_, heard| heard.until() > now);
            if self.heard.len() >= MOST_NODES {
                self.passed_over_at = Some(now);
                return;
            }
        }
        self.heard.insert(node, heard);
    }

    /// The nodes but `me` that were heard, and may still go by what they knew before `now`, and until when.
    fn others(&self, me: NodeId, told: &Told, now: Duration) -> HashMap<NodeId, Duration> {
        let heard = self.heard.iter();
        heard
            .filter(|(node, heard)| **node != me && heard.until() > now)
            .filter(|(node, heard)| !heard.ended || told.knows(**node))
            .map(|(node, heard)| (*node, heard.until()))
            .collect()
    }

    /// With those that are known by the store. Everything is to have been heard that was said from `since` to the question.
    fn expected(
        &self,
        me: NodeId,
        told: &Told,
        since: Duration,
        now: Duration,
    ) -> HashMap<NodeId, Duration> {
        let mut expected = self.others(me, told, now);
        // What was said until then may have been missed.
        let since = self.passed_over_at.map_or(since, |at| at.max(since));
        for (&node, &patience) in &told.0 {
            let heard = self.heard.get(&node);
            let at = heard.map_or(since, |heard| heard.at.max(since));
            let patience = patience.max(heard.map(|heard| heard.patience));
            let patience = patience.unwrap_or(LONGEST_PATIENCE);
            let until = at.saturating_add(patience);
            if node != me && until > now {
                expected.insert(node, until);
            }
        }
        expected
    }
}

fn latest(missing: &HashMap<NodeId, Duration>) -> Duration {
    missing.values().copied().max().unwrap_or_default()
}

impl Question {
    fn answer(&mut self, by: NodeId) {
        let Some(missing) = &mut self.missing else {
            return;
        };
        if missing.remove(&by).is_some() {
            let until = latest(missing);
            self.back.send_modify(|back| {
                if let Some(back) = back {
                    back.until = until;
                }
            });
        }
    }
}

/// Finds the reports of nodes that are not there any more, by seeing that they stay the same.
///
/// A node that relies on anything has sent a tick within its patience, and each tick writes another number into its report. So one
/// that has been seen with the same number for longer than that is of a node that relies on nothing. For how long, this machine's
/// uptime says: the times in a report are of a clock that may be a day behind.
#[derive(Default)]
pub(crate) struct Silent(HashMap<NodeId, (u64, Duration)>);

impl Silent {
    /// Is to be told of all reports each time they were read: of which node, its number and its patience; and between which two
    /// times that was. Answers those that have been the same for long enough, with their number.
    pub(crate) fn find(
        &mut self,
        reports: impl Iterator<Item = (NodeId, u64, Duration)>,
        asked: Duration,
        read: Duration,
    ) -> Vec<(NodeId, u64)> {
        let mut silent = Vec::new();
        let mut seen = HashMap::new();
        for (node, number, patience) in reports {
            let known = self.0.get(&node).filter(|(last, _)| *last == number);
            let since = known.map_or(read, |(_, since)| *since);
            if since.saturating_add(patience) < asked {
                silent.push((node, number));
            }
            seen.insert(node, (number, since));
        }
        self.0 = seen;
        silent
    }
}
