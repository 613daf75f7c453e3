//! What tells of changes, and what servers tell one another.
//!
//! Everything goes over one channel of `NOTIFY`, which has an order for all who listen. Changes are told by triggers
//! (`migrations/postgres/20261126000001_tell_of_changes`), signals by statements of this file. Each is a line of words:
//!
//! | line | what it is |
//! |---|---|
//! | `key <prefix>` | [`Change::Key`] |
//! | `account <uuid>` | [`Change::Account`] |
//! | `everything` | [`Change::Everything`] |
//! | `tick <node> <number> <patience in µs>` | [`Signal::Tick`] |
//! | `probe <node> <number>` | [`Signal::Probe`] |
//! | `seen <by> <node> <number>` | [`Signal::Seen`] |
//! | `farewell <node>` | [`Signal::Farewell`] |
//!
//! A tick and a probe have the *mark* of the triggers as one word more. A later version may add words to a signal, which are
//! passed over, and lines of its own. A line that cannot be read is [`Change::Everything`]: it may tell of a change, and to take
//! a change for nothing is the one mistake that counts.
//!
//! Whoever may connect to the database may tell something, a tick of somebody else's included: the server knows no rights to
//! a channel.

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use diesel::{
    pg::Pg,
    prelude::*,
    sql_types::{BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid, Varchar},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl, methods::ExecuteDsl};
use leadr_auth_domain::{AccountId, KeyPrefix, NodeId};
use leadr_auth_ports::{
    Change, ChangeFeed, Heard, NodeReport, NodeReports, Probe, Signal, StoreError, Subscription,
};
use uuid::Uuid;

use crate::{
    connect::Listener,
    error,
    pool::Pool,
    rows::{self, FoundNodeRow},
    schema::server_nodes,
};

/// On which channel all is told. The triggers name it too.
const CHANNEL: &str = "leadr_auth";

#[derive(Clone)]
pub(crate) struct Feed(pub(crate) Pool);

/// One transaction, and one that writes: a server waits with the answer to a commit until a synchronous standby has it, but not
/// where nothing was written. A primary that has been cut off from its standby, which may have taken over by now, would go
/// on confirming ticks that are told and nothing else; those of this statement it cannot confirm, nor tells it of them.
///
/// So what is told must never go a way of its own here.
///
/// Nor does it say that nothing changed where a change would not be told: somebody may have dropped the triggers, or switched
/// them off. And where somebody has had them in hand since the last tick, it says so by another *mark*: they may have been off in
/// between, for one transaction or for long, and nobody was told of what was changed then.
const SAID: &str = "\
said AS (
    INSERT INTO server_nodes (id, name, version, tick, started_at, seen_at, patience, lease_age, lag)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (id) DO UPDATE SET
        name = excluded.name,
        version = excluded.version,
        tick = excluded.tick,
        started_at = excluded.started_at,
        seen_at = excluded.seen_at,
        patience = excluded.patience,
        lease_age = excluded.lease_age,
        lag = excluded.lag
    RETURNING id
)";

/// Tells it.
const TELL: &str =
    "SELECT pg_catalog.pg_notify($10, $11 || ' ' || mark) FROM said, triggers WHERE number = $12";

/// Tells a question under the same condition and with the same mark: who answers it says that it has heard of all changes before
/// it, and of one that was not told nobody has.
const ASK: &str =
    "SELECT pg_catalog.pg_notify($1, $2 || ' ' || mark) FROM triggers WHERE number = $3";

/// How many triggers there are.
pub(crate) const TRIGGER_COUNT: i64 = 7;

/// The triggers that tell of changes, as far as they are on for everybody, and by which it is seen that they were altered: the
/// transactions that wrote them and their functions last.
pub(crate) const TRIGGERS: &str = "\
SELECT count(*) AS number, string_agg(pg_trigger.xmin || ':' || pg_proc.xmin, ',' ORDER BY tgname) AS mark
FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_proc ON pg_proc.oid = tgfoid
WHERE tgrelid IN ('api_keys'::regclass, 'accounts'::regclass)
    AND tgenabled = 'A'
    AND tgname IN (
        'leadr_auth_key_came', 'leadr_auth_key_changed', 'leadr_auth_key_went', 'leadr_auth_keys_truncated',
        'leadr_auth_account_changed', 'leadr_auth_account_went', 'leadr_auth_accounts_truncated'
    )";

/// The most that it takes to ask for the triggers: everything that is read is in memory.
const ASKED_WITHIN: Duration = Duration::from_secs(2);

const SEND: &str = "SELECT pg_catalog.pg_notify($1, $2)";

#[async_trait]
impl ChangeFeed for Feed {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, StoreError> {
        let listener = self.0.listen(CHANNEL).await?;
        let asked = listener.client.query_one(TRIGGERS, &[]);
        let row = tokio::time::timeout(ASKED_WITHIN, asked)
            .await
            .map_err(|_| StoreError::unavailable("asking for the triggers took too long"))?
            .map_err(StoreError::unavailable)?;
        Ok(Box::new(Listening {
            mark: row.try_get("mark").map_err(StoreError::internal)?,
            listener,
            held_back: None,
        }))
    }

    async fn tick(&self, report: &NodeReport) -> Result<(), StoreError> {
        let signal = Signal::Tick {
            node: report.id,
            number: report.tick,
            patience: report.patience,
        };
        let row = rows::node_row(report);
        #[expect(
            clippy::disallowed_methods,
            reason = "Diesel has no words for an insert whose rows another query reads"
        )]
        let query = diesel::sql_query(format!("WITH {SAID}, triggers AS ({TRIGGERS}) {TELL}"));
        let query = query
            .bind::<SqlUuid, _>(row.id)
            .bind::<Varchar, _>(row.name)
            .bind::<Varchar, _>(row.version)
            .bind::<BigInt, _>(row.tick)
            .bind::<Timestamptz, _>(row.started_at)
            .bind::<Timestamptz, _>(row.seen_at)
            .bind::<BigInt, _>(row.patience)
            .bind::<Nullable<BigInt>, _>(row.lease_age)
            .bind::<Nullable<BigInt>, _>(row.lag)
            .bind::<Text, _>(CHANNEL)
            .bind::<Text, _>(Line(&Heard::Signal(signal)).to_string())
            .bind::<BigInt, _>(TRIGGER_COUNT);
        unless_none(self.say(query).await?)
    }

    async fn send(&self, signal: &Signal) -> Result<(), StoreError> {
        let line = Line(&Heard::Signal(signal.clone())).to_string();
        if let Signal::Probe(_) = signal {
            #[expect(
                clippy::disallowed_methods,
                reason = "Diesel has no words for a function over another query's rows"
            )]
            let query = diesel::sql_query(format!("WITH triggers AS ({TRIGGERS}) {ASK}"));
            let query = query
                .bind::<Text, _>(CHANNEL)
                .bind::<Text, _>(line)
                .bind::<BigInt, _>(TRIGGER_COUNT);
            return unless_none(self.say(query).await?);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "Diesel cannot select from a function that has no value"
        )]
        let query = diesel::sql_query(SEND);
        let query = query.bind::<Text, _>(CHANNEL).bind::<Text, _>(line);
        self.say(query).await.map(drop)
    }

    /// One report that cannot be read hides no other.
    async fn nodes(&self) -> Result<NodeReports, StoreError> {
        let query = server_nodes::table
            .order((server_nodes::seen_at.desc(), server_nodes::id))
            .select(rows::found_node_columns());
        let found = self
            .0
            .statement(async |connection| query.load::<FoundNodeRow>(connection).await)
            .await?
            .map_err(error::of_query)?;
        let mut reports = NodeReports::default();
        for row in found {
            match rows::node(row) {
                Ok(report) => reports.readable.push(report),
                Err(report) => reports.unreadable.push(report),
            }
        }
        Ok(reports)
    }

    async fn forget(&self, id: NodeId, last: Option<u64>) -> Result<(), StoreError> {
        // The row that is locked is looked at anew, so that a tick which comes at the same time is not overlooked.
        let mut query = diesel::delete(server_nodes::table.find(id.as_uuid())).into_boxed();
        if let Some(last) = last {
            query = query.filter(server_nodes::tick.eq(last.cast_signed()));
        }
        self.0
            .statement(async |connection| query.execute(connection).await)
            .await?
            .map(drop)
            .map_err(error::of_query)
    }
}

impl Feed {
    /// How many lines a statement has told.
    async fn say(
        &self,
        query: impl RunQueryDsl<AsyncPgConnection> + ExecuteDsl<AsyncPgConnection, Pg> + Send,
    ) -> Result<usize, StoreError> {
        self.0
            .proof(async |connection| query.execute(connection).await)
            .await?
            .map_err(error::of_query)
    }
}

/// Where nothing was told, the triggers are not as they have to be.
fn unless_none(told: usize) -> Result<(), StoreError> {
    if told == 0 {
        return Err(StoreError::internal(
            "the triggers that tell of changes are not there, or switched off: every key is looked up until they are on again",
        ));
    }
    Ok(())
}

struct Listening {
    listener: Listener,
    /// That of the triggers when it began to listen, or of the last signal that had one.
    mark: Option<String>,
    /// A signal before which something else was to be said.
    held_back: Option<Heard>,
}

#[async_trait]
impl Subscription for Listening {
    async fn next(&mut self) -> Result<Heard, StoreError> {
        if let Some(signal) = self.held_back.take() {
            return Ok(signal);
        }
        match self.listener.next().await {
            Some(Ok(told)) => Ok(self.hear(told.payload())),
            Some(Err(error)) => Err(StoreError::unavailable(error)),
            None => Err(StoreError::unavailable(
                "the database tells nothing any more",
            )),
        }
    }
}

impl Listening {
    fn hear(&mut self, line: &str) -> Heard {
        let heard = heard(line);
        if let Some(mark) = mark_of(&heard, line)
            && self.mark.as_deref() != Some(mark)
        {
            // Of what was changed while the triggers were in somebody's hands nobody was told.
            self.mark = Some(mark.to_owned());
            self.held_back = Some(heard);
            return Heard::Change(Change::Everything);
        }
        heard
    }
}

/// The mark of the triggers, which comes after the words of a signal that has one.
fn mark_of<'a>(heard: &Heard, line: &'a str) -> Option<&'a str> {
    let words = match heard {
        Heard::Signal(Signal::Tick { .. }) => 4,
        Heard::Signal(Signal::Probe(_)) => 3,
        Heard::Change(_) | Heard::Signal(_) => return None,
    };
    line.split(' ').nth(words)
}

/// The line for something.
struct Line<'a>(&'a Heard);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Heard::Change(Change::Key(prefix)) => write!(f, "key {prefix}"),
            Heard::Change(Change::Account(id)) => write!(f, "account {id}"),
            Heard::Change(Change::Everything) => f.write_str("everything"),
            Heard::Signal(Signal::Tick {
                node,
                number,
                patience,
            }) => write!(f, "tick {node} {number} {}", patience.as_micros()),
            Heard::Signal(Signal::Probe(Probe { node, number })) => {
                write!(f, "probe {node} {number}")
            }
            Heard::Signal(Signal::Seen { by, probe }) => {
                write!(f, "seen {by} {} {}", probe.node, probe.number)
            }
            Heard::Signal(Signal::Farewell(node)) => write!(f, "farewell {node}"),
        }
    }
}

/// What a line says.
fn heard(line: &str) -> Heard {
    read(line).unwrap_or(Heard::Change(Change::Everything))
}

fn read(line: &str) -> Option<Heard> {
    let (kind, rest) = line.split_once(' ')?;
    if kind == "key" {
        // Whatever it is that somebody else's row has for a prefix.
        return Some(Heard::Change(Change::Key(KeyPrefix::parse(rest).ok()?)));
    }
    let mut words = Words(rest.split(' '));
    if kind == "account" {
        let id = AccountId::new(words.next()?);
        // Of a change everything has to be understood.
        return (words.0.next().is_none()).then_some(Heard::Change(Change::Account(id)));
    }
    Some(Heard::Signal(match kind {
        "tick" => Signal::Tick {
            node: words.node()?,
            number: words.next()?,
            patience: Duration::from_micros(words.next()?),
        },
        "probe" => Signal::Probe(words.probe()?),
        "seen" => Signal::Seen {
            by: words.node()?,
            probe: words.probe()?,
        },
        "farewell" => Signal::Farewell(words.node()?),
        _ => return None,
    }))
}

struct Words<'a>(std::str::Split<'a, char>);

impl Words<'_> {
    fn next<T: FromStr>(&mut self) -> Option<T> {
        self.0.next()?.parse().ok()
    }

    fn node(&mut self) -> Option<NodeId> {
        self.next::<Uuid>().map(NodeId::new)
    }

    fn probe(&mut self) -> Option<Probe> {
        Some(Probe {
            node: self.node()?,
            number: self.next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "01010101-0101-4101-8101-010101010101";
    const OTHER: &str = "02020202-0202-4202-8202-020202020202";
    const EVERYTHING: Heard = Heard::Change(Change::Everything);

    fn node(text: &str) -> NodeId {
        NodeId::new(text.parse().unwrap())
    }

    fn lines() -> [(String, Heard); 7] {
        let probe = Probe {
            node: node(NODE),
            number: u64::MAX,
        };
        [
            (
                "key ldr_AAECAwQFBg".to_owned(),
                Heard::Change(Change::Key(KeyPrefix::parse("ldr_AAECAwQFBg").unwrap())),
            ),
            (
                format!("account {OTHER}"),
                Heard::Change(Change::Account(AccountId::new(OTHER.parse().unwrap()))),
            ),
            ("everything".to_owned(), EVERYTHING),
            (
                format!("tick {NODE} 7 1500001"),
                Heard::Signal(Signal::Tick {
                    node: node(NODE),
                    number: 7,
                    patience: Duration::from_micros(1_500_001),
                }),
            ),
            (
                format!("probe {NODE} {}", u64::MAX),
                Heard::Signal(Signal::Probe(probe)),
            ),
            (
                format!("seen {OTHER} {NODE} {}", u64::MAX),
                Heard::Signal(Signal::Seen {
                    by: node(OTHER),
                    probe,
                }),
            ),
            (
                format!("farewell {NODE}"),
                Heard::Signal(Signal::Farewell(node(NODE))),
            ),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for (line, said) in lines() {
            assert_eq!(Line(&said).to_string(), line);
            assert_eq!(heard(&line), said, "{line}");
        }
    }

    #[test]
    fn words_that_a_later_version_adds_to_a_signal_are_passed_over() {
        for (line, said) in lines() {
            let longer = heard(&format!("{line} more 1"));
            match said {
                Heard::Signal(_) => assert_eq!(longer, said, "{line}"),
                Heard::Change(Change::Key(_)) => assert_ne!(longer, said, "{line}"),
                Heard::Change(_) => assert_eq!(longer, EVERYTHING, "{line}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_read_may_be_any_change() {
        let mut cases: Vec<String> = [
            "",
            " ",
            "key",
            "key ",
            "key AAAA",
            "KEY ldr_AAECAwQFBg",
            "account",
            "account ",
            "account x",
            "everything ",
            "everything else",
            "accounts all",
            "tick",
            "tick ",
            "tick x 1 1",
            "probe",
            "seen",
            "farewell ",
            "farewell ldr_",
            "\u{1f511}",
            "key\u{a0}ldr_AAECAwQFBg",
            "\n",
        ]
        .map(str::to_owned)
        .to_vec();
        for number in ["", "-1", "1.5", "0x1", "18446744073709551616", " 1", "1\n"] {
            cases.push(format!("tick {NODE} {number} 1"));
            cases.push(format!("tick {NODE} 1 {number}"));
            cases.push(format!("probe {NODE} {number}"));
            cases.push(format!("seen {OTHER} {NODE} {number}"));
        }
        cases.push(format!("seen {OTHER} 1"));
        cases.push(format!("tick {NODE}"));
        for case in cases {
            assert_eq!(heard(&case), EVERYTHING, "{case:?}");
        }
    }

    #[test]
    fn every_beginning_of_a_line_is_read_somehow() {
        for (line, _) in lines() {
            let mut beginning = line;
            while beginning.pop().is_some() {
                heard(&beginning);
            }
        }
    }
}
