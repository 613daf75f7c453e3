//! What verification has found out before, for as long as that may be relied on.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use leadr_auth_domain::{
    Account, AccountId, ApiKey, KeyPrefix, KeyRecord, PepperId, PrefixCode, Principal, Scopes,
};
use leadr_auth_ports::{Change, StoreError};
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Weighter};
use tokio::sync::watch;

use super::Sabotage;
use super::fills::{Begun, Fills, Ticket};
use super::lease::Lease;
use super::nobody::NOBODY;
use super::record::{CachedAccount, CachedKey, VerifiedKey};
use super::sync::{AtomicU64, Mutex, Ordering, lock};

/// How many bytes of prefixes that nobody has are kept at most: ten thousand of them; fewer in a cache of fewer bytes.
const NOBODYS_BYTES: u64 = 10_000 * USUAL_WEIGHT;

/// What a key costs that has a short name and no scopes: for a first guess of how many there will be.
const USUAL_WEIGHT: u64 = 240;

/// What a fill found out, shared with whoever joined it.
pub(crate) type Filled = Result<Known, Arc<StoreError>>;

/// Tells those who joined a fill what came of it. A fill that was given up tells nothing.
pub(crate) type Joiner = watch::Receiver<Option<Filled>>;

/// What is known of a prefix.
#[derive(Clone)]
pub(crate) struct Known {
    /// The key that has it, or what stands in for one.
    pub(crate) found: VerifiedKey,
    /// No key has it.
    pub(crate) is_nobodys: bool,
}

type Keys = Cache<PrefixCode, Arc<CachedKey>, KeyWeight>;

/// The keys and accounts that verification has read. It asks nobody; whoever fills it asks the store.
///
/// Two things keep it right. What is told of by [`VerificationCache::forget`] is gone when that returns, and no fill that was
/// underway brings it back. And of what nobody has told it, it only says something while its lease holds.
pub(crate) struct VerificationCache {
    keys: Keys,
    /// What stands in for the keys of prefixes that nobody has. Apart, so that a flood of them throws out no key; and of the same
    /// type, each with a record of its own, so that its code and its records are as far from the processor as those of keys.
    nobodys: Keys,
    accounts: Mutex<Accounts>,
    fills: Fills<Joiner>,
    /// Counts how often the whole cache was dropped.
    epoch: AtomicU64,
    shared: RwLock<Shared>,
    pub(crate) lease: Lease,
    pub(crate) sabotage: Sabotage,
}

#[derive(Clone)]
struct KeyWeight;

impl Weighter<PrefixCode, Arc<CachedKey>> for KeyWeight {
    fn weight(&self, _: &PrefixCode, key: &Arc<CachedKey>) -> u64 {
        key.weight()
    }
}

/// One that keeps up to `bytes`.
fn keys_of(bytes: u64) -> Keys {
    let keys = usize::try_from(bytes / USUAL_WEIGHT).unwrap_or(usize::MAX);
    Cache::with(
        keys,
        bytes,
        KeyWeight,
        DefaultHashBuilder::default(),
        quick_cache::sync::DefaultLifecycle::default(),
    )
}

/// The accounts of the keys. What no key needs any more goes by itself, but for its place in the map.
#[derive(Default)]
struct Accounts {
    known: HashMap<AccountId, Weak<CachedAccount>>,
    /// At how many places those are looked for that are not needed any more.
    sweep_at: usize,
}

/// What many keys have in common.
struct Shared {
    pepper_ids: Vec<Arc<PepperId>>,
    all_scopes: Arc<Scopes>,
}

impl VerificationCache {
    /// One that keeps up to `bytes` of keys.
    pub(crate) fn new(bytes: u64, sabotage: Sabotage) -> Self {
        Self {
            keys: keys_of(bytes),
            nobodys: keys_of(bytes.min(NOBODYS_BYTES)),
            accounts: Mutex::new(Accounts::default()),
            fills: Fills::new(),
            epoch: AtomicU64::new(0),
            shared: RwLock::new(Shared {
                pepper_ids: Vec::new(),
                all_scopes: Arc::new(Scopes::All),
            }),
            lease: Lease::new(),
            sabotage,
        }
    }

    /// May a request that began at `now` be answered from here?
    pub(crate) fn may_answer(&self, now: Duration) -> bool {
        self.lease.holds(now) || self.sabotage.is(Sabotage::NoTicks)
    }

    /// May a request that began at `now` be answered from here if the store cannot be asked, where an operator allows that for
    /// this long?
    pub(crate) fn may_answer_stale(&self, now: Duration, allowed: Duration) -> bool {
        now < self.lease.until().saturating_add(allowed)
    }

    /// What is known of a prefix, whether or not it may be relied on.
    pub(crate) fn get(&self, code: PrefixCode) -> Option<Known> {
        let known = match self.keys.get(&code) {
            Some(key) => Known {
                found: VerifiedKey(key),
                is_nobodys: false,
            },
            None => Known {
                found: VerifiedKey(self.nobodys.get(&code)?),
                is_nobodys: true,
            },
        };
        let epoch = self.epoch.load(Ordering::Acquire);
        known.found.0.account().is_good(epoch).then_some(known)
    }

    /// Is it known that nobody has this prefix?
    pub(crate) fn is_nobodys(&self, code: PrefixCode) -> bool {
        self.nobodys.get(&code).is_some()
    }

    /// Begins to fill what is not known, before the store is asked; or joins who does so already.
    pub(crate) fn begin(&self, code: PrefixCode) -> Fill<'_> {
        let (sender, receiver) = watch::channel(None);
        match self.fills.begin(code, || receiver) {
            Begun::First(ticket) => Fill::Own(OwnFill {
                cache: self,
                ticket,
                code,
                sender,
            }),
            Begun::Joined(joiner) => Fill::Joined(joiner),
        }
    }

    /// What the store says of a prefix, as it is kept. It is published by whoever began to fill it, and by nobody else.
    pub(crate) fn know(&self, record: Option<&KeyRecord>) -> Known {
        // Copied whether it is wanted or not: what a store has just read is near to the processor, and so is this.
        let nobody = black_box(NOBODY.clone());
        Known {
            found: VerifiedKey(self.keep(record.unwrap_or(&nobody))),
            is_nobodys: record.is_none(),
        }
    }

    fn keep(&self, record: &KeyRecord) -> Arc<CachedKey> {
        let KeyRecord { key, account } = record;
        let account = self.keep_account(account);
        Arc::new(CachedKey::new(
            key,
            account,
            self.keep_pepper_id(key),
            self.keep_scopes(record),
        ))
    }

    fn keep_account(&self, account: &Account) -> Arc<CachedAccount> {
        let mut accounts = lock(&self.accounts);
        // With the lock: whoever drops everything clears these accounts together with it, and one of the new epoch that was
        // cleared would never be retired.
        let epoch = self.epoch.load(Ordering::Acquire);
        let known = accounts.known.get(&account.id).and_then(Weak::upgrade);
        if let Some(known) = known {
            if known.is_good(epoch) && known.is_as(account) {
                return known;
            }
            // One of the two was read before a change that is still on its way here. The keys that have the other are read
            // again.
            known.retire();
        }
        let kept = Arc::new(CachedAccount::new(account, epoch));
        accounts.known.insert(account.id, Arc::downgrade(&kept));
        if accounts.known.len() > accounts.sweep_at {
            accounts
                .known
                .retain(|_, account| account.strong_count() > 0);
            accounts.sweep_at = 2 * accounts.known.len() + 1_000;
        }
        kept
    }

    fn keep_pepper_id(&self, key: &ApiKey) -> Arc<PepperId> {
        let find = |shared: &Shared| {
            let mut known = shared.pepper_ids.iter();
            known.find(|id| ***id == key.pepper_id).map(Arc::clone)
        };
        if let Some(known) = find(&self.shared.read().unwrap_or_else(PoisonError::into_inner)) {
            return known;
        }
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        find(&shared).unwrap_or_else(|| {
            let id = Arc::new(key.pepper_id.clone());
            shared.pepper_ids.push(Arc::clone(&id));
            id
        })
    }

    /// What the key holds, which may be less than what its record says.
    fn keep_scopes(&self, record: &KeyRecord) -> Arc<Scopes> {
        match Principal::of(record).held() {
            Scopes::All => {
                let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(&shared.all_scopes)
            }
            scopes @ Scopes::Only(_) => Arc::new(scopes),
        }
    }

    /// Throws away what is kept of something that was changed. Fills that are underway do not bring it back.
    pub(crate) fn forget(&self, change: &Change) {
        match change {
            Change::Key(prefix) => self.forget_key(prefix),
            Change::Account(id) => self.forget_account(*id),
            Change::Everything => self.forget_everything(),
        }
    }

    pub(crate) fn forget_key(&self, prefix: &KeyPrefix) {
        if let Some(code) = prefix.code() {
            self.forget_code(code);
        }
    }

    pub(crate) fn forget_code(&self, code: PrefixCode) {
        self.fills.strike_out(code, || {
            self.keys.remove(&code);
            self.nobodys.remove(&code);
        });
    }

    /// Fills are struck out first. One that is still standing when its account is retired has not published yet, and
    /// cannot; one that began after that reads what is true now.
    pub(crate) fn forget_account(&self, id: AccountId) {
        self.fills.strike_out_all();
        self.retire(id);
    }

    fn retire(&self, id: AccountId) {
        let mut accounts = lock(&self.accounts);
        if let Some(account) = accounts.known.remove(&id).and_then(|known| known.upgrade()) {
            account.retire();
        }
    }

    /// The wrong way round, for a test that has to find out.
    #[cfg(all(test, leadr_loom))]
    pub(crate) fn forget_account_backwards(&self, id: AccountId) {
        self.retire(id);
        self.fills.strike_out_all();
    }

    /// In no time, however much there is: what is of another epoch is not good any more, and goes when its place is needed.
    pub(crate) fn forget_everything(&self) {
        self.fills.strike_out_all();
        let mut accounts = lock(&self.accounts);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        accounts.known.clear();
        drop(accounts);
        self.nobodys.clear();
    }

    /// How many keys are kept, those that are not good any more included, and how many bytes they take.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.keys.len(), self.keys.weight())
    }
}

/// What becomes of somebody who has to have something filled.
pub(crate) enum Fill<'a> {
    /// Asks the store.
    Own(OwnFill<'a>),
    /// Waits for somebody else who does.
    Joined(Joiner),
}

/// A fill that is underway. Where it is dropped, those who joined it are told nothing, and one of them begins anew.
pub(crate) struct OwnFill<'a> {
    cache: &'a VerificationCache,
    ticket: Ticket<'a, Joiner>,
    code: PrefixCode,
    sender: watch::Sender<Option<Filled>>,
}

impl OwnFill<'_> {
    /// Ends it with what the store said. That is kept if nothing of it was changed meanwhile; an error never is.
    pub(crate) fn end(self, answer: Result<Option<KeyRecord>, StoreError>) -> Filled {
        let Self {
            cache,
            ticket,
            code,
            sender,
        } = self;
        let filled = answer
            .map(|record| cache.know(record.as_ref()))
            .map_err(Arc::new);
        let publish = || {
            let Ok(Known { found, is_nobodys }) = &filled else {
                return;
            };
            let (into, out_of) = if *is_nobodys {
                (&cache.nobodys, &cache.keys)
            } else {
                (&cache.keys, &cache.nobodys)
            };
            out_of.remove(&code);
            into.insert(code, Arc::clone(&found.0));
        };
        ticket.end(!cache.sabotage.is(Sabotage::NoFence), publish);
        // Those who joined after it was struck out joined another one.
        let _ = sender.send(Some(filled.clone()));
        filled
    }
}
