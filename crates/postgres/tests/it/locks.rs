//! Who waits for whom. The races of the contract suite find a missing lock by luck; here it is found every time, because
//! somebody else holds the row until the adapter is seen to wait for it.

use std::time::Duration;

use leadr_auth_domain::{
    AccountStatus, ApiKey, ApiKeyStatus, ChainId, HashedKey, KeyHash, PepperCheck, PepperId,
    SealedAuditKey,
};
use leadr_auth_ports::{
    AuditQuery, Audited, CreateKeyError, DropPepperError, ImportConflict, ImportMode,
    ImportOutcome, KeyFilter, KeyUse, Rehash, Rows, StoreError, StoredPepper, Stores,
    UpdateAccountError, UpdateKeyError,
    contract::fixtures::{account, at, entry, entry_in, key, noted, report},
};
use leadr_auth_postgres::{Postgres, PostgresConfig, testing::TestDatabase};
use tokio_postgres::Client;

/// A database with one account.
async fn with_owner() -> TestDatabase {
    let database = TestDatabase::create().await;
    database
        .stores()
        .accounts
        .create(&account(1), &entry())
        .await
        .unwrap();
    database
}

/// Somebody who holds what a statement locks until it commits, and somebody who looks on.
pub(crate) async fn hold(database: &TestDatabase, statement: &str) -> (Client, Client) {
    let (holder, watcher) = (database.client().await, database.client().await);
    holder
        .batch_execute(&format!("BEGIN; {statement}"))
        .await
        .unwrap();
    (holder, watcher)
}

/// Until somebody waits for a lock, or it is clear that nobody will.
pub(crate) async fn somebody_waits(client: &Client) {
    so_many_wait(client, 1).await;
}

/// Until at least so many wait for locks, or it is clear that they will not.
pub(crate) async fn so_many_wait(client: &Client, expected: i64) {
    for _ in 0..200 {
        let waiting: i64 = client
            .query_one(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        if waiting >= expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("fewer than {expected} wait for locks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_an_account_sees_the_one_before_it() {
    let database = with_owner().await;
    let (holder, watcher) = hold(&database, "UPDATE accounts SET status = 'suspended'").await;
    let accounts = database.stores().accounts;
    let change = tokio::spawn(async move {
        let mut seen = None;
        accounts
            .update(account(1).id, &mut |account| {
                seen = Some(account.status);
                Ok(noted(account))
            })
            .await
            .unwrap();
        seen
    });
    somebody_waits(&watcher).await;
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(change.await.unwrap(), Some(AccountStatus::Suspended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_key_sees_the_one_before_it() {
    let database = with_owner().await;
    let stored = key(1, &account(1));
    let keys = database.stores().keys;
    keys.create(&stored, &entry()).await.unwrap();
    let (holder, watcher) = hold(&database, "UPDATE api_keys SET status = 'revoked'").await;
    let change = tokio::spawn(async move {
        let mut seen = None;
        keys.update(stored.id, &mut |key| {
            seen = Some(key.status);
            Ok(noted(key))
        })
        .await
        .unwrap();
        seen
    });
    somebody_waits(&watcher).await;
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(change.await.unwrap(), Some(ApiKeyStatus::Revoked));
}

/// Keys can be issued while their account is being changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuing_a_key_does_not_wait_for_a_change_of_its_account() {
    let database = with_owner().await;
    let holder = database.client().await;
    holder
        .batch_execute("BEGIN; SELECT FROM accounts FOR NO KEY UPDATE")
        .await
        .unwrap();
    let create = database.stores().keys;
    let created = tokio::time::timeout(Duration::from_secs(5), async move {
        create.create(&key(1, &account(1)), &entry()).await
    });
    created.await.unwrap().unwrap();
}

/// Keys of the one account, stored from the highest id downwards.
async fn twenty_keys(stores: &Stores) -> Vec<ApiKey> {
    let keys: Vec<_> = (1..=20).rev().map(|n| key(n, &account(1))).collect();
    for key in &keys {
        stores.keys.create(key, &entry()).await.unwrap();
    }
    keys
}

/// What locks that of the keys which has the lowest id.
fn lowest_of(keys: &[ApiKey]) -> String {
    let lowest = keys.iter().map(|key| key.id).min().unwrap();
    format!("SELECT FROM api_keys WHERE id = '{lowest}' FOR UPDATE")
}

/// A key whose row somebody holds is passed over and named: nobody waits for it, and all others are written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_use_of_a_key_that_somebody_holds_is_passed_over() {
    let database = with_owner().await;
    let stores = database.stores();
    let keys = twenty_keys(&stores).await;
    let (holder, _watcher) = hold(&database, &lowest_of(&keys)).await;
    let held = keys.iter().map(|key| key.id).min().unwrap();
    let uses: Vec<_> = keys
        .iter()
        .map(|key| KeyUse {
            key_id: key.id,
            used_at: at(100),
        })
        .collect();
    assert_eq!(stores.usage.record(&uses).await.unwrap(), [held]);
    let owner = account(1).id;
    for key in stores.keys.list(KeyFilter::of(owner)).await.unwrap() {
        let expected = (key.id != held).then_some(at(100));
        assert_eq!(key.last_used_at, expected);
    }
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stores.usage.record(&uses).await.unwrap(), []);
    for key in stores.keys.list(KeyFilter::of(owner)).await.unwrap() {
        assert_eq!(key.last_used_at, Some(at(100)));
    }
    // One that is held and ahead has nothing to be written.
    let (holder, _watcher) = hold(&database, &lowest_of(&keys)).await;
    assert_eq!(stores.usage.record(&uses).await.unwrap(), []);
    holder.batch_execute("COMMIT").await.unwrap();
}

/// A use that was recorded by somebody else meanwhile is not undone by an older one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_use_that_was_passed_over_does_not_go_back_in_time() {
    let database = with_owner().await;
    let stores = database.stores();
    let first = key(1, &account(1));
    stores.keys.create(&first, &entry()).await.unwrap();
    let (holder, _watcher) = hold(
        &database,
        &format!("UPDATE api_keys SET last_used_at = '{}'", at(200)),
    )
    .await;
    let uses = [KeyUse {
        key_id: first.id,
        used_at: at(100),
    }];
    assert_eq!(stores.usage.record(&uses).await.unwrap(), [first.id]);
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stores.usage.record(&uses).await.unwrap(), []);
    let listed = stores
        .keys
        .list(KeyFilter::of(account(1).id))
        .await
        .unwrap();
    assert_eq!(listed.first().unwrap().last_used_at, Some(at(200)));
}

/// Management that waits for locks has connections enough left for verification, and for what proves that it may rely on what
/// it keeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_wait_for_a_lock_do_not_keep_lookups_from_a_connection() {
    let database = with_owner().await;
    let first = key(1, &account(1));
    let direct = database.stores();
    direct.keys.create(&first, &entry()).await.unwrap();
    let config = PostgresConfig {
        pool_size: 5,
        ..database.config()
    };
    let stores = Postgres::new(config).unwrap().stores();
    stores.lookup.find(&first.key_prefix).await.unwrap();
    let (holder, watcher) = hold(&database, "SELECT FROM accounts FOR UPDATE").await;
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let accounts = stores.accounts.clone();
            tokio::spawn(async move {
                let rename = &mut |account| Ok(noted(account));
                accounts.update(account(1).id, rename).await
            })
        })
        .collect();
    so_many_wait(&watcher, 4).await;
    assert!(
        stores
            .lookup
            .find(&first.key_prefix)
            .await
            .unwrap()
            .is_some()
    );
    stores.feed.tick(&report(1, 1)).await.unwrap();
    let load = stores.health.load();
    assert_eq!((load.max, load.in_use), (5, 4));
    holder.batch_execute("COMMIT").await.unwrap();
    for waiter in waiting {
        // Those that found no connection in time are told so.
        if let Err(error) = waiter.await.unwrap() {
            assert!(
                matches!(error, UpdateAccountError::Store(StoreError::Unavailable(_))),
                "{error:?}"
            );
        }
    }
}

/// A secret with a check value of no use.
fn secret(id: &str) -> StoredPepper {
    let check = PepperCheck::from_store("a check value".to_owned());
    StoredPepper::new(
        PepperId::parse(id).unwrap(),
        check,
        SealedAuditKey::from_store("a sealed key".to_owned()),
    )
}

/// A key of the one account, under this secret.
fn key_under(secret: &StoredPepper, n: u8) -> ApiKey {
    let mut key = key(n, &account(1));
    key.pepper_id = secret.id.clone();
    key
}

/// Another hash for a key, under this secret.
fn another_hash(key: &ApiKey, secret: &StoredPepper) -> Rehash {
    Rehash {
        key_id: key.id,
        was: key.key_hash.clone(),
        becomes: HashedKey {
            pepper_id: secret.id.clone(),
            hash: KeyHash::from_store("1".repeat(64)),
        },
    }
}

/// A secret that the store was told of.
async fn registered(stores: &Stores, id: &str) -> StoredPepper {
    let secret = secret(id);
    let registered = stores.secrets.register(&secret, false, &entry()).await;
    registered.unwrap();
    secret
}

/// What of a key a new hash changes, and what it leaves.
async fn hash_of(stores: &Stores, key: &ApiKey) -> (String, PepperId) {
    let key = stores.keys.get(key.id, Rows::Live).await.unwrap().unwrap();
    (key.key_hash.expose_hex().to_owned(), key.pepper_id)
}

/// A key that is being issued while its secret is to be dropped is waited for, and then is in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_waits_for_keys_that_are_being_stored() {
    let database = with_owner().await;
    let stores = database.stores();
    let secret = registered(&stores, "old").await;
    let (holder, watcher) = hold(
        &database,
        "INSERT INTO api_keys (account_id, name, key_hash, key_prefix, pepper_id)
         SELECT id, 'Key', 'no hash', 'ldr_new', 'old' FROM accounts",
    )
    .await;
    let (secrets, id) = (stores.secrets.clone(), secret.id.clone());
    let dropped = tokio::spawn(async move { secrets.drop_pepper(&id, at(9), &entry()).await });
    somebody_waits(&watcher).await;
    holder.batch_execute("COMMIT").await.unwrap();
    assert!(matches!(
        dropped.await.unwrap(),
        Err(DropPepperError::InUse { count: 1, .. })
    ));
}

/// So is a key that is being restored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_waits_for_keys_that_are_being_restored() {
    let database = with_owner().await;
    let stores = database.stores();
    let secret = registered(&stores, "old").await;
    let chain = ChainId::Account(account(1).id);
    let mut key = key_under(&secret, 1);
    key.soft_delete(at(3));
    stores.keys.create(&key, &entry_in(chain)).await.unwrap();
    // Held up when the key is written, and what there is to say of it is not.
    let (holder, watcher) = hold(
        &database,
        &format!(
            "SELECT FROM audit_heads WHERE chain = '{}' FOR UPDATE",
            chain.as_uuid()
        ),
    )
    .await;
    let keys = stores.keys.clone();
    let restored = tokio::spawn(async move {
        keys.update(key.id, &mut |mut key| {
            key.restore(at(5));
            Ok(Audited::new(key, entry_in(chain)))
        })
        .await
    });
    somebody_waits(&watcher).await;
    let (secrets, id) = (stores.secrets.clone(), secret.id.clone());
    let dropped = tokio::spawn(async move { secrets.drop_pepper(&id, at(9), &entry()).await });
    so_many_wait(&watcher, 2).await;
    holder.batch_execute("COMMIT").await.unwrap();
    assert!(!restored.await.unwrap().unwrap().is_deleted());
    assert!(matches!(
        dropped.await.unwrap(),
        Err(DropPepperError::InUse { count: 1, .. })
    ));
}

/// Whoever stores something under a secret that is being dropped waits, and is refused. The drop is held up at its very
/// end, when it has found that no key depends on the secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_while_a_secret_is_dropped_waits_and_is_refused() {
    let database = with_owner().await;
    // Connections made from here on would have a view that is older than the locks that they wait for.
    database
        .client()
        .await
        .batch_execute(
            "DO $$ BEGIN
                 EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''repeatable read''', current_database());
             END $$",
        )
        .await
        .unwrap();
    let stores = database.stores();
    let old = registered(&stores, "old").await;
    let new = registered(&stores, "new").await;
    let other = key_under(&new, 3);
    stores.keys.create(&other, &entry()).await.unwrap();
    let mut deleted = key_under(&old, 4);
    deleted.soft_delete(at(3));
    stores.keys.create(&deleted, &entry()).await.unwrap();
    let (holder, watcher) = hold(&database, "SELECT FROM peppers FOR UPDATE").await;
    let (secrets, id) = (stores.secrets.clone(), old.id.clone());
    let dropped = tokio::spawn(async move { secrets.drop_pepper(&id, at(9), &entry()).await });
    somebody_waits(&watcher).await;

    let (keys, key) = (stores.keys.clone(), key_under(&old, 1));
    let created = tokio::spawn(async move { keys.create(&key, &entry()).await });
    let (transfer, key) = (stores.transfer.clone(), key_under(&old, 2));
    let imported = tokio::spawn(async move {
        transfer
            .import_keys(&[noted(key)], ImportMode::Commit)
            .await
            .unwrap()
    });
    let (secrets, rehash) = (stores.secrets.clone(), another_hash(&other, &old));
    let rehashed = tokio::spawn(async move { secrets.rehash(&[rehash], &entry()).await.unwrap() });
    let (keys, id) = (stores.keys.clone(), deleted.id);
    let restored = tokio::spawn(async move {
        keys.update(id, &mut |mut key| {
            key.restore(at(5));
            Ok(noted(key))
        })
        .await
    });
    so_many_wait(&watcher, 5).await;
    // Verification and lists do not.
    assert_eq!(
        hash_of(&stores, &other).await,
        (other.key_hash.expose_hex().to_owned(), new.id)
    );

    holder.batch_execute("COMMIT").await.unwrap();
    dropped.await.unwrap().unwrap();
    let created = created.await.unwrap();
    assert!(
        matches!(created, Err(CreateKeyError::PepperDropped)),
        "{created:?}"
    );
    assert_eq!(
        imported.await.unwrap(),
        [ImportOutcome::Conflict(ImportConflict::PepperDropped)]
    );
    assert_eq!(rehashed.await.unwrap(), 0);
    let restored = restored.await.unwrap();
    assert!(
        matches!(restored, Err(UpdateKeyError::PepperDropped)),
        "{restored:?}"
    );
    let uses = stores.secrets.count_keys(at(9)).await.unwrap();
    let uses: Vec<_> = uses.iter().map(|used| used.id.as_str()).collect();
    assert_eq!(uses, ["new"]);
}

/// A hash that somebody else gave a key meanwhile is not written over, and the trail does not say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_hash_that_had_to_wait_does_not_undo_another() {
    let database = with_owner().await;
    let stores = database.stores();
    let (one, two) = (key(1, &account(1)), key(2, &account(1)));
    for key in [&one, &two] {
        stores.keys.create(key, &entry()).await.unwrap();
    }
    let id = one.id;
    let (holder, watcher) = hold(
        &database,
        &format!(
            "UPDATE api_keys SET key_hash = 'another', pepper_id = 'another' WHERE id = '{id}'"
        ),
    )
    .await;
    let new = secret("new");
    let batch = [another_hash(&one, &new), another_hash(&two, &new)];
    let secrets = stores.secrets.clone();
    let rehashed = tokio::spawn(async move { secrets.rehash(&batch, &entry()).await });
    somebody_waits(&watcher).await;
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(rehashed.await.unwrap().unwrap(), 1);
    let newest = AuditQuery::of(Some(ChainId::System), 1);
    let listed = stores.audit.page(&newest).await.unwrap().rows;
    assert_eq!(
        listed[0].after.as_ref().unwrap().as_str(),
        format!(r#"{{"key_ids":["{}"],"secret_id":"new"}}"#, two.id)
    );
    let another = PepperId::parse("another").unwrap();
    assert_eq!(
        hash_of(&stores, &one).await,
        ("another".to_owned(), another)
    );
}

/// A change and a use that came meanwhile are kept, and the new hash is written all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_hash_that_had_to_wait_keeps_what_else_was_changed() {
    let database = with_owner().await;
    let stores = database.stores();
    let one = key(1, &account(1));
    stores.keys.create(&one, &entry()).await.unwrap();
    let (holder, watcher) = hold(
        &database,
        "UPDATE api_keys SET name = 'Renamed', scopes = 'docs:read'",
    )
    .await;
    let new = secret("new");
    let (secrets, rehash) = (stores.secrets.clone(), another_hash(&one, &new));
    let rehashed = tokio::spawn(async move { secrets.rehash(&[rehash], &entry()).await });
    somebody_waits(&watcher).await;
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(rehashed.await.unwrap().unwrap(), 1);
    assert_eq!(hash_of(&stores, &one).await, ("1".repeat(64), new.id));
    let read = stores.keys.get(one.id, Rows::Live).await.unwrap();
    let read = read.unwrap();
    assert_eq!(read.name.as_str(), "Renamed");
    assert_eq!(read.scopes.to_store().as_deref(), Some("docs:read"));
    assert_eq!(read.updated_at, one.updated_at);
}

/// As where uses are recorded, so that the two never wait each for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_hashed_anew_from_the_lowest_id_upwards() {
    let database = with_owner().await;
    let stores = database.stores();
    let keys = twenty_keys(&stores).await;
    let (holder, watcher) = hold(&database, &lowest_of(&keys)).await;
    let new = secret("new");
    let named: Vec<_> = keys.iter().map(|key| another_hash(key, &new)).collect();
    let secrets = stores.secrets.clone();
    let rehashed = tokio::spawn(async move { secrets.rehash(&named, &entry()).await });
    somebody_waits(&watcher).await;
    let free = watcher
        .query("SELECT FROM api_keys FOR UPDATE SKIP LOCKED", &[])
        .await
        .unwrap();
    assert_eq!(free.len(), keys.len() - 1);
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(rehashed.await.unwrap().unwrap(), 20);
}
