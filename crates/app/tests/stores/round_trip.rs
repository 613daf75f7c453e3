//! From PostgreSQL into a file and back: nothing is lost, and nothing is changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use leadr_auth_app::archive::{Header, write_header, write_record};
use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, AccountStatus, ApiKey, ApiKeyStatus, KeyId,
    KeyLimit, KeyName, Pepper, PepperId, PlainKey, Right, Scope, ScopeSet, Scopes, Slug, Timestamp,
    generate_api_key,
};
use leadr_auth_ports::{StoredPepper, Totals};
use leadr_auth_postgres::testing::TestDatabase;
use leadr_auth_service::Record;

use crate::support::{SECRET, Serving, binary, tool};

const ACCOUNTS: usize = 1500;
const KEYS: usize = 4500;

/// Of so many keys, one is tried on each store.
const TRIED: usize = 45;

/// Texts as people and the reference implementation write them: both check less than our border does.
const NAMES: [&str; 8] = [
    "Production",
    "Ωmega & Söhne <script>",
    "🔑🔑",
    "'; DROP TABLE api_keys; --",
    "%_\\ \"quoted\"",
    "tab\there, bell\u{7}, next line\u{85}",
    "e\u{301} is not \u{e9}",
    " ",
];

/// The first instant, the last, microseconds, and none at all.
const INSTANTS: [&str; 6] = [
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59.999999Z",
    "2024-02-29T12:00:00.000001Z",
    "2025-06-30T23:59:59.123456Z",
    "2026-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999Z",
];

fn instant(n: usize) -> Timestamp {
    Timestamp::parse(INSTANTS[n % INSTANTS.len()]).unwrap()
}

/// One of the instants, or none.
fn perhaps(n: usize) -> Option<Timestamp> {
    (!n.is_multiple_of(3)).then(|| instant(n / 3))
}

/// Bytes that look random and follow from a number.
fn bytes<const N: usize>(kind: u8, n: usize) -> [u8; N] {
    let mut state = (u64::try_from(n).unwrap() << 8) | u64::from(kind);
    std::array::from_fn(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
}

fn account_id(n: usize) -> AccountId {
    AccountId::from_random_bytes(bytes(1, n))
}

fn account(n: usize) -> Account {
    let deleted = n % 5 == 4;
    // Only among live ones are names and slugs unique.
    let number = if deleted { 0 } else { n };
    Account {
        id: account_id(n),
        name: AccountName::from_store(format!("{} {number}", NAMES[n % NAMES.len()])),
        slug: Slug::from_store(format!("Slug Of {number}")),
        status: if n % 4 == 1 {
            AccountStatus::Suspended
        } else {
            AccountStatus::Active
        },
        role: if n.is_multiple_of(100) {
            AccountRole::Operator
        } else {
            AccountRole::Tenant
        },
        key_limit: KeyLimit::from_store(i64::try_from(n).unwrap() * 777),
        created_at: instant(n),
        updated_at: instant(n / 2),
        deleted_at: deleted.then(|| instant(n / 5)),
    }
}

fn plain(n: usize) -> PlainKey {
    generate_api_key(bytes(2, n))
}

/// All, none, or some of our own and of an application's.
fn scopes(n: usize) -> Scopes {
    let texts = ["docs:*", "keys:read", "keys:verify"];
    match n % 4 {
        0 => {
            let scopes = texts.iter().take(n % 3).map(|text| Scope::parse(text));
            let scopes = scopes.collect::<Result<Vec<_>, _>>().unwrap();
            Scopes::Only(ScopeSet::new(scopes).unwrap())
        }
        _ => Scopes::All,
    }
}

fn key(n: usize, pepper: &Pepper) -> ApiKey {
    let plain = plain(n);
    ApiKey {
        id: KeyId::from_random_bytes(bytes(3, n)),
        account_id: account_id(n % ACCOUNTS),
        name: KeyName::from_store(NAMES[n % NAMES.len()].repeat(1 + n % 20)),
        key_hash: pepper.hash(&plain),
        pepper_id: PepperId::default(),
        scopes: scopes(n),
        key_prefix: plain.prefix(),
        status: if n % 7 == 3 {
            ApiKeyStatus::Revoked
        } else {
            ApiKeyStatus::Active
        },
        last_used_at: perhaps(n),
        expires_at: perhaps(n / 2),
        created_at: instant(n / 3),
        updated_at: instant(n / 5),
        deleted_at: (n % 11 == 5).then(|| instant(n / 11)),
    }
}

/// Does it work today?
fn works(key: &ApiKey, account: &Account) -> bool {
    let expired = key
        .expires_at
        .is_some_and(|at| at != Timestamp::parse(INSTANTS[5]).unwrap());
    key.status == ApiKeyStatus::Active
        && key.deleted_at.is_none()
        && !expired
        && account.status == AccountStatus::Active
        && account.deleted_at.is_none()
}

/// All records as an export has them, but for their order.
fn archive(pepper: &Pepper) -> String {
    let header = Header {
        secrets: vec![StoredPepper {
            id: PepperId::default(),
            check: pepper.check(),
            audit_key: None,
            dropped_at: None,
        }],
        totals: Totals {
            accounts: u64::try_from(ACCOUNTS).unwrap(),
            keys: u64::try_from(KEYS).unwrap(),
        },
    };
    let mut text = write_header(&header).unwrap() + "\n";
    let accounts = (0..ACCOUNTS).map(|n| Record::Account(account(n)));
    let keys = (0..KEYS).map(|n| Record::Key(key(n, pepper)));
    for record in accounts.chain(keys) {
        writeln!(text, "{}", write_record(&record).unwrap()).unwrap();
    }
    text
}

#[tokio::test]
async fn there_and_back_again_byte_by_byte() {
    let (first, last) = (
        TestDatabase::create_empty().await,
        TestDatabase::create_empty().await,
    );
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let file = format!("sqlite:{}", path("leadr-auth.db"));
    let stores = [first.url(), file.as_str(), last.url()];

    let pepper = Pepper::new(SECRET).unwrap();
    let made = archive(&pepper);
    let mut from = path("made");
    fs::write(&from, &made).unwrap();
    let mut exports = Vec::new();
    for (n, store) in stores.iter().enumerate() {
        let to = path(&format!("export {n}"));
        tool(store, &["migrate"]);
        tool(store, &["import", &from]);
        tool(store, &["export", &to]);
        exports.push(fs::read_to_string(&to).unwrap());
        from = to;
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    assert!(
        lines(&exports[0]) == lines(&made),
        "what was made is not what came out"
    );
    assert!(exports[0] == exports[1], "PostgreSQL and SQLite differ");
    assert!(exports[1] == exports[2], "SQLite and PostgreSQL differ");

    for store in stores {
        let program = env!("CARGO_BIN_EXE_leadr-auth");
        let server = Serving::start(binary(program, store, &["serve"])).await;
        let mut accepted = 0;
        for n in (0..KEYS).step_by(KEYS / TRIED) {
            let key = key(n, &pepper);
            let expected = works(&key, &account(n % ACCOUNTS));
            let may = key.scopes.covers(Right::KeysRead.as_str());
            let path = format!("/v1/api-keys/{}", key.id.as_uuid());
            let (status, _) = server.get(&path, plain(n).expose()).await;
            let wanted = match (expected, may) {
                (false, _) => 401,
                (true, false) => 403,
                (true, true) => 200,
            };
            assert_eq!(status, wanted, "{key:?}");
            accepted += usize::from(expected);
        }
        assert!(accepted > 5 && accepted < TRIED - 5, "{accepted} accepted");
        server.stop();
    }
}
