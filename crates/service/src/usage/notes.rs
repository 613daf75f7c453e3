//! The latest use of each key, and when it is to be written.
//!
//! Each key that is known has exactly one event that will bring it to the store or have it forgotten, and it is in one of
//! three places: among the fresh ones, in the queue for later, or with the recorder, which is writing it. So what is known is
//! bounded by the keys that were used within the last resolution, and nobody looks at keys whose time has not come.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leadr_auth_domain::{KeyId, Timestamp};
use leadr_auth_ports::KeyUse;
use tokio::time::Instant;

/// Many more than threads that verify, so that two of them seldom want the same. A power of two.
const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 6;

/// Notes of all keys, in parts that are locked each by itself.
pub(super) struct Notes {
    shards: [Shard; SHARDS],
    /// How long a key that was written is not written again.
    resolution: Duration,
}

/// Aligned so that two locks never share a line of the processor's cache, nor a pair of lines.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Part>);

/// Some of the keys.
#[derive(Default)]
struct Part {
    /// Hashed by the standard library's hasher with its random seed, because ids can be chosen: whoever imports keys brings
    /// their ids. It costs some ten nanoseconds.
    notes: HashMap<KeyId, Note>,
    /// How many of them are pending.
    pending: usize,
    /// Keys that were not known, and the instant they were noted; the oldest comes first.
    fresh: Vec<Event>,
    /// Keys that were written, and the instant they were; the oldest comes first, as the resolution is the same for all.
    later: VecDeque<Event>,
}

struct Note {
    latest: Timestamp,
    /// What this recorder last wrote.
    stored: Option<Timestamp>,
}

impl Note {
    fn is_pending(&self) -> bool {
        self.stored < Some(self.latest)
    }
}

/// A key that something is to be done about.
#[derive(Clone, Copy)]
pub(super) struct Event {
    pub(super) key_id: KeyId,
    /// Not of the [`Clock`](leadr_auth_ports::Clock): a span of time must not jump when somebody sets the clock.
    pub(super) at: Instant,
}

impl Part {
    fn note(&mut self, key_id: KeyId, used_at: Timestamp) {
        match self.notes.entry(key_id) {
            Entry::Occupied(mut known) => {
                let note = known.get_mut();
                let was_pending = note.is_pending();
                note.latest = note.latest.max(used_at);
                self.pending += usize::from(!was_pending && note.is_pending());
            }
            Entry::Vacant(unknown) => {
                unknown.insert(Note {
                    latest: used_at,
                    stored: None,
                });
                self.pending += 1;
                self.fresh.push(Event {
                    key_id,
                    at: Instant::now(),
                });
            }
        }
    }

    fn is_pending(&self, key_id: KeyId) -> bool {
        self.notes.get(&key_id).is_some_and(Note::is_pending)
    }
}

impl Notes {
    pub(super) fn new(resolution: Duration) -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard::default()),
            resolution,
        }
    }

    /// Keeps the later of the time that is noted and `used_at`.
    pub(super) fn note(&self, key_id: KeyId, used_at: Timestamp) {
        self.part(key_id).note(key_id, used_at);
    }

    /// The use of a key that is not known to be stored.
    pub(super) fn pending(&self, key_id: KeyId) -> Option<Timestamp> {
        let part = self.part(key_id);
        let note = part.notes.get(&key_id)?;
        note.is_pending().then_some(note.latest)
    }

    /// How many keys are pending, and since when the one is due that has been due for longest.
    pub(super) fn waiting(&self) -> (usize, Option<Instant>) {
        let now = Instant::now();
        let mut waiting = 0;
        let mut oldest = None;
        for shard in &self.shards {
            let part = shard.lock();
            waiting += part.pending;
            let fresh = part.fresh.first().map(|event| event.at);
            // These are few, since each flush takes all that is due.
            let mut overdue = part
                .later
                .iter()
                .take_while(|event| self.is_due(event, now));
            let later = overdue.find(|event| part.is_pending(event.key_id));
            let later = later.map(|event| self.due_at(event, now));
            oldest = [oldest, fresh, later].into_iter().flatten().min();
        }
        (waiting, oldest)
    }

    /// Hands over the keys that were not known.
    pub(super) fn take_fresh(&self) -> Vec<Event> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            taken.append(&mut shard.lock().fresh);
        }
        taken
    }

    /// Hands over the keys that were used again since they were written, once it is the resolution ago, and forgets those
    /// that were not.
    pub(super) fn take_due(&self) -> Vec<Event> {
        let now = Instant::now();
        let mut taken = Vec::new();
        for shard in &self.shards {
            let part = &mut *shard.lock();
            while let Some(event) = part.later.pop_front_if(|event| self.is_due(event, now)) {
                if part.is_pending(event.key_id) {
                    taken.push(Event {
                        at: self.due_at(&event, now),
                        ..event
                    });
                } else {
                    part.notes.remove(&event.key_id);
                }
            }
        }
        taken
    }

    /// Hands over the keys that were used again since they were written, due or not.
    pub(super) fn take_pending(&self) -> Vec<Event> {
        let now = Instant::now();
        let mut taken = Vec::new();
        for shard in &self.shards {
            let part = &mut *shard.lock();
            let notes = &part.notes;
            part.later.retain(|event| {
                let pending = notes.get(&event.key_id).is_some_and(Note::is_pending);
                if pending {
                    taken.push(Event {
                        at: self.due_at(event, now),
                        ..*event
                    });
                }
                !pending
            });
        }
        taken
    }

    /// What is to be written about keys that were handed over, in the order of their ids.
    pub(super) fn uses_of(&self, events: impl Iterator<Item = Event>) -> Vec<KeyUse> {
        let mut uses: Vec<_> = events
            .filter_map(|Event { key_id, .. }| {
                let used_at = self.part(key_id).notes.get(&key_id)?.latest;
                Some(KeyUse { key_id, used_at })
            })
            .collect();
        uses.sort_unstable_by_key(|used| used.key_id);
        uses
    }

    /// Takes keys back that were handed over, and written just now.
    pub(super) fn settle(&self, written: &[KeyUse]) {
        let at = Instant::now();
        for &KeyUse { key_id, used_at } in written {
            let part = &mut *self.part(key_id);
            if let Some(note) = part.notes.get_mut(&key_id) {
                note.stored = Some(used_at);
                part.pending -= usize::from(!note.is_pending());
                part.later.push_back(Event { key_id, at });
            }
        }
    }

    /// How many keys are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let known = self.shards.iter().map(|shard| shard.lock().notes.len());
        known.sum()
    }

    fn is_due(&self, event: &Event, now: Instant) -> bool {
        now.saturating_duration_since(event.at) >= self.resolution
    }

    /// When a key in the queue for later is due, or `now` if that is yet to come.
    fn due_at(&self, event: &Event, now: Instant) -> Instant {
        let due = event.at.checked_add(self.resolution);
        due.map_or(now, |due| due.min(now))
    }

    /// By all bits of the id, as those of a kind may have the same beginning or the same end. Whoever chooses ids that meet in
    /// one shard makes threads wait for each other, and nothing worse.
    fn part(&self, key_id: KeyId) -> MutexGuard<'_, Part> {
        let (high, low) = key_id.as_uuid().as_u64_pair();
        let mixed = (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let index = usize::try_from(mixed >> (u64::BITS - SHARD_BITS)).unwrap_or_default();
        let [first, ..] = &self.shards;
        self.shards.get(index).unwrap_or(first).lock()
    }
}

impl Shard {
    /// What it guards is whole at any time, so a thread that panicked with it does no harm.
    fn lock(&self) -> MutexGuard<'_, Part> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
