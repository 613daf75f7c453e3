//! Names and slugs: texts that are valid by construction.

use std::fmt;

use crate::secret::holds_key;

/// Why a text is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFault {
    /// Fewer characters than the least, after trimming.
    TooShort {
        /// The least number of characters.
        min: usize,
    },
    /// More characters than the most, after trimming.
    TooLong {
        /// The greatest number of characters.
        max: usize,
    },
    /// A control character (such as NUL, a line break or a tab, or one that sets the direction of text), at either end
    /// included. PostgreSQL cannot store a NUL, and none of them belongs into a label that people read in a list or a terminal:
    /// it makes what stands beside it read as something else.
    ControlCharacter,
    /// It holds an API key: a name is shown to whoever may list, and stays in the audit trail.
    HoldsKey,
    /// A slug that is not of lower-case letters and digits in groups joined by single hyphens.
    NotASlug,
}

impl fmt::Display for TextFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { min } => write!(f, "shorter than {min} characters"),
            Self::TooLong { max } => write!(f, "longer than {max} characters"),
            Self::ControlCharacter => f.write_str("contains a control character"),
            Self::HoldsKey => {
                f.write_str("contains an API key: a name is shown to whoever may list")
            }
            Self::NotASlug => {
                f.write_str("not lower-case letters and digits joined by single hyphens")
            }
        }
    }
}

impl std::error::Error for TextFault {}

/// Is it a control character, of terminals, of lines, or of the direction of text? The last are Unicode's `Bidi_Control`: in
/// a list they make what stands beside them read as something else.
pub fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Trims `text` and checks its length in characters, and that it holds no control character.
fn label(text: &str, min: usize, max: usize) -> Result<String, TextFault> {
    if text.chars().any(is_control) {
        return Err(TextFault::ControlCharacter);
    }
    let trimmed = text.trim();
    let length = trimmed.chars().count();
    if length < min {
        return Err(TextFault::TooShort { min });
    }
    if length > max {
        return Err(TextFault::TooLong { max });
    }
    Ok(trimmed.to_owned())
}

/// A label that does not hold a key. A slug cannot: there is no `_` in it.
fn name(text: &str, min: usize, max: usize) -> Result<String, TextFault> {
    let name = label(text, min, max)?;
    if holds_key(&name) {
        return Err(TextFault::HoldsKey);
    }
    Ok(name)
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $min:literal..=$max:literal, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The least number of characters.
            pub const MIN_CHARS: usize = $min;
            /// The greatest number of characters.
            pub const MAX_CHARS: usize = $max;

            /// Checks a text that came from outside.
            pub fn parse(text: &str) -> Result<Self, TextFault> {
                let parse: fn(&str, usize, usize) -> Result<String, TextFault> = $parse;
                parse(text, $min, $max).map(Self)
            }

            /// Takes a text that a store already holds, unchecked: the reference implementation checked less, and its
            /// rows must stay readable.
            pub const fn from_store(text: String) -> Self {
                Self(text)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text! {
    /// What people call a key: trimmed, 1–255 characters, no control character, no API key in it.
    KeyName, 1..=255, name
}

text! {
    /// What people call an account: trimmed, 2–100 characters, no control character, no API key in it.
    AccountName, 2..=100, name
}

text! {
    /// An account's name in an address: 2–50 characters, groups of lower-case letters and digits joined by single
    /// hyphens. Not trimmed, because a slug is typed by programs.
    Slug, 2..=50, slug
}

fn slug(text: &str, min: usize, max: usize) -> Result<String, TextFault> {
    let slug = label(text, min, max)?;
    let group = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if slug.len() != text.len() || !slug.split('-').all(group) {
        return Err(TextFault::NotASlug);
    }
    Ok(slug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_trimmed_and_kept_as_typed_otherwise() {
        assert_eq!(
            KeyName::parse("  Production  Server ").unwrap().as_str(),
            "Production  Server"
        );
        assert_eq!(
            KeyName::parse("Schlüssel 🔑").unwrap().as_str(),
            "Schlüssel 🔑"
        );
    }

    #[test]
    fn lengths_count_characters_not_bytes() {
        assert!(KeyName::parse(&"ü".repeat(255)).is_ok());
        assert_eq!(
            KeyName::parse(&"ü".repeat(256)),
            Err(TextFault::TooLong { max: 255 })
        );
        assert_eq!(KeyName::parse("   "), Err(TextFault::TooShort { min: 1 }));
        assert!(AccountName::parse(&"a".repeat(100)).is_ok());
        assert_eq!(
            AccountName::parse(&"a".repeat(101)),
            Err(TextFault::TooLong { max: 100 })
        );
        assert_eq!(AccountName::parse("a"), Err(TextFault::TooShort { min: 2 }));
    }

    #[test]
    fn control_characters_are_refused_wherever_they_stand() {
        for text in ["a\0b", "name\n", "\tname", "a\u{7f}b", "a\u{85}b"] {
            assert_eq!(
                KeyName::parse(text),
                Err(TextFault::ControlCharacter),
                "{text:?}"
            );
            assert_eq!(
                AccountName::parse(text),
                Err(TextFault::ControlCharacter),
                "{text:?}"
            );
            assert_eq!(
                Slug::parse(text),
                Err(TextFault::ControlCharacter),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_name_holds_no_key() {
        let key = crate::generate_api_key([7; 32]);
        let prefix = key.prefix();
        let key = key.expose();
        for text in [
            key.to_owned(),
            format!("  {key} "),
            format!("the key ({key}), of the mail server"),
            format!("ldr_{key}"),
            format!("{key}{key}"),
        ] {
            assert_eq!(KeyName::parse(&text), Err(TextFault::HoldsKey), "{text}");
            assert_eq!(AccountName::parse(&text), Err(TextFault::HoldsKey));
            assert!(Slug::parse(&text).is_err());
        }
        assert!(!TextFault::HoldsKey.to_string().contains(key));
        // The prefix is what people recognise a key by.
        for text in [
            prefix.as_str(),
            "ldr_",
            "ldr_ldr_",
            "the ldr_ keys of old",
            "ldr_production_server",
        ] {
            assert_eq!(KeyName::parse(text).unwrap().as_str(), text);
        }
        assert_eq!(KeyName::from_store(key.to_owned()).as_str(), key);
    }

    #[test]
    fn a_slug_is_groups_of_letters_and_digits_joined_by_single_hyphens() {
        for good in ["ab", "acme", "acme-corp", "a-1-b-2", "0x", &"a".repeat(50)] {
            assert_eq!(Slug::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "-a", "a-", "a--b", "Acme", "a_b", "a b", " ab", "ab ", "äb", "a.b", "--",
        ] {
            assert_eq!(Slug::parse(bad), Err(TextFault::NotASlug), "{bad:?}");
        }
        assert_eq!(Slug::parse("a"), Err(TextFault::TooShort { min: 2 }));
        assert_eq!(
            Slug::parse(&"a".repeat(51)),
            Err(TextFault::TooLong { max: 50 })
        );
    }

    #[test]
    fn a_stored_text_is_taken_as_it_is() {
        assert_eq!(KeyName::from_store(String::new()).as_str(), "");
    }
}
