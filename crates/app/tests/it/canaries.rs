//! Keys and secrets are looked for in everything that a deployment writes in a full life of its keys: each is a canary.

use std::fmt::Write as _;

use leadr_auth_domain::generate_api_key;
use leadr_auth_postgres::testing::TestDatabase;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use crate::peppers::{peppers, ring, status_of, until};
use crate::support::{ANYWHERE, PATIENT, Place, has_postgres, listed_audit};

const OLD: &str = "the old secret, of 32 bytes and some more";

/// How many keys are issued.
const KEYS: usize = 200;

/// How much of a key may be shown.
const PREFIX: usize = 14;

/// Something written, and what it is.
struct Written {
    what: String,
    text: String,
}

/// What was written so far, and what must not be in it.
#[derive(Default)]
struct Search {
    canaries: Vec<String>,
    written: Vec<Written>,
}

impl Search {
    /// The part of a key after what may be shown. The whole key cannot be anywhere without it.
    fn key(&mut self, plain: &str) {
        self.canaries.push(plain[PREFIX..].to_owned());
    }

    fn secret(&mut self, secret: &str) {
        self.canaries.push(secret.to_owned());
    }

    fn look_in(&mut self, what: &str, text: impl AsRef<[u8]>) {
        // A canary is of ASCII, and stays one whatever is around it.
        let text = String::from_utf8_lossy(text.as_ref()).into_owned();
        let what = what.to_owned();
        self.written.push(Written { what, text });
    }

    /// Where canaries were seen.
    fn hits(&self) -> Vec<String> {
        let mut hits = Vec::new();
        for Written { what, text } in &self.written {
            let seen = self.canaries.iter().filter(|canary| text.contains(*canary));
            hits.extend(seen.map(|canary| format!("{canary} is in {what}")));
        }
        hits
    }

    fn has(&self, what: &str, text: &str) -> bool {
        let mut of = self.written.iter().filter(|it| it.what == what);
        of.any(|it| it.text.contains(text))
    }
}

/// A server to which keys are sent, and whose every answer is kept to be searched, but for the one that shows a new key.
struct Target {
    client: Client,
    base: String,
    operator: String,
    search: Search,
}

struct Issued {
    id: String,
    plain: String,
}

impl Target {
    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, format!("{}{path}", self.base))
    }

    async fn answered(&mut self, request: RequestBuilder) -> (u16, Value) {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let headers = format!("{:?}", answer.headers());
        let body = answer.text().await.unwrap();
        self.search.look_in("an answer", headers + "\n" + &body);
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    /// As the operator.
    async fn told(&mut self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = self.request(method, path).json(&body);
        let request = request.header("leadr-api-key", &self.operator);
        self.answered(request).await
    }

    async fn issue(&mut self, body: &Value) -> Issued {
        let request = self.request("POST", "/v1/api-keys").json(body);
        let answer = request.bearer_auth(&self.operator).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let made: Value = answer.json().await.unwrap();
        let [id, plain] = ["id", "key"].map(|name| made[name].as_str().unwrap().to_owned());
        self.search.key(&plain);
        Issued { id, plain }
    }

    /// Asks with a key who it is.
    async fn who(&mut self, key: &str) -> u16 {
        let mut seen = 0;
        for request in [
            self.request("GET", "/v1/me").header("leadr-api-key", key),
            self.request("GET", "/v1/me").header("x-api-key", key),
            self.request("GET", "/v1/me").bearer_auth(key),
        ] {
            seen = self.answered(request).await.0;
        }
        seen
    }

    /// As [`Target::who`], and puts it also where it does not belong.
    async fn present(&mut self, key: &str) -> u16 {
        for request in [
            self.request("GET", &format!("/v1/api-keys/{key}?cursor={key}"))
                .bearer_auth(key),
            self.request("GET", "/v1/accounts")
                .basic_auth(key, Some(key))
                .header("user-agent", key)
                .header("x-request-id", key),
            self.request("POST", "/v1/api-keys")
                .header("x-api-key", key)
                .header("x-request-id", key)
                .json(&json!({"name": [key], "expires_at": key, "scopes": [key]})),
            self.request("PATCH", &format!("/v1/accounts/{key}"))
                .header("leadr-api-key", key)
                .header("traceparent", key)
                .json(&json!({"slug": key, "status": key})),
        ] {
            self.answered(request).await;
        }
        // An answer tells a client which of its fields are unknown, so this one is not searched.
        let request = self.request("POST", "/v1/api-keys").bearer_auth(key);
        request.json(&json!({key: key})).send().await.unwrap();
        self.who(key).await
    }
}

/// Every byte of what a store keeps, as far as it can be read.
async fn dump(place: &Place, database: Option<&TestDatabase>) -> Vec<u8> {
    let Some(database) = database else {
        let files = place.files().into_iter().filter(|(path, _)| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("keys.db")
        });
        return files.flat_map(|(_, (_, content))| content).collect();
    };
    let client = database.client().await;
    let columns = "SELECT table_schema || '.' || quote_ident(table_name), quote_ident(column_name), data_type::text
                   FROM information_schema.columns
                   WHERE table_schema NOT IN ('pg_catalog', 'information_schema')";
    let mut dump = String::new();
    for row in client.query(columns, &[]).await.unwrap() {
        let [table, column, kind]: [String; 3] = [0, 1, 2].map(|n| row.get(n));
        // Bytes as the text that they may be.
        let text = match kind.as_str() {
            "bytea" => format!("encode({column}, 'escape')"),
            _ => format!("{column}::text"),
        };
        let select = format!("SELECT string_agg({text}, E'\\n') FROM {table}");
        let values: Option<String> = client.query_one(&select, &[]).await.unwrap().get(0);
        writeln!(dump, "{table}.{column}:\n{}", values.unwrap_or_default()).unwrap();
    }
    dump.into_bytes()
}

/// Keys of an account, every fifth of them one that may do little.
async fn issue_many(target: &mut Target) -> Vec<Issued> {
    let acme = json!({"name": "Acme", "slug": "acme"});
    let (_, acme) = target.told("POST", "/v1/accounts", acme).await;
    let mut issued = Vec::new();
    for n in 0..KEYS {
        let mut body = json!({"account_id": acme["id"], "name": format!("Key {n}")});
        if n % 5 == 4 {
            body["scopes"] = json!(["docs:read"]);
        }
        issued.push(target.issue(&body).await);
    }
    issued
}

/// Uses each key, and renames, revokes or deletes most. Answers those that work.
async fn use_and_change(target: &mut Target, issued: &[Issued]) -> Vec<String> {
    let mut works = vec![target.operator.clone()];
    for (n, Issued { id, plain }) in issued.iter().enumerate() {
        assert_eq!(target.present(plain).await, 200);
        let change = match n % 5 {
            0 => json!({"name": format!("Renamed {n}")}),
            1 => json!({"status": "revoked"}),
            2 => json!({"deleted": true}),
            _ => {
                works.push(plain.clone());
                continue;
            }
        };
        let request = target.request("PATCH", &format!("/v1/api-keys/{id}"));
        let request = request.header("x-request-id", plain).json(&change);
        let request = request.header("leadr-api-key", &target.operator);
        assert_eq!(target.answered(request).await.0, 200);
        let status = target.present(plain).await;
        assert_eq!(status, if n % 5 == 0 { 200 } else { 401 });
        if status == 200 {
            works.push(plain.clone());
        }
    }
    works
}

/// Presents keys that nobody has, and such as are none.
async fn present_wrong(target: &mut Target, issued: &[Issued]) {
    for (n, Issued { plain, .. }) in (0..20).zip(issued) {
        let unknown = generate_api_key([n; 32]);
        let mut forged = plain.clone();
        forged.replace_range(PREFIX..PREFIX + 4, "AAAA");
        let wrong = [
            unknown.expose().to_owned(),
            forged,
            format!("{plain}x"),
            plain[..46].to_owned(),
        ];
        for wrong in wrong {
            assert_eq!(target.present(&wrong).await, 401, "{wrong}");
            target.search.key(&wrong);
        }
        // Elsewhere than where a key belongs, nothing tells these from any other text.
        for wrong in [&plain[4..], &plain.replace("ldr_", "LDR_")] {
            assert_eq!(target.who(wrong).await, 401, "{wrong}");
        }
    }
}

/// A life of keys on the store of this URL, and a look at all that was written.
async fn live_and_search(place: &Place, url: &str, database: Option<&TestDatabase>) {
    let environment = [
        ANYWHERE,
        PATIENT,
        ("METRICS_LISTEN", "127.0.0.1:0"),
        // All of them are sent from here.
        ("INVALID_KEYS_PER_MINUTE", "0"),
        ("RUST_LOG", "trace"),
        ("DATABASE_URL", url),
        ("API_KEY_KEYRING_FILE", "ring"),
    ];
    let tool = |arguments: &[&str]| place.run(arguments, &environment).with(0);
    place.write("ring", ring("old", &[("old", OLD)]));
    let mut running = place.serve(&[], &environment);
    let base = running.base();
    let metrics = running.wait_for("metrics: ");
    let metrics = metrics.split_once("metrics: ").unwrap().1.to_owned();
    let operator = running.first_key();
    let mut target = Target {
        client: Client::new(),
        base,
        operator: operator.clone(),
        search: Search::default(),
    };
    target.search.key(&operator);
    target.search.secret(OLD);

    let issued = issue_many(&mut target).await;
    let works = use_and_change(&mut target, &issued).await;
    present_wrong(&mut target, &issued).await;

    tool(&["pepper", "rotate", "--id", "new"]);
    let secrets: Value = serde_json::from_str(&place.read("ring")).unwrap();
    let new = secrets["secrets"][1]["secret"].as_str().unwrap();
    target.search.secret(new);
    running.signal("-HUP");
    until("the new secret is the current one", async || {
        peppers(place, &environment).len() == 2
    })
    .await;
    let kept = KEYS as u64 / 5 * 3 + 1;
    until("the keys that work were moved", async || {
        for key in &works {
            assert_eq!(target.who(key).await, 200);
        }
        peppers(place, &environment)[0] == status_of("new", "current", kept, false)
    })
    .await;
    let made = tool(&["operator", "new-key", "--json"]);
    target.search.key(made.json()["key"].as_str().unwrap());
    target.search.look_in("a tool's log", made.err);
    let exported = tool(&["export"]);
    target.search.look_in("the export", &exported.out);
    target.search.look_in("a tool's log", exported.err);
    let trail = listed_audit(&target.base, &operator, "limit=100").await;
    let trail: Vec<_> = trail.iter().map(Value::to_string).collect();
    target.search.look_in("the audit", trail.join("\n"));
    let scraped = target.client.get(metrics).send().await.unwrap();
    let scraped = scraped.text().await.unwrap();
    assert!(scraped.contains("# HELP"), "{scraped}");
    target.search.look_in("the metrics", scraped);
    let mut search = std::mem::take(&mut target.search);
    search.look_in("the database", dump(place, database).await);
    running.signal("-TERM");
    let (ended, mut said, log) = running.wait_and_hear();
    assert_eq!(ended.code(), Some(0), "{log}");
    search.look_in("the database", dump(place, database).await);
    // It is shown to whoever starts the server for the first time: by itself, and in a line to paste.
    let whole = said.len();
    said.retain(|line| !line.contains(&operator));
    assert_eq!(whole - said.len(), 2);
    search.look_in("the output", said.join("\n"));
    assert!(log.contains("TRACE"), "a talkative log");
    search.look_in("the log", log);

    see(search, &issued, &operator);
}

/// Nothing that must not be there was found, and the search finds what is.
fn see(mut search: Search, issued: &[Issued], operator: &str) {
    assert!(search.canaries.len() > KEYS + 80);
    assert!(search.canaries.iter().all(|canary| canary.len() >= 30));
    assert_eq!(search.hits(), Vec::<String>::new());
    // What may be shown is found in the same texts by the same search.
    for Issued { plain, .. } in issued {
        let prefix = &plain[..PREFIX];
        for what in ["the database", "the audit", "the export"] {
            assert!(search.has(what, prefix), "{prefix} is not in {what}");
        }
    }
    for (action, what) in [
        ("key.renamed", "the audit"),
        ("key.revoked", "the audit"),
        ("key.deleted", "the audit"),
        ("authorization.refused", "the audit"),
        ("pepper.rehashed", "the audit"),
        ("operator.key_created", "the database"),
        ("/v1/api-keys/{key_id}", "the log"),
        ("listens on", "the output"),
        ("invalid_api_key", "an answer"),
    ] {
        assert!(search.has(what, action), "{action} is not in {what}");
    }
    search.look_in("a copy", format!("a line with {operator} in it"));
    assert_eq!(search.hits().len(), 1, "a key that is there is found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_and_no_secret_is_in_anything_that_a_server_on_a_file_writes() {
    live_and_search(&Place::new(), "sqlite:keys.db", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_and_no_secret_is_in_anything_that_a_server_on_a_database_writes() {
    if !has_postgres("no_key_and_no_secret_is_in_anything_that_a_server_on_a_database_writes") {
        return;
    }
    let database = TestDatabase::create_empty().await;
    live_and_search(&Place::new(), database.url(), Some(&database)).await;
}
