//! Where uses of keys are written down.

use async_trait::async_trait;
use diesel::{
    pg::Pg,
    query_builder::{QueryFragment, QueryId},
    sql_types::{Array, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::RunQueryDsl;
use leadr_auth_ports::{KeyUse, StoreError, UsageStore};

use crate::{error, pool::Pool, rows};

#[derive(Clone)]
pub(crate) struct Usage(pub(crate) Pool);

/// The rows are locked in the order of their ids before any is written: batches that name the same keys in different
/// orders then wait for one another, and never each for the other. Rows that are ahead already are left alone. A row that
/// somebody moved while this one waited is judged again as it is then, which is what `READ COMMITTED` does.
const RECORD: &str = "\
WITH uses AS (
    SELECT key_id, max(used_at) AS used_at
    FROM unnest($1, $2) AS named (key_id, used_at)
    GROUP BY key_id
), locked AS (
    SELECT api_keys.id, uses.used_at
    FROM api_keys JOIN uses ON uses.key_id = api_keys.id
    WHERE api_keys.last_used_at IS NULL OR api_keys.last_used_at < uses.used_at
    ORDER BY api_keys.id
    FOR NO KEY UPDATE OF api_keys
)
UPDATE api_keys SET last_used_at = locked.used_at
FROM locked
WHERE api_keys.id = locked.id
    AND (api_keys.last_used_at IS NULL OR api_keys.last_used_at < locked.used_at)";

pub(crate) fn record_query(uses: &[KeyUse]) -> impl QueryFragment<Pg> + QueryId + Send + use<> {
    let (ids, times): (Vec<_>, Vec<_>) = uses
        .iter()
        .map(|used| (used.key_id.as_uuid(), rows::instant(used.used_at)))
        .unzip();
    #[expect(
        clippy::disallowed_methods,
        reason = "Diesel has no words for unnest, for an update from a subquery, or for locking in order"
    )]
    let query = diesel::sql_query(RECORD);
    query
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Timestamptz>, _>(times)
}

#[async_trait]
impl UsageStore for Usage {
    async fn record(&self, uses: &[KeyUse]) -> Result<(), StoreError> {
        if uses.is_empty() {
            return Ok(());
        }
        let query = record_query(uses);
        self.0
            .statement(async |connection| query.execute(connection).await)
            .await?
            .map(drop)
            .map_err(error::of_query)
    }
}
