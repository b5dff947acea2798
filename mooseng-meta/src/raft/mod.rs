//! Raft: the only place that says openraft. Commands and replies are bytes; the state machine is
//! [`crate::machine::Machine`].
//!
//! ```text
//!   RaftNode ── openraft ──┬─ log_store ─ log ─ writer ─ segment files, vote   (lane raft-log)
//!     │                    ├─ state ─ Machine                                  (lane raft-apply)
//!     │                    │     └─ snapshot files                             (lane raft-files)
//!     │                    └─ network ─ Transport ─ other masters
//!     └─ barrier, tasks, gate          handler ─┘
//! ```
//!
//! Invariants: nothing is acknowledged before it is synced; purged ≤ newest complete snapshot ≤
//! durable state ≤ applied; a log that may have lost acknowledged entries neither starts silently
//! nor votes; an error of the disk is final for the node.

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
mod state;
mod tasks;
mod types;
mod vote;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{RaftFailure, StartError};
pub use log::{LogOptions, OpenError};
pub use node::{COMMAND_BYTES_MAX, Leadership, RaftNode, RaftStatus};
pub use options::{RaftOptions, RaftTimings};
pub use recover::Damage;
pub use types::Member;
