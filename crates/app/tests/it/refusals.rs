//! What a server cannot start from: it says so, names the path, ends, and leaves every file as it was.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use leadr_auth_postgres::testing::TestDatabase;
use serde_json::json;

use crate::support::{ANYWHERE, Ended, Place, Running, call, has_postgres, status};

const SECRET: &str = "a secret for tests, of 32 bytes and more";

/// Changes a database behind the program's back.
pub(crate) fn change(database: &Path, sql: &str) {
    let mut connection = SqliteConnection::establish(database.to_str().unwrap()).unwrap();
    connection.batch_execute(sql).unwrap();
}

/// Starts a server that is to fail, sees that it fails with these words and leaves everything as it was, and that `doctor`
/// says so too.
fn refused(place: &Place, environment: &[(&str, &str)], words: &[&str]) -> Ended {
    let before = place.files();
    let environment = [environment, &[ANYWHERE][..]].concat();
    let ended = place.run(&["serve"], &environment).with(1).says(words);
    // What can be known beforehand is; nobody was served meanwhile.
    assert_eq!(ended.out, "");
    assert!(!ended.err.contains("panicked"), "{}", ended.err);
    let doctor = place.run(&["doctor", "--json"], &environment).with(1);
    let findings = doctor.json();
    let failures: Vec<_> = findings
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["status"] == "failure")
        .collect();
    assert_eq!(failures.len(), 1, "{findings}");
    let failure = format!(
        "{}: {}",
        failures[0]["check"].as_str().unwrap(),
        failures[0]["what"].as_str().unwrap()
    );
    for word in words {
        assert!(failure.contains(word), "{word}: {findings}");
    }
    let after = place.files();
    // What an earlier process left in the log ahead is moved from there into the file: nothing is changed by that.
    let log_ahead = before
        .iter()
        .any(|(path, (_, content))| path.ends_with("leadr-auth.db-wal") && !content.is_empty());
    for (path, (mode, content)) in &before {
        if log_ahead && path.to_string_lossy().contains("leadr-auth.db") {
            continue;
        }
        let found = after.get(path);
        assert!(
            found.is_some_and(|(now, bytes)| now == mode && bytes == content),
            "{} was changed",
            path.display()
        );
    }
    // SQLite puts files of its own beside a database that it looks at.
    let beside = ["-shm", "-wal", ".lock"];
    for path in after.keys() {
        let name = path.to_str().unwrap();
        let is_known = before.contains_key(path) || beside.iter().any(|end| name.ends_with(end));
        assert!(is_known, "{name} was made");
    }
    ended
}

/// As [`refused`], at the first start: where the faulty thing is found before anything is made.
fn checked_first(place: &Place, environment: &[(&str, &str)], words: &[&str]) {
    refused(place, environment, words);
    assert!(!place.path("data").is_dir());
}

#[test]
fn a_data_directory_that_is_open_to_others() {
    for mode in [0o755, 0o701, 0o770] {
        let place = Place::new();
        place.make_store();
        place.set_mode("data", mode);
        refused(&place, &[], &["data directory", "data", "chmod 700"]);
        place.tool(1, &["account", "list"]).says(&["chmod 700"]);
        place.set_mode("data", 0o700);
        place.start_again();
    }
    // One that is empty is no better: the secret would be put there.
    let place = Place::new();
    fs::create_dir(place.path("data")).unwrap();
    place.set_mode("data", 0o755);
    refused(&place, &[], &["data directory", "chmod 700"]);
}

#[test]
fn a_secret_that_is_open_to_others() {
    let place = Place::new();
    place.make_store();
    for mode in [0o644, 0o640, 0o602] {
        place.set_mode("data/secret", mode);
        refused(&place, &[], &["data/secret", "chmod 600"]);
        place
            .tool(1, &["key", "list", "--account", "operator"])
            .says(&["chmod 600"]);
    }
    place.set_mode("data/secret", 0o400);
    place.start_again();
}

#[tokio::test]
async fn a_secret_that_is_missing() {
    let place = Place::new();
    let key = place.make_store();
    let secret = place.read("data/secret");
    fs::remove_file(place.path("data/secret")).unwrap();
    let words = ["data/secret is not there", "Put it back", "API_KEY_SECRET"];
    refused(&place, &[], &words);
    place.tool(1, &["account", "list"]).says(&words);
    // Both ways that it tells are ways out.
    let mut running = place.serve(&[], &[ANYWHERE, ("API_KEY_SECRET", secret.trim())]);
    let base = running.base();
    running.wait_for("ready");
    assert_eq!(status(&base, &key).await, 200);
    running.end("-TERM");
    place.write("data/secret", &secret);
    place.set_mode("data/secret", 0o600);
    let (_running, base) = place.start_again();
    assert_eq!(status(&base, &key).await, 200);
}

#[test]
fn a_wrong_secret() {
    let place = Place::new();
    place.make_store();
    let words = [
        "secret",
        "is not the one that the stored keys are hashed under",
    ];
    let environment = [("API_KEY_SECRET", SECRET)];
    refused(&place, &environment, &words);
    for tool in [&["account", "list"][..], &["operator", "new-key"]] {
        place.run(tool, &environment).with(1).says(&words);
    }
    place.write("other", SECRET);
    refused(&place, &[("API_KEY_SECRET_FILE", "other")], &words);
    // Nothing was made under it meanwhile.
    let keys = place.tool(0, &["key", "list", "--account", "operator", "--json"]);
    assert_eq!(keys.json().as_array().unwrap().len(), 1);
}

/// Another node with a wrong secret must tell nobody that a good key is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_on_a_database_that_is_shared() {
    if !has_postgres("a_wrong_secret_on_a_database_that_is_shared") {
        return;
    }
    let database = TestDatabase::create_empty().await;
    let place = Place::new();
    let right = [
        ANYWHERE,
        ("DATABASE_URL", database.url()),
        ("API_KEY_SECRET", SECRET),
    ];
    let mut node = place.serve(&[], &right);
    let base = node.base();
    let key = node.first_key();
    assert_eq!(status(&base, &key).await, 200);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let wrong = [
        ("LISTEN", address.as_str()),
        ("DATABASE_URL", database.url()),
        ("API_KEY_SECRET", "another secret, of 32 bytes and more"),
    ];
    for _ in 0..5 {
        let mut wrong = place.serve(&[], &wrong);
        let client = reqwest::Client::new();
        let mut answers = Vec::new();
        while !wrong.has_ended() {
            let request = client
                .get(format!("http://{address}/v1/accounts"))
                .header("leadr-api-key", &key);
            if let Ok(answer) = request.send().await {
                answers.push(answer.status().as_u16());
            }
        }
        let (ended, log) = wrong.wait();
        assert_eq!(ended.code(), Some(1), "{log}");
        assert!(
            log.contains("is not the one that the stored keys are hashed under"),
            "{log}"
        );
        assert!(answers.iter().all(|&status| status == 503), "{answers:?}");
    }
    assert_eq!(status(&base, &key).await, 200);
    let doctor = place.run(&["doctor"], &wrong).with(1);
    assert!(doctor.out.contains("FAILURE"), "{}", doctor.out);
    place.run(&["doctor"], &right).with(0);
}

#[test]
fn a_secret_file_that_holds_none() {
    for content in [&b""[..], b"short\n", b"  \n\n", &[0xff; 40]] {
        let place = Place::new();
        place.make_store();
        place.write("data/secret", content);
        refused(&place, &[], &["data/secret"]);
        place.tool(1, &["account", "list"]).says(&["data/secret"]);
        // Also where it is there before the first start.
        fs::remove_file(place.path("data/leadr-auth.db")).unwrap();
        refused(&place, &[], &["data/secret"]);
    }
    let place = Place::new();
    place.write("short", "hunter2");
    let told = place
        .run(&["serve"], &[("API_KEY_SECRET_FILE", "short")])
        .with(2);
    assert!(!told.err.contains("hunter2"));
    told.says(&["API_KEY_SECRET_FILE", "32"]);
    place
        .run(&["serve"], &[("API_KEY_SECRET_FILE", "nowhere")])
        .with(2)
        .says(&["API_KEY_SECRET_FILE", "cannot be read"]);
    assert!(!place.path("data").exists());
}

#[test]
fn a_database_that_is_none_of_ours() {
    let place = Place::new();
    let foreign = place.path("foreign.db");
    change(
        &foreign,
        "CREATE TABLE tickets (id); INSERT INTO tickets VALUES (7)",
    );
    place.write("notes.txt", "Buy milk.\n".repeat(1000));
    place.write("short.txt", "x\n");
    fs::create_dir(place.path("folder")).unwrap();
    for name in ["foreign.db", "notes.txt", "short.txt", "folder"] {
        let url = format!("sqlite:{}", place.text(name));
        let environment = [("DATABASE_URL", url.as_str()), ("API_KEY_SECRET", SECRET)];
        refused(&place, &environment, &[name]);
        for tool in [&["migrate"][..], &["account", "list"], &["export"]] {
            place.run(tool, &environment).with(1).says(&[name]);
        }
    }
    let url = format!("sqlite:{}/nowhere/x.db", place.text("folder"));
    let environment = [ANYWHERE, ("DATABASE_URL", &url), ("API_KEY_SECRET", SECRET)];
    place
        .run(&["serve"], &environment)
        .with(1)
        .says(&["folder/nowhere"]);
    place.run(&["doctor"], &environment).with(1);
}

#[test]
fn a_database_that_was_cut_off() {
    let place = Place::new();
    place.make_store();
    let whole = fs::read(place.path("data/leadr-auth.db")).unwrap();
    for length in [whole.len() / 2, 5000, 200] {
        place.write("data/leadr-auth.db", &whole[..length]);
        refused(&place, &[], &["data/leadr-auth.db"]);
    }
    place.write("data/leadr-auth.db", &whole);
    place.start_again();
}

/// `doctor` reads all of it, and finds what a start does not come across.
#[test]
fn a_database_that_is_damaged_inside() {
    let place = Place::new();
    place.make_store();
    let arguments = ["account", "create", "--name", "acme", "--slug", "acme"];
    place.tool(0, &arguments);
    let mut bytes = fs::read(place.path("data/leadr-auth.db")).unwrap();
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..middle + 4096] {
        *byte = 0xa5;
    }
    place.write("data/leadr-auth.db", &bytes);
    let found = place.tool(1, &["doctor"]);
    assert!(found.out.contains("FAILURE"), "{}", found.out);
    assert_eq!(fs::read(place.path("data/leadr-auth.db")).unwrap(), bytes);
}

#[test]
fn a_schema_that_is_newer() {
    let place = Place::new();
    place.make_store();
    change(
        &place.path("data/leadr-auth.db"),
        "INSERT INTO __diesel_schema_migrations (version) VALUES ('29991231000001')",
    );
    refused(
        &place,
        &[],
        &["data/leadr-auth.db", "newer", "29991231000001"],
    );
    for tool in [&["migrate"][..], &["account", "list"], &["export"]] {
        place.tool(1, tool).says(&["newer"]);
    }
}

#[test]
fn a_data_directory_that_cannot_be() {
    let place = Place::new();
    place.write("data", "I was here first.\n");
    place.set_mode("data", 0o600);
    refused(&place, &[], &["data is not a directory"]);
    place
        .tool(1, &["account", "list"])
        .says(&["data is not a directory"]);
    // Below a file, and where nobody may make anything, root neither.
    for data_dir in [place.text("data/below"), "/proc/leadr-auth/data".to_owned()] {
        refused(
            &place,
            &[("DATA_DIR", &data_dir)],
            &["data directory", &data_dir],
        );
        place
            .run(&["account", "list"], &[("DATA_DIR", &data_dir)])
            .with(1)
            .says(&[&data_dir]);
    }
}

#[test]
fn an_address_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let place = Place::new();
    for setting in ["LISTEN", "METRICS_LISTEN"] {
        let environment = [ANYWHERE, (setting, address.as_str())];
        let ended = place.run(&["serve"], &environment).with(1);
        ended.says(&[&format!("cannot listen on {address}")]);
        assert!(place.files().is_empty(), "{setting}: {:?}", place.files());
    }
    place.make_store();
    let before = place.files();
    place.run(&["serve"], &[("LISTEN", &address)]).with(1);
    assert_eq!(
        place.files().keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
}

#[test]
fn a_certificate_that_cannot_be_used() {
    let place = Place::new();
    for name in ["one", "two"] {
        let made = rcgen::generate_simple_self_signed(vec![format!("{name}.test")]).unwrap();
        place.write(&format!("{name}.pem"), made.cert.pem());
        place.write(&format!("{name}.key"), made.signing_key.serialize_pem());
    }
    place.write("empty", "");
    for (certificate, key, word) in [
        (
            "one.pem",
            "two.key",
            "the certificate and its key cannot be used",
        ),
        ("one.pem", "nowhere", "nowhere"),
        ("nowhere", "one.key", "nowhere"),
        ("empty", "one.key", "empty"),
        ("one.pem", "empty", "empty"),
        ("one.key", "one.pem", "one.key"),
    ] {
        checked_first(
            &place,
            &[("TLS_CERT", certificate), ("TLS_KEY", key)],
            &[word],
        );
    }
    place
        .run(&["serve"], &[("TLS_CERT", "one.pem")])
        .with(2)
        .says(&["TLS_KEY"]);
}

#[test]
fn a_schema_that_nobody_may_bring_up_to_date() {
    let place = Place::new();
    let environment = [ANYWHERE, ("MIGRATE", "off")];
    place
        .run(&["serve"], &environment)
        .with(1)
        .says(&["leadr-auth migrate"]);
    place.tool(0, &["migrate"]);
    // There is nobody yet and no secret either, and the next start makes both.
    place.run(&["doctor"], &environment).with(0);
    let mut running = place.serve(&[], &environment);
    running.base();
    running.first_key();
}

/// A disk that is full fails writes, not reads, and takes nothing back that was answered. The limit of a file's length
/// fails writes as a full disk does, for a process that ignores the signal about it.
#[tokio::test]
async fn a_disk_that_is_full() {
    let place = Place::new();
    let key = place.make_store();
    let arguments = [
        "account", "create", "--name", "acme", "--slug", "acme", "--json",
    ];
    let acme = place.tool(0, &arguments).json();
    let limited = |blocks: u32| format!("trap '' XFSZ; ulimit -f {blocks}; exec $LEADR serve");

    let mut running = Running::spawn(place.shell(&limited(800), &[ANYWHERE]));
    let base = running.base();
    running.wait_for("ready");
    let url = format!("{base}/v1/api-keys");
    let mut answered = Vec::new();
    let mut failed = 0;
    for n in 0..3000 {
        let body =
            json!({"account_id": acme["id"], "name": format!("Key {n} {}", "x".repeat(200))});
        let (status, issued) = call("POST", &url, &key, Some(body)).await;
        match status {
            201 => answered.push(issued["key"].as_str().unwrap().to_owned()),
            503 => failed += 1,
            other => panic!("{other}: {issued}"),
        }
        if failed == 5 {
            break;
        }
    }
    assert_eq!(failed, 5, "the limit was never reached");
    assert!(!answered.is_empty());
    for key in [&key, answered.last().unwrap(), &answered[0]] {
        assert_eq!(status(&base, key).await, 200);
    }
    let (ended, log) = running.end("-TERM");
    assert_eq!(ended.code(), Some(0), "{log}");

    // With room again, everything that was answered is there.
    let (_running, base) = place.start_again();
    for key in &answered {
        assert_eq!(status(&base, key).await, 200);
    }
    assert!(place.tool(0, &["doctor"]).out.contains("sound"));
}

#[test]
fn a_disk_that_is_full_at_the_first_start() {
    let place = Place::new();
    let line = "trap '' XFSZ; ulimit -f 1; exec $LEADR serve";
    let refused = Running::spawn(place.shell(line, &[ANYWHERE])).ended();
    // Whether it is called full or failing is the operating system's choice.
    assert!(matches!(refused.code, Some(1 | 5)), "{refused:?}");
    assert!(!refused.err.contains("panicked"), "{}", refused.err);
    refused.says(&["data/leadr-auth.db"]);
    // What was begun is no hindrance later.
    place.make_store();
}
