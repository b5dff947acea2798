//! The writing side of the log: one lane writes and syncs for everybody who waits, batch by batch.

use super::segment::{
    CarriedState, HEADER_BYTES, Header, LogPos, RECORD_BYTES, Record, encode_record, record_len,
};
use super::vote::{self, Votes};
use mooseng_core::planted::{self, Bug};
use mooseng_core::seam::{Disk, DiskFile};
use std::{collections::BTreeMap, io, sync::Arc};

/// Directory of the segments.
pub const LOG_DIR: &str = "raft/log";
/// Directory of the vote and the snapshot.
pub const RAFT_DIR: &str = "raft";
/// The vote's file.
pub const VOTE_FILE: &str = "raft/vote";
/// The file of the starts of the masters, of the vote's format.
pub const STARTS_FILE: &str = "raft/starts";

/// Name of a segment's file.
pub fn segment_file(id: u64) -> String {
    format!("{LOG_DIR}/{id:016x}.log")
}

/// The number of a segment by its file's name within the directory.
pub fn segment_id(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".log")?;
    (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok()).flatten()
}

/// All bytes of a file.
pub fn read_whole(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Opens a file of two slots, and makes it when there is none.
pub fn open_slots(disk: &Arc<dyn Disk>, name: &str) -> io::Result<(Arc<dyn DiskFile>, Votes)> {
    match disk.open(name) {
        Ok(file) => {
            let slots = vote::judge(&read_whole(&*file)?);
            Ok((file, slots))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let file = disk.create(name)?;
            file.allocate(vote::FILE_BYTES)?;
            file.sync()?;
            disk.sync_dir(RAFT_DIR)?;
            Ok((file, Votes::Empty))
        }
        Err(e) => Err(e),
    }
}

/// Writes into both slots, each durable before the next.
pub fn write_slots(file: &dyn DiskFile, sequence: u64, bytes: &[u8]) -> io::Result<()> {
    let slot = vote::encode(sequence, bytes);
    for at in [0, vote::SLOT_BYTES] {
        file.write_at(at, &slot)?;
        file.sync()?;
    }
    Ok(())
}

/// A segment that exists.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its file.
    pub file: Arc<dyn DiskFile>,
    /// The highest index of any entry in it.
    pub last_index: Option<u64>,
}

/// Where the next batch goes.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    /// The segment.
    pub segment: u64,
    /// The place in it.
    pub at: u64,
    /// The segment's length.
    pub bytes: u64,
}

/// Writes batches and votes. Used on one lane only.
#[derive(Debug)]
pub struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) cursor: Option<Cursor>,
    pub(super) last_segment: u64,
    pub(super) next_batch: u64,
    pub(super) segment_bytes: u64,
    pub(super) vote_file: Arc<dyn DiskFile>,
    pub(super) vote_sequence: u64,
}

/// Where a written record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// In which segment.
    pub segment: u64,
    /// Where its record begins.
    pub at: u64,
}

impl Writer {
    /// Writes `records` as one batch and makes it durable. `state` is the carried state as it was
    /// before the batch, for the header of a segment that begins with it.
    pub fn batch(&mut self, records: &[Record], state: CarriedState) -> io::Result<Vec<Written>> {
        let need: u64 = records.iter().map(|r| record_len(r.data.len()) as u64).sum();
        let cursor = self.room(need, state)?;
        let mut bytes = Vec::with_capacity(need as usize);
        let mut places = Vec::with_capacity(records.len());
        for (i, record) in records.iter().enumerate() {
            places.push(Written { segment: cursor.segment, at: cursor.at + bytes.len() as u64 });
            encode_record(&mut bytes, cursor.segment, self.next_batch, i + 1 == records.len(), record);
        }
        let segment = self.segments.get_mut(&cursor.segment).expect("the cursor is in a segment");
        segment.file.write_at(cursor.at, &bytes)?;
        if !planted::is(Bug::LogSyncSkipped) {
            segment.file.sync()?;
        }
        let highest = records.iter().filter(|r| r.kind.is_entry()).map(|r| r.pos.index).max();
        segment.last_index = segment.last_index.max(highest);
        self.next_batch += 1;
        self.cursor = Some(Cursor { at: cursor.at + need, ..cursor });
        Ok(places)
    }

    /// The cursor, in a segment with room for `need` bytes.
    fn room(&mut self, need: u64, state: CarriedState) -> io::Result<Cursor> {
        if let Some(cursor) = self.cursor
            && cursor.at + need <= cursor.bytes
        {
            return Ok(cursor);
        }
        self.new_segment(self.segment_bytes.max(HEADER_BYTES as u64 + need), state)
    }

    /// Begins a new segment, whose header carries `state`.
    pub fn begin_segment(&mut self, state: CarriedState) -> io::Result<()> {
        self.new_segment(self.segment_bytes, state).map(|_| ())
    }

    fn new_segment(&mut self, bytes: u64, state: CarriedState) -> io::Result<Cursor> {
        let id = self.last_segment + 1;
        let header = Header { id, first_batch: self.next_batch, bytes, state };
        let temporary = format!("{LOG_DIR}/new.tmp");
        match self.disk.remove(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.disk.create(&temporary)?;
        file.allocate(bytes)?;
        file.write_at(0, &header.encode())?;
        file.sync()?;
        // A segment's name appears with its header durable: a bad header is damage, never a crash.
        self.disk.rename(&temporary, &segment_file(id))?;
        self.disk.sync_dir(LOG_DIR)?;
        self.segments.insert(id, Segment { file, last_index: None });
        self.last_segment = id;
        let cursor = Cursor { segment: id, at: HEADER_BYTES as u64, bytes };
        self.cursor = Some(cursor);
        Ok(cursor)
    }

    /// Writes the vote, durable on return.
    pub fn vote(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.vote_sequence += 1;
        write_slots(&*self.vote_file, self.vote_sequence, bytes)
    }

    /// Removes the oldest segments as far as all their entries are purged, one by one, so that
    /// what is left has no gap whenever it stops. The purge is durable.
    pub fn remove_purged(&mut self, purged: LogPos) -> io::Result<()> {
        while let Some((&id, segment)) = self.segments.first_key_value() {
            if id == self.last_segment || segment.last_index.is_some_and(|i| i > purged.index) {
                break;
            }
            self.disk.remove(&segment_file(id))?;
            self.disk.sync_dir(LOG_DIR)?;
            self.segments.remove(&id);
        }
        Ok(())
    }

    /// Reads the data of the record at `at`, checked.
    pub fn read(file: &dyn DiskFile, place: &super::recover::Place, index: u64) -> io::Result<bytes::Bytes> {
        let mut buffer = vec![0; record_len(place.len as usize)];
        file.read_at(place.at, &mut buffer)?;
        let found = super::segment::record_at(&buffer, 0, place.segment)
            .filter(|f| f.pos == LogPos { term: place.term, index } && f.kind == place.kind);
        if found.is_none() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("entry {index} of the Raft log (segment {:016x}) is damaged on disk", place.segment),
            ));
        }
        Ok(bytes::Bytes::from(buffer).slice(RECORD_BYTES..RECORD_BYTES + place.len as usize))
    }
}
