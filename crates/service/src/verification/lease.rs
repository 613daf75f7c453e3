//! Until when what is kept may be relied on.

use std::time::Duration;

use super::sync::{AtomicU64, Ordering};

/// A promise of what was heard: whatever was committed before a certain time, this node has been told of, and has thrown away
/// what it kept of it. It is good for the bound after that time and no longer.
///
/// Times are of [`Clock::uptime`](leadr_auth_ports::Clock::uptime): a clock that somebody sets back, or that stands still
/// while the machine is suspended, would lengthen the lease.
pub(crate) struct Lease {
    /// In nanoseconds of uptime. Zero is before anything was proven.
    until: AtomicU64,
}

impl Lease {
    pub(crate) fn new() -> Self {
        Self {
            until: AtomicU64::new(0),
        }
    }

    /// May a request that began at `now` be answered from what is kept?
    pub(crate) fn holds(&self, now: Duration) -> bool {
        nanos(now) < self.until.load(Ordering::Acquire)
    }

    /// When it is over, or was.
    pub(crate) fn until(&self) -> Duration {
        Duration::from_nanos(self.until.load(Ordering::Acquire))
    }

    /// Makes it good until `until`. To be called when everything has been thrown away that was heard to have changed: whoever
    /// sees the lease extended sees that, too.
    pub(crate) fn extend(&self, until: Duration) {
        self.until.fetch_max(nanos(until), Ordering::AcqRel);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
