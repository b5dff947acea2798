//! Where the masters' state is: named tables of byte keys and byte values, behind one small
//! transaction trait. [`MemoryStore`] is a sorted map; [`RedbStore`] is redb over a [`Disk`] seam.
//!
//! [`Disk`]: mooseng_core::seam::Disk

mod keys;
mod memory;
mod record;
mod redb_backend;
mod redb_store;
mod snapshot;

pub use keys::*;
pub use memory::MemoryStore;
pub use record::*;
pub use redb_store::{RedbStore, RedbView};

use std::io;

/// The tables. Their order is their number on disk and in snapshots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Table {
    /// Single values by name: marks, counters, the clock.
    Meta = 0,
    /// Inode → [`InodeRec`].
    Inode = 1,
    /// Parent, name → [`EntryRec`].
    Entry = 2,
    /// Parent, cookie → name.
    Order = 3,
    /// Inode, chunk index → chunk id.
    Map = 4,
    /// Chunk id → [`ChunkRec`].
    Chunk = 5,
    /// Chunk id → [`DeletingRec`].
    Deleting = 6,
    /// Inode, name → value.
    Xattr = 7,
    /// Session → [`SessionRec`].
    Session = 8,
    /// Session, slot → [`SlotRec`].
    Slot = 9,
    /// Inode without links → [`OrphanRec`].
    Orphan = 10,
    /// Chunkserver → [`ServerRec`].
    Server = 11,
    /// Key id → [`KeyRec`].
    Key = 12,
    /// Public key of a join token → [`TokenRec`].
    Token = 13,
    /// Directory → recursive totals.
    Totals = 14,
    /// Session, first id → granted range.
    Range = 15,
    /// Chunk id of chunks that a bump or a cut is under way or wanted for.
    Busy = 16,
    /// Inode with several links, directory → how many names it has there.
    Link = 17,
    /// Chunkserver, ended session → the epoch that the chunkserver is to refuse everything below of.
    Unfenced = 18,
    /// Chunkserver that is being emptied → since when.
    Drain = 19,
    /// Chunkserver, disk of it that is being emptied → since when.
    DrainDisk = 20,
}

/// All tables in order.
pub const TABLES: [Table; 21] = [
    Table::Meta,
    Table::Inode,
    Table::Entry,
    Table::Order,
    Table::Map,
    Table::Chunk,
    Table::Deleting,
    Table::Xattr,
    Table::Session,
    Table::Slot,
    Table::Orphan,
    Table::Server,
    Table::Key,
    Table::Token,
    Table::Totals,
    Table::Range,
    Table::Busy,
    Table::Link,
    Table::Unfenced,
    Table::Drain,
    Table::DrainDisk,
];

/// Called for each row of a scan; `false` ends it.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> bool;

/// A consistent view of all tables.
pub trait View {
    /// The value of a key.
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Vec<u8>>>;
    /// Visits rows from `from` (inclusive) to `to` (exclusive; empty means the end), in key order.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> io::Result<()>;
}

/// A transaction: reads see its own writes.
pub trait Tx: View {
    /// Sets a key.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> io::Result<()>;
    /// Removes a key.
    fn delete(&mut self, table: Table, key: &[u8]) -> io::Result<()>;
}
