//! One master's service against chunkservers that say what a test wants.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod ahead;
mod bumps;
mod clocks;
mod deletions;
mod drains;
mod fences;
mod full;
mod gone;
mod joins;
mod left_out;
mod limits;
mod opens;
mod partition;
mod quarantine;
mod repairs;
mod room;
mod short;
mod unheard;
mod watched;
mod world;
