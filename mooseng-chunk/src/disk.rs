//! One storage directory: whose it is, its chunk files, which chunks are dirty.

use crate::{
    chunk_file::ChunkFile,
    format::{Header, PAGE},
    numbers::Numbers,
    redo::{self, Redo},
};
use mooseng_core::{
    ids::*,
    seam::{Disk, DiskFile, Lane, Seams},
    wire,
};
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
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
const DIRTY_FILE: &str = "dirty.redb";
const DIRTY: TableDefinition<'static, u64, ()> = TableDefinition::new("dirty");
const TERM: TableDefinition<'static, (), u64> = TableDefinition::new("term");

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

#[derive(Debug)]
struct Backend(Arc<dyn DiskFile>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

/// A chunk found at the start.
pub(crate) struct FoundChunk {
    pub header: Header,
    pub dirty: bool,
}

/// The notes of dirty chunks, as they are durable. A note stays a while after its chunk was synced, so
/// that one who writes and syncs in turns does not pay for a note each time: a note too many makes a
/// crash suspect too much, never too little.
#[derive(Default)]
struct Marks {
    durable: BTreeSet<ChunkId>,
    /// Synced since the last look.
    young: BTreeSet<ChunkId>,
    /// Synced before, and not written since: their notes go with the next look.
    old: BTreeSet<ChunkId>,
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
    /// None after a failure: redb takes no more from then on, and is opened anew for the next change.
    notes: Mutex<Option<Database>>,
    marks: Mutex<Marks>,
    /// Chunks whose notes wait for a commit: one takes all of them.
    waiting: Mutex<BTreeSet<ChunkId>>,
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

fn other(e: impl std::fmt::Display) -> io::Error {
    io::Error::other(e.to_string())
}

/// What the device said stays what it is: a full disk is no broken one.
fn of_redb(e: redb::Error) -> io::Error {
    match e {
        redb::Error::Io(e) => e,
        e => other(e),
    }
}

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
        let (dirty, rebuilt) = open_dirty(&disk).map_err(failed)?;
        let (marked, term) = read_notes(&dirty).map_err(|e| failed(other(e)))?;
        let mut found = BTreeMap::new();
        for dir in disk.list_dirs("chunks").map_err(failed)? {
            for name in disk.list(&format!("chunks/{dir}")).map_err(failed)? {
                let path = format!("chunks/{dir}/{name}");
                let Ok(id) = u64::from_str_radix(&name, 16).map(ChunkId) else { continue };
                let is_dirty = rebuilt || marked.contains(&id);
                match disk.open(&path).and_then(|f| header_of(&*f)) {
                    Ok(Some(header)) if header.id == id => {
                        found.insert(id, FoundChunk { header, dirty: is_dirty });
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
        let redo = recover(&disk, &mut found).map_err(failed)?;
        let name = disk.describe();
        let this = Self {
            id,
            io: seams.lanes.lane(&format!("io {name}")),
            commit: seams.lanes.lane(&format!("commit {name}")),
            redo,
            disk,
            notes: Mutex::new(Some(dirty)),
            marks: Mutex::new(Marks { durable: marked, ..Marks::default() }),
            waiting: Mutex::default(),
            term,
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

    /// Whether a chunk that is written to again still has its durable note; it stays then.
    pub fn is_marked(&self, id: ChunkId) -> bool {
        let mut m = self.marks.lock();
        m.young.remove(&id);
        m.old.remove(&id);
        m.durable.contains(&id)
    }

    /// Announces a note, so that whichever commit comes first takes it along.
    pub fn announce(&self, id: ChunkId) {
        self.waiting.lock().insert(id);
    }

    /// Notes durably that a chunk has writes that are not synced, with all notes that wait. Only on
    /// the commit lane, as all that takes notes away.
    pub fn mark(&self, id: ChunkId) -> io::Result<()> {
        let mut all = std::mem::take(&mut *self.waiting.lock());
        if self.is_marked(id) {
            self.waiting.lock().extend(all);
            return Ok(());
        }
        all.insert(id);
        self.change_notes(|txn| {
            let mut table = txn.open_table(DIRTY)?;
            all.iter().try_for_each(|id| table.insert(id.get(), ()).map(drop)).map_err(redb::Error::from)
        })?;
        self.marks.lock().durable.extend(all);
        Ok(())
    }

    /// A chunk's writes are on disk, or it is gone: its note may go.
    pub fn unmark(&self, id: ChunkId) {
        let mut m = self.marks.lock();
        if m.durable.contains(&id) {
            m.young.insert(id);
        }
    }

    /// Takes the notes away, durably, that were not needed since the last look; all that are not
    /// needed now when `all`. Only on the commit lane.
    pub fn settle_marks(&self, all: bool) -> io::Result<()> {
        let gone = {
            let mut m = self.marks.lock();
            let young = std::mem::take(&mut m.young);
            let mut gone = std::mem::replace(&mut m.old, young);
            if all {
                gone.append(&mut m.old);
            }
            // Whoever writes from here on notes it anew, behind this on the lane.
            m.durable.retain(|id| !gone.contains(id));
            gone
        };
        if gone.is_empty() {
            return Ok(());
        }
        self.change_notes(|txn| {
            let mut table = txn.open_table(DIRTY)?;
            gone.iter().try_for_each(|id| table.remove(id.get()).map(drop)).map_err(redb::Error::from)
        })
    }

    /// One durable change of the notes. What fails has changed nothing, or is noted too much.
    fn change_notes(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> io::Result<()> {
        let mut notes = self.notes.lock();
        let db = match notes.take() {
            Some(db) => db,
            None => begin_notes(self.disk.open(DIRTY_FILE)?).map_err(of_redb)?,
        };
        let done = || -> Result<(), redb::Error> {
            let txn = db.begin_write()?;
            change(&txn)?;
            Ok(txn.commit()?)
        };
        done().map_err(of_redb)?;
        *notes = Some(db);
        Ok(())
    }

    /// Whether [`Self::settle_marks`] has something to do.
    pub fn is_unsettled(&self) -> bool {
        let m = self.marks.lock();
        !m.young.is_empty() || !m.old.is_empty()
    }

    /// Keeps a term durably.
    pub fn keep_term(&self, term: Term) -> io::Result<()> {
        self.change_notes(|txn| {
            txn.open_table(TERM)?.insert((), term.get())?;
            Ok(())
        })
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
        self.unmark(id);
        Ok(())
    }
}

/// Puts what the redo log has into the chunk files.
fn recover(disk: &Arc<dyn Disk>, found: &mut BTreeMap<ChunkId, FoundChunk>) -> io::Result<Redo> {
    let seq = found.values().map(|f| f.header.log_seq).max().unwrap_or_default();
    let bytes = redo::segment_bytes(disk.space()?.0);
    let (redo, there) = Redo::open(disk.clone(), bytes, seq)?;
    if there.damaged {
        tracing::error!(disk = %disk.describe(), "the redo log is damaged: all chunks are suspect");
        found.values_mut().for_each(|f| f.dirty = true);
    }
    let mut of_chunk: BTreeMap<ChunkId, Vec<_>> = BTreeMap::new();
    for record in there.records {
        of_chunk.entry(record.chunk).or_default().push(record);
    }
    for (id, records) in of_chunk {
        let Some(f) = found.get_mut(&id).filter(|f| f.header.version > ChunkVersion(0)) else { continue };
        let file = disk.open(&path_of(id).0);
        match file.and_then(|file| ChunkFile::redo(file, f.dirty, records)) {
            Ok(header) => f.header = header.unwrap_or_else(|| f.header.clone()),
            Err(e) => {
                tracing::error!(chunk = %id, error = %e, "what the redo log has cannot be written: the chunk is suspect");
                f.dirty = true;
            }
        }
    }
    Ok(redo)
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

fn read_notes(db: &Database) -> Result<(BTreeSet<ChunkId>, Term), redb::Error> {
    let txn = db.begin_read()?;
    let table = txn.open_table(DIRTY)?;
    let mut marks = BTreeSet::new();
    for row in table.iter()? {
        marks.insert(ChunkId(row?.0.value()));
    }
    let term = txn.open_table(TERM)?.get(())?.map_or(0, |t| t.value());
    Ok((marks, Term(term)))
}

fn begin_notes(file: Arc<dyn DiskFile>) -> Result<Database, redb::Error> {
    let db = redb::Builder::new().set_cache_size(1 << 20).create_with_backend(Backend(file))?;
    let txn = db.begin_write()?;
    txn.open_table(DIRTY)?;
    txn.open_table(TERM)?;
    txn.commit()?;
    Ok(db)
}

/// Opens the notes of dirty chunks. One that is damaged is begun anew, and every chunk counts as
/// dirty then.
fn open_dirty(disk: &Arc<dyn Disk>) -> io::Result<(Database, bool)> {
    match disk.open(DIRTY_FILE) {
        Ok(file) => match begin_notes(file) {
            Ok(db) => return Ok((db, false)),
            // Nothing is wrong with them: they wait for room.
            Err(redb::Error::Io(e)) if e.kind() == io::ErrorKind::StorageFull => return Err(e),
            Err(e) => {
                tracing::error!(disk = %disk.describe(), error = %e, "the notes of dirty chunks are damaged: all chunks are suspect");
                disk.remove(DIRTY_FILE)?;
            }
        },
        // Lost, or never made: what is there counts as dirty. A new directory has nothing.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let db = begin_notes(disk.create(DIRTY_FILE)?).map_err(of_redb)?;
    disk.sync_dir("")?;
    Ok((db, true))
}

/// Checks whose directory it is; a new one becomes ours. Returns the disk's id.
fn claim(disk: &dyn Disk, ours: Identity) -> Result<DiskId, StartError> {
    let failed = |cause| StartError::Disk { dir: disk.describe(), cause };
    match disk.open(IDENTITY) {
        Ok(file) => {
            let mut bytes = vec![0; file.len().map_err(failed)? as usize];
            file.read_at(0, &mut bytes).map_err(failed)?;
            let theirs: Identity = wire::decode(&bytes)
                .map_err(|e| failed(other(format!("its identity file is damaged: {e}"))))?;
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
            file.write_at(0, &wire::encode(&ours)).map_err(failed)?;
            file.sync().map_err(failed)?;
            disk.rename(NEW, IDENTITY).map_err(failed)?;
            disk.sync_dir("").map_err(failed)?;
            Ok(ours.disk)
        }
        Err(e) => Err(failed(e)),
    }
}
