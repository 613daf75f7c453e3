//! Notes which keys were used, and writes it down later.
//!
//! A write per request would be the slowest part of verification by far. So a use is a note in memory: per key the latest
//! one only, which bounds the notes by the number of keys and not of requests. [`UsageRecorder::run`] looks twice a second at
//! what is due. A key that was not used lately is due at once, so its use is stored within a second. One that is used all the
//! time is due again once the resolution has passed since it was last written: with a hundred thousand of those, writing each
//! down every second would keep the store busier than all verification does. A key that was not used again by then is
//! forgotten.
//!
//! When it is told to stop, everything is written down, for which it has ten seconds where the store is away or somebody holds a
//! key. A process that is killed loses the uses since a key was last written: the resolution's worth at most, and the half second
//! until somebody looks.
//!
//! Reads lay the notes over what the store says, so that a key that has just been used shows it at once on the node that
//! saw it.

mod notes;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leadr_auth_domain::{ApiKey, KeyId, Timestamp};
use leadr_auth_ports::{StoreError, UsageStore};

use crate::{Chain, UsageStatistics};
pub(crate) use notes::NoteHint;
use notes::{Event, Notes};

/// How long writing everything down at the end may take, and how long it rests before it tries again.
const LAST_PATIENCE: Duration = Duration::from_secs(10);
const LAST_REST: Duration = Duration::from_millis(250);

/// How often somebody looks at what is due.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// The most keys that are written at once. Enough to make a statement's own cost small, and little enough that those who wait
/// for its locks, and new keys that wait for it to end, do not wait long.
const BATCH: usize = 10_000;

/// Notes uses of keys. Its clones share the notes.
#[derive(Clone)]
pub struct UsageRecorder {
    store: Arc<dyn UsageStore>,
    notes: Arc<Notes>,
    /// What is due and not known to be stored, and since when it is due. It outlives a flush that fails, or is dropped halfway.
    underway: Arc<Mutex<VecDeque<Event>>>,
    /// Held while writing, so that two flushes cannot overtake each other.
    flushing: Arc<tokio::sync::Mutex<()>>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    flushes: AtomicU64,
    failures: AtomicU64,
    lost: AtomicU64,
}

/// What a flush writes of the keys that are known to the store.
#[derive(Clone, Copy)]
enum Scope {
    /// Those that were last written the resolution ago.
    Due,
    /// Those with a use that is not stored.
    All,
}

impl UsageRecorder {
    /// How often a key that is used all the time is written down, if nobody says otherwise: every 60 seconds.
    pub const DEFAULT_RESOLUTION: Duration = Duration::from_mins(1);

    /// The shortest resolution: one second.
    pub const MIN_RESOLUTION: Duration = Duration::from_secs(1);

    /// Writes to `store`, with the default resolution.
    pub fn new(store: Arc<dyn UsageStore>) -> Self {
        Self::with_resolution(store, Self::DEFAULT_RESOLUTION)
    }

    /// Writes to `store`, and the same key at most once per `resolution`; one that is shorter than
    /// [`MIN_RESOLUTION`](Self::MIN_RESOLUTION) is taken for that. The first use after a pause of that length is written within
    /// a second whatever the resolution.
    pub fn with_resolution(store: Arc<dyn UsageStore>, resolution: Duration) -> Self {
        Self {
            store,
            notes: Arc::new(Notes::new(resolution.max(Self::MIN_RESOLUTION))),
            underway: Arc::default(),
            flushing: Arc::default(),
            counters: Arc::default(),
        }
    }

    /// Notes that a key was used. Waits for nothing but a lock that is held for the blink of an eye.
    pub fn note(&self, key_id: KeyId, used_at: Timestamp) {
        self.note_by(key_id, used_at, &NoteHint::default());
    }

    /// The same for somebody who keeps the hint beside what is known of the key: it says where to note the next use.
    pub(crate) fn note_by(&self, key_id: KeyId, used_at: Timestamp, hint: &NoteHint) {
        self.notes.note(key_id, used_at, hint);
    }

    /// How it is doing.
    pub(crate) fn statistics(&self) -> UsageStatistics {
        let (waiting, due) = self.notes.waiting();
        let underway = self.underway().iter().map(|event| event.at).min();
        let since = [due, underway].into_iter().flatten().min();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        UsageStatistics {
            waiting,
            lag: since.map_or(Duration::ZERO, |since| since.elapsed()),
            flushes: read(&self.counters.flushes),
            failures: read(&self.counters.failures),
            lost: read(&self.counters.lost),
        }
    }

    /// The key with the use that is noted and not yet stored.
    #[must_use]
    pub fn overlay(&self, mut key: ApiKey) -> ApiKey {
        if let Some(used_at) = self.notes.pending(key.id) {
            key.record_usage(used_at);
        }
        key
    }

    /// Writes all notes down, due or not, at once. Where the store fails they are kept for the next time, and so are those of keys
    /// that somebody holds.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.write(Scope::All).await
    }

    async fn write(&self, scope: Scope) -> Result<(), StoreError> {
        let _one_at_a_time = self.flushing.lock().await;
        self.put_ahead(self.notes.take_fresh());
        let known = match scope {
            Scope::Due => self.notes.take_due(),
            Scope::All => self.notes.take_pending(),
        };
        self.underway().extend(known);
        let mut left = self.underway().len();
        while left > 0 {
            let batch = left.min(BATCH);
            let mut uses = self
                .notes
                .uses_of(self.underway().iter().take(batch).copied());
            let recorded = self.store.record(&uses).await;
            let counter = if recorded.is_ok() {
                &self.counters.flushes
            } else {
                &self.counters.failures
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let passed_over = recorded.inspect_err(|_| self.put_behind(batch, |_| true))?;
            let passed_over: HashSet<_> = passed_over.into_iter().collect();
            uses.retain(|used| !passed_over.contains(&used.key_id));
            self.notes.settle(&uses);
            self.put_behind(batch, |event| {
                let key = || self.notes.key_of(event);
                !passed_over.is_empty() && key().is_some_and(|key| passed_over.contains(&key))
            });
            left -= batch;
            // Only while there is more to write, or new keys would keep this going for ever, a few at a time.
            if left > 0 {
                left += self.put_ahead(self.notes.take_fresh());
            }
        }
        Ok(())
    }

    /// Of the first so many that are underway, those that are to be tried again go behind the others, which may be luckier; the
    /// rest is done.
    fn put_behind(&self, batch: usize, is_to_be_tried_again: impl Fn(&Event) -> bool) {
        let mut underway = self.underway();
        let tried: Vec<_> = underway.drain(..batch).collect();
        underway.extend(tried.into_iter().filter(is_to_be_tried_again));
    }

    /// Keys that were not known must not wait for all the others. Answers how many they are.
    fn put_ahead(&self, fresh: Vec<Event>) -> usize {
        let (mut underway, count) = (self.underway(), fresh.len());
        for event in fresh.into_iter().rev() {
            underway.push_front(event);
        }
        count
    }

    /// Writes down what is due twice a second, until `stop` is over; then everything.
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
            match self.write(Scope::Due).await {
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
        self.flush_for_the_last_time().await;
    }

    /// Somebody may hold a key for a moment, and a store that is being started anew is back soon.
    async fn flush_for_the_last_time(&self) {
        let mut fault = None;
        let written = async {
            loop {
                fault = self.flush().await.err();
                let for_good = fault.as_ref().is_some_and(|error| !error.is_retryable());
                if for_good || self.statistics().waiting == 0 {
                    return;
                }
                tokio::time::sleep(LAST_REST).await;
            }
        };
        let _ = tokio::time::timeout(LAST_PATIENCE, written).await;
        let lost = self.statistics().waiting;
        if lost > 0 {
            let count = u64::try_from(lost).unwrap_or(u64::MAX);
            self.counters.lost.fetch_add(count, Ordering::Relaxed);
            let error = fault.as_ref().map(|error| Chain(error).to_string());
            let error = error.as_deref().unwrap_or("somebody else holds these keys");
            tracing::error!(error, lost, "the last uses of keys are lost");
        }
    }

    fn underway(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.underway.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
