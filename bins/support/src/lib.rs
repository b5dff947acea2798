//! # mooseng-support: what the binaries share, and nobody else
//!
//! Configuration with its sources, telemetry, HTTP (health, metrics, joins), signals, and the
//! assembly line of a daemon. What another program could want is in a crate of its own.
//!
//! ```text
//!   flags > environment > file > defaults ─▶ Settings ─▶ Common + a role's own values
//!   daemon::run: logs, runtime ─▶ HTTP (starting) ─▶ the role's service ─▶ READY ─▶ signal ─▶ stop
//! ```
//!
//! Invariants: every key has one row in [`keys`]; an error of configuration names key, value,
//! source and cure; a daemon answers `/livez` before its service starts; after the first signal it
//! ends within the time that was set, after the second at once.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

pub mod addr;
pub mod catalog;
pub mod config;
pub mod daemon;
pub mod disk_meter;
pub mod http;
pub mod joins;
pub mod keys;
pub mod meter;
pub mod metrics;
pub mod node;
pub mod ports;
pub mod signals;
pub mod telemetry;
pub mod trace;
mod transport;

pub use transport::transport;
