//! [`DiskStore`]: chunks on the disks of one server, as a [`ChunkStore`].

use crate::{
    access::Access,
    chain,
    chunk_file::FileError,
    disk::{DataDisk, FoundChunk},
    peers::Peers,
    slot::{Inside, Known, Slot, stopped},
};
use async_trait::async_trait;
use futures::StreamExt as _;
use mooseng_core::{
    capability::Rights,
    checksum::frame_crcs,
    chunk::*,
    context::CallContext,
    error::ChunkError,
    ids::*,
    limits::{BLOCK_BYTES, CHUNK_BYTES, FRAME_BYTES_MAX, REPORT_CHUNKS_MAX},
    meta::{ChunkReport, DiskReport, ReplicaState},
    net::Transport,
    seam::Seams,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::OwnedMutexGuard;

/// Bytes read at once under the order lock.
const READ_STEP: u64 = 1 << 20;
/// Chunks whose table is kept in memory without being in use.
const LOADED_MAX: usize = 1024;

/// Counters of what a store did.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes served.
    pub read_bytes: AtomicU64,
    /// Bytes written.
    pub written_bytes: AtomicU64,
    /// Syncs.
    pub syncs: AtomicU64,
    /// Damaged blocks or chunks met.
    pub damages: AtomicU64,
}

pub(crate) struct Shared {
    pub server: ServerId,
    pub incarnation: Incarnation,
    pub disks: Vec<Arc<DataDisk>>,
    pub slots: Mutex<BTreeMap<ChunkId, Arc<Slot>>>,
    pub damaged: Mutex<BTreeSet<ChunkRef>>,
    pub access: Access,
    pub peers: Peers,
    pub counters: Counters,
    pub chain_patience: Duration,
}

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
                let known =
                    Known { version: f.header.version, length: f.header.length, state, dirty: f.dirty };
                let slot =
                    Slot { id, disk: disk.clone(), known: Mutex::new(known), inside: Default::default() };
                slots.insert(id, Arc::new(slot));
            }
            all.push(disk);
        }
        Self(Arc::new(Shared {
            server,
            incarnation: Incarnation(seams.rng.next_u64()),
            disks: all,
            slots: Mutex::new(slots),
            damaged: Mutex::default(),
            access: Access::new(seams.clock.clone()),
            peers: Peers::new(transport),
            counters: Counters::default(),
            chain_patience,
        }))
    }

    /// Disks as the masters hear of them.
    pub fn disk_reports(&self) -> Vec<DiskReport> {
        let report = |d: &Arc<DataDisk>| {
            let (total_bytes, free_bytes) = d.space();
            let error = d.set_aside();
            DiskReport {
                disk: d.id,
                path: d.disk.describe(),
                total_bytes,
                free_bytes: if error.is_some() { 0 } else { free_bytes },
                chunks: d.chunks.load(Ordering::Relaxed),
                error,
            }
        };
        self.0.disks.iter().map(report).collect()
    }

    /// Counters.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
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
            let d = disk.clone();
            match mooseng_core::seam::on_lane(&disk.commit, move || d.settle_marks()).await {
                Some(Ok(())) => {}
                other => tracing::error!(?other, "the notes of dirty chunks were not settled"),
            }
        }
    }
}

impl Shared {
    fn slot(&self, id: ChunkId) -> Result<Arc<Slot>, ChunkError> {
        self.slots.lock().get(&id).cloned().ok_or(ChunkError::NotFound(id))
    }

    pub fn disk_error(&self, e: std::io::Error) -> ChunkError {
        FileError::Io(e).of(ChunkId(0), self.server)
    }

    /// A chunk at exactly this version, good.
    fn good(&self, chunk: ChunkRef) -> Result<Arc<Slot>, ChunkError> {
        let slot = self.slot(chunk.id)?;
        let known = *slot.known.lock();
        right_version(chunk, known)?;
        match known.state {
            ReplicaState::Good => Ok(slot),
            ReplicaState::Suspect => Err(ChunkError::Suspect(chunk.id)),
            ReplicaState::Damaged => Err(ChunkError::Damaged { chunk: chunk.id, first: 0, blocks: 0 }),
        }
    }

    /// The chunk to write: makes it when it is not there and may be made.
    pub fn to_write(&self, req: &WriteRequest) -> Result<Arc<Slot>, ChunkError> {
        match self.good(req.chunk) {
            Err(ChunkError::NotFound(_)) if req.create => {}
            other => return other,
        }
        let best = self
            .disks
            .iter()
            .filter(|d| d.set_aside().is_none())
            .map(|d| (d.space().1, d))
            .max_by_key(|(f, _)| *f);
        let (free, disk) = best.ok_or(ChunkError::NoSpace(self.server))?;
        if free < FRAME_BYTES_MAX as u64 {
            return Err(ChunkError::NoSpace(self.server));
        }
        let known = Known { version: req.chunk.version, length: 0, state: ReplicaState::Good, dirty: false };
        let slot = Slot {
            id: req.chunk.id,
            disk: disk.clone(),
            known: Mutex::new(known),
            inside: Default::default(),
        };
        let slot = self.slots.lock().entry(req.chunk.id).or_insert(Arc::new(slot)).clone();
        Ok(slot)
    }

    /// Checks a frame's data; returns what [`ChunkFile::write`](crate::chunk_file) needs.
    pub fn verify(&self, chunk: ChunkId, frame: &Frame) -> Result<(), ChunkError> {
        let bad = |what: &str| ChunkError::BadFrame { chunk, what: what.into() };
        let at = frame.head.at.get();
        let end =
            at.checked_add(frame.data.len() as u64).ok_or_else(|| bad("its end is past every limit"))?;
        if frame.data.is_empty()
            || frame.data.len() > FRAME_BYTES_MAX
            || end > CHUNK_BYTES
            || frame.head.hole != 0
        {
            return Err(bad("its bounds are wrong"));
        }
        if frame_crcs(chunk, frame.head.at, &frame.data) != frame.head.crcs {
            return Err(bad("its data does not match its checksums"));
        }
        Ok(())
    }

    /// Applies one verified frame in its turn.
    pub async fn apply(
        &self,
        slot: &Slot,
        req: &WriteRequest,
        frame: &Frame,
        first: bool,
    ) -> Result<(), ChunkError> {
        let members: Vec<_> = req.chain.iter().map(|r| r.server).collect();
        let create = req.create.then_some(members);
        let opened = slot.open(create).await.map_err(|e| self.disk_error(e))?;
        let guard = opened.ok_or(ChunkError::NotFound(slot.id))?;
        right_version(req.chunk, *slot.known.lock())?;
        self.access.not_fenced(req.session)?;
        let (session, number) = (req.session.id, frame.head.number);
        match guard.admit(session, number, first) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(expected) => {
                let (expected, got) = (expected.get(), number.get());
                return Err(ChunkError::OutOfOrder { chunk: slot.id, expected, got });
            }
        }
        if slot.disk.space().1 < frame.data.len() as u64 {
            return Err(ChunkError::NoSpace(self.server));
        }
        let guard = self.mark_dirty(slot, guard).await?;
        let f = frame.clone();
        let write = move |inside: &mut Inside, _: &DataDisk| {
            let Some(file) = inside.file.as_mut() else { return Err(FileError::Io(stopped())) };
            file.dirty = true;
            file.write(f.head.at.get(), &f.data, &f.head.crcs)?;
            inside.applied(session, number);
            Ok(inside.file.as_ref().map_or(0, |f| f.header.length))
        };
        let (guard, done) = slot.with(false, guard, write).await.map_err(|e| self.disk_error(e))?;
        drop(guard);
        match done {
            Ok(length) => {
                slot.known.lock().length = length;
                self.counters.written_bytes.fetch_add(frame.data.len() as u64, Ordering::Relaxed);
                Ok(())
            }
            Err(e) => Err(self.note(slot, e)),
        }
    }

    /// The note that a chunk is dirty is durable before its first write is acknowledged.
    async fn mark_dirty(
        &self,
        slot: &Slot,
        guard: OwnedMutexGuard<Inside>,
    ) -> Result<OwnedMutexGuard<Inside>, ChunkError> {
        if slot.known.lock().dirty {
            return Ok(guard);
        }
        let id = slot.id;
        let (guard, marked) =
            slot.with(true, guard, move |_, disk| disk.mark(id)).await.map_err(|e| self.disk_error(e))?;
        marked.map_err(|e| {
            slot.disk.failed(&e);
            self.disk_error(e)
        })?;
        slot.known.lock().dirty = true;
        Ok(guard)
    }

    /// Damage is remembered for the masters; a device error counts against its disk.
    fn note(&self, slot: &Slot, e: FileError) -> ChunkError {
        match &e {
            FileError::Damaged(first, blocks) => {
                tracing::error!(chunk = %slot.id, first, blocks, "damaged blocks");
                self.counters.damages.fetch_add(1, Ordering::Relaxed);
                let version = slot.known.lock().version;
                self.damaged.lock().insert(ChunkRef { id: slot.id, version });
            }
            FileError::Io(e) => slot.disk.failed(e),
        }
        e.of(slot.id, self.server)
    }

    /// Makes a chunk's writes durable on this server.
    pub async fn sync_here(&self, id: ChunkId) -> Result<(), ChunkError> {
        let slot = self.slot(id)?;
        let Some(guard) = slot.open(None).await.map_err(|e| self.disk_error(e))? else {
            return Err(ChunkError::NotFound(id));
        };
        if !slot.known.lock().dirty {
            return Ok(());
        }
        let sync = move |inside: &mut Inside, disk: &DataDisk| {
            inside.file.as_mut().map_or_else(|| Err(stopped()), |f| f.sync())?;
            disk.unmark(id)
        };
        let (guard, done) = slot.with(true, guard, sync).await.map_err(|e| self.disk_error(e))?;
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        if let Err(e) = done {
            // What the kernel had is gone or unknown: this replica is not to be believed.
            slot.known.lock().state = ReplicaState::Damaged;
            return Err(self.note(&slot, FileError::Io(e)));
        }
        slot.known.lock().dirty = false;
        drop(guard);
        Ok(())
    }

    pub fn stat(&self, id: ChunkId) -> Result<ChunkStat, ChunkError> {
        let slot = self.slot(id)?;
        let known = *slot.known.lock();
        let report = report_of(id, known);
        Ok(ChunkStat { report, server: self.server, incarnation: self.incarnation, dirty: known.dirty })
    }

    async fn set_version(
        &self,
        id: ChunkId,
        to: ChunkVersion,
        members: Vec<ServerId>,
        cut_to: Option<u64>,
    ) -> Result<ChunkStat, ChunkError> {
        let slot = self.slot(id)?;
        {
            let mut known = slot.known.lock();
            match known.version.cmp(&to) {
                std::cmp::Ordering::Greater => {
                    return Err(ChunkError::Stale { chunk: id, here: known.version, asked: to });
                }
                std::cmp::Ordering::Equal if !known.dirty => {
                    drop(known);
                    return self.stat(id);
                }
                _ => {}
            }
            if known.state != ReplicaState::Good {
                return Err(ChunkError::Suspect(id));
            }
            // From here on frames of older versions are refused; what was admitted holds the lock.
            known.version = to;
        }
        let Some(guard) = slot.open(None).await.map_err(|e| self.disk_error(e))? else {
            return Err(ChunkError::NotFound(id));
        };
        let set = move |inside: &mut Inside, disk: &DataDisk| -> Result<u64, FileError> {
            let file = inside.file.as_mut().ok_or_else(stopped)?;
            file.set_version(to, members, cut_to)?;
            let length = file.header.length;
            disk.unmark(id)?;
            Ok(length)
        };
        let (guard, done) = slot.with(true, guard, set).await.map_err(|e| self.disk_error(e))?;
        match done {
            Ok(length) => {
                let mut known = slot.known.lock();
                known.length = length;
                known.dirty = false;
            }
            Err(e) => {
                slot.known.lock().state = ReplicaState::Damaged;
                return Err(self.note(&slot, e));
            }
        }
        drop(guard);
        self.stat(id)
    }

    async fn delete(&self, chunk: ChunkRef) -> Result<(), ChunkError> {
        let Ok(slot) = self.slot(chunk.id) else { return Ok(()) };
        let here = slot.known.lock().version;
        if here > chunk.version {
            return Err(ChunkError::Stale { chunk: chunk.id, here, asked: chunk.version });
        }
        let guard = slot.inside.clone().lock_owned().await;
        let id = chunk.id;
        let remove = move |inside: &mut Inside, disk: &DataDisk| {
            inside.file = None;
            inside.gone = true;
            disk.remove(id)
        };
        let (guard, done) = slot.with(true, guard, remove).await.map_err(|e| self.disk_error(e))?;
        done.map_err(|e| self.note(&slot, FileError::Io(e)))?;
        self.slots.lock().remove(&id);
        self.damaged.lock().retain(|c| c.id != id);
        drop(guard);
        Ok(())
    }

    async fn table(&self, chunk: ChunkRef) -> Result<ChecksumTable, ChunkError> {
        let slot = self.good(chunk)?;
        let Some(guard) = slot.open(None).await.map_err(|e| self.disk_error(e))? else {
            return Err(ChunkError::NotFound(chunk.id));
        };
        let table = move |inside: &mut Inside, _: &DataDisk| {
            inside.file.as_ref().map_or_else(|| Err(stopped()), |f| f.table(&mut Vec::new()))
        };
        let (_, table) = slot.with(false, guard, table).await.map_err(|e| self.disk_error(e))?;
        table.map_err(|e| self.note(&slot, FileError::Io(e)))
    }

    fn bless(&self, chunk: ChunkRef) -> Result<ChunkStat, ChunkError> {
        let slot = self.slot(chunk.id)?;
        {
            let mut known = slot.known.lock();
            right_version(chunk, *known)?;
            if known.state == ReplicaState::Suspect {
                known.state = ReplicaState::Good;
            }
        }
        self.stat(chunk.id)
    }
}

fn right_version(chunk: ChunkRef, known: Known) -> Result<(), ChunkError> {
    let (here, asked) = (known.version, chunk.version);
    match here.cmp(&asked) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(ChunkError::Stale { chunk: chunk.id, here, asked }),
        std::cmp::Ordering::Less => Err(ChunkError::TooNew { chunk: chunk.id, here, asked }),
    }
}

fn report_of(id: ChunkId, known: Known) -> ChunkReport {
    ChunkReport { chunk: ChunkRef { id, version: known.version }, length: known.length, state: known.state }
}

#[async_trait]
impl ChunkStore for DiskStore {
    async fn read(&self, cx: &CallContext, req: ReadRequest) -> Result<Frames, ChunkError> {
        if !req.at.get().is_multiple_of(BLOCK_BYTES) || req.len > CHUNK_BYTES || req.at.get() > CHUNK_BYTES {
            return Err(ChunkError::Invalid("a read begins at a block and stays within a chunk".into()));
        }
        self.0.access.allows(cx, req.chunk, Rights::READ, req.capability.as_ref()).await?;
        let slot = self.0.good(req.chunk)?;
        let (shared, chunk) = (self.0.clone(), req.chunk);
        let (at, end) = (req.at.get(), req.at.get() + req.len);
        // The first step is done before the answer begins, so that its errors are the call's.
        let mut step = read_step(&shared, &slot, chunk, at, READ_STEP.min(end - at)).await?;
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
                match read_step(&shared, &slot, chunk, at, READ_STEP.min(end - at)).await {
                    Ok(next) => step = next,
                    Err(e) => {
                        yield Err(e);
                        break;
                    }
                }
            }
        };
        Ok(stream.boxed())
    }

    async fn write(&self, cx: &CallContext, req: WriteRequest, frames: Frames) -> Result<Acks, ChunkError> {
        let rights = if req.create { Rights::WRITE.and(Rights::CREATE) } else { Rights::WRITE };
        self.0.access.allows(cx, req.chunk, rights, req.capability.as_ref()).await?;
        self.0.access.may_write(req.session)?;
        if req.chain.first().is_none_or(|r| r.server != self.0.server) {
            return Err(ChunkError::Invalid(format!("the chain does not begin with {}", self.0.server)));
        }
        let slot = self.0.to_write(&req)?;
        Ok(chain::write(self.0.clone(), slot, req, frames).await)
    }

    async fn sync(&self, cx: &CallContext, req: SyncRequest) -> Result<SyncDone, ChunkError> {
        self.0.access.allows(cx, req.chunk, Rights::WRITE, req.capability.as_ref()).await?;
        let me = self.0.server;
        let other = req.acknowledged_by.iter().any(|(s, i)| *s == me && *i != self.0.incarnation);
        if other {
            return Err(ChunkError::Lost { chunk: req.chunk.id, server: me });
        }
        self.0.good(req.chunk)?;
        chain::sync(&self.0, cx, req).await
    }

    async fn control(&self, _cx: &CallContext, op: Control) -> Result<ControlReply, ChunkError> {
        let s = &self.0;
        if let Control::SetVersion { term, .. }
        | Control::Pull { term, .. }
        | Control::Delete { term, .. }
        | Control::Fence { term, .. }
        | Control::Bless { term, .. } = &op
        {
            s.access.term_is_not_old(*term)?;
        }
        match op {
            Control::Stat { chunk } => s.stat(chunk).map(ControlReply::Done),
            Control::SetVersion { chunk, to, members, cut_to, .. } => {
                s.set_version(chunk, to, members, cut_to).await.map(ControlReply::Done)
            }
            Control::Pull { chunk, from, .. } => {
                crate::pull::pull(s, chunk, from).await.map(ControlReply::Done)
            }
            Control::Delete { chunk, .. } => s.delete(chunk).await.map(|()| ControlReply::Gone),
            Control::Table { chunk } => s.table(chunk).await.map(ControlReply::Table),
            Control::Fence { session, .. } => {
                s.access.fence(session);
                Ok(ControlReply::Gone)
            }
            Control::Bless { chunk, .. } => s.bless(chunk).map(ControlReply::Done),
        }
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
        let chunks: Vec<_> = rest.by_ref().take(max).map(|(id, s)| report_of(*id, *s.known.lock())).collect();
        Ok(ChunkPage { chunks, last: rest.next().is_none() })
    }
}

/// Frames of one step, where the next one begins, and whether the chunk ends before it.
async fn read_step(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    chunk: ChunkRef,
    at: u64,
    len: u64,
) -> Result<(Vec<Frame>, u64, bool), ChunkError> {
    let Some(guard) = slot.open(None).await.map_err(|e| shared.disk_error(e))? else {
        return Err(ChunkError::NotFound(chunk.id));
    };
    right_version(chunk, *slot.known.lock())?;
    let length = guard.file.as_ref().map_or(0, |f| f.header.length);
    // Short reads are done here: a hop to the disk's thread costs more than a cached read.
    let frames = if len <= 128 << 10 {
        guard.file.as_ref().map_or_else(|| Err(FileError::Io(stopped())), |f| f.read(at, len))
    } else {
        let read = move |inside: &mut Inside, _: &DataDisk| {
            inside.file.as_ref().map_or_else(|| Err(FileError::Io(stopped())), |f| f.read(at, len))
        };
        slot.with(false, guard, read).await.map_err(|e| shared.disk_error(e))?.1
    };
    let frames = frames.map_err(|e| shared.note(slot, e))?;
    Ok((frames, at + len, at + len >= length))
}
