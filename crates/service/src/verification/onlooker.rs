//! Waits until every node has heard of a change, for somebody who is no node: a tool that makes one beside them.

use std::collections::HashSet;
use std::time::Duration;

use leadr_auth_domain::NodeId;
use leadr_auth_ports::{Heard, Probe, Signal, StoreError, Subscription};

use super::Propagation;
use super::follow::LONGEST_WAIT;
use crate::Service;

/// Somebody who listens since before a change.
pub struct Onlooker {
    subscription: Box<dyn Subscription>,
    id: NodeId,
}

impl Service {
    /// Begins to listen, to be asked by [`Service::await_hearing`] about a change that is made after this.
    pub async fn look_on(&self) -> Result<Onlooker, StoreError> {
        let id = self.random().map_err(StoreError::internal)?;
        Ok(Onlooker {
            subscription: self.stores.feed.subscribe().await?,
            id: NodeId::from_random_bytes(id),
        })
    }

    /// Waits until every node has heard of what was changed before this was called, or cannot go by anything older any more.
    ///
    /// Nodes that say in the store how they are, are asked; where none does, a server's patience is taken to be `usual`. One that
    /// is not there any more is waited for until its patience is over.
    pub async fn await_hearing(&self, onlooker: Onlooker, usual: Duration) -> Propagation {
        let Onlooker {
            mut subscription,
            id,
        } = onlooker;
        let began = self.lease_time();
        let reports = self.stores.feed.nodes().await.ok();
        let nodes: HashSet<_> = reports.iter().flatten().map(|report| report.id).collect();
        let patience = reports.iter().flatten().map(|report| report.patience);
        let longest = patience.fold(usual, Duration::max);
        let probe = Probe {
            node: id,
            number: 0,
        };
        let count = nodes.len();
        let answered = async {
            let mut missing = nodes;
            if missing.is_empty() || self.stores.feed.send(&Signal::Probe(probe)).await.is_err() {
                std::future::pending::<()>().await;
            }
            while !missing.is_empty() {
                match subscription.next().await {
                    Ok(Heard::Signal(Signal::Seen { by, probe: seen })) if seen == probe => {
                        missing.remove(&by);
                    }
                    Ok(Heard::Signal(Signal::Farewell(node))) => {
                        missing.remove(&node);
                    }
                    Ok(_) => {}
                    Err(_) => std::future::pending().await,
                }
            }
        };
        let in_time = tokio::time::timeout(longest.min(LONGEST_WAIT), answered).await;
        Propagation {
            propagated: in_time.is_ok() || (reports.is_some() && longest <= LONGEST_WAIT),
            nodes: count,
            took: self.lease_time().saturating_sub(began),
        }
    }
}
