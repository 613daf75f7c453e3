//! Who hears of changes: of those of the process itself, and of those of others who have opened the file.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use leadr_auth_domain::{Account, AccountName, ApiKey, HashedKey, KeyId, KeyRefusal};
use leadr_auth_ports::{
    Change, CreateKeyError, Heard, ImportMode, ImportOutcome, KeyUse, NodeReport, Rehash, Signal,
    StoreError, StoreLoad, Stores, Subscription, UpdateKeyError,
    contract::fixtures::{self, account, all_noted, at, entry, heard, key, noted},
};
use leadr_auth_sqlite::{IfMissing, Sqlite, migrate};
use tokio::time::{sleep, timeout};

use crate::support::{Scratch, fresh, opened_twice};

fn report(number: u64) -> NodeReport {
    fixtures::report(1, number)
}

fn tick(number: u64) -> Heard {
    fixtures::tick(&report(number))
}

fn everything() -> Heard {
    Heard::Change(Change::Everything)
}

/// What is heard up to a tick that is sent now; without it.
async fn heard_until_tick(
    stores: &Stores,
    subscription: &mut Box<dyn Subscription>,
    number: u64,
) -> Vec<Heard> {
    fixtures::heard_until_tick(stores, subscription, &report(number)).await
}

async fn revoke(stores: &Stores, id: KeyId) {
    let revoke = &mut |mut key: ApiKey| {
        key.revoke(at(9));
        Ok(noted(key))
    };
    stores.keys.update(id, revoke).await.unwrap();
}

/// An account and its first key.
async fn with_key(stores: &Stores) -> KeyId {
    let owner = account(1);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    stores.keys.create(&key(1, &owner), &entry()).await.unwrap();
    key(1, &owner).id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_process_changes_is_heard_within_a_second() {
    let (_scratch, server, tool) = opened_twice().await;
    let id = with_key(&server).await;
    let mut subscription = server.feed.subscribe().await.unwrap();
    revoke(&tool, id).await;
    let next = timeout(Duration::from_secs(1), subscription.next()).await;
    assert_eq!(next.expect("within a second").unwrap(), everything());
    let quiet = timeout(Duration::from_millis(300), subscription.next()).await;
    assert!(quiet.is_err(), "once is enough: {quiet:?}");
}

/// Whatever the process that hears it does in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_process_changes_is_heard_before_a_later_signal() {
    let (scratch, server, tool) = opened_twice().await;
    let id = with_key(&server).await;
    let prefix = key(1, &account(1)).key_prefix;
    let mut subscription = server.feed.subscribe().await.unwrap();
    let mut number = 0;
    for round in 0..10 {
        revoke(&tool, id).await;
        number += 1;
        let heard = heard_until_tick(&server, &mut subscription, number).await;
        assert_eq!(heard, [everything()], "{round}: asked at the tick");

        scratch
            .raw()
            .batch_execute("UPDATE api_keys SET status = 'active'")
            .unwrap();
        let used_at = at(100 + round);
        let used = [KeyUse {
            key_id: id,
            used_at,
        }];
        server.usage.record(&used).await.unwrap();
        revoke(&server, id).await;
        number += 1;
        let heard = heard_until_tick(&server, &mut subscription, number).await;
        // It may have been asked between the two.
        for expected in [everything(), Heard::Change(Change::Key(prefix.clone()))] {
            let times = heard.iter().filter(|heard| **heard == expected).count();
            assert_eq!(times, 1, "{round}: our own commit hides nothing: {heard:?}");
        }
        assert_eq!(heard.len(), 2, "{round}: {heard:?}");
    }
    revoke(&tool, id).await;
    let farewell = Signal::Farewell(report(1).id);
    server.feed.send(&farewell).await.unwrap();
    assert_eq!(heard(&mut subscription).await, everything());
    assert_eq!(heard(&mut subscription).await, Heard::Signal(farewell));
}

/// A migration has a connection of its own, as another process does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_migrated_is_heard_and_what_is_only_read_is_not() {
    let scratch = Scratch::new();
    let sqlite = scratch.open().await;
    let stores = sqlite.stores();
    with_key(&stores).await;
    let mut subscription = stores.feed.subscribe().await.unwrap();
    assert_eq!(
        heard_until_tick(&stores, &mut subscription, 1).await,
        [],
        "the migrations were before"
    );
    sqlite
        .backup(&scratch.folder().join("backup.db"))
        .await
        .unwrap();
    assert_eq!(sqlite.integrity().await.unwrap(), [] as [String; 0]);
    assert_eq!(migrate::run(&sqlite).await.unwrap(), [] as [String; 0]);
    drop(Sqlite::open(scratch.config(), IfMissing::Fail).unwrap());
    assert_eq!(heard_until_tick(&stores, &mut subscription, 2).await, []);
    migrate::revert_last(&sqlite).await.unwrap();
    let heard = heard_until_tick(&stores, &mut subscription, 3).await;
    assert!(heard.contains(&everything()), "{heard:?}");
    migrate::run(&sqlite).await.unwrap();
    let heard = heard_until_tick(&stores, &mut subscription, 4).await;
    assert!(heard.contains(&everything()), "{heard:?}");
}

/// A server notes uses twice a second, and must not forget all that it knows each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_what_is_changed_here_exactly_that_is_heard() {
    // Open elsewhere too, where nothing is done.
    let (_scratch, stores, _tool) = opened_twice().await;
    let owner = account(1);
    let mut subscription = stores.feed.subscribe().await.unwrap();
    stores.accounts.create(&owner, &entry()).await.unwrap();
    let mut expected = Vec::new();
    let mut number = 0;
    for n in 1..=5_u8 {
        let made = key(n, &owner);
        let changed = Heard::Change(Change::Key(made.key_prefix.clone()));
        stores.keys.create(&made, &entry()).await.unwrap();
        expected.push(changed.clone());
        let used_at = at(u32::from(n) + 100);
        let key_id = made.id;
        let uses = [KeyUse { key_id, used_at }];
        stores.usage.record(&uses).await.unwrap();
        stores.audit.append(&entry()).await.unwrap();
        revoke(&stores, made.id).await;
        expected.push(changed.clone());
        let rename = &mut |mut account: Account| {
            account.name = AccountName::parse(&format!("Renamed {n}")).unwrap();
            Ok(noted(account))
        };
        stores.accounts.update(owner.id, rename).await.unwrap();
        expected.push(Heard::Change(Change::Account(owner.id)));
        let rehash = Rehash {
            key_id: made.id,
            was: made.key_hash.clone(),
            becomes: HashedKey {
                pepper_id: made.pepper_id.clone(),
                hash: key(n + 100, &owner).key_hash,
            },
        };
        let unknown = Rehash {
            key_id: key(99, &owner).id,
            ..rehash.clone()
        };
        let rehashed = stores.secrets.rehash(&[unknown, rehash], &entry()).await;
        assert_eq!(rehashed.unwrap(), 1);
        expected.push(changed);
        let (operator, its_key) = (account(n + 50), key(n + 50, &account(n + 50)));
        stores
            .accounts
            .create_with_key(&operator, &its_key, &entry())
            .await
            .unwrap();
        expected.push(Heard::Change(Change::Key(its_key.key_prefix)));
        // It is asked by itself in between, too.
        sleep(Duration::from_millis(150)).await;
        stores.usage.record(&uses).await.unwrap();
        number += 1;
        stores.feed.tick(&report(number)).await.unwrap();
        expected.push(tick(number));
    }
    for expected in expected {
        assert_eq!(heard(&mut subscription).await, expected);
    }
    let quiet = timeout(Duration::from_millis(300), subscription.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_done_is_not_heard() {
    let (_scratch, stores) = fresh().await;
    let id = with_key(&stores).await;
    let owner = account(1);
    let mut subscription = stores.feed.subscribe().await.unwrap();
    let mut taken = key(2, &owner);
    taken.key_prefix = key(1, &owner).key_prefix;
    let refused = stores.keys.create(&taken, &entry()).await;
    assert!(matches!(refused, Err(CreateKeyError::PrefixTaken)));
    // The account is written first, and goes with the key.
    let second = account(2);
    taken.account_id = second.id;
    let refused = stores
        .accounts
        .create_with_key(&second, &taken, &entry())
        .await;
    refused.unwrap_err();
    let refused = stores
        .keys
        .update(id, &mut |_| Err(KeyRefusal::Deleted))
        .await;
    assert!(matches!(refused, Err(UpdateKeyError::Refused(_))));
    let missing = stores
        .keys
        .update(key(9, &owner).id, &mut |key| Ok(noted(key)))
        .await;
    assert!(matches!(missing, Err(UpdateKeyError::NotFound)));
    let keys = all_noted(&[key(1, &owner), key(3, &owner)]);
    let dry = stores.transfer.import_keys(&keys, ImportMode::DryRun).await;
    assert_eq!(
        dry.unwrap(),
        [ImportOutcome::Present, ImportOutcome::Stored]
    );
    let known = stores
        .transfer
        .import_keys(&keys[..1], ImportMode::Commit)
        .await;
    assert_eq!(known.unwrap(), [ImportOutcome::Present]);
    assert_eq!(heard_until_tick(&stores, &mut subscription, 1).await, []);
    let imported = stores.transfer.import_keys(&keys, ImportMode::Commit).await;
    assert_eq!(
        imported.unwrap(),
        [ImportOutcome::Present, ImportOutcome::Stored]
    );
    let accounts = all_noted(&[account(3)]);
    stores
        .transfer
        .import_accounts(&accounts, ImportMode::Commit)
        .await
        .unwrap();
    assert_eq!(
        heard_until_tick(&stores, &mut subscription, 2).await,
        [everything(), everything()]
    );
}

async fn assert_is_closed(stores: &Stores, mut subscription: Box<dyn Subscription>) {
    let closed = |answer: &StoreError| assert!(answer.is_retryable(), "{answer:?}");
    let report = report(1);
    closed(&stores.feed.subscribe().await.err().unwrap());
    closed(&stores.feed.tick(&report).await.unwrap_err());
    let farewell = Signal::Farewell(report.id);
    closed(&stores.feed.send(&farewell).await.unwrap_err());
    closed(&stores.feed.nodes().await.unwrap_err());
    closed(&stores.feed.forget(report.id, None).await.unwrap_err());
    let next = timeout(Duration::from_secs(5), subscription.next()).await;
    closed(&next.unwrap().unwrap_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_does_not_keep_the_file_open() {
    let scratch = Scratch::new();
    let sqlite = scratch.open().await;
    let stores = sqlite.stores();
    let subscription = stores.feed.subscribe().await.unwrap();
    sqlite.close().await;
    assert_eq!(scratch.names(), ["keys.db"]);
    assert_is_closed(&stores, subscription).await;
    drop((sqlite, stores));

    let stores = scratch.open().await.stores();
    let mut subscription = stores.feed.subscribe().await.unwrap();
    let id = with_key(&stores).await;
    revoke(&stores, id).await;
    drop(stores);
    assert_eq!(scratch.names(), ["keys.db"]);
    let prefix = key(1, &account(1)).key_prefix;
    for _ in 0..2 {
        let change = Heard::Change(Change::Key(prefix.clone()));
        assert_eq!(heard(&mut subscription).await, change, "it was done");
    }
    subscription.next().await.unwrap_err();
}

/// There is no connection on which to find what others do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_can_listen_to_a_file_that_is_only_read() {
    let scratch = Scratch::new();
    drop(scratch.open().await);
    let stores = Sqlite::open_to_read(scratch.config()).unwrap().stores();
    assert!(stores.feed.subscribe().await.is_err());
    assert!(stores.feed.tick(&report(1)).await.is_err());
    assert!(stores.feed.nodes().await.is_err());
}

/// While another process holds the lock much comes together, and is then committed at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_together_is_heard_in_its_order() {
    let (scratch, stores) = fresh().await;
    with_key(&stores).await;
    let mut subscription = stores.feed.subscribe().await.unwrap();
    let mut other = scratch.raw();
    other.batch_execute("BEGIN IMMEDIATE").unwrap();
    let mut at_work = Vec::new();
    let owner = account(1);
    let refused = 7;
    until(&stores, |load| load.in_use == 0).await;
    for n in 2..12_u8 {
        let (stores, mut made) = (stores.clone(), key(n, &owner));
        if n == refused {
            made.key_prefix = key(1, &owner).key_prefix;
        }
        at_work.push(tokio::spawn({
            let stores = stores.clone();
            async move { stores.keys.create(&made, &entry()).await.is_ok() }
        }));
        // The first one is at work, and waits for the lock.
        until(&stores, |load| load.in_use == 1).await;
        waiting(&stores, usize::from(n) - 2 + usize::from(n > 5)).await;
        if n == 5 {
            let theirs = stores.clone();
            at_work.push(tokio::spawn(async move {
                theirs.feed.tick(&report(1)).await.is_ok()
            }));
            waiting(&stores, usize::from(n) - 1).await;
        }
    }
    other.batch_execute("ROLLBACK").unwrap();
    for made in (2..12).filter(|n| *n != refused) {
        let made = Heard::Change(Change::Key(key(made, &owner).key_prefix));
        assert_eq!(heard(&mut subscription).await, made);
    }
    assert_eq!(heard(&mut subscription).await, tick(1));
    let mut done = 0;
    for work in at_work {
        done += usize::from(work.await.unwrap());
    }
    assert_eq!(done, 10, "all but the one that was refused");
}

async fn waiting(stores: &Stores, number: usize) {
    until(stores, |load| load.waiting == number).await;
}

async fn until(stores: &Stores, done: impl Fn(StoreLoad) -> bool) {
    let come = async {
        while !done(stores.health.load()) {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(4), come).await.unwrap();
}
