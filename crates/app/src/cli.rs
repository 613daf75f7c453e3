//! The command line.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to a person at a terminal"
)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Arg, ArgMatches, Command};
use leadr_auth_postgres::migrate;
use leadr_auth_service::OperatorState;

use crate::application::{Application, Event, asked_to_stop};
use crate::config::{Config, ConfigFaults, SETTINGS, Setting, Sources, StoreConfig};
use crate::system::OsEntropy;
use crate::telemetry;

/// What `migrate` takes of the settings.
const MIGRATE_SETTINGS: [&str; 1] = ["DATABASE_URL"];

/// The command line, as clap understands it.
pub fn command() -> Command {
    let serve = Command::new("serve")
        .about("Serve requests (what happens without a command)")
        .args(flags(|_| true))
        .after_help(environment_help());
    let migrate = Command::new("migrate")
        .about("Bring the database's schema up to date, and end")
        .args(flags(|setting| MIGRATE_SETTINGS.contains(&setting.name)));
    Command::new("leadr-auth")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Issues API keys for accounts and verifies them")
        .subcommand(serve)
        .subcommand(migrate)
        .after_help(environment_help())
}

fn flags(wanted: impl Fn(&Setting) -> bool) -> Vec<Arg> {
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

/// The settings that have no flag, because they are secrets; and where the others are explained.
fn environment_help() -> String {
    let mut help = "Secrets come from the environment only:\n".to_owned();
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
    help.push_str("\nExit codes: 0 ended as asked, 1 failed, 2 wrong usage or configuration");
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
    let matches = command().get_matches();
    let result = match matches.subcommand() {
        Some(("migrate", matches)) => run_migrate(matches).await,
        Some((_, matches)) => run_serve(Some(matches)).await,
        None => run_serve(None).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leadr-auth: {error:#}");
            ExitCode::from(if error.is::<ConfigFaults>() { 2 } else { 1 })
        }
    }
}

async fn run_migrate(matches: &ArgMatches) -> anyhow::Result<()> {
    let StoreConfig::Postgres(config) = Config::read_store(&sources(Some(matches)))? else {
        println!("memory: has no schema");
        return Ok(());
    };
    let applied = migrate::run(&config)
        .await
        .context("the schema is not up to date")?;
    for version in &applied {
        println!("applied {version}");
    }
    println!("the schema is up to date");
    Ok(())
}

async fn run_serve(matches: Option<&ArgMatches>) -> anyhow::Result<()> {
    let config = Config::read(&sources(matches), &OsEntropy::new())?;
    telemetry::init(&config.log);
    let store = match &config.store {
        StoreConfig::Memory => "in memory: everything is gone when the process ends",
        StoreConfig::Postgres(_) => "in PostgreSQL",
    };
    if config.pepper_is_random {
        println!("No API_KEY_SECRET is set; this run uses a random one.");
    }
    let application = Application::build(config)?;
    let stop = async {
        if let Err(error) = asked_to_stop().await {
            tracing::error!(%error, "cannot wait for signals");
        }
    };
    let address = application.address();
    application
        .run(stop, move |event| {
            println!("{}", describe(&event, address, store));
        })
        .await
}

/// What a person is told.
fn describe(event: &Event, address: SocketAddr, store: &str) -> String {
    let base = base_url(address);
    match event {
        Event::Listening(_) => format!(
            "leadr-auth {} listens on {base}\n  store: {store}\n  docs:  {base}/docs",
            env!("CARGO_PKG_VERSION"),
        ),
        Event::Ready(OperatorState::Created(key)) => format!(
            "\nThe first operator key, shown this once:\n\n    {key}\n\n\
             Try it:\n\n    curl -s {base}/v1/accounts -H 'leadr-api-key: {key}'\n",
            key = key.expose(),
        ),
        Event::Ready(OperatorState::Configured | OperatorState::Existing) => "ready".to_owned(),
        Event::Ready(OperatorState::ConfiguredButRefused(verdict)) => format!(
            "ready, but SUPERADMIN_API_KEY is refused ({verdict:?}); it is left so, since a restart must not bring a key back",
        ),
        Event::Ready(OperatorState::Missing) => "ready, but no account is an operator's: set \
             SUPERADMIN_API_KEY to a key that is to be, and restart"
            .to_owned(),
    }
}

/// The address as a client on this machine types it: one that means "everywhere" is no place to connect to.
fn base_url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use leadr_auth_domain::generate_api_key;

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
        for secret in ["API_KEY_SECRET", "SUPERADMIN_API_KEY"] {
            let setting = SETTINGS
                .iter()
                .find(|setting| setting.name == secret)
                .unwrap();
            assert!(setting.flag.is_none());
        }
    }

    #[test]
    fn the_first_key_comes_with_a_curl_line_that_works_when_pasted() {
        let key = generate_api_key([1; 32]);
        let event = Event::Ready(OperatorState::Created(key.clone()));
        let told = describe(&event, "0.0.0.0:8000".parse().unwrap(), "in memory");
        let line = format!(
            "curl -s http://127.0.0.1:8000/v1/accounts -H 'leadr-api-key: {}'",
            key.expose()
        );
        assert!(told.contains(&line), "{told}");
        let told = describe(&event, "[::]:8000".parse().unwrap(), "in memory");
        assert!(told.contains("http://[::1]:8000/v1/accounts"), "{told}");
    }
}
