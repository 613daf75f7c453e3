//! Databases of a test's own.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use diesel::{Connection as _, SqliteConnection, connection::SimpleConnection as _};
use leadr_auth_domain::{Pepper, SealedAuditKey};
use leadr_auth_ports::{
    ImportMode, Stores,
    contract::fixtures::{account, all_noted, audit_key, entry, key},
};
use leadr_auth_sqlite::{IfMissing, Sqlite, SqliteConfig, migrate};
use tempfile::TempDir;

/// A folder with a database in it, which goes when this is dropped.
pub(crate) struct Scratch {
    folder: TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder().join("keys.db")
    }

    /// What is in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A connection that the adapter knows nothing of.
    pub(crate) fn raw(&self) -> SqliteConnection {
        raw(&self.path())
    }

    pub(crate) fn config(&self) -> SqliteConfig {
        SqliteConfig::new(self.path())
    }

    /// The database, made and migrated.
    pub(crate) async fn open(&self) -> Sqlite {
        let sqlite = Sqlite::open(self.config(), IfMissing::Create).unwrap();
        migrate::run(&sqlite).await.unwrap();
        sqlite
    }
}

/// The key of the audit trail, encrypted under a secret.
pub(crate) fn sealed(secret: &str) -> SealedAuditKey {
    let pepper = Pepper::new(secret).unwrap();
    pepper
        .seal_audit_key(&audit_key(), [3; SealedAuditKey::NONCE_BYTES])
        .unwrap()
}

pub(crate) fn raw(path: &Path) -> SqliteConnection {
    let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    connection
        .batch_execute("PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON")
        .unwrap();
    connection
}

pub(crate) async fn fresh() -> (Scratch, Stores) {
    let scratch = Scratch::new();
    let stores = scratch.open().await.stores();
    (scratch, stores)
}

/// A file that is open twice, as by a server and a command line.
pub(crate) async fn opened_twice() -> (Scratch, Stores, Stores) {
    let (scratch, one) = fresh().await;
    let two = Sqlite::open(scratch.config(), IfMissing::Fail).unwrap();
    (scratch, one, two.stores())
}

/// A database with a hundred keys.
pub(crate) async fn filled() -> Scratch {
    let scratch = Scratch::new();
    let stores = scratch.open().await.stores();
    let owner = account(1);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    let keys: Vec<_> = (0..100).map(|n| key(n, &owner)).collect();
    stores
        .transfer
        .import_keys(&all_noted(&keys), ImportMode::Commit)
        .await
        .unwrap();
    scratch
}

/// Modes do not bind root, so where that runs the tests, a test of them runs itself again as nobody, and is done with that.
pub(crate) fn passed_as_nobody(test: &str) -> bool {
    const NOBODY: u32 = 65534;
    let folder = TempDir::new().unwrap();
    if fs::metadata(folder.path()).unwrap().uid() != 0 {
        return false;
    }
    let program = folder.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for path in [folder.path(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let status = Command::new(&program)
        .args(["--exact", test, "--quiet"])
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .unwrap();
    assert!(status.success(), "failed as nobody");
    true
}
