//! Installing a missing program on Debian and its relatives, where that needs no password.

use std::process::Stdio;

use crate::sh::{self, Failure, Outcome};

/// Runs as root. Debian's PostgreSQL packages create and start a server on port 5432 when installed; the file in
/// `createcluster.d` tells them not to, since that port is the developer's own. Others start a server on port 80, then and
/// whenever the machine starts: `policy-rc.d` forbids the one, where the administrator has none, and disabling the unit
/// undoes the other. Both files are there during the installation only.
const SCRIPT: &str = r#"
set -e
folder=/etc/postgresql-common/createcluster.d
file=$folder/leadr-auth-xtask.conf
policy=/usr/sbin/policy-rc.d
made=
trap 'rm -f "$file" $made; rmdir "$folder" 2>/dev/null || true' EXIT
if [ ! -e "$policy" ]; then
  made=$policy
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
fi
mkdir -p "$folder"
echo 'create_main_cluster = false' > "$file"
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends "$1"
if command -v systemctl > /dev/null; then
  systemctl disable "$1" 2>/dev/null || true
fi
"#;

/// Installs the package and says why, or fails with what to do instead.
pub(crate) fn install(package: &str, reason: &str, instead: &str) -> Outcome {
    if sh::find("apt-get").is_none() || !(is_root() || may_become_root()) {
        return Err(Failure::new(format!("{reason}: {instead}")));
    }
    eprintln!("installing {package} through apt-get: {reason}");
    let mut command = sh::command(if is_root() { "sh" } else { "sudo" });
    if !is_root() {
        command.args(["-n", "sh"]);
    }
    command.args(["-c", SCRIPT, "sh", package]);
    // Standard output belongs to what the caller asked for.
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Failure::new(format!(
            "installing {package} through apt-get failed: {instead}"
        ))),
    }
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    sh::output(sh::command("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

fn may_become_root() -> bool {
    sh::find("sudo").is_some() && sh::succeeds(sh::command("sudo").args(["-n", "true"]))
}
