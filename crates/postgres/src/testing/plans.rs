//! How PostgreSQL means to run the queries of the hot path and of the long lists.

use diesel::{
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::Text,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use leadr_auth_ports::{KeyFilter, KeyUse};

use crate::{Postgres, keys, pool::Lease, usage};

/// `EXPLAIN`, and then a query just as the adapter sends it.
#[derive(Clone, Copy)]
struct Explain<Q>(Q);

impl<Q> QueryId for Explain<Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q> Query for Explain<Q> {
    type SqlType = Text;
}

impl<Q: QueryFragment<Pg>> QueryFragment<Pg> for Explain<Q> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> diesel::QueryResult<()> {
        out.unsafe_to_cache_prepared();
        out.push_sql("EXPLAIN ");
        self.0.walk_ast(out.reborrow())
    }
}

impl<Q> diesel::RunQueryDsl<AsyncPgConnection> for Explain<Q> {}

impl Postgres {
    /// The plan of the lookup.
    pub async fn explain_find(&self, prefix: &str) -> String {
        self.explain(keys::find_query(prefix)).await
    }

    /// The plan of a list.
    pub async fn explain_list(&self, filter: KeyFilter) -> String {
        self.explain(keys::list_query(filter)).await
    }

    /// The plan of recording uses.
    pub async fn explain_record(&self, uses: &[KeyUse]) -> String {
        self.explain(usage::record_query(uses)).await
    }

    async fn explain<Q: QueryFragment<Pg> + Send>(&self, query: Q) -> String {
        let mut lease = Lease::default();
        let connection = lease.open(&self.pool).await.expect("a connection");
        let lines: Vec<String> = Explain(query)
            .load(connection)
            .await
            .expect("the query can be explained");
        lease.give_back();
        lines.join("\n")
    }
}
