//! Applying log entries: whatever they are, and however they are cut into batches.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod batches;
mod generated;
