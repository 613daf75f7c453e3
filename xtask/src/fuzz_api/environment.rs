//! A Python environment of its own, with schemathesis in it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::apt;
use crate::node;
use crate::sh::{self, Failure, Outcome};

/// What is installed, by what it has to hash to.
const REQUIREMENTS: &str = "xtask/src/fuzz_api/requirements.txt";

/// In the environment: what was installed into it. It is written last.
const INSTALLED: &str = "installed.txt";

const INSTEAD: &str = "run `sudo apt-get install python3-venv` (Python 3.11 or newer)";

/// An environment that has all that is required.
pub(super) struct Environment(PathBuf);

impl Environment {
    /// The one in the target folder, made anew where what is required has changed.
    pub(super) fn make() -> Outcome<Self> {
        let requirements = sh::root().join(REQUIREMENTS);
        let wanted =
            fs::read_to_string(&requirements).map_err(Failure::when(requirements.display()))?;
        let environment = Self(node::target_folder()?.join("fuzz-api"));
        let installed = environment.0.join(INSTALLED);
        if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
            return Ok(environment);
        }
        eprintln!("installing schemathesis into {}", environment.0.display());
        if environment.0.exists() {
            fs::remove_dir_all(&environment.0).map_err(Failure::when(environment.0.display()))?;
        }
        environment.make_empty()?;
        environment.install(&requirements)?;
        fs::write(&installed, wanted).map_err(Failure::when(installed.display()))?;
        Ok(environment)
    }

    /// A program of it.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.0.join("bin").join(name)
    }

    fn make_empty(&self) -> Outcome {
        let make = || sh::run(sh::command("python3").args(["-m", "venv"]).arg(&self.0));
        // Debian's Python comes without `ensurepip`, which is said on standard output only.
        if sh::succeeds(sh::command("python3").args(["-c", "import ensurepip, venv"])) {
            return make();
        }
        apt::install("python3-venv", "no Python with venv found", INSTEAD)?;
        make()
    }

    fn install(&self, requirements: &Path) -> Outcome {
        let mut pip = sh::command(self.program("python"));
        pip.args(["-m", "pip", "install", "--quiet", "--no-input"]);
        pip.args(["--disable-pip-version-check", "--only-binary", ":all:"]);
        pip.arg("--require-hashes").arg("-r").arg(requirements);
        // What it says is for people; standard output belongs to what the caller asked for.
        sh::run(pip.stdout(std::io::stderr())).map_err(|failure| {
            Failure::new(format!(
                "schemathesis could not be installed from the package index, and without it nothing is tested: {}",
                failure.message
            ))
        })
    }
}
