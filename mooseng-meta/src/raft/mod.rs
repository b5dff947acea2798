//! Raft: the only place that says openraft. Commands and replies are bytes; the state machine is
//! [`crate::machine::Machine`].
//!
//! ```text
//!   RaftNode ── openraft ──┬─ log_store ─ log ─ writer ─ segment files, vote   (lane raft-log)
//!     │                    ├─ state ─ Machine                                  (lane raft-apply)
//!     │                    │     └─ snapshot files                             (lane raft-files)
//!     │                    └─ network ─ Transport ─ other masters
//!     └─ barrier, tasks, gate, starts   handler ─┘
//! ```
//!
//! Invariants: nothing is acknowledged before it is synced; purged ≤ newest complete snapshot ≤
//! durable state ≤ applied; a log that may have lost acknowledged entries neither starts silently
//! nor votes, one that was restored from an older copy as far as another master knows of what came after; an error of the disk is final for the node.

mod barrier;
mod error;
mod gate;
mod handler;
mod log;
mod log_store;
pub mod message;
mod network;
mod node;
mod options;
mod recover;
mod segment;
mod snapshot;
mod starts;
mod state;
mod tasks;
mod traced;
mod types;
mod vote;
mod writer;

/// The decoders of what is on disk and of what other masters send, for the fuzz loops.
#[doc(hidden)]
pub mod decoders {
    pub use super::recover::{Recovered, Recovery};
    pub use super::segment::{
        CarriedState, HEADER_BYTES, Header, Kind, LogPos, Record, TornTail, encode_record, record_at, scan,
    };
    pub use super::vote::{FILE_BYTES, SLOT_BYTES, Votes, encode as encode_vote, judge as judge_vote};
    use super::{gate, message, snapshot::SnapshotFile, starts, types};
    use bytes::Bytes;
    use futures::FutureExt as _;
    use mooseng_core::{
        error::NetError,
        net::Message,
        seam::{Disk, Lane, Rng},
    };
    use openraft::raft::{
        AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
    };
    use serde::{Serialize, de::DeserializeOwned};
    use std::{collections::BTreeSet, io, sync::Arc};
    use types::Types;

    /// The mark of a machine to which nothing was applied.
    pub fn a_mark() -> io::Result<Bytes> {
        types::Mark::default().encode()
    }
    /// Opens and verifies the snapshot on a disk; how many pieces it has.
    pub fn open_snapshot(disk: &dyn Disk) -> io::Result<Option<u64>> {
        SnapshotFile::open(disk).map(|s| s.map(|s| s.pieces))
    }
    /// Reads the entries that a leader sends; how many.
    pub fn append(message: Message) -> Result<usize, NetError> {
        message::decode_append(message).map(|(r, _)| r.entries.len())
    }
    /// Reads the starts on a disk, by a lane that runs its jobs at once; whether there are any.
    pub fn starts(disk: Arc<dyn Disk>, lane: Arc<dyn Lane>, rng: Arc<dyn Rng>) -> io::Result<bool> {
        let opened = starts::Starts::open(disk, lane, rng).now_or_never();
        opened.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into())).map(|(_, known)| known)
    }

    /// A head: what it is of, one that is good, and whether bytes are one.
    pub type Head = (&'static str, Vec<u8>, fn(&[u8]) -> bool);

    fn head<T: Serialize + DeserializeOwned>(name: &'static str, good: &T) -> Head {
        let good = postcard::to_allocvec(good).unwrap_or_default();
        (name, good, |bytes| message::decode::<T>(bytes).is_ok())
    }

    /// The heads of Raft's messages and of their answers but that of an append, and what else of it is in postcard.
    pub fn heads() -> Vec<Head> {
        let pos = LogPos { term: 300, index: 70_000 };
        let (at, vote) = (Some(types::log_id(pos)), types::Vote::new_committed(300, 2));
        let history = message::decode::<starts::History>(&[3, 2, 200, 1, 7]).unwrap_or_default();
        let start = Some(starts::Start { number: 3, tag: u64::MAX });
        let seen = starts::Seen { start, term: 300, last: Some(pos) };
        let told =
            gate::Told { end: gate::End { last: Some(pos), term: 300 }, starts: history.clone(), seen };
        let voters = [BTreeSet::from([1, 2]), BTreeSet::from([2, 300])];
        let members = openraft::Membership::<u64, types::MasterNode>::new_with_defaults(voters.into(), [4]);
        let stored = types::StoredMembership::new(at, members.clone());
        let meta = types::SnapshotMeta { last_log_id: at, last_membership: stored.clone() };
        vec![
            head("a vote", &vote),
            head("a question for a vote", &(seen, VoteRequest::<Types>::new(vote, at))),
            head("the answer to one", &(seen, VoteResponse::<Types>::new(vote, at, true))),
            head("the answer to an append", &AppendEntriesResponse::<Types>::PartialSuccess(at)),
            head("a snapshot", &(vote, meta, 5u64)),
            head("the answer to a snapshot", &SnapshotResponse::<Types>::new(vote)),
            head("leadership handed over", &TransferLeaderRequest::<Types>::new(vote, 2, at)),
            head("a question for a log's end", &history),
            head("the answer with a log's end", &told),
            head("the answer with the room of a disk", &(1u64 << 40, 1u64 << 39)),
            head("the mark of a state", &types::Mark { applied: at, membership: stored }),
            head("an entry with members", &members),
        ]
    }
}

#[cfg(test)]
mod tests;

pub use error::{RaftFailure, StartError};
pub use log::{LogOptions, OpenError};
pub use node::{COMMAND_BYTES_MAX, HeldEntry, Leadership, RaftNode, RaftStatus};
pub use options::{RaftOptions, RaftTimings};
pub use recover::Damage;
pub use types::Member;
pub(crate) use types::applied_of;
