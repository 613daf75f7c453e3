//! What an uncached verification costs beside the query that it cannot do without: for `cargo xtask bench`.
//!
//! `uncached <url> <file of the secret> <file of keys> <connections> <rounds> <seconds>`, where a line of the file is a key and
//! an id.
//!
//! Both ask for a random key over as many connections, in one thread: once through the port, with the hash compared and the
//! verdict decided, and once by a prepared SELECT of the same columns through the same driver, whose row nobody looks at. They
//! take turns, and what each did is printed as JSON.

#![expect(
    clippy::print_stdout,
    reason = "a command-line tool for development: what it prints is what it is for"
)]

use std::cell::Cell;
use std::error::Error;
use std::fs;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leadr_auth_domain::{Keyring, Pepper, PlainKey, Timestamp, Verdict, verdict::decide};
use leadr_auth_postgres::{Postgres, PostgresConfig};
use tokio::task::LocalSet;
use tokio_postgres::{Client, NoTls, Statement};

const SELECT: &str = "SELECT k.id, k.account_id, k.name, k.key_hash, k.key_prefix, k.status, k.last_used_at, k.expires_at, \
    k.created_at, k.updated_at, k.deleted_at, k.scopes, k.pepper_id, a.id, a.name, a.slug, a.status, a.is_operator, \
    a.created_at, a.updated_at, a.deleted_at \
    FROM api_keys k INNER JOIN accounts a ON k.account_id = a.id WHERE k.key_prefix = $1";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What one of the two did in one round.
struct Done {
    per_second: f64,
    cpu_us: f64,
}

struct Setup {
    keys: Vec<PlainKey>,
    ring: Keyring,
    postgres: Postgres,
    clients: Vec<(Client, Statement)>,
    seconds: f64,
}

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, run())
}

async fn run() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, secret, keys, connections, rounds, seconds] = arguments.as_slice() else {
        return Err("six arguments are needed".into());
    };
    let connections: usize = connections.parse()?;
    let text = fs::read_to_string(keys)?;
    let keys = text.lines().filter_map(|line| {
        let (key, _) = line.split_once(' ')?;
        PlainKey::parse(key).ok()
    });
    let mut clients = Vec::new();
    for _ in 0..connections {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::task::spawn_local(connection);
        let statement = client.prepare(SELECT).await?;
        clients.push((client, statement));
    }
    let setup = Rc::new(Setup {
        keys: keys.collect(),
        ring: Keyring::from(Pepper::new(fs::read_to_string(secret)?.trim())?),
        postgres: Postgres::new(PostgresConfig {
            pool_size: connections,
            // A machine that is busy with the next thing is no reason to give up.
            lookup_timeout: Duration::from_secs(10),
            ..PostgresConfig::new(url)
        })?,
        clients,
        seconds: seconds.parse()?,
    });
    // Opens the connections of the pool and prepares their statement.
    round(&setup, true, 0.2).await?;
    let rounds: u32 = rounds.parse()?;
    let mut lines = Vec::new();
    for n in 0..rounds {
        // Who goes first takes turns too.
        let first = round(&setup, n % 2 == 0, setup.seconds).await?;
        let second = round(&setup, n % 2 != 0, setup.seconds).await?;
        let (ours, bare) = if n % 2 == 0 {
            (first, second)
        } else {
            (second, first)
        };
        let told = |done: &Done| {
            format!(
                "{{\"per_second\": {}, \"cpu_us\": {}}}",
                done.per_second, done.cpu_us
            )
        };
        lines.push(format!(
            "{{\"verification\": {}, \"select\": {}}}",
            told(&ours),
            told(&bare)
        ));
    }
    println!("[{}]", lines.join(","));
    Ok(())
}

async fn round(setup: &Rc<Setup>, ours: bool, seconds: f64) -> Outcome<Done> {
    let (start, cpu) = (Instant::now(), own_cpu());
    let until = start + Duration::from_secs_f64(seconds);
    let count = Rc::new(Cell::new(0_u32));
    let tasks: Vec<_> = (0..setup.clients.len())
        .map(|n| {
            let (setup, count) = (Rc::clone(setup), Rc::clone(&count));
            tokio::task::spawn_local(async move {
                let failed = if ours {
                    verify(&setup, n, until, &count).await
                } else {
                    select(&setup, n, until, &count).await
                };
                failed.map_err(|error| error.to_string())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let (took, cpu) = (start.elapsed().as_secs_f64(), own_cpu() - cpu);
    let count = f64::from(count.get().max(1));
    Ok(Done {
        per_second: count / took,
        cpu_us: cpu / count,
    })
}

/// Keys at random, by `SplitMix64`.
fn keys(setup: &Setup, seed: usize) -> impl Iterator<Item = &PlainKey> {
    let mut state = u64::try_from(seed).unwrap_or_default();
    let length = u64::try_from(setup.keys.len()).unwrap_or(u64::MAX).max(1);
    std::iter::from_fn(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let place = usize::try_from((z ^ (z >> 31)) % length).unwrap_or_default();
        setup.keys.get(place)
    })
}

async fn verify(setup: &Setup, n: usize, until: Instant, count: &Cell<u32>) -> Outcome<()> {
    let lookup = Arc::clone(&setup.postgres.stores().lookup);
    let now = Timestamp::parse("2026-06-01T00:00:00Z")?;
    for key in keys(setup, n) {
        let record = lookup.find(&key.prefix()).await?.ok_or("no such key")?;
        let is_it = setup.ring.verify(key, &record.key);
        if is_it != Some(true) || decide(&record, now) != Verdict::Valid {
            return Err("the key is not good".into());
        }
        count.set(count.get() + 1);
        if Instant::now() >= until {
            break;
        }
    }
    Ok(())
}

async fn select(setup: &Setup, n: usize, until: Instant, count: &Cell<u32>) -> Outcome<()> {
    let (client, statement) = setup.clients.get(n).ok_or("no such connection")?;
    for key in keys(setup, n) {
        let prefix = key.prefix();
        let row = client.query_opt(statement, &[&prefix.as_str()]).await?;
        if row.is_none() {
            return Err("no such key".into());
        }
        count.set(count.get() + 1);
        if Instant::now() >= until {
            break;
        }
    }
    Ok(())
}

/// For how long this thread, the only one, has had a core, in microseconds.
fn own_cpu() -> f64 {
    let text = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text
        .split(' ')
        .next()
        .and_then(|first| first.parse::<f64>().ok());
    nanos.unwrap_or_default() / 1e3
}
