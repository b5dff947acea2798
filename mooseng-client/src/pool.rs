//! Connections to chunkservers, one for each address.

use mooseng_core::{
    error::NetError,
    ids::{ChunkId, ChunkIndex, Incarnation, InodeId, ServerId, WriteNumber},
    net::{Connection, Transport},
    rpc::RemoteChunks,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(crate) struct Pool {
    transport: Arc<dyn Transport>,
    connections: Mutex<BTreeMap<String, Arc<dyn Connection>>>,
    /// The last write number of each chunk. They rise for as long as the session lives, over all
    /// handles: a number that was used names that write forever.
    numbers: Mutex<BTreeMap<ChunkId, WriteNumber>>,
    /// Chunks of files without a handle that were written and never synced: an fsync through a
    /// later handle covers them.
    unsynced: Mutex<BTreeMap<(InodeId, ChunkIndex), Unsynced>>,
}

/// Unsynced chunks that are remembered past the last close; beyond it a close syncs.
pub(crate) const UNSYNCED_MAX: usize = 4096;

/// A chunk whose acknowledged writes may be in memory only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unsynced {
    pub chunk: ChunkId,
    /// Who acknowledged them.
    pub members: BTreeMap<ServerId, Incarnation>,
}

impl Pool {
    pub(crate) fn new(transport: Arc<dyn Transport>) -> Self {
        Self {
            transport,
            connections: Mutex::default(),
            numbers: Mutex::default(),
            unsynced: Mutex::default(),
        }
    }

    /// The number of the next write to a chunk.
    pub(crate) fn next_number(&self, chunk: ChunkId) -> WriteNumber {
        let mut numbers = self.numbers.lock();
        let n = numbers.entry(chunk).or_default();
        *n = n.next();
        *n
    }

    /// Remembers what the last handle of a file leaves unsynced.
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

    /// A chunk was synced, or is not the file's any more.
    pub(crate) fn synced(&self, inode: InodeId, index: ChunkIndex) {
        self.unsynced.lock().remove(&(inode, index));
    }

    /// All that is remembered.
    pub(crate) fn all_unsynced(&self) -> Vec<(InodeId, ChunkIndex, Unsynced)> {
        self.unsynced.lock().iter().map(|((inode, i), u)| (*inode, *i, u.clone())).collect()
    }

    /// A chunk was synced as it was remembered; what was added since stays.
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
        if let Some(c) = self.connections.lock().get(addr).filter(|c| !c.is_closed()) {
            return Ok(RemoteChunks::new(c.clone()));
        }
        let silent = || NetError::Deadline { peer: addr.to_owned(), millis: budget.as_millis() as u64 };
        let c = tokio::time::timeout(budget, self.transport.connect(addr)).await.map_err(|_| silent())??;
        self.connections.lock().insert(addr.to_owned(), c.clone());
        Ok(RemoteChunks::new(c))
    }
}
