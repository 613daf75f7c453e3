//! A proxy that speaks TLS, so that a server without it can be asked by it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// What a client sends that asks for TLS: its length, and a number of its own.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Forwards TLS connections to a database that speaks none. Who does not ask for TLS is not served.
pub struct TlsProxy {
    address: SocketAddr,
    root: PathBuf,
    forwarder: JoinHandle<()>,
}

impl TlsProxy {
    /// Starts one in front of the database of this URL, on a port of its own, with a certificate for these names or
    /// addresses that comes from an authority of its own.
    pub async fn start(url: &str, names: &[&str]) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let authority =
            CertifiedIssuer::self_signed(authority, key).expect("an authority can be made");
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params(names)
            .signed_by(&key, &authority)
            .expect("a certificate can be signed");
        Self::present(url, &certificate, &key, &authority.pem()).await
    }

    /// As [`TlsProxy::start`], with a certificate that comes from nobody else, so that it is its own root. It says of itself
    /// whether it is that of an `authority`, which it is where openssl makes one by default.
    pub async fn start_self_signed(url: &str, names: &[&str], authority: bool) -> Self {
        let mut params = params(names);
        params.is_ca = if authority {
            IsCa::Ca(BasicConstraints::Unconstrained)
        } else {
            IsCa::ExplicitNoCa
        };
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params
            .self_signed(&key)
            .expect("a certificate can be signed");
        Self::present(url, &certificate, &key, &certificate.pem()).await
    }

    async fn present(url: &str, certificate: &Certificate, key: &KeyPair, root_pem: &str) -> Self {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .expect("the key is the certificate's");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let name = format!("{} root.pem", super::unique_name());
        let root = std::env::temp_dir().join(name);
        std::fs::write(&root, root_pem).expect("a temporary file can be written");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let forwarder = tokio::spawn(forward(listener, acceptor, super::address(url)));
        Self {
            address,
            root,
            forwarder,
        }
    }

    /// The file of the certificate that its own comes from. Its name has a blank in it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The URL of the same database, by way of the proxy, with these parameters.
    pub fn url(&self, url: &str, parameters: &str) -> String {
        let (scheme, rest) = url.split_once("://").expect("a URL as postgres://…");
        let (rest, _) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let user = authority
            .rsplit_once('@')
            .map_or(String::new(), |(user, _)| format!("{user}@"));
        format!("{scheme}://{user}{}/{path}?{parameters}", self.address)
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.forwarder.abort();
        let _ = std::fs::remove_file(&self.root);
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("valid names")
}

async fn forward(listener: TcpListener, acceptor: TlsAcceptor, target: String) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (acceptor, target) = (acceptor.clone(), target.clone());
        connections.spawn(async move {
            // Whatever goes wrong, the client notices it by the end of its connection.
            let _ = serve(client, &acceptor, &target).await;
        });
    }
}

async fn serve(mut client: TcpStream, acceptor: &TlsAcceptor, target: &str) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut request = [0; TLS_REQUEST.len()];
    client.read_exact(&mut request).await?;
    if request != TLS_REQUEST {
        return Ok(());
    }
    client.write_all(b"S").await?;
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
