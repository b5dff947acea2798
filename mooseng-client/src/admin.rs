//! What operators ask of a cluster: how it is, what happened, where chunks are, what is being done.

use crate::{client::Client, error::Result};
use mooseng_core::{
    health::{self, Problem},
    ids::ChunkId,
    meta::{
        Care, CellPage, ChunkMatrix, ClusterStatus, EventMark, EventPage, GetCare, GetChunkMatrix, GetLoad,
        GetOpCounts, GetScrub, GetStatus, ListCell, ListEvents, ListSessions, OpCounts, ServerLoad,
        ServerScrub, SessionInfo,
    },
};

/// Looking at the cluster. All of these are answered by the leader, and any client may ask; dropping a future
/// has no effect. Errors: no leader was reached within the deadline.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use mooseng_client::embedded::Cluster;
/// # let cluster = Cluster::builder().masters(1).chunkservers(2).start().await?;
/// # let client = cluster.client().await?;
/// assert!(client.health().await?.is_empty());
/// let status = client.status().await?;
/// assert_eq!((status.masters.len(), status.servers.len()), (1, 2));
/// let events = client.events(None).await?;
/// assert_eq!(events.events[0].code.name(), "MASTER_ELECTED");
/// # anyhow::Ok(()) }).unwrap();
/// ```
impl Client {
    /// State of the cluster: masters, chunkservers, disks, counts of chunks by risk, room.
    pub async fn status(&self) -> Result<ClusterStatus> {
        self.request(GetStatus {}).await
    }

    /// What the leader looks after: repairs and how long until all is safe, drains, copies without a record.
    pub async fn care(&self) -> Result<Care> {
        self.request(GetCare {}).await
    }

    /// What is wrong with the cluster, the worst first; empty when it is healthy.
    pub async fn health(&self) -> Result<Vec<Problem>> {
        let (status, care) = futures::future::try_join(self.status(), self.care()).await?;
        Ok(health::problems(&status, &care))
    }

    /// Open sessions.
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>> {
        self.request(ListSessions {}).await
    }

    /// How the scrubs of all chunkservers stand.
    pub async fn scrubs(&self) -> Result<Vec<ServerScrub>> {
        self.request(GetScrub {}).await
    }

    /// What the leader has seen since its election, after a place, the oldest first; without a place, or with one
    /// of another leader, from the oldest that it has not forgotten. The page tells where to go on. Events are in the
    /// leader's memory: another leader begins anew, with its election.
    pub async fn events(&self, after: Option<EventMark>) -> Result<EventPage> {
        self.request(ListEvents { after, count: u32::MAX }).await
    }

    /// All chunks, by how many copies they want and have.
    pub async fn chunk_matrix(&self) -> Result<ChunkMatrix> {
        self.request(GetChunkMatrix {}).await
    }

    /// Chunks that want `wanted` and have `copies` copies, with their files, from a chunk on. A page may be empty and
    /// tell where the next one begins.
    pub async fn chunks_of_cell(&self, wanted: u8, copies: u8, from: ChunkId) -> Result<CellPage> {
        self.request(ListCell { wanted, copies, from, count: u32::MAX }).await
    }

    /// Calls that the leader answered since its election, by operation, with how long they took. Rates are
    /// between two of these.
    pub async fn op_counts(&self) -> Result<OpCounts> {
        self.request(GetOpCounts {}).await
    }

    /// What each chunkserver served since its start, as it told within the last seconds. Throughput is between two of
    /// these.
    pub async fn loads(&self) -> Result<Vec<ServerLoad>> {
        self.request(GetLoad {}).await
    }
}
