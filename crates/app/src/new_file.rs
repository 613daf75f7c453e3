//! Files that are there whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// The folder that a path is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A file for its owner's eyes only that is being written, and gets its name when it is whole. Dropping it takes it away.
pub(crate) struct NewFile {
    path: PathBuf,
    file: NamedTempFile,
}

impl NewFile {
    /// Begins one that will be at `path`, under a name with this prefix that nobody has: a number of this process would not
    /// do, since in a container every process has the same, and one that was killed may have left its file.
    pub(crate) fn begin(path: &Path, prefix: &str) -> io::Result<Self> {
        let file = tempfile::Builder::new()
            .prefix(prefix)
            .tempfile_in(folder_of(path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Gives it its name, when all of it is on the disk. [`io::ErrorKind::AlreadyExists`] where something has that name.
    pub(crate) fn keep(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        let Self { path, file } = self;
        file.persist_noclobber(&path).map_err(|error| error.error)?;
        // The name is on the disk only when the folder is.
        File::open(folder_of(&path))?.sync_all()
    }

    /// Gives it its name, when all of it is on the disk, in the place of what has that name.
    pub(crate) fn replace(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        let Self { path, file } = self;
        file.persist(&path).map_err(|error| error.error)?;
        File::open(folder_of(&path))?.sync_all()
    }

    /// Makes it somebody's, and lets others do this much with it.
    pub(crate) fn give_to(&self, user: u32, group: u32, others: u32) -> io::Result<()> {
        let file = self.file.as_file();
        let is_whose = file.metadata()?;
        if (is_whose.uid(), is_whose.gid()) != (user, group) {
            fchown(file, Some(user), Some(group))?;
        }
        file.set_permissions(Permissions::from_mode(0o600 | others))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
