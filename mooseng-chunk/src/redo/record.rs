//! What is in a segment of the redo log: its header, and records. A client's bytes are in them as they are.

use crate::{
    format::{PAGE, WRITERS_MAX, u32_at, u64_at},
    numbers::Writer,
};
use bytes::Bytes;
use mooseng_core::{
    checksum::crc32c,
    ids::{ChunkId, SessionId, WriteNumber},
    limits::{BLOCK_BYTES, CHUNK_BYTES, FRAME_BYTES_MAX},
};

const SEGMENT_MAGIC: &[u8; 8] = b"MNGREDO2";
const RECORD_MAGIC: u32 = 0x4f44_4552;
/// Places of records, and what is written of a segment's header.
pub(super) const ALIGN: usize = 512;
/// Where a segment's records begin, behind two copies of its header.
pub(super) const RECORDS_AT: u64 = 2 * PAGE as u64;
const HEAD: usize = 72;
/// A segment takes a whole frame at least.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 2 << 20;
const IMAGES_MAX: usize = FRAME_BYTES_MAX / PAGE + 2;

const _: () =
    assert!(RECORDS_AT as usize + size_of(WRITERS_MAX, IMAGES_MAX) as usize <= SEGMENT_BYTES_MIN as usize);

/// A block as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub block: u64,
    pub crc: u32,
    /// All of the block.
    pub bytes: Bytes,
}

/// Images of one chunk that were written together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub seq: u64,
    pub chunk: ChunkId,
    /// Bytes of the chunk then.
    pub length: u64,
    pub origin: Origin,
    pub images: Vec<Image>,
}

/// Which writes the chunk has with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The last of each session, at most [`WRITERS_MAX`].
    pub writers: Vec<Writer>,
    /// With the chunk's file as of a sync and its records up to this one, all that was written before
    /// is there; [`Origin::IN_PLACE`] when some of that was neither synced nor logged.
    pub after: u64,
}

impl Origin {
    pub const IN_PLACE: u64 = u64::MAX;
}

/// What a segment's header says.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub id: u64,
    /// Random, and inside each record of this filling: those of an earlier one do not count, nor does anything that a
    /// client wrote to look like a record.
    pub nonce: u64,
    /// The number of its first record.
    pub first: u64,
    /// The other segment had something that was needed when this one was begun.
    pub beside: bool,
}

pub(super) fn encode_header(head: Head) -> Vec<u8> {
    let mut h = vec![0; ALIGN];
    h[..8].copy_from_slice(SEGMENT_MAGIC);
    h[8..16].copy_from_slice(&head.id.to_le_bytes());
    h[16..24].copy_from_slice(&head.first.to_le_bytes());
    h[24..32].copy_from_slice(&head.nonce.to_le_bytes());
    h[32] = head.beside.into();
    let crc = crc32c(&h[..ALIGN - 4]);
    h[ALIGN - 4..].copy_from_slice(&crc.to_le_bytes());
    h
}

pub(super) fn decode_header(h: &[u8]) -> Option<Head> {
    let ok =
        h.len() == ALIGN && h.starts_with(SEGMENT_MAGIC) && u32_at(h, ALIGN - 4) == crc32c(&h[..ALIGN - 4]);
    ok.then(|| Head { id: u64_at(h, 8), nonce: u64_at(h, 24), first: u64_at(h, 16), beside: h[32] != 0 })
}

/// Whether records up to `logged`, which were durable, are missing at the end of one of the segments that there
/// are. A bad end is a torn one otherwise.
pub(super) fn lacks(segments: &mut [(Head, u64)], logged: u64) -> bool {
    segments.sort_by_key(|(head, _)| head.id);
    let Some(((now, last), earlier)) = segments.split_last() else { return logged > 0 };
    let before = logged.min(now.first.saturating_sub(1));
    (logged >= now.first && *last < logged)
        || (now.beside && earlier.last().is_none_or(|(_, last)| *last < before))
}

pub(super) const fn size_of(writers: usize, images: usize) -> u64 {
    (HEAD + writers * 16 + images * (8 + PAGE)).next_multiple_of(ALIGN) as u64
}

pub(super) fn encode_record(
    nonce: u64,
    durable: u64,
    seq: u64,
    chunk: ChunkId,
    (length, origin): (u64, &Origin),
    images: &[Image],
) -> Vec<u8> {
    let size = size_of(origin.writers.len(), images.len()) as usize;
    let mut r = Vec::with_capacity(size);
    r.extend(RECORD_MAGIC.to_le_bytes());
    r.extend([0; 4]);
    let counts = (images.len() as u64, origin.writers.len() as u64);
    for n in [nonce, durable, seq, chunk.get(), length, counts.0, counts.1, origin.after] {
        r.extend(n.to_le_bytes());
    }
    for (session, number) in &origin.writers {
        r.extend(session.get().to_le_bytes());
        r.extend(number.get().to_le_bytes());
    }
    for i in images {
        r.extend((i.block as u32).to_le_bytes());
        r.extend(i.crc.to_le_bytes());
    }
    for i in images {
        debug_assert_eq!(i.bytes.len(), PAGE);
        r.extend_from_slice(&i.bytes);
    }
    let crc = crc32c(&r[8..]);
    r[4..8].copy_from_slice(&crc.to_le_bytes());
    r.resize(size, 0);
    r
}

/// A record at a place: what it says was durable before it, itself, and its bytes.
fn decode_record(nonce: u64, b: &Bytes, at: usize) -> Option<(u64, Record, usize)> {
    let r = b.get(at..)?;
    let images = u64_at(r, 48) as usize;
    let writers = u64_at(r, 56) as usize;
    if u32_at(r, 0) != RECORD_MAGIC
        || u64_at(r, 8) != nonce
        || u64_at(r, 40) > CHUNK_BYTES
        || images > IMAGES_MAX
        || images == 0
        || writers > WRITERS_MAX
    {
        return None;
    }
    let heads = HEAD + writers * 16;
    let len = heads + images * (8 + PAGE);
    if u32_at(r, 4) != crc32c(r.get(8..len)?) {
        return None;
    }
    let image = |i: usize| {
        let from = at + heads + images * 8 + i * PAGE;
        Image {
            block: u64::from(u32_at(r, heads + 8 * i)),
            crc: u32_at(r, heads + 8 * i + 4),
            bytes: b.slice(from..from + PAGE),
        }
    };
    let images: Vec<_> = (0..images).map(image).collect();
    if images.iter().any(|i| i.block >= CHUNK_BYTES / BLOCK_BYTES) {
        return None;
    }
    let (seq, chunk, length) = (u64_at(r, 24), ChunkId(u64_at(r, 32)), u64_at(r, 40));
    let writer = |i: usize| (SessionId(u64_at(r, HEAD + 16 * i)), WriteNumber(u64_at(r, HEAD + 16 * i + 8)));
    let origin = Origin { writers: (0..writers).map(writer).collect(), after: u64_at(r, 64) };
    let size = size_of(writers, images.len()) as usize;
    Some((u64_at(r, 16), Record { seq, chunk, length, origin, images }, size))
}

/// Records of one segment. A bad one ends them; when one behind it says that the place was durable, that is
/// damage.
pub(super) fn scan(nonce: u64, bytes: &Bytes) -> (Vec<Record>, bool) {
    let (mut records, mut at) = (Vec::new(), RECORDS_AT as usize);
    while let Some((_, record, size)) = decode_record(nonce, bytes, at) {
        records.push(record);
        at += size;
    }
    let behind = (at + ALIGN..bytes.len()).step_by(ALIGN);
    let damaged = behind
        .filter_map(|place| decode_record(nonce, bytes, place))
        .any(|(durable, ..)| durable > at as u64);
    (records, damaged)
}
