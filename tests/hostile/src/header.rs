//! Headers, through the whole application: above all those that present a key.
//!
//! An input is lines: a letter says which header it is, and what follows is its value, in which `<key:one>` and its like
//! stand for keys (see `World::filled_in`). The same headers go to a route of the application and to one that is answered
//! ahead of it, which have to agree on who it is.

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::test::TestRequest;

use crate::Came;
use crate::world::{Answer, World, text, with_world};

pub(crate) const REACHES: &[&str] = &["let in", "no key", "no valid key", "more than one"];

/// The letters. Most of them are headers that are read before it is known who asks.
static NAMES: [(u8, HeaderName); 12] = [
    (b'l', HeaderName::from_static("leadr-api-key")),
    (b'x', HeaderName::from_static("x-api-key")),
    (b'a', HeaderName::from_static("authorization")),
    (b't', HeaderName::from_static("traceparent")),
    (b's', HeaderName::from_static("tracestate")),
    (b'i', HeaderName::from_static("x-request-id")),
    (b'f', HeaderName::from_static("x-forwarded-for")),
    (b'w', HeaderName::from_static("forwarded")),
    (b'c', HeaderName::from_static("cookie")),
    (b'd', HeaderName::from_static("x-leadr-account-id")),
    (b'm', HeaderName::from_static("if-match")),
    (b'k', HeaderName::from_static("idempotency-key")),
];

const MOST_LINES: usize = 12;

/// Sends headers, and looks at who is let in.
pub fn header(data: &[u8]) -> Came {
    with_world(|world| {
        let lines = data.split(|byte| *byte == b'\n').take(MOST_LINES);
        let headers: Vec<_> = lines.filter_map(|line| line_of(world, line)).collect();
        let request = |path: &str| {
            let request = TestRequest::with_uri(path);
            headers.iter().fold(request, |request, (name, value)| {
                request.append_header((name.clone(), value.clone()))
            })
        };
        let me = world.send(request("/v1/me"));
        let ahead = world.send(request("/v1/ext-authz"));
        assert_eq!(me.status, ahead.status, "{headers:?}");
        let presented = Presented::of(&headers);
        let expected = presented.the_only().map(|key| {
            let live = world.live().into_iter();
            live.filter(|holder| holder.key.as_bytes() == key)
                .map(|holder| holder.key_id.clone())
                .next()
        });
        let came = match expected {
            Ok(Some(key_id)) => {
                assert_eq!(me.status, 200, "{headers:?}");
                assert_eq!(text(&me.json()["key"]["id"]), key_id);
                assert_eq!(ahead.header("x-leadr-key-id"), Some(key_id.as_str()));
                "let in"
            }
            Ok(None) => refused(&me, &ahead, "invalid_api_key", "no valid key"),
            Err(Ambiguous) => refused(&me, &ahead, "invalid_api_key", "more than one"),
            Err(Nothing) => refused(&me, &ahead, "api_key_required", "no key"),
        };
        let id = headers.iter().filter(|(name, _)| name == "x-request-id");
        let own = me.header("x-request-id").unwrap();
        // An id that was sent is taken as it is or not at all.
        let is_sent = id.clone().any(|(_, value)| value == own);
        assert!(is_sent || own.len() < 64, "{own}");
        world.assert_unchanged();
        came.into()
    })
}

fn line_of(world: &World, line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let (letter, value) = line.split_first()?;
    let (_, name) = NAMES.iter().find(|(known, _)| known == letter)?;
    World::header(name.clone(), &world.filled_in(value))
}

/// Both refuse, in the same words.
fn refused(me: &Answer, ahead: &Answer, code: &str, came: &'static str) -> &'static str {
    assert_eq!(me.status, 401, "{me:?}");
    assert_eq!(me.body, ahead.body);
    assert_eq!(me.json()["code"], code);
    let named = [me, ahead].map(|answer| answer.header("www-authenticate").unwrap().to_owned());
    let told = named
        .each_ref()
        .map(|value| value.contains("invalid_token"));
    assert_eq!(told, [code == "invalid_api_key"; 2], "{named:?}");
    assert!(!ahead.headers.contains_key("x-leadr-key-id"));
    came
}

/// What presents a key, by `docs/http-api.md`.
struct Presented<'a> {
    keys: Vec<&'a [u8]>,
    authorizations: usize,
}

/// Why there is not one key.
enum Not {
    Nothing,
    Ambiguous,
}
use Not::{Ambiguous, Nothing};

impl<'a> Presented<'a> {
    fn of(headers: &'a [(HeaderName, HeaderValue)]) -> Self {
        let mut presented = Self {
            keys: Vec::new(),
            authorizations: 0,
        };
        for (name, value) in headers {
            let value = value.as_bytes().trim_ascii();
            let key = match name.as_str() {
                "leadr-api-key" | "x-api-key" => Some(value),
                "authorization" => {
                    presented.authorizations += 1;
                    bearer(value)
                }
                _ => None,
            };
            presented.keys.extend(key.filter(|key| !key.is_empty()));
        }
        presented
    }

    fn the_only(&self) -> Result<&'a [u8], Not> {
        match self.keys[..] {
            [] => Err(Nothing),
            [key] if self.authorizations <= 1 => Ok(key),
            _ => Err(Ambiguous),
        }
    }
}

/// `Bearer <key>`, whatever the case; a scheme that only begins so is another one.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let end = value
        .iter()
        .position(|byte| !byte.is_ascii_alphanumeric() && !b"!#$%&'*+-.^_`|~".contains(byte));
    let (scheme, rest) = value.split_at(end.unwrap_or(value.len()));
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer");
    is_bearer.then(|| &rest[spaces..])
}
