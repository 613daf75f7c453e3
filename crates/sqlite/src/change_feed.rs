//! What the process changes, told where it is committed; and that another one has changed something, found by asking.
//!
//! All of it is told by the thread that writes: what it has committed itself, as soon as it has; and as
//! [`Change::Everything`] what another process has, or another connection of this one, as a migration does. SQLite says
//! so by `PRAGMA data_version`: on one and the same connection its value changes where somebody else has committed, and never
//! where that connection has itself. So it has to be the connection that writes which is asked: on any other, each of our own
//! writes, and that is each note of a use, would look like somebody else's.
//!
//! It is asked before each signal, so that whoever hears one has heard of all that was committed before, and every
//! [`INTERVAL`] as long as somebody listens. Where it cannot be asked, nobody knows what there was, and nothing is sent.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use diesel::{QueryResult, RunQueryDsl as _, SqliteConnection, dsl::sql, sql_types::BigInt};
use leadr_auth_domain::NodeId;
use leadr_auth_ports::{
    Change, ChangeFeed, Heard, LocalFeed, NodeReport, NodeReports, Signal, StoreError, Subscription,
};

use crate::pool::Pool;

/// How often it is asked whether another process has changed something.
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(crate) struct Feed(pub(crate) Pool);

/// Who listens within this process. It belongs to the thread that writes: with that, what they hear is at its end.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    feed: LocalFeed,
    /// Each of them has a clone.
    present: Arc<()>,
}

impl Listeners {
    fn subscribe(&self) -> Box<dyn Subscription> {
        Box::new(Listening {
            heard: self.feed.subscribe(),
            _present: Arc::clone(&self.present),
        })
    }

    fn is_empty(&self) -> bool {
        Arc::strong_count(&self.present) == 1
    }

    /// Tells what was changed.
    pub(crate) fn tell(&self, change: Change) {
        self.feed.tell(&Heard::Change(change));
    }
}

/// It holds nothing of the database: who listens does not keep it open.
struct Listening {
    heard: Box<dyn Subscription>,
    _present: Arc<()>,
}

#[async_trait]
impl Subscription for Listening {
    async fn next(&mut self) -> Result<Heard, StoreError> {
        self.heard.next().await
    }
}

/// Finds, on the connection that writes, what others have committed.
pub(crate) struct Watch {
    listeners: Arc<Listeners>,
    /// What SQLite said last; `None` where it has not said anything yet.
    version: Option<i64>,
    asked: Instant,
}

impl Watch {
    pub(crate) fn new(listeners: Arc<Listeners>, connection: &mut SqliteConnection) -> Self {
        Self {
            listeners,
            version: data_version(connection).ok(),
            asked: Instant::now(),
        }
    }

    pub(crate) fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// In how long it is to be asked again, without there being a signal; `None` where nobody listens.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        let due = || INTERVAL.saturating_sub(self.asked.elapsed());
        (!self.listeners.is_empty()).then(due)
    }

    /// Tells whether others have committed since it was asked last. Never to be called inside a transaction, which shows what
    /// there was when it began.
    pub(crate) fn look(&mut self, connection: &mut SqliteConnection) -> QueryResult<()> {
        let version = data_version(connection);
        // Also where it failed, which may have taken its time: what waits comes first.
        self.asked = Instant::now();
        let version = version?;
        if self.version.replace(version) != Some(version) {
            self.listeners.tell(Change::Everything);
        }
        Ok(())
    }
}

fn data_version(connection: &mut SqliteConnection) -> QueryResult<i64> {
    diesel::select(sql::<BigInt>(
        "(SELECT data_version FROM pragma_data_version)",
    ))
    .get_result(connection)
}

#[async_trait]
impl ChangeFeed for Feed {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, StoreError> {
        self.0.when_all_is_told(Listeners::subscribe).await
    }

    async fn tick(&self, report: &NodeReport) -> Result<(), StoreError> {
        let report = report.clone();
        let tick = move |listeners: &Listeners| listeners.feed.tick(&report);
        self.0.when_all_is_told(tick).await
    }

    async fn send(&self, signal: &Signal) -> Result<(), StoreError> {
        let heard = Heard::Signal(signal.clone());
        let send = move |listeners: &Listeners| listeners.feed.tell(&heard);
        self.0.when_all_is_told(send).await
    }

    async fn nodes(&self) -> Result<NodeReports, StoreError> {
        Ok(self.0.listeners()?.feed.nodes())
    }

    async fn forget(&self, id: NodeId, last: Option<u64>) -> Result<(), StoreError> {
        self.0.listeners()?.feed.forget(id, last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        mem,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use diesel::{Connection as _, connection::SimpleConnection as _, result::Error};
    use leadr_auth_ports::contract::fixtures::at;
    use tempfile::TempDir;

    use super::*;
    use crate::{IfMissing, Sqlite, SqliteConfig, migrate, pool::Done};

    async fn start() -> (TempDir, Pool, Box<dyn Subscription>) {
        let folder = TempDir::new().unwrap();
        let config = SqliteConfig::new(folder.path().join("keys.db"));
        let sqlite = Sqlite::open(config, IfMissing::Create).unwrap();
        migrate::run(&sqlite).await.unwrap();
        let subscription = Feed(sqlite.pool.clone()).subscribe().await.unwrap();
        (folder, sqlite.pool, subscription)
    }

    fn farewell() -> Signal {
        Signal::Farewell(NodeId::from_random_bytes([1; 16]))
    }

    async fn heard(subscription: &mut Box<dyn Subscription>) -> Heard {
        let next = tokio::time::timeout(Duration::from_secs(20), subscription.next());
        next.await.unwrap().unwrap()
    }

    async fn assert_silent(pool: &Pool, subscription: &mut Box<dyn Subscription>) {
        Feed(pool.clone()).send(&farewell()).await.unwrap();
        assert_eq!(heard(subscription).await, Heard::Signal(farewell()));
    }

    /// Writes that something has changed, after some statements.
    async fn change(pool: &Pool, statements: &str) -> Result<Result<(), Error>, StoreError> {
        let statements = statements.to_owned();
        pool.write(move |connection| {
            connection.batch_execute(&statements)?;
            Ok(Done::changing([Change::Everything], ()))
        })
        .await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_lost_is_not_told() {
        let (_folder, pool, mut subscription) = start().await;
        // As where the disk fails.
        let lost = change(&pool, "ROLLBACK").await;
        assert!(lost.is_err(), "{lost:?}");
        assert_silent(&pool, &mut subscription).await;
        let uncommitted = "CREATE TABLE whole (id INTEGER PRIMARY KEY); \
             CREATE TABLE part (of REFERENCES whole DEFERRABLE INITIALLY DEFERRED); \
             INSERT INTO part VALUES (1)";
        let lost = change(&pool, uncommitted).await;
        assert!(lost.is_err(), "the commit fails: {lost:?}");
        assert_silent(&pool, &mut subscription).await;
        change(&pool, "").await.unwrap().unwrap();
        let told = heard(&mut subscription).await;
        assert_eq!(told, Heard::Change(Change::Everything));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn where_it_cannot_be_asked_nothing_is_sent() {
        let (folder, pool, mut subscription) = start().await;
        let feed = Feed(pool.clone());
        let report = NodeReport {
            id: NodeId::from_random_bytes([1; 16]),
            name: String::new(),
            version: String::new(),
            tick: 1,
            started_at: at(1),
            seen_at: at(1),
            patience: Duration::from_secs(1),
            lease_age: None,
            lag: None,
        };
        feed.tick(&report).await.unwrap();
        assert!(matches!(heard(&mut subscription).await, Heard::Signal(_)));
        let foreign = folder.path().join("text");
        std::fs::write(&foreign, "no database, but some text".repeat(100)).unwrap();
        let foreign = SqliteConnection::establish(foreign.to_str().unwrap()).unwrap();
        let replaced = pool.write(move |connection| {
            drop(mem::replace(connection, foreign));
            Ok::<_, Error>(Done::unheard(()))
        });
        drop(replaced.await);
        feed.tick(&report).await.unwrap_err();
        feed.send(&farewell()).await.unwrap_err();
        assert!(feed.subscribe().await.is_err());
        // Who listens still is not told that all is well, nor anything else.
        let next = tokio::time::timeout(Duration::from_millis(300), subscription.next());
        assert!(next.await.is_err());
    }

    /// Who always finds something to write does not wait for nothing to be there before it asks.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_is_asked_where_there_is_always_something_to_write() {
        let (folder, pool, mut subscription) = start().await;
        let path = folder.path().join("keys.db");
        let mut other = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
        other
            .batch_execute("BEGIN IMMEDIATE; CREATE TABLE theirs (id INTEGER)")
            .unwrap();
        let over = Arc::new(AtomicBool::new(false));
        // More than are committed at once.
        let writing: Vec<_> = (0..100)
            .map(|_| {
                let (pool, over) = (pool.clone(), Arc::clone(&over));
                tokio::spawn(async move {
                    while !over.load(Ordering::Relaxed) {
                        let written = pool.write(|_| {
                            thread::sleep(Duration::from_millis(1));
                            Ok::<_, Error>(Done::unheard(()))
                        });
                        written.await.unwrap().unwrap();
                    }
                })
            })
            .collect();
        while pool.load().waiting + 1 < writing.len() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // From now on the thread that writes has no rest.
        other.batch_execute("COMMIT").unwrap();
        let next = tokio::time::timeout(Duration::from_secs(2), subscription.next()).await;
        over.store(true, Ordering::Relaxed);
        let told = next.expect("it is asked").unwrap();
        assert_eq!(told, Heard::Change(Change::Everything));
        for writing in writing {
            writing.await.unwrap();
        }
    }

    /// The log is written into the file, and begun anew, many times.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn our_own_checkpoints_are_nobody_elses_commits() {
        let (folder, pool, mut subscription) = start().await;
        let write = async |statements: &str| {
            let statements = statements.to_owned();
            let written = pool.write(move |connection| {
                connection.batch_execute(&statements)?;
                Ok::<_, Error>(Done::unheard(()))
            });
            written.await.unwrap().unwrap();
        };
        write("CREATE TABLE filler (bytes)").await;
        pool.when_all_is_told(|_| ()).await.unwrap();
        for _ in 0..5 {
            write("PRAGMA wal_autocheckpoint = 5; INSERT INTO filler VALUES (zeroblob(100000))")
                .await;
            let count = |connection: &mut SqliteConnection| {
                diesel::select(sql::<BigInt>("(SELECT count(*) FROM filler)"))
                    .get_result::<i64>(connection)
            };
            pool.read(count).await.unwrap();
            assert_silent(&pool, &mut subscription).await;
        }
        let log = folder.path().join("keys.db-wal").metadata().unwrap().len();
        assert!(log < 300_000, "it was begun anew: {log}");
    }

    #[test]
    fn it_is_asked_as_long_as_somebody_listens() {
        let mut connection = SqliteConnection::establish(":memory:").unwrap();
        let watch = Watch::new(Arc::default(), &mut connection);
        assert_eq!(watch.due_in(), None);
        let [one, two] = [(); 2].map(|()| watch.listeners().subscribe());
        drop(one);
        assert!(watch.due_in().unwrap() <= INTERVAL);
        drop(two);
        assert_eq!(watch.due_in(), None);
    }
}
