//! # mooseng-fuse: MooseNG as a directory
//!
//! Carries what the kernel asks of a mounted filesystem to a [`Vfs`](mooseng_client::Vfs) and the
//! answers back. It keeps no names, attributes or content of its own: it is not a cache, and it
//! knows neither masters nor chunkservers.
//!
//! ```no_run
//! # async fn example(client: mooseng_client::Client) -> anyhow::Result<()> {
//! use mooseng_fuse::{Mount, MountOptions};
//! let mount = Mount::start(client.vfs().clone(), "/mnt/moose", MountOptions::default()).await?;
//! assert!(std::path::Path::new("/mnt/moose").is_dir());
//! mount.unmount().await?;
//! # Ok(()) }
//! ```
//!
//! ```text
//!   kernel ── /dev/fuse ── adapter (one thread: parse, credentials, gate)
//!                             │ polls the answer once; what has to wait goes on as a task
//!                             └── serve ── Vfs ── masters, chunkservers
//!   Mount ── point (is the directory fit, is the device there, unmounting)
//! ```
//!
//! Invariants:
//! - every request is answered once: with its result, an error, `ETIMEDOUT` when it took longer
//!   than [`MountOptions::request_deadline`], or `EIO` when its handler panicked;
//! - attributes and entries live for no time in the kernel, and no page outlives its open, so that
//!   another mount's finished change is seen by the next call;
//! - who may do what is decided by the masters alone, from the caller's user, group and
//!   supplementary groups.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

mod adapter;
mod convert;
mod creds;
mod device;
mod dir;
mod error;
mod mount;
mod observe;
mod options;
mod point;
mod serve;
mod shared;

pub use error::MountError;
pub use mount::Mount;
pub use observe::{Observer, RequestKind};
pub use options::MountOptions;
pub use point::{Found, clear_dead, look_at, unmount_any};
