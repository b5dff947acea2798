//! What requests and replies carry. Pure.

use crate::{
    attr::{Attr, FileKind},
    capability::{Capability, PublicKey},
    ids::*,
    name::Name,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Position in a directory: entries come in the order of their cookies, 0 is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct DirCookie(pub u64);

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirEntry {
    /// Its name.
    pub name: Name,
    /// What it names.
    pub inode: InodeId,
    /// Of which kind.
    pub kind: FileKind,
    /// Where to go on after it. Rises by creation order within its directory, below 2^63.
    pub cookie: DirCookie,
    /// Attributes, when asked for.
    pub attr: Option<Attr>,
}

/// One page of a directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirPage {
    /// Entries in cookie order.
    pub entries: Vec<DirEntry>,
    /// Whether the directory ends here.
    pub eof: bool,
    /// The directory's parent (the root's is itself).
    pub parent: InodeId,
}

/// Space and inodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FsStat {
    /// Bytes of all disks, raw.
    pub total_bytes: u64,
    /// Free bytes of all disks, raw.
    pub free_bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Bytes of all files (sizes, not copies).
    pub used_bytes: u64,
}

/// Recursive totals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Inodes below, and the directory itself.
    pub inodes: u64,
    /// Of them directories.
    pub dirs: u64,
    /// Sum of the sizes of regular files and symbolic links; an inode with several links counts
    /// where its first one is.
    pub bytes: u64,
}

/// Placement policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct StorageClass {
    /// Copies of each chunk, 1 to 9.
    pub copies: u8,
}

impl Default for StorageClass {
    fn default() -> Self {
        Self { copies: 2 }
    }
}

/// One replica's place.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Replica {
    /// Which chunkserver.
    pub server: ServerId,
    /// Where it answers.
    pub addr: String,
}

/// One chunk's place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkPlace {
    /// Position in the file.
    pub index: ChunkIndex,
    /// Id and version.
    pub chunk: ChunkRef,
    /// Replicas in chain order; the first is the head.
    pub chain: Vec<Replica>,
    /// Nothing was ever committed to it: these starts of chunkservers make it with the first write. Empty
    /// once something was.
    pub makers: Vec<(ServerId, Incarnation)>,
    /// Whether there are enough of them for an fsync.
    pub copies: Copies,
}

/// Whether as many servers have a chunk as an fsync wants: two, where the file is to have as many copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Copies {
    /// As many, or more.
    Enough,
    /// Fewer, and another copy is being made. Answered to writers only.
    Joining,
    /// Fewer, and no server can take another.
    Alone,
}

impl ChunkPlace {
    /// Whether nothing was ever committed to it.
    pub fn is_fresh(&self) -> bool {
        !self.makers.is_empty()
    }
}

/// Where a file's content is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Layout {
    /// Attributes at the same moment.
    pub attr: Attr,
    /// The inode's truncate counter.
    pub truncates: TruncateCounter,
    /// Content inside the inode: all of it, whatever chunks there are.
    pub inline: Option<Bytes>,
    /// Chunks in order; what lies between is a hole.
    pub chunks: Vec<ChunkPlace>,
    /// The right to touch them.
    pub capability: Option<Capability>,
}

/// Answer to an open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Opened {
    /// Attributes, content or places of the first chunks.
    pub layout: Layout,
}

/// Answer to a create.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Created {
    /// Attributes, after a truncation when one was asked for.
    pub attr: Attr,
    /// Whether it was made just now.
    pub created: bool,
    /// The inode's truncate counter.
    pub truncates: TruncateCounter,
    /// Content inside the inode.
    pub inline: Option<Bytes>,
    /// Whether it has chunks (then a layout is to be read before its content).
    pub has_chunks: bool,
}

/// Answer to unlink and rmdir.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Removed {
    /// What the name named.
    pub inode: InodeId,
    /// Links left.
    pub links_left: u32,
}

/// Answer to rename.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Renamed {
    /// What moved.
    pub inode: InodeId,
    /// What was replaced, or exchanged.
    pub other: Option<Removed>,
}

/// What rename does with an existing target.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// Refuses with EEXIST.
    NoReplace,
    /// Swaps the two.
    Exchange,
}

/// What setting an extended attribute does with an existing one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum XattrMode {
    /// Sets it either way.
    Set,
    /// EEXIST when there is one.
    Create,
    /// ENODATA when there is none.
    Replace,
}

/// Answer to opening a session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionOpened {
    /// The session and its epoch.
    pub stamp: SessionStamp,
    /// Slots: mutations in flight at most.
    pub slots: u16,
    /// Seconds without contact after which it may be expired.
    pub lifetime_secs: u64,
    /// The leader's term: a change means re-asserting.
    pub term: Term,
}

/// Answer to a keep-alive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeptAlive {
    /// The leader's term: a change means re-asserting.
    pub term: Term,
    /// The epoch in force.
    pub epoch: SessionEpoch,
}

/// What ids are for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum IdKind {
    /// Inodes.
    Inode,
    /// Chunks.
    Chunk,
}

/// Ids `first..first + count`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct IdRange {
    /// What for.
    pub kind: IdKind,
    /// First id.
    pub first: u64,
    /// How many.
    pub count: u32,
}

/// State of one disk of a chunkserver.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskReport {
    /// Which.
    pub disk: DiskId,
    /// Its directory, for people.
    pub path: String,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes free for chunks, reserve taken off.
    pub free_bytes: u64,
    /// Chunks on it.
    pub chunks: u64,
    /// I/O errors since the chunkserver's start.
    pub errors: u64,
    /// Why it was set aside, when it was: after some of them.
    pub error: Option<String>,
    /// It is being emptied, as the masters ordered: it takes no new chunks.
    pub drains: bool,
}

/// What the masters tell a chunkserver.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServerOrders {
    /// The leader's term: commands below it are refused.
    pub term: Term,
    /// Public keys in force.
    pub keys: Vec<PublicKey>,
    /// All sessions that live, with the epochs in force.
    pub sessions: Vec<SessionStamp>,
    /// Sessions from this one on were opened after these orders; one below it that is not named has
    /// ended.
    pub next_session: SessionId,
    /// The leader does not know this incarnation's chunks yet: report them.
    pub want_report: bool,
    /// Its disks that are to be emptied.
    pub drains: Vec<DiskId>,
}

/// State of one replica at a chunkserver.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum ReplicaState {
    /// Can be served.
    Good,
    /// Was dirty at an unclean stop.
    Suspect,
    /// Has damaged blocks.
    Damaged,
    /// Good, on a disk that was set aside after errors, or that is being emptied: it is a source as long as it
    /// can be read, and does not count.
    Leaving,
}

/// One chunk as a chunkserver has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkReport {
    /// Id and version.
    pub chunk: ChunkRef,
    /// Bytes.
    pub length: u64,
    /// State.
    pub state: ReplicaState,
}
