//! Keys that are issued at once, and are written together.

use std::{collections::BTreeSet, future::Future, sync::mpsc, time::Duration};

use leadr_auth_domain::{
    AccountId, ApiKey, AuditFault, ChainId, KeyId, PepperCheck, PepperId, SealedAuditKey,
};
use leadr_auth_ports::{
    Audited, CreateKeyError, KeyFilter, Rows, StoreError, StoredPepper, Stores,
    contract::fixtures::{account, at, entry, entry_in, key},
};
use leadr_auth_postgres::{
    Postgres,
    testing::{ChaosProxy, TestDatabase},
};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::{
    audit::faults,
    locks::{hold, so_many_wait, somebody_waits},
};

fn chain(n: u8) -> ChainId {
    ChainId::Account(account(n).id)
}

/// A database with so many accounts, each of which has a chain, and the adapter that made them.
async fn with_accounts(count: u8) -> (TestDatabase, Stores) {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    for n in 1..=count {
        let (owner, entry) = (account(n), entry_in(chain(n)));
        stores.accounts.create(&owner, &entry).await.unwrap();
    }
    (database, stores)
}

/// Issues the `n`th key, which is of this account.
fn issue(
    stores: &Stores,
    n: u8,
    owner: u8,
) -> impl Future<Output = Result<(), CreateKeyError>> + use<> {
    create(stores, key(n, &account(owner)), owner)
}

fn create(
    stores: &Stores,
    key: ApiKey,
    owner: u8,
) -> impl Future<Output = Result<(), CreateKeyError>> + use<> {
    let keys = stores.keys.clone();
    async move { keys.create(&key, &entry_in(chain(owner))).await }
}

/// Somebody who keeps all keys from being inserted until they commit, and somebody who looks on.
async fn hold_all(database: &TestDatabase) -> (Client, Client) {
    hold(database, "LOCK TABLE api_keys").await
}

/// Sees to it that what is created is waiting for the batch that is being written.
async fn queued<T: Send + 'static>(
    created: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<JoinHandle<T>> {
    let created = created.into_iter().map(tokio::spawn).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    created
}

/// In how many transactions these keys were written, one way or another.
async fn transactions(client: &Client) -> usize {
    let rows = client.query("SELECT xmin::text FROM api_keys", &[]).await;
    let ids: BTreeSet<String> = rows.unwrap().iter().map(|row| row.get(0)).collect();
    ids.len()
}

async fn is_there(stores: &Stores, n: u8) -> bool {
    let id = key(n, &account(1)).id;
    let found = stores.keys.get(id, Rows::Live).await;
    found.unwrap().is_some()
}

/// Whoever comes while a batch is written is in the next one, of one account or of several, up to so many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_issued_at_once_are_written_together() {
    let (database, stores) = with_accounts(4).await;
    let (holder, watcher) = hold_all(&database).await;
    let first = tokio::spawn(issue(&stores, 200, 1));
    somebody_waits(&watcher).await;
    // Every second one is of the first account.
    let owner = |n: u8| if n.is_multiple_of(2) { 1 } else { n % 4 + 1 };
    let others = queued((0..100).map(|n| issue(&stores, n, owner(n)))).await;
    holder.batch_execute("COMMIT").await.unwrap();
    for created in others.into_iter().chain([first]) {
        created.await.unwrap().unwrap();
    }
    // The first, and the others, up to 64 of them at once; or one of another chain at the same time as the first, and halves.
    let transactions = transactions(&watcher).await;
    assert!((3..=6).contains(&transactions), "{transactions}");
    for n in 1..=4 {
        let listed = stores.keys.list(KeyFilter::of(account(n).id)).await;
        let expected = (0..100).filter(|key| owner(*key) == n).count() + usize::from(n == 1);
        assert_eq!(listed.unwrap().len(), expected);
        assert_eq!(faults(&stores, chain(n)).await, []);
    }
}

/// What is stored is what was to be, in a batch as elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_batch_are_stored_with_all_that_they_have() {
    let (_database, stores) = with_accounts(2).await;
    let mut full = key(1, &account(1));
    full.last_used_at = Some(at(3));
    full.expires_at = Some(at(4));
    full.revoke(at(5));
    let bare = key(2, &account(2));
    let created = [
        tokio::spawn(create(&stores, full.clone(), 1)),
        tokio::spawn(create(&stores, bare.clone(), 2)),
    ];
    for created in created {
        created.await.unwrap().unwrap();
    }
    for stored in [full, bare] {
        let found = stores.keys.get(stored.id, Rows::WithDeleted).await;
        let fields = leadr_auth_ports::contract::fixtures::fields;
        assert_eq!(fields(&found.unwrap().unwrap()), fields(&stored));
    }
}

fn secret(id: &str) -> StoredPepper {
    StoredPepper::new(
        PepperId::parse(id).unwrap(),
        PepperCheck::from_store("a check value".to_owned()),
        SealedAuditKey::from_store("a sealed key".to_owned()),
    )
}

/// What is wrong with one is told to its own caller, and does no harm to the others: to those of its account neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_one_key_is_its_own_callers() {
    let (database, stores) = with_accounts(5).await;
    for (id, founding) in [("old", true), ("kept", false)] {
        let (secret, entry) = (secret(id), entry());
        let registered = stores.secrets.register(&secret, founding, &entry).await;
        registered.unwrap();
    }
    let old = secret("old").id;
    let dropped = stores.secrets.drop_pepper(&old, at(9), &entry()).await;
    dropped.unwrap();
    stores
        .accounts
        .update(account(2).id, &mut |mut account| {
            account.soft_delete(at(50));
            Ok(Audited::new(account, entry_in(chain(2))))
        })
        .await
        .unwrap();
    issue(&stores, 1, 1).await.unwrap();

    let mut under_old = key(12, &account(3));
    under_old.pepper_id = old;
    let mut taken = key(1, &account(1));
    taken.id = KeyId::from_random_bytes([77; 16]);
    let mut same_id = key(1, &account(4));
    same_id.key_prefix = key(14, &account(4)).key_prefix;
    let mut of_nobody = key(15, &account(5));
    of_nobody.account_id = AccountId::from_random_bytes([78; 16]);
    // A violation has the whole batch fail, so there is one with it and one without.
    for (base, violates) in [(100, false), (120, true)] {
        let (holder, watcher) = hold_all(&database).await;
        let first = tokio::spawn(issue(&stores, base, 1));
        somebody_waits(&watcher).await;
        let mut bad = vec![
            create(&stores, key(11, &account(2)), 2),
            create(&stores, under_old.clone(), 3),
            create(&stores, of_nobody.clone(), 5),
        ];
        if violates {
            bad.push(create(&stores, taken.clone(), 1));
            bad.push(create(&stores, same_id.clone(), 4));
        }
        let bad = queued(bad).await;
        let good = queued((1..=10).map(|n| {
            // The second account is deleted.
            let owner = [1, 3, 4, 5][usize::from(n) % 4];
            issue(&stores, base + n, owner)
        }));
        let good = good.await;
        holder.batch_execute("COMMIT").await.unwrap();
        for created in good.into_iter().chain([first]) {
            created.await.unwrap().unwrap();
        }
        let mut answers = Vec::new();
        for created in bad {
            answers.push(created.await.unwrap().unwrap_err());
        }
        assert!(
            matches!(
                answers[..3],
                [
                    CreateKeyError::AccountNotFound,
                    CreateKeyError::PepperDropped,
                    CreateKeyError::AccountNotFound
                ]
            ),
            "{answers:?}"
        );
        if violates {
            assert!(
                matches!(
                    answers[3..],
                    [
                        CreateKeyError::PrefixTaken,
                        CreateKeyError::Store(StoreError::Internal(_))
                    ]
                ),
                "{answers:?}"
            );
        }
    }
    for n in 1..=5 {
        assert_eq!(faults(&stores, chain(n)).await, [], "{n}");
    }
}

/// One who goes away while it waits leaves nothing, and one who goes away while it is written takes nobody with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_harms_nobody() {
    let (database, stores) = with_accounts(2).await;
    // Prepares the statement, which waits for locks too, and gives them up again.
    issue(&stores, 20, 1).await.unwrap();
    let (holder, watcher) = hold_all(&database).await;
    let first = tokio::spawn(issue(&stores, 1, 1));
    somebody_waits(&watcher).await;
    let created = queued((2..=5).map(|n| issue(&stores, n, 1))).await;
    created[0].abort();
    // Comes before the second batch, and holds it up.
    let (next, holding) = (database.client().await, database.client().await);
    let locking = tokio::spawn(async move {
        next.batch_execute("BEGIN; LOCK TABLE api_keys")
            .await
            .unwrap();
        next
    });
    so_many_wait(&watcher, 2).await;
    holder.batch_execute("COMMIT").await.unwrap();
    let next = locking.await.unwrap();
    first.await.unwrap().unwrap();
    somebody_waits(&holding).await;
    created[1].abort();
    next.batch_execute("COMMIT").await.unwrap();
    for created in created.into_iter().skip(2) {
        created.await.unwrap().unwrap();
    }
    assert!(!is_there(&stores, 2).await, "it was not begun");
    for n in [1, 3, 4, 5] {
        assert!(is_there(&stores, n).await, "{n}");
    }
    assert_eq!(transactions(&watcher).await, 3);
    for n in 1..=2 {
        assert_eq!(faults(&stores, chain(n)).await, []);
    }
}

/// While one batch is held up, another is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_batches_are_underway_at_once() {
    let (database, stores) = with_accounts(2).await;
    let same_prefix = format!(
        "INSERT INTO api_keys (account_id, name, key_hash, key_prefix) VALUES ('{}', '', '', '{}')",
        account(1).id,
        key(1, &account(1)).key_prefix
    );
    let (holder, watcher) = hold(&database, &same_prefix).await;
    let first = tokio::spawn(issue(&stores, 1, 1));
    somebody_waits(&watcher).await;
    for n in 2..=5 {
        let other = tokio::time::timeout(Duration::from_secs(5), issue(&stores, n, 2));
        other.await.unwrap().unwrap();
    }
    holder.batch_execute("ROLLBACK").await.unwrap();
    first.await.unwrap().unwrap();
    for n in 1..=2 {
        assert_eq!(faults(&stores, chain(n)).await, []);
    }
}

/// Whatever of an account somebody else has locked, those who wait for it are those of this account; and they are in company
/// when they may go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_waits_for_nobody() {
    for held in [
        format!(
            "SELECT FROM audit_heads WHERE chain = '{}' FOR UPDATE",
            chain(1)
        ),
        format!(
            "SELECT FROM accounts WHERE id = '{}' FOR UPDATE",
            account(1).id
        ),
    ] {
        let (database, stores) = with_accounts(2).await;
        let (holder, watcher) = hold(&database, &held).await;
        let first = tokio::spawn(issue(&stores, 1, 1));
        somebody_waits(&watcher).await;
        let others = queued((2..=9).map(|n| issue(&stores, n, 1))).await;
        let other = tokio::time::timeout(Duration::from_secs(5), issue(&stores, 10, 2));
        other.await.unwrap().unwrap();
        holder.batch_execute("COMMIT").await.unwrap();
        for created in others.into_iter().chain([first]) {
            created.await.unwrap().unwrap();
        }
        assert_eq!(transactions(&watcher).await, 3, "{held}");
        for n in 1..=2 {
            assert_eq!(faults(&stores, chain(n)).await, []);
        }
    }
}

/// Two that write to all the same chains, from both ends, each of which knows only how they ended when it wrote last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_write_to_the_same_chains_do_not_wait_for_each_other() {
    let (database, _) = with_accounts(12).await;
    let nodes = [database.stores(), database.stores()];
    for round in 0..5 {
        let created: Vec<_> = (0..24)
            .map(|n| {
                let is_first = n < 12;
                let owner = if is_first { n + 1 } else { 24 - n };
                let node = &nodes[usize::from(is_first)];
                tokio::spawn(issue(node, round * 24 + n, owner))
            })
            .collect();
        for created in created {
            created.await.unwrap().unwrap();
        }
    }
    for n in 1..=12 {
        assert_eq!(faults(&nodes[0], chain(n)).await, Vec::<AuditFault>::new());
    }
    let listed = nodes[1].keys.list(KeyFilter::of(account(1).id)).await;
    assert_eq!(listed.unwrap().len(), 10);
}

/// When nobody is there to say what became of a batch, its members hear so, and so does whoever cannot be written after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_in_a_batch_that_was_lost_hears_so() {
    let (database, direct) = with_accounts(2).await;
    let mut proxy = ChaosProxy::start(database.url()).await;
    let mut config = database.config();
    config.url = proxy.url(database.url());
    let stores = Postgres::new(config).unwrap().stores();
    let (holder, watcher) = hold_all(&database).await;
    let first = tokio::spawn(issue(&stores, 1, 1));
    somebody_waits(&watcher).await;
    let others = queued((2..=9).map(|n| issue(&stores, n, n % 2 + 1))).await;
    proxy.cut().await;
    for created in others.into_iter().chain([first]) {
        let error = created.await.unwrap().unwrap_err();
        assert!(
            matches!(error, CreateKeyError::Store(StoreError::Unavailable(_))),
            "{error:?}"
        );
    }
    proxy.restore().await;
    holder.batch_execute("COMMIT").await.unwrap();
    issue(&stores, 20, 1).await.unwrap();
    issue(&direct, 21, 1).await.unwrap();
    assert_eq!(faults(&stores, chain(1)).await, []);
}

/// A batch ends with the runtime of who leads it. Who waits for the next one then sees to itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_left_waiting_by_a_runtime_that_ends() {
    let (database, stores) = with_accounts(2).await;
    let (holder, watcher) = hold_all(&database).await;
    let leading = issue(&stores, 1, 1);
    let (end, ended) = mpsc::channel::<()>();
    let leads = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let led = runtime.spawn(leading);
        ended.recv().unwrap();
        runtime.shutdown_timeout(Duration::from_secs(5));
        drop(led);
    });
    somebody_waits(&watcher).await;
    let waiting = queued((2..=5).map(|n| issue(&stores, n, 1))).await;
    end.send(()).unwrap();
    leads.join().unwrap();
    // Each on its own, and held up as well.
    so_many_wait(&watcher, 4).await;
    holder.batch_execute("COMMIT").await.unwrap();
    for created in waiting {
        created.await.unwrap().unwrap();
    }
    // And there is somebody to lead again.
    issue(&stores, 6, 1).await.unwrap();
    for n in 1..=2 {
        assert_eq!(faults(&stores, chain(n)).await, []);
    }
}

/// What is looked at, and written, for a group is what all in it have in common.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_differ_stay_apart_in_one_chain() {
    let (database, stores) = with_accounts(2).await;
    stores.audit.append(&entry()).await.unwrap();
    let (holder, watcher) = hold_all(&database).await;
    let first = tokio::spawn(issue(&stores, 1, 1));
    somebody_waits(&watcher).await;
    let mut under_another = key(4, &account(1));
    under_another.pepper_id = PepperId::parse("another").unwrap();
    let keys = [key(2, &account(1)), key(3, &account(2)), under_another];
    let created = queued(keys.clone().map(|key| {
        let stores = stores.clone();
        async move { stores.keys.create(&key, &entry()).await }
    }));
    let created = created.await;
    holder.batch_execute("COMMIT").await.unwrap();
    for created in created.into_iter().chain([first]) {
        created.await.unwrap().unwrap();
    }
    for expected in keys {
        let found = stores.keys.get(expected.id, Rows::Live).await;
        let found = found.unwrap().unwrap();
        assert_eq!(found.account_id, expected.account_id);
        assert_eq!(found.pepper_id, expected.pepper_id);
    }
    assert_eq!(faults(&stores, ChainId::System).await, []);
}

/// Where a genuine head was put back and the entry behind it taken away, no other gets its number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_was_put_back_is_not_followed() {
    let (database, stores) = with_accounts(1).await;
    let client = database.client().await;
    client
        .batch_execute("CREATE TABLE kept AS SELECT * FROM audit_heads")
        .await
        .unwrap();
    for n in 1..=3 {
        issue(&stores, n, 1).await.unwrap();
    }
    client
        .batch_execute(
            "UPDATE audit_heads SET seq = kept.seq, hash = kept.hash, code = kept.code FROM kept;
             DELETE FROM audit_entries WHERE seq = 2",
        )
        .await
        .unwrap();
    issue(&database.stores(), 4, 1).await.unwrap();
    let missing = AuditFault::Missing { from: 2, to: 2 };
    assert!(faults(&stores, chain(1)).await.contains(&missing));
}
