//! `audit …`: the trail of what was changed

use std::process::ExitCode;

use anyhow::bail;
use clap::{Arg, ArgMatches, Command};
use leadr_auth_domain::Timestamp;
use leadr_auth_service::{AuditReport, PruneError, Pruned};
use serde_json::json;

use super::output::{Output, complain, json_line, line};
use super::{Tools, Usage, exit, operator, parsed, tool};

pub(super) fn command() -> Command {
    Command::new("audit")
        .about("Check and prune the audit trail")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(tool(
            "verify",
            "Read the whole trail, and name every entry that was altered, taken away or put elsewhere",
        ))
        .subcommand(
            tool(
                "prune",
                "Take away old entries of a trail that is whole, and leave signed checkpoints from which the rest still holds",
            )
            .arg(
                Arg::new("before")
                    .long("before")
                    .value_name("TIME")
                    .required(true)
                    .help("Entries from before this time, as 2026-01-31T00:00:00Z"),
            ),
        )
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    match matches.subcommand() {
        Some(("verify", matches)) => verify(matches).await,
        Some(("prune", matches)) => prune(matches).await,
        _ => bail!(Usage("audit needs a command".to_owned())),
    }
}

async fn verify(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let Tools { service, out } = Tools::open(matches).await?;
    let report = service.verify_audit(&operator()?).await?;
    tell(out, &report)?;
    Ok(if report.faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::TAMPERED)
    })
}

/// Says what was found.
fn tell(out: Output, report: &AuditReport) -> anyhow::Result<()> {
    let AuditReport {
        chains,
        entries,
        faults,
    } = report;
    if out == Output::Json {
        let faults: Vec<_> = faults
            .iter()
            .map(|(chain, fault)| {
                let account = chain.account_id().map(|id| id.to_string());
                json!({"account_id": account, "what": fault.to_string()})
            })
            .collect();
        json_line(&json!({"chains": chains, "entries": entries, "faults": faults}))?;
    } else {
        for (chain, fault) in faults {
            let whose = match chain.account_id() {
                Some(id) => format!("account {id}"),
                None => "the deployment".to_owned(),
            };
            complain(&format!("{whose}: {fault}"));
        }
        let found = match faults.len() {
            0 => "nothing is wrong".to_owned(),
            1 => "1 thing is wrong".to_owned(),
            n => format!("{n} things are wrong"),
        };
        line(&format!("{entries} entries in {chains} chains: {found}"))?;
    }
    Ok(())
}

async fn prune(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let before = parsed(matches, "--before", Timestamp::parse)?;
    let Tools { service, out } = Tools::open(matches).await?;
    let Pruned { chains, entries } = match service.prune_audit(&operator()?, before).await {
        Ok(pruned) => pruned,
        Err(PruneError::NotWhole(report)) => {
            tell(out, &report)?;
            complain("the trail is not whole: nothing was pruned");
            return Ok(ExitCode::from(exit::TAMPERED));
        }
        Err(error) => return Err(error.into()),
    };
    out.either(
        &format!("{entries} entries were taken away, of {chains} chains"),
        &json!({"entries": entries, "chains": chains}),
    )?;
    Ok(ExitCode::SUCCESS)
}
