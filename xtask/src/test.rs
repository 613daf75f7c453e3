//! `cargo xtask test`: every test of the workspace, on a real database. None is skipped for want of one.

use crate::apt;
use crate::postgres::Database;
use crate::sh::{self, Failure, Outcome};

/// `test [-- <arguments of cargo test>]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    let passed_on = match arguments.split_first() {
        None => &[],
        Some((dashes, rest)) if dashes == "--" => rest,
        Some((other, _)) => {
            return Err(Failure::usage(format!(
                "`{other}`: arguments of cargo test come after `--`"
            )));
        }
    };
    run(&Database::open()?, passed_on)
}

/// Runs them all; further arguments go to `cargo test`.
pub(crate) fn run(database: &Database, arguments: &[String]) -> Outcome {
    if sh::find("curl").is_none() {
        let reason = "the commands of docs/operations.md are run as they stand there";
        apt::install("curl", reason, "install curl")?;
    }
    let mut cargo = sh::cargo(["test", "--workspace", "--all-features", "--locked"]);
    sh::run(database.lend(cargo.args(arguments)))
}
