//! What the server says of itself.

use std::time::{Duration, SystemTime};

use leadr_auth_postgres::testing::TestDatabase;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_clock_can_be_read() {
    let database = TestDatabase::create_empty().await;
    let postgres = database.postgres();
    let first = postgres.clock().await.unwrap();
    let second = postgres.clock().await.unwrap();
    assert!(first < second, "the time is not that of a transaction");
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock that the server's is compared with"
    )]
    let now = SystemTime::now();
    let here = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let there = Duration::from_micros(second.unix_micros().try_into().unwrap());
    assert!(here.abs_diff(there) < Duration::from_hours(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_settings_are_those_of_the_session() {
    let database = TestDatabase::create_empty().await;
    let client = database.client().await;
    for expected in ["off", "on", "local"] {
        client
            .batch_execute(&format!(
                "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = {expected}', current_database()); \
                 END $$"
            ))
            .await
            .unwrap();
        let settings = database.postgres().settings().await.unwrap();
        assert_eq!(settings.synchronous_commit, expected);
        for (name, value) in [
            ("server_version", settings.server_version.as_str()),
            ("fsync", if settings.fsync { "on" } else { "off" }),
            (
                "full_page_writes",
                if settings.full_page_writes {
                    "on"
                } else {
                    "off"
                },
            ),
        ] {
            let shown = client.query_one(&format!("SHOW {name}"), &[]).await;
            assert_eq!(shown.unwrap().get::<_, &str>(0), value, "{name}");
        }
    }
}
