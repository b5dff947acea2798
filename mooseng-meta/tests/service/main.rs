//! One master's service against chunkservers that say what a test wants.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod bumps;
mod deletions;
mod drains;
mod fences;
mod gone;
mod joins;
mod limits;
mod opens;
mod partition;
mod quarantine;
mod repairs;
mod room;
mod unheard;
mod world;
