//! The HTTP face: routes, requests, responses, errors, and the description of all of it.
//!
//! A request comes in through [`app`]. Verification is answered by `ahead`, all else by an application of Actix Web: its one
//! middleware gives the request an id and will log its end; the route in `routes` names its handler, who may call it, and which
//! scopes a key needs for it; the handler's signature says what it needs (`RequireKey`, `RequireOperator`), and getting it is
//! authentication and, by the route's row, authorization; the handler reads the body into domain values with every fault
//! collected, asks the [`Service`], and puts the result into words. Nothing comes back the other way.
//!
//! Other applications of Actix Web protect their own routes with [`RequireApiKey`].
//!
//! This crate must never know of a store, a port, or configuration beyond [`HttpConfig`]. It is the only one that knows
//! status codes, and the one that logs a failure, once.
//!
//! To add a route: write the handler with its `#[utoipa::path]`, add it to the table in `routes` and to the list in
//! `openapi`; then the tests in `tests/it/coverage.rs` fail until the route has its cases for "no key", "wrong tenant" and
//! bad input.

mod access_log;
mod accounts;
mod ahead;
mod api_keys;
mod audit;
mod body;
mod client;
mod credential;
mod docs;
mod embed;
mod error;
mod fields;
mod forward_auth;
mod framing;
mod health;
mod hex;
mod idempotency;
mod listing;
mod me;
mod metrics;
pub mod openapi;
mod precondition;
mod propagation;
pub mod routes;
mod throttle;
mod trace_context;
mod verify;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_http::Request;
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Response, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::middleware::from_fn;
use actix_web::web::{self, ServiceConfig};
use actix_web::{App, Error};
use leadr_auth_service::Service;

pub use access_log::REQUEST_SPAN;
use ahead::Ahead;
pub use client::TrustedProxies;
pub use embed::{Protect, Refused, RequireApiKey};
use metrics::Metrics;
pub use throttle::InvalidKeyLimit;
use throttle::Throttle;

/// How the HTTP face behaves where it has a choice.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// How long a request's body may take to arrive, all of it.
    pub body_timeout: Duration,
    /// Whose word is taken for whose request it is that they pass on.
    pub trusted_proxies: TrustedProxies,
    /// How many wrong keys a client may present before it is told to wait; `None` for any number.
    pub invalid_keys: Option<InvalidKeyLimit>,
    /// Tells this process's ids of requests, traces and spans from another's: 64 random bits.
    pub instance: u64,
}

/// What handlers share. Its clones are the same.
#[derive(Clone)]
pub struct State {
    service: Service,
    config: HttpConfig,
    requests: Arc<AtomicU64>,
    throttle: Option<Arc<Throttle>>,
    metrics: Arc<Metrics>,
}

impl State {
    /// The HTTP face of `service`.
    pub fn new(service: Service, config: HttpConfig) -> Self {
        Self {
            metrics: Arc::new(Metrics::new(service.clone())),
            service,
            throttle: config
                .invalid_keys
                .map(|limit| Arc::new(Throttle::new(limit))),
            config,
            requests: Arc::default(),
        }
    }

    /// A number that no other request of this process has.
    fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }
}

/// The API, to be served by a `HttpServer` or called by a test.
pub fn app(
    state: State,
) -> impl ServiceFactory<
    Request,
    Config = AppConfig,
    Response = Response<impl MessageBody>,
    Error = Error,
    InitError = (),
> {
    Ahead::of(state.clone(), serve(state, routes::configure))
}

/// What whoever runs the service asks it: `/metrics`, `/livez` and `/readyz`. To be served on a listener of its own: what
/// it tells is not for the API's clients.
pub fn metrics_app(
    state: State,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    serve(state, routes::configure_metrics)
}

fn serve(
    state: State,
    routes: fn(&mut ServiceConfig),
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    App::new()
        .app_data(web::Data::new(state))
        .wrap(from_fn(access_log::observe))
        .configure(routes)
        .default_service(web::to(routes::not_found))
}

/// Runs a change to its end, also where the client goes away and its request is dropped: a store that was asked for
/// something is not left alone halfway.
pub(crate) async fn run_to_end<T: 'static>(
    change: impl Future<Output = T> + 'static,
) -> Result<T, error::ApiError> {
    actix_web::rt::spawn(change)
        .await
        .map_err(error::ApiError::internal)
}
