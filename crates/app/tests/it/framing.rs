//! Requests that one program reads in one way and the next in another, written byte by byte: `tests/fixtures/framing.json`.
//! `cargo xtask framing` sends the same behind reverse proxies.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{ANYWHERE, Running, call};

const CORPUS: &str = include_str!("../../../../tests/fixtures/framing.json");

/// One thing to send, and what has to come of it.
#[derive(Deserialize)]
struct Case {
    name: String,
    send: Vec<Piece>,
    /// With which of these statuses the first answer may come; `null` for none.
    status: Vec<Option<u16>>,
    /// How many requests the service sees in it: what it refuses before it is one does not count.
    requests: usize,
    /// Whether the connection is closed afterwards. Where this is not said, it does not matter.
    closed: Option<bool>,
    /// Nothing more comes after it.
    #[serde(default)]
    half_close: bool,
}

/// Characters up to U+00FF are bytes; `{key}`, `{victim}` and `{account}` are put in.
#[derive(Deserialize)]
#[serde(untagged)]
enum Piece {
    Once(String),
    Many { repeat: String, times: usize },
}

impl Case {
    fn bytes(&self, fill: &impl Fn(&str) -> String) -> Vec<u8> {
        let text = |piece: &Piece| match piece {
            Piece::Once(text) => fill(text),
            Piece::Many { repeat, times } => fill(repeat).repeat(*times),
        };
        let text: String = self.send.iter().map(text).collect();
        text.chars()
            .map(|c| u8::try_from(u32::from(c)).unwrap())
            .collect()
    }
}

/// The statuses of the answers in what was received, but for `100 Continue`.
fn statuses(received: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(received);
    let answers = text.split("HTTP/1.").skip(1);
    answers
        .map(|answer| answer[2..5].parse().unwrap())
        .filter(|status| *status != 100)
        .collect()
}

/// Reads until there are so many answers, or until the connection is closed: what came, and whether it is closed.
fn receive(stream: &mut TcpStream, answers: Option<usize>) -> (Vec<u8>, bool) {
    let mut received = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while answers.is_none_or(|answers| statuses(&received).len() < answers) {
        match stream.read(&mut buffer) {
            Ok(0) => return (received, true),
            Ok(read) => received.extend(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("no more comes: {:?}", String::from_utf8_lossy(&received))
            }
            Err(_) => return (received, true),
        }
    }
    (received, false)
}

/// Asks for something harmless, and sees that exactly that is answered.
fn mark(stream: &mut TcpStream, id: &str) {
    let request = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: {id}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let (received, _) = receive(stream, Some(1));
    let text = String::from_utf8_lossy(&received).into_owned();
    assert!(
        text.contains(&format!("x-request-id: {id}\r\n")),
        "{id}: {text}"
    );
}

#[tokio::test]
async fn a_connection_is_cut_into_requests_in_one_way_only() {
    let corpus: Vec<Case> = serde_json::from_str(CORPUS).unwrap();
    assert!(corpus.len() >= 60);
    let settings = [
        ANYWHERE,
        ("DATABASE_URL", "memory:"),
        // Requests are told apart by their order in the log.
        ("WORKERS", "1"),
        ("BODY_TIMEOUT_MS", "500"),
    ];
    let mut running = Running::start(&[], &settings);
    let base = running.base();
    let key = running.first_key();
    let address = base.strip_prefix("http://").unwrap();
    let body = json!({"name": "Victims", "slug": "victims"});
    let (_, made) = call("POST", &format!("{base}/v1/accounts"), &key, Some(body)).await;
    let account = made["id"].as_str().unwrap();
    let body = json!({"name": "Victim", "account_id": account});
    let (_, made) = call("POST", &format!("{base}/v1/api-keys"), &key, Some(body)).await;
    let victim = made["id"].as_str().unwrap();
    let fill = |text: &str| {
        let text = text.replace("{key}", &key).replace("{victim}", victim);
        text.replace("{account}", account)
    };
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).unwrap();
        stream.set_write_timeout(patience).unwrap();
        stream
    };

    let mut marks = connect();
    for case in &corpus {
        let name = &case.name;
        mark(&mut marks, name);
        let mut stream = connect();
        // It may be refused before all of it was sent.
        let _ = stream.write_all(&case.bytes(&fill));
        if case.half_close {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let answers = (case.closed != Some(true)).then_some(case.requests.max(1));
        let (received, closed) = receive(&mut stream, answers);
        let statuses = statuses(&received);
        assert!(
            case.status.contains(&statuses.first().copied()),
            "{name}: {statuses:?}"
        );
        assert!(statuses.iter().all(|status| *status < 500), "{name}");
        match case.closed {
            Some(true) => assert!(closed, "{name} leaves the connection open"),
            Some(false) => mark(&mut stream, &format!("{name}-open")),
            None => {}
        }
    }
    mark(&mut marks, "end");
    let (_, left) = call("GET", &format!("{base}/v1/api-keys/{victim}"), &key, None).await;
    assert_eq!(left["status"], "active");

    let (ended, log) = running.end("-TERM");
    assert_eq!(ended.code(), Some(0));
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut seen = Vec::new();
    for line in lines.filter(|line| line["target"] == "leadr_auth::access") {
        let id = line["request_id"].as_str().unwrap();
        if id == "end" || corpus.iter().any(|case| case.name == id) {
            seen.push((id.to_owned(), 0));
        } else if !id.ends_with("-open")
            && let Some((_, count)) = seen.last_mut()
        {
            *count += 1;
        }
    }
    for (case, (name, requests)) in corpus.iter().zip(&seen) {
        assert_eq!(&case.name, name);
        assert_eq!(case.requests, *requests, "{name}");
    }
    assert_eq!(seen.len(), corpus.len() + 1);
}
