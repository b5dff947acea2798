//! Frames on a byte stream: what every transport with a wire reads and writes.

use crate::{
    call::CONTEXT_BYTES_MAX,
    door::Share,
    socket::{refusal, with_cause},
};
use bytes::{Buf as _, Bytes, BytesMut};
use mooseng_core::{
    context::CallContext,
    error::NetError,
    limits::PIECE_BYTES_MAX,
    net::{Method, Piece},
    wire::{
        FLAG_STREAM, FLAG_WHOLE, FrameHeader, FrameKind, HEADER_BYTES, VERSION, VERSION_MIN, bounded, decode,
        encode,
    },
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::OwnedSemaphorePermit,
};

/// Bytes read at once when nothing says that more belong to the frame.
const READ_BYTES: usize = 16 << 10;
/// Bodies up to here are copied behind their head: one write is cheaper than two.
const JOIN_BYTES_MAX: usize = 4 << 10;
/// Messages over this are long: on QUIC they have a stream of their own.
pub(crate) const SHARED_BYTES_MAX: usize = 64 << 10;

/// A frame that arrived.
pub(crate) struct Frame {
    pub(crate) header: FrameHeader,
    pub(crate) head: Bytes,
    pub(crate) body: Bytes,
    /// The room that a long request takes of its client's share, as long as this is kept.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

impl Frame {
    pub(crate) fn streams(&self) -> bool {
        self.header.flags & FLAG_STREAM != 0
    }

    /// Whether a body that may have no bytes is there.
    pub(crate) fn whole(&self) -> bool {
        self.header.flags & FLAG_WHOLE != 0
    }

    /// The error in an [`FrameKind::Error`] frame.
    pub(crate) fn error(&self) -> NetError {
        decode(&self.head).unwrap_or_else(|e| NetError::Malformed { what: format!("an error frame: {e}") })
    }

    pub(crate) fn piece(self) -> Piece {
        Piece { head: self.head, data: self.body }
    }
}

/// A frame that leaves: its header, head and a short body, then a long body uncopied.
pub(crate) struct Outgoing {
    pub(crate) first: Bytes,
    pub(crate) rest: Bytes,
}

impl Outgoing {
    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }
}

fn outgoing(kind: FrameKind, flags: u16, request: u64, method: u16, head: &[&[u8]], body: Bytes) -> Outgoing {
    let head_len = head.iter().map(|h| h.len()).sum::<usize>();
    let header =
        FrameHeader { kind, flags, request, method, head_len: head_len as u32, body_len: body.len() as u32 };
    let joined = body.len() <= JOIN_BYTES_MAX;
    let mut first = BytesMut::with_capacity(HEADER_BYTES + head_len + if joined { body.len() } else { 0 });
    first.extend_from_slice(&header.encode());
    head.iter().for_each(|h| first.extend_from_slice(h));
    let mut rest = body;
    if joined {
        first.extend_from_slice(&rest);
        rest.clear();
    }
    Outgoing { first: first.freeze(), rest }
}

/// The payload that goes along in the first frame of a message, and its flags.
pub(crate) fn opening(body: &mooseng_core::net::Body) -> (u16, Bytes) {
    use mooseng_core::net::Body;
    match body {
        Body::Empty => (0, Bytes::new()),
        Body::Whole(bytes) => (FLAG_WHOLE, bytes.clone()),
        Body::Stream(_) => (FLAG_STREAM, Bytes::new()),
    }
}

pub(crate) fn request(
    cx: &CallContext,
    id: u64,
    method: Method,
    head: &[u8],
    (flags, body): (u16, Bytes),
) -> Result<Outgoing, NetError> {
    let cx = encode(cx);
    bounded("call context", cx.len(), CONTEXT_BYTES_MAX)?;
    Ok(outgoing(FrameKind::Request, flags, id, method.0, &[&cx, head], body))
}

pub(crate) fn reply(id: u64, head: &[u8], (flags, body): (u16, Bytes)) -> Outgoing {
    outgoing(FrameKind::Reply, flags, id, 0, &[head], body)
}

pub(crate) fn piece(id: u64, piece: Piece) -> Outgoing {
    outgoing(FrameKind::Piece, 0, id, 0, &[&piece.head], piece.data)
}

pub(crate) fn end(id: u64) -> Outgoing {
    outgoing(FrameKind::End, 0, id, 0, &[], Bytes::new())
}

pub(crate) fn error(id: u64, error: &NetError) -> Outgoing {
    outgoing(FrameKind::Error, 0, id, 0, &[&encode(error)], Bytes::new())
}

pub(crate) fn cancel(id: u64) -> Outgoing {
    outgoing(FrameKind::Cancel, 0, id, 0, &[], Bytes::new())
}

pub(crate) fn window(id: u64, bytes: u32) -> Outgoing {
    outgoing(FrameKind::Window, 0, id, 0, &[&encode(&bytes)], Bytes::new())
}

/// What both sides say first.
#[derive(Serialize, Deserialize)]
struct Hello {
    min: u8,
    max: u8,
}

pub(crate) fn hello() -> Outgoing {
    let head = encode(&Hello { min: VERSION_MIN, max: VERSION });
    outgoing(FrameKind::Hello, 0, 0, 0, &[&head], Bytes::new())
}

/// Refuses a peer with which no version is shared.
pub(crate) fn check_hello(frame: &Frame) -> Result<(), NetError> {
    if frame.header.kind == FrameKind::Error {
        return Err(frame.error());
    }
    if frame.header.kind != FrameKind::Hello {
        return Err(NetError::Malformed { what: "the first frame is not a hello".into() });
    }
    let Hello { min, max } = decode(&frame.head)?;
    if min > VERSION || max < VERSION_MIN {
        return Err(NetError::Version { got: max, min: VERSION_MIN, max: VERSION });
    }
    Ok(())
}

/// Parts a request's head into the context of the call and the head that its caller gave.
pub(crate) fn split_context(head: Bytes) -> Result<(CallContext, Bytes), NetError> {
    match postcard::take_from_bytes::<CallContext>(&head) {
        Ok((cx, rest)) => {
            let at = head.len() - rest.len();
            bounded("call context", at, CONTEXT_BYTES_MAX)?;
            Ok((cx, head.slice(at..)))
        }
        Err(e) => Err(NetError::Malformed { what: format!("call context does not decode: {e}") }),
    }
}

/// Reads frames; lengths are checked before anything is allocated. [`FrameReader::next`] may be
/// dropped and called again.
pub(crate) struct FrameReader<R> {
    from: R,
    buffer: BytesMut,
    peer: String,
    share: Option<Arc<Share>>,
    /// For the frame that is arriving.
    room: Option<OwnedSemaphorePermit>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(from: R, peer: &str) -> Self {
        Self { from, buffer: BytesMut::new(), peer: peer.into(), share: None, room: None }
    }

    /// Long requests take room of a client's share before they are read.
    pub(crate) fn within(self, share: Option<Arc<Share>>) -> Self {
        Self { share, ..self }
    }

    fn closed(&self, cause: impl std::fmt::Display) -> NetError {
        NetError::Closed { peer: self.peer.clone(), cause: cause.to_string(), sent: true }
    }

    /// The next frame; none at the stream's end between frames.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, NetError> {
        loop {
            let mut wanted = HEADER_BYTES;
            if let Some(bytes) = self.buffer.first_chunk::<HEADER_BYTES>() {
                let header = FrameHeader::decode(bytes)?;
                if header.kind == FrameKind::Piece {
                    bounded("piece", header.body_len as usize, PIECE_BYTES_MAX)?;
                }
                wanted += header.head_len as usize + header.body_len as usize;
                let is_long = header.kind == FrameKind::Request && wanted > SHARED_BYTES_MAX;
                if let Some(share) = self.share.as_ref().filter(|_| is_long && self.room.is_none()) {
                    self.room = share.room(wanted).await;
                }
                if self.buffer.len() >= wanted {
                    return Ok(Some(self.take(header)));
                }
            }
            self.buffer.reserve((wanted - self.buffer.len()).max(READ_BYTES));
            match self.from.read_buf(&mut self.buffer).await {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(self.closed("it ended inside a frame")),
                Ok(_) => {}
                Err(e) => return Err(refusal(&self.peer, &e).unwrap_or_else(|| self.closed(with_cause(&e)))),
            }
        }
    }

    fn take(&mut self, header: FrameHeader) -> Frame {
        self.buffer.advance(HEADER_BYTES);
        // A small part must not keep the whole buffer alive.
        let mut part = |len: usize| match len {
            0..=JOIN_BYTES_MAX => {
                let bytes = Bytes::copy_from_slice(&self.buffer[..len]);
                self.buffer.advance(len);
                bytes
            }
            _ => self.buffer.split_to(len).freeze(),
        };
        let (head, body) = (part(header.head_len as usize), part(header.body_len as usize));
        Frame { header, head, body, room: self.room.take() }
    }
}
