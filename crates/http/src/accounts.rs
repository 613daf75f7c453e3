//! `/v1/accounts`: make, list, get, change.

use actix_web::{HttpRequest, HttpResponse, web};
use leadr_auth_domain::{
    Access, Account, AccountChange, AccountId, AccountName, AccountStatus, KeyLimit, Slug,
    Timestamp,
};
use leadr_auth_service::{AccountFilter, AccountQuery, NewAccount};
use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::body::JsonBody;
use crate::credential::{RequireKey, RequireOperator};
use crate::error::ApiError;
use crate::fields::{Fields, Wrong, boolean, finish, text, uuid, whole};
use crate::idempotency::{OnceHeader, idempotency};
use crate::listing::{ListName, WireSort, paging, part_of_name, period};
use crate::precondition::{IfMatchHeader, etag, if_match};
use crate::propagation::{WaitQuery, answer_when, wait};
use crate::{State, run_to_end};

/// Whether an account's keys work.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AccountStatus)]
pub(crate) enum WireStatus {
    /// They do.
    Active,
    /// None of them does.
    Suspended,
}

impl From<AccountStatus> for WireStatus {
    fn from(status: AccountStatus) -> Self {
        match status {
            AccountStatus::Active => Self::Active,
            AccountStatus::Suspended => Self::Suspended,
        }
    }
}

fn status(value: &Value) -> Result<AccountStatus, Wrong> {
    match value.as_str() {
        Some("active") => Ok(AccountStatus::Active),
        Some("suspended") => Ok(AccountStatus::Suspended),
        _ => Err(Wrong::new(
            "enum",
            "Input should be 'active' or 'suspended'",
        )),
    }
}

fn key_limit(value: &Value) -> Result<KeyLimit, Wrong> {
    whole(value).and_then(KeyLimit::new).ok_or_else(|| {
        let msg = format!("Input should be a whole number from 0 to {}", KeyLimit::MAX);
        Wrong::new("int_out_of_range", msg)
    })
}

/// An account.
#[derive(Serialize, ToSchema)]
pub(crate) struct AccountResponse {
    /// Unique identifier of the account.
    id: Uuid,
    /// What people call it.
    name: String,
    /// What addresses call it.
    slug: String,
    /// Whether its keys work.
    status: WireStatus,
    /// How many live keys it may have, revoked and expired ones included.
    key_limit: u32,
    /// When it was made (UTC).
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was last changed (UTC).
    #[schema(format = DateTime)]
    updated_at: String,
}

impl AccountResponse {
    pub(crate) fn of(account: &Account) -> Self {
        Self {
            id: account.id.as_uuid(),
            name: account.name.to_string(),
            slug: account.slug.to_string(),
            status: account.status.into(),
            key_limit: account.key_limit.keys(),
            created_at: account.created_at.to_string(),
            updated_at: account.updated_at.to_string(),
        }
    }
}

/// An account that was made when the same request was sent before.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReplayedAccountResponse {
    /// The account as it is now.
    #[serde(flatten)]
    record: AccountResponse,
    /// Always true.
    replayed: bool,
}

/// What a new account is to be.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "it describes the body; what is read of it is a NewAccount"
)]
pub(crate) struct CreateAccountRequest {
    /// What people call it; unique. Blanks at either end are taken away. It has no control characters and holds no API key.
    // Blanks, one that is none, any but control characters, one that is none, blanks.
    #[schema(
        min_length = 2,
        max_length = 100,
        pattern = "^[\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000]*[^\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000][^\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069]*[^\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000][\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000]*$"
    )]
    name: String,
    /// What addresses call it; unique.
    #[schema(
        min_length = 2,
        max_length = 50,
        pattern = "^[a-z0-9]+(?:-[a-z0-9]+)*$"
    )]
    slug: String,
    /// How many live keys it may have; 1,000 if this is left out.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    key_limit: Option<u32>,
}

/// What is to change. What is left out, or null, stays as it is.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "it describes the body; what is read of it is an AccountChange"
)]
pub(crate) struct UpdateAccountRequest {
    /// Another name; unique. As for a new account.
    #[schema(
        min_length = 2,
        max_length = 100,
        pattern = "^[\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000]*[^\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000][^\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069]*[^\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000][\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000]*$"
    )]
    name: Option<String>,
    /// Another slug; unique.
    #[schema(
        min_length = 2,
        max_length = 50,
        pattern = "^[a-z0-9]+(?:-[a-z0-9]+)*$"
    )]
    slug: Option<String>,
    /// `suspended` stops all keys of the account, `active` lets those work again that are valid themselves.
    status: Option<WireStatus>,
    /// How many live keys it may have from now on. Where it has more, they stay.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    key_limit: Option<u32>,
    /// `true` soft-deletes the account, `false` restores it.
    deleted: Option<bool>,
}

/// What a list is of.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "it describes the query; what is read of it is an AccountQuery"
)]
pub(crate) struct ListAccountsQuery {
    /// Only accounts of this status.
    status: Option<WireStatus>,
    /// Only accounts whose name contains this, whatever the case of ASCII letters.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = "^[^\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069]*$"
    )]
    name_contains: Option<String>,
    /// Only accounts that were made at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Only accounts that were made before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// The order; the newest first, if this is left out.
    #[param(inline)]
    sort: Option<WireSort>,
    /// The most accounts, 1 to 100; up to 1,000 are answered if this is left out.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// Where the page before this one ended: from its `Link`.
    cursor: Option<String>,
}

/// The parameters of a list, but for the cursor.
const LIST_PARAMETERS: &[&str] = &[
    "status",
    "name_contains",
    "created_after",
    "created_before",
    "sort",
    "limit",
];

fn account_id(request: &HttpRequest) -> (Fields, Option<AccountId>) {
    let mut path = Fields::path(request);
    let id = path.required("account_id", uuid).map(AccountId::new);
    (path, id)
}

/// Create an account. Operators only.
#[utoipa::path(
    post, path = "/v1/accounts", tag = "Accounts", request_body = CreateAccountRequest,
    params(OnceHeader),
    responses(
        (
            status = 201, description = "The account was made", body = AccountResponse,
            headers(("ETag" = String, description = "For `If-Match`")),
        ),
        (
            status = 200, description = "The account was made when this request was sent before", body = ReplayedAccountResponse,
            headers(("ETag" = String, description = "For `If-Match`")),
        ),
        (status = 409, description = "The name or the slug is taken, or the Idempotency-Key is another request's", body = crate::error::ErrorBody),
    ),
)]
pub(crate) async fn create_account(
    operator: RequireOperator,
    state: web::Data<State>,
    request: HttpRequest,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let body = body.read().await?;
    let (header, once) = idempotency(&request, "POST /v1/accounts", &body);
    let mut body = Fields::body(&body);
    let name = body.required("name", text(AccountName::parse));
    let slug = body.required("slug", text(Slug::parse));
    let key_limit = body.optional("key_limit", key_limit);
    let new = name.zip(slug).map(|(name, slug)| NewAccount {
        name,
        slug,
        key_limit,
    });
    let new = finish([header, body], new)?;
    let (account, replayed) = run_to_end(async move {
        let (service, by) = (&state.service, &operator.0);
        match once {
            Some((key, fingerprint)) => {
                service.create_account_once(by, new, key, fingerprint).await
            }
            None => service
                .create_account(by, new)
                .await
                .map(|made| (made, false)),
        }
    })
    .await??;
    let (tag, record) = (etag(account.revision()), AccountResponse::of(&account));
    Ok(if replayed {
        let answer = ReplayedAccountResponse { record, replayed };
        HttpResponse::Ok().insert_header(tag).json(answer)
    } else {
        HttpResponse::Created().insert_header(tag).json(record)
    })
}

/// List the live accounts, newest first unless another order is asked for. A tenant sees its own only.
///
/// Where there are more, a header `Link` has the address of the next page, as with keys.
#[utoipa::path(
    get, path = "/v1/accounts", tag = "Accounts", params(ListAccountsQuery),
    responses((
        status = 200, description = "The accounts", body = [AccountResponse],
        headers(("Link" = String, description = "Where there are more: `<…>; rel=\"next\"`")),
    )),
)]
pub(crate) async fn list_accounts(
    caller: RequireKey,
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let access = caller.access();
    let owner = match access {
        Access::All => None,
        Access::Account(own) => Some(own.as_uuid()),
    };
    let list = ListName::of(&request, "/v1/accounts", LIST_PARAMETERS, owner);
    let mut query = Fields::query(request.query_string());
    let (sort, limit) = paging(&mut query, &list, &state.service);
    let filter = AccountFilter {
        status: query.optional("status", status),
        name_contains: query.optional("name_contains", part_of_name),
        created: period(&mut query, "created_after", "created_before"),
    };
    finish([query], Some(()))?;
    let query = AccountQuery {
        filter,
        sort,
        limit,
    };
    let page = state.service.page_of_accounts(access, &query).await?;
    list.answer(&state.service, &page, AccountResponse::of)
}

/// Get a single account by its id. A tenant gets its own only.
#[utoipa::path(
    get, path = "/v1/accounts/{account_id}", tag = "Accounts",
    params(("account_id" = Uuid, Path, description = "The account's id")),
    responses(
        (
            status = 200, description = "The account", body = AccountResponse,
            headers(("ETag" = String, description = "For `If-Match`")),
        ),
        (status = 404, description = "Account not found", body = crate::error::ErrorBody),
    ),
)]
pub(crate) async fn get_account(
    caller: RequireKey,
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (path, id) = account_id(&request);
    let id = finish([path], id)?;
    let account = state.service.account(caller.access(), id).await?;
    let tag = etag(account.revision());
    Ok(HttpResponse::Ok()
        .insert_header(tag)
        .json(AccountResponse::of(&account)))
}

/// Update an account: rename, suspend or activate, delete or restore it. Operators only.
///
/// All of it happens, or nothing. Suspending or deleting an account stops all its keys at once.
#[utoipa::path(
    patch, path = "/v1/accounts/{account_id}", tag = "Accounts", request_body = UpdateAccountRequest,
    params(("account_id" = Uuid, Path, description = "The account's id"), WaitQuery, IfMatchHeader),
    responses(
        (
            status = 200, description = "The account", body = AccountResponse,
            headers(
                ("ETag" = String, description = "For `If-Match`"),
                ("X-Leadr-Propagated" = bool, description = "With `wait=propagated`: whether every node has heard of the change, or cannot go by what it knew before any more"),
                ("X-Leadr-Nodes" = u64, description = "With `wait=propagated`: how many nodes run, as far as this one hears"),
                ("X-Leadr-Propagation-Ms" = u64, description = "With `wait=propagated`: how long it was waited, in whole milliseconds"),
            ),
        ),
        (status = 404, description = "Account not found", body = crate::error::ErrorBody),
        (status = 409, description = "The name or the slug is taken, or the account is the operator's", body = crate::error::ErrorBody),
        (status = 412, description = "The account has changed since it was read", body = crate::error::ErrorBody),
    ),
)]
pub(crate) async fn update_account(
    operator: RequireOperator,
    state: web::Data<State>,
    request: HttpRequest,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let (path, id) = account_id(&request);
    let (query, wait) = wait(&request);
    let (header, only_if) = if_match(&request);
    let mut body = Fields::changes(&body.read().await?);
    let change = AccountChange {
        name: body.optional("name", text(AccountName::parse)),
        slug: body.optional("slug", text(Slug::parse)),
        status: body.optional("status", status),
        key_limit: body.optional("key_limit", key_limit),
        deleted: body.optional("deleted", boolean),
        only_if,
    };
    let id = finish([path, query, header, body], id)?;
    let service = state.service.clone();
    let changed = async move { service.update_account(&operator.0, id, &change).await };
    let (account, mut answer) = answer_when(changed, wait, &state.service).await?;
    answer.insert_header(etag(account.revision()));
    Ok(answer.json(AccountResponse::of(&account)))
}
