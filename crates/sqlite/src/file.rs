//! The file: opening and making it, keeping a second server away from it, copying and checking it.
//!
//! SQLite's locks are those of POSIX, which a process loses as soon as it closes any descriptor of the file. So the file is
//! never opened but through SQLite; what can be known about it from outside is asked of its folder.

use std::{
    ffi::OsString,
    fmt::{self, Write as _},
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use diesel::{
    ConnectionResult, QueryResult, connection::SimpleConnection as _, prelude::*,
    sqlite::SqliteConnection,
};
use leadr_auth_ports::{BoxError, StoreError};

use crate::{
    SqliteConfig,
    error::{self, Symptom},
    migrate, transfer,
};

/// By which a file of ours is known: `ldra` in ASCII.
const APPLICATION_ID: i32 = i32::from_be_bytes(*b"ldra");

/// Nobody but the owner reads what is in it.
const MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

// What SQLite's pragmas tell, as the tables that it also offers them as.
diesel::table! {
    pragma_application_id (application_id) {
        application_id -> Integer,
    }
}
diesel::table! {
    pragma_page_count (page_count) {
        page_count -> BigInt,
    }
}
diesel::table! {
    pragma_page_size (page_size) {
        page_size -> BigInt,
    }
}
diesel::table! {
    pragma_journal_mode (journal_mode) {
        journal_mode -> Text,
    }
}
diesel::table! {
    pragma_integrity_check (integrity_check) {
        integrity_check -> Text,
    }
}
diesel::table! {
    pragma_quick_check (quick_check) {
        quick_check -> Text,
    }
}
diesel::table! {
    pragma_foreign_key_check (rowid) {
        #[sql_name = "table"]
        child -> Text,
        rowid -> Nullable<BigInt>,
        parent -> Text,
    }
}
diesel::table! {
    sqlite_schema (name) {
        name -> Text,
    }
}

/// What to do where there is no database yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMissing {
    /// Make one, without tables: [`migrate::run`] makes those.
    Create,
    /// Say so.
    Fail,
}

/// Why a database was not opened. Where it is not ours, it is as it was.
#[derive(Debug)]
pub struct OpenError {
    /// Which one.
    pub path: PathBuf,
    /// What is the matter.
    pub fault: OpenFault,
}

/// What is the matter with a file that was to be opened.
#[derive(Debug)]
pub enum OpenFault {
    /// There is none, or it is empty, and it was not to be made.
    Missing,
    /// Its folder is not there.
    NoFolder,
    /// It is a folder, or something else that is not a file.
    NotAFile,
    /// It is a link, and where that leads there is nothing.
    DeadLink,
    /// It is not SQLite's, or it is another program's.
    Foreign,
    /// It, or what belongs to it, is not whole.
    Corrupt(BoxError),
    /// It, or its folder, may not be written to, or not be looked into.
    ReadOnly(BoxError),
    /// There is no room left.
    Full(BoxError),
    /// A newer program has brought it to this version, which the program at hand does not know.
    Newer(String),
    /// It cannot be opened now. Later may be another story.
    Unavailable(BoxError),
}

impl OpenFault {
    /// This fault, of the file at `path`.
    pub(crate) fn at(self, path: &Path) -> OpenError {
        OpenError {
            path: path.to_owned(),
            fault: self,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.fault {
            OpenFault::Missing => write!(
                f,
                "there is no database in {path}: look at the path, or start the server, which makes one"
            ),
            OpenFault::NoFolder => {
                write!(f, "the folder of {path} is not there: make it")
            }
            OpenFault::NotAFile => {
                write!(f, "{path} is not a file: name a file for the database")
            }
            OpenFault::DeadLink => write!(
                f,
                "{path} is a link that leads nowhere: mend it, or name the file itself"
            ),
            OpenFault::Foreign => write!(
                f,
                "{path} is not a database of leadr-auth, and was left as it is: name another file"
            ),
            OpenFault::Corrupt(_) => {
                write!(f, "the database {path} is damaged: put back a backup of it")
            }
            OpenFault::ReadOnly(_) => write!(
                f,
                "the database {path} cannot be written: give the user of this program the right to read and write the \
                 file, those beside it whose names begin with its own, and their folder"
            ),
            OpenFault::Full(_) => {
                write!(f, "there is no room for the database {path}: make some")
            }
            OpenFault::Newer(version) => write!(
                f,
                "the schema of {path} is newer than this program knows ({version}): run the program that made it"
            ),
            OpenFault::Unavailable(_) => write!(
                f,
                "the database {path} cannot be opened now: try again later"
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            OpenFault::Missing
            | OpenFault::NoFolder
            | OpenFault::NotAFile
            | OpenFault::DeadLink
            | OpenFault::Foreign
            | OpenFault::Newer(_) => None,
            OpenFault::Corrupt(source)
            | OpenFault::ReadOnly(source)
            | OpenFault::Full(source)
            | OpenFault::Unavailable(source) => Some(source.as_ref()),
        }
    }
}

fn fault(symptom: Symptom, source: BoxError) -> OpenFault {
    match symptom {
        Symptom::Foreign => OpenFault::Foreign,
        Symptom::Corrupt => OpenFault::Corrupt(source),
        // The file is there, so it is the right to it that is not; or the right to make files beside it.
        Symptom::ReadOnly | Symptom::Closed => OpenFault::ReadOnly(source),
        Symptom::Full => OpenFault::Full(source),
        Symptom::Busy | Symptom::Device | Symptom::Unmigrated | Symptom::Other => {
            OpenFault::Unavailable(source)
        }
    }
}

impl From<diesel::result::Error> for OpenFault {
    fn from(error: diesel::result::Error) -> Self {
        fault(error::symptom(&error), error.into())
    }
}

impl From<ConnectionError> for OpenFault {
    fn from(error: ConnectionError) -> Self {
        fault(error::symptom_of_connecting(&error), error.into())
    }
}

impl From<io::Error> for OpenFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Self::ReadOnly(error.into())
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full(error.into()),
            _ => Self::Unavailable(error.into()),
        }
    }
}

/// The path with nothing relative and no link in it, so that everybody means the same file, and the same files beside it.
/// The file itself need not be there.
fn resolve(path: &Path) -> Result<PathBuf, OpenFault> {
    match fs::canonicalize(path) {
        Ok(path) => return Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Err(OpenFault::NoFolder),
        Err(error) => return Err(error.into()),
    }
    // Under its own name nothing could be made, and whether it is to be made where the link leads is not ours to say.
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        return Err(OpenFault::DeadLink);
    }
    let name = path.file_name().ok_or(OpenFault::NotAFile)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match fs::canonicalize(folder) {
        Ok(folder) => Ok(folder.join(name)),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(OpenFault::NoFolder),
        Err(error) => Err(error.into()),
    }
}

/// The file beside `path` whose name ends in `ending`.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// How long a file is; nothing where it is not there.
fn length(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// How to ask SQLite for a file. As a URI, because that is the only way to say that the file is not to be made by the way,
/// and no character of a path means anything else.
fn uri(path: &Path, mode: &str) -> String {
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri.push_str("?mode=");
    uri.push_str(mode);
    uri
}

fn establish(path: &Path, mode: &str, busy: Duration) -> ConnectionResult<SqliteConnection> {
    let mut connection = SqliteConnection::establish(&uri(path, mode))?;
    // `FULL`, because the default for a log ahead may lose what was acknowledged when the power fails. What a schema says is
    // not trusted, and pages are looked at before they are believed: the file may have been in other hands. The
    // log is moved into the file every 16 MiB, four times the default: pages that many commits change are so moved once.
    let settings = format!(
        "PRAGMA busy_timeout = {}; \
         PRAGMA synchronous = FULL; \
         PRAGMA foreign_keys = ON; \
         PRAGMA trusted_schema = OFF; \
         PRAGMA cell_size_check = ON; \
         PRAGMA temp_store = MEMORY; \
         PRAGMA wal_autocheckpoint = 4000; \
         PRAGMA journal_size_limit = 67108864",
        busy.as_millis()
    );
    connection
        .batch_execute(&settings)
        .map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

/// A connection to a file that is there.
pub(crate) fn connect(path: &Path, config: &SqliteConfig) -> ConnectionResult<SqliteConnection> {
    establish(path, "rw", config.busy_timeout)
}

/// What the connections of one opening may do.
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// Write, and whatever it takes to keep the file in order.
    Write,
    /// Read, beside others who may write: their log ahead, and its index, are gone by.
    Read,
    /// Read what nobody has open, without looking for a log ahead or making one.
    ReadStill(Still),
}

impl Access {
    /// Fails where what has just been read cannot be relied on.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::Write | Self::Read => Ok(()),
            Self::ReadStill(still) => match Still::of(&still.path) {
                Ok(Some(now)) if now == *still => Ok(()),
                Ok(_) => Err(StoreError::unavailable(
                    "another process has begun to write to the file while it was read: try again",
                )),
                Err(error) => Err(StoreError::unavailable(error)),
            },
        }
    }
}

/// A file that nobody has open, and by what it is seen that this is so still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Still {
    path: PathBuf,
    file: u64,
    length: u64,
    changed: SystemTime,
}

impl Still {
    /// `None` where somebody may have it open, or has left something beside it that belongs to it.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        let found = fs::metadata(path)?;
        let is_there = |ending| fs::exists(beside(path, ending));
        // Who has it open has both a log ahead and its index, even while there is nothing in them.
        let is_open = is_there("-wal")? && is_there("-shm")?;
        if is_open || length(&beside(path, "-wal"))? > 0 || length(&beside(path, "-journal"))? > 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            path: path.to_owned(),
            file: found.ino(),
            length: found.len(),
            changed: found.modified()?,
        }))
    }
}

/// A connection that refuses to write. Where the access is for writing it could all the same, since the last one to be closed
/// has to write the log ahead into the file.
pub(crate) fn connect_to_read(
    path: &Path,
    config: &SqliteConfig,
    access: &Access,
) -> ConnectionResult<SqliteConnection> {
    let mode = match access {
        Access::Write => "rw",
        Access::Read => "ro",
        Access::ReadStill(_) => "ro&immutable=1",
    };
    let mut connection = establish(path, mode, config.busy_timeout)?;
    connection
        .batch_execute("PRAGMA query_only = ON")
        .map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

/// The path of a file that is only to be read, and how it can be, after every check that can be made without reading all of
/// it.
pub(crate) fn open_to_read(config: &SqliteConfig) -> Result<(PathBuf, Access), OpenError> {
    let path = resolve(&config.path).map_err(|fault| fault.at(&config.path))?;
    match look_into(&path, config) {
        Ok(access) => Ok((path, access)),
        Err(fault) => Err(fault.at(&path)),
    }
}

fn look_into(path: &Path, config: &SqliteConfig) -> Result<Access, OpenFault> {
    find_or_make(path, config, IfMissing::Fail)?;
    let access = match Still::of(path)? {
        Some(still) => Access::ReadStill(still),
        None => Access::Read,
    };
    let mut connection = connect_to_read(path, config, &access)?;
    if is_new(&mut connection)? {
        return Err(OpenFault::Missing);
    }
    check_length(&mut connection, path)?;
    match migrate::unknown(&mut connection)? {
        Some(version) => Err(OpenFault::Newer(version)),
        None => Ok(access),
    }
}

/// The path of the file, and the connection for writing to it, after every check that can be made without reading all of it.
pub(crate) fn open(
    config: &SqliteConfig,
    if_missing: IfMissing,
) -> Result<(PathBuf, SqliteConnection), OpenError> {
    let path = resolve(&config.path).map_err(|fault| fault.at(&config.path))?;
    match open_resolved(&path, config, if_missing) {
        Ok(connection) => Ok((path, connection)),
        Err(fault) => Err(explain(&path, fault).at(&path)),
    }
}

/// Where SQLite only says that it could not read or write, or could not make a file, it may be for want of room: it has no
/// words for a log ahead whose index does not fit. Then nothing else fits there either.
pub(crate) fn explain(path: &Path, fault: OpenFault) -> OpenFault {
    let (OpenFault::Unavailable(source) | OpenFault::ReadOnly(source)) = &fault else {
        return fault;
    };
    match error::symptom_of_any(source) {
        Some(Symptom::Device | Symptom::Closed) => {}
        _ => return fault,
    }
    match write_beside(path).map_err(OpenFault::from) {
        Err(full @ OpenFault::Full(_)) => full,
        _ => fault,
    }
}

/// Writes as much beside `path` as the index of a log ahead takes at first, and takes it away again.
fn write_beside(path: &Path) -> io::Result<()> {
    let scratch = Scratch::beside(path)?;
    fs::write(&scratch.file, vec![1; 32 * 1024])
}

fn open_resolved(
    path: &Path,
    config: &SqliteConfig,
    if_missing: IfMissing,
) -> Result<SqliteConnection, OpenFault> {
    find_or_make(path, config, if_missing)?;
    check_owner(path, config)?;
    let mut connection = connect(path, config)?;
    // Asked again, because what was cut short is taken back only now.
    if is_new(&mut connection)? {
        claim(&mut connection)?;
    }
    keep_a_log_ahead(&mut connection, config.busy_timeout)?;
    // Writes what is there, and takes it back: whoever may not write does not get that far. To begin is not enough, since
    // SQLite then begins to read.
    connection.batch_execute(&format!(
        "BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; ROLLBACK"
    ))?;
    check_length(&mut connection, path)?;
    if let Some(version) = migrate::unknown(&mut connection)? {
        return Err(OpenFault::Newer(version));
    }
    Ok(connection)
}

fn find_or_make(
    path: &Path,
    config: &SqliteConfig,
    if_missing: IfMissing,
) -> Result<(), OpenFault> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    match &metadata {
        Some(found) if !found.is_file() => return Err(OpenFault::NotAFile),
        // Which SQLite takes for an empty one.
        Some(found) if found.len() == 1 => return Err(OpenFault::Foreign),
        Some(found) if found.len() > 0 => return Ok(()),
        Some(_) | None => {}
    }
    // SQLite would take the log for a leftover, and delete it.
    if length(&beside(path, "-wal"))? > 0 {
        return Err(OpenFault::Corrupt(
            "there is a log ahead (-wal) of a database that is not there, or is empty".into(),
        ));
    }
    if if_missing == IfMissing::Fail {
        return Err(OpenFault::Missing);
    }
    if metadata.is_some() {
        return Ok(());
    }
    make(path, config, |from, to| fs::hard_link(from, to))
}

/// Makes a database that is ours from the moment at which it has its name. A process that is killed meanwhile leaves none: of
/// one that was begun under that name, nobody could tell whose it is without writing to it.
///
/// Where the file system has no links it can have its name only while it is empty. To be claimed it then waits for what
/// comes next, as any empty file: another process that finds it is as welcome to do that.
fn make(path: &Path, config: &SqliteConfig, link: Link) -> Result<(), OpenFault> {
    let scratch = Scratch::beside(path)?;
    let mut connection = connect(&scratch.file, config)?;
    claim(&mut connection)?;
    keep_a_log_ahead(&mut connection, config.busy_timeout)?;
    // The last connection writes the log ahead into the file.
    drop(connection);
    let named = match link(&scratch.file, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => create_new(path),
        linked => linked,
    };
    match named {
        Ok(()) => {}
        // Another process was quicker.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.into()),
    }
    drop(scratch);
    // The name is kept in the folder.
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    Ok(())
}

/// An error where the file is somebody else's. Asks through a connection that cannot write, whatever it meets: recovering
/// what is not ours would be a change.
fn check_owner(path: &Path, config: &SqliteConfig) -> Result<(), OpenFault> {
    let ask = |mode| is_new(&mut establish(path, mode, config.busy_timeout)?).map(drop);
    match ask("ro") {
        // A process was killed while it wrote without a log ahead, as the first one to open a file does. What it began has to
        // be taken back before anything is read, which needs a right that this connection has not. Whose the file is can be
        // told all the same, from the file alone.
        Err(OpenFault::ReadOnly(_)) if length(&beside(path, "-journal"))? > 0 => {
            ask("ro&immutable=1")
        }
        answered => answered,
    }
}

/// Is it a database that nobody has put anything into? An error where it is somebody else's.
fn is_new(connection: &mut SqliteConnection) -> Result<bool, OpenFault> {
    let id: i32 = pragma_application_id::table
        .select(pragma_application_id::application_id)
        .first(connection)?;
    if id == APPLICATION_ID {
        return Ok(false);
    }
    let tables: i64 = sqlite_schema::table.count().get_result(connection)?;
    if id == 0 && tables == 0 {
        Ok(true)
    } else {
        Err(OpenFault::Foreign)
    }
}

/// Marks a new file as ours.
fn claim(connection: &mut SqliteConnection) -> Result<(), OpenFault> {
    connection.immediate_transaction(|connection| {
        // Somebody else may have been quicker.
        if is_new(connection)? {
            connection.batch_execute(&format!("PRAGMA application_id = {APPLICATION_ID}"))?;
        }
        Ok(())
    })
}

/// Turns on the log ahead (WAL), by which reading goes on while somebody writes. It stays on, so this does something once in
/// the life of a file.
fn keep_a_log_ahead(
    connection: &mut SqliteConnection,
    patience: Duration,
) -> Result<(), OpenFault> {
    let start = Instant::now();
    // This one does not wait for locks by itself.
    while let Err(error) = connection.batch_execute("PRAGMA journal_mode = WAL") {
        if error::symptom(&error) != Symptom::Busy || start.elapsed() > patience {
            return Err(error.into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    let mode: String = pragma_journal_mode::table
        .select(pragma_journal_mode::journal_mode)
        .first(connection)?;
    if mode == "wal" {
        Ok(())
    } else {
        Err(OpenFault::Unavailable(
            format!("its file system does not allow a log ahead (the journal mode is {mode})")
                .into(),
        ))
    }
}

/// A file that was cut off is shorter than it says, by more than the log ahead can hold. SQLite notices by itself where there
/// is no log.
fn check_length(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenFault> {
    let pages: i64 = pragma_page_count::table
        .select(pragma_page_count::page_count)
        .first(connection)?;
    let page: i64 = pragma_page_size::table
        .select(pragma_page_size::page_size)
        .first(connection)?;
    let expected = pages.unsigned_abs().saturating_mul(page.unsigned_abs());
    // The log first: what is moved meanwhile is moved from there into the file.
    let found = length(&beside(path, "-wal"))?.saturating_add(length(path)?);
    if found < expected {
        return Err(OpenFault::Corrupt(
            format!("it should have {expected} bytes, and has {found}").into(),
        ));
    }
    Ok(())
}

/// What keeps a second server away from a database: a lock on a file beside it. The operating system takes it off when the
/// process ends, however it ends.
#[derive(Debug)]
#[must_use = "dropping it lets another server in"]
pub struct ServerLock {
    _file: File,
}

/// Why there is no lock.
#[derive(Debug)]
pub enum LockError {
    /// Another server has it, on the database of this path.
    Held(PathBuf),
    /// The file of this path could not be made or locked.
    Failed(PathBuf, BoxError),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(path) => write!(
                f,
                "another leadr-auth server is running on {}: stop it first, or name another file",
                path.display()
            ),
            Self::Failed(path, _) => write!(
                f,
                "{} cannot be locked: give the user of this program the right to write it and its folder",
                path.display()
            ),
        }
    }
}

impl std::error::Error for LockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Held(_) => None,
            Self::Failed(_, source) => Some(source.as_ref()),
        }
    }
}

impl ServerLock {
    /// Takes the lock of the database in `path`, which need not be there yet, or fails after a tenth of a second.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let (resolved, lock) = Self::paths(path)?;
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE)
            .open(&lock);
        match opened {
            Ok(file) => Self::take(file, resolved, lock),
            Err(error) => Err(LockError::Failed(lock, error.into())),
        }
    }

    /// Does a server run on the database in `path`? Makes nothing. Takes the lock for a moment where nobody has it, since the
    /// operating system has no other way to ask.
    pub fn is_held(path: &Path) -> Result<bool, LockError> {
        let (resolved, lock) = Self::paths(path)?;
        let Some(file) = open_if_there(&lock)? else {
            return Ok(false);
        };
        match Self::take(file, resolved, lock) {
            Ok(_) => Ok(false),
            Err(LockError::Held(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Could a server take the lock of the database in `path`, if nobody had it? Takes and makes nothing.
    pub fn check(path: &Path) -> Result<(), LockError> {
        let (_, lock) = Self::paths(path)?;
        open_if_there(&lock).map(drop)
    }

    /// The path of the database with no link in it, and that of its lock.
    fn paths(path: &Path) -> Result<(PathBuf, PathBuf), LockError> {
        let resolved = resolve(path)
            .map_err(|fault| LockError::Failed(path.to_owned(), fault.at(path).into()))?;
        let lock = beside(&resolved, ".lock");
        Ok((resolved, lock))
    }

    /// Tries a few times: whoever asks [`ServerLock::is_held`] has the lock for a moment, which is neither to end a server
    /// that starts just then, nor to be taken for one.
    fn take(file: File, resolved: PathBuf, lock: PathBuf) -> Result<Self, LockError> {
        const TRIES: u32 = 5;
        const PAUSE: Duration = Duration::from_millis(20);
        for n in 0..TRIES {
            if n > 0 {
                thread::sleep(PAUSE);
            }
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(LockError::Failed(lock, error.into()));
                }
            }
        }
        Err(LockError::Held(resolved))
    }
}

/// The lock's file as who takes the lock opens it, where it is there.
fn open_if_there(lock: &Path) -> Result<Option<File>, LockError> {
    match OpenOptions::new().write(true).open(lock) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LockError::Failed(lock.to_owned(), error.into())),
    }
}

/// What is in a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// How long the file is.
    pub bytes: u64,
    /// How many accounts, deleted ones included.
    pub accounts: u64,
    /// How many keys, deleted ones included.
    pub keys: u64,
}

/// Why there is no backup. Nothing is left behind.
#[derive(Debug)]
pub enum BackupError {
    /// There is something in this path already.
    Exists(PathBuf),
    /// This path cannot be written to.
    Target(PathBuf, BoxError),
    /// What was written is not sound, for these reasons.
    Damaged(Vec<String>),
    /// The database could not be read, or not be written out.
    Store(StoreError),
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(path) => write!(
                f,
                "{} is there already, and is not overwritten: name another file",
                path.display()
            ),
            Self::Target(path, _) => write!(f, "{} cannot be written", path.display()),
            Self::Damaged(reasons) => {
                write!(f, "the copy is not sound: {}", reasons.join("; "))
            }
            Self::Store(_) => f.write_str("the database could not be copied"),
        }
    }
}

impl std::error::Error for BackupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Exists(_) | Self::Damaged(_) => None,
            Self::Target(_, source) => Some(source.as_ref()),
            Self::Store(source) => Some(source),
        }
    }
}

impl From<diesel::result::Error> for BackupError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Store(error::of_query(error))
    }
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A file that is taken away again unless it is kept, in a folder of its own, so that what SQLite puts beside it goes with it,
/// and cannot come afterwards.
#[derive(Debug)]
struct Scratch {
    folder: PathBuf,
    file: PathBuf,
}

/// Gives a file a second name.
type Link = fn(&Path, &Path) -> io::Result<()>;

impl Scratch {
    /// An empty file, which SQLite takes for one to write to, in a folder beside `path`. What the name of that ends in says
    /// whose it is, in case the process is killed. It is never used again: what was given up may still be worked on, and
    /// SQLite then takes away what lies beside it, by its name.
    fn beside(path: &Path) -> io::Result<Self> {
        const NAMES: u32 = 1000;
        static USED: AtomicU32 = AtomicU32::new(0);
        let process = process::id();
        for _ in 0..NAMES {
            let n = USED.fetch_add(1, Ordering::Relaxed);
            let folder = beside(path, &format!(".leadr-auth-part{process}-{n}"));
            match DirBuilder::new().mode(FOLDER_MODE).create(&folder) {
                Ok(()) => {
                    let file = folder.join("part");
                    let scratch = Self { folder, file };
                    create_new(&scratch.file)?;
                    return Ok(scratch);
                }
                // Of a process that was killed, and had the same number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Gives the file its name, where nothing has that name. Between two steps of it there may be an empty file of that name,
    /// where the file system has no links; whoever puts something into that one then loses it.
    fn keep_as(&self, path: &Path) -> io::Result<()> {
        match fs::hard_link(&self.file, path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
            // To take the name first is the other way not to overwrite anything.
            Err(_) => {
                create_new(path)?;
                fs::rename(&self.file, path)
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whatever still works in it may put something in or take something out in between, though not often.
        const TRIES: u32 = 10;
        for _ in 0..TRIES {
            if fs::remove_dir_all(&self.folder).is_ok() {
                return;
            }
        }
    }
}

/// Makes an empty file where nothing has its name.
fn create_new(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(MODE);
    options.open(path).map(drop)
}

/// A backup that is being made. Dropping it takes away what there is of it, whatever still works on that.
#[derive(Debug, Default)]
pub(crate) struct Draft(Arc<Mutex<Stage>>);

#[derive(Debug, Default)]
enum Stage {
    /// There is nothing yet.
    #[default]
    Wanted,
    /// There is a file.
    Begun(Scratch),
    /// There is nothing, and is to be nothing any more.
    Ended,
}

impl Drop for Draft {
    fn drop(&mut self) {
        *lock(&self.0) = Stage::Ended;
    }
}

impl Draft {
    /// What the thread gets that does the work. It has no part in how long the draft lasts.
    pub(crate) fn work(&self) -> DraftWork {
        DraftWork(Arc::clone(&self.0))
    }
}

/// It is whole at any time, so a thread that panicked with it does no harm.
fn lock(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a draft is worked on. The end of the draft waits for each step, so they are short.
pub(crate) struct DraftWork(Arc<Mutex<Stage>>);

impl DraftWork {
    /// Makes an empty file beside `to`.
    fn begin(&self, to: &Path) -> Result<PathBuf, BackupError> {
        let mut stage = lock(&self.0);
        if matches!(*stage, Stage::Ended) {
            return Err(given_up());
        }
        let scratch = Scratch::beside(to)
            .map_err(|error| BackupError::Target(to.to_owned(), error.into()))?;
        let path = scratch.file.clone();
        *stage = Stage::Begun(scratch);
        Ok(path)
    }

    /// Does something with that file, where it is there still.
    fn go_on<T>(
        &self,
        step: impl FnOnce(&Scratch) -> Result<T, BackupError>,
    ) -> Result<T, BackupError> {
        match &*lock(&self.0) {
            Stage::Begun(scratch) => step(scratch),
            Stage::Wanted | Stage::Ended => Err(given_up()),
        }
    }
}

fn given_up() -> BackupError {
    StoreError::unavailable("nobody waits for the backup any more").into()
}

/// Copies the database as it is now, whatever is written meanwhile.
pub(crate) fn backup(
    connection: &mut SqliteConnection,
    to: &Path,
    draft: &DraftWork,
) -> Result<BackupReport, BackupError> {
    let to = resolve(to).map_err(|fault| match fault {
        // Which is something too.
        OpenFault::DeadLink => BackupError::Exists(to.to_owned()),
        fault => BackupError::Target(to.to_owned(), fault.at(to).into()),
    })?;
    if fs::symlink_metadata(&to).is_ok() {
        return Err(BackupError::Exists(to));
    }
    let target = |error: io::Error| BackupError::Target(to.clone(), error.into());
    let path = draft.begin(&to)?;
    write_into(connection, &path)?;
    let (accounts, keys) = verify(&path)?;
    let sync = || {
        let file = File::open(&path)?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    };
    // So that there is little left to write while the end of the draft waits for it.
    sync().map_err(target)?;
    let bytes = draft.go_on(|scratch| {
        settle(&path).map_err(|fault| BackupError::Target(to.clone(), fault.at(&path).into()))?;
        let bytes = sync().map_err(target)?;
        match scratch.keep_as(&to) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(BackupError::Exists(to.clone()))
            }
            Err(error) => Err(target(error)),
        }
    })?;
    // The name is kept in the folder.
    File::open(to.parent().unwrap_or(Path::new("/")))
        .and_then(|folder| folder.sync_all())
        .map_err(target)?;
    Ok(BackupReport {
        bytes,
        accounts,
        keys,
    })
}

fn write_into(connection: &mut SqliteConnection, path: &Path) -> QueryResult<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "Diesel has no words for copying a database"
    )]
    let query = diesel::sql_query("VACUUM INTO ?");
    query
        .bind::<diesel::sql_types::Text, _>(uri(path, "rw"))
        .execute(connection)
        .map(drop)
}

/// Is the copy sound, and what is in it?
fn verify(path: &Path) -> Result<(u64, u64), BackupError> {
    let mut copy = establish(path, "ro", Duration::ZERO).map_err(error::of_connecting)?;
    let found: Vec<String> = pragma_quick_check::table
        .select(pragma_quick_check::quick_check)
        .load(&mut copy)?;
    if found != ["ok"] {
        return Err(BackupError::Damaged(found));
    }
    Ok(transfer::count(&mut copy)?)
}

/// Gives the copy a log ahead, so that the first one to open it need not, and could not be killed in the midst of that.
fn settle(path: &Path) -> Result<(), OpenFault> {
    let mut copy = establish(path, "rw", Duration::ZERO)?;
    // Nobody else has it, and so the log needs no memory to be shared, which not every place for backups allows.
    copy.batch_execute("PRAGMA locking_mode = EXCLUSIVE")?;
    keep_a_log_ahead(&mut copy, Duration::ZERO)
}

/// Everything that is wrong with the database, in SQLite's words; nothing where it is sound. Reads all of it.
pub(crate) fn integrity(config: &SqliteConfig) -> Result<Vec<String>, StoreError> {
    // Too damaged for SQLite to get through, or to begin with, is an answer.
    let is_answer = |symptom| matches!(symptom, Symptom::Corrupt | Symptom::Foreign);
    let mut connection = match connect(&config.path, config) {
        Ok(connection) => connection,
        Err(error) if is_answer(error::symptom_of_connecting(&error)) => {
            return Ok(vec![error.to_string()]);
        }
        Err(error) => return Err(error::of_connecting(error)),
    };
    match checks(&mut connection) {
        Ok(found) => Ok(found),
        Err(error) if is_answer(error::symptom(&error)) => Ok(vec![error.to_string()]),
        Err(error) => Err(error::of_query(error)),
    }
}

fn checks(connection: &mut SqliteConnection) -> QueryResult<Vec<String>> {
    let mut found: Vec<String> = pragma_integrity_check::table
        .select(pragma_integrity_check::integrity_check)
        .load(connection)?;
    found.retain(|line| line != "ok");
    found.extend(orphans(connection)?);
    Ok(found)
}

/// Rows that refer to rows which are not there.
pub(crate) fn orphans(connection: &mut SqliteConnection) -> QueryResult<Vec<String>> {
    let orphans: Vec<(String, Option<i64>, String)> =
        pragma_foreign_key_check::table.load(connection)?;
    let text = |(child, row, parent): (String, Option<i64>, String)| match row {
        Some(row) => format!("row {row} of {child} refers to a row of {parent} that is not there"),
        None => format!("a row of {child} refers to a row of {parent} that is not there"),
    };
    Ok(orphans.into_iter().map(text).collect())
}

/// Has the database a table of this name?
pub(crate) fn has_table(connection: &mut SqliteConnection, name: &str) -> QueryResult<bool> {
    let found = sqlite_schema::table.filter(sqlite_schema::name.eq(name));
    diesel::select(diesel::dsl::exists(found)).get_result(connection)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    /// Whoever asks whether it is held has it for that moment.
    #[test]
    fn a_lock_that_is_held_for_a_moment_is_no_servers() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("keys.db");
        assert!(!ServerLock::is_held(&path).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let hold_for_a_moment = || {
            let lock = ServerLock::acquire(&path).unwrap();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(1));
                drop(lock);
            })
        };
        for _ in 0..10 {
            let moment = hold_for_a_moment();
            let lock = ServerLock::acquire(&path).unwrap();
            assert!(ServerLock::is_held(&path).unwrap());
            drop(lock);
            moment.join().unwrap();
            let moment = hold_for_a_moment();
            assert!(!ServerLock::is_held(&path).unwrap());
            moment.join().unwrap();
        }
    }

    #[test]
    fn no_character_of_a_path_means_anything_to_sqlite() {
        let path = Path::new("/a b/c?mode=memory#%41/ä.db");
        assert_eq!(
            uri(path, "rw"),
            "file:/a%20b/c%3Fmode%3Dmemory%23%2541/%C3%A4.db?mode=rw"
        );
        let odd = Path::new(OsStr::from_bytes(b"/\xff"));
        assert_eq!(uri(odd, "ro"), "file:/%FF?mode=ro");
    }

    /// Also where the name was taken while the copy was being made.
    #[test]
    fn a_copy_does_not_take_a_name_that_is_taken() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("copy.db");
        let scratch = Scratch::beside(&path).unwrap();
        let other = Scratch::beside(&path).unwrap();
        assert_ne!(scratch.file, other.file);
        fs::write(&path, "precious").unwrap();
        let refused = scratch.keep_as(&path).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        scratch.keep_as(&path).unwrap();
        drop((scratch, other));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// Whoever finds it empty may begin with it at once, and nothing comes in its place afterwards.
    #[test]
    fn without_links_a_database_is_made_in_its_place() {
        let folder = tempfile::TempDir::new().unwrap();
        let config = SqliteConfig::new(folder.path().join("keys.db"));
        let path = &config.path;
        make(path, &config, |_, _| Err(ErrorKind::Unsupported.into())).unwrap();
        assert_eq!(fs::metadata(path).unwrap().len(), 0);
        let (_, mut quicker) = open(&config, IfMissing::Create).unwrap();
        make(path, &config, |_, _| Err(ErrorKind::Unsupported.into())).unwrap();
        assert!(!is_new(&mut quicker).unwrap());
        drop(quicker);
        drop(open(&config, IfMissing::Fail).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
