//! `pepper …`: the server's secrets

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::{Arg, ArgMatches, Command};
use leadr_auth_domain::{ApiKey, PepperId};
use leadr_auth_ports::{Clock as _, DropPepperError};
use leadr_auth_service::{DropError, PepperRole, PepperStatus};
use serde_json::{Value, json};

use super::output::{Output, Shown, complain, instant, json_line, printable};
use super::{Tools, Usage, exit, operator, output, parsed, sources, tool};
use crate::config::{Config, SecretConfig, StorageConfig, StoreConfig};
use crate::keyring_file::{self, Secrets};
use crate::secret_file;
use crate::storage::keyring_faults;
use crate::system::{OsEntropy, SystemClock};

pub(super) fn command() -> Command {
    Command::new("pepper")
        .about("See and replace the server's secrets")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(tool(
            "status",
            "Say of each secret what it is, and how many keys depend on it",
        ))
        .subcommand(
            tool(
                "rotate",
                "Make a new secret, and put it into the keyring file as the current one",
            )
            .arg(
                Arg::new("id")
                    .long("id")
                    .value_name("ID")
                    .help("The new secret's id [default: today's date, as 2026-11-25]"),
            ),
        )
        .subcommand(
            tool(
                "drop",
                "Give up a secret that no key depends on any more, for good",
            )
            .arg(
                Arg::new("secret")
                    .value_name("ID")
                    .required(true)
                    .help("The secret's id"),
            ),
        )
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    match matches.subcommand() {
        Some(("status", matches)) => status(matches).await,
        Some(("rotate", matches)) => rotate(matches).await,
        Some(("drop", matches)) => give_up(matches).await,
        _ => bail!(Usage("pepper needs a command".to_owned())),
    }
}

impl Shown for PepperStatus {
    const COLUMNS: &[&str] = &["id", "role", "keys", "registered", "dropped"];

    fn cells(&self) -> Vec<String> {
        vec![
            printable(self.id.as_str()),
            role(self.role).to_owned(),
            self.keys.to_string(),
            if self.registered { "yes" } else { "no" }.to_owned(),
            instant(self.dropped_at),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id.as_str(),
            "role": role(self.role).replace(' ', "_"),
            "keys": self.keys,
            "registered": self.registered,
            "dropped_at": self.dropped_at.map(|at| at.to_string()),
        })
    }
}

const fn role(role: PepperRole) -> &'static str {
    match role {
        PepperRole::Current => "current",
        PepperRole::Retired => "retired",
        PepperRole::NotConfigured => "not configured",
    }
}

/// Shows what there is also where that is not as it should be, since it is then that somebody looks.
async fn status(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (Tools { service, out }, _) = Tools::open_unchecked(matches).await?;
    out.many(&service.pepper_status().await?)?;
    service.check_secret().await?;
    Ok(ExitCode::SUCCESS)
}

async fn give_up(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let id = parsed(matches, "secret", PepperId::parse)?;
    let (Tools { service, out }, _) = Tools::open_unchecked(matches).await?;
    match service.drop_pepper(&operator()?, &id).await {
        Ok(()) => {}
        Err(DropError::Refused(DropPepperError::InUse { count, first })) => {
            return Ok(in_use(out, &id, count, &first)?);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot drop {id}")),
    }
    out.either(
        &format!("dropped {id}: take it out of the keyring of every node; no key can be stored under it any more"),
        &json!({"id": id.as_str(), "dropped": true}),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Whose keys they are has to be known by whoever wants to have them used, or replaced.
fn in_use(out: Output, id: &PepperId, count: u64, first: &[ApiKey]) -> std::io::Result<ExitCode> {
    let listed = first.len();
    let more = if usize::try_from(count).is_ok_and(|count| count == listed) {
        String::new()
    } else {
        format!(", of which these are the first {listed}")
    };
    complain(&format!(
        "leadr-auth: {count} keys depend on the secret {id}{more}: it can be dropped when each has been used once more, or was deleted"
    ));
    match out {
        Output::Human => out.many(first)?,
        Output::Json => json_line(&json!({
            "id": id.as_str(),
            "dropped": false,
            "count": count,
            "keys": first.iter().map(Shown::json).collect::<Vec<_>>(),
        }))?,
    }
    Ok(ExitCode::from(exit::REFUSED))
}

/// The id of a new secret is another one's, or was.
#[derive(Debug)]
pub(super) struct IdTaken(PepperId);

impl fmt::Display for IdTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is, or was, a secret {}: name another id", self.0)
    }
}

impl std::error::Error for IdTaken {}

/// The keyring file into which a new secret goes; it need not be there yet.
fn keyring_path(storage: &StorageConfig) -> anyhow::Result<&Path> {
    match &storage.secret {
        Some(SecretConfig::File(path, ..)) => Ok(path),
        Some(SecretConfig::Kept(kept)) => Ok(&kept.keyring),
        Some(SecretConfig::Said(..)) => bail!(Usage(
            "the secret comes from API_KEY_SECRET or API_KEY_SECRET_FILE, and this command writes keyring files only: set \
             API_KEY_SECRET to a new secret, API_KEY_SECRET_ID to a new id, and API_KEY_SECRETS_RETIRED to the secrets so \
             far, as ID:SECRET; or move them all into a file that API_KEY_KEYRING_FILE names"
                .to_owned()
        )),
        Some(SecretConfig::Random(_)) | None => bail!(Usage(
            "there is no file with secrets: name one by API_KEY_KEYRING_FILE".to_owned()
        )),
    }
}

/// The secrets so far, as they are written down now.
fn secrets_so_far(storage: &StorageConfig, keyring: &Path) -> anyhow::Result<Secrets> {
    match &storage.secret {
        Some(SecretConfig::Kept(kept)) if !kept.is_keyring_there()? => {
            let secret = secret_file::read_text(&kept.secret)
                .map_err(|fault| anyhow!("the secret {} {fault}", kept.secret.display()))?;
            Ok(Secrets::of_one(&secret))
        }
        _ => Ok(Secrets::read(keyring).map_err(|faults| keyring_faults(keyring, &faults))?),
    }
}

/// One of today's ids that nobody has.
fn id_of_today(is_taken: impl Fn(&PepperId) -> bool) -> anyhow::Result<PepperId> {
    let now = SystemClock.now().to_string();
    let today = now.get(..10).unwrap_or(&now);
    let mut id = PepperId::parse(today)?;
    let mut n = 1;
    while is_taken(&id) {
        n += 1;
        id = PepperId::parse(&format!("{today}-{n}"))?;
    }
    Ok(id)
}

async fn rotate(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let said = match matches.get_one::<String>("id") {
        Some(_) => Some(parsed(matches, "--id", PepperId::parse)?),
        None => None,
    };
    let entropy = OsEntropy::new();
    let storage = Config::read_storage(&sources(Some(matches)), &entropy, true)?;
    let path = keyring_path(&storage)?;
    // An id that the store knows is another secret's, also if that was dropped. And if these secrets are not the store's,
    // then this is not the file to put a new one into.
    let registered = if let StoreConfig::Memory = storage.store {
        Vec::new()
    } else {
        let (_, stores) = Tools::open_with_stores(matches).await?;
        stores.secrets.registered().await?
    };
    let cannot = || format!("cannot put a new secret into {}", path.display());
    let _lock = keyring_file::lock(path).with_context(cannot)?;
    let mut secrets = secrets_so_far(&storage, path)?;
    let is_taken =
        |id: &PepperId| secrets.has(id) || registered.iter().any(|pepper| pepper.id == *id);
    let id = match said {
        Some(id) if is_taken(&id) => bail!(IdTaken(id)),
        Some(id) => id,
        None => id_of_today(is_taken)?,
    };
    secrets.rotate(&id, secret_file::random(&entropy)?);
    secrets
        .keyring()
        .map_err(|faults| keyring_faults(path, &faults))?;
    secrets.write(path).with_context(cannot)?;
    let shown = path.display();
    output(matches).either(
        &format!(
            "{id} is the current secret in {shown} now, beside those so far. A server that runs takes it when it is sent \
             SIGHUP; keep a copy of {shown} apart from the database's, since no new key works without it"
        ),
        &json!({"id": id.as_str(), "path": path}),
    )?;
    Ok(ExitCode::SUCCESS)
}
