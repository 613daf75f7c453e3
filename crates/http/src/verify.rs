//! `/v1/verify`: is a key that somebody was presented with good, and whose is it?

use actix_web::body::BoxBody;
use actix_web::dev::Response;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use leadr_auth_domain::{Access, PlainKey, Scope, ScopeSet, Timestamp, Verdict};
use leadr_auth_service::{Verification, VerifiedKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::ahead::Asked;
use crate::error::ApiError;
use crate::fields::{Fields, WireScope, Wrong, finish, string};

/// The most keys of a batch.
const MAX_KEYS: usize = 100;

/// The largest body of a batch, in bytes: each key has room for a dozen scopes.
const MAX_BATCH: usize = 64 * 1024;

/// How many keys of a batch may wait for the store at the same time: a batch is no reason for everybody else to wait for a
/// connection.
const AT_ONCE: usize = 8;

/// How much room an answer about one key takes as a rule, in bytes.
const USUAL_ANSWER: usize = 320;

/// A key to be verified.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "it describes the body; what is read of it is a Question"
)]
pub(crate) struct VerifyRequest {
    /// The key, as it was presented. What is no key by its looks is `malformed`.
    #[schema(example = "ldr_q3vXk2Lw0PExampleExampleExampleExampleExampl")]
    key: String,
    /// What it has to be good for: all of these.
    #[schema(max_items = 64, example = json!(["docs:read"]))]
    scopes: Option<Vec<WireScope>>,
}

/// Keys to be verified.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "it describes the body; what is read of it are Questions"
)]
pub(crate) struct VerifyBatchRequest {
    /// The keys.
    #[schema(min_items = 1, max_items = 100)]
    keys: Vec<VerifyRequest>,
}

/// What came of a key.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VerifyCode {
    /// It is good, for all that was asked.
    Valid,
    /// Nobody has it, or nobody whose keys the caller may learn about.
    NotFound,
    /// It has been stopped.
    Revoked,
    /// Its time is over.
    Expired,
    /// It was deleted, or its account was.
    Deleted,
    /// Its account is suspended.
    AccountSuspended,
    /// It is good, and lacks a scope that was asked for.
    InsufficientScope,
    /// It is no key by its looks.
    Malformed,
}

impl From<Verdict> for VerifyCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Valid => Self::Valid,
            Verdict::Unknown => Self::NotFound,
            Verdict::Revoked => Self::Revoked,
            Verdict::Expired => Self::Expired,
            Verdict::Deleted | Verdict::AccountDeleted => Self::Deleted,
            Verdict::AccountSuspended => Self::AccountSuspended,
        }
    }
}

/// What came of a key, and which it is. All but the first two fields are null where the key is `not_found` or `malformed`.
#[derive(Serialize, ToSchema)]
pub(crate) struct VerifyResponse<'a> {
    /// Whether to let its holder in.
    valid: bool,
    /// Why, or why not.
    code: VerifyCode,
    /// The key's id.
    #[schema(required)]
    key_id: Option<Uuid>,
    /// The account that it belongs to.
    #[schema(required)]
    account_id: Option<Uuid>,
    /// What people call it.
    #[schema(required)]
    name: Option<&'a str>,
    /// What it may be used for; also null if it has all rights of its account.
    #[schema(required)]
    scopes: Option<Vec<&'a str>>,
    /// From when on it no longer works (UTC); also null if it never expires.
    #[schema(format = DateTime, required)]
    expires_at: Option<String>,
}

/// What came of each key, in the order of the request.
#[derive(Serialize, ToSchema)]
pub(crate) struct VerifyBatchResponse<'a> {
    /// One for each key.
    #[schema(max_items = 100)]
    results: Vec<VerifyResponse<'a>>,
}

/// What is asked about a key. It has no `Debug`: a text that is no key may be one that was mistyped.
struct Question {
    /// `None` if it is no key by its looks.
    key: Option<PlainKey>,
    scopes: Option<ScopeSet>,
}

/// A body that is as bodies are as a rule: nothing of it is copied.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain<'a> {
    #[serde(borrow)]
    key: &'a str,
    #[serde(borrow, default)]
    scopes: Option<Vec<&'a str>>,
}

impl Question {
    /// What a body asks. One that has an escaped character or anything wrong with it is taken apart into fields, which find out
    /// what is.
    fn of(body: &[u8]) -> Result<Self, ApiError> {
        if let Some(question) = Self::of_plain(body) {
            return Ok(question);
        }
        let mut body = Fields::body(body);
        let question = Self::take(&mut body);
        finish([body], question)
    }

    fn of_plain(body: &[u8]) -> Option<Self> {
        // Only an object is one: serde takes a list for a struct as well.
        let Plain { key, scopes } = body
            .starts_with(b"{")
            .then(|| serde_json::from_slice(body).ok())??;
        let scopes = match scopes {
            None => None,
            Some(scopes) if scopes.len() > Fields::MAX_SCOPES => return None,
            Some(scopes) => {
                let scopes = scopes.into_iter().map(Scope::parse);
                Some(ScopeSet::new(scopes.collect::<Result<Vec<_>, _>>().ok()?).ok()?)
            }
        };
        Some(Self {
            key: PlainKey::parse(key).ok(),
            scopes,
        })
    }

    fn take(fields: &mut Fields) -> Option<Self> {
        let key = fields.required("key", key);
        let scopes = fields.optional_scopes("scopes");
        key.map(|key| Self { key, scopes })
    }

    async fn ask(self, state: &State, reach: Access) -> Result<Outcome, ApiError> {
        let Self { key, scopes } = self;
        let Some(key) = key else {
            state.metrics.requests().count_malformed_key();
            return Ok(Outcome(VerifyCode::Malformed, None));
        };
        Ok(match state.service.verify(reach, &key).await? {
            Verification::Accepted(key) => {
                let all = scopes.is_none_or(|scopes| scopes.iter().all(|scope| key.holds(scope)));
                let code = if all {
                    VerifyCode::Valid
                } else {
                    VerifyCode::InsufficientScope
                };
                Outcome(code, Some(key))
            }
            Verification::Refused(verdict, key) => Outcome(verdict.into(), key),
        })
    }
}

/// A presented key, where it is one by its looks.
fn key(value: &Value) -> Result<Option<PlainKey>, Wrong> {
    Ok(PlainKey::parse(string(value)?).ok())
}

/// What came of a key.
struct Outcome(VerifyCode, Option<VerifiedKey>);

impl Outcome {
    fn response(&self) -> VerifyResponse<'_> {
        let Self(code, key) = self;
        let key = key.as_ref();
        let scopes = key.and_then(|key| key.scopes().only());
        VerifyResponse {
            valid: matches!(code, VerifyCode::Valid),
            code: *code,
            key_id: key.map(|key| key.id().as_uuid()),
            account_id: key.map(|key| key.account_id().as_uuid()),
            name: key.map(VerifiedKey::name),
            scopes: scopes.map(|scopes| scopes.iter().map(Scope::as_str).collect()),
            expires_at: key
                .and_then(VerifiedKey::expires_at)
                .as_ref()
                .map(Timestamp::to_string),
        }
    }
}

/// Is this key good, and whose is it?
///
/// Always 200 where the question could be answered; `valid` says whether to let its holder in. A tenant learns about its own
/// keys only: all others are `not_found`. A good key counts as used.
#[utoipa::path(
    post, path = "/v1/verify", tag = "Verification", request_body = VerifyRequest,
    responses((status = 200, description = "What came of it", body = VerifyResponse)),
)]
pub(crate) async fn verify_key(asked: &mut Asked<'_>) -> Result<Response<BoxBody>, ApiError> {
    let reach = asked.verifier().await?;
    let question = Question::of(&Box::pin(asked.body().read()).await?)?;
    let outcome = question.ask(asked.state, reach).await?;
    json(&outcome.response())
}

/// Are these keys good, and whose are they?
///
/// As `/v1/verify`, for 1 to 100 keys at once. The body may be of up to 64 KiB.
#[utoipa::path(
    post, path = "/v1/verify/batch", tag = "Verification", request_body = VerifyBatchRequest,
    responses(
        (status = 200, description = "What came of each, in the order of the request", body = VerifyBatchResponse),
        (status = 413, description = "The body is larger than 64 KiB", body = crate::error::ErrorBody),
    ),
)]
pub(crate) async fn verify_keys(asked: &mut Asked<'_>) -> Result<Response<BoxBody>, ApiError> {
    let reach = asked.verifier().await?;
    let mut body = Fields::body(&Box::pin(asked.body().read_up_to(MAX_BATCH)).await?);
    let questions = body.required_objects("keys", 1..=MAX_KEYS, Question::take);
    let questions = finish([body], questions)?;
    let outcomes: Vec<_> = stream::iter(questions)
        .map(|question| question.ask(asked.state, reach))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let results = outcomes.iter().map(Outcome::response).collect();
    json(&VerifyBatchResponse { results })
}

fn json(answer: &impl Serialize) -> Result<Response<BoxBody>, ApiError> {
    let mut text = Vec::with_capacity(USUAL_ANSWER);
    serde_json::to_writer(&mut text, answer).map_err(ApiError::internal)?;
    let mut response = Response::with_body(StatusCode::OK, BoxBody::new(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use leadr_auth_domain::generate_api_key;

    use super::*;

    /// What is read at once is what the fields would have said, and what they would refuse is not.
    #[test]
    fn a_plain_body_asks_what_its_fields_ask() {
        let key = generate_api_key([7; 32]);
        let key = key.expose();
        let is_key = |question: &Question| question.key.as_ref().map(PlainKey::expose) == Some(key);
        let scopes = |question: &Question| {
            let scopes = question.scopes.as_ref()?.iter().map(Scope::as_str);
            Some(scopes.collect::<Vec<_>>().join(" "))
        };
        for (body, asked) in [
            (r#"{"key":"K"}"#, None),
            (r#"{ "key" : "K" , "scopes" : null }"#, None),
            (r#"{"scopes":[],"key":"K"}"#, Some("")),
            (r#"{"key":"K","scopes":["b:c","a","a"]}"#, Some("a b:c")),
        ] {
            let body = body.replace('K', key);
            let plain = Question::of_plain(body.as_bytes()).unwrap();
            let mut fields = Fields::body(body.as_bytes());
            let taken = Question::take(&mut fields);
            let taken = finish([fields], taken)
                .map_err(|error| error.code())
                .ok()
                .unwrap();
            for question in [&plain, &taken] {
                assert!(is_key(question), "{body}");
                assert_eq!(scopes(question).as_deref(), asked, "{body}");
            }
        }
        let no_key = Question::of_plain(br#"{"key":"K"}"#).unwrap();
        assert!(no_key.key.is_none());
        let many = format!(r#"{{"key":"K","scopes":{:?}}}"#, vec!["a"; 65]);
        for (body, is_refused) in [
            ("", true),
            (r#"["K"]"#, true),
            (r#" {"key":"K"}"#, false),
            (r#"{"key":"\u006c"}"#, false),
            (r#"{"key":"K"}x"#, true),
            (r#"{"key":"K","key":"K"}"#, true),
            (r#"{"key":"K","scopes":[],"scopes":[]}"#, true),
            (r#"{"key":"K","more":1}"#, true),
            (r#"{"key":null}"#, true),
            (r#"{"key":1}"#, true),
            (r#"{"scopes":[]}"#, true),
            (r#"{"key":"K","scopes":["A B"]}"#, true),
            (r#"{"key":"K","scopes":"a"}"#, true),
            (&many, true),
            ("{\"key\":\"\u{0}\"}", true),
        ] {
            let body = body.replace('K', key);
            assert!(Question::of_plain(body.as_bytes()).is_none(), "{body}");
            assert_eq!(Question::of(body.as_bytes()).is_err(), is_refused, "{body}");
        }
    }
}
