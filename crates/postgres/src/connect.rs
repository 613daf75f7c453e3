//! What a URL says, and how a connection is made of it.

use std::{fmt, fs, future, io, iter::Peekable, str::Chars, sync::Arc};

use diesel::ConnectionError;
use diesel_async::AsyncPgConnection;
use percent_encoding::percent_decode_str;
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, Notification,
    config::{SslMode, SslNegotiation},
    error::SqlState,
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Why a URL is not acceptable. Nothing of the URL is in here, since there may be a password in any part of a mistyped
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlFault {
    /// It is not the URL of a PostgreSQL database.
    Malformed,
    /// It names no host, or where TLS is demanded only an address, which no certificate is looked at for.
    NoHost,
    /// Its `sslmode` is none that there is.
    UnknownSslMode,
    /// It says how TLS is to be done, and does not demand it.
    TlsNotDemanded,
    /// The file of its `sslrootcert` cannot be read, or is not one of certificates in PEM.
    RootsUnreadable,
    /// The file of its `sslrootcert` has no certificate in it.
    RootsEmpty,
    /// It demands TLS without an `sslrootcert`, and the system has no certificates of authorities.
    NoSystemRoots,
}

impl fmt::Display for UrlFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a URL as postgres://user:password@host:port/database",
            Self::NoHost => "a PostgreSQL URL without a host",
            Self::UnknownSslMode => {
                "its sslmode is none of disable, prefer, require, verify-ca and verify-full"
            }
            Self::TlsNotDemanded => {
                "its sslrootcert or sslnegotiation needs an sslmode that demands TLS: require, verify-ca or verify-full"
            }
            Self::RootsUnreadable => {
                "its sslrootcert names no file that can be read as certificates in PEM"
            }
            Self::RootsEmpty => "its sslrootcert names a file without a certificate in it",
            Self::NoSystemRoots => {
                "its sslmode demands TLS, and the system has no certificates of authorities: name a file of them as \
                 sslrootcert"
            }
        })
    }
}

impl std::error::Error for UrlFault {}

/// Where a database is, and whether TLS is spoken with it.
#[derive(Clone)]
pub(crate) struct Target {
    /// Host, user, password and the rest.
    pub(crate) config: Config,
    tls: Option<MakeRustlsConnect>,
}

/// Reads a URL. Its faults are named, never quoted. A file of root certificates is read here too, and not again later.
pub(crate) fn target(url: &str) -> Result<Target, UrlFault> {
    let (rest, wishes) = wishes(url)?;
    let mut config: Config = rest.parse().map_err(|_| UrlFault::Malformed)?;
    let names_host = !config.get_hosts().is_empty();
    if !names_host && (wishes.tls || config.get_hostaddrs().is_empty()) {
        return Err(UrlFault::NoHost);
    }
    let direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
    if !wishes.tls && (direct || wishes.roots.is_some()) {
        return Err(UrlFault::TlsNotDemanded);
    }
    let (mode, tls) = if wishes.tls {
        (SslMode::Require, Some(verifying(wishes.roots.as_deref())?))
    } else {
        (SslMode::Disable, None)
    };
    config.ssl_mode(mode);
    Ok(Target { config, tls })
}

/// What a URL says of TLS.
#[derive(Default)]
struct Wishes {
    /// Is it demanded?
    tls: bool,
    /// A file of root certificates, or `system`.
    roots: Option<String>,
}

impl Wishes {
    /// Takes a parameter, if it is one of ours. `tokio-postgres` would know no `sslrootcert`, and only those modes that
    /// verify nothing.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, UrlFault> {
        match key {
            "sslmode" => {
                self.tls = match value {
                    "disable" | "prefer" => false,
                    "require" | "verify-ca" | "verify-full" => true,
                    _ => return Err(UrlFault::UnknownSslMode),
                };
            }
            "sslrootcert" => self.roots = Some(value.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Parts what a URL, or a text of `key=value`s, says of TLS from the rest, for which there is a parser.
fn wishes(text: &str) -> Result<(String, Wishes), UrlFault> {
    for scheme in ["postgres://", "postgresql://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return wishes_of_url(scheme, rest);
        }
    }
    wishes_of_words(text)
}

fn wishes_of_url(scheme: &str, rest: &str) -> Result<(String, Wishes), UrlFault> {
    // As the parser does: all before the first `@` is user and password, whatever is in it.
    let (user, address) = match rest.split_once('@') {
        Some((user, address)) => (format!("{user}@"), address),
        None => (String::new(), rest),
    };
    if user.contains("sslmode=") || user.contains("sslrootcert=") {
        // An `@` in a parameter, unescaped. Who demands TLS must not be taken for a user of that name.
        return Err(UrlFault::Malformed);
    }
    let mut wishes = Wishes::default();
    let Some((address, parameters)) = address.split_once('?') else {
        return Ok((format!("{scheme}{rest}"), wishes));
    };
    let mut others = Vec::new();
    for parameter in parameters.split('&') {
        let taken = match parameter.split_once('=') {
            Some((key, value)) => wishes.take(&decoded(key)?, &decoded(value)?)?,
            None => false,
        };
        if !taken {
            others.push(parameter);
        }
    }
    let others = others.join("&");
    Ok((format!("{scheme}{user}{address}?{others}"), wishes))
}

fn decoded(text: &str) -> Result<String, UrlFault> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(String::from).map_err(|_| UrlFault::Malformed)
}

fn wishes_of_words(text: &str) -> Result<(String, Wishes), UrlFault> {
    let (mut wishes, mut others) = (Wishes::default(), String::new());
    let mut rest = text.chars().peekable();
    loop {
        skip_blanks(&mut rest);
        let mut key = String::new();
        while let Some(c) = rest.next_if(|c| !c.is_whitespace() && *c != '=') {
            key.push(c);
        }
        if key.is_empty() {
            // The parser would take anything that is left for the end, and pass it over.
            let end = rest.peek().is_none();
            return end.then_some((others, wishes)).ok_or(UrlFault::Malformed);
        }
        skip_blanks(&mut rest);
        rest.next_if_eq(&'=').ok_or(UrlFault::Malformed)?;
        skip_blanks(&mut rest);
        let value = value(&mut rest)?;
        if !wishes.take(&key, &value)? {
            let value = value.replace('\\', "\\\\").replace('\'', "\\'");
            others = format!("{others}{key}='{value}' ");
        }
    }
}

fn skip_blanks(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| c.is_whitespace()).is_some() {}
}

/// A value, which goes up to a blank or stands between `'`; a `\` takes the next character as it is.
fn value(rest: &mut Peekable<Chars<'_>>) -> Result<String, UrlFault> {
    let quoted = rest.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match rest.next_if(|c| quoted || !c.is_whitespace()) {
            Some('\'') if quoted => return Ok(value),
            Some('\\') => value.extend(rest.next()),
            Some(c) => value.push(c),
            None if quoted || value.is_empty() => return Err(UrlFault::Malformed),
            None => return Ok(value),
        }
    }
}

/// Speaks TLS with a server whose certificate is for its host name, and comes from one of the roots.
fn verifying(roots: Option<&str>) -> Result<MakeRustlsConnect, UrlFault> {
    let roots = match roots {
        None | Some("system") => system_roots()?,
        Some(path) => roots_of_file(path)?,
    };
    // The provider is named, because the process may have none, or another one.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    #[expect(
        clippy::expect_used,
        reason = "it fails for a provider without ciphers for a version, and ring has some for both"
    )]
    let mut config = builder
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    // What a server asks for where TLS comes first (`sslnegotiation=direct`); others take no notice.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(MakeRustlsConnect::new(config))
}

fn system_roots() -> Result<RootCertStore, UrlFault> {
    let mut roots = RootCertStore::empty();
    // What cannot be used is passed over: systems have old certificates that nobody can read any more.
    let (usable, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if usable == 0 {
        return Err(UrlFault::NoSystemRoots);
    }
    Ok(roots)
}

fn roots_of_file(path: &str) -> Result<RootCertStore, UrlFault> {
    let text = fs::read(path).map_err(|_| UrlFault::RootsUnreadable)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|_| UrlFault::RootsUnreadable)?;
        roots
            .add(certificate)
            .map_err(|_| UrlFault::RootsUnreadable)?;
    }
    if roots.is_empty() {
        return Err(UrlFault::RootsEmpty);
    }
    Ok(roots)
}

impl Target {
    /// Connects. The error says what the network or the server said, which is neither URL nor password.
    pub(crate) async fn connect(&self) -> Result<AsyncPgConnection, ConnectFault> {
        let connection = match &self.tls {
            None => {
                let (client, connection) =
                    (self.config.connect(NoTls).await).map_err(ConnectFault::of)?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
            Some(tls) => {
                let (client, connection) =
                    (self.config.connect(tls.clone()).await).map_err(ConnectFault::of)?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
        };
        connection.map_err(ConnectFault::Lost)
    }
}

/// A connection that is there to hear what the server tells. It closes when this is dropped.
pub(crate) struct Listener {
    /// For the statements that begin to listen.
    pub(crate) client: Client,
    told: UnboundedReceiver<Result<Notification, tokio_postgres::Error>>,
}

impl Listener {
    /// What is told next, in the order in which the server tells it; `None` after the end, which comes with the first error.
    /// A call that is dropped loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Result<Notification, tokio_postgres::Error>> {
        self.told.recv().await
    }
}

impl Target {
    /// Connects, to hear what the server tells.
    pub(crate) async fn listen(&self) -> Result<Listener, ConnectFault> {
        let (teller, told) = unbounded_channel();
        let client = match &self.tls {
            None => {
                let (client, connection) =
                    (self.config.connect(NoTls).await).map_err(ConnectFault::of)?;
                tokio::spawn(pass_on(connection, teller));
                client
            }
            Some(tls) => {
                let (client, connection) =
                    (self.config.connect(tls.clone()).await).map_err(ConnectFault::of)?;
                tokio::spawn(pass_on(connection, teller));
                client
            }
        };
        Ok(Listener { client, told })
    }
}

/// Drives a connection, and passes on what the server tells, until either end is gone. It reads also while nobody asks: the
/// server keeps for all databases what one who listens has not taken, and at some point takes no more changes.
async fn pass_on<S, T>(
    mut connection: Connection<S, T>,
    teller: UnboundedSender<Result<Notification, tokio_postgres::Error>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let message = tokio::select! {
            // A server that owes an answer and says nothing would be waited for, otherwise.
            () = teller.closed() => return,
            message = future::poll_fn(|context| connection.poll_message(context)) => message,
        };
        let told = match message {
            Some(Ok(AsyncMessage::Notification(told))) => Ok(told),
            Some(Ok(_)) => continue,
            Some(Err(error)) => Err(error),
            None => return,
        };
        let over = told.is_err();
        if teller.send(told).is_err() || over {
            return;
        }
    }
}

/// Why nobody listens.
#[derive(Debug)]
pub(crate) enum ListenFault {
    /// There is no connection.
    Connect(ConnectFault),
    /// The server refused a statement, or went away.
    Refused(tokio_postgres::Error),
}

impl fmt::Display for ListenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(fault) => fault.fmt(f),
            Self::Refused(_) => f.write_str("the database does not let this program listen"),
        }
    }
}

impl std::error::Error for ListenFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(fault) => fault.source(),
            Self::Refused(source) => Some(source),
        }
    }
}

impl ConnectFault {
    fn of(error: tokio_postgres::Error) -> Self {
        // It is an error of webpki, of which nothing but the name can be seen from here.
        let of_authority = matches!(
            tls_fault(&error),
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
                if other.0.to_string() == "CaUsedAsEndEntity"
        );
        if of_authority {
            Self::OfAuthority(error)
        } else {
            Self::Refused(error)
        }
    }

    /// Is it worth another try? It is not where somebody answered and will answer the same again.
    pub(crate) fn may_pass(&self) -> bool {
        let error = match self {
            Self::Refused(error) => error,
            Self::OfAuthority(_) => return false,
            Self::Lost(_) => return true,
        };
        match error.code() {
            Some(code) => [
                SqlState::CANNOT_CONNECT_NOW,
                SqlState::ADMIN_SHUTDOWN,
                SqlState::CRASH_SHUTDOWN,
                SqlState::TOO_MANY_CONNECTIONS,
            ]
            .contains(code),
            // Nobody answered; or what was said is not to be relied on, or is not what was demanded.
            None => match std::error::Error::source(error) {
                None => true,
                Some(source) => source.is::<io::Error>() && tls_fault(error).is_none(),
            },
        }
    }
}

/// What is wrong with the TLS that was spoken, if that is what it is.
fn tls_fault(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    std::error::Error::source(error)?
        .downcast_ref::<io::Error>()?
        .get_ref()?
        .downcast_ref()
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectFault {
    /// The server was not reached, or did not let us in.
    Refused(tokio_postgres::Error),
    /// The server showed the certificate of an authority as its own, which is what `openssl req -x509` makes by default.
    OfAuthority(tokio_postgres::Error),
    /// It let us in, and then went away.
    Lost(ConnectionError),
}

impl fmt::Display for ConnectFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused(_) => "the database was not reached, or refused the connection",
            Self::OfAuthority(_) => {
                "the server's certificate is that of an authority, which a server's must not be: make one with \
                 basicConstraints=critical,CA:FALSE, or one that comes from that authority"
            }
            Self::Lost(_) => "the database closed a new connection",
        })
    }
}

impl std::error::Error for ConnectFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(source) | Self::OfAuthority(source) => Some(source),
            Self::Lost(source) => Some(source),
        }
    }
}

impl From<ConnectFault> for ConnectionError {
    /// Diesel's error has room for a text only, so the whole chain of causes goes into it.
    fn from(fault: ConnectFault) -> Self {
        let mut text = fault.to_string();
        let mut cause = std::error::Error::source(&fault);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self::BadConnection(text)
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::{Host, TargetSessionAttrs};

    use super::*;
    use crate::PostgresConfig;

    #[test]
    fn urls_are_judged_and_never_quoted() {
        // A file that is there and holds no certificate.
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let empty = format!("postgres://me:hunter2@h/db?sslrootcert={here}&sslmode=verify-full");
        let words = format!("host=h password=hunter2 sslmode=verify-ca sslrootcert='{here}'");
        let cases = [
            ("postgres://me:hunter2@localhost/db", Ok(())),
            (
                "postgresql://me:hunter2@localhost:1/db?sslmode=prefer",
                Ok(()),
            ),
            ("postgres://me:hunter2@h/db?sslmode=disable&", Ok(())),
            ("postgres://me:hunter2?@h/db", Ok(())),
            ("hostaddr=127.0.0.1 password=hunter2", Ok(())),
            (
                "postgres://me:hunter2@h/db?sslmode=allow",
                Err(UrlFault::UnknownSslMode),
            ),
            (
                "host=h password=hunter2 sslmode='no tls'",
                Err(UrlFault::UnknownSslMode),
            ),
            (
                "postgres://me:hunter2@h/db?sslmode=verify-full&sslrootcert=/hunter2/no/file",
                Err(UrlFault::RootsUnreadable),
            ),
            (
                "postgres://me:hunter2@h/db?sslmode=require&sslrootcert=",
                Err(UrlFault::RootsUnreadable),
            ),
            (&empty, Err(UrlFault::RootsEmpty)),
            (&words, Err(UrlFault::RootsEmpty)),
            (
                "postgres://me:hunter2@h/db?sslrootcert=system",
                Err(UrlFault::TlsNotDemanded),
            ),
            (
                "postgres://me:hunter2@h/db?sslmode=prefer&sslnegotiation=direct",
                Err(UrlFault::TlsNotDemanded),
            ),
            (
                "hostaddr=127.0.0.1 password=hunter2 sslmode=verify-full",
                Err(UrlFault::NoHost),
            ),
            (
                "postgres://h/db?sslmode=verify-full&sslrootcert=/a@b/hunter2",
                Err(UrlFault::Malformed),
            ),
            (
                "postgres://me:hunter2@h/db?sslmode=%ff",
                Err(UrlFault::Malformed),
            ),
            (
                "postgres://me:hunter2@h/db?sslmode",
                Err(UrlFault::Malformed),
            ),
            ("postgres://me:hunter2@h:port/db", Err(UrlFault::Malformed)),
            ("mysql://me:hunter2@h/db", Err(UrlFault::Malformed)),
            ("host=h password='hunter2", Err(UrlFault::Malformed)),
            ("host=h password=", Err(UrlFault::Malformed)),
            ("=hunter2", Err(UrlFault::Malformed)),
            ("user=me password=hunter2", Err(UrlFault::NoHost)),
            ("", Err(UrlFault::NoHost)),
        ];
        for (url, expected) in cases {
            let judged = PostgresConfig::check_url(url);
            assert_eq!(judged, expected, "{url}");
            if let Err(fault) = judged {
                assert!(!format!("{fault} {fault:?}").contains("hunter2"));
            }
            let config = PostgresConfig::new(url);
            assert!(!format!("{config:?}").contains("hunter2"));
        }
    }

    #[test]
    fn tls_is_demanded_of_the_system_unless_a_file_is_named() {
        for mode in ["require", "verify-ca", "verify%2Dfull"] {
            for roots in ["", "&sslrootcert=system", "&ssl%72ootcert=s%79stem"] {
                let url = format!("postgres://h/db?application_name=x&sslmode={mode}{roots}");
                match target(&url) {
                    Ok(target) => {
                        assert!(target.tls.is_some());
                        assert_eq!(target.config.get_ssl_mode(), SslMode::Require);
                        assert_eq!(target.config.get_application_name(), Some("x"));
                    }
                    // A bare machine.
                    Err(fault) => assert_eq!(fault, UrlFault::NoSystemRoots),
                }
            }
        }
    }

    #[test]
    fn what_is_not_of_tls_is_left_as_it_is() {
        let odd = r"a b'c\d";
        let text = format!(
            "host = h sslmode=disable user='{}' password=x\\ y dbname=d",
            odd.replace('\\', r"\\").replace('\'', r"\'")
        );
        for text in [
            text.as_str(),
            "postgres://a%20b'c%5Cd:x%20y@h/d?sslmode=disable",
        ] {
            let config = target(text).map(|target| target.config).unwrap();
            assert_eq!(config.get_user(), Some(odd));
            assert_eq!(config.get_password(), Some(&b"x y"[..]));
            assert_eq!(config.get_dbname(), Some("d"));
            assert_eq!(config.get_ssl_mode(), SslMode::Disable);
        }
    }

    /// The server that takes writes, of a cluster's.
    #[test]
    fn several_servers_and_which_of_them_is_meant_are_left_as_they_are() {
        for text in [
            "postgres://me:pw@one:1,two,[::1]:3/d?target_session_attrs=read-write&sslmode=disable",
            "postgres://me:pw@one:1,two,[::1]:3/d?sslmode=prefer&target_session_attrs=read%2Dwrite&connect_timeout=3",
            "host=one,two,::1 port=1,,3 user=me password=pw target_session_attrs=read-write sslmode=disable dbname=d",
            "host='one,two,::1' port='1,5432,3' user=me sslmode = disable target_session_attrs = 'read-write' dbname=d",
        ] {
            let config = target(text).unwrap().config;
            let hosts = ["one", "two", "::1"].map(|host| Host::Tcp(host.to_owned()));
            assert_eq!(config.get_hosts(), hosts, "{text}");
            assert_eq!(config.get_ports(), [1, 5432, 3], "{text}");
            let wanted = config.get_target_session_attrs();
            assert_eq!(wanted, TargetSessionAttrs::ReadWrite, "{text}");
            assert_eq!(config.get_dbname(), Some("d"));
        }
        let any = target("postgres://one,two/d").unwrap().config;
        assert_eq!(any.get_target_session_attrs(), TargetSessionAttrs::Any);
        assert_eq!(any.get_hosts().len(), 2);
        let fault = target("postgres://one/d?target_session_attrs=primary").err();
        assert_eq!(fault, Some(UrlFault::Malformed));
    }
}
