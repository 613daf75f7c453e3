//! Who presents one wrong key after the other, and who does not.

use std::num::NonZeroU32;
use std::time::Duration;

use actix_web::test::TestRequest;
use leadr_auth_http::{HttpConfig, InvalidKeyLimit, State, TrustedProxies};
use serde_json::json;

use crate::support::{Answer, Api};

const STRANGER: &str = "192.0.2.1:7";
const PROXY: &str = "10.0.0.1:7";

fn state(api: &Api, per_minute: u32) -> State {
    let config = HttpConfig {
        body_timeout: Duration::from_millis(200),
        trusted_proxies: TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]),
        invalid_keys: NonZeroU32::new(per_minute).map(|per_minute| InvalidKeyLimit { per_minute }),
        instance: 7,
    };
    State::new(api.service.clone(), config)
}

async fn send(state: &State, from: &str, request: TestRequest) -> Answer {
    Api::send_to(state, request.peer_addr(from.parse().unwrap())).await
}

fn me(key: &str) -> TestRequest {
    Api::request("GET", "/v1/me", Some(key))
}

#[actix_web::test]
async fn who_presents_wrong_keys_is_told_to_wait_and_nobody_else() {
    let api = Api::new().await;
    let state = state(&api, 3);
    let wrong = leadr_auth_domain::generate_api_key([1; 32]);
    // Whatever is wrong with them.
    api.patch(
        &format!("/v1/api-keys/{}", api.two.key_id),
        &api.operator,
        json!({"status": "revoked"}),
    )
    .await
    .expect(200);
    for key in [wrong.expose(), "ldr_short", &api.two.key] {
        send(&state, STRANGER, me(key)).await.expect(401);
    }
    for key in [wrong.expose(), "ldr_short", &api.two.key] {
        let answer = send(&state, STRANGER, me(key)).await;
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=21).contains(&wait), "{wait}");
        let detail = "Too many invalid API keys from this address";
        answer.expect_error(429, "too_many_invalid_keys", detail);
    }
    // A good key from there, a wrong one from elsewhere, and none at all.
    send(&state, STRANGER, me(&api.one.key)).await.expect(200);
    send(&state, "192.0.2.2:7", me(wrong.expose()))
        .await
        .expect(401);
    send(&state, STRANGER, Api::request("GET", "/v1/me", None))
        .await
        .expect(401);
    // Whose own key is wrong, and not whose key is asked about.
    let verify = |key: &str| {
        let body = json!({"key": wrong.expose()});
        Api::request("POST", "/v1/verify", Some(key)).set_json(body)
    };
    send(&state, STRANGER, verify(wrong.expose()))
        .await
        .expect(429);
    for _ in 0..5 {
        send(&state, STRANGER, verify(&api.one.key))
            .await
            .expect(200);
    }
}

#[actix_web::test]
async fn a_proxy_is_told_of_the_key_and_not_to_wait() {
    let api = Api::new().await;
    let state = state(&api, 1);
    // Proxies take an answer that is neither 2xx, 401 nor 403 for a failure of this service.
    for path in ["/v1/forward-auth", "/v1/ext-authz"] {
        for _ in 0..3 {
            let request = Api::request("GET", path, Some("ldr_short"));
            send(&state, PROXY, request).await.expect(401);
        }
    }
}

#[actix_web::test]
async fn a_known_proxy_says_who_it_was_and_a_stranger_does_not() {
    let api = Api::new().await;
    let state = state(&api, 1);
    let from = |client: &str| me("ldr_short").insert_header(("x-forwarded-for", client));
    send(&state, PROXY, from("192.0.2.1")).await.expect(401);
    send(&state, PROXY, from("192.0.2.1")).await.expect(429);
    send(&state, PROXY, from("192.0.2.2")).await.expect(401);
    // What it made up itself changes nothing.
    send(&state, PROXY, from("198.51.100.1, 192.0.2.1"))
        .await
        .expect(429);
    send(&state, "192.0.2.3:7", from("192.0.2.4"))
        .await
        .expect(401);
    send(&state, "192.0.2.3:7", from("192.0.2.5"))
        .await
        .expect(429);
}

#[actix_web::test]
async fn any_number_where_that_is_wanted() {
    let api = Api::new().await;
    let state = state(&api, 0);
    for _ in 0..300 {
        send(&state, STRANGER, me("ldr_short")).await.expect(401);
    }
}

#[actix_web::test]
async fn the_trail_names_the_client_and_not_the_proxy() {
    let api = Api::new().await;
    let state = state(&api, 0);
    let body = json!({"name": "Made through a proxy"});
    let request = Api::request("POST", "/v1/api-keys", Some(&api.one.key)).set_json(body);
    let request = request.insert_header(("x-forwarded-for", "192.0.2.9"));
    send(&state, PROXY, request).await.expect(201);
    let trail = api
        .get("/v1/audit?limit=1", &api.one.key)
        .await
        .expect(200)
        .json();
    assert_eq!(trail["entries"][0]["client"], "192.0.2.9");
}
