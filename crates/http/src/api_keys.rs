//! `/v1/api-keys`: issue, list, get, change.

use actix_web::{HttpRequest, HttpResponse, web};
use leadr_auth_domain::{
    Access, AccountId, ApiKey, ApiKeyStatus, ForeignAccount, KeyChange, KeyId, KeyName, KeyPrefix,
    ScopeSet, Scopes, Timestamp,
};
use leadr_auth_service::{Issued, IssuedKey, KeyFilter, KeyQuery, NewKey};
use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::body::JsonBody;
use crate::credential::RequireKey;
use crate::error::ApiError;
use crate::fields::{
    Fields, WireScope, Wrong, boolean, finish, flag, string, text, timestamp, uuid,
};
use crate::idempotency::{OnceHeader, idempotency};
use crate::listing::{ListName, WireSort, paging, part_of_name, period};
use crate::precondition::{IfMatchHeader, etag, if_match};
use crate::propagation::{WaitQuery, answer_when, wait};
use crate::{State, run_to_end};

/// Whether a key is meant to work.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = APIKeyStatus)]
pub(crate) enum WireStatus {
    /// It is.
    Active,
    /// It has been stopped.
    Revoked,
}

impl From<ApiKeyStatus> for WireStatus {
    fn from(status: ApiKeyStatus) -> Self {
        match status {
            ApiKeyStatus::Active => Self::Active,
            ApiKeyStatus::Revoked => Self::Revoked,
        }
    }
}

fn status(value: &Value) -> Result<ApiKeyStatus, Wrong> {
    [ApiKeyStatus::Active, ApiKeyStatus::Revoked]
        .into_iter()
        .find(|status| value.as_str() == Some(status.as_str()))
        .ok_or_else(|| Wrong::new("enum", "Input should be 'active' or 'revoked'"))
}

/// A key. The key itself and its hash are in no answer but the one that issues it.
#[derive(Serialize, ToSchema)]
#[schema(as = APIKeyResponse)]
pub(crate) struct KeyResponse {
    /// Unique identifier of the key.
    id: Uuid,
    /// The account that it belongs to.
    account_id: Uuid,
    /// What people call it.
    name: String,
    /// The first 14 characters of the key, to recognise it by.
    #[schema(example = "ldr_q3vXk2Lw0P")]
    prefix: String,
    /// Whether it is meant to work.
    status: WireStatus,
    /// What it may be used for; null if it has all rights of its account.
    #[schema(required)]
    scopes: Option<Vec<String>>,
    /// When it last authenticated a request (UTC); null if it never did.
    #[schema(format = DateTime, required)]
    last_used_at: Option<String>,
    /// From when on it no longer works (UTC); null if it never expires.
    #[schema(format = DateTime, required)]
    expires_at: Option<String>,
    /// When it was made (UTC).
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was last changed (UTC). Use is no change.
    #[schema(format = DateTime)]
    updated_at: String,
}

fn wire_scopes(scopes: &Scopes) -> Option<Vec<String>> {
    let scopes = scopes.only()?.iter();
    Some(scopes.map(|scope| scope.as_str().to_owned()).collect())
}

impl KeyResponse {
    pub(crate) fn of(key: &ApiKey) -> Self {
        Self {
            id: key.id.as_uuid(),
            account_id: key.account_id.as_uuid(),
            name: key.name.to_string(),
            prefix: key.key_prefix.to_string(),
            status: key.status.into(),
            scopes: wire_scopes(&key.scopes),
            last_used_at: key.last_used_at.as_ref().map(Timestamp::to_string),
            expires_at: key.expires_at.as_ref().map(Timestamp::to_string),
            created_at: key.created_at.to_string(),
            updated_at: key.updated_at.to_string(),
        }
    }
}

/// A key that has just been issued. The only answer that holds the key itself.
#[derive(Serialize, ToSchema)]
#[schema(as = CreateAPIKeyResponse)]
pub(crate) struct CreateKeyResponse {
    /// Unique identifier of the key.
    id: Uuid,
    /// What people call it.
    name: String,
    /// The key. Shown once: keep it now.
    #[schema(min_length = 47, max_length = 47, pattern = "^ldr_[A-Za-z0-9_-]{43}$")]
    key: String,
    /// The first 14 characters of the key, to recognise it by.
    #[schema(example = "ldr_q3vXk2Lw0P")]
    prefix: String,
    /// Whether it is meant to work.
    status: WireStatus,
    /// What it may be used for; null if it has all rights of its account.
    #[schema(required)]
    scopes: Option<Vec<String>>,
    /// From when on it no longer works (UTC); null if it never expires.
    #[schema(format = DateTime, required)]
    expires_at: Option<String>,
    /// When it was made (UTC).
    #[schema(format = DateTime)]
    created_at: String,
}

impl CreateKeyResponse {
    fn of(IssuedKey { key, plain_key }: &IssuedKey) -> Self {
        Self {
            id: key.id.as_uuid(),
            name: key.name.to_string(),
            key: plain_key.expose().to_owned(),
            prefix: key.key_prefix.to_string(),
            status: key.status.into(),
            scopes: wire_scopes(&key.scopes),
            expires_at: key.expires_at.as_ref().map(Timestamp::to_string),
            created_at: key.created_at.to_string(),
        }
    }
}

/// A key that was issued when the same request was sent before. The key itself was in that answer, and is in no other.
#[derive(Serialize, ToSchema)]
#[schema(as = ReplayedAPIKeyResponse)]
pub(crate) struct ReplayedKeyResponse {
    /// The key as it is now.
    #[serde(flatten)]
    record: KeyResponse,
    /// Always null.
    #[schema(value_type = Option<String>, required)]
    key: (),
    /// Always true.
    replayed: bool,
}

/// What a new key is to be.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateAPIKeyRequest)]
pub(crate) struct CreateKeyRequest {
    /// The account that the key will belong to. An operator has to say it; a tenant may leave it out and means its own.
    #[schema(value_type = Option<Uuid>)]
    account_id: AccountId,
    /// What people call it (for example 'Production Server'). Blanks at either end are taken away. It has no control characters
    /// and holds no API key.
    // Blanks, one that is none, any but control characters.
    #[schema(
        value_type = String,
        min_length = 1,
        max_length = 255,
        pattern = "^[\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000]*[^\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000][^\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069]*$"
    )]
    name: KeyName,
    /// From when on it no longer works, with an offset from UTC; it never expires if this is left out.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// What it may be used for: scopes that the key which issues it holds itself. If this is left out, it may be used for all
    /// that the issuing key may.
    #[schema(value_type = Option<Vec<WireScope>>, max_items = 64, example = json!(["keys:read", "docs:*"]))]
    scopes: Option<ScopeSet>,
}

impl CreateKeyRequest {
    fn parse(body: &[u8], access: Access, header: Fields) -> Result<Self, ApiError> {
        let mut body = Fields::body(body);
        let account = account(&mut body, access);
        let name = body.required("name", text(KeyName::parse));
        let expires_at = body.optional("expires_at", timestamp);
        let scopes = body.optional_scopes("scopes");
        let (account, name) = finish([header, body], account.zip(name))?;
        Ok(Self {
            account_id: account?,
            name,
            expires_at,
            scopes,
        })
    }
}

/// The account that is meant. Whether it is a foreign one is to be looked at last: what is malformed is said to be so
/// whoever asks.
fn account(fields: &mut Fields, access: Access) -> Option<Result<AccountId, ForeignAccount>> {
    let requested = fields.optional("account_id", uuid).map(AccountId::new);
    let account = access.resolve(requested).transpose();
    if account.is_none() {
        fields.missing("account_id");
    }
    account
}

/// What is to change. What is left out, or null, stays as it is.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UpdateAPIKeyRequest)]
#[expect(
    dead_code,
    reason = "it describes the body; what is read of it is a KeyChange"
)]
pub(crate) struct UpdateKeyRequest {
    /// `revoked` stops the key, `active` lets it work again.
    status: Option<WireStatus>,
    /// `true` soft-deletes the key, `false` restores it.
    deleted: Option<bool>,
    /// Another name, as for a new key.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = "^[\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000]*[^\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u202F\\u205F\\u3000][^\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069]*$"
    )]
    name: Option<String>,
    /// Other scopes: such that the key which changes it holds itself.
    #[schema(max_items = 64)]
    scopes: Option<Vec<WireScope>>,
}

/// What a list is of.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "it describes the query; what is read of it is a KeyQuery"
)]
pub(crate) struct ListKeysQuery {
    /// Account to list the keys of. An operator has to say it; a tenant may leave it out and means its own.
    account_id: Option<Uuid>,
    /// Only keys of this status.
    status: Option<WireStatus>,
    /// Only keys whose name contains this, whatever the case of ASCII letters.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = "^[^\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069]*$"
    )]
    name_contains: Option<String>,
    /// Only keys that begin like this: at most the 14 characters that are shown of a key. Never send a key here.
    #[param(min_length = 1, max_length = 14, pattern = "^[A-Za-z0-9_-]{1,14}$")]
    prefix: Option<String>,
    /// Only keys that were made at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Only keys that were made before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// Only keys that were last used at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    last_used_after: Option<Timestamp>,
    /// Only keys that were used, and not since this time.
    #[param(value_type = Option<String>, format = DateTime)]
    last_used_before: Option<Timestamp>,
    /// Only keys that expire at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    expires_after: Option<Timestamp>,
    /// Only keys that expire before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    expires_before: Option<Timestamp>,
    /// `true`: only keys that were never used.
    never_used: Option<bool>,
    /// The order; the newest first, if this is left out.
    #[param(inline)]
    sort: Option<WireSort>,
    /// The most keys, 1 to 100; up to 1,000 are answered if this is left out.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// Where the page before this one ended: from its `Link`.
    cursor: Option<String>,
}

/// The parameters of a list, but for the cursor.
const LIST_PARAMETERS: &[&str] = &[
    "account_id",
    "status",
    "name_contains",
    "prefix",
    "created_after",
    "created_before",
    "last_used_after",
    "last_used_before",
    "expires_after",
    "expires_before",
    "never_used",
    "sort",
    "limit",
];

/// The beginning of a key, as far as keys are shown. More of one than that is a secret, and is not repeated.
fn beginning(value: &Value) -> Result<String, Wrong> {
    let text = string(value)?;
    let is_of_key = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=KeyPrefix::LEN).contains(&text.len()) && text.bytes().all(is_of_key) {
        return Ok(text.to_owned());
    }
    let msg = format!(
        "Input should be 1 to {} of A-Z, a-z, 0-9, '_' and '-'",
        KeyPrefix::LEN
    );
    Err(Wrong::new("string_pattern_mismatch", msg))
}

fn key_id(request: &HttpRequest) -> (Fields, Option<KeyId>) {
    let mut path = Fields::path(request);
    let id = path.required("key_id", uuid).map(KeyId::new);
    (path, id)
}

/// Create a new API key for an account.
///
/// The key is in this answer only: it is stored as a hash and cannot be shown again.
#[utoipa::path(
    post, path = "/v1/api-keys", tag = "API Keys", request_body = CreateKeyRequest,
    params(OnceHeader),
    responses(
        (
            status = 201, description = "The key was issued", body = CreateKeyResponse,
            headers(("ETag" = String, description = "For `If-Match`")),
        ),
        (
            status = 200, description = "The key was issued when this request was sent before", body = ReplayedKeyResponse,
            headers(("ETag" = String, description = "For `If-Match`")),
        ),
        (status = 409, description = "The account has as many keys as it may have, or the Idempotency-Key is another request's", body = crate::error::ErrorBody),
        (status = 404, description = "Account not found", body = crate::error::ErrorBody),
    ),
)]
pub(crate) async fn create_api_key(
    caller: RequireKey,
    state: web::Data<State>,
    request: HttpRequest,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let body = body.read().await?;
    let (header, once) = idempotency(&request, "POST /v1/api-keys", &body);
    let request = CreateKeyRequest::parse(&body, caller.access(), header)?;
    let by = caller.principal();
    let issued = run_to_end(async move {
        let CreateKeyRequest {
            account_id,
            name,
            expires_at,
            scopes,
        } = request;
        let new = NewKey {
            name,
            expires_at,
            scopes,
        };
        let service = &state.service;
        if let Some((key, fingerprint)) = once {
            let issued = service.issue_key_once(&by, account_id, new, key, fingerprint);
            return issued.await;
        }
        let issued = service.issue_key(&by, account_id, new).await;
        issued.map(|issued| Issued::Now(Box::new(issued)))
    })
    .await??;
    Ok(match issued {
        Issued::Now(issued) => HttpResponse::Created()
            .insert_header(etag(issued.key.revision()))
            .json(CreateKeyResponse::of(&issued)),
        Issued::Before(key) => {
            HttpResponse::Ok()
                .insert_header(etag(key.revision()))
                .json(ReplayedKeyResponse {
                    record: KeyResponse::of(&key),
                    key: (),
                    replayed: true,
                })
        }
    })
}

/// List the live API keys of an account, newest first unless another order is asked for.
///
/// Where there are more, a header `Link` has the address of the next page. A page may be shorter than was asked for, or empty,
/// and not be the last: only where there is no such header is the list over.
#[utoipa::path(
    get, path = "/v1/api-keys", tag = "API Keys", params(ListKeysQuery),
    responses((
        status = 200, description = "The keys", body = [KeyResponse],
        headers(("Link" = String, description = "Where there are more: `<…>; rel=\"next\"`")),
    )),
)]
pub(crate) async fn list_api_keys(
    caller: RequireKey,
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let mut query = Fields::query(request.query_string());
    let account = account(&mut query, caller.access());
    let owner = account.and_then(Result::ok);
    let list = ListName::of(
        &request,
        "/v1/api-keys",
        LIST_PARAMETERS,
        owner.map(AccountId::as_uuid),
    );
    let (sort, limit) = paging(&mut query, &list, &state.service);
    let status = query.optional("status", status);
    let name_contains = query.optional("name_contains", part_of_name);
    let prefix = query.optional("prefix", beginning);
    let created = period(&mut query, "created_after", "created_before");
    let last_used = period(&mut query, "last_used_after", "last_used_before");
    let expires = period(&mut query, "expires_after", "expires_before");
    let never_used = query.optional("never_used", flag).unwrap_or_default();
    let account_id = finish([query], account)??;
    let filter = KeyFilter {
        account_id,
        status,
        active_only: false,
        name_contains,
        prefix,
        created,
        last_used,
        expires,
        never_used,
    };
    let query = KeyQuery {
        filter,
        sort,
        limit,
    };
    let page = state.service.page_of_keys(caller.access(), &query).await?;
    list.answer(&state.service, &page, KeyResponse::of)
}

/// Get a single API key by its id.
#[utoipa::path(
    get, path = "/v1/api-keys/{key_id}", tag = "API Keys",
    params(("key_id" = Uuid, Path, description = "The key's id")),
    responses(
        (
            status = 200, description = "The key", body = KeyResponse,
            headers(("ETag" = String, description = "For `If-Match`")),
        ),
        (status = 404, description = "APIKey not found", body = crate::error::ErrorBody),
    ),
)]
pub(crate) async fn get_api_key(
    caller: RequireKey,
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (path, id) = key_id(&request);
    let id = finish([path], id)?;
    let key = state.service.key(caller.access(), id).await?;
    let tag = etag(key.revision());
    Ok(HttpResponse::Ok()
        .insert_header(tag)
        .json(KeyResponse::of(&key)))
}

/// Update an API key: revoke or reactivate it, delete or restore it, rename it, change its scopes.
///
/// All of it happens, or nothing. An empty body changes nothing and answers the key; a deletion answers it as it was.
/// Only a key that holds all scopes of another reactivates or restores it.
#[utoipa::path(
    patch, path = "/v1/api-keys/{key_id}", tag = "API Keys", request_body = UpdateKeyRequest,
    params(("key_id" = Uuid, Path, description = "The key's id"), WaitQuery, IfMatchHeader),
    responses(
        (
            status = 200, description = "The key", body = KeyResponse,
            headers(
                ("ETag" = String, description = "For `If-Match`"),
                ("X-Leadr-Propagated" = bool, description = "With `wait=propagated`: whether every node has heard of the change, or cannot go by what it knew before any more"),
                ("X-Leadr-Nodes" = u64, description = "With `wait=propagated`: how many nodes run, as far as this one hears"),
                ("X-Leadr-Propagation-Ms" = u64, description = "With `wait=propagated`: how long it was waited, in whole milliseconds"),
            ),
        ),
        (status = 404, description = "APIKey not found", body = crate::error::ErrorBody),
        (status = 409, description = "The key cannot be restored: its secret was dropped, or its account has as many keys as it may have", body = crate::error::ErrorBody),
        (status = 412, description = "The key has changed since it was read", body = crate::error::ErrorBody),
    ),
)]
pub(crate) async fn update_api_key(
    caller: RequireKey,
    state: web::Data<State>,
    request: HttpRequest,
    body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let (path, id) = key_id(&request);
    let (query, wait) = wait(&request);
    let (header, only_if) = if_match(&request);
    let mut body = Fields::changes(&body.read().await?);
    let change = KeyChange {
        status: body.optional("status", status),
        deleted: body.optional("deleted", boolean),
        name: body.optional("name", text(KeyName::parse)),
        scopes: body.optional_scopes("scopes").map(Scopes::Only),
        only_if,
    };
    let id = finish([path, query, header, body], id)?;
    let by = caller.principal();
    let service = state.service.clone();
    let changed = async move { service.update_key(&by, id, &change).await };
    let (key, mut answer) = answer_when(changed, wait, &state.service).await?;
    answer.insert_header(etag(key.revision()));
    Ok(answer.json(KeyResponse::of(&key)))
}
