//! HTTP as bytes: a client that sends whatever it is told to, an application that remembers what it was sent, and a service
//! that answers the same to everything.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long anything may take here.
const LIMIT: Duration = Duration::from_secs(20);

type Headers = Vec<(String, String)>;

/// The values of a header, whatever the case of its name.
fn values<'a>(headers: &'a Headers, name: &str) -> Vec<&'a str> {
    headers
        .iter()
        .filter(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
        .collect()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Headers,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        values(&self.headers, name)
    }
}

/// Sends the bytes, and reads one answer up to its end.
pub(crate) async fn ask(to: SocketAddr, request: &[u8]) -> Answer {
    let answer = async {
        let mut socket = TcpStream::connect(to).await.unwrap();
        // An answer may come, and the connection be closed, before all was sent.
        let _ = socket.write_all(request).await;
        let mut reader = Reader::new(socket);
        let (line, headers) = reader.head().await.unwrap_or_else(|| {
            panic!(
                "no answer to {}",
                String::from_utf8_lossy(&request[..request.len().min(200)])
            )
        });
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if request.starts_with(b"HEAD ") || status == 204 {
            Vec::new()
        } else {
            reader.body(&headers, true).await
        };
        Answer {
            status,
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    };
    tokio::time::timeout(LIMIT, answer).await.unwrap()
}

/// What the application was sent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        values(&self.headers, name)
    }
}

/// Something that listens, until it is dropped.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    /// An application, which says 200 to all.
    pub(crate) async fn application() -> Self {
        let body = "the application";
        Self::answering(Some(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )))
        .await
    }

    /// Answers everything with `answer`, or nothing at all.
    pub(crate) async fn answering(answer: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        let connections = Arc::new(AtomicUsize::new(0));
        let used = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (all, used) = (Arc::clone(&all), Arc::clone(&used));
                tokio::spawn(serve(socket, all, used, answer.clone()));
            }
        });
        Self {
            address,
            seen,
            connections,
            task,
        }
    }

    /// On how many connections a request ever came.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// What came since this was asked for last.
    pub(crate) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// The one request that came.
    #[track_caller]
    pub(crate) fn take_one(&self) -> Request {
        let mut seen = self.take();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

async fn serve(
    socket: TcpStream,
    seen: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
    answer: Option<String>,
) {
    let mut reader = Reader::new(socket);
    let mut is_first = true;
    while let Some((line, headers)) = reader.head().await {
        if std::mem::take(&mut is_first) {
            connections.fetch_add(1, Ordering::SeqCst);
        }
        let body = reader.body(&headers, false).await;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let is_head = method == "HEAD";
        let is_last = values(&headers, "connection").contains(&"close");
        seen.lock().unwrap().push(Request {
            method,
            target,
            headers,
            body,
        });
        let Some(answer) = &answer else {
            // Silence, for as long as the other side has patience.
            continue;
        };
        let end = if is_head {
            answer.find("\r\n\r\n").unwrap() + 4
        } else {
            answer.len()
        };
        let sent = reader.socket.write_all(&answer.as_bytes()[..end]).await;
        if sent.is_err() || is_last {
            break;
        }
    }
}

/// Reads messages off a connection.
struct Reader {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Reader {
    fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            read: Vec::new(),
        }
    }

    /// More bytes, or the end.
    async fn more(&mut self) -> Option<()> {
        match self.socket.read_buf(&mut self.read).await {
            Ok(n) if n > 0 => Some(()),
            _ => None,
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.read.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.read[..at]).into_owned();
                self.read.drain(..at + 2);
                return Some(line);
            }
            self.more().await?;
        }
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            self.more().await?;
        }
        Some(self.read.drain(..length).collect())
    }

    /// The first line and the headers; of an answer that says to go on, those of the one that follows.
    async fn head(&mut self) -> Option<(String, Headers)> {
        loop {
            let first = self.line().await?;
            let mut headers = Vec::new();
            loop {
                let line = self.line().await?;
                if line.is_empty() {
                    break;
                }
                let (name, value) = line.split_once(':').unwrap();
                headers.push((name.to_owned(), value.trim().to_owned()));
            }
            if !first.starts_with("HTTP/1.1 100") {
                return Some((first, headers));
            }
        }
    }

    async fn body(&mut self, headers: &Headers, to_the_end: bool) -> Vec<u8> {
        if let Some(length) = values(headers, "content-length").first() {
            return self.exactly(length.parse().unwrap()).await.unwrap();
        }
        if !values(headers, "transfer-encoding").is_empty() {
            let mut body = Vec::new();
            loop {
                let length = self.line().await.unwrap();
                let length = usize::from_str_radix(&length, 16).unwrap();
                body.extend(self.exactly(length).await.unwrap());
                self.line().await.unwrap();
                if length == 0 {
                    return body;
                }
            }
        }
        if to_the_end {
            while self.more().await.is_some() {}
            return std::mem::take(&mut self.read);
        }
        Vec::new()
    }
}
