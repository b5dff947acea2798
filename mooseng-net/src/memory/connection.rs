//! One connection of the memory transport.

use super::{CancelOnDrop, Event, Fate, Faults, Listener};
use crate::call::{bound_body, check_message, check_piece, check_reply, within};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use mooseng_core::{
    context::CallContext,
    error::NetError,
    limits::CALLS_IN_FLIGHT_MAX,
    net::{Body, Connection, Message, Method, PeerIdentity, Piece, Pieces},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::AbortHandle,
};

/// Pieces of a reply that are ready before they are polled for.
const REPLY_PIECES_AHEAD: usize = 1;

/// Lets a message travel; none of the runtime's time passes for a zero delay.
pub(super) async fn pass(after: Duration) {
    if !after.is_zero() {
        tokio::time::sleep(after).await;
    }
}

/// The names at both ends and who decides what happens between them.
#[derive(Clone)]
struct Route {
    client: String,
    server: String,
    method: Method,
    faults: Arc<dyn Faults>,
    open: Arc<CancelOnDrop>,
}

impl Route {
    fn closed(&self, sent: bool) -> NetError {
        let cause = if self.open.0.is_cancelled() {
            "the peer or this side closed it"
        } else {
            "the handler ended without an answer (it panicked)"
        };
        NetError::Closed { peer: self.server.clone(), cause: cause.into(), sent }
    }

    /// Waits while something travels. Lost: never returns. Reset: the connection is closed. Whether it comes
    /// again, and when.
    async fn travel(&self, to_server: bool, event: Event) -> Result<Option<Duration>, NetError> {
        let (from, to) = if to_server { (&self.client, &self.server) } else { (&self.server, &self.client) };
        match self.faults.fate(from, to, event) {
            Fate::Deliver(after) => {
                pass(after).await;
                Ok(None)
            }
            Fate::Twice(after, later) => {
                pass(after).await;
                Ok(Some(later))
            }
            Fate::Drop => std::future::pending().await,
            Fate::Reset => {
                self.open.0.cancel();
                Err(self.closed(true))
            }
        }
    }

    /// Lets each piece travel; ends with an error when the connection does.
    fn pieces(self, pieces: Pieces, to_server: bool) -> Pieces {
        futures::stream::unfold(Some((pieces, self)), move |state| async move {
            let (mut pieces, route) = state?;
            let ended = route.open.0.clone();
            let next = ended.run_until_cancelled(async {
                let piece = pieces.next().await?;
                let travelled = route.travel(to_server, Event::Piece(route.method)).await;
                Some(travelled.and(piece).and_then(|p| check_piece(&p).map(|()| p)))
            });
            match next.await {
                Some(None) => None,
                Some(Some(Ok(piece))) => Some((Ok(piece), Some((pieces, route)))),
                Some(Some(Err(e))) => Some((Err(e), None)),
                None => Some((Err(route.closed(true)), None)),
            }
        })
        .boxed()
    }
}

/// Aborts the handler when the caller gives up, unless that word is lost on the way.
struct Call {
    handler: AbortHandle,
    route: Route,
    finished: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let event = Event::Cancel(self.route.method);
        match self.route.faults.fate(&self.route.client, &self.route.server, event) {
            Fate::Deliver(_) | Fate::Twice(..) => self.handler.abort(),
            Fate::Drop | Fate::Reset => {}
        }
    }
}

/// A reply on its way from the handler's task to the caller.
struct Answer {
    head: Bytes,
    body: AnswerBody,
}

enum AnswerBody {
    Empty,
    Whole(Bytes),
    Stream(mpsc::Receiver<Option<Result<Piece, NetError>>>),
}

pub(super) struct MemoryConnection {
    listener: Arc<Listener>,
    open: Arc<CancelOnDrop>,
    name: String,
    me: PeerIdentity,
    faults: Arc<dyn Faults>,
    calls: Arc<Semaphore>,
}

impl MemoryConnection {
    pub(super) fn new(
        listener: Arc<Listener>,
        open: Arc<CancelOnDrop>,
        name: String,
        me: PeerIdentity,
        faults: Arc<dyn Faults>,
    ) -> Self {
        let calls = Arc::new(Semaphore::new(CALLS_IN_FLIGHT_MAX));
        Self { listener, open, name, me, faults, calls }
    }

    fn route(&self, method: Method) -> Route {
        Route {
            client: self.name.clone(),
            server: self.listener.name.clone(),
            method,
            faults: self.faults.clone(),
            open: self.open.clone(),
        }
    }

    async fn begin(&self, cx: &CallContext, method: Method, msg: Message) -> Result<Message, NetError> {
        let route = self.route(method);
        let permit = self.calls.clone().acquire_owned().await.map_err(|_| route.closed(false))?;
        if self.is_closed() {
            return Err(route.closed(false));
        }
        let (answer, answered) = oneshot::channel();
        let ended = self.open.0.clone();
        let work = serve(self.listener.clone(), self.me.clone(), route.clone(), cx.clone(), msg, answer);
        let task = self.listener.tasks.spawn(async move {
            ended.run_until_cancelled(work).await;
        });
        let mut call = Call { handler: task.abort_handle(), route, finished: false, _permit: permit };
        let answer = match answered.await {
            Ok(answer) => answer.inspect_err(|_| call.finished = true)?,
            Err(_) => return Err(call.route.closed(true)),
        };
        let body = match answer.body {
            AnswerBody::Empty => Body::Empty,
            AnswerBody::Whole(bytes) => Body::Whole(bytes),
            AnswerBody::Stream(rx) => {
                let body = Body::Stream(received(rx, call));
                return Ok(Message {
                    head: answer.head,
                    body: bound_body(body, cx.budget, &self.listener.name),
                });
            }
        };
        call.finished = true;
        Ok(Message { head: answer.head, body })
    }
}

/// The request comes once more later, when its connection lasts; nobody hears the answer.
fn serve_again(
    listener: &Arc<Listener>,
    peer: &PeerIdentity,
    route: &Route,
    cx: &CallContext,
    msg: &Message,
    later: Duration,
) {
    let body = match &msg.body {
        Body::Empty => Body::Empty,
        Body::Whole(bytes) => Body::Whole(bytes.clone()),
        Body::Stream(_) => return,
    };
    let (again, open) = (Message { head: msg.head.clone(), body }, route.open.0.clone());
    let (to, peer, cx, method) = (listener.clone(), peer.clone(), cx.clone(), route.method);
    listener.tasks.spawn(open.run_until_cancelled_owned(async move {
        tokio::time::sleep(later).await;
        // What is streamed back is not read, and ends with it.
        let _ = tokio::time::timeout(cx.budget, to.handler.handle(&peer, cx, method, again)).await;
    }));
}

/// Runs the handler and passes its answer on, at the server's side.
async fn serve(
    listener: Arc<Listener>,
    peer: PeerIdentity,
    route: Route,
    cx: CallContext,
    mut msg: Message,
    answer: oneshot::Sender<Result<Answer, NetError>>,
) {
    let method = route.method;
    match route.travel(true, Event::Request(method)).await {
        Ok(None) => {}
        Ok(Some(later)) => serve_again(&listener, &peer, &route, &cx, &msg, later),
        Err(e) => {
            let _ = answer.send(Err(e));
            return;
        }
    }
    if let Body::Stream(pieces) = msg.body {
        msg.body = bound_body(Body::Stream(route.clone().pieces(pieces, true)), cx.budget, &route.client);
    }
    let reply = listener.handler.handle(&peer, cx, method, msg).await;
    let reply = reply.and_then(|reply| check_reply(&reply).map(|()| reply));
    if let Err(e) = route.travel(false, Event::Reply(method)).await {
        let _ = answer.send(Err(e));
        return;
    }
    let (head, body) = match reply {
        Ok(Message { head, body }) => (head, body),
        Err(e) => {
            let _ = answer.send(Err(e));
            return;
        }
    };
    let pieces = match body {
        Body::Empty => return drop(answer.send(Ok(Answer { head, body: AnswerBody::Empty }))),
        Body::Whole(b) => return drop(answer.send(Ok(Answer { head, body: AnswerBody::Whole(b) }))),
        Body::Stream(pieces) => pieces,
    };
    let (tx, rx) = mpsc::channel(REPLY_PIECES_AHEAD);
    if answer.send(Ok(Answer { head, body: AnswerBody::Stream(rx) })).is_err() {
        return;
    }
    let mut pieces = route.pieces(pieces, false);
    while let Some(piece) = pieces.next().await {
        if tx.send(Some(piece)).await.is_err() {
            return;
        }
    }
    let _ = tx.send(None).await;
}

/// The caller's side of a streamed reply. `None` ends it well; a channel that closes without it
/// belongs to a task that was ended.
fn received(rx: mpsc::Receiver<Option<Result<Piece, NetError>>>, call: Call) -> Pieces {
    futures::stream::unfold(Some((rx, call)), |state| async move {
        let (mut rx, mut call) = state?;
        match rx.recv().await {
            Some(Some(Ok(piece))) => Some((Ok(piece), Some((rx, call)))),
            Some(Some(Err(e))) => Some((Err(e), None)),
            Some(None) => {
                call.finished = true;
                None
            }
            None => Some((Err(call.route.closed(true)), None)),
        }
    })
    .boxed()
}

#[async_trait]
impl Connection for MemoryConnection {
    fn peer(&self) -> &PeerIdentity {
        &self.listener.identity
    }

    async fn call(&self, cx: &CallContext, method: Method, msg: Message) -> Result<Message, NetError> {
        check_message(&msg)?;
        within(cx.budget, &self.listener.name, self.begin(cx, method, msg)).await
    }

    fn is_closed(&self) -> bool {
        self.open.0.is_cancelled()
    }

    fn close(&self) {
        self.open.0.cancel();
    }
}
