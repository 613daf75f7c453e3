//! Records as lines of JSON: what `export` writes and `import` reads.
//!
//! The first line is a header, which says by what the secrets are recognised that the keys are hashed under and how much
//! follows; then a line an account, then a line a key. Nothing in it depends on the store it came from or on the time, so
//! that two stores which hold the same give the same bytes.

use std::fmt;

use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, AccountStatus, ApiKey, ApiKeyStatus, KeyHash,
    KeyId, KeyLimit, KeyName, KeyPrefix, PepperCheck, PepperId, Scope, ScopeFault, ScopeSet,
    Scopes, Slug, Timestamp, redact_keys,
};
use leadr_auth_ports::{StoredPepper, Totals};
use leadr_auth_service::Record;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// What the header calls the format.
const FORMAT: &str = "leadr-auth";

/// The version of the format that is written.
const VERSION: u32 = 2;

/// A version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Of before there were several secrets and scopes: all keys are hashed under the default secret, and may be used for
    /// all that their accounts may.
    One,
    /// The one that is written.
    Two,
}

/// How much of what is wrong is told, in bytes.
const MAX_QUOTED: usize = 300;

/// The first line.
#[derive(Clone, Debug)]
pub struct Header {
    /// The secrets that the keys are hashed under, as far as the store knew them.
    pub secrets: Vec<StoredPepper>,
    /// How much follows.
    pub totals: Totals,
}

/// Why a line was not understood. A key that somebody put into it is cut down to its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedLine(String);

impl MalformedLine {
    /// It is not UTF-8.
    pub(crate) fn not_text() -> Self {
        Self("is not UTF-8 text".to_owned())
    }

    fn new(what: impl fmt::Display) -> Self {
        Self(redact_keys(&what.to_string()).into_owned())
    }
}

impl From<serde_json::Error> for MalformedLine {
    /// The position within the line goes: the line is named by whoever read it, and "line 1" would contradict that.
    fn from(error: serde_json::Error) -> Self {
        let position = format!(" at line {} column {}", error.line(), error.column());
        let text = error.to_string();
        let text = redact_keys(text.strip_suffix(&position).unwrap_or(&text));
        // A field's name is quoted, however long it is.
        let end = text.floor_char_boundary(MAX_QUOTED);
        let dots = if end < text.len() { "…" } else { "" };
        Self(format!("{}{dots}", text.get(..end).unwrap_or_default()))
    }
}

impl fmt::Display for MalformedLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MalformedLine {}

/// What every version's header has.
#[derive(Deserialize)]
struct Preamble {
    format: String,
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the first two are read as a Preamble before")]
struct HeaderLineOne {
    format: String,
    version: u32,
    secret_check: Option<String>,
    accounts: u64,
    keys: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    format: String,
    version: u32,
    secrets: Vec<SecretLine>,
    accounts: u64,
    keys: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretLine {
    id: String,
    check: String,
    dropped_at: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Line {
    Account(AccountLine),
    Key(KeyLine),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountLine {
    id: Uuid,
    name: String,
    slug: String,
    /// Where it is not said it is the usual one: so that programs which know of none can read what they may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_limit: Option<u32>,
    status: String,
    role: String,
    created_at: String,
    updated_at: String,
    deleted_at: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyLine {
    id: Uuid,
    account_id: Uuid,
    name: String,
    key_hash: String,
    key_prefix: String,
    status: String,
    last_used_at: Option<String>,
    expires_at: Option<String>,
    created_at: String,
    updated_at: String,
    deleted_at: Option<String>,
    /// Not in version one.
    #[serde(default, deserialize_with = "present")]
    pepper_id: Option<String>,
    /// Not in version one.
    #[serde(default, deserialize_with = "present")]
    scopes: Option<ScopesField>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ScopesField {
    /// `null`.
    All,
    Only(Vec<String>),
}

/// Tells a field that is `null` from one that is not there: a key that may do all is not made by leaving something out.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// The header as a line, without its line break.
pub fn write_header(header: &Header) -> serde_json::Result<String> {
    serde_json::to_string(&HeaderLine {
        format: FORMAT.to_owned(),
        version: VERSION,
        secrets: header.secrets.iter().map(secret_line).collect(),
        accounts: header.totals.accounts,
        keys: header.totals.keys,
    })
}

fn secret_line(secret: &StoredPepper) -> SecretLine {
    SecretLine {
        id: secret.id.as_str().to_owned(),
        check: secret.check.expose_hex().to_owned(),
        dropped_at: secret.dropped_at.map(|at| at.to_string()),
    }
}

/// A record as a line, without its line break.
pub fn write_record(record: &Record) -> serde_json::Result<String> {
    let text = |at: Timestamp| at.to_string();
    serde_json::to_string(&match record {
        Record::Account(account) => Line::Account(AccountLine {
            id: account.id.as_uuid(),
            name: account.name.as_str().to_owned(),
            slug: account.slug.as_str().to_owned(),
            status: account.status.as_str().to_owned(),
            key_limit: (account.key_limit != KeyLimit::default())
                .then_some(account.key_limit.keys()),
            role: match account.role {
                AccountRole::Tenant => "tenant",
                AccountRole::Operator => "operator",
            }
            .to_owned(),
            created_at: text(account.created_at),
            updated_at: text(account.updated_at),
            deleted_at: account.deleted_at.map(text),
        }),
        Record::Key(key) => Line::Key(KeyLine {
            id: key.id.as_uuid(),
            account_id: key.account_id.as_uuid(),
            name: key.name.as_str().to_owned(),
            key_hash: key.key_hash.expose_hex().to_owned(),
            key_prefix: key.key_prefix.as_str().to_owned(),
            status: key.status.as_str().to_owned(),
            last_used_at: key.last_used_at.map(text),
            expires_at: key.expires_at.map(text),
            created_at: text(key.created_at),
            updated_at: text(key.updated_at),
            deleted_at: key.deleted_at.map(text),
            pepper_id: Some(key.pepper_id.as_str().to_owned()),
            scopes: Some(key.scopes.only().map_or(ScopesField::All, |scopes| {
                let texts = scopes.iter().map(|scope| scope.as_str().to_owned());
                ScopesField::Only(texts.collect())
            })),
        }),
    })
}

/// Reads the first line, and what version of the format follows.
pub fn read_header(line: &str) -> Result<(Header, Version), MalformedLine> {
    let Preamble { format, version } = serde_json::from_str(line)?;
    if format != FORMAT {
        return Err(MalformedLine::new("this is not an export of leadr-auth"));
    }
    match version {
        1 => {
            let line: HeaderLineOne = serde_json::from_str(line)?;
            let check = line.secret_check.map(|hex| hash("secret_check", hex));
            let check = check.transpose()?.map(PepperCheck::from_store);
            let secret = check.map(|check| StoredPepper {
                id: PepperId::default(),
                check,
                audit_key: None,
                dropped_at: None,
            });
            let header = Header {
                secrets: secret.into_iter().collect(),
                totals: Totals {
                    accounts: line.accounts,
                    keys: line.keys,
                },
            };
            Ok((header, Version::One))
        }
        VERSION => {
            let line: HeaderLine = serde_json::from_str(line)?;
            let mut secrets = Vec::<StoredPepper>::new();
            for line in line.secrets {
                let secret = read_secret(line)?;
                if secrets.iter().any(|other| other.id == secret.id) {
                    return Err(MalformedLine::new(format!(
                        "secrets: there are two with the id {}",
                        secret.id
                    )));
                }
                secrets.push(secret);
            }
            let header = Header {
                secrets,
                totals: Totals {
                    accounts: line.accounts,
                    keys: line.keys,
                },
            };
            Ok((header, Version::Two))
        }
        other => Err(MalformedLine::new(format!(
            "version {other} of the format; this program reads versions 1 and {VERSION}"
        ))),
    }
}

fn read_secret(line: SecretLine) -> Result<StoredPepper, MalformedLine> {
    Ok(StoredPepper {
        id: pepper_id("secrets: id", &line.id)?,
        check: PepperCheck::from_store(hash("secrets: check", line.check)?),
        // The key of the trail stays with the trail.
        audit_key: None,
        dropped_at: optional_instant("secrets: dropped_at", line.dropped_at.as_deref())?,
    })
}

/// Reads any other line. Texts are taken as a store has them, since rows of the reference implementation may have been
/// checked less than ours; what no store can hold is refused.
pub fn read_record(line: &str, version: Version) -> Result<Record, MalformedLine> {
    Ok(match serde_json::from_str(line)? {
        Line::Account(line) => Record::Account(Account {
            id: AccountId::new(line.id),
            name: AccountName::from_store(storable("name", line.name)?),
            slug: Slug::from_store(storable("slug", line.slug)?),
            status: match line.status.as_str() {
                "active" => AccountStatus::Active,
                "suspended" => AccountStatus::Suspended,
                _ => {
                    return Err(MalformedLine::new(
                        "status: is neither active nor suspended",
                    ));
                }
            },
            role: match line.role.as_str() {
                "tenant" => AccountRole::Tenant,
                "operator" => AccountRole::Operator,
                _ => return Err(MalformedLine::new("role: is neither tenant nor operator")),
            },
            key_limit: line.key_limit.map_or(Ok(KeyLimit::default()), |keys| {
                KeyLimit::new(keys).ok_or_else(|| MalformedLine::new("key_limit: is too large"))
            })?,
            created_at: instant("created_at", &line.created_at)?,
            updated_at: instant("updated_at", &line.updated_at)?,
            deleted_at: optional_instant("deleted_at", line.deleted_at.as_deref())?,
        }),
        Line::Key(line) => Record::Key(ApiKey {
            id: KeyId::new(line.id),
            account_id: AccountId::new(line.account_id),
            name: KeyName::from_store(storable("name", line.name)?),
            pepper_id: match (version, line.pepper_id) {
                (Version::One, None) => PepperId::default(),
                (Version::Two, Some(id)) => pepper_id("pepper_id", &id)?,
                (version, _) => return Err(not_of("pepper_id", version)),
            },
            scopes: match (version, line.scopes) {
                (Version::One, None) | (Version::Two, Some(ScopesField::All)) => Scopes::All,
                (Version::Two, Some(ScopesField::Only(texts))) => only(&texts)?,
                (version, _) => return Err(not_of("scopes", version)),
            },
            key_hash: KeyHash::from_store(hash("key_hash", line.key_hash)?),
            key_prefix: prefix(&storable("key_prefix", line.key_prefix)?)?,
            status: match line.status.as_str() {
                "active" => ApiKeyStatus::Active,
                "revoked" => ApiKeyStatus::Revoked,
                _ => return Err(MalformedLine::new("status: is neither active nor revoked")),
            },
            last_used_at: optional_instant("last_used_at", line.last_used_at.as_deref())?,
            expires_at: optional_instant("expires_at", line.expires_at.as_deref())?,
            created_at: instant("created_at", &line.created_at)?,
            updated_at: instant("updated_at", &line.updated_at)?,
            deleted_at: optional_instant("deleted_at", line.deleted_at.as_deref())?,
        }),
    })
}

/// A field is missing, or is of another version.
fn not_of(field: &str, version: Version) -> MalformedLine {
    MalformedLine::new(match version {
        Version::One => format!("{field}: version 1 of the format has no such field"),
        Version::Two => format!("{field}: is missing"),
    })
}

fn pepper_id(field: &str, text: &str) -> Result<PepperId, MalformedLine> {
    PepperId::parse(text).map_err(|fault| MalformedLine::new(format!("{field}: {fault}")))
}

/// Scopes as they are taken over HTTP: what is no scope would be believed once it is stored.
fn only(texts: &[String]) -> Result<Scopes, MalformedLine> {
    let fault = |fault: ScopeFault| MalformedLine::new(format!("scopes: {fault}"));
    let scopes: Result<Vec<_>, _> = texts.iter().map(|text| Scope::parse(text)).collect();
    let scopes = ScopeSet::new(scopes.map_err(fault)?).map_err(fault)?;
    Ok(Scopes::Only(scopes))
}

fn instant(field: &str, text: &str) -> Result<Timestamp, MalformedLine> {
    Timestamp::parse(text).map_err(|fault| MalformedLine::new(format!("{field}: is {fault}")))
}

fn optional_instant(field: &str, text: Option<&str>) -> Result<Option<Timestamp>, MalformedLine> {
    text.map(|text| instant(field, text)).transpose()
}

/// PostgreSQL keeps no text with a NUL in it.
fn storable(field: &str, text: String) -> Result<String, MalformedLine> {
    if text.contains('\0') {
        return Err(MalformedLine::new(format!("{field}: has a NUL in it")));
    }
    Ok(text)
}

/// A longer one would be more of a key than a store may know.
fn prefix(text: &str) -> Result<KeyPrefix, MalformedLine> {
    KeyPrefix::parse(text)
        .ok()
        .filter(|_| text.len() <= KeyPrefix::LEN)
        .ok_or_else(|| {
            MalformedLine::new(format!(
                "key_prefix: is not ldr_ and up to {} characters",
                KeyPrefix::LEN - "ldr_".len()
            ))
        })
}

fn hash(field: &str, hex: String) -> Result<String, MalformedLine> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if hex.len() != 64 || !hex.bytes().all(digit) {
        return Err(MalformedLine::new(format!(
            "{field}: is not 64 lower-case hexadecimal digits"
        )));
    }
    Ok(hex)
}

#[cfg(test)]
mod tests {
    use leadr_auth_domain::{Pepper, generate_api_key};

    use super::*;

    const ACCOUNT: &str = r#"{"account":{"id":"01010101-0101-4101-8101-010101010101","name":"Ac\u0007me","slug":"Not A Slug","status":"suspended","role":"operator","created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00.000001Z","deleted_at":null}}"#;

    fn key_line() -> String {
        let pepper = Pepper::new("a secret for tests, of 32 bytes and more").unwrap();
        let hash = pepper.hash(&generate_api_key([1; 32]));
        format!(
            r#"{{"key":{{"id":"02020202-0202-4202-8202-020202020202","account_id":"01010101-0101-4101-8101-010101010101","name":"","key_hash":"{}","key_prefix":"ldr_AQEBAQEBAQ","status":"revoked","last_used_at":null,"expires_at":"9999-12-31T23:59:59.999999Z","created_at":"0001-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z","deleted_at":"2026-01-02T00:00:00Z","pepper_id":"2026-11","scopes":["docs:*","keys:read"]}}}}"#,
            hash.expose_hex()
        )
    }

    #[test]
    fn lines_survive_the_round_trip_byte_by_byte() {
        let scopes = r#"["docs:*","keys:read"]"#;
        for line in [
            ACCOUNT.to_owned(),
            key_line(),
            key_line().replace(scopes, "[]"),
            key_line().replace(scopes, "null"),
        ] {
            let record = read_record(&line, Version::Two).unwrap();
            assert_eq!(write_record(&record).unwrap(), line);
        }
        let header = format!(
            r#"{{"format":"leadr-auth","version":2,"secrets":[{{"id":"2026-11","check":"{check}","dropped_at":null}},{{"id":"default","check":"{check}","dropped_at":"2026-01-02T00:00:00Z"}}],"accounts":3,"keys":9}}"#,
            check = "0a".repeat(32)
        );
        let (read, version) = read_header(&header).unwrap();
        assert_eq!(version, Version::Two);
        assert_eq!(write_header(&read).unwrap(), header);
    }

    #[test]
    fn a_first_version_has_one_secret_and_no_scopes() {
        let check = "0a".repeat(32);
        let header = format!(
            r#"{{"format":"leadr-auth","version":1,"secret_check":"{check}","accounts":3,"keys":9}}"#
        );
        let (header, version) = read_header(&header).unwrap();
        assert_eq!(version, Version::One);
        assert_eq!(header.secrets.len(), 1);
        assert_eq!(header.secrets[0].id, PepperId::default());
        assert_eq!(header.secrets[0].check.expose_hex(), check);
        let none =
            r#"{"format":"leadr-auth","version":1,"secret_check":null,"accounts":3,"keys":9}"#;
        assert!(read_header(none).unwrap().0.secrets.is_empty());
        let line = key_line();
        let old = line.replace(
            r#","pepper_id":"2026-11","scopes":["docs:*","keys:read"]"#,
            "",
        );
        let Record::Key(key) = read_record(&old, Version::One).unwrap() else {
            panic!("{old}")
        };
        assert_eq!(
            (key.pepper_id, key.scopes),
            (PepperId::default(), Scopes::All)
        );
        // A field that is left out, or there too early, says nothing about the key.
        for (line, version) in [
            (&old, Version::Two),
            (&line, Version::One),
            (
                &line.replace(r#","scopes":["docs:*","keys:read"]"#, ""),
                Version::Two,
            ),
            (&line.replace(r#""pepper_id":"2026-11","#, ""), Version::Two),
        ] {
            assert!(read_record(line, version).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_by_field_and_no_key_is_repeated() {
        let key = generate_api_key([3; 32]);
        let line = key_line();
        let many: Vec<_> = (0..64).map(|n| format!("\"docs:{n}\"")).collect();
        let many = many.join(",");
        let cases = [
            (String::new(), "EOF"),
            ("[]".to_owned(), "expected"),
            (line.replace("\"name\"", "\"nme\""), "unknown field"),
            (line.replace("revoked", "dead"), "status"),
            (line.replace("ldr_AQ", "xdr_AQ"), "key_prefix"),
            (line.replace("ldr_AQEBAQEBAQ", key.expose()), "key_prefix"),
            (
                line.replace("\"name\"", &format!("\"{}\"", "long ".repeat(1000))),
                "…",
            ),
            (
                line.replace("2026-01-02T00:00:00Z", "yesterday"),
                "deleted_at",
            ),
            (
                line.replace("\"name\":\"\"", "\"name\":\"a\\u0000b\""),
                "NUL",
            ),
            (
                line.replace("\"key_hash\":\"", "\"key_hash\":\"F"),
                "key_hash",
            ),
            (
                line.replace("\"name\"", &format!("\"{}\"", key.expose())),
                "unknown field",
            ),
            (line.replace("02020202-", ""), "UUID"),
            (line.replace("2026-11", "2026 11"), "pepper_id"),
            (line.replace("docs:*", "docs *"), "scopes: not a scope"),
            (line.replace("docs:*", ""), "scopes: not a scope"),
            (line.replace("docs:*", "*"), "scopes: not a scope"),
            (line.replace("docs:*", "key*"), "scopes: not a scope"),
            (line.replace("docs:*", "KEYS:READ"), "scopes: not a scope"),
            (line.replace("docs:*", "keys:*"), "scopes: unknown"),
            (
                line.replace("docs:*", &"a".repeat(129)),
                "scopes: longer than 128",
            ),
            (
                line.replace("\"docs:*\"", &many),
                "scopes: more than 64 scopes",
            ),
        ];
        for (line, expected) in cases {
            let fault = read_record(&line, Version::Two).unwrap_err().to_string();
            assert!(
                fault.to_lowercase().contains(&expected.to_lowercase()),
                "{expected}: {fault}"
            );
            assert!(!fault.contains(key.expose()), "{fault}");
            assert!(!fault.contains("at line") && fault.len() < 400, "{fault}");
        }
        for (header, expected) in [
            (
                r#"{"format":"other","version":1,"secret_check":null,"accounts":0,"keys":0}"#,
                "not an export",
            ),
            (
                r#"{"format":"leadr-auth","version":3,"pepper":null,"accounts":0,"keys":0}"#,
                "version 3",
            ),
            (
                r#"{"format":"leadr-auth","version":2,"secret_check":null,"accounts":0,"keys":0}"#,
                "unknown field",
            ),
            (
                r#"{"format":"leadr-auth","version":2,"secrets":[{"id":"a b","check":"x","dropped_at":null}],"accounts":0,"keys":0}"#,
                "secrets: id",
            ),
            (
                r#"{"format":"leadr-auth","version":1,"secret_check":"x","accounts":0,"keys":0}"#,
                "secret_check",
            ),
        ] {
            let fault = read_header(header).unwrap_err().to_string();
            assert!(fault.contains(expected), "{fault}");
        }
    }
}
