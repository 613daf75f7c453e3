//! What a role has to be allowed: to serve no more than `docs/configuration.md` says, and to ask nothing that changes
//! anything.

use std::sync::Arc;

use async_trait::async_trait;
use leadr_auth_domain::{AuditDraft, AuditEntry, Checkpoint};
use leadr_auth_ports::{
    AuditPlace, AuditQuery, AuditStore, Pruned, StoreError, Stores,
    contract::fixtures::{account, at, entry, key, upto},
    listing::Page,
};
use leadr_auth_postgres::{
    Postgres, PostgresConfig, migrate,
    testing::{TestDatabase, TestRole, reference},
};

/// The statements of `docs/configuration.md` by which a role gets what a server needs.
fn documented(role: &str) -> String {
    let block = crate::sql_of(include_str!("../../../../docs/configuration.md"));
    assert!(block.contains("leadr_server"), "{block}");
    block.replace("leadr_server", role)
}

/// A database with the schema in it, and a role with the documented rights.
async fn granted() -> (TestDatabase, TestRole) {
    let mut database = TestDatabase::create().await;
    let role = database.create_role().await;
    let client = database.client().await;
    client.batch_execute(&documented(&role.name)).await.unwrap();
    (database, role)
}

/// A patient configuration for a role.
fn config(database: &TestDatabase, role: &TestRole) -> PostgresConfig {
    PostgresConfig {
        url: role.url.clone(),
        ..database.config()
    }
}

/// Every relation that is not the server's own.
async fn relations(database: &TestDatabase) -> Vec<String> {
    let query = "SELECT relname::text FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' ORDER BY relname";
    let rows = database.client().await.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The trail by the documented rights, and pruned by its owner: a server may not do that, on purpose.
struct PrunedByItsOwner {
    served: Arc<dyn AuditStore>,
    owner: Arc<dyn AuditStore>,
}

#[async_trait]
impl AuditStore for PrunedByItsOwner {
    async fn append(&self, entry: &AuditDraft) -> Result<(), StoreError> {
        self.served.append(entry).await
    }

    async fn page(&self, query: &AuditQuery) -> Result<Page<AuditEntry, AuditPlace>, StoreError> {
        self.served.page(query).await
    }

    async fn prune(&self, upto: &[Checkpoint], entry: &AuditDraft) -> Result<Pruned, StoreError> {
        self.owner.prune(upto, entry).await
    }
}

/// All that the stores promise, they do with the documented rights, save pruning.
mod contract {
    async fn served() -> (super::TestDatabase, super::Stores) {
        let (database, role) = super::granted().await;
        let postgres = super::Postgres::new(super::config(&database, &role)).unwrap();
        let mut stores = postgres.stores();
        stores.audit = std::sync::Arc::new(super::PrunedByItsOwner {
            served: stores.audit,
            owner: database.stores().audit,
        });
        (database, stores)
    }

    leadr_auth_ports::store_contract!(served);
}

/// What a diagnosis asks for is what is documented.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_the_documented_rights_lacks_none() {
    let (database, role) = granted().await;
    let postgres = Postgres::new(config(&database, &role)).unwrap();
    assert_eq!(postgres.feed_faults().await.unwrap(), [""; 0]);
    assert_eq!(postgres.write_faults().await.unwrap(), [""; 0]);
}

/// Whoever has taken over a server's connection cannot make undone what it wrote down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_may_add_to_the_trail_and_not_change_it() {
    let (database, role) = granted().await;
    let stores = Postgres::new(config(&database, &role)).unwrap().stores();
    stores.audit.append(&entry()).await.unwrap();
    let (client, connection) = tokio_postgres::connect(&role.url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    for denied in [
        "UPDATE audit_entries SET action = 'key.renamed'",
        "DELETE FROM audit_entries",
        "TRUNCATE audit_entries",
        "DELETE FROM audit_heads",
        "TRUNCATE audit_heads",
        "INSERT INTO audit_checkpoints SELECT chain, seq, hash, now(), code FROM audit_heads",
        "UPDATE audit_checkpoints SET seq = 1",
        "DELETE FROM audit_checkpoints",
        "TRUNCATE audit_checkpoints",
        "ALTER TABLE audit_entries RENAME TO other",
        "DROP TABLE audit_entries",
    ] {
        let error = client.batch_execute(denied).await.unwrap_err();
        let code = error.code();
        assert_eq!(
            code,
            Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE),
            "{denied}: {error:?}"
        );
    }
    let query = AuditQuery::of(None, 10);
    let listed = stores.audit.page(&query).await.unwrap();
    let all = [upto(&listed.rows[0], at(9))];
    assert!(stores.audit.prune(&all, &entry()).await.is_err());
    assert_eq!(stores.audit.page(&query).await.unwrap(), listed);
    // It is the rights that are missing.
    let pruned = database.stores().audit.prune(&all, &entry()).await;
    assert_eq!(pruned.unwrap().entries, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_change_the_schema_can_ask_for_it() {
    let (database, role) = granted().await;
    let config = config(&database, &role);
    assert!(migrate::pending(&config).await.unwrap().is_empty());
    assert!(migrate::at_head(&config).await.unwrap());
    // Nothing is to be done.
    assert!(migrate::run(&config).await.unwrap().is_empty());
    let postgres = Postgres::new(config.clone()).unwrap();
    postgres.clock().await.unwrap();
    postgres.settings().await.unwrap();

    // Where something is to be done, it may not do it.
    let newest = migrate::revert_last(&database.config()).await.unwrap();
    let pending = migrate::pending(&config).await.unwrap();
    assert_eq!(Some(pending), newest.map(|version| vec![version]));
    let error = migrate::run(&config).await.unwrap_err();
    assert!(
        matches!(&error, migrate::MigrateError::Failed(source) if source.to_string().contains("permission denied")),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_leaves_nothing_behind() {
    for database in [TestDatabase::create_empty().await, reference().await] {
        let before = relations(&database).await;
        let config = database.config();
        assert!(!migrate::pending(&config).await.unwrap().is_empty());
        assert!(!migrate::at_head(&config).await.unwrap());
        assert_eq!(migrate::revert_last(&config).await.unwrap(), None);
        assert_eq!(relations(&database).await, before);
    }
}

/// A migration that takes long is another's, and no reason to wait: what has run has run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_waits_for_nobody_who_migrates() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let lock = i64::from_be_bytes(*b"leadrath");
    let query = "SELECT pg_advisory_lock($1)";
    client.execute(query, &[&lock]).await.unwrap();
    assert!(migrate::at_head(&database.config()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_missing_is_named() {
    let (database, role) = granted().await;
    let (config, name) = (config(&database, &role), &role.name);
    let client = database.client().await;
    for (revoke, expected) in [
        (
            format!("REVOKE SELECT ON __diesel_schema_migrations FROM {name}"),
            "the role may not see which migrations have run: it lacks SELECT on __diesel_schema_migrations",
        ),
        // The server then says that there is no such table.
        (
            "REVOKE USAGE ON SCHEMA public FROM PUBLIC".to_owned(),
            "the role may not see which migrations have run: it lacks USAGE on any schema of its search_path",
        ),
    ] {
        client.batch_execute(&revoke).await.unwrap();
        for error in [
            migrate::pending(&config).await.unwrap_err(),
            migrate::run(&config).await.unwrap_err(),
        ] {
            assert_eq!(error.to_string(), expected, "{error:?}");
        }
    }
}

/// A server that lets in so few does not fail those who can wait for one that is in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_refused_another_connection_waits_for_an_open_one() {
    let (database, role) = granted().await;
    let limit = format!("ALTER ROLE {} CONNECTION LIMIT 2", role.name);
    database.client().await.batch_execute(&limit).await.unwrap();
    let config = PostgresConfig {
        pool_size: 10,
        ..config(&database, &role)
    };
    let stores = Postgres::new(config).unwrap().stores();
    let prefix = key(1, &account(1)).key_prefix;
    assert!(stores.lookup.find(&prefix).await.unwrap().is_none());
    let lookups: Vec<_> = (0..40)
        .map(|_| {
            let (lookup, prefix) = (Arc::clone(&stores.lookup), prefix.clone());
            tokio::spawn(async move { lookup.find(&prefix).await })
        })
        .collect();
    for found in lookups {
        assert!(found.await.unwrap().unwrap().is_none());
    }
    assert!(stores.health.load().open <= 2);
}
