//! Every answer that is not a success: one shape, one place.
//!
//! What a client reads is here; what the log keeps (the sources of a failure) never leaves by this way. A failure is
//! logged once, by `access_log`, together with the request that met it.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use leadr_auth_domain::{AccountId, ForeignAccount, Right, Scope, ScopeNotHeld};
use leadr_auth_service::{AccountError, AuditError, IssueKeyError, KeyError, StoreError};
use serde::Serialize;
use utoipa::ToSchema;

/// An error's source, for the log.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// Whatever a handler has to say but success.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// No key was presented.
    KeyRequired,
    /// A key was presented, and it is not a valid one; or more than one was.
    InvalidKey,
    /// The same, of somebody who has presented too many such.
    TooManyInvalidKeys {
        /// How long to wait.
        wait: Duration,
    },
    /// The key is valid and does not allow this.
    Forbidden(&'static str),
    /// The key is valid, and not of the account that the request names. Which one that is goes into the trail only.
    ForeignAccount(ForeignAccount),
    /// The key is valid and lacks a scope that the route asks for.
    InsufficientScope(Right),
    /// The key is valid and lacks a scope that an application asks for, which is the application's affair: this one is not
    /// written into the trail.
    ScopeLacking(Scope),
    /// The key is valid and does not hold a scope that it wants to give.
    ScopeNotHeld(ScopeNotHeld),
    /// The request's form is wrong, in these places.
    Validation(Vec<Fault>),
    /// There is nothing here, for this caller.
    NotFound(&'static str),
    /// The path has other methods: these.
    MethodNotAllowed {
        /// The value of the header `Allow`.
        allow: String,
    },
    /// It contradicts what is there.
    Conflict {
        /// The stable code.
        code: &'static str,
        /// For people.
        detail: &'static str,
    },
    /// The record is in another state than the change is for.
    PreconditionFailed,
    /// The body is larger than is read.
    BodyTooLarge {
        /// What is read at most, in bytes.
        max: usize,
    },
    /// The body is not JSON.
    NotJson,
    /// The head is not as HTTP has it, in this.
    MalformedRequest(&'static str),
    /// The body broke off, or its chunks are not such.
    MalformedBody,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The process is starting or stopping.
    NotReady,
    /// The store cannot be asked now.
    Unavailable(Source),
    /// Something is broken in here.
    Internal(Source),
}

/// One fault of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ValidationError)]
pub(crate) struct Fault {
    /// What kind of fault it is, a stable word.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Where it is: `body`, `query`, `path` or `header`, then the field.
    loc: Vec<String>,
    /// For people.
    msg: String,
}

impl Fault {
    pub(crate) fn new(kind: &'static str, loc: &[&str], msg: impl Into<String>) -> Self {
        Self {
            kind,
            loc: loc.iter().map(|&part| part.to_owned()).collect(),
            msg: msg.into(),
        }
    }

    /// Says which item of a list it is.
    pub(crate) fn at_item(mut self, index: usize) -> Self {
        self.loc.push(index.to_string());
        self
    }

    /// Says in which item of which list the object is that it was found in.
    pub(crate) fn in_item(mut self, list: &str, index: usize) -> Self {
        let at = self.loc.len().min(1);
        self.loc
            .splice(at..at, [list.to_owned(), index.to_string()]);
        self
    }

    pub(crate) fn is_at(&self, loc: &[&str]) -> bool {
        self.loc == loc
    }
}

/// The body of an error.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorBody {
    /// For people.
    detail: String,
    /// A stable code, for programs.
    code: &'static str,
}

/// The body of a 422.
#[derive(Serialize, ToSchema)]
#[schema(as = HTTPValidationError)]
pub(crate) struct ValidationBody<'a> {
    /// Every fault, not only the first.
    #[schema(value_type = Vec<Fault>)]
    detail: &'a [Fault],
    /// Always `validation_error`.
    code: &'static str,
}

impl ApiError {
    /// The scope that is missing, where that is why.
    pub(crate) fn scope(&self) -> Option<String> {
        match self {
            Self::InsufficientScope(right) => Some(right.to_string()),
            Self::ScopeLacking(scope) => Some(scope.to_string()),
            Self::ScopeNotHeld(ScopeNotHeld(scope)) => Some(scope.clone()),
            _ => None,
        }
    }

    /// Whether it is an authorisation that this service refused: those are written into the trail.
    pub(crate) fn is_for_the_trail(&self) -> bool {
        self.status_code() == StatusCode::FORBIDDEN && !matches!(self, Self::ScopeLacking(_))
    }

    /// The account that was named and is a foreign one, where that is why.
    pub(crate) fn foreign_account(&self) -> Option<AccountId> {
        match self {
            Self::ForeignAccount(ForeignAccount(account)) => Some(*account),
            _ => None,
        }
    }

    /// The stable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::KeyRequired => "api_key_required",
            Self::InvalidKey => "invalid_api_key",
            Self::TooManyInvalidKeys { .. } => "too_many_invalid_keys",
            Self::Forbidden(_) | Self::ForeignAccount(_) => "forbidden",
            Self::InsufficientScope(_) | Self::ScopeLacking(_) => "insufficient_scope",
            Self::ScopeNotHeld(_) => "scope_not_held",
            Self::Validation(_) => "validation_error",
            Self::NotFound(_) => "not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::Conflict { code, .. } => code,
            Self::PreconditionFailed => "precondition_failed",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::NotJson => "unsupported_media_type",
            Self::MalformedRequest(_) => "malformed_request",
            Self::MalformedBody => "malformed_body",
            Self::BodyTimeout => "body_timeout",
            Self::NotReady => "not_ready",
            Self::Unavailable(_) => "service_unavailable",
            Self::Internal(_) => "internal_error",
        }
    }

    /// What a client reads. Says nothing of the inside.
    fn detail(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::InsufficientScope(right) => return lacks(right.as_str()).into(),
            Self::ScopeLacking(scope) => return lacks(scope.as_str()).into(),
            Self::ScopeNotHeld(ScopeNotHeld(scope)) => {
                return format!("This key does not hold the scope {scope} and cannot give it")
                    .into();
            }
            Self::BodyTooLarge { max } => {
                return format!("The body is larger than {} KiB", max / 1024).into();
            }
            Self::ForeignAccount(_) => "This key is not of that account",
            Self::KeyRequired => "API key required",
            Self::InvalidKey => "Invalid or expired API key",
            Self::TooManyInvalidKeys { .. } => "Too many invalid API keys from this address",
            Self::Forbidden(detail)
            | Self::NotFound(detail)
            | Self::Conflict { detail, .. }
            | Self::MalformedRequest(detail) => detail,
            Self::Validation(_) => "The request is not well-formed",
            Self::MethodNotAllowed { .. } => "Method Not Allowed",
            Self::PreconditionFailed => "It has changed since it was read",
            Self::NotJson => "The body must be JSON (Content-Type: application/json)",
            Self::MalformedBody => "The body broke off, or its chunks are malformed",
            Self::BodyTimeout => "The body did not arrive in time",
            Self::NotReady => "Not ready",
            Self::Unavailable(_) => "Temporarily unavailable, try again shortly",
            Self::Internal(_) => "Internal Server Error",
        })
    }

    /// What the log keeps beyond the answer: why the answer is a failure of ours.
    pub(crate) fn failure(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unavailable(source) | Self::Internal(source) => Some(source.as_ref()),
            Self::KeyRequired
            | Self::InvalidKey
            | Self::TooManyInvalidKeys { .. }
            | Self::Forbidden(_)
            | Self::ForeignAccount(_)
            | Self::InsufficientScope(_)
            | Self::ScopeLacking(_)
            | Self::ScopeNotHeld(_)
            | Self::Validation(_)
            | Self::NotFound(_)
            | Self::MethodNotAllowed { .. }
            | Self::Conflict { .. }
            | Self::PreconditionFailed
            | Self::BodyTooLarge { .. }
            | Self::NotJson
            | Self::MalformedRequest(_)
            | Self::MalformedBody
            | Self::BodyTimeout
            | Self::NotReady => None,
        }
    }

    pub(crate) fn internal(source: impl Into<Source>) -> Self {
        Self::Internal(source.into())
    }
}

fn lacks(scope: &str) -> String {
    format!("This key lacks the scope {scope}")
}

/// What RFC 6750 has for a missing scope: a client that can get itself another key is told what that one needs.
fn challenge(scope: &str) -> String {
    format!(r#"Bearer realm="leadr-auth", error="insufficient_scope", scope="{scope}""#)
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail())
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::KeyRequired | Self::InvalidKey => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_)
            | Self::ForeignAccount(_)
            | Self::InsufficientScope(_)
            | Self::ScopeLacking(_)
            | Self::ScopeNotHeld(_) => StatusCode::FORBIDDEN,
            Self::TooManyInvalidKeys { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Validation(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict { .. } => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::MalformedRequest(_) | Self::MalformedBody => StatusCode::BAD_REQUEST,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::NotReady | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        match self {
            Self::KeyRequired => {
                response.insert_header((WWW_AUTHENTICATE, r#"Bearer realm="leadr-auth""#));
            }
            Self::InvalidKey => {
                let challenge = r#"Bearer realm="leadr-auth", error="invalid_token""#;
                response.insert_header((WWW_AUTHENTICATE, challenge));
            }
            Self::InsufficientScope(right) => {
                response.insert_header((WWW_AUTHENTICATE, challenge(right.as_str())));
            }
            Self::ScopeLacking(scope) => {
                response.insert_header((WWW_AUTHENTICATE, challenge(scope.as_str())));
            }
            Self::MethodNotAllowed { allow } => {
                response.insert_header((ALLOW, allow.as_str()));
            }
            Self::NotReady | Self::Unavailable(_) => {
                response.insert_header((RETRY_AFTER, "1"));
            }
            Self::TooManyInvalidKeys { wait } => {
                // In whole seconds, and then it is over.
                response.insert_header((RETRY_AFTER, wait.as_secs() + 1));
            }
            // What is left of such a body must not be read as the next request.
            Self::BodyTooLarge { .. }
            | Self::MalformedRequest(_)
            | Self::MalformedBody
            | Self::BodyTimeout => {
                response.force_close();
            }
            Self::Forbidden(_)
            | Self::ForeignAccount(_)
            | Self::ScopeNotHeld(_)
            | Self::Validation(_)
            | Self::NotFound(_)
            | Self::Conflict { .. }
            | Self::PreconditionFailed
            | Self::NotJson
            | Self::Internal(_) => {}
        }
        match self {
            Self::Validation(faults) => response.json(ValidationBody {
                detail: faults,
                code: self.code(),
            }),
            _ => response.json(ErrorBody {
                detail: self.detail().into_owned(),
                code: self.code(),
            }),
        }
    }
}

const LIMIT_REACHED: ApiError = ApiError::Conflict {
    code: "key_limit_reached",
    detail: "This account has as many keys as it may have: delete some, or have the operator raise its limit",
};
const OTHER_REQUEST: ApiError = ApiError::Conflict {
    code: "idempotency_key_reused",
    detail: "Another request of this key's had the same Idempotency-Key",
};
const NO_KEY: ApiError = ApiError::NotFound("APIKey not found");
const NO_ACCOUNT: ApiError = ApiError::NotFound("Account not found");

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_retryable() {
            Self::Unavailable(error.into())
        } else {
            Self::Internal(error.into())
        }
    }
}

impl From<ForeignAccount> for ApiError {
    fn from(foreign: ForeignAccount) -> Self {
        Self::ForeignAccount(foreign)
    }
}

impl From<AuditError> for ApiError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::ForeignAccount(foreign) => foreign.into(),
            AuditError::Store(error) => error.into(),
        }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::NotFound => NO_KEY,
            KeyError::ForeignAccount(foreign) => foreign.into(),
            KeyError::ScopeNotHeld(missing) => Self::ScopeNotHeld(missing),
            KeyError::Changed => Self::PreconditionFailed,
            KeyError::LimitReached => LIMIT_REACHED,
            KeyError::PepperDropped => Self::Conflict {
                code: "secret_dropped",
                detail: "This key cannot be restored: the server secret that it is hashed under was dropped",
            },
            KeyError::Store(error) => error.into(),
        }
    }
}

impl From<IssueKeyError> for ApiError {
    fn from(error: IssueKeyError) -> Self {
        match error {
            IssueKeyError::ForeignAccount(foreign) => foreign.into(),
            IssueKeyError::ScopeNotHeld(missing) => Self::ScopeNotHeld(missing),
            IssueKeyError::AccountNotFound => NO_ACCOUNT,
            IssueKeyError::LimitReached => LIMIT_REACHED,
            IssueKeyError::OtherRequest => OTHER_REQUEST,
            IssueKeyError::Entropy(error) => Self::Internal(error.into()),
            IssueKeyError::Store(error) => error.into(),
        }
    }
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::NotFound => NO_ACCOUNT,
            AccountError::NameTaken => Self::Conflict {
                code: "account_name_taken",
                detail: "Another account has this name",
            },
            AccountError::SlugTaken => Self::Conflict {
                code: "account_slug_taken",
                detail: "Another account has this slug",
            },
            AccountError::OtherRequest => OTHER_REQUEST,
            AccountError::Changed => Self::PreconditionFailed,
            AccountError::OperatorProtected => Self::Conflict {
                code: "operator_protected",
                detail: "The operator's account can be neither suspended nor deleted",
            },
            AccountError::Entropy(error) => Self::Internal(error.into()),
            AccountError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;

    use super::*;

    /// The cases that a healthy store does not show are in here; all others are in `tests/it`.
    #[actix_web::test]
    async fn a_failure_of_ours_says_nothing_of_the_inside() {
        let inside = "relation api_keys has a row that cannot be";
        let error = ApiError::from(StoreError::internal(inside));
        assert!(error.failure().is_some(), "the log keeps it");
        let response = error.error_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = to_bytes(response.into_body()).await.unwrap();
        assert_eq!(
            body,
            r#"{"detail":"Internal Server Error","code":"internal_error"}"#
        );
    }

    #[actix_web::test]
    async fn a_store_that_is_away_says_when_to_ask_again() {
        let error = ApiError::from(StoreError::unavailable("connection refused"));
        let response = error.error_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers().get(RETRY_AFTER).unwrap(), "1");
    }
}
