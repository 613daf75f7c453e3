//! What is heard of changes, whoever makes them; and what a listener notices when its connection does not work.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use leadr_auth_domain::{AccountId, KeyPrefix};
use leadr_auth_ports::{
    Change, Heard, NodeReport, Probe, Signal, StoreError, Stores, Subscription, UnreadableReport,
    contract::fixtures::{self, account, entry, key},
};
use leadr_auth_postgres::{
    Postgres, PostgresConfig,
    testing::{ChaosProxy, TestDatabase},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_postgres::Client;

/// Nothing listens there.
const NOWHERE: &str = "127.0.0.1:1";
const ONE: &str = "10000000-0000-4000-8000-000000000000";
const TWO: &str = "20000000-0000-4000-8000-000000000000";
const THREE: &str = "30000000-0000-4000-8000-000000000000";
const KEY: &str = "a0000000-0000-4000-8000-000000000000";

pub(crate) fn report(number: u64) -> NodeReport {
    fixtures::report(7, number)
}

fn tick(number: u64) -> Heard {
    fixtures::tick(&report(number))
}

pub(crate) fn of_key(prefix: &str) -> Heard {
    Heard::Change(Change::Key(KeyPrefix::parse(prefix).unwrap()))
}

pub(crate) fn of_account(id: &str) -> Heard {
    Heard::Change(Change::Account(AccountId::new(id.parse().unwrap())))
}

const EVERYTHING: Heard = Heard::Change(Change::Everything);

/// What `docs/operations.md` says that switches all triggers on.
fn all_on() -> String {
    let block = crate::sql_of(include_str!("../../../../docs/operations.md"));
    block.trim_end().trim_end_matches(';').to_owned()
}

async fn next(subscription: &mut Box<dyn Subscription>) -> Result<Heard, StoreError> {
    tokio::time::timeout(Duration::from_secs(20), subscription.next())
        .await
        .unwrap()
}

/// All that is heard before a tick that is sent now, in some order of its own.
pub(crate) async fn news(
    stores: &Stores,
    subscription: &mut Box<dyn Subscription>,
    number: u64,
) -> Vec<Heard> {
    let mut all = fixtures::heard_until_tick(stores, subscription, &report(number)).await;
    all.sort_by_key(|heard| format!("{heard:?}"));
    all
}

async fn listeners(client: &Client) -> i64 {
    let query = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'leadr-auth listener'";
    client.query_one(query, &[]).await.unwrap().get(0)
}

fn listening_at(database: &TestDatabase, url: &str) -> PostgresConfig {
    PostgresConfig {
        listen_url: Some(url.to_owned()),
        ..database.config()
    }
}

/// The same URL with another server.
fn elsewhere(url: &str, server: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let user = user.map_or(String::new(), |user| format!("{user}@"));
    format!("{scheme}://{user}{server}/{path}")
}

/// Writes the row of a key as a program does that knows nothing of what it changes: every column of the reference's, with
/// these in place of what they were.
fn whole_row(changes: &[(&str, &str)]) -> String {
    let columns = [
        "id",
        "account_id",
        "name",
        "key_hash",
        "key_prefix",
        "status",
        "last_used_at",
        "expires_at",
        "created_at",
        "updated_at",
        "deleted_at",
    ];
    let assignments: Vec<_> = columns
        .iter()
        .map(|column| {
            let other = changes.iter().find(|(name, _)| name == column);
            format!("{column} = {}", other.map_or(*column, |(_, value)| value))
        })
        .collect();
    format!(
        "UPDATE api_keys SET {} WHERE id = '{KEY}'",
        assignments.join(", ")
    )
}

#[expect(
    clippy::too_many_lines,
    reason = "a table of what is done and what is heard"
)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_do_is_heard_and_what_they_use_is_not() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    client
        .batch_execute(&format!(
            "INSERT INTO accounts (id, name, slug) VALUES ('{ONE}', 'One', 'one'), ('{TWO}', 'Two', 'two');
             INSERT INTO api_keys (account_id, name, key_hash, key_prefix) VALUES ('{TWO}', 'Its', 'no hash', 'ldr_two')"
        ))
        .await
        .unwrap();
    let stores = database.stores();
    let mut subscription = stores.feed.subscribe().await.unwrap();
    let set = |what: &str| format!("UPDATE api_keys SET {what} WHERE id = '{KEY}'");
    let of_one = |what: &str| format!("UPDATE accounts SET {what} WHERE id = '{ONE}'");
    let insert = |prefix: &str| {
        format!(
            "INSERT INTO api_keys (account_id, name, key_hash, key_prefix) VALUES ('{TWO}', 'Odd', 'no hash', {prefix})"
        )
    };
    let [mine, its] = [of_key("ldr_mine"), of_key("ldr_two")];
    let cases = [
        (
            format!(
                "INSERT INTO api_keys (id, account_id, name, key_hash, key_prefix)
                 VALUES ('{KEY}', '{ONE}', 'Mine', 'no hash', 'ldr_mine')"
            ),
            vec![mine.clone()],
        ),
        // Management, a column each, …
        (set("status = 'revoked'"), vec![mine.clone()]),
        (set("name = 'Renamed'"), vec![mine.clone()]),
        (set("key_hash = 'another'"), vec![mine.clone()]),
        (set("scopes = ''"), vec![mine.clone()]),
        (set("scopes = NULL"), vec![mine.clone()]),
        (set("pepper_id = 'another'"), vec![mine.clone()]),
        (set("expires_at = '2030-01-01'"), vec![mine.clone()]),
        (set("deleted_at = '2030-01-01'"), vec![mine.clone()]),
        (set("deleted_at = NULL"), vec![mine.clone()]),
        (set(&format!("account_id = '{TWO}'")), vec![mine.clone()]),
        (set(&format!("account_id = '{ONE}'")), vec![mine.clone()]),
        (set(&format!("id = '{TWO}'")), vec![mine.clone()]),
        (
            format!("UPDATE api_keys SET id = '{KEY}' WHERE id = '{TWO}'"),
            vec![mine.clone()],
        ),
        (
            set("key_prefix = 'ldr_moved'"),
            vec![mine.clone(), of_key("ldr_moved")],
        ),
        (
            set("key_prefix = 'ldr_mine'"),
            vec![mine.clone(), of_key("ldr_moved")],
        ),
        (
            "UPDATE api_keys SET name = 'All'".to_owned(),
            vec![mine.clone(), its.clone()],
        ),
        // … and by programs that write whole rows.
        (
            whole_row(&[("status", "'active'"), ("updated_at", "'2030-01-01'")]),
            vec![mine.clone()],
        ),
        // A use, and what changes nothing.
        (set("last_used_at = '2030-01-01'"), vec![]),
        (
            set("last_used_at = '2030-01-02', updated_at = '2030-01-02'"),
            vec![],
        ),
        (
            whole_row(&[
                ("last_used_at", "'2030-01-03'"),
                ("updated_at", "'2030-01-03'"),
            ]),
            vec![],
        ),
        (set("status = status"), vec![]),
        (
            format!("BEGIN; {}; ROLLBACK", set("status = 'revoked'")),
            vec![],
        ),
        (
            format!(
                "BEGIN; {}; DELETE FROM api_keys; ROLLBACK",
                insert("'ldr_never'")
            ),
            vec![],
        ),
        // One that is taken back in part.
        (
            format!(
                "BEGIN; {}; SAVEPOINT s; DELETE FROM accounts; ROLLBACK TO s; COMMIT",
                set("status = 'revoked'")
            ),
            vec![mine.clone()],
        ),
        // Accounts.
        (
            format!("INSERT INTO accounts (id, name, slug) VALUES ('{THREE}', 'Three', 'three')"),
            vec![],
        ),
        (of_one("status = 'suspended'"), vec![of_account(ONE)]),
        (of_one("name = 'Renamed'"), vec![of_account(ONE)]),
        (of_one("slug = 'renamed'"), vec![of_account(ONE)]),
        (of_one("is_operator = true"), vec![of_account(ONE)]),
        (of_one("deleted_at = '2030-01-01'"), vec![of_account(ONE)]),
        (of_one("deleted_at = NULL"), vec![of_account(ONE)]),
        (
            of_one("name = name, slug = slug, status = status, updated_at = '2030-01-01'"),
            vec![],
        ),
        (
            format!("UPDATE accounts SET id = '{KEY}' WHERE slug = 'three'"),
            vec![of_account(THREE), of_account(KEY)],
        ),
        (
            format!("DELETE FROM accounts WHERE id = '{ONE}'"),
            vec![of_account(ONE), mine.clone()],
        ),
        ("DELETE FROM api_keys".to_owned(), vec![its.clone()]),
        // What cannot be told, or not plainly.
        (insert("'AAAA'"), vec![EVERYTHING]),
        (insert("''"), vec![EVERYTHING]),
        (insert("E'ldr_\\n'"), vec![EVERYTHING]),
        (insert("'ldr_ä'"), vec![EVERYTHING]),
        (insert("'ldr_' || repeat('a', 61)"), vec![EVERYTHING]),
        (insert("'ldr_' || repeat('a', 9000)"), vec![EVERYTHING]),
        (
            "UPDATE api_keys SET status = 'revoked'".to_owned(),
            vec![EVERYTHING],
        ),
        ("TRUNCATE api_keys".to_owned(), vec![EVERYTHING]),
        (
            insert("'ldr_' || repeat('a', 60)"),
            vec![of_key(&format!("ldr_{}", "a".repeat(60)))],
        ),
        ("TRUNCATE accounts CASCADE".to_owned(), vec![EVERYTHING]),
        // What else is told.
        ("NOTIFY other, 'key ldr_mine'".to_owned(), vec![]),
        (
            "NOTIFY leadr_auth, 'key ldr_mine'".to_owned(),
            vec![mine.clone()],
        ),
        (
            "NOTIFY leadr_auth, 'gossip of a later version'".to_owned(),
            vec![EVERYTHING],
        ),
        ("NOTIFY leadr_auth".to_owned(), vec![EVERYTHING]),
    ];
    for (number, (statement, expected)) in (1..).zip(cases) {
        client.batch_execute(&statement).await.unwrap();
        let heard = news(&stores, &mut subscription, number).await;
        assert_eq!(heard, expected, "{statement}");
    }
}

/// A session may be set up in any way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_search_path_nor_a_session_without_triggers_hides_a_change() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let stores = database.stores();
    let owner = account(1);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    let held = key(1, &owner);
    stores.keys.create(&held, &entry()).await.unwrap();
    let mut subscription = stores.feed.subscribe().await.unwrap();
    client
        .batch_execute(
            "CREATE SCHEMA evil;
             CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT 1/0';
             SET search_path = evil, pg_catalog;
             UPDATE public.api_keys SET status = 'revoked'",
        )
        .await
        .unwrap();
    let prefix = held.key_prefix.as_str();
    assert_eq!(news(&stores, &mut subscription, 1).await, [of_key(prefix)]);
    client
        .batch_execute(
            "SET session_replication_role = replica; UPDATE public.api_keys SET status = 'active';
             UPDATE public.accounts SET status = 'suspended'",
        )
        .await
        .unwrap();
    assert_eq!(
        news(&stores, &mut subscription, 2).await,
        [of_account(&owner.id.to_string()), of_key(prefix)]
    );
}

/// Uses are written down all the time. What is there for changes has to cost them nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_trigger_is_for_the_columns_of_a_use() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let stores = database.stores();
    stores.accounts.create(&account(1), &entry()).await.unwrap();
    stores
        .keys
        .create(&key(1, &account(1)), &entry())
        .await
        .unwrap();
    let fired = async |statement: &str| {
        let plan = client
            .query(&format!("EXPLAIN ANALYZE {statement}"), &[])
            .await
            .unwrap();
        plan.iter()
            .any(|line| line.get::<_, String>(0).contains("leadr_auth_"))
    };
    assert!(
        fired("UPDATE api_keys SET status = 'revoked'").await,
        "the plan tells"
    );
    assert!(!fired("UPDATE api_keys SET last_used_at = '2030-01-01'").await);

    // For each trigger on updates, the columns of its table that it is not for; all of them, if none is named.
    let query = "
        SELECT array_agg(attname::text ORDER BY attname)
        FROM pg_trigger JOIN pg_attribute ON attrelid = tgrelid
        WHERE tgname LIKE 'leadr\\_auth\\_%' AND tgtype & 16 <> 0 AND attnum > 0 AND NOT attisdropped
            AND attnum <> ALL (tgattr) AND tgattr <> ''
        GROUP BY tgname ORDER BY tgname";
    let rows = client.query(query, &[]).await.unwrap();
    let others: Vec<Vec<String>> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        others,
        [
            vec!["created_at", "key_limit", "updated_at"],
            vec![
                "created_at",
                "expires_at",
                "id",
                "key_hash",
                "key_prefix",
                "last_used_at",
                "name",
                "pepper_id",
                "scopes",
                "status",
                "updated_at"
            ],
            vec!["created_at", "last_used_at", "updated_at"]
        ]
    );
}

/// What is told after `subscribe` has returned is heard, however soon after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_subscribed_listens_already() {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    for number in 1..=40 {
        stores.feed.nodes().await.unwrap();
        let mut subscription = stores.feed.subscribe().await.unwrap();
        let signal = Signal::Farewell(report(number).id);
        stores.feed.send(&signal).await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(2), subscription.next()).await;
        assert_eq!(
            heard.expect("it is heard").unwrap(),
            Heard::Signal(signal),
            "{number}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_whose_connection_ends_says_so() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let stores = database.stores();
    let mut subscription = stores.feed.subscribe().await.unwrap();
    assert_eq!(news(&stores, &mut subscription, 1).await, []);
    let start = Instant::now();
    let query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'leadr-auth listener'";
    let ended: i64 = client.query_one(query, &[]).await.unwrap().get(0);
    assert_eq!(ended, 1);
    for _ in 0..2 {
        let error = next(&mut subscription).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    }
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );

    let mut anew = stores.feed.subscribe().await.unwrap();
    assert_eq!(news(&stores, &mut anew, 2).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_is_dropped_is_over() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let subscription = database.stores().feed.subscribe().await.unwrap();
    assert_eq!(listeners(&client).await, 1);
    drop(subscription);
    for _ in 0..100 {
        if listeners(&client).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("its connection is still there");
}

/// A server may end sessions that do nothing, and a listener does nothing for as long as nothing changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_may_be_idle() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let version = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await;
    if version.unwrap().get::<_, i32>(0) < 140_000 {
        return;
    }
    client
        .batch_execute(
            "DO $$ BEGIN
                EXECUTE format('ALTER DATABASE %I SET idle_session_timeout = 200', current_database());
            END $$",
        )
        .await
        .unwrap();
    let mut subscription = database.stores().feed.subscribe().await.unwrap();
    let silence = tokio::time::timeout(Duration::from_secs(1), subscription.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    // A pool of its own, whose connections are not idle yet.
    assert_eq!(news(&database.stores(), &mut subscription, 1).await, []);
}

/// Nobody waits for a listener; and what it could not be told meanwhile it is told later, if its connection lives on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_nothing_reaches_hears_nothing_and_holds_nobody_up() {
    let database = TestDatabase::create().await;
    let mut proxy = ChaosProxy::start(database.url()).await;
    let config = listening_at(&database, &proxy.url(database.url()));
    let stores = Postgres::new(config).unwrap().stores();
    let mut subscription = stores.feed.subscribe().await.unwrap();
    assert_eq!(news(&stores, &mut subscription, 1).await, []);

    proxy.black_hole();
    let start = Instant::now();
    for number in 2..=20 {
        stores.feed.tick(&report(number)).await.unwrap();
        let silence = tokio::time::timeout(Duration::from_millis(10), subscription.next()).await;
        assert!(silence.is_err(), "{silence:?}");
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(stores.feed.nodes().await.unwrap().readable, [report(20)]);

    proxy.restore().await;
    for number in 2..=20 {
        assert_eq!(next(&mut subscription).await.unwrap(), tick(number));
    }

    proxy.cut().await;
    next(&mut subscription).await.unwrap_err();
    stores.feed.tick(&report(21)).await.unwrap();
}

/// A server that lets everybody in and then says nothing, for one who comes; over when that one has gone.
async fn mute() -> (SocketAddr, JoinHandle<()>) {
    const COME_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        assert!(socket.read(&mut buffer).await.unwrap() > 0);
        socket.write_all(COME_IN).await.unwrap();
        while let Ok(1..) = socket.read(&mut buffer).await {}
    });
    (address, serving)
}

/// Neither where nobody answers nor where somebody does so only at first; and nothing of the attempt is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beginning_to_listen_does_not_take_for_ever() {
    let database = TestDatabase::create().await;
    let proxy = ChaosProxy::start(database.url()).await;
    proxy.black_hole();
    let (mute, serving) = mute().await;
    let subscribing = |url: String| {
        let stores = Postgres::new(listening_at(&database, &url))
            .unwrap()
            .stores();
        async move {
            let patience = Duration::from_secs(15);
            let refused = tokio::time::timeout(patience, stores.feed.subscribe()).await;
            let refused = refused.unwrap().map(drop).unwrap_err();
            assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
        }
    };
    tokio::join!(
        subscribing(proxy.url(database.url())),
        subscribing(elsewhere(database.url(), &mute.to_string())),
    );
    let gone = tokio::time::timeout(Duration::from_secs(2), serving).await;
    gone.unwrap().unwrap();
}

/// The pool may go through something at which nobody can listen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_goes_where_it_is_told_to() {
    let database = TestDatabase::create().await;
    let nowhere = elsewhere(database.url(), NOWHERE);
    let stores = Postgres::new(listening_at(&database, &nowhere))
        .unwrap()
        .stores();
    let refused = stores.feed.subscribe().await.map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    stores.feed.tick(&report(1)).await.unwrap();

    let config = PostgresConfig {
        url: nowhere,
        ..listening_at(&database, database.url())
    };
    let lost = Postgres::new(config).unwrap().stores();
    let mut subscription = lost.feed.subscribe().await.unwrap();
    lost.feed.tick(&report(2)).await.unwrap_err();
    assert_eq!(news(&stores, &mut subscription, 3).await, []);
}

/// Of several servers that one is used which takes writes, by the pool and by the listener.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_servers_the_one_that_takes_writes_is_used() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let (_, rest) = database.url().split_once("://").unwrap();
    let (authority, _) = rest.split_once('/').unwrap();
    let server = authority
        .rsplit_once('@')
        .map_or(authority, |(_, server)| server);
    let url = elsewhere(database.url(), &format!("{NOWHERE},{server}"));
    let mark = if url.contains('?') { '&' } else { '?' };
    let config = PostgresConfig {
        url: format!("{url}{mark}target_session_attrs=read-write"),
        ..database.config()
    };
    let stores = Postgres::new(config.clone()).unwrap().stores();
    let mut subscription = stores.feed.subscribe().await.unwrap();
    assert_eq!(news(&stores, &mut subscription, 1).await, []);

    // Now none of them does.
    client
        .batch_execute(
            "DO $$ BEGIN
                EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());
            END $$",
        )
        .await
        .unwrap();
    let stores = Postgres::new(config).unwrap().stores();
    stores.feed.subscribe().await.map(drop).unwrap_err();
    stores.health.ping().await.unwrap_err();
    database.stores().health.ping().await.unwrap();
}

/// Who tells something has the commits of all others who do wait for its own, and of a random key nobody can have asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_issued_is_not_told_of_and_one_that_was_chosen_is() {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    let owner = account(1);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    // The first one's entry finds no head of a chain that it could follow by one statement.
    stores.keys.create(&key(1, &owner), &entry()).await.unwrap();
    let mut subscription = stores.feed.subscribe().await.unwrap();
    stores.keys.create(&key(2, &owner), &entry()).await.unwrap();
    assert_eq!(news(&stores, &mut subscription, 1).await, []);
    let chosen = key(3, &owner);
    stores.keys.adopt(&chosen, &entry()).await.unwrap();
    let told = of_key(chosen.key_prefix.as_str());
    assert_eq!(news(&stores, &mut subscription, 2).await, [told]);
    // That it is not told of is the transaction's, and not the connection's.
    let client = database.client().await;
    let set = "SELECT set_config('leadr_auth.fresh_key', 'on', true)";
    client.batch_execute(set).await.unwrap();
    let insert = format!(
        "INSERT INTO api_keys (account_id, name, key_hash, key_prefix) VALUES ('{}', 'Odd', 'no hash', 'ldr_odd')",
        owner.id
    );
    client.batch_execute(&insert).await.unwrap();
    assert_eq!(
        news(&stores, &mut subscription, 3).await,
        [of_key("ldr_odd")]
    );
}

/// Who would not hear of a change does not hear that there was none; and when the triggers are on again, that everything may
/// have changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_triggers_are_off_no_tick_comes_back() {
    let all_on = all_on();
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let stores = database.stores();
    let mut subscription = stores.feed.subscribe().await.unwrap();
    let remade = format!(
        "CREATE TRIGGER leadr_auth_keys_truncated AFTER TRUNCATE ON api_keys
         FOR EACH STATEMENT EXECUTE FUNCTION leadr_auth_tell_of_everything();
         {all_on}"
    );
    let off_and_on = [
        (
            "ALTER TABLE api_keys DISABLE TRIGGER leadr_auth_key_changed",
            &*all_on,
        ),
        // They would not fire for what replication writes.
        (
            "ALTER TABLE api_keys ENABLE TRIGGER leadr_auth_key_changed",
            &*all_on,
        ),
        (
            "ALTER TABLE accounts ENABLE REPLICA TRIGGER leadr_auth_account_changed",
            &*all_on,
        ),
        ("ALTER TABLE accounts DISABLE TRIGGER USER", &*all_on),
        (
            "DROP TRIGGER leadr_auth_keys_truncated ON api_keys",
            &*remade,
        ),
    ];
    assert_eq!(news(&stores, &mut subscription, 1).await, []);
    for (number, (off, on)) in (2..).step_by(2).zip(off_and_on) {
        client.batch_execute(off).await.unwrap();
        let refused = stores.feed.tick(&report(number)).await.unwrap_err();
        assert!(!refused.is_retryable(), "{off}");
        client.batch_execute(on).await.unwrap();
        assert_eq!(
            news(&stores, &mut subscription, number + 1).await,
            [EVERYTHING],
            "{off}"
        );
    }
    assert_eq!(news(&stores, &mut subscription, 100).await, []);
    // Off and on again between two ticks, as a restored dump does it.
    let unheard = format!(
        "BEGIN;
         ALTER TABLE api_keys DISABLE TRIGGER USER;
         UPDATE api_keys SET status = 'revoked';
         {all_on};
         COMMIT"
    );
    client.batch_execute(&unheard).await.unwrap();
    assert_eq!(news(&stores, &mut subscription, 101).await, [EVERYTHING]);
    // What comes first may be a question: who answers it has to have heard of everything.
    let probe = Signal::Probe(Probe {
        node: report(1).id,
        number: 5,
    });
    client
        .batch_execute("ALTER TABLE api_keys DISABLE TRIGGER leadr_auth_key_changed")
        .await
        .unwrap();
    let refused = stores.feed.send(&probe).await.unwrap_err();
    assert!(!refused.is_retryable());
    client.batch_execute(&all_on).await.unwrap();
    stores.feed.send(&probe).await.unwrap();
    for expected in [EVERYTHING, Heard::Signal(probe)] {
        assert_eq!(fixtures::heard(&mut subscription).await, expected);
    }
    assert_eq!(news(&stores, &mut subscription, 102).await, []);
    // And by somebody who had not begun to listen yet.
    let mut later = stores.feed.subscribe().await.unwrap();
    assert_eq!(news(&stores, &mut later, 103).await, []);
}

/// Who may change rows may write anything into them, and take the rules off the table before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_cannot_be_read_hides_no_other() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let stores = database.stores();
    for n in [1, 2] {
        stores.feed.tick(&fixtures::report(n, 1)).await.unwrap();
    }
    let [sound, altered] = [1, 2].map(|n| fixtures::report(n, 1));
    let columns = [
        "name",
        "version",
        "tick",
        "started_at",
        "seen_at",
        "patience",
    ];
    for column in columns {
        let drop = format!("ALTER TABLE server_nodes ALTER COLUMN {column} DROP NOT NULL");
        client.batch_execute(&drop).await.unwrap();
    }
    let patience = Some(altered.patience);
    for (part, value, patience) in [
        ("name", "NULL", patience),
        ("version", "NULL", patience),
        ("tick", "NULL", patience),
        ("started_at", "NULL", patience),
        ("seen_at", "NULL", patience),
        ("patience", "NULL", None),
        ("patience", "-1", None),
        ("lease_age", "-1", patience),
        ("lag", "-9223372036854775808", patience),
    ] {
        let id = altered.id;
        let update = format!("UPDATE server_nodes SET {part} = {value} WHERE id = '{id}'");
        client.batch_execute(&update).await.unwrap();
        let reports = stores.feed.nodes().await.unwrap();
        assert_eq!(
            reports.readable,
            std::slice::from_ref(&sound),
            "{part} = {value}"
        );
        let unreadable = UnreadableReport { id, patience, part };
        assert_eq!(reports.unreadable, [unreadable], "{part} = {value}");
        // Whoever runs writes it anew.
        stores.feed.tick(&altered).await.unwrap();
        assert_eq!(stores.feed.nodes().await.unwrap().readable.len(), 2);
    }
}
