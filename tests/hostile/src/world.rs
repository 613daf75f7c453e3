//! The whole application in this process, on the memory store, with an operator and two tenants.
//!
//! It is made once for a thread, and anew whenever an input left something behind: so every input meets the same state, and what one
//! finds can be had again from that input alone.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use actix_http::Request;
use actix_web::body::{MessageBody as _, to_bytes};
use actix_web::dev::{AppConfig, Service as _, ServiceFactory as _};
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::rt::Runtime;
use actix_web::test::TestRequest;
use leadr_auth_domain::{
    Account, ApiKey, AuditAction, AuditEntry, Pepper, PlainKey, Timestamp, generate_api_key,
};
use leadr_auth_http::{HttpConfig, State, TrustedProxies, app};
use leadr_auth_memory::Memory;
use leadr_auth_memory::system::{ManualClock, SeededEntropy};
use leadr_auth_service::{Phase, Service};
use serde_json::{Value, json};
use uuid::Uuid;

/// An id that nobody has.
pub(crate) const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// The time, which stands still.
pub(crate) const NOW: &str = "2026-01-01T00:00:00Z";

const SECRET: &str = "a secret for tests, of 32 bytes and more";

/// Somebody's key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holder {
    pub(crate) account: String,
    pub(crate) key_id: String,
    pub(crate) key: String,
}

/// An answer whose form has been checked.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{} {:?} {body}", self.status, self.headers)
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

type Call = Box<dyn Fn(Request) -> Answer>;

/// The application, and who may call it.
pub(crate) struct World {
    call: Call,
    store: Memory,
    runtime: Rc<Runtime>,
    /// Whether an input left something behind: a change, or a refusal in the trail.
    is_changed: bool,
    /// All that was there at its beginning.
    before: Contents,
    /// The operator's key.
    pub(crate) operator: Holder,
    /// Another one of the operator's, which no input reaches.
    pub(crate) onlooker: Holder,
    /// A tenant's key, which has all rights of its account.
    pub(crate) one: Holder,
    /// Another key of that account, with some.
    pub(crate) narrow: Holder,
    /// A key of that account that was revoked.
    pub(crate) revoked: Holder,
    /// A key of that account that has expired.
    pub(crate) expired: Holder,
    /// Another tenant's.
    pub(crate) two: Holder,
}

/// The scopes of [`World::narrow`].
pub(crate) const NARROW: [&str; 4] = ["docs:*", "keys:read", "keys:verify", "keys:write"];

/// All that a store holds, but for the last uses of keys, and but for refusals in the trail, which are no change.
#[derive(Clone)]
pub(crate) struct Contents {
    pub(crate) accounts: Vec<Account>,
    pub(crate) keys: Vec<ApiKey>,
    pub(crate) changes: Vec<AuditEntry>,
}

impl Contents {
    fn of(runtime: &Runtime, store: &Memory) -> Self {
        runtime.block_on(async {
            let mut all = store.stores().transfer.snapshot().await.unwrap();
            let mut changes = all.audit_entries(None, u32::MAX).await.unwrap();
            changes.retain(|entry| entry.action != AuditAction::AuthorizationRefused.as_str());
            Self {
                accounts: all.accounts(None, u32::MAX).await.unwrap(),
                keys: all.keys(None, u32::MAX).await.unwrap(),
                changes,
            }
        })
    }

    /// Is it the same as before?
    pub(crate) fn is(&self, other: &Self) -> bool {
        let same_keys = || {
            let mut pairs = self.keys.iter().zip(&other.keys);
            pairs.all(|(key, other)| key.is_same_record(other))
        };
        self.accounts == other.accounts
            && self.keys.len() == other.keys.len()
            && same_keys()
            && self.changes == other.changes
    }

    pub(crate) fn key(&self, id: &str) -> Option<&ApiKey> {
        let id = Uuid::parse_str(id).ok()?;
        self.keys.iter().find(|key| key.id.as_uuid() == id)
    }

    pub(crate) fn account(&self, id: &str) -> Option<&Account> {
        let id = Uuid::parse_str(id).ok()?;
        self.accounts
            .iter()
            .find(|account| account.id.as_uuid() == id)
    }
}

// Both are left as they are when the thread ends: an application wants other things of the thread's own, which may be gone by
// then.
thread_local! {
    static SETTLED: ManuallyDrop<World> =
        ManuallyDrop::new(World::settled(Rc::new(Runtime::new().unwrap())));
    static WORLD: RefCell<ManuallyDrop<Option<World>>> = const { RefCell::new(ManuallyDrop::new(None)) };
}

/// Lends the world of this thread.
pub(crate) fn with_world<T>(use_it: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|kept| {
        // One in which an assertion failed is not put back.
        let kept_world = kept.take();
        let mut world = kept_world.unwrap_or_else(|| SETTLED.with(|settled| settled.another()));
        let result = use_it(&mut world);
        **kept = Some(world).filter(|world| !world.is_changed);
        result
    })
}

impl World {
    /// With its accounts and keys, for others to be made from.
    fn settled(runtime: Rc<Runtime>) -> Self {
        let store = Memory::new();
        let operator = generate_api_key([200; 32]);
        let mut world = Self {
            call: Self::application(Rc::clone(&runtime), &store, 1, Some(&operator)),
            before: Contents::of(&runtime, &store),
            store,
            runtime,
            is_changed: false,
            operator: Holder {
                key: operator.expose().to_owned(),
                ..Holder::default()
            },
            onlooker: Holder::default(),
            one: Holder::default(),
            narrow: Holder::default(),
            revoked: Holder::default(),
            expired: Holder::default(),
            two: Holder::default(),
        };
        world.settle();
        world
    }

    /// Another one, with the same in it.
    fn another(&self) -> Self {
        let store = self.store.fork();
        Self {
            // With another seed: keys that are made here are not made again.
            call: Self::application(Rc::clone(&self.runtime), &store, 2, None),
            store,
            runtime: Rc::clone(&self.runtime),
            is_changed: false,
            before: self.before.clone(),
            operator: self.operator.clone(),
            onlooker: self.onlooker.clone(),
            one: self.one.clone(),
            narrow: self.narrow.clone(),
            revoked: self.revoked.clone(),
            expired: self.expired.clone(),
            two: self.two.clone(),
        }
    }

    /// The application on a store, with an operator who has this key.
    fn application(
        runtime: Rc<Runtime>,
        store: &Memory,
        seed: u64,
        operator: Option<&PlainKey>,
    ) -> Call {
        let service = Service::new(
            store.stores(),
            Arc::new(ManualClock::new(Timestamp::parse(NOW).unwrap())),
            Arc::new(SeededEntropy::new(seed)),
            Pepper::new(SECRET).unwrap(),
        );
        runtime.block_on(service.prepare(operator)).unwrap();
        service.readiness().set(Phase::Ready);
        let config = HttpConfig {
            body_timeout: Duration::from_secs(5),
            trusted_proxies: TrustedProxies::default(),
            invalid_keys: None,
            instance: 7,
        };
        let app = app(State::new(service, config)).new_service(AppConfig::default());
        let app = runtime.block_on(app).unwrap();
        Box::new(move |request| {
            runtime.block_on(async {
                let response = app.call(request).await.unwrap();
                let status = response.status().as_u16();
                let headers = response.headers().clone();
                let body = to_bytes(response.into_body().boxed()).await;
                Answer {
                    status,
                    headers,
                    body: body.unwrap().to_vec(),
                }
            })
        })
    }

    /// Makes the accounts and the keys.
    fn settle(&mut self) {
        let me = self.get("/v1/me", &self.operator.key.clone()).json();
        self.operator.account = text(&me["account"]["id"]);
        self.operator.key_id = text(&me["key"]["id"]);
        let account = self.operator.account.clone();
        self.onlooker = self.issue(&json!({"account_id": account, "name": "Onlooker"}));
        let [one, two] = ["one", "two"].map(|slug| {
            // The other one has no room for another key.
            let limit = if slug == "one" { 1_000 } else { 1 };
            let name = format!("Tenant {slug}");
            let body = json!({"name": name, "slug": slug, "key_limit": limit});
            text(&self.manage("POST", "/v1/accounts", &body)["id"])
        });
        self.one = self.issue(&json!({"account_id": one, "name": "First"}));
        self.narrow = self.issue(&json!({"account_id": one, "name": "Narrow", "scopes": NARROW}));
        self.revoked = self.issue(&json!({"account_id": one, "name": "Revoked"}));
        self.expired =
            self.issue(&json!({"account_id": one, "name": "Expired", "expires_at": NOW}));
        self.two = self.issue(&json!({"account_id": two, "name": "First of two"}));
        let path = format!("/v1/api-keys/{}", self.revoked.key_id);
        self.manage("PATCH", &path, &json!({"status": "revoked"}));
        self.before = Contents::of(&self.runtime, &self.store);
    }

    /// Issues a key as the operator.
    fn issue(&mut self, body: &Value) -> Holder {
        let issued = self.manage("POST", "/v1/api-keys", body);
        Holder {
            account: text(&body["account_id"]),
            key_id: text(&issued["id"]),
            key: text(&issued["key"]),
        }
    }

    fn manage(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let request = Self::request(method, path, &self.operator.key).set_json(body);
        let answer = self.send(request);
        assert!(answer.status < 300, "{method} {path} {body}: {answer:?}");
        answer.json()
    }

    pub(crate) fn request(method: &str, path: &str, key: &str) -> TestRequest {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = TestRequest::with_uri(path).method(method);
        request.insert_header(("leadr-api-key", key))
    }

    pub(crate) fn get(&mut self, path: &str, key: &str) -> Answer {
        self.send(Self::request("GET", path, key))
    }

    /// Sends a request, and looks at what is promised of every answer.
    pub(crate) fn send(&mut self, request: TestRequest) -> Answer {
        let answer = (self.call)(request.to_request());
        let Answer { status, .. } = answer;
        self.is_changed |= status == 403;
        assert!(status < 500, "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert!(answer.header("x-request-id").is_some_and(is_request_id));
        assert!(answer.header("traceresponse").is_some_and(is_traceresponse));
        assert!(
            status != 429 && answer.header("retry-after").is_none(),
            "{answer:?}"
        );
        if status < 400 {
            let shown = String::from_utf8_lossy(&answer.body);
            assert!(
                !shown.contains("key_hash") && !shown.contains("deleted_at"),
                "{shown}"
            );
            return answer;
        }
        let body = answer.json();
        let code = body["code"].as_str().unwrap();
        assert!(
            DOCUMENTED.contains(&(status, code.to_owned())),
            "{answer:?}"
        );
        assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
        if status == 422 {
            let faults = body["detail"].as_array().unwrap();
            assert!(!faults.is_empty() && faults.iter().all(is_fault), "{body}");
        } else {
            assert!(body["detail"].is_string(), "{body}");
        }
        let challenge = answer.header("www-authenticate");
        let challenged = status == 401 || code == "insufficient_scope";
        assert_eq!(challenge.is_some(), challenged, "{answer:?}");
        answer
    }

    /// Makes a header, where these bytes can be one that arrives: what cannot never gets past the connection.
    pub(crate) fn header(name: HeaderName, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
        HeaderValue::from_bytes(value)
            .ok()
            .map(|value| (name, value))
    }

    /// All that was there before the input came, and all that is there now.
    pub(crate) fn contents(&mut self) -> (Contents, Contents) {
        let now = Contents::of(&self.runtime, &self.store);
        self.is_changed |= !now.is(&self.before);
        (self.before.clone(), now)
    }

    /// The input only looked at something.
    pub(crate) fn assert_unchanged(&self) {
        let now = Contents::of(&self.runtime, &self.store);
        assert!(now.is(&self.before), "something was changed");
    }

    /// The keys that are good, and only these.
    pub(crate) fn live(&self) -> [&Holder; 4] {
        [&self.operator, &self.one, &self.narrow, &self.two]
    }

    /// What an input may name, since it cannot know ids and keys: a word in angle brackets stands for each.
    fn named(&self, name: &[u8]) -> Option<&str> {
        let holders: [(&[u8], &Holder); 6] = [
            (b"operator", &self.operator),
            (b"one", &self.one),
            (b"narrow", &self.narrow),
            (b"revoked", &self.revoked),
            (b"expired", &self.expired),
            (b"two", &self.two),
        ];
        if name == b"nobody" {
            return Some(NOBODY);
        }
        let (what, who) = name.split_at_checked(4)?;
        let (_, holder) = holders.iter().find(|(name, _)| *name == who)?;
        match what {
            b"key:" => Some(&holder.key),
            b"kid:" => Some(&holder.key_id),
            b"acc:" => Some(&holder.account),
            _ => None,
        }
    }

    /// `<key:one>` is the key of [`World::one`], `<kid:one>` its id, `<acc:one>` its account's; `<nobody>` is nobody's id.
    pub(crate) fn filled_in(&self, text: &[u8]) -> Vec<u8> {
        let mut filled = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.iter().position(|byte| *byte == b'<') {
            filled.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            let end = rest.iter().take(16).position(|byte| *byte == b'>');
            let known = end.and_then(|end| Some((end, self.named(&rest[1..end])?)));
            let (length, known) = known.map_or((1, "<"), |(end, known)| (end + 1, known));
            filled.extend_from_slice(known.as_bytes());
            rest = &rest[length..];
        }
        filled.extend_from_slice(rest);
        filled
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The statuses and codes of errors, from the table in the documentation.
static DOCUMENTED: LazyLock<HashSet<(u16, String)>> = LazyLock::new(|| {
    let page = include_str!("../../../docs/http-api.md");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let status = cells.next()?.parse::<u16>().ok()?;
        let codes = cells.next()?.split('`').skip(1).step_by(2);
        Some(
            codes
                .map(move |code| (status, code.to_owned()))
                .collect::<Vec<_>>(),
        )
    });
    let documented: HashSet<_> = rows.flatten().collect();
    assert!(documented.len() > 15, "the table is not where it was");
    documented
});

fn is_request_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (1..=128).contains(&id.len()) && id.bytes().all(allowed)
}

fn is_traceresponse(value: &str) -> bool {
    let parts: Vec<&str> = value.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    lengths == [2, 32, 16, 2] && parts.iter().all(|part| part.bytes().all(is_hex))
}

/// A fault says where it is and what it is, and repeats no key.
fn is_fault(fault: &Value) -> bool {
    let places = ["body", "query", "path", "header"];
    let loc = fault["loc"].as_array();
    let place = loc.and_then(|loc| loc.first()?.as_str());
    place.is_some_and(|place| places.contains(&place))
        && fault["type"].is_string()
        && fault["msg"].is_string()
        && fault.as_object().is_some_and(|fault| fault.len() == 3)
}
