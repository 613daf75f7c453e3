//! A server whose database is there and not as it should be.

use std::time::Duration;

use leadr_auth_postgres::testing::TestDatabase;

use crate::support::{ANYWHERE, Place, Running, has_postgres, status};

/// A server on a new database, its address and its first key.
async fn served(place: &Place) -> (TestDatabase, Running, String, String) {
    let database = TestDatabase::create_empty().await;
    let environment = [
        ANYWHERE,
        ("DATABASE_URL", database.url()),
        ("API_KEY_SECRET", "a secret for tests, of 32 bytes and more"),
    ];
    let mut running = place.serve(&[], &environment);
    let base = running.base();
    let key = running.first_key();
    (database, running, base, key)
}

/// What lasts is logged once, and that it is over when it is; a first start has nothing to complain about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_that_are_off_are_complained_of_once() {
    if !has_postgres("triggers_that_are_off_are_complained_of_once") {
        return;
    }
    let place = Place::new();
    let (database, running, base, key) = served(&place).await;
    let client = database.client().await;
    let trigger = "TRIGGER leadr_auth_key_changed";
    // For longer than it takes to give up listening twice.
    for (turn, seconds) in [("DISABLE", 7), ("ENABLE ALWAYS", 2)] {
        let statement = format!("ALTER TABLE api_keys {turn} {trigger}");
        client.batch_execute(&statement).await.unwrap();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert_eq!(status(&base, &key).await, 200);
    }
    let (ended, log) = running.end("-TERM");
    assert_eq!(ended.code(), Some(0), "{log}");
    for (line, times) in [
        ("changes are not heard", 1),
        ("changes are heard again", 1),
        ("it cannot be made sure that changes are heard", 1),
        ("it can be made sure again that changes are heard", 1),
        ("\"WARN\"", 2),
        ("\"ERROR\"", 0),
    ] {
        assert_eq!(log.matches(line).count(), times, "{line}: {log}");
    }
}

/// Somebody at a prompt who has locked a key's row costs no use if they go on in time; and if they do not, it is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_uses_of_keys_wait_for_whoever_holds_a_key() {
    if !has_postgres("the_last_uses_of_keys_wait_for_whoever_holds_a_key") {
        return;
    }
    for (goes_on, code) in [(true, 0), (false, 1)] {
        let place = Place::new();
        let (database, running, base, key) = served(&place).await;
        let (client, holder) = (database.client().await, database.client().await);
        let held = "BEGIN; SELECT FROM api_keys FOR UPDATE";
        holder.batch_execute(held).await.unwrap();
        assert_eq!(status(&base, &key).await, 200);
        running.signal("-TERM");
        tokio::time::sleep(Duration::from_secs(3)).await;
        if goes_on {
            holder.batch_execute("COMMIT").await.unwrap();
        }
        let (ended, log) = running.wait();
        assert_eq!(ended.code(), Some(code), "{log}");
        assert_eq!(log.contains("could not be written down"), !goes_on, "{log}");
        drop(holder);
        let written = "SELECT count(last_used_at) FROM api_keys";
        let written: i64 = client.query_one(written, &[]).await.unwrap().get(0);
        assert_eq!(written, i64::from(goes_on));
    }
}
