//! The load for `cargo xtask bench`: requests with keys picked at random, over kept-open connections, from one thread.
//!
//! What other generators lack and the benchmark needs: each request has a key of its own out of a million, a rate can be held
//! that does not wait for answers (and the latency then counts from when a request was due), and every answer's status is
//! looked at. It knows as much of HTTP as that takes: a status line, `content-length`, no chunks.
//!
//! `leadr-auth-load run <plan>` sends requests and prints what came of it as one line of JSON; `leadr-auth-load records <plan>`
//! makes accounts and keys, as `leadr-auth import` reads them, and the plain keys beside them. A plan is a file of JSON, which
//! only its owner may read: it names keys, and these must not stand on a command line.

mod chance;
mod histogram;
mod plan;
mod records;
mod run;
mod template;

use std::error::Error;
use std::process::ExitCode;

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool: what it prints is what it is for"
)]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["run", path] => run::run(path),
        ["records", path] => records::run(path),
        _ => Err("usage: leadr-auth-load run|records <plan>".into()),
    };
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("leadr-auth-load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What every step returns.
type Outcome<T> = Result<T, Box<dyn Error>>;
