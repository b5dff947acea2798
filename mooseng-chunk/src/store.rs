//! [`DiskStore`]: chunks on the disks of one server, as a [`ChunkStore`].

use crate::{
    access::Access,
    chain,
    chunk_file::FileError,
    disk::{DataDisk, FoundChunk},
    logkeeper,
    peers::Peers,
    shared::{Counters, GATHER_BYTES, GATHER_UNIT, Shared, is_good, report_of},
    slot::{Inside, Known, Slot, stopped},
};
use async_trait::async_trait;
use futures::StreamExt as _;
use mooseng_core::{
    capability::Rights,
    chunk::*,
    context::CallContext,
    error::ChunkError,
    ids::*,
    limits::{BLOCK_BYTES, CHUNK_BYTES, REPORT_CHUNKS_MAX},
    meta::{DiskReport, ReplicaState},
    net::{Role, Transport},
    planted::{self, Bug},
    seam::Seams,
    trace,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// Bytes read at once under the order lock.
const READ_STEP: u64 = 1 << 20;
/// Bytes that are read without a hop to the disk's thread.
const READ_INLINE: u64 = 128 << 10;
/// Chunks whose table is kept in memory without being in use.
const LOADED_MAX: usize = 1024;

/// Chunks on several disks.
#[derive(Clone)]
pub struct DiskStore(pub(crate) Arc<Shared>);

impl DiskStore {
    pub(crate) fn new(
        server: ServerId,
        disks: Vec<(DataDisk, BTreeMap<ChunkId, FoundChunk>)>,
        transport: Arc<dyn Transport>,
        seams: &Seams,
        chain_patience: Duration,
    ) -> Self {
        let mut slots = BTreeMap::new();
        let mut all = Vec::new();
        for (disk, found) in disks {
            let disk = Arc::new(disk);
            for (id, f) in found {
                let state = if f.dirty { ReplicaState::Suspect } else { ReplicaState::Good };
                let (version, length, header) = (f.header.version, f.header.length, f.header.counter);
                let known = Known {
                    version,
                    length,
                    header,
                    state,
                    dirty: f.dirty,
                    sending: 0,
                    sent: None,
                    clean_when_through: false,
                    made: true,
                };
                let slot = Arc::new(Slot::new(id, disk.clone(), known, f.owed));
                // Where a disk was set aside, or was being emptied, another one has a newer copy.
                let newest = slots.entry(id).or_insert_with(|| slot.clone());
                let there = newest.known.lock().version;
                let older = if there < version { std::mem::replace(newest, slot) } else { slot };
                if !Arc::ptr_eq(&older, newest) {
                    older.disk.uncount();
                }
            }
            all.push(disk);
        }
        let term = all.iter().map(|d| d.term).max().unwrap_or_default();
        Self(Arc::new(Shared {
            server,
            incarnation: Incarnation(seams.rng.next_u64()),
            disks: all,
            slots: Mutex::new(slots),
            filling: Mutex::default(),
            damaged: Mutex::default(),
            deleted: Mutex::default(),
            broken: Mutex::default(),
            access: Access::new(seams.clock.clone(), term),
            peers: Peers::new(transport),
            counters: Counters::default(),
            chain_patience,
            admitted: Default::default(),
            kept_term: tokio::sync::Mutex::new(term),
            gathers: Semaphore::new((GATHER_BYTES / GATHER_UNIT) as usize),
            tasks: Default::default(),
            crashed: Default::default(),
        }))
    }

    /// Disks as the masters hear of them.
    pub fn disk_reports(&self) -> Vec<DiskReport> {
        let report = |d: &Arc<DataDisk>| {
            let (total_bytes, free_bytes) = d.space();
            DiskReport {
                disk: d.id,
                path: d.disk.describe(),
                total_bytes,
                free_bytes: if d.takes_new() { free_bytes } else { 0 },
                chunks: self.0.chunks_on(d),
                errors: d.errors.load(Ordering::Relaxed),
                error: d.set_aside(),
                drains: d.drains(),
            }
        };
        self.0.disks.iter().map(report).collect()
    }

    /// Counters.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Chunks that are good, and that are suspect.
    pub(crate) fn count(&self) -> (u64, u64) {
        let mut counts = (0, 0);
        for slot in self.0.slots.lock().values() {
            match *slot.known.lock() {
                Known { made: true, state: ReplicaState::Good, .. } => counts.0 += 1,
                Known { made: true, state: ReplicaState::Suspect, .. } => counts.1 += 1,
                _ => {}
            }
        }
        counts
    }

    /// Chunks with acknowledged writes that are not on disk yet.
    pub fn dirty_chunks(&self) -> usize {
        self.0.slots.lock().values().filter(|s| s.known.lock().dirty).count()
    }

    /// This start's id.
    pub fn incarnation(&self) -> Incarnation {
        self.0.incarnation
    }

    /// Lets go of tables that nobody uses.
    pub(crate) fn trim(&self) {
        let slots: Vec<_> = self.0.slots.lock().values().cloned().collect();
        for slot in slots.iter().skip(LOADED_MAX) {
            slot.unload();
        }
    }

    /// Makes everything durable, for a clean stop.
    pub(crate) async fn sync_all(&self) {
        let slots: Vec<_> = self.0.slots.lock().values().cloned().collect();
        for slot in slots {
            let known = *slot.known.lock();
            if known.dirty
                && known.state == ReplicaState::Good
                && let Err(e) = self.0.sync_here(slot.id).await
            {
                tracing::error!(chunk = %slot.id, error = %e, "a chunk could not be synced at the stop: it will be suspect");
            }
        }
        for disk in &self.0.disks {
            if let Err(e) = logkeeper::empty(&self.0, disk, true).await {
                tracing::warn!(disk = %disk.disk.describe(), error = %e, "the redo log could not be emptied at the stop: the next start does it");
            }
        }
        self.0.settle_marks(true).await;
    }
}

#[async_trait]
impl ChunkStore for DiskStore {
    async fn read(&self, cx: &CallContext, req: ReadRequest) -> Result<Frames, ChunkError> {
        if !req.at.get().is_multiple_of(BLOCK_BYTES) || req.len > CHUNK_BYTES || req.at.get() > CHUNK_BYTES {
            return Err(ChunkError::Invalid("a read begins at a block and stays within a chunk".into()));
        }
        if req.len == 0 {
            // Who asks for nothing wants to know whether this server answers: its disks may take their time, and so
            // may the masters from whom it learns whose rights are good.
            return Ok(futures::stream::empty().boxed());
        }
        self.0.access.allows(cx, req.chunk, Rights::READ, None, req.capability.as_ref()).await?;
        let server = matches!(&cx.peer, Some(p) if p.role == Role::Chunkserver);
        let slot = match server && req.chunk.version == ChunkVersion(0) {
            true => self.0.as_it_is(req.chunk.id)?,
            false => self.0.good(req.chunk)?,
        };
        self.0.counters.reads.fetch_add(1, Ordering::Relaxed);
        let (shared, chunk) = (self.0.clone(), req.chunk);
        let (at, end) = (req.at.get(), req.at.get() + req.len);
        // The first step is done before the answer begins, so that its errors are the call's.
        let mut step = read_step(&shared, &slot, (chunk, server), at, READ_STEP.min(end - at)).await?;
        let stream = async_stream::stream! {
            loop {
                let (frames, at, eof) = step;
                for frame in frames {
                    shared.counters.read_bytes.fetch_add(frame.data.len() as u64, Ordering::Relaxed);
                    yield Ok(frame);
                }
                if eof || at >= end {
                    break;
                }
                // The call has its answer since the first step: a slow one is told by itself.
                let next = read_step(&shared, &slot, (chunk, server), at, READ_STEP.min(end - at));
                match trace::asked(trace::here(), || "a step of chunk_read".into(), next).await {
                    Ok(next) => step = next,
                    Err(e) => {
                        yield Err(e);
                        break;
                    }
                }
            }
        };
        Ok(trace::carry(stream).boxed())
    }

    async fn write(&self, cx: &CallContext, req: WriteRequest, frames: Frames) -> Result<Acks, ChunkError> {
        let rights = if req.makers.is_empty() { Rights::WRITE } else { Rights::WRITE.and(Rights::CREATE) };
        let (session, cap) = (Some(req.session), req.capability.as_ref());
        if let Some(claims) = self.0.access.allows(cx, req.chunk, rights, session, cap).await?
            && !req.makers.iter().all(|m| claims.makers.contains(m))
        {
            return Err(ChunkError::Forbidden("it names other starts of servers".into()));
        }
        self.0.access.may_write()?;
        // The head checks the session, those behind it what the head admitted by its version.
        let head = !matches!(&cx.peer, Some(p) if p.role == Role::Chunkserver);
        if head {
            self.0.access.not_fenced(req.session)?;
        }
        if req.chain.first().is_none_or(|r| r.server != self.0.server) {
            return Err(ChunkError::Invalid(format!("the chain does not begin with {}", self.0.server)));
        }
        let slot = self.0.to_write(&req)?;
        Ok(chain::write(self.0.clone(), slot, req, frames, head))
    }

    async fn sync(&self, cx: &CallContext, req: SyncRequest) -> Result<SyncDone, ChunkError> {
        let (session, cap) = (Some(req.session), req.capability.as_ref());
        self.0.access.allows(cx, req.chunk, Rights::WRITE, session, cap).await?;
        let me = self.0.server;
        if req.chain.first().is_none_or(|r| r.server != me) {
            return Err(ChunkError::Invalid(format!("the chain does not begin with {me}")));
        }
        let head = !matches!(&cx.peer, Some(p) if p.role == Role::Chunkserver);
        let slot = self.0.good(req.chunk);
        let own_since = slot.as_ref().map_or(ChunkVersion(0), |s| *s.own_since.lock());
        let keeps = has_all(&req, (me, self.0.incarnation), own_since, head);
        if !keeps && !planted::is(Bug::IncarnationIgnored) {
            return Err(ChunkError::Lost { chunk: req.chunk.id, server: me });
        }
        slot?;
        chain::sync(&self.0, cx, req).await
    }

    async fn control(&self, _cx: &CallContext, op: Control) -> Result<ControlReply, ChunkError> {
        self.0.command(op).await
    }

    async fn list(
        &self,
        _cx: &CallContext,
        after: Option<ChunkId>,
        max: u32,
    ) -> Result<ChunkPage, ChunkError> {
        let max = (max as usize).clamp(1, REPORT_CHUNKS_MAX);
        let from = after.map_or(ChunkId(0), ChunkId::next);
        let slots = self.0.slots.lock();
        let mut rest = slots.range(from..);
        let made = |(_, s): (&ChunkId, &Arc<Slot>)| {
            let known = *s.known.lock();
            known.made.then(|| report_of(s, known))
        };
        let chunks: Vec<_> = rest.by_ref().filter_map(made).take(max).collect();
        Ok(ChunkPage { chunks, last: rest.next().is_none() })
    }
}

/// Whether a server has what a sync is to cover. What was acknowledged at this version each member answers for by
/// itself. What was before it, the head: all others were made equal to it when this version was made. So it has to be
/// one that acknowledged it in this start, and whose content is its own since.
fn has_all(
    req: &SyncRequest,
    (me, start): (ServerId, Incarnation),
    own_since: ChunkVersion,
    head: bool,
) -> bool {
    let by = &req.acknowledged_by;
    let acknowledged = |v| by.contains(&Acknowledged { version: v, server: me, incarnation: start });
    by.iter().all(|a| match a.version == req.chunk.version {
        true => a.server != me || a.incarnation == start,
        false => !head || (own_since <= a.version && acknowledged(a.version)),
    })
}

/// Frames of one step, where the next one begins, and whether the chunk ends before it. `server`: for another server,
/// which compares what it gets; others get nothing that a replica may lack ([`crate::under_way`]).
async fn read_step(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    (chunk, server): (ChunkRef, bool),
    at: u64,
    len: u64,
) -> Result<(Vec<Frame>, u64, bool), ChunkError> {
    let since = Instant::now();
    let guard = loop {
        let Some(guard) = slot.open(None).await.map_err(|e| shared.disk_error(e))? else {
            return Err(ChunkError::NotFound(chunk.id));
        };
        if server || !slot.under_way.touches(chunk.version, at, len) {
            break guard;
        }
        drop(guard);
        slot.under_way.moves(chunk, (at, len), since).await?;
    };
    if chunk.version > ChunkVersion(0) {
        is_good(chunk, *slot.known.lock())?;
    }
    let length = guard.file.as_ref().map_or(0, |f| f.header.length);
    // Short reads are done here: a hop to the disk's thread costs more than a cached read.
    let frames = if len <= READ_INLINE {
        guard.file.as_ref().map_or_else(|| Err(FileError::Io(stopped())), |f| f.read(at, len))
    } else {
        let read = move |inside: &mut Inside, _: &DataDisk| {
            inside.file.as_ref().map_or_else(|| Err(FileError::Io(stopped())), |f| f.read(at, len))
        };
        slot.with(false, guard, read).await.map_err(|e| shared.disk_error(e))?.1
    };
    let frames = frames.map_err(|e| match chunk.version {
        // Nobody was promised that it is whole.
        ChunkVersion(0) => e.of(chunk.id, shared.server),
        _ => shared.unreadable(slot, e),
    })?;
    Ok((frames, at + len, at + len >= length))
}
