//! Requests over TLS, and a certificate that is replaced while they come.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use crate::support::{ANYWHERE, Place, Running};

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Makes a certificate for `localhost`, and puts it where the server is told to look.
fn new_certificate(place: &Place) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    place.write("key.pem", made.signing_key.serialize_pem());
    place.write("cert.pem", made.cert.pem());
    made.cert.der().clone()
}

fn serve(place: &Place) -> (Running, String, String) {
    let environment = [ANYWHERE, ("TLS_CERT", "cert.pem"), ("TLS_KEY", "key.pem")];
    let mut running = place.serve(&[], &environment);
    let base = running.base();
    let key = running.first_key();
    let address = base.strip_prefix("https://").unwrap().to_owned();
    (running, address, key)
}

/// A connection by somebody who trusts this certificate alone.
fn connect(
    address: &str,
    trusted: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Stream, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut stream = StreamOwned::new(client, socket);
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(stream)
}

/// The status with which a call with this key is answered. The connection stays open.
fn ask(stream: &mut Stream, key: &str) -> u16 {
    write!(
        stream,
        "GET /v1/accounts HTTP/1.1\r\nHost: localhost\r\nleadr-api-key: {key}\r\n\r\n"
    )
    .unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "the connection was closed");
        bytes.extend(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length: usize = head
            .lines()
            .find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse().unwrap())
            })
            .unwrap();
        if body.len() >= length {
            return head.split(' ').nth(1).unwrap().parse().unwrap();
        }
    }
}

#[test]
fn requests_come_over_tls_of_both_versions_and_not_without() {
    let place = Place::new();
    let certificate = new_certificate(&place);
    let (mut running, address, key) = serve(&place);
    assert!(running.wait_for("curl ").contains("https://"));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = connect(&address, &certificate, &[version]).unwrap();
        assert_eq!(ask(&mut stream, &key), 200);
        assert_eq!(ask(&mut stream, "ldr_wrong"), 401);
    }
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    assert!(connect(&address, stranger.cert.der(), rustls::ALL_VERSIONS).is_err());
    // Whoever speaks plainly gets no answer.
    let mut plain = TcpStream::connect(&address).unwrap();
    plain
        .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let (ended, _) = running.end("-TERM");
    assert_eq!(ended.code(), Some(0));
}

/// Whoever opens a connection and says nothing is let go, and however many do that at once, nobody else waits for it.
#[test]
fn handshakes_that_do_not_come_hold_up_nobody() {
    let place = Place::new();
    let certificate = new_certificate(&place);
    let environment = [
        ANYWHERE,
        ("TLS_CERT", "cert.pem"),
        ("TLS_KEY", "key.pem"),
        ("WORKERS", "1"),
    ];
    let mut running = place.serve(&[], &environment);
    let base = running.base();
    let key = running.first_key();
    let address = base.strip_prefix("https://").unwrap();
    // More than `actix-tls` accepts at once unless told otherwise.
    let mut silent: Vec<_> = (0..600)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let begun = std::time::Instant::now();
    std::thread::sleep(Duration::from_millis(500));
    let mut stream = connect(address, &certificate, rustls::ALL_VERSIONS).unwrap();
    assert_eq!(ask(&mut stream, &key), 200);
    let first = silent.first_mut().unwrap();
    first.set_nonblocking(true).unwrap();
    let still_open = first.read(&mut [0; 16]);
    assert!(
        still_open.is_err(),
        "the call was answered after the silent ones were let go"
    );
    for mut stream in silent {
        stream.set_nonblocking(false).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let timed_out = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "it is still open");
    }
    assert!(begun.elapsed() < Duration::from_secs(15));
    drop(running);
}

/// Waits for the log to be long enough that a signal has been dealt with: until a new connection is shown this certificate.
fn shown(address: &str, certificate: &CertificateDer<'static>) -> bool {
    for _ in 0..500 {
        if connect(address, certificate, rustls::ALL_VERSIONS).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn a_new_certificate_is_for_new_connections_and_a_broken_one_for_nobody() {
    let place = Place::new();
    let first = new_certificate(&place);
    let (running, address, key) = serve(&place);
    let mut old = connect(&address, &first, rustls::ALL_VERSIONS).unwrap();
    assert_eq!(ask(&mut old, &key), 200);

    let second = new_certificate(&place);
    // Before anybody says so, nothing changes.
    assert!(connect(&address, &first, rustls::ALL_VERSIONS).is_ok());
    running.signal("-HUP");
    assert!(shown(&address, &second));
    assert!(connect(&address, &first, rustls::ALL_VERSIONS).is_err());
    assert_eq!(ask(&mut old, &key), 200, "an old connection goes on");

    // In one line, as from an environment variable.
    let private = std::fs::read_to_string(place.path("key.pem")).unwrap();
    place.write("key.pem", private.replace('\n', " "));
    running.signal("-HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert!(connect(&address, &second, rustls::ALL_VERSIONS).is_ok());
    std::fs::remove_file(place.path("cert.pem")).unwrap();
    running.signal("-HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert!(connect(&address, &second, rustls::ALL_VERSIONS).is_ok());
    let third = new_certificate(&place);
    running.signal("-HUP");
    assert!(shown(&address, &third));
    assert_eq!(ask(&mut old, &key), 200);
    drop(old);

    let (ended, log) = running.end("-TERM");
    assert_eq!(ended.code(), Some(0), "{log}");
    assert_eq!(
        log.matches("the certificate stays as it was").count(),
        2,
        "{log}"
    );
    assert_eq!(
        log.matches("read the certificate again").count(),
        2,
        "{log}"
    );
    let body = private.lines().nth(1).unwrap();
    for quoted in [body.to_owned(), format!("{:?}", body.as_bytes())] {
        let part = quoted.trim_matches('[').get(..30).unwrap();
        assert!(!log.contains(part), "{log}");
    }
}
