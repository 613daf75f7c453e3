//! Requests that are to be done once.

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use leadr_auth_domain::{Fingerprint, IdempotentRequest};
use leadr_auth_ports::Once;
use uuid::Uuid;

use crate::{error::Stop, rows, schema::idempotent_requests};

/// Another request of the same caller has the same name.
pub(crate) struct OtherRequest;

/// Notes, in the transaction in which it is done, that a request makes this record; or answers which record was made when it was
/// sent before. Of several that come at once the others wait for the first to be committed.
pub(crate) async fn claim(
    connection: &mut AsyncPgConnection,
    request: &IdempotentRequest,
    record: Uuid,
) -> Result<Once<Uuid>, Stop<OtherRequest>> {
    use idempotent_requests::{caller, fingerprint, idempotency_key, made_at, record_id, table};
    let (by, name) = (request.caller.as_uuid(), request.key.as_str());
    let old = made_at.le(rows::instant(request.forgotten_until()));
    diesel::delete(table.filter(caller.eq(by)).filter(old))
        .execute(connection)
        .await?;
    let noted = diesel::insert_into(table)
        .values((
            caller.eq(by),
            idempotency_key.eq(name),
            fingerprint.eq(request.fingerprint.as_bytes().as_slice()),
            made_at.eq(rows::instant(request.at)),
            record_id.eq(record),
        ))
        .on_conflict_do_nothing()
        .execute(connection)
        .await?;
    if noted > 0 {
        return Ok(Once::Now(record));
    }
    let (known, made): (Vec<u8>, Uuid) = table
        .find((by, name))
        .select((fingerprint, record_id))
        .get_result(connection)
        .await?;
    if Fingerprint::from_store(&known) == request.fingerprint {
        Ok(Once::Before(made))
    } else {
        Err(Stop::Refused(OtherRequest))
    }
}
