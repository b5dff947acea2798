//! One master's Raft node: all that the rest of the crate sees of Raft.

use super::barrier::{self, Barrier};
use super::error::{RaftFailure, StartError};
use super::gate::Gate;
use super::handler::{Heard, RaftHandler};
use super::log::DurableLog;
use super::log_store::{LogStore, term_of_vote};
use super::network::{Factory, Links};
use super::options::{RaftOptions, RaftTimings};
use super::starts::Starts;
use super::state::State;
use super::tasks::{self, Tasks};
use super::types::{Command, Member, Raft, Runtime, Types};
use bytes::Bytes;
use mooseng_core::checksum::crc32c;
use mooseng_core::ids::{MasterId, Revision, Term};
use mooseng_core::net::Listening;
use mooseng_core::seam::{Disk, Lane, Seams};
use mooseng_core::trace;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::type_config::alias::InstantOf;
use openraft::{ChangeMembers, Instant as _, RaftMetrics, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// Bytes of one command at most: fits one message to a follower with room to spare.
pub const COMMAND_BYTES_MAX: usize = 16 << 20;
/// Between two tries while nobody leads.
const RETRY: Duration = Duration::from_millis(20);
/// How often it is told who is waited for.
const TELL: Duration = Duration::from_secs(5);

/// Who leads, as this node knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leadership {
    /// The term.
    pub term: Term,
    /// Its leader, if there is one that this node heard of.
    pub leader: Option<Member>,
    /// Whether this node leads it. Reads and decisions still need a barrier or a commit.
    pub is_me: bool,
}

/// What an operator sees of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftStatus {
    /// This node.
    pub id: MasterId,
    /// Who leads.
    pub leadership: Leadership,
    /// Whether there surely is a leader: within the time that an election takes a quorum has answered this node that
    /// leads, or this node has heard from the leader that it follows. Raft's own memory of a leader outlives a quorum.
    pub led: bool,
    /// The last entry of the log, from 0.
    pub last_log: Option<Revision>,
    /// The last entry that this node knows to be on a quorum of disks.
    pub committed: Option<Revision>,
    /// The last entry in the state machine.
    pub applied: Option<Revision>,
    /// Where the newest snapshot ends.
    pub snapshot: Option<Revision>,
    /// What the log does not have any more.
    pub purged: Option<Revision>,
    /// Members that vote.
    pub voters: Vec<Member>,
    /// Members that only follow.
    pub learners: Vec<Member>,
    /// At the leader: how many entries each other member lacks; `None` when unknown.
    pub lag: BTreeMap<MasterId, Option<u64>>,
    /// At the leader: how long each other member has not answered; `None` when it never did.
    pub silent: BTreeMap<MasterId, Option<Duration>>,
    /// Leaders that this node has seen taking over since its start, the first one included.
    pub leader_changes: u64,
    /// Whether the log's last batch was cut off, the log began empty, or the directory was restored from an older
    /// copy, and it is not known yet that nothing is missing: it does not vote for everybody then.
    pub torn: bool,
    /// Why the node stopped, if it did.
    pub failed: Option<String>,
}

/// An entry of a node's log, for those who compare nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldEntry {
    /// Term of the leader that made it.
    pub term: Term,
    /// Its place.
    pub at: Revision,
    /// Of its kind and content.
    pub crc: u32,
}

/// Begins a new start in the directory, whose file tells of those before. A log without that file has lost a part of
/// its directory, and what else is lost nobody knows.
async fn begin_start(
    disk: &Arc<dyn Disk>,
    lane: Arc<dyn Lane>,
    log: &DurableLog,
    seams: &Seams,
) -> Result<Starts, StartError> {
    let (starts, known) = Starts::open(Arc::clone(disk), lane, Arc::clone(&seams.rng)).await?;
    if !known && log.last().is_some() {
        tracing::error!(
            "raft/starts cannot be read: this master does not vote for everybody until nothing is missing"
        );
        DurableLog::wait(|done| log.distrust(done)).await?;
    }
    starts.begin().await?;
    Ok(starts)
}

/// A running Raft node. Cheap to clone; [`RaftNode::shutdown`] ends it for all.
#[derive(Clone)]
pub struct RaftNode(Arc<Inner>);

struct Inner {
    id: u64,
    raft: Raft,
    gate: Arc<Gate>,
    state: Arc<super::state::Shared>,
    links: Arc<Links>,
    barrier: Barrier,
    leadership: watch::Receiver<Leadership>,
    /// Leaders that were seen taking over.
    leaders: Arc<AtomicU64>,
    /// When a leader was last heard.
    heard: Arc<Heard>,
    timings: RaftTimings,
    addr: String,
    listening: tokio::sync::Mutex<Option<Box<dyn Listening>>>,
    tasks: Tasks,
}

impl std::fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftNode").field("id", &self.0.id).finish_non_exhaustive()
    }
}

impl RaftNode {
    /// Starts a node on what its disk holds. All its tasks run on the calling tokio runtime.
    ///
    /// Errors: the log is damaged or the vote lost (the text says what to do), the address cannot
    /// be listened on.
    pub async fn start(options: RaftOptions) -> Result<Self, StartError> {
        let RaftOptions { id, raft_addr, members, timings, log, disk, machine, transport, seams } = options;
        let lane = |name: &str| seams.lanes.lane(name);
        let log_lane = lane("raft-log");
        let log =
            DurableLog::open(Arc::clone(&disk), Arc::clone(&log_lane), lane("raft-read"), log, term_of_vote)
                .await?;
        log.distrust_if_new();
        let starts = begin_start(&disk, log_lane, &log, &seams).await?;
        let file_lane = lane("raft-files");
        let state = State::open(machine, disk, lane("raft-apply"), Arc::clone(&file_lane)).await?;
        let shared = Arc::clone(&state.shared);
        // A vote is waited for as long as that at least, and half of it leaves time for the vote itself.
        let gate = Arc::new(Gate::new(log.clone(), starts, timings.election_min / 2));
        let config = Arc::new(timings.config(!gate.is_torn())?);
        let links = Links::new(Arc::clone(&transport));
        let under_way = Arc::clone(&shared.under_way);
        let store = LogStore(log, Arc::clone(&under_way));
        let factory = Factory { links: Arc::clone(&links), gate: Arc::clone(&gate), file_lane, under_way };
        let starting = Raft::new(id.get(), config, factory, store, state);
        let raft = Runtime::scope(seams.rng.next_u64(), starting)
            .await
            .map_err(|e| StartError::Raft(e.to_string()))?;
        let heard = Arc::new(Heard::default());
        let handler = RaftHandler {
            raft: raft.clone(),
            gate: Arc::clone(&gate),
            state: Arc::clone(&shared),
            heard: Arc::clone(&heard),
            told: Default::default(),
            receiving: tokio::sync::Mutex::new(()),
        };
        let listening = match transport.listen(&raft_addr, Arc::new(handler)).await {
            Ok(listening) => listening,
            Err(e) => {
                let _ = raft.shutdown().await;
                return Err(e.into());
            }
        };
        let tasks = Tasks::default();
        let (leadership, leaders) = tasks::watch_leadership(&tasks, &raft, id.get());
        tasks::flush_at_intervals(&tasks, &raft, &shared, timings.flush);
        tasks::ask_all_voters(&tasks, &raft, &gate, &links, (id.get(), members));
        let barrier = barrier::start(&tasks, &raft, timings.patience());
        let addr = listening.local_addr();
        let listening = tokio::sync::Mutex::new(Some(listening));
        Ok(Self(Arc::new(Inner {
            id: id.get(),
            raft,
            gate,
            state: shared,
            links,
            barrier,
            leadership,
            leaders,
            heard,
            timings,
            addr,
            listening,
            tasks,
        })))
    }

    /// Where it listens for the other masters.
    pub fn raft_addr(&self) -> &str {
        &self.0.addr
    }

    /// Makes a fresh cluster of `members`, all with empty disks. Any one of them, or each of them
    /// with the same list, may be told. Does nothing when the cluster exists already. Until all have
    /// been seen empty it waits: one that has a log tells that this one lost its own.
    pub async fn bootstrap(&self, members: &[Member]) -> Result<(), RaftFailure> {
        let others: Vec<_> = members.iter().map(|m| (m.id.get(), m.raft_addr.clone())).collect();
        let others: Vec<_> = others.into_iter().filter(|(id, _)| *id != self.0.id).collect();
        let mut tell = tokio::time::Instant::now() + TELL;
        loop {
            if self.0.gate.last().is_some() {
                return Ok(());
            }
            let told = tasks::ask(&self.0.links, &self.0.gate, &others).await;
            match told.into_iter().map(|(_, told)| told).collect::<Result<Vec<_>, _>>() {
                Ok(told) if told.iter().all(|t| t.end.last.is_none()) => break,
                Ok(_) => {
                    tracing::info!("another master has a log already: this one is filled by it");
                    return Ok(());
                }
                Err(e) => {
                    if tell.elapsed() > Duration::ZERO {
                        tracing::warn!(error = %e, "a new cluster waits until each of its masters answers");
                        tell += TELL;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        let nodes: BTreeMap<_, _> = members.iter().map(|m| (m.id.get(), m.node())).collect();
        match self.0.raft.initialize(nodes).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(e)) => Err(RaftFailure::Members(e.to_string())),
            Err(RaftError::Fatal(e)) => Err(RaftFailure::Stopped(e.to_string())),
        }
    }

    /// Logs `command`, waits until it is committed and applied here, and returns the machine's
    /// reply. Commands proposed at the same time share flushes and messages.
    ///
    /// Only at the leader. While an election is under way it waits for its end, but not longer
    /// than four leases. Cancellation: the command may still be applied.
    /// Errors: [`RaftFailure::outcome`] tells whether it may have been.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, RaftFailure> {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(RaftFailure::TooLarge { bytes: command.len(), limit: COMMAND_BYTES_MAX });
        }
        let write = async {
            let _noted = self.0.state.under_way.note(std::iter::once(&command));
            self.while_electing(|| self.0.raft.client_write(Command(command.clone()))).await
        };
        Ok(trace::step("log, quorum, apply", write).await?.data.0)
    }

    /// Retries what found no leader, which is before anything was logged.
    async fn while_electing<T, F>(&self, mut work: impl FnMut() -> F) -> Result<T, RaftFailure>
    where
        F: Future<Output = Result<T, RaftError<super::types::Types, ClientWriteError<super::types::Types>>>>,
    {
        let deadline = tokio::time::Instant::now() + self.0.timings.patience();
        loop {
            let to = match work().await {
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => to,
                Err(e) => return Err(RaftFailure::of_write(e)),
                Ok(done) => return Ok(done),
            };
            let known = to.leader_id.is_some_and(|leader| leader != self.0.id);
            if known || tokio::time::Instant::now() >= deadline {
                return Err(RaftFailure::forward(to));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Returns when the state machine here has everything that was committed before the call, as
    /// confirmed by a quorum; the revision is what it has at least. One round is in flight at a
    /// time, and all who come meanwhile share the next.
    ///
    /// Only at the leader. Idempotent. Errors: nothing was changed.
    pub async fn read_barrier(&self) -> Result<Revision, RaftFailure> {
        trace::step("a quorum confirms", self.0.barrier.wait()).await.map(Revision)
    }

    /// Whether this node leads and a quorum said so within the leader's lease. One that is
    /// cut off stops being sure before, or soon after, the others have elected another.
    pub fn leads_surely(&self) -> bool {
        self.leads_within(&self.0.raft.metrics().borrow_watched(), self.0.timings.election_max)
    }

    /// Whether this node leads, and a quorum said so within a time.
    fn leads_within(&self, m: &RaftMetrics<Types>, within: Duration) -> bool {
        let alone = m.membership_config.membership().voter_ids().eq([self.0.id]);
        let lately = |at: InstantOf<Types>| at.elapsed() < within;
        m.state == ServerState::Leader
            && (alone || m.last_quorum_acked.is_some_and(|at| lately(at.into_inner())))
    }

    /// Whether this node leads or follows a leader, as heard within the time that an election takes.
    fn is_led(&self, m: &RaftMetrics<Types>) -> bool {
        let patience = self.0.timings.patience();
        match m.current_leader {
            Some(leader) if leader != self.0.id => self.0.heard.within(patience),
            _ => self.leads_within(m, patience),
        }
    }

    /// Bytes of each voter's disk, all and free; `None` of those that do not answer within `budget`.
    pub async fn room(&self, budget: Duration) -> Vec<Option<(u64, u64)>> {
        let voters = self.status().voters;
        let ask = |m: &Member| {
            let (id, addr) = (m.id.get(), m.raft_addr.clone());
            async move {
                if id == self.0.id {
                    return self.0.state.space().await.ok();
                }
                self.0.links.room_of(id, &addr, budget).await.ok()
            }
        };
        futures::future::join_all(voters.iter().map(ask)).await
    }

    /// Who leads, now and at each change.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// The node's state, from memory.
    pub fn status(&self) -> RaftStatus {
        let m = self.0.raft.metrics().borrow_watched().clone();
        let members = m.membership_config.membership();
        let member = |id: u64| members.get_node(&id).map(|n| Member::of(id, n));
        let last = m.last_log_index;
        let behind = |at: Option<u64>| last.map_or(0, |l| l + 1).saturating_sub(at.map_or(0, |a| a + 1));
        let lag = m.replication.iter().flatten().filter(|(id, _)| **id != self.0.id);
        let silent = m.heartbeat.iter().flatten().filter(|(id, _)| **id != self.0.id);
        RaftStatus {
            id: MasterId(self.0.id),
            leadership: self.0.leadership.borrow().clone(),
            led: self.is_led(&m),
            last_log: last.map(Revision),
            committed: m.cluster_committed.map(|l| Revision(l.index)),
            applied: m.last_applied.map(|l| Revision(l.index)),
            snapshot: m.snapshot.map(|l| Revision(l.index)),
            purged: m.purged.map(|l| Revision(l.index)),
            voters: members.voter_ids().filter_map(member).collect(),
            learners: members.learner_ids().filter_map(member).collect(),
            lag: lag.map(|(id, at)| (MasterId(*id), at.map(|l| behind(Some(l.index))))).collect(),
            silent: silent.map(|(id, at)| (MasterId(*id), at.map(|at| at.elapsed()))).collect(),
            leader_changes: self.0.leaders.load(Ordering::Relaxed),
            torn: self.0.gate.is_torn(),
            failed: m.running_state.err().map(|e| e.to_string()),
        }
    }

    /// Waits until this node stopped by itself, as when its disk is full or broken; tells why.
    pub async fn failed(&self) -> String {
        let mut metrics = self.0.raft.metrics();
        loop {
            let failed = metrics.borrow_watched().running_state.clone().err();
            if let Some(e) = failed {
                return e.to_string();
            }
            if metrics.changed().await.is_err() {
                return "its task ended".into();
            }
        }
    }

    /// Adds a master: first as a learner, as a voter when it has caught up. Only at the leader.
    /// Idempotent; cancelled, it may be left a learner, and can be called again.
    pub async fn add_master(&self, member: &Member) -> Result<(), RaftFailure> {
        let id = member.id.get();
        let added = self.while_electing(|| self.0.raft.add_learner(id, member.node(), false)).await?;
        self.has_entry(id, added.log_id.index).await?;
        let voter = || ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.while_electing(|| self.0.raft.change_membership(voter(), false)).await.map(|_| ())
    }

    /// Waits until member `id` has entry `index`, which was the last one a moment ago.
    async fn has_entry(&self, id: u64, index: u64) -> Result<(), RaftFailure> {
        if id == self.0.id {
            return Ok(());
        }
        let mut metrics = self.0.raft.metrics();
        loop {
            {
                let m = metrics.borrow_and_update();
                let Some(replication) = &m.replication else {
                    return Err(RaftFailure::NotLeader { leader: None });
                };
                if replication.get(&id).cloned().flatten().is_some_and(|at| at.index >= index) {
                    return Ok(());
                }
            }
            metrics.changed().await.map_err(|e| RaftFailure::Stopped(e.to_string()))?;
        }
    }

    /// Removes a master, voter or learner. Only at the leader, which may be the one removed: it
    /// hands over then. Idempotent.
    pub async fn remove_master(&self, id: MasterId) -> Result<(), RaftFailure> {
        let status = self.status();
        if status.voters.iter().any(|m| m.id == id) {
            if status.voters.len() == 1 {
                return Err(RaftFailure::Members("the last master cannot be removed".into()));
            }
            let gone = || ChangeMembers::RemoveVoters(BTreeSet::from([id.get()]));
            return self.while_electing(|| self.0.raft.change_membership(gone(), false)).await.map(|_| ());
        }
        if status.learners.iter().any(|m| m.id == id) {
            let gone = || ChangeMembers::RemoveNodes(BTreeSet::from([id.get()]));
            return self.while_electing(|| self.0.raft.change_membership(gone(), false)).await.map(|_| ());
        }
        Ok(())
    }

    /// Hands leadership to `to` and waits until it leads, two election timeouts at most. Only at
    /// the leader.
    pub async fn transfer_leadership(&self, to: MasterId) -> Result<(), RaftFailure> {
        let now = self.0.leadership.borrow().clone();
        if now.leader.as_ref().is_some_and(|m| m.id == to) {
            return Ok(());
        }
        if !now.is_me {
            return Err(RaftFailure::NotLeader { leader: now.leader.map(|m| (m.id, m.client_addr)) });
        }
        if !self.status().voters.iter().any(|m| m.id == to) {
            return Err(RaftFailure::Members(format!("{to} is not a voter")));
        }
        let stopped = |e: &dyn std::fmt::Display| RaftFailure::Stopped(e.to_string());
        self.0.raft.trigger().transfer_leader(to.get()).await.map_err(|e| stopped(&e))?;
        let mut leadership = self.0.leadership.clone();
        let led = leadership.wait_for(|l| l.leader.as_ref().is_some_and(|m| m.id == to));
        match tokio::time::timeout(self.0.timings.patience(), led).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(stopped(&e)),
            Err(_) => Err(RaftFailure::NoQuorum(format!("{to} did not take over in time"))),
        }
    }

    /// What the log has, from the first entry that was not purged, with a checksum of each entry, for those
    /// who compare nodes. Errors: the log has failed.
    pub async fn entries(&self) -> io::Result<Vec<HeldEntry>> {
        let entries = self.0.gate.log().read(0..u64::MAX, usize::MAX).await?;
        let held = |e: super::log::LogEntry| HeldEntry {
            term: Term(e.pos.term),
            at: Revision(e.pos.index),
            crc: crc32c(&[&[e.kind as u8][..], &e.data].concat()),
        };
        Ok(entries.into_iter().map(held).collect())
    }

    /// Builds a snapshot now, in the background.
    pub async fn snapshot_now(&self) -> Result<(), RaftFailure> {
        self.0.raft.trigger().snapshot().await.map_err(|e| RaftFailure::Stopped(e.to_string()))
    }

    /// Stops the node: no call is answered any more, applied state is made durable, all tasks are
    /// gone on return. Idempotent.
    pub async fn shutdown(&self) {
        if let Some(listening) = self.0.listening.lock().await.take() {
            listening.close().await;
        }
        self.0.tasks.stop().await;
        if let Err(e) = self.0.raft.shutdown().await {
            tracing::error!(error = %e, "a Raft task ended badly");
        }
        self.0.links.close();
        if let Err(e) = self.0.state.flush().await {
            tracing::error!(error = %e, "the last state was not made durable; the log has it");
        }
    }
}
