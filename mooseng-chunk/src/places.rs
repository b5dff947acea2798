//! Which of a server's disks a chunk goes to, and how a copy on a disk that takes nothing new makes room for
//! one on another.

use crate::{
    disk::DataDisk,
    shared::Shared,
    slot::{Inside, Known, Slot},
};
use mooseng_core::{error::ChunkError, ids::*, limits::FRAME_BYTES_MAX, meta::ReplicaState};
use std::{
    cmp::Ordering::Less,
    sync::{Arc, atomic::Ordering},
};

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
            state,
            dirty: false,
            sending: false,
            sent: None,
            clean_when_through: false,
            made: false,
        };
        Some(Arc::new(Slot::new(id, self.best_disk()?.clone(), known)))
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
        let is_old = there.known.lock().version.cmp(&chunk.version) == Less;
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

    /// A copy is whole and durable: from now on it is the chunk's. What takes nothing new had one before.
    pub fn is_filled(&self, slot: &Arc<Slot>) -> Option<Arc<Slot>> {
        let mut filling = self.filling.lock();
        if !filling.get(&slot.id).is_some_and(|s| Arc::ptr_eq(s, slot)) {
            return None;
        }
        filling.remove(&slot.id);
        self.slots.lock().insert(slot.id, slot.clone())
    }

    /// Lets go of a copy in whose place another disk has a newer one. On a disk that was set aside, and
    /// where the newer one lacks something (`whole` is false), it stays, for people.
    pub async fn let_go(&self, old: Arc<Slot>, whole: bool) {
        let guard = old.inside.clone().lock_owned().await;
        let (id, made) = (old.id, old.known.lock().made);
        let stays = !whole || old.disk.set_aside().is_some();
        let remove = move |inside: &mut Inside, disk: &DataDisk| {
            (inside.file, inside.gone) = (None, true);
            match (made, stays) {
                (false, _) => Ok(()),
                (true, true) => Ok(disk.uncount()),
                (true, false) => disk.remove(id),
            }
        };
        // Whatever becomes of it, the newer one counts at the next start, too.
        match old.with(true, guard, remove).await {
            Ok((_, Ok(()))) => {}
            Ok((_, Err(e))) => old.disk.failed(&e),
            Err(_) => {}
        }
    }

    /// A copy under way is given up with its chunk.
    pub async fn stop_filling(&self, id: ChunkId) {
        let slot = self.filling.lock().remove(&id);
        if let Some(slot) = slot {
            self.let_go(slot, true).await;
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
