//! Chains (van Renesse and Schneider, OSDI 2004): each member writes and forwards at the same time,
//! and acknowledges when itself and everybody behind it are done.

use crate::{shared::Shared, slot::Slot, way::Pass};
use futures::StreamExt as _;
use mooseng_core::{
    chunk::*,
    context::CallContext,
    error::{ChunkError, NetError},
    ids::*,
    limits::WRITE_WINDOW_FRAMES,
    meta::Replica,
    planted::{self, Bug},
    rpc::RemoteChunks,
    trace,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// Silence of a stream that is not a failure: writers pause.
const IDLE: Duration = Duration::from_secs(3600);
/// Longest wait for a sync behind this server.
const SYNC: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Default)]
struct Progress {
    upto: WriteNumber,
    members: Vec<(ServerId, Incarnation)>,
    failed: Option<ChunkError>,
}

fn behind(next: &Replica, e: ChunkError) -> ChunkError {
    match e {
        // What names its server is passed on as it is.
        ChunkError::Chain { .. } | ChunkError::NoSpace(_) => e,
        e => ChunkError::Chain { server: next.server, cause: e.to_string() },
    }
}

/// Frames on their way to the next server.
struct Forward {
    frames: mpsc::Sender<Frame>,
    /// The last number handed over.
    sent: Arc<AtomicU64>,
    /// Whether those behind may make the chunk: said with the first frame.
    create: Arc<AtomicBool>,
    /// Whether the writer is done.
    ended: Arc<AtomicBool>,
    /// Rings when one of them changes.
    rang: Arc<tokio::sync::Notify>,
    /// What is acknowledged.
    down: watch::Receiver<Progress>,
    /// The head's, for one order of all writers. Those behind it get what it sends in its order.
    pass: Option<Pass>,
}

impl Forward {
    /// Whoever has the chunk knows that those behind have it, or have lost it: `create` is for a chunk that
    /// begins with this frame.
    async fn send(&self, frame: Frame, create: bool) {
        if self.sent.load(Ordering::Relaxed) == 0 {
            self.create.store(create, Ordering::Relaxed);
        }
        self.sent.fetch_max(frame.head.number.get(), Ordering::Relaxed);
        self.rang.notify_one();
        // A next server that is gone is told by its own failure; this one goes on.
        let _ = self.frames.send(frame).await;
    }

    /// Until the servers behind have all that was sent, or one has failed; whether they have.
    async fn is_through(&mut self) -> bool {
        let sent = self.sent.load(Ordering::Relaxed);
        let _ = self.down.wait_for(|p| p.upto.get() >= sent || p.failed.is_some()).await;
        self.down.borrow().upto.get() >= sent
    }

    fn has_failed(&self) -> bool {
        self.down.borrow().failed.is_some()
    }

    fn has_pass(&self) -> bool {
        self.pass.as_ref().is_some_and(Pass::is_held)
    }

    async fn take_pass(&mut self, bytes: usize) -> Result<(), ChunkError> {
        if self.pass.as_ref().is_some_and(Pass::is_over) {
            self.end_pass(true).await;
        }
        match &mut self.pass {
            Some(pass) => pass.take(bytes).await,
            None => Ok(()),
        }
    }

    /// Ends the pass when all that was sent is through. `whole`: and this server has it too.
    async fn end_pass(&mut self, whole: bool) {
        if self.has_pass() {
            let clear = whole && self.is_through().await;
            if let Some(pass) = &mut self.pass {
                pass.give(clear);
            }
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.rang.notify_one();
    }
}

/// Takes a stream of writes. What was admitted is completed whatever becomes of the caller.
pub(crate) fn write(
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    req: WriteRequest,
    frames: Frames,
    head: bool,
) -> Acks {
    let here = vec![(shared.server, shared.incarnation)];
    let local = watch::channel(Progress { members: here, ..Progress::default() });
    let sent = Arc::<AtomicU64>::default();
    let (forward, down) = match req.chain.get(1).cloned() {
        Some(next) => {
            let (tx, rx) = mpsc::channel::<Frame>(WRITE_WINDOW_FRAMES);
            let down = watch::channel(Progress::default());
            let pass = head.then(|| Pass::new(shared.clone(), slot.clone(), &req, next.server));
            let forward = Forward {
                frames: tx,
                sent: sent.clone(),
                create: Arc::default(),
                ended: Arc::default(),
                rang: Arc::default(),
                down: down.1.clone(),
                pass,
            };
            let behind = Behind {
                next,
                slot: slot.clone(),
                sent: forward.sent.clone(),
                create: forward.create.clone(),
                ended: forward.ended.clone(),
                rang: forward.rang.clone(),
            };
            shared.spawn(behind.drive(shared.clone(), req.clone(), rx, down.0));
            (Some(forward), Some(down.1))
        }
        None => (None, None),
    };
    shared.spawn(take(shared.clone(), slot, (req, head), frames, forward, local.0));
    acks(local.1, down, sent)
}

/// Applies frames in order and hands each on first, so that forwarding runs ahead.
async fn take(
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    (req, head): (WriteRequest, bool),
    mut frames: Frames,
    mut forward: Option<Forward>,
    said: watch::Sender<Progress>,
) {
    let mut first = true;
    // Whether this server has all that it sent on.
    let mut whole = true;
    loop {
        let frame = match &mut forward {
            Some(next) if next.has_pass() => tokio::select! {
                biased;
                frame = frames.next() => frame,
                () = next.end_pass(true) => continue,
            },
            _ => frames.next().await,
        };
        let Some(frame) = frame else { break };
        // The writer sends it again to the next version.
        if forward.as_ref().is_some_and(Forward::has_failed) {
            break;
        }
        let done = async {
            let frame = frame?;
            shared.verify(slot.id, &frame)?;
            if let Some(next) = &mut forward {
                next.take_pass(frame.data.len()).await?;
            }
            if head {
                learn_numbers(&shared, &slot, &req).await?;
            }
            // The head admits a frame or does not, for the whole chain; a fence waits for those admitted.
            // Those behind it do not ask, so that two chains through two servers never wait in a ring.
            let _admitted = if head { Some(shared.admitted.read().await) } else { None };
            if head {
                shared.access.not_fenced(req.session)?;
                if shared.is_repeat(&slot, &req, frame.head.number, first)? {
                    return Ok(frame.head.number);
                }
            }
            let mut _sending = None;
            if let Some(next) = &forward {
                let create = !req.makers.is_empty() && !slot.known.lock().made;
                _sending = Some(shared.before_sending(&slot, &req, &frame, (head, first)).await?);
                slot.under_way.sends(req.chunk, req.session.id, &frame)?;
                whole = false;
                next.send(frame.clone(), create).await;
            }
            if let Err(e) = shared.apply(&slot, &req, &frame, first).await {
                if !whole {
                    shared.lacks_what_it_sent(&slot, &req, &e);
                }
                return Err(e);
            }
            whole = true;
            slot.under_way.applied(req.session.id, frame.head.number);
            Ok::<_, ChunkError>(frame.head.number)
        };
        // The call has its answer since the first one: a slow frame is told by itself.
        match trace::asked(trace::here(), || "a frame of chunk_write".into(), done).await {
            Ok(number) => {
                said.send_modify(|p| p.upto = p.upto.max(number));
                first = false;
            }
            Err(e) => {
                said.send_modify(|p| p.failed = Some(e));
                break;
            }
        }
    }
    drop(said);
    if let Some(next) = &mut forward {
        next.end_pass(whole).await;
    }
}

/// A head that has started since knows from those behind it what it applied before: none of them may
/// take for new what another takes for a repeat.
async fn learn_numbers(shared: &Shared, slot: &Slot, req: &WriteRequest) -> Result<(), ChunkError> {
    if slot.numbers.lock().complete {
        return Ok(());
    }
    // The file tells those that it has.
    slot.open(None).await.map_err(|e| shared.disk_error(e))?;
    let head = Some((shared.server, shared.incarnation));
    // Before the writer gives up this server, which knows better who is at fault.
    let patience = shared.chain_patience / 2;
    let ask = |member: &Replica| {
        let member = member.clone();
        async move {
            let work = async {
                let c = shared.peers.get(&member.addr, patience).await?;
                let cx = CallContext::internal(patience);
                RemoteChunks::new(c).control(&cx, Control::Numbers { chunk: req.chunk, head }).await
            };
            match tokio::time::timeout(patience, work).await {
                Ok(Ok(ControlReply::Numbers(numbers))) => Ok(numbers),
                Ok(Err(ChunkError::NotFound(_))) if !req.makers.is_empty() => Ok(vec![]),
                Ok(Err(e)) => Err(behind(&member, e)),
                Ok(Ok(_)) | Err(_) => Err(behind(&member, ChunkError::Busy("it tells no numbers".into()))),
            }
        }
    };
    let told = futures::future::try_join_all(req.chain.iter().skip(1).map(ask)).await?;
    let told: Vec<_> = told.into_iter().flatten().collect();
    // What they have and this server lost is not made anew on top of nothing.
    if !told.is_empty() && !slot.known.lock().made {
        return Err(ChunkError::NotFound(slot.id));
    }
    let mut numbers = slot.numbers.lock();
    for (session, number) in told {
        shared.has_room(&mut numbers, session)?;
        numbers.applied(session, number);
    }
    numbers.complete = true;
    Ok(())
}

/// The server behind this one.
struct Behind {
    next: Replica,
    slot: Arc<Slot>,
    sent: Arc<AtomicU64>,
    create: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    rang: Arc<tokio::sync::Notify>,
}

impl Behind {
    /// Sends frames on and notes what is acknowledged. Ends when everything is after the writer's
    /// end, or with a failure: the server's own, or no progress for the chain's patience.
    async fn drive(
        self,
        shared: Arc<Shared>,
        req: WriteRequest,
        frames: mpsc::Receiver<Frame>,
        said: watch::Sender<Progress>,
    ) {
        // Longer the more servers are behind: the neighbour of the one at fault speaks first.
        let behind_us = req.chain.len() as u32 - 1;
        let patience = shared.chain_patience * (behind_us + 1) / (behind_us + 2);
        let talk = self.talk(&shared, req, frames, &said);
        let failed = tokio::select! {
            biased;
            done = talk => done.err(),
            () = self.stalls(said.subscribe(), patience) => {
                Some(ChunkError::Busy(format!("no progress within {patience:?}")))
            }
        };
        if let Some(e) = failed {
            said.send_modify(|p| p.failed = Some(behind(&self.next, e)));
        }
    }

    async fn talk(
        &self,
        shared: &Shared,
        mut req: WriteRequest,
        mut frames: mpsc::Receiver<Frame>,
        said: &watch::Sender<Progress>,
    ) -> Result<(), ChunkError> {
        req.chain.remove(0);
        req.capability = None;
        let c = shared.peers.get(&self.next.addr, shared.chain_patience).await?;
        let Some(first) = frames.recv().await else { return Ok(()) };
        req.head.get_or_insert((shared.server, shared.incarnation));
        if !self.create.load(Ordering::Relaxed) {
            req.makers.clear();
        }
        let rest =
            futures::stream::unfold(frames, |mut rx| async move { rx.recv().await.map(|f| (Ok(f), rx)) });
        let source = futures::stream::iter([Ok(first)]).chain(rest);
        let session = req.session.id;
        let mut acks = RemoteChunks::new(c).write(&CallContext::internal(IDLE), req, source.boxed()).await?;
        while let Some(ack) = acks.next().await {
            let ack = ack?;
            self.slot.under_way.arrived(session, ack.upto);
            said.send_modify(|p| {
                p.upto = p.upto.max(ack.upto);
                p.members = ack.members;
            });
        }
        let all = said.borrow().upto.get() >= self.sent.load(Ordering::Relaxed);
        match all && self.ended.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(ChunkError::Busy("its stream ended".into())),
        }
    }

    /// Returns when something that was sent stays without acknowledgement of anything for `patience`.
    async fn stalls(&self, mut said: watch::Receiver<Progress>, patience: Duration) {
        loop {
            let acked = said.borrow_and_update().upto.get();
            if acked >= self.sent.load(Ordering::Relaxed) {
                if self.ended.load(Ordering::Relaxed) {
                    return tokio::time::sleep(patience).await;
                }
                tokio::select! {
                    biased;
                    () = self.rang.notified() => {}
                    _ = said.changed() => {}
                }
                continue;
            }
            let until = Instant::now() + patience;
            // Whatever else changes, only progress counts.
            let progress = said.wait_for(|p| p.upto.get() > acked);
            if tokio::time::timeout_at(until, progress).await.is_err() {
                return;
            }
        }
    }
}

/// Acknowledges what is done here and behind; the first failure ends it.
fn acks(
    mut local: watch::Receiver<Progress>,
    mut down: Option<watch::Receiver<Progress>>,
    sent: Arc<AtomicU64>,
) -> Acks {
    let stream = async_stream::stream! {
        let mut told = WriteNumber(0);
        let (mut writing, mut reached) = (true, down.is_some());
        loop {
            let here = local.borrow_and_update().clone();
            let there = down.as_mut().map(|d| d.borrow_and_update().clone());
            let mut upto = here.upto;
            let mut members = here.members.clone();
            if let Some(there) = &there {
                // What was not sent on, because all have it, is not waited for.
                if there.upto.get() < sent.load(Ordering::Relaxed) {
                    upto = upto.min(there.upto);
                }
                members.extend(there.members.iter().copied());
            }
            if upto > told {
                told = upto;
                yield Ok(Ack { upto, members });
                continue;
            }
            if let Some(e) = here.failed.or_else(|| there.and_then(|t| t.failed)) {
                yield Err(e);
                return;
            }
            if !writing && here.upto <= told {
                return;
            }
            if !writing && !reached {
                return;
            }
            // The local end without a failure is the writer's end; what is behind is waited for.
            let behind = async {
                match &mut down {
                    Some(d) => d.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                r = local.changed(), if writing => writing = r.is_ok(),
                r = behind, if reached => reached = r,
            }
        }
    };
    stream.boxed()
}

/// Ends when a server that has much to do does not even tell what it has of the chunk. It is asked now and
/// then: a disk may take its time, a server that died is not waited for.
async fn falls_silent(shared: &Shared, next: &Replica, chunk: ChunkId) {
    let patience = shared.chain_patience / 2;
    // The first question comes soon: until its answer is missed, who waits waits for a server that died.
    let mut pause = patience / 3;
    loop {
        tokio::time::sleep(std::mem::replace(&mut pause, patience)).await;
        let look = async {
            let c = shared.peers.get(&next.addr, patience).await?;
            RemoteChunks::new(c).control(&CallContext::internal(patience), Control::Stat { chunk }).await
        };
        // Whatever it answers, it lives.
        match tokio::time::timeout(patience, look).await {
            Ok(Err(ChunkError::Net(NetError::Limit { .. } | NetError::Refused { .. }))) => {}
            Err(_) | Ok(Err(ChunkError::Net(_))) => return,
            Ok(_) => {}
        }
    }
}

/// Syncs here and behind at the same time.
pub(crate) async fn sync(
    shared: &Arc<Shared>,
    _cx: &CallContext,
    mut req: SyncRequest,
) -> Result<SyncDone, ChunkError> {
    let id = req.chunk.id;
    let next = req.chain.get(1).cloned();
    let down = async {
        let Some(next) = next else { return Ok(vec![]) };
        req.chain.remove(0);
        req.capability = None;
        let work = async {
            let c = shared.peers.get(&next.addr, shared.chain_patience).await?;
            RemoteChunks::new(c).sync(&CallContext::internal(SYNC), req).await
        };
        let silent = || ChunkError::Busy(format!("no sync within {SYNC:?}"));
        let done = tokio::select! {
            biased;
            done = tokio::time::timeout(SYNC, work) => done.map_err(|_| silent()).and_then(|r| r),
            () = falls_silent(shared, &next, id) => Err(ChunkError::Busy("it does not answer any more".into())),
        };
        match done {
            Ok(done) => Ok(done.on_disk),
            // A restart behind this server is the writer's to know.
            Err(e @ ChunkError::Lost { .. }) => Err(e),
            Err(e) => Err(behind(&next, e)),
        }
    };
    let here = async { if planted::is(Bug::FsyncSkipped) { Ok(()) } else { shared.sync_here(id).await } };
    let (here, behind) = futures::future::join(here, down).await;
    here?;
    let mut on_disk = vec![shared.server];
    on_disk.extend(behind?);
    Ok(SyncDone { on_disk })
}
