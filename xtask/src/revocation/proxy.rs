//! A way to a server that can be cut without anybody being told.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use crate::sh::{Failure, Outcome};

/// How soon a change of the way is seen where nothing goes over it.
const LOOK: Duration = Duration::from_millis(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It arrives.
    Open,
    /// It is kept until the way is open again; nobody hears of an error. Connections can be made all the same.
    Silent,
    /// All connections end, and new ones do as soon as they are made.
    Cut,
}

impl Way {
    const fn number(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Silent => 1,
            Self::Cut => 2,
        }
    }
}

/// Passes connections to a port of its own on to another. It ends when it is dropped.
pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
}

struct State {
    way: AtomicU8,
    ended: AtomicBool,
}

impl State {
    fn is(&self, way: Way) -> bool {
        self.way.load(Ordering::SeqCst) == way.number()
    }

    fn is_over(&self) -> bool {
        self.ended.load(Ordering::SeqCst) || self.is(Way::Cut)
    }
}

impl Proxy {
    pub(crate) fn to(port: u16) -> Outcome<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.map_err(Failure::when("listening for a proxy"))?;
        let doing = "a proxy's port";
        listener
            .set_nonblocking(true)
            .map_err(Failure::when(doing))?;
        let address = listener.local_addr().map_err(Failure::when(doing))?;
        let state = Arc::new(State {
            way: AtomicU8::new(Way::Open.number()),
            ended: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        thread::spawn(move || accept(&listener, target, &shared));
        Ok(Self {
            port: address.port(),
            state,
        })
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, way: Way) {
        self.state.way.store(way.number(), Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, state: &Arc<State>) {
    while !state.ended.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((client, _)) if state.is(Way::Cut) => drop(client),
            Ok((client, _)) => {
                let state = Arc::clone(state);
                thread::spawn(move || pass_on(client, target, &state));
            }
            Err(_) => thread::sleep(LOOK),
        }
    }
}

/// An error on either side ends both, as it would for the two peers themselves.
fn pass_on(client: TcpStream, target: SocketAddr, state: &Arc<State>) {
    while state.is(Way::Silent) && !state.is_over() {
        thread::sleep(LOOK);
    }
    let Ok(server) = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) else {
        return;
    };
    let halves = client
        .try_clone()
        .and_then(|c| Ok((c, server.try_clone()?)));
    let Ok((client_too, server_too)) = halves else {
        return;
    };
    let shared = Arc::clone(state);
    thread::spawn(move || copy(server_too, client_too, &shared));
    copy(client, server, state);
}

fn copy(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut buffer = [0; 16 * 1024];
    let ready = from
        .set_nonblocking(false)
        .and_then(|()| from.set_read_timeout(Some(LOOK * 10)))
        .and_then(|()| to.set_nodelay(true));
    while ready.is_ok() && !state.is_over() {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        while state.is(Way::Silent) && !state.is_over() {
            thread::sleep(LOOK);
        }
        let sent = buffer.get(..read).unwrap_or_default();
        if state.is_over() || to.write_all(sent).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(stream: &mut TcpStream) -> Option<u8> {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok().map(|()| byte[0])
    }

    #[test]
    fn what_is_sent_waits_for_the_way_to_open_or_finds_it_cut() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Proxy::to(server.local_addr().unwrap().port()).unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        let (mut peer, _) = server.accept().unwrap();
        let short = Some(Duration::from_millis(300));
        peer.set_read_timeout(short).unwrap();

        client.write_all(&[1]).unwrap();
        assert_eq!(heard(&mut peer), Some(1));
        proxy.set(Way::Silent);
        client.write_all(&[2]).unwrap();
        assert_eq!(heard(&mut peer), None);
        proxy.set(Way::Open);
        assert_eq!(heard(&mut peer), Some(2));
        proxy.set(Way::Cut);
        peer.set_read_timeout(None).unwrap();
        assert_eq!(heard(&mut peer), None);
        assert_eq!(heard(&mut client), None);
    }
}
