//! A PostgreSQL for tests and measurements: the caller's own, or a throwaway server that leaves nothing behind.
//!
//! The throwaway server has its data in a temporary folder and listens on a free port of 127.0.0.1, so that it never
//! meets a server that is already there. Two things see to its end, however this process ends: the kernel signals the
//! server when its parent dies, and a small shell beside it, the caretaker, waits for the same moment and then removes
//! the folder.

use std::fs::{self, DirBuilder, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::{self, Background};
use crate::sh::{self, Failure, Outcome};
use crate::{apt, env};

/// For tests: nothing has to survive a power cut.
pub(crate) const FAST: &[&str] = &[
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
];
/// For measurements: an acknowledged write is on the disk, as in production.
pub(crate) const DURABLE: &[&str] = &["fsync=on", "full_page_writes=on", "synchronous_commit=on"];
/// For a server that is to lose what it acknowledged when it crashes.
pub(crate) const HASTY: &[&str] = &[
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=off",
    "wal_writer_delay=10s",
];
/// For all: enough for every test of a run at once.
const ALWAYS: &[&str] = &["max_connections=300", "shared_buffers=128MB"];

const START_TIMEOUT: Duration = Duration::from_mins(1);
const PORT_ATTEMPTS: usize = 5;
const FOLDER_PREFIX: &str = "leadr-auth-pg-";
const OWNER_LOCK: &str = "owner.lock";
const INSTEAD: &str = "run `sudo apt-get install postgresql`, or set TEST_DATABASE_URL to a server that tests may use";

/// `database -- <command> [<arguments>]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    let Some((program, arguments)) = program_of(arguments) else {
        return Err(Failure::usage("database takes `--` and a command to run"));
    };
    let database = Database::open()?;
    sh::run(database.lend(sh::command(program).args(arguments)))
}

fn program_of(arguments: &[String]) -> Option<(&String, &[String])> {
    let (dashes, words) = arguments.split_first()?;
    if dashes == "--" {
        words.split_first()
    } else {
        None
    }
}

/// A database for as long as this value lives.
pub(crate) struct Database {
    url: String,
    binaries: Option<PathBuf>,
    /// Present if it was started here; dropping it stops it.
    _server: Option<Server>,
}

impl Database {
    /// The caller's `TEST_DATABASE_URL`, or a throwaway server. There is no third way: without a database this fails.
    pub(crate) fn open() -> Outcome<Self> {
        if let Some(url) = env::var("TEST_DATABASE_URL") {
            eprintln!("PostgreSQL: the one in TEST_DATABASE_URL");
            return Ok(Self {
                url,
                binaries: find_binaries(),
                _server: None,
            });
        }
        let binaries = find_or_install_binaries()?;
        let server = Server::start(&binaries, FAST, &[])?;
        eprintln!(
            "PostgreSQL: throwaway, port {}, from {}",
            server.port,
            binaries.display()
        );
        Ok(Self {
            url: server.url(),
            binaries: Some(binaries),
            _server: Some(server),
        })
    }

    /// Names this database to a command that is about to run.
    pub(crate) fn lend<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("TEST_DATABASE_URL", &self.url);
        if let Some(binaries) = &self.binaries {
            command.env("TEST_POSTGRES_BIN", binaries);
        }
        command
    }
}

/// The folder of the server's programs, installed first if need be.
pub(crate) fn find_or_install_binaries() -> Outcome<PathBuf> {
    const MISSING: &str = "no PostgreSQL server binaries found";
    if let Some(binaries) = find_binaries() {
        return Ok(binaries);
    }
    apt::install("postgresql", MISSING, INSTEAD)?;
    find_binaries().ok_or_else(|| Failure::new(format!("{MISSING}: {INSTEAD}")))
}

/// On the PATH, then where Debian keeps them, then where `pg_config` says.
fn find_binaries() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(&env::path()).collect();
    folders.extend(versions_in(Path::new("/usr/lib/postgresql")));
    if sh::find("pg_config").is_some() {
        let reported = sh::output(sh::command("pg_config").arg("--bindir")).unwrap_or_default();
        folders.push(PathBuf::from(reported.trim()));
    }
    first_with_server(&folders)
}

/// A program of the server's: where the folder has the server, or has a link to where that is with all the others.
fn beside(binaries: &Path, program: &str) -> PathBuf {
    let here = binaries.join(program);
    if here.is_file() {
        return here;
    }
    let server = fs::canonicalize(binaries.join("postgres"));
    let there = server
        .ok()
        .and_then(|server| Some(server.parent()?.join(program)));
    there.unwrap_or(here)
}

/// `<folder>/<version>/bin`, highest version first.
fn versions_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut versions: Vec<(Vec<u32>, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let numbers = name
                .split('.')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .ok()?;
            Some((numbers, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by(|left, right| right.cmp(left));
    versions.into_iter().map(|(_, bin)| bin).collect()
}

fn first_with_server(folders: &[PathBuf]) -> Option<PathBuf> {
    let whole = |bin: &&PathBuf| bin.join("initdb").is_file() && bin.join("postgres").is_file();
    folders.iter().find(whole).cloned()
}

/// A throwaway server. Dropping it stops it and removes its folder.
pub(crate) struct Server {
    // In the order in which they have to go: the caretaker brings about the end of the process.
    caretaker: Caretaker,
    process: Background,
    folder: PathBuf,
    port: u16,
    binaries: PathBuf,
    settings: Vec<String>,
    _owner_lock: File,
}

impl Server {
    /// Makes a cluster and starts it with the settings given, each `name=value`; `prefix` is a program to run it under.
    pub(crate) fn start(binaries: &Path, settings: &[&str], prefix: &[String]) -> Outcome<Self> {
        Self::made(binaries, settings, |place, caretaker| {
            place.make_cluster(caretaker)?;
            place.start(settings, prefix, caretaker)
        })
    }

    /// A standby of the server that is found at the port `source`: on a port of its own, or on one that is known to be free.
    pub(crate) fn standby(
        binaries: &Path,
        settings: &[&str],
        source: u16,
        port: Option<u16>,
    ) -> Outcome<Self> {
        let primary = format!("primary_conninfo=host=127.0.0.1 port={source} user=postgres");
        let settings: Vec<&str> = settings.iter().copied().chain([&*primary]).collect();
        Self::made(binaries, &settings, |place, caretaker| {
            place.copy_cluster(source)?;
            match port {
                None => place.start(&settings, &[], caretaker),
                Some(port) => {
                    let process = place.start_on(port, &settings, &[], caretaker)?;
                    Ok((process, port))
                }
            }
        })
    }

    fn made(
        binaries: &Path,
        settings: &[&str],
        begin: impl FnOnce(&Place<'_>, &mut Caretaker) -> Outcome<(Background, u16)>,
    ) -> Outcome<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let (folder, owner_lock) = make_folder(&parent)?;
        let mut caretaker = Caretaker::start(&folder)?;
        let user = User::for_server()?;
        if let Some(user) = &user {
            std::os::unix::fs::chown(&folder, Some(user.uid), Some(user.gid))
                .map_err(Failure::when(folder.display()))?;
        }
        let place = Place {
            binaries,
            folder: &folder,
            user,
        };
        let (process, port) = begin(&place, &mut caretaker)?;
        Ok(Self {
            caretaker,
            process,
            folder,
            port,
            binaries: binaries.to_owned(),
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            _owner_lock: owner_lock,
        })
    }

    /// Ends all its processes in the middle of what they do, without writing anything more.
    pub(crate) fn crash(&mut self) -> Outcome {
        self.end("QUIT")
    }

    /// Has it end as a signal tells it to, and waits until it has.
    pub(crate) fn end(&mut self, signal: &str) -> Outcome {
        process::signal(signal, self.process.id())?;
        self.process
            .wait()
            .map(drop)
            .map_err(Failure::when("PostgreSQL"))
    }

    /// Runs statements one after the other, and answers what they say.
    pub(crate) fn sql(&self, statements: &[&str]) -> Outcome<String> {
        let mut psql = sh::command(beside(&self.binaries, "psql"));
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d"]);
        psql.arg(self.url());
        for statement in statements {
            psql.args(["-c", statement]);
        }
        sh::output(&mut psql)
    }

    /// Lets clients in that come from these addresses, as in `10.0.0.0/24`.
    pub(crate) fn admit(&self, addresses: &str) -> Outcome {
        let file = self.folder.join("data/pg_hba.conf");
        let said = fs::OpenOptions::new().append(true).open(&file);
        said.and_then(|mut file| writeln!(file, "host all all {addresses} trust"))
            .map_err(Failure::when(file.display()))?;
        self.sql(&["SELECT pg_reload_conf()"]).map(drop)
    }

    /// The port that it listens on.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Starts it after a crash, on the same port; it recovers from its log.
    pub(crate) fn recover(&mut self) -> Outcome {
        let place = Place {
            binaries: &self.binaries,
            folder: &self.folder,
            user: User::for_server()?,
        };
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        self.process = place.start_on(self.port, &settings, &[], &mut self.caretaker)?;
        Ok(())
    }

    /// Where clients find it. Any local user may connect to it while it runs: what is in it is worth nothing.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// A folder that goes when the server goes, for files that belong to the same run.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.caretaker.release();
        // The process is this one's child: it stays listed, and the caretaker waits for it, until its end is read here.
        let _ = self.process.wait();
        self.caretaker.wait();
    }
}

/// The shell that stops the server and removes its folder when its input ends: when this process says so, or dies.
///
/// One way for every ending, since a killed process cleans up nothing itself.
struct Caretaker {
    shell: Child,
}

impl Caretaker {
    /// Its input is a line for each process started, `<signal> <pid>`; the last one is what has to end before the folder
    /// goes, after ten seconds by force. A second attempt at removing is for what a dying backend still wrote.
    const SCRIPT: &str = r#"
trap '' HUP INT TERM QUIT
cd /
while read -r line; do process=$line; done
set -- "$1" $process
if [ -n "$3" ]; then
  kill "-$2" "$3"
  tries=0
  while kill -0 "$3" && [ "$tries" -lt 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
  done
  if [ "$tries" -eq 100 ]; then kill -KILL "$3"; fi
fi
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
"#;

    fn start(folder: &Path) -> Outcome<Self> {
        let mut command = sh::command("sh");
        command.args(["-c", Self::SCRIPT, "sh"]).arg(folder);
        // Its own group, out of reach of Ctrl-C; silent, so that it keeps nobody's pipe open.
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let shell = command.spawn().map_err(Failure::when("starting sh"))?;
        Ok(Self { shell })
    }

    /// From now on this is the process to stop.
    fn watch(&mut self, signal: &str, pid: u32) -> Outcome {
        let Some(input) = &mut self.shell.stdin else {
            return Ok(());
        };
        writeln!(input, "{signal} {pid}").map_err(Failure::when("writing to sh"))
    }

    fn release(&mut self) {
        drop(self.shell.stdin.take());
    }

    fn wait(&mut self) {
        let _ = self.shell.wait();
    }
}

impl Drop for Caretaker {
    fn drop(&mut self) {
        self.release();
        self.wait();
    }
}

/// What it takes to run a program of the server.
struct Place<'a> {
    binaries: &'a Path,
    folder: &'a Path,
    user: Option<User>,
}

impl Place<'_> {
    fn command(&self, signal: &str, prefix: &[String], program: &str) -> Command {
        let mut command = process::tethered(signal, prefix, beside(self.binaries, program));
        // The caller's folder may be closed to the server's user, and the caller's language is not that of the log.
        command.current_dir(self.folder).env("LC_ALL", "C");
        if let Some(user) = &self.user {
            // This also drops root's supplementary groups.
            command.uid(user.uid).gid(user.gid);
        }
        command.arg("-D").arg(self.folder.join("data"));
        command
    }

    fn make_cluster(&self, caretaker: &mut Caretaker) -> Outcome {
        // It hears INT after each step, and the servers that it starts for a step end orderly.
        let mut initdb = self.command("INT", &[], "initdb");
        initdb.args([
            "-A",
            "trust",
            "-U",
            "postgres",
            "--no-locale",
            "-E",
            "UTF8",
            "--no-sync",
        ]);
        initdb
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let process = initdb.spawn().map_err(Failure::when("initdb"))?;
        caretaker.watch("INT", process.id())?;
        let output = process
            .wait_with_output()
            .map_err(Failure::when("initdb"))?;
        if output.status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!(
            "initdb failed: {}\n{}",
            output.status,
            errors.trim_end()
        )))
    }

    /// Makes a cluster that follows another.
    fn copy_cluster(&self, source: u16) -> Outcome {
        let mut copy = self.command("INT", &[], "pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-p", &source.to_string()]);
        copy.args(["-U", "postgres", "-X", "stream", "-c", "fast", "--no-sync"]);
        // It writes this one's settings for the source too, which the caller says otherwise, and the file that makes it a standby.
        copy.arg("-R");
        sh::run(copy.stdin(Stdio::null()))
    }

    /// A free port may be taken by another before the server has it; then the next one is tried.
    fn start(
        &self,
        settings: &[&str],
        prefix: &[String],
        caretaker: &mut Caretaker,
    ) -> Outcome<(Background, u16)> {
        let mut last = Failure::new("PostgreSQL was not started");
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port()?;
            match self.start_on(port, settings, prefix, caretaker) {
                Ok(process) => return Ok((process, port)),
                Err(failure) if failure.message.contains("Address already in use") => {
                    last = failure;
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    fn start_on(
        &self,
        port: u16,
        settings: &[&str],
        prefix: &[String],
        caretaker: &mut Caretaker,
    ) -> Outcome<Background> {
        // An immediate stop, since nobody wants what is in it; unlike KILL, it gives back the shared memory.
        let mut postgres = self.command("QUIT", prefix, "postgres");
        postgres
            .arg("-p")
            .arg(port.to_string())
            .args(["-c", "listen_addresses=127.0.0.1"]);
        postgres.arg("-k").arg(self.folder);
        for setting in settings.iter().chain(ALWAYS) {
            postgres.args(["-c", setting]);
        }
        let log = self.folder.join("log");
        let mut process = Background::start("PostgreSQL", &mut postgres, &log)?;
        caretaker.watch("QUIT", process.id())?;
        wait_until_ready(&mut process, port, &log).map_err(|failure| {
            Failure::new(format!(
                "{}; its log ends with{}",
                failure.message,
                process::tail(&log)
            ))
        })?;
        Ok(process)
    }
}

fn wait_until_ready(process: &mut Background, port: u16, log: &Path) -> Outcome {
    let start = Instant::now();
    while start.elapsed() < START_TIMEOUT {
        process.still_runs()?;
        // The log as well as the port: somebody else's server may have the port.
        let says_so = fs::read_to_string(log).is_ok_and(|text| text.contains("ready to accept"));
        if says_so && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(Failure::new(format!(
        "PostgreSQL accepts no connections after {} s",
        START_TIMEOUT.as_secs()
    )))
}

/// A port of 127.0.0.1 that is free at this moment.
pub(crate) fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address
        .map(|address| address.port())
        .map_err(Failure::when("looking for a free port"))
}

/// An account of the system, by its numbers.
#[derive(Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// PostgreSQL refuses to run as root; everybody else runs it as themselves.
    fn for_server() -> Outcome<Option<Self>> {
        if !apt::is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").map_err(Failure::when("/etc/passwd"))?;
        let user = ["postgres", "nobody"]
            .iter()
            .find_map(|name| Self::named(name, &passwd));
        let missing = "PostgreSQL does not run as root, and there is no user postgres or nobody";
        user.map(Some).ok_or_else(|| Failure::new(missing))
    }

    fn named(name: &str, passwd: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next() != Some(name) {
                return None;
            }
            let mut numbers = fields.skip(1).map(str::parse);
            Some(Self {
                uid: numbers.next()?.ok()?,
                gid: numbers.next()?.ok()?,
            })
        })
    }
}

/// A new folder that only its owner may enter, with a lock held in it for as long as this process lives.
fn make_folder(parent: &Path) -> Outcome<(PathBuf, File)> {
    let pid = std::process::id();
    for n in 0_u32.. {
        let folder = parent.join(format!("{FOLDER_PREFIX}{pid}-{n}"));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => {
                let lock = hold_lock(&folder).map_err(Failure::when("locking a new folder"))?;
                return Ok((folder, lock));
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Failure::when(folder.display())(error)),
        }
    }
    Err(Failure::new(format!(
        "no free name for a folder in {}",
        parent.display()
    )))
}

fn hold_lock(folder: &Path) -> std::io::Result<File> {
    let lock = File::create(folder.join(OWNER_LOCK))?;
    lock.lock()?;
    Ok(lock)
}

/// Removes what earlier runs left, such as after a crash of the machine. What cannot be removed is another user's.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if owner_of(&name.to_string_lossy()).is_some_and(|pid| is_abandoned(&entry.path(), pid)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process id in a folder's name, if it is one of ours.
fn owner_of(folder: &str) -> Option<u32> {
    let (pid, number) = folder.strip_prefix(FOLDER_PREFIX)?.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// The owner is gone if no process has its number, and nobody holds the lock: a number alone says little where
/// containers share the folder.
fn is_abandoned(folder: &Path, owner: u32) -> bool {
    let lock = File::open(folder.join(OWNER_LOCK));
    !is_running(owner) && lock.map_or(true, |lock| lock.try_lock().is_ok())
}

fn is_running(pid: u32) -> bool {
    if Path::new("/proc/self").exists() {
        return Path::new("/proc").join(pid.to_string()).exists();
    }
    sh::succeeds(sh::command("ps").arg("-p").arg(pid.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that goes at the end of the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("leadr-auth-xtask-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, path: &str) {
            let file = self.0.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_highest_version_comes_first() {
        let scratch = Scratch::new("versions");
        for version in ["9.6", "15", "9.10", "16", "not-a-version"] {
            scratch.file(&format!("{version}/bin/postgres"));
        }
        let expected = ["16", "15", "9.10", "9.6"].map(|name| scratch.0.join(name).join("bin"));
        assert_eq!(versions_in(&scratch.0), expected);
        assert!(versions_in(&scratch.0.join("nowhere")).is_empty());
    }

    #[test]
    fn a_folder_counts_with_both_programs_only() {
        let scratch = Scratch::new("binaries");
        scratch.file("client/psql");
        scratch.file("half/postgres");
        scratch.file("other-half/initdb");
        let mut folders = ["client", "half", "other-half", "nowhere"]
            .map(|name| scratch.0.join(name))
            .to_vec();
        assert_eq!(first_with_server(&folders), None);
        scratch.file("whole/initdb");
        scratch.file("whole/postgres");
        folders.push(scratch.0.join("whole"));
        assert_eq!(first_with_server(&folders), folders.last().cloned());
    }

    #[test]
    fn only_abandoned_folders_are_swept() {
        let scratch = Scratch::new("sweep");
        let dead = {
            let mut child = Command::new("true").spawn().unwrap();
            child.wait().unwrap();
            child.id()
        };
        let (ours, _lock) = make_folder(&scratch.0).unwrap();
        for name in [
            format!("{dead}-0"),
            format!("{dead}-x"),
            format!("{dead}-1"),
        ] {
            scratch.file(&format!("{FOLDER_PREFIX}{name}/{OWNER_LOCK}"));
        }
        scratch.file("somebody-elses/file");
        let locked = scratch.0.join(format!("{FOLDER_PREFIX}{dead}-1"));
        let elsewhere = File::open(locked.join(OWNER_LOCK)).unwrap();
        elsewhere.lock().unwrap();

        sweep(&scratch.0);

        assert!(!scratch.0.join(format!("{FOLDER_PREFIX}{dead}-0")).exists());
        assert!(scratch.0.join(format!("{FOLDER_PREFIX}{dead}-x")).exists());
        assert!(scratch.0.join("somebody-elses").exists());
        assert!(locked.exists(), "its lock is held");
        assert!(ours.exists(), "its owner is this process");
    }

    #[test]
    fn each_folder_is_new_and_closed_to_others() {
        use std::os::unix::fs::PermissionsExt as _;
        let scratch = Scratch::new("folder");
        let (first, _lock) = make_folder(&scratch.0).unwrap();
        let (second, _other_lock) = make_folder(&scratch.0).unwrap();
        assert_ne!(first, second);
        assert_eq!(
            fs::metadata(&second).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn the_caretaker_removes_the_folder_when_let_go() {
        let scratch = Scratch::new("caretaker");
        let (folder, _lock) = make_folder(&scratch.0).unwrap();
        let caretaker = Caretaker::start(&folder).unwrap();
        assert!(folder.exists());
        drop(caretaker);
        assert!(!folder.exists());
    }

    #[test]
    fn users_are_read_from_the_list() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres-old:x:7:8::/:\npostgres:x:101:104::/:\n";
        assert_eq!(
            User::named("postgres", passwd),
            Some(User { uid: 101, gid: 104 })
        );
        assert_eq!(User::named("nobody", passwd), None);
    }

    #[test]
    fn a_command_follows_the_dashes() {
        let words =
            |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
        for line in ["", "--", "psql", "psql --"] {
            assert!(command(&words(line)).unwrap_err().is_usage(), "{line}");
        }
        let line = words("-- cargo test -- --nocapture");
        let (program, arguments) = program_of(&line).unwrap();
        assert_eq!((program.as_str(), arguments.len()), ("cargo", 3));
    }
}
