//! Opens what the configuration names: the data directory, the database, the secret.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use leadr_auth_domain::Keyring;
use leadr_auth_memory::Memory;
use leadr_auth_ports::{Entropy, Stores};
use leadr_auth_postgres::{Postgres, PostgresConfig};
use leadr_auth_sqlite::{
    IfMissing, LockError, OpenError, OpenFault, ServerLock, Sqlite, SqliteConfig,
};

use crate::config::{
    ConfigFault, ConfigFaults, DATABASE_FILE, KEYRING_FILE_SETTING, KeptSecrets, SecretConfig,
    StorageConfig, StoreConfig,
};
use crate::keyring_file::{self, KeyringFileFault};
use crate::secret_file::{self, Strength};

/// An open database, or one that can be opened at any time.
#[derive(Clone)]
pub enum Database {
    /// In this process.
    Memory(Memory),
    /// In a file.
    Sqlite(Sqlite, SqliteConfig),
    /// In PostgreSQL. It need not be there yet.
    Postgres(Postgres, PostgresConfig),
}

/// Why the data directory is not used.
#[derive(Debug)]
pub enum DataDirError {
    /// It could not be made or looked at.
    Io(PathBuf, io::Error),
    /// Something else has its name.
    NotADirectory(PathBuf),
    /// Others than its owner may do something in it.
    OpenToOthers(PathBuf, u32),
}

impl fmt::Display for DataDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, _) => write!(f, "cannot use the data directory {}", path.display()),
            Self::NotADirectory(path) => {
                write!(
                    f,
                    "the data directory {} is not a directory",
                    path.display()
                )
            }
            Self::OpenToOthers(path, others) => write!(
                f,
                "the data directory {path} is open to others than its owner (permission bits {others:03o}), and it holds \
                 the secret and the keys' hashes: chmod 700 {path}",
                path = path.display()
            ),
        }
    }
}

impl std::error::Error for DataDirError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, source) => Some(source),
            Self::NotADirectory(_) | Self::OpenToOthers(..) => None,
        }
    }
}

/// Sees to it that the data directory is there, and nobody else's business.
pub fn prepare_data_dir(path: &Path) -> Result<(), DataDirError> {
    let is_new = fs::symlink_metadata(path).is_err();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| match fs::metadata(path) {
            Ok(there) if !there.is_dir() => DataDirError::NotADirectory(path.to_owned()),
            Ok(_) | Err(_) => DataDirError::Io(path.to_owned(), error),
        })?;
    if is_new {
        // What is kept in it is on the disk only when its own name is.
        path.join("..")
            .canonicalize()
            .and_then(File::open)
            .and_then(|above| above.sync_all())
            .map_err(|error| DataDirError::Io(path.to_owned(), error))?;
    }
    check_data_dir(path)
}

/// Has anything this name, if only a link that leads nowhere? `Path::exists` also says "no" where nobody may look, and what is
/// there then would be taken for what is still to be made.
pub fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        // What is below a file cannot be there.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Could a file be made in this folder? Makes nothing that can be seen or that stays.
pub fn could_make_file_in(folder: &Path) -> io::Result<()> {
    tempfile::tempfile_in(folder).map(drop)
}

/// Could the data directory be made? Makes nothing that can be seen or that stays.
pub fn could_make_data_dir(path: &Path) -> Result<(), DataDirError> {
    let there = path
        .ancestors()
        .map(|folder| {
            if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            }
        })
        .find(|folder| fs::symlink_metadata(folder).is_ok())
        .unwrap_or(Path::new("/"));
    could_make_file_in(there).map_err(|error| DataDirError::Io(path.to_owned(), error))
}

/// Is the data directory nobody else's business?
pub fn check_data_dir(path: &Path) -> Result<(), DataDirError> {
    let io = |error| DataDirError::Io(path.to_owned(), error);
    if !fs::metadata(path).map_err(io)?.is_dir() {
        return Err(DataDirError::NotADirectory(path.to_owned()));
    }
    let others = secret_file::for_others(path).map_err(io)?;
    if others != 0 {
        return Err(DataDirError::OpenToOthers(path.to_owned(), others));
    }
    Ok(())
}

/// Is a secret kept there? Where that cannot be told, none is made and none is missing.
fn is_secret_there(path: &Path) -> anyhow::Result<bool> {
    is_there(path)
        .with_context(|| format!("cannot tell whether the secret {} is there", path.display()))
}

/// Is a file with secrets its owner's only?
fn check_mode(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    if secret_file::for_others(path).with_context(|| format!("the secret {shown}"))? != 0 {
        bail!("the secret {shown} can be used by others than its owner: chmod 600 {shown}");
    }
    Ok(())
}

/// What is wrong with a keyring file is wrong with the configuration, though the file was not named in it.
pub(crate) fn keyring_faults(path: &Path, faults: &[KeyringFileFault]) -> ConfigFaults {
    let fault = |fault: &KeyringFileFault| ConfigFault {
        name: KEYRING_FILE_SETTING,
        what: format!("{}: {fault}", path.display()),
    };
    ConfigFaults(faults.iter().map(fault).collect())
}

/// The secrets in a keyring file, or everything that is wrong with them.
fn read_keyring(path: &Path) -> Result<(Keyring, Strength), ConfigFaults> {
    keyring_file::read(path).map_err(|faults| keyring_faults(path, &faults))
}

impl KeptSecrets {
    /// Is a keyring kept?
    pub fn is_keyring_there(&self) -> anyhow::Result<bool> {
        is_secret_there(&self.keyring)
    }

    /// Is any secret kept?
    pub fn are_there(&self) -> anyhow::Result<bool> {
        Ok(self.is_keyring_there()? || is_secret_there(&self.secret)?)
    }

    /// The secrets that are kept.
    pub fn read(&self) -> anyhow::Result<(Keyring, Strength)> {
        if self.is_keyring_there()? {
            check_mode(&self.keyring)?;
            return Ok(read_keyring(&self.keyring)?);
        }
        check_mode(&self.secret)?;
        let (pepper, strength) = secret_file::read(&self.secret)
            .with_context(|| format!("the secret {}", self.secret.display()))?;
        Ok((pepper.into(), strength))
    }
}

impl StorageConfig {
    /// Is anything kept in the data directory?
    pub fn uses_data_dir(&self) -> bool {
        matches!(self.secret, Some(SecretConfig::Kept(_))) || self.keeps_database()
    }

    /// Is the database in the data directory?
    fn keeps_database(&self) -> bool {
        let file = self.data_dir.join(DATABASE_FILE);
        matches!(&self.store, StoreConfig::Sqlite(sqlite) if sqlite.path == file)
    }

    /// Opens the database. With `IfMissing::Create` an SQLite file and the data directory are made where they are missing;
    /// PostgreSQL is not asked yet.
    pub fn open(&self, if_missing: IfMissing) -> anyhow::Result<Database> {
        if self.uses_data_dir() {
            match if_missing {
                IfMissing::Create => prepare_data_dir(&self.data_dir)?,
                IfMissing::Fail => match check_data_dir(&self.data_dir) {
                    // Only the secret may be meant to be there, and that is asked for later.
                    Err(DataDirError::Io(..)) if !self.keeps_database() => {}
                    Err(DataDirError::Io(path, error))
                        if error.kind() == io::ErrorKind::NotFound =>
                    {
                        bail!(
                            "there is no data directory {}: look at the path, or start the server, which makes one",
                            path.display()
                        )
                    }
                    checked => checked?,
                },
            }
        }
        Ok(match &self.store {
            StoreConfig::Memory => Database::Memory(Memory::new()),
            StoreConfig::Sqlite(config) => {
                Database::Sqlite(Sqlite::open(config.clone(), if_missing)?, config.clone())
            }
            StoreConfig::Postgres(config) => {
                Database::Postgres(Postgres::new(config.clone())?, config.clone())
            }
        })
    }

    /// Opens the database as the one server of it: with the lock that keeps others away from a file, and with everything
    /// made that is missing.
    pub fn open_for_server(&self) -> anyhow::Result<(Database, Option<ServerLock>)> {
        let StoreConfig::Sqlite(sqlite) = &self.store else {
            return Ok((self.open(IfMissing::Create)?, None));
        };
        match self.open(IfMissing::Create) {
            // Not before: beside a file that is not ours, nothing is made.
            Ok(database) => Ok((database, Some(ServerLock::acquire(&sqlite.path)?))),
            // A server that is writing is the better explanation, where there is one.
            Err(error) if is_unavailable(&error) => match ServerLock::acquire(&sqlite.path) {
                Err(held @ LockError::Held(_)) => Err(held.into()),
                Ok(_) | Err(LockError::Failed(..)) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Where a server that starts makes a secret, if it does: where none is kept, and no key can be stored under another.
    pub async fn is_secret_to_be_made(&self, stores: &Stores) -> anyhow::Result<Option<&Path>> {
        let kept = match &self.secret {
            Some(SecretConfig::Kept(kept)) if !kept.are_there()? => kept,
            _ => return Ok(None),
        };
        // A first start that was killed may have made a key and not come to registering the secret.
        let is_used =
            !stores.secrets.registered().await?.is_empty() || !stores.accounts.is_empty().await?;
        Ok((!is_used).then_some(&kept.secret))
    }

    /// The secrets under which the keys of `stores` are hashed. With `entropy` one is made where none is kept and none is
    /// registered and no account is there.
    pub async fn keyring(
        &self,
        stores: &Stores,
        entropy: Option<&dyn Entropy>,
    ) -> anyhow::Result<Keyring> {
        let kept = match &self.secret {
            Some(
                SecretConfig::Said(keyring, _)
                | SecretConfig::File(_, keyring, _)
                | SecretConfig::Random(keyring),
            ) => return Ok(keyring.clone()),
            Some(SecretConfig::Kept(kept)) => kept,
            None => bail!("no secret is configured"),
        };
        let shown = kept.secret.display();
        if !kept.are_there()? {
            if self.is_secret_to_be_made(stores).await?.is_none() {
                bail!(
                    "the secret of the stored keys is missing: {shown} is not there, nor is the file keyring beside it. Put \
                     it back from your copy, or set API_KEY_SECRET; without it no stored key works, so none is made in its \
                     place"
                );
            }
            let Some(entropy) = entropy else {
                bail!(
                    "there is no secret yet: {shown} is made when `leadr-auth serve` first starts"
                );
            };
            secret_file::make(&kept.secret, entropy)?;
        }
        Ok(kept.read()?.0)
    }

    /// The secrets as they are in their file now. `None` where they are in none that is read again.
    pub fn read_keyring_again(&self) -> anyhow::Result<Option<Keyring>> {
        Ok(match &self.secret {
            Some(SecretConfig::File(path, ..)) => Some(read_keyring(path)?.0),
            Some(SecretConfig::Kept(kept)) => Some(kept.read()?.0),
            Some(SecretConfig::Said(..) | SecretConfig::Random(_)) | None => None,
        })
    }

    /// Sees whether the secrets that are kept, if some are, can be used: before anything is made that is of no use without
    /// them.
    pub fn check_kept_secret(&self) -> anyhow::Result<()> {
        match &self.secret {
            Some(SecretConfig::Kept(kept)) if kept.are_there()? => kept.read().map(drop),
            Some(_) | None => Ok(()),
        }
    }
}

fn is_unavailable(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<OpenError>()
        .is_some_and(|error| matches!(error.fault, OpenFault::Unavailable(_)))
}

impl Database {
    /// All the ports.
    pub fn stores(&self) -> Stores {
        match self {
            Self::Memory(memory) => memory.stores(),
            Self::Sqlite(sqlite, _) => sqlite.stores(),
            Self::Postgres(postgres, _) => postgres.stores(),
        }
    }

    /// Closes what should be closed in order.
    pub async fn close(&self) {
        if let Self::Sqlite(sqlite, _) = self {
            sqlite.close().await;
        }
    }

    /// Brings the schema up to date. Answers the versions of the migrations that ran now.
    pub async fn migrate(&self) -> Result<Vec<String>, MigrateError> {
        match self {
            Self::Memory(_) => Ok(Vec::new()),
            Self::Sqlite(sqlite, _) => leadr_auth_sqlite::migrate::run(sqlite)
                .await
                .map_err(MigrateError::Sqlite),
            Self::Postgres(_, config) => leadr_auth_postgres::migrate::run(config)
                .await
                .map_err(MigrateError::Postgres),
        }
    }

    /// As [`Database::migrate`], for a tool: not behind the back of a server on the same file, which would go on with the
    /// schema that it knows.
    pub async fn migrate_without_server(&self) -> anyhow::Result<Vec<String>> {
        let _lock = match self {
            Self::Sqlite(_, config) if !self.pending_migrations().await?.is_empty() => {
                Some(ServerLock::acquire(&config.path)?)
            }
            Self::Sqlite(..) | Self::Memory(_) | Self::Postgres(..) => None,
        };
        Ok(self.migrate().await?)
    }

    /// The versions of the migrations that have not run yet. Nothing is changed.
    pub async fn pending_migrations(&self) -> Result<Vec<String>, SchemaError> {
        let pending = match self {
            Self::Memory(_) => Ok(Vec::new()),
            Self::Sqlite(sqlite, _) => leadr_auth_sqlite::migrate::pending(sqlite)
                .await
                .map_err(MigrateError::Sqlite),
            Self::Postgres(_, config) => leadr_auth_postgres::migrate::pending(config)
                .await
                .map_err(MigrateError::Postgres),
        };
        pending.map_err(SchemaError)
    }
}

/// Why a database was not migrated.
#[derive(Debug)]
pub enum MigrateError {
    /// One in a file.
    Sqlite(leadr_auth_sqlite::migrate::MigrateError),
    /// One in PostgreSQL.
    Postgres(leadr_auth_postgres::migrate::MigrateError),
}

impl MigrateError {
    /// May the same call succeed later, of itself? A file is there or it is not.
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Postgres(leadr_auth_postgres::migrate::MigrateError::Unavailable(_))
        )
    }

    /// Is it only that the database cannot be asked now?
    pub const fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Postgres(leadr_auth_postgres::migrate::MigrateError::Unavailable(_))
                | Self::Sqlite(leadr_auth_sqlite::migrate::MigrateError::Unavailable(_))
        )
    }
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(error) => error.fmt(f),
            Self::Postgres(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MigrateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Sqlite(error) => error.source(),
            Self::Postgres(error) => error.source(),
        }
    }
}

/// Why it could not be found out which migrations have run. Nobody has tried to run any.
#[derive(Debug)]
pub struct SchemaError(MigrateError);

impl SchemaError {
    /// Is it only that the database cannot be asked now?
    pub const fn is_unavailable(&self) -> bool {
        self.0.is_unavailable()
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use leadr_auth_postgres::migrate::MigrateError as Postgres;
        use leadr_auth_sqlite::migrate::MigrateError as Sqlite;
        match &self.0 {
            MigrateError::Postgres(Postgres::Unavailable(_))
            | MigrateError::Sqlite(Sqlite::Unavailable(_)) => {
                f.write_str("the database is not available")
            }
            MigrateError::Postgres(Postgres::Failed(_))
            | MigrateError::Sqlite(Sqlite::Failed(_)) => {
                f.write_str("the database's schema cannot be looked at")
            }
            // These say what was found.
            error @ (MigrateError::Postgres(Postgres::Newer(_) | Postgres::NoRight(_))
            | MigrateError::Sqlite(Sqlite::Newer(_))) => error.fmt(f),
        }
    }
}

impl std::error::Error for SchemaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
