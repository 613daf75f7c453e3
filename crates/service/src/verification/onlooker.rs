//! Waits until every node has heard of a change, for somebody who is no node: a tool that makes one beside them.

use std::collections::HashMap;
use std::time::Duration;

use leadr_auth_domain::NodeId;
use leadr_auth_ports::{Heard, Probe, Signal, StoreError, Subscription};

use super::Propagation;
use super::follow::LONGEST_WAIT;
use super::nodes::Told;
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
        let began = tokio::time::Instant::now();
        let reports = self.reports().await.ok();
        let known = reports.is_some();
        let told = Told::from(&reports.unwrap_or_default());
        let mut missing: HashMap<_, _> = told.patience().collect();
        let count = missing.len();
        let probe = Probe {
            node: id,
            number: 0,
        };
        let mut asks = count > 0 && self.stores.feed.send(&Signal::Probe(probe)).await.is_ok();
        let until_known = async {
            loop {
                // Those that have answered are waited for no more, and the others since this was called.
                let patience = match count {
                    0 => usual,
                    _ => missing.values().copied().max().unwrap_or_default(),
                };
                let over = tokio::time::sleep_until(began + patience);
                let heard = async {
                    if asks {
                        subscription.next().await
                    } else {
                        std::future::pending().await
                    }
                };
                tokio::select! {
                    () = over => return,
                    heard = heard => match heard {
                        Ok(Heard::Signal(Signal::Seen { by, probe: seen })) if seen == probe => {
                            missing.remove(&by);
                        }
                        Ok(_) => {}
                        Err(_) => asks = false,
                    },
                }
            }
        };
        let in_time = tokio::time::timeout(LONGEST_WAIT, until_known)
            .await
            .is_ok();
        Propagation {
            propagated: known && in_time,
            nodes: count,
            took: began.elapsed(),
        }
    }
}
