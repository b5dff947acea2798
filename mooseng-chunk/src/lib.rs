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
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]
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
mod under_way;
mod way;

/// The decoders of what else is on a disk, for the fuzz loops.
#[doc(hidden)]
pub mod decoders {
    use crate::{
        notes::Notes,
        redo::{Redo, SEGMENT_BYTES_MIN},
    };
    use mooseng_core::seam::{Disk, Rng};
    use std::{io, sync::Arc};

    /// Reads the redo log of a disk: how many images its records have, and whether it is damaged.
    pub fn redo(disk: &Arc<dyn Disk>, rng: &Arc<dyn Rng>) -> io::Result<(Vec<usize>, bool)> {
        let (_, found) = Redo::open(disk.clone(), rng.clone(), SEGMENT_BYTES_MIN, (0, 0))?;
        Ok((found.records.iter().map(|r| r.images.len()).collect(), found.damaged))
    }

    /// Opens the notes of a disk and begins new ones when they cannot be believed: how many chunks they name, if they
    /// can.
    pub fn notes(disk: &Arc<dyn Disk>) -> io::Result<Option<usize>> {
        let (notes, noted) = Notes::open(disk)?;
        notes.begin(Default::default(), noted.is_some())?;
        Ok(noted.map(|n| n.marks.len()))
    }

    /// Notes these chunks.
    pub fn note(disk: &Arc<dyn Disk>, chunks: impl IntoIterator<Item = u64>) -> io::Result<()> {
        let (notes, _) = Notes::open(disk)?;
        notes.note(chunks.into_iter().map(mooseng_core::ids::ChunkId).collect())
    }
}

pub use disk::StartError;
pub use server::{Chunkserver, ChunkserverOptions, Status, Timings};
pub use shared::Counters;
pub use store::DiskStore;
