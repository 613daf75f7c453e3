//! Notes which keys were used, and writes it down later.
//!
//! A write per request would be the slowest part of verification by far. So a use is a note in memory: per key the latest
//! one only, which bounds the notes by the number of keys and not of requests. [`UsageRecorder::run`] writes them down in
//! one go at least every second, and once more when it is told to stop. A process that is killed loses what it had
//! noted since the last time, a second's worth at most.
//!
//! Reads lay the notes over what the store says, so that a key that has just been used shows it at once on the node that
//! saw it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leadr_auth_domain::{ApiKey, KeyId, Timestamp};
use leadr_auth_ports::{KeyUse, StoreError, UsageStore};
use tokio::time::Instant;

use crate::{Chain, UsageStatistics};

/// How long a use may wait to be written down.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// Notes uses of keys. Its clones share the notes.
#[derive(Clone)]
pub struct UsageRecorder {
    store: Arc<dyn UsageStore>,
    notes: Arc<Mutex<Notes>>,
    /// Held while writing, so that two flushes cannot overtake each other.
    flushing: Arc<tokio::sync::Mutex<()>>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Notes {
    /// Not yet on their way to the store.
    waiting: Batch,
    /// On their way; still laid over reads, because the store may not show them yet.
    underway: Batch,
}

/// The latest use of each key, and since when the oldest note of them waits.
#[derive(Default)]
struct Batch {
    uses: HashMap<KeyId, Timestamp>,
    /// Not of the [`Clock`](leadr_auth_ports::Clock): a span of time must not jump when somebody sets the clock. It is
    /// read for the first note of a batch only.
    since: Option<Instant>,
}

impl Batch {
    /// Keeps the later of the time that is noted and `used_at`.
    fn note(&mut self, key_id: KeyId, used_at: Timestamp) {
        let latest = self.uses.entry(key_id).or_insert(used_at);
        *latest = used_at.max(*latest);
        self.since.get_or_insert_with(Instant::now);
    }

    /// Takes over what an older batch holds.
    fn take_back(&mut self, older: Self) {
        for (key_id, used_at) in older.uses {
            self.note(key_id, used_at);
        }
        self.since = older.since.or(self.since);
    }
}

#[derive(Default)]
struct Counters {
    flushes: AtomicU64,
    failures: AtomicU64,
    lost: AtomicU64,
}

impl UsageRecorder {
    /// Writes to `store`.
    pub fn new(store: Arc<dyn UsageStore>) -> Self {
        Self {
            store,
            notes: Arc::default(),
            flushing: Arc::default(),
            counters: Arc::default(),
        }
    }

    /// Notes that a key was used. Never waits.
    pub fn note(&self, key_id: KeyId, used_at: Timestamp) {
        self.notes().waiting.note(key_id, used_at);
    }

    /// How it is doing.
    pub(crate) fn statistics(&self) -> UsageStatistics {
        let (waiting, since) = {
            let Notes { waiting, underway } = &*self.notes();
            let since = underway.since.or(waiting.since);
            (waiting.uses.len() + underway.uses.len(), since)
        };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        UsageStatistics {
            waiting,
            lag: since.map_or(Duration::ZERO, |since| since.elapsed()),
            flushes: read(&self.counters.flushes),
            failures: read(&self.counters.failures),
            lost: read(&self.counters.lost),
        }
    }

    /// The key with the uses that are noted and not yet stored.
    #[must_use]
    pub fn overlay(&self, mut key: ApiKey) -> ApiKey {
        let notes = self.notes();
        for batch in [&notes.waiting, &notes.underway] {
            if let Some(used_at) = batch.uses.get(&key.id) {
                key.record_usage(*used_at);
            }
        }
        key
    }

    /// Writes all notes down, at once. Where the store fails they are kept for the next time.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.flushing.lock().await;
        let uses: Vec<KeyUse> = {
            let mut notes = self.notes();
            // What is underway here was left by a flush that was dropped halfway: it may not have arrived.
            let left = std::mem::take(&mut notes.underway);
            notes.waiting.take_back(left);
            notes.underway = std::mem::take(&mut notes.waiting);
            notes
                .underway
                .uses
                .iter()
                .map(|(&key_id, &used_at)| KeyUse { key_id, used_at })
                .collect()
        };
        if uses.is_empty() {
            return Ok(());
        }
        let written = self.store.record(&uses).await;
        let mut notes = self.notes();
        let underway = std::mem::take(&mut notes.underway);
        let counter = if written.is_ok() {
            &self.counters.flushes
        } else {
            notes.waiting.take_back(underway);
            &self.counters.failures
        };
        counter.fetch_add(1, Ordering::Relaxed);
        written
    }

    /// Writes notes down twice a second, until `stop` is over; then once more.
    ///
    /// A store that is away is reported when it goes and when it comes back, not twice a second.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut ticks = tokio::time::interval(FLUSH_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = ticks.tick() => {}
            }
            match self.flush().await {
                Ok(()) if failing => {
                    failing = false;
                    tracing::info!("uses of keys are written down again");
                }
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(error = %Chain(&error), "uses of keys cannot be written down; they are kept");
                }
                Ok(()) | Err(_) => {}
            }
        }
        if let Err(error) = self.flush().await {
            let lost = self.statistics().waiting;
            self.counters
                .lost
                .fetch_add(u64::try_from(lost).unwrap_or(u64::MAX), Ordering::Relaxed);
            tracing::error!(error = %Chain(&error), lost, "the last uses of keys are lost");
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use leadr_auth_domain::Access;

    use super::*;
    use crate::testing::Bench;

    /// Passes on to another store, counts, fails on demand, and waits at a gate.
    struct Watched {
        inner: Arc<dyn UsageStore>,
        calls: AtomicUsize,
        failing: AtomicBool,
        gate: tokio::sync::Semaphore,
    }

    impl Watched {
        fn over(bench: &mut Bench, open: usize) -> Arc<Self> {
            let watched = Arc::new(Self {
                inner: Arc::clone(&bench.service.stores.usage),
                calls: AtomicUsize::new(0),
                failing: AtomicBool::new(false),
                gate: tokio::sync::Semaphore::new(open),
            });
            bench.service.usage = UsageRecorder::new(watched.clone());
            watched
        }
    }

    #[async_trait]
    impl UsageStore for Watched {
        async fn record(&self, uses: &[KeyUse]) -> Result<(), StoreError> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            if self.failing.load(Ordering::SeqCst) {
                return Err(StoreError::unavailable("away"));
            }
            self.inner.record(uses).await
        }
    }

    async fn stored(bench: &Bench, id: KeyId) -> Option<Timestamp> {
        let rows = leadr_auth_ports::Rows::Live;
        bench
            .service
            .stores
            .keys
            .get(id, rows)
            .await
            .unwrap()
            .unwrap()
            .last_used_at
    }

    async fn read(bench: &Bench, id: KeyId) -> Option<Timestamp> {
        bench
            .service
            .key(Access::All, id)
            .await
            .unwrap()
            .last_used_at
    }

    #[tokio::test]
    async fn many_uses_are_one_statement_with_the_latest_of_each() {
        let mut bench = Bench::new().await;
        let watched = Watched::over(&mut bench, 10);
        let (one, two) = (
            bench.issue("One").await.key.id,
            bench.issue("Two").await.key.id,
        );
        for second in [5, 9, 7] {
            bench.service.usage.note(one, Bench::later(second));
        }
        bench.service.usage.note(two, Bench::later(3));
        bench.service.usage.flush().await.unwrap();
        bench.service.usage.flush().await.unwrap();
        assert_eq!(
            watched.calls.load(Ordering::SeqCst),
            1,
            "nothing noted, nothing asked"
        );
        assert_eq!(stored(&bench, one).await, Some(Bench::later(9)));
        assert_eq!(stored(&bench, two).await, Some(Bench::later(3)));
    }

    #[tokio::test]
    async fn reads_show_uses_before_during_and_after_the_flush() {
        let mut bench = Bench::new().await;
        let watched = Watched::over(&mut bench, 0);
        let id = bench.issue("Used").await.key.id;
        bench.service.usage.note(id, Bench::later(5));
        assert_eq!(read(&bench, id).await, Some(Bench::later(5)), "before");
        let usage = bench.service.usage.clone();
        let flush = tokio::spawn(async move { usage.flush().await });
        while watched.calls.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(stored(&bench, id).await, None, "held at the gate");
        assert_eq!(read(&bench, id).await, Some(Bench::later(5)), "during");
        watched.gate.add_permits(1);
        flush.await.unwrap().unwrap();
        assert_eq!(stored(&bench, id).await, Some(Bench::later(5)), "after");
        // Lists and changes show it as well.
        bench.service.usage.note(id, Bench::later(6));
        let own = bench.tenant.id;
        let listed = bench
            .service
            .list_account_keys(Access::All, own, false)
            .await
            .unwrap();
        assert_eq!(listed[0].last_used_at, Some(Bench::later(6)));
        let changed = bench.service.revoke_key(&Bench::all(), id).await.unwrap();
        assert_eq!(changed.last_used_at, Some(Bench::later(6)));
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_kept_for_the_next_time() {
        let mut bench = Bench::new().await;
        let watched = Watched::over(&mut bench, 10);
        let id = bench.issue("Used").await.key.id;
        watched.failing.store(true, Ordering::SeqCst);
        bench.service.usage.note(id, Bench::later(5));
        assert!(bench.service.usage.flush().await.is_err());
        assert_eq!(read(&bench, id).await, Some(Bench::later(5)));
        bench.service.usage.note(id, Bench::later(4));
        watched.failing.store(false, Ordering::SeqCst);
        bench.service.usage.flush().await.unwrap();
        assert_eq!(stored(&bench, id).await, Some(Bench::later(5)));
    }

    #[tokio::test]
    async fn a_flush_that_was_dropped_halfway_is_repeated() {
        let mut bench = Bench::new().await;
        let watched = Watched::over(&mut bench, 0);
        let id = bench.issue("Used").await.key.id;
        bench.service.usage.note(id, Bench::later(5));
        let usage = bench.service.usage.clone();
        let flush = tokio::spawn(async move { usage.flush().await });
        while watched.calls.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        flush.abort();
        let _ = flush.await;
        watched.gate.add_permits(1);
        bench.service.usage.flush().await.unwrap();
        assert_eq!(stored(&bench, id).await, Some(Bench::later(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_runs_at_least_every_second_and_once_more_at_the_end() {
        let bench = Bench::new().await;
        let id = bench.issue("Used").await.key.id;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(bench.service.usage.clone().run(async {
            let _ = stopped.await;
        }));
        tokio::task::yield_now().await;
        bench.service.usage.note(id, Bench::later(5));
        // Between two ticks, so that it is the end that writes the second use down.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(stored(&bench, id).await, Some(Bench::later(5)));
        bench.service.usage.note(id, Bench::later(6));
        stop.send(()).unwrap();
        running.await.unwrap();
        assert_eq!(stored(&bench, id).await, Some(Bench::later(6)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_note_says_how_far_writing_is_behind() {
        let mut bench = Bench::new().await;
        let watched = Watched::over(&mut bench, 10);
        let (one, two) = (
            bench.issue("One").await.key.id,
            bench.issue("Two").await.key.id,
        );
        let usage = bench.service.usage.clone();
        let second = Duration::from_secs(1);
        assert_eq!(usage.statistics(), UsageStatistics::default());
        tokio::time::advance(second).await;
        usage.note(one, Bench::later(5));
        tokio::time::advance(second).await;
        usage.note(two, Bench::later(6));
        let told = bench.service.statistics().usage;
        assert_eq!((told.waiting, told.lag), (2, second));
        // What could not be written is as old as before, and the next note is younger.
        watched.failing.store(true, Ordering::SeqCst);
        assert!(usage.flush().await.is_err());
        usage.note(one, Bench::later(7));
        tokio::time::advance(second).await;
        let told = usage.statistics();
        assert_eq!((told.waiting, told.lag), (2, second * 2));
        assert_eq!((told.flushes, told.failures), (0, 1));
        watched.failing.store(false, Ordering::SeqCst);
        usage.flush().await.unwrap();
        usage.flush().await.unwrap();
        let done = UsageStatistics {
            flushes: 1,
            failures: 1,
            ..UsageStatistics::default()
        };
        assert_eq!(usage.statistics(), done);
        // A note that is on its way is not there yet.
        watched.gate.forget_permits(10);
        usage.note(one, Bench::later(8));
        let flush = tokio::spawn({
            let usage = usage.clone();
            async move { usage.flush().await }
        });
        while watched.calls.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(second).await;
        usage.note(one, Bench::later(9));
        let told = usage.statistics();
        assert_eq!((told.waiting, told.lag), (2, second));
        watched.gate.add_permits(1);
        flush.await.unwrap().unwrap();
        let told = usage.statistics();
        assert_eq!((told.waiting, told.lag), (1, Duration::ZERO));
    }

    #[tokio::test]
    async fn what_is_lost_at_the_end_is_counted() {
        let mut bench = Bench::new().await;
        let watched = Watched::over(&mut bench, 10);
        watched.failing.store(true, Ordering::SeqCst);
        let usage = bench.service.usage.clone();
        for name in ["One", "Two"] {
            usage.note(bench.issue(name).await.key.id, Bench::later(5));
        }
        usage.clone().run(async {}).await;
        assert_eq!(usage.statistics().lost, 2);
    }
}
