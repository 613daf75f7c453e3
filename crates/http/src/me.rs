//! `/v1/me`: who the holder of a key is.

use actix_web::{HttpResponse, web};
use leadr_auth_domain::KeyRecord;
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::accounts::AccountResponse;
use crate::api_keys::KeyResponse;
use crate::credential::RequireKey;

/// The key that was presented, and whose it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct MeResponse {
    /// The key's record.
    key: KeyResponse,
    /// The account that it belongs to.
    account: AccountResponse,
}

/// Which key is this, what may it be used for, when does it expire, and whose is it? Any valid key may ask.
#[utoipa::path(
    get, path = "/v1/me", tag = "API Keys",
    responses((status = 200, description = "The key and its account", body = MeResponse)),
)]
pub(crate) async fn who_am_i(caller: RequireKey, state: web::Data<State>) -> HttpResponse {
    let KeyRecord { key, account } = caller.record();
    let key = state.service.usage().overlay(key);
    HttpResponse::Ok().json(MeResponse {
        key: KeyResponse::of(&key),
        account: AccountResponse::of(&account),
    })
}
