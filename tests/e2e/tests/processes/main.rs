//! Real processes, real mounts, a real Docker daemon. What waits most stands beside each other.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and tells its progress and what it skips"
)]

mod demo;
mod faults;
mod main_job;
