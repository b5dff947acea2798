//! # mooseng-e2e: real processes, real sockets, real mounts
//!
//! [`cluster::ProcessCluster`] starts the daemons as an operator would, kills them with -9 and
//! starts them again; [`tree`] gathers and compares directory trees. [`surface`] is the SDK and a
//! mount as one set of calls, [`load`] makes load over it and looks for all that was acknowledged;
//! [`faults`] are the scenarios of the `faults` command, [`report`] what they found; [`prometheus`] is a real one over a
//! cluster, [`browser`] a Chromium that looks at the dashboard.

pub mod browser;
pub mod cluster;
pub mod faults;
pub mod load;
pub mod prometheus;
pub mod report;
pub mod surface;
pub mod tree;
