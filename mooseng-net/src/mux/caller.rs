//! The side that asks.

use super::{Inbound, Link, Room, arriving, read_on};
use crate::{
    call::{bound_body, check_message, within},
    frame::{self, Frame, FrameReader},
};
use futures::StreamExt as _;
use mooseng_core::{
    context::CallContext,
    error::NetError,
    limits::CALLS_IN_FLIGHT_MAX,
    net::{Body, Message, Method, Pieces},
    wire::{FrameKind, decode},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::AsyncRead,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::AbortHandle,
};

/// A call whose answer, or its rest, is awaited.
struct Waiting {
    answer: Option<oneshot::Sender<Result<Message, NetError>>>,
    inbound: Option<Inbound>,
    room: Arc<Room>,
}

impl Waiting {
    fn fail(self, error: NetError) {
        if let Some(answer) = self.answer {
            let _ = answer.send(Err(error));
        } else if let Some(inbound) = self.inbound {
            inbound.fail(error);
        }
        self.room.refuse();
    }
}

/// Calls under way, by number.
#[derive(Default)]
pub(crate) struct Calls(Mutex<BTreeMap<u64, Waiting>>);

impl Calls {
    /// Gives a reply that came another way to its caller; false when nobody waits for it.
    pub(crate) fn answer(&self, id: u64, reply: Result<Message, NetError>) -> bool {
        let answer = self.0.lock().get_mut(&id).and_then(|w| w.answer.take());
        answer.is_some_and(|a| a.send(reply).is_ok())
    }

    fn take(&self, link: &Arc<Link>, frame: Frame) -> Result<(), NetError> {
        let id = frame.header.request;
        let mut calls = self.0.lock();
        // What was given up may still be arriving.
        let Some(call) = calls.get_mut(&id) else { return Ok(()) };
        match frame.header.kind {
            FrameKind::Reply => {
                let Some(answer) = call.answer.take() else {
                    return Err(NetError::Malformed { what: "a second reply to one call".into() });
                };
                let body = if frame.streams() {
                    let (inbound, pieces) = arriving(link, id, None);
                    call.inbound = Some(inbound);
                    Body::Stream(pieces)
                } else if frame.whole() {
                    Body::Whole(frame.body)
                } else {
                    Body::Empty
                };
                drop(calls);
                let _ = answer.send(Ok(Message { head: frame.head, body }));
            }
            FrameKind::Piece => match &call.inbound {
                Some(inbound) => inbound.piece(frame.piece())?,
                None => return Err(NetError::Malformed { what: "a piece without a stream".into() }),
            },
            FrameKind::End => {
                if let Some(inbound) = call.inbound.take() {
                    inbound.end();
                }
            }
            FrameKind::Error => {
                if let Some(call) = calls.remove(&id) {
                    call.fail(frame.error());
                }
            }
            FrameKind::Window => call.room.give(decode(&frame.head)?),
            FrameKind::Cancel => call.room.refuse(),
            FrameKind::Hello | FrameKind::Request => {
                return Err(NetError::Malformed { what: "a frame that only a caller sends".into() });
            }
        }
        Ok(())
    }
}

/// Asks over one link; ends the link when it is dropped.
pub(crate) struct Caller {
    link: Arc<Link>,
    calls: Arc<Calls>,
    next: AtomicU64,
    permits: Arc<Semaphore>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.link.fail("this side closed it");
    }
}

impl Caller {
    /// Starts the link's tasks. The hellos have been exchanged.
    pub(crate) fn start<R: AsyncRead + Send + Unpin + 'static>(
        link: Arc<Link>,
        reader: FrameReader<R>,
        calls: Arc<Calls>,
    ) -> Arc<Self> {
        tokio::spawn(link.clone().write_on());
        let (l, c) = (link.clone(), calls.clone());
        tokio::spawn(async move {
            read_on(&l, reader, |frame| c.take(&l, frame)).await;
            // Ended first, so that no call can come after this.
            let calls = std::mem::take(&mut *c.0.lock());
            calls.into_values().for_each(|w| w.fail(l.closed(true)));
        });
        let permits = Arc::new(Semaphore::new(CALLS_IN_FLIGHT_MAX));
        Arc::new(Self { link, calls, next: AtomicU64::new(1), permits })
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) async fn call(
        self: &Arc<Self>,
        cx: &CallContext,
        method: Method,
        msg: Message,
    ) -> Result<Message, NetError> {
        check_message(&msg)?;
        within(cx.budget, self.link.peer(), self.begin(cx, method, msg)).await
    }

    async fn begin(
        self: &Arc<Self>,
        cx: &CallContext,
        method: Method,
        msg: Message,
    ) -> Result<Message, NetError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| self.link.closed(false))?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let request = frame::request(cx, id, method, &msg.head, frame::opening(&msg.body))?;
        let (answer, answered) = oneshot::channel();
        let room = Arc::new(Room::default());
        {
            let mut calls = self.calls.0.lock();
            if self.link.ended.is_cancelled() {
                return Err(self.link.closed(false));
            }
            calls.insert(id, Waiting { answer: Some(answer), inbound: None, room: room.clone() });
        }
        let mut call = Call { caller: self.clone(), id, pump: None, finished: false, _permit: permit };
        self.link.out.send(request).await;
        if let Body::Stream(pieces) = msg.body {
            let link = self.link.clone();
            let pump = async move { link.pump(id, pieces, &room).await };
            call.pump = Some(tokio::spawn(pump).abort_handle());
        }
        let reply = answered.await.unwrap_or_else(|_| Err(self.link.closed(true)));
        let Message { head, body } = reply.inspect_err(|_| call.finished = true)?;
        let body = match body {
            Body::Stream(pieces) => Body::Stream(until_done(pieces, call)),
            whole => {
                call.finished = true;
                whole
            }
        };
        Ok(Message { head, body: bound_body(body, cx.budget, self.link.peer()) })
    }
}

/// A call in flight: dropped before its end, it is cancelled at the server.
struct Call {
    caller: Arc<Caller>,
    id: u64,
    pump: Option<AbortHandle>,
    finished: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Call {
    fn drop(&mut self) {
        let unfinished = self.caller.calls.0.lock().remove(&self.id);
        if !self.finished {
            if let Some(pump) = &self.pump {
                pump.abort();
            }
            self.caller.link.out.push(frame::cancel(self.id));
        } else if let Some(call) = unfinished {
            // The server is done: what it did not take of the request, it does not want.
            call.room.refuse();
        }
    }
}

/// The pieces of a reply, and what keeps its call alive.
fn until_done(pieces: Pieces, call: Call) -> Pieces {
    futures::stream::unfold(Some((pieces, call)), |state| async move {
        let (mut pieces, mut call) = state?;
        match pieces.next().await {
            Some(Ok(piece)) => Some((Ok(piece), Some((pieces, call)))),
            end => {
                call.finished = true;
                Some((end?, None))
            }
        }
    })
    .boxed()
}
