//! Is this key good? The question that is asked more often than all others together, and is answered from memory.
//!
//! A verification goes: `cache` (has this prefix been looked up, and may what was found be relied on?), else the store
//! through `fills`; the secret is compared in either case; the domain decides; the use is noted. What makes the first step
//! sound is the other direction: `follow` hears of every change that the store commits, wherever it was made, and has
//! `follower` throw away what it concerns; and `changes` does the same for what this process changes itself, before it
//! answers.
//!
//! # What may be relied on, and why
//!
//! - **Here**: a key that was revoked through this process is refused from the moment on that the change is answered. The
//!   store has committed, then what the cache knew went, then the answer; and the fence in `fills` keeps a fill that was
//!   underway from bringing it back.
//! - **Elsewhere**: as soon as the news arrives, as a rule within milliseconds; and within [`VerificationConfig::bound`],
//!   whether or not it does. Every node sends itself ticks through the store. One that comes back proves that all that was
//!   committed before it was sent has been heard. The `lease` of the cache goes from the sending of the last such tick to the
//!   bound after it. So an answer at `t` rests on a tick sent after `t` − bound, and on all that was committed before that. Where
//!   no tick comes back, for whatever reason, the lease runs out, and the store is asked for every key. No clock of one machine
//!   is compared with another's. What the store itself answers is believed: one that has been taken over by its standby, and
//!   does not know that, answers what was so before (`docs/reliability.md` says what is not promised).
//! - Nothing that manages keys or accounts is answered from here, and no caller of it is let in from here.

mod cache;
mod changes;
mod fills;
mod follow;
mod follower;
mod lease;
#[cfg(test)]
#[cfg(leadr_loom)]
mod loom_tests;
mod nobody;
mod nodes;
mod onlooker;
mod record;
#[cfg(test)]
#[cfg(not(leadr_loom))]
mod simulation;
mod sync;
#[cfg(test)]
#[cfg(not(leadr_loom))]
mod tests;

use std::fmt;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use leadr_auth_domain::{Access, Keyring, NodeId, PlainKey, Verdict};

pub(crate) use changes::watched;
pub use follow::Propagation;
pub use onlooker::Onlooker;
pub use record::VerifiedKey;

use tokio::sync::Semaphore;

use crate::{Chain, Service, StoreError};
use cache::{Fill, Known, VerificationCache};
use nodes::Nodes;

/// How verification behaves where it has a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerificationConfig {
    /// How many bytes the cache may take, as it counts them.
    pub cache_bytes: u64,
    /// How long after a change, made on another node or by another program, this node may at most go on as if there had been
    /// none. Zero turns the cache off.
    pub bound: Duration,
    /// How often this node makes sure that it still hears. A fraction of the bound, so that one lost tick is no harm.
    pub tick: Duration,
    /// How much longer than the bound what is known may be relied on while the store cannot be asked. Zero, unless somebody
    /// would rather let in a key that was revoked meanwhile than turn away one that was not.
    pub stale_if_error: Duration,
    /// Which mechanism is switched off.
    pub sabotage: Sabotage,
}

impl Default for VerificationConfig {
    /// 256 MiB, which is a million keys; two seconds, four ticks in them, and nothing after them.
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            bound: Duration::from_secs(2),
            tick: Duration::from_millis(500),
            stale_if_error: Duration::ZERO,
            sabotage: Sabotage::Nothing,
        }
    }
}

impl VerificationConfig {
    /// For how long after a change this node may at most go on as if there had been none, whatever it hears or does not.
    pub const fn patience(&self) -> Duration {
        self.bound.saturating_add(self.stale_if_error)
    }
}

/// A mechanism to be switched off by a test, which then has to fail. Without the feature `sabotage` nothing is, whatever is
/// asked for: no release has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    #[default]
    Nothing,
    /// A fill publishes also where what it read was changed meanwhile.
    NoFence,
    /// What was known goes before the store commits, and not after.
    ForgetEarly,
    /// What is known is relied on whether ticks come back or not.
    NoTicks,
    /// The cache is dropped before it is listened anew, and not after.
    ListenLate,
    /// The lease goes by the time of day.
    WallClock,
    /// Uses are not written down at the end.
    NoLastFlush,
}

impl Sabotage {
    /// Is this the mechanism that is switched off?
    #[cfg(feature = "sabotage")]
    pub(crate) fn is(self, mechanism: Self) -> bool {
        self == mechanism
    }

    #[cfg(not(feature = "sabotage"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    pub(crate) const fn is(self, _: Self) -> bool {
        false
    }
}

/// What came of a key that was presented to be verified.
#[derive(Clone, Debug)]
pub enum Verification {
    /// It is good.
    Accepted(VerifiedKey),
    /// It is not, for this reason, which is for those who may hear it. The key is there if its secret was right. Never
    /// [`Verdict::Valid`].
    Refused(Verdict, Option<VerifiedKey>),
}

impl Verification {
    /// The verdict.
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::Accepted(_) => Verdict::Valid,
            Self::Refused(verdict, _) => *verdict,
        }
    }
}

/// What is known of a key's prefix, and whether it is of this very key.
///
/// What stands in for a key is judged as one is: a refusal is not to be known by the time that it takes.
struct Looked {
    known: Known,
    is_genuine: bool,
}

/// How often what was known answered, and how often it did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStatistics {
    /// What was known was relied on.
    pub hits: u64,
    /// Nothing was known, and the store was asked.
    pub misses: u64,
    /// The lease was over, and the store was asked whatever was known.
    pub bypasses: u64,
    /// The store did not answer, and what was known was relied on although the lease was over.
    pub stale: u64,
    /// How many keys are kept.
    pub keys: usize,
    /// How many bytes they take, as the cache counts them.
    pub bytes: u64,
    /// How much longer the lease goes; zero when it is over.
    pub lease: Duration,
}

/// What verification knows, and by which it is kept true. A service's clones share it.
pub(crate) struct Verifier {
    pub(crate) cache: Arc<VerificationCache>,
    nodes: Arc<Nodes>,
    /// Which node of a deployment this process is, once it follows changes.
    node_id: OnceLock<NodeId>,
    /// A permit for each tick that may wait for the store.
    ticks: Arc<Semaphore>,
    /// Whether the last tick could not be sent, which is said once.
    ticks_fail: AtomicBool,
    counters: Counters,
}

impl Verifier {
    pub(crate) fn new(config: &VerificationConfig) -> Self {
        let cache = VerificationCache::new(config.cache_bytes, config.sabotage);
        let permits = usize::try_from(follow::TICKS_AT_ONCE).unwrap_or(1);
        Self {
            cache: Arc::new(cache),
            nodes: Arc::default(),
            node_id: OnceLock::new(),
            ticks: Arc::new(Semaphore::new(permits)),
            ticks_fail: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }

    /// Notes what came of sending a tick; says when they begin to fail and when that is over.
    fn note_tick(&self, error: Option<&StoreError>) {
        let failed_before = self.ticks_fail.swap(error.is_some(), Ordering::AcqRel);
        match error {
            Some(error) if !failed_before => {
                tracing::warn!(error = %Chain(error), "it cannot be made sure that changes are heard; every key is looked up until it can");
            }
            None if failed_before => {
                tracing::info!("it can be made sure again that changes are heard");
            }
            Some(_) | None => {}
        }
    }
}

/// The counters of [`CacheStatistics`].
#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    bypasses: AtomicU64,
    stale: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Service {
    /// Is this key good, and whose is it? For whoever protects something with keys: answered from memory where that is known,
    /// see the module's docs for what it means.
    ///
    /// A key that `reach` does not reach is [`Verdict::Unknown`], as one that nobody has: a tenant who verifies learns about
    /// its own keys only, and uses no other. The use of a good key is noted.
    pub async fn verify(&self, reach: Access, key: &PlainKey) -> Result<Verification, StoreError> {
        let outcome = self.verify_genuine(reach, key).await;
        self.verifications
            .count(outcome.as_ref().ok().map(Verification::verdict));
        outcome
    }

    async fn verify_genuine(
        &self,
        reach: Access,
        key: &PlainKey,
    ) -> Result<Verification, StoreError> {
        let ring = self.keyring();
        let began = self.lease_time();
        let Looked { known, is_genuine } = match self.find_known(&ring, key, began)? {
            Some(known) => known,
            // Apart, since room for what it takes to ask the store would otherwise be found for every answer from memory.
            None => Box::pin(self.find_stored(&ring, key, began)).await?,
        };
        let Known { found, is_nobodys } = known;
        let now = self.clock.now();
        // Not put off by the compiler until it is wanted: the records that it reads are far from the processor.
        let judged = black_box(found.verdict(now));
        let verdict = if is_genuine && reach.reaches(found.account_id()) {
            judged
        } else {
            Verdict::Unknown
        };
        match verdict {
            Verdict::Valid => {
                self.usage.note_by(found.id(), now, found.uses());
                self.rehasher
                    .note(&ring, key, found.id(), found.pepper_id(), || {
                        found.digest().to_hash()
                    });
                Ok(Verification::Accepted(found))
            }
            refusal => {
                // As far as one goes for a prefix that nobody has: what is not near to the processor takes its time.
                if !is_nobodys {
                    black_box(self.verifier.cache.is_nobodys(key.prefix_code()));
                }
                let told = (refusal != Verdict::Unknown).then_some(found);
                Ok(Verification::Refused(refusal, told))
            }
        }
    }

    /// By what is known and may be relied on; `None` where the store has to be asked.
    fn find_known(
        &self,
        ring: &Keyring,
        key: &PlainKey,
        began: Duration,
    ) -> Result<Option<Looked>, StoreError> {
        let counters = &self.verifier.counters;
        if !self.verifier.cache.may_answer(began) {
            count(&counters.bypasses);
            return Ok(None);
        }
        let code = key.prefix_code();
        let known = match self.verifier.cache.get(code) {
            Some(known) => self
                .compare(ring, key, &known)?
                // Under a secret that this process does not have it may have been hashed anew meanwhile.
                .map(|is_genuine| Looked { known, is_genuine }),
            None => None,
        };
        count(if known.is_none() {
            &counters.misses
        } else {
            &counters.hits
        });
        Ok(known)
    }

    /// By what the store says.
    async fn find_stored(
        &self,
        ring: &Keyring,
        key: &PlainKey,
        began: Duration,
    ) -> Result<Looked, StoreError> {
        let known = match self.look_up(key, began).await {
            Ok(known) => known,
            Err(error) => {
                let known = self.known_before(ring, key, began, error)?;
                let is_genuine = true;
                return Ok(Looked { known, is_genuine });
            }
        };
        let compared = self.compare(ring, key, &known)?;
        if compared.is_none() {
            self.may_refuse_keys_under(known.found.pepper_id()).await?;
        }
        let is_genuine = compared == Some(true);
        Ok(Looked { known, is_genuine })
    }

    /// Is it this very key's? `None` where it is under a secret that this process does not have. What stands in for a key is compared
    /// as one is, and is not the one whatever comes of it.
    fn compare(
        &self,
        ring: &Keyring,
        key: &PlainKey,
        known: &Known,
    ) -> Result<Option<bool>, StoreError> {
        let found = &known.found;
        let is_genuine = ring.verify_digest(key, found.pepper_id(), found.digest());
        if known.is_nobodys {
            return Ok(Some(false));
        }
        if is_genuine == Some(false) {
            self.may_refuse_hashes()?;
        }
        Ok(is_genuine)
    }

    /// Asks the store: once for all who ask at the same time, while the lease holds. Without it whoever began before may have
    /// read what was so before; but what is read is kept all the same, in place of what it contradicts.
    async fn look_up(&self, key: &PlainKey, began: Duration) -> Result<Known, StoreError> {
        let cache = &self.verifier.cache;
        let find = async || self.stores.lookup.find(&key.prefix()).await;
        let filled = loop {
            match cache.begin(key.prefix_code()) {
                Fill::Own(fill) => break fill.end(find().await),
                Fill::Joined(mut joined) if cache.may_answer(began) => {
                    // Whoever asked may have gone away before there was an answer.
                    if let Ok(filled) = joined.wait_for(Option::is_some).await
                        && let Some(filled) = filled.clone()
                    {
                        break filled;
                    }
                }
                Fill::Joined(_) => {
                    let found = find().await;
                    break found
                        .map(|record| cache.know(record.as_ref()))
                        .map_err(Arc::new);
                }
            }
        };
        filled.map_err(|error| shared(&error))
    }

    /// What was known while the lease held, where an operator allows that and the store cannot be asked: keys that were good, and
    /// nothing else. That one is not is no reason to refuse it any more, since it may have been brought back or made meanwhile.
    fn known_before(
        &self,
        ring: &Keyring,
        key: &PlainKey,
        began: Duration,
        error: StoreError,
    ) -> Result<Known, StoreError> {
        let (cache, allowed) = (
            &self.verifier.cache,
            self.config.verification.stale_if_error,
        );
        if !error.is_retryable() || !cache.may_answer_stale(began, allowed) {
            return Err(error);
        }
        let Some(known) = cache.get(key.prefix_code()) else {
            return Err(error);
        };
        let found = &known.found;
        let is_genuine = ring.verify_digest(key, found.pepper_id(), found.digest()) == Some(true);
        let is_good = found.verdict(self.clock.now()) == Verdict::Valid;
        if known.is_nobodys || !is_genuine || !is_good {
            return Err(error);
        }
        count(&self.verifier.counters.stale);
        Ok(known)
    }

    /// The time by which the lease goes.
    fn lease_time(&self) -> Duration {
        if self.config.verification.sabotage.is(Sabotage::WallClock) {
            let micros = self.clock.now().unix_micros();
            return Duration::from_micros(micros.try_into().unwrap_or_default());
        }
        self.clock.uptime()
    }

    /// How the cache is doing.
    pub(crate) fn cache_statistics(&self) -> CacheStatistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (keys, bytes) = self.verifier.cache.size();
        let lease = self.verifier.cache.lease.until();
        CacheStatistics {
            hits: read(&self.verifier.counters.hits),
            misses: read(&self.verifier.counters.misses),
            bypasses: read(&self.verifier.counters.bypasses),
            stale: read(&self.verifier.counters.stale),
            keys,
            bytes,
            lease: lease.saturating_sub(self.lease_time()),
        }
    }
}

/// The error of a fill, for each of those who waited for it.
fn shared(error: &Arc<StoreError>) -> StoreError {
    let source = Box::new(SharedSource(Arc::clone(error)));
    match **error {
        StoreError::Unavailable(_) => StoreError::Unavailable(source),
        StoreError::Internal(_) => StoreError::Internal(source),
    }
}

/// The source of a store's error, which is several errors' source.
#[derive(Debug)]
struct SharedSource(Arc<StoreError>);

impl SharedSource {
    fn source(&self) -> &(dyn std::error::Error + 'static) {
        match &*self.0 {
            StoreError::Unavailable(source) | StoreError::Internal(source) => source.as_ref(),
        }
    }
}

impl fmt::Display for SharedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.source(), f)
    }
}

impl std::error::Error for SharedSource {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source().source()
    }
}
