//! Databases of a test's own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use diesel::{Connection as _, SqliteConnection, connection::SimpleConnection as _};
use leadr_auth_ports::Stores;
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
