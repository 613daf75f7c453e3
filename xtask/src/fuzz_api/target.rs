//! The server that is attacked, and what is to be seen of it from outside of schemathesis.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{Part, Role, Store, Tools};
use crate::http::{Connection, Said};
use crate::load::{self, Client, field};
use crate::node::{Node, Plan};
use crate::postgres::{self, Server};
use crate::sh::{Failure, Outcome};

/// The server that is attacked, and the key that it is attacked with.
pub(super) struct Target {
    pub(super) plan: Plan,
    node: Node,
    /// Where its metrics are.
    metrics: u16,
    /// None as nobody.
    key: Option<Key>,
    /// How many answers of 5xx there were before, as while it started.
    before: u64,
    /// Ends after the server that is connected to it.
    _database: Option<Server>,
}

/// The key that requests are sent with.
struct Key {
    plain: String,
    id: String,
    /// The id of another one of its account.
    spare: String,
}

/// How many answers of 5xx there were, from the text of `/metrics`.
fn server_errors(metrics: &str) -> u64 {
    let counts = metrics.lines().filter_map(|line| {
        let (_, of) = line
            .strip_prefix("leadr_auth_http_requests_total{")?
            .rsplit_once("status=\"5")?;
        of.split_once("\"} ")?.1.trim().parse::<u64>().ok()
    });
    counts.fold(0, u64::saturating_add)
}

/// What was seen of a server in the end.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) server_errors: u64,
    /// What else is wrong, for people.
    pub(super) faults: Vec<String>,
}

impl Target {
    pub(super) fn start(part: &Part, tools: &Tools, folder: &Path) -> Outcome<Self> {
        let operator = load::key_of(&load::random()?);
        let metrics = postgres::free_port()?;
        let mut settings = vec![
            ("DATA_DIR", folder.join("data").display().to_string()),
            ("SUPERADMIN_API_KEY", operator.clone()),
            ("METRICS_LISTEN", format!("127.0.0.1:{metrics}")),
            (
                "INVALID_KEYS_PER_MINUTE",
                part.invalid_keys_per_minute().to_owned(),
            ),
            // Every request would be a line.
            ("RUST_LOG", "info,leadr_auth::access=off".to_owned()),
            // A busy machine is slow, and that is not what is looked for here.
            ("DATABASE_TIMEOUT_MS", "5000".to_owned()),
        ];
        let database = match (part.store, &tools.binaries) {
            (Store::Postgres, Some(binaries)) => {
                let server = Server::start(binaries, postgres::FAST, &[])?;
                settings.push(("DATABASE_URL", server.url()));
                settings.push(("API_KEY_SECRET", load::hex(&load::random()?)));
                Some(server)
            }
            (Store::Memory, _) => {
                settings.push(("DATABASE_URL", "memory:".to_owned()));
                None
            }
            _ => None,
        };
        let plan = Plan::new("leadr-auth", &tools.program, folder, settings)?;
        let node = plan.start()?;
        let mut target = Self {
            plan,
            node,
            metrics,
            key: None,
            before: 0,
            _database: database,
        };
        target.key = target.make_key(part.role, &operator)?;
        target.before = target.server_errors()?;
        Ok(target)
    }

    /// Makes what a role needs. As nobody there is an account with a key as well, which is nobody's business.
    fn make_key(&self, role: Role, operator: &str) -> Outcome<Option<Key>> {
        let client = Client {
            port: self.plan.port,
            key: Some(operator),
        };
        let account = json!({"name": "Tenant", "slug": "tenant"});
        let account = client.post("/v1/accounts", &account)?;
        let account = field(&account, "id")?;
        let issue = |account: &str, name: &str| {
            client.post(
                "/v1/api-keys",
                &json!({"account_id": account, "name": name}),
            )
        };
        let first = issue(account, "First")?;
        let (plain, id, account) = match role {
            Role::Nobody => return Ok(None),
            Role::Tenant => {
                let id = field(&first, "id")?.to_owned();
                (field(&first, "key")?, id, account.to_owned())
            }
            Role::Operator => {
                let me = self.who_is(operator)?;
                let at = |place| me.pointer(place).and_then(Value::as_str).map(str::to_owned);
                let (Some(id), Some(account)) = (at("/key/id"), at("/account/id")) else {
                    return Err(Failure::new("/v1/me names no key and no account"));
                };
                (operator, id, account)
            }
        };
        let spare = issue(&account, "Spare")?;
        Ok(Some(Key {
            plain: plain.to_owned(),
            id,
            spare: field(&spare, "id")?.to_owned(),
        }))
    }

    /// What is wrong with the key in the end: as long as it works and has all rights of its account, nothing.
    fn what_became_of(&self, key: &Key) -> Option<String> {
        match self.who_is(&key.plain) {
            Err(failure) => Some(format!("the key stopped working: {}", failure.message)),
            Ok(me) => {
                let scopes = me.pointer("/key/scopes");
                (scopes != Some(&Value::Null)).then(|| "the key lost rights".to_owned())
            }
        }
    }

    fn who_is(&self, key: &str) -> Outcome<Value> {
        let said = Said {
            key: Some(key),
            body: None,
        };
        let answer = Connection::to(self.plan.port)
            .send("GET", "/v1/me", said)
            .map_err(Failure::when("/v1/me"))?;
        match answer.status {
            200 => Ok(answer.json()),
            status => Err(Failure::new(format!("/v1/me answered {status}"))),
        }
    }

    pub(super) fn address(&self, path: &str) -> String {
        format!("http://{}{path}", self.plan.listens_at())
    }

    /// Tells a program by its environment, which nobody else can read, unlike its command line.
    pub(super) fn name_key(&self, command: &mut Command) {
        if let Some(Key { plain, id, spare }) = &self.key {
            command
                .env("LEADR_FUZZ_KEY", plain)
                .env("LEADR_FUZZ_OWN_KEY_ID", id)
                .env("LEADR_FUZZ_SPARE_KEY_ID", spare);
        }
    }

    fn server_errors(&self) -> Outcome<u64> {
        let answer = Connection::to(self.metrics)
            .send("GET", "/metrics", Said::default())
            .map_err(Failure::when("/metrics"))?;
        Ok(server_errors(&answer.body))
    }

    /// Looks at what it says of itself, and ends it.
    pub(super) fn end(mut self) -> Outcome<Seen> {
        let mut seen = Seen::default();
        if let Err(failure) = self.node.still_runs() {
            seen.faults.push(failure.message);
            return Ok(seen);
        }
        if let Some(key) = &self.key {
            seen.faults.extend(self.what_became_of(key));
        }
        seen.server_errors = self.server_errors()?.saturating_sub(self.before);
        let log = self.plan.folder.join("leadr-auth.log");
        let log = fs::read_to_string(&log).map_err(Failure::when(log.display()))?;
        let panics = log.lines().filter(|line| line.contains("panicked"));
        seen.faults.extend(panics.map(str::to_owned));
        self.node.kill();
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_5xx_are_counted() {
        let metrics = "# HELP leadr_auth_http_requests x\n\
            leadr_auth_http_requests_total{method=\"GET\",route=\"/\",status=\"200\"} 3\n\
            leadr_auth_http_requests_total{method=\"GET\",route=\"/v1/me\",status=\"500\"} 5\n\
            leadr_auth_http_requests_total{method=\"GET\",route=\"/readyz\",status=\"503\"} 2\n\
            leadr_auth_other_total{status=\"500\"} 9\n";
        assert_eq!(server_errors(metrics), 7);
        assert_eq!(server_errors(""), 0);
    }
}
