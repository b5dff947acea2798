//! A disk's redo log: whole images of synced blocks that are written again. They are durable here
//! before they are written over what a sync promised, so that power never takes both. Two segments in
//! turns: while one is filled, what the other holds is made durable in the chunk files. Blocking; the
//! bytes are drawn in `docs/format.md`.

mod record;

use self::record::{
    ALIGN, Head, RECORDS_AT, decode_header, encode_header, encode_record, lacks, scan, size_of,
};
pub(crate) use self::record::{Image, Origin, Record, SEGMENT_BYTES_MIN};
use crate::format::PAGE;
use bytes::Bytes;
use mooseng_core::{
    ids::ChunkId,
    limits::BLOCK_BYTES,
    seam::{Disk, DiskFile, Rng},
};
use parking_lot::Mutex;
use std::{collections::BTreeSet, io, sync::Arc};
use tokio::sync::Notify;

/// By how much a segment grows on its disk.
const STEP_BYTES: u64 = 4 << 20;
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
    /// What a start found, up to this number, it has put into the chunk files; it may be in the kernel only.
    found: u64,
    /// Up to which record the log is known to be durable, beside what this start makes so.
    claimed: u64,
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
            found: seq,
            // What of a damaged log is not to be had is not missed at the next start again: all chunks are noted.
            claimed: if damaged { 0 } else { logged },
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

    /// Up to which number the next start has to find records: all that is needed of them is durable.
    pub fn durable_seq(&self) -> u64 {
        let s = self.state.lock();
        if s.durable_seq > s.found { s.durable_seq } else { s.claimed }
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
    use mooseng_core::ids::{SessionId, WriteNumber};
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
        // Nothing is claimed of what was found, for it may be in the kernel only, but what was before.
        assert_eq!(log.durable_seq(), 2 * each + 1);
        log.sync(2 * each + 2).unwrap();
        assert_eq!(log.durable_seq(), 2 * each + 2);
        let (log, found) = Redo::open(disk.clone(), rng(), SEGMENT_BYTES_MIN, (0, 3 * each)).unwrap();
        assert!(found.damaged);
        assert_eq!(log.durable_seq(), 0, "it is told once");
        assert_eq!(open(&disk).0.durable_seq(), 0);
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
