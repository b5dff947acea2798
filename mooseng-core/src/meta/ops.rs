//! The table of operations: request, reply and typed method of each, one row apiece. Pure.
//! Variants are only ever added at the end; structs never change (DESIGN §6).

use super::{types::*, *};
use crate::{
    attr::{Access, Attr, FileKind, SetAttr, Timestamp},
    ids::*,
    join::{Invite, TokenId},
    name::Name,
};
use bytes::Bytes;

macro_rules! meta_ops {
    ($( $(#[$doc:meta])* $kind:ident $op:ident { $($(#[$fdoc:meta])* $f:ident : $t:ty),* $(,)? } -> $reply:ty, fn $m:ident; )*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
            #[allow(missing_docs, reason = "the table's line tells what each field is")]
            pub struct $op { $( $(#[$fdoc])* pub $f: $t),* }
            impl From<$op> for MetaRequest { fn from(o: $op) -> Self { Self::$op(o) } }
            impl MetaOp for $op {
                const NAME: &'static str = stringify!($op);
                const KIND: OpKind = OpKind::$kind;
                type Reply = $reply;
                fn from_reply(r: MetaReply) -> Result<$reply, MetaReply> {
                    match r { MetaReply::$op(v) => Ok(v), other => Err(other) }
                }
                fn into_reply(r: $reply) -> MetaReply { MetaReply::$op(r) }
            }
        )*
        /// Every request.
        #[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
        pub enum MetaRequest { $( $(#[$doc])* $op($op) ),* }
        /// Every reply, by the name of its request.
        #[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
        pub enum MetaReply { $( #[doc = concat!("Answers [`", stringify!($op), "`].")] $op($reply) ),* }
        impl MetaRequest {
            /// The operation's name.
            pub const fn name(&self) -> &'static str { match self { $(Self::$op(_) => stringify!($op)),* } }
            /// The operation's kind.
            pub const fn kind(&self) -> OpKind { match self { $(Self::$op(_) => OpKind::$kind),* } }
            /// The operation's place in [`OP_NAMES`].
            pub const fn number(&self) -> usize {
                enum Place { $($op),* }
                match self { $(Self::$op(_) => Place::$op as usize),* }
            }
        }
        impl MetaReply {
            /// The operation's name.
            pub const fn name(&self) -> &'static str { match self { $(Self::$op(_) => stringify!($op)),* } }
        }
        /// Typed calls on any metadata service.
        #[async_trait]
        pub trait MetadataExt: MetadataService {
            $( $(#[$doc])* async fn $m(&self, cx: &CallContext, op: $op) -> Result<$reply, MetaError> { ask(self, cx, op).await } )*
        }
        /// Names of all operations, in wire order.
        pub const OP_NAMES: &[&str] = &[$(stringify!($op)),*];
        /// Kinds of all operations, in the same order.
        pub const OP_KINDS: &[OpKind] = &[$(OpKind::$kind),*];
    };
}

impl<T: MetadataService + ?Sized> MetadataExt for T {}

meta_ops! {
    /// The entry of a name. Wants search permission on the directory.
    FsRead Lookup { parent: InodeId, name: Name } -> Attr, fn lookup;
    /// Attributes of an inode.
    FsRead GetAttr { inode: InodeId } -> Attr, fn getattr;
    /// Whether the caller has these rights: EACCES when not.
    FsRead CheckAccess { inode: InodeId, access: Access } -> (), fn check_access;
    /// One page of a directory in cookie order. Cookies stay valid while entries come and go.
    FsRead ReadDir { inode: InodeId, after: DirCookie, max_entries: u32, with_attrs: bool } -> DirPage, fn read_dir;
    /// The target of a symbolic link.
    FsRead ReadLink { inode: InodeId } -> Bytes, fn read_link;
    /// Value of an extended attribute; ENODATA without one.
    FsRead GetXattr { inode: InodeId, name: Bytes } -> Bytes, fn get_xattr;
    /// Names of the extended attributes.
    FsRead ListXattrs { inode: InodeId } -> Vec<Bytes>, fn list_xattrs;
    /// Space and inodes of the filesystem.
    FsRead StatFs {} -> FsStat, fn stat_fs;
    /// Where chunks `from..from + count` are, for reading. At most 64 chunks.
    FsRead GetLayout { inode: InodeId, from: ChunkIndex, count: u32 } -> Layout, fn get_layout;
    /// Recursive totals of a directory (of a file: itself).
    FsRead GetTotals { inode: InodeId } -> Totals, fn get_totals;
    /// Opens a file for the session: checks rights; the inode outlives its last link until released.
    /// A session has an inode open or has not: rights add up, a repeat does nothing.
    FsRead Open { inode: InodeId, access: Access, layout_chunks: u32 } -> Opened, fn open;

    /// Changes attributes; a smaller size cuts the file, a larger one makes a hole.
    FsWrite SetAttrs { inode: InodeId, set: SetAttr } -> Attr, fn set_attrs;
    /// Makes a regular file, and opens it when `open` is not 0. Without `exclusive` an existing one is opened.
    FsWrite Create { parent: InodeId, name: Name, mode: u32, exclusive: bool, open: Access, truncate: bool, id: Option<InodeId> } -> Created, fn create;
    /// Makes a directory.
    FsWrite MkDir { parent: InodeId, name: Name, mode: u32, id: Option<InodeId> } -> Attr, fn mkdir;
    /// Makes a pipe, socket, device node or regular file.
    FsWrite MkNod { parent: InodeId, name: Name, mode: u32, kind: FileKind, rdev: u32, id: Option<InodeId> } -> Attr, fn mknod;
    /// Makes a symbolic link of 1 to 4,095 bytes.
    FsWrite SymLink { parent: InodeId, name: Name, target: Bytes, id: Option<InodeId> } -> Attr, fn symlink;
    /// Adds a link to a file.
    FsWrite Link { inode: InodeId, parent: InodeId, name: Name } -> Attr, fn link;
    /// Removes a name that is not a directory's.
    FsWrite Unlink { parent: InodeId, name: Name } -> Removed, fn unlink;
    /// Removes an empty directory.
    FsWrite RmDir { parent: InodeId, name: Name } -> Removed, fn rmdir;
    /// Renames, replacing, refusing to replace, or exchanging.
    FsWrite Rename { parent: InodeId, name: Name, new_parent: InodeId, new_name: Name, mode: RenameMode } -> Renamed, fn rename;
    /// Sets an extended attribute.
    FsWrite SetXattr { inode: InodeId, name: Bytes, value: Bytes, mode: XattrMode } -> (), fn set_xattr;
    /// Removes an extended attribute; ENODATA without one.
    FsWrite RemoveXattr { inode: InodeId, name: Bytes } -> (), fn remove_xattr;
    /// Makes chunks `from..from + count` exist (those that do keep their ids) and answers where to
    /// write them. `truncates` must be the inode's. Inline data stays where it is, and does not change any
    /// more, until chunk 0 has it: the answer carries it, and the session that allocated chunk 0 writes
    /// it there, syncs it and commits it with `drop_inline` before anything else. Another session gets
    /// Busy meanwhile, and another chunk 0 when that takes too long.
    FsWrite Allocate { inode: InodeId, truncates: TruncateCounter, from: ChunkIndex, count: u32 } -> Layout, fn allocate;
    /// Raises the size to at least `size` and sets the times of a write, after the chunks named took
    /// the data. Refused with LayoutStale when a chunk or the truncate counter moved on, and while there
    /// is inline data: that is dropped by a commit of chunk 0 with `drop_inline`, by the session that
    /// moved it there.
    FsWrite CommitWrite { inode: InodeId, truncates: TruncateCounter, size: u64, chunks: Vec<(ChunkIndex, ChunkRef)>, drop_inline: bool } -> Attr, fn commit_write;
    /// Writes parts of the content of a file without chunks inside the inode: in order, none touching
    /// the next; what is between the old end and a part is zeros. Refused with LayoutStale when the
    /// file has chunks, or would have more than 8 KiB.
    FsWrite WriteInline { inode: InodeId, truncates: TruncateCounter, parts: Vec<(Offset, Bytes)> } -> Attr, fn write_inline;
    /// Sets the storage class of a file (for chunks to come) or a directory (for what is made in it).
    FsWrite SetClass { inode: InodeId, class: StorageClass } -> (), fn set_class;
    /// Runs mutations in order and stops at the first failure; one log entry. `after` names the sequence
    /// of the batch that must have been carried out whole before, as the last of the same slot. Elements are encoded [`MetaRequest`]s
    /// (not batches), answers encoded `Result<MetaReply, MetaError>`s: one level, by construction.
    FsWrite Batch { after: Option<SlotSeq>, ops: Vec<Bytes> } -> Vec<Bytes>, fn batch;

    /// Opens a session; the connection's certificate is bound to it.
    Session OpenSession { client: String, host: String, version: String } -> SessionOpened, fn open_session;
    /// Keeps the session alive.
    Session KeepAlive {} -> KeptAlive, fn keep_alive;
    /// Tells a new leader what this session has open, with which rights.
    Session Reassert { opens: Vec<(InodeId, Access)> } -> (), fn reassert;
    /// Ends all opens of an inode by the session: it was closed for the last time. A repeat does nothing.
    Session Release { inode: InodeId } -> (), fn release;
    /// Ends the session and all it holds.
    Session CloseSession {} -> (), fn close_session;
    /// Grants a range of ids.
    Session GrantIds { kind: IdKind, count: u32 } -> IdRange, fn grant_ids;
    /// Says that a replica failed the session; the leader looks, and changes the set if it agrees.
    /// Answers once the layout can be read again. `full`: its disk has no room for a write, and another
    /// server with room takes its place, if there is one.
    Session ReportReplica { inode: InodeId, index: ChunkIndex, chunk: ChunkRef, server: ServerId, problem: String, full: bool } -> (), fn report_replica;

    /// A chunkserver started or came back.
    Server Register { server: ServerId, incarnation: Incarnation, addr: String, disks: Vec<DiskReport>, version: String } -> ServerOrders, fn register;
    /// A chunkserver lives, and has this time of day, by which it judges rights. `broken` are chunks that it
    /// heads and whose chain failed with frames under way, so that the replicas may differ until the next version.
    Server Heartbeat { server: ServerId, incarnation: Incarnation, clock: Timestamp, disks: Vec<DiskReport>, damaged: Vec<ChunkRef>, broken: Vec<ChunkRef> } -> ServerOrders, fn heartbeat;
    /// One page of what a chunkserver has, in id order; `last` ends the report.
    Server Report { server: ServerId, incarnation: Incarnation, after: Option<ChunkId>, chunks: Vec<ChunkReport>, last: bool } -> (), fn report;

    /// State of the cluster.
    Look GetStatus {} -> ClusterStatus, fn get_status;
    /// Chunks of a file with their replicas.
    Look GetChunks { inode: InodeId, from: ChunkIndex, count: u32 } -> Vec<ChunkInfo>, fn get_chunks;
    /// Open sessions.
    Look ListSessions {} -> Vec<SessionInfo>, fn list_sessions;

    /// Adds a master: it is filled first, then votes.
    Admin AddMaster { id: MasterId, raft_addr: String, client_addr: String } -> (), fn add_master;
    /// Removes a master.
    Admin RemoveMaster { id: MasterId } -> (), fn remove_master;
    /// Hands leadership over.
    Admin TransferLeadership { to: MasterId } -> (), fn transfer_leadership;
    /// Makes a one-time token with which a node joins. The caller drew its key and keeps the secret. A
    /// repeat answers the same; `replace` lets it take the place of who has the number or name.
    Admin CreateToken { token: TokenId, invite: Invite, lifetime_secs: u64, validity_secs: u64, replace: bool } -> CreatedToken, fn create_token;

    /// Sets the size through a handle: the session has the file open for writing, whatever the
    /// permission bits say now. Otherwise as [`SetAttrs`] does.
    FsWrite Truncate { inode: InodeId, size: u64 } -> Attr, fn truncate;

    /// What the leader looks after besides the chunks' records: copies that no record names.
    Look GetCare {} -> Care, fn get_care;
    /// An operator's word that the copies that wait at a chunkserver now may be removed, however many they
    /// are; how many that is. Those in quarantine stay for their time all the same.
    Admin AllowRemovals { server: ServerId } -> u64, fn allow_removals;

    /// How a chunkserver's scrubs stand, and what it has served. The answer tells when a round was last asked
    /// for (each asking is answered by one round), and what is left of a drain.
    Server TellScrub { server: ServerId, incarnation: Incarnation, disks: Vec<DiskScrub>, served: Served } -> ToldServer, fn tell_scrub;
    /// How the scrubs of all chunkservers stand.
    Look GetScrub {} -> Vec<ServerScrub>, fn get_scrub;
    /// Asks every chunkserver for a round now, faster than usual; when that was, by the leader's clock.
    Admin ScrubNow {} -> Timestamp, fn scrub_now;

    /// Compares records with what chunkservers have, from a chunk on, some `count` chunks of each. What
    /// seems wrong is asked again before it is told.
    Look CheckChunks { from: ChunkId, count: u32 } -> ChunkCheck, fn check_chunks;

    /// Empties a chunkserver: it gets no new copies, and its own are made elsewhere first and then removed;
    /// or takes that back. A repeat does nothing.
    Admin Drain { server: ServerId, on: bool } -> (), fn drain;

    /// The same with one disk of a chunkserver: its copies are made at others, or, where none has room, on
    /// another disk of the same. Refused when there is nowhere that they could be.
    Admin DrainDisk { server: ServerId, disk: DiskId, on: bool } -> (), fn drain_disk;

    /// What the leader has seen since its election, from a place on, at most `count` events (1,024 at a time).
    /// Without a place, or with one of another leader: from the oldest that it has not forgotten.
    Look ListEvents { after: Option<EventMark>, count: u32 } -> EventPage, fn list_events;
    /// All chunks, by how many copies they want and have.
    Look GetChunkMatrix {} -> ChunkMatrix, fn get_chunk_matrix;
    /// Chunks that want and have so many copies, from a chunk on, at most `count` (64 at a time). A page looks at
    /// so many records only, and may be empty with more behind.
    Look ListCell { wanted: u8, copies: u8, from: ChunkId, count: u32 } -> CellPage, fn list_cell;
    /// Calls that the leader answered since its election, by operation.
    Look GetOpCounts {} -> OpCounts, fn get_op_counts;
    /// What each chunkserver has served since its start, as it last told; those that told this leader.
    Look GetLoad {} -> Vec<ServerLoad>, fn get_load;

    /// What a master knows of the masters by itself: each one answers, whether there is a leader or not.
    Look GetMaster {} -> MasterView, fn get_master;
}
