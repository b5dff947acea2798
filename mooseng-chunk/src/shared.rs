//! What all parts of a store share, and what is done to one chunk on this server: finding it,
//! writing, syncing.

use crate::{
    access::Access,
    chunk_file::{FileError, FlushFailed},
    disk::DataDisk,
    format::WRITERS_MAX,
    numbers::Numbers,
    peers::Peers,
    slot::{Inside, Known, Sending, Slot, stopped},
};
use mooseng_core::{
    checksum::frame_crcs,
    chunk::*,
    error::ChunkError,
    ids::*,
    limits::{CHUNK_BYTES, FRAME_BYTES_MAX},
    meta::{ChunkReport, ReplicaState, Served},
    planted::{self, Bug},
    seam::on_lane,
    trace,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedMutexGuard, RwLock, Semaphore, SemaphorePermit};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Counters of what a store did.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes served.
    pub read_bytes: AtomicU64,
    /// Bytes written.
    pub written_bytes: AtomicU64,
    /// Reads begun.
    pub reads: AtomicU64,
    /// Frames applied.
    pub writes: AtomicU64,
    /// Syncs.
    pub syncs: AtomicU64,
    /// Copies made from other replicas.
    pub pulls: AtomicU64,
    /// Damaged blocks or chunks met.
    pub damages: AtomicU64,
}

impl Counters {
    /// All of them, as they are told to the masters.
    pub fn served(&self) -> Served {
        let now = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Served {
            read_bytes: now(&self.read_bytes),
            written_bytes: now(&self.written_bytes),
            reads: now(&self.reads),
            writes: now(&self.writes),
            syncs: now(&self.syncs),
            copies: now(&self.pulls),
            damages: now(&self.damages),
        }
    }
}

/// In which steps the memory of copies is counted.
pub(crate) const GATHER_UNIT: u64 = FRAME_BYTES_MAX as u64;
/// Bytes that copies gather at a time.
pub(crate) const GATHER_BYTES: u64 = 2 * CHUNK_BYTES;
/// Deleted chunks that are remembered: the newest.
const DELETED_MAX: usize = 65_536;

pub(crate) struct Shared {
    pub server: ServerId,
    pub incarnation: Incarnation,
    pub disks: Vec<Arc<DataDisk>>,
    pub slots: Mutex<BTreeMap<ChunkId, Arc<Slot>>>,
    /// Copies under way of chunks that have one on a disk that takes nothing new.
    pub filling: Mutex<BTreeMap<ChunkId, Arc<Slot>>>,
    pub damaged: Mutex<BTreeSet<ChunkId>>,
    /// What was deleted here since the start, at which version or below: a late first write makes none of it
    /// again.
    pub deleted: Mutex<BTreeMap<ChunkId, ChunkVersion>>,
    /// Chunks that are headed here and whose chain failed with frames under way.
    pub broken: Mutex<BTreeSet<ChunkRef>>,
    pub access: Access,
    pub peers: Peers,
    pub counters: Counters,
    pub chain_patience: Duration,
    /// Held for reading by writes that passed the fences; a new fence waits for them.
    pub admitted: RwLock<()>,
    /// The highest term on the disks.
    pub kept_term: tokio::sync::Mutex<Term>,
    /// Of what copies gather in memory at a time, in units of [`GATHER_UNIT`].
    pub gathers: Semaphore,
    pub tasks: TaskTracker,
    /// The process has died, as far as its tasks are to know.
    pub crashed: CancellationToken,
}

impl Shared {
    /// Room for what a copy gathers before it changes anything: of a chunk at most.
    pub async fn room_to_gather(&self, bytes: u64) -> Result<SemaphorePermit<'_>, ChunkError> {
        let permits = bytes.min(CHUNK_BYTES).div_ceil(GATHER_UNIT) as u32;
        self.gathers.acquire_many(permits).await.map_err(|_| self.disk_error(stopped()))
    }

    /// Runs work that outlives its caller, but not this server.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let crashed = self.crashed.clone();
        self.tasks.spawn(trace::carry(async move {
            tokio::select! {
                biased;
                () = crashed.cancelled() => {}
                () = work => {}
            }
        }));
    }

    /// A chunk that has a file.
    pub fn slot(&self, id: ChunkId) -> Result<Arc<Slot>, ChunkError> {
        let slot = self.slots.lock().get(&id).cloned();
        slot.filter(|s| s.known.lock().made).ok_or(ChunkError::NotFound(id))
    }

    pub fn disk_error(&self, e: std::io::Error) -> ChunkError {
        FileError::Io(e).of(ChunkId(0), self.server)
    }

    /// A chunk at exactly this version, good.
    pub fn good(&self, chunk: ChunkRef) -> Result<Arc<Slot>, ChunkError> {
        let slot = self.slot(chunk.id)?;
        let known = *slot.known.lock();
        is_good(chunk, known)?;
        Ok(slot)
    }

    /// A chunk whatever it is, for a server that compares what it gets with what should be there. Not while it is
    /// made equal to another: two servers would wait for each other.
    pub fn as_it_is(&self, id: ChunkId) -> Result<Arc<Slot>, ChunkError> {
        let slot = self.slot(id)?;
        let is_busy = slot.inside.try_lock().is_err();
        if is_busy { Err(ChunkError::Suspect(id)) } else { Ok(slot) }
    }

    /// Ends a copy that is made ahead: it keeps no command of the masters waiting.
    pub fn stop_ahead(&self, id: ChunkId) {
        let there = self.slots.lock().get(&id).cloned();
        let begun = self.filling.lock().get(&id).cloned();
        there.iter().chain(&begun).for_each(|slot| slot.stop_ahead());
    }

    /// Remembers that a chunk was deleted here.
    pub fn note_deleted(&self, chunk: ChunkRef) {
        let mut deleted = self.deleted.lock();
        let version = deleted.entry(chunk.id).or_default();
        *version = chunk.version.max(*version);
        if deleted.len() > DELETED_MAX {
            deleted.pop_first();
        }
    }

    /// Errors: this version was deleted here, and is not made again.
    pub fn may_be_made(&self, chunk: ChunkRef) -> Result<(), ChunkError> {
        match self.deleted.lock().get(&chunk.id) {
            Some(version) if chunk.version <= *version => Err(ChunkError::NotFound(chunk.id)),
            _ => Ok(()),
        }
    }

    /// Gives a place up that could not be filled, so that the next try may choose another disk.
    pub fn give_up(&self, slot: &Slot) {
        if let Ok(mut inside) = slot.inside.try_lock()
            && !slot.known.lock().made
        {
            inside.gone = true;
            for places in [&self.slots, &self.filling] {
                let mut places = places.lock();
                if places.get(&slot.id).is_some_and(|s| std::ptr::eq(&raw const **s, slot)) {
                    places.remove(&slot.id);
                }
            }
        }
    }

    /// Whether this start of the server may make the chunk.
    fn is_maker(&self, req: &WriteRequest) -> bool {
        req.makers.contains(&(self.server, self.incarnation))
    }

    /// The chunk to write: makes room for it when it is not there and may be made.
    pub fn to_write(&self, req: &WriteRequest) -> Result<Arc<Slot>, ChunkError> {
        match self.good(req.chunk) {
            Err(ChunkError::NotFound(_)) if self.is_maker(req) => {
                self.may_be_made(req.chunk)?;
                self.place(req.chunk.id, req.chunk.version, ReplicaState::Good)
            }
            other => other,
        }
    }

    /// Checks a frame's bounds, and its data against its checksums.
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

    /// Whether the head has a frame already. Then all members have, for nothing else is under way to them
    /// when the head may send, and the next version makes equal what a failure left different.
    pub fn is_repeat(
        &self,
        slot: &Slot,
        req: &WriteRequest,
        number: WriteNumber,
        first: bool,
    ) -> Result<bool, ChunkError> {
        let known = *slot.known.lock();
        if known.made {
            is_good(req.chunk, known)?;
        }
        self.admits(slot, req.session.id, number, first).map(|admitted| !admitted)
    }

    /// Before a frame is sent on: there is room for it here, and the note that the chunk is dirty is durable, and
    /// stays so until the answer is dropped. Who dies before it has applied the frame itself is a suspect then: it never
    /// takes the frame for applied because those behind it have it, and serves nobody what is older than what they serve.
    pub async fn before_sending<'a>(
        &self,
        slot: &'a Slot,
        req: &WriteRequest,
        frame: &Frame,
        (head, first): (bool, bool),
    ) -> Result<Sending<'a>, ChunkError> {
        if slot.disk.space().1 < frame.data.len() as u64 {
            return Err(ChunkError::NoSpace(self.server));
        }
        let (sending, dirty) = Sending::begin(slot);
        // The head knows by now that it takes the frame.
        if dirty && head {
            return Ok(sending);
        }
        let guard = self.open_to_write(slot, req).await?;
        if !head {
            self.admits(slot, req.session.id, frame.head.number, first)?;
        }
        self.mark_dirty(slot, guard).await?;
        Ok(sending)
    }

    /// A frame was sent on and cannot be applied here: the servers behind may have served it. Another replica is
    /// made the truth, until a copy is made of that. While the frame is noted as being sent: the note that the chunk is
    /// dirty outlives it.
    pub fn lacks_what_it_sent(&self, slot: &Slot, req: &WriteRequest, why: &ChunkError) {
        {
            let mut known = slot.known.lock();
            if known.version == req.chunk.version && known.state == ReplicaState::Good {
                tracing::warn!(chunk = %slot.id, error = %why, "the servers behind have more: this replica is a suspect");
                known.state = ReplicaState::Suspect;
                slot.disk.doubt(slot.id);
            }
        }
        slot.under_way.gives_up(req.session.id);
    }

    async fn open_to_write(
        &self,
        slot: &Slot,
        req: &WriteRequest,
    ) -> Result<OwnedMutexGuard<Inside>, ChunkError> {
        let members: Vec<_> = req.chain.iter().map(|r| r.server).collect();
        let opened = slot.open(self.is_maker(req).then_some(members)).await.map_err(|e| {
            self.give_up(slot);
            self.disk_error(e)
        })?;
        let guard = opened.ok_or(ChunkError::NotFound(slot.id))?;
        is_good(req.chunk, *slot.known.lock())?;
        if let Some(head) = req.head {
            slot.heads.lock().sends(req.chunk, head)?;
        }
        Ok(guard)
    }

    fn admits(
        &self,
        slot: &Slot,
        session: SessionId,
        number: WriteNumber,
        first: bool,
    ) -> Result<bool, ChunkError> {
        let mut numbers = slot.numbers.lock();
        self.has_room(&mut numbers, session)?;
        numbers.admit(session, number, first).map_err(|expected| {
            let (expected, got) = (expected.get(), number.get());
            ChunkError::OutOfOrder { chunk: slot.id, expected, got }
        })
    }

    /// Whether a session's writes can be remembered beside those of all others that live.
    pub fn has_room(&self, numbers: &mut Numbers, session: SessionId) -> Result<(), ChunkError> {
        if numbers.has_room(session, |s| self.access.is_over(s)) {
            return Ok(());
        }
        // Some may have ended since; the head, which has admitted the session, knows it.
        self.access.refresh.notify_one();
        Err(ChunkError::Invalid(format!(
            "{WRITERS_MAX} sessions that live have written to this chunk, which is as many as can be: when one of these clients has ended, another can write"
        )))
    }

    /// Applies one verified frame in its turn; waits while the disk's redo log has no room for it.
    pub async fn apply(
        &self,
        slot: &Slot,
        req: &WriteRequest,
        frame: &Frame,
        first: bool,
    ) -> Result<(), ChunkError> {
        loop {
            let freed = slot.disk.redo.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.is_applied(slot, req, frame, first).await? {
                return Ok(());
            }
            freed.await;
        }
    }

    /// Not when the redo log has no room.
    async fn is_applied(
        &self,
        slot: &Slot,
        req: &WriteRequest,
        frame: &Frame,
        first: bool,
    ) -> Result<bool, ChunkError> {
        let guard = self.open_to_write(slot, req).await?;
        let (session, number) = (req.session.id, frame.head.number);
        if !self.admits(slot, session, number, first)? {
            return Ok(true);
        }
        if slot.disk.space().1 < frame.data.len() as u64 {
            return Err(ChunkError::NoSpace(self.server));
        }
        let guard = self.mark_dirty(slot, guard).await?;
        let (f, noted) = (frame.clone(), slot.known.clone());
        let write = move |inside: &mut Inside, disk: &DataDisk| {
            let Some(file) = inside.file.as_mut() else { return Err(FileError::Io(stopped())) };
            file.dirty = true;
            file.write(Some((session, number)), f.head.at.get(), &f.data, &f.head.crcs, &disk.redo)?;
            noted.lock().length = file.header.length;
            Ok(())
        };
        let (guard, done) = slot.with(false, guard, write).await.map_err(|e| self.disk_error(e))?;
        drop(guard);
        match done {
            Err(FileError::LogFull) => return Ok(false),
            done => done.map_err(|e| self.note(slot, e))?,
        }
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        self.counters.written_bytes.fetch_add(frame.data.len() as u64, Ordering::Relaxed);
        Ok(true)
    }

    /// The note that a chunk is dirty is durable before its first write is acknowledged.
    pub async fn mark_dirty(
        &self,
        slot: &Slot,
        guard: OwnedMutexGuard<Inside>,
    ) -> Result<OwnedMutexGuard<Inside>, ChunkError> {
        {
            let mut known = slot.known.lock();
            known.clean_when_through = false;
            if known.dirty {
                return Ok(guard);
            }
        }
        let (id, noted) = (slot.id, slot.known.clone());
        if slot.disk.notes.is_marked(id) {
            noted.lock().dirty = true;
            return Ok(guard);
        }
        slot.disk.notes.announce(id);
        let mark = move |_: &mut Inside, disk: &DataDisk| {
            disk.notes.mark(id)?;
            noted.lock().dirty = true;
            Ok::<_, std::io::Error>(())
        };
        let (guard, marked) = slot.with(true, guard, mark).await.map_err(|e| self.disk_error(e))?;
        marked.map_err(|e| self.note(slot, FileError::Io(e)))?;
        Ok(guard)
    }

    /// Damage is remembered for the masters; a device error counts against its disk.
    pub fn note(&self, slot: &Slot, e: FileError) -> ChunkError {
        match &e {
            FileError::Damaged(first, blocks) => {
                tracing::error!(chunk = %slot.id, first, blocks, "damaged blocks");
                self.counters.damages.fetch_add(1, Ordering::Relaxed);
                self.tell_damage(slot);
            }
            FileError::Io(cause) => {
                slot.disk.failed(cause);
                if FlushFailed::is(cause) {
                    self.disbelieve(slot, &e);
                }
            }
            FileError::LogFull => {}
        }
        e.of(slot.id, self.server)
    }

    /// A replica that its disk cannot read is as good as damaged: another disk may take it.
    pub fn unreadable(&self, slot: &Slot, e: FileError) -> ChunkError {
        if matches!(&e, FileError::Io(e) if e.kind() != std::io::ErrorKind::StorageFull) {
            self.tell_damage(slot);
        }
        self.note(slot, e)
    }

    /// What the kernel had is gone or unknown: this replica is not to be believed. Not when there was only
    /// no room: then all is as it was.
    pub fn poisoned(&self, slot: &Slot, e: FileError) -> ChunkError {
        if !matches!(&e, FileError::Io(e) if e.kind() == std::io::ErrorKind::StorageFull) {
            self.disbelieve(slot, &e);
        }
        self.note(slot, e)
    }

    /// Nobody knows what of it is on the disk.
    pub fn disbelieve(&self, slot: &Slot, e: &dyn std::fmt::Debug) {
        tracing::error!(chunk = %slot.id, error = ?e, "what is on disk is not known: the replica is not served any more");
        slot.known.lock().state = ReplicaState::Damaged;
        slot.disbelieved.store(true, Ordering::Relaxed);
        self.tell_damage(slot);
    }

    /// The masters hear of it; not when it is a copy under way of a chunk that has another one here.
    fn tell_damage(&self, slot: &Slot) {
        if self.slots.lock().get(&slot.id).is_some_and(|s| std::ptr::eq(&raw const **s, slot)) {
            self.damaged.lock().insert(slot.id);
        }
    }

    /// Damaged chunks at the versions that they have now.
    pub fn damaged_now(&self) -> Vec<ChunkRef> {
        let mut ids = self.damaged.lock().clone();
        let is_so = |id: &ChunkId| self.slot(*id).is_ok_and(|s| s.known.lock().state != ReplicaState::Good);
        ids.extend(self.disks.iter().flat_map(|d| d.doubted()).filter(is_so));
        let now = |id| Some(ChunkRef { id, version: self.slot(id).ok()?.known.lock().version });
        ids.into_iter().filter_map(now).collect()
    }

    /// Chunks whose chain is broken until they get another version.
    pub fn broken_now(&self) -> Vec<ChunkRef> {
        let mut broken = self.broken.lock();
        broken.retain(|c| self.slot(c.id).is_ok_and(|s| s.known.lock().version == c.version));
        broken.iter().copied().collect()
    }

    /// Makes a chunk's writes durable on this server.
    pub async fn sync_here(&self, id: ChunkId) -> Result<(), ChunkError> {
        let slot = self.slot(id)?;
        let Some(guard) = slot.open(None).await.map_err(|e| self.disk_error(e))? else {
            return Err(ChunkError::NotFound(id));
        };
        let known = *slot.known.lock();
        is_good(ChunkRef { id, version: known.version }, known)?;
        if !known.dirty {
            return Ok(());
        }
        let noted = slot.known.clone();
        let sync = move |inside: &mut Inside, disk: &DataDisk| {
            inside.file.as_mut().map_or_else(|| Err(stopped()), |f| f.sync(&disk.redo))?;
            clean(disk, id, &noted);
            Ok(())
        };
        let (_guard, done) = slot.with(true, guard, sync).await.map_err(|e| self.disk_error(e))?;
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        done.map_err(|e| self.poisoned(&slot, FileError::Io(e)))
    }

    /// Takes a command's term: refuses an older one; a newer one is on disk before it is obeyed.
    pub async fn take_term(&self, term: Term) -> Result<(), ChunkError> {
        self.access.term_is_not_old(term)?;
        let mut kept = self.kept_term.lock().await;
        if term <= *kept {
            return Ok(());
        }
        let mut failed = None;
        let mut on_disk = 0;
        for disk in &self.disks {
            let d = disk.clone();
            match on_lane(&disk.commit, move || d.notes.keep_term(term)).await.ok_or_else(stopped).flatten() {
                Ok(()) => on_disk += 1,
                Err(e) => {
                    disk.failed(&e);
                    failed = Some(e);
                }
            }
        }
        match failed {
            Some(e) if on_disk == 0 => Err(self.disk_error(e)),
            _ => {
                *kept = term;
                Ok(())
            }
        }
    }

    /// Makes it durable which chunks are not dirty any more, so that a crash suspects few: of those
    /// that were not written for a while, or of all.
    pub async fn settle_marks(&self, all: bool) {
        for disk in self.disks.iter().filter(|d| d.notes.is_unsettled()) {
            let d = disk.clone();
            if let Err(e) = on_lane(&disk.commit, move || d.notes.settle(all, d.redo.durable_seq()))
                .await
                .ok_or_else(stopped)
                .flatten()
            {
                disk.failed(&e);
            }
        }
    }

    pub fn stat(&self, id: ChunkId) -> Result<ChunkStat, ChunkError> {
        let slot = self.slot(id)?;
        let known = *slot.known.lock();
        let mut report = report_of(&slot, known);
        // Before the next heartbeat says so: a copy elsewhere may be all that is left of a block.
        if report.state != ReplicaState::Suspect && self.damaged.lock().contains(&id) {
            report.state = ReplicaState::Damaged;
        }
        Ok(ChunkStat { report, server: self.server, incarnation: self.incarnation, dirty: known.dirty })
    }
}

/// Notes that all of a chunk is on disk. A note that stays makes a crash suspect too much, never too
/// little; that of a suspect stays.
pub(crate) fn clean(disk: &DataDisk, id: ChunkId, known: &Mutex<Known>) {
    let mut known = known.lock();
    if known.state == ReplicaState::Suspect {
        return;
    }
    known.clean_when_through = known.dirty && known.is_under_way();
    if !known.is_under_way() {
        known.dirty = false;
        disk.notes.unmark(id);
    }
}

pub(crate) fn right_version(chunk: ChunkRef, known: Known) -> Result<(), ChunkError> {
    let (here, asked) = (known.version, chunk.version);
    match here.cmp(&asked) {
        std::cmp::Ordering::Equal => Ok(()),
        _ if planted::is(Bug::VersionUnchecked) => Ok(()),
        std::cmp::Ordering::Greater => Err(ChunkError::Stale { chunk: chunk.id, here, asked }),
        std::cmp::Ordering::Less => Err(ChunkError::TooNew { chunk: chunk.id, here, asked }),
    }
}

pub(crate) fn is_good(chunk: ChunkRef, known: Known) -> Result<(), ChunkError> {
    right_version(chunk, known)?;
    match known.state {
        ReplicaState::Good | ReplicaState::Leaving => Ok(()),
        ReplicaState::Suspect if planted::is(Bug::SuspectServed) => Ok(()),
        ReplicaState::Suspect => Err(ChunkError::Suspect(chunk.id)),
        ReplicaState::Damaged => Err(ChunkError::Damaged { chunk: chunk.id, first: 0, blocks: 0 }),
    }
}

pub(crate) fn report_of(slot: &Slot, known: Known) -> ChunkReport {
    let aside = known.state == ReplicaState::Good && !slot.disk.takes_new();
    let state = if aside { ReplicaState::Leaving } else { known.state };
    ChunkReport { chunk: ChunkRef { id: slot.id, version: known.version }, length: known.length, state }
}
