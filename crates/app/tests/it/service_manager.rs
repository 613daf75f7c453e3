//! The end, and what a service manager and a load balancer see of it.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::support::{ANYWHERE, Place, Running, status};

/// What has been said to the manager by now, waiting for the first of it.
fn heard(socket: &UnixDatagram) -> String {
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut bytes = [0; 1024];
    let length = socket.recv(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
}

#[tokio::test]
async fn the_manager_hears_of_being_ready_and_of_the_end() {
    let place = Place::new();
    let socket = UnixDatagram::bind(place.path("notify")).unwrap();
    let address = place.text("notify");
    let mut running = place.serve(&[], &[ANYWHERE, ("NOTIFY_SOCKET", &address)]);
    assert_eq!(heard(&socket), "READY=1");
    let base = running.base();
    let ready = reqwest::get(format!("{base}/readyz")).await.unwrap();
    assert_eq!(ready.status(), 200);
    running.signal("-TERM");
    assert_eq!(heard(&socket), "STOPPING=1");
    let (ended, log) = running.wait();
    assert_eq!(ended.code(), Some(0), "{log}");
}

/// While the store is away there is nothing to hear but the end.
#[test]
fn nothing_is_ready_before_it_is() {
    let place = Place::new();
    let socket = UnixDatagram::bind(place.path("notify")).unwrap();
    let address = place.text("notify");
    let environment = [
        ANYWHERE,
        ("NOTIFY_SOCKET", address.as_str()),
        ("DATABASE_URL", "postgres://user@127.0.0.1:1/db"),
        ("API_KEY_SECRET", "a secret for tests, of 32 bytes and more"),
    ];
    let mut running = place.serve(&[], &environment);
    running.base();
    std::thread::sleep(Duration::from_millis(1200));
    running.signal("-TERM");
    assert_eq!(heard(&socket), "STOPPING=1");
    let (ended, log) = running.wait();
    assert_eq!(ended.code(), Some(0), "{log}");
    assert_eq!(log.matches("the store is away").count(), 1, "{log}");
}

/// A manager that is not there is no reason not to serve.
#[tokio::test]
async fn a_manager_that_does_not_listen_is_only_a_warning() {
    let place = Place::new();
    let nowhere = place.text("nowhere");
    let mut running = place.serve(&[], &[ANYWHERE, ("NOTIFY_SOCKET", &nowhere)]);
    let base = running.base();
    let key = running.first_key();
    assert_eq!(status(&base, &key).await, 200);
    let (ended, log) = running.end("-TERM");
    assert_eq!(ended.code(), Some(0));
    assert!(log.contains("cannot tell the service manager"), "{log}");
}

/// A load balancer has the time to notice before anybody is turned away.
#[tokio::test]
async fn during_the_grace_it_is_not_ready_and_serves_all_the_same() {
    let place = Place::new();
    let environment = [ANYWHERE, ("SHUTDOWN_GRACE_SECONDS", "2")];
    let mut running = place.serve(&[], &environment);
    let base = running.base();
    let key = running.first_key();
    let ready = async || {
        reqwest::get(format!("{base}/readyz"))
            .await
            .unwrap()
            .status()
    };
    assert_eq!(ready().await, 200);
    let start = Instant::now();
    running.signal("-TERM");
    while ready().await == 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut served = 0;
    while start.elapsed() < Duration::from_millis(1500) {
        assert_eq!(status(&base, &key).await, 200);
        assert_eq!(ready().await, 503);
        served += 1;
    }
    assert!(served > 2, "{served}");
    assert!(!running.has_ended());
    let (ended, log) = running.wait();
    assert_eq!(ended.code(), Some(0), "{log}");
    assert!(start.elapsed() >= Duration::from_secs(2));
}

/// A connection that is open and idle is nothing to wait for.
#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let mut running = Running::start(&[], &[ANYWHERE]);
    let base = running.base();
    running.first_key();
    let client = reqwest::Client::new();
    let answer = client.get(format!("{base}/livez")).send().await.unwrap();
    assert!(!answer.text().await.unwrap().is_empty());
    let start = Instant::now();
    let (ended, log) = running.end("-TERM");
    assert_eq!(ended.code(), Some(0), "{log}");
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    drop(client);
}

#[tokio::test]
async fn a_hangup_without_anything_to_read_changes_nothing() {
    let secret = ("API_KEY_SECRET", "a secret for tests, of 32 bytes and more");
    let mut running = Running::start(&[], &[ANYWHERE, secret]);
    let base = running.base();
    let key = running.first_key();
    for _ in 0..3 {
        running.signal("-HUP");
        assert_eq!(status(&base, &key).await, 200);
    }
    let (ended, log) = running.end("-TERM");
    assert_eq!(ended.code(), Some(0));
    for words in ["no certificate to read again", "no secrets to read again"] {
        assert!(log.contains(words), "{log}");
    }
}

/// Whoever copies the file of a server that was stopped has everything.
#[test]
fn a_stopped_server_leaves_one_whole_file() {
    for _ in 0..20 {
        let place = Place::new();
        place.make_store();
        for left in ["data/leadr-auth.db-wal", "data/leadr-auth.db-shm"] {
            assert!(!place.path(left).exists(), "{left} was left behind");
        }
    }
}
