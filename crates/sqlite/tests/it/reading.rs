//! Opening for reading only, which leaves everything as it is.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use diesel::connection::SimpleConnection as _;
use leadr_auth_domain::{Pepper, PepperId};
use leadr_auth_ports::{
    CreateAccountError, ImportMode, StoreError, StoredPepper, Totals,
    contract::fixtures::{SECRET, account, all_noted, entry, key},
};
use leadr_auth_sqlite::{IfMissing, OpenError, OpenFault, Sqlite, SqliteConfig, migrate};

use crate::support::{Scratch, filled, passed_as_nobody, raw, sealed};

/// The names and contents of what is in the folder.
fn everything(scratch: &Scratch) -> Vec<(String, Vec<u8>)> {
    let content = |name: String| {
        let content = fs::read(scratch.folder().join(&name)).unwrap();
        (name, content)
    };
    scratch.names().into_iter().map(content).collect()
}

fn open(path: &Path) -> Result<Sqlite, OpenError> {
    Sqlite::open_to_read(SqliteConfig::new(path))
}

/// Reads all that an import from there reads, and answers how much there is.
async fn totals(sqlite: &Sqlite) -> Result<Totals, StoreError> {
    let stores = sqlite.stores();
    stores.secrets.registered().await?;
    assert_eq!(migrate::pending(sqlite).await.unwrap(), [""; 0]);
    let mut snapshot = stores.transfer.snapshot().await?;
    snapshot.secrets().await?;
    let (totals, accounts) = (
        snapshot.totals().await?,
        snapshot.accounts(None, 1000).await?,
    );
    let keys = snapshot.keys(None, 1000).await?;
    assert_eq!(u64::try_from(accounts.len()).unwrap(), totals.accounts);
    assert_eq!(u64::try_from(keys.len()).unwrap(), totals.keys);
    Ok(totals)
}

const FILLED: Totals = Totals {
    accounts: 1,
    keys: 100,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_read_stays_as_it_is() {
    let scratch = filled().await;
    let check = Pepper::new(SECRET).unwrap().check();
    scratch
        .open()
        .await
        .stores()
        .secrets
        .register(
            &StoredPepper::new(PepperId::default(), check.clone(), sealed(SECRET)),
            false,
            &entry(),
        )
        .await
        .unwrap();
    for journal in ["WAL", "DELETE"] {
        raw(&scratch.path())
            .batch_execute(&format!("PRAGMA journal_mode = {journal}"))
            .unwrap();
        let before = everything(&scratch);
        let sqlite = open(&scratch.path()).unwrap();
        assert_eq!(totals(&sqlite).await.unwrap(), FILLED);
        let registered = sqlite.stores().secrets.registered().await.unwrap();
        let registered: Vec<_> = registered
            .iter()
            .map(|pepper| pepper.check.expose_hex())
            .collect();
        assert_eq!(registered, [check.expose_hex()]);
        assert!(
            everything(&scratch) == before,
            "{journal}: while it is open"
        );
        sqlite.close().await;
        drop(sqlite);
        assert!(everything(&scratch) == before, "{journal}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_read_is_not_written_to() {
    let scratch = filled().await;
    let before = everything(&scratch);
    let sqlite = open(&scratch.path()).unwrap();
    let stores = sqlite.stores();
    let created = stores.accounts.create(&account(2), &entry()).await;
    assert!(
        matches!(
            created,
            Err(CreateAccountError::Store(StoreError::Internal(_)))
        ),
        "{created:?}"
    );
    let keys = [key(200, &account(1))];
    for mode in [ImportMode::DryRun, ImportMode::Commit] {
        let imported = stores.transfer.import_keys(&all_noted(&keys), mode).await;
        assert!(
            matches!(imported, Err(StoreError::Internal(_))),
            "{imported:?}"
        );
    }
    assert!(migrate::run(&sqlite).await.is_err());
    assert!(migrate::revert_last(&sqlite).await.is_err());
    let to = scratch.folder().join("copy.db");
    assert!(sqlite.backup(&to).await.is_err());
    assert!(sqlite.integrity().await.is_err());
    drop((sqlite, stores));
    assert!(everything(&scratch) == before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_made_to_be_read() {
    let scratch = Scratch::new();
    let fault = || open(&scratch.path()).unwrap_err().fault;
    assert!(matches!(fault(), OpenFault::Missing));
    assert!(scratch.names().is_empty());
    fs::write(scratch.path(), "").unwrap();
    assert!(matches!(fault(), OpenFault::Missing));
    raw(&scratch.path())
        .batch_execute("CREATE TABLE songs (name TEXT)")
        .unwrap();
    assert!(matches!(fault(), OpenFault::Foreign));
    assert_eq!(scratch.names(), ["keys.db"]);
}

/// What is in the log ahead of a server counts too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_has_open_can_be_read() {
    let scratch = filled().await;
    let server = scratch.open().await.stores();
    server.accounts.create(&account(2), &entry()).await.unwrap();
    let content =
        || ["keys.db", "keys.db-wal"].map(|name| fs::read(scratch.folder().join(name)).unwrap());
    let before = content();
    let sqlite = open(&scratch.path()).unwrap();
    assert_eq!(totals(&sqlite).await.unwrap().accounts, 2);
    assert!(before == content(), "the file or its log has changed");
    server.accounts.create(&account(3), &entry()).await.unwrap();
    assert_eq!(totals(&sqlite).await.unwrap().accounts, 3);
    drop(sqlite);
    server.accounts.create(&account(4), &entry()).await.unwrap();
}

/// A log ahead that a process left which was killed is read, and stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_left_in_a_log_can_be_read() {
    let (source, scratch) = (filled().await, Scratch::new());
    let server = source.open().await.stores();
    server.accounts.create(&account(2), &entry()).await.unwrap();
    let names = ["keys.db", "keys.db-wal"];
    for name in names {
        fs::copy(source.folder().join(name), scratch.folder().join(name)).unwrap();
    }
    let content = || names.map(|name| fs::read(scratch.folder().join(name)).unwrap());
    let before = content();
    let sqlite = open(&scratch.path()).unwrap();
    assert_eq!(totals(&sqlite).await.unwrap().accounts, 2);
    drop(sqlite);
    assert!(before == content(), "the file or its log has changed");
}

/// What is read as if nobody had it open is not relied on when somebody has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_begins_meanwhile_is_noticed() {
    let scratch = filled().await;
    let sqlite = open(&scratch.path()).unwrap();
    let mut snapshot = sqlite.stores().transfer.snapshot().await.unwrap();
    assert_eq!(snapshot.totals().await.unwrap(), FILLED);
    let server = Sqlite::open(scratch.config(), IfMissing::Fail).unwrap();
    let read = snapshot.totals().await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    server
        .stores()
        .accounts
        .create(&account(2), &entry())
        .await
        .unwrap();
    drop(server);
    // It is gone, and the file is another.
    let read = totals(&sqlite).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert_eq!(
        totals(&open(&scratch.path()).unwrap())
            .await
            .unwrap()
            .accounts,
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_only_be_read_can_be_read() {
    if passed_as_nobody("reading::what_may_only_be_read_can_be_read") {
        return;
    }
    let (source, scratch) = (filled().await, Scratch::new());
    let sqlite = source.open().await;
    sqlite.backup(&scratch.path()).await.unwrap();
    let allow = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(&scratch.path(), 0o444);
    allow(scratch.folder(), 0o555);
    let before = everything(&scratch);
    let sqlite = open(&scratch.path()).unwrap();
    assert_eq!(totals(&sqlite).await.unwrap(), FILLED);
    drop(sqlite);
    assert!(everything(&scratch) == before);
    allow(scratch.folder(), 0o755);
}
