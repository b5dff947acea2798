//! Every limit by name, with its reason. Pure.

/// Bytes of a checksummed block: the page size, so that aligned page writes never read-modify-write.
pub const BLOCK_BYTES: u64 = 4096;
/// Bytes of a chunk at most. 64 MiB keeps a map of 1 TiB at 16 Ki entries and a repair copy short.
pub const CHUNK_BYTES: u64 = 64 << 20;
/// Blocks of a chunk.
pub const CHUNK_BLOCKS: u64 = CHUNK_BYTES / BLOCK_BYTES;
/// Largest file: 2^62 bytes; past it is EFBIG. Leaves room for sums of offsets in an i64 and a u64.
pub const FILE_BYTES_MAX: u64 = 1 << 62;
/// Bytes of a name (POSIX NAME_MAX).
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of a symbolic link's target (PATH_MAX without its NUL).
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Bytes of an extended attribute's name (Linux XATTR_NAME_MAX).
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Bytes of an extended attribute's value (Linux XATTR_SIZE_MAX).
pub const XATTR_VALUE_BYTES_MAX: usize = 65536;
/// Extended attributes of one inode: keeps a listing within one reply.
pub const XATTRS_MAX: usize = 256;
/// Bytes kept inside the inode instead of in a chunk.
pub const INLINE_BYTES_MAX: usize = 8192;
/// Parts of one inline write. Parts that do not touch have a byte between them: more do not fit.
pub const INLINE_PARTS_MAX: usize = INLINE_BYTES_MAX / 2;
/// Seconds that a session has to itself for moving inline data to a chunk: a write and a sync of
/// 8 KiB. After that another session begins anew.
pub const INLINE_MOVE_SECS: u64 = 5;
/// Links of one inode (ext4 has 65,000; a u32 leaves room).
pub const LINKS_MAX: u32 = 65_000;
/// Bytes of one data frame.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Blocks of one data frame; one more when the frame starts inside a block.
pub const FRAME_BLOCKS_MAX: usize = FRAME_BYTES_MAX / BLOCK_BYTES as usize + 1;
/// Frames of one write stream that were sent and not yet acknowledged.
pub const WRITE_WINDOW_FRAMES: usize = 16;
/// Bytes of a call's head. A directory page or a listing of replicas fits.
pub const HEAD_BYTES_MAX: usize = 4 << 20;
/// Bytes of a call's whole body (streams have their own limit per piece).
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// Bytes of the data of one piece of a stream.
pub const PIECE_BYTES_MAX: usize = 2 << 20;
/// Entries of one directory page.
pub const DIR_PAGE_ENTRIES_MAX: u32 = 4096;
/// Bytes of one directory page's names, about; attributes add some 100 bytes per entry.
pub const DIR_PAGE_BYTES_MAX: usize = 1 << 20;
/// Mutations of one batch.
pub const BATCH_MAX: usize = 1024;
/// Slots of one session: mutations in flight.
pub const SLOTS_MAX: u16 = 256;
/// Bytes of a saved reply; larger results are not mutations'.
pub const SAVED_REPLY_BYTES_MAX: usize = 4096;
/// Copies of a chunk.
pub const COPIES_MAX: u8 = 9;
/// (chunk, version) pairs of one capability.
pub const CAPABILITY_CHUNKS_MAX: usize = 64;
/// Chunks of one layout reply: what one capability covers.
pub const LAYOUT_CHUNKS_MAX: u32 = CAPABILITY_CHUNKS_MAX as u32;
/// Ids granted to a session at once.
pub const ID_RANGE_MAX: u32 = 65_536;
/// Supplementary groups of a caller (Linux NGROUPS_MAX is 65,536; NFS sends 16).
pub const GROUPS_MAX: usize = 1024;
/// Inodes that one recursive walk of a reply may touch.
pub const MASTERS_MAX: usize = 7;
/// Seconds without contact after which a session may be expired.
pub const SESSION_LIFETIME_SECS: u64 = 30;
/// Seconds a call may take unless its caller says otherwise.
pub const CALL_DEADLINE_SECS: u64 = 30;
/// Calls in flight on one connection; past it the transport holds back.
pub const CALLS_IN_FLIGHT_MAX: usize = 1024;
/// Chunks of one page of a chunkserver's report.
pub const REPORT_CHUNKS_MAX: usize = 8192;
/// Bytes of a node's name in its certificate.
pub const NODE_NAME_BYTES_MAX: usize = 64;
/// Bytes of a join token's text. One with seven masters of long names has some 2,500.
pub const TOKEN_TEXT_BYTES_MAX: usize = 4096;
/// Bytes of a join request. A signing request for a key of our kind has some 300.
pub const JOIN_BYTES_MAX: usize = 16 << 10;
/// Join tokens that have not expired, used ones too: what one look at them all may cost.
pub const TOKENS_MAX: usize = 4096;
/// Public keys that capabilities are verified with: each start of a master that leads makes one, and each
/// day. All of them are in every order to a chunkserver.
pub const KEYS_MAX: usize = 256;
/// Seconds that a join token may live: who finds one later finds nothing.
pub const TOKEN_LIFETIME_MAX_SECS: u64 = 7 * 86_400;
/// Seconds that a node's certificate may be valid: as long as a cluster's authority.
pub const CERT_VALIDITY_MAX_SECS: u64 = 20 * 365 * 86_400;
/// Bytes of a text that a client tells of itself or of a problem: it is kept or logged as it is.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Connections of one certificate at one listener. A client needs one; the programs of a machine may
/// share a certificate. Past it the newest is refused.
pub const PEER_CONNECTIONS_MAX: usize = 256;
/// Calls of one client, by its certificate, in flight at one listener: four full connections.
pub const PEER_CALLS_MAX: usize = 4 * CALLS_IN_FLIGHT_MAX;
/// Of them those with a stream of their own or a streamed request: each may hold a window of some MiB here.
pub const PEER_STREAMS_MAX: usize = 1024;
/// Bytes of long whole requests of one client that are held at one listener while they arrive and are
/// answered: four of the longest. Past it the next is not read on.
pub const PEER_BYTES_MAX: usize = 4 * (HEAD_BYTES_MAX + BODY_BYTES_MAX);
/// Sessions of one certificate: more than the connections that it may have, for the sessions of programs that
/// ended without a word live on for a while.
pub const PEER_SESSIONS_MAX: usize = 1024;
/// Files that one session may have open. The leader keeps them in memory, some 100 bytes each.
pub const OPEN_FILES_MAX: usize = 1 << 18;
/// Connections of one listener whose handshake is under way: strangers cost that much at most, for
/// the 5 s that a handshake may take.
pub const HANDSHAKES_MAX: usize = 1024;
/// The same from one address, so that one machine does not take all of them.
pub const ADDRESS_HANDSHAKES_MAX: usize = 256;
