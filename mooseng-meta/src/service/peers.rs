//! Connections to chunkservers, one for each address, made when needed.

use mooseng_core::{
    chunk::{ChunkPage, ChunkStore as _, Control, ControlReply},
    context::CallContext,
    error::ChunkError,
    ids::ChunkId,
    net::{Connections, Transport},
    rpc::RemoteChunks,
};
use std::{sync::Arc, time::Duration};

pub(super) struct Peers(Connections);

impl Peers {
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self(Connections::new(transport))
    }

    /// Sends a command and waits at most `budget` for its answer, connecting included.
    pub async fn control(
        &self,
        addr: &str,
        op: Control,
        budget: Duration,
    ) -> Result<ControlReply, ChunkError> {
        let work = async {
            let c = self.0.get(addr).await?;
            RemoteChunks::new(c).control(&CallContext::internal(budget), op).await
        };
        let silent = || mooseng_core::error::NetError::Deadline {
            peer: addr.to_owned(),
            millis: budget.as_millis() as u64,
        };
        tokio::time::timeout(budget, work).await.map_err(|_| silent())?
    }

    /// One page of a server's chunks.
    pub async fn list(
        &self,
        addr: &str,
        after: Option<ChunkId>,
        max: u32,
        budget: Duration,
    ) -> Result<ChunkPage, ChunkError> {
        let work = async {
            let c = self.0.get(addr).await?;
            RemoteChunks::new(c).list(&CallContext::internal(budget), after, max).await
        };
        let silent = || mooseng_core::error::NetError::Deadline {
            peer: addr.to_owned(),
            millis: budget.as_millis() as u64,
        };
        tokio::time::timeout(budget, work).await.map_err(|_| silent())?
    }
}
