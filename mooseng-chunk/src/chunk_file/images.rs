//! Writes over synced blocks: their images wait in memory and in the disk's redo log, and are put into the
//! file when they are durable in the log.

use super::*;
use crate::redo::Origin;

/// Blocks of one chunk that wait in memory at most.
const WAITING_MAX: usize = (4 << 20) / PAGE;

impl ChunkFile {
    /// Whether a sync promised this block as it is. A copy that is being made promises nothing.
    pub(super) fn is_synced(&self, block: u64) -> bool {
        self.images.contains_key(&block)
            || (self.header.version > ChunkVersion(0) && self.entry(block).is_some_and(|e| e.before == e.now))
    }

    /// The block as it is with `data` at a place of it, the old content verified.
    pub(super) fn merged(&self, block: u64, at: u64, data: &[u8]) -> Result<Image, FileError> {
        let mut content = match self.images.get(&block) {
            Some(image) => image.bytes.to_vec(),
            None => {
                let content = self.raw(block * BLOCK_BYTES, PAGE)?;
                self.verify(block, &content)?;
                content
            }
        };
        let from = (at - block * BLOCK_BYTES) as usize;
        content[from..from + data.len()].copy_from_slice(data);
        Ok(Image { block, crc: block_crc(self.header.id, block, &content), bytes: content.into() })
    }

    /// Puts images into the log.
    pub(super) fn log(
        &mut self,
        redo: &Redo,
        length: u64,
        writer: Option<Writer>,
        images: Vec<Image>,
    ) -> Result<(), FileError> {
        let after = if self.in_place { Origin::IN_PLACE } else { self.logged };
        let writers = self.numbers.lock().with(writer);
        if writers.len() > 1 {
            // A header that is older than what the record goes on from would leave out whose write comes first.
            self.flush_header()?;
        }
        self.logged = redo.append(self.header.id, length, &Origin { writers, after }, &images)?;
        self.behind = true;
        self.images.extend(images.into_iter().map(|i| (i.block, i)));
        Ok(())
    }

    /// Keeps the memory of images bounded.
    pub(super) fn bound_images(&mut self, redo: &Redo) -> io::Result<()> {
        if self.images.len() > WAITING_MAX { self.apply_images(redo) } else { Ok(()) }
    }

    /// Makes the images durable in the log, then puts them into the file, which is not durable there.
    pub(super) fn apply_images(&mut self, redo: &Redo) -> io::Result<()> {
        if self.images.is_empty() {
            return Ok(());
        }
        redo.sync(self.logged)?;
        match self.put_images() {
            // They are durable, and wait for room.
            Err(e) if e.kind() == io::ErrorKind::StorageFull => Ok(()),
            done => done,
        }
    }

    /// Puts the images into the file.
    pub(super) fn put_images(&mut self) -> io::Result<()> {
        let mut pages = BTreeSet::new();
        for (block, image) in &self.images {
            pages.insert(page_of(*block));
            let index = *block as usize;
            if self.entries.len() <= index {
                self.entries.resize(index + 1, None);
            }
            let (old, now) = (self.entries[index], image.crc);
            self.entries[index] = Some(match old {
                // Another try has written the entry, and may not have come to the data.
                Some(o) if o.now == now => o,
                Some(o) => Entry { now, before: o.now },
                None => Entry::over_hole(now),
            });
        }
        for page in pages {
            self.write_pages(page..page + 1)?;
        }
        for image in self.images.values() {
            let at = DATA_AT + image.block * BLOCK_BYTES;
            self.file.write_at(at, &image.bytes)?;
            self.file_len = self.file_len.max(at + PAGE as u64);
        }
        for block in std::mem::take(&mut self.images).into_keys() {
            if let Some(e) = &mut self.entries[block as usize] {
                e.before = e.now;
            }
        }
        Ok(())
    }

    /// Whether the log has what is not durable in the file.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Makes what the log has of this chunk durable in the file, so that the log may forget it.
    pub fn catch_up(&mut self, redo: &Redo) -> io::Result<()> {
        if !self.behind {
            return Ok(());
        }
        redo.sync(self.logged)?;
        self.put_images()?;
        self.harden()
    }

    /// Puts into a file what the log has of it, before anything else is done with it. Answers the header when there
    /// was anything.
    /// Durable, so that it is not done again.
    pub fn redo(file: Arc<dyn DiskFile>, dirty: bool, records: Vec<Record>) -> io::Result<Option<Header>> {
        let numbers = Arc::default();
        let Some(mut f) = Self::open_as(file, dirty, Arc::clone(&numbers))? else { return Ok(None) };
        let applied = f.header.log_seq;
        let mut complete = applied;
        for record in records.into_iter().filter(|r| r.seq > applied) {
            f.logged = record.seq;
            f.header.length = f.header.length.max(record.length);
            // Behind a write that is not there, numbers are no proof of those before.
            if record.origin.after <= complete {
                complete = record.seq;
                numbers.lock().set(record.origin.writers);
            }
            for image in record.images {
                // The other blocks of a lost page would become holes.
                if !f.lost_pages.contains(&page_of(image.block)) {
                    f.images.insert(image.block, image);
                }
            }
        }
        if f.logged == applied {
            return Ok(None);
        }
        f.put_images()?;
        f.harden()?;
        f.flush_header()?;
        Ok(Some(f.header))
    }
}
