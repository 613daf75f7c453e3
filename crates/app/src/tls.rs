//! Requests over TLS: the certificate, and its replacement while the process runs.

use std::fmt;
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
    File(PathBuf, pem::Error),
    /// There is no certificate in the file.
    NoCertificate(PathBuf),
    /// The key does not fit the certificate, or neither is usable.
    Unusable(rustls::Error),
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
        move |error| TlsError::File(path, error)
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
