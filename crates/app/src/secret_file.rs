//! The server's secret in a file: reading it, and making one that nobody has.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use leadr_auth_domain::{Pepper, WeakPepper};
use leadr_auth_ports::{Entropy, EntropyError};

use crate::new_file::NewFile;

/// What group and others may do with a file.
pub(crate) const FOR_OTHERS: u32 = 0o077;

/// Why there is no secret in a file. Nothing of its content is in here.
#[derive(Debug)]
pub enum SecretFileFault {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It is not text.
    NotText,
    /// What it holds is too short.
    Weak(WeakPepper),
}

impl fmt::Display for SecretFileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot be read ({})", error.kind()),
            Self::NotText => f.write_str("is not UTF-8 text"),
            Self::Weak(fault) => write!(f, "holds a secret that is {fault}"),
        }
    }
}

impl std::error::Error for SecretFileFault {}

/// Whether a secret looks like one that a machine made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// It does, as far as its look tells.
    Random,
    /// It has so few different characters that somebody typed it, or a part of it many times.
    Repetitive,
}

impl Strength {
    /// The fewest different characters of a random secret: 64 random hexadecimal digits have fewer than these once in 10^20.
    const MIN_DISTINCT: usize = 10;

    /// What `secret` looks like.
    pub fn of(secret: &str) -> Self {
        let distinct: HashSet<char> = secret.chars().collect();
        if distinct.len() < Self::MIN_DISTINCT {
            Self::Repetitive
        } else {
            Self::Random
        }
    }

    /// What the worst of them looks like.
    pub fn of_all<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut strengths = secrets.into_iter().map(Self::of);
        if strengths.any(|strength| strength == Self::Repetitive) {
            Self::Repetitive
        } else {
            Self::Random
        }
    }
}

/// The secret in `path`: the whole file but for blanks and line breaks at its ends.
pub fn read(path: &Path) -> Result<(Pepper, Strength), SecretFileFault> {
    let text = read_text(path)?;
    let pepper = Pepper::new(&text).map_err(SecretFileFault::Weak)?;
    Ok((pepper, Strength::of(&text)))
}

/// As [`read`], the secret as it is written down, which may be too short to be one.
pub(crate) fn read_text(path: &Path) -> Result<String, SecretFileFault> {
    let bytes = fs::read(path).map_err(SecretFileFault::Unreadable)?;
    let text = str::from_utf8(&bytes).map_err(|_| SecretFileFault::NotText)?;
    Ok(text.trim().to_owned())
}

/// Why no secret was made.
#[derive(Debug)]
pub enum MakeSecretError {
    /// There were no random bytes.
    Entropy(EntropyError),
    /// The file could not be written.
    Write(PathBuf, io::Error),
}

impl fmt::Display for MakeSecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entropy(_) => f.write_str("there is nothing to make a secret of"),
            Self::Write(path, _) => write!(f, "cannot write a new secret to {}", path.display()),
        }
    }
}

impl std::error::Error for MakeSecretError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Entropy(source) => Some(source),
            Self::Write(_, source) => Some(source),
        }
    }
}

/// Writes a new secret to `path`, for the owner's eyes only. What is there already is not overwritten, and a crash leaves
/// either all of the secret or no file of that name.
pub fn make(path: &Path, entropy: &dyn Entropy) -> Result<(), MakeSecretError> {
    let secret = random(entropy).map_err(MakeSecretError::Entropy)?;
    write_new(path, &secret).map_err(|error| MakeSecretError::Write(path.to_owned(), error))
}

fn write_new(path: &Path, secret: &str) -> io::Result<()> {
    let mut file = NewFile::begin(path, ".secret-")?;
    file.write_all(format!("{secret}\n").as_bytes())?;
    file.keep()
}

/// 32 random bytes as 64 hexadecimal digits.
pub fn random(entropy: &dyn Entropy) -> Result<String, EntropyError> {
    let (mut high, mut low) = ([0; 16], [0; 16]);
    entropy.fill(&mut high)?;
    entropy.fill(&mut low)?;
    let (high, low) = (u128::from_be_bytes(high), u128::from_be_bytes(low));
    Ok(format!("{high:032x}{low:032x}"))
}

/// The permission bits that group and others have on `path`.
pub(crate) fn for_others(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & FOR_OTHERS)
}

#[cfg(test)]
mod tests {
    use leadr_auth_memory::system::SeededEntropy;

    use super::*;

    #[test]
    fn a_made_secret_is_private_strong_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        make(&path, &SeededEntropy::new(1)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim().len(), 64);
        assert_eq!(for_others(&path).unwrap(), 0);
        let (pepper, strength) = read(&path).unwrap();
        assert_eq!(strength, Strength::Random);
        assert!(pepper.matches(&Pepper::new(text.trim()).unwrap().check()));
        assert!(make(&path, &SeededEntropy::new(2)).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left over"
        );
    }

    #[test]
    fn a_typed_secret_looks_like_one() {
        assert_eq!(Strength::of(&"abc".repeat(20)), Strength::Repetitive);
        assert_eq!(
            Strength::of("correct horse battery staple, twice"),
            Strength::Random
        );
    }

    #[test]
    fn a_file_without_a_secret_is_named_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(matches!(read(&path), Err(SecretFileFault::Unreadable(_))));
        fs::write(&path, "hunter2\n").unwrap();
        let fault = read(&path).unwrap_err();
        assert!(matches!(fault, SecretFileFault::Weak(_)));
        assert!(!format!("{fault} {fault:?}").contains("hunter2"));
        fs::write(&path, [0xff; 40]).unwrap();
        assert!(matches!(read(&path), Err(SecretFileFault::NotText)));
    }
}
