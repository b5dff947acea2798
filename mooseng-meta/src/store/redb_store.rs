//! All tables in one redb table, whose keys begin with the table's number: one handle per
//! transaction, one scan per snapshot.

use super::{Table, Tx, View, Visit, redb_backend::Backend, snapshot};
use crate::machine::{SnapshotReader, SnapshotWriter};
use mooseng_core::seam::Disk;
use parking_lot::RwLock;
use redb::{Database, Durability, ReadableDatabase as _, TableDefinition};
use std::{io, ops::Bound, sync::Arc};

pub(super) const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");
const FILE: &str = "state.redb";
const INCOMING: &str = "state.incoming";

/// Durable tables.
pub struct RedbStore {
    disk: Arc<dyn Disk>,
    cache_bytes: usize,
    db: Arc<RwLock<Arc<Database>>>,
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedbStore({})", self.disk.describe())
    }
}

/// Any redb error as an I/O error: what it means is the same, the node stops.
pub(super) fn io_err(e: impl Into<redb::Error>) -> io::Error {
    match e.into() {
        redb::Error::Io(e) => e,
        other => io::Error::other(other.to_string()),
    }
}

fn damaged(name: &str, e: redb::DatabaseError) -> io::Error {
    match e.into() {
        redb::Error::Io(e) => e,
        redb::Error::Corrupted(what) => io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{name} is damaged ({what}). Nothing is served from it: remove this master from the cluster, empty \
                 its directory and add it again, so that it is filled by the others; check the disk before"
            ),
        ),
        other => io_err(other),
    }
}

pub(super) fn open_db(disk: &Arc<dyn Disk>, name: &str, cache_bytes: usize) -> io::Result<Database> {
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let file = disk.create(name)?;
            disk.sync_dir("")?;
            file
        }
        Err(e) => return Err(e),
    };
    // Pages are not verified when they are read: all of them are looked at once, here.
    let db = redb::Builder::new()
        .set_cache_size(cache_bytes)
        .set_check_integrity_on_open(true)
        .create_with_backend(Backend(file))
        .map_err(|e| damaged(name, e))?;
    let txn = db.begin_write().map_err(io_err)?;
    txn.open_table(ROWS).map_err(io_err)?;
    txn.commit().map_err(io_err)?;
    Ok(db)
}

impl RedbStore {
    /// Opens the store in a directory, or makes it. Blocks: call it before serving.
    pub fn open(disk: Arc<dyn Disk>, cache_bytes: usize) -> io::Result<Self> {
        match disk.remove(INCOMING) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let db = Arc::new(RwLock::new(Arc::new(open_db(&disk, FILE, cache_bytes)?)));
        Ok(Self { disk, cache_bytes, db })
    }

    fn db(&self) -> Arc<Database> {
        self.db.read().clone()
    }

    /// The newest committed state, durable or not.
    pub fn view(&self) -> io::Result<RedbView> {
        let txn = self.db().begin_read().map_err(io_err)?;
        Ok(RedbView(txn.open_table(ROWS).map_err(io_err)?))
    }

    /// Runs `work` in a transaction: visible on return, durable at the next [`RedbStore::flush`].
    /// An error changes nothing.
    pub fn write<T>(&self, work: impl FnOnce(&mut dyn Tx) -> io::Result<T>) -> io::Result<T> {
        let mut txn = self.db().begin_write().map_err(io_err)?;
        txn.set_durability(Durability::None).map_err(|e| io::Error::other(e.to_string()))?;
        let done = {
            let table = txn.open_table(ROWS).map_err(io_err)?;
            work(&mut RedbTx(table))?
        };
        txn.commit().map_err(io_err)?;
        Ok(done)
    }

    /// Makes all that was written durable.
    pub fn flush(&self) -> io::Result<()> {
        let mut txn = self.db().begin_write().map_err(io_err)?;
        txn.set_durability(Durability::Immediate).map_err(|e| io::Error::other(e.to_string()))?;
        txn.set_quick_repair(true);
        txn.commit().map_err(io_err)
    }

    /// Reads the newest durable state piece by piece.
    pub fn snapshot(&self) -> io::Result<Box<dyn SnapshotReader>> {
        self.flush()?;
        Ok(Box::new(snapshot::Reader::new(self.view()?)?))
    }

    /// Receives a snapshot beside the state.
    pub fn receive(&self) -> io::Result<Box<dyn SnapshotWriter>> {
        match self.disk.remove(INCOMING) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let db = open_db(&self.disk, INCOMING, self.cache_bytes)?;
        let (disk, live) = (self.disk.clone(), self.db.clone());
        let install = move |db: Database| {
            // The file is complete and durable under its own name before it takes the state's.
            disk.rename(INCOMING, FILE)?;
            disk.sync_dir("")?;
            *live.write() = Arc::new(db);
            Ok(())
        };
        Ok(Box::new(snapshot::Writer::new(db, Box::new(install))))
    }
}

fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut k = Vec::with_capacity(1 + key.len());
    k.push(table as u8);
    k.extend_from_slice(key);
    k
}

fn get_in(
    rows: &impl redb::ReadableTable<&'static [u8], &'static [u8]>,
    table: Table,
    key: &[u8],
) -> io::Result<Option<Vec<u8>>> {
    Ok(rows.get(full_key(table, key).as_slice()).map_err(io_err)?.map(|v| v.value().to_vec()))
}

fn scan_in(
    rows: &impl redb::ReadableTable<&'static [u8], &'static [u8]>,
    table: Table,
    from: &[u8],
    to: &[u8],
    visit: Visit<'_>,
) -> io::Result<()> {
    if !to.is_empty() && from >= to {
        return Ok(());
    }
    let (from, to) =
        (full_key(table, from), if to.is_empty() { vec![table as u8 + 1] } else { full_key(table, to) });
    let range = (Bound::Included(from.as_slice()), Bound::Excluded(to.as_slice()));
    for row in rows.range::<&[u8]>(range).map_err(io_err)? {
        let (k, v) = row.map_err(io_err)?;
        if !visit(&k.value()[1..], v.value()) {
            break;
        }
    }
    Ok(())
}

/// A consistent view of a store.
pub struct RedbView(pub(super) redb::ReadOnlyTable<&'static [u8], &'static [u8]>);

impl std::fmt::Debug for RedbView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedbView")
    }
}

impl View for RedbView {
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        get_in(&self.0, table, key)
    }
    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> io::Result<()> {
        scan_in(&self.0, table, from, to, visit)
    }
}

struct RedbTx<'t>(redb::Table<'t, &'static [u8], &'static [u8]>);

impl View for RedbTx<'_> {
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        get_in(&self.0, table, key)
    }
    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> io::Result<()> {
        scan_in(&self.0, table, from, to, visit)
    }
}

impl Tx for RedbTx<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.0.insert(full_key(table, key).as_slice(), value).map_err(io_err)?;
        Ok(())
    }
    fn delete(&mut self, table: Table, key: &[u8]) -> io::Result<()> {
        self.0.remove(full_key(table, key).as_slice()).map_err(io_err)?;
        Ok(())
    }
}
