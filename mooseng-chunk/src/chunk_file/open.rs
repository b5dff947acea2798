//! What a chunk's file says of itself when it is opened.

use super::*;

/// Stands for what was written and is not there.
const NO_BLOCK: u64 = u64::MAX;

impl ChunkFile {
    /// A chunk that is there. `None` when no header verifies. One that is said to be clean and was written to since
    /// its last sync is dirty ([`Self::dirty`]): its note was lost.
    pub fn open(
        file: Arc<dyn DiskFile>,
        dirty: bool,
        numbers: Arc<Mutex<Numbers>>,
    ) -> io::Result<Option<Self>> {
        let there = Self::open_as(file.clone(), dirty, numbers.clone())?;
        match there {
            Some(f) if !dirty && f.since.is_some() => Self::open_as(file, true, numbers),
            there => Ok(there),
        }
    }

    /// A chunk that is there, dirty or not as it is said to be.
    pub(super) fn open_as(
        file: Arc<dyn DiskFile>,
        dirty: bool,
        numbers: Arc<Mutex<Numbers>>,
    ) -> io::Result<Option<Self>> {
        let file_len = file.len()?;
        let page = |at: u64| -> io::Result<Vec<u8>> {
            let mut p = vec![0; PAGE];
            let there = file_len.saturating_sub(at).min(PAGE as u64) as usize;
            if there > 0 {
                file.read_at(at, &mut p[..there])?;
            }
            Ok(p)
        };
        let headers = [page(0)?, page(PAGE as u64)?];
        let Some((header, next_slot)) = Header::newest(&headers[0], &headers[1]) else {
            return Ok(None);
        };
        let rotten_header = headers.iter().any(|h| Header::decode(h).is_none());
        let (mut entries, mut lost_pages, mut since) = (Vec::new(), BTreeSet::new(), None);
        let mut pages = Vec::with_capacity(TABLE_PAGES);
        for n in 0..TABLE_PAGES {
            let slots = [page(page_at(n, 0))?, page(page_at(n, 1))?];
            let decoded = [0, 1].map(|slot| decode_page(header.id, n, &slots[slot]));
            let newest = (0..2)
                .filter_map(|slot| Some((decoded[slot].as_ref()?, slot)))
                .max_by_key(|((stamp, _), _)| *stamp)
                .filter(|((stamp, _), _)| *stamp >= header.stamps[n]);
            let mut place = PagePlace { slot: 1, stamp: header.stamps[n], fresh: false };
            let mut now = vec![None; ENTRIES];
            if let Some(((stamp, entries), slot)) = newest {
                (place.slot, place.stamp) = (slot, *stamp);
                now.clone_from(entries);
            } else if header.stamps[n] > 0 || (!dirty && slots.iter().flatten().any(|b| *b != 0)) {
                // A page that no sync knows has nothing that was synced: power tore its first writing.
                lost_pages.insert(n);
            }
            if place.stamp != header.written[n] && !lost_pages.contains(&n) {
                let since = since.get_or_insert_with(BTreeSet::new);
                if place.stamp < header.written[n] {
                    since.insert(NO_BLOCK);
                }
                let crc = |e: Option<Entry>| e.map(|e| e.now);
                let before = decoded[1 - place.slot].as_ref();
                let other = |i: &usize| before.and_then(|(_, p)| crc(p[*i])) != crc(now[*i]);
                since.extend((0..ENTRIES).filter(other).map(|i| (n * ENTRIES + i) as u64));
            }
            entries.extend(now);
            pages.push(place);
        }
        let mut header = header;
        let mut present = entries.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let mut behind_pages = BTreeSet::new();
        if dirty {
            // Writes since the last header made it longer: what has a checksum counts. The last
            // block is whole then; what a file has of it is the masters' to say.
            let data_end = file_len.saturating_sub(DATA_AT).min(present as u64 * BLOCK_BYTES);
            header.length = header.length.max(data_end);
            // Of what is behind the end power took the data: it was never synced.
            let blocks = header.length.div_ceil(BLOCK_BYTES) as usize;
            if present > blocks {
                behind_pages.extend(page_of(blocks as u64)..page_of(present as u64 - 1) + 1);
                present = blocks;
            }
        } else {
            for e in entries.iter_mut().flatten() {
                e.before = e.now;
            }
        }
        entries.truncate(present);
        entries.shrink_to_fit();
        numbers.lock().load(&header.writers);
        Ok(Some(Self {
            file,
            numbers,
            next_slot,
            entries,
            pages,
            anchored: false,
            images: BTreeMap::new(),
            logged: header.log_seq,
            in_place: dirty,
            behind: false,
            lost_pages,
            behind_pages,
            dirty,
            torn: dirty,
            since,
            rotten_header,
            twin_waits: false,
            file_len,
            header,
        }))
    }

    /// Whether all that was written to a file since its last sync is in these records of the log.
    pub fn is_as_logged(file: Arc<dyn DiskFile>, records: &[Record]) -> io::Result<bool> {
        let Some(f) = Self::open_as(file, false, Arc::default())? else { return Ok(true) };
        let logged = |block| records.iter().flat_map(|r| &r.images).any(|i| i.block == block);
        Ok(f.since.iter().flatten().all(|b| logged(*b)))
    }
}
