//! `doctor`: what a server would stumble over. The failures are in `refusals`, each beside the start that fails.

use std::net::TcpListener;
use std::os::unix::fs::{self as unix, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use leadr_auth_postgres::testing::TestDatabase;
use serde_json::Value;

use crate::refusals::change;
use crate::support::{ANYWHERE, Ended, Place, Running, has_postgres};

const SECRET: &str = "a secret for tests, of 32 bytes and more";

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

/// Somebody whom modes bind, as they do not bind root: whoever runs the tests, or else nobody.
struct Somebody {
    /// A copy of the binary for nobody, who need not be allowed to reach the one that was built.
    copy: Option<Place>,
}

impl Somebody {
    const NOBODY: u32 = 65534;

    fn new() -> Self {
        let copy = Place::new();
        if std::fs::metadata(copy.path(".")).unwrap().uid() != 0 {
            return Self { copy: None };
        }
        // By another program: this one starts others meanwhile, and while they have it open for writing nobody can run it.
        let line = "cp \"$LEADR\" leadr-auth && chmod 755 leadr-auth .";
        Running::spawn(copy.shell(line, &[])).ended().with(0);
        Self { copy: Some(copy) }
    }

    /// Makes it theirs.
    fn own(&self, place: &Place, names: &[&str]) {
        for name in names {
            if self.copy.is_some() {
                let them = Some(Self::NOBODY);
                unix::chown(place.path(name), them, them).unwrap();
            }
        }
    }

    /// Has them run the binary to its end.
    fn run(&self, place: &Place, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let mut command = place.command(arguments, environment);
        if let Some(copy) = &self.copy {
            let mut theirs = Command::new(copy.path("leadr-auth"));
            theirs
                .env_clear()
                .current_dir(place.path("."))
                .args(arguments)
                .envs(environment.iter().copied())
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .uid(Self::NOBODY)
                .gid(Self::NOBODY);
            command = theirs;
        }
        Running::spawn(command).ended()
    }

    /// Sees that `serve` fails for them, and that `doctor` says before and after that this check fails, with these words.
    fn refused(&self, place: &Place, environment: &[(&str, &str)], check: &str, words: &[&str]) {
        let doctor = || {
            let found = self.run(place, &["doctor", "--json"], environment).with(1);
            let finding = finding(&found, check);
            assert_eq!(finding["status"], "failure", "{}", found.out);
            for word in words {
                let what = finding["what"].as_str().unwrap();
                assert!(what.contains(word), "{word}: {what}");
            }
            for file in [".db", "secret"] {
                let is_made = format!("{file} is made when a server first starts");
                assert!(!found.out.contains(&is_made), "{}", found.out);
            }
        };
        doctor();
        let served = self.run(place, &["serve"], environment).with(1);
        assert!(!served.err.contains("panicked"), "{}", served.err);
        doctor();
    }
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
    // Where its address is taken, it asks for the server's lock.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let line = "while [ ! -e stop ]; do $LEADR doctor >>log 2>&1; done";
    let mut doctors = place.shell(line, &[("LISTEN", &address)]).spawn().unwrap();
    for _ in 0..10 {
        let (running, _) = place.start_again();
        running.end("-TERM");
    }
    place.write("stop", "");
    doctors.wait().unwrap();
    let log = place.read("log");
    for words in ["sound", "is in use"] {
        assert!(log.contains(words), "{log}");
    }
}

/// With a file, of which one server at most has the lock, it can be told that no server of ours has the address.
#[test]
fn an_address_that_something_else_has() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let place = Place::new();
    for (setting, check) in [("LISTEN", "listen"), ("METRICS_LISTEN", "metrics")] {
        let environment = [ANYWHERE, (setting, address.as_str())];
        let examine = || {
            let before = place.files();
            let found = place.run(&["doctor", "--json"], &environment).with(1);
            let finding = finding(&found, check);
            assert_eq!(finding["status"], "failure");
            let what = finding["what"].as_str().unwrap();
            assert!(what.contains(&format!("{address} is in use")), "{what}");
            assert_eq!(place.files(), before);
            place.run(&["serve"], &environment).with(1);
        };
        if check == "listen" {
            examine();
            assert!(place.files().is_empty());
            place.make_store();
        }
        examine();
        // Where stores are shared, or nobody else's business, it may well be one that runs already.
        let memory = [&environment[..], &[("DATABASE_URL", "memory:")]].concat();
        let found = place.run(&["doctor", "--json"], &memory).with(0);
        assert_eq!(finding(&found, check)["status"], "warning");
    }
}

#[test]
fn a_lock_that_may_not_be_taken() {
    let somebody = Somebody::new();
    let place = Place::new();
    place.make_store();
    somebody.own(&place, &[".", "data", "data/leadr-auth.db", "data/secret"]);
    // As of a server that once ran as root.
    place.set_mode("data/leadr-auth.db.lock", 0o400);
    let denied = ["leadr-auth.db.lock cannot be locked", "ermission denied"];
    somebody.refused(&place, &[ANYWHERE], "lock", &denied);
    std::fs::remove_file(place.path("data/leadr-auth.db.lock")).unwrap();
    somebody.run(&place, &["doctor"], &[ANYWHERE]).with(0);
}

#[test]
fn a_data_directory_that_may_not_be_looked_into() {
    let somebody = Somebody::new();
    let place = Place::new();
    place.make_store();
    place.set_mode(".", 0o755);
    place.set_mode("data", 0o000);
    let denied = ["data", "ermission denied"];
    somebody.refused(&place, &[ANYWHERE], "data directory", &denied);
    // Where only the secret is in it, or nothing but the database, or either at a place that is not said to be the usual one.
    somebody.own(&place, &["."]);
    let elsewhere = [ANYWHERE, ("DATABASE_URL", "sqlite:keys.db")];
    somebody.refused(&place, &elsewhere, "data directory", &denied);
    let both = [
        ANYWHERE,
        ("DATABASE_URL", "sqlite:data/leadr-auth.db"),
        ("API_KEY_SECRET", SECRET),
    ];
    somebody.refused(&place, &both, "database", &denied);
    place.set_mode("data", 0o700);
}

#[test]
fn a_data_directory_in_which_nothing_may_be_made() {
    let somebody = Somebody::new();
    let place = Place::new();
    std::fs::create_dir(place.path("data")).unwrap();
    somebody.own(&place, &[".", "data"]);
    place.set_mode("data", 0o500);
    let denied = ["data", "ermission denied"];
    somebody.refused(&place, &[ANYWHERE], "database", &denied);
    let elsewhere = [ANYWHERE, ("DATABASE_URL", "sqlite:keys.db")];
    somebody.run(&place, &["migrate"], &elsewhere).with(0);
    somebody.refused(&place, &elsewhere, "secret", &denied);
    let other = [
        ANYWHERE,
        ("DATABASE_URL", "sqlite:data/keys.db"),
        ("API_KEY_SECRET", SECRET),
    ];
    somebody.refused(&place, &other, "database", &denied);
    let left: Vec<_> = std::fs::read_dir(place.path("data")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // Where something can be made, nothing is left over by finding that out.
    place.set_mode("data", 0o700);
    somebody.run(&place, &["doctor"], &[ANYWHERE]).with(0);
    let left: Vec<_> = std::fs::read_dir(place.path("data")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Only where something is kept in it.
#[test]
fn the_data_directory_is_made_and_no_other_folder() {
    let url = ("DATABASE_URL", "sqlite:data/keys.db");
    let place = Place::new();
    let said = [ANYWHERE, url, ("API_KEY_SECRET", SECRET)];
    let other = [ANYWHERE, ("DATABASE_URL", "sqlite:folder/keys.db")];
    for environment in [&said[..], &other] {
        let found = place.run(&["doctor", "--json"], environment).with(1);
        let finding = finding(&found, "database");
        assert!(finding["what"].to_string().contains("make it"), "{finding}");
        place.run(&["serve"], environment).with(1);
    }
    let place = Place::new();
    let kept = [ANYWHERE, url];
    let found = place.run(&["doctor", "--json"], &kept).with(0);
    assert_eq!(finding(&found, "database")["status"], "ok");
    assert!(place.files().is_empty());
    let mut running = place.serve(&[], &kept);
    running.base();
    running.first_key();
}

/// An empty file is as good as none, and is made a database.
#[test]
fn an_empty_file_in_the_place_of_the_database() {
    let somebody = Somebody::new();
    let place = Place::new();
    place.write("keys.db", "");
    somebody.own(&place, &[".", "keys.db"]);
    let environment = [
        ANYWHERE,
        ("DATABASE_URL", "sqlite:keys.db"),
        ("API_KEY_SECRET", SECRET),
    ];
    place.set_mode("keys.db", 0o400);
    let denied = ["keys.db", "ermission denied"];
    somebody.refused(&place, &environment, "database", &denied);
    place.set_mode("keys.db", 0o600);
    let found = somebody.run(&place, &["doctor", "--json"], &environment);
    assert_eq!(finding(&found.with(0), "database")["status"], "ok");
    assert_eq!(place.read("keys.db"), "");
}

/// What has the name is neither made nor used.
#[test]
fn links_that_lead_nowhere() {
    for (name, check) in [("secret", "secret"), ("leadr-auth.db", "database")] {
        let place = Place::new();
        std::fs::create_dir(place.path("data")).unwrap();
        place.set_mode("data", 0o700);
        unix::symlink("nowhere", place.path(&format!("data/{name}"))).unwrap();
        for _ in 0..2 {
            let found = place.run(&["doctor", "--json"], &[ANYWHERE]).with(1);
            let finding = finding(&found, check);
            assert_eq!(finding["status"], "failure", "{}", found.out);
            let what = finding["what"].as_str().unwrap();
            assert!(what.contains(&format!("data/{name}")), "{what}");
            place.run(&["serve"], &[ANYWHERE]).with(1);
        }
    }
}

#[test]
fn a_database_that_would_be_left_without_a_schema() {
    let place = Place::new();
    let environment = [ANYWHERE, ("MIGRATE", "off")];
    let found = place.run(&["doctor", "--json"], &environment).with(1);
    let schema = finding(&found, "schema");
    assert_eq!(schema["status"], "failure");
    assert!(schema["what"].to_string().contains("leadr-auth migrate"));
    assert!(place.files().is_empty());
    place.run(&["serve"], &environment).with(1);
}

#[test]
fn what_somebody_should_look_at_is_a_warning() {
    let place = Place::new();
    place.make_store();
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
fn a_configured_key_that_the_store_knows() {
    let place = Place::new();
    let key = place.make_store();
    let examine = |key: &str, code| {
        let before = place.files();
        let environment = [ANYWHERE, ("SUPERADMIN_API_KEY", key)];
        let found = place.run(&["doctor", "--json"], &environment).with(code);
        assert_eq!(place.files(), before);
        assert!(!found.out.contains(key), "{}", found.out);
        let finding = finding(&found, "configured key");
        let what = finding["what"].as_str().unwrap().to_owned();
        (finding["status"].as_str().unwrap().to_owned(), what, found)
    };
    let (status, what, _) = examine(&key, 0);
    assert_eq!(status, "ok", "{what}");

    // The prefix is the same, and what comes after it is not.
    let (start, end) = key.split_at(20);
    let other = if end.starts_with('A') { "B" } else { "A" };
    let other = format!("{start}{other}{}", &end[1..]);
    let (status, what, _) = examine(&other, 1);
    assert_eq!(status, "failure");
    let environment = [ANYWHERE, ("SUPERADMIN_API_KEY", other.as_str())];
    let served = place.run(&["serve"], &environment).with(1);
    served.says(&["SUPERADMIN_API_KEY is stored with another hash", &what]);

    place.tell(0, &["key", "revoke", "-"], &key);
    let (status, what, _) = examine(&key, 0);
    assert_eq!(status, "warning");
    assert!(what.contains("SUPERADMIN_API_KEY is refused (Revoked)"));

    // One that nobody knows yet becomes an operator's.
    let unknown = place.tool(0, &["generate-key"]).out;
    let (status, what, found) = examine(unknown.trim(), 0);
    assert_eq!(status, "ok");
    assert!(
        what.contains("is stored when a server next starts"),
        "{what}"
    );
    assert_eq!(finding(&found, "operator")["status"], "ok", "{}", found.out);

    let mut running = place.serve(&[], &[ANYWHERE, ("SUPERADMIN_API_KEY", &key)]);
    running.wait_for("ready, but SUPERADMIN_API_KEY is refused (Revoked)");
}

#[test]
fn keys_that_work_are_counted() {
    let place = Place::new();
    place.make_store();
    let operator = |words: &str, status: &str| {
        let found = place.run(&["doctor", "--json"], &[ANYWHERE]).with(0);
        let finding = finding(&found, "operator");
        assert_eq!(finding["status"], status);
        assert_eq!(finding["what"], words);
    };
    let create = [
        "key",
        "create",
        "--account",
        "operator",
        "--name",
        "Short",
        "--expires-at",
        "2099-01-01T00:00:00Z",
    ];
    place.tool(0, &create);
    operator("has 2 working keys", "ok");
    let database = place.path("data/leadr-auth.db");
    change(
        &database,
        "UPDATE api_keys SET expires_at = created_at WHERE expires_at IS NOT NULL",
    );
    operator("has 1 working key", "ok");
    change(&database, "UPDATE api_keys SET expires_at = created_at");
    operator(
        "no operator's key works: `leadr-auth operator new-key` makes one",
        "warning",
    );
    // Somebody else may be an operator too.
    let create = ["account", "create", "--name", "Other", "--slug", "other"];
    place.tool(0, &create);
    let create = ["key", "create", "--account", "other", "--name", "Main"];
    place.tool(0, &create);
    change(
        &database,
        "UPDATE accounts SET is_operator = 1 WHERE slug = 'other'",
    );
    operator("has 1 working key", "ok");
}

#[test]
fn whose_secret_it_is_may_not_be_known() {
    let place = Place::new();
    let secret = |environment: &[(&str, &str)], status: &str| {
        let environment = [&[ANYWHERE][..], environment].concat();
        let found = place.run(&["doctor", "--json"], &environment).with(0);
        let finding = finding(&found, "secret");
        assert_eq!(finding["status"], status, "{}", found.out);
        finding["what"].as_str().unwrap().to_owned()
    };
    let said = ("API_KEY_SECRET", SECRET);
    assert_eq!(secret(&[said], "ok"), "long enough");
    place.run(&["migrate"], &[said]).with(0);
    assert_eq!(secret(&[said], "ok"), "long enough");

    let mut running = place.serve(&[], &[ANYWHERE, said]);
    running.base();
    let key = running.first_key();
    running.end("-TERM");
    assert_eq!(
        secret(&[said], "ok"),
        "long enough, and the one of the stored keys"
    );
    // As in a database of the reference implementation.
    change(&place.path("data/leadr-auth.db"), "DELETE FROM peppers");
    let other = ("API_KEY_SECRET", "another secret, of 32 bytes and more");
    for said in [said, other] {
        let what = secret(&[said], "warning");
        assert!(
            what.contains("nothing says yet whether it is the one of the stored keys"),
            "{what}"
        );
    }
    // A key of which it is known tells.
    assert_eq!(
        secret(&[said, ("SUPERADMIN_API_KEY", &key)], "ok"),
        "long enough, and the one of the stored keys"
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
    // Also where it was put into the place of the one that would be made.
    let place = Place::new();
    std::fs::create_dir(place.path("data")).unwrap();
    place.set_mode("data", 0o700);
    place.write("data/secret", "abc".repeat(20));
    place.set_mode("data/secret", 0o600);
    let found = place.run(&["doctor", "--json"], &[ANYWHERE]).with(0);
    assert_eq!(finding(&found, "secret")["status"], "warning");
}

/// A group is how a container or a service manager lets the service at its files, so that it may read them is nothing odd.
#[test]
fn secrets_that_others_can_use_are_warnings() {
    let place = Place::new();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    place.write("cert.pem", made.cert.pem());
    place.write("key.pem", made.signing_key.serialize_pem());
    place.write("a secret", SECRET);
    let environment = [ANYWHERE, ("TLS_CERT", "cert.pem"), ("TLS_KEY", "key.pem")];
    let arguments = ["doctor", "--json", "--secret-file", "a secret"];
    for (check, file) in [("secret file", "a secret"), ("private key", "key.pem")] {
        for name in ["a secret", "key.pem"] {
            place.set_mode(name, 0o600);
        }
        for mode in [0o400, 0o600, 0o640, 0o440] {
            place.set_mode(file, mode);
            let found = place.run(&arguments, &environment).with(0);
            assert!(!found.out.contains("warning"), "{mode:o}: {}", found.out);
        }
        for mode in [0o644, 0o604, 0o602, 0o660, 0o620] {
            place.set_mode(file, mode);
            let found = place.run(&arguments, &environment).with(0);
            let finding = finding(&found, check);
            assert_eq!(finding["status"], "warning");
            for word in [file, &format!("{mode:o}"), "chmod g-w,o="] {
                assert!(finding["what"].to_string().contains(word), "{finding}");
            }
        }
    }
    // The variable says the same as the flag.
    place.set_mode("a secret", 0o644);
    let environment = [ANYWHERE, ("API_KEY_SECRET_FILE", " a secret ")];
    let found = place.run(&["doctor", "--json"], &environment).with(0);
    assert_eq!(finding(&found, "secret file")["status"], "warning");
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
    let mut database = TestDatabase::create_empty().await;
    let reader = database.create_role().await;
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
    for check in [
        "schema", "database", "secret", "operator", "clock", "changes", "rights",
    ] {
        assert_eq!(finding(&found, check)["status"], "ok", "{check}");
    }
    let client = database.client().await;
    // Who may only look.
    let grant = format!(
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}",
        reader.name
    );
    client.batch_execute(&grant).await.unwrap();
    let looks = [&environment[..], &[("DATABASE_URL", &*reader.url)]].concat();
    let looks = place.run(&["doctor", "--json"], &looks).with(1);
    let rights = finding(&looks, "rights");
    assert_eq!(rights["status"], "failure");
    let what = rights["what"].to_string();
    for missing in ["UPDATE on api_keys", "INSERT on audit_entries"] {
        assert!(what.contains(missing), "{what}");
    }
    assert!(!what.contains("SELECT"), "{what}");
    let heard = finding(&looks, "changes")["what"].to_string();
    let lacks = "the role lacks INSERT, UPDATE, DELETE on server_nodes";
    assert!(heard.contains(lacks), "{heard}");
    let read_only = |value| {
        format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {value}', current_database()); END $$"
        )
    };
    client.batch_execute(&read_only("on")).await.unwrap();
    let looks = place.run(&["doctor", "--json"], &environment).with(1);
    assert_eq!(finding(&looks, "rights")["status"], "failure");
    let writes = format!(
        "SET default_transaction_read_only = off; {}",
        read_only("off")
    );
    client.batch_execute(&writes).await.unwrap();
    let off = "ALTER TABLE accounts DISABLE TRIGGER leadr_auth_account_changed";
    client.batch_execute(off).await.unwrap();
    let deaf = place.run(&["doctor", "--json"], &environment).with(0);
    assert_eq!(finding(&deaf, "changes")["status"], "warning");
    let what = finding(&deaf, "changes")["what"].to_string();
    assert!(what.contains("6 of 7 triggers"), "{what}");
    let elsewhere = TestDatabase::create_empty().await;
    let apart = [
        &environment[..],
        &[("DATABASE_LISTEN_URL", elsewhere.url())],
    ]
    .concat();
    let on = "ALTER TABLE accounts ENABLE ALWAYS TRIGGER leadr_auth_account_changed";
    client.batch_execute(on).await.unwrap();
    let deaf = place.run(&["doctor", "--json"], &apart).with(0);
    assert_eq!(finding(&deaf, "changes")["status"], "warning");
    // And the servers are listed, which says the same.
    let nodes = place.run(&["nodes", "--json"], &environment).with(0);
    assert!(nodes.out.contains("\"lease_left_ms\""), "{}", nodes.out);
    // Also where somebody has altered what one of them says.
    let altered =
        "INSERT INTO server_nodes (id, name, version, tick, started_at, seen_at, patience)
        VALUES ('01010101-0101-4101-8101-010101010101', 'a', '1', 1, now(), now(), -1)";
    client.batch_execute(altered).await.unwrap();
    let nodes = place.run(&["nodes", "--json"], &environment).with(0);
    assert_eq!(nodes.out.matches("\"lease_left_ms\"").count(), 1);
    let said = ["01010101-0101-4101-8101-010101010101", "patience"];
    assert!(
        said.iter().all(|it| nodes.err.contains(it)),
        "{}",
        nodes.err
    );
    let away = [
        ("DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/db"),
        ("API_KEY_SECRET", "a secret for tests, of 32 bytes and more"),
    ];
    let away = place.run(&["doctor"], &away).with(1);
    assert!(
        away.out.contains("the database is not available: ")
            && away.out.contains("FAILURE")
            && !away.out.contains("hunter2"),
        "{}",
        away.out
    );
    assert!(place.files().is_empty());
}
