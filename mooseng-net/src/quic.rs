//! QUIC (RFC 9000) with mutual TLS 1.3: the default between machines.
//!
//! A connection has one long-lived stream for small calls (measured: a third of the cost of a
//! stream per call), and streams of their own for what is long or streamed.

mod config;
mod resets;

pub use config::QuicOptions;

use self::resets::Resets;
use crate::{
    bulk,
    call::{bound_body, check_message, within},
    door::{Door, Handshake, Knock},
    frame::{self, FrameReader},
    identity::{Identity, peer_of},
    mux::{
        Link,
        caller::{Caller, Calls},
        server::{self, Service},
    },
    socket::{CONNECT_TIMEOUT, SERVER_NAME, TURNED_AWAY, listen_addrs, listen_error, refusal, resolve},
};
use async_trait::async_trait;
use mooseng_core::{
    context::CallContext,
    error::NetError,
    net::{Connection, Handler, Listening, Message, Method, PeerIdentity, Transport},
    wire::encode,
};
use quinn::{Endpoint, VarInt};
use rustls_pki_types::CertificateDer;
use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::OnceCell;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a listener that closes waits for the last packets.
const DRAIN: Duration = Duration::from_secs(2);
/// First in line before bulk.
const SMALL_CALLS_PRIORITY: i32 = 1;
/// A connection that ends on purpose.
const DONE: VarInt = VarInt::from_u32(0);

/// QUIC for one node of a cluster.
pub struct QuicTransport {
    client: quinn::ClientConfig,
    server: quinn::ServerConfig,
    resets: Resets,
    options: QuicOptions,
    endpoint: OnceCell<Endpoint>,
}

impl std::fmt::Debug for QuicTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicTransport").field("options", &self.options).finish_non_exhaustive()
    }
}

impl QuicTransport {
    /// A transport that proves itself as `me`. Sockets are opened when they are needed.
    ///
    /// Errors: a certificate or key that TLS cannot use.
    pub fn new(me: &Identity, options: QuicOptions) -> Result<Arc<Self>, NetError> {
        let (client, server) = (config::client(me, &options)?, config::server(me, &options)?);
        let resets = Resets::of(me);
        Ok(Arc::new(Self { client, server, resets, options, endpoint: OnceCell::new() }))
    }

    /// The endpoint of outgoing connections: both address families where the machine has them.
    async fn endpoint(&self) -> Result<&Endpoint, NetError> {
        let open = async || {
            let any: [SocketAddr; 2] = [([0u16; 8], 0).into(), ([0u8; 4], 0).into()];
            config::bind(&any, &self.options, None).map_err(|e| listen_error("a port to connect from", &e))
        };
        self.endpoint.get_or_try_init(open).await
    }

    async fn reach(&self, to: &str) -> Result<Arc<dyn Connection>, NetError> {
        let endpoint = self.endpoint().await?;
        let mut last = NetError::Connect { to: to.into(), cause: "the name has no address".into() };
        for addr in resolve(to).await? {
            match self.greet(endpoint, to, addr).await {
                Ok(connection) => return Ok(connection),
                Err(e @ (NetError::Identity { .. } | NetError::Version { .. })) => return Err(e),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Connects and exchanges hellos: only then does this side know that it was not refused.
    async fn greet(
        &self,
        endpoint: &Endpoint,
        to: &str,
        addr: SocketAddr,
    ) -> Result<Arc<dyn Connection>, NetError> {
        let failed = |e: &(dyn Error + 'static)| {
            refusal(to, e).unwrap_or_else(|| NetError::Connect { to: to.into(), cause: e.to_string() })
        };
        let connecting =
            endpoint.connect_with(self.client.clone(), addr, SERVER_NAME).map_err(|e| failed(&e))?;
        let connection = connecting.await.map_err(|e| failed(&e))?;
        let peer = peer_at(&connection)?;
        let (send, receive) = connection.open_bi().await.map_err(|e| failed(&e))?;
        let _ = send.set_priority(SMALL_CALLS_PRIORITY);
        let link = Link::new(send, CancellationToken::new(), to);
        link.out.push(frame::hello());
        let mut reader = FrameReader::new(receive, to);
        let hello = reader.next().await.and_then(|f| f.ok_or_else(|| link.closed(false)));
        let hello = hello.map_err(|e| match e {
            NetError::Closed { cause, .. } => NetError::Connect { to: to.into(), cause },
            other => other,
        })?;
        frame::check_hello(&hello)?;
        let calls = Arc::new(Calls::default());
        let pushed = bulk::take_pushed(connection.clone(), calls.clone(), to.into());
        tokio::spawn(pushed);
        let caller = Caller::start(link, reader, calls);
        Ok(Arc::new(QuicConnection { connection: Arc::new(Open(connection)), caller, peer }))
    }
}

/// Who is at the other end of a connection whose handshake is done.
fn peer_at(connection: &quinn::Connection) -> Result<PeerIdentity, NetError> {
    let certs = connection.peer_identity().and_then(|c| c.downcast::<Vec<CertificateDer<'static>>>().ok());
    let none = || NetError::Identity {
        peer: connection.remote_address().to_string(),
        cause: "it showed no certificate".into(),
    };
    peer_of(certs.as_deref().and_then(|c| c.first()).ok_or_else(none)?)
}

#[async_trait]
impl Transport for QuicTransport {
    async fn connect(&self, to: &str) -> Result<Arc<dyn Connection>, NetError> {
        let late =
            |_| NetError::Connect { to: to.into(), cause: format!("no answer within {CONNECT_TIMEOUT:?}") };
        tokio::time::timeout(CONNECT_TIMEOUT, self.reach(to)).await.map_err(late)?
    }

    async fn listen(&self, at: &str, handler: Arc<dyn Handler>) -> Result<Box<dyn Listening>, NetError> {
        let addrs = listen_addrs(at).await?;
        let endpoint = config::bind(&addrs, &self.options, Some((self.server.clone(), self.resets)))
            .map_err(|e| listen_error(at, &e))?;
        let local = endpoint.local_addr().map_err(|e| listen_error(at, &e))?;
        let (ended, tasks) = (CancellationToken::new(), TaskTracker::new());
        let accept = accept(endpoint.clone(), handler, ended.clone(), tasks.clone());
        tasks.spawn(accept);
        Ok(Box::new(QuicListening { endpoint, local, ended, tasks }))
    }
}

/// A connection that is closed with its last holder.
struct Open(quinn::Connection);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close(DONE, b"");
    }
}

struct QuicConnection {
    caller: Arc<Caller>,
    connection: Arc<Open>,
    peer: PeerIdentity,
}

#[async_trait]
impl Connection for QuicConnection {
    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    async fn call(&self, cx: &CallContext, method: Method, msg: Message) -> Result<Message, NetError> {
        let to = self.caller.link().peer();
        let reply = if bulk::is_bulk(&msg) {
            check_message(&msg)?;
            let reply = within(cx.budget, to, bulk::call(&self.connection.0, to, cx, method, msg)).await?;
            Message { head: reply.head, body: bound_body(reply.body, cx.budget, to) }
        } else {
            self.caller.call(cx, method, msg).await?
        };
        // The caller, too: with it ends the stream of small calls, and the server takes that for the end of all.
        let kept = (self.caller.clone(), self.connection.clone());
        Ok(Message { head: reply.head, body: bulk::keep(reply.body, kept) })
    }

    fn is_closed(&self) -> bool {
        self.connection.0.close_reason().is_some()
    }

    fn close(&self) {
        self.connection.0.close(DONE, b"closed");
        self.caller.link().fail("this side closed it");
    }
}

async fn accept(endpoint: Endpoint, handler: Arc<dyn Handler>, ended: CancellationToken, tasks: TaskTracker) {
    let door = Arc::new(Door::default());
    while let Some(Some(incoming)) = ended.run_until_cancelled(endpoint.accept()).await {
        let from = incoming.remote_address();
        let handshake = match door.knock(from, incoming.remote_address_validated()) {
            Knock::Begin(handshake) => handshake,
            Knock::Prove => {
                // It comes again with a token; one who cannot is refused by the drop.
                let _ = incoming.retry();
                continue;
            }
            Knock::TurnAway(e) => {
                door.turned_away(from, &e);
                incoming.refuse();
                continue;
            }
        };
        let (handler, ended, connections) = (handler.clone(), ended.child_token(), tasks.clone());
        let door = door.clone();
        tasks.spawn(async move {
            let serve = serve(incoming, (door, handshake), handler, ended.clone(), connections);
            if let Some(Err(e)) = ended.run_until_cancelled(serve).await {
                tracing::info!(%from, error = %e, "a connection was refused");
            }
            // Ends what else serves this connection.
            ended.cancel();
        });
    }
}

/// Serves one connection until it ends.
async fn serve(
    incoming: quinn::Incoming,
    (door, handshake): (Arc<Door>, Handshake),
    handler: Arc<dyn Handler>,
    ended: CancellationToken,
    tasks: TaskTracker,
) -> Result<(), NetError> {
    let from = incoming.remote_address().to_string();
    let failed = |e: &(dyn Error + 'static)| {
        refusal(&from, e).unwrap_or_else(|| NetError::Connect { to: from.clone(), cause: e.to_string() })
    };
    let shaking = async {
        let connection = incoming.await.map_err(|e| failed(&e))?;
        let peer = peer_at(&connection)?;
        let inside = door.enter(&peer).inspect_err(|e| connection.close(TURNED_AWAY, &encode(e)))?;
        let (send, receive) = connection.accept_bi().await.map_err(|e| failed(&e))?;
        let mut reader = FrameReader::new(receive, &peer.name);
        let hello = reader.next().await?.ok_or(NetError::Cancelled)?;
        let link = Link::new(send, ended.clone(), &peer.name);
        link.out.push(frame::hello());
        if let Err(e) = frame::check_hello(&hello) {
            connection.close(VarInt::from_u32(2), e.to_string().as_bytes());
            return Err(e);
        }
        Ok((connection, peer, inside, link, reader))
    };
    let late = |_| NetError::Connect { to: from.clone(), cause: "the handshake took too long".into() };
    let (connection, peer, inside, link, reader) =
        tokio::time::timeout(CONNECT_TIMEOUT, shaking).await.map_err(late)??;
    drop(handshake);
    let open = Open(connection.clone());
    let share = inside.share();
    let reader = reader.within(share.clone());
    let service = Arc::new(Service { handler, peer, door, share, tasks: tasks.clone() });
    let small = server::serve(link, reader, service.clone(), Some(connection.clone()));
    let bulk = async {
        while let Ok((send, receive)) = connection.accept_bi().await {
            let (service, ended) = (service.clone(), ended.clone());
            tasks.spawn(async move {
                ended.run_until_cancelled(bulk::serve(&service, send, receive)).await;
            });
        }
    };
    tokio::join!(small, bulk);
    drop(open);
    Ok(())
}

struct QuicListening {
    endpoint: Endpoint,
    local: SocketAddr,
    ended: CancellationToken,
    tasks: TaskTracker,
}

impl QuicListening {
    fn stop(&self) {
        self.ended.cancel();
        self.endpoint.close(DONE, b"the listener closed");
        self.tasks.close();
    }
}

impl Drop for QuicListening {
    fn drop(&mut self) {
        self.stop();
    }
}

#[async_trait]
impl Listening for QuicListening {
    fn local_addr(&self) -> String {
        self.local.to_string()
    }

    async fn close(self: Box<Self>) {
        self.stop();
        self.tasks.wait().await;
        let local = self.local;
        let freed = async {
            // The last connection says good-bye; then quinn's own task lets the socket go.
            self.endpoint.wait_idle().await;
            drop(self);
            while std::net::UdpSocket::bind(local).is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN, freed).await;
    }
}
