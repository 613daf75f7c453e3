//! Open files: each connection is one, and the operating system allows a process so many.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Config, StoreConfig};

/// How many connections may be open where nobody says.
const CONNECTIONS: usize = 25_000;

/// How many files are open besides connections: the database, logs, what the runtime needs, and some room.
const OTHERS: usize = 256;

/// How many connections may be open, by the configuration and by what is allowed. The process is allowed as much as it may
/// ask for by itself.
pub(crate) fn connections(config: &Config) -> usize {
    raise();
    let most = most(config, getrlimit(Resource::Nofile).current);
    match config.max_connections {
        None => CONNECTIONS.min(most),
        Some(wanted) if wanted > most => {
            tracing::warn!(
                wanted,
                most,
                "MAX_CONNECTIONS is more than the limit on open files leaves"
            );
            most
        }
        Some(wanted) => wanted,
    }
}

/// What is wrong with the limit on open files, if something is. `None` where it is enough.
pub(crate) fn fault(config: &Config) -> Option<String> {
    let most = most(config, getrlimit(Resource::Nofile).maximum);
    // What nobody asked for is no fault where it is less.
    let wanted = config.max_connections?;
    (most < wanted).then(|| {
        format!(
            "leaves {most} connections, and {wanted} are wanted: let the process open {} files (LimitNOFILE, ulimit -n)",
            wanted.saturating_add(others(config))
        )
    })
}

fn others(config: &Config) -> usize {
    let pool = match &config.store {
        StoreConfig::Memory | StoreConfig::Sqlite(_) => 0,
        StoreConfig::Postgres(postgres) => postgres.pool_size.saturating_mul(config.workers),
    };
    OTHERS.saturating_add(pool)
}

/// How many connections a limit leaves; without one, any number.
fn most(config: &Config, limit: Option<u64>) -> usize {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    limit.map_or(usize::MAX, |limit| {
        // Some in any case: a server that answers nobody is of no use.
        limit.saturating_sub(others(config)).max(limit / 2)
    })
}

/// Asks for as many open files as may be had for the asking.
fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where that is refused, what holds now goes on holding.
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::debug!(%error, "the limit on open files stays as it was");
    }
}

#[cfg(test)]
mod tests {
    use leadr_auth_memory::system::SeededEntropy;

    use super::*;
    use crate::config::Sources;

    fn config(settings: &[(&'static str, &str)]) -> Config {
        let environment = settings
            .iter()
            .map(|&(name, value)| (name, value.to_owned()));
        let sources = Sources {
            environment: environment.collect(),
            ..Sources::default()
        };
        Config::read(&sources, &SeededEntropy::new(1)).unwrap()
    }

    #[test]
    fn connections_are_what_the_other_files_leave() {
        let memory = config(&[("DATABASE_URL", "memory:")]);
        assert_eq!(most(&memory, None), usize::MAX);
        assert_eq!(most(&memory, Some(20_000)), 19_744);
        // Some in any case.
        assert_eq!(most(&memory, Some(300)), 150);
        let postgres = config(&[
            ("DATABASE_URL", "postgres://db/db"),
            ("API_KEY_SECRET", "correct horse battery staple, twice"),
            ("WORKERS", "4"),
            ("POOL_SIZE", "400"),
        ]);
        assert_eq!(most(&postgres, Some(20_000)), 19_344);
    }
}
