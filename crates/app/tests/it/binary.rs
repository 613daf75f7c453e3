//! Start, first key, signals, exit codes.

use crate::support::{ANYWHERE, Place, Running, complaints};

/// For a look at it, nothing needs to be kept: a key, and a curl line that works when pasted.
#[tokio::test]
async fn in_memory_it_prints_a_curl_line_that_works() {
    let mut running = Running::start(&[], &[ANYWHERE, ("DATABASE_URL", "memory:")]);
    let base = running.base();
    let line = running.wait_for("curl ");
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[..2], ["curl", "-s"]);
    assert_eq!(words[2], format!("{base}/v1/accounts"));
    assert_eq!(words[3..5], ["-H", "'leadr-api-key:"]);
    let key = words[5].trim_end_matches('\'');
    let answer = reqwest::Client::new()
        .get(words[2])
        .header("leadr-api-key", key)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let accounts: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(accounts[0]["slug"], "operator");
    assert!(
        running.said.iter().any(|line| line.contains("random")),
        "the secret is mentioned"
    );
    let (status, _) = running.end("-TERM");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn both_signals_end_it_with_exit_code_0() {
    for signal in ["-TERM", "-INT"] {
        let mut running = Running::start(&["serve"], &[ANYWHERE]);
        running.base();
        running.wait_for("curl ");
        let (status, log) = running.end(signal);
        assert_eq!(status.code(), Some(0), "{signal}: {log}");
        assert!(log.contains("stopping"), "{log}");
    }
}

/// A request that is underway when the signal comes is answered.
#[tokio::test]
async fn a_request_that_is_underway_is_answered() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let mut running = Running::start(&[], &[ANYWHERE, ("WORKERS", "1")]);
    let base = running.base();
    let line = running.wait_for("curl ");
    let key = line
        .split_whitespace()
        .last()
        .unwrap()
        .trim_end_matches('\'')
        .to_owned();
    let address = base.trim_start_matches("http://");
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let body = r#"{"name":"Late","slug":"late"}"#;
    let head = format!(
        "POST /v1/accounts HTTP/1.1\r\nHost: x\r\nleadr-api-key: {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    // The signal comes when the head has arrived and the body has not.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let ending = std::thread::spawn(move || running.end("-TERM"));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    socket.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let (status, _) = ending.join().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn wrong_configuration_is_exit_code_2_with_all_faults_and_no_values() {
    let environment = [
        (
            "DATABASE_URL",
            "postgres://user:hunter2@localhost/db?sslmode=hunter3",
        ),
        ("API_KEY_SECRET", "hunter4"),
        ("SUPERADMIN_API_KEY", "hunter5"),
        ("LISTEN", "hunter6"),
    ];
    let output = Place::new().run(&["serve"], &environment);
    assert_eq!(output.code, Some(2));
    let told = output.err;
    for (name, _) in environment {
        assert!(told.contains(&format!("{name}:")), "{name}: {told}");
    }
    assert!(!told.contains("hunter"), "{told}");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [
        &["serve", "--nonsense"][..],
        &["dance"],
        &["serve", "--workers"],
    ] {
        let output = Place::new().run(arguments, &[]);
        assert_eq!(output.code, Some(2), "{arguments:?}");
    }
}

#[test]
fn an_address_that_is_taken_is_exit_code_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Place::new().run(&["serve", "--listen", &address], &[]);
    assert_eq!(output.code, Some(1));
    let told = output.err;
    assert!(
        told.contains(&format!("cannot listen on {address}")),
        "{told}"
    );
}

#[test]
fn help_names_the_settings_and_the_exit_codes() {
    for arguments in [&["--help"][..], &["serve", "--help"]] {
        let output = Place::new().run(arguments, &[]);
        assert_eq!(output.code, Some(0));
        let help = output.out;
        for word in ["API_KEY_SECRET", "SUPERADMIN_API_KEY", "Exit codes"] {
            assert!(help.contains(word), "{word}: {help}");
        }
    }
    let output = Place::new().run(&["serve", "--help"], &[]);
    let help = output.out;
    for word in ["DATABASE_URL", "LISTEN", "WORKERS", "POOL_SIZE", "RUST_LOG"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}

/// Whoever reaches the port can send anything. That is no error of the server's, and its own lines are there all the same.
#[tokio::test]
async fn what_is_no_request_leaves_no_error_in_the_log() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let mut running = Running::start(&[], &[ANYWHERE, ("DATABASE_URL", "memory:")]);
    let base = running.base();
    let address = base.trim_start_matches("http://");
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(200_000));
    let garbage: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no TLS is spoken here\r\n\r\n",
        b"\0\xff\xfe\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /v1/verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n",
        endless.as_bytes(),
    ];
    for bytes in garbage {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        // It may have been closed before everything was sent.
        let _ = socket.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
    }
    let answer = reqwest::get(format!("{base}/v1/me")).await.unwrap();
    assert_eq!(answer.status(), 401);
    let (_, log) = running.end("-TERM");
    let complaints = complaints(&log);
    assert!(complaints.is_empty(), "{complaints:?}");
    assert!(log.contains("\"/v1/me\""), "{log}");
}

#[test]
fn migrate_without_a_database_says_so() {
    let output = Place::new().run(&["migrate"], &[("DATABASE_URL", "memory:")]);
    assert_eq!(output.code, Some(0));
    // Port 1 refuses: a database that is away is a failure here, not something to wait for.
    let away = [("DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/db")];
    let output = Place::new().run(&["migrate"], &away);
    assert_eq!(output.code, Some(5));
    let told = output.err;
    assert!(
        told.contains("the schema is not up to date") && !told.contains("hunter2"),
        "{told}"
    );
}
