//! How SQLite means to run queries, for tests.

use diesel::{
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

/// How SQLite runs a query on empty tables: it goes by the indexes alone.
pub(crate) fn plan(query: &impl QueryFragment<Sqlite>) -> String {
    let mut connection = SqliteConnection::establish(":memory:").unwrap();
    connection
        .run_pending_migrations(migrate::MIGRATIONS)
        .unwrap();
    let query = debug_query::<Sqlite, _>(query).to_string();
    let (query, _) = query.split_once(" -- binds").unwrap();
    #[expect(clippy::disallowed_methods, reason = "Diesel has no words for it")]
    let steps = diesel::sql_query(format!("EXPLAIN QUERY PLAN {query}"));
    let steps: Vec<Step> = steps.load(&mut connection).unwrap();
    let lines: Vec<_> = steps.into_iter().map(|step| step.detail).collect();
    lines.join("\n")
}
