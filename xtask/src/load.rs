//! What measurements are made of: keys, a client, and what some figures come to.

use std::fs;
use std::io::Read as _;

use serde_json::Value;

use crate::http::{Connection, Said};
use crate::sh::{Failure, Outcome};

/// How many keys an account may have that is measured with: as many as there can be.
pub(crate) const MANY_KEYS: u32 = 1_000_000_000;

/// Bytes from the operating system.
pub(crate) fn random() -> Outcome<[u8; 32]> {
    let source = "/dev/urandom";
    let mut bytes = [0; 32];
    let mut file = fs::File::open(source).map_err(Failure::when(source))?;
    file.read_exact(&mut bytes).map_err(Failure::when(source))?;
    Ok(bytes)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A well-formed key: `ldr_` and the bytes in URL-safe base64 without padding.
pub(crate) fn key_of(bytes: &[u8; 32]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut key = String::from("ldr_");
    for group in bytes.chunks(3) {
        let padded = group.iter().chain(&[0; 2]).take(3);
        let bits = padded.fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for place in 0..=group.len() {
            let letter = ALPHABET.get(bits >> (18 - 6 * place) & 63);
            key.extend(letter.map(|letter| char::from(*letter)));
        }
    }
    key
}

/// A server on 127.0.0.1, spoken to one request at a time, as one key or as nobody.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) port: u16,
    pub(crate) key: Option<&'a str>,
}

impl Client<'_> {
    /// The status of a GET, or `None` if nobody answers.
    pub(crate) fn status(&self, path: &str) -> Option<u16> {
        self.send("GET", path, None).ok().map(|(status, _)| status)
    }

    /// Posts JSON; the answer has to be 201, and is JSON too.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Outcome<Value> {
        let (status, answer) = self.send("POST", path, Some(body))?;
        if status != 201 {
            return Err(Failure::new(format!(
                "POST {path} answered {status}: {answer}"
            )));
        }
        serde_json::from_str(&answer).map_err(Failure::when(format!("the answer to POST {path}")))
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Outcome<(u16, String)> {
        let said = Said {
            key: self.key,
            body,
        };
        let answer = Connection::to(self.port)
            .send(method, path, said)
            .map_err(Failure::when(format!("{method} {path}")))?;
        Ok((answer.status, answer.body))
    }
}

/// A text field of an answer.
pub(crate) fn field<'a>(answer: &'a Value, name: &str) -> Outcome<&'a str> {
    let text = answer.get(name).and_then(Value::as_str);
    text.ok_or_else(|| Failure::new(format!("the answer has no text field `{name}`")))
}

/// The least, the middle and the greatest of some figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of none there is none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            median: *sorted.get(sorted.len() / 2)?,
            max: *sorted.last()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_well_formed() {
        assert_eq!(key_of(&[0; 32]), format!("ldr_{}", "A".repeat(43)));
        assert_eq!(key_of(&[255; 32]), format!("ldr_{}8", "_".repeat(42)));
        let counting = std::array::from_fn(|n| u8::try_from(n).unwrap());
        assert_eq!(
            key_of(&counting),
            "ldr_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
        );
        assert_eq!(hex(&[0, 15, 255]), "000fff");
        assert_ne!(random().unwrap(), random().unwrap());
    }

    #[test]
    fn the_spread_is_in_order() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(
            spread,
            Spread {
                min: 1.0,
                median: 2.0,
                max: 3.0
            }
        );
        assert_eq!(Spread::of([]), None);
    }
}
