//! Gives every request an id, every answer its headers, and the log one line for both.
//!
//! The line is made of what is listed here and of nothing else: no header is logged by default, no query ever, and no path
//! but the route's pattern. So no key can get into it by way of a place that nobody thought of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::MessageBody;
use actix_web::dev::{RequestHead, ResponseHead, ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, USER_AGENT, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, web};
use leadr_auth_domain::{AccountId, Actor, KeyId, Principal, redact_keys};
use leadr_auth_service::{Chain, Refusal};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use crate::credential::{RequestId, authenticated_by};
use crate::error::ApiError;
use crate::hex::{hex_digits, write_hex};
use crate::routes::{Resource, pattern, resource_of};
use crate::trace_context::{Parent, TRACERESPONSE, TraceContext, trace_state};
use crate::{State, run_to_end};

/// By which a request is found again in the logs of all that it went through.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is taken over from a client.
const MAX_REQUEST_ID: usize = 128;

/// How much of a client's name for itself is logged, in bytes: it is ASCII.
const MAX_USER_AGENT: usize = 256;

/// The target of the span that every request is, at level INFO. Nobody pays for it unless something listens to it.
///
/// What is exported needs no ids of its own: the fields have them. `trace_id` and `span_id` are the request's;
/// `parent_span_id`, `parent_sampled` and `tracestate` are there where the client sent them; a span without a parent begins
/// its trace, and whether that one is sampled is up to whoever exports it. `otel.kind`, `otel.name`, `otel.status_code` and
/// the `http.*` fields are named by the conventions of OpenTelemetry; `otel.name` and what the answer says are recorded at
/// the end.
pub const REQUEST_SPAN: &str = "leadr_auth::request";

/// The application's middleware.
pub(crate) async fn observe(
    state: web::Data<State>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let exchange = Exchange::begin(&state, request.head());
    request
        .extensions_mut()
        .insert(RequestId(Arc::clone(&exchange.ids.request)));
    let response = if exchange.span.is_disabled() {
        next.call(request).await?
    } else {
        next.call(request).instrument(exchange.span.clone()).await?
    };
    let mut response = match note_refusal(&state, &exchange, &response).await {
        Ok(()) => response.map_into_left_body(),
        Err(error) => {
            let (request, _) = response.into_parts();
            ServiceResponse::from_err(error, request).map_into_right_body()
        }
    };
    exchange.dress(&state, response.response_mut().head_mut());
    let request = response.request();
    let failure = response.response().error();
    exchange.end(
        &state,
        &End {
            request: request.head(),
            resource: resource_of(request),
            status: response.status(),
            caller: authenticated_by(request),
            failure: failure.and_then(|error| error.as_error()),
        },
    );
    Ok(response)
}

/// Writes down what the application refused to the holder of a valid key.
async fn note_refusal(
    state: &State,
    exchange: &Exchange,
    response: &ServiceResponse<impl MessageBody>,
) -> Result<(), ApiError> {
    let error = response.response().error();
    let error = error.and_then(|error| error.as_error::<ApiError>());
    let Some(refused) = error.filter(|error| error.is_for_the_trail()) else {
        return Ok(());
    };
    let request = response.request();
    let principal = request.extensions().get::<Principal>().cloned();
    let mut ids = request.match_info().iter();
    let denied = Denied {
        request: request.head(),
        resource: resource_of(request),
        error: refused,
        target: ids.find_map(|(_, id)| Uuid::parse_str(id).ok()),
    };
    exchange.write_down(state, &denied, principal).await
}

/// A request that is being answered.
pub(crate) struct Exchange {
    started: Instant,
    ids: Ids,
    span: Span,
    /// The client asked for another protocol on this connection.
    asks_for_upgrade: bool,
}

/// A request that the holder of a valid key was refused.
pub(crate) struct Denied<'a> {
    pub(crate) request: &'a RequestHead,
    pub(crate) resource: Option<&'a Resource>,
    pub(crate) error: &'a ApiError,
    /// What its path names.
    pub(crate) target: Option<Uuid>,
}

/// How a request ended.
pub(crate) struct End<'a> {
    pub(crate) request: &'a RequestHead,
    pub(crate) resource: Option<&'a Resource>,
    pub(crate) status: StatusCode,
    /// Which key authenticated it, if one did.
    pub(crate) caller: Option<(KeyId, AccountId)>,
    /// What was answered, where that is no success.
    pub(crate) failure: Option<&'a ApiError>,
}

impl Exchange {
    pub(crate) fn begin(state: &State, request: &RequestHead) -> Self {
        let started = Instant::now();
        let n = state.next_request();
        let instance = state.config.instance;
        let ids = Ids {
            request: request_id(&request.headers).unwrap_or_else(|| new_request_id(instance, n)),
            trace: TraceContext::new(&request.headers, instance, n),
        };
        let span = span(request, &ids);
        Self {
            started,
            ids,
            span,
            asks_for_upgrade: request.connection_type() == ConnectionType::Upgrade,
        }
    }

    /// See [`REQUEST_SPAN`].
    pub(crate) const fn span(&self) -> &Span {
        &self.span
    }

    /// Writes down that a valid key did not allow what was asked. Where that cannot be done, the answer is not given either: no
    /// refusal is to go unnoticed.
    pub(crate) async fn write_down(
        &self,
        state: &State,
        denied: &Denied<'_>,
        principal: Option<Principal>,
    ) -> Result<(), ApiError> {
        let Denied {
            request,
            resource,
            error,
            target,
        } = denied;
        let account = |principal: Principal| match principal.origin.actor {
            Actor::Key { account_id, .. } => Some((principal, account_id)),
            Actor::Tool | Actor::Server => None,
        };
        let Some((mut principal, account_id)) = principal.and_then(account) else {
            return Err(ApiError::internal("a request was refused without a key"));
        };
        principal.origin.client = state.config.trusted_proxies.client_of(request);
        principal.origin.request_id = Some(Arc::clone(&self.ids.request));
        let refusal = Refusal {
            request: format!("{} {}", method(&request.method), pattern(*resource)),
            code: error.code(),
            scope: error.scope(),
            target: target.or_else(|| error.foreign_account().map(AccountId::as_uuid)),
        };
        let service = state.service.clone();
        run_to_end(async move {
            let recorded = service.record_refusal(&principal, account_id, refusal);
            recorded.await
        })
        .await??;
        Ok(())
    }

    /// Gives the answer the headers that every answer has.
    pub(crate) fn dress(&self, state: &State, response: &mut ResponseHead) {
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&self.ids.request) {
            headers.insert(REQUEST_ID, value);
        }
        if let Ok(value) = HeaderValue::from_bytes(&self.ids.trace.traceresponse()) {
            headers.insert(TRACERESPONSE, value);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // After a request for another protocol the connection is closed by the server, whatever was answered.
        if self.asks_for_upgrade || state.service.readiness().is_stopping() {
            // Clients and proxies that keep the connection would meet a closed one with their next request.
            response.set_connection_type(ConnectionType::Close);
        }
    }

    /// Counts the request and logs it.
    pub(crate) fn end(&self, state: &State, end: &End<'_>) {
        let duration = self.started.elapsed();
        let resource = end.resource;
        let (method, route) = (method(&end.request.method), pattern(resource));
        let requests = state.metrics.requests();
        let counted = resource.map(|resource| &resource.counted);
        requests.count(counted, method, route, end.status, duration);
        end_span(&self.span, method, route, end.status);
        self.log(state, end, method, route, duration);
    }

    fn log(&self, state: &State, end: &End<'_>, method: &str, route: &str, duration: Duration) {
        let status = end.status.as_u16();
        let request_id = &*self.ids.request;
        let TraceContext {
            trace_id, span_id, ..
        } = self.ids.trace;
        if let Some(error) = end.failure.and_then(ApiError::failure) {
            let error = Chain(error);
            if status == 500 {
                tracing::error!(request_id, %trace_id, %span_id, route, %error, "request failed");
            } else {
                tracing::warn!(request_id, %trace_id, %span_id, route, %error, "request could not be served now");
            }
        }
        // What the line is made of costs more than the line, where nobody wants it.
        if !tracing::enabled!(target: "leadr_auth::access", tracing::Level::INFO) {
            return;
        }
        let user_agent = end.request.headers.get(USER_AGENT);
        let user_agent = user_agent.and_then(|value| value.to_str().ok());
        let user_agent = redact_keys(cut(user_agent.unwrap_or_default()));
        let client = state.config.trusted_proxies.client_of(end.request);
        let (key_id, account_id) = end.caller.unzip();
        tracing::info!(
            target: "leadr_auth::access",
            request_id,
            %trace_id,
            %span_id,
            method,
            route,
            status,
            duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            client = client.map(|client| client.to_string()),
            user_agent = &*user_agent,
            key_id = key_id.map(|id| id.to_string()),
            account_id = account_id.map(|id| id.to_string()),
            "request"
        );
    }
}

/// The beginning of what a client says of itself. Anybody may say anything at any length, without a key.
fn cut(user_agent: &str) -> &str {
    let user_agent = user_agent.get(..MAX_USER_AGENT).unwrap_or(user_agent);
    // What is percent-encoded may be a key that nobody would see to be one.
    user_agent
        .split_once("ldr%5")
        .map_or(user_agent, |(before, _)| before)
}

/// By which a request is found again.
struct Ids {
    request: Arc<str>,
    trace: TraceContext,
}

/// The client's own id, where it is one and hides no key.
fn request_id(headers: &HeaderMap) -> Option<Arc<str>> {
    let well_formed = |id: &&str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
        !id.is_empty()
            && id.len() <= MAX_REQUEST_ID
            && id.bytes().all(allowed)
            && redact_keys(id) == **id
    };
    let given = headers.get(REQUEST_ID)?.to_str().ok();
    given.filter(well_formed).map(Arc::from)
}

fn new_request_id(instance: u64, n: u64) -> Arc<str> {
    let mut id = [b'-'; 33];
    let (own, counted) = id.split_at_mut(17);
    if let Some(own) = own.get_mut(..16) {
        write_hex(own, instance.into());
    }
    let digits = hex_digits(n);
    if let Some(counted) = counted.get_mut(..digits) {
        write_hex(counted, n.into());
    }
    let id = id.get(..17 + digits).unwrap_or_default();
    std::str::from_utf8(id).unwrap_or_default().into()
}

/// The request as a span: see [`REQUEST_SPAN`].
fn span(request: &RequestHead, ids: &Ids) -> Span {
    let trace = &ids.trace;
    let parent = trace.parent;
    tracing::info_span!(
        target: REQUEST_SPAN,
        "request",
        otel.kind = "server",
        otel.name = Empty,
        otel.status_code = Empty,
        trace_id = %trace.trace_id,
        span_id = %trace.span_id,
        parent_span_id = parent.map(|parent| tracing::field::display(parent.span_id)),
        parent_sampled = parent.map(Parent::sampled),
        tracestate = parent.and_then(|_| trace_state(&request.headers)),
        request_id = &*ids.request,
        http.request.method = method(&request.method),
        http.route = Empty,
        http.response.status_code = Empty,
    )
}

/// What is known of the span at its end only.
fn end_span(span: &Span, method: &str, route: &str, status: StatusCode) {
    if span.is_disabled() {
        return;
    }
    span.record("otel.name", format!("{method} {route}"));
    span.record("http.route", route);
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
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
