//! Stubs and dispatchers of the services over any connection: futures only, no runtime.
//!
//! A remote service is `RemoteMeta::new(connection)`; a server is `listen(addr, MetaHandler::new(service))`.
//! Service errors travel inside the reply's head; streams end with a terminal status piece.

mod chunk;
mod meta;
mod refusals;

pub use chunk::{ChunkHandler, RemoteChunks};
pub use meta::{MetaHandler, RemoteMeta, code_of_reply, op_of_call};
pub use refusals::Refusals;

use crate::{error::NetError, net::Role};

/// Method numbers. Raft's are 0x0100 to 0x01ff and known to the masters only.
pub mod method {
    use crate::net::Method;
    /// [`crate::meta::MetadataService::call`].
    pub const META_CALL: Method = Method(1);
    /// [`crate::meta::MetadataService::events`].
    pub const META_EVENTS: Method = Method(2);
    /// [`crate::chunk::ChunkStore::read`].
    pub const CHUNK_READ: Method = Method(16);
    /// [`crate::chunk::ChunkStore::write`].
    pub const CHUNK_WRITE: Method = Method(17);
    /// [`crate::chunk::ChunkStore::sync`].
    pub const CHUNK_SYNC: Method = Method(18);
    /// [`crate::chunk::ChunkStore::control`].
    pub const CHUNK_CONTROL: Method = Method(19);
    /// [`crate::chunk::ChunkStore::list`].
    pub const CHUNK_LIST: Method = Method(20);
    /// A [`crate::ids::TraceId`], answered with the [`crate::trace::SpanRecord`]s that a node has of it: by what
    /// is around the services of a daemon.
    pub const TRACE: Method = Method(32);
}

pub(crate) fn need_role(what: &str, got: Role, allowed: &[Role]) -> Result<(), NetError> {
    if allowed.contains(&got) {
        return Ok(());
    }
    Err(NetError::Refused { cause: format!("{what} is not allowed to a {got}") })
}
