//! Which core is whose while something is measured.

use crate::sh;

/// Which core the measured server has to itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pinning {
    /// The server's core; load and database share the others.
    Apart { server: String, others: String },
    /// All share all, for the reason given.
    Together { reason: &'static str },
}

impl Pinning {
    pub(crate) fn of_this_machine() -> Self {
        if sh::find("taskset").is_none() {
            return Self::Together {
                reason: "taskset is not there",
            };
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Self::of(&cores(list.unwrap_or_default()))
    }

    fn of(cores: &[u32]) -> Self {
        match cores.split_first() {
            Some((server, others)) if !others.is_empty() => {
                let others: Vec<String> = others.iter().map(u32::to_string).collect();
                Self::Apart {
                    server: server.to_string(),
                    others: others.join(","),
                }
            }
            _ => Self::Together {
                reason: "only one core is available",
            },
        }
    }

    /// What to run the measured servers under.
    pub(crate) fn server(&self) -> Vec<String> {
        match self {
            Self::Apart { server, .. } => taskset(server),
            Self::Together { .. } => Vec::new(),
        }
    }

    /// What to run everything else under.
    pub(crate) fn others(&self) -> Vec<String> {
        match self {
            Self::Apart { others, .. } => taskset(others),
            Self::Together { .. } => Vec::new(),
        }
    }

    pub(crate) fn description(&self) -> String {
        match self {
            Self::Apart { server, others } => {
                format!(
                    "pinned: servers to core {server}, one worker each; load and database to {others}"
                )
            }
            Self::Together { reason } => format!("not pinned: {reason}"),
        }
    }
}

fn taskset(cores: &str) -> Vec<String> {
    ["taskset", "-c", cores].map(str::to_owned).to_vec()
}

/// The numbers in a list such as `0-2,5`.
fn cores(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.trim().parse::<u32>().ok()?..=to.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(cores("\t0-2,5"), [0, 1, 2, 5]);
        assert_eq!(cores("3"), [3]);
        assert!(cores("").is_empty());
    }

    #[test]
    fn the_first_core_is_the_servers() {
        let apart = Pinning::of(&[2, 3, 5]);
        assert_eq!(apart.server(), ["taskset", "-c", "2"]);
        assert_eq!(apart.others(), ["taskset", "-c", "3,5"]);
        for few in [&[0][..], &[]] {
            let together = Pinning::of(few);
            assert!(together.server().is_empty() && together.others().is_empty());
            assert!(together.description().contains("only one core"));
        }
    }
}
