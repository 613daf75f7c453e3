//! Bodies, through the whole application: what is refused changes nothing, and what is answered is what is there.
//!
//! The first line of an input says who asks for what, by letters (see [`Plan::of`]); the rest is the body, with `<key:one>` and
//! its like for what an input cannot know, or bytes from which one is made that is nearly right.

use std::fmt;

use actix_web::test::TestRequest;
use arbitrary::Unstructured;
use leadr_auth_domain::text::is_control;
use leadr_auth_domain::{ApiKey, Scope, Scopes};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};

use crate::Came;
use crate::timestamp::micros;
use crate::world::{Answer, Contents, Holder, NARROW, NOW, World, text, with_world};

pub(crate) const REACHES: &[&str] = &[
    "POST /v1/api-keys 201",
    "POST /v1/api-keys 403",
    "POST /v1/api-keys 404",
    "POST /v1/api-keys 409",
    "POST /v1/api-keys 413",
    "POST /v1/api-keys 415",
    "POST /v1/api-keys 422",
    "PATCH /v1/api-keys/ 200",
    "PATCH /v1/api-keys/ 403",
    "PATCH /v1/api-keys/ 404",
    "PATCH /v1/api-keys/ 412",
    "PATCH /v1/api-keys/ 422",
    "POST /v1/accounts 201",
    "POST /v1/accounts 403",
    "POST /v1/accounts 409",
    "POST /v1/accounts 422",
    "PATCH /v1/accounts/ 200",
    "PATCH /v1/accounts/ 409",
    "PATCH /v1/accounts/ 422",
    "POST /v1/verify 200",
    "POST /v1/verify 422",
    "POST /v1/verify/batch 200",
    "POST /v1/verify/batch 422",
];

/// Sends a body, and looks at what came of it.
pub fn body(data: &[u8]) -> Came {
    with_world(|world| {
        let plan = Plan::of(world, data);
        let answer = world.send(plan.request(&plan.body));
        let status = answer.status;
        let refusals = [403, 404, 409, 412, 413, 415, 422];
        let (before, after) = world.contents();
        if (200..300).contains(&status) {
            plan.check(world, &answer, &before, &after);
        } else {
            assert!(refusals.contains(&status), "{plan:?} {answer:?}");
            assert!(after.is(&before), "{plan:?} {answer:?} changed something");
        }
        format!("{} {} {status}", plan.route.method(), plan.route.path()).into()
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    CreateKey,
    ChangeKey,
    CreateAccount,
    ChangeAccount,
    Verify,
    VerifyBatch,
}

impl Route {
    const fn method(self) -> &'static str {
        match self {
            Self::ChangeKey | Self::ChangeAccount => "PATCH",
            _ => "POST",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::CreateKey => "/v1/api-keys",
            Self::ChangeKey => "/v1/api-keys/",
            Self::CreateAccount => "/v1/accounts",
            Self::ChangeAccount => "/v1/accounts/",
            Self::Verify => "/v1/verify",
            Self::VerifyBatch => "/v1/verify/batch",
        }
    }

    const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::CreateKey => &["account_id", "name", "expires_at", "scopes"],
            Self::ChangeKey => &["status", "deleted", "name", "scopes"],
            Self::CreateAccount => &["name", "slug", "key_limit"],
            Self::ChangeAccount => &["name", "slug", "status", "key_limit", "deleted"],
            Self::Verify => &["key", "scopes"],
            Self::VerifyBatch => &["keys"],
        }
    }
}

/// Who asks for what.
struct Plan {
    caller: Holder,
    is_operator: bool,
    route: Route,
    /// Whose key, or account, is to be changed.
    target: Holder,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route, headers, .. } = self;
        let body = String::from_utf8_lossy(&self.body);
        let (caller, target) = (&self.caller.key_id, &self.target.key_id);
        write!(
            f,
            "{route:?} by {caller} on {target} with {headers:?}: {body}"
        )
    }
}

/// Is it this number? A whole one may be written with a fraction, as `7.0`.
fn is_number(given: &Value, number: u32) -> bool {
    (given.as_f64().unwrap() - f64::from(number)).abs() < f64::EPSILON
}

impl Plan {
    /// The letters: who asks; which route; which record; the type of the body; which other header; how the body is made.
    fn of(world: &mut World, data: &[u8]) -> Self {
        let end = data.iter().position(|byte| *byte == b'\n');
        let (line, rest) = data.split_at(end.unwrap_or(data.len()));
        let rest = rest.get(1..).unwrap_or_default();
        let letter = |n: usize| line.get(n).copied().unwrap_or_default();
        let (caller, is_operator) = match letter(0) {
            b'o' => (&world.operator, true),
            b'n' => (&world.narrow, false),
            _ => (&world.one, false),
        };
        let route = match letter(1) {
            b'p' => Route::ChangeKey,
            b'a' => Route::CreateAccount,
            b'u' => Route::ChangeAccount,
            b'v' => Route::Verify,
            b'b' => Route::VerifyBatch,
            _ => Route::CreateKey,
        };
        let target = match letter(2) {
            b'n' => &world.narrow,
            b'r' => &world.revoked,
            b'e' => &world.expired,
            b't' => &world.two,
            b'o' => &world.operator,
            b'x' => &Holder {
                account: crate::world::NOBODY.to_owned(),
                key_id: crate::world::NOBODY.to_owned(),
                key: String::new(),
            },
            _ => &world.one,
        };
        let (caller, target) = (caller.clone(), target.clone());
        let mut headers: Vec<(&str, String)> = match letter(3) {
            b't' => vec![("content-type", "text/plain".to_owned())],
            b'n' => Vec::new(),
            b'p' => vec![("content-type", "application/merge-patch+json".to_owned())],
            b'l' => vec![(
                "content-type",
                "application/json; charset=latin1".to_owned(),
            )],
            b'z' => vec![
                ("content-type", "application/json".to_owned()),
                ("content-encoding", "gzip".to_owned()),
            ],
            _ => vec![("content-type", "application/json".to_owned())],
        };
        headers.extend(match letter(4) {
            b'i' => Some(("idempotency-key", "one-and-only".to_owned())),
            b'k' => Some(("idempotency-key", caller.key.clone())),
            b'b' => Some(("idempotency-key", "a b".to_owned())),
            b'm' => Some(("if-match", tag(world, route, &target))),
            b's' => Some(("if-match", format!("\"{}\"", "0".repeat(32)))),
            b'q' => Some(("if-match", "no tag".to_owned())),
            b'*' => Some(("if-match", "*".to_owned())),
            _ => None,
        });
        let body = match letter(5) {
            b'g' => Generator(Unstructured::new(rest)).body(route),
            b'l' => [rest, &b" ".repeat(17 * 1024)].concat(),
            _ => rest.to_owned(),
        };
        Self {
            caller,
            is_operator,
            route,
            target,
            headers,
            body: world.filled_in(&body),
        }
    }

    fn request(&self, body: &[u8]) -> TestRequest {
        let id = match self.route {
            Route::ChangeKey => &self.target.key_id,
            Route::ChangeAccount => &self.target.account,
            _ => "",
        };
        let path = format!("{}{id}", self.route.path());
        let request = World::request(self.route.method(), &path, &self.caller.key);
        let headers = self.headers.iter().cloned();
        let request = headers.fold(request, TestRequest::insert_header);
        request.set_payload(body.to_owned())
    }

    fn says(&self, header: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find_map(|(name, value)| (*name == header).then_some(value.as_str()))
    }

    /// Something was accepted: it is what was asked for, it is there, and nothing else happened.
    fn check(&self, world: &mut World, answer: &Answer, before: &Contents, after: &Contents) {
        let is_change = matches!(self.route, Route::ChangeKey | Route::ChangeAccount);
        let given = if is_change && self.body.is_empty() {
            Some(Given(Vec::new()))
        } else {
            serde_json::from_slice(&self.body).ok()
        };
        let given: Given = given.unwrap_or_else(|| panic!("{self:?} is accepted"));
        for (n, (name, _)) in given.0.iter().enumerate() {
            let is_known = self.route.fields().contains(&name.as_str());
            let is_second = given.0[..n].iter().any(|(other, _)| other == name);
            assert!(is_known && !is_second, "{name:?} in {self:?}");
        }
        assert!(self.body.len() <= 64 * 1024, "{self:?}");
        assert!(
            self.route == Route::VerifyBatch || self.body.len() <= 16 * 1024,
            "{self:?}"
        );
        let expected = match self.route {
            Route::CreateKey | Route::CreateAccount => 201,
            _ => 200,
        };
        assert_eq!(answer.status, expected, "{self:?} {answer:?}");
        for header in ["idempotency-key", "if-match"] {
            let good = ["one-and-only", "*"];
            let said = self.says(header);
            let is_good = said.is_none_or(|said| good.contains(&said) || said.starts_with('"'));
            let is_read = (header == "if-match") == is_change && !self.is_verification();
            assert!(is_good || !is_read, "{self:?}");
        }
        match self.route {
            Route::CreateKey => self.check_new_key(world, &given, answer, before, after),
            Route::ChangeKey => self.check_key(world, &given, answer, before, after),
            Route::CreateAccount => self.check_new_account(world, &given, answer, before, after),
            Route::ChangeAccount => self.check_account(world, &given, answer, before, after),
            Route::Verify => {
                assert!(after.is(before), "{self:?}");
                self.check_verdict(world, &given, &answer.json());
            }
            Route::VerifyBatch => {
                assert!(after.is(before), "{self:?}");
                let questions = given.get("keys").unwrap().as_array().unwrap();
                let answer = answer.json();
                let results = answer["results"].as_array().unwrap();
                assert!((1..=100).contains(&questions.len()), "{self:?}");
                assert_eq!(results.len(), questions.len(), "{self:?}");
                for (question, result) in questions.iter().zip(results) {
                    let question = question.as_object().unwrap().clone();
                    self.check_verdict(world, &Given(question.into_iter().collect()), result);
                }
            }
        }
    }

    const fn is_verification(&self) -> bool {
        matches!(self.route, Route::Verify | Route::VerifyBatch)
    }

    fn is_narrow(&self, world: &World) -> bool {
        self.caller.key_id == world.narrow.key_id
    }

    fn check_new_key(
        &self,
        world: &mut World,
        given: &Given,
        answer: &Answer,
        before: &Contents,
        after: &Contents,
    ) {
        let answer = answer.json();
        let id = text(&answer["id"]);
        let made = after.key(&id).unwrap();
        let rest = Contents {
            keys: after
                .keys
                .iter()
                .filter(|key| key.id != made.id)
                .cloned()
                .collect(),
            changes: before.changes.clone(),
            ..after.clone()
        };
        assert!(rest.is(before), "{self:?} changed something else");
        self.check_trail(before, after, Some("key.created"));
        let account = given.get("account_id").map(Value::as_str);
        let account = account.map_or(self.caller.account.as_str(), Option::unwrap);
        assert!(before.account(account).is_some(), "{self:?}");
        assert_eq!(
            before.account(account).map(|account| account.id),
            Some(made.account_id)
        );
        assert!(self.is_operator || made.account_id.to_string() == self.caller.account);
        self.check_key_as_asked(world, given, made);
        let held = Scopes::Only(set(NARROW));
        match given.get("scopes") {
            None if self.is_narrow(world) => assert_eq!(made.scopes, held, "{self:?}"),
            None => assert_eq!(made.scopes, Scopes::All, "{self:?}"),
            Some(_) => assert!(made.scopes != Scopes::All, "{self:?}"),
        }
        let expires_at = given
            .get("expires_at")
            .map(|at| micros(at.as_str().unwrap()).unwrap());
        let kept = made
            .expires_at
            .map(leadr_auth_domain::Timestamp::unix_micros);
        assert_eq!(kept, expires_at, "{self:?}");
        // What was answered is what is there, and the key works as long as it should.
        let plain = text(&answer["key"]);
        let mut shown = self.read(world, "/v1/api-keys/", &id).json();
        for (name, value) in answer.as_object().unwrap() {
            if name != "key" {
                assert_eq!(shown[name].take(), *value, "{name} {self:?}");
            }
        }
        let lives = expires_at.is_none_or(|at| at > micros(NOW).unwrap());
        let status = world.get("/v1/me", &plain).status;
        assert_eq!(status, if lives { 200 } else { 401 }, "{self:?}");
        self.repeat(world, after, &id);
    }

    fn check_key(
        &self,
        world: &mut World,
        given: &Given,
        answer: &Answer,
        before: &Contents,
        after: &Contents,
    ) {
        let was = before.key(&self.target.key_id).unwrap();
        let is = after.key(&self.target.key_id).unwrap();
        assert!(
            self.is_operator || self.target.account == self.caller.account,
            "{self:?}"
        );
        let undone = |key: &ApiKey| {
            if key.id == is.id {
                was.clone()
            } else {
                key.clone()
            }
        };
        let rest = Contents {
            keys: after.keys.iter().map(undone).collect(),
            changes: before.changes.clone(),
            ..after.clone()
        };
        assert!(rest.is(before), "{self:?} changed something else");
        self.check_trail(before, after, (!was.is_same_record(is)).then_some("key."));
        self.check_key_as_asked(world, given, is);
        let untouched = |name| given.get(name).is_none();
        assert!(!untouched("name") || is.name == was.name, "{self:?}");
        assert!(!untouched("scopes") || is.scopes == was.scopes, "{self:?}");
        assert!(!untouched("status") || is.status == was.status, "{self:?}");
        assert!(
            !untouched("deleted") || is.deleted_at == was.deleted_at,
            "{self:?}"
        );
        assert_eq!(
            (is.expires_at, is.account_id),
            (was.expires_at, was.account_id)
        );
        if let Some(status) = given.get("status") {
            assert_eq!(is.status.as_str(), status.as_str().unwrap(), "{self:?}");
        }
        if let Some(deleted) = given.get("deleted") {
            assert_eq!(is.is_deleted(), deleted.as_bool().unwrap(), "{self:?}");
        }
        if self.is_narrow(world) && is.is_brought_back(was) {
            self.check_narrow(&is.scopes);
        }
        let shown = self.read(world, "/v1/api-keys/", &self.target.key_id);
        if is.is_deleted() {
            assert_eq!(shown.status, 404, "{self:?}");
        } else {
            assert_eq!(
                without_use(shown.json()),
                without_use(answer.json()),
                "{self:?}"
            );
            assert_eq!(shown.header("etag"), answer.header("etag"), "{self:?}");
        }
    }

    fn check_new_account(
        &self,
        world: &mut World,
        given: &Given,
        answer: &Answer,
        before: &Contents,
        after: &Contents,
    ) {
        assert!(self.is_operator, "{self:?}");
        let answer = answer.json();
        let id = text(&answer["id"]);
        let made = after.account(&id).unwrap();
        let others = after
            .accounts
            .iter()
            .filter(|account| account.id != made.id);
        let rest = Contents {
            accounts: others.clone().cloned().collect(),
            changes: before.changes.clone(),
            ..after.clone()
        };
        assert!(rest.is(before), "{self:?} changed something else");
        self.check_trail(before, after, Some("account.created"));
        self.check_account_as_asked(given, made, after);
        let unsaid = Value::from(1_000);
        let limit = given.get("key_limit").unwrap_or(&unsaid);
        assert!(is_number(limit, made.key_limit.keys()), "{self:?}");
        assert_eq!(
            made.role,
            leadr_auth_domain::AccountRole::Tenant,
            "{self:?}"
        );
        assert_eq!(
            self.read(world, "/v1/accounts/", &id).json(),
            answer,
            "{self:?}"
        );
        self.repeat(world, after, &id);
    }

    fn check_account(
        &self,
        world: &mut World,
        given: &Given,
        answer: &Answer,
        before: &Contents,
        after: &Contents,
    ) {
        assert!(self.is_operator, "{self:?}");
        let id = &self.target.account;
        let (was, is) = (before.account(id).unwrap(), after.account(id).unwrap());
        let rest = after.accounts.iter();
        let undone = rest.map(|account| if account.id == is.id { was } else { account });
        let rest = Contents {
            accounts: undone.cloned().collect(),
            changes: before.changes.clone(),
            ..after.clone()
        };
        assert!(rest.is(before), "{self:?} changed something else");
        self.check_trail(before, after, (was != is).then_some("account."));
        self.check_account_as_asked(given, is, after);
        assert_eq!(is.role, was.role, "{self:?}");
        let untouched = |name| given.get(name).is_none();
        assert!(!untouched("name") || is.name == was.name, "{self:?}");
        assert!(!untouched("slug") || is.slug == was.slug, "{self:?}");
        assert!(!untouched("status") || is.status == was.status, "{self:?}");
        assert!(
            !untouched("key_limit") || is.key_limit == was.key_limit,
            "{self:?}"
        );
        assert!(
            !untouched("deleted") || is.deleted_at == was.deleted_at,
            "{self:?}"
        );
        if let Some(status) = given.get("status") {
            assert_eq!(is.status.as_str(), status.as_str().unwrap(), "{self:?}");
        }
        if let Some(deleted) = given.get("deleted") {
            assert_eq!(is.is_deleted(), deleted.as_bool().unwrap(), "{self:?}");
        }
        if let Some(limit) = given.get("key_limit") {
            assert!(is_number(limit, is.key_limit.keys()), "{self:?}");
        }
        let is_stopped = is.is_deleted() || is.status != leadr_auth_domain::AccountStatus::Active;
        let is_operators = self.target.key_id == world.operator.key_id;
        assert!(!(is_stopped && is_operators), "{self:?}");
        // Its keys stop with it, and only then.
        let status = world.get("/v1/me", &self.target.key.clone()).status;
        let works = [&world.one, &world.two, &world.narrow, &world.operator]
            .iter()
            .any(|holder| holder.key == self.target.key);
        let expected = if works && !is_stopped { 200 } else { 401 };
        assert_eq!(status, expected, "{self:?}");
        let shown = self.read(world, "/v1/accounts/", id);
        if is.is_deleted() {
            assert_eq!(shown.status, 404, "{self:?}");
        } else {
            assert_eq!(shown.json(), answer.json(), "{self:?}");
            assert_eq!(shown.header("etag"), answer.header("etag"), "{self:?}");
        }
    }

    /// Only what is good is said to be good, and of another tenant's keys nothing is said.
    fn check_verdict(&self, world: &World, given: &Given, result: &Value) {
        let key = given.get("key").unwrap().as_str().unwrap();
        let holders = [
            (&world.operator, "valid"),
            (&world.one, "valid"),
            (&world.narrow, "valid"),
            (&world.two, "valid"),
            (&world.revoked, "revoked"),
            (&world.expired, "expired"),
        ];
        let known = holders.into_iter().find(|(holder, _)| holder.key == key);
        let reached =
            known.filter(|(holder, _)| self.is_operator || holder.account == self.caller.account);
        let code = result["code"].as_str().unwrap();
        assert_eq!(result["valid"], code == "valid", "{self:?} {result}");
        let Some((holder, expected)) = reached else {
            assert!(
                ["not_found", "malformed"].contains(&code),
                "{self:?} {result}"
            );
            let rest = result.as_object().unwrap().iter();
            let mut rest = rest.filter(|(name, _)| !["valid", "code"].contains(&name.as_str()));
            assert!(rest.all(|(_, value)| value.is_null()), "{self:?} {result}");
            return;
        };
        assert_eq!(result["key_id"], holder.key_id, "{self:?}");
        assert_eq!(result["account_id"], holder.account, "{self:?}");
        let asked = given.get("scopes").and_then(Value::as_array);
        let asked: Vec<&str> = asked
            .into_iter()
            .flatten()
            .map(|scope| scope.as_str().unwrap())
            .collect();
        let is_narrow = holder.key_id == world.narrow.key_id;
        let is_operators = holder.key_id == world.operator.key_id;
        let lacks = |scope: &&str| {
            let is_lacked = is_narrow && !Scopes::Only(set(NARROW)).covers(scope);
            is_lacked || (!is_operators && **scope == *"accounts:write")
        };
        let is_lacking = expected == "valid" && asked.iter().any(lacks);
        let expected = if is_lacking {
            "insufficient_scope"
        } else {
            expected
        };
        assert_eq!(code, expected, "{self:?} {result}");
    }

    /// The trail says what was changed, once; and of what was not, nothing.
    fn check_trail(&self, before: &Contents, after: &Contents, action: Option<&str>) {
        let new = after
            .changes
            .iter()
            .filter(|entry| !before.changes.contains(entry));
        let new: Vec<_> = new.collect();
        assert_eq!(
            after.changes.len(),
            before.changes.len() + new.len(),
            "{self:?}"
        );
        let Some(action) = action else {
            assert!(new.is_empty(), "{self:?} {new:?}");
            return;
        };
        assert_eq!(new.len(), 1, "{self:?} {new:?}");
        assert!(new[0].action.starts_with(action), "{self:?} {new:?}");
        let actor = format!("{:?}", new[0].origin.actor);
        assert!(actor.contains(&self.caller.key_id), "{self:?} {actor}");
    }

    fn check_key_as_asked(&self, world: &World, given: &Given, key: &ApiKey) {
        if let Some(name) = given.get("name") {
            check_name(name.as_str().unwrap(), key.name.as_str(), 1..=255);
        }
        let Some(scopes) = given.get("scopes") else {
            return;
        };
        let asked = scopes.as_array().unwrap();
        assert!(asked.len() <= 64, "{self:?}");
        let mut asked: Vec<&str> = asked.iter().map(|scope| scope.as_str().unwrap()).collect();
        asked.sort_unstable();
        asked.dedup();
        let kept: Vec<_> = key
            .scopes
            .only()
            .unwrap()
            .iter()
            .map(Scope::as_str)
            .collect();
        assert_eq!(kept, asked, "{self:?}");
        assert!(
            self.is_operator || !asked.contains(&"accounts:write"),
            "{self:?}"
        );
        if self.is_narrow(world) {
            self.check_narrow(&key.scopes);
        }
    }

    /// A key with [`NARROW`] scopes gave these.
    fn check_narrow(&self, given: &Scopes) {
        let held = Scopes::Only(set(NARROW));
        let mut given = given.only().unwrap().iter();
        assert!(given.all(|scope| held.covers(scope.as_str())), "{self:?}");
    }

    fn check_account_as_asked(
        &self,
        given: &Given,
        account: &leadr_auth_domain::Account,
        after: &Contents,
    ) {
        if let Some(name) = given.get("name") {
            check_name(name.as_str().unwrap(), account.name.as_str(), 2..=100);
        }
        if let Some(slug) = given.get("slug") {
            let slug = slug.as_str().unwrap();
            assert_eq!(account.slug.as_str(), slug, "{self:?}");
            let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
            assert!(
                slug.bytes().all(allowed) && (2..=50).contains(&slug.len()),
                "{self:?}"
            );
            let is_joined = slug.starts_with('-') || slug.ends_with('-') || slug.contains("--");
            assert!(!is_joined, "{self:?}");
        }
        let live = after.accounts.iter().filter(|other| !other.is_deleted());
        let mut others = live.filter(|other| other.id != account.id);
        let is_unique =
            others.all(|other| other.name != account.name && other.slug != account.slug);
        assert!(account.is_deleted() || is_unique, "{self:?}");
    }

    /// As the operator sees it.
    fn read(&self, world: &mut World, path: &str, id: &str) -> Answer {
        let onlooker = world.onlooker.key.clone();
        let answer = world.get(&format!("{path}{id}"), &onlooker);
        assert!([200, 404].contains(&answer.status), "{self:?} {answer:?}");
        answer
    }

    /// The same request again, where it has a name: nothing more is done, and with another body it is refused.
    fn repeat(&self, world: &mut World, after: &Contents, id: &str) {
        if self.says("idempotency-key").is_none() {
            return;
        }
        let again = world.send(self.request(&self.body));
        assert_eq!(again.status, 200, "{self:?} {again:?}");
        let again = again.json();
        assert_eq!(
            (&again["id"], &again["replayed"]),
            (&json!(id), &json!(true))
        );
        assert!(again["key"].is_null(), "{self:?}");
        let other = world.send(self.request(&[&self.body[..], b" "].concat()));
        assert!([409, 413].contains(&other.status), "{self:?} {other:?}");
        assert!(world.contents().1.is(after), "{self:?} was done again");
    }
}

/// The tag of the state in which the record is.
fn tag(world: &mut World, route: Route, target: &Holder) -> String {
    let path = match route {
        Route::ChangeAccount => format!("/v1/accounts/{}", target.account),
        _ => format!("/v1/api-keys/{}", target.key_id),
    };
    let onlooker = world.onlooker.key.clone();
    let answer = world.get(&path, &onlooker);
    answer.header("etag").unwrap_or("\"\"").to_owned()
}

fn set<const N: usize>(scopes: [&str; N]) -> leadr_auth_domain::ScopeSet {
    let scopes = scopes.map(|scope| Scope::parse(scope).unwrap());
    leadr_auth_domain::ScopeSet::new(scopes).unwrap()
}

/// A key's record, but for its last use: that is no change, and the caller may be the key itself.
fn without_use(mut record: Value) -> Value {
    record["last_used_at"].take();
    record
}

/// A name is kept as it was given but for blanks around it, and holds nothing that misleads or that is secret.
fn check_name(given: &str, kept: &str, lengths: std::ops::RangeInclusive<usize>) {
    assert_eq!(given.trim(), kept);
    assert!(lengths.contains(&kept.chars().count()), "{kept:?}");
    let is_odd = |c: char| {
        let bidi = ['\u{61c}', '\u{200e}', '\u{200f}'];
        let ranges = [
            '\u{2028}'..='\u{202e}',
            '\u{2066}'..='\u{2069}',
            '\0'..='\u{1f}',
            '\u{7f}'..='\u{9f}',
        ];
        bidi.contains(&c) || ranges.iter().any(|range| range.contains(&c))
    };
    assert!(!given.chars().any(is_odd), "{given:?}");
    assert!(!given.chars().any(is_control), "{given:?}");
    for (at, _) in kept.match_indices("ldr_") {
        let of_key = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        let follows = kept.as_bytes()[at + 4..]
            .iter()
            .take_while(|byte| of_key(byte));
        assert!(follows.count() < 43, "{kept:?}");
    }
}

/// The fields of an object, each as often as it is given.
struct Given(Vec<(String, Value)>);

impl Given {
    /// What is given and not null.
    fn get(&self, name: &str) -> Option<&Value> {
        let mut fields = self.0.iter();
        let (_, value) = fields.find(|(given, _)| given == name)?;
        Some(value).filter(|value| !value.is_null())
    }
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Given;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Given, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Given(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Makes bodies that are nearly right.
struct Generator<'a>(Unstructured<'a>);

impl Generator<'_> {
    fn below(&mut self, count: usize) -> usize {
        self.0.int_in_range(0..=count - 1).unwrap_or_default()
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn body(mut self, route: Route) -> Vec<u8> {
        let object = self.object(route);
        object.into_bytes()
    }

    fn object(&mut self, route: Route) -> String {
        let fields = route.fields();
        let mut parts = Vec::new();
        // As a rule each field once, in one order or another.
        let first = self.below(fields.len());
        for n in 0..fields.len() {
            let name = match self.below(16) {
                0 => continue,
                1 => self.one_of(fields),
                2 => "expires_ta",
                _ => fields[(first + n) % fields.len()],
            };
            let value = match self.below(8) {
                0 => self.anything(2),
                _ => self.fitting(name),
            };
            let blank = self.one_of(&["", "", "", " ", "\n", "\t"]);
            parts.push(format!("{}:{blank}{value}", self.quoted(name)));
        }
        format!("{{{}}}", parts.join(","))
    }

    /// A value that may do for a field.
    fn fitting(&mut self, name: &str) -> String {
        let text = match name {
            "account_id" => self.one_of(&[
                "<acc:one>",
                "<acc:one>",
                "<acc:two>",
                "<nobody>",
                "<acc:operator>",
            ]),
            "expires_at" => self.one_of(&[
                "2027-01-01T00:00:00Z",
                "2026-01-01T00:00:00.000001Z",
                "2026-01-01T00:00:00Z",
                "9999-12-31T23:59:59.999999Z",
                "0001-01-01T00:00:00+00:00",
                "2026-06-30T23:59:60Z",
                "2026-02-30T00:00:00Z",
                "+999999-01-01T00:00:00Z",
                "2027-01-01T00:00:00",
            ]),
            "status" => self.one_of(&["active", "revoked", "suspended"]),
            "key" => self.one_of(&[
                "<key:one>",
                "<key:narrow>",
                "<key:two>",
                "<key:revoked>",
                "<key:expired>",
                "<key:operator>",
                "ldr_",
            ]),
            "slug" => self.one_of(&["new", "one", "two", "a-b-c", "a--b", "0", "New", "ab "]),
            "name" => return self.name(),
            "deleted" => return self.one_of(&["true", "false"]).to_owned(),
            "key_limit" => {
                return self
                    .one_of(&[
                        "0",
                        "1",
                        "1000",
                        "1000000000",
                        "1000000001",
                        "1.0",
                        "1e3",
                        "-1",
                    ])
                    .to_owned();
            }
            "scopes" => return self.scopes(),
            "keys" => {
                let count = self.one_of(&[1, 1, 2, 3, 100, 101, 0]);
                let questions: Vec<_> = (0..count).map(|_| self.object(Route::Verify)).collect();
                return format!("[{}]", questions.join(","));
            }
            _ => return self.anything(1),
        };
        self.quoted(text)
    }

    fn name(&mut self) -> String {
        let name = match self.below(12) {
            0 => "x".repeat(self.one_of(&[1, 2, 100, 101, 255, 256])),
            1 => "\u{1f511}".repeat(self.one_of(&[1, 255, 256])),
            2 => format!("e{}", "\u{301}".repeat(self.one_of(&[1, 254, 255]))),
            3 => self
                .one_of(&[
                    "a\0b",
                    "a\u{1b}[2J",
                    "a\u{85}",
                    "\u{202e}b",
                    "\u{2066}",
                    "a\r\n",
                    "\u{feff}a",
                ])
                .to_owned(),
            4 => self
                .one_of(&[
                    "<key:one>",
                    "key <key:two>.",
                    "Tenant one",
                    "Tenant two",
                    "  Tenant one ",
                ])
                .to_owned(),
            5 => "   ".to_owned(),
            _ => self.0.arbitrary::<&str>().unwrap_or("name").to_owned(),
        };
        self.quoted(&name)
    }

    fn scopes(&mut self) -> String {
        let known = [
            "docs:read",
            "docs:*",
            "docs:eu:*",
            "keys:read",
            "keys:write",
            "keys:verify",
            "accounts:read",
            "accounts:write",
            "audit:read",
            "keys:*",
            "*",
            "a",
            "A",
            "a::b",
            "",
        ];
        let count = self.one_of(&[0, 1, 2, 3, 5, 64, 65]);
        let scopes: Vec<_> = (0..count)
            .map(|n| {
                // Many of them are all different.
                let scope = if count > 5 {
                    format!("docs:s{n}")
                } else {
                    self.one_of(&known).to_owned()
                };
                self.quoted(&scope)
            })
            .collect();
        format!("[{}]", scopes.join(","))
    }

    fn anything(&mut self, depth: usize) -> String {
        match self.below(if depth == 0 { 6 } else { 8 }) {
            0 => "null".to_owned(),
            1 => self.one_of(&["true", "false"]).to_owned(),
            2 => self
                .one_of(&[
                    "0",
                    "-1",
                    "1e400",
                    "1.5",
                    "18446744073709551616",
                    "01",
                    "NaN",
                ])
                .to_owned(),
            3 => self
                .one_of(&[
                    "\"\\ud800\"",
                    "\"\\u0000\"",
                    "\"\\x\"",
                    "\"",
                    "'a'",
                    "[",
                    "{",
                    "",
                    "\"\\ud83d\\udd11\"",
                ])
                .to_owned(),
            4 => "[".repeat(self.one_of(&[1, 127, 128, 2000])),
            5 => {
                let text = self.0.arbitrary::<&str>().unwrap_or_default().to_owned();
                self.quoted(&text)
            }
            6 => format!(
                "[{},{}]",
                self.anything(depth - 1),
                self.anything(depth - 1)
            ),
            _ => format!("{{\"name\":{}}}", self.anything(depth - 1)),
        }
    }

    /// A text as JSON, with none, some or all of its characters as escapes.
    fn quoted(&mut self, text: &str) -> String {
        if text.contains('<') || self.below(4) > 0 {
            return serde_json::to_string(text).unwrap();
        }
        let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
        format!("\"{}\"", units.collect::<String>())
    }
}
