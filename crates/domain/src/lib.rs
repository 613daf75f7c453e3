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
//! - [`account`] and [`api_key`]: the two entities and everything that may happen to them
//! - [`access`]: whose records a caller may reach
//! - [`verdict`]: the whole verification policy, in one function
//!
//! To add a rule about keys, write it as a method of [`ApiKey`] (if it changes one) or as a line of
//! [`decide`] (if it refuses one), with its test beside it; no other crate decides anything about keys.

pub mod access;
pub mod account;
pub mod api_key;
pub mod id;
pub mod secret;
pub mod text;
pub mod timestamp;
pub mod verdict;

pub use access::{Access, ForeignAccount, OperatorAccess};
pub use account::{Account, AccountChange, AccountRefusal, AccountRole, AccountStatus};
pub use api_key::{ApiKey, ApiKeyStatus, KeyChange, KeyRecord, KeyRefusal};
pub use id::{AccountId, KeyId};
pub use secret::{
    API_KEY_BYTES, API_KEY_PREFIX, KeyHash, KeyPrefix, MalformedKey, Pepper, PepperCheck, PlainKey,
    WeakPepper, generate_api_key, hash_api_key, redact_keys, verify_api_key,
};
pub use text::{AccountName, KeyName, Slug, TextFault};
pub use timestamp::{Timestamp, TimestampFault};
pub use verdict::{Verdict, decide};
