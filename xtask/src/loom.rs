//! `cargo xtask loom`: the cache's fence, lease and accounts in every order in which threads can meet.
//!
//! The tests are `crates/service/src/verification/loom_tests.rs`. They are built with `--cfg leadr_loom`, which puts loom's locks
//! and atomics in the place of the standard library's, so everything is built anew for them, in a folder of its own.

use crate::no_arguments;
use crate::node;
use crate::sh::{self, Outcome};

/// `loom`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    no_arguments("loom", arguments)?;
    run()
}

/// All of it, also for `ci`.
pub(crate) fn run() -> Outcome {
    let mut cargo = sh::cargo(["test", "-p", "leadr-auth-service", "--lib", "--locked"]);
    // A release build takes longer than it saves.
    cargo.args(["--features", "sabotage", "verification::loom_tests"]);
    cargo.env("RUSTFLAGS", "--cfg leadr_loom");
    sh::run(cargo.env("CARGO_TARGET_DIR", node::target_folder()?.join("loom")))
}
