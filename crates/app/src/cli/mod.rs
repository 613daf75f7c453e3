//! The command line: the server, and the tools that work on its store.
//!
//! A tool opens the store by itself, so that it works with or without a server on it, and goes through the same use cases as
//! a request does. To add one: a branch in [`command`] and in `dispatch`, and a function in the file of its kind.

mod accounts;
mod audit;
mod doctor;
mod exit;
mod keys;
mod maintenance;
mod nodes;
mod output;
mod peppers;
mod serve;
mod transfer;

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use clap::{Arg, ArgAction, ArgMatches, Command};
use leadr_auth_domain::{OperatorAccess, Origin, Principal};
use leadr_auth_ports::Stores;
use leadr_auth_service::Service;
use leadr_auth_sqlite::IfMissing;
use tokio::signal::unix::{SignalKind, signal};

use self::output::Output;
use crate::config::{Config, SETTINGS, Setting, Sources, StorageConfig};
use crate::storage::Database;
use crate::system::{OsEntropy, SystemClock};

/// What the tools take of the settings.
const STORAGE_SETTINGS: &[&str] = &[
    "DATABASE_URL",
    "DATA_DIR",
    "API_KEY_SECRET_FILE",
    "API_KEY_SECRET_ID",
    "API_KEY_KEYRING_FILE",
];

/// A mistake on the command line that only its meaning shows.
#[derive(Debug)]
struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A tool was asked to end before it was done.
#[derive(Debug)]
struct Interrupted {
    /// That of the signal: 128 and its number.
    code: u8,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted, and nothing is left behind")
    }
}

impl std::error::Error for Interrupted {}

/// Works on a file until it is done, or until somebody asks the process to end: then the work is dropped, so that it takes
/// away what it has begun.
async fn unless_interrupted<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let code = tokio::select! {
        done = work => return done,
        _ = interrupt.recv() => exit::INTERRUPTED,
        _ = terminate.recv() => exit::TERMINATED,
    };
    bail!(Interrupted { code })
}

/// The command line, as clap understands it.
pub fn command() -> Command {
    Command::new("leadr-auth")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Issues API keys for accounts and verifies them")
        .max_term_width(100)
        .after_help(after_help())
        .subcommand(
            Command::new("serve")
                .about("Serve requests (what happens without a command)")
                .args(setting_flags(|_| true))
                .after_help(after_help()),
        )
        .subcommand(tool("migrate", "Bring the database's schema up to date"))
        .subcommand(accounts::command())
        .subcommand(keys::command())
        .subcommand(
            Command::new("operator")
                .about("The deployment's own account")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(
                    tool("new-key", "Make a new operator's key, for one that was lost").arg(
                        flag("revoke-others").help("Stop all other operators' keys from working"),
                    ),
                ),
        )
        .subcommand(
            Command::new("generate-key")
                .about("Make a well-formed key, stored nowhere: to be SUPERADMIN_API_KEY, or for a test")
                .arg(json_flag()),
        )
        .subcommand(peppers::command())
        .subcommand(audit::command())
        .subcommand(nodes::command())
        .subcommand(doctor::command())
        .subcommand(maintenance::backup_command())
        .subcommand(transfer::export_command())
        .subcommand(transfer::import_command())
        .subcommand(maintenance::completions_command())
}

/// A command that works on the store.
fn tool(name: &'static str, about: &'static str) -> Command {
    Command::new(name)
        .about(about)
        .args(setting_flags(|setting| {
            STORAGE_SETTINGS.contains(&setting.name)
        }))
        .arg(json_flag())
}

fn flag(name: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue)
}

fn json_flag() -> Arg {
    flag("json").help("Say it as JSON, for scripts")
}

fn setting_flags(wanted: impl Fn(&Setting) -> bool) -> Vec<Arg> {
    let settings = SETTINGS.iter().filter(|setting| wanted(setting));
    settings
        .filter_map(|setting| {
            let help = format!(
                "{} [env: {}] [default: {}]",
                setting.help, setting.name, setting.default
            );
            Some(
                Arg::new(setting.name)
                    .long(setting.flag?)
                    .value_name(setting.value)
                    .help(help),
            )
        })
        .collect()
}

/// The settings that have no flag, because they are secrets; and what the process's end says.
fn after_help() -> String {
    let mut help = "Secrets come from the environment or from files only:\n".to_owned();
    for setting in SETTINGS.iter().filter(|setting| setting.flag.is_none()) {
        let Setting {
            name,
            help: meaning,
            default,
            ..
        } = setting;
        // Writing to a String cannot fail.
        let _ = writeln!(help, "  {name}\n          {meaning} [default: {default}]");
    }
    help.push_str("\nExit codes:\n");
    for exit::Meaning { code, text } in exit::MEANINGS {
        let _ = writeln!(help, "  {code}  {text}");
    }
    help
}

fn sources(matches: Option<&ArgMatches>) -> Sources {
    let mut given = HashMap::new();
    for setting in SETTINGS.iter().filter(|setting| setting.flag.is_some()) {
        let value = matches.and_then(|m| m.try_get_one::<String>(setting.name).ok().flatten());
        if let Some(value) = value {
            given.insert(setting.name, value.clone());
        }
    }
    Sources::from_process(given)
}

/// Does what the command line says, and gives the process's exit code.
pub async fn run() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(answer) => return told_by_clap(&answer),
    };
    match dispatch(&matches).await {
        Ok(code) => code,
        Err(error) => {
            output::complain(&format!("leadr-auth: {error:#}"));
            ExitCode::from(exit::code_of(&error))
        }
    }
}

/// Help, the version, or what is wrong with the command line.
fn told_by_clap(answer: &clap::Error) -> ExitCode {
    let text = answer.render().to_string();
    if answer.use_stderr() {
        output::complain(text.trim_end());
        return ExitCode::from(exit::WRONG_USAGE);
    }
    match output::line(text.trim_end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(exit::FAILED),
    }
}

async fn dispatch(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    match matches.subcommand() {
        None => serve::run(None).await,
        Some(("serve", matches)) => serve::run(Some(matches)).await,
        Some(("migrate", matches)) => maintenance::migrate(matches).await,
        Some(("account", matches)) => accounts::run(matches).await,
        Some(("key", matches)) => keys::run(matches).await,
        Some(("operator", matches)) => keys::new_operator_key(matches).await,
        Some(("generate-key", matches)) => keys::generate(matches),
        Some(("pepper", matches)) => peppers::run(matches).await,
        Some(("audit", matches)) => audit::run(matches).await,
        Some(("nodes", matches)) => nodes::run(matches).await,
        Some(("doctor", matches)) => doctor::run(matches).await,
        Some(("backup", matches)) => maintenance::backup(matches).await,
        Some(("export", matches)) => transfer::export(matches).await,
        Some(("import", matches)) => transfer::import(matches).await,
        Some(("completions", matches)) => maintenance::completions(matches),
        Some((other, _)) => bail!(Usage(format!("no command `{other}`"))),
    }
}

fn output(matches: &ArgMatches) -> Output {
    if matches.get_flag("json") {
        Output::Json
    } else {
        Output::Human
    }
}

/// An argument that clap has seen to be there.
fn text<'a>(matches: &'a ArgMatches, name: &str) -> anyhow::Result<&'a str> {
    match matches.get_one::<String>(name) {
        Some(value) => Ok(value),
        None => bail!(Usage(format!("{name} is missing"))),
    }
}

/// An argument as a domain value. A flag is named with its dashes, as whoever gave it wrote it.
fn parsed<T, E: fmt::Display>(
    matches: &ArgMatches,
    name: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> anyhow::Result<T> {
    let value = text(matches, name.trim_start_matches('-'))?;
    parse(value).map_err(|fault| Usage(format!("{name}: {fault}")).into())
}

/// A store that is there and up to date, and the use cases on it.
struct Tools {
    service: Service,
    out: Output,
}

impl Tools {
    /// Opens what the configuration names, which a server made.
    async fn open(matches: &ArgMatches) -> anyhow::Result<Self> {
        Ok(Self::open_with_stores(matches).await?.0)
    }

    async fn open_with_stores(matches: &ArgMatches) -> anyhow::Result<(Self, Stores)> {
        let (tools, stores) = Self::open_unchecked(matches).await?;
        tools.service.check_secret().await?;
        Ok((tools, stores))
    }

    /// As [`Tools::open`], without a look at whether the secrets are those of the store.
    async fn open_unchecked(matches: &ArgMatches) -> anyhow::Result<(Self, Stores)> {
        let entropy = Arc::new(OsEntropy::new());
        let storage = Config::read_storage(&sources(Some(matches)), entropy.as_ref(), true)?;
        let database = open_current(&storage).await?;
        let stores = database.stores();
        let keyring = storage.keyring(&stores, None).await?;
        let service = Service::new(stores.clone(), Arc::new(SystemClock), entropy, keyring);
        let out = output(matches);
        Ok((Self { service, out }, stores))
    }

    /// As [`Tools::open`], for a tool that compares hashes of keys: the secret has to be known to be the store's. To look
    /// at a key is no occasion to settle which one that is.
    async fn open_to_compare(matches: &ArgMatches) -> anyhow::Result<Self> {
        let (tools, stores) = Self::open_with_stores(matches).await?;
        if stores.secrets.registered().await?.is_empty() {
            bail!(
                "nobody knows yet whether this secret is the one that the stored keys are hashed under: `leadr-auth serve` \
                 settles it when it starts"
            );
        }
        tools.service.ensure_secret().await?;
        Ok(tools)
    }

    /// As [`Tools::open`], for a tool that stores hashes of keys: the secret has to be the store's from now on.
    async fn open_to_issue(matches: &ArgMatches) -> anyhow::Result<Self> {
        let tools = Self::open(matches).await?;
        tools.service.ensure_secret().await?;
        Ok(tools)
    }
}

/// Whoever has the store in hand reaches everything in it.
const fn everything() -> Principal {
    Principal::deployment(Origin::TOOL)
}

/// The proof of it.
fn operator() -> anyhow::Result<OperatorAccess> {
    match everything().operator() {
        Some(access) => Ok(access),
        None => bail!("reaching everything is not an operator's reach"),
    }
}

/// Opens a database that is there, with the schema that this program knows.
async fn open_current(storage: &StorageConfig) -> anyhow::Result<Database> {
    let database = storage.open(IfMissing::Fail)?;
    if let Database::Memory(_) = database {
        bail!(Usage(
            "memory: is a server's own, and there is nothing in it for a tool; name a database"
                .to_owned()
        ));
    }
    let pending = database.pending_migrations().await?;
    if !pending.is_empty() {
        bail!(
            "the database's schema is not up to date ({} to come): run `leadr-auth migrate`",
            pending.join(", ")
        );
    }
    Ok(database)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn help_names_every_setting() {
        let mut command = command();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.render_long_help().to_string();
        for setting in SETTINGS {
            assert!(help.contains(setting.name), "{}", setting.name);
        }
    }

    #[test]
    fn secrets_have_no_flag() {
        for secret in [
            "API_KEY_SECRET",
            "API_KEY_SECRETS_RETIRED",
            "SUPERADMIN_API_KEY",
        ] {
            let setting = SETTINGS
                .iter()
                .find(|setting| setting.name == secret)
                .unwrap();
            assert!(setting.flag.is_none());
        }
    }
}
