//! A database that the reference implementation wrote goes on working, row for row.

use leadr_auth_domain::{
    AccountStatus, ApiKeyStatus, Pepper, PepperId, PlainKey, Scopes, Timestamp, Verdict, decide,
};
use leadr_auth_ports::{
    CreateAccountError, KeyFilter, Rows, StoreError,
    contract::fixtures::{account, entry, key},
};
use leadr_auth_postgres::{
    migrate,
    testing::{REFERENCE_KEY as KEY, REFERENCE_SECRET as SECRET, TestDatabase, reference},
};

use crate::change_feed::{news, of_account, of_key};

/// What the reference sees of its rows.
const SNAPSHOT: &str = "
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT (id, name, slug, status, created_at, updated_at, deleted_at)::text AS line FROM accounts
        UNION ALL
        SELECT (id, account_id, name, key_hash, key_prefix, status, last_used_at, expires_at,
            created_at, updated_at, deleted_at)::text FROM api_keys
        UNION ALL SELECT (id, account_id, email)::text FROM users
        UNION ALL SELECT version_num FROM alembic_version
    ) AS lines";

async fn snapshot(database: &TestDatabase) -> String {
    database
        .client()
        .await
        .query_one(SNAPSHOT, &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_stays_as_it_is_and_can_be_read() {
    let database = reference().await;
    let before = snapshot(&database).await;
    migrate::run(&database.config()).await.unwrap();
    assert_eq!(snapshot(&database).await, before);

    let stores = database.stores();
    let accounts = stores.accounts.list().await.unwrap();
    assert_eq!(accounts.len(), 2);
    let odd = accounts
        .iter()
        .find(|account| account.slug.as_str() == "Odd_Slug")
        .unwrap();
    assert_eq!(odd.name.as_str(), "  Odd\n näme ");
    assert_eq!(
        odd.created_at,
        Timestamp::parse("2025-01-01T00:00:00.123456Z").unwrap()
    );
    let nameless = accounts
        .iter()
        .find(|account| account.slug.as_str() == "x")
        .unwrap();
    assert_eq!(nameless.status, AccountStatus::Suspended);
    assert!(stores.accounts.find_operator().await.unwrap().is_none());

    let keys = stores.keys.list(KeyFilter::of(odd.id)).await.unwrap();
    let listed: Vec<_> = keys
        .iter()
        .map(|key| (key.name.as_str(), key.status))
        .collect();
    assert_eq!(
        listed,
        [
            ("", ApiKeyStatus::Revoked),
            ("\tName ", ApiKeyStatus::Active)
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_the_reference_verifies_under_its_secret() {
    let database = reference().await;
    migrate::run(&database.config()).await.unwrap();
    let plain = PlainKey::parse(KEY).unwrap();
    let record = database
        .stores()
        .lookup
        .find(&plain.prefix())
        .await
        .unwrap()
        .unwrap();
    assert!(
        Pepper::new(SECRET)
            .unwrap()
            .verify(&plain, &record.key.key_hash)
    );
    let now = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
    assert_eq!(decide(&record, now), Verdict::Valid);
    // It may do all that its account may, and is under the secret of before there were ids.
    assert_eq!(record.key.scopes, Scopes::All);
    assert_eq!(record.key.pepper_id, PepperId::default());
}

/// During a switch both write to the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_can_write_after_adoption() {
    let database = reference().await;
    migrate::run(&database.config()).await.unwrap();
    let stores = database.stores();
    let client = database.client().await;
    client
        .batch_execute(
            "INSERT INTO accounts (name, slug) VALUES ('New', 'new');
             INSERT INTO api_keys (account_id, name, key_hash, key_prefix)
             SELECT id, 'Key', 'no hash', 'ldr_new' FROM accounts WHERE slug = 'new'",
        )
        .await
        .unwrap();
    let new = stores.accounts.list().await.unwrap();
    let new = new
        .iter()
        .find(|account| account.slug.as_str() == "new")
        .unwrap();
    assert_eq!(stores.keys.count_active(new.id).await.unwrap(), 1);

    let ours = account(1);
    stores.accounts.create(&ours, &entry()).await.unwrap();
    stores.keys.create(&key(1, &ours), &entry()).await.unwrap();
    let seen = client
        .query_one(
            "SELECT count(*) FROM accounts a JOIN api_keys k ON k.account_id = a.id
             WHERE a.slug = $1 AND a.status = 'active' AND k.status = 'active'",
            &[&ours.slug.as_str()],
        )
        .await
        .unwrap();
    assert_eq!(seen.get::<_, i64>(0), 1);
}

/// The reference says nothing of what it changes, and goes on changing things while both serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_reference_changes_is_heard() {
    let database = reference().await;
    migrate::run(&database.config()).await.unwrap();
    let stores = database.stores();
    let client = database.client().await;
    let mut subscription = stores.feed.subscribe().await.unwrap();
    let (prefix, owner) = ("ldr_AAECAwQFBg", "10000000-0000-4000-8000-000000000000");
    let write = |changes: &str| {
        format!(
            "UPDATE api_keys SET account_id = account_id, name = name, key_hash = key_hash, key_prefix = key_prefix,
                expires_at = expires_at, deleted_at = deleted_at, updated_at = '2030-01-01', {changes}
             WHERE key_prefix = '{prefix}'"
        )
    };
    let cases = [
        (
            write("status = status, last_used_at = '2030-01-01'"),
            vec![],
        ),
        (write("status = 'revoked'"), vec![of_key(prefix)]),
        (
            format!("UPDATE accounts SET status = 'suspended' WHERE id = '{owner}'"),
            vec![of_account(owner)],
        ),
        (
            format!("DELETE FROM accounts WHERE id = '{owner}'"),
            vec![of_account(owner), of_key(prefix), of_key("ldr_short")],
        ),
    ];
    for (number, (statement, expected)) in (1..).zip(cases) {
        client.batch_execute(&statement).await.unwrap();
        let heard = news(&stores, &mut subscription, number).await;
        assert_eq!(heard, expected, "{statement}");
    }
}

/// The reference's uniqueness goes over deleted rows too; ours does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_accounts_name_can_be_used_again() {
    for constraint in [false, true] {
        let database = reference().await;
        if constraint {
            // As another version of the reference may have it, under names of its own.
            database
                .client()
                .await
                .batch_execute(
                    "DROP INDEX ix_accounts_name; DROP INDEX ix_accounts_slug;
                     ALTER TABLE accounts ADD CONSTRAINT \"uq Name\" UNIQUE (name);
                     ALTER TABLE accounts ADD CONSTRAINT uq_slug UNIQUE (slug)",
                )
                .await
                .unwrap();
        }
        migrate::run(&database.config()).await.unwrap();
        let stores = database.stores();
        let mut again = account(1);
        again.name = leadr_auth_domain::AccountName::parse("Gone").unwrap();
        again.slug = leadr_auth_domain::Slug::parse("gone").unwrap();
        stores.accounts.create(&again, &entry()).await.unwrap();
        let mut third = account(2);
        third.name = again.name;
        assert!(matches!(
            stores.accounts.create(&third, &entry()).await,
            Err(CreateAccountError::NameTaken)
        ));
    }
}

/// A very early reference had no soft deletion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_without_deletion_gain_it() {
    let database = reference().await;
    database
        .client()
        .await
        .batch_execute(
            "ALTER TABLE accounts DROP COLUMN deleted_at; ALTER TABLE api_keys DROP COLUMN deleted_at",
        )
        .await
        .unwrap();
    migrate::run(&database.config()).await.unwrap();
    assert_eq!(database.stores().accounts.list().await.unwrap().len(), 3);
}

/// What cannot be read is named by table, id and column; its content is not repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_read_is_named() {
    let database = reference().await;
    migrate::run(&database.config()).await.unwrap();
    let client = database.client().await;
    let stores = database.stores();
    let id = "a0000000-0000-4000-8000-000000000000";
    for (column, value) in [("key_prefix", "'AAAA'"), ("key_prefix", "''")] {
        let key_id = leadr_auth_domain::KeyId::new(id.parse().unwrap());
        assert!(stores.keys.get(key_id, Rows::Live).await.unwrap().is_some());
        client
            .batch_execute(&format!(
                "CREATE TEMP TABLE kept AS SELECT * FROM api_keys WHERE id = '{id}';
                 UPDATE api_keys SET {column} = {value} WHERE id = '{id}'"
            ))
            .await
            .unwrap();
        let error = stores.keys.get(key_id, Rows::Live).await.unwrap_err();
        let StoreError::Internal(source) = &error else {
            panic!("{error:?}");
        };
        let text = source.to_string();
        assert!(
            text.contains("api_keys") && text.contains(id) && text.contains(column),
            "{text}"
        );
        assert!(!format!("{error:?}").contains("d4496a40"));
        client
            .batch_execute(&format!(
                "UPDATE api_keys SET {column} = kept.{column} FROM kept WHERE api_keys.id = kept.id;
                 DROP TABLE kept"
            ))
            .await
            .unwrap();
    }
    client
        .batch_execute("ALTER TYPE account_status ADD VALUE 'frozen'")
        .await
        .unwrap();
    client
        .batch_execute("UPDATE accounts SET status = 'frozen' WHERE slug = 'x'")
        .await
        .unwrap();
    let error = stores.accounts.list().await.unwrap_err();
    assert!(matches!(&error, StoreError::Internal(source)
        if source.to_string().contains("30000000-0000-1000-8000-000000000000")));
}
