//! The server's secrets: the current one, under which keys are hashed, and retired ones, under which older keys still are.
//!
//! A key's row says by the id of a secret which one its hash is under. So one secret is tried and no other, and the time of
//! an answer tells nothing of how many there are.

use std::collections::BTreeMap;
use std::fmt;

use crate::{ApiKey, KeyDigest, KeyHash, Pepper, PlainKey, WeakPepper};

/// Names a secret, and is none: `^[A-Za-z0-9_.-]{1,64}$`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PepperId(String);

impl PepperId {
    /// The greatest number of characters.
    pub const MAX_CHARS: usize = 64;

    /// The id of a secret that was given without one, and of the one under which keys were hashed before there were ids.
    pub const DEFAULT: &str = "default";

    /// Checks a text that came from outside.
    pub fn parse(text: &str) -> Result<Self, KeyringFault> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if text.is_empty() || text.len() > Self::MAX_CHARS || !text.bytes().all(allowed) {
            return Err(KeyringFault::MalformedId);
        }
        Ok(Self(text.to_owned()))
    }

    /// Takes what a store holds, unchecked.
    pub const fn from_store(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for PepperId {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for PepperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a keyring. No secret is in here, and nothing that may be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyringFault {
    /// An id is not of its form. It is not repeated, since it may be a secret that stands in the wrong place.
    MalformedId,
    /// Two secrets have this id.
    DuplicateId(PepperId),
    /// The secrets of two ids are the same.
    DuplicateSecret(PepperId, PepperId),
    /// The secret of this id is too short.
    Weak(PepperId, WeakPepper),
    /// There is no secret with the id that is said to be the current one's.
    MissingCurrent(PepperId),
}

impl fmt::Display for KeyringFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MalformedId => write!(
                f,
                "the id of a secret is not of its form (1 to {} of A-Z, a-z, 0-9, '_', '.' and '-')",
                PepperId::MAX_CHARS
            ),
            Self::DuplicateId(id) => write!(f, "two secrets have the id {id}"),
            Self::DuplicateSecret(one, other) => {
                write!(f, "the secrets {one} and {other} are the same")
            }
            Self::Weak(id, fault) => write!(f, "the secret {id} is {fault}"),
            Self::MissingCurrent(id) => {
                write!(f, "there is no secret {id}, which is to be the current one")
            }
        }
    }
}

impl std::error::Error for KeyringFault {}

/// A key's hash, and which secret it is under.
#[derive(Clone, Debug)]
pub struct HashedKey {
    /// The secret's id.
    pub pepper_id: PepperId,
    /// The hash.
    pub hash: KeyHash,
}

/// The server's secrets. Never empty.
#[derive(Clone, Debug)]
pub struct Keyring {
    current_id: PepperId,
    current: Pepper,
    retired: BTreeMap<PepperId, Pepper>,
}

impl From<Pepper> for Keyring {
    /// One secret, without retired ones.
    fn from(pepper: Pepper) -> Self {
        Self {
            current_id: PepperId::default(),
            current: pepper,
            retired: BTreeMap::new(),
        }
    }
}

impl Keyring {
    /// Puts together the secrets, each with its id, of which the one named `current` is the current one. Says everything
    /// that is wrong with them.
    pub fn new<'a>(
        current: &PepperId,
        secrets: impl IntoIterator<Item = (PepperId, &'a str)>,
    ) -> Result<Self, Vec<KeyringFault>> {
        let mut faults = Vec::new();
        let mut named = Vec::<PepperId>::new();
        let mut texts = BTreeMap::<&str, PepperId>::new();
        let mut peppers = BTreeMap::new();
        for (id, secret) in secrets {
            // One whose id is taken is looked at all the same, so that nobody mends it twice.
            if named.contains(&id) {
                faults.push(KeyringFault::DuplicateId(id.clone()));
            } else {
                named.push(id.clone());
            }
            match texts.get(secret) {
                Some(other) if *other == id => {}
                Some(other) => {
                    faults.push(KeyringFault::DuplicateSecret(other.clone(), id.clone()));
                }
                None => {
                    texts.insert(secret, id.clone());
                }
            }
            match Pepper::new(secret) {
                Ok(pepper) => {
                    peppers.insert(id, pepper);
                }
                Err(fault) => faults.push(KeyringFault::Weak(id, fault)),
            }
        }
        if !named.contains(current) {
            faults.push(KeyringFault::MissingCurrent(current.clone()));
        }
        match (peppers.remove(current), faults.is_empty()) {
            (Some(pepper), true) => Ok(Self {
                current_id: current.clone(),
                current: pepper,
                retired: peppers,
            }),
            _ => Err(faults),
        }
    }

    /// The id of the current secret.
    pub const fn current_id(&self) -> &PepperId {
        &self.current_id
    }

    /// The current secret.
    pub const fn current(&self) -> &Pepper {
        &self.current
    }

    /// The secret with this id, if it is in the ring.
    pub fn get(&self, id: &PepperId) -> Option<&Pepper> {
        if *id == self.current_id {
            Some(&self.current)
        } else {
            self.retired.get(id)
        }
    }

    /// The ids of the retired secrets, in their order.
    pub fn retired_ids(&self) -> impl Iterator<Item = &PepperId> {
        self.retired.keys()
    }

    /// The ring without the retired secrets of these ids.
    #[must_use]
    pub fn without<'a>(&self, ids: impl IntoIterator<Item = &'a PepperId>) -> Self {
        let mut ring = self.clone();
        for id in ids {
            ring.retired.remove(id);
        }
        ring
    }

    /// All secrets with their ids, the current one first.
    pub fn iter(&self) -> impl Iterator<Item = (&PepperId, &Pepper)> {
        std::iter::once((&self.current_id, &self.current)).chain(&self.retired)
    }

    /// Hashes a key under the current secret.
    pub fn hash(&self, key: &PlainKey) -> HashedKey {
        HashedKey {
            pepper_id: self.current_id.clone(),
            hash: self.current.hash(key),
        }
    }

    /// Is `key` the key of this record? `None` where the ring does not have the record's secret; the work of a comparison
    /// is done all the same.
    pub fn verify(&self, key: &PlainKey, record: &ApiKey) -> Option<bool> {
        self.verify_digest(key, &record.pepper_id, &record.key_hash.digest())
    }

    /// As [`Keyring::verify`], of a record whose hash is under the secret `pepper_id`.
    pub fn verify_digest(
        &self,
        key: &PlainKey,
        pepper_id: &PepperId,
        digest: &KeyDigest,
    ) -> Option<bool> {
        if let Some(pepper) = self.get(pepper_id) {
            return Some(pepper.verify_digest(key, digest));
        }
        self.current.verify_against_nothing(key);
        None
    }

    /// Does the work of [`Keyring::verify`] where no record was found.
    pub fn verify_against_nobody(&self, key: &PlainKey) {
        self.verify_digest(key, &self.current_id, &KeyDigest::of_nobody());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate_api_key;

    const OLD: &str = "the old secret, of 32 bytes or so";
    const NEW: &str = "the new secret, of 32 bytes or so";

    fn id(text: &str) -> PepperId {
        PepperId::parse(text).unwrap()
    }

    #[test]
    fn a_key_is_compared_under_the_secret_that_its_row_names() {
        let key = generate_api_key([1; 32]);
        let old = Keyring::new(&id("old"), [(id("old"), OLD)]).unwrap();
        let both = Keyring::new(&id("new"), [(id("old"), OLD), (id("new"), NEW)]).unwrap();
        let new = Keyring::new(&id("new"), [(id("new"), NEW)]).unwrap();
        let HashedKey { pepper_id, hash } = old.hash(&key);
        let mut record = crate::testing::key([1; 16], [2; 16]);
        record.pepper_id = pepper_id;
        record.key_hash = hash;
        assert_eq!(old.verify(&key, &record), Some(true));
        assert_eq!(both.verify(&key, &record), Some(true));
        assert_eq!(new.verify(&key, &record), None);
        // The right hash, and a row that names another secret: no secret is tried in turn.
        record.pepper_id = id("new");
        assert_eq!(both.verify(&key, &record), Some(false));
        assert_eq!(both.hash(&key).pepper_id, id("new"));
        let without = both.without([&id("old"), &id("new")]);
        assert!(without.get(&id("old")).is_none() && without.get(&id("new")).is_some());
    }

    #[test]
    fn everything_that_is_wrong_is_told_and_no_secret() {
        let faults = Keyring::new(
            &id("new"),
            [
                (id("a"), OLD),
                (id("a"), NEW),
                (id("b"), OLD),
                (id("c"), "hunter2"),
            ],
        )
        .unwrap_err();
        assert_eq!(
            faults,
            [
                KeyringFault::DuplicateId(id("a")),
                KeyringFault::DuplicateSecret(id("a"), id("b")),
                KeyringFault::Weak(id("c"), WeakPepper),
                KeyringFault::MissingCurrent(id("new")),
            ]
        );
        // Also where two have the same id.
        let twice = [
            (id("a"), OLD),
            (id("b"), NEW),
            (id("a"), "hunter2"),
            (id("b"), OLD),
            (id("b"), NEW),
        ];
        assert_eq!(
            Keyring::new(&id("a"), twice).unwrap_err(),
            [
                KeyringFault::DuplicateId(id("a")),
                KeyringFault::Weak(id("a"), WeakPepper),
                KeyringFault::DuplicateId(id("b")),
                KeyringFault::DuplicateSecret(id("a"), id("b")),
                KeyringFault::DuplicateId(id("b")),
            ]
        );
        let told = faults.iter().map(ToString::to_string).collect::<String>();
        for secret in [OLD, NEW, "hunter2"] {
            assert!(!told.contains(secret), "{told}");
        }
    }

    #[test]
    fn an_id_has_its_form() {
        for good in ["default", "2026-11", "A_b.c", &"x".repeat(64)] {
            assert_eq!(PepperId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a=b", "ä", "a:b", &"x".repeat(65), "a\n"] {
            assert_eq!(
                PepperId::parse(bad),
                Err(KeyringFault::MalformedId),
                "{bad:?}"
            );
        }
    }
}
