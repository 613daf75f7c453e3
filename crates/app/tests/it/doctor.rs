//! `doctor`: what a server would stumble over. The failures are in `refusals`, each beside the start that fails.

use std::net::TcpListener;

use leadr_auth_postgres::testing::TestDatabase;
use serde_json::Value;

use crate::refusals::change;
use crate::support::{ANYWHERE, Ended, Place, has_postgres};

fn finding(found: &Ended, check: &str) -> Value {
    found
        .json()
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["check"] == check)
        .unwrap_or_else(|| panic!("no {check}: {}", found.out))
        .clone()
}

#[test]
fn before_the_first_start_it_says_what_will_be_made_and_makes_nothing() {
    let place = Place::new();
    let found = place.run(&["doctor", "--json"], &[ANYWHERE]).with(0);
    for check in [
        "configuration",
        "data directory",
        "database",
        "secret",
        "listen",
    ] {
        assert_eq!(finding(&found, check)["status"], "ok", "{check}");
    }
    for check in ["data directory", "database", "secret"] {
        let what = finding(&found, check)["what"].to_string();
        assert!(
            what.contains("is made when a server first starts"),
            "{what}"
        );
    }
    assert!(place.files().is_empty(), "{:?}", place.files());
}

#[test]
fn a_healthy_deployment_has_nothing_but_ok() {
    let place = Place::new();
    place.make_store();
    let before = place.files();
    let stopped = place.run(&["doctor", "--json"], &[ANYWHERE]).with(0);
    assert_eq!(place.files(), before);
    let (_running, base) = place.start_again();
    let address = base.trim_start_matches("http://");
    let running = place
        .run(&["doctor", "--json"], &[("LISTEN", address)])
        .with(0);
    for found in [&stopped, &running] {
        for finding in found.json().as_array().unwrap() {
            assert_eq!(finding["status"], "ok", "{finding}");
        }
        for check in [
            "schema",
            "database",
            "secret",
            "operator",
            "integrity",
            "clock",
        ] {
            finding(found, check);
        }
    }
    let listen = finding(&running, "listen");
    assert!(
        listen["what"].as_str().unwrap().contains("a server runs"),
        "{listen}"
    );
}

/// A look at a deployment does not keep a server from starting on it.
#[test]
fn it_is_in_nobodys_way() {
    let place = Place::new();
    place.make_store();
    let line = "while [ ! -e stop ]; do $LEADR doctor >>log 2>&1; done";
    let mut doctors = place.shell(line, &[ANYWHERE]).spawn().unwrap();
    for _ in 0..10 {
        let (running, _) = place.start_again();
        running.end("-TERM");
    }
    place.write("stop", "");
    doctors.wait().unwrap();
    assert!(place.read("log").contains("sound"));
}

#[test]
fn what_somebody_should_look_at_is_a_warning() {
    let place = Place::new();
    place.make_store();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let found = place
        .run(&["doctor", "--json"], &[("LISTEN", &address)])
        .with(0);
    assert_eq!(finding(&found, "listen")["status"], "warning");
    assert_eq!(place.tool(0, &["doctor"]).err, "");

    place.set_mode("data/leadr-auth.db", 0o644);
    let found = place.run(&["doctor", "--json"], &[ANYWHERE]).with(0);
    assert_eq!(finding(&found, "database file")["status"], "warning");
    place.set_mode("data/leadr-auth.db", 0o600);

    change(
        &place.path("data/leadr-auth.db"),
        "UPDATE api_keys SET updated_at = updated_at + 3600 * 1000000;
         UPDATE api_keys SET status = 'revoked'",
    );
    let found = place.run(&["doctor", "--json"], &[ANYWHERE]).with(0);
    assert_eq!(finding(&found, "clock")["status"], "warning");
    let operator = finding(&found, "operator");
    assert_eq!(operator["status"], "warning");
    assert!(
        operator["what"]
            .as_str()
            .unwrap()
            .contains("operator new-key")
    );
}

#[test]
fn a_typed_secret_is_a_warning() {
    let place = Place::new();
    let environment = [ANYWHERE, ("API_KEY_SECRET", &"abc".repeat(20))];
    let mut running = place.serve(&[], &environment);
    running.base();
    running.first_key();
    let found = place.run(&["doctor", "--json"], &environment).with(0);
    assert_eq!(finding(&found, "secret")["status"], "warning");
    assert!(!found.out.contains("abcabc"));
}

#[test]
fn faults_of_the_configuration_are_findings_without_values() {
    let place = Place::new();
    let environment = [("LISTEN", "hunter2"), ("WORKERS", "hunter3")];
    let found = place.run(&["doctor", "--json"], &environment).with(1);
    assert_eq!(found.json().as_array().unwrap().len(), 2);
    for name in ["LISTEN", "WORKERS"] {
        assert!(found.out.contains(name), "{}", found.out);
    }
    assert!(!found.out.contains("hunter"), "{}", found.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_on_a_server() {
    if !has_postgres("a_database_on_a_server") {
        return;
    }
    let database = TestDatabase::create_empty().await;
    let place = Place::new();
    let environment = [
        ANYWHERE,
        ("DATABASE_URL", database.url()),
        ("API_KEY_SECRET", "a secret for tests, of 32 bytes and more"),
    ];
    let empty = place.run(&["doctor", "--json"], &environment).with(0);
    assert_eq!(finding(&empty, "schema")["status"], "warning");
    let off = [&environment[..], &[("MIGRATE", "off")]].concat();
    let off = place.run(&["doctor", "--json"], &off).with(1);
    assert_eq!(finding(&off, "schema")["status"], "failure");
    let mut running = place.serve(&[], &environment);
    running.base();
    running.first_key();
    let found = place.run(&["doctor", "--json"], &environment).with(0);
    for check in ["schema", "database", "secret", "operator", "clock"] {
        assert_eq!(finding(&found, check)["status"], "ok", "{check}");
    }
    let away = [
        ("DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/db"),
        ("API_KEY_SECRET", "a secret for tests, of 32 bytes and more"),
    ];
    let away = place.run(&["doctor"], &away).with(1);
    assert!(
        away.out.contains("FAILURE") && !away.out.contains("hunter2"),
        "{}",
        away.out
    );
    assert!(place.files().is_empty());
}
