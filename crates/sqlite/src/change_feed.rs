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
use leadr_auth_domain::{NodeId, Timestamp};
use leadr_auth_ports::{
    Change, ChangeFeed, Heard, LocalFeed, NodeReport, Signal, StoreError, Subscription,
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

    async fn nodes(&self) -> Result<Vec<NodeReport>, StoreError> {
        Ok(self.0.listeners()?.feed.nodes())
    }

    async fn forget(&self, id: NodeId, silent_since: Timestamp) -> Result<(), StoreError> {
        self.0.listeners()?.feed.forget(id, silent_since);
        Ok(())
    }
}
