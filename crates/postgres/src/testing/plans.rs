//! How PostgreSQL means to run the queries of the hot path and of the long lists.

use diesel::{
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::Text,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use leadr_auth_domain::KeyId;
use leadr_auth_ports::{AccountQuery, AuditQuery, KeyQuery, KeyUse, Rehash};

use crate::{Postgres, accounts, audit, keys, listing::Paged, secrets, usage};

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
        self.explain(keys::find_from_query(prefix)).await
    }

    /// The plan of reading a key by its id.
    pub async fn explain_get(&self, id: KeyId) -> String {
        self.explain(keys::get_from_query(id.as_uuid())).await
    }

    /// The plans of a page of an account's keys: of looking for its end, and of what is looked at up to there.
    pub async fn explain_keys(&self, query: &KeyQuery) -> [String; 2] {
        let nth = query.looks_at().unwrap_or(query.limit);
        let horizon = self.horizon(query, query.looks_at()).await;
        [
            self.explain(keys::horizon_query(query, nth)).await,
            self.explain(keys::page_query(query, horizon.as_ref()))
                .await,
        ]
    }

    /// The plan of a page of the accounts.
    pub async fn explain_accounts(&self, query: &AccountQuery) -> String {
        self.explain(accounts::page_query(query, None)).await
    }

    /// The plans of a page of the audit trail, as [`Postgres::explain_keys`].
    pub async fn explain_audit(&self, query: &AuditQuery) -> [String; 2] {
        let nth = query.looks_at().unwrap_or(query.limit);
        let horizon = self.horizon(query, query.looks_at()).await;
        [
            self.explain(audit::horizon_query(query, nth)).await,
            self.explain(audit::page_query(query, horizon.as_ref()))
                .await,
        ]
    }

    /// Up to where a page looks.
    async fn horizon<List: Paged>(&self, list: &List, most: Option<u32>) -> Option<List::Place> {
        let most = most?;
        self.pool
            .statement(async |connection| list.horizon(connection, most).await)
            .await
            .expect("a connection")
            .expect("the end can be looked for")
    }

    /// The plan of recording uses.
    pub async fn explain_record(&self, uses: &[KeyUse]) -> String {
        self.explain(usage::record_query(uses)).await
    }

    /// The plan of hashing keys anew.
    pub async fn explain_rehash(&self, keys: &[Rehash]) -> String {
        self.explain(secrets::rehash_query(keys)).await
    }

    async fn explain<Q: QueryFragment<Pg> + Send>(&self, query: Q) -> String {
        let lines: Vec<String> = self
            .pool
            .statement(async |connection| Explain(query).load(connection).await)
            .await
            .expect("a connection")
            .expect("the query can be explained");
        lines.join("\n")
    }
}
