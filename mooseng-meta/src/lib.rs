//! MooseNG masters: namespace, Raft, placement, repair.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

pub mod machine;
pub mod namespace;
pub mod raft;
pub mod state;
pub mod store;
