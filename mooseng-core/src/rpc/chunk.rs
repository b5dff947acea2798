//! The chunk store over a connection. Payload bytes pass by reference count.

use super::{Refusals, method};
use crate::{
    chunk::*,
    context::CallContext,
    error::{ChunkError, NetError},
    ids::ChunkId,
    limits::FRAME_BYTES_MAX,
    net::{Body, Connection, Handler, Message, Method, PeerIdentity, Piece, Pieces, Role},
    wire::{decode, encode},
};
use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// A remote chunkserver.
#[derive(Clone)]
pub struct RemoteChunks(Arc<dyn Connection>);

impl RemoteChunks {
    /// Over a connection to a chunkserver.
    pub fn new(connection: Arc<dyn Connection>) -> Self {
        Self(connection)
    }
    /// The connection.
    pub fn connection(&self) -> &Arc<dyn Connection> {
        &self.0
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        cx: &CallContext,
        m: Method,
        req: &impl Serialize,
    ) -> Result<T, ChunkError> {
        let reply = self.0.call(cx, m, Message::of_head(encode(req))).await?;
        decode::<Result<T, ChunkError>>(&reply.head)?
    }
}

fn stream_of(reply: Message) -> Result<Pieces, ChunkError> {
    decode::<Result<(), ChunkError>>(&reply.head)??;
    match reply.body {
        Body::Stream(pieces) => Ok(pieces),
        Body::Empty | Body::Whole(_) => {
            Err(NetError::Malformed { what: "a stream was expected".into() }.into())
        }
    }
}

fn frames_to_pieces(frames: Frames) -> Pieces {
    frames
        .map(|frame| {
            Ok(match frame {
                Ok(f) => Piece { head: encode(&Ok::<_, ChunkError>(f.head)), data: f.data },
                Err(e) => Piece { head: encode(&Err::<FrameHead, _>(e)), data: Default::default() },
            })
        })
        .boxed()
}

fn pieces_to_frames(pieces: Pieces) -> Frames {
    until_error(pieces.map(|piece| {
        let piece = piece?;
        let head = decode::<Result<FrameHead, ChunkError>>(&piece.head)??;
        if piece.data.len() > FRAME_BYTES_MAX {
            let (bytes, limit) = (piece.data.len() as u64, FRAME_BYTES_MAX as u64);
            return Err(NetError::TooLarge { what: "frame".into(), bytes, limit }.into());
        }
        Ok(Frame { head, data: piece.data })
    }))
}

fn acks_to_pieces(acks: Acks) -> Pieces {
    acks.map(|ack| Ok(Piece { head: encode(&ack), data: Default::default() })).boxed()
}

fn pieces_to_acks(pieces: Pieces) -> Acks {
    until_error(pieces.map(|piece| decode::<Result<Ack, ChunkError>>(&piece?.head)?))
}

/// Ends a stream after its first error.
fn until_error<T: Send + 'static>(
    s: impl futures::Stream<Item = Result<T, ChunkError>> + Send + 'static,
) -> stream::BoxStream<'static, Result<T, ChunkError>> {
    s.scan(false, |failed, item| {
        let end = std::mem::replace(failed, *failed || item.is_err());
        futures::future::ready((!end).then_some(item))
    })
    .boxed()
}

#[async_trait]
impl ChunkStore for RemoteChunks {
    async fn read(&self, cx: &CallContext, req: ReadRequest) -> Result<Frames, ChunkError> {
        let reply = self.0.call(cx, method::CHUNK_READ, Message::of_head(encode(&req))).await?;
        Ok(pieces_to_frames(stream_of(reply)?))
    }

    async fn write(&self, cx: &CallContext, req: WriteRequest, frames: Frames) -> Result<Acks, ChunkError> {
        let msg = Message { head: encode(&req), body: Body::Stream(frames_to_pieces(frames)) };
        let reply = self.0.call(cx, method::CHUNK_WRITE, msg).await?;
        Ok(pieces_to_acks(stream_of(reply)?))
    }

    async fn sync(&self, cx: &CallContext, req: SyncRequest) -> Result<SyncDone, ChunkError> {
        self.ask(cx, method::CHUNK_SYNC, &req).await
    }

    async fn control(&self, cx: &CallContext, op: Control) -> Result<ControlReply, ChunkError> {
        self.ask(cx, method::CHUNK_CONTROL, &op).await
    }

    async fn list(
        &self,
        cx: &CallContext,
        after: Option<ChunkId>,
        max: u32,
    ) -> Result<ChunkPage, ChunkError> {
        self.ask(cx, method::CHUNK_LIST, &(after, max)).await
    }
}

/// Answers calls with a chunk store; checks that the peer's role allows each request. Capabilities
/// are the store's to check: it sees the peer in `cx.peer`.
pub struct ChunkHandler(Arc<dyn ChunkStore>, Refusals);

impl ChunkHandler {
    /// Around a store.
    pub fn new(store: Arc<dyn ChunkStore>) -> Self {
        Self(store, Refusals::default())
    }

    /// Notes an answer that says that the caller asked for what it may not have, or for nonsense.
    fn noted<T>(
        &self,
        peer: &PeerIdentity,
        what: &str,
        answer: Result<T, ChunkError>,
    ) -> Result<T, ChunkError> {
        use ChunkError::{Fenced, Forbidden, Invalid, OldTerm};
        if let Err(e @ (Forbidden(_) | Fenced | OldTerm { .. } | Invalid(_))) = &answer {
            self.1.note(peer, format_args!("{what}: {e}"));
        }
        answer
    }
}

fn control_allowed(role: Role, op: &Control) -> bool {
    match op {
        Control::Stat { .. } | Control::Table { .. } | Control::Numbers { .. } => {
            matches!(role, Role::Master | Role::Chunkserver)
        }
        Control::SetVersion { .. }
        | Control::Pull { .. }
        | Control::Delete { .. }
        | Control::Fence { .. } => role == Role::Master,
    }
}

fn streaming(result: Result<Pieces, ChunkError>) -> Message {
    match result {
        Ok(pieces) => Message { head: encode(&Ok::<(), ChunkError>(())), body: Body::Stream(pieces) },
        Err(e) => Message::of_head(encode(&Err::<(), _>(e))),
    }
}

#[async_trait]
impl Handler for ChunkHandler {
    async fn handle(
        &self,
        peer: &PeerIdentity,
        mut cx: CallContext,
        method: Method,
        msg: Message,
    ) -> Result<Message, NetError> {
        cx.peer = Some(Arc::new(peer.clone()));
        match method {
            method::CHUNK_READ => {
                let frames = self.noted(peer, "a read", self.0.read(&cx, decode(&msg.head)?).await);
                Ok(streaming(frames.map(frames_to_pieces)))
            }
            method::CHUNK_WRITE => {
                let Body::Stream(pieces) = msg.body else {
                    return Err(NetError::Malformed { what: "a write without a stream".into() });
                };
                let acks = self.0.write(&cx, decode(&msg.head)?, pieces_to_frames(pieces)).await;
                let acks = self.noted(peer, "a write", acks);
                Ok(streaming(acks.map(acks_to_pieces)))
            }
            method::CHUNK_SYNC => {
                let reply = self.noted(peer, "a sync", self.0.sync(&cx, decode(&msg.head)?).await);
                Ok(Message::of_head(encode(&reply)))
            }
            method::CHUNK_CONTROL => {
                let op: Control = decode(&msg.head)?;
                if !control_allowed(peer.role, &op) {
                    super::need_role("this command", peer.role, &[])?;
                }
                let reply = self.noted(peer, "a command", self.0.control(&cx, op).await);
                Ok(Message::of_head(encode(&reply)))
            }
            method::CHUNK_LIST => {
                super::need_role("listing chunks", peer.role, &[Role::Master, Role::Admin])?;
                let (after, max) = decode(&msg.head)?;
                Ok(Message::of_head(encode(&self.0.list(&cx, after, max).await)))
            }
            other => Err(NetError::UnknownMethod(other.0)),
        }
    }
}
