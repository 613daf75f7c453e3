//! `/v1/forward-auth` and `/v1/ext-authz`: what a reverse proxy asks about each request before it passes it on.
//!
//! The proxy sends the request's head here. A status of 2xx lets the request pass, with the headers of the answer added to
//! it; any other answer goes to the client. So this is asked once for each request of somebody else's, and takes no detour:
//! one look at what verification knows, and nothing is written, not even where a key lacks a scope. What is asked for is the
//! application's affair, and what strangers send must not fill the trail.

use std::fmt::Write as _;

use actix_web::body::BoxBody;
use actix_web::dev::Response;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use leadr_auth_domain::{Scope, Scopes};
use leadr_auth_service::VerifiedKey;
use utoipa::IntoParams;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::ahead::Asked;
use crate::error::ApiError;
use crate::fields::{Fields, WireScope, finish};

const ACCOUNT_ID: HeaderName = HeaderName::from_static("x-leadr-account-id");
const KEY_ID: HeaderName = HeaderName::from_static("x-leadr-key-id");
const KEY_NAME: HeaderName = HeaderName::from_static("x-leadr-key-name");
const SCOPES: HeaderName = HeaderName::from_static("x-leadr-scopes");

/// What the key has to be good for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "it describes the query; what is read of it are Scopes"
)]
pub(crate) struct ForwardAuthQuery {
    /// A scope that the key needs; given once for each, all of which it needs. At most 64.
    #[param(max_items = 64)]
    scope: Option<Vec<WireScope>>,
}

/// May this request pass? For reverse proxies: any method, and the body is not read.
///
/// The key is taken from the request's headers as everywhere. Any valid key of any account is let in that has all scopes
/// which the query asks for. Refusals are not written into the audit trail.
#[utoipa::path(
    get, path = "/v1/forward-auth", tag = "Verification", params(ForwardAuthQuery),
    responses(
        (
            status = 204, description = "It may",
            headers(
                ("X-Leadr-Account-Id" = Uuid, description = "The account that the key belongs to"),
                ("X-Leadr-Key-Id" = Uuid, description = "The key's id"),
                ("X-Leadr-Key-Name" = String, description = "What people call the key, as percent-encoded UTF-8"),
                ("X-Leadr-Scopes" = String, description = "What it may be used for, separated by spaces; `*` if it has all rights of its account, empty if it has none"),
            ),
        ),
        (status = 403, description = "The key lacks a scope that the query asks for", body = crate::error::ErrorBody),
    ),
)]
pub(crate) async fn forward_auth(asked: &mut Asked<'_>) -> Result<Response<BoxBody>, ApiError> {
    admit(asked, StatusCode::NO_CONTENT).await
}

/// May this request pass? As `/v1/forward-auth`, for Envoy, which passes a request on for a 200 and for nothing else.
#[utoipa::path(
    get, path = "/v1/ext-authz", tag = "Verification", params(ForwardAuthQuery),
    responses(
        (
            status = 200, description = "It may",
            headers(
                ("X-Leadr-Account-Id" = Uuid, description = "The account that the key belongs to"),
                ("X-Leadr-Key-Id" = Uuid, description = "The key's id"),
                ("X-Leadr-Key-Name" = String, description = "What people call the key, as percent-encoded UTF-8"),
                ("X-Leadr-Scopes" = String, description = "What it may be used for, separated by spaces; `*` if it has all rights of its account, empty if it has none"),
            ),
        ),
        (status = 403, description = "The key lacks a scope that the query asks for", body = crate::error::ErrorBody),
    ),
)]
pub(crate) async fn ext_authz(asked: &mut Asked<'_>) -> Result<Response<BoxBody>, ApiError> {
    admit(asked, StatusCode::OK).await
}

/// Answers with a status that lets the request pass, or refuses it.
async fn admit(asked: &mut Asked<'_>, pass: StatusCode) -> Result<Response<BoxBody>, ApiError> {
    let query = asked.query();
    let key = asked.caller().await?;
    if let Some(scope) = first_missing(query, key)? {
        return Err(ApiError::ScopeLacking(scope));
    }
    let name = encode(key.name()).map_err(ApiError::internal)?;
    let scopes = scopes(key.scopes()).map_err(ApiError::internal)?;
    let mut response = Response::with_body(pass, BoxBody::new(()));
    let headers = response.headers_mut();
    headers.insert(ACCOUNT_ID, id(key.account_id().as_uuid())?);
    headers.insert(KEY_ID, id(key.id().as_uuid())?);
    headers.insert(KEY_NAME, name);
    headers.insert(SCOPES, scopes);
    Ok(response)
}

/// The first scope that the query asks for and the key lacks. The whole query is looked at in any case: a proxy that is set up
/// wrongly is to hear of it whatever key comes along.
fn first_missing(query: &str, key: &VerifiedKey) -> Result<Option<Scope>, ApiError> {
    if query.is_empty() {
        return Ok(None);
    }
    if let Ok(missing) = first_missing_of_plain(query, key) {
        return Ok(missing);
    }
    let mut query = Fields::strict_query(query);
    let scopes = query.each_scope("scope");
    let scopes = finish([query], Some(scopes))?;
    Ok(scopes.into_iter().find(|scope| !key.holds(scope)))
}

/// Some character of a query is encoded, or something is wrong with it.
struct NotPlain;

/// The same for a query that is as queries are as a rule, without taking it apart into memory of its own.
fn first_missing_of_plain(query: &str, key: &VerifiedKey) -> Result<Option<Scope>, NotPlain> {
    let mut missing = None;
    for (n, pair) in query.split('&').enumerate() {
        let scope = pair.strip_prefix("scope=").ok_or(NotPlain)?;
        let scope = Scope::parse(scope).map_err(|_| NotPlain)?;
        if n >= Fields::MAX_SCOPES {
            return Err(NotPlain);
        }
        if missing.is_none() && !key.holds(&scope) {
            missing = Some(scope);
        }
    }
    Ok(missing)
}

fn id(id: Uuid) -> Result<HeaderValue, ApiError> {
    let mut text = [0; Hyphenated::LENGTH];
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)).map_err(ApiError::internal)
}

fn scopes(scopes: &Scopes) -> Result<HeaderValue, InvalidValue> {
    let Scopes::Only(scopes) = scopes else {
        return Ok(HeaderValue::from_static("*"));
    };
    let mut text = String::new();
    for scope in scopes.iter() {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(scope.as_str());
    }
    HeaderValue::try_from(text)
}

type InvalidValue = actix_web::http::header::InvalidHeaderValue;

/// A text as the value of a header: visible ASCII but `%` stays, all else is its UTF-8, percent-encoded.
fn encode(text: &str) -> Result<HeaderValue, InvalidValue> {
    if text.bytes().all(stays) {
        return HeaderValue::from_str(text);
    }
    let mut encoded = String::with_capacity(text.len() * 3);
    push_encoded(&mut encoded, text);
    HeaderValue::try_from(encoded)
}

fn stays(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'%'
}

fn push_encoded(to: &mut String, text: &str) {
    for byte in text.bytes() {
        if stays(byte) {
            to.push(byte.into());
        } else {
            // Writing to a String cannot fail.
            let _ = write!(to, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_becomes_the_value_of_a_header() {
        for (text, value) in [
            ("Plain", "Plain"),
            ("", ""),
            ("Build server", "Build%20server"),
            ("100%", "100%25"),
            ("%41", "%2541"),
            ("\"a\", b;c=d", "\"a\",%20b;c=d"),
            ("ü🔑", "%C3%BC%F0%9F%94%91"),
            (
                "a\r\nX-Leadr-Scopes: *\0\x7f\t",
                "a%0D%0AX-Leadr-Scopes:%20*%00%7F%09",
            ),
        ] {
            assert_eq!(encode(text).unwrap(), value, "{text:?}");
        }
        let everything: String = (0..=0x2_ffff).filter_map(char::from_u32).collect();
        let value = encode(&everything).unwrap();
        assert!(value.as_bytes().iter().all(u8::is_ascii_graphic));
    }

    #[test]
    fn scopes_become_the_value_of_a_header() {
        for (stored, value) in [
            (None, "*"),
            (Some(""), ""),
            (Some("docs:* keys:read"), "docs:* keys:read"),
            // Nobody could issue these; the first would say that it has all rights.
            (Some("* docs:read"), "docs:read"),
            (Some("*"), ""),
            (Some("%2A a\0\u{a0} keys:*"), "keys:*"),
        ] {
            assert_eq!(scopes(&Scopes::from_store(stored)).unwrap(), value);
        }
    }
}
