//! Looking at blocks as they are, and making a replica equal to another.

use super::*;

impl ChunkFile {
    /// Makes the entries of a range say what is on disk. Returns the damaged blocks.
    pub(super) fn settle(&mut self, blocks: Range<usize>) -> Vec<u64> {
        let mut damaged = Vec::new();
        for block in blocks.start..blocks.end.min(self.entries.len()) {
            let lost = self.lost_pages.contains(&page_of(block as u64));
            if self.entries[block].is_none() && !lost {
                continue;
            }
            if self.images.contains_key(&(block as u64)) {
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

    /// Whether the newest header may be lost, of a file that is said to be clean. Only power tears a header, and of
    /// such a file no more than the twin, which names what the other does. A file without the newest header has pages
    /// that are newer than it; where one of them is lost, too, nothing else would tell.
    pub fn may_be_older(&self) -> bool {
        self.rotten_header && !self.lost_pages.is_empty()
    }

    /// Whether one of the two headers did not verify.
    pub fn has_rotten_header(&self) -> bool {
        self.rotten_header
    }

    /// Writes the header anew that did not verify. Durable.
    pub fn mend_header(&mut self) -> io::Result<()> {
        self.anchor()?;
        self.put_header()?;
        self.flush_newest()?;
        self.rotten_header = false;
        Ok(())
    }

    /// Whether a block has nothing that a sync promised.
    fn was_never_synced(&self, block: u64) -> bool {
        let was_hole = self.entry(block).is_some_and(Entry::was_hole);
        !self.lost_pages.contains(&page_of(block)) && (was_hole || block * BLOCK_BYTES >= self.header.synced)
    }

    /// Settles all blocks and makes that durable: the chunk is good as it is but for the blocks
    /// returned, which are damaged. What power tore before a sync covered it is the hole that it was.
    pub fn settle_all(&mut self, redo: &Redo) -> io::Result<Vec<u64>> {
        let blocks = self.entries.len().max(self.header.length.div_ceil(BLOCK_BYTES) as usize);
        self.entries.resize(blocks, None);
        let (torn, damaged): (Vec<_>, _) =
            self.settle(0..blocks).into_iter().partition(|b| self.was_never_synced(*b));
        for block in torn {
            self.make_hole(block..block + 1)?;
        }
        self.sync_file(redo)?;
        Ok(damaged)
    }

    /// What was written before does not count: it is taken again when it comes. Before the content goes.
    pub fn forget_numbers(&mut self) {
        self.numbers.lock().replace(vec![]);
        self.header.writers.clear();
    }

    /// Before a copy changes anything: the replica is of no version until the copy is whole, so that
    /// nobody can take a half for it. Durable.
    pub fn begin_copy(&mut self) -> io::Result<()> {
        // Whatever the log has of it is void from now on, and nothing goes there any more.
        self.put_images()?;
        self.forget_numbers();
        self.header.version = ChunkVersion(0);
        self.header.log_seq = self.logged;
        self.harden()?;
        self.flush_header()
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
            if let Some(image) = self.images.get(&block) {
                blocks.push(Some(image.crc));
                continue;
            }
            let crc = match entry {
                None if !lost => None,
                Some(e) if !self.dirty => Some(e.now),
                _ => match self.verify(block, &self.raw(block * BLOCK_BYTES, PAGE)?) {
                    Ok(crc) => crc,
                    Err(FileError::Io(e)) => return Err(e),
                    Err(_) => {
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
                && !self.images.contains_key(&(block as u64))
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
    pub fn set_length(&mut self, length: u64, redo: &Redo) -> Result<(), FileError> {
        if length < self.header.length {
            self.cut(length, redo)?;
        }
        self.header.length = length;
        Ok(())
    }
}
