//! What developers and the CI run, as one program: `cargo xtask <command>`.
//!
//! Automation only: it depends on no crate of the workspace, and none depends on it. Each command is a file of its own
//! here; the table below lists them all. To add one, write its file and a row.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to the terminal is what it is for"
)]

mod apt;
mod arrows;
mod bench;
mod chance;
mod ci;
mod cluster;
mod codegen;
mod crash;
mod deploy;
mod env;
mod footprint;
mod framing;
mod fuzz;
mod fuzz_api;
mod http;
mod instructions;
mod load;
mod loom;
mod manifest;
mod markdown;
mod migrate;
mod node;
mod pages;
mod postgres;
mod process;
mod races;
mod revocation;
mod rolling;
mod sh;
mod simulate;
mod slow_clients;
mod test;
mod tidy;
mod timing;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::str::FromStr;

use sh::{Failure, Outcome};

/// One command: what is typed, what it does, and the function behind it.
struct Entry {
    name: &'static str,
    arguments: &'static str,
    summary: &'static str,
    run: fn(&[String]) -> Outcome,
}

const COMMANDS: &[Entry] = &[
    Entry {
        name: "test",
        arguments: "[-- <arguments of cargo test>]",
        summary: "run every test of the workspace, on a throwaway PostgreSQL",
        run: test::command,
    },
    Entry {
        name: "database",
        arguments: "-- <command> [<arguments>]",
        summary: "run one command with a throwaway PostgreSQL in TEST_DATABASE_URL, for example \
                  `cargo xtask database -- cargo test -p leadr-auth-postgres`",
        run: postgres::command,
    },
    Entry {
        name: "codegen",
        arguments: "[--check]",
        summary: "write the generated files (schema.rs, openapi.json), or check that they are current",
        run: codegen::command,
    },
    Entry {
        name: "migrate",
        arguments: "new <verb_noun> | run | revert | redo | check",
        summary: "make a migration for each kind of database, apply or undo those for PostgreSQL on DATABASE_URL, or check \
                  all of them on throwaway databases",
        run: migrate::command,
    },
    Entry {
        name: "tidy",
        arguments: "",
        summary: "check what the compiler does not: who depends on whom, headers, links, leftovers",
        run: tidy::command,
    },
    Entry {
        name: "deploy",
        arguments: "",
        summary: "check the files of deploy/: the systemd unit, the Dockerfile, the compose files",
        run: deploy::command,
    },
    Entry {
        name: "ci",
        arguments: "",
        summary: "everything that must pass before a change lands",
        run: ci::command,
    },
    Entry {
        name: "bench",
        arguments: "[--store memory|sqlite|postgres] [--only <scenario>] [--rounds <n>] [--seconds <n>] [--connections <n>] \
                    [--quick] [--dev] [--json] [--write]",
        summary: "measure what verifying a key costs, on each store, beside a bare server that sends as much; --write puts it \
                  into docs/benchmarks.md",
        run: bench::command,
    },
    Entry {
        name: "instructions",
        arguments: "[--write]",
        summary: "count the processor's instructions for one verification, under valgrind, and compare with \
                  docs/instructions.json; --write writes them down",
        run: instructions::command,
    },
    Entry {
        name: "footprint",
        arguments: "[--keys <n>] [--starts <n>] [--dev]",
        summary: "measure how soon the server is ready on a file with many keys, and its memory while idle",
        run: footprint::command,
    },
    Entry {
        name: "crash",
        arguments: "[--cycles <n>] [--store sqlite|postgres] [--seed <n>] [--dev] [--sabotage]",
        summary: "kill the server while it writes, again and again, and look for what was acknowledged; \
                  --sabotage loses some of it on purpose, which has to be found",
        run: crash::command,
    },
    Entry {
        name: "rolling",
        arguments: "[--restarts <n>] [--grace <seconds>] [--dev]",
        summary: "restart the nodes behind haproxy one after the other, under load, and count failed requests; \
                  with --grace 0 the nodes give no warning, and some fail",
        run: rolling::command,
    },
    Entry {
        name: "revocation",
        arguments: "[--fault <name>|all]… [--revocations <n>] [--sabotage <name>] [--dev] [--short] \
                    [--program <path>] [--seed <n>] [--json]",
        summary: "stop keys on three nodes while something fails, and look for one that is let in too late, or shut out \
                  too early; --sabotage switches a mechanism off, which has to be seen",
        run: revocation::command,
    },
    Entry {
        name: "fuzz-api",
        arguments: "[--cases <n>] [--store memory|sqlite|postgres]… [--role nobody|tenant|operator]… [--seed <n>] [--dev]",
        summary: "send requests that are made up from the OpenAPI document, by schemathesis, on every store and as every role, and \
                  look for an answer that is not as the document says",
        run: fuzz_api::command,
    },
    Entry {
        name: "framing",
        arguments: "[--dev]",
        summary: "send requests that can be read in two ways through nginx and haproxy, and see that the service reads them \
                  as the proxy does",
        run: framing::command,
    },
    Entry {
        name: "races",
        arguments: "[--race <name>]… [--rounds <n>] [--store memory|sqlite|postgres] [--seed <n>] [--program <path>] [--dev]",
        summary: "send requests that only one may win, all at once, and count the winners",
        run: races::command,
    },
    Entry {
        name: "pages",
        arguments: "[--keys <n>] [--rounds <n>] [--store sqlite|postgres] [--only <list>] [--unanalyzed] [--program <path>] [--dev]",
        summary: "measure a page of an account's list of many keys beside one of a thousand",
        run: pages::command,
    },
    Entry {
        name: "timing",
        arguments: "[--calls <n>] [--only <question>] [--store memory|sqlite|postgres] [--seed <n>] [--program <path>] [--dev]",
        summary: "ask what is answered alike, many thousand times, and look whether time tells it apart",
        run: timing::command,
    },
    Entry {
        name: "loom",
        arguments: "",
        summary: "try the cache's fence and lease in every order in which threads can meet",
        run: loom::command,
    },
    Entry {
        name: "simulate",
        arguments: "[--schedules <n>] [--seed <n>]",
        summary: "put nodes on one store, in virtual time, in a million orders of steps and faults, and look at what they \
                  accept; one schedule can be had again by its seed, and tells what happens",
        run: simulate::command,
    },
    Entry {
        name: "fuzz",
        arguments: "[--target <name>] [--executions <n>] [--keep]",
        summary: "have a fuzzer make up ten million inputs for keys, headers, timestamps, scopes, cursors and bodies; --keep adds \
                  those that reach something new to fuzz/corpus",
        run: fuzz::command,
    },
    Entry {
        name: "slow-clients",
        arguments: "[--rounds <n>] [--dev]",
        summary: "let clients send heads and bodies slowly, read nothing, stay idle by the thousand and guess keys, and see that \
                  others are served as ever",
        run: slow_clients::command,
    },
    Entry {
        name: "help",
        arguments: "",
        summary: "print this",
        run: help,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {}", failure.message);
            if failure.is_usage() {
                eprint!("\n{}", usage());
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(arguments: &[String]) -> Outcome {
    let Some((name, rest)) = arguments.split_first() else {
        return Err(Failure::usage("no command given"));
    };
    let name = if matches!(name.as_str(), "--help" | "-h") {
        "help"
    } else {
        name
    };
    match COMMANDS.iter().find(|entry| entry.name == name) {
        Some(entry) => (entry.run)(rest),
        None => Err(Failure::usage(format!("no command `{name}`"))),
    }
}

fn help(arguments: &[String]) -> Outcome {
    no_arguments("help", arguments)?;
    print!("{}", usage());
    Ok(())
}

/// For commands that take none: anything given is a mistake that must not be passed over.
fn no_arguments(command: &str, arguments: &[String]) -> Outcome {
    match arguments.first() {
        None => Ok(()),
        Some(argument) => Err(Failure::usage(format!(
            "{command} takes no arguments, and got `{argument}`"
        ))),
    }
}

/// The value of an option that takes a whole number.
fn number<T: FromStr>(option: &str, value: Option<&str>) -> Outcome<T> {
    value
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| Failure::usage(format!("{option} takes a whole number")))
}

fn usage() -> String {
    let mut text = String::from("usage: cargo xtask <command>\n");
    for entry in COMMANDS {
        let call = format!("{} {}", entry.name, entry.arguments);
        let _ = writeln!(text, "\n  {}\n      {}", call.trim_end(), entry.summary);
    }
    text
}

/// What a shell makes of a line of plain words.
#[cfg(test)]
pub(crate) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_table_is_a_usage_error() {
        for line in [
            "",
            "tset",
            "help me",
            "tidy --fix",
            "deploy now",
            "ci now",
            "codegen --chekc",
            "test unit",
        ] {
            let failure = dispatch(&words(line)).unwrap_err();
            assert!(failure.is_usage(), "{line}: {}", failure.message);
        }
    }

    #[test]
    fn help_names_every_command() {
        for entry in COMMANDS {
            assert!(
                usage().contains(&format!("\n  {}", entry.name)),
                "{}",
                entry.name
            );
        }
    }
}
