//! How SQLite means to run queries, for tests.

use diesel::{
    connection::SimpleConnection as _,
    debug_query,
    prelude::*,
    query_builder::QueryFragment,
    sql_types::Text,
    sqlite::{Sqlite, SqliteConnection},
};
use diesel_migrations::MigrationHarness as _;

use crate::migrate;

#[derive(QueryableByName)]
struct Step {
    #[diesel(sql_type = Text)]
    detail: String,
}

/// What `ANALYZE` finds in a store of two accounts with a million keys each.
const CROWDED: &str = "
    ANALYZE;
    DELETE FROM sqlite_stat1;
    INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
        ('accounts', 'sqlite_autoindex_accounts_1', '100000 1'),
        ('accounts', 'accounts_live_name_key', '100000 1'),
        ('accounts', 'accounts_live_slug_key', '100000 1'),
        ('accounts', 'accounts_live_by_creation', '100000 2 1'),
        ('accounts', 'accounts_live_by_name', '100000 1 1'),
        ('api_keys', 'sqlite_autoindex_api_keys_1', '2000000 1'),
        ('api_keys', 'ix_api_keys_key_prefix', '2000000 1'),
        ('api_keys', 'api_keys_live_by_account', '2000000 1000000 2 1'),
        ('api_keys', 'api_keys_live_by_name', '2000000 1000000 2 1'),
        ('audit_entries', 'sqlite_autoindex_audit_entries_1', '2000000 1000000 1'),
        ('audit_entries', 'audit_entries_by_time', '2000000 2 1 1');
    ANALYZE sqlite_schema";

/// How SQLite runs a query: as it goes by the indexes alone, where nobody has had it look at what is in them; and just so
/// where somebody has.
pub(crate) fn plan(query: &impl QueryFragment<Sqlite>) -> String {
    let [unknown, crowded] = ["", CROWDED].map(|statistics| plan_with(statistics, query));
    assert_eq!(unknown, crowded);
    unknown
}

fn plan_with(statistics: &str, query: &impl QueryFragment<Sqlite>) -> String {
    let mut connection = SqliteConnection::establish(":memory:").unwrap();
    connection
        .run_pending_migrations(migrate::MIGRATIONS)
        .unwrap();
    connection.batch_execute(statistics).unwrap();
    let query = debug_query::<Sqlite, _>(query).to_string();
    let (query, _) = query.split_once(" -- binds").unwrap();
    #[expect(clippy::disallowed_methods, reason = "Diesel has no words for it")]
    let steps = diesel::sql_query(format!("EXPLAIN QUERY PLAN {query}"));
    let steps: Vec<Step> = steps.load(&mut connection).unwrap();
    let lines: Vec<_> = steps.into_iter().map(|step| step.detail).collect();
    lines.join("\n")
}
