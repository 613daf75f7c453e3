//! Whether the database answers, and how busy the connections to it are.

use async_trait::async_trait;
use diesel_async::RunQueryDsl;
use leadr_auth_ports::{StoreError, StoreHealth, StoreLoad};

use crate::{error, keys, pool::Pool};

#[derive(Clone)]
pub(crate) struct Health(pub(crate) Pool);

#[async_trait]
impl StoreHealth for Health {
    async fn ping(&self) -> Result<(), StoreError> {
        // The lookup itself, whatever it finds: that answers only where the schema is there, and is as quick as a `SELECT 1`.
        let query = keys::find_from_query("");
        self.0
            .lookup(async |connection| query.execute(connection).await)
            .await?
            .map(drop)
            .map_err(error::of_query)
    }

    fn load(&self) -> StoreLoad {
        self.0.status()
    }
}
