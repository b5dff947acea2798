//! # mooseng-chunk: chunkservers
//!
//! Chunks of up to 64 MiB in files with a checksum per 4 KiB block, on several disks; chains that
//! replicate writes; copies that repair. It is *not* where anything is decided about placement:
//! the masters command, this obeys, and it knows no names.
//!
//! ```text
//!   Chunkserver ─┬─ listener ─ ChunkHandler ─ DiskStore ─┬─ access (capabilities, fences, terms)
//!                │                                       ├─ chain ─ next server
//!                │                                       ├─ pull ── other replicas
//!                ├─ task: register, heartbeat, report    └─ slot ─ chunk file ─ disk lanes
//!                └─ scrub: a task for each disk ─────────────┘
//! ```
//!
//! Invariants: no byte is served that was not verified; a note that a chunk is dirty is durable
//! before its first unsynced write is acknowledged; all that happens to a chunk's file happens
//! under its order lock; a version never goes back. The bytes on disk are drawn in
//! `docs/format.md`.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

mod access;
mod chain;
mod chunk_file;
mod control;
mod disk;
pub mod format;
mod logkeeper;
mod notes;
mod numbers;
mod peers;
mod places;
mod pull;
mod redo;
mod scrub;
mod server;
mod shared;
mod slot;
mod store;
mod way;

pub use disk::StartError;
pub use server::{Chunkserver, ChunkserverOptions, Status, Timings};
pub use shared::Counters;
pub use store::DiskStore;
