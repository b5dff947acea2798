//! What all files of a client share: connections to chunkservers, how well they answer, write
//! numbers, what is dirty and what was left unsynced.

use crate::{
    ahead::{CacheCounters, PIECE},
    budget::Budget,
    health::Health,
    node::Node,
};
use mooseng_core::{
    chunk::Acknowledged,
    error::NetError,
    ids::{ChunkId, ChunkIndex, InodeId, WriteNumber},
    net::{Connections, Transport},
    rpc::RemoteChunks,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

pub(crate) struct Pool {
    connections: Connections,
    /// The last write number of each chunk. They rise for as long as the session lives, over all
    /// handles: a number that was used names that write forever.
    numbers: Mutex<BTreeMap<ChunkId, WriteNumber>>,
    /// Chunks of files without a handle that were written and never synced: an fsync through a
    /// later handle covers them.
    unsynced: Mutex<BTreeMap<(InodeId, ChunkIndex), Unsynced>>,
    /// Files with data that is not on the replicas' disks, by age.
    dirty: Mutex<BTreeMap<u64, (Instant, Weak<Node>)>>,
    ages: AtomicU64,
    pub health: Health,
    pub budget: Arc<Budget>,
    /// Room for what all handles read ahead, in pieces of 1 MiB.
    pub ahead: Arc<Semaphore>,
    /// How often that was worth it.
    pub cache: CacheCounters,
}

/// Unsynced chunks that are remembered past the last close; beyond it a close syncs.
pub(crate) const UNSYNCED_MAX: usize = 4096;

/// A chunk whose acknowledged writes may be in memory only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unsynced {
    pub chunk: ChunkId,
    /// Who acknowledged them.
    pub members: BTreeSet<Acknowledged>,
}

impl Pool {
    pub(crate) fn new(transport: Arc<dyn Transport>, dirty_max: usize, read_ahead_max: u64) -> Self {
        Self {
            connections: Connections::new(transport),
            numbers: Mutex::default(),
            unsynced: Mutex::default(),
            dirty: Mutex::default(),
            ages: AtomicU64::new(1),
            health: Health::default(),
            budget: Budget::new(dirty_max),
            ahead: Arc::new(Semaphore::new((read_ahead_max / PIECE) as usize)),
            cache: CacheCounters::default(),
        }
    }

    pub(crate) fn next_age(&self) -> u64 {
        self.ages.fetch_add(1, Ordering::Relaxed)
    }

    /// A file has data to be written out; the answer is its place among those that do.
    pub(crate) fn note_dirty(&self, node: Weak<Node>) -> u64 {
        let age = self.next_age();
        self.dirty.lock().insert(age, (Instant::now(), node));
        age
    }

    pub(crate) fn forget_dirty(&self, age: u64) {
        self.dirty.lock().remove(&age);
    }

    /// Files that became dirty before a moment, the oldest first.
    pub(crate) fn dirty_before(&self, before: Instant) -> Vec<(u64, Arc<Node>)> {
        let dirty = self.dirty.lock();
        let old = dirty.iter().take_while(|(_, (since, _))| *since <= before);
        old.filter_map(|(age, (_, node))| Some((*age, node.upgrade()?))).collect()
    }

    /// The number of the next write to a chunk.
    pub(crate) fn next_number(&self, chunk: ChunkId) -> WriteNumber {
        let mut numbers = self.numbers.lock();
        let n = numbers.entry(chunk).or_default();
        *n = n.next();
        *n
    }

    /// Remembers what the last handle of a file, or a cut, leaves unsynced.
    pub(crate) fn leave_unsynced(&self, inode: InodeId, index: ChunkIndex, left: Unsynced) {
        let mut unsynced = self.unsynced.lock();
        let known = unsynced.entry((inode, index)).or_insert_with(|| left.clone());
        if known.chunk == left.chunk {
            known.members.extend(left.members);
        } else {
            *known = left;
        }
    }

    /// What earlier handles of a file left unsynced.
    pub(crate) fn unsynced(&self, inode: InodeId) -> Vec<(ChunkIndex, Unsynced)> {
        let all = (inode, ChunkIndex(0))..=(inode, ChunkIndex(u64::MAX));
        self.unsynced.lock().range(all).map(|((_, i), u)| (*i, u.clone())).collect()
    }

    /// That a member restarted before the writes were on disk is known now: whoever has the chunk may
    /// sync what is left of them.
    pub(crate) fn loss_was_told(&self, inode: InodeId, index: ChunkIndex) {
        if let Some(left) = self.unsynced.lock().get_mut(&(inode, index)) {
            left.members.clear();
        }
    }

    /// All that is remembered.
    pub(crate) fn all_unsynced(&self) -> Vec<(InodeId, ChunkIndex, Unsynced)> {
        self.unsynced.lock().iter().map(|((inode, i), u)| (*inode, *i, u.clone())).collect()
    }

    /// A chunk was synced as it was remembered, or is not the file's any more; what was added since stays.
    pub(crate) fn synced_as(&self, inode: InodeId, index: ChunkIndex, as_of: &Unsynced) {
        let mut unsynced = self.unsynced.lock();
        if unsynced.get(&(inode, index)) == Some(as_of) {
            unsynced.remove(&(inode, index));
        }
    }

    /// Whether no more can be remembered.
    pub(crate) fn is_full(&self) -> bool {
        self.unsynced.lock().len() >= UNSYNCED_MAX
    }

    /// The chunkserver at an address, connected within `budget`.
    pub(crate) async fn get(&self, addr: &str, budget: Duration) -> Result<RemoteChunks, NetError> {
        let silent = || NetError::Deadline { peer: addr.to_owned(), millis: budget.as_millis() as u64 };
        let c = tokio::time::timeout(budget, self.connections.get(addr)).await.map_err(|_| silent())??;
        Ok(RemoteChunks::new(c))
    }
}
