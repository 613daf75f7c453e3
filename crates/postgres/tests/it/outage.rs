//! The database goes away, or says nothing, or is slow; and comes back.

use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};

use leadr_auth_domain::{HashedKey, KeyName, KeyPrefix, PepperCheck, PepperId, SealedAuditKey};
use leadr_auth_ports::{
    AuditQuery, ImportMode, KeyUse, Rehash, Rows, Signal, StoreError, StoredPepper, Stores,
    UpdateKeyError,
    contract::fixtures::{account, all_noted, at, entry, key, noted, upto},
};
use leadr_auth_postgres::{
    Postgres, PostgresConfig,
    testing::{ChaosProxy, TestDatabase},
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const LOOKUP_TIMEOUT: Duration = Duration::from_millis(250);
/// What a loaded machine may add.
const SLACK: Duration = Duration::from_millis(750);

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    let answer = work.await;
    (answer, start.elapsed())
}

fn prefix() -> KeyPrefix {
    key(1, &account(1)).key_prefix
}

/// A database with an account and a key, a proxy before it, and the adapter on the proxy's other side.
async fn proxied(change: impl FnOnce(&mut PostgresConfig)) -> (TestDatabase, ChaosProxy, Stores) {
    let database = TestDatabase::create().await;
    let direct = database.stores();
    let owner = account(1);
    direct.accounts.create(&owner, &entry()).await.unwrap();
    direct.keys.create(&key(1, &owner), &entry()).await.unwrap();
    let proxy = ChaosProxy::start(database.url()).await;
    let mut config = PostgresConfig::new(proxy.url(database.url()));
    config.lookup_timeout = LOOKUP_TIMEOUT;
    change(&mut config);
    let stores = Postgres::new(config).unwrap().stores();
    // The first connection of a cold machine may take longer than a lookup may.
    for _ in 0..20 {
        if stores.lookup.find(&prefix()).await.is_ok() {
            break;
        }
    }
    (database, proxy, stores)
}

/// An address at which connections are neither made nor refused, as at a machine that is switched off; and what keeps it so.
async fn silence() -> (SocketAddr, (TcpListener, Vec<TcpStream>)) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // Nobody accepts, and there is no room for more that wait than these.
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let connecting = TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(100), connecting).await {
            Ok(connected) => waiting.push(connected.unwrap()),
            Err(_) => return (address, (listener, waiting)),
        }
    }
    panic!("there is always room");
}

/// A cluster's other server is used where one of them is gone without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_switched_off_leaves_time_for_the_next() {
    let database = TestDatabase::create().await;
    let (silence, _kept) = silence().await;
    let (scheme, rest) = database.url().split_once("://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap();
    let (user, server) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut config = database.config();
    config.url = format!("{scheme}://{user}@{silence},{server}/{path}");
    config.lookup_timeout = Duration::from_secs(2);
    let stores = Postgres::new(config).unwrap().stores();
    let (ping, took) = timed(stores.health.ping()).await;
    ping.unwrap();
    assert!(
        took > Duration::from_millis(900),
        "the first was asked: {took:?}"
    );
    let mut subscription = stores.feed.subscribe().await.unwrap();
    assert_eq!(
        crate::change_feed::news(&stores, &mut subscription, 1).await,
        []
    );
}

async fn is_back(stores: &Stores) -> bool {
    for _ in 0..20 {
        match stores.lookup.find(&prefix()).await {
            Ok(found) => return found.is_some(),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_is_unavailable_at_once() {
    let (_database, mut proxy, stores) = proxied(|_| ()).await;
    for _ in 0..2 {
        proxy.cut().await;
        for _ in 0..5 {
            let (found, took) = timed(stores.lookup.find(&prefix())).await;
            assert!(
                matches!(found, Err(StoreError::Unavailable(_))),
                "{found:?}"
            );
            assert!(took < LOOKUP_TIMEOUT + SLACK, "{took:?}");
            let (ping, took) = timed(stores.health.ping()).await;
            assert!(matches!(ping, Err(StoreError::Unavailable(_))), "{ping:?}");
            assert!(took < LOOKUP_TIMEOUT + SLACK, "{took:?}");
        }
        let updated = stores
            .keys
            .update(key(1, &account(1)).id, &mut |record| Ok(noted(record)))
            .await;
        assert!(matches!(
            updated,
            Err(UpdateKeyError::Store(StoreError::Unavailable(_)))
        ));
        proxy.restore().await;
        assert!(is_back(&stores).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_is_unavailable_in_time() {
    let (_database, mut proxy, stores) = proxied(|config| config.pool_size = 2).await;
    proxy.black_hole();
    for _ in 0..4 {
        let (found, took) = timed(stores.lookup.find(&prefix())).await;
        assert!(
            matches!(found, Err(StoreError::Unavailable(_))),
            "{found:?}"
        );
        assert!(took < LOOKUP_TIMEOUT + SLACK, "{took:?}");
    }
    let (ping, took) = timed(stores.health.ping()).await;
    assert!(matches!(ping, Err(StoreError::Unavailable(_))), "{ping:?}");
    assert!(took < LOOKUP_TIMEOUT + SLACK, "{took:?}");
    proxy.restore().await;
    assert!(is_back(&stores).await);
}

/// Other single statements give up too, though later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_waits_for_a_silent_server_for_ever() {
    let statement = Duration::from_millis(500);
    let (_database, proxy, stores) = proxied(|config| config.statement_timeout = statement).await;
    proxy.black_hole();
    let id = key(1, &account(1)).id;
    let limit = statement + 2 * LOOKUP_TIMEOUT + SLACK;
    let (got, took) = timed(stores.keys.get(id, Rows::Live)).await;
    assert!(matches!(got, Err(StoreError::Unavailable(_))), "{got:?}");
    assert!(took < limit, "{took:?}");
    let uses = [KeyUse {
        key_id: id,
        used_at: at(9),
    }];
    let (recorded, took) = timed(stores.usage.record(&uses)).await;
    assert!(
        matches!(recorded, Err(StoreError::Unavailable(_))),
        "{recorded:?}"
    );
    assert!(took < limit, "{took:?}");
}

/// A lookup that was given up leaves nobody waiting for its answer: its connection is gone, and the next lookup gets one
/// of its own, while the server is still busy with the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_lookup_does_not_slow_the_next_one() {
    let (database, _proxy, stores) = proxied(|config| config.pool_size = 1).await;
    let client = database.client().await;
    client
        .batch_execute("BEGIN; LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let (found, took) = timed(stores.lookup.find(&prefix())).await;
    assert!(
        matches!(found, Err(StoreError::Unavailable(_))),
        "{found:?}"
    );
    assert!(took < LOOKUP_TIMEOUT + SLACK, "{took:?}");
    // Asks for accounts only, which nobody has locked. It would have to wait behind the lookup on its connection, for
    // half a statement's time.
    let (empty, took) = timed(stores.accounts.is_empty()).await;
    assert!(!empty.unwrap());
    assert!(took < LOOKUP_TIMEOUT + SLACK, "{took:?}");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert!(is_back(&stores).await);
}

/// Also where it was the caller who gave up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_read_does_not_slow_the_next_one() {
    let (database, _proxy, stores) = proxied(|config| config.pool_size = 1).await;
    let client = database.client().await;
    client
        .batch_execute("BEGIN; LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let dropped = tokio::time::timeout(
        Duration::from_millis(100),
        stores.keys.get(key(1, &account(1)).id, Rows::Live),
    )
    .await;
    assert!(dropped.is_err());
    let (empty, took) = timed(stores.accounts.is_empty()).await;
    assert!(!empty.unwrap());
    assert!(took < LOOKUP_TIMEOUT + SLACK, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_ever_for_a_connection() {
    let (database, _proxy, stores) = proxied(|config| config.pool_size = 1).await;
    let client = database.client().await;
    client
        .batch_execute("BEGIN; SELECT FROM api_keys FOR UPDATE")
        .await
        .unwrap();
    let id = key(1, &account(1)).id;
    let busy = {
        let keys = stores.keys.clone();
        tokio::spawn(async move { keys.update(id, &mut |record| Ok(noted(record))).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let load = stores.health.load();
    assert_eq!((load.max, load.open), (1, 1));
    assert_eq!((load.in_use, load.waiting), (1, 0));
    let seen_waiting = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stores.health.load().waiting
    };
    let lookup = stores.lookup.clone();
    let waiting = tokio::spawn(async move { lookup.find(&prefix()).await });
    assert_eq!(seen_waiting.await, 1);
    waiting.await.unwrap().unwrap_err();
    let (found, took) = timed(stores.lookup.find(&prefix())).await;
    assert!(
        matches!(found, Err(StoreError::Unavailable(_))),
        "{found:?}"
    );
    assert!(took < LOOKUP_TIMEOUT + SLACK, "{took:?}");
    let (got, took) = timed(stores.keys.get(id, Rows::Live)).await;
    assert!(matches!(got, Err(StoreError::Unavailable(_))), "{got:?}");
    assert!(took < LOOKUP_TIMEOUT + SLACK, "{took:?}");
    client.batch_execute("ROLLBACK").await.unwrap();
    busy.await.unwrap().unwrap();
    assert!(is_back(&stores).await);
}

/// The server's own limits apply: a statement that waits for a lock too long is given up, and that is no fault of what is
/// stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_never_released_is_unavailable() {
    let (database, _proxy, stores) =
        proxied(|config| config.statement_timeout = Duration::from_millis(400)).await;
    let client = database.client().await;
    client
        .batch_execute("BEGIN; SELECT FROM api_keys FOR UPDATE")
        .await
        .unwrap();
    let (updated, took) = timed(
        stores
            .keys
            .update(key(1, &account(1)).id, &mut |record| Ok(noted(record))),
    )
    .await;
    assert!(matches!(
        updated,
        Err(UpdateKeyError::Store(StoreError::Unavailable(_)))
    ));
    assert!(took < Duration::from_millis(400) + SLACK, "{took:?}");
}

/// A change that was dropped halfway leaves nothing: no transaction, no lock, and a pool that works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_change_leaves_nothing_behind() {
    let (database, _proxy, stores) = proxied(|config| config.pool_size = 1).await;
    let client = database.client().await;
    let id = key(1, &account(1)).id;
    let rename = |name: &'static str| {
        let keys = stores.keys.clone();
        async move {
            keys.update(id, &mut |mut key| {
                key.rename(KeyName::parse(name).unwrap(), at(9));
                Ok(noted(key))
            })
            .await
        }
    };
    // At every moment of a transaction: its statements are some tenths of a millisecond apart.
    for step in 0..40 {
        let _ = tokio::time::timeout(Duration::from_micros(step * 100), rename("Dropped")).await;
    }
    // And certainly in its midst, waiting for a lock.
    client
        .batch_execute("BEGIN; SELECT FROM api_keys FOR UPDATE")
        .await
        .unwrap();
    let dropped = tokio::time::timeout(Duration::from_millis(200), rename("Dropped")).await;
    assert!(dropped.is_err());
    client.batch_execute("ROLLBACK").await.unwrap();

    let (renamed, took) = timed(rename("Renamed")).await;
    assert_eq!(renamed.unwrap().name.as_str(), "Renamed");
    assert!(took < LOOKUP_TIMEOUT + SLACK, "{took:?}");
    let mut open = 1;
    for _ in 0..50 {
        open = client
            .query_one(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'",
                &[],
            )
            .await
            .unwrap()
            .get::<_, i64>(0);
        if open == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(open, 0, "a transaction is still open");
}

/// A transaction that was dropped between two statements is rolled back at once, not when somebody borrows its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_panics_releases_its_lock() {
    let (database, _proxy, stores) = proxied(|_| ()).await;
    let id = key(1, &account(1)).id;
    let keys = stores.keys.clone();
    let panicked =
        tokio::spawn(async move { keys.update(id, &mut |_| panic!("on purpose")).await }).await;
    assert!(panicked.is_err());
    let client = database.client().await;
    client
        .batch_execute("SET lock_timeout = '1s'; SELECT FROM api_keys FOR UPDATE")
        .await
        .unwrap();
    assert!(is_back(&stores).await);
}

/// Whatever is asked, the connection goes back to the pool: a lease that is not given back closes it.
#[expect(clippy::too_many_lines, reason = "a list of all that can be done")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_gives_its_connection_back() {
    let (database, _proxy, stores) = proxied(|config| {
        config.pool_size = 1;
        config.lookup_timeout = Duration::from_secs(5);
    })
    .await;
    let client = database.client().await;
    let backend = async || {
        let pids = client
            .query(
                "SELECT pid FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'leadr-auth'
                 ORDER BY backend_start DESC",
                &[],
            )
            .await
            .unwrap();
        pids[0].get::<_, i32>(0)
    };
    let before = backend().await;
    let (owner, first) = (account(1), key(1, &account(1)));
    let other = account(2);
    stores.accounts.create(&other, &entry()).await.unwrap();
    stores.accounts.create(&other, &entry()).await.unwrap_err();
    stores
        .accounts
        .create_with_key(&account(3), &key(3, &account(3)), &entry())
        .await
        .unwrap();
    stores
        .accounts
        .create_with_key(&account(4), &key(3, &account(4)), &entry())
        .await
        .unwrap_err();
    stores.accounts.get(owner.id, Rows::Live).await.unwrap();
    stores
        .accounts
        .update(owner.id, &mut |record| Ok(noted(record)))
        .await
        .unwrap();
    stores.accounts.list().await.unwrap();
    stores.accounts.find_operator().await.unwrap();
    stores.accounts.find_by_slug(&owner.slug).await.unwrap();
    stores.accounts.is_empty().await.unwrap();
    stores.keys.create(&key(5, &owner), &entry()).await.unwrap();
    stores
        .keys
        .create(&key(5, &owner), &entry())
        .await
        .unwrap_err();
    stores.keys.get(first.id, Rows::Live).await.unwrap();
    stores
        .keys
        .update(first.id, &mut |record| Ok(noted(record)))
        .await
        .unwrap();
    stores
        .keys
        .update(key(9, &owner).id, &mut |record| Ok(noted(record)))
        .await
        .unwrap_err();
    stores
        .keys
        .list(leadr_auth_ports::KeyFilter::of(owner.id))
        .await
        .unwrap();
    stores.keys.count_active(owner.id).await.unwrap();
    stores
        .usage
        .record(&[KeyUse {
            key_id: first.id,
            used_at: at(9),
        }])
        .await
        .unwrap();
    stores.secrets.registered().await.unwrap();
    let check = PepperCheck::from_store("a check value".to_owned());
    let pepper = StoredPepper::new(
        PepperId::default(),
        check,
        SealedAuditKey::from_store("a sealed key".to_owned()),
    );
    stores
        .secrets
        .register(&pepper, false, &entry())
        .await
        .unwrap();
    stores.secrets.count_keys(at(9)).await.unwrap();
    stores
        .secrets
        .drop_pepper(&pepper.id, at(9), &entry())
        .await
        .unwrap_err();
    let rehash = Rehash {
        key_id: first.id,
        was: first.key_hash.clone(),
        becomes: HashedKey {
            pepper_id: pepper.id,
            hash: first.key_hash.clone(),
        },
    };
    stores.secrets.rehash(&[rehash], &entry()).await.unwrap();
    for mode in [ImportMode::DryRun, ImportMode::Commit] {
        let owners = [owner.clone(), account(6)];
        let keys = [first.clone(), key(6, &owner), key(7, &account(99))];
        stores
            .transfer
            .import_accounts(&all_noted(&owners), mode)
            .await
            .unwrap();
        stores
            .transfer
            .import_keys(&all_noted(&keys), mode)
            .await
            .unwrap();
    }
    stores.audit.append(&entry()).await.unwrap();
    let query = AuditQuery::of(None, 10);
    let listed = stores.audit.page(&query).await.unwrap().rows;
    let all = [upto(&listed[0], at(9))];
    let pruned = stores.audit.prune(&all, &entry()).await;
    assert!(pruned.unwrap().entries > 0);
    let report = crate::change_feed::report(1);
    stores.feed.tick(&report).await.unwrap();
    let farewell = Signal::Farewell(report.id);
    stores.feed.send(&farewell).await.unwrap();
    stores.feed.nodes().await.unwrap();
    stores.feed.forget(report.id, Some(1)).await.unwrap();
    stores.health.ping().await.unwrap();
    stores.lookup.find(&prefix()).await.unwrap();
    assert_eq!(backend().await, before);
}
