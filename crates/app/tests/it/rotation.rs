//! The server's secret is replaced while clients use their keys without a pause, and none of them is ever refused.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use leadr_auth_postgres::testing::TestDatabase;
use serde_json::{Value, json};

use crate::peppers::{Pepper, peppers, ring, status_of, until};
use crate::support::{ANYWHERE, PATIENT, Place, call, has_postgres, listed_audit, status};

const OLD: &str = "the old secret, of 32 bytes and some more";

/// How many keys are used all the time, beside the operator's.
const KEYS: usize = 60;

const CLIENTS: usize = 4;

/// What the clients and the test tell each other.
#[derive(Default)]
struct Shared {
    /// Where the server is now.
    base: RwLock<String>,
    /// Nobody is there to be asked, and it is meant so.
    is_away: AtomicBool,
    stop: AtomicBool,
    /// How many times all keys of some client were asked for.
    rounds: AtomicU64,
    answers: AtomicU64,
    /// What was answered but should not have been.
    wrong: Mutex<Vec<String>>,
}

/// Clients that ask with every key, over and over, until they are told to stop or one is answered anything but 200.
struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(base: &str, keys: &[String]) -> Self {
        let shared = Arc::new(Shared::default());
        base.clone_into(&mut shared.base.write().unwrap());
        let clients = (0..CLIENTS)
            .map(|n| {
                let mut keys = keys.to_vec();
                let begin = n * keys.len() / CLIENTS;
                keys.rotate_left(begin);
                let shared = shared.clone();
                std::thread::spawn(move || client(&shared, &keys))
            })
            .collect();
        Self { shared, clients }
    }

    /// Waits until every client has asked with every key once more.
    async fn another_round(&self) {
        // A round that is underway may have begun long ago, so that two have to end.
        let enough = self.shared.rounds.load(Ordering::Relaxed) + 2 * CLIENTS as u64;
        until("the clients ask with every key", async || {
            self.is_well();
            self.shared.rounds.load(Ordering::Relaxed) >= enough
        })
        .await;
    }

    /// Sees that nothing went wrong so far.
    fn is_well(&self) {
        assert_eq!(*self.shared.wrong.lock().unwrap(), Vec::<String>::new());
    }

    /// Ends it. Answers how many answers were given.
    fn end(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().unwrap();
        }
        self.is_well();
        self.shared.answers.load(Ordering::Relaxed)
    }
}

fn client(shared: &Shared, keys: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = reqwest::Client::new();
    loop {
        for key in keys {
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Err(what) = runtime.block_on(ask(shared, &client, key)) {
                shared.wrong.lock().unwrap().push(what);
                return;
            }
            shared.answers.fetch_add(1, Ordering::Relaxed);
        }
        shared.rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks until there is an answer, and sees that it is the right one.
async fn ask(shared: &Shared, client: &reqwest::Client, key: &str) -> Result<(), String> {
    loop {
        let base = shared.base.read().unwrap().clone();
        let request = client
            .get(format!("{base}/v1/me"))
            .header("leadr-api-key", key);
        match request.send().await {
            Ok(answer) if answer.status() == 200 => return Ok(()),
            Ok(answer) => {
                let status = answer.status();
                let body = answer.text().await.unwrap_or_default();
                return Err(format!("{}: {status}: {body}", &key[..14]));
            }
            Err(error) => {
                let is_away = shared.is_away.load(Ordering::SeqCst)
                    || *shared.base.read().unwrap() != base
                    || shared.stop.load(Ordering::Relaxed);
                if !is_away {
                    return Err(format!("{}: {error:?}", &key[..14]));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Makes a key of an account by the server.
async fn new_key(base: &str, operator: &str, account: &Value, name: &str) -> String {
    let body = json!({"account_id": account, "name": name});
    let (status, made) = call("POST", &format!("{base}/v1/api-keys"), operator, Some(body)).await;
    assert_eq!(status, 201, "{made}");
    made["key"].as_str().unwrap().to_owned()
}

/// The whole of it, on the store of this environment.
async fn replace_under_load(place: &Place, database: &str) {
    let environment = [
        ANYWHERE,
        PATIENT,
        ("DATABASE_URL", database),
        ("API_KEY_KEYRING_FILE", "ring"),
    ];
    let tool = |code, arguments: &[&str]| place.run(arguments, &environment).with(code);
    let is = |expected: [Pepper; 2]| peppers(place, &environment) == expected;
    place.write("ring", ring("old", &[("old", OLD)]));
    let mut running = place.serve(&[], &environment);
    let base = running.base();
    let operator = running.first_key();
    let accounts = format!("{base}/v1/accounts");
    let mut keys = vec![operator.clone()];
    for slug in ["one", "two", "three"] {
        let body = json!({"name": slug, "slug": slug});
        let (_, account) = call("POST", &accounts, &operator, Some(body)).await;
        for n in 0..KEYS / 3 {
            keys.push(new_key(&base, &operator, &account["id"], &format!("Key {n}")).await);
        }
    }
    let account = &call("GET", &accounts, &operator, None).await.1[0]["id"];
    let unused = new_key(&base, &operator, account, "Unused").await;
    let all = keys.len() as u64 + 1;
    let load = Load::start(&base, &keys);
    load.another_round().await;

    tool(0, &["pepper", "rotate", "--id", "new"]);
    let both = place.read("ring");
    tool(4, &["pepper", "drop", "old"]).says(&["keys depend on the secret old"]);
    running.signal("-HUP");
    until("all keys that are used were moved", async || {
        load.is_well();
        is([
            status_of("new", "current", all - 1, false),
            status_of("old", "retired", 1, false),
        ])
    })
    .await;
    let refused = tool(4, &["pepper", "drop", "old", "--json"]).json();
    assert_eq!(refused["count"], 1);
    assert_eq!(refused["keys"][0]["prefix"], unused[..14]);
    assert_eq!(status(&base, &unused).await, 200);
    until("no key depends on the old secret", async || {
        is([
            status_of("new", "current", all, false),
            status_of("old", "retired", 0, false),
        ])
    })
    .await;
    tool(0, &["pepper", "drop", "old"]);
    load.another_round().await;

    let both: Value = serde_json::from_str(&both).unwrap();
    let new = both["secrets"][1]["secret"].as_str().unwrap();
    assert_ne!(new, OLD);
    place.write("ring", ring("new", &[("new", new)]));
    running.signal("-HUP");
    load.another_round().await;

    load.shared.is_away.store(true, Ordering::SeqCst);
    let (ended, log) = running.end("-TERM");
    assert_eq!(ended.code(), Some(0), "{log}");
    assert!(!log.contains("the secrets stay as they were"), "{log}");
    let mut running = place.serve(&[], &environment);
    let base = running.base();
    running.wait_for("ready");
    base.clone_into(&mut load.shared.base.write().unwrap());
    load.shared.is_away.store(false, Ordering::SeqCst);
    load.another_round().await;
    let answers = load.end();
    assert!(answers > 10 * all, "{answers} answers are no load");

    assert_eq!(status(&base, &unused).await, 200);
    assert!(is([
        status_of("new", "current", all, false),
        status_of("old", "not_configured", 0, true),
    ]));
    let moved = listed_audit(&base, &operator, "action=pepper.rehashed").await;
    let mut moved: Vec<_> = moved
        .iter()
        .flat_map(|entry| {
            assert_eq!(entry["after"]["secret_id"], "new");
            assert_eq!(entry["actor"]["kind"], "server");
            entry["after"]["key_ids"].as_array().unwrap()
        })
        .map(|id| id.as_str().unwrap())
        .collect();
    assert_eq!(moved.len() as u64, all, "what was moved is in the trail");
    moved.sort_unstable();
    moved.dedup();
    assert_eq!(moved.len() as u64, all, "each key once");
    let found = tool(0, &["audit", "verify", "--json"]).json();
    assert_eq!(found["faults"], json!([]));
    assert_eq!(found["chains"], 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_refused_while_the_secret_of_a_file_is_replaced() {
    replace_under_load(&Place::new(), "sqlite:keys.db").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_refused_while_the_secret_of_a_database_is_replaced() {
    if !has_postgres("no_key_is_refused_while_the_secret_of_a_database_is_replaced") {
        return;
    }
    let database = TestDatabase::create_empty().await;
    replace_under_load(&Place::new(), database.url()).await;
}
