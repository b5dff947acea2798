//! # mooseng-client: MooseNG from a Rust program
//!
//! The SDK: a [`Client`] is a session with a cluster; [`Filesystem`] has files by path, with the
//! names of `tokio::fs`; [`File`] is an open file; [`Vfs`] has files by inode, for mounts. It is not
//! a mount (that is `mooseng-fuse`) and knows no transport (one is handed to the builder).
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # use mooseng_client::embedded::Cluster;
//! let cluster = Cluster::builder().masters(1).chunkservers(2).start().await?;
//! let fs = cluster.client().await?.filesystem();
//! let file = fs.create("/file").await?;
//! file.write_at(0, "content").await?;
//! file.sync_all().await?; // on every replica's disk
//! file.close().await?;
//! assert_eq!(&fs.read("/file").await?[..], b"content");
//! # anyhow::Ok(()) }).unwrap();
//! ```
//!
//! ```text
//!   Filesystem, File ── Vfs ─┬─ opens ──────────────────┐
//!                            ├─ ahead (per handle) ─┐   ├── masters: leader, session, slots, retries
//!                            └─ node (per inode) ───┤   │
//!        write ── buffer ── queue (per chunk) ── writer ┤
//!                            ▲          reader ─────────┴── pool: connections, health, numbers
//!        background ─────────┘  (old data, or too much)         budget: the bound on dirty data
//! ```
//!
//! What holds:
//! 1. No lock of a file is held while the network is waited for: `stat` and reads of other bytes do
//!    not wait for a stalled writer.
//! 2. Written data is held until it is on every replica's disk (or the file is closed), within the
//!    client's bound. It is sent again whenever a replica, a session or a leader was lost, and is
//!    given up only when it can never be written; then every open handle is told, once.
//! 3. A mutation is carried out at most once. When nobody can tell whether it was, the error's
//!    `outcome()` says `Unknown`.
//! 4. No byte is served whose checksum was not verified here.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

mod admin;
mod ahead;
mod background;
mod budget;
mod client;
#[cfg(feature = "embedded")]
pub mod embedded;
mod error;
mod file;
mod fs;
mod health;
mod masters;
mod node;
mod opens;
mod pool;
mod queue;
mod ranges;
mod reader;
#[cfg(feature = "report")]
pub mod report;
pub mod vfs;
mod writer;

pub use ahead::CacheCounts;
pub use client::{Client, ClientBuilder};
pub use error::{Error, ErrorKind, Result};
pub use file::{File, Synced};
pub use fs::Filesystem;
pub use vfs::{OpenFlags, Vfs};
