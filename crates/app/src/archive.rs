//! Records as lines of JSON: what `export` writes and `import` reads.
//!
//! The first line is a header, which says by what the secret is recognised that the keys are hashed under and how much
//! follows; then a line an account, then a line a key. Nothing in it depends on the store it came from or on the time, so
//! that two stores which hold the same give the same bytes.

use std::fmt;

use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, AccountStatus, ApiKey, ApiKeyStatus, KeyHash,
    KeyId, KeyName, KeyPrefix, PepperCheck, Slug, Timestamp, redact_keys,
};
use leadr_auth_ports::Totals;
use leadr_auth_service::Record;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What the header calls the format.
const FORMAT: &str = "leadr-auth";

/// The version of the format that is written, and the only one that is read.
const VERSION: u32 = 1;

/// How much of what is wrong is told, in bytes.
const MAX_QUOTED: usize = 300;

/// The first line.
#[derive(Clone, Debug)]
pub struct Header {
    /// By what the secret is recognised that the keys are hashed under, where the store knew.
    pub secret: Option<PepperCheck>,
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    format: String,
    version: u32,
    secret_check: Option<String>,
    accounts: u64,
    keys: u64,
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
}

/// The header as a line, without its line break.
pub fn write_header(header: &Header) -> serde_json::Result<String> {
    serde_json::to_string(&HeaderLine {
        format: FORMAT.to_owned(),
        version: VERSION,
        secret_check: header
            .secret
            .as_ref()
            .map(|check| check.expose_hex().to_owned()),
        accounts: header.totals.accounts,
        keys: header.totals.keys,
    })
}

/// A record as a line, without its line break.
pub fn write_record(record: &Record) -> serde_json::Result<String> {
    let text = |at: Timestamp| at.to_string();
    serde_json::to_string(&match record {
        Record::Account(account) => Line::Account(AccountLine {
            id: account.id.as_uuid(),
            name: account.name.as_str().to_owned(),
            slug: account.slug.as_str().to_owned(),
            status: match account.status {
                AccountStatus::Active => "active",
                AccountStatus::Suspended => "suspended",
            }
            .to_owned(),
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
        }),
    })
}

/// Reads the first line.
pub fn read_header(line: &str) -> Result<Header, MalformedLine> {
    let header: HeaderLine = serde_json::from_str(line)?;
    if header.format != FORMAT {
        return Err(MalformedLine::new("this is not an export of leadr-auth"));
    }
    if header.version != VERSION {
        return Err(MalformedLine::new(format!(
            "version {} of the format; this program reads version {VERSION}",
            header.version
        )));
    }
    Ok(Header {
        secret: header
            .secret_check
            .map(|hex| hash("secret_check", hex))
            .transpose()?
            .map(PepperCheck::from_store),
        totals: Totals {
            accounts: header.accounts,
            keys: header.keys,
        },
    })
}

/// Reads any other line. Texts are taken as a store has them, since rows of the reference implementation may have been
/// checked less than ours; what no store can hold is refused.
pub fn read_record(line: &str) -> Result<Record, MalformedLine> {
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
            created_at: instant("created_at", &line.created_at)?,
            updated_at: instant("updated_at", &line.updated_at)?,
            deleted_at: optional_instant("deleted_at", line.deleted_at.as_deref())?,
        }),
        Line::Key(line) => Record::Key(ApiKey {
            id: KeyId::new(line.id),
            account_id: AccountId::new(line.account_id),
            name: KeyName::from_store(storable("name", line.name)?),
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
            r#"{{"key":{{"id":"02020202-0202-4202-8202-020202020202","account_id":"01010101-0101-4101-8101-010101010101","name":"","key_hash":"{}","key_prefix":"ldr_AQEBAQEBAQ","status":"revoked","last_used_at":null,"expires_at":"9999-12-31T23:59:59.999999Z","created_at":"0001-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z","deleted_at":"2026-01-02T00:00:00Z"}}}}"#,
            hash.expose_hex()
        )
    }

    #[test]
    fn lines_survive_the_round_trip_byte_by_byte() {
        for line in [ACCOUNT.to_owned(), key_line()] {
            let record = read_record(&line).unwrap();
            assert_eq!(write_record(&record).unwrap(), line);
        }
        let header = format!(
            r#"{{"format":"leadr-auth","version":1,"secret_check":"{}","accounts":3,"keys":9}}"#,
            "0a".repeat(32)
        );
        assert_eq!(
            write_header(&read_header(&header).unwrap()).unwrap(),
            header
        );
    }

    #[test]
    fn what_is_wrong_is_said_by_field_and_no_key_is_repeated() {
        let key = generate_api_key([3; 32]);
        let line = key_line();
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
        ];
        for (line, expected) in cases {
            let fault = read_record(&line).unwrap_err().to_string();
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
                r#"{"format":"leadr-auth","version":2,"secret_check":null,"accounts":0,"keys":0}"#,
                "version 2",
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
