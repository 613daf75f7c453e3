//! Requests that one program reads in one way and the next in another: what `actix-http` lets through of those.
//!
//! It refuses by itself whatever leaves open where a request ends: two lengths, a length beside chunks, chunks that are none,
//! lines that go on in the next, names with a blank before the colon. `tests/fixtures/framing.json` has all of them.

use actix_http::header::{CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use actix_http::{HttpMessage as _, Payload, Request};

use crate::error::ApiError;

/// Refuses what is not to be read by anybody, and takes from a request what it does not have.
pub(crate) fn examine(request: &mut Request) -> Result<(), ApiError> {
    // RFC 9112, section 3.2: a Host that is none is 400, as two of them are and none at all.
    let host = request.headers().get(HOST);
    if host.is_some_and(|host| !is_host(host.as_bytes())) {
        return Err(ApiError::MalformedRequest("Host is not a host"));
    }
    if !matches!(request.payload(), Payload::None) && asks_for_websocket(request.headers()) {
        // Everything that comes is its body to `actix-http`, whatever length was said. There are no WebSockets here, so that
        // it is a request like others, without a body; with one, nobody could tell where that ends.
        if request.headers().contains_key(CONTENT_LENGTH) {
            return Err(ApiError::MalformedRequest(
                "A request for a WebSocket has no body",
            ));
        }
        drop(request.take_payload());
    }
    Ok(())
}

/// As `actix-http` sees it: chunks are read as such all the same.
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let websocket = |value: &actix_http::header::HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        value.eq_ignore_ascii_case(b"websocket")
    };
    headers.get_all(UPGRADE).any(websocket) && !headers.contains_key(TRANSFER_ENCODING)
}

/// `uri-host [ ":" port ]`, of RFC 9110, section 7.2. It may be empty.
fn is_host(value: &[u8]) -> bool {
    let (host, port) = if let Some(rest) = value.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else {
            return false;
        };
        let (address, rest) = rest.split_at(end);
        let is_address = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
        if address.is_empty() || !address.iter().all(is_address) {
            return false;
        }
        (&[][..], rest.get(1..).unwrap_or_default())
    } else {
        let end = value.iter().position(|byte| *byte == b':');
        value.split_at(end.unwrap_or(value.len()))
    };
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    let port = match port.split_first() {
        None => &[],
        Some((b':', port)) => port,
        Some(_) => return false,
    };
    host.iter().all(is_of_name) && port.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_host() {
        for host in [
            "",
            "localhost",
            "keys.example.com",
            "keys.example.com.",
            "a_b.example:8000",
            "192.0.2.1:80",
            "[::1]",
            "[2001:db8::1]:8000",
            "[::ffff:192.0.2.1]:",
            "xn--bcher-kva.example",
            ":80",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for other in [
            "user@host",
            "a b",
            "a, b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a:b",
            "a:80:80",
            "a:-1",
            "[::1",
            "[]",
            "[x]",
            "[::1]x",
            "::1",
            "b\u{fc}cher.example",
            "a\tb",
        ] {
            assert!(!is_host(other.as_bytes()), "{other}");
        }
    }
}
