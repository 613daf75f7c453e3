//! The configuration, the threads that hold the connections, and how work gets to them.
//!
//! SQLite works in the thread that calls it, and waits there for the disk. So each connection belongs to a thread of its
//! own: work is put into a queue, and whoever asked awaits the answer. One thread writes, because SQLite has one writer at a
//! time anyway; some read. Two of those look up single rows and nothing else, so that no list, however long and however often
//! it is asked for, keeps a request waiting that only wants to know whether its key is good, or that is to revoke one. And one
//! lists the audit trail, where a filter that few entries pass may go along all of it: whoever does that waits for others who
//! do, and nobody else.
//!
//! # How writes are committed
//!
//! A commit waits for the disk, and that is nearly all that a write costs. Therefore the writer takes whatever is waiting (up
//! to [`GROUP`]) into one transaction, each piece of work inside a savepoint of its own, commits once, and only then answers
//! them all. What fails is rolled back to its savepoint, and nobody else notices. Where the transaction itself is lost, all
//! of them hear that the store is not available. Under no load a group is one piece of work and waits for nobody.
//!
//! Each piece of work says in its [`Done`] what it changes, and whoever listens to the change feed hears it between the commit
//! and the answers. A signal to them waits in the same queue. Where one comes among writes, it is sent after the commit.

use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use diesel::{QueryResult, SqliteConnection, connection::SimpleConnection as _};
use leadr_auth_ports::{Change, StoreError, StoreLoad};
use tokio::sync::oneshot;

use crate::{
    change_feed::{Listeners, Watch},
    error::{self, Failure, Lost},
    file::{self, Access},
};

/// The most that is committed at once. Enough to make the wait for the disk small among the work, and little enough that
/// nobody waits long for others.
const GROUP: usize = 64;

/// How many threads look up single rows and do nothing else. Two, so that one which has to read from the disk does not hold up those whose
/// pages are in memory.
pub(crate) const LOOKUPS: usize = 2;

/// Where the database is, and how long it may take.
#[derive(Clone, Debug)]
pub struct SqliteConfig {
    /// The file. Its folder has to exist; beside it appear files with its name and an ending: `-wal`, `-shm` and `.lock`, and
    /// for a moment, when it is opened for the first time, `-journal`, and when it is made a folder, `.leadr-auth-part…`.
    pub path: PathBuf,
    /// How many threads read, at least one, besides two that only look up, and one that lists the audit trail. One more
    /// writes.
    pub readers: usize,
    /// The most that a lookup or a sign of life may take.
    pub lookup_timeout: Duration,
    /// The most that any other single read or write may take. A change, which may have to start over, and an import may
    /// take four times as long.
    pub statement_timeout: Duration,
    /// How long a write waits for another process that is writing.
    pub busy_timeout: Duration,
}

impl SqliteConfig {
    /// This file, two to four threads that read (by the number of processors), a quarter of a second per lookup, five seconds
    /// per statement and for other processes.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let processors = thread::available_parallelism().map_or(2, usize::from);
        Self {
            path: path.into(),
            readers: processors.clamp(2, 4),
            lookup_timeout: Duration::from_millis(250),
            statement_timeout: Duration::from_secs(5),
            busy_timeout: Duration::from_secs(5),
        }
    }
}

/// The most that waits for a thread. More than could be done before those who wait give up, and little enough memory where
/// nothing gets done at all.
const WAITING: usize = 4096;

fn closed() -> StoreError {
    StoreError::unavailable("the database is closed")
}

/// What waits for a thread, first come, first served.
struct Queue<J> {
    waiting: Mutex<Waiting<J>>,
    /// There is something in it, or will never be.
    arrived: Condvar,
}

struct Waiting<J> {
    jobs: VecDeque<J>,
    closed: bool,
}

impl<J> Queue<J> {
    fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                jobs: VecDeque::new(),
                closed: false,
            }),
            arrived: Condvar::new(),
        }
    }

    /// What the lock guards is whole at any time, so a thread that panicked with it does no harm.
    fn lock(&self) -> MutexGuard<'_, Waiting<J>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: J) -> Result<(), StoreError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(closed());
        }
        if waiting.jobs.len() >= WAITING {
            return Err(StoreError::unavailable(
                "too much is waiting for the database",
            ));
        }
        waiting.jobs.push_back(job);
        self.arrived.notify_one();
        Ok(())
    }

    /// The next one, as soon as there is one. `None` when there is none and will be none.
    fn pop(&self) -> Option<J> {
        let mut waiting = self
            .arrived
            .wait_while(self.lock(), |waiting| {
                waiting.jobs.is_empty() && !waiting.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        waiting.jobs.pop_front()
    }

    /// As [`Queue::pop`]. Without one it waits no longer than this, if it is said how long.
    fn pop_within(&self, patience: Option<Duration>) -> Popped<J> {
        let Some(patience) = patience else {
            return self.pop().map_or(Popped::Closed, Popped::Job);
        };
        let (mut waiting, _) = self
            .arrived
            .wait_timeout_while(self.lock(), patience, |waiting| {
                waiting.jobs.is_empty() && !waiting.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        match waiting.jobs.pop_front() {
            Some(job) => Popped::Job(job),
            None if waiting.closed => Popped::Closed,
            None => Popped::Late,
        }
    }

    /// The next one, if there is one now.
    fn pop_waiting(&self) -> Option<J> {
        self.lock().jobs.pop_front()
    }

    fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    fn len(&self) -> usize {
        self.lock().jobs.len()
    }
}

/// What came of waiting for a job.
enum Popped<J> {
    Job(J),
    /// There was none in that time.
    Late,
    /// There is none, and will be none.
    Closed,
}

/// Threads that serve one queue. They end when this is dropped, after what is in the queue.
pub(crate) struct Crew<J> {
    queue: Arc<Queue<J>>,
    size: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<J: Send + 'static> Crew<J> {
    fn new() -> Self {
        Self {
            queue: Arc::new(Queue::new()),
            size: 0,
            threads: Mutex::default(),
        }
    }

    /// Adds a thread.
    fn add(
        &mut self,
        name: &str,
        serve: impl FnOnce(&Queue<J>) + Send + 'static,
    ) -> std::io::Result<()> {
        let queue = Arc::clone(&self.queue);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || serve(&queue))?;
        self.size += 1;
        self.threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }
}

impl<J> Crew<J> {
    /// Waits until the threads have done what is in the queue, have ended, and their connections are closed.
    fn end(&self) {
        self.queue.close();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // It cannot have panicked but in closing its connection, and then there is nothing more to do.
            let _ = thread.join();
        }
    }
}

impl<J> Drop for Crew<J> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Reads, and answers by itself.
pub(crate) type Read = Box<dyn FnOnce(&mut SqliteConnection) + Send>;

/// What the thread that writes is asked for.
enum Job {
    Write(Write),
    Look(Look),
}

/// What is to be done when all that has been committed up to now, by anybody, has been told; or who hears why that cannot be
/// known.
type Look = Box<dyn FnOnce(Result<&Listeners, StoreError>) + Send>;

/// What is to be written.
type Write = Box<dyn ToWrite>;

/// What a write has come to.
pub(crate) struct Done<T> {
    answer: T,
    changes: Vec<Change>,
}

impl<T> Done<T> {
    /// Something may have changed that verification looks at: who may answer from memory has to hear of it.
    pub(crate) fn changing(changes: impl IntoIterator<Item = Change>, answer: T) -> Self {
        Self {
            answer,
            changes: changes.into_iter().collect(),
        }
    }

    /// The same changes, with another answer.
    pub(crate) fn with<U>(self, answer: U) -> Done<U> {
        Done {
            answer,
            changes: self.changes,
        }
    }

    /// Nothing has changed of any key or account that verification looks at.
    pub(crate) const fn unheard(answer: T) -> Self {
        Self {
            answer,
            changes: Vec::new(),
        }
    }
}

trait ToWrite: Send {
    /// Has whoever asked gone away, or waited long enough? Then it need not be begun.
    fn is_abandoned(&self) -> bool;

    /// Writes, inside a transaction that others write in too; or hears why there is none. `None` where nobody waits for it
    /// any more: then it has done nothing.
    fn run(self: Box<Self>, begun: Result<&mut SqliteConnection, StoreError>) -> Option<Written>;
}

/// Some work, and whom to tell what came of it.
struct Asked<W, T, E> {
    work: W,
    tell: oneshot::Sender<Result<Result<T, E>, StoreError>>,
}

impl<W, T, E> ToWrite for Asked<W, T, E>
where
    W: FnOnce(&mut SqliteConnection) -> Result<Done<T>, E> + Send,
    T: Send + 'static,
    E: Failure + Send + 'static,
{
    fn is_abandoned(&self) -> bool {
        self.tell.is_closed()
    }

    fn run(self: Box<Self>, begun: Result<&mut SqliteConnection, StoreError>) -> Option<Written> {
        let Self { work, tell } = *self;
        if tell.is_closed() {
            return None;
        }
        let done = match begun {
            Ok(connection) => work(connection),
            Err(error) => {
                let _ = tell.send(Err(error));
                return None;
            }
        };
        let (done, changes) = match done {
            Ok(Done { answer, changes }) => (Ok(answer), changes),
            Err(failure) => (Err(failure), Vec::new()),
        };
        Some(Written {
            keep: done.is_ok(),
            changes,
            failure: done
                .as_ref()
                .err()
                .and_then(Failure::of_database)
                .map(Lost::from),
            answer: Box::new(move |committed| {
                let _ = tell.send(committed.map(|()| done));
            }),
        })
    }
}

/// What has been written, and waits to be committed.
struct Written {
    /// Is it to stay? Otherwise it is rolled back.
    keep: bool,
    /// What it changes, if it stays.
    changes: Vec<Change>,
    /// What the database said, where it is that which failed.
    failure: Option<Lost>,
    /// Tells whoever asked, once it is known what came of the transaction.
    answer: Answer,
}

type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// The threads and their connections. Clones share them; with the last one they end.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    config: SqliteConfig,
    access: Access,
    /// For what somebody waits for with every request.
    lookups: Crew<Read>,
    readers: Crew<Read>,
    /// For lists of the audit trail.
    trail: Crew<Read>,
    writer: Crew<Job>,
    /// Gone with the thread that writes.
    listeners: Weak<Listeners>,
    gauge: Arc<Gauge>,
}

/// What the threads count.
#[derive(Default)]
struct Gauge {
    /// How many are at work.
    busy: AtomicUsize,
    /// How many transactions have been committed.
    commits: AtomicUsize,
}

impl Shared {
    /// Waits, so that every connection is closed: the writer's is the last one, and closing that one writes the log ahead
    /// into the file and takes it away.
    fn close(&self) {
        self.lookups.end();
        self.readers.end();
        self.trail.end();
        self.writer.end();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the threads are started with.
pub(crate) struct Connections {
    pub(crate) lookups: Vec<SqliteConnection>,
    pub(crate) readers: Vec<SqliteConnection>,
    pub(crate) trail: SqliteConnection,
    /// Where there is none, nothing is written.
    pub(crate) writer: Option<SqliteConnection>,
}

impl Pool {
    /// Starts the threads, each with its connection.
    pub(crate) fn start(
        config: SqliteConfig,
        access: Access,
        connections: Connections,
    ) -> std::io::Result<Self> {
        let mut shared = Shared {
            config,
            access,
            lookups: Crew::new(),
            readers: Crew::new(),
            trail: Crew::new(),
            writer: Crew::new(),
            listeners: Weak::new(),
            gauge: Arc::default(),
        };
        for (crew, name, connections) in [
            (&mut shared.lookups, "sqlite lookup", connections.lookups),
            (&mut shared.readers, "sqlite read", connections.readers),
            (&mut shared.trail, "sqlite trail", vec![connections.trail]),
        ] {
            for connection in connections {
                let gauge = Arc::clone(&shared.gauge);
                crew.add(name, move |queue| serve_reads(queue, connection, &gauge))?;
            }
        }
        if let Some(writer) = connections.writer {
            let gauge = Arc::clone(&shared.gauge);
            let listeners = Arc::new(Listeners::default());
            shared.listeners = Arc::downgrade(&listeners);
            shared.writer.add("sqlite write", move |queue| {
                serve_writes(queue, writer, listeners, &gauge);
            })?;
        }
        Ok(Self(Arc::new(shared)))
    }

    /// Reads what somebody waits for with every request: it has to be there within the lookup timeout.
    pub(crate) async fn lookup<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_by(&self.0.lookups, self.0.config.lookup_timeout, work)
            .await
    }

    /// Reads a row by what identifies it, where nobody waits for a list. It has the time that any other read has.
    pub(crate) async fn row<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_by(&self.0.lookups, self.0.config.statement_timeout, work)
            .await
    }

    /// Lists a part of the audit trail.
    pub(crate) async fn trail<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_by(&self.0.trail, self.0.config.statement_timeout, work)
            .await
    }

    /// Reads anything else. What has to be one view has to be a single statement, or a transaction.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_by(&self.0.readers, self.0.config.statement_timeout, work)
            .await
    }

    /// Puts a read into the queue of a crew, and awaits the answer.
    pub(crate) async fn read_by<T: Send + 'static>(
        &self,
        crew: &Crew<Read>,
        time: Duration,
        work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let access = self.0.access.clone();
        let (tell, told) = oneshot::channel();
        crew.queue.push(Box::new(move |connection| {
            if tell.is_closed() {
                return;
            }
            let done = work(connection).map_err(error::of_query);
            // Also where it failed: that may be for the same reason.
            let _ = tell.send(access.check().and(done));
        }))?;
        answered(time, told).await
    }

    /// Fails where the file was opened for reading only.
    fn check_writable(&self) -> Result<(), StoreError> {
        match self.0.access {
            Access::Write => Ok(()),
            Access::Read | Access::ReadStill(_) => Err(StoreError::internal(
                "the database was opened for reading only",
            )),
        }
    }

    /// Writes: all that `work` does stays, or where it fails nothing. The answer comes when it is on the disk.
    ///
    /// Work that has not begun when its time is over, or when whoever asked has gone away, is never done. What has begun is
    /// done as a whole, so that `Unavailable` then means that nobody can tell.
    pub(crate) async fn write<T, E>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<Done<T>, E> + Send + 'static,
    ) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Failure + Send + 'static,
    {
        self.write_within(self.0.config.statement_timeout, work)
            .await
    }

    /// Writes much at once, and takes its time.
    pub(crate) async fn write_much<T, E>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<Done<T>, E> + Send + 'static,
    ) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Failure + Send + 'static,
    {
        self.write_within(self.long(), work).await
    }

    /// Gives up on something that takes several steps when it takes too long.
    pub(crate) async fn in_steps<T, E: From<StoreError>>(
        &self,
        steps: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        tokio::time::timeout(self.long(), steps)
            .await
            .unwrap_or_else(|_| Err(too_long().into()))
    }

    /// The time for what is more than a statement.
    pub(crate) fn long(&self) -> Duration {
        4 * self.0.config.statement_timeout
    }

    async fn write_within<T, E>(
        &self,
        time: Duration,
        work: impl FnOnce(&mut SqliteConnection) -> Result<Done<T>, E> + Send + 'static,
    ) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Failure + Send + 'static,
    {
        self.check_writable()?;
        let (tell, told) = oneshot::channel();
        let job = Job::Write(Box::new(Asked { work, tell }));
        self.0.writer.queue.push(job)?;
        answered(time, told).await
    }

    /// Does something with those who listen, as soon as they have been told all that has been committed up to now, by
    /// whomever. Where it cannot be known whether there is something to tell, it is not done.
    pub(crate) async fn when_all_is_told<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Listeners) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.check_writable()?;
        let (tell, told) = oneshot::channel();
        let look: Look = Box::new(move |looked| {
            if !tell.is_closed() {
                let _ = tell.send(looked.map(work));
            }
        });
        self.0.writer.queue.push(Job::Look(look))?;
        answered(self.0.config.statement_timeout, told).await
    }

    /// Those who listen. Fails when the database is closed.
    pub(crate) fn listeners(&self) -> Result<Arc<Listeners>, StoreError> {
        self.check_writable()?;
        self.0.listeners.upgrade().ok_or_else(closed)
    }

    /// Does something on a connection and a thread of its own: it may take as long as it takes, and holds nobody up. Once
    /// begun it runs to its end, also when nobody awaits it any more.
    pub(crate) async fn apart<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&mut SqliteConnection) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.aside(name, |config| {
            file::connect(&config.path, config)
                .map(|mut connection| work(&mut connection))
                .map_err(error::of_connecting)
        })
        .await?
    }

    /// As [`Pool::apart`], and opens its connection by itself.
    pub(crate) async fn aside<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&SqliteConfig) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.check_writable()?;
        let config = self.0.config.clone();
        let (tell, told) = oneshot::channel();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _ = tell.send(work(&config));
            })
            .map_err(StoreError::unavailable)?;
        told.await.map_err(|_| panicked())
    }

    /// A thread of its own that reads, on a connection that is first prepared by `begin`.
    pub(crate) async fn reader(
        &self,
        begin: impl FnOnce(&mut SqliteConnection) -> QueryResult<()> + Send + 'static,
    ) -> Result<Crew<Read>, StoreError> {
        let (config, access) = (self.0.config.clone(), self.0.access.clone());
        let open = move || {
            let mut connection = file::connect_to_read(&config.path, &config, &access)
                .map_err(error::of_connecting)?;
            begin(&mut connection).map_err(error::of_query)?;
            Ok(connection)
        };
        let mut crew = Crew::new();
        let (tell, told) = oneshot::channel();
        crew.add("sqlite snapshot", move |queue| match open() {
            Ok(connection) => {
                let _ = tell.send(Ok(()));
                serve_reads(queue, connection, &Gauge::default());
            }
            Err(error) => drop(tell.send(Err(error))),
        })
        .map_err(StoreError::unavailable)?;
        answered(self.long(), told).await?;
        Ok(crew)
    }

    /// Ends the threads, after what waits for them, and closes the connections, whoever else holds a handle still. What is
    /// asked from now on is not done. Blocks for as long as the disk takes.
    pub(crate) fn close(&self) {
        self.0.close();
    }

    /// How busy the threads are.
    pub(crate) fn load(&self) -> StoreLoad {
        let Shared {
            lookups,
            readers,
            trail,
            writer,
            gauge,
            ..
        } = &*self.0;
        let reading = [lookups, readers, trail];
        let max = reading.map(|crew| crew.size).iter().sum::<usize>() + writer.size;
        StoreLoad {
            max,
            open: max,
            in_use: gauge.busy.load(Ordering::Relaxed).min(max),
            waiting: reading.map(|crew| crew.queue.len()).iter().sum::<usize>()
                + writer.queue.len(),
        }
    }
}

async fn answered<T>(
    time: Duration,
    told: oneshot::Receiver<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(time, told).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(panicked()),
        Err(_) => Err(too_long()),
    }
}

/// Whoever has to answer always does, unless it was unwound.
fn panicked() -> StoreError {
    StoreError::internal("the work on the database panicked")
}

fn too_long() -> StoreError {
    StoreError::unavailable("the database took too long")
}

fn serve_reads(queue: &Queue<Read>, mut connection: SqliteConnection, gauge: &Gauge) {
    while let Some(job) = queue.pop() {
        gauge.busy.fetch_add(1, Ordering::Relaxed);
        // Its caller hears of a panic by its sender, which goes down with it.
        let _ = catch_unwind(AssertUnwindSafe(|| job(&mut connection)));
        gauge.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve_writes(
    queue: &Queue<Job>,
    mut connection: SqliteConnection,
    listeners: Arc<Listeners>,
    gauge: &Gauge,
) {
    let mut watch = Watch::new(listeners, &mut connection);
    loop {
        let due_in = watch.due_in();
        // Also where there is always something to write.
        if due_in == Some(Duration::ZERO) {
            // Where it fails, so does the next signal, and its sender hears why.
            let _ = watch.look(&mut connection);
            continue;
        }
        let job = match queue.pop_within(due_in) {
            Popped::Job(job) => job,
            Popped::Late => continue,
            Popped::Closed => break,
        };
        match job {
            // Before there is a transaction, for which it would wait as long as another process has the lock: what nobody
            // waits for would so keep up what somebody does.
            Job::Write(first) if first.is_abandoned() => {}
            Job::Write(first) => {
                gauge.busy.fetch_add(1, Ordering::Relaxed);
                let looks = write_group(queue, first, &mut connection, watch.listeners(), gauge);
                for look in looks {
                    look_for(look, &mut connection, &mut watch);
                }
                gauge.busy.fetch_sub(1, Ordering::Relaxed);
            }
            Job::Look(look) => {
                gauge.busy.fetch_add(1, Ordering::Relaxed);
                look_for(look, &mut connection, &mut watch);
                gauge.busy.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

fn look_for(look: Look, connection: &mut SqliteConnection, watch: &mut Watch) {
    let looked = watch.look(connection).map_err(error::of_query);
    let looked = looked.map(|()| watch.listeners());
    // Its caller hears of a panic by its sender, which goes down with it.
    let _ = catch_unwind(AssertUnwindSafe(|| look(looked)));
}

/// Writes what is waiting, in one transaction. Answers what was waiting in between and is to be done after it.
fn write_group(
    queue: &Queue<Job>,
    first: Write,
    connection: &mut SqliteConnection,
    listeners: &Listeners,
    gauge: &Gauge,
) -> Vec<Look> {
    // The lock is taken at once: a transaction that begins by reading cannot write any more when somebody else has.
    if let Err(error) = connection.batch_execute("BEGIN IMMEDIATE") {
        first.run(Err(error::of_query(error)));
        return Vec::new();
    }
    let mut group = Group::default();
    let mut looks = Vec::new();
    let mut next = Some(Job::Write(first));
    let mut whole = Ok(());
    while let Some(job) = next.take() {
        match job {
            Job::Write(job) => whole = write_one(job, connection, &mut group),
            Job::Look(look) => looks.push(look),
        }
        if whole.is_ok() && group.answers.len() + looks.len() < GROUP {
            next = queue.pop_waiting();
        }
    }
    let committed = whole.and_then(|()| {
        connection
            .batch_execute("COMMIT")
            .map_err(|error| Lost::from(&error))
    });
    match &committed {
        Ok(()) => {
            gauge.commits.fetch_add(1, Ordering::Relaxed);
            for change in group.changes {
                listeners.tell(change);
            }
        }
        // It fails where SQLite has rolled back by itself, which is as good.
        Err(_) => drop(connection.batch_execute("ROLLBACK")),
    }
    for answer in group.answers {
        answer(committed.as_ref().copied().map_err(error::of_group));
    }
    looks
}

/// What has been written in one transaction.
#[derive(Default)]
struct Group {
    answers: Vec<Answer>,
    /// In the order in which they were made.
    changes: Vec<Change>,
}

/// Does one piece of work inside a savepoint. An error means that the transaction is lost.
fn write_one(job: Write, connection: &mut SqliteConnection, group: &mut Group) -> Result<(), Lost> {
    if let Err(error) = connection.batch_execute("SAVEPOINT one") {
        let lost = Lost::from(&error);
        job.run(Err(error::of_group(&lost)));
        return Err(lost);
    }
    // Its caller hears of a panic by its sender, which goes down with it.
    let written = catch_unwind(AssertUnwindSafe(|| job.run(Ok(connection))));
    let keep = matches!(&written, Ok(None | Some(Written { keep: true, .. })));
    let ended = connection
        .batch_execute(if keep {
            "RELEASE one"
        } else {
            "ROLLBACK TO one; RELEASE one"
        })
        .map_err(|error| Lost::from(&error));
    let Ok(Some(Written {
        changes,
        failure,
        answer,
        ..
    })) = written
    else {
        return ended;
    };
    match ended {
        // It is its own failure that took the transaction with it, as a full disk does. That says more than that there is no
        // such savepoint any more, to itself and to the others.
        Err(lost) if !keep => {
            answer(Ok(()));
            Err(failure.unwrap_or(lost))
        }
        ended => {
            group.answers.push(answer);
            // There are none where it was rolled back.
            group.changes.extend(changes);
            ended
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::mpsc};

    use diesel::{
        prelude::*,
        result::{DatabaseErrorKind, Error},
    };
    use leadr_auth_domain::{Account, ApiKey};
    use leadr_auth_ports::{
        AccountRepository as _, AuditQuery, AuditStore as _, CreateAccountError, KeyLookup as _,
        KeyRepository as _, Rows, StoreHealth as _,
        contract::fixtures::{account, at, entry, key, noted},
    };
    use tempfile::TempDir;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::{
        IfMissing, Sqlite, accounts::Accounts, audit::Audit, keys::Keys, migrate, rows, schema,
    };

    async fn start(change: impl FnOnce(&mut SqliteConfig)) -> (TempDir, Pool) {
        let folder = TempDir::new().unwrap();
        let mut config = SqliteConfig::new(folder.path().join("keys.db"));
        change(&mut config);
        let sqlite = Sqlite::open(config, IfMissing::Create).unwrap();
        migrate::run(&sqlite).await.unwrap();
        (folder, sqlite.pool)
    }

    fn insert(connection: &mut SqliteConnection, account: &Account) -> QueryResult<usize> {
        diesel::insert_into(schema::accounts::table)
            .values(rows::account_row(account))
            .execute(connection)
    }

    /// Keeps the writer busy until it is sent something.
    async fn hold(pool: &Pool) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (enter, entered) = oneshot::channel();
        let pool = pool.clone();
        tokio::spawn(async move {
            let held = pool.write_much(move |_| {
                let _ = enter.send(());
                let _ = released.recv();
                Ok::<_, ()>(Done::unheard(()))
            });
            drop(held.await);
        });
        entered.await.unwrap();
        release
    }

    /// Keeps a thread of a crew busy until what is answered is dropped.
    async fn hold_one(pool: &Pool, crew: fn(&Shared) -> &Crew<Read>) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (enter, entered) = oneshot::channel();
        let pool = pool.clone();
        tokio::spawn(async move {
            let held = pool.read_by(crew(&pool.0), pool.long(), move |_| {
                let _ = enter.send(());
                let _ = released.recv();
                Ok(())
            });
            drop(held.await);
        });
        entered.await.unwrap();
        release
    }

    /// As if lists kept all threads busy that make any, until what is answered is dropped.
    async fn hold_readers(pool: &Pool) -> Vec<mpsc::Sender<()>> {
        let mut holds = vec![hold_one(pool, |shared| &shared.trail).await];
        for _ in 0..pool.0.config.readers {
            holds.push(hold_one(pool, |shared| &shared.readers).await);
        }
        holds
    }

    fn create(pool: &Pool, account: Account) -> JoinHandle<Result<(), CreateAccountError>> {
        let accounts = Accounts(pool.clone());
        tokio::spawn(async move { accounts.create(&account, &entry()).await })
    }

    async fn until(done: impl Fn() -> bool) {
        for _ in 0..500 {
            if done() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came");
    }

    async fn is_stored(pool: &Pool, account: &Account) -> bool {
        let found = Accounts(pool.clone())
            .get(account.id, Rows::WithDeleted)
            .await;
        found.unwrap().is_some()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_waiting_is_committed_at_once_and_a_failure_stays_its_own() {
        let (_folder, pool) = start(|_| ()).await;
        create(&pool, account(1)).await.unwrap().unwrap();
        let release = hold(&pool).await;
        let before = pool.0.gauge.commits.load(Ordering::Relaxed);
        let mut created = Vec::new();
        for n in 2..18 {
            let mut account = account(n);
            if n == 9 {
                // Breaks two rules.
                account.name = super::tests::account(1).name;
                account.slug = super::tests::account(1).slug;
            }
            created.push((n, create(&pool, account)));
            until(|| pool.load().waiting == created.len()).await;
        }
        release.send(()).unwrap();
        for (n, created) in created {
            match created.await.unwrap() {
                Ok(()) => assert_ne!(n, 9),
                Err(CreateAccountError::NameTaken) => assert_eq!(n, 9),
                Err(error) => panic!("{n}: {error:?}"),
            }
            assert_eq!(is_stored(&pool, &account(n)).await, n != 9, "{n}");
        }
        let commits = pool.0.gauge.commits.load(Ordering::Relaxed) - before;
        assert_eq!(
            commits, 1,
            "the one that held the writer, and all the others"
        );
    }

    /// What an acknowledged write depends on, and what keeps the rules of the schema.
    fn settings(connection: &mut SqliteConnection) -> QueryResult<(i32, i32, String)> {
        use diesel::{
            dsl::sql,
            sql_types::{Integer, Text},
        };
        diesel::select((
            sql::<Integer>("(SELECT synchronous FROM pragma_synchronous)"),
            sql::<Integer>("(SELECT foreign_keys FROM pragma_foreign_keys)"),
            sql::<Text>("(SELECT journal_mode FROM pragma_journal_mode)"),
        ))
        .get_result(connection)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_connection_waits_for_the_disk_and_keeps_the_rules() {
        const FULL: i32 = 2;
        let (_folder, pool) = start(|_| ()).await;
        let expected = (FULL, 1, "wal".to_owned());
        assert_eq!(
            pool.write(|connection| settings(connection).map(Done::unheard))
                .await
                .unwrap()
                .unwrap(),
            expected
        );
        assert_eq!(pool.read(settings).await.unwrap(), expected);
        assert_eq!(pool.lookup(settings).await.unwrap(), expected);
        assert_eq!(pool.apart("", settings).await.unwrap().unwrap(), expected);
    }

    /// However many lists are asked for: a key is looked up, changed, and so revoked; and so are accounts.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_about_one_row_waits_for_no_list() {
        let (_folder, pool) = start(|_| ()).await;
        let readers = pool.0.config.readers;
        assert_eq!(pool.load().max, readers + LOOKUPS + 2);
        let holds = hold_readers(&pool).await;
        assert_eq!(pool.load().in_use, readers + 1);
        crate::health::Health(pool.clone()).ping().await.unwrap();
        let (accounts, keys) = (Accounts(pool.clone()), Keys(pool.clone()));
        let (owner, issued) = (account(1), key(1, &account(1)));
        accounts.create(&owner, &entry()).await.unwrap();
        keys.create(&issued, &entry()).await.unwrap();
        assert!(keys.find(&issued.key_prefix).await.unwrap().is_some());
        assert!(keys.get(issued.id, Rows::Live).await.unwrap().is_some());
        let revoke = &mut |mut key: ApiKey| {
            key.revoke(at(9));
            Ok(noted(key))
        };
        keys.update(issued.id, revoke).await.unwrap();
        assert!(accounts.get(owner.id, Rows::Live).await.unwrap().is_some());
        let found = accounts.find_by_slug(&owner.slug).await.unwrap();
        assert!(found.is_some());
        let suspend = &mut |mut account: Account| {
            account.suspend(at(9));
            Ok(noted(account))
        };
        accounts.update(owner.id, suspend).await.unwrap();
        drop(holds);
    }

    /// However long a list of the trail takes.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_other_read_waits_for_a_list_of_the_trail() {
        let (_folder, pool) = start(|_| ()).await;
        let hold = hold_one(&pool, |shared| &shared.trail).await;
        let (trail, accounts) = (Audit(pool.clone()), Accounts(pool.clone()));
        let all = AuditQuery::of(None, 1);
        let mut listed = pin!(trail.page(&all));
        tokio::select! {
            biased;
            _ = &mut listed => panic!("the trail was listed elsewhere"),
            others = accounts.list() => assert_eq!(others.unwrap(), []),
        }
        drop(hold);
        assert_eq!(listed.await.unwrap().rows, []);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_is_answered_before_the_commit() {
        let (_folder, pool) = start(|_| ()).await;
        let first = hold(&pool).await;
        let created = create(&pool, account(1));
        until(|| pool.load().waiting == 1).await;
        // Is in the group too, and ends it when it is let go.
        let (release, released) = mpsc::channel::<()>();
        let (enter, entered) = oneshot::channel();
        let last = pool.write(move |_| {
            let _ = enter.send(());
            let _ = released.recv();
            Ok::<_, ()>(Done::unheard(()))
        });
        let watched = async {
            until(|| pool.load().waiting == 2).await;
            first.send(()).unwrap();
            entered.await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!created.is_finished(), "answered before the commit");
            assert!(!is_stored(&pool, &account(1)).await);
            release.send(()).unwrap();
        };
        let (last, ()) = tokio::join!(last, watched);
        last.unwrap().unwrap();
        created.await.unwrap().unwrap();
        assert!(is_stored(&pool, &account(1)).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_is_rolled_back_and_harms_nobody_else() {
        let (_folder, pool) = start(|config| config.readers = 1).await;
        let release = hold(&pool).await;
        let before = create(&pool, account(1));
        until(|| pool.load().waiting == 1).await;
        let panics = pool.write::<(), ()>(|connection| {
            insert(connection, &account(2)).unwrap();
            std::panic::resume_unwind(Box::new("a panic that prints nothing"))
        });
        let others = async {
            until(|| pool.load().waiting == 2).await;
            let after = create(&pool, account(3));
            until(|| pool.load().waiting == 3).await;
            release.send(()).unwrap();
            before.await.unwrap().unwrap();
            after.await.unwrap().unwrap();
        };
        let (panicked, ()) = tokio::join!(panics, others);
        assert!(
            matches!(panicked, Err(StoreError::Internal(_))),
            "{panicked:?}"
        );
        for (n, stored) in [(1, true), (2, false), (3, true)] {
            assert_eq!(is_stored(&pool, &account(n)).await, stored, "{n}");
        }
        let read = pool
            .read::<()>(|_| std::panic::resume_unwind(Box::new("another one")))
            .await;
        assert!(matches!(read, Err(StoreError::Internal(_))), "{read:?}");
        assert!(is_stored(&pool, &account(1)).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_has_not_begun_in_time_is_never_done() {
        let (_folder, pool) = start(|config| {
            config.statement_timeout = Duration::from_millis(100);
        })
        .await;
        let release = hold(&pool).await;
        let late = create(&pool, account(1)).await.unwrap();
        assert!(
            matches!(
                late,
                Err(CreateAccountError::Store(StoreError::Unavailable(_)))
            ),
            "{late:?}"
        );
        let gone = create(&pool, account(2));
        until(|| pool.load().waiting == 2).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        release.send(()).unwrap();
        until(|| pool.load().in_use == 0 && pool.load().waiting == 0).await;
        assert!(!is_stored(&pool, &account(1)).await);
        assert!(!is_stored(&pool, &account(2)).await);
    }

    /// Another process has the write lock: only those wait for it for whom somebody waits.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_given_up_does_not_wait_for_another_process() {
        let (_folder, pool) = start(|config| {
            config.busy_timeout = Duration::from_millis(500);
            config.statement_timeout = Duration::from_millis(100);
        })
        .await;
        let mut other = file::connect(&pool.0.config.path, &pool.0.config).unwrap();
        other.batch_execute("BEGIN IMMEDIATE").unwrap();
        let start = std::time::Instant::now();
        let late: Vec<_> = (1..20).map(|n| create(&pool, account(n))).collect();
        for late in late {
            assert!(late.await.unwrap().is_err());
        }
        until(|| pool.load().in_use == 0 && pool.load().waiting == 0).await;
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "each has waited for the lock: {:?}",
            start.elapsed()
        );
        other.batch_execute("ROLLBACK").unwrap();
        // So little time is not always enough on a machine that has other work.
        while create(&pool, account(20)).await.unwrap().is_err() {
            if is_stored(&pool, &account(20)).await {
                break;
            }
        }
    }

    #[test]
    fn a_queue_has_an_end() {
        let queue = Queue::new();
        for n in 0..WAITING {
            queue.push(n).unwrap();
        }
        let refused = queue.push(0).unwrap_err();
        assert!(refused.is_retryable(), "{refused:?}");
        assert_eq!(queue.pop(), Some(0));
        queue.push(0).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_has_begun_is_done_also_for_who_has_gone_away() {
        let (_folder, pool) = start(|_| ()).await;
        let (release, released) = mpsc::channel::<()>();
        let (enter, entered) = oneshot::channel();
        let theirs = pool.clone();
        let gone = tokio::spawn(async move {
            let begun = theirs.write(move |connection| {
                insert(connection, &account(1))?;
                let _ = enter.send(());
                let _ = released.recv();
                insert(connection, &account(2)).map(Done::unheard)
            });
            drop(begun.await);
        });
        entered.await.unwrap();
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        release.send(()).unwrap();
        until(|| pool.load().in_use == 0).await;
        assert!(is_stored(&pool, &account(1)).await && is_stored(&pool, &account(2)).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn closing_does_what_waits_and_leaves_one_file() {
        let (folder, pool) = start(|_| ()).await;
        let release = hold(&pool).await;
        let waiting = create(&pool, account(1));
        until(|| pool.load().waiting == 1).await;
        let theirs = pool.clone();
        let closing = tokio::task::spawn_blocking(move || theirs.close());
        release.send(()).unwrap();
        closing.await.unwrap();
        waiting.await.unwrap().unwrap();
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 1, "the log ahead is in the file");
        let late = create(&pool, account(2)).await.unwrap();
        assert!(
            matches!(
                late,
                Err(CreateAccountError::Store(StoreError::Unavailable(_)))
            ),
            "{late:?}"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_disk_loses_nothing_that_was_acknowledged() {
        let (_folder, pool) = start(|_| ()).await;
        let limit = |pages: u32| {
            pool.write(move |connection| {
                let limited = connection.batch_execute(&format!("PRAGMA max_page_count = {pages}"));
                limited.map(Done::unheard)
            })
        };
        limit(40).await.unwrap().unwrap();
        let mut stored = Vec::new();
        let refused = loop {
            let n = u8::try_from(stored.len()).unwrap();
            let mut account = account(n);
            account.name = leadr_auth_domain::AccountName::from_store(format!("{n} ").repeat(500));
            match create(&pool, account.clone()).await.unwrap() {
                Ok(()) => stored.push(account),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(
                refused,
                CreateAccountError::Store(StoreError::Unavailable(_))
            ),
            "{refused:?}"
        );
        assert!(!stored.is_empty());
        limit(u32::MAX / 2).await.unwrap().unwrap();
        create(&pool, account(255)).await.unwrap().unwrap();
        for account in &stored {
            assert!(is_stored(&pool, account).await);
        }
    }

    /// The first failure takes the transaction with it; those that were in it hear so, and those that were not go on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lost_transaction_is_told_to_all_that_were_in_it() {
        let (_folder, pool) = start(|_| ()).await;
        let release = hold(&pool).await;
        let before = create(&pool, account(1));
        until(|| pool.load().waiting == 1).await;
        let full = || {
            let words = "database or disk is full".to_owned();
            Error::DatabaseError(DatabaseErrorKind::Unknown, Box::new(words))
        };
        let loses = pool.write(move |connection| {
            // As SQLite itself does where the disk fails.
            connection.batch_execute("ROLLBACK")?;
            Err::<Done<()>, _>(full())
        });
        let others = async {
            until(|| pool.load().waiting == 2).await;
            let after = create(&pool, account(3));
            until(|| pool.load().waiting == 3).await;
            // The holder is one of those whose transaction is lost.
            drop(release);
            let told = format!("{:?}", before.await.unwrap().unwrap_err());
            assert!(told.contains("database or disk is full"), "{told}");
            after.await.unwrap().unwrap();
        };
        let (lost, ()) = tokio::join!(loses, others);
        assert_eq!(lost.unwrap(), Err(full()));
        assert!(!is_stored(&pool, &account(1)).await);
        assert!(is_stored(&pool, &account(3)).await);
    }
}
