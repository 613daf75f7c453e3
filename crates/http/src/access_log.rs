//! Gives every request an id, every answer its headers, and the log one line for both.
//!
//! The line is made of what is listed here and of nothing else: no header is logged by default, no query ever, and no path
//! but the route's pattern. So no key can get into it by way of a place that nobody thought of.

use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    CACHE_CONTROL, HeaderName, HeaderValue, USER_AGENT, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, web};
use leadr_auth_domain::redact_keys;
use leadr_auth_service::Chain;

use crate::State;
use crate::credential::AuthenticatedBy;
use crate::error::ApiError;

/// By which a request is found again in the logs of all that it went through.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is taken over from a client.
const MAX_REQUEST_ID: usize = 128;

pub(crate) async fn observe(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let started = Instant::now();
    let request_id = request_id(&request);
    let mut response = next.call(request).await?;
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    log(&response, &request_id, started);
    Ok(response)
}

/// The client's own id, where it is one and hides no key; else a new one.
fn request_id(request: &ServiceRequest) -> String {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let well_formed = |id: &&str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
        !id.is_empty()
            && id.len() <= MAX_REQUEST_ID
            && id.bytes().all(allowed)
            && redact_keys(id) == **id
    };
    match (
        given.filter(well_formed),
        request.app_data::<web::Data<State>>(),
    ) {
        (Some(id), _) => id.to_owned(),
        (None, Some(state)) => state.next_request_id(),
        (None, None) => String::new(),
    }
}

fn log(response: &ServiceResponse<impl MessageBody>, request_id: &str, started: Instant) {
    let request = response.request();
    let status = response.status().as_u16();
    let failure = response
        .response()
        .error()
        .and_then(|error| error.as_error::<ApiError>());
    if let Some(error) = failure.and_then(ApiError::failure) {
        let (route, error) = (request.match_pattern(), Chain(error));
        if status == 500 {
            tracing::error!(request_id, route, %error, "request failed");
        } else {
            tracing::warn!(request_id, route, %error, "request could not be served now");
        }
    }
    // What the line is made of costs more than the line, where nobody wants it.
    if !tracing::enabled!(target: "leadr_auth::access", tracing::Level::INFO) {
        return;
    }
    let user_agent = request
        .headers()
        .get(USER_AGENT)
        .and_then(|value| value.to_str().ok());
    let user_agent = redact_keys(user_agent.unwrap_or_default());
    let by = request.extensions().get::<AuthenticatedBy>().copied();
    tracing::info!(
        target: "leadr_auth::access",
        request_id,
        method = method(request.method()),
        route = request.match_pattern().as_deref().unwrap_or("unknown"),
        status,
        duration_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        client = request.peer_addr().map(|peer| peer.ip().to_string()),
        user_agent = &*user_agent,
        key_id = by.map(|by| by.key_id.to_string()),
        account_id = by.map(|by| by.account_id.to_string()),
        "request"
    );
}

/// The method, if it is one of the usual: a client may invent others, a key among them.
fn method(method: &actix_web::http::Method) -> &'static str {
    use actix_web::http::Method;
    [
        (&Method::GET, "GET"),
        (&Method::HEAD, "HEAD"),
        (&Method::POST, "POST"),
        (&Method::PATCH, "PATCH"),
        (&Method::PUT, "PUT"),
        (&Method::DELETE, "DELETE"),
        (&Method::OPTIONS, "OPTIONS"),
    ]
    .into_iter()
    .find_map(|(usual, name)| (usual == method).then_some(name))
    .unwrap_or("other")
}
