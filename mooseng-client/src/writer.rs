//! The task that writes one chunk: a stream of numbered frames to the chain's head with a window,
//! and what to do when it breaks. Writes are held until they are synced, so that whatever fails can
//! be sent again.

mod place;

pub(crate) use self::place::{LEFT_AT_ONCE, sync_chunk_left};
use self::place::{Located, at_fault, goes_silent, is_full, locate, sync_chunk, too_few};
use crate::{
    error::{Error, Result},
    masters::{Masters, NO_SPACE},
    node::{Losses, Node},
    pool::{Pool, Unsynced},
    queue::{Held, Queue, Todo, can_be_kept},
    reader::Place,
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use mooseng_core::{
    checksum::frame_crcs,
    chunk::{
        Acknowledged, ChunkStore as _, Frame, FrameHead, ReadRequest, SyncDone, SyncRequest, WriteRequest,
    },
    context::{CallContext, Credentials},
    error::{ChunkError, MetaError, NetError},
    ids::*,
    limits::FRAME_BYTES_MAX,
    meta::{Allocate, CommitWrite, Copies, GetLayout, ReportReplica},
    trace,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

const RETRY: Duration = Duration::from_millis(20);
/// Silence of a chain after which the leader is asked to look at its head: longer than any member of the chain
/// waits for the one behind it, which knows better who is at fault.
const WRITE_PATIENCE: Duration = Duration::from_millis(1200);
/// Longest wait for a head's answer to what costs it nothing. One that has none is looked at by the leader, which waits
/// longer when nobody can take its place.
const HEAD_PATIENCE: Duration = Duration::from_millis(400);
/// Silence after which a server is asked whether it lives at all: until its answer is missed, who waits waits for a
/// server that died.
const FIRST_LOOK: Duration = Duration::from_millis(200);
/// Bytes of one chunk on their way without an acknowledgement.
const WINDOW_BYTES: usize = 16 * FRAME_BYTES_MAX;
/// Frames, when they are small.
const WINDOW_FRAMES: usize = 128;
/// Refusals in a row after which fresh rights are not asked for any more.
const REFUSALS_MAX: u32 = 5;
/// Between two tries of a write that found no space. Each has the masters make a new set of
/// replicas, so that hasty ones would cost more than they win.
const FULL_RETRY: Duration = Duration::from_millis(250);

/// Between two looks whether another copy has been made that a sync waits for.
const JOINING: Duration = Duration::from_millis(100);

/// Recoveries one after the other without a pause: one for each server that may be at fault. Past it
/// each waits longer than the one before, so that a broken cluster is not driven from bump to bump.
const EFFORTS_AT_ONCE: u32 = 3;

/// What a writer needs of its file.
#[derive(Clone)]
pub(crate) struct Context {
    pub masters: Arc<Masters>,
    pub pool: Arc<Pool>,
    pub inode: InodeId,
    pub creds: Credentials,
}

/// What the writers of one file share.
#[derive(Default)]
pub(crate) struct Shared {
    pub truncates: Mutex<TruncateCounter>,
    pub losses: Losses,
    pub node: Weak<Node>,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    upto: WriteNumber,
    members: Vec<(ServerId, Incarnation)>,
    failed: Option<ChunkError>,
}

struct Stream {
    /// Where it goes.
    place: Place,
    frames: mpsc::Sender<Frame>,
    progress: watch::Receiver<Progress>,
    task: tokio::task::JoinHandle<()>,
    /// The last write handed over.
    sent: u64,
    /// When progress was last made, or waited for from.
    moved: Instant,
    /// Without progress since: ends when the head does not answer.
    look: Option<BoxFuture<'static, ()>>,
}

impl Stream {
    /// Who acknowledged something last.
    fn members(&self) -> Vec<Acknowledged> {
        let version = self.place.place.chunk.version;
        let by = |(server, incarnation)| Acknowledged { version, server, incarnation };
        self.progress.borrow().members.iter().copied().map(by).collect()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a step ended that did not succeed.
enum Fault {
    /// A chunkserver's: the place is learnt again.
    Chunk(ChunkError),
    /// The masters': they were asked until the deadline, or refused.
    Masters(Error),
}

impl From<ChunkError> for Fault {
    fn from(e: ChunkError) -> Self {
        Self::Chunk(e)
    }
}
impl From<NetError> for Fault {
    fn from(e: NetError) -> Self {
        Self::Chunk(e.into())
    }
}
impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        Self::Masters(e)
    }
}

/// The writer of one chunk.
pub(crate) struct Writer {
    cx: Context,
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    session: SessionStamp,
    stream: Option<Stream>,
    /// When the present trouble is given up: in sending, in syncing.
    send_until: Option<Instant>,
    sync_until: Option<Instant>,
    /// The highest write ever acknowledged: only more is progress.
    best: u64,
    refusals: u32,
    /// Recoveries since the last progress.
    efforts: u32,
    /// Since when the disks are full.
    full_since: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(cx: Context, shared: Arc<Shared>, queue: Arc<Queue>) -> Self {
        let session = SessionStamp { id: SessionId(0), epoch: SessionEpoch(0) };
        let (send_until, sync_until, full_since) = (None, None, None);
        let (stream, best, refusals, efforts) = (None, 0, 0, 0);
        Self {
            cx,
            shared,
            queue,
            session,
            stream,
            send_until,
            sync_until,
            best,
            refusals,
            efforts,
            full_since,
        }
    }

    /// Works until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let todo = self.queue.todo();
            let done = match todo {
                Todo::Nothing => {
                    self.rest().await;
                    continue;
                }
                Todo::Relocate => {
                    let left = self.cx.masters.deadline();
                    self.relocate(left).await.map_err(Fault::Masters)
                }
                Todo::Sync => trace::within(self.queue.asker(), self.sync()).await,
                Todo::DropInline => self.drop_inline().await,
                Todo::Send => self.send().await,
            };
            let recovered = match done {
                Ok(()) => continue,
                Err(Fault::Masters(e)) => Err(e),
                Err(Fault::Chunk(e)) => self.recover(e, todo).await,
            };
            if let Err(e) = recovered {
                self.give_up(e);
            }
        }
    }

    /// Nothing is to be done: waits for work, or for the stream to break.
    async fn rest(&mut self) {
        let Some(stream) = &mut self.stream else { return self.queue.work.notified().await };
        tokio::select! {
            biased;
            () = self.queue.work.notified() => {}
            changed = stream.progress.changed() => {
                let broken = changed.is_err() || stream.progress.borrow_and_update().failed.is_some();
                if broken {
                    // What was acknowledged and not synced may be gone with who had it.
                    self.end_stream();
                }
            }
        }
    }

    /// Ends the stream; everything held is to be sent again.
    fn end_stream(&mut self) {
        if let Some(s) = self.stream.take() {
            self.queue.inner.lock().members.extend(s.members());
        }
        self.queue.rewind();
    }

    /// Sends what fits into the window and waits until something moves.
    async fn send(&mut self) -> std::result::Result<(), Fault> {
        if self.stream.is_none() {
            self.open().await?;
        }
        self.push();
        let Some(Stream { place, progress, moved, look, .. }) = &mut self.stream else { return Ok(()) };
        let (ask, until) = (*moved + FIRST_LOOK, *moved + WRITE_PATIENCE);
        let silence = async {
            match look.as_mut() {
                Some(gone) => gone.await,
                None => tokio::time::sleep_until(ask).await,
            }
        };
        tokio::select! {
            biased;
            changed = progress.changed() => {
                let p = progress.borrow_and_update().clone();
                if p.failed.is_some() || changed.is_err() {
                    return Err(p.failed.unwrap_or_else(silent).into());
                }
                (*moved, *look) = (Instant::now(), None);
                self.acknowledged(&p);
            }
            () = self.queue.work.notified() => {}
            () = silence => match look {
                Some(_) => return Err(gone().into()),
                None => *look = Some(goes_silent(self.cx.clone(), place.clone()).boxed()),
            },
            () = tokio::time::sleep_until(until) => return Err(silent().into()),
        }
        Ok(())
    }

    /// Hands frames to the stream while the window has room.
    fn push(&mut self) {
        let acked = self.queue.status.borrow().acked;
        let Some(stream) = &mut self.stream else { return };
        if stream.sent <= acked {
            (stream.moved, stream.look) = (Instant::now(), None);
        }
        loop {
            let frame = {
                let mut q = self.queue.inner.lock();
                let Some(chunk) = q.place.as_ref().map(|p| p.place.chunk.id) else { return };
                let Some(first) = q.held.front().map(|h| h.seq) else { return };
                // What is acknowledged and still held is on the disks, and waits for a commit only.
                let next = stream.sent.max(first - 1).max(acked) + 1;
                if q.base.is_some_and(|base| next > base) {
                    return;
                }
                let behind = acked.max(first - 1);
                let flying = q.held.range((behind + 1 - first) as usize..(next - first) as usize);
                let (frames, bytes) = flying.fold((0, 0), |(n, b), h| (n + 1, b + h.data.len()));
                let Some(held) = q.held.get_mut((next - first) as usize) else { return };
                if frames >= WINDOW_FRAMES || (frames > 0 && bytes + held.data.len() > WINDOW_BYTES) {
                    return;
                }
                let number = *held.number.get_or_insert_with(|| self.cx.pool.next_number(chunk));
                stream.sent = next;
                (chunk, number, held.at, held.data.clone())
            };
            let (chunk, number, at, data) = frame;
            let head = FrameHead { number, at, crcs: frame_crcs(chunk, at, &data), hole: 0 };
            // The channel has room for the window; a stream that ended is told by its progress.
            let _ = stream.frames.try_send(Frame { head, data });
        }
    }

    fn acknowledged(&mut self, p: &Progress) {
        let mut q = self.queue.inner.lock();
        q.members.extend(self.stream.iter().flat_map(Stream::members));
        let known = |h: &Held| h.number.is_some_and(|n| n <= p.upto);
        // Numbers rise; what was not sent has none.
        let upto = q.held.partition_point(known).checked_sub(1).map(|i| q.held[i].seq);
        drop(q);
        let Some(upto) = upto else { return };
        let upto = upto.min(self.stream.as_ref().map_or(0, |s| s.sent));
        if upto > self.best {
            self.best = upto;
            (self.send_until, self.full_since) = (None, None);
            (self.refusals, self.efforts) = (0, 0);
        }
        self.queue.status.send_if_modified(|s| {
            let more = upto > s.acked;
            s.acked = s.acked.max(upto);
            more
        });
    }

    /// Puts what is acknowledged on every member's disk, and lets go of it.
    async fn sync(&mut self) -> std::result::Result<(), Fault> {
        let upto = self.queue.status.borrow().acked;
        if let Some(s) = &self.stream {
            self.queue.inner.lock().members.extend(s.members());
        }
        let (place, members) = {
            let q = self.queue.inner.lock();
            (q.place.clone(), q.members.clone())
        };
        // Without a place nothing was written, or all of it was given up.
        let mut disks = None;
        if let Some(place) = place {
            let done = sync_chunk(&self.cx, &place, self.session, &members).await?;
            disks = Some(done.on_disk.len() as u32);
            if place.place.copies != Copies::Enough && self.is_joined(place.place.chunk).await? {
                return Ok(());
            }
        }
        self.sync_until = None;
        self.queue.synced(upto, disks);
        Ok(())
    }

    /// On fewer disks than an fsync wants: whether the masters have another that takes part soon, or does by now. Then
    /// all of it is synced again.
    async fn is_joined(&mut self, chunk: ChunkRef) -> std::result::Result<bool, Fault> {
        let until = *self.sync_until.get_or_insert_with(|| Instant::now() + self.cx.masters.deadline());
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(too_few(chunk).into());
        }
        self.relocate(left).await?;
        let now = self.queue.place().map(|p| (p.place.chunk, p.place.copies));
        if now == Some((chunk, Copies::Joining)) {
            tokio::time::sleep(JOINING).await;
        }
        Ok(now != Some((chunk, Copies::Alone)))
    }

    /// The chunk has the file's inline data on every member's disk: has the masters drop it. When they
    /// do not, somebody cut the file or took the move over, and it begins anew.
    async fn drop_inline(&mut self) -> std::result::Result<(), Fault> {
        let op = CommitWrite {
            inode: self.cx.inode,
            truncates: *self.shared.truncates.lock(),
            size: 0,
            chunks: self.queue.chunk().into_iter().map(|c| (self.queue.index, c)).collect(),
            drop_inline: true,
        };
        match self.cx.masters.call(&self.cx.creds, op).await {
            Ok(_) => {
                if let Some(chunk) = self.queue.chunk() {
                    self.queue.told(chunk.id);
                }
                self.queue.end_base(true);
            }
            Err(Error::Meta(MetaError::LayoutStale)) => {
                self.queue.relocate();
                self.queue.end_base(false);
            }
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Opens a stream at the present place, from the first write that is held.
    async fn open(&mut self) -> std::result::Result<(), Fault> {
        let place = match self.queue.place() {
            Some(place) => place,
            None => {
                self.relocate(self.cx.masters.deadline()).await?;
                self.queue.place().ok_or(Error::Closed)?
            }
        };
        let chain = place.place.chain.clone();
        let head = chain.first().ok_or(ChunkError::NotFound(place.place.chunk.id))?.clone();
        let store = self.cx.pool.get(&head.addr, WRITE_PATIENCE).await?;
        let (frames, rx) = mpsc::channel(WINDOW_FRAMES);
        let req = WriteRequest {
            chunk: place.place.chunk,
            chain,
            makers: place.place.makers.clone(),
            head: None,
            session: self.session,
            capability: place.capability.clone(),
        };
        let (said, progress) = watch::channel(Progress::default());
        let work = trace::carry(async move {
            // The deadline of a stream bounds the silence between its pieces; an idle writer is
            // silent, so it is long, and progress is watched by the one who waits for it.
            let cx = CallContext::internal(Duration::from_secs(3600));
            let source =
                futures::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|f| (Ok(f), rx)) });
            let failed = match store.write(&cx, req, source.boxed()).await {
                Err(e) => e,
                Ok(mut acks) => loop {
                    match acks.next().await {
                        Some(Ok(ack)) => said.send_modify(|p| {
                            p.upto = p.upto.max(ack.upto);
                            p.members = ack.members;
                        }),
                        Some(Err(e)) => break e,
                        None => {
                            let (peer, cause) =
                                (String::from("the chain's head"), String::from("the stream ended"));
                            break NetError::Closed { peer, cause, sent: true }.into();
                        }
                    }
                },
            };
            said.send_modify(|p| p.failed = Some(failed));
        });
        let task = tokio::spawn(work);
        self.queue.rewind();
        let moved = Instant::now();
        self.stream = Some(Stream { place, frames, progress, task, sent: 0, moved, look: None });
        Ok(())
    }

    /// After a failure: reports who was at fault and learns the new place. A new stream begins with
    /// the next step.
    async fn recover(&mut self, e: ChunkError, doing: Todo) -> Result<()> {
        self.end_stream();
        let place = self.queue.place();
        let chunk = place.as_ref().map(|p| p.place.chunk);
        let head = place.and_then(|p| p.place.chain.first().map(|r| r.server));
        tracing::info!(inode = %self.cx.inode, index = %self.queue.index, error = %e, "a write is being recovered");
        let until = match doing {
            Todo::Sync => &mut self.sync_until,
            _ => &mut self.send_until,
        };
        let until = *until.get_or_insert_with(|| Instant::now() + self.cx.masters.deadline());
        let full = is_full(&e);
        let until = match full {
            true => until.min(*self.full_since.get_or_insert_with(Instant::now) + NO_SPACE),
            false => until,
        };
        let refused = matches!(e, ChunkError::Fenced | ChunkError::Forbidden(_) | ChunkError::Invalid(_));
        self.refusals += u32::from(refused);
        let tried = head.map_or_else(String::new, |h| h.to_string());
        let failed = Error::Chunk { chunk: chunk.map_or(ChunkId(0), |c| c.id), tried, last: e.clone() };
        if Instant::now() >= until || (refused && self.refusals > REFUSALS_MAX) {
            return Err(failed);
        }
        match self.move_on(&e, head, chunk, until).await {
            Ok(()) if full => tokio::time::sleep(FULL_RETRY).await,
            Ok(()) => {
                self.efforts += 1;
                let more = self.efforts.saturating_sub(EFFORTS_AT_ONCE);
                if more > 0 || self.queue.chunk() == chunk {
                    tokio::time::sleep(RETRY * (1 << more.min(5))).await;
                }
            }
            // No new set was made: on disks without a free block that fails, too, and why is told.
            Err(_) if full => return Err(failed),
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Reports who is at fault, and learns the new place.
    async fn move_on(
        &mut self,
        e: &ChunkError,
        head: Option<ServerId>,
        chunk: Option<ChunkRef>,
        until: Instant,
    ) -> Result<()> {
        let left = || until.saturating_duration_since(Instant::now());
        match (at_fault(e, head), chunk) {
            (Some(server), Some(chunk)) => {
                let (inode, index, problem) = (self.cx.inode, self.queue.index, e.to_string());
                let report = ReportReplica { inode, index, chunk, server, problem, full: is_full(e) };
                self.cx.masters.call_within(&Credentials::root(), report, left()).await?;
            }
            _ => tokio::time::sleep(RETRY * (1 + self.refusals)).await,
        }
        self.relocate(left().max(RETRY)).await
    }

    /// The effort ends: data that may still be written is kept, the rest is lost and told.
    fn give_up(&mut self, e: Error) {
        if matches!(e, Error::Overtaken { .. }) {
            // The whole file's, and told already.
            return;
        }
        let keep = can_be_kept(&e);
        self.end_stream();
        (self.send_until, self.sync_until) = (None, None);
        (self.refusals, self.efforts) = (0, 0);
        self.full_since = None;
        let held = self.queue.inner.lock().held.len();
        tracing::warn!(inode = %self.cx.inode, index = %self.queue.index, error = %e, keep, held, "written data did not reach its replicas");
        if !keep {
            self.shared.losses.note(e.clone());
        }
        self.queue.failed(e, keep);
    }

    /// Learns where the chunk is now. When its set changed, all that is held goes to the new one,
    /// which acknowledges it anew. When the file was cut meanwhile, what the masters knew of by then counts
    /// as cut away, and the rest is written anew, with other numbers: under its old ones the replicas
    /// would take it for a repeat, and have nothing of it.
    async fn relocate(&mut self, within: Duration) -> Result<()> {
        let Located { place, inline, session, truncates } =
            locate(&self.cx, &self.shared, self.queue.index, within).await?;
        if let Some(node) = self.shared.node.upgrade().filter(|_| session != self.session) {
            node.take_up(session).await?;
        }
        let now = place.place.chunk;
        let before = self.queue.chunk();
        if before != Some(now) {
            self.queue.end_base(false);
        }
        match inline {
            Some(data) => self.queue.put_base(data, self.cx.pool.budget.nothing()),
            None => self.queue.end_base(true),
        }
        let told = !place.place.is_fresh();
        if before != Some(now) && !self.queue.inner.lock().told {
            self.queue.forget_synced();
        }
        let mut q = self.queue.inner.lock();
        let (mut cut_away, mut left) = (None, None);
        let was_cut = before.is_some_and(|b| b.id != now.id || q.truncates != Some(truncates));
        if was_cut {
            q.held.iter_mut().for_each(|h| h.number = None);
            cut_away = Some(q.committed);
            // The cut may have left some of it: the next fsync has it on the disks, or tells that it is not there.
            left = q.unsynced(q.committed).filter(|left| left.chunk == now.id);
        }
        if before != Some(now) {
            q.members.clear();
            q.told = told;
        }
        q.told |= told;
        q.place = Some(place);
        q.truncates = Some(truncates);
        q.relocate = false;
        let moving = q.base.is_some();
        drop(q);
        if let Some(left) = left {
            self.cx.pool.leave_unsynced(self.cx.inode, self.queue.index, left);
        }
        if let Some(upto) = cut_away {
            self.queue.cut_away(upto);
        }
        self.queue.status.send_if_modified(|s| std::mem::replace(&mut s.moving, moving) != moving);
        if before != Some(now) || was_cut || session != self.session {
            self.stream = None;
            self.queue.rewind();
        }
        self.session = session;
        Ok(())
    }
}

fn silent() -> ChunkError {
    ChunkError::Busy(format!("no progress within {WRITE_PATIENCE:?}"))
}

fn gone() -> ChunkError {
    ChunkError::Busy("it does not answer any more".into())
}
