//! The key that nobody has.
//!
//! What is done with a record that the store has found takes a microsecond, and a microsecond tells those who ask often enough
//! whether there was one. So where there is none, as much is done with this one, which no key is the one of.

use std::sync::LazyLock;

use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, ApiKey, HashedKey, KeyHash, KeyId, KeyName,
    KeyRecord, PepperId, PlainKey, Slug, Timestamp, generate_api_key,
};

/// Its record, as the store would have it.
pub(super) static NOBODY: LazyLock<KeyRecord> = LazyLock::new(|| {
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
