//! `nodes`, and `--wait` of what stops keys

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Arg, ArgMatches, Command};
use leadr_auth_domain::Timestamp;
use leadr_auth_ports::{Clock as _, UnreadableReport};
use leadr_auth_service::{NodeReport, Onlooker, Service};
use serde_json::{Value, json};

use super::output::{Shown, complain, printable};
use super::{Tools, Usage, flag, operator, sources, tool};
use crate::config::{Config, StoreConfig};
use crate::system::{OsEntropy, SystemClock};

pub(super) fn command() -> Command {
    tool(
        "nodes",
        "List the servers on this database, and whether each still hears of changes",
    )
    .after_help(
        "LEASE is for how much longer a server may let keys in by what it knows, as far as it has said; `over` is one that asks \
         the database for every key, or is gone. LAG is how long its last proof of hearing took. Ages are by this machine's \
         clock.",
    )
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let storage = Config::read_storage(&sources(Some(matches)), &OsEntropy::new(), true)?;
    if !matches!(storage.store, StoreConfig::Postgres(_)) {
        bail!(Usage(
            "only a database of PostgreSQL has several servers; a file has one at most, which hears of its own changes at once, \
             and of those of the tools within the tick"
                .to_owned()
        ));
    }
    let Tools { service, out } = Tools::open(matches).await?;
    let now = SystemClock.now();
    let nodes = service.nodes(&operator()?).await?;
    for UnreadableReport { id, part, .. } in nodes.unreadable {
        complain(&format!(
            "the row {id} of server_nodes has an unusable value in {part}, and is left out: delete it, if it stays like that"
        ));
    }
    let seen: Vec<_> = nodes
        .readable
        .into_iter()
        .map(|report| Seen { report, now })
        .collect();
    out.many(&seen)?;
    Ok(ExitCode::SUCCESS)
}

/// The flag of a tool that stops keys.
pub(super) fn wait_flag() -> Arg {
    flag("wait").help(
        "Wait until no server lets in any more what this stops, and fail where that cannot be told",
    )
}

/// Begins to listen where it is to be waited, before anything is changed.
pub(super) async fn look_on(
    matches: &ArgMatches,
    service: &Service,
) -> anyhow::Result<Option<(Onlooker, Duration)>> {
    if !matches!(matches.try_get_one::<bool>("wait"), Ok(Some(true))) {
        return Ok(None);
    }
    let patience = Config::patience(&sources(Some(matches)))?;
    Ok(Some((service.look_on().await?, patience)))
}

/// Waits until every server has heard of what was changed, where somebody looked on.
pub(super) async fn wait_for_all(
    service: &Service,
    onlooker: Option<(Onlooker, Duration)>,
) -> anyhow::Result<()> {
    let Some((onlooker, patience)) = onlooker else {
        return Ok(());
    };
    let told = service.await_hearing(onlooker, patience).await;
    if !told.propagated {
        bail!("it is done, and cannot be told whether every server has heard of it");
    }
    complain(&format!(
        "no server lets it in any more ({} known, after {})",
        told.nodes,
        shown(told.took)
    ));
    Ok(())
}

/// What a node said of itself, as it is to be taken now.
struct Seen {
    report: NodeReport,
    now: Timestamp,
}

impl Seen {
    /// How long ago it said so. Clocks differ: what is said to come from the future was said just now.
    fn age(&self) -> Duration {
        let micros = self.now.unix_micros() - self.report.seen_at.unix_micros();
        Duration::from_micros(micros.try_into().unwrap_or_default())
    }

    /// How old the proof is that it hears; `None` where it has had none yet.
    fn lease_age(&self) -> Option<Duration> {
        Some(self.report.lease_age? + self.age())
    }

    /// For how much longer it may rely on what it knows; `None` where that is over.
    fn lease_left(&self) -> Option<Duration> {
        self.report.patience.checked_sub(self.lease_age()?)
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn shown(time: Duration) -> String {
    match time.as_secs() {
        0..=9 => format!("{} ms", time.as_millis()),
        10..=599 => format!("{} s", time.as_secs()),
        _ => format!("{} min", time.as_secs() / 60),
    }
}

impl Shown for Seen {
    const COLUMNS: &[&str] = &["name", "version", "started", "seen", "lease", "lag", "id"];

    fn cells(&self) -> Vec<String> {
        let report = &self.report;
        vec![
            printable(&report.name),
            printable(&report.version),
            report.started_at.to_string(),
            format!("{} ago", shown(self.age())),
            self.lease_left().map_or("over".to_owned(), shown),
            report
                .lag
                .map_or(String::new(), |lag| format!("{} ms", millis(lag))),
            report.id.to_string(),
        ]
    }

    fn json(&self) -> Value {
        let report = &self.report;
        json!({
            "id": report.id.to_string(),
            "name": report.name,
            "version": report.version,
            "started_at": report.started_at.to_string(),
            "seen_at": report.seen_at.to_string(),
            "tick": report.tick,
            "patience_ms": millis(report.patience),
            "lease_age_ms": self.lease_age().map(millis),
            "lease_left_ms": self.lease_left().map(millis),
            "lag_ms": report.lag.map(millis),
        })
    }
}

#[cfg(test)]
mod tests {
    use leadr_auth_domain::NodeId;

    use super::*;

    #[test]
    fn a_lease_goes_on_from_what_was_said_and_ends() {
        let at = |second: u32| Timestamp::parse(&format!("2026-01-01T00:00:{second:02}Z")).unwrap();
        let mut report = NodeReport {
            id: NodeId::from_random_bytes([1; 16]),
            name: "eu-1:8000".to_owned(),
            version: "1.0.0".to_owned(),
            tick: 7,
            started_at: at(0),
            seen_at: at(10),
            patience: Duration::from_secs(2),
            lease_age: Some(Duration::from_millis(500)),
            lag: Some(Duration::from_micros(1_234)),
        };
        let left = |report: &NodeReport, second| {
            let (report, now) = (report.clone(), at(second));
            Seen { report, now }.lease_left()
        };
        assert_eq!(left(&report, 10), Some(Duration::from_millis(1500)));
        assert_eq!(
            left(&report, 9),
            Some(Duration::from_millis(1500)),
            "clocks differ"
        );
        assert_eq!(left(&report, 11), Some(Duration::from_millis(500)));
        assert_eq!(left(&report, 12), None);
        let seen = Seen {
            report: report.clone(),
            now: at(40),
        };
        assert_eq!(seen.cells()[3..6], ["30 s ago", "over", "1.234 ms"]);
        assert_eq!(seen.json()["lease_age_ms"], 30_500.0);
        report.lease_age = None;
        assert_eq!(left(&report, 10), None);
    }
}
