//! What operators ask of a cluster: how it is, what happened, where chunks are, what is being done.

use crate::{
    client::{Client, ClientBuilder},
    error::{Error, Result},
};
use futures::future::join_all;
use mooseng_core::{
    context::CallContext,
    error::MetaError,
    health::{self, HealthCode, Problem},
    ids::ChunkId,
    meta::{
        Care, CellPage, ChunkMatrix, ClusterStatus, EventMark, EventPage, GetCare, GetChunkMatrix, GetLoad,
        GetMaster, GetOpCounts, GetScrub, GetStatus, ListCell, ListEvents, ListSessions, MasterView,
        MetadataExt as _, OpCounts, ServerLoad, ServerScrub, SessionInfo,
    },
    net::Transport,
    rpc::RemoteMeta,
};
use std::{pin::pin, sync::Arc, time::Duration};

/// A leader is waited for this long before the masters are asked one by one: an election is over by then.
const LEADERLESS: Duration = Duration::from_secs(3);
/// Longest wait for what one master knows by itself.
const VIEW: Duration = Duration::from_secs(2);
/// Longest wait for the end of a session that was opened for one look.
const END: Duration = Duration::from_secs(2);

/// Looking at the cluster. All of these but [`Client::health`] are answered by the leader alone, and any client may
/// ask; dropping a future has no effect. Errors: no leader was reached within the deadline.
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

    /// What is wrong with the cluster, the worst first; empty when it is healthy. Where no master leads for some
    /// seconds, it is that, as those masters tell that answer. Errors: none answers, or not as it should.
    pub async fn health(&self) -> Result<Vec<Problem>> {
        let look = async {
            let (status, care) = futures::future::try_join(self.status(), self.care()).await?;
            Ok(health::problems(&status, &care))
        };
        let (transport, addrs) = self.vfs().masters().reach();
        or_no_quorum(&transport, &addrs, look).await
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
    /// these: `report::ServedRates` tells it.
    pub async fn loads(&self) -> Result<Vec<ServerLoad>> {
        self.request(GetLoad {}).await
    }
}

impl ClientBuilder {
    /// As [`Client::health`], also where no master leads, so that no session can be opened.
    pub async fn health(self) -> Result<Vec<Problem>> {
        let (transport, addrs) = (self.transport.clone(), self.masters.clone());
        let look = async {
            let client = self.connect().await?;
            let told = client.health().await;
            // It ends by itself where it cannot be ended.
            let _ = client.shutdown(END).await;
            told
        };
        match transport {
            Some(transport) => or_no_quorum(&transport, &addrs, look).await,
            None => look.await,
        }
    }
}

/// What `look` finds, or that no master leads: that is asked of each of them when a leader takes long to answer, or
/// none does.
async fn or_no_quorum(
    transport: &Arc<dyn Transport>,
    addrs: &[String],
    look: impl Future<Output = Result<Vec<Problem>>>,
) -> Result<Vec<Problem>> {
    let mut look = pin!(look);
    loop {
        let asked = async {
            tokio::time::sleep(LEADERLESS).await;
            no_quorum(&views(transport, addrs).await)
        };
        tokio::select! {
            biased;
            told = &mut look => return match told {
                Err(e @ (Error::Masters { .. } | Error::Meta(MetaError::NoQuorum(_)))) => {
                    no_quorum(&views(transport, addrs).await).map_or(Err(e), |p| Ok(vec![p]))
                }
                told => told,
            },
            found = asked => {
                if let Some(problem) = found {
                    return Ok(vec![problem]);
                }
            }
        }
    }
}

/// What each master knows of the masters by itself; `None` of those that do not answer.
async fn views<'a>(
    transport: &Arc<dyn Transport>,
    addrs: &'a [String],
) -> Vec<(&'a str, Option<MasterView>)> {
    let view = |addr: &'a String| async move {
        let ask = async {
            let meta = RemoteMeta::new(transport.connect(addr).await.ok()?);
            meta.get_master(&CallContext::internal(VIEW), GetMaster {}).await.ok()
        };
        (addr.as_str(), tokio::time::timeout(VIEW, ask).await.ok().flatten())
    };
    join_all(addrs.iter().map(view)).await
}

/// That no master leads, where those that answer know of none; `None` where one does, or none answers.
fn no_quorum(views: &[(&str, Option<MasterView>)]) -> Option<Problem> {
    let told: Vec<_> = views.iter().filter_map(|(_, view)| *view).collect();
    if told.is_empty() || told.iter().any(|v| v.leader.is_some()) {
        return None;
    }
    let voters = told.iter().map(|v| v.voters).max().unwrap_or_default();
    let ids = told.iter().map(|v| v.id.get().to_string()).collect::<Vec<_>>().join(", ");
    let know = match told.len() {
        1 => format!("master {ids} answers and knows none"),
        _ => format!("masters {ids} answer and know none"),
    };
    let mut cause = match voters {
        0 => format!("no master leads: no cluster has begun yet; {know}"),
        n => format!("no master leads: {} of {n} have to answer each other; {know}", n / 2 + 1),
    };
    let silent: Vec<_> = views.iter().filter(|(_, v)| v.is_none()).map(|(at, _)| *at).collect();
    if !silent.is_empty() {
        cause += &format!("; no answer from {}", silent.join(", "));
    }
    Some(Problem::new(HealthCode::MasterNoQuorum, cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::ids::{MasterId, Term};

    #[test]
    fn no_quorum_is_what_all_that_answer_tell() {
        let view = |id, leader: Option<u64>| MasterView {
            id: MasterId(id),
            term: Term(5),
            leader: leader.map(MasterId),
            voters: 3,
        };
        assert_eq!(no_quorum(&[("m1", None), ("m2", None)]), None, "nobody can tell");
        assert_eq!(no_quorum(&[("m1", Some(view(1, None))), ("m2", Some(view(2, Some(3))))]), None);
        let told = no_quorum(&[("m1", None), ("m2", Some(view(2, None))), ("m3", None)]).unwrap();
        assert_eq!(told.code, HealthCode::MasterNoQuorum);
        assert_eq!(
            told.cause,
            "no master leads: 2 of 3 have to answer each other; master 2 answers and knows none; no answer from m1, m3"
        );
        assert!(told.cure.contains("start masters"), "{}", told.cure);
    }
}
