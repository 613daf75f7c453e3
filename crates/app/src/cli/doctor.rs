//! `doctor`: what would keep a server from being ready, and what is not as it should be.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{self, Path};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{ArgMatches, Command};
use leadr_auth_domain::{AccountRole, KeyRecord, Pepper, PlainKey, Timestamp, Verdict, decide};
use leadr_auth_memory::Memory;
use leadr_auth_ports::{Clock as _, StoreError, Stores};
use leadr_auth_postgres::{Postgres, ServerSettings};
use leadr_auth_service::{EnsureOperatorError, KeyFilter, SecretError};
use leadr_auth_sqlite::{IfMissing, OpenError, OpenFault, ServerLock, Sqlite};
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::output::Shown;
use super::{exit, json_flag, output, setting_flags, sources};
use crate::config::{Config, SECRET_FILE, SecretConfig, StorageConfig, StoreConfig};
use crate::secret_file::{self, Strength};
use crate::storage::{
    DataDirError, Database, check_data_dir, could_make_data_dir, could_make_file_in, is_there,
};
use crate::system::{OsEntropy, SystemClock};
use crate::tls::Certificate;

/// How far the clock and the store's may be apart before somebody should look: keys expire by the clock.
const CLOCK_TOLERANCE_SECONDS: i64 = 2;

/// How long it may take a server from when it has its address until it has the database.
const START_OF_A_SERVER: Duration = Duration::from_millis(500);

const MIGRATE_IS_OFF: &str = "MIGRATE is off: run `leadr-auth migrate`";

pub(super) fn command() -> Command {
    Command::new("doctor")
        .about("Say whether a server would be ready with this configuration, and what is not as it should be")
        .args(setting_flags(|_| true))
        .arg(json_flag())
}

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// As it should be.
    Ok,
    /// A server runs, and somebody should look at it.
    Warning,
    /// A server would not be ready.
    Failure,
}

#[derive(Debug)]
struct Finding {
    check: &'static str,
    status: Status,
    what: String,
}

impl Status {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "FAILURE",
        }
    }
}

impl Shown for Finding {
    const COLUMNS: &[&str] = &["check", "status", "what"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.check.to_owned(),
            self.status.word().to_owned(),
            self.what.clone(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "check": self.check,
            "status": self.status.word().to_lowercase(),
            "what": self.what,
        })
    }
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &'static str, status: Status, what: impl Into<String>) {
        self.0.push(Finding {
            check,
            status,
            what: what.into(),
        });
    }

    fn fail(&mut self, check: &'static str, error: &anyhow::Error) {
        self.add(check, Status::Failure, format!("{error:#}"));
    }
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    let sources = sources(Some(matches));
    match Config::read(&sources, &OsEntropy::new()) {
        Err(faults) => {
            for fault in faults.0 {
                findings.add(
                    "configuration",
                    Status::Failure,
                    format!("{}: {}", fault.name, fault.what),
                );
            }
        }
        Ok(config) => {
            findings.add("configuration", Status::Ok, "valid");
            // The configuration has the secret itself, and no longer where it was.
            if let Some(path) = sources.said("API_KEY_SECRET_FILE") {
                examine_mode("secret file", Path::new(path), &mut findings);
            }
            examine(&config, &mut findings).await;
        }
    }
    output(matches).many(&findings.0)?;
    let failed = findings
        .0
        .iter()
        .any(|finding| finding.status == Status::Failure);
    Ok(if failed {
        ExitCode::from(exit::FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

async fn examine(config: &Config, findings: &mut Findings) {
    let storage = config.storage();
    if let Some(tls) = config.tls.clone() {
        match Certificate::read(tls) {
            Ok(_) => findings.add("certificate", Status::Ok, "readable, and its key fits"),
            Err(error) => findings.fail("certificate", &error.into()),
        }
    }
    if let Some(tls) = &config.tls {
        examine_mode("private key", &tls.key, findings);
    }
    // Whatever keeps the directory from being used, keeps what is in it.
    if examine_data_dir(&storage, findings) {
        examine_database(config, &storage, findings).await;
    }
    for (check, address) in [
        ("listen", Some(config.listen)),
        ("metrics", config.metrics_listen),
    ] {
        let Some(address) = address else { continue };
        examine_address(check, address, &storage, findings).await;
    }
}

async fn examine_address(
    check: &'static str,
    address: SocketAddr,
    storage: &StorageConfig,
    findings: &mut Findings,
) {
    if let Some(found) = look_at_address(address, storage) {
        return findings.add(check, found.0, found.1);
    }
    // A server that starts has its address first, and only then the database.
    tokio::time::sleep(START_OF_A_SERVER).await;
    let (status, what) = look_at_address(address, storage).unwrap_or((
        Status::Failure,
        format!("{address} is in use, and not by a server on the database: none can be started"),
    ));
    findings.add(check, status, what);
}

/// How it stands with the address; `None` where it is taken, and no server runs on the database.
fn look_at_address(address: SocketAddr, storage: &StorageConfig) -> Option<(Status, String)> {
    match is_free(address) {
        Ok(()) => return Some((Status::Ok, format!("{address} is free"))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        Err(error) => {
            let what = format!("cannot listen on {address}: {error}");
            return Some((Status::Failure, what));
        }
    }
    match is_served(storage) {
        Some(true) => {
            let what = format!("{address} is in use, and a server runs on the database");
            Some((Status::Ok, what))
        }
        Some(false) => None,
        None => {
            let what = format!(
                "{address} is in use: by a server that runs already, or else none can be started"
            );
            Some((Status::Warning, what))
        }
    }
}

/// Can others use a file with a secret that the service did not make? Its group may read it, since that is how it is let at
/// such a file where it is not the owner.
fn examine_mode(check: &'static str, path: &Path, findings: &mut Findings) {
    // Whether it can be read is told by whoever reads it.
    let Ok(metadata) = fs::metadata(path) else {
        return;
    };
    let mode = metadata.permissions().mode() & 0o777;
    let can = match (mode & 0o006, mode & 0o020) {
        (0, 0) => return,
        (0, _) => "its group write it",
        _ => "every user of this machine read or write it",
    };
    let path = path.display();
    let what = format!("the mode of {path}, {mode:03o}, lets {can}: chmod g-w,o= {path}");
    findings.add(check, Status::Warning, what);
}

/// Can a server listen there? Other than listening, this does not keep one that starts just now from doing so.
fn is_free(address: SocketAddr) -> io::Result<()> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

/// Does a server run on the database? `None` where that cannot be told. Asked only where its address is taken, since whoever
/// asks is in the way of one that starts just now.
fn is_served(storage: &StorageConfig) -> Option<bool> {
    match &storage.store {
        StoreConfig::Sqlite(sqlite) => match is_there(&sqlite.path) {
            Ok(true) => ServerLock::is_held(&sqlite.path).ok(),
            Ok(false) => Some(false),
            Err(_) => None,
        },
        StoreConfig::Memory | StoreConfig::Postgres(_) => None,
    }
}

/// Answers whether what is in it can be looked at.
fn examine_data_dir(storage: &StorageConfig, findings: &mut Findings) -> bool {
    if !storage.uses_data_dir() {
        return true;
    }
    let path = storage.data_dir.display();
    if fs::symlink_metadata(&storage.data_dir).is_err() {
        match could_make_data_dir(&storage.data_dir) {
            Ok(()) => findings.add(
                "data directory",
                Status::Ok,
                format!("{path} is made when a server first starts"),
            ),
            Err(error) => {
                findings.fail("data directory", &error.into());
                return false;
            }
        }
        return true;
    }
    // Its mode alone does not tell whether it is ours.
    let looked_into = check_data_dir(&storage.data_dir).and_then(|()| {
        is_there(&storage.data_dir.join(SECRET_FILE))
            .map_err(|error| DataDirError::Io(storage.data_dir.clone(), error))
    });
    match looked_into {
        Ok(_) => findings.add(
            "data directory",
            Status::Ok,
            format!("{path} is its owner's only"),
        ),
        Err(error) => {
            findings.fail("data directory", &error.into());
            return false;
        }
    }
    true
}

/// Where a server that starts makes a database, if `error` is no more than that there is none.
fn database_to_be_made<'a>(storage: &'a StorageConfig, error: &anyhow::Error) -> Option<&'a Path> {
    let StoreConfig::Sqlite(sqlite) = &storage.store else {
        return None;
    };
    let path = sqlite.path.as_path();
    let is_missing = error
        .downcast_ref::<OpenError>()
        .is_some_and(|error| matches!(error.fault, OpenFault::Missing));
    (is_missing || is_made_with_data_dir(storage, folder_of(path))).then_some(path)
}

/// Is the folder still to be made, and is it when the data directory is? No other is made.
fn is_made_with_data_dir(storage: &StorageConfig, folder: &Path) -> bool {
    let within = || Ok(path::absolute(&storage.data_dir)?.starts_with(path::absolute(folder)?));
    let within: io::Result<bool> = within();
    storage.uses_data_dir()
        && within.is_ok_and(|within| within)
        && is_there(folder).is_ok_and(|is_there| !is_there)
}

/// Could a database be made where there is none, or an empty file, which is taken for one?
fn could_make_database(path: &Path) -> anyhow::Result<()> {
    let could = || {
        if is_there(path)? {
            let file = fs::canonicalize(path)?;
            OpenOptions::new().append(true).open(&file)?;
            could_make_file_in(folder_of(&file))
        } else if is_there(folder_of(path))? {
            could_make_file_in(folder_of(path))
        } else {
            // That the data directory could be made is known by now.
            Ok(())
        }
    };
    let could: io::Result<()> = could();
    could.with_context(|| format!("no database can be made in {}", path.display()))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

async fn examine_database(config: &Config, storage: &StorageConfig, findings: &mut Findings) {
    let database = match storage.open(IfMissing::Fail) {
        Ok(database) => database,
        Err(error) => {
            let Some(path) = database_to_be_made(storage, &error) else {
                return findings.fail("database", &error);
            };
            if let Err(error) = could_make_database(path) {
                return findings.fail("database", &error);
            }
            let path = path.display();
            findings.add(
                "database",
                Status::Ok,
                format!("{path} is made when a server first starts"),
            );
            if !config.migrate {
                let what = format!("is not made with the database, since {MIGRATE_IS_OFF}");
                findings.add("schema", Status::Failure, what);
            }
            // A secret may be there all the same, and has to be a good one.
            let stores = Memory::new().stores();
            examine_secret(config, storage, &stores, findings).await;
            return;
        }
    };
    match database.pending_migrations().await {
        Ok(pending) if pending.is_empty() => findings.add("schema", Status::Ok, "up to date"),
        Ok(pending) => {
            let (status, by) = if config.migrate {
                (
                    Status::Warning,
                    "`leadr-auth serve` brings it up to date when it starts",
                )
            } else {
                (Status::Failure, MIGRATE_IS_OFF)
            };
            let pending = pending.join(", ");
            findings.add("schema", status, format!("lacks {pending}; {by}"));
            // The other checks would only say so again.
            return;
        }
        Err(error) => {
            findings.fail("schema", &error.into());
            return;
        }
    }
    let stores = database.stores();
    let asked = Instant::now();
    match stores.health.ping().await {
        Ok(()) => {
            let millis = asked.elapsed().as_millis();
            findings.add(
                "database",
                Status::Ok,
                format!("answers within {millis} ms"),
            );
        }
        Err(error) => {
            findings.fail("database", &error.into());
            return;
        }
    }
    let configured = examine_secret(config, storage, &stores, findings).await;
    examine_operator(configured, &stores, findings).await;
    match &database {
        Database::Memory(_) => {}
        Database::Sqlite(sqlite, file) => {
            examine_lock(&file.path, findings);
            examine_file(sqlite, &file.path, findings).await;
        }
        Database::Postgres(postgres, _) => examine_server(postgres, findings).await,
    }
}

/// Could a server keep others away from the database? Whether one does is another question.
fn examine_lock(path: &Path, findings: &mut Findings) {
    if let Err(error) = ServerLock::check(path) {
        findings.fail("lock", &error.into());
    }
}

async fn examine_file(sqlite: &Sqlite, path: &Path, findings: &mut Findings) {
    match sqlite.integrity().await {
        Ok(faults) if faults.is_empty() => findings.add("integrity", Status::Ok, "sound"),
        Ok(faults) => findings.add("integrity", Status::Failure, faults.join("; ")),
        Err(error) => findings.fail("integrity", &error.into()),
    }
    if let Ok(others) = secret_file::for_others(path)
        && others != 0
    {
        let path = path.display();
        findings.add(
            "database file",
            Status::Warning,
            format!("{path} can be used by others than its owner ({others:03o}): chmod 600 {path}"),
        );
    }
    match sqlite.newest_write().await {
        Ok(newest) => examine_clock(newest, SystemClock.now(), true, findings),
        Err(error) => findings.fail("clock", &error.into()),
    }
}

async fn examine_server(postgres: &Postgres, findings: &mut Findings) {
    match postgres.clock().await {
        Ok(theirs) => examine_clock(Some(theirs), SystemClock.now(), false, findings),
        Err(error) => findings.fail("clock", &error.into()),
    }
    match postgres.settings().await {
        Ok(settings) => {
            let risks = durability_risks(&settings);
            if risks.is_empty() {
                findings.add(
                    "durability",
                    Status::Ok,
                    format!("PostgreSQL {}", settings.server_version),
                );
            } else {
                findings.add(
                    "durability",
                    Status::Warning,
                    format!(
                        "a crash of the database may lose what was answered: {}",
                        risks.join(", ")
                    ),
                );
            }
        }
        Err(error) => findings.fail("durability", &error.into()),
    }
}

/// The secret, as far as it is there.
enum Secret<'a> {
    /// The server that first starts makes it here.
    ToBeMade(&'a Path),
    /// This one.
    Found(Pepper),
}

async fn find_secret<'a>(
    storage: &'a StorageConfig,
    stores: &Stores,
) -> anyhow::Result<Secret<'a>> {
    let Some(path) = storage.is_secret_to_be_made(stores).await? else {
        return Ok(Secret::Found(storage.pepper(stores, None).await?));
    };
    let folder = folder_of(path);
    // A data directory that is still to be made can be, as is known by now.
    if is_there(folder).unwrap_or(true) {
        could_make_file_in(folder)
            .with_context(|| format!("no secret can be made in {}", path.display()))?;
    }
    Ok(Secret::ToBeMade(path))
}

/// How it stands with `SUPERADMIN_API_KEY`.
#[derive(Clone, Copy)]
enum ConfiguredKey {
    /// The store does not know it yet.
    ToBeStored,
    /// It is stored, and this would be said of it.
    Stored(Verdict),
    /// Its prefix is stored with another hash.
    Mismatch,
}

impl ConfiguredKey {
    /// What a start finds out about it, without changing anything.
    async fn find(key: &PlainKey, pepper: &Pepper, stores: &Stores) -> Result<Self, StoreError> {
        Ok(match stores.lookup.find(&key.prefix()).await? {
            None => Self::ToBeStored,
            Some(record) if pepper.verify(key, &record.key.key_hash) => {
                Self::Stored(decide(&record, SystemClock.now()))
            }
            Some(_) => Self::Mismatch,
        })
    }

    fn examine(self, findings: &mut Findings) {
        let check = "configured key";
        match self {
            Self::ToBeStored => findings.add(
                check,
                Status::Ok,
                "SUPERADMIN_API_KEY is stored when a server next starts",
            ),
            Self::Stored(Verdict::Valid) => {
                findings.add(check, Status::Ok, "SUPERADMIN_API_KEY is stored, and works");
            }
            Self::Stored(refusal) => findings.add(
                check,
                Status::Warning,
                format!(
                    "SUPERADMIN_API_KEY is refused ({refusal:?}), and no restart brings it back: take it out, or set \
                     another"
                ),
            ),
            Self::Mismatch => findings.fail(check, &EnsureOperatorError::KeyMismatch.into()),
        }
    }

    /// Has an operator a key that works when a server has started?
    const fn will_work(self) -> bool {
        matches!(self, Self::ToBeStored | Self::Stored(Verdict::Valid))
    }
}

/// Examines what is hashed under the secret as well, as far as that tells something about it. Answers how it stands with the
/// configured key, where one is configured and that can be told.
async fn examine_secret(
    config: &Config,
    storage: &StorageConfig,
    stores: &Stores,
    findings: &mut Findings,
) -> Option<ConfiguredKey> {
    let check = "secret";
    let pepper = match find_secret(storage, stores).await {
        Ok(Secret::Found(pepper)) => pepper,
        Ok(Secret::ToBeMade(path)) => {
            let what = format!("{} is made when a server first starts", path.display());
            findings.add(check, Status::Ok, what);
            return None;
        }
        Err(error) => {
            findings.fail(check, &error);
            return None;
        }
    };
    let known = async {
        let registered = stores.secrets.registered().await?;
        let configured = match &config.superadmin_key {
            Some(key) => Some(ConfiguredKey::find(key, &pepper, stores).await?),
            None => None,
        };
        Ok((registered, configured, stores.accounts.is_empty().await?))
    };
    let known: Result<_, StoreError> = known.await;
    let (registered, configured, is_empty) = match known {
        Ok(known) => known,
        Err(error) => {
            findings.fail(check, &error.into());
            return None;
        }
    };
    if registered
        .as_ref()
        .is_some_and(|registered| !pepper.matches(registered))
    {
        findings.fail(check, &SecretError::Mismatch.into());
        return None;
    }
    let strength = match &storage.secret {
        Some(SecretConfig::Said(_, strength)) => *strength,
        Some(SecretConfig::Kept(path)) => {
            secret_file::read(path).map_or(Strength::Random, |(_, strength)| strength)
        }
        Some(SecretConfig::Random(_)) | None => Strength::Random,
    };
    let (status, what) = if registered.is_some()
        || matches!(configured, Some(ConfiguredKey::Stored(_)))
    {
        (Status::Ok, "long enough, and the one of the stored keys")
    } else if is_empty {
        (Status::Ok, "long enough")
    } else {
        (
            Status::Warning,
            "long enough, but nothing says yet whether it is the one of the stored keys; `leadr-auth serve` takes it for \
             that when it starts",
        )
    };
    if strength == Strength::Repetitive {
        findings.add(
            check,
            Status::Warning,
            "has very few different characters; whoever reads the database could guess it",
        );
    }
    // There is nothing good to be said of one that can be guessed.
    if strength == Strength::Random || status != Status::Ok {
        findings.add(check, status, what);
    }
    if let Some(configured) = configured {
        configured.examine(findings);
    }
    configured
}

/// How many keys of operators work at the time `now`; `None` where nobody has an account yet.
async fn working_operator_keys(
    stores: &Stores,
    now: Timestamp,
) -> Result<Option<usize>, StoreError> {
    if stores.accounts.is_empty().await? {
        return Ok(None);
    }
    let mut working = 0;
    for account in stores.accounts.list().await? {
        if account.role != AccountRole::Operator {
            continue;
        }
        let keys = stores.keys.list(KeyFilter::of(account.id)).await?;
        for key in keys {
            let account = account.clone();
            let verdict = decide(&KeyRecord { key, account }, now);
            working += usize::from(verdict == Verdict::Valid);
        }
    }
    Ok(Some(working))
}

async fn examine_operator(
    configured: Option<ConfiguredKey>,
    stores: &Stores,
    findings: &mut Findings,
) {
    let check = "operator";
    let (status, what) = match working_operator_keys(stores, SystemClock.now()).await {
        Err(error) => return findings.fail(check, &error.into()),
        Ok(None) => (Status::Ok, "is made when a server first starts".to_owned()),
        Ok(Some(0)) if configured.is_some_and(ConfiguredKey::will_work) => (
            Status::Ok,
            "has SUPERADMIN_API_KEY when a server next starts".to_owned(),
        ),
        Ok(Some(0)) => (
            Status::Warning,
            "no operator's key works: `leadr-auth operator new-key` makes one".to_owned(),
        ),
        Ok(Some(1)) => (Status::Ok, "has 1 working key".to_owned()),
        Ok(Some(keys)) => (Status::Ok, format!("has {keys} working keys")),
    };
    findings.add(check, status, what);
}

/// By which of its settings the database may lose what it acknowledged.
fn durability_risks(settings: &ServerSettings) -> Vec<&'static str> {
    [
        (settings.fsync, "fsync is off"),
        (settings.full_page_writes, "full_page_writes is off"),
        (
            settings.synchronous_commit != "off",
            "synchronous_commit is off",
        ),
    ]
    .into_iter()
    .filter_map(|(safe, risk)| (!safe).then_some(risk))
    .collect()
}

/// Compares our clock with the store's. A file has no clock, but what was written into it last cannot be in the future.
fn examine_clock(
    theirs: Option<Timestamp>,
    ours: Timestamp,
    only_behind: bool,
    findings: &mut Findings,
) {
    let Some(theirs) = theirs else { return };
    let ahead = (theirs.unix_micros().saturating_sub(ours.unix_micros())) / 1_000_000;
    if ahead > CLOCK_TOLERANCE_SECONDS || (!only_behind && ahead < -CLOCK_TOLERANCE_SECONDS) {
        let (seconds, side) = (ahead.abs(), if ahead > 0 { "behind" } else { "ahead of" });
        findings.add(
            "clock",
            Status::Warning,
            format!(
                "this machine's is {seconds} s {side} the store's; keys expire by this machine's"
            ),
        );
    } else {
        findings.add("clock", Status::Ok, "agrees with the store's");
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use leadr_auth_sqlite::SqliteConfig;

    use super::*;

    #[tokio::test]
    async fn a_server_that_is_about_to_take_the_lock_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.db");
        fs::write(&path, "").unwrap();
        let storage = StorageConfig {
            store: StoreConfig::Sqlite(SqliteConfig::new(path.clone())),
            data_dir: folder.path().to_owned(),
            secret: None,
        };
        // It has its address before it opens the database.
        let starting = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = starting.local_addr().unwrap();
        let mut findings = Findings::default();
        let examined = examine_address("listen", address, &storage, &mut findings);
        // The first look comes first.
        let ((), _lock) = tokio::join!(examined, async { ServerLock::acquire(&path).unwrap() });
        assert_eq!(findings.0[0].status, Status::Ok, "{findings:?}");
        assert!(findings.0[0].what.contains("a server runs"));
    }

    #[test]
    fn clocks_that_disagree_are_told_by_side() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let now = at("2026-01-01T00:01:00Z");
        let cases = [
            (
                Some(at("2026-01-01T00:01:01Z")),
                false,
                Status::Ok,
                "agrees",
            ),
            (
                Some(at("2026-01-01T00:02:00Z")),
                false,
                Status::Warning,
                "60 s behind",
            ),
            (
                Some(at("2026-01-01T00:00:00Z")),
                false,
                Status::Warning,
                "60 s ahead of",
            ),
            (Some(at("2020-01-01T00:00:00Z")), true, Status::Ok, "agrees"),
            (
                Some(at("2026-01-01T00:02:00Z")),
                true,
                Status::Warning,
                "60 s behind",
            ),
        ];
        for (theirs, only_behind, status, words) in cases {
            let mut findings = Findings::default();
            examine_clock(theirs, now, only_behind, &mut findings);
            assert_eq!(findings.0[0].status, status);
            assert!(findings.0[0].what.contains(words), "{:?}", findings.0);
        }
    }
}
