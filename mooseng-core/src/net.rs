//! The transport trait: calls of (method, head, body) between identified peers. It knows bytes,
//! not meaning.

use crate::{context::CallContext, error::NetError, ids::ClusterId};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Names what a call asks for. Numbers are given out in [`crate::rpc::method`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Method(pub u16);

/// One piece of a stream: a small head and payload bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Encoded description of the data; at most [`crate::limits::HEAD_BYTES_MAX`].
    pub head: Bytes,
    /// Payload; at most [`crate::limits::PIECE_BYTES_MAX`].
    pub data: Bytes,
}

/// A bounded stream of pieces. Nothing moves that is not polled; dropping it cancels it.
pub type Pieces = BoxStream<'static, Result<Piece, NetError>>;

/// The payload of a request or reply.
pub enum Body {
    /// No bytes.
    Empty,
    /// One piece of at most [`crate::limits::BODY_BYTES_MAX`] bytes.
    Whole(Bytes),
    /// Pieces in order; a reply's may begin before the request's end.
    Stream(Pieces),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Whole(b) => write!(f, "Whole({} bytes)", b.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// A request or a reply.
#[derive(Debug)]
pub struct Message {
    /// Encoded request or reply without its payload.
    pub head: Bytes,
    /// Payload.
    pub body: Body,
}

impl Message {
    /// A message without payload.
    pub fn of_head(head: Bytes) -> Self {
        Self { head, body: Body::Empty }
    }
}

/// What a peer is allowed to be, from its certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Keeps the namespace.
    Master,
    /// Keeps chunks.
    Chunkserver,
    /// Uses both.
    Client,
    /// A client that may also administer.
    Admin,
}

impl Role {
    /// The word used in certificates and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Chunkserver => "chunkserver",
            Self::Client => "client",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        [Self::Master, Self::Chunkserver, Self::Client, Self::Admin]
            .into_iter()
            .find(|r| r.as_str() == s)
            .ok_or_else(|| format!("no role \"{s}\": it is master, chunkserver, client or admin"))
    }
}

/// Who is at the other end, proven by its certificate (or by construction on the memory transport).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PeerIdentity {
    /// Which cluster issued the certificate.
    pub cluster: ClusterId,
    /// As what.
    pub role: Role,
    /// The node's number within its role (server id, master id), 0 for clients.
    pub node: u64,
    /// A name for people.
    pub name: String,
    /// SHA-256 of the certificate; capabilities are bound to it.
    pub cert_hash: CertHash,
}

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct CertHash(pub [u8; 32]);

impl fmt::Debug for CertHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in &self.0[..4] {
            write!(f, "{b:02x}")?;
        }
        f.write_str("…")
    }
}

/// Makes connections and listens for them.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Opens a connection to `to` (`host:port`, `[v6]:port`, or a name on the memory transport).
    ///
    /// Promise: the peer was authenticated as a member of this transport's cluster.
    /// Ordering: none between connections. Idempotent. Dropping the future opens nothing that stays.
    /// Errors: [`NetError`], all of them `NotApplied`.
    async fn connect(&self, to: &str) -> Result<Arc<dyn Connection>, NetError>;

    /// Listens at `at` and hands each call to `handler`, on a task of the transport's.
    ///
    /// Promise: when it returns, connections are accepted; [`Listening::local_addr`] tells where.
    /// Errors: address in use or not ours.
    async fn listen(&self, at: &str, handler: Arc<dyn Handler>) -> Result<Box<dyn Listening>, NetError>;
}

/// Connections to others, one for each address, made when they are needed.
pub struct Connections {
    transport: Arc<dyn Transport>,
    open: Mutex<BTreeMap<String, Arc<dyn Connection>>>,
}

impl Connections {
    /// None yet.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, open: Mutex::default() }
    }

    /// The connection to an address. When several make one at the same time, all of them get the first.
    ///
    /// Cancellation and errors: as of [`Transport::connect`].
    pub async fn get(&self, addr: &str) -> Result<Arc<dyn Connection>, NetError> {
        let there =
            |open: &BTreeMap<_, Arc<dyn Connection>>| open.get(addr).filter(|c| !c.is_closed()).cloned();
        if let Some(c) = there(&self.open()) {
            return Ok(c);
        }
        let made = self.transport.connect(addr).await?;
        let mut open = self.open();
        if let Some(c) = there(&open) {
            return Ok(c);
        }
        open.insert(addr.to_owned(), made.clone());
        Ok(made)
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<String, Arc<dyn Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One authenticated connection; calls are independent of each other.
#[async_trait]
pub trait Connection: Send + Sync + 'static {
    /// Who answers.
    fn peer(&self) -> &PeerIdentity;

    /// Sends a request and returns the head of its reply, with a body that may still be arriving.
    ///
    /// Promise: the peer's handler ran at most once for this call.
    /// Ordering: none between calls; pieces of one stream arrive in order.
    /// Cancellation: dropping the future or the reply's body cancels the handler at its next await.
    /// Errors: [`NetError::outcome`](crate::error::NetError::outcome) tells whether the handler may
    /// have run. `cx.budget` bounds the time to the reply's head and the silence between pieces.
    async fn call(&self, cx: &CallContext, method: Method, msg: Message) -> Result<Message, NetError>;

    /// Whether calls can still succeed. A connection that is closed never opens again.
    fn is_closed(&self) -> bool;

    /// Closes the connection; calls in flight end with [`NetError::Closed`].
    fn close(&self);
}

/// Answers calls.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one call of `peer`. An `Err` reaches the caller as [`NetError::Refused`] or the
    /// like; errors of the service travel inside the reply's head.
    ///
    /// Cancellation: the future is dropped when the caller gave up or its connection ended.
    async fn handle(
        &self,
        peer: &PeerIdentity,
        cx: CallContext,
        method: Method,
        msg: Message,
    ) -> Result<Message, NetError>;
}

/// A listener that is accepting.
#[async_trait]
pub trait Listening: Send + Sync {
    /// Where it listens, with the port that was chosen when 0 was asked for.
    fn local_addr(&self) -> String;
    /// Stops accepting, ends its connections and waits until its tasks are gone.
    async fn close(self: Box<Self>);
}
