//! Up, down, up; several that open a file at once; and rules that every table has to keep.

use diesel::{connection::SimpleConnection as _, prelude::*};
use leadr_auth_domain::Pepper;
use leadr_auth_ports::{StoreError, contract::fixtures::SECRET};
use leadr_auth_sqlite::{
    IfMissing, Sqlite,
    migrate::{self, MigrateError},
};

use crate::support::Scratch;

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
    secrets.register(&secret.check()).await.unwrap();
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
    ] {
        assert!(scratch.raw().batch_execute(wrong).is_err(), "{wrong}");
    }
}
