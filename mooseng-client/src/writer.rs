//! Writing one chunk: a stream of numbered frames to the chain's head with a window, and what to do
//! when it breaks. Frames are held until they are synced, so that whatever fails can be sent again.

use crate::{
    error::{Error, Result},
    masters::Masters,
    pool::{Pool, Unsynced},
    reader::{Place, REPLICA_PATIENCE},
};
use bytes::Bytes;
use futures::StreamExt as _;
use mooseng_core::{
    checksum::frame_crcs,
    chunk::{ChunkStore as _, Frame, FrameHead, SyncRequest, WriteRequest},
    context::{CallContext, Credentials},
    error::{ChunkError, MetaError, NetError},
    ids::*,
    limits::WRITE_WINDOW_FRAMES,
    meta::{Allocate, GetLayout, ReportReplica},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// Longest wait for a sync of one chunk.
const SYNC_PATIENCE: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(20);

/// What a writer needs of its file.
#[derive(Clone)]
pub(crate) struct Context {
    pub masters: Arc<Masters>,
    pub pool: Arc<Pool>,
    pub inode: InodeId,
    pub creds: Credentials,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    upto: WriteNumber,
    members: Vec<(ServerId, Incarnation)>,
    failed: Option<ChunkError>,
}

struct Stream {
    frames: mpsc::Sender<Frame>,
    progress: watch::Receiver<Progress>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Held {
    number: WriteNumber,
    at: Offset,
    data: Bytes,
}

/// The writer of one chunk.
pub(crate) struct ChunkWriter {
    cx: Context,
    index: ChunkIndex,
    truncates: TruncateCounter,
    session: SessionStamp,
    place: Place,
    stream: Option<Stream>,
    last: WriteNumber,
    held: VecDeque<Held>,
    held_bytes: usize,
    members: BTreeMap<ServerId, Incarnation>,
}

impl ChunkWriter {
    /// For a chunk that may have to be allocated.
    pub(crate) async fn open(cx: Context, index: ChunkIndex, truncates: TruncateCounter) -> Result<Self> {
        let (place, session) = locate(&cx, index, truncates, cx.masters.deadline()).await?;
        Ok(Self {
            cx,
            index,
            truncates,
            session,
            place,
            stream: None,
            last: WriteNumber(0),
            held: VecDeque::new(),
            held_bytes: 0,
            members: BTreeMap::new(),
        })
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }
    pub(crate) fn is_synced(&self) -> bool {
        self.held.is_empty()
    }

    /// Sends bytes; waits while the window is full.
    pub(crate) async fn send(&mut self, at: Offset, data: Bytes) -> Result<()> {
        let number = self.cx.pool.next_number(self.place.place.chunk.id);
        self.last = number;
        self.held_bytes += data.len();
        self.held.push_back(Held { number, at, data });
        let deadline = Instant::now() + self.cx.masters.deadline();
        let low = WriteNumber(number.get().saturating_sub(WRITE_WINDOW_FRAMES as u64));
        loop {
            let sent = match self.stream {
                Some(_) => self.push_last().await,
                None => self.reopen(deadline).await,
            };
            let done = match sent {
                Ok(()) => self.wait_for(low).await,
                Err(e) => Err(e),
            };
            match done {
                Ok(()) => return Ok(()),
                Err(e) => self.recover(e, deadline).await?,
            }
        }
    }

    /// Waits until everything sent is in memory at every member.
    pub(crate) async fn drain(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.cx.masters.deadline();
        let last = self.last;
        while !self.held.is_empty() {
            let done = match self.stream {
                Some(_) => self.wait_for(last).await,
                None => self.reopen(deadline).await,
            };
            match done {
                Ok(()) if self.stream.is_some() && self.acked() >= last => break,
                Ok(()) => {}
                Err(e) => self.recover(e, deadline).await?,
            }
        }
        Ok(())
    }

    /// Waits until everything sent is on every member's disk, and lets go of it.
    pub(crate) async fn sync(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.cx.masters.deadline();
        while !self.held.is_empty() {
            self.drain().await?;
            match self.sync_once().await {
                Ok(()) => {
                    self.held.clear();
                    self.held_bytes = 0;
                    self.members.clear();
                }
                Err(e) => self.recover(e, deadline).await?,
            }
        }
        Ok(())
    }

    /// What would be lost with this writer's memory: who acknowledged frames that are not synced.
    pub(crate) fn unsynced(&self) -> Option<Unsynced> {
        if self.held.is_empty() {
            return None;
        }
        let mut members = self.members.clone();
        if let Some(s) = &self.stream {
            members.extend(s.progress.borrow().members.iter().copied());
        }
        Some(Unsynced { chunk: self.place.place.chunk.id, members })
    }

    /// Syncs what an earlier writer of the chunk left, whose frames are not held any more: a member
    /// that restarted since is told as a loss.
    pub(crate) async fn sync_left(&mut self, left: &Unsynced) -> Result<()> {
        let deadline = Instant::now() + self.cx.masters.deadline();
        loop {
            self.members = left.members.clone();
            match self.sync_once().await {
                Ok(()) => return Ok(()),
                Err(last @ ChunkError::Lost { .. }) => {
                    let tried = format!("{:?}", left.members.keys());
                    return Err(Error::Chunk { chunk: left.chunk, tried, last });
                }
                Err(e) => self.recover(e, deadline).await?,
            }
        }
    }

    fn acked(&self) -> WriteNumber {
        self.stream.as_ref().map_or(WriteNumber(0), |s| s.progress.borrow().upto)
    }

    async fn sync_once(&mut self) -> std::result::Result<(), ChunkError> {
        if let Some(s) = &self.stream {
            self.members.extend(s.progress.borrow().members.iter().copied());
        }
        let chain = self.place.place.chain.clone();
        let head = chain.first().ok_or(ChunkError::NotFound(self.place.place.chunk.id))?;
        let store = self.cx.pool.get(&head.addr, REPLICA_PATIENCE).await?;
        let req = SyncRequest {
            chunk: self.place.place.chunk,
            acknowledged_by: self.members.iter().map(|(s, i)| (*s, *i)).collect(),
            chain,
            session: self.session,
            capability: self.place.capability.clone(),
        };
        let cx = CallContext::internal(SYNC_PATIENCE);
        let silent = || ChunkError::Busy(format!("no sync within {SYNC_PATIENCE:?}"));
        tokio::time::timeout(SYNC_PATIENCE, store.sync(&cx, req)).await.map_err(|_| silent())??;
        Ok(())
    }

    fn frame(&self, held: &Held) -> Frame {
        let crcs = frame_crcs(self.place.place.chunk.id, held.at, &held.data);
        let head = FrameHead { number: held.number, at: held.at, crcs, hole: 0 };
        Frame { head, data: held.data.clone() }
    }

    async fn push_last(&mut self) -> std::result::Result<(), ChunkError> {
        let (Some(stream), Some(last)) = (&self.stream, self.held.back()) else { return Ok(()) };
        let frame = self.frame(last);
        if let Ok(sent) = tokio::time::timeout(REPLICA_PATIENCE, stream.frames.send(frame)).await
            && sent.is_ok()
        {
            return Ok(());
        }
        Err(self.failure())
    }

    fn failure(&self) -> ChunkError {
        let failed = self.stream.as_ref().and_then(|s| s.progress.borrow().failed.clone());
        failed.unwrap_or_else(|| ChunkError::Busy(format!("no progress within {REPLICA_PATIENCE:?}")))
    }

    /// Waits until the acknowledgements reach a number; fails when they stand still.
    async fn wait_for(&mut self, upto: WriteNumber) -> std::result::Result<(), ChunkError> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        loop {
            {
                let p = stream.progress.borrow_and_update();
                if let Some(e) = &p.failed {
                    return Err(e.clone());
                }
                if p.upto >= upto {
                    return Ok(());
                }
            }
            let moved = tokio::time::timeout(REPLICA_PATIENCE, stream.progress.changed()).await;
            if !matches!(moved, Ok(Ok(()))) {
                return Err(self.failure());
            }
        }
    }

    /// Opens a stream at the present place and sends everything held again.
    async fn reopen(&mut self, _deadline: Instant) -> std::result::Result<(), ChunkError> {
        let chain = self.place.place.chain.clone();
        let head = chain.first().ok_or(ChunkError::NotFound(self.place.place.chunk.id))?.clone();
        let store = self.cx.pool.get(&head.addr, REPLICA_PATIENCE).await?;
        let (frames, rx) = mpsc::channel(WRITE_WINDOW_FRAMES);
        let req = WriteRequest {
            chunk: self.place.place.chunk,
            chain,
            create: self.place.place.fresh,
            session: self.session,
            capability: self.place.capability.clone(),
        };
        let (said, progress) = watch::channel(Progress::default());
        let task = tokio::spawn(async move {
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
        self.stream = Some(Stream { frames, progress, task });
        for i in 0..self.held.len() {
            let frame = self.frame(&self.held[i]);
            let stream = self.stream.as_ref().ok_or(ChunkError::NotFound(self.place.place.chunk.id))?;
            let sent = tokio::time::timeout(REPLICA_PATIENCE, stream.frames.send(frame)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return Err(self.failure());
            }
        }
        Ok(())
    }

    /// After a failure: reports who was at fault, learns the new place, begins a new stream.
    async fn recover(&mut self, e: ChunkError, deadline: Instant) -> Result<()> {
        if let Some(s) = self.stream.take() {
            self.members.extend(s.progress.borrow().members.iter().copied());
        }
        let chunk = self.place.place.chunk;
        let head = self.place.place.chain.first().map_or(ServerId(0), |r| r.server);
        tracing::info!(inode = %self.cx.inode, chunk = %chunk.id, error = %e, "a write is being recovered");
        let retry =
            |e: &ChunkError| Error::Chunk { chunk: chunk.id, tried: head.to_string(), last: e.clone() };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero()
            || matches!(e, ChunkError::Fenced | ChunkError::Forbidden(_) | ChunkError::Invalid(_))
        {
            return Err(retry(&e));
        }
        let at_fault = match &e {
            ChunkError::Chain { server, .. } => Some(*server),
            ChunkError::Net(_) | ChunkError::Busy(_) | ChunkError::Disk { .. } | ChunkError::NoSpace(_) => {
                Some(head)
            }
            ChunkError::Damaged { .. } | ChunkError::NotFound(_) | ChunkError::Suspect(_) => Some(head),
            _ => None,
        };
        if matches!(e, ChunkError::Lost { .. }) {
            // Everything unsynced is held and sent again; who acknowledged it before is of no account.
            self.members.clear();
        }
        if let Some(server) = at_fault {
            let problem = e.to_string();
            let report = ReportReplica { inode: self.cx.inode, index: self.index, chunk, server, problem };
            self.cx.masters.call_within(&Credentials::root(), report, left).await?;
        } else {
            tokio::time::sleep(RETRY).await;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        self.relocate(left).await?;
        if self.place.place.chunk == chunk {
            tokio::time::sleep(RETRY).await;
        }
        Ok(())
    }

    /// Learns where the chunk is now. When its set changed, all held frames go to the new one, which
    /// acknowledges them anew; when the file was cut below it meanwhile, they go to the chunk that
    /// takes its place.
    pub(crate) async fn relocate(&mut self, within: Duration) -> Result<()> {
        let chunk = self.place.place.chunk;
        let located = locate(&self.cx, self.index, self.truncates, within).await;
        let (place, session) = match located {
            Err(Error::Meta(MetaError::LayoutStale)) => {
                let op = GetLayout { inode: self.cx.inode, from: self.index, count: 0 };
                self.truncates = self.cx.masters.call_within(&self.cx.creds, op, within).await?.truncates;
                locate(&self.cx, self.index, self.truncates, within).await?
            }
            other => other?,
        };
        let now = place.place.chunk;
        if now.id != chunk.id {
            // Numbers belong to a chunk.
            for held in &mut self.held {
                held.number = self.cx.pool.next_number(now.id);
                self.last = held.number;
            }
        }
        if now != chunk {
            self.members.clear();
            self.stream = None;
        }
        (self.place, self.session) = (place, session);
        Ok(())
    }
}

/// Where a chunk is to be written; allocates it when it is not there.
async fn locate(
    cx: &Context,
    index: ChunkIndex,
    truncates: TruncateCounter,
    within: Duration,
) -> Result<(Place, SessionStamp)> {
    let op = Allocate { inode: cx.inode, truncates, from: index, count: 1 };
    let (layout, session) = cx.masters.call_stamped(&cx.creds, op, within).await?;
    let place = layout.chunks.into_iter().find(|p| p.index == index);
    let place = place.ok_or_else(|| Error::Invalid(format!("no place came for chunk {index}")))?;
    Ok((Place { place, capability: layout.capability }, session))
}
