//! What has happened so far and how things are, in plain numbers: for whoever shows them to a monitoring system.
//!
//! Counting is an addition to a number in memory. Everything else is found out when somebody asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leadr_auth_domain::Verdict;
use leadr_auth_ports::{PepperUse, StoreLoad};

use crate::{CacheStatistics, Service};

/// Everything that is counted, at one moment. The counts begin at zero when the process starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// How often each verdict was given, every one of them listed.
    pub verifications: Vec<(Verdict, u64)>,
    /// How often no verdict was found, because the store failed.
    pub undecided: u64,
    /// How the cache of verification is doing.
    pub cache: CacheStatistics,
    /// How the recorder of uses is doing.
    pub usage: UsageStatistics,
    /// How many keys remained under each retired secret of the keyring, when they were last counted: within the last
    /// minute, while the store answers.
    pub remaining: Vec<PepperUse>,
    /// How many keys were hashed anew, under the current secret.
    pub rehashed: u64,
    /// How busy the connections to the store are.
    pub store: StoreLoad,
}

/// How the recorder of uses is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageStatistics {
    /// How many keys have a use that is not yet written down, those on their way included.
    pub waiting: usize,
    /// For how long one of them has been due, the one that has been for longest; zero where none is. A new key is due at
    /// once, others once the resolution has passed since they were last written.
    pub lag: Duration,
    /// How often a batch was written down. Where nothing was due, nothing was done.
    pub flushes: u64,
    /// How often writing a batch down failed, and it was kept for the next time.
    pub failures: u64,
    /// How many keys have a last use that could not be written down at the end, and is lost.
    pub lost: u64,
}

/// Declares the verdicts once: a counter for each, which counter is whose, and the list of all. One that is missing here
/// does not compile.
macro_rules! verdicts {
    ($($verdict:ident $counter:ident),+ $(,)?) => {
        #[derive(Default)]
        struct Counters {
            $($counter: AtomicU64,)+
            undecided: AtomicU64,
        }

        impl Counters {
            fn of(&self, verdict: Verdict) -> &AtomicU64 {
                match verdict {
                    $(Verdict::$verdict => &self.$counter,)+
                }
            }
        }

        const VERDICTS: &[Verdict] = &[$(Verdict::$verdict),+];
    };
}

verdicts! {
    Valid valid,
    Unknown unknown,
    Deleted deleted,
    Revoked revoked,
    Expired expired,
    AccountDeleted account_deleted,
    AccountSuspended account_suspended,
}

/// Counts verifications. Its clones count together.
#[derive(Clone, Default)]
pub(crate) struct Verifications(Arc<Counters>);

impl Verifications {
    /// Counts what came of one: its verdict, or that none was found.
    pub(crate) fn count(&self, verdict: Option<Verdict>) {
        let counter = verdict.map_or(&self.0.undecided, |verdict| self.0.of(verdict));
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Service {
    /// What has happened so far, and how things are. Asks nobody, and never waits.
    pub fn statistics(&self) -> Statistics {
        let counters = &self.verifications.0;
        Statistics {
            verifications: VERDICTS
                .iter()
                .map(|&verdict| (verdict, counters.of(verdict).load(Ordering::Relaxed)))
                .collect(),
            undecided: counters.undecided.load(Ordering::Relaxed),
            cache: self.cache_statistics(),
            usage: self.usage.statistics(),
            remaining: self.rehasher.remaining(),
            rehashed: self.rehasher.done(),
            store: self.stores.health.load(),
        }
    }
}

#[cfg(test)]
mod tests {
    use leadr_auth_domain::generate_api_key;
    use leadr_auth_ports::{MockKeyLookup, MockStoreHealth, StoreError};

    use super::*;
    use crate::testing::Bench;

    fn counts(service: &Service) -> Vec<(Verdict, u64)> {
        let mut counts = service.statistics().verifications;
        counts.retain(|(_, count)| *count > 0);
        counts
    }

    #[tokio::test]
    async fn every_verdict_is_counted_as_what_it_is() {
        let bench = Bench::new().await;
        let (service, tenant) = (&bench.service, bench.tenant.id);
        let listed = service.statistics().verifications;
        assert_eq!(listed.len(), 7);
        assert!(listed.iter().all(|(_, count)| *count == 0), "{listed:?}");

        let live = bench.issue("Live").await;
        let (id, key) = (live.key.id, &live.plain_key);
        let expired = bench
            .issue_expiring("Expired", Some(Bench::later(0)))
            .await
            .plain_key;
        let stranger = generate_api_key([77; 32]);
        let ask = async |key| drop(service.authenticate(key).await.unwrap());
        ask(key).await;
        ask(key).await;
        ask(&stranger).await;
        ask(&expired).await;
        service.revoke_key(&Bench::all(), id).await.unwrap();
        ask(key).await;
        service.reactivate_key(&Bench::all(), id).await.unwrap();
        let operator = Bench::operator();
        service.suspend_account(&operator, tenant).await.unwrap();
        ask(key).await;
        service.delete_account(&operator, tenant).await.unwrap();
        ask(key).await;
        service.delete_key(&Bench::all(), id).await.unwrap();
        ask(key).await;
        let expected = [
            (Verdict::Valid, 2),
            (Verdict::Unknown, 1),
            (Verdict::Deleted, 1),
            (Verdict::Revoked, 1),
            (Verdict::Expired, 1),
            (Verdict::AccountDeleted, 1),
            (Verdict::AccountSuspended, 1),
        ];
        assert_eq!(counts(service), expected);
        assert_eq!(service.statistics().undecided, 0);
    }

    #[tokio::test]
    async fn a_store_that_fails_is_counted_apart_and_its_load_is_told() {
        let mut bench = Bench::new().await;
        let mut away = MockKeyLookup::new();
        away.expect_find()
            .returning(|_| Err(StoreError::unavailable("pulled the plug")));
        bench.service.stores.lookup = Arc::new(away);
        let load = StoreLoad {
            max: 8,
            open: 5,
            in_use: 4,
            waiting: 2,
        };
        let mut health = MockStoreHealth::new();
        health.expect_load().return_const(load);
        bench.service.stores.health = Arc::new(health);
        let asked = bench.service.clone();
        assert!(
            asked
                .authenticate(&generate_api_key([1; 32]))
                .await
                .is_err()
        );
        let statistics = bench.service.statistics();
        assert_eq!((statistics.undecided, statistics.store), (1, load));
        assert_eq!(counts(&bench.service), []);
    }
}
