//! What is sent as a body, and is none.

use actix_web::test::TestRequest;

use crate::support::Api;

fn post(key: &str) -> TestRequest {
    Api::request("POST", "/v1/api-keys", Some(key))
}

#[actix_web::test]
async fn a_body_that_is_not_json_is_415() {
    let api = Api::new().await;
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonx",
    ] {
        let request = post(&api.one.key)
            .insert_header(("content-type", content_type))
            .set_payload(r#"{"name":"K"}"#);
        let answer = api.send(request).await;
        answer.expect_error(
            415,
            "unsupported_media_type",
            "The body must be JSON (Content-Type: application/json)",
        );
    }
    api.send(post(&api.one.key).set_payload(r#"{"name":"K"}"#))
        .await
        .expect(415);
    let gzip = post(&api.one.key)
        .insert_header(("content-type", "application/json"))
        .insert_header(("content-encoding", "gzip"))
        .set_payload(r#"{"name":"K"}"#);
    api.send(gzip).await.expect(415);
    let charset = post(&api.one.key)
        .insert_header(("content-type", "application/json; charset=utf-8"))
        .set_payload(r#"{"name":"K"}"#);
    api.send(charset).await.expect(201);
}

#[actix_web::test]
async fn a_body_that_is_malformed_is_422() {
    let api = Api::new().await;
    for (body, fault) in [
        ("", "missing body"),
        ("{", "json_invalid body"),
        (r#"{"name":"K"}x"#, "json_invalid body"),
        ("[]", "object_type body"),
        ("null", "object_type body"),
        (r#"{"name":"K","name":"L"}"#, "duplicate body.name"),
    ] {
        let request = post(&api.one.key)
            .insert_header(("content-type", "application/json"))
            .set_payload(body);
        assert_eq!(api.send(request).await.faults(), [fault], "{body}");
    }
}

#[actix_web::test]
async fn a_body_over_16_kib_is_413_and_one_of_just_that_is_read() {
    let api = Api::new().await;
    let padded = |size: usize| {
        let body = r#"{"name":"K"}"#;
        format!("{body}{}", " ".repeat(size - body.len()))
    };
    let request = |size| {
        post(&api.one.key)
            .insert_header(("content-type", "application/json"))
            .set_payload(padded(size))
    };
    api.send(request(16 * 1024)).await.expect(201);
    let answer = api.send(request(16 * 1024 + 1)).await;
    answer.expect_error(413, "body_too_large", "The body is larger than 16 KiB");
    let declared = request(100).insert_header(("content-length", "99999999999"));
    api.send(declared).await.expect(413);
}

#[actix_web::test]
async fn whoever_has_no_right_is_not_asked_for_a_better_body() {
    let api = Api::new().await;
    let huge = "x".repeat(100_000);
    let request = Api::request("POST", "/v1/api-keys", None).set_payload(huge.clone());
    api.send(request).await.expect(401);
    let request = Api::request("POST", "/v1/accounts", Some(&api.one.key)).set_payload(huge);
    api.send(request).await.expect(403);
}
