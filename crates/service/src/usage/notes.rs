//! The latest use of each key, and when it is to be written.
//!
//! Each key that is known has exactly one event that will bring it to the store or have it forgotten, and it is in one of
//! three places: among the fresh ones, in the queue for later, or with the recorder, which is writing it. So what is known is
//! bounded by the keys that were used within the last resolution, and nobody looks at keys whose time has not come.
//!
//! A note stays where it is for as long as its key is known, and whoever verifies remembers where that is ([`NoteHint`])
//! beside what it has to look at anyway: to look a key up among a hundred thousand others costs more waits for memory than all
//! else that is done here.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashTable;
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
    /// The standard library's, with its random seed, because ids can be chosen: whoever imports keys brings their ids.
    hasher: RandomState,
}

/// Aligned so that two locks never share a line of the processor's cache, nor a pair of lines.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Part>);

/// Some of the keys.
#[derive(Default)]
struct Part {
    /// By their slots. One without a key is free.
    notes: Vec<Option<Note>>,
    free: Vec<u32>,
    /// The slot of each key.
    slots: HashTable<u32>,
    /// How many keys are pending.
    pending: usize,
    /// Keys that were not known, and the instant they were noted; the oldest comes first.
    fresh: Vec<Event>,
    /// Keys that were written, and the instant they were; the oldest comes first, as the resolution is the same for all.
    later: VecDeque<Event>,
}

/// Times are in microseconds since 1970, in which they are half as long.
struct Note {
    key_id: KeyId,
    latest: i64,
    /// What this recorder last wrote; the least number if nothing.
    stored: i64,
}

impl Note {
    const fn is_pending(&self) -> bool {
        self.stored < self.latest
    }
}

/// Where a note is: its shard, and its slot there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u32);

impl Place {
    /// Nothing is there: no shard has sixty million keys, which would take as many gigabytes as there are shards.
    const NOWHERE: Self = Self(u32::MAX);

    fn new(shard: usize, slot: u32) -> Self {
        let shard = u32::try_from(shard).unwrap_or_default();
        Self((slot << SHARD_BITS) | shard)
    }

    const fn shard(self) -> usize {
        self.0 as usize % SHARDS
    }

    const fn slot(self) -> u32 {
        self.0 >> SHARD_BITS
    }
}

/// Where the note of a key was when it was last looked for. It may have gone since, and another key's be there: so it is never
/// taken on trust.
#[derive(Debug)]
pub(crate) struct NoteHint(AtomicU32);

impl Default for NoteHint {
    fn default() -> Self {
        Self(AtomicU32::new(Place::NOWHERE.0))
    }
}

/// A key that something is to be done about. It is known for as long as there is this.
#[derive(Clone, Copy)]
pub(super) struct Event {
    place: Place,
    /// Not of the [`Clock`](leadr_auth_ports::Clock): a span of time must not jump when somebody sets the clock.
    pub(super) at: Instant,
}

impl Part {
    fn at(&self, slot: u32) -> Option<&Note> {
        self.notes.get(slot as usize)?.as_ref()
    }

    fn get(&self, place: Place) -> Option<&Note> {
        self.at(place.slot())
    }

    fn get_mut(&mut self, place: Place) -> Option<&mut Note> {
        self.notes.get_mut(place.slot() as usize)?.as_mut()
    }

    fn slot_of(&self, key_id: KeyId, hash: u64) -> Option<u32> {
        let is_its = |slot: &u32| self.at(*slot).is_some_and(|note| note.key_id == key_id);
        self.slots.find(hash, is_its).copied()
    }

    fn is_pending(&self, place: Place) -> bool {
        self.get(place).is_some_and(Note::is_pending)
    }

    /// Notes a use of a key that is known at this place. Answers whether it is.
    fn note_at(&mut self, place: Place, key_id: KeyId, used_at: i64) -> bool {
        let Some(note) = self.get_mut(place).filter(|note| note.key_id == key_id) else {
            return false;
        };
        let was_pending = note.is_pending();
        note.latest = note.latest.max(used_at);
        let has_become_pending = !was_pending && note.is_pending();
        self.pending += usize::from(has_become_pending);
        true
    }

    /// Makes a key known that was used for the first time. Answers its slot.
    fn insert(&mut self, note: Note, hash: u64, hasher: &RandomState) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.notes.push(None);
            u32::try_from(self.notes.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.notes.get_mut(slot as usize) {
            *place = Some(note);
        }
        let notes = &self.notes;
        let hash_of = |slot: &u32| {
            let note = notes.get(*slot as usize).and_then(Option::as_ref);
            note.map_or(0, |note| hasher.hash_one(note.key_id))
        };
        self.slots.insert_unique(hash, slot, hash_of);
        slot
    }

    /// Forgets a key. What is free afterwards the next one gets; when none is left, nothing is kept for it.
    fn forget(&mut self, place: Place, hasher: &RandomState) {
        let Some(note) = self.get(place) else {
            return;
        };
        let hash = hasher.hash_one(note.key_id);
        let slot = place.slot();
        if let Ok(known) = self.slots.find_entry(hash, |known| *known == slot) {
            known.remove();
        }
        if self.slots.is_empty() {
            (self.notes, self.free, self.slots) = Default::default();
            return;
        }
        if let Some(note) = self.notes.get_mut(slot as usize) {
            *note = None;
        }
        self.free.push(slot);
    }
}

impl Notes {
    pub(super) fn new(resolution: Duration) -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard::default()),
            resolution,
            hasher: RandomState::new(),
        }
    }

    /// Keeps the later of the time that is noted and `used_at`.
    pub(super) fn note(&self, key_id: KeyId, used_at: Timestamp, hint: &NoteHint) {
        let used_at = used_at.unix_micros();
        let place = Place(hint.0.load(Ordering::Relaxed));
        if self.part(place).note_at(place, key_id, used_at) {
            return;
        }
        let place = self.note_unhinted(key_id, used_at);
        hint.0.store(place.0, Ordering::Relaxed);
    }

    fn note_unhinted(&self, key_id: KeyId, used_at: i64) -> Place {
        let (shard, hash) = self.shard_of(key_id);
        let part = &mut *self.lock(shard);
        if let Some(slot) = part.slot_of(key_id, hash) {
            let place = Place::new(shard, slot);
            part.note_at(place, key_id, used_at);
            return place;
        }
        let note = Note {
            key_id,
            latest: used_at,
            stored: i64::MIN,
        };
        let slot = part.insert(note, hash, &self.hasher);
        let place = Place::new(shard, slot);
        part.pending += 1;
        part.fresh.push(Event {
            place,
            at: Instant::now(),
        });
        place
    }

    /// The use of a key that is not known to be stored.
    pub(super) fn pending(&self, key_id: KeyId) -> Option<Timestamp> {
        let (shard, hash) = self.shard_of(key_id);
        let part = self.lock(shard);
        let note = part.at(part.slot_of(key_id, hash)?)?;
        let pending = note.is_pending().then_some(note.latest)?;
        Timestamp::from_unix_micros(pending)
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
            let later = overdue.find(|event| part.is_pending(event.place));
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
                if part.is_pending(event.place) {
                    taken.push(Event {
                        at: self.due_at(&event, now),
                        ..event
                    });
                } else {
                    part.forget(event.place, &self.hasher);
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
            for event in std::mem::take(&mut part.later) {
                if part.is_pending(event.place) {
                    taken.push(Event {
                        at: self.due_at(&event, now),
                        ..event
                    });
                } else {
                    part.later.push_back(event);
                }
            }
        }
        taken
    }

    /// What is to be written about keys that were handed over, in the order of their ids.
    pub(super) fn uses_of(&self, events: impl Iterator<Item = Event>) -> Vec<KeyUse> {
        let mut uses: Vec<_> = events
            .filter_map(|Event { place, .. }| {
                let part = self.part(place);
                let &Note { key_id, latest, .. } = part.get(place)?;
                let used_at = Timestamp::from_unix_micros(latest)?;
                Some(KeyUse { key_id, used_at })
            })
            .collect();
        uses.sort_unstable_by_key(|used| used.key_id);
        uses
    }

    /// Which key was handed over.
    pub(super) fn key_of(&self, event: &Event) -> Option<KeyId> {
        Some(self.part(event.place).get(event.place)?.key_id)
    }

    /// Takes keys back that were handed over, and written just now.
    pub(super) fn settle(&self, written: &[KeyUse]) {
        let at = Instant::now();
        for &KeyUse { key_id, used_at } in written {
            let (shard, hash) = self.shard_of(key_id);
            let part = &mut *self.lock(shard);
            let Some(slot) = part.slot_of(key_id, hash) else {
                continue;
            };
            let place = Place::new(shard, slot);
            if let Some(note) = part.get_mut(place) {
                note.stored = used_at.unix_micros();
                let is_settled = !note.is_pending();
                part.pending -= usize::from(is_settled);
                part.later.push_back(Event { place, at });
            }
        }
    }

    /// How many keys are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let known = self.shards.iter().map(|shard| shard.lock().slots.len());
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

    /// In which shard a key is noted, and its hash there, of which that takes other bits.
    fn shard_of(&self, key_id: KeyId) -> (usize, u64) {
        let hash = self.hasher.hash_one(key_id);
        let shard = usize::try_from(hash >> 32).unwrap_or_default() % SHARDS;
        (shard, hash)
    }

    fn part(&self, place: Place) -> MutexGuard<'_, Part> {
        self.lock(place.shard())
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Part> {
        let [first, ..] = &self.shards;
        self.shards.get(shard).unwrap_or(first).lock()
    }
}

impl Shard {
    /// What it guards is whole at any time, so a thread that panicked with it does no harm.
    fn lock(&self) -> MutexGuard<'_, Part> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
