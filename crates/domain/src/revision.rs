//! Which state of a record somebody has seen: so that a change can be refused where it has changed since.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};

use crate::{Account, ApiKey};

/// Stands for all that a change can change of a record. A use is no change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision([u8; Self::BYTES]);

impl Revision {
    /// How many bytes it is.
    pub const BYTES: usize = 16;

    /// Takes what somebody says that they have seen.
    pub const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// Of the parts of a record, in their order.
    fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut text = Vec::new();
        for part in parts {
            // With its length, so that no two lists of parts are the same bytes.
            let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
            text.extend(length.to_be_bytes());
            text.extend(part);
        }
        let hash = digest(&SHA256, &text);
        let mut bytes = [0; Self::BYTES];
        for (byte, hashed) in bytes.iter_mut().zip(hash.as_ref()) {
            *byte = *hashed;
        }
        Self(bytes)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl ApiKey {
    /// Its state, as far as changes go.
    pub fn revision(&self) -> Revision {
        let scopes = self.scopes.to_store();
        Revision::of([
            self.id.as_uuid().as_bytes().as_slice(),
            self.name.as_str().as_bytes(),
            self.status.as_str().as_bytes(),
            // All rights are other than any set of scopes.
            &[u8::from(scopes.is_some())],
            scopes.unwrap_or_default().as_bytes(),
            &self.updated_at.unix_micros().to_be_bytes(),
            &[u8::from(self.is_deleted())],
        ])
    }
}

impl Account {
    /// Its state.
    pub fn revision(&self) -> Revision {
        Revision::of([
            self.id.as_uuid().as_bytes().as_slice(),
            self.name.as_str().as_bytes(),
            self.slug.as_str().as_bytes(),
            self.status.as_str().as_bytes(),
            &self.key_limit.keys().to_be_bytes(),
            &self.updated_at.unix_micros().to_be_bytes(),
            &[u8::from(self.is_deleted())],
        ])
    }
}

#[cfg(test)]
mod tests {
    use crate::{KeyName, Scope, ScopeSet, Scopes, Timestamp};

    use super::*;

    #[test]
    fn a_revision_is_read_as_it_is_written() {
        let revision = Revision::new([7; 16]);
        assert_eq!(Revision::parse(&revision.to_string()), Some(revision));
        for other in [
            "",
            "AAAA",
            "é",
            &format!("{revision}A"),
            &format!("{revision}="),
        ] {
            assert_eq!(Revision::parse(other), None, "{other}");
        }
    }

    #[test]
    fn every_change_is_another_revision_and_a_use_is_none() {
        let now = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        let key = crate::testing::key([1; 16], [2; 16]);
        let mut used = key.clone();
        used.record_usage(now);
        assert_eq!(used.revision(), key.revision());
        // Also within the microsecond in which it was made.
        let only = |scopes: &[&str]| {
            let scopes = scopes.iter().map(|scope| Scope::parse(scope).unwrap());
            Scopes::Only(ScopeSet::new(scopes).unwrap())
        };
        let changes: [&dyn Fn(&mut ApiKey); 7] = [
            &|key| key.rename(KeyName::parse("Other").unwrap(), now),
            &|key| key.revoke(now),
            &|key| key.set_scopes(only(&[]), now),
            &|key| key.set_scopes(only(&["a:b"]), now),
            &|key| key.soft_delete(now),
            &|key| key.updated_at = Timestamp::MAX,
            &|_| {},
        ];
        let revisions: Vec<_> = changes
            .iter()
            .map(|change| {
                let mut key = key.clone();
                change(&mut key);
                key.revision()
            })
            .collect();
        for (n, revision) in revisions.iter().enumerate() {
            assert!(!revisions[..n].contains(revision), "{n}");
        }
    }
}
