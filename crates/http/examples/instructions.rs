//! Verifies a key over and over, for `cargo xtask instructions` to count what the processor is told to do.
//!
//! `instructions forward-auth|verify|in-process|livez <how often>`: the whole application without a socket, on a store in memory, with the
//! key in the cache. What it costs to get there is in every run, so that the difference of two runs is the requests' alone.

use std::error::Error;
use std::time::Duration;

use actix_web::App;
use actix_web::body::{BoxBody, to_bytes};
use actix_web::dev::{AppConfig, Response, Service as _, ServiceFactory as _};
use actix_web::http::header;
use actix_web::test::{TestRequest, init_service};
use leadr_auth_http::{HttpConfig, State, TrustedProxies, app};
use tokio::sync::oneshot;

#[path = "protect_a_route.rs"]
mod protect_a_route;

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shape, count] = arguments.as_slice() else {
        return Err("instructions forward-auth|verify|in-process|livez <how often>".into());
    };
    let count: u32 = count.parse()?;
    let service = protect_a_route::service()?;
    let key = protect_a_route::first_key(&service, &["keys:verify", "docs:read"]).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let background = actix_web::rt::spawn(service.clone().run(async {
        let _ = stopped.await;
    }));
    let config = HttpConfig {
        body_timeout: Duration::from_secs(5),
        trusted_proxies: TrustedProxies::default(),
        invalid_keys: None,
        instance: 1,
    };
    let state = State::new(service.clone(), config);
    let app = app(state).new_service(AppConfig::default()).await;
    let app = app.map_err(|()| "the service does not start")?;
    let embedding = App::new().configure(protect_a_route::routes(service.clone()));
    let embedding = init_service(embedding).await;
    // The first tick comes back, and the cache may answer.
    while service.statistics().cache.lease.is_zero() {
        actix_web::rt::time::sleep(Duration::from_millis(20)).await;
    }
    let body = format!(r#"{{"key":"{}"}}"#, key.expose());
    for n in 0..count {
        if n % 50 == 0 {
            // No request waits for anything, and the task that keeps the cache's lease would never come to run.
            tokio::task::yield_now().await;
        }
        let request = match shape.as_str() {
            "forward-auth" => TestRequest::get()
                .uri("/v1/forward-auth")
                .insert_header(("leadr-api-key", key.expose())),
            "verify" => TestRequest::post()
                .uri("/v1/verify")
                .insert_header(("leadr-api-key", key.expose()))
                .insert_header((header::CONTENT_TYPE, "application/json"))
                .set_payload(body.clone()),
            "in-process" => TestRequest::get()
                .uri("/docs")
                .insert_header(("leadr-api-key", key.expose())),
            _ => TestRequest::get().uri("/livez"),
        };
        let answer: Response<BoxBody> = if shape == "in-process" {
            let answer = embedding.call(request.to_request()).await?;
            answer.map_into_boxed_body().into()
        } else {
            app.call(request.to_request()).await?.map_into_boxed_body()
        };
        if !answer.status().is_success() {
            return Err(format!("the answer was {}", answer.status()).into());
        }
        // What is sent is made when it is asked for.
        to_bytes(answer.into_body())
            .await
            .map_err(|_| "the answer has no end")?;
    }
    drop(stop);
    background.await?;
    Ok(())
}
