//! A disk's redo log: whole images of synced blocks that are written again. They are durable here
//! before they are written over what a sync promised, so that power never takes both. Two segments in
//! turns: while one is filled, what the other holds is made durable in the chunk files. Blocking; the
//! bytes are drawn in `docs/format.md`.

use crate::{
    format::{PAGE, WRITERS_MAX, u32_at, u64_at},
    numbers::Writer,
};
use bytes::Bytes;
use mooseng_core::{
    checksum::crc32c,
    ids::{ChunkId, SessionId, WriteNumber},
    limits::{BLOCK_BYTES, CHUNK_BYTES, FRAME_BYTES_MAX},
    seam::{Disk, DiskFile, Rng},
};
use parking_lot::Mutex;
use std::{collections::BTreeSet, io, sync::Arc};
use tokio::sync::Notify;

const SEGMENT_MAGIC: &[u8; 8] = b"MNGREDO1";
const RECORD_MAGIC: u32 = 0x4f44_4552;
/// Places of records, and what is written of a segment's header.
const ALIGN: usize = 512;
/// Where a segment's records begin, behind two copies of its header.
const RECORDS_AT: u64 = 2 * PAGE as u64;
const HEAD: usize = 72;
/// By how much a segment grows on its disk.
const STEP_BYTES: u64 = 4 << 20;
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

/// Why a record was not taken.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// Both segments are full: [`Redo::freed`] rings when one is not.
    Full,
    Io(io::Error),
}

impl From<io::Error> for AppendError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

struct Segment {
    file: Arc<dyn DiskFile>,
    /// Of this filling: they rise.
    id: u64,
    nonce: u64,
    end: u64,
    /// Up to here it is on the medium.
    durable: u64,
    /// Bytes of the file.
    room: u64,
    chunks: BTreeSet<ChunkId>,
    /// Whether its records may still be needed.
    needed: bool,
}

struct State {
    segments: [Option<Segment>; 2],
    active: Option<usize>,
    next_id: u64,
    next_seq: u64,
    durable_seq: u64,
    /// After a failed sync nobody knows what is in it.
    broken: Option<String>,
    /// Chunks for whose records a start had no room in their files: nothing goes over them.
    owed: BTreeSet<ChunkId>,
}

/// What a start found.
pub(crate) struct Found {
    /// In order.
    pub records: Vec<Record>,
    /// Something that was durable is not readable: which chunks it was of is not known.
    pub damaged: bool,
}

pub(crate) struct Redo {
    disk: Arc<dyn Disk>,
    rng: Arc<dyn Rng>,
    segment_bytes: u64,
    state: Mutex<State>,
    /// Rings when a segment is full.
    pub wanted: Notify,
    /// Rings when a segment can be filled again, or never will be.
    pub freed: Notify,
}

fn name_of(n: usize) -> String {
    format!("redo.{n}")
}

/// What a segment's header says.
#[derive(Clone, Copy)]
struct Head {
    id: u64,
    /// Random, and inside each record of this filling: those of an earlier one do not count, nor does anything that a
    /// client wrote to look like a record.
    nonce: u64,
    /// The number of its first record.
    first: u64,
    /// The other segment had something that was needed when this one was begun.
    beside: bool,
}

fn encode_header(head: Head) -> Vec<u8> {
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

fn decode_header(h: &[u8]) -> Option<Head> {
    let ok =
        h.len() == ALIGN && h.starts_with(SEGMENT_MAGIC) && u32_at(h, ALIGN - 4) == crc32c(&h[..ALIGN - 4]);
    ok.then(|| Head { id: u64_at(h, 8), nonce: u64_at(h, 24), first: u64_at(h, 16), beside: h[32] != 0 })
}

/// Whether records up to `logged`, which were durable, are missing at the end of one of the segments that there
/// are. A bad end is a torn one otherwise.
fn lacks(segments: &mut [(Head, u64)], logged: u64) -> bool {
    segments.sort_by_key(|(head, _)| head.id);
    let Some(((now, last), earlier)) = segments.split_last() else { return logged > 0 };
    let before = logged.min(now.first.saturating_sub(1));
    (logged >= now.first && *last < logged)
        || (now.beside && earlier.last().is_none_or(|(_, last)| *last < before))
}

const fn size_of(writers: usize, images: usize) -> u64 {
    (HEAD + writers * 16 + images * (8 + PAGE)).next_multiple_of(ALIGN) as u64
}

fn encode_record(
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
fn scan(nonce: u64, bytes: &Bytes) -> (Vec<Record>, bool) {
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

impl Redo {
    /// Reads what is there. `seq` is the highest that a chunk's header names; up to `logged` records were durable when
    /// the notes of dirty chunks were last taken away. Nothing is written before the first record. `segment_bytes` is at
    /// least [`SEGMENT_BYTES_MIN`].
    pub fn open(
        disk: Arc<dyn Disk>,
        rng: Arc<dyn Rng>,
        segment_bytes: u64,
        (seq, logged): (u64, u64),
    ) -> io::Result<(Self, Found)> {
        let (mut records, mut damaged, mut next_id) = (Vec::new(), false, 1);
        let mut segments = Vec::new();
        for n in 0..2 {
            let file = match disk.open(&name_of(n)) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let mut bytes = vec![0; file.len()? as usize];
            file.read_at(0, &mut bytes)?;
            let bytes = Bytes::from(bytes);
            let header = |at: usize| bytes.get(at..at + ALIGN).unwrap_or_default();
            let ids = [0, PAGE].map(|at| decode_header(header(at)));
            match ids.into_iter().flatten().max_by_key(|head| head.id) {
                Some(head) => {
                    let (found, bad) = scan(head.nonce, &bytes);
                    damaged |= bad;
                    next_id = next_id.max(head.id.saturating_add(1));
                    segments.push((head, found.last().map_or(head.first.saturating_sub(1), |r| r.seq)));
                    records.extend(found);
                }
                // The second is written when the first is durable, and records after both.
                None => damaged |= header(PAGE).iter().any(|b| *b != 0),
            }
        }
        damaged |= lacks(&mut segments, logged);
        records.sort_by_key(|r| r.seq);
        let seq = records.last().map_or(0, |r| r.seq).max(seq).max(logged);
        let state = State {
            segments: [None, None],
            active: None,
            next_id,
            next_seq: seq.saturating_add(1),
            durable_seq: seq,
            broken: None,
            owed: BTreeSet::new(),
        };
        let this = Self {
            disk,
            rng,
            segment_bytes: segment_bytes.max(SEGMENT_BYTES_MIN),
            state: Mutex::new(state),
            wanted: Notify::new(),
            freed: Notify::new(),
        };
        Ok((this, Found { records, damaged }))
    }

    /// Puts images at the end. They are durable after [`Self::sync`] of the number returned.
    pub fn append(
        &self,
        chunk: ChunkId,
        length: u64,
        origin: &Origin,
        images: &[Image],
    ) -> Result<u64, AppendError> {
        let mut s = self.state.lock();
        s.is_whole()?;
        let size = size_of(origin.writers.len(), images.len());
        let n = match s.active {
            Some(n) if s.segments[n].as_ref().is_some_and(|a| a.end + size <= self.segment_bytes) => n,
            _ => self.begin_next(&mut s)?,
        };
        let seq = s.next_seq;
        let Some(segment) = &mut s.segments[n] else { return Err(AppendError::Full) };
        if segment.end + size > segment.room {
            let room = (segment.end + size).next_multiple_of(STEP_BYTES).min(self.segment_bytes);
            segment.file.allocate(room)?;
            segment.room = room;
        }
        let record = encode_record(segment.nonce, segment.durable, seq, chunk, (length, origin), images);
        segment.file.write_at(segment.end, &record)?;
        segment.end += size;
        segment.chunks.insert(chunk);
        s.next_seq += 1;
        Ok(seq)
    }

    /// Up to which number all is durable.
    pub fn durable_seq(&self) -> u64 {
        self.state.lock().durable_seq
    }

    /// The last number that was given.
    pub fn last_seq(&self) -> u64 {
        self.state.lock().next_seq - 1
    }

    /// Makes a segment that nobody needs the one that is filled.
    fn begin_next(&self, s: &mut State) -> Result<usize, AppendError> {
        if s.active.is_some() {
            // What is in the full one goes to the chunk files from now on.
            self.wanted.notify_one();
        }
        let is_free = |n: &usize| s.segments[*n].as_ref().is_none_or(|g| !g.needed);
        let n = (0..2).find(is_free).ok_or(AppendError::Full)?;
        let file = match self.disk.open(&name_of(n)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let file = self.disk.create(&name_of(n))?;
                self.disk.sync_dir("")?;
                file
            }
            Err(e) => return Err(e.into()),
        };
        let nonce = self.rng.next_u64();
        let beside = s.segments.iter().flatten().any(|g| g.needed);
        let header = encode_header(Head { id: s.next_id, nonce, first: s.next_seq, beside });
        for at in [0, PAGE as u64] {
            file.write_at(at, &header)?;
            file.sync()?;
        }
        let (room, id, end) = (file.len()?, s.next_id, RECORDS_AT);
        s.next_id += 1;
        s.segments[n] =
            Some(Segment { file, id, nonce, end, durable: end, room, chunks: BTreeSet::new(), needed: true });
        s.active = Some(n);
        Ok(n)
    }

    /// Makes all records up to `seq` durable, and whatever else is in the log by now.
    pub fn sync(&self, seq: u64) -> io::Result<()> {
        let (files, upto) = {
            let s = self.state.lock();
            s.is_whole()?;
            if s.durable_seq >= seq {
                return Ok(());
            }
            let unsynced = s.segments.iter().flatten().filter(|g| g.durable < g.end);
            (unsynced.map(|g| (g.file.clone(), g.id, g.end)).collect::<Vec<_>>(), s.next_seq - 1)
        };
        let synced = files.iter().try_for_each(|(file, ..)| file.sync());
        let mut s = self.state.lock();
        if let Err(e) = synced {
            s.broken = Some(e.to_string());
            drop(s);
            self.freed.notify_waiters();
            return Err(io::Error::other(format!("the redo log could not be flushed: {e}")));
        }
        for (_, id, end) in files {
            if let Some(g) = s.segments.iter_mut().flatten().find(|g| g.id == id) {
                g.durable = g.durable.max(end);
            }
        }
        s.durable_seq = s.durable_seq.max(upto);
        Ok(())
    }

    /// A segment whose records are to be made needless, and whose they are; also the one that is filled
    /// when `all`.
    pub fn to_empty(&self, all: bool) -> Option<(u64, Vec<ChunkId>)> {
        let mut s = self.state.lock();
        if all {
            s.active = None;
        }
        let active = s.active;
        let full = s.segments.iter().enumerate().filter(|(n, _)| Some(*n) != active);
        let mut full = full.filter_map(|(_, g)| g.as_ref()).filter(|g| g.needed);
        full.next().map(|g| (g.id, g.chunks.iter().copied().collect()))
    }

    /// All that is in a segment is durable in the chunk files.
    pub fn emptied(&self, id: u64) {
        if let Some(g) = self.state.lock().segments.iter_mut().flatten().find(|g| g.id == id) {
            g.needed = false;
            g.chunks.clear();
        }
        self.freed.notify_waiters();
    }

    /// These chunks wait for what is in it: nothing goes over that.
    pub fn hold(&self, chunks: BTreeSet<ChunkId>) {
        self.state.lock().owed = chunks;
    }

    /// One of them has got it, or is gone.
    pub fn release(&self, chunk: ChunkId) {
        self.state.lock().owed.remove(&chunk);
    }

    /// Nothing is taken any more: what is in it could not be made needless.
    pub fn give_up(&self, why: &io::Error) {
        self.state.lock().broken = Some(why.to_string());
        self.freed.notify_waiters();
    }
}

impl State {
    fn is_whole(&self) -> io::Result<()> {
        match &self.broken {
            None if !self.owed.is_empty() => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!(
                    "the disk's redo log has what {} chunks had no room for at the start: free some",
                    self.owed.len()
                ),
            )),
            None => Ok(()),
            Some(why) => Err(io::Error::other(format!("the disk's redo log failed before: {why}"))),
        }
    }
}

/// Bytes for each of the two segments of a disk.
pub(crate) fn segment_bytes(disk_bytes: u64) -> u64 {
    (disk_bytes / 1024).next_multiple_of(BLOCK_BYTES).clamp(SEGMENT_BYTES_MIN, 32 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_host::MemDisk;

    fn image(block: u64, byte: u8) -> Image {
        Image { block, crc: u32::from(byte), bytes: Bytes::from(vec![byte; PAGE]) }
    }

    fn origin() -> Origin {
        Origin { writers: vec![(SessionId(4), WriteNumber(8))], after: 2 }
    }

    fn rng() -> Arc<dyn Rng> {
        mooseng_host::host_seams().rng
    }

    fn open(disk: &Arc<dyn Disk>) -> (Redo, Found) {
        Redo::open(disk.clone(), rng(), SEGMENT_BYTES_MIN, (0, 0)).unwrap()
    }

    #[test]
    fn what_was_appended_is_found_in_order_and_numbers_go_on() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new("log"));
        let (log, found) = open(&disk);
        assert!(found.records.is_empty() && !found.damaged);
        for n in 1..=3u8 {
            let images = [image(u64::from(n), n), image(9, n)];
            assert_eq!(log.append(ChunkId(5), 100, &origin(), &images).unwrap(), u64::from(n));
        }
        log.sync(3).unwrap();
        drop(log);
        let (log, found) = open(&disk);
        assert!(!found.damaged);
        assert_eq!(found.records.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(found.records[1].images, [image(2, 2), image(9, 2)]);
        assert_eq!((found.records[1].chunk, found.records[1].length), (ChunkId(5), 100));
        assert_eq!(found.records[1].origin, origin());
        // Another filling: the earlier one does not count any more, and no number comes twice.
        assert_eq!(log.append(ChunkId(6), 1, &origin(), &[image(1, 1)]).unwrap(), 4);
        drop(log);
        assert_eq!(open(&disk).1.records.iter().map(|r| r.seq).collect::<Vec<_>>(), [4]);
        assert_eq!(
            Redo::open(disk, rng(), SEGMENT_BYTES_MIN, (70, 0))
                .unwrap()
                .0
                .append(ChunkId(6), 1, &origin(), &[image(1, 1)])
                .unwrap(),
            71
        );
    }

    #[test]
    fn a_torn_end_is_cut_and_damage_before_durable_records_is_told() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new("log"));
        let (log, _) = open(&disk);
        for n in 1..=2 {
            log.append(ChunkId(n), 100, &origin(), &[image(n, n as u8)]).unwrap();
        }
        log.sync(2).unwrap();
        for n in 3..=4 {
            log.append(ChunkId(n), 100, &origin(), &[image(n, n as u8)]).unwrap();
        }
        let at = |n: u64| RECORDS_AT + (n - 1) * size_of(1, 1) + 100;
        let file = disk.open("redo.0").unwrap();
        // The third was not durable, though the fourth came through.
        file.write_at(at(3), &[0xee]).unwrap();
        let (_, found) = open(&disk);
        assert_eq!((found.records.len(), found.damaged), (2, false));
        file.write_at(at(3), &[3]).unwrap();
        assert_eq!(open(&disk).1.records.len(), 4);
        file.write_at(at(2), &[0xee]).unwrap();
        let (_, found) = open(&disk);
        assert_eq!((found.records.len(), found.damaged), (1, true));
        file.write_at(at(2), &[2]).unwrap();
        // One copy of the header is enough; without both nobody knows.
        file.write_at(3, &[0xee]).unwrap();
        assert_eq!((open(&disk).1.records.len(), open(&disk).1.damaged), (4, false));
        file.write_at(PAGE as u64 + 3, &[0xee]).unwrap();
        assert!(open(&disk).1.damaged);
    }

    /// A flush has nothing behind it that says so.
    #[test]
    fn a_bad_end_that_was_durable_is_damage() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new("log"));
        let damaged =
            |logged| Redo::open(disk.clone(), rng(), SEGMENT_BYTES_MIN, (0, logged)).unwrap().1.damaged;
        assert!(!damaged(0) && damaged(1), "all of it is lost");
        let (log, _) = open(&disk);
        let append = |n: u64| log.append(ChunkId(n), 100, &origin(), &[image(n, n as u8)]).unwrap();
        let each = (SEGMENT_BYTES_MIN - RECORDS_AT) / size_of(1, 1);
        for n in 1..=each {
            append(n);
        }
        assert!(!damaged(each));
        // A bit of the last one.
        let flips = |segment: usize, nth: u64| {
            let (file, at) = (disk.open(&name_of(segment)).unwrap(), RECORDS_AT + nth * size_of(1, 1) + 90);
            let mut byte = [0];
            file.read_at(at, &mut byte).unwrap();
            file.write_at(at, &[byte[0] ^ 4]).unwrap();
        };
        flips(0, each - 1);
        assert!(damaged(each) && !damaged(each - 1), "what was not durable may be torn");
        flips(0, each - 1);
        // The other segment goes on, while this one is needed, and when it is not.
        append(each + 1);
        assert!(!damaged(each) && !damaged(each + 1));
        flips(1, 0);
        assert!(!damaged(each) && damaged(each + 1));
        flips(1, 0);
        flips(0, each - 1);
        assert!(damaged(each + 1));
        log.emptied(log.to_empty(false).unwrap().0);
        for n in each + 2..=2 * each + 1 {
            append(n);
        }
        assert!(!damaged(2 * each + 1), "the first one is filled anew, beside the second");
        // After a start nothing is needed, whichever is filled first.
        let (log, _) = Redo::open(disk.clone(), rng(), SEGMENT_BYTES_MIN, (0, 2 * each + 1)).unwrap();
        assert_eq!(log.append(ChunkId(1), 100, &origin(), &[image(1, 1)]).unwrap(), 2 * each + 2);
        assert!(!damaged(2 * each + 1) && !damaged(2 * each + 2));
    }

    #[test]
    fn a_full_segment_is_filled_again_only_when_it_was_emptied() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new("log"));
        let (log, _) = open(&disk);
        let mut taken = 0;
        while let Ok(seq) = log.append(ChunkId(taken % 3), 100, &origin(), &[image(1, 1)]) {
            taken += 1;
            assert_eq!(seq, taken);
        }
        let each = (SEGMENT_BYTES_MIN - RECORDS_AT) / size_of(1, 1);
        assert_eq!(taken, 2 * each, "both segments are full");
        let (id, chunks) = log.to_empty(false).unwrap();
        assert_eq!(chunks, [ChunkId(0), ChunkId(1), ChunkId(2)]);
        log.emptied(id);
        assert!(log.to_empty(false).is_none(), "the other one is being filled");
        assert_eq!(log.append(ChunkId(1), 100, &origin(), &[image(1, 1)]).unwrap(), taken + 1);
        let (other, _) = log.to_empty(false).unwrap();
        assert_ne!(other, id);
        log.emptied(other);
        let (last, chunks) = log.to_empty(true).unwrap();
        assert_eq!(chunks, [ChunkId(1)]);
        log.emptied(last);
        assert!(log.to_empty(true).is_none());
    }

    #[test]
    fn after_a_failed_sync_nothing_is_taken() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new("log"));
        let (log, _) = open(&disk);
        log.append(ChunkId(1), 100, &origin(), &[image(1, 1)]).unwrap();
        log.give_up(&io::Error::other("gone"));
        assert!(log.sync(1).unwrap_err().to_string().contains("gone"));
        assert!(matches!(log.append(ChunkId(1), 100, &origin(), &[image(1, 1)]), Err(AppendError::Io(_))));
    }
}
