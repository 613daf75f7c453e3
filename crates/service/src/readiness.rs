//! Whether the process is able to serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Where a process is in its life. It goes forward only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The store has not yet been seen with its schema and its operator.
    #[default]
    Starting,
    /// It is able to serve.
    Ready,
    /// It is about to end: it still answers, and whoever has a choice should go elsewhere.
    Stopping,
}

/// A switch that start-up turns to [`Phase::Ready`] and shutdown to [`Phase::Stopping`]. Its clones are the same switch.
///
/// Requests are not turned away by it: while the store is away they fail by themselves, and tell a load balancer less
/// politely.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicU8>);

impl Readiness {
    /// Says which phase has begun. One that is over does not come back: start-up that ends after shutdown began does not
    /// call more requests to a process that is about to end.
    pub fn set(&self, phase: Phase) {
        self.0.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// The phase at this moment.
    pub fn phase(&self) -> Phase {
        let phase = self.0.load(Ordering::Acquire);
        [Phase::Stopping, Phase::Ready]
            .into_iter()
            .find(|&known| known as u8 == phase)
            .unwrap_or_default()
    }

    /// Has start-up finished, and shutdown not begun?
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Ready
    }

    /// Has shutdown begun?
    pub fn is_stopping(&self) -> bool {
        self.phase() == Phase::Stopping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward_only() {
        let readiness = Readiness::default();
        assert_eq!(readiness.phase(), Phase::Starting);
        readiness.set(Phase::Ready);
        assert!(readiness.is_ready() && !readiness.is_stopping());
        readiness.clone().set(Phase::Stopping);
        assert!(!readiness.is_ready() && readiness.is_stopping());
        for earlier in [Phase::Ready, Phase::Starting] {
            readiness.set(earlier);
            assert_eq!(readiness.phase(), Phase::Stopping);
        }
    }

    #[test]
    fn a_start_that_was_given_up_does_not_become_ready() {
        let readiness = Readiness::default();
        readiness.set(Phase::Stopping);
        readiness.set(Phase::Ready);
        assert!(readiness.is_stopping());
    }
}
