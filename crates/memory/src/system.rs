//! A clock that stands still until it is moved, and random bytes that are always the same: for tests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use leadr_auth_domain::Timestamp;
use leadr_auth_ports::{Clock, Entropy, EntropyError};

/// A clock that is set by hand.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<Timestamp>,
    /// In nanoseconds.
    uptime: AtomicU64,
}

impl ManualClock {
    /// Stands at `now`, on a machine that has just been started.
    pub const fn new(now: Timestamp) -> Self {
        Self {
            now: Mutex::new(now),
            uptime: AtomicU64::new(0),
        }
    }

    /// Sets it to `now`, which may be earlier: clocks do step back. The machine's uptime stays.
    pub fn set(&self, now: Timestamp) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Lets the machine run for a while. The time of day stays.
    pub fn run_on(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.uptime.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uptime(&self) -> Duration {
        Duration::from_nanos(self.uptime.load(Ordering::SeqCst))
    }
}

/// Bytes that look random and follow from a seed. Anybody can predict them.
#[derive(Debug)]
pub struct SeededEntropy(AtomicU64);

impl SeededEntropy {
    /// Starts from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next eight bytes, by the `SplitMix64` generator.
    fn next(&self) -> [u8; 8] {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in bytes.chunks_mut(8) {
            for (byte, random) in chunk.iter_mut().zip(self.next()) {
                *byte = random;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_each_call_others() {
        let (one, same) = (SeededEntropy::new(7), SeededEntropy::new(7));
        let (mut first, mut second, mut again) = ([0; 33], [0; 33], [0; 33]);
        one.fill(&mut first).unwrap();
        one.fill(&mut second).unwrap();
        same.fill(&mut again).unwrap();
        assert_eq!(first, again);
        assert_ne!(first, second);
        assert_ne!(first[32], 0, "the last byte is filled too");
    }
}
