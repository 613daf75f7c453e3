//! The fence, the lease and the accounts of the cache under loom, which tries every order in which the threads can meet:
//! `cargo xtask loom`.
//!
//! Only the locks and atomics of [`super::sync`] are loom's. To what else the cache consists of, a step of a thread is one and
//! undivided, which it is for those who use it.
//!
//! What is sound is also run the wrong way round, and has to fail then.

use std::sync::Arc;
use std::time::Duration;

use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, ApiKey, KeyId, KeyName, KeyRecord, Keyring,
    Pepper, PlainKey, PrefixCode, Slug, Timestamp, Verdict, generate_api_key,
};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Mutex, MutexGuard};
use loom::thread;

use super::Sabotage;
use super::cache::{Fill, Known, VerificationCache};
use super::fills::{Begun, Fills};
use super::lease::Lease;
use super::record::VerifiedKey;

/// What the store says before the change, and after it.
const OLD: u64 = 1;
const NEW: u64 = 2;

/// What a fill found, for those who joined it.
type Found = Arc<Mutex<Option<u64>>>;

/// How many times a thread may be interrupted where three of them meet in the whole cache; everything else is tried in every
/// order that there is. Nearly every mistake of this kind shows with two.
const INTERRUPTIONS: usize = 2;

/// Tries the orders in which a scene can go.
fn explore(interruptions: Option<usize>, scene: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    // What the environment says holds for all.
    model.preemption_bound = model.preemption_bound.or(interruptions);
    model.check(scene);
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// A store with one record, and a shelf for it.
struct Shelf {
    /// Nothing but the fence's own locks orders what is read and written here.
    store: AtomicU64,
    fills: Fills<Found>,
    shelf: Mutex<Option<u64>>,
    fenced: bool,
}

/// How the change is made.
#[derive(Clone, Copy)]
enum How {
    One,
    All,
    ForgetFirst,
}

impl Shelf {
    fn new(fenced: bool) -> Self {
        Self {
            store: AtomicU64::new(OLD),
            fills: Fills::new(),
            shelf: Mutex::new(None),
            fenced,
        }
    }

    fn fill(&self, code: PrefixCode) {
        if let Begun::First(ticket) = self.fills.begin(code, Found::default) {
            let found = self.store.load(Ordering::Relaxed);
            ticket.end(self.fenced, || *hold(&self.shelf) = Some(found));
        }
    }

    fn change(&self, code: PrefixCode, how: How) {
        let forget = || *hold(&self.shelf) = None;
        match how {
            How::One => {
                self.store.store(NEW, Ordering::Relaxed);
                self.fills.strike_out(code, forget);
            }
            How::All => {
                self.store.store(NEW, Ordering::Relaxed);
                self.fills.strike_out_all();
                forget();
            }
            How::ForgetFirst => {
                self.fills.strike_out(code, forget);
                self.store.store(NEW, Ordering::Relaxed);
            }
        }
    }

    fn holds_what_is_so(&self) {
        let kept = *hold(&self.shelf);
        assert_ne!(kept, Some(OLD), "what was changed is known as it was");
    }
}

/// Whoever looks after a change has returned, at once and when everybody is done, finds nothing of before it.
fn fills_meet_a_change(fenced: bool, how: How, fillers: usize) {
    let code = generate_api_key([1; 32]).prefix_code();
    explore(None, move || {
        let scene = Arc::new(Shelf::new(fenced));
        let filling: Vec<_> = (0..fillers)
            .map(|_| {
                let scene = Arc::clone(&scene);
                thread::spawn(move || scene.fill(code))
            })
            .collect();
        scene.change(code, how);
        scene.holds_what_is_so();
        for filler in filling {
            filler.join().unwrap();
        }
        scene.holds_what_is_so();
    });
}

#[test]
fn a_fill_does_not_bring_back_what_was_changed() {
    fills_meet_a_change(true, How::One, 1);
    fills_meet_a_change(true, How::One, 2);
}

#[test]
fn a_fill_does_not_bring_back_what_was_dropped_with_everything() {
    fills_meet_a_change(true, How::All, 1);
    fills_meet_a_change(true, How::All, 2);
}

#[test]
#[should_panic(expected = "what was changed is known as it was")]
fn without_the_fence_a_fill_brings_it_back() {
    fills_meet_a_change(false, How::One, 1);
}

#[test]
#[should_panic(expected = "what was changed is known as it was")]
fn without_the_fence_a_fill_brings_back_what_was_dropped_with_everything() {
    fills_meet_a_change(false, How::All, 1);
}

#[test]
#[should_panic(expected = "what was changed is known as it was")]
fn forgotten_before_the_store_has_it_a_fill_brings_it_back() {
    fills_meet_a_change(true, How::ForgetFirst, 1);
}

/// Whoever begins after a change joins no fill that may have read before it.
fn somebody_joins_after_a_change(how: How, gives_up: bool) {
    let code = generate_api_key([1; 32]).prefix_code();
    explore(None, move || {
        let scene = Arc::new(Shelf::new(true));
        let filler = {
            let scene = Arc::clone(&scene);
            thread::spawn(move || {
                let own = Found::default();
                match scene.fills.begin(code, || Arc::clone(&own)) {
                    Begun::First(ticket) => {
                        *hold(&own) = Some(scene.store.load(Ordering::Relaxed));
                        if gives_up {
                            drop(ticket);
                        } else {
                            ticket.end(true, || {});
                        }
                    }
                    Begun::Joined(_) => {}
                }
            })
        };
        scene.change(code, how);
        let joined = match scene.fills.begin(code, Found::default) {
            Begun::First(_) => None,
            Begun::Joined(found) => Some(found),
        };
        filler.join().unwrap();
        let found = joined.and_then(|found| *hold(&found));
        assert_ne!(found, Some(OLD), "joined somebody who read before");
        // Whatever came of them, no fill is left standing that nobody does.
        assert!(matches!(
            scene.fills.begin(code, Found::default),
            Begun::First(_)
        ));
    });
}

#[test]
fn nobody_who_begins_after_a_change_joins_a_fill_of_before_it() {
    for gives_up in [false, true] {
        somebody_joins_after_a_change(How::One, gives_up);
        somebody_joins_after_a_change(How::All, gives_up);
    }
}

#[test]
#[should_panic(expected = "joined somebody who read before")]
fn struck_out_before_the_store_has_it_a_fill_is_joined_that_read_before() {
    somebody_joins_after_a_change(How::ForgetFirst, false);
}

/// A ticket that is dropped takes away its own entry, and not that of somebody who began after it was struck out.
#[test]
fn a_fill_that_is_given_up_strikes_out_itself_only() {
    let code = generate_api_key([1; 32]).prefix_code();
    explore(None, move || {
        let fills = Arc::new(Fills::new());
        let Begun::First(first) = fills.begin(code, || 1) else {
            panic!("there is no other")
        };
        let striker = {
            let fills = Arc::clone(&fills);
            thread::spawn(move || {
                fills.strike_out(code, || {});
                let begun = fills.begin(code, || 2);
                let Begun::First(second) = begun else {
                    panic!("the first one is struck out")
                };
                let joined = fills.begin(code, || 3);
                assert!(matches!(joined, Begun::Joined(2)), "struck out by another");
                second.end(true, || {});
            })
        };
        drop(first);
        striker.join().unwrap();
        assert!(matches!(fills.begin(code, || 4), Begun::First(_)));
    });
}

/// Whoever sees that the lease holds sees that what was heard to have changed is gone.
fn the_lease_is_extended_while_somebody_reads(extended_first: bool) {
    const NOW: Duration = Duration::from_secs(1);
    explore(None, move || {
        let lease = Arc::new(Lease::new());
        // Relaxed: that it is seen has to come of the lease.
        let shelf = Arc::new(AtomicU64::new(OLD));
        let follower = {
            let (lease, shelf) = (Arc::clone(&lease), Arc::clone(&shelf));
            thread::spawn(move || {
                if extended_first {
                    lease.extend(2 * NOW);
                    shelf.store(0, Ordering::Relaxed);
                } else {
                    shelf.store(0, Ordering::Relaxed);
                    lease.extend(2 * NOW);
                }
            })
        };
        let reader = {
            let (lease, shelf) = (Arc::clone(&lease), Arc::clone(&shelf));
            thread::spawn(move || {
                if lease.holds(NOW) {
                    let kept = shelf.load(Ordering::Relaxed);
                    assert_ne!(kept, OLD, "the lease holds, and it is still there");
                }
            })
        };
        follower.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn whoever_sees_the_lease_sees_what_it_rests_on() {
    the_lease_is_extended_while_somebody_reads(false);
}

#[test]
#[should_panic(expected = "the lease holds, and it is still there")]
fn extended_before_what_was_heard_is_done_the_lease_promises_too_much() {
    the_lease_is_extended_while_somebody_reads(true);
}

/// Two extend it at once, and the longer one stays.
#[test]
fn a_lease_is_never_shortened() {
    explore(None, || {
        let lease = Arc::new(Lease::new());
        let other = {
            let lease = Arc::clone(&lease);
            thread::spawn(move || lease.extend(Duration::from_secs(1)))
        };
        lease.extend(Duration::from_secs(2));
        other.join().unwrap();
        assert_eq!(lease.until(), Duration::from_secs(2));
    });
}

fn at() -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap()
}

/// Two keys of one account, which is suspended.
struct Records {
    plain: [PlainKey; 2],
    keys: [ApiKey; 2],
    active: Account,
    suspended: Account,
}

impl Records {
    fn new() -> Self {
        let id = AccountId::from_random_bytes([1; 16]);
        let name = AccountName::parse("Tenant").unwrap();
        let slug = Slug::parse("tenant").unwrap();
        let active = Account::new(id, name, slug, AccountRole::Tenant, at());
        let mut suspended = active.clone();
        suspended.suspend(at());
        let ring = Keyring::from(Pepper::new("a secret for tests, of 32 bytes and more").unwrap());
        let plain = [2, 3].map(|byte| generate_api_key([byte; 32]));
        let keys = [0, 1].map(|n| {
            ApiKey::new(
                KeyId::from_random_bytes([4; 16]),
                id,
                KeyName::parse("Key").unwrap(),
                ring.hash(&plain[n]),
                plain[n].prefix(),
                None,
                at(),
            )
        });
        Self {
            plain,
            keys,
            active,
            suspended,
        }
    }

    fn read(&self, key: usize, store: &AtomicU64) -> KeyRecord {
        let is_old = store.load(Ordering::Relaxed) == OLD;
        let account = if is_old {
            &self.active
        } else {
            &self.suspended
        };
        KeyRecord {
            key: self.keys[key].clone(),
            account: account.clone(),
        }
    }
}

/// How what is known of the account goes.
#[derive(Clone, Copy)]
enum Goes {
    Account,
    AccountBackwards,
    Everything,
}

/// An account is suspended while its keys are filled: the cache itself.
fn an_account_is_suspended(sabotage: Sabotage, goes: Goes, fillers: usize) {
    let records = Arc::new(Records::new());
    let interruptions = (fillers > 1).then_some(INTERRUPTIONS);
    explore(interruptions, move || {
        let cache = Arc::new(VerificationCache::new(100_000, sabotage));
        let store = Arc::new(AtomicU64::new(OLD));
        let filling: Vec<_> = (0..fillers)
            .map(|key| {
                let (cache, store) = (Arc::clone(&cache), Arc::clone(&store));
                let records = Arc::clone(&records);
                thread::spawn(move || {
                    let code = records.plain[key].prefix_code();
                    if let Fill::Own(fill) = cache.begin(code) {
                        let record = records.read(key, &store);
                        fill.end(Ok(Some(record))).unwrap();
                    }
                })
            })
            .collect();
        store.store(NEW, Ordering::Relaxed);
        match goes {
            Goes::Account => cache.forget_account(records.active.id),
            Goes::AccountBackwards => cache.forget_account_backwards(records.active.id),
            Goes::Everything => cache.forget_everything(),
        }
        let look = || {
            for key in &records.plain[..fillers] {
                if let Some(Known { found, .. }) = cache.get(key.prefix_code()) {
                    let verdict = found.verdict(at());
                    let expected = Verdict::AccountSuspended;
                    assert_eq!(verdict, expected, "the account is known as it was");
                }
            }
        };
        look();
        for filler in filling {
            filler.join().unwrap();
        }
        look();
        // Whatever is known by now goes with its account.
        cache.forget_account(records.active.id);
        for key in &records.plain[..fillers] {
            let known = cache.get(key.prefix_code());
            assert!(known.is_none(), "a key outlives its account");
        }
    });
}

#[test]
fn no_key_of_an_account_is_known_as_it_was_before_a_change() {
    an_account_is_suspended(Sabotage::Nothing, Goes::Account, 1);
    an_account_is_suspended(Sabotage::Nothing, Goes::Account, 2);
}

#[test]
fn no_key_is_known_as_it_was_before_everything_was_dropped() {
    an_account_is_suspended(Sabotage::Nothing, Goes::Everything, 1);
    an_account_is_suspended(Sabotage::Nothing, Goes::Everything, 2);
}

#[test]
#[should_panic(expected = "the account is known as it was")]
fn retired_before_the_fills_are_struck_out_one_brings_it_back() {
    an_account_is_suspended(Sabotage::Nothing, Goes::AccountBackwards, 1);
}

#[test]
#[cfg(feature = "sabotage")]
#[should_panic(expected = "the account is known as it was")]
fn without_the_fence_a_fill_brings_an_account_back() {
    an_account_is_suspended(Sabotage::NoFence, Goes::Account, 1);
}
