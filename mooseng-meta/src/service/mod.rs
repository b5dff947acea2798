//! The masters' service: [`MasterService`] answers [`MetadataService`] calls on top of Raft and
//! the store. Mutations go through the log once; reads pass a read barrier and are answered from a
//! view on the thread that took the call (a cached redb read costs 2 µs, a hop 30 to 60).
//!
//! ```text
//!   call ─┬─ FsWrite ─ session, slot ─ decisions ─ Raft ─ apply ─ attach layout
//!         ├─ FsRead  ─ barrier ─ view ──────────────────────────── attach layout
//!         ├─ Session, Server ─ leader memory, sometimes Raft
//!         └─ Look, Admin
//!   driver (while leading): expire sessions, finish bumps, repair, cut, delete, renew keys
//! ```

mod admin;
mod ahead;
mod bump;
mod check;
mod clocks;
mod counts;
mod deleting;
mod drain;
mod driver;
mod events;
mod fs;
mod joins;
mod keys;
mod layout;
mod lead;
mod matrix;
mod outlook;
mod paths;
mod peers;
mod progress;
mod quarantine;
mod reports;
mod room;
mod servers;
mod sessions;
mod survey;
mod upkeep;
mod walk;
mod watch;

pub use room::reserve_of;
pub use survey::Survey;

use crate::{
    namespace::Fail,
    raft::{RaftFailure, RaftNode},
    store::{RedbStore, RedbView},
};
use async_trait::async_trait;
use counts::Counts;
use futures::StreamExt as _;
use keys::Keys;
use lead::Memory;
use mooseng_core::{
    attr::Timestamp,
    context::CallContext,
    error::MetaError,
    ids::*,
    join::Authority,
    meta::*,
    net::Transport,
    planted::{self, Bug},
    seam::Seams,
    wire,
};
use parking_lot::{Mutex, RwLock};
use peers::Peers;
use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use watch::Watch;

/// Times of the service. The same on all masters.
#[derive(Clone, Debug)]
pub struct ServiceTimings {
    /// Silence after which a chunkserver counts as dead.
    pub server_dead: Duration,
    /// More silence after which its chunks are copied elsewhere without anybody asking.
    pub repair_after: Duration,
    /// Silence after which a session is ended.
    pub session_lifetime: Duration,
    /// Between two rounds of the leader's driver.
    pub tick: Duration,
    /// Between two looks at all chunks for events, at least: more where they take long.
    pub look: Duration,
    /// Wait for a bump under way before a layout is answered with "busy".
    pub bump_wait: Duration,
    /// Wait for one command to a chunkserver that copies no data.
    pub control: Duration,
    /// Wait for one chunk to be copied.
    pub pull: Duration,
    /// How long a chunk that no record names is kept.
    pub quarantine: Duration,
    /// How long a leader signs capabilities with one key.
    pub key_period: Duration,
    /// How long a capability is good: whole seconds. The fence is what ends rights early.
    pub capability: Duration,
    /// So much longer than what it signed a key is known: clocks may be apart.
    pub key_slack: Duration,
    /// Bytes a second that are copied while nobody waits for them, four times as many of chunks with one
    /// copy left; 0: as fast as it goes.
    pub repair_bytes_per_s: u64,
}

impl Default for ServiceTimings {
    fn default() -> Self {
        Self {
            server_dead: Duration::from_secs(5),
            repair_after: Duration::from_secs(10),
            session_lifetime: Duration::from_secs(mooseng_core::limits::SESSION_LIFETIME_SECS),
            tick: Duration::from_millis(500),
            look: Duration::from_secs(2),
            bump_wait: Duration::from_secs(2),
            control: Duration::from_secs(2),
            pull: Duration::from_secs(60),
            quarantine: Duration::from_secs(24 * 3600),
            key_period: Duration::from_secs(24 * 3600),
            capability: Duration::from_secs(24 * 3600),
            key_slack: Duration::from_secs(24 * 3600),
            repair_bytes_per_s: 128 << 20,
        }
    }
}

/// A leader's state for its term.
pub(crate) struct Lead {
    term: Term,
    since: Duration,
    memory: Mutex<Memory>,
    /// Chunks whose bump a task is driving.
    bumping: Mutex<std::collections::BTreeSet<ChunkId>>,
    /// Chunks that are copied ahead of a bump, and what ends that.
    ahead: Mutex<std::collections::BTreeMap<ChunkId, CancellationToken>>,
    /// A bump ended.
    bumped: Notify,
    /// The masters' disks are nearly full: what needs room is refused.
    cramped: AtomicBool,
    /// The driver has work before its next tick.
    wake: Notify,
    /// Calls that came to it.
    counts: Counts,
    /// What operators are told of.
    watch: Watch,
}

/// The service of one master.
#[derive(Clone)]
pub struct MasterService(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub id: MasterId,
    pub cluster: ClusterId,
    pub class: StorageClass,
    pub store: Arc<RedbStore>,
    pub raft: RaftNode,
    pub seams: Seams,
    pub timings: ServiceTimings,
    pub authority: Option<Arc<dyn Authority>>,
    pub reserve: u64,
    keys: Mutex<Keys>,
    peers: Peers,
    lead: RwLock<Option<Arc<Lead>>>,
}

fn internal(e: impl std::fmt::Display) -> MetaError {
    MetaError::Internal(e.to_string())
}

fn answer<T>(r: Result<T, Fail>) -> Result<T, MetaError> {
    r.map_err(|e| match e {
        Fail::Meta(e) => e,
        Fail::Io(e) => internal(e),
    })
}

impl MasterService {
    /// Around a Raft node and its store. Draws the node's signing key. `cluster` and `class` begin a
    /// filesystem where there is none yet. What needs room is refused while no quorum of masters has
    /// `reserve` bytes free. With an `authority` it answers joins.
    pub fn new(
        (id, cluster, class, reserve): (MasterId, ClusterId, StorageClass, u64),
        store: Arc<RedbStore>,
        raft: RaftNode,
        transport: Arc<dyn Transport>,
        seams: Seams,
        timings: ServiceTimings,
        authority: Option<Arc<dyn Authority>>,
    ) -> Self {
        let keys = Mutex::new(Keys::new(&seams));
        let peers = Peers::new(transport);
        Self(Arc::new(Inner {
            id,
            cluster,
            class,
            store,
            raft,
            seams,
            timings,
            authority,
            reserve,
            keys,
            peers,
            lead: RwLock::new(None),
        }))
    }
}

impl MasterService {
    /// Whether this master leads and has taken over.
    pub fn leads(&self) -> bool {
        self.0.lead.read().is_some()
    }
}

/// Follows leadership and does what a leader does by itself, until Raft ends.
pub async fn run_driver(service: MasterService) {
    driver::run(service.0).await;
}

impl Inner {
    fn now(&self) -> Duration {
        self.seams.clock.now()
    }
    fn wall(&self) -> Timestamp {
        self.seams.clock.wall()
    }
    fn view(&self) -> Result<RedbView, MetaError> {
        self.store.view().map_err(internal)
    }

    /// The leader's memory, or who leads. A leader that is cut off from the others does not answer
    /// as one, whatever is asked: what it keeps alive another one may have ended.
    fn lead(&self) -> Result<Arc<Lead>, MetaError> {
        if let Some(lead) = self.lead.read().clone() {
            return match self.raft.leads_surely() || planted::is(Bug::DeposedReads) {
                true => Ok(lead),
                false => Err(MetaError::NotLeader { leader: None }),
            };
        }
        let l = self.raft.leadership().borrow().clone();
        if l.is_me {
            return Err(MetaError::Busy("this master is taking over".into()));
        }
        Err(MetaError::NotLeader { leader: l.leader.map(|m| (m.id, m.client_addr)) })
    }

    /// What this master knows of the masters by itself.
    fn master_view(&self) -> MasterView {
        let s = self.raft.status();
        let leader = s.leadership.leader.filter(|_| s.led).map(|m| m.id);
        MasterView { id: self.id, term: s.leadership.term, leader, voters: s.voters.len() as u32 }
    }

    /// Puts a command through the log and returns what applying it answered.
    async fn propose(&self, command: Command, budget: Duration) -> Result<Applied, MetaError> {
        let entry = LogEntry { format: ENTRY_FORMAT, time: self.wall(), command };
        let done = tokio::time::timeout(budget, self.raft.propose(wire::encode(&entry))).await;
        let reply = match done {
            Err(_) => {
                return Err(MetaError::Deadline(format!(
                    "no quorum of masters took the entry in {budget:?}"
                )));
            }
            Ok(Err(RaftFailure::NotLeader { leader })) => return Err(MetaError::NotLeader { leader }),
            Ok(reply) => reply.map_err(MetaError::from)?,
        };
        wire::decode(&reply).map_err(MetaError::from)
    }

    /// A view that has everything acknowledged before the call.
    async fn fresh_view(&self, budget: Duration) -> Result<RedbView, MetaError> {
        if planted::is(Bug::DeposedReads) {
            return self.view();
        }
        let barrier = tokio::time::timeout(budget, self.raft.read_barrier()).await;
        barrier.map_err(|_| MetaError::Deadline("no quorum of masters confirmed the leader".into()))??;
        self.view()
    }
}

#[async_trait]
impl MetadataService for MasterService {
    async fn call(&self, cx: &CallContext, req: MetaRequest) -> Result<MetaReply, MetaError> {
        let s = &self.0;
        // The one question that is not the leader's.
        if let MetaRequest::GetMaster(_) = req {
            return Ok(MetaReply::GetMaster(s.master_view()));
        }
        let lead = s.lead()?;
        let counted = lead.counts.begin(req.number(), &*s.seams.clock);
        let answer = match req.kind() {
            OpKind::FsRead => s.fs_read(&lead, cx, req).await,
            OpKind::FsWrite => s.fs_write(&lead, cx, req).await,
            OpKind::Session => s.session(&lead, cx, req).await,
            OpKind::Server => s.server(&lead, cx, req).await,
            OpKind::Look => s.look(&lead, cx, req).await,
            OpKind::Admin => s.admin(&lead, cx, req).await,
        };
        counted.answered(&answer);
        // Whoever speaks under an epoch that is over is not heard of.
        if let Some(session) = cx.session
            && !matches!(answer, Err(MetaError::SessionEnded | MetaError::Fenced { .. }))
        {
            lead.memory.lock().answered(session.id, s.now());
        }
        answer
    }

    async fn events(&self, cx: &CallContext, after: EventSeq) -> Result<Events, MetaError> {
        let lead = self.0.lead()?;
        let session = cx.session.ok_or_else(|| MetaError::Invalid("events are a session's".into()))?;
        self.0.checked_session(&self.0.view()?, cx)?;
        let inner = self.0.clone();
        let stream = async_stream::stream! {
            let mut seq = after.next();
            yield Ok((seq, SessionEvent::Reassert));
            loop {
                tokio::time::sleep(inner.timings.tick).await;
                let same = inner.lead().is_ok_and(|l| Arc::ptr_eq(&l, &lead));
                if !same {
                    yield Err(MetaError::NotLeader { leader: None });
                    return;
                }
                let fenced = inner.view().and_then(|v| inner.epoch_of(&v, session.id));
                match fenced {
                    Ok(epoch) if epoch != session.epoch => {
                        seq = seq.next();
                        yield Ok((seq, SessionEvent::Fenced(epoch)));
                        return;
                    }
                    Ok(_) => {}
                    Err(e) => {
                        yield Err(e);
                        return;
                    }
                }
            }
        };
        Ok(stream.boxed())
    }
}
