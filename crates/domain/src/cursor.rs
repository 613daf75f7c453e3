//! Cursors: where a long list goes on, as a text that only whoever has the server's secret can have written.
//!
//! What is in a cursor is no secret to the one who gets it: it is the place of the last row that was shown. But it comes back
//! from outside, and says where a store begins to read. So it is sealed, together with which list it is of, and whose.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

use crate::{Keyring, Pepper};

/// What the key that seals is derived from a secret with.
const SEALING: &[u8] = b"leadr-auth: seals cursors of lists, 1";

/// The bytes of a seal.
const SEAL: usize = 32;

fn sealing_key(pepper: &Pepper) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, pepper.derive(SEALING).as_ref())
}

/// What is sealed. No two pairs of list and place are the same bytes.
fn sealed(list: &str, place: &str) -> Vec<u8> {
    let length = u64::try_from(list.len()).unwrap_or(u64::MAX);
    [&length.to_be_bytes(), list.as_bytes(), place.as_bytes()].concat()
}

impl Keyring {
    /// The cursor for a place in a list. `list` says which one it is and whose, and the cursor is good for no other.
    pub fn seal_cursor(&self, list: &str, place: &str) -> String {
        let seal = hmac::sign(&sealing_key(self.current()), &sealed(list, place));
        URL_SAFE_NO_PAD.encode([seal.as_ref(), place.as_bytes()].concat())
    }

    /// The place that a cursor stands for; `None` where it is none of this list. A cursor outlives the secret that it was sealed
    /// under for as long as that is in the ring.
    pub fn open_cursor(&self, list: &str, cursor: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (seal, place) = bytes.split_at_checked(SEAL)?;
        let place = std::str::from_utf8(place).ok()?;
        let sealed = sealed(list, place);
        let is_sealed = |pepper: &Pepper| hmac::verify(&sealing_key(pepper), &sealed, seal).is_ok();
        self.iter()
            .any(|(_, pepper)| is_sealed(pepper))
            .then(|| place.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use crate::PepperId;

    use super::*;

    const OLD: &str = "the old secret, of 32 bytes or so";
    const NEW: &str = "the new secret, of 32 bytes or so";

    fn ring(current: &str, secrets: &[(&str, &'static str)]) -> Keyring {
        let id = |text| PepperId::parse(text).unwrap();
        let secrets = secrets.iter().map(|(name, secret)| (id(name), *secret));
        Keyring::new(&id(current), secrets).unwrap()
    }

    #[test]
    fn a_cursor_is_good_for_its_list_and_no_other() {
        let ring = ring("old", &[("old", OLD)]);
        for place in ["", "7", "a place with \u{0} and ä"] {
            let cursor = ring.seal_cursor("keys of one", place);
            assert_eq!(
                ring.open_cursor("keys of one", &cursor).as_deref(),
                Some(place)
            );
            assert_eq!(ring.open_cursor("keys of two", &cursor), None);
            assert_eq!(ring.open_cursor("", &cursor), None);
        }
        // What is moved from the one into the other is something else.
        let cursor = ring.seal_cursor("ab", "c");
        assert_eq!(ring.open_cursor("a", &cursor), None);
    }

    #[test]
    fn no_other_text_is_a_cursor() {
        let ring = ring("old", &[("old", OLD)]);
        let cursor = ring.seal_cursor("list", "place");
        for n in 0..cursor.len() {
            let mut tampered = cursor.clone().into_bytes();
            tampered[n] = if tampered[n] == b'A' { b'B' } else { b'A' };
            let tampered = String::from_utf8(tampered).unwrap();
            assert_eq!(ring.open_cursor("list", &tampered), None, "{tampered}");
            assert_eq!(ring.open_cursor("list", cursor.split_at(n).0), None, "{n}");
        }
        for other in ["", "ä", "=", &format!("{cursor}="), &format!("{cursor}A")] {
            assert_eq!(ring.open_cursor("list", other), None, "{other}");
        }
    }

    #[test]
    fn a_cursor_outlives_its_secret_for_as_long_as_that_is_kept() {
        let cursor = ring("old", &[("old", OLD)]).seal_cursor("list", "place");
        let both = ring("new", &[("old", OLD), ("new", NEW)]);
        assert!(both.open_cursor("list", &cursor).is_some());
        assert!(
            ring("new", &[("new", NEW)])
                .open_cursor("list", &cursor)
                .is_none()
        );
    }
}
