//! One master, whole: disk, state, Raft, service, listener, leader's driver.

use crate::{
    namespace::meta_key,
    raft::{HeldEntry, LogOptions, Member, RaftNode, RaftOptions, RaftStatus, RaftTimings, applied_of},
    service::{self, MasterService, ServiceTimings, Survey},
    state::StateMachine,
    store::{RedbStore, TABLES, Table, View as _, number},
};
use futures::{FutureExt as _, future::BoxFuture};
use mooseng_core::{
    checksum::crc32c,
    error::MetaError,
    ids::*,
    join::{Authority, JoinError, JoinRequest, Joined},
    meta::{MetadataService, StorageClass},
    net::{Listening, Transport},
    rpc::MetaHandler,
    seam::{Disk, Seams, on_lane},
    wire,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, io, sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// Bytes of redb's cache unless the options say otherwise: what a master with a million inodes
/// needs to stay below 300 MB resident.
pub const CACHE_BYTES: usize = 64 << 20;

/// What a master is made of.
#[derive(Clone)]
pub struct MasterOptions {
    /// Which master; kept in its directory, another one is refused.
    pub id: MasterId,
    /// Which cluster; kept likewise.
    pub cluster: ClusterId,
    /// Where it listens for clients and chunkservers.
    pub listen: String,
    /// Where it listens for other masters.
    pub raft_listen: String,
    /// All masters, itself included, as a fresh cluster is to begin: with the first moment at which all
    /// of them are up. Empty: it waits to be added.
    pub members: Vec<Member>,
    /// Its directory.
    pub disk: Arc<dyn Disk>,
    /// How it reaches others, and is reached by clients.
    pub transport: Arc<dyn Transport>,
    /// Time, randomness, threads.
    pub seams: Seams,
    /// Raft's times.
    pub raft_timings: RaftTimings,
    /// Sizes of the log.
    pub log: LogOptions,
    /// The service's times.
    pub timings: ServiceTimings,
    /// Storage class of a new filesystem's root.
    pub class: StorageClass,
    /// Bytes of redb's cache.
    pub cache_bytes: usize,
    /// Bytes of its disk that are kept for removing. While no quorum of masters has as much free,
    /// everything that needs room ends with ENOSPC.
    pub reserve: u64,
    /// Signs the certificates of nodes that join, where this master may.
    pub authority: Option<Arc<dyn Authority>>,
}

/// Why a master did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its directory cannot be read or written.
    #[error("the directory {dir} cannot be used: {cause}")]
    Disk {
        /// Which.
        dir: String,
        /// Why.
        cause: io::Error,
    },
    /// The directory belongs to another node or cluster.
    #[error("the directory {dir} belongs to {there}, this is {here}: give each node its own directory")]
    Foreign {
        /// Which directory.
        dir: String,
        /// Whose it is.
        there: String,
        /// Who came.
        here: String,
    },
    /// Raft could not start.
    #[error(transparent)]
    Raft(#[from] crate::raft::StartError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Net(#[from] mooseng_core::error::NetError),
    /// The members of a fresh cluster were refused.
    #[error("a cluster cannot begin so: {0}")]
    Begin(String),
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    cluster: ClusterId,
    master: MasterId,
}

const IDENTITY: &str = "identity";

/// Checks whose directory it is; a new one becomes ours.
fn claim(disk: &dyn Disk, ours: &Identity) -> Result<(), StartError> {
    let dir = || disk.describe();
    let failed = |cause| StartError::Disk { dir: dir(), cause };
    match disk.open(IDENTITY) {
        Ok(file) => {
            let mut bytes = vec![0; file.len().map_err(failed)? as usize];
            file.read_at(0, &mut bytes).map_err(failed)?;
            let theirs: Identity = wire::decode(&bytes)
                .map_err(|e| failed(io::Error::other(format!("its identity file is damaged ({e})"))))?;
            if theirs == *ours {
                return Ok(());
            }
            let name = |i: &Identity| format!("master {} of cluster {}", i.master.get(), i.cluster);
            Err(StartError::Foreign { dir: dir(), there: name(&theirs), here: name(ours) })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            // Written beside and renamed: a crash leaves the whole identity or none.
            const NEW: &str = "identity.new";
            match disk.remove(NEW) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            }
            let file = disk.create(NEW).map_err(failed)?;
            file.write_at(0, &wire::encode(ours)).map_err(failed)?;
            file.sync().map_err(failed)?;
            disk.rename(NEW, IDENTITY).map_err(failed)?;
            disk.sync_dir("").map_err(failed)
        }
        Err(e) => Err(failed(e)),
    }
}

/// A running master.
pub struct Master {
    service: MasterService,
    raft: RaftNode,
    store: Arc<RedbStore>,
    listening: Box<dyn Listening>,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Master {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Master").field("raft", &self.raft).finish_non_exhaustive()
    }
}

/// What health endpoints tell of a master.
#[derive(Clone, Debug)]
pub struct MasterStatus {
    /// Raft's view.
    pub raft: RaftStatus,
    /// Whether it surely leads and has taken over.
    pub leading: bool,
}

impl MasterStatus {
    /// Whether it leads, or surely knows who does: whether the cluster can be used through it.
    pub fn ready(&self) -> bool {
        self.raft.led && (self.leading || !self.raft.leadership.is_me)
    }
}

/// What a master holds, see [`Master::held`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The last entry in its state.
    pub applied: Option<Revision>,
    /// Sum over all rows of its state.
    pub state: u64,
    /// Chunks that files have.
    pub chunks: BTreeSet<ChunkId>,
    /// Its log.
    pub log: Vec<HeldEntry>,
}

/// Spreads a checksum over 64 bits.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

// What is long runs in boxes, which are made here: an `async fn` would be compiled anew, with all of Raft, in each crate
// that awaits it.
impl Master {
    /// Starts a master on its directory. All its tasks run on the calling tokio runtime.
    ///
    /// Promise: on `Ok` it listens; it leads or follows when [`Master::status`] says so.
    /// Errors: nothing was changed but, in a new directory, its identity.
    pub fn start(options: MasterOptions) -> BoxFuture<'static, Result<Self, StartError>> {
        Self::begin(options).boxed()
    }

    async fn begin(o: MasterOptions) -> Result<Self, StartError> {
        if !o.members.is_empty() && o.members.iter().all(|m| m.id != o.id) {
            return Err(StartError::Begin(format!("master {} is not one of its members", o.id.get())));
        }
        let dir = o.disk.describe();
        let lane = o.seams.lanes.lane("state-open");
        let (disk, identity) = (o.disk.clone(), Identity { cluster: o.cluster, master: o.id });
        let cache_bytes = o.cache_bytes;
        let opened = on_lane(&lane, move || {
            claim(&*disk, &identity)?;
            let failed = |cause| StartError::Disk { dir: disk.describe(), cause };
            RedbStore::open(disk.clone(), cache_bytes).map_err(failed)
        });
        let stopped = || StartError::Disk { dir, cause: io::Error::other("its lane was stopped") };
        let store = Arc::new(opened.await.ok_or_else(stopped)??);
        let raft = RaftNode::start(RaftOptions {
            id: o.id,
            raft_addr: o.raft_listen.clone(),
            members: o.members.clone(),
            timings: o.raft_timings.clone(),
            log: o.log,
            disk: o.disk.clone(),
            machine: Arc::new(StateMachine::new(store.clone())),
            transport: o.transport.clone(),
            seams: o.seams.clone(),
        })
        .await?;
        let service = MasterService::new(
            (o.id, o.cluster, o.class, o.reserve),
            store.clone(),
            raft.clone(),
            o.transport.clone(),
            o.seams.clone(),
            o.timings.clone(),
            o.authority,
        );
        let handler = Arc::new(MetaHandler::new(Arc::new(service.clone())));
        let listening = match o.transport.listen(&o.listen, handler).await {
            Ok(listening) => listening,
            Err(e) => {
                raft.shutdown().await;
                return Err(e.into());
            }
        };
        let mut tasks = vec![tokio::spawn(service::run_driver(service.clone()))];
        if !o.members.is_empty() {
            let (raft, members) = (raft.clone(), o.members);
            tasks.push(tokio::spawn(async move {
                if let Err(e) = raft.bootstrap(&members).await {
                    tracing::error!(error = %e, "a fresh cluster could not begin so");
                }
            }));
        }
        Ok(Self { service, raft, store, listening, tasks })
    }

    /// The service, for callers in the same process.
    pub fn service(&self) -> Arc<dyn MetadataService> {
        Arc::new(self.service.clone())
    }

    /// Answers a join; see [`MasterService::join`]. The future holds what it needs.
    pub fn join(&self, request: JoinRequest) -> BoxFuture<'static, Result<Joined, JoinError>> {
        let service = self.service.clone();
        async move { service.join(&request).await }.boxed()
    }

    /// What it sees of the cluster, when it leads; see [`MasterService::survey`]. The future holds what it needs.
    pub fn survey(&self, budget: Duration) -> BoxFuture<'static, Result<Survey, MetaError>> {
        let service = self.service.clone();
        async move { service.survey(budget).await }.boxed()
    }

    /// Where it listens for clients.
    pub fn local_addr(&self) -> String {
        self.listening.local_addr()
    }

    /// Its state, from memory.
    pub fn status(&self) -> MasterStatus {
        let raft = self.raft.status();
        MasterStatus { leading: raft.led && self.service.leads(), raft }
    }

    /// What it holds, for those who compare masters: at one revision all have the same state, and entries
    /// of one place and term are one entry. Reads all of the state. Errors: the disk's.
    pub async fn held(&self) -> io::Result<Held> {
        let view = self.store.view()?;
        let mark = view.get(Table::Meta, meta_key::MARK)?.map(Into::into);
        let (mut state, mut chunks) = (0u64, BTreeSet::new());
        view.scan(Table::Chunk, &[], &[], &mut |key, _| {
            chunks.insert(ChunkId(number(key)));
            true
        })?;
        for table in TABLES {
            view.scan(table, &[], &[], &mut |key, value| {
                for part in [&[table as u8], key, value] {
                    state = state.rotate_left(7) ^ u64::from(crc32c(part)).wrapping_mul(MIX);
                }
                true
            })?;
        }
        Ok(Held { applied: applied_of(mark)?, state, chunks, log: self.raft.entries().await? })
    }

    /// Waits until this master can work no more, as when its disk is full or broken; tells why. It only
    /// comes back by being started again. The future holds what it needs.
    pub fn failed(&self) -> BoxFuture<'static, String> {
        let raft = self.raft.clone();
        async move { raft.failed().await }.boxed()
    }

    /// Hands leadership over when it leads and others can take it, then stops.
    pub fn shutdown(self) -> BoxFuture<'static, ()> {
        self.hand_over_and_stop().boxed()
    }

    async fn hand_over_and_stop(self) {
        let status = self.raft.status();
        if status.leadership.is_me
            && let Some(next) = status.voters.iter().find(|m| m.id != status.id && status.failed.is_none())
            && let Err(e) = self.raft.transfer_leadership(next.id).await
        {
            tracing::info!(error = %e, "leadership was not handed over, the others will elect");
        }
        self.end().await;
    }

    /// Stops without handing over.
    pub fn stop(self) -> BoxFuture<'static, ()> {
        self.end().boxed()
    }

    async fn end(mut self) {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
        }
        let Self { listening, raft, .. } = &mut self;
        let listening = std::mem::replace(listening, Box::new(Closed));
        listening.close().await;
        raft.shutdown().await;
    }
}

/// In the place of a listener that was closed.
struct Closed;

#[async_trait::async_trait]
impl Listening for Closed {
    fn local_addr(&self) -> String {
        String::new()
    }
    async fn close(self: Box<Self>) {}
}

impl Drop for Master {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
