//! What a Raft node is given.

use super::error::StartError;
use super::log::LogOptions;
use super::types::Member;
use crate::machine::Machine;
use mooseng_core::ids::MasterId;
use mooseng_core::net::Transport;
use mooseng_core::seam::{Disk, Seams};
use openraft::{Config, SnapshotPolicy};
use std::{sync::Arc, time::Duration};

/// Times and sizes of a Raft node. The same on all masters.
#[derive(Clone, Debug)]
pub struct RaftTimings {
    /// Between two signs of life of the leader.
    pub heartbeat: Duration,
    /// A follower that has heard nothing for a lease (`election_max`) waits for this much more at least
    /// before it stands for election. It bounds the wait for one vote as well, with the flush that it takes.
    pub election_min: Duration,
    /// The same at most; also how long a leader's lease lasts. So a follower stands after a silence of
    /// `election_max + election_min` to `2 * election_max`.
    pub election_max: Duration,
    /// Between two durable commits of the state. Bounds what a restart replays.
    pub flush: Duration,
    /// Entries after which a new snapshot is built.
    pub snapshot_entries: u64,
    /// Entries kept behind the snapshot for followers that lag.
    pub kept_entries: u64,
}

impl Default for RaftTimings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            flush: Duration::from_secs(5),
            snapshot_entries: 500_000,
            kept_entries: 100_000,
        }
    }
}

impl RaftTimings {
    /// How long whoever needs a leader waits for one: an election and its votes, with a second try.
    pub(super) fn patience(&self) -> Duration {
        self.election_max * 4
    }

    pub(super) fn config(&self, may_stand: bool) -> Result<Config, StartError> {
        let millis = |d: Duration| d.as_millis() as u64;
        let config = Config {
            cluster_name: "masters".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            install_snapshot_timeout: 600_000,
            max_payload_entries: 1024,
            replication_lag_threshold: self.kept_entries.max(1000),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            max_in_snapshot_log_to_keep: self.kept_entries,
            enable_elect: may_stand,
            enable_pre_vote: Some(true),
            // A leader that no quorum has answered for a lease is silent for this long, so that those who hear
            // it and are not heard elect another; then it is heard for as long, and so on. Longer than the
            // lease and the election that its last sign of life puts off.
            quorum_loss_probe_interval: Some(millis(self.election_max * 5 / 2)),
            // A restarted leader is elected again: its state is older than what it has served.
            enable_leader_restore: Some(false),
            // A follower whose last batch was cut off, or whose directory was restored from an older copy, has
            // less than it acknowledged; the gate keeps it from voting, and the leader has to send it again.
            allow_log_reversion: Some(true),
            backoff: "50ms 100ms 200ms ..500ms".into(),
            ..Config::default()
        };
        config.validate().map_err(|e| StartError::Timings(e.to_string()))
    }
}

/// What a Raft node is made of.
#[derive(Clone)]
pub struct RaftOptions {
    /// This master.
    pub id: MasterId,
    /// Where it listens for the others.
    pub raft_addr: String,
    /// The members of a fresh cluster, itself included; empty for one that is added to another.
    pub members: Vec<Member>,
    /// Times.
    pub timings: RaftTimings,
    /// Sizes of the log.
    pub log: LogOptions,
    /// Where log, vote and snapshots are: below `raft/`.
    pub disk: Arc<dyn Disk>,
    /// The state machine.
    pub machine: Arc<dyn Machine>,
    /// How the others are reached.
    pub transport: Arc<dyn Transport>,
    /// Randomness and threads.
    pub seams: Seams,
}

impl std::fmt::Debug for RaftOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftOptions")
            .field("id", &self.id)
            .field("raft_addr", &self.raft_addr)
            .finish_non_exhaustive()
    }
}
