//! The notes of a disk: which chunks have writes that are not synced, and the highest term that was obeyed.
//! Blocking.
//!
//! A lost note would bless a replica that lacks acknowledged writes. redb tells of damage, but where the newest
//! commit is damaged it goes back to the one before; so a chunk's file tells by itself, too, that it was written to
//! since its last sync ([`crate::chunk_file::ChunkFile::open`]).

use mooseng_core::{
    ids::*,
    seam::{Disk, DiskFile},
};
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use std::{collections::BTreeSet, io, sync::Arc};

const FILE: &str = "dirty.redb";
const DIRTY: TableDefinition<'static, u64, ()> = TableDefinition::new("dirty");
const TERM: TableDefinition<'static, (), u64> = TableDefinition::new("term");
const LOGGED: TableDefinition<'static, (), u64> = TableDefinition::new("logged");

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

/// The notes as they are durable. One stays a while after its chunk was synced, so that who writes and syncs in
/// turns does not pay for a note each time: a note too many makes a crash suspect too much, never too little.
#[derive(Default)]
struct Marks {
    durable: BTreeSet<ChunkId>,
    /// Synced since the last look.
    young: BTreeSet<ChunkId>,
    /// Synced before, and not written since: their notes go with the next look.
    old: BTreeSet<ChunkId>,
}

/// What a start found noted.
pub(crate) struct Noted {
    /// Chunks that were dirty.
    pub marks: BTreeSet<ChunkId>,
    pub term: Term,
    /// Up to which record the redo log was durable when notes were last taken away: what is not noted is all there.
    pub logged: u64,
}

pub(crate) struct Notes {
    disk: Arc<dyn Disk>,
    /// None after a failure: redb takes no more from then on, and is opened anew for the next change.
    db: Mutex<Option<Database>>,
    marks: Mutex<Marks>,
    /// Chunks whose notes wait for a commit: one takes all of them.
    waiting: Mutex<BTreeSet<ChunkId>>,
}

impl Notes {
    /// Opens the notes, or begins new ones. `None` when there were none that can be believed: every chunk counts as
    /// dirty then, and [`Self::begin`] has to note that before anything is changed.
    pub fn open(disk: &Arc<dyn Disk>) -> io::Result<(Self, Option<Noted>)> {
        let (db, noted) = match disk.open(FILE) {
            Ok(file) => match open_db(file).and_then(|db| Ok((read(&db)?, db))) {
                Ok((noted, db)) => (Some(db), noted),
                // Nothing is wrong with them: they wait for room.
                Err(redb::Error::Io(e)) if e.kind() == io::ErrorKind::StorageFull => return Err(e),
                Err(e) => {
                    tracing::error!(disk = %disk.describe(), error = %e, "the notes of dirty chunks are damaged: all chunks are suspect");
                    disk.remove(FILE)?;
                    (None, None)
                }
            },
            // Lost, or never made: what is there counts as dirty. A new directory has nothing.
            Err(e) if e.kind() == io::ErrorKind::NotFound => (None, None),
            Err(e) => return Err(e),
        };
        let db = match db {
            Some(db) => db,
            None => {
                let db = open_db(disk.create(FILE)?).map_err(of_redb)?;
                disk.sync_dir("")?;
                db
            }
        };
        let marks = noted.as_ref().map(|n| n.marks.clone()).unwrap_or_default();
        let this = Self {
            disk: disk.clone(),
            db: Mutex::new(Some(db)),
            marks: Mutex::new(Marks { durable: marks, ..Marks::default() }),
            waiting: Mutex::default(),
        };
        Ok((this, noted))
    }

    /// Notes what a start found dirty. From then on the notes are believed; `believed` says that they were before.
    pub fn begin(&self, dirty: BTreeSet<ChunkId>, believed: bool) -> io::Result<()> {
        let fresh: BTreeSet<_> = dirty.difference(&self.marks.lock().durable).copied().collect();
        if believed && fresh.is_empty() { Ok(()) } else { self.note(fresh) }
    }

    /// Notes chunks durably.
    pub fn note(&self, chunks: BTreeSet<ChunkId>) -> io::Result<()> {
        self.change(|txn| {
            txn.open_table(TERM)?;
            let mut table = txn.open_table(DIRTY)?;
            chunks.iter().try_for_each(|id| table.insert(id.get(), ()).map(drop)).map_err(redb::Error::from)
        })?;
        self.marks.lock().durable.extend(chunks);
        Ok(())
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
        self.note(all)
    }

    /// A chunk's writes are on disk, or it is gone: its note may go.
    pub fn unmark(&self, id: ChunkId) {
        let mut m = self.marks.lock();
        if m.durable.contains(&id) {
            m.young.insert(id);
        }
    }

    /// Takes the notes away, durably, that were not needed since the last look; all that are not
    /// needed now when `all`. The redo log is durable up to `logged`, with all that these chunks have in it. Only on the
    /// commit lane.
    pub fn settle(&self, all: bool, logged: u64) -> io::Result<()> {
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
        self.change(|txn| {
            txn.open_table(LOGGED)?.insert((), logged)?;
            let mut table = txn.open_table(DIRTY)?;
            gone.iter().try_for_each(|id| table.remove(id.get()).map(drop)).map_err(redb::Error::from)
        })
    }

    /// Whether [`Self::settle`] has something to do.
    pub fn is_unsettled(&self) -> bool {
        let m = self.marks.lock();
        !m.young.is_empty() || !m.old.is_empty()
    }

    /// Keeps a term durably.
    pub fn keep_term(&self, term: Term) -> io::Result<()> {
        self.change(|txn| {
            txn.open_table(TERM)?.insert((), term.get())?;
            Ok(())
        })
    }

    /// One durable change. What fails has changed nothing, or is noted too much.
    fn change(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> io::Result<()> {
        let mut notes = self.db.lock();
        let db = match notes.take() {
            Some(db) => db,
            None => open_db(self.disk.open(FILE)?).map_err(of_redb)?,
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
}

/// What the device said stays what it is: a full disk is no broken one.
fn of_redb(e: redb::Error) -> io::Error {
    match e {
        redb::Error::Io(e) => e,
        e => io::Error::other(e.to_string()),
    }
}

fn open_db(file: Arc<dyn DiskFile>) -> Result<Database, redb::Error> {
    let mut builder = redb::Builder::new();
    // Pages are not verified when they are read: all of them are looked at once, here.
    Ok(builder
        .set_cache_size(1 << 20)
        .set_check_integrity_on_open(true)
        .create_with_backend(Backend(file))?)
}

/// What is noted; `None` in notes that were never begun.
fn read(db: &Database) -> Result<Option<Noted>, redb::Error> {
    let txn = db.begin_read()?;
    let table = match txn.open_table(DIRTY) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mut marks = BTreeSet::new();
    for row in table.iter()? {
        marks.insert(ChunkId(row?.0.value()));
    }
    let term = txn.open_table(TERM)?.get(())?.map_or(0, |t| t.value());
    let logged = match txn.open_table(LOGGED) {
        Ok(table) => table.get(())?.map_or(0, |n| n.value()),
        Err(TableError::TableDoesNotExist(_)) => 0,
        Err(e) => return Err(e.into()),
    };
    Ok(Some(Noted { marks, term: Term(term), logged }))
}
