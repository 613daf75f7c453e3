//! The server's secrets in a file: reading it, and putting a new secret into it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use leadr_auth_domain::{Keyring, KeyringFault, PepperId};
use serde::{Deserialize, Serialize};

use crate::new_file::{NewFile, folder_of};
use crate::secret_file::Strength;

/// Something wrong with a keyring file. Nothing of its content is in here but the ids of secrets, and these only where they
/// are of their form.
#[derive(Debug)]
pub enum KeyringFileFault {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It is no JSON, or not of the form. What the parser says of it may quote it.
    Malformed {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// What is to be the current secret's id is none.
    MalformedCurrent,
    /// The id of the secret at this place, counted from 1, is none.
    MalformedId(usize),
    /// The secrets cannot be used together.
    Keyring(KeyringFault),
}

impl fmt::Display for KeyringFileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot be read ({})", error.kind()),
            Self::Malformed { line, column } => write!(
                f,
                "is not of the form {{\"current\": ID, \"secrets\": [{{\"id\": ID, \"secret\": SECRET}}, …]}}, seen at line \
                 {line} column {column}"
            ),
            Self::MalformedCurrent => {
                write!(f, "\"current\": {}", KeyringFault::MalformedId)
            }
            Self::MalformedId(place) => {
                write!(f, "secret number {place}: {}", KeyringFault::MalformedId)
            }
            Self::Keyring(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for KeyringFileFault {}

/// What the file holds.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    current: String,
    secrets: Vec<Entry>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    secret: String,
}

/// Secrets as they are written down.
pub struct Secrets(Content);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} of them)", self.0.secrets.len())
    }
}

/// The secrets in `path`, or everything that is wrong with them.
pub fn read(path: &Path) -> Result<(Keyring, Strength), Vec<KeyringFileFault>> {
    Secrets::read(path)?.keyring()
}

impl Secrets {
    /// A single one, whose id is the default one.
    pub fn of_one(secret: &str) -> Self {
        let id = PepperId::DEFAULT.to_owned();
        Self(Content {
            current: id.clone(),
            secrets: vec![Entry {
                id,
                secret: secret.to_owned(),
            }],
        })
    }

    /// Reads what is in `path`.
    pub fn read(path: &Path) -> Result<Self, Vec<KeyringFileFault>> {
        let bytes = fs::read(path).map_err(|error| vec![KeyringFileFault::Unreadable(error)])?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            vec![KeyringFileFault::Malformed {
                line: error.line(),
                column: error.column(),
            }]
        })
    }

    /// Puts them together, or says everything that is wrong with them.
    pub fn keyring(&self) -> Result<(Keyring, Strength), Vec<KeyringFileFault>> {
        let mut faults = Vec::new();
        let mut secrets = Vec::new();
        for (place, Entry { id, secret }) in (1..).zip(&self.0.secrets) {
            let id = PepperId::parse(id).unwrap_or_else(|_| {
                faults.push(KeyringFileFault::MalformedId(place));
                // No other has this one, so that the secret can still be looked at.
                PepperId::from_store(format!("number {place}"))
            });
            secrets.push((id, secret.as_str()));
        }
        let current = PepperId::parse(&self.0.current);
        if current.is_err() {
            faults.push(KeyringFileFault::MalformedCurrent);
        }
        let is_malformed = current.is_err();
        let current = current.unwrap_or_default();
        match Keyring::new(&current, secrets.iter().cloned()) {
            Ok(keyring) if faults.is_empty() => {
                let texts = secrets.iter().map(|(_, secret)| *secret);
                Ok((keyring, Strength::of_all(texts)))
            }
            Ok(_) => Err(faults),
            Err(more) => {
                let follows = |fault: &KeyringFault| {
                    is_malformed && matches!(fault, KeyringFault::MissingCurrent(_))
                };
                let more = more.into_iter().filter(|fault| !follows(fault));
                faults.extend(more.map(KeyringFileFault::Keyring));
                Err(faults)
            }
        }
    }

    /// Has a secret this id?
    pub fn has(&self, id: &PepperId) -> bool {
        self.0.secrets.iter().any(|entry| entry.id == id.as_str())
    }

    /// Adds a secret, which is the current one from now on.
    pub fn rotate(&mut self, id: &PepperId, secret: String) {
        id.as_str().clone_into(&mut self.0.current);
        self.0.secrets.push(Entry {
            id: id.as_str().to_owned(),
            secret,
        });
    }

    /// Writes them to `path`, whole or not at all. What is there is replaced, and keeps its owner, its group, and that its
    /// group may read it; a new file is its owner's only.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        // A link goes on leading to where the secrets are.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut file = NewFile::begin(&path, ".keyring-")?;
        let text = serde_json::to_string_pretty(&self.0)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        match fs::metadata(&path) {
            Ok(there) => {
                file.give_to(there.uid(), there.gid(), there.permissions().mode() & 0o040)?;
                file.replace()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => file.keep(),
            Err(error) => Err(error),
        }
    }
}

/// Keeps others from putting a secret into the file at `path` for as long as the answer lives: of two at once, one would be
/// lost, and with it the keys that were made meanwhile.
pub fn lock(path: &Path) -> io::Result<File> {
    let folder = File::open(folder_of(path))?;
    folder.lock()?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "hunter1, the old secret, of 32 bytes or so";
    const NEW: &str = "hunter2, the new secret, of 32 bytes or so";

    fn faults(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyring");
        fs::write(&path, text).unwrap();
        let faults = read(&path).unwrap_err();
        let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
        let all = format!("{told:?} {faults:?}");
        assert!(!all.contains("hunter"), "{all}");
        told
    }

    #[test]
    fn a_ring_comes_out_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyring");
        let text = format!(
            r#"{{"current": "new", "secrets": [{{"id": "old", "secret": "{OLD}"}}, {{"id": "new", "secret": "{NEW}"}}]}}"#
        );
        fs::write(&path, text).unwrap();
        let (ring, strength) = read(&path).unwrap();
        assert_eq!(ring.current_id().as_str(), "new");
        assert_eq!(ring.retired_ids().count(), 1);
        assert_eq!(strength, Strength::Random);
    }

    #[test]
    fn all_that_is_wrong_is_told_and_nothing_of_it_repeated() {
        let pair = |id: &str, secret: &str| format!(r#"{{"id": "{id}", "secret": "{secret}"}}"#);
        let file = |current: &str, pairs: &[String]| {
            format!(
                r#"{{"current": "{current}", "secrets": [{}]}}"#,
                pairs.join(",\n")
            )
        };
        let told = faults(&file(
            "new",
            &[
                pair("a", OLD),
                pair("a", NEW),
                pair("b", OLD),
                pair("c", "hunter3"),
                pair("hunter 4", "hunter5"),
            ],
        ));
        let expected = [
            "number 5: the id",
            "two secrets have the id a",
            "the secrets a and b are the same",
            "the secret c is",
            "the secret number 5 is",
            "there is no secret new",
        ];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.contains(expected), "{expected}: {told}");
        }
        let told = faults(&file("hunter 6", &[pair("a", OLD)]));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("\"current\""), "{told:?}");
        // Also where they could be used together.
        let secrets = [
            pair("a", OLD),
            pair("hunter 7", NEW),
            pair("hunter 8", "hunter9, another one, of 32 bytes or so"),
        ];
        let told = faults(&file("a", &secrets));
        let expected = ["number 2: the id", "number 3: the id"];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.contains(expected), "{expected}: {told}");
        }
        assert_eq!(faults(r#"{"current": "a", "secrets": []}"#).len(), 1);
        for malformed in [
            String::new(),
            OLD.to_owned(),
            format!("{{\n\"{OLD}\": 1}}"),
            r#"{"current": "hunter7"}"#.to_owned(),
            r#"{"current": "a", "secrets": "hunter8"}"#.to_owned(),
            r#"{"current": "a", "secrets": [], "hunter9": 1}"#.to_owned(),
            r#"{"current": "a", "current": "hunter", "secrets": []}"#.to_owned(),
            file(
                "a",
                &[r#"{"id": "a", "secret": "x", "hunter": 1}"#.to_owned()],
            ),
        ] {
            let told = faults(&malformed);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains("seen at line "), "{told:?}");
        }
    }

    #[test]
    fn a_file_is_replaced_whole_and_stays_who_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyring");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let mut secrets = Secrets::of_one(OLD);
        secrets.write(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read(&path).unwrap().0.current_id(), &PepperId::default());
        for (before, after) in [(0o640, 0o640), (0o666, 0o640), (0o400, 0o600)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
            secrets.write(&path).unwrap();
            assert_eq!(mode(&path), after);
        }
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        secrets.rotate(&PepperId::parse("new").unwrap(), NEW.to_owned());
        secrets.write(&link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let (ring, _) = read(&path).unwrap();
        assert_eq!(ring.current_id().as_str(), "new");
        assert!(ring.get(&PepperId::default()).is_some());
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            2,
            "nothing is left over"
        );
    }

    #[test]
    fn nobody_shows_secrets_by_accident() {
        let shown = format!("{:?}", Secrets::of_one(OLD));
        assert!(!shown.contains("hunter"), "{shown}");
    }
}
