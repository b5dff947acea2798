//! Chunkservers on a memory network and on disks that fail, with masters that say what a test wants.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod ahead;
mod aside;
mod behind;
mod blocks;
mod capabilities;
mod chain;
mod common;
mod copies;
mod crash;
mod forged;
mod masters;
mod notes;
mod orders;
mod power;
mod repair;
mod scrub;
mod starts;
mod synced;
mod writers;
