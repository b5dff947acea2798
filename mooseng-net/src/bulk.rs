//! Calls and replies on QUIC streams of their own: long bodies do not stand in the way of small
//! calls, and QUIC's flow control holds back whoever is not polled.

use crate::{
    call::check_piece,
    frame::{self, Frame, FrameReader, Outgoing, SHARED_BYTES_MAX},
    mux::{caller::Calls, server::Service},
};
use futures::StreamExt as _;
use mooseng_core::{
    context::CallContext,
    error::NetError,
    net::{Body, Message, Method, Pieces},
    wire::FrameKind,
};
use quinn::{Connection, RecvStream, SendStream, VarInt, WriteError};
use std::sync::Arc;
use tokio::task::AbortHandle;

/// Tells the other side that nobody wants the stream.
const UNWANTED: VarInt = VarInt::from_u32(1);

/// Whether a message belongs on a stream of its own.
pub(crate) fn is_bulk(msg: &Message) -> bool {
    match &msg.body {
        Body::Empty => msg.head.len() > SHARED_BYTES_MAX,
        Body::Whole(bytes) => msg.head.len() + bytes.len() > SHARED_BYTES_MAX,
        Body::Stream(_) => true,
    }
}

/// A stream that is reset when it is dropped before its end; quinn would end it well.
struct Sending {
    stream: SendStream,
    done: bool,
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.stream.reset(UNWANTED);
        }
    }
}

impl Sending {
    fn new(stream: SendStream) -> Self {
        Self { stream, done: false }
    }

    async fn frame(&mut self, frame: Outgoing) -> Result<(), WriteError> {
        let mut parts = [frame.first, frame.rest];
        self.stream.write_all_chunks(&mut parts).await
    }

    /// Writes the first frame, then the pieces and their end.
    async fn message(mut self, id: u64, first: Outgoing, body: Body) -> Result<(), WriteError> {
        self.frame(first).await?;
        if let Body::Stream(pieces) = body {
            self.pieces(id, pieces).await?;
        }
        self.done = true;
        let _ = self.stream.finish();
        Ok(())
    }

    async fn pieces(&mut self, id: u64, mut pieces: Pieces) -> Result<(), WriteError> {
        loop {
            let last = match pieces.next().await {
                Some(Ok(piece)) => match check_piece(&piece) {
                    Ok(()) => {
                        self.frame(frame::piece(id, piece)).await?;
                        continue;
                    }
                    Err(e) => frame::error(id, &e),
                },
                Some(Err(e)) => frame::error(id, &e),
                None => frame::end(id),
            };
            return self.frame(last).await;
        }
    }
}

/// The body that begins with `first` and goes on in `reader`.
fn body_of(first: &mut Frame, reader: FrameReader<RecvStream>) -> Body {
    if first.streams() {
        Body::Stream(pieces_of(reader))
    } else if first.whole() {
        Body::Whole(std::mem::take(&mut first.body))
    } else {
        Body::Empty
    }
}

fn pieces_of(reader: FrameReader<RecvStream>) -> Pieces {
    futures::stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        let error = match reader.next().await {
            Ok(Some(frame)) => match frame.header.kind {
                FrameKind::Piece => return Some((Ok(frame.piece()), Some(reader))),
                FrameKind::End => return None,
                FrameKind::Error => frame.error(),
                kind => NetError::Malformed { what: format!("{kind:?} among the pieces of a stream") },
            },
            Ok(None) => NetError::Malformed { what: "a stream without its end".into() },
            Err(e) => e,
        };
        Some((Err(error), None))
    })
    .boxed()
}

/// Pushes a reply to the caller of `id` on a stream that this side opens.
pub(crate) async fn push(connection: &Connection, id: u64, reply: Message) {
    // Failing means that the connection ended or that nobody wants it: the caller knows.
    if let Ok(stream) = connection.open_uni().await {
        let first = frame::reply(id, &reply.head, frame::opening(&reply.body));
        let _ = Sending::new(stream).message(id, first, reply.body).await;
    }
}

/// Takes the replies that the server pushes, until the connection ends.
pub(crate) async fn take_pushed(connection: Connection, calls: Arc<Calls>, peer: String) {
    while let Ok(stream) = connection.accept_uni().await {
        let (calls, mut reader) = (calls.clone(), FrameReader::new(stream, &peer));
        // A task of its own: its first frame may come later than those of others.
        tokio::spawn(async move {
            if let Ok(Some(mut first)) = reader.next().await
                && first.header.kind == FrameKind::Reply
            {
                let (id, head) = (first.header.request, std::mem::take(&mut first.head));
                let body = body_of(&mut first, reader);
                calls.answer(id, Ok(Message { head, body }));
            }
        });
    }
}

/// Stops the request's stream when its call is given up.
struct Pump {
    task: AbortHandle,
    finished: bool,
}

impl Drop for Pump {
    fn drop(&mut self) {
        if !self.finished {
            self.task.abort();
        }
    }
}

/// Asks on a stream that belongs to this call.
pub(crate) async fn call(
    connection: &Connection,
    peer: &str,
    cx: &CallContext,
    method: Method,
    msg: Message,
) -> Result<Message, NetError> {
    let request = frame::request(cx, 0, method, &msg.head, frame::opening(&msg.body))?;
    let (send, receive) = connection.open_bi().await.map_err(|e| NetError::Closed {
        peer: peer.into(),
        cause: e.to_string(),
        sent: false,
    })?;
    // The handler may answer before the request's end, and must not wait for us to read.
    let task = tokio::spawn(Sending::new(send).message(0, request, msg.body)).abort_handle();
    let mut pump = Pump { task, finished: false };
    let mut reader = FrameReader::new(receive, peer);
    let mut first = match reader.next().await {
        Ok(Some(frame)) => frame,
        Ok(None) => {
            let cause = "the stream ended without a reply".into();
            return Err(NetError::Closed { peer: peer.into(), cause, sent: true });
        }
        Err(e) => return Err(e),
    };
    match first.header.kind {
        FrameKind::Reply => {
            let head = std::mem::take(&mut first.head);
            let body = match body_of(&mut first, reader) {
                Body::Stream(pieces) => Body::Stream(with_pump(pieces, pump)),
                whole => {
                    pump.finished = true;
                    whole
                }
            };
            Ok(Message { head, body })
        }
        FrameKind::Error => Err(first.error()),
        kind => Err(NetError::Malformed { what: format!("{kind:?} instead of a reply") }),
    }
}

fn with_pump(pieces: Pieces, pump: Pump) -> Pieces {
    futures::stream::unfold(Some((pieces, pump)), |state| async move {
        let (mut pieces, mut pump) = state?;
        match pieces.next().await {
            Some(Ok(piece)) => Some((Ok(piece), Some((pieces, pump)))),
            end => {
                pump.finished = true;
                Some((end?, None))
            }
        }
    })
    .boxed()
}

/// Answers the one call of a stream. Ends when the caller gives up.
pub(crate) async fn serve(service: &Service, send: SendStream, receive: RecvStream) {
    let unwanted = send.stopped();
    let send = Sending::new(send);
    let work = async {
        let _begun = match service.begin(true) {
            Ok(begun) => begun,
            Err(e) => return drop(send.message(0, frame::error(0, &e), Body::Empty).await),
        };
        let mut reader = FrameReader::new(receive, &service.peer.name).within(service.share.clone());
        let reply = match reader.next().await {
            Ok(Some(mut first)) if first.header.kind == FrameKind::Request => {
                let body = body_of(&mut first, reader);
                service.answer(first, body).await
            }
            Ok(Some(_)) => {
                Err(NetError::Malformed { what: "a stream that does not begin with a request".into() })
                    .inspect_err(|e| service.note(e))
            }
            Ok(None) => return,
            Err(e) => Err(e).inspect_err(|e| service.note(e)),
        };
        let (first, body) = match reply {
            Ok(reply) => (frame::reply(0, &reply.head, frame::opening(&reply.body)), reply.body),
            Err(e) => (frame::error(0, &e), Body::Empty),
        };
        let _ = send.message(0, first, body).await;
    };
    tokio::select! {
        () = work => {}
        _ = unwanted => {}
    }
}

/// Keeps a connection open as long as a reply's body is read.
pub(crate) fn keep<T: Send + 'static>(body: Body, connection: T) -> Body {
    match body {
        Body::Stream(pieces) => {
            let kept = futures::stream::unfold((pieces, connection), |(mut pieces, kept)| async move {
                let piece = pieces.next().await?;
                Some((piece, (pieces, kept)))
            });
            Body::Stream(kept.boxed())
        }
        other => other,
    }
}
