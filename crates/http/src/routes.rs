//! The whole tables of routes, on one screen.

use actix_http::body::BoxBody;
use actix_web::dev::Response;
use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, Route as ActixRoute, guard};
use leadr_auth_domain::{Right, Scopes};

use crate::ahead::Asked;
use crate::error::ApiError;
use crate::metrics::Counted;
use crate::{accounts, api_keys, audit, docs, forward_auth, health, me, metrics, verify};

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Anyone, without a key.
    Anyone,
    /// The holder of any valid key; what it reaches is decided by whose key it is.
    Key,
    /// The holder of an operator's key.
    Operator,
    /// Anyone; it is a part of another page and not in the API's description.
    Asset,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The method, in capitals; [`ANY`] for all.
    pub method: &'static str,
    /// The path, with parameters in braces.
    pub path: &'static str,
    /// Who may call it.
    pub who: Who,
    /// The scopes that a key needs for it, all of them. With none, any valid key may call it.
    pub needs: &'static [Right],
}

impl Route {
    /// Are these scopes enough to call it?
    pub(crate) fn check_scopes(&self, scopes: &Scopes) -> Result<(), ApiError> {
        let missing = |right: &&Right| !scopes.covers(right.as_str());
        match self.needs.iter().find(missing) {
            Some(right) => Err(ApiError::InsufficientScope(*right)),
            None => Ok(()),
        }
    }
}

/// The method of a route that is called by any.
pub const ANY: &str = "ANY";

/// The part of a table that is one path's.
pub(crate) struct Resource {
    /// The path, with parameters in braces: a word of this program's, unlike the request's path.
    pub(crate) pattern: &'static str,
    routes: &'static [Route],
    /// What this worker has counted of it.
    pub(crate) counted: Counted,
}

impl Resource {
    fn new(pattern: &'static str, routes: &'static [Route]) -> Self {
        Self {
            pattern,
            routes,
            counted: Counted::default(),
        }
    }

    /// The row by which a method is served.
    pub(crate) fn route(&self, method: &Method) -> Result<&'static Route, ApiError> {
        let method = match method {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        let mut routes = self.routes.iter();
        let serving = |route: &&Route| route.method == ANY || route.method == method.as_str();
        routes
            .find(serving)
            .ok_or_else(|| ApiError::MethodNotAllowed {
                allow: allow(self.routes),
            })
    }
}

/// The part of the table that a request found, if it did.
pub(crate) fn resource_of(request: &HttpRequest) -> Option<&Resource> {
    request.app_data::<Resource>()
}

/// The pattern of what a request found; `unknown` where it found nothing.
pub(crate) fn pattern(resource: Option<&Resource>) -> &'static str {
    resource.map_or("unknown", |resource| resource.pattern)
}

/// The row of the table by which a request is served, if it is.
pub(crate) fn route_of(request: &HttpRequest) -> Option<&'static Route> {
    resource_of(request)?.route(request.method()).ok()
}

/// One row.
macro_rules! row {
    ($path:literal $method:ident $who:ident [$($right:ident)*]) => {
        Route {
            method: stringify!($method),
            path: $path,
            who: Who::$who,
            needs: &[$(Right::$right)*],
        }
    };
}

/// Declares a table once, for the application and for the tests that walk it.
macro_rules! routes {
    (
        $(#[$doc:meta])* $table:ident, $configure:ident
        $($path:literal { $($method:ident $who:ident $needs:tt $handler:path),+ })+
    ) => {
        $(#[$doc])*
        pub const $table: &[Route] = &[$($(row!($path $method $who $needs)),+),+];

        /// Adds every route to an application. A path that exists answers other methods with 405 and says which it has.
        pub(crate) fn $configure(config: &mut ServiceConfig) {
            $({
                const ROUTES: &[Route] = &[$(row!($path $method $who $needs)),+];
                config.service(
                    web::resource($path)
                        .app_data(Resource::new($path, ROUTES))
                        $(.route(route(methods::$method).to($handler)))+
                        .default_service(web::to(move || {
                            let error = ApiError::MethodNotAllowed { allow: allow(ROUTES) };
                            async { Err::<&str, _>(error) }
                        })),
                );
            })+
        }
    };
}

/// The same for what is answered ahead of the application, where each path has one row and is for holders of keys.
macro_rules! routes_ahead {
    (
        $(#[$doc:meta])* $table:ident, $answer:ident
        $($path:literal { $method:ident $needs:tt $handler:path })+
    ) => {
        $(#[$doc])*
        pub const $table: &[Route] = &[$(row!($path $method Key $needs)),+];

        /// Has the handler of the request's row answer it.
        pub(crate) async fn $answer(asked: &mut Asked<'_>) -> Result<Response<BoxBody>, ApiError> {
            match asked.route.path {
                $($path => $handler(asked).await,)+
                _ => Err(NOT_FOUND),
            }
        }
    };
}

routes_ahead! {
    /// What is asked about every request of somebody else's: see `ahead` for how these differ.
    ROUTES_AHEAD, answer_ahead
    "/v1/forward-auth" { ANY [] forward_auth::forward_auth }
    "/v1/ext-authz" { ANY [] forward_auth::ext_authz }
    "/v1/verify" { POST [KeysVerify] verify::verify_key }
    "/v1/verify/batch" { POST [KeysVerify] verify::verify_keys }
}

routes! {
    /// Every other route of the API.
    ROUTES, configure
    "/" { GET Anyone [] health::index }
    "/livez" { GET Anyone [] health::livez }
    "/readyz" { GET Anyone [] health::readyz }
    "/openapi.json" { GET Anyone [] docs::openapi_json }
    "/docs" { GET Anyone [] docs::page }
    "/docs/{asset}" { GET Asset [] docs::asset }
    "/v1/health" { GET Anyone [] health::health }
    "/v1/me" { GET Key [] me::who_am_i }
    "/v1/api-keys" { POST Key [KeysWrite] api_keys::create_api_key, GET Key [KeysRead] api_keys::list_api_keys }
    "/v1/api-keys/{key_id}" { GET Key [KeysRead] api_keys::get_api_key, PATCH Key [KeysWrite] api_keys::update_api_key }
    "/v1/accounts" { POST Operator [AccountsWrite] accounts::create_account, GET Key [AccountsRead] accounts::list_accounts }
    "/v1/accounts/{account_id}" { GET Key [AccountsRead] accounts::get_account, PATCH Operator [AccountsWrite] accounts::update_account }
    "/v1/audit" { GET Key [AuditRead] audit::list_audit }
}

routes! {
    /// Every route for whoever runs the service: they listen elsewhere, where the API's clients do not get to.
    METRICS_ROUTES, configure_metrics
    "/metrics" { GET Anyone [] metrics::scrape }
    "/livez" { GET Anyone [] health::livez }
    "/readyz" { GET Anyone [] health::readyz }
}

/// The methods that a row of an application may name. One that is not here does not compile.
mod methods {
    use actix_web::http::Method;

    pub(super) const GET: Method = Method::GET;
    pub(super) const POST: Method = Method::POST;
    pub(super) const PATCH: Method = Method::PATCH;
}

/// A route for a method; one for GET answers HEAD too, as RFC 9110 asks.
fn route(method: Method) -> ActixRoute {
    if method == Method::GET {
        return web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    }
    web::method(method)
}

/// The value of the header `Allow`.
fn allow(routes: &[Route]) -> String {
    let mut allowed: Vec<_> = routes.iter().map(|route| route.method).collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    allowed.sort_unstable();
    allowed.join(", ")
}

/// What a worker keeps of each path that is answered ahead of the application.
pub(crate) fn resources_ahead() -> impl Iterator<Item = Resource> {
    let rows = ROUTES_AHEAD.iter();
    rows.map(|row| Resource::new(row.path, std::slice::from_ref(row)))
}

/// Every route of the API.
pub fn all() -> impl Iterator<Item = &'static Route> + Clone {
    ROUTES_AHEAD.iter().chain(ROUTES)
}

/// Where no route is.
pub(crate) async fn not_found() -> Result<&'static str, ApiError> {
    Err(NOT_FOUND)
}

const NOT_FOUND: ApiError = ApiError::NotFound("Not Found");
