//! One chunk's file: blocks with checksums, a header in two slots. Blocking; run on a lane or for
//! short reads inline.

use crate::format::{DATA_AT, ENTRIES, Entry, Header, PAGE, TABLE_AT, TABLE_PAGES, decode_page, encode_page};
use bytes::Bytes;
use mooseng_core::{
    checksum::{block_crc, blocks_of},
    chunk::{ChecksumTable, Frame, FrameHead},
    error::ChunkError,
    ids::*,
    limits::{BLOCK_BYTES, CHUNK_BYTES, FRAME_BYTES_MAX},
    seam::DiskFile,
};
use std::{collections::BTreeSet, io, ops::Range, sync::Arc};

/// Given for a block whose checksum is not known: its page of the table is lost.
pub(crate) const UNKNOWN: u32 = u32::MAX;

const ZEROS: [u8; PAGE] = [0; PAGE];

/// A chunk's file, open.
#[derive(Debug)]
pub(crate) struct ChunkFile {
    file: Arc<dyn DiskFile>,
    pub header: Header,
    next_slot: u64,
    entries: Vec<Option<Entry>>,
    /// Table pages that do not verify: their blocks are damaged.
    lost_pages: BTreeSet<usize>,
    /// Table pages that are not on disk as they are here; written with the next sync.
    behind_pages: BTreeSet<usize>,
    /// Whether the older checksums count.
    pub dirty: bool,
    file_len: u64,
}

/// Why a chunk's file could not do something.
#[derive(Debug)]
pub(crate) enum FileError {
    Io(io::Error),
    /// First damaged block and how many.
    Damaged(u64, u64),
}

impl From<io::Error> for FileError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl FileError {
    pub fn of(self, chunk: ChunkId, server: ServerId) -> ChunkError {
        match self {
            Self::Damaged(first, blocks) => ChunkError::Damaged { chunk, first, blocks },
            Self::Io(e) if e.kind() == io::ErrorKind::StorageFull => ChunkError::NoSpace(server),
            Self::Io(e) => ChunkError::Disk { server, cause: e.to_string() },
        }
    }
}

fn page_of(block: u64) -> usize {
    block as usize / ENTRIES
}

impl ChunkFile {
    /// A new chunk in an empty file.
    pub fn create(file: Arc<dyn DiskFile>, chunk: ChunkRef, members: Vec<ServerId>) -> io::Result<Self> {
        let header = Header {
            counter: 0,
            id: chunk.id,
            version: chunk.version,
            length: 0,
            synced: 0,
            pages: 0,
            members,
        };
        let mut f = Self {
            file,
            header,
            next_slot: 0,
            entries: vec![],
            lost_pages: BTreeSet::new(),
            behind_pages: BTreeSet::new(),
            dirty: true,
            file_len: 0,
        };
        f.write_header()?;
        Ok(f)
    }

    /// A chunk that is there. `None` when no header verifies.
    pub fn open(file: Arc<dyn DiskFile>, dirty: bool) -> io::Result<Option<Self>> {
        let file_len = file.len()?;
        let page = |at: u64| -> io::Result<Vec<u8>> {
            let mut p = vec![0; PAGE];
            let there = file_len.saturating_sub(at).min(PAGE as u64) as usize;
            if there > 0 {
                file.read_at(at, &mut p[..there])?;
            }
            Ok(p)
        };
        let Some((header, next_slot)) = Header::newest(&page(0)?, &page(PAGE as u64)?) else {
            return Ok(None);
        };
        let (mut entries, mut lost_pages) = (Vec::new(), BTreeSet::new());
        for n in 0..TABLE_PAGES {
            let p = page(TABLE_AT + (n * PAGE) as u64)?;
            let known = header.pages & (1 << n) != 0;
            if !known && p.iter().all(|b| *b == 0) {
                entries.resize((n + 1) * ENTRIES, None);
                continue;
            }
            match decode_page(header.id, n, &p) {
                Some(page) => entries.extend(page),
                None => {
                    lost_pages.insert(n);
                    entries.resize((n + 1) * ENTRIES, None);
                }
            }
        }
        let mut header = header;
        let present = entries.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        if dirty {
            // Writes since the last header made it longer: what has a checksum counts. The last
            // block is whole then; what a file has of it is the masters' to say.
            let data_end = file_len.saturating_sub(DATA_AT).min(present as u64 * BLOCK_BYTES);
            header.length = header.length.max(data_end);
        }
        entries.truncate(present);
        entries.shrink_to_fit();
        let behind_pages = BTreeSet::new();
        Ok(Some(Self { file, header, next_slot, entries, lost_pages, behind_pages, dirty, file_len }))
    }

    fn entry(&self, block: u64) -> Option<Entry> {
        self.entries.get(block as usize).copied().flatten()
    }

    fn write_header(&mut self) -> io::Result<()> {
        self.header.counter += 1;
        self.file.write_at(self.next_slot, &self.header.encode())?;
        self.next_slot = PAGE as u64 - self.next_slot;
        self.file_len = self.file_len.max(2 * PAGE as u64);
        Ok(())
    }

    /// After a header is durable its twin follows, so that damage to one slot does not bring an older
    /// header back. Until then the twin is the older one, which a torn write leaves in force.
    fn write_twin(&mut self) -> io::Result<()> {
        self.file.write_at(self.next_slot, &self.header.encode())
    }

    fn write_pages(&mut self, pages: Range<usize>) -> io::Result<()> {
        for n in pages {
            let end = ((n + 1) * ENTRIES).min(self.entries.len());
            let page = encode_page(self.header.id, n, self.entries.get(n * ENTRIES..end).unwrap_or(&[]));
            self.file.write_at(TABLE_AT + (n * PAGE) as u64, &page)?;
            self.header.pages |= 1 << n;
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
        if crc == e.now || (self.dirty && unwritten()) {
            Ok(Some(crc))
        } else {
            Err(FileError::Damaged(block, 1))
        }
    }

    /// Bytes of the data area as they are on disk; zeros past the file's end.
    fn raw(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut buf = vec![0; len];
        let there = self.file_len.saturating_sub(DATA_AT + at).min(len as u64) as usize;
        if there > 0 {
            self.file.read_at(DATA_AT + at, &mut buf[..there])?;
        }
        Ok(buf)
    }

    /// Applies a verified frame.
    pub fn write(&mut self, at: u64, data: &[u8], crcs: &[u32]) -> Result<(), FileError> {
        let end = at + data.len() as u64;
        debug_assert!(end <= CHUNK_BYTES && !data.is_empty());
        let mut fresh = Vec::with_capacity(crcs.len());
        for ((block, range), given) in blocks_of(Offset(at), data.len()).zip(crcs) {
            let now = if range.len() == PAGE && !self.lost_pages.contains(&page_of(block)) {
                *given
            } else {
                self.merged_crc(block, at + range.start as u64, &data[range])?
            };
            fresh.push(self.entry(block).map_or(Entry::over_hole(now), |o| Entry { now, before: o.now }));
        }
        let blocks = (at / BLOCK_BYTES) as usize..end.div_ceil(BLOCK_BYTES) as usize;
        if self.entries.len() < blocks.end {
            self.entries.resize(blocks.end, None);
        }
        for (block, entry) in blocks.clone().zip(fresh) {
            self.entries[block] = Some(entry);
        }
        let pages = page_of(blocks.start as u64)..page_of(blocks.end as u64 - 1) + 1;
        let done = self.write_pages(pages).and_then(|()| self.file.write_at(DATA_AT + at, data));
        if let Err(e) = done {
            self.settle(blocks);
            return Err(e.into());
        }
        self.file_len = self.file_len.max(DATA_AT + end);
        self.header.length = self.header.length.max(end);
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

    /// Makes the entries of a range say what is on disk. Returns the damaged blocks.
    fn settle(&mut self, blocks: Range<usize>) -> Vec<u64> {
        let mut damaged = Vec::new();
        for block in blocks.start..blocks.end.min(self.entries.len()) {
            let lost = self.lost_pages.contains(&page_of(block as u64));
            if self.entries[block].is_none() && !lost {
                continue;
            }
            let content = self.raw(block as u64 * BLOCK_BYTES, PAGE).map_err(FileError::from);
            match content.and_then(|c| self.verify(block as u64, &c)) {
                Ok(Some(crc)) => {
                    self.entries[block] = Some(Entry { now: crc, before: crc });
                    self.behind_pages.insert(page_of(block as u64));
                }
                Ok(None) => {}
                Err(_) => damaged.push(block as u64),
            }
        }
        damaged
    }

    /// Settles all blocks and makes that durable: the chunk is good as it is but for the blocks
    /// returned, which are damaged.
    pub fn bless(&mut self) -> io::Result<Vec<u64>> {
        let blocks = self.entries.len().max(self.header.length.div_ceil(BLOCK_BYTES) as usize);
        self.entries.resize(blocks, None);
        let damaged = self.settle(0..blocks);
        self.sync()?;
        Ok(damaged)
    }

    /// Before a copy changes anything: the replica is of no version until the copy is whole, so that
    /// nobody can take a half for it. Durable.
    pub fn begin_copy(&mut self) -> io::Result<()> {
        self.header.version = ChunkVersion(0);
        self.write_header()?;
        self.file.sync()?;
        self.write_twin()
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

    /// Makes everything durable: data, table, header.
    pub fn sync(&mut self) -> io::Result<()> {
        for n in self.behind_pages.clone() {
            self.write_pages(n..n + 1)?;
        }
        self.header.synced = self.header.length;
        self.write_header()?;
        self.file.sync()?;
        self.write_twin()?;
        for e in self.entries.iter_mut().flatten() {
            e.before = e.now;
        }
        self.dirty = false;
        Ok(())
    }

    /// Takes a version and set, cuts when asked to, and makes all of it durable.
    pub fn set_version(
        &mut self,
        version: ChunkVersion,
        members: Vec<ServerId>,
        cut_to: Option<u64>,
    ) -> Result<(), FileError> {
        if let Some(cut) = cut_to.filter(|c| *c < self.header.length) {
            self.cut(cut)?;
        }
        self.header.version = version;
        self.header.members = members;
        Ok(self.sync()?)
    }

    fn cut(&mut self, to: u64) -> Result<(), FileError> {
        let block = to / BLOCK_BYTES;
        let within = (to % BLOCK_BYTES) as usize;
        if self.lost_pages.contains(&page_of(block)) && to > (page_of(block) * ENTRIES * PAGE) as u64 {
            // Rewriting the page would turn its blocks into holes.
            return Err(FileError::Damaged(block, 1));
        }
        if within > 0 && self.entry(block).is_some() {
            let mut content = self.raw(block * BLOCK_BYTES, PAGE)?;
            match self.verify(block, &content) {
                Ok(now) => {
                    content[within..].fill(0);
                    let (now, before) = (block_crc(self.header.id, block, &content), now.unwrap_or_default());
                    self.entries[block as usize] = Some(Entry { now, before });
                }
                // It stays damaged, which must not keep the file from being cut.
                Err(FileError::Damaged(..)) => {}
                Err(e) => return Err(e),
            }
        }
        self.entries.truncate(to.div_ceil(BLOCK_BYTES) as usize);
        self.header.length = to;
        self.dirty = true;
        for n in page_of(block)..TABLE_PAGES {
            if self.header.pages & (1 << n) != 0 {
                self.write_pages(n..n + 1)?;
            }
            self.lost_pages.remove(&n);
        }
        self.file.set_len(DATA_AT + to)?;
        self.file_len = DATA_AT + to;
        Ok(())
    }

    /// Checksums of all blocks as they are, and which of them are damaged. Of a damaged block it has
    /// the checksum it should have, or [`UNKNOWN`], never a hole. A block that is not dirty is taken at
    /// its entry's word.
    pub fn table(&self) -> io::Result<(ChecksumTable, BTreeSet<u64>)> {
        let mut damaged = BTreeSet::new();
        let mut blocks = Vec::with_capacity(self.header.length.div_ceil(BLOCK_BYTES) as usize);
        for block in 0..self.header.length.div_ceil(BLOCK_BYTES) {
            let entry = self.entry(block);
            let lost = self.lost_pages.contains(&page_of(block));
            let crc = match entry {
                None if !lost => None,
                Some(e) if !self.dirty => Some(e.now),
                _ => match self.verify(block, &self.raw(block * BLOCK_BYTES, PAGE)?) {
                    Ok(crc) => crc,
                    Err(FileError::Io(e)) => return Err(e),
                    Err(FileError::Damaged(..)) => {
                        damaged.insert(block);
                        Some(entry.map_or(UNKNOWN, |e| e.now))
                    }
                },
            };
            blocks.push(crc);
        }
        Ok((ChecksumTable { length: self.header.length, blocks }, damaged))
    }

    /// The table with every block looked at. Entries say from now on what is on disk: of a block whose
    /// last write was lost that is what was there before.
    pub fn settled_table(&mut self) -> io::Result<(ChecksumTable, BTreeSet<u64>)> {
        self.dirty = true;
        let (table, damaged) = self.table()?;
        for (block, crc) in table.blocks.iter().enumerate() {
            if let (Some(crc), Some(e)) = (*crc, self.entries.get_mut(block).and_then(Option::as_mut))
                && e.now != crc
                && !damaged.contains(&(block as u64))
            {
                *e = Entry { now: crc, before: crc };
                self.behind_pages.insert(page_of(block as u64));
            }
        }
        Ok((table, damaged))
    }

    /// Makes a range of whole blocks a hole, whatever was there.
    pub fn make_hole(&mut self, blocks: Range<u64>) -> io::Result<()> {
        let end = (blocks.end as usize).min(self.entries.len());
        for e in self.entries.get_mut(blocks.start as usize..end).into_iter().flatten() {
            *e = None;
        }
        self.dirty = true;
        self.write_pages(page_of(blocks.start)..page_of(blocks.end.saturating_sub(1)) + 1)?;
        self.file.punch(DATA_AT + blocks.start * BLOCK_BYTES, (blocks.end - blocks.start) * BLOCK_BYTES)
    }

    /// A block whose content nobody has: it is damaged, with the checksum that it should have.
    pub fn lose(&mut self, block: u64, crc: u32) -> io::Result<()> {
        let page = page_of(block);
        let known = if self.lost_pages.contains(&page) { (page + 1) * ENTRIES } else { block as usize + 1 };
        self.entries.resize(self.entries.len().max(known), None);
        self.entries[block as usize] = Some(Entry { now: crc, before: crc });
        self.dirty = true;
        self.write_pages(page..page + 1)
    }

    /// Forgets what is known of blocks, so that the next whole write of them needs no old content.
    pub fn forget(&mut self, block: u64) {
        let page = page_of(block);
        if self.lost_pages.remove(&page) {
            self.entries.resize(self.entries.len().max((page + 1) * ENTRIES), None);
        }
        if let Some(e) = self.entries.get_mut(block as usize) {
            *e = None;
        }
    }

    /// Sets the length after a pull: the source's.
    pub fn set_length(&mut self, length: u64) -> Result<(), FileError> {
        if length < self.header.length {
            self.cut(length)?;
        }
        self.header.length = length;
        Ok(())
    }
}
