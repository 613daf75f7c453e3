//! Accounts and keys out of a seed: the records that a store imports, and the plain keys for whoever presents them.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use leadr_auth_domain::{KeyId, Pepper, generate_api_key};
use serde_json::{Value, json};

use crate::Outcome;
use crate::chance::Chance;
use crate::plan::Plan;

const MOMENT: &str = "2026-01-01T00:00:00Z";

/// A new file, for its owner's eyes.
pub(crate) fn secret_file(path: &str) -> Outcome<BufWriter<File>> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    Ok(BufWriter::new(
        file.map_err(|error| format!("{path}: {error}"))?,
    ))
}

/// The plan has `accounts` and `keys` (how many), a `seed`, the file `secret`, and the files to make: `records` and `plain`.
pub(crate) fn run(path: &str) -> Outcome<Value> {
    let plan = Plan::read(path)?;
    let (accounts, keys) = (plan.needed("accounts")?, plan.needed("keys")?);
    let secret = fs::read_to_string(plan.needed_text("secret")?)?;
    let pepper = Pepper::new(secret.trim())?;
    let mut chance = Chance::new(plan.needed("seed")?);
    let mut records = secret_file(plan.needed_text("records")?)?;
    let mut shown = secret_file(plan.needed_text("plain")?)?;
    let header = json!({
        "format": "leadr-auth", "version": 2, "secrets": [], "accounts": accounts, "keys": keys,
    });
    writeln!(records, "{header}")?;
    let mut owners = Vec::new();
    for n in 0..accounts {
        let id = id(&mut chance);
        let record = json!({"account": {
            "id": id, "name": format!("Account {n}"), "slug": format!("account-{n}"), "status": "active", "role": "tenant",
            "created_at": MOMENT, "updated_at": MOMENT, "deleted_at": null,
        }});
        writeln!(records, "{record}")?;
        owners.push(id);
    }
    for n in 0..keys {
        let key = generate_api_key(chance.bytes());
        let id = id(&mut chance);
        let owner = owners.get(usize::try_from(n)? % owners.len().max(1));
        let record = json!({"key": {
            "id": id, "account_id": owner, "name": format!("Key {n:07}"), "key_hash": pepper.hash(&key).expose_hex(),
            "key_prefix": key.prefix().as_str(), "status": "active", "last_used_at": null, "expires_at": null,
            "created_at": MOMENT, "updated_at": MOMENT, "deleted_at": null, "pepper_id": "default", "scopes": null,
        }});
        writeln!(records, "{record}")?;
        writeln!(shown, "{} {id}", key.expose())?;
    }
    records.flush()?;
    shown.flush()?;
    Ok(json!({"accounts": accounts, "keys": keys}))
}

fn id(chance: &mut Chance) -> String {
    KeyId::from_random_bytes(chance.bytes())
        .as_uuid()
        .to_string()
}
