//! MooseNG masters: namespace, Raft, placement, repair.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

pub mod machine;
pub mod raft;
