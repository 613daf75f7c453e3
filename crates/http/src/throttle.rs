//! Whoever presents one wrong key after the other is told to wait.
//!
//! Only they are. Whether a key is good is found out first, and one that is good is never held up, wherever it comes from: a
//! stranger who shares an address with an owner, or claims to have it, locks nobody out. So this does not make a key harder to
//! guess, which nobody can; it tells a client that is set up wrongly, and keeps it from filling logs at full speed.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

/// How many clients are kept in mind: some megabytes. Where there are more, all begin anew.
const MOST: usize = 50_000;

/// Those who share a network of this many bits, with IPv6, are one client: nobody has less.
const IPV6_BITS: u32 = 64;

/// How many wrong keys a client may present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKeyLimit {
    /// So many a minute in the long run, and as many at once.
    pub per_minute: NonZeroU32,
}

type Limiter<C> =
    RateLimiter<IpAddr, HashMapStateStore<IpAddr>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Counts wrong keys by client.
pub(crate) struct Throttle<C: Clock = MonotonicClock> {
    limiter: Mutex<Limiter<C>>,
    quota: Quota,
    clock: C,
}

impl Throttle {
    /// Lets so many pass.
    pub(crate) fn new(limit: InvalidKeyLimit) -> Self {
        Self::by(MonotonicClock, limit)
    }
}

impl<C: Clock + Clone> Throttle<C> {
    fn by(clock: C, limit: InvalidKeyLimit) -> Self {
        let quota = Quota::per_minute(limit.per_minute);
        Self {
            limiter: Mutex::new(RateLimiter::hashmap_with_clock(quota, clock.clone())),
            quota,
            clock,
        }
    }

    /// Notes that a client presented a wrong key. Where it has presented too many, the error is how long it is to wait.
    pub(crate) fn note(&self, client: IpAddr) -> Result<(), Duration> {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        if limiter.len() >= MOST {
            limiter.retain_recent();
            // Not with every note: to look through all of them takes as long as many of these.
            if limiter.len() > MOST / 2 {
                *limiter = RateLimiter::hashmap_with_clock(self.quota, self.clock.clone());
            }
        }
        limiter
            .check_key(&network(client))
            .map_err(|refused| refused.wait_time_from(self.clock.now()))
    }
}

/// What counts as one client.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => {
            let mask = u128::MAX << (u128::BITS - IPV6_BITS);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn throttle(per_minute: u32) -> (Throttle<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let per_minute = NonZeroU32::new(per_minute).unwrap();
        (
            Throttle::by(clock.clone(), InvalidKeyLimit { per_minute }),
            clock,
        )
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_has_presented_too_many_waits() {
        let (throttle, clock) = throttle(6);
        let client = address("192.0.2.1");
        for _ in 0..6 {
            assert_eq!(throttle.note(client), Ok(()));
        }
        assert_eq!(throttle.note(client), Err(Duration::from_secs(10)));
        assert_eq!(
            throttle.note(address("192.0.2.2")),
            Ok(()),
            "another client"
        );
        clock.advance(Duration::from_secs(4));
        assert_eq!(throttle.note(client), Err(Duration::from_secs(6)));
        clock.advance(Duration::from_secs(6));
        assert_eq!(throttle.note(client), Ok(()));
        assert!(throttle.note(client).is_err());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let (throttle, _) = throttle(1);
        assert!(throttle.note(address("2001:db8:0:1::1")).is_ok());
        assert!(throttle.note(address("2001:db8:0:1:ffff::2")).is_err());
        assert!(throttle.note(address("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn however_many_clients_there_are_they_take_so_much_memory() {
        let (throttle, _) = throttle(1);
        for n in 0..3 * u32::try_from(MOST).unwrap() {
            let _ = throttle.note(IpAddr::from(n.to_be_bytes()));
            let kept = throttle.limiter.lock().unwrap().len();
            assert!(kept <= MOST, "{kept}");
        }
    }
}
