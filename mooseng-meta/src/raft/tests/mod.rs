//! Tests of Raft on disks that crash, a network that can be cut, and virtual time.

mod cluster;
mod conformance;
mod disk;
mod installs;
mod log_crashes;
mod log_tables;
mod machine;
mod masters;
mod net;
mod restored;
mod snapshots;
