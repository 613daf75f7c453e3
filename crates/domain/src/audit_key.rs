//! The key under which the audit trail is sealed.
//!
//! It is made once for a store and stays the same for as long as the store does, so that entries of years ago can still be
//! checked when the server's secret has been changed many times. The store keeps it encrypted, once under each secret:
//! whoever has any of the secrets can read it, and who has only the store cannot.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};

use crate::Pepper;

/// What the key that encrypts is derived from a secret with.
const WRAPPING: &[u8] = b"leadr-auth: encrypts the key of the audit trail, 1";

/// What the encryption is bound to.
const BOUND_TO: &[u8] = b"leadr-auth: key of the audit trail, 1";

/// The key under which the audit trail is sealed.
#[derive(Clone)]
pub struct AuditKey {
    bytes: [u8; Self::BYTES],
    hmac: hmac::Key,
}

impl AuditKey {
    /// How many random bytes it is made of.
    pub const BYTES: usize = 32;

    /// Takes bytes that nobody can predict.
    pub fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self {
            bytes,
            hmac: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
        }
    }

    pub(crate) const fn hmac_key(&self) -> &hmac::Key {
        &self.hmac
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditKey(…)")
    }
}

/// An [`AuditKey`] that is encrypted under a secret, as text for the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedAuditKey(String);

impl SealedAuditKey {
    /// How many random bytes each encryption needs, which no other may have had.
    pub const NONCE_BYTES: usize = NONCE_LEN;

    /// Takes what a store holds, unchecked: what is no sealed key opens under no secret.
    pub const fn from_store(text: String) -> Self {
        Self(text)
    }

    /// The text: the nonce and what is encrypted, in base64.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn cipher(pepper: &Pepper) -> Option<LessSafeKey> {
    let derived = pepper.derive(WRAPPING);
    UnboundKey::new(&CHACHA20_POLY1305, derived.as_ref())
        .ok()
        .map(LessSafeKey::new)
}

impl Pepper {
    /// Encrypts the audit trail's key under this secret. `None` would mean that ring refuses a key of the right length.
    pub fn seal_audit_key(
        &self,
        key: &AuditKey,
        nonce: [u8; SealedAuditKey::NONCE_BYTES],
    ) -> Option<SealedAuditKey> {
        let mut text = key.bytes.to_vec();
        cipher(self)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(BOUND_TO),
                &mut text,
            )
            .ok()?;
        let sealed = [nonce.as_slice(), &text].concat();
        Some(SealedAuditKey(URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// Decrypts what [`Pepper::seal_audit_key`] encrypted; `None` where it was another secret, or somebody altered it.
    pub fn open_audit_key(&self, sealed: &SealedAuditKey) -> Option<AuditKey> {
        let sealed = URL_SAFE_NO_PAD.decode(&sealed.0).ok()?;
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = cipher(self)?
            .open_in_place(nonce, Aad::from(BOUND_TO), &mut text)
            .ok()?;
        opened.try_into().ok().map(AuditKey::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_opens_what_it_sealed() {
        let pepper = Pepper::new("a server secret of 32 bytes or so").unwrap();
        let other = Pepper::new("another secret of 32 bytes or more").unwrap();
        let key = AuditKey::new([5; 32]);
        let sealed = pepper.seal_audit_key(&key, [1; 12]).unwrap();
        assert_eq!(pepper.open_audit_key(&sealed).unwrap().bytes, key.bytes);
        assert!(other.open_audit_key(&sealed).is_none());
        let mut altered = sealed.as_str().to_owned();
        let last = if altered.pop() == Some('A') { 'B' } else { 'A' };
        altered.push(last);
        for text in [altered, String::new(), "é".to_owned(), "AAAA".to_owned()] {
            assert!(
                pepper
                    .open_audit_key(&SealedAuditKey::from_store(text))
                    .is_none()
            );
        }
        assert_eq!(format!("{key:?}"), "AuditKey(…)");
    }
}
