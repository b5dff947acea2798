//! What was promised of one file's content, byte by byte. Pure.
//!
//! A write is first the client's, then in the memory of every replica (flushed), then on every
//! replica's disk (synced). What fails on the way leaves its bytes *loose*: anything may be there.
//! A power failure of all replicas makes unsynced bytes *lost*: they may be gone, but whoever syncs
//! afterwards must hear of it, so that an acknowledged sync binds again.

use mooseng_core::limits::{BLOCK_BYTES, CHUNK_BYTES};
use std::{collections::BTreeSet, ops::Range, sync::Arc};

/// Where the content of a wide file begins; before it is a hole. A few blocks on each side of the
/// border between two chunks are what matters of 64 MiB.
pub const WIDE_BASE: u64 = CHUNK_BYTES - 2 * BLOCK_BYTES;

/// Whose writes no sync covers: those of writers that failed.
const NOBODY: u32 = u32::MAX;

/// A write that no sync has covered.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mark {
    range: Range<usize>,
    writer: u32,
    flushed: bool,
    /// All replicas lost power since.
    lost: bool,
    /// And somebody saw that the bytes are gone.
    gone: bool,
}

/// Promised content: positions count from the file's base.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileState {
    /// 0, or [`WIDE_BASE`] for a wide file.
    pub base: u64,
    content: Arc<Vec<u8>>,
    /// The size is at least this and at most the content's.
    min_len: usize,
    loose: Vec<Range<usize>>,
    marks: Vec<Mark>,
    /// What failed writes may have left behind the end, to show when the file grows.
    ///
    /// A writer that dies between its data and its size leaves bytes in chunks that no size covers.
    /// A growth does not clear them yet: it changes the size only (PROTOCOL §4), and nobody knows that
    /// they are there.
    beyond: Vec<Range<usize>>,
    /// Chunks whose file was durable once: of others a power failure may take everything.
    durable: BTreeSet<u64>,
    /// Blocks of the file that a sync covered: what is written over them later is there whole or not at all.
    solid: BTreeSet<u64>,
    /// Chunks that a power failure may have taken whole, with whatever they get by a growth.
    gone: BTreeSet<u64>,
    /// Whether a power failure took unsynced data of it: it may answer EIO until it is made anew.
    pub lossy: bool,
    /// Whether all replicas were started anew since data of it was flushed that is not synced: the next sync has to
    /// refuse, though all of it is there.
    pub untold: bool,
}

/// What a look at a file showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeenFile {
    /// Size as the masters say.
    pub size: u64,
    /// Where `data` begins.
    pub base: u64,
    /// All bytes from there to the end.
    pub data: Vec<u8>,
    /// Ranges of `data` that answered EIO.
    pub bad: Vec<Range<usize>>,
}

fn subtract(from: &mut Vec<Range<usize>>, cut: &Range<usize>) {
    let parts = from
        .drain(..)
        .flat_map(|r| [r.start..r.end.min(cut.start).max(r.start), r.start.max(cut.end).min(r.end)..r.end]);
    *from = parts.filter(|r| r.start < r.end).collect();
}

impl FileState {
    /// Longest size that is possible, from the base.
    pub fn len(&self) -> usize {
        self.content.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    /// Whether the size is known.
    pub fn is_len_sure(&self) -> bool {
        self.min_len == self.content.len()
    }

    /// Content, as far as it is promised.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    fn forget(&mut self, range: &Range<usize>) {
        subtract(&mut self.loose, range);
        let marks = std::mem::take(&mut self.marks).into_iter().flat_map(|m| {
            let mut left = vec![m.range.clone()];
            subtract(&mut left, range);
            left.into_iter().map(move |range| Mark { range, ..m.clone() })
        });
        self.marks = marks.collect();
    }

    fn chunks_of(&self, r: &Range<usize>) -> Range<u64> {
        (self.base + r.start as u64) / CHUNK_BYTES..(self.base + r.end as u64).div_ceil(CHUNK_BYTES)
    }

    fn blocks_of(&self, r: &Range<usize>) -> Range<u64> {
        (self.base + r.start as u64) / BLOCK_BYTES..(self.base + r.end as u64).div_ceil(BLOCK_BYTES)
    }

    /// What a power failure may take together with a range that was not synced: nothing else of blocks
    /// that a sync had covered, whole blocks otherwise, whole chunks where no sync had reached any of it.
    fn taken_with(&self, r: &Range<usize>) -> Range<usize> {
        let block = BLOCK_BYTES as usize;
        let mut taken = r.clone();
        let blocks = self.blocks_of(r);
        if !self.solid.contains(&blocks.start) {
            taken.start = r.start / block * block;
        }
        if !self.solid.contains(&blocks.end.saturating_sub(1)) {
            taken.end = r.end.next_multiple_of(block);
        }
        for chunk in self.chunks_of(r).filter(|c| !self.durable.contains(c)) {
            let whole = self.range_of(chunk);
            taken = taken.start.min(whole.start)..taken.end.max(whole.end);
        }
        taken
    }

    fn range_of(&self, chunk: u64) -> Range<usize> {
        let at = |chunk: u64| (chunk * CHUNK_BYTES).saturating_sub(self.base) as usize;
        at(chunk)..at(chunk + 1)
    }

    /// What lay behind the end shows.
    fn grow(&mut self, len: usize) {
        let old = self.content.len();
        if old < len {
            Arc::make_mut(&mut self.content).resize(len, 0);
            let shown = self.beyond.iter().map(|r| r.start.max(old)..r.end.min(len));
            self.loose.extend(shown.filter(|r| r.start < r.end).collect::<Vec<_>>());
        }
    }

    /// A client took a write.
    pub fn write(&mut self, at: usize, data: &[u8], writer: u32) {
        let end = at + data.len();
        self.grow(end);
        let content = Arc::make_mut(&mut self.content);
        content[at..end].copy_from_slice(data);
        self.forget(&(at..end));
        subtract(&mut self.beyond, &(at..end));
        let mark = Mark { range: at..end, writer, flushed: false, lost: false, gone: false };
        self.marks.push(mark);
    }

    /// A flush or close of this writer was acknowledged.
    pub fn flushed(&mut self, writer: u32) {
        for m in self.marks.iter_mut().filter(|m| m.writer == writer) {
            m.flushed = true;
            self.min_len = self.min_len.max(m.range.end.min(self.content.len()));
        }
        // What a failed write had left of the size is settled only by what reaches its end.
        if self.loose.is_empty() {
            self.min_len = self.content.len();
        }
    }

    /// A sync of this writer was acknowledged. Errors: bytes of it are known to be gone.
    pub fn synced(&mut self, writer: u32) -> Result<(), String> {
        self.flushed(writer);
        let gone = self.marks.iter().find(|m| m.writer == writer && m.gone);
        if let Some(m) = gone {
            return Err(format!("a sync was acknowledged though bytes {:?} were lost", m.range));
        }
        let done = self.marks.iter().filter(|m| m.writer == writer).flat_map(|m| self.chunks_of(&m.range));
        let done: Vec<u64> = done.collect();
        for chunk in &done {
            if self.gone.remove(chunk) {
                let whole = self.range_of(*chunk);
                self.loose.push(whole.start..whole.end.min(self.content.len()));
            }
        }
        for m in self.marks.iter().filter(|m| m.writer == writer) {
            subtract(&mut self.loose, &m.range);
            self.solid.extend(self.blocks_of(&m.range));
        }
        self.durable.extend(done);
        self.marks.retain(|m| m.writer != writer);
        self.untold = false;
        Ok(())
    }

    /// A write, flush, sync or close of this writer failed: what was not flushed may be there or
    /// not, and of what was lost it has been told.
    pub fn failed(&mut self, writer: u32) {
        let (told, rest) = std::mem::take(&mut self.marks)
            .into_iter()
            .partition(|m: &Mark| m.writer == writer && (!m.flushed || m.lost || m.gone));
        self.marks = rest;
        // Whatever of it arrived is on no disk for sure, also once it was seen.
        let orphan = |m: &Mark| Mark { writer: NOBODY, flushed: true, lost: false, gone: false, ..m.clone() };
        self.marks.extend(told.iter().map(orphan));
        self.beyond.extend(told.iter().map(|m: &Mark| m.range.clone()));
        let taken = told.into_iter().map(|m| if m.lost { self.taken_with(&m.range) } else { m.range });
        let taken: Vec<_> = taken.collect();
        self.loose.extend(taken);
    }

    /// All replicas ended and were started anew, or may have been.
    pub fn restarted(&mut self) {
        self.untold |= self.marks.iter().any(|m| m.flushed);
    }

    /// All replicas lost power, or may have.
    pub fn power_failed(&mut self) {
        self.lossy |= !self.marks.is_empty();
        let gone = self.marks.iter().flat_map(|m| self.chunks_of(&m.range));
        let gone: Vec<_> = gone.filter(|c| !self.durable.contains(c)).collect();
        self.gone.extend(gone);
        self.marks.iter_mut().for_each(|m| m.lost = true);
    }

    /// The size was set and acknowledged.
    pub fn resized(&mut self, len: usize) {
        let old = self.content.len();
        // Where the old end was is not sure: nor is what a growth shows there.
        if !self.is_len_sure() && len > self.min_len {
            self.loose.push(self.min_len..old.min(len));
        }
        if len < self.min_len {
            // A cut reaches the chunks, whatever is in them.
            self.beyond.clear();
            let chunks = (self.base + len as u64).div_ceil(CHUNK_BYTES);
            self.durable.retain(|c| *c < chunks);
            let blocks = (self.base + len as u64).div_ceil(BLOCK_BYTES);
            self.solid.retain(|b| *b < blocks);
            self.gone.retain(|c| *c < chunks);
        }
        self.grow(len);
        Arc::make_mut(&mut self.content).truncate(len);
        self.min_len = len;
        self.forget(&(len..usize::MAX));
    }

    /// Whether anything is promised of a range.
    pub fn promises(&self, range: Range<usize>) -> bool {
        self.is_loose().iter().take(range.end).skip(range.start).any(|loose| !loose)
    }

    fn is_loose(&self) -> Vec<bool> {
        let mut loose = vec![false; self.content.len()];
        let lost = self.marks.iter().filter(|m| m.lost).map(|m| self.taken_with(&m.range));
        let gone = self.gone.iter().map(|c| self.range_of(*c));
        for r in self.loose.iter().cloned().chain(lost).chain(gone) {
            let end = r.end.min(loose.len());
            loose[r.start.min(end)..end].fill(true);
        }
        loose
    }

    /// Whether these bytes may be read at a position. Errors tell the first byte that may not.
    pub fn admits_at(&self, at: usize, data: &[u8], bad: &[Range<usize>]) -> Result<(), String> {
        let end = at + data.len();
        let Some(promised) = self.content.get(at..end) else {
            return Err(format!("{end} bytes, promised at most {}", self.content.len()));
        };
        if bad.is_empty() && promised == data {
            return Ok(());
        }
        let loose = self.is_loose();
        let is_bad = |i: usize| bad.iter().any(|b| b.contains(&i));
        let wrong = (0..data.len()).find(|i| !loose[at + i] && (is_bad(*i) || data[*i] != promised[*i]));
        match wrong {
            Some(i) if is_bad(i) => Err(format!("byte {} cannot be read", at + i)),
            Some(i) => Err(format!(
                "byte {} of {} is {:#04x}, promised {:#04x}",
                at + i,
                self.content.len(),
                data[i],
                promised[i]
            )),
            None => Ok(()),
        }
    }

    /// Whether a look may have shown this.
    pub fn admits(&self, seen: &SeenFile) -> Result<(), String> {
        if seen.data.len() < self.min_len || seen.data.len() > self.content.len() {
            let (min, max) = (self.min_len, self.content.len());
            return Err(format!("{} bytes from {}, promised {min} to {max}", seen.data.len(), seen.base));
        }
        if !seen.data.is_empty() && seen.base != self.base {
            return Err(format!("its content begins at {}, promised {}", seen.base, self.base));
        }
        self.admits_at(0, &seen.data, &seen.bad)
    }

    /// What was seen is what it holds from now on; bytes that could not be read stay loose.
    pub fn saw(&mut self, seen: &SeenFile) {
        for m in self.marks.iter_mut().filter(|m| m.lost) {
            let there = m.range.start..m.range.end.min(seen.data.len());
            let same = there.end == m.range.end && seen.data.get(there.clone()) == self.content.get(there);
            m.gone |= !same || !seen.bad.is_empty();
            m.lost = false;
        }
        self.content = Arc::new(seen.data.clone());
        self.min_len = seen.data.len();
        self.loose = seen.bad.clone();
        if seen.bad.is_empty() {
            self.gone.clear();
        }
    }

    /// A short word for reports.
    pub fn brief(&self) -> String {
        let sum = self.content.iter().fold(0u32, |h, x| h.wrapping_mul(31).wrapping_add(u32::from(*x)));
        format!(
            "{} to {} bytes #{sum:08x} at {}, loose {:?}, unsynced {:?}",
            self.min_len,
            self.content.len(),
            self.base,
            self.loose,
            self.marks.iter().map(|m| (m.range.clone(), m.lost)).collect::<Vec<_>>()
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "the list of ranges has one")]
    use super::*;

    fn seen(data: &[u8]) -> SeenFile {
        SeenFile { size: data.len() as u64, base: 0, data: data.to_vec(), bad: vec![] }
    }

    fn written(data: &[u8]) -> FileState {
        let mut f = FileState::default();
        f.write(0, data, 1);
        f.flushed(1);
        f
    }

    #[test]
    fn acknowledged_is_binding() {
        let f = written(b"xyz");
        assert!(f.admits(&seen(b"xyz")).is_ok());
        assert!(f.admits(&seen(b"xy")).is_err());
        assert!(f.admits(&seen(b"xyw")).is_err());
        let bad = SeenFile { bad: vec![0..3], ..seen(b"xyz") };
        assert!(f.admits(&bad).is_err());
    }

    #[test]
    fn a_power_failure_frees_only_what_was_not_synced() {
        let mut f = written(&[1; 5000]);
        f.synced(1).unwrap();
        f.write(4500, &[2; 10], 1);
        f.flushed(1);
        f.power_failed();
        assert!(f.lossy);
        let mut other = vec![1; 5000];
        assert!(f.admits(&seen(&other)).is_ok(), "the unsynced overwrite may be gone");
        other[4499] = 9;
        assert!(f.admits(&seen(&other)).is_err(), "what was synced in the same block is there");
        let bad = SeenFile { bad: vec![4096..5000], ..seen(&[1; 5000]) };
        assert!(f.admits(&bad).is_err(), "a block that was synced once is never torn");
        let mut fresh = written(&[1; 5000]);
        fresh.synced(1).unwrap();
        fresh.write(8192, &[2; 10], 1);
        fresh.power_failed();
        let mut torn = fresh.content().to_vec();
        torn[8195] = 7;
        assert!(fresh.admits(&seen(&torn)).is_ok(), "a new block may be anything");
    }

    #[test]
    fn a_sync_after_a_loss_binds_or_is_wrong() {
        let mut f = written(b"data");
        f.power_failed();
        assert!(f.admits(&seen(b"dxta")).is_ok());
        let mut synced = f.clone();
        synced.synced(1).unwrap();
        assert!(synced.admits(&seen(b"dxta")).is_err(), "the sync said that it is there");
        f.saw(&seen(b"dxta"));
        assert!(f.synced(1).is_err(), "it is gone, and the sync was acknowledged");
    }

    #[test]
    fn a_failed_write_leaves_its_bytes_and_the_size_open() {
        let mut f = written(b"abc");
        f.write(2, b"xyz", 1);
        f.failed(1);
        for ok in [&b"abc"[..], b"abxyz", b"abx"] {
            assert!(f.admits(&seen(ok)).is_ok(), "{ok:?}");
        }
        assert!(f.admits(&seen(b"abcdef")).is_err());
        assert!(f.admits(&seen(b"xbc")).is_err());
        f.saw(&seen(b"abxyz"));
        assert!(f.admits(&seen(b"abc")).is_err(), "it was seen otherwise");
    }

    #[test]
    fn what_a_dead_writer_left_behind_the_end_may_show_until_a_cut() {
        let mut f = written(b"ab");
        f.write(2, b"xyz", 1);
        f.failed(1);
        f.saw(&seen(b"ab"));
        let mut cut = f.clone();
        f.resized(4);
        assert!(f.admits(&seen(b"abxy")).is_ok() && f.admits(&seen(b"ab\0\0")).is_ok());
        cut.resized(1);
        cut.resized(4);
        assert!(cut.admits(&seen(b"a\0xy")).is_err() && cut.admits(&seen(b"a\0\0\0")).is_ok());
    }

    #[test]
    fn what_a_failed_writer_left_is_lost_with_the_power_also_when_it_was_seen() {
        let mut f = written(&[1; 5000]);
        f.synced(1).unwrap();
        f.write(4500, &[2; 10], 1);
        f.failed(1);
        f.saw(&seen(&[1; 5000]));
        f.power_failed();
        let mut there = vec![1; 5000];
        there[4500..4510].fill(2);
        assert!(f.admits(&seen(&there)).is_ok());
    }

    #[test]
    fn a_cut_and_a_growth_leave_zeros() {
        let mut f = written(b"abcdef");
        f.resized(2);
        f.resized(4);
        assert!(f.admits(&seen(b"ab\0\0")).is_ok());
        assert!(f.admits(&seen(b"abcd")).is_err());
    }
}
