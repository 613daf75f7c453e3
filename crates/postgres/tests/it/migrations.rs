//! Up, down, up; and two nodes that start together.

use leadr_auth_postgres::{
    PostgresConfig,
    migrate::{self, MigrateError},
    testing::TestDatabase,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_run_revert_and_run_again() {
    let database = TestDatabase::create_empty().await;
    let config = database.config();
    assert!(!migrate::at_head(&config).await.unwrap());
    let applied = migrate::run(&config).await.unwrap();
    assert!(!applied.is_empty());
    assert!(applied.is_sorted());
    assert!(migrate::at_head(&config).await.unwrap());
    assert!(migrate::run(&config).await.unwrap().is_empty());

    for version in applied.iter().rev() {
        let reverted = migrate::revert_last(&config).await.unwrap();
        assert_eq!(reverted.as_ref(), Some(version));
    }
    assert_eq!(migrate::revert_last(&config).await.unwrap(), None);
    assert_eq!(migrate::pending(&config).await.unwrap(), applied);

    assert_eq!(migrate::run(&config).await.unwrap(), applied);
    database.stores().health.ping().await.unwrap();
}

/// On a runtime of one thread too, where nothing may block.
#[tokio::test(flavor = "current_thread")]
async fn nodes_that_start_together_migrate_once() {
    for _ in 0..3 {
        let database = TestDatabase::create_empty().await;
        let config = database.config();
        let (one, two, three) = tokio::join!(
            migrate::run(&config),
            migrate::run(&config),
            migrate::run(&config),
        );
        let mut applied = [one.unwrap(), two.unwrap(), three.unwrap()];
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
async fn a_server_that_is_away_is_worth_another_try() {
    let refused = PostgresConfig::new("postgres://me:hunter2@127.0.0.1:1/db");
    let error = migrate::run(&refused).await.unwrap_err();
    assert!(matches!(error, MigrateError::Unavailable(_)), "{error:?}");
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_fit_needs_a_person() {
    let database = TestDatabase::create_empty().await;
    database
        .client()
        .await
        .batch_execute("CREATE TABLE accounts (id int PRIMARY KEY)")
        .await
        .unwrap();
    let error = migrate::run(&database.config()).await.unwrap_err();
    assert!(matches!(error, MigrateError::Failed(_)), "{error:?}");

    let missing = database.url().replace("leadr_test_", "leadr_missing_");
    let error = migrate::run(&PostgresConfig::new(missing))
        .await
        .unwrap_err();
    assert!(matches!(error, MigrateError::Failed(_)), "{error:?}");
}

/// What a newer program did to the schema is not known, so nobody guesses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_a_newer_program_is_left_alone() {
    let database = TestDatabase::create_empty().await;
    let config = database.config();
    let newest = migrate::run(&config).await.unwrap().pop().unwrap();
    // One is missing, too, which is not made up for.
    let client = database.client().await;
    let rename = "UPDATE __diesel_schema_migrations SET version = $2 WHERE version = $1";
    let newer = "99991231235959";
    assert_eq!(client.execute(rename, &[&newest, &newer]).await.unwrap(), 1);
    for refused in [
        migrate::run(&config).await.map(drop),
        migrate::pending(&config).await.map(drop),
        migrate::at_head(&config).await.map(drop),
        migrate::revert_last(&config).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(
            matches!(&error, MigrateError::Newer(version) if version == newer),
            "{error:?}"
        );
        assert_eq!(
            error.to_string(),
            "the schema is newer than this program knows (version 99991231235959)"
        );
    }
    assert_eq!(client.execute(rename, &[&newer, &newest]).await.unwrap(), 1);
    assert!(migrate::at_head(&config).await.unwrap());
}
