//! What openraft is told about us: commands and replies are bytes, nodes are masters.

use super::log::LogEntry;
use super::segment::{Kind, LogPos, Record};
use bytes::Bytes;
use mooseng_core::ids::{MasterId, Revision};
use openraft::vote::leader_id_std::CommittedLeaderId;
use serde::{Deserialize, Serialize};
use std::{fmt, io};

/// A command of the state machine.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Command(pub Bytes);

/// The commands among entries.
pub(super) fn commands(entries: &[Entry]) -> impl Iterator<Item = &Bytes> {
    entries.iter().filter_map(|e| match &e.payload {
        Payload::Normal(command) => Some(&command.0),
        _ => None,
    })
}

/// A reply of the state machine.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reply(pub Bytes);

macro_rules! shown_as_length {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} bytes", self.0.len())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    };
}
shown_as_length!(Command);
shown_as_length!(Reply);

/// Where a master is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct MasterNode {
    /// By other masters.
    pub raft_addr: String,
    /// By clients and chunkservers.
    pub client_addr: String,
}

/// openraft's tasks on tokio, with randomness from a seed that [`super::node`] draws from the
/// node's own [`mooseng_core::seam::Rng`].
pub(super) type Runtime = openraft_rt::deterministic_rng::DeterministicRng<openraft::TokioRuntime>;

openraft::declare_raft_types!(
    pub(super) Types:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = MasterNode,
        Term = u64,
        // One leader per term, as the fencing of chunkservers by term needs it.
        LeaderId = openraft::vote::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

pub(super) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(super) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(super) type Payload = openraft::type_config::alias::PayloadOf<Types>;
pub(super) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(super) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub(super) type Snapshot = openraft::type_config::alias::SnapshotOf<Types, super::snapshot::SnapshotFile>;
pub(super) type Raft = openraft::Raft<Types, super::state::State>;

/// A member of the cluster of masters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its id, never given to another master again.
    pub id: MasterId,
    /// Where other masters reach it.
    pub raft_addr: String,
    /// Where clients and chunkservers reach it.
    pub client_addr: String,
}

impl Member {
    pub(super) fn node(&self) -> MasterNode {
        MasterNode { raft_addr: self.raft_addr.clone(), client_addr: self.client_addr.clone() }
    }
    pub(super) fn of(id: u64, node: &MasterNode) -> Self {
        Self { id: MasterId(id), raft_addr: node.raft_addr.clone(), client_addr: node.client_addr.clone() }
    }
}

pub(super) fn log_id(pos: LogPos) -> LogId {
    LogId::new(CommittedLeaderId::new(pos.term), pos.index)
}

pub(super) fn log_pos(id: &LogId) -> LogPos {
    LogPos { term: id.leader_id.term, index: id.index }
}

/// The entry as a record of the log; a command's bytes are shared, not copied.
pub(super) fn record_of(entry: Entry) -> io::Result<Record> {
    let pos = log_pos(&entry.log_id);
    let (kind, data) = match entry.payload {
        openraft::EntryPayload::Blank => (Kind::Blank, Bytes::new()),
        openraft::EntryPayload::Normal(command) => (Kind::Command, command.0),
        openraft::EntryPayload::Membership(m) => {
            (Kind::Membership, postcard::to_allocvec(&m).map_err(io::Error::other)?.into())
        }
    };
    Ok(Record { kind, pos, data })
}

/// The entry that a record of the log holds.
pub(super) fn entry_of(entry: LogEntry) -> io::Result<Entry> {
    let payload = match entry.kind {
        Kind::Blank => Payload::Blank,
        Kind::Command => Payload::Normal(Command(entry.data)),
        Kind::Membership => Payload::Membership(postcard::from_bytes(&entry.data).map_err(io::Error::other)?),
        Kind::Truncate | Kind::Purge | Kind::Torn => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not an entry"));
        }
    };
    Ok(Entry { log_id: log_id(entry.pos), payload })
}

/// What the state machine keeps for Raft.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The last applied entry.
    pub applied: Option<LogId>,
    /// The last applied membership.
    pub membership: StoredMembership,
}

impl Mark {
    pub(super) fn decode(bytes: Option<Bytes>) -> io::Result<Self> {
        bytes.map_or_else(
            || Ok(Self::default()),
            |b| {
                postcard::from_bytes(&b)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("the state's mark: {e}")))
            },
        )
    }
    pub(super) fn encode(&self) -> io::Result<Bytes> {
        Ok(postcard::to_allocvec(self).map_err(io::Error::other)?.into())
    }
}

/// The last entry in a state that has this mark.
pub(crate) fn applied_of(mark: Option<Bytes>) -> io::Result<Option<Revision>> {
    Ok(Mark::decode(mark)?.applied.map(|at| Revision(at.index)))
}
