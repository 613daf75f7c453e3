//! What may lie where the database is looked for, and what becomes of it.

use std::{
    fs::{self, OpenOptions},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use diesel::{connection::SimpleConnection as _, dsl::sql, prelude::*, sql_types::BigInt};
use leadr_auth_ports::{
    KeyFilter, StoreError,
    contract::fixtures::{account, entry},
};
use leadr_auth_sqlite::{
    IfMissing, LockError, OpenError, OpenFault, ServerLock, Sqlite, SqliteConfig, migrate,
};

use crate::support::{Scratch, filled, passed_as_nobody, raw};

fn refused(scratch: &Scratch) -> OpenError {
    let error = Sqlite::open(scratch.config(), IfMissing::Create).unwrap_err();
    assert!(error.to_string().contains("keys.db"), "{error}");
    error
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_the_owner_reads_it() {
    let scratch = Scratch::new();
    let _lock = ServerLock::acquire(&scratch.path()).unwrap();
    let sqlite = scratch.open().await;
    sqlite
        .stores()
        .accounts
        .create(&account(1), &entry())
        .await
        .unwrap();
    let names = scratch.names();
    assert_eq!(
        names,
        ["keys.db", "keys.db-shm", "keys.db-wal", "keys.db.lock"]
    );
    for name in names {
        assert_eq!(mode(&scratch.folder().join(&name)), 0o600, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_made_unless_it_is_wanted() {
    let scratch = Scratch::new();
    let fail = || {
        Sqlite::open(scratch.config(), IfMissing::Fail)
            .unwrap_err()
            .fault
    };
    assert!(matches!(fail(), OpenFault::Missing));
    assert!(scratch.names().is_empty());
    fs::write(scratch.path(), "").unwrap();
    assert!(matches!(fail(), OpenFault::Missing));
    // An empty file is as good as none.
    let sqlite = scratch.open().await;
    assert!(migrate::at_head(&sqlite).await.unwrap());
    Sqlite::open(scratch.config(), IfMissing::Fail).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_not_made_and_not_opened() {
    let scratch = Scratch::new();
    let mut config = scratch.config();
    config.path = scratch.folder().join("nowhere").join("keys.db");
    let error = Sqlite::open(config.clone(), IfMissing::Create).unwrap_err();
    assert!(matches!(error.fault, OpenFault::NoFolder), "{error:?}");
    config.path = scratch.folder().to_owned();
    let error = Sqlite::open(config.clone(), IfMissing::Create).unwrap_err();
    assert!(matches!(error.fault, OpenFault::NotAFile), "{error:?}");
    fs::write(scratch.path(), "").unwrap();
    config.path = scratch.path().join("keys.db");
    let error = Sqlite::open(config, IfMissing::Create).unwrap_err();
    assert!(matches!(error.fault, OpenFault::NoFolder), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_leads_nowhere_is_said_to_lead_nowhere() {
    let scratch = Scratch::new();
    std::os::unix::fs::symlink("elsewhere.db", scratch.path()).unwrap();
    for if_missing in [IfMissing::Create, IfMissing::Fail] {
        let error = Sqlite::open(scratch.config(), if_missing).unwrap_err();
        assert!(matches!(error.fault, OpenFault::DeadLink), "{error:?}");
        assert!(error.to_string().contains("leads nowhere"), "{error}");
    }
    assert_eq!(scratch.names(), ["keys.db"]);
    // One that leads somewhere is another name.
    fs::write(scratch.folder().join("elsewhere.db"), "").unwrap();
    drop(scratch.open().await);
    assert_eq!(scratch.names(), ["elsewhere.db", "keys.db"]);
}

/// A path is a path, whatever it looks like to SQLite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_name_is_a_name() {
    let scratch = Scratch::new();
    for name in [":memory:", "file:x?mode=memory", "a b%41#ä.db"] {
        let mut config = scratch.config();
        config.path = scratch.folder().join(name);
        let sqlite = Sqlite::open(config, IfMissing::Create).unwrap();
        migrate::run(&sqlite).await.unwrap();
        drop(sqlite);
        assert!(fs::metadata(scratch.folder().join(name)).unwrap().len() > 0);
    }
    assert_eq!(scratch.names().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ours_is_left_as_it_is() {
    for journal in ["DELETE", "WAL"] {
        let scratch = Scratch::new();
        raw(&scratch.path())
            .batch_execute(&format!(
                "PRAGMA journal_mode = {journal}; CREATE TABLE songs (name TEXT); INSERT INTO songs VALUES ('x')"
            ))
            .unwrap();
        let before = fs::read(scratch.path()).unwrap();
        assert!(matches!(refused(&scratch).fault, OpenFault::Foreign));
        assert_eq!(fs::read(scratch.path()).unwrap(), before);
    }
    for content in ["not a database at all, but a text", "x", &"y".repeat(9000)] {
        let scratch = Scratch::new();
        fs::write(scratch.path(), content).unwrap();
        assert!(
            matches!(refused(&scratch).fault, OpenFault::Foreign),
            "{content}"
        );
        assert_eq!(fs::read(scratch.path()).unwrap(), content.as_bytes());
        assert_eq!(scratch.names(), ["keys.db"]);
    }
    let scratch = Scratch::new();
    raw(&scratch.path())
        .batch_execute("PRAGMA application_id = 7")
        .unwrap();
    assert!(matches!(refused(&scratch).fault, OpenFault::Foreign));
}

/// Even to bring another program's log ahead into its file would be a change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_what_is_not_ours_is_left_as_it_is() {
    let (theirs, scratch) = (Scratch::new(), Scratch::new());
    let mut open = theirs.raw();
    open.batch_execute("PRAGMA journal_mode = WAL; CREATE TABLE songs (name TEXT)")
        .unwrap();
    let names = ["keys.db", "keys.db-wal"];
    // As after a crash.
    for name in names {
        fs::copy(theirs.folder().join(name), scratch.folder().join(name)).unwrap();
    }
    let content = || names.map(|name| fs::read(scratch.folder().join(name)).unwrap());
    let before = content();
    assert!(matches!(refused(&scratch).fault, OpenFault::Foreign));
    assert!(before == content(), "the file or its log has changed");
    drop(open);
}

/// What a process leaves that is killed in the midst of a write without a log ahead: the file half written, and beside it
/// the journal by which that is taken back.
fn killed_halfway(from: &Scratch, to: &Scratch, write: &str) {
    let mut writer = from.raw();
    writer
        .batch_execute(&format!(
            "PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; BEGIN IMMEDIATE; {write}"
        ))
        .unwrap();
    for name in ["keys.db", "keys.db-journal"] {
        fs::copy(from.folder().join(name), to.folder().join(name)).unwrap();
    }
    assert!(
        fs::metadata(to.folder().join("keys.db-journal"))
            .unwrap()
            .len()
            > 0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cut_short_before_there_was_a_log_is_taken_back() {
    let (source, scratch) = (filled().await, Scratch::new());
    let whole = fs::read(source.path()).unwrap();
    killed_halfway(
        &source,
        &scratch,
        "UPDATE api_keys SET name = 'half ' || hex(randomblob(500))",
    );
    assert!(
        whole != fs::read(scratch.path()).unwrap(),
        "it is not half written"
    );
    let sqlite = scratch.open().await;
    assert_eq!(sqlite.integrity().await.unwrap(), [""; 0]);
    let filter = KeyFilter::of(account(1).id);
    let listed = sqlite.stores().keys.list(filter).await.unwrap();
    assert_eq!(listed.len(), 100);
    assert!(
        listed
            .iter()
            .all(|key| key.name.as_str().starts_with("Key "))
    );
}

/// As the first opening of an empty file is. It is empty again then, and has to be claimed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_was_cut_short_is_made_again() {
    let (source, scratch, claimed) = (Scratch::new(), Scratch::new(), Scratch::new());
    killed_halfway(
        &source,
        &scratch,
        "CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(90000))",
    );
    drop(Sqlite::open(claimed.config(), IfMissing::Create).unwrap());
    fs::copy(claimed.path(), scratch.path()).unwrap();
    for _ in 0..2 {
        drop(scratch.open().await);
        assert_eq!(scratch.names(), ["keys.db"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_of_what_is_not_ours_is_left_as_it_is() {
    let (source, scratch) = (Scratch::new(), Scratch::new());
    source
        .raw()
        .batch_execute(
            "CREATE TABLE songs (name TEXT); INSERT INTO songs VALUES (hex(randomblob(90000)))",
        )
        .unwrap();
    killed_halfway(
        &source,
        &scratch,
        "UPDATE songs SET name = hex(randomblob(90000))",
    );
    let content = || {
        ["keys.db", "keys.db-journal"].map(|name| fs::read(scratch.folder().join(name)).unwrap())
    };
    let before = content();
    assert!(matches!(refused(&scratch).fault, OpenFault::Foreign));
    assert!(before == content(), "the file or its journal has changed");
    assert_eq!(scratch.names(), ["keys.db", "keys.db-journal"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_cut_off_is_noticed() {
    let scratch = filled().await;
    let whole = fs::metadata(scratch.path()).unwrap().len();
    for length in [whole - 4096, whole - 1, 4096, 100, 50] {
        OpenOptions::new()
            .write(true)
            .open(scratch.path())
            .unwrap()
            .set_len(length)
            .unwrap();
        let error = refused(&scratch);
        assert!(
            matches!(error.fault, OpenFault::Corrupt(_)),
            "{length}: {error:?}"
        );
    }
}

/// With a log ahead SQLite goes by what that says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_cut_off_is_noticed_behind_its_log() {
    let scratch = filled().await;
    let other = Scratch::new();
    let sqlite = Sqlite::open(scratch.config(), IfMissing::Fail).unwrap();
    sqlite
        .stores()
        .accounts
        .create(&account(2), &entry())
        .await
        .unwrap();
    for name in ["keys.db", "keys.db-wal"] {
        fs::copy(scratch.folder().join(name), other.folder().join(name)).unwrap();
    }
    drop(Sqlite::open(other.config(), IfMissing::Fail).unwrap());
    for name in ["keys.db", "keys.db-wal"] {
        fs::copy(scratch.folder().join(name), other.folder().join(name)).unwrap();
    }
    OpenOptions::new()
        .write(true)
        .open(other.path())
        .unwrap()
        .set_len(4096)
        .unwrap();
    let error = refused(&other);
    assert!(matches!(error.fault, OpenFault::Corrupt(_)), "{error:?}");
}

/// Or SQLite would delete the log, and all that is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_its_file_is_kept() {
    let scratch = Scratch::new();
    let log = scratch.folder().join("keys.db-wal");
    fs::write(&log, "what was written").unwrap();
    assert!(matches!(refused(&scratch).fault, OpenFault::Corrupt(_)));
    fs::write(scratch.path(), "").unwrap();
    assert!(matches!(refused(&scratch).fault, OpenFault::Corrupt(_)));
    assert_eq!(fs::read(&log).unwrap(), b"what was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_is_internal_and_found_by_the_check() {
    let scratch = filled().await;
    let sqlite = scratch.open().await;
    assert_eq!(sqlite.integrity().await.unwrap(), [""; 0]);
    drop(sqlite);
    let roots: Vec<i64> = diesel::select(sql::<BigInt>(
        "rootpage FROM sqlite_schema WHERE tbl_name = 'api_keys' AND rootpage > 0",
    ))
    .load(&mut scratch.raw())
    .unwrap();
    let mut file = OpenOptions::new().write(true).open(scratch.path()).unwrap();
    for root in roots {
        let page = u64::try_from(root - 1).unwrap();
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0xAA; 512]).unwrap();
    }
    drop(file);
    let sqlite = Sqlite::open(scratch.config(), IfMissing::Fail).unwrap();
    let listed = sqlite
        .stores()
        .keys
        .list(KeyFilter::of(account(1).id))
        .await;
    assert!(matches!(listed, Err(StoreError::Internal(_))), "{listed:?}");
    assert!(!sqlite.integrity().await.unwrap().is_empty());
}

/// What the tables are cannot be read: opening says so, and so does the check where it is open already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_schema_is_said_to_be_damaged() {
    let scratch = filled().await;
    let sqlite = scratch.open().await;
    scratch
        .raw()
        .batch_execute(
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE nothing' WHERE name = 'api_keys'",
        )
        .unwrap();
    let found = sqlite.integrity().await.unwrap();
    assert!(found[0].contains("malformed database schema"), "{found:?}");
    let error = refused(&scratch);
    assert!(matches!(error.fault, OpenFault::Corrupt(_)), "{error:?}");

    let scratch = filled().await;
    // A format of the schema that there is not.
    let mut file = OpenOptions::new().write(true).open(scratch.path()).unwrap();
    file.seek(SeekFrom::Start(44)).unwrap();
    file.write_all(&[0, 0, 0, 9]).unwrap();
    drop(file);
    let error = refused(&scratch);
    assert!(matches!(error.fault, OpenFault::Corrupt(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reference_to_nothing_is_found_by_the_check() {
    let scratch = filled().await;
    scratch
        .raw()
        .batch_execute("PRAGMA foreign_keys = OFF; DELETE FROM accounts")
        .unwrap();
    let found = scratch.open().await.integrity().await.unwrap();
    assert_eq!(found.len(), 100);
    assert!(
        found[0].contains("of api_keys refers to a row of accounts"),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_left_to_the_program_that_made_it() {
    let scratch = Scratch::new();
    let sqlite = scratch.open().await;
    scratch
        .raw()
        .batch_execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')")
        .unwrap();
    for error in [
        migrate::run(&sqlite).await.unwrap_err(),
        migrate::revert_last(&sqlite).await.unwrap_err(),
    ] {
        assert!(
            matches!(error, migrate::MigrateError::Newer(_)),
            "{error:?}"
        );
    }
    let error = refused(&scratch);
    assert!(matches!(error.fault, OpenFault::Newer(_)), "{error:?}");
    assert!(error.to_string().contains("29990101000000"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_is_kept_away() {
    let scratch = Scratch::new();
    let lock = ServerLock::acquire(&scratch.path()).unwrap();
    // By another name of the same place.
    let other = scratch.folder().join(".").join("keys.db");
    let error = ServerLock::acquire(&other).unwrap_err();
    assert!(matches!(error, LockError::Held(_)), "{error:?}");
    assert!(
        error.to_string().contains("another leadr-auth server"),
        "{error}"
    );
    drop(lock);
    let _lock = ServerLock::acquire(&other).unwrap();
    let nowhere = ServerLock::acquire(Path::new("/nowhere/keys.db")).unwrap_err();
    assert!(matches!(nowhere, LockError::Failed(..)), "{nowhere:?}");
}

/// Where a test may mount a small file system of its own, which needs root.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_to_be_full() {
    const FAILED: i32 = 101;
    let place = tempfile::TempDir::new().unwrap();
    let mount = r#"mount -t tmpfs -o size=256k tmpfs "$1" && cd "$1" && exec "$2" --ignored --exact "$3" --quiet"#;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", mount, "sh"])
        .arg(place.path())
        .arg(std::env::current_exe().unwrap())
        .arg("files::in_a_small_place_a_full_disk_is_said_to_be_full")
        .output();
    if let Ok(output) = output {
        assert_ne!(output.status.code(), Some(FAILED), "{output:?}");
    }
}

#[test]
#[ignore = "fills the file system that it runs in: `a_full_disk_is_said_to_be_full` runs it"]
fn in_a_small_place_a_full_disk_is_said_to_be_full() {
    let place = std::env::current_dir().unwrap();
    let config = SqliteConfig::new(place.join("keys.db"));
    drop(Sqlite::open(config.clone(), IfMissing::Create).unwrap());
    let mut filler = fs::File::create(place.join("filler")).unwrap();
    // No more than the small place has, where it runs in another one by mistake.
    for _ in 0..256 {
        if filler.write_all(&[1; 1024]).is_err() {
            break;
        }
    }
    for if_missing in [IfMissing::Fail, IfMissing::Create] {
        let error = Sqlite::open(config.clone(), if_missing).unwrap_err();
        assert!(matches!(error.fault, OpenFault::Full(_)), "{error:?}");
    }
    let other = SqliteConfig::new(place.join("other.db"));
    let error = Sqlite::open(other, IfMissing::Create).unwrap_err();
    assert!(matches!(error.fault, OpenFault::Full(_)), "{error:?}");
    drop(filler);
    fs::remove_file(place.join("filler")).unwrap();
    drop(Sqlite::open(config, IfMissing::Fail).unwrap());
    let names = fs::read_dir(&place)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["keys.db"]);
}

/// Modes do not bind root, so where that runs the tests this one runs itself again as nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_written_is_said_to_be_so() {
    if passed_as_nobody("files::what_may_not_be_written_is_said_to_be_so") {
        return;
    }
    let scratch = Scratch::new();
    drop(scratch.open().await);
    let allow = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(&scratch.path(), 0o400);
    let error = refused(&scratch);
    assert!(matches!(error.fault, OpenFault::ReadOnly(_)), "{error:?}");
    allow(&scratch.path(), 0o000);
    let error = refused(&scratch);
    assert!(matches!(error.fault, OpenFault::ReadOnly(_)), "{error:?}");
    allow(&scratch.path(), 0o600);
    allow(scratch.folder(), 0o500);
    let error = refused(&scratch);
    assert!(matches!(error.fault, OpenFault::ReadOnly(_)), "{error:?}");
    let lock = ServerLock::acquire(&scratch.path()).unwrap_err();
    assert!(matches!(lock, LockError::Failed(..)), "{lock:?}");
    allow(scratch.folder(), 0o700);
    for name in scratch.names() {
        allow(&scratch.folder().join(name), 0o600);
    }
    drop(scratch.open().await);
}
