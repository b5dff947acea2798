//! MooseNG masters: namespace, Raft, placement, repair.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

pub mod bump;
pub mod machine;
pub mod namespace;
pub mod placement;
pub mod raft;
pub mod repair;
pub mod server;
pub mod service;
pub mod state;
pub mod store;
