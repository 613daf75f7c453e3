//! Which server secret the stored keys are hashed under.

use async_trait::async_trait;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use leadr_auth_domain::PepperCheck;
use leadr_auth_ports::{SecretRegistry, StoreError};

use crate::{error, pool::Pool, schema::peppers};

/// The id of the one row that there is for now.
const THE_SECRET: &str = "default";

#[derive(Clone)]
pub(crate) struct Secrets(pub(crate) Pool);

/// The registered value, if there is one.
pub(crate) async fn registered(
    connection: &mut AsyncPgConnection,
) -> diesel::QueryResult<Option<PepperCheck>> {
    let found = peppers::table
        .find(THE_SECRET)
        .select(peppers::check_value)
        .get_result(connection)
        .await
        .optional()?;
    Ok(found.map(PepperCheck::from_store))
}

#[async_trait]
impl SecretRegistry for Secrets {
    async fn registered(&self) -> Result<Option<PepperCheck>, StoreError> {
        self.0
            .statement(async |connection| registered(connection).await)
            .await?
            .map_err(error::of_query)
    }

    async fn register(&self, check: &PepperCheck) -> Result<PepperCheck, StoreError> {
        // One statement: where a row is there, it is written as it is, which answers it, also to those who came at the same
        // time and had to wait for it. `DO NOTHING` would answer them nothing.
        let query = diesel::insert_into(peppers::table)
            .values((
                peppers::id.eq(THE_SECRET),
                peppers::check_value.eq(check.expose_hex()),
            ))
            .on_conflict(peppers::id)
            .do_update()
            .set(peppers::check_value.eq(peppers::check_value))
            .returning(peppers::check_value);
        let registered = self
            .0
            .statement(async |connection| query.get_result::<String>(connection).await)
            .await?
            .map_err(error::of_query)?;
        Ok(PepperCheck::from_store(registered))
    }
}
