//! Up, down, up; several that open a file at once; and rules that every table has to keep.

use diesel::{connection::SimpleConnection as _, prelude::*};
use leadr_auth_domain::{Account, ApiKey, Pepper, PepperId, Scopes, Timestamp};
use leadr_auth_ports::{
    Rows, StoreError, StoredPepper,
    contract::fixtures::{SECRET, account, at, entry, fields, key},
};
use leadr_auth_sqlite::{
    IfMissing, Sqlite,
    migrate::{self, MigrateError},
};

use crate::support::{Scratch, sealed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_run_revert_and_run_again() {
    let scratch = Scratch::new();
    let sqlite = Sqlite::open(scratch.config(), IfMissing::Create).unwrap();
    let ping = sqlite.stores().health.ping().await;
    assert!(matches!(ping, Err(StoreError::Unavailable(_))), "{ping:?}");
    assert!(!migrate::at_head(&sqlite).await.unwrap());
    let applied = migrate::run(&sqlite).await.unwrap();
    assert!(!applied.is_empty());
    assert!(applied.is_sorted());
    assert!(migrate::at_head(&sqlite).await.unwrap());
    assert!(migrate::run(&sqlite).await.unwrap().is_empty());

    for version in applied.iter().rev() {
        let reverted = migrate::revert_last(&sqlite).await.unwrap();
        assert_eq!(reverted.as_ref(), Some(version));
    }
    assert_eq!(migrate::revert_last(&sqlite).await.unwrap(), None);
    assert_eq!(migrate::pending(&sqlite).await.unwrap(), applied);

    assert_eq!(migrate::run(&sqlite).await.unwrap(), applied);
    sqlite.stores().health.ping().await.unwrap();
}

/// On a runtime of one thread too, where nothing may block.
#[tokio::test(flavor = "current_thread")]
async fn processes_that_start_together_migrate_once() {
    for _ in 0..20 {
        let scratch = Scratch::new();
        let opened: Vec<_> = (0..3)
            .map(|_| {
                let config = scratch.config();
                std::thread::spawn(move || Sqlite::open(config, IfMissing::Create).unwrap())
            })
            .collect();
        let [one, two, three] = <[Sqlite; 3]>::try_from(
            opened
                .into_iter()
                .map(|open| open.join().unwrap())
                .collect::<Vec<_>>(),
        )
        .unwrap();
        let (first, second, third) =
            tokio::join!(migrate::run(&one), migrate::run(&two), migrate::run(&three));
        let mut applied = [first.unwrap(), second.unwrap(), third.unwrap()];
        applied.sort();
        let [none, none_either, all] = applied;
        assert!(
            none.is_empty() && none_either.is_empty(),
            "each migration runs once"
        );
        assert!(!all.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_fit_needs_a_person() {
    let scratch = Scratch::new();
    let sqlite = Sqlite::open(scratch.config(), IfMissing::Create).unwrap();
    scratch
        .raw()
        .batch_execute("CREATE TABLE api_keys (id INTEGER PRIMARY KEY)")
        .unwrap();
    let error = migrate::run(&sqlite).await.unwrap_err();
    assert!(matches!(error, MigrateError::Failed(_)), "{error:?}");
    // All or nothing.
    assert!(!migrate::at_head(&sqlite).await.unwrap());
    scratch.raw().batch_execute("DROP TABLE api_keys").unwrap();
    migrate::run(&sqlite).await.unwrap();
}

/// The migrations of the versions before, in order.
const BEFORE: [(&str, &str); 2] = [
    (
        "20261122000001",
        include_str!(
            "../../../../migrations/sqlite/20261122000001_create_accounts_and_keys/up.sql"
        ),
    ),
    (
        "20261125000001",
        include_str!(
            "../../../../migrations/sqlite/20261125000001_add_scopes_and_secret_ids/up.sql"
        ),
    ),
];

/// What has run since those.
const NOW: [&str; 5] = [
    "20261125000002",
    "20261125000003",
    "20261130000001",
    "20261130000002",
    "20261130000003",
];

/// A file as the program made it that knew the first so many migrations only, with an account and these keys, and with its
/// secret registered.
fn made_before(scratch: &Scratch, known: usize, keys: &[ApiKey]) {
    drop(Sqlite::open(scratch.config(), IfMissing::Create).unwrap());
    let mut raw = scratch.raw();
    raw.batch_execute(
        "CREATE TABLE __diesel_schema_migrations (
             version VARCHAR(50) PRIMARY KEY NOT NULL,
             run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
         )",
    )
    .unwrap();
    for (version, up) in BEFORE.iter().take(known) {
        raw.batch_execute(up).unwrap();
        raw.batch_execute(&format!(
            "INSERT INTO __diesel_schema_migrations (version) VALUES ('{version}')"
        ))
        .unwrap();
    }
    let owner = account(1);
    let micros = Timestamp::unix_micros;
    let optional =
        |at: Option<Timestamp>| at.map_or("NULL".to_owned(), |at| micros(at).to_string());
    raw.batch_execute(&format!(
        "INSERT INTO accounts VALUES (x'{}', '{}', '{}', 'active', 0, {}, {}, NULL);
         INSERT INTO peppers (id, check_value) VALUES ('default', '{}')",
        owner.id.as_uuid().simple(),
        owner.name,
        owner.slug,
        micros(owner.created_at),
        micros(owner.updated_at),
        Pepper::new(SECRET).unwrap().check().expose_hex(),
    ))
    .unwrap();
    for key in keys {
        raw.batch_execute(&format!(
            "INSERT INTO api_keys (id, account_id, name, key_hash, key_prefix, status, last_used_at, expires_at,
                 created_at, updated_at, deleted_at)
             VALUES (x'{}', x'{}', '{}', '{}', '{}', '{}', {}, {}, {}, {}, {})",
            key.id.as_uuid().simple(),
            key.account_id.as_uuid().simple(),
            key.name,
            key.key_hash.expose_hex(),
            key.key_prefix.as_str(),
            key.status.as_str(),
            optional(key.last_used_at),
            optional(key.expires_at),
            micros(key.created_at),
            micros(key.updated_at),
            optional(key.deleted_at),
        ))
        .unwrap();
    }
}

/// Every key of before may do all that it could, under the secret that there was; the trail begins with nothing; and the way
/// back keeps the keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_versions_before_have_made_is_kept() {
    for known in 1..=BEFORE.len() {
        let scratch = Scratch::new();
        let owner = account(1);
        let mut keys: Vec<_> = (1..=4).map(|n| key(n, &owner)).collect();
        keys[1].revoke(at(20));
        keys[1].record_usage(at(30));
        keys[2].expires_at = Some(at(40));
        keys[3].soft_delete(at(50));
        made_before(&scratch, known, &keys);

        let sqlite = Sqlite::open(scratch.config(), IfMissing::Fail).unwrap();
        let later = BEFORE.iter().skip(known).map(|(version, _)| *version);
        let added: Vec<_> = later.chain(NOW).collect();
        assert_eq!(migrate::pending(&sqlite).await.unwrap(), added);
        for _ in 0..2 {
            assert_eq!(migrate::run(&sqlite).await.unwrap(), added);
            is_kept(&sqlite, &owner, &keys).await;
            for version in added.iter().rev() {
                let reverted = migrate::revert_last(&sqlite).await.unwrap();
                assert_eq!(reverted.as_deref(), Some(*version));
            }
        }
    }
}

async fn is_kept(sqlite: &Sqlite, owner: &Account, keys: &[ApiKey]) {
    let stores = sqlite.stores();
    let kept = stores.accounts.get(owner.id, Rows::Live).await.unwrap();
    assert_eq!(kept.as_ref(), Some(owner));
    for key in keys {
        let read = stores.keys.get(key.id, Rows::WithDeleted).await.unwrap();
        let read = read.unwrap();
        assert_eq!(fields(&read), fields(key));
        assert_eq!(read.scopes, Scopes::All);
        assert_eq!(read.pepper_id.as_str(), "default");
        let found = stores.lookup.find(&key.key_prefix).await.unwrap().unwrap();
        assert_eq!(fields(&found.key), fields(key));
    }
    let registered = stores.secrets.registered().await.unwrap();
    let registered: Vec<_> = registered
        .iter()
        .map(|pepper| {
            (
                pepper.id.as_str(),
                pepper.check.expose_hex(),
                &pepper.audit_key,
                pepper.dropped_at,
            )
        })
        .collect();
    let check = Pepper::new(SECRET).unwrap().check();
    assert_eq!(registered, [("default", check.expose_hex(), &None, None)]);
    let counts = stores.secrets.count_keys(at(39)).await.unwrap();
    let counts: Vec<_> = counts
        .iter()
        .map(|count| (count.id.as_str(), count.keys))
        .collect();
    assert_eq!(counts, [("default", 3)]);
    assert_eq!(sqlite.integrity().await.unwrap(), [""; 0]);
    let mut snapshot = stores.transfer.snapshot().await.unwrap();
    assert_eq!(snapshot.audit_entries(None, 1).await.unwrap(), []);
    assert_eq!(snapshot.audit_heads(None, 1).await.unwrap(), []);
}

#[derive(QueryableByName)]
struct Text {
    #[diesel(sql_type = diesel::sql_types::Text)]
    text: String,
}

fn texts(scratch: &Scratch, query: &str) -> Vec<String> {
    #[expect(clippy::disallowed_methods, reason = "asks about the schema itself")]
    let query = diesel::sql_query(query);
    let rows: Vec<Text> = query.load(&mut scratch.raw()).unwrap();
    rows.into_iter().map(|row| row.text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_an_account_goes_with_it() {
    let scratch = Scratch::new();
    drop(scratch.open().await);
    let rules = texts(
        &scratch,
        "SELECT f.on_delete AS text FROM sqlite_schema s, pragma_foreign_key_list(s.name) f
         WHERE s.type = 'table' AND f.\"table\" = 'accounts'",
    );
    assert_eq!(rules, ["CASCADE"]);
}

/// As in PostgreSQL, for whoever looks into either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_has_the_id_that_it_has_elsewhere() {
    let scratch = Scratch::new();
    let secrets = scratch.open().await.stores().secrets;
    let secret = Pepper::new(SECRET).unwrap();
    let secret = StoredPepper::new(PepperId::default(), secret.check(), sealed(SECRET));
    secrets.register(&secret, false, &entry()).await.unwrap();
    assert_eq!(
        texts(&scratch, "SELECT id AS text FROM peppers"),
        ["default"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_is_strict() {
    let scratch = Scratch::new();
    drop(scratch.open().await);
    let lax = texts(
        &scratch,
        "SELECT name AS text FROM pragma_table_list
         WHERE type = 'table' AND NOT strict AND name NOT LIKE '\\_\\_diesel%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    );
    assert_eq!(lax, [""; 0]);
    for wrong in [
        "INSERT INTO accounts VALUES (x'00', 'n', 's', 'active', 0, 1, 1, NULL)",
        "INSERT INTO accounts VALUES (zeroblob(16), 'n', 's', 'gone', 0, 1, 1, NULL)",
        "INSERT INTO accounts VALUES (zeroblob(16), 'n', 's', 'active', 2, 1, 1, NULL)",
        "INSERT INTO accounts VALUES (zeroblob(16), 'n', 's', 'active', 0, 'now', 1, NULL)",
        "INSERT INTO audit_heads VALUES (x'00', 1, x'00', x'00')",
        "INSERT INTO audit_heads VALUES (NULL, 1, x'00', x'00')",
        "INSERT INTO audit_checkpoints VALUES (x'00', 1, x'00', 1, x'00')",
        "INSERT INTO audit_entries (chain, seq, at, action, actor, previous, hash)
             VALUES (zeroblob(16), 1, 1, 'a', 'nobody', x'00', x'00')",
    ] {
        assert!(scratch.raw().batch_execute(wrong).is_err(), "{wrong}");
    }
}
