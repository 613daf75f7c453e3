//! Values to put into a store.

use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, ApiKey, AuditAction, AuditDraft, AuditKey,
    ChainId, KeyId, KeyName, Keyring, Origin, Pepper, PlainKey, Slug, Timestamp, generate_api_key,
};

use crate::Audited;

/// The secret under which [`key`] hashes.
pub const SECRET: &str = "a secret for tests, of 32 bytes and more";

/// The instant `micros` microseconds into a fixed day.
pub fn at(micros: u32) -> Timestamp {
    let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    Timestamp::parse(&format!(
        "2026-03-04T05:{minutes:02}:{seconds:02}.{rest:06}Z"
    ))
    .expect("a fixed day has this instant")
}

/// The key under which [`entry`] seals.
pub fn audit_key() -> AuditKey {
    AuditKey::new([9; AuditKey::BYTES])
}

/// An audit entry of the deployment's chain.
pub fn entry() -> AuditDraft {
    entry_in(ChainId::System)
}

/// An audit entry of a chain.
pub fn entry_in(chain: ChainId) -> AuditDraft {
    AuditDraft::new(
        audit_key(),
        chain,
        at(1),
        AuditAction::KeyCreated,
        Origin::TOOL,
    )
}

/// A record that changed, with an entry of the deployment's chain.
pub fn noted<T>(record: T) -> Audited<T> {
    Audited::new(record, entry())
}

/// Records, each with an entry of the deployment's chain.
pub fn all_noted<T: Clone>(records: &[T]) -> Vec<Audited<T>> {
    records.iter().cloned().map(noted).collect()
}

/// The `n`th tenant, made at [`at`]`(n)`.
pub fn account(n: u8) -> Account {
    account_of(n, AccountRole::Tenant)
}

/// The `n`th account, with a role.
pub fn account_of(n: u8, role: AccountRole) -> Account {
    Account::new(
        AccountId::from_random_bytes([n; 16]),
        AccountName::parse(&format!("Account {n}")).expect("a valid name"),
        Slug::parse(&format!("account-{n}")).expect("a valid slug"),
        role,
        at(u32::from(n)),
    )
}

/// The `n`th plain key.
pub fn plain_key(n: u8) -> PlainKey {
    generate_api_key([n; 32])
}

/// The `n`th key, owned by `account`, made at [`at`]`(n)`.
pub fn key(n: u8, account: &Account) -> ApiKey {
    let plain = plain_key(n);
    let pepper = Pepper::new(SECRET).expect("long enough");
    ApiKey::new(
        KeyId::from_random_bytes([n; 16]),
        account.id,
        KeyName::parse(&format!("Key {n}")).expect("a valid name"),
        Keyring::from(pepper).hash(&plain),
        plain.prefix(),
        None,
        at(u32::from(n)),
    )
}

/// Everything that is stored of a key, to be compared. Keys themselves have no `==`, because their hash has none.
pub fn fields(key: &ApiKey) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        (
            key.id,
            key.account_id,
            key.name.clone(),
            key.key_hash.expose_hex().to_owned(),
        ),
        (
            key.key_prefix.clone(),
            key.status,
            key.last_used_at,
            key.expires_at,
        ),
        (key.created_at, key.updated_at, key.deleted_at),
        (key.pepper_id.clone(), key.scopes.clone()),
    )
}
