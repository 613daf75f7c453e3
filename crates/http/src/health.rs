//! Is anybody there?

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::error::ApiError;

/// What this is.
#[derive(Serialize, ToSchema)]
pub(crate) struct IndexResponse {
    /// `leadr-auth`.
    name: &'static str,
    /// Its version.
    version: &'static str,
    /// Where the API is documented.
    docs: &'static str,
    /// Where its machine-readable description is.
    openapi: &'static str,
}

/// Whether the process runs.
#[derive(Serialize, ToSchema)]
pub(crate) struct LiveResponse {
    /// Always `alive`.
    status: &'static str,
}

/// Whether the process is able to serve.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReadyResponse {
    /// Always `ready`; while it is not, the answer is an error.
    status: &'static str,
}

/// How the service and its store are.
#[derive(Serialize, ToSchema)]
pub(crate) struct HealthResponse {
    /// `healthy`, or `degraded` while the database is not.
    #[schema(example = "healthy", pattern = "^(healthy|degraded)$")]
    status: &'static str,
    /// `healthy` or `unhealthy`.
    #[schema(example = "healthy", pattern = "^(healthy|unhealthy)$")]
    database: &'static str,
}

/// Name, version, and where the docs are.
#[utoipa::path(
    get, path = "/", tag = "Service",
    responses((status = 200, description = "What this is", body = IndexResponse)),
)]
pub(crate) async fn index() -> HttpResponse {
    HttpResponse::Ok().json(IndexResponse {
        name: "leadr-auth",
        version: env!("CARGO_PKG_VERSION"),
        docs: "/docs",
        openapi: "/openapi.json",
    })
}

/// Does the process run? For whoever restarts it when it does not.
#[utoipa::path(
    get, path = "/livez", tag = "Service",
    responses((status = 200, description = "It runs", body = LiveResponse)),
)]
pub(crate) async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(LiveResponse { status: "alive" })
}

/// Is the process able to serve? For whoever sends it requests.
#[utoipa::path(
    get, path = "/readyz", tag = "Service",
    responses(
        (status = 200, description = "It is", body = ReadyResponse),
        (status = 503, description = "It is starting, stopping, or its store is away", body = crate::error::ErrorBody),
    ),
)]
pub(crate) async fn readyz(state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    if !state.service.readiness().is_ready() {
        return Err(ApiError::NotReady);
    }
    state
        .service
        .check_store()
        .await
        .map_err(|_| ApiError::NotReady)?;
    Ok(HttpResponse::Ok().json(ReadyResponse { status: "ready" }))
}

/// How are the service and its database? Always 200: for dashboards, and for clients of the reference implementation.
#[utoipa::path(
    get, path = "/v1/health", tag = "Service",
    responses((status = 200, description = "How they are", body = HealthResponse)),
)]
pub(crate) async fn health(state: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok().json(match state.service.check_store().await {
        Ok(()) => HealthResponse {
            status: "healthy",
            database: "healthy",
        },
        Err(_) => HealthResponse {
            status: "degraded",
            database: "unhealthy",
        },
    })
}
