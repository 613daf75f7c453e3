//! The secret side of a key: the plain key, its lookup prefix, the server's own secret, the hash, the check.
//!
//! A plain key is `ldr_` and 32 random bytes in URL-safe base64 without padding: 47 characters. Its first 14 are the
//! lookup prefix, 60 bits that find the record; the 196 bits after it are what nobody can guess. Stored is the
//! HMAC-SHA256 of the whole key under the server's secret (the *pepper*), so that a stolen database alone opens
//! nothing. A slow hash would add nothing: it protects secrets that can be guessed.
//!
//! None of the types here can be printed, serialised or compared with `==`.

use std::hint::black_box;
use std::{borrow::Cow, fmt};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

/// What every key starts with. Never to be changed: keys in the field, and the scanners that look for leaked ones, rely
/// on it.
pub const API_KEY_PREFIX: &str = "ldr_";

/// How many random bytes a key carries.
pub const API_KEY_BYTES: usize = 32;

/// What a pepper is recognised by the HMAC of. No key can be this text, so no check value is a key's hash.
const PEPPER_CHECK_TEXT: &[u8] = b"leadr-auth: check value of the server secret, 1";

/// A key as its owner holds it: `^ldr_[A-Za-z0-9_-]{43}$`, in the one canonical spelling.
///
/// It exists in the request that presents it and in the answer that issues it, and nowhere else.
#[derive(Clone)]
pub struct PlainKey {
    text: String,
    prefix_code: PrefixCode,
}

/// The text is not a well-formed key. The text itself is not in here, since it may be a mistyped secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedKey;

impl fmt::Display for MalformedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a well-formed key (ldr_ and 43 characters of URL-safe base64)")
    }
}

impl std::error::Error for MalformedKey {}

impl PlainKey {
    /// The length of every key, in characters and in bytes.
    pub const LEN: usize = 47;

    /// Reads a presented key.
    ///
    /// Of the four spellings that decode to the same 32 bytes (the last character has two bits to spare) only the one
    /// with zeroes there is a key: otherwise one key would have four hashes.
    pub fn parse(text: &str) -> Result<Self, MalformedKey> {
        let body = text.strip_prefix(API_KEY_PREFIX).ok_or(MalformedKey)?;
        if text.len() != Self::LEN {
            return Err(MalformedKey);
        }
        let mut bytes = [0; API_KEY_BYTES];
        // The decoder refuses padding, other alphabets and non-zero spare bits.
        match URL_SAFE_NO_PAD.decode_slice(body, &mut bytes) {
            Ok(API_KEY_BYTES) => Ok(Self {
                text: text.to_owned(),
                prefix_code: PrefixCode::of(&bytes),
            }),
            _ => Err(MalformedKey),
        }
    }

    /// The first 14 characters, by which its record is found.
    pub fn prefix(&self) -> KeyPrefix {
        KeyPrefix(self.text.chars().take(KeyPrefix::LEN).collect())
    }

    /// The prefix as a number.
    pub const fn prefix_code(&self) -> PrefixCode {
        self.prefix_code
    }

    /// The prefix and an ellipsis: enough to recognise a key, worth nothing to a thief.
    pub fn redacted(&self) -> String {
        format!("{}…", self.prefix().as_str())
    }

    /// The secret itself, for the one answer that shows it to its owner.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainKey({})", self.redacted())
    }
}

/// Makes a key of 32 random bytes, which must come from the operating system.
///
/// ```
/// use leadr_auth_domain::{PlainKey, generate_api_key};
///
/// let key = generate_api_key([7; 32]);
/// assert!(key.expose().starts_with("ldr_"));
/// assert!(key.expose().len() > 36);
/// assert!(PlainKey::parse(key.expose()).is_ok());
/// ```
pub fn generate_api_key(bytes: [u8; API_KEY_BYTES]) -> PlainKey {
    PlainKey {
        text: format!("{API_KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)),
        prefix_code: PrefixCode::of(&bytes),
    }
}

/// A lookup prefix as a number: the 60 bits that its ten characters after `ldr_` spell. It stands for the prefix where many
/// are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixCode(u64);

impl PrefixCode {
    /// Of the bytes that are spelled by what follows `ldr_`.
    fn of(bytes: &[u8]) -> Self {
        let first = bytes.iter().take(8);
        let number = first.fold(0, |number, byte| number << 8 | u64::from(*byte));
        // Ten characters of six bits are seven bytes and a half.
        Self(number >> 4)
    }

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// The part of a key by which its record is found. Unique in the store, and no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPrefix(String);

impl KeyPrefix {
    /// How many characters of a plain key it is.
    pub const LEN: usize = 14;

    /// Takes a stored prefix, which must start with `ldr_`. Its length is not checked: rows of another length can be
    /// listed, though no presented key ever finds them.
    pub fn parse(text: &str) -> Result<Self, MalformedKey> {
        if text.starts_with(API_KEY_PREFIX) {
            Ok(Self(text.to_owned()))
        } else {
            Err(MalformedKey)
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix as a number. `None` for a stored one that no presented key can have.
    pub fn code(&self) -> Option<PrefixCode> {
        let spelled = self.0.strip_prefix(API_KEY_PREFIX)?;
        if self.0.len() != Self::LEN {
            return None;
        }
        // Twelve characters are whole bytes.
        let mut bytes = [0; 9];
        let decoded = URL_SAFE_NO_PAD.decode_slice(format!("{spelled}AA"), &mut bytes);
        decoded.ok().map(|_| PrefixCode::of(&bytes))
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is stored of a key: HMAC-SHA256 under the pepper, 64 lower-case hexadecimal digits.
#[derive(Clone)]
pub struct KeyHash(String);

impl KeyHash {
    /// Takes a stored hash, as it is: one that is no hash verifies no key.
    pub const fn from_store(hex: String) -> Self {
        Self(hex)
    }

    /// The hexadecimal digits, for the store.
    pub fn expose_hex(&self) -> &str {
        &self.0
    }

    /// What it says, in bytes.
    pub fn digest(&self) -> KeyDigest {
        KeyDigest(self.bytes())
    }

    /// The 32 bytes, or zeroes (the hash of nothing anyone can find) where the text is not 64 hexadecimal digits.
    fn bytes(&self) -> [u8; 32] {
        digits(&self.0)
    }

    /// What stands in for the hash of a key where there is none: the hash of nothing anyone can find.
    pub fn of_nobody() -> Self {
        Self(NOBODYS.to_owned())
    }

    fn of_tag(tag: &hmac::Tag) -> Self {
        Self::of_bytes(tag.as_ref())
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        use fmt::Write as _;
        let mut hex = String::with_capacity(64);
        for byte in bytes {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Self(hex)
    }
}

/// What 64 hexadecimal digits say; zeroes where these are none.
fn digits(hex: &str) -> [u8; 32] {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let mut bytes = [0; 32];
    if hex.len() != 2 * bytes.len() {
        return bytes;
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let &[high, low] = pair else { return [0; 32] };
        let (Some(high), Some(low)) = (digit(high), digit(low)) else {
            return [0; 32];
        };
        *byte = high << 4 | low;
    }
    bytes
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// A [`KeyHash`] in bytes, for whoever compares with it often.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

/// The hash of nothing anyone can find, as it would be stored.
const NOBODYS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl KeyDigest {
    /// The hash that stands in where no record was found. It is read as one of a record is, which takes as long.
    pub fn of_nobody() -> Self {
        Self(digits(black_box(NOBODYS)))
    }

    /// The hash as it is stored.
    pub fn to_hash(&self) -> KeyHash {
        KeyHash::of_bytes(&self.0)
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(…)")
    }
}

/// The server's own secret, under which keys are hashed.
#[derive(Clone)]
pub struct Pepper(hmac::Key);

/// The secret is too short to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeakPepper;

impl fmt::Display for WeakPepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shorter than {} bytes", Pepper::MIN_BYTES)
    }
}

impl std::error::Error for WeakPepper {}

impl Pepper {
    /// The fewest bytes a secret may have: those of the hash that it keys.
    pub const MIN_BYTES: usize = 32;

    /// Takes the deployment's secret.
    pub fn new(secret: &str) -> Result<Self, WeakPepper> {
        if secret.len() < Self::MIN_BYTES {
            return Err(WeakPepper);
        }
        Ok(Self(hmac_key(secret)))
    }

    /// Hashes a key for the store.
    pub fn hash(&self, key: &PlainKey) -> KeyHash {
        KeyHash::of_tag(&hmac::sign(&self.0, key.text.as_bytes()))
    }

    /// Is `key` the key that was hashed? Takes the same time whether it is or not.
    pub fn verify(&self, key: &PlainKey, hash: &KeyHash) -> bool {
        self.verify_digest(key, &hash.digest())
    }

    /// As [`Pepper::verify`].
    pub fn verify_digest(&self, key: &PlainKey, digest: &KeyDigest) -> bool {
        hmac::verify(&self.0, key.text.as_bytes(), &digest.0).is_ok()
    }

    /// The value by which this pepper is recognised.
    pub fn check(&self) -> PepperCheck {
        PepperCheck(KeyHash::of_tag(&hmac::sign(&self.0, PEPPER_CHECK_TEXT)))
    }

    /// Is this the pepper that `check` is of?
    pub fn matches(&self, check: &PepperCheck) -> bool {
        hmac::verify(&self.0, PEPPER_CHECK_TEXT, &check.0.bytes()).is_ok()
    }

    /// 32 bytes for another purpose, from which the secret cannot be found.
    pub(crate) fn derive(&self, purpose: &[u8]) -> hmac::Tag {
        hmac::sign(&self.0, purpose)
    }

    /// Does the work of [`Pepper::verify`] for a key whose prefix nobody has, so that the time of an answer does not
    /// tell an unknown prefix from a wrong secret. It is always `false`.
    pub fn verify_against_nothing(&self, key: &PlainKey) -> bool {
        self.verify_digest(key, &KeyDigest([0; 32]))
    }
}

/// A value by which a pepper is recognised, and from which it cannot be found: the HMAC of a fixed text under it, as 64
/// lower-case hexadecimal digits. Stored beside the keys, it tells a process that has the wrong secret so, before it
/// refuses anybody's key.
#[derive(Clone)]
pub struct PepperCheck(KeyHash);

impl PepperCheck {
    /// Takes a stored value, as it is: one that is no check value matches no pepper.
    pub const fn from_store(hex: String) -> Self {
        Self(KeyHash::from_store(hex))
    }

    /// The hexadecimal digits, for the store.
    pub fn expose_hex(&self) -> &str {
        self.0.expose_hex()
    }
}

impl fmt::Debug for PepperCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PepperCheck(…)")
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(…)")
    }
}

fn hmac_key(secret: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
}

/// Hashes any text under any secret, as the reference's function of this name does. The service itself uses
/// [`Pepper::hash`], which is the same for a well-formed key under a strong secret.
///
/// ```
/// use leadr_auth_domain::hash_api_key;
///
/// let first = hash_api_key("ldr_test123", "my-secret");
/// let second = hash_api_key("ldr_test123", "my-secret");
/// assert_eq!(first.expose_hex(), second.expose_hex());
/// assert_eq!(first.expose_hex().len(), 64);
/// ```
pub fn hash_api_key(key: &str, secret: &str) -> KeyHash {
    KeyHash::of_tag(&hmac::sign(&hmac_key(secret), key.as_bytes()))
}

/// Compares any text with a hash under any secret, in constant time, as the reference's function of this name does. The
/// service itself uses [`Pepper::verify`].
///
/// ```
/// use leadr_auth_domain::{hash_api_key, verify_api_key};
///
/// let hashed = hash_api_key("ldr_test123", "my-secret");
/// assert!(verify_api_key("ldr_test123", &hashed, "my-secret"));
/// assert!(!verify_api_key("ldr_wrong", &hashed, "my-secret"));
/// ```
pub fn verify_api_key(key: &str, key_hash: &KeyHash, secret: &str) -> bool {
    hmac::verify(&hmac_key(secret), key.as_bytes(), &key_hash.bytes()).is_ok()
}

/// Is this one of the characters that a key is made of, after its beginning?
const fn is_of_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// Is there a whole key somewhere in the text, or something that looks like one?
pub(crate) fn holds_key(text: &str) -> bool {
    let length = PlainKey::LEN - API_KEY_PREFIX.len();
    text.match_indices(API_KEY_PREFIX).any(|(at, beginning)| {
        let rest = text.get(at + beginning.len()..).unwrap_or_default();
        rest.chars().take_while(|&c| is_of_key(c)).count() >= length
    })
}

/// `text` with everything that looks like a key, or like the better part of one, cut down to its lookup prefix: for texts
/// that come from outside and go into a log.
///
/// ```
/// use leadr_auth_domain::{generate_api_key, redact_keys};
///
/// let key = generate_api_key([0; 32]);
/// let text = format!("curl -H 'leadr-api-key: {}'", key.expose());
/// assert_eq!(redact_keys(&text), "curl -H 'leadr-api-key: ldr_AAAAAAAAAA…'");
/// assert_eq!(redact_keys("nothing to hide"), "nothing to hide");
/// ```
pub fn redact_keys(text: &str) -> Cow<'_, str> {
    if !text.contains(API_KEY_PREFIX) {
        return Cow::Borrowed(text);
    }
    let mut parts = text.split(API_KEY_PREFIX);
    let mut redacted = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let secret = part.chars().take_while(|&c| is_of_key(c)).count();
        redacted.push_str(API_KEY_PREFIX);
        if API_KEY_PREFIX.len() + secret <= KeyPrefix::LEN {
            redacted.push_str(part);
        } else {
            redacted.extend(part.chars().take(KeyPrefix::LEN - API_KEY_PREFIX.len()));
            redacted.push('…');
            redacted.extend(part.chars().skip(secret));
        }
    }
    Cow::Owned(redacted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a server secret of 32 bytes or so";

    #[test]
    fn a_prefix_and_its_number_are_one() {
        for n in 0..=255_u8 {
            let mut bytes = [n; 32];
            bytes[7] = n.rotate_left(3);
            let key = generate_api_key(bytes);
            assert_eq!(key.prefix().code(), Some(key.prefix_code()), "{n}");
            assert_eq!(
                PlainKey::parse(key.expose()).unwrap().prefix_code(),
                key.prefix_code()
            );
            // The last character of the prefix counts, and the first after it does not.
            let mut other = bytes;
            other[7] ^= 0b0001_0000;
            assert_ne!(generate_api_key(other).prefix_code(), key.prefix_code());
            let mut same = bytes;
            same[7] ^= 0b0000_1000;
            let same = generate_api_key(same);
            assert_eq!(same.prefix(), key.prefix());
            assert_eq!(same.prefix_code(), key.prefix_code());
        }
        for none in [
            "ldr_",
            "ldr_abc",
            "ldr_123456789",
            "ldr_12345678901",
            "ldr_12345 789/",
        ] {
            assert_eq!(KeyPrefix::parse(none).unwrap().code(), None, "{none}");
        }
    }

    #[test]
    fn a_digest_is_the_hash_in_bytes() {
        let hash = hash_api_key("ldr_test", "secret");
        assert_eq!(hash.digest().to_hash().expose_hex(), hash.expose_hex());
        assert_eq!(format!("{:?}", hash.digest()), "KeyDigest(…)");
    }

    #[test]
    fn a_generated_key_has_the_documented_form() {
        let key = generate_api_key([0xfb; 32]);
        assert_eq!(key.expose().len(), PlainKey::LEN);
        assert_eq!(
            key.expose(),
            "ldr_-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s"
        );
        assert_eq!(key.prefix().as_str(), "ldr_-_v7-_v7-_");
        assert_eq!(
            PlainKey::parse(key.expose()).unwrap().expose(),
            key.expose()
        );
    }

    #[test]
    fn a_pepper_is_recognised_by_its_check_value() {
        let pepper = Pepper::new(SECRET).unwrap();
        let other = Pepper::new("another secret of 32 bytes or more").unwrap();
        let check = pepper.check();
        assert_eq!(check.expose_hex().len(), 64);
        assert!(pepper.matches(&check));
        assert!(pepper.matches(&PepperCheck::from_store(check.expose_hex().to_owned())));
        assert!(!other.matches(&check));
        assert!(!pepper.matches(&PepperCheck::from_store(String::new())));
        assert!(!format!("{check:?}").contains(check.expose_hex()));
    }

    #[test]
    fn only_the_canonical_spelling_is_a_key() {
        let canonical = generate_api_key([0; 32]);
        assert!(canonical.expose().ends_with('A'));
        for last in ['B', 'C', 'D'] {
            let mut other = canonical.expose().to_owned();
            other.pop();
            other.push(last);
            assert_eq!(
                PlainKey::parse(&other).map(|_| ()),
                Err(MalformedKey),
                "…{last}"
            );
        }
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        let key = generate_api_key([9; 32]);
        let key = key.expose();
        let cut = |end: usize| key.get(..end).unwrap();
        let cases = [
            String::new(),
            "ldr_".to_owned(),
            key.replace("ldr_", "LDR_"),
            key.replace("ldr_", "lbr_"),
            format!("{key}A"),
            format!("{key}="),
            format!(" {key}"),
            format!("{key}\n"),
            cut(46).to_owned(),
            format!("{}+", cut(46)),
            format!("{}é", cut(45)),
            format!("ldr_{}", "é".repeat(43)),
        ];
        for case in cases {
            assert!(PlainKey::parse(&case).is_err(), "{case:?}");
        }
    }

    #[test]
    fn hashes_are_those_of_the_reference() {
        // Computed with Python: hmac.new(b"my-secret", b"ldr_test123", hashlib.sha256).hexdigest()
        assert_eq!(
            hash_api_key("ldr_test123", "my-secret").expose_hex(),
            PYTHON_HASH
        );
    }

    const PYTHON_HASH: &str = "e56d65f567d9b3b65c71bebbfee6bc375f248b96941147bafea1552f4156d244";

    #[test]
    fn the_pepper_and_the_free_functions_agree() {
        let pepper = Pepper::new(SECRET).unwrap();
        let key = generate_api_key([1; 32]);
        let hash = pepper.hash(&key);
        assert_eq!(
            hash.expose_hex(),
            hash_api_key(key.expose(), SECRET).expose_hex()
        );
        assert!(pepper.verify(&key, &hash));
        assert!(verify_api_key(key.expose(), &hash, SECRET));
    }

    #[test]
    fn another_key_another_secret_or_another_hash_does_not_verify() {
        let pepper = Pepper::new(SECRET).unwrap();
        let key = generate_api_key([1; 32]);
        let hash = pepper.hash(&key);
        assert!(!pepper.verify(&generate_api_key([2; 32]), &hash));
        let other = Pepper::new("another server secret of 32 bytes").unwrap();
        assert!(!other.verify(&key, &hash));
        for damaged in [
            "",
            "hash1",
            &"0".repeat(64),
            hash.expose_hex().get(..62).unwrap(),
            "é",
        ] {
            assert!(
                !pepper.verify(&key, &KeyHash::from_store(damaged.to_owned())),
                "{damaged}"
            );
        }
        assert!(!pepper.verify_against_nothing(&key));
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert!(Pepper::new(&"x".repeat(31)).is_err());
        assert!(Pepper::new(&"x".repeat(32)).is_ok());
    }

    #[test]
    fn redaction_leaves_the_prefix_and_everything_around_the_key() {
        let key = generate_api_key([5; 32]);
        let (key, prefix) = (key.expose(), key.prefix());
        let prefix = prefix.as_str();
        let cases = [
            (key.to_owned(), format!("{prefix}…")),
            (
                format!("a={key}&b={key};"),
                format!("a={prefix}…&b={prefix}…;"),
            ),
            (format!("{key}{key}"), format!("{prefix}…{prefix}…")),
            (
                format!("x{}", key.get(..15).unwrap()),
                format!("x{prefix}…"),
            ),
            (prefix.to_owned(), prefix.to_owned()),
            ("ldr_ ldr_é".to_owned(), "ldr_ ldr_é".to_owned()),
        ];
        for (text, redacted) in cases {
            assert_eq!(redact_keys(&text), redacted);
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = generate_api_key([3; 32]);
        let pepper = Pepper::new(SECRET).unwrap();
        let hash = pepper.hash(&key);
        let shown = format!("{key:?} {pepper:?} {hash:?} {MalformedKey:?}");
        assert!(!shown.contains(key.expose()) && !shown.contains(SECRET));
        assert!(!shown.contains(hash.expose_hex()));
        assert!(shown.contains("PlainKey(ldr_AwMDAwMDAw…)"), "{shown}");
    }
}
