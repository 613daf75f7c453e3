//! `serve`

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ArgMatches;
use leadr_auth_service::OperatorState;

use super::output::line_to_be_read;
use super::sources;
use crate::application::{Application, Event, asked_to_stop};
use crate::config::{Config, SecretConfig, StoreConfig};
use crate::otlp::Export;
use crate::system::OsEntropy;
use crate::telemetry;

pub(super) async fn run(matches: Option<&ArgMatches>) -> anyhow::Result<ExitCode> {
    let config = Config::read(&sources(matches), &OsEntropy::new())?;
    let export = config.otlp.as_ref().map(Export::start).transpose()?;
    telemetry::init(&config.log, export.as_ref().map(Export::layer));
    let place = Place {
        store: match &config.store {
            StoreConfig::Memory => "memory: everything is gone when the process ends".to_owned(),
            StoreConfig::Sqlite(sqlite) => sqlite.path.display().to_string(),
            StoreConfig::Postgres(_) => "PostgreSQL".to_owned(),
        },
        random_secret: matches!(config.secret, SecretConfig::Random(_)),
    };
    let application = Application::build(config).await?;
    // Before anybody is told of it.
    let stop = asked_to_stop().context("cannot wait for signals")?;
    let base = base_url(application.address(), application.is_tls());
    let new_secret = application.new_secret().cloned();
    let outcome = application
        .run(stop, move |event| {
            for text in describe(&event, &base, &place, new_secret.as_ref()) {
                let told = line_to_be_read(&text);
                // Nobody may be listening to standard output; requests are served all the same.
                if let (Err(error), Event::Ready(OperatorState::Created(_))) = (told, &event) {
                    tracing::warn!(
                        %error,
                        "the first operator key could not be shown: `leadr-auth operator new-key` makes another"
                    );
                }
            }
            notify(&event);
        })
        .await;
    // Nothing is left that this could hold up.
    if let Some(export) = export {
        export.end();
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Where things are, in words.
#[derive(Clone)]
struct Place {
    store: String,
    random_secret: bool,
}

/// Tells the service manager, if there is one.
fn notify(event: &Event) {
    use sd_notify::NotifyState;
    let state = match event {
        Event::Ready(_) => NotifyState::Ready,
        Event::Stopping => NotifyState::Stopping,
        Event::Listening(_) | Event::MetricsListening(_) => return,
    };
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// What a person is told.
fn describe(event: &Event, base: &str, place: &Place, new_secret: Option<&PathBuf>) -> Vec<String> {
    let mut texts = Vec::new();
    if let (Event::Ready(_), Some(path)) = (event, new_secret) {
        texts.push(format!(
            "\nA secret was made in {path}. Keep a copy of it apart from the database's: no key works without it.",
            path = path.display()
        ));
    }
    texts.extend(describe_event(event, base, place));
    texts
}

fn describe_event(event: &Event, base: &str, place: &Place) -> Vec<String> {
    match event {
        Event::Listening(_) => vec![format!(
            "leadr-auth {} listens on {base}\n  store: {}{}",
            env!("CARGO_PKG_VERSION"),
            place.store,
            if place.random_secret {
                "\n  secret: a random one for this run"
            } else {
                ""
            },
        )],
        Event::MetricsListening(address) => {
            vec![format!("  metrics: {}/metrics", base_url(*address, false))]
        }
        Event::Ready(OperatorState::Created(key)) => {
            vec![format!(
                "\nThe first operator key, shown this once:\n\n    {key}\n\n\
                 Try it:\n\n    curl -s {base}/v1/accounts -H 'leadr-api-key: {key}'\n\n\
                 The API is described at {base}/docs\n",
                key = key.expose(),
            )]
        }
        Event::Ready(OperatorState::Configured | OperatorState::Existing) => {
            vec!["ready".to_owned()]
        }
        Event::Ready(OperatorState::ConfiguredButRefused(verdict)) => vec![format!(
            "ready, but SUPERADMIN_API_KEY is refused ({verdict:?}); it is left so, since a restart must not bring a key back",
        )],
        Event::Ready(OperatorState::Missing) => vec![
            "ready, but no account is an operator's: `leadr-auth operator new-key` makes one"
                .to_owned(),
        ],
        Event::Stopping => Vec::new(),
    }
}

/// The address as a client on this machine types it: one that means "everywhere" is no place to connect to.
fn base_url(mut address: SocketAddr, tls: bool) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("{}://{address}", if tls { "https" } else { "http" })
}

#[cfg(test)]
mod tests {
    use leadr_auth_domain::generate_api_key;

    use super::*;

    #[test]
    fn the_first_key_comes_with_a_curl_line_that_works_when_pasted() {
        let key = generate_api_key([1; 32]);
        let event = Event::Ready(OperatorState::Created(key.clone()));
        let place = Place {
            store: "data/leadr-auth.db".to_owned(),
            random_secret: false,
        };
        for (address, tls, base) in [
            ("0.0.0.0:8000", false, "http://127.0.0.1:8000"),
            ("[::]:8000", true, "https://[::1]:8000"),
        ] {
            let base_url = base_url(address.parse().unwrap(), tls);
            let told = describe(&event, &base_url, &place, None).concat();
            let line = format!(
                "curl -s {base}/v1/accounts -H 'leadr-api-key: {}'",
                key.expose()
            );
            assert!(told.contains(&line), "{told}");
            assert!(told.contains(&format!("{base}/docs")), "{told}");
        }
    }

    #[test]
    fn a_later_start_tells_none_of_that() {
        let place = Place {
            store: "data/leadr-auth.db".to_owned(),
            random_secret: false,
        };
        for event in [
            Event::Listening("127.0.0.1:8000".parse().unwrap()),
            Event::Ready(OperatorState::Existing),
        ] {
            let told = describe(&event, "http://127.0.0.1:8000", &place, None).concat();
            for word in ["ldr_", "curl", "/docs", "secret"] {
                assert!(!told.contains(word), "{word}: {told}");
            }
        }
    }
}
