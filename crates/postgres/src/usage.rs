//! Where uses of keys are written down.

use async_trait::async_trait;
use diesel::{
    QueryableByName,
    pg::Pg,
    query_builder::{Query, QueryFragment, QueryId},
    sql_types::{Array, Timestamptz, Untyped, Uuid as SqlUuid},
};
use diesel_async::RunQueryDsl;
use leadr_auth_domain::KeyId;
use leadr_auth_ports::{KeyUse, StoreError, UsageStore};
use uuid::Uuid;

use crate::{error, pool::Pool, rows};

#[derive(Clone)]
pub(crate) struct Usage(pub(crate) Pool);

/// The rows are locked before any is written, and those that somebody else holds are passed over: one that somebody has left
/// locked must not keep all the others from being written, and batches that name the same keys in different orders never wait
/// for one another. Rows that are ahead already are left alone. A row that somebody has just moved is judged again as it is
/// then, which is what `READ COMMITTED` does.
///
/// Passed over is what was not locked though it is behind: that is looked up key by key, since as a rule there is none.
const RECORD: &str = "\
WITH uses AS (
    SELECT key_id, max(used_at) AS used_at
    FROM unnest($1, $2) AS named (key_id, used_at)
    GROUP BY key_id
), locked AS (
    SELECT api_keys.id, uses.used_at
    FROM api_keys JOIN uses ON uses.key_id = api_keys.id
    WHERE api_keys.last_used_at IS NULL OR api_keys.last_used_at < uses.used_at
    FOR NO KEY UPDATE OF api_keys SKIP LOCKED
), written AS (
    UPDATE api_keys SET last_used_at = locked.used_at
    FROM locked
    WHERE api_keys.id = locked.id
)
SELECT key_id
FROM uses
WHERE key_id NOT IN (SELECT id FROM locked)
    AND (SELECT last_used_at IS NULL OR last_used_at < used_at FROM api_keys WHERE id = key_id)";

#[derive(QueryableByName)]
struct PassedOver {
    #[diesel(sql_type = SqlUuid)]
    key_id: Uuid,
}

pub(crate) fn record_query(
    uses: &[KeyUse],
) -> impl Query<SqlType = Untyped> + QueryFragment<Pg> + QueryId + Send + use<> {
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
    async fn record(&self, uses: &[KeyUse]) -> Result<Vec<KeyId>, StoreError> {
        if uses.is_empty() {
            return Ok(Vec::new());
        }
        let query = record_query(uses);
        let passed_over = self
            .0
            .statement(async |connection| query.load::<PassedOver>(connection).await)
            .await?
            .map_err(error::of_query)?;
        let ids = passed_over.into_iter().map(|row| KeyId::new(row.key_id));
        Ok(ids.collect())
    }
}
