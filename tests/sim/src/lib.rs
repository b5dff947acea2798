//! # mooseng-sim: whole clusters under a seeded simulation
//!
//! The production code of masters, chunkservers and clients on the memory transport, one thread,
//! virtual time. Every delay, drop, partition, crash and restart comes from one seed; the same seed
//! gives the same run, and the trace hash shows it. An [`oracle`] that knows "unknown" judges what
//! clients saw.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

pub mod disk;
pub mod oracle;
pub mod world;
