//! The floor that `cargo xtask bench` measures against: a bare server that answers a constant of the size of a key's
//! record, with no routing to speak of, no authentication, no middleware and no store.
//!
//! `LISTEN` is the address, `WORKERS` the number of workers.

use actix_web::{App, HttpResponse, HttpServer, web};

const RECORD: &str = r#"{"id":"497f6eca-6276-4993-bfeb-53cbbbba6f08","account_id":"449e7a5c-69d3-4b8a-aaaf-5c9b713ebc65","name":"Production Server","prefix":"ldr_q3vXk2Lw0P","status":"active","last_used_at":"2026-08-24T14:15:22.123456Z","expires_at":null,"created_at":"2026-08-24T14:15:22.123456Z","updated_at":"2026-08-24T14:15:22.123456Z"}"#;

#[actix_web::main]
#[expect(
    clippy::disallowed_methods,
    reason = "it has no configuration but these two"
)]
async fn main() -> std::io::Result<()> {
    let listen = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8001".to_owned());
    let workers = std::env::var("WORKERS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    HttpServer::new(|| {
        let answer = || async {
            HttpResponse::Ok()
                .content_type("application/json")
                .body(RECORD)
        };
        App::new().default_service(web::to(answer))
    })
    .workers(workers)
    .bind(listen)?
    .run()
    .await
}
