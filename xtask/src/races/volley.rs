//! Requests that arrive at once.
//!
//! All but the last byte of each is sent ahead, over connections that are open already: the server has read who asks, and waits
//! for the end of the body. The last bytes then follow one another within microseconds, and in another order each time.

use std::io::{self, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::chance::Chance;
use crate::http::{self, Answer};
use crate::sh::{Failure, Outcome};

const TIMEOUT: Duration = Duration::from_mins(1);
/// The longest that the servers are left with what was sent ahead, in microseconds: by then they have read it, or they have not.
const AHEAD: u64 = 2_000;

/// Open connections, in turn to one node after the other.
pub(crate) struct Volley {
    lanes: Vec<(SocketAddr, BufReader<TcpStream>)>,
}

/// What was answered.
pub(crate) struct Landed {
    /// In the order of the requests.
    pub(crate) answers: Vec<Answer>,
    /// Whether nothing had been answered when the last byte of the last request was sent.
    pub(crate) at_once: bool,
}

impl Volley {
    pub(crate) fn open(nodes: &[SocketAddr], lanes: usize) -> Outcome<Self> {
        let open = |address: &SocketAddr| Ok((*address, open(*address)?));
        let lanes = nodes.iter().cycle().take(lanes).map(open);
        let lanes: io::Result<_> = lanes.collect();
        Ok(Self {
            lanes: lanes.map_err(Failure::when("connecting to a node"))?,
        })
    }

    /// Sends one request over each connection, as many as there are.
    pub(crate) fn release(&mut self, requests: &[String], chance: &mut Chance) -> Outcome<Landed> {
        self.exchange(requests, chance)
            .map_err(Failure::when("requests at once"))
    }

    fn exchange(&mut self, requests: &[String], chance: &mut Chance) -> io::Result<Landed> {
        let mut last = Vec::new();
        for ((address, lane), request) in self.lanes.iter_mut().zip(requests) {
            // A server closes what nobody has used for a while.
            if has_answered(lane.get_ref())? {
                *lane = open(*address)?;
            }
            let (end, ahead) = request.as_bytes().split_last().unwrap_or((&b'\n', &[]));
            lane.get_mut().write_all(ahead)?;
            last.push((lane, *end));
        }
        thread::sleep(Duration::from_micros(chance.below(AHEAD)));
        let mut order: Vec<usize> = (0..last.len()).collect();
        for place in (1..order.len()).rev() {
            order.swap(place, chance.index(place + 1));
        }
        for place in order {
            if let Some((lane, end)) = last.get_mut(place) {
                lane.get_mut().write_all(&[*end])?;
            }
        }
        let mut at_once = true;
        for (lane, _) in &last {
            at_once &= !has_answered(lane.get_ref())?;
        }
        let mut answers = Vec::new();
        for (lane, _) in last {
            let (answer, stays) = http::read_answer(lane)?;
            if !stays {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            answers.push(answer);
        }
        Ok(Landed { answers, at_once })
    }
}

fn open(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// Is there something to be read, or the end?
fn has_answered(stream: &TcpStream) -> io::Result<bool> {
    stream.set_nonblocking(true)?;
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    match peeked {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::sync::Barrier;

    use super::*;

    /// A server that answers no request before it has all of them tells that they were underway together.
    #[test]
    fn requests_are_underway_together() {
        const LANES: usize = 3;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let all_here = Barrier::new(LANES);
        thread::scope(|scope| {
            let all_here = &all_here;
            scope.spawn(move || {
                for _ in 0..LANES {
                    let (mut stream, _) = listener.accept().unwrap();
                    scope.spawn(move || {
                        let mut read = [0; 4];
                        stream.read_exact(&mut read).unwrap();
                        all_here.wait();
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{}",
                            String::from_utf8_lossy(&read)
                        );
                        stream.write_all(answer.as_bytes()).unwrap();
                    });
                }
            });
            let mut volley = Volley::open(&[address], LANES).unwrap();
            let requests = ["one.", "two.", "six."].map(str::to_owned);
            let landed = volley.release(&requests, &mut Chance::new(1)).unwrap();
            let bodies: Vec<&str> = landed.answers.iter().map(|it| it.body.as_str()).collect();
            assert_eq!(bodies, requests);
        });
    }
}
