//! One chunk's file: blocks with checksums, a header and table pages in two slots each. What is written
//! over a synced block goes to the disk's redo log first (`images`). Blocking; run on a lane or for short
//! reads inline.

mod images;
mod mend;
mod open;

use crate::{
    format::{DATA_AT, ENTRIES, Entry, Header, PAGE, TABLE_PAGES, decode_page, encode_page, page_at},
    numbers::{Numbers, Writer},
    redo::{AppendError, Image, Record, Redo},
};
use bytes::Bytes;
use mooseng_core::{
    checksum::{block_crc, blocks_of},
    chunk::{ChecksumTable, Frame, FrameHead},
    error::ChunkError,
    ids::*,
    limits::{BLOCK_BYTES, CHUNK_BYTES, FRAME_BYTES_MAX},
    seam::DiskFile,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::Arc,
};

/// Given for a block whose checksum is not known: its page of the table is lost.
pub(crate) const UNKNOWN: u32 = u32::MAX;

const ZEROS: [u8; PAGE] = [0; PAGE];

/// Where a page of the table is written. What a sync made durable is never written over: the next
/// writing goes to the other slot.
#[derive(Clone, Copy, Debug)]
struct PagePlace {
    /// The slot that was written last.
    slot: usize,
    stamp: u64,
    /// Whether it was written since the file was synced.
    fresh: bool,
}

/// A chunk's file, open.
#[derive(Debug)]
pub(crate) struct ChunkFile {
    file: Arc<dyn DiskFile>,
    pub header: Header,
    /// Of all that is here; the header has those of the last sync.
    numbers: Arc<Mutex<Numbers>>,
    next_slot: u64,
    entries: Vec<Option<Entry>>,
    pages: Vec<PagePlace>,
    /// Whether what was read at the opening is known to be durable.
    anchored: bool,
    /// Blocks that are in the redo log and not in the file yet.
    images: BTreeMap<u64, Image>,
    /// The last record of this chunk in the log.
    logged: u64,
    /// Whether there are writes that only a sync of the file makes durable.
    in_place: bool,
    /// Whether the log has what is not durable in the file.
    behind: bool,
    /// Table pages that do not verify: their blocks are damaged.
    lost_pages: BTreeSet<usize>,
    /// Table pages that are not on disk as they are here; written with the next sync.
    behind_pages: BTreeSet<usize>,
    /// Whether there are writes that are not synced.
    pub dirty: bool,
    /// Whether the older checksums count: a start found it dirty, or a write failed in its midst. Of what this process
    /// wrote itself an older block is one that the disk lost.
    torn: bool,
    /// Blocks whose entries are others than those of the header's pages, where pages were written since, or
    /// are older than the header says; as of the opening.
    since: Option<BTreeSet<u64>>,
    /// Whether one of the two headers did not verify.
    rotten_header: bool,
    /// Whether the newest header waits for a flush: it is where the next one goes.
    twin_waits: bool,
    file_len: u64,
}

/// Why a chunk's file could not do something.
#[derive(Debug)]
pub(crate) enum FileError {
    Io(io::Error),
    /// First damaged block and how many.
    Damaged(u64, u64),
    /// The disk's redo log has no room at the moment: the same write may come again.
    LogFull,
}

/// After it nobody knows what is on the disk of what the kernel had.
#[derive(Debug, thiserror::Error)]
#[error("it could not be flushed: {0}")]
pub(crate) struct FlushFailed(io::Error);

impl FlushFailed {
    /// Whether an error is one.
    pub fn is(e: &io::Error) -> bool {
        e.get_ref().is_some_and(|e| e.is::<Self>())
    }
}

impl From<io::Error> for FileError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<AppendError> for FileError {
    fn from(e: AppendError) -> Self {
        match e {
            AppendError::Full => Self::LogFull,
            AppendError::Io(e) => Self::Io(e),
        }
    }
}

impl FileError {
    pub fn of(self, chunk: ChunkId, server: ServerId) -> ChunkError {
        match self {
            Self::Damaged(first, blocks) => ChunkError::Damaged { chunk, first, blocks },
            Self::LogFull => ChunkError::Busy(format!("the redo log of a disk of {server} is full")),
            Self::Io(e) if e.kind() == io::ErrorKind::StorageFull => ChunkError::NoSpace(server),
            Self::Io(e) => ChunkError::Disk { server, cause: e.to_string() },
        }
    }
}

/// Blocks of a frame that are written where they are.
struct Run {
    block: u64,
    /// Within the frame.
    range: Range<usize>,
    entries: Vec<Entry>,
}

fn page_of(block: u64) -> usize {
    block as usize / ENTRIES
}

impl ChunkFile {
    /// A new chunk in an empty file. Records of the log up to `log_seq` are not its.
    pub fn create(
        file: Arc<dyn DiskFile>,
        chunk: ChunkRef,
        members: Vec<ServerId>,
        log_seq: u64,
        numbers: Arc<Mutex<Numbers>>,
    ) -> io::Result<Self> {
        numbers.lock().load(&[]);
        let header = Header {
            counter: 0,
            id: chunk.id,
            version: chunk.version,
            length: 0,
            synced: 0,
            log_seq,
            members,
            stamps: [0; TABLE_PAGES],
            written: [0; TABLE_PAGES],
            writers: vec![],
        };
        let mut f = Self {
            file,
            header,
            numbers,
            next_slot: 0,
            entries: vec![],
            pages: vec![PagePlace { slot: 1, stamp: 0, fresh: false }; TABLE_PAGES],
            anchored: true,
            images: BTreeMap::new(),
            logged: log_seq,
            in_place: true,
            behind: false,
            lost_pages: BTreeSet::new(),
            behind_pages: BTreeSet::new(),
            dirty: true,
            torn: false,
            since: None,
            rotten_header: false,
            twin_waits: false,
            file_len: 0,
        };
        // Both slots take their room now: a sync needs none, however full the disk is by then.
        f.put_header()?;
        f.next_slot = PAGE as u64;
        f.put_header()?;
        f.file_len = 2 * PAGE as u64;
        Ok(f)
    }

    fn entry(&self, block: u64) -> Option<Entry> {
        self.entries.get(block as usize).copied().flatten()
    }

    /// A newer header in the place of the older one.
    fn put_header(&mut self) -> io::Result<()> {
        self.header.counter += 1;
        for (stamp, place) in self.header.written.iter_mut().zip(&self.pages) {
            *stamp = place.stamp;
        }
        self.file.write_at(self.next_slot, &self.header.encode())
    }

    /// A write that found no room has changed nothing; after a failed flush nobody knows what is there.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync().map_err(|e| io::Error::other(FlushFailed(e)))
    }

    /// What was read at the opening may be what only the kernel has: the other slot, of header or page, is what a
    /// power failure leaves, and is not written over before this.
    fn anchor(&mut self) -> io::Result<()> {
        if !self.anchored {
            self.flush()?;
            self.anchored = true;
        }
        Ok(())
    }

    /// Makes the newest header durable; the next one does not go over it.
    fn flush_header(&mut self) -> io::Result<()> {
        self.anchor()?;
        if self.twin_waits { self.flush_newest() } else { Ok(()) }
    }

    /// Flushes; the header that was written last is the newest durable one from now on.
    fn flush_newest(&mut self) -> io::Result<()> {
        self.flush()?;
        self.twin_waits = false;
        self.next_slot = PAGE as u64 - self.next_slot;
        Ok(())
    }

    /// Makes durable what was written to the file. The header that goes with it names the pages of the
    /// sync before, for those of this one may be torn with it; its twin, which follows, names these, so
    /// that neither an older header nor an older page is taken for the newest when one is damaged. So it is
    /// with the write numbers. One session's may come to the disk with what follows: what it repeats undoes
    /// nothing but its own. Those of several are durable at once.
    fn harden(&mut self) -> io::Result<()> {
        self.anchor()?;
        self.put_header()?;
        self.flush_newest()?;
        for (n, place) in self.pages.iter_mut().enumerate().filter(|(_, p)| p.fresh) {
            place.fresh = false;
            self.header.stamps[n] = place.stamp;
        }
        if self.images.is_empty() {
            self.header.log_seq = self.logged;
            self.behind = false;
        }
        let writers = self.numbers.lock().list();
        let fresh = writers.iter().filter(|w| !self.header.writers.contains(w)).count();
        self.header.writers = writers;
        // The one that is durable stays until this one is.
        self.put_header()?;
        self.rotten_header = false;
        self.twin_waits = true;
        if fresh > 1 { self.flush_header() } else { Ok(()) }
    }

    fn write_pages(&mut self, pages: Range<usize>) -> io::Result<()> {
        self.anchor()?;
        for n in pages {
            let end = ((n + 1) * ENTRIES).min(self.entries.len());
            let PagePlace { slot, stamp, fresh } = self.pages[n];
            let place = match fresh {
                true => self.pages[n],
                false => {
                    let stamp = (stamp + 1).max(self.header.counter + 1);
                    PagePlace { slot: 1 - slot, stamp, fresh: true }
                }
            };
            if stamp == 0 {
                // Both slots take their room at once: a full disk must not keep a chunk from being settled.
                self.file.write_at(page_at(n, 1 - place.slot), &ZEROS)?;
            }
            let entries = self.entries.get(n * ENTRIES..end).unwrap_or(&[]);
            let page = encode_page(self.header.id, n, place.stamp, entries);
            self.file.write_at(page_at(n, place.slot), &page)?;
            self.pages[n] = place;
            self.lost_pages.remove(&n);
            self.behind_pages.remove(&n);
        }
        Ok(())
    }

    /// The checksum of a block's present content; `None` for a hole.
    fn verify(&self, block: u64, content: &[u8]) -> Result<Option<u32>, FileError> {
        if self.lost_pages.contains(&page_of(block)) {
            return Err(FileError::Damaged(block, 1));
        }
        let Some(e) = self.entry(block) else { return Ok(None) };
        let crc = block_crc(self.header.id, block, content);
        // Killed between the entry and the data, a block is still what it was: older bytes, or a hole.
        let unwritten = || crc == e.before || (e.was_hole() && content == ZEROS);
        if crc == e.now || (self.torn && unwritten()) {
            Ok(Some(crc))
        } else {
            Err(FileError::Damaged(block, 1))
        }
    }

    /// Bytes of the data area as they are in the file; zeros past its end.
    fn raw(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut buf = vec![0; len];
        let there = self.file_len.saturating_sub(DATA_AT + at).min(len as u64) as usize;
        if there > 0 {
            self.file.read_at(DATA_AT + at, &mut buf[..there])?;
        }
        Ok(buf)
    }

    /// Applies a verified frame, of a writer or of a copy. One that failed may have been applied in part.
    pub fn write(
        &mut self,
        writer: Option<Writer>,
        at: u64,
        data: &Bytes,
        crcs: &[u32],
        redo: &Redo,
    ) -> Result<(), FileError> {
        let end = at + data.len() as u64;
        debug_assert!(end <= CHUNK_BYTES && !data.is_empty());
        let (mut images, mut runs) = (Vec::new(), Vec::<Run>::new());
        for ((block, range), given) in blocks_of(Offset(at), data.len()).zip(crcs) {
            let whole = range.len() == PAGE;
            let from = at + range.start as u64;
            if self.is_synced(block) {
                images.push(match whole {
                    true => Image { block, crc: *given, bytes: data.slice(range) },
                    false => self.merged(block, from, &data[range])?,
                });
                continue;
            }
            let now = match whole && !self.lost_pages.contains(&page_of(block)) {
                true => *given,
                false => self.merged_crc(block, from, &data[range.clone()])?,
            };
            let entry = self.entry(block).map_or(Entry::over_hole(now), |o| Entry { now, before: o.now });
            match runs.last_mut() {
                Some(run) if run.block + run.entries.len() as u64 == block => {
                    run.entries.push(entry);
                    run.range.end = range.end;
                }
                _ => runs.push(Run { block, range, entries: vec![entry] }),
            }
        }
        let length = self.header.length.max(end);
        // Before the images go to the log: what it says of this frame is not all of it.
        self.in_place |= !runs.is_empty();
        // First what may find no room: then nobody sees half of the frame.
        if !images.is_empty() {
            self.log(redo, length, writer, images)?;
        }
        for run in runs {
            self.write_run(at + run.range.start as u64, &data[run.range], run.block, run.entries)?;
        }
        self.header.length = length;
        if let Some((session, number)) = writer {
            self.numbers.lock().applied(session, number);
        }
        self.bound_images(redo)?;
        Ok(())
    }

    /// Writes blocks where they are: nothing was promised of them.
    fn write_run(&mut self, at: u64, data: &[u8], first: u64, fresh: Vec<Entry>) -> Result<(), FileError> {
        let blocks = first as usize..first as usize + fresh.len();
        if self.entries.len() < blocks.end {
            self.entries.resize(blocks.end, None);
        }
        for (block, entry) in blocks.clone().zip(fresh) {
            self.entries[block] = Some(entry);
        }
        self.in_place = true;
        let pages = page_of(blocks.start as u64)..page_of(blocks.end as u64 - 1) + 1;
        let done = self.write_pages(pages).and_then(|()| self.file.write_at(DATA_AT + at, data));
        if let Err(e) = done {
            self.torn = true;
            self.settle(blocks);
            return Err(e.into());
        }
        self.file_len = self.file_len.max(DATA_AT + at + data.len() as u64);
        Ok(())
    }

    /// The checksum of a block after `data` is merged into it. The old content is verified first; what
    /// a hole may have left on disk is cleared, for it becomes part of the block.
    fn merged_crc(&mut self, block: u64, at: u64, data: &[u8]) -> Result<u32, FileError> {
        let block_at = block * BLOCK_BYTES;
        let mut content = self.raw(block_at, PAGE)?;
        if self.verify(block, &content)?.is_none() && content != ZEROS {
            self.file.write_at(DATA_AT + block_at, &ZEROS)?;
            content.fill(0);
        }
        let from = (at - block_at) as usize;
        content[from..from + data.len()].copy_from_slice(data);
        Ok(block_crc(self.header.id, block, &content))
    }

    /// Reads the blocks of a range as frames, verified. Ends at the chunk's length.
    pub fn read(&self, at: u64, len: u64) -> Result<Vec<Frame>, FileError> {
        let end = (at + len).next_multiple_of(BLOCK_BYTES).min(self.header.length);
        let (mut frames, mut pos) = (Vec::new(), at);
        while pos < end {
            let block = pos / BLOCK_BYTES;
            let hole = self.entry(block).is_none();
            let mut to = block + 1;
            let max = if hole { u64::MAX } else { block + FRAME_BYTES_MAX as u64 / BLOCK_BYTES };
            while to * BLOCK_BYTES < end && to < max && self.entry(to).is_none() == hole {
                to += 1;
            }
            let bytes = (to * BLOCK_BYTES).min(end) - pos;
            frames.push(if hole { self.hole(pos, bytes)? } else { self.data(pos, bytes as usize)? });
            pos += bytes;
        }
        Ok(frames)
    }

    fn hole(&self, at: u64, bytes: u64) -> Result<Frame, FileError> {
        let blocks = at / BLOCK_BYTES..(at + bytes).div_ceil(BLOCK_BYTES);
        if let Some(lost) = blocks.clone().find(|b| self.lost_pages.contains(&page_of(*b))) {
            return Err(FileError::Damaged(lost, blocks.end - lost));
        }
        let head = FrameHead { number: WriteNumber(0), at: Offset(at), crcs: vec![], hole: bytes };
        Ok(Frame { head, data: Bytes::new() })
    }

    fn data(&self, at: u64, len: usize) -> Result<Frame, FileError> {
        let mut buf = self.raw(at, len.next_multiple_of(PAGE))?;
        let mut crcs = Vec::with_capacity(buf.len() / PAGE);
        for (block, range) in blocks_of(Offset(at), buf.len()) {
            if let Some(image) = self.images.get(&block) {
                buf[range].copy_from_slice(&image.bytes);
                crcs.push(image.crc);
                continue;
            }
            match self.verify(block, &buf[range])? {
                Some(crc) => crcs.push(crc),
                None => return Err(FileError::Damaged(block, 1)),
            }
        }
        // A checksum counts missing bytes as zeros; it is made anew where the rest is anything else.
        if buf[len..].iter().any(|b| *b != 0)
            && let (Some(crc), Some((block, range))) = (crcs.last_mut(), blocks_of(Offset(at), len).last())
        {
            *crc = block_crc(self.header.id, block, &buf[range]);
        }
        buf.truncate(len);
        let head = FrameHead { number: WriteNumber(0), at: Offset(at), crcs, hole: 0 };
        Ok(Frame { head, data: buf.into() })
    }

    /// Makes everything durable: by the log when that has all of it, otherwise data, table, header.
    pub fn sync(&mut self, redo: &Redo) -> io::Result<()> {
        if self.in_place || !self.behind_pages.is_empty() {
            return self.sync_file(redo);
        }
        self.apply_images(redo)?;
        (self.dirty, self.torn) = (false, false);
        Ok(())
    }

    /// Makes everything durable in the file.
    fn sync_file(&mut self, redo: &Redo) -> io::Result<()> {
        self.apply_images(redo)?;
        for n in self.behind_pages.clone() {
            self.write_pages(n..n + 1)?;
        }
        self.header.synced = self.header.length;
        self.harden()?;
        for e in self.entries.iter_mut().flatten() {
            e.before = e.now;
        }
        (self.dirty, self.torn, self.in_place) = (false, false, false);
        Ok(())
    }

    /// Takes a version and set, cuts when asked to, and makes all of it durable. Answers the block that was to be cut
    /// in its midst and is damaged, which it stays.
    pub fn set_version(
        &mut self,
        version: ChunkVersion,
        members: Vec<ServerId>,
        cut_to: Option<u64>,
        redo: &Redo,
    ) -> Result<Option<u64>, FileError> {
        let damaged = match cut_to.filter(|c| *c < self.header.length) {
            Some(cut) => self.cut(cut, redo)?,
            None => None,
        };
        self.header.version = version;
        self.header.members = members;
        self.sync_file(redo)?;
        self.flush_header()?;
        Ok(damaged)
    }

    /// Cuts. The new checksums are durable before the data goes, beside the old ones, and with them that
    /// what the log has of the chunk is in the file.
    fn cut(&mut self, to: u64, redo: &Redo) -> Result<Option<u64>, FileError> {
        let mut damaged = None;
        let block = to / BLOCK_BYTES;
        let within = (to % BLOCK_BYTES) as usize;
        if self.lost_pages.contains(&page_of(block)) && to > (page_of(block) * ENTRIES * PAGE) as u64 {
            // Rewriting the page would turn its blocks into holes.
            return Err(FileError::Damaged(block, 1));
        }
        self.apply_images(redo)?;
        if !self.images.is_empty() {
            // What waits for room would come back behind the cut.
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        self.harden()?;
        if within > 0 && self.entry(block).is_some() {
            let mut content = self.raw(block * BLOCK_BYTES, PAGE)?;
            match self.verify(block, &content) {
                Ok(now) => {
                    content[within..].fill(0);
                    let (now, before) = (block_crc(self.header.id, block, &content), now.unwrap_or_default());
                    self.entries[block as usize] = Some(Entry { now, before });
                }
                // It stays damaged, which must not keep the file from being cut.
                Err(FileError::Damaged(..)) => damaged = Some(block),
                Err(e) => return Err(e),
            }
        }
        self.entries.truncate(to.div_ceil(BLOCK_BYTES) as usize);
        self.header.length = to;
        self.dirty = true;
        for n in page_of(block)..TABLE_PAGES {
            if self.pages[n].stamp > 0 {
                self.write_pages(n..n + 1)?;
            }
            self.lost_pages.remove(&n);
        }
        self.harden()?;
        self.file.set_len(DATA_AT + to)?;
        self.file_len = DATA_AT + to;
        Ok(damaged)
    }
}
