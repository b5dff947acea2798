//! TCP with mutual TLS 1.3: for a trusted LAN where QUIC's work per byte matters (measured: three
//! to four times that of TLS). Everything shares one stream; windows hold back what is not polled.

use crate::{
    bulk::keep,
    door::{Door, Handshake, Knock},
    frame::{self, FrameReader},
    identity::{Identity, client_config, peer_of, server_config},
    mux::{
        Link,
        caller::{Caller, Calls},
        server::{self, Service},
    },
    socket::{
        CONNECT_TIMEOUT, IDLE_TIMEOUT, KEEP_ALIVE, SERVER_NAME, listen_addrs, listen_error, refusal, resolve,
    },
};
use async_trait::async_trait;
use mooseng_core::{
    context::CallContext,
    error::NetError,
    net::{Connection, Handler, Listening, Message, Method, PeerIdentity, Transport},
};
use rustls_pki_types::{CertificateDer, ServerName};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::{error::Error, io, net::SocketAddr, sync::Arc};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Takes a connection that does not begin with TLS, such as HTTP on the same port.
pub type TakeOther = Arc<dyn Fn(TcpStream) + Send + Sync>;

/// Parameters of TCP.
#[derive(Clone, Default)]
pub struct TcpOptions {
    /// Who gets connections that do not begin with TLS; without one they are closed.
    pub other: Option<TakeOther>,
}

impl std::fmt::Debug for TcpOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpOptions").field("other", &self.other.is_some()).finish()
    }
}

/// TCP with TLS for one node of a cluster.
pub struct TcpTransport {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    options: TcpOptions,
}

impl std::fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpTransport").field("options", &self.options).finish_non_exhaustive()
    }
}

impl TcpTransport {
    /// A transport that proves itself as `me`.
    ///
    /// Errors: a certificate or key that TLS cannot use.
    pub fn new(me: &Identity, options: TcpOptions) -> Result<Arc<Self>, NetError> {
        let connector = TlsConnector::from(Arc::new(client_config(me)?));
        let acceptor = TlsAcceptor::from(Arc::new(server_config(me)?));
        Ok(Arc::new(Self { connector, acceptor, options }))
    }

    async fn reach(&self, to: &str) -> Result<Arc<dyn Connection>, NetError> {
        let failed = |e: &(dyn Error + 'static)| {
            refusal(to, e).unwrap_or_else(|| NetError::Connect { to: to.into(), cause: e.to_string() })
        };
        let addrs = resolve(to).await?;
        let stream = TcpStream::connect(&addrs[..]).await.map_err(|e| failed(&e))?;
        tune(&stream).map_err(|e| failed(&e))?;
        let name = ServerName::try_from(SERVER_NAME).map_err(|e| failed(&e))?;
        let stream = self.connector.connect(name, stream).await.map_err(|e| failed(&e))?;
        let peer = peer_at(to, stream.get_ref().1.peer_certificates())?;
        let (read, write) = tokio::io::split(stream);
        let link = Link::new(write, CancellationToken::new(), to);
        link.out.push(frame::hello());
        let mut reader = FrameReader::new(read, to);
        let hello = reader.next().await.and_then(|f| f.ok_or_else(|| link.closed(false)));
        let hello = hello.map_err(|e| match e {
            NetError::Closed { cause, .. } => NetError::Connect { to: to.into(), cause },
            other => other,
        })?;
        frame::check_hello(&hello)?;
        let caller = Caller::start(link, reader, Arc::new(Calls::default()));
        Ok(Arc::new(TcpConnection { caller, peer }))
    }
}

fn peer_at(from: &str, certs: Option<&[CertificateDer<'_>]>) -> Result<PeerIdentity, NetError> {
    let none = || NetError::Identity { peer: from.into(), cause: "it showed no certificate".into() };
    peer_of(certs.and_then(|c| c.first()).ok_or_else(none)?)
}

/// Small frames leave at once; a peer that is silent for long is gone.
fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE).with_retries(3),
    )?;
    socket.set_tcp_user_timeout(Some(IDLE_TIMEOUT))
}

#[async_trait]
impl Transport for TcpTransport {
    async fn connect(&self, to: &str) -> Result<Arc<dyn Connection>, NetError> {
        let late =
            |_| NetError::Connect { to: to.into(), cause: format!("no answer within {CONNECT_TIMEOUT:?}") };
        tokio::time::timeout(CONNECT_TIMEOUT, self.reach(to)).await.map_err(late)?
    }

    async fn listen(&self, at: &str, handler: Arc<dyn Handler>) -> Result<Box<dyn Listening>, NetError> {
        let listener = bind(&listen_addrs(at).await?).map_err(|e| listen_error(at, &e))?;
        let local = listener.local_addr().map_err(|e| listen_error(at, &e))?;
        let (ended, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (acceptor, other) = (self.acceptor.clone(), self.options.other.clone());
        let server = Server { acceptor, handler, other, door: Arc::default() };
        tasks.spawn(accept(listener, Arc::new(server), ended.clone(), tasks.clone()));
        Ok(Box::new(TcpListening { local, ended, tasks }))
    }
}

/// A listener at the first address that can be had.
fn bind(addrs: &[SocketAddr]) -> io::Result<TcpListener> {
    let bind_one = |addr: SocketAddr| {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        if addr.is_ipv6() {
            socket.set_only_v6(!addr.ip().is_unspecified())?;
        }
        // Connections of a process that just ended do not hold the port.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for addr in addrs {
        match bind_one(*addr) {
            Err(e) if e.kind() != io::ErrorKind::AddrInUse => last = e,
            done => return done,
        }
    }
    Err(last)
}

struct TcpConnection {
    caller: Arc<Caller>,
    peer: PeerIdentity,
}

#[async_trait]
impl Connection for TcpConnection {
    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    async fn call(&self, cx: &CallContext, method: Method, msg: Message) -> Result<Message, NetError> {
        let reply = self.caller.call(cx, method, msg).await?;
        Ok(Message { head: reply.head, body: keep(reply.body, self.caller.clone()) })
    }

    fn is_closed(&self) -> bool {
        self.caller.link().ended.is_cancelled()
    }

    fn close(&self) {
        self.caller.link().fail("this side closed it");
    }
}

struct Server {
    acceptor: TlsAcceptor,
    handler: Arc<dyn Handler>,
    other: Option<TakeOther>,
    door: Arc<Door>,
}

async fn accept(listener: TcpListener, server: Arc<Server>, ended: CancellationToken, tasks: TaskTracker) {
    while let Some(accepted) = ended.run_until_cancelled(listener.accept()).await {
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of file descriptors, for one: others may be closed soon.
                tracing::warn!(error = %e, "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let handshake = match server.door.knock(from, true) {
            Knock::Begin(handshake) => handshake,
            Knock::TurnAway(e) => {
                server.door.turned_away(from, &e);
                continue;
            }
            Knock::Prove => continue,
        };
        let (server, ended, connections) = (server.clone(), ended.child_token(), tasks.clone());
        tasks.spawn(async move {
            let serve = server.serve((stream, from), handshake, ended.clone(), connections);
            if let Some(Err(e)) = ended.run_until_cancelled(serve).await {
                tracing::info!(%from, error = %e, "a connection was refused");
            }
            ended.cancel();
        });
    }
}

impl Server {
    async fn serve(
        &self,
        (stream, from): (TcpStream, SocketAddr),
        handshake: Handshake,
        ended: CancellationToken,
        tasks: TaskTracker,
    ) -> Result<(), NetError> {
        let from = from.to_string();
        let failed = |e: &(dyn Error + 'static)| {
            refusal(&from, e).unwrap_or_else(|| NetError::Connect { to: from.clone(), cause: e.to_string() })
        };
        let shaking = async {
            let mut first = [0];
            stream.peek(&mut first).await.map_err(|e| failed(&e))?;
            if first[0] != TLS_HANDSHAKE {
                if let Some(other) = &self.other {
                    other(stream);
                }
                return Ok(None);
            }
            tune(&stream).map_err(|e| failed(&e))?;
            let stream = self.acceptor.accept(stream).await.map_err(|e| failed(&e))?;
            let peer = peer_at(&from, stream.get_ref().1.peer_certificates())?;
            let (read, write) = tokio::io::split(stream);
            let mut reader = FrameReader::new(read, &peer.name);
            let link = Link::new(write, ended, &peer.name);
            // Read first: an end with something unread would take what was said along.
            let hello = reader.next().await?.ok_or(NetError::Cancelled)?;
            let inside = self.door.enter(&peer).inspect_err(|e| link.out.push(frame::error(0, e)))?;
            link.out.push(frame::hello());
            frame::check_hello(&hello)?;
            Ok(Some((peer, inside, link, reader)))
        };
        let late = |_| NetError::Connect { to: from.clone(), cause: "the handshake took too long".into() };
        let shaken = tokio::time::timeout(CONNECT_TIMEOUT, shaking).await.map_err(late)??;
        drop(handshake);
        if let Some((peer, inside, link, reader)) = shaken {
            let (handler, door, share) = (self.handler.clone(), self.door.clone(), inside.share());
            let reader = reader.within(share.clone());
            let service = Arc::new(Service { handler, peer, door, share, tasks });
            server::serve(link, reader, service, None).await;
        }
        Ok(())
    }
}

struct TcpListening {
    local: SocketAddr,
    ended: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for TcpListening {
    fn drop(&mut self) {
        self.ended.cancel();
        self.tasks.close();
    }
}

#[async_trait]
impl Listening for TcpListening {
    fn local_addr(&self) -> String {
        self.local.to_string()
    }

    async fn close(self: Box<Self>) {
        self.ended.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
