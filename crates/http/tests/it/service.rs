//! What is there for everybody: the index, health, the docs, request ids, and what is not there.

use leadr_auth_service::Phase;
use serde_json::json;

use crate::support::Api;

#[actix_web::test]
async fn the_index_says_what_this_is() {
    let api = Api::new().await;
    let index = api
        .send(Api::request("GET", "/", None))
        .await
        .expect(200)
        .json();
    assert_eq!(index["name"], "leadr-auth");
    assert_eq!(index["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(index["docs"], "/docs");
}

#[actix_web::test]
async fn health_and_readiness() {
    let api = Api::new().await;
    let health = api
        .send(Api::request("GET", "/v1/health", None))
        .await
        .expect(200)
        .json();
    assert_eq!(health, json!({"status": "healthy", "database": "healthy"}));
    api.send(Api::request("GET", "/readyz", None))
        .await
        .expect(200);
    api.service.readiness().set(Phase::Stopping);
    let answer = api.send(Api::request("GET", "/readyz", None)).await;
    answer.expect_error(503, "not_ready", "Not ready");
    api.send(Api::request("GET", "/livez", None))
        .await
        .expect(200);
}

#[actix_web::test]
async fn the_docs_load_from_here_only() {
    let api = Api::new().await;
    let page = api
        .send(Api::request("GET", "/docs", None))
        .await
        .expect(200);
    assert!(
        page.header("content-security-policy")
            .contains("default-src 'none'")
    );
    assert!(
        !page.text.contains("http:") && !page.text.contains("https:"),
        "{}",
        page.text
    );
    for asset in ["swagger-ui.css", "swagger-ui-bundle.js", "docs.js"] {
        assert!(page.text.contains(&format!("/docs/{asset}")), "{asset}");
        let asset = api
            .send(Api::request("GET", &format!("/docs/{asset}"), None))
            .await;
        assert!(!asset.expect(200).text.is_empty());
    }
    for missing in ["/docs/", "/docs/x", "/docs/..%2fdocs.js", "/docs/docs.js/"] {
        let answer = api.send(Api::request("GET", missing, None)).await;
        answer.expect_error(404, "not_found", "Not Found");
    }
}

#[actix_web::test]
async fn what_is_not_there_is_404() {
    let api = Api::new().await;
    for path in [
        "/v1",
        "/v1/",
        "/v1/api-keys/",
        "//v1/api-keys",
        "/v2/api-keys",
        "/V1/api-keys",
    ] {
        for key in [None, Some(api.operator.as_str())] {
            let answer = api.send(Api::request("GET", path, key)).await;
            answer.expect_error(404, "not_found", "Not Found");
        }
    }
}

#[actix_web::test]
async fn a_request_id_is_kept_if_it_is_one_and_hides_no_key() {
    let api = Api::new().await;
    let id = |given: &str| {
        let request = Api::request("GET", "/livez", None).insert_header(("x-request-id", given));
        async { api.send(request).await.header("x-request-id").to_owned() }
    };
    assert_eq!(id("abc-123_x.y:z").await, "abc-123_x.y:z");
    for bad in [
        "",
        "a b",
        "é",
        &"x".repeat(129),
        &api.one.key,
        &format!("x{}", api.one.key),
    ] {
        let given = id(bad).await;
        assert!(
            given.starts_with("0000000000000007-"),
            "{bad} became {given}"
        );
    }
}
