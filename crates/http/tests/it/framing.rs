//! Heads that are not as HTTP has them. What is refused before it is a request is tested with the binary.

use actix_web::test::TestRequest;

use crate::support::Api;

const DETAIL: &str = "Host is not a host";

#[actix_web::test]
async fn a_host_that_is_none_is_400_wherever_it_is_sent() {
    let api = Api::new().await;
    for path in ["/livez", "/v1/forward-auth", "/v1/accounts", "/nowhere"] {
        let ask = |host| TestRequest::get().uri(path).insert_header(("host", host));
        for host in ["user@keys.example", "keys.example/v1", "a, b", "keys:http"] {
            let answer = api.send(ask(host)).await;
            answer.expect_error(400, "malformed_request", DETAIL);
        }
        for host in ["keys.example:8000", "[2001:db8::1]"] {
            assert_ne!(api.send(ask(host)).await.status, 400, "{path} {host}");
        }
    }
}
