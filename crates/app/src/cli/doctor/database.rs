//! Whether the database is there, up to date, sound, and of the same time.

use std::path::Path;
use std::time::{Duration, Instant};

use leadr_auth_domain::{NodeId, Timestamp};
use leadr_auth_memory::Memory;
use leadr_auth_ports::{ChangeFeed, Clock as _, Entropy as _, Heard, Signal};
use leadr_auth_postgres::{Postgres, ServerSettings};
use leadr_auth_sqlite::{IfMissing, ServerLock, Sqlite};

use super::{Findings, Status, files, secret};
use crate::config::{Config, StorageConfig};
use crate::secret_file;
use crate::storage::Database;
use crate::system::{OsEntropy, SystemClock};

/// How far the clock and the store's may be apart before somebody should look: keys expire by the clock.
const CLOCK_TOLERANCE_SECONDS: i64 = 2;

/// How long to wait for what should take a millisecond.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

const NOT_HEARD: &str = "are not heard: a server asks the database for every key";

const MIGRATE_IS_OFF: &str = "MIGRATE is off: run `leadr-auth migrate`";

/// Examines the database, and what is in it that keeps a server from being ready.
pub(super) async fn examine(config: &Config, storage: &StorageConfig, findings: &mut Findings) {
    let database = match storage.open(IfMissing::Fail) {
        Ok(database) => database,
        Err(error) => {
            let Some(path) = files::database_to_be_made(storage, &error) else {
                return findings.fail("database", &error);
            };
            if let Err(error) = files::could_make_database(path) {
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
            secret::examine(config, storage, &stores, findings).await;
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
    let configured = secret::examine(config, storage, &stores, findings).await;
    secret::examine_operator(configured, &stores, findings).await;
    if !config.verification.bound.is_zero()
        && let Database::Postgres(postgres, _) = &database
    {
        examine_feed(postgres, stores.feed.as_ref(), findings).await;
    }
    match &database {
        Database::Memory(_) => {}
        Database::Sqlite(sqlite, file) => {
            examine_lock(&file.path, findings);
            examine_file(sqlite, &file.path, findings).await;
        }
        Database::Postgres(postgres, _) => examine_server(postgres, findings).await,
    }
}

/// Would a server hear of changes? It listens as one does, says something, and has to hear it.
async fn examine_feed(postgres: &Postgres, feed: &dyn ChangeFeed, findings: &mut Findings) {
    match postgres.feed_faults().await {
        Ok(faults) if faults.is_empty() => {}
        Ok(faults) => {
            let what = format!("{NOT_HEARD} ({})", faults.join("; "));
            return findings.add("changes", Status::Warning, what);
        }
        Err(error) => return findings.fail("changes", &error.into()),
    }
    let heard = async {
        let mut subscription = feed.subscribe().await?;
        let asked = Instant::now();
        let mut node = [0; 16];
        OsEntropy::new().fill(&mut node)?;
        let said = Signal::Farewell(NodeId::from_random_bytes(node));
        feed.send(&said).await?;
        while subscription.next().await? != Heard::Signal(said.clone()) {}
        anyhow::Ok(asked.elapsed())
    };
    match tokio::time::timeout(HEARD_WITHIN, heard).await {
        Ok(Ok(took)) => {
            let what = format!("are heard within {} ms", took.as_millis());
            findings.add("changes", Status::Ok, what);
        }
        Ok(Err(error)) => findings.add("changes", Status::Warning, format!("{NOT_HEARD} ({error:#})")),
        Err(_) => findings.add(
            "changes",
            Status::Warning,
            format!(
                "{NOT_HEARD}. Where DATABASE_URL goes through a pooler, DATABASE_LISTEN_URL has to go to PostgreSQL itself"
            ),
        ),
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
    match postgres.write_faults().await {
        Ok(faults) if faults.is_empty() => {
            findings.add("rights", Status::Ok, "suffice to issue and to revoke");
        }
        Ok(faults) => {
            let what = format!("nothing can be issued or revoked: {}", faults.join("; "));
            findings.add("rights", Status::Failure, what);
        }
        Err(error) => findings.fail("rights", &error.into()),
    }
    match postgres.clock().await {
        Ok(theirs) => examine_clock(Some(theirs), SystemClock.now(), false, findings),
        Err(error) => findings.fail("clock", &error.into()),
    }
    match postgres.settings().await {
        Ok(settings) => {
            if let Some(risk) = failover_risk(&settings) {
                findings.add("failover", Status::Warning, risk);
            }
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

/// What a standby may not have that takes over.
fn failover_risk(settings: &ServerSettings) -> Option<String> {
    let waits = !settings.synchronous_standby_names.trim().is_empty()
        && !matches!(settings.synchronous_commit.as_str(), "off" | "local");
    if settings.standbys == 0 || waits {
        return None;
    }
    Some(format!(
        "{} standby(s), and no commit waits for one: if one takes over, it may not have the last changes, and a key that was \
         revoked may be let in again. See \"Standbys\" in docs/operations.md",
        settings.standbys
    ))
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
    use super::*;

    #[test]
    fn a_standby_for_which_no_commit_waits_is_a_risk() {
        let settings = |commit: &str, names: &str, standbys| ServerSettings {
            server_version: "15".to_owned(),
            fsync: true,
            full_page_writes: true,
            synchronous_commit: commit.to_owned(),
            synchronous_standby_names: names.to_owned(),
            standbys,
        };
        for (commit, names, standbys, is_risk) in [
            ("on", "", 0, false),
            ("on", "", 2, true),
            ("on", " ", 1, true),
            ("on", "one", 1, false),
            ("remote_apply", "ANY 1 (a, b)", 2, false),
            ("local", "one", 1, true),
        ] {
            let risk = failover_risk(&settings(commit, names, standbys));
            assert_eq!(risk.is_some(), is_risk, "{commit} {names} {standbys}");
        }
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
