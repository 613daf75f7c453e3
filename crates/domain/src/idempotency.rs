//! Requests that are done once, however often they are sent.
//!
//! Whoever does not get an answer cannot tell whether its request was done. With a name of its own choosing on the request it may
//! send it again: the second time it hears what came of the first.

use std::fmt;

use ring::digest::{Context, SHA256};
use time::Duration;

use crate::secret::holds_key;
use crate::{KeyId, Timestamp};

/// What a client calls a request that is to be done once: 1 to 255 visible ASCII characters, and no API key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey(String);

/// Why a text is no [`IdempotencyKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedIdempotencyKey;

impl fmt::Display for MalformedIdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "not 1 to {} visible ASCII characters, or holds an API key",
            IdempotencyKey::MAX_CHARS
        )
    }
}

impl std::error::Error for MalformedIdempotencyKey {}

impl IdempotencyKey {
    /// The greatest number of characters.
    pub const MAX_CHARS: usize = 255;

    /// Checks a text that came from outside.
    pub fn parse(text: &str) -> Result<Self, MalformedIdempotencyKey> {
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if !(1..=Self::MAX_CHARS).contains(&text.len()) || !is_visible || holds_key(text) {
            return Err(MalformedIdempotencyKey);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Tells a request from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; Self::BYTES]);

impl Fingerprint {
    /// How many bytes it is.
    pub const BYTES: usize = 32;

    /// Of what is asked for, and what for.
    pub fn of(route: &str, body: &[u8]) -> Self {
        let mut hash = Context::new(&SHA256);
        let length = u64::try_from(route.len()).unwrap_or(u64::MAX);
        hash.update(&length.to_be_bytes());
        hash.update(route.as_bytes());
        hash.update(body);
        Self::from_store(hash.finish().as_ref())
    }

    /// Takes what a store holds. What has another length is of no request.
    pub fn from_store(bytes: &[u8]) -> Self {
        Self(bytes.try_into().unwrap_or([0; Self::BYTES]))
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

/// A request that is to be done once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotentRequest {
    /// Who sends it, by the key that was presented. Others may use the same name for something else.
    pub caller: KeyId,
    /// What the caller calls it.
    pub key: IdempotencyKey,
    /// What is asked for.
    pub fingerprint: Fingerprint,
    /// When.
    pub at: Timestamp,
}

impl IdempotentRequest {
    /// For how long a request is remembered.
    pub const REMEMBERED: Duration = Duration::hours(24);

    /// Up to when a request is forgotten that was made before this one.
    pub fn forgotten_until(&self) -> Timestamp {
        self.at.saturating_sub(Self::REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_visible_ascii_and_no_key() {
        let key = crate::generate_api_key([1; 32]);
        for good in [
            "a",
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "\"quoted\"",
            &"x".repeat(255),
        ] {
            assert_eq!(IdempotencyKey::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            " ",
            "a b",
            "ä",
            "a\n",
            "a\0",
            &"x".repeat(256),
            key.expose(),
        ] {
            assert_eq!(IdempotencyKey::parse(bad), Err(MalformedIdempotencyKey));
        }
    }

    #[test]
    fn another_route_or_body_is_another_request() {
        let of = Fingerprint::of;
        assert_eq!(of("a", b"b"), of("a", b"b"));
        for other in [of("a", b"c"), of("b", b"b"), of("ab", b""), of("", b"ab")] {
            assert_ne!(other, of("a", b"b"));
        }
        assert_eq!(
            Fingerprint::from_store(of("a", b"b").as_bytes()),
            of("a", b"b")
        );
    }
}
