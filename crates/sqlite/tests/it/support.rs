//! Databases of a test's own.

use std::path::{Path, PathBuf};

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

pub(crate) async fn fresh() -> (Scratch, Stores) {
    let scratch = Scratch::new();
    let stores = scratch.open().await.stores();
    (scratch, stores)
}
