//! `migrate`, `backup`, `completions`

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use leadr_auth_sqlite::IfMissing;
use serde_json::json;

use super::{Usage, command, open_current, output, sources, text, tool, unless_interrupted};
use crate::config::Config;
use crate::storage::Database;
use crate::system::OsEntropy;

pub(super) async fn migrate(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let storage = Config::read_storage(&sources(Some(matches)), &OsEntropy::new(), false)?;
    let database = storage.open(IfMissing::Create)?;
    let applied = database
        .migrate_without_server()
        .await
        .context("the schema is not up to date")?;
    let mut said: Vec<String> = applied
        .iter()
        .map(|version| format!("applied {version}"))
        .collect();
    said.push(
        match database {
            Database::Memory(_) => "memory: has no schema",
            Database::Sqlite(..) | Database::Postgres(..) => "the schema is up to date",
        }
        .to_owned(),
    );
    output(matches).either(&said.join("\n"), &json!({"applied": applied}))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn backup_command() -> Command {
    tool(
        "backup",
        "Write a consistent copy of an SQLite database to PATH, also while a server runs on it",
    )
    .arg(
        Arg::new("path")
            .value_name("PATH")
            .required(true)
            .help("The copy, which must not exist yet. The secret is not in it"),
    )
}

pub(super) async fn backup(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let storage = Config::read_storage(&sources(Some(matches)), &OsEntropy::new(), false)?;
    let Database::Sqlite(sqlite, _) = open_current(&storage).await? else {
        bail!(Usage(
            "backup copies SQLite databases; PostgreSQL has pg_dump for it, and `leadr-auth export` works on both".to_owned()
        ));
    };
    let path = text(matches, "path")?;
    if path == "-" {
        bail!(Usage(
            "path: a backup is a file; name one (an export can go to standard output)".to_owned()
        ));
    }
    let path = Path::new(path);
    let report = unless_interrupted(async { Ok(sqlite.backup(path).await?) }).await?;
    output(matches).either(
        &format!(
            "wrote {}: {} accounts, {} keys, {} bytes",
            path.display(),
            report.accounts,
            report.keys,
            report.bytes
        ),
        &json!({
            "path": path,
            "accounts": report.accounts,
            "keys": report.keys,
            "bytes": report.bytes,
        }),
    )?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn completions_command() -> Command {
    Command::new("completions")
        .about("Print what makes a shell complete this command line")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(Shell)),
        )
}

/// The script looks its commands up by a name that is made of the program's, and makes it in two ways where that has a hyphen
/// (clap's issue 6421), so that it completes the first word only.
fn mended_for_bash(script: &str) -> String {
    script.replace("leadr__subcmd__auth", "leadr__auth")
}

pub(super) fn completions(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let Some(shell) = matches.get_one::<Shell>("shell") else {
        bail!(Usage("completions needs a shell".to_owned()));
    };
    let mut script = Vec::new();
    clap_complete::generate(*shell, &mut command(), "leadr-auth", &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if *shell == Shell::Bash {
        script = mended_for_bash(&script);
    }
    super::output::line(script.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
