//! What there is on the disk, what could be made there, and who else can use it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{self, Path};

use anyhow::Context as _;
use leadr_auth_sqlite::{OpenError, OpenFault};

use super::{Findings, Status};
use crate::config::{SECRET_FILE, StorageConfig, StoreConfig};
use crate::new_file::folder_of;
use crate::storage::{
    DataDirError, check_data_dir, could_make_data_dir, could_make_file_in, is_there,
};

/// Can others use a file with a secret that the service did not make? Its group may read it, since that is how it is let at
/// such a file where it is not the owner.
pub(super) fn examine_mode(check: &'static str, path: &Path, findings: &mut Findings) {
    // Whether it can be read is told by whoever reads it.
    let Ok(metadata) = fs::metadata(path) else {
        return;
    };
    let mode = metadata.permissions().mode() & 0o777;
    let can = match (mode & 0o006, mode & 0o020) {
        (0, 0) => return,
        (0, _) => "its group write it",
        _ => "every user of this machine read or write it",
    };
    let path = path.display();
    let what = format!("the mode of {path}, {mode:03o}, lets {can}: chmod g-w,o= {path}");
    findings.add(check, Status::Warning, what);
}

/// Answers whether what is in it can be looked at.
pub(super) fn examine_data_dir(storage: &StorageConfig, findings: &mut Findings) -> bool {
    if !storage.uses_data_dir() {
        return true;
    }
    let (check, path) = ("data directory", &storage.data_dir);
    let (examined, state) = if fs::symlink_metadata(path).is_err() {
        (
            could_make_data_dir(path),
            "is made when a server first starts",
        )
    } else {
        // Its mode alone does not tell whether it is ours.
        let looked_into = check_data_dir(path).and_then(|()| {
            is_there(&path.join(SECRET_FILE))
                .map(drop)
                .map_err(|error| DataDirError::Io(path.clone(), error))
        });
        (looked_into, "is its owner's only")
    };
    match examined {
        Ok(()) => {
            findings.add(check, Status::Ok, format!("{} {state}", path.display()));
            true
        }
        Err(error) => {
            findings.fail(check, &error.into());
            false
        }
    }
}

/// Where a server that starts makes a database, if `error` is no more than that there is none.
pub(super) fn database_to_be_made<'a>(
    storage: &'a StorageConfig,
    error: &anyhow::Error,
) -> Option<&'a Path> {
    let StoreConfig::Sqlite(sqlite) = &storage.store else {
        return None;
    };
    let path = sqlite.path.as_path();
    let is_missing = error
        .downcast_ref::<OpenError>()
        .is_some_and(|error| matches!(error.fault, OpenFault::Missing));
    (is_missing || is_made_with_data_dir(storage, folder_of(path))).then_some(path)
}

/// Is the folder still to be made, and is it when the data directory is? No other is made.
fn is_made_with_data_dir(storage: &StorageConfig, folder: &Path) -> bool {
    let within = || Ok(path::absolute(&storage.data_dir)?.starts_with(path::absolute(folder)?));
    let within: io::Result<bool> = within();
    storage.uses_data_dir()
        && within.is_ok_and(|within| within)
        && is_there(folder).is_ok_and(|is_there| !is_there)
}

/// Could a database be made where there is none, or an empty file, which is taken for one?
pub(super) fn could_make_database(path: &Path) -> anyhow::Result<()> {
    let could = || {
        if is_there(path)? {
            let file = fs::canonicalize(path)?;
            OpenOptions::new().append(true).open(&file)?;
            could_make_file_in(folder_of(&file))
        } else if is_there(folder_of(path))? {
            could_make_file_in(folder_of(path))
        } else {
            // That the data directory could be made is known by now.
            Ok(())
        }
    };
    let could: io::Result<()> = could();
    could.with_context(|| format!("no database can be made in {}", path.display()))
}
