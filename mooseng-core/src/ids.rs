//! Strong ids and counters: two numbers never meet bare. Pure.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl $name {
            /// The bare number.
            pub const fn get(self) -> $inner { self.0 }
            /// The number after this one; saturates at the top.
            #[must_use]
            pub const fn next(self) -> Self { Self(self.0.saturating_add(1)) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!($prefix, "{}"), self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
    };
}

number! {
    /// An object of the namespace. Never reused.
    InodeId(u64), "i"
}
number! {
    /// Reuse counter of an inode id (always 0 while ids are never reused; on the wire from the start).
    Generation(u64), "g"
}
number! {
    /// One filesystem of a cluster. There is one now.
    FsId(u32), "fs"
}
number! {
    /// One chunk: up to 64 MiB of one file. Never reused.
    ChunkId(u64), "c"
}
number! {
    /// Fencing number of a chunk, raised when its replica set changes.
    ChunkVersion(u64), "v"
}
number! {
    /// Position of a chunk in its file, in units of [`crate::limits::CHUNK_BYTES`].
    ChunkIndex(u64), "#"
}
number! {
    /// A byte position, in a file or in a chunk as the context says.
    Offset(u64), "@"
}
number! {
    /// A client's registration with the masters.
    SessionId(u64), "s"
}
number! {
    /// Raised each time a session is fenced.
    SessionEpoch(u64), "e"
}
number! {
    /// A chunkserver.
    ServerId(u64), "cs"
}
number! {
    /// A master, and a Raft node.
    MasterId(u64), "m"
}
number! {
    /// A storage directory of a chunkserver.
    DiskId(u64), "d"
}
number! {
    /// One start of a chunkserver; a new one for each start.
    Incarnation(u64), "inc"
}
number! {
    /// Raft's term.
    Term(u64), "t"
}
number! {
    /// Commit position of the namespace (Raft's log index).
    Revision(u64), "r"
}
number! {
    /// Position in a session's stream of events.
    EventSeq(u64), "ev"
}
number! {
    /// Rising number of a writer's frames per (session, chunk).
    WriteNumber(u64), "w"
}
number! {
    /// Raised by every shrinking truncate of an inode; a size commit of an older one is refused.
    TruncateCounter(u64), "tr"
}
number! {
    /// One slot of a session: at most one mutation in flight.
    SlotId(u16), "slot"
}
number! {
    /// Number of a mutation within its slot; the next one is larger by 1.
    SlotSeq(u64), "q"
}
number! {
    /// Groups the log lines and spans of one call.
    TraceId(u64), "trace"
}
number! {
    /// One span of a trace.
    SpanId(u64), "span"
}

impl InodeId {
    /// The root directory.
    pub const ROOT: Self = Self(1);
}
impl ChunkVersion {
    /// The version of a chunk that was just allocated.
    pub const FIRST: Self = Self(1);
}

/// A cluster's identity (uuid v7), in every certificate and data directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub uuid::Uuid);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl std::str::FromStr for ClusterId {
    type Err = uuid::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Self)
    }
}

/// A chunk at a version: the fencing number cannot be forgotten.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ChunkRef {
    /// Which chunk.
    pub id: ChunkId,
    /// At which version.
    pub version: ChunkVersion,
}

/// A session at an epoch: what every request under a session carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SessionStamp {
    /// Which session.
    pub id: SessionId,
    /// At which epoch; an older one than the masters know is refused.
    pub epoch: SessionEpoch,
}

/// Names a mutation for exactly-once execution.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SlotStamp {
    /// Which slot.
    pub slot: SlotId,
    /// Which mutation of the slot.
    pub seq: SlotSeq,
}
