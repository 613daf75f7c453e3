//! The first start and those after it: what is made, what is said, and what a kill leaves behind.

use std::time::Duration;

use leadr_auth_postgres::testing::TestDatabase;

use crate::support::{ANYWHERE, Place, Running, call, complaints, has_postgres, status};

#[tokio::test]
async fn with_no_configuration_everything_is_made_and_is_private() {
    let place = Place::new();
    let (mut running, base, key) = place.first_start();
    let curl = running.wait_for("curl ");
    let docs = running.wait_for("/docs");
    assert!(docs.contains(&format!("{base}/docs")), "{docs}");

    assert_eq!(place.mode("data"), 0o700);
    for (path, (mode, _)) in place.files() {
        let path = path.display();
        assert_eq!(mode & 0o077, 0, "{path} is open to others ({mode:o})");
    }
    assert_eq!(place.mode("data/leadr-auth.db"), 0o600);
    assert_eq!(place.mode("data/secret"), 0o600);
    let secret = place.read("data/secret");
    assert_eq!(secret.trim_end().len(), 64);
    assert!(secret.trim_end().bytes().all(|b| b.is_ascii_hexdigit()));
    let said = running.said.join("\n");
    assert!(said.contains("data/secret"), "{said}");
    assert!(!said.contains(secret.trim_end()));
    assert_eq!(
        said.matches(&key).count(),
        2,
        "alone and in the line: {said}"
    );

    // The line as it stands, in a shell.
    let line = format!(
        "{} --max-time 20 --write-out ' %{{http_code}}'",
        curl.trim()
    );
    let answer = place.sh(&line);
    if answer.code == Some(127) {
        eprintln!("there is no curl here; the line is only taken apart");
        assert!(curl.contains(&format!("-s {base}/v1/accounts -H 'leadr-api-key: {key}'")));
    } else {
        assert!(answer.with(0).out.trim_end().ends_with(" 200"));
    }
    assert_eq!(
        call("GET", &format!("{base}/docs"), &key, None).await.0,
        200
    );
    let (_, accounts) = call("GET", &format!("{base}/v1/accounts"), &key, None).await;
    assert_eq!(accounts[0]["slug"], "operator");
    let (ended, _) = running.end("-TERM");
    assert_eq!(ended.code(), Some(0));

    let (running, base) = place.start_again();
    assert_eq!(status(&base, &key).await, 200);
    running.signal("-TERM");
    let (ended, said, log) = running.wait_and_hear();
    assert_eq!(ended.code(), Some(0));
    for word in ["ldr_", "curl", "/docs", "secret"] {
        let said = said.join("\n");
        assert!(!said.contains(word), "{word}: {said}");
        assert!(!log.contains(word), "{word}: {log}");
    }
    assert_eq!(place.read("data/secret"), secret);
}

/// Whoever hands in a key has a secret made for them all the same, and has to know where it is.
#[tokio::test]
async fn a_new_secret_is_told_also_where_the_key_was_configured() {
    let place = Place::new();
    let key = leadr_auth_domain::generate_api_key([5; 32]);
    let environment = [ANYWHERE, ("SUPERADMIN_API_KEY", key.expose())];
    let mut running = place.serve(&[], &environment);
    let base = running.base();
    running.wait_for("ready");
    assert_eq!(status(&base, key.expose()).await, 200);
    let said = running.said.join("\n");
    assert!(said.contains("A secret was made in"), "{said}");
    assert!(said.contains("data/secret"), "{said}");
    assert!(!said.contains(key.expose()), "{said}");
    assert!(!said.contains("first operator key"), "{said}");
}

#[tokio::test]
async fn of_two_that_start_at_once_one_serves_and_one_key_exists() {
    for _ in 0..5 {
        let place = Place::new();
        let mut both = [place.serve(&[], &[ANYWHERE]), place.serve(&[], &[ANYWHERE])];
        let loser = loop {
            if let Some(loser) = both.iter_mut().position(Running::has_ended) {
                break loser;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let [first, second] = both;
        let (mut winner, loser) = if loser == 0 {
            (second, first)
        } else {
            (first, second)
        };
        let (ended, said, log) = loser.wait_and_hear();
        assert_eq!(ended.code(), Some(1), "{log}");
        assert!(
            log.contains("another leadr-auth server is running on"),
            "{log}"
        );
        assert!(log.contains("leadr-auth.db"), "{log}");
        assert!(!said.join("\n").contains("ldr_"));
        let base = winner.base();
        let key = winner.first_key();
        let (status, accounts) = call("GET", &format!("{base}/v1/accounts"), &key, None).await;
        assert_eq!(status, 200);
        assert_eq!(accounts.as_array().unwrap().len(), 1);
        let keys = place.tool(0, &["key", "list", "--account", "operator", "--json"]);
        assert_eq!(keys.json().as_array().unwrap().len(), 1);
    }
}

/// What was said was true when it was said.
#[tokio::test]
async fn a_key_that_was_printed_works_after_a_kill() {
    for _ in 0..5 {
        let place = Place::new();
        let (running, _, key) = place.first_start();
        running.end("-KILL");
        let (running, base) = place.start_again();
        assert_eq!(status(&base, &key).await, 200);
        assert!(!running.said.join("\n").contains("ldr_"));
    }
}

/// Whenever it is killed once the database has its log ahead, the next start gets on, and somebody can manage it.
#[tokio::test]
async fn a_first_start_may_be_killed_while_it_makes_things() {
    for millis in [0, 1, 2, 3, 4, 6, 8, 10, 13, 16, 20, 25, 30, 40, 60, 100] {
        let place = Place::new();
        let running = place.serve(&[], &[ANYWHERE]);
        while !place.path("data/leadr-auth.db-wal").exists() {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        tokio::time::sleep(Duration::from_millis(millis)).await;
        running.end("-KILL");
        let mut running = place.serve(&[], &[ANYWHERE]);
        let base = running.base();
        let line = running.wait_for_any(&["    ldr_", "ready"]);
        let key = if line.contains("ldr_") {
            line.trim().to_owned()
        } else {
            let new = place.tool(0, &["operator", "new-key", "--json"]);
            new.json()["key"].as_str().unwrap().to_owned()
        };
        assert_eq!(status(&base, &key).await, 200, "killed after {millis} ms");
    }
}

/// In a container every process has the same number, so that what a killed one left under that number is in the way.
#[tokio::test]
async fn an_unfinished_secret_of_an_earlier_process_is_not_in_the_way() {
    let place = Place::new();
    let line = "mkdir -m 700 data && : > data/secret.unfinished-$$ && exec $LEADR serve";
    let mut running = Running::spawn(place.shell(line, &[ANYWHERE]));
    let base = running.base();
    let key = running.first_key();
    assert_eq!(status(&base, &key).await, 200);
}

/// Keys were made under a secret that was not registered before the process was killed: another one would refuse them.
#[tokio::test]
async fn no_second_secret_is_made_where_there_are_accounts() {
    let place = Place::new();
    place.make_store();
    crate::refusals::change(&place.path("data/leadr-auth.db"), "DELETE FROM peppers");
    std::fs::remove_file(place.path("data/secret")).unwrap();
    let refused = place.run(&["serve"], &[ANYWHERE]).with(1);
    refused.says(&["secret", "data/secret is not there"]);
    assert!(!place.path("data/secret").exists());
}

/// The key is stored and nobody has seen it: the log says what to do.
#[test]
fn a_first_key_that_could_not_be_shown_is_told_of() {
    let place = Place::new();
    let server = Running::spawn(place.shell(
        "exec $LEADR serve --listen 127.0.0.1:0 >/dev/full 2>log",
        &[],
    ));
    let mut log = String::new();
    for _ in 0..1000 {
        log = std::fs::read_to_string(place.path("log")).unwrap_or_default();
        if log.contains("\"ready\"") {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    server.signal("-TERM");
    server.ended().with(0);
    assert!(log.contains("operator new-key"), "{log}");
    assert!(!log.contains("ldr_"), "{log}");
}

/// Nobody reads standard output, as under a supervisor that closed it: it serves all the same.
#[tokio::test]
async fn a_closed_standard_output_is_no_reason_to_end() {
    let place = Place::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let line = format!("exec $LEADR serve --listen {address} >&-");
    let server = Running::spawn(place.shell(&line, &[]));
    let base = format!("http://{address}");
    let mut answer = None;
    for _ in 0..1000 {
        match reqwest::get(format!("{base}/readyz")).await {
            Ok(ready) if ready.status() == 200 => {
                answer = Some(ready);
                break;
            }
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    server.signal("-TERM");
    let output = server.ended();
    assert!(answer.is_some(), "{output:?}");
    output.with(0);
}

/// What looks for tables waits until they are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_on_an_empty_database_complains_of_nothing() {
    if !has_postgres("a_first_start_on_an_empty_database_complains_of_nothing") {
        return;
    }
    let database = TestDatabase::create_empty().await;
    let environment = [
        ANYWHERE,
        ("DATABASE_URL", database.url()),
        ("API_KEY_SECRET", "a secret for tests, of 32 bytes and more"),
    ];
    let mut running = Place::new().serve(&[], &environment);
    running.base();
    running.first_key();
    let (_, log) = running.end("-TERM");
    let complaints = complaints(&log);
    assert!(complaints.is_empty(), "{complaints:?}");
}
