//! The tools beside a server and without one: what they change holds from the very next request on.

use std::process::Stdio;

use leadr_auth_domain::generate_api_key;
use leadr_auth_sqlite::ServerLock;
use serde_json::{Value, json};

use crate::refusals::change;
use crate::support::{Place, Running, call, status};

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// An account with a slug, made by the tool.
fn account(place: &Place, slug: &str) -> Value {
    let arguments = [
        "account", "create", "--name", slug, "--slug", slug, "--json",
    ];
    place.tool(0, &arguments).json()
}

/// A key of an account, made by the tool.
fn key(place: &Place, account: &str, name: &str) -> Value {
    let arguments = [
        "key",
        "create",
        "--account",
        account,
        "--name",
        name,
        "--json",
    ];
    place.tool(0, &arguments).json()
}

#[tokio::test]
async fn a_lost_operator_key_is_replaced_on_a_stopped_server() {
    let place = Place::new();
    let lost = place.make_store();
    let new = place.tool(0, &["operator", "new-key", "--json"]).json();
    assert_eq!(new["others"].as_array().unwrap().len(), 1);
    let human = place.tool(0, &["operator", "new-key"]);
    assert!(human.out.contains("shown this once"), "{}", human.out);
    assert!(human.out.contains("still work"), "{}", human.out);
    let second = human
        .out
        .lines()
        .find_map(|line| line.strip_prefix("    ldr_"))
        .map(|rest| format!("ldr_{rest}"))
        .unwrap();
    {
        let (_running, base) = place.start_again();
        for works in [&lost, text(&new["key"]), &second] {
            assert_eq!(status(&base, works).await, 200);
        }
    }
    let third = place.tool(0, &["operator", "new-key", "--revoke-others", "--json"]);
    let third = third.json();
    assert_eq!(third["revoked"].as_array().unwrap().len(), 3);
    let (_running, base) = place.start_again();
    for stopped in [&lost, text(&new["key"]), &second] {
        assert_eq!(status(&base, stopped).await, 401);
    }
    assert_eq!(status(&base, text(&third["key"])).await, 200);
}

#[tokio::test]
async fn a_lost_operator_key_is_replaced_on_a_running_server() {
    let place = Place::new();
    let (_running, base, lost) = place.first_start();
    let new = place.tool(0, &["operator", "new-key", "--json"]).json();
    for works in [&lost, text(&new["key"])] {
        assert_eq!(status(&base, works).await, 200);
    }
    let third = place.tool(0, &["operator", "new-key", "--revoke-others", "--json"]);
    let third = third.json();
    for stopped in [&lost, text(&new["key"])] {
        assert_eq!(status(&base, stopped).await, 401);
    }
    let (status, accounts) = call(
        "GET",
        &format!("{base}/v1/accounts"),
        text(&third["key"]),
        None,
    )
    .await;
    assert_eq!((status, accounts.as_array().unwrap().len()), (200, 1));
}

#[tokio::test]
async fn what_a_tool_does_holds_from_the_next_request_on() {
    let place = Place::new();
    let (_running, base, _operator) = place.first_start();
    let acme = account(&place, "acme");
    let made = key(&place, "acme", "CI");
    assert_eq!(made["account_id"], acme["id"]);
    let plain = text(&made["key"]);
    let (id, prefix) = (text(&made["id"]), text(&made["prefix"]));
    assert_eq!(prefix, &plain[..14]);
    assert_eq!(status(&base, plain).await, 200);
    for (action, expected) in [
        ("revoke", 401),
        ("reactivate", 200),
        ("delete", 401),
        ("restore", 200),
    ] {
        for (named, input) in [(id, ""), (prefix, ""), ("-", plain)] {
            // A deleted key is found by what only its owner has, and by its id.
            place.tell(0, &["key", action, named], input);
            assert_eq!(status(&base, plain).await, expected, "{action} {named}");
            if action == "delete" {
                place.tell(0, &["key", "restore", id], "");
            }
        }
        if action == "delete" {
            place.tool(0, &["key", "delete", id]);
        }
    }
    for (action, expected) in [("suspend", 401), ("activate", 200), ("delete", 401)] {
        place.tool(0, &["account", action, "acme"]);
        assert_eq!(status(&base, plain).await, expected, "{action}");
    }
    place.tool(2, &["account", "restore", "acme"]);
    assert_eq!(status(&base, plain).await, 401);
    place.tool(0, &["account", "restore", text(&acme["id"])]);
    assert_eq!(status(&base, plain).await, 200);
}

/// The same words for a person and for a script.
#[test]
fn every_command_speaks_to_people_and_to_scripts() {
    let place = Place::new();
    place.make_store();
    let acme = account(&place, "acme");
    let made = key(&place, "acme", "CI");
    let (id, prefix) = (text(&made["id"]), text(&made["prefix"]));
    let commands: &[&[&str]] = &[
        &["migrate"],
        &["account", "list"],
        &["account", "show", "acme"],
        &["account", "show", text(&acme["id"])],
        &["account", "suspend", "acme"],
        &["account", "activate", "acme"],
        &["key", "list", "--account", "acme"],
        &[
            "key",
            "list",
            "--account",
            text(&acme["id"]),
            "--status",
            "active",
        ],
        &["key", "show", id],
        &["key", "show", prefix],
        &["key", "rename", prefix, "Renamed"],
        &["key", "revoke", prefix],
        &["key", "reactivate", prefix],
        &["pepper", "status"],
        &["audit", "verify"],
        &["audit", "prune", "--before", "2026-01-31T00:00:00Z"],
        &["generate-key"],
        &["doctor"],
    ];
    for command in commands {
        let human = place.tool(0, command);
        assert!(!human.out.trim().is_empty(), "{command:?}");
        assert!(!human.out.contains('{'), "{command:?}: {}", human.out);
        assert!(
            human.out.lines().all(|line| line.trim_end() == line),
            "{command:?}: {:?}",
            human.out
        );
        let script = place.tool(0, &[command, &["--json"][..]].concat());
        assert!(script.json().is_object() || script.json().is_array());
        assert_eq!(script.err, "", "{command:?}");
        assert_eq!(script.out.lines().count(), 1, "{command:?}");
    }
    let shown = place.tool(0, &["key", "show", id]);
    for word in ["Renamed", "active", prefix] {
        assert!(shown.out.contains(word), "{}", shown.out);
    }
    let revoked = [
        "key",
        "list",
        "--account",
        "acme",
        "--status",
        "revoked",
        "--json",
    ];
    assert_eq!(place.tool(0, &revoked).json(), json!([]));
    let human = [
        "key",
        "create",
        "--account",
        "acme",
        "--name",
        "Human",
        "--expires-at",
        "2999-01-01T00:00:00Z",
    ];
    let human = place.tool(0, &human);
    assert!(human.out.contains("    ldr_"), "{}", human.out);
    assert!(human.out.contains("2999-01-01T00:00:00Z"), "{}", human.out);
    let human = place.tool(
        0,
        &[
            "account", "create", "--name", "Umbrella", "--slug", "umbrella",
        ],
    );
    assert!(human.out.contains("umbrella"), "{}", human.out);
    // A generated key is stored nowhere.
    let generated = place.tool(0, &["generate-key"]).out;
    let verdict = place
        .tell(6, &["key", "verify", "--json"], generated)
        .json();
    assert_eq!(verdict["verdict"], "unknown");
}

/// A flag has its dashes; what is told by its place has none.
#[test]
fn a_fault_is_told_by_the_name_of_the_argument() {
    let place = Place::new();
    place.make_store();
    account(&place, "acme");
    let create = ["key", "create", "--account", "acme", "--name", "CI"];
    let with = |flag, value| [&create[..], &[flag, value]].concat();
    for (arguments, name) in [
        (
            vec!["account", "create", "--name", "", "--slug", "x"],
            "--name",
        ),
        (
            vec!["account", "create", "--name", "Acme", "--slug", "X"],
            "--slug",
        ),
        (
            vec!["key", "create", "--account", "acme", "--name", ""],
            "--name",
        ),
        (with("--expires-at", "soon"), "--expires-at"),
        (with("--scope", "x y"), "--scope"),
        (vec!["key", "rename", "ldr_0000000000", ""], "name"),
        (vec!["pepper", "rotate", "--id", "x y"], "--id"),
        (vec!["pepper", "drop", "x y"], "secret"),
        (vec!["audit", "prune", "--before", "soon"], "--before"),
        (vec!["import", "--from", "memory:"], "--from"),
    ] {
        let fault = format!("leadr-auth: {name}: ");
        place.tool(2, &arguments).says(&[&fault]);
    }
}

#[test]
fn a_whole_key_on_the_command_line_is_refused_and_not_repeated() {
    let place = Place::new();
    place.make_store();
    account(&place, "acme");
    let made = key(&place, "acme", "CI");
    let plain = text(&made["key"]);
    let before = place.tool(0, &["export"]).out;
    let attempts: &[&[&str]] = &[
        &["key", "show", plain],
        &["key", "revoke", plain],
        &["key", "rename", plain, "New"],
        &["key", "verify", plain],
        &["key", "list", "--account", plain],
        &["key", "create", "--account", "acme", "--name", "x", plain],
        &["account", "show", plain],
        &["operator", "new-key", plain],
        &["generate-key", plain],
        &["doctor", plain],
        &["serve", plain],
        &["serve", "--superadmin-api-key", plain],
        &["serve", &format!("--superadmin-api-key={plain}")],
        &[plain],
        &["completions", plain],
        &["key", "list", "--account", "acme", "--status", plain],
    ];
    for attempt in attempts {
        let refused = place.tool(2, attempt);
        let told = format!("{}{}", refused.err, refused.out);
        assert!(!told.contains(&plain[14..]), "{attempt:?}: {told}");
        assert!(!refused.err.is_empty(), "{attempt:?}");
    }
    place
        .tool(2, &["key", "show", plain])
        .says(&["command line", &plain[..14]]);
    assert_eq!(place.tool(0, &["export"]).out, before);
}

#[test]
fn verify_tells_every_verdict_and_notes_no_use() {
    let place = Place::new();
    place.make_store();
    let acme = account(&place, "acme");
    let kept = key(&place, "acme", "CI");
    let (plain, id) = (text(&kept["key"]), text(&kept["id"]));
    let verify = |code, verdict: &str| {
        let found = place.tell(code, &["key", "verify", "--json"], plain).json();
        assert_eq!(found["verdict"], verdict);
        assert_eq!(found["valid"], code == 0);
        let human = place.tell(code, &["key", "verify"], format!("  {plain} \r\n"));
        assert!(
            human.out.contains(&format!("is {verdict}")),
            "{}",
            human.out
        );
        assert!(!human.out.contains(&plain[14..]), "{}", human.out);
    };
    verify(0, "valid");
    place.tool(0, &["key", "revoke", id]);
    verify(6, "revoked");
    place.tool(0, &["key", "reactivate", id]);
    place.tool(0, &["key", "delete", id]);
    verify(6, "deleted");
    place.tool(0, &["key", "restore", id]);
    place.tool(0, &["account", "suspend", "acme"]);
    verify(6, "account_suspended");
    place.tool(0, &["account", "activate", "acme"]);
    place.tool(0, &["account", "delete", "acme"]);
    verify(6, "account_deleted");
    place.tool(0, &["account", "restore", text(&acme["id"])]);
    change(
        &place.path("data/leadr-auth.db"),
        "UPDATE api_keys SET expires_at = 1 WHERE name = 'CI'",
    );
    verify(6, "expired");
    let shown = place.tool(0, &["key", "show", id, "--json"]).json();
    assert_eq!(shown["last_used_at"], Value::Null);

    // Another key under the same prefix, and one that nobody has.
    let mut forged = plain.to_owned();
    let last = if forged.pop() == Some('A') { 'E' } else { 'A' };
    forged.push(last);
    for unknown in [forged.as_str(), generate_api_key([3; 32]).expose()] {
        let verdict = place.tell(6, &["key", "verify", "--json"], unknown).json();
        assert_eq!(verdict["verdict"], "unknown");
        assert_eq!(verdict["account"], Value::Null);
    }
    for no_key in [&b"ldr_short"[..], b"\xff\xfe\n"] {
        let verdict = place.tell(6, &["key", "verify", "--json"], no_key).json();
        assert_eq!(verdict["verdict"], "malformed");
        place.tell(6, &["key", "verify"], no_key);
    }
    for nothing in [&b""[..], b"\n", b"ldr_short\nldr_short\n"] {
        place
            .tell(2, &["key", "verify"], nothing)
            .says(&["standard input"]);
    }
}

/// Looking at a key must not settle under which secret all others are.
#[test]
fn verify_registers_no_secret() {
    let place = Place::new();
    place.make_store();
    account(&place, "acme");
    let made = key(&place, "acme", "CI");
    let database = place.path("data/leadr-auth.db");
    change(&database, "DELETE FROM peppers");
    let environment = [("API_KEY_SECRET", "another secret, of 32 bytes and more")];
    let mut command = place.shell("echo $KEY | $LEADR key verify", &environment);
    command.env("KEY", text(&made["key"]));
    Running::spawn(command).ended().with(1).says(&["secret"]);
    // The right one is still free to come.
    place.start_again();
    place.tell(0, &["key", "verify"], text(&made["key"]));
}

#[test]
fn what_is_not_there_or_taken_has_its_exit_code() {
    let place = Place::new();
    place.make_store();
    account(&place, "acme");
    let before = place.tool(0, &["export"]).out;
    let nobody = "01010101-0101-4101-8101-010101010101";
    let cases: &[(i32, &[&str], &str)] = &[
        (3, &["account", "show", "nobody"], "account"),
        (3, &["account", "show", nobody], "account"),
        (3, &["account", "restore", nobody], "account"),
        (3, &["key", "show", nobody], "key"),
        (3, &["key", "revoke", "ldr_AAAAAAAAAA"], "key"),
        (3, &["key", "list", "--account", "nobody"], "account"),
        (
            3,
            &["key", "create", "--account", nobody, "--name", "x"],
            "account",
        ),
        (
            4,
            &["account", "create", "--name", "acme", "--slug", "other"],
            "name",
        ),
        (
            4,
            &["account", "create", "--name", "Other", "--slug", "acme"],
            "slug",
        ),
        (4, &["account", "suspend", "operator"], "operator"),
        (4, &["account", "delete", "operator"], "operator"),
        (
            2,
            &["account", "create", "--name", "", "--slug", "x"],
            "name",
        ),
        (
            2,
            &[
                "account",
                "create",
                "--name",
                "Good",
                "--slug",
                "Not A Slug",
            ],
            "slug",
        ),
        (2, &["account", "show", "Not A Slug"], "neither"),
        (2, &["key", "show", "ldr_short"], "neither"),
        (2, &["key", "show", "nonsense"], "neither"),
        (
            2,
            &["key", "create", "--account", "acme", "--name", "\u{1b}[2J"],
            "name",
        ),
        (
            2,
            &[
                "key",
                "create",
                "--account",
                "acme",
                "--name",
                "x",
                "--expires-at",
                "soon",
            ],
            "expires-at",
        ),
        (
            2,
            &["key", "list", "--account", "acme", "--status", "odd"],
            "odd",
        ),
        (2, &["account"], "Usage"),
        (2, &["key"], "Usage"),
        (2, &["operator"], "Usage"),
        (2, &["backup"], "PATH"),
        (2, &["import"], "PATH"),
        (2, &["completions", "dos"], "dos"),
    ];
    for (code, arguments, word) in cases {
        let refused = place.tool(*code, arguments);
        assert!(refused.err.contains(word), "{arguments:?}: {}", refused.err);
        assert_eq!(refused.out, "", "{arguments:?}");
    }
    assert_eq!(place.tool(0, &["export"]).out, before);
}

/// A database that is away is no failure of the command's, and says nothing of its password.
#[test]
fn a_store_that_is_away_has_its_exit_code() {
    let place = Place::new();
    place.write("export", "");
    let environment = [
        ("DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/db"),
        ("API_KEY_SECRET", "a secret for tests, of 32 bytes and more"),
        ("IMPORT_FROM", "postgres://user:hunter2@127.0.0.1:1/db"),
    ];
    let commands: &[&[&str]] = &[
        &["migrate"],
        &["account", "list"],
        &["key", "show", "ldr_AAAAAAAAAA"],
        &["operator", "new-key"],
        &["nodes"],
        &["export"],
        &["import", "--from", "env"],
    ];
    for command in commands {
        let away = place.run(command, &environment).with(5);
        // Only one of them was about to migrate anything.
        let migrates = away.err.contains("migrat");
        assert_eq!(
            migrates,
            command == &["migrate"],
            "{command:?}: {}",
            away.err
        );
        assert!(away.err.contains("is not available"), "{}", away.err);
        assert!(!away.err.contains("hunter2"), "{command:?}: {}", away.err);
        assert_eq!(away.out, "", "{command:?}");
    }
    let only_from = [("IMPORT_FROM", "postgres://user:hunter2@127.0.0.1:1/db")];
    let away = place.run(&["import", "--from", "env"], &only_from).with(5);
    assert!(!away.err.contains("hunter2"), "{}", away.err);
}

/// Before the first start there is nothing to work on, nothing is made, and the way on is told.
#[test]
fn a_tool_before_the_first_start_makes_nothing() {
    let place = Place::new();
    let commands: &[&[&str]] = &[
        &["account", "list"],
        &["key", "list", "--account", "x"],
        &["operator", "new-key"],
        &["export"],
        &["backup", "copy"],
    ];
    for command in commands {
        place.tool(1, command).says(&["data", "start the server"]);
    }
    assert!(place.files().is_empty(), "{:?}", place.files());
    for command in commands {
        let refused = place.run(command, &[("DATABASE_URL", "memory:")]);
        refused.with(2);
    }
}

#[test]
fn whoever_stops_reading_hears_no_complaint() {
    let place = Place::new();
    place.make_store();
    for n in 0..3 {
        account(&place, &format!("acme-{n}"));
    }
    for command in [
        "account list",
        "account list --json",
        "account show acme-1",
        "export",
        "completions bash",
        "--help",
        "serve --help",
        "generate-key",
        "doctor",
    ] {
        // Standard output is closed before anything is said, whoever is quicker.
        let line = format!("{{ sleep 0.2; $LEADR {command}; echo $? >code; }} | true");
        let quiet = place.sh(&line);
        assert_eq!(quiet.err, "", "{command}");
        assert_eq!(place.read("code").trim(), "0", "{command}");
    }
}

/// Whether somebody reads it or not: what came of it is told by the exit code, also where nothing can be said at all.
#[test]
fn an_exit_code_does_not_depend_on_a_reader() {
    let place = Place::new();
    place.make_store();
    account(&place, "acme");
    place.write("unknown", generate_api_key([7; 32]).expose());
    place.write("nonsense", "nonsense");
    let own = place.tool(0, &["export"]).out;
    let (header, _) = own.split_once('\n').unwrap();
    place.write("bad", format!("{header}\nnonsense\n"));
    for (command, code) in [
        ("key verify <unknown", "6"),
        ("key verify <nonsense", "6"),
        ("import bad", "7"),
        ("account show nobody", "3"),
        ("dance", "2"),
        ("doctor --listen nowhere", "1"),
    ] {
        for (to, code) in [("| true", code), ("2>/dev/full | true", code)] {
            let line = format!("{{ sleep 0.2; $LEADR {command}; echo $? >code; }} {to}");
            place.sh(&line);
            assert_eq!(place.read("code").trim(), code, "{line}");
        }
    }
    place.sh("$LEADR account list >/dev/full").with(1);
}

/// The only time that it could have been seen is over, so it is no use, and somebody has to know.
#[test]
fn a_key_that_could_not_be_shown_is_named() {
    let place = Place::new();
    place.make_store();
    account(&place, "acme");
    for command in [
        "key create --account acme --name CI",
        "key create --account acme --name CI --json",
        "operator new-key",
    ] {
        for line in [
            format!("$LEADR {command} >/dev/full"),
            format!("{{ sleep 0.2; $LEADR {command}; echo $? >code; }} | true"),
        ] {
            let unseen = place.sh(&line).says(&["could not be shown", "key revoke"]);
            let code = unseen.code.filter(|code| *code != 0);
            assert_eq!(
                code.unwrap_or_else(|| place.read("code").trim().parse().unwrap()),
                1
            );
            let id = unseen.err.trim().rsplit("revoke ").next().unwrap();
            let id = id.split(':').next().unwrap();
            place.tool(0, &["key", "revoke", id]);
        }
    }
}

/// Rows of the reference implementation were checked less than ours.
#[test]
fn a_foreign_name_does_not_move_the_cursor() {
    let place = Place::new();
    place.make_store();
    account(&place, "acme");
    let made = key(&place, "acme", "CI");
    change(
        &place.path("data/leadr-auth.db"),
        "UPDATE api_keys SET name = char(27) || '[2J' || char(13, 10, 7, 155) || 'x' WHERE name = 'CI';
         UPDATE accounts SET name = 'a' || char(27) || ']0;title' || char(7), slug = 'odd' || char(27) WHERE slug = 'acme'",
    );
    let id = text(&made["id"]);
    let acme = text(&made["account_id"]);
    let commands: &[&[&str]] = &[
        &["account", "list"],
        &["account", "show", acme],
        &["key", "list", "--account", acme],
        &["key", "show", id],
        &["key", "show", text(&made["prefix"])],
    ];
    for command in commands {
        let out = place.tool(0, command).out;
        let moves = |c: char| c.is_control() && c != '\n';
        assert!(!out.contains(moves), "{command:?}: {out:?}");
        let json = place.tool(0, &[command, &["--json"][..]].concat());
        assert!(!json.out.contains(moves), "{command:?}: {:?}", json.out);
    }
    let listed = place.tool(0, &["key", "list", "--account", acme]).out;
    assert_eq!(listed.lines().count(), 2, "a row stays a row: {listed:?}");
}

#[test]
fn every_command_has_help() {
    let place = Place::new();
    let commands: &[&[&str]] = &[
        &[],
        &["serve"],
        &["migrate"],
        &["account"],
        &["account", "create"],
        &["account", "list"],
        &["account", "show"],
        &["account", "suspend"],
        &["account", "activate"],
        &["account", "delete"],
        &["account", "restore"],
        &["key"],
        &["key", "create"],
        &["key", "list"],
        &["key", "show"],
        &["key", "revoke"],
        &["key", "reactivate"],
        &["key", "delete"],
        &["key", "restore"],
        &["key", "rename"],
        &["key", "verify"],
        &["pepper"],
        &["pepper", "status"],
        &["pepper", "rotate"],
        &["pepper", "drop"],
        &["audit"],
        &["audit", "verify"],
        &["audit", "prune"],
        &["operator"],
        &["operator", "new-key"],
        &["generate-key"],
        &["doctor"],
        &["backup"],
        &["export"],
        &["import"],
        &["completions"],
    ];
    for command in commands {
        for flag in ["--help", "-h"] {
            let help = place.tool(0, &[command, &[flag][..]].concat());
            assert!(help.out.contains("Usage:"), "{command:?}: {}", help.out);
            assert_eq!(help.err, "", "{command:?}");
        }
    }
    assert!(place.tool(0, &["--version"]).out.starts_with("leadr-auth "));
    assert!(place.files().is_empty());
}

#[test]
fn completions_are_scripts_of_their_shells() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.tool(0, &["completions", shell]).out;
        for word in ["new-key", "revoke-others", "data-dir"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        place.write(shell, &script);
        let mut check = std::process::Command::new(shell);
        check.arg("-n").arg(place.path(shell)).stdin(Stdio::null());
        match check.output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {output:?}"),
            Err(_) => eprintln!("there is no {shell} here to look at its script"),
        }
    }
}

/// A server goes on with the schema that it knows, so nobody changes it meanwhile.
#[test]
fn a_file_is_not_migrated_under_a_server() {
    let place = Place::new();
    std::fs::create_dir(place.path("data")).unwrap();
    place.set_mode("data", 0o700);
    let server = ServerLock::acquire(&place.path("data/leadr-auth.db")).unwrap();
    place
        .tool(1, &["migrate"])
        .says(&["another leadr-auth server is running on"]);
    drop(server);
    place.tool(0, &["migrate"]);
    let _server = ServerLock::acquire(&place.path("data/leadr-auth.db")).unwrap();
    // There is nothing to be done.
    place.tool(0, &["migrate"]);
}

/// What bash answers to the key that completes, after these words.
fn completed(place: &Place, words: &[&str]) -> String {
    let quoted = words
        .iter()
        .map(|word| format!("'{word}'"))
        .collect::<Vec<_>>()
        .join(" ");
    let last = words.len() - 1;
    let line = format!(
        "bash -c \". ./bash; COMP_WORDS=({quoted}); COMP_CWORD={last}; f=\\$(complete -p leadr-auth | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
         \\$f leadr-auth '{}' '{}' || true; echo \\${{COMPREPLY[*]}}\"",
        words[last],
        words[last - 1]
    );
    place.sh(&line).with(0).out
}

/// Beyond the first word, too.
#[test]
fn bash_completes_commands_and_flags() {
    let place = Place::new();
    place.write("bash", place.tool(0, &["completions", "bash"]).out);
    if !place.sh("command -v bash").out.contains("bash") {
        eprintln!("there is no bash here to ask");
        return;
    }
    for (words, expected) in [
        (&["leadr-auth", "ser"] as &[&str], "serve"),
        (&["leadr-auth", "key", "rev"], "revoke"),
        (&["leadr-auth", "operator", "n"], "new-key"),
        (&["leadr-auth", "serve", "--lo"], "--log --log-format"),
        (
            &["leadr-auth", "operator", "new-key", "--rev"],
            "--revoke-others",
        ),
    ] {
        assert_eq!(completed(&place, words).trim(), expected, "{words:?}");
    }
}

#[test]
fn a_name_that_holds_a_key_is_refused_and_not_repeated() {
    let place = Place::new();
    place.make_store();
    let key = generate_api_key([5; 32]);
    let name = format!("was {}", key.expose());
    for arguments in [
        &["key", "create", "--account", "operator", "--name", &name][..],
        &["key", "rename", "ldr_AAAAAAAAAA", &name],
        &["account", "create", "--name", &name, "--slug", "acme"],
    ] {
        let refused = place.tool(2, arguments);
        let said = "contains an API key";
        assert!(refused.err.contains(said), "{}", refused.err);
        assert!(!refused.err.contains(key.expose()), "{}", refused.err);
    }
}
