//! Who is asking? The extractors by which a handler says that it wants to know.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::dev::{Payload, RequestHead};
use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, web};
use leadr_auth_domain::{
    Access, AccountId, Actor, KeyId, KeyRecord, OperatorAccess, PlainKey, Principal,
};
use leadr_auth_service::{Authentication, Caller, Service, Verification, VerifiedKey};

use crate::State;
use crate::error::ApiError;
use crate::routes::{Route, Who, route_of};

/// Needs a valid key that has the scopes which the route's row in the table asks for. The reference calls it
/// `require_api_key`.
pub(crate) struct RequireKey {
    caller: Box<Caller>,
    principal: Principal,
}

impl RequireKey {
    /// Whose records the caller may reach.
    pub(crate) const fn access(&self) -> Access {
        self.principal.access
    }

    /// The key and its account, as they were found.
    pub(crate) fn record(self) -> KeyRecord {
        self.caller.record
    }

    /// Who the caller is, and what it may do.
    pub(crate) fn principal(self) -> Principal {
        self.principal
    }
}

/// Needs a valid key of an operator.
pub(crate) struct RequireOperator(pub(crate) OperatorAccess);

/// Which key authenticated the request, if one did.
pub(crate) fn authenticated_by(request: &HttpRequest) -> Option<(KeyId, AccountId)> {
    match request.extensions().get::<Principal>()?.origin.actor {
        Actor::Key { key_id, account_id } => Some((key_id, account_id)),
        Actor::Tool | Actor::Server => None,
    }
}

/// By which a request is found again: for the audit trail.
pub(crate) struct RequestId(pub(crate) Arc<str>);

const LEADR_API_KEY: HeaderName = HeaderName::from_static("leadr-api-key");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The one key that a request presents.
///
/// More than one is refused, also where they are the same: which of them counts is a matter of opinion, and a proxy in front
/// may hold another one. The URL is not looked at: keys in URLs end up in logs and histories.
pub(crate) fn presented_key(headers: &HeaderMap) -> Result<PlainKey, ApiError> {
    let authorization = || headers.get_all(&AUTHORIZATION);
    let mut keys = headers
        .get_all(&LEADR_API_KEY)
        .chain(headers.get_all(&X_API_KEY))
        .map(|value| value.as_bytes().trim_ascii())
        .chain(authorization().filter_map(bearer))
        .filter(|key| !key.is_empty());
    match (keys.next(), keys.next()) {
        (None, _) => Err(ApiError::KeyRequired),
        // A second Authorization is for somebody else, or a trick.
        (Some(key), None) if authorization().count() <= 1 => {
            // What is no text is a key that is not well-formed.
            let key = std::str::from_utf8(key).map_err(|_| ApiError::InvalidKey)?;
            PlainKey::parse(key).map_err(|_| ApiError::InvalidKey)
        }
        _ => Err(ApiError::InvalidKey),
    }
}

/// What follows the scheme in a value of `Authorization` whose scheme is `Bearer`; other schemes present no key of ours. It
/// counts as a key whatever it is: what it was meant for, whoever reads it in another way may know.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let value = value.as_bytes().trim_ascii();
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) || token.first().copied().is_some_and(is_of_token) {
        return None;
    }
    // Only spaces come between the two, by RFC 9110, section 11.4.
    let spaces = token.iter().take_while(|byte| **byte == b' ').count();
    token.get(spaces..)
}

/// May this byte be part of a scheme's name? `token` of RFC 9110, section 5.6.2.
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The key that a request to this service presents.
pub(crate) fn presented_to(state: &State, headers: &HeaderMap) -> Result<PlainKey, ApiError> {
    presented_key(headers).inspect_err(|error| {
        if matches!(error, ApiError::InvalidKey) {
            state.metrics.requests().count_malformed_key();
        }
    })
}

/// What somebody is told who did not present a good key: who has presented too many that are none is told to wait.
pub(crate) fn told(state: &State, request: &RequestHead, error: ApiError) -> ApiError {
    if !matches!(error, ApiError::InvalidKey) {
        return error;
    }
    let client = state.config.trusted_proxies.client_of(request);
    let noted = state.throttle.as_ref().zip(client);
    match noted.map(|(throttle, client)| throttle.note(client)) {
        Some(Err(wait)) => ApiError::TooManyInvalidKeys { wait },
        Some(Ok(())) | None => error,
    }
}

async fn authenticate(state: &State, request: &HttpRequest) -> Result<Box<Caller>, ApiError> {
    let key = presented_to(state, request.headers())?;
    match state.service.authenticate(&key).await? {
        Authentication::Accepted(caller) => Ok(caller),
        Authentication::Refused(_) => Err(ApiError::InvalidKey),
    }
}

/// Whose key is it, whoever's it is? By what verification knows.
pub(crate) async fn verify(service: &Service, key: &PlainKey) -> Result<VerifiedKey, ApiError> {
    match service.verify(Access::All, key).await? {
        Verification::Accepted(key) => Ok(key),
        Verification::Refused(..) => Err(ApiError::InvalidKey),
    }
}

/// May this principal call the route? The one place where it is decided, from the route's row in the table.
fn authorize(route: &Route, principal: &Principal) -> Result<(), ApiError> {
    if route.who == Who::Operator && principal.operator().is_none() {
        return Err(NOT_AN_OPERATOR);
    }
    route.check_scopes(&principal.scopes)
}

const NOT_AN_OPERATOR: ApiError = ApiError::Forbidden("Only an operator's key may do this");

/// The row of the route that asks whose key it is. One that is in no table, or open to anyone, has no business asking.
fn asking_route(request: &HttpRequest) -> Result<&'static Route, ApiError> {
    route_of(request)
        .filter(|route| matches!(route.who, Who::Key | Who::Operator))
        .ok_or_else(|| ApiError::internal("a route without a key asks whose it is"))
}

/// Notes who the caller is, for the log and the trail, and authorizes it.
fn enter(
    state: &State,
    request: &HttpRequest,
    route: &Route,
    mut principal: Principal,
) -> Result<Principal, ApiError> {
    principal.origin.client = state.config.trusted_proxies.client_of(request.head());
    principal.origin.request_id = request
        .extensions()
        .get()
        .map(|RequestId(id)| Arc::clone(id));
    request.extensions_mut().insert(principal.clone());
    authorize(route, &principal)?;
    Ok(principal)
}

/// Authenticates and authorizes.
async fn admit(request: HttpRequest) -> Result<RequireKey, ApiError> {
    let route = asking_route(&request)?;
    let Some(state) = request.app_data::<web::Data<State>>() else {
        return Err(ApiError::internal("the application has no state"));
    };
    let caller = authenticate(state, &request)
        .await
        .map_err(|error| told(state, request.head(), error))?;
    let principal = enter(state, &request, route, caller.principal())?;
    Ok(RequireKey { caller, principal })
}

type Extracted<T> = Pin<Box<dyn Future<Output = Result<T, ApiError>>>>;

impl FromRequest for RequireKey {
    type Error = ApiError;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        Box::pin(admit(request.clone()))
    }
}

impl FromRequest for RequireOperator {
    type Error = ApiError;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let operator = admit(request).await?.principal.operator();
            operator.map(Self).ok_or(NOT_AN_OPERATOR)
        })
    }
}

#[cfg(test)]
mod tests {
    use leadr_auth_domain::generate_api_key;

    use super::*;

    fn outcome(headers: &[(&'static str, &str)]) -> &'static str {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            map.append(HeaderName::from_static(name), value);
        }
        match presented_key(&map) {
            Ok(_) => "a key",
            Err(ApiError::KeyRequired) => "required",
            Err(ApiError::InvalidKey) => "invalid",
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_of_the_three_headers_presents_a_key() {
        let key = generate_api_key([1; 32]);
        let key = key.expose();
        assert_eq!(outcome(&[("leadr-api-key", key)]), "a key");
        assert_eq!(outcome(&[("x-api-key", key)]), "a key");
        for scheme in ["Bearer", "bearer", "BEARER", "Bearer "] {
            assert_eq!(
                outcome(&[("authorization", &format!("{scheme} {key}"))]),
                "a key"
            );
        }
    }

    #[test]
    fn no_key_is_told_from_an_invalid_one() {
        for none in [
            &[][..],
            &[("leadr-api-key", "")],
            &[("authorization", "Basic bGRyOg==")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer-like ldr_")],
            &[("authorization", "")],
            &[("cookie", "leadr-api-key=ldr_")],
        ] {
            assert_eq!(outcome(none), "required", "{none:?}");
        }
        for invalid in ["ldr_short", "é", "Bearer"] {
            assert_eq!(outcome(&[("leadr-api-key", invalid)]), "invalid");
        }
    }

    #[test]
    fn more_than_one_key_is_none() {
        let key = generate_api_key([1; 32]);
        let key = key.expose();
        let bearer = format!("Bearer {key}");
        for twice in [
            &[("leadr-api-key", key), ("leadr-api-key", key)][..],
            &[("leadr-api-key", key), ("x-api-key", key)],
            &[("leadr-api-key", key), ("authorization", &bearer)],
            &[("leadr-api-key", key), ("x-api-key", "other")],
            &[("authorization", &bearer), ("authorization", &bearer)],
            &[
                ("authorization", &bearer),
                ("authorization", "Basic bGRyOg=="),
            ],
            &[("leadr-api-key", &format!("{key}, {key}"))],
        ] {
            assert_eq!(outcome(twice), "invalid", "{twice:?}");
        }
        for other in ["\t", ",", ":", "=", "/", "\u{e9}"] {
            let value = format!("Bearer{other}{key}");
            assert_eq!(outcome(&[("authorization", &value)]), "invalid");
            let both = [("leadr-api-key", key), ("authorization", &value)];
            assert_eq!(outcome(&both), "invalid");
        }
        // What presents no key does not get in the way of one that does.
        assert_eq!(
            outcome(&[("leadr-api-key", key), ("x-api-key", "")]),
            "a key"
        );
        assert_eq!(
            outcome(&[("leadr-api-key", key), ("authorization", "Basic x")]),
            "a key"
        );
    }
}
