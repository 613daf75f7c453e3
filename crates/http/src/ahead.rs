//! What is answered ahead of the application: verification, which is asked with every request of somebody else's.
//!
//! An application of Actix Web looks for the route, wraps the request for its handlers, and has middleware and handlers wait
//! for each other in boxed futures. That is as much work as everything else that a verification takes. So the few routes of
//! [`ROUTES_AHEAD`](crate::routes::ROUTES_AHEAD) are compared with the path, and answered by one function each,
//! which is given [`Asked`]; all other requests go on to the application. What every request gets (its id, its headers, its
//! line in the log, its metrics) it gets from `access_log` in either case.

use std::rc::Rc;
use std::task::{Context, Poll};

use actix_http::Request;
use actix_service::IntoServiceFactory;
use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{
    AppConfig, Payload, RequestHead, Response, Service, ServiceFactory, ServiceResponse, Url,
};
use actix_web::{Error, ResponseError as _};
use futures_util::TryFutureExt as _;
use futures_util::future::{Either, LocalBoxFuture, MapOk};
use leadr_auth_domain::Access;
use leadr_auth_service::VerifiedKey;
use tracing::{Instrument as _, Span};

use crate::State;
use crate::access_log::{Denied, End, Exchange};
use crate::body::JsonBody;
use crate::credential::{presented_to, told, verify};
use crate::error::ApiError;
use crate::framing;
use crate::routes::{Resource, Route, answer_ahead, resources_ahead};

/// A request that is answered ahead of the application, and what its handler may know of it.
pub(crate) struct Asked<'a> {
    pub(crate) state: &'a State,
    pub(crate) route: &'static Route,
    head: &'a RequestHead,
    payload: Payload,
    /// Whose it is, once that is known: for the log, whatever comes of it.
    caller: &'a mut Option<VerifiedKey>,
}

impl<'a> Asked<'a> {
    /// What follows the question mark; empty if there is none.
    pub(crate) fn query(&self) -> &'a str {
        self.head.uri.query().unwrap_or_default()
    }

    /// The body, which is still to be read.
    pub(crate) fn body(&mut self) -> JsonBody {
        let payload = self.payload.take();
        JsonBody::new(&self.head.headers, payload, self.state)
    }

    /// Whose key is it, whoever's it is? By what verification knows.
    pub(crate) async fn caller(&mut self) -> Result<&VerifiedKey, ApiError> {
        let key = presented_to(self.state, &self.head.headers)?;
        let caller = verify(&self.state.service, &key).await?;
        Ok(self.caller.insert(caller))
    }

    /// Needs a valid key with the scopes that the route's row asks for, and says whose keys its holder may learn about. The
    /// word of verification is taken for it, instead of asking the store: nothing that manages keys or accounts does that.
    pub(crate) async fn verifier(&mut self) -> Result<Access, ApiError> {
        let (route, state, head) = (self.route, self.state, self.head);
        let caller = self.caller().await;
        let caller = caller.map_err(|error| told(state, head, error))?;
        route.check_scopes(caller.scopes())?;
        Ok(caller.access())
    }
}

/// One worker's part.
struct Worker {
    state: State,
    resources: Vec<Rc<Resource>>,
}

impl Worker {
    /// Which of its resources is asked for. What is percent-encoded in a path is read as the application reads it.
    fn find(&self, request: &Request) -> Option<Rc<Resource>> {
        let path = request.path();
        if path.contains('%') {
            return self.resource(Url::new(request.uri().clone()).path());
        }
        self.resource(path)
    }

    fn resource(&self, path: &str) -> Option<Rc<Resource>> {
        let mut resources = self.resources.iter();
        let found = resources.find(|resource| resource.pattern == path);
        found.map(Rc::clone)
    }

    async fn answer(
        &self,
        head: &RequestHead,
        payload: Payload,
        resource: &Resource,
    ) -> Response<BoxBody> {
        let exchange = Exchange::begin(&self.state, head);
        let mut caller = None;
        let answer = if exchange.span().is_disabled() {
            self.ask(resource, head, payload, &mut caller).await
        } else {
            let span = exchange.span().clone();
            self.ask_within(span, resource, head, payload, &mut caller)
                .await
        };
        let (mut response, failure) = match answer {
            Ok(response) => (response, None),
            Err(mut error) => {
                if error.is_for_the_trail() {
                    let denied = Denied {
                        request: head,
                        resource: Some(resource),
                        error: &error,
                        target: None,
                    };
                    let principal = caller.as_ref().map(VerifiedKey::principal);
                    let written =
                        Box::pin(exchange.write_down(&self.state, &denied, principal)).await;
                    if let Err(failure) = written {
                        error = failure;
                    }
                }
                (error.error_response().into(), Some(error))
            }
        };
        exchange.dress(&self.state, response.head_mut());
        exchange.end(
            &self.state,
            &End {
                request: head,
                resource: Some(resource),
                status: response.status(),
                caller: caller.map(|key| (key.id(), key.account_id())),
                failure: failure.as_ref(),
            },
        );
        response
    }

    /// Answers what is no request that anybody else should read.
    fn refuse(&self, head: &RequestHead, error: &ApiError) -> Response<BoxBody> {
        let exchange = Exchange::begin(&self.state, head);
        let mut response: Response<BoxBody> = error.error_response().into();
        exchange.dress(&self.state, response.head_mut());
        exchange.end(
            &self.state,
            &End {
                request: head,
                resource: None,
                status: response.status(),
                caller: None,
                failure: Some(error),
            },
        );
        response
    }

    /// As [`Worker::ask`], as a part of a span. It is boxed, as what is seldom needed is here: room for it would have to be found for every
    /// answer.
    fn ask_within<'a>(
        &'a self,
        span: Span,
        resource: &'a Resource,
        head: &'a RequestHead,
        payload: Payload,
        caller: &'a mut Option<VerifiedKey>,
    ) -> LocalBoxFuture<'a, Result<Response<BoxBody>, ApiError>> {
        Box::pin(self.ask(resource, head, payload, caller).instrument(span))
    }

    /// Where a request is refused, what the handler has found out before is still in `caller`.
    async fn ask(
        &self,
        resource: &Resource,
        head: &RequestHead,
        payload: Payload,
        caller: &mut Option<VerifiedKey>,
    ) -> Result<Response<BoxBody>, ApiError> {
        let mut asked = Asked {
            state: &self.state,
            route: resource.route(&head.method)?,
            head,
            payload,
            caller,
        };
        answer_ahead(&mut asked).await
    }
}

/// An application with what is answered ahead of it in front.
pub(crate) struct Ahead<S> {
    state: State,
    application: S,
}

impl<S: ServiceFactory<Request>> Ahead<S> {
    pub(crate) fn of(state: State, application: impl IntoServiceFactory<S, Request>) -> Self {
        Self {
            state,
            application: application.into_factory(),
        }
    }
}

impl<S, B> ServiceFactory<Request> for Ahead<S>
where
    S: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<B>,
            Error = Error,
            InitError = (),
        >,
    S::Future: 'static,
    B: MessageBody,
{
    type Response = Response<EitherBody<BoxBody, B>>;
    type Error = Error;
    type Config = AppConfig;
    type Service = AheadService<S::Service>;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Self::Service, ()>>;

    fn new_service(&self, config: AppConfig) -> Self::Future {
        let worker = Rc::new(Worker {
            state: self.state.clone(),
            resources: resources_ahead().map(Rc::new).collect(),
        });
        let application = self.application.new_service(config);
        Box::pin(async move {
            Ok(AheadService {
                worker,
                application: application.await?,
            })
        })
    }
}

pub(crate) struct AheadService<S> {
    worker: Rc<Worker>,
    application: S,
}

type Answer<B> = Response<EitherBody<BoxBody, B>>;

impl<S, B> Service<Request> for AheadService<S>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
{
    type Response = Answer<B>;
    type Error = Error;
    type Future = Either<
        LocalBoxFuture<'static, Result<Answer<B>, Error>>,
        MapOk<S::Future, fn(ServiceResponse<B>) -> Answer<B>>,
    >;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.application.poll_ready(context)
    }

    fn call(&self, mut request: Request) -> Self::Future {
        if let Err(error) = framing::examine(&mut request) {
            let response = self.worker.refuse(request.head(), &error);
            return Either::Left(Box::pin(async move {
                Ok(response.map_body(|_, body| EitherBody::left(body)))
            }));
        }
        let Some(resource) = self.worker.find(&request) else {
            let answer = self.application.call(request);
            return Either::Right(answer.map_ok(|response| {
                Response::from(response).map_body(|_, body| EitherBody::right(body))
            }));
        };
        let worker = Rc::clone(&self.worker);
        let (head, payload) = request.into_parts();
        let answer = async move {
            let response = worker.answer(&head, payload, &resource).await;
            Ok(response.map_body(|_, body| EitherBody::left(body)))
        };
        Either::Left(Box::pin(answer))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use actix_http::Request;
    use leadr_auth_domain::{Pepper, Timestamp};
    use leadr_auth_memory::Memory;
    use leadr_auth_memory::system::{ManualClock, SeededEntropy};
    use leadr_auth_service::Service;

    use super::*;
    use crate::{HttpConfig, TrustedProxies};

    /// Allocators hand out pieces of up to a kilobyte at once, and search for larger ones.
    #[test]
    fn an_answer_needs_no_large_piece_of_memory() {
        let service = Service::new(
            Memory::new().stores(),
            Arc::new(ManualClock::new(Timestamp::MIN)),
            Arc::new(SeededEntropy::new(1)),
            Pepper::new("a secret for tests, of 32 bytes and more").unwrap(),
        );
        let config = HttpConfig {
            body_timeout: Duration::from_secs(1),
            trusted_proxies: TrustedProxies::default(),
            invalid_keys: None,
            instance: 1,
        };
        let worker = Worker {
            state: State::new(service, config),
            resources: resources_ahead().map(Rc::new).collect(),
        };
        let request = Request::new();
        let resource = &worker.resources[0];
        let answer = worker.answer(request.head(), Payload::None, resource);
        assert!(size_of_val(&answer) <= 1000, "{}", size_of_val(&answer));
    }
}
