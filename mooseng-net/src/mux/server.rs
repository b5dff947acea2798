//! The side that answers.

use super::{Inbound, Link, Room, arriving, read_on};
use crate::{
    bulk,
    call::{bound_body, check_reply},
    door::{Begun, Door, Share},
    frame::{self, Frame, FrameReader},
};
use futures::FutureExt as _;
use mooseng_core::{
    error::NetError,
    limits::CALLS_IN_FLIGHT_MAX,
    net::{Body, Handler, Message, Method, PeerIdentity},
    wire::{FrameKind, decode},
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};
use tokio::{io::AsyncRead, task::AbortHandle};
use tokio_util::task::TaskTracker;

/// Who answers one peer.
pub(crate) struct Service {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) peer: PeerIdentity,
    pub(crate) door: Arc<Door>,
    /// What the peer has in flight, when that is limited.
    pub(crate) share: Option<Arc<Share>>,
    pub(crate) tasks: TaskTracker,
}

impl Service {
    /// A call begins. Errors: the peer has as many as it may have.
    pub(crate) fn begin(&self, streams: bool) -> Result<Begun, NetError> {
        let begun = self.share.as_ref().map_or_else(|| Ok(Begun::default()), |share| share.begin(streams));
        begun.inspect_err(|e| self.note(e))
    }

    /// Runs the handler on a request; a panic ends its call alone.
    pub(crate) async fn answer(&self, request: Frame, body: Body) -> Result<Message, NetError> {
        let answer = self.run(request, body).await;
        if let Err(e) = &answer {
            self.note(e);
        }
        answer
    }

    /// Logs that the peer asked for what it may not have, or for nonsense.
    pub(crate) fn note(&self, e: &NetError) {
        use NetError::{Limit, Malformed, Refused, TooLarge, UnknownMethod};
        if let Refused { .. } | Malformed { .. } | TooLarge { .. } | UnknownMethod(_) | Limit { .. } = e {
            self.door.refusals.note(&self.peer, e);
        }
    }

    async fn run(&self, request: Frame, body: Body) -> Result<Message, NetError> {
        let (method, _room) = (Method(request.header.method), request.room);
        let (cx, head) = frame::split_context(request.head)
            .map_err(|e| NetError::Refused { cause: format!("the request: {e}") })?;
        let body = bound_body(body, cx.budget, &self.peer.name);
        let answer = self.handler.handle(&self.peer, cx, method, Message { head, body });
        match AssertUnwindSafe(answer).catch_unwind().await {
            Ok(reply) => reply.and_then(|reply| check_reply(&reply).map(|()| reply)),
            Err(_) => Err(NetError::Closed {
                peer: "the server".into(),
                cause: "the handler ended without an answer (it panicked)".into(),
                sent: true,
            }),
        }
    }
}

/// A call that is being answered.
struct Running {
    task: AbortHandle,
    inbound: Option<Inbound>,
    room: Arc<Room>,
}

type Calls = Arc<Mutex<BTreeMap<u64, Running>>>;

/// Takes the call off the list when its task ends, however that is.
struct Listed(Calls, u64);

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// Answers the calls of one link until it ends. Large replies leave on streams of their own where
/// `own_streams` can open them.
pub(crate) async fn serve<R: AsyncRead + Unpin>(
    link: Arc<Link>,
    reader: FrameReader<R>,
    service: Arc<Service>,
    own_streams: Option<quinn::Connection>,
) {
    service.tasks.spawn(link.clone().write_on());
    let calls = Calls::default();
    let end =
        read_on(&link, reader, |frame| take(&link, &calls, &service, own_streams.as_ref(), frame)).await;
    if let Some(e) = end {
        tracing::info!(peer = %service.peer.name, role = %service.peer.role, error = %e, "a connection was ended");
    }
    let calls = std::mem::take(&mut *calls.lock());
    calls.into_values().for_each(|c| c.task.abort());
}

fn take(
    link: &Arc<Link>,
    calls: &Calls,
    service: &Arc<Service>,
    own_streams: Option<&quinn::Connection>,
    frame: Frame,
) -> Result<(), NetError> {
    let id = frame.header.request;
    let mut running = calls.lock();
    match frame.header.kind {
        FrameKind::Request => {
            if running.contains_key(&id) {
                return Err(NetError::Malformed { what: "a call's number is in use".into() });
            }
            if running.len() >= CALLS_IN_FLIGHT_MAX {
                let what = "calls are in flight on this connection".into();
                let e = NetError::Limit { what, limit: CALLS_IN_FLIGHT_MAX as u64 };
                service.note(&e);
                link.out.push(frame::error(id, &e));
                return Ok(());
            }
            let begun = match service.begin(frame.streams()) {
                Ok(begun) => begun,
                Err(e) => {
                    link.out.push(frame::error(id, &e));
                    return Ok(());
                }
            };
            let (inbound, body) = if frame.streams() {
                let (inbound, pieces) = arriving(link, id, Some(frame::cancel));
                (Some(inbound), Body::Stream(pieces))
            } else if frame.whole() {
                (None, Body::Whole(frame.body.clone()))
            } else {
                (None, Body::Empty)
            };
            let room = Arc::new(Room::default());
            let listed = Listed(calls.clone(), id);
            let work = run(link.clone(), service.clone(), own_streams.cloned(), frame, body, room.clone());
            // Listed before it can end: the lock is held.
            let task = service.tasks.spawn(async move {
                let (_listed, _begun) = (listed, begun);
                work.await;
            });
            running.insert(id, Running { task: task.abort_handle(), inbound, room });
        }
        FrameKind::Cancel => {
            if let Some(call) = running.remove(&id) {
                call.task.abort();
            }
        }
        FrameKind::Piece => match running.get(&id) {
            Some(Running { inbound: Some(inbound), .. }) => inbound.piece(frame.piece())?,
            // The call is over and the caller does not know it yet.
            _ => return Ok(()),
        },
        FrameKind::End | FrameKind::Error => {
            let inbound = running.get_mut(&id).and_then(|c| c.inbound.take());
            match inbound {
                Some(inbound) if frame.header.kind == FrameKind::End => inbound.end(),
                Some(inbound) => inbound.fail(frame.error()),
                None => {}
            }
        }
        FrameKind::Window => {
            if let Some(call) = running.get(&id) {
                call.room.give(decode(&frame.head)?);
            }
        }
        FrameKind::Hello | FrameKind::Reply => {
            return Err(NetError::Malformed { what: "a frame that only a server sends".into() });
        }
    }
    Ok(())
}

/// One call from its request to the last byte of its reply.
async fn run(
    link: Arc<Link>,
    service: Arc<Service>,
    own_streams: Option<quinn::Connection>,
    request: Frame,
    body: Body,
    room: Arc<Room>,
) {
    let id = request.header.request;
    let reply = match service.answer(request, body).await {
        Ok(reply) => reply,
        Err(e) => return link.out.push(frame::error(id, &e)),
    };
    if let Some(connection) = own_streams.filter(|_| bulk::is_bulk(&reply)) {
        return bulk::push(&connection, id, reply).await;
    }
    link.out.send(frame::reply(id, &reply.head, frame::opening(&reply.body))).await;
    if let Body::Stream(pieces) = reply.body {
        link.pump(id, pieces, &room).await;
    }
}
