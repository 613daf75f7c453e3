//! A connection that gives up on whoever takes too long.
//!
//! `actix-http` has a deadline for the head of a connection's first request, and one for a connection on which nothing happens.
//! In between a client could hold a connection for as long as it likes: with half of a second request, with a body that is
//! still to come after its request was answered, or by not reading what it asked for. So the stream below it has deadlines
//! of its own, and fails when one has passed; `actix-http` then drops the connection.
//!
//! `actix-http` also takes as many requests as come at once and keeps them, each of some KiB, until their turn comes; of requests
//! of forty bytes that is a hundred times of what was sent. Where it has no room for more, it looks again and again whether
//! there is, which keeps a processor busy for as long as an answer is not taken. So the stream is not read while there is
//! nothing to read for: as long as a request without a body is being answered, or an answer is not taken.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::{ConnectionType, Payload, Request};
use actix_service::{Service, ServiceFactory};
use actix_web::dev::AppConfig;
use actix_web::error::InternalError;
use actix_web::rt::net::{ActixStream, Ready, TcpStream};
use actix_web::{Error, HttpResponse};
use futures_util::future::LocalBoxFuture;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// By how much a connection that is idle outlives what is said of it: `actix-http` ends it in good order at that time.
const IDLE_SLACK: Duration = Duration::from_secs(2);

/// How much is read before it is looked at, in bytes; what is left of the room there is comes to that.
const AT_ONCE: usize = 4 * 1024;

/// How much is read, in bytes, while a request is being answered that has a body: more than the largest with all that chunks
/// put around it.
const WHILE_ANSWERING: usize = 512 * 1024;

/// How long a client may take for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the head of a request, from its first byte on.
    pub(crate) head: Duration,
    /// For nothing at all, between two requests.
    pub(crate) idle: Duration,
    /// For reading what it was sent.
    pub(crate) write: Duration,
}

/// How it stands with the requests of a connection: said by the service, and read by the stream below it.
#[derive(Debug)]
pub(crate) struct Progress {
    patience: Patience,
    /// A request was answered, and the next is not there yet.
    between: Cell<bool>,
    /// Something of the next one is there.
    receiving: Cell<bool>,
    /// By when the next one's head has to be there.
    deadline: Cell<Option<Instant>>,
    /// The last request was to be the last one.
    over: Cell<bool>,
    /// How much may still be read before the request that is being answered was; `None` where none is.
    wanted: Cell<Option<usize>>,
}

impl Progress {
    const fn new(patience: Patience) -> Self {
        Self {
            patience,
            between: Cell::new(false),
            receiving: Cell::new(false),
            deadline: Cell::new(None),
            over: Cell::new(false),
            wanted: Cell::new(None),
        }
    }

    /// The head of a request is there. What comes of it is not the client's to delay, but for the body, which has a deadline
    /// where it is read.
    fn begin(&self, has_body: bool) {
        self.wanted
            .set(Some(if has_body { WHILE_ANSWERING } else { 0 }));
        self.between.set(false);
        self.receiving.set(false);
        self.deadline.set(None);
    }

    /// It was answered.
    fn end(&self) {
        self.wanted.set(None);
        self.between.set(true);
        let idle = self.patience.idle + IDLE_SLACK;
        self.deadline.set(Some(Instant::now() + idle));
    }

    /// So much was received: of the next head, or of a body, which somebody may still wait for.
    fn receive(&self, bytes: usize) {
        if let Some(wanted) = self.wanted.get() {
            self.wanted.set(Some(wanted.saturating_sub(bytes)));
        }
        if self.between.get() && !self.receiving.replace(true) {
            let head = Instant::now() + self.patience.head;
            self.deadline.set(Some(head));
        }
    }

    /// What was asked for could not be sent until now, so that nobody could look at what came next.
    fn postpone(&self) {
        if self.receiving.replace(false) {
            self.receive(0);
        } else if self.between.get() {
            self.end();
        }
    }
}

/// What was written and is not taken.
#[derive(Clone, Copy, Debug)]
struct Owed {
    /// It is taken when so many bytes have been, since the beginning.
    target: u64,
    deadline: Instant,
}

/// A TCP connection with deadlines.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    progress: Rc<Progress>,
    /// So many bytes have been taken, since the beginning.
    written: u64,
    owed: Option<Owed>,
    /// So much was read and not looked at.
    unseen: usize,
    /// Somebody wanted to read when there was nothing to read for.
    is_held_up: bool,
    /// Goes off no later than the next deadline, and then is set anew: a deadline that is moved back, as each request does,
    /// costs nothing.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, patience: Patience) -> Self {
        Self {
            stream,
            progress: Rc::new(Progress::new(patience)),
            written: 0,
            owed: None,
            unseen: 0,
            is_held_up: false,
            timer: None,
        }
    }

    pub(crate) const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// What the service tells about requests.
    pub(crate) fn progress(&self) -> Rc<Progress> {
        Rc::clone(&self.progress)
    }

    /// Is there nothing to read for?
    fn is_busy(&self) -> bool {
        self.owed.is_some() || self.progress.wanted.get() == Some(0)
    }

    fn deadline(&self) -> Option<Instant> {
        self.owed
            .map_or(self.progress.deadline.get(), |owed| Some(owed.deadline))
    }

    /// Fails when a deadline has passed.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(timer) = &mut self.timer else {
            return Ok(());
        };
        if timer.as_mut().poll(context).is_pending() {
            return Ok(());
        }
        self.timer = None;
        let now = Instant::now();
        if self.owed.is_some_and(|owed| owed.deadline <= now) {
            // What is not taken would go on taking memory of the kernel's.
            rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Sees to it that the connection is looked at by the next deadline.
    fn arm(&mut self, context: &mut Context<'_>) {
        let Some(deadline) = self.deadline() else {
            return;
        };
        match &mut self.timer {
            Some(timer) if timer.deadline() <= deadline => return,
            Some(timer) => timer.as_mut().reset(deadline),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
        // Where it has passed already, that is found out at the next look.
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(context).is_ready()
        {
            context.waker().wake_by_ref();
        }
    }

    /// Keeps account of a write of so many bytes.
    fn account(
        &mut self,
        context: &mut Context<'_>,
        offered: usize,
        outcome: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Ready(Ok(taken)) => {
                self.written = self.written.saturating_add(wide(taken));
                if self.owed.is_some_and(|owed| owed.target <= self.written) {
                    self.owed = None;
                    self.progress.postpone();
                }
                if self.is_held_up && !self.is_busy() {
                    self.is_held_up = false;
                    context.waker().wake_by_ref();
                }
                // Nobody may read before the next request is there, or never comes.
                self.arm(context);
                Poll::Ready(Ok(taken))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                if self.owed.is_none() {
                    self.owed = Some(Owed {
                        target: self.written.saturating_add(wide(offered)),
                        deadline: Instant::now() + self.progress.patience.write,
                    });
                }
                self.arm(context);
                Poll::Pending
            }
        }
    }
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(context)?;
        if this.is_busy() {
            this.is_held_up = true;
            this.arm(context);
            return Poll::Pending;
        }
        if this.unseen >= AT_ONCE {
            // It is looked at now, and then it goes on.
            this.unseen = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut this.stream).poll_read(context, buffer);
        let read = buffer.filled().len().saturating_sub(before);
        if outcome.is_pending() {
            this.unseen = 0;
            this.arm(context);
        } else if read > 0 {
            this.unseen += read;
            this.progress.receive(read);
        }
        outcome
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(context)?;
        let outcome = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.account(context, bytes.len(), outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(context)?;
        let offered = pieces.iter().map(|piece| piece.len()).sum();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(context, pieces);
        this.account(context, offered, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl ActixStream for Connection {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(&self.stream, context)
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(&self.stream, context)
    }
}

/// An application that tells each connection when a request of it begins and when it was answered.
pub(crate) struct Telling<S>(pub(crate) S);

impl<S> ServiceFactory<Request> for Telling<S>
where
    S: ServiceFactory<Request, Config = AppConfig, Error = Error>,
    S::Future: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Config = ();
    type Service = TellingService<S::Service>;
    type InitError = S::InitError;
    type Future = LocalBoxFuture<'static, Result<Self::Service, Self::InitError>>;

    fn new_service(&self, (): ()) -> Self::Future {
        // Nothing here asks under which address it is served.
        let service = self.0.new_service(AppConfig::default());
        Box::pin(async move { service.await.map(TellingService) })
    }
}

pub(crate) struct TellingService<S>(S);

impl<S: Service<Request, Error = Error>> Service<Request> for TellingService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Told<S::Future>;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&self, mut request: Request) -> Self::Future {
        let progress = request.conn_data::<Rc<Progress>>().cloned();
        let mut is_behind_the_last = false;
        if let Some(progress) = &progress {
            progress.begin(!matches!(request.payload(), Payload::None));
            let stays = request.head().connection_type() == ConnectionType::KeepAlive;
            is_behind_the_last = progress.over.replace(!stays);
        }
        Told {
            answer: (!is_behind_the_last).then(|| self.0.call(request)),
            progress,
        }
    }
}

pin_project! {
    pub(crate) struct Told<F> {
        #[pin]
        answer: Option<F>,
        progress: Option<Rc<Progress>>,
    }
}

impl<F, R> Future for Told<F>
where
    F: Future<Output = Result<R, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = match this.answer.as_pin_mut() {
            Some(answer) => ready!(answer.poll(context)),
            None => Err(behind_the_last()),
        };
        if let Some(progress) = this.progress {
            progress.end();
        }
        Poll::Ready(answer)
    }
}

/// What follows a request with `Connection: close`, or one for another protocol, must not be looked at (RFC 9112, section
/// 9.6). `actix-http` does, where it came together with that one.
fn behind_the_last() -> Error {
    let body = serde_json::json!({
        "detail": "The request before this one was to be the last on its connection",
        "code": "malformed_request",
    });
    let response = HttpResponse::BadRequest().force_close().json(body);
    InternalError::from_response("behind the last", response).into()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read as _, Write as _};

    use tokio::net::TcpListener;
    use tokio::task::yield_now;
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(5),
        idle: Duration::from_secs(5),
        write: Duration::from_secs(2),
    };

    /// More than the kernel keeps for whoever does not read.
    const ANSWER: usize = 16 * 1024 * 1024;

    /// A connection, and the client's end of it.
    async fn pair() -> (Connection, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (Connection::new(stream, PATIENCE), client)
    }

    /// Writes until no more is taken, or all is: how much is left.
    async fn write(connection: &mut Connection, mut left: usize) -> io::Result<usize> {
        let bytes = vec![b'x'; left];
        while left > 0 {
            let offered = bytes.get(..left).unwrap();
            let poll = |context: &mut Context<'_>| {
                Poll::Ready(Pin::new(&mut *connection).poll_write(context, offered))
            };
            match poll_fn(poll).await {
                Poll::Ready(taken) => left -= taken?,
                Poll::Pending => break,
            }
        }
        // The runtime hears of what the kernel has room for.
        yield_now().await;
        Ok(left)
    }

    /// Reads what is there, and no more than so much.
    fn read(client: &mut std::net::TcpStream, most: usize) -> usize {
        let mut buffer = vec![0; most];
        let mut read = 0;
        while let Ok(more) = client.read(buffer.get_mut(read..).unwrap())
            && more > 0
        {
            read += more;
        }
        read
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_some_of_an_answer_has_no_more_time_for_it() {
        let (mut connection, mut client) = pair().await;
        let mut left = write(&mut connection, ANSWER).await.unwrap();
        assert!(left > 0);
        for _ in 0..3 {
            advance(PATIENCE.write / 4).await;
            assert!(read(&mut client, 1024 * 1024) > 0);
            left = write(&mut connection, left).await.unwrap();
        }
        assert!(left > 0);
        advance(PATIENCE.write / 2).await;
        read(&mut client, 1024 * 1024);
        let error = write(&mut connection, left).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_each_answer_in_time_is_served() {
        let (mut connection, mut client) = pair().await;
        for _ in 0..4 {
            let mut left = write(&mut connection, ANSWER).await.unwrap();
            assert!(left > 0);
            advance(PATIENCE.write / 4 * 3).await;
            while left > 0 {
                read(&mut client, ANSWER);
                left = write(&mut connection, left).await.unwrap();
            }
        }
    }

    /// Nobody is waited for who cannot be read from.
    #[tokio::test(start_paused = true)]
    async fn what_comes_while_an_answer_is_not_taken_is_left_where_it_is() {
        let (mut connection, mut client) = pair().await;
        let mut left = write(&mut connection, ANSWER).await.unwrap();
        client.write_all(b"GET / HTTP/1.1").unwrap();
        connection.stream().readable().await.unwrap();
        let mut bytes = [0; 64];
        let mut buffer = ReadBuf::new(&mut bytes);
        let poll = |context: &mut Context<'_>| {
            Poll::Ready(Pin::new(&mut connection).poll_read(context, &mut buffer))
        };
        assert!(poll_fn(poll).await.is_pending());
        while left > 0 {
            read(&mut client, ANSWER);
            left = write(&mut connection, left).await.unwrap();
        }
        let poll = |context: &mut Context<'_>| {
            Poll::Ready(Pin::new(&mut connection).poll_read(context, &mut buffer))
        };
        assert!(poll_fn(poll).await.is_ready());
        assert_eq!(buffer.filled(), b"GET / HTTP/1.1");
    }
}
