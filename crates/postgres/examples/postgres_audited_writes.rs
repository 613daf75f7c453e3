//! What an audit entry with each key costs: rounds of keys that are issued with one, and without, by turns, so that whatever
//! else the machine does is in both.
//!
//! `cargo xtask database -- cargo run --release -p leadr-auth-postgres --features testing --example postgres_audited_writes [accounts]`
//!
//! 16 write at once, each to an account of its own; or to fewer accounts, where that is said: to a single one, all of them
//! wait for the end of one chain.
//!
//! The database is a scratch one on the server of `TEST_DATABASE_URL`. How durable that server is is printed, because it
//! decides what is measured: the throwaway server of `cargo xtask database` does not wait for the disk, so that all of the
//! difference shows; where it waits, most of a write is the wait, which is the same for both.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a command-line tool for development: what it prints is what it is for, and a failure ends it"
)]

use std::{sync::Arc, time::Instant};

use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, ApiKey, AuditAction, AuditDraft, AuditKey,
    ChainId, Facts, KeyId, KeyName, Keyring, Origin, Pepper, Slug, Timestamp, generate_api_key,
};
use leadr_auth_postgres::{
    Postgres,
    testing::{TestDatabase, create_unaudited},
};

const WRITERS: u32 = 16;
/// How many keys each writer issues in a round.
const KEYS: u32 = 250;
const ROUNDS: u32 = 12;

/// Bytes of which no two are the same, in the order in which random ones come: none.
fn scattered(number: u64) -> [u8; 16] {
    let mixed = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    mixed.swap_bytes().to_be_bytes()
}

fn now() -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").expect("a time")
}

fn account(n: u32) -> Account {
    Account::new(
        AccountId::from_random_bytes(scattered(u64::from(n) + 1)),
        AccountName::parse(&format!("Account {n}")).expect("a name"),
        Slug::parse(&format!("account-{n}")).expect("a slug"),
        AccountRole::Tenant,
        now(),
    )
}

/// The `number`th key of all, and what is written down of it.
fn key(ring: &Keyring, owner: &Account, number: u64) -> (ApiKey, AuditDraft) {
    let bytes = scattered(number);
    let plain = generate_api_key([bytes, bytes].concat().try_into().expect("32 bytes"));
    let key = ApiKey::new(
        KeyId::from_random_bytes(bytes),
        owner.id,
        KeyName::parse("Key").expect("a name"),
        ring.hash(&plain),
        plain.prefix(),
        None,
        now(),
    );
    let entry = draft(owner, AuditAction::KeyCreated)
        .about(key.id)
        .after(Facts::of_key(&key));
    (key, entry)
}

fn draft(owner: &Account, action: AuditAction) -> AuditDraft {
    let chain = ChainId::Account(owner.id);
    AuditDraft::new(AuditKey::new([1; 32]), chain, now(), action, Origin::TOOL)
}

/// Keys a second of one round, in which all writers write at once, and the accounts are shared out among them.
async fn round(postgres: &Postgres, accounts: u32, round: u32, audited: bool) -> f64 {
    let ring = Keyring::from(Pepper::new("a secret for measurements, long enough").expect("one"));
    let stores = Arc::new(postgres.stores());
    // Made before the clock runs: hashing is the same for both.
    let work: Vec<Vec<_>> = (0..WRITERS)
        .map(|writer| {
            let owner = account(writer % accounts);
            let first = u64::from(round * WRITERS + writer) * u64::from(KEYS) + 1000;
            let numbers = first..first + u64::from(KEYS);
            numbers.map(|number| key(&ring, &owner, number)).collect()
        })
        .collect();
    let start = Instant::now();
    let writers: Vec<_> = work
        .into_iter()
        .map(|keys| {
            let (postgres, stores) = (postgres.clone(), Arc::clone(&stores));
            tokio::spawn(async move {
                for (key, entry) in keys {
                    if audited {
                        stores.keys.create(&key, &entry).await.expect("a new key");
                    } else {
                        create_unaudited(&postgres, &key).await;
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    f64::from(WRITERS * KEYS) / start.elapsed().as_secs_f64()
}

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let accounts: u32 = std::env::args().nth(1).map_or(WRITERS, |accounts| {
        accounts.parse().expect("how many accounts")
    });
    let database = TestDatabase::create().await;
    let postgres = database.postgres();
    let settings = postgres.settings().await.expect("a server that answers");
    println!(
        "PostgreSQL {}, fsync {}, synchronous_commit {}",
        settings.server_version, settings.fsync, settings.synchronous_commit
    );
    for n in 0..WRITERS {
        let owner = account(n);
        let entry = draft(&owner, AuditAction::AccountCreated);
        let accounts = postgres.stores().accounts;
        accounts.create(&owner, &entry).await.expect("an account");
    }
    // Opens the connections and prepares the statements.
    for (n, audited) in [false, true].into_iter().enumerate() {
        round(
            &postgres,
            accounts,
            u32::try_from(n).expect("0 or 1"),
            audited,
        )
        .await;
    }
    let mut ratios = Vec::new();
    for n in 1..=ROUNDS {
        // Who goes first takes turns too.
        let audited_first = n % 2 == 0;
        let first = round(&postgres, accounts, 2 * n, audited_first).await;
        let second = round(&postgres, accounts, 2 * n + 1, !audited_first).await;
        let (audited, plain) = if audited_first {
            (first, second)
        } else {
            (second, first)
        };
        println!("{n:2}: {plain:7.0} plain/s, {audited:7.0} audited/s");
        ratios.push(audited / plain);
    }
    ratios.sort_by(f64::total_cmp);
    let at = |place: usize| ratios.get(place).copied().unwrap_or_default();
    println!(
        "ratio: {:.2} at least, {:.2} median, {:.2} at most",
        at(0),
        at(ratios.len() / 2),
        at(ratios.len().saturating_sub(1))
    );
}
