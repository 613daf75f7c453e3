//! A change feed for a store that is within one process.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use leadr_auth_domain::NodeId;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{Heard, NodeReport, NodeReports, Signal, StoreError, Subscription};

/// What an adapter is made of whose changes are all made by its own process: it says what it commits by
/// [`LocalFeed::tell`], in the order in which it does, and before it answers. Its clones are the same.
///
/// Nobody waits for whoever listens: what is not heard yet is kept. That is no growth without end, since a subscription that
/// nobody asks any more is dropped.
#[derive(Clone, Debug, Default)]
pub struct LocalFeed(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    subscriptions: Vec<UnboundedSender<Heard>>,
    reports: BTreeMap<NodeId, NodeReport>,
}

impl LocalFeed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets everybody who listens hear something.
    pub fn tell(&self, heard: &Heard) {
        self.state()
            .subscriptions
            .retain(|subscription| subscription.send(heard.clone()).is_ok());
    }

    /// Begins to listen.
    pub fn subscribe(&self) -> Box<dyn Subscription> {
        let (sender, receiver) = unbounded_channel();
        self.state().subscriptions.push(sender);
        Box::new(LocalSubscription(receiver))
    }

    /// As [`ChangeFeed::tick`](crate::ChangeFeed::tick).
    pub fn tick(&self, report: &NodeReport) {
        self.state().reports.insert(report.id, report.clone());
        self.tell(&Heard::Signal(Signal::Tick {
            node: report.id,
            number: report.tick,
            patience: report.patience,
        }));
    }

    /// As [`ChangeFeed::nodes`](crate::ChangeFeed::nodes).
    pub fn nodes(&self) -> NodeReports {
        let mut readable: Vec<_> = self.state().reports.values().cloned().collect();
        readable.sort_by_key(|report| Reverse(report.seen_at));
        NodeReports {
            readable,
            unreadable: Vec::new(),
        }
    }

    /// As [`ChangeFeed::forget`](crate::ChangeFeed::forget).
    pub fn forget(&self, id: NodeId, last: Option<u64>) {
        let is_meant = |report: &NodeReport| last.is_none_or(|last| report.tick == last);
        self.state()
            .reports
            .retain(|_, report| report.id != id || !is_meant(report));
    }
}

#[derive(Debug)]
struct LocalSubscription(UnboundedReceiver<Heard>);

#[async_trait]
impl Subscription for LocalSubscription {
    async fn next(&mut self) -> Result<Heard, StoreError> {
        let heard = self.0.recv().await;
        heard.ok_or_else(|| StoreError::unavailable("the store was closed"))
    }
}
