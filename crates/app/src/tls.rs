//! Requests over TLS: the certificate, and its replacement while the process runs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::TlsConfig;

/// Why a certificate is not used.
#[derive(Debug)]
pub enum TlsError {
    /// A file cannot be read, or is not PEM of what it should hold.
    File(PathBuf, FileFault),
    /// There is no certificate in the file.
    NoCertificate(PathBuf),
    /// The key does not fit the certificate, or neither is usable.
    Unusable(rustls::Error),
}

/// What is the matter with a file. Nothing of its content is in here, since it may be the private key's: what reads PEM quotes
/// the line that it stumbles over.
#[derive(Debug)]
pub enum FileFault {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It has nothing of the kind that is wanted.
    NothingInIt,
    /// It is not whole, its lines are not as they should be, or it is far too large.
    NotPem,
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::NothingInIt => f.write_str("there is none in it, as PEM"),
            Self::NotPem => f.write_str(
                "it is not whole, or not PEM: the lines with BEGIN and END, and those between them, have to be lines",
            ),
        }
    }
}

impl std::error::Error for FileFault {}

impl From<pem::Error> for FileFault {
    fn from(error: pem::Error) -> Self {
        match error {
            pem::Error::Io(error) => Self::Unreadable(error),
            pem::Error::NoItemsFound => Self::NothingInIt,
            // Whatever else it may be some day.
            _ => Self::NotPem,
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, _) => write!(f, "cannot use {}", path.display()),
            Self::NoCertificate(path) => write!(f, "there is no certificate in {}", path.display()),
            Self::Unusable(_) => f.write_str("the certificate and its key cannot be used"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(_, source) => Some(source),
            Self::NoCertificate(_) => None,
            Self::Unusable(source) => Some(source),
        }
    }
}

/// The certificate that new connections are shown. Its clones are the same.
#[derive(Clone, Debug)]
pub struct Certificate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: TlsConfig,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads it.
    pub fn read(config: TlsConfig) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(read(&config)?));
        Ok(Self(Arc::new(Shared { config, current })))
    }

    /// Reads it again. Where that fails the one that was read before goes on being shown; connections that are open keep
    /// theirs.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = Arc::new(read(&self.0.config)?);
        *self
            .0
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// What the listener needs.
    pub fn server_config(&self) -> Result<ServerConfig, TlsError> {
        Ok(
            ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(TlsError::Unusable)?
                .with_no_client_auth()
                .with_cert_resolver(self.0.clone()),
        )
    }
}

impl ResolvesServerCert for Shared {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.current.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

/// Reads certificate and key, and sees whether they fit each other.
fn read(config: &TlsConfig) -> Result<CertifiedKey, TlsError> {
    let of = |path: &Path| {
        let path = path.to_owned();
        move |error: pem::Error| TlsError::File(path, error.into())
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&config.certificate)
        .and_then(Iterator::collect)
        .map_err(of(&config.certificate))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(config.certificate.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(of(&config.key))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(TlsError::Unusable)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use leadr_auth_service::Chain;

    use super::*;

    fn write(folder: &Path, name: &str) -> TlsConfig {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let config = TlsConfig {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
        };
        fs::write(&config.certificate, made.cert.pem()).unwrap();
        fs::write(&config.key, made.signing_key.serialize_pem()).unwrap();
        config
    }

    fn shown(certificate: &Certificate) -> Vec<u8> {
        let current = certificate.0.current.read().unwrap();
        current.cert[0].as_ref().to_vec()
    }

    #[test]
    fn a_reload_shows_the_new_one_and_keeps_the_old_one_where_the_new_is_bad() {
        let folder = tempfile::tempdir().unwrap();
        let config = write(folder.path(), "one.test");
        let certificate = Certificate::read(config.clone()).unwrap();
        certificate.server_config().unwrap();
        let first = shown(&certificate);
        write(folder.path(), "two.test");
        certificate.reload().unwrap();
        let second = shown(&certificate);
        assert_ne!(first, second);
        fs::write(&config.certificate, "half a file").unwrap();
        assert!(matches!(
            certificate.reload(),
            Err(TlsError::File(..) | TlsError::NoCertificate(_))
        ));
        assert_eq!(shown(&certificate), second);
    }

    /// As by whoever keeps a key in an environment variable. What reads PEM quotes the line that it stumbles over.
    #[test]
    fn a_broken_private_key_is_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let config = write(folder.path(), "one.test");
        let key = fs::read_to_string(&config.key).unwrap();
        let in_one_line = key.replace('\n', " ");
        let half = key.get(..key.len() / 2).unwrap().to_owned();
        let short_line = in_one_line.get(..60).unwrap().to_owned();
        for broken in [in_one_line, half, short_line, "no key".to_owned()] {
            fs::write(&config.key, &broken).unwrap();
            let error = Certificate::read(config.clone()).unwrap_err();
            let told = format!("{} {error:?}", Chain(&error));
            assert!(told.contains("key.pem"), "{told}");
            for quoted in [&broken, &format!("{:?}", broken.as_bytes())] {
                let quoted = quoted.trim_matches(['[', ']']);
                for start in 0..quoted.len().saturating_sub(20) {
                    let part = quoted.get(start..start + 20).unwrap();
                    assert!(!told.contains(part), "{part} in {told}");
                }
            }
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = write(folder.path(), "one.test");
        let key = fs::read(&config.key).unwrap();
        write(folder.path(), "two.test");
        fs::write(&config.key, key).unwrap();
        assert!(matches!(
            Certificate::read(config),
            Err(TlsError::Unusable(_))
        ));
    }
}
