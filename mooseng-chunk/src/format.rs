//! The chunk file's bytes (`docs/format.md`). Pure.

use mooseng_core::{
    checksum::crc32c,
    ids::{ChunkId, ChunkVersion, ServerId, SessionId, WriteNumber},
    limits::{BLOCK_BYTES, CHUNK_BLOCKS, COPIES_MAX},
};

/// Bytes of a page.
pub const PAGE: usize = BLOCK_BYTES as usize;
/// Where the table begins.
pub const TABLE_AT: u64 = 2 * PAGE as u64;
/// Entries of a table page.
pub const ENTRIES: usize = 496;
/// Pages of a full table.
pub const TABLE_PAGES: usize = (CHUNK_BLOCKS as usize).div_ceil(ENTRIES);
/// Where the data begins.
pub const DATA_AT: u64 = 320 << 10;

const MAGIC: &[u8; 8] = b"MNGCHUNK";
const FORMAT: u32 = 1;
const BITS_AT: usize = 16;
const ENTRIES_AT: usize = 80;
const STAMP_AT: usize = ENTRIES_AT + 8 * ENTRIES;
const MEMBERS_AT: usize = 72;
const STAMPS_AT: usize = 1024;
const WRITTEN_AT: usize = 1536;
const WRITERS_AT: usize = 2048;
/// Sessions whose write numbers are remembered per chunk.
pub const WRITERS_MAX: usize = 127;

const _: () = assert!(TABLE_AT + (2 * TABLE_PAGES * PAGE) as u64 <= DATA_AT && STAMP_AT + 8 <= PAGE);
const _: () =
    assert!(MEMBERS_AT + 16 * COPIES_MAX as usize <= STAMPS_AT && STAMPS_AT + 8 * TABLE_PAGES <= WRITTEN_AT);
const _: () = assert!(WRITTEN_AT + 8 * TABLE_PAGES <= WRITERS_AT);
const _: () = assert!(WRITERS_AT + 8 + 16 * WRITERS_MAX <= PAGE);

/// Where one of the two slots of a table page is.
pub const fn page_at(number: usize, slot: usize) -> u64 {
    TABLE_AT + ((2 * number + slot) * PAGE) as u64
}

/// A chunk's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Rises with every header written.
    pub counter: u64,
    /// Which chunk.
    pub id: ChunkId,
    /// At which version.
    pub version: ChunkVersion,
    /// Bytes.
    pub length: u64,
    /// Bytes that were there at the last sync.
    pub synced: u64,
    /// Records of the disk's redo log up to this one need not be applied again: they are in the file.
    pub log_seq: u64,
    /// Members at this version.
    pub members: Vec<ServerId>,
    /// The stamps that the table's pages have at least, 0 for one that was never written. An older page
    /// is of a time before the last sync.
    pub stamps: [u64; TABLE_PAGES],
    /// The stamps of the table's pages that were written when this header was. A page with another one was
    /// written since, or what this header was flushed with did not all come through.
    pub written: [u64; TABLE_PAGES],
    /// The last write of each session, at most [`WRITERS_MAX`], that was there at the last sync.
    pub writers: Vec<(SessionId, WriteNumber)>,
}

pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    b.get(at..).and_then(|b| b.first_chunk()).map_or(0, |x| u64::from_le_bytes(*x))
}
pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..).and_then(|b| b.first_chunk()).map_or(0, |x| u32::from_le_bytes(*x))
}

impl Header {
    /// Its page.
    pub fn encode(&self) -> Vec<u8> {
        let mut p = vec![0; PAGE];
        p[..8].copy_from_slice(MAGIC);
        p[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        let numbers =
            [self.counter, self.id.get(), self.version.get(), self.length, self.synced, self.log_seq];
        for (i, n) in numbers.iter().chain([&(self.members.len() as u64)]).enumerate() {
            p[16 + 8 * i..24 + 8 * i].copy_from_slice(&n.to_le_bytes());
        }
        for (i, m) in self.members.iter().enumerate() {
            let at = MEMBERS_AT + 8 * i;
            p[at..at + 8].copy_from_slice(&m.get().to_le_bytes());
        }
        for (stamps, at) in [(&self.stamps, STAMPS_AT), (&self.written, WRITTEN_AT)] {
            p[at..at + 8 * TABLE_PAGES].copy_from_slice(&stamps.map(u64::to_le_bytes).concat());
        }
        p[WRITERS_AT..WRITERS_AT + 8].copy_from_slice(&(self.writers.len() as u64).to_le_bytes());
        for (i, (session, number)) in self.writers.iter().enumerate() {
            let at = WRITERS_AT + 8 + 16 * i;
            p[at..at + 8].copy_from_slice(&session.get().to_le_bytes());
            p[at + 8..at + 16].copy_from_slice(&number.get().to_le_bytes());
        }
        let crc = crc32c(&p[16..]);
        p[12..16].copy_from_slice(&crc.to_le_bytes());
        p
    }

    /// Reads a page; `None` when it is not a whole header of this format.
    pub fn decode(p: &[u8]) -> Option<Self> {
        let ok = p.len() == PAGE
            && &p[..8] == MAGIC
            && u32_at(p, 8) == FORMAT
            && u32_at(p, 12) == crc32c(&p[16..]);
        let (members, writers) = (u64_at(p, 64) as usize, u64_at(p, WRITERS_AT) as usize);
        if !ok || members > usize::from(COPIES_MAX) * 2 || writers > WRITERS_MAX {
            return None;
        }
        let writer = |i: usize| {
            let at = WRITERS_AT + 8 + 16 * i;
            (SessionId(u64_at(p, at)), WriteNumber(u64_at(p, at + 8)))
        };
        Some(Self {
            counter: u64_at(p, 16),
            id: ChunkId(u64_at(p, 24)),
            version: ChunkVersion(u64_at(p, 32)),
            length: u64_at(p, 40),
            synced: u64_at(p, 48),
            log_seq: u64_at(p, 56),
            members: (0..members).map(|i| ServerId(u64_at(p, MEMBERS_AT + 8 * i))).collect(),
            stamps: std::array::from_fn(|i| u64_at(p, STAMPS_AT + 8 * i)),
            written: std::array::from_fn(|i| u64_at(p, WRITTEN_AT + 8 * i)),
            writers: (0..writers).map(writer).collect(),
        })
    }

    /// The header that counts, of two slots, and the slot to write next.
    pub fn newest(a: &[u8], b: &[u8]) -> Option<(Self, u64)> {
        match (Self::decode(a), Self::decode(b)) {
            (Some(a), Some(b)) if b.counter > a.counter => Some((b, 0)),
            (Some(a), _) => Some((a, PAGE as u64)),
            (None, Some(b)) => Some((b, 0)),
            (None, None) => None,
        }
    }
}

/// Checksums of one block: the present one and the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Of what was written last.
    pub now: u32,
    /// Of what was there before; counts only while the chunk is dirty.
    pub before: u32,
}

impl Entry {
    /// Of a block that was a hole before: that is marked by the complement.
    pub const fn over_hole(now: u32) -> Self {
        Self { now, before: !now }
    }
    /// Whether the block was a hole before it was written last.
    pub const fn was_hole(self) -> bool {
        self.before == !self.now
    }
}

/// A table page's bytes. `stamp` rises with each writing of the page after a sync.
pub fn encode_page(id: ChunkId, number: usize, stamp: u64, entries: &[Option<Entry>]) -> Vec<u8> {
    debug_assert!(entries.len() <= ENTRIES);
    let mut p = vec![0; PAGE];
    p[4..8].copy_from_slice(&(number as u32).to_le_bytes());
    p[8..16].copy_from_slice(&id.get().to_le_bytes());
    for (i, e) in entries.iter().enumerate() {
        if let Some(e) = e {
            p[BITS_AT + i / 8] |= 1 << (i % 8);
            let at = ENTRIES_AT + 8 * i;
            p[at..at + 4].copy_from_slice(&e.now.to_le_bytes());
            p[at + 4..at + 8].copy_from_slice(&e.before.to_le_bytes());
        }
    }
    p[STAMP_AT..STAMP_AT + 8].copy_from_slice(&stamp.to_le_bytes());
    let crc = crc32c(&p[4..]);
    p[..4].copy_from_slice(&crc.to_le_bytes());
    p
}

/// Stamp and entries of a table page; `None` when it is damaged, or another chunk's or place's.
pub fn decode_page(id: ChunkId, number: usize, p: &[u8]) -> Option<(u64, Vec<Option<Entry>>)> {
    let ok = p.len() == PAGE
        && u32_at(p, 0) == crc32c(&p[4..])
        && u32_at(p, 4) == number as u32
        && u64_at(p, 8) == id.get();
    ok.then(|| {
        let entry = |i: usize| Entry {
            now: u32_at(p, ENTRIES_AT + 8 * i),
            before: u32_at(p, ENTRIES_AT + 8 * i + 4),
        };
        let there = |i: usize| p[BITS_AT + i / 8] & (1 << (i % 8)) != 0;
        (u64_at(p, STAMP_AT), (0..ENTRIES).map(|i| there(i).then(|| entry(i))).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            counter: 3,
            id: ChunkId(0x1122),
            version: ChunkVersion(2),
            length: 5000,
            synced: 4096,
            log_seq: 9,
            members: vec![ServerId(1), ServerId(7)],
            stamps: std::array::from_fn(|i| if i == 1 { 6 } else { 0 }),
            written: std::array::from_fn(|i| if i == 1 { 8 } else { 0 }),
            writers: vec![(SessionId(0x77), WriteNumber(12))],
        }
    }

    #[test]
    fn golden_header() {
        let p = header().encode();
        assert_eq!(&p[..12], b"MNGCHUNK\x01\0\0\0");
        let numbers = [3u64, 0x1122, 2, 5000, 4096, 9, 2, 1, 7].map(u64::to_le_bytes).concat();
        assert_eq!(&p[16..88], numbers);
        assert_eq!(p[12..16], crc32c(&p[16..]).to_le_bytes());
        assert_eq!(p[1032..1040], 6u64.to_le_bytes());
        assert_eq!(&p[2048..2072], [1u64, 0x77, 12].map(u64::to_le_bytes).concat());
        assert_eq!(p[1544..1552], 8u64.to_le_bytes());
        let rest = p[88..1032].iter().chain(&p[1040..1544]).chain(&p[1552..2048]).chain(&p[2072..]);
        assert!(rest.into_iter().all(|b| *b == 0));
        assert_eq!(Header::decode(&p), Some(header()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (h, t) =
            (header().encode(), encode_page(ChunkId(5), 1, 3, &[Some(Entry { now: 7, before: 9 }), None]));
        assert_eq!(decode_page(ChunkId(5), 1, &t).map(|(stamp, _)| stamp), Some(3));
        for bit in 0..PAGE * 8 {
            let mut p = h.clone();
            p[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&p), None, "header bit {bit}");
            let mut p = t.clone();
            p[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_page(ChunkId(5), 1, &p), None, "table bit {bit}");
        }
        assert_eq!(decode_page(ChunkId(6), 1, &t), None, "another chunk's");
        assert_eq!(decode_page(ChunkId(5), 2, &t), None, "another place's");
    }

    #[test]
    fn the_newer_slot_counts_and_a_torn_one_does_not() {
        let (old, new) = (header(), Header { counter: 4, ..header() });
        assert_eq!(Header::newest(&old.encode(), &new.encode()), Some((new.clone(), 0)));
        assert_eq!(Header::newest(&new.encode(), &old.encode()), Some((new.clone(), PAGE as u64)));
        let mut torn = new.encode();
        torn[600] ^= 1;
        assert_eq!(Header::newest(&old.encode(), &torn), Some((old, PAGE as u64)));
    }
}
