//! Connections to chunkservers, one for each address.

use mooseng_core::{
    error::NetError,
    ids::{ChunkId, WriteNumber},
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
}

impl Pool {
    pub(crate) fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, connections: Mutex::default(), numbers: Mutex::default() }
    }

    /// The number of the next write to a chunk.
    pub(crate) fn next_number(&self, chunk: ChunkId) -> WriteNumber {
        let mut numbers = self.numbers.lock();
        let n = numbers.entry(chunk).or_default();
        *n = n.next();
        *n
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
