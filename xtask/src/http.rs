//! A small HTTP client for servers on this machine: one connection, kept open, and one request at a time on it.
//!
//! It never repeats a request. What it reports is what happened once.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Where the key goes in a request.
pub(crate) const KEY_HEADER: &str = "leadr-api-key";

const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to an address of this machine, opened when it is needed.
pub(crate) struct Connection {
    address: SocketAddr,
    timeout: Duration,
    stream: Option<BufReader<TcpStream>>,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `X-Leadr-Propagated`: whether every node has heard of a change, where that was asked for.
    pub(crate) propagated: bool,
    /// `Link` with `rel="next"`: where a list goes on.
    pub(crate) next: Option<String>,
    /// `ETag`: which state of a record this is.
    pub(crate) etag: Option<String>,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON; `Null` where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A request as it goes over the wire; each of `headers` is a whole line without its end.
pub(crate) fn request(method: &str, path: &str, headers: &[String], body: &str) -> String {
    let headers = headers
        .iter()
        .fold(String::new(), |text, header| text + header + "\r\n");
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The header that presents a key.
pub(crate) fn credential(key: &str) -> String {
    format!("{KEY_HEADER}: {key}")
}

/// What a request says besides its method and its path.
#[derive(Clone, Copy, Default)]
pub(crate) struct Said<'a> {
    pub(crate) key: Option<&'a str>,
    pub(crate) body: Option<&'a Value>,
}

impl Connection {
    /// To a port of 127.0.0.1.
    pub(crate) fn to(port: u16) -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), TIMEOUT)
    }

    /// To an address, with the longest that each step may take.
    pub(crate) const fn at(address: SocketAddr, timeout: Duration) -> Self {
        Self {
            address,
            timeout,
            stream: None,
        }
    }

    /// Sends a request and waits for the whole answer. After an error nobody can tell whether the request was heard; the
    /// connection is closed then, and the next request opens another.
    pub(crate) fn send(&mut self, method: &str, path: &str, said: Said<'_>) -> io::Result<Answer> {
        let body = said.body.map(Value::to_string).unwrap_or_default();
        let headers: Vec<String> = said.key.map(credential).into_iter().collect();
        self.exchange(&request(method, path, &headers, &body))
    }

    /// The same of a request that is written out already.
    pub(crate) fn exchange(&mut self, request: &str) -> io::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open()?,
        };
        stream.get_mut().write_all(request.as_bytes())?;
        let (answer, stays) = read_answer(&mut stream)?;
        if stays {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    fn open(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }
}

fn next_page(link: &str) -> Option<String> {
    let target = link.strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?;
    Some(target.to_owned())
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The answer, and whether the connection stays open.
pub(crate) fn read_answer(stream: &mut impl io::BufRead) -> io::Result<(Answer, bool)> {
    let status: u16 = line(stream)?
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .ok_or_else(|| malformed("the answer is not HTTP"))?;
    let (mut length, mut chunked, mut stays, mut propagated) = (None, false, true, false);
    let (mut next, mut etag) = (None, None);
    loop {
        let line = line(stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| malformed("a header without a colon"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok(),
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "x-leadr-propagated" => propagated = value == "true",
            "link" => next = next_page(value),
            "etag" => etag = Some(value.to_owned()),
            "connection" => stays = !value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    match (chunked, length) {
        (true, _) => read_chunks(stream, &mut body)?,
        // Nothing follows it, and nothing says so.
        (false, None) if status == 204 => {}
        (false, Some(length)) => read_exactly(stream, length, &mut body)?,
        (false, None) => {
            stream.read_to_end(&mut body)?;
            stays = false;
        }
    }
    let body = String::from_utf8(body).map_err(|_| malformed("the answer is not UTF-8"))?;
    let answer = Answer {
        status,
        propagated,
        next,
        etag,
        body,
    };
    Ok((answer, stays))
}

fn read_chunks(stream: &mut impl io::BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let size = line(stream)?;
        let size = u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
            .map_err(|_| malformed("a chunk without a size"))?;
        read_exactly(stream, size, body)?;
        line(stream)?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn read_exactly(stream: &mut impl io::BufRead, length: u64, body: &mut Vec<u8>) -> io::Result<()> {
    let read = stream.take(length).read_to_end(body)?;
    if u64::try_from(read).is_ok_and(|read| read == length) {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// A line without its end. An end of the stream before it is an error.
fn line(stream: &mut impl io::BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    line.strip_suffix('\n')
        .map(|line| line.trim_end_matches('\r').to_owned())
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<(u16, String, bool)> {
        let (answer, stays) = read_answer(&mut text.as_bytes())?;
        Ok((answer.status, answer.body, stays))
    }

    #[test]
    fn answers_are_read_to_their_end() {
        for (text, expected) in [
            (
                "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 500",
                (201, "{}", true),
            ),
            (
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx",
                (200, "x", false),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
                (200, "abcde", true),
            ),
            (
                "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 500",
                (204, "", true),
            ),
            (
                "HTTP/1.1 503 No\r\n\r\nall of it",
                (503, "all of it", false),
            ),
        ] {
            let (status, body, stays) = read(text).unwrap();
            assert_eq!((status, body.as_str(), stays), expected, "{text}");
        }
    }

    #[test]
    fn headers_that_matter_are_read() {
        let text = "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nLink: </v1/api-keys?cursor=c>; rel=\"next\"\r\ncontent-length: 0\r\n\r\n";
        let (answer, _) = read_answer(&mut text.as_bytes()).unwrap();
        assert_eq!(answer.etag.as_deref(), Some("\"x\""));
        assert_eq!(answer.next.as_deref(), Some("/v1/api-keys?cursor=c"));
        let text = request("POST", "/x", &[credential("k")], "{}");
        assert!(text.contains("\r\nleadr-api-key: k\r\n"), "{text}");
        assert!(text.ends_with("\r\ncontent-length: 2\r\n\r\n{}"), "{text}");
    }

    #[test]
    fn half_an_answer_is_none() {
        for text in [
            "",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nx",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
