//! `/v1/audit`: what was changed, by whom, and when.

use actix_web::http::header::LINK;
use actix_web::{HttpRequest, HttpResponse, web};
use leadr_auth_domain::{
    AccountId, Actor, AuditAction, AuditEntry, ChainId, Facts, KeyId, Timestamp,
};
use leadr_auth_service::{ActorFilter, AuditFilter, AuditPlace};
use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::State;
use crate::credential::RequireKey;
use crate::error::ApiError;
use crate::fields::{Fields, Wrong, finish, number, string, timestamp, uuid};
use crate::listing::{ListName, MAX_LIMIT};

/// What did it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ActorKind {
    /// The holder of a key.
    Key,
    /// Somebody at the command line.
    Tool,
    /// The server itself.
    Server,
}

/// Who did it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ActorResponse {
    /// What did it.
    kind: ActorKind,
    /// The key that was presented; null if it was no key.
    #[schema(required)]
    key_id: Option<Uuid>,
    /// The account of that key.
    #[schema(required)]
    account_id: Option<Uuid>,
}

impl From<Actor> for ActorResponse {
    fn from(actor: Actor) -> Self {
        let (kind, ids) = match actor {
            Actor::Key { key_id, account_id } => (ActorKind::Key, Some((key_id, account_id))),
            Actor::Tool => (ActorKind::Tool, None),
            Actor::Server => (ActorKind::Server, None),
        };
        Self {
            kind,
            key_id: ids.map(|(key, _)| key.as_uuid()),
            account_id: ids.map(|(_, account)| account.as_uuid()),
        }
    }
}

/// An entry of the audit trail.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditEntryResponse {
    /// The account whose trail it is in; null in the deployment's own.
    #[schema(required)]
    account_id: Option<Uuid>,
    /// Its number in that trail, from 1 on.
    seq: u64,
    /// When (UTC).
    #[schema(format = DateTime)]
    at: String,
    /// What was done.
    #[schema(example = "key.revoked")]
    action: String,
    /// Who did it.
    actor: ActorResponse,
    /// The id of the request that did it.
    #[schema(required)]
    request_id: Option<String>,
    /// The address that it came from.
    #[schema(required)]
    client: Option<String>,
    /// The key that it was done to.
    #[schema(required)]
    key_id: Option<Uuid>,
    /// What changed, as it was before.
    #[schema(required)]
    before: Option<Value>,
    /// What changed, as it was afterwards; or all there is to say of what was done.
    #[schema(required)]
    after: Option<Value>,
    /// Its seal: over all of this and the seal of the entry before it.
    #[schema(min_length = 64, max_length = 64)]
    hash: String,
}

/// What is no JSON was put there by somebody else, and is shown as the text that it is.
fn shown(facts: &Facts) -> Value {
    serde_json::from_str(facts.as_str()).unwrap_or_else(|_| facts.as_str().into())
}

impl AuditEntryResponse {
    fn of(entry: &AuditEntry) -> Self {
        Self {
            account_id: entry.chain.account_id().map(AccountId::as_uuid),
            seq: entry.seq,
            at: entry.at.to_string(),
            action: entry.action.clone(),
            actor: entry.origin.actor.into(),
            request_id: entry.origin.request_id.as_deref().map(str::to_owned),
            client: entry.origin.client.map(|client| client.to_string()),
            key_id: entry.key_id.map(KeyId::as_uuid),
            before: entry.before.as_ref().map(shown),
            after: entry.after.as_ref().map(shown),
            hash: entry.hash.to_string(),
        }
    }
}

/// A part of the audit trail.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditResponse {
    /// The entries, newest first. There may be fewer than were asked for, or none, where there are more all the same.
    #[schema(max_items = 100)]
    entries: Vec<AuditEntryResponse>,
    /// What to send as `cursor` for the entries after these; null if there are none.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Which entries are wanted.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "it describes the query; what is read of it is an AuditFilter"
)]
pub(crate) struct AuditQuery {
    /// Of this account. A tenant may leave it out and means its own; an operator means all, and the deployment's own. For an
    /// operator the nil UUID stands for the deployment's own alone.
    account_id: Option<Uuid>,
    /// About this key.
    key_id: Option<Uuid>,
    /// By whom: the id of a key, or `tool`, or `server`.
    #[param(
        pattern = "^(tool|server|[0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12})$"
    )]
    actor: Option<String>,
    /// Of this action, as in `key.revoked`.
    #[param(schema_with = actions)]
    action: Option<String>,
    /// From this time on.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// Where the answer before this one ended: its `next_cursor`.
    cursor: Option<String>,
    /// The most entries, 1 to 100.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// Those that there are.
fn actions() -> Object {
    let actions = AuditAction::ALL.iter().map(|action| action.as_str());
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(actions))
        .build()
}

/// A place in the list, as text.
fn place_text(AuditPlace { at, chain, seq }: AuditPlace) -> String {
    format!("{}.{}.{seq}", at.unix_micros(), chain.as_uuid().simple())
}

/// The place that a text stands for.
fn place(text: &str) -> Option<AuditPlace> {
    let mut parts = text.split('.');
    let (at, chain, seq) = (parts.next()?, parts.next()?, parts.next()?);
    Some(AuditPlace {
        at: Timestamp::from_unix_micros(at.parse().ok()?)?,
        chain: ChainId::from_uuid(Uuid::try_parse(chain).ok()?),
        seq: seq.parse().ok()?,
    })
}

/// The parameters of the list, but for the cursor.
const LIST_PARAMETERS: &[&str] = &[
    "account_id",
    "key_id",
    "actor",
    "action",
    "since",
    "until",
    "limit",
];

fn actor(value: &Value) -> Result<ActorFilter, Wrong> {
    match string(value)? {
        "tool" => Ok(ActorFilter::Tool),
        "server" => Ok(ActorFilter::Server),
        _ => uuid(value)
            .map(|id| ActorFilter::Key(KeyId::new(id)))
            .map_err(|_| Wrong::new("enum", "Input should be a key's id, 'tool' or 'server'")),
    }
}

fn action(value: &Value) -> Result<AuditAction, Wrong> {
    AuditAction::parse(string(value)?)
        .ok_or_else(|| Wrong::new("enum", "Input should be an action such as 'key.revoked'"))
}

/// Read the audit trail, newest first. It needs a key with the scope `audit:read`.
#[utoipa::path(
    get, path = "/v1/audit", tag = "Audit", params(AuditQuery),
    responses((
        status = 200, description = "The entries", body = AuditResponse,
        headers(("Link" = String, description = "Where there are more: `<…>; rel=\"next\"`")),
    )),
)]
pub(crate) async fn list_audit(
    caller: RequireKey,
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let access = caller.access();
    let mut query = Fields::query(request.query_string());
    let account = query.optional("account_id", uuid).map(AccountId::new);
    let filter = AuditFilter {
        key_id: query.optional("key_id", uuid).map(KeyId::new),
        actor: query.optional("actor", actor),
        action: query.optional("action", action),
        since: query.optional("since", timestamp),
        until: query.optional("until", timestamp),
    };
    let limit = query.optional("limit", number(1, MAX_LIMIT));
    let limit = limit.unwrap_or(MAX_LIMIT);
    let chain = access.resolve_chain(account).ok().flatten();
    let owner = chain.map(ChainId::as_uuid);
    let list = ListName::of(&request, "/v1/audit", LIST_PARAMETERS, owner);
    let after = list.cursor(&mut query, &state.service, place);
    finish([query], Some(()))?;
    let page = state
        .service
        .list_audit(access, account, filter, after, limit)
        .await?;
    let next = page.next.map(place_text);
    let next = next.map(|next| list.seal(&state.service, &next));
    let mut answer = HttpResponse::Ok();
    if let Some(cursor) = &next {
        answer.insert_header((LINK, list.link(cursor)?));
    }
    Ok(answer.json(AuditResponse {
        next_cursor: next,
        entries: page.rows.iter().map(AuditEntryResponse::of).collect(),
    }))
}
