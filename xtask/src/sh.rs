//! Running other programs, and saying clearly which one failed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::env;

/// Why a command ended badly, and the exit code that says so.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) code: u8,
    usage: bool,
}

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 1,
            usage: false,
        }
    }

    /// The command was called wrongly: the usage is printed below the message.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 2,
            usage: true,
        }
    }

    /// Not to be read off the code: a program that was run may exit with 2 as well.
    pub(crate) fn is_usage(&self) -> bool {
        self.usage
    }

    /// For `map_err`: what was being done, in front of what went wrong.
    pub(crate) fn when<E: std::fmt::Display>(doing: impl std::fmt::Display) -> impl Fn(E) -> Self {
        move |error| Self::new(format!("{doing}: {error}"))
    }
}

/// A failure that says all that was found to be wrong, if anything was.
pub(crate) fn unless_none(faults: &[String]) -> Outcome {
    if faults.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(faults.join("\n")))
    }
}

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// A program to run, in the caller's folder.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    // `cargo run` describes this package in the environment. Build scripts that watch these variables would see them
    // come and go between `cargo xtask test` and `cargo test`, and build again each time.
    for name in env::names() {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Cargo, in the workspace's folder, the same that runs this program.
pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = command(env::var("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs it on this terminal; anything but success is a failure with its exit code.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let status = command.status().map_err(Failure::when(describe(command)))?;
    succeeded(command, status)
}

/// Runs it and returns what it printed; its standard error goes to this terminal.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let output = command
        .stderr(Stdio::inherit())
        .stdin(Stdio::null())
        .output()
        .map_err(Failure::when(describe(command)))?;
    succeeded(command, output.status)?;
    String::from_utf8(output.stdout).map_err(Failure::when(describe(command)))
}

/// Whether it runs and succeeds, with nothing printed.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Success, or a failure that names the command.
pub(crate) fn succeeded(command: &Command, status: ExitStatus) -> Outcome {
    if status.success() {
        return Ok(());
    }
    let message = format!("{} failed: {status}", describe(command));
    Err(Failure {
        message,
        code: exit_code(status),
        usage: false,
    })
}

/// The code to pass on; a program ended by a signal has none, and shells then say 128 and the signal's number.
fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// The command as one would type it, in backticks.
fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy();
    let mut text = format!("`{name}");
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text.push('`');
    text
}

/// Where a program is, if it is on the PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&env::path())
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_passed_on() {
        let failure = run(command("sh").args(["-c", "exit 7"])).unwrap_err();
        assert_eq!(failure.code, 7);
        assert!(
            failure.message.starts_with("`sh -c exit 7` failed"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn a_signal_becomes_a_code_as_in_a_shell() {
        let failure = run(command("sh").args(["-c", "kill -KILL $$"])).unwrap_err();
        assert_eq!(failure.code, 137);
    }

    #[test]
    fn a_program_exiting_with_2_is_not_a_usage_error() {
        let failure = run(command("sh").args(["-c", "exit 2"])).unwrap_err();
        assert_eq!(failure.code, 2);
        assert!(!failure.is_usage());
        assert!(Failure::usage("what?").is_usage());
    }

    #[test]
    fn a_missing_program_is_named() {
        let failure = run(&mut command("no-such-program-here")).unwrap_err();
        assert!(
            failure.message.contains("no-such-program-here"),
            "{}",
            failure.message
        );
    }
}
