//! Scrub: every good, clean chunk of a disk is read in rounds and verified block by block, so that damage
//! is found while there are other replicas to mend it from. What is found is told to the masters as
//! reads tell it.
//!
//! One task for each disk, at a pace of its own; a step holds the chunk's order lock for one read only,
//! and while the server has other work the pauses are longer. A chunk that is dirty or suspect has its
//! turn with the next round.

use crate::{
    chunk_file::{ChunkFile, FileError},
    disk::DataDisk,
    server::Timings,
    shared::Shared,
    slot::{Inside, Slot, stopped},
};
use mooseng_core::{
    attr::Timestamp,
    ids::ChunkId,
    meta::{DiskScrub, ReplicaState},
    seam::Clock,
};
use parking_lot::Mutex;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::{OwnedMutexGuard, watch},
    task::JoinHandle,
};

/// Bytes read at once: what a writer of the same chunk may wait for.
const STEP: u64 = 256 << 10;
/// Bytes a second of a round that was asked for. It is for people who wait, and not for idle machines.
const FAST_BYTES_PER_S: u64 = 64 << 20;
/// How much longer pauses are while the server has other work.
const YIELD: u32 = 4;
/// Wait before the first round: a start has other things to do.
const FIRST: Duration = Duration::from_secs(60);

/// Scrubs of all disks of a server.
pub(crate) struct Scrub {
    disks: Vec<Arc<Mutex<DiskScrub>>>,
    /// When a round was last asked for, by the leader's clock.
    asked: watch::Sender<Option<Timestamp>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Scrub {
    pub fn start(shared: &Arc<Shared>, clock: &Arc<dyn Clock>, timings: &Timings) -> Self {
        let (asked, hears) = watch::channel(None);
        let (mut disks, mut tasks) = (Vec::new(), Vec::new());
        for disk in &shared.disks {
            let state = Arc::new(Mutex::new(DiskScrub { disk: disk.id, ..DiskScrub::default() }));
            let one = One {
                shared: shared.clone(),
                disk: disk.clone(),
                clock: clock.clone(),
                state: state.clone(),
                asked: hears.clone(),
                bytes_per_s: timings.scrub_bytes_per_s,
                every: timings.scrub_every,
            };
            disks.push(state);
            tasks.push(tokio::spawn(one.keep_scrubbing()));
        }
        Self { disks, asked, tasks }
    }

    /// Ends it; a step under way is completed unheard.
    pub fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// How the disks stand.
    pub fn state(&self) -> Vec<DiskScrub> {
        self.disks.iter().map(|d| *d.lock()).collect()
    }

    /// Begins a round on every disk, unless that was done for the same asking.
    pub fn ask(&self, at: Option<Timestamp>) {
        self.asked.send_if_modified(|last| {
            let newer = at > *last;
            if newer {
                *last = at;
            }
            newer
        });
    }
}

/// The scrub of one disk.
struct One {
    shared: Arc<Shared>,
    disk: Arc<DataDisk>,
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<DiskScrub>>,
    asked: watch::Receiver<Option<Timestamp>>,
    bytes_per_s: u64,
    every: Duration,
}

impl One {
    async fn keep_scrubbing(mut self) {
        let mut wait = FIRST;
        loop {
            let turn = async {
                match self.bytes_per_s {
                    0 => std::future::pending().await,
                    _ => tokio::time::sleep(wait).await,
                }
            };
            let for_whom = tokio::select! {
                biased;
                asked = self.asked.changed() => match asked {
                    Ok(()) => *self.asked.borrow_and_update(),
                    Err(_) => return,
                },
                () = turn => None,
            };
            let begun = self.clock.now();
            self.round(for_whom).await;
            wait = self.every.saturating_sub(self.clock.now().saturating_sub(begun)).max(FIRST);
        }
    }

    /// One round over the disk. Another asking ends it: the round that was asked for is whole.
    async fn round(&self, asked: Option<Timestamp>) {
        let chunks: Vec<_> = {
            let slots = self.shared.slots.lock();
            slots.iter().filter(|(_, s)| Arc::ptr_eq(&s.disk, &self.disk)).map(|(id, _)| *id).collect()
        };
        {
            let mut s = self.state.lock();
            (s.done, s.total, s.found, s.fast) = (0, chunks.len() as u64, 0, asked.is_some());
        }
        for id in chunks {
            if self.asked.has_changed().unwrap_or(true) {
                return;
            }
            if self.disk.set_aside().is_some() {
                break;
            }
            self.chunk(id, asked.is_some()).await;
            self.state.lock().done += 1;
        }
        let mut s = self.state.lock();
        s.rounds += 1;
        s.ended = Some(self.clock.wall());
        s.answered = asked.or(s.answered);
        (s.done, s.total, s.fast) = (0, 0, false);
    }

    async fn chunk(&self, id: ChunkId, fast: bool) {
        let Ok(slot) = self.shared.slot(id) else { return };
        // What is kept in memory would hide damage of the header and the table.
        slot.unload();
        let mut at = 0;
        loop {
            match self.step(&slot, at).await {
                Ok(Some(length)) if at + STEP < length => at += STEP,
                Ok(Some(_)) => {
                    self.state.lock().chunks += 1;
                    return;
                }
                Ok(None) => return,
                Err(e) => {
                    let damaged = matches!(e, FileError::Damaged(..));
                    self.shared.unreadable(&slot, e);
                    let mut s = self.state.lock();
                    s.damages += u64::from(damaged);
                    s.found += u64::from(damaged);
                    return;
                }
            }
            self.pause(fast).await;
        }
    }

    /// Reads and verifies one step; the chunk's length, or `None` when it is not to be scrubbed now.
    async fn step(&self, slot: &Arc<Slot>, at: u64) -> Result<Option<u64>, FileError> {
        let settled = || {
            let known = *slot.known.lock();
            known.made && !known.dirty && known.state == ReplicaState::Good
        };
        if !settled() {
            return Ok(None);
        }
        // An error of the disk was counted where it happened.
        let Ok(opened) = slot.open(None).await else { return Ok(None) };
        if !settled() {
            return Ok(None);
        }
        let Some(guard) = opened else {
            slot.has_no_header();
            return Err(FileError::Damaged(0, 1));
        };
        let guard = if at == 0 { self.mend_header(slot, guard).await? } else { guard };
        let read = move |inside: &mut Inside, _: &DataDisk| {
            let file = inside.file.as_ref().ok_or_else(stopped)?;
            let frames = file.read(at, STEP)?;
            let bytes = frames.iter().map(|f| f.data.len() as u64).sum::<u64>();
            Ok::<_, FileError>((bytes, file.header.length))
        };
        let (guard, read) = slot.with(false, guard, read).await?;
        drop(guard);
        let (bytes, length) = read?;
        self.state.lock().bytes += bytes;
        Ok(Some(length))
    }

    /// One header is enough to serve a chunk, but none would be the end of the replica.
    async fn mend_header(
        &self,
        slot: &Arc<Slot>,
        guard: OwnedMutexGuard<Inside>,
    ) -> Result<OwnedMutexGuard<Inside>, FileError> {
        if !guard.file.as_ref().is_some_and(ChunkFile::has_rotten_header) {
            return Ok(guard);
        }
        let mend = move |inside: &mut Inside, _: &DataDisk| {
            inside.file.as_mut().map_or_else(|| Err(stopped()), ChunkFile::mend_header)
        };
        let (guard, mended) = slot.with(true, guard, mend).await?;
        mended?;
        tracing::error!(chunk = %slot.id, "one of the two headers of a chunk file was damaged: it was written anew");
        self.shared.counters.damages.fetch_add(1, Ordering::Relaxed);
        let mut s = self.state.lock();
        (s.damages, s.found) = (s.damages + 1, s.found + 1);
        Ok(guard)
    }

    async fn pause(&self, fast: bool) {
        let c = &self.shared.counters;
        let work = || [&c.reads, &c.writes, &c.syncs, &c.pulls].map(|n| n.load(Ordering::Relaxed));
        let per_s = if fast { FAST_BYTES_PER_S.max(self.bytes_per_s) } else { self.bytes_per_s.max(1) };
        let pause = Duration::from_secs_f64(STEP as f64 / per_s as f64);
        let before = work();
        tokio::time::sleep(pause).await;
        if work() != before {
            tokio::time::sleep(pause * (YIELD - 1)).await;
        }
    }
}
