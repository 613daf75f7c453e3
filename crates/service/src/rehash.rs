//! Moves keys from a retired secret to the current one, when they are used.
//!
//! Only whoever presents a key can have it hashed anew, since the store has nothing but its hash. So a valid key that is
//! hashed under a retired secret leaves a note with its new hash, and the notes are written down in the background, where
//! no answer waits for them. A note that is lost is made again by the key's next use.
//!
//! Servers may have different current secrets, for a while when they are changed one after the other, and for ever by
//! mistake. Then each would take the other's keys over in turns, with a write and a message to all at every use. So a
//! process moves each key once: one that is found under another secret again was moved by somebody else, and stays there,
//! until the secrets are set anew or the process starts anew.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leadr_auth_domain::{
    AuditAction, ChainId, KeyHash, KeyId, Keyring, Origin, PepperId, PlainKey, PrefixCode,
};
use leadr_auth_ports::{Clock, PepperUse, Rehash, SecretRegistry, StoreError};
use tokio::time::Instant;

use crate::{Chain, Sabotage, Service};

/// How long a note may wait to be written down.
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// How often it is counted how many keys remain: it reads all of them.
const COUNT_EVERY: Duration = Duration::from_mins(1);

/// How many keys are written at once, and stand in one audit entry.
const BATCH: usize = 200;

/// The most notes that wait: what is more waits for its key's next use.
const WAITING: usize = 100_000;

/// How many keys are remembered as moved, which takes 13 MB. Beyond that all are forgotten, and may be moved once more.
const REMEMBERED: usize = 400_000;

/// For how long after a key was moved somebody may still look at its record from before.
const STALE_FOR: Duration = Duration::from_secs(10);

/// Notes new hashes of keys, and writes them down. Its clones share the notes.
#[derive(Clone)]
pub(crate) struct Rehasher {
    registry: Arc<dyn SecretRegistry>,
    clock: Arc<dyn Clock>,
    notes: Arc<Mutex<Notes>>,
    remaining: Arc<Mutex<Vec<PepperUse>>>,
    done: Arc<AtomicU64>,
}

/// What is to be moved, and what was.
#[derive(Default)]
struct Notes {
    waiting: HashMap<KeyId, Note>,
    /// When this process moved them.
    moved: HashMap<KeyId, Instant>,
    /// It was said that keys come back.
    warned: bool,
}

impl Notes {
    /// Was this key moved already? Then it has come back, unless who asks has read it before.
    fn has_moved(&mut self, ring: &Keyring, key_id: KeyId, under: &PepperId) -> bool {
        let Some(at) = self.moved.get(&key_id) else {
            return false;
        };
        if !self.warned && at.elapsed() > STALE_FOR {
            self.warned = true;
            tracing::warn!(
                key_id = %key_id,
                current = %ring.current_id(),
                found = %under,
                "a key that was hashed anew under the current secret is under another one again, and is left so, as all that \
                 come back: is another server's current secret another one?"
            );
        }
        true
    }

    fn remember(&mut self, moved: impl ExactSizeIterator<Item = KeyId>) {
        if self.moved.len() + moved.len() > REMEMBERED {
            self.moved.clear();
        }
        let now = Instant::now();
        self.moved.extend(moved.map(|key_id| (key_id, now)));
    }
}

/// A new hash, and of which key in the cache it is.
struct Note {
    rehash: Rehash,
    prefix: PrefixCode,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rehasher {
    pub(crate) fn new(registry: Arc<dyn SecretRegistry>, clock: Arc<dyn Clock>) -> Self {
        Self {
            registry,
            clock,
            notes: Arc::default(),
            remaining: Arc::default(),
            done: Arc::default(),
        }
    }

    /// Notes the new hash of a key that has just been compared, if it needs one and this process has not moved it before.
    /// Never waits.
    pub(crate) fn note(
        &self,
        ring: &Keyring,
        plain: &PlainKey,
        key_id: KeyId,
        under: &PepperId,
        was: impl FnOnce() -> KeyHash,
    ) {
        if under == ring.current_id() {
            return;
        }
        let mut notes = lock(&self.notes);
        if notes.has_moved(ring, key_id, under) {
            return;
        }
        if notes.waiting.len() < WAITING {
            notes.waiting.entry(key_id).or_insert_with(|| Note {
                rehash: Rehash {
                    key_id,
                    was: was(),
                    becomes: ring.hash(plain),
                },
                prefix: plain.prefix_code(),
            });
        }
    }

    /// How many keys remained under each retired secret when they were last counted.
    pub(crate) fn remaining(&self) -> Vec<PepperUse> {
        lock(&self.remaining).clone()
    }

    /// How many keys this process has hashed anew.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Forgets which keys were moved: the secrets are others now, or were set anew.
    pub(crate) fn start_over(&self) {
        *lock(&self.notes) = Notes::default();
    }

    fn take(&self) -> Vec<Note> {
        lock(&self.notes)
            .waiting
            .drain()
            .map(|(_, note)| note)
            .collect()
    }

    /// Counts how many keys remain under each retired secret.
    async fn count(&self, ring: &Keyring) -> Result<(), StoreError> {
        let mut counts = Vec::new();
        if ring.retired_ids().next().is_some() {
            let counted = self.registry.count_keys(self.clock.now()).await?;
            for id in ring.retired_ids() {
                let keys = counted.iter().find(|count| count.id == *id);
                counts.push(PepperUse {
                    id: id.clone(),
                    keys: keys.map_or(0, |count| count.keys),
                });
            }
        }
        *lock(&self.remaining) = counts;
        Ok(())
    }
}

impl Service {
    /// Writes down uses of keys and new hashes in the background, keeps count of the keys that remain under retired secrets,
    /// and follows the changes of the store, until `stop` is over. Then writes down the last uses. Nothing is to be verified
    /// any more by then.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let usage = async {
            let recorder = self.usage.clone();
            if self.config.verification.sabotage.is(Sabotage::NoLastFlush) {
                tokio::select! {
                    () = recorder.run(std::future::pending()) => {}
                    () = stop => {}
                }
            } else {
                recorder.run(stop).await;
            }
        };
        tokio::select! {
            () = usage => {}
            () = self.rehash_for_ever() => {}
            () = self.follow_changes() => {}
        }
        self.say_farewell().await;
    }

    /// Writes all notes down. Where the store fails, those that are not written are dropped: see the module's docs.
    pub(crate) async fn flush_rehashes(&self) -> Result<(), StoreError> {
        let mut notes = self.rehasher.take();
        while !notes.is_empty() {
            let rest = notes.split_off(notes.len().min(BATCH));
            let batch = std::mem::replace(&mut notes, rest);
            let prefixes: Vec<_> = batch.iter().map(|note| note.prefix).collect();
            let batch: Vec<_> = batch.into_iter().map(|note| note.rehash).collect();
            let auditor = self.auditor(&Origin::SERVER, self.clock.now()).await?;
            // The store says which of them were moved.
            let entry = auditor.draft(ChainId::System, AuditAction::PepperRehashed);
            let done = self.stores.secrets.rehash(&batch, &entry).await?;
            self.rehasher.done.fetch_add(done, Ordering::Relaxed);
            lock(&self.rehasher.notes).remember(batch.iter().map(|rehash| rehash.key_id));
            // The next use of each would note it again.
            for prefix in prefixes {
                self.verifier.cache.forget_code(prefix);
            }
        }
        Ok(())
    }

    async fn rehash_for_ever(&self) {
        let mut ticks = tokio::time::interval(WRITE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counted: Option<(Instant, Arc<Keyring>)> = None;
        let mut failing = false;
        loop {
            ticks.tick().await;
            if self.may_refuse_hashes().is_err() {
                continue;
            }
            let ring = self.keyring();
            let is_due = counted.as_ref().is_none_or(|(at, known)| {
                at.elapsed() >= COUNT_EVERY || !Arc::ptr_eq(known, &ring)
            });
            let mut outcome = self.flush_rehashes().await;
            if outcome.is_ok() && is_due {
                outcome = self.rehasher.count(&ring).await;
                counted = Some((Instant::now(), ring));
            }
            match outcome {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(error = %Chain(&error), "keys cannot be hashed anew; their next use tries again");
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use leadr_auth_domain::Access;
    use leadr_auth_ports::MockSecretRegistry;

    use super::*;
    use crate::testing::{Bench, opposed, rotated, service_on};
    use crate::{AuditFilter, Authentication, PepperRole};

    fn id(text: &str) -> PepperId {
        PepperId::parse(text).unwrap()
    }

    #[tokio::test]
    async fn a_key_moves_to_the_current_secret_when_it_is_used() {
        let bench = Bench::new().await;
        let issued = bench.issue("Old").await;
        let unused = bench.issue("Never used").await;
        bench.service.replace_keyring(rotated()).await.unwrap();
        let accepted = bench.service.authenticate(&issued.plain_key).await.unwrap();
        assert!(matches!(accepted, Authentication::Accepted(_)));
        let before = bench.service.key(Access::All, issued.key.id).await.unwrap();
        assert_eq!(
            before.pepper_id,
            id("default"),
            "not while somebody waits for the answer"
        );
        bench.service.flush_rehashes().await.unwrap();
        let after = bench.service.key(Access::All, issued.key.id).await.unwrap();
        assert_eq!(after.pepper_id, id("new"));
        assert_eq!(after.updated_at, issued.key.updated_at);
        let accepted = bench.service.authenticate(&issued.plain_key).await.unwrap();
        assert!(matches!(accepted, Authentication::Accepted(_)));
        assert!(
            lock(&bench.service.rehasher.notes).waiting.is_empty(),
            "nothing more to do"
        );
        let other = bench.service.key(Access::All, unused.key.id).await.unwrap();
        assert_eq!(other.pepper_id, id("default"));

        bench
            .service
            .rehasher
            .count(&bench.service.keyring())
            .await
            .unwrap();
        let statistics = bench.service.statistics();
        // The unused one, and the operator's.
        assert_eq!(
            statistics.remaining,
            [PepperUse {
                id: id("default"),
                keys: 2
            }]
        );
        assert_eq!(statistics.rehashed, 1);
    }

    /// Two servers whose current secrets are each other's retired one.
    #[tokio::test]
    async fn servers_that_disagree_do_not_move_a_key_to_and_fro_for_ever() {
        let bench = Bench::new().await;
        let issued = bench.issue("Between").await;
        bench.service.replace_keyring(rotated()).await.unwrap();
        let opposed = service_on(&bench.service, opposed());
        opposed.prepare(None).await.unwrap();
        let under = async || {
            let key = bench.service.key(Access::All, issued.key.id).await.unwrap();
            key.pepper_id
        };
        let mut seen = Vec::new();
        for _ in 0..10 {
            for service in [&bench.service, &opposed] {
                let accepted = service.authenticate(&issued.plain_key).await.unwrap();
                assert!(matches!(accepted, Authentication::Accepted(_)));
                service.flush_rehashes().await.unwrap();
                seen.push(under().await);
            }
        }
        let moves = seen.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(
            (seen[0].clone(), moves),
            (id("new"), 1),
            "each had its turn"
        );
        let rehashed = |service: &Service| service.statistics().rehashed;
        assert_eq!((rehashed(&bench.service), rehashed(&opposed)), (1, 1));

        // Once they agree, it moves for good.
        bench.service.replace_keyring(rotated()).await.unwrap();
        opposed.replace_keyring(rotated()).await.unwrap();
        for _ in 0..2 {
            for service in [&opposed, &bench.service] {
                service.authenticate(&issued.plain_key).await.unwrap();
                service.flush_rehashes().await.unwrap();
            }
        }
        assert_eq!(under().await, id("new"));
        assert_eq!((rehashed(&bench.service), rehashed(&opposed)), (1, 2));
    }

    /// It can be seen, and is said once: not of a record that was read before the key was moved, which is no sign of it.
    #[tokio::test(start_paused = true)]
    async fn a_key_that_came_back_is_told_from_a_record_of_before() {
        let rehasher = Bench::new().await.service.rehasher.clone();
        let key_id = KeyId::from_random_bytes([1; 16]);
        lock(&rehasher.notes).remember(std::iter::once(key_id));
        let look = || {
            let mut notes = lock(&rehasher.notes);
            let has_moved = notes.has_moved(&rotated(), key_id, &id("default"));
            (has_moved, notes.warned)
        };
        assert_eq!(look(), (true, false));
        tokio::time::sleep(STALE_FOR).await;
        assert_eq!(look(), (true, false));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(look(), (true, true));
        rehasher.start_over();
        assert_eq!(look(), (false, false));
    }

    #[tokio::test]
    async fn what_is_remembered_has_a_bound() {
        let rehasher = Bench::new().await.service.rehasher.clone();
        let batches = u32::try_from(REMEMBERED / BATCH).unwrap() + 3;
        for batch in 0..batches {
            let ids = (0..BATCH).map(|n| {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&batch.to_be_bytes());
                bytes[15] = u8::try_from(n).unwrap();
                KeyId::from_random_bytes(bytes)
            });
            lock(&rehasher.notes).remember(ids);
            assert!(lock(&rehasher.notes).moved.len() <= REMEMBERED);
        }
        assert_eq!(lock(&rehasher.notes).moved.len(), 3 * BATCH);
    }

    /// Two nodes note the same key; the second to write its notes down did not move it, and does not say so.
    #[tokio::test]
    async fn the_trail_says_of_each_key_once_that_it_was_moved() {
        let bench = Bench::new().await;
        let (one, two) = (bench.issue("One").await, bench.issue("Two").await);
        bench.service.replace_keyring(rotated()).await.unwrap();
        let other = service_on(&bench.service, rotated());
        other.prepare(None).await.unwrap();
        for issued in [&one, &two] {
            bench.service.authenticate(&issued.plain_key).await.unwrap();
        }
        other.authenticate(&one.plain_key).await.unwrap();
        other.flush_rehashes().await.unwrap();
        bench.service.flush_rehashes().await.unwrap();
        assert_eq!(bench.service.statistics().rehashed, 1);
        let filter = AuditFilter {
            action: Some(AuditAction::PepperRehashed),
            ..AuditFilter::default()
        };
        let listed = bench
            .service
            .list_audit(Access::All, None, filter, None, 10)
            .await
            .unwrap();
        let said: Vec<_> = listed
            .rows
            .iter()
            .map(|entry| entry.after.as_ref().unwrap().as_str().to_owned())
            .collect();
        let moved = |id: KeyId| format!(r#"{{"key_ids":["{id}"],"secret_id":"new"}}"#);
        assert_eq!(said, [moved(two.key.id), moved(one.key.id)]);
    }

    #[tokio::test]
    async fn a_refused_key_does_not_move() {
        let bench = Bench::new().await;
        let issued = bench.issue("Revoked").await;
        bench
            .service
            .revoke_key(&Bench::all(), issued.key.id)
            .await
            .unwrap();
        bench.service.replace_keyring(rotated()).await.unwrap();
        bench.service.authenticate(&issued.plain_key).await.unwrap();
        assert!(lock(&bench.service.rehasher.notes).waiting.is_empty());
    }

    #[tokio::test]
    async fn a_store_that_is_away_keeps_nobody_from_using_a_key() {
        let mut bench = Bench::new().await;
        let issued = bench.issue("Old").await;
        bench.service.replace_keyring(rotated()).await.unwrap();
        let mut away = MockSecretRegistry::new();
        away.expect_rehash()
            .returning(|_, _| Err(StoreError::unavailable("away")));
        bench.service.stores.secrets = Arc::new(away);
        for _ in 0..2 {
            let accepted = bench.service.authenticate(&issued.plain_key).await.unwrap();
            assert!(matches!(accepted, Authentication::Accepted(_)));
            assert!(bench.service.flush_rehashes().await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_background_does_it_by_itself() {
        let bench = Bench::new().await;
        let issued = bench.issue("Old").await;
        bench.service.replace_keyring(rotated()).await.unwrap();
        bench.service.authenticate(&issued.plain_key).await.unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(bench.service.clone().run(async {
            let _ = stopped.await;
        }));
        tokio::time::sleep(Duration::from_secs(2)).await;
        stop.send(()).unwrap();
        running.await.unwrap();
        let after = bench.service.key(Access::All, issued.key.id).await.unwrap();
        assert_eq!(after.pepper_id, id("new"));
        let status = bench.service.pepper_status().await.unwrap();
        let seen: Vec<_> = status
            .iter()
            .map(|s| (s.id.as_str(), s.role, s.keys))
            .collect();
        assert_eq!(
            seen,
            [
                ("default", PepperRole::Retired, 1),
                ("new", PepperRole::Current, 1)
            ]
        );
    }
}
