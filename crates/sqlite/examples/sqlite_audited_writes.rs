//! Measures what the audit trail costs: how many keys a second are issued with an entry, against how many without, by 16
//! that write at once, each to an account of its own. Rounds of both kinds take turns, so that whatever else the machine does
//! falls on both.
//!
//! Without an entry they are imported one by one, which looks up a little less than issuing does; so the ratio is, if
//! anything, too low. The other one, of importing with an entry, compares like with like.
//!
//! `cargo run --release -p leadr-auth-sqlite --all-features --example sqlite_audited_writes [rounds] [folder]`

#![expect(
    clippy::print_stdout,
    reason = "a command-line tool: what it prints is what it is for"
)]

use std::{
    error::Error,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use leadr_auth_domain::{
    Account, ApiKey, AuditAction, AuditDraft, ChainId, Facts, KeyId, KeyPrefix, Origin,
};
use leadr_auth_ports::{
    Audited, ImportMode, ImportOutcome, Stores,
    contract::fixtures::{account, at, audit_key, key},
};
use leadr_auth_sqlite::{IfMissing, Sqlite, SqliteConfig, migrate};
use tempfile::TempDir;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const WRITERS: u8 = 16;

/// The time, in microseconds: a tick for each key, so that keys and entries have the order in which they come.
static CLOCK: AtomicU32 = AtomicU32::new(1);

/// How many keys each of them issues in a round.
const KEYS: u32 = 60;

/// How the keys of a round come in.
#[derive(Clone, Copy)]
enum Way {
    Imported,
    ImportedAudited,
    IssuedAudited,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds: u32 = arguments.next().map_or(Ok(15), |rounds| rounds.parse())?;
    let folder = match arguments.next() {
        Some(folder) => TempDir::new_in(folder)?,
        None => TempDir::new()?,
    };
    let config = SqliteConfig::new(folder.path().join("keys.db"));
    let sqlite = Sqlite::open(config, IfMissing::Create)?;
    migrate::run(&sqlite).await?;
    let stores = sqlite.stores();
    let accounts: Vec<Account> = (1..=WRITERS).map(account).collect();
    for account in &accounts {
        let entry = draft(ChainId::Account(account.id), &key(1, account));
        stores.accounts.create(account, &entry).await?;
    }

    let mut serial = 0;
    // To warm up.
    for way in [Way::Imported, Way::ImportedAudited, Way::IssuedAudited] {
        round(&stores, &accounts, way, &mut serial).await?;
    }
    let (mut issuing, mut importing, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let without = round(&stores, &accounts, Way::Imported, &mut serial).await?;
        let issued = round(&stores, &accounts, Way::IssuedAudited, &mut serial).await?;
        let imported = round(&stores, &accounts, Way::ImportedAudited, &mut serial).await?;
        issuing.push(without.as_secs_f64() / issued.as_secs_f64());
        importing.push(without.as_secs_f64() / imported.as_secs_f64());
        rates.push(f64::from(u32::from(WRITERS) * KEYS) / issued.as_secs_f64());
    }
    print("keys issued a second, audited", rates);
    print("issued, audited / imported, un-audited", issuing);
    print("imported, audited / imported, un-audited", importing);
    Ok(())
}

fn print(what: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let middle = values.get(values.len() / 2);
    if let (Some(min), Some(median), Some(max)) = (values.first(), middle, values.last()) {
        println!("{what}: min {min:.2}, median {median:.2}, max {max:.2}");
    }
}

/// Lets all of them write, and answers how long it took.
async fn round(
    stores: &Stores,
    accounts: &[Account],
    way: Way,
    serial: &mut u32,
) -> Result<Duration> {
    let mut work = Vec::new();
    for account in accounts {
        let mut mine = Vec::new();
        for _ in 0..KEYS {
            *serial += 1;
            mine.push(numbered(*serial, account)?);
        }
        work.push(mine);
    }
    let start = Instant::now();
    let writers: Vec<_> = work
        .into_iter()
        .map(|keys| {
            let stores = stores.clone();
            tokio::spawn(async move {
                for key in keys {
                    bring(&stores, key, way).await?;
                }
                Ok::<_, Box<dyn Error + Send + Sync>>(())
            })
        })
        .collect();
    for writer in writers {
        writer.await??;
    }
    Ok(start.elapsed())
}

async fn bring(stores: &Stores, mut key: ApiKey, way: Way) -> Result<()> {
    let now = at(CLOCK.fetch_add(1, Ordering::Relaxed));
    (key.created_at, key.updated_at) = (now, now);
    let entry = draft(ChainId::Account(key.account_id), &key);
    let record = match way {
        Way::IssuedAudited => return Ok(stores.keys.create(&key, &entry).await?),
        Way::ImportedAudited => Audited::new(key, entry),
        Way::Imported => Audited::unchanged(key),
    };
    let imported = stores
        .transfer
        .import_keys(&[record], ImportMode::Commit)
        .await?;
    if imported == [ImportOutcome::Stored] {
        Ok(())
    } else {
        Err(format!("{imported:?}").into())
    }
}

fn draft(chain: ChainId, key: &ApiKey) -> AuditDraft {
    AuditDraft::new(
        audit_key(),
        chain,
        key.created_at,
        AuditAction::KeyCreated,
        Origin::TOOL,
    )
    .about(key.id)
    .after(Facts::of_key(key))
}

/// A key that there is only once; its id and its prefix are as scattered as random ones.
fn numbered(serial: u32, account: &Account) -> Result<ApiKey> {
    let mut key = key(1, account);
    let scattered = u128::from(serial).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    key.id = KeyId::from_random_bytes(scattered.to_be_bytes());
    // Odd, so that no two serials come to the same.
    let prefix = serial.wrapping_mul(0x9e37_79b9);
    key.key_prefix = KeyPrefix::parse(&format!("ldr_{prefix:08x}"))
        .map_err(|fault| format!("no prefix: {fault:?}"))?;
    Ok(key)
}
