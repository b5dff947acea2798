//! The chunk store: reads, chained writes, syncs and control of chunks at versions.

use crate::{
    capability::Capability,
    context::CallContext,
    error::ChunkError,
    ids::*,
    limits::{FRAME_BYTES_MAX, PIECE_BYTES_MAX},
    meta::{ChunkReport, Replica},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

/// A run of bytes of one chunk with their checksums.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What it says of its data.
    pub head: FrameHead,
    /// At most 1 MiB; empty for a hole.
    pub data: Bytes,
}

/// What a frame says of its data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrameHead {
    /// Rising by 1 per (session, chunk) in writes; 0 in reads.
    pub number: WriteNumber,
    /// Position in the chunk.
    pub at: Offset,
    /// One checksum for each block touched ([`crate::checksum::frame_crcs`]).
    pub crcs: Vec<u32>,
    /// Bytes of zeros that the frame stands for; then data and checksums are empty. Reads only.
    pub hole: u64,
}

/// Frames in order; the first error is the last item.
pub type Frames = BoxStream<'static, Result<Frame, ChunkError>>;

/// All writes up to a number are in memory at every member of the chain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ack {
    /// The last write it covers.
    pub upto: WriteNumber,
    /// Who has them, in chain order, by which incarnation.
    pub members: Vec<(ServerId, Incarnation)>,
}

/// Who acknowledged writes that are not synced: at which version of the chunk, by which start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Acknowledged {
    /// Of the chunk, then.
    pub version: ChunkVersion,
    /// Who.
    pub server: ServerId,
    /// Its start: a later one does not stand for it.
    pub incarnation: Incarnation,
}

/// Acknowledgements in order; the first error is the last item.
pub type Acks = BoxStream<'static, Result<Ack, ChunkError>>;

/// Asks for bytes of a chunk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReadRequest {
    /// Which chunk at which version. Chunkservers get what is there with version 0, good or not: they compare.
    pub chunk: ChunkRef,
    /// Where from: a multiple of 4 KiB.
    pub at: Offset,
    /// How many bytes; the answer ends earlier where the chunk does.
    pub len: u64,
    /// The right to; chunkservers and masters need none.
    pub capability: Option<Capability>,
}

/// Opens a stream of writes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WriteRequest {
    /// Which chunk at which version.
    pub chunk: ChunkRef,
    /// The chain from the server that is asked on; it is the first itself.
    pub chain: Vec<Replica>,
    /// Which starts of servers may make the chunk where it is not there yet (an allocation that was never
    /// written): a server that has lost it since does not begin anew.
    pub makers: Vec<(ServerId, Incarnation)>,
    /// The start of the chain's head, named to those behind it; clients leave it out.
    pub head: Option<(ServerId, Incarnation)>,
    /// Whose writes these are; the numbers of the frames belong to it.
    pub session: SessionStamp,
    /// The right to; the servers before in the chain need none.
    pub capability: Option<Capability>,
}

/// Asks that all acknowledged writes be on disk at every member of the chain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncRequest {
    /// Which chunk at which version.
    pub chunk: ChunkRef,
    /// The chain from the server that is asked on.
    pub chain: Vec<Replica>,
    /// By whom the writes since the last good sync were acknowledged.
    pub acknowledged_by: Vec<Acknowledged>,
    /// Whose.
    pub session: SessionStamp,
    /// The right to.
    pub capability: Option<Capability>,
}

/// A sync's receipt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncDone {
    /// Who has all of it on disk.
    pub on_disk: Vec<ServerId>,
}

/// Commands of the leading master (and of chunkservers among themselves: `Stat`, `Table`, `Numbers`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Control {
    /// What is here of a chunk.
    Stat {
        /// Which.
        chunk: ChunkId,
    },
    /// Waits until admitted writes are done, then makes the version and set durable. Writes at
    /// older versions are refused from then on, also the first one to a chunk that `create` made.
    /// Idempotent.
    SetVersion {
        /// Which.
        chunk: ChunkId,
        /// Its new version.
        to: ChunkVersion,
        /// Its members at that version.
        members: Vec<ServerId>,
        /// Cut it to this many bytes.
        cut_to: Option<u64>,
        /// Make it, empty, where it is not there: nothing was ever written to it.
        create: bool,
        /// A suspect becomes good with this version, as it is: no member has anything better.
        settle: bool,
        /// The leader's term.
        term: Term,
    },
    /// Makes the replica here equal to the first of `from` at `version`: compares checksum tables,
    /// copies what differs (all of it when there is none here), makes it durable and good. Done already, it is
    /// answered as it is.
    Pull {
        /// Which, at the version it gets.
        chunk: ChunkRef,
        /// Sources: the one that counts, then others that may have blocks that are damaged there.
        from: Vec<Replica>,
        /// Ahead of the bump that makes this server a member: `chunk` is open and may be written meanwhile. What
        /// is copied has no version, is not served and is no replica; the pull of the bump copies what it lacks.
        /// Refused where the chunk is at this version or above; ends when anything else is asked of the chunk.
        ahead: bool,
        /// The open version, when this server is a member of it: what is here at that version or above has all
        /// that was ever synced. It is not changed before all that it lacks has come, and stays where no source has
        /// a block.
        member_of: Option<ChunkVersion>,
        /// The leader's term.
        term: Term,
    },
    /// Removes a replica at this version or below. Idempotent.
    Delete {
        /// Which.
        chunk: ChunkRef,
        /// The leader's term.
        term: Term,
    },
    /// The checksum table, for comparison.
    Table {
        /// Which at which version.
        chunk: ChunkRef,
    },
    /// Refuses this session's older epochs from now on; answers when what was admitted is done.
    Fence {
        /// The epoch that is in force.
        session: SessionStamp,
        /// The leader's term.
        term: Term,
    },
    /// The last write of each session that this server remembers.
    Numbers {
        /// Of which chunk at which version.
        chunk: ChunkRef,
        /// The start of the chain's head that asks: what an earlier one sent on is refused from now on.
        head: Option<(ServerId, Incarnation)>,
    },
}

/// Answers to [`Control`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ControlReply {
    /// Of commands.
    Done(ChunkStat),
    /// Of those that leave nothing to tell.
    Gone,
    /// Of [`Control::Table`].
    Table(ChecksumTable),
    /// Of [`Control::Numbers`].
    Numbers(Vec<(SessionId, WriteNumber)>),
}

/// What a chunkserver has of a chunk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkStat {
    /// Version, length, state.
    pub report: ChunkReport,
    /// Which server.
    pub server: ServerId,
    /// By which start.
    pub incarnation: Incarnation,
    /// Whether there are writes that are not on disk.
    pub dirty: bool,
}

/// Checksums of a chunk's blocks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChecksumTable {
    /// Bytes of the chunk.
    pub length: u64,
    /// One for each block up to the length; `None` is a hole.
    pub blocks: Vec<Option<u32>>,
}

/// One page of a store's chunks, in id order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkPage {
    /// The chunks.
    pub chunks: Vec<ChunkReport>,
    /// Whether the list ends here.
    pub last: bool,
}

/// Chunks, local or remote. Implemented by disks, memory, and the stub in [`crate::rpc`].
#[async_trait]
pub trait ChunkStore: Send + Sync + 'static {
    /// Reads whole blocks.
    ///
    /// Promise: every byte was verified against its checksum; a range in frames of at most 1 MiB,
    /// in order. Damage ends the stream with [`ChunkError::Damaged`]. A read of no bytes is answered at
    /// once, and tells only that the server answers.
    /// Cancellation: drop the stream.
    async fn read(&self, cx: &CallContext, req: ReadRequest) -> Result<Frames, ChunkError>;

    /// Writes frames in order, forwarding them along the chain.
    ///
    /// Promise: an acknowledged frame is in memory at every member, under this version.
    /// Ordering: by write number, without gaps; repeats are acknowledged and not applied again.
    /// Cancellation: dropping the acknowledgements ends the stream; what was admitted is completed.
    async fn write(&self, cx: &CallContext, req: WriteRequest, frames: Frames) -> Result<Acks, ChunkError>;

    /// Makes acknowledged writes durable at every member.
    ///
    /// Promise: on `Ok` all writes acknowledged before are on the disks of `on_disk`.
    /// Idempotent. Errors: [`ChunkError::Lost`] when a member restarted since. Of what was acknowledged at a version
    /// before, when the head did, or has been made equal to another since: to the head all others were.
    async fn sync(&self, cx: &CallContext, req: SyncRequest) -> Result<SyncDone, ChunkError>;

    /// Carries out a command. Each is idempotent; those with a term are refused below the highest
    /// term seen.
    async fn control(&self, cx: &CallContext, op: Control) -> Result<ControlReply, ChunkError>;

    /// Chunks after `after`, at most `max`.
    async fn list(&self, cx: &CallContext, after: Option<ChunkId>, max: u32)
    -> Result<ChunkPage, ChunkError>;
}

const _: () = assert!(FRAME_BYTES_MAX <= PIECE_BYTES_MAX, "a frame fits a piece");
