//! # mooseng-testkit: suites that every implementation of a trait must pass
//!
//! [`transport`] says what a `Transport` promises; `tests/` runs it over memory, QUIC and TCP. Time is
//! real: nothing here asserts how long something takes, only that it happens before a generous end.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a suite panics when a promise breaks")]

mod probe;
pub mod transport;

pub use probe::{Network, eventually};
