//! The key that nobody has.
//!
//! What is done with a record that the store has found takes a microsecond, and a microsecond tells those who ask often enough
//! whether there was one. So where there is none, as much is done with this one, which no key is the one of.

use std::array;
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
        // Of nothing that anyone can find.
        hash: KeyHash::from_store("0".repeat(64)),
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

/// How many there are of it: as many as are asked for often, so that they are as far from the processor as the records of keys.
const STAND_INS: usize = 256;

/// What stands in for the record of a prefix that nobody has.
pub(super) struct StandIns([Mutex<Arc<CachedKey>>; STAND_INS]);

impl StandIns {
    pub(super) fn new(cache: &VerificationCache) -> Self {
        Self(array::from_fn(|_| Mutex::new(cache.keep(&NOBODY))))
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
        // A byte is the place of one of 256.
        let [.., place] = code.as_u64().to_be_bytes();
        let [first, ..] = &self.0;
        self.0.get(usize::from(place)).unwrap_or(first)
    }
}
