//! `?wait=propagated`: answer a change only when every node has heard of it.

use std::future::Future;

use actix_web::http::header::HeaderName;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use leadr_auth_service::{Propagation, Service};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::error::ApiError;
use crate::fields::{Fields, Wrong};
use crate::run_to_end;

const PROPAGATED: HeaderName = HeaderName::from_static("x-leadr-propagated");
const NODES: HeaderName = HeaderName::from_static("x-leadr-nodes");
const TOOK: HeaderName = HeaderName::from_static("x-leadr-propagation-ms");

/// What to wait for before the answer.
#[derive(Clone, Copy, ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum Until {
    /// That every node has heard of the change, or cannot go by what it knew before any more.
    Propagated,
}

/// Whether to wait.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes the query")]
pub(crate) struct WaitQuery {
    /// `propagated`: the change is answered when every node has heard of it, or cannot go by what it knew before any more; after
    /// ten seconds at most. The answer then has `X-Leadr-Propagated`, `X-Leadr-Nodes` and `X-Leadr-Propagation-Ms`.
    #[param(inline)]
    wait: Option<Until>,
}

/// The query of a change, and what it is to wait for.
pub(crate) fn wait(request: &HttpRequest) -> (Fields, Option<Until>) {
    let mut query = Fields::strict_query(request.query_string());
    let until = query.optional("wait", until);
    (query, until)
}

fn until(value: &Value) -> Result<Until, Wrong> {
    match value.as_str() {
        Some("propagated") => Ok(Until::Propagated),
        _ => Err(Wrong::new("enum", "Input should be 'propagated'")),
    }
}

/// Makes a change and then waits for it to get as far as is wanted, both to the end. Gives what the change gave, and the answer,
/// which says how far it has got where that was waited for.
pub(crate) async fn answer_when<T: 'static, E: 'static>(
    change: impl Future<Output = Result<T, E>> + 'static,
    until: Option<Until>,
    service: &Service,
) -> Result<(T, HttpResponseBuilder), ApiError>
where
    ApiError: From<E>,
{
    let service = service.clone();
    let (changed, propagation) = run_to_end(async move {
        let changed = change.await?;
        let propagation = match until {
            Some(Until::Propagated) => Some(service.await_propagation().await),
            None => None,
        };
        Ok::<_, E>((changed, propagation))
    })
    .await??;
    let mut answer = HttpResponse::Ok();
    if let Some(Propagation {
        propagated,
        nodes,
        took,
    }) = propagation
    {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        answer
            .insert_header((PROPAGATED, if propagated { "true" } else { "false" }))
            .insert_header((NODES, nodes))
            .insert_header((TOOK, took));
    }
    Ok((changed, answer))
}
