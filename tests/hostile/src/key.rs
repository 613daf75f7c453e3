//! Keys as they are presented, their prefixes, and texts that hold one.
//!
//! An input is a text. It is taken for a key, and for a line of a log that may hold some.

use leadr_auth_domain::{
    IdempotencyKey, KeyHash, KeyName, KeyPrefix, Pepper, PlainKey, generate_api_key, hash_api_key,
    redact_keys, verify_api_key,
};

use crate::Came;

pub(crate) const REACHES: &[&str] = &["a key", "no key", "holds a key"];

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const SECRET: &str = "a secret for tests, of 32 bytes and more";

/// Reads a text as a key, and as one that may hold some.
pub fn key(data: &[u8]) -> Came {
    let Ok(text) = std::str::from_utf8(data) else {
        return "no text".into();
    };
    let spelled = spelled(text);
    let read = PlainKey::parse(text);
    assert_eq!(read.is_ok(), spelled.is_some(), "{text:?}");
    redaction(text);
    prefix(text);
    let hash = KeyHash::from_store(text.to_owned());
    assert!(!format!("{hash:?}").contains(text) || "KeyHash(…)".contains(text));
    assert!(!verify_api_key("ldr_", &hash, SECRET), "{text:?} is a hash");
    if let (Ok(key), Some(bytes)) = (read, spelled) {
        genuine(text, &key, bytes);
        return "a key".into();
    }
    if redact_keys(text) == text {
        "no key".into()
    } else {
        "holds a key".into()
    }
}

/// What holds of a text that is a key, which spells these bytes.
fn genuine(text: &str, key: &PlainKey, bytes: [u8; 32]) {
    assert_eq!(key.expose(), text);
    assert_eq!(generate_api_key(bytes).expose(), text);
    let (prefix, secret) = text.split_at(14);
    assert_eq!(key.prefix().as_str(), prefix);
    assert_eq!(key.prefix().code(), Some(key.prefix_code()));
    let code = bytes
        .iter()
        .take(8)
        .fold(0, |code, byte| code << 8 | u64::from(*byte))
        >> 4;
    assert_eq!(key.prefix_code().as_u64(), code);
    for shown in [format!("{key:?}"), format!("{key:#?}"), key.redacted()] {
        assert!(shown.contains(prefix), "{shown}");
        // Not even the first characters of it.
        assert!(
            !shown.contains(&text[..15]) && !shown.contains(secret),
            "{shown}"
        );
    }
    let pepper = Pepper::new(SECRET).unwrap();
    let hash = pepper.hash(key);
    assert_eq!(hash.expose_hex(), hash_api_key(text, SECRET).expose_hex());
    assert!(pepper.verify(key, &hash));
    let mut other = bytes;
    other[31] ^= 1;
    assert!(!pepper.verify(&generate_api_key(other), &hash));
    assert!(!pepper.verify_against_nothing(key));
    // It is refused wherever it would be shown or kept.
    assert!(KeyName::parse(text).is_err() && IdempotencyKey::parse(text).is_err());
}

/// What the log is given of a text holds no key, and of a key no more than its prefix.
fn redaction(text: &str) {
    let redacted = redact_keys(text);
    for part in redacted.split("ldr_").skip(1) {
        let shown = part
            .bytes()
            .take_while(|byte| ALPHABET.contains(byte))
            .count();
        assert!(shown <= 10, "{text:?} is shown as {redacted:?}");
    }
    assert_eq!(redact_keys(&redacted), redacted, "{text:?}");
    // What stands around keys stays.
    let outside = |text: &str| text.split("ldr_").next().map(str::to_owned);
    assert_eq!(outside(&redacted), outside(text), "{text:?}");
    if !text.contains("ldr_") {
        assert_eq!(redacted, text);
    }
}

/// A stored prefix is anything that begins as one.
fn prefix(text: &str) {
    let read = KeyPrefix::parse(text);
    assert_eq!(read.is_ok(), text.starts_with("ldr_"), "{text:?}");
    let Ok(prefix) = read else { return };
    assert_eq!(prefix.as_str(), text);
    let spells = text.len() == 14 && text[4..].bytes().all(|byte| ALPHABET.contains(&byte));
    assert_eq!(prefix.code().is_some(), spells, "{text:?}");
}

/// The 32 bytes that a key spells, by `^ldr_[A-Za-z0-9_-]{43}$` and with nothing in the two bits to spare.
fn spelled(text: &str) -> Option<[u8; 32]> {
    let characters = text.strip_prefix("ldr_")?.as_bytes();
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for character in characters {
        let value = ALPHABET.iter().position(|known| known == character)?;
        bits = (bits << 6 | u32::try_from(value).unwrap()) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).unwrap());
        }
    }
    let spare = bits & ((1 << held) - 1);
    let canonical = characters.len() == 43 && spare == 0;
    canonical.then(|| bytes.try_into().unwrap())
}
