//! `Idempotency-Key`: a request that is done once, however often it is sent.

use actix_web::HttpRequest;
use actix_web::http::header::HeaderName;
use leadr_auth_domain::{Fingerprint, IdempotencyKey};

use crate::fields::{Fields, Wrong, string};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What the header says, and what tells this request from another one.
pub(crate) fn idempotency(
    request: &HttpRequest,
    route: &str,
    body: &[u8],
) -> (Fields, Option<(IdempotencyKey, Fingerprint)>) {
    let mut header = Fields::header(request, &IDEMPOTENCY_KEY, "Idempotency-Key");
    let key = header.optional("Idempotency-Key", |value| {
        IdempotencyKey::parse(string(value)?)
            .map_err(|fault| Wrong::new("idempotency_key", format!("Input is {fault}")))
    });
    (header, key.map(|key| (key, Fingerprint::of(route, body))))
}
