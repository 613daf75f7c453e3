//! What listens: sockets, workers, TLS, and the limits that hold whatever is asked.

use std::fmt::Debug;
use std::future::{Ready, ready};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol, Request, Response};
use actix_server::{GracefulShutdownSignal, Server, ServerBuilder};
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt as _, fn_service};
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_tls::accept::{TlsError, max_concurrent_tls_connect};
use actix_web::body::MessageBody;
use actix_web::dev::AppConfig;
use actix_web::rt::net::{ActixStream, TcpStream};
use anyhow::Context as _;
use rustls::ServerConfig;

use crate::connection::{Connection, Patience, Progress, Telling};

/// How long the head of a request may take to arrive.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a handshake of TLS may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a client is given to notice that its connection is closed.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How many connections wait to be accepted at most; the kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 2048;

/// How much of what is sent, and of what is received, the kernel keeps for each connection, in bytes; it takes twice as much. By
/// itself it would keep some MiB for whoever does not read. The largest answers need a few rounds with these.
const SEND_BUFFER: usize = 128 * 1024;
const RECEIVE_BUFFER: usize = 64 * 1024;

/// What holds for every listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) workers: usize,
    /// How many connections are open at once, over all workers.
    pub(crate) connections: usize,
    /// How long a connection without a request stays open.
    pub(crate) keep_alive: Duration,
    /// How long a client may take to read what it is sent.
    pub(crate) write_timeout: Duration,
    /// How long requests that are underway may take to end after a stop.
    pub(crate) shutdown_timeout: Duration,
}

/// Listens. What is sent and not acknowledged, or not wanted, is given up after the same time as in [`Connection`]: the
/// kernel goes on sending when this process has closed a connection.
pub(crate) fn bind(
    address: SocketAddr,
    write_timeout: Duration,
) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listening = || {
        let listener = TcpListener::bind(address)?;
        let millis = u32::try_from(write_timeout.as_millis()).unwrap_or(u32::MAX);
        // Connections inherit these, on Linux. Elsewhere they may do without.
        rustix::net::sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, RECEIVE_BUFFER)?;
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_tcp_user_timeout(&listener, millis)?;
        // Another number than the standard library's.
        rustix::net::listen(&listener, BACKLOG)?;
        let bound = listener.local_addr()?;
        io::Result::Ok((listener, bound))
    };
    listening().with_context(|| format!("cannot listen on {address}"))
}

/// A server of the application that `factory` makes for each worker. With `tls`, requests come over TLS.
pub(crate) fn serve<I, S, B>(
    limits: Limits,
    listener: TcpListener,
    tls: Option<ServerConfig>,
    factory: impl Fn() -> I + Clone + Send + 'static,
) -> io::Result<Server>
where
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig, Error = actix_web::Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    B: MessageBody + 'static,
{
    let per_worker = limits.connections.div_ceil(limits.workers).max(1);
    // Those whose handshake is underway are counted apart, and while there are too many nobody else is accepted. Whoever
    // says nothing must not be able to bring that about, so that there are never too many of them.
    max_concurrent_tls_connect(per_worker);
    let builder = ServerBuilder::new()
        .workers(limits.workers)
        .max_concurrent_connections(per_worker)
        .shutdown_timeout(limits.shutdown_timeout.as_secs())
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    let patience = Patience {
        head: HEAD_TIMEOUT,
        idle: limits.keep_alive,
        write: limits.write_timeout,
    };
    let builder = match tls {
        None => builder.listen("http", listener, move || {
            let application = factory().into_factory();
            let stopping = stopping.clone();
            fn_service(connect(patience))
                .map(|connection: Connection| {
                    let client = connection.stream().peer_addr().ok();
                    (connection, Protocol::Http1, client)
                })
                .and_then(http(limits, stopping, application, Connection::progress))
        }),
        Some(tls) => builder.listen("https", listener, move || {
            let application = factory().into_factory();
            let stopping = stopping.clone();
            let mut acceptor = Acceptor::new(tls.clone());
            acceptor.set_handshake_timeout(HANDSHAKE_TIMEOUT);
            let progress = |stream: &TlsStream<Connection>| stream.get_ref().0.progress();
            fn_service(connect(patience))
                .and_then(acceptor.map_err(TlsError::into_service_error))
                .map(|stream: TlsStream<Connection>| {
                    let client = stream.get_ref().0.stream().peer_addr().ok();
                    (stream, Protocol::Http1, client)
                })
                .and_then(http(limits, stopping, application, progress).map_err(TlsError::Service))
        }),
    };
    Ok(builder?.run())
}

/// Gives a new connection its deadlines.
fn connect<E>(patience: Patience) -> impl Fn(TcpStream) -> Ready<Result<Connection, E>> + Clone {
    move |stream| ready(Ok(Connection::new(stream, patience)))
}

/// HTTP on connections of one kind.
fn http<T, S, B>(
    limits: Limits,
    stopping: GracefulShutdownSignal,
    application: S,
    progress: fn(&T) -> Rc<Progress>,
) -> impl ServiceFactory<
    (T, Protocol, Option<SocketAddr>),
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
>
where
    T: ActixStream + 'static,
    S: ServiceFactory<Request, Config = AppConfig, Error = actix_web::Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    B: MessageBody + 'static,
{
    let application = Telling(application)
        .map_err(|error: actix_web::Error| Response::from(error.error_response()));
    HttpService::build()
        .graceful_shutdown_signal(move || {
            let stopping = stopping.clone();
            async move { stopping.notified().await }
        })
        .keep_alive(limits.keep_alive)
        .client_request_timeout(HEAD_TIMEOUT)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .on_connect_ext(move |stream, data| {
            data.insert(progress(stream));
        })
        .finish(application)
}
