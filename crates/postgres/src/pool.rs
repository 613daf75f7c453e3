//! The configuration, what all connections have in common, and how one is lent out.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool::{
    Runtime,
    managed::{self, Object, PoolError},
};
use diesel::{ConnectionError, ConnectionResult};
use diesel_async::{
    AsyncPgConnection, SimpleAsyncConnection as _,
    pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod},
};
use leadr_auth_ports::{StoreError, StoreLoad};
use tokio::{
    runtime,
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use crate::{
    connect::{self, ListenFault, Listener, Target, UrlFault},
    error,
};

/// How long connecting may take where nobody waits for it with a request.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it rests before it tries again to open a connection that was refused, while others are open.
const REFUSED_REST: Duration = Duration::from_millis(25);

/// How long a listener's connection may be without a sign of the server where it owes one. Who listens waits for nothing else,
/// so that a server which has vanished is noticed by this and [`LISTENER_IDLE`].
const LISTENER_PATIENCE: Duration = Duration::from_secs(2);

/// How long a listener hears nothing before its system asks the server's whether it is still there.
const LISTENER_IDLE: Duration = Duration::from_secs(5);

/// How long somebody who reads for long may leave the database waiting between two pages.
const READER_PATIENCE: Duration = Duration::from_mins(10);

/// What is said of a database that does not answer in time.
pub(crate) const TOO_SLOW: &str = "the database took too long";

type Manager = AsyncDieselConnectionManager<AsyncPgConnection>;

/// Where the database is, and how long it may take.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`. It holds a password: neither `Debug` nor any error shows it.
    ///
    /// Its parameter `sslmode` is `disable` or `prefer`, which both speak no TLS, as without one; or `require`, `verify-ca`
    /// or `verify-full`, which all demand it, from a server whose certificate is for the URL's host and comes from one of
    /// the authorities that `sslrootcert` names: a file in PEM, or `system` for the system's, as without one.
    ///
    /// Several servers of one cluster can be named, `postgres://…@one:5432,two:5432/database`; with
    /// `target_session_attrs=read-write` that one is used which takes writes.
    pub url: String,
    /// Where to listen for what changes, as `url`; `None` is there. It is needed where `url` leads to something that lends
    /// connections for a transaction, as `PgBouncer` does: there nobody can listen, so this has to lead to the server itself,
    /// and to the same database.
    pub listen_url: Option<String>,
    /// The most connections open at once for each asynchronous runtime that uses the database; at least one. See
    /// `Pool` for why each has its own. A fifth of them, rounded up, is for verification only, unless there is but one.
    pub pool_size: usize,
    /// The most that a lookup or a sign of life may take, and that anything may wait for a connection.
    pub lookup_timeout: Duration,
    /// The most that any one statement may take. A wait for a lock may take half of it.
    pub statement_timeout: Duration,
}

impl PostgresConfig {
    /// This database, ten connections, a quarter of a second per lookup, five seconds per statement.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            listen_url: None,
            pool_size: 10,
            lookup_timeout: Duration::from_millis(250),
            statement_timeout: Duration::from_secs(5),
        }
    }

    /// Is this a URL that can be connected to, as far as can be told without trying?
    pub fn check_url(url: &str) -> Result<(), UrlFault> {
        connect::target(url).map(drop)
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("url", &"…")
            .field("listen_url", &self.listen_url.as_ref().map(|_| "…"))
            .field("pool_size", &self.pool_size)
            .field("lookup_timeout", &self.lookup_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .finish()
    }
}

/// The most that one statement may take that reads much.
fn reading_timeout(statement: Duration) -> Duration {
    statement.max(Duration::from_mins(1))
}

/// What connections of one kind have in common.
struct Setup {
    target: Target,
    settings: String,
}

impl Setup {
    /// For the pool.
    fn new(target: Target, lookup: Duration, statement: Duration) -> Self {
        // Between two statements of a transaction there is nothing but a pure function, so an idle transaction is a lost
        // one.
        Self::of("leadr-auth", target, lookup, statement, statement)
    }

    /// For somebody who reads a lot in one transaction, and does slow things with it meanwhile.
    fn for_reading(target: Target, statement: Duration) -> Self {
        let statement = reading_timeout(statement);
        Self::of(
            "leadr-auth snapshot",
            target,
            CONNECT_TIMEOUT,
            statement,
            READER_PATIENCE,
        )
    }

    fn of(
        name: &str,
        mut target: Target,
        connect: Duration,
        statement: Duration,
        idle: Duration,
    ) -> Self {
        let config = &target.config;
        let servers = config.get_hosts().len().max(config.get_hostaddrs().len());
        // It is the most for each server, one after the other; where the first is switched off, something has to be left of
        // the time that there is for all.
        let connect = connect / u32::try_from(servers.max(1)).unwrap_or(u32::MAX);
        target
            .config
            .application_name(name)
            .connect_timeout(connect)
            // A peer that has vanished is noticed while nothing is being sent …
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(15))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            // … and while something is. A little above what a statement may take, so that a slow answer is the
            // server's to cut short, which it does with a reason.
            .tcp_user_timeout(statement + Duration::from_secs(1));
        let (statement, idle) = (statement.as_millis().max(2), idle.as_millis().max(2));
        // A statement that waited for a lock has to see what was committed meanwhile, also where a database or a role has
        // another isolation by default.
        //
        // Half a statement's time for locks, so that the server's log tells a blocked statement from a slow one.
        let settings = format!(
            "SET statement_timeout = {statement}; \
             SET lock_timeout = {}; \
             SET idle_in_transaction_session_timeout = {idle}; \
             SET default_transaction_isolation = 'read committed'",
            statement / 2
        );
        Self { target, settings }
    }

    /// For somebody who waits for what is told.
    fn for_listening(target: Target, statement: Duration) -> Self {
        let mut setup = Self::of(
            "leadr-auth listener",
            target,
            CONNECT_TIMEOUT,
            statement,
            statement,
        );
        setup
            .target
            .config
            .keepalives_idle(LISTENER_IDLE)
            .keepalives_interval(Duration::from_secs(1))
            .tcp_user_timeout(LISTENER_PATIENCE);
        // Somebody who listens is idle for as long as nothing changes. Servers before PostgreSQL 14 do not know the setting,
        // and would refuse a plain `SET`.
        setup.settings.push_str(
            "; SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
             WHERE name = 'idle_session_timeout'",
        );
        setup
    }

    async fn listen(&self, channel: &str) -> Result<Listener, ListenFault> {
        let listener = self.target.listen().await.map_err(ListenFault::Connect)?;
        let statements = [&*self.settings, &format!("LISTEN {channel}")];
        for statement in statements {
            listener
                .client
                .batch_execute(statement)
                .await
                .map_err(ListenFault::Refused)?;
        }
        Ok(listener)
    }

    async fn connect(&self) -> ConnectionResult<AsyncPgConnection> {
        let mut connection = self.target.connect().await?;
        connection
            .batch_execute(&self.settings)
            .await
            .map_err(ConnectionError::CouldntSetupConfiguration)?;
        Ok(connection)
    }
}

/// The connections. Clones share them.
///
/// A connection is driven by a task of the runtime that opened it, and ends with that runtime. A web server runs a runtime
/// per worker, so a connection lent to another worker would cost two hops between threads with every query, and would die
/// under it when the first worker stops. Therefore each runtime has connections of its own.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    setup: Arc<Setup>,
    reading: Setup,
    listening: Setup,
    pool_size: usize,
    lookup_timeout: Duration,
    statement_timeout: Duration,
    by_runtime: RwLock<HashMap<runtime::Id, Connections>>,
}

/// Those of one runtime.
#[derive(Clone)]
struct Connections {
    all: managed::Pool<Manager>,
    /// A permit for each that is not reserved for verification. Management waits for locks that others hold, a statement's time
    /// each, and must not have all connections while it does: a revoked key is to be found revoked meanwhile, and a good one good.
    common: Arc<Semaphore>,
    /// How many wait for such a permit.
    waiting: Arc<AtomicUsize>,
}

/// Which connections something may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    /// All but the reserved ones.
    Common,
    /// All.
    Verification,
}

impl Pool {
    pub(crate) fn new(config: PostgresConfig) -> Result<Self, UrlFault> {
        let PostgresConfig {
            url,
            listen_url,
            pool_size,
            lookup_timeout,
            statement_timeout,
        } = config;
        let target = connect::target(&url)?;
        let listening = match listen_url {
            Some(url) => connect::target(&url)?,
            None => target.clone(),
        };
        let listening = Setup::for_listening(listening, statement_timeout);
        let reading = Setup::for_reading(target.clone(), statement_timeout);
        let setup = Arc::new(Setup::new(target, lookup_timeout, statement_timeout));
        Ok(Self(Arc::new(Shared {
            setup,
            reading,
            listening,
            pool_size,
            lookup_timeout,
            statement_timeout,
            by_runtime: RwLock::default(),
        })))
    }

    /// The connections of the runtime that this is called in. What the lock guards is whole at any time, so a thread that
    /// panicked with it does no harm.
    fn connections(&self) -> Result<Connections, StoreError> {
        let id = runtime::Handle::current().id();
        let by_runtime = &self.0.by_runtime;
        let known = by_runtime
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned();
        if let Some(connections) = known {
            return Ok(connections);
        }
        let connections = self.0.build().map_err(StoreError::internal)?;
        let mut by_runtime = by_runtime.write().unwrap_or_else(PoisonError::into_inner);
        Ok(by_runtime.entry(id).or_insert(connections).clone())
    }

    /// How busy the connections are, over all runtimes.
    pub(crate) fn status(&self) -> StoreLoad {
        let by_runtime = self
            .0
            .by_runtime
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let mut load = StoreLoad::default();
        for connections in by_runtime.values() {
            let status = connections.all.status();
            load.max += status.max_size;
            load.open += status.size;
            // A connection that is being made is somebody's already.
            load.in_use += status.size.saturating_sub(status.available);
            load.waiting += status.waiting + connections.waiting.load(Ordering::Relaxed);
        }
        load
    }

    /// A connection of its own, outside of the pool, for somebody who reads for long. It closes when it is dropped.
    pub(crate) async fn dedicated(&self) -> Result<AsyncPgConnection, StoreError> {
        let connected = tokio::time::timeout(2 * CONNECT_TIMEOUT, self.0.reading.connect());
        connected
            .await
            .map_err(|_| StoreError::unavailable("connecting to the database took too long"))?
            .map_err(StoreError::unavailable)
    }

    /// A connection of its own, outside of the pool, that has begun to listen on a channel.
    pub(crate) async fn listen(&self, channel: &str) -> Result<Listener, StoreError> {
        let listening = tokio::time::timeout(2 * CONNECT_TIMEOUT, self.0.listening.listen(channel));
        listening
            .await
            .map_err(|_| {
                StoreError::unavailable("beginning to listen to the database took too long")
            })?
            .map_err(StoreError::unavailable)
    }

    /// The most that a statement may take on a [`Pool::dedicated`] connection, with some time for the answer's way.
    pub(crate) fn reading_patience(&self) -> Duration {
        reading_timeout(self.0.statement_timeout) + 2 * self.0.lookup_timeout
    }

    /// Runs what somebody waits for with every request: checkout, one statement and its answer have to be over within the
    /// lookup timeout.
    pub(crate) async fn lookup<R: Send, F>(&self, work: F) -> Result<R, StoreError>
    where
        F: for<'c> Work<'c, R>,
    {
        let share = Share::Verification;
        self.lend(share, self.0.lookup_timeout, work).await
    }

    /// Runs a single statement without which verification could not rely on what it keeps.
    pub(crate) async fn proof<R: Send, F>(&self, work: F) -> Result<R, StoreError>
    where
        F: for<'c> Work<'c, R>,
    {
        let share = Share::Verification;
        self.lend(share, self.statement_patience(), work).await
    }

    /// Runs any other single statement. The server cuts it short at the statement timeout; the deadline here is for a
    /// server that does not answer at all.
    pub(crate) async fn statement<R: Send, F>(&self, work: F) -> Result<R, StoreError>
    where
        F: for<'c> Work<'c, R>,
    {
        let share = Share::Common;
        self.lend(share, self.statement_patience(), work).await
    }

    fn statement_patience(&self) -> Duration {
        self.0.statement_timeout + 2 * self.0.lookup_timeout
    }

    /// Runs a transaction, which is a handful of statements. One that is given up is rolled back by the server when it finds
    /// the connection closed; where it was the commit that went unanswered, nobody can tell, and `Unavailable` says so.
    pub(crate) async fn transaction<R: Send, F>(&self, work: F) -> Result<R, StoreError>
    where
        F: for<'c> Work<'c, R>,
    {
        let share = Share::Common;
        self.lend(share, 4 * self.0.statement_timeout, work).await
    }

    /// The most that anybody waits for a key that is written with others: for a statement, and for a transaction where that
    /// did not do.
    pub(crate) fn creation_patience(&self) -> Duration {
        5 * self.0.statement_timeout + 2 * self.0.lookup_timeout
    }

    /// Lends a connection to `work`, and gives up on it when its time is over. Dropping it drops its [`Lease`], which closes
    /// the connection: nobody is ever lent one with an answer outstanding or a transaction open. The server does what it was
    /// asked as a whole or not at all.
    async fn lend<R: Send, F>(&self, share: Share, time: Duration, work: F) -> Result<R, StoreError>
    where
        F: for<'c> Work<'c, R>,
    {
        let lent = async {
            let connections = self.connections()?;
            let _permit = match share {
                Share::Common => Some(connections.permit(self.0.lookup_timeout).await?),
                Share::Verification => None,
            };
            let connection = connections.get(self.0.lookup_timeout).await?;
            let mut lease = Lease(Some(connection));
            let Some(connection) = lease.0.as_mut() else {
                return Err(StoreError::internal("a lease without a connection"));
            };
            let result = work(connection).await;
            lease.give_back();
            Ok(result)
        };
        tokio::time::timeout(time, lent)
            .await
            .unwrap_or_else(|_| Err(StoreError::unavailable(TOO_SLOW)))
    }
}

/// Something to do with a connection: an async closure whose future can go to another thread, which the language has no
/// way yet to ask of `AsyncFnOnce` itself.
pub(crate) trait Work<'c, R>:
    AsyncFnOnce(&'c mut AsyncPgConnection) -> R
    + FnOnce(&'c mut AsyncPgConnection) -> Self::Future
    + Send
{
    /// What it comes to.
    type Future: Future<Output = R> + Send;
}

impl<'c, R, F, Fut> Work<'c, R> for F
where
    F: AsyncFnOnce(&'c mut AsyncPgConnection) -> R
        + FnOnce(&'c mut AsyncPgConnection) -> Fut
        + Send,
    Fut: Future<Output = R> + Send,
{
    type Future = Fut;
}

impl Connections {
    /// Waits for a connection. A server that has no room for another one refuses to open it; those that are open come free.
    async fn get(&self, patience: Duration) -> Result<Object<Manager>, StoreError> {
        let until = Instant::now() + patience;
        loop {
            match self.all.get().await {
                Err(PoolError::Backend(_))
                    if self.all.status().size > 0 && Instant::now() + REFUSED_REST < until =>
                {
                    tokio::time::sleep(REFUSED_REST).await;
                }
                got => return got.map_err(error::of_pool),
            }
        }
    }

    /// Waits for a connection that is not reserved to be free, as long as for any.
    async fn permit(&self, patience: Duration) -> Result<SemaphorePermit<'_>, StoreError> {
        if let Ok(permit) = self.common.try_acquire() {
            return Ok(permit);
        }
        let _waits = Waits::new(&self.waiting);
        tokio::time::timeout(patience, self.common.acquire())
            .await
            .map_err(|_| StoreError::unavailable("all connections to the database are busy"))?
            .map_err(StoreError::internal)
    }
}

/// One that waits, for as long as this is there.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many of so many connections are not reserved.
fn common_of(pool_size: usize) -> usize {
    (pool_size - pool_size.div_ceil(5)).max(1)
}

impl Shared {
    fn build(&self) -> Result<Connections, managed::BuildError> {
        let size = self.pool_size.max(1);
        Ok(Connections {
            all: self.build_pool(size)?,
            common: Arc::new(Semaphore::new(common_of(size))),
            waiting: Arc::default(),
        })
    }

    fn build_pool(&self, size: usize) -> Result<managed::Pool<Manager>, managed::BuildError> {
        let setup = Arc::clone(&self.setup);
        let mut manager = ManagerConfig::default();
        // `Verified`, the default, asks `SELECT 1` before each use: a round trip more per lookup, for a guarantee that is
        // void as soon as it is given. `Fast` still throws away connections that are closed or left in a transaction.
        manager.recycling_method = RecyclingMethod::Fast;
        manager.custom_setup = Box::new(move |_| {
            let setup = Arc::clone(&setup);
            Box::pin(async move { setup.connect().await })
        });
        // The setup has the parsed URL. The manager's own copy of it would be one more place that holds a password.
        managed::Pool::builder(Manager::new_with_config("", manager))
            .max_size(size)
            // By default there are none, and callers wait for ever.
            .wait_timeout(Some(self.lookup_timeout))
            .create_timeout(Some(self.lookup_timeout))
            .recycle_timeout(Some(self.lookup_timeout))
            .runtime(Runtime::Tokio1)
            .build()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("pool_size", &self.0.pool_size)
            .field("lookup_timeout", &self.0.lookup_timeout)
            .field("statement_timeout", &self.0.statement_timeout)
            .finish_non_exhaustive()
    }
}

/// A borrowed connection.
///
/// It goes back to the pool by [`Lease::give_back`], when the last answer has been read. Where a lease is dropped before
/// (the time was over, or the caller went away) the connection is taken out of the pool and closed: the next borrower would
/// have to wait for an answer that is still outstanding, and an open transaction would keep its locks until somebody
/// happens to borrow the connection.
struct Lease(Option<Object<Manager>>);

impl Lease {
    /// Gives the connection back: no answer is outstanding and no transaction open.
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_listen_is_judged_as_the_url_is_and_not_shown_either() {
        let url = "postgres://me:hunter2@h/db";
        for (listen_url, expected) in [
            (None, None),
            (Some("postgres://me:hunter2@other/db"), None),
            (
                Some("postgres://me:hunter2@h:port/db"),
                Some(UrlFault::Malformed),
            ),
            (Some("dbname=hunter2"), Some(UrlFault::NoHost)),
        ] {
            let config = PostgresConfig {
                listen_url: listen_url.map(str::to_owned),
                ..PostgresConfig::new(url)
            };
            let shown = format!("{config:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert_eq!(shown.contains("listen_url: None"), listen_url.is_none());
            assert_eq!(Pool::new(config).err(), expected);
        }
    }

    #[test]
    fn a_fifth_of_the_connections_is_reserved_as_long_as_one_is_left() {
        let sizes = [1, 2, 4, 5, 6, 10, 100];
        assert_eq!(sizes.map(common_of), [1, 1, 3, 4, 4, 8, 80]);
    }

    #[test]
    fn several_servers_share_the_time_for_connecting() {
        let time = Duration::from_millis(900);
        for (url, expected) in [
            ("postgres://one/db", 900),
            ("postgres://one,two:1,three/db", 300),
            ("hostaddr=127.0.0.1,127.0.0.2", 450),
            ("host=one,two hostaddr=127.0.0.1,127.0.0.2", 450),
        ] {
            let setup = Setup::new(connect::target(url).unwrap(), time, time);
            let each = setup.target.config.get_connect_timeout();
            assert_eq!(each, Some(&Duration::from_millis(expected)), "{url}");
        }
    }
}
