//! The server's secrets are replaced, and no key stops.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{ANYWHERE, Place, Running, call, has_postgres, status};

const OLD: &str = "the old secret, of 32 bytes and some more";
const NEW: &str = "the new secret, of 32 bytes and some more";

/// How it stands with a secret: its id, its role, its keys, and whether it was dropped.
pub(crate) type Pepper = (String, String, u64, bool);

/// A keyring file's content.
pub(crate) fn ring(current: &str, secrets: &[(&str, &str)]) -> String {
    let secrets: Vec<_> = secrets
        .iter()
        .map(|(id, secret)| json!({"id": id, "secret": secret}))
        .collect();
    json!({"current": current, "secrets": secrets}).to_string()
}

/// How it stands with the secrets, in the order of their ids.
pub(crate) fn peppers(place: &Place, environment: &[(&str, &str)]) -> Vec<Pepper> {
    let told = place
        .run(&["pepper", "status", "--json"], environment)
        .with(0);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let one = |status: &Value| {
        let keys = status["keys"].as_u64().unwrap();
        (
            text(&status["id"]),
            text(&status["role"]),
            keys,
            !status["dropped_at"].is_null(),
        )
    };
    told.json().as_array().unwrap().iter().map(one).collect()
}

pub(crate) fn status_of(id: &str, role: &str, keys: u64, dropped: bool) -> Pepper {
    (id.to_owned(), role.to_owned(), keys, dropped)
}

/// Waits until something that happens in the background has.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..300 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

/// Makes a key by the server, and answers under which secret it is hashed.
async fn secret_of_new_key(place: &Place, base: &str, key: &str) -> String {
    let accounts = call("GET", &format!("{base}/v1/accounts"), key, None)
        .await
        .1;
    let account = accounts["accounts"][0]["id"]
        .as_str()
        .or(accounts[0]["id"].as_str());
    let body = json!({"account_id": account.unwrap(), "name": "Later"});
    let (status, made) = call("POST", &format!("{base}/v1/api-keys"), key, Some(body)).await;
    assert_eq!(status, 201, "{made}");
    let shown = place.tool(0, &["key", "show", made["id"].as_str().unwrap(), "--json"]);
    shown.json()["secret_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_secret_is_replaced_while_a_server_runs() {
    let place = Place::new();
    let (running, base, key) = place.first_start();
    let secret = place.read("data/secret");
    let arguments = ["pepper", "rotate", "--id", "2026-11", "--json"];
    let told = place.tool(0, &arguments).json();
    assert_eq!(told, json!({"id": "2026-11", "path": "./data/keyring"}));
    assert_eq!(place.mode("data/keyring"), 0o600);
    assert_eq!(place.read("data/secret"), secret, "it is left where it is");
    let kept: Value = serde_json::from_str(&place.read("data/keyring")).unwrap();
    assert_eq!(kept["secrets"][0]["secret"], secret.trim());
    // Until it is told, the server goes on as before.
    assert_eq!(secret_of_new_key(&place, &base, &key).await, "default");
    running.signal("-HUP");
    until("the new secret is the current one", async || {
        secret_of_new_key(&place, &base, &key).await == "2026-11"
    })
    .await;
    // The key of the first start is of the old secret, works, and is moved by being used.
    assert_eq!(status(&base, &key).await, 200);
    place.tool(4, &["pepper", "drop", "default"]);
    let arguments = ["key", "list", "--account", "operator", "--json"];
    for made in place.tool(0, &arguments).json().as_array().unwrap() {
        if made["name"] == "Later" {
            place.tool(0, &["key", "delete", made["id"].as_str().unwrap()]);
        }
    }
    until("no key depends on the old secret", async || {
        peppers(&place, &[])[1] == status_of("default", "retired", 0, false)
    })
    .await;
    place.tool(0, &["pepper", "drop", "default"]);
    assert_eq!(
        peppers(&place, &[]),
        [
            status_of("2026-11", "current", 1, false),
            status_of("default", "retired", 0, true)
        ]
    );
    assert_eq!(status(&base, &key).await, 200);
    let (ended, log) = running.end("-TERM");
    assert_eq!(ended.code(), Some(0), "{log}");
    for secret in kept["secrets"].as_array().unwrap() {
        assert!(!log.contains(secret["secret"].as_str().unwrap()));
    }
    // And without the one that was dropped, after a restart.
    let kept = &kept["secrets"][1]["secret"];
    place.write(
        "data/keyring",
        ring("2026-11", &[("2026-11", kept.as_str().unwrap())]),
    );
    let (_running, base) = place.start_again();
    assert_eq!(status(&base, &key).await, 200);
    let found = place.tool(0, &["doctor"]);
    assert!(!found.out.contains("FAILURE"), "{}", found.out);
}

#[tokio::test]
async fn a_keyring_that_cannot_be_used_changes_nothing_and_the_log_says_why() {
    let place = Place::new();
    let environment = [ANYWHERE, ("API_KEY_KEYRING_FILE", "ring")];
    place.write("ring", ring("old", &[("old", OLD)]));
    let mut running = place.serve(&[], &environment);
    let base = running.base();
    let key = running.first_key();
    let is_kept = async |running: &Running| {
        running.signal("-HUP");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(status(&base, &key).await, 200);
    };
    let faulty = [
        (String::from("{\"hunter1\": 1}"), "seen at line 1"),
        (ring("new", &[("old", OLD)]), "there is no secret new"),
        (ring("old", &[("old", "hunter2")]), "shorter"),
        (ring("new", &[("new", NEW)]), "which is not in the keyring"),
        (
            ring("old", &[("old", NEW)]),
            "is not the one that the stored keys",
        ),
    ];
    for (content, _) in &faulty {
        place.write("ring", content);
        is_kept(&running).await;
    }
    fs::remove_file(place.path("ring")).unwrap();
    is_kept(&running).await;
    // Nothing of the faulty ones came into the store, and a good one is still taken.
    place.write("ring", ring("new", &[("old", OLD), ("new", NEW)]));
    running.signal("-HUP");
    until("the new secret is registered", async || {
        peppers(&place, &environment).len() == 2
    })
    .await;
    assert_eq!(status(&base, &key).await, 200);
    let (_, log) = running.end("-TERM");
    for (_, words) in &faulty {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert_eq!(
        log.matches("the secrets stay as they were").count(),
        6,
        "{log}"
    );
    for secret in [OLD, NEW, "hunter"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn secrets_that_are_no_keyring_keep_a_server_from_starting() {
    let place = Place::new();
    let database = ("DATABASE_URL", "sqlite:keys.db");
    let refused = |environment: &[(&str, &str)], words: &[&str]| {
        let environment = [&[ANYWHERE, database][..], environment].concat();
        for command in [&["serve"][..], &["account", "list"]] {
            let ended = place.run(command, &environment).with(2).says(words);
            assert!(!ended.err.contains("hunter"), "{}", ended.err);
        }
        place.run(&["doctor"], &environment).with(1);
        assert!(!place.path("keys.db").exists());
    };
    let file = ("API_KEY_KEYRING_FILE", "ring");
    refused(&[file], &["API_KEY_KEYRING_FILE", "cannot be read"]);
    let twice = ring("a", &[("a", OLD), ("b", OLD), ("c", "hunter2"), ("a", NEW)]);
    place.write("ring", twice);
    refused(
        &[file],
        &[
            "secrets a and b are the same",
            "secret c is",
            "two secrets have the id a",
        ],
    );
    let secret = ("API_KEY_SECRET", OLD);
    refused(&[file, secret], &["API_KEY_SECRET: is set"]);
    refused(
        &[secret, ("API_KEY_SECRETS_RETIRED", "a:hunter2 hunter3")],
        &["pair number 2", "the secret a is"],
    );
    // Where it was not named, and is in the data directory, it is no better.
    let place = Place::new();
    let key = place.make_store();
    place.tool(0, &["pepper", "rotate"]);
    let good = place.read("data/keyring");
    place.write("data/keyring", ring("a", &[("a", "hunter2")]));
    for command in [&["serve"][..], &["account", "list"]] {
        let ended = place.run(command, &[ANYWHERE]).with(2);
        let ended = ended.says(&["data/keyring", "the secret a is"]);
        assert!(!ended.err.contains("hunter"), "{}", ended.err);
    }
    place.write("data/keyring", good);
    place.set_mode("data/keyring", 0o640);
    place.tool(1, &["account", "list"]).says(&["chmod 600"]);
    place.set_mode("data/keyring", 0o600);
    place.tell(0, &["key", "verify"], key);
}

#[test]
fn a_new_secret_goes_where_the_others_are() {
    let place = Place::new();
    place
        .tool(1, &["pepper", "rotate"])
        .says(&["there is no data directory"]);
    let key = place.make_store();
    place.tool(0, &["pepper", "rotate"]);
    place.tool(0, &["pepper", "rotate"]);
    let kept: Value = serde_json::from_str(&place.read("data/keyring")).unwrap();
    let secrets = kept["secrets"].as_array().unwrap();
    let ids: Vec<_> = secrets
        .iter()
        .map(|secret| secret["id"].as_str().unwrap())
        .collect();
    assert_eq!((ids[0], ids.len()), ("default", 3));
    assert_eq!(ids[2], format!("{}-2", ids[1]));
    assert_eq!(kept["current"], ids[2]);
    assert_eq!(ids[1].len(), "2026-11-25".len());
    place.tell(0, &["key", "verify"], &key);
    // An id that the store knows is not given again, though the file does not have it any more.
    place.tool(
        0,
        &["key", "create", "--account", "operator", "--name", "x"],
    );
    place.tool(0, &["pepper", "drop", ids[1]]);
    let two = [0, 2].map(|n| (ids[n], secrets[n]["secret"].as_str().unwrap()));
    place.write("data/keyring", ring(ids[2], &two));
    place
        .tool(4, &["pepper", "rotate", "--id", ids[1]])
        .says(&["name another id"]);
    let told = place.tool(0, &["pepper", "rotate", "--json"]).json();
    assert_eq!(told["id"], format!("{}-3", ids[1]));
    // A file that was named is where it is, and stays readable for whoever could read it.
    let ring = place.read("data/keyring");
    place.write("ring", ring);
    place.set_mode("ring", 0o640);
    place.tool(
        0,
        &["pepper", "rotate", "--keyring-file", "ring", "--id", "last"],
    );
    assert_eq!(place.mode("ring"), 0o640);
    assert!(place.read("ring").contains("\"current\": \"last\""));
    // What is in the environment is its owner's to change.
    let secret = place.read("data/secret");
    place.write("one secret", &secret);
    for environment in [
        ("API_KEY_SECRET", secret.as_str()),
        ("API_KEY_SECRET_FILE", "one secret"),
    ] {
        let before = place.files();
        let words = [
            "API_KEY_SECRET_ID",
            "API_KEY_SECRETS_RETIRED",
            "API_KEY_KEYRING_FILE",
        ];
        place
            .run(&["pepper", "rotate"], &[environment])
            .with(2)
            .says(&words);
        assert_eq!(place.files(), before);
    }
}

/// Of two that read the same file and write it, one would lose the other's secret.
#[test]
fn secrets_that_are_made_at_once_are_all_kept() {
    let place = Place::new();
    place.make_store();
    let racers: Vec<_> = (0..6)
        .map(|_| Running::spawn(place.command(&["pepper", "rotate"], &[])))
        .collect();
    for racer in racers {
        racer.ended().with(0);
    }
    assert_eq!(peppers(&place, &[]).len(), 7);
}

#[test]
fn what_cannot_be_has_its_exit_code() {
    let place = Place::new();
    place.make_store();
    let before = place.files();
    let cases: &[(i32, &[&str], &str)] = &[
        (3, &["pepper", "drop", "nobody"], "no secret"),
        (2, &["pepper", "drop", "not an id"], "id"),
        (4, &["pepper", "drop", "default"], "current"),
        (4, &["pepper", "rotate", "--id", "default"], "another id"),
        (2, &["pepper", "rotate", "--id", "not an id"], "id"),
        (2, &["pepper"], "Usage"),
    ];
    for (code, arguments, word) in cases {
        let refused = place.tool(*code, arguments);
        assert!(refused.err.contains(word), "{arguments:?}: {}", refused.err);
        assert_eq!(refused.out, "", "{arguments:?}");
        assert!(!place.path("data/keyring").exists());
    }
    assert_eq!(
        place.files()[&place.path("data/secret")],
        before[&place.path("data/secret")]
    );
}

#[test]
fn a_secret_that_keys_depend_on_is_not_dropped() {
    let place = Place::new();
    let key = place.make_store();
    place.tool(0, &["pepper", "rotate", "--id", "new"]);
    place.start_again().0.end("-TERM");
    let refused = place.tool(4, &["pepper", "drop", "default"]);
    let prefix = key.get(..14).unwrap();
    assert!(
        refused.out.contains(prefix) && refused.out.contains("ID"),
        "{}",
        refused.out
    );
    refused.says(&["1 keys depend on the secret default"]);
    let refused = place
        .tool(4, &["pepper", "drop", "default", "--json"])
        .json();
    assert_eq!(refused["count"], 1);
    assert_eq!(refused["keys"][0]["prefix"], prefix);
    assert_eq!(refused["keys"][0]["secret_id"], "default");
    place.tool(4, &["pepper", "drop", "new"]).says(&["current"]);
    assert_eq!(
        peppers(&place, &[]),
        [
            status_of("default", "retired", 1, false),
            status_of("new", "current", 0, false)
        ]
    );
    let human = place.tool(0, &["pepper", "status"]).out;
    for word in [
        "ROLE",
        "KEYS",
        "REGISTERED",
        "DROPPED",
        "retired",
        "current",
    ] {
        assert!(human.contains(word), "{human}");
    }
}

#[test]
fn a_key_whose_secret_was_dropped_is_not_restored() {
    let place = Place::new();
    let key = place.make_store();
    let prefix = key.get(..14).unwrap();
    let shown = place.tool(0, &["key", "show", prefix, "--json"]).json();
    let id = shown["id"].as_str().unwrap();
    place.tool(0, &["pepper", "rotate", "--id", "new"]);
    place.start_again().0.end("-TERM");
    place.tool(0, &["key", "delete", id]);
    place.tool(0, &["key", "restore", id]);
    place.tool(0, &["key", "delete", id]);
    place.tool(0, &["pepper", "drop", "default"]);
    let trail = || place.tool(0, &["audit", "verify", "--json"]).json();
    let before = trail();
    for named in [id, prefix] {
        let refused = place.tool(4, &["key", "restore", named]);
        assert_eq!(refused.out, "");
        refused.says(&["the server secret that the key is hashed under was dropped"]);
    }
    place.tool(3, &["key", "show", id]);
    assert_eq!(trail(), before, "nothing was done, and nothing said");
}

/// Nobody started a server with the new secret, or sent it SIGHUP, before the old one is given up and taken out.
#[test]
fn a_secret_is_given_up_before_a_server_knows_the_new_one() {
    let place = Place::new();
    let key = place.make_store();
    let shown = place.tool(0, &["key", "show", &key[..14], "--json"]).json();
    place.tool(0, &["key", "delete", shown["id"].as_str().unwrap()]);
    place.tool(0, &["pepper", "rotate", "--id", "two"]);
    let kept: Value = serde_json::from_str(&place.read("data/keyring")).unwrap();
    let two = kept["secrets"][1]["secret"].as_str().unwrap();
    place.tool(0, &["pepper", "drop", "default"]);
    place.write("data/keyring", ring("two", &[("two", two)]));
    place.tool(0, &["audit", "verify"]);
    place.tool(0, &["operator", "new-key"]);
    place.start_again().0.end("-TERM");
    assert_eq!(
        peppers(&place, &[]),
        [
            status_of("default", "not_configured", 0, true),
            status_of("two", "current", 1, false)
        ]
    );
}

/// What is said where the old secret was taken out too early is the way out of it.
#[test]
fn a_secret_that_is_missing_is_put_back_to_be_given_up() {
    let place = Place::new();
    let key = place.make_store();
    let shown = place.tool(0, &["key", "show", &key[..14], "--json"]).json();
    place.tool(0, &["key", "delete", shown["id"].as_str().unwrap()]);
    let secret = place.read("data/secret");
    let retired = format!("default:{}", secret.trim());
    let new = [("API_KEY_SECRET", NEW), ("API_KEY_SECRET_ID", "new")];
    let advice = [
        "default, which is not in the keyring",
        "as a retired one",
        "API_KEY_SECRETS_RETIRED",
        "there it can also be given up, by `leadr-auth pepper drop default`",
    ];
    for command in [&["pepper", "status"][..], &["pepper", "drop", "default"]] {
        place.run(command, &new).with(2).says(&advice);
    }
    let both = [&new[..], &[("API_KEY_SECRETS_RETIRED", &retired)]].concat();
    place.run(&["pepper", "drop", "default"], &both).with(0);
    place.run(&["pepper", "status"], &new).with(0);
    place.run(&["audit", "verify"], &new).with(0);
}

/// What keeps a server from starting is shown by status and doctor, and can be mended by drop.
#[test]
fn a_ring_that_does_not_fit_the_store() {
    let place = Place::new();
    let secrets = [("old", OLD), ("new", NEW)];
    let environment = [ANYWHERE, ("API_KEY_KEYRING_FILE", "ring")];
    place.write("ring", ring("old", &secrets));
    let mut running = place.serve(&[], &environment);
    running.base();
    running.first_key();
    running.end("-TERM");
    let doctor = |code: i32, words: &[&str]| {
        let found = place.run(&["doctor"], &environment).with(code);
        for word in words {
            assert!(found.out.contains(word), "{word}: {}", found.out);
        }
    };
    doctor(0, &["new is retired", "the one of the stored keys"]);
    let refused = |code: i32, words: &[&str]| {
        place.run(&["serve"], &environment).with(code).says(words);
        let told = place
            .run(&["pepper", "status"], &environment)
            .with(code)
            .says(words);
        assert!(told.out.contains("old"), "{}", told.out);
        doctor(1, &["FAILURE", words[0]]);
    };
    place.write("ring", ring("new", &[("old", NEW), ("new", OLD)]));
    refused(1, &["is not the one that the stored keys are hashed under"]);
    place.write("ring", ring("old", &secrets[..1]));
    refused(2, &["new, which is not in the keyring"]);
    place.run(&["pepper", "drop", "new"], &environment).with(0);
    doctor(0, &["the one of the stored keys"]);
    place.write("ring", ring("old", &secrets));
    let found = place
        .run(&["doctor", "--json"], &environment)
        .with(0)
        .json();
    let mut findings = found.as_array().unwrap().iter();
    let dropped = |finding: &&Value| finding["what"].to_string().contains("new was dropped");
    let dropped = findings.find(dropped).unwrap();
    assert_eq!(dropped["status"], "warning", "{dropped}");
    place.write("ring", ring("new", &secrets));
    refused(1, &["new was dropped"]);
    place.write("ring", ring("old", &secrets[..1]));
    place.run(&["account", "list"], &environment).with(0);
}

/// Whoever mends a keyring need not start the server once for each fault: whether the file was said, or is kept in the data
/// directory.
#[test]
fn all_that_is_wrong_with_a_keyring_is_told_at_once() {
    let place = Place::new();
    place.make_store();
    let secrets = [
        ("a", OLD),
        ("a", NEW),
        ("b", OLD),
        ("c", "hunter2"),
        ("hunter 3", NEW),
    ];
    let told = [
        "two secrets have the id a",
        "the secrets a and b are the same",
        "the secret c is",
        "secret number 5: the id",
        "there is no secret new",
    ];
    for (file, environment) in [
        ("ring", &[ANYWHERE, ("API_KEY_KEYRING_FILE", "ring")][..]),
        ("data/keyring", &[ANYWHERE]),
    ] {
        place.write(file, ring("new", &secrets));
        place.set_mode(file, 0o600);
        for (code, command) in [(2, "serve"), (1, "doctor")] {
            let refused = place.run(&[command], environment).with(code);
            let all = format!("{}{}", refused.out, refused.err);
            for told in told {
                assert!(all.contains(told), "{file}, {command}: {told}: {all}");
            }
            assert!(!all.contains("hunter"), "{all}");
        }
    }
}

#[tokio::test]
async fn a_key_has_the_scopes_that_it_was_made_with() {
    let place = Place::new();
    place.make_store();
    let create = ["key", "create", "--account", "operator", "--name", "x"];
    let scopes = ["--scope", "keys:read", "--scope", "docs:*", "--json"];
    let narrow = place.tool(0, &[&create[..], &scopes].concat()).json();
    assert_eq!(narrow["scopes"], json!(["docs:*", "keys:read"]));
    let wide = place.tool(0, &[&create[..], &["--json"]].concat()).json();
    assert_eq!(wide["scopes"], Value::Null);
    let listed = place.tool(0, &["key", "list", "--account", "operator"]).out;
    for word in ["SCOPES", "docs:* keys:read", "all"] {
        assert!(listed.contains(word), "{listed}");
    }
    let (_running, base) = place.start_again();
    let key = narrow["key"].as_str().unwrap();
    assert_eq!(status(&base, key).await, 403);
    let account = narrow["account_id"].as_str().unwrap();
    let keys = format!("{base}/v1/api-keys?account_id={account}");
    assert_eq!(call("GET", &keys, key, None).await.0, 200);
    // A key that stands where a scope belongs is not repeated.
    let misplaced = [&create[..], &["--scope", key]].concat();
    let refused = place.tool(2, &misplaced);
    assert!(!refused.err.contains(key), "{}", refused.err);
    let unknown = [&create[..], &["--scope", "keys:all"]].concat();
    place.tool(2, &unknown).says(&["scope", "keys:read"]);
}

/// On PostgreSQL the tools and the server are apart, and all goes the same way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_replaced_on_a_server() {
    if !has_postgres("a_secret_is_replaced_on_a_server") {
        return;
    }
    let database = leadr_auth_postgres::testing::TestDatabase::create_empty().await;
    let place = Place::new();
    let environment = [
        ANYWHERE,
        ("DATABASE_URL", database.url()),
        ("API_KEY_KEYRING_FILE", "ring"),
    ];
    place.write("ring", ring("old", &[("old", OLD)]));
    let mut running = place.serve(&[], &environment);
    let base = running.base();
    let key = running.first_key();
    place
        .run(&["pepper", "rotate", "--id", "new"], &environment)
        .with(0);
    running.signal("-HUP");
    until("the key was moved", async || {
        assert_eq!(status(&base, &key).await, 200);
        let peppers = peppers(&place, &environment);
        peppers
            == [
                status_of("new", "current", 1, false),
                status_of("old", "retired", 0, false),
            ]
    })
    .await;
    place.run(&["pepper", "drop", "old"], &environment).with(0);
    assert_eq!(status(&base, &key).await, 200);
    running.end("-TERM");
}
