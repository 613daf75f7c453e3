//! `doctor`: what would keep a server from being ready, and what is not as it should be.

mod address;
mod database;
mod files;
mod secret;

use std::path::Path;
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use super::output::Shown;
use super::{exit, json_flag, output, setting_flags, sources};
use crate::config::{Config, KEYRING_FILE_SETTING};
use crate::descriptors;
use crate::system::OsEntropy;
use crate::tls::Certificate;

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
    // It is what the command is for.
    const WIDEST: usize = usize::MAX;

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
            for (check, setting) in [
                ("secret file", "API_KEY_SECRET_FILE"),
                ("keyring file", KEYRING_FILE_SETTING),
            ] {
                if let Some(path) = sources.said(setting) {
                    files::examine_mode(check, Path::new(path), &mut findings);
                }
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
    if let Some(tls) = &config.tls {
        match Certificate::read(tls.clone()) {
            Ok(_) => findings.add("certificate", Status::Ok, "readable, and its key fits"),
            Err(error) => findings.fail("certificate", &error.into()),
        }
        files::examine_mode("private key", &tls.key, findings);
    }
    // Whatever keeps the directory from being used, keeps what is in it.
    if files::examine_data_dir(&storage, findings) {
        database::examine(config, &storage, findings).await;
    }
    if let Some(fault) = descriptors::fault(config) {
        findings.add("open files", Status::Warning, format!("the limit {fault}"));
    }
    for (check, address) in [
        ("listen", Some(config.listen)),
        ("metrics", config.metrics_listen),
    ] {
        let Some(address) = address else { continue };
        address::examine(check, address, &storage, findings).await;
    }
}
