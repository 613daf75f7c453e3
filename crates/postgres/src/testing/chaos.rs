//! A proxy between a pool and its database.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Open,
    BlackHole,
}

/// Forwards TCP connections to a database until it is told to fail.
pub struct ChaosProxy {
    target: Arc<str>,
    address: SocketAddr,
    line: watch::Sender<Line>,
    /// Accepts and forwards; `None` while the line is cut.
    forwarder: Option<JoinHandle<()>>,
}

impl ChaosProxy {
    /// Starts one in front of the database of this URL, on a port of its own.
    pub async fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut proxy = Self {
            target: super::address(url).into(),
            address: listener.local_addr().expect("a bound port"),
            line: watch::channel(Line::Open).0,
            forwarder: None,
        };
        proxy.forward(listener);
        proxy
    }

    /// The URL of the same database, by way of the proxy.
    pub fn url(&self, url: &str) -> String {
        let (scheme, rest) = url.split_once("://").expect("a URL as postgres://…");
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let user = authority
            .rsplit_once('@')
            .map_or(String::new(), |(user, _)| format!("{user}@"));
        format!("{scheme}://{user}{}/{path}", self.address)
    }

    /// Closes every connection and refuses new ones, as a server does that has been stopped.
    pub async fn cut(&mut self) {
        if let Some(forwarder) = self.forwarder.take() {
            forwarder.abort();
            // Over when the sockets are closed.
            let _ = forwarder.await;
        }
    }

    /// Keeps connections and accepts new ones, and forwards nothing, as a network does that loses everything.
    pub fn black_hole(&self) {
        self.line.send_replace(Line::BlackHole);
    }

    /// Lets everything through again, on the same port.
    pub async fn restore(&mut self) {
        self.line.send_replace(Line::Open);
        if self.forwarder.is_none() {
            let listener = TcpListener::bind(self.address)
                .await
                .expect("nobody took the port meanwhile");
            self.forward(listener);
        }
    }

    fn forward(&mut self, listener: TcpListener) {
        let (target, line) = (Arc::clone(&self.target), self.line.subscribe());
        self.forwarder = Some(tokio::spawn(async move {
            // Dropped with this task, and with it every connection.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(connect(client, Arc::clone(&target), line.clone()));
            }
        }));
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        if let Some(forwarder) = self.forwarder.take() {
            forwarder.abort();
        }
    }
}

async fn connect(client: TcpStream, target: Arc<str>, mut line: watch::Receiver<Line>) {
    if line.wait_for(|line| *line == Line::Open).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(&*target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Either end closes both: the first that is over drops the other.
    tokio::select! {
        () = pump(from_client, to_server, line.clone()) => {}
        () = pump(from_server, to_client, line) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if line.wait_for(|line| *line == Line::Open).await.is_err() {
            return;
        }
        tokio::select! {
            // What was read before the line changed its state is forwarded; what was not stays in the socket.
            changed = line.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            read = from.read(&mut buffer) => match read {
                Ok(length @ 1..) => {
                    let Some(bytes) = buffer.get(..length) else { return };
                    if to.write_all(bytes).await.is_err() {
                        return;
                    }
                }
                Ok(0) | Err(_) => return,
            },
        }
    }
}
