//! The key that nobody has.
//!
//! What is done with a record that the store has found takes a microsecond, and a microsecond tells those who ask often enough
//! whether there was one. So where there is none, as much is done with this one, which no key is the one of.

use std::sync::{Arc, LazyLock};

use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, ApiKey, HashedKey, KeyHash, KeyId, KeyName,
    KeyRecord, PepperId, PlainKey, PrefixCode, Slug, Timestamp, generate_api_key,
};

use super::cache::VerificationCache;
use super::record::{CachedKey, VerifiedKey};
use super::sync::{Mutex, lock};

static NOBODY: LazyLock<KeyRecord> = LazyLock::new(|| {
    let account = Account::new(
        AccountId::from_random_bytes([0; 16]),
        AccountName::from_store("Nobody".to_owned()),
        Slug::from_store("nobody".to_owned()),
        AccountRole::Tenant,
        Timestamp::MIN,
    );
    let hashed = HashedKey {
        pepper_id: PepperId::default(),
        hash: KeyHash::of_nobody(),
    };
    let plain: PlainKey = generate_api_key([0; 32]);
    let key = ApiKey::new(
        KeyId::from_random_bytes([0; 16]),
        account.id,
        KeyName::from_store("Nobody's".to_owned()),
        hashed,
        plain.prefix(),
        None,
        Timestamp::MIN,
    );
    KeyRecord { key, account }
});

/// How many there are of it: more than prefixes are asked for often, so that few of those share one, which would be nearer to the
/// processor than the records of keys are.
const STAND_INS: u64 = 1_024;

/// What stands in for the record of a prefix that nobody has.
pub(super) struct StandIns {
    first: Mutex<Arc<CachedKey>>,
    others: Vec<Mutex<Arc<CachedKey>>>,
}

impl StandIns {
    pub(super) fn new(cache: &VerificationCache) -> Self {
        let made = || Mutex::new(cache.keep(&NOBODY));
        Self {
            first: made(),
            others: (1..STAND_INS).map(|_| made()).collect(),
        }
    }

    /// The one that is kept for this prefix.
    pub(super) fn known(&self, code: PrefixCode) -> VerifiedKey {
        VerifiedKey(Arc::clone(&lock(self.slot(code))))
    }

    /// A new one for this prefix, made and kept as the record of a key is that the store has found.
    pub(super) fn found(&self, cache: &VerificationCache, code: PrefixCode) -> VerifiedKey {
        let made = cache.keep(&NOBODY);
        *lock(self.slot(code)) = Arc::clone(&made);
        VerifiedKey(made)
    }

    fn slot(&self, code: PrefixCode) -> &Mutex<Arc<CachedKey>> {
        let place = usize::try_from(code.as_u64() % STAND_INS).unwrap_or_default();
        self.others.get(place).unwrap_or(&self.first)
    }
}
