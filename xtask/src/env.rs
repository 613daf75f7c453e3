//! The environment of the command, and nothing else: the one place that reads variables and the clock.
#![expect(
    clippy::disallowed_methods,
    reason = "a developer's tool takes its settings from the shell; the product's rule is about the product"
)]

use std::ffi::OsString;
use std::time::{SystemTime, UNIX_EPOCH};

/// A variable's value; an empty one counts as not set, which is how shells and CI files switch one off.
pub(crate) fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The folders in which programs are looked for.
pub(crate) fn path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// The names of all variables.
pub(crate) fn names() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

/// Seconds since 1970, in UTC. A clock before that reads as 0.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
