//! The real clock and the real randomness: the one place that touches them.

use std::time::Duration;

use leadr_auth_domain::Timestamp;
use leadr_auth_ports::{Clock, Entropy, EntropyError};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::system::uname;
use rustix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that everybody else is given"
    )]
    fn now(&self) -> Timestamp {
        // A clock past the year 9999 is broken; at its end every key that can expire has expired, which is the safe side.
        Timestamp::new(OffsetDateTime::now_utc()).unwrap_or(Timestamp::MAX)
    }

    fn uptime(&self) -> Duration {
        // The one of the two that goes on while the machine is suspended: which that is differs between systems.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let time = clock_gettime(ClockId::Boottime);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let time = clock_gettime(ClockId::Monotonic);
        Duration::new(
            time.tv_sec.try_into().unwrap_or_default(),
            time.tv_nsec.try_into().unwrap_or_default(),
        )
    }
}

/// What the machine is called.
pub fn host_name() -> String {
    uname().nodename().to_string_lossy().into_owned()
}

/// The operating system's source of randomness.
#[derive(Clone, Debug)]
pub struct OsEntropy(SystemRandom);

impl OsEntropy {
    /// Opens it.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the source that everybody else is given"
    )]
    pub fn new() -> Self {
        Self(SystemRandom::new())
    }
}

impl Default for OsEntropy {
    fn default() -> Self {
        Self::new()
    }
}

impl Entropy for OsEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        self.0
            .fill(bytes)
            .map_err(|error| EntropyError(error.to_string().into()))
    }
}
