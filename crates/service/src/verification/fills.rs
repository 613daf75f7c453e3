//! The fills of the cache that are underway, and the fence between them and invalidations.
//!
//! A fill reads from the store and then puts what it read into the cache. If the record was changed and its entry thrown
//! away in between, what the fill has read may be older than the change: put into the cache now, it would bring a revoked key
//! back. So every fill is entered here before it asks the store; an invalidation strikes out the fills that it concerns; and
//! only a fill that still stands may publish. Publishing and striking out happen under one lock, so that there is no moment
//! between the question "does it stand?" and the publication.
//!
//! Whoever misses the same entry while a fill stands joins it. A fill that was struck out cannot be joined any more: what it
//! brings is good for those who asked before the change, and for nobody else.

use std::collections::HashMap;

use leadr_auth_domain::PrefixCode;

use super::sync::{Mutex, MutexGuard, lock};

/// Over how many locks the fills are spread. Two are as good as many for loom, and every one more multiplies what it has to try.
const SHARDS: u64 = if cfg!(leadr_loom) { 2 } else { 16 };

/// The fills that are underway. `J` is what those get who join one.
pub(crate) struct Fills<J> {
    shards: Vec<Mutex<Shard<J>>>,
}

struct Shard<J> {
    standing: HashMap<PrefixCode, Fill<J>>,
    next: u64,
}

struct Fill<J> {
    number: u64,
    joiner: J,
}

/// What becomes of somebody who misses an entry.
pub(crate) enum Begun<'a, J> {
    /// Is the first, and has to fill it.
    First(Ticket<'a, J>),
    /// Joins a fill that is underway.
    Joined(J),
}

/// Stands for a fill that is underway. Dropping it strikes the fill out.
pub(crate) struct Ticket<'a, J> {
    fills: &'a Fills<J>,
    code: PrefixCode,
    number: u64,
}

impl<J: Clone> Fills<J> {
    pub(crate) fn new() -> Self {
        let shard = || {
            Mutex::new(Shard {
                standing: HashMap::new(),
                next: 0,
            })
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    /// Enters a fill, or joins the one that is underway. To be called before the store is asked.
    pub(crate) fn begin(&self, code: PrefixCode, joiner: impl FnOnce() -> J) -> Begun<'_, J> {
        let mut shard = self.shard(code);
        if let Some(fill) = shard.standing.get(&code) {
            return Begun::Joined(fill.joiner.clone());
        }
        let number = shard.next;
        shard.next += 1;
        let joiner = joiner();
        shard.standing.insert(code, Fill { number, joiner });
        Begun::First(Ticket {
            fills: self,
            code,
            number,
        })
    }
}

impl<J> Fills<J> {
    #[expect(
        clippy::indexing_slicing,
        reason = "a number modulo the count of the shards is the index of one"
    )]
    fn shard(&self, code: PrefixCode) -> MutexGuard<'_, Shard<J>> {
        // Codes are random, unless somebody chooses those that nobody has; then some wait for a lock a little longer.
        let index = usize::try_from(code.as_u64() % SHARDS).unwrap_or_default();
        lock(&self.shards[index])
    }

    /// Strikes out the fill of one entry, if there is one, and does `forget` before another can be entered.
    pub(crate) fn strike_out(&self, code: PrefixCode, forget: impl FnOnce()) {
        let mut shard = self.shard(code);
        shard.standing.remove(&code);
        forget();
    }

    /// Strikes out every fill that was entered before this was called.
    pub(crate) fn strike_out_all(&self) {
        for shard in &self.shards {
            lock(shard).standing.clear();
        }
    }
}

impl<J> Ticket<'_, J> {
    /// Ends the fill; does `publish` if it still stands, before it can be struck out. Without `fenced` it does so in any case,
    /// which is for a test that has to see what happens then.
    pub(crate) fn end(self, fenced: bool, publish: impl FnOnce()) {
        let mut shard = self.fills.shard(self.code);
        let stands = self.stands(&shard);
        if stands || !fenced {
            publish();
        }
        if stands {
            shard.standing.remove(&self.code);
        }
    }

    fn stands(&self, shard: &Shard<J>) -> bool {
        let fill = shard.standing.get(&self.code);
        fill.is_some_and(|fill| fill.number == self.number)
    }
}

impl<J> Drop for Ticket<'_, J> {
    fn drop(&mut self) {
        let mut shard = self.fills.shard(self.code);
        if self.stands(&shard) {
            shard.standing.remove(&self.code);
        }
    }
}
