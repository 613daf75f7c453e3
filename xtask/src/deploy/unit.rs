//! The unit for systemd and the two files beside it.
//!
//! What can be read off the text is a line in [`faults`]; what systemd knows better, [`analyze`] asks its own tool.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Settings;
use crate::apt;
use crate::sh::{self, Failure, Outcome};

/// The most that `systemd-analyze security` may say, in tenths. The unit is at 1.1 with systemd 252; what is left to say is
/// that it uses the network. Other versions weigh a little differently.
const MOST_EXPOSURE: u32 = 15;

const TOOL: &str = "systemd-analyze";

/// What the text alone shows. In comments, examples of settings are read as well.
pub(super) fn faults(text: &str, sysusers: &str, settings: &Settings) -> Vec<String> {
    let mut faults = Vec::new();
    for line in text.lines().map(uncommented) {
        if let Some(assignments) = line.strip_prefix("Environment=") {
            let names = assignments
                .split_whitespace()
                .filter_map(|word| word.trim_matches(['"', '\'']).split_once('='));
            faults.extend(names.filter_map(|(name, _)| settings.unknown(name)));
        }
        if line.starts_with("Exec") {
            let flags = line
                .split_whitespace()
                .filter(|word| word.starts_with("--"));
            let unknown = flags.filter(|flag| !settings.flags.iter().any(|known| known == flag));
            faults.extend(unknown.map(|flag| format!("{flag} is no flag of the program")));
        }
    }
    faults.extend(settings.stop_fault("TimeoutStopSec", value(text, "TimeoutStopSec")));
    // systemd-analyze does not look at this one.
    if value(text, "LimitCORE") != Some("0") {
        faults.push("LimitCORE is not 0, and a core dump holds secrets".to_owned());
    }
    let made = sysusers
        .lines()
        .find_map(|line| line.strip_prefix("u ")?.split_whitespace().next());
    if made.is_none() || value(text, "User") != made {
        faults.push("User is not the one that leadr-auth.sysusers makes".to_owned());
    }
    faults
}

/// The same for the file of settings: `NAME=value`, and `#NAME=value` as an example.
pub(super) fn environment_faults(text: &str, settings: &Settings) -> Vec<String> {
    let mut faults = Vec::new();
    for line in text.lines() {
        let (name, value) = match line.trim_start_matches('#').split_once('=') {
            Some((name, value)) if is_name(name) => (name, value),
            Some(_) | None => continue,
        };
        faults.extend(settings.unknown(name));
        if super::is_secret(name) && !value.trim().is_empty() {
            faults.push(format!("{name} has a value, which somebody will keep"));
        }
    }
    faults
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

fn uncommented(line: &str) -> &str {
    line.trim_start_matches(['#', ' '])
}

/// The last value said for a key.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .rev()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

/// What systemd's own tool finds: anything it warns of, and too much exposure. It needs no running systemd.
pub(super) fn analyze(text: &str) -> Outcome<Vec<String>> {
    let tool = find_or_install()?;
    let scratch = Scratch::new()?;
    let unit = scratch.0.join("leadr-auth.service");
    fs::write(&unit, with_programs_that_exist(text)).map_err(Failure::when(unit.display()))?;
    let mut faults = Vec::new();
    // `no` stands for the errors of other units, which are the machine's own affair.
    let (passed, said) = ask(sh::command(&tool)
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&unit))?;
    if !passed {
        faults.push(format!("{TOOL} verify says:\n{}", said.trim_end()));
    }
    let (passed, said) = ask(sh::command(&tool)
        .args(["security", "--offline=yes", "--no-pager"])
        .arg(format!("--threshold={MOST_EXPOSURE}"))
        .arg(&unit))?;
    if passed {
        let overall = said.lines().rfind(|line| !line.is_empty());
        eprintln!("{}", overall.unwrap_or_default());
    } else {
        let open: Vec<&str> = said.lines().filter(|line| !line.contains('✓')).collect();
        faults.push(format!(
            "more exposure than {MOST_EXPOSURE} tenths:\n{}",
            open.join("\n")
        ));
    }
    Ok(faults)
}

fn find_or_install() -> Outcome<PathBuf> {
    const MISSING: &str = "systemd-analyze is not there";
    const INSTEAD: &str = "run `sudo apt-get install systemd`";
    if let Some(tool) = sh::find(TOOL) {
        return Ok(tool);
    }
    apt::install("systemd", MISSING, INSTEAD)?;
    sh::find(TOOL).ok_or_else(|| Failure::new(format!("{MISSING}: {INSTEAD}")))
}

/// `verify` wants every program to exist, and neither leadr-auth nor `kill` need be on the machine that checks: in each
/// `Exec…=` line, the shell takes the program's place.
fn with_programs_that_exist(text: &str) -> String {
    let mut changed = String::new();
    for line in text.lines() {
        let program = line
            .split_once('=')
            .filter(|(key, _)| key.starts_with("Exec") && !key.ends_with("Paths"))
            .map(|(_, command)| command.split_whitespace().next().unwrap_or_default());
        match program.filter(|program| program.starts_with('/')) {
            Some(program) => changed.push_str(&line.replacen(program, "/bin/sh", 1)),
            None => changed.push_str(line),
        }
        changed.push('\n');
    }
    changed
}

/// Whether it succeeded, and all it printed.
fn ask(command: &mut Command) -> Outcome<(bool, String)> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(Failure::when(TOOL))?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), said))
}

/// A folder that is gone when this value is.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Outcome<Self> {
        Self::in_folder(&std::env::temp_dir())
    }

    fn in_folder(parent: &Path) -> Outcome<Self> {
        let pid = std::process::id();
        for n in 0..1000_u32 {
            let folder = parent.join(format!("leadr-auth-unit-{pid}-{n}"));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => return Ok(Self(folder)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Failure::when(folder.display())(error)),
            }
        }
        Err(Failure::new(format!(
            "no free name for a folder in {}",
            parent.display()
        )))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::settings;
    use super::*;

    const USERS: &str = "# The user.\nu leadr-auth - \"leadr-auth\" /var/lib/leadr-auth\n";
    const UNIT: &str = "[Service]\nExecStart=/usr/bin/leadr-auth serve --data-dir %S/leadr-auth\n\
        ExecReload=/bin/kill -HUP $MAINPID\n#     Environment=API_KEY_SECRET=%d/x\n\
        User=leadr-auth\nTimeoutStopSec=60\nLimitCORE=0\n";

    fn found(from: &str, to: &str) -> Vec<String> {
        assert!(UNIT.contains(from), "{from}");
        faults(&UNIT.replace(from, to), USERS, &settings())
    }

    #[test]
    fn a_good_unit_passes() {
        assert_eq!(faults(UNIT, USERS, &settings()), [""; 0]);
    }

    #[test]
    fn each_fault_of_the_text_is_found() {
        for (from, to, what) in [
            ("API_KEY_SECRET=", "API_KEY_SECERT=", "API_KEY_SECERT"),
            ("--data-dir", "--datadir", "--datadir"),
            ("TimeoutStopSec=60", "TimeoutStopSec=30", "TimeoutStopSec"),
            ("TimeoutStopSec=60\n", "", "TimeoutStopSec"),
            ("LimitCORE=0\n", "", "LimitCORE"),
            ("User=leadr-auth", "User=leadr", "User"),
        ] {
            let found = found(from, to);
            assert_eq!(found.len(), 1, "{to}: {found:?}");
            assert!(found[0].contains(what), "{to}: {found:?}");
        }
        assert_eq!(faults(UNIT, "# nobody", &settings()).len(), 1);
    }

    #[test]
    fn the_file_of_settings_is_read_with_its_examples() {
        let found = |text| environment_faults(text, &settings());
        let good = "# Where to listen = where.\n#LISTEN=0.0.0.0:8000\nDATA_DIR=/x\n\
                    #   echo \"a=b\"\n#API_KEY_SECRET=\n";
        assert_eq!(found(good), [""; 0]);
        assert_eq!(found("#LISTEN_ON=x").len(), 1);
        assert_eq!(found("LISTEN_ON=x").len(), 1);
        assert_eq!(found("#API_KEY_SECRET=0123456789").len(), 1);
    }

    #[test]
    fn no_program_has_to_be_there() {
        let changed = with_programs_that_exist(UNIT);
        assert!(changed.contains("ExecStart=/bin/sh serve --data-dir"));
        assert!(changed.contains("ExecReload=/bin/sh -HUP"));
        assert_eq!(
            changed.lines().count(),
            UNIT.lines().count(),
            "line numbers are those of the file"
        );
        assert!(with_programs_that_exist("ExecPaths=/usr").contains("ExecPaths=/usr\n"));
    }

    /// `cargo xtask ci` installs the tool before it comes to the tests; elsewhere it may be missing.
    #[test]
    fn systemd_is_asked() {
        if sh::find(TOOL).is_none() {
            eprintln!("not run: {TOOL} is not there");
            return;
        }
        let text = super::super::read(super::super::UNIT).unwrap();
        assert_eq!(analyze(&text).unwrap(), [""; 0]);
        let misspelt = text.replace("\nPrivateTmp=", "\nPrivateTemp=");
        let found = analyze(&misspelt).unwrap();
        assert!(found[0].contains("PrivateTemp"), "{found:?}");
        let open = text.replace("\nSystemCallFilter=", "\n#");
        let found = analyze(&open).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("exposure"), "{found:?}");
        assert!(found[0].contains("SystemCallFilter"), "{found:?}");
    }

    #[test]
    fn scratch_folders_are_taken_away() {
        let (one, two) = (Scratch::new().unwrap(), Scratch::new().unwrap());
        assert_ne!(one.0, two.0);
        let path = one.0.clone();
        drop(one);
        assert!(!path.exists() && two.0.exists());
    }
}
