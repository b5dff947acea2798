//! # mooseng-e2e: real processes, real sockets, real mounts
//!
//! [`cluster::ProcessCluster`] starts the daemons as an operator would, kills them with -9 and
//! starts them again; [`tree`] gathers and compares directory trees.

pub mod cluster;
pub mod tree;
