//! Everything out, also of databases that are not ours; and many records in.

use std::time::Duration;

use leadr_auth_domain::{
    AccountRole, AccountStatus, ApiKeyStatus, PepperCheck, PepperId, Scopes, SealedAuditKey,
    Timestamp,
};
use leadr_auth_ports::{
    ImportConflict, ImportMode, ImportOutcome, Rows, StoredPepper, Totals, TransferStore,
    contract::fixtures::{account, all_noted, at, entry, fields, key},
};
use leadr_auth_postgres::{
    migrate,
    testing::{TestDatabase, reference},
};
use tokio_postgres::Client;
use uuid::Uuid;

/// All that is said about a database: its catalogue, and every row.
pub(crate) async fn everything(client: &Client) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let tables = client
        .query(
            "SELECT c.oid::regclass::text FROM pg_class c
             WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    for table in tables {
        let table: String = table.get(0);
        let rows = client
            .query(
                &format!("SELECT xmin::text || t::text FROM {table} t ORDER BY 1"),
                &[],
            )
            .await
            .unwrap();
        lines.extend(
            rows.iter()
                .map(|row| format!("{table}: {}", row.get::<_, String>(0))),
        );
    }
    let catalogue = client
        .query(
            "SELECT relname::text || relkind::text || coalesce(
                 (SELECT string_agg(attname || ' ' || atttypid::regtype, ',' ORDER BY attnum)
                  FROM pg_attribute WHERE attrelid = c.oid), '')
             FROM pg_class c WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    lines.extend(catalogue.iter().map(|row| row.get(0)));
    lines
}

/// A secret with a check value of no use.
fn pepper(id: &str) -> StoredPepper {
    let check = PepperCheck::from_store("a check value".to_owned());
    StoredPepper::new(
        PepperId::parse(id).unwrap(),
        check,
        SealedAuditKey::from_store("a sealed key".to_owned()),
    )
}

/// So can one of the version before this, whose keys knew of one secret and of no scopes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_the_version_before_can_be_exported_as_it_is() {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    let secret = pepper("default");
    stores
        .secrets
        .register(&secret, false, &entry())
        .await
        .unwrap();
    stores.accounts.create(&account(1), &entry()).await.unwrap();
    let held = key(1, &account(1));
    stores.keys.create(&held, &entry()).await.unwrap();
    for version in [
        "20261130000003",
        "20261130000002",
        "20261130000001",
        "20261126000001",
        "20261125000004",
        "20261125000002",
        "20261125000001",
    ] {
        let reverted = migrate::revert_last(&database.config()).await.unwrap();
        assert_eq!(reverted.as_deref(), Some(version));
    }
    let client = database.client().await;
    let before = everything(&client).await;

    let mut snapshot = database.stores().transfer.snapshot().await.unwrap();
    let secrets = snapshot.secrets().await.unwrap();
    let read: Vec<_> = secrets
        .iter()
        .map(|pepper| (&pepper.id, pepper.check.expose_hex(), pepper.dropped_at))
        .collect();
    assert_eq!(read, [(&secret.id, "a check value", None)]);
    let keys = snapshot.keys(None, 100).await.unwrap();
    let read: Vec<_> = keys.iter().map(fields).collect();
    assert_eq!(read, [fields(&held)]);
    assert_eq!(snapshot.audit_entries(None, 100).await.unwrap(), []);
    assert_eq!(snapshot.audit_heads(None, 100).await.unwrap(), []);
    assert_eq!(snapshot.audit_checkpoints(None, 100).await.unwrap(), []);
    drop(snapshot);

    assert_eq!(everything(&client).await, before);
}

/// What the reference wrote can be exported without being adopted, whichever of its versions wrote it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_the_reference_can_be_exported_as_it_is() {
    for (version, change, deleted) in [
        ("its latest", "", true),
        (
            "one without deletion",
            "ALTER TABLE accounts DROP COLUMN deleted_at; ALTER TABLE api_keys DROP COLUMN deleted_at",
            false,
        ),
        (
            "one with texts for statuses",
            "ALTER TABLE accounts ALTER status DROP DEFAULT, ALTER status TYPE varchar USING status::text;
             ALTER TABLE api_keys ALTER status DROP DEFAULT, ALTER status TYPE varchar USING status::text;
             DROP TYPE account_status; DROP TYPE api_key_status",
            true,
        ),
        (
            "one with instants without a zone",
            "ALTER TABLE accounts ALTER created_at TYPE timestamp USING created_at AT TIME ZONE 'UTC',
                 ALTER deleted_at TYPE timestamp USING deleted_at AT TIME ZONE 'UTC';
             ALTER TABLE api_keys ALTER last_used_at TYPE timestamp USING last_used_at AT TIME ZONE 'UTC',
                 ALTER created_at TYPE timestamp USING created_at AT TIME ZONE 'UTC';
             DO $$ BEGIN
                 EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Kolkata''', current_database());
             END $$",
            true,
        ),
    ] {
        let database = reference().await;
        let client = database.client().await;
        client.batch_execute(change).await.unwrap();
        let before = everything(&client).await;

        let mut snapshot = database.stores().transfer.snapshot().await.unwrap();
        assert!(snapshot.secrets().await.unwrap().is_empty(), "{version}");
        let totals = Totals {
            accounts: 3,
            keys: 3,
        };
        assert_eq!(snapshot.totals().await.unwrap(), totals, "{version}");
        let accounts = snapshot.accounts(None, 100).await.unwrap();
        let read: Vec<_> = accounts
            .iter()
            .map(|account| (account.slug.as_str(), account.status, account.is_deleted()))
            .collect();
        assert_eq!(
            read,
            [
                ("Odd_Slug", AccountStatus::Active, false),
                ("gone", AccountStatus::Suspended, deleted),
                ("x", AccountStatus::Suspended, false),
            ],
            "{version}"
        );
        assert!(accounts.iter().all(|account| account.role == AccountRole::Tenant));
        let made = Timestamp::parse("2025-01-01T00:00:00.123456Z").unwrap();
        assert_eq!(accounts[0].created_at, made, "{version}");
        let keys = snapshot.keys(None, 100).await.unwrap();
        let read: Vec<_> = keys
            .iter()
            .map(|key| (key.key_prefix.as_str(), key.status, key.is_deleted()))
            .collect();
        assert_eq!(
            read,
            [
                ("ldr_AAECAwQFBg", ApiKeyStatus::Active, false),
                ("ldr_short", ApiKeyStatus::Revoked, false),
                ("ldr_deleted", ApiKeyStatus::Active, deleted),
            ],
            "{version}"
        );
        let used = Timestamp::parse("2025-02-01T00:00:00.000001Z").unwrap();
        assert_eq!(keys[0].last_used_at, Some(used), "{version}");
        assert!(keys.iter().all(|key| key.pepper_id == PepperId::default()), "{version}");
        assert!(keys.iter().all(|key| key.scopes == Scopes::All), "{version}");
        drop(snapshot);

        assert_eq!(everything(&client).await, before, "{version}");
    }
}

/// A database with other tables, or none, has nothing to give, and that is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_store_cannot_be_exported() {
    let database = TestDatabase::create_empty().await;
    let refused = database.stores().transfer.snapshot().await;
    let Err(leadr_auth_ports::StoreError::Internal(source)) = refused else {
        panic!("an empty database is no store");
    };
    assert_eq!(
        source.to_string(),
        "the database has no table accounts with a column id"
    );
}

/// The view is taken when the snapshot is there, not when it is first read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_taken_at_once() {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    let mut snapshot = stores.transfer.snapshot().await.unwrap();
    stores.accounts.create(&account(1), &entry()).await.unwrap();
    stores
        .secrets
        .register(&pepper("late"), false, &entry())
        .await
        .unwrap();
    assert_eq!(snapshot.totals().await.unwrap(), Totals::default());
    assert!(snapshot.secrets().await.unwrap().is_empty());
}

/// How many connections of snapshots there are.
async fn snapshots(client: &Client) -> i64 {
    let count = client.query_one(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'leadr-auth snapshot'",
        &[],
    );
    count.await.unwrap().get(0)
}

/// A snapshot takes no connection of the pool, and leaves none open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_has_a_connection_of_its_own() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let mut config = database.config();
    config.pool_size = 1;
    config.statement_timeout = Duration::from_secs(1);
    let stores = leadr_auth_postgres::Postgres::new(config).unwrap().stores();
    let snapshot = stores.transfer.snapshot().await.unwrap();
    assert_eq!(snapshots(&client).await, 1);
    stores.accounts.create(&account(1), &entry()).await.unwrap();
    // Longer than a transaction of the pool may be idle: its reader may be slow.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut snapshot = snapshot;
    assert_eq!(snapshot.totals().await.unwrap(), Totals::default());
    let load = stores.health.load();
    assert_eq!((load.max, load.open, load.in_use), (1, 1, 0));
    drop(snapshot);
    for _ in 0..100 {
        if snapshots(&client).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the snapshot's connection stays open");
}

/// Pages are ranges of an index: the last of many costs what the first does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_store_goes_out_and_in() {
    const MANY: u32 = 20_000;
    let (from, to) = (TestDatabase::create().await, TestDatabase::create().await);
    from.client()
        .await
        .batch_execute(&format!(
            "INSERT INTO accounts (name, slug) SELECT 'Account ' || n, 'account-' || n FROM generate_series(1, 50) n;
             INSERT INTO api_keys (account_id, name, key_hash, key_prefix)
             SELECT id, 'Key', repeat('0', 64), 'ldr_' || slug || '-' || n
             FROM accounts, generate_series(1, {MANY} / 50) n"
        ))
        .await
        .unwrap();
    let mut snapshot = from.stores().transfer.snapshot().await.unwrap();
    let transfer = to.stores().transfer;
    let accounts = snapshot.accounts(None, 1000).await.unwrap();
    let outcomes = transfer
        .import_accounts(&all_noted(&accounts), ImportMode::Commit)
        .await
        .unwrap();
    assert_eq!(outcomes, [ImportOutcome::Stored; 50]);
    let mut after = None;
    loop {
        let page = snapshot.keys(after, 1000).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        let outcomes = transfer
            .import_keys(&all_noted(&page), ImportMode::Commit)
            .await
            .unwrap();
        assert!(
            outcomes
                .iter()
                .all(|outcome| *outcome == ImportOutcome::Stored)
        );
    }
    let mut copy = transfer.snapshot().await.unwrap();
    assert_eq!(
        copy.totals().await.unwrap(),
        snapshot.totals().await.unwrap()
    );
    // More than fit into one statement, and none of them new.
    let all = snapshot.keys(None, MANY).await.unwrap();
    assert_eq!(all.len(), usize::try_from(MANY).unwrap());
    let again = transfer
        .import_keys(&all_noted(&all), ImportMode::Commit)
        .await
        .unwrap();
    assert!(
        again
            .iter()
            .all(|outcome| *outcome == ImportOutcome::Present)
    );
    let copied = copy.keys(None, MANY).await.unwrap();
    assert!(
        copied
            .iter()
            .zip(&all)
            .all(|(copied, key)| fields(copied) == fields(key))
    );
}

/// Conflicts are found across the statements of one call, too, and the first of two is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_several_statements_is_one_import() {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    let owner = account(1);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    let mut keys = Vec::new();
    for n in 0..2500_u32 {
        let mut key = key(1, &owner);
        key.id = leadr_auth_domain::KeyId::new(Uuid::from_u128(u128::from(u32::MAX - n)));
        key.key_prefix = leadr_auth_domain::KeyPrefix::parse(&format!("ldr_{}", n % 2000)).unwrap();
        keys.push(key);
    }
    for mode in [ImportMode::DryRun, ImportMode::Commit] {
        let outcomes = stores
            .transfer
            .import_keys(&all_noted(&keys), mode)
            .await
            .unwrap();
        for (n, outcome) in outcomes.iter().enumerate() {
            let expected = if n < 2000 {
                ImportOutcome::Stored
            } else {
                ImportOutcome::Conflict(ImportConflict::PrefixTaken)
            };
            assert_eq!(*outcome, expected, "{n} {mode:?}");
        }
    }
    assert_eq!(stores.keys.count_active(owner.id).await.unwrap(), 2000);
}

/// Of many keys those are left out whose secret was dropped, and the others are stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_dropped_secret_are_left_out() {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    let owner = account(1);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    for id in ["dropped", "kept"] {
        stores
            .secrets
            .register(&pepper(id), false, &entry())
            .await
            .unwrap();
    }
    let dropped = pepper("dropped").id;
    stores
        .secrets
        .drop_pepper(&dropped, at(1), &entry())
        .await
        .unwrap();
    let mut keys: Vec<_> = (1..=4).map(|n| key(n, &owner)).collect();
    let ids = ["dropped", "kept", "never registered", "dropped"];
    for (key, id) in keys.iter_mut().zip(ids) {
        key.pepper_id = PepperId::from_store(id.to_owned());
    }
    let refused = ImportOutcome::Conflict(ImportConflict::PepperDropped);
    for mode in [ImportMode::DryRun, ImportMode::Commit] {
        assert_eq!(
            stores
                .transfer
                .import_keys(&all_noted(&keys), mode)
                .await
                .unwrap(),
            [
                refused,
                ImportOutcome::Stored,
                ImportOutcome::Stored,
                refused
            ]
        );
    }
    assert_eq!(stores.keys.count_active(owner.id).await.unwrap(), 2);
}

/// A deleted account takes no name, also where it is in the same call and there already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_account_is_in_nobodys_way() {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    let mut gone = account(1);
    gone.soft_delete(at(9));
    for there in [&gone, &account(2)] {
        stores.accounts.create(there, &entry()).await.unwrap();
    }
    let mut heir = account(3);
    heir.name = gone.name.clone();
    heir.slug = account(2).slug;
    let outcomes = stores
        .transfer
        .import_accounts(&all_noted(&[gone, heir]), ImportMode::Commit)
        .await
        .unwrap();
    assert_eq!(
        outcomes,
        [
            ImportOutcome::Present,
            ImportOutcome::Conflict(ImportConflict::SlugTaken)
        ]
    );
}

/// An import that fails has done nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_fails_leaves_nothing() {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    let mut bad = account(2);
    bad.name = leadr_auth_domain::AccountName::from_store("a NUL: \0".to_owned());
    let all = [account(1), bad];
    stores
        .transfer
        .import_accounts(&all_noted(&all), ImportMode::Commit)
        .await
        .unwrap_err();
    assert!(stores.accounts.is_empty().await.unwrap());
}

/// Two imports of the same records: each is stored by one, and present for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_imports_at_once_store_each_record_once() {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    let accounts: Vec<_> = (1..=200).map(account).collect();
    let import = |transfer: std::sync::Arc<dyn TransferStore>| {
        let accounts = accounts.clone();
        tokio::spawn(async move {
            transfer
                .import_accounts(&all_noted(&accounts), ImportMode::Commit)
                .await
                .unwrap()
        })
    };
    let (one, two) = (
        import(stores.transfer.clone()),
        import(stores.transfer.clone()),
    );
    for outcomes in one.await.unwrap().into_iter().zip(two.await.unwrap()) {
        assert!(matches!(
            outcomes,
            (ImportOutcome::Stored, ImportOutcome::Present)
                | (ImportOutcome::Present, ImportOutcome::Stored)
        ));
    }
}

/// An account is not deleted under the keys that are being imported for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_an_account_that_goes_are_left_out() {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    stores.accounts.create(&account(1), &entry()).await.unwrap();
    let (holder, watcher) = crate::locks::hold(&database, "DELETE FROM accounts").await;
    let transfer = stores.transfer.clone();
    let import = tokio::spawn(async move {
        let keys = [key(1, &account(1))];
        transfer
            .import_keys(&all_noted(&keys), ImportMode::Commit)
            .await
    });
    crate::locks::somebody_waits(&watcher).await;
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(
        import.await.unwrap().unwrap(),
        [ImportOutcome::Conflict(ImportConflict::AccountMissing)]
    );
    let kept = stores.keys.get(key(1, &account(1)).id, Rows::WithDeleted);
    assert!(kept.await.unwrap().is_none());
}
