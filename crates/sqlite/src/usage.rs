//! Where uses of keys are written down.

use async_trait::async_trait;
use diesel::prelude::*;
use leadr_auth_domain::KeyId;
use leadr_auth_ports::{KeyUse, StoreError, UsageStore};

use crate::{
    error,
    pool::{Done, Pool},
    rows::Id,
    schema::api_keys,
};

#[derive(Clone)]
pub(crate) struct Usage(pub(crate) Pool);

#[async_trait]
impl UsageStore for Usage {
    /// Nobody holds a single key here.
    async fn record(&self, uses: &[KeyUse]) -> Result<Vec<KeyId>, StoreError> {
        if uses.is_empty() {
            return Ok(Vec::new());
        }
        let uses = uses.to_vec();
        // A statement each, prepared once: there is no way to the database that statements would have to be saved for.
        let recorded = self.0.write(move |connection| {
            for KeyUse { key_id, used_at } in uses {
                let used_at = used_at.unix_micros();
                let behind = api_keys::last_used_at
                    .is_null()
                    .or(api_keys::last_used_at.lt(used_at));
                diesel::update(api_keys::table.find(Id::from(key_id)).filter(behind))
                    .set(api_keys::last_used_at.eq(used_at))
                    .execute(connection)?;
            }
            Ok(Done::unheard(Vec::new()))
        });
        recorded.await?.map_err(error::of_query)
    }
}
