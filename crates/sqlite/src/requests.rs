//! Requests that are to be done once.

use diesel::{prelude::*, sqlite::SqliteConnection};
use leadr_auth_domain::{Fingerprint, IdempotentRequest};
use leadr_auth_ports::Once;

use crate::{
    error::{Stop, Violation},
    rows::Id,
    schema::idempotent_requests,
};

/// Notes, in the transaction in which it is done, that a request makes this record; or answers which record was made when it was
/// sent before.
pub(crate) fn claim(
    connection: &mut SqliteConnection,
    request: &IdempotentRequest,
    record: Id,
) -> Result<Once<Id>, Stop> {
    use idempotent_requests::{caller, fingerprint, idempotency_key, made_at, record_id, table};
    let (by, name) = (Id::from(request.caller), request.key.as_str());
    let old = made_at.le(request.forgotten_until().unix_micros());
    diesel::delete(table.filter(caller.eq(by)).filter(old)).execute(connection)?;
    let known = table
        .find((by, name))
        .select((fingerprint, record_id))
        .get_result::<(Vec<u8>, Id)>(connection)
        .optional()?;
    if let Some((known, made)) = known {
        return if Fingerprint::from_store(&known) == request.fingerprint {
            Ok(Once::Before(made))
        } else {
            Err(Stop::Rule(Violation::OtherRequest))
        };
    }
    diesel::insert_into(table)
        .values((
            caller.eq(by),
            idempotency_key.eq(name),
            fingerprint.eq(request.fingerprint.as_bytes().as_slice()),
            made_at.eq(request.at.unix_micros()),
            record_id.eq(record),
        ))
        .execute(connection)?;
    Ok(Once::Now(record))
}
