//! Export, import and backup: what goes out comes in, once, whole or not at all, and never over something else.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::time::Duration;

use leadr_auth_domain::{Pepper, PlainKey, generate_api_key};
use leadr_auth_postgres::testing::TestDatabase;
use serde_json::{Value, json};

use crate::support::{ANYWHERE, Place, Running, call, has_postgres, status};

const SECRET: &str = "the secret of an older deployment, long enough";

const ACCOUNT: &str = "01010101-0101-4101-8101-010101010101";

/// The `n`th key of an older deployment.
fn plain(n: u32) -> PlainKey {
    let mut bytes = [9; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    generate_api_key(bytes)
}

fn header(secret: &str, accounts: u64, keys: u64) -> String {
    let check = Pepper::new(secret).unwrap().check();
    json!({
        "format": "leadr-auth",
        "version": 2,
        "secrets": [{"id": "default", "check": check.expose_hex(), "dropped_at": null}],
        "accounts": accounts,
        "keys": keys,
    })
    .to_string()
}

fn account_line() -> String {
    json!({"account": {
        "id": ACCOUNT, "name": "Older", "slug": "older", "status": "active", "role": "operator",
        "created_at": "2025-01-01T00:00:00Z", "updated_at": "2025-01-01T00:00:00Z", "deleted_at": null,
    }})
    .to_string()
}

fn key_line(n: u32) -> String {
    let key = plain(n);
    let hash = Pepper::new(SECRET).unwrap().hash(&key);
    json!({"key": {
        "id": format!("02020202-0202-4202-8202-{n:012}"), "account_id": ACCOUNT, "name": format!("Key {n}"),
        "key_hash": hash.expose_hex(), "key_prefix": key.prefix().as_str(), "status": "active",
        "last_used_at": null, "expires_at": null,
        "created_at": "2025-01-01T00:00:00Z", "updated_at": "2025-01-01T00:00:00Z", "deleted_at": null,
        "pepper_id": "default", "scopes": null,
    }})
    .to_string()
}

/// An export with an account and so many keys of it, in the order in which they are exported.
fn archive(keys: u32) -> String {
    let mut text = header(SECRET, 1, keys.into());
    let _ = write!(text, "\n{}\n", account_line());
    for n in 0..keys {
        let _ = writeln!(text, "{}", key_line(n));
    }
    // serde_json sorts the fields of a `Value`, and an export has an order of its own.
    text
}

/// What a place exports, as values: the order of fields is not what is compared.
fn exported(place: &Place) -> Vec<Value> {
    lines(&place.tool(0, &["export"]).out)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn what_goes_out_comes_in_byte_by_byte() {
    let (from, to) = (Place::new(), Place::new());
    from.make_store();
    for n in 0..3 {
        let slug = format!("acme-{n}");
        from.tool(0, &["account", "create", "--name", &slug, "--slug", &slug]);
        from.tool(
            0,
            &[
                "key",
                "create",
                "--account",
                &slug,
                "--name",
                "Ké\u{301}y 🔑",
            ],
        );
    }
    from.tool(0, &["account", "delete", "acme-2"]);
    let told = from.tool(0, &["export", "all", "--json"]).json();
    assert_eq!((&told["accounts"], &told["keys"]), (&json!(4), &json!(4)));
    assert_eq!(from.mode("all"), 0o600);
    assert_eq!(from.read("all"), from.tool(0, &["export", "-"]).out);

    to.tool(0, &["import", &from.text("all")]);
    assert_eq!(to.tool(0, &["export"]).out, from.read("all"));
    let again = to.tool(0, &["import", &from.text("all"), "--json"]).json();
    assert_eq!(
        again,
        json!({"imported": 0, "importable": 0, "present": 8, "refused": 0, "faults": []})
    );
    assert_eq!(to.tool(0, &["export"]).out, from.read("all"));
    for (path, (mode, _)) in to.files() {
        assert_eq!(mode & 0o077, 0, "{} is open to others", path.display());
    }
}

#[test]
fn an_export_overwrites_nothing() {
    let place = Place::new();
    place.make_store();
    place.write("there", "something");
    std::os::unix::fs::symlink("nowhere", place.path("link")).unwrap();
    for name in ["there", "link", "data"] {
        place
            .tool(1, &["export", name])
            .says(&[name, "is there already"]);
    }
    place.tool(1, &["export", "no/folder"]).says(&["no/folder"]);
    assert_eq!(place.read("there"), "something");
    assert!(!place.path("nowhere").exists());
}

/// A file that could not be written whole is taken away again.
#[test]
fn half_an_export_is_none() {
    let place = Place::new();
    place.write("all", archive(2000));
    place.tool(0, &["import", "all"]);
    // Opening the database needs a little room of its own beside it.
    let full = place.sh("trap '' XFSZ; ulimit -f 300; exec $LEADR export half");
    full.with(1).says(&["cannot write half"]);
    assert!(!place.path("half").exists());
}

#[test]
fn what_would_be_believed_wrongly_is_not_taken() {
    let nil = "00000000-0000-0000-0000-000000000000";
    for (line, said) in [
        (
            key_line(0).replace("\"scopes\":null", "\"scopes\":[\"keys:*\"]"),
            "line 3: scopes: unknown",
        ),
        (
            key_line(0).replace("02020202-0202-4202-8202-000000000000", nil),
            "line 3: id: is the nil UUID",
        ),
        (
            account_line()
                .replace(ACCOUNT, nil)
                .replace("older", "newer")
                .replace("Older", "Newer"),
            "line 3: id: is the nil UUID",
        ),
    ] {
        let place = Place::new();
        let keys = u64::from(line.starts_with("{\"key\""));
        let header = header(SECRET, 2 - keys, keys);
        let bad = format!("{header}\n{}\n{line}\n", account_line());
        place.write("bad", bad);
        let refused = place.tool(7, &["import", "bad"]);
        assert!(refused.err.contains(said), "{said}: {}", refused.err);
        let none = "nothing was imported";
        assert!(refused.out.contains(none), "{}", refused.out);
    }
}

#[test]
fn malformed_lines_are_all_named_and_nothing_is_taken() {
    let place = Place::new();
    let key = plain(70);
    let mut bytes = header(SECRET, 1, 8).into_bytes();
    for line in [
        account_line(),                                                              // 2
        key_line(0),                                                                 // 3
        "{".to_owned(),                                                              // 4
        key_line(1).replace("active", "dead"),                                       // 5
        key_line(1).replace(ACCOUNT, "01010101-0101-4101-8101-999999999999"),        // 6
        key_line(0),                                                                 // 7
        key_line(2).replace("\"name\"", &format!("\"{}\\u001b[2J\"", key.expose())), // 8
    ] {
        writeln!(bytes, "\n{line}").unwrap();
        bytes.pop();
    }
    bytes.extend(b"\n\xff\xfe\n"); // 9
    writeln!(bytes, "{}", key_line(3)).unwrap(); // 10
    place.write("bad", &bytes);

    let expected = [4, 5, 6, 7, 8, 9];
    let moves = |c: char| c.is_control() && c != '\n';
    // On a place with nothing, and on one with something.
    for keys in [0, 2] {
        let place = Place::new();
        place.write("bad", &bytes);
        if keys > 0 {
            place.write("good", archive(1));
            place.tool(0, &["import", "good"]);
        }
        let before = keys > 0;
        let before = before.then(|| place.tool(0, &["export"]).out);
        for flags in [&["--dry-run"][..], &[], &["--dry-run", "--keep-good"]] {
            let refused = place
                .tool(7, &[&["import", "bad", "--json"], flags].concat())
                .json();
            let named: Vec<_> = refused["faults"]
                .as_array()
                .unwrap()
                .iter()
                .map(|fault| fault["line"].as_u64().unwrap())
                .collect();
            assert_eq!(named, expected, "{refused}");
            assert_eq!(refused["imported"], 0);
            assert_eq!(refused["refused"], 6);
            let human = place.tool(7, &[&["import", "bad"], flags].concat());
            for line in expected {
                assert!(
                    human.err.contains(&format!("line {line}: ")),
                    "{}",
                    human.err
                );
            }
            assert!(human.out.contains("nothing was imported"), "{}", human.out);
            for told in [&human.err, &refused.to_string()] {
                assert!(!told.contains(&key.expose()[14..]), "{told}");
            }
            assert!(!human.err.contains(moves), "{:?}", human.err);
            match &before {
                Some(before) => assert_eq!(&place.tool(0, &["export"]).out, before),
                None => assert!(!place.path("data").exists()),
            }
        }
        let taken = place
            .tool(7, &["import", "bad", "--keep-good", "--json"])
            .json();
        let (stored, present) = if before.is_some() { (1, 2) } else { (3, 0) };
        assert_eq!(
            (&taken["imported"], &taken["present"]),
            (&json!(stored), &json!(present))
        );
        assert_eq!(taken["faults"].as_array().unwrap().len(), 6);
        assert_eq!(exported(&place).len(), 1 + 3);
    }
}

#[test]
fn a_file_that_was_cut_off_is_noticed() {
    let place = Place::new();
    let whole = archive(50);
    let cuts = [
        whole.len() - 10,
        whole.match_indices('\n').nth(30).unwrap().0 + 1,
    ];
    for cut in cuts {
        let place = Place::new();
        place.write("cut", &whole[..cut]);
        let refused = place.tool(7, &["import", "cut"]);
        assert!(refused.err.contains("line "), "{}", refused.err);
        assert!(!place.path("data").exists());
    }
    place.write("cut", &whole[..cuts[1]]);
    let refused = place.tool(7, &["import", "cut"]);
    refused.says(&["the file ends after 30 of 51 records"]);
    place.tool(7, &["import", "cut", "--keep-good"]);
    assert_eq!(exported(&place).len(), 1 + 30);
    place.write("whole", &whole);
    place.tool(0, &["import", "whole"]);
    assert_eq!(exported(&place), lines(&whole));
}

/// What is no export at all does not even make a data directory.
#[test]
fn what_is_no_export_leaves_nothing_behind() {
    let place = Place::new();
    place.write("notes", "Buy milk.\n");
    place.write("empty", "");
    place.write(
        "newer",
        header(SECRET, 0, 0).replace("\"version\":2", "\"version\":3"),
    );
    fs::create_dir(place.path("folder")).unwrap();
    for (name, word) in [
        ("notes", "line 1"),
        ("empty", "line 1"),
        ("newer", "version 3"),
        ("folder", "folder"),
        ("nowhere", "nowhere"),
    ] {
        for flags in [&[][..], &["--keep-good"], &["--dry-run"]] {
            place
                .tool(1, &[&["import", name], flags].concat())
                .says(&[word]);
        }
    }
    assert!(!place.path("data").exists());
}

/// A header may say what it likes.
#[test]
fn a_header_that_lies_is_only_that() {
    let place = Place::new();
    for (accounts, keys) in [(u64::MAX, u64::MAX), (u64::MAX, 0)] {
        place.write(
            "lie",
            format!("{}\n{}\n", header(SECRET, accounts, keys), account_line()),
        );
        place
            .tool(7, &["import", "lie"])
            .says(&["the file ends after 1 of"]);
    }
}

#[test]
fn keys_under_another_secret_are_refused() {
    let place = Place::new();
    place.make_store();
    let before = place.tool(0, &["export"]).out;
    place.write("all", archive(3));
    for flags in [&[][..], &["--keep-good"], &["--dry-run"]] {
        let arguments = [&["import", "all"], flags].concat();
        place.tool(1, &arguments).says(&["another secret"]);
    }
    assert_eq!(place.tool(0, &["export"]).out, before);
    // A fresh place whose secret was said.
    let place = Place::new();
    place.write("all", archive(3));
    let said = [("API_KEY_SECRET", "another secret, of 32 bytes and more")];
    place
        .run(&["import", "all"], &said)
        .with(1)
        .says(&["another secret"]);
    assert!(!place.path("data").exists(), "{:?}", place.files().keys());
}

#[tokio::test]
async fn an_import_brings_its_keys_but_not_its_secret() {
    let place = Place::new();
    place.write("all", archive(3));
    place.tool(0, &["import", "all"]);
    assert_eq!(place.mode("data"), 0o700);
    let refused = place.run(&["serve"], &[ANYWHERE]).with(1);
    refused.says(&["data/secret is not there", "API_KEY_SECRET"]);
    assert!(!place.path("data/secret").exists());
    let mut running = place.serve(&[], &[ANYWHERE, ("API_KEY_SECRET", SECRET)]);
    let base = running.base();
    running.wait_for("ready");
    for n in 0..3 {
        assert_eq!(status(&base, plain(n).expose()).await, 200);
    }
    assert_eq!(status(&base, plain(4).expose()).await, 401);
    running.end("-TERM");
    place.write("data/secret", SECRET);
    place.set_mode("data/secret", 0o600);
    let (_running, base) = place.start_again();
    assert_eq!(status(&base, plain(0).expose()).await, 200);
}

/// What does not say under which secret its keys are hashed.
fn without_secrets(archive: &str) -> String {
    let (before, rest) = archive.split_once("\"secrets\":[").unwrap();
    let (_, after) = rest.split_once(']').unwrap();
    format!("{before}\"secrets\":[]{after}")
}

/// An export of before there were several secrets and scopes.
#[test]
fn an_export_of_the_first_version_is_still_read() {
    let place = Place::new();
    let check = Pepper::new(SECRET).unwrap().check();
    let header = json!({
        "format": "leadr-auth", "version": 1, "secret_check": check.expose_hex(), "accounts": 1, "keys": 1,
    });
    let key = key_line(0)
        .replace(",\"pepper_id\":\"default\"", "")
        .replace(",\"scopes\":null", "");
    assert!(
        !key.contains("scopes") && !key.contains("pepper_id"),
        "{key}"
    );
    place.write("old", format!("{header}\n{}\n{key}\n", account_line()));
    place.tool(0, &["import", "old"]);
    assert_eq!(exported(&place), lines(&archive(1)));
    let said = [("API_KEY_SECRET", SECRET)];
    let mut command = place.shell("echo $KEY | $LEADR key verify", &said);
    command.env("KEY", plain(0).expose());
    Running::spawn(command).ended().with(0);
}

/// Several secrets come with their keys; each is the same here, or is made known, or nothing is taken.
#[tokio::test]
async fn secrets_are_agreed_on_one_by_one() {
    let ring = |current: &str, secrets: &[(&str, &str)]| {
        let secrets: Vec<_> = secrets
            .iter()
            .map(|(id, secret)| json!({"id": id, "secret": secret}))
            .collect();
        json!({"current": current, "secrets": secrets}).to_string()
    };
    let other = "another secret, of 32 bytes and more";
    let from = Place::new();
    let file = ("API_KEY_KEYRING_FILE", "ring");
    from.write(
        "ring",
        ring(
            "default",
            &[
                ("default", SECRET),
                ("gone", "a secret that will be dropped, in a moment"),
            ],
        ),
    );
    let mut running = from.serve(&[], &[ANYWHERE, file]);
    running.base();
    let key = running.first_key();
    from.run(&["pepper", "drop", "gone"], &[file]).with(0);
    from.write("ring", ring("new", &[("default", SECRET), ("new", other)]));
    running.end("-TERM");
    let scoped = [
        "key",
        "create",
        "--account",
        "operator",
        "--name",
        "x",
        "--scope",
        "docs:*",
    ];
    from.run(&scoped, &[file]).with(0);
    from.run(&["export", "all"], &[file]).with(0);
    let all = from.text("all");

    // Into a store that knows nothing, and again: what was dropped comes too.
    let to = Place::new();
    for _ in 0..2 {
        to.tool(0, &["import", &all]);
        assert_eq!(to.tool(0, &["export"]).out, from.read("all"));
    }
    to.write("ring", from.read("ring"));
    let mut command = to.shell("echo $KEY | $LEADR key verify", &[file]);
    command.env("KEY", &key);
    Running::spawn(command).ended().with(0);

    // Where one is another, or is not there, nothing is taken.
    for (secrets, words) in [
        (
            &[
                ("default", SECRET),
                ("new", "yet another secret, of 32 bytes and more"),
            ][..],
            "another secret",
        ),
        (
            &[("default", SECRET), ("newer", other)],
            "the secret new, which is not among this store's",
        ),
    ] {
        let to = Place::new();
        to.write("ring", ring("default", secrets));
        for flags in [&[][..], &["--keep-good"], &["--dry-run"]] {
            let arguments = [&["import", all.as_str()], flags].concat();
            to.run(&arguments, &[file]).with(1).says(&[words]);
        }
        assert!(!to.path("data").exists());
    }
    // A key of whose secret nothing is said.
    let to = Place::new();
    let strange = from
        .read("all")
        .replace("\"pepper_id\":\"new\"", "\"pepper_id\":\"strange\"");
    to.write("strange", strange);
    to.tool(7, &["import", "strange"])
        .says(&["the secret strange"]);
    assert!(!to.path("data").exists());
}

/// Without a word about the secret, nobody could tell later whether the right one is configured.
#[test]
fn keys_of_which_nobody_knows_the_secret_are_refused() {
    let place = Place::new();
    let text = archive(1);
    place.write("all", without_secrets(&text));
    place.tool(2, &["import", "all"]).says(&["API_KEY_SECRET"]);
    let said = [("API_KEY_SECRET", SECRET)];
    place.run(&["import", "all"], &said).with(0);
    let refused = [("API_KEY_SECRET", "another secret, of 32 bytes and more")];
    place.run(&["import", "all"], &refused).with(1);

    // Nor does a secret that a store has made for itself say anything of keys that come from elsewhere.
    let place = Place::new();
    place.make_store();
    let before = place.tool(0, &["export"]).out;
    place.write("all", without_secrets(&text));
    place
        .tool(2, &["import", "all"])
        .says(&["API_KEY_SECRET", "--secret-file"]);
    assert_eq!(place.tool(0, &["export"]).out, before);
    place.tool(0, &["import", "--secret-file", "data/secret", "all"]);
}

/// Whoever breaks it off finds nothing, under the name that was said or another.
#[test]
fn what_was_interrupted_leaves_nothing() {
    let place = Place::new();
    place.write("all", archive(50_000));
    place.tool(0, &["import", "all"]);
    // In the folder of the database SQLite tidies up with the next opening.
    let names = || {
        let names = fs::read_dir(place.path("")).unwrap();
        names
            .map(|entry| entry.unwrap().file_name())
            .collect::<std::collections::BTreeSet<_>>()
    };
    let before = names();
    for command in ["export", "backup"] {
        for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
            // It may be done before anybody can interrupt it.
            let interrupted = (0..20).any(|_| {
                let mut running = place.serve(&[command, "half"], &[]);
                while names() == before && !running.has_ended() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                if running.has_ended() {
                    running.ended().with(0);
                    fs::remove_file(place.path("half")).unwrap();
                    return false;
                }
                running.signal(signal);
                let ended = running.ended();
                if ended.code == Some(0) {
                    fs::remove_file(place.path("half")).unwrap();
                    return false;
                }
                let ended = ended.with(code);
                assert!(ended.err.contains("interrupted"), "{}", ended.err);
                assert_eq!(names(), before);
                true
            });
            assert!(interrupted, "{command} was always done before {signal}");
        }
    }
}

#[test]
fn an_import_that_was_killed_is_repeated() {
    const KEYS: u32 = 20_000;
    let place = Place::new();
    place.write("all", archive(KEYS));
    let mut cut_short = 0;
    for millis in [150, 300, 600, 900, 1200] {
        let mut import = place.command(&["import", "all"], &[]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        import.kill().unwrap();
        let was_killed = import.wait().unwrap().code().is_none();
        cut_short += u32::from(was_killed);
        if was_killed && place.path("data/leadr-auth.db").exists() {
            let secret = [ANYWHERE, ("API_KEY_SECRET", SECRET)];
            let found = place.run(&["doctor", "--json"], &secret).with(0).json();
            let sound = found
                .as_array()
                .unwrap()
                .iter()
                .any(|one| one["what"] == "sound");
            assert!(sound, "{found}");
        }
    }
    assert!(cut_short > 0, "every import was done before it was killed");
    place.tool(0, &["import", "all"]);
    let found = exported(&place);
    assert_eq!(found.len(), 2 + usize::try_from(KEYS).unwrap());
    assert_eq!(found, lines(&place.read("all")));
}

#[test]
fn a_pipe_leads_from_one_to_the_other() {
    let (from, to) = (Place::new(), Place::new());
    from.make_store();
    from.tool(
        0,
        &["account", "create", "--name", "acme", "--slug", "acme"],
    );
    let expected = from.tool(0, &["export"]).out;
    let line = format!(
        "$LEADR export --data-dir {} | $LEADR import - --json",
        from.text("data")
    );
    assert_eq!(to.sh(&line).with(0).json()["imported"], 3);
    assert_eq!(to.tool(0, &["export"]).out, expected);
    // A pipe that has a path can be read once only, too.
    let named = Place::new();
    let line = format!(
        "$LEADR export --data-dir {} | $LEADR import /dev/stdin --json",
        from.text("data")
    );
    assert_eq!(named.sh(&line).with(0).json()["imported"], 3);
    assert_eq!(named.tool(0, &["export"]).out, expected);
    let nothing = Place::new();
    nothing.tell(1, &["import", "-"], "").says(&["line 1"]);
    assert!(!nothing.path("data").exists());
}

#[test]
fn a_store_takes_from_another_one() {
    let (from, to) = (Place::new(), Place::new());
    from.make_store();
    let expected = from.tool(0, &["export"]).out;
    let url = format!("sqlite:{}", from.text("data/leadr-auth.db"));
    let nowhere = format!("sqlite:{}", from.text("nowhere"));
    to.tool(1, &["import", "--from", &nowhere])
        .says(&["nowhere"]);
    let memory = to.tool(2, &["import", "--from", "memory:"]);
    memory.says(&["memory:"]);
    assert!(to.files().is_empty(), "{:?}", to.files().keys());
    // A backup stays as it is, byte by byte, nothing is left beside it, and nobody has to be allowed to write it.
    from.tool(0, &["backup", "copy.db"]);
    from.set_mode("copy.db", 0o400);
    let before = from.files();
    let copy = format!("sqlite:{}", from.text("copy.db"));
    Place::new().tool(
        0,
        &[
            "import",
            "--from",
            &copy,
            "--secret-file",
            &from.text("data/secret"),
        ],
    );
    assert_eq!(from.files(), before);
    // Also while a server is at work there, and as often as one likes.
    let (_running, _) = from.start_again();
    for imported in [2, 0] {
        let told = to.tool(0, &["import", "--from", &url, "--json"]).json();
        assert_eq!(
            (&told["imported"], &told["refused"]),
            (&json!(imported), &json!(0))
        );
        let told = to.run(
            &["import", "--from", "env", "--json"],
            &[("IMPORT_FROM", &url)],
        );
        assert_eq!(told.with(0).json()["present"], 2);
    }
    assert_eq!(to.tool(0, &["export"]).out, expected);
    assert_eq!(from.tool(0, &["export"]).out, expected);
}

/// The reference's tables as its own migrations leave them, a key that its own code hashed, and rows that it lets in.
const REFERENCE: &str = "
    CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
    CREATE TYPE account_status AS ENUM ('active', 'suspended');
    CREATE TYPE api_key_status AS ENUM ('active', 'revoked');
    CREATE TABLE accounts (
        name varchar NOT NULL,
        slug varchar NOT NULL,
        status account_status DEFAULT 'active' NOT NULL,
        id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        deleted_at timestamptz
    );
    CREATE UNIQUE INDEX ix_accounts_name ON accounts (name);
    CREATE UNIQUE INDEX ix_accounts_slug ON accounts (slug);
    CREATE TABLE api_keys (
        account_id uuid NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
        name varchar NOT NULL,
        key_hash varchar NOT NULL,
        key_prefix varchar NOT NULL,
        status api_key_status DEFAULT 'active' NOT NULL,
        last_used_at timestamptz,
        expires_at timestamptz,
        id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        deleted_at timestamptz
    );
    CREATE UNIQUE INDEX ix_api_keys_key_prefix ON api_keys (key_prefix);
    INSERT INTO accounts (id, name, slug) VALUES
        ('10000000-0000-4000-8000-000000000000', E'  Odd\\n name ', 'Odd_Slug'),
        ('20000000-0000-4000-8000-000000000000', 'Gone', 'gone');
    UPDATE accounts SET deleted_at = now() WHERE slug = 'gone';
    INSERT INTO api_keys (account_id, name, key_hash, key_prefix) VALUES
        ('10000000-0000-4000-8000-000000000000', 'Key',
         'd4496a404581584107f64d6aea965e6e628ed8e04a980f78e454fcf872d8bd2e', 'ldr_AAECAwQFBg'),
        ('20000000-0000-4000-8000-000000000000', '', repeat('0a', 32), 'ldr_short');
";

const REFERENCE_KEY: &str = "ldr_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

const REFERENCE_SECRET: &str = "the reference's secret, 32 bytes or more";

/// Everything there is in a database, tables and rows.
const EVERYTHING: &str = "
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT (table_name, column_name, data_type)::text AS line
            FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT accounts::text FROM accounts
        UNION ALL SELECT api_keys::text FROM api_keys
    ) AS lines";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reference_is_left_as_it_is_and_its_keys_go_on_working() {
    if !has_postgres("the_reference_is_left_as_it_is_and_its_keys_go_on_working") {
        return;
    }
    let database = TestDatabase::create_empty().await;
    let client = database.client().await;
    client.batch_execute(REFERENCE).await.unwrap();
    let everything = async || -> String { client.query_one(EVERYTHING, &[]).await.unwrap().get(0) };
    let before = everything().await;
    let place = Place::new();
    let from = [("IMPORT_FROM", database.url())];
    let secret = [from[0], ("API_KEY_SECRET", REFERENCE_SECRET)];
    // Nothing tells under which secret these are, so somebody has to.
    place
        .run(&["import", "--from", "env"], &from)
        .with(2)
        .says(&["API_KEY_SECRET"]);
    assert!(place.files().is_empty(), "{:?}", place.files().keys());
    let arguments = ["import", "--from", "env", "--json"];
    let told = place.run(&arguments, &secret).with(0).json();
    assert_eq!(told["imported"], 4, "{told}");
    assert_eq!(everything().await, before);

    let environment = [ANYWHERE, secret[1]];
    let mut running = place.serve(&[], &environment);
    let base = running.base();
    running.wait_for("ready");
    assert_eq!(status(&base, REFERENCE_KEY).await, 200);
    let told = place.run(&arguments, &secret).with(0).json();
    assert_eq!(told["present"], 4, "{told}");

    // The reference's own export says nothing about its secret, and is taken all the same where somebody does.
    let url = [("DATABASE_URL", database.url())];
    place.run(&["export", "reference"], &url).with(0);
    assert_eq!(everything().await, before);
    let second = Place::new();
    second.tool(2, &["import", &place.text("reference")]);
    second
        .run(&["import", &place.text("reference")], &secret[1..])
        .with(0);
}

/// A move from a file to a server and back changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_to_a_server_comes_back_the_same() {
    if !has_postgres("what_went_to_a_server_comes_back_the_same") {
        return;
    }
    let database = TestDatabase::create_empty().await;
    let (file, back) = (Place::new(), Place::new());
    file.write("all", archive(2500));
    file.tool(0, &["import", "all"]);
    let expected = file.tool(0, &["export"]).out;
    let url = [("DATABASE_URL", database.url())];
    let from = format!("sqlite:{}", file.text("data/leadr-auth.db"));
    let import = ["import", "--from", &from];
    // Its schema is somebody's decision.
    file.run(&import, &url)
        .with(1)
        .says(&["leadr-auth migrate"]);
    file.run(&["migrate"], &url).with(0);
    file.run(&import, &url).with(0);
    assert_eq!(file.run(&["export"], &url).with(0).out, expected);
    back.run(
        &["import", "--from", "env"],
        &[("IMPORT_FROM", database.url())],
    )
    .with(0);
    assert_eq!(back.tool(0, &["export"]).out, expected);
}

#[test]
fn a_password_does_not_belong_on_the_command_line() {
    let place = Place::new();
    for url in [
        "postgres://user:hunter2@127.0.0.1:1/db",
        "postgres://127.0.0.1:1/db?user=u&password=hunter2",
    ] {
        let refused = place.tool(2, &["import", "--from", url]);
        assert!(!refused.err.contains("hunter2"), "{}", refused.err);
        refused.says(&["IMPORT_FROM", "--from env"]);
        let refused = place.tool(2, &["account", "list", "--database-url", url]);
        assert!(!refused.err.contains("hunter2"), "{}", refused.err);
        refused.says(&["DATABASE_URL"]);
    }
    place
        .tool(2, &["import", "--from", "env"])
        .says(&["IMPORT_FROM is not set"]);
    place
        .tool(2, &["import", "--from", "nonsense"])
        .says(&["from"]);
    place.tool(2, &["import", "all", "--from", "env"]);
    assert!(place.files().is_empty());
}

/// What was answered before the backup began is in it, and what is in it works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_server_that_is_writing_is_whole() {
    let place = Place::new();
    let (running, base, operator) = place.first_start();
    let acme = place.tool(
        0,
        &[
            "account", "create", "--name", "acme", "--slug", "acme", "--json",
        ],
    );
    let acme = acme.json();
    let (sender, mut made) = tokio::sync::mpsc::unbounded_channel();
    let writer = tokio::spawn(async move {
        let mut n = 0;
        loop {
            n += 1;
            let body = json!({"account_id": acme["id"], "name": format!("Key {n}")});
            let url = format!("{base}/v1/api-keys");
            let (status, issued) = call("POST", &url, &operator, Some(body)).await;
            assert_eq!(status, 201);
            let key = issued["key"].as_str().unwrap().to_owned();
            if sender.send(key).is_err() {
                break;
            }
        }
    });
    let mut keys = Vec::new();
    while keys.len() < 50 {
        keys.push(made.recv().await.unwrap());
    }
    let told = place.tool(0, &["backup", "copy.db", "--json"]).json();
    assert!(told["keys"].as_u64().unwrap() >= 51, "{told}");
    assert_eq!(place.mode("copy.db"), 0o600);
    // It is never written over.
    let before = fs::read(place.path("copy.db")).unwrap();
    place
        .tool(1, &["backup", "copy.db"])
        .says(&["copy.db is there already"]);
    place
        .tool(1, &["backup", "data/leadr-auth.db"])
        .says(&["is there already"]);
    place
        .tool(1, &["backup", "no/folder/copy"])
        .says(&["no/folder/copy"]);
    assert_eq!(fs::read(place.path("copy.db")).unwrap(), before);
    drop(made);
    writer.await.unwrap();
    running.end("-TERM");

    let restored = Place::new();
    fs::create_dir(restored.path("data")).unwrap();
    restored.set_mode("data", 0o700);
    fs::copy(place.path("copy.db"), restored.path("data/leadr-auth.db")).unwrap();
    // Without its secret it is of no use, and says so.
    restored
        .run(&["serve"], &[ANYWHERE])
        .with(1)
        .says(&["secret is not there"]);
    fs::copy(place.path("data/secret"), restored.path("data/secret")).unwrap();
    let (_running, base) = restored.start_again();
    for key in &keys {
        assert_eq!(status(&base, key).await, 200);
    }
    let found = restored.tool(0, &["doctor"]);
    assert!(found.out.contains("sound"), "{}", found.out);
}
