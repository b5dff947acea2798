//! # mooseng-sim: whole clusters under a seeded simulation
//!
//! The production code of masters, chunkservers and clients on the memory transport, one thread,
//! virtual time. Every delay, drop, partition, crash and restart comes from one seed; the same seed
//! gives the same run, and the trace hash shows it. An [`oracle`] that knows "unknown" judges what
//! clients saw.
//!
//! ```text
//!   world ─ one run                                   journal ─ what happened, hashed
//!     ├─ faults ─ who dies, which walls, how long ──▶ weather ─ fate of each message
//!     │     │                                         disk    ─ what power failures and ills take
//!     │     │                                         clocks  ─ what time a node believes it is
//!     │     └─ chronicle ─ whether the masters go together as Raft promises
//!     └─ workload ×5 ─ what clients do ─▶ steps ─▶ the SDK
//!            └─ look ─ what they see ───▶ oracle ─ whether it was promised
//!     at the end: replicas ─ whether those of each chunk are equal; acts ─ a thief, a rotten log
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

pub mod acts;
pub mod cast;
pub mod chronicle;
pub mod clocks;
pub mod disk;
pub mod faults;
pub mod journal;
pub mod look;
pub mod oracle;
pub mod replicas;
pub mod steps;
pub mod weather;
pub mod workload;
pub mod world;
