//! `cargo xtask codegen`: the files that are generated from the code or the database, and the check that they are current.
//!
//! To add one, write a function that returns its text and a line in [`run`].

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::node;
use crate::postgres::Database;
use crate::sh::{self, Failure, Outcome};

/// The tables as Diesel sees them, in each kind of database.
const POSTGRES_SCHEMA: &str = "crates/postgres/src/schema.rs";
const SQLITE_SCHEMA: &str = "crates/sqlite/src/schema.rs";
/// The description of the HTTP API.
const OPENAPI: &str = "docs/openapi.json";

/// Whether to write the files or only compare them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Write,
    Check,
}

/// `codegen [--check]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mode = match words.as_slice() {
        [] => Mode::Write,
        ["--check"] => Mode::Check,
        _ => return Err(Failure::usage("codegen takes `--check` or nothing")),
    };
    run(&Database::open()?, mode)
}

/// Writes or checks every generated file.
pub(crate) fn run(database: &Database, mode: Mode) -> Outcome {
    let stale = [
        schemas(database, mode)?,
        ensure_contents(OPENAPI, &openapi()?, mode)?,
    ];
    report(&stale.concat())
}

/// Checks the tables alone, for `migrate check`.
pub(crate) fn check_schemas(database: &Database) -> Outcome {
    report(&schemas(database, Mode::Check)?)
}

fn schemas(database: &Database, mode: Mode) -> Outcome<Vec<&'static str>> {
    let postgres = sh::output(database.lend(&mut postgres_tool("print")?))?;
    let sqlite = sh::output(&mut sqlite_tool("print")?)?;
    let stale = [
        ensure_contents(POSTGRES_SCHEMA, &format(&postgres)?, mode)?,
        ensure_contents(SQLITE_SCHEMA, &format(&sqlite)?, mode)?,
    ];
    Ok(stale.concat())
}

/// The example of the PostgreSQL crate that knows its migrations, called with one action.
pub(crate) fn postgres_tool(action: &str) -> Outcome<Command> {
    let mut tool = example("postgres_schema")?;
    tool.arg(action);
    Ok(tool)
}

/// The same of the SQLite crate. It needs no server.
pub(crate) fn sqlite_tool(action: &str) -> Outcome<Command> {
    let mut tool = example("sqlite_schema")?;
    tool.arg(action);
    Ok(tool)
}

fn openapi() -> Outcome<String> {
    sh::output(&mut example("openapi")?)
}

fn example(name: &str) -> Outcome<Command> {
    let mut command = sh::command(node::build_as_tests()?.join("examples").join(name));
    command.current_dir(sh::root());
    Ok(command)
}

/// As `cargo fmt` would leave it, so that the two never disagree about the file.
fn format(source: &str) -> Outcome<String> {
    let failed = Failure::when("rustfmt");
    let mut command = sh::command("rustfmt");
    command
        .args(["--edition", "2024", "--config-path", "."])
        .current_dir(sh::root());
    let mut rustfmt = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(&failed)?;
    // It reads all of its input before it writes; dropping our end is what tells it that the input is complete.
    if let Some(mut input) = rustfmt.stdin.take() {
        input.write_all(source.as_bytes()).map_err(&failed)?;
    }
    let output = rustfmt.wait_with_output().map_err(&failed)?;
    sh::succeeded(&command, output.status)?;
    String::from_utf8(output.stdout).map_err(Failure::when("rustfmt"))
}

/// Writes the file if it differs; when only checking, returns its path instead.
fn ensure_contents(path: &'static str, text: &str, mode: Mode) -> Outcome<Vec<&'static str>> {
    let file = sh::root().join(path);
    let text = format!("{}\n", text.trim_end());
    if fs::read_to_string(&file).is_ok_and(|present| present == text) {
        return Ok(Vec::new());
    }
    if mode == Mode::Check {
        return Ok(vec![path]);
    }
    fs::write(&file, text).map_err(Failure::when(path))?;
    println!("wrote {path}");
    Ok(Vec::new())
}

fn report(stale: &[&str]) -> Outcome {
    if stale.is_empty() {
        return Ok(());
    }
    let files = stale.join(", ");
    Err(Failure::new(format!(
        "{files}: not what would be generated now; run `cargo xtask codegen`"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_file_is_named_with_the_command_that_mends_it() {
        let stale = ensure_contents("xtask/Cargo.toml", "something else", Mode::Check).unwrap();
        assert_eq!(stale, ["xtask/Cargo.toml"]);
        let message = report(&stale).unwrap_err().message;
        assert!(message.starts_with("xtask/Cargo.toml: "), "{message}");
        assert!(message.ends_with("run `cargo xtask codegen`"), "{message}");
    }

    #[test]
    fn a_missing_file_is_stale() {
        let stale = ensure_contents("xtask/nowhere.json", "{}", Mode::Check).unwrap();
        assert_eq!(stale, ["xtask/nowhere.json"]);
        assert!(
            !sh::root().join("xtask/nowhere.json").exists(),
            "checking must not write"
        );
    }

    #[test]
    fn a_current_file_passes_whatever_its_last_line_break() {
        let path = "xtask/Cargo.toml";
        let text = fs::read_to_string(sh::root().join(path)).unwrap();
        assert!(
            ensure_contents(path, text.trim_end(), Mode::Check)
                .unwrap()
                .is_empty()
        );
        report(&[]).unwrap();
    }

    #[test]
    fn generated_code_is_formatted_as_the_workspace_is() {
        assert_eq!(format("fn  main( ) { }").unwrap(), "fn main() {}\n");
        assert!(format("fn main(").is_err());
    }
}
