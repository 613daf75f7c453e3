//! The adapter on a real PostgreSQL: the server of `TEST_DATABASE_URL`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of tests are tests, which the lints do not see"
)]

mod adoption;
mod audit;
mod change_feed;
mod creation;
mod diagnosis;
mod foreign_rows;
mod locks;
mod migrations;
mod outage;
mod plans;
mod rights;
mod schema;
mod tls;
mod transfer;
mod usage;

use leadr_auth_ports::Stores;
use leadr_auth_postgres::testing::TestDatabase;

async fn fresh() -> (TestDatabase, Stores) {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    (database, stores)
}

/// The one block of SQL on a page of the docs.
fn sql_of(page: &str) -> &str {
    let mut blocks = page.split("```sql").skip(1);
    let (block, _) = blocks.next().unwrap().split_once("```").unwrap();
    assert!(blocks.next().is_none(), "one block is of SQL");
    block
}

mod contract {
    leadr_auth_ports::store_contract!(super::fresh);
}
