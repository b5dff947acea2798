//! # mooseng-host: what a machine gives to MooseNG
//!
//! Implementations of the seams of [`mooseng_core::seam`]: time, randomness, files and threads of
//! a real machine, and their stand-ins for tests and single-threaded embedding.
//!
//! It is *not* where decisions are made: nothing here knows what is stored or why.
//!
//! ```text
//!   seam        production            tests, simulator, embedded
//!   Clock       OsClock               VirtualClock (follows tokio's, also paused)
//!   Rng         OsRng                 SeededRng
//!   Lanes       OsLanes (threads)     TaskLanes (tasks), HeldLanes
//!   Disk        OsDisk (+ DirLock)    MemDisk; BallastDisk over any
//! ```
//!
//! ```
//! use mooseng_core::seam::{Disk as _, DiskFile as _};
//! let disk = mooseng_host::MemDisk::new("example");
//! let file = disk.create("dir/file").unwrap();
//! file.write_at(4096, b"hello").unwrap();
//! assert_eq!(file.len().unwrap(), 4101);
//! assert_eq!(disk.list("dir").unwrap(), ["file"]);
//! ```
//!
//! Invariants: names never leave a disk's directory; a lane runs its jobs one at a time in order;
//! one directory has one process (with a [`DirLock`]).
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

mod ballast;
mod clock;
mod disk;
pub mod disk_suite;
mod lane;
mod lock;
mod mem_disk;
mod name;
mod rng;

pub use ballast::BallastDisk;
pub use clock::{OsClock, VirtualClock};
pub use disk::OsDisk;
pub use disk_suite::disk_suite;
pub use lane::{HeldLanes, LANE_QUEUE_MAX, OsLanes, TaskLanes};
pub use lock::DirLock;
pub use mem_disk::MemDisk;
pub use rng::{OsRng, SeededRng};

use mooseng_core::seam::Seams;
use std::sync::Arc;

/// The seams of this machine: its clock, its randomness, a thread per lane.
pub fn host_seams() -> Seams {
    Seams { clock: Arc::new(OsClock), rng: Arc::new(OsRng::default()), lanes: Arc::new(OsLanes) }
}

/// Seams for a simulation: the runtime's own time, seeded randomness, a task per lane. Equal seeds
/// give equal runs on a seeded single-threaded runtime.
///
/// # Panics
/// Lanes made from it must be made inside a tokio runtime.
pub fn sim_seams(seed: u64) -> Seams {
    Seams {
        clock: Arc::new(VirtualClock::new()),
        rng: Arc::new(SeededRng::new(seed)),
        lanes: Arc::new(TaskLanes::default()),
    }
}
