//! # mooseng-net: how bytes travel between identified peers
//!
//! Implementations of [`mooseng_core::net::Transport`]. QUIC between
//! machines, TCP with TLS for a trusted LAN, memory within a process; and the certificates of a
//! cluster.
//!
//! It is *not* where meaning lives: it knows methods as numbers, heads and bodies as bytes; no
//! inode, no chunk, no Raft.
//!
//! ```text
//!   quic: one stream for small calls, own streams (bulk) for the rest   tcp: all on one stream
//!     |                                                                   |
//!   mux: many calls on one stream (frame, outbox)                         memory: by pointer, with faults
//!     |
//!   call: limits, deadlines, silence (what every transport enforces alike)
//! ```
//!
//! ```
//! # use mooseng_core::{context::CallContext, error::NetError, ids::ClusterId, net::*};
//! # use std::sync::Arc;
//! struct Echo;
//! #[async_trait::async_trait]
//! impl Handler for Echo {
//!     async fn handle(&self, _: &PeerIdentity, _: CallContext, _: Method, m: Message) -> Result<Message, NetError> {
//!         Ok(m)
//!     }
//! }
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! # let cluster = ClusterId(uuid::Uuid::nil());
//! # let me = |name: &str| PeerIdentity { cluster, role: Role::Client, node: 0, name: name.into(), cert_hash: CertHash::default() };
//! let network = mooseng_net::memory::MemoryNetwork::new();
//! let _listening = network.transport(me("server")).listen("server", Arc::new(Echo)).await?;
//! let connection = network.transport(me("client")).connect("server").await?;
//! let reply = connection.call(&CallContext::default(), Method(1), Message::of_head("hi".into())).await?;
//! assert_eq!(&reply.head[..], b"hi");
//! # Ok::<(), NetError>(()) }).unwrap();
//! ```
//!
//! Invariants: no call without a proven peer; every length is checked before it is allocated;
//! every handler task is tracked, limited, and ended with its connection; one certificate, and one
//! address, has its share of connections and no more; nothing is read from a
//! stream faster than it is polled, but for a bounded window.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

mod bulk;
mod call;
mod door;
mod frame;
pub mod identity;
pub mod memory;
mod mux;
mod outbox;
pub mod quic;
mod socket;
pub mod tcp;

pub use call::MESSAGE_HEAD_BYTES_MAX;
