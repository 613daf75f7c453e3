//! The floor that `cargo xtask bench` measures against: a bare server that answers what it was told, with no
//! authentication, no middleware and no store.
//!
//! `LISTEN` is the address, `WORKERS` the number of workers, and `ANSWERS` a file of JSON with the answers: for each `path` a
//! `status`, the `headers` as pairs, and the `body`. They are recorded from the server that is measured, so that both send as
//! much. A request's body is read before it is answered, as there.

use std::error::Error;
use std::io;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::{self, Bytes};
use actix_web::{App, HttpResponse, HttpServer};
use serde::Deserialize;

#[derive(Clone, Deserialize)]
struct Answer {
    path: String,
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// An answer in the form in which it is sent.
#[derive(Clone)]
struct Ready {
    path: String,
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Ready {
    fn of(answer: &Answer) -> Result<Self, Box<dyn Error>> {
        let headers = answer.headers.iter().map(|(name, value)| {
            Ok((
                HeaderName::try_from(name.as_str())?,
                HeaderValue::from_str(value)?,
            ))
        });
        Ok(Self {
            path: answer.path.clone(),
            status: StatusCode::from_u16(answer.status)?,
            headers: headers.collect::<Result<_, Box<dyn Error>>>()?,
            body: Bytes::from(answer.body.clone()),
        })
    }

    fn answer(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        for header in &self.headers {
            response.append_header(header.clone());
        }
        response.body(self.body.clone())
    }
}

#[actix_web::main]
#[expect(
    clippy::disallowed_methods,
    reason = "it has no configuration but these three"
)]
async fn main() -> Result<(), Box<dyn Error>> {
    let listen = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8001".to_owned());
    let workers = std::env::var("WORKERS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let text = std::fs::read_to_string(std::env::var("ANSWERS")?)?;
    let answers: Vec<Answer> = serde_json::from_str(&text).map_err(io::Error::other)?;
    let answers: Vec<Ready> = answers.iter().map(Ready::of).collect::<Result<_, _>>()?;
    let server = HttpServer::new(move || {
        let mut app = App::new();
        for answer in answers.clone() {
            let path = answer.path.clone();
            app = if answer.status == StatusCode::NO_CONTENT || answer.status.is_client_error() {
                // What is asked of these has no body.
                app.route(&path, web::to(move || std::future::ready(answer.answer())))
            } else {
                app.route(
                    &path,
                    web::to(move |_: Bytes| std::future::ready(answer.answer())),
                )
            };
        }
        app
    });
    server.workers(workers).bind(listen)?.run().await?;
    Ok(())
}
