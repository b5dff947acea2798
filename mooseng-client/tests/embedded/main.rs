//! Whole clusters in this process, through the SDK.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod clocks;
mod cluster;
mod common;
mod faults;
mod full;
mod handles;
mod keys;
mod names;
mod read_ahead;
mod replaced;
mod sessions;
mod small_files;
