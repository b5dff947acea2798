//! Which of a server's disks a chunk goes to, and how a copy on a disk that takes nothing new makes room for
//! one on another.

use crate::{
    disk::DataDisk,
    shared::Shared,
    slot::{Inside, Known, Slot},
};
use mooseng_core::{error::ChunkError, ids::*, limits::FRAME_BYTES_MAX, meta::ReplicaState};
use std::sync::{Arc, atomic::Ordering};
use tokio::sync::OwnedMutexGuard;

/// Disks whose free space is that of the roomiest less one part in so many are about equally free.
const ABOUT: u64 = 16;

impl Shared {
    /// The disk for a new chunk: of those that are about as free as the roomiest the one with fewest chunks.
    /// Directories of one filesystem share its space, and would all be the roomiest or none.
    fn best_disk(&self) -> Option<&Arc<DataDisk>> {
        let usable = self.disks.iter().filter(|d| d.takes_new());
        let rooms: Vec<_> = usable.map(|d| (d.space().1, d)).collect();
        let most = rooms.iter().map(|(free, _)| *free).max()?;
        let enough = (most - most / ABOUT).max(FRAME_BYTES_MAX as u64);
        let roomy = rooms.into_iter().filter(|(free, _)| *free >= enough).map(|(_, d)| d);
        roomy.min_by_key(|d| d.chunks.load(Ordering::Relaxed))
    }

    fn new_slot(&self, id: ChunkId, version: ChunkVersion, state: ReplicaState) -> Option<Arc<Slot>> {
        let known = Known {
            version,
            length: 0,
            header: 0,
            state,
            dirty: false,
            sending: 0,
            sent: None,
            clean_when_through: false,
            made: false,
        };
        Some(Arc::new(Slot::new(id, self.best_disk()?.clone(), known, vec![])))
    }

    /// The chunk, or a place for it. A place that nobody has filled yet becomes what is asked for now.
    pub fn place(
        &self,
        id: ChunkId,
        version: ChunkVersion,
        state: ReplicaState,
    ) -> Result<Arc<Slot>, ChunkError> {
        let stays = |s: &Arc<Slot>| s.disk.takes_new() || s.known.lock().made;
        let slot = loop {
            let there = self.slots.lock().get(&id).cloned();
            if let Some(slot) = there.filter(stays) {
                break slot;
            }
            let slot = self.new_slot(id, version, state).ok_or(ChunkError::NoSpace(self.server))?;
            let mut slots = self.slots.lock();
            // Under the lock: who counts what is on a disk that is being emptied misses nothing.
            if slot.disk.takes_new() {
                let now = slots.entry(id).or_insert_with(|| slot.clone());
                if !stays(now) {
                    *now = slot;
                }
                break now.clone();
            }
        };
        let mut known = slot.known.lock();
        if !known.made {
            (known.version, known.state) = (version, state);
        }
        drop(known);
        Ok(slot)
    }

    /// Where the copy of a version is to be made: what is there is made equal. One on a disk that takes
    /// nothing new stays as it is, and is served, until another disk has the new one whole.
    pub fn place_of_copy(&self, chunk: ChunkRef) -> Result<Arc<Slot>, ChunkError> {
        let Some(there) = self.slot(chunk.id).ok().filter(|s| !s.disk.takes_new()) else {
            return self.place(chunk.id, ChunkVersion(0), ReplicaState::Suspect);
        };
        let set_aside = there.disk.set_aside();
        let is_old = there.known.lock().version < chunk.version;
        let mut filling = self.filling.lock();
        let begun = filling.get(&chunk.id).filter(|s| s.disk.takes_new()).cloned();
        let other = begun.or_else(|| self.new_slot(chunk.id, ChunkVersion(0), ReplicaState::Suspect));
        match (set_aside, other) {
            // Another disk of this server would have another copy of the same version: the next one goes there.
            (Some(cause), _) if !is_old => {
                let cause = format!("it was set aside: {cause}");
                Err(ChunkError::Disk { server: self.server, cause })
            }
            (Some(_), None) => Err(ChunkError::NoSpace(self.server)),
            (None, other) if !is_old || other.is_none() => Ok(there),
            (_, Some(slot)) => {
                filling.insert(chunk.id, slot.clone());
                Ok(slot)
            }
            (None, None) => Ok(there),
        }
    }

    /// A copy is made and durable: from now on it is the chunk's. One in whose place it was made goes; on a
    /// disk that was set aside, and where the new one lacks something (`whole` is false), it stays, for people.
    ///
    /// Errors: the chunk was deleted, or the one that is there has a newer version by now.
    pub async fn is_made(&self, slot: &Arc<Slot>, whole: bool) -> Result<(), ChunkError> {
        let old = self.slot(slot.id)?;
        if Arc::ptr_eq(&old, slot) {
            return Ok(());
        }
        // Whoever makes a version of the old one has its lock.
        let guard = old.inside.clone().lock_owned().await;
        let (here, asked) = (old.known.lock().version, slot.known.lock().version);
        if here >= asked {
            return Err(ChunkError::Stale { chunk: slot.id, here, asked });
        }
        {
            let mut filling = self.filling.lock();
            if guard.gone || !filling.get(&slot.id).is_some_and(|s| Arc::ptr_eq(s, slot)) {
                return Err(ChunkError::NotFound(slot.id));
            }
            filling.remove(&slot.id);
            self.slots.lock().insert(slot.id, slot.clone());
        }
        let stays = !whole || old.disk.set_aside().is_some();
        self.let_go(&old, guard, stays).await;
        Ok(())
    }

    /// Takes a copy away that is not the chunk's any more.
    async fn let_go(&self, old: &Slot, guard: OwnedMutexGuard<Inside>, stays: bool) {
        let (id, made) = (old.id, old.known.lock().made);
        let remove = move |inside: &mut Inside, disk: &DataDisk| {
            (inside.file, inside.gone) = (None, true);
            if made && stays {
                disk.uncount();
            }
            if made && !stays { disk.remove(id) } else { Ok(()) }
        };
        // What fails leaves a file that has an older version than the chunk, or none, at the next start.
        if let Ok((_, Err(e))) = old.with(true, guard, remove).await {
            old.disk.failed(&e);
        }
    }

    /// A copy under way is given up with its chunk.
    pub async fn stop_filling(&self, id: ChunkId) {
        let slot = self.filling.lock().remove(&id);
        if let Some(slot) = slot {
            let guard = slot.inside.clone().lock_owned().await;
            self.let_go(&slot, guard, false).await;
        }
    }

    /// Chunks on a disk. Of one that is being emptied also what is about to be made there.
    pub fn chunks_on(&self, disk: &Arc<DataDisk>) -> u64 {
        let made = disk.chunks.load(Ordering::Relaxed);
        if made > 0 || !disk.drains() {
            return made;
        }
        self.slots.lock().values().filter(|s| Arc::ptr_eq(&s.disk, disk)).count() as u64
    }
}
