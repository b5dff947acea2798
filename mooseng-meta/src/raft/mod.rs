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
    use super::{message, snapshot::SnapshotFile, types};
    use bytes::Bytes;
    use mooseng_core::{error::NetError, net::Message, seam::Disk};
    use std::io;

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
        message::decode_append(message).map(|r| r.entries.len())
    }
    /// Reads a vote as it is on disk and on the wire.
    pub fn vote(bytes: &[u8]) -> Result<(), NetError> {
        message::decode::<types::Vote>(bytes).map(drop)
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
