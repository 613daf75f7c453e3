//! Which server secret the keys are hashed under.

use async_trait::async_trait;
use diesel::{prelude::*, sqlite::SqliteConnection};
use leadr_auth_domain::PepperCheck;
use leadr_auth_ports::{SecretRegistry, StoreError};

use crate::{error, pool::Pool, schema::peppers};

/// The id of the one row that there is for now, as in PostgreSQL.
const THE_SECRET: &str = "default";

#[derive(Clone)]
pub(crate) struct Secrets(pub(crate) Pool);

pub(crate) fn registered(connection: &mut SqliteConnection) -> QueryResult<Option<PepperCheck>> {
    let found = peppers::table
        .find(THE_SECRET)
        .select(peppers::check_value)
        .get_result(connection)
        .optional()?;
    Ok(found.map(PepperCheck::from_store))
}

#[async_trait]
impl SecretRegistry for Secrets {
    async fn registered(&self) -> Result<Option<PepperCheck>, StoreError> {
        self.0.read(registered).await
    }

    async fn register(&self, check: &PepperCheck) -> Result<PepperCheck, StoreError> {
        let value = check.expose_hex().to_owned();
        let answered = self.0.write(move |connection| {
            diesel::insert_into(peppers::table)
                .values((peppers::id.eq(THE_SECRET), peppers::check_value.eq(value)))
                .on_conflict_do_nothing()
                .execute(connection)?;
            registered(connection)
        });
        answered
            .await?
            .map_err(error::of_query)?
            .ok_or_else(|| StoreError::internal("a secret that was registered is not there"))
    }
}
