//! One storage directory: whose it is, its chunk files, which chunks are dirty.

use crate::{
    chunk_file::ChunkFile,
    format::{Header, PAGE},
    notes::Notes,
    numbers::Numbers,
    redo::{self, Record, Redo},
};
use mooseng_core::{
    checksum::crc32c,
    ids::*,
    seam::{Disk, DiskFile, Lane, Rng, Seams},
    wire,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

const IDENTITY: &str = "identity";

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    cluster: ClusterId,
    server: ServerId,
    disk: DiskId,
}

/// Why a chunkserver did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A directory cannot be used.
    #[error("the directory {dir} cannot be used: {cause}")]
    Disk {
        /// Which.
        dir: String,
        /// Why.
        cause: io::Error,
    },
    /// A directory belongs to somebody else.
    #[error(
        "the directory {dir} belongs to {there}, not to {here}: give each chunkserver directories of its own"
    )]
    Foreign {
        /// Which.
        dir: String,
        /// Whose.
        there: String,
        /// Who came.
        here: String,
    },
    /// No directory was given.
    #[error("a chunkserver needs at least one directory")]
    NoDisks,
    /// The address cannot be listened on.
    #[error(transparent)]
    Net(#[from] mooseng_core::error::NetError),
}

/// A chunk found at the start.
pub(crate) struct FoundChunk {
    pub header: Header,
    pub dirty: bool,
    /// What the redo log has of it and could not be put into its file.
    pub owed: Vec<Record>,
}

/// A storage directory in use.
pub(crate) struct DataDisk {
    pub id: DiskId,
    pub disk: Arc<dyn Disk>,
    /// Reads and writes of chunk files.
    pub io: Arc<dyn Lane>,
    /// Fsyncs and dirty marks.
    pub commit: Arc<dyn Lane>,
    pub redo: Redo,
    pub notes: Notes,
    /// Chunks whose files were written to though nothing was noted: the masters are to hear of them.
    doubted: Mutex<BTreeSet<ChunkId>>,
    /// The highest term that was durable here at the start.
    pub term: Term,
    pub chunks: AtomicU64,
    pub errors: AtomicU64,
    pub last_error: Mutex<Option<String>>,
    /// The masters want it emptied.
    drains: AtomicBool,
    reserve: u64,
}

/// Errors after which a disk gets no new chunks and is reported.
const ERRORS_MAX: u64 = 3;

/// Path of a chunk's file, and its directory.
pub(crate) fn path_of(id: ChunkId) -> (String, String) {
    let dir = format!("chunks/{:02x}", id.get() & 0xff);
    (format!("{dir}/{:016x}", id.get()), dir)
}

impl DataDisk {
    /// Opens a directory; a new one becomes this server's. Blocks. Returns what is in it.
    pub fn open(
        disk: Arc<dyn Disk>,
        cluster: ClusterId,
        server: ServerId,
        new_id: DiskId,
        reserve: u64,
        seams: &Seams,
    ) -> Result<(Self, BTreeMap<ChunkId, FoundChunk>), StartError> {
        let failed = |cause| StartError::Disk { dir: disk.describe(), cause };
        let id = claim(&*disk, Identity { cluster, server, disk: new_id })?;
        let (notes, noted) = Notes::open(&disk).map_err(failed)?;
        let mut found = BTreeMap::new();
        for dir in disk.list_dirs("chunks").map_err(failed)? {
            for name in disk.list(&format!("chunks/{dir}")).map_err(failed)? {
                let path = format!("chunks/{dir}/{name}");
                let Ok(id) = u64::from_str_radix(&name, 16).map(ChunkId) else { continue };
                let is_dirty = noted.as_ref().is_none_or(|n| n.marks.contains(&id));
                match disk.open(&path).and_then(|f| header_of(&*f)) {
                    Ok(Some(header)) if header.id == id => {
                        found.insert(id, FoundChunk { header, dirty: is_dirty, owed: vec![] });
                    }
                    Ok(_) => tracing::error!(
                        path,
                        "no header of this chunk file verifies: it is left alone and not served"
                    ),
                    // The others are served all the same; this one is missed and repaired elsewhere.
                    Err(e) => tracing::error!(path, error = %e, "a chunk file cannot be read"),
                }
            }
        }
        let logged = noted.as_ref().map_or(0, |n| n.logged);
        let (redo, records) = look_back(&disk, &seams.rng, &mut found, logged).map_err(failed)?;
        // Before anything is changed that tells of it, and so that another start knows it, too.
        let dirty = found.iter().filter(|(_, f)| f.dirty).map(|(id, _)| *id).collect();
        notes.begin(dirty, noted.is_some()).map_err(failed)?;
        redo.hold(recover(&disk, &mut found, records, &notes).map_err(failed)?);
        let name = disk.describe();
        let this = Self {
            id,
            io: seams.lanes.lane(&format!("io {name}")),
            commit: seams.lanes.lane(&format!("commit {name}")),
            redo,
            disk,
            notes,
            doubted: Mutex::default(),
            term: noted.map_or(Term(0), |n| n.term),
            chunks: AtomicU64::new(found.len() as u64),
            errors: AtomicU64::new(0),
            last_error: Mutex::default(),
            drains: AtomicBool::new(false),
            reserve,
        };
        Ok((this, found))
    }

    /// Bytes: (total, free for chunks).
    pub fn space(&self) -> (u64, u64) {
        match self.disk.space() {
            Ok((total, free)) => (total, free.saturating_sub(self.reserve)),
            Err(e) => {
                self.failed(&e);
                (0, 0)
            }
        }
    }

    /// Counts an error of the device.
    pub fn failed(&self, e: &io::Error) {
        if e.kind() == io::ErrorKind::StorageFull {
            return;
        }
        self.errors.fetch_add(1, Ordering::Relaxed);
        tracing::error!(disk = %self.disk.describe(), error = %e, "disk error");
        *self.last_error.lock() = Some(e.to_string());
    }

    /// Why it was set aside, when it was.
    pub fn set_aside(&self) -> Option<String> {
        let many = self.errors.load(Ordering::Relaxed) >= ERRORS_MAX;
        many.then(|| self.last_error.lock().clone().unwrap_or_default())
    }

    /// The masters' order to empty it, or not to.
    pub fn drain(&self, on: bool) {
        if self.drains.swap(on, Ordering::Relaxed) != on {
            tracing::info!(disk = %self.disk.describe(), on, "the masters' order to empty a disk");
        }
    }

    /// Whether it is being emptied.
    pub fn drains(&self) -> bool {
        self.drains.load(Ordering::Relaxed)
    }

    /// Whether it gets new chunks.
    pub fn takes_new(&self) -> bool {
        !self.drains() && self.set_aside().is_none()
    }

    /// Puts into a chunk's file what a start could not.
    pub fn settle_owed(&self, id: ChunkId, owed: &mut Vec<Record>) -> io::Result<()> {
        if !owed.is_empty() {
            ChunkFile::redo(self.disk.open(&path_of(id).0)?, true, owed.clone())?;
            owed.clear();
            self.redo.release(id);
        }
        Ok(())
    }

    /// Opens a chunk's file, or makes it.
    pub fn load(
        &self,
        chunk: ChunkRef,
        create: Option<Vec<ServerId>>,
        dirty: bool,
        numbers: Arc<Mutex<Numbers>>,
    ) -> io::Result<Option<ChunkFile>> {
        let (path, dir) = path_of(chunk.id);
        match self.disk.open(&path) {
            Ok(file) => {
                let there = ChunkFile::open(file, dirty, numbers.clone())?;
                if there.is_some() || create.is_none() {
                    return Ok(there);
                }
                // Its header was lost with the power before the first sync. It is kept for people.
                self.disk.rename(&path, &format!("{path}.lost"))?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let Some(members) = create else { return Ok(None) };
        let log_seq = self.redo.last_seq();
        let made = match ChunkFile::create(self.disk.create(&path)?, chunk, members, log_seq, numbers) {
            Ok(made) => made,
            Err(e) => {
                // Without room for a header there is nothing to keep.
                self.disk.remove(&path)?;
                return Err(e);
            }
        };
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.disk.sync_dir(&dir)?;
        Ok(Some(made))
    }

    /// A chunk is not here any more. One that could not be made whole was not counted.
    pub fn uncount(&self) {
        let _ = self.chunks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }

    /// Removes a chunk's file.
    pub fn remove(&self, id: ChunkId) -> io::Result<()> {
        let (path, dir) = path_of(id);
        match self.disk.remove(&path) {
            Ok(()) => {
                self.uncount();
                self.disk.sync_dir(&dir)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        self.notes.unmark(id);
        self.redo.release(id);
        Ok(())
    }

    /// A chunk turned out to be a suspect, or older than it was: the masters are told.
    pub fn doubt(&self, id: ChunkId) {
        self.doubted.lock().insert(id);
    }

    /// Chunks of which that was found since the start.
    pub fn doubted(&self) -> Vec<ChunkId> {
        self.doubted.lock().iter().copied().collect()
    }
}

/// Records of the redo log by chunk.
type Records = BTreeMap<ChunkId, Vec<Record>>;

/// What the redo log has, and which chunks are dirty by it or though no note says so. Changes nothing.
fn look_back(
    disk: &Arc<dyn Disk>,
    rng: &Arc<dyn Rng>,
    found: &mut BTreeMap<ChunkId, FoundChunk>,
    logged: u64,
) -> io::Result<(Redo, Records)> {
    let seq = found.values().map(|f| f.header.log_seq).max().unwrap_or_default();
    let bytes = redo::segment_bytes(disk.space()?.0);
    let (redo, there) = Redo::open(disk.clone(), rng.clone(), bytes, (seq, logged))?;
    if there.damaged {
        tracing::error!(disk = %disk.describe(), "the redo log is damaged: all chunks are suspect");
        found.values_mut().for_each(|f| f.dirty = true);
    }
    let mut records = Records::new();
    for record in there.records {
        records.entry(record.chunk).or_default().push(record);
    }
    records.retain(|id, _| found.get(id).is_some_and(|f| f.header.version > ChunkVersion(0)));
    for (id, of_chunk) in &records {
        let Some(f) = found.get_mut(id).filter(|f| !f.dirty) else { continue };
        // What cannot be read is found when the records are put into it.
        let as_logged = disk.open(&path_of(*id).0).and_then(|file| ChunkFile::is_as_logged(file, of_chunk));
        if let Ok(false) = as_logged {
            tracing::error!(chunk = %id, "the file was written to beside the redo log, and no note says so: it is suspect");
            f.dirty = true;
        }
    }
    Ok((redo, records))
}

/// Puts what the redo log has into the chunk files. Answers for which there was no room.
fn recover(
    disk: &Arc<dyn Disk>,
    found: &mut BTreeMap<ChunkId, FoundChunk>,
    records: Records,
    notes: &Notes,
) -> io::Result<BTreeSet<ChunkId>> {
    let mut no_room = BTreeSet::new();
    for (id, records) in records {
        let Some(f) = found.get_mut(&id) else { continue };
        let file = disk.open(&path_of(id).0);
        match file.and_then(|file| ChunkFile::redo(file, f.dirty, records.clone())) {
            Ok(header) => f.header = header.unwrap_or_else(|| f.header.clone()),
            Err(e) => {
                tracing::error!(chunk = %id, error = %e, "what the redo log has cannot be written: the chunk is suspect, and this is tried again before anything else");
                (f.dirty, f.owed) = (true, records);
                if e.kind() == io::ErrorKind::StorageFull {
                    no_room.insert(id);
                }
                notes.note([id].into())?;
            }
        }
    }
    Ok(no_room)
}

fn header_of(file: &dyn DiskFile) -> io::Result<Option<Header>> {
    let mut pages = [vec![0; PAGE], vec![0; PAGE]];
    let len = file.len()?;
    for (i, p) in pages.iter_mut().enumerate() {
        if len >= ((i + 1) * PAGE) as u64 {
            file.read_at((i * PAGE) as u64, p)?;
        }
    }
    Ok(Header::newest(&pages[0], &pages[1]).map(|(h, _)| h))
}

/// Checks whose directory it is; a new one becomes ours. Returns the disk's id.
fn claim(disk: &dyn Disk, ours: Identity) -> Result<DiskId, StartError> {
    let failed = |cause| StartError::Disk { dir: disk.describe(), cause };
    match disk.open(IDENTITY) {
        Ok(file) => {
            let mut bytes = vec![0; file.len().map_err(failed)? as usize];
            file.read_at(0, &mut bytes).map_err(failed)?;
            let damaged = || {
                let cause = "its identity file is damaged, and nothing in it is used. When `mooseng status` tells of \
                             other copies of all chunks, empty the directory: it is filled from them";
                failed(io::Error::new(io::ErrorKind::InvalidData, cause))
            };
            let (body, crc) = bytes.split_last_chunk().ok_or_else(damaged)?;
            let theirs: Identity = match wire::decode(body) {
                Ok(theirs) if crc32c(body) == u32::from_le_bytes(*crc) => theirs,
                _ => return Err(damaged()),
            };
            if (theirs.cluster, theirs.server) == (ours.cluster, ours.server) {
                return Ok(theirs.disk);
            }
            let name = |i: &Identity| format!("chunkserver {} of cluster {}", i.server.get(), i.cluster);
            Err(StartError::Foreign { dir: disk.describe(), there: name(&theirs), here: name(&ours) })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            const NEW: &str = "identity.new";
            match disk.remove(NEW) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            }
            let file = disk.create(NEW).map_err(failed)?;
            let body = wire::encode(&ours);
            let bytes = [&body[..], &crc32c(&body).to_le_bytes()].concat();
            file.write_at(0, &bytes).map_err(failed)?;
            file.sync().map_err(failed)?;
            disk.rename(NEW, IDENTITY).map_err(failed)?;
            disk.sync_dir("").map_err(failed)?;
            Ok(ours.disk)
        }
        Err(e) => Err(failed(e)),
    }
}
