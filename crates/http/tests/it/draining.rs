//! What happens to connections while the process is about to end. Only a socket shows it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use actix_web::HttpServer;
use actix_web::dev::ServerHandle;
use actix_web::rt::System;
use leadr_auth_http::app;
use leadr_auth_service::{Phase, Readiness};

use crate::support::Api;

const REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

struct Served {
    address: SocketAddr,
    readiness: Readiness,
    handle: ServerHandle,
    thread: JoinHandle<()>,
}

impl Served {
    fn new() -> Self {
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            System::new().block_on(async {
                let api = Api::new().await;
                let state = api.state();
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                let server = HttpServer::new(move || app(state.clone()))
                    .workers(1)
                    .disable_signals()
                    .listen(listener)
                    .unwrap()
                    .run();
                let readiness = api.service.readiness().clone();
                tell.send((address, readiness, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (address, readiness, handle) = told.recv().unwrap();
        Self {
            address,
            readiness,
            handle,
            thread,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).unwrap();
        stream
    }

    fn stop(self) {
        drop(self.handle.stop(false));
        self.thread.join().unwrap();
    }
}

/// Reads one answer and leaves the connection open.
fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(br#"{"status":"alive"}"#) {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed");
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap().to_lowercase()
}

/// Reads until the server closes.
fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.to_lowercase()
}

#[test]
fn a_connection_is_kept_until_the_process_is_about_to_end() {
    let served = Served::new();
    let mut idle = served.connect();
    for _ in 0..2 {
        idle.write_all(REQUEST).unwrap();
        let kept = answer(&mut idle);
        assert!(kept.starts_with("http/1.1 200"), "{kept}");
        assert!(!kept.contains("connection:"), "{kept}");
    }
    served.readiness.set(Phase::Stopping);
    idle.write_all(REQUEST).unwrap();
    let last = answer(&mut idle);
    assert!(last.contains("\r\nconnection: close\r\n"), "{last}");
    assert_eq!(rest(&mut idle), "", "the server closes");
    // Whoever comes new is served as well, once.
    let mut new = served.connect();
    new.write_all(REQUEST).unwrap();
    assert!(answer(&mut new).contains("\r\nconnection: close\r\n"));
    assert_eq!(rest(&mut new), "");
    served.stop();
}

#[test]
fn requests_that_were_sent_ahead_end_with_the_connection() {
    let served = Served::new();
    served.readiness.set(Phase::Stopping);
    let mut stream = served.connect();
    stream.write_all(&REQUEST.repeat(2)).unwrap();
    let first = answer(&mut stream);
    assert!(first.contains("\r\nconnection: close\r\n"), "{first}");
    // What had arrived before the answer went out may still be answered; then it is over.
    let rest = rest(&mut stream);
    assert_eq!(
        rest.is_empty(),
        !rest.contains("\r\nconnection: close\r\n"),
        "{rest}"
    );
    served.stop();
}
