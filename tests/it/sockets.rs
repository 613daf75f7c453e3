//! What a client can do to a socket, byte by byte.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::System;

/// Sends `parts` with a pause before each but the first, and reads until the server closes or is silent.
async fn talk(system: &System, parts: &[&str], pause: Duration) -> String {
    let mut socket = TcpStream::connect(system.address).await.unwrap();
    for (n, part) in parts.iter().enumerate() {
        if n > 0 {
            tokio::time::sleep(pause).await;
        }
        // The server may have answered and closed already.
        let _ = socket.write_all(part.as_bytes()).await;
    }
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(Duration::from_secs(2), socket.read(&mut buffer)).await;
        match read {
            Ok(Ok(n)) if n > 0 => answer.extend_from_slice(&buffer[..n]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn head(system: &System, rest: &str) -> String {
    format!(
        "POST /v1/api-keys HTTP/1.1\r\nHost: x\r\nleadr-api-key: {}\r\nContent-Type: application/json\r\n{rest}\r\n\r\n",
        system.operator
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_arrive_is_answered_and_cut_off() {
    let system = System::start("memory:", &[("BODY_TIMEOUT_MS", "300")]).await;
    system.ready_within(Duration::from_secs(30)).await;
    let started = Instant::now();
    let head = head(&system, "Content-Length: 1000");
    let answer = talk(&system, &[&head, "{", " ", " "], Duration::from_millis(150)).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("body_timeout"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(10));
    system.get("/livez", None).await.expect(200);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunked_body_is_bounded_too() {
    let system = System::on_memory().await;
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    let head = head(&system, "Transfer-Encoding: chunked");
    let mut parts = vec![head.as_str()];
    parts.extend(std::iter::repeat_n(chunk.as_str(), 6));
    let answer = talk(&system, &parts, Duration::ZERO).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_are_none_are_told_apart_from_slow_ones() {
    let system = System::on_memory().await;
    for path in ["/v1/api-keys", "/v1/verify", "/v1/verify/batch"] {
        let head = head(&system, "Transfer-Encoding: chunked").replace("/v1/api-keys", path);
        let answer = talk(&system, &[&head, "zz\r\n"], Duration::from_millis(50)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        assert!(answer.contains("malformed_body"), "{path}: {answer}");
    }
    system.stop().await;
}

/// The server closes the connection after a request for another protocol, and so it has to say that it will.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_is_not_spoken() {
    let system = System::on_memory().await;
    for path in ["/v1/forward-auth", "/v1/me"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nleadr-api-key: {}\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
            system.operator
        );
        let answer = talk(&system, &[&request], Duration::ZERO).await;
        assert!(answer.starts_with("HTTP/1.1 20"), "{path}: {answer}");
        let headers = answer.to_ascii_lowercase();
        assert!(
            headers.contains("\r\nconnection: close\r\n"),
            "{path}: {answer}"
        );
    }
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_400_or_cut_off_and_harms_nobody() {
    let system = System::on_memory().await;
    for garbage in [
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /v1/api-keys HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}",
    ] {
        let answer = talk(&system, &[garbage], Duration::ZERO).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{garbage:?}: {answer}"
        );
    }
    system.get("/livez", None).await.expect(200);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_the_target_is_neither_used_nor_echoed() {
    let system = System::on_memory().await;
    let request = format!(
        "GET /v1/accounts?api_key={0}&leadr-api-key={0} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        system.operator
    );
    let answer = talk(&system, &[&request], Duration::ZERO).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(!answer.contains(&system.operator), "{answer}");
    system.stop().await;
}
