//! What an account, an API key, a secret and a verdict are.
//!
//! Everything here is a value or a pure function. This crate must never know of input or output, of a clock, of
//! randomness, of `async`, of HTTP or of a database: time and random bytes arrive as arguments, and the same arguments
//! always give the same result.
//!
//! Read the modules in this order:
//!
//! - [`id`]: identifiers that cannot be mistaken for one another
//! - [`timestamp`]: instants in UTC, to the microsecond
//! - [`text`]: names and slugs, valid by construction
//! - [`secret`]: the plain key, its lookup prefix, the server's secret, the hash, and the check in constant time
//! - [`keyring`]: the server's secrets, where there are several
//! - [`scope`]: what a key may be used for
//! - [`account`] and [`api_key`]: the two entities and everything that may happen to them
//! - [`revision`]: which state of an entity somebody has seen
//! - [`access`]: who asks, whose records they may reach and what they may do
//! - [`verdict`]: the whole verification policy, in one function
//! - [`idempotency`]: requests that are done once, however often they are sent
//! - [`cursor`]: where a long list goes on
//! - [`audit_key`] and [`audit`]: what is written down of every change, and the chain that shows whether it was tampered with
//!
//! To add a rule about keys, write it as a method of [`ApiKey`] (if it changes one) or as a line of
//! [`decide`] (if it refuses one), with its test beside it; no other crate decides anything about keys.

pub mod access;
pub mod account;
pub mod api_key;
pub mod audit;
pub mod audit_key;
pub mod cursor;
pub mod id;
pub mod idempotency;
pub mod keyring;
pub mod revision;
pub mod scope;
pub mod secret;
pub mod text;
pub mod timestamp;
pub mod verdict;

pub use access::{Access, Actor, ForeignAccount, OperatorAccess, Origin, Principal, ScopeNotHeld};
pub use account::{Account, AccountChange, AccountRefusal, AccountRole, AccountStatus, KeyLimit};
pub use api_key::{ApiKey, ApiKeyStatus, KeyChange, KeyRecord, KeyRefusal};
pub use audit::{
    AuditAction, AuditDraft, AuditEntry, AuditFault, AuditHash, ChainCheck, ChainHead, ChainId,
    Checkpoint, Facts, LastPlace,
};
pub use audit_key::{AuditKey, SealedAuditKey};
pub use id::{AccountId, KeyId, NodeId};
pub use idempotency::{Fingerprint, IdempotencyKey, IdempotentRequest, MalformedIdempotencyKey};
pub use keyring::{HashedKey, Keyring, KeyringFault, PepperId};
pub use revision::Revision;
pub use scope::{Right, Scope, ScopeFault, ScopeSet, Scopes};
pub use secret::{
    API_KEY_BYTES, API_KEY_PREFIX, KeyDigest, KeyHash, KeyPrefix, MalformedKey, Pepper,
    PepperCheck, PlainKey, PrefixCode, WeakPepper, generate_api_key, hash_api_key, redact_keys,
    verify_api_key,
};
pub use text::{AccountName, KeyName, Slug, TextFault};
pub use timestamp::{Timestamp, TimestampFault};
pub use verdict::{AccountStanding, KeyStanding, Verdict, decide};

#[cfg(test)]
mod testing {
    use super::{AccountId, ApiKey, HashedKey, KeyId, KeyName, KeyPrefix, Timestamp, hash_api_key};

    /// A key called `Key`.
    pub(crate) fn key(id: [u8; 16], account: [u8; 16]) -> ApiKey {
        ApiKey::new(
            KeyId::from_random_bytes(id),
            AccountId::from_random_bytes(account),
            KeyName::parse("Key").unwrap(),
            HashedKey {
                pepper_id: super::PepperId::default(),
                hash: hash_api_key("ldr_abc", "secret"),
            },
            KeyPrefix::parse("ldr_abc").unwrap(),
            None,
            Timestamp::parse("2026-01-01T00:00:00Z").unwrap(),
        )
    }
}
