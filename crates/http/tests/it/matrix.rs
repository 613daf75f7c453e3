//! Every route that needs a key, called by everybody who may come along, for what is their own, another's, and nobody's.
//!
//! What each needs stands here once more, so that a row of the table that asks for less fails. Each call is made on a system
//! of its own.

use std::collections::BTreeSet;

use leadr_auth_domain::Access;
use leadr_auth_http::routes::{self, ANY, Who};
use leadr_auth_service::{AuditFilter, KeyFilter};
use serde_json::{Value, json};

use crate::support::{Answer, Api, NOBODY};

/// How a route says what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// It does not: it is about the caller, or about something that is not there yet.
    Nothing,
    /// By an account's id, in the query or in the body; the answer where it does not exist.
    Account { missing: u16 },
    /// By a key's id in the path.
    Key,
    /// By an account's id in the path.
    AccountInPath,
}

impl Row {
    /// Does it change something when it succeeds?
    fn changes(&self) -> bool {
        let asks = ["GET", ANY].contains(&self.method) || self.path.starts_with("/v1/verify");
        !asks
    }
}

struct Row {
    method: &'static str,
    path: &'static str,
    needs: Option<&'static str>,
    operators_only: bool,
    names: Names,
    body: Option<fn() -> Value>,
    success: u16,
}

const ROWS: &[Row] = &[
    Row {
        method: "GET",
        path: "/v1/me",
        needs: None,
        operators_only: false,
        names: Names::Nothing,
        body: None,
        success: 200,
    },
    Row {
        method: "POST",
        path: "/v1/verify",
        needs: Some("keys:verify"),
        operators_only: false,
        names: Names::Nothing,
        body: Some(|| json!({"key": "ldr_not-a-key"})),
        success: 200,
    },
    Row {
        method: "POST",
        path: "/v1/verify/batch",
        needs: Some("keys:verify"),
        operators_only: false,
        names: Names::Nothing,
        body: Some(|| json!({"keys": [{"key": "ldr_not-a-key"}]})),
        success: 200,
    },
    Row {
        method: ANY,
        path: "/v1/forward-auth",
        needs: None,
        operators_only: false,
        names: Names::Nothing,
        body: None,
        success: 204,
    },
    Row {
        method: ANY,
        path: "/v1/ext-authz",
        needs: None,
        operators_only: false,
        names: Names::Nothing,
        body: None,
        success: 200,
    },
    Row {
        method: "POST",
        path: "/v1/api-keys",
        needs: Some("keys:write"),
        operators_only: false,
        names: Names::Account { missing: 404 },
        body: Some(|| json!({"name": "Made"})),
        success: 201,
    },
    Row {
        method: "GET",
        path: "/v1/api-keys",
        needs: Some("keys:read"),
        operators_only: false,
        names: Names::Account { missing: 200 },
        body: None,
        success: 200,
    },
    Row {
        method: "GET",
        path: "/v1/api-keys/{key_id}",
        needs: Some("keys:read"),
        operators_only: false,
        names: Names::Key,
        body: None,
        success: 200,
    },
    Row {
        method: "PATCH",
        path: "/v1/api-keys/{key_id}",
        needs: Some("keys:write"),
        operators_only: false,
        names: Names::Key,
        body: Some(|| json!({"name": "Changed"})),
        success: 200,
    },
    Row {
        method: "GET",
        path: "/v1/audit",
        needs: Some("audit:read"),
        operators_only: false,
        names: Names::Account { missing: 200 },
        body: None,
        success: 200,
    },
    Row {
        method: "POST",
        path: "/v1/accounts",
        needs: Some("accounts:write"),
        operators_only: true,
        names: Names::Nothing,
        body: Some(|| json!({"name": "Made", "slug": "made"})),
        success: 201,
    },
    Row {
        method: "GET",
        path: "/v1/accounts",
        needs: Some("accounts:read"),
        operators_only: false,
        names: Names::Nothing,
        body: None,
        success: 200,
    },
    Row {
        method: "GET",
        path: "/v1/accounts/{account_id}",
        needs: Some("accounts:read"),
        operators_only: false,
        names: Names::AccountInPath,
        body: None,
        success: 200,
    },
    Row {
        method: "PATCH",
        path: "/v1/accounts/{account_id}",
        needs: Some("accounts:write"),
        operators_only: true,
        names: Names::AccountInPath,
        body: Some(|| json!({"name": "Changed"})),
        success: 200,
    },
];

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Nobody,
    Malformed,
    Revoked,
    /// A tenant's key that may verify and do nothing else.
    Verifier,
    /// A tenant's key that may read everything and change nothing.
    ReadOnly,
    /// A tenant's key of before there were scopes.
    Tenant,
    OtherTenant,
    Operator,
    /// An operator's key that may only read.
    ReadOnlyOperator,
    /// A key without any scope.
    Identity,
}

const CALLERS: [Caller; 10] = [
    Caller::Nobody,
    Caller::Malformed,
    Caller::Revoked,
    Caller::Verifier,
    Caller::ReadOnly,
    Caller::Tenant,
    Caller::OtherTenant,
    Caller::Operator,
    Caller::ReadOnlyOperator,
    Caller::Identity,
];

const READING: &[&str] = &["keys:read", "accounts:read", "audit:read"];

impl Caller {
    const fn is_operator(self) -> bool {
        matches!(self, Self::Operator | Self::ReadOnlyOperator)
    }

    fn holds(self, scope: &str) -> bool {
        match self {
            Self::Nobody | Self::Malformed | Self::Revoked | Self::Identity => false,
            Self::Verifier => scope == "keys:verify",
            Self::ReadOnly | Self::ReadOnlyOperator => READING.contains(&scope),
            Self::Tenant | Self::OtherTenant | Self::Operator => true,
        }
    }

    /// The key that the caller presents.
    async fn key(self, api: &Api) -> Option<String> {
        let of_one = async |scopes: &[&str]| Some(api.issue_with(&api.one.account, scopes).await);
        match self {
            Self::Nobody => None,
            Self::Malformed => Some("ldr_not-a-key".to_owned()),
            Self::Revoked => {
                let (id, key) = api.issue(&api.one.account, "Revoked").await;
                let path = format!("/v1/api-keys/{id}");
                let revoke = json!({"status": "revoked"});
                api.patch(&path, &api.operator, revoke).await.expect(200);
                Some(key)
            }
            Self::Verifier => of_one(&["keys:verify"]).await,
            Self::ReadOnly => of_one(READING).await,
            Self::Identity => of_one(&[]).await,
            Self::Tenant => Some(api.one.key.clone()),
            Self::OtherTenant => Some(api.two.key.clone()),
            Self::Operator => Some(api.operator.clone()),
            Self::ReadOnlyOperator => {
                let me = api.get("/v1/me", &api.operator).await.expect(200).json();
                let account = me["account"]["id"].as_str().unwrap();
                Some(api.issue_with(account, READING).await)
            }
        }
    }
}

/// Whose the thing is that the call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Object {
    Own,
    Others,
    Nobodys,
}

const OBJECTS: [Object; 3] = [Object::Own, Object::Others, Object::Nobodys];

/// Status and code; no code for a success.
fn expected(row: &Row, caller: Caller, object: Object) -> (u16, Option<&'static str>) {
    match caller {
        Caller::Nobody => return (401, Some("api_key_required")),
        Caller::Malformed | Caller::Revoked => return (401, Some("invalid_api_key")),
        _ => {}
    }
    if row.operators_only && !caller.is_operator() {
        return (403, Some("forbidden"));
    }
    if row.needs.is_some_and(|scope| !caller.holds(scope)) {
        return (403, Some("insufficient_scope"));
    }
    let success = (row.success, None);
    let not_found = (404, Some("not_found"));
    match (row.names, object) {
        (Names::Nothing, _) | (_, Object::Own) => success,
        (_, Object::Others) if caller.is_operator() => success,
        (Names::Account { .. }, _) if !caller.is_operator() => (403, Some("forbidden")),
        (Names::Account { missing: 200 }, _) => success,
        _ => not_found,
    }
}

/// Calls as `key` for the thing.
async fn call(api: &Api, row: &Row, caller: Caller, key: Option<&str>, object: Object) -> Answer {
    // An operator's own thing is any that is there: it reaches all.
    let (own, other) = match caller {
        Caller::OtherTenant => (&api.two, &api.one),
        _ => (&api.one, &api.two),
    };
    let (key_id, account) = match object {
        Object::Own => (own.key_id.as_str(), own.account.as_str()),
        Object::Others => (other.key_id.as_str(), other.account.as_str()),
        Object::Nobodys => (NOBODY, NOBODY),
    };
    let mut path = row
        .path
        .replace("{key_id}", key_id)
        .replace("{account_id}", account);
    let mut body = row.body.map(|body| body());
    if matches!(row.names, Names::Account { .. }) {
        match &mut body {
            Some(body) => body["account_id"] = account.into(),
            None => path = format!("{path}?account_id={account}"),
        }
    }
    let method = if row.method == ANY { "GET" } else { row.method };
    let request = Api::request(method, &path, key);
    api.send(match body {
        Some(body) => request.set_json(body),
        None => request,
    })
    .await
}

/// Everything that is stored, but for when keys were used.
pub(crate) async fn everything(api: &Api) -> Vec<String> {
    let mut all = Vec::new();
    for account in api.service.list_accounts(Access::All).await.unwrap() {
        let keys = KeyFilter::of(account.id);
        for mut key in api.service.list_keys(Access::All, keys).await.unwrap() {
            key.last_used_at = None;
            all.push(format!("{key:?}"));
        }
        all.push(format!("{account:?}"));
    }
    all
}

/// Every entry of the audit trail: its action, chain and number.
pub(crate) async fn trail(api: &Api) -> BTreeSet<(String, String, u64)> {
    let filter = AuditFilter::default();
    let listed = api
        .service
        .list_audit(Access::All, None, filter, None, 1000);
    let listed = listed.await.unwrap().rows.into_iter();
    listed
        .map(|entry| (entry.action, entry.chain.to_string(), entry.seq))
        .collect()
}

#[test]
fn the_rows_are_the_routes_that_need_a_key_with_what_they_need() {
    let rows: BTreeSet<_> = ROWS
        .iter()
        .map(|row| {
            let needs: Vec<_> = row.needs.into_iter().collect();
            (row.path, row.method, row.operators_only, needs)
        })
        .collect();
    let routes: BTreeSet<_> = routes::all()
        .filter(|route| matches!(route.who, Who::Key | Who::Operator))
        .map(|route| {
            let needs: Vec<_> = route.needs.iter().map(|right| right.as_str()).collect();
            (route.path, route.method, route.who == Who::Operator, needs)
        })
        .collect();
    assert_eq!(rows, routes);
}

#[actix_web::test]
async fn everybody_gets_what_is_theirs_and_hears_nothing_of_the_rest() {
    for row in ROWS {
        for caller in CALLERS {
            let mut refusals = Vec::new();
            for object in OBJECTS {
                let name = format!("{} {} by {caller:?} for {object:?}", row.method, row.path);
                let api = Api::new().await;
                let key = caller.key(&api).await;
                let before = everything(&api).await;
                let trail = trail(&api).await;
                let answer = call(&api, row, caller, key.as_deref(), object).await;
                let (status, code) = expected(row, caller, object);
                assert_eq!(answer.status, status, "{name}: {}", answer.text);
                // A change leaves an entry, and so does an authorisation that was refused; nothing else does.
                let leaves = (code.is_none() && row.changes()) || status == 403;
                let now = self::trail(&api).await;
                assert!(now.is_superset(&trail), "{name}");
                let left: Vec<_> = now.difference(&trail).collect();
                assert_eq!(left.len(), usize::from(leaves), "{name}: {left:?}");
                if status == 403 {
                    assert_eq!(left[0].0, "authorization.refused", "{name}");
                }
                if let Some(code) = code {
                    assert_eq!(answer.json()["code"], code, "{name}");
                    assert_eq!(everything(&api).await, before, "{name} changed something");
                    if object != Object::Own {
                        refusals.push((answer.status, answer.text));
                    }
                } else if row.changes() {
                    assert_ne!(everything(&api).await, before, "{name} changed nothing");
                }
            }
            // Whether something exists must not show where the caller does not reach it.
            if let [others, nobodys] = refusals.as_slice() {
                assert_eq!(others, nobodys, "{} {} by {caller:?}", row.method, row.path);
            }
        }
    }
}

/// Who lacks a scope is told which, in the way of RFC 6750.
#[actix_web::test]
async fn a_missing_scope_is_named() {
    let api = Api::new().await;
    let key = api.issue_with(&api.one.account, &["keys:verify"]).await;
    let answer = api.get("/v1/accounts", &key).await;
    let answer = answer.expect_error(
        403,
        "insufficient_scope",
        "This key lacks the scope accounts:read",
    );
    assert_eq!(
        answer.header("www-authenticate"),
        r#"Bearer realm="leadr-auth", error="insufficient_scope", scope="accounts:read""#
    );
    let me = api.get("/v1/me", &key).await.expect(200).json();
    assert_eq!(me["key"]["scopes"], json!(["keys:verify"]));
    assert_eq!(me["account"]["id"], api.one.account);
    assert!(me["key"]["last_used_at"].is_string(), "asking is a use");
}
