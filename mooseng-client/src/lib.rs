//! # mooseng-client: MooseNG from a Rust program
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

mod error;
mod masters;
mod node;
mod pool;
mod reader;
pub mod vfs;
mod writer;

pub use error::{Error, ErrorKind, Result};
pub use vfs::Vfs;
