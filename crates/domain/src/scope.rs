//! Scopes: what a key may be used for.
//!
//! A key holds all rights of its account, or a set of scopes that is narrower. Some scopes are this service's own and are
//! enforced by it; all others are the application's, which are stored and returned and mean what the application wants.

use std::collections::BTreeSet;
use std::fmt;

/// A scope of this service's own: something that its own routes ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// See keys.
    KeysRead,
    /// Issue and change keys.
    KeysWrite,
    /// Ask whether a key is valid.
    KeysVerify,
    /// See accounts.
    AccountsRead,
    /// Make and change accounts, which takes an operator's key as well.
    AccountsWrite,
    /// Read the audit trail.
    AuditRead,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::KeysRead,
        Self::KeysWrite,
        Self::KeysVerify,
        Self::AccountsRead,
        Self::AccountsWrite,
        Self::AuditRead,
    ];

    /// The scope's text, on the wire and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeysRead => "keys:read",
            Self::KeysWrite => "keys:write",
            Self::KeysVerify => "keys:verify",
            Self::AccountsRead => "accounts:read",
            Self::AccountsWrite => "accounts:write",
            Self::AuditRead => "audit:read",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The first segments that are this service's own: a scope that begins with one of them is a [`Right`] or nothing.
const RESERVED: [&str; 3] = ["keys", "accounts", "audit"];

/// Is this text one of this service's own scopes, or would be one?
fn is_reserved(text: &str) -> bool {
    let first = text.split(':').next();
    first.is_some_and(|first| RESERVED.contains(&first))
}

/// Has it the form of a scope, whatever its length and whoever's it is?
fn is_well_formed(text: &str) -> bool {
    let plain = |segment: &str| {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
        !segment.is_empty() && segment.bytes().all(allowed)
    };
    let named = text.strip_suffix(":*").unwrap_or(text);
    named.split(':').all(plain)
}

/// Why a text is no scope, or a list no set of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeFault {
    /// Not segments of `a-z 0-9 _ . -` joined by colons, the last of which may be `*`.
    Malformed,
    /// Longer than this.
    TooLong {
        /// The greatest number of characters.
        max: usize,
    },
    /// It begins as a scope of this service's own, and is none.
    Unknown,
    /// There are more scopes than this.
    TooMany {
        /// The greatest number.
        max: usize,
    },
}

impl fmt::Display for ScopeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str(
                "not a scope: segments of a-z, 0-9, '_', '.' and '-' joined by ':', the last of which may be '*'",
            ),
            Self::TooLong { max } => write!(f, "longer than {max} characters"),
            Self::Unknown => {
                f.write_str("unknown; of this service's own there are")?;
                for (n, right) in Right::ALL.iter().enumerate() {
                    write!(f, "{} {right}", if n == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::TooMany { max } => write!(f, "more than {max} scopes"),
        }
    }
}

impl std::error::Error for ScopeFault {}

/// A scope: `^[a-z0-9_.-]+(:[a-z0-9_.-]+)*(:\*)?$`.
///
/// A `*` as the last segment stands for every scope that goes on from there: `docs:*` covers `docs:read` and `docs:eu:read`,
/// and not `docs`. Elsewhere a `*` would mean nothing, so it is refused. The service's own scopes are given one by one: a
/// `keys:*` would come to mean more with a later version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(String);

impl Scope {
    /// The greatest number of characters.
    pub const MAX_CHARS: usize = 128;

    /// Checks a text that came from outside.
    pub fn parse(text: &str) -> Result<Self, ScopeFault> {
        if text.len() > Self::MAX_CHARS {
            return Err(ScopeFault::TooLong {
                max: Self::MAX_CHARS,
            });
        }
        if !is_well_formed(text) {
            return Err(ScopeFault::Malformed);
        }
        if is_reserved(text) && !Right::ALL.iter().any(|right| right.as_str() == text) {
            return Err(ScopeFault::Unknown);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Does who holds this scope hold `other` too? Every text covers itself. Beyond that only a last segment `*` covers
    /// anything, and never a scope of this service's own: those are given one by one.
    pub fn covers(&self, other: &str) -> bool {
        if self.0 == other {
            return true;
        }
        // With its colon, so that `a:*` does not cover `ab`; and without one it is no wildcard, whatever a store holds.
        let stem = self.0.strip_suffix('*').filter(|stem| stem.ends_with(':'));
        stem.is_some_and(|stem| {
            other.len() > stem.len() && other.starts_with(stem) && !is_reserved(other)
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of scopes, in the order of their texts. It may be empty: such a key says who it is, and may do nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ScopeSet(BTreeSet<Scope>);

impl ScopeSet {
    /// The greatest number of scopes.
    pub const MAX: usize = 64;

    /// Takes scopes; what is named twice is there once.
    pub fn new(scopes: impl IntoIterator<Item = Scope>) -> Result<Self, ScopeFault> {
        let scopes: BTreeSet<_> = scopes.into_iter().collect();
        if scopes.len() > Self::MAX {
            return Err(ScopeFault::TooMany { max: Self::MAX });
        }
        Ok(Self(scopes))
    }

    /// The scopes, in the order of their texts.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter()
    }

    /// Those of them that are `wanted`.
    #[must_use]
    pub fn only(&self, wanted: impl Fn(&Scope) -> bool) -> Self {
        Self(
            self.0
                .iter()
                .filter(|scope| wanted(scope))
                .cloned()
                .collect(),
        )
    }

    /// Is `scope` among them, or covered by one that ends in `*`?
    pub fn covers(&self, scope: &str) -> bool {
        self.0.iter().any(|held| held.covers(scope))
    }
}

/// What a key may be used for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scopes {
    /// All that its account may: a key of before there were scopes, or one that was issued without.
    #[default]
    All,
    /// These only.
    Only(ScopeSet),
}

impl Scopes {
    /// Do they cover `scope`?
    pub fn covers(&self, scope: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(scopes) => scopes.covers(scope),
        }
    }

    /// The set, where it is one.
    pub const fn only(&self) -> Option<&ScopeSet> {
        match self {
            Self::All => None,
            Self::Only(scopes) => Some(scopes),
        }
    }

    /// The form that stores keep: the scopes with a space between them, as in OAuth 2.0 (RFC 6749, section 3.3); `None`
    /// for all.
    pub fn to_store(&self) -> Option<String> {
        let scopes = self.only()?.iter().map(Scope::as_str);
        Some(scopes.collect::<Vec<_>>().join(" "))
    }

    /// Takes what a store holds. What could be no scope of any version is passed over: nobody could ask for it, and some of it,
    /// such as a lone `*`, would look to others like a right.
    pub fn from_store(text: Option<&str>) -> Self {
        match text {
            None => Self::All,
            Some(text) => {
                let scopes = text.split_ascii_whitespace();
                let scopes = scopes.filter(|scope| is_well_formed(scope));
                let scopes = scopes.map(|scope| Scope(scope.to_owned()));
                Self::Only(ScopeSet(scopes.collect()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(scopes: &[&str]) -> ScopeSet {
        ScopeSet::new(scopes.iter().map(|text| Scope::parse(text).unwrap())).unwrap()
    }

    #[test]
    fn the_services_own_scopes_are_known_one_by_one() {
        for right in Right::ALL {
            assert_eq!(
                Scope::parse(right.as_str()).unwrap().as_str(),
                right.as_str()
            );
        }
        for unknown in [
            "keys",
            "keys:*",
            "keys:delete",
            "keys:read:own",
            "audit:write",
            "accounts:*",
        ] {
            assert_eq!(Scope::parse(unknown), Err(ScopeFault::Unknown), "{unknown}");
        }
    }

    #[test]
    fn an_application_names_its_own() {
        for good in [
            "docs",
            "docs:read",
            "docs:*",
            "a.b-c_d:1:2:*",
            "keyring:read",
            "0",
            &"a".repeat(128),
        ] {
            assert_eq!(Scope::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "", "*", ":", "a:", ":a", "a::b", "A", "a b", "a:*:b", "a:b*", "a*", "ä", "a\0",
            "a:**", " a", "a\n", "a,b", "a:*:*",
        ] {
            assert_eq!(Scope::parse(bad), Err(ScopeFault::Malformed), "{bad:?}");
        }
        let long = Scope::parse(&"a".repeat(129));
        assert_eq!(long, Err(ScopeFault::TooLong { max: 128 }));
    }

    #[test]
    fn a_star_covers_what_goes_on_from_there() {
        let cases = [
            ("docs:*", "docs:read", true),
            ("docs:*", "docs:eu:read", true),
            ("docs:*", "docs:*", true),
            ("docs:*", "docs:eu:*", true),
            ("docs:*", "docs", false),
            ("docs:*", "docs:", false),
            ("docs:*", "docsx:read", false),
            ("docs:eu:*", "docs:*", false),
            ("docs:read", "docs:read", true),
            ("docs:read", "docs:*", false),
            ("docs", "docs:read", false),
        ];
        for (held, asked, covered) in cases {
            assert_eq!(
                Scope::parse(held).unwrap().covers(asked),
                covered,
                "{held} {asked}"
            );
        }
    }

    #[test]
    fn what_a_store_holds_and_is_no_scope_covers_only_itself_if_anything() {
        for (held, is_kept) in [
            ("*", false),
            ("keys:*", true),
            ("keys:r*", false),
            ("key*", false),
            ("k*", false),
            ("KEYS:READ", false),
            ("%2A", false),
            ("keys:read:*", true),
            ("audit:*", true),
            ("accounts:*", true),
        ] {
            let scopes = Scopes::from_store(Some(held));
            assert_eq!(scopes.covers(held), is_kept, "{held}");
            let kept = if is_kept { held } else { "" };
            assert_eq!(scopes.to_store().as_deref(), Some(kept));
            let others = ["keys", "keys:delete", "keyring:read", "docs:read", "docs"];
            for other in Right::ALL.map(Right::as_str).iter().chain(&others) {
                assert!(!scopes.covers(other), "{held} {other}");
            }
        }
    }

    #[test]
    fn a_set_has_its_size_and_order() {
        let many = |n: usize| ScopeSet::new((0..n).map(|n| Scope(format!("s{n}"))));
        assert!(many(64).is_ok());
        assert_eq!(many(65), Err(ScopeFault::TooMany { max: 64 }));
        let twice = set(&["b", "a", "b"]);
        assert_eq!(
            twice.iter().map(Scope::as_str).collect::<Vec<_>>(),
            ["a", "b"]
        );
    }

    #[test]
    fn what_is_stored_reads_back() {
        for scopes in [
            Scopes::All,
            Scopes::Only(set(&[])),
            Scopes::Only(set(&["keys:read", "docs:*"])),
        ] {
            assert_eq!(Scopes::from_store(scopes.to_store().as_deref()), scopes);
        }
        assert_eq!(Scopes::Only(set(&["b", "a"])).to_store().unwrap(), "a b");
        assert!(
            !Scopes::from_store(Some("")).covers("keys:read"),
            "an empty set is not all"
        );
    }
}
