//! # mooseng-core: the vocabulary
//!
//! Ids, attributes, errors, the three traits ([`net::Transport`], [`meta::MetadataService`],
//! [`chunk::ChunkStore`]), every request and reply as a struct, their wire encoding, the stubs and
//! dispatchers that carry them over any connection, and the seams through which time, randomness,
//! files and threads come in.
//!
//! It is *not* a runtime: nothing here opens a socket or a file, reads a clock, draws a random
//! number or starts a thread. Everything is a type, a pure function, or a future that is driven by
//! whoever holds it.
//!
//! ```text
//!   meta::MetadataService        chunk::ChunkStore        net::Transport
//!        ^          ^               ^          ^               ^
//!     local      rpc stub        local      rpc stub     memory, quic, tcp
//!  (mooseng-meta)   |        (mooseng-chunk)    |         (mooseng-net)
//!                   +------- net::Connection ---+
//! ```
//!
//! ```
//! use mooseng_core::{ids::InodeId, name::Name};
//! let name = Name::new("report.txt").unwrap();
//! assert_eq!(name.as_bytes(), b"report.txt");
//! assert!(Name::new("a/b").is_err());
//! assert_eq!(InodeId::ROOT.get(), 1);
//! ```
//!
//! Invariants: two numbers of different meaning never share a type; every decoder is bounded
//! before it allocates; an error says whether the operation may have been applied.

#![warn(clippy::disallowed_methods, clippy::disallowed_types)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

pub mod attr;
pub mod capability;
pub mod checksum;
pub mod chunk;
pub mod context;
pub mod error;
pub mod health;
pub mod ids;
pub mod join;
pub mod limits;
pub mod meta;
pub mod name;
pub mod net;
pub mod planted;
pub mod rpc;
pub mod seam;
pub mod trace;
pub mod wire;
