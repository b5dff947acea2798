//! Real processes, real mounts, a real Docker daemon, browser and Prometheus. What waits most stands beside each other.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and tells its progress and what it skips"
)]

mod dashboard;
mod demo;
mod faults;
mod main_job;
mod mounting;
mod telemetry;
