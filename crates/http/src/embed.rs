//! For other applications of Actix Web: protect their routes with keys, without a request to another process.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use actix_web::{FromRequest, HttpRequest, HttpResponse, ResponseError, web};
use leadr_auth_domain::Scope;
use leadr_auth_service::{Chain, Service, VerifiedKey};

use crate::credential::{presented_key, verify};
use crate::error::ApiError;

/// What [`RequireApiKey`] asks: to be put into an application's data, once, as `web::Data::new(Protect::new(service))`.
///
/// [`Service::run`] has to run beside the application: without it every key is looked up in the store, and uses are not
/// written down.
#[derive(Clone)]
pub struct Protect {
    service: Service,
}

impl Protect {
    /// Takes the word of `service` for which keys are good.
    pub fn new(service: Service) -> Self {
        Self { service }
    }
}

impl fmt::Debug for Protect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protect").finish_non_exhaustive()
    }
}

/// A valid key, which the request presents: an argument of a handler that is for holders of keys only.
///
/// It takes the key from the headers `leadr-api-key`, `X-API-Key` or `Authorization: Bearer`, one key, once, and lets in every
/// valid key of every live account; whose it is and what it may be used for is for the application to go by. Everybody else is
/// answered before the handler is called, as by leadr-auth itself: 401, or 503 where nobody can tell now.
///
/// ```
/// use actix_web::{App, get, web};
/// use leadr_auth_http::{Protect, Refused, RequireApiKey};
/// use leadr_auth_service::Service;
///
/// #[get("/docs")]
/// async fn docs(key: RequireApiKey) -> Result<String, Refused> {
///     key.require_scope("docs:read")?;
///     Ok(format!("For {} only", key.account_id()))
/// }
///
/// fn serve(service: Service) {
///     let protect = web::Data::new(Protect::new(service));
///     let app = App::new().app_data(protect).service(docs);
/// #   drop(app);
/// }
/// ```
///
/// `examples/protect_a_route.rs` is a whole application.
#[derive(Clone, Debug)]
pub struct RequireApiKey(VerifiedKey);

impl RequireApiKey {
    /// Refuses the request, with 403, unless the key has this scope.
    ///
    /// A text that is no scope is a mistake of the application's: 500, whichever key it is.
    pub fn require_scope(&self, scope: &str) -> Result<(), Refused> {
        let scope = Scope::parse(scope).map_err(|fault| Refused::new(ApiError::internal(fault)))?;
        if self.0.holds(&scope) {
            return Ok(());
        }
        Err(Refused::new(ApiError::ScopeLacking(scope)))
    }

    /// The key.
    pub fn into_key(self) -> VerifiedKey {
        self.0
    }
}

impl Deref for RequireApiKey {
    type Target = VerifiedKey;

    fn deref(&self) -> &VerifiedKey {
        &self.0
    }
}

/// Why a request was refused, as its client may read it. A failure is written to the log where it arises, with its sources.
pub struct Refused(ApiError);

impl Refused {
    fn new(error: ApiError) -> Self {
        if let Some(failure) = error.failure() {
            let error = Chain(failure);
            tracing::error!(%error, "a request to a protected route could not be decided");
        }
        Self(error)
    }
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Refused").field(&self.0.code()).finish()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.failure()
    }
}

impl ResponseError for Refused {
    fn status_code(&self) -> StatusCode {
        self.0.status_code()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = self.0.error_response();
        // In this service's own application its middleware does that.
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

impl FromRequest for RequireApiKey {
    type Error = Refused;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Refused>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { admit(&request).await.map(Self).map_err(Refused::new) })
    }
}

async fn admit(request: &HttpRequest) -> Result<VerifiedKey, ApiError> {
    let Some(protect) = request.app_data::<web::Data<Protect>>() else {
        let missing = "the application's data has no web::Data<Protect>";
        return Err(ApiError::internal(missing));
    };
    let key = presented_key(request.headers())?;
    verify(&protect.service, &key).await
}
