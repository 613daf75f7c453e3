//! Whether the secrets are the right ones, and whether somebody has an operator's key that works.

use std::path::Path;

use anyhow::Context as _;
use leadr_auth_domain::{AccountRole, KeyRecord, Keyring, PlainKey, Timestamp, Verdict, decide};
use leadr_auth_ports::{Clock as _, StoreError, StoredPepper, Stores};
use leadr_auth_service::{EnsureOperatorError, KeyFilter, SecretError};

use super::{Findings, Status};
use crate::config::{Config, SecretConfig, StorageConfig};
use crate::new_file::folder_of;
use crate::secret_file::Strength;
use crate::storage::{could_make_file_in, is_there};
use crate::system::SystemClock;

/// The secrets, as far as they are there.
enum Secret<'a> {
    /// The server that first starts makes it here.
    ToBeMade(&'a Path),
    /// These.
    Found(Box<Keyring>),
}

async fn find_secret<'a>(
    storage: &'a StorageConfig,
    stores: &Stores,
) -> anyhow::Result<Secret<'a>> {
    let Some(path) = storage.is_secret_to_be_made(stores).await? else {
        let ring = storage.keyring(stores, None).await?;
        return Ok(Secret::Found(Box::new(ring)));
    };
    let folder = folder_of(path);
    // A data directory that is still to be made can be, as is known by now.
    if is_there(folder).unwrap_or(true) {
        could_make_file_in(folder)
            .with_context(|| format!("no secret can be made in {}", path.display()))?;
    }
    Ok(Secret::ToBeMade(path))
}

/// How it stands with `SUPERADMIN_API_KEY`.
#[derive(Clone, Copy)]
pub(super) enum ConfiguredKey {
    /// The store does not know it yet.
    ToBeStored,
    /// It is stored, and this would be said of it.
    Stored(Verdict),
    /// Its prefix is stored with another hash.
    Mismatch,
}

impl ConfiguredKey {
    /// What a start finds out about it, without changing anything.
    async fn find(key: &PlainKey, ring: &Keyring, stores: &Stores) -> Result<Self, StoreError> {
        Ok(match stores.lookup.find(&key.prefix()).await? {
            None => Self::ToBeStored,
            Some(record) if ring.verify(key, &record.key) == Some(true) => {
                Self::Stored(decide(&record, SystemClock.now()))
            }
            Some(_) => Self::Mismatch,
        })
    }

    fn examine(self, findings: &mut Findings) {
        let check = "configured key";
        match self {
            Self::ToBeStored => findings.add(
                check,
                Status::Ok,
                "SUPERADMIN_API_KEY is stored when a server next starts",
            ),
            Self::Stored(Verdict::Valid) => {
                findings.add(check, Status::Ok, "SUPERADMIN_API_KEY is stored, and works");
            }
            Self::Stored(refusal) => findings.add(
                check,
                Status::Warning,
                format!(
                    "SUPERADMIN_API_KEY is refused ({refusal:?}), and no restart brings it back: take it out, or set \
                     another"
                ),
            ),
            Self::Mismatch => findings.fail(check, &EnsureOperatorError::KeyMismatch.into()),
        }
    }

    /// Has an operator a key that works when a server has started?
    const fn will_work(self) -> bool {
        matches!(self, Self::ToBeStored | Self::Stored(Verdict::Valid))
    }
}

/// Examines what is hashed under the secret as well, as far as that tells something about it. Answers how it stands with the
/// configured key, where one is configured and that can be told.
pub(super) async fn examine(
    config: &Config,
    storage: &StorageConfig,
    stores: &Stores,
    findings: &mut Findings,
) -> Option<ConfiguredKey> {
    let check = "secret";
    let ring = match find_secret(storage, stores).await {
        Ok(Secret::Found(ring)) => ring,
        Ok(Secret::ToBeMade(path)) => {
            let what = format!("{} is made when a server first starts", path.display());
            findings.add(check, Status::Ok, what);
            return None;
        }
        Err(error) => {
            findings.fail(check, &error);
            return None;
        }
    };
    let known = async {
        let registered = stores.secrets.registered().await?;
        let configured = match &config.superadmin_key {
            Some(key) => Some(ConfiguredKey::find(key, &ring, stores).await?),
            None => None,
        };
        Ok((registered, configured, stores.accounts.is_empty().await?))
    };
    let known: Result<_, StoreError> = known.await;
    let (registered, configured, is_empty) = match known {
        Ok(known) => known,
        Err(error) => {
            findings.fail(check, &error.into());
            return None;
        }
    };
    if examine_registered(&ring, &registered, findings) {
        return None;
    }
    let strength = match &storage.secret {
        Some(SecretConfig::Said(_, strength) | SecretConfig::File(_, _, strength)) => *strength,
        Some(SecretConfig::Kept(kept)) => kept
            .read()
            .map_or(Strength::Random, |(_, strength)| strength),
        Some(SecretConfig::Random(_)) | None => Strength::Random,
    };
    let is_known = registered
        .iter()
        .any(|pepper| pepper.dropped_at.is_none() && ring.get(&pepper.id).is_some());
    let (status, what) = if is_known || matches!(configured, Some(ConfiguredKey::Stored(_))) {
        (Status::Ok, "long enough, and the one of the stored keys")
    } else if is_empty {
        (Status::Ok, "long enough")
    } else {
        (
            Status::Warning,
            "long enough, but nothing says yet whether it is the one of the stored keys; `leadr-auth serve` takes it for \
             that when it starts",
        )
    };
    if strength == Strength::Repetitive {
        findings.add(
            check,
            Status::Warning,
            "has very few different characters; whoever reads the database could guess it",
        );
    }
    // There is nothing good to be said of one that can be guessed.
    if strength == Strength::Random || status != Status::Ok {
        findings.add(check, status, what);
    }
    if let Some(configured) = configured {
        configured.examine(findings);
    }
    configured
}

/// Compares each secret with what the store knows of it. Answers whether a server would not be ready.
fn examine_registered(
    ring: &Keyring,
    registered: &[StoredPepper],
    findings: &mut Findings,
) -> bool {
    let check = "secret";
    let mut has_failed = false;
    for StoredPepper {
        id,
        check: known,
        dropped_at,
        ..
    } in registered
    {
        let fault = match (ring.get(id), dropped_at) {
            (_, Some(_)) if id == ring.current_id() => SecretError::Dropped(id.clone()),
            (Some(_), Some(at)) => {
                let what = format!("{id} was dropped at {at}: take it out of the keyring");
                findings.add(check, Status::Warning, what);
                continue;
            }
            (None, Some(_)) => continue,
            (None, None) => SecretError::Missing(id.clone()),
            (Some(pepper), None) if !pepper.matches(known) => SecretError::Mismatch(id.clone()),
            (Some(_), None) => {
                if id != ring.current_id() {
                    let what = format!("{id} is retired, and the one that is registered");
                    findings.add(check, Status::Ok, what);
                }
                continue;
            }
        };
        findings.fail(check, &fault.into());
        has_failed = true;
    }
    has_failed
}

/// How many keys of operators work at the time `now`; `None` where nobody has an account yet.
async fn working_operator_keys(
    stores: &Stores,
    now: Timestamp,
) -> Result<Option<usize>, StoreError> {
    if stores.accounts.is_empty().await? {
        return Ok(None);
    }
    let mut working = 0;
    for account in stores.accounts.list().await? {
        if account.role != AccountRole::Operator {
            continue;
        }
        let keys = stores.keys.list(KeyFilter::of(account.id)).await?;
        for key in keys {
            let account = account.clone();
            let verdict = decide(&KeyRecord { key, account }, now);
            working += usize::from(verdict == Verdict::Valid);
        }
    }
    Ok(Some(working))
}

/// Can anybody manage the accounts?
pub(super) async fn examine_operator(
    configured: Option<ConfiguredKey>,
    stores: &Stores,
    findings: &mut Findings,
) {
    let check = "operator";
    let (status, what) = match working_operator_keys(stores, SystemClock.now()).await {
        Err(error) => return findings.fail(check, &error.into()),
        Ok(None) => (Status::Ok, "is made when a server first starts".to_owned()),
        Ok(Some(0)) if configured.is_some_and(ConfiguredKey::will_work) => (
            Status::Ok,
            "has SUPERADMIN_API_KEY when a server next starts".to_owned(),
        ),
        Ok(Some(0)) => (
            Status::Warning,
            "no operator's key works: `leadr-auth operator new-key` makes one".to_owned(),
        ),
        Ok(Some(1)) => (Status::Ok, "has 1 working key".to_owned()),
        Ok(Some(keys)) => (Status::Ok, format!("has {keys} working keys")),
    };
    findings.add(check, status, what);
}
