//! # mooseng-client: MooseNG from a Rust program
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

mod client;
#[cfg(feature = "embedded")]
pub mod embedded;
mod error;
mod file;
mod fs;
mod masters;
mod node;
mod pool;
mod reader;
pub mod vfs;
mod writer;

pub use client::{Client, ClientBuilder};
pub use error::{Error, ErrorKind, Result};
pub use file::File;
pub use fs::Filesystem;
pub use vfs::Vfs;
