//! The use cases: issue a key, authenticate with one, manage keys and accounts.
//!
//! [`Service`] is the one door. It is concrete: whoever needs other behaviour behind it hands in other ports. A request
//! goes one way through it: the border has parsed it into domain values, a use case here asks the ports and lets the
//! domain decide, and the result is a value that the border puts into words.
//!
//! This crate must never know of HTTP, of a database, of configuration or of the real clock.
//!
//! To add a use case: write it in the module of its kind ([`issue`], [`manage`], [`accounts`], [`authenticate`],
//! [`operator`], [`secret`]), let it take an [`Access`](leadr_auth_domain::Access) (whose records may it see?), a
//! [`Principal`](leadr_auth_domain::Principal) if it changes something (who does, and what may they?), or an
//! [`OperatorAccess`](leadr_auth_domain::OperatorAccess), read the clock at most once, and give it an error that names
//! each case its callers tell apart. Its tests run on the memory store; mocks are for stores that fail.

pub mod accounts;
pub mod audit;
pub mod authenticate;
pub mod chain;
pub mod issue;
pub mod manage;
pub mod operator;
pub mod readiness;
mod rehash;
pub mod secret;
pub mod statistics;
pub mod transfer;
pub mod usage;
pub mod verification;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use leadr_auth_domain::{AuditKey, Keyring};
use leadr_auth_ports::{Clock, Entropy, EntropyError, Stores};

pub use accounts::{AccountError, NewAccount};
pub use audit::{AuditError, AuditFilter, AuditReport, Auditor, PruneError, Refusal};
pub use authenticate::{Authentication, Caller};
pub use chain::Chain;
pub use issue::{IssueKeyError, Issued, IssuedKey, NewKey};
pub use leadr_auth_ports::{
    AccountFilter, AccountQuery, ActorFilter, AuditPlace, DropPepperError, ImportMode, KeyFilter,
    KeyQuery, NodeReport, PepperUse, Pruned, StoreError, StoreLoad, StoredPepper, listing,
};
pub use manage::KeyError;
pub use operator::{EnsureOperatorError, NewOperatorKey, OperatorState};
pub use readiness::{Phase, Readiness};
pub use secret::{DropError, PepperRole, PepperStatus, PrepareError, SecretError};
pub use statistics::{Statistics, UsageStatistics};
pub use transfer::{Exporter, Importer, Record};
pub use usage::UsageRecorder;
pub use verification::{
    CacheStatistics, Onlooker, Propagation, Sabotage, Verification, VerificationConfig, VerifiedKey,
};

use rehash::Rehasher;
use statistics::Verifications;
use verification::Verifier;

/// All use cases, on the ports that it was given. Its clones share everything.
#[derive(Clone)]
pub struct Service {
    stores: Stores,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    keyring: Arc<RwLock<Arc<Keyring>>>,
    /// Whether the secrets are known to be those that the stored keys are hashed under.
    secrets_are_proven: Arc<AtomicBool>,
    /// Under which the audit trail is sealed, once that is known.
    audit_key: Arc<RwLock<Option<AuditKey>>>,
    usage: UsageRecorder,
    rehasher: Rehasher,
    readiness: Readiness,
    verifications: Verifications,
    config: ServiceConfig,
    verifier: Arc<Verifier>,
}

/// How the service behaves where it has a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// How keys are verified.
    pub verification: VerificationConfig,
    /// How often the use of one key is written down at most.
    pub usage_resolution: Duration,
    /// What people know this process by, among others of the same store.
    pub node_name: String,
    /// The version of the program.
    pub version: String,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            verification: VerificationConfig::default(),
            usage_resolution: UsageRecorder::DEFAULT_RESOLUTION,
            node_name: "leadr-auth".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl Service {
    /// Puts the use cases on top of `stores`, with defaults.
    pub fn new(
        stores: Stores,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        keyring: impl Into<Keyring>,
    ) -> Self {
        Self::with_config(stores, clock, entropy, keyring, ServiceConfig::default())
    }

    /// Puts the use cases on top of `stores`.
    pub fn with_config(
        stores: Stores,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        keyring: impl Into<Keyring>,
        config: ServiceConfig,
    ) -> Self {
        let verifier = Arc::new(Verifier::new(&config.verification));
        // Before anybody gets hold of them: no change is to pass by the cache.
        let stores = verification::watched(stores, &verifier.cache);
        let usage =
            UsageRecorder::with_resolution(Arc::clone(&stores.usage), config.usage_resolution);
        let rehasher = Rehasher::new(Arc::clone(&stores.secrets), Arc::clone(&clock));
        Self {
            stores,
            clock,
            entropy,
            keyring: Arc::new(RwLock::new(Arc::new(keyring.into()))),
            secrets_are_proven: Arc::default(),
            audit_key: Arc::default(),
            usage,
            rehasher,
            readiness: Readiness::default(),
            verifications: Verifications::default(),
            config,
            verifier,
        }
    }

    /// The server's secrets, as they are now.
    fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The cursor for a place in a list, see [`leadr_auth_domain::cursor`].
    pub fn seal_cursor(&self, list: &str, place: &str) -> String {
        self.keyring().seal_cursor(list, place)
    }

    /// The place that a cursor stands for, if it is one of this list.
    pub fn open_cursor(&self, list: &str, cursor: &str) -> Option<String> {
        self.keyring().open_cursor(list, cursor)
    }

    /// The recorder of uses, which works while [`Service::run`] runs.
    pub fn usage(&self) -> &UsageRecorder {
        &self.usage
    }

    /// Where the process says whether it is able to serve.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Does the store answer?
    pub async fn check_store(&self) -> Result<(), StoreError> {
        self.stores.health.ping().await
    }

    /// `N` bytes that nobody can predict.
    fn random<const N: usize>(&self) -> Result<[u8; N], EntropyError> {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod testing;
