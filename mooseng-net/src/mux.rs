//! Calls over one byte stream: many at once, with streams both ways under windows.
//!
//! ```text
//!   caller: Request  [Piece… End | Error]  Window…  Cancel
//!   server: Reply | Error  [Piece… End | Error]  Window…  Cancel
//! ```
//! A stream's sender may have [`WINDOW_BYTES`] under way that the receiver has not polled; `Window`
//! gives room back (as HTTP/2 does, RFC 9113 §5.2). `Cancel` of the caller ends the call, of the
//! server the request's stream.

pub(crate) mod caller;
pub(crate) mod server;
#[cfg(test)]
mod tests;

use crate::{
    call::check_piece,
    frame::{self, FrameReader, Outgoing},
    outbox::Outbox,
    socket::with_cause,
};
use futures::{Stream, StreamExt as _};
use mooseng_core::{
    error::NetError,
    net::{Piece, Pieces},
};
use parking_lot::Mutex;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, mpsc},
};
use tokio_util::sync::CancellationToken;

/// Bytes of one stream that may be under way and not polled: 10 Gbit/s at 2 ms.
pub(crate) const WINDOW_BYTES: i64 = 2 << 20;
/// What a piece costs besides its bytes, so that empty ones are bounded too.
const PIECE_OVERHEAD_BYTES: usize = 128;

fn cost(piece: &Piece) -> i64 {
    (piece.head.len() + piece.data.len() + PIECE_OVERHEAD_BYTES) as i64
}

/// One shared byte stream: its way out and its end.
pub(crate) struct Link {
    pub(crate) out: Outbox,
    pub(crate) ended: CancellationToken,
    peer: String,
    cause: Mutex<Option<String>>,
}

impl Link {
    pub(crate) fn new(
        to: impl AsyncWrite + Send + 'static,
        ended: CancellationToken,
        peer: &str,
    ) -> Arc<Self> {
        Arc::new(Self { out: Outbox::new(to), ended, peer: peer.into(), cause: Mutex::default() })
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// Ends it; the first cause is kept.
    pub(crate) fn fail(&self, cause: impl std::fmt::Display) {
        self.cause.lock().get_or_insert_with(|| cause.to_string());
        self.ended.cancel();
        self.out.close();
    }

    pub(crate) fn closed(&self, sent: bool) -> NetError {
        let cause = self.cause.lock().clone().unwrap_or_else(|| "the peer or this side closed it".into());
        NetError::Closed { peer: self.peer.clone(), cause, sent }
    }

    /// Writes until the link ends.
    pub(crate) async fn write_on(self: Arc<Self>) {
        let ended = self.ended.clone();
        if let Some(e) = ended.run_until_cancelled(self.out.write_on()).await {
            self.fail(with_cause(&e));
        }
    }

    /// Sends a stream's pieces and its end, no faster than `room` allows.
    async fn pump(&self, id: u64, mut pieces: Pieces, room: &Room) {
        loop {
            let last = match pieces.next().await {
                Some(Ok(piece)) => match check_piece(&piece) {
                    Ok(()) => {
                        if !room.take(cost(&piece)).await {
                            return;
                        }
                        self.out.send(frame::piece(id, piece)).await;
                        continue;
                    }
                    Err(e) => frame::error(id, &e),
                },
                Some(Err(e)) => frame::error(id, &e),
                None => frame::end(id),
            };
            return self.out.push(last);
        }
    }
}

/// Reads frames until the stream ends or fails; `take` gets each. The error, when the peer did not keep
/// to the protocol.
pub(crate) async fn read_on<R: AsyncRead + Unpin>(
    link: &Link,
    mut reader: FrameReader<R>,
    mut take: impl FnMut(frame::Frame) -> Result<(), NetError>,
) -> Option<NetError> {
    let end = link.ended.run_until_cancelled(async {
        loop {
            match reader.next().await {
                Ok(Some(frame)) => take(frame)?,
                Ok(None) => return Err(NetError::Cancelled),
                Err(e) => return Err::<(), _>(e),
            }
        }
    });
    match end.await {
        None | Some(Ok(()) | Err(NetError::Cancelled)) => link.fail("the peer or this side closed it"),
        Some(Err(NetError::Closed { cause, .. })) => link.fail(cause),
        Some(Err(e)) => {
            link.fail(&e);
            return Some(e);
        }
    }
    None
}

/// What the receiver of a stream still allows its sender.
#[derive(Default)]
pub(crate) struct Room {
    /// Bytes used beyond what was given back.
    used: AtomicI64,
    more: Notify,
}

/// So much used means that the receiver wants no more.
const REFUSED: i64 = i64::MAX / 2;

impl Room {
    /// Waits until something may be sent; false when the receiver wants no more. One piece may
    /// exceed the window, so that any piece fits through.
    async fn take(&self, bytes: i64) -> bool {
        loop {
            let more = self.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            match self.used.load(Ordering::Acquire) {
                REFUSED.. => return false,
                used if used < WINDOW_BYTES => break,
                _ => more.await,
            }
        }
        self.used.fetch_add(bytes, Ordering::AcqRel);
        true
    }

    fn give(&self, bytes: u32) {
        self.used.fetch_sub(i64::from(bytes), Ordering::AcqRel);
        self.more.notify_waiters();
    }

    fn refuse(&self) {
        self.used.store(REFUSED, Ordering::Release);
        self.more.notify_waiters();
    }
}

/// Where arriving pieces of a stream go.
pub(crate) struct Inbound {
    to: mpsc::UnboundedSender<Option<Result<Piece, NetError>>>,
    /// Bytes that arrived and were not given back; never over the window by more than a piece.
    used: Arc<AtomicI64>,
}

impl Inbound {
    /// Takes a piece; a sender that ignores its window is malformed.
    fn piece(&self, piece: Piece) -> Result<(), NetError> {
        if self.used.fetch_add(cost(&piece), Ordering::AcqRel) >= WINDOW_BYTES {
            return Err(NetError::Malformed { what: "more of a stream than its window allows".into() });
        }
        let _ = self.to.send(Some(Ok(piece)));
        Ok(())
    }

    fn end(self) {
        let _ = self.to.send(None);
    }

    fn fail(self, error: NetError) {
        let _ = self.to.send(Some(Err(error)));
    }
}

/// A stream's pieces as its receiver polls them.
struct Arriving {
    from: mpsc::UnboundedReceiver<Option<Result<Piece, NetError>>>,
    link: Arc<Link>,
    id: u64,
    used: Arc<AtomicI64>,
    unreturned: i64,
    done: bool,
    /// Said when it is dropped before its end.
    on_drop: Option<fn(u64) -> Outgoing>,
}

/// The two ends of a stream that arrives.
fn arriving(link: &Arc<Link>, id: u64, on_drop: Option<fn(u64) -> Outgoing>) -> (Inbound, Pieces) {
    let (to, from) = mpsc::unbounded_channel();
    let used = Arc::new(AtomicI64::new(0));
    let (link, unreturned, done) = (link.clone(), 0, false);
    let pieces = Arriving { from, link, id, used: used.clone(), unreturned, done, on_drop };
    (Inbound { to, used }, pieces.boxed())
}

impl Stream for Arriving {
    type Item = Result<Piece, NetError>;
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let me = self.get_mut();
        if me.done {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(me.from.poll_recv(cx));
        Poll::Ready(match next {
            Some(Some(Ok(piece))) => {
                me.unreturned += cost(&piece);
                if me.unreturned >= WINDOW_BYTES / 2 {
                    // Counted back before the sender may use it.
                    me.used.fetch_sub(me.unreturned, Ordering::AcqRel);
                    me.link.out.push(frame::window(me.id, me.unreturned as u32));
                    me.unreturned = 0;
                }
                Some(Ok(piece))
            }
            Some(Some(Err(e))) => {
                me.done = true;
                Some(Err(e))
            }
            Some(None) => {
                me.done = true;
                None
            }
            None => {
                me.done = true;
                Some(Err(me.link.closed(true)))
            }
        })
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(say) = self.on_drop.filter(|_| !self.done) {
            self.link.out.push(say(self.id));
        }
    }
}
