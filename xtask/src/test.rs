//! `cargo xtask test`: every test of the workspace, on a real database. None is skipped for want of one.

use std::path::Path;

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

/// What tests run besides PostgreSQL, each of Debian's package of that name, and why.
const PROGRAMS: [(&str, &str); 4] = [
    (
        "curl",
        "the commands of docs/operations.md are run as they stand there",
    ),
    ("nginx", PROXIES),
    ("caddy", PROXIES),
    ("haproxy", PROXIES),
];
const PROXIES: &str = "the configurations of docs/gateways.md are run as they stand there";

/// Runs them all; further arguments go to `cargo test`.
pub(crate) fn run(database: &Database, arguments: &[String]) -> Outcome {
    for (program, reason) in PROGRAMS {
        if !is_there(program) {
            apt::install(program, reason, &format!("install {program}"))?;
        }
    }
    let mut cargo = sh::cargo(["test", "--workspace", "--all-features", "--locked"]);
    sh::run(database.lend(cargo.args(arguments)))
}

/// Servers are in a folder that is not on everybody's path; the tests look there too.
fn is_there(program: &str) -> bool {
    sh::find(program).is_some() || Path::new("/usr/sbin").join(program).is_file()
}
