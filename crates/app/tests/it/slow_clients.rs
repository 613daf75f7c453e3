//! Clients that take their time: each is let go after a time that is promised, and keeps nobody else from being served.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};

use crate::support::{ANYWHERE, Place, Running};

/// How long a test waits for something that takes seconds: with a mechanism switched off it would take for ever.
const PATIENCE: Duration = Duration::from_secs(30);

const MEMORY: (&str, &str) = ("DATABASE_URL", "memory:");

/// A server that keeps nothing, and where it listens.
fn serve(settings: &[(&str, &str)]) -> (Running, String) {
    let mut environment = vec![ANYWHERE, MEMORY];
    environment.extend(settings);
    let mut running = Running::start(&[], &environment);
    let base = running.base();
    running.first_key();
    let address = base.strip_prefix("http://").unwrap().to_owned();
    (running, address)
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The head of the next answer, whose body is dropped with it: the server is asked for small ones only.
fn answer(stream: &mut TcpStream) -> String {
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

/// Asks for something, on a connection that stays open.
fn ask(stream: &mut TcpStream) {
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let answer = answer(stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Waits until the server has closed the connection, while a byte is sent now and then if there are any: how long that took.
fn until_closed(stream: &mut TcpStream, dribble: &[u8]) -> Duration {
    let begun = Instant::now();
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut bytes = dribble.iter();
    let mut buffer = [0; 4096];
    while begun.elapsed() < PATIENCE {
        match stream.read(&mut buffer) {
            Ok(0) => return begun.elapsed(),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let more = bytes.next().map(std::slice::from_ref);
                if more.is_some_and(|byte| stream.write_all(byte).is_err()) {
                    return begun.elapsed();
                }
            }
            Err(_) => return begun.elapsed(),
        }
    }
    panic!("the connection is still open");
}

/// As long as the head of a request may take, and some more for a busy machine.
const HEAD: Duration = Duration::from_secs(5 + 5);

#[test]
fn whoever_sends_no_head_is_told_so_and_let_go() {
    let (_running, address) = serve(&[]);
    let mut silent = connect(&address);
    let mut slow = connect(&address);
    slow.write_all(b"GET /livez HTTP/1.1\r\nX: ").unwrap();
    let slow = thread::spawn(move || until_closed(&mut slow, &[b'x'; 100]));
    let told = answer(&mut silent);
    assert!(told.starts_with("HTTP/1.1 408"), "{told}");
    assert!(until_closed(&mut silent, b"") < HEAD);
    assert!(slow.join().unwrap() < HEAD);
}

/// `actix-http` has no deadline for any head but the first.
#[test]
fn a_later_head_has_the_same_deadline_as_the_first() {
    let (_running, address) = serve(&[]);
    let mut slow = connect(&address);
    ask(&mut slow);
    slow.write_all(b"GET /livez HTTP/1.1\r\nX: ").unwrap();
    let mut stuck = connect(&address);
    ask(&mut stuck);
    stuck.write_all(b"GET /livez HT").unwrap();
    // Somebody who is quick enough is not meant, however many requests come.
    let mut quick = connect(&address);
    let quick = thread::spawn(move || {
        for _ in 0..40 {
            ask(&mut quick);
            thread::sleep(Duration::from_millis(200));
        }
    });
    let slow = thread::spawn(move || until_closed(&mut slow, &[b'x'; 100]));
    assert!(until_closed(&mut stuck, b"") < HEAD);
    assert!(slow.join().unwrap() < HEAD);
    quick.join().unwrap();
}

/// The request was answered without its body, which `actix-http` waits for as long as it takes.
#[test]
fn a_body_that_nobody_waits_for_is_not_waited_for() {
    let (_running, address) = serve(&[("KEEP_ALIVE_SECONDS", "1")]);
    let begin = || {
        let mut stream = connect(&address);
        let head = "POST /v1/api-keys HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let told = answer(&mut stream);
        assert!(told.starts_with("HTTP/1.1 401"), "{told}");
        stream
    };
    let mut slow = begin();
    slow.write_all(b"fff\r\n").unwrap();
    let slow = thread::spawn(move || until_closed(&mut slow, &[b'x'; 100]));
    assert!(until_closed(&mut begin(), b"") < HEAD);
    assert!(slow.join().unwrap() < HEAD);
}

#[test]
fn a_body_that_comes_too_slowly_is_408() {
    let mut running = Running::start(&[], &[ANYWHERE, MEMORY, ("BODY_TIMEOUT_MS", "1000")]);
    let base = running.base();
    let (key, address) = (running.first_key(), base.strip_prefix("http://").unwrap());
    for framing in ["Content-Length: 4095", "Transfer-Encoding: chunked"] {
        let mut slow = connect(address);
        let head = format!(
            "POST /v1/verify HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\
             Content-Type: application/json\r\n{framing}\r\n\r\nfff\r\n"
        );
        slow.write_all(head.as_bytes()).unwrap();
        let begun = Instant::now();
        let told = answer(&mut slow);
        assert!(told.starts_with("HTTP/1.1 408"), "{told}");
        until_closed(&mut slow, &[b' '; 100]);
        assert!(begun.elapsed() < HEAD);
    }
}

#[test]
fn a_connection_without_requests_is_closed_after_its_time() {
    let (_running, address) = serve(&[("KEEP_ALIVE_SECONDS", "1")]);
    let mut idle = connect(&address);
    ask(&mut idle);
    assert!(until_closed(&mut idle, b"") < HEAD);

    // By default it is kept for longer than proxies keep theirs.
    let (_running, address) = serve(&[]);
    let mut idle = connect(&address);
    ask(&mut idle);
    thread::sleep(Duration::from_secs(8));
    ask(&mut idle);
}

/// Sends requests for something large, and reads nothing of it, or so much at a time: how long until that ends.
fn until_given_up(address: &str, read: usize, pause: Duration) -> Duration {
    // A buffer so small that the server's side hears of each time that something is read.
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 200_000).unwrap();
    rustix::net::connect(&socket, &address.parse::<SocketAddr>().unwrap()).unwrap();
    let mut stream = TcpStream::from(socket);
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(16);
    let begun = Instant::now();
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut buffer = vec![0; read];
    let mut written = 0;
    while begun.elapsed() < PATIENCE {
        match stream.write(&request[written..]) {
            Ok(more) => written = (written + more) % request.len(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if read > 0 && stream.read_exact(&mut buffer).is_err() {
                    return begun.elapsed();
                }
                thread::sleep(pause);
            }
            Err(_) => return begun.elapsed(),
        }
    }
    panic!("it is still being served");
}

#[test]
fn whoever_does_not_read_is_let_go() {
    let (running, address) = serve(&[("WRITE_TIMEOUT_MS", "1000")]);
    let trickle = {
        let address = address.clone();
        thread::spawn(move || until_given_up(&address, 1, Duration::ZERO))
    };
    assert!(until_given_up(&address, 0, Duration::ZERO) < HEAD);
    assert!(trickle.join().unwrap() < HEAD);
    // The kernel has nothing left to send either.
    let port = address.rsplit(':').next().unwrap();
    let begun = Instant::now();
    while unsent(port) > 0 {
        assert!(begun.elapsed() < HEAD, "{} bytes", unsent(port));
        thread::sleep(Duration::from_millis(100));
    }
    drop(running);
}

/// To the kernel it is enough that something is read now and then.
#[test]
fn whoever_reads_too_slowly_is_let_go() {
    // In the time that there is for an answer this reads less than one.
    let (_running, address) = serve(&[("WRITE_TIMEOUT_MS", "3000")]);
    let slow = until_given_up(&address, 72 * 1024, Duration::from_millis(1800));
    assert!(slow < HEAD, "{slow:?}");
}

/// Memory of the kernel's is memory too.
#[test]
fn not_much_is_kept_for_whoever_does_not_read() {
    let (_running, address) = serve(&[]);
    let port = address.rsplit(':').next().unwrap();
    let mut stream = connect(&address);
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(16);
    // Until neither side takes any more.
    while stream.write_all(&request).is_ok() {}
    let kept = unsent(port);
    assert!(kept > 0 && kept < 512 * 1024, "{kept} bytes");
}

/// `actix-http` would take thousands of requests that came at once, and keep each with all that belongs to one; and it would
/// keep processors busy with looking for room for more.
#[test]
fn requests_that_come_at_once_take_little_memory_and_work() {
    let (running, address) = serve(&[]);
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(4000);
    let before = memory(running.id());
    let streams: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = connect(&address);
            stream.set_nonblocking(true).unwrap();
            let _ = stream.write(&request).unwrap();
            stream
        })
        .collect();
    thread::sleep(Duration::from_secs(2));
    let more = memory(running.id()) - before;
    let begun = processor_time(running.id());
    thread::sleep(Duration::from_secs(2));
    let worked = processor_time(running.id()).saturating_sub(begun);
    assert!(more < 100 * 1024, "{more} KiB");
    assert!(worked < Duration::from_millis(500), "{worked:?}");
    drop(streams);
}

/// For how long a process has kept a processor busy.
fn processor_time(process: u32) -> Duration {
    let line = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // What follows the name, which may have spaces in it (proc(5)): the 14th and 15th of all, in hundredths of a second.
    let (_, fields) = line.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// The memory that a process has in use, in KiB.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let size = line.unwrap().split_whitespace().nth(1);
    size.unwrap().parse().unwrap()
}

/// All of them are answered, in their turn.
#[test]
fn requests_that_come_at_once_are_all_answered() {
    let (_running, address) = serve(&[]);
    let mut stream = connect(&address);
    let mut sender = stream.try_clone().unwrap();
    let request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(5000);
    let sent = thread::spawn(move || sender.write_all(&request));
    // With what each ends, so that nothing of the last one is left.
    let end = r#"{"status":"alive"}"#;
    let (mut answers, mut text) = (0, String::new());
    let mut buffer = [0; 16 * 1024];
    while answers < 5000 {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "closed after {answers}");
        text += std::str::from_utf8(&buffer[..read]).unwrap();
        answers += text.matches(end).count();
        // What may be the beginning of the next.
        text = text[text.len().saturating_sub(end.len() - 1)..].to_owned();
    }
    assert_eq!(answers, 5000);
    sent.join().unwrap().unwrap();
    ask(&mut stream);
}

/// Something that was answered, closed and never read: the kernel gives that up as well.
#[test]
fn what_is_left_of_a_closed_connection_is_given_up() {
    let (_running, address) = serve(&[("WRITE_TIMEOUT_MS", "1000"), ("KEEP_ALIVE_SECONDS", "1")]);
    let port = address.rsplit(':').next().unwrap();
    let mut stream = connect(&address);
    // So many that the client's side does not take all, and the server's side does.
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut asked = 0;
    while unsent(port) == 0 {
        stream.write_all(request).unwrap();
        thread::sleep(Duration::from_millis(10));
        asked += 1;
        assert!(asked < 2000, "nothing piles up");
    }
    let begun = Instant::now();
    while unsent(port) > 0 {
        assert!(begun.elapsed() < HEAD, "{} bytes", unsent(port));
        thread::sleep(Duration::from_millis(100));
    }
}

/// How many bytes the kernel holds that were written to connections of this port and not taken.
fn unsent(port: &str) -> u64 {
    let port = format!(":{:04X}", port.parse::<u16>().unwrap());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let queued = |line: &str| {
        let mut words = line.split_whitespace();
        let local = words.nth(1)?;
        let queues = words.nth(2)?;
        let sent = queues.split(':').next()?;
        local
            .ends_with(&port)
            .then(|| u64::from_str_radix(sent, 16).unwrap())
    };
    // A listening socket has other figures in these places.
    let lines = table.lines().filter(|line| !line.contains(" 0A "));
    lines.filter_map(queued).sum()
}

/// The surplus waits, and is served when somebody goes.
#[test]
fn no_more_connections_are_served_than_may_be() {
    let (_running, address) = serve(&[("MAX_CONNECTIONS", "2"), ("WORKERS", "1")]);
    let mut served: Vec<_> = (0..2).map(|_| connect(&address)).collect();
    served.iter_mut().for_each(ask);
    let mut waiting = connect(&address);
    waiting
        .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    waiting
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let early = waiting.read(&mut [0; 16]);
    assert_eq!(early.unwrap_err().kind(), ErrorKind::WouldBlock);
    served.pop();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = answer(&mut waiting);
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
}

/// Each connection is an open file, and the usual limit on those is one for programs that have few.
#[test]
fn as_many_files_are_opened_as_may_be() {
    let place = Place::new();
    let line = "ulimit -S -n 100; exec $LEADR serve";
    let mut running = Running::spawn(place.shell(line, &[ANYWHERE, MEMORY]));
    let base = running.base();
    let address = base.strip_prefix("http://").unwrap();
    let mut open: Vec<_> = (0..200).map(|_| connect(address)).collect();
    open.iter_mut().for_each(ask);
    drop(running);

    // Where that cannot be, no more are accepted than there is room for, and what was asked for is said to be too much.
    let settings = [ANYWHERE, MEMORY, ("MAX_CONNECTIONS", "200")];
    let line = "ulimit -n 300; exec $LEADR serve";
    let mut running = Running::spawn(place.shell(line, &settings));
    let base = running.base();
    let mut connection = connect(base.strip_prefix("http://").unwrap());
    ask(&mut connection);
    let (_, log) = running.end("-TERM");
    assert!(log.contains("MAX_CONNECTIONS is more"), "{log}");
    let doctor = Running::spawn(place.shell("ulimit -n 300; $LEADR doctor", &settings)).ended();
    assert!(
        doctor.out.contains("150 connections, and 200 are wanted"),
        "{}",
        doctor.out
    );
}
