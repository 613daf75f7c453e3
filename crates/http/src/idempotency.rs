//! `Idempotency-Key`: a request that is done once, however often it is sent.

use actix_web::HttpRequest;
use actix_web::http::header::HeaderName;
use leadr_auth_domain::{Fingerprint, IdempotencyKey};
use utoipa::IntoParams;

use crate::fields::{Fields, Wrong, string};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes the header")]
pub(crate) struct OnceHeader {
    /// A name for this request, of your choosing: sent again with it within a day, the request is done no second time. Visible
    /// ASCII characters; it holds no API key.
    #[param(rename = "Idempotency-Key", value_type = String, required = false, min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
}

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
