//! Whether the database answers.

use async_trait::async_trait;
use diesel::prelude::*;
use leadr_auth_ports::{StoreError, StoreHealth, StoreLoad};

use crate::{keys, pool::Pool};

#[derive(Clone)]
pub(crate) struct Health(pub(crate) Pool);

#[async_trait]
impl StoreHealth for Health {
    async fn ping(&self) -> Result<(), StoreError> {
        // The lookup itself, whatever it finds: that answers only where the schema is there.
        self.0
            .lookup(|connection| keys::find_from_query("").execute(connection).map(drop))
            .await
    }

    fn load(&self) -> StoreLoad {
        self.0.load()
    }
}
