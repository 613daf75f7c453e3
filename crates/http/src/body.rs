//! Reads a request's body: JSON, bounded in size and in time.

use std::future::{Ready, ready};
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::{FromRequest, HttpRequest, web};
use futures_util::StreamExt as _;

use crate::State;
use crate::error::ApiError;

/// The largest body that is read unless a route says otherwise, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// A body that is still to be read.
///
/// Taking it from the request reads nothing, so that whoever has no right to send it is answered first.
pub(crate) struct JsonBody {
    payload: Payload,
    declared_length: Option<usize>,
    is_json: bool,
    timeout: Duration,
}

impl JsonBody {
    pub(crate) fn new(headers: &HeaderMap, payload: Payload, state: &State) -> Self {
        let length = headers.get(CONTENT_LENGTH);
        Self {
            payload,
            declared_length: length.and_then(|length| length.to_str().ok()?.parse().ok()),
            is_json: is_json(headers),
            timeout: state.config.body_timeout,
        }
    }

    /// Reads it all. Empty is what a request without a body has; what is not empty has to be declared as JSON.
    pub(crate) async fn read(self) -> Result<web::Bytes, ApiError> {
        self.read_up_to(MAX_BODY).await
    }

    /// Reads it all, as long as it is no larger than `max` bytes.
    pub(crate) async fn read_up_to(self, max: usize) -> Result<web::Bytes, ApiError> {
        if self.declared_length.is_some_and(|length| length > max) {
            return Err(ApiError::BodyTooLarge { max });
        }
        let body = tokio::time::timeout(self.timeout, collect(self.payload, max))
            .await
            .map_err(|_| ApiError::BodyTimeout)??;
        if !body.is_empty() && !self.is_json {
            return Err(ApiError::NotJson);
        }
        Ok(body)
    }
}

async fn collect(mut payload: Payload, max: usize) -> Result<web::Bytes, ApiError> {
    // A small body comes in one piece as a rule, which is not copied then.
    let mut only = web::Bytes::new();
    let mut body = web::BytesMut::new();
    while let Some(chunk) = payload.next().await {
        // Where it was the connection that broke off, nobody is left to answer, and the answer is for the log.
        let chunk = chunk.map_err(|_| ApiError::MalformedBody)?;
        let length = only.len() + body.len();
        if length + chunk.len() > max {
            return Err(ApiError::BodyTooLarge { max });
        }
        if length == 0 {
            only = chunk;
            continue;
        }
        if body.is_empty() {
            body.extend_from_slice(&std::mem::take(&mut only));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(if body.is_empty() { only } else { body.freeze() })
}

/// Is the body declared as JSON in UTF-8, and not compressed?
fn is_json(headers: &HeaderMap) -> bool {
    if headers
        .get_all(CONTENT_ENCODING)
        .any(|encoding| encoding != "identity")
    {
        return false;
    }
    let mut declared = headers.get_all(CONTENT_TYPE);
    let (Some(content_type), None) = (declared.next(), declared.next()) else {
        return false;
    };
    let Ok(content_type) = content_type.to_str() else {
        return false;
    };
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    json && parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    })
}

impl FromRequest for JsonBody {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let Some(state) = request.app_data::<web::Data<State>>() else {
            return ready(Err(ApiError::internal("the application has no state")));
        };
        ready(Ok(Self::new(request.headers(), payload.take(), state)))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn what_counts_as_json() {
        let cases = [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/problem+json", true),
            ("application/json; charset=utf-16", false),
            ("text/json", false),
            ("application/x-www-form-urlencoded", false),
            ("", false),
        ];
        for (text, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(text));
            assert_eq!(is_json(&headers), expected, "{text}");
            headers.append(CONTENT_ENCODING, HeaderValue::from_static("identity"));
            assert_eq!(is_json(&headers), expected, "{text}");
            headers.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            assert!(!is_json(&headers));
        }
        assert!(!is_json(&HeaderMap::new()), "undeclared");
        let mut twice = HeaderMap::new();
        twice.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        twice.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assert!(!is_json(&twice), "declared twice");
    }
}
