//! Keys: big-endian numbers, so that byte order is number order. Pure.

use mooseng_core::{
    ids::{ChunkIndex, InodeId, SessionId, SlotId},
    meta::DirCookie,
};

/// Key of one number.
pub fn key(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

/// Key of two numbers.
pub fn key2(a: u64, b: u64) -> [u8; 16] {
    let mut k = [0; 16];
    k[..8].copy_from_slice(&a.to_be_bytes());
    k[8..].copy_from_slice(&b.to_be_bytes());
    k
}

/// Key of an inode and a name: directory entries and extended attributes.
pub fn named(inode: InodeId, name: &[u8]) -> Vec<u8> {
    let mut k = Vec::with_capacity(8 + name.len());
    k.extend_from_slice(&inode.get().to_be_bytes());
    k.extend_from_slice(name);
    k
}

/// Key of a chunk's place in a file.
pub fn map_key(inode: InodeId, index: ChunkIndex) -> [u8; 16] {
    key2(inode.get(), index.get())
}

/// Key of an entry's place in its directory.
pub fn order_key(dir: InodeId, cookie: DirCookie) -> [u8; 16] {
    key2(dir.get(), cookie.0)
}

/// Key of a slot.
pub fn slot_key(session: SessionId, slot: SlotId) -> [u8; 10] {
    let mut k = [0; 10];
    k[..8].copy_from_slice(&session.get().to_be_bytes());
    k[8..].copy_from_slice(&slot.get().to_be_bytes());
    k
}

/// The number at the start of a key (0 for a short one).
pub fn number(k: &[u8]) -> u64 {
    k.first_chunk().map_or(0, |b| u64::from_be_bytes(*b))
}

/// The second number of a key of two.
pub fn second(k: &[u8]) -> u64 {
    k.get(8..).map_or(0, number)
}

/// From the first key of a number's range to the first of the next one's.
pub fn range_of(n: u64) -> ([u8; 8], [u8; 8]) {
    (key(n), key(n.saturating_add(1)))
}
