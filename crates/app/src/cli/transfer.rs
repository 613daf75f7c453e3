//! `export` and `import`

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::vec;

use anyhow::{Context as _, anyhow, bail};
use clap::{Arg, ArgMatches, Command};
use indicatif::{ProgressBar, ProgressStyle};
use leadr_auth_domain::{Keyring, PepperCheck, PepperId};
use leadr_auth_memory::Memory;
use leadr_auth_ports::{Audited, StoredPepper, Stores, Totals};
use leadr_auth_service::transfer::{Exporter, Importer, Record, Summary};
use leadr_auth_service::{Auditor, ImportMode, SecretError, Service};
use leadr_auth_sqlite::{IfMissing, Sqlite};
use serde_json::json;

use super::output::{Output, complain, json_line, line, printable};
use super::{Usage, exit, flag, open_current, output, sources, text, tool, unless_interrupted};
use crate::archive::{self, Header, MalformedLine, Version};
use crate::config::{Config, SecretConfig, StorageConfig, StoreConfig};
use crate::new_file::NewFile;
use crate::storage::{Database, is_there};
use crate::system::{OsEntropy, SystemClock};

pub(super) fn export_command() -> Command {
    tool(
        "export",
        "Write all accounts and keys, these as hashes, as lines of JSON",
    )
    .arg(
        Arg::new("path")
            .value_name("PATH")
            .default_value("-")
            .help("A file, which must not exist yet; - is standard output"),
    )
}

pub(super) fn import_command() -> Command {
    tool("import", "Take accounts and keys from an export, or from another database; again is no harm")
        .arg(
            Arg::new("path")
                .value_name("PATH")
                .required_unless_present("from")
                .conflicts_with("from")
                .help("An export; - is standard input"),
        )
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("URL")
                .help("A database, also one of the reference implementation, which stays as it is; \
                       with a password it belongs into the environment variable IMPORT_FROM and this is `env`"),
        )
        .arg(flag("keep-good").help("Take what can be taken, where otherwise one bad record means that none is taken"))
        .arg(flag("dry-run").help("Say what would come of it, and take nothing"))
}

pub(super) async fn export(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let storage = Config::read_storage(&sources(Some(matches)), &OsEntropy::new(), false)?;
    // Not necessarily of our making, and not changed: PostgreSQL may be the reference implementation's.
    let database = match storage.open(IfMissing::Fail)? {
        Database::Postgres(postgres, config) => Database::Postgres(postgres, config),
        Database::Sqlite(..) | Database::Memory(_) => open_current(&storage).await?,
    };
    let mut exporter = Exporter::new(database.stores().transfer.as_ref()).await?;
    match text(matches, "path")? {
        "-" => {
            let mut out = BufWriter::new(io::stdout().lock());
            let written = write_all(&mut exporter, &mut out).await;
            match written.and_then(|()| Ok(out.flush()?)) {
                // Whoever reads it has seen enough.
                Err(error) if is_broken_pipe(&error) => {}
                written => written?,
            }
        }
        path => {
            let path = Path::new(path);
            unless_interrupted(write_file(&mut exporter, path)).await?;
            let Totals { accounts, keys } = exporter.totals();
            output(matches).either(
                &format!("wrote {}: {accounts} accounts, {keys} keys", path.display()),
                &json!({"path": path, "accounts": accounts, "keys": keys}),
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the file whole or not at all: half an export is worse than none. It is its owner's only.
async fn write_file(exporter: &mut Exporter, path: &Path) -> anyhow::Result<()> {
    let taken = || {
        anyhow!(
            "{} is there already, and is not overwritten: name another file",
            path.display()
        )
    };
    let named = || format!("cannot write {}", path.display());
    if fs::symlink_metadata(path).is_ok() {
        return Err(taken());
    }
    let file = NewFile::begin(path, ".export-").with_context(named)?;
    let mut out = BufWriter::new(file);
    write_all(exporter, &mut out).await.with_context(named)?;
    let whole = out.into_inner().map_err(io::IntoInnerError::into_error);
    match whole.and_then(NewFile::keep) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken()),
        kept => kept.with_context(named),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn write_all(exporter: &mut Exporter, out: &mut impl Write) -> anyhow::Result<()> {
    let header = Header {
        secrets: exporter.secrets().to_vec(),
        totals: exporter.totals(),
    };
    writeln!(out, "{}", archive::write_header(&header)?)?;
    let progress = progress(header.totals, "exported");
    loop {
        let page = exporter.next().await?;
        if page.is_empty() {
            progress.finish_and_clear();
            return Ok(());
        }
        for record in &page {
            writeln!(out, "{}", archive::write_record(record)?)?;
        }
        progress.inc(u64::try_from(page.len())?);
    }
}

/// How many records there are to be. A header may say what it likes.
const fn announced(totals: Totals) -> u64 {
    totals.accounts.saturating_add(totals.keys)
}

/// On standard error, and only where that is a terminal.
fn progress(totals: Totals, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(announced(totals)).with_message(what);
    match ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}, {eta} to go") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Where an import comes from. It can be read more than once.
enum Source {
    File(PathBuf),
    /// Standard input or a pipe, kept in a file without a name.
    Spooled {
        file: File,
        name: String,
    },
    Store(Database),
}

/// A source that is being read.
enum Reader {
    Lines {
        version: Version,
        lines: io::Lines<BufReader<File>>,
        line: u64,
    },
    Store {
        exporter: Exporter,
        page: vec::IntoIter<Record>,
        line: u64,
    },
}

impl Source {
    fn of(matches: &ArgMatches) -> anyhow::Result<Self> {
        if let Some(named) = matches.get_one::<String>("from") {
            return Ok(Self::Store(foreign_database(named)?));
        }
        let path = text(matches, "path")?;
        if path == "-" {
            let name = "standard input";
            return Self::spooled(&mut io::stdin().lock(), name)
                .context("cannot keep standard input");
        }
        let path = PathBuf::from(path);
        let unreadable = || format!("cannot read {}", path.display());
        // A pipe has a path too where a shell makes one, as in <(…).
        let file_type = fs::metadata(&path).with_context(unreadable)?.file_type();
        if file_type.is_file() || file_type.is_dir() {
            return Ok(Self::File(path));
        }
        let mut file = File::open(&path).with_context(unreadable)?;
        Self::spooled(&mut file, &path.display().to_string()).with_context(unreadable)
    }

    /// Keeps what can be read once only.
    fn spooled(from: &mut impl io::Read, name: &str) -> io::Result<Self> {
        let mut file = tempfile::tempfile()?;
        io::copy(from, &mut file)?;
        Ok(Self::Spooled {
            file,
            name: name.to_owned(),
        })
    }

    /// What it is called where something is wrong with it.
    fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Spooled { name, .. } => name.clone(),
            Self::Store(_) => "the other database".to_owned(),
        }
    }

    async fn open(&self) -> anyhow::Result<(Header, Reader)> {
        let file = match self {
            Self::Store(database) => {
                let exporter = Exporter::new(database.stores().transfer.as_ref()).await?;
                let header = Header {
                    secrets: exporter.secrets().to_vec(),
                    totals: exporter.totals(),
                };
                let page = Vec::new().into_iter();
                return Ok((
                    header,
                    Reader::Store {
                        exporter,
                        page,
                        line: 0,
                    },
                ));
            }
            Self::File(path) => {
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?
            }
            Self::Spooled { file, .. } => {
                let mut file = file.try_clone()?;
                file.rewind()?;
                file
            }
        };
        let mut lines = BufReader::new(file).lines();
        let first = match lines.next() {
            Some(first) => first.with_context(|| format!("{}, line 1", self.shown()))?,
            None => bail!("{}, line 1: there is nothing in it", self.shown()),
        };
        let (header, version) =
            archive::read_header(&first).with_context(|| format!("{}, line 1", self.shown()))?;
        let reader = Reader::Lines {
            version,
            lines,
            line: 1,
        };
        Ok((header, reader))
    }
}

impl Reader {
    /// The next record or what is wrong with it, and its line; in a database, its place.
    async fn next(&mut self) -> anyhow::Result<Option<(u64, Result<Record, MalformedLine>)>> {
        match self {
            Self::Lines {
                version,
                lines,
                line,
            } => {
                *line += 1;
                let Some(text) = lines.next() else {
                    return Ok(None);
                };
                let record = match text {
                    Ok(text) => archive::read_record(&text, *version),
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        Err(MalformedLine::not_text())
                    }
                    Err(error) => return Err(error).with_context(|| format!("line {line}")),
                };
                Ok(Some((*line, record)))
            }
            Self::Store {
                exporter,
                page,
                line,
            } => {
                if page.len() == 0 {
                    *page = exporter.next().await?.into_iter();
                }
                *line += 1;
                Ok(page.next().map(|record| (*line, Ok(record))))
            }
        }
    }
}

/// The database that `--from` names.
fn foreign_database(named: &str) -> anyhow::Result<Database> {
    let mut sources = sources(None);
    let from_environment = sources.import_from.take();
    let url = match (named, from_environment) {
        ("env", Some(url)) => url,
        ("env", None) => bail!(Usage("--from: IMPORT_FROM is not set".to_owned())),
        (url, _) if crate::config::has_password(url) => bail!(Usage(
            "--from: has a password on the command line, where every user of the machine can read it; set IMPORT_FROM to \
             the URL, and say --from env"
                .to_owned()
        )),
        (url, _) => url.to_owned(),
    };
    sources.environment.insert("DATABASE_URL", url);
    let storage = Config::read_storage(&sources, &OsEntropy::new(), false)
        .map_err(|faults| Usage(format!("--from: {faults}")))?;
    let elsewhere = StorageConfig {
        // The data directory is this deployment's, not that one's.
        secret: None,
        ..storage
    };
    if let StoreConfig::Memory = elsewhere.store {
        bail!(Usage(
            "--from: memory: is a server's own, and there is nothing in it for a tool".to_owned()
        ));
    }
    // A file is only read; the others are as well, though they need not be told so.
    if let StoreConfig::Sqlite(config) = elsewhere.store {
        let sqlite = Sqlite::open_to_read(config.clone())?;
        return Ok(Database::Sqlite(sqlite, config));
    }
    elsewhere.open(IfMissing::Fail)
}

/// A bad record.
struct Bad {
    line: u64,
    what: String,
}

pub(super) async fn import(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (keep_good, dry_run) = (matches.get_flag("keep-good"), matches.get_flag("dry-run"));
    let storage = Config::read_storage(&sources(Some(matches)), &OsEntropy::new(), false)?;
    let source = Source::of(matches)?;
    let (header, _) = source.open().await?;
    // Where there is no database yet, an empty one tells as well what would come of it, and none is made for nothing.
    let is_new = match &storage.store {
        StoreConfig::Sqlite(sqlite) => !is_there(&sqlite.path)
            .with_context(|| format!("cannot use the database {}", sqlite.path.display()))?,
        StoreConfig::Memory | StoreConfig::Postgres(_) => false,
    };
    let mut stores = if is_new {
        Memory::new().stores()
    } else if dry_run {
        open_current(&storage).await?.stores()
    } else {
        open_destination(&storage).await?.stores()
    };
    let agreed = agree_on_secrets(&storage, &stores, &header.secrets).await?;
    let out = output(matches);

    // The first pass takes nothing, so that "none" can be kept to.
    let mut done = Done::default();
    if dry_run || !keep_good {
        done = pass(&source, &stores, ImportMode::DryRun, &agreed.known, None).await?;
    }
    let meant = !dry_run && (keep_good || done.bad.is_empty());
    if meant {
        if is_new {
            stores = open_destination(&storage).await?.stores();
        }
        let auditor = begin(&stores, &agreed).await?;
        let mode = ImportMode::Commit;
        done = pass(&source, &stores, mode, &agreed.known, auditor.clone()).await?;
        take_dropped(&stores, &agreed.dropped, auditor.as_ref()).await?;
    }
    report(out, &done, meant)?;
    Ok(if done.bad.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::INCOMPLETE)
    })
}

/// An import may be the first thing that happens to a database.
async fn open_destination(storage: &StorageConfig) -> anyhow::Result<Database> {
    let database = storage.open(IfMissing::Create)?;
    if let Database::Sqlite(..) = database {
        database.migrate_without_server().await?;
        return Ok(database);
    }
    open_current(storage).await
}

/// What an import came to.
#[derive(Default)]
struct Done {
    summary: Summary,
    bad: Vec<Bad>,
}

async fn pass(
    source: &Source,
    stores: &Stores,
    mode: ImportMode,
    known: &BTreeSet<PepperId>,
    auditor: Option<Auditor>,
) -> anyhow::Result<Done> {
    let (header, mut reader) = source.open().await?;
    let progress = progress(
        header.totals,
        match mode {
            ImportMode::DryRun => "looked at",
            ImportMode::Commit => "imported",
        },
    );
    let mut importer = Importer::new(stores.transfer.as_ref(), mode, auditor);
    let mut bad = Vec::new();
    let mut seen = 0;
    while let Some((line, record)) = reader.next().await? {
        match record {
            // Under a secret that nobody speaks of, it would not work and could not be told from one that does.
            Ok(Record::Key(key)) if !known.contains(&key.pepper_id) => bad.push(Bad {
                line,
                what: format!(
                    "it is hashed under the secret {}, which is neither among those of where it comes from nor among ours",
                    key.pepper_id
                ),
            }),
            Ok(record) => importer.add(line, record).await?,
            Err(fault) => bad.push(Bad {
                line,
                what: fault.to_string(),
            }),
        }
        seen += 1;
        progress.inc(1);
    }
    importer.flush().await?;
    progress.finish_and_clear();
    let mut summary = importer.summary();
    summary.refused += u64::try_from(bad.len())?;
    bad.extend(importer.take_faults().into_iter().map(|fault| Bad {
        line: fault.line,
        what: fault.what.to_string(),
    }));
    let announced = announced(header.totals);
    if seen < announced {
        bad.push(Bad {
            line: seen + 2,
            what: format!("the file ends after {seen} of {announced} records"),
        });
    }
    bad.sort_by_key(|bad| bad.line);
    Ok(Done { summary, bad })
}

/// What an import does about secrets.
struct Agreed {
    /// Those under which a key may be hashed that is to be taken.
    known: BTreeSet<PepperId>,
    /// This store's own, where they are at hand.
    ring: Option<Keyring>,
    /// Those that are not registered yet.
    to_register: Vec<StoredPepper>,
    /// Those that were dropped where the keys come from, and that are not known here.
    dropped: Vec<StoredPepper>,
}

/// Keys go on working under the secrets that they were hashed under, and no others.
async fn agree_on_secrets(
    storage: &StorageConfig,
    stores: &Stores,
    theirs: &[StoredPepper],
) -> anyhow::Result<Agreed> {
    // The key of their audit trail stays with that.
    let theirs: Vec<_> = theirs
        .iter()
        .map(|pepper| StoredPepper {
            audit_key: None,
            ..pepper.clone()
        })
        .collect();
    let ring = match &storage.secret {
        Some(SecretConfig::Kept(kept)) if !kept.are_there()? => None,
        Some(_) => Some(storage.keyring(stores, None).await?),
        None => None,
    };
    let registered = stores.secrets.registered().await?;
    let find = |id: &PepperId| registered.iter().find(|pepper| pepper.id == *id);
    let is_same = |one: &PepperCheck, other: &PepperCheck| one.expose_hex() == other.expose_hex();
    let configured: Vec<StoredPepper> = ring
        .iter()
        .flat_map(Keyring::iter)
        .map(|(id, pepper)| StoredPepper {
            id: id.clone(),
            check: pepper.check(),
            audit_key: None,
            dropped_at: None,
        })
        .collect();
    if ring.is_none() && registered.iter().any(|pepper| pepper.audit_key.is_some()) {
        bail!(Usage(
            "this store has an audit trail, and what is imported is written down there: set API_KEY_SECRET, or \
             --secret-file, to its secret"
                .to_owned()
        ));
    }
    for pepper in &configured {
        if find(&pepper.id).is_some_and(|known| !is_same(&known.check, &pepper.check)) {
            return Err(SecretError::Mismatch(pepper.id.clone()).into());
        }
    }
    // What this store made for itself says nothing of keys that come from elsewhere.
    let is_said = matches!(
        storage.secret,
        Some(SecretConfig::Said(..) | SecretConfig::File(..))
    );
    if theirs.is_empty() && !is_said {
        bail!(Usage(
            "nothing says under which secret the keys are hashed: set API_KEY_SECRET, or --secret-file, to the secret of \
             the deployment that they come from"
                .to_owned()
        ));
    }
    let (dropped, live): (Vec<_>, Vec<_>) = theirs
        .iter()
        .cloned()
        .partition(|pepper| pepper.dropped_at.is_some());
    for pepper in &live {
        let ours = configured.iter().find(|ours| ours.id == pepper.id);
        match ours.or_else(|| find(&pepper.id)) {
            Some(ours) if is_same(&ours.check, &pepper.check) => {}
            None if ring.is_none() => {}
            None => bail!(
                "the keys to import are hashed under the secret {id}, which is not among this store's, and would not work: \
                 put it into the keyring as a retired one first",
                id = pepper.id
            ),
            Some(_) => bail!(
                "the keys to import are hashed under another secret than this store's, and would not work: import into a \
                 new store, and set API_KEY_SECRET to the secret that they were made under"
            ),
        }
    }
    let named = if theirs.is_empty() {
        &configured
    } else {
        &live
    };
    Ok(Agreed {
        known: named
            .iter()
            .chain(&dropped)
            .map(|pepper| pepper.id.clone())
            .collect(),
        to_register: named
            .iter()
            .filter(|pepper| find(&pepper.id).is_none())
            .cloned()
            .collect(),
        dropped: dropped
            .into_iter()
            .filter(|pepper| find(&pepper.id).is_none())
            .collect(),
        ring,
    })
}

/// Registers the secrets of what is to come. Answers what writes it down; nothing where this store's own secrets are not at
/// hand, and the audit trail begins when a server first starts.
async fn begin(stores: &Stores, agreed: &Agreed) -> anyhow::Result<Option<Auditor>> {
    if let Some(ring) = &agreed.ring {
        // What was dropped where the keys come from is not to be registered as a live one here.
        let ring = ring.without(agreed.dropped.iter().map(|pepper| &pepper.id));
        let entropy = Arc::new(OsEntropy::new());
        let clock = Arc::new(SystemClock);
        let service = Service::new(stores.clone(), clock, entropy, ring);
        service.ensure_secret().await?;
        return Ok(Some(service.import_auditor().await?));
    }
    let secrets = agreed.to_register.iter().cloned();
    let secrets: Vec<_> = secrets.map(Audited::unchanged).collect();
    let registered = stores.transfer.import_secrets(&secrets).await?;
    for Audited { record, .. } in &secrets {
        let known = registered.iter().find(|known| known.id == record.id);
        if known.is_none_or(|known| known.check.expose_hex() != record.check.expose_hex()) {
            return Err(SecretError::Mismatch(record.id.clone()).into());
        }
    }
    Ok(None)
}

/// Remembers what was dropped where the keys come from, once those that were hashed under it, expired and deleted ones, are
/// here: later none is taken. Where one of them could work again it is left out, since here it would have to be in the keyring.
async fn take_dropped(
    stores: &Stores,
    secrets: &[StoredPepper],
    auditor: Option<&Auditor>,
) -> anyhow::Result<()> {
    let mut taken = Vec::new();
    for secret in secrets {
        let Some(dropped_at) = secret.dropped_at else {
            continue;
        };
        let used = stores.secrets.count_keys(dropped_at).await?;
        if !used.iter().any(|used| used.id == secret.id) {
            taken.push(Audited {
                record: secret.clone(),
                entry: auditor.map(|by| by.secret_imported(&secret.id)),
            });
        }
    }
    stores.transfer.import_secrets(&taken).await?;
    Ok(())
}

fn report(out: Output, done: &Done, meant: bool) -> anyhow::Result<()> {
    let Done { summary, bad } = done;
    if out == Output::Json {
        let faults: Vec<_> = bad
            .iter()
            .map(|bad| json!({"line": bad.line, "what": bad.what}))
            .collect();
        let taken = if meant { summary.stored } else { 0 };
        json_line(&json!({
            "imported": taken,
            "importable": summary.stored,
            "present": summary.present,
            "refused": summary.refused,
            "faults": faults,
        }))?;
        return Ok(());
    }
    for Bad { line, what } in bad {
        complain(&format!("line {line}: {}", printable(what)));
    }
    let Summary {
        stored,
        present,
        refused,
    } = summary;
    let verb = if meant {
        "imported"
    } else {
        "nothing was imported; importable:"
    };
    line(&format!(
        "{verb} {stored}, there already: {present}, refused: {refused}"
    ))?;
    Ok(())
}
