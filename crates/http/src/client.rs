//! Whose request is it, by its address?
//!
//! As a rule that is whoever is connected. Where that is a proxy that is known to be one, it is who the proxy says: the last
//! address of `X-Forwarded-For` that is not a known proxy's. What stands before that one anybody could have written.

use std::net::{IpAddr, SocketAddr};

use actix_web::dev::RequestHead;
use actix_web::http::header::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies whose word is taken for whose request it is that they pass on.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Those in these networks.
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address of whoever made a request; `None` where nobody is connected, as in a test.
    pub(crate) fn client_of(&self, request: &RequestHead) -> Option<IpAddr> {
        let peer = request.peer_addr?.ip().to_canonical();
        if self.0.is_empty() || !self.contains(peer) {
            return Some(peer);
        }
        Some(self.forwarded(peer, &request.headers))
    }

    /// The last address that is not a proxy's. Where that cannot be read, it is the proxy's that wrote it: it says nothing of
    /// what is before it.
    fn forwarded(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let values: Vec<_> = headers.get_all(X_FORWARDED_FOR).collect();
        let hops = values
            .into_iter()
            .rev()
            .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
        let mut client = peer;
        for hop in hops {
            let Some(address) = address(hop) else {
                break;
            };
            client = address;
            if !self.contains(address) {
                break;
            }
        }
        client
    }
}

/// An address, as proxies write them: some with the port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || Some(text.parse::<SocketAddr>().ok()?.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    bare()
        .or_else(with_port)
        .or_else(bracketed)
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use actix_web::test::TestRequest;

    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> String {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let proxies = TrustedProxies::new(networks.to_vec());
        let mut request = TestRequest::default().peer_addr(peer.parse().unwrap());
        for value in forwarded {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request = request.append_header((X_FORWARDED_FOR, value));
        }
        let request = request.to_http_request();
        proxies.client_of(request.head()).unwrap().to_string()
    }

    #[test]
    fn who_is_no_known_proxy_is_the_client_whatever_it_says() {
        assert_eq!(client("192.0.2.1:7", &[]), "192.0.2.1");
        assert_eq!(client("192.0.2.1:7", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("[::ffff:192.0.2.1]:7", &[]), "192.0.2.1");
    }

    #[test]
    fn a_known_proxy_says_who_the_client_is() {
        let proxy = "10.0.0.1:7";
        for (forwarded, expected) in [
            (&["192.0.2.1"][..], "192.0.2.1"),
            // What somebody made up is before what the proxy wrote.
            (&["198.51.100.7, 192.0.2.1"], "192.0.2.1"),
            (&["198.51.100.7", "192.0.2.1"], "192.0.2.1"),
            (&["not an address, 192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1, 10.1.1.1", "10.2.2.2"], "192.0.2.1"),
            (&["192.0.2.1:4711"], "192.0.2.1"),
            (&["[2001:db8::1]:4711"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["::ffff:192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1, fd00::7"], "192.0.2.1"),
            // It does not say.
            (&[], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&["192.0.2.1, unknown"], "10.0.0.1"),
            (&["192.0.2.1, \u{e9}"], "10.0.0.1"),
            (&["10.1.1.1"], "10.1.1.1"),
        ] {
            assert_eq!(client(proxy, forwarded), expected, "{forwarded:?}");
        }
        assert_eq!(client("[::ffff:10.0.0.1]:7", &["192.0.2.1"]), "192.0.2.1");
    }
}
